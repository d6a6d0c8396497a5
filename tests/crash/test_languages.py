# SPDX-License-Identifier: MIT
"""The mutex through Debian's Python and lua5.4, killed at every state of every verb: see crash_program.c and driver.h.

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


@pytest.mark.timeout(240)
@pytest.mark.parametrize("language", ["python", "lua"])
def test_mutex_is_killed_at_every_state(language: str, tmp_path: Path) -> None:
    script = tmp_path / "victim"
    script.write_text(PYTHON if language == "python" else LUA)
    # -S: without site-packages an interpreter starts in half the time, and it is started some 150 times.
    command = [sys.executable, "-S", script] if language == "python" else ["lua5.4", script]
    module = "_core." if language == "python" else "core.so"
    done = subprocess.run(
        [BUILD / "tests/crash_program", language, module, *command], capture_output=True, text=True, timeout=200
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(rf"^{language}: (.*?) +states +(\d+) +(\d+) +(\d+) +0$", done.stdout, re.MULTILINE)
    assert {name for name, *_ in rows} == OPERATIONS
    for name, instructions, states, kills in rows:
        assert int(instructions) > 50, name
        assert int(kills) > int(states) >= 5, name
