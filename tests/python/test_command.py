# SPDX-License-Identifier: MIT
"""python -m polyshm: every verb with and without --json, on whatever may be in /dev/shm, and with everybody stopped.

Most tests call main() in this process. `gc --yes` gets addresses: other people's arenas are theirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import polyshm
import pytest
from polyshm import __main__ as command
from polyshm._tool_words import owner_of

KINDS = ("posix", "sysv", "ftok", "file")

READY = "import os, sys, time, signal, polyshm\narena = polyshm.Arena(sys.argv[1], access=sys.argv[2])\n"
WAIT = "print('ready', flush=True)\nsys.stdin.read()\n"
HOLDER = READY + "for name in sys.argv[3:]: arena.mutex(name).acquire()\n" + WAIT
# Nearly always inside of both locks of the arena's own, or on the way from one to the other.
CHURN = """
import sys, polyshm
arena = polyshm.Arena(sys.argv[1])
mine, turn = sys.argv[2], 0
place = arena.root(int(mine))
arena.counter("both").add(1)
print("ready", flush=True)
while True:
    turn += 1
    for i in range(8):
        arena.counter(f"{mine}-{turn % 3}-{i}").add(1)
    arena.alloc_into(place, "256K" if turn % 2 else 100)
    arena.free_from(place)
    for i in range(8):
        arena.delete(f"{mine}-{turn % 3}-{i}")
"""


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """run("ls", "--json") -> exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = command.main([str(a) for a in arguments])
        except SystemExit as end:  # argparse
            code = end.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def ask(run) -> Callable[..., object]:
    """ask("ls"): what --json prints, of a call that goes well."""

    def call(*arguments: object):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def listed(ask) -> Callable[[str], dict]:
    def call(address: str) -> dict:
        found = {entry["address"]: entry for entry in ask("ls")}
        if address.startswith("sysv:"):
            stat = polyshm.stat(address)
            address = f"sysv:{stat.key:#010x}" if stat.key else f"sysv:id={stat.id}"
        return found[address]

    return call


@pytest.fixture
def start(python) -> Callable[..., subprocess.Popen[str]]:
    """start(script, *arguments): a process that has said that it is ready."""

    def call(script: str, *arguments: object) -> subprocess.Popen[str]:
        child = python.start(script, *arguments)
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        return child

    return call


@pytest.fixture
def shm_file(name: str) -> Iterator[Callable[..., Path]]:
    """shm_file(data): something of somebody else's in /dev/shm."""
    made: list[Path] = []

    def call(data: bytes = b"") -> Path:
        made.append(Path(f"/dev/shm{name}-x{len(made)}"))
        made[-1].write_bytes(data)
        return made[-1]

    yield call
    for path in made:
        path.unlink(missing_ok=True)


def posix(path: Path) -> str:
    return f"posix:/{path.name}"


def file_of(address: str) -> Path:
    return Path("/dev/shm" + address.removeprefix("posix:"))


def stop(child: subprocess.Popen[str]) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)


def one_line(text: str, address: str) -> bool:
    return text.count("\n") == 1 and address in text and text.endswith("\n")


@pytest.fixture
def foreign_arena(python, address) -> Iterator[Callable[..., str]]:
    """foreign_arena("posix", "life='keep'"): the address of an arena that another process made and left."""
    made: list[str] = []

    def call(kind: str = "posix", options: str = "", then: str = "") -> str:
        where = address(kind)
        made.append(where)
        script = f"import sys, polyshm\narena = polyshm.Arena(sys.argv[1], size='1M', create=True, {options})\n{then}"
        python(script, where)
        return where

    yield call
    for where in made:
        with contextlib.suppress(OSError):
            polyshm.unlink(where)


# ---- ls


@pytest.mark.parametrize("kind", ["posix", "sysv", "ftok"])
def test_ls_tells_arenas_from_raw_segments(kind, make, make_arena, listed):
    raw, arena = make(kind), make_arena(kind, life="last-detach")
    arena.counter("one")
    arena.counter("two")
    found = listed(arena.address)
    assert found["what"] == "arena"
    assert (found["kind"], found["size"], found["objects"], found["alive"]) == (arena.kind, 1 << 20, 2, 1)
    assert (found["life"], found["mode"], found["uid"], found["gid"]) == (
        "last-detach",
        "0600",
        os.getuid(),
        os.getgid(),
    )
    assert found["error"] is None
    found = listed(raw.address)
    assert (found["what"], found["objects"], found["alive"], found["life"]) == ("raw segment", None, None, None)


def test_ls_shows_a_table(make, make_arena, run):
    arena, raw = make_arena(size="1M"), make("posix")
    arena.mutex("m")
    code, out, err = run("ls")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    assert rows["address"] == ["address", "size", "what", "objects", "alive", "owner", "mode", "life"]
    assert rows[arena.address][1:5] == ["1M", "arena", "1", "1"]
    assert rows[arena.address][6:] == ["0600", "keep"]
    assert rows[raw.address][1:4] == ["16K", "raw", "segment"]


def test_ls_names_what_cannot_be_opened(shm_file, run, make_arena):
    arena = make_arena()
    arena.close()
    whole = file_of(arena.address).read_bytes()
    kinds = {
        "short": (whole[:5000], "damaged arena"),
        "few": (whole[:10], "damaged arena"),
        "long": (whole + bytes(4096), "damaged arena"),
        "format": (whole[:8] + b"\x09" + whole[9:], "incompatible"),
        "abi": (whole[:12] + b"\x09" + whole[13:], "incompatible"),
        "order": (whole[7::-1] + whole[8:], "incompatible"),
        "setup": (whole[:16] + b"\xff\xff" + whole[18:], "damaged arena"),
        "foreign": (b"#!/bin/sh\n", "raw segment"),
        "zeros": (bytes(8192), "raw segment"),
        "empty": (b"", "raw segment"),
    }
    where = {posix(shm_file(data)): what for data, what in kinds.values()}
    code, out, err = run("ls", "--json")
    assert code == 0
    found = {entry["address"]: entry for entry in json.loads(out)}
    assert {address: found[address]["what"] for address in where} == where
    for address, what in where.items():
        assert (found[address]["error"] is None) == (what == "raw segment")
        assert (address in err) == (what != "raw segment")
    assert found[arena.address]["what"] == "arena"
    code, out, _ = run("ls")
    assert code == 0
    assert all(address in out for address in where)


def test_ls_passes_over_what_is_no_file(name, ask, tmp_path):
    folder = Path("/dev/shm")
    made = [folder / f"{name[1:]}-{what}" for what in ("link", "fifo", "folder")]
    try:
        made[0].symlink_to("/etc/passwd")
        os.mkfifo(made[1])
        made[2].mkdir()
        before = folder.stat().st_mtime_ns
        found = {entry["address"] for entry in ask("ls")}
        assert not found & {posix(path) for path in made}
        assert folder.stat().st_mtime_ns == before
    finally:
        for path in made[:2]:
            path.unlink(missing_ok=True)
        made[2].rmdir()


def test_ls_of_files(make_arena, tmp_path, run):
    arena = make_arena("file")
    folder = Path(arena.address.removeprefix("file:")).parent
    (folder / "other").write_bytes(b"polyshm")
    (folder / "damaged").write_bytes(Path(arena.address.removeprefix("file:")).read_bytes()[:9000])
    (folder / "link").symlink_to(arena.address.removeprefix("file:"))
    os.mkfifo(folder / "fifo")
    code, out, err = run("ls", "--json", "--files", folder)
    found = {e["address"]: e["what"] for e in json.loads(out) if e["kind"] == "file"}
    assert code == 0
    assert found == {arena.address: "arena", f"file:{folder}/damaged": "damaged arena"}
    assert one_line(err, f"file:{folder}/damaged")
    code, out, err = run("ls", "--json", "--files", folder / "none")
    assert code == 1
    assert one_line(err, str(folder / "none"))
    assert isinstance(json.loads(out), list)


def test_ls_of_what_may_not_be_read(make_arena, run):
    arena = make_arena(mode=0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        code, out, err = run("ls", "--json")
    finally:
        os.seteuid(user)
    assert code == 0
    found = {entry["address"]: entry for entry in json.loads(out)}[arena.address]
    assert (found["what"], found["size"], found["mode"]) == ("unreadable", 1 << 20, "0000")
    assert "Permission denied" in found["error"]
    assert arena.address in err


def test_ls_while_everything_comes_and_goes(name, run):
    """Nothing that vanishes between two looks is an error."""
    stopping = threading.Event()

    def churn() -> None:
        while not stopping.is_set():
            for i in range(4):
                with polyshm.Arena(f"posix:{name}-{i}", size="64K", create=True, reserve=False) as arena:
                    arena.unlink()

    worker = threading.Thread(target=churn)
    worker.start()
    try:
        for _ in range(100):
            code, out, err = run("ls", "--json")
            assert code == 0
            ours = [e for e in json.loads(out) if name in e["address"]]
            assert {e["what"] for e in ours} <= {"arena", "unreadable"}, ours
            assert all(e["error"] is None for e in ours), err
    finally:
        stopping.set()
        worker.join()


# ---- info


@pytest.mark.parametrize("kind", KINDS)
def test_info(kind, make_arena, ask):
    arena = make_arena(kind, life="last-detach", participants=20)
    lock, again = arena.mutex("lock"), arena.mutex("again", recursive=True)
    arena.counter("count").add(-7)
    arena.alloc_into(arena.root(0), 100_000)
    lock.acquire()
    found = ask("info", arena.address)
    stats = arena.stats()
    assert (found["address"], found["kind"], found["size"]) == (arena.address, arena.kind, 1 << 20)
    assert found["life"] == "last-detach"
    assert found["header"]["id"] == f"{arena.id:#018x}"
    assert found["header"]["format"] == 1
    assert found["header"]["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    heap = found["heap"]
    assert heap["used"] == stats["used"] > 100_000
    assert (heap["free"], heap["largest_free"], heap["large"]) == (stats["free"], stats["largest_free"], 1)
    assert heap["classes"] == [c for c in stats["classes"] if c["used"] or c["free"]]
    assert 0 < len(heap["classes"]) < 32
    names = {known["name"]: known for known in found["names"]}
    assert {n: (k["kind"], k["value"], k["recursive"]) for n, k in names.items()} == {
        "lock": ("mutex", None, False),
        "again": ("mutex", None, True),
        "count": ("counter", -7, None),
    }
    me = {"pid": os.getpid(), "participant": 0, "died": None, "waiters": False}
    assert names["lock"]["owner"] == {"state": "held", **me}
    assert names["again"]["owner"] == {"state": "free", **me, "pid": None, "participant": None}
    assert names["count"]["owner"] is None
    assert found["room"] == 20
    assert [(p["pid"], p["thread"], p["language"], p["alive"], p["holds"]) for p in found["participants"]] == [
        (os.getpid(), threading.get_native_id(), "python", True, ["lock"])
    ]
    lock.release()
    again.acquire()
    names = {known["name"]: known for known in ask("info", arena.address)["names"]}
    assert (names["lock"]["owner"]["state"], names["again"]["owner"]["state"]) == ("free", "held")
    again.release()


def test_info_shows_tables(make_arena, run):
    arena = make_arena()
    arena.mutex("m", recursive=True).acquire()
    arena.counter("c").add(3)
    arena.alloc_into(arena.root(0), 100_000)
    code, out, err = run("info", arena.address)
    assert (code, err) == (0, "")
    assert re.search(rf"^address +{re.escape(arena.address)} *$", out, re.MULTILINE)
    assert re.search(r"^size +1M *$", out, re.MULTILINE)
    assert re.search(r"^ +1 large blocks, of 25 pages *$", out, re.MULTILINE)
    assert re.search(r"^participants +1 of 256, 0 dead *$", out, re.MULTILINE)
    assert re.search(rf"^m +mutex +held by {os.getpid()} \(participant 0\), recursive *$", out, re.MULTILINE)
    assert re.search(r"^c +counter +3 *$", out, re.MULTILINE)
    assert re.search(rf"^ +0 +{os.getpid()} +\d+ +python +yes +m +- *$", out, re.MULTILINE)
    arena["m"].release()


def test_info_of_every_lock(make_arena, run, ask):
    arena = make_arena()
    lock, gone = arena.mutex("m"), arena.mutex("gone")
    arena.condition("condition", lock), arena.condition("orphan", gone)
    del arena["gone"]
    arena.semaphore("semaphore", 3)
    arena.permits("permits", 4)
    arena.event("event").set()
    arena.event("auto", auto=True)
    arena.latch("latch", 5)
    barrier = arena.barrier("barrier", 3, on_death="shrink")
    arena.barrier("broken", 2).abort()
    arena.once("done").run(lambda: None)
    arena.once("once")
    for name in ("free", "read", "written", "wanted", "torn"):
        arena.rwlock(name)

    def die():
        arena.rwlock("torn").write.acquire()
        arena.permits("permits").acquire(3)
        arena.once("once").run(lambda: os.kill(os.getpid(), signal.SIGKILL))

    pid = os.fork()
    if pid == 0:
        try:
            die()
        finally:
            os._exit(1)
    os.waitpid(pid, 0)
    arena.rwlock("read").read.acquire()
    arena.rwlock("wanted").read.acquire()
    arena.rwlock("written").write.acquire()
    arena.permits("permits").acquire()
    leave = threading.Event()

    def wait_at_the_barrier():
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait()

    others = [
        threading.Thread(target=lambda: arena.rwlock("wanted").write.acquire(timeout=60)),
        threading.Thread(target=lambda: arena.once("running").run(leave.wait)),
        threading.Thread(target=wait_at_the_barrier),
    ]
    for other in others:
        other.start()
    until(lambda: {"wanted"} <= {p.waits for p in arena.participants()} and barrier.n_waiting == 1)
    until(lambda: any("running" in p.holds for p in arena.participants()))
    try:
        names = {known["name"]: known for known in ask("info", arena.address)["names"]}
        code, out, err = run("info", arena.address)
    finally:
        leave.set()
        for held in (arena.rwlock("wanted").read, arena.rwlock("read").read, arena.rwlock("written").write):
            held.release()
        arena.permits("permits").release()
        barrier.abort()
        for other in others:
            other.join()
    free = {"read": False, "write": False, "writer_waits": False}
    assert {name: (known["kind"], known["details"]) for name, known in names.items()} == {
        "m": ("mutex", {}),
        "condition": ("condition", {"mutex": "m"}),
        "orphan": ("condition", {"mutex": None}),
        "semaphore": ("semaphore", {"value": 3}),
        "permits": ("permits", {"available": 3, "total": 4}),
        "event": ("event", {"is_set": True, "auto": False}),
        "auto": ("event", {"is_set": False, "auto": True}),
        "latch": ("latch", {"count": 5}),
        "barrier": ("barrier", {"parties": 3, "n_waiting": 1, "broken": False, "on_death": "shrink"}),
        "broken": ("barrier", {"parties": 2, "n_waiting": 0, "broken": True, "on_death": "break"}),
        "done": ("once", {"done": True}),
        "once": ("once", {"done": False}),
        "running": ("once", {"done": False}),
        "free": ("rwlock", free),
        "read": ("rwlock", {**free, "read": True}),
        "written": ("rwlock", {**free, "write": True}),
        "wanted": ("rwlock", {**free, "read": True, "writer_waits": True}),
        "torn": ("rwlock", free),
    }
    owners = {name: known["owner"]["state"] for name, known in names.items() if known["owner"] is not None}
    assert owners == {
        "m": "free",
        "free": "free",
        "read": "free",
        "written": "held",
        "wanted": "held",
        "torn": "abandoned",
        "running": "held",
    }
    assert names["torn"]["owner"]["died"] == pid
    assert (code, err) == (0, "")
    me = os.getpid()
    for name, text in {
        "m": "mutex free",
        "condition": "condition of m",
        "orphan": "condition its mutex was deleted",
        "semaphore": "semaphore 3",
        "permits": "permits 3 of 4 free",
        "event": "event set",
        "auto": "event clear, auto",
        "latch": "latch 5 to count",
        "barrier": "barrier 1 of 3 wait, shrinks",
        "broken": "barrier 0 of 2 wait, broken",
        "done": "once done",
        "once": "once not done",
        "running": rf"once {me} \(participant \d\) does it",
        "free": "rwlock free",
        "read": "rwlock read",
        "written": rf"rwlock held by {me} \(participant \d\)",
        "wanted": rf"rwlock read, {me} \(participant \d\) waits to write",
        "torn": f"rwlock abandoned by {pid}",
    }.items():
        kind, _, state = text.partition(" ")
        assert re.search(rf"^{name} +{kind} +{state} *$", out, re.MULTILINE), (name, out)


def test_a_waiter_that_dies_with_a_hand_over_leaves_the_lock_free():
    granted, slot, generation = 1 << 15, 3, 7
    word = slot + 1 | generation << 16
    for died, state in ((0, "free"), (1 << 32 | 4711, "abandoned")):
        assert owner_of(word | granted, died, {})["state"] == state
    assert owner_of(word, 0, {})["state"] == "abandoned"


def test_info_of_an_empty_arena(make_arena, run, ask):
    arena = make_arena()
    found = ask("info", arena.address)
    assert (found["names"], found["participants"], found["heap"]["used"]) == ([], [], 0)
    code, out, _ = run("info", arena.address)
    assert code == 0
    assert "name " not in out


def test_info_follows_a_death(make_arena, start, run, ask):
    """held, abandoned before anybody met it and after, recovering, free again; with who waits."""
    arena = make_arena()
    lock = arena.mutex("m")

    def owner() -> dict:
        return ask("info", arena.address)["names"][0]["owner"]

    child = start(HOLDER, arena.address, "rw", "m")
    who = {"participant": 1, "died": None, "waiters": False}
    assert owner() == {"state": "held", "pid": child.pid, **who}
    waiter = start(READY + "print('ready', flush=True)\narena.mutex('m').acquire()", arena.address, "rw")
    while not (found := ask("info", arena.address))["names"][0]["owner"]["waiters"]:
        time.sleep(0.001)
    assert ("m", waiter.pid) in [(p["waits"], p["pid"]) for p in found["participants"]]
    assert "others wait" in run("info", arena.address)[1]
    waiter.kill()
    waiter.wait()
    child.kill()
    child.wait()
    found = owner()
    assert (found["state"], found["pid"], found["participant"], found["died"]) == ("abandoned", None, 1, child.pid)
    assert f"abandoned by {child.pid}" in run("info", arena.address)[1]
    with pytest.raises(polyshm.OwnerDied):
        lock.acquire()
    found = owner()
    assert (found["state"], found["pid"], found["participant"], found["died"]) == ("abandoned", None, 1, child.pid)
    with lock.recover():
        found = owner()
        assert (found["state"], found["pid"], found["participant"]) == ("recovering", os.getpid(), 0)
        assert found["died"] == child.pid
        assert f"recovering from the death of {child.pid}" in run("info", arena.address)[1]
    assert owner()["state"] == "free"


def test_names_cannot_command_the_terminal(make_arena, run, ask):
    arena = make_arena()
    for name in ("\x1b[31mred", "[bold]x[/bold]", "a\nb", "\u202eabc", "käse"):
        arena.counter(name)
    code, out, _ = run("info", arena.address)
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
    for shown in (r"\x1b[31mred", "[bold]x[/bold]", r"a\nb", r"\u202eabc", "käse"):
        assert re.search(rf"^{re.escape(shown)} +counter", out, re.MULTILINE), out
    assert "\x1b[31mred" in {known["name"] for known in ask("info", arena.address)["names"]}


def test_info_of_many_names(make_arena, ask):
    arena = make_arena(size="16M")
    for i in range(5000):
        (arena.mutex if i % 2 else arena.counter)(f"name {i}")
    found = ask("info", arena.address)["names"]
    assert len(found) == 5000
    assert sum(known["owner"] is not None for known in found) == 2500


# ---- check


def test_check(make_arena, run, ask):
    arena = make_arena()
    arena.mutex("m")
    assert run("check", arena.address) == (0, "", "")
    assert ask("check", arena.address) == {"address": arena.address, "findings": [], "busy": []}
    pages = 4096 + 64 * 256
    pages += 384 * 256
    with polyshm.Segment(arena.address) as segment:
        segment.write(pages + 64 * 100, b"\x07")  # the state of a page
    code, out, err = run("check", arena.address)
    assert (code, err) == (1, "")
    assert out.splitlines() == arena.check()
    assert len(out.splitlines()) >= 1
    code, out, err = run("check", arena.address, "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["findings"] == arena.check()


# ---- rm


@pytest.mark.parametrize("kind", KINDS)
def test_rm(kind, foreign_arena, make, run):
    where = foreign_arena(kind)
    assert run("rm", where) == (0, "", "")
    assert not polyshm.exists(where)
    code, out, err = run("rm", where)
    assert (code, out) == (1, "")
    assert one_line(err, where)


def test_rm_goes_on_after_a_failure(foreign_arena, make, run, name):
    first, raw, missing = foreign_arena(), make("posix"), f"posix:{name}-none"
    code, out, err = run("rm", missing, first, "nonsense", raw.address, "--json")
    assert code == 1
    assert json.loads(out) == [
        {"address": missing, "removed": False, "error": f"{missing}: No such file or directory"},
        {"address": first, "removed": True, "error": None},
        {"address": "nonsense", "removed": False, "error": err.splitlines()[1].removeprefix("polyshm: ")},
        {"address": raw.address, "removed": True, "error": None},
    ]
    assert len(err.splitlines()) == 2
    assert not polyshm.exists(first)
    assert not polyshm.exists(raw.address)


# ---- gc


def test_gc_lists_and_removes(foreign_arena, make, run, ask):
    keep, last, raw = foreign_arena(), foreign_arena("posix", "life='keep'", "arena.counter('c').add(1)"), make("posix")
    found = {orphan["address"]: orphan for orphan in ask("gc")}
    expected = {"kind": "posix", "size": 1 << 20, "life": "keep", "removed": False, "error": None}
    assert found[keep] == {"address": keep, "objects": 0, "dead": 0, **expected}
    assert found[last] == {"address": last, "objects": 1, "dead": 0, **expected}
    assert raw.address not in found
    code, out, err = run("gc", keep, last, raw.address)
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == ["address", keep, last]
    assert polyshm.exists(keep)
    code, out, err = run("gc", "--yes", keep, raw.address)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split() == [keep, "1M", "keep", "0", "0", "yes"]
    assert not polyshm.exists(keep)
    assert polyshm.exists(last)
    assert polyshm.exists(raw.address)
    assert run("gc", "--yes", keep, raw.address) == (0, "", "")
    assert ask("gc", "--yes", last)[0]["removed"]
    assert not polyshm.exists(last)


@pytest.mark.parametrize("how", ["rw", "r", "stopped", "stopped r", "thread", "child"])
@pytest.mark.parametrize("kind", KINDS)
def test_gc_leaves_what_anybody_has_open(kind, how, foreign_arena, start, ask):
    where = foreign_arena(kind)
    assert [o["address"] for o in ask("gc", where)] == [where]
    if how == "thread":
        # The handle is closed, and the thread that holds a lock is in the arena for all that.
        child = start(
            READY + "arena.mutex('m').acquire(); arena.close()\nprint('ready', flush=True); sys.stdin.read()",
            where,
            "rw",
        )
    elif how == "child":
        # The parent is gone; its child has what it had.
        script = READY + "if os.fork(): os._exit(0)\nprint(os.getpid(), flush=True)\nsys.stdin.read()"
        child = start(script.replace("print(os.getpid()", "print('ready'"), where, "rw")
        assert child.wait() == 0
    else:
        child = start(HOLDER, where, how.removeprefix("stopped").strip() or "rw")
    if how.startswith("stopped"):
        stop(child)
    assert ask("gc", where) == []
    assert ask("gc", where, "--yes") == []
    assert polyshm.exists(where)
    if how.startswith("stopped"):
        os.kill(child.pid, signal.SIGCONT)
    child.stdin.close()
    child.wait()
    while ask("gc", where) == []:
        time.sleep(0.001)
    assert [(o["address"], o["removed"]) for o in ask("gc", where, "--yes")] == [(where, True)]
    assert not polyshm.exists(where)


@pytest.mark.parametrize("life", ["keep", "last-detach"])
@pytest.mark.parametrize("kind", KINDS)
def test_gc_removes_after_a_kill(kind, life, address, start, ask, python):
    where = address(kind)
    create = READY.replace("access=sys.argv[2]", f"size='1M', create=True, life='{life}'")
    child = start(create + "arena.mutex('m').acquire()\nprint('ready', flush=True)\nsys.stdin.read()", where)
    assert ask("gc", where) == []
    child.kill()
    child.wait()
    found = ask("gc", where)
    assert [(o["address"], o["life"], o["objects"], o["dead"]) for o in found] == [(where, life, 1, 1)]
    other = "keep" if life == "last-detach" else "last-detach"
    assert ask("gc", "--life", other, "--yes", where) == []
    assert polyshm.exists(where)
    assert [o["removed"] for o in ask("gc", "--life", life, "--yes", where)] == [True]
    assert not polyshm.exists(where)


def test_gc_leaves_damaged_and_foreign_ones(foreign_arena, shm_file, ask):
    whole = file_of(foreign_arena()).read_bytes()
    for data in (whole[:9000], whole[:8] + b"\x09" + whole[9:], b"", bytes(9000), b"x" * 9000):
        path = shm_file(data)
        assert ask("gc", "--yes", posix(path)) == []
        assert path.read_bytes() == data


def test_gc_of_a_name_that_was_given_to_another(foreign_arena, monkeypatch, ask, name):
    """Between the proof and the removal the name may go to something else."""
    where = foreign_arena()
    path = file_of(where)
    looked = command._tool_remove._look

    def look_and_replace(address: str, opened_by: str):
        orphan = looked(address, opened_by)
        path.unlink()
        path.write_bytes(b"new")
        return orphan

    monkeypatch.setattr(command._tool_remove, "_look", look_and_replace)
    assert ask("gc", "--yes", where) == []
    assert path.read_bytes() == b"new"


def test_gc_says_what_it_cannot_remove(foreign_arena, monkeypatch, run):
    where = foreign_arena()

    def refuse(path: str) -> None:
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(os, "unlink", refuse)
    code, out, err = run("gc", "--yes", where)
    assert code == 1
    assert out.splitlines()[1].split()[-1] == "no"
    assert one_line(err, where)
    code, out, err = run("gc", "--yes", "--json", where)
    assert (code, json.loads(out)[0]["removed"]) == (1, False)


USER = """
import os, sys, time, polyshm
path, address = sys.argv[1:]
end = time.monotonic() + 2
while time.monotonic() < end:
    with polyshm.Arena(address, size="64K", create=True, reserve=False) as arena:
        for _ in range(3):
            arena.counter("c").add(1)
        # It is still the one that everybody finds.
        with polyshm.Arena(address) as again:
            assert again.id == arena.id, "the name went while the arena was open"
"""


def test_gc_never_takes_an_arena_from_who_comes(name, python, ask):
    address = f"posix:{name}"
    children = [python.start(USER, file_of(address), address) for _ in range(2)]
    removed = 0
    while any(child.poll() is None for child in children):
        removed += sum(o["removed"] for o in ask("gc", "--yes", address))
    for child in children:
        assert child.returncode == 0, child.stderr.read()
    ask("gc", "--yes", address)
    assert removed > 0


# ---- everybody is stopped


@pytest.fixture
def stopped_locks(start, address) -> Iterator[tuple[str, Callable[[], None]]]:
    where = address("posix")
    polyshm.Arena(where, size="4M", create=True).close()
    children = [start(CHURN, where, i) for i in range(2)]

    def again() -> None:
        for child in children:
            os.kill(child.pid, signal.SIGCONT)
        time.sleep(random.random() * 0.003)
        for child in children:
            assert child.poll() is None, child.stderr.read()
            stop(child)

    yield where, again
    for child in children:
        child.kill()
        child.wait()
    polyshm.unlink(where)


def test_everybody_is_stopped(stopped_locks, run, ask, listed):
    """At any moment, with the arena's own locks held: each verb ends, tells who has them, and changes no byte."""
    where, again = stopped_locks
    seen: set[str] = set()
    for turn in range(400):
        again()
        before = hashlib.sha256(file_of(where).read_bytes()).digest()
        found = ask("info", where)
        held = {name for p in found["participants"] for name in p["holds"] if p["alive"]}
        assert len(found["participants"]) == 2
        assert listed(where)["what"] == "arena"
        code, out, _ = run("check", where, "--json")
        checked = json.loads(out)
        assert code == (1 if checked["findings"] else 0)
        # What is wrong is what they are in the middle of.
        if checked["findings"]:
            assert checked["busy"], checked
        if turn % 20 == 0:
            assert run("check", where)[0] == code
            assert run("info", where)[0] == run("ls")[0] == 0
        assert ask("gc", "--yes", where) == []
        assert hashlib.sha256(file_of(where).read_bytes()).digest() == before
        seen |= held
        if turn >= 60 and {"(heap)", "(directory)"} <= seen:
            break
    assert {"(heap)", "(directory)"} <= seen


def test_everybody_is_stopped_in_processes_of_their_own(stopped_locks, python):
    where, again = stopped_locks
    again()
    for verb in (["ls"], ["ls", "--json"], ["info", where], ["info", where, "--json"], ["gc", where]):
        done = subprocess.run([sys.executable, "-m", "polyshm", *verb], capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stderr) == (0, "")
        assert (where in done.stdout) == (verb[0] != "gc")


def test_somebody_is_stopped_with_the_file_locked(make_arena, python, run, start, listed):
    """As somebody who was just resetting it after a boot."""
    arena, other = make_arena(), make_arena()
    arena.close()
    script = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('ready', flush=True); input()"
    )
    child = start(script, file_of(arena.address))
    stop(child)
    code, out, err = run("ls", "--json")
    found = {entry["address"]: entry for entry in json.loads(out)}
    assert code == 0
    assert found[arena.address]["what"] == "unreadable"
    assert found[other.address]["what"] == "arena"
    assert one_line(err, arena.address)
    code, out, err = run("info", arena.address)
    assert (code, out) == (1, "")
    assert one_line(err, arena.address)
    assert run("gc", "--yes", arena.address) == (0, "", "")
    child.kill()


# ---- damaged ones


@pytest.mark.parametrize("seed", range(8))
def test_hostile_bytes(seed, make_arena, shm_file, run):
    """Whatever stands in it: an answer or one line, never a traceback."""
    dice = random.Random(seed)
    arena = make_arena(size="256K", participants=8)
    for i in range(40):
        (arena.mutex if i % 2 else arena.counter)(f"name {i}")
    arena["name 1"].acquire()
    arena.alloc_into(arena.root(0), 50_000)
    whole = file_of(arena.address).read_bytes()
    arena["name 1"].release()
    used = [i for i in range(0, len(whole), 8) if whole[i : i + 8] != bytes(8)]
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 3, 50))):
            at = dice.choice(used) if dice.random() < 0.7 else dice.randrange(0, 4096, 8)
            if not 4096 <= at < 8192:  # the beacons: trusted
                data[at : at + 8] = dice.choice((dice.randbytes(8), b"\xff" * 8, bytes(8), data[at : at + 7] + b"\x80"))
        path = shm_file()
        path.write_bytes(data)
        for verb in ("info", "check"):
            for form in ([], ["--json"]):
                code, out, err = run(verb, posix(path), *form)
                assert code in (0, 1), (code, err)
                assert not err or all(posix(path) in line for line in err.splitlines())
                if form and out:
                    json.loads(out)
        assert run("ls", "--json")[0] == 0
        path.unlink()


# ---- the command itself


def test_as_a_program(make_arena):
    arena = make_arena()
    done = subprocess.run([sys.executable, "-m", "polyshm", "info", arena.address, "--json"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["address"] == arena.address
    done = subprocess.run([sys.executable, "-m", "polyshm", "--version"], capture_output=True, text=True)
    assert done.stdout == f"polyshm {polyshm.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "polyshm", "--help"], capture_output=True, text=True)
    assert all(verb in done.stdout for verb in ("ls", "info", "check", "rm", "gc"))


@pytest.mark.parametrize("verb", ["info", "check"])
def test_errors_are_one_line(verb, run, name, make, tmp_path):
    raw = make("posix")
    plain = tmp_path / "plain"
    plain.write_bytes(b"#!" * 5000)
    for address, code in {
        f"posix:{name}-none": 1,
        raw.address: 1,
        f"file:{plain}": 1,
        f"file:{tmp_path}": 1,
        "sysv:id=2147483647": 1,
        "nonsense": 2,
        "posix:/a/b": 2,
        "anon:": 2,
        "fd:x": 2,
    }.items():
        for form in ([], ["--json"]):
            found = run(verb, address, *form)
            assert found[:2] == (code, ""), (address, found)
            assert one_line(found[2], address), found


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["bla"],
        ["info"],
        ["check"],
        ["rm"],
        ["ls", "x"],
        ["ls", "--files"],
        ["gc", "--life", "long"],
        ["gc", "nonsense"],
    ],
)
def test_usage(wrong, run):
    code, out, err = run(*wrong)
    assert (code, out) == (2, "")
    assert "polyshm" in err


WITHOUT_RICH = "import sys; sys.modules['rich'] = None\nfrom polyshm.__main__ import main\nsys.exit(main(sys.argv[1:]))"


def test_without_rich(make_arena, foreign_arena, python):
    arena, orphan = make_arena(), foreign_arena()
    for verb in (["ls"], ["info", arena.address], ["gc", "--yes", orphan]):
        done = python(WITHOUT_RICH, *verb, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "polyshm: tables need rich: pip install 'polyshm[cli]', or say --json\n"
    # Nothing was done before that was said.
    assert polyshm.exists(orphan)
    assert {arena.address, orphan} <= {e["address"] for e in json.loads(python(WITHOUT_RICH, "ls", "--json").stdout)}
    assert json.loads(python(WITHOUT_RICH, "info", arena.address, "--json").stdout)["address"] == arena.address
    assert python(WITHOUT_RICH, "check", arena.address).stdout == ""
    assert json.loads(python(WITHOUT_RICH, "gc", "--yes", orphan, "--json").stdout)[0]["removed"]
    python(WITHOUT_RICH, "rm", arena.address)
    assert not polyshm.exists(arena.address)


def test_the_package_does_not_load_it(python):
    python(
        "import sys, polyshm; sys.exit(any(n in sys.modules for n in ('argparse', 'rich', 'polyshm._tool', 'fcntl')))"
    )


def test_a_reader_that_has_seen_enough(make_arena):
    arena = make_arena(size="16M")
    for i in range(3000):
        arena.counter(f"a name of some length {i}")
    line = [sys.executable, "-m", "polyshm", "info", arena.address, "--json"]
    child = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.read(10)
    child.stdout.close()
    with child.stderr:
        assert child.stderr.read() == b""
    assert child.wait() == 0


def test_looking_locks_no_foreign_file(shm_file, run):
    """A file that is no arena is nobody's to lock."""
    path = shm_file(b"x" * 9000)
    with open(path) as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        before = time.monotonic()
        assert run("ls", "--json")[0] == 0
        assert run("gc", "--json", posix(path))[0] == 0
        assert time.monotonic() - before < 30
