# SPDX-License-Identifier: MIT
"""The counter: its arithmetic, waiting, and what becomes of its handles."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time

import polyshm
import pytest
from elsewhere import in_child, in_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LOW, HIGH = -(1 << 63), (1 << 63) - 1
fork = multiprocessing.get_context("fork")


@pytest.fixture
def counter(arena):
    return arena.counter("hits")


def wrapped(value: int) -> int:
    return (value - LOW) % (1 << 64) + LOW


class TestArithmetic:
    def test_of_a_new_one(self, counter):
        assert counter.load() == 0
        assert counter.name == "hits"

    def test_every_verb(self, counter):
        assert counter.add() == 1
        assert counter.add(41) == 42
        assert counter.add(by=-2) == 40
        assert counter.sub() == 39
        assert counter.sub(9) == 30
        assert counter.sub(by=-1) == 31
        assert counter.store(7) is None
        assert counter.exchange(8) == 7
        assert counter.compare_exchange(7, 1) == 8
        assert counter.load() == 8
        assert counter.compare_exchange(expected=8, desired=-1) == 8
        assert counter.load() == -1
        assert counter.max(5) == 5
        assert counter.max(4) == 5
        assert counter.min(-3) == -3
        assert counter.min(0) == -3
        assert counter.load() == -3

    def test_wraps(self, counter):
        counter.store(HIGH)
        assert counter.add() == LOW
        assert counter.sub() == HIGH
        counter.store(0)
        assert counter.sub(LOW) == LOW
        assert counter.add(LOW) == 0

    @pytest.mark.parametrize("value", [HIGH + 1, LOW - 1, 1 << 64, -(1 << 200)])
    def test_what_does_not_fit(self, counter, value):
        for use in (
            counter.add,
            counter.sub,
            counter.store,
            counter.exchange,
            counter.max,
            counter.min,
            counter.wait,
            lambda v: counter.compare_exchange(v, 0),
            lambda v: counter.compare_exchange(0, v),
        ):
            with pytest.raises(ValueError, match="does not fit i64"):
                use(value)
        assert counter.load() == 0

    @pytest.mark.parametrize("value", [1.0, "1", None, b"1"])
    def test_what_is_no_number(self, counter, value):
        for use in (counter.add, counter.sub, counter.store, counter.exchange, counter.max, counter.min, counter.wait):
            with pytest.raises(TypeError):
                use(value)

    def test_arguments(self, counter):
        with pytest.raises(TypeError, match="positional"):
            counter.add(1, 2)
        with pytest.raises(TypeError, match="'amount'"):
            counter.add(amount=1)
        with pytest.raises(TypeError):
            counter.store()
        with pytest.raises(TypeError, match="'at_least'"):
            counter.wait()
        assert counter.add(True) == 1

        class Index:
            def __index__(self):
                return 5

        assert counter.add(Index()) == 6

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["add", "sub", "store", "exchange", "max", "min", "compare_exchange"]),
                st.integers(LOW, HIGH) | st.sampled_from([0, 1, -1, LOW, HIGH]),
                st.integers(LOW, HIGH) | st.sampled_from([0, 1, -1, LOW, HIGH]),
            )
        )
    )
    def test_as_integers_of_64_bits(self, counter, steps):
        counter.store(0)
        value = 0
        for verb, first, second in steps:
            before = value
            if verb == "add":
                value = wrapped(value + first)
                assert counter.add(first) == value
            elif verb == "sub":
                value = wrapped(value - first)
                assert counter.sub(first) == value
            elif verb == "store":
                value = first
                counter.store(first)
            elif verb == "exchange":
                value = first
                assert counter.exchange(first) == before
            elif verb == "max":
                value = max(value, first)
                assert counter.max(first) == value
            elif verb == "min":
                value = min(value, first)
                assert counter.min(first) == value
            else:
                value = second if value == first else value
                assert counter.compare_exchange(first, second) == before
            assert counter.load() == value


class TestSharing:
    def test_handles_are_of_one_counter(self, arena, counter):
        arena.counter("hits").add(3)
        arena["hits"].add(4)
        assert counter.load() == 7
        assert repr(counter) == f"<polyshm.Counter 'hits' of {arena!r}>"

    def test_threads(self, counter):
        threads = [threading.Thread(target=lambda: [counter.add() for _ in range(2000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counter.load() == 8000

    def test_processes(self, counter):
        processes = [fork.Process(target=lambda: [counter.add() for _ in range(5000)]) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert counter.load() == 10_000

    def test_a_killed_child_leaves_it_whole(self, arena, counter):
        pid = os.fork()
        if pid == 0:
            while True:
                counter.add()
        assert counter.wait(100, 20)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        before = counter.load()
        assert counter.add() == before + 1
        assert arena.check() == []

    def test_read_only(self, make_arena):
        arena = make_arena()
        arena.counter("hits").store(5)
        with polyshm.Arena(arena.address, access="r") as other:
            counter = other.counter("hits")
            assert counter.load() == 5
            assert counter.wait(5) is True
            assert counter.wait(6, 0.05) is False
            for use in (
                counter.add,
                counter.sub,
                lambda: counter.store(1),
                lambda: counter.exchange(1),
                lambda: counter.max(9),
                lambda: counter.min(1),
                lambda: counter.compare_exchange(5, 6),
            ):
                with pytest.raises(TypeError, match="counter 'hits': the memory is read-only"):
                    use()
            threading.Timer(0.05, arena.counter("hits").add).start()
            assert counter.wait(6, 20) is True


class TestWaiting:
    def test_true_and_false(self, counter):
        counter.store(3)
        assert counter.wait(3) is True
        assert counter.wait(2, timeout=0) is True
        assert counter.wait(4, 0) is False
        start = time.monotonic()
        assert counter.wait(at_least=4, timeout=0.25) is False
        assert 0.25 <= time.monotonic() - start < 10

    @pytest.mark.parametrize("verb", ["add", "sub", "store", "exchange", "compare_exchange", "max"])
    def test_woken_by(self, arena, counter, verb):
        change = {
            "add": lambda: counter.add(10),
            "sub": lambda: counter.sub(-10),
            "store": lambda: counter.store(10),
            "exchange": lambda: counter.exchange(10),
            "compare_exchange": lambda: counter.compare_exchange(0, 10),
            "max": lambda: counter.max(10),
        }[verb]
        timer = threading.Timer(0.05, change)
        timer.start()
        assert arena.counter("hits").wait(10, 20) is True
        timer.join()

    def test_another_process(self, counter):
        def work():
            counter.add()
            assert counter.wait(2, 20)
            counter.add()

        process = fork.Process(target=work)
        process.start()
        assert counter.wait(1, 20)
        counter.add()
        assert counter.wait(3, 20)
        process.join()
        assert process.exitcode == 0

    def test_many_waiters(self, counter):
        woken = []
        threads = [threading.Thread(target=lambda: woken.append(counter.wait(5, 30))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            time.sleep(0.01)
            counter.add()
        for thread in threads:
            thread.join()
        assert woken == [True] * 8

    def test_bad_timeouts(self, counter):
        for timeout in (-1, float("nan"), "1"):
            with pytest.raises((ValueError, TypeError), match="timeout"):
                counter.wait(1, timeout)

    def test_interrupted(self, counter):
        def interrupt(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt):
                counter.wait(1)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert counter.add() == 1

    def test_a_handler_that_returns_does_not_end_it(self, counter):
        before = signal.signal(signal.SIGALRM, lambda *_: counter.add())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert counter.wait(1, 20) is True
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_closed_by_another_thread(self, arena, counter):
        timer = threading.Timer(0.05, arena.close)
        timer.start()
        with pytest.raises(ValueError, match="closed"):
            counter.wait(1)
        timer.join()

    def test_deleted_by_another_thread(self, arena, counter):
        timer = threading.Timer(0.05, arena.delete, ("hits",))
        timer.start()
        with pytest.raises(polyshm.Deleted, match="counter 'hits'"):
            counter.wait(1)
        timer.join()


class TestEnd:
    USES = ("add", "sub", "load")

    def test_closed(self, arena, counter):
        arena.close()
        for verb in self.USES:
            with pytest.raises(ValueError, match="closed"):
                getattr(counter, verb)()
        with pytest.raises(ValueError, match="closed"):
            counter.store(1)
        with pytest.raises(ValueError, match="closed"):
            counter.wait(0)
        assert counter.name == "hits"
        assert "closed" in repr(counter)

    def test_deleted(self, arena, counter):
        counter.add()
        del arena["hits"]
        for verb in self.USES:
            with pytest.raises(polyshm.Deleted, match=f"{arena.address}: counter 'hits': the object was deleted"):
                getattr(counter, verb)()
        again = arena.counter("hits")
        assert again.load() == 0
        with pytest.raises(polyshm.Deleted):
            counter.load()

    def test_other_noun(self, arena, counter):
        with pytest.raises(ValueError, match="mutex 'hits': the name belongs to an object of another kind"):
            arena.mutex("hits")
        arena.mutex("lock")
        with pytest.raises(ValueError, match="counter 'lock': the name belongs to an object of another kind"):
            arena.counter("lock")

    def test_lives_as_long_as_its_handle(self, name):
        address = f"posix:{name}"
        counter = polyshm.Arena(address, size="256K", create=True).counter("n")
        polyshm.unlink(address)
        assert counter.add() == 1

    def test_fork(self, counter):
        counter.add()
        assert in_child(lambda: counter.add(10)) == 0
        assert counter.load() == 11
        assert in_thread(counter.load) == 11

    def test_not_made_by_hand(self):
        with pytest.raises(TypeError, match="cannot create"):
            polyshm.Counter()
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Child", (polyshm.Counter,), {})


class TestPickles:
    def test_round_trip(self, arena, counter):
        counter.store(9)
        other = pickle.loads(pickle.dumps(counter))
        assert other.add() == 10
        assert counter.load() == 10
        assert (other.name, type(other)) == ("hits", polyshm.Counter)

    def test_deleted(self, arena, counter):
        data = pickle.dumps(counter)
        del arena["hits"]
        with pytest.raises(polyshm.Deleted):
            pickle.loads(data)
        with pytest.raises(polyshm.Deleted):
            pickle.dumps(counter)
        arena.counter("hits")
        with pytest.raises(polyshm.Deleted, match="'hits': was removed, or removed and made anew"):
            pickle.loads(data)
        del arena["hits"]
        arena.mutex("hits")
        with pytest.raises(polyshm.Deleted):
            pickle.loads(data)

    def test_closed(self, arena, counter):
        arena.close()
        with pytest.raises(ValueError, match="closed"):
            pickle.dumps(counter)
