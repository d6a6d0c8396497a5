# SPDX-License-Identifier: MIT
"""Workers in three languages on one arena, killed at random: see soak_mixed.py. `make soak` does so for long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(150)
def test_soak_of_three_languages() -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("soak_mixed.py"), "8"], capture_output=True, text=True, timeout=120
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
