# SPDX-License-Identifier: MIT
"""Segments of every kind: opening, attributes, bytes, closing."""

from __future__ import annotations

import errno
import gc
import inspect
import mmap
import os
import re
import sys
import weakref
from multiprocessing import resource_tracker, shared_memory

import polyshm
import pytest

SIZE = 16384
NAMED = ("posix", "sysv", "ftok", "file")


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


class TestEveryKind:
    def test_attributes(self, segment):
        assert segment.size == len(segment) == SIZE
        assert segment.kind == segment.address.partition(":")[0]
        assert segment.name == segment.address.partition(":")[2]
        assert segment.readonly is False
        assert segment.lost is False
        assert segment.closed is False
        assert segment.created is (segment.kind != "fd")
        assert isinstance(segment.fd, int) if segment.kind in ("posix", "file", "memfd", "fd") else segment.fd is None

    def test_attributes_are_read_only(self, segment):
        with pytest.raises(AttributeError):
            segment.size = 1
        with pytest.raises(AttributeError):
            segment.other = 1
        with pytest.raises((AttributeError, TypeError)):
            polyshm.Segment.read = None

    def test_starts_as_zeros(self, segment):
        assert segment.read() == bytes(SIZE)

    def test_write_and_read(self, segment):
        assert segment.write(100, b"hello") is None
        assert segment.read(100, 5) == b"hello"
        assert segment.read(size=2, offset=101) == b"el"
        assert segment.read(SIZE - 3) == bytes(3)
        assert segment.read(SIZE) == b""
        segment.write(data=bytearray(b"at the end"), offset=SIZE - 10)
        assert segment.read(SIZE - 10) == b"at the end"

    def test_read_into(self, segment):
        segment.write(0, b"0123456789")
        into = bytearray(4)
        assert segment.read_into(into, 3) is None
        assert into == b"3456"
        part = memoryview(into)[1:3]
        segment.read_into(buffer=part, offset=0)
        assert into == b"3016"

    def test_fill_copy_find(self, segment):
        segment.fill(7, 10, 5)
        assert segment.read(9, 7) == b"\0" + b"\7" * 5 + b"\0"
        segment.write(0, b"abcdef")
        segment.copy(2, 0, 6)
        assert segment.read(0, 8) == b"ababcdef"
        segment.copy(target=0, source=2, size=6)
        assert segment.read(0, 8) == b"abcdefef"
        assert segment.find(b"def") == 3
        assert segment.find(b"def", 4) == -1
        assert segment.find(b"def", start=0, end=5) == -1
        assert segment.find(bytearray(b"def"), 3, 6) == 3
        assert segment.find(b"") == 0
        segment.fill()
        assert segment.find(b"\0", SIZE - 1) == SIZE - 1
        assert segment.read() == bytes(SIZE)

    def test_context_manager(self, segment):
        with segment as same:
            assert same is segment
        assert segment.closed
        with pytest.raises(ValueError, match="closed"):
            with segment:
                pass

    def test_exit_does_not_hide_the_exception(self, segment):
        with pytest.raises(ZeroDivisionError):
            with segment:
                segment.close()
                1 / 0  # noqa: B018

    def test_close_twice(self, segment):
        segment.close()
        segment.close()
        assert segment.closed
        assert segment.fd is None

    def test_repr(self, segment):
        assert repr(segment) == f"<polyshm.Segment {segment.address!r} size=16384>"
        segment.close()
        assert repr(segment).endswith("closed>")

    def test_views_outlive_close(self, segment):
        segment.write(0, b"stay")
        lent = memoryview(segment)
        view = segment.view("u8", 0, 4)
        part = view[1:3]
        segment.close()
        assert bytes(lent[:4]) == b"stay"
        assert bytes(part) == b"ta"
        view[0] = ord("S")
        assert lent[0] == ord("S")
        again = memoryview(view.obj)
        assert again[0] == ord("S")
        lent.release()
        view.release()
        again.release()
        assert bytes(part) == b"ta"
        part.release()
        with pytest.raises(ValueError, match="closed"):
            memoryview(segment)

    def test_dropping_everything_unmaps(self, segment):
        view = segment.view("u8")
        place = memoryview_address(view)
        segment.close()
        assert is_mapped(place)
        view.release()
        assert not is_mapped(place)

    def test_weak_reference(self, make):
        segment = make("anon")
        assert weakref.ref(segment)() is segment

    def test_stat(self, segment):
        stat = segment.stat()
        assert stat.address == segment.address
        assert stat.kind == segment.kind
        assert stat.size == SIZE
        assert stat[2] == SIZE
        if segment.kind == "sysv":
            assert (stat.mode, stat.uid, stat.gid, stat.cuid) == (0o600, os.getuid(), os.getgid(), os.getuid())
            assert stat.attaches == 1
            assert stat.creator_pid == stat.last_pid == os.getpid()
            assert stat.detach_time == 0 < stat.attach_time
            assert stat.inode is None
        elif segment.kind in ("anon", "zero"):
            assert [value for value in stat if value is not None] == [segment.address, segment.kind, SIZE]
        else:
            real = os.fstat(segment.fd)
            assert (stat.inode, stat.device, stat.links) == (real.st_ino, real.st_dev, real.st_nlink)
            assert stat.mode == real.st_mode & 0o7777
            assert stat.key is None

    def test_flush_advise_pin(self, segment):
        assert segment.flush() is None
        segment.flush(10, 5000, wait=False)
        segment.flush(0, 4096, wait=True, invalidate=True)
        segment.advise("willneed")
        segment.advise("sequential", 0, 4096)
        segment.advise(advice="normal", offset=4096)
        segment.pin(0, 4096)
        segment.unpin(0, 4096)
        segment.pin()
        segment.unpin()
        segment.pin(on_fault=True)
        segment.unpin()

    def test_protect(self, segment):
        segment.write(0, b"x")
        segment.protect("r")
        assert segment.read(0, 1) == b"x"
        with pytest.raises(TypeError, match="read-only"):
            segment.write(0, b"y")
        with pytest.raises(TypeError, match="read-only"):
            segment[0] = 1
        assert memoryview(segment).readonly
        segment.protect("none", 4096, 4096)
        assert segment.read(0, 4096)[:1] == b"x"
        for touch in (
            lambda: segment.read(),
            lambda: segment.read(4096, 1),
            lambda: segment[5000],
            lambda: memoryview(segment),
            lambda: segment.view("u8", 4096, 1),
        ):
            with pytest.raises(ValueError, match="may not be accessed"):
                touch()
        segment.protect(access="rw")
        segment.write(0, b"y" * SIZE)
        assert segment.read(8192, 1) == b"y"

    def test_protect_with_views(self, segment):
        view = segment.view("u8")
        with pytest.raises(BufferError, match=r"release them first"):
            segment.protect("r")
        view.release()
        segment.protect("r")
        view = segment.view("u8")
        assert view.readonly
        segment.protect("rw")  # more is always fine
        view.release()

    def test_set(self, segment):
        if segment.kind in ("anon", "zero"):
            with pytest.raises(OSError, match=re.escape(segment.address)) as caught:
                segment.set(mode=0o600)
            assert caught.value.errno == errno.EOPNOTSUPP
            return
        segment.set(mode=0o640)
        assert segment.stat().mode & 0o777 == 0o640
        segment.set(mode="0604")
        assert segment.stat().mode & 0o777 == 0o604
        segment.set(uid=os.getuid(), gid=os.getgid())
        segment.set()

    def test_resize(self, segment):
        segment.write(0, b"keep")
        if segment.kind in ("sysv", "anon", "zero"):
            with pytest.raises(OSError, match="supported") as caught:
                segment.resize(4096)
            assert caught.value.errno == errno.EOPNOTSUPP
            assert caught.value.filename == segment.address
            return
        segment.resize(SIZE * 2)
        assert len(segment) == SIZE * 2
        assert segment.read(0, 4) == b"keep"
        assert segment.read(SIZE) == bytes(SIZE)
        if segment.kind == "memfd":
            with pytest.raises(PermissionError, match=segment.address):
                segment.resize(4096)  # sealed
            return
        segment.resize("4K")
        assert segment.size == 4096
        assert os.fstat(segment.fd).st_size == 4096
        with pytest.raises(ValueError, match="outside"):
            segment.read(4096, 1)
        with pytest.raises(ValueError, match="size 0"):
            segment.resize(0)

    def test_resize_with_views(self, make):
        segment = make("posix")
        view = segment.view("u8")
        view[0] = 1
        with pytest.raises(BufferError):
            segment.resize(4096)
        segment.resize(SIZE * 4)
        assert len(view) == SIZE
        view[1] = 2
        assert segment.read(0, 2) == b"\1\2"
        view.release()
        segment.resize(4096)

    def test_unlink(self, segment):
        segment.unlink()
        assert segment.read(0, 1) == b"\0"
        if segment.kind in ("posix", "file"):
            assert not polyshm.exists(segment.address)
            with pytest.raises(FileNotFoundError):
                segment.unlink()


class TestSharing:
    @pytest.mark.parametrize("kind", NAMED)
    def test_second_handle(self, make, kind):
        first = make(kind)
        second = polyshm.Segment(first.address)
        assert second.created is False
        assert second.size == SIZE
        first.write(0, b"there")
        assert second.read(0, 5) == b"there"
        second[0] = ord("T")
        assert first[0] == ord("T")
        second.close()
        assert first.read(0, 5) == b"There"

    @pytest.mark.parametrize("kind", NAMED)
    def test_create_opens_what_exists(self, make, kind):
        first = make(kind, mode=0o600)
        second = polyshm.Segment(first.address, size=4096, create=True, mode=0o666)
        assert second.created is False
        assert second.size == 4096
        assert first.stat().size == SIZE
        assert first.stat().mode & 0o777 == 0o600
        second.close()
        with pytest.raises(ValueError, match="do not fit"):
            polyshm.Segment(first.address, size=SIZE + 1, create=True)

    @pytest.mark.parametrize("kind", NAMED)
    def test_exclusive(self, make, kind):
        first = make(kind)
        with pytest.raises(FileExistsError) as caught:
            polyshm.Segment(first.address, size=SIZE, create=True, exclusive=True)
        assert caught.value.errno == errno.EEXIST
        assert caught.value.filename == first.address

    @pytest.mark.parametrize("kind", NAMED)
    def test_read_only(self, make, kind):
        first = make(kind)
        first.write(0, b"look")
        with polyshm.Segment(first.address, access="r") as second:
            assert second.readonly
            assert "readonly" in repr(second)
            assert second.read(0, 4) == second[0:4] == b"look"
            assert memoryview(second).readonly
            assert second.view("u8").readonly
            for change in (
                lambda: second.write(0, b"x"),
                lambda: second.fill(),
                lambda: second.copy(0, 1, 1),
                lambda: second.__setitem__(0, 1),
                lambda: second.__setitem__(slice(0, 1), b"x"),
                lambda: second.__setitem__(slice(0, 4, 2), b"xy"),
                lambda: second.atomic("u32", 0).add(1),
            ):
                with pytest.raises(TypeError, match=f"{re.escape(first.address)}: the memory is read-only"):
                    change()
            assert second.atomic("u32", 0).load() == int.from_bytes(b"look", "little")
            with pytest.raises(BufferError):
                second.read_into(second)

    @pytest.mark.parametrize("kind", ["posix", "file", "memfd"])
    def test_copy_on_write(self, make, kind):
        first = make(kind)
        first.write(0, b"mine")
        address = first.address if kind != "memfd" else f"fd:{first.fd}"
        with polyshm.Segment(address, access="copy") as second:
            second.write(0, b"your")
            assert first.read(0, 4) == b"mine"
            assert second.read(0, 4) == b"your"

    def test_no_access(self, make):
        segment = make("anon", access="none")
        with pytest.raises(ValueError, match="may not be accessed"):
            segment.read(0, 1)
        segment.protect("rw", 0, 4096)
        segment.write(0, b"now")
        assert segment.read(0, 3) == b"now"
        with pytest.raises(ValueError, match="may not be accessed"):
            segment.read(4096, 1)

    @pytest.mark.parametrize("offset", [0, 1, 100, 4096, 5000])
    @pytest.mark.parametrize("kind", ["file", "posix"])
    def test_window(self, make, kind, offset):
        whole = make(kind)
        whole.write(0, bytes(range(256)) * 64)
        with polyshm.Segment(whole.address, offset=offset, size=1000) as window:
            assert window.size == 1000
            assert window.read() == whole.read(offset, 1000)
            window[0] = 255
            assert whole[offset] == 255
            with pytest.raises(ValueError, match="outside"):
                window.read(1000, 1)
        with polyshm.Segment(whole.address, offset=offset) as window:
            assert window.size == SIZE - offset
        with pytest.raises(ValueError, match="do not fit"):
            polyshm.Segment(whole.address, offset=offset, size=SIZE - offset + 1)

    def test_file_is_created_and_grown(self, tmp_path):
        path = tmp_path / "new"
        with polyshm.Segment(f"file:{path}", size="8K", create=True, mode="0640") as segment:
            segment.write(0, b"first")
            assert segment.created
        assert path.stat().st_size == 8192
        assert path.stat().st_mode & 0o777 == 0o640
        assert path.read_bytes()[:5] == b"first"
        with polyshm.Segment(f"file:{path}") as segment:
            segment.resize(10000)
        assert path.stat().st_size == 10000

    def test_fd_is_inherited(self, make, python):
        segment = make("memfd", inherit=True)
        segment.write(0, b"ping")
        code = """
import polyshm, sys
with polyshm.Segment("fd:" + sys.argv[1]) as s:
    assert s.read(0, 4) == b"ping"
    s.write(0, b"pong")
"""
        python(code, segment.fd, close_fds=False)
        assert segment.read(0, 4) == b"pong"
        assert os.get_inheritable(segment.fd)
        assert not os.get_inheritable(make("memfd").fd)

    def test_memfd_does_not_shrink(self, make):
        segment = make("memfd")
        with pytest.raises(OSError):
            os.ftruncate(segment.fd, 0)

    def test_sysv_by_id(self, make):
        first = make("private")
        number = next(row.id for row in polyshm.list() if row.kind == "sysv" and row.creator_pid == os.getpid())
        assert first.stat().id == number
        with polyshm.Segment(f"sysv:id={number}") as second:
            second[0] = 9
            assert first[0] == 9
            assert first.stat().attaches == 2
        assert first.stat().attaches == 1

    def test_sysv_decimal_key(self, make):
        first = make("sysv")
        key = int(first.name, 0)
        with polyshm.Segment(f"sysv:{key}") as second:
            first[0] = 3
            assert second[0] == 3
        assert first.stat().key == key

    def test_sysv_unlinked_id_is_dead(self, make):
        first = make("sysv")
        first.unlink()
        assert not polyshm.exists(first.address)
        with pytest.raises(OSError, match=re.escape(first.address)) as caught:
            polyshm.Segment(first.address)
        assert caught.value.errno in (errno.ENOENT, errno.EIDRM)
        first.write(0, b"still")

    def test_anonymous_memory_is_shared_with_a_fork(self, make):
        for kind in ("anon", "zero", "private", "memfd"):
            segment = make(kind)
            pid = os.fork()
            if pid == 0:
                segment.write(0, b"child")
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert segment.read(0, 5) == b"child"


class TestOptions:
    def test_mode_is_not_narrowed_by_the_umask(self, make):
        before = os.umask(0o077)
        try:
            for kind in NAMED:
                assert make(kind, mode=0o666).stat().mode & 0o777 == 0o666
                assert make(kind, mode="0o644").stat().mode & 0o777 == 0o644
        finally:
            os.umask(before)

    @pytest.mark.parametrize(
        "option",
        [
            {"reserve": False},
            {"reserve": True},
            {"reserve": None},
            {"populate": True},
            {"locked": True},
            {"exec": True},
            {"inherit": True},
            {"mode": None},
            {"hugepages": False},
            {"hugepages": None},
            {"round": True},
            {"at": None},
        ],
    )
    @pytest.mark.parametrize("kind", ["posix", "file", "anon", "zero", "memfd", "sysv"])
    def test_accepted(self, make, kind, option, request):
        if (
            kind == "file"
            and option.get("exec")
            and os.statvfs(request.getfixturevalue("tmp_path")).f_flag & os.ST_NOEXEC
        ):
            pytest.skip("the temporary directory is mounted noexec")
        segment = make(kind, **option)
        segment[0] = 1
        assert segment[0] == 1

    def test_reserved_at_creation(self, make):
        assert make("posix", "1M").stat().allocated == 1 << 20
        assert make("posix", "1M", reserve=False).stat().allocated == 0

    def test_exec_is_executable(self, make):
        segment = make("anon", exec=True)
        view = segment.view("u8")
        start = memoryview_address(view)
        view.release()
        with open("/proc/self/maps") as maps:
            line = next(line for line in maps if line.startswith(f"{start:x}-"))
        assert line.split()[1] == "rwxs"

    def test_at(self, make):
        first = make("anon")
        place = memoryview_address(first.view("u8"))
        first.close()
        second = make("anon", at=place)
        assert memoryview_address(second.view("u8")) == place
        with pytest.raises((OSError, ValueError)) as caught:
            make("anon", at=place)
        assert "anon:" in str(caught.value)

    @pytest.mark.parametrize("kind", ["anon", "sysv"])
    def test_at_rounds(self, make, kind):
        first = make(kind)
        place = memoryview_address(first.view("u8"))
        first.unlink()
        first.close()
        with pytest.raises((OSError, ValueError)):
            make(kind, at=place + 100)
        assert memoryview_address(make(kind, at=place + 100, round=True).view("u8")) == place

    def test_hugepages(self, make):
        try:
            segment = make("anon", "2M", hugepages=True)
        except OSError as error:
            assert error.errno == errno.ENOMEM  # noqa: PT017
            assert error.filename == "anon:"  # noqa: PT017
        else:
            segment[0] = 1
        with pytest.raises(OSError, match="posix:") as caught:
            make("posix", "2M", hugepages="2M")
        assert caught.value.errno == errno.EOPNOTSUPP
        with pytest.raises(ValueError, match="hugepages"):
            make("anon", "2M", hugepages=1)

    @pytest.mark.parametrize("text", ["16K", "1M", 16384, "16384"])
    def test_sizes(self, make, text):
        assert make("anon", text).size in (16384, 1 << 20)


class TestModuleFunctions:
    @pytest.mark.parametrize("kind", NAMED)
    def test_by_address(self, make, kind):
        segment = make(kind)
        assert polyshm.exists(segment.address) is True
        stat = polyshm.stat(segment.address)
        assert (stat.size, stat.kind, stat.address) == (SIZE, segment.kind, segment.address)
        if segment.kind in ("posix", "sysv"):
            listed = polyshm.list()
            assert isinstance(listed, list)
            assert any(row.size == SIZE and row.inode == stat.inode and row.id == stat.id for row in listed)
        assert polyshm.unlink(address=segment.address) is None
        assert polyshm.exists(address=segment.address) is False
        for ask in (polyshm.stat, polyshm.unlink):
            with pytest.raises(FileNotFoundError) as caught:
                ask(segment.address)
            assert caught.value.filename == segment.address

    @pytest.mark.parametrize("address", ["anon:", "zero:", "memfd:x", "sysv:private"])
    def test_nothing_to_ask(self, address):
        for ask in (polyshm.stat, polyshm.exists, polyshm.unlink):
            with pytest.raises(OSError, match="supported") as caught:
                ask(address)
            assert caught.value.errno == errno.EOPNOTSUPP

    def test_listed_posix_segments_open(self, make):
        segment = make("posix")
        row = next(row for row in polyshm.list() if row.inode == segment.stat().inode)
        with polyshm.Segment(row.address) as second:
            assert second.size == SIZE

    def test_stat_type(self, anon):
        stat = anon.stat()
        assert isinstance(stat, polyshm.Stat)
        assert isinstance(stat, tuple)
        assert type(stat).__module__ == "polyshm"
        assert stat == tuple(stat)
        assert re.match(r"polyshm\.Stat\(address='anon:', kind='anon', size=16384,", repr(stat))


class TestForeignPartners:
    def test_multiprocessing_opens_ours(self, make):
        segment = make("posix")
        segment.write(0, b"ours")
        other = shared_memory.SharedMemory(segment.name.lstrip("/"))
        try:
            assert bytes(other.buf[:4]) == b"ours"
            other.buf[:6] = b"theirs"
            assert segment.read(0, 6) == b"theirs"
        finally:
            other.close()
            resource_tracker.unregister(segment.name, "shared_memory")

    def test_we_open_multiprocessing(self):
        other = shared_memory.SharedMemory(create=True, size=5000)
        try:
            with polyshm.Segment(f"posix:/{other.name}") as segment:
                other.buf[:3] = b"abc"
                assert segment.read(0, 3) == b"abc"
                segment[0] = ord("A")
                assert other.buf[0] == ord("A")
        finally:
            other.close()
            other.unlink()

    @pytest.mark.parametrize("kind", ["posix", "file", "memfd"])
    def test_mmap_of_our_descriptor(self, make, kind):
        segment = make(kind)
        with mmap.mmap(segment.fd, SIZE) as other:
            segment.write(4000, b"x" * 200)
            assert other[4000:4200] == b"x" * 200
            other[0:2] = b"hi"
            assert segment[0:2] == b"hi"

    def test_mmap_of_one_file(self, tmp_path):
        path = tmp_path / "both"
        path.write_bytes(bytes(8192))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as other:
            with polyshm.Segment(f"file:{path}") as segment:
                segment.write(5, b"polyshm")
                segment.flush()
                assert other.find(b"polyshm") == 5
        assert path.read_bytes()[5:12] == b"polyshm"


class TestLifetimes:
    def test_memory_that_a_child_will_not_have_is_not_lent(self):
        segment = polyshm.Segment("anon:", size=8192)
        view = segment.view("u8")
        with pytest.raises(BufferError, match="exported"):
            segment.advise("dontfork")
        view.release()
        segment.advise("dontfork")
        for lend in (lambda: memoryview(segment), lambda: segment.view("u8")):
            with pytest.raises(BufferError, match="dontfork"):
                lend()
        child = os.fork()
        if child == 0:
            try:
                segment.read(0, 1)
            except ValueError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        segment.advise("dofork")
        assert memoryview(segment)[0] == 0

    def test_dropping_the_handle_closes_it(self):
        before = open_fds()
        segment = polyshm.Segment("memfd:x", size=4096)
        assert open_fds() != before
        del segment
        assert open_fds() == before

    def test_derived_objects_keep_the_segment(self):
        segment = polyshm.Segment("anon:", size=4096)
        alive = weakref.ref(segment)
        atomic, mutex, view = segment.atomic("u32", 0), segment.mutex(64, create=True), segment.view("u8")
        del segment
        assert alive() is not None
        view[0] = 5
        assert atomic.load() == 5
        with mutex:
            pass
        del atomic, mutex
        assert alive() is not None
        view.release()
        del view
        gc.collect()
        assert alive() is None

    def test_handles_do_not_leak(self, make):
        source = make("posix")
        address = source.address
        kinds = (polyshm.Segment, polyshm.Atomic, polyshm.SegmentMutex, polyshm.RecordLock, memoryview)

        def alive() -> int:
            gc.collect()
            return sum(isinstance(thing, kinds) for thing in gc.get_objects())

        before, count = open_fds(), alive()
        for _ in range(50):
            with polyshm.Segment(address) as segment:
                segment.atomic("u32", 0).load()
                with segment.mutex(64, create=True):
                    segment.mutex(64)
                with segment.record_lock():
                    pass
                segment.view("u8")[0:3].tolist()
                with pytest.raises(ValueError, match="closed"):
                    segment.close() or segment.read()
        del segment
        assert alive() == count
        assert open_fds() == before

    def test_memory_does_not_leak(self, anon):
        """The same number of blocks after a round of everything, errors too, as after the round before."""
        lock = anon.mutex(64, create=True, repair=print)
        word = anon.atomic("u64", 0)

        def everything() -> None:
            for _ in range(100):
                anon.write(512, b"x" * 64)
                assert anon.read(512, 64) == anon[512:576]
                anon[512:576:2] = anon[512:576:2]
                anon.view("f64", 512, 8)[0] = 1.5
                word.add(-1)
                with lock, lock.recover() if not lock.locked() else anon.view("u8"):
                    pass
                anon.stat()
                repr((anon, lock, word))
                for fault in (
                    lambda: anon.read(1 << 40, 1),
                    lambda: anon.atomic("u8", 0),
                    lambda: anon.read(x=1),
                    lambda: polyshm.Segment("posix:/not/a/name"),
                    lambda: polyshm.Segment("posix:/" + "x" * 250),
                    lambda: lock.release(),
                    lambda: word.store(1 << 70),
                    lambda: anon.read_into(b"1"),
                ):
                    with pytest.raises((ValueError, TypeError, RuntimeError, OSError, BufferError)):
                        fault()

        everything()
        gc.collect()
        before = sys.getallocatedblocks()
        everything()
        gc.collect()
        assert sys.getallocatedblocks() - before < 50

    def test_constructor_failures_do_not_leak(self, name):
        before = open_fds()
        for options in ({}, {"size": 0, "create": True}, {"size": 1 << 60, "create": True}, {"access": "w"}):
            with pytest.raises((OSError, ValueError)):
                polyshm.Segment(f"posix:{name}", **options)
        assert open_fds() == before
        assert not polyshm.exists(f"posix:{name}")


class TestSignatures:
    def test_all_public_callables_have_one(self):
        for holder in (polyshm, polyshm.Segment, polyshm.Atomic, polyshm.SegmentMutex, polyshm.RecordLock):
            for name, thing in vars(holder).items():
                if callable(thing) and not name.startswith("_") and not isinstance(thing, type):
                    assert inspect.signature(thing) is not None, name
                    assert len(inspect.getdoc(thing) or "") > 5, name

    def test_constructor(self):
        parameters = inspect.signature(polyshm.Segment).parameters
        assert list(parameters) == [
            "address",
            "size",
            "offset",
            "access",
            "exec",
            "create",
            "exclusive",
            "mode",
            "reserve",
            "populate",
            "locked",
            "hugepages",
            "inherit",
            "at",
            "round",
        ]
        assert parameters["access"].default == "rw"

    def test_new_and_call_agree(self):
        for build in (polyshm.Segment, lambda *a, **k: polyshm.Segment.__new__(polyshm.Segment, *a, **k)):
            with build(address="anon:", size=4096) as segment:
                assert segment.size == 4096
            with pytest.raises(TypeError, match="'colour'"):
                build("anon:", size=4096, colour=1)
            with pytest.raises(TypeError, match="positional"):
                build("anon:", 4096)
            with pytest.raises(TypeError, match="'address'"):
                build(size=4096)
            with pytest.raises(TypeError, match="multiple values"):
                build("anon:", address="anon:", size=4096)

    def test_version(self):
        assert re.fullmatch(r"\d+\.\d+\.\d+", polyshm.__version__)
        names = [n for n in dir(polyshm) if not n.startswith("_") or n == "__version__"]
        names = [n for n in names if n != "aio"]  # a module, which is there once it was imported
        assert sorted(polyshm.__all__) == sorted(names)


def memoryview_address(view: memoryview) -> int:
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    gc.collect()
    return address


def is_mapped(address: int) -> bool:
    with open("/proc/self/maps") as maps:
        return any(int(line.split("-")[0], 16) <= address < int(line.split("-")[1].split()[0], 16) for line in maps)
