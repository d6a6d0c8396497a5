# SPDX-License-Identifier: MIT
"""polyshm.Semaphore: threading.Semaphore across processes."""

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
def semaphore(arena):
    return arena.semaphore("places", 2)


def test_names(arena, semaphore) -> None:
    assert (semaphore.name, repr(semaphore)) == ("places", f"<polyshm.Semaphore 'places' of {arena!r}>")
    assert isinstance(arena["places"], polyshm.Semaphore)
    assert arena.semaphore("one").value() == 1
    assert arena.semaphore("none", value=0).value() == 0
    assert arena.semaphore("places").value() == 2
    with pytest.raises(ValueError, match=r"semaphore 'places': exists, and this parameter"):
        arena.semaphore("places", 3)
    with pytest.raises(ValueError, match="value"):
        arena.semaphore("less", -1)
    with pytest.raises(ValueError, match="more than"):
        arena.semaphore("more", 2**31)
    with pytest.raises(TypeError):
        arena.semaphore("text", "1")
    with pytest.raises(TypeError):
        polyshm.Semaphore()
    assert sorted(arena) == ["none", "one", "places"]


def test_acquire_and_release(semaphore) -> None:
    assert semaphore.acquire() is True
    assert semaphore.acquire(blocking=True, timeout=1) is True
    assert semaphore.acquire(False) is False
    assert semaphore.acquire(timeout=0.01) is False
    assert semaphore.value() == 0
    semaphore.release()
    semaphore.release(n=2)
    assert semaphore.value() == 3
    with semaphore as entered:
        assert entered is True
        assert semaphore.value() == 2
    assert semaphore.value() == 3
    with pytest.raises(KeyError), semaphore:
        raise KeyError
    assert semaphore.value() == 3


def test_bad_calls(semaphore) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        semaphore.release(0)
    with pytest.raises(ValueError, match="n"):
        semaphore.release(-1)
    for n in (2**31 - 2, 2**31, 2**62):
        with pytest.raises(ValueError, match="more than there are, or can be"):
            semaphore.release(n)
    with pytest.raises(ValueError, match="timeout"):
        semaphore.acquire(False, 1)
    with pytest.raises(ValueError, match=r"^timeout must not be NaN"):
        semaphore.acquire(timeout=float("nan"))
    with pytest.raises(TypeError):
        semaphore.acquire(timeout="1")
    assert semaphore.value() == 2
    semaphore.release(2**31 - 3)
    assert semaphore.value() == 2**31 - 1


def test_anybody_may_release(semaphore) -> None:
    assert semaphore.acquire()
    in_thread(semaphore.release)
    assert in_child(semaphore.release) == 0
    assert semaphore.value() == 3


def test_waits_for_a_release(semaphore) -> None:
    semaphore.acquire()
    semaphore.acquire()
    got: list[bool] = []
    waiters = [threading.Thread(target=lambda: got.append(semaphore.acquire(timeout=30))) for _ in range(4)]
    for waiter in waiters:
        waiter.start()
    semaphore.release(4)
    for waiter in waiters:
        waiter.join()
    assert got == [True] * 4
    assert semaphore.value() == 0


def test_a_death_keeps_what_it_took(semaphore) -> None:
    pid = os.fork()
    if pid == 0:
        semaphore.acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert semaphore.value() == 1


def test_a_killed_waiter_takes_nothing(semaphore) -> None:
    semaphore.acquire()
    semaphore.acquire()
    pid = os.fork()
    if pid == 0:
        semaphore.acquire()
        os._exit(0)
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    semaphore.release()
    assert semaphore.acquire(timeout=30)
    assert semaphore.value() == 0


def test_signals(semaphore) -> None:
    semaphore.acquire()
    semaphore.acquire()
    ran = []
    before = signal.signal(signal.SIGALRM, lambda *_: ran.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        assert semaphore.acquire(timeout=0.2) is False
        assert ran

        def interrupt(*_: object) -> None:
            raise InterruptedError

        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(InterruptedError):
            semaphore.acquire()
    finally:
        signal.signal(signal.SIGALRM, before)
    semaphore.release()
    assert semaphore.value() == 1


def many(semaphore: polyshm.Semaphore, inside: polyshm.Counter, most: polyshm.Counter) -> None:
    for _ in range(200):
        with semaphore:
            most.max(inside.add(1))
            inside.sub(1)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(method: str, arena, semaphore) -> None:
    context = multiprocessing.get_context(method)
    inside, most = arena.counter("inside"), arena.counter("most")
    children = [context.Process(target=many, args=(semaphore, inside, most)) for _ in range(3)]
    for child in children:
        child.start()
    many(semaphore, inside, most)
    for child in children:
        child.join(50)
        assert child.exitcode == 0
    assert 1 <= most.load() <= 2
    assert semaphore.value() == 2


def test_pickle_and_deletion(arena, semaphore) -> None:
    data = pickle.dumps(semaphore)
    again = pickle.loads(data)
    again.acquire()
    assert semaphore.value() == 1
    got: list[object] = []

    def wait() -> None:
        try:
            got.append(arena.semaphore("gone", 0).acquire())
        except polyshm.Deleted as error:
            got.append(type(error))

    arena.semaphore("gone", 0)
    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.02)
    arena.delete("gone")
    waiter.join()
    assert got == [polyshm.Deleted]
    arena.delete("places")
    with pytest.raises(polyshm.Deleted, match="semaphore 'places': the object was deleted"):
        semaphore.acquire()
    with pytest.raises(polyshm.Deleted):
        pickle.loads(data)


def test_closed_and_readonly(make_arena, name) -> None:
    arena = make_arena()
    semaphore = arena.semaphore("s", 0)
    with polyshm.Arena(arena.address, access="r") as readonly:
        other = readonly.semaphore("s")
        assert other.value() == 0
        for call in (other.acquire, other.release):
            with pytest.raises(TypeError, match="read-only"):
                call()
    done = []

    def wait() -> None:
        with pytest.raises(ValueError, match="closed"):
            semaphore.acquire()
        done.append(1)

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.02)
    arena.close()
    waiter.join()
    assert done
    for call in (semaphore.acquire, semaphore.release, semaphore.value):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_readiness(semaphore) -> None:
    assert polyshm.wait([semaphore], 0) == [semaphore]
    semaphore.acquire()
    semaphore.acquire()
    assert polyshm.wait([semaphore], 0) == []
    threading.Timer(0.02, semaphore.release).start()
    assert polyshm.wait([semaphore], 30) == [semaphore]
    assert semaphore.value() == 1  # nothing is taken
