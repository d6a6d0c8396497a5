#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A pool of connections that workers of any language share: permits.

    pool.py posix:/pool                     a worker; start as many as you like, in Python or Lua (pool.lua)
    pool.py posix:/pool --connections 3     the first one says how many connections there are (2)

Each job takes one of the connections. Kill a worker in the midst of its job with `kill -9`: its connection is free
again at once, and the others go on. The worker that is last removes the arena with --remove.
"""

from __future__ import annotations

import argparse
import os
import time

import polyshm


def work(shared: polyshm.Arena, connections: int | None, jobs: int, seconds: float) -> None:
    pool = shared.permits("connections", connections)
    most, done = shared.counter("most"), shared.counter("done")
    for job in range(1, jobs + 1):
        with pool:
            busy = pool.total - pool.available()
            print(f"python, pid {os.getpid()}: job {job}, {busy} of {pool.total} connections in use", flush=True)
            most.max(busy)
            time.sleep(seconds)
        done.add(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="A worker that shares a pool of connections.")
    parser.add_argument("address", help="of the arena")
    parser.add_argument("--connections", type=int, help="of a new pool (2)")
    parser.add_argument("--jobs", type=int, default=5, help="of this worker (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.05, help="that a job takes (%(default)s)")
    parser.add_argument("--remove", action="store_true", help="remove the arena at the end")
    arguments = parser.parse_args()
    with polyshm.Arena(arguments.address, create=True) as shared:
        known = "connections" in shared
        work(shared, arguments.connections or (None if known else 2), arguments.jobs, arguments.seconds)
        if arguments.remove:
            print(f"most at a time: {shared.counter('most').load()}")
            shared.unlink()


if __name__ == "__main__":
    main()
