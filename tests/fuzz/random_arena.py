# SPDX-License-Identifier: MIT
"""The steps of random_programs.py on arenas: objects of all nouns, polyshm.wait, pollfd and notifiers.

Nothing here waits for ever but under a signal's handler that ends it. Bytes of an arena are let alone; fuzz_arena.c
is for those.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import random
import select
from collections.abc import Callable, Iterator
from typing import Any

import polyshm

OPERATIONS: list[tuple[int, Callable]] = []
START = ["open_arena"] * 3 + ["take_object"] * 12
NOUNS = ["mutex", "rwlock", "semaphore", "permits", "condition", "event", "barrier", "once", "latch", "counter"]
USES: dict[str, Callable] = {}


def operation(weight: int):
    def register(function):
        OPERATIONS.append((weight, function))
        return function

    return register


def use(name: str):
    def register(function):
        USES[name] = function
        return function

    return register


@contextlib.contextmanager
def waited(function: Callable[[], object]) -> Iterator[None]:
    function()
    yield


@operation(8)
def open_arena(p: Any, rng: random.Random) -> None:
    kind = rng.choice(["posix", "posix", "posix", "file", "anon", "zero", "memfd"])
    options: dict = {"create": rng.random() < 0.9}
    if options["create"]:
        options["size"] = rng.choice([1 << 17, 1 << 18, "1M"])
        options["participants"] = rng.choice([4, 16, 64])
    if rng.random() < 0.2:
        options["access"] = rng.choice(["r", "r", "rw"])
    if rng.random() < 0.2:
        options["life"] = rng.choice(["keep", "last-detach"])
    for option, luck in (("exclusive", 0.05), ("reserve", 0.1)):
        if rng.random() < luck:
            options[option] = p.odd(rng, rng.random() < 0.5)
    if rng.random() < 0.03:
        options[rng.choice(["size", "participants", "mode", "life", "wait"])] = p.odd(rng, p.timeout(rng))
    number = rng.randrange(2)
    named = {"posix": f"posix:/{p.prefix}-arena{number}", "file": f"file:{p.folder}/arena{number}"}
    address = named.get(kind, kind + ":")
    p.pool.add("arena", polyshm.Arena(address, **options))


@operation(3)
def close_arena(p: Any, rng: random.Random) -> None:
    p.pool.pick(rng, "arena").close()
    if rng.random() < 0.8:
        p.pool.objects["arena"] = [arena for arena in p.pool.objects["arena"] if not arena.closed]


@operation(1)
def leave_arena(p: Any, rng: random.Random) -> None:
    with p.pool.pick(rng, "arena"):
        p.nested(rng)


@operation(16)
def take_object(p: Any, rng: random.Random) -> None:
    arena = p.pool.pick(rng, "arena")
    noun = rng.choice(NOUNS)
    # Names that two nouns want are refused to one of them.
    name = p.odd(rng, rng.choice([f"{noun}0", f"{noun}0", f"{noun}1", "any"]))
    luck = rng.random()
    if luck < 0.05:
        handle = arena[name]
    elif luck < 0.1:
        handle = rng.choice(arena.items())[1]
    elif noun in ("mutex", "rwlock"):
        repair = rng.choice([None, lambda died: p.nested(rng), lambda died: handle.release(), lambda _: arena.close()])
        more = {"recursive": rng.choice([None, True, False])} if noun == "mutex" else {}
        handle = getattr(arena, noun)(name, repair=repair, **more)
    elif noun == "condition":
        handle = arena.condition(name, rng.choice([None, arena.mutex("mutex0"), arena.mutex("mutex1")]))
    elif noun == "event":
        handle = arena.event(name, rng.choice([None, True, False]))
    elif noun == "barrier":
        handle = arena.barrier(name, p.odd(rng, rng.choice([None, 1, 2, 3])), rng.choice([None, "break", "shrink"]))
    elif noun in ("permits", "latch", "semaphore"):
        handle = getattr(arena, noun)(name, p.odd(rng, rng.choice([None, 1, 2, 3])))
    else:
        handle = getattr(arena, noun)(name)
    p.pool.add("object", handle)


@operation(60)
def use_object(p: Any, rng: random.Random) -> None:
    handle = p.pool.pick(rng, "object")
    USES[type(handle).__name__](p, rng, handle)


def held(p: Any, rng: random.Random, lock: Any) -> None:
    try:
        p.nested(rng)
    finally:
        lock.release()


@use("Mutex")
@use("_RWLockSide")
def use_lock(p: Any, rng: random.Random, lock: Any) -> None:
    how = rng.randrange(9)
    if how < 2:
        lock.acquire(timeout=p.timeout(rng))
    elif how < 4:
        lock.release()
    elif how == 4:
        lock.locked(), lock.owner(), repr(lock)
    elif how == 5:
        p.pool.add("recovery", lock.recover(p.timeout(rng)))
    elif how == 6:
        with lock.recover(rng.choice([0, 0.002])):
            p.nested(rng)
    elif how == 7 and lock.acquire(False):
        held(p, rng, lock)
    else:
        p.interrupted(rng, lock)


@use("RWLock")
def use_rwlock(p: Any, rng: random.Random, rwlock: Any) -> None:
    how = rng.randrange(4)
    if how == 0:
        rwlock.downgrade()
    elif how == 1:
        p.pool.add("object", rng.choice([rwlock.read, rwlock.write]))
    else:
        use_lock(p, rng, rng.choice([rwlock.read, rwlock.write]))


@use("Semaphore")
def use_semaphore(p: Any, rng: random.Random, semaphore: Any) -> None:
    how = rng.randrange(5)
    if how == 0:
        semaphore.acquire(timeout=p.timeout(rng))
    elif how == 1:
        semaphore.release(p.odd(rng, rng.choice([1, 1, 2])))
    elif how == 2:
        semaphore.value(), repr(semaphore)
    elif how == 3 and semaphore.acquire(False):
        held(p, rng, semaphore)
    else:
        p.interrupted(rng, semaphore)


@use("Permits")
def use_permits(p: Any, rng: random.Random, permits: Any) -> None:
    how = rng.randrange(6)
    n = p.odd(rng, rng.choice([1, 1, 1, 2, 3]))
    if how == 0:
        permits.acquire(n, p.timeout(rng))
    elif how == 1:
        permits.release(n)
    elif how == 2:
        permits.available(), permits.held(), permits.total, repr(permits)
    elif how == 3:
        permits.release(permits.held())
    elif how == 4 and permits.acquire(1, 0):
        held(p, rng, permits)
    else:
        p.interrupted(rng, permits)


@use("Condition")
def use_condition(p: Any, rng: random.Random, condition: Any) -> None:
    how = rng.randrange(7)
    if how == 0:
        condition.notify(p.odd(rng, 1))
    elif how == 1 or os.getpid() != p.main_pid:  # who has the mutex may wait for this child to end
        condition.notify_all()
    elif how == 2:
        condition.wait(p.timeout(rng))
    elif how == 3:
        use_lock(p, rng, condition.mutex)
    elif condition.acquire(False):
        with contextlib.closing(contextlib.ExitStack()) as stack:
            stack.callback(condition.release)
            if how == 4:
                condition.wait_for(lambda: p.nested(rng), p.timeout(rng))
            elif how == 5:
                condition.wait(p.timeout(rng))
            else:
                p.interrupted(rng, waited(condition.wait))


@use("Event")
def use_event(p: Any, rng: random.Random, event: Any) -> None:
    how = rng.randrange(6)
    if how == 0:
        event.set()
    elif how == 1:
        event.clear()
    elif how == 2:
        event.is_set(), event.auto, repr(event)
    elif how == 3:
        p.interrupted(rng, waited(event.wait))
    else:
        event.wait(p.timeout(rng))


@use("Barrier")
def use_barrier(p: Any, rng: random.Random, barrier: Any) -> None:
    how = rng.randrange(9)
    if how < 3:
        barrier.wait(p.timeout(rng))
    elif how == 3:
        p.interrupted(rng, waited(barrier.wait))
    elif how == 4:
        barrier.n_waiting, barrier.broken, barrier.parties, barrier.on_death, repr(barrier)
    else:
        getattr(barrier, ["join", "leave", "reset", "abort"][how - 5])()


@use("Once")
def use_once(p: Any, rng: random.Random, once: Any) -> None:
    how = rng.randrange(5)
    if how == 0:
        once.done(), repr(once)
    elif how == 1:
        p.interrupted(rng, waited(lambda: once.run(lambda: p.nested(rng))))
    elif how == 2:
        once.run(lambda: 1 / 0, p.timeout(rng))
    elif how == 3:
        once.run(lambda: once.run(list), p.timeout(rng))
    else:
        once.run(lambda: p.nested(rng), p.timeout(rng))


@use("Latch")
def use_latch(p: Any, rng: random.Random, latch: Any) -> None:
    how = rng.randrange(4)
    if how == 0:
        latch.count_down(p.odd(rng, 1))
    elif how == 1:
        latch.count(), repr(latch)
    elif how == 2:
        p.interrupted(rng, waited(latch.wait))
    else:
        latch.wait(p.timeout(rng))


@use("Counter")
def use_counter(p: Any, rng: random.Random, counter: Any) -> None:
    how = rng.choice(["load", "store", "add", "sub", "exchange", "max", "min", "wait", "compare_exchange"])
    value = p.odd(rng, rng.choice([0, 1, -1, 3]))
    if how == "load":
        counter.load()
    elif how == "wait":
        counter.wait(value, p.timeout(rng))
    elif how == "compare_exchange":
        counter.compare_exchange(value, 2)
    else:
        getattr(counter, how)(value)


# ---- several at once ----


def waitable(p: Any, rng: random.Random) -> Any:
    handle = p.pool.pick(rng, "object", "participant")
    return (handle, p.odd(rng, 2)) if rng.random() < 0.1 else handle


@operation(8)
def wait_for_several(p: Any, rng: random.Random) -> None:
    objects = [waitable(p, rng) for _ in range(rng.choice([0, 1, 2, 5, 5, 150]))]
    # What is no sequence of handles is refused now and then.
    objects = [each for each in objects if rng.random() < 0.01 or type(each).__name__ not in ("RWLock", "_RWLockSide")]
    if rng.random() < 0.2:
        p.interrupted(rng, waited(lambda: polyshm.wait(objects)))
    else:
        polyshm.wait(p.odd(rng, objects), p.timeout(rng))


@operation(8)
def poll(p: Any, rng: random.Random) -> None:
    handle = p.pool.pick(rng, "object", "participant")
    arguments = (p.odd(rng, 2),) if rng.random() < 0.1 else ()
    poller = select.poll()
    poller.register(handle.pollfd(*arguments), select.POLLIN)
    if rng.random() < 0.5:
        handle = None
        p.nested(rng)
    poller.poll(rng.choice([0, 1, 3]))


@operation(6)
def notify(p: Any, rng: random.Random) -> None:
    if rng.random() < 0.2:
        p.pool.add("notifier", polyshm._core.Notifier())
    notifier = p.pool.pick(rng, "notifier")
    how = rng.randrange(8)
    token = p.odd(rng, rng.randrange(5))
    if how < 4:
        notifier.add(waitable(p, rng), token)
    elif how == 4:
        notifier.remove(token)
    elif how == 5:
        poller = select.poll()
        poller.register(notifier, select.POLLIN)
        poller.poll(1)
    elif how == 6 and rng.random() < 0.3:
        notifier.close()
    else:
        notifier.take()


# ---- the whole ----


@operation(4)
def delete(p: Any, rng: random.Random) -> None:
    arena = p.pool.pick(rng, "arena")
    name = p.odd(rng, rng.choice(list(arena) or ["none"]))
    if rng.random() < 0.5:
        del arena[name]
    else:
        arena.delete(name)


@operation(4)
def ask_arena(p: Any, rng: random.Random) -> None:
    arena = p.pool.pick(rng, "arena")
    how = rng.randrange(6)
    if how == 0:
        for participant in arena.participants():
            p.pool.add("participant", participant)
    elif how == 1:
        arena.check()
    elif how == 2:
        arena.stats(), repr(arena), len(arena), "any" in arena
    elif how == 3:
        arena.unlink()
    elif how == 4:
        p.pool.pick(rng, "participant").wait(p.timeout(rng))
    else:
        for _, handle in arena.items():
            p.pool.add("object", handle)


@operation(3)
def arena_travels(p: Any, rng: random.Random) -> None:
    sort = rng.choice(["arena", "object", "object"])
    there = rng.choice([lambda v: pickle.loads(pickle.dumps(v)), copy.copy, copy.deepcopy])
    p.pool.add(sort, there(p.pool.pick(rng, sort)))


@operation(2)
def use_heap(p: Any, rng: random.Random) -> None:
    arena = p.pool.pick(rng, "arena")
    root = arena.root(p.odd(rng, rng.randrange(3)))
    how = rng.randrange(3)
    if how == 0:
        arena.alloc_into(root, p.odd(rng, rng.choice([1, 100, 5000])))
    elif how == 1:
        arena.free_from(root)
    else:
        arena.block_size(root)


def clean_up(p: Any) -> list[str]:
    """What is wrong in the arenas, where all that was under way is over; and lets go what this thread has."""
    found = []
    for handle in p.pool.objects.get("object", []):
        for lock in {"RWLock": ("read", "write"), "Condition": ("mutex",)}.get(type(handle).__name__, ("",)):
            with contextlib.suppress(Exception):
                own = getattr(handle, lock) if lock else handle
                while hasattr(own, "owner") or hasattr(own, "held"):
                    own.release()
        with contextlib.suppress(Exception):
            handle.leave()
    for arena in p.pool.objects.get("arena", []):
        with contextlib.suppress(ValueError, OSError):
            found += arena.check()
    return found if os.getpid() == p.main_pid else []
