# SPDX-License-Identifier: MIT
"""polyshm.aio, and partners of every language on the same objects."""

from __future__ import annotations

import asyncio
import os
import signal

import polyshm
import pytest
from polyshm import aio


@pytest.fixture
def partner(hall, writer, reader):
    """A partner, and its arena as this process has it."""
    there = hall("posix", writer, reader)
    with polyshm.Arena(there.address) as arena:
        yield writer, arena


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 40))


@pytest.fixture(params=["on", "off"], autouse=True)
def uring(request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSHM_IO_URING", request.param)


def test_a_mutex(partner) -> None:
    peer, arena = partner
    peer("amutex", "l", "a", "lock")

    async def main() -> None:
        lock = aio.Mutex(arena.mutex("lock"))
        assert peer("acquire", "l", "-") == ["1"]
        task = asyncio.create_task(lock.acquire())
        await asyncio.sleep(0.02)
        assert not task.done()
        peer("release", "l")
        await task
        assert peer("acquire", "l", "try") == ["0"]
        peer.send("acquire", "l", "-")
        assert not peer.lines.answered(0.02)
        lock.release()
        assert peer.answer() == ["1"]
        task = asyncio.create_task(lock.acquire())
        await asyncio.sleep(0.02)
        os.kill(peer.pid, signal.SIGKILL)
        with pytest.raises(polyshm.OwnerDied) as told:
            await task
        assert told.value.pid == peer.pid
        async with lock.recover() as died:
            assert died is not None

    run(main())


def test_a_semaphore_and_an_event(partner) -> None:
    peer, arena = partner
    peer("plain", "s", "a", "semaphore", "places", "0")
    peer("plain", "e", "a", "event", "event", "auto")

    async def main() -> None:
        places, event = aio.Semaphore(arena.semaphore("places")), aio.Event(arena.event("event"))
        for _ in range(3):
            tasks = [asyncio.create_task(places.acquire()), asyncio.create_task(event.wait())]
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in tasks)
            peer("act", "s", "release", "-", "-")
            peer("act", "e", "set", "-", "-")
            await asyncio.gather(*tasks)
            peer.send("act", "s", "acquire", "-", "-")
            await asyncio.sleep(0.005)
            places.release()
            assert peer.answer() == ["1"]

    run(main())


def test_a_condition(partner) -> None:
    peer, arena = partner
    peer("amutex", "l", "a", "lock")
    peer("condition", "d", "a", "changed", "l")

    async def main() -> None:
        changed = aio.Condition(arena.condition("changed"))

        async def wait() -> bool:
            async with changed:
                return await changed.wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.02)
        peer("tell", "d", "all")
        assert await task is True
        peer.send("await", "d", "-")
        while not peer.lines.answered(0.005):
            async with changed:
                changed.notify()
        assert peer.answer() == ["1"]

    run(main())
