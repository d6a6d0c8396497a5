# SPDX-License-Identifier: MIT
"""Read-write locks between languages: many read or one writes, and the death of either as it is told to everybody."""

from __future__ import annotations

import os
import signal

import pytest
from partners import Died, Refused
from places import KINDS


@pytest.fixture
def pair(hall, writer, reader):
    """Two partners with one new lock "r" and a counter "c"."""

    def start(kind: str = "posix"):
        other = hall(kind, writer, reader).reader
        for peer in (writer, other):
            peer("rwlock", "r", "a", "lock")
            peer("counter", "c", "a", "count")
        return writer, other

    return start


@pytest.mark.parametrize("kind", KINDS)
def test_many_read_or_one_writes(kind, pair):
    first, second = pair(kind)
    assert first("rtake", "r", "read", "try") == ["1"]
    assert second("rtake", "r", "read", "-") == ["1"]
    assert second("rlocked", "r") == ["1", "0", "0"]
    first("rgive", "r", "read")
    assert first("rtake", "r", "write", "try") == ["0"]
    assert first("rtake", "r", "write", "0.01") == ["0"]
    second("rgive", "r", "read")
    assert first("rtake", "r", "write", "-") == ["1"]
    assert second("rlocked", "r") == ["0", "1", str(first.pid)]
    assert second("rtake", "r", "read", "try") == ["0"]
    assert second("rtake", "r", "write", "0.01") == ["0"]
    with pytest.raises(Refused):
        second("rgive", "r", "write")
    first("rdown", "r")
    assert second("rtake", "r", "read", "try") == ["1"]
    first("rgive", "r", "write")
    second("rgive", "r", "read")
    assert second("rlocked", "r") == ["0", "0", "0"]


def test_each_waits_for_the_other(pair):
    first, second = pair()
    for peer, other in ((first, second), (second, first)):
        for held, wanted in (("read", "write"), ("write", "read"), ("write", "write")):
            assert peer("rtake", "r", held, "-") == ["1"]
            other.send("rtake", "r", wanted, "-")
            assert not other.lines.answered(0.01)
            peer("rgive", "r", held)
            assert other.answer() == ["1"]
            other("rgive", "r", wanted)
        assert peer("rtake", "r", "write", "-") == ["1"]
        other.send("rtake", "r", "read", "-")
        assert not other.lines.answered(0.01)
        peer("rdown", "r")
        assert other.answer() == ["1"]
        other("rgive", "r", "read")
        peer("rgive", "r", "read")


def test_exclusion(pair):
    first, second = pair()
    first("count", "c", "store", 0)
    for peer in (first, second):
        peer.send("rloop", "r", "c", 3000)
    for peer in (first, second):
        peer.answer()
    assert first("count", "c", "load") == ["2000"]


def kill(peer) -> None:
    os.kill(peer.pid, signal.SIGKILL)
    peer.process.wait()
    peer.waiting = 1  # nothing more to be said


@pytest.mark.parametrize("side", ["read", "write"])
def test_deaths(side, hall, hire, writer, reader):
    victim = hire(writer.language)
    place = hall("posix", victim, reader)
    survivor = place.reader
    for peer in (victim, survivor):
        peer("rwlock", "r", "a", "lock")
    assert victim("rtake", "r", side, "-") == ["1"]
    survivor.send("rtake", "r", "write", "20")
    assert not survivor.lines.answered(0.01)
    kill(victim)
    if side == "read":
        assert survivor.answer() == ["1"]
        survivor("rgive", "r", "write")
        return
    with pytest.raises(Died) as caught:
        survivor.answer()
    assert caught.value.pid == victim.pid
    for wanted in ("read", "write"):
        with pytest.raises(Died):
            survivor("rtake", "r", wanted, "try")
    assert survivor("rmend", "r", "read") == [str(victim.pid)]
    assert survivor("rmend", "r", "write") == ["0"]
    assert survivor("rtake", "r", "read", "try") == ["1"]
    survivor("rgive", "r", "read")
