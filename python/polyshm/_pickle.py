# SPDX-License-Identifier: MIT
"""How handles travel: by address, with the identity of the object, so that one that was made anew is refused; memfd and
fd by descriptor, and only while a child is being spawned. Imported when something is pickled."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, Protocol

from polyshm._core import Atomic, Deleted, Mutex, OwnerDied, RecordLock, Segment

Options = dict[str, Any]
Identity = tuple[int, int]


class Descriptor(Protocol):
    """What multiprocessing.reduction.DupFd gives."""

    def detach(self) -> int: ...


def reduce_segment(
    segment: Segment, sysv_id: int, folder: str | None, options: Options, identity: Identity
) -> tuple[Callable[..., Segment], tuple[Any, ...]]:
    if segment.kind in ("anon", "zero"):
        raise TypeError(f"{segment.address}: only forked children share it: it has no name and cannot be pickled")
    if segment.kind in ("memfd", "fd"):
        return open_descriptor, (_duplicate(segment), options, identity)
    if segment.kind == "sysv":
        return open_address, (f"sysv:id={sysv_id}", options, identity)
    if segment.kind == "file":
        return open_address, (f"file:{_absolute(segment, folder)}", options, identity)
    return open_address, (segment.address, options, identity)


def _absolute(segment: Segment, folder: str | None) -> str:
    """The path in a process with another working directory; after a rename the new one, where the kernel knows it."""
    now = os.readlink(f"/proc/self/fd/{segment.fd}")
    try:
        if os.path.samestat(os.stat(now), os.stat(f"/proc/self/fd/{segment.fd}")):
            return now
    except OSError:
        pass
    return os.path.join(folder or "", segment.name)


def _duplicate(segment: Segment) -> Descriptor:
    from multiprocessing import context, reduction

    if context.get_spawning_popen() is None:
        raise TypeError(f"{segment.address}: can be pickled only while multiprocessing starts a child")
    assert segment.fd is not None
    duplicate: Descriptor = reduction.DupFd(segment.fd)
    return duplicate


def open_address(address: str, options: Options, identity: Identity) -> Segment:
    try:
        segment = Segment(address, **options)
    except OSError as error:
        # No such name, no such System V id, one that is marked for removal.
        if error.errno in (errno.ENOENT, errno.EIDRM, errno.EINVAL):
            raise Deleted(f"{address}: was removed after it was pickled") from error
        raise
    return _identified(segment, identity)


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


def reduce_mutex(
    segment: Segment, offset: int, recursive: bool, repair: Callable[[OwnerDied], object] | None
) -> tuple[Callable[..., Mutex], tuple[Segment, int, bool, Callable[[OwnerDied], object] | None]]:
    return open_mutex, (segment, offset, recursive, repair)


def open_mutex(segment: Segment, offset: int, recursive: bool, repair: Callable[[OwnerDied], object] | None) -> Mutex:
    return segment.mutex(offset, recursive=recursive, repair=repair)


def reduce_record_lock(
    segment: Segment, offset: int, size: int | None, shared: bool
) -> tuple[Callable[..., RecordLock], tuple[Segment, int, int | None, bool]]:
    return open_record_lock, (segment, offset, size, shared)


def open_record_lock(segment: Segment, offset: int, size: int | None, shared: bool) -> RecordLock:
    return segment.record_lock(offset, size, shared)
