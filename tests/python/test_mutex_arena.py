# SPDX-License-Identifier: MIT
"""The mutex of an arena: threads, processes, owner death, deletion, and what its methods refuse."""

from __future__ import annotations

import errno
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


@pytest.fixture
def lock(arena):
    return arena.mutex("books")


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.fixture
def on_alarm():
    before = signal.getsignal(signal.SIGALRM)

    def set_handler(handler, seconds):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield set_handler
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class TestHolding:
    def test_acquire_and_release(self, lock):
        assert lock.locked() is False
        assert lock.owner() is None
        assert lock.acquire() is True
        assert lock.locked() is True
        assert lock.owner() == os.getpid()
        assert lock.release() is None
        assert lock.locked() is False
        assert lock.owner() is None

    def test_with(self, lock):
        with lock as held:
            assert held is True
            assert lock.locked()
        assert not lock.locked()

    def test_with_gives_back_after_an_exception(self, lock):
        with pytest.raises(ZeroDivisionError):
            with lock:
                1 / 0  # noqa: B018
        assert not lock.locked()

    def test_exit_does_not_hide_the_exception(self, lock):
        with pytest.raises(ZeroDivisionError):
            with lock:
                lock.release()
                1 / 0  # noqa: B018
        with pytest.raises(RuntimeError, match="not held by this thread"):
            with lock:
                lock.release()

    def test_not_recursive(self, arena, lock):
        assert lock.recursive is False
        with lock:
            with pytest.raises(
                RuntimeError, match=f"{arena.address}: mutex 'books': already held by this thread, and not recursive"
            ):
                lock.acquire()
            with pytest.raises(RuntimeError):
                lock.acquire(timeout=5)
            assert lock.acquire(blocking=False) is False
            assert lock.acquire(timeout=0) is False
        assert not lock.locked()

    def test_recursive(self, arena):
        lock = arena.mutex("again", recursive=True)
        assert lock.recursive is True
        with lock:
            assert lock.acquire()
            assert lock.acquire(False)
            with arena.mutex("again"):
                pass
            lock.release()
            lock.release()
            assert lock.locked()
        assert not lock.locked()
        with pytest.raises(RuntimeError):
            lock.release()

    def test_recursion_is_not_endless(self, arena):
        lock = arena.mutex("again", recursive=True)
        count = 0
        with pytest.raises(RuntimeError, match="held too often"):
            while count < 100_000:
                lock.acquire()
                count += 1
        assert count == 65_536
        for _ in range(count):
            lock.release()
        assert not lock.locked()

    def test_release_by_nobody_and_by_another(self, lock):
        with pytest.raises(RuntimeError, match="mutex 'books': not held by this thread"):
            lock.release()
        with lock:
            with pytest.raises(RuntimeError):
                in_thread(lock.release)
            assert lock.locked()

    def test_two_handles_are_one_lock(self, arena, lock):
        other = arena["books"]
        with lock:
            assert other.locked()
            assert in_thread(lambda: other.acquire(False)) is False
        with other:
            assert in_thread(lambda: lock.acquire(timeout=0.01)) is False
        lock.acquire()
        other.release()
        assert not lock.locked()

    def test_two_arena_handles_are_one_lock(self, arena, lock):
        with polyshm.Arena(arena.address) as again:
            other = again.mutex("books")
            with lock:
                with pytest.raises(RuntimeError, match="already held"):
                    other.acquire()
                assert in_thread(lambda: other.acquire(False)) is False

    def test_repr(self, arena, lock):
        assert repr(lock) == f"<polyshm.Mutex 'books' of {arena!r}>"
        assert repr(arena.mutex("it's", recursive=True)) == f'<polyshm.Mutex "it\'s" recursive of {arena!r}>'
        assert lock.name == "books"


class TestArguments:
    def test_as_in_threading(self, lock):
        for arguments in ((), (True,), (True, None), (True, -1), (True, 5), (False,), (1, 0.5), (False, -1)):
            assert lock.acquire(*arguments) is True
            lock.release()
        assert lock.acquire(blocking=True, timeout=3)
        lock.release()
        assert lock.acquire(timeout=1e300)
        lock.release()

    @pytest.mark.parametrize("timeout", [-2, -0.5, float("nan"), float("-inf"), -(1 << 70)])
    def test_bad_timeouts(self, lock, timeout):
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(timeout=timeout)
        with pytest.raises(ValueError, match="timeout"):
            lock.recover(timeout)

    def test_other_bad_arguments(self, arena, lock):
        with pytest.raises(ValueError, match="non-blocking"):
            lock.acquire(False, 1)
        with pytest.raises(TypeError, match="timeout must be a number"):
            lock.acquire(timeout="1")
        with pytest.raises(TypeError, match="'wait'"):
            lock.acquire(wait=1)
        with pytest.raises(TypeError, match="repair must be callable"):
            arena.mutex("books", repair=1)
        with pytest.raises(TypeError, match="'name'"):
            arena.mutex()
        with pytest.raises(TypeError, match="name must be str"):
            arena.mutex(64)
        with pytest.raises(ValueError, match="mutex '': a name of an object has 1 to 255 bytes"):
            arena.mutex("")

    def test_recursive_disagrees(self, arena, lock):
        with pytest.raises(ValueError, match="mutex 'books': the mutex exists and its recursive setting is another"):
            arena.mutex("books", recursive=True)
        arena.mutex("books", recursive=False)
        arena.mutex(name="books", recursive=None, repair=None)
        arena.mutex("again", True)
        with pytest.raises(ValueError, match="recursive setting"):
            arena.mutex("again", False)
        assert arena.mutex("again").recursive

    def test_read_only(self, arena, lock):
        with polyshm.Arena(arena.address, access="r") as other:
            seen = other.mutex("books")
            with lock:
                assert seen.locked()
                assert seen.owner() == os.getpid()
            assert not seen.locked()
            for use in (seen.acquire, seen.__enter__, lambda: seen.acquire(False), seen.recover().__enter__):
                with pytest.raises(TypeError, match="mutex 'books': the memory is read-only"):
                    use()
            with pytest.raises(RuntimeError, match="not held"):
                seen.release()
            with pytest.raises(KeyError, match="'none': no object has this name"):
                other.mutex("none")


class TestWaiting:
    def test_timeout(self, lock):
        with lock:
            start = time.monotonic()
            assert in_thread(lambda: lock.acquire(timeout=0.25)) is False
            assert 0.25 <= time.monotonic() - start < 10

    def test_released_by_a_thread(self, lock):
        lock.acquire()
        got = threading.Event()

        def take():
            with lock:
                got.set()

        thread = threading.Thread(target=take)
        thread.start()
        assert not got.wait(0.05)
        lock.release()
        assert got.wait(20)
        thread.join()

    @pytest.mark.parametrize("recursive", [False, True])
    def test_threads_exclude_each_other(self, arena, recursive):
        lock = arena.mutex("again", recursive)
        count = [0]

        def work():
            for _ in range(3000):
                with lock:
                    before = count[0]
                    count[0] = before + 1

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert count == [12_000]
        assert not lock.locked()

    def test_processes_exclude_each_other(self, arena, lock):
        arena.alloc_into(arena.root(0), 8)
        place = int.from_bytes(arena.read(arena.root(0), 8), "little")

        def work():
            for _ in range(5000):
                with lock:
                    before = int.from_bytes(arena.read(place, 8), "little")
                    arena.write(place, (before + 1).to_bytes(8, "little"))

        processes = [fork.Process(target=work) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
        assert int.from_bytes(arena.read(place, 8), "little") == 15_000
        assert arena.check() == []

    def test_waiters_are_handed_it(self, lock):
        """One who takes it again and again cannot keep another from it for ever."""
        turns = []
        stop = threading.Event()

        def greedy():
            while not stop.is_set():
                with lock:
                    pass

        thread = threading.Thread(target=greedy)
        thread.start()
        for _ in range(20):
            assert lock.acquire(timeout=20)
            turns.append(1)
            lock.release()
        stop.set()
        thread.join()
        assert len(turns) == 20

    @pytest.mark.parametrize("wait", ["acquire", "with", "timeout", "recover", "repair"])
    def test_interrupted(self, arena, lock, on_alarm, wait):
        """Ctrl-C in a wait: KeyboardInterrupt, and the lock is not held."""
        use = {
            "acquire": lock.acquire,
            "with": lock.__enter__,
            "timeout": lambda: lock.acquire(timeout=20),
            "recover": lock.recover().__enter__,
            "repair": arena.mutex("books", repair=print).acquire,
        }[wait]
        with Holder(lock):
            on_alarm(interrupt, 0.02)
            with pytest.raises(KeyboardInterrupt):
                use()
        assert lock.owner() is None
        with lock:
            pass

    def test_sigint_in_another_process(self, python):
        code = """
import polyshm, os, signal, threading
arena = polyshm.Arena("anon:", size="256K", create=True)
lock = arena.mutex("books")
pid = os.fork()
if pid == 0:
    lock.acquire()
    signal.pause()
while not lock.locked():
    pass
threading.Timer(0.05, signal.raise_signal, (signal.SIGINT,)).start()
try:
    lock.acquire()
except KeyboardInterrupt:
    print("interrupted", lock.owner() == pid)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"""
        assert python(code).stdout == "interrupted True\n"

    def test_a_handler_that_takes_it_again(self, lock, on_alarm):
        seen = []

        def handler(*_):
            assert lock.acquire(False) is False
            try:
                lock.acquire()
            except RuntimeError as error:
                seen.append(str(error))

        with lock:
            on_alarm(handler, 0.01)
            deadline = time.monotonic() + 20
            while not seen and time.monotonic() < deadline:
                time.sleep(0.001)
        assert "already held by this thread" in seen[0]
        assert not lock.locked()

    def test_a_handler_that_takes_it_during_the_wait(self, lock, on_alarm):
        """Who waits does not hold it: the handler times out, and the wait goes on."""
        seen = []
        with Holder(lock) as holder:
            on_alarm(lambda *_: (seen.append(lock.acquire(timeout=0.05)), holder.release()), 0.02)
            assert lock.acquire() is True
        lock.release()
        assert seen == [False]

    def test_a_handler_that_uses_another(self, arena, lock, on_alarm):
        other = arena.mutex("other")

        def handler(*_):
            with other:
                arena.counter("seen").add()

        with Holder(lock) as holder:
            on_alarm(handler, 0.02)
            threading.Timer(0.2, holder.release).start()
            with lock:
                pass
        assert arena["seen"].load() == 1

    def test_closed_by_another_thread(self, arena, lock):
        with Holder(lock):
            timer = threading.Timer(0.05, arena.close)
            timer.start()
            with pytest.raises(ValueError, match="closed"):
                lock.acquire()
            timer.join()

    def test_closed_while_many_wait(self, arena, lock):
        faults = []

        def wait():
            try:
                lock.acquire()
            except ValueError as error:
                faults.append(str(error))

        with Holder(lock):
            threads = [threading.Thread(target=wait) for _ in range(6)]
            for thread in threads:
                thread.start()
            time.sleep(0.05)
            arena.close()
            for thread in threads:
                thread.join()
        assert len(faults) == 6
        assert all("closed" in fault for fault in faults)

    def test_closed_while_held(self, arena, lock):
        lock.acquire()
        arena.close()
        for use in (lock.acquire, lock.locked, lock.owner, lock.__enter__, lock.recover().__enter__):
            with pytest.raises(ValueError, match="closed"):
                use()
        lock.release()
        with pytest.raises((RuntimeError, ValueError)):
            lock.release()

    def test_held_across_a_close_for_others(self, arena, lock):
        with polyshm.Arena(arena.address) as other:
            lock.acquire()
            arena.close()
            assert other.mutex("books").owner() == os.getpid()
            assert in_thread(lambda: other.mutex("books").acquire(False)) is False
            lock.release()
            assert not other.mutex("books").locked()


class TestFork:
    def test_the_child_holds_nothing(self, lock):
        def work():
            with pytest.raises(RuntimeError, match="not held"):
                lock.release()
            assert lock.acquire(timeout=0.01) is False

        with lock:
            assert in_child(work) == 0
            assert lock.owner() == os.getpid()

    def test_the_child_is_its_own_participant(self, arena, lock):
        def work():
            with lock:
                me = next(one for one in arena.participants() if one.self)
                assert (me.pid, me.holds) == (os.getpid(), ("books",))
                assert me.slot != slot

        with arena.mutex("mine"):
            slot = next(one for one in arena.participants() if one.self).slot
            assert in_child(work) == 0
            assert next(one for one in arena.participants() if one.self).holds == ("mine",)

    def test_the_childs_end_releases_nothing_of_the_parent(self, lock):
        with lock:
            assert in_child(lambda: None) == 0
            pid = os.fork()
            if pid == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(pid, 0)
            assert lock.owner() == os.getpid()
            assert in_thread(lambda: lock.acquire(timeout=0.02)) is False
        assert not lock.locked()

    def test_grandchildren(self, arena, lock):
        counter = arena.counter("n")

        def work():
            with lock:
                counter.add()
            assert in_child(lambda: (lock.acquire(), counter.add(), lock.release())) == 0
            with lock:
                counter.add()

        assert in_child(work) == 0
        assert counter.load() == 3
        assert not lock.locked()

    def test_owner_is_another_process(self, arena, lock):
        ready = arena.counter("ready")

        def hold():
            with lock:
                ready.add()
                ready.wait(2)

        process = fork.Process(target=hold)
        process.start()
        assert ready.wait(1, 20)
        assert lock.locked()
        assert lock.owner() == process.pid
        assert lock.acquire(False) is False
        ready.add()
        process.join()
        assert lock.acquire(timeout=10)
        lock.release()


class TestOwnerDeath:
    def test_is_told_to_everybody(self, arena, lock):
        pid = die_holding(lock)
        slots = set()
        for take in (
            lock.acquire,
            lock.__enter__,
            lambda: lock.acquire(blocking=False),
            lambda: lock.acquire(timeout=5),
            lambda: in_thread(lock.acquire),
            arena.mutex("books").acquire,
        ):
            with pytest.raises(
                polyshm.OwnerDied, match=f"the owner \\(pid {pid}\\) of the mutex 'books' died"
            ) as caught:
                take()
            died = caught.value
            assert isinstance(died, OSError)
            assert died.errno == errno.EOWNERDEAD
            assert died.filename == arena.address
            assert died.pid == pid
            assert isinstance(died.participant, int)
            slots.add(died.participant)
            assert isinstance(died.lock, polyshm.Mutex)
            assert not lock.locked()
        assert len(slots) == 1
        assert 0 <= slots.pop() < arena.stats()["participants"]

    @pytest.mark.parametrize("how", [None, lambda: os._exit(0), lambda: os.execv("/bin/true", ["true"])])
    def test_of_any_cause(self, lock, how):
        pid = die_holding(lock, how)
        with pytest.raises(polyshm.OwnerDied) as caught:
            lock.acquire()
        assert caught.value.pid == pid

    def test_of_a_thread(self, lock):
        in_thread(lock.acquire)
        with pytest.raises(polyshm.OwnerDied) as caught:
            lock.acquire(timeout=20)
        assert caught.value.pid == os.getpid()
        with lock.recover():
            pass

    def test_wakes_a_waiter(self, arena, lock):
        ready = arena.counter("ready")

        def hold():
            lock.acquire()
            ready.add()
            signal.pause()

        process = fork.Process(target=hold)
        process.start()
        assert ready.wait(1, 20)
        threading.Timer(0.05, process.kill).start()
        with pytest.raises(polyshm.OwnerDied) as caught:
            lock.acquire(timeout=20)
        assert caught.value.pid == process.pid
        process.join()

    def test_recover(self, arena, lock):
        pid = die_holding(lock)
        with lock.recover() as died:
            assert isinstance(died, polyshm.OwnerDied)
            assert died.pid == pid
            assert died.lock is lock
            assert isinstance(died.participant, int)
            assert lock.locked()
        with lock:
            pass
        with lock.recover() as died:
            assert died is None
            assert lock.locked()
        assert not lock.locked()
        assert arena.check() == []

    def test_recover_left_by_an_exception(self, lock):
        pid = die_holding(lock)
        with pytest.raises(ZeroDivisionError):
            with lock.recover():
                1 / 0  # noqa: B018
        assert not lock.locked()
        with pytest.raises(polyshm.OwnerDied) as caught:
            lock.acquire()
        assert caught.value.pid == pid
        with lock.recover() as died:
            assert died.pid == pid

    def test_recover_that_is_killed(self, lock):
        first = die_holding(lock)
        pid = os.fork()
        if pid == 0:
            with lock.recover():
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        with lock.recover(timeout=5) as died:
            assert died.pid in (first, pid)

    def test_recover_waits(self, arena, lock):
        with Holder(lock) as holder:
            for timeout in (0, 0.12):
                with pytest.raises(TimeoutError, match="mutex 'books'") as caught:
                    with lock.recover(timeout):
                        pass
                assert caught.value.filename == arena.address
            threading.Timer(0.02, holder.release).start()
            with lock.recover(20) as died:
                assert died is None

    def test_recovery_is_usable_again(self, lock):
        recovery = lock.recover()
        assert "recovery of <polyshm.Mutex" in repr(recovery)
        with recovery:
            with pytest.raises(RuntimeError, match="already held"):
                with recovery:
                    pass
        with recovery:
            pass
        with pytest.raises(RuntimeError, match="not held"):
            recovery.__exit__(None, None, None)

    def test_recover_exit_does_not_hide_the_exception(self, lock):
        with pytest.raises(ZeroDivisionError):
            with lock.recover():
                lock.release()
                1 / 0  # noqa: B018
        with pytest.raises(RuntimeError):
            with lock.recover():
                lock.release()

    @pytest.mark.parametrize("recursive", [False, True])
    def test_repair(self, arena, recursive):
        seen = []

        def repair(died):
            assert lock.locked()
            assert lock.owner() == os.getpid()
            seen.append((type(died), died.pid, died.lock))

        lock = arena.mutex("mended", recursive, repair)
        with lock:
            pass
        assert seen == []
        pid = die_holding(lock)
        with lock:
            assert seen == [(polyshm.OwnerDied, pid, lock)]
        assert lock.acquire(False)
        lock.release()
        with arena.mutex("mended"):
            assert len(seen) == 1

    def test_repair_after_a_wait(self, arena):
        seen = []
        lock, ready = arena.mutex("mended", repair=seen.append), arena.counter("ready")

        def hold():
            lock.acquire()
            ready.add()
            signal.pause()

        process = fork.Process(target=hold)
        process.start()
        assert ready.wait(1, 20)
        assert lock.acquire(False) is False
        assert lock.acquire(timeout=0.15) is False
        threading.Timer(0.05, process.kill).start()
        assert lock.acquire() is True
        assert [died.pid for died in seen] == [process.pid]
        lock.release()
        process.join()

    def test_repair_that_raises(self, arena):
        def repair(died):
            raise LookupError("not today")

        lock = arena.mutex("mended", repair=repair)
        pid = die_holding(lock)
        for take in (lock.acquire, lock.__enter__, lambda: lock.acquire(blocking=False)):
            with pytest.raises(LookupError, match="not today"):
                take()
            assert not lock.locked()
        with pytest.raises(polyshm.OwnerDied) as caught:
            arena.mutex("mended").acquire()
        assert caught.value.pid == pid

    def test_repair_that_is_killed(self, arena):
        pids = []

        def repair(died):
            os.kill(os.getpid(), signal.SIGKILL)

        lock = arena.mutex("mended", repair=repair)
        pids.append(die_holding(lock))
        pids.append(die_holding(lock))
        with pytest.raises(polyshm.OwnerDied) as caught:
            arena.mutex("mended").acquire(timeout=20)
        assert caught.value.pid in pids
        with arena.mutex("mended").recover() as died:
            assert died is not None
        with arena.mutex("mended"):
            pass

    def test_repair_that_releases(self, arena):
        lock = arena.mutex("mended", repair=lambda died: died.lock.release())
        die_holding(lock)
        with pytest.raises(RuntimeError, match="not held"):
            lock.acquire()
        assert not lock.locked()

    def test_repair_that_acquires(self, arena):
        lock = arena.mutex("mended", repair=lambda died: died.lock.acquire())
        die_holding(lock)
        with pytest.raises(RuntimeError, match="already held"):
            lock.acquire()
        assert not lock.locked()

    def test_repair_that_acquires_a_recursive_lock(self, arena):
        """The one who repairs is not told again."""
        seen = []

        def repair(died):
            with died.lock, died.lock.recover() as again:
                seen.append((died.pid, again))

        lock = arena.mutex("mended", True, repair)
        pid = die_holding(lock)
        with lock:
            pass
        assert seen == [(pid, None)]
        with arena.mutex("mended"):
            pass

    def test_repair_that_closes(self, arena):
        lock = arena.mutex("mended", repair=lambda died: arena.close())
        die_holding(lock)
        assert lock.acquire() is True  # held, and the mapping stays until it is released
        lock.release()
        with pytest.raises(ValueError, match="closed"):
            lock.acquire()

    def test_a_stopped_owner_is_not_dead(self, arena, lock):
        ready = arena.counter("ready")

        def hold():
            with lock:
                ready.add()
                ready.wait(2)
            assert lock.acquire(timeout=20)
            lock.release()

        process = fork.Process(target=hold)
        process.start()
        assert ready.wait(1, 20)
        os.kill(process.pid, signal.SIGSTOP)
        assert lock.acquire(timeout=0.6) is False
        assert lock.owner() == process.pid
        ready.add()
        os.kill(process.pid, signal.SIGCONT)
        assert lock.acquire(timeout=20) is True
        lock.release()
        process.join()
        assert process.exitcode == 0

    def test_random_kills(self, arena, lock):
        """Children that count under the lock and in a counter, killed at random."""
        arena.alloc_into(arena.root(0), 8)
        place = int.from_bytes(arena.read(arena.root(0), 8), "little")

        def count():
            while True:
                try:
                    with lock:
                        arena.write(place, (int.from_bytes(arena.read(place, 8), "little") + 1).to_bytes(8, "little"))
                except polyshm.OwnerDied:
                    with lock.recover():
                        pass

        for attempt in range(20):
            pids = []
            for _ in range(2):
                pid = os.fork()
                if pid == 0:
                    count()
                pids.append(pid)
            time.sleep(0.01 + attempt / 2000)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            with lock.recover(timeout=20):
                pass
            assert arena.check() == []
        assert int.from_bytes(arena.read(place, 8), "little") > 100


class TestDeletion:
    def test_everything_is_refused(self, arena, lock):
        arena.delete("books")
        for use in (
            lock.acquire,
            lambda: lock.acquire(False),
            lock.__enter__,
            lock.locked,
            lock.owner,
            lock.recover().__enter__,
        ):
            with pytest.raises(polyshm.Deleted, match=f"{arena.address}: mutex 'books': the object was deleted"):
                use()
        with pytest.raises(RuntimeError, match="not held"):
            lock.release()
        assert lock.name == "books"

    def test_while_held(self, arena, lock):
        lock.acquire()
        arena.delete("books")
        with pytest.raises(polyshm.Deleted):
            lock.acquire()
        assert lock.release() is None
        assert arena.check() == []
        with arena.mutex("books") as held:
            assert held

    def test_while_others_wait(self, arena, lock):
        faults = []

        def wait():
            try:
                lock.acquire()
            except polyshm.Deleted as error:
                faults.append(str(error))

        lock.acquire()
        threads = [threading.Thread(target=wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        arena.delete("books")
        for thread in threads:
            thread.join()
        lock.release()
        assert len(faults) == 4
        assert arena.check() == []

    def test_by_another_process(self, arena, lock):
        assert in_child(lambda: arena.delete("books")) == 0
        with pytest.raises(polyshm.Deleted):
            lock.acquire()
        with arena.mutex("books"):
            with pytest.raises(polyshm.Deleted):
                lock.acquire(False)

    def test_memory_comes_back(self, arena):
        arena.mutex("books")
        del arena["books"]
        before = arena.stats()["used"]
        for _ in range(100):
            with arena.mutex("books"):
                pass
            del arena["books"]
        assert arena.stats()["used"] == before
        assert arena.check() == []


class TestCollection:
    def test_dropped_while_held(self, python):
        """It stays held until the thread ends."""
        code = """
import polyshm
arena = polyshm.Arena("anon:", size="256K", create=True)
lock = arena.mutex("books")
lock.acquire()
del lock
other = arena.mutex("books")
print(other.locked(), other.acquire(False))
other.release()
print(other.locked())
"""
        assert python(code).stdout == "True False\nFalse\n"

    def test_cycle_through_repair(self, arena):
        class Owner:
            def repair(self, died):
                pass

        owner = Owner()
        owner.lock = arena.mutex("books", repair=owner.repair)
        alive = weakref.ref(owner)
        del owner
        gc.collect()
        assert alive() is None

    def test_used_by_a_finalizer(self, arena):
        """After the collector cleared it, a lock still works."""
        seen = []

        class Owner:
            def repair(self, died):
                pass

            def __del__(self):
                with self.lock:
                    seen.append(self.lock.locked())

        owner = Owner()
        owner.lock = arena.mutex("books", repair=owner.repair)
        del owner
        gc.collect()
        assert seen == [True]

    def test_arena_dropped_before_the_lock(self, name):
        lock = polyshm.Arena(f"posix:{name}", size="256K", create=True).mutex("books")
        polyshm.unlink(f"posix:{name}")
        with lock:
            pass

    def test_not_made_by_hand(self):
        with pytest.raises(TypeError, match="cannot create"):
            polyshm.Mutex()
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Child", (polyshm.Mutex,), {})


def mend(died):
    died.lock.locked()


class TestPickles:
    @pytest.mark.parametrize("recursive", [False, True])
    def test_round_trip(self, arena, recursive):
        lock = arena.mutex("books", recursive, mend)
        other = pickle.loads(pickle.dumps(lock))
        assert (other.name, other.recursive, type(other)) == ("books", recursive, polyshm.Mutex)
        with other:
            assert lock.owner() == os.getpid()
        die_holding(lock)
        with other:  # mend came with it
            pass
        with arena.mutex("books"):
            pass

    def test_a_repair_that_cannot_travel(self, arena):
        with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
            pickle.dumps(arena.mutex("books", repair=lambda died: None))

    def test_together_they_share_one_handle(self, arena, lock):
        pair = pickle.loads(pickle.dumps((arena, lock)))
        pair[0].close()
        with pytest.raises(ValueError, match="closed"):
            pair[1].acquire()
        with lock:
            pass

    def test_deleted(self, arena, lock):
        data = pickle.dumps(lock)
        del arena["books"]
        with pytest.raises(polyshm.Deleted, match="'books': the object was deleted"):
            pickle.loads(data)
        arena.mutex("books")
        with pytest.raises(polyshm.Deleted, match="'books': was removed, or removed and made anew"):
            pickle.loads(data)
        with pytest.raises(polyshm.Deleted):
            pickle.dumps(lock)

    def test_read_only(self, arena, lock):
        with polyshm.Arena(arena.address, access="r") as other:
            with pytest.raises(TypeError, match="read-only"):
                pickle.loads(pickle.dumps(other.mutex("books"))).acquire()
