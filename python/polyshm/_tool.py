# SPDX-License-Identifier: MIT
"""The verbs of `python -m polyshm`, without how they are shown. Arenas are opened with access "r" and nothing else: no
slot, no lock, no store. What is found is plain data, as --json prints it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import TypedDict

import polyshm
from polyshm._tool_words import HEAD_SIZE, MAGIC, Head, Header, Owner, is_arena, owner_of, owner_words

SHM = "/dev/shm"
ARENA, RAW, DAMAGED, FOREIGN, UNREADABLE = "arena", "raw segment", "damaged arena", "incompatible", "unreadable"

# What opening, or looking, may end with through no fault of the caller's.
Refused = (OSError, polyshm.Error)


class Entry(TypedDict):
    address: str
    kind: str
    size: int | None
    what: str
    objects: int | None
    alive: int | None
    life: str | None
    uid: int | None
    gid: int | None
    mode: str | None
    error: str | None


class Name(TypedDict):
    name: str
    kind: str
    value: int | None
    recursive: bool | None
    owner: Owner | None
    details: dict[str, int | bool | str | None]


class Participant(TypedDict):
    slot: int
    generation: int
    pid: int
    thread: int
    language: str
    alive: bool
    holds: list[str]
    waits: str | None


class ClassUse(TypedDict):
    block: int
    pages: int
    used: int
    free: int


class Heap(TypedDict):
    size: int
    used: int
    free: int
    largest_free: int
    large: int
    large_pages: int
    classes: list[ClassUse]


class Info(TypedDict):
    address: str
    kind: str
    size: int
    life: str
    header: Header
    heap: Heap
    names: list[Name]
    room: int
    participants: list[Participant]


class Check(TypedDict):
    address: str
    findings: list[str]
    busy: list[Participant]


def plain(text: str) -> str:
    """Names are other people's: nothing of one may reach a terminal as a command."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def message_of(address: object, error: BaseException) -> str:
    """One line that names the address; where that is not one alone, as the error has it."""
    text = str(error)
    if isinstance(error, OSError):
        text = error.strerror or text
        if not isinstance(address, str):
            address = error.filename
    text = " ".join(text.split())
    return f"{address}: {text}" if isinstance(address, str) and not text.startswith(f"{address}:") else text


# ---- ls


def path_of(address: str) -> str | None:
    scheme, _, rest = address.partition(":")
    if scheme == "posix":
        return SHM + rest
    return rest if scheme == "file" else None


def open_file(path: str) -> int:
    """A descriptor that changes nothing and waits for nobody."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return fd


def first_bytes(address: str) -> bytes:
    """The head, or as much of it as there is. A file is not mapped for that, nor a page of it made."""
    path = path_of(address)
    if path is None:
        with polyshm.Segment(address, access="r") as segment:
            return segment.read(0, min(segment.size, HEAD_SIZE))
    fd = open_file(path)
    try:
        return os.pread(fd, HEAD_SIZE, 0)
    finally:
        os.close(fd)


def _kind_of_failure(head: bytes, size: int | None, error: BaseException) -> str:
    if isinstance(error, polyshm.Incompatible):
        known = Head.of(head)
        if known is None:
            return DAMAGED
        return DAMAGED if known.magic == MAGIC and known.format == 1 and known.size != size else FOREIGN
    return DAMAGED if isinstance(error, polyshm.Corrupt | polyshm.Lost) else UNREADABLE


def _entry(found: polyshm.Stat) -> Entry:
    """FileNotFoundError: it vanished since it was found; what has the name now is another one."""
    entry: Entry = {
        "address": found.address,
        "kind": found.kind,
        "size": found.size,
        "what": UNREADABLE,
        "objects": None,
        "alive": None,
        "life": None,
        "uid": found.uid,
        "gid": found.gid,
        "mode": None if found.mode is None else f"{found.mode:04o}",
        "error": None,
    }
    head = b""
    try:
        head = first_bytes(found.address)
        if not is_arena(head):
            entry["what"] = RAW
            return entry
        with polyshm.Arena(found.address, access="r") as arena:
            entry["life"] = arena.life
            entry["alive"] = sum(p.alive for p in arena.participants())
            entry["objects"] = len(arena)
            entry["what"] = ARENA
    except FileNotFoundError:
        raise
    except (*Refused, ValueError, TypeError) as error:
        entry["what"] = _kind_of_failure(head, found.size, error)
        entry["error"] = message_of(found.address, error)
    return entry


def _files(folder: str) -> Iterator[polyshm.Stat]:
    for path in sorted(os.path.join(os.path.abspath(folder), name) for name in os.listdir(folder)):
        try:
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            if is_arena(first_bytes(f"file:{path}")):
                yield polyshm.stat(f"file:{path}")
        except (*Refused, ValueError):
            continue


def segments(folders: list[str]) -> tuple[list[Entry], list[str]]:
    """All that polyshm.list() knows, then the arenas among the files of each folder; and what could not be listed."""
    entries, problems = [], []
    for found in polyshm.list():
        entries += _entries(found)
    for folder in folders:
        try:
            for found in _files(folder):
                entries += _entries(found)
        except OSError as error:
            problems.append(message_of(folder, error))
    return entries, problems


def _entries(found: polyshm.Stat) -> list[Entry]:
    """One, or none where it vanished."""
    try:
        entry = _entry(found)
    except FileNotFoundError:
        return []
    return [entry] if entry["error"] is None or _is_there(found.address) else []


def _is_there(address: str) -> bool:
    try:
        return polyshm.exists(address)
    except (*Refused, ValueError):
        return True


# ---- info, check


def _participant(p: polyshm.Participant) -> Participant:
    return {
        "slot": p.slot,
        "generation": p.generation,
        "pid": p.pid,
        "thread": p.thread,
        "language": p.language,
        "alive": p.alive,
        "holds": list(p.holds),
        "waits": p.waits,
    }


def _details(found: object) -> dict[str, int | bool | str | None]:
    """What its noun has to say, by the names of its methods and attributes."""
    match found:
        case polyshm.Semaphore():
            return {"value": found.value()}
        case polyshm.Permits():
            return {"available": found.available(), "total": found.total}
        case polyshm.Event():
            return {"is_set": found.is_set(), "auto": found.auto}
        case polyshm.Latch():
            return {"count": found.count()}
        case polyshm.Once():
            return {"done": found.done()}
        case polyshm.Condition():
            return {"mutex": found.mutex.name}
        case polyshm.RWLock():
            return {"read": found.read.locked(), "write": found.write.locked()}
        case polyshm.Barrier():
            return {
                "parties": found.parties,
                "n_waiting": found.n_waiting,
                "broken": found.broken,
                "on_death": found.on_death,
            }
    return {}


def _name(arena: polyshm.Arena, name: str) -> Name | None:
    kind, value = "unknown", None
    details: dict[str, int | bool | str | None] = {}
    for _ in range(3):
        try:
            found = arena.open(name)
            kind = type(found).__name__.lower()
            value = found.load() if isinstance(found, polyshm.Counter) else None
            details = _details(found)
        except KeyError:
            return None
        except polyshm.Deleted:
            # Deleted meanwhile; or again and again, since its mutex is.
            kind, details = "condition", {"mutex": None}
            continue
        except (ValueError, TypeError, polyshm.Error):
            pass
        break
    return {"name": name, "kind": kind, "value": value, "recursive": None, "owner": None, "details": details}


def _names(arena: polyshm.Arena, segment: polyshm.Segment, all_: list[polyshm.Participant]) -> list[Name]:
    by_slot = {p.slot: p for p in all_}
    words = owner_words(segment)
    found = [known for known in (_name(arena, name) for name in sorted(arena.keys())) if known is not None]
    for known in found:
        its = words.get(known["name"])
        if its is None or its.kind != known["kind"]:
            continue
        owner = owner_of(its.word, its.died, by_slot)
        if known["kind"] == "mutex":
            known["recursive"] = bool(its.flags & 1)
        if known["kind"] == "rwlock" and known["details"]:
            known["details"]["writer_waits"] = its.granted and owner["state"] == "held"
        if known["kind"] != "once" or owner["state"] == "held":  # of a dead one there is nothing to tell
            known["owner"] = owner
    return found


def info(address: str) -> Info:
    with polyshm.Arena(address, access="r") as arena, polyshm.Segment(address, access="r") as segment:
        head = Head.of(segment.read(0, HEAD_SIZE))
        if head is None or head.id != arena.id:
            raise polyshm.Deleted("was made anew meanwhile")
        stats = arena.stats()
        all_ = arena.participants()
        return {
            "address": arena.address,
            "kind": arena.kind,
            "size": arena.size,
            "life": arena.life,
            "header": head.shown(),
            "heap": {
                "size": stats["heap"],
                "used": stats["used"],
                "free": stats["free"],
                "largest_free": stats["largest_free"],
                "large": stats["large"],
                "large_pages": stats["large_pages"],
                "classes": [
                    {"block": c["block"], "pages": c["pages"], "used": c["used"], "free": c["free"]}
                    for c in stats["classes"]
                    if c["used"] or c["free"]
                ],
            },
            "names": _names(arena, segment, all_),
            "room": stats["participants"],
            "participants": [_participant(p) for p in all_],
        }


def check(address: str) -> Check:
    """`busy`: who has a lock of the arena's own, so that what it is in the middle of may be among the findings."""
    with polyshm.Arena(address, access="r") as arena:
        findings = arena.check()
        busy = [p for p in arena.participants() if p.alive and {"(heap)", "(directory)"} & set(p.holds)]
        return {"address": arena.address, "findings": findings, "busy": [_participant(p) for p in busy]}
