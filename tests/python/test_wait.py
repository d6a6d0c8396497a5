# SPDX-License-Identifier: MIT
"""polyshm.wait: several objects at once, of one arena or of several."""

from __future__ import annotations

import os
import select
import signal
import threading
import time

import polyshm
import pytest
from elsewhere import in_child, in_thread


@pytest.fixture
def two(arena):
    return arena.counter("a"), arena.counter("b")


def after(seconds: float, function):
    timer = threading.Timer(seconds, function)
    timer.start()
    return timer


def test_what_is_ready(arena, two):
    a, b = two
    lock = arena.mutex("lock")
    assert polyshm.wait([a, b], 0) == []
    assert polyshm.wait([a, lock, b], 0) == [lock]
    b.store(3)
    assert polyshm.wait([b, a, lock], 0) == [b, lock]
    pair = (b, 4)
    assert polyshm.wait([pair], 0) == []
    a.store(-5)
    assert polyshm.wait(((a, -5), pair, (b, 3)), timeout=0) == [(a, -5), (b, 3)]
    b.add()
    (got,) = polyshm.wait(iter([pair]))
    assert got is pair


def test_the_same_twice(two):
    a, _ = two
    a.store(2)
    assert polyshm.wait([a, (a, 3), a], 0) == [a, a]


def test_timeout(two):
    assert polyshm.wait([], 0) == []
    assert polyshm.wait([], 0.01) == []
    start = time.monotonic()
    assert polyshm.wait(two, 0.25) == []
    assert time.monotonic() - start >= 0.25


def test_wakes(two):
    a, b = two
    timer = after(0.2, b.add)
    assert polyshm.wait([a, b]) == [b]
    timer.join()


def test_several_arenas(make_arena):
    all_of_them = [make_arena(kind).counter("c") for kind in ("posix", "anon", "memfd")]
    for counter in all_of_them:
        timer = after(0.05, counter.add)
        assert polyshm.wait(all_of_them) == [counter]
        timer.join()
        counter.store(0)


def test_more_than_a_call_sleeps_on(arena):
    counters = [arena.counter(f"c{i}") for i in range(400)]
    assert polyshm.wait(counters, 0.02) == []
    for chosen in (counters[0], counters[200], counters[399]):
        timer = after(0.03, chosen.add)
        assert polyshm.wait(counters) == [chosen]
        timer.join()
        chosen.store(0)


def test_mutex_of_another(arena):
    lock = arena.mutex("lock")
    counter = arena.counter("c")
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with lock:
            inside.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    assert polyshm.wait([counter, lock], 0.01) == []
    after(0.05, leave.set)
    assert polyshm.wait([counter, lock]) == [lock]
    thread.join()


def test_deaths(arena):
    lock = arena.mutex("lock")
    counter = arena.counter("c")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        lock.acquire()
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    (owner,) = (p for p in arena.participants() if p.pid == pid)
    assert polyshm.wait([owner, counter, lock], 0.01) == []
    after(0.05, lambda: os.kill(pid, signal.SIGKILL))
    ready = polyshm.wait([owner, counter, lock])
    assert ready
    assert set(ready) <= {owner, lock}
    os.waitpid(pid, 0)
    assert polyshm.wait([owner, counter, lock]) == [owner, lock]
    with lock.recover() as died:
        assert died.pid == pid
    os.close(read)
    os.close(write)


def test_more_deaths_than_a_call_sleeps_on(make_arena):
    """140 threads of one process, with a mutex each."""
    arena = make_arena(size="4M")
    locks = [arena.mutex(f"lock {i}") for i in range(140)]
    ready = arena.counter("ready")
    pid = os.fork()
    if pid == 0:

        def hold(lock: polyshm.Mutex) -> None:
            lock.acquire()
            ready.add()
            signal.pause()

        for lock in locks[1:]:
            threading.Thread(target=hold, args=(lock,), daemon=True).start()
        hold(locks[0])
    ready.wait(140)
    owners = [p for p in arena.participants() if p.pid == pid]
    assert len(owners) == 140
    assert polyshm.wait([*owners, *locks], 0.02) == []
    assert polyshm.wait([locks[7]] * 300, 0.02) == []
    after(0.05, lambda: os.kill(pid, signal.SIGKILL))
    assert polyshm.wait([*owners, *locks], 20)
    os.waitpid(pid, 0)
    assert polyshm.wait([*owners, *locks], 0) == [*owners, *locks]


@pytest.mark.parametrize("bad", [None, 5, "a", object(), (1, 2), ("x",)])
def test_what_cannot_be_waited_for(two, bad):
    with pytest.raises(TypeError, match=r"objects\[1\] cannot be waited for"):
        polyshm.wait([two[0], bad])


def test_numbers_that_do_not_go(arena, two):
    with pytest.raises(TypeError, match=r"objects\[0\]: only a Counter or Permits"):
        polyshm.wait([(arena.mutex("m"), 1)])
    with pytest.raises(TypeError, match=r"objects\[1\]: only a Counter or Permits .* not polyshm.Event"):
        polyshm.wait([two[0], (arena.event("e"), 1)])
    with pytest.raises(TypeError, match=r"only a Counter or Permits"):
        arena.event("e").pollfd(1)
    with pytest.raises(TypeError, match=r"objects\[1\]: an integer is expected, not str"):
        polyshm.wait([two[0], (arena.counter("c"), "x")])
    with pytest.raises(ValueError, match=r"objects\[0\]"):
        polyshm.wait([(two[0], 1 << 63)])
    for arguments in ((), (5,), ([], 1, 2)):
        with pytest.raises(TypeError):
            polyshm.wait(*arguments)
    with pytest.raises(TypeError):
        polyshm.wait([], timeout="x")


def test_deleted_and_closed_meanwhile(arena, two):
    a, b = two
    after(0.05, lambda: arena.delete("b"))
    with pytest.raises(polyshm.Deleted, match="counter 'b'"):
        polyshm.wait([a, b])
    after(0.05, arena.close)
    with pytest.raises(ValueError, match="closed"):
        polyshm.wait([a])
    with pytest.raises(ValueError, match="closed"):
        polyshm.wait([a], 0)


def test_a_list_that_changes(two):
    objects = list(two)
    result = []
    thread = threading.Thread(target=lambda: result.append(polyshm.wait(objects)))
    thread.start()
    time.sleep(0.02)
    objects.clear()
    two[1].add()
    thread.join()
    assert result == [[two[1]]]


class Interrupt(Exception):
    pass


def test_signals(two):
    a, b = two
    calls = []

    def handler(*_):
        calls.append(1)
        if len(calls) == 2:
            b.add()
        if len(calls) == 3:
            raise Interrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        assert polyshm.wait([a, b]) == [b]
        with pytest.raises(Interrupt):
            polyshm.wait([a])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(calls) == 3


def test_in_threads_and_children(two):
    a, b = two
    after(0.05, a.add)
    assert in_thread(lambda: polyshm.wait([b, a])) == [a]
    a.store(0)

    def child():
        assert polyshm.wait([a, b], 0.01) == []
        b.add()
        assert polyshm.wait([a, b]) == [b]

    assert in_child(child) == 0
    assert polyshm.wait([a, b]) == [b]


def test_read_only(make_arena):
    arena = make_arena("posix")
    counter = arena.counter("c")
    with polyshm.Arena(arena.address, access="r") as reader:
        seen = reader.counter("c")
        assert polyshm.wait([seen], 0.01) == []
        timer = after(0.05, counter.add)
        assert polyshm.wait([seen]) == [seen]
        timer.join()


# What is not ready, and what makes it so.
WAKES = {
    "counter": (lambda a: a.counter("x"), lambda x: x.add()),
    "semaphore": (lambda a: a.semaphore("x", 0), lambda x: x.release()),
    "event": (lambda a: a.event("x"), lambda x: x.set()),
    "auto event": (lambda a: a.event("x", auto=True), lambda x: x.set()),
    "latch": (lambda a: a.latch("x", 1), lambda x: x.count_down()),
}


@pytest.mark.parametrize("what", WAKES)
def test_every_noun(what, arena):
    make, wake = WAKES[what]
    thing, never = make(arena), arena.counter("never")
    assert polyshm.wait([never, thing], 0) == []
    fd = thing.pollfd()
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert poller.poll(0) == []
    timer = after(0.03, lambda: wake(thing))
    assert polyshm.wait([never, thing]) == [thing]
    timer.join()
    assert poller.poll(20000)
    assert polyshm.wait([thing], 0) == [thing]  # nothing was taken
