# SPDX-License-Identifier: MIT
"""pollfd() and the notifier under it, with the kernel's ring and with threads."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import selectors
import signal
import sys
import threading

import polyshm
import pytest
from elsewhere import in_child, in_thread
from polyshm._core import Notifier


@pytest.fixture(params=["ring", "threads"], autouse=True)
def way(request, monkeypatch):
    if request.param == "threads":
        monkeypatch.setenv("POLYSHM_IO_URING", "off")
    else:
        monkeypatch.delenv("POLYSHM_IO_URING", raising=False)
    return request.param


def readable(fd: int, seconds: float = 20) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def until(fd_of, ready, limit: int = 200) -> None:
    """As an event loop does it: arm, try, poll."""
    for _ in range(limit):
        fd = fd_of()
        if ready():
            return
        assert readable(fd)
    pytest.fail("never ready")


class TestPollfd:
    def test_of_a_counter(self, arena):
        counter = arena.counter("c")
        fd = counter.pollfd()
        assert not os.get_inheritable(fd)
        assert not readable(fd, 0)
        counter.add()
        assert readable(fd)
        assert counter.pollfd() == fd
        assert readable(fd, 0)  # it is ready still
        counter.store(0)
        assert counter.pollfd() == fd
        assert not readable(fd, 0)
        assert counter.pollfd(at_least=5) == fd
        counter.store(4)
        assert counter.pollfd(5) == fd
        assert not readable(fd, 0)
        counter.add()
        assert readable(fd)

    def test_of_a_mutex(self, arena):
        lock = arena.mutex("lock")
        inside, leave = threading.Event(), threading.Event()

        def hold():
            with lock:
                inside.set()
                leave.wait()

        assert readable(lock.pollfd(), 0)
        thread = threading.Thread(target=hold)
        thread.start()
        inside.wait()
        assert not readable(lock.pollfd(), 0)
        threading.Timer(0.05, leave.set).start()
        until(lock.pollfd, lambda: lock.acquire(blocking=False))
        lock.release()
        thread.join()
        for other in (lock, arena.event("event"), arena.semaphore("semaphore"), arena.once("once")):
            with pytest.raises(TypeError, match="only a Counter"):
                other.pollfd(2)
            with pytest.raises(TypeError, match="only a Counter"):
                polyshm.wait([(other, 2)], 0)

    def test_of_a_participant(self, arena):
        counter = arena.counter("c")
        pid = os.fork()
        if pid == 0:
            counter.add()
            signal.pause()
        counter.wait(1)
        (child,) = (p for p in arena.participants() if p.pid == pid)
        assert not readable(child.pollfd(), 0)
        os.kill(pid, signal.SIGKILL)
        until(child.pollfd, lambda: child.wait(0))
        os.waitpid(pid, 0)
        assert readable(child.pollfd(), 0)

    def test_closed_with_the_handle(self, arena):
        counter = arena.counter("c")
        fd = counter.pollfd()
        os.fstat(fd)
        del counter
        gc.collect()
        with pytest.raises(OSError):
            os.fstat(fd)

    def test_many_handles(self, arena):
        counters = [arena.counter("c") for _ in range(50)]
        fds = [counter.pollfd() for counter in counters]
        assert len(set(fds)) == 50
        counters[0].add()
        assert all(readable(fd) for fd in fds)

    def test_deleted_and_closed(self, arena):
        counter, other = arena.counter("c"), arena.counter("d")
        fd = counter.pollfd()
        arena.delete("c")
        assert readable(fd)
        with pytest.raises(polyshm.Deleted):
            counter.pollfd()
        other.pollfd()
        arena.close()
        with pytest.raises(ValueError, match="closed"):
            other.pollfd()

    def test_of_all_when_closed(self, arena):
        objects = [
            arena.mutex("mutex"),
            arena.counter("counter"),
            arena.event("event"),
            arena.event("auto", auto=True),
            arena.semaphore("semaphore", 1),
            arena.permits("permits", 2),
            arena.latch("latch", 2),
            arena.once("once"),
        ]
        arena.close()
        for waited_for in objects:
            with pytest.raises(ValueError, match="closed"):
                waited_for.pollfd()

    def test_a_child_makes_its_own(self, arena):
        counter = arena.counter("c")
        fd = counter.pollfd()

        def child():
            until(counter.pollfd, lambda: counter.load() == 0)
            own = counter.pollfd(2)
            assert not readable(own, 0)
            counter.store(2)
            assert readable(own)

        assert in_child(child) == 0
        assert readable(fd)
        counter.store(0)
        assert counter.pollfd() == fd
        assert not readable(fd, 0)

    def test_from_another_thread(self, arena):
        counter = arena.counter("c")
        fd = counter.pollfd()
        assert in_thread(counter.pollfd) == fd
        counter.add()
        assert readable(fd)

    def test_selectors(self, arena):
        counters = [arena.counter(f"c{i}") for i in range(5)]
        with selectors.DefaultSelector() as selector:
            for counter in counters:
                selector.register(counter.pollfd(), selectors.EVENT_READ, counter)
            for chosen in counters:
                threading.Timer(0.02, chosen.add).start()
                found = None
                while found is None:
                    for key, _ in selector.select(20):
                        if key.data.load():
                            found = key.data
                            found.store(0)
                        key.data.pollfd()
                assert found is chosen


class TestNotifier:
    def test_tokens(self, arena):
        notifier = Notifier()
        a, b = arena.counter("a"), arena.counter("b")
        assert notifier.add(a, 1) is False
        assert notifier.add((b, 2), 2) is False
        with pytest.raises(OSError):
            notifier.add(b, 1)
        assert notifier.take() == []
        b.add()
        assert notifier.take() == []
        a.add()
        b.add()
        told = []
        while len(told) < 2:
            assert readable(notifier.fileno())
            told += notifier.take()
        assert sorted(told) == [1, 2]
        assert notifier.add(a, 1) is True
        assert notifier.remove(1) is False
        a.store(0)
        assert notifier.add(a, 1) is False
        assert notifier.remove(1) is True
        notifier.close()
        notifier.close()
        for call in (notifier.fileno, notifier.take, lambda: notifier.add(a, 1), lambda: notifier.remove(1)):
            with pytest.raises(ValueError, match="closed"):
                call()

    def test_a_token_that_closes_it(self, arena):
        notifier = Notifier()
        asked = []

        class Token(int):
            def __hash__(self) -> int:
                asked.append(1)
                if len(asked) == 2:
                    notifier.close()
                return 5

        notifier.add(arena.counter("a"), Token(5))
        notifier.remove(Token(5))
        assert not asked  # what it is a key of knows plain numbers alone
        notifier.close()

    def test_many(self, arena):
        notifier = Notifier()
        counter = arena.counter("c")
        for token in range(1000):
            assert not notifier.add(counter, token)
        counter.add()
        told = set()
        while len(told) < 1000:
            assert readable(notifier.fileno())
            told |= set(notifier.take())
        notifier.close()

    def test_tells_futures(self, arena, monkeypatch):
        """What polyshm.aio has of it; a future that fails keeps nothing from the others."""
        problems: list = []
        monkeypatch.setattr(sys, "unraisablehook", lambda problem: problems.append(problem.exc_type))
        notifier = Notifier()
        loop = asyncio.new_event_loop()
        plain, cancelled, done = (loop.create_future() for _ in range(3))
        cancelled.cancel()
        done.set_result(5)
        counter, other = arena.counter("c"), arena.counter("o")
        watched = {"key": 1, "unknown": 2}
        assert notifier.add(counter, 1, "key", [object(), cancelled, done, plain]) is False
        assert notifier.add(counter, 2, "nowhere", []) is False
        assert notifier.add(counter, 3) is False
        assert notifier.add(other, 4, "unknown", []) is False
        notifier.tell(watched)
        assert not plain.done()
        counter.add()
        while not plain.done():
            assert readable(notifier.fileno())
            notifier.tell(watched)
        assert watched == {"unknown": 2}
        assert plain.result() is None
        assert done.result() == 5
        assert problems == [AttributeError]
        for call in (lambda: notifier.tell({}.items()), lambda: notifier.add(counter, 5, "k", ())):
            with pytest.raises(TypeError):
                call()
        assert notifier.remove(4) is True
        notifier.close()
        with pytest.raises(ValueError, match="closed"):
            notifier.tell({})
        loop.close()

    def test_keeps_what_it_watches(self, arena):
        notifier = Notifier()
        notifier.add(arena.counter("c"), 1)
        gc.collect()
        arena.counter("c").add()
        told: list[int] = []
        while not told:
            assert readable(notifier.fileno())
            told = notifier.take()
        assert told == [1]

    def test_refuses(self, arena):
        notifier = Notifier()
        for arguments in ((), (arena.counter("c"),), (5, 1), (arena.counter("c"), "x"), (arena, 1)):
            with pytest.raises(TypeError):
                notifier.add(*arguments)
        with pytest.raises(OverflowError):
            notifier.add(arena.counter("c"), -1)
        with pytest.raises(TypeError):
            Notifier(1)

    def test_a_child_is_refused(self, arena):
        notifier = Notifier()
        counter = arena.counter("c")
        notifier.add(counter, 1)

        def child():
            with pytest.raises(ValueError, match="fork"):
                notifier.take()
            counter.add()

        assert in_child(child) == 0
        told: list[int] = []
        while not told:
            assert readable(notifier.fileno())
            told = notifier.take()
        assert told == [1]
