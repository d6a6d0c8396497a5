# SPDX-License-Identifier: MIT
"""Arenas: opening and creating, names and their objects, the whole, the end."""

from __future__ import annotations

import errno
import gc
import inspect
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import weakref

import polyshm
import pytest
from conftest import KINDS, NAMED
from elsewhere import die_holding, in_child, in_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

fork = multiprocessing.get_context("fork")
spawn = multiprocessing.get_context("spawn")

# Of the header: the first bytes, format, size (docs/layout.rst).
MAGIC = b"polyshm\x1a"


class TestOpening:
    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind(self, make_arena, kind):
        arena = make_arena(kind)
        assert arena.created is True
        assert arena.kind == {"ftok": "sysv", "private": "sysv"}.get(kind, kind)
        assert arena.address.startswith(f"{arena.kind}:")
        assert arena.size == 1 << 20
        assert arena.life == "keep"
        assert (arena.readonly, arena.closed, arena.lost) == (False, False, False)
        assert 0 < arena.id < 1 << 64
        assert arena.counter("n").add() == 1
        with arena.mutex("books"):
            assert sorted(arena) == ["books", "n"]
        assert in_child(arena["n"].add) == 0
        assert arena["n"].load() == 2
        assert arena.check() == []
        assert repr(arena) == f"<polyshm.Arena {arena.address!r} size=1048576>"

    @pytest.mark.parametrize("kind", NAMED)
    def test_again(self, make_arena, kind):
        arena = make_arena(kind)
        arena.counter("n").add()
        for options in ({}, {"create": True}, {"access": "r"}, {"create": True, "size": "1M", "life": "keep"}):
            with polyshm.Arena(arena.address, **options) as other:
                assert other.created is False
                assert other.id == arena.id
                assert other["n"].load() == 1
                assert other.readonly == ("access" in options)

    @pytest.mark.parametrize("kind", NAMED)
    def test_nothing_there(self, address, kind):
        where = address(kind)
        with pytest.raises(FileNotFoundError) as caught:
            polyshm.Arena(where)
        assert caught.value.filename == where

    @pytest.mark.parametrize("kind", NAMED)
    def test_exclusive(self, make_arena, kind):
        arena = make_arena(kind, exclusive=True)
        with pytest.raises(FileExistsError):
            polyshm.Arena(arena.address, create=True, exclusive=True)
        with pytest.raises(FileExistsError):
            polyshm.Arena(arena.address, exclusive=True)

    def test_defaults(self, make_arena):
        arena = make_arena(size=None)
        assert arena.size == 16 << 20
        assert arena.stats()["participants"] == 1024
        assert polyshm.stat(arena.address).mode == 0o600
        small = make_arena(size="256K")
        assert 0 < small.stats()["participants"] < 1024

    def test_options(self, make_arena):
        arena = make_arena(size="2M", mode="640", reserve=False, life="last-detach", participants=7)
        assert arena.size == 2 << 20
        assert arena.life == "last-detach"
        assert arena.stats()["participants"] == 7
        assert polyshm.stat(arena.address).mode == 0o640

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"size": "2M"}, "size '2M'"),
            ({"life": "last-detach"}, "life 'last-detach'"),
            ({"participants": 9}, "participants 9"),
            ({"size": "1M", "participants": 9}, "size '1M', participants 9"),
        ],
    )
    def test_parameters_that_disagree(self, make_arena, options, text):
        arena = make_arena(participants=10)
        for create in (False, True):
            with pytest.raises(ValueError, match=f"{arena.address}: {text}: exists, and this parameter"):
                polyshm.Arena(arena.address, create=create, **options)

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"size": 0}, ValueError, "size"),
            ({"size": 8192}, ValueError, "size 8192: the size is too small for an arena"),
            ({"size": "1M", "participants": 30000}, ValueError, "too small for an arena with so many participants"),
            ({"size": -1}, ValueError, "negative"),
            ({"size": "lots"}, ValueError, "not a size"),
            ({"size": 1.5}, TypeError, "size must be an integer or text"),
            ({"size": 1 << 62}, (ValueError, OSError), "[Tt]oo|larger|[Nn]o space|memory"),
            ({"access": "copy"}, ValueError, 'access must be "rw" or "r", or of a segment'),
            ({"access": "none"}, ValueError, "access"),
            ({"access": "w"}, ValueError, "access 'w'"),
            ({"access": None}, TypeError, "access must be str"),
            ({"access": "r"}, TypeError, "the memory is read-only"),
            ({"mode": 0o1777}, ValueError, "mode"),
            ({"mode": 1.0}, TypeError, "mode"),
            ({"life": "short"}, ValueError, "life 'short': life must be"),
            ({"life": 1}, TypeError, "life must be str"),
            ({"participants": 0}, ValueError, "participants 0: participants must be from 1 to 32766"),
            ({"participants": 32767}, ValueError, "from 1 to 32766"),
            ({"participants": -1}, ValueError, "negative"),
            ({"participants": "9"}, TypeError, "participants must be an integer"),
            ({"wait": -1}, ValueError, "timeout"),
            ({"wait": "1"}, TypeError, "timeout"),
            ({"colour": 1}, TypeError, "'colour'"),
        ],
    )
    def test_bad_options(self, name, options, error, text):
        with pytest.raises(error, match=text):
            polyshm.Arena(f"posix:{name}", **({"create": True} | options))
        assert not polyshm.exists(f"posix:{name}")

    def test_bad_addresses(self):
        for address in ("", "posix", "posix:x", "nothing:/x", "posix:/a/b"):
            with pytest.raises(ValueError):
                polyshm.Arena(address, create=True)
        with pytest.raises(TypeError, match="address must be str"):
            polyshm.Arena(b"anon:")

    def test_new_and_call_agree(self):
        for build in (polyshm.Arena, lambda *a, **k: polyshm.Arena.__new__(polyshm.Arena, *a, **k)):
            with build(address="anon:", size="256K") as arena:
                assert arena.size == 256 << 10
            with pytest.raises(TypeError, match="'colour'"):
                build("anon:", colour=1)
            with pytest.raises(TypeError, match="positional"):
                build("anon:", 4096)
            with pytest.raises(TypeError, match="'address'"):
                build(size="256K")
            with pytest.raises(TypeError, match="multiple values"):
                build("anon:", address="anon:")
            with pytest.raises(TypeError):
                build(**{"address": "anon:", 1: 2})

    def test_signatures(self):
        parameters = inspect.signature(polyshm.Arena).parameters
        assert list(parameters) == [
            "address",
            "size",
            "access",
            "create",
            "exclusive",
            "mode",
            "reserve",
            "wait",
            "life",
            "participants",
        ]
        for holder in (polyshm.Arena, polyshm.Mutex, polyshm.Counter, polyshm.Participant):
            for name, thing in vars(holder).items():
                if callable(thing) and not name.startswith("_"):
                    assert inspect.signature(thing) is not None, name
                    assert len(inspect.getdoc(thing) or "") > 5, name

    def test_relative_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with polyshm.Arena("file:here", size="256K", create=True) as arena:
            arena.counter("n").add()
            assert arena.address == "file:here"
            with polyshm.Arena(f"file:{tmp_path}/here") as other:
                assert (other.address, other.id) == (f"file:{tmp_path}/here", arena.id)

    def test_two_ways_to_one(self, make_arena):
        arena = make_arena()
        fd = os.open("/dev/shm" + arena.address.partition(":")[2], os.O_RDWR)
        try:
            with polyshm.Arena(f"fd:{fd}") as other:
                assert (other.id, other.kind, arena.kind) == (arena.id, "fd", "posix")
                lock = other.mutex("books")
                with lock, pytest.raises(RuntimeError, match="already held"):
                    arena.mutex("books").acquire()
        finally:
            os.close(fd)

    def test_no_room(self, tmp_path):
        with pytest.raises(OSError) as caught:
            polyshm.Arena(f"posix:/polyshm-test-{os.getpid()}-large", size="100000G", create=True)
        assert caught.value.errno in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EINVAL)


class TestCreators:
    @pytest.mark.parametrize("kind", NAMED)
    def test_many_at_once(self, address, make_arena, kind):
        """One creates, all have the same arena."""
        where = address(kind)
        with polyshm.Segment("anon:", size=4096) as board:
            started, created = board.atomic("u32", 0), board.atomic("u32", 4)
            view = board.view("u64", 64, 16)

            def work(number):
                started.add(1)
                while started.load() < 6:
                    pass
                with polyshm.Arena(where, size="256K", create=True) as arena:
                    created.add(int(arena.created))
                    view[number] = arena.id
                    arena.counter("n").add()

            processes = [fork.Process(target=work, args=(number,)) for number in range(6)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            try:
                assert [process.exitcode for process in processes] == [0] * 6
                assert created.load() == 1
                assert len(set(view[:6])) == 1
                with polyshm.Arena(where) as arena:
                    assert arena["n"].load() == 6
                    assert arena.check() == []
            finally:
                view.release()
                polyshm.unlink(where)

    def test_exclusive_has_one_winner(self, address):
        where = address("posix")
        with polyshm.Segment("anon:", size=4096) as board:
            started, won = board.atomic("u32", 0), board.atomic("u32", 4)

            def work():
                started.add(1)
                while started.load() < 4:
                    pass
                try:
                    polyshm.Arena(where, size="256K", create=True, exclusive=True).close()
                    won.add(1)
                except FileExistsError:
                    pass

            processes = [fork.Process(target=work) for _ in range(4)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            polyshm.unlink(where)
            assert [process.exitcode for process in processes] == [0] * 4
            assert won.load() == 1

    def test_objects_have_one_creator(self, arena):
        """All processes that create by name have the same object."""

        def work():
            for number in range(200):
                arena.counter(f"counter {number}").add()

        processes = [fork.Process(target=work) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert len(arena) == 200
        assert [counter.load() for _, counter in arena.items()] == [3] * 200
        assert arena.check() == []

    def test_wait(self, address):
        where = address("posix")
        start = time.monotonic()
        with pytest.raises(FileNotFoundError):
            polyshm.Arena(where, wait=0.15)
        assert 0.15 <= time.monotonic() - start < 10
        made: list = []
        timer = threading.Timer(0.1, lambda: made.append(polyshm.Arena(where, size="256K", create=True)))
        timer.start()
        try:
            with polyshm.Arena(where, wait=None) as arena:
                assert arena.created is False
        finally:
            timer.join()
            made.pop().close()
            polyshm.unlink(where)

    def test_wait_is_interrupted(self, address):
        def interrupt(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                polyshm.Arena(address("posix"), wait=None)
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_a_killed_creator(self, address):
        """Whenever it dies, the next one has a whole arena."""
        for attempt in range(15):
            where = address("sysv" if attempt % 2 else "posix")
            pid = os.fork()
            if pid == 0:
                polyshm.Arena(where, size="64M", create=True)
                os._exit(0)
            time.sleep(attempt / 2000)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            with polyshm.Arena(where, size="64M", create=True) as arena:
                assert arena.counter("n").add() == 1
                assert arena.check() == []
                arena.unlink()


class TestLife:
    def test_keep(self, make_arena):
        arena = make_arena()
        arena.counter("n").add()
        arena.close()
        with polyshm.Arena(arena.address) as again:
            assert again["n"].load() == 1

    def test_last_detach(self, address):
        where = address("posix")
        first = polyshm.Arena(where, size="256K", create=True, life="last-detach")
        second = polyshm.Arena(where)
        assert second.life == "last-detach"
        first.close()
        assert polyshm.exists(where)
        second.close()
        assert not polyshm.exists(where)

    def test_last_detach_of_another_process(self, address):
        where = address("posix")
        arena = polyshm.Arena(where, size="256K", create=True, life="last-detach")

        def work():
            with polyshm.Arena(where) as other:
                other.counter("n").add()

        process = spawn.Process(target=add_by_address, args=(where,))
        process.start()
        process.join()
        assert process.exitcode == 0
        assert in_child(work) == 0
        assert polyshm.exists(where)
        assert arena["n"].load() == 2
        arena.close()
        assert not polyshm.exists(where)

    def test_last_detach_is_for_forked_children_too(self, address):
        where = address("posix")
        arena = polyshm.Arena(where, size="256K", create=True, life="last-detach")
        counter = arena.counter("n")
        pid = os.fork()
        if pid == 0:
            counter.add()
            counter.wait(2, 30)
            os._exit(not polyshm.exists(where))
        assert counter.wait(1, 20)
        arena.close()
        assert polyshm.exists(where)
        with polyshm.Arena(where) as again:
            again["n"].add()
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert not polyshm.exists(where)

    def test_last_detach_of_the_killed(self, address):
        """The name of what nobody lives on is as good as gone."""
        where = address("posix")
        pid = os.fork()
        if pid == 0:
            polyshm.Arena(where, size="256K", create=True, life="last-detach").counter("n").add()
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        with pytest.raises(FileNotFoundError):
            polyshm.Arena(where)
        assert not polyshm.exists(where)

    def test_unlink(self, make_arena):
        arena = make_arena()
        arena.unlink()
        assert not polyshm.exists(arena.address)
        with pytest.raises(FileNotFoundError):
            arena.unlink()
        assert arena.counter("n").add() == 1
        with polyshm.Arena(arena.address, size="256K", create=True) as second:
            assert second.created
            assert second.id != arena.id
            assert "n" not in second
            with pytest.raises(FileNotFoundError):
                arena.unlink()
            second.unlink()


def add_by_address(address):
    with polyshm.Arena(address) as arena:
        arena.counter("n").add()


class TestReadOnly:
    def test_sees_everything_and_changes_nothing(self, make_arena):
        arena = make_arena()
        arena.counter("n").store(5)
        arena.mutex("books")
        taking_part = arena.stats()["taking_part"]
        with polyshm.Arena(arena.address, access="r") as other:
            assert sorted(other.keys()) == ["books", "n"]
            assert other["n"].load() == 5
            assert "n" in other
            assert len(other) == 2
            assert other.check() == []
            assert other.stats()["objects"] == 2
            assert other.stats()["taking_part"] == taking_part
            assert repr(other).endswith("readonly>")
            for use in (lambda: other.delete("n"), lambda: other.__delitem__("n"), other["n"].add):
                with pytest.raises(TypeError, match="read-only"):
                    use()
            with pytest.raises(KeyError):
                other.counter("none")

    def test_without_the_right_to_write(self, tmp_path):
        path = tmp_path / "arena"
        with polyshm.Arena(f"file:{path}", size="256K", create=True) as arena:
            arena.counter("n").add()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.chmod(path, 0o444)
                os.chmod(tmp_path, 0o755)
                for folder in tmp_path.parents:
                    if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
                        os.chmod(folder, 0o755)
                if os.getuid() == 0:
                    os.setuid(65534)
                try:
                    polyshm.Arena(f"file:{path}")
                except PermissionError:
                    with polyshm.Arena(f"file:{path}", access="r") as other:
                        code = 0 if other["n"].load() == 1 else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


class TestForeignBytes:
    @pytest.mark.parametrize("content", [b"x" * 65536, b"polyshm\x1a" + b"\xff" * 65528, b"#!/bin/sh\n", MAGIC])
    def test_no_arena(self, tmp_path, content):
        path = tmp_path / "file"
        path.write_bytes(content)
        for options in ({}, {"create": True}, {"access": "r"}):
            with pytest.raises((polyshm.Incompatible, polyshm.Corrupt), match=f"file:{path}"):
                polyshm.Arena(f"file:{path}", **options)
        assert path.read_bytes() == content

    def test_a_raw_segment(self, make):
        segment = make("posix", 1 << 20)
        segment.write(0, b"somebody's")
        with pytest.raises(polyshm.Incompatible, match="holds something else than a polyshm arena"):
            polyshm.Arena(segment.address, create=True)
        assert segment.read(0, 10) == b"somebody's"

    def test_zeros_become_an_arena(self, make):
        segment = make("posix", 1 << 20)
        with pytest.raises((polyshm.Incompatible, FileNotFoundError)):
            polyshm.Arena(segment.address)
        with polyshm.Arena(segment.address, create=True) as arena:
            assert arena.size == 1 << 20
            assert arena.counter("n").add() == 1
            assert segment.read(0, 8) == MAGIC

    def test_truncated(self, tmp_path):
        path = tmp_path / "arena"
        polyshm.Arena(f"file:{path}", size="1M", create=True).close()
        for size in (512 << 10, 2 << 20, 4096):
            os.truncate(path, size)
            for access in ("rw", "r"):
                with pytest.raises(
                    polyshm.Incompatible, match=f"file:{path}: an arena that was cut short or has grown"
                ):
                    polyshm.Arena(f"file:{path}", access=access)
        os.truncate(path, 0)
        with pytest.raises((polyshm.Error, OSError, ValueError)):
            polyshm.Arena(f"file:{path}")

    def test_every_word_of_the_header(self, tmp_path):
        """Whatever it holds: an error, or an arena that answers."""
        path = tmp_path / "arena"
        with polyshm.Arena(f"file:{path}", size="256K", create=True) as arena:
            arena.counter("n").add()
            arena.mutex("books")
        good = path.read_bytes()
        for offset, value in itertools.product(range(0, 1024, 8), (b"\xff" * 8, bytes(8), b"\x01" + bytes(7))):
            path.write_bytes(good[:offset] + value + good[offset + 8 :])
            try:
                with polyshm.Arena(f"file:{path}", access="r") as other:
                    other.keys()
                    other.check()
                    other.stats()
                    other.participants()
                    "n" in other  # noqa: B015
            except (polyshm.Error, OSError, ValueError, KeyError):
                pass

    def test_check_tells(self, tmp_path):
        path = tmp_path / "arena"
        with polyshm.Arena(f"file:{path}", size="256K", create=True) as arena:
            arena.alloc_into(arena.root(0), 64)
            root = arena.root(0)
        with open(path, "r+b") as file:
            file.seek(root)
            file.write((123456).to_bytes(8, "little"))
        with polyshm.Arena(f"file:{path}") as arena:
            findings = arena.check()
            assert findings
            assert all(isinstance(finding, str) and finding.startswith("at ") for finding in findings)

    def test_copied(self, tmp_path):
        """A copy is an arena of its own: nobody takes part in it."""
        path = tmp_path / "arena"
        with polyshm.Arena(f"file:{path}", size="256K", create=True) as arena:
            with arena.mutex("books"):
                arena.counter("n").add()
                (tmp_path / "copy").write_bytes(path.read_bytes())
        with polyshm.Arena(f"file:{tmp_path}/copy") as copy:
            assert copy["n"].load() == 1
            with copy.mutex("books").recover() as died:
                assert died is not None
            assert copy.check() == []

    def test_cut_short_under_a_mapping(self, tmp_path, python):
        """In a process of its own: the thread's robust list leads into the mapping, which so stays for ever."""
        code = """
import os, polyshm, sys
path = sys.argv[1]
arena = polyshm.Arena(f"file:{path}", size="1M", create=True)
counter, lock = arena.counter("n"), arena.mutex("books")
counter.add()
os.truncate(path, 0)
for use in (
    counter.add,
    counter.load,
    lambda: counter.wait(5, 1),
    lock.acquire,
    lock.locked,
    arena.keys,
    arena.stats,
    arena.participants,
    arena.check,
    lambda: arena.counter("m"),
    lambda: arena.delete("n"),
    lambda: "n" in arena,
    lambda: arena.alloc_into(arena.root(0), 8),
    lambda: arena.read(arena.root(0), 8),
):
    try:
        print(use())
    except polyshm.Lost as lost:
        assert lost.filename == arena.address
assert arena.lost is True
print(arena)
arena.close()
"""
        path = tmp_path / "arena"
        assert python(code, path).stdout == f"<polyshm.Arena 'file:{path}' size=1048576 lost>\n"

    def test_of_another_version(self, tmp_path):
        path = tmp_path / "arena"
        polyshm.Arena(f"file:{path}", size="256K", create=True).close()
        good = path.read_bytes()
        assert good[:8] == MAGIC
        path.write_bytes(good[:8] + b"\x63" + good[9:])
        with pytest.raises(polyshm.Incompatible, match="an arena of another format"):
            polyshm.Arena(f"file:{path}")


class TestNames:
    @pytest.mark.parametrize(
        "called", ["a", "x" * 255, "äöü", "日本" * 42, " ", "a/b", "\n", "\U0001f600" * 63, "__iter__"]
    )
    def test_good(self, arena, called):
        assert called not in arena
        assert arena.counter(called).name == called
        assert called in arena
        assert arena[called].add() == 1
        assert arena.keys() == [called]
        del arena[called]
        assert called not in arena

    @pytest.mark.parametrize(
        ("called", "text"),
        [
            ("", "has 1 to 255 bytes"),
            ("x" * 256, "has 1 to 255 bytes"),
            ("é" * 128, "has 1 to 255 bytes"),
            ("a\0b", "is UTF-8, without a NUL"),
            ("\udc80", "is UTF-8, without a NUL"),
        ],
    )
    def test_bad(self, arena, called, text):
        for use in (arena.counter, arena.mutex, arena.open, arena.__getitem__, arena.delete, arena.__delitem__):
            with pytest.raises(ValueError, match=text):
                use(called)
        assert called not in arena
        assert len(arena) == 0

    @pytest.mark.parametrize("called", [None, 1, b"a", ("a",)])
    def test_no_text(self, arena, called):
        for use in (
            arena.counter,
            arena.mutex,
            arena.open,
            arena.__getitem__,
            arena.delete,
            arena.__delitem__,
            arena.__contains__,
        ):
            with pytest.raises(TypeError, match="name must be str"):
                use(called)

    def test_mapping(self, arena):
        assert len(arena) == 0
        assert list(arena) == arena.keys() == arena.items() == []
        lock, counter = arena.mutex("books"), arena.counter("n")
        assert len(arena) == 2
        assert sorted(arena) == sorted(arena.keys()) == ["books", "n"]
        objects = dict(arena.items())
        assert {name: type(thing) for name, thing in objects.items()} == {"books": polyshm.Mutex, "n": polyshm.Counter}
        objects["n"].add()
        assert counter.load() == 1
        assert type(arena["books"]) is type(arena.open("books")) is polyshm.Mutex
        assert arena.open(name="n").load() == 1
        with lock:
            assert arena["books"].locked()

    def test_missing(self, arena):
        for use in (arena.open, arena.__getitem__, arena.delete, arena.__delitem__):
            with pytest.raises(KeyError, match=f"{arena.address}: 'none': no object has this name"):
                use("none")

    def test_assignment(self, arena):
        with pytest.raises(TypeError, match="made by its methods"):
            arena["n"] = 1
        assert "n" not in arena

    def test_deletion_gives_the_name_free(self, arena):
        arena.counter("x").add()
        del arena["x"]
        with arena.mutex("x"):
            pass
        arena.delete("x")
        assert arena.counter("x").load() == 0

    def test_thousands(self, make_arena):
        arena = make_arena(size="8M")
        names = [f"name {number}" for number in range(5000)]
        for name in names:
            arena.counter(name)
        assert len(arena) == 5000
        assert sorted(arena) == sorted(names)
        assert all(name in arena for name in names)
        for name in names[::2]:
            del arena[name]
        assert sorted(arena) == sorted(names[1::2])
        assert arena.stats()["objects"] == 2500
        assert arena.check() == []
        for name in names[1::2]:
            del arena[name]
        assert len(arena) == 0
        assert arena.check() == []

    def test_full(self, make_arena):
        arena = make_arena(size="128K", participants=4)
        count = 0
        with pytest.raises(OSError, match="counter 'c") as caught:
            while count < 10_000:
                arena.counter(f"c{count}")
                count += 1
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, arena.address)
        assert len(arena) == count > 100
        assert arena.check() == []
        del arena["c0"]
        arena.counter("again")

    def test_iteration_while_others_change(self, arena):
        """What is there throughout is there once."""
        stable = [f"stable {number}" for number in range(100)]
        for name in stable:
            arena.counter(name)
        stop = threading.Event()

        def churn():
            for number in itertools.count():
                if stop.is_set():
                    return
                arena.counter(f"churn {number}")
                del arena[f"churn {number}"]

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in range(100):
                names = [name for name in arena if name.startswith("stable")]
                assert sorted(names) == sorted(stable)
                assert {name for name, _ in arena.items()} >= set(stable)
        finally:
            stop.set()
            thread.join()
        assert arena.check() == []

    NAME = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=4)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(st.sampled_from(["counter", "mutex", "open", "delete", "in"]), NAME), max_size=60))
    def test_as_a_dict(self, arena, steps):
        for name in arena:
            del arena[name]
        model: dict[str, type] = {}
        kinds = {"counter": polyshm.Counter, "mutex": polyshm.Mutex}
        for verb, name in steps:
            if verb in kinds:
                if model.setdefault(name, kinds[verb]) is kinds[verb]:
                    assert type(getattr(arena, verb)(name)) is kinds[verb]
                else:
                    with pytest.raises(ValueError, match="another kind"):
                        getattr(arena, verb)(name)
            elif verb == "open":
                if name in model:
                    assert type(arena.open(name)) is model[name]
                else:
                    with pytest.raises(KeyError):
                        arena.open(name)
            elif verb == "delete":
                if model.pop(name, None):
                    del arena[name]
                else:
                    with pytest.raises(KeyError):
                        del arena[name]
            else:
                assert (name in arena) == (name in model)
        assert {name: type(thing) for name, thing in arena.items()} == model
        assert len(arena) == len(model)
        assert arena.check() == []


class TestTheWhole:
    def test_stats(self, arena):
        stats = arena.stats()
        assert set(stats) == {
            "size",
            "heap",
            "used",
            "free",
            "largest_free",
            "large",
            "large_pages",
            "objects",
            "taking_part",
            "participants",
            "classes",
        }
        assert stats["size"] == arena.size
        assert stats["heap"] < stats["size"]
        assert stats["used"] + stats["free"] == stats["heap"]
        assert stats["objects"] == 0
        arena.counter("n").add()
        after = arena.stats()
        assert after["objects"] == 1
        assert after["used"] > stats["used"]
        assert after["used"] + after["free"] == after["heap"]
        assert after["taking_part"] == 1
        assert all(set(one) == {"block", "pages", "used", "free"} for one in after["classes"])
        used = sum(one["block"] * one["used"] for one in after["classes"]) + after["large_pages"] * 4096
        assert used == after["used"]

    def test_large_blocks(self, arena):
        before = arena.stats()
        arena.alloc_into(arena.root(0), "256K")
        after = arena.stats()
        assert after["large"] == before["large"] + 1
        assert after["large_pages"] == before["large_pages"] + 64

    def test_check_during_changes(self, arena):
        stop = threading.Event()

        def churn():
            while not stop.is_set():
                arena.alloc_into(arena.root(0), 3000)
                arena.free_from(arena.root(0))

        threads = [threading.Thread(target=churn)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                assert arena.check() == []
        finally:
            stop.set()
            for thread in threads:
                thread.join()


class TestEnd:
    def test_close(self, arena):
        arena.counter("n")
        arena.close()
        arena.close()
        assert arena.closed is True
        for use in (
            lambda: arena.counter("n"),
            lambda: arena.mutex("m"),
            lambda: arena.open("n"),
            lambda: arena["n"],
            lambda: "n" in arena,
            lambda: len(arena),
            lambda: list(arena),
            arena.keys,
            arena.items,
            lambda: arena.delete("n"),
            lambda: arena.__delitem__("n"),
            arena.check,
            arena.stats,
            arena.participants,
            arena.unlink,
            arena.__enter__,
        ):
            with pytest.raises(ValueError, match=f"{arena.address}: the .* is closed"):
                use()
        assert arena.size == 1 << 20
        assert (arena.kind, arena.life, arena.created) == ("posix", "keep", True)
        assert repr(arena).endswith("closed>")

    def test_exit_does_not_mask(self, arena):
        with pytest.raises(ZeroDivisionError):
            with arena as entered:
                assert entered is arena
                arena.close()
                1 / 0  # noqa: B018
        with pytest.raises(ZeroDivisionError):
            with polyshm.Arena("anon:", size="256K") as other:
                lock = other.mutex("books")
                lock.acquire()
                1 / 0  # noqa: B018
        assert other.closed
        lock.release()

    def test_weak_references(self, name):
        arena = polyshm.Arena("anon:", size="256K")
        alive = weakref.ref(arena)
        counter = arena.counter("n")
        del arena
        assert alive() is not None
        del counter
        assert alive() is None

    def test_final(self):
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Child", (polyshm.Arena,), {})
        with pytest.raises(TypeError):
            object.__new__(polyshm.Arena)
        for method in (polyshm.Arena.keys, polyshm.Counter.add, polyshm.Mutex.acquire):
            with pytest.raises(TypeError):
                method(object())

    def test_exceptions(self):
        for kind in (polyshm.Corrupt, polyshm.Incompatible, polyshm.Deleted):
            assert issubclass(kind, polyshm.Error)
            assert kind.__module__ == "polyshm"
            assert type(pickle.loads(pickle.dumps(kind("x")))) is kind

    def test_closed_while_others_call(self, address):
        """Whatever they are at, they are told, and nobody touches memory that is gone."""
        where = address("posix")
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        faults: list[BaseException] = []

        def call(arena, number):
            uses = (
                lambda: arena.counter(f"c{number}"),
                arena.keys,
                lambda: (arena.alloc_into(arena.root(number), 100), arena.free_from(arena.root(number))),
                lambda: (arena.counter("x"), arena.delete("x")),
                lambda: (arena.stats(), arena.participants()),
                lambda: arena.check() and None,
            )
            try:
                while True:
                    try:
                        uses[number]()
                    except KeyError:
                        pass
            except ValueError as error:
                if "closed" not in str(error):
                    faults.append(error)
            except BaseException as error:
                faults.append(error)

        try:
            for _ in range(60):
                arena = polyshm.Arena(where, size="256K", create=True)
                arena.free_from(arena.root(2))
                threads = [threading.Thread(target=call, args=(arena, number)) for number in range(6)]
                for thread in threads:
                    thread.start()
                arena.close()
                for thread in threads:
                    thread.join()
        finally:
            sys.setswitchinterval(interval)
            polyshm.unlink(where)
        assert faults == []

    def test_memory_does_not_leak(self, arena):
        counter, lock = arena.counter("n"), arena.mutex("books", repair=print)

        def everything():
            for _ in range(60):
                counter.add()
                with lock, arena.mutex("other").recover():
                    pass
                arena.items()
                arena.stats()
                arena.participants()
                arena.check()
                arena.alloc_into(arena.root(0), 50)
                arena.free_from(arena.root(0))
                repr((arena, counter, lock, arena.participants()))
                with polyshm.Arena(arena.address, access="r") as other:
                    other.keys()
                pickle.loads(pickle.dumps((arena, counter)))[0].close()
                for fault in (
                    lambda: arena["none"],
                    lambda: arena.counter(""),
                    lambda: arena.counter("books"),
                    lambda: counter.add(1 << 70),
                    lambda: polyshm.Arena("posix:/polyshm-none"),
                    lambda: polyshm.Arena(arena.address, size=1 << 30),
                    lambda: arena.read(0, 8),
                    lock.release,
                ):
                    with pytest.raises((ValueError, KeyError, OSError, RuntimeError)):
                        fault()

        counts = []
        for _ in range(5):
            everything()
            gc.collect()
            counts.append(sys.getallocatedblocks())
        # The first rounds fill the interpreter's own caches.
        assert counts[4] - counts[3] < 50, counts


class TestPickles:
    @pytest.mark.parametrize("kind", ["posix", "sysv", "ftok", "private", "file"])
    def test_round_trip(self, make_arena, kind):
        arena = make_arena(kind)
        arena.counter("n").add()
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pickle.loads(pickle.dumps(arena, protocol)) as other:
                assert other.id == arena.id
                assert other.created is False
                assert other["n"].load() == 1

    def test_access(self, make_arena):
        arena = make_arena()
        with polyshm.Arena(arena.address, access="r") as other:
            with pickle.loads(pickle.dumps(other)) as again:
                assert again.readonly

    def test_relative_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with polyshm.Arena("file:here", size="256K", create=True) as arena:
            data = pickle.dumps(arena)
            monkeypatch.chdir("/")
            with pickle.loads(data) as other:
                assert other.address == f"file:{tmp_path}/here"

    @pytest.mark.parametrize("kind", ["posix", "sysv", "file"])
    def test_removed(self, make_arena, kind):
        arena = make_arena(kind)
        data = pickle.dumps(arena)
        arena.unlink()
        arena.close()
        with pytest.raises(polyshm.Deleted, match="was removed"):
            pickle.loads(data)

    def test_made_anew(self, make_arena):
        arena = make_arena()
        data = pickle.dumps(arena)
        arena.unlink()
        with polyshm.Arena(arena.address, size="1M", create=True) as second:
            with pytest.raises(polyshm.Deleted, match="made anew"):
                pickle.loads(data)
            second.unlink()

    @pytest.mark.parametrize("kind", ["anon", "zero", "memfd", "fd"])
    def test_without_a_name(self, make_arena, kind):
        arena = make_arena(kind)
        for thing in (arena, arena.counter("n"), arena.mutex("books")):
            with pytest.raises(TypeError, match=arena.address):
                pickle.dumps(thing)

    def test_closed(self, arena):
        arena.close()
        with pytest.raises(ValueError, match="closed"):
            pickle.dumps(arena)


def work_in_child(arena, lock, counter, times):
    for _ in range(times):
        with lock:
            counter.add()
    arena.counter("children").add()


class TestChildren:
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    @pytest.mark.parametrize("kind", ["posix", "sysv", "private", "file", "memfd", "fd"])
    def test_travels(self, make_arena, kind, method):
        arena = make_arena(kind)
        lock, counter = arena.mutex("books"), arena.counter("n")
        context = multiprocessing.get_context(method)
        children = [context.Process(target=work_in_child, args=(arena, lock, counter, 200)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            assert child.exitcode == 0
        assert counter.load() == 400
        assert arena["children"].load() == 2
        assert arena.check() == []

    @pytest.mark.parametrize("kind", ["anon", "zero"])
    def test_forks_alone(self, make_arena, kind):
        arena = make_arena(kind)
        arguments = (arena, arena.mutex("books"), arena.counter("n"), 100)
        child = fork.Process(target=work_in_child, args=arguments)
        child.start()
        child.join()
        assert child.exitcode == 0
        assert arena["n"].load() == 100
        with pytest.raises(TypeError, match=f"{kind}:: only forked children share it"):
            spawn.Process(target=work_in_child, args=arguments).start()

    def test_a_fork_beside_busy_threads(self, arena):
        """The child finds neither the process's lock nor an object's taken by threads that it does not have."""
        stop = threading.Event()

        def busy(number):
            while not stop.is_set():
                with arena.mutex(f"lock {number}"):
                    arena.counter(f"counter {number}").add()
                with polyshm.Arena(arena.address) as other:
                    other.keys()

        threads = [threading.Thread(target=busy, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            for attempt in range(10):

                def work(attempt=attempt):
                    with arena.mutex("child"):
                        arena.counter("child's").add()
                    with polyshm.Arena(arena.address) as other:
                        other.counter(f"of {attempt}").add()

                assert in_child(work) == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert arena["child's"].load() == 10
        assert arena.check() == []

    def test_a_childs_death_leaves_a_whole_arena(self, arena):
        """Children that create and delete, killed at random."""
        for attempt in range(20):
            pid = os.fork()
            if pid == 0:
                for number in itertools.count():
                    arena.counter(f"{attempt} {number % 7}").add()
                    if number % 3 == 0:
                        arena.delete(f"{attempt} {number % 7}")
            time.sleep(0.005 + attempt / 1000)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            assert arena.check() == []
            for name in arena:
                del arena[name]
            assert arena.check() == []
        assert len(arena) == 0
        assert arena.counter("n").add() == 1

    def test_threads_come_and_go(self, arena):
        counter = arena.counter("n")
        for _ in range(100):
            in_thread(counter.add)
        assert counter.load() == 100
        in_thread(arena.mutex("books").acquire)
        pid = die_holding(arena.mutex("other"))
        with pytest.raises(polyshm.OwnerDied) as caught:
            arena["other"].acquire()
        assert caught.value.pid == pid
        with pytest.raises(polyshm.OwnerDied) as caught:
            arena["books"].acquire(timeout=20)
        assert caught.value.pid == os.getpid()
