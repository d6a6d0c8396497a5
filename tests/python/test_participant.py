# SPDX-License-Identifier: MIT
"""Participants: who takes part, what they hold and wait for, and waiting for their death."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time

import polyshm
import pytest
from elsewhere import Holder, in_thread


def own(arena):
    return next((one for one in arena.participants() if one.self), None)


@pytest.fixture
def child(arena):
    """A forked child that holds "books" until it is killed; its pid."""
    lock, ready = arena.mutex("books"), arena.counter("ready")
    pid = os.fork()
    if pid == 0:
        lock.acquire()
        ready.add()
        while True:
            signal.pause()
    assert ready.wait(1, 20)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def of(arena, pid):
    return next(one for one in arena.participants() if one.pid == pid)


class TestListing:
    def test_nobody(self, make_arena):
        arena = make_arena("posix")
        with polyshm.Arena(arena.address, access="r") as other:
            assert other.participants() == [] or all(not one.holds for one in other.participants())

    def test_oneself(self, arena):
        lock = arena.mutex("books")
        with lock:
            me = own(arena)
            assert me.pid == os.getpid()
            assert me.thread == threading.get_native_id()
            assert (me.language, me.alive, me.self) == ("python", True, True)
            assert me.holds == ("books",)
            assert me.waits is None
            assert me.slot >= 0
            assert repr(me) == (
                f"<polyshm.Participant {me.slot} pid={me.pid} thread={me.thread} python self "
                "holds=('books',) waits=None>"
            )
            assert me.generation == own(arena).generation
        assert own(arena).holds == ()

    def test_holds_several(self, arena):
        locks = [arena.mutex(f"lock {number}") for number in range(32)]
        for lock in locks:
            lock.acquire()
        assert sorted(own(arena).holds) == sorted(lock.name for lock in locks)
        with pytest.raises(RuntimeError, match="holds as many locks"):
            arena.mutex("one more").acquire()
        for lock in locks:
            lock.release()
        with arena.mutex("one more"):
            assert own(arena).holds == ("one more",)

    def test_threads(self, arena):
        with arena.mutex("mine"), Holder(arena.mutex("theirs")):
            found = {one.holds: one for one in arena.participants() if one.holds}
            assert set(found) == {("mine",), ("theirs",)}
            assert found["mine",].self
            assert not found["theirs",].self
            assert found["theirs",].thread != found["mine",].thread
            assert {one.pid for one in found.values()} == {os.getpid()}

    def test_another_process(self, arena, child):
        other = of(arena, child)
        assert (other.alive, other.self, other.holds, other.thread) == (True, False, ("books",), child)

    def test_who_waits(self, arena, child):
        lock = arena.mutex("books")
        told = []

        def wait():
            try:
                lock.acquire(timeout=30)
            except polyshm.OwnerDied as died:
                told.append(died.pid)

        thread = threading.Thread(target=wait)
        thread.start()
        deadline = time.monotonic() + 20
        while not any(one.waits == "books" for one in arena.participants()):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        thread.join()
        assert told == [child]
        assert not any(one.waits for one in arena.participants() if one.alive)

    def test_the_dead(self, arena, child):
        slot = of(arena, child).slot
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left = [one for one in arena.participants() if one.slot == slot and one.pid == child]
        assert all(not one.alive for one in left)

    def test_of_a_thread_that_ended(self, arena):
        counter = arena.counter("n")
        counter.add()
        assert arena.stats()["taking_part"] == 1
        in_thread(counter.add)
        deadline = time.monotonic() + 20
        while arena.stats()["taking_part"] > 1:  # a thread is joined before its last bit of work is done
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def test_closed(self, arena):
        with arena.mutex("books"):
            me = own(arena)
        arena.close()
        with pytest.raises(ValueError, match="closed"):
            arena.participants()
        with pytest.raises(ValueError, match="closed"):
            me.wait(0)
        assert me.holds == ("books",)


class TestWaiting:
    def test_a_death(self, arena, child):
        other = of(arena, child)
        assert other.wait(0) is False
        start = time.monotonic()
        assert other.wait(timeout=0.15) is False
        assert 0.15 <= time.monotonic() - start < 10
        timer = threading.Timer(0.05, os.kill, (child, signal.SIGKILL))
        timer.start()
        assert other.wait() is True
        assert other.wait(0) is True
        timer.join()
        assert other.alive is True  # as it was when it was listed

    def test_a_stopped_process_is_not_dead(self, arena, child):
        os.kill(child, signal.SIGSTOP)
        assert of(arena, child).wait(0.5) is False
        assert arena.mutex("books").acquire(timeout=0.1) is False
        os.kill(child, signal.SIGCONT)

    def test_an_end(self, arena):
        holder = Holder(arena.mutex("theirs"))
        with holder:
            other = next(one for one in arena.participants() if one.holds == ("theirs",))
            assert other.wait(0.02) is False
            threading.Timer(0.05, holder.release).start()
            assert other.wait(20) is True

    def test_interrupted(self, arena, child):
        def interrupt(*_):
            raise KeyboardInterrupt

        other = of(arena, child)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                other.wait()
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_closed_meanwhile(self, arena, child):
        timer = threading.Timer(0.05, arena.close)
        timer.start()
        with pytest.raises(ValueError, match="closed"):
            of(arena, child).wait()
        timer.join()

    def test_bad_arguments(self, arena, child):
        other = of(arena, child)
        with pytest.raises(ValueError, match="timeout"):
            other.wait(-1)
        with pytest.raises(TypeError, match="timeout"):
            other.wait("1")
        with pytest.raises(TypeError, match="positional"):
            other.wait(1, 2)


class TestRoom:
    def test_full(self, make_arena):
        arena = make_arena(participants=2)
        counter = arena.counter("n")
        counter.add()
        assert arena.stats()["participants"] == 2
        with Holder(arena.mutex("theirs")):
            assert arena.stats()["taking_part"] == 2
            with pytest.raises(RuntimeError, match="as many threads as the arena has room for"):
                in_thread(counter.add)
        # A thread that was joined has left Python; it takes part until the system has ended it too.
        while arena.stats()["taking_part"] == 2:
            time.sleep(0.001)
        assert in_thread(counter.add) == 2

    def test_places_of_the_dead_are_used_again(self, make_arena):
        arena = make_arena(participants=2)
        counter = arena.counter("n")
        for number in range(1, 21):
            pid = os.fork()
            if pid == 0:
                counter.add()
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(pid, 0)
            assert counter.load() == number
        assert arena.check() == []


def test_is_no_handle(arena):
    with arena.mutex("books"):
        me = own(arena)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(me)
    with pytest.raises(TypeError, match="cannot create"):
        polyshm.Participant()
    with pytest.raises(AttributeError):
        me.pid = 1
