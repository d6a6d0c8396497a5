# SPDX-License-Identifier: MIT
"""tools/each: no failure is lost, whatever runs beside it, and targets do not see each other's shared memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT


def each(where: Path, jobs: int, script: str, *targets: str) -> subprocess.CompletedProcess[str]:
    """The script, in sh, for each target as $0."""
    line = [
        sys.executable,
        str(ROOT / "tools/each"),
        f"-j{jobs}",
        f"--logs={where}",
        "sh",
        "-c",
        script,
        "--",
        *targets,
    ]
    return subprocess.run(line, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failure_is_named_and_the_others_run(jobs: int, tmp_path: Path) -> None:
    done = each(tmp_path, jobs, 'echo "hello $0"; echo loud >&2; test $0 != run-b', "run-a", "run-b", "run-c")
    assert done.returncode == 1
    assert done.stderr.split() == ["failed:", "b"]
    for letter in "abc":
        assert f"hello run-{letter}\nloud\n" in done.stdout
        assert (tmp_path / f"{letter}.log").read_text() == f"hello run-{letter}\nloud\n"
    assert each(tmp_path, jobs, "true", "a", "b").returncode == 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_reaches_a_target(jobs: int, tmp_path: Path) -> None:
    done = each(tmp_path, jobs, "grep SigIgn /proc/self/status", "a", "b")
    ignored = [int(line.split()[1], 16) for line in done.stdout.splitlines() if line.startswith("SigIgn")]
    assert [mask & 2 for mask in ignored] == [0, 0]


def test_targets_do_not_see_each_other(name: str, tmp_path: Path) -> None:
    # The second begins when the first has made its things, if they run side by side; and after it if not.
    script = f"""
        if [ $0 = a ]; then
            touch /dev/shm{name}; ipcmk -M 4096 >/dev/null; touch {tmp_path}/made
            i=0; while [ ! -e {tmp_path}/seen ] && [ $i -lt 200 ]; do sleep 0.05; i=$((i + 1)); done
        else
            while [ ! -e {tmp_path}/made ]; do sleep 0.05; done
            ls /dev/shm; wc -l </proc/sysvipc/shm; touch {tmp_path}/seen
        fi"""
    if subprocess.run(["unshare", "--mount", "--ipc", "true"], capture_output=True).returncode:
        pytest.skip("no namespaces to be had")
    done = each(tmp_path, 2, script, "a", "b")
    assert (tmp_path / "b.log").read_text() == "1\n", done.stdout
    assert not os.path.exists(f"/dev/shm{name}")
