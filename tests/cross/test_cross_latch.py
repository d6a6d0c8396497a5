# SPDX-License-Identifier: MIT
"""Latches between languages."""

from __future__ import annotations

import os
import signal

import pytest
from partners import Refused


@pytest.fixture
def pair(hall, writer, reader):
    """Two partners with a new object "x" of the kind, and a counter "c"."""

    def start(parameter: str = "-", kind: str = "posix"):
        other = hall(kind, writer, reader).reader
        for peer in (writer, other):
            peer("plain", "x", "a", "latch", "object", parameter)
            peer("counter", "c", "a", "count")
        return writer, other

    return start


def kill(peer) -> None:
    os.kill(peer.pid, signal.SIGKILL)


def test_both_count(pair):
    first, second = pair("4")
    assert first("kind", "a", "object") == second("kind", "a", "object") == ["latch"]
    assert first("act", "x", "count_down", "-", "-") == ["3"]
    assert second("act", "x", "count_down", "2", "-") == ["1"]
    assert second("act", "x", "wait", "-", "0.01") == ["0"]
    first.send("act", "x", "wait", "-", "-")
    assert not first.lines.answered(0.01)
    assert second("act", "x", "count_down", "-", "-") == ["0"]
    assert first.answer() == ["1"]
    assert first("act", "x", "count", "-", "-") == ["0"]
    with pytest.raises(Refused):
        second("plain", "y", "a", "latch", "object", "3")


def test_what_the_dead_counted_stays(pair):
    first, second = pair("2")
    first("act", "x", "count_down", "-", "-")
    kill(first)
    assert second("act", "x", "count_down", "-", "-") == ["0"]
