# SPDX-License-Identifier: MIT
"""The heap of an arena: blocks by place, allocated into a destination and freed from it."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading

import polyshm
import pytest
from elsewhere import in_child

SIZES = (1, 15, 16, 17, 63, 64, 65, 500, 4095, 4096, 4097, 30_000, 200_000)


def place_in(arena, destination):
    return int.from_bytes(arena.read(destination, 8), "little")


def allocate(arena, destination, size):
    arena.alloc_into(destination, size)
    return place_in(arena, destination)


class TestRoots:
    def test_places(self, arena):
        places = [arena.root(index) for index in range(32)]
        assert len(set(places)) == 32
        assert all(place % 8 == 0 and 0 < place < arena.size for place in places)
        assert [place_in(arena, place) for place in places] == [0] * 32

    @pytest.mark.parametrize("index", [32, 33, 1 << 32, (1 << 63) - 1])
    def test_beyond(self, arena, index):
        with pytest.raises(IndexError, match=f"{arena.address}: root {index} of 32: index out of range"):
            arena.root(index)

    def test_no_index(self, arena):
        with pytest.raises(ValueError, match="negative"):
            arena.root(-1)
        with pytest.raises(TypeError, match="index must be an integer"):
            arena.root("1")


class TestBlocks:
    @pytest.mark.parametrize("size", SIZES)
    def test_round_trip(self, arena, size):
        root = arena.root(3)
        before = arena.stats()["used"]
        place = allocate(arena, root, size)
        assert place % 16 == 0
        assert size % 64 or place % 64 == 0
        assert arena.block_size(place) >= size
        assert arena.read(place, size) == bytes(size)
        data = random.Random(size).randbytes(size)
        arena.write(place, data)
        assert arena.read(place, size) == data
        assert arena.stats()["used"] - before == arena.block_size(place)
        assert arena.check() == []
        arena.free_from(root)
        assert place_in(arena, root) == 0
        assert arena.stats()["used"] == before
        with pytest.raises(ValueError, match=f"place {place}: no block in use is there"):
            arena.block_size(place)

    def test_zeroed_when_used_again(self, arena):
        root = arena.root(0)
        for size in SIZES:
            for _ in range(3):
                place = allocate(arena, root, size)
                assert arena.read(place, size) == bytes(size)
                arena.write(place, b"\xff" * size)
                arena.free_from(root)

    def test_sizes_as_text(self, arena):
        assert arena.block_size(allocate(arena, arena.root(0), "64K")) >= 65536
        with pytest.raises(ValueError, match="size 'much'"):
            arena.alloc_into(arena.root(1), "much")

    def test_destinations_in_blocks(self, arena):
        """A list of blocks, each of which holds the place of the next."""
        target = arena.root(0)
        places = []
        for number in range(50):
            place = allocate(arena, target, 64)
            arena.write(place + 8, number.to_bytes(8, "little"))
            places.append(place)
            target = place
        assert arena.check() == []
        target, seen = arena.root(0), []
        while place := place_in(arena, target):
            seen.append(int.from_bytes(arena.read(place + 8, 8), "little"))
            target = place
        assert seen == list(range(50))
        for place in reversed(places[:-1]):
            arena.free_from(place)
        arena.free_from(arena.root(0))
        assert arena.check() == []

    def test_part_of_a_block(self, arena):
        place = allocate(arena, arena.root(0), 100)
        arena.write(place + 10, b"hello")
        assert arena.read(place + 8, 9) == b"\0\0hello\0\0"
        size = arena.block_size(place)
        for start, length in ((place, size + 1), (place + size - 1, 2), (place + 50, size)):
            with pytest.raises(ValueError, match=f"place {start} \\+ size {length}: no block in use is there"):
                arena.read(start, length)
            with pytest.raises(ValueError, match="no block in use"):
                arena.write(start, bytes(length))

    def test_data_of_all_kinds(self, arena):
        place = allocate(arena, arena.root(0), 64)
        arena.write(place, bytearray(b"one"))
        arena.write(place + 3, memoryview(b"two"))
        assert arena.read(place, 6) == b"onetwo"
        with pytest.raises(TypeError, match="bytes-like"):
            arena.write(place, "text")

    def test_full(self, arena):
        with pytest.raises(OSError, match="bytes into place") as caught:
            arena.alloc_into(arena.root(0), arena.size)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, arena.address)
        assert place_in(arena, arena.root(0)) == 0
        with pytest.raises(OSError) as caught:
            arena.alloc_into(arena.root(0), (1 << 63) - 1)
        assert caught.value.errno == errno.ENOSPC
        largest = arena.stats()["largest_free"]
        assert largest > arena.size // 2
        allocate(arena, arena.root(0), largest)
        assert arena.check() == []
        arena.free_from(arena.root(0))
        assert arena.stats()["largest_free"] == largest

    def test_filled_and_emptied(self, arena):
        table = allocate(arena, arena.root(0), 8 * 4096)
        before = arena.stats()
        numbers = random.Random(5)
        for _ in range(2):
            count = 0
            with pytest.raises(OSError) as caught:
                while True:
                    arena.alloc_into(table + 8 * count, numbers.choice((16, 40, 100, 700, 5000)))
                    count += 1
            assert caught.value.errno == errno.ENOSPC
            assert count > 300
            assert arena.check() == []
            order = list(range(count))
            numbers.shuffle(order)
            for index in order:
                arena.free_from(table + 8 * index)
            after = arena.stats()
            assert after["used"] == before["used"]
            assert arena.check() == []


class TestMisuse:
    def test_destinations(self, arena):
        place = allocate(arena, arena.root(0), 64)
        for wrong in (0, 1, place + 4, place + 64 - 4, arena.root(0) + 4, arena.root(31) + 8, arena.size, 1 << 62):
            with pytest.raises(ValueError, match="not a destination"):
                arena.alloc_into(wrong, 16)
            with pytest.raises(ValueError, match="not a destination"):
                arena.free_from(wrong)
        with pytest.raises(ValueError, match=f"16 bytes into place {arena.root(0)}: the destination does not hold 0"):
            arena.alloc_into(arena.root(0), 16)
        with pytest.raises(ValueError, match="size must be at least 1"):
            arena.alloc_into(arena.root(1), 0)
        assert arena.free_from(arena.root(1)) is None
        arena.write(place, (place + 16).to_bytes(8, "little"))
        with pytest.raises(ValueError, match="no block in use"):
            arena.free_from(place)
        arena.write(place, bytes(8))
        assert arena.check() == []

    def test_reads_outside(self, arena):
        for place, size in ((0, 1), (arena.size, 1), (1 << 62, 1 << 62), (arena.size - 1, 1 << 62), (4096, 1 << 40)):
            with pytest.raises(ValueError, match="no block in use"):
                arena.read(place, size)
        with pytest.raises(ValueError, match="no block in use"):
            arena.write(arena.root(0), b"12345678")
        with pytest.raises(ValueError, match="negative"):
            arena.read(-1, 1)
        with pytest.raises(TypeError, match="place must be an integer"):
            arena.read("0", 1)

    def test_read_only(self, arena):
        place = allocate(arena, arena.root(0), 64)
        arena.write(place, b"seen")
        with polyshm.Arena(arena.address, access="r") as other:
            assert place_in(other, other.root(0)) == place
            assert other.read(place, 4) == b"seen"
            assert other.block_size(place) == 64
            for use in (
                lambda: other.write(place, b"x"),
                lambda: other.alloc_into(other.root(1), 16),
                lambda: other.free_from(other.root(0)),
            ):
                with pytest.raises(TypeError, match="read-only"):
                    use()

    def test_closed(self, arena):
        root = arena.root(0)
        place = allocate(arena, root, 64)
        arena.close()
        for use in (
            lambda: arena.root(0),
            lambda: arena.alloc_into(root, 1),
            lambda: arena.free_from(root),
            lambda: arena.block_size(place),
            lambda: arena.read(place, 1),
            lambda: arena.write(place, b"1"),
        ):
            with pytest.raises(ValueError, match="closed"):
                use()


class TestSharing:
    def test_threads(self, make_arena):
        arena = make_arena(size="8M")
        table = allocate(arena, arena.root(0), 8 * 4 * 64)

        def work(number):
            chance = random.Random(number)
            for step in range(600):
                target = table + 8 * (number * 64 + chance.randrange(64))
                place = place_in(arena, target)
                if place:
                    size = arena.block_size(place)
                    assert arena.read(place, size) == bytes([number]) * size, step
                    arena.free_from(target)
                else:
                    place = allocate(arena, target, chance.choice(SIZES[:-1]))
                    arena.write(place, bytes([number]) * arena.block_size(place))

        faults = []

        def run(number):
            try:
                work(number)
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert arena.check() == []

    def test_a_killed_child_leaks_nothing(self, arena):
        root = arena.root(0)
        for attempt in range(12):
            pid = os.fork()
            if pid == 0:
                while True:
                    arena.alloc_into(arena.root(1), 100 + attempt)
                    arena.alloc_into(root, 5000)
                    arena.free_from(root)
                    arena.free_from(arena.root(1))
            threading.Event().wait(0.01 + attempt / 1000)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            arena.free_from(root)
            arena.free_from(arena.root(1))
            assert arena.check() == []
            assert arena.stats()["used"] == 0

    def test_fork(self, arena):
        place = allocate(arena, arena.root(0), 64)

        def work():
            arena.write(place, b"child")
            arena.alloc_into(arena.root(1), 64)

        assert in_child(work) == 0
        assert arena.read(place, 5) == b"child"
        assert place_in(arena, arena.root(1)) != 0
        assert arena.check() == []
