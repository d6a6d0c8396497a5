# SPDX-License-Identifier: MIT
"""The counter between languages: values, waits, wakes, and deaths in between."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from partners import Refused
from places import KINDS

MOST, LEAST = (1 << 63) - 1, -(1 << 63)


@pytest.fixture
def pair(hall, writer, reader):
    """Two partners with one new counter "c"."""

    def start(kind: str = "posix", *options: str):
        other = hall(kind, writer, reader, *options).reader
        for peer in (writer, other):
            peer("counter", "c", "a", "count")
        return writer, other

    return start


@pytest.mark.parametrize("kind", KINDS)
def test_values(kind, pair):
    writer, reader = pair(kind)
    assert reader("count", "c", "load") == ["0"]
    for value in (1, -1, 0, 255, 1 << 31, 1 << 32, -(1 << 32), MOST, LEAST):
        writer("count", "c", "store", value)
        assert reader.number("count", "c", "load") == value
    writer("count", "c", "store", 0)
    assert reader("count", "c", "add", 7) == ["7"]
    assert writer("count", "c", "sub", 10) == ["-3"]
    assert reader("count", "c", "exchange", 40) == ["-3"]
    assert writer("count", "c", "compare_exchange", 41, 1) == ["40"]
    assert reader("count", "c", "compare_exchange", 40, 41) == ["40"]
    assert writer("count", "c", "load") == ["41"]
    assert reader("count", "c", "max", 30) == ["41"]
    assert writer("count", "c", "max", 50) == ["50"]
    assert reader("count", "c", "min", 60) == ["50"]
    assert writer("count", "c", "min", -5) == ["-5"]
    assert reader("count", "c", "load") == ["-5"]


def test_arithmetic_wraps_in_all(pair):
    for peer, other in (pair(), pair()[::-1]):
        peer("count", "c", "store", MOST)
        assert other.number("count", "c", "add", 1) == LEAST
        assert peer.number("count", "c", "sub", 1) == MOST
        assert other.number("count", "c", "add", MOST) == -2
        assert peer.number("count", "c", "max", LEAST) == -2
        assert other.number("count", "c", "min", MOST) == -2
        assert peer.number("count", "c", "sub", LEAST) == LEAST - 2 + (1 << 64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [("add", 5), ("store", 9), ("exchange", 6), ("max", 5), ("compare_exchange", 0, 5)])
def test_one_wakes_the_other(kind, how, pair):
    writer, reader = pair(kind)
    assert reader("atleast", "c", 0, "0") == ["1"]
    assert reader("atleast", "c", 5, "0") == ["0"]
    assert reader("atleast", "c", 5, "0.02") == ["0"]
    reader.send("atleast", "c", 5, "-")
    assert not reader.lines.answered(0.01)
    writer("count", "c", "add", 0)
    writer("count", "c", "min", -100)
    writer("count", "c", "store", 0)
    assert not reader.lines.answered(0.01)
    writer("count", "c", *how)
    assert reader.answer() == ["1"]
    writer("count", "c", "sub", 1000)
    assert reader("atleast", "c", 5, "0.01") == ["0"]


def test_one_wakes_all(hall, crew):
    place = hall("posix", crew["python"], crew["lua"])
    place.join(crew["c"])
    for peer in crew.values():
        peer("counter", "c", "a", "count")
    for waker in crew.values():
        waker("count", "c", "store", -5)
        others = [peer for peer in crew.values() if peer is not waker]
        for least, peer in enumerate(others):
            peer.send("atleast", "c", least, "-")
        assert not any(peer.lines.answered(0.01) for peer in others)
        waker("count", "c", "add", 5)
        assert others[0].answer() == ["1"]
        assert not others[1].lines.answered(0.01)
        waker("count", "c", "add", 1)
        assert others[1].answer() == ["1"]


def test_turns(pair):
    """Each waits for the other, 2000 times: no wake is lost."""
    writer, reader = pair()
    writer.send("turns", "c", 0, 2000)
    reader.send("turns", "c", 1, 2000)
    writer.answer()
    reader.answer()
    assert reader("count", "c", "load") == ["4000"]


def test_all_add_at_once(hall, crew):
    place = hall("sysv", crew["lua"], crew["python"])
    place.join(crew["c"])
    for peer in crew.values():
        peer("counter", "c", "a", "count")
    for peer in crew.values():
        peer.send("countloop", "c", 50_000)
    for peer in crew.values():
        peer.answer()
    assert crew["c"]("count", "c", "load") == ["150000"]


def test_who_waits_is_seen(pair):
    writer, reader = pair()
    reader.send("atleast", "c", 5, "-")
    while not (found := [p for p in writer.crowd().values() if p.waits]):
        time.sleep(0.001)
    assert [(p.pid, p.waits, p.holds) for p in found] == [(reader.pid, "count", [])]
    writer("count", "c", "add", 5)
    reader.answer()
    assert not any(p.waits for p in writer.crowd().values())


def test_death_changes_nothing(hall, hire, writer, reader):
    """Of who adds, and of who waits: each add is there or not, and the others are woken as before."""
    place = hall("posix", writer, reader)
    for peer in (writer, reader):
        peer("counter", "c", "a", "count")
    for verb in (("countloop", "c", 1_000_000_000), ("atleast", "c", MOST, "-")) * 3:
        victim = hire(writer.language)
        place.join(victim)
        victim("counter", "c", "a", "count")
        before = writer.number("count", "c", "load")
        victim.send(*verb)
        reader.send("atleast", "c", before + 100_000, "-")
        time.sleep(random.random() * 0.01)
        os.kill(victim.pid, signal.SIGKILL)
        victim.process.wait()
        after = writer.number("count", "c", "load")
        assert before <= after
        assert writer.number("count", "c", "add", 100_000) == after + 100_000
        assert reader.answer() == ["1"]
    for peer in (writer, reader):
        assert peer("check", "a") == []


def test_deleted_wakes_who_waits(pair):
    writer, reader = pair()
    reader.send("atleast", "c", 5, "-")
    assert not reader.lines.answered(0.02)
    writer("delete", "a", "count")
    with pytest.raises(Refused, match=r"^EDELETED"):
        reader.answer()
    # One of the same name is another.
    writer("counter", "d", "a", "count")
    assert writer("count", "d", "add", 9) == ["9"]
    with pytest.raises(Refused, match=r"^EDELETED"):
        reader("count", "c", "load")
    reader("counter", "c", "a", "count")
    assert reader("count", "c", "load") == ["9"]


def test_a_closed_arena(pair):
    writer, reader = pair()
    writer("shut", "a")
    for call in (("count", "c", "load"), ("count", "c", "add", 1), ("atleast", "c", 0, "1")):
        with pytest.raises(Refused, match=r"^raise: .*closed"):
            writer(*call)
    assert reader("count", "c", "add", 1) == ["1"]
