# SPDX-License-Identifier: MIT
"""Events between languages, and those that clear themselves."""

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
            peer("plain", "x", "a", "event", "object", parameter)
            peer("counter", "c", "a", "count")
        return writer, other

    return start


def kill(peer) -> None:
    os.kill(peer.pid, signal.SIGKILL)


def test_both_see_the_same(pair):
    first, second = pair()
    assert first("kind", "a", "object") == second("kind", "a", "object") == ["event"]
    assert second("act", "x", "wait", "-", "0.01") == ["0"]
    first("act", "x", "set", "-", "-")
    assert second("act", "x", "is_set", "-", "-") == ["1"]
    assert second("act", "x", "wait", "-", "-") == ["1"]
    second("act", "x", "clear", "-", "-")
    assert first("act", "x", "is_set", "-", "-") == ["0"]
    with pytest.raises(Refused):
        second("plain", "y", "a", "event", "object", "auto")


def test_each_waits_for_the_other(pair):
    first, second = pair()
    for peer, other in ((first, second), (second, first)):
        peer.send("act", "x", "wait", "-", "-")
        assert not peer.lines.answered(0.01)
        other("act", "x", "set", "-", "-")
        assert peer.answer() == ["1"]
        other("act", "x", "clear", "-", "-")


def test_one_goes_each_time(pair):
    first, second = pair("auto")
    for peer, other in ((first, second), (second, first)):
        peer.send("act", "x", "wait", "-", "-")
        assert not peer.lines.answered(0.01)
        other("act", "x", "set", "-", "-")
        assert peer.answer() == ["1"]
        assert other("act", "x", "is_set", "-", "-") == ["0"]


def test_a_set_of_the_dead_stays(pair):
    first, second = pair()
    first("act", "x", "set", "-", "-")
    kill(first)
    assert second("act", "x", "wait", "-", "-") == ["1"]
