# SPDX-License-Identifier: MIT
"""The mutex of an arena between languages: one owner at a time, and its death told to everybody by its pid."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from partners import LANGUAGES, Died, Refused
from places import KINDS


def died(peer, *words: object) -> int | None:
    with pytest.raises(Died) as caught:
        peer(*words)
    return caught.value.pid


def take(peer) -> int | None:
    """Acquires; where somebody has died, who that was, and then it is made good and released."""
    try:
        assert peer("acquire", "m", "20") == ["1"]
        peer("release", "m")
        return None
    except Died as death:
        dead = death.pid
    assert peer("recover", "m", "20") == ["died", str(dead)]
    peer("leave", "m", "clean")
    return dead


def kill(peer) -> None:
    os.kill(peer.pid, signal.SIGKILL)
    peer.process.wait()
    peer.waiting = 1  # nothing more to be said


@pytest.fixture
def trio(hall, hire) -> Callable[..., list]:
    """trio(first, second, third): three partners with one new mutex "m" and a counter "c"; each may be killed."""

    def start(*languages: str, kind: str = "posix", create: tuple[str, ...] = ()) -> list:
        peers = [hire(language) for language in languages]
        place = hall(kind, peers[0], peers[1])
        peers[0]("amutex", "m", "a", "lock", *create)
        for peer in peers[1:]:
            if peer is not place.reader:
                place.join(peer)
            peer("amutex", "m", "a", "lock")
        for peer in peers:
            peer("counter", "c", "a", "count")
        return peers

    return start


def third_of(writer, reader) -> str:
    return LANGUAGES[(LANGUAGES.index(reader.language) + 1) % 3]


@pytest.mark.parametrize("how", ["acquire", "guard"])
@pytest.mark.parametrize("kind", KINDS)
def test_exclusion(kind, how, hall, writer, reader):
    reader = hall(kind, writer, reader).reader
    for peer in (writer, reader):
        peer("amutex", "m", "a", "lock")
        peer("counter", "c", "a", "count")
    writer.send("bump", "m", "c", 3000, how)
    reader.send("bump", "m", "c", 3000, how)
    writer.answer()
    reader.answer()
    assert writer("count", "c", "load") == ["6000"]
    assert reader("check", "a") == []


@pytest.mark.parametrize("recursive", ["recursive=0", "recursive=1"])
def test_exclusion_of_all(recursive, hall, crew):
    place = hall("posix", crew["lua"], crew["c"])
    place.join(crew["python"])
    crew["lua"]("amutex", "m", "a", "lock", recursive)
    crew["c"]("amutex", "m", "a", "lock")
    crew["python"]("amutex", "m", "a", "lock", recursive)
    for peer in crew.values():
        peer("counter", "c", "a", "count")
        peer.send("bump", "m", "c", 5000, "guard")
    for peer in crew.values():
        peer.answer()
    assert crew["c"]("count", "c", "load") == ["15000"]


@pytest.mark.parametrize("kind", KINDS)
def test_owner_is_seen(kind, hall, writer, reader):
    reader = hall(kind, writer, reader).reader
    for peer in (writer, reader):
        peer("amutex", "m", "a", "lock")
    assert reader("owner", "m") == ["-"]
    assert reader("locked", "m") == ["0"]
    assert writer("acquire", "m", "-") == ["1"]
    for peer in (writer, reader):
        assert peer.number("owner", "m") == writer.pid
        assert peer("locked", "m") == ["1"]
    assert reader("acquire", "m", "try") == ["0"]
    assert reader("acquire", "m", "0.01") == ["0"]
    assert reader("acquire", "m", "0.12") == ["0"]
    with pytest.raises(Refused, match="not held by this thread"):
        reader("release", "m")
    with pytest.raises(Refused, match="already held by this thread, and not recursive"):
        writer("acquire", "m", "-")
    with pytest.raises(Refused, match="already held by this thread, and not recursive"):
        writer("recover", "m", "-")
    assert writer("acquire", "m", "try") == ["0"]
    reader.send("acquire", "m", "-")
    assert not reader.lines.answered(0.01)
    writer("release", "m")
    assert reader.answer() == ["1"]
    assert writer.number("owner", "m") == reader.pid
    reader("release", "m")
    assert writer("owner", "m") == ["-"]


def test_recursive(hall, writer, reader):
    hall("posix", writer, reader)
    writer("amutex", "m", "a", "lock", "recursive=1")
    reader("amutex", "m", "a", "lock")
    with pytest.raises(Refused, match="recursive setting is another"):
        reader("amutex", "other", "a", "lock", "recursive=0")
    for _ in range(3):
        assert reader("acquire", "m", "-") == ["1"]
    for _ in range(3):
        assert writer("acquire", "m", "try") == ["0"]
        assert writer.number("owner", "m") == reader.pid
        reader("release", "m")
    assert writer("acquire", "m", "try") == ["1"]
    assert reader.number("owner", "m") == writer.pid
    writer("release", "m")


@pytest.mark.parametrize("waiting", ["asleep", "later"])
@pytest.mark.parametrize("end", ["die", "exit"])
def test_death_goes_round(end, waiting, trio, writer, reader):
    """The holder dies; the next one is told and does not hold it; the third is told too, until somebody recovers."""
    first, second, third = trio(writer.language, reader.language, third_of(writer, reader))
    assert first("acquire", "m", "-") == ["1"]
    if waiting == "asleep":
        second.send("acquire", "m", "-")
        assert not second.lines.answered(0.01)
    first.last(end)
    if waiting == "asleep":
        with pytest.raises(Died) as caught:
            second.answer()
        assert caught.value.pid == first.pid
    else:
        assert died(second, "acquire", "m", "-") == first.pid
    for peer in (third, second):
        assert peer("locked", "m") == ["0"]
        assert peer("owner", "m") == ["-"]
        assert died(peer, "acquire", "m", "try") == first.pid
        assert died(peer, "acquire", "m", "0.01") == first.pid
    # Left by an error, the mark stays.
    assert third("recover", "m", "-") == ["died", str(first.pid)]
    assert second.number("owner", "m") == third.pid
    assert second("acquire", "m", "try") == ["0"]
    third("leave", "m", "error")
    assert died(second, "acquire", "m", "-") == first.pid
    assert second("recover", "m", "-") == ["died", str(first.pid)]
    second("leave", "m", "clean")
    assert third("recover", "m", "-") == ["none"]
    third("leave", "m", "error")
    for peer in (third, second):
        assert peer("acquire", "m", "-") == ["1"]
        peer("release", "m")
        assert peer("check", "a") == []


@pytest.mark.parametrize("kind", KINDS)
def test_death_in_every_kind(kind, hall, hire, writer, reader):
    victim = hire(writer.language) if kind != "memfd" else writer
    other = hall(kind, victim, reader).reader
    for peer in (victim, other):
        peer("amutex", "m", "a", "lock")
    holder, told = (other, victim) if kind == "memfd" else (victim, other)
    holder("acquire", "m", "-")
    told.send("acquire", "m", "-")
    assert not told.lines.answered(0.01)
    os.kill(holder.pid, signal.SIGKILL)
    with pytest.raises(Died) as caught:
        told.answer()
    assert caught.value.pid == holder.pid
    assert told("recover", "m", "-") == ["died", str(holder.pid)]
    told("leave", "m", "clean")
    assert told("acquire", "m", "try") == ["1"]
    told("release", "m")
    if kind != "memfd":
        holder.waiting = 1
        holder.process.wait()


def test_who_recovers_dies_too(trio, writer, reader):
    """The mark names the one who left the data torn: the first."""
    first, second, third = trio(writer.language, reader.language, writer.language)
    first("acquire", "m", "-")
    first.last("die")
    assert second("recover", "m", "-") == ["died", str(first.pid)]
    third.send("recover", "m", "-")
    assert not third.lines.answered(0.01)
    second.last("die")
    assert third.answer() == ["died", str(first.pid)]
    third("leave", "m", "clean")
    assert third("acquire", "m", "-") == ["1"]
    third("release", "m")


def test_repair(trio, writer, reader):
    first, second, third = trio(writer.language, reader.language, writer.language)
    first("acquire", "m", "-")
    first.last("die")
    second("amutex", "fails", "a", "lock", "repair=error")
    third("amutex", "heals", "a", "lock", "repair=c")
    # One that fails leaves the lock free and the mark where it is.
    for timeout in ("-", "try", "1"):
        with pytest.raises(Refused, match="not repaired"):
            second("acquire", "fails", timeout)
        assert third("locked", "m") == ["0"]
    assert second("count", "c", "load") == ["0"]
    assert third("acquire", "heals", "-") == ["1"]
    assert second.number("owner", "m") == third.pid
    assert second.number("count", "c", "load") == first.pid + 1
    third("release", "heals")
    # Nobody is told again.
    third("count", "c", "store", 0)
    assert second("acquire", "fails", "-") == ["1"]
    second("release", "fails")
    assert third("acquire", "heals", "-") == ["1"]
    third("release", "heals")
    assert third("count", "c", "load") == ["0"]


def test_death_of_a_recursive_owner(trio, writer, reader):
    first, second, third = trio(writer.language, reader.language, writer.language, create=("recursive=1",))
    first("acquire", "m", "-")
    first("acquire", "m", "-")
    first.last("die")
    assert died(second, "acquire", "m", "-") == first.pid
    assert third("recover", "m", "-") == ["died", str(first.pid)]
    assert third("acquire", "m", "-") == ["1"]
    third("release", "m")
    third("leave", "m", "clean")
    assert second("acquire", "m", "try") == ["1"]
    second("release", "m")


def test_a_forked_child(hall, writer, reader, tmp_path):
    hall("posix", writer, reader)
    for peer in (writer, reader):
        peer("amutex", "m", "a", "lock")
        peer("counter", "c", "a", "count")
    child = writer.fork(tmp_path)
    child.send("bump", "m", "c", 2000, "guard")
    writer.send("bump", "m", "c", 2000, "acquire")
    reader.send("bump", "m", "c", 2000, "acquire")
    for peer in (child, writer, reader):
        peer.answer()
    assert reader("count", "c", "load") == ["6000"]
    # What the parent holds is not the child's.
    writer("acquire", "m", "-")
    with pytest.raises(Refused, match="not held by this thread"):
        child("release", "m")
    child.send("acquire", "m", "-")
    assert not child.lines.answered(0.01)
    writer("release", "m")
    assert child.answer() == ["1"]
    assert reader.number("owner", "m") == child.pid
    child.last("die")
    assert writer.reap(child) == ("signal", signal.SIGKILL)
    assert died(reader, "acquire", "m", "-") == child.pid
    assert writer("recover", "m", "1") == ["died", str(child.pid)]
    writer("leave", "m", "clean")
    assert reader("acquire", "m", "try") == ["1"]
    reader("release", "m")


def test_a_stopped_holder_is_not_dead(trio, writer, reader):
    """After more slices than it takes to ask for the second proof, it is still its owner's."""
    first, second, third = trio(writer.language, reader.language, writer.language)
    first("acquire", "m", "-")
    os.kill(first.pid, signal.SIGSTOP)
    try:
        assert second("acquire", "m", "0.45") == ["0"]
        assert third("acquire", "m", "0.15") == ["0"]
        assert second.number("owner", "m") == first.pid
        second.send("acquire", "m", "-")
        assert not second.lines.answered(0.25)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first("release", "m")
    assert second.answer() == ["1"]
    second("release", "m")


def test_a_waiter_gets_it_from_one_that_never_rests(trio, writer, reader):
    """Who takes it again and again has to hand it over; each way, and with a third who wants it too."""
    hog, second, third = trio(writer.language, reader.language, third_of(writer, reader))
    hog.send("trip", "m", 1_000_000_000)
    for _ in range(50):
        second.send("acquire", "m", "-")
        third.send("acquire", "m", "-")
        while not (ready := [peer for peer in (second, third) if peer.lines.answered(0.001)]):
            assert not hog.lines.answered(0)
        for peer in (ready[0], third if ready[0] is second else second):
            assert peer.answer() == ["1"]
            assert peer.number("owner", "m") == peer.pid
            peer("release", "m")
    assert not hog.lines.answered(0)
    kill(hog)
    assert take(second) in (None, hog.pid)
    assert take(third) is None


def test_waiters_die(trio, hire, name, writer, reader):
    """Also just when they were handed it: that is no death of an owner, and nobody waits for the dead."""
    hog, waiter, third = trio("c", reader.language, writer.language)
    hog.send("trip", "m", 2_000_000_000)
    for _ in range(12):
        waiter.send("trip", "m", 1_000_000_000)
        time.sleep(random.random() * 0.01)
        kill(waiter)
        dead = [take(third) for _ in range(3)]
        assert set(dead) <= {None, waiter.pid}
        if hog.lines.answered(0):
            # It met the mark first.
            with pytest.raises(Died) as caught:
                hog.answer()
            assert caught.value.pid == waiter.pid
            hog.send("trip", "m", 2_000_000_000)
        waiter = hire(reader.language)
        waiter("arena", "a", f"posix:{name}")
        waiter("amutex", "m", "a", "lock")
    kill(hog)
    assert take(third) in (None, hog.pid)
    assert take(third) is None
    assert third("check", "a") == []


def test_a_chain_of_deaths(hall, hire, crew):
    """Each language in turn recovers from the one before, and is killed while it holds the lock."""
    place = hall("sysv", crew["c"], crew["python"])
    crew["c"]("amutex", "m", "a", "lock")
    before = None
    for language in LANGUAGES * 2:
        peer = hire(language)
        place.join(peer)
        peer("amutex", "m", "a", "lock")
        if before:
            assert died(peer, "acquire", "m", "-") == before
        assert peer("recover", "m", "-") == (["died", str(before)] if before else ["none"])
        peer("leave", "m", "clean")
        assert peer("acquire", "m", "-") == ["1"]
        before = peer.pid
        peer.last("die")
    crew["python"]("amutex", "m", "a", "lock")
    assert died(crew["python"], "acquire", "m", "-") == before
    assert crew["python"]("check", "a") == []


def test_death_with_many_locks(trio, writer, reader):
    first, second, _ = trio(writer.language, reader.language, writer.language)
    for i in range(32):
        for peer in (first, second):
            peer("amutex", f"m{i}", "a", f"lock{i}")
    first("amutex", "more", "a", "more")
    for i in range(32):
        first("acquire", f"m{i}", "-")
    with pytest.raises(Refused, match=r"^raise"):
        first("acquire", "more", "-")
    assert sorted(second.crowd()[first.pid].holds) == sorted(f"lock{i}" for i in range(32))
    first.last("die")
    for i in range(32):
        assert died(second, "acquire", f"m{i}", "-") == first.pid
    # Its slot is taken again only after all of that is marked.
    assert second("recover", "m7", "-") == ["died", str(first.pid)]
    second("leave", "m7", "clean")
    assert second("acquire", "m7", "try") == ["1"]
    second("release", "m7")
    assert died(second, "acquire", "m8", "try") == first.pid


def test_a_closed_arena_lets_go(hall, writer, reader):
    """What is held stays held when its arena is closed, and can be released."""
    hall("posix", writer, reader)
    for peer in (writer, reader):
        peer("amutex", "m", "a", "lock")
    writer("acquire", "m", "-")
    writer("shut", "a")
    with pytest.raises(Refused, match="closed"):
        writer("locked", "m")
    assert reader.number("owner", "m") == writer.pid
    reader.send("acquire", "m", "-")
    assert not reader.lines.answered(0.02)
    writer("release", "m")
    assert reader.answer() == ["1"]
    reader("release", "m")
