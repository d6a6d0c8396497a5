# SPDX-License-Identifier: MIT
"""Participants between languages: who is there, what they hold and wait for, and who has gone."""

from __future__ import annotations

import os
import signal
import time

import pytest
from partners import LANGUAGES, Refused
from places import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_who_takes_part(kind, hall, writer, reader):
    reader = hall(kind, writer, reader).reader
    assert writer.crowd() == reader.crowd() == {}
    writer("amutex", "m", "a", "lock")
    assert {p.pid: p.language for p in reader.crowd().values()} == {writer.pid: writer.language}
    reader("amutex", "m", "a", "lock")
    reader("amutex", "n", "a", "other")
    reader("acquire", "n", "-")
    writer("acquire", "m", "-")
    for peer in (writer, reader):
        found = peer.crowd()
        assert set(found) == {writer.pid, reader.pid}
        for one in (writer, reader):
            p = found[one.pid]
            assert (p.language, p.alive, p.self, p.waits) == (one.language, True, one is peer, None)
            assert p.thread == one.pid
        assert (found[writer.pid].holds, found[reader.pid].holds) == (["lock"], ["other"])
        assert found[writer.pid].slot != found[reader.pid].slot
        assert peer("stats", "a", "taking_part") == ["2"]
    reader.send("acquire", "m", "-")
    while not writer.crowd()[reader.pid].waits:
        time.sleep(0.001)
    found = writer.crowd()[reader.pid]
    assert (found.waits, found.holds) == ("lock", ["other"])
    writer("release", "m")
    reader.answer()
    found = writer.crowd()
    assert (found[reader.pid].waits, found[reader.pid].holds) == (None, ["lock", "other"])
    assert found[writer.pid].holds == []
    reader("release", "m")
    reader("release", "n")
    # Who closes is one no more.
    reader("shut", "a")
    assert set(writer.crowd()) == {writer.pid}


@pytest.mark.parametrize("end", ["die", "exit", "shut", "stopped"])
def test_wait_for_its_end(end, hall, hire, writer, reader):
    victim = hire(writer.language)
    hall("posix", victim, reader)
    victim("amutex", "m", "a", "lock")
    victim("acquire", "m", "-")
    reader("watch", "p", "a", victim.pid)
    assert reader("gone", "p", "0") == ["0"]
    assert reader("gone", "p", "0.02") == ["0"]
    reader.send("gone", "p", "-")
    assert not reader.lines.answered(0.02)
    if end == "shut":
        victim("release", "m")
        assert not reader.lines.answered(0.02)
        victim("shut", "a")
    elif end == "stopped":
        # A stopped one is not dead, for how many slices ever.
        os.kill(victim.pid, signal.SIGSTOP)
        assert not reader.lines.answered(0.35)
        assert reader.waiting == 1
        os.kill(victim.pid, signal.SIGKILL)
        victim.waiting = 1
        victim.process.wait()
    else:
        victim.last(end)
    assert reader.answer() == ["1"]
    assert reader("gone", "p", "0") == ["1"]
    assert reader("gone", "p", "-") == ["1"]
    assert all(not p.alive for p in reader.crowd().values())


def test_the_dead_are_shown_until_somebody_needs_the_slot(hall, hire, writer, reader):
    place = hall("posix", writer, reader)
    victim = hire(reader.language)
    place.join(victim)
    victim("amutex", "m", "a", "lock")
    victim("acquire", "m", "-")
    before = writer.crowd()[victim.pid]
    assert (before.alive, before.holds) == (True, ["lock"])
    victim.last("die")
    found = writer.crowd()[victim.pid]
    assert (found.alive, found.slot, found.generation, found.self) == (False, before.slot, before.generation, False)
    # Writer and reader are none yet, so the first of them gets a slot, and the dead may make room for it.
    for peer in (writer, reader):
        peer("counter", "c", "a", "count")
        peer("count", "c", "add", 1)
    living = [p for p in reader.crowd().values() if p.alive]
    assert {p.pid for p in living} == {writer.pid, reader.pid}
    assert not any(p.slot == before.slot and p.generation == before.generation for p in living)


def test_slots_run_out(hall, hire, writer, reader):
    """One more than there is room for is told so, and those of the dead do not count."""
    place = hall("posix", writer, reader, "participants=3")
    others = [hire(language) for language in LANGUAGES]
    for peer in others:
        place.join(peer)
        peer("counter", "c", "a", "count")
        peer("count", "c", "add", 1)
    for peer in (writer, reader):
        with pytest.raises(Refused, match=r"^raise"):
            peer("counter", "c", "a", "another")
        # To look needs none.
        assert peer.names() == {"count": "counter"}
        assert peer("stats", "a", "taking_part", "participants") == ["3", "3"]
    others[0].last("die")
    writer("counter", "c", "a", "count")
    assert writer("count", "c", "add", 1) == ["4"]
    with pytest.raises(Refused, match=r"^raise"):
        reader("counter", "c", "a", "another")
    others[1]("shut", "a")
    reader("counter", "c", "a", "count")
    assert reader("count", "c", "add", 1) == ["5"]
    assert {p.pid for p in reader.crowd().values() if p.alive} == {writer.pid, reader.pid, others[2].pid}


def test_a_child_is_another(hall, writer, reader, tmp_path):
    hall("posix", writer, reader)
    writer("amutex", "m", "a", "lock")
    writer("acquire", "m", "-")
    child = writer.fork(tmp_path)
    assert reader.crowd()[writer.pid].holds == ["lock"]
    assert child.pid not in reader.crowd()
    child("amutex", "n", "a", "other")
    child("acquire", "n", "-")
    found = reader.crowd()
    assert (found[writer.pid].holds, found[child.pid].holds) == (["lock"], ["other"])
    assert found[child.pid].language == writer.language
    reader("watch", "p", "a", child.pid)
    reader.send("gone", "p", "-")
    assert not reader.lines.answered(0.02)
    child.last("die")
    writer.reap(child)
    assert reader.answer() == ["1"]
    found = reader.crowd()
    assert (found[writer.pid].holds, found[writer.pid].alive) == (["lock"], True)
    writer("release", "m")


def test_all_wait_for_one(hall, hire, crew):
    victim = hire("lua")
    place = hall("posix", victim, crew["c"])
    victim("counter", "c", "a", "count")
    for peer in (crew["python"], crew["lua"]):
        place.join(peer)
    for peer in crew.values():
        peer("watch", "p", "a", victim.pid)
        peer.send("gone", "p", "-")
    assert not any(peer.lines.answered(0.02) for peer in crew.values())
    victim.last("die")
    for peer in crew.values():
        assert peer.answer() == ["1"]
