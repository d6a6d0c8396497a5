# SPDX-License-Identifier: MIT
"""What may come while a thread waits, for every wait of every noun: a deletion, a close, Ctrl-C, a handler that uses
the same object, a collection of the handle that is waited for."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import polyshm
import pytest

Step = Callable[[], Any]


def within(lock: Any, step: Step) -> Step:
    def run() -> Any:
        with lock:
            return step()

    return run


# Each gives what another thread does first, so that the wait is one; the wait; and what ends it.
def mutex(arena, lock):
    return lock.acquire, within(lock, list), lock.release


def recover(arena, lock):
    return lock.acquire, lambda: lock.recover().__enter__() or lock.release(), lock.release


def read(arena, rwlock):
    return rwlock.write.acquire, within(rwlock.read, list), rwlock.write.release


def write(arena, rwlock):
    return rwlock.read.acquire, within(rwlock.write, list), rwlock.read.release


def semaphore(arena, places):
    return list, places.acquire, places.release


def permits(arena, owned):
    return lambda: owned.acquire(2), within(owned, list), lambda: owned.release(2)


def event(arena, what):
    return list, what.wait, what.set


def counter(arena, what):
    return list, lambda: what.wait(1), what.add


def latch(arena, what):
    return list, what.wait, what.count_down


def barrier(arena, what):
    return list, what.wait, what.wait


def condition(arena, changed):
    return list, within(changed, changed.wait), within(changed, changed.notify)


def wait_for(arena, changed):
    done = arena.counter("done")
    return (
        list,
        within(changed, lambda: changed.wait_for(done.load)),
        within(changed, lambda: (done.add(), changed.notify())),
    )


def several(arena, what):
    return list, lambda: polyshm.wait([arena.counter("c"), what]), what.set


WAITS = {
    "mutex": (mutex, lambda arena: arena.mutex("x")),
    "recover": (recover, lambda arena: arena.mutex("x")),
    "read": (read, lambda arena: arena.rwlock("x")),
    "write": (write, lambda arena: arena.rwlock("x")),
    "semaphore": (semaphore, lambda arena: arena.semaphore("x", 0)),
    "permits": (permits, lambda arena: arena.permits("x", 2)),
    "event": (event, lambda arena: arena.event("x")),
    "automatic": (event, lambda arena: arena.event("x", auto=True)),
    "counter": (counter, lambda arena: arena.counter("x")),
    "latch": (latch, lambda arena: arena.latch("x", 1)),
    "barrier": (barrier, lambda arena: arena.barrier("x", 2)),
    "condition": (condition, lambda arena: arena.condition("x", arena.mutex("m"))),
    "wait_for": (wait_for, lambda arena: arena.condition("x", arena.mutex("m"))),
    "several": (several, lambda arena: arena.event("x")),
}
every_wait = pytest.mark.parametrize("noun", WAITS)


@contextlib.contextmanager
def other(first: Step) -> Iterator[Callable[[Step], None]]:
    """A thread that has done `first`, and goes on living; what is called with a step has it do that."""
    steps: list[Step] = []
    come, ready = threading.Semaphore(0), threading.Semaphore(0)

    def run() -> None:
        first()
        ready.release()
        while come.acquire() and steps:
            with contextlib.suppress(ValueError, polyshm.Deleted):
                steps.pop()()

    def do(step: Step) -> None:
        steps.append(step)
        come.release()

    thread = threading.Thread(target=run)
    thread.start()
    ready.acquire()
    try:
        yield do
    finally:
        come.release()
        thread.join()


def until_it_waits(thread: threading.Thread) -> None:
    """It is asleep: where, is not asked, since a look at the object might be what wakes it."""
    time.sleep(0.03)
    assert thread.is_alive()


@every_wait
@pytest.mark.parametrize("what", ["deleted", "closed"])
def test_it_goes(noun: str, what: str, make_arena) -> None:
    arena = make_arena()
    wait_of, make = WAITS[noun]
    first, wait, end = wait_of(arena, make(arena))
    said: list[Any] = []

    def run() -> None:
        try:
            said.append(wait())
        except Exception as error:
            said.append(error)

    with other(first) as do:
        thread = threading.Thread(target=run)
        thread.start()
        until_it_waits(thread)
        arena.delete("x") if what == "deleted" else arena.close()
        thread.join(10)
        assert not thread.is_alive()
        do(end)
    (error,) = said
    if what == "deleted":
        assert isinstance(error, polyshm.Deleted)
    else:
        assert isinstance(error, ValueError)
        assert "closed" in str(error)


@every_wait
@pytest.mark.parametrize("uses", [False, True])
def test_ctrl_c(noun: str, uses: bool, make_arena) -> None:
    """It leaves the wait, and what is waited for can be used by all; the second time a handler has used it before."""
    arena = make_arena()
    wait_of, make = WAITS[noun]
    handle = make(arena)
    first, wait, end = wait_of(arena, handle)
    calls: list[object] = []

    def handler(*_: object) -> None:
        calls.append(repr(arena["x"]))
        if uses:
            for verb in ("value", "available", "is_set", "load", "count", "locked", "done"):
                getattr(handle, verb, list)()
            if noun in ("mutex", "semaphore", "permits"):
                assert handle.acquire(timeout=0) is False
            elif noun in ("event", "automatic", "latch"):
                assert handle.wait(0) is False
        if len(calls) > uses:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with other(first) as do:
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            with pytest.raises(KeyboardInterrupt):
                wait()
            (me,) = (p for p in arena.participants() if p.self) if noun != "several" else (None,)
            assert me is None or (me.holds, me.waits) == ((), None)
            do(end)
            if noun != "condition":  # which waits for what comes after that
                wait()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert arena.check() == []


@every_wait
def test_nobody_else_has_the_handle(noun: str, make_arena) -> None:
    arena = make_arena()
    wait_of, make = WAITS[noun]
    first, wait, _ = wait_of(arena, make(arena))
    end = wait_of(arena, make(arena))[2]
    with other(first) as do:
        thread = threading.Thread(target=wait)
        del wait, first
        thread.start()
        until_it_waits(thread)
        gc.collect()
        do(end)
        thread.join(20)
        assert not thread.is_alive()
    assert arena.check() == []
