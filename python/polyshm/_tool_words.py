# SPDX-License-Identifier: MIT
"""What `python -m polyshm` reads in the bytes of an arena itself, by docs/layout.rst: its head, and who has a lock.

No lock, no slot, no store: also where everybody who takes part is stopped. Every place is checked by the segment; what
changes meanwhile is what it is, and what cannot be is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypedDict

import polyshm

MAGIC = b"polyshm\x1a"
HEAD_SIZE = 4096

_HEAD = struct.Struct("=8sIIQQQ16x16sQQ")
_DIRECTORY = struct.Struct("=QQQQQ")
_DIRECTORY_AT = 608 + 16  # from `active` on
_NODE = struct.Struct("=QQIIIIQQ")
_OWNER = struct.Struct("=QQ")
_PLACE = (1 << 48) - 1
_DELETED = 1 << 63
# The nouns whose body begins with an owner word.
_OWNED = {1: "mutex", 3: "rwlock", 9: "once"}

_ID = 0x7FFF
_GRANTED = 1 << 15
_GENERATION_SHIFT = 16
_WAITERS = 1 << 31
_DIED = 1 << 32
_DIED_SLOT_SHIFT = 33


class Header(TypedDict):
    format: int
    abi: str
    id: str
    boot: str
    device: int
    inode: int


@dataclass(frozen=True)
class Head:
    magic: bytes
    format: int
    abi: int
    size: int
    id: int
    boot: bytes
    device: int
    inode: int

    @classmethod
    def of(cls, data: bytes) -> Head | None:
        if len(data) < _HEAD.size:
            return None
        magic, format_, abi, _setup, size, id_, boot, device, inode = _HEAD.unpack_from(data)
        return cls(magic, format_, abi, size, id_, boot, device, inode)

    def shown(self) -> Header:
        first, second = struct.unpack("=QQ", self.boot)
        digits = f"{first:016x}{second:016x}"
        boot = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        return {
            "format": self.format,
            "abi": f"{self.abi:#x}",
            "id": f"{self.id:#018x}",
            "boot": boot,
            "device": self.device,
            "inode": self.inode,
        }


def is_arena(data: bytes) -> bool:
    """Do these bytes begin an arena, be it one that this machine cannot open?"""
    return data[:8] in (MAGIC, MAGIC[::-1])


# ---- owner words


class Owner(TypedDict):
    """Who has a lock. `pid` is of the holder, `died` of the dead whose death is still to be told or made good, and
    `participant` the slot of the one that `state` speaks of; None where nobody knows."""

    state: Literal["free", "held", "abandoned", "recovering"]
    pid: int | None
    participant: int | None
    died: int | None
    waiters: bool


def owner_of(word: int, died: int, living: dict[int, polyshm.Participant]) -> Owner:
    """`living`: the participants by slot."""
    slot = word & _ID
    waiters = bool(word & _WAITERS)
    if slot == 0:
        return {"state": "free", "pid": None, "participant": None, "died": None, "waiters": waiters}
    high = word >> _GENERATION_SHIFT & _ID
    if slot == _ID:
        return {
            "state": "abandoned",
            "pid": None,
            "participant": high - 1 if high else None,
            "died": word >> 32 or None,
            "waiters": waiters,
        }
    who = living.get(slot - 1)
    if who is not None and who.generation & _ID != high:
        who = None
    if word & _GRANTED and died == 0 and (who is None or not who.alive):
        # It was handed over, and the new one died before it had it.
        return {"state": "free", "pid": None, "participant": None, "died": None, "waiters": waiters}
    if who is None or not who.alive:
        # Nobody has met it since. A mark from before names the one who left the data torn.
        pid = (died & 0xFFFFFFFF) if died else (who.pid if who is not None else 0)
        return {
            "state": "abandoned",
            "pid": None,
            "participant": (died >> _DIED_SLOT_SHIFT & _ID) - 1 if died >> _DIED_SLOT_SHIFT & _ID else slot - 1,
            "died": pid or None,
            "waiters": waiters,
        }
    return {
        "state": "recovering" if died & _DIED else "held",
        "pid": who.pid,
        "participant": slot - 1,
        "died": (died & 0xFFFFFFFF) or None if died & _DIED else None,
        "waiters": waiters,
    }


def _entries(segment: polyshm.Segment) -> Iterator[int]:
    active, *rest = _DIRECTORY.unpack(segment.read(_DIRECTORY_AT, _DIRECTORY.size))
    place, count = rest[active & 1], rest[2 + (active & 1)]
    if place == 0 or count > segment.size // 8:
        return
    table = memoryview(segment.read(place, count * 8)).cast("Q")
    for entry in table:
        if entry > 1 and not entry & _DELETED:
            yield entry & _PLACE


@dataclass(frozen=True)
class Words:
    kind: str
    word: int
    died: int
    flags: int

    @property
    def granted(self) -> bool:
        """The owner has yet to wake up; a writer waits for readers."""
        return bool(self.word & _GRANTED)


def owner_words(segment: polyshm.Segment) -> dict[str, Words]:
    """The owner words of all objects that have one, by name."""
    found: dict[str, Words] = {}
    try:
        for place in _entries(segment):
            try:
                serial, _, kind, name_size, body, flags, _, _ = _NODE.unpack(segment.read(place, _NODE.size))
                if serial == 0 or kind not in _OWNED or not 1 <= name_size <= 255:
                    continue
                name = segment.read(place + _NODE.size, name_size).decode()
                word, died = _OWNER.unpack(segment.read(place + body, _OWNER.size))
            except (ValueError, IndexError):
                continue
            found[name] = Words(_OWNED[kind], word, died, flags)
    except (ValueError, IndexError):
        pass
    return found
