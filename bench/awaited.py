#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""polyshm.aio beside asyncio: what awaiting costs that need not wait, and how long a wake by another process takes,
beside one by an eventfd that the process writes. Prints JSON: nanoseconds."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

import polyshm
from polyshm import aio

TIMES = 5000
WAKES = 200


async def ready(arena: polyshm.Arena, results: dict[str, float]) -> None:
    lock, other = aio.Mutex(arena.mutex("lock")), asyncio.Lock()
    places, event = aio.Semaphore(arena.semaphore("places")), aio.Event(arena.event("event"))
    event.set()

    async def pair(one: aio.Mutex | asyncio.Lock | aio.Semaphore) -> None:
        for _ in range(TIMES):
            await one.acquire()
            one.release()

    async def block(one: aio.Mutex | asyncio.Lock) -> None:
        for _ in range(TIMES):
            async with one:
                pass

    async def wait() -> None:
        for _ in range(TIMES):
            await event.wait()

    runs: dict[str, Callable[[], Awaitable[None]]] = {
        "Mutex pair": lambda: pair(lock),
        "asyncio.Lock pair": lambda: pair(other),
        "Mutex with": lambda: block(lock),
        "asyncio.Lock with": lambda: block(other),
        "Semaphore pair": lambda: pair(places),
        "Event.wait": wait,
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(7):
        for name, run in runs.items():
            start = time.perf_counter_ns()
            await run()
            best[name] = min(best[name], (time.perf_counter_ns() - start) / TIMES)
    results.update(best)


async def woken(arena: polyshm.Arena, results: dict[str, float]) -> None:
    """A child notes the time and wakes, after a pause in which this loop falls asleep."""
    loop = asyncio.get_running_loop()
    descriptor = os.eventfd(0)
    go, noted, event = arena.event("go", auto=True), arena.counter("noted"), arena.event("wake", auto=True)
    child = os.fork()
    if child == 0:
        for i in range(2 * WAKES):
            go.wait()
            time.sleep(0.0005)
            noted.store(time.perf_counter_ns())
            if i % 2:
                event.set()
            else:
                os.eventfd_write(descriptor, 1)
        os._exit(0)
    wake = aio.Event(event)
    times: dict[str, list[int]] = {"eventfd wake": [], "Event wake": []}
    for i in range(2 * WAKES):
        future = loop.create_future()
        if i % 2 == 0:
            loop.add_reader(descriptor, lambda f=future: (os.eventfd_read(descriptor), f.set_result(None)))
            go.set()
            await future
            now = time.perf_counter_ns()
            loop.remove_reader(descriptor)
        else:
            go.set()
            await wake.wait()
            now = time.perf_counter_ns()
        times["Event wake" if i % 2 else "eventfd wake"].append(now - noted.load())
    os.waitpid(child, 0)
    os.close(descriptor)
    for name, each in times.items():
        results[name] = statistics.median(each)


def main() -> None:
    results: dict[str, float] = {}
    with polyshm.Arena("anon:", size="1M") as arena:
        os.sched_setaffinity(0, {0})
        asyncio.run(ready(arena, results))
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        asyncio.run(woken(arena, results))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
