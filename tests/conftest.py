# SPDX-License-Identifier: MIT
"""Shared by all pytest suites.

Every test: a limit of 60 seconds (pytest-timeout, set in pyproject.toml; `@pytest.mark.timeout(120)` where one needs
more), and nothing left behind: no name in /dev/shm, no System V segment, no child process, no open descriptor and no
mapping of a segment or of a file below the test's `tmp_path`. So close handles, or let them go, before the test ends.

Fixtures
  name          a POSIX name that nobody else uses, "/polyshm-test-..."; make an address with f"posix:{name}".
  python, lua   run a script: `python("print(1)", *args)`, `lua(Path("x.lua"), *args)` -> CompletedProcess (text).
                A script that fails raises with its stderr; `check=False` leaves that to the test. `.start(...)`
                gives a Popen with pipes for all three streams, killed at the end if it still runs.
  program       the same for a C program of build/tests: `program("foreign_posix", *args)`.

Children find what the parent found: PYTHONPATH, LUA_PATH and LUA_CPATH are set here unless the caller did, so
`subprocess` and `multiprocessing` need nothing more. Test files of one name cannot be in two folders of one run:
tests/cross/test_cross_mutex.py beside tests/python/test_mutex.py.
"""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import leftovers
import pytest

ROOT = Path(__file__).resolve().parent.parent
# Where the C programs and the Lua module are: another folder under the sanitizers.
BUILD = Path(os.environ.get("POLYSHM_BUILD", ROOT / "build")).resolve()

os.environ.setdefault("PYTHONPATH", str(ROOT / "python"))
os.environ.setdefault("LUA_PATH", f"{ROOT}/lua/?.lua;{ROOT}/lua/?/init.lua;;")
os.environ.setdefault("LUA_CPATH", f"{BUILD}/lua/?.so;;")
for folder in reversed(os.environ["PYTHONPATH"].split(os.pathsep)):
    if folder and folder not in sys.path:
        sys.path.insert(0, folder)

leftovers.adopt_orphans()

_counter = itertools.count()
_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[_failed] = True
    return report


def pytest_collection_finish() -> None:
    """What was imported and collected is no test's garbage: gc.collect() need not go through it after each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves something behind, and cleans up after it."""
    base = (str(request.config._tmp_path_factory.getbasetemp()),)
    names, children = leftovers.names(), leftovers.children()
    descriptors, mappings = leftovers.descriptors(base), leftovers.mappings(base)
    yield
    gc.collect()
    alive = {pid: line for pid, line in leftovers.children().items() if pid not in children}
    leftovers.kill(alive)
    left = leftovers.new_names(names)
    leftovers.remove(left)
    found = sorted(left) + [f"process {pid}: {line}" for pid, line in alive.items()]
    if _failed not in request.node.stash:
        # The traceback of a failed test keeps its locals, and so its handles, alive.
        # A thread that was joined may take a moment yet to end, and takes part in its arenas until then.
        end = time.monotonic() + leftovers.GRACE
        while True:
            kept = leftovers.descriptors(base) - descriptors | leftovers.mappings(base) - mappings
            if not kept or time.monotonic() > end:
                break
            time.sleep(0.005)
        found += sorted(kept)
    if found:
        pytest.fail("left behind:\n  " + "\n  ".join(found), pytrace=False)


@pytest.fixture
def name() -> str:
    return f"/polyshm-test-{os.getpid()}-{next(_counter)}-{os.urandom(3).hex()}"


class Runner:
    """Runs scripts or programs of one kind with the environment of this session."""

    def __init__(self, command: Callable[[str | Path], list[str]]) -> None:
        self._command = command
        self._started: list[subprocess.Popen[str]] = []

    def __call__(self, script: str | Path, *args: object, check: bool = True, **options):
        options.setdefault("timeout", 50)
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(self._line(script, args), capture_output=True, text=True, check=False, **options)
        if check and done.returncode != 0:
            pytest.fail(f"{done.args[0]} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def start(self, script: str | Path, *args: object, **options) -> subprocess.Popen[str]:
        for stream in ("stdin", "stdout", "stderr"):
            options.setdefault(stream, subprocess.PIPE)
        child = subprocess.Popen(self._line(script, args), text=True, **options)
        self._started.append(child)
        return child

    def _line(self, script: str | Path, args: tuple[object, ...]) -> list[str]:
        return [*self._command(script), *map(str, args)]

    def stop(self) -> None:
        for child in self._started:
            if child.poll() is None:
                child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout, child.stderr):
                if stream is not None and not stream.closed:
                    try:
                        stream.close()
                    except BrokenPipeError:
                        pass


def _python_line(script: str | Path) -> list[str]:
    return [sys.executable, str(script)] if isinstance(script, Path) else [sys.executable, "-c", script]


def _lua_line(script: str | Path) -> list[str]:
    # lua5.4 has no arguments after -e without a script: "-" would read standard input, which belongs to the test.
    return ["lua5.4", str(script)] if isinstance(script, Path) else ["lua5.4", "-e", _LUA_CODE, os.devnull, script]


# The code comes as the first argument; it sees the others as `...`.
_LUA_CODE = "local code = table.remove(arg, 1); assert(load(code, '=(test)'))(table.unpack(arg))"


def _runner(command: Callable[[str | Path], list[str]]) -> Iterator[Runner]:
    runner = Runner(command)
    yield runner
    runner.stop()


@pytest.fixture
def python() -> Iterator[Runner]:
    yield from _runner(_python_line)


@pytest.fixture
def lua() -> Iterator[Runner]:
    yield from _runner(_lua_line)


@pytest.fixture
def program() -> Iterator[Runner]:
    yield from _runner(lambda script: [str(BUILD / "tests" / script)])
