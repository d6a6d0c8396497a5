# SPDX-License-Identifier: MIT
"""Sub-interpreters, with the common GIL and with their own: each has its own module, all share the memory."""

from __future__ import annotations

import sys
import threading

import polyshm
import pytest

interpreters = pytest.importorskip(
    "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters",
    reason="this Python has no module for sub-interpreters",
)

OWN_GIL = sys.version_info >= (3, 12)

WORK = """
import polyshm
assert polyshm.Segment.__module__ == "polyshm"
segment = polyshm.Segment({address!r})
lock, word = segment.mutex(64), segment.atomic("u64", 0)
view = segment.view("u64", 512, 1)
for _ in range({times}):
    with lock:
        view[0] += 1
    word.add(1)
try:
    segment.read(1 << 40, 1)
except ValueError:
    pass
else:
    raise AssertionError
try:
    polyshm.Segment("posix:/polyshm-none")
except FileNotFoundError:
    pass
segment.atomic("u32", 1024).add(1)
{end}
"""


def create():
    if sys.version_info >= (3, 13):
        return interpreters.create("isolated")
    return interpreters.create(isolated=True) if OWN_GIL else interpreters.create()


def run(code: str) -> None:
    number = create()
    try:
        fault = interpreters.run_string(number, code)
        assert fault is None, fault
    finally:
        interpreters.destroy(number)


@pytest.fixture
def shared(make):
    segment = make("posix")
    segment.mutex(64, create=True)
    return segment


@pytest.mark.parametrize(
    "end", ["", "segment.close()", "del segment, lock, word", "view.release()", "lock.acquire(); lock.release()"]
)
def test_one_after_another(shared, end):
    for _ in range(3):
        run(WORK.format(address=shared.address, times=100, end=end))
    assert shared.view("u64", 512, 1)[0] == 300
    assert shared.atomic("u64", 0).load() == 300
    assert shared.atomic("u32", 1024).load() == 3


def test_at_the_same_time(shared):
    faults: list[BaseException] = []

    def work() -> None:
        try:
            run(WORK.format(address=shared.address, times=2000, end=""))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert shared.view("u64", 512, 1)[0] == 6000
    assert shared.atomic("u64", 0).load() == 6000


def test_exceptions_are_each_ones_own(shared):
    run(
        "import polyshm; assert polyshm.Error is not None; polyshm.Error.mark = 1"
        if sys.version_info < (3, 12)
        else "import polyshm; assert polyshm.OwnerDied.pid is None"
    )
    assert not hasattr(polyshm.Error, "mark")


@pytest.mark.skipif(not OWN_GIL, reason="interpreters with a GIL of their own came with 3.12")
def test_own_gil_is_allowed():
    run("import polyshm; polyshm.Segment('anon:', size=4096)[0] = 1")


ARENA_WORK = """
import polyshm
arena = polyshm.Arena({address!r})
lock, counter = arena.mutex("books"), arena.counter("n")
for _ in range({times}):
    with lock:
        value = counter.load()
        counter.store(value + 1)
rw = arena.rwlock("rw")
with rw.write:
    rw.downgrade()
with rw.read:
    pass
arena.counter("ends").add()
assert type(arena["books"]) is polyshm.Mutex
changed = arena.condition("changed", lock)
assert type(arena["changed"].mutex) is polyshm.Mutex
with changed:
    changed.notify_all()
    changed.wait(0.001)
    assert lock.locked()
pool, setup = arena.permits("pool", 3), arena.once("setup")
assert pool.acquire(2, 30) and pool.held() == 2
with pool:
    assert pool.available() <= 0
pool.release(2)
setup.run(arena.counter("setups").add)
assert setup.done() and not setup.run(None.__class__)
try:
    pool.release()
except RuntimeError:
    pass
else:
    raise AssertionError
places, go, turn = arena.semaphore("places", 2), arena.event("go"), arena.event("turn", auto=True)
left = arena.latch("left", 3)
for _ in range({times}):
    with places:
        go.set()
        assert go.wait(30)
    turn.set()
    turn.wait(0)
assert places.acquire() and polyshm.wait([places, go], 30)
places.release()
assert 0 <= left.count_down() <= 2
assert left.wait(0) is (left.count() == 0)
assert [type(arena[name]) for name in ("places", "go", "left")] == [polyshm.Semaphore, polyshm.Event, polyshm.Latch]
assert (arena["go"].auto, arena["turn"].auto) == (False, True)
try:
    arena["none"]
except KeyError:
    pass
else:
    raise AssertionError
me = next(one for one in arena.participants() if one.self)
assert (me.language, me.holds) == ("python", ())
{end}
"""


def expect_words(arena: polyshm.Arena) -> None:
    """What three of them have left: each has given back what it took, and counted once."""
    assert arena["places"].value() == 2
    assert arena["go"].is_set()
    assert arena["left"].count() == 0


@pytest.mark.parametrize(
    "end",
    [
        "",
        "arena.close()",
        "del arena, lock, counter, rw, changed, pool, setup, places, go, turn, left",
        "arena.close(); arena = None",
    ],
)
def test_arenas_one_after_another(arena, end):
    for _ in range(3):
        run(ARENA_WORK.format(address=arena.address, times=100, end=end))
    assert arena["n"].load() == 300
    assert arena["ends"].load() == 3
    assert (arena["pool"].available(), arena["setups"].load()) == (3, 1)
    expect_words(arena)
    assert arena.check() == []


def test_arenas_at_the_same_time(arena):
    faults: list[BaseException] = []

    def work() -> None:
        try:
            run(ARENA_WORK.format(address=arena.address, times=1000, end=""))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert arena["n"].load() == 3000
    assert (arena["pool"].available(), arena["setups"].load()) == (3, 1)
    expect_words(arena)
    assert arena.check() == []


def test_an_interpreter_that_ends_with_a_lock(arena):
    """The thread holds it, and it lives on: the lock is still its own."""
    run(f"import polyshm; polyshm.Arena({arena.address!r}).mutex('books').acquire()")
    lock = arena.mutex("books")
    assert lock.locked()
    lock.release()
    assert not lock.locked()


def test_an_interpreter_that_ends_with_permits(arena):
    """As with a lock: they are the thread's."""
    run(f"import polyshm; polyshm.Arena({arena.address!r}).permits('pool', 3).acquire(2)")
    pool = arena.permits("pool")
    assert (pool.held(), pool.available()) == (2, 1)
    pool.release(2)


def test_an_interpreter_that_runs_what_its_thread_runs(arena):
    once = arena.once("setup")
    code = f"""
import os, polyshm
try:
    polyshm.Arena({arena.address!r}).once("setup").run(os.abort, 30)
except RuntimeError as error:
    assert "would wait for itself" in str(error)
else:
    raise AssertionError
"""
    assert once.run(lambda: run(code)) is True
    assert once.done() is True
