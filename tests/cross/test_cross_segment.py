# SPDX-License-Identifier: MIT
"""Segments between languages: the same bytes, sizes, rights and answers, whoever made the segment."""

from __future__ import annotations

import os
import struct

import pytest
from partners import LANGUAGES, Refused
from places import KINDS, NAMED, RESIZABLE, SYSV, free_key

PATTERN = bytes(range(256)) * 8


def refusal(peer, *words: object) -> Refused:
    with pytest.raises(Refused) as caught:
        peer(*words)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_bytes(kind, share, writer, reader):
    place = share(kind, writer, reader)
    reader = place.reader
    assert place.made[:2] == ["8192", kind if kind not in SYSV else "sysv"]
    assert place.made[2] == ("0" if kind == "file" else "1")
    assert place.joined[0] == "8192"
    assert place.joined[2:4] == ["0", "0"]
    writer.write("s", 0, PATTERN)
    writer.write("s", 8192 - 7, b"the end")
    assert reader.bytes("s", 0, len(PATTERN)) == PATTERN
    assert reader.bytes("s", 8192 - 7, 7) == b"the end"
    reader.write("s", 3001, b"and back\0\xff")
    assert writer.bytes("s", 3000, 12)[1:11] == b"and back\0\xff"
    reader("fill", "s", 0xA5, 4000, 100)
    reader("copy", "s", 4050, 3001, 8)
    assert writer.bytes("s", 4000, 100) == b"\xa5" * 50 + b"and back" + b"\xa5" * 42
    assert writer.number("find", "s", b"the end".hex()) == reader.number("find", "s", b"the end".hex()) == 8192 - 7
    assert writer.number("find", "s", b"not there".hex()) == -1
    assert writer.bytes("s", 0, 8192) == reader.bytes("s", 0, 8192)


def test_file_around_the_window(share, writer, reader, path):
    before = path.read_bytes()
    place = share("file", writer, reader, 5003)
    writer("fill", "s", 0xEE, 0, 5003)
    place.reader.write("s", 5000, b"end")
    after = path.read_bytes()
    assert after == before[:1237] + b"\xee" * 5000 + b"end" + before[1237 + 5003 :]


@pytest.mark.parametrize("kind", ["posix", "sysv", "ftok", "file"])
def test_one_creator(kind, writer, reader, share, tmp_path):
    address = f"file:{tmp_path}/new"
    if kind == "file":
        assert writer("open", "s", address, "size=5000", "create=1", "exclusive=1")[2] == "1"
    else:
        place = share(kind, writer, reader, 5000)
        address = place.address
    assert reader("open", "s", address, "size=5000", "create=1")[2] == "0"
    for peer in (writer, reader):
        assert refusal(peer, "open", "t", address, "size=5000", "create=1", "exclusive=1").code == "EEXIST"
    # A window that does not fit what the other one made.
    assert refusal(reader, "open", "t", address, "size=5001", "create=1").code == "raise"
    assert refusal(reader, "open", "t", address, "size=5001").code == "raise"
    if kind in ("posix", "file"):
        writer.write("s", 0, b"first")
        assert reader("open", "t", address, "offset=2", "size=3")[0] == "3"
        assert reader.bytes("t", 0, 3) == b"rst"


@pytest.mark.parametrize("kind", KINDS)
def test_read_only(kind, share, writer, reader):
    place = share(kind, writer, reader)
    reader = place.reader
    assert place.join(reader, "access=r", name="r")[3] == "1"
    writer.write("s", 100, b"seen")
    assert reader.bytes("r", 100, 4) == b"seen"
    refused = refusal(reader, "write", "r", 100, "00")
    assert refused.code == "raise"
    assert "the memory is read-only" in refused.text
    assert refusal(reader, "fill", "r", 0, 0, 1).code == "raise"
    assert refusal(reader, "store", "r", "i32", 100, 1).code == "raise"
    assert refusal(reader, "mutex", "m", "r", 0, "create=1").code == "raise"
    assert writer.bytes("s", 100, 4) == b"seen"


@pytest.mark.parametrize("kind", ["posix", "file", "memfd"])
def test_copy_on_write(kind, share, writer, reader):
    place = share(kind, writer, reader)
    reader = place.reader
    writer.write("s", 100, b"original")
    place.join(reader, "access=copy", name="own")
    reader.write("own", 100, b"mine")
    assert reader.bytes("own", 100, 8) == b"mineinal"
    assert writer.bytes("s", 100, 8) == reader.bytes("s", 100, 8) == b"original"


@pytest.mark.parametrize("kind", RESIZABLE)
def test_growth(kind, share, writer, reader):
    place = share(kind, writer, reader)
    reader = place.reader
    writer.write("s", 0, b"before")
    writer("resize", "s", 100_000)
    writer.write("s", 99_990, b"far beyond")
    assert writer("size", "s") == ["100000"]
    # A handle keeps its window until it is opened anew, or resized itself.
    assert reader("size", "s") == ["8192"]
    assert refusal(reader, "read", "s", 99_990, 10).code == "raise"
    offset = 1237 if kind == "file" else 0
    assert reader("open", "t", place.address, f"offset={offset}")[0] == "100000"
    assert reader.bytes("t", 99_990, 10) == b"far beyond"
    reader("resize", "s", 100_000)
    assert reader.bytes("s", 99_990, 10) == b"far beyond"
    reader.write("s", 50_000, b"both")
    assert writer.bytes("s", 50_000, 4) == b"both"
    assert writer.bytes("s", 0, 6) == b"before"


@pytest.mark.parametrize("kind", ["posix", "file"])
def test_cut_short(kind, share, writer, reader):
    place = share(kind, writer, reader, 12000)
    reader.write("s", 0, b"stays")
    writer("resize", "s", 4000)
    assert reader.bytes("s", 0, 5) == b"stays"
    assert reader("lost", "s") == ["0"]
    assert refusal(place.reader, "read", "s", 11_000, 10).code == "ELOST"
    assert reader("lost", "s") == ["1"]
    # What is lost to one handle is not to another.
    assert writer.bytes("s", 0, 5) == b"stays"
    assert writer("lost", "s") == ["0"]


@pytest.mark.parametrize("kind", ["sysv", "ftok", "id"])
def test_no_growth_of_system_v(kind, share, writer, reader):
    place = share(kind, writer, reader)
    for peer in (writer, place.reader):
        assert refusal(peer, "resize", "s", 100_000).code == "EOPNOTSUPP"


@pytest.mark.parametrize("by", ["handle", "address"])
@pytest.mark.parametrize("kind", NAMED)
def test_unlink(kind, by, share, writer, reader):
    place = share(kind, writer, reader)
    for peer in (writer, reader):
        assert peer("exists", place.address) == ["1"]
    reader(*(["unlink", "s"] if by == "handle" else ["remove", place.address]))
    for peer in (writer, reader):
        assert peer("exists", place.address) == ["0"]
        assert refusal(peer, "open", "t", place.address).code in ("ENOENT", "EIDRM")
        assert refusal(peer, "stat", place.address).code in ("ENOENT", "EIDRM")
        assert refusal(peer, "remove", place.address).code in ("ENOENT", "EIDRM")
        assert refusal(peer, "unlink", "s").code in ("ENOENT", "EIDRM")
        if kind != "id":  # the kernel lists an id for as long as somebody is attached
            assert place.address not in peer.list()
    # The memory goes with its last user.
    writer.write("s", 5, b"still here")
    assert reader.bytes("s", 5, 10) == b"still here"
    if kind in ("posix", "sysv", "ftok"):
        assert writer("open", "n", place.address, "size=100", "create=1")[2] == "1"
        assert reader("open", "n", place.address)[2] == "0"
        writer.write("n", 5, b"new")
        assert reader.bytes("n", 5, 3) == b"new"
        assert reader.bytes("s", 5, 10) == b"still here"
        # A handle of the old one does not remove the new one.
        if kind == "posix":
            assert refusal(reader, "unlink", "s").code == "ENOENT"
        writer("unlink", "n")


@pytest.mark.parametrize("kind", NAMED)
def test_stat_agrees(kind, share, crew, path, name):
    place = share(kind, crew["c"], crew["python"])
    place.join(crew["lua"])
    crew["c"]("set", "s", "0640")
    by_handle = [crew[language].stat("segstat", "s") for language in LANGUAGES]
    by_address = [crew[language].stat("stat", place.address) for language in LANGUAGES]
    # A handle keeps the address that it was opened by, which may be "sysv:private".
    for found in by_handle:
        found["address"] = place.address
    assert by_handle[0] == by_handle[1] == by_handle[2]
    assert by_address[0] == by_address[1] == by_address[2]
    stat = by_address[0]
    assert by_handle[0] == stat
    assert stat["address"] == place.address
    assert int(stat["mode"]) == 0o640
    assert int(stat["uid"]) == os.geteuid()
    assert int(stat["size"]) == (20000 if kind == "file" else 8192)
    if kind in SYSV:
        assert stat["attaches"] == "3"
        assert int(stat["creator_pid"]) == crew["c"].pid
        assert int(stat["last_pid"]) == crew["lua"].pid
    else:
        assert stat["links"] == "1"
        # The kernel's own words for it, from a program that asks without us.
        status = os.stat(path if kind == "file" else f"/dev/shm{name}")
        assert int(stat["access_time"]) == int(status.st_atime)
        assert int(stat["modify_time"]) == int(status.st_mtime)
        assert int(stat["change_time"]) == int(status.st_ctime)
        assert (int(stat["device"]), int(stat["inode"])) == (status.st_dev, status.st_ino)
        assert int(stat["allocated"]) == status.st_blocks * 512
    if kind != "file":
        listed = f"sysv:0x{int(stat['key']):08x}" if kind in ("sysv", "ftok") else place.address
        rows = [crew[language].list()[listed] for language in LANGUAGES]
        assert rows[0] == rows[1] == rows[2]
        # /proc/sysvipc/shm knows a field more than shmctl does.
        assert rows[0].items() >= (stat | {"address": listed}).items()


@pytest.mark.parametrize("kind", KINDS)
def test_mode_is_seen(kind, share, writer, reader):
    place = share(kind, writer, reader, 8192, *([] if kind == "file" else ["mode=0660"]))
    if kind != "file":
        assert int(place.reader.stat("segstat", "s")["mode"]) == 0o660
    place.reader("set", "s", "0604")
    assert int(writer.stat("segstat", "s")["mode"]) == 0o604


FAULTS = {
    "missing": ("open t posix:{name}-missing", "ENOENT", "No such file or directory"),
    "missing-key": ("open t sysv:0x{key:x}", "ENOENT", "No such file or directory"),
    "missing-file": ("open t file:{tmp}/missing", "ENOENT", "No such file or directory"),
    "missing-ftok": ("open t sysv:{tmp}/missing#A", "ENOENT", "No such file or directory"),
    "no-address": ("open t nonsense", "raise", "not an address"),
    "no-kind": ("open t bogus:/name size=10 create=1", "raise", "not an address"),
    "two-slashes": ("open t posix:/a/b size=10 create=1", "raise", "not a name"),
    "no-size": ("open t posix:{name}-new create=1", "raise", "size is needed to create"),
    "no-bytes": ("open t posix:{name}-new size=0 create=1", "raise", "size must be at least 1 byte"),
    "bad-mode": ("open t posix:{name}-new size=10 create=1 mode=1777", "raise", "mode must be permissions alone"),
    "bad-descriptor": ("open t fd:1023", "EBADF", "Bad file descriptor"),
    "outside": ("read s 8190 3", "raise", "outside the segment"),
    "far-outside": ("read s 9223372036854775807 1", "raise", "outside the segment"),
    "write-outside": ("write s 8190 010203", "raise", "outside the segment"),
    "element-type": ("load s i24 0 1", "raise", "unknown element type"),
    "word-type": ("atomic a s i16 0", "raise", "unknown element type"),
    "word-alignment": ("atomic a s i64 4", "raise", "offset is not aligned"),
    "mutex-alignment": ("mutex m s 4 create=1", "raise", "offset is not aligned"),
    "no-mutex": ("mutex m s 4096", "raise", "no robust process-shared mutex at this offset"),
    "no-record": ("record l s 0 0", "raise", "size must be at least 1 byte"),
    "record-outside": ("record l s 8000 1000", "raise", "outside the segment"),
    "stat-of-nothing": ("stat anon:", "EOPNOTSUPP", "Operation not supported"),
    "exists-of-nothing": ("exists memfd:x", "EOPNOTSUPP", "Operation not supported"),
    "remove-of-nothing": ("remove posix:{name}-missing", "ENOENT", "No such file or directory"),
}


def test_refusals_agree(writer, share, name, tmp_path):
    share("posix", writer, writer)
    for fault, (command, code, text) in FAULTS.items():
        line = command.format(name=name, tmp=tmp_path, key=free_key())
        refused = refusal(writer, *line.split())
        assert refused.code == code, fault
        assert text in refused.text, fault


ORDERS = {"": "=", "=": "=", "<": "<", ">": ">"}
VALUES = {
    "i8": [0, 1, -1, 127, -128, 85],
    "u8": [0, 1, 255, 128, 127, 85],
    "i16": [0, 1, -1, 32767, -32768, 0x1234],
    "u16": [0, 1, 65535, 32768, 0x1234, 0xFF00],
    "i32": [0, 1, -1, 2**31 - 1, -(2**31), 0x12345678],
    "u32": [0, 1, 2**32 - 1, 2**31, 0x12345678, 0xFF0000],
    "i64": [0, 1, -1, 2**63 - 1, -(2**63), 0x123456789ABCDEF0],
    "u64": [0, 1, 2**64 - 1, 2**63, 0x123456789ABCDEF0, 0xFF00000000],
    "f32": [0.0, -0.0, 1.5, -(2.0**-149), 3.4028234663852886e38, float("inf"), float("-inf"), float("nan")],
    "f64": [0.0, -0.0, 0.1, -5e-324, 1.7976931348623157e308, float("inf"), float("-inf"), float("nan")],
}
LETTERS = dict(zip(VALUES, "bBhHiIqQfd", strict=True))


def texts(kind: str, values: list) -> list[str]:
    return [value.hex() if kind[0] == "f" else hex(value) for value in values]


def numbers(kind: str, words: list[str]) -> list:
    if kind[0] == "f":
        return [float.fromhex(word) for word in words]
    # Lua has no unsigned 64-bit integers.
    return [int(word) % 2**64 if kind == "u64" else int(word) for word in words]


@pytest.mark.parametrize("kind", VALUES)
def test_typed_views(kind, share, writer, reader):
    values = VALUES[kind]
    place = share("posix", writer, reader)
    for order, letter in ORDERS.items():
        layout = struct.Struct(f"{letter}{len(values)}{LETTERS[kind]}")
        packed = layout.pack(*values)
        # An offset that no element type is aligned to.
        writer("store", "s", order + kind, 1001, *texts(kind, values))
        assert place.reader.bytes("s", 1001, layout.size) == packed, order
        read = numbers(kind, reader("load", "s", order + kind, 1001, len(values)))
        # Compared as bytes, which tell -0.0 from 0.0 and hold for NaN.
        assert layout.pack(*read) == packed, order


@pytest.mark.parametrize("kind", ["anon", "zero", "posix", "id", "file", "memfd"])
def test_forked_child(kind, writer, path, name, tmp_path):
    address = {"posix": f"posix:{name}", "id": "sysv:private", "file": f"file:{path}", "memfd": "memfd:test"}
    given = ["offset=1236", "size=8000"] if kind == "file" else ["size=8000", "create=1"]
    made = writer("open", "s", address.get(kind, f"{kind}:"), *given)
    writer.write("s", 10, b"before the fork")
    child = writer.fork(tmp_path)
    assert child.number("pid") == child.pid
    assert child.bytes("s", 10, 15) == b"before the fork"
    child.write("s", 100, b"from the child")
    assert writer.bytes("s", 100, 14) == b"from the child"
    writer.write("s", 200, b"from the parent")
    assert child.bytes("s", 200, 15) == b"from the parent"
    child("fill", "s", 0, 400, 4)
    child("atomic", "a", "s", "u32", 400)
    writer("atomic", "a", "s", "u32", 400)
    child.send("addloop", "a", 20000)
    writer("addloop", "a", 20000)
    child.answer()
    assert writer.number("op", "a", "load") == 40000
    # What the child closes or gives up is still the parent's.
    child("close", "s")
    assert writer.reap(child) == ("exit", 0)
    assert writer.bytes("s", 100, 14) == b"from the child"
    assert made[0] == "8000"
    if kind in ("posix", "id"):
        writer("unlink", "s")


def test_descriptor_not_inherited(writer, reader, tmp_path):
    fd = writer("open", "s", "memfd:private", "size=100")[4]
    child = writer.launch(tmp_path, reader.language)
    assert refusal(child, "open", "s", f"fd:{fd}").code == "EBADF"
    assert writer.reap(child) == ("exit", 0)


def test_memfd_cannot_be_cut(share, writer, reader):
    place = share("memfd", writer, reader)
    for peer in (writer, place.reader):
        assert refusal(peer, "resize", "s", 4096).code == "EPERM"
    place.reader.write("s", 8000, b"safe")
    assert writer.bytes("s", 8000, 4) == b"safe"
