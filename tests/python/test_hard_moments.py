"""Moments at which something is taken away: by a fork, another thread, another handle, a failing system call."""

import ctypes
import errno
import mmap
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import polyshm
import pytest


def in_child(body: Callable[[], object]) -> object:
    """Runs `body` in a forked child; what it returns must be an exit code's worth of int."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(int(body()))  # type: ignore[call-overload]
        except BaseException:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_without_the_pages_leaves_other_memory_alone():
    size = 1 << 22
    segment = polyshm.Segment("anon:", size=size)
    segment.advise("dontfork")

    def body() -> int:
        others = [mmap.mmap(-1, size) for _ in range(4)]  # would come to lie in the hole
        segment.close()
        for other in others:
            other[:] = b"x" * size
        return 0

    assert in_child(body) == 0
    segment.write(0, b"still here")


def test_a_partly_advised_segment_is_refused_as_a_whole_in_the_child():
    segment = polyshm.Segment("anon:", size=16384)
    segment.advise("dontfork", 4096, 4096)

    def body() -> int:
        with pytest.raises(ValueError, match="may not be accessed"):
            segment.read(0, 1)
        return 0

    assert in_child(body) == 0


def test_what_the_parent_holds_does_not_bind_the_child():
    segment = polyshm.Segment("memfd:held", size=8192)
    lock = segment.mutex(0, create=True)

    def body() -> int:
        with pytest.raises(RuntimeError):
            lock.release()
        segment.protect("r")
        segment.close()
        return "memfd:held" in Path("/proc/self/maps").read_text()

    with lock:
        assert in_child(body) == 0
    assert not lock.locked()


def test_a_wait_of_the_parent_does_not_bind_the_child():
    segment = polyshm.Segment("memfd:waited", size=8192)
    word = segment.atomic("u32", 0)
    waiter = threading.Thread(target=word.wait, args=(0, 30))
    waiter.start()

    def body() -> int:
        segment.close()
        return "memfd:waited" in Path("/proc/self/maps").read_text()

    try:
        assert in_child(body) == 0
    finally:
        word.store(1)
        word.notify()
        waiter.join()


def test_locks_work_beside_pages_with_other_rights():
    segment = polyshm.Segment("anon:", size=8192)
    plain = segment.mutex(0, create=True)
    recursive = segment.mutex(64, create=True, recursive=True)
    segment.protect("r", 4096)
    for lock in (plain, recursive):
        lock.acquire()
        lock.release()
        assert not lock.locked()
    plain.acquire()
    segment.close()
    plain.release()


def test_a_mark_can_be_taken_away_beside_pages_with_other_rights():
    segment = polyshm.Segment("anon:", size=8192)
    lock = segment.mutex(0, create=True)
    assert in_child(lock.acquire) == 1
    segment.protect("r", 4096)
    with lock.recover() as died:
        assert died is not None
    with lock:
        pass


def test_a_mutex_made_anew_under_its_owner_stays_mapped_for_him():
    def body() -> int:
        segment = polyshm.Segment("anon:", size=4096)
        other = polyshm.Segment("anon:", size=4096).mutex(0, create=True)
        lock = segment.mutex(0, create=True)
        lock.acquire()
        again = threading.Thread(target=lambda: segment.mutex(0, create=True))
        again.start()
        again.join()
        with pytest.raises(RuntimeError):
            lock.release()
        lock.acquire()
        lock.release()
        segment.close()
        with other:  # goes through this thread's list of held locks
            return 0

    assert in_child(body) == 0  # which takes with it what is mapped for ever


def test_threads_that_share_a_lock_object_exclude_each_other():
    segment = polyshm.Segment("anon:", size=4096)
    lock = segment.mutex(0, create=True)
    counter = segment.view("i64", 64, 1)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(3000):
                assert lock.acquire(timeout=30)
                counter[0] += 1
                lock.release()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert counter[0] == 24000


def test_threads_that_share_a_record_lock_object_exclude_each_other():
    segment = polyshm.Segment("memfd:records", size=4096)
    lock = segment.record_lock()
    inside: list[int] = []

    def work(number: int) -> None:
        for _ in range(2000):
            try:
                lock.acquire(timeout=30)
            except RuntimeError:
                continue  # this very object has it
            inside.append(number)
            assert inside == [number]
            inside.pop()
            lock.release()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not inside


def test_options_for_huge_pages_do_not_change_what_exists():
    first = polyshm.Segment("sysv:private", size=4096)
    try:
        stat = first.stat()
        again = polyshm.Segment(f"sysv:id={stat.id}", hugepages=True)
        neighbour = polyshm.Segment("anon:", size=1 << 22)
        again.protect("none")
        neighbour.fill(1)
        first.write(0, b"x")
    finally:
        first.unlink()


def test_a_creation_that_fails_never_had_a_name(name):
    taken = mmap.mmap(-1, 4096)
    at = ctypes.addressof(ctypes.c_char.from_buffer(taken))
    with pytest.raises(OSError) as caught:
        polyshm.Segment(f"posix:{name}", size=4096, create=True, at=at)
    assert caught.value.errno == errno.EEXIST
    assert not polyshm.exists(f"posix:{name}")


@pytest.mark.parametrize("address", ["anon:", "sysv:private", "memfd:low"])
def test_an_address_that_rounds_to_nothing_is_refused(address):
    with pytest.raises(OSError) as caught:
        polyshm.Segment(address, size=4096, at=100, round=True)
    assert caught.value.errno == errno.EINVAL


def test_a_link_that_leads_nowhere_is_not_created_through(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    with pytest.raises(FileExistsError):
        polyshm.Segment(f"file:{link}", size=4096, create=True)
    assert not (tmp_path / "target").exists()


def test_growth_keeps_memory_locked():
    segment = polyshm.Segment("memfd:locked", size=1 << 16, locked=True)
    view = segment.view("u8")

    def locked() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmLck"))

    before = locked()
    if not before:
        pytest.skip("mlock does nothing here: AddressSanitizer takes it out")
    segment.resize(1 << 20)
    assert locked() - before >= ((1 << 20) - (1 << 16)) // 1024
    view.release()
    segment.close()
    assert locked() < before


@pytest.mark.parametrize("how", ["read_into", "write", "slice"])
def test_overlapping_bytes_move_as_if_they_were_copied_first(how):
    segment = polyshm.Segment("anon:", size=8192)
    segment.write(0, bytes(range(251)) * 32)
    wanted = segment.read(100, 4096)
    with memoryview(segment) as view:
        if how == "read_into":
            segment.read_into(view[:4096], 100)
        elif how == "write":
            segment.write(0, view[100:4196])
        else:
            segment[0:4096] = view[100:4196]
    assert segment.read(0, 4096) == wanted


def test_huge_pages_that_are_not_there_are_lost_to_every_handle():
    try:
        first = polyshm.Segment("sysv:private", size=4096, reserve=False, hugepages=True)
    except OSError as error:
        if error.errno not in (errno.ENOMEM, errno.EOPNOTSUPP, errno.EPERM):
            raise
        return  # a kernel that asks at once
    try:
        again = polyshm.Segment(f"sysv:id={first.stat().id}")
        try:
            again.read(0, 1)
        except polyshm.Lost:
            assert again.lost
    finally:
        first.unlink()


def test_a_mutex_made_anew_as_recursive_is_recursive_for_every_handle():
    segment = polyshm.Segment("anon:", size=4096)
    old = segment.mutex(0, create=True)
    segment.mutex(0, create=True, recursive=True)
    assert old.acquire()
    assert old.acquire()
    old.release()
    assert old.locked()
    old.release()
    assert not old.locked()


def test_a_step_beyond_all_bytes_takes_the_first():
    segment = polyshm.Segment("anon:", size=4096)
    segment[1 : 4096 : sys.maxsize] = b"x"
    assert segment[1 : 4096 : sys.maxsize] == b"x"
    assert segment[4095 : 0 : -sys.maxsize] == b"\0"
