# SPDX-License-Identifier: MIT
"""polyshm.Once: a function that is run by one, once; if that one dies, by the next."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time

import polyshm
import pytest
from elsewhere import in_child, in_thread


@pytest.fixture
def once(arena):
    return arena.once("table")


def test_names(arena, once) -> None:
    assert (once.name, repr(once)) == ("table", f"<polyshm.Once 'table' of {arena!r}>")
    assert isinstance(arena["table"], polyshm.Once)
    with pytest.raises(TypeError):
        polyshm.Once()
    with pytest.raises(TypeError):
        arena.once()


def test_run(once) -> None:
    ran: list[int] = []
    assert once.done() is False
    assert once.run(lambda: ran.append(1)) is True
    assert once.done() is True
    assert once.run(lambda: ran.append(2)) is False
    assert once.run(function=lambda: ran.append(3), timeout=1) is False
    assert in_thread(lambda: once.run(lambda: ran.append(4))) is False
    assert in_child(lambda: os._exit(once.run(os.abort))) == 0
    assert ran == [1]
    for bad in (None, 1):
        with pytest.raises(TypeError, match="function must be callable"):
            once.run(bad)


def test_a_function_that_raises(once) -> None:
    with pytest.raises(KeyError):
        once.run(lambda: {}["x"])
    assert once.done() is False
    assert once.run(lambda: None) is True


def test_in_itself(once) -> None:
    def again() -> None:
        with pytest.raises(RuntimeError):
            once.run(lambda: None)

    assert once.run(again) is True


def test_others_wait(once) -> None:
    begun, go, ran = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        assert go.wait(30)
        ran.append(1)

    runner = threading.Thread(target=once.run, args=(slow,))
    runner.start()
    assert begun.wait(30)
    with pytest.raises(TimeoutError):
        once.run(lambda: ran.append(2), timeout=0.02)
    with pytest.raises(TimeoutError):
        once.run(lambda: ran.append(2), 0)
    got: list[bool] = []
    others = [threading.Thread(target=lambda: got.append(once.run(lambda: ran.append(3)))) for _ in range(3)]
    for other in others:
        other.start()
    time.sleep(0.02)
    assert got == []
    go.set()
    for thread in (runner, *others):
        thread.join()
    assert (got, ran) == ([False] * 3, [1])


def test_the_runner_dies(arena, once) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:

        def slow() -> None:
            os.write(write, b"x")
            time.sleep(60)

        once.run(slow)
        os._exit(1)
    assert os.read(read, 1) == b"x"
    os.close(read)
    os.close(write)
    threading.Timer(0.05, os.kill, [pid, signal.SIGKILL]).start()
    ran: list[int] = []
    assert once.run(lambda: ran.append(1), 30) is True
    os.waitpid(pid, 0)
    assert (once.done(), ran, arena.check()) == (True, [1], [])


def test_signals(once) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    begun, go = threading.Event(), threading.Event()
    runner = threading.Thread(target=once.run, args=(lambda: (begun.set(), go.wait(30)),))
    runner.start()
    assert begun.wait(30)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(InterruptedError):
            once.run(lambda: None)
    finally:
        signal.signal(signal.SIGALRM, before)
    go.set()
    runner.join()
    assert once.done()


def make(once: polyshm.Once, made: polyshm.Counter) -> None:
    once.run(made.add)
    assert made.load() == 1


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(method: str, arena, once) -> None:
    context = multiprocessing.get_context(method)
    children = [context.Process(target=make, args=(once, arena.counter("made"))) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(50)
        assert child.exitcode == 0
    assert arena.counter("made").load() == 1


def test_pickle_deletion_close(make_arena) -> None:
    arena = make_arena()
    once, other = arena.once("table"), arena.once("other")
    assert pickle.loads(pickle.dumps(once)).run(lambda: None) is True
    with polyshm.Arena(arena.address, access="r") as readonly:
        assert readonly.once("table").run(lambda: None) is False
        with pytest.raises(TypeError, match="read-only"):
            readonly.once("other").run(lambda: None)
    arena.delete("table")
    with pytest.raises(polyshm.Deleted, match="once 'table': the object was deleted"):
        once.run(lambda: None)
    assert other.run(arena.close) is True  # closed while it runs
    with pytest.raises(ValueError, match="closed"):
        other.run(lambda: None)


def test_readiness(once) -> None:
    assert polyshm.wait([once], 0) == []
    threading.Timer(0.02, once.run, [lambda: None]).start()
    assert polyshm.wait([once], 30) == [once]
