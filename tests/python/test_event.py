# SPDX-License-Identifier: MIT
"""polyshm.Event: threading.Event across processes, and events that clear themselves."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time

import polyshm
import pytest
from elsewhere import in_child


@pytest.fixture
def event(arena):
    return arena.event("ready")


@pytest.fixture
def auto(arena):
    return arena.event("next", auto=True)


def test_names(arena, event, auto) -> None:
    assert repr(event) == f"<polyshm.Event 'ready' of {arena!r}>"
    assert repr(auto) == f"<polyshm.Event 'next' auto of {arena!r}>"
    assert (event.auto, auto.auto) == (False, True)
    assert (arena["ready"].auto, arena["next"].auto) == (False, True)
    assert arena.event("next").auto is True
    for name, value in (("ready", True), ("next", False)):
        with pytest.raises(ValueError, match=rf"event '{name}': exists, and this parameter"):
            arena.event(name, value)
    with pytest.raises(TypeError):
        polyshm.Event()


def test_set_and_clear(event) -> None:
    assert not event.is_set()
    assert event.wait(0) is False
    assert event.wait(0.01) is False
    event.set()
    event.set()
    assert event.is_set()
    assert event.wait() is True
    assert event.wait(timeout=0) is True
    event.clear()
    event.clear()
    assert not event.is_set()
    assert event.wait(-1) is False
    with pytest.raises(ValueError, match="timeout"):
        event.wait(float("nan"))


def test_auto(auto) -> None:
    auto.set()
    auto.set()
    assert auto.is_set()
    assert auto.wait(0) is True
    assert not auto.is_set()
    assert auto.wait(0) is False
    auto.set()
    auto.clear()
    assert auto.wait(0.01) is False


def waiters(event, count: int) -> tuple[list[bool], list[threading.Thread]]:
    got: list[bool] = []
    threads = [threading.Thread(target=lambda: got.append(event.wait(30))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return got, threads


def sleeping(arena, name: str) -> int:
    return sum(one.waits == name for one in arena.participants())


def until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_all_go_on(arena, event) -> None:
    got, threads = waiters(event, 5)
    until(lambda: sleeping(arena, "ready") == 5)
    event.set()
    event.clear()  # nobody misses it
    for thread in threads:
        thread.join()
    assert got == [True] * 5


def test_auto_lets_one_go_each_time(arena, auto) -> None:
    got, threads = waiters(auto, 3)
    for done in (1, 2, 3):
        until(lambda: sleeping(arena, "next") == 4 - done)  # noqa: B023
        auto.set()
        until(lambda: len(got) == done)  # noqa: B023
        assert not auto.is_set()
    for thread in threads:
        thread.join()
    assert got == [True] * 3


def test_other_processes(arena, event) -> None:
    threading.Timer(0.02, event.set).start()
    assert in_child(lambda: os._exit(0 if event.wait(30) else 1)) == 0
    event.clear()
    assert in_child(event.set) == 0
    assert event.wait(30)


def test_a_killed_waiter_costs_nothing(arena, auto) -> None:
    pid = os.fork()
    if pid == 0:
        auto.wait()
        os._exit(0)
    until(lambda: sleeping(arena, "next") == 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    auto.set()
    assert auto.wait(30)


def test_signals(event) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(InterruptedError):
            event.wait()
        signal.signal(signal.SIGALRM, lambda *_: event.set())
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert event.wait(30)  # a handler may set what is waited for
    finally:
        signal.signal(signal.SIGALRM, before)


def answer(asked: polyshm.Event, answered: polyshm.Event) -> None:
    for _ in range(100):
        assert asked.wait(30)
        answered.set()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(method: str, arena) -> None:
    asked, answered = arena.event("asked", auto=True), arena.event("answered", auto=True)
    child = multiprocessing.get_context(method).Process(target=answer, args=(asked, answered))
    child.start()
    for _ in range(100):
        asked.set()
        assert answered.wait(30)
    child.join(30)
    assert child.exitcode == 0


def test_pickle_deletion_close(make_arena) -> None:
    arena = make_arena()
    event, auto = arena.event("ready"), arena.event("next", auto=True)
    assert pickle.loads(pickle.dumps(auto)).auto is True
    errors: list[type] = []

    def wait(one: polyshm.Event) -> None:
        try:
            one.wait()
        except (polyshm.Deleted, ValueError) as error:
            errors.append(type(error))

    for one in (event, auto):
        threads = [threading.Thread(target=wait, args=(one,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: sleeping(arena, one.name) == 2)  # noqa: B023
        if one is event:
            arena.delete("ready")
        else:
            arena.close()
        for thread in threads:
            thread.join()
    assert errors == [polyshm.Deleted] * 2 + [ValueError] * 2
    for call in (auto.set, auto.clear, auto.is_set, auto.wait):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_readonly(arena, event, auto) -> None:
    with polyshm.Arena(arena.address, access="r") as readonly:
        other = readonly.event("ready")
        assert other.wait(0.01) is False
        threading.Timer(0.02, event.set).start()
        assert other.wait(30) is True
        assert other.is_set()
        for call in (other.set, other.clear, readonly.event("next").wait):
            with pytest.raises(TypeError, match="read-only"):
                call()


def test_since(event) -> None:
    since = event._since()
    assert not event._passed(since)
    event.set()
    event.clear()
    assert event._passed(since)
    assert not event._passed(event._since())
    event.set()
    assert event._passed(event._since())
