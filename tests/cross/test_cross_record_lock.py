# SPDX-License-Identifier: MIT
"""Record locks between languages, and with programs that call fcntl themselves."""

from __future__ import annotations

import fcntl
import os
import struct

import pytest
from partners import LANGUAGES, Refused
from places import RESIZABLE, SYSV

WINDOW = 1237  # where the window begins in the file, see the fixture `share`
COUNTER = 512


def blocked(peer, name: str = "l") -> bool:
    """Is the lock another's? Asked by trying, and by `locked` too."""
    taken = peer("acquire", name, "try") == ["0"]
    assert peer("locked", name) == ["1"]  # held by whoever it is
    if not taken:
        peer("release", name)
        assert peer("locked", name) == ["0"]
    return taken


@pytest.mark.parametrize("kind", RESIZABLE)
def test_exclusive(kind, share, writer, reader):
    reader = share(kind, writer, reader).reader
    for peer in (writer, reader):
        peer("record", "l", "s", 0, 100)
    for holder, other in ((writer, reader), (reader, writer)):
        assert not blocked(other)
        assert holder("acquire", "l", "-") == ["1"]
        assert blocked(other)
        other.send("acquire", "l", "-")
        assert not other.lines.answered(0.01)
        holder("release", "l")
        assert other.answer() == ["1"]
        assert holder("acquire", "l", "try") == ["0"]
        other("release", "l")
        with pytest.raises(Refused, match="not held by this thread"):
            other("release", "l")


def test_timeout(share, writer, reader):
    share("posix", writer, reader)
    for peer in (writer, reader):
        peer("record", "l", "s", 0, 100)
    writer("acquire", "l", "0.01")
    # The last one is longer than the slices that a wait is made of.
    for timeout in ("try", "0", "0.01", "0.12"):
        assert reader("acquire", "l", timeout) == ["0"]
    writer("release", "l")
    assert reader("acquire", "l", "0.01") == ["1"]


@pytest.mark.parametrize("kind", RESIZABLE)
def test_shared(kind, share, writer, reader):
    reader = share(kind, writer, reader).reader
    for peer in (writer, reader):
        peer("record", "r", "s", 0, 100, "shared=1")
        peer("record", "l", "s", 0, 100)
    assert writer("acquire", "r", "-") == ["1"]
    assert reader("acquire", "r", "-") == ["1"]
    # Two handles of one process exclude each other too.
    for peer in (writer, reader):
        assert blocked(peer)
    writer("release", "r")
    assert blocked(writer)
    reader("release", "r")
    assert not blocked(writer)
    assert writer("acquire", "l", "-") == ["1"]
    assert blocked(reader, "r")
    writer("release", "l")
    assert not blocked(reader, "r")


@pytest.mark.parametrize("kind", RESIZABLE)
def test_ranges(kind, share, writer, reader):
    reader = share(kind, writer, reader).reader
    writer("record", "l", "s", 100, 50)
    assert writer("acquire", "l", "-") == ["1"]
    ranges = {(0, 100): False, (150, 8042): False, (149, 1): True, (100, 1): True, (0, 101): True, (0, 8192): True}
    for (offset, size), expected in ranges.items():
        reader("record", "l", "s", offset, size)
        assert blocked(reader) == expected, (offset, size)


@pytest.mark.parametrize("waiting", ["asleep", "later"])
@pytest.mark.parametrize("end", ["die", "exit"])
def test_holder_ends(end, waiting, share, hire, writer, reader):
    place = share("posix", writer, reader)
    holder = hire(writer.language)
    place.join(holder)
    holder("record", "l", "s", 0, 100)
    reader("record", "l", "s", 0, 100)
    holder("acquire", "l", "-")
    if waiting == "asleep":
        reader.send("acquire", "l", "-")
        assert not reader.lines.answered(0.01)
    else:
        assert blocked(reader)
    holder.last(end)
    assert (reader.answer() if waiting == "asleep" else reader("acquire", "l", "-")) == ["1"]
    reader("release", "l")


def test_close_gives_up_nothing_else(share, writer, reader):
    """What classic locks of fcntl get wrong: closing another descriptor of the file drops them."""
    place = share("file", writer, reader)
    for peer in (writer, reader):
        peer("record", "l", "s", 0, 100)
    writer("acquire", "l", "-")
    place.join(writer, name="t")
    writer("close", "t")
    assert blocked(reader)


@pytest.mark.parametrize("kind", RESIZABLE)
def test_exclusion(kind, share, writer, reader):
    reader = share(kind, writer, reader).reader
    writer("fill", "s", 0, 0, 1024)
    for peer in (writer, reader):
        peer("record", "l", "s", 10, 1)
    for peer in (writer, reader):
        peer.send("incloop", "l", "s", COUNTER, 150, "guard")
    for peer in (writer, reader):
        peer.answer()
    assert struct.unpack("=Q", reader.bytes("s", COUNTER, 8)) == (300,)


def test_forked_child_holds_nothing(writer, share, tmp_path):
    share("posix", writer, writer)
    writer("record", "l", "s", 0, 100)
    writer("acquire", "l", "-")
    child = writer.fork(tmp_path)
    assert blocked(child)
    with pytest.raises(Refused, match="not held by this thread"):
        child("release", "l")
    child.send("acquire", "l", "-")
    assert not child.lines.answered(0.01)
    writer("release", "l")
    assert child.answer() == ["1"]
    assert blocked(writer)
    assert writer.reap(child) == ("exit", 0)
    assert not blocked(writer)


@pytest.mark.parametrize("kind", [*SYSV, "anon", "zero"])
def test_no_file_behind(kind, share, writer):
    if kind in SYSV:
        share(kind, writer, writer)
    else:
        writer("open", "s", f"{kind}:", "size=4096")
    with pytest.raises(Refused) as caught:
        writer("record", "l", "s", 0, 100)
    assert caught.value.code == "EOPNOTSUPP"


def test_read_only(share, writer, reader):
    place = share("posix", writer, reader)
    place.join(reader, "access=r", name="r")
    with pytest.raises(Refused, match="the memory is read-only"):
        reader("record", "l", "r", 0, 100)
    reader("record", "l", "r", 0, 100, "shared=1")
    writer("record", "l", "s", 50, 1)
    assert reader("acquire", "l", "-") == ["1"]
    assert blocked(writer)


# ---- Python's fcntl, with nothing of ours --------------------------------------------------------------------------

FLOCK = struct.Struct("hhqqi4x")


def ofd(fd: int, command: int, kind: int, start: int, size: int) -> tuple:
    return FLOCK.unpack(fcntl.fcntl(fd, command, FLOCK.pack(kind, os.SEEK_SET, start, size, 0)))


@pytest.fixture
def file_of(share, path, name):
    """file_of(kind, peer): a descriptor of the file behind the segment "s", and where the window begins in it."""
    opened: list[int] = []

    def start(kind: str, peer) -> tuple[int, int]:
        share(kind, peer, peer)
        opened.append(os.open(path if kind == "file" else f"/dev/shm{name}", os.O_RDWR))
        return opened[-1], WINDOW if kind == "file" else 0

    yield start
    for fd in opened:
        os.close(fd)


@pytest.mark.parametrize("kind", ["posix", "file"])
def test_open_file_description_lock(kind, file_of, writer):
    fd, begin = file_of(kind, writer)
    writer("record", "l", "s", 100, 50)
    ofd(fd, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, begin + 149, 1)
    assert blocked(writer)
    writer.send("acquire", "l", "-")
    assert not writer.lines.answered(0.01)
    ofd(fd, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, begin + 149, 1)
    assert writer.answer() == ["1"]
    with pytest.raises(BlockingIOError):
        ofd(fd, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, begin + 100, 1)
    # Where it lies in the file; a lock of a description has no owner that could be named.
    found = ofd(fd, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, 0, 0)
    assert found == (fcntl.F_WRLCK, os.SEEK_SET, begin + 100, 50, -1)
    ofd(fd, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, begin + 150, 1)
    ofd(fd, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, begin + 99, 1)
    writer("release", "l")
    ofd(fd, fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, begin + 100, 50)
    assert blocked(writer)


@pytest.mark.parametrize("kind", ["posix", "file"])
def test_classic_lock(kind, file_of, writer):
    fd, begin = file_of(kind, writer)
    writer("record", "l", "s", 100, 50)
    writer("record", "r", "s", 100, 50, "shared=1")
    fcntl.lockf(fd, fcntl.LOCK_SH, 10, begin + 140)
    assert blocked(writer)
    assert not blocked(writer, "r")
    assert writer("acquire", "r", "-") == ["1"]
    with pytest.raises(OSError):
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, begin + 100)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, begin + 150)
    writer("release", "r")
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, begin + 100)
    assert blocked(writer, "r")
    fcntl.lockf(fd, fcntl.LOCK_UN, 0, 0)
    assert not blocked(writer)


def test_classic_lock_of_a_killed_program(file_of, hire, path, writer):
    fd, begin = file_of("file", writer)
    ours = hire(writer.language)
    ours("open", "s", f"file:{path}", f"offset={begin}")
    ours("record", "l", "s", 0, 1)
    ours("acquire", "l", "-")
    with pytest.raises(OSError):
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, begin)
    ours.last("die")
    fcntl.lockf(fd, fcntl.LOCK_EX, 1, begin)


def test_all_languages_are_one(crew, share):
    """Whoever holds, of whichever language, excludes the other two."""
    place = share("posix", crew["c"], crew["python"])
    place.join(crew["lua"])
    for peer in crew.values():
        peer("record", "l", "s", 0, 8192)
    for holder in LANGUAGES:
        crew[holder]("acquire", "l", "-")
        assert [blocked(crew[other]) for other in LANGUAGES if other != holder] == [True, True]
        crew[holder]("release", "l")
