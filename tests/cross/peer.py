# SPDX-License-Identifier: MIT
"""A partner in Python for the tests across languages; peer.lua and peer.c speak the same.

One command a line on stdin, one answer a line on stdout. Words are separated by blanks; bytes are hexadecimal, "-" for
none; integers go in as C writes them and come out in decimal, floats are hexadecimal. Objects have names that the test
gives.

  ok ...           done, and what came of it
  died PID         the owner of the lock died; "-" if nobody knows who it was
  err CODE TEXT    the system refused (ENOENT, ...), the memory is gone (ELOST), or the caller was wrong (raise)
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
  pid / reset / fork IN OUT / start IN OUT PROGRAM... / reap PID / exit / die
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import struct
import subprocess
import sys
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


def recovery(lock: polyshm.Mutex, timeout: float | None) -> Iterator[object]:
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


def cmd_pid():
    return (os.getpid(),)


def cmd_reset():
    recoveries.clear()
    for thing in things.values():
        if isinstance(thing, polyshm.Segment):
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
        return f"err EREMADE {problem}"
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
