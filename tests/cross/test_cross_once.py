# SPDX-License-Identifier: MIT
"""Onces between languages."""

from __future__ import annotations

import os
import signal

import pytest


@pytest.fixture
def pair(hall, writer, reader):
    """Two partners with a new object "x" of the kind, and a counter "c"."""

    def start(parameter: str = "-", kind: str = "posix"):
        other = hall(kind, writer, reader).reader
        for peer in (writer, other):
            peer("plain", "x", "a", "once", "object", parameter)
            peer("counter", "c", "a", "count")
        return writer, other

    return start


def kill(peer) -> None:
    os.kill(peer.pid, signal.SIGKILL)


def test_one_of_them_runs(pair):
    first, second = pair()
    assert first("kind", "a", "object") == second("kind", "a", "object") == ["once"]
    assert second("act", "x", "done", "-", "-") == ["0"]
    assert first("act", "x", "run", "c", "-") == ["1"]
    assert second("act", "x", "run", "c", "-") == ["0"]
    assert second("act", "x", "done", "-", "-") == ["1"]
    assert second("count", "c", "load") == ["1"]


def test_both_at_once(pair):
    first, second = pair()
    first.send("act", "x", "run", "c", "-")
    assert sorted([*second("act", "x", "run", "c", "-"), *first.answer()]) == ["0", "1"]
    assert first("count", "c", "load") == ["1"]


def test_what_the_dead_made_stays(pair):
    first, second = pair()
    first("act", "x", "run", "c", "-")
    kill(first)
    assert second("act", "x", "run", "c", "-") == ["0"]
