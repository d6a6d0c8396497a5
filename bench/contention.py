"""Two processes that add to one word under a lock: a JSON object of additions per second, by lock."""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import polyshm

SECONDS = 0.25


def worker(make: Callable[[], tuple[Any, Any]], core: int, start: Any, results: Any) -> None:
    os.sched_setaffinity(0, {core})
    lock, words = make()
    start.wait()
    count, end = 0, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for _ in range(200):
            with lock:
                words[0] += 1
        count += 200
    results.put(count)


def run(make: Callable[[], tuple[Any, Any]], check: Callable[[], int]) -> float:
    start, results = multiprocessing.Barrier(2), multiprocessing.SimpleQueue()
    workers = [multiprocessing.Process(target=worker, args=(make, core, start, results)) for core in (0, 1)]
    for process in workers:
        process.start()
    total = sum(results.get() for _ in workers)
    for process in workers:
        process.join()
    if check() != total:
        raise SystemExit(f"lost updates: {check()} of {total}")
    return total / SECONDS


def main() -> None:
    multiprocessing.set_start_method("fork")
    results = {}
    plain = multiprocessing.Lock()
    words = multiprocessing.RawArray("q", 1)
    results["mp.Lock"] = run(lambda: (plain, words), lambda: words[0])
    segment = polyshm.Segment("anon:", size=4096)
    lock = segment.mutex(64, create=True)
    view = segment.view("i64", 0, 1)
    results["mutex"] = run(lambda: (lock, view), lambda: view[0])
    arena = polyshm.Arena("anon:", size="1M")
    before = view[0]
    results["arena mutex"] = run(lambda: (arena.mutex("lock"), view), lambda: view[0] - before)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
