# SPDX-License-Identifier: MIT
"""Waiting for several things between languages: one changes them, the other is told which."""

from __future__ import annotations

import os
import signal

import pytest
from partners import Refused
from places import KINDS


@pytest.fixture
def two(hall, writer, reader):
    """Two partners with the counters "c" and "d" and the mutex "m"."""

    def start(kind: str = "posix"):
        other = hall(kind, writer, reader).reader
        for peer in (writer, other):
            peer("counter", "c", "a", "count")
            peer("counter", "d", "a", "other")
            peer("amutex", "m", "a", "lock")
        return writer, other

    return start


@pytest.mark.parametrize("kind", KINDS)
def test_which_one(kind, two):
    writer, reader = two(kind)
    assert reader("any", "0", "c", "d") == []
    assert reader("any", "0", "c", "d:-1", "m") == ["d:-1", "m"]
    for name, other in (("c", "d"), ("d", "c")):
        reader.send("any", "-", "c:3", "d:3")
        assert not reader.lines.answered(0.01)
        writer("count", name, "store", 2)
        writer("count", other, "store", 1)
        assert not reader.lines.answered(0.01)
        writer("count", name, "add", 1)
        assert reader.answer() == [f"{name}:3"]
        writer("count", name, "store", 0)
    assert reader("any", "0.12", "c:2", "d") == []


def test_a_lock(two):
    writer, reader = two()
    writer("acquire", "m", "-")
    assert reader("any", "0.01", "c", "m") == []
    reader.send("any", "-", "c", "m")
    assert not reader.lines.answered(0.01)
    writer("release", "m")
    assert reader.answer() == ["m"]
    assert reader("acquire", "m", "try") == ["1"]
    reader("release", "m")


def test_a_death(hall, hire, writer, reader):
    victim = hire(writer.language)
    hall("posix", victim, reader)
    for peer in (victim, reader):
        peer("amutex", "m", "a", "lock")
    reader("counter", "c", "a", "count")
    victim("acquire", "m", "-")
    reader("watch", "p", "a", victim.pid)
    reader.send("any", "-", "c", "m", "p")
    assert not reader.lines.answered(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    assert set(reader.answer()) <= {"m", "p"}
    assert reader("any", "-", "m") == ["m"]
    assert reader("any", "-", "p") == ["p"]


def test_deleted(two):
    writer, reader = two()
    reader.send("any", "-", "c", "d")
    assert not reader.lines.answered(0.01)
    writer("delete", "a", "other")
    with pytest.raises(Refused) as caught:
        reader.answer()
    assert caught.value.code == "EDELETED"
