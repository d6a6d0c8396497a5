# SPDX-License-Identifier: MIT
"""Segments shared with programs that have none of our code: C, Perl, ipcs, dd and od, Python's mmap and
multiprocessing.shared_memory, numpy."""

from __future__ import annotations

import mmap
import os
import re
import struct
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import polyshm
import pytest
from partners import BUILD, Refused
from places import SYSV, free_key

PROGRAM = str(BUILD / "tests" / "cross_foreign_bytes")
# A sanitizer's library is for our own code: dd does what it does not allow.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"} | {"LC_ALL": "C", "TZ": "UTC"}


def run(*line: object, **options) -> bytes:
    """What a program prints."""
    line = tuple(map(str, line))
    done = subprocess.run(line, capture_output=True, timeout=30, check=False, env=ENVIRONMENT, **options)
    if done.returncode != 0 or done.stderr:
        pytest.fail(f"{line}: {done.returncode} {done.stderr.decode()}")
    return done.stdout


def shmid(peer, name: str = "s") -> str:
    return peer.stat("segstat", name)["id"]


# ---- a plain C program ---------------------------------------------------------------------------------------------


def foreign_name(kind: str, place, peer, name: str, path: Path) -> list[str]:
    if kind in ("posix", "file"):
        return [kind, name if kind == "posix" else str(path)]
    if kind == "id":
        return ["id", shmid(peer)]
    return ["ftok", str(path)] if kind == "ftok" else ["sysv", place.address.removeprefix("sysv:")]


@pytest.mark.parametrize("kind", ["posix", *SYSV, "file"])
def test_c_program_on_ours(kind, share, writer, name, path):
    place = share(kind, writer, writer)
    there = foreign_name(kind, place, writer, name, path)
    begin = 1237 if kind == "file" else 0
    assert run(PROGRAM, *there, "size") == (b"20000\n" if kind == "file" else b"8192\n")
    writer.write("s", 100, b"from us\0\xff")
    assert run(PROGRAM, *there, "read", begin + 100, 9) == b"from us\0\xff"
    run(PROGRAM, *there, "write", begin + 8000, "from C")
    assert writer.bytes("s", 7999, 8)[1:7] == b"from C"
    if kind != "ftok":
        run(PROGRAM, *there, "remove")
        assert writer("exists", place.address) == ["0"]
        assert writer.bytes("s", 8000, 6) == b"from C"


@pytest.mark.parametrize("kind", ["posix", "sysv", "ftok", "id", "file"])
def test_ours_on_a_c_program(kind, writer, name, path, tmp_path):
    key = f"{free_key():#x}"
    there = {
        "posix": ["posix", name],
        "sysv": ["sysv", key],
        "ftok": ["ftok", str(path)],
        "id": ["sysv", key],
        "file": ["file", str(tmp_path / "theirs")],
    }[kind]
    number = run(PROGRAM, *there, "make", 5000).decode().strip()
    address = {"posix": f"posix:{name}", "sysv": f"sysv:{key}", "ftok": f"sysv:{path}#A", "id": f"sysv:id={number}"}
    opened = writer("open", "s", address.get(kind, f"file:{tmp_path}/theirs"), "create=1", "size=5000")
    assert opened[0] == "5000"
    assert opened[2] == "0"
    run(PROGRAM, *there, "write", 4994, "theirs")
    assert writer.bytes("s", 4990, 10) == b"\0\0\0\0theirs"
    writer.write("s", 0, b"ours")
    assert run(PROGRAM, *there, "read", 0, 6) == b"ours\0\0"
    assert int(writer.stat("segstat", "s")["mode"]) == 0o600
    writer("unlink", "s")
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([PROGRAM, *there, "size"], check=True, capture_output=True)


def test_c_program_inherits_a_memfd(writer, tmp_path):
    fd = writer("open", "s", "memfd:polyshm-test", "size=5000", "inherit=1")[4]
    writer.write("s", 10, b"inherited")

    def foreign(*words: str) -> bytes:
        child = writer("start", "/dev/null", tmp_path / "out", PROGRAM, "fd", fd, *words)[0]
        assert writer("reap", child) == ["exit", "0"]
        return (tmp_path / "out").read_bytes()

    assert foreign("size") == b"5000\n"
    assert foreign("read", "10", "9") == b"inherited"
    foreign("write", "4990", "and_back")
    assert writer.bytes("s", 4990, 8) == b"and_back"


@pytest.mark.parametrize("kind", ["anon", "zero"])
def test_nameless_memory_from_outside(kind, writer, tmp_path):
    """No other program can map it; what a debugger does reaches it, and the forked child sees that."""
    writer("open", "s", f"{kind}:", "size=86016")
    child = writer.fork(tmp_path)
    maps = Path(f"/proc/{writer.pid}/maps").read_text()
    found = re.findall(r"^(\w+)-(\w+) rw-s \w+ \S+ \d+ +/dev/zero", maps, re.MULTILINE)
    begin = next(int(low, 16) for low, high in found if int(high, 16) - int(low, 16) == 86016)
    writer.write("s", 4095, b"over a page")
    fd = os.open(f"/proc/{writer.pid}/mem", os.O_RDWR)
    try:
        assert os.pread(fd, 11, begin + 4095) == b"over a page"
        assert os.pwrite(fd, b"from outside", begin + 86000) == 12
    finally:
        os.close(fd)
    assert child.bytes("s", 86000, 12) == b"from outside"
    assert child.bytes("s", 4095, 11) == b"over a page"
    writer.reap(child)


@pytest.mark.parametrize("size", [0, 4096])
def test_truncate_cuts_the_file(size, share, writer, path):
    """Everybody is told, nobody is killed; what is left stays."""
    share("file", writer, writer)
    writer.write("s", 0, b"left")
    run("truncate", "-s", size, path)
    with pytest.raises(Refused) as caught:
        writer("read", "s", 0, 8192)
    assert caught.value.code == "ELOST"
    assert writer("lost", "s") == ["1"]
    commands = ["write s 8000 00", "fill s 1 0 8192", "copy s 8000 0 10"]
    if writer.language != "python":  # a memoryview cannot raise: it reads zeros
        commands += ["load s u8 8000 1", "store s f64 8000 0x1p+0"]
    for command in commands:
        with pytest.raises(Refused) as caught:
            writer(*command.split())
        assert caught.value.code == "ELOST", command
    assert path.stat().st_size == size


# ---- Perl ----------------------------------------------------------------------------------------------------------


def perl(code: str, *arguments: object) -> bytes:
    return run("perl", "-we", "use strict; " + code, *arguments)


@pytest.mark.parametrize("kind", SYSV)
def test_perl_on_ours(kind, share, writer):
    share(kind, writer, writer)
    writer.write("s", 100, b"from us\0\xff")
    number = shmid(writer)
    read = 'my $b = ""; shmread($ARGV[0], $b, 99, 11) or die $!; binmode STDOUT; print $b'
    assert perl(read, number) == b"\0from us\0\xff\0"
    # shmwrite pads with NUL bytes, and cuts what is too long.
    perl('shmwrite($ARGV[0], "from Perl", 200, 12) or die $!', number)
    perl('shmwrite($ARGV[0], "from Perl", 8188, 4) or die $!', number)
    assert writer.bytes("s", 200, 12) == b"from Perl\0\0\0"
    assert writer.bytes("s", 8188, 4) == b"from"
    if kind == "sysv":
        key = int(writer.stat("segstat", "s")["key"])
        assert perl("my $id = shmget($ARGV[0], 0, 0); defined $id or die $!; print $id", key).decode() == number


def test_ours_on_perl(writer):
    key = free_key()
    make = """
        my $id = shmget($ARGV[0], 5000, 01000 | 02000 | 0640);  # IPC_CREAT | IPC_EXCL
        defined $id or die $!;
        shmwrite($id, pack("d>q<", 1.5, -2), 16, 16) or die $!;
        print $id"""
    number = perl(make, key).decode()
    try:
        assert writer("open", "s", f"sysv:{key:#x}")[0] == "5000"
        assert float.fromhex(writer("load", "s", ">f64", 16, 1)[0]) == 1.5
        assert writer("load", "s", "<i64", 24, 1) == ["-2"]
        assert int(writer.stat("segstat", "s")["mode"]) == 0o640
        assert shmid(writer) == number
        writer("store", "s", ">u32", 40, 0xDEADBEEF)
        read = 'my $b = ""; shmread($ARGV[0], $b, 40, 4) or die $!; printf "%x", unpack("N", $b)'
        assert perl(read, number) == b"deadbeef"
    finally:
        # IPC_RMID
        perl("defined shmctl($ARGV[0], 0, 0) or die $!", number)
    assert writer("exists", f"sysv:{key:#x}") == ["0"]


# ---- ipcs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SYSV)
def test_ipcs(kind, share, writer):
    place = share(kind, writer, writer, 12345, "mode=0640")
    place.join(writer, name="t")
    stat = writer.stat("segstat", "s")
    rows = [line.split() for line in run("ipcs", "-m").decode().splitlines()]
    row = next(row for row in rows if len(row) >= 6 and row[1] == stat["id"])
    assert int(row[0], 16) == int(stat["key"])
    assert row[3:6] == ["640", "12345", stat["attaches"]]
    details = run("ipcs", "-m", "-i", stat["id"]).decode()
    found = dict(re.findall(r"(\w+)=(\S+)", details))
    assert found["uid"] == stat["uid"]
    assert found["gid"] == stat["gid"]
    assert found["cuid"] == stat["cuid"]
    assert found["cgid"] == stat["cgid"]
    assert int(found["access_perms"], 8) == int(stat["mode"])
    assert found["bytes"] == stat["size"]
    assert found["nattch"] == stat["attaches"]
    assert found["cpid"] == stat["creator_pid"]
    assert found["lpid"] == stat["last_pid"]
    times = dict(re.findall(r"(\w+_time)=(.*\S)", details))
    for theirs, ours in {"att_time": "attach_time", "det_time": "detach_time", "change_time": "change_time"}.items():
        seconds = int(stat[ours])
        expected = time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(seconds)) if seconds else "Not set"
        assert times[theirs].split() == expected.split(), theirs


def test_ipcrm(share, writer):
    place = share("sysv", writer, writer)
    run("ipcrm", "-M", place.address.removeprefix("sysv:"))
    assert writer("exists", place.address) == ["0"]
    with pytest.raises(Refused) as caught:
        writer("unlink", "s")
    assert caught.value.code == "EIDRM"
    writer.write("s", 0, b"until the last detach")
    # The key is free, and leads to another segment.
    number = run(PROGRAM, "sysv", place.address.removeprefix("sysv:"), "make", 100).decode().strip()
    assert writer("open", "t", place.address)[0] == "100"
    assert shmid(writer, "t") == number
    writer("unlink", "t")


# ---- dd and od on /dev/shm -----------------------------------------------------------------------------------------


def test_dd_and_od(share, writer, name):
    share("posix", writer, writer)
    file = f"/dev/shm{name}"
    writer.write("s", 1000, b"\x01\x02dd\xff")
    assert run("dd", f"if={file}", "bs=1", "skip=1000", "count=5", "status=none") == b"\x01\x02dd\xff"
    run("dd", f"of={file}", "bs=1", "seek=4000", "conv=notrunc", "status=none", input=b"from dd\0")
    assert writer.bytes("s", 4000, 8) == b"from dd\0"
    writer("store", "s", "i32", 2000, 1, -2, 2147483647)
    writer("store", "s", ">u16", 2012, 513)
    writer("store", "s", "f64", 2016, "0x1.8p+1")
    assert run("od", "-An", "-td4", "-j2000", "-N12", file).split() == [b"1", b"-2", b"2147483647"]
    assert run("od", "-An", "-tx1", "-j2012", "-N2", file).split() == [b"02", b"01"]
    assert run("od", "-An", "-tf8", "-j2016", "-N8", file).split() == [b"3"]
    # All of the file is the segment, nothing else is.
    assert os.stat(file).st_size == 8192


# ---- Python's mmap -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["posix", "file", "memfd"])
def test_mmap_on_ours(kind, share, writer, reader, name, path):
    place = share(kind, writer, reader)
    where = {"posix": f"/dev/shm{name}", "file": path, "memfd": f"/proc/{writer.pid}/fd/{place.made[4]}"}[kind]
    begin = 1237 if kind == "file" else 0
    with open(where, "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as theirs:
        writer.write("s", 50, b"ours")
        assert theirs[begin + 50 : begin + 54] == b"ours"
        theirs[begin + 60 : begin + 66] = b"theirs"
        assert place.reader.bytes("s", 60, 6) == b"theirs"
        writer("atomic", "a", "s", "u32", 103 if kind == "file" else 100)
        writer("op", "a", "store", 41)
        writer("op", "a", "add", 1)
        assert struct.unpack_from("=I", theirs, begin + (103 if kind == "file" else 100)) == (42,)


def test_ours_on_mmap(writer, path):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8192, offset=mmap.ALLOCATIONGRANULARITY) as theirs:
        writer("open", "s", f"file:{path}", f"offset={mmap.ALLOCATIONGRANULARITY + 7}", "size=100")
        theirs[7:11] = b"mmap"
        assert writer.bytes("s", 0, 4) == b"mmap"
        writer("store", "s", "<i64", 1, -3)
        assert struct.unpack_from("<q", theirs, 8) == (-3,)


# ---- multiprocessing.shared_memory -----------------------------------------------------------------------------------

# The tracker would remove what it did not make, and would live on as somebody's child.
UNTRACKED = """
import sys
from multiprocessing import resource_tracker
resource_tracker.register = resource_tracker.unregister = lambda name, kind: None
from multiprocessing.shared_memory import SharedMemory
def wait():
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def partner(python) -> Callable[..., Callable[[], str]]:
    """partner(code, ...): starts it and waits until it says that it is ready; calling the result lets it go on, to its
    next stop or its end, and returns what it printed."""

    def start(code: str, *arguments: object) -> Callable[[], str]:
        child = python.start(UNTRACKED + textwrap.dedent(code), *arguments)

        def go_on() -> str:
            if child.poll() is None:
                child.stdin.write("\n")
                child.stdin.flush()
            printed = []
            for line in child.stdout:
                if line == "ready\n":
                    return "".join(printed)
                printed.append(line)
            assert child.wait(20) == 0, child.stderr.read()
            return "".join(printed)

        assert child.stdout.readline() == "ready\n", child.stderr.read()
        return go_on

    return start


def test_ours_on_shared_memory(writer, partner, name):
    code = """
        memory = SharedMemory(sys.argv[1], create=True, size=5000)
        memory.buf[:6] = b"theirs"
        wait()
        print(bytes(memory.buf[4000:4004]).decode())
        memory.close()
        wait()
        memory.unlink()
    """
    go_on = partner(code, name.removeprefix("/"))
    assert writer("open", "s", f"posix:{name}")[0] == "5000"
    assert writer.bytes("s", 0, 6) == b"theirs"
    writer.write("s", 4000, b"ours")
    assert go_on() == "ours\n"
    assert writer("exists", f"posix:{name}") == ["1"]
    assert go_on() == ""
    assert writer("exists", f"posix:{name}") == ["0"]
    assert writer.bytes("s", 4000, 4) == b"ours"


def test_shared_memory_on_ours(writer, partner, share, name):
    share("posix", writer, writer)
    writer.write("s", 8188, b"ours")
    code = """
        memory = SharedMemory(sys.argv[1])
        print(memory.size, bytes(memory.buf[8188:8192]).decode())
        memory.buf[1:7] = b"theirs"
        wait()
        memory.close()
    """
    go_on = partner("wait()\n" + textwrap.dedent(code), name.removeprefix("/"))
    assert go_on() == "8192 ours\n"
    assert writer.bytes("s", 0, 8) == b"\0theirs\0"
    assert go_on() == ""
    assert writer("exists", f"posix:{name}") == ["1"]


# ---- numpy -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def numpy():
    return pytest.importorskip("numpy", reason="numpy is not installed")


@pytest.mark.parametrize("kind", ["posix", "file"])
def test_numpy_memmap(kind, numpy, share, writer, name, path):
    share(kind, writer, writer)
    where, begin = (f"/dev/shm{name}", 0) if kind == "posix" else (path, 1237)
    array = numpy.memmap(where, dtype=">i4", mode="r+", offset=begin + 11, shape=(4, 2))
    writer("store", "s", ">i32", 11, *range(-4, 4))
    assert array.tolist() == [[-4, -3], [-2, -1], [0, 1], [2, 3]]
    array[2] = (1000, -1000)
    assert writer("load", "s", ">i32", 27, 2) == ["1000", "-1000"]
    del array


def test_numpy_frombuffer(numpy, writer, share, name):
    """An array over our segment in this process, and the partner's writes in it."""
    share("posix", writer, writer)
    with polyshm.Segment(f"posix:{name}") as segment:
        array = numpy.frombuffer(segment, dtype="<f8", offset=8, count=5)
        writer("store", "s", "<f64", 8, *(float(x).hex() for x in (0.5, -1, 2, 1e300, float("inf"))))
        assert array.tolist() == [0.5, -1.0, 2.0, 1e300, float("inf")]
        array[:] = numpy.arange(5) / 4
        found = [float.fromhex(word) for word in writer("load", "s", "<f64", 8, 5)]
        assert found == [0.0, 0.25, 0.5, 0.75, 1.0]
        del array


# ---- one process with two copies of the core -----------------------------------------------------------------------

BOTH = r"""
import ctypes, os, sys
import polyshm

lua = ctypes.CDLL("liblua5.4.so.0", mode=ctypes.RTLD_GLOBAL)
lua.luaL_newstate.restype = ctypes.c_void_p
lua.lua_tolstring.restype = ctypes.c_char_p
state = ctypes.c_void_p(lua.luaL_newstate())
lua.luaL_openlibs(state)

def run(code):
    failed = lua.luaL_loadstring(state, code.encode()) or lua.lua_pcallk(state, 0, 1, 0, ctypes.c_void_p(0), None)
    text = lua.lua_tolstring(state, -1, None)
    lua.lua_settop(state, 0)
    if failed:
        raise SystemExit(text)
    return text and text.decode()

address, path = sys.argv[1:]
segment = polyshm.Segment(address, size=8192, create=True)
lock = segment.mutex(0, create=True)
run(f"polyshm = require 'polyshm'; seg = assert(polyshm.segment('{address}')); lock = seg:mutex(0)")
segment.write(100, b"python")
print(run("return seg:read(100, 6)"))
run("seg:write(100, 'lua')")
print(segment.read(100, 3).decode())

# One thread, so one owner, whichever copy it asks.
lock.acquire()
print(run("return tostring(lock:owner())") == str(os.getpid()))
print(run("return select(2, lock:acquire(0))"))
lock.release()
run("assert(lock:acquire(0))")
print(lock.acquire(False), lock.owner() == os.getpid())
run("lock:release()")
print(lock.acquire(False))
lock.release()

# Two handlers of SIGBUS, each for its own mappings.
ours = polyshm.Segment("file:" + path)
run(f"cut = assert(polyshm.segment('file:{path}'))")
os.truncate(path, 0)
print(run("local ok, problem = pcall(cut.read, cut, 0, 1); return tostring(ok) .. ' ' .. problem.code"), ours.lost)
try:
    ours.read(0, 1)
except polyshm.Lost as problem:
    print("Lost", run("return tostring(seg.lost) .. tostring(cut.lost)"))
os.ftruncate(ours.fd, 8192)
run("cut:close() seg:close()")
lua.lua_close(state)
# The copy that is left still has its handler.
other = polyshm.Segment("file:" + path)
os.truncate(path, 0)
try:
    other.read(0, 1)
except polyshm.Lost:
    print("Lost again")
segment.unlink()
"""


def test_both_languages_in_one_process(python, name, path):
    printed = python(BOTH, f"posix:{name}", path).stdout.splitlines()
    assert printed == [
        "python",
        "lua",
        "True",
        "held",
        "False True",
        "True",
        "false ELOST False",
        "Lost falsetrue",
        "Lost again",
    ]
