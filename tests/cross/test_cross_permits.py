# SPDX-License-Identifier: MIT
"""Permits between languages: all or none, and free again when their owner dies."""

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
            peer("plain", "x", "a", "permits", "object", parameter)
            peer("counter", "c", "a", "count")
        return writer, other

    return start


def kill(peer) -> None:
    os.kill(peer.pid, signal.SIGKILL)


def test_both_see_the_same(pair):
    first, second = pair("3")
    assert first("kind", "a", "object") == second("kind", "a", "object") == ["permits"]
    assert first("act", "x", "acquire", "2", "0") == ["1"]
    assert second("act", "x", "acquire", "2", "0.01") == ["0"]
    assert second("act", "x", "available", "-", "-") == ["1"]
    assert second("act", "x", "held", "-", "-") == ["0"]
    assert second("act", "x", "acquire", "-", "-") == ["1"]
    with pytest.raises(Refused):
        second("act", "x", "release", "2", "-")
    first("act", "x", "release", "2", "-")
    second("act", "x", "release", "1", "-")
    assert first("act", "x", "available", "-", "-") == ["3"]
    with pytest.raises(Refused):
        second("plain", "y", "a", "permits", "object", "2")


def test_each_waits_for_the_other(pair):
    first, second = pair("2")
    for peer, other in ((first, second), (second, first)):
        assert peer("act", "x", "acquire", "2", "-") == ["1"]
        other.send("act", "x", "acquire", "2", "-")
        assert not other.lines.answered(0.01)
        peer("act", "x", "release", "2", "-")
        assert other.answer() == ["1"]
        other("act", "x", "release", "2", "-")


def test_a_death_gives_back(pair):
    first, second = pair("2")
    first("act", "x", "acquire", "2", "-")
    second.send("act", "x", "acquire", "2", "-")
    assert not second.lines.answered(0.01)
    kill(first)
    assert second.answer() == ["1"]
    second("act", "x", "release", "2", "-")


def test_who_waits_for_many_gets_what_the_dead_had(pair):
    """Some from a release, some from a death."""
    first, second = pair("3")
    first("act", "x", "acquire", "3", "-")
    second.send("act", "x", "acquire", "2", "-")
    first("act", "x", "release", "1", "-")
    assert not second.lines.answered(0.01)
    kill(first)
    assert second.answer() == ["1"]
    assert second("act", "x", "available", "-", "-") == ["1"]
    assert second("act", "x", "held", "-", "-") == ["2"]
    second("act", "x", "release", "2", "-")
    assert second("check", "a") == []


def test_deleted_by_the_other(pair):
    first, second = pair("3")
    first("act", "x", "acquire", "1", "-")
    second.send("act", "x", "acquire", "3", "-")
    first("delete", "a", "object")
    with pytest.raises(Refused) as refused:
        second.answer()
    assert refused.value.code == "EDELETED"
    first("act", "x", "release", "1", "-")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("acquire", "4", "-"), "more than there are"),
        (("acquire", "0", "-"), "must be at least 1"),
        (("release", "0", "-"), "must be at least 1"),
        (("release", "2", "-"), "not held by this thread"),
        (("acquire", "3", "-"), "this thread would wait for itself"),
    ],
)
def test_refused(pair, words, text):
    for peer in pair("3"):
        peer("act", "x", "acquire", "1", "-")
        with pytest.raises(Refused, match=text):
            peer("act", "x", *words)
        assert peer("act", "x", "held", "-", "-") == ["1"]
