# SPDX-License-Identifier: MIT
"""Descriptors for event loops between languages: one changes what the other polls for."""

from __future__ import annotations

import os
import signal

import pytest
from places import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_counter(kind, hall, writer, reader):
    reader = hall(kind, writer, reader).reader
    for peer in (writer, reader):
        peer("counter", "c", "a", "count")
    for value in (1, 2, 3):
        reader.send("polled", f"c:{value}")
        assert not reader.lines.answered(0.01)
        writer("count", "c", "add", 1)
        assert reader.answer() == []
    assert reader("polled", "c") == []


def test_a_lock(hall, writer, reader):
    hall("posix", writer, reader)
    for peer in (writer, reader):
        peer("amutex", "m", "a", "lock")
    writer("acquire", "m", "-")
    reader.send("polled", "m")
    assert not reader.lines.answered(0.01)
    writer("release", "m")
    assert reader.answer() == []


@pytest.mark.parametrize("what", ["m", "p"])
def test_a_death(what, hall, hire, writer, reader):
    victim = hire(writer.language)
    hall("posix", victim, reader)
    for peer in (victim, reader):
        peer("amutex", "m", "a", "lock")
    victim("acquire", "m", "-")
    reader("watch", "p", "a", victim.pid)
    reader.send("polled", what)
    assert not reader.lines.answered(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    assert reader.answer() == []
    assert reader("polled", "m") == []
