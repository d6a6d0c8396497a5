#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Workers in step: a barrier between the phases.

    phases.py posix:/phases 3     a worker of three, in Python; phases.lua is one in Lua. They wait for each other

In each phase a worker adds its part to a sum, and nobody begins the next one before all have. The barrier was made such
that it shrinks: a worker that is killed is not waited for any more. With --on-death break the others stop instead.
`python -m polyshm rm posix:/phases` removes the arena.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time

import polyshm


def main() -> None:
    parser = argparse.ArgumentParser(description="A worker that goes from phase to phase with the others.")
    parser.add_argument("address", help="of the arena")
    parser.add_argument("workers", type=int, help="how many there are")
    parser.add_argument("--phases", type=int, default=4, help="how many there are (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.05, help="that a phase takes (%(default)s)")
    parser.add_argument("--on-death", choices=["shrink", "break"], default="shrink", help="of a worker (%(default)s)")
    arguments = parser.parse_args()
    with polyshm.Arena(arguments.address, create=True) as shared:
        barrier = shared.barrier("phases", arguments.workers, on_death=arguments.on_death)
        total = shared.counter("total")
        try:
            barrier.wait()  # all are there
            for phase in range(1, arguments.phases + 1):
                time.sleep(arguments.seconds)
                total.add(1)
                if barrier.wait() == 0:  # one of them says so
                    print(f"python, pid {os.getpid()}: phase {phase}, total {total.load()}", flush=True)
            barrier.leave()
        except threading.BrokenBarrierError:
            sys.exit("a worker died")


if __name__ == "__main__":
    main()
