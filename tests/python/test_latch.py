# SPDX-License-Identifier: MIT
"""polyshm.Latch: counts down to 0, once."""

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
def latch(arena):
    return arena.latch("done", 3)


def test_names(arena, latch) -> None:
    assert (latch.name, repr(latch)) == ("done", f"<polyshm.Latch 'done' of {arena!r}>")
    assert isinstance(arena["done"], polyshm.Latch)
    assert arena.latch("done").count() == 3
    assert arena.latch("done", n=3).count() == 3
    with pytest.raises(ValueError, match="latch 'done': exists, and this parameter"):
        arena.latch("done", 4)
    with pytest.raises(ValueError, match=r"latch 'other': .* takes the number"):
        arena.latch("other")
    with pytest.raises(ValueError, match="more than"):
        arena.latch("other", 2**31)
    with pytest.raises(ValueError, match="n"):
        arena.latch("other", -1)
    with pytest.raises(TypeError):
        polyshm.Latch()
    assert arena.latch("open", 0).wait() is True


def test_count_down(latch) -> None:
    assert latch.wait(0) is False
    assert latch.wait(0.01) is False
    assert latch.count_down() == 2
    assert latch.count_down(n=2) == 0
    assert latch.wait() is True
    assert latch.count_down() == 0
    assert latch.count_down(2**62) == 0
    with pytest.raises(ValueError, match="must be at least 1"):
        latch.count_down(0)
    with pytest.raises(ValueError, match="n"):
        latch.count_down(-1)
    assert latch.count() == 0


def test_more_than_there_is(latch) -> None:
    assert latch.count_down(5) == 0


def test_waiters(arena, latch) -> None:
    got: list[bool] = []
    threads = [threading.Thread(target=lambda: got.append(latch.wait(30))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        assert in_child(latch.count_down) == 0
    time.sleep(0.02)
    assert got == []
    latch.count_down()
    for thread in threads:
        thread.join()
    assert got == [True] * 4


def test_what_the_dead_counted_stays(latch) -> None:
    pid = os.fork()
    if pid == 0:
        latch.count_down()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert latch.count() == 2


def test_signals(latch) -> None:
    def interrupt(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(InterruptedError):
            latch.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert latch.count() == 3


def count(latch: polyshm.Latch) -> None:
    latch.count_down()
    assert latch.wait(30)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(method: str, latch) -> None:
    context = multiprocessing.get_context(method)
    children = [context.Process(target=count, args=(latch,)) for _ in range(3)]
    for child in children:
        child.start()
    assert latch.wait(30)
    for child in children:
        child.join(30)
        assert child.exitcode == 0


def test_pickle_deletion_close(make_arena) -> None:
    arena = make_arena()
    latch = arena.latch("done", 3)
    assert pickle.loads(pickle.dumps(latch)).count_down() == 2
    with polyshm.Arena(arena.address, access="r") as readonly:
        other = readonly.latch("done")
        assert (other.count(), other.wait(0.01)) == (2, False)
        with pytest.raises(TypeError, match="read-only"):
            other.count_down()
    arena.delete("done")
    for call in (latch.count_down, latch.count, latch.wait):
        with pytest.raises(polyshm.Deleted, match="latch 'done': the object was deleted"):
            call()
    arena.close()
    for call in (latch.count_down, latch.count, latch.wait):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_readiness(latch) -> None:
    assert polyshm.wait([latch], 0) == []
    threading.Timer(0.02, latch.count_down, [3]).start()
    assert polyshm.wait([latch], 30) == [latch]
