# SPDX-License-Identifier: MIT
"""Includes go down only, system calls stay on the ground floor, and no file grows too long."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from house import HEADERS, ROOT, glob, relative

FLOORS = {"os": 0, "core": 1, "sync": 2, "data": 3}
NO_SIDEWAYS = {"sync", "data"}

SYSTEM_CALLS = re.compile(r"sys/(mman|shm|ipc|syscall|stat|vfs|statfs|random|resource|prctl)\.h|fcntl\.h|linux/.*")
# In the core these too; a binding may need getpid.
CALLS_IN_CORE = re.compile(r"fcntl\.h|linux/.*|unistd\.h|dirent\.h|signal\.h|sched\.h|poll\.h|sys/.*")
HOSTS = re.compile(r"Python|structmember|lua|lauxlib")

# (file, what it includes): why.
EXCEPTIONS = {
    ("csrc/os/file.h", "polyshm/segment.h"): "fills in pshm_stat, a type",
    ("csrc/os/sysv.h", "polyshm/segment.h"): "fills in pshm_stat, a type",
    ("csrc/sync/condition.c", "sync/mutex.h"): "a condition gives its mutex up and takes it back",
}

# Sources of more than 400 lines: why they are one.
LONG: dict[str, str] = {"python/binding/py_atomic.c": "one type: twelve verbs, each of two widths"}


def includes(path: Path) -> list[tuple[str, str]]:
    """(bracket, what) of each #include: '<' or '"'."""
    return re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def allowed_below(path: Path, what: str) -> bool:
    """May a file of csrc/os, core, sync or data include this "folder/file.h" of ours?"""
    floor, target = path.parent.name, what.partition("/")[0]
    if target not in FLOORS or FLOORS[target] > FLOORS[floor]:
        return False
    if target == floor and floor in NO_SIDEWAYS:
        return Path(what).stem == path.stem or path.stem.startswith(Path(what).stem + "_")
    return True


@pytest.mark.parametrize("path", glob("csrc/*/*.[ch]"), ids=relative)
def test_core_includes_go_down(path: Path) -> None:
    bad = []
    for bracket, what in includes(path):
        if (relative(path), what) in EXCEPTIONS:
            continue
        if bracket == '"':
            if not allowed_below(path, what):
                bad.append(f'"{what}"')
        elif what.startswith("polyshm/"):
            if path.parent.name == "os" and what not in ("polyshm/polyshm.h", "polyshm/error.h"):
                bad.append(f"<{what}>")
        elif what == "pthread.h":
            if path.parent.name not in ("os", "sync"):
                bad.append(f"<{what}>")
        elif HOSTS.match(what) or (path.parent.name != "os" and CALLS_IN_CORE.fullmatch(what)):
            bad.append(f"<{what}>")
    assert not bad, f"{relative(path)} may not include {', '.join(bad)}"


@pytest.mark.parametrize("path", HEADERS, ids=relative)
def test_public_headers_include_public_headers(path: Path) -> None:
    standard = {"stdbool.h", "stddef.h", "stdint.h", "string.h"}
    if path.name == "mutex.h":
        standard.add("pthread.h")
    bad = [what for bracket, what in includes(path) if bracket == '"' or not what.startswith("polyshm/")]
    assert set(bad) <= standard, f"{path.name} includes {sorted(set(bad) - standard)}"


@pytest.mark.parametrize("path", glob("python/binding/*.[ch]", "lua/binding/*.[ch]"), ids=relative)
def test_bindings_see_public_headers_and_their_glue(path: Path) -> None:
    bad = []
    for bracket, what in includes(path):
        if bracket == '"':
            if "/" in what or not (path.parent / what).exists():
                bad.append(f'"{what}"')
        elif what == "pthread.h" or SYSTEM_CALLS.fullmatch(what):
            bad.append(f"<{what}>")
    assert not bad, f"{relative(path)} may not include {', '.join(bad)}"


@pytest.mark.parametrize("noun", ["file", "what"])
def test_the_rule_itself(noun: str) -> None:
    """The check finds what it is there to find."""
    up = Path(f"csrc/core/{noun}.c")
    side = Path(f"csrc/sync/{noun}.c")
    assert not allowed_below(up, "sync/mutex.h")
    assert allowed_below(up, "os/file.h")
    assert not allowed_below(side, "sync/mutex.h")
    assert allowed_below(side, f"sync/{noun}.h")


def test_exceptions_are_needed() -> None:
    stale = [
        f"{file}: {what}"
        for file, what in EXCEPTIONS
        if not (ROOT / file).exists() or what not in [found for _, found in includes(ROOT / file)]
    ]
    assert not stale, f"exceptions that nothing needs any more: {stale}"


SOURCES = glob("csrc/*/*.[ch]", "csrc/include/polyshm/*", "python/binding/*", "lua/binding/*") + glob(
    "python/polyshm/*.py", "lua/polyshm/*.lua"
)


def test_no_source_is_too_long() -> None:
    long = {relative(path): len(path.read_text().splitlines()) for path in SOURCES}
    long = {path: lines for path, lines in long.items() if lines > 400}
    assert set(long) == set(LONG), f"over 400 lines, a reason to split: {long}; listed with a reason: {LONG}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.suffix in (".c", ".h", ".py", ".lua")], ids=relative)
def test_sources_name_their_licence(path: Path) -> None:
    assert "SPDX-License-Identifier: MIT" in path.read_text().split("\n", 1)[0]
