# SPDX-License-Identifier: MIT
"""The mutex on raw memory: threads, processes, owner death, and what its methods refuse."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref

import leftovers
import polyshm
import pytest
from elsewhere import die_holding, in_thread

AT = 64
fork = multiprocessing.get_context("fork")


@pytest.fixture
def lock(anon):
    return anon.mutex(AT, create=True)


class TestHolding:
    def test_acquire_and_release(self, lock):
        assert lock.locked() is False
        assert lock.owner() is None
        assert lock.acquire() is True
        assert lock.locked() is True
        assert lock.owner() == os.getpid()
        assert lock.release() is None
        assert lock.locked() is False
        assert lock.owner() is None

    def test_with(self, lock):
        with lock as held:
            assert held is True
            assert lock.locked()
        assert not lock.locked()

    def test_with_gives_back_after_an_exception(self, lock):
        with pytest.raises(ZeroDivisionError):
            with lock:
                1 / 0  # noqa: B018
        assert not lock.locked()

    def test_exit_does_not_hide_the_exception(self, lock):
        with pytest.raises(ZeroDivisionError):
            with lock:
                lock.release()
                1 / 0  # noqa: B018
        with pytest.raises(RuntimeError, match="not held by this thread"):
            with lock:
                lock.release()

    def test_not_recursive(self, lock):
        with lock:
            with pytest.raises(RuntimeError, match="mutex at offset 64: already held by this thread"):
                lock.acquire()
            with pytest.raises(RuntimeError):
                lock.acquire(timeout=5)
            assert lock.acquire(blocking=False) is False
            assert lock.acquire(timeout=0) is False
        assert not lock.locked()

    def test_recursive(self, anon):
        lock = anon.mutex(AT, create=True, recursive=True)
        with lock:
            assert lock.acquire()
            assert lock.acquire(False)
            lock.release()
            lock.release()
            assert lock.locked()
        assert not lock.locked()
        with pytest.raises(RuntimeError):
            lock.release()
        assert "recursive" in repr(lock)

    def test_recursive_through_two_mappings(self, make):
        """Given back through the first of them, which is closed then: its bytes are in the list of held locks."""
        first = make("posix")
        second, other = polyshm.Segment(first.address), make("memfd").mutex(0, create=True)
        outer, inner = first.mutex(AT, create=True, recursive=True), second.mutex(AT)
        outer.acquire()
        inner.acquire()
        outer.release()
        first.close()
        with other:
            assert inner.locked()
            with pytest.raises(RuntimeError):
                outer.release()
        inner.release()
        with other:
            assert not inner.locked()
        second.close()

    def test_nested_through_another_mapping(self, make):
        """The other one is not kept for that."""
        first = make("posix")
        second = polyshm.Segment(first.address)
        outer, inner = first.mutex(AT, create=True, recursive=True), second.mutex(AT)
        before = leftovers.mappings()
        with outer, inner:
            pass
        with outer:
            inner.acquire()
            inner.release()
            second.close()
            assert len(before) - len(leftovers.mappings()) == 1
        assert not outer.locked()

    def test_release_by_nobody_and_by_another(self, lock):
        with pytest.raises(RuntimeError, match="anon:: mutex at offset 64: not held by this thread"):
            lock.release()
        with lock:
            with pytest.raises(RuntimeError):
                in_thread(lock.release)
            assert lock.locked()

    def test_two_handles_are_one_lock(self, anon, lock):
        other = anon.mutex(AT)
        with lock:
            assert other.locked()
            assert in_thread(lambda: other.acquire(False)) is False
        with other:
            assert in_thread(lambda: lock.acquire(timeout=0.01)) is False

    def test_repr(self, anon, lock):
        assert repr(lock) == f"<polyshm.SegmentMutex at offset 64 of {anon!r}>"


class TestArguments:
    def test_as_in_threading(self, lock):
        for arguments in ((), (True,), (True, None), (True, -1), (True, 5), (False,), (1, 0.5), (False, -1)):
            assert lock.acquire(*arguments) is True
            lock.release()
        assert lock.acquire(blocking=True, timeout=3)
        lock.release()
        assert lock.acquire(timeout=10**400 if sys.flags.dev_mode else 1e300)
        lock.release()

    @pytest.mark.parametrize("timeout", [-2, -0.5, float("nan"), float("-inf"), -(1 << 70)])
    def test_bad_timeouts(self, lock, timeout):
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(timeout=timeout)
        with pytest.raises(ValueError, match="timeout"):
            lock.recover(timeout)

    def test_other_bad_arguments(self, lock):
        with pytest.raises(ValueError, match="non-blocking"):
            lock.acquire(False, 1)
        with pytest.raises(ValueError, match="non-blocking"):
            lock.acquire(False, 0)
        with pytest.raises(TypeError, match="timeout must be a number"):
            lock.acquire(timeout="1")
        with pytest.raises(TypeError, match="'wait'"):
            lock.acquire(wait=1)
        with pytest.raises(TypeError, match="positional"):
            lock.acquire(True, 1, 1)
        with pytest.raises(TypeError, match="multiple values"):
            lock.acquire(True, blocking=True)

    def test_constants(self):
        assert polyshm.MUTEX_SIZE % polyshm.MUTEX_ALIGN == 0
        assert polyshm.MUTEX_ALIGN == 8

    def test_create(self, anon, lock):
        with pytest.raises(ValueError, match="anon:: mutex at offset 1024: no robust process-shared mutex"):
            anon.mutex(1024)
        anon.fill(0xFF, 1024, 256)
        with pytest.raises(ValueError, match="no robust process-shared mutex"):
            anon.mutex(1024)
        with anon.mutex(1024, create=True):
            with pytest.raises(RuntimeError, match="already held"):
                anon.mutex(1024, create=True)
        anon.mutex(1024, True)
        with pytest.raises(ValueError, match="recursive setting"):
            anon.mutex(AT, recursive=True)
        anon.mutex(AT, recursive=False)
        anon.mutex(offset=AT, create=False, recursive=None, repair=None)
        with pytest.raises(TypeError, match="repair must be callable"):
            anon.mutex(AT, repair=1)
        with pytest.raises(TypeError, match="'offset'"):
            anon.mutex()

    def test_place(self, anon):
        with pytest.raises(ValueError, match="mutex at offset 4: offset is not aligned"):
            anon.mutex(4, create=True)
        anon.mutex(16384 - polyshm.MUTEX_SIZE, create=True)
        for offset in (16384 - polyshm.MUTEX_SIZE + 8, 16384, 1 << 62):
            with pytest.raises(ValueError, match=f"offset {offset} \\+ size {polyshm.MUTEX_SIZE}: outside the segment"):
                anon.mutex(offset, create=True)

    def test_read_only(self, make):
        segment = make("posix")
        segment.mutex(0, create=True)
        with polyshm.Segment(segment.address, access="r") as other:
            with pytest.raises(TypeError, match="read-only"):
                other.mutex(0)

    def test_overwritten_bytes(self, anon, lock):
        anon.fill(0, AT, polyshm.MUTEX_SIZE)
        for use in (lock.acquire, lock.__enter__, lock.locked, lock.owner, lock.recover().__enter__):
            with pytest.raises(ValueError, match="no robust process-shared mutex"):
                use()


class TestWaiting:
    def test_timeout(self, lock):
        with lock:
            start = time.monotonic()
            assert in_thread(lambda: lock.acquire(timeout=0.25)) is False
            assert 0.25 <= time.monotonic() - start < 10

    def test_released_by_a_thread(self, lock):
        lock.acquire()
        got = threading.Event()

        def take():
            with lock:
                got.set()

        thread = threading.Thread(target=take)
        thread.start()
        assert not got.wait(0.05)
        lock.release()
        assert got.wait(20)
        thread.join()

    @pytest.mark.parametrize("recursive", [False, True])
    def test_threads_exclude_each_other(self, anon, recursive):
        lock = anon.mutex(AT, create=True, recursive=recursive)
        view = anon.view("u64", 0, 1)

        def work():
            for _ in range(3000):
                with lock:
                    view[0] += 1

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert view[0] == 12_000
        assert not lock.locked()

    def test_processes_exclude_each_other(self, anon, lock):
        view = anon.view("u64", 0, 1)

        def work():
            for _ in range(10_000):
                with lock:
                    view[0] += 1

        processes = [fork.Process(target=work) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert view[0] == 20_000

    def test_other_threads_run_meanwhile(self, lock):
        lock.acquire()
        thread = threading.Thread(target=lambda: lock.acquire() and lock.release())
        thread.start()
        for _ in range(100):
            time.sleep(0.001)
        lock.release()
        thread.join()

    def test_interrupted(self, anon, lock):
        """Ctrl-C in a wait: KeyboardInterrupt, and the lock is not held."""

        def interrupt(*_):
            raise KeyboardInterrupt

        release, holding = threading.Event(), threading.Event()

        def hold():
            with lock:
                holding.set()
                release.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        holding.wait()
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            for wait in (
                lock.acquire,
                lock.__enter__,
                lambda: lock.acquire(timeout=20),
                lock.recover().__enter__,
                anon.mutex(AT, repair=print).acquire,
            ):
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                with pytest.raises(KeyboardInterrupt):
                    wait()
        finally:
            signal.signal(signal.SIGALRM, before)
            release.set()
            thread.join()
        assert lock.owner() is None
        with lock:
            pass

    def test_sigint_in_another_process(self, python):
        code = """
import polyshm, os, signal, threading
segment = polyshm.Segment("anon:", size=4096)
lock = segment.mutex(0, create=True)
pid = os.fork()
if pid == 0:
    lock.acquire()
    signal.pause()
while not lock.locked():
    pass
threading.Timer(0.05, signal.raise_signal, (signal.SIGINT,)).start()
try:
    lock.acquire()
except KeyboardInterrupt:
    print("interrupted", lock.owner() == pid)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"""
        assert python(code).stdout == "interrupted True\n"

    def test_closed_by_another_thread(self, anon, lock):
        holding, release = threading.Event(), threading.Event()

        def hold():
            lock.acquire()
            holding.set()
            release.wait(20)
            lock.release()  # works on a closed segment too

        thread = threading.Thread(target=hold)
        thread.start()
        holding.wait()
        threading.Timer(0.05, anon.close).start()
        with pytest.raises(ValueError, match="closed"):
            lock.acquire()
        release.set()
        thread.join()

    def test_closed_while_held(self, anon, lock):
        lock.acquire()
        anon.close()
        for use in (lock.acquire, lock.locked, lock.owner, lock.__enter__, lock.recover().__enter__):
            with pytest.raises(ValueError, match="closed"):
                use()
        lock.release()
        with pytest.raises((RuntimeError, ValueError)):
            lock.release()


class TestFork:
    def test_the_child_holds_nothing(self, lock):
        lock.acquire()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                lock.release()
            except RuntimeError:
                code = 0 if lock.acquire(timeout=0.01) is False else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert lock.owner() == os.getpid()
        lock.release()

    def test_owner_is_another_process(self, anon, lock):
        ready = anon.atomic("u32", 0)

        def hold():
            with lock:
                ready.store(1)
                ready.notify()
                ready.wait(1)

        process = fork.Process(target=hold)
        process.start()
        ready.wait(0)
        assert lock.locked()
        assert lock.owner() == process.pid
        assert lock.acquire(False) is False
        ready.store(2)
        ready.notify()
        process.join()
        assert lock.acquire(timeout=10)
        lock.release()


class TestOwnerDeath:
    def test_is_told_to_everybody(self, anon, lock):
        pid = die_holding(lock)
        for take in (
            lock.acquire,
            lock.__enter__,
            lambda: lock.acquire(False),
            lambda: lock.acquire(timeout=1),
            anon.mutex(AT).acquire,
        ):
            with pytest.raises(
                polyshm.OwnerDied, match=f"the owner \\(pid {pid}\\) of the mutex at offset 64 died"
            ) as caught:
                take()
            died = caught.value
            assert isinstance(died, OSError)
            assert died.errno == errno.EOWNERDEAD
            assert died.filename == "anon:"
            assert died.pid == pid
            assert died.participant is None
            assert isinstance(died.lock, polyshm.SegmentMutex)
            assert not lock.locked()

    @pytest.mark.parametrize("how", [None, lambda: os._exit(0), lambda: os.execv("/bin/true", ["true"])])
    def test_of_any_cause(self, lock, how):
        pid = die_holding(lock, how)
        with pytest.raises(polyshm.OwnerDied) as caught:
            lock.acquire()
        assert caught.value.pid == pid

    def test_of_a_thread(self, lock):
        in_thread(lock.acquire)
        with pytest.raises(polyshm.OwnerDied) as caught:
            lock.acquire()
        assert caught.value.pid == os.getpid()
        with lock.recover():
            pass

    def test_wakes_a_waiter(self, anon, lock):
        ready = anon.atomic("u32", 0)

        def hold():
            lock.acquire()
            ready.store(1)
            signal.pause()

        process = fork.Process(target=hold)
        process.start()
        while ready.load() == 0:
            time.sleep(0.001)
        threading.Timer(0.05, process.kill).start()
        with pytest.raises(polyshm.OwnerDied) as caught:
            lock.acquire(timeout=20)
        assert caught.value.pid == process.pid
        process.join()

    def test_recover(self, lock):
        pid = die_holding(lock)
        with lock.recover() as died:
            assert isinstance(died, polyshm.OwnerDied)
            assert died.pid == pid
            assert died.lock is lock
            assert lock.locked()
        with lock:
            pass
        with lock.recover() as died:
            assert died is None
            assert lock.locked()
        assert not lock.locked()

    def test_recover_left_by_an_exception(self, lock):
        pid = die_holding(lock)
        with pytest.raises(ZeroDivisionError):
            with lock.recover():
                1 / 0  # noqa: B018
        assert not lock.locked()
        with pytest.raises(polyshm.OwnerDied) as caught:
            lock.acquire()
        assert caught.value.pid == pid
        with lock.recover() as died:
            assert died.pid == pid

    def test_recover_that_is_killed(self, lock):
        first = die_holding(lock)

        pid = os.fork()
        if pid == 0:
            with lock.recover():
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        with lock.recover(timeout=5) as died:
            assert died.pid in (first, pid)

    def test_recover_waits(self, lock):
        release, holding = threading.Event(), threading.Event()

        def hold():
            with lock:
                holding.set()
                release.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        holding.wait()
        for timeout in (0, 0.12):
            with pytest.raises(TimeoutError) as caught:
                with lock.recover(timeout):
                    pass
            assert caught.value.filename == "anon:"
        threading.Timer(0.02, release.set).start()
        with lock.recover(20) as died:
            assert died is None
        thread.join()

    def test_recovery_is_usable_again(self, lock):
        recovery = lock.recover()
        assert "recovery of <polyshm.SegmentMutex" in repr(recovery)
        with recovery:
            with pytest.raises(RuntimeError, match="already held"):
                with recovery:
                    pass
        with recovery:
            pass
        with pytest.raises(RuntimeError, match="not held"):
            recovery.__exit__(None, None, None)

    def test_recover_exit_does_not_hide_the_exception(self, lock):
        with pytest.raises(ZeroDivisionError):
            with lock.recover():
                lock.release()
                1 / 0  # noqa: B018
        with pytest.raises(RuntimeError):
            with lock.recover():
                lock.release()

    @pytest.mark.parametrize("recursive", [False, True])
    def test_repair(self, anon, recursive):
        seen = []

        def repair(died):
            assert lock.locked()
            assert lock.owner() == os.getpid()
            seen.append((type(died), died.pid, died.lock))

        lock = anon.mutex(AT, create=True, recursive=recursive, repair=repair)
        with lock:
            pass
        assert seen == []
        pid = die_holding(lock)
        with lock:
            assert seen == [(polyshm.OwnerDied, pid, lock)]
        assert lock.acquire(False)
        lock.release()
        with anon.mutex(AT):
            assert len(seen) == 1

    def test_repair_after_a_wait(self, anon):
        seen = []
        lock = anon.mutex(AT, create=True, repair=seen.append)
        ready = anon.atomic("u32", 0)

        def hold():
            lock.acquire()
            ready.store(1)
            signal.pause()

        process = fork.Process(target=hold)
        process.start()
        while ready.load() == 0:
            time.sleep(0.001)
        assert lock.acquire(False) is False
        assert lock.acquire(timeout=0.15) is False
        threading.Timer(0.05, process.kill).start()
        assert lock.acquire() is True
        assert [died.pid for died in seen] == [process.pid]
        lock.release()
        process.join()

    def test_repair_that_raises(self, anon):
        def repair(died):
            raise LookupError("not today")

        lock = anon.mutex(AT, create=True, repair=repair)
        pid = die_holding(lock)
        for take in (lock.acquire, lock.__enter__, lambda: lock.acquire(blocking=False)):
            with pytest.raises(LookupError, match="not today"):
                take()
            assert not lock.locked()
        with pytest.raises(polyshm.OwnerDied) as caught:
            anon.mutex(AT).acquire()
        assert caught.value.pid == pid

    def test_repair_that_releases(self, anon):
        lock = anon.mutex(AT, create=True, repair=lambda died: died.lock.release())
        die_holding(lock)
        with pytest.raises(RuntimeError, match="not held"):
            lock.acquire()
        assert not lock.locked()

    def test_repair_that_acquires(self, anon):
        lock = anon.mutex(AT, create=True, repair=lambda died: died.lock.acquire())
        die_holding(lock)
        with pytest.raises(RuntimeError, match="already held"):
            lock.acquire()
        assert not lock.locked()

    def test_repair_that_acquires_a_recursive_lock(self, anon):
        """The one who repairs is not told again."""
        seen = []

        def repair(died):
            with died.lock, died.lock.recover() as again:
                seen.append((died.pid, again))

        lock = anon.mutex(AT, create=True, recursive=True, repair=repair)
        pid = die_holding(lock)
        with lock:
            pass
        assert seen == [(pid, None)]
        with anon.mutex(AT):
            pass

    def test_repair_that_closes(self, anon):
        lock = anon.mutex(AT, create=True, repair=lambda died: anon.close())
        die_holding(lock)
        assert lock.acquire() is True  # held, and the mapping stays until it is released
        lock.release()
        with pytest.raises(ValueError, match="closed"):
            lock.acquire()


class TestCollection:
    def test_dropped_while_held(self, python):
        """It stays held, and mapped, until the process ends: the thread's list of held locks goes through it."""
        code = """
import polyshm, threading
segment = polyshm.Segment("anon:", size=4096)
lock = segment.mutex(0, create=True)
lock.acquire()
del lock
other = segment.mutex(0)
print(other.locked(), other.acquire(False))
del other, segment
with open("/proc/self/maps") as maps:
    print("/dev/zero" in maps.read())
"""
        assert python(code).stdout == "True False\nTrue\n"

    def test_cycle_through_repair(self, anon):
        class Owner:
            def repair(self, died):
                pass

        owner = Owner()
        owner.lock = anon.mutex(AT, create=True, repair=owner.repair)
        alive = weakref.ref(owner)
        del owner
        gc.collect()
        assert alive() is None

    def test_used_by_a_finalizer(self, anon):
        """After the collector cleared it, a lock still works."""
        seen = []

        class Owner:
            def repair(self, died):
                pass

            def __del__(self):
                with self.lock:
                    seen.append(self.lock.locked())

        owner = Owner()
        owner.lock = anon.mutex(AT, create=True, repair=owner.repair)
        del owner
        gc.collect()
        assert seen == [True]

    def test_segment_dropped_before_the_lock(self):
        lock = polyshm.Segment("anon:", size=4096).mutex(0, create=True)
        with lock:
            pass
