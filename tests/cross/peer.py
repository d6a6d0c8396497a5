# SPDX-License-Identifier: MIT
"""A partner in Python for the tests across languages; peer.lua and peer.c speak the same.

One command a line on stdin, one answer a line on stdout. Words are separated by blanks; bytes are hexadecimal, "-" for
none; integers go in as C writes them and come out in decimal, floats are hexadecimal. Objects have names that the test
gives.

  ok ...           done, and what came of it
  died PID         the owner of the lock died; "-" if nobody knows who it was
  err CODE TEXT    the system refused (ENOENT, ...), the memory is gone (ELOST), or removed (EREMADE), an object was
                   deleted (EDELETED), nothing has the name (ENONAME), the bytes are no arena that can be used
                   (Incompatible, Corrupt), or the caller was wrong (raise)
  fail TEXT        a mistake in the test

  open S ADDRESS [size= offset= access= create=1 exclusive=1 mode= reserve=0 inherit=1]
                                      -> size kind created readonly fd name address
  close S / size S / lost S / resize S SIZE / unlink S / set S MODE / segstat S
  read S OFFSET SIZE / write S OFFSET BYTES / fill S BYTE OFFSET SIZE / copy S TO FROM SIZE / find S BYTES
  store S TYPE OFFSET VALUE... / load S TYPE OFFSET COUNT            through a typed view
  exists ADDRESS / stat ADDRESS / remove ADDRESS / list
  atomic A S TYPE OFFSET              A is a word; then
  op A VERB [VALUE...] / wait A EXPECTED TIMEOUT / notify A COUNT
  addloop A COUNT / casloop A COUNT   adds one, COUNT times, by add or by compare_exchange
  pingpong A FIRST COUNT              COUNT turns of two players; FIRST is 0 or 1
  mutex L S OFFSET [create=1 recursive=0|1 repair=OFFSET|error]      the repair function writes pid + 1 at OFFSET
  record L S OFFSET SIZE [shared=1]   L is a lock of either kind; then
  acquire L TIMEOUT / release L / locked L / owner L                 TIMEOUT: seconds, "-" for ever, "try" not at all
  recover L TIMEOUT                   -> none, or died PID; then
  leave L clean|error
  incloop L S OFFSET COUNT HOW        COUNT times: lock, read the 64-bit number, write it plus one, unlock;
                                      HOW is "acquire" or "guard"
  arena A ADDRESS [size= access= create=1 exclusive=1 mode= reserve=0 wait= life= participants=]
                                      -> size kind created readonly life id address
  shut A / unname A                   closes; removes the name, if it is still its own
  names A                             -> NAME=KIND..., names in hexadecimal
  has A NAME / kind A NAME / delete A NAME
  check A / stats A FIELD...
  amutex L A NAME [recursive=0|1 repair=COUNTER|error]               the repair function stores pid + 1 in that counter
  counter C A NAME                    then
  count C VERB [VALUE...] / atleast C VALUE TIMEOUT / countloop C COUNT / turns C FIRST COUNT
  bump L C COUNT HOW                  COUNT times: lock, load, store that plus one, unlock
  rwlock R A NAME                     a read-write lock; SIDE is "read" or "write"; then
  rtake R SIDE TIMEOUT / rgive R SIDE / rdown R
  rlocked R                           is it read, is it written, by which pid or 0
  rmend R SIDE                        recovers, says that all is well, releases: the pid of the dead or 0
  rloop R C COUNT                     COUNT times: every third adds to the counter and downgrades, the others look at it
  condition D A NAME L                a condition with the mutex L, "-" for its own; then
  await D TIMEOUT                     locks, waits, unlocks: was it notified
  tell D COUNT                        locks, notifies, unlocks; "all" for everybody
  volley D C FIRST COUNT              COUNT turns of two players, who wait for the counter to be theirs
  plain X A KIND NAME PARAMETER       a semaphore, event ("auto"), latch, permits, once or barrier ("2"; "2s" shrinks),
                                      "-" for what it has; then
  act X VERB N TIMEOUT                -> what the verb gives; N is a number, "-", or the counter that a once adds to,
                                      which then with "stay" goes on for TIMEOUT, and with "fail" fails after that
  trip L COUNT                        COUNT times: lock and unlock
  create A PREFIX COUNT / deleteall A PREFIX COUNT                   of counters; what others did before is passed over
  root A INDEX / alloc A PLACE SIZE / free A PLACE / blocksize A PLACE / peek A PLACE SIZE / poke A PLACE BYTES
  heaploop A INDEX COUNT              COUNT times: a block of some size in root INDEX, written, read, freed
  crowd A                             -> slot;generation;pid;thread;language;alive;self;holds;waits..., "-" for none
  watch P A PID / gone P TIMEOUT      P is the participant of that process
  any TIMEOUT THING...                -> those of C, L and P that are ready; C:LEAST for another value than 1
  polled THING                        by its descriptor, until it is ready
  pid / reset / fork IN OUT / start IN OUT PROGRAM... / reap PID / exit / die
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import polyshm

things: dict[str, object] = {}
recoveries: dict[str, Iterator[object]] = {}
children: dict[int, subprocess.Popen[bytes]] = {}
NATIVE_WORD = struct.Struct("=Q")
# One number, two names: the library says EOPNOTSUPP.
ERRNO_NAMES = errno.errorcode | {errno.EOPNOTSUPP: "EOPNOTSUPP"}


class LeftByError(Exception):
    pass


def unhex(text: str) -> bytes:
    return b"" if text == "-" else bytes.fromhex(text)


def options(words: tuple[str, ...]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def flag(value: object) -> int:
    return 1 if value else 0


def cmd_open(name: str, address: str, *words: str):
    given: dict[str, object] = dict(options(words))
    for key in ("size", "offset"):
        if key in given:
            given[key] = int(given[key])
    for key in ("create", "exclusive", "reserve", "inherit"):
        if key in given:
            given[key] = given[key] == "1"
    seg = things[name] = polyshm.Segment(address, **given)
    fd = -1 if seg.fd is None else seg.fd
    return seg.size, seg.kind, flag(seg.created), flag(seg.readonly), fd, seg.name or "-", seg.address


def cmd_close(name: str):
    things.pop(name).close()


def cmd_size(name: str):
    return (len(things[name]),)


def cmd_lost(name: str):
    return (flag(things[name].lost),)


def cmd_resize(name: str, size: str):
    things[name].resize(int(size))


def cmd_unlink(name: str):
    things[name].unlink()


def cmd_set(name: str, mode: str):
    things[name].set(mode=mode)


def fields(stat: polyshm.Stat) -> Iterator[str]:
    for field in stat.__match_args__:
        value = getattr(stat, field)
        if field == "address":
            value = value and value.encode().hex()
        if value is not None and value != "":
            yield f"{field}={value}"


def cmd_segstat(name: str):
    return tuple(fields(things[name].stat()))


def cmd_stat(address: str):
    return tuple(fields(polyshm.stat(address)))


def cmd_list():
    return tuple(";".join(fields(stat)) for stat in polyshm.list())


def cmd_exists(address: str):
    return (flag(polyshm.exists(address)),)


def cmd_remove(address: str):
    polyshm.unlink(address)


def cmd_read(name: str, offset: str, size: str):
    return (things[name].read(int(offset), int(size)).hex() or "-",)


def cmd_write(name: str, offset: str, data: str):
    things[name].write(int(offset), unhex(data))


def cmd_fill(name: str, byte: str, offset: str, size: str):
    things[name].fill(int(byte), int(offset), int(size))


def cmd_copy(name: str, target: str, source: str, size: str):
    things[name].copy(int(target), int(source), int(size))


def cmd_find(name: str, data: str):
    return (things[name].find(unhex(data)),)


def cmd_store(name: str, kind: str, offset: str, *values: str):
    convert = float.fromhex if "f" in kind else lambda text: int(text, 0)
    with things[name].view(kind, int(offset), len(values)) as view:
        if view.format[0] in "<>":
            # A memoryview reads and writes elements in the machine's order alone.
            with view.cast("B") as raw:
                struct.pack_into(f"{view.format[0]}{len(values)}{view.format[1:]}", raw, 0, *map(convert, values))
        else:
            for i, value in enumerate(values):
                view[i] = convert(value)


def cmd_load(name: str, kind: str, offset: str, count: str):
    with things[name].view(kind, int(offset), int(count)) as view:
        if view.format[0] in "<>":
            found = struct.unpack(f"{view.format[0]}{count}{view.format[1:]}", bytes(view))
        else:
            found = view.tolist()
    return tuple(value.hex() if "f" in kind else value for value in found)


def cmd_atomic(name: str, segment: str, kind: str, offset: str):
    things[name] = things[segment].atomic(kind, int(offset))


def cmd_op(name: str, verb: str, *values: str):
    result = getattr(things[name], verb)(*(int(value, 0) for value in values))
    return () if result is None else (result,)


def cmd_wait(name: str, expected: str, timeout: str):
    return (flag(things[name].wait(int(expected, 0), None if timeout == "-" else float(timeout))),)


def cmd_notify(name: str, count: str):
    return (things[name].notify(int(count)),)


def cmd_addloop(name: str, count: str):
    add = things[name].add
    for _ in range(int(count)):
        add(1)


def cmd_casloop(name: str, count: str):
    word = things[name]
    for _ in range(int(count)):
        old = word.load()
        while (found := word.compare_exchange(old, old + 1)) != old:
            old = found


def cmd_pingpong(name: str, first: str, count: str):
    word = things[name]
    for i in range(int(count)):
        mine = 2 * i + int(first)
        while (now := word.load()) != mine:
            word.wait(now)
        word.add(1)
        word.notify(1)


def cmd_mutex(name: str, segment: str, offset: str, *words: str):
    seg = things[segment]
    given = options(words)
    recursive = {None: None, "0": False, "1": True}[given.get("recursive")]

    def repair(died: polyshm.OwnerDied) -> None:
        if given["repair"] == "error":
            raise RuntimeError("not repaired")
        seg.write(int(given["repair"]), NATIVE_WORD.pack((died.pid or 0) + 1))

    things[name] = seg.mutex(
        int(offset), "create" in given, recursive=recursive, repair=repair if "repair" in given else None
    )


def cmd_record(name: str, segment: str, offset: str, size: str, *words: str):
    things[name] = things[segment].record_lock(int(offset), int(size), shared="shared" in options(words))


def cmd_acquire(name: str, timeout: str):
    if timeout == "try":
        return (flag(things[name].acquire(False)),)
    return (flag(things[name].acquire(timeout=None if timeout == "-" else float(timeout))),)


def cmd_release(name: str):
    things[name].release()


def cmd_locked(name: str):
    return (flag(things[name].locked()),)


def cmd_owner(name: str):
    pid = things[name].owner()
    return ("-" if pid is None else pid,)


def recovery(lock: polyshm.SegmentMutex, timeout: float | None) -> Iterator[object]:
    with lock.recover(timeout) as died:
        if (yield died) == "error":
            raise LeftByError


def cmd_recover(name: str, timeout: str):
    generator = recovery(things[name], None if timeout == "-" else float(timeout))
    died = next(generator)
    recoveries[name] = generator
    return ("none",) if died is None else ("died", "-" if died.pid is None else died.pid)


def cmd_leave(name: str, how: str):
    try:
        recoveries.pop(name).send(how)
    except (StopIteration, LeftByError):
        pass


def cmd_incloop(name: str, segment: str, offset: str, count: str, how: str):
    lock, seg, at = things[name], things[segment], int(offset)
    for _ in range(int(count)):
        if how == "guard":
            with lock:
                seg.write(at, NATIVE_WORD.pack(NATIVE_WORD.unpack(seg.read(at, 8))[0] + 1))
        else:
            lock.acquire()
            seg.write(at, NATIVE_WORD.pack(NATIVE_WORD.unpack(seg.read(at, 8))[0] + 1))
            lock.release()


ARENA_INTEGERS = ("size", "participants")


def cmd_arena(name: str, address: str, *words: str):
    given: dict[str, object] = dict(options(words))
    for key in ARENA_INTEGERS:
        if key in given:
            given[key] = int(given[key])
    for key in ("create", "exclusive", "reserve"):
        if key in given:
            given[key] = given[key] == "1"
    if "wait" in given:
        given["wait"] = float(given["wait"])
    arena = things[name] = polyshm.Arena(address, **given)
    made, only = flag(arena.created), flag(arena.readonly)
    return arena.size, arena.kind, made, only, arena.life, f"{arena.id:x}", arena.address


def cmd_shut(name: str):
    things[name].close()


def cmd_unname(name: str):
    things[name].unlink()


def cmd_names(name: str):
    return tuple(f"{key.encode().hex()}={type(thing).__name__.lower()}" for key, thing in things[name].items())


def cmd_has(name: str, key: str):
    return (flag(key in things[name]),)


def cmd_kind(name: str, key: str):
    return (type(things[name][key]).__name__.lower(),)


def cmd_delete(name: str, key: str):
    del things[name][key]


def cmd_check(name: str):
    return tuple(things[name].check())


def cmd_stats(name: str, *wanted: str):
    stats = things[name].stats()
    return tuple(stats[field] for field in wanted)


def cmd_amutex(name: str, arena: str, key: str, *words: str):
    given = options(words)
    recursive = {None: None, "0": False, "1": True}[given.get("recursive")]

    def repair(died: polyshm.OwnerDied) -> None:
        if given["repair"] == "error":
            raise RuntimeError("not repaired")
        things[given["repair"]].store((died.pid or 0) + 1)

    things[name] = things[arena].mutex(key, recursive, repair if "repair" in given else None)


def cmd_counter(name: str, arena: str, key: str):
    things[name] = things[arena].counter(key)


cmd_count = cmd_op


def cmd_atleast(name: str, least: str, timeout: str):
    return (flag(things[name].wait(int(least), None if timeout == "-" else float(timeout))),)


cmd_countloop = cmd_addloop


def cmd_turns(name: str, first: str, count: str):
    counter = things[name]
    for i in range(int(count)):
        counter.wait(at_least=2 * i + int(first))
        counter.add(1)


def cmd_plain(name: str, arena: str, kind: str, key: str, parameter: str):
    make = getattr(things[arena], kind)
    if parameter == "-":
        things[name] = make(key)
    elif kind == "event":
        things[name] = make(key, auto=True)
    elif kind == "barrier" and parameter.endswith("s"):
        things[name] = make(key, int(parameter[:-1]), "shrink")
    else:
        things[name] = make(key, int(parameter))


class Failed(Exception):
    pass


def run_for(once: polyshm.Once, counter: polyshm.Counter, seconds: float | None, fail: bool) -> bool:
    def function() -> None:
        counter.add()
        counter.wait(1000, seconds)
        if fail:
            raise Failed

    try:
        return once.run(function)
    except Failed:
        return False


def cmd_act(name: str, verb: str, n: str, timeout: str):
    thing = things[name]
    limit = {} if verb not in ("acquire", "wait") else {"timeout": None if timeout == "-" else float(timeout)}
    if verb in ("n_waiting", "broken"):
        return (int(getattr(thing, verb)),)
    if verb == "run":
        return (flag(thing.run(things[n].add)),)
    if verb in ("stay", "fail"):
        return (flag(run_for(thing, things[n], None if timeout == "-" else float(timeout), verb == "fail")),)
    try:
        result = getattr(thing, verb)(*([] if n == "-" else [int(n)]), **limit)
    except threading.BrokenBarrierError:
        return ("broken",)
    return () if result is None else (int(result),)


def cmd_rwlock(name: str, arena: str, key: str):
    things[name] = things[arena].rwlock(key)


def cmd_rtake(name: str, side: str, timeout: str):
    lock = getattr(things[name], side)
    if timeout == "try":
        return (flag(lock.acquire(False)),)
    return (flag(lock.acquire(timeout=None if timeout == "-" else float(timeout))),)


def cmd_rgive(name: str, side: str):
    getattr(things[name], side).release()


def cmd_rdown(name: str):
    things[name].downgrade()


def cmd_rlocked(name: str):
    rw = things[name]
    return flag(rw.read.locked()), flag(rw.write.locked()), rw.write.owner() or 0


def cmd_rmend(name: str, side: str):
    with getattr(things[name], side).recover() as died:
        return (0 if died is None else died.pid,)


def cmd_rloop(name: str, counter: str, count: str):
    rw, number = things[name], things[counter]
    for i in range(int(count)):
        with rw.read if i % 3 else rw.write:
            before = number.load()
            if i % 3 == 0:
                number.store(before + 1)
                rw.downgrade()
            if number.load() != before + (i % 3 == 0):
                raise AssertionError("somebody writes while another reads")


def cmd_bump(name: str, counter: str, count: str, how: str):
    lock, number = things[name], things[counter]
    for _ in range(int(count)):
        if how == "guard":
            with lock:
                number.store(number.load() + 1)
        else:
            lock.acquire()
            number.store(number.load() + 1)
            lock.release()


def cmd_condition(name: str, arena: str, key: str, mutex: str):
    things[name] = things[arena].condition(key, None if mutex == "-" else things[mutex])


def cmd_await(name: str, timeout: str):
    with things[name] as condition:
        assert condition is True
        return (flag(things[name].wait(None if timeout == "-" else float(timeout))),)


def cmd_tell(name: str, count: str):
    with things[name]:
        if count == "all":
            things[name].notify_all()
        else:
            things[name].notify(int(count))


def cmd_volley(name: str, counter: str, first: str, count: str):
    condition, turn = things[name], things[counter]
    for i in range(int(count)):
        with condition:
            condition.wait_for(lambda mine=2 * i + int(first): turn.load() == mine)
            turn.add()
            condition.notify()


def cmd_trip(name: str, count: str):
    lock = things[name]
    for _ in range(int(count)):
        lock.acquire()
        lock.release()


def cmd_create(name: str, prefix: str, count: str):
    arena = things[name]
    for i in range(int(count)):
        try:
            arena.counter(f"{prefix}{i}").add(1)
        except polyshm.Deleted:
            pass


def cmd_deleteall(name: str, prefix: str, count: str):
    arena = things[name]
    for i in range(int(count)):
        try:
            arena.delete(f"{prefix}{i}")
        except KeyError:
            pass


def cmd_root(name: str, index: str):
    return (things[name].root(int(index)),)


def cmd_alloc(name: str, place: str, size: str):
    things[name].alloc_into(int(place), int(size))


def cmd_free(name: str, place: str):
    things[name].free_from(int(place))


def cmd_blocksize(name: str, place: str):
    return (things[name].block_size(int(place)),)


def cmd_peek(name: str, place: str, size: str):
    return (things[name].read(int(place), int(size)).hex() or "-",)


def cmd_poke(name: str, place: str, data: str):
    things[name].write(int(place), unhex(data))


def cmd_heaploop(name: str, index: str, count: str):
    arena = things[name]
    target = arena.root(int(index))
    for i in range(int(count)):
        size = 1 + i * 7919 % 20000
        arena.alloc_into(target, size)
        (place,) = NATIVE_WORD.unpack(arena.read(target, 8))
        if arena.read(place, size).strip(b"\0"):
            raise AssertionError("a new block is not zero")
        data = bytes([1 + (int(index) + i) % 255]) * size
        arena.write(place, data)
        if arena.read(place, size) != data:
            raise AssertionError("somebody else has the block")
        arena.free_from(target)


def cmd_crowd(name: str):
    found = []
    for p in things[name].participants():
        holds = ",".join(sorted(p.holds)) or "-"
        numbers = f"{p.slot};{p.generation};{p.pid};{p.thread};{p.language};{flag(p.alive)};{flag(p.self)}"
        found.append(f"{numbers};{holds};{p.waits or '-'}")
    return tuple(found)


def cmd_watch(name: str, arena: str, pid: str):
    things[name] = next(p for p in things[arena].participants() if p.pid == int(pid) and p.alive)


def cmd_gone(name: str, timeout: str):
    return (flag(things[name].wait(None if timeout == "-" else float(timeout))),)


def waitable(text: str):
    name, _, least = text.partition(":")
    return (things[name], int(least)) if least else things[name]


def cmd_any(timeout: str, *names: str):
    all_of_them = [waitable(name) for name in names]
    ready = polyshm.wait(all_of_them, None if timeout == "-" else float(timeout))
    return tuple(name for name, thing in zip(names, all_of_them, strict=True) if thing in ready)


def cmd_polled(name: str):
    thing = waitable(name)
    while True:
        poller = select.poll()
        fd = thing[0].pollfd(thing[1]) if isinstance(thing, tuple) else thing.pollfd()
        if polyshm.wait([thing], 0):
            return
        poller.register(fd, select.POLLIN)
        poller.poll(20000)


def cmd_pid():
    return (os.getpid(),)


def cmd_reset():
    recoveries.clear()
    for thing in things.values():
        if isinstance(thing, (polyshm.Segment, polyshm.Arena)):
            thing.close()
    things.clear()
    gc.collect()


def cmd_fork(source: str, target: str):
    pid = os.fork()
    if pid:
        return (pid,)
    sys.stdin = open(source)
    sys.stdout = open(target, "w")
    serve()
    os._exit(0)


def cmd_start(source: str, target: str, *program: str):
    line = ["sh", "-c", 'exec <"$0" >"$1"; shift; exec "$@"', source, target, *program]
    child = subprocess.Popen(line, close_fds=False)
    children[child.pid] = child
    return (child.pid,)


def cmd_reap(pid: str):
    child = children.pop(int(pid), None)
    status = child.wait() if child else os.waitstatus_to_exitcode(os.waitpid(int(pid), 0)[1])
    return ("signal", -status) if status < 0 else ("exit", status)


def cmd_exit():
    sys.exit(0)


def cmd_die():
    os.kill(os.getpid(), signal.SIGKILL)


COMMANDS: dict[str, Callable[..., tuple[object, ...] | None]] = {
    name.removeprefix("cmd_"): function for name, function in globals().items() if name.startswith("cmd_")
}


def answer(words: list[str]) -> str:
    try:
        result = COMMANDS[words[0]](*words[1:])
    except polyshm.OwnerDied as death:
        return f"died {'-' if death.pid is None else death.pid}"
    except polyshm.Lost as problem:
        return f"err ELOST {problem}"
    except polyshm.Deleted as problem:
        return f"err {'EDELETED' if 'the object was deleted' in str(problem) else 'EREMADE'} {problem}"
    except (polyshm.Incompatible, polyshm.Corrupt) as problem:
        return f"err {type(problem).__name__} {problem}"
    except KeyError as problem:
        return f"err ENONAME {problem}"
    except OSError as problem:
        return f"err {ERRNO_NAMES[problem.errno]} {problem}"
    except (ValueError, TypeError, IndexError, RuntimeError, BufferError) as problem:
        return f"err raise {problem}"
    except Exception as problem:
        return f"fail {problem!r}"
    return " ".join(["ok", *map(str, result or ())])


def serve() -> None:
    while line := sys.stdin.readline():
        text = answer(line.split())
        print(text.replace("\n", " "), flush=True)


if __name__ == "__main__":
    serve()
