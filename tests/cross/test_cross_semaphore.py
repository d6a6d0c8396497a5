# SPDX-License-Identifier: MIT
"""Semaphores between languages."""

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
            peer("plain", "x", "a", "semaphore", "object", parameter)
            peer("counter", "c", "a", "count")
        return writer, other

    return start


def kill(peer) -> None:
    os.kill(peer.pid, signal.SIGKILL)


def test_both_see_the_same(pair):
    first, second = pair("2")
    assert first("kind", "a", "object") == second("kind", "a", "object") == ["semaphore"]
    assert first("act", "x", "acquire", "-", "0") == ["1"]
    assert second("act", "x", "acquire", "-", "0") == ["1"]
    assert first("act", "x", "acquire", "-", "0.01") == ["0"]
    assert second("act", "x", "value", "-", "-") == ["0"]
    second("act", "x", "release", "3", "-")
    assert first("act", "x", "value", "-", "-") == ["3"]
    with pytest.raises(Refused):
        second("plain", "y", "a", "semaphore", "object", "3")


def test_each_waits_for_the_other(pair):
    first, second = pair("0")
    for peer, other in ((first, second), (second, first)):
        peer.send("act", "x", "acquire", "-", "-")
        assert not peer.lines.answered(0.01)
        other("act", "x", "release", "-", "-")
        assert peer.answer() == ["1"]


def test_a_death_keeps_what_it_took(pair):
    first, second = pair("1")
    first("act", "x", "acquire", "-", "0")
    kill(first)
    assert second("act", "x", "acquire", "-", "0.05") == ["0"]
