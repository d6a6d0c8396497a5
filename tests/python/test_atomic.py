# SPDX-License-Identifier: MIT
"""Atomic words: values, wrap-around, waiting."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time

import polyshm
import pytest
from hypothesis import given
from hypothesis import strategies as st

RANGES = {
    "i32": (-(1 << 31), (1 << 31) - 1),
    "u32": (0, (1 << 32) - 1),
    "i64": (-(1 << 63), (1 << 63) - 1),
    "u64": (0, (1 << 64) - 1),
}
TYPES = sorted(RANGES)
OPERATIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "and_": lambda a, b: a & b,
    "or_": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}


def bits_of(token: str) -> int:
    return int(token[1:])


def wrap(token: str, value: int) -> int:
    """What the word holds after the value was stored in it, whatever its size."""
    bits = bits_of(token)
    value &= (1 << bits) - 1
    return value - (1 << bits) if token[0] == "i" and value >> (bits - 1) else value


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


@pytest.mark.parametrize("token", TYPES)
class TestValues:
    def test_edges(self, anon, token):
        word = anon.atomic(token, 8)
        for value in RANGES[token]:
            assert word.store(value) is None
            assert word.load() == value
            assert anon.read(8, bits_of(token) // 8) == value.to_bytes(bits_of(token) // 8, "little", signed=value < 0)
            assert word.exchange(0) == value
            assert word.compare_exchange(0, value) == 0
            assert word.compare_exchange(2, 1) == value
            assert word.load() == value
            assert word.compare_exchange(expected=value, desired=0) == value
            assert word.load() == 0

    def test_outside_of_the_type(self, anon, token):
        word = anon.atomic(token, 0)
        low, high = RANGES[token]
        for value in (low - 1, high + 1, 1 << 64, -(1 << 63) - 1, 1 << 300, Index(high + 1), Index(low - 1)):
            for change in (
                word.store,
                word.exchange,
                lambda v: word.compare_exchange(v, 0),
                lambda v: word.compare_exchange(0, v),
            ):
                with pytest.raises(ValueError, match=f"does not fit {token}"):
                    change(value)
        assert word.load() == 0

    def test_operands_of_either_sign(self, anon, token):
        word = anon.atomic(token, 0)
        bits = bits_of(token)
        for value in (-(1 << bits - 1), (1 << bits) - 1, -1, Index((1 << bits) - 1)):
            word.store(5)
            assert word.add(value) == 5
            assert word.load() == wrap(token, 5 + (value.value if isinstance(value, Index) else value))
        for value in (-(1 << bits - 1) - 1, 1 << bits, 1 << 200, -(1 << 200)):
            for name in OPERATIONS:
                with pytest.raises(ValueError, match=f"does not fit {token}"):
                    getattr(word, name)(value)

    def test_not_integers(self, anon, token):
        word = anon.atomic(token, 0)
        for value in (1.0, "1", None, b"1", float("nan")):
            for change in (
                word.store,
                word.add,
                word.sub,
                word.and_,
                word.or_,
                word.xor,
                word.exchange,
                lambda v: word.compare_exchange(v, 0),
            ):
                with pytest.raises(TypeError):
                    change(value)

    def test_alignment_and_bounds(self, anon, token):
        size = bits_of(token) // 8
        for offset in (1, 2, 3, size - 1, size + 1):
            with pytest.raises(ValueError, match=f"anon:: offset {offset} for {token}: offset is not aligned"):
                anon.atomic(token, offset)
        anon.atomic(token, 16384 - size)
        for offset in (16384, 1 << 40, (1 << 63) - 8):
            with pytest.raises(ValueError, match="outside the segment"):
                anon.atomic(token, offset)

    def test_neighbours_are_left_alone(self, anon, token):
        anon.fill(0x55)
        word = anon.atomic(token, 64)
        word.store(0)
        word.sub(1)
        size = bits_of(token) // 8
        assert anon.read(64, size) == b"\xff" * size
        assert anon.read(56, 8) == anon.read(64 + size, 8) == b"\x55" * 8

    def test_closed(self, anon, token):
        word = anon.atomic(token, 0)
        anon.close()
        for use in (word.load, lambda: word.store(1), lambda: word.add(1), lambda: word.compare_exchange(0, 1)):
            with pytest.raises(ValueError, match="anon:: the segment is closed"):
                use()

    def test_repr(self, anon, token):
        assert repr(anon.atomic(token, 8)) == f"<polyshm.Atomic {token} at offset 8 of {anon!r}>"


@pytest.fixture(scope="module")
def words():
    with polyshm.Segment("anon:", size=64) as segment:
        yield segment


class TestProperties:
    @given(st.sampled_from(TYPES), st.sampled_from(sorted(OPERATIONS)), st.data())
    def test_arithmetic_wraps(self, words, token, name, draw):
        start = draw.draw(st.integers(*RANGES[token]))
        bits = bits_of(token)
        operand = draw.draw(st.integers(-(1 << bits - 1), (1 << bits) - 1))
        word = words.atomic(token, 16)
        word.store(start)
        assert getattr(word, name)(operand) == start
        assert word.load() == wrap(token, OPERATIONS[name](start, operand))

    @given(st.sampled_from(TYPES), st.data())
    def test_compare_exchange(self, words, token, draw):
        values = st.integers(*RANGES[token]) | st.sampled_from([0, 1])
        start, expected, desired = draw.draw(values), draw.draw(values), draw.draw(values)
        word = words.atomic(token, 8)
        word.store(start)
        assert word.compare_exchange(expected, desired) == start
        assert word.load() == (desired if start == expected else start)

    @given(st.sampled_from(TYPES), st.data())
    def test_two_words_on_the_same_bytes(self, words, token, draw):
        value = draw.draw(st.integers(*RANGES[token]))
        words.atomic(token, 0).store(value)
        assert words.view(token, 0, 1)[0] == value
        assert words.atomic(("i", "u")[token[0] == "i"] + token[1:], 0).load() % (1 << bits_of(token)) == value % (
            1 << bits_of(token)
        )


class TestTogether:
    def test_threads(self, anon):
        word = anon.atomic("u64", 0)
        threads = [threading.Thread(target=lambda: [word.add(1) for _ in range(5000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert word.load() == 20_000

    def test_processes(self, anon):
        word = anon.atomic("i32", 0)
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=lambda: [word.sub(1) for _ in range(5000)]) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert word.load() == -10_000


class TestWaiting:
    @pytest.mark.parametrize("token", ["i32", "u32"])
    def test_different_already(self, anon, token):
        word = anon.atomic(token, 0)
        assert word.wait(1) is True
        assert word.wait(1, 0) is True
        assert word.wait(expected=1, timeout=5) is True

    @pytest.mark.parametrize("timeout", [0, 0.0, 1e-12, 0.05])
    def test_timeout(self, anon, timeout):
        word = anon.atomic("u32", 0)
        start = time.monotonic()
        assert word.wait(0, timeout) is False
        assert timeout <= time.monotonic() - start < 5

    def test_longer_than_a_slice(self, anon):
        start = time.monotonic()
        assert anon.atomic("u32", 0).wait(0, 0.25) is False
        assert 0.25 <= time.monotonic() - start < 5

    def test_notified_by_a_thread(self, anon):
        word = anon.atomic("u32", 0)

        def change():
            time.sleep(0.02)
            word.store(7)
            word.notify(1 << 40)

        thread = threading.Thread(target=change)
        thread.start()
        assert word.wait(0, 20) is True
        thread.join()

    def test_notified_by_a_process(self, anon):
        word = anon.atomic("i32", 0)

        def child():
            word.wait(0)
            word.store(2)
            word.notify()

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        word.store(1)
        word.notify()
        assert word.wait(1, 20) is True
        assert word.load() == 2
        process.join()

    def test_notify_counts(self, anon):
        word = anon.atomic("u32", 0)
        assert word.notify() == 0
        assert word.notify(n=5) == 0
        threads = [threading.Thread(target=word.wait, args=(0, 20)) for _ in range(3)]
        for thread in threads:
            thread.start()
        woken = 0
        deadline = time.monotonic() + 20
        while woken < 3 and time.monotonic() < deadline:
            woken += word.notify(3 - woken)  # those whose slice was over wait again
            word.store(1)
            if not any(thread.is_alive() for thread in threads):
                break
        for thread in threads:
            thread.join()
        assert not any(thread.is_alive() for thread in threads)

    @pytest.mark.parametrize("token", ["i64", "u64"])
    def test_words_of_64_bits(self, anon, token):
        word = anon.atomic(token, 0)
        with pytest.raises(ValueError, match=r"wait\(\) needs a word of 32 bits: i32 or u32, not .64"):
            word.wait(0)
        with pytest.raises(ValueError, match=r"notify\(\) needs a word of 32 bits"):
            word.notify()

    @pytest.mark.parametrize("timeout", [-1, -0.5, float("nan"), -(1 << 70)])
    def test_bad_timeouts(self, anon, timeout):
        with pytest.raises(ValueError, match="timeout"):
            anon.atomic("u32", 0).wait(0, timeout)

    def test_other_bad_arguments(self, anon):
        word = anon.atomic("u32", 0)
        with pytest.raises(TypeError, match="timeout must be a number"):
            word.wait(0, "1")
        with pytest.raises(ValueError, match="does not fit u32"):
            word.wait(-1)
        with pytest.raises(ValueError, match="n must not be negative"):
            word.notify(-1)
        with pytest.raises(TypeError, match="'expected'"):
            word.wait()

    def test_closed_by_another_thread(self, anon):
        word = anon.atomic("u32", 0)
        threading.Timer(0.05, anon.close).start()
        with pytest.raises(ValueError, match="closed"):
            word.wait(0)

    def test_handler_that_returns(self, anon):
        seen = []
        before = signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            assert anon.atomic("u32", 0).wait(0, 0.3) is False
        finally:
            signal.signal(signal.SIGALRM, before)
        assert seen == [1]

    def test_handler_that_raises(self, anon):
        def interrupt(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(KeyboardInterrupt):
                anon.atomic("u32", 0).wait(0)
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_handler_that_closes(self, anon):
        before = signal.signal(signal.SIGALRM, lambda *_: anon.close())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            with pytest.raises(ValueError, match="closed"):
                anon.atomic("u32", 0).wait(0)
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_read_only_words_can_be_waited_for(self, make):
        segment = make("posix")
        with polyshm.Segment(segment.address, access="r") as other:
            word = other.atomic("u32", 0)
            assert word.wait(0, 0.01) is False
            segment.atomic("u32", 0).store(1)
            assert word.wait(0, 1) is True
