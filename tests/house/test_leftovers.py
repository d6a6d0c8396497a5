# SPDX-License-Identifier: MIT
"""The check that no test leaves anything behind finds what it is there to find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT

DIRT = {
    "name": ("open('/dev/shm/{unique}', 'w').close()", "/dev/shm/{unique}"),
    "sysv": ("import ctypes; print(ctypes.CDLL(None).shmget(0, 4096, 0o1600))", "sysv:id="),
    "child": ("import subprocess as s; s.Popen(['sleep', '50']).returncode = 0", "sleep 50"),
    "daemon": ("import subprocess as s; s.run('sleep 51 & exec true', shell=True)", "sleep 51"),
    "fd": ("import os; os.memfd_create('{unique}')", "/memfd:{unique}"),
    "mapping": ("import mmap, builtins; builtins.kept = mmap.mmap(-1, 4096)", "/dev/zero"),
}


def run_pytest(file: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "-p", "conftest"]
    return subprocess.run(
        [*line, f"--rootdir={file.parent}", str(file)], cwd=ROOT / "tests", capture_output=True, text=True, timeout=50
    )


@pytest.mark.parametrize("dirt", DIRT)
def test_pytest_fails_a_test_that_leaves_a(dirt: str, name: str, tmp_path: Path) -> None:
    code, message = (part.replace("{unique}", name[1:]) for part in DIRT[dirt])
    (tmp_path / "test_dirt.py").write_text(f"def test_dirt():\n    {code}\n")
    done = run_pytest(tmp_path / "test_dirt.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 passed, 1 error" in done.stdout
    assert message in done.stdout


@pytest.mark.parametrize("dirt", ["name", "sysv", "child", "daemon"])
def test_a_command_fails_that_leaves_a(dirt: str, name: str) -> None:
    code, message = (part.replace("{unique}", name[1:]) for part in DIRT[dirt])
    watched = [sys.executable, str(ROOT / "tests/leftovers.py")]
    done = subprocess.run([*watched, sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1
    assert message in done.stderr
    clean = subprocess.run([*watched, sys.executable, "-c", "pass"], capture_output=True, text=True, timeout=50)
    assert (clean.returncode, clean.stderr) == (0, "")


# It ends with much to give back: for a while it has no memory any more and is no zombie yet.
ENDING = """
import os

def test_ending():
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        os.posix_fallocate(os.memfd_create("much"), 0, 1 << 29)
        os.write(told, b"x")
        os._exit(0)
    os.read(ready, 1)
    os.close(ready), os.close(told)
    while True:
        with open(f"/proc/{pid}/cmdline") as line:
            if not line.read():
                break
"""


def test_who_is_ending_is_not_left_behind(tmp_path: Path) -> None:
    (tmp_path / "test_ending.py").write_text(ENDING)
    done = run_pytest(tmp_path / "test_ending.py")
    assert done.returncode == 0, done.stdout + done.stderr
