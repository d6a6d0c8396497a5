# SPDX-License-Identifier: MIT
"""Awaitable forms of an arena's locks, for asyncio.

    lock = polyshm.aio.Mutex(shared.mutex("books"))
    async with lock:
        ...

They behave as asyncio.Lock, Event, Condition and Semaphore do, but across processes and languages: others may hold or
change the same objects in whatever way, also without asyncio. Nothing here blocks the loop: a descriptor tells it when
an object may be ready, and the loop's own thread then tries. A task that is cancelled holds nothing and loses nothing:
a wake that was for it goes to the next one.

A mutex is owned by the task that called for it: other tasks of the same loop wait for it as any other process does. As
with asyncio's own, an object of these classes belongs to the loop in which a task first waits for another.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import weakref
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, TypeVar

from polyshm import _core

__all__ = ["Condition", "Event", "Mutex", "Semaphore"]

_T = TypeVar("_T")
# The running task of each loop, quicker to ask than asyncio.current_task; later CPythons keep it elsewhere.
_TASKS = getattr(asyncio.tasks, "_current_tasks", None) if sys.version_info < (3, 14) else None
_Target = Any


class _Hub:
    """What the waits of one loop share: a notifier, and whom it wakes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._notifier = _core.Notifier()
        self._tokens = itertools.count(1)
        # Those who wait for the same share what is watched: a token, and their futures.
        self._watched: dict[object, tuple[int, list[asyncio.Future[None]]]] = {}
        loop.add_reader(self._notifier.fileno(), self._notifier.tell, self._watched)

    def watch(self, target: _Target, key: object) -> asyncio.Future[None] | None:
        """A future that is done when the target may be ready; None if it is. Give it to `leave` if it is not awaited to
        its end."""
        _, futures = self._watched.get(key, (0, None))
        if futures is None:
            token, futures = next(self._tokens), []
            if self._notifier.add(target, token, key, futures):
                return None
            self._watched[key] = token, futures
        future = asyncio.get_running_loop().create_future()
        futures.append(future)
        return future

    def leave(self, future: asyncio.Future[None], key: object) -> bool:
        """Waits no longer. True if it was told already, so that it has a wake to pass on."""
        token, futures = self._watched.get(key, (0, []))
        if future not in futures:
            return True
        futures.remove(future)
        if not futures:
            del self._watched[key]
            self._notifier.remove(token)
        return False

    def touch(self, target: _Target) -> None:
        """Sees to it that whoever changes the target looks for sleepers."""
        token = next(self._tokens)
        if not self._notifier.add(target, token):
            self._notifier.remove(token)


_hubs: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Hub] = weakref.WeakKeyDictionary()


def _hub() -> _Hub:
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        hub = _hubs[loop] = _Hub(loop)
    return hub


class _Turns:
    """Those of a loop who wait for the same take turns: only the first has it watched."""

    _turn: asyncio.Lock
    _queued: int
    _object: Any

    async def _wait(self, attempt: Callable[[bool], bool]) -> None:
        """Tries until it succeeds; `attempt` is told whether others may sleep too."""
        self._queued += 1
        try:
            await self._turn.acquire()
            try:
                watched = False
                while not attempt(watched):
                    hub, future = _hub(), None
                    try:
                        future = hub.watch(self._object, self)
                        if future is not None:
                            await future
                    except BaseException:
                        if future is not None:
                            hub.leave(future, self)
                        self._pass_on()
                        raise
                    watched = True
            finally:
                self._turn.release()
        finally:
            self._queued -= 1

    def _pass_on(self) -> None:
        """Who waited was cancelled, perhaps after it was woken."""

    def __repr__(self) -> str:
        return f"<polyshm.aio.{type(self).__name__} of {self._object!r}>"


class Mutex(_Turns, _core.TaskMutex):
    """asyncio.Lock over a polyshm.Mutex, owned by the task that took it: `async with lock:`.

    A death is told as by the Mutex itself: OwnerDied, or its repair= is called, by the loop's thread.
    """

    def __init__(self, mutex: _core.Mutex) -> None:
        super().__init__(mutex, asyncio.current_task, _TASKS)
        self._object = mutex
        self._turn = asyncio.Lock()

    def _bind(self) -> asyncio.AbstractEventLoop:
        """Not asked for each time: that costs a system call on some CPythons."""
        return asyncio.get_running_loop()

    async def _acquire_slowly(self, task: int) -> None:
        """`task` is that which called; while it has the mutex already, this one, if another, waits for that to end."""
        mutex, other = self.mutex, self._task() != task

        def attempt(watched: bool) -> bool:
            return not (other and mutex._held_by_task(task)) and mutex._try_task(task, watched)

        await self._wait(attempt)

    def locked(self) -> bool:
        """Is it held by anybody who lives?"""
        return self.mutex.locked()

    def owner(self) -> int | None:
        """The pid of the process that holds it, None for nobody."""
        return self.mutex.owner()

    def recover(self) -> _Recovery:
        """`async with lock.recover() as died:` as Mutex.recover(): takes it, whether somebody died or not."""
        return _Recovery(self)

    def _pass_on(self) -> None:
        # A release wakes one: if that was this one, the next has to be woken, by whoever has it or by us.
        task, mutex = id(self), self.mutex
        try:
            if mutex._try_task(task, True):
                mutex._release_task(task)
            else:
                _hub().touch(mutex)
        except (OSError, ValueError, RuntimeError, _core.Error):
            pass  # there is nothing to wait for any more

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except (RuntimeError, OSError, _core.Error):
            if error is None:
                raise  # else the exception of the body goes first


class _Recovery:
    """What Mutex.recover() returns."""

    def __init__(self, lock: Mutex) -> None:
        self._lock = lock
        self._died: _core.OwnerDied | None = None

    async def __aenter__(self) -> _core.OwnerDied | None:
        task = self._lock._task()

        def attempt(watched: bool) -> bool:
            died = self._lock.mutex._recover_task(task, watched)
            if died is False:
                return False
            self._died = died
            return True

        if (self._lock._queued and not self._lock.mutex._held_by_task(task)) or not attempt(False):
            await self._lock._wait(attempt)
        return self._died

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, mutex = self._lock._task(), self._lock.mutex
        try:
            try:
                if error is None:
                    mutex._consistent_task(task)
            finally:
                mutex._release_task(task)
        except (RuntimeError, OSError, _core.Error):
            if error is None:
                raise


class Semaphore(_Turns):
    """asyncio.Semaphore over a polyshm.Semaphore."""

    def __init__(self, semaphore: _core.Semaphore) -> None:
        if not isinstance(semaphore, _core.Semaphore):
            raise TypeError(f"a polyshm.Semaphore is needed, not {type(semaphore).__name__}")
        self._object, self._queued, self._turn = semaphore, 0, asyncio.Lock()

    @property
    def semaphore(self) -> _core.Semaphore:
        """The Semaphore behind it."""
        semaphore: _core.Semaphore = self._object
        return semaphore

    async def acquire(self) -> Literal[True]:
        """Takes one, waiting for it without blocking the loop. Always True."""
        if self._queued or not self._object.acquire(False):
            await self._wait(lambda watched: self.semaphore.acquire(False))
        return True

    def release(self, n: int = 1) -> None:
        """Gives n back, whoever took them."""
        self.semaphore.release(n)

    def locked(self) -> bool:
        """Would an acquire have to wait?"""
        return self._queued > 0 or self.semaphore.value() == 0

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *exception: object) -> None:
        self.release()


class Event(_Turns):
    """asyncio.Event over a polyshm.Event. Of one that clears itself each set() lets one waiter go, of any process."""

    def __init__(self, event: _core.Event) -> None:
        if not isinstance(event, _core.Event):
            raise TypeError(f"a polyshm.Event is needed, not {type(event).__name__}")
        self._object, self._queued, self._turn = event, 0, asyncio.Lock()

    @property
    def event(self) -> _core.Event:
        """The Event behind it."""
        event: _core.Event = self._object
        return event

    def is_set(self) -> bool:
        """Is it set?"""
        return self.event.is_set()

    def set(self) -> None:
        """Sets it: who waits goes on."""
        self.event.set()

    def clear(self) -> None:
        """Resets it."""
        self.event.clear()

    async def wait(self) -> Literal[True]:
        """Waits until it is set, also if it is cleared again before this task runs. Always True."""
        event = self.event
        if event.auto:
            if self._queued or not event._passed(0):
                await self._wait(lambda watched: event._passed(0))
            return True
        if event.is_set():
            return True
        since = event._since()
        hub, target, key = _hub(), (event, since), (self, since)
        while not event._passed(since):
            future = hub.watch(target, key)
            if future is not None:
                try:
                    await future
                except BaseException:
                    hub.leave(future, key)
                    raise
        return True


class Condition(Mutex):
    """asyncio.Condition over a polyshm.Condition, with the mutex of that one.

    A wait may end for no reason, as POSIX has it: use wait_for, or look again.
    """

    def __init__(self, condition: _core.Condition) -> None:
        if not isinstance(condition, _core.Condition):
            raise TypeError(f"a polyshm.Condition is needed, not {type(condition).__name__}")
        super().__init__(condition.mutex)
        self._condition = condition

    @property
    def condition(self) -> _core.Condition:
        """The Condition behind it."""
        return self._condition

    def wait(self) -> Coroutine[Any, Any, Literal[True]]:
        """Releases the mutex, waits to be notified, and takes it again. Always True.

        Cancelled, it takes the mutex again before it raises, as asyncio.Condition does.

        Errors: RuntimeError unless this task holds the mutex; OwnerDied, and the mutex is not held.
        """
        return self._wait_as(self._task())

    async def _wait_as(self, task: int) -> Literal[True]:
        """`task` is that which called, though wait_for may await this in another."""
        hub, condition = _hub(), self._condition
        # What is noted with the mutex held misses no notification that comes after its release.
        least, depth = condition._begin(task)
        target, key = (condition, least), (self, least)
        told, cancelled = True, True
        try:
            future = hub.watch(target, key)
            if future is not None:
                try:
                    await future
                except BaseException:
                    told = hub.leave(future, key)
                    raise
            cancelled = False
        finally:
            again = await self._take_again(task)
            condition._end(task, depth)
            if told and (cancelled or again is not None):
                condition.notify(1)  # the wake was for somebody who still waits
            if again is not None:
                raise again
        return True

    async def _take_again(self, task: int) -> asyncio.CancelledError | None:
        """Takes the mutex, however often this is cancelled meanwhile: the last of these."""
        cancelled = None
        while True:
            try:
                if self._queued or self.mutex._held_by_task(task) or not self.mutex._try_task(task, False):
                    await self._acquire_slowly(task)
                return cancelled
            except asyncio.CancelledError as error:
                cancelled = error

    def wait_for(self, predicate: Callable[[], _T]) -> Coroutine[Any, Any, _T]:
        """Waits until the predicate is true, and returns what it gave. It is called with the mutex held."""
        return self._wait_for_as(self._task(), predicate)

    async def _wait_for_as(self, task: int, predicate: Callable[[], _T]) -> _T:
        result = predicate()
        while not result:
            await self._wait_as(task)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Wakes n of those who wait, in whatever process, perhaps more.

        Errors: RuntimeError unless this task holds the mutex.
        """
        self._check()
        self._condition.notify(n)

    def notify_all(self) -> None:
        """Wakes all who wait. RuntimeError unless this task holds the mutex."""
        self._check()
        self._condition.notify_all()

    def _check(self) -> None:
        if not self.mutex._held_by_task(self._task()):
            raise RuntimeError("not held by this task")
