# SPDX-License-Identifier: MIT
"""polyshm.Once: a function that is run by one, once; if that one dies, by the next."""

from __future__ import annotations

import errno
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


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_whatever_it_raises(once, error) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(error):
        once.run(fail)
    assert once.done() is False
    assert in_thread(lambda: once.run(lambda: None)) is True


def test_bad_calls(once) -> None:
    for wrong in ("1", -2, float("nan")):
        with pytest.raises((TypeError, ValueError), match="timeout"):
            once.run(print, wrong)
    for call in (once.run, lambda: once.run(print, 1, 1), lambda: once.run(print, wait=1), lambda: once.done(1)):
        with pytest.raises(TypeError):
            call()
    assert once.done() is False


def test_in_itself(arena, once) -> None:
    def again() -> None:
        for timeout in (None, 0, 1):
            with pytest.raises(RuntimeError, match="once 'table': this thread would wait for itself"):
                arena.once("table").run(os.abort, timeout)
        assert arena.once("inner").run(lambda: None) is True
        assert once.done() is False

    assert once.run(again) is True


def test_a_child_of_the_runner(once) -> None:
    """It is not running what its parent runs, and cannot end that."""

    def child() -> None:
        with pytest.raises(TimeoutError):
            once.run(os.abort, 0.05)

    assert once.run(lambda: in_child(child) == 0 or os.abort()) is True
    assert once.done() is True


def test_a_child_that_comes_back(once) -> None:
    """A fork in the function: the child's copy of the call says that it was not the one."""
    pids: list[int] = []
    try:
        assert once.run(lambda: pids.append(os.fork())) is True
    except RuntimeError as error:
        os._exit(42 if "once 'table': not held" in str(error) else 77)
    finally:
        if pids == [0]:
            os._exit(77)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 42
    assert once.done() is True


def test_others_wait(arena, once) -> None:
    begun, go, ran = threading.Event(), threading.Event(), []

    def slow() -> None:
        begun.set()
        assert go.wait(30)
        ran.append(1)

    runner = threading.Thread(target=once.run, args=(slow,))
    runner.start()
    assert begun.wait(30)
    with pytest.raises(TimeoutError, match="once 'table'") as late:
        once.run(lambda: ran.append(2), timeout=0.02)
    assert (late.value.errno, late.value.filename) == (errno.ETIMEDOUT, arena.address)
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


def test_the_next_one_where_it_raises(once) -> None:
    begun, go, ran = threading.Event(), threading.Event(), []

    def fail() -> None:
        begun.set()
        assert go.wait(30)
        raise KeyError

    def run() -> None:
        with pytest.raises(KeyError):
            once.run(fail)

    runner = threading.Thread(target=run)
    runner.start()
    assert begun.wait(30)
    got: list[bool] = []
    others = [threading.Thread(target=lambda: got.append(once.run(lambda: ran.append(1), 30))) for _ in range(3)]
    for other in others:
        other.start()
    time.sleep(0.02)
    go.set()
    for thread in (runner, *others):
        thread.join()
    assert (sorted(got), ran) == ([False, False, True], [1])


def run_by_child(once: polyshm.Once, then) -> int:
    """A child that is running it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        once.run(lambda: (os.write(write, b"x"), then()))
        os._exit(1)
    assert os.read(read, 1) == b"x"
    os.close(read)
    os.close(write)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_stopped_runner(once) -> None:
    pid = run_by_child(once, lambda: time.sleep(60))
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        once.run(os.abort, 0.3)
    kill(pid)
    assert once.run(lambda: None, 30) is True


def test_a_runner_that_executes_something_else(once) -> None:
    pid = run_by_child(once, lambda: os.execlp("sleep", "sleep", "60"))
    try:
        assert once.run(lambda: None, 30) is True
    finally:
        kill(pid)


def test_one_runner_after_the_other_dies(arena, once) -> None:
    begun = arena.counter("begun")
    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if pids[-1] == 0:
            once.run(lambda: (begun.add(os.getpid()), time.sleep(60)))
            os._exit(1)
    left = set(pids)
    for number in range(4):
        dead = sum(set(pids) - left)
        assert begun.wait(dead + 1, 30), number
        runner = begun.load() - dead
        assert runner in left
        kill(runner)
        left.remove(runner)
    assert once.run(lambda: None, 30) is True
    assert arena.check() == []


def test_the_runner_dies(arena, once) -> None:
    pid = run_by_child(once, lambda: time.sleep(60))
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


def test_a_handler_that_raises_in_the_function(once) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(InterruptedError):
            once.run(lambda: time.sleep(30))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert once.done() is False
    assert in_thread(lambda: once.run(lambda: None)) is True


def test_a_handler_that_returns(once) -> None:
    begun, go = threading.Event(), threading.Event()
    runner = threading.Thread(target=once.run, args=(lambda: (begun.set(), go.wait(30)),))
    runner.start()
    assert begun.wait(30)
    before = signal.signal(signal.SIGALRM, lambda *_: go.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert once.run(os.abort) is False
    finally:
        signal.signal(signal.SIGALRM, before)
    runner.join()


def test_deleted_and_closed_under_a_wait(make_arena) -> None:
    arena = make_arena()
    go = threading.Event()
    said: list[str] = []

    def want(once: polyshm.Once) -> None:
        try:
            once.run(os.abort)
        except (polyshm.Deleted, ValueError) as error:
            said.append(f"{type(error).__name__}: {error}")

    for name, end in (("table", lambda: arena.delete("table")), ("other", arena.close)):
        once, begun, ended = arena.once(name), threading.Event(), []
        go.clear()

        def slow(begun=begun) -> None:
            begun.set()
            assert go.wait(30)

        runner = threading.Thread(target=lambda once=once, slow=slow, ended=ended: ended.append(once.run(slow)))
        runner.start()
        assert begun.wait(30)
        waiter = threading.Thread(target=want, args=(once,))
        waiter.start()
        time.sleep(0.02)
        end()
        waiter.join()
        go.set()
        runner.join()
        assert ended == [True]  # it ran it, whatever became of the object
    assert "Deleted: " in said[0]
    assert "ValueError: " in said[1]
    assert "closed" in said[1]


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
