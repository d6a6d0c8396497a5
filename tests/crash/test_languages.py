# SPDX-License-Identifier: MIT
"""Python and lua5.4, killed at every state of every verb: see crash_program.c, crash_program_arena.c and driver.h.

Not run under the sanitizers, which put their own instructions between the steps.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("POLYSHM_BUILD", Path(__file__).parents[2] / "build")).resolve()

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="breakpoints are written for x86-64 alone")

PYTHON = """
import sys
import polyshm

address, verb = sys.argv[1:]
lock = polyshm.Segment(address).mutex(0)
if verb == "release":
    lock.acquire()
print("ready", flush=True)
sys.stdin.readline()
if verb == "acquire":
    lock.acquire()
elif verb == "release":
    lock.release()
else:
    with lock.recover():
        pass
"""

LUA = """
local polyshm = require "polyshm"
local address, verb = ...
local lock = assert(polyshm.segment(address)):mutex(0)
if verb == "release" then lock:acquire() end
print("ready") io.stdout:flush()
io.read()
if verb == "acquire" then
    lock:acquire()
elseif verb == "release" then
    lock:release()
else
    local held <close> = lock:recover()
end
"""

OPERATIONS = {
    "acquire",
    "acquire, contended",
    "acquire after a death",
    "acquire that meets a mark",
    "release",
    "release with a waiter",
    "recover",
}


ARENA_PYTHON = """
import sys
import polyshm

address, verb = sys.argv[1:]
arena = polyshm.Arena(address)
arena.free_from(arena.root(20))
if verb in ("acquire", "release", "recover"):
    lock = arena.mutex("lock")
if verb == "add":
    counter = arena.counter("counter")
if verb == "release":
    lock.acquire()
print("ready", flush=True)
sys.stdin.readline()
if verb == "acquire":
    lock.acquire()
elif verb == "release":
    lock.release()
elif verb == "recover":
    with lock.recover():
        pass
elif verb == "add":
    counter.add(2)
elif verb == "create":
    arena.mutex("subject")
elif verb == "delete":
    arena.delete("subject")
elif verb == "allocate":
    arena.alloc_into(arena.root(0), 200)
elif verb == "free":
    arena.free_from(arena.root(0))
"""

ARENA_LUA = """
local polyshm = require "polyshm"
local address, verb = ...
local arena = assert(polyshm.arena(address))
local lock, counter
assert(arena:free_from(arena:root(21)))
if verb == "acquire" or verb == "release" or verb == "recover" then lock = arena:mutex("lock") end
if verb == "add" then counter = arena:counter("counter") end
if verb == "release" then lock:acquire() end
print("ready") io.stdout:flush()
io.read()
if verb == "acquire" then
    lock:acquire()
elseif verb == "release" then
    lock:release()
elseif verb == "recover" then
    local held <close> = lock:recover()
elseif verb == "add" then
    counter:add(2)
elseif verb == "create" then
    arena:mutex("subject")
elseif verb == "delete" then
    assert(arena:delete("subject"))
elseif verb == "allocate" then
    assert(arena:alloc_into(arena:root(1), 200))
elseif verb == "free" then
    assert(arena:free_from(arena:root(1)))
end
"""

ARENA_OPERATIONS = OPERATIONS | {"counter: add", "create", "delete", "heap: allocate", "heap: free"}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("language", ["python", "lua"])
def test_mutex_is_killed_at_every_state(language: str, tmp_path: Path) -> None:
    kill_at_every_state("crash_program", language, PYTHON if language == "python" else LUA, OPERATIONS, 50, tmp_path)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("language", ["python", "lua"])
def test_arena_is_killed_at_every_state(language: str, tmp_path: Path) -> None:
    source = ARENA_PYTHON if language == "python" else ARENA_LUA
    kill_at_every_state("crash_program_arena", language, source, ARENA_OPERATIONS, 30, tmp_path)


def kill_at_every_state(
    program: str, language: str, source: str, operations: set[str], least: int, tmp_path: Path
) -> None:
    script = tmp_path / "victim"
    script.write_text(source)
    # -S: without site-packages an interpreter starts in half the time, and it is started some 150 times.
    command = [sys.executable, "-S", script] if language == "python" else ["lua5.4", script]
    module = "_core." if language == "python" else "core.so"
    done = subprocess.run(
        [BUILD / "tests" / program, language, module, *command], capture_output=True, text=True, timeout=200
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(rf"^{language}: (.*?) +states +(\d+) +(\d+) +(\d+) +0$", done.stdout, re.MULTILINE)
    assert {name for name, *_ in rows} == operations
    for name, instructions, states, kills in rows:
        assert int(instructions) > least, name
        assert int(kills) > int(states) >= 4, name
