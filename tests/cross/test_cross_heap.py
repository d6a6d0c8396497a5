# SPDX-License-Identifier: MIT
"""The heap between languages: what one allocates the other reads, frees, and gets again."""

from __future__ import annotations

import os
import random
import signal
import struct
import time

import pytest
from partners import Refused
from places import KINDS

SIZES = (1, 8, 16, 17, 64, 100, 4096, 5000, 20_000, 300_000)


def word(peer, place: int) -> int:
    """What a destination holds."""
    return struct.unpack("=Q", bytes.fromhex(peer("peek", "a", place, 8)[0]))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_blocks(kind, hall, writer, reader):
    reader = hall(kind, writer, reader).reader
    for i, size in enumerate(SIZES):
        maker, other = (writer, reader) if i % 2 else (reader, writer)
        root = maker.number("root", "a", i)
        assert other.number("root", "a", i) == root
        assert word(other, root) == 0
        maker("alloc", "a", root, size)
        place = word(other, root)
        assert place == word(maker, root) > 0
        assert place % (64 if size % 64 == 0 else 16) == 0
        assert other.number("blocksize", "a", place) == maker.number("blocksize", "a", place) >= size
        assert other("peek", "a", place, size) == ["00" * size]
        data = os.urandom(size)
        for at in range(0, size, 30_000):  # a line of the partners
            maker("poke", "a", place + at, data[at : at + 30_000].hex())
        assert other("peek", "a", place, size) == [data.hex()]
        with pytest.raises(Refused, match="raise"):
            other("alloc", "a", root, 8)
    assert writer("stats", "a", "used", "large") == reader("stats", "a", "used", "large")
    for i, _ in enumerate(SIZES):
        (reader if i % 2 else writer)("free", "a", writer.number("root", "a", i))
    for peer in (writer, reader):
        assert peer("stats", "a", "used", "large") == ["0", "0"]
        assert peer("check", "a") == []


def test_a_list_that_both_build(hall, writer, reader):
    """Words of blocks are destinations: a chain, each link by the other one, read and taken down from the other end."""
    hall("posix", writer, reader)
    root = target = writer.number("root", "a", 5)
    for i in range(40):
        peer = (writer, reader)[i % 2]
        peer("alloc", "a", target, 24)
        block = word(peer, target)
        peer("poke", "a", block + 8, struct.pack("=Q", i).hex())
        target = block
    for peer in (writer, reader):
        found, at = [], word(peer, root)
        links = [root]
        while at:
            found.append(word(peer, at + 8))
            links.append(at)
            at = word(peer, at)
        assert found == list(range(40))
        assert peer("check", "a") == []
    for i, link in enumerate(reversed(links[:-1])):
        (writer, reader)[i % 2]("free", "a", link)
    for peer in (writer, reader):
        assert peer("stats", "a", "used") == ["0"]
        assert word(peer, root) == 0


def test_mistakes(hall, writer, reader):
    hall("posix", writer, reader)
    root = writer.number("root", "a", 0)
    writer("alloc", "a", root, 100)
    place = word(reader, root)
    size = reader.number("blocksize", "a", place)
    for peer in (writer, reader):
        for call in (
            *(("alloc", "a", root, 8), ("alloc", "a", 0, 8), ("alloc", "a", root + 4, 8), ("alloc", "a", 4096, 8)),
            *(("alloc", "a", writer.number("root", "a", 1), 0), ("free", "a", place + 4), ("free", "a", 1 << 40)),
            *(("blocksize", "a", 0), ("blocksize", "a", root), ("blocksize", "a", 1 << 40), ("peek", "a", 0, 8)),
            *(("peek", "a", place, size + 1), ("peek", "a", place - 1, 4), ("poke", "a", place + size, "00")),
            *(("poke", "a", root, "00" * 8), ("peek", "a", 1 << 40, 1)),
        ):
            with pytest.raises(Refused, match=r"^raise"):
                peer(*call)
        with pytest.raises(Refused, match=r"^ENOSPC"):
            peer("alloc", "a", writer.number("root", "a", 1), 1 << 20)
        # A destination that holds nothing is left so.
        peer("free", "a", writer.number("root", "a", 1))
        assert word(peer, writer.number("root", "a", 1)) == 0
    assert word(writer, root) == place
    for peer in (writer, reader):
        assert peer("check", "a") == []


def test_all_at_once(hall, crew):
    place = hall("posix", crew["c"], crew["lua"], "size=4194304")
    place.join(crew["python"])
    for index, peer in enumerate(crew.values()):
        peer.send("heaploop", "a", index, 1500)
    for peer in crew.values():
        peer.answer()
    for peer in crew.values():
        assert peer("stats", "a", "used") == ["0"]
        assert peer("check", "a") == []


def test_killed_in_the_middle(hall, hire, writer, reader):
    """The other one goes on at once; what the dead had is in its root, or free."""
    place = hall("posix", writer, reader)
    root = reader.number("root", "a", 0)
    for _ in range(12):
        victim = hire(writer.language)
        place.join(victim)
        victim.send("heaploop", "a", 0, 1_000_000_000)
        reader.send("heaploop", "a", 1, 300)
        time.sleep(random.random() * 0.02)
        os.kill(victim.pid, signal.SIGKILL)
        victim.process.wait()
        reader.answer()
        # Whoever comes next puts right what it was in the middle of.
        for peer in (reader, writer):
            assert peer("check", "a") == []
        held = word(reader, root)
        used = reader.number("stats", "a", "used")
        assert used == (reader.number("blocksize", "a", held) if held else 0)
        reader("free", "a", root)
        assert writer("stats", "a", "used") == ["0"]


def test_full_for_all(hall, writer, reader):
    """What one has taken is missing to the other, and is there again when it is given back."""
    hall("posix", writer, reader, "size=262144")
    largest = reader.number("stats", "a", "largest_free")
    root, other = writer.number("root", "a", 0), writer.number("root", "a", 1)
    writer("alloc", "a", root, largest)
    with pytest.raises(Refused, match=r"^ENOSPC"):
        reader("alloc", "a", other, 4096)
    with pytest.raises(Refused, match=r"^ENOSPC"):
        reader("counter", "c", "a", "count")
    assert reader.names() == {}
    reader("free", "a", root)
    reader("alloc", "a", other, largest)
    writer("free", "a", other)
    assert reader.number("stats", "a", "largest_free") == largest
