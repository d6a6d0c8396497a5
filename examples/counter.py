#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Two processes take turns and add to one counter.

    counter.py                         MAP_ANONYMOUS memory, shared with a forked child; the same: counter.py anon:
    counter.py zero:                   /dev/zero instead
    counter.py posix:/counter          with whoever runs the same, in another terminal, in Python or Lua
    counter.py sysv:0x1234             the same by a System V key; file:PATH works too
    counter.py memfd:counter           with a child that inherits the descriptor; --partner lua makes it a Lua one

Who comes first creates, which `created` tells, and is player 0; counter.lua is the other half in Lua.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import polyshm

# The segment: all zeros in the beginning.
SIZE = 64
STEPS = 0  # u32: how many there will be, written by the creator; 0 until then
SEATS = 4  # u32: 1 once the second player has sat down
TURN = 8  # u32: steps that are done; even: player 0 is next
COUNTER = 16  # i64

EXAMPLES = Path(__file__).resolve().parent
LUA = os.environ.get("LUA", "lua5.4")
PARTNERS = {"python": [sys.executable, str(EXAMPLES / "counter.py")], "lua": [LUA, str(EXAMPLES / "counter.lua")]}


def say(text: str) -> None:
    """A line in one piece: the other player may write to the same place."""
    sys.stdout.write(f"python, pid {os.getpid()}: {text}\n")
    sys.stdout.flush()


def play(segment: polyshm.Segment, player: int, timeout: float) -> None:
    """Adds whenever it is this player's turn, until all steps are done."""
    steps, turn = segment.atomic("u32", STEPS).load(), segment.atomic("u32", TURN)
    counter = segment.atomic("i64", COUNTER)
    while (now := turn.load()) < steps:
        if now % 2 == player:
            before = counter.add(1)
            say(f"step {now + 1} of {steps}, {before} + 1 = {before + 1}")
            turn.store(now + 1)
            turn.notify()
        elif not turn.wait(now, timeout):
            sys.exit(f"{segment.address}: the other player is gone, or never came")
    total = counter.load()
    say(f"total {total}")
    if total != steps:
        sys.exit(f"{segment.address}: the total should be {steps}")


def sit_down(segment: polyshm.Segment, steps: int, timeout: float) -> int:
    """The creator is player 0 and says how many steps there are; the next one is player 1."""
    if segment.created:
        segment.atomic("u32", STEPS).store(steps)
        segment.atomic("u32", STEPS).notify(2)
        return 0
    if not segment.atomic("u32", STEPS).wait(0, timeout):
        sys.exit(f"{segment.address}: its creator is gone")
    if segment.atomic("u32", SEATS).exchange(1) != 0:
        sys.exit(f"{segment.address}: two are playing already")
    return 1


def with_fork(segment: polyshm.Segment, steps: int, timeout: float) -> int:
    sit_down(segment, steps, timeout)
    child = os.fork()
    if child == 0:
        play(segment, 1, timeout)
        return 0
    play(segment, 0, timeout)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def with_child(segment: polyshm.Segment, steps: int, timeout: float, partner: str) -> int:
    sit_down(segment, steps, timeout)
    # The descriptor was opened with inherit=True: the child finds it under its number.
    child = subprocess.Popen([*PARTNERS[partner], f"fd:{segment.fd}"], close_fds=False)
    play(segment, 0, timeout)
    return child.wait()


def with_anybody(segment: polyshm.Segment, steps: int, timeout: float) -> int:
    try:
        play(segment, sit_down(segment, steps, timeout), timeout)
    finally:
        if segment.created:
            segment.unlink()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Two processes take turns and add to one counter.")
    parser.add_argument("address", nargs="?", default="anon:", help="of the segment (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="of both players together (%(default)s)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds to wait for the other (%(default)s)")
    parser.add_argument("--partner", choices=PARTNERS, default="python", help="language of the child of memfd:")
    arguments = parser.parse_args()

    kind = arguments.address.partition(":")[0]
    try:
        if kind == "fd":
            segment = polyshm.Segment(arguments.address)
        else:
            segment = polyshm.Segment(arguments.address, size=SIZE, create=True, inherit=kind == "memfd")
    except (OSError, ValueError) as error:
        sys.exit(f"counter: {error}")
    with segment:
        if kind in ("anon", "zero"):
            return with_fork(segment, arguments.steps, arguments.timeout)
        if kind == "memfd":
            return with_child(segment, arguments.steps, arguments.timeout, arguments.partner)
        return with_anybody(segment, arguments.steps, arguments.timeout)


if __name__ == "__main__":
    sys.exit(main())
