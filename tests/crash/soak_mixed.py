# SPDX-License-Identifier: MIT
"""Workers in C, Python and Lua on one arena, and an adversary that kills, stops and continues them.

    soak_mixed.py SECONDS [SEED]

The workers are crash_soak (driver_soak.c), soak_worker.py and soak_worker.lua. When all are dead, everything is
counted: every lock can be had, what it guards is whole or its owner's death was told, nothing is leaked, nobody is
left. What is known of the course of things is kept outside the arena. Ends with 0 if all is well.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import polyshm

HERE = Path(__file__).resolve().parent
BUILD = Path(os.environ.get("POLYSHM_BUILD", HERE.parents[1] / "build")).resolve()
LOCKS, COUNTERS, NAMES, NESTED = 4, 2, 12, 5
ROOTS = range(4, 14)
STALL = 15.0
WORKERS = ["c", "c", "python", "python", "lua", "lua"]
# Python's have two threads, each with a word of the log.
NUMBERS = [0, 1, 2, 4, 6, 7]
WORDS = 8
# Bytes that a larger table of the directory has more than the first one.
GROWTH = {0, 512, 1536}


class Wrong(Exception):
    pass


class Soak:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.address = f"posix:/polyshm-mixed-{os.getpid()}"
        self.arena = polyshm.Arena(self.address, create=True, exclusive=True, size="4M", participants=40)
        self.log = polyshm.Segment(f"posix:/polyshm-mixed-log-{os.getpid()}", size=4096, create=True, exclusive=True)
        for i in range(COUNTERS):
            self.arena.counter(f"counter{i}")
        self.places = []
        for i in range(LOCKS):
            self.arena.mutex(f"lock{i}")
            self.arena.alloc_into(self.arena.root(i), 16 + 8 * NESTED)
            self.places.append(self.place_in_root(i))
        # What the workers in Python and Lua use besides.
        self.arena.rwlock("rw")
        self.arena.counter("left")
        self.arena.counter("right")
        self.arena.permits("pool", 3)
        self.arena.barrier("barrier", 3, "shrink")
        self.arena.condition("changed", self.arena.mutex("changes"))
        self.arena.semaphore("places", 2)
        self.arena.event("event", auto=True)
        self.objects = len(self.arena)
        self.start = self.arena.stats()["used"]
        self.errors: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in WORKERS]
        self.running: list[subprocess.Popen[bytes]] = [self.spawn(i) for i in range(len(WORKERS))]
        self.kills = self.stops = 0
        self.languages: set[str] = set()

    def place_in_root(self, i: int) -> int:
        with polyshm.Segment(self.address) as raw:
            place: int = struct.unpack("Q", raw.read(self.arena.root(i), 8))[0]
            return place

    def spawn(self, i: int) -> subprocess.Popen[bytes]:
        arguments = [self.address, self.log.address, str(NUMBERS[i]), str(self.random.randrange(1 << 31))]
        places = [str(place) for place in self.places]
        commands: dict[str, list[str | Path]] = {
            "c": [BUILD / "tests/crash_soak", "join", *arguments],
            "python": [sys.executable, "-S", HERE / "soak_worker.py", *arguments, *places],
            "lua": ["lua5.4", HERE / "soak_worker.lua", *arguments, *places],
        }
        self.errors[i].seek(0)
        self.errors[i].truncate()
        return subprocess.Popen(commands[WORKERS[i]], stderr=self.errors[i])

    def reap(self, i: int) -> None:
        if self.running[i].wait(STALL) != -signal.SIGKILL:
            self.errors[i].seek(0)
            text = self.errors[i].read().decode(errors="replace")
            raise Wrong(f"a worker in {WORKERS[i]} ended by itself: {text}")

    def kill(self, victims: list[int]) -> None:
        for i in victims:
            self.running[i].kill()
        for i in victims:
            self.reap(i)
        self.kills += len(victims)

    def act(self) -> None:
        choice = self.random.random()
        victims = self.random.sample(range(len(WORKERS)), 2 if choice < 0.15 else 1)
        if choice < 0.8:
            self.kill(victims)
            for i in victims:
                self.running[i] = self.spawn(i)
        else:
            self.running[victims[0]].send_signal(signal.SIGSTOP)
            time.sleep(self.random.random() * 0.3)
            self.running[victims[0]].send_signal(signal.SIGCONT)
            self.stops += 1

    def turns(self) -> tuple[int, ...]:
        return struct.unpack(f"{WORDS}Q", self.log.read(0, 8 * WORDS))

    def expect_progress(self) -> None:
        before, end = self.turns(), time.monotonic() + STALL
        while any(now == then for now, then in zip(self.turns(), before, strict=True)):
            for i, worker in enumerate(self.running):
                if worker.poll() is not None:
                    self.reap(i)
            if time.monotonic() > end:
                raise Wrong(f"somebody has had no turn for {STALL} s: {before}, {self.turns()}")
            time.sleep(0.005)
        self.languages |= {one.language for one in self.arena.participants() if one.alive}

    def count_everything(self) -> None:
        arena = self.arena
        for i, place in enumerate(self.places):
            with arena.mutex(f"lock{i}").recover(timeout=STALL) as died:
                a, b = struct.unpack("QQ", arena.read(place, 16))
                if a != b and not died:
                    raise Wrong(f"the books of lock{i} differ, {a} and {b}, and no death is told")
                for nested in range(NESTED):
                    arena.free_from(place + 16 + 8 * nested)
        if findings := arena.check():
            raise Wrong(f"after the deaths: {findings}")
        for i in range(NAMES):
            if f"name{i}" in arena:
                arena.delete(f"name{i}")
        for i in ROOTS:
            arena.free_from(arena.root(i))
        arena.counter("last")
        arena.delete("last")
        self.expect_locks()
        if len(arena) != self.objects:
            raise Wrong(f"objects are left: {list(arena)}")
        if (leaked := arena.stats()["used"] - self.start) not in GROWTH:
            raise Wrong(f"{leaked} bytes are leaked")
        if findings := arena.check():
            raise Wrong(f"in the end: {findings}")
        if ghosts := [one for one in arena.participants() if one.alive and not one.self]:
            raise Wrong(f"still taking part: {ghosts}")
        if missing := {"c", "python", "lua"} - self.languages:
            raise Wrong(f"nobody was seen who runs {missing}")

    def expect_locks(self) -> None:
        """Everybody else is dead: every lock is to be had, and holds what it promises."""
        arena = self.arena
        with arena.rwlock("rw").write.recover(timeout=STALL) as died:
            left, right = arena["left"].load(), arena["right"].load()
            if left != right and not died:
                raise Wrong(f"the sides of rw differ, {left} and {right}, and no death is told")
        pool = arena.permits("pool")
        if not pool.acquire(3, STALL):
            raise Wrong(f"{pool.available()} permits of 3 came back")
        pool.release(3)
        barrier = arena.barrier("barrier")
        barrier.reset()
        barrier.join()
        barrier.leave()
        with arena["changes"].recover(timeout=STALL):
            arena["changed"].notify_all()

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.expect_progress()
        acts = 0
        while time.monotonic() < end:
            time.sleep(self.random.random() * 0.05)
            self.act()
            acts += 1
            if acts % 20 == 0:
                self.expect_progress()
        self.expect_progress()
        self.kill(list(range(len(WORKERS))))
        self.count_everything()

    def end(self) -> None:
        for worker in self.running:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        self.arena.unlink()
        self.log.unlink()


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    print(f"seed {seed}", flush=True)
    soak = Soak(seed)
    try:
        soak.run(seconds)
    except Wrong as wrong:
        print(f"FAILED: {wrong}")
        return 1
    finally:
        print(f"{sum(soak.turns())} turns, {soak.kills} kills, {soak.stops} stops")
        soak.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
