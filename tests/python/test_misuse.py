# SPDX-License-Identifier: MIT
"""Nothing that a script does crashes its interpreter: each fault is a clear error."""

from __future__ import annotations

import errno
import gc
import os
import re
import signal
import subprocess
import sys
import threading
from decimal import Decimal

import polyshm
import pytest

SIZE = 16384
HUGE = [SIZE + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 2000]
NEGATIVE = [-1, -SIZE, -(1 << 63), -(1 << 64), -(1 << 2000)]
NOT_INTEGERS = [1.0, float("nan"), 1e300, "1", b"1", Decimal(1), [], object()]


class Index:
    """An integer whose conversion does something."""

    def __init__(self, value, action=lambda: None):
        self.value, self.action = value, action

    def __index__(self):
        self.action()
        return self.value


def uses(segment):
    """Every method that takes an offset or a size: name of the argument, and the call with one value for it."""
    return [
        ("offset", lambda v: segment.read(v, 1)),
        ("size", lambda v: segment.read(0, v)),
        ("offset", lambda v: segment.write(v, b"x")),
        ("offset", lambda v: segment.read_into(bytearray(1), v)),
        ("offset", lambda v: segment.fill(0, v, 1)),
        ("size", lambda v: segment.fill(0, 0, v)),
        ("target", lambda v: segment.copy(v, 0, 1)),
        ("source", lambda v: segment.copy(0, v, 1)),
        ("size", lambda v: segment.copy(0, 0, v)),
        ("start", lambda v: segment.find(b"x", v)),
        ("end", lambda v: segment.find(b"x", 0, v)),
        ("offset", lambda v: segment.view("u8", v, 1)),
        ("count", lambda v: segment.view("u8", 0, v)),
        ("offset", lambda v: segment.atomic("u32", v)),
        ("offset", lambda v: segment.mutex(v, create=True)),
        ("offset", lambda v: segment.record_lock(v, 1)),
        ("size", lambda v: segment.record_lock(0, v)),
        ("offset", lambda v: segment.flush(v, 1)),
        ("size", lambda v: segment.flush(0, v)),
        ("offset", lambda v: segment.protect("rw", v, 1)),
        ("size", lambda v: segment.protect("rw", 0, v)),
        ("offset", lambda v: segment.advise("normal", v, 1)),
        ("size", lambda v: segment.advise("normal", 0, v)),
        ("offset", lambda v: segment.pin(v, 1)),
        ("size", lambda v: segment.pin(0, v)),
        ("offset", lambda v: segment.unpin(v, 1)),
        ("size", lambda v: segment.unpin(0, v)),
    ]


def every_method(segment):
    """Each method and protocol of a segment, as calls that would work on an open one."""
    return [
        segment.read,
        lambda: segment.read(0, 0),
        lambda: segment.write(0, b""),
        lambda: segment.write(0, b"x"),
        lambda: segment.read_into(bytearray(1)),
        segment.fill,
        lambda: segment.copy(0, 1, 1),
        lambda: segment.find(b"x"),
        lambda: segment.view("u8"),
        lambda: segment.view("u8", 0, 0),
        lambda: segment.atomic("u32", 0),
        lambda: segment.mutex(0, create=True),
        segment.record_lock,
        segment.flush,
        lambda: segment.protect("r"),
        lambda: segment.advise("normal"),
        segment.pin,
        segment.unpin,
        lambda: segment.resize(4096),
        segment.stat,
        segment.set,
        segment.unlink,
        segment.__enter__,
        lambda: len(segment),
        lambda: segment[0],
        lambda: segment[0:1],
        lambda: segment[0:0],
        lambda: segment[::2],
        lambda: segment.__setitem__(0, 1),
        lambda: segment.__setitem__(slice(0, 1), b"x"),
        lambda: segment.__setitem__(slice(0, 2, 2), b"x"),
        lambda: list(segment),
        lambda: memoryview(segment),
        lambda: bytes(segment),
        segment.__reduce__,
    ]


class TestArguments:
    @pytest.mark.parametrize("value", NEGATIVE)
    def test_negative(self, make, value):
        segment = make("posix")
        for argument, use in uses(segment):
            with pytest.raises(ValueError, match=f"^{argument} must not be negative"):
                use(value)
            with pytest.raises(ValueError, match=f"^{argument} must not be negative"):
                use(Index(value))

    @pytest.mark.parametrize("value", HUGE)
    def test_outside(self, make, value):
        segment = make("posix")
        expected = r"outside the segment|must be less than 2\*\*63|offset is not aligned"
        for argument, use in uses(segment):
            with pytest.raises(ValueError, match=expected) as caught:
                use(value)
            assert re.search(rf"{argument}|posix:/", str(caught.value))

    @pytest.mark.parametrize("value", NOT_INTEGERS)
    def test_other_types(self, make, value):
        segment = make("posix")
        for argument, use in uses(segment):
            with pytest.raises(TypeError, match=f"^{argument} must be an integer, not .*{type(value).__name__}$"):
                use(value)

    def test_message_of_bounds(self, make):
        segment = make("posix")
        with pytest.raises(
            ValueError, match=f"^{segment.address}: offset 16380 \\+ size 16: outside the segment \\(size 16384\\)$"
        ):
            segment.read(16380, 16)
        with pytest.raises(ValueError, match=r": offset 16384 \+ size 1: outside"):
            segment.write(16384, b"x")
        with pytest.raises(ValueError, match=r": offset 9223372036854775807 \+ size 9223372036854775807: outside"):
            segment.read((1 << 63) - 1, (1 << 63) - 1)

    def test_conversion_that_raises(self, anon):
        def fail():
            raise LookupError("in __index__")

        for _, use in uses(anon):
            with pytest.raises(LookupError, match="in __index__"):
                use(Index(0, fail))
        with pytest.raises(LookupError):
            anon[Index(0, fail)]
        with pytest.raises(LookupError):
            anon[Index(0, fail) : 3]

    def test_too_few_and_too_many(self, anon):
        for call, words in (
            (lambda: anon.write(0), r"write\(\) missing required argument 'data' \(pos 2\)"),
            (lambda: anon.write(data=b""), r"write\(\) missing required argument 'offset' \(pos 1\)"),
            (lambda: anon.read(0, 1, 2), r"read\(\) takes at most 2 positional arguments \(3 given\)"),
            (lambda: anon.resize(1, 2), r"resize\(\) takes at most 1 positional argument \(2 given\)"),
            (lambda: anon.read(0, offset=1), r"read\(\) got multiple values for argument 'offset'"),
            (lambda: anon.read(length=1), r"read\(\) got an unexpected keyword argument 'length'"),
            (lambda: anon.flush(0, 1, True), r"flush\(\) takes at most 2 positional"),
            (lambda: anon.set(0), r"set\(\) takes at most 0 positional"),
            (lambda: anon.close(1), "close"),
            (lambda: polyshm.exists(), r"exists\(\) missing required argument 'address'"),
            (lambda: polyshm.stat("anon:", 1), r"stat\(\) takes at most 1 positional"),
            (lambda: polyshm.unlink(name="x"), r"unlink\(\) got an unexpected keyword argument 'name'"),
            (lambda: polyshm.list(1), "list"),
        ):
            with pytest.raises(TypeError, match=words):
                call()

    def test_data_that_is_no_buffer(self, anon):
        for data in ("text", 5, None, [1], memoryview):
            with pytest.raises(TypeError, match="data must be a bytes-like object"):
                anon.write(0, data)
            with pytest.raises(TypeError, match="data must be a bytes-like object"):
                anon.find(data)
        with pytest.raises(BufferError):
            anon.write(0, memoryview(b"abcdef")[::2])

    def test_bytes_in_range(self, anon):
        for byte in (256, 1 << 80, -1):
            with pytest.raises(ValueError, match="byte"):
                anon.fill(byte)

    def test_names_of_options(self, anon):
        for call, words in (
            (lambda: anon.protect("w"), "access 'w': access must be"),
            (lambda: anon.protect("copy"), "access must be"),
            (lambda: anon.protect(1), "access must be str"),
            (lambda: anon.advise("nonsense"), "advice 'nonsense': unknown advice"),
            (lambda: anon.advise("normal\0"), r"advice 'normal\\x00': unknown advice"),
            (lambda: anon.advise(3), "advice must be str"),
            (lambda: anon.view(3), "type must be str"),
            (lambda: anon.atomic(3, 0), "type must be str"),
            (lambda: anon.atomic("u16", 0), "type 'u16': unknown element type: use i32, u32, i64 or u64"),
            (lambda: anon.set(mode="8"), "mode '8'"),
            (lambda: anon.set(mode=0o1000), "mode 512"),
            (lambda: anon.set(mode=1.0), "mode must be an integer or octal digits, not float"),
            (lambda: anon.set(uid=-1), "uid must not be negative"),
            (lambda: anon.set(gid=(1 << 32) - 1), "gid 4294967295 is no id"),
            (lambda: anon.resize("12Q"), "size '12Q': not a size"),
            (lambda: anon.resize(None), "size must be an integer or text"),
        ):
            with pytest.raises((ValueError, TypeError), match=words):
                call()


class TestOpening:
    @pytest.mark.parametrize(
        "address",
        [
            "",
            "posix",
            "/name",
            "shm:/x",
            "posix:",
            "posix:name",
            "posix:/",
            "posix:/a/b",
            "posix:/.",
            "posix:/..",
            "posix:/a\0b",
            "posix:/" + "x" * 256,
            "sysv:",
            "sysv:id=",
            "sysv:id=x",
            "sysv:0x123456789",
            "sysv:/x#",
            "fd:",
            "fd:-1",
            "fd:x",
            "fd:99999999999",
            "file:",
            "file:a\0b",
            "anon:x",
            "\0",
            "posix:/\udcff/",
        ],
    )
    def test_bad_addresses(self, address):
        for use in (
            lambda a: polyshm.Segment(a, size=4096),
            lambda a: polyshm.Segment(a, size=4096, create=True),
            polyshm.exists,
            polyshm.stat,
            polyshm.unlink,
        ):
            with pytest.raises((ValueError, OSError)):
                use(address)

    def test_surrogates(self, name):
        with pytest.raises(UnicodeEncodeError):
            polyshm.Segment("posix:/\ud800", size=1, create=True)
        address = f"posix:{name}\udcfe"
        with polyshm.Segment(address, size=1, create=True) as segment:
            assert segment.address == address
            assert os.fsencode(segment.name).endswith(b"\xfe")
            segment.unlink()

    @pytest.mark.parametrize("address", [1, None, b"anon:", 1.5, ["anon:"]])
    def test_address_of_another_type(self, address):
        for use in (lambda a: polyshm.Segment(a, size=4096), polyshm.exists, polyshm.stat, polyshm.unlink):
            with pytest.raises(TypeError, match="address must be str"):
                use(address)

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({}, ValueError, "size is needed"),
            ({"size": 0}, ValueError, "size must be at least 1"),
            ({"size": -1}, ValueError, "^size must not be negative, but is -1"),
            ({"size": 1 << 63}, ValueError, r"^size must be less than 2\*\*63"),
            ({"size": (1 << 63) - 1}, ValueError, "larger than a mapping can be"),
            ({"size": 1.5}, TypeError, "^size must be an integer or text"),
            ({"size": float("nan")}, TypeError, "^size must be an integer or text"),
            ({"size": "12Q"}, ValueError, "^size '12Q': not a size"),
            ({"size": "99999999999999999999"}, ValueError, "^size '99999999999999999999'"),
            ({"size": "\ud800"}, UnicodeEncodeError, "surrogates not allowed"),
            ({"size": 1, "offset": -1}, ValueError, "^offset must not be negative"),
            ({"size": 1, "offset": None}, TypeError, "^offset must be"),
            ({"size": 1, "access": "w"}, ValueError, "^access 'w': access must be"),
            ({"size": 1, "access": None}, TypeError, "^access must be str"),
            ({"size": 1, "mode": 0o1777}, ValueError, "^mode 1023: mode must be permissions"),
            ({"size": 1, "mode": "0800"}, ValueError, "^mode '0800'"),
            ({"size": 1, "mode": -1}, ValueError, "^mode must not be negative"),
            ({"size": 1, "mode": 6.0}, TypeError, "^mode must be"),
            ({"size": 1, "at": -4096}, ValueError, "^at must not be negative"),
            ({"size": 1, "at": "0"}, TypeError, "^at must be an integer"),
            ({"size": 1, "hugepages": "big"}, ValueError, "^hugepages 'big'"),
            ({"size": 1, "hugepages": 2.0}, TypeError, "^hugepages must be"),
            ({"size": 1, "colour": 1}, TypeError, "unexpected keyword argument 'colour'"),
        ],
    )
    def test_bad_options(self, name, options, error, words):
        with pytest.raises(error, match=words):
            polyshm.Segment(f"posix:{name}", create=True, **options)
        assert not polyshm.exists(f"posix:{name}")

    @pytest.mark.parametrize("address", ["anon:", "zero:"])
    def test_kinds_without_an_offset(self, address):
        with pytest.raises(ValueError, match=f"^{address}: this kind has no offset"):
            polyshm.Segment(address, size=1, offset=4096)

    def test_the_address_is_named(self, name):
        for options in ({"create": True}, {"create": True, "size": 0}):
            with pytest.raises(ValueError, match=f"^posix:{name}: size"):
                polyshm.Segment(f"posix:{name}", **options)

    def test_option_whose_truth_fails(self):
        class Undecided:
            def __bool__(self):
                raise LookupError("cannot say")

        for option in ("create", "exclusive", "exec", "populate", "locked", "inherit", "round", "reserve"):
            with pytest.raises(LookupError, match="cannot say"):
                polyshm.Segment("anon:", size=1, **{option: Undecided()})

    def test_missing(self, name, tmp_path):
        for address in (f"posix:{name}", f"file:{tmp_path}/none", "sysv:0x7ffffff1", f"sysv:{tmp_path}/none#A"):
            with pytest.raises(FileNotFoundError, match=re.escape(address)) as caught:
                polyshm.Segment(address)
            assert caught.value.errno == errno.ENOENT
            assert caught.value.filename == address
        with pytest.raises(OSError, match="fd:987") as caught:
            polyshm.Segment("fd:987")
        assert caught.value.errno == errno.EBADF

    def test_not_mappable(self, tmp_path):
        for address in (f"file:{tmp_path}", "file:/dev/null", "file:/proc/self/status"):
            with pytest.raises((OSError, ValueError), match=re.escape(address)):
                polyshm.Segment(address, size=4096)
        empty = tmp_path / "empty"
        empty.touch()
        with pytest.raises(ValueError, match=re.escape(str(empty))):
            polyshm.Segment(f"file:{empty}")

    def test_permission(self, make, python):
        """The superuser may do all, so it steps down; where it cannot, the user's own refusal is seen."""
        addresses = []
        for kind in ("posix", "sysv", "file"):
            segment = make(kind, mode=0o400 if os.getuid() else 0o600)
            addresses.append(f"sysv:id={segment.stat().id}" if kind == "sysv" else segment.address)
        code = """
import os, sys, polyshm
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
for address in sys.argv[1:]:
    try:
        polyshm.Segment(address)
    except PermissionError as error:
        assert error.filename == address
        print("refused")
"""
        assert (
            python(code, *addresses, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, cwd="/").stdout.split()
            == ["refused"] * 3
        )

    def test_more_memory_than_there_is(self, name):
        for address in (f"posix:{name}", "anon:", "zero:", "memfd:x", "sysv:private"):
            with pytest.raises((OSError, ValueError), match=address) as caught:
                polyshm.Segment(address, size=1 << 46, create=True)
            if isinstance(caught.value, OSError):
                assert caught.value.errno in (errno.ENOMEM, errno.ENOSPC, errno.EINVAL)
                assert caught.value.filename == address
        assert not polyshm.exists(f"posix:{name}")


class TestClosed:
    @pytest.mark.parametrize("kind", ["posix", "sysv", "anon", "memfd"])
    def test_every_method(self, make, kind):
        segment = make(kind)
        address = segment.address
        if kind == "posix":
            segment.unlink()
        segment.close()
        for call in every_method(segment):
            with pytest.raises(ValueError, match=f"^{re.escape(address)}: the segment is closed$"):
                call()
        assert segment.size == SIZE
        assert repr(segment)

    def test_closed_by_a_conversion(self, make):
        for number in range(27):
            segment = make("posix")
            _, use = uses(segment)[number]
            with pytest.raises(ValueError, match="closed"):
                use(Index(1, segment.close))

    def test_closed_by_index_conversions(self, make):
        for use in (
            lambda s: s[Index(0, s.close)],
            lambda s: s[Index(0, s.close) : 5],
            lambda s: s[0 : 10 : Index(2, s.close)],
            lambda s: s.__setitem__(Index(0, s.close), 1),
            lambda s: s.__setitem__(0, Index(0, s.close)),
            lambda s: s.__setitem__(slice(Index(0, s.close), 1), b"x"),
            lambda s: s.atomic("u32", 0).add(Index(1, s.close)),
            lambda s: s.atomic("u32", 0).compare_exchange(0, Index(1, s.close)),
            lambda s: s.atomic("u32", 0).wait(Index(0, s.close)),
        ):
            with pytest.raises(ValueError, match="closed"):
                use(make("anon"))

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ in Python code came with 3.12")
    def test_closed_by_a_buffer(self, make):
        class Lender:
            def __init__(self, action):
                self.action = action

            def __buffer__(self, flags):
                self.action()
                return memoryview(bytearray(4))

        for use in (
            lambda s, lender: s.write(0, lender),
            lambda s, lender: s.find(lender),
            lambda s, lender: s.read_into(lender),
            lambda s, lender: s.__setitem__(slice(0, 4), lender),
            lambda s, lender: s.__setitem__(slice(0, 8, 2), lender),
        ):
            segment = make("anon")
            use(segment, Lender(lambda: None))
            with pytest.raises(ValueError, match="closed"):
                use(segment, Lender(segment.close))

    @pytest.mark.skipif(sys.version_info < (3, 12), reason="__buffer__ in Python code came with 3.12")
    def test_shrunk_by_a_buffer(self, make):
        class Lender:
            def __buffer__(self, flags):
                segment.resize(1)
                return memoryview(bytearray(4))

        for use in (
            lambda s, lender: s.write(4096, lender),
            lambda s, lender: s.find(lender, 0, SIZE),
            lambda s, lender: s.read_into(lender, 4096),
            lambda s, lender: s.__setitem__(slice(0, 4), lender),
        ):
            segment = make("posix")
            with pytest.raises(ValueError, match=r"outside|slice of 1"):
                use(segment, Lender())

    def test_shrunk_by_a_conversion(self, make):
        segment = make("posix")
        with pytest.raises(ValueError, match="outside"):
            segment.read(8192, Index(10, lambda: segment.resize(100)))
        segment.resize(SIZE)
        assert segment[0 : Index(SIZE, lambda: segment.resize(100))] == bytes(100)

    def test_closed_by_other_threads_in_copies(self):
        """Whoever is inside goes on or gets ValueError; nobody touches memory that is gone."""
        size = 1 << 22
        for _ in range(15):
            segment = polyshm.Segment("anon:", size=size)
            data, into = bytes(size), bytearray(size)
            faults: list[BaseException] = []

            def work(use, segment=segment, faults=faults):
                try:
                    while not segment.closed:
                        use(segment)
                except ValueError as error:
                    if "closed" not in str(error):
                        faults.append(error)
                except BaseException as error:
                    faults.append(error)

            threads = [
                threading.Thread(target=work, args=(use,))
                for use in (
                    lambda s, data=data: s.write(0, data),
                    lambda s: s.read(),
                    lambda s, into=into: s.read_into(into),
                    lambda s: s.fill(1),
                    lambda s: s[::3],
                    lambda s: s.find(b"\2" * 100),
                    lambda s: s.copy(0, size // 2, size // 2),
                    lambda s: s.flush(),
                )
            ]
            for thread in threads:
                thread.start()
            threading.Event().wait(0.01)
            segment.close()
            for thread in threads:
                thread.join()
            assert faults == []

    def test_grown_by_another_thread_in_copies(self, make):
        segment = make("posix", 1 << 20)
        done = threading.Event()
        faults: list[BaseException] = []

        def work():
            try:
                while not done.is_set():
                    segment.write(0, segment.read(0, 1 << 20))
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for step in range(1, 30):
            segment.resize((1 << 20) + step * 65536)
        done.set()
        for thread in threads:
            thread.join()
        assert faults == []
        assert segment.size == (1 << 20) + 29 * 65536


class TestObjects:
    @pytest.mark.parametrize("kind", [polyshm.Atomic, polyshm.SegmentMutex, polyshm.RecordLock])
    def test_not_made_by_hand(self, kind):
        with pytest.raises(TypeError, match="cannot create"):
            kind()
        with pytest.raises(TypeError):
            kind.__new__(kind)
        with pytest.raises(TypeError):
            object.__new__(kind)

    def test_window_and_recovery_neither(self, anon):
        view = anon.view("u8")
        for thing in (view.obj, anon.mutex(0, create=True).recover()):
            with pytest.raises(TypeError):
                type(thing)()
        assert repr(view.obj) == "<polyshm window B x 16384 at offset 0 of anon:>"

    def test_object_new(self):
        with pytest.raises(TypeError):
            object.__new__(polyshm.Segment)
        with pytest.raises(TypeError):
            polyshm.Segment.__new__(polyshm.Segment)

    @pytest.mark.parametrize("kind", [polyshm.Segment, polyshm.Atomic, polyshm.SegmentMutex, polyshm.RecordLock])
    def test_final(self, kind):
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Child", (kind,), {})

    def test_init_again_changes_nothing(self, anon):
        anon.__init__("posix:/other", size=1)
        assert (anon.address, anon.size) == ("anon:", SIZE)

    def test_methods_of_other_objects(self, anon):
        for method in (
            polyshm.Segment.read,
            polyshm.Atomic.load,
            polyshm.SegmentMutex.acquire,
            polyshm.RecordLock.acquire,
        ):
            with pytest.raises(TypeError):
                method(object())
            with pytest.raises(TypeError):
                method()
        with pytest.raises(TypeError):
            polyshm.Segment.read(anon.atomic("u32", 0))

    def test_exceptions(self):
        assert issubclass(polyshm.Lost, polyshm.Error)
        assert issubclass(polyshm.Lost, OSError)
        assert issubclass(polyshm.Deleted, polyshm.Error)
        assert issubclass(polyshm.OwnerDied, OSError)
        assert not issubclass(polyshm.OwnerDied, polyshm.Error)
        assert {kind.__module__ for kind in (polyshm.Error, polyshm.Lost, polyshm.Deleted, polyshm.OwnerDied)} == {
            "polyshm"
        }
        assert (polyshm.OwnerDied.pid, polyshm.OwnerDied.lock, polyshm.OwnerDied.participant) == (None, None, None)


class TestOrderOfCollection:
    def test_any_order(self):
        import itertools

        for order in itertools.permutations(range(5)):
            segment = polyshm.Segment("memfd:x", size=4096)
            view = segment.view("u32", 64)
            parts = [segment, view, view[1:3], segment.mutex(0, create=True), segment.record_lock()]
            parts[3].acquire()
            parts[4].acquire()
            del segment, view
            parts[3].release()
            for index in order:
                if index == 0:
                    parts[0].close()
                parts[index] = None
            gc.collect()

    def test_cycles(self):
        class Node:
            pass

        for _ in range(20):
            node = Node()
            node.segment = polyshm.Segment("anon:", size=4096)
            node.lock = node.segment.mutex(0, create=True, repair=lambda died, node=node: node)
            node.view = node.segment.view("u8")
            node.self = node
            del node
        gc.collect()
        assert not [thing for thing in gc.get_objects() if type(thing) is Node]


SHUTDOWN = {
    "open": "",
    "global view": "view = segment.view('u64')",
    "held": "lock = segment.mutex(0, create=True); lock.acquire()",
    "cycle": "class C: pass\nc = C(); c.c = c; c.s = segment; c.v = segment.view('u8')\n"
    "c.l = segment.mutex(0, create=True, repair=lambda d: c)",
    "finalizer": "class C:\n    def __del__(self):\n        segment.write(0, b'late'); segment.close()\nc = C()",
    "atexit": "import atexit; atexit.register(segment.read)",
    "builtins": "import builtins\n"
    "builtins.keep = [segment, segment.view('f64'), segment.atomic('u32', 0), segment.record_lock()]",
    "module deleted": "import gc, sys; del sys.modules['polyshm'], sys.modules['polyshm._core'], polyshm\n"
    "gc.collect(); segment[0]",
    "thread waiting": "import threading\n"
    "threading.Thread(target=segment.atomic('u32', 0).wait, args=(0,), daemon=True).start()",
    "thread locking": "import threading; lock = segment.mutex(0, create=True); lock.acquire()\n"
    "threading.Thread(target=lock.acquire, daemon=True).start()",
}


@pytest.mark.parametrize("what", SHUTDOWN)
@pytest.mark.parametrize("end", ["", "import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_interpreter_ends_with_open_segments(python, what, end):
    code = f"import polyshm\nsegment = polyshm.Segment('memfd:x', size=4096)\n{SHUTDOWN[what]}\n{end}\n"
    done = python(code)
    assert done.returncode == 0
    assert done.stderr == ""


def test_signal_handler_that_closes(anon):
    """Between any two instructions of a busy loop."""
    before = signal.signal(signal.SIGALRM, lambda *_: anon.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(ValueError, match="closed"):
            while True:
                anon.write(0, anon.read(0, 100))
                anon[1:50:3] = anon[1:50:3]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_import_is_light(python):
    code = """
import sys
before = set(sys.modules)
import polyshm
print(sorted(set(sys.modules) - before))
"""
    assert python(code).stdout == "['polyshm', 'polyshm._core']\n"


def test_two_imports_are_two_modules(python):
    """Multi-phase init: each import makes its own types, and objects of both work side by side."""
    code = """
import sys, gc
import polyshm._core as first
del sys.modules["polyshm._core"], sys.modules["polyshm"]
import polyshm._core as second
assert first is not second and first.Segment is not second.Segment
a, b = first.Segment("anon:", size=10), second.Segment("anon:", size=10)
for module, segment in ((first, a), (second, b)):
    try:
        segment.stat().id, segment.read(0, 11)
    except ValueError:
        pass
    try:
        segment.view("u8").obj
        module.Segment("posix:/none/none")
    except ValueError:
        pass
del first, second, module, sys.modules["polyshm._core"]
gc.collect()
a[0] = b[0] = 1
print("fine")
"""
    assert python(code).stdout == "fine\n"


def test_dev_mode_is_quiet():
    code = """
import polyshm
segment = polyshm.Segment("anon:", size=4096)
segment[0] = 1
segment.mutex(64, create=True).acquire()
segment.view("u8").tolist()
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
