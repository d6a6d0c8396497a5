# SPDX-License-Identifier: MIT
"""The same code on threading's locks and on ours, and the same comes of it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from elsewhere import in_thread


def result_of(function: Callable[[Any], Any], lock: Any) -> Any:
    try:
        return function(lock)
    except Exception as error:
        return type(error)


def under(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(lock: Any) -> Any:
        with lock:
            return function(lock)

    return run


def emptied(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(semaphore: Any) -> Any:
        semaphore.acquire()
        return function(semaphore)

    return run


TIMEOUTS = (0, -0.0, -1, -1.0, -2, -0.5, 0.01, True, False, "1", b"1", [], object())


@pytest.fixture
def locks(arena) -> dict[str, tuple[Any, Any]]:
    mutex, recursive = arena.mutex("lock"), arena.mutex("rlock", recursive=True)
    return {
        "Lock": (threading.Lock(), mutex),
        "RLock": (threading.RLock(), recursive),
        "Semaphore": (threading.Semaphore(), arena.semaphore("semaphore")),
        "Event": (threading.Event(), arena.event("event")),
        "Condition": (threading.Condition(threading.Lock()), arena.condition("condition", mutex)),
        "Condition of an RLock": (threading.Condition(), arena.condition("rcondition", recursive)),
        "Barrier": (threading.Barrier(2), arena.barrier("barrier", 2)),
        "Barrier of one": (threading.Barrier(1), arena.barrier("one", 1)),
    }


def agree(pair: tuple[Any, Any], function: Callable[[Any], Any]) -> Any:
    theirs, ours = (result_of(function, lock) for lock in pair)
    assert theirs == ours
    return ours


@pytest.mark.parametrize("timeout", TIMEOUTS, ids=repr)
def test_timeouts(locks, timeout) -> None:
    def both(noun: str, function: Callable[[Any], Any]) -> None:
        agree(locks[noun], function)

    for noun in ("Lock", "RLock"):
        for blocking in (True, False):
            both(noun, lambda lock, blocking=blocking: lock.acquire(blocking, timeout) and lock.release())
        both(noun, lambda lock: lock.acquire(timeout=timeout) and lock.release())
    if isinstance(timeout, (int, float)):
        both("Semaphore", lambda semaphore: semaphore.acquire(timeout=timeout) and semaphore.release())
        both("Semaphore", lambda semaphore: semaphore.acquire(False, timeout))
        both("Semaphore", emptied(lambda semaphore: (semaphore.acquire(True, timeout), semaphore.release())))
    both("Event", lambda event: event.wait(timeout))
    for noun in ("Condition", "Condition of an RLock"):
        both(noun, under(lambda condition: condition.wait(timeout)))
        both(noun, under(lambda condition: condition.wait_for(lambda: 0, timeout)))
        if isinstance(timeout, (int, float)):
            both(noun, under(lambda condition: condition.wait_for(lambda: 7, timeout=timeout)))
    both("Barrier", lambda barrier: barrier.wait(timeout))
    both("Barrier", lambda barrier: (barrier.broken, barrier.reset(), barrier.broken))
    if isinstance(timeout, (int, float)):
        both("Barrier of one", lambda barrier: barrier.wait(timeout=timeout))
        both("Event", lambda event: (event.set(), event.wait(timeout=timeout)))


@pytest.mark.parametrize("huge", [1e10, 1e300, float("inf"), 10**30], ids=repr)
def test_what_does_not_block_takes_no_timeout_however_long(locks, huge) -> None:
    for noun in ("Lock", "RLock", "Semaphore"):
        theirs, ours = locks[noun]
        with pytest.raises((ValueError, OverflowError)):
            theirs.acquire(False, huge)
        with pytest.raises(ValueError, match="timeout for a non-blocking"):
            ours.acquire(False, huge)


def test_calls(locks) -> None:
    for noun in ("Lock", "RLock", "Semaphore", "Condition", "Condition of an RLock"):
        pair = locks[noun]
        for call in (
            lambda lock: lock.acquire(1, 2, 3),
            lambda lock: lock.acquire(wrong=1),
            lambda lock: lock.acquire(True, blocking=True),
            lambda lock: (lock.acquire(), lock.release()),
            lambda lock: (lock.acquire(blocking=False), lock.release()),
            lambda lock: (lock.acquire(0), lock.release()),
            lambda lock: (lock.__enter__(), lock.__exit__(None, None, None)),
            under(lambda lock: 1 / 0),
            under(lambda lock: in_thread(lambda: lock.acquire(False))),
        ):
            agree(pair, call)
        if noun != "Semaphore":
            assert agree(pair, lambda lock: lock.release()) is RuntimeError
            assert agree(pair, lambda lock: lock.__exit__(None, None, None)) is RuntimeError
    assert agree(locks["RLock"], under(lambda lock: in_thread(lambda: result_of(lambda it: it.release(), lock)))) is (
        RuntimeError
    )
    for n in (0, -1, 1, 3, "1", None):
        agree(locks["Semaphore"], lambda semaphore, n=n: semaphore.release(n))
    agree(locks["Semaphore"], lambda semaphore: [semaphore.acquire(False) for _ in range(7)])
    for noun in ("Condition", "Condition of an RLock"):
        pair = locks[noun]
        for call in (
            lambda condition: condition.notify(),
            lambda condition: condition.notify_all(),
            lambda condition: condition.wait(0),
            lambda condition: condition.wait_for(lambda: 0),
            lambda condition: condition.wait_for(lambda: 3),
            lambda condition: condition.wait_for(),
            lambda condition: condition.wait_for(3),
            lambda condition: condition.wait_for(lambda: 1 / 0),
            under(lambda condition: condition.wait_for(predicate=list, timeout=0)),
            *(under(lambda condition, n=n: condition.notify(n)) for n in (0, -1, 1, 10**20)),
            under(lambda condition: (condition.notify(n=2), condition.notify_all())),
        ):
            agree(pair, call)
    agree(locks["Event"], lambda event: (event.set(), event.is_set(), event.clear(), event.is_set()))
    agree(locks["Event"], lambda event: event.wait(1, 2))
    agree(locks["Barrier"], lambda barrier: (barrier.parties, barrier.n_waiting, barrier.broken, barrier.abort()))
    agree(locks["Barrier"], lambda barrier: barrier.wait())


def entered(lock: Any) -> Any:
    with lock as got:
        pass
    lock.__enter__()
    return got, lock.__exit__(None, None, None), lock.acquire(), lock.release()


def test_what_context_managers_give(arena, locks) -> None:
    for noun in ("Lock", "RLock", "Semaphore", "Condition", "Condition of an RLock"):
        assert agree(locks[noun], entered) == (True, None, True, None)
    assert agree((threading.BoundedSemaphore(), arena.permits("permits", 1)), entered) == (True, None, True, None)


def waits(barrier: Any, waiting: int, meanwhile: Callable[[Any], Any], timeout: float | None = None) -> Any:
    """What comes of so many who wait at it, and of what is done then. Nobody ends before all have gone on: a death
    counts at ours."""
    got: list[Any] = []
    end = threading.Barrier(waiting + 1)

    def run() -> None:
        got.append(result_of(lambda it: it.wait(timeout), barrier))
        end.wait(20)

    threads = [threading.Thread(target=run) for _ in range(waiting)]
    for thread in threads:
        thread.start()
    while timeout is None and barrier.n_waiting < waiting:
        time.sleep(0.001)
    done = meanwhile(barrier)
    end.wait(20)
    for thread in threads:
        thread.join()
    return sorted(map(str, got)), done, barrier.broken, barrier.n_waiting


def test_barriers(arena) -> None:
    broken = str(threading.BrokenBarrierError)
    for i, (waiting, meanwhile, timeout) in enumerate(
        [
            (2, lambda barrier: barrier.reset(), None),
            (2, lambda barrier: barrier.abort(), None),
            (2, lambda barrier: type(barrier.wait()), None),
            (2, lambda barrier: None, 0.05),
            (1, lambda barrier: None, 0),
        ]
    ):
        pair = threading.Barrier(3), arena.barrier(f"barrier {i}", 3)
        got = agree(pair, lambda barrier, w=waiting, m=meanwhile, t=timeout: waits(barrier, w, m, t))
        assert i == 2 or set(got[0]) == {broken}
    aborted = threading.Barrier(2), arena.barrier("aborted", 2)
    verbs = ["abort", "wait", "wait", "reset", "wait now", "wait", "abort", "abort", "reset", "reset"]
    for verb in verbs:
        name, *now = verb.split()
        agree(aborted, lambda barrier, n=name, t=now: result_of(lambda it: getattr(it, n)(*(0 for _ in t)), barrier))
        agree(aborted, lambda barrier: (barrier.broken, barrier.n_waiting))


def test_an_event_lets_all_go_that_wait_however_soon_it_is_cleared(arena) -> None:
    for event in (threading.Event(), arena.event("event")):
        got: list[bool] = []
        threads = [threading.Thread(target=lambda: got.append(event.wait(20))) for _ in range(40)]  # noqa: B023
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        event.set()
        event.clear()
        for thread in threads:
            thread.join()
        assert got == [True] * 40


def test_weak_references(arena, locks) -> None:
    """As to threading's; so they go into a WeakKeyDictionary."""
    ours = [pair[1] for pair in locks.values()]
    ours += [arena.permits("permits", 1), arena.latch("latch", 1), arena.once("once"), arena.counter("counter")]
    ours += [arena.rwlock("rwlock"), arena["rwlock"].read]
    for handle in ours:
        assert weakref.ref(handle)() is handle
    gone: list[str] = []
    condition = arena["condition"]
    weakref.finalize(condition, gone.append, "condition")
    del condition
    assert gone == ["condition"]
