# SPDX-License-Identifier: MIT
"""polyshm.RWLock: its two sides are locks; death, downgrade, threads, forks, pickles."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
import weakref

import polyshm
import pytest


@pytest.fixture
def rw(arena):
    return arena.rwlock("books")


def elsewhere(function, *args, **kwargs):
    """What a call says in another thread."""
    result = []

    def run() -> None:
        try:
            result.append(function(*args, **kwargs))
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def taken(lock) -> bool:
    """Can another thread not have it?"""

    def attempt() -> bool:
        if lock.acquire(blocking=False):
            lock.release()
            return False
        return True

    return elsewhere(attempt)


def killed_in(function) -> int:
    """A child that was killed after it did something."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


def test_names(arena, rw) -> None:
    assert (rw.name, repr(rw)) == ("books", f"<polyshm.RWLock 'books' of {arena!r}>")
    assert rw.read.name == rw.write.name == rw.name
    assert repr(rw.read) == f"<read side of {rw!r}>"
    assert repr(rw.write) == f"<write side of {rw!r}>"
    assert isinstance(arena["books"], polyshm.RWLock)
    assert [type(value) for _, value in arena.items()] == [polyshm.RWLock]
    with pytest.raises(ValueError, match="another kind"):
        arena.mutex("books")
    with pytest.raises(TypeError):
        polyshm.RWLock()
    with pytest.raises(TypeError, match="repair must be callable"):
        arena.rwlock("books", repair=1)
    with pytest.raises(TypeError):
        arena.rwlock()


def test_many_read(rw) -> None:
    with rw.read as held:
        assert held is True
        assert (rw.read.locked(), rw.write.locked(), rw.read.owner(), rw.write.owner()) == (True, False, None, None)
        assert not taken(rw.read)
        assert taken(rw.write)
        with rw.read:
            pass
        with pytest.raises(RuntimeError, match="already held"):
            rw.write.acquire()
        assert rw.write.acquire(blocking=False) is False
        assert elsewhere(rw.write.acquire, timeout=0.01) is False
    assert (rw.read.locked(), rw.write.locked()) == (False, False)


def test_one_writes(rw) -> None:
    with rw.write:
        assert (rw.read.locked(), rw.write.locked(), rw.write.owner()) == (False, True, os.getpid())
        assert taken(rw.read)
        assert taken(rw.write)
        with pytest.raises(RuntimeError):
            rw.read.acquire()
        with pytest.raises(RuntimeError):
            rw.read.release()
        assert elsewhere(rw.read.acquire, timeout=0.01) is False
    for side in (rw.read, rw.write):
        with pytest.raises(RuntimeError, match="not held"):
            side.release()


def test_downgrade_in_a_with(rw) -> None:
    with rw.write:
        rw.downgrade()
        assert not taken(rw.read)
        assert taken(rw.write)
    assert not taken(rw.write)
    with rw.write:
        pass
    with pytest.raises(RuntimeError):
        rw.downgrade()
    rw.write.acquire()
    rw.downgrade()
    rw.read.release()
    assert not taken(rw.write)


def test_a_reader_waits_for_a_writer_that_waits(rw) -> None:
    order = []
    with rw.read:

        def write() -> None:
            with rw.write:
                order.append("write")

        def read() -> None:
            with rw.read:
                order.append("read")

        threads = [threading.Thread(target=write), threading.Thread(target=read)]
        threads[0].start()
        while not taken(rw.read):
            time.sleep(0.001)
        threads[1].start()
        assert not order
    for thread in threads:
        thread.join()
    assert order == ["write", "read"]


def test_death_of_a_reader_is_nothing(rw) -> None:
    killed_in(rw.read.acquire)
    with rw.write:
        pass


def test_death_after_a_downgrade_is_nothing(rw) -> None:
    def down() -> None:
        rw.write.acquire()
        rw.downgrade()

    killed_in(down)
    with rw.write:
        pass


@pytest.mark.parametrize("side", ["read", "write"])
def test_death_of_a_writer_is_told(rw, side: str) -> None:
    lock = getattr(rw, side)
    pid = killed_in(rw.write.acquire)
    for attempt in (rw.read.acquire, rw.write.acquire):
        with pytest.raises(polyshm.OwnerDied) as caught:
            attempt()
        assert (caught.value.errno, caught.value.pid) == (errno.EOWNERDEAD, pid)
    with pytest.raises(polyshm.OwnerDied) as caught, lock:
        pytest.fail("got in")
    assert caught.value.lock is lock
    with pytest.raises(ZeroDivisionError), lock.recover() as died:
        assert died is not None
        assert died.pid == pid
        raise ZeroDivisionError
    with pytest.raises(polyshm.OwnerDied):
        lock.acquire()
    with lock.recover() as died:
        assert died is not None
        assert taken(rw.write)
        if side == "write":
            with pytest.raises(OSError) as dead:
                rw.downgrade()
            assert dead.value.errno == errno.EOWNERDEAD
    with lock.recover() as died:
        assert died is None
    assert not taken(rw.write)


@pytest.mark.parametrize("side", ["read", "write"])
def test_repair(arena, side: str) -> None:
    seen = []

    def repair(died: polyshm.OwnerDied) -> None:
        seen.append((died.pid, taken(rw.read), taken(rw.write)))
        if len(seen) == 1:
            raise ZeroDivisionError

    rw = arena.rwlock("books", repair=repair)
    lock = getattr(rw, side)
    pid = killed_in(lambda: arena.rwlock("books").write.acquire())
    with pytest.raises(ZeroDivisionError), lock:
        pytest.fail("got in")
    with pytest.raises(polyshm.OwnerDied):
        arena.rwlock("books").read.acquire()
    with lock:
        assert taken(rw.read) == (side == "write")
    assert [entry[0] for entry in seen] == [pid, pid]
    assert not taken(rw.write)


def test_repair_has_it_alone(arena) -> None:
    seen = []
    plain = arena.rwlock("books")
    rw = arena.rwlock("books", repair=lambda died: seen.append((taken(plain.read), taken(plain.write))))
    killed_in(plain.write.acquire)
    with rw.read:
        assert not taken(plain.read)
    assert seen == [(True, True)]


def test_fork(rw) -> None:
    def child() -> int:
        try:
            rw.read.release()
        except RuntimeError:
            return 0 if rw.read.acquire(timeout=5) else 1
        return 2

    with rw.read:
        pid = os.fork()
        if pid == 0:
            os._exit(child())
        assert os.waitpid(pid, 0)[1] == 0


def test_signal_in_a_wait(rw) -> None:
    def handler(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for hold, wanted in ((rw.write, rw.read), (rw.read, rw.write)):
        before = signal.signal(signal.SIGALRM, handler)
        ready, done = threading.Event(), threading.Event()

        def keep(hold=hold, ready=ready, done=done) -> None:
            with hold:
                ready.set()
                done.wait()

        thread = threading.Thread(target=keep)
        thread.start()
        ready.wait()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(KeyboardInterrupt):
                wanted.acquire()
            with pytest.raises(RuntimeError):
                wanted.release()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            done.set()
            thread.join()
        assert not taken(rw.write)


def test_participants(arena, rw) -> None:
    with rw.read:
        assert [p.holds for p in arena.participants() if p.self] == [("books",)]
    with rw.write:
        assert [p.holds for p in arena.participants() if p.self] == [("books",)]


def test_closed_and_deleted() -> None:
    arena = polyshm.Arena("anon:", size="1M")
    rw, other = arena.rwlock("books"), arena.rwlock("other")
    read, write = rw.read, other.write
    read.acquire()
    write.acquire()
    arena.delete("other")
    with pytest.raises(polyshm.Deleted):
        other.read.locked()
    write.release()
    arena.close()
    with pytest.raises(ValueError, match="closed"):
        rw.write.acquire()
    read.release()
    with pytest.raises(RuntimeError):
        read.release()


def test_a_side_keeps_what_it_is_of(arena) -> None:
    read = arena.rwlock("books").read
    gc.collect()
    with read:
        assert read.locked()


def test_a_repair_that_refers_to_its_lock_goes(arena) -> None:
    class Repair:
        def __call__(self, died: object) -> None: ...

    repair = Repair()
    repair.side = arena.rwlock("books", repair=repair).read
    gone = weakref.ref(repair)
    del repair
    gc.collect()
    assert gone() is None


def rebuild(died: object) -> None: ...


def read_in_child(rw, side, pipe) -> None:
    with rw.read:
        pipe.send(side.locked())
        pipe.recv()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(arena, method: str) -> None:
    rw = arena.rwlock("books", repair=rebuild)
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=read_in_child, args=(rw, rw.read, there))
    process.start()
    assert here.recv() is True
    assert rw.write.acquire(blocking=False) is False
    with rw.read:
        pass
    here.send(None)
    process.join()
    assert process.exitcode == 0
    assert rw.write.acquire(timeout=5)
    rw.write.release()


def test_pickle(arena) -> None:
    rw = arena.rwlock("books", repair=rebuild)
    again = pickle.loads(pickle.dumps(rw))
    side = pickle.loads(pickle.dumps(rw.write))
    with again.read:
        assert side.acquire(blocking=False) is False
    data = pickle.dumps(rw)
    arena.delete("books")
    arena.rwlock("books")
    with pytest.raises(polyshm.Deleted):
        pickle.loads(data)
