#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What is expensive is made once, by whoever needs it first: once.

    lazy.py posix:/squares 12     what is 12 squared? The first process to ask makes the table, in Python or Lua

Who comes meanwhile waits for it. Kill the one that makes it with `kill -9`: the next one makes it.
"""

from __future__ import annotations

import argparse
import struct
import time

import polyshm

SIZE = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="Looks up squares in a shared table.")
    parser.add_argument("address", help="of the arena")
    parser.add_argument("number", type=int, help=f"below {SIZE}")
    parser.add_argument("--seconds", type=float, default=0.2, help="that making the table takes (%(default)s)")
    parser.add_argument("--remove", action="store_true", help="remove the arena at the end")
    arguments = parser.parse_args()
    if arguments.number not in range(SIZE):
        parser.error(f"there are squares of 0 to {SIZE - 1}")
    with polyshm.Arena(arguments.address, create=True) as shared:
        root = shared.root(0)

        def make() -> None:
            print("python: making the table", flush=True)
            time.sleep(arguments.seconds)
            if struct.unpack("=Q", shared.read(root, 8))[0]:
                shared.free_from(root)  # of one who died making it
            shared.alloc_into(root, 8 * SIZE)
            (place,) = struct.unpack("=Q", shared.read(root, 8))
            shared.write(place, struct.pack(f"={SIZE}q", *(n * n for n in range(SIZE))))

        shared.once("table").run(make)
        (place,) = struct.unpack("=Q", shared.read(root, 8))
        (square,) = struct.unpack("=q", shared.read(place + 8 * arguments.number, 8))
        print(square)
        if arguments.remove:
            shared.unlink()


if __name__ == "__main__":
    main()
