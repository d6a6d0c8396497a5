#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Reads arenas by docs/layout.rst alone: nothing of polyshm is imported here, and nothing of its sources was read.

    decode.py FILE ...          shows what is in it: /dev/shm/NAME, a file, or what somebody saved

For a picture that is true the arena has to be at rest, or copied in one piece. What cannot be is Damaged, never another
exception; `problems` lists what contradicts itself in an arena that is at rest, and blocks that nobody knows of.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

PAGE = 4096
MAGIC = b"polyshm\x1a"
FORMAT = 1
HEADER = 4096
CLASSES = (
    *((16, 1), (32, 1), (48, 1), (64, 1), (80, 1), (96, 1), (112, 1), (128, 1)),
    *((160, 1), (192, 1), (224, 1), (256, 1), (320, 1), (384, 1), (448, 1), (512, 1)),
    *((576, 1), (640, 1), (768, 1), (896, 2), (1024, 1), (1344, 1), (1664, 2), (2048, 1)),
    *((2560, 5), (3072, 3), (3584, 7), (5120, 5), (6144, 3), (7168, 7), (10240, 5), (14336, 7)),
)
LIVES = {0: "keep", 1: "last-detach"}
PHASES = {0: "free", 1: "taken", 2: "dead"}
LANGUAGES = {0: "c", 1: "python", 2: "lua"}
PAGE_STATES = {0: "free", 1: "span", 2: "run", 3: "tail"}
OPERATIONS = {0: "none", 1: "allocate", 2: "free"}
KINDS = {
    1: "mutex",
    2: "counter",
    3: "rwlock",
    4: "semaphore",
    5: "permits",
    6: "condition",
    7: "event",
    8: "barrier",
    9: "once",
    10: "latch",
}
ABANDONED = 0x7FFF
PLACE = (1 << 48) - 1
GONE = 1
DELETED = 1 << 63
SERIAL_STEP = 0x9E3779B97F4A7C15
TABLE_MIN = 64


class NotAnArena(Exception):
    """The magic or the format is another one."""


class Damaged(Exception):
    """Bytes that an arena cannot have."""


# ---- the structures: field, offset, format of struct; a nested one is named


class Layout:
    def __init__(self, size: int, text: str) -> None:
        rows = [row.split() for row in text.split(",")]
        self.size = size
        self.fields = [(name, int(offset), globals().get(form, form)) for name, offset, form in rows]

    def read(self, memory: Memory, place: int) -> dict:
        memory.inside(place, self.size)
        found = {}
        for name, offset, form in self.fields:
            if isinstance(form, Layout):
                found[name] = form.read(memory, place + offset)
            else:
                values = memory.unpack(form, place + offset)
                found[name] = values[0] if len(values) == 1 else values
        return found


OWNER = Layout(16, "word 0 Q, died 8 Q")
BIASED = Layout(32, "owner 0 OWNER, last 16 I, count 20 I, enough 24 I, times 28 I")
INTENT = Layout(48, "operation 0 I, class 4 I, page 8 Q, count 16 Q, block 24 Q, target 32 Q, value 40 Q")
HEAP_HEAD = Layout(
    480,
    "lock 0 BIASED, sequence 32 Q, intent 40 INTENT, free_hint 88 Q, partial_hint 96 32I, current 224 32I, "
    "spare 352 32I",
)
DIRECTORY_HEAD = Layout(80, "lock 0 OWNER, active 16 Q, table 24 2Q, entries 40 2Q, live 56 Q, gone 64 Q, deleted 72 Q")
HEAD = Layout(
    944,
    "magic 0 8s, format 8 I, abi 12 I, setup 16 Q, size 24 Q, id 32 Q, seed 40 2Q, boot 56 2Q, device 72 Q,"
    "inode 80 Q, serial 88 Q, high_water 96 I, unused 100 I, ending 104 OWNER, unused_too 120 Q, heap 128 HEAP_HEAD,"
    "directory 608 DIRECTORY_HEAD, roots 688 32Q",
)
SLOT = Layout(
    384,
    "stamp 0 I, flags 4 I, pid 8 I, thread 12 I, start 16 Q, pid_space 24 Q, language 32 I, reserved 36 I,"
    "waits 40 Q, busy 48 Q, unused 56 9Q, held 128 32Q",
)
PAGE_ENTRY = Layout(64, "state 0 I, class 4 I, count 8 Q, used 16 4Q, unused 48 2Q")
NODE = Layout(
    48,
    "serial 0 Q, hash 8 Q, kind 16 I, name_size 20 I, body 24 I, flags 28 I, body_size 32 Q, unused 40 Q, name 48 0s",
)
MUTEX = Layout(64, "owner 0 OWNER, task 16 Q, repairs 24 I, unused 28 9I")
COUNTER = Layout(64, "sleepers 0 I, reserved 4 I, value 8 q, unused 16 6Q")
SEMAPHORE = Layout(64, "sleepers 0 I, value 4 I, initial 8 I, unused 12 13I")
CONDITION = Layout(64, "sequence 0 I, sleepers 4 I, mutex 8 Q, serial 16 Q, unused 24 5Q")
EVENT = Layout(64, "sleepers 0 I, state 4 I, unused 8 14I")
LATCH = Layout(64, "sleepers 0 I, count 4 I, initial 8 I, unused 12 13I")
PERMITS = Layout(64, "sleepers 0 I,changes 4 I,guard 8 OWNER,total 24 I,free 28 I,mark 32 2Q,unused 48 2Q")
BARRIER = Layout(64, "word 0 I,passed 4 I,guard 8 OWNER,parties 24 I,unused 28 9I")
ONCE = Layout(64, "owner 0 OWNER,done 16 I,sleepers 20 I,unused 24 5Q")
SLEEPS = 3  # bits of `sleepers`


class Memory:
    """The bytes, with every access inside of them."""

    def __init__(self, data) -> None:
        self.data = memoryview(data).cast("B")
        self.order = "<" if sys.byteorder == "little" else ">"

    def inside(self, place: int, size: int) -> None:
        if place < 0 or size < 0 or place + size > len(self.data):
            raise Damaged(f"{size} bytes at {place} are not all inside of {len(self.data)}")

    def unpack(self, form: str, place: int) -> tuple:
        self.inside(place, struct.calcsize(self.order + form))
        return struct.unpack_from(self.order + form, self.data, place)

    def word(self, place: int) -> int:
        return self.unpack("Q", place)[0]

    def bytes(self, place: int, size: int) -> bytes:
        self.inside(place, size)
        return bytes(self.data[place : place + size])

    def bitmap(self, place: int, words: int) -> int:
        """As one number: bit i is bit i % 64 of word i / 64."""
        return int.from_bytes(struct.pack(f"<{words}Q", *self.unpack(f"{words}Q", place)), "little")


# ---- where everything is


@dataclass(frozen=True)
class Geometry:
    size: int
    participants: int
    slots: int
    pages: int
    taken: int
    partial: int
    words: int
    heap: int
    heap_pages: int
    beacons: int = HEADER

    def page_place(self, index: int) -> int:
        return self.heap + PAGE * index


def round_up(x: int, a: int) -> int:
    return (x + a - 1) // a * a


def geometry(size: int, participants: int) -> Geometry:
    slots = round_up(HEADER + 64 * participants, PAGE)
    pages = round_up(slots + 384 * participants, PAGE)

    def words(n: int) -> int:
        return (n + 63) // 64

    def fits(n: int) -> bool:
        return round_up(pages + 64 * n + 8 * 33 * words(n), PAGE) + PAGE * n <= size

    low, high = 0, size // PAGE
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    if low == 0:
        raise Damaged(f"{size} bytes are too small for an arena of {participants} participants")
    taken = pages + 64 * low
    partial = taken + 8 * words(low)
    heap = round_up(partial + 8 * words(low) * len(CLASSES), PAGE)
    return Geometry(size, participants, slots, pages, taken, partial, words(low), heap, low)


def sip_hash(key: tuple[int, int], data: bytes) -> int:
    """SipHash-1-3."""
    mask = (1 << 64) - 1

    def rotate(x: int, by: int) -> int:
        return (x << by | x >> 64 - by) & mask

    v = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]
    v = [word ^ key[i % 2] for i, word in enumerate(v)]

    def turn() -> None:
        v[0] = v[0] + v[1] & mask
        v[1] = rotate(v[1], 13) ^ v[0]
        v[0] = rotate(v[0], 32)
        v[2] = v[2] + v[3] & mask
        v[3] = rotate(v[3], 16) ^ v[2]
        v[0] = v[0] + v[3] & mask
        v[3] = rotate(v[3], 21) ^ v[0]
        v[2] = v[2] + v[1] & mask
        v[1] = rotate(v[1], 17) ^ v[2]
        v[2] = rotate(v[2], 32)

    whole = len(data) // 8 * 8
    words = list(struct.unpack(f"<{whole // 8}Q", data[:whole]))
    words.append(int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56)
    for word in words:
        v[3] ^= word
        turn()
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(3):
        turn()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


# ---- what is found


@dataclass(frozen=True)
class Slot:
    index: int
    phase: str
    generation: int
    pid: int
    thread: int
    start: int
    pid_space: int
    language: str
    recorded: bool  # a byte of the file is locked for it
    fenced: bool  # its process takes part in fences
    waits: int
    busy: int
    held: tuple[tuple[int, int], ...]  # place of the owner word, how often beyond the first time
    shares: tuple[tuple[int, int, bool], ...]  # place of the body, how often beyond the first time, was one writing?
    beacon: int  # thread id of who has it alive, or 0

    @property
    def alive(self) -> bool:
        return self.phase == "taken" and self.beacon != 0


@dataclass(frozen=True)
class Owner:
    state: str  # free, held, granted, biased, revoked, dead, abandoned
    slot: int | None  # of who has it, or of the dead
    pid: int | None  # of the dead, where the word is abandoned
    generation: int
    waiters: bool
    wanted: int  # owner id of who asked for it
    died: bool  # taken over from a death that is not made good yet
    died_pid: int
    died_slot: int | None


@dataclass(frozen=True)
class Block:
    place: int
    size: int
    kind: str  # span, run


@dataclass(frozen=True)
class Object:
    name: str
    kind: int
    noun: str | None
    serial: int
    flags: int
    place: int  # of the head
    body_place: int
    body: bytes
    deleted: bool
    entry: int  # place of its entry
    mutex: Owner | None = None
    writer: Owner | None = None  # of a read-write lock
    readers: list[int] = field(default_factory=list)  # slots of those who read it
    value: int | None = None  # of a counter or semaphore; count of a latch
    initial: int | None = None  # of a semaphore or latch
    sleepers: int | None = None  # the bits alone
    is_set: bool | None = None  # of an event, and
    times: int | None = None  # how often it was
    repairs: int | None = None  # of a mutex
    sequence: int | None = None  # of a condition
    of: int | None = None  # place of its mutex, and
    of_serial: int | None = None
    total: int | None = None  # of permits, and
    free: int | None = None
    parties: int | None = None  # of a barrier, and
    phase: int | None = None
    broken: bool | None = None
    passed: int | None = None
    members: list[tuple[int, int, bool]] = field(default_factory=list)  # slot, generation, arrived in this phase
    done: bool | None = None  # of a once
    owner: Owner | None = None  # of a once; of permits and barriers the guard

    @property
    def shrinks(self) -> bool:
        return bool(self.flags & 1)

    @property
    def recursive(self) -> bool:
        return bool(self.flags & 1)

    @property
    def auto(self) -> bool:
        return bool(self.flags & 1)


@dataclass
class Arena:
    memory: Memory
    head: dict
    at: Geometry
    life: str
    slots: list[Slot] = field(default_factory=list)
    blocks: dict[int, Block] = field(default_factory=dict)
    objects: list[Object] = field(default_factory=list)

    @property
    def names(self) -> dict[str, Object]:
        return {o.name: o for o in self.objects if not o.deleted}

    @property
    def heap_lock(self) -> Owner:
        return owner(self, HEADER_HEAP)

    @property
    def directory_lock(self) -> Owner:
        return owner(self, HEADER_DIRECTORY)

    @property
    def used(self) -> int:
        return sum(block.size for block in self.blocks.values())

    def find(self, name: str) -> Object | None:
        """By the hash, as a program would look for it."""
        at = entry_of(self, name.encode())
        return next((o for o in self.objects if o.entry == at), None)


HEADER_HEAP = 128
HEADER_DIRECTORY = 608


def state_of(data) -> str:
    """One of "zero", "half", "arena", "other"."""
    memory = Memory(data)
    if len(memory.data) < HEADER:
        return "other"
    if memory.bytes(0, 8) in (MAGIC, MAGIC[::-1]):
        return "arena"
    if memory.word(0):
        return "other"
    if not any(memory.bytes(0, HEADER)):
        return "zero"
    return "half" if memory.word(16) >> 63 and not any(memory.bytes(88, HEADER - 88)) else "other"


def decode(data) -> Arena:
    memory = Memory(data)
    if state_of(data) != "arena":
        raise NotAnArena(f"this is {state_of(data)}")
    if memory.bytes(0, 8) != (MAGIC if memory.order == "<" else MAGIC[::-1]):
        memory.order = ">" if memory.order == "<" else "<"
    head = HEAD.read(memory, 0)
    if head["format"] != FORMAT:
        raise NotAnArena(f"format {head['format']}")
    if head["size"] > len(memory.data):
        raise Damaged(f"size {head['size']}, and there are {len(memory.data)} bytes")
    setup = head["setup"]
    participants, life = setup & 0x7FFF, setup >> 16 & 3
    if not setup >> 63 or not 1 <= participants <= 32766 or life not in LIVES or setup & ~(1 << 63 | 3 << 16 | 0x7FFF):
        raise Damaged(f"setup {setup:#x}")
    if not head["id"] or not head["abi"]:
        raise Damaged("no id, or no abi")
    arena = Arena(memory, head, geometry(head["size"], participants), LIVES[life])
    arena.slots = [slot(arena, index) for index in range(participants)]
    arena.blocks = {block.place: block for block in blocks(arena)}
    arena.objects = list(objects(arena))
    return arena


def slot(arena: Arena, index: int) -> Slot:
    raw = SLOT.read(arena.memory, arena.at.slots + 384 * index)
    beacon = arena.memory.unpack("I", arena.at.beacons + 64 * index)[0]
    phase, language = raw["stamp"] & 3, raw["language"]
    if phase not in PHASES:
        raise Damaged(f"slot {index}: phase {phase}")
    if phase and language not in LANGUAGES:
        raise Damaged(f"slot {index}: language {language}")
    return Slot(
        index=index,
        phase=PHASES[phase],
        generation=raw["stamp"] >> 2,
        pid=raw["pid"],
        thread=raw["thread"],
        start=raw["start"],
        pid_space=raw["pid_space"],
        language=LANGUAGES.get(language, "?"),
        recorded=bool(raw["flags"] & 1),
        fenced=bool(raw["flags"] & 2),
        waits=raw["waits"],
        busy=raw["busy"],
        held=tuple((word & PLACE, word >> 48) for word in raw["held"] if word & PLACE and not word & 1),
        shares=tuple((word & PLACE & ~1, word >> 48 & 0x7FFF, bool(word >> 63)) for word in raw["held"] if word & 1),
        beacon=0 if beacon & 1 << 30 else beacon & 0x3FFFFFFF,
    )


def owner(arena: Arena, place: int) -> Owner:
    raw = OWNER.read(arena.memory, place)
    low, high = raw["word"] & 0xFFFFFFFF, raw["word"] >> 32
    slot_field, generation = low & 0x7FFF, low >> 16 & 0x7FFF
    state, index, pid = "free", None, None
    if slot_field == ABANDONED:
        state, pid, index = "abandoned", high or None, generation - 1 if generation else None
    elif slot_field:
        index = slot_field - 1
        its = arena.slots[index] if index < len(arena.slots) else None
        lives = its is not None and its.alive and its.generation & 0x7FFF == generation
        granted = "biased" if high >> 31 else "revoked" if high >> 15 & 1 else "granted"
        state = "dead" if not lives else granted if low & 1 << 15 else "held"
    died = raw["died"]
    died_slot = died >> 33 & 0x7FFF
    return Owner(
        state=state,
        slot=index,
        pid=pid,
        generation=generation,
        waiters=bool(low >> 31),
        wanted=0 if state == "abandoned" or high & 0x80008000 else high & 0x7FFF7FFF,
        died=bool(died >> 32 & 1),
        died_pid=died & 0xFFFFFFFF,
        died_slot=died_slot - 1 if died_slot else None,
    )


def page(arena: Arena, index: int) -> dict:
    return PAGE_ENTRY.read(arena.memory, arena.at.pages + 64 * index)


def span_blocks(class_: int) -> int:
    size, pages = CLASSES[class_]
    return pages * PAGE // size


def spans(arena: Arena) -> Iterator[tuple[int, dict]]:
    """Each page that begins a span or a run, or is free, with its entry."""
    index = 0
    while index < arena.at.heap_pages:
        entry = page(arena, index)
        state = PAGE_STATES.get(entry["state"])
        count = 1
        if state in ("span", "run"):
            count = entry["count"]
            if not 1 <= count <= arena.at.heap_pages - index:
                raise Damaged(f"page {index}: {count} pages")
            if state == "span" and (entry["class"] >= len(CLASSES) or CLASSES[entry["class"]][1] != count):
                raise Damaged(f"page {index}: class {entry['class']} with {count} pages")
            for before in range(1, count):
                tail = page(arena, index + before)
                if PAGE_STATES.get(tail["state"]) != "tail" or tail["count"] != before:
                    raise Damaged(f"page {index + before}: not a tail of page {index}")
        elif state != "free":
            raise Damaged(f"page {index}: state {entry['state']} where something begins")
        yield index, entry
        index += count


def blocks(arena: Arena) -> Iterator[Block]:
    for index, entry in spans(arena):
        first = arena.at.page_place(index)
        if PAGE_STATES[entry["state"]] == "run":
            yield Block(first, entry["count"] * PAGE, "run")
        elif PAGE_STATES[entry["state"]] == "span":
            size = CLASSES[entry["class"]][0]
            used = sum(word << 64 * i for i, word in enumerate(entry["used"]))
            if used >> span_blocks(entry["class"]):
                raise Damaged(f"page {index}: blocks in use behind the end of its span")
            for b in range(span_blocks(entry["class"])):
                if used >> b & 1:
                    yield Block(first + b * size, size, "span")


def block_around(arena: Arena, place: int) -> Block | None:
    """The block in use that has this place in it."""
    index = (place - arena.at.heap) // PAGE
    if not 0 <= index < arena.at.heap_pages:
        return None
    entry = page(arena, index)
    if PAGE_STATES.get(entry["state"]) == "tail":
        index -= entry["count"]
        entry = page(arena, index)
    first = arena.at.page_place(index)
    if PAGE_STATES.get(entry["state"]) == "run":
        return arena.blocks.get(first)
    if PAGE_STATES.get(entry["state"]) == "span":
        size = CLASSES[entry["class"]][0]
        return arena.blocks.get(first + (place - first) // size * size)
    return None


def table(arena: Arena, which: int | None = None) -> tuple[int, int]:
    """Place and entries of a table of the directory, the active one unless said; 0 and 0 if there is none."""
    head = arena.head["directory"]
    index = head["active"] & 1 if which is None else which
    place, entries = head["table"][index], head["entries"][index]
    if not place:
        return 0, 0
    block = arena.blocks.get(place)
    if block is None or entries < TABLE_MIN or entries & entries - 1 or 8 * entries > block.size:
        raise Damaged(f"directory: no table of {entries} entries at {place}")
    return place, entries


def objects(arena: Arena) -> Iterator[Object]:
    memory = arena.memory
    first, entries = table(arena)
    for at in range(first, first + 8 * entries, 8):
        entry = memory.word(at)
        if entry in (0, GONE):
            continue
        place = entry & PLACE
        block = arena.blocks.get(place)
        if block is None:
            raise Damaged(f"entry at {at}: no block in use at {place}")
        node = NODE.read(memory, place)
        size, body = node["name_size"], node["body"]
        if not 1 <= size <= 255 or body % 64 or body < 48 + size or body + node["body_size"] > block.size:
            raise Damaged(f"object at {place}: name of {size} bytes, body of {node['body_size']} at {body}")
        name = memory.bytes(place + 48, size)
        if node["hash"] != sip_hash(arena.head["seed"], name) or (node["hash"] ^ entry) >> 48 & 0x7FFF:
            raise Damaged(f"object at {place}: the hash is not that of the name")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise Damaged(f"object at {place}: the name is not UTF-8") from None
        more: dict = {}
        if KINDS.get(node["kind"]) == "mutex":
            more = {"mutex": owner(arena, place + body), "repairs": MUTEX.read(memory, place + body)["repairs"]}
        elif KINDS.get(node["kind"]) == "rwlock":
            at_body = place + body
            readers = [s.index for s in arena.slots if s.alive and at_body in [share for share, *_ in s.shares]]
            more = {"writer": owner(arena, at_body), "readers": readers}
        elif KINDS.get(node["kind"]) == "counter":
            found = COUNTER.read(memory, place + body)
            more = {"value": found["value"], "sleepers": found["sleepers"] & SLEEPS}
        elif KINDS.get(node["kind"]) == "semaphore":
            found = SEMAPHORE.read(memory, place + body)
            more = {"value": found["value"], "initial": found["initial"], "sleepers": found["sleepers"] & SLEEPS}
        elif KINDS.get(node["kind"]) == "event":
            found = EVENT.read(memory, place + body)
            more = {"is_set": bool(found["state"] & 1), "times": found["state"] >> 1}
            more |= {"sleepers": found["sleepers"] & SLEEPS}
        elif KINDS.get(node["kind"]) == "latch":
            found = LATCH.read(memory, place + body)
            more = {"value": found["count"], "initial": found["initial"], "sleepers": found["sleepers"] & SLEEPS}
        elif KINDS.get(node["kind"]) == "condition":
            found = CONDITION.read(memory, place + body)
            more = {"sequence": found["sequence"], "sleepers": found["sleepers"] & SLEEPS}
            more |= {"of": found["mutex"], "of_serial": found["serial"]}
        elif KINDS.get(node["kind"]) == "permits":
            found = PERMITS.read(memory, place + body)
            more = {"total": found["total"], "free": found["free"], "sleepers": found["sleepers"] & SLEEPS}
        elif KINDS.get(node["kind"]) == "once":
            found = ONCE.read(memory, place + body)
            more = {"done": bool(found["done"]), "sleepers": found["sleepers"] & SLEEPS}
        elif KINDS.get(node["kind"]) == "barrier":
            found = BARRIER.read(memory, place + body)
            phase = found["word"] >> 1
            more = {"parties": found["parties"], "phase": phase}
            more |= {"broken": bool(found["word"] & 1), "passed": found["passed"]}
            more["members"] = [
                ((word & 0x7FFF) - 1, word >> 15 & 0x3FFFFFFF, word >> 45 == 1 << 18 | phase & 0x3FFFF)
                for word in memory.unpack(f"{found['parties']}Q", place + body + 64)
                if word & 0x7FFF
            ]
        yield Object(
            name=text,
            kind=node["kind"],
            noun=KINDS.get(node["kind"]),
            serial=node["serial"],
            flags=node["flags"],
            place=place,
            body_place=place + body,
            body=memory.bytes(place + body, node["body_size"]),
            deleted=bool(entry & DELETED),
            entry=at,
            **more,
        )


def entry_of(arena: Arena, name: bytes) -> int | None:
    """The place of the entry of a name, found as a reader finds it."""
    first, entries = table(arena)
    if not entries:
        return None
    hashed = sip_hash(arena.head["seed"], name)
    for step in range(entries):
        at = first + 8 * ((hashed + step) % entries)
        entry = arena.memory.word(at)
        if entry == 0:
            return None
        if entry == GONE or entry & DELETED or (entry ^ hashed) >> 48 & 0x7FFF:
            continue
        place = entry & PLACE
        size = arena.memory.unpack("I", place + 20)[0]
        if size == len(name) and arena.memory.bytes(place + 48, size) == name:
            return at
    return None


# ---- an arena at rest


def problems(arena: Arena) -> list[str]:
    """What contradicts itself, and blocks that no destination holds."""
    found = []
    memory, at, head = arena.memory, arena.at, arena.head

    taken = memory.bitmap(at.taken, at.words)
    partial = [memory.bitmap(at.partial + 8 * at.words * c, at.words) for c in range(len(CLASSES))]
    seen_taken, seen_partial = 0, [0] * len(CLASSES)
    for index, entry in spans(arena):
        state = PAGE_STATES[entry["state"]]
        if state != "free":
            seen_taken |= (1 << entry["count"]) - 1 << index
        if state == "span":
            used = sum(word.bit_count() for word in entry["used"])
            if used < span_blocks(entry["class"]):
                seen_partial[entry["class"]] |= 1 << index
    if taken != seen_taken:
        found.append(f"taken: {taken ^ seen_taken:#x} differs from the table of pages")
    for c, (bits, seen) in enumerate(zip(partial, seen_partial, strict=True)):
        if bits != seen:
            found.append(f"partial of class {c}: {bits ^ seen:#x} differs from the table of pages")

    heap = head["heap"]
    if heap["intent"]["operation"] or heap["sequence"] & 1:
        found.append(f"heap: {OPERATIONS.get(heap['intent']['operation'], '?')} is under way")
    hint = heap["free_hint"]
    if hint > at.heap_pages or ~seen_taken & (1 << hint) - 1:
        found.append(f"free_hint {hint}: a page below it is free")
    for c, seen in enumerate(seen_partial):
        below, current, spare = heap["partial_hint"][c], heap["current"][c], heap["spare"][c]
        if below > at.words or seen & (1 << 64 * below) - 1:
            found.append(f"partial_hint {below} of class {c}: a span with room is below it")
        if current > at.heap_pages:
            found.append(f"current {current} of class {c}: no such page")
        if spare and (not seen >> spare - 1 & 1 or any(page(arena, spare - 1)["used"])):
            found.append(f"spare {spare} of class {c}: no empty span")

    directory = head["directory"]
    first, entries = table(arena)
    words = memory.unpack(f"{entries}Q", first) if entries else ()
    for name, count in (
        ("live", sum(1 for word in words if word not in (0, GONE) and not word & DELETED)),
        ("gone", words.count(GONE)),
        ("deleted", sum(1 for word in words if word & DELETED)),
    ):
        if directory[name] != count:
            found.append(f"directory: {name} is {directory[name]}, and there are {count}")
    if directory["table"][1 - (directory["active"] & 1)]:
        found.append("directory: two tables")
    if len({o.name for o in arena.objects if not o.deleted}) != sum(not o.deleted for o in arena.objects):
        found.append("directory: a name is there twice")
    for o in arena.objects:
        if o.deleted != (o.serial == 0):
            found.append(f"object at {o.place}: serial {o.serial}, deleted: {o.deleted}")
        if o.serial and not 1 <= number_of(arena, o.serial) <= head["serial"]:
            found.append(f"object at {o.place}: serial {o.serial:#x} was never given")
        if not o.deleted and entry_of(arena, o.name.encode()) != o.entry:
            found.append(f"object at {o.place}: a search for {o.name!r} does not find it")

    for s in arena.slots:
        if s.phase != "free" and s.index >= head["high_water"]:
            found.append(f"slot {s.index}: above high_water {head['high_water']}")

    known = destinations(arena)
    for block in arena.blocks.values():
        count = known.get(block.place, 0)
        if count == 0:
            found.append(f"block at {block.place}: nobody knows of its {block.size} bytes")
    return found


def destinations(arena: Arena) -> dict[int, int]:
    """How many destinations hold each place: roots, tables, entries, and words of blocks that are neither."""
    count: dict[int, int] = {}

    def add(place: int) -> None:
        if place in arena.blocks:
            count[place] = count.get(place, 0) + 1

    for place in (*arena.head["roots"], *arena.head["directory"]["table"]):
        add(place)
    for o in arena.objects:
        add(o.place)
    own = {o.place for o in arena.objects} | set(arena.head["directory"]["table"])
    for block in arena.blocks.values():
        if block.place not in own:
            for word in arena.memory.unpack(f"{block.size // 8}Q", block.place):
                add(word)
    return count


def number_of(arena: Arena, serial: int) -> int:
    """As which one an object with this serial was made."""
    return (serial ^ arena.head["id"]) * pow(SERIAL_STEP, -1, 1 << 64) % (1 << 64)


# ---- for people


def show(arena: Arena) -> Iterator[str]:
    at, head = arena.at, arena.head
    yield f"arena {head['id']:016x}, {at.size} bytes, {at.participants} participants, life {arena.life}"
    yield f"heap: {at.heap_pages} pages at {at.heap}, {arena.used} bytes in {len(arena.blocks)} blocks"
    for s in arena.slots:
        if s.phase != "free":
            who = f"{s.language}, process {s.pid}, thread {s.thread}, {'alive' if s.alive else 'dead'}"
            yield f"slot {s.index}.{s.generation}: {who}, holds {s.held}"
    for o in sorted(arena.objects, key=lambda o: o.name):
        word = o.mutex or o.writer
        what = f"value {o.value}" if word is None else f"{word.state}"
        what = what if o.is_set is None else "set" if o.is_set else "clear"
        what += f", read by {o.readers}" if o.readers else ""
        yield f"{o.noun or o.kind} {o.name!r} at {o.place}: {what}{', deleted' if o.deleted else ''}"
    yield from (f"problem: {text}" for text in problems(arena))


def main(paths: list[str]) -> int:
    if not paths:
        print(__doc__, file=sys.stderr)
        return 2
    for path in paths:
        with open(path, "rb") as file:
            data = file.read()
        try:
            print(f"{os.fspath(path)}:", *show(decode(data)), sep="\n  ")
        except (NotAnArena, Damaged) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
