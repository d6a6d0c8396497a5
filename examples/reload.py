#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A configuration that many read and one reloads: a read-write lock.

    reload.py posix:/config             reads it for ever, and says when it has changed (reload.lua does the same)
    reload.py posix:/config 20 80       sets new limits, which belong together: low and high
    reload.py posix:/config --remove    removes the arena

Readers do not keep each other waiting. A reader may be killed at any time; where one is killed that is writing, the
next one takes the limits of before from the copy that it made. Whoever it is and wherever it dies, low and high
belong together.
"""

from __future__ import annotations

import argparse
import sys

import polyshm


class Config:
    def __init__(self, shared: polyshm.Arena) -> None:
        self.lock = shared.rwlock("config", repair=self.undo)
        self.limits = shared.counter("low"), shared.counter("high")
        self.before = shared.counter("low before"), shared.counter("high before")
        self.changing = shared.counter("changing")  # 1: the limits may be half changed, and the copy is whole
        self.version = shared.counter("version")

    def undo(self, died: polyshm.OwnerDied) -> None:
        """Whoever wrote died in the midst of it: back to what was there before.

        This may be killed as well, and the next one begins it again: so each step can be done twice.
        """
        print(f"process {died.pid} died writing", file=sys.stderr)
        if self.changing.load():
            for limit, before in zip(self.limits, self.before, strict=True):
                limit.store(before.load())
            self.changing.store(0)

    def read(self) -> tuple[int, int, int]:
        with self.lock.read:
            low, high = (limit.load() for limit in self.limits)
            return self.version.load(), low, high

    def write(self, low: int, high: int) -> None:
        with self.lock.write:
            for limit, before in zip(self.limits, self.before, strict=True):
                before.store(limit.load())
            self.changing.store(1)
            self.limits[0].store(low)
            self.limits[1].store(high)
            self.version.add(1)
            self.changing.store(0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Reads a shared configuration, or sets it.")
    parser.add_argument("address", help="of the arena")
    parser.add_argument("limits", type=int, nargs="*", metavar="LOW HIGH", help="new limits")
    parser.add_argument("--changes", type=int, default=-1, help="end after so many changes")
    parser.add_argument("--remove", action="store_true", help="remove the arena")
    arguments = parser.parse_args()
    with polyshm.Arena(arguments.address, create=True) as shared:
        config = Config(shared)
        if arguments.remove:
            shared.unlink()
        elif len(arguments.limits) == 2:
            config.write(*arguments.limits)
        elif arguments.limits:
            parser.error("low and high belong together")
        else:
            seen, left = 0, arguments.changes
            while left:
                config.version.wait(seen + 1)
                seen, low, high = config.read()
                print(f"python: version {seen}, from {low} to {high}", flush=True)
                left -= 1


if __name__ == "__main__":
    main()
