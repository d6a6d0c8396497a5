# SPDX-License-Identifier: MIT
from polyshm._core import MUTEX_ALIGN as MUTEX_ALIGN
from polyshm._core import MUTEX_SIZE as MUTEX_SIZE
from polyshm._core import Arena as Arena
from polyshm._core import Atomic as Atomic
from polyshm._core import Barrier as Barrier
from polyshm._core import Condition as Condition
from polyshm._core import Corrupt as Corrupt
from polyshm._core import Counter as Counter
from polyshm._core import Deleted as Deleted
from polyshm._core import Error as Error
from polyshm._core import Event as Event
from polyshm._core import Incompatible as Incompatible
from polyshm._core import Latch as Latch
from polyshm._core import Lost as Lost
from polyshm._core import Mutex as Mutex
from polyshm._core import Once as Once
from polyshm._core import OwnerDied as OwnerDied
from polyshm._core import Participant as Participant
from polyshm._core import Permits as Permits
from polyshm._core import RecordLock as RecordLock
from polyshm._core import RWLock as RWLock
from polyshm._core import Segment as Segment
from polyshm._core import SegmentMutex as SegmentMutex
from polyshm._core import Semaphore as Semaphore
from polyshm._core import Stat as Stat
from polyshm._core import __version__ as __version__
from polyshm._core import exists as exists
from polyshm._core import list as list
from polyshm._core import stat as stat
from polyshm._core import unlink as unlink
from polyshm._core import wait as wait

__all__ = [
    "MUTEX_ALIGN",
    "MUTEX_SIZE",
    "Arena",
    "Atomic",
    "Barrier",
    "Condition",
    "Corrupt",
    "Counter",
    "Deleted",
    "Error",
    "Event",
    "Incompatible",
    "Latch",
    "Lost",
    "Mutex",
    "Once",
    "OwnerDied",
    "Participant",
    "Permits",
    "RWLock",
    "RecordLock",
    "Segment",
    "SegmentMutex",
    "Semaphore",
    "Stat",
    "__version__",
    "exists",
    "list",
    "stat",
    "unlink",
    "wait",
]
