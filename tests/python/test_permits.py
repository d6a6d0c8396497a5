# SPDX-License-Identifier: MIT
"""polyshm.Permits: so many at a time, owned by threads, and free again when those die."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time

import polyshm
import pytest
from elsewhere import Holder, in_child, in_thread


@pytest.fixture
def permits(arena):
    return arena.permits("connections", 3)


def until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def held_by_child(permits: polyshm.Permits, n: int) -> int:
    """A child that has n of them until it is killed."""
    free = permits.available()
    pid = os.fork()
    if pid == 0:
        permits.acquire(n)
        time.sleep(60)
        os._exit(1)
    until(lambda: permits.available() == free - n)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_names(arena, permits) -> None:
    assert (permits.name, repr(permits)) == ("connections", f"<polyshm.Permits 'connections' of {arena!r}>")
    assert isinstance(arena["connections"], polyshm.Permits)
    assert (permits.total, arena.permits("connections").total) == (3, 3)
    with pytest.raises(ValueError, match="permits 'connections': exists, and this parameter"):
        arena.permits("connections", 4)
    with pytest.raises(ValueError, match="permits 'other': does not exist, and to create it takes the number"):
        arena.permits("other")
    with pytest.raises(ValueError, match="must be at least 1"):
        arena.permits("other", 0)
    with pytest.raises(ValueError, match="more than"):
        arena.permits("other", 65536)
    assert arena.permits("many", 65535).total == 65535
    with pytest.raises(TypeError):
        polyshm.Permits()


def test_acquire_and_release(arena, permits) -> None:
    assert permits.acquire() is True
    assert permits.acquire(n=2, timeout=1) is True
    assert (permits.available(), permits.held()) == (0, 3)
    assert permits.acquire(1, 0) is False
    assert next(one for one in arena.participants() if one.self).holds == ("connections",)
    permits.release(2)
    assert (permits.available(), permits.held()) == (2, 1)
    assert permits.acquire(3, timeout=0) is False  # all or none
    assert permits.available() == 2
    with permits as entered:
        assert entered is True
        assert permits.held() == 2
    with pytest.raises(KeyError), permits:
        raise KeyError
    permits.release()
    assert (permits.available(), permits.held()) == (3, 0)


def test_bad_calls(permits) -> None:
    for call in (permits.release, permits.acquire):
        with pytest.raises(ValueError, match="permits 'connections': n 0: must be at least 1"):
            call(0)
        with pytest.raises(ValueError, match="n must not be negative"):
            call(-1)
        with pytest.raises(TypeError, match="n must be an integer"):
            call("1")
        with pytest.raises(TypeError):
            call(1.0)
        with pytest.raises(ValueError, match="n must be less than"):
            call(2**63)
    for n in (4, 65536, 2**32 + 1, 2**63 - 1):
        with pytest.raises(ValueError, match=f"permits 'connections': n {n}: more than there are"):
            permits.acquire(n)
    for wrong in ("1", -2, float("nan")):
        with pytest.raises((TypeError, ValueError), match="timeout"):
            permits.acquire(1, wrong)
    with pytest.raises(TypeError):
        permits.acquire(1, 1, 1)
    with pytest.raises(RuntimeError, match="permits 'connections': not held"):
        permits.release()
    permits.acquire(2)
    for n in (3, 2**32 + 1):
        with pytest.raises(RuntimeError, match=f"n {n}: not held"):
            permits.release(n)
    for timeout in (None, 30):
        with pytest.raises(RuntimeError, match="this thread would wait for itself"):
            permits.acquire(2, timeout)
    assert permits.acquire(2, 0) is False
    with pytest.raises(RuntimeError, match="not held"):
        in_thread(permits.release)
    assert (permits.available(), permits.held()) == (1, 2)
    permits.release(2)


def test_waits(permits) -> None:
    permits.acquire(3)
    got: list[int] = []

    def want(n: int) -> None:
        assert permits.acquire(n, 30)
        got.append(n)
        permits.release(n)

    threads = [threading.Thread(target=want, args=(n,)) for n in (1, 2, 3, 1)]
    for thread in threads:
        thread.start()
    time.sleep(0.02)
    assert got == []
    permits.release(3)
    for thread in threads:
        thread.join()
    assert sorted(got) == [1, 1, 2, 3]
    assert permits.available() == 3


def test_a_death_gives_back(arena, permits) -> None:
    pids = [held_by_child(permits, 2), held_by_child(permits, 1)]
    assert permits.acquire(1, 0.01) is False
    timer = threading.Timer(0.05, kill, [pids[0]])
    timer.start()
    assert permits.acquire(2, 30)
    timer.join()
    assert permits.available() == 0
    kill(pids[1])
    assert permits.available() == 1
    assert permits.acquire(1, 0)
    assert arena.check() == []
    permits.release(3)


def test_a_stopped_one_keeps_them(permits) -> None:
    pid = held_by_child(permits, 3)
    os.kill(pid, signal.SIGSTOP)
    assert permits.acquire(1, 0.3) is False
    kill(pid)
    assert permits.acquire(3, 30)
    permits.release(3)


def test_a_thread_that_ends(permits) -> None:
    in_thread(permits.acquire)
    assert permits.acquire(3, 30)
    permits.release(3)


def test_fork(permits) -> None:
    permits.acquire(2)

    def child() -> None:
        assert permits.held() == 0
        assert permits.acquire(1, 0)
        assert not permits.acquire(1, 0)

    assert in_child(child) == 0
    assert permits.held() == 2
    assert permits.acquire(1, 30)
    permits.release(3)


def test_signals(permits) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    with Holder(permits):
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(InterruptedError):
                permits.acquire(3)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert permits.held() == 0
    assert permits.available() == 3


def interrupted(handler, wait) -> None:
    """Calls wait, and after a moment the handler of a signal."""
    before = signal.signal(signal.SIGALRM, lambda *_: handler())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        wait()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_handler_that_returns(permits) -> None:
    with Holder(permits) as holder:
        interrupted(holder.release, lambda: permits.acquire(3))
    assert permits.held() == 3
    permits.release(3)


def test_a_handler_that_takes_one_itself(permits) -> None:
    """What the handler has is the thread's too, which would wait for itself from then on."""
    with Holder(permits), pytest.raises(RuntimeError, match="would wait for itself"):
        interrupted(permits.acquire, lambda: permits.acquire(3))
    assert permits.held() == 1
    permits.release()


def test_a_handler_that_gives_back(permits) -> None:
    permits.acquire(2)
    pid = held_by_child(permits, 1)

    def handler() -> None:
        permits.release(2)
        kill(pid)

    interrupted(handler, lambda: permits.acquire(1))
    assert permits.held() == 1
    permits.release()


def test_the_end_of_a_thread_wakes(permits) -> None:
    go, has = threading.Event(), threading.Event()

    def hold() -> None:
        permits.acquire(3)
        has.set()
        go.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert has.wait(30)
    got: list[bool] = []

    def want() -> None:
        got.append(permits.acquire(1, 30))
        until(lambda: len(got) == 3)
        permits.release()

    others = [threading.Thread(target=want) for _ in range(3)]
    for other in others:
        other.start()
    time.sleep(0.02)
    assert got == []
    go.set()
    for thread in (holder, *others):
        thread.join()
    assert got == [True] * 3
    assert permits.available() == 3


def test_exec_gives_back(permits) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        permits.acquire(3)
        os.dup2(write, 1)
        os.execlp("sh", "sh", "-c", "echo has; exec sleep 60")
    try:
        assert os.read(read, 4) == b"has\n"
        assert permits.acquire(3, 30)
        permits.release(3)
    finally:
        kill(pid)
        os.close(read)
        os.close(write)


def test_a_storm_of_deaths(arena, permits) -> None:
    """Whoever has some is killed at any moment; the others go on, and none is lost or had twice."""
    inside = arena.counter("times")

    def work() -> None:
        while True:
            for n in (1, 2, 3):
                permits.acquire(n)
                inside.add()
                permits.release(n)

    pids = []
    for _ in range(4):
        pids.append(os.fork())
        if pids[-1] == 0:
            try:
                work()
            finally:
                os._exit(1)
    for pid in pids:
        seen = inside.load()
        until(lambda seen=seen: inside.load() > seen + 50)
        kill(pid)
    assert permits.acquire(3, 30)
    assert (permits.available(), permits.held(), arena.check()) == (0, 3, [])
    permits.release(3)
    assert permits.available() == 3


def test_exceptions_go_first(permits) -> None:
    with pytest.raises(KeyError), permits:
        permits.release()
        raise KeyError
    with pytest.raises(RuntimeError, match="not held"), permits:
        permits.release()
    with pytest.raises(SystemExit), permits:
        raise SystemExit
    assert (permits.available(), permits.held()) == (3, 0)


def test_handles_are_not_owners(arena, permits) -> None:
    """A thread has what it has, by whatever handle; the end of a handle gives nothing back."""
    first = arena.permits("connections")
    first.acquire()
    pickle.loads(pickle.dumps(permits)).acquire()
    del first
    gc.collect()
    assert (permits.available(), permits.held()) == (1, 2)
    permits.release(2)


def test_deleted_and_closed_under_a_wait(make_arena) -> None:
    arena = make_arena()
    permits, other = arena.permits("connections", 3), arena.permits("other", 1)
    said: list[str] = []

    def want(permits: polyshm.Permits, n: int) -> None:
        try:
            permits.acquire(n)
        except (polyshm.Deleted, ValueError) as error:
            said.append(f"{type(error).__name__}: {error}")

    permits.acquire()
    other.acquire()
    waiter = threading.Thread(target=want, args=(permits, 3))
    waiter.start()
    time.sleep(0.02)
    arena.delete("connections")
    waiter.join()
    assert "Deleted: " in said[0]
    waiter = threading.Thread(target=want, args=(other, 1))
    waiter.start()
    time.sleep(0.02)
    arena.close()
    waiter.join()
    assert "ValueError: " in said[1]
    assert "closed" in said[1]
    assert (permits.held(), other.held()) == (1, 1)
    permits.release()
    other.release()


def test_read_only(arena, permits) -> None:
    with polyshm.Arena(arena.address, access="r") as readonly:
        with pytest.raises(KeyError):
            readonly.permits("none", 3)
        other = readonly.permits("connections")
        permits.acquire()
        assert (other.available(), other.held(), other.total) == (2, 0, 3)
        with pytest.raises(RuntimeError, match="not held"):
            other.release()
        for call in (other.acquire, other.__enter__):
            with pytest.raises(TypeError, match=r"permits 'connections': .*read-only"):
                call()
        assert polyshm.wait([(other, 2)], 0) == [(other, 2)]
        assert polyshm.wait([(other, 3)], 0) == []
        permits.release()


def share(permits: polyshm.Permits, inside: polyshm.Counter, most: polyshm.Counter) -> None:
    for n in (1, 2, 3) * 50:
        assert permits.acquire(n, 30)
        most.max(inside.add(n))
        inside.sub(n)
        permits.release(n)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(method: str, arena, permits) -> None:
    context = multiprocessing.get_context(method)
    inside, most = arena.counter("inside"), arena.counter("most")
    children = [context.Process(target=share, args=(permits, inside, most)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(50)
        assert child.exitcode == 0
    assert 3 <= most.load() <= 3
    assert permits.available() == 3


def test_pickle_deletion_close(make_arena) -> None:
    arena = make_arena()
    permits = arena.permits("connections", 3)
    assert pickle.loads(pickle.dumps(permits)).total == 3
    with polyshm.Arena(arena.address, access="r") as readonly:
        other = readonly.permits("connections")
        assert other.available() == 3
        with pytest.raises(TypeError, match="read-only"):
            other.acquire()
    permits.acquire(2)
    arena.delete("connections")
    with pytest.raises(polyshm.Deleted, match="permits 'connections': the object was deleted"):
        permits.acquire()
    permits.release()
    arena.close()
    with pytest.raises(ValueError, match="closed"):
        permits.acquire()
    permits.release()  # after close() too
    with pytest.raises(RuntimeError, match="not held"):
        permits.release()


def test_readiness(permits) -> None:
    assert polyshm.wait([permits, (permits, 3)], 0) == [permits, (permits, 3)]
    pid = held_by_child(permits, 2)
    assert polyshm.wait([permits, (permits, 2)], 0) == [permits]
    timer = threading.Timer(0.05, kill, [pid])
    timer.start()
    assert polyshm.wait([(permits, 2)], 30) == [(permits, 2)]
    timer.join()
