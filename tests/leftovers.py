# SPDX-License-Identifier: MIT
"""What a test leaves behind: names in /dev/shm, System V segments, processes, descriptors and mappings of segments.

As a program, `python3 tests/leftovers.py COMMAND ...` runs a command and fails if it leaves a name, an id or a
process; it is how the C and Lua suites are watched. Other programs of the machine may come and go meanwhile: what they
have open, or remove within two seconds, is theirs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

GRACE = 2.0
SEGMENT_LINKS = ("/dev/shm/", "/memfd:", "/SYSV", "/dev/zero")
# multiprocessing keeps arenas of its heap, and named semaphores, for as long as the process runs.
NOT_OURS = ("/dev/shm/pym-", "/dev/shm/sem.")


def adopt_orphans() -> None:
    """Makes this process the reaper of its grandchildren, so that a daemon that a test forgot is seen as a child."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def names() -> set[str]:
    """POSIX names and System V ids, as text."""
    try:
        found = {"/dev/shm/" + entry for entry in os.listdir("/dev/shm")}
    except FileNotFoundError:
        found = set()
    return found | {f"sysv:id={row[1]}" for row in sysv_rows()}


def sysv_rows() -> list[list[str]]:
    """The rows of /proc/sysvipc/shm (key, id, mode, size, creator, ...), without the head line."""
    try:
        with open("/proc/sysvipc/shm") as table:
            return [line.split() for line in table][1:]
    except FileNotFoundError:
        return []


def children() -> dict[int, str]:
    """Living children, pid -> command line. Those that are dead and not waited for are reaped here. One that is about
    to be has given back its memory, and what it shared, a while before: it has no command line, and time to end."""
    end = time.monotonic() + GRACE
    while not all((found := _children()).values()) and time.monotonic() < end:
        time.sleep(0.002)
    return found


def _children() -> dict[int, str]:
    found = {}
    helpers = _multiprocessing_helpers()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as stat:
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
            if int(parent) != os.getpid() or int(entry) in helpers:
                continue
            if state == b"Z":
                os.waitpid(int(entry), os.WNOHANG)
                continue
            with open(f"/proc/{entry}/cmdline", "rb") as line:
                found[int(entry)] = line.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError, ChildProcessError):
            continue
    return found


def _multiprocessing_helpers() -> set[int]:
    """The resource tracker and the fork server, which multiprocessing starts once and keeps."""
    pids = set()
    for module, holder, attribute in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ):
        pid = getattr(getattr(sys.modules.get(module), holder, None), attribute, None)
        if pid is not None:
            pids.add(pid)
    return pids


def descriptors(also: Iterable[str] = ()) -> set[str]:
    """Open descriptors of segments, and of files below the folders `also`."""
    roots = (*SEGMENT_LINKS, *also)
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue
        if link.startswith(roots) and not link.startswith(NOT_OURS):
            found.add(f"fd {entry} -> {link}")
    return found


def mappings(also: Iterable[str] = ()) -> set[str]:
    """Mappings of segments, and of files below the folders `also`."""
    roots = (*SEGMENT_LINKS, *also)
    found = set()
    with open("/proc/self/maps", errors="surrogateescape") as table:
        for line in table:
            where, _, _, _, inode, *path = line.rstrip("\n").split(None, 5)
            if path and path[0].startswith(roots) and not path[0].startswith(NOT_OURS):
                found.add(f"map {where} {path[0]} (inode {inode})")
    return found


def new_names(before: set[str]) -> set[str]:
    """Names that were not there before, still are after the grace, and that no stranger uses."""
    left = names() - before
    end = time.monotonic() + GRACE
    while left and time.monotonic() < end:
        time.sleep(0.02)
        left &= names()
    return left and left - _used_by_strangers(left)


def _used_by_strangers(left: set[str]) -> set[str]:
    """Names that processes which are not our descendants have open, map, or made."""
    parents, used = {}, set()
    # What was made without a name and linked later is not shown under that name.
    files = {_file(name): name for name in left}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    parents[int(entry)] = int(stat.read().rpartition(b")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    for pid in parents:
        above = pid
        while above and above != os.getpid():
            above = parents.get(above, 0)
        if above:
            continue
        try:
            with open(f"/proc/{pid}/maps", errors="surrogateescape") as table:
                rows = [line.rstrip("\n").split(None, 5) for line in table if "/dev/shm/" in line]
            used |= {row[-1] for row in rows} | {files[row[3], row[4]] for row in rows if (row[3], row[4]) in files}
            used |= {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        except OSError:
            continue
        used |= {f"sysv:id={row[1]}" for row in sysv_rows() if str(pid) in (row[4], row[5])}
    return used


def _file(name: str) -> tuple[str, str]:
    """Device and inode as /proc/PID/maps has them: other mount namespaces have other files with the same inode."""
    try:
        status = os.stat(name)
    except OSError:
        return "", ""
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}", str(status.st_ino)


def remove(left: Iterable[str]) -> None:
    """Removes names, so that one test's dirt does not fail the next."""
    for name in left:
        if name.startswith("sysv:id="):
            subprocess.run(["ipcrm", "-m", name.partition("=")[2]], check=False)
        else:
            try:
                os.unlink(name)
            except OSError:
                pass


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def main(command: list[str]) -> int:
    adopt_orphans()
    before = names()
    code = subprocess.run(command, check=False).returncode
    end = time.monotonic() + GRACE
    while (alive := children()) and time.monotonic() < end:
        time.sleep(0.02)
    kill(alive)
    left = new_names(before)
    remove(left)
    for line in sorted(left) + [f"process {pid}: {text}" for pid, text in alive.items()]:
        print(f"left behind by {command[0]}: {line}", file=sys.stderr)
    if code < 0:
        print(f"{command[0]}: killed by {signal.Signals(-code).name}", file=sys.stderr)
        return 128 - code
    return code or (1 if left or alive else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
