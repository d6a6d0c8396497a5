# SPDX-License-Identifier: MIT
"""Atomic words between languages: nothing is lost, every verb means the same, and a wait here is ended by a notify
there."""

from __future__ import annotations

import pytest
from partners import LANGUAGES
from places import KINDS

TYPES = {"i32": (32, True), "u32": (32, False), "i64": (64, True), "u64": (64, False)}


def fold(value: int, kind: str) -> int:
    """The value as the type has it, wrapped."""
    bits, signed = TYPES[kind]
    value %= 2**bits
    return value - 2**bits if signed and value >= 2 ** (bits - 1) else value


def limits(kind: str) -> tuple[int, int]:
    bits, signed = TYPES[kind]
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def value_of(peer, kind: str, *words: object) -> int:
    return fold(int(peer("op", *words)[0]), kind)  # Lua has no unsigned 64-bit integers


@pytest.mark.parametrize("kind", TYPES)
def test_verbs(kind, share, writer, reader):
    share("posix", writer, reader)
    low, high = limits(kind)
    for peer in (writer, reader):
        peer("atomic", "a", "s", kind, 64)
    expected = 0

    def operate(peer, verb: str, change, *values: int) -> None:
        nonlocal expected
        assert value_of(peer, kind, "a", verb, *map(hex, values)) == expected, verb
        expected = fold(change(expected), kind)
        for other in (writer, reader):
            assert value_of(other, kind, "a", "load") == expected, verb

    for value in (high, low, 12345):
        writer("op", "a", "store", hex(value))
        expected = value
        assert value_of(reader, kind, "a", "load") == value
        size = TYPES[kind][0] // 8
        assert reader.bytes("s", 64, size) == (value % 256**size).to_bytes(size, "little")
        for one, other in ((writer, reader), (reader, writer)):
            operate(one, "add", lambda old: old + 1, 1)
            operate(other, "sub", lambda old: old - 3, 3)
            operate(one, "add", lambda old, by=high: old + by, high)
            operate(other, "xor", lambda old: old ^ 0x5555AAAA, 0x5555AAAA)
            operate(one, "or_", lambda old: old | 0xFF00, 0xFF00)
            operate(other, "and_", lambda old: old & 0x7FFFFFF0, 0x7FFFFFF0)
            operate(one, "exchange", lambda old, new=low: new, low)
            operate(other, "compare_exchange", lambda old: 77, low, 77)
            operate(one, "compare_exchange", lambda old: old, 76, 78)
    # No byte beside the word was touched.
    assert writer.bytes("s", 0, 64) == bytes(64)
    assert writer.bytes("s", 64 + TYPES[kind][0] // 8, 64) == bytes(64)


@pytest.mark.parametrize("kind", KINDS)
def test_add_together(kind, share, writer, reader):
    place = share(kind, writer, reader)
    # A file's window starts at an odd byte: the first offset that is aligned for 64 bits.
    offset = 3 if kind == "file" else 0
    for peer in (writer, place.reader):
        peer("atomic", "a", "s", "i64", offset)
    writer("op", "a", "store", -100_000)
    writer.send("addloop", "a", 100_000)
    place.reader.send("casloop", "a", 30_000)
    writer.answer()
    place.reader.answer()
    assert place.reader("op", "a", "load") == ["30000"]


@pytest.mark.parametrize("verb", ["addloop", "casloop"])
@pytest.mark.parametrize("kind", TYPES)
def test_all_languages_at_once(kind, verb, share, crew):
    place = share("sysv", crew["python"], crew["c"])
    place.join(crew["lua"])
    for language in LANGUAGES:
        crew[language]("atomic", "a", "s", kind, 128)
    for language in LANGUAGES:
        crew[language].send(verb, "a", 100_000 if verb == "addloop" else 20_000)
    for language in LANGUAGES:
        crew[language].answer()
    for language in LANGUAGES:
        assert crew[language].number("op", "a", "load") == (300_000 if verb == "addloop" else 60_000)


@pytest.mark.parametrize("kind", ["posix", "sysv", "file", "memfd"])
def test_turns(kind, share, writer, reader):
    place = share(kind, writer, reader)
    for peer in (writer, place.reader):
        peer("atomic", "a", "s", "u32", 3 if kind == "file" else 0)
    writer("op", "a", "store", 0)
    writer.send("pingpong", "a", 0, 300)
    place.reader.send("pingpong", "a", 1, 300)
    writer.answer()
    place.reader.answer()
    assert writer.number("op", "a", "load") == 600


@pytest.mark.parametrize("kind", ["i32", "u32"])
def test_wait_is_ended_there(kind, share, writer, reader):
    share("posix", writer, reader)
    for peer in (writer, reader):
        peer("atomic", "a", "s", kind, 8)
    old = limits(kind)[1]
    writer("op", "a", "store", old)
    reader.send("wait", "a", hex(old), "-")
    # The count of those who were woken says when the other one sleeps; one that woke without a change sleeps again.
    while writer.number("notify", "a", 1) == 0:
        assert not reader.lines.answered(0.001)
    assert not reader.lines.answered(0.02)
    writer("op", "a", "store", 5)
    while not reader.lines.answered(0.001):
        writer("notify", "a", 100)
    assert reader.answer() == ["1"]


def test_wait_of_another_value(share, writer, reader):
    share("posix", writer, reader)
    for peer in (writer, reader):
        peer("atomic", "a", "s", "u32", 8)
    writer("op", "a", "store", 5)
    assert reader("wait", "a", 4, "-") == ["1"]
    assert reader("wait", "a", 5, "0") == ["0"]
    assert reader("wait", "a", 5, "0.01") == ["0"]
    # Longer than the slices that a wait is made of.
    assert reader("wait", "a", 5, "0.12") == ["0"]
    assert writer("notify", "a", 100) == ["0"]


def test_notify_wakes_as_many_as_it_says(share, crew):
    place = share("sysv", crew["c"], crew["python"])
    place.join(crew["lua"])
    for peer in crew.values():
        peer("atomic", "a", "s", "u32", 8)
    for waker in LANGUAGES:
        crew[waker]("op", "a", "store", 0)
        waiters = [crew[language] for language in LANGUAGES if language != waker]
        for peer in waiters:
            peer.send("wait", "a", 0, "-")
        # Both sleep once one call wakes both; nothing changed, so they sleep again.
        while crew[waker].number("notify", "a", 100) != 2:
            assert not any(peer.lines.answered(0.001) for peer in waiters)
        crew[waker]("op", "a", "store", 1)
        while not all(peer.lines.answered(0) for peer in waiters):
            crew[waker]("notify", "a", 2)
        assert [peer.answer() for peer in waiters] == [["1"], ["1"]]


def test_words_of_different_types(share, writer, reader):
    """One word read as another type of its size; two halves of a 64-bit word."""
    share("posix", writer, reader)
    writer("atomic", "a", "s", "u64", 16)
    for name, kind, offset in (("low", "u32", 16), ("high", "i32", 20), ("all", "i64", 16)):
        reader("atomic", name, "s", kind, offset)
    writer("op", "a", "store", hex(0xFFFFFFFE00000003))
    assert reader("op", "low", "load") == ["3"]
    assert reader("op", "high", "load") == ["-2"]
    assert reader("op", "all", "add", 0x100000000) == ["-8589934589"]
    assert value_of(writer, "u64", "a", "load") == 0xFFFFFFFF00000003
