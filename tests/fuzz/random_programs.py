# SPDX-License-Identifier: MIT
"""Programs of random operations: whatever a script does in whatever order, its interpreter lives.

A program is a seed. Each of its steps draws from a generator of its own, so a step can be left out without changing
the others: `python random_programs.py SEED --trace` says what a program does, `--steps 3,7,20` runs these steps
alone, and `SEED --count 1000` runs a thousand programs, each in a child, and prints those that ended badly.

What a program keeps away from is what docs/safety.rst excepts: bytes of a mutex are not overwritten, cut away or made
anew while somebody may be using them. So an object is either for locks, which then lie in the first KiB of each page
and are let alone there, or for everything else.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import gc
import importlib
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import leftovers
import polyshm
import random_arena

try:
    import numpy
except ImportError:
    numpy = None

for _name in ("polyshm._pickle", "multiprocessing.context", "multiprocessing.reduction"):
    importlib.import_module(_name)  # a fork beside a thread that imports hangs in the child


PAGE = 4096
LOCKS = 1024  # of each page of an object for locks
HANG = 20  # seconds
TYPES = ["i8", "u8", "<i16", ">u16", "i32", ">i32", "u64", "=i64", "f32", ">f64", "f64"]
ADVICE = [
    "normal", "random", "sequential", "willneed", "dontneed", "dontneed_locked", "free", "remove", "dontfork",
    "dofork", "wipeonfork", "keeponfork", "mergeable", "unmergeable", "hugepage", "nohugepage", "collapse",
    "dontdump", "dodump", "cold", "pageout", "populate_read", "populate_write",
]  # fmt: skip
DESTROYING = {"dontneed", "dontneed_locked", "free", "remove", "wipeonfork"}
START = ["open_segment"] * 6 + ["take_mutex"] * 4 + ["take_atomic", "take_buffer", "take_record_lock"]
SORTS = {
    "segments": ["segment", "buffer", "buffer", "atomic", "mutex", "record_lock", "recovery"],
    "arenas": ["arena", "object", "object", "object", "participant", "notifier", "recovery"],
}
ODD = [
    -1,
    1 << 31,
    1 << 47,
    (1 << 63) - 1,
    1 << 64,
    -(1 << 70),
    1.5,
    "x",
    "64M",
    "",
    None,
    b"1",
    float("nan"),
    [],
    True,
]


class Stop(Exception):
    """What callbacks of a program raise."""


class Pool:
    """What a program has in its hands. Threads change it beside each other, so nothing here is relied upon."""

    def __init__(self) -> None:
        self.objects: dict[str, list] = {}
        self.children: list[int] = []

    def add(self, sort: str, value) -> None:
        self.objects.setdefault(sort, []).append(value)

    def pick(self, rng: random.Random, *sorts: str):
        found = [value for sort in sorts for value in self.objects.get(sort, [])]
        if not found:
            raise Stop(f"no {sorts}")
        return rng.choice(found)

    def drop(self, rng: random.Random, sort: str) -> None:
        found = self.objects.get(sort)
        if found:
            del found[rng.randrange(len(found))]


class Evil:
    """An argument whose conversion runs a step of the program."""

    def __init__(self, program: Program, rng: random.Random, value) -> None:
        self.program, self.rng, self.value = program, rng, value

    def _convert(self):
        self.program.nested(self.rng)
        return self.value

    __index__ = __float__ = _convert

    def __bool__(self) -> bool:
        return bool(self._convert())

    def __buffer__(self, flags: int) -> memoryview:
        self._convert()
        return memoryview(bytearray(self.value))


class Cycle:
    """Garbage that runs a step when it is collected, with something of the pool in the same cycle."""

    def __init__(self, program: Program, rng: random.Random, held) -> None:
        self.program, self.rng, self.held, self.me = program, rng, held, self

    def __del__(self) -> None:
        self.program.nested(self.rng)


OPERATIONS: dict[str, list[tuple[int, Callable]]] = {"segments": [], "arenas": random_arena.OPERATIONS, "all": []}


def operation(weight: int, of: str = "segments"):
    def register(function):
        OPERATIONS[of].append((weight, function))
        return function

    return register


class Program:
    def __init__(self, seed: int, folder: str, trace: bool = False) -> None:
        self.seed, self.folder, self.trace = seed, folder, trace
        self.pool = Pool()
        self.depth = threading.local()
        self.making = threading.Lock()
        self.main_pid = os.getpid()
        setup = random.Random(f"{seed}:setup")
        self.threads = setup.choice([0, 0, 0, 2, 3, 4])
        self.length = setup.choice([30, 70, 130])
        self.interval = setup.choice([1e-6, 1e-5, 1e-3])
        self.ending = setup.choice(["clean", "clean", "clean", "open", "exit", "garbage"])
        about = setup.choice([["segments"], ["arenas"], ["segments", "arenas"]])
        self.operations = [pair for of in (*about, "all") for pair in OPERATIONS[of]]
        self.start = (START if "segments" in about else []) + (random_arena.START if "arenas" in about else [])
        self.sorts = [sort for of in about for sort in SORTS[of]]
        self.seconds = time.monotonic() + HANG / 2
        self.prefix = f"polyshm-random-{os.getpid()}-{seed}"
        #: handles by object, for those of locks: bytes may go only where one handle alone can hold a lock
        self.shared: dict[str, int] = {}
        self.abandoned = False

    # ---- steps ----

    def step(self, rng: random.Random, name: str | None = None) -> None:
        function = rng.choices([f for _, f in self.operations], [w for w, _ in self.operations])[0]
        if name:
            function = next(f for _, f in self.operations if f.__name__ == name)
        depth = getattr(self.depth, "now", 0)
        if self.trace:
            self.say(">" * (depth + 1), function.__name__)
        try:
            self.depth.now = depth + 1
            function(self, rng)
            self.depth.now = depth
        except Exception as error:
            self.depth.now = depth
            if self.trace:
                self.say("   ", type(error).__name__, error)
            error.__traceback__ = None

    def nested(self, rng: random.Random) -> None:
        """What a callback does: a step, and now and then it fails."""
        if getattr(self.depth, "now", 0) < 4 and time.monotonic() < self.seconds:
            self.step(rng)
        if rng.random() < 0.3:
            raise Stop("from a callback")

    def say(self, *words: object) -> None:
        os.write(2, (" ".join(map(str, (os.getpid(), threading.get_native_id() % 1000, *words))) + "\n").encode())

    def on_alarm(self, *_: object) -> None:
        """What signals do. An exception goes only where there is a step that it can end."""
        if getattr(self.depth, "now", 0):
            self.nested(random.Random(f"{self.seed}:signal"))

    def run(self, steps: list[int] | None) -> None:
        sys.setswitchinterval(self.interval)
        signal.signal(signal.SIGALRM, self.on_alarm)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if self.threads:
            parts = [threading.Thread(target=self.part, args=(f"{i}:", steps)) for i in range(self.threads)]
            for part in parts:
                part.start()
            for part in parts:
                part.join()
        else:
            self.part("", steps)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)

    def part(self, name: str, steps: list[int] | None) -> None:
        for i in range(self.length) if steps is None else steps:
            if time.monotonic() > self.seconds:
                break
            if self.trace:
                self.say(f"step {name}{i}")
            self.step(random.Random(f"{self.seed}:{name}{i}"), self.start[i] if i < len(self.start) else None)

    # ---- arguments ----

    def odd(self, rng: random.Random, value):
        """Nearly always `value`."""
        luck = rng.random()
        if luck < 0.02:
            return rng.choice(ODD)
        if luck < 0.05 and value is not None:
            return Evil(self, rng, value)
        return value

    def segment(self, rng: random.Random):
        """A handle, and whether it is of an object for locks."""
        return self.pool.pick(rng, "segment")

    def range(self, rng: random.Random, handle, write: bool = False):
        """An offset and a size inside; none that would write to a mutex."""
        segment, locks = handle
        size = segment.size
        if locks and write:
            offset = rng.randrange(max(1, size // PAGE)) * PAGE + rng.randrange(LOCKS, PAGE)
            return offset, rng.randint(0, PAGE - offset % PAGE)
        offset = rng.choice([0, 0, rng.randrange(size + 1), rng.randrange(size // PAGE + 1) * PAGE])
        return offset, rng.choice([size - offset, rng.randint(0, size - offset), min(PAGE, size - offset)])

    def data(self, rng: random.Random, size: int):
        """Bytes-like things."""
        how = rng.randrange(6)
        if how == 0:
            return bytearray(size)
        if how == 1 and size:
            segment, _ = self.segment(rng)
            return memoryview(segment)[:size]
        if how == 2 and numpy:
            return numpy.arange(size, dtype="u1")
        if how == 3:
            return Evil(self, rng, size)
        return bytes(size)

    def timeout(self, rng: random.Random):
        """Seconds, or what is none; never for ever."""
        value = rng.choice([0, 0.0, 0.0005, 0.003, 0.01])
        luck = rng.random()
        return (
            rng.choice([-2, float("nan"), "x", [], 1 << 2000])
            if luck < 0.02
            else Evil(self, rng, value)
            if luck < 0.05
            else value
        )

    def initialise(self, segment, offset: int) -> bool:
        """Where others may be using a mutex, it is made if there is none, and by one thread of one process."""
        if os.getpid() == self.main_pid and self.making.acquire(timeout=0.01):
            try:
                segment.mutex(offset)
            except ValueError:
                segment.mutex(offset, create=True)
            finally:
                self.making.release()
        return False

    def interrupted(self, rng: random.Random, lock) -> None:
        """`with`, which waits for ever, until a signal's handler raises."""
        if threading.current_thread() is not threading.main_thread():
            return

        def end(*_):  # once, wherever that is
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            raise Stop("time")

        before = signal.signal(signal.SIGALRM, end)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            with lock:
                signal.setitimer(signal.ITIMER_REAL, 0)
                self.nested(rng)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def may_destroy(self, handle) -> bool:
        segment, locks = handle
        return not locks or (not self.threads and not self.pool.children and self.shared.get(segment.address, 2) < 2)


@operation(14)
def open_segment(p: Program, rng: random.Random) -> None:
    kind = rng.choice(["posix", "posix", "file", "file", "sysv", "anon", "zero", "memfd", "fd", "private"])
    locks = rng.random() < 0.4
    sort = "locks" if locks else "bytes"
    options: dict = {"create": rng.random() < 0.8}
    pages = rng.choice([1, 2, 4, 4, 32])
    if options["create"] or kind in ("anon", "zero", "memfd", "private"):
        options["size"] = pages * PAGE if locks else rng.choice([pages * PAGE, rng.randint(1, pages * PAGE)])
    if kind in ("posix", "file", "fd") and rng.random() < 0.3:
        options["offset"] = rng.randrange(3) * PAGE + (0 if locks else rng.choice([0, 0, 8, 100]))
    if rng.random() < (0.1 if locks else 0.3):
        options["access"] = rng.choice(["rw", "r", "copy", "none"])
    for option, luck in (
        ("exclusive", 0.1), ("exec", 0.1), ("populate", 0.1), ("locked", 0.1), ("inherit", 0.1), ("reserve", 0.1),
        ("round", 0.03), ("hugepages", 0.03),
    ):  # fmt: skip
        if rng.random() < luck:
            options[option] = p.odd(rng, rng.random() < 0.5)
    if rng.random() < 0.1:
        options["mode"] = rng.choice([0o600, "0600", 0o666, "0000", 0o1000, "9", -1])
    if rng.random() < 0.05:
        options["at"] = (1 << 45) + rng.randrange(1 << 20) * (1 << 24)
    if rng.random() < 0.05:
        options[rng.choice(["size", "offset", "access", "mode", "hugepages", "at"])] = rng.choice(
            [*ODD, Evil(p, rng, PAGE)]
        )
    number = rng.randrange(2)
    if kind == "posix":
        address = f"posix:/{p.prefix}-{sort}{number}"
    elif kind == "file":
        address = f"file:{p.folder}/{sort}{number}"
    elif kind == "sysv":
        address = f"sysv:{0x50000000 + os.getpid() % 0x8000 * 0x1000 + locks * 2 + number:#x}"
    elif kind == "private":
        address = "sysv:private"
    elif kind == "fd":
        other, locks = p.segment(rng)
        address = f"fd:{other.fd}"
    else:
        address = f"{kind}:{sort if kind == 'memfd' else ''}"
    segment = polyshm.Segment(address, **options)
    if segment.kind == "sysv" and segment.created:
        try:
            with open(f"{p.folder}/sysv", "a") as ids:  # for who removes what is left
                ids.write(f"\n{segment.stat().id}\n")  # what is before may be cut off
        except BaseException:
            segment.unlink()
            raise
    # A descriptor's number says nothing of its object; a fork has a second handle of each.
    p.shared[address] = p.shared.get(address, 0) + (2 if kind == "fd" else 1)
    p.pool.add("segment", (segment, locks))
    if p.trace:
        p.say("    open", address, options)


@operation(6)
def close_segment(p: Program, rng: random.Random) -> None:
    segment, _ = p.segment(rng)
    segment.close()
    if rng.random() < 0.5:
        p.pool.objects["segment"] = [pair for pair in p.pool.objects["segment"] if not pair[0].closed]


@operation(3)
def leave_segment(p: Program, rng: random.Random) -> None:
    segment, _ = p.segment(rng)
    with segment:
        p.nested(rng)


@operation(10)
def read_bytes(p: Program, rng: random.Random) -> None:
    handle = p.segment(rng)
    segment = handle[0]
    offset, size = p.range(rng, handle)
    how = rng.randrange(7)
    if how == 0:
        segment.read(p.odd(rng, offset), p.odd(rng, size))
    elif how == 1:
        segment.find(p.data(rng, rng.choice([0, 1, 3, 5000])), p.odd(rng, offset), p.odd(rng, offset + size))
    elif how == 2:
        bytes(segment)
    elif how == 3:
        segment[p.odd(rng, rng.randint(-size, size))]
    elif how == 4:
        segment[p.odd(rng, offset) : p.odd(rng, offset + size) : p.odd(rng, rng.choice([1, 2, 7, -1, -PAGE, 0, None]))]
    elif how == 5:
        target, locks = p.segment(rng)
        if not locks:
            segment.read_into(memoryview(target)[:size], p.odd(rng, offset))
    else:
        for i, _ in enumerate(segment):
            if i > 30:
                p.nested(rng)
                break


@operation(10)
def write_bytes(p: Program, rng: random.Random) -> None:
    handle = p.segment(rng)
    segment, locks = handle
    offset, size = p.range(rng, handle, write=True)
    how = rng.randrange(5)
    # An odd offset or size could reach a mutex.
    odd = (lambda _, value: value) if locks else p.odd
    if how == 0:
        segment.write(odd(rng, offset), p.data(rng, size))
    elif how == 1:
        segment.fill(p.odd(rng, rng.randrange(256)), odd(rng, offset), odd(rng, size))
    elif how == 2:
        segment.copy(odd(rng, offset), p.odd(rng, p.range(rng, handle)[0]), odd(rng, size))
    elif how == 3:
        segment[odd(rng, offset)] = p.odd(rng, rng.randrange(256))
    else:
        step = rng.choice([1, 1, 2, 3])
        segment[odd(rng, offset) : offset + size : step] = p.data(rng, len(range(offset, offset + size, step)))


@operation(8)
def take_buffer(p: Program, rng: random.Random) -> None:
    handle = p.segment(rng)
    segment, locks = handle
    how = rng.randrange(4)
    if how == 0:
        view = memoryview(segment)
    elif how == 1:
        offset, size = p.range(rng, handle)
        view = segment.view(
            p.odd(rng, rng.choice(TYPES)), p.odd(rng, offset), p.odd(rng, rng.choice([None, size // 8]))
        )
    elif how == 2:
        view, locks = p.pool.pick(rng, "buffer")
        view = view[rng.randrange(9) :: rng.choice([1, 2, -1])]
    elif numpy:
        view = numpy.frombuffer(segment, dtype=rng.choice(["u1", "f8", ">i4"]))
    p.pool.add("buffer", (view, locks))


@operation(10)
def use_buffer(p: Program, rng: random.Random) -> None:
    view, locks = p.pool.pick(rng, "buffer")
    how = rng.randrange(7)
    if how == 0:
        view.tobytes()
    elif how == 1 and not locks:
        view[rng.randint(-3, len(view))] = rng.randrange(100)
    elif how == 2 and not locks and len(view) > 8:
        view[2:4] = view[4:6]
    elif how == 3 and isinstance(view, memoryview):
        view.release()
    elif how == 4 and numpy:
        array = numpy.asarray(view)
        array.sum()
        p.pool.add("buffer", (array, locks))
    elif how == 5:
        hash(view)
    else:
        len(view) and view[rng.randrange(len(view))]


@operation(4)
def take_atomic(p: Program, rng: random.Random) -> None:
    handle = p.segment(rng)
    offset, _ = p.range(rng, handle, write=True)
    word = rng.choice(["i32", "u32", "i64", "u64"])
    p.pool.add("atomic", handle[0].atomic(p.odd(rng, word), p.odd(rng, offset & ~7) if not handle[1] else offset & ~7))


@operation(8)
def use_atomic(p: Program, rng: random.Random) -> None:
    atomic = p.pool.pick(rng, "atomic")
    how = rng.choice(
        ["load", "store", "add", "sub", "and_", "or_", "xor", "exchange", "compare_exchange", "wait", "notify"]
    )
    value = p.odd(rng, rng.choice([0, 1, -1, 1 << 31, (1 << 64) - 1]))
    if how == "load":
        atomic.load()
    elif how == "compare_exchange":
        atomic.compare_exchange(value, rng.randrange(9))
    elif how == "wait":
        atomic.wait(atomic.load() if rng.random() < 0.7 else value, p.timeout(rng))
    else:
        getattr(atomic, how)(value)


@operation(8)
def take_mutex(p: Program, rng: random.Random) -> None:
    handle = rng.choice([pair for pair in p.pool.objects.get("segment", []) if pair[1]] or [(None, False)])
    segment = handle[0]
    if segment is None:
        raise Stop("none for locks")
    offset = rng.randrange(max(1, segment.size // PAGE)) * PAGE + rng.randrange(3) * polyshm.MUTEX_SIZE
    create = rng.random() < 0.7
    if create and not p.may_destroy(handle):
        create = p.initialise(segment, offset)
    repair = rng.choice(
        [None, None, lambda died: p.nested(rng), lambda died: mutex.release(), lambda died: segment.close()]
    )
    recursive = rng.choice([None, True, False]) if create else None
    mutex = segment.mutex(offset, create, recursive, repair)
    p.pool.add("mutex", mutex)


@operation(20)
def use_mutex(p: Program, rng: random.Random) -> None:
    mutex = p.pool.pick(rng, "mutex")
    how = rng.randrange(10)
    if how < 3:
        mutex.acquire(timeout=p.timeout(rng))
    elif how < 5:
        mutex.release()
    elif how == 5:
        mutex.locked(), mutex.owner()
    elif how == 6:
        p.pool.add("recovery", mutex.recover(p.timeout(rng)))
    elif how == 7:
        with mutex.recover(rng.choice([0, 0.002])):
            p.nested(rng)
    elif how == 8 and mutex.acquire(False):
        try:
            p.nested(rng)
        finally:
            mutex.release()
    else:
        p.interrupted(rng, mutex)


@operation(4)
def use_recovery(p: Program, rng: random.Random) -> None:
    recovery = p.pool.pick(rng, "recovery")
    if rng.random() < 0.5:
        recovery.__enter__()
    else:
        recovery.__exit__(rng.choice([None, Stop]), None, None)


@operation(4)
def take_record_lock(p: Program, rng: random.Random) -> None:
    handle = p.segment(rng)
    offset, size = p.range(rng, handle)
    lock = handle[0].record_lock(p.odd(rng, offset), p.odd(rng, rng.choice([size, None])), rng.random() < 0.4)
    p.pool.add("record_lock", lock)


@operation(8)
def use_record_lock(p: Program, rng: random.Random) -> None:
    lock = p.pool.pick(rng, "record_lock")
    how = rng.randrange(5)
    if how == 0:
        lock.acquire(timeout=p.timeout(rng))
    elif how == 1:
        lock.release()
    elif how == 2:
        lock.locked()
    elif how == 3 and lock.acquire(False):
        try:
            p.nested(rng)
        finally:
            lock.release()
    else:
        p.interrupted(rng, lock)


@operation(10)
def change_pages(p: Program, rng: random.Random) -> None:
    handle = p.segment(rng)
    segment = handle[0]
    offset, size = (p.odd(rng, value) for value in p.range(rng, handle))
    how = rng.randrange(8)
    if how == 0:
        segment.flush(offset, size, wait=rng.random() < 0.2, invalidate=rng.random() < 0.3)
    elif how == 1:
        segment.pin(offset, size, rng.random() < 0.3)
    elif how == 2:
        segment.unpin(offset, size)
    elif how == 3:
        segment.pin() if rng.random() < 0.5 else segment.unpin()
    elif how < 6:
        segment.protect(rng.choice(["rw", "rw", "r", "none"]), offset, size)
    else:
        advice = rng.choice(ADVICE)
        if advice not in DESTROYING or p.may_destroy(handle):
            segment.advise(p.odd(rng, advice), offset, size)


@operation(4)
def resize(p: Program, rng: random.Random) -> None:
    handle = p.segment(rng)
    segment, locks = handle
    size = rng.choice([1, PAGE, 2 * PAGE, 5 * PAGE, 40 * PAGE, rng.randint(1, 9 * PAGE)])
    if locks:
        size = -(-size // PAGE) * PAGE
        if not p.may_destroy(handle):
            size = max(size, 32 * PAGE + rng.randrange(8) * PAGE)
            size = max(size, segment.size)
        segment.resize(size)
    else:
        segment.resize(p.odd(rng, size))


@operation(4)
def truncate(p: Program, rng: random.Random) -> None:
    segment, locks = p.segment(rng)
    if not locks and segment.fd is not None:
        os.truncate(segment.fd, rng.choice([0, 1, PAGE, 3 * PAGE, rng.randrange(9 * PAGE)]))


@operation(3)
def ask(p: Program, rng: random.Random) -> None:
    segment, _ = p.segment(rng)
    how = rng.randrange(7)
    if how == 0:
        segment.stat()
    elif how == 1:
        segment.set(mode=p.odd(rng, rng.choice([0o600, "0666", None])), uid=p.odd(rng, None))
    elif how == 2:
        segment.unlink()
    elif how == 3:
        polyshm.unlink(segment.address)
    elif how == 4:
        polyshm.list()
    elif how == 5:
        polyshm.exists(p.odd(rng, segment.address)), polyshm.stat(segment.address)
    else:
        for name in ("size", "kind", "name", "address", "fd", "readonly", "created", "lost", "closed"):
            getattr(segment, name)
        repr([list(objects) for objects in p.pool.objects.values()])


@operation(4)
def travel(p: Program, rng: random.Random) -> None:
    sort = rng.choice(["segment", "atomic", "mutex", "record_lock"])
    value = p.pool.pick(rng, sort)
    there = rng.choice([lambda v: pickle.loads(pickle.dumps(v)), copy.copy, copy.deepcopy])
    if sort == "segment":
        p.shared[value[0].address] = 9
        p.pool.add(sort, (there(value[0]), value[1]))
    else:
        for address in p.shared:  # which of them has one handle more is not told
            p.shared[address] = 9
        p.pool.add(sort, there(value))


@operation(10, "all")
def drop(p: Program, rng: random.Random) -> None:
    sort = rng.choice(p.sorts)
    if sort in ("mutex", "object", "recovery"):
        p.abandoned = True  # it may be held
    if rng.random() < 0.08:
        p.pool.objects[sort] = []
    else:
        p.pool.drop(rng, sort)
    if rng.random() < 0.3:
        gc.collect()


@operation(3, "all")
def make_garbage(p: Program, rng: random.Random) -> None:
    sort = rng.choice(p.sorts)
    held = p.pool.pick(rng, sort)
    if sort in ("mutex", "object", "recovery"):
        p.abandoned = True
    Cycle(p, rng, held)
    if rng.random() < 0.3:
        weakref.finalize(held, p.nested, rng)
    if rng.random() < 0.3:
        gc.collect()


@operation(2, "all")
def hook(p: Program, rng: random.Random) -> None:
    """A function that the interpreter calls around the calls of C functions."""
    left = [3]

    def called(_frame, event, _argument):
        if event.startswith("c_") and left[0]:
            left[0] -= 1
            p.nested(rng)

    sys.setprofile(called)
    try:
        p.nested(rng)
    finally:
        sys.setprofile(None)


@operation(2, "all")
def alarm(p: Program, rng: random.Random) -> None:
    signal.setitimer(signal.ITIMER_REAL, rng.choice([0.0001, 0.001, 0.02]))


@operation(1, "all")
def run_out(p: Program, rng: random.Random) -> None:
    """A step without descriptors, room in files, or memory to pin."""
    limit = rng.choice([resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_MEMLOCK])
    if p.threads:
        raise Stop("the limit is the others' too")
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (rng.choice([0, 5, PAGE]), hard))
    try:
        p.nested(rng)
    finally:
        resource.setrlimit(limit, (soft, hard))


@operation(4, "all")
def fork(p: Program, rng: random.Random) -> None:
    if os.getpid() != p.main_pid and rng.random() < 0.8:
        raise Stop("enough children")
    if p.threads and "libasan" in os.environ.get("LD_PRELOAD", ""):
        raise Stop("its allocator does not outlive a fork beside threads")
    child = os.fork()
    if child == 0:
        try:
            p.pool.children = []
            p.shared = dict.fromkeys(p.shared, 9)
            for _ in range(rng.choice([0, 3, 10])):
                p.nested(rng)
            sys.setprofile(None)
            wait_for_children(p)
        except Exception:
            pass
        finally:
            if rng.random() < 0.5:
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)
    p.pool.children.append(child)
    for address in p.shared:
        p.shared[address] = 9
    if rng.random() < 0.7:
        wait_for_children(p)


@operation(2, "all")
def wait_for_children(p: Program, rng: random.Random | None = None) -> None:
    end = time.monotonic() + HANG
    while p.pool.children:
        child = p.pool.children.pop()
        status = 0
        while True:
            try:
                pid, status = os.waitpid(child, os.WNOHANG)
            except ChildProcessError:
                break
            if pid or time.monotonic() > end:
                break
            time.sleep(0.0005)
        else:
            continue
        if time.monotonic() > end:
            p.say("a child hangs")
            os.kill(child, signal.SIGQUIT)
            time.sleep(0.5)
            os._exit(99)
        if (os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGKILL) or os.WEXITSTATUS(status):
            p.say("a child ended with", status)
            os._exit(98)


def clean_up(program: Program) -> list[str]:
    """Lets all go, in a random order. What is left, where nothing may be."""
    rng = random.Random(f"{program.seed}:end")
    wait_for_children(program)
    wrong = random_arena.clean_up(program)
    for mutex in program.pool.objects.get("mutex", []):
        try:
            while True:
                mutex.release()
        except Exception:
            pass
    for sort in rng.sample(sorted(program.pool.objects), len(program.pool.objects)):
        objects = program.pool.objects[sort]
        rng.shuffle(objects)
        while objects:
            value = objects.pop()
            if sort == "segment" and rng.random() < 0.5:
                value[0].close()
    mutex = value = None
    program.depth.now = 9  # no more steps
    for _ in range(3):
        gc.collect()
    if wrong or program.abandoned or program.threads:
        return wrong
    return sorted(leftovers.descriptors((program.folder,)) | leftovers.mappings((program.folder,)))


def run(seed: int, steps: list[int] | None, trace: bool) -> int:
    """Runs one program here; what it leaves behind is removed by the caller."""
    faulthandler.register(signal.SIGQUIT, chain=True)
    folder = f"{tempfile.gettempdir()}/polyshm-random-{os.getpid()}"
    os.makedirs(folder, exist_ok=True)
    program = Program(seed, folder, trace)
    program.run(steps)
    if program.ending == "exit":
        os._exit(0)
    if program.ending == "clean":
        left = clean_up(program)
        if left:
            print("left behind:", *left, sep="\n  ", file=sys.stderr)
            return 97
    elif program.ending == "garbage":
        sys.forever = program  # seen by nobody until the interpreter ends
        program.me = program
    program.seconds = 0
    return 0


def remove_names(child: int) -> None:
    """What a program may leave: its names."""
    folder = Path(tempfile.gettempdir(), f"polyshm-random-{child}")
    ids = folder / "sysv"
    ours = {f"sysv:id={number}" for number in ids.read_text().split()} if ids.exists() else set()
    leftovers.remove({name for name in leftovers.names() if name in ours or f"/polyshm-random-{child}-" in name})
    shutil.rmtree(folder, ignore_errors=True)


def forked(seed: int, steps: list[int] | None, trace: bool) -> str:
    """Runs one program in a child of its own; empty, or how it ended."""
    with tempfile.TemporaryFile() as words:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(words.fileno(), 2)
            sys.exit(run(seed, steps, trace))
        end, asked = time.monotonic() + 2 * HANG, False
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL if asked else signal.SIGQUIT)
                asked, end = True, end + 3
            time.sleep(0.0005)
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
        leftovers.children()  # collects them
        remove_names(child)
        words.seek(0)
        text = words.read().decode(errors="replace")
    bad = status != 0 or "Fatal Python" in text or "Sanitizer" in text
    if not bad:
        return text if trace else ""
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    return f"seed {seed}: {how}\n{text}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs random programs.")
    parser.add_argument("seed", type=int)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--steps", type=lambda text: [int(part) for part in text.split(",")])
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args()
    leftovers.adopt_orphans()
    end = time.monotonic() + options.seconds
    failed = done = 0
    for seed in range(options.seed, options.seed + options.count):
        if time.monotonic() > end:
            break
        done += 1
        words = forked(seed, options.steps, options.trace)
        if words:
            failed += not options.trace
            print(words, flush=True)
    print(f"{done} programs, {failed} ended badly", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
