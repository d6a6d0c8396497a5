# SPDX-License-Identifier: MIT
"""Record locks: between handles, threads, processes, and with fcntl itself."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
import struct
import threading
import time

import polyshm
import pytest

F_OFD_GETLK = 36
fork = multiprocessing.get_context("fork")


@pytest.fixture(params=["file", "posix", "memfd"])
def file(request, make):
    return make(request.param)


class TestHolding:
    def test_acquire_and_release(self, file):
        lock = file.record_lock()
        assert lock.locked() is False
        assert lock.acquire() is True
        assert lock.locked() is True
        assert lock.release() is None
        assert lock.locked() is False
        with lock as held:
            assert held is True
            assert lock.locked()
        assert not lock.locked()

    def test_two_objects_exclude_each_other(self, file):
        first, second = file.record_lock(0, 100), file.record_lock(50, 100)
        with first:
            assert second.locked()
            assert second.acquire(False) is False
            assert second.acquire(timeout=0.05) is False
        with second:
            assert first.acquire(blocking=False) is False

    def test_ranges(self, file):
        with file.record_lock(0, 100):
            with file.record_lock(100, 100):
                with file.record_lock(offset=200):
                    assert file.record_lock(16383, 1).acquire(False) is False
                    assert file.record_lock(199, 1).acquire(False) is False

    def test_shared(self, file):
        first, second = file.record_lock(shared=True), file.record_lock(0, None, True)
        with first, second:
            assert file.record_lock().acquire(False) is False
            assert file.record_lock(shared=True).locked() in (False, True)
        assert file.record_lock().acquire(False) is True

    def test_held_by_this_object(self, file):
        lock = file.record_lock(8, 8)
        with lock:
            with pytest.raises(RuntimeError, match="record lock at offset 8: already held by this lock object"):
                lock.acquire()
            assert lock.acquire(False) is False
        with pytest.raises(RuntimeError, match="not held"):
            lock.release()

    def test_exit_does_not_hide_the_exception(self, file):
        lock = file.record_lock()
        with pytest.raises(ZeroDivisionError):
            with lock:
                lock.release()
                1 / 0  # noqa: B018
        with pytest.raises(RuntimeError):
            with lock:
                lock.release()

    def test_dropping_it_releases(self, file):
        lock = file.record_lock()
        lock.acquire()
        del lock
        assert file.record_lock().acquire(False)

    def test_repr(self, file):
        assert repr(file.record_lock()) == f"<polyshm.RecordLock from offset 0 of {file!r}>"
        assert repr(file.record_lock(4, 8, True)) == f"<polyshm.RecordLock shared on 8 bytes at offset 4 of {file!r}>"


class TestWaiting:
    def test_timeout(self, file):
        with file.record_lock():
            start = time.monotonic()
            assert file.record_lock().acquire(timeout=0.15) is False
            assert 0.15 <= time.monotonic() - start < 10

    def test_released_by_a_thread(self, file):
        first, second = file.record_lock(), file.record_lock()
        first.acquire()
        threading.Timer(0.05, first.release).start()
        assert second.acquire() is True
        second.release()

    def test_released_by_death(self, make):
        segment = make("posix")
        ready = segment.atomic("u32", 0)

        def child():
            lock = segment.record_lock()
            lock.acquire()
            ready.store(1)
            signal.pause()

        process = fork.Process(target=child)
        process.start()
        while ready.load() == 0:
            time.sleep(0.001)
        assert segment.record_lock().acquire(False) is False
        threading.Timer(0.05, process.kill).start()
        assert segment.record_lock().acquire(timeout=20) is True
        process.join()

    def test_a_forked_child_holds_nothing(self, make):
        segment = make("posix")
        lock = segment.record_lock()
        lock.acquire()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                lock.release()
            except RuntimeError:
                code = 0 if lock.acquire(False) is False else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert segment.record_lock().acquire(False) is False
        lock.release()
        assert segment.record_lock().acquire(False) is True

    def test_interrupted(self, file):
        def interrupt(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            with file.record_lock():
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                with pytest.raises(KeyboardInterrupt):
                    file.record_lock().acquire()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert file.record_lock().acquire(False)

    def test_closed_by_another_thread(self, file):
        holder = file.record_lock()
        holder.acquire()
        threading.Timer(0.05, file.close).start()
        waiter = file.record_lock()
        with pytest.raises(ValueError, match="closed"):
            waiter.acquire()
        holder.release()
        with pytest.raises(ValueError, match="closed"):
            holder.acquire()
        with pytest.raises(ValueError, match="closed"):
            holder.locked()


class TestArguments:
    @pytest.mark.parametrize("kind", ["sysv", "anon", "zero"])
    def test_kinds_without_a_file(self, make, kind):
        segment = make(kind)
        with pytest.raises(OSError, match="supported") as caught:
            segment.record_lock()
        assert caught.value.errno == errno.EOPNOTSUPP
        assert caught.value.filename == segment.address

    def test_outside(self, file):
        for offset, size in ((16385, None), (0, 16385), (16384, 1), (1, 16384), ((1 << 63) - 1, 1), (1, (1 << 63) - 1)):
            with pytest.raises(ValueError, match="outside the segment"):
                file.record_lock(offset, size)

    def test_read_only(self, make):
        segment = make("file")
        with polyshm.Segment(segment.address, access="r") as other:
            with pytest.raises(TypeError, match="read-only"):
                other.record_lock()
            with other.record_lock(shared=True):
                assert segment.record_lock().acquire(False) is False

    def test_bad_arguments(self, file):
        lock = file.record_lock()
        with pytest.raises(ValueError, match="non-blocking"):
            lock.acquire(False, 1)
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(timeout=-3)
        with pytest.raises(TypeError, match="'exclusive'"):
            file.record_lock(exclusive=True)


class TestForeignPartners:
    def test_fcntl_meets_it_at_the_offset_in_the_file(self, make):
        whole = make("file")
        with polyshm.Segment(whole.address, offset=1000, size=2000) as window:
            with window.record_lock(24, 8):
                with open(whole.name, "r+b") as file:
                    with pytest.raises(BlockingIOError):
                        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1024)
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1023)
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1032)
                    probe = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
                    kind, _, start, length, pid = struct.unpack("hhqqi4x", fcntl.fcntl(file, F_OFD_GETLK, probe))
                    assert (kind, start, length, pid) == (fcntl.F_WRLCK, 1024, 8, -1)
