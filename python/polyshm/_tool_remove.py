# SPDX-License-Identifier: MIT
"""The verbs of `python -m polyshm` that remove: `rm`, and `gc` with its proof that nobody lives on an arena."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TypedDict

import polyshm
from polyshm._tool import Refused, first_bytes, message_of, open_file, path_of
from polyshm._tool_words import HEAD_SIZE, is_arena


class Removal(TypedDict):
    address: str
    removed: bool
    error: str | None


class Orphan(TypedDict):
    address: str
    kind: str
    size: int
    life: str
    objects: int
    dead: int
    removed: bool
    error: str | None


def remove(address: str) -> Removal:
    try:
        polyshm.unlink(address)
    except (*Refused, ValueError, TypeError) as error:
        return {"address": address, "removed": False, "error": message_of(address, error)}
    return {"address": address, "removed": True, "error": None}


def _look(address: str, opened_by: str) -> Orphan | None:
    """An arena without anybody alive in it, as far as its participants go."""
    with polyshm.Arena(opened_by, access="r") as arena:
        everybody = arena.participants()
        if any(p.alive for p in everybody):
            return None
        return {
            "address": address,
            "kind": address.partition(":")[0],
            "size": arena.size,
            "life": arena.life,
            "objects": len(arena),
            "dead": len(everybody),
            "removed": False,
            "error": None,
        }


def _locked(fd: int) -> bool:
    """Who has an arena open holds a shared lock on its file, so an exclusive one is proof that nobody has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(path: str, fd: int) -> bool:
    try:
        there, here = os.stat(path, follow_symlinks=False), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _file_orphan(address: str, path: str, lives: set[str], yes: bool) -> Orphan | None:
    fd = open_file(path)
    try:
        if not is_arena(os.pread(fd, HEAD_SIZE, 0)) or not _locked(fd):
            return None
        # Looking takes a shared lock of its own; whoever comes in between is seen by the next exclusive one.
        fcntl.flock(fd, fcntl.LOCK_UN)
        orphan = _look(address, f"fd:{fd}")
        if orphan is None or orphan["life"] not in lives or not _locked(fd) or not _same_file(path, fd):
            return None
        if yes:
            try:
                os.unlink(path)
                orphan["removed"] = True
            except OSError as error:
                orphan["error"] = message_of(address, error)
        return orphan
    finally:
        os.close(fd)


def _sysv_orphan(address: str, lives: set[str], yes: bool) -> Orphan | None:
    # By its id: a key may lead to another one the next moment.
    found = polyshm.stat(address)
    by_id = f"sysv:id={found.id}"
    if found.attaches != 0 or not is_arena(first_bytes(by_id)):
        return None
    orphan = _look(address, by_id)
    if orphan is None or orphan["life"] not in lives or polyshm.stat(by_id).attaches != 0:
        return None
    if yes:
        gone = remove(by_id)
        orphan["removed"], orphan["error"] = gone["removed"], gone["error"]
    return orphan


def orphans(addresses: list[str], lives: set[str], yes: bool) -> list[Orphan]:
    """Arenas on which nobody lives, of these, or of all in /dev/shm and of System V; with `yes` they are removed."""
    found = []
    for address in addresses:
        polyshm.exists(address)  # a mistake in one is said before anything is done
    for address in addresses or [one.address for one in polyshm.list()]:
        # What cannot be read, is damaged, or goes meanwhile, is not proven to be anything.
        with contextlib.suppress(*Refused, ValueError, TypeError):
            path = path_of(address)
            orphan = _file_orphan(address, path, lives, yes) if path else _sysv_orphan(address, lives, yes)
            if orphan is not None:
                found.append(orphan)
    return found
