# SPDX-License-Identifier: MIT
"""Handles that travel to other processes: fork, spawn, forkserver, and pickles by themselves."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import os
import pickle
import signal

import polyshm
import pytest

SIZE = 16384
METHODS = ("fork", "spawn", "forkserver")


def add_under_lock(segment, lock, word, record, times):
    view = segment.view("u64", 512, 1)
    for _ in range(times):
        with lock:
            view[0] += 1
        word.add(1)
    if record is not None:
        with record:
            segment.write(1024, b"from the child")
    view.release()


def die_holding(lock):
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


def note_repair(died):
    died.lock.acquire()
    died.lock.release()


def work_by_address(address):
    with polyshm.Segment(address) as segment:
        return segment.atomic("u32", 0).add(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["posix", "sysv", "ftok", "private", "file", "memfd", "fd"])
def test_travels_to_a_child(make, kind, method):
    segment = make(kind)
    lock = segment.mutex(64, create=True)
    word = segment.atomic("u64", 0)
    record = segment.record_lock(0, 8) if segment.kind in ("posix", "file", "memfd", "fd") else None
    context = multiprocessing.get_context(method)
    children = [context.Process(target=add_under_lock, args=(segment, lock, word, record, 200)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert segment.view("u64", 512, 1)[0] == 400
    assert word.load() == 400
    if record is not None:
        assert segment.read(1024, 14) == b"from the child"


@pytest.mark.parametrize("kind", ["anon", "zero"])
def test_memory_without_a_name_is_for_forks_alone(make, kind):
    segment = make(kind)
    arguments = (segment, segment.mutex(64, create=True), segment.atomic("u64", 0), None, 100)
    child = multiprocessing.get_context("fork").Process(target=add_under_lock, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert segment.atomic("u64", 0).load() == 100
    for method in ("spawn", "forkserver"):
        with pytest.raises(TypeError, match=f"{kind}:: only forked children share it"):
            multiprocessing.get_context(method).Process(target=add_under_lock, args=arguments).start()


@pytest.mark.parametrize("method", METHODS)
def test_death_of_a_child(make, method):
    lock = make("posix").mutex(0, create=True)
    child = multiprocessing.get_context(method).Process(target=die_holding, args=(lock,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    with lock.recover() as died:
        assert died.pid == child.pid


@pytest.mark.parametrize("method", METHODS)
def test_pool(make, method):
    segment = make("posix")
    with multiprocessing.get_context(method).Pool(2) as pool:
        seen = pool.map(work_by_address, [segment.address] * 20)
    assert sorted(seen) == list(range(20))


OBJECTS: list = []


def keep(*objects):
    OBJECTS[:] = objects


def use_all(objects):
    mutex, writing, places, owned, changed, event, barrier, once, latch, counter = objects or OBJECTS
    with mutex, writing, places, owned, changed:
        event.set()
        return (
            changed.mutex.locked(), owned.held(), event.wait(0), barrier.parties, once.run(list), latch.count_down(),
            counter.add(),
        )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_objects_of_an_arena(make_arena, method):
    """As arguments, and by the initializers of pools."""
    arena = make_arena("posix")
    objects = [
        arena.mutex("mutex", recursive=True), arena.rwlock("rwlock").write, arena.semaphore("semaphore"),
        arena.permits("permits", 2), arena.condition("condition", arena.mutex("mutex")), arena.event("event"),
        arena.barrier("barrier", 2), arena.once("once"), arena.latch("latch", 100), arena.counter("counter"),
    ]  # fmt: skip
    context = multiprocessing.get_context(method)
    with context.Pool(2, keep, objects) as pool:
        got = pool.map(use_all, [None, None, objects])
    with concurrent.futures.ProcessPoolExecutor(1, context, keep, objects) as executor:
        got += [executor.submit(use_all, each).result(60) for each in (None, objects)]
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        got += executor.map(use_all, [objects] * 2)
    assert all(each[:4] == (True, 1, True, 2) for each in got)
    assert sorted(each[4:] for each in got) == sorted((i == 1, 100 - i, i) for i in range(1, 8))
    assert arena.check() == []


class TestPickles:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    @pytest.mark.parametrize("kind", ["posix", "sysv", "ftok", "private", "file"])
    def test_segment(self, make, kind, protocol):
        segment = make(kind)
        segment.write(0, b"same")
        with pickle.loads(pickle.dumps(segment, protocol)) as other:
            assert other.read(0, 4) == b"same"
            assert other.size == segment.size
            assert other.created is False
            other[0] = ord("S")
        assert segment[0] == ord("S")

    def test_window_and_access(self, make):
        whole = make("file")
        with polyshm.Segment(whole.address, offset=100, size=50, access="r") as window:
            with pickle.loads(pickle.dumps(window)) as other:
                whole[100] = 7
                assert (other.size, other.readonly, other[0]) == (50, True, 7)

    def test_relative_path(self, make, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with polyshm.Segment("file:here", size=10, create=True) as segment:
            data = pickle.dumps(segment)
            monkeypatch.chdir("/")
            with pickle.loads(data) as other:
                assert other.address == f"file:{tmp_path}/here"
            os.rename(tmp_path / "here", tmp_path / "there")
            with polyshm.Segment(f"file:{tmp_path}/there") as renamed:
                os.rename(tmp_path / "there", tmp_path / "elsewhere")
                with pickle.loads(pickle.dumps(renamed)) as other:
                    assert other.address == f"file:{tmp_path}/elsewhere"

    def test_copy(self, make):
        segment = make("posix")
        with copy.copy(segment) as other:
            other[5] = 5
        assert segment[5] == 5

    def test_derived_objects(self, make):
        segment = make("posix")
        word = pickle.loads(pickle.dumps(segment.atomic("i64", 8)))
        word.store(-5)
        assert segment.atomic("i64", 8).load() == -5
        lock = segment.mutex(64, create=True, recursive=True, repair=note_repair)
        other = pickle.loads(pickle.dumps(lock))
        with other:
            assert lock.owner() == os.getpid()
        assert "recursive" in repr(other)
        child = multiprocessing.get_context("fork").Process(target=die_holding, args=(lock,))
        child.start()
        child.join()
        with other:  # note_repair came with it
            assert segment.mutex(64).locked()
        with segment.mutex(64):
            pass
        with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
            pickle.dumps(segment.mutex(64, repair=lambda died: None))
        record = pickle.loads(pickle.dumps(segment.record_lock(8, 16, True)))
        assert repr(record).startswith("<polyshm.RecordLock shared on 16 bytes at offset 8 of")
        whole = pickle.loads(pickle.dumps(segment.record_lock()))
        with whole:
            assert segment.record_lock(100, 1).acquire(False) is False

    def test_together_they_share_one_handle(self, make):
        segment = make("posix")
        pair = pickle.loads(pickle.dumps((segment, segment.atomic("u32", 0))))
        pair[0].close()
        with pytest.raises(ValueError, match="closed"):
            pair[1].load()

    @pytest.mark.parametrize("kind", ["posix", "sysv", "file"])
    def test_removed(self, make, kind):
        segment = make(kind)
        data = pickle.dumps(segment)
        segment.unlink()
        segment.close()
        with pytest.raises(polyshm.Deleted, match="was removed"):
            pickle.loads(data)

    @pytest.mark.parametrize("kind", ["posix", "file"])
    def test_made_anew(self, make, kind):
        segment = make(kind)
        data = pickle.dumps(segment)
        segment.unlink()
        # While the first is open, no other object can have its identity.
        with polyshm.Segment(segment.address, size=SIZE, create=True, exclusive=True) as second:
            with pytest.raises(polyshm.Deleted, match="made anew"):
                pickle.loads(data)
            second.unlink()

    @pytest.mark.parametrize("kind", ["memfd", "fd"])
    def test_descriptors_only_while_a_child_starts(self, make, kind):
        segment = make(kind)
        for thing in (segment, segment.atomic("u32", 0), segment.record_lock()):
            with pytest.raises(
                TypeError, match=f"{segment.address}: can be pickled only while multiprocessing starts a child"
            ):
                pickle.dumps(thing)

    def test_closed(self, make):
        segment = make("posix")
        word = segment.atomic("u32", 0)
        segment.close()
        for thing in (segment, word):
            with pytest.raises(ValueError, match="closed"):
                pickle.dumps(thing)

    def test_stat(self, make):
        stat = make("posix").stat()
        assert pickle.loads(pickle.dumps(stat)) == stat
        assert type(pickle.loads(pickle.dumps(stat))) is polyshm.Stat

    def test_exceptions(self):
        lost = pickle.loads(pickle.dumps(polyshm.Lost(14, "gone", "posix:/x")))
        assert (type(lost), lost.errno, lost.filename) == (polyshm.Lost, 14, "posix:/x")
        assert type(pickle.loads(pickle.dumps(polyshm.Deleted("x")))) is polyshm.Deleted


def test_children_do_not_remove_segments(make):
    """No tracker: a name lives until somebody unlinks it."""
    segment = make("posix")
    for method in METHODS:
        child = multiprocessing.get_context(method).Process(target=work_by_address, args=(segment.address,))
        child.start()
        child.join()
        assert polyshm.exists(segment.address)
    assert segment.atomic("u32", 0).load() == 3
