# SPDX-License-Identifier: MIT
"""Onces between languages."""

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


def running(pair, verb: str, seconds: str):
    """The first is running it, the second waits for that."""
    first, second = pair()
    first.send("act", "x", verb, "c", seconds)
    assert second("atleast", "c", "1", "30") == ["1"]
    second.send("act", "x", "run", "c", "-")
    return first, second


def test_the_other_waits(pair):
    first, second = running(pair, "stay", "0.1")
    assert (first.answer(), second.answer()) == (["1"], ["0"])
    assert first("count", "c", "load") == ["1"]


def test_the_other_runs_what_failed(pair):
    first, second = running(pair, "fail", "0.1")
    assert (first.answer(), second.answer()) == (["0"], ["1"])
    assert first("count", "c", "load") == ["2"]
    assert first("act", "x", "run", "c", "-") == ["0"]


def test_the_other_runs_where_the_runner_dies(pair):
    first, second = running(pair, "stay", "-")
    assert not second.lines.answered(0.01)
    kill(first)
    assert second.answer() == ["1"]
    assert second("count", "c", "load") == ["2"]
    assert second("act", "x", "done", "-", "-") == ["1"]
    assert second("check", "a") == []


def test_deleted_by_the_other(pair):
    first, second = pair()
    first("act", "x", "run", "c", "-")
    second("delete", "a", "object")
    with pytest.raises(Refused) as refused:
        first("act", "x", "run", "c", "-")
    assert refused.value.code == "EDELETED"
