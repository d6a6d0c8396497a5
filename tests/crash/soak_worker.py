# SPDX-License-Identifier: MIT
"""A worker of soak_mixed.py in Python: two threads that use everything an arena has, until they are killed.

    soak_worker.py ADDRESS LOG NUMBER SEED PLACE ...

PLACEs are those of the blocks that lock0, lock1, ... guard: two numbers that are equal but for a moment, and
destinations of further blocks, whose first word is their own place. Turns are counted in the word NUMBER of LOG.
"""

import ctypes
import errno
import os
import random
import signal
import struct
import sys
import threading
import time
import traceback

import polyshm

NESTED = 5
NAMES = 12
ROOTS = range(4, 14)

address, log, number, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
places = [int(place) for place in sys.argv[5:]]


def is_gone(pid: int) -> bool:
    """Whoever is told dead is, or is at its end this moment."""
    for _ in range(2000):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] in "ZX":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.001)
    return False


def expect(right: bool, what: object) -> None:
    if not right:
        raise AssertionError(what)


class Worker:
    def __init__(self, thread: int) -> None:
        self.random = random.Random(seed * 2 + thread)
        self.open()

    def open(self) -> None:
        self.arena = polyshm.Arena(address)
        self.locks = [self.arena.mutex(f"lock{i}") for i in range(len(places))]
        self.counters = [self.arena.counter(f"counter{i}") for i in range(2)]
        self.rw, self.pool, self.barrier = (
            self.arena.rwlock("rw"),
            self.arena.permits("pool"),
            self.arena.barrier("barrier"),
        )
        self.left, self.right = self.arena.counter("left"), self.arena.counter("right")
        self.changed, self.changes = self.arena.condition("changed"), self.arena.mutex("changes")
        self.places, self.event = self.arena.semaphore("places"), self.arena.event("event")

    def repair(self, place: int) -> None:
        for i in range(NESTED):
            self.arena.free_from(place + 16 + 8 * i)
        (a,) = struct.unpack("Q", self.arena.read(place, 8))
        self.arena.write(place + 8, struct.pack("Q", a))

    def keep(self, place: int) -> None:
        target = place + 16 + 8 * self.random.randrange(NESTED)
        (block,) = struct.unpack("Q", self.arena.read(target, 8))
        if block:
            (inside,) = struct.unpack("Q", self.arena.read(block, 8))
            assert inside == block, (inside, block)
            self.arena.write(block, bytes(8))
            self.arena.free_from(target)
            return
        try:
            self.arena.alloc_into(target, 8 + self.random.randrange(1 << self.random.randrange(14)))
        except OSError as error:
            expect(error.errno == errno.ENOSPC, error)
            return
        (block,) = struct.unpack("Q", self.arena.read(target, 8))
        assert self.arena.read(block, 8) == bytes(8)
        self.arena.write(block, struct.pack("Q", block))

    def use_lock(self) -> None:
        i = self.random.randrange(len(places))
        lock, place = self.locks[i], places[i]
        if self.random.random() < 0.3:
            try:
                with lock:
                    self.books(place, None)
                return
            except polyshm.OwnerDied as error:
                expect(error.pid is None or is_gone(error.pid), error)
        with lock.recover() as died:
            self.books(place, died)

    def books(self, place: int, died: polyshm.OwnerDied | None) -> None:
        if died:
            assert died.pid is None or is_gone(died.pid), died
            self.repair(place)
        a, b = struct.unpack("QQ", self.arena.read(place, 16))
        assert a == b, (a, b, died)
        self.arena.write(place, struct.pack("Q", a + 1))
        if self.random.random() < 0.5:
            self.keep(place)
        self.arena.write(place + 8, struct.pack("Q", b + 1))

    def use_counter(self) -> None:
        counter = self.random.choice(self.counters)
        now = counter.add(1)
        if self.random.random() < 0.1:
            counter.wait(now + 1, timeout=0.002)

    def use_rwlock(self) -> None:
        if self.random.random() < 0.7:
            try:
                with self.rw.read:
                    assert self.left.load() == self.right.load()
            except polyshm.OwnerDied as error:
                expect(error.pid is None or is_gone(error.pid), error)
            return
        with self.rw.write.recover() as died:
            if died:
                self.right.store(self.left.load())
            value = self.left.load()
            assert self.right.load() == value
            self.left.store(value + 1)
            self.right.store(value + 1)

    def use_permits(self) -> None:
        n = self.random.randrange(1, 4)
        if self.pool.acquire(n, 0.01):
            assert self.pool.held() == n
            self.pool.release(n)

    def use_barrier(self) -> None:
        try:
            index = self.barrier.wait(0.002)
            assert 0 <= index < 3
        except threading.BrokenBarrierError:
            self.barrier.reset()
        except RuntimeError as error:
            expect("parties" in str(error), error)
        self.barrier.leave()

    def use_condition(self) -> None:
        try:
            with self.changes.recover():
                if self.random.random() < 0.5:
                    self.changed.notify(2)
                else:
                    self.changed.wait(0.005)
        except polyshm.OwnerDied as error:
            expect(error.pid is None or is_gone(error.pid), error)

    def use_words(self) -> None:
        if self.random.random() < 0.5:
            if self.places.acquire(timeout=0.002):
                self.places.release()
            else:
                self.places.release()  # in place of one who died with it
        else:
            self.event.set()
            self.event.wait(0.002)

    def use_name(self) -> None:
        name = f"name{self.random.randrange(NAMES)}"
        way = self.random.randrange(4)
        try:
            if way == 0:
                counter = self.arena.counter(name)
                for _ in range(3):
                    counter.add()
            elif way == 1:
                with self.arena.mutex(name).recover():
                    pass
            else:
                del self.arena[name]
        except (KeyError, polyshm.Deleted):
            pass
        except ValueError as error:
            expect("another kind" in str(error), error)
        except OSError as error:
            expect(error.errno == errno.ENOSPC, error)

    def use_root(self) -> None:
        place = self.arena.root(self.random.choice(ROOTS))
        try:
            if self.random.random() < 0.5:
                self.arena.alloc_into(place, 1 + self.random.randrange(1 << self.random.randrange(16)))
            else:
                self.arena.free_from(place)
        except ValueError as error:
            expect("does not hold 0" in str(error), error)
        except OSError as error:
            expect(error.errno == errno.ENOSPC, error)

    def look(self) -> None:
        assert sum(one.self for one in self.arena.participants()) <= 1
        assert len(list(self.arena)) >= len(places) + 11
        if self.random.random() < 0.2:
            self.open()

    def turn(self) -> None:
        self.random.choice(
            [self.use_lock] * 4
            + [self.use_rwlock, self.use_permits, self.use_barrier, self.use_condition, self.use_words]
            + [self.use_counter, self.use_name, self.use_name, self.use_root, self.use_root, self.look]
        )()


def run(thread: int, turns: polyshm.Segment) -> None:
    try:
        worker = Worker(thread)
        at = (number + thread) * 8
        while True:
            worker.turn()
            turns.write(at, struct.pack("Q", struct.unpack("Q", turns.read(at, 8))[0] + 1))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def main() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    turns = polyshm.Segment(log)
    threading.Thread(target=run, args=(1, turns), daemon=True).start()
    run(0, turns)


if __name__ == "__main__":
    main()
