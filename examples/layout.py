#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Where in this process's memory text, heap, stack and each kind of segment lie, sorted by address.

The classic C program prints the addresses of an array, a local variable, malloc's memory and a shared segment; this one
asks /proc/self/maps too, for the rights and what is behind each of them.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from typing import NamedTuple

import polyshm

SIZE = 1 << 20
OBJECT = object()
LARGE = bytearray(SIZE)


class Mapping(NamedTuple):
    start: int
    end: int
    rights: str
    path: str


def mappings() -> list[Mapping]:
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            where, rights, _, _, _, *path = line.rstrip("\n").split(None, 5)
            start, end = (int(part, 16) for part in where.split("-"))
            found.append(Mapping(start, end, rights, path[0] if path else ""))
    return found


def address_of(buffer: object) -> int:
    """The address of writable memory. The exporter may go on with its life afterwards."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def function_address(name: str) -> int:
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value or 0


def places(folder: str) -> tuple[list[tuple[str, int]], list[polyshm.Segment]]:
    """What lies where, and the segments that must stay open meanwhile."""
    addresses = [
        f"file:{folder}/file",
        f"posix:/layout-{os.getpid()}",
        "sysv:private",
        "anon:",
        "zero:",
        "memfd:layout",
    ]
    segments = [polyshm.Segment(address, size=SIZE, create=True) for address in addresses]
    segments.append(polyshm.Segment(f"fd:{segments[-1].fd}"))
    for segment in segments:
        segment.unlink()  # what is mapped stays

    found = [
        ("text: PyLong_FromLong", function_address("PyLong_FromLong")),
        ("data: PyLong_Type", ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "PyLong_Type"))),
        ("an object", id(OBJECT)),
        ("a large bytearray", address_of(LARGE)),
    ]
    found += [(m.path[1:-1], m.start) for m in mappings() if m.path in ("[heap]", "[stack]")]
    found += [(segment.address, address_of(segment)) for segment in segments]
    return found, segments


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        found, segments = places(folder)
        maps = mappings()
        print(f"{'what':24} {'address':>14} {'mapping':>27} {'KiB':>7}  rights  behind it")
        for what, address in sorted(found, key=lambda item: item[1]):
            at = next((m for m in maps if m.start <= address < m.end), Mapping(address, address, "----", "(gone)"))
            label = what if len(what) <= 24 else what[:23] + "…"
            where = f"{at.start:x}-{at.end:x}"
            print(f"{label:24} {address:14x} {where:>27} {(at.end - at.start) >> 10:7}  {at.rights}    {at.path}")
        for segment in segments:
            segment.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
