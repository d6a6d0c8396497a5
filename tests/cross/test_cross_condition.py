# SPDX-License-Identifier: MIT
"""The condition between languages: who waits in one is woken from another, and no death loses a wake."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from partners import LANGUAGES, Died, Refused
from places import KINDS


def equip(*peers) -> None:
    """A mutex "m", a condition "d" with it, a counter "c". The first one makes the condition, the others open it."""
    for i, peer in enumerate(peers):
        peer("amutex", "m", "a", "lock")
        peer("counter", "c", "a", "count")
        peer("condition", "d", "a", "changed", "-" if i else "m")


@pytest.fixture
def pair(hall, writer, reader):
    def start(kind: str = "posix"):
        other = hall(kind, writer, reader).reader
        equip(writer, other)
        return writer, other

    return start


def until_asleep(peer, *pids: int) -> None:
    """Until those sleep for the condition."""
    while not set(pids) <= {p.pid for p in peer.crowd().values() if p.waits == "changed"}:
        time.sleep(0.001)


def kill(peer) -> None:
    os.kill(peer.pid, signal.SIGKILL)
    peer.process.wait()
    peer.waiting = 1  # nothing more to be said


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_in_both(kind, pair):
    writer, reader = pair(kind)
    assert writer("kind", "a", "changed") == reader("kind", "a", "changed") == ["condition"]
    assert reader.names()["changed"] == "condition"
    writer("amutex", "other", "a", "another")
    with pytest.raises(Refused, match="exists, and this parameter of it is another"):
        writer("condition", "e", "a", "changed", "other")
    with pytest.raises(Refused, match="needs a mutex of the same arena"):
        reader("condition", "e", "a", "new", "-")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [1, 5, "all"])
def test_one_wakes_the_other(kind, how, pair):
    writer, reader = pair(kind)
    assert reader("await", "d", "0") == ["0"]
    assert reader("await", "d", "0.02") == ["0"]
    writer("tell", "d", how)  # nobody waits: nothing is kept
    reader.send("await", "d", "-")
    until_asleep(writer, reader.pid)
    assert not reader.lines.answered(0.01)
    writer("tell", "d", how)
    assert reader.answer() == ["1"]
    assert reader("locked", "m") == ["0"]


def test_one_wakes_all(hall, crew):
    place = hall("posix", crew["python"], crew["lua"])
    place.join(crew["c"])
    equip(*crew.values())
    for waker in crew.values():
        others = [peer for peer in crew.values() if peer is not waker]
        for peer in others:
            peer.send("await", "d", "-")
        until_asleep(waker, *(peer.pid for peer in others))
        waker("tell", "d", "all")
        assert [peer.answer() for peer in others] == [["1"], ["1"]]


def test_turns(pair):
    """Each waits for the other, 1000 times: no wake is lost."""
    writer, reader = pair()
    writer.send("volley", "d", "c", 0, 1000)
    reader.send("volley", "d", "c", 1, 1000)
    writer.answer()
    reader.answer()
    assert reader("count", "c", "load") == ["2000"]
    assert writer("check", "a") == []


def test_the_owner_dies_while_one_waits(hall, hire, writer, reader):
    """It wakes up, and is told; so is everybody until it is made good."""
    place = hall("posix", writer, reader)
    equip(writer, reader)
    for how in ("cleanly", "again"):
        victim = hire(writer.language)
        place.join(victim)
        equip(victim)
        reader.send("await", "d", "-")
        until_asleep(writer, reader.pid)
        assert victim("acquire", "m", "-") == ["1"], how
        kill(victim)
        for call in (reader.answer, lambda: reader("await", "d", "-"), lambda: writer("tell", "d", 1)):
            with pytest.raises(Died) as caught:
                call()
            assert caught.value.pid == victim.pid
        assert writer("recover", "m", "-") == ["died", str(victim.pid)]
        writer("leave", "m", "clean")


def test_another_makes_the_death_good(hall, hire, crew):
    """Nobody says so, and all who wait wake up, whether they or another met the death first."""
    first, second, third = (crew[language] for language in LANGUAGES)
    place = hall("posix", first, second)
    place.join(third)
    equip(first, second, third)
    victim = hire("lua")
    place.join(victim)
    equip(victim)
    for peer in (second, third):
        peer.send("await", "d", "-")
    until_asleep(first, second.pid, third.pid)
    victim("acquire", "m", "-")
    kill(victim)
    first("recover", "m", "-")
    first("leave", "m", "clean")
    assert {woken_by(peer) for peer in (second, third)} <= {None, victim.pid}


def woken_by(peer) -> int | None:
    """What ended its wait: a death that it was told of, or None."""
    try:
        assert peer.answer() == ["1"]
    except Died as death:
        return death.pid
    return None


def test_deaths_take_no_wake_along(hall, hire, writer, reader):
    """One plays against the other and is killed, with the mutex or without; whoever takes its place goes on."""
    place = hall("posix", writer, reader)
    equip(writer, reader)
    rounds = 5
    for _ in range(rounds):
        writer("count", "c", "store", 0)
        victim, other = hire(writer.language), hire(reader.language)
        for peer in (victim, other):
            place.join(peer)
            equip(peer)
        victim.send("volley", "d", "c", 0, 1_000_000)
        other.send("volley", "d", "c", 1, 1_000_000)
        time.sleep(random.random() * 0.02)
        kill(victim)
        assert take(writer) in (None, victim.pid)
        # Its turn or not, the other goes on without another word, unless it was told of the death.
        for _ in range(3):
            while writer.number("count", "c", "load") % 2 and not other.lines.answered(0.001):
                continue
            if not other.lines.answered(0):
                writer("count", "c", "add", 1)
                writer("tell", "d", 1)
        if other.lines.answered(0):
            with pytest.raises(Died):
                other.answer()
        kill(other)
        take(writer)
    assert writer("check", "a") == []


def take(peer) -> int | None:
    """Makes a death good; who died."""
    try:
        assert peer("acquire", "m", "20") == ["1"]
        peer("release", "m")
        return None
    except Died as death:
        dead = death.pid
    assert peer("recover", "m", "20") == ["died", str(dead)]
    peer("leave", "m", "clean")
    return dead


def test_deleted_wakes_who_waits(pair):
    writer, reader = pair()
    reader.send("await", "d", "-")
    until_asleep(writer, reader.pid)
    writer("delete", "a", "changed")
    with pytest.raises(Refused, match=r"^EDELETED"):
        reader.answer()
    assert writer("locked", "m") == ["0"]
    writer("condition", "d", "a", "changed", "m")
    reader("condition", "d", "a", "changed", "-")
    reader.send("await", "d", "-")
    until_asleep(writer, reader.pid)
    writer("delete", "a", "lock")
    with pytest.raises(Refused, match=r"^EDELETED"):
        reader.answer()
    with pytest.raises(Refused, match=r"^EDELETED"):
        reader("condition", "d", "a", "changed", "-")


def test_a_stopped_waiter_is_woken_when_it_goes_on(pair):
    writer, reader = pair()
    reader.send("await", "d", "-")
    until_asleep(writer, reader.pid)
    os.kill(reader.pid, signal.SIGSTOP)
    writer("tell", "d", 1)
    os.kill(reader.pid, signal.SIGCONT)
    assert reader.answer() == ["1"]
