# SPDX-License-Identifier: MIT
"""The mutex on raw memory between languages, and with a C program that knows only pthread_mutex_lock."""

from __future__ import annotations

import signal
import struct
import subprocess
from collections.abc import Callable, Iterator

import pytest
from partners import BUILD, LANGUAGES, Died, Lines, Refused
from places import KINDS

AT = 64  # the mutex; aligned in a file's window too, see `place_for`
COUNTER = 512
REPAIRED = 520


def lock_offset(kind: str) -> int:
    # A file's window starts at byte 1237 of the file: 3 more are aligned for 64 bits.
    return AT + (3 if kind == "file" else 0)


def died(peer, *words: object) -> int | None:
    with pytest.raises(Died) as caught:
        peer(*words)
    return caught.value.pid


@pytest.fixture
def trio(share, hire, name) -> Callable[..., list]:
    """trio(first, second, third): three partners with one new mutex "m"; the first may be killed."""

    def start(*languages: str, create: tuple[str, ...] = ()) -> list:
        peers = [hire(languages[0])] + [hire(language) for language in languages[1:]]
        place = share("posix", peers[0], peers[1])
        peers[0]("mutex", "m", "s", AT, "create=1", *create)
        for peer in peers[1:]:
            if peer is not place.reader:
                place.join(peer)
            peer("mutex", "m", "s", AT)
        return peers

    return start


@pytest.mark.parametrize("how", ["acquire", "guard"])
@pytest.mark.parametrize("kind", KINDS)
def test_exclusion(kind, how, share, writer, reader):
    place = share(kind, writer, reader)
    offset = lock_offset(kind)
    writer("fill", "s", 0, 0, 1024)
    writer("mutex", "m", "s", offset, "create=1")
    place.reader("mutex", "m", "s", offset)
    writer.send("incloop", "m", "s", COUNTER, 3000, how)
    place.reader.send("incloop", "m", "s", COUNTER, 3000, how)
    writer.answer()
    place.reader.answer()
    assert struct.unpack("=Q", writer.bytes("s", COUNTER, 8)) == (6000,)


@pytest.mark.parametrize("recursive", ["recursive=0", "recursive=1"])
def test_exclusion_of_all(recursive, share, crew):
    place = share("posix", crew["lua"], crew["c"])
    place.join(crew["python"])
    crew["lua"]("mutex", "m", "s", AT, "create=1", recursive)
    crew["c"]("mutex", "m", "s", AT)
    crew["python"]("mutex", "m", "s", AT, recursive)
    for peer in crew.values():
        peer.send("incloop", "m", "s", COUNTER, 5000, "guard")
    for peer in crew.values():
        peer.answer()
    assert struct.unpack("=Q", crew["c"].bytes("s", COUNTER, 8)) == (15000,)


def test_owner_is_seen(share, writer, reader):
    share("posix", writer, reader)
    writer("mutex", "m", "s", AT, "create=1")
    reader("mutex", "m", "s", AT)
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
    assert writer("acquire", "m", "try") == ["0"]
    reader.send("acquire", "m", "-")
    assert not reader.lines.answered(0.01)
    writer("release", "m")
    assert reader.answer() == ["1"]
    assert writer.number("owner", "m") == reader.pid
    reader("release", "m")
    assert writer("owner", "m") == ["-"]


def test_recursive(share, writer, reader):
    share("posix", writer, reader)
    writer("mutex", "m", "s", AT, "create=1", "recursive=1")
    reader("mutex", "m", "s", AT)
    with pytest.raises(Refused, match="recursive setting is another"):
        reader("mutex", "other", "s", AT, "recursive=0")
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
    third = LANGUAGES[(LANGUAGES.index(reader.language) + 1) % 3]
    first, second, third = trio(writer.language, reader.language, third)
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


def test_who_recovers_dies_too(trio, hire, writer, reader):
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
    second("mutex", "fails", "s", AT, "repair=error")
    third("mutex", "heals", "s", AT, f"repair={REPAIRED}")
    # One that fails leaves the lock free and the mark where it is.
    for timeout in ("-", "try", "1"):
        with pytest.raises(Refused, match="not repaired"):
            second("acquire", "fails", timeout)
        assert third("locked", "m") == ["0"]
    assert second.bytes("s", REPAIRED, 8) == bytes(8)
    assert third("acquire", "heals", "-") == ["1"]
    assert second.number("owner", "m") == third.pid
    assert struct.unpack("=Q", second.bytes("s", REPAIRED, 8)) == (first.pid + 1,)
    third("release", "heals")
    # Nobody is told again.
    third("fill", "s", 0, REPAIRED, 8)
    assert second("acquire", "fails", "-") == ["1"]
    second("release", "fails")
    assert third("acquire", "heals", "-") == ["1"]
    third("release", "heals")
    assert third.bytes("s", REPAIRED, 8) == bytes(8)


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


@pytest.mark.parametrize("kind", ["anon", "zero", "posix", "id", "file", "memfd"])
def test_death_of_a_forked_child(kind, writer, path, name, tmp_path):
    address = {"posix": f"posix:{name}", "id": "sysv:private", "file": f"file:{path}", "memfd": "memfd:test"}
    given = ["offset=1237", "size=8000"] if kind == "file" else ["size=8000", "create=1"]
    writer("open", "s", address.get(kind, f"{kind}:"), *given)
    if kind in ("posix", "id"):
        writer("unlink", "s")
    writer("fill", "s", 0, 0, 1024)
    writer("mutex", "m", "s", lock_offset(kind), "create=1")
    child = writer.fork(tmp_path)
    child.send("incloop", "m", "s", COUNTER, 2000, "guard")
    writer("incloop", "m", "s", COUNTER, 2000, "acquire")
    child.answer()
    assert struct.unpack("=Q", writer.bytes("s", COUNTER, 8)) == (4000,)
    # What the parent holds is not the child's.
    writer("acquire", "m", "-")
    with pytest.raises(Refused, match="not held by this thread"):
        child("release", "m")
    child.send("acquire", "m", "-")
    assert not child.lines.answered(0.01)
    writer("release", "m")
    assert child.answer() == ["1"]
    assert writer.number("owner", "m") == child.pid
    child.last("die")
    assert writer.reap(child) == ("signal", signal.SIGKILL)
    assert died(writer, "acquire", "m", "-") == child.pid
    assert writer("recover", "m", "1") == ["died", str(child.pid)]
    writer("leave", "m", "clean")
    assert writer("acquire", "m", "try") == ["1"]
    writer("release", "m")


def test_a_chain_of_deaths(share, hire, crew):
    """Each language in turn recovers from the one before, and is killed while it holds the lock."""
    place = share("sysv", crew["c"], crew["python"])
    crew["c"]("mutex", "m", "s", AT, "create=1")
    before = None
    for language in LANGUAGES * 2:
        peer = hire(language)
        place.join(peer)
        peer("mutex", "m", "s", AT)
        if before:
            assert died(peer, "acquire", "m", "-") == before
        assert peer("recover", "m", "-") == (["died", str(before)] if before else ["none"])
        peer("leave", "m", "clean")
        assert peer("acquire", "m", "-") == ["1"]
        before = peer.pid
        peer.last("die")
    crew["python"]("mutex", "m", "s", AT)
    assert died(crew["python"], "acquire", "m", "-") == before


# ---- programs that know pthread alone ------------------------------------------------------------------------------


class Foreign:
    """build/tests/cross_foreign_pthread on the mutex at `offset` of what is there."""

    def __init__(self, where: str, offset: int) -> None:
        line = [str(BUILD / "tests" / "cross_foreign_pthread"), where, str(offset)]
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.lines = Lines(self.process.stdout.fileno(), self.process.stdin.fileno())
        self.pid = self.process.pid

    def __call__(self, *words: object) -> str:
        self.lines.send(*words)
        return self.lines.line()

    def last(self, verb: str) -> None:
        self.lines.send(verb)
        self.process.wait(10)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def foreign() -> Iterator[Callable[..., Foreign]]:
    started: list[Foreign] = []

    def start(where: str, offset: int) -> Foreign:
        started.append(Foreign(where, offset))
        return started[-1]

    yield start
    for program in started:
        program.stop()


def place_of(kind: str, place, path, name) -> tuple[str, int]:
    """How a foreign program reaches the mutex at lock_offset(kind) of "s"."""
    if kind == "posix":
        return f"/dev/shm{name}", AT
    if kind == "sysv":
        return place.address.removeprefix("sysv:"), AT
    return str(path), 1237 + lock_offset(kind)


@pytest.mark.parametrize("maker", ["ours", "theirs"])
@pytest.mark.parametrize("kind", ["posix", "sysv", "file"])
def test_foreign_exclusion(kind, maker, share, writer, foreign, path, name):
    place = share(kind, writer, writer)
    writer("fill", "s", 0, 0, 1024)
    where, offset = place_of(kind, place, path, name)
    theirs = foreign(where, offset)
    if maker == "ours":
        writer("mutex", "m", "s", lock_offset(kind), "create=1")
    else:
        assert theirs("init") == "ok"
        writer("mutex", "m", "s", lock_offset(kind))
    counter = offset - lock_offset(kind) + COUNTER
    theirs.lines.send("incloop", counter, 20000)
    writer("incloop", "m", "s", COUNTER, 20000, "guard")
    assert theirs.lines.line() == "ok"
    assert struct.unpack("=Q", writer.bytes("s", COUNTER, 8)) == (40000,)
    assert theirs("acquire") == "ok"
    assert writer("locked", "m") == ["1"]
    assert writer("owner", "m") == ["-"]
    assert writer("acquire", "m", "try") == ["0"]
    writer.send("acquire", "m", "-")
    assert not writer.lines.answered(0.01)
    assert theirs("release") == "ok"
    assert writer.answer() == ["1"]
    assert theirs("try") == "EBUSY"
    assert writer("owner", "m") == ([str(writer.pid)] if maker == "ours" else ["-"])
    theirs.lines.send("acquire")
    assert not theirs.lines.answered(0.01)
    writer("release", "m")
    assert theirs.lines.line() == "ok"
    assert theirs("release") == "ok"


def test_foreign_holder_of_our_mutex_dies(share, writer, reader, foreign, name):
    share("posix", writer, reader)
    writer("mutex", "m", "s", AT, "create=1")
    reader("mutex", "m", "s", AT)
    theirs = foreign(f"/dev/shm{name}", AT)
    assert theirs("acquire") == "ok"
    reader.send("acquire", "m", "-")
    assert not reader.lines.answered(0.01)
    theirs.last("die")
    # It wrote no pid, so nobody knows who it was; but the mark is ours, and stays.
    with pytest.raises(Died) as caught:
        reader.answer()
    assert caught.value.pid is None
    assert died(writer, "acquire", "m", "-") is None
    assert reader("recover", "m", "-") == ["died", "-"]
    reader("leave", "m", "clean")
    assert writer("acquire", "m", "-") == ["1"]
    writer("release", "m")


def test_foreign_mutex_tells_once(share, hire, writer, reader, foreign, name):
    share("posix", writer, reader)
    writer("fill", "s", 0xCD, 0, 1024)
    theirs = foreign(f"/dev/shm{name}", AT)
    assert theirs("init") == "ok"
    after = writer.bytes("s", AT + 40, 256)
    for holder in ("theirs", "ours"):
        if holder == "theirs":
            for peer in (writer, reader):
                peer("mutex", "m", "s", AT)
            assert theirs("acquire") == "ok"
            theirs.last("die")
        else:
            ours = hire(writer.language)
            ours("open", "s", f"posix:{name}")
            ours("mutex", "m", "s", AT)
            assert ours("acquire", "m", "-") == ["1"]
            ours.last("die")
        assert died(writer, "acquire", "m", "-") is None
        assert reader("recover", "m", "-") == ["none"]
        reader("leave", "m", "clean")
        assert reader("acquire", "m", "-") == ["1"]
        assert writer("acquire", "m", "try") == ["0"]
        reader("release", "m")
    # Nothing is written outside what the foreign program made.
    assert after == b"\xcd" * 256
    assert writer.bytes("s", AT + 40, 256) == after
    assert writer.bytes("s", 0, AT) == b"\xcd" * AT


def test_foreign_program_meets_our_dead(share, hire, writer, foreign, name):
    share("posix", writer, writer)
    writer("mutex", "m", "s", AT, "create=1")
    ours = hire(writer.language)
    ours("open", "s", f"posix:{name}")
    ours("mutex", "m", "s", AT)
    assert ours("acquire", "m", "-") == ["1"]
    theirs = foreign(f"/dev/shm{name}", AT)
    theirs.lines.send("acquire")
    assert not theirs.lines.answered(0.01)
    ours.last("die")
    assert theirs.lines.line() == "EOWNERDEAD"
    assert theirs("consistent") == "ok"
    assert theirs("release") == "ok"
    # The foreign program repaired, and said so in the only words that it has.
    assert writer("acquire", "m", "-") == ["1"]
    writer("release", "m")


def test_foreign_program_gives_up(share, writer, reader, foreign, hire, name):
    share("posix", writer, reader)
    writer("mutex", "m", "s", AT, "create=1")
    reader("mutex", "m", "s", AT)
    ours = hire(writer.language)
    ours("open", "s", f"posix:{name}")
    ours("mutex", "m", "s", AT)
    ours("acquire", "m", "-")
    ours.last("die")
    theirs = foreign(f"/dev/shm{name}", AT)
    assert theirs("acquire") == "EOWNERDEAD"
    # Released without pthread_mutex_consistent: nobody gets it any more.
    assert theirs("release") == "ok"
    for timeout in ("try", "-", "0.01"):
        for peer in (writer, reader):
            with pytest.raises(Refused) as caught:
                peer("acquire", "m", timeout)
            assert caught.value.code == "ENOTRECOVERABLE"
            assert peer("locked", "m") == ["0"]
    # Made anew, it serves again.
    writer("mutex", "m", "s", AT, "create=1")
    assert writer("acquire", "m", "-") == ["1"]
    assert theirs("try") == "EBUSY"
    writer("release", "m")
