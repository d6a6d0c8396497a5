# SPDX-License-Identifier: MIT
"""Live arenas, made by Python and Lua, and read by the decoder: it has to find what the interface says.

The decoder gets the bytes of the file alone. An arena is at rest while it is copied: whoever uses it waits, or is dead.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import decode
import polyshm
import pytest

# Size, participants; None: what a new arena has.
SHAPES = [(20480, 1), (65536, 3), (1 << 20, None), (3_000_001, 64), (16 << 20, None), (64 << 20, 32766)]


@pytest.fixture
def arena(name: str) -> Iterator[polyshm.Arena]:
    with polyshm.Arena(f"posix:{name}", size="2M", create=True) as arena:
        yield arena
        arena.unlink()


def read(arena: polyshm.Arena) -> decode.Arena:
    return decode.decode(Path("/dev/shm", arena.address.partition("/")[2]).read_bytes())


def until(arena: polyshm.Arena, condition: Callable[[decode.Arena], object]) -> decode.Arena:
    """The first picture of which it is true."""
    deadline = time.monotonic() + 30
    while True:
        picture = read(arena)
        if condition(picture):
            return picture
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def fork(body: Callable[[], None]) -> int:
    """A child that does something and then waits for its end."""
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            body()
            os.write(told, b"!")
            signal.pause()
        finally:
            os._exit(1)
    os.close(told)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    return pid


def agrees(arena: polyshm.Arena, seen: decode.Arena) -> None:
    """All that the interface tells of an arena as a whole."""
    stats = arena.stats()
    assert seen.head["id"] == arena.id
    assert (seen.at.size, seen.life) == (arena.size, arena.life)
    assert stats["size"] == seen.at.size
    assert stats["heap"] == 4096 * seen.at.heap_pages
    assert stats["participants"] == seen.at.participants
    assert stats["taking_part"] == sum(slot.alive for slot in seen.slots)
    assert stats["objects"] == len(seen.names) == len(arena)
    assert stats["used"] == seen.used
    assert stats["free"] == 4096 * seen.at.heap_pages - seen.used
    runs = [block for block in seen.blocks.values() if block.kind == "run"]
    assert (stats["large"], stats["large_pages"]) == (len(runs), sum(block.size for block in runs) // 4096)
    for class_, (size, pages) in zip(stats["classes"], decode.CLASSES, strict=True):
        assert (class_["block"], class_["pages"]) == (size, pages)
        assert class_["used"] == sum(block.kind == "span" and block.size == size for block in seen.blocks.values())
    assert {name: type(o).__name__.lower() for name, o in arena.items()} == {
        name: o.noun for name, o in seen.names.items()
    }


def participants_agree(arena: polyshm.Arena, seen: decode.Arena) -> None:
    """Who takes part, and what they hold."""
    locks = {o.body_place: o.name for o in seen.objects if o.mutex or o.writer}
    told = {p.slot: p for p in arena.participants()}
    slots = {slot.index: slot for slot in seen.slots if slot.phase != "free"}
    assert told.keys() == slots.keys()
    for index, slot in slots.items():
        p = told[index]
        generation = slot.generation - (slot.phase == "dead")
        assert (p.generation, p.pid, p.thread, p.language) == (generation, slot.pid, slot.thread, slot.language)
        assert p.alive == slot.alive
        held = {locks[place] for place, _ in slot.held if decode.owner(seen, place).slot == index}
        shared = {locks[place] for place, *_ in slot.shares} if slot.alive else set()
        assert set(p.holds) == held | shared
        assert p.waits == {o.body_place: o.name for o in seen.objects}.get(slot.waits)


# ---- the whole


@pytest.mark.parametrize(("size", "participants"), SHAPES)
def test_new_arena(name: str, size: int, participants: int | None) -> None:
    with polyshm.Arena(f"posix:{name}", size=size, create=True, participants=participants, reserve=False) as arena:
        seen = read(arena)
        assert seen.at.participants == (participants or min(1024, size // 4096))
        assert seen.memory.unpack("I", 12)[0] == 0x901028 or os.uname().machine != "x86_64"
        assert not seen.objects
        assert not seen.blocks
        agrees(arena, seen)
        assert decode.problems(seen) == arena.check() == []
        arena.counter("one").store(1)
        seen = read(arena)
        assert [o.value for o in seen.objects] == [1]
        agrees(arena, seen)
        assert decode.problems(seen) == arena.check() == []
        arena.unlink()


@pytest.mark.parametrize("life", ["keep", "last-detach"])
def test_head(name: str, life: str) -> None:
    with polyshm.Arena(f"posix:{name}", size="1M", create=True, life=life) as arena:
        seen, status = read(arena), os.stat(f"/dev/shm{name}")
        assert (seen.life, seen.head["id"]) == (life, arena.id)
        assert (seen.head["device"], seen.head["inode"]) == (status.st_dev, status.st_ino)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        assert "".join(f"{half:016x}" for half in seen.head["boot"]) == boot
        assert any(seen.head["seed"])
        assert not any(seen.head["roots"])
        if life == "keep":
            arena.unlink()


def test_two_arenas_differ(name: str) -> None:
    heads = []
    for _ in range(2):
        with polyshm.Arena(f"posix:{name}", size="64K", create=True, participants=2) as arena:
            heads.append(read(arena).head)
            arena.unlink()
    assert heads[0]["id"] != heads[1]["id"]
    assert heads[0]["seed"] != heads[1]["seed"]


def test_system_v() -> None:
    with polyshm.Arena("sysv:private", size="256K", create=True) as arena:
        (stat,) = [s for s in polyshm.list() if s.kind == "sysv" and s.creator_pid == os.getpid()]
        with polyshm.Segment(f"sysv:id={stat.id}", access="r") as segment:
            seen = decode.decode(segment.read())
        assert (seen.head["id"], seen.head["device"], seen.head["inode"]) == (arena.id, 0, stat.id)
        arena.unlink()


# ---- names and objects


def test_names(arena: polyshm.Arena) -> None:
    chosen = ["a", "Zähler", "名前", "x" * 255, "ü" * 127, "with space", "/", *(f"name {i}" for i in range(1500))]
    for i, text in enumerate(chosen):
        arena.counter(text).store(i * i - 1000)
    for i, text in enumerate(chosen):
        if i % 3 == 0:
            arena.delete(text)
            chosen[i] = ""
    seen = read(arena)
    assert set(seen.names) == set(arena) == set(chosen) - {""}
    for i, text in enumerate(chosen):
        if text:
            found = seen.find(text)
            assert found is seen.names[text]
            assert (found.noun, found.value) == ("counter", i * i - 1000)
            assert 1 <= decode.number_of(seen, found.serial) <= seen.head["serial"]
    assert seen.find("never there") is None
    assert len({o.serial for o in seen.objects}) == len(seen.objects)
    assert seen.head["directory"]["gone"] > 0
    agrees(arena, seen)
    assert decode.problems(seen) == arena.check() == []


def test_deleted_under_a_call(arena: polyshm.Arena) -> None:
    """What somebody is inside of keeps its bytes, and goes with a later change."""
    lock = arena.mutex("held")
    lock.acquire()
    place = read(arena).names["held"].place
    arena.delete("held")
    seen = read(arena)
    (left,) = [o for o in seen.objects if o.deleted]
    assert (left.place, left.serial, left.name, left.noun) == (place, 0, "held", "mutex")
    assert left.mutex.state == "held"
    assert (seen.names, seen.find("held")) == ({}, None)
    assert decode.problems(seen) == []
    lock.release()
    arena.counter("next")
    assert [o.name for o in read(arena).objects] == ["next"]


@pytest.mark.parametrize("value", [0, 1, -1, 2**63 - 1, -(2**63), 0x0123456789ABCDEF])
def test_counter(arena: polyshm.Arena, value: int) -> None:
    counter = arena.counter("count")
    counter.store(value)
    seen = read(arena).names["count"]
    assert (seen.value, seen.sleepers, len(seen.body)) == (value, 0, 64)


def test_counter_that_is_waited_for(arena: polyshm.Arena, lua) -> None:
    counter = arena.counter("count")
    child = lua.start(
        """local arena = require("polyshm").arena(...)
        assert(arena:counter("count"):wait(5))""",
        arena.address,
    )
    seen = until(arena, lambda seen: seen.names["count"].sleepers)
    (slot,) = [s for s in seen.slots if s.language == "lua" and s.alive]
    assert (slot.pid, slot.busy) == (child.pid, seen.names["count"].place)
    counter.store(5)
    assert child.wait(timeout=30) == 0
    counter.add(1)  # wakes who may sleep, and there is nobody
    assert read(arena).names["count"].sleepers == 0


def test_condition(arena: polyshm.Arena, lua) -> None:
    lock = arena.mutex("books")
    changed = arena.condition("changed", lock)
    seen = read(arena).names
    found, of = seen["changed"], seen["books"]
    assert (found.noun, found.sequence, found.sleepers, len(found.body)) == ("condition", 0, 0, 64)
    assert (found.of, found.of_serial) == (of.place, of.serial)
    with changed:
        changed.notify()  # nobody waits
    assert read(arena).names["changed"].sequence == 0
    child = lua.start(
        """local arena = require("polyshm").arena(...)
        local changed = arena:condition("changed")
        local held <close> = changed:guard()
        assert(changed:wait(30))""",
        arena.address,
    )
    place = found.body_place
    seen = until(arena, lambda seen: any(s.waits == place for s in seen.slots if s.alive))
    assert seen.names["changed"].sleepers == 1
    assert seen.names["books"].mutex.state == "free"
    with changed:
        changed.notify_all()
    assert child.wait(timeout=30) == 0
    found = read(arena).names["changed"]
    assert (found.sequence, found.sleepers) == (1, 0)


def test_repairs_of_a_mutex(arena: polyshm.Arena, lua) -> None:
    lock = arena.mutex("books")
    assert read(arena).names["books"].repairs == 0
    for count in (1, 2):
        lua('require("polyshm").arena(...):mutex("books"):acquire()', arena.address)
        assert read(arena).names["books"].repairs == count - 1
        with lock.recover() as died:
            assert died is not None
        assert read(arena).names["books"].repairs == count


# ---- semaphores, events, latches


@pytest.mark.parametrize("value", [0, 1, 2**31 - 1])
def test_semaphore(arena: polyshm.Arena, value: int) -> None:
    semaphore = arena.semaphore("free", value)
    seen = read(arena).names["free"]
    assert (seen.noun, seen.value, seen.initial, seen.sleepers, len(seen.body)) == ("semaphore", value, value, 0, 64)
    if value:
        assert semaphore.acquire()
    else:
        semaphore.release(7)
    seen = read(arena).names["free"]
    assert (seen.value, seen.initial) == (value - 1 if value else 7, value)


@pytest.mark.parametrize("auto", [False, True])
def test_event(arena: polyshm.Arena, auto: bool) -> None:
    event = arena.event("go", auto)
    seen = read(arena).names["go"]
    assert (seen.noun, seen.auto, seen.is_set, seen.times, len(seen.body)) == ("event", auto, False, 0, 64)
    event.set()
    event.set()  # it is set already
    seen = read(arena).names["go"]
    assert (seen.is_set, seen.times, seen.sleepers) == (True, 1, 0)
    assert event.wait(0)
    assert read(arena).names["go"].is_set is not auto
    event.clear()
    event.set()
    event.clear()
    seen = read(arena).names["go"]
    assert (seen.is_set, seen.times) == (False, 2)


def test_latch(arena: polyshm.Arena) -> None:
    latch = arena.latch("ready", 3)
    latch.count_down()
    seen = read(arena).names["ready"]
    assert (seen.noun, seen.value, seen.initial, seen.sleepers, len(seen.body)) == ("latch", 2, 3, 0, 64)
    latch.count_down(9)
    assert read(arena).names["ready"].value == 0


@pytest.mark.parametrize(
    ("noun", "wait", "go", "bits"),
    [
        ("semaphore('x', 0)", "acquire", lambda arena: arena.semaphore("x").release(), 1),
        ("event('x')", "wait", lambda arena: arena.event("x").set(), 2),
        ("event('x', {auto = true})", "wait", lambda arena: arena.event("x").set(), 1),
        ("latch('x', 1)", "wait", lambda arena: arena.latch("x").count_down(), 2),
    ],
)
def test_one_that_is_waited_for(arena: polyshm.Arena, lua, noun: str, wait: str, go, bits: int) -> None:
    child = lua.start(
        f"""local arena = require("polyshm").arena(...)
        assert(arena:{noun}:{wait}(20))""",
        arena.address,
    )
    seen = until(arena, lambda seen: "x" in seen.names and seen.names["x"].sleepers)
    assert seen.names["x"].sleepers == bits
    (slot,) = [s for s in seen.slots if s.language == "lua" and s.alive]
    assert (slot.pid, slot.busy) == (child.pid, seen.names["x"].place)
    go(arena)
    assert child.wait(timeout=30) == 0


# ---- permits, barriers, onces


def test_permits(arena: polyshm.Arena) -> None:
    permits = arena.permits("pool", 5)
    seen = read(arena).names["pool"]
    assert (seen.noun, seen.total, seen.free, seen.sleepers, len(seen.body)) == ("permits", 5, 5, 0, 64)
    permits.acquire(3)
    decoded = read(arena)
    seen = decoded.names["pool"]
    assert seen.free == 2
    (slot,) = [slot for slot in decoded.slots if slot.alive]
    assert slot.held == ((seen.body_place + 32, 3),)
    permits.release(3)
    assert read(arena).names["pool"].free == 5


@pytest.mark.parametrize("on_death", ["break", "shrink"])
def test_barrier(arena: polyshm.Arena, on_death: str) -> None:
    barrier = arena.barrier("phases", 3, on_death)
    seen = read(arena).names["phases"]
    assert (seen.noun, seen.parties, seen.shrinks, seen.phase) == ("barrier", 3, on_death == "shrink", 0)
    assert (seen.broken, seen.passed, seen.members, len(seen.body)) == (False, 0, [], 64 + 3 * 8)
    barrier.join()
    decoded = read(arena)
    (slot,) = [slot for slot in decoded.slots if slot.alive]
    assert decoded.names["phases"].members == [(slot.index, slot.generation, False)]
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0)
    seen = read(arena).names["phases"]
    assert (seen.phase, seen.broken, seen.members[0][2]) == (0, True, True)
    barrier.reset()
    seen = read(arena).names["phases"]
    assert (seen.phase, seen.broken, seen.passed, seen.members[0][2]) == (1, False, 0, False)
    barrier.leave()
    assert read(arena).names["phases"].members == []
    alone = arena.barrier("alone", 1, on_death)
    alone.wait()
    alone.wait()
    alone.reset()
    seen = read(arena).names["alone"]
    assert (seen.phase, seen.broken, seen.passed, seen.members[0][2]) == (3, False, 2, False)


def test_once(arena: polyshm.Arena) -> None:
    once = arena.once("table")
    seen = read(arena).names["table"]
    assert (seen.noun, seen.done, seen.sleepers, len(seen.body)) == ("once", False, 0, 64)
    once.run(lambda: None)
    assert read(arena).names["table"].done


# ---- mutexes and participants


def test_mutex(arena: polyshm.Arena) -> None:
    lock, deep = arena.mutex("books"), arena.mutex("deep", recursive=True)
    seen = read(arena)
    assert [(o.name, o.recursive, o.mutex.state) for o in sorted(seen.objects, key=lambda o: o.name)] == [
        ("books", False, "free"),
        ("deep", True, "free"),
    ]
    lock.acquire()
    for _ in range(4):
        deep.acquire()
    seen = read(arena)
    (mine,) = [slot for slot in seen.slots if slot.alive]
    assert (mine.pid, mine.thread, mine.beacon) == (os.getpid(), threading.get_native_id(), threading.get_native_id())
    assert (mine.language, mine.pid_space) == ("python", os.stat("/proc/self/ns/pid").st_ino & 0xFFFFFFFF)
    start = Path(f"/proc/self/task/{mine.thread}/stat").read_text().rpartition(")")[2].split()[19]
    assert mine.start == int(start)
    assert mine.recorded
    assert dict(mine.held) == {seen.names["books"].body_place: 0, seen.names["deep"].body_place: 3}
    for text in ("books", "deep"):
        owner = seen.names[text].mutex
        assert (owner.state, owner.slot, owner.generation) == ("held", mine.index, mine.generation & 0x7FFF)
        assert not owner.died
    participants_agree(arena, seen)
    for _ in range(4):
        deep.release()
    lock.release()
    seen = read(arena)
    assert seen.slots[mine.index].held == ()
    assert {o.mutex.state for o in seen.objects} == {"free"}
    participants_agree(arena, seen)
    assert decode.problems(seen) == arena.check() == []


def test_rwlock(arena: polyshm.Arena) -> None:
    rw = arena.rwlock("books")
    books = read(arena).names["books"]
    assert (books.noun, books.kind, books.flags, len(books.body)) == ("rwlock", 3, 0, 64)
    assert (books.writer.state, books.readers) == ("free", [])
    for _ in range(3):
        rw.read.acquire()
    seen = read(arena)
    (mine,) = [slot for slot in seen.slots if slot.alive]
    assert (mine.held, mine.shares) == ((), ((books.body_place, 2, False),))
    assert (seen.names["books"].writer.state, seen.names["books"].readers) == ("free", [mine.index])
    participants_agree(arena, seen)
    # A writer that waits has the word, and is not inside.
    thread = threading.Thread(target=lambda: (rw.write.acquire(), rw.write.release()))
    thread.start()
    seen = until(arena, lambda seen: seen.names["books"].writer.state == "granted")
    assert seen.names["books"].writer.slot != mine.index
    for _ in range(3):
        rw.read.release()
    thread.join()
    until(arena, lambda seen: sum(slot.phase != "free" for slot in seen.slots) == 1)  # the thread has left
    rw.write.acquire()
    seen = read(arena)
    writer = seen.names["books"].writer
    assert (writer.state, writer.slot, seen.names["books"].readers) == ("held", mine.index, [])
    assert seen.slots[mine.index].held == ((books.body_place, 0),)
    participants_agree(arena, seen)
    rw.downgrade()
    seen = read(arena)
    assert (seen.names["books"].writer.state, seen.names["books"].readers) == ("free", [mine.index])
    assert seen.slots[mine.index].shares == ((books.body_place, 0, True),)
    rw.read.release()
    assert read(arena).slots[mine.index].shares == ()
    assert not any(read(arena).names["books"].body[24:])
    assert decode.problems(read(arena)) == arena.check() == []


def test_rwlock_of_the_dead(arena: polyshm.Arena) -> None:
    rw = arena.rwlock("books")
    kill(fork(rw.read.acquire))
    seen = read(arena)
    assert (seen.names["books"].writer.state, seen.names["books"].readers) == ("free", [])
    participants_agree(arena, seen)
    kill(fork(rw.write.acquire))
    assert read(arena).names["books"].writer.state == "dead"
    with pytest.raises(polyshm.OwnerDied):
        rw.read.acquire()
    assert read(arena).names["books"].writer.state == "abandoned"
    with rw.read.recover():
        seen = read(arena)
        assert (seen.names["books"].writer.state, seen.names["books"].writer.died) == ("held", True)
        (mine,) = [slot for slot in seen.slots if slot.alive]
        assert (len(mine.held), len(mine.shares)) == (1, 1)
    assert read(arena).names["books"].writer.state == "free"


def test_waiter(arena: polyshm.Arena, lua) -> None:
    lock = arena.mutex("books")
    with lock:
        child = lua.start('require("polyshm").arena(...):mutex("books"):acquire() io.read()', arena.address)
        seen = until(arena, lambda seen: any(slot.waits for slot in seen.slots))
        (waiter,) = [slot for slot in seen.slots if slot.waits]
        assert (waiter.pid, waiter.language) == (child.pid, "lua")
        assert waiter.waits == seen.names["books"].body_place
        assert seen.names["books"].mutex.waiters
        # It asks to be handed the lock by and by.
        seen = until(arena, lambda seen: seen.names["books"].mutex.wanted)
        wanted = seen.names["books"].mutex.wanted
        assert (wanted & 0x7FFF) - 1 == waiter.index
        assert wanted >> 16 == waiter.generation & 0x7FFF
    seen = until(arena, lambda seen: seen.names["books"].mutex.state == "held")
    assert seen.names["books"].mutex.slot == waiter.index
    participants_agree(arena, seen)
    child.stdin.write("\n")
    child.stdin.close()
    assert child.wait(timeout=30) == 0


def test_dead_owner(arena: polyshm.Arena) -> None:
    lock = arena.mutex("books")
    arena.counter("ready")
    pid = fork(lock.acquire)
    seen = read(arena)
    assert seen.names["books"].mutex.state == "held"
    participants_agree(arena, seen)
    kill(pid)

    # Nobody has looked yet: the beacon alone says it.
    seen = read(arena)
    books = seen.names["books"].mutex
    assert books.state == "dead"
    assert (seen.slots[books.slot].pid, seen.slots[books.slot].alive) == (pid, False)
    assert seen.slots[books.slot].phase == "taken"
    participants_agree(arena, seen)
    agrees(arena, seen)

    with pytest.raises(polyshm.OwnerDied) as caught:
        lock.acquire()
    seen = read(arena)
    told = seen.names["books"].mutex
    assert (told.state, told.pid, told.slot) == ("abandoned", pid, books.slot)
    assert (caught.value.pid, caught.value.participant) == (pid, books.slot)

    with lock.recover() as died:
        seen = read(arena)
        held = seen.names["books"].mutex
        assert held.state == "held"
        assert (held.died, held.died_pid, held.died_slot) == (True, pid, died.participant)
    seen = read(arena)
    assert (seen.names["books"].mutex.state, seen.names["books"].mutex.died) == ("free", False)
    assert decode.problems(seen) == arena.check() == []


def test_repair_that_fails(arena: polyshm.Arena) -> None:
    lock = arena.mutex("books")
    pid = fork(lock.acquire)
    kill(pid)
    with pytest.raises(ZeroDivisionError), lock.recover():
        raise ZeroDivisionError
    seen = read(arena).names["books"].mutex
    assert (seen.state, seen.pid) == ("abandoned", pid)


def test_slots_of_the_dead_are_used_again(arena: polyshm.Arena) -> None:
    locks = [arena.mutex(f"lock {i}") for i in range(8)]
    for lock in locks:
        kill(fork(lock.acquire))
    seen = read(arena)
    dead = [slot for slot in seen.slots if slot.phase != "free" and not slot.alive]
    assert dead
    participants_agree(arena, seen)
    # Somebody new takes such a slot, in which everything is marked before.
    living = [fork(arena.mutex(f"new {i}").acquire) for i in range(len(dead) + 2)]
    try:
        seen = read(arena)
        assert sum(slot.alive for slot in seen.slots) >= len(living)
        for slot in seen.slots:
            if slot.alive:
                for place, _ in slot.held:
                    assert decode.owner(seen, place).state == "held"
        assert {seen.names[lock.name].mutex.state for lock in locks} <= {"dead", "abandoned"}
        participants_agree(arena, seen)
        agrees(arena, seen)
        assert decode.problems(seen) == arena.check() == []
    finally:
        for pid in living:
            kill(pid)


def test_thread_that_ended(arena: polyshm.Arena) -> None:
    thread = threading.Thread(target=arena.counter("c").add)
    thread.start()
    thread.join()
    seen = until(arena, lambda seen: sum(slot.phase == "taken" for slot in seen.slots) == 1)
    assert seen.head["high_water"] >= 2
    thread = threading.Thread(target=arena.mutex("left held").acquire)
    thread.start()
    thread.join()
    seen = until(arena, lambda seen: seen.names["left held"].mutex.state == "dead")
    owner = seen.slots[seen.names["left held"].mutex.slot]
    assert (owner.pid, owner.alive) == (os.getpid(), False)
    participants_agree(arena, seen)


# ---- heap


def word(seen: decode.Arena, place: int) -> int:
    return seen.memory.word(place)


def test_blocks(arena: polyshm.Arena) -> None:
    """A block of each size: the root has a table of places, whose words are destinations."""
    sizes = sorted({n for size, _ in decode.CLASSES for n in (size - 1, size, size + 1)} | {1, 4096, 20000, 100_000})
    root = arena.root(0)
    arena.alloc_into(root, 8 * len(sizes))
    first = word(read(arena), root)
    for i, size in enumerate(sizes):
        arena.alloc_into(first + 8 * i, size)
    seen = read(arena)
    assert root == 688
    assert seen.head["roots"][0] == first
    for i, size in enumerate(sizes):
        place = word(seen, first + 8 * i)
        block = seen.blocks[place]
        assert block.size == arena.block_size(place) >= size
        assert place % (64 if size % 64 == 0 else 16) == 0
        assert decode.block_around(seen, place + size - 1) is block
        assert not any(seen.memory.bytes(place, block.size))
        arena.write(place, bytes([i % 255 + 1]) * size)
    seen = read(arena)
    for i, size in enumerate(sizes):
        place = word(seen, first + 8 * i)
        assert seen.memory.bytes(place, size) == arena.read(place, size) == bytes([i % 255 + 1]) * size
    agrees(arena, seen)
    # The bytes of these blocks are no places, so that nobody knows of more than the table leads to.
    assert decode.problems(seen) == arena.check() == []
    for i in range(0, len(sizes), 2):
        arena.free_from(first + 8 * i)
    seen = read(arena)
    assert [word(seen, first + 8 * i) != 0 for i in range(len(sizes))] == [i % 2 == 1 for i in range(len(sizes))]
    agrees(arena, seen)
    assert decode.problems(seen) == arena.check() == []


def test_many_blocks_come_and_go(arena: polyshm.Arena) -> None:
    chance, root = random.Random(7), arena.root(31)
    arena.alloc_into(root, 8 * 400)
    first = word(read(arena), root)
    full = [False] * 400
    for _ in range(6000):
        i = chance.randrange(400)
        if full[i]:
            arena.free_from(first + 8 * i)
            full[i] = False
        else:
            try:
                arena.alloc_into(first + 8 * i, chance.choice((16, 48, 64, 200, 1000, 3000, 9000, 40_000)))
            except OSError:
                continue
            full[i] = True
    seen = read(arena)
    assert [word(seen, first + 8 * i) != 0 for i in range(400)] == full
    assert len(seen.blocks) == 1 + sum(full)
    agrees(arena, seen)
    assert decode.problems(seen) == arena.check() == []


# ---- made by Lua


def test_made_by_lua(name: str, lua) -> None:
    child = lua.start(
        """
        local polyshm = require "polyshm"
        local arena = assert(polyshm.arena(..., { create = true, size = "512K", participants = 5, life = "keep" }))
        for i = 1, 100 do arena:counter("counter " .. i):store(-i) end
        for i = 1, 100, 2 do arena:delete("counter " .. i) end
        local lock = arena:mutex("deep", { recursive = true })
        lock:acquire() lock:acquire()
        arena:mutex("held"):acquire()
        arena:mutex("Grüße")
        arena:alloc_into(arena:root(3), 5000)
        print(arena.id, arena:root(3)) io.flush()
        io.read()
        """,
        f"posix:{name}",
    )
    id_, root = map(int, child.stdout.readline().split())
    with polyshm.Arena(f"posix:{name}") as arena:
        seen = read(arena)
        assert seen.head["id"] == id_ % (1 << 64)
        assert (seen.at.participants, seen.life) == (5, "keep")
        values = {o.name: o.value for o in seen.objects if o.noun == "counter"}
        assert values == {f"counter {i}": -i for i in range(2, 101, 2)}
        locks = {o.name: o for o in seen.objects if o.noun == "mutex"}
        assert {text: o.mutex.state for text, o in locks.items()} == {"deep": "held", "held": "held", "Grüße": "free"}
        assert (locks["deep"].recursive, locks["held"].recursive) == (True, False)
        (owner,) = [slot for slot in seen.slots if slot.alive]
        assert (owner.language, owner.pid) == ("lua", child.pid)
        assert dict(owner.held) == {locks["deep"].body_place: 1, locks["held"].body_place: 0}
        assert root == 688 + 8 * 2
        assert seen.blocks[word(seen, root)].size >= 5000
        agrees(arena, seen)
        participants_agree(arena, seen)
        child.kill()
        child.wait()
        seen = read(arena)
        assert {o.name for o in seen.objects if o.mutex and o.mutex.state == "dead"} == {"deep", "held"}
        participants_agree(arena, seen)
        assert decode.problems(seen) == arena.check() == []
        arena.unlink()


# ---- the decoder finds what is wrong


@pytest.fixture
def picture(arena: polyshm.Arena) -> bytearray:
    for i in range(40):
        arena.counter(f"counter {i}").store(i)
    arena.delete("counter 3")
    arena.mutex("lock").acquire()
    arena.alloc_into(arena.root(0), 100)
    arena.alloc_into(arena.root(1), 10_000)
    data = bytearray(Path("/dev/shm", arena.address.partition("/")[2]).read_bytes())
    arena.mutex("lock").release()
    return data


def damage(data: bytearray, place: int, value: int, form: str = "=Q") -> decode.Arena:
    struct.pack_into(form, data, place, value)
    return decode.decode(data)


def test_problems_are_found(picture: bytearray) -> None:
    seen = decode.decode(picture)
    assert decode.problems(seen) == []
    at, root = seen.at, seen.head["roots"][0]

    def found(place: int, value: int, form: str = "=Q") -> str:
        return " | ".join(decode.problems(damage(bytearray(picture), place, value, form)))

    assert "nobody knows of" in found(688, 0)
    assert "taken" in found(at.taken, seen.memory.word(at.taken) ^ 1 << 60)
    assert "partial of class 0" in found(at.partial, seen.memory.word(at.partial) ^ 1)
    assert "live is 7" in found(664, 7)
    assert "two tables" in found(632 + 8 * (1 - (seen.head["directory"]["active"] & 1)), root)
    assert "is under way" in found(168, 1, "=I")
    assert "serial" in found(seen.names["counter 5"].place, 5)
    assert "high_water" in found(96, 0, "=I")
    entry = seen.names["counter 9"].entry
    assert "deleted" in found(entry, seen.memory.word(entry) | decode.DELETED)

    # One that stands just before the place where a search for it begins.
    first, entries = decode.table(seen)
    for o in seen.objects:
        home = decode.sip_hash(seen.head["seed"], o.name.encode()) % entries
        before = first + 8 * ((home - 1) % entries)
        if o.entry == first + 8 * home and seen.memory.word(before) == 0:
            data = bytearray(picture)
            struct.pack_into("=Q", data, before, seen.memory.word(o.entry))
            struct.pack_into("=Q", data, o.entry, decode.GONE)
            assert "does not find it" in " | ".join(decode.problems(decode.decode(data)))
            break
    else:
        pytest.fail("no object stands where its search begins, behind an entry that is 0")


@pytest.mark.parametrize(
    ("place", "value", "form"),
    [
        (8, 2, "=I"),
        (16, 0, "=Q"),
        (16, 1 << 63, "=Q"),
        (16, 1 << 63 | 32767, "=Q"),
        (24, 1 << 40, "=Q"),
        (24, 4096, "=Q"),
        (32, 0, "=Q"),
        (648, 1 << 60, "=Q"),
        (632, 12345, "=Q"),
    ],
)
def test_damage_is_refused(picture: bytearray, place: int, value: int, form: str) -> None:
    active = decode.decode(picture).head["directory"]["active"] & 1
    place += 8 * active if place in (632, 648) else 0
    with pytest.raises((decode.Damaged, decode.NotAnArena)):
        damage(picture, place, value, form)


@pytest.mark.parametrize("seed", range(8))
def test_any_bytes_are_an_answer_or_damaged(picture: bytearray, seed: int) -> None:
    chance, clean = random.Random(seed), bytes(picture)
    at = decode.decode(clean).at
    interesting = [
        (0, 960),
        (at.slots, at.slots + 384 * 2),
        (at.pages, at.pages + 64 * 12),
        (at.heap, at.heap + 4096 * 4),
    ]
    for _ in range(60):
        data = bytearray(clean)
        for _ in range(chance.choice((1, 1, 2, 30))):
            place = chance.randrange(*chance.choice(interesting))
            data[place] = chance.choice((0, 0xFF, 0x80, data[place] ^ 1 << chance.randrange(8)))
        try:
            seen = decode.decode(data)
            list(decode.show(seen))
        except (decode.Damaged, decode.NotAnArena):
            pass
