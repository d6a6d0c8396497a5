# SPDX-License-Identifier: MIT
"""How handles travel: by address, with the identity of the object, so that one that was made anew is refused; memfd and
fd by descriptor, and only while a child is being spawned. Imported when something is pickled."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from polyshm._core import Arena, Atomic, Deleted, Mutex, OwnerDied, RecordLock, Segment, SegmentMutex

Options = dict[str, Any]
Identity = tuple[int, int]
Handle = TypeVar("Handle")
Repair = Callable[[OwnerDied], object]


class Descriptor(Protocol):
    """What multiprocessing.reduction.DupFd gives."""

    def detach(self) -> int: ...


def reduce_segment(
    segment: Segment, sysv_id: int, folder: str | None, options: Options, identity: Identity
) -> tuple[Callable[..., Segment], tuple[Any, ...]]:
    fd = -1 if segment.fd is None else segment.fd
    address, descriptor = _way_to(segment, fd, sysv_id, folder)
    if descriptor is not None:
        return open_descriptor, (descriptor, options, identity)
    return open_address, (address, options, identity)


def _way_to(thing: Segment | Arena, fd: int, sysv_id: int, folder: str | None) -> tuple[str, Descriptor | None]:
    """How another process gets there: an address, or a descriptor."""
    address = thing.address
    if thing.kind in ("anon", "zero"):
        raise TypeError(f"{address}: only forked children share it: it has no name and cannot be pickled")
    if thing.kind in ("memfd", "fd"):
        return address, _duplicate(address, fd)
    if thing.kind == "sysv":
        return f"sysv:id={sysv_id}", None
    if thing.kind == "file":
        return f"file:{_absolute(address.partition(':')[2], fd, folder)}", None
    return address, None


def _absolute(path: str, fd: int, folder: str | None) -> str:
    """The path in a process with another working directory; after a rename the new one, where the kernel knows it."""
    now = os.readlink(f"/proc/self/fd/{fd}")
    try:
        if os.path.samestat(os.stat(now), os.stat(f"/proc/self/fd/{fd}")):
            return now
    except OSError:
        pass
    return os.path.join(folder or "", path)


def _duplicate(address: str, fd: int) -> Descriptor:
    from multiprocessing import context, reduction

    if context.get_spawning_popen() is None:
        raise TypeError(f"{address}: can be pickled only while multiprocessing starts a child")
    duplicate: Descriptor = reduction.DupFd(fd)
    return duplicate


def open_address(address: str, options: Options, identity: Identity) -> Segment:
    return _identified(_reopened(Segment, address, options), identity)


def _reopened(kind: Callable[..., Handle], address: str, options: Options) -> Handle:
    try:
        return kind(address, **options)
    except OSError as error:
        # No such name, no such System V id, one that is marked for removal.
        if error.errno in (errno.ENOENT, errno.EIDRM, errno.EINVAL):
            raise Deleted(f"{address}: was removed after it was pickled") from error
        raise


def open_descriptor(descriptor: Descriptor, options: Options, identity: Identity) -> Segment:
    fd = descriptor.detach()
    try:
        return _identified(Segment(f"fd:{fd}", **options), identity)
    finally:
        os.close(fd)


def _identified(segment: Segment, identity: Identity) -> Segment:
    if segment._identity() != identity:
        segment.close()
        raise Deleted(f"{segment.address}: was removed and made anew after it was pickled")
    return segment


def reduce_atomic(segment: Segment, word: str, offset: int) -> tuple[Callable[..., Atomic], tuple[Segment, str, int]]:
    return open_atomic, (segment, word, offset)


def open_atomic(segment: Segment, word: Any, offset: int) -> Atomic:
    return segment.atomic(word, offset)


def reduce_segment_mutex(
    segment: Segment, offset: int, recursive: bool, repair: Repair | None
) -> tuple[Callable[..., SegmentMutex], tuple[Segment, int, bool, Repair | None]]:
    return open_segment_mutex, (segment, offset, recursive, repair)


def open_segment_mutex(segment: Segment, offset: int, recursive: bool, repair: Repair | None) -> SegmentMutex:
    return segment.mutex(offset, recursive=recursive, repair=repair)


def reduce_record_lock(
    segment: Segment, offset: int, size: int | None, shared: bool
) -> tuple[Callable[..., RecordLock], tuple[Segment, int, int | None, bool]]:
    return open_record_lock, (segment, offset, size, shared)


def open_record_lock(segment: Segment, offset: int, size: int | None, shared: bool) -> RecordLock:
    return segment.record_lock(offset, size, shared)


def reduce_arena(
    arena: Arena, fd: int, sysv_id: int, folder: str | None, identity: int
) -> tuple[Callable[..., Arena], tuple[Any, ...]]:
    access = "r" if arena.readonly else "rw"
    address, descriptor = _way_to(arena, fd, sysv_id, folder)
    if descriptor is not None:
        return open_arena_descriptor, (descriptor, access, identity)
    return open_arena, (address, access, identity)


def open_arena(address: str, access: str, identity: int) -> Arena:
    return _same_arena(_reopened(Arena, address, {"access": access}), identity)


def open_arena_descriptor(descriptor: Descriptor, access: str, identity: int) -> Arena:
    fd = descriptor.detach()
    try:
        return _same_arena(_reopened(Arena, f"fd:{fd}", {"access": access}), identity)
    finally:
        os.close(fd)


def _same_arena(arena: Arena, identity: int) -> Arena:
    if arena.id != identity:
        arena.close()
        raise Deleted(f"{arena.address}: was removed and made anew after it was pickled")
    return arena


def reduce_object(
    arena: Arena, name: str, serial: int, beside: Repair | Mutex | None
) -> tuple[Callable[..., object], tuple[Arena, str, int, Repair | Mutex | None]]:
    """`beside`: what goes with it: a lock's repair, the mutex of a condition."""
    return open_object, (arena, name, serial, beside)


def open_object(arena: Arena, name: str, serial: int, beside: Repair | Mutex | None) -> object:
    return arena._restore(name, serial, beside)
