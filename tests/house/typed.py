# SPDX-License-Identifier: MIT
"""What mypy --strict has to accept of a program with arenas, and what it has to find: an ignore that hides nothing is
an error. Nobody runs it; `make lint` checks it."""

from __future__ import annotations

import polyshm
import polyshm.aio
from typing_extensions import assert_type


def locks(shared: polyshm.Arena) -> None:
    mutex = shared.mutex("mutex", recursive=False, repair=lambda died: print(died.pid, died.participant, died.lock))
    with mutex.recover() as died:
        assert_type(died, polyshm.OwnerDied | None)
    assert_type(shared.condition("condition", mutex).wait_for(lambda: 3, timeout=1), int)
    with shared.permits("permits", 3) as got, shared.semaphore("semaphore", 0), shared.rwlock("rwlock").read as read:
        assert_type(got and read, bool)
    assert_type(shared.barrier("barrier", 3, on_death="shrink").wait(timeout=1.5), int)
    assert_type(shared.once("once").run(mutex.release, 1), bool)
    shared.barrier("barrier", on_death="grow")  # type: ignore[arg-type]
    shared.barrier("barrier").pollfd()  # type: ignore[attr-defined]
    for name, thing in shared.items():
        assert_type(name, str)
        assert_type(thing.name, str)


def waiting(shared: polyshm.Arena) -> None:
    counter, event, permits = shared.counter("counter"), shared.event("event", auto=True), shared.permits("permits")
    assert_type(polyshm.wait([counter, counter], 1), list[polyshm.Counter])
    assert_type(polyshm.wait(shared.participants()), list[polyshm.Participant])
    ready = polyshm.wait([counter, event, (counter, 3), (permits, 2), *shared.participants()], timeout=1)
    print([thing for thing in ready if thing is event])
    polyshm.wait([(event, 1)])  # type: ignore[type-var]
    polyshm.wait([shared.rwlock("rwlock")])  # type: ignore[type-var]


async def tasks(shared: polyshm.Arena) -> None:
    async with polyshm.aio.Mutex(shared.mutex("mutex")).recover() as died:
        assert_type(died, polyshm.OwnerDied | None)
    condition = polyshm.aio.Condition(shared.condition("condition"))
    async with condition:
        assert_type(await condition.wait_for(lambda: "so"), str)
    polyshm.aio.Event(shared.semaphore("semaphore"))  # type: ignore[arg-type]
