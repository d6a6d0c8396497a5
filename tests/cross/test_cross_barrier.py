# SPDX-License-Identifier: MIT
"""Barriers between languages, and the death of a member."""

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
            peer("plain", "x", "a", "barrier", "object", parameter)
            peer("counter", "c", "a", "count")
        return writer, other

    return start


def kill(peer) -> None:
    os.kill(peer.pid, signal.SIGKILL)


def test_both_pass(pair):
    first, second = pair("2")
    assert first("kind", "a", "object") == second("kind", "a", "object") == ["barrier"]
    for peer, other in ((first, second), (second, first)) * 3:
        peer.send("act", "x", "wait", "-", "-")
        assert not peer.lines.answered(0.01)
        assert other("act", "x", "n_waiting", "-", "-") == ["1"]
        assert other("act", "x", "wait", "-", "-") == ["1"]
        assert peer.answer() == ["0"]
    with pytest.raises(Refused):
        second("plain", "y", "a", "barrier", "object", "3")


def test_broken_and_reset(pair):
    first, second = pair("2")
    for verb in ("abort", "reset"):
        first.send("act", "x", "wait", "-", "-")
        assert not first.lines.answered(0.01)
        second("act", "x", verb, "-", "-")
        assert first.answer() == ["broken"]
        assert first("act", "x", "broken", "-", "-") == ["1" if verb == "abort" else "0"]
        second("act", "x", "reset", "-", "-")
    assert second("act", "x", "wait", "-", "0.01") == ["broken"]
    assert first("act", "x", "wait", "-", "-") == ["broken"]


@pytest.mark.parametrize("parameter", ["2", "2s"])
def test_a_death(parameter, pair):
    first, second = pair(parameter)
    first.send("act", "x", "wait", "-", "-")
    second("act", "x", "wait", "-", "-")
    first.answer()
    second.send("act", "x", "wait", "-", "-")
    assert not second.lines.answered(0.01)
    kill(first)
    assert second.answer() == (["broken"] if parameter == "2" else ["0"])


def test_leaving(pair):
    first, second = pair("1")
    assert first("act", "x", "wait", "-", "-") == ["0"]
    with pytest.raises(Refused):
        second("act", "x", "wait", "-", "-")
    first("act", "x", "leave", "-", "-")
    assert second("act", "x", "wait", "-", "-") == ["0"]
