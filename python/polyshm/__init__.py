# SPDX-License-Identifier: MIT
"""Shared memory for Python and Lua on one C core.

A Segment is raw shared memory of any kind that Linux has; an address such as "posix:/demo" names it in every language.
On it: bytes, slices, views and numpy arrays without a copy; Atomic words; a SegmentMutex that survives `kill -9` of its
holder; RecordLocks. An Arena is a segment with named objects in it, which survive the same of anybody: Mutex, Counter.
Nothing but the compiled core is imported here.
"""

from polyshm._core import (
    MUTEX_ALIGN,
    MUTEX_SIZE,
    Arena,
    Atomic,
    Corrupt,
    Counter,
    Deleted,
    Error,
    Incompatible,
    Lost,
    Mutex,
    OwnerDied,
    Participant,
    RecordLock,
    Segment,
    SegmentMutex,
    Stat,
    __version__,
    exists,
    list,
    stat,
    unlink,
)

__all__ = [
    "MUTEX_ALIGN",
    "MUTEX_SIZE",
    "Arena",
    "Atomic",
    "Corrupt",
    "Counter",
    "Deleted",
    "Error",
    "Incompatible",
    "Lost",
    "Mutex",
    "OwnerDied",
    "Participant",
    "RecordLock",
    "Segment",
    "SegmentMutex",
    "Stat",
    "__version__",
    "exists",
    "list",
    "stat",
    "unlink",
]
