# SPDX-License-Identifier: MIT
"""polyshm.Barrier: threading.Barrier across processes, with members whose death counts."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time

import polyshm
import pytest
from elsewhere import in_thread


@pytest.fixture
def barrier(arena):
    return arena.barrier("phases", 2)


@pytest.fixture
def shrinking(arena):
    return arena.barrier("shrinking", 3, on_death="shrink")


def until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def start(function, *args) -> tuple[list, threading.Thread]:
    """A thread, and what it gave or raised."""
    got: list = []

    def run() -> None:
        try:
            got.append(function(*args))
        except Exception as error:
            got.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    return got, thread


def child(function) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except threading.BrokenBarrierError:
            code = 2
        finally:
            os._exit(code)
    return pid


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_names(arena, barrier, shrinking) -> None:
    assert (barrier.name, repr(barrier)) == ("phases", f"<polyshm.Barrier 'phases' of {arena!r}>")
    assert (barrier.parties, barrier.on_death, barrier.n_waiting, barrier.broken) == (2, "break", 0, False)
    assert (arena["shrinking"].parties, arena["shrinking"].on_death) == (3, "shrink")
    assert arena.barrier("phases").parties == 2
    for parameters in ({"parties": 3}, {"on_death": "shrink"}):
        with pytest.raises(ValueError, match="barrier 'phases': exists, and this parameter"):
            arena.barrier("phases", **parameters)
    with pytest.raises(ValueError, match="barrier 'other': does not exist, and to create it takes the number"):
        arena.barrier("other")
    with pytest.raises(ValueError, match="at least 1"):
        arena.barrier("other", 0)
    with pytest.raises(ValueError, match="more than"):
        arena.barrier("other", 32767)
    with pytest.raises(ValueError, match="on_death must be"):
        arena.barrier("other", 2, "grow")
    with pytest.raises(TypeError, match="on_death must be"):
        arena.barrier("other", 2, 1)
    with pytest.raises(TypeError):
        polyshm.Barrier()


def test_passes(arena) -> None:
    barrier = arena.barrier("three", 3)
    rounds: list[list[int]] = [[] for _ in range(50)]

    def work() -> None:
        for seen in rounds:
            seen.append(barrier.wait())
            assert len(seen) <= 3

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sorted(seen) for seen in rounds] == [[0, 1, 2]] * 50


def test_one_party(arena) -> None:
    barrier = arena.barrier("one", 1)
    assert [barrier.wait(), barrier.wait(0)] == [0, 0]


def test_timeout_breaks(barrier) -> None:
    with pytest.raises(threading.BrokenBarrierError, match="barrier 'phases': the barrier is broken"):
        barrier.wait(0.02)
    assert barrier.broken
    for _ in range(2):
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait()
    barrier.reset()
    assert not barrier.broken
    got, thread = start(barrier.wait)
    barrier.wait()
    thread.join()
    assert got[0] in (0, 1)


@pytest.mark.parametrize("verb", ["abort", "reset"])
def test_abort_and_reset(verb: str, barrier) -> None:
    got, thread = start(barrier.wait)
    until(lambda: barrier.n_waiting == 1)
    getattr(barrier, verb)()
    thread.join()
    assert got == [threading.BrokenBarrierError]
    assert barrier.broken is (verb == "abort")
    assert barrier.n_waiting == 0


def test_members(barrier) -> None:
    barrier.join()
    barrier.join()
    pid = child(lambda: (barrier.join(), time.sleep(60)))
    until(lambda: in_thread_is_refused(barrier))
    barrier.leave()
    barrier.leave()
    got, thread = start(barrier.join)
    thread.join()
    assert got == [None]
    kill(pid)


def in_thread_is_refused(barrier: polyshm.Barrier) -> bool:
    try:
        in_thread(lambda: (barrier.join(), barrier.leave()))
    except RuntimeError as error:
        return "parties" in str(error)
    return False


def test_a_death_breaks(barrier) -> None:
    pid = child(lambda: (barrier.wait(), time.sleep(60)))
    barrier.wait()
    got, thread = start_main(barrier, pid)
    thread.join()
    assert got == ["killed"]
    assert barrier.broken
    barrier.reset()


def test_reset_after_a_death(arena) -> None:
    """Whoever is left goes on with a new one."""
    barrier = arena.barrier("three", 3)

    def survive() -> None:
        barrier.wait(30)
        try:
            barrier.wait(30)
        except threading.BrokenBarrierError:
            arena.counter("told").add()
            arena.event("reset").wait(30)
            barrier.wait(30)
            barrier.wait(30)
        else:
            raise AssertionError

    told, reset = arena.counter("told"), arena.event("reset")
    survivor = child(survive)
    victim = child(lambda: (barrier.wait(30), time.sleep(60)))
    barrier.wait(30)
    kill(victim)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(30)
    assert told.wait(1, 30)
    barrier.reset()
    reset.set()
    fresh = child(lambda: [barrier.wait(30) for _ in range(2)])
    barrier.wait(30)
    barrier.wait(30)
    assert (code_of(survivor), code_of(fresh)) == (0, 0)


def start_main(barrier: polyshm.Barrier, pid: int) -> tuple[list, threading.Thread]:
    """Waits in this thread while another kills."""

    def killer() -> str:
        until(lambda: barrier.n_waiting == 1)
        kill(pid)
        return "killed"

    got, thread = start(killer)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(30)
    return got, thread


def test_a_death_shrinks(shrinking) -> None:
    pids = [child(lambda: (shrinking.wait(), time.sleep(60))) for _ in range(2)]
    shrinking.wait()
    threading.Timer(0.05, lambda: [kill(pid) for pid in pids]).start()
    assert shrinking.wait(30) == 0  # nobody else is left
    assert not shrinking.broken
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))
    pid = child(lambda: [shrinking.wait(30) for _ in range(2)])
    until(lambda: shrinking.n_waiting == 1)
    shrinking.wait(30)
    pid2 = child(lambda: shrinking.wait(30))  # a party that was dead is taken again
    until(lambda: shrinking.n_waiting == 2)
    shrinking.wait(30)
    assert (code_of(pid), code_of(pid2)) == (0, 0)
    shrinking.leave()


def test_a_dead_waiter_breaks(arena) -> None:
    barrier = arena.barrier("three", 3)
    pid = child(barrier.wait)
    until(lambda: barrier.n_waiting == 1)
    other = child(lambda: barrier.wait(30))
    until(lambda: barrier.n_waiting == 2)
    kill(pid)
    assert code_of(other) == 2


def test_a_new_group_starts_anew(barrier) -> None:
    for _ in range(3):
        pids = [child(lambda: [barrier.wait(30) for _ in range(5)]) for _ in range(2)]
        assert [code_of(pid) for pid in pids] == [0, 0]
    pid = child(lambda: barrier.wait(0.01))
    assert code_of(pid) == 2
    pids = [child(lambda: barrier.wait(30)) for _ in range(2)]
    assert [code_of(pid) for pid in pids] == [0, 0]


def test_aborted_before_anybody_came(barrier) -> None:
    barrier.abort()
    pid = child(barrier.wait)
    assert code_of(pid) == 2


def test_a_stopped_member_is_waited_for(barrier) -> None:
    pid = child(lambda: [barrier.wait(30) for _ in range(2)])
    barrier.wait(30)
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, [pid, signal.SIGCONT]).start()
    barrier.wait(30)
    assert code_of(pid) == 0


def test_signals(barrier) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(InterruptedError):
            barrier.wait()
        assert (barrier.n_waiting, barrier.broken) == (0, False)
        ran: list[int] = []
        signal.signal(signal.SIGALRM, lambda *_: ran.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        pid = child(lambda: (time.sleep(0.1), barrier.wait(30)))
        barrier.wait(30)
        assert ran
        assert code_of(pid) == 0
    finally:
        signal.signal(signal.SIGALRM, before)


def steps(barrier: polyshm.Barrier, counter: polyshm.Counter, parties: int) -> None:
    for step in range(1, 51):
        counter.add()
        barrier.wait(50)
        assert counter.load() == step * parties
        barrier.wait(50)
    barrier.leave()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(method: str, arena) -> None:
    barrier, counter = arena.barrier("b", 3), arena.counter("c")
    context = multiprocessing.get_context(method)
    children = [context.Process(target=steps, args=(barrier, counter, 3)) for _ in range(2)]
    for process in children:
        process.start()
    steps(barrier, counter, 3)
    for process in children:
        process.join(50)
        assert process.exitcode == 0


def test_pickle_deletion_close(make_arena) -> None:
    arena = make_arena()
    barrier, other = arena.barrier("phases", 2), arena.barrier("other", 2)
    assert pickle.loads(pickle.dumps(barrier)).parties == 2
    with polyshm.Arena(arena.address, access="r") as readonly:
        one = readonly.barrier("phases")
        assert (one.parties, one.n_waiting, one.broken) == (2, 0, False)
        for call in (one.wait, one.join, one.abort, one.reset, one.leave):
            with pytest.raises(TypeError, match="read-only"):
                call()
    got, thread = start(barrier.wait)
    until(lambda: barrier.n_waiting == 1)
    arena.delete("phases")
    thread.join()
    assert got == [polyshm.Deleted]
    with pytest.raises(polyshm.Deleted, match="barrier 'phases': the object was deleted"):
        barrier.wait()
    got, thread = start(other.wait)
    until(lambda: other.n_waiting == 1)
    arena.close()
    thread.join()
    assert got == [ValueError]
    for call in (other.wait, other.join, other.abort, other.reset):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_a_crowd(make_arena) -> None:
    """More members than one system call can wait for."""
    arena = make_arena(participants=300)
    barrier = arena.barrier("crowd", 200)
    threads = [start(lambda: [barrier.wait(50) for _ in range(3)]) for _ in range(200)]
    for _, thread in threads:
        thread.join()
    assert sorted(got[0][2] for got, _ in threads) == list(range(200))
