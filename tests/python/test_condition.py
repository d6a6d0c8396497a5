# SPDX-License-Identifier: MIT
"""Conditions: as threading.Condition, across threads and processes, and whoever dies."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
import weakref

import polyshm
import pytest
from elsewhere import Holder, die_holding, in_child, in_thread

fork = multiprocessing.get_context("fork")
METHODS = ("fork", "spawn", "forkserver")


@pytest.fixture
def lock(arena):
    return arena.mutex("books")


@pytest.fixture
def changed(arena, lock):
    return arena.condition("changed", lock)


@pytest.fixture
def on_alarm():
    before = signal.getsignal(signal.SIGALRM)

    def set_handler(handler, seconds, again=0.0):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds, again)

    yield set_handler
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupt(*_):
    raise KeyboardInterrupt


def asleep(arena, name="changed"):
    return sum(one.waits == name for one in arena.participants())


def until_asleep(arena, count=1):
    while asleep(arena) < count:
        time.sleep(0.001)


class Waiter:
    """A thread that waits once, with the lock held before and after."""

    def __init__(self, condition, timeout=30.0):
        self.result = None
        self.held = False
        self._condition, self._timeout = condition, timeout
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def _wait(self):
        try:
            with self._condition:
                self.result = self._condition.wait(self._timeout)
                self.held = in_thread(lambda: self._condition.acquire(False)) is False
        except BaseException as error:
            self.result = error

    def join(self):
        self._thread.join()
        return self.result


class TestOpening:
    def test_made_and_opened(self, arena, lock, changed):
        assert type(changed) is polyshm.Condition
        assert (changed.name, changed.mutex) == ("changed", lock)
        assert repr(changed) == f"<polyshm.Condition 'changed' of {arena!r}>"
        for again in (
            arena["changed"],
            arena.open("changed"),
            arena.condition("changed"),
            arena.condition("changed", None),
        ):
            assert type(again) is polyshm.Condition
            assert type(again.mutex) is polyshm.Mutex
            assert again.mutex.name == "books"
            with again:
                assert lock.locked()
        assert dict(arena.items())["changed"].mutex.name == "books"
        assert arena.condition("changed", mutex=arena["books"]).mutex is not lock

    def test_needs_a_mutex(self, arena):
        with pytest.raises(ValueError, match="condition 'new': a new condition needs a mutex of the same arena"):
            arena.condition("new")
        assert "new" not in arena
        with pytest.raises(KeyError):
            arena.open("new")

    def test_of_another_arena(self, arena, make_arena, lock, changed):
        other = make_arena("anon")
        for name in ("new", "changed"):
            with pytest.raises(ValueError, match="a new condition needs a mutex of the same arena"):
                arena.condition(name, other.mutex("books"))
        with polyshm.Arena(arena.address) as again:  # the same by another handle
            assert again.condition("changed", lock).mutex is lock

    def test_of_another_mutex(self, arena, changed):
        with pytest.raises(ValueError, match="condition 'changed': exists, and this parameter of it is another"):
            arena.condition("changed", arena.mutex("other"))

    def test_of_what_is_no_mutex(self, arena, anon):
        for wrong in (anon.mutex(0, create=True), threading.Lock(), arena.counter("n"), 3):
            with pytest.raises(TypeError, match=f"mutex must be a Mutex of the arena, not .*{type(wrong).__name__}"):
                arena.condition("new", wrong)
        with pytest.raises(TypeError):
            arena.condition()
        with pytest.raises(ValueError, match="another kind"):
            arena.condition("n", arena.mutex("books"))

    def test_no_instances_without_an_arena(self):
        with pytest.raises(TypeError):
            polyshm.Condition()

    def test_read_only(self, arena, changed):
        with polyshm.Arena(arena.address, access="r") as reader:
            seen = reader["changed"]
            assert seen.mutex.name == "books"
            for call in (seen.acquire, seen.notify, seen.notify_all, seen.wait):
                with pytest.raises(TypeError, match="read-only"):
                    call()
            with pytest.raises(KeyError):
                reader.condition("none")


class TestVerbs:
    def test_the_mutex_is_its_own(self, changed, lock):
        with changed as held:
            assert held is True
            assert lock.owner() == os.getpid()
            assert changed.locked()
        assert not changed.locked()
        assert changed.acquire() is True
        assert in_thread(lambda: changed.acquire(blocking=False)) is False
        assert in_thread(lambda: changed.acquire(timeout=0.01)) is False
        changed.release()
        with pytest.raises(RuntimeError, match="mutex 'books': not held by this thread"):
            changed.release()

    def test_without_the_mutex(self, arena, changed, lock):
        for call in (changed.wait, changed.notify, changed.notify_all, lambda: changed.wait_for(lambda: False)):
            with pytest.raises(RuntimeError, match=f"{arena.address}: condition 'changed': not held by this thread"):
                call()
            with lock, pytest.raises(RuntimeError):
                in_thread(call)

    def test_timeouts(self, changed):
        with changed:
            assert changed.wait(0) is False
            assert changed.wait(0.001) is False
            assert changed.wait(timeout=0.15) is False
            assert changed.mutex.locked()
            assert changed.wait(-1) is False
            with pytest.raises(ValueError, match="timeout"):
                changed.wait(float("nan"))
            with pytest.raises(TypeError):
                changed.wait("1")

    def test_notify(self, arena, changed):
        waiters = [Waiter(changed) for _ in range(3)]
        until_asleep(arena, 3)
        with changed:
            changed.notify()
            changed.notify(n=2)
        assert [one.join() for one in waiters] == [True] * 3
        assert all(one.held for one in waiters)

    def test_notify_all(self, arena, changed):
        waiters = [Waiter(changed) for _ in range(5)]
        until_asleep(arena, 5)
        with changed:
            changed.notify_all()
        assert [one.join() for one in waiters] == [True] * 5

    def test_counts(self, changed):
        with changed:
            for n in (0, -1, -(2**100), 1, 2**31, 2**32 + 1, 2**100, True):
                assert changed.notify(n) is None
            for wrong in (1.5, "1", None):
                with pytest.raises(TypeError):
                    changed.notify(wrong)

    def test_nobody_is_woken_by_none(self, arena, changed):
        waiter = Waiter(changed, timeout=0.3)
        until_asleep(arena)
        with changed:
            changed.notify(0)
            changed.notify(-5)
        assert waiter.join() is False

    def test_wait_for(self, arena, changed):
        counter = arena.counter("n")

        def count():
            for _ in range(3):
                with changed:
                    counter.add()
                    changed.notify_all()

        thread = threading.Thread(target=count)
        with changed:
            thread.start()
            assert changed.wait_for(lambda: counter.load() >= 3 and "three") == "three"
        thread.join()

    def test_wait_for_ends(self, changed):
        calls = []
        with changed:
            assert changed.wait_for(lambda: 7) == 7
            assert changed.wait_for(lambda: calls.append(1), timeout=0.05) is None
            assert len(calls) >= 2
            assert changed.wait_for(list, timeout=0) == []
            with pytest.raises(ZeroDivisionError):
                changed.wait_for(lambda: 1 / 0)
            with pytest.raises(TypeError):
                changed.wait_for(None)
            assert changed.mutex.locked()

    def test_depth(self, arena):
        lock = arena.mutex("again", recursive=True)
        changed = arena.condition("changed", lock)
        with lock, changed, lock:
            waiter = threading.Thread(target=lambda: Waiter(changed, 0).join())
            waiter.start()  # has the mutex meanwhile
            assert changed.wait(0.15) is False
            waiter.join()
        assert not lock.locked()

    def test_two_conditions_of_one_mutex(self, arena, lock, changed):
        other = arena.condition("other", lock)
        waiter = Waiter(changed, timeout=0.3)
        until_asleep(arena)
        with other:
            other.notify_all()
        assert waiter.join() is False


class TestSignals:
    def test_a_handler_that_raises(self, changed, on_alarm):
        on_alarm(interrupt, 0.05)
        with pytest.raises(KeyboardInterrupt):
            with changed:
                try:
                    changed.wait()
                finally:
                    assert changed.mutex.owner() == os.getpid()
        assert not changed.locked()

    def test_a_handler_that_does_not(self, changed, on_alarm):
        calls = []
        on_alarm(lambda *_: calls.append(1), 0.02, 0.02)
        with changed:
            assert changed.wait(0.2) is False
        assert calls

    def test_raised_while_another_has_the_mutex(self, arena, changed, on_alarm):
        """It is taken back first, however many handlers raise."""
        raised = []

        def handler(*_):
            raised.append(len(raised))
            raise ArithmeticError(raised[-1])

        letting_go = threading.Event()

        def hold():
            with changed:
                on_time.set()
                letting_go.wait(20)

        on_time = threading.Event()
        thread = threading.Thread(target=hold)
        with pytest.raises(ArithmeticError) as caught:
            with changed:
                thread.start()
                on_alarm(lambda *_: None, 0)
                threading.Thread(target=lambda: (on_time.wait(20), time.sleep(0.35), letting_go.set())).start()
                signal.signal(signal.SIGALRM, handler)
                signal.setitimer(signal.ITIMER_REAL, 0.05, 0.1)
                try:
                    changed.wait()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    assert changed.mutex.owner() == os.getpid()
        thread.join()
        assert not changed.locked()
        error, chain = caught.value, []
        while error is not None:
            chain.append(error.args[0])
            error = error.__context__
        assert chain == raised[::-1]
        assert len(chain) > 1

    def test_ctrl_c(self, python, arena, changed):
        script = """
import sys, polyshm
changed = polyshm.Arena(sys.argv[1])["changed"]
try:
    with changed:
        print("waits", flush=True)
        changed.wait()
except KeyboardInterrupt:
    print("locked", changed.locked())
"""
        child = python.start(script, arena.address)
        assert child.stdout.readline() == "waits\n"
        until_asleep(arena)
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=20)[0] == "locked False\n"
        assert child.returncode == 0


class TestDeaths:
    def test_the_owner_dies(self, arena, changed, lock):
        waiter = Waiter(changed)
        until_asleep(arena)
        pid = die_holding(lock)
        died = waiter.join()
        assert type(died) is polyshm.OwnerDied
        assert (died.pid, died.lock) == (pid, lock)
        with lock.recover() as died:
            assert died.pid == pid
        with changed:
            assert changed.wait(0.01) is False

    def test_without_a_second_error(self, arena, changed, lock):
        """The with ends with OwnerDied, though the mutex is not held."""
        child = fork.Process(target=lambda: (until_asleep(arena), lock.acquire(), os.kill(os.getpid(), signal.SIGKILL)))
        child.start()
        with pytest.raises(polyshm.OwnerDied) as caught:
            with changed:
                changed.wait()
        assert caught.value.__context__ is None
        child.join()

    def test_repair(self, arena):
        repaired = []
        lock = arena.mutex("books", True, repair=lambda died: repaired.append((died.pid, changed.locked())))
        changed = arena.condition("changed", lock)
        with lock, changed:  # held twice
            child = fork.Process(
                target=lambda: (until_asleep(arena), lock.acquire(), os.kill(os.getpid(), signal.SIGKILL))
            )
            child.start()
            assert changed.wait() is True
            assert repaired == [(child.pid, True)]
        assert not lock.locked()
        with pytest.raises(RuntimeError):
            lock.release()
        child.join()

    def test_repair_that_raises(self, arena):
        def repair(died):
            raise ZeroDivisionError

        lock = arena.mutex("books", repair=repair)
        changed = arena.condition("changed", lock)
        child = fork.Process(target=lambda: (until_asleep(arena), lock.acquire(), os.kill(os.getpid(), signal.SIGKILL)))
        child.start()
        with pytest.raises(ZeroDivisionError):
            with changed:
                changed.wait()
        child.join()
        with arena.mutex("books").recover() as died:
            assert died.pid == child.pid

    def test_another_repairs(self, arena, changed, lock):
        """Nobody notifies, and they wake up: the dead one may have changed something."""
        waiters = [Waiter(arena.condition("changed", arena.mutex("books", repair=lambda died: None))) for _ in range(3)]
        until_asleep(arena, 3)
        die_holding(lock)
        assert [one.join() for one in waiters] == [True] * 3

    def test_a_handler_raises_and_the_owner_is_dead(self, arena, changed, lock, on_alarm):
        def die_and_raise(*_):
            die_holding(lock)
            raise KeyboardInterrupt

        on_alarm(die_and_raise, 0.03)
        with pytest.raises(polyshm.OwnerDied) as caught:
            with changed:
                changed.wait()
        assert type(caught.value.__context__) is KeyboardInterrupt

    def test_a_waiter_dies(self, arena, changed):
        pid = os.fork()
        if pid == 0:
            with changed:
                changed.wait()
            os._exit(1)
        until_asleep(arena)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        waiter = Waiter(changed)
        until_asleep(arena)
        with changed:
            changed.notify()
        assert waiter.join() is True
        assert arena.check() == []


class TestGone:
    def test_deleted_while_it_is_waited_for(self, arena, changed, lock):
        waiter = Waiter(changed)
        until_asleep(arena)
        del arena["changed"]
        assert type(waiter.join()) is polyshm.Deleted
        assert not lock.locked()
        with lock:
            for call in (changed.wait, changed.notify, changed.notify_all):
                with pytest.raises(polyshm.Deleted, match="condition 'changed'"):
                    call()
        assert arena.condition("changed", lock).acquire()
        changed.release()

    def test_mutex_deleted_while_it_is_waited_for(self, arena, changed):
        waiter = Waiter(changed)
        until_asleep(arena)
        del arena["books"]
        assert type(waiter.join()) is polyshm.Deleted
        with pytest.raises(polyshm.Deleted):
            arena["changed"]
        arena.counter("other")
        assert [name for name, _ in arena.items()] == ["other"]
        assert sorted(arena) == ["changed", "other"]
        arena.mutex("books")
        with pytest.raises(polyshm.Deleted):
            arena["changed"]
        with pytest.raises(ValueError, match="another"):
            arena.condition("changed", arena["books"])

    def test_closed_while_it_is_waited_for(self, arena, changed):
        with polyshm.Arena(arena.address) as again:
            waiter = Waiter(again["changed"])
            until_asleep(arena)
        error = waiter.join()
        assert type(error) is ValueError
        assert "closed" in str(error)
        for call in (again.open, lambda name: waiter._condition.wait()):
            with pytest.raises(ValueError, match="closed"):
                call("changed")

    def test_cycles_are_found(self, arena):
        """A condition that its mutex's repair refers to."""

        class Repair:
            def __call__(self, died):
                pass

        repair = Repair()
        repair.condition = arena.condition("changed", arena.mutex("books", repair=repair))
        gone = weakref.ref(repair)
        del repair
        gc.collect()
        assert gone() is None


def serve(changed, counter, times):
    for turn in range(times):
        with changed:
            changed.wait_for(lambda turn=turn: counter.load() == 2 * turn + 1)
            counter.add()
            changed.notify()


class TestTravels:
    @pytest.mark.parametrize("method", METHODS)
    def test_to_a_child(self, arena, changed, method):
        counter = arena.counter("n")
        child = multiprocessing.get_context(method).Process(target=serve, args=(changed, counter, 30))
        child.start()
        for turn in range(30):
            with changed:
                counter.add()
                changed.notify()
                assert changed.wait_for(lambda turn=turn: counter.load() == 2 * turn + 2, timeout=30)
        child.join()
        assert child.exitcode == 0

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_pickles(self, arena, changed, lock, protocol):
        other, mutex = pickle.loads(pickle.dumps((changed, lock), protocol))
        assert other.mutex is mutex
        with other:
            assert lock.locked()

    def test_pickles_with_the_repair(self, arena):
        lock = arena.mutex("books", repair=note_repair)
        other = pickle.loads(pickle.dumps(arena.condition("changed", lock)))
        pid = die_holding(lock)
        with other:
            assert arena["repaired by"].load() == pid

    def test_pickle_of_what_is_gone(self, arena, changed, lock):
        data = pickle.dumps(changed)
        del arena["changed"]
        with pytest.raises(polyshm.Deleted):
            pickle.loads(data)
        arena.condition("changed", lock)
        with pytest.raises(polyshm.Deleted, match="made anew"):
            pickle.loads(data)
        with pytest.raises(polyshm.Deleted):
            pickle.dumps(changed)

    def test_fork_while_it_is_held(self, arena, changed):
        """What the parent holds is not the child's."""
        with changed:

            def child():
                for call in (changed.wait, changed.notify):
                    with pytest.raises(RuntimeError):
                        call()

            assert in_child(child) == 0
            changed.notify()


def note_repair(died):
    lock = died.lock
    whole = lock.__reduce__()[1][0]  # its arena
    whole.counter("repaired by").store(died.pid)


class BoundedBuffer:
    """As many a program has it, with the lock and the conditions of threading."""

    def __init__(self, lock, not_empty, not_full, slots, head, tail):
        self.mutex, self.not_empty, self.not_full = lock, not_empty, not_full
        self.slots, self.head, self.tail = slots, head, tail

    def put(self, item):
        with self.not_full:
            while self.tail.load() - self.head.load() == len(self.slots):
                self.not_full.wait()
            self.slots[self.tail.load() % len(self.slots)].store(item)
            self.tail.add()
            self.not_empty.notify()

    def get(self):
        with self.not_empty:
            while not self.not_empty.wait_for(lambda: self.tail.load() > self.head.load(), timeout=10):
                pass
            item = self.slots[self.head.load() % len(self.slots)].load()
            self.head.add()
            self.not_full.notify()
            return item


@pytest.mark.parametrize("method", METHODS)
def test_in_the_place_of_threadings_own(arena, method):
    lock = arena.mutex("lock")
    slots = [arena.counter(f"slot {i}") for i in range(3)]
    buffer = BoundedBuffer(
        lock,
        arena.condition("not empty", lock),
        arena.condition("not full", lock),
        slots,
        arena.counter("head"),
        arena.counter("tail"),
    )
    context = multiprocessing.get_context(method)
    makers = [context.Process(target=make_items, args=(buffer, first)) for first in (0, 100)]
    for maker in makers:
        maker.start()
    got = [buffer.get() for _ in range(200)]
    for maker in makers:
        maker.join()
        assert maker.exitcode == 0
    assert sorted(got) == list(range(200))
    assert [x for x in got if x < 100] == list(range(100))


def make_items(buffer, first):
    for item in range(first, first + 100):
        buffer.put(item)


class TestForTasks:
    """What polyshm.aio is made of."""

    def test_now(self, changed):
        with changed:
            now = changed._now()
            assert changed._now() == now
            changed.notify()
            assert changed._now() != now

    def test_begin_and_end(self, changed):
        with pytest.raises(RuntimeError):
            changed._begin(5)
        with changed:
            with pytest.raises(RuntimeError):
                changed._begin(5)
            least, depth = changed._begin(0)
            assert (least, depth) == (changed._now(), 0)
            assert not changed.locked()
            assert changed._end(0, depth) is True
            assert changed.locked()
        changed.acquire()
        changed._begin(0)
        with Holder(changed):
            assert changed._end(0, 0) is False
        with pytest.raises(TypeError):
            changed._end(0)
