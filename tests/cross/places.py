# SPDX-License-Identifier: MIT
"""The kinds of segment that two processes can share, and one such segment."""

from __future__ import annotations

import os

import leftovers
from partners import Peer

SYSV = ("sysv", "ftok", "id")
KINDS = ("posix", *SYSV, "file", "memfd")
NAMED = ("posix", *SYSV, "file")
RESIZABLE = ("posix", "file", "memfd")


class Place:
    """A segment "s" that two partners have open. `address` is what opens it, `reader` who shares it with `writer`."""

    def __init__(self, kind: str, address: str, options: list[str]) -> None:
        self.kind, self.address, self.options = kind, address, options
        self.reader: Peer | None = None
        self.made: list[str] = []
        self.joined: list[str] = []

    def join(self, peer: Peer, *options: str, name: str = "s") -> list[str]:
        return peer("open", name, self.address, *self.options, *options)


class Hall:
    """An arena "a" that two partners have open."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind, self.address = kind, address
        self.reader: Peer | None = None
        self.made: list[str] = []
        self.joined: list[str] = []

    def join(self, peer: Peer, *options: str, name: str = "a") -> list[str]:
        return peer("arena", name, self.address, *options)


def free_key() -> int:
    """A System V key that nobody uses."""
    used = {int(row[0]) & 0xFFFFFFFF for row in leftovers.sysv_rows()}
    while True:
        key = 0x50000000 | int.from_bytes(os.urandom(3), "big")
        if key not in used:
            return key
