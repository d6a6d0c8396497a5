# SPDX-License-Identifier: MIT
"""Arenas between languages: what one makes by name the other opens, and what happens when it goes."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from partners import LANGUAGES, Peer, Refused
from places import KINDS, NAMED


def refused(code: str, text: str = ""):
    return pytest.raises(Refused, match=f"^{code}: .*{text}")


def third_of(*peers: Peer) -> str:
    """A language that neither of two has, where there is one."""
    return next(language for language in LANGUAGES if language not in {peer.language for peer in peers[:2]})


@pytest.fixture
def killer(hire, hall):
    """killer(language, reader): an arena whose maker may be killed."""

    def start(language: str, reader: Peer, *options: str, kind: str = "posix"):
        writer = hire(language)
        return writer, hall(kind, writer, reader, *options)

    return start


@pytest.mark.parametrize("kind", KINDS)
def test_opened_by_the_other(kind, hall, writer, reader):
    place = hall(kind, writer, reader, "life=keep", "participants=7")
    size, shown, created, readonly, life, number, _ = place.made
    assert (size, created, readonly, life) == ("1048576", "1", "0", "keep")
    assert shown == {"memfd": "fd", "ftok": "sysv", "id": "sysv"}.get(kind, kind)
    assert (place.joined[0], *place.joined[2:5]) == (size, "0", "0", life)
    assert place.joined[5] == number != "0"
    reader = place.reader
    writer("amutex", "m", "a", "lock", "recursive=1")
    reader("counter", "c", "a", "count")
    writer("counter", "c", "a", "count")
    reader("amutex", "m", "a", "lock")
    assert writer("count", "c", "add", 5) == ["5"]
    assert reader("count", "c", "load") == ["5"]
    for peer in (writer, reader):
        assert peer.names() == {"lock": "mutex", "count": "counter"}
        assert peer("kind", "a", "lock") == ["mutex"]
        assert peer("has", "a", "count") == ["1"]
        assert peer("has", "a", "lock2") == ["0"]
        assert peer("check", "a") == []
        assert peer("stats", "a", "size", "objects", "participants") == ["1048576", "2", "7"]
    assert writer("stats", "a", "used", "free", "largest_free") == reader("stats", "a", "used", "free", "largest_free")
    reader("delete", "a", "lock")
    assert writer.names() == {"count": "counter"}
    with refused("EDELETED"):
        writer("acquire", "m", "try")
    writer("shut", "a")
    assert reader.names() == {"count": "counter"}


NAMES = ["x", "y" * 255, "käse", "\u4f60\u597d", "\U0001f512", "é" * 127, "a/b:c=d", "%s%n", "(heap)", "\u202e"]


def test_names(hall, writer, reader):
    """What is a name in one language is the same name in the other."""
    hall("posix", writer, reader)
    for i, name in enumerate(NAMES):
        maker, other = (writer, reader) if i % 2 else (reader, writer)
        maker("counter", "c", "a", name)
        assert maker.number("count", "c", "add", i + 100) == i + 100
        other("counter", "d", "a", name)
        assert other.number("count", "d", "load") == i + 100
    for peer in (writer, reader):
        assert peer.names() == dict.fromkeys(NAMES, "counter")
        with refused("raise"):
            peer("counter", "c", "a", "z" * 256)
        # The same letter in another form is another name.
        assert peer("has", "a", "ka\u0308se") == ["0"]
    for name in NAMES[::2]:
        writer("delete", "a", name)
    for peer in (writer, reader):
        assert peer.names() == dict.fromkeys(NAMES[1::2], "counter")


def test_what_disagrees(hall, writer, reader):
    place = hall("posix", writer, reader, "life=keep")
    writer("amutex", "m", "a", "lock", "recursive=0")
    writer("counter", "c", "a", "count")
    with refused("raise", "another kind"):
        reader("counter", "c", "a", "lock")
    with refused("raise", "another kind"):
        reader("amutex", "m", "a", "count")
    with refused("raise", "recursive"):
        reader("amutex", "m", "a", "lock", "recursive=1")
    for wrong in ("size=2097152", "life=last-detach", "participants=9"):
        with refused("raise"):
            place.join(reader, wrong, name="b")
        with refused("raise"):
            place.join(reader, wrong, "create=1", name="b")
    for right in ("size=1048576", "life=keep"):
        assert place.join(reader, right, "create=1", name="b")[2] == "0"
    with refused("EEXIST"):
        place.join(reader, "exclusive=1", name="b")
    with refused("ENONAME"):
        reader("kind", "a", "none")
    with refused("ENONAME"):
        reader("delete", "a", "none")


def test_segments_are_no_arenas(writer, reader, path, name):
    with refused("Incompatible"):
        writer("arena", "a", f"file:{path}")
    with refused("Incompatible"):
        writer("arena", "a", f"file:{path}", "create=1")
    with refused("ENOENT"):
        writer("arena", "a", f"posix:{name}")
    assert path.read_bytes() == bytes(range(1, 251)) * 80


@pytest.mark.parametrize("kind", ["posix", "sysv", "file"])
def test_zeros_become_an_arena(kind, share, writer, reader, path):
    """Memory that somebody made without polyshm's header."""
    path.write_bytes(bytes(300_000))
    place = share("posix" if kind == "file" else kind, writer, reader, 300_000)
    address = f"file:{path}" if kind == "file" else place.address
    with refused("Incompatible" if kind != "sysv" else "ENOENT"):
        writer("arena", "a", address)
    assert writer("arena", "a", address, "create=1")[2] == "1"
    assert reader("arena", "a", address, "create=1")[2] == "0"
    writer("counter", "c", "a", "c")
    assert reader.names() == {"c": "counter"}
    if kind != "file":
        assert reader.bytes("s", 0, 8) == b"polyshm\x1a"


def test_damage_is_seen_by_all(hall, writer, reader, name):
    hall("posix", writer, reader)
    file = Path(f"/dev/shm{name}")
    writer("counter", "c", "a", "c")
    for peer in (writer, reader):
        peer("shut", "a")
    whole = file.read_bytes()
    damaged = {
        "Incompatible": [whole[:8] + b"\x07" + whole[9:], whole[:13] + b"\xff" + whole[14:], whole[:600_000]],
        "Corrupt": [whole[:16] + b"\xff\xff" + whole[18:], whole[:32] + bytes(8) + whole[40:]],
    }
    for code, versions in damaged.items():
        for data in versions:
            file.write_bytes(data)
            for peer in (writer, reader):
                with refused(code):
                    peer("arena", "b", f"posix:{name}")
    # A table that cannot be, in an arena that opens: told by check, and by whoever looks for a name.
    file.write_bytes(whole[: 608 + 24] + b"\x03" * 16 + whole[608 + 40 :])
    for peer in (writer, reader):
        peer("arena", "b", f"posix:{name}", "access=r")
        assert peer("check", "b") != []
        with refused("Corrupt"):
            peer("has", "b", "c")
        peer("shut", "b")


@pytest.mark.parametrize("kind", KINDS)
def test_deleted_while_used(kind, hall, writer, reader):
    reader = hall(kind, writer, reader).reader
    for peer in (writer, reader):
        peer("amutex", "m", "a", "lock")
        peer("counter", "c", "a", "count")
    assert writer("acquire", "m", "-") == ["1"]
    reader.send("acquire", "m", "-")
    assert not reader.lines.answered(0.02)
    writer("delete", "a", "lock")
    with refused("EDELETED"):
        reader.answer()
    reader.send("atleast", "c", 5, "-")
    assert not reader.lines.answered(0.02)
    writer("delete", "a", "count")
    with refused("EDELETED"):
        reader.answer()
    # The name may be used for something else at once; the old handles are not of it.
    writer("counter", "d", "a", "lock")
    for peer in (writer, reader):
        assert peer.names() == {"lock": "counter"}
        for call in (("acquire", "m", "try"), ("acquire", "m", "1"), ("recover", "m", "1"), ("locked", "m")):
            with refused("EDELETED|raise" if peer is writer else "EDELETED"):
                peer(*call)
        for call in (("count", "c", "load"), ("count", "c", "add", 1), ("atleast", "c", 0, "1")):
            with refused("EDELETED"):
                peer(*call)
    writer("release", "m")
    for peer in (writer, reader):
        assert peer("check", "a") == []
    # What was held is free now.
    reader("delete", "a", "lock")
    before = writer.number("stats", "a", "used")
    for peer in (writer, reader):
        for _ in range(20):
            peer("counter", "e", "a", "again")
            peer("delete", "a", "again")
    assert writer.number("stats", "a", "used") == before


@pytest.mark.parametrize("kind", NAMED)
def test_readonly(kind, hall, writer, reader):
    """Who opens to read sees everything, changes nothing, and takes no part."""
    place = hall(kind, writer, reader)
    reader("shut", "a")
    writer("amutex", "m", "a", "lock", "recursive=1")
    writer("counter", "c", "a", "count")
    writer("count", "c", "store", -7)
    root = writer.number("root", "a", 3)
    writer("alloc", "a", root, 100)
    assert place.join(reader, "access=r", name="r")[3] == "1"
    assert reader.names("r") == {"lock": "mutex", "count": "counter"}
    reader("counter", "c", "r", "count")
    reader("amutex", "m", "r", "lock")
    assert reader("count", "c", "load") == ["-7"]
    writer("acquire", "m", "-")
    assert reader("locked", "m") == ["1"]
    assert reader.number("owner", "m") == writer.pid
    assert reader("stats", "r", "objects", "taking_part") == ["2", "1"]
    assert reader("check", "r") == []
    (block,) = [int.from_bytes(bytes.fromhex(reader("peek", "r", root, 8)[0]), "little")]
    assert reader("peek", "r", block, 4) == ["00000000"]
    for call in (
        *(("acquire", "m", "try"), ("acquire", "m", "1"), ("recover", "m", "1")),
        *(("count", "c", verb, 1) for verb in ("add", "sub", "store", "exchange", "max", "min")),
        *(("count", "c", "compare_exchange", 1, 2), ("delete", "r", "lock")),
        *(("alloc", "r", root, 8), ("free", "r", root), ("poke", "r", block, "00")),
    ):
        with refused("raise", "read-only"):
            reader(*call)
    for noun in ("amutex", "counter"):
        with refused("ENONAME|raise"):
            reader(noun, "n", "r", "new")
    assert [p.pid for p in writer.crowd().values()] == [writer.pid]
    assert [p.pid for p in reader.crowd("r").values()] == [writer.pid]
    # It waits without a slot too.
    reader.send("atleast", "c", 3, "-")
    assert not reader.lines.answered(0.02)
    writer("count", "c", "store", 3)
    assert reader.answer() == ["1"]
    assert reader("atleast", "c", 4, "0.05") == ["0"]
    writer("release", "m")
    assert [p.pid for p in writer.crowd().values()] == [writer.pid]


@pytest.mark.parametrize("kind", ["posix", "file", "sysv", "ftok"])
def test_last_detach(kind, hall, writer, reader):
    place = hall(kind, writer, reader, "life=last-detach")
    assert place.made[4] == place.joined[4] == "last-detach"
    writer("counter", "c", "a", "c")
    writer("shut", "a")
    assert reader("exists", place.address) == ["1"]
    assert place.join(writer, name="again")[5] == place.joined[5]
    reader("shut", "a")
    assert writer.names("again") == {"c": "counter"}
    assert reader("exists", place.address) == ["1"]
    writer("shut", "again")
    assert reader("exists", place.address) == ["0"]
    with refused("ENOENT"):
        place.join(reader)


@pytest.mark.parametrize("last", ["closes", "ends", "is killed", "is killed stopped"])
@pytest.mark.parametrize("kind", ["posix", "file", "sysv"])
def test_last_detach_whoever_is_the_last(kind, last, hall, hire, writer, reader):
    """A killed one cannot remove the name; the next one that opens it finds nobody, and makes a new one."""
    victim = hire(reader.language)
    place = hall(kind, writer, victim, "life=last-detach")
    victim("counter", "c", "a", "c")
    victim("amutex", "m", "a", "m")
    victim("acquire", "m", "-")
    writer("shut", "a")
    if last == "closes":
        victim("release", "m")
        victim("shut", "a")
        assert writer("exists", place.address) == ["0"]
    elif last == "ends":
        victim.last("exit")
    else:
        if last.endswith("stopped"):
            os.kill(victim.pid, signal.SIGSTOP)
            assert place.join(writer)[5] == place.joined[5]
            writer("shut", "a")
            assert writer("exists", place.address) == ["1"]
        os.kill(victim.pid, signal.SIGKILL)
        victim.waiting += 1
        victim.process.wait()
    with refused("ENOENT"):
        place.join(reader)
    made = writer("arena", "a", place.address, "create=1", "size=65536")
    assert (made[2], made[4]) == ("1", "keep")
    assert made[5] != place.joined[5]
    assert writer.names() == {}


def test_made_anew_under_the_same_name(hall, writer, reader, name):
    """Who has the old one goes on with it, and does not remove the new one."""
    hall("posix", writer, reader)
    writer("counter", "c", "a", "old")
    writer("unname", "a")
    with refused("ENOENT"):
        reader("arena", "b", f"posix:{name}")
    assert reader("arena", "b", f"posix:{name}", "create=1", "size=65536")[2] == "1"
    assert (reader.names("a"), reader.names("b")) == ({"old": "counter"}, {})
    with refused("ENOENT|EREMADE"):
        writer("unname", "a")
    assert Path(f"/dev/shm{name}").exists()
    reader("unname", "b")
    assert not Path(f"/dev/shm{name}").exists()


def test_wait_for_a_creator(hall, writer, reader, name):
    with refused("ENOENT"):
        reader("arena", "a", f"posix:{name}", "wait=0.05")
    reader.send("arena", "a", f"posix:{name}", "wait=20")
    assert not reader.lines.answered(0.15)
    writer("arena", "a", f"posix:{name}", "create=1", "size=65536")
    assert reader.answer()[2] == "0"
    writer("unname", "a")


@pytest.mark.parametrize("kind", ["posix", "file", "sysv"])
def test_all_create_at_once(kind, crew, name, tmp_path):
    """One of them has created, and all have the same."""
    address = {"posix": f"posix:{name}", "file": f"file:{tmp_path}/a", "sysv": f"sysv:{tmp_path}#A"}[kind]
    for turn in range(30):
        for peer in crew.values():
            peer.send("arena", "a", address, "create=1", "size=65536")
        answers = [peer.answer() for peer in crew.values()]
        assert sorted(answer[2] for answer in answers) == ["0", "0", "1"]
        assert len({answer[5] for answer in answers}) == 1
        for peer in crew.values():
            peer.send("counter", "c", "a", f"turn {turn}".replace(" ", "-"))
        for peer in crew.values():
            peer.answer()
        for peer in crew.values():
            peer.send("count", "c", "add", 1)
        assert sorted(int(peer.answer()[0]) for peer in crew.values()) == [1, 2, 3]
        crew["c"]("unname", "a")
        for peer in crew.values():
            peer("shut", "a")


def test_the_directory_grows_under_all(hall, crew):
    """Each creates its own and everybody's; all are found by all."""
    place = hall("posix", crew["c"], crew["python"], "size=8388608")
    place.join(crew["lua"])
    for peer in crew.values():
        peer.send("create", "a", f"{peer.language}-", 2000)
    for peer in crew.values():
        peer.answer()
    for peer in crew.values():
        peer.send("create", "a", "all-", 500)
    for peer in crew.values():
        peer.answer()
    names = {f"{language}-{i}" for language in LANGUAGES for i in range(2000)} | {f"all-{i}" for i in range(500)}
    for peer in crew.values():
        assert peer.names() == dict.fromkeys(names, "counter")
        assert peer("check", "a") == []
    crew["lua"]("counter", "c", "a", "all-7")
    assert crew["lua"]("count", "c", "load") == ["3"]
    for peer in crew.values():
        peer.send("deleteall", "a", f"{LANGUAGES[LANGUAGES.index(peer.language) - 1]}-", 2000)
    for peer in crew.values():
        peer.answer()
    for peer in crew.values():
        assert peer.names() == {f"all-{i}": "counter" for i in range(500)}
        assert peer("stats", "a", "objects") == ["500"]


def test_create_and_delete_the_same_names(hall, writer, reader):
    hall("posix", writer, reader)
    for _ in range(20):
        writer.send("create", "a", "n", 100)
        reader.send("deleteall", "a", "n", 100)
        for peer in (writer, reader):
            peer.answer()
        for peer in (reader, writer):
            peer.send("create", "a", "n", 100)
        for peer in (writer, reader):
            peer.answer()
        writer.send("deleteall", "a", "n", 100)
        reader.send("deleteall", "a", "n", 100)
        for peer in (writer, reader):
            peer.answer()
        assert writer.names() == reader.names() == {}
        assert reader("check", "a") == []


@pytest.mark.parametrize("kind", ["posix", "sysv"])
def test_killed_while_it_creates_and_deletes(kind, hall, hire, writer, reader):
    """The other one goes on, with nothing torn and nothing leaked."""
    place = hall(kind, writer, reader)
    writer("create", "a", "kept", 1)
    for turn in range(12):
        victim = hire(writer.language)
        place.join(victim)
        victim.send("create", "a", "x", 1000 if turn % 2 else 40)
        if turn % 2 == 0:
            victim.answer()
            victim.send("deleteall", "a", "x", 100_000_000)
        reader.send("create", "a", "y", 50)
        time.sleep(random.random() * 0.01)
        os.kill(victim.pid, signal.SIGKILL)
        victim.process.wait()
        victim.waiting = 1
        reader.answer()
        reader("deleteall", "a", "y", 50)
        reader("deleteall", "a", "x", 20_000)
        left = {name: kind for name, kind in reader.names().items() if name != "kept0"}
        for name in left:
            reader("delete", "a", name)
        for peer in (writer, reader):
            assert peer.names() == {"kept0": "counter"}
            assert peer("check", "a") == []
        # One object, and a table of so many entries: no byte has leaked.
        table = reader.number("stats", "a", "used") - 128
        assert table.bit_count() == 1, table


def test_a_forked_child(writer, hall, tmp_path):
    """It uses what its parent had open, under an identity of its own."""
    place = hall("posix", writer, writer)
    writer("counter", "c", "a", "c")
    writer("amutex", "m", "a", "m")
    writer("acquire", "m", "-")
    child = writer.fork(tmp_path)
    assert child("count", "c", "add", 3) == ["3"]
    assert child.names() == {"c": "counter", "m": "mutex"}
    with refused("raise", "not held"):
        child("release", "m")
    assert {p.pid for p in child.crowd().values()} == {writer.pid, child.pid}
    child("shut", "a")
    assert writer("count", "c", "load") == ["3"]
    assert writer.reap(child) == ("exit", 0)
    writer("release", "m")
    assert place.join(writer, name="b")[2] == "0"
