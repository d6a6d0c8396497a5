# SPDX-License-Identifier: MIT
"""polyshm.aio: awaitable locks, by io_uring and by threads."""

from __future__ import annotations

import asyncio
import collections.abc
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import polyshm
import pytest
from elsewhere import die_holding, in_child
from polyshm import aio


@pytest.fixture(params=["on", "off"], autouse=True)
def uring(request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSHM_IO_URING", request.param)


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 40))


def child(function) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


def holding(lock, seconds: float) -> int:
    """A child that has the lock, for so long."""
    read, write = os.pipe()

    def work() -> None:
        with lock:
            os.write(write, b"x")
            time.sleep(seconds)

    pid = child(work)
    assert os.read(read, 1) == b"x"
    os.close(read)
    os.close(write)
    return pid


# ---- mutex


def test_tasks_take_turns(arena) -> None:
    async def main() -> int:
        lock, value = aio.Mutex(arena.mutex("m")), 0

        async def work() -> None:
            nonlocal value
            for _ in range(20):
                async with lock:
                    before = value
                    await asyncio.sleep(0)
                    value = before + 1

        await asyncio.gather(*(work() for _ in range(10)))
        assert not lock.locked()
        assert lock.owner() is None
        return value

    assert run(main()) == 200


def test_names_and_owners(arena) -> None:
    async def main() -> None:
        mutex = arena.mutex("m")
        lock = aio.Mutex(mutex)
        assert repr(lock) == f"<polyshm.aio.Mutex of {mutex!r}>"
        assert lock.mutex is mutex
        assert isinstance(lock.acquire(), collections.abc.Coroutine)
        assert await lock.acquire() is True
        assert lock.locked()
        assert lock.owner() == os.getpid()
        with pytest.raises(RuntimeError, match="already held"):
            await lock.acquire()
        with pytest.raises(RuntimeError, match="already held"):
            mutex.acquire()  # the thread would wait for itself
        with pytest.raises(RuntimeError, match="not held"):
            mutex.release()
        assert mutex.acquire(False) is False
        other = asyncio.create_task(release(lock))
        with pytest.raises(RuntimeError, match="not held"):
            await other
        lock.release()
        with pytest.raises(RuntimeError, match="not held"):
            lock.release()
        with mutex:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(lock.acquire(), 0.02)
            with pytest.raises(RuntimeError, match="not held"):
                lock.release()
        with pytest.raises(KeyError):
            async with lock:
                raise KeyError
        assert not lock.locked()

    async def release(lock: aio.Mutex) -> None:
        lock.release()

    for wrong in (None, arena, arena.counter("c")):
        with pytest.raises(TypeError, match=r"a polyshm.Mutex is needed"):
            aio.Mutex(wrong)
    run(main())


def test_a_task_owns_what_it_awaits(arena) -> None:
    async def main() -> None:
        lock = aio.Mutex(arena.mutex("m"))
        task = asyncio.create_task(lock.acquire())
        assert await task is True
        lock.release()  # what is called here is not that task's, which has ended
        assert await asyncio.wait_for(lock.acquire(), 10) is True
        others = [asyncio.create_task(lock.acquire()) for _ in range(2)]
        for other in others:
            await asyncio.sleep(0.02)
            assert not other.done()
            lock.release()
            assert await other is True
        lock.release()

        async def in_vain() -> None:
            with pytest.raises(RuntimeError, match="not held"):
                lock.release()

        async with lock:
            await asyncio.create_task(in_vain())
        coroutine = lock.acquire()
        coroutine.close()
        with pytest.raises(RuntimeError, match="cannot reuse"):
            await coroutine
        coroutine = lock.acquire()
        with pytest.raises(KeyError):
            coroutine.throw(KeyError)

    run(main())


def test_another_process(arena) -> None:
    async def main() -> None:
        lock = aio.Mutex(arena.mutex("m"))
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.005)

        pid = holding(arena.mutex("m"), 0.2)
        heart = asyncio.create_task(beat())
        async with lock:
            assert beats > 5  # the loop went on
        heart.cancel()
        os.waitpid(pid, 0)

    run(main())


def test_a_thread(arena) -> None:
    async def main() -> None:
        mutex = arena.mutex("m")
        lock, go = aio.Mutex(mutex), threading.Event()

        def hold() -> None:
            with mutex:
                go.set()
                time.sleep(0.05)

        thread = threading.Thread(target=hold)
        thread.start()
        assert go.wait(10)
        async with lock:
            assert not mutex.acquire(False)
        thread.join()

    run(main())


def test_a_death_is_told(arena) -> None:
    async def main() -> None:
        lock = aio.Mutex(arena.mutex("m"))
        pid = holding(arena.mutex("m"), 60)
        task = asyncio.create_task(lock.acquire())
        await asyncio.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with pytest.raises(polyshm.OwnerDied) as told:
            await task
        assert told.value.pid == pid
        with pytest.raises(polyshm.OwnerDied):
            async with lock:
                pass
        with pytest.raises(KeyError):
            async with lock.recover() as died:
                assert died is not None
                assert died.pid == pid
                raise KeyError
        async with lock.recover() as died:
            assert died is not None
        async with lock.recover() as died:
            assert died is None
        async with lock:
            pass

    run(main())


def test_repair(arena) -> None:
    repaired: list[int] = []

    async def main() -> None:
        lock = aio.Mutex(arena.mutex("m", repair=lambda died: repaired.append(died.pid)))
        pid = die_holding(arena.mutex("m"))
        async with lock:
            assert repaired == [pid]
        broken = aio.Mutex(arena.mutex("m", repair=lambda died: 1 / 0))
        die_holding(arena.mutex("m"))
        with pytest.raises(ZeroDivisionError):
            await broken.acquire()
        async with lock:
            assert len(repaired) == 2

    run(main())


def test_a_recursive_one(arena) -> None:
    async def main() -> None:
        lock = aio.Mutex(arena.mutex("m", recursive=True))
        async with lock, lock:
            other = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0.02)
            assert not other.done()
            other.cancel()
        assert not lock.locked()

    run(main())


def test_cancelling_loses_nothing(arena) -> None:
    async def main() -> None:
        mutex = arena.mutex("m")
        lock = aio.Mutex(mutex)
        for _ in range(20):
            go = threading.Event()
            done = threading.Event()

            def hold(go: threading.Event = go, done: threading.Event = done) -> None:
                with mutex:
                    go.set()
                    time.sleep(0.002)
                with mutex:  # waits beside the tasks, and is not forgotten
                    pass
                done.set()

            thread = threading.Thread(target=hold)
            thread.start()
            assert await asyncio.to_thread(go.wait, 10)
            tasks = [asyncio.create_task(lock.acquire()) for _ in range(3)]
            await asyncio.sleep(0.001)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            if True in results:  # one got it before it was cancelled
                lock.release()
            assert await asyncio.to_thread(done.wait, 10)
            thread.join()

    run(main())


def test_a_thousand(arena) -> None:
    async def main() -> None:
        event, count = aio.Event(arena.event("e")), 0
        lock = aio.Mutex(arena.mutex("m"))

        async def work() -> None:
            nonlocal count
            await event.wait()
            async with lock:
                await asyncio.sleep(0)
                count += 1

        tasks = [asyncio.create_task(work()) for _ in range(1000)]
        await asyncio.sleep(0.01)
        threading.Timer(0.01, arena["e"].set).start()
        await asyncio.gather(*tasks)
        assert count == 1000

    run(main())


def test_a_thousand_objects(make_arena) -> None:
    arena = make_arena(size="4M")

    async def main() -> None:
        events = [arena.event(str(n)) for n in range(1000)]
        tasks = [asyncio.create_task(aio.Event(event).wait()) for event in events]
        await asyncio.sleep(0.05)
        pid = child(lambda: [event.set() for event in events])
        assert await asyncio.gather(*tasks) == [True] * 1000
        os.waitpid(pid, 0)

    run(main())


# ---- semaphore, event, condition


def test_semaphore(arena) -> None:
    async def main() -> None:
        places = aio.Semaphore(arena.semaphore("s", 2))
        inside = most = 0

        async def work() -> None:
            nonlocal inside, most
            async with places:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1

        await asyncio.gather(*(work() for _ in range(20)))
        assert most == 2
        assert places.semaphore.value() == 2
        assert await places.acquire() is True
        assert not places.locked()
        await places.acquire()
        assert places.locked()
        task = asyncio.create_task(places.acquire())
        await asyncio.sleep(0.01)
        task.cancel()
        pid = child(lambda: arena["s"].release(3))
        await places.acquire()
        os.waitpid(pid, 0)
        places.release(2)
        await asyncio.sleep(0)
        assert places.semaphore.value() == 4
        with pytest.raises(ValueError, match="at least 1"):
            places.release(0)

    with pytest.raises(TypeError, match=r"a polyshm.Semaphore is needed"):
        aio.Semaphore(arena.mutex("m"))
    run(main())


def test_event(arena) -> None:
    async def main() -> None:
        event = aio.Event(arena.event("e"))
        tasks = [asyncio.create_task(event.wait()) for _ in range(3)]
        await asyncio.sleep(0.02)
        pid = child(lambda: (arena["e"].set(), arena["e"].clear()))  # nobody misses it
        assert await asyncio.gather(*tasks) == [True] * 3
        os.waitpid(pid, 0)
        assert not event.is_set()
        event.set()
        assert event.is_set()
        assert await event.wait() is True
        event.clear()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(event.wait(), 0.02)
        auto = aio.Event(arena.event("a", auto=True))
        tasks = [asyncio.create_task(auto.wait()) for _ in range(2)]
        for done in (1, 2):
            await asyncio.sleep(0.02)
            auto.set()
            while sum(task.done() for task in tasks) < done:
                await asyncio.sleep(0.001)
            assert not auto.is_set()

    with pytest.raises(TypeError, match=r"a polyshm.Event is needed"):
        aio.Event(None)
    run(main())


def test_condition(arena) -> None:
    async def main() -> None:
        mutex = arena.mutex("m")
        changed, items = aio.Condition(arena.condition("c", mutex)), []
        assert changed.mutex.name == "m"
        assert changed.condition.name == "c"

        async def take() -> int:
            async with changed:
                await changed.wait_for(lambda: items)
                return items.pop()

        tasks = [asyncio.create_task(take()) for _ in range(3)]
        await asyncio.sleep(0.01)
        async with changed:
            items.extend([1, 2, 3])
            changed.notify(2)
            changed.notify()
        assert sorted(await asyncio.gather(*tasks)) == [1, 2, 3]
        for call in (changed.notify, changed.notify_all):
            with pytest.raises(RuntimeError, match="not held"):
                call()
        with pytest.raises(RuntimeError, match="not held"):
            await changed.wait()
        task = asyncio.create_task(take())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not changed.locked()

        def notify() -> None:
            other = arena["c"]
            with other:
                other.notify_all()

        async with changed:
            pid = child(lambda: (time.sleep(0.05), notify()))
            assert await changed.wait() is True
            assert changed.locked()
        os.waitpid(pid, 0)

    with pytest.raises(TypeError, match=r"a polyshm.Condition is needed"):
        aio.Condition(arena.mutex("m"))
    run(main())


def test_a_condition_of_a_recursive_mutex(arena) -> None:
    async def main() -> None:
        changed = aio.Condition(arena.condition("c", arena.mutex("m", recursive=True)))

        async def wait() -> None:
            async with changed, changed:
                await changed.wait()
                assert changed.locked()
            assert not changed.locked()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.02)
        assert not changed.locked()
        async with changed:
            changed.notify()
        await task

    run(main())


def test_a_death_during_a_wait(arena) -> None:
    async def main() -> None:
        changed = aio.Condition(arena.condition("c", arena.mutex("m")))

        async def wait() -> None:
            async with changed:
                await changed.wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0.02)
        pid = die_holding(arena.mutex("m"))
        with pytest.raises(polyshm.OwnerDied) as told:
            await task
        assert told.value.pid == pid

    run(main())


# ---- loops


def test_loops_in_threads(arena) -> None:
    counter = arena.counter("c")

    async def main() -> None:
        lock = aio.Mutex(arena.mutex("m"))

        async def work() -> None:
            for _ in range(10):
                async with lock:
                    value = counter.load()
                    await asyncio.sleep(0)
                    counter.store(value + 1)

        await asyncio.gather(*(work() for _ in range(5)))

    threads = [threading.Thread(target=run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.load() == 150


def test_one_loop_after_another(arena) -> None:
    """As with asyncio's own: an object that outlives a loop serves the next one."""
    lock = aio.Mutex(arena.mutex("m"))
    recursive = aio.Mutex(arena.mutex("r", recursive=True))

    async def alone() -> None:
        async with lock, recursive:
            pass

    async def together() -> None:
        for each in (lock, recursive):
            inside = 0

            async def work(each: aio.Mutex = each) -> None:
                nonlocal inside
                async with each:
                    inside += 1
                    assert inside == 1
                    await asyncio.sleep(0.001)
                    inside -= 1

            await asyncio.gather(*(work() for _ in range(3)))

    run(alone())
    run(together())


def test_a_lock_of_loops_in_two_threads(arena) -> None:
    """Tasks of another loop are others, though a task runs in the first at the same time."""
    lock = aio.Mutex(arena.mutex("m"))
    here, there = threading.Event(), threading.Event()

    async def first() -> None:
        async with lock:
            pass
        here.set()
        there.wait(10)

    async def second() -> None:
        async def work() -> None:
            async with lock:
                await asyncio.sleep(0.001)

        await asyncio.gather(work(), work())

    thread = threading.Thread(target=lambda: run(first()))
    thread.start()
    assert here.wait(10)
    try:
        run(second())
    finally:
        there.set()
        thread.join()


def test_wait_for_on_a_condition(arena) -> None:
    """wait_for awaits in a task of its own on CPythons before 3.12: the mutex is the caller's."""

    async def main() -> None:
        changed = aio.Condition(arena.condition("c", arena.mutex("m")))
        for wait in (changed.wait, lambda: changed.wait_for(lambda: False)):
            async with changed:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(wait(), 0.02)
                changed.notify()
            assert not changed.locked()

        async with changed:
            waiting = asyncio.create_task(changed.wait())
            await asyncio.sleep(0.02)
            assert not changed.locked()
            async with changed:  # the same task has it, and then the wait, for it
                changed.notify()
                await asyncio.sleep(0.02)
                assert not waiting.done()
            await waiting
        assert not changed.locked()

    run(main())


def test_a_condition_whose_task_is_cancelled_twice(arena) -> None:
    async def main() -> None:
        changed = aio.Condition(arena.condition("c", arena.mutex("m", recursive=True)))
        ended: list = []

        async def work() -> None:
            async with changed, changed:
                try:
                    await changed.wait()
                except asyncio.CancelledError:
                    ended.append(True)

        task = asyncio.create_task(work())
        await asyncio.sleep(0.02)
        async with changed:
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0.01)
        await task  # it has released as often as it had acquired
        assert ended == [True]
        assert not changed.locked()

    run(main())


def test_a_notified_task_that_is_cancelled_passes_it_on(arena) -> None:
    """Also where that comes while it takes the mutex again."""
    condition = arena.condition("c", arena.mutex("m"))
    asleep, woken = threading.Event(), threading.Event()

    def wait() -> None:
        with condition:
            asleep.set()
            condition.wait()
        woken.set()

    async def main() -> None:
        changed = aio.Condition(condition)

        async def work() -> None:
            async with changed:
                await changed.wait()

        task = asyncio.create_task(work())
        await asyncio.sleep(0.02)
        thread = threading.Thread(target=wait)
        thread.start()
        assert await asyncio.to_thread(asleep.wait, 10)
        async with changed:
            changed.notify(1)
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.sleep(0.02)
        with pytest.raises(asyncio.CancelledError):
            await task
        if not await asyncio.to_thread(woken.wait, 10):
            async with changed:
                changed.notify_all()
            pytest.fail("the thread was not woken")
        thread.join()

    run(main())


@pytest.mark.parametrize("noun", ["semaphore", "event"])
def test_a_woken_task_that_is_cancelled_passes_it_on(noun, arena) -> None:
    """To a waiter elsewhere, at once and not when that looks for itself."""
    thing = arena.semaphore("s", 0) if noun == "semaphore" else arena.event("e", auto=True)
    take, give = (thing.acquire, thing.release) if noun == "semaphore" else (thing.wait, thing.set)
    took: list[float] = []

    async def main() -> None:
        form = aio.Semaphore(thing) if noun == "semaphore" else aio.Event(thing)
        for _ in range(8):
            task = asyncio.create_task(form.acquire() if noun == "semaphore" else form.wait())
            await asyncio.sleep(0.01)
            thread = threading.Thread(target=lambda: (take(), took.append(time.monotonic())))
            thread.start()
            await asyncio.sleep(0.005)
            start = time.monotonic()
            give()
            time.sleep(0.005)
            hub = aio._hub()
            hub._notifier.tell(hub._watched)  # it is told, and has not run yet
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(thread.join)
            took[-1] -= start

    run(main())
    assert sorted(took)[4] < 0.03, took


def test_what_acquire_gives_is_not_entered_twice(arena) -> None:
    async def main() -> None:
        lock = aio.Mutex(arena.mutex("m"))
        problems: list = []
        awaited = None

        class Sly(aio.Mutex):
            async def _acquire_slowly(self, task: int) -> None:
                for call in (lambda: awaited.send(None), lambda: awaited.throw(KeyError), awaited.close):
                    with pytest.raises(ValueError, match="already executing"):
                        call()
                    problems.append(call)

        sly = Sly(lock.mutex)
        async with lock:

            async def other() -> None:
                nonlocal awaited
                awaited = sly.acquire()
                assert await awaited is True

            await asyncio.create_task(other())
        assert len(problems) == 3

    run(main())


def test_a_loop_that_ends_with_waits(arena) -> None:
    mutex = arena.mutex("m")

    async def main() -> weakref.ref:
        lock = aio.Mutex(mutex)
        tasks = [asyncio.create_task(lock.acquire()) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in tasks)
        return weakref.ref(lock)

    with mutex:
        ref = run(main())
    gc.collect()
    assert ref() is None
    assert mutex.acquire(timeout=10)
    mutex.release()


def test_deleted_and_closed(make_arena) -> None:
    arena = make_arena()

    async def main() -> None:
        event = aio.Event(arena.event("e"))
        lock = aio.Mutex(arena.mutex("m"))
        pid = holding(arena.mutex("m"), 60)
        tasks = [asyncio.create_task(event.wait()), asyncio.create_task(lock.acquire())]
        await asyncio.sleep(0.02)
        arena.delete("e")
        with pytest.raises(polyshm.Deleted):
            await tasks[0]
        arena.close()
        with pytest.raises(ValueError, match="closed"):
            await tasks[1]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    run(main())


def test_fork(arena) -> None:
    async def main() -> None:
        lock = aio.Mutex(arena.mutex("m"))
        async with lock:
            pass

    run(main())
    assert in_child(lambda: run(main())) == 0
    run(main())


def test_asyncio_is_not_imported_for_nothing() -> None:
    script = "import sys, polyshm; assert 'asyncio' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_debug_mode(arena) -> None:
    async def main() -> None:
        lock = aio.Mutex(arena.mutex("m"))
        async with lock:
            task = asyncio.create_task(lock.acquire())
            await asyncio.sleep(0.01)
        await task
        lock.release()

    asyncio.run(main(), debug=True)
