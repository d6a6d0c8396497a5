"""One round of Python's figures: a JSON object of nanoseconds per operation, by name."""

import json
import mmap
import multiprocessing
import os
import sys
import time
import timeit
from multiprocessing import resource_tracker, shared_memory
from typing import Any

import floor_python
import polyshm

try:
    import sysv_ipc
except ImportError:
    sysv_ipc = None

QUICK = 0.01
NAME = f"posix:/bench-python-{os.getpid()}"


def measure(statement: str, names: dict[str, Any], unroll: int = 10, seconds: float = QUICK) -> float:
    """Nanoseconds for one statement: the best of three, each about `seconds` long."""
    timer = timeit.Timer("\n".join([statement] * unroll), globals=names)
    number, taken = 1, timer.timeit(1)
    while taken < seconds:
        number = max(number * 2, int(number * seconds / max(taken, 1e-9)))
        taken = timer.timeit(number)
    return min([taken, timer.timeit(number), timer.timeit(number)]) / number / unroll * 1e9


def small(results: dict[str, float]) -> None:
    size = 1 << 20
    segment = polyshm.Segment(NAME, size=size, create=True)
    memory = mmap.mmap(-1, size)
    lock = multiprocessing.Lock()
    arena = polyshm.Arena("anon:", size="1M")
    names: dict[str, Any] = {
        "s": segment,
        "m": memory,
        "b": b"x" * 64,
        "a": segment.atomic("i64", 0),
        "l": segment.mutex(64, create=True),
        "k": arena.mutex("lock"),
        "c": arena.counter("count"),
        "r": arena.rwlock("rw").read,
        "w": arena.rwlock("rw").write,
        "se": arena.semaphore("semaphore"),
        "ev": arena.event("event"),
        "la": arena.latch("latch", 2**31 - 1),
        "pe": arena.permits("permits", 4),
        "on": arena.once("once"),
        "ms": multiprocessing.Semaphore(),
        "me": multiprocessing.Event(),
        "e": floor_python.Empty(),
        "p": lock,
    }
    statements = {
        "atomic.add": "a.add(1)",
        "empty add": "e.add(1)",
        "mutex pair": "l.acquire(); l.release()",
        "mutex with": "with l: pass",
        "arena mutex pair": "k.acquire(); k.release()",
        "arena mutex with": "with k: pass",
        "rwlock read pair": "r.acquire(); r.release()",
        "rwlock write pair": "w.acquire(); w.release()",
        "semaphore pair": "se.acquire(); se.release()",
        "event pair": "ev.set(); ev.clear()",
        "event.is_set": "ev.is_set()",
        "latch.count_down": "la.count_down()",
        "permits pair": "pe.acquire(); pe.release()",
        "once.done": "on.done()",
        "mp.Semaphore pair": "ms.acquire(); ms.release()",
        "mp.Event pair": "me.set(); me.clear()",
        "mp.Event.is_set": "me.is_set()",
        "one empty": "e.nop()",
        "counter.add": "c.add(1)",
        "two empty": "e.nop(); e.nop()",
        "mp.Lock pair": "p.acquire(); p.release()",
        "mp.Lock with": "with p: pass",
        "slice read": "s[0:64]",
        "mmap slice read": "m[0:64]",
        "slice write": "s[0:64] = b",
        "mmap slice write": "m[0:64] = b",
        "read": "s.read(0, 64)",
        "write": "s.write(0, b)",
    }
    if sysv_ipc:
        names["y"] = sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX, initial_value=1)
        statements["sysv_ipc pair"] = "y.acquire(); y.release()"
    for name, statement in statements.items():
        results[name] = measure(statement, names)
    if sysv_ipc:
        names["y"].remove()
    results["floor atomic"] = floor_python.atomic_add(2_000_000)
    results["floor mutex pair"] = floor_python.mutex_pair(1_000_000)
    arena.close()
    segment.unlink()
    segment.close()


def answer(here: Any, there: Any, turn: Any, times: int) -> None:
    for i in range(times):
        with here:
            while turn[0] != 2 * i + 1:
                here.wait()
            turn[0] += 1
            there.notify()


def ask(here: Any, there: Any, turn: Any, times: int) -> float:
    """Nanoseconds for one turn of two processes that wait for each other on two conditions of one lock."""
    child = multiprocessing.get_context("fork").Process(target=answer, args=(there, here, turn, times))
    child.start()
    start = time.perf_counter()
    for i in range(times):
        with here:
            turn[0] += 1
            there.notify()
            while turn[0] != 2 * i + 2:
                here.wait()
    taken = time.perf_counter() - start
    child.join()
    return taken / times / 2 * 1e9


def conditions(results: dict[str, float]) -> None:
    times = 1000
    with mmap.mmap(-1, 4096) as memory:
        turn = memoryview(memory).cast("Q")
        arena = polyshm.Arena("anon:", size="1M")
        mutex = arena.mutex("lock")
        results["condition turn"] = ask(arena.condition("a", mutex), arena.condition("b", mutex), turn, times)
        arena.close()
        turn[0] = 0
        lock = multiprocessing.Lock()
        pair = [multiprocessing.Condition(lock) for _ in range(2)]
        results["mp.Condition turn"] = ask(*pair, turn, times)
        turn.release()


def bulk(results: dict[str, float]) -> None:
    for label, size, n in (("1 MiB", 1 << 20, 200), ("64 MiB", 64 << 20, 3)):
        segment = polyshm.Segment("anon:", size=size, populate=True)
        names: dict[str, Any] = {"s": segment, "b": bytes(size), "t": bytearray(size), "n": size}
        seconds = 0.02 if size < 1 << 24 else 0.001
        segment.fill(1)
        results[f"write {label}"] = measure("s.write(0, b)", names, 1, seconds)
        results[f"floor copy {label}"] = floor_python.copy(n, size)
        results[f"read_into {label}"] = measure("s.read_into(t)", names, 1, seconds)
        results[f"read {label}"] = measure("s.read(0, n)", names, 1, seconds)
        results[f"floor malloc copy {label}"] = floor_python.malloc_copy(n, size)
        segment.close()


def cycles(results: dict[str, float]) -> None:
    name = NAME + "-cycle"
    results["floor create"] = floor_python.create(1000)
    names: dict[str, Any] = {"S": polyshm.Segment, "M": shared_memory.SharedMemory, "n": name, "plain": name[7:]}
    results["create"] = measure("s = S(n, size=4096, exclusive=True); s.unlink(); s.close()", names, 1)
    results["mp create"] = measure("s = M(plain, create=True, size=4096); s.close(); s.unlink()", names, 1)
    segment = polyshm.Segment(name, size=1 << 20, create=True)
    results["attach"] = measure("S(n).close()", names, 1)
    results["mp attach"] = measure("M(plain).close()", names, 1)
    # Every opener of multiprocessing's announces the segment for deletion at exit; this one is ours.
    resource_tracker.unregister("/" + names["plain"], "shared_memory")
    results["floor attach"] = floor_python.attach(2000, "/dev/shm/" + segment.name[1:])
    segment.unlink()
    segment.close()


def main() -> None:
    results: dict[str, float] = {}
    conditions(results)  # on all cores
    os.sched_setaffinity(0, {0})
    small(results)
    bulk(results)
    cycles(results)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
