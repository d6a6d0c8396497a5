# SPDX-License-Identifier: MIT
"""Segments and arenas of every kind, closed and unlinked after the test."""

from __future__ import annotations

import errno
import gc
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import polyshm
import pytest

SIZE = 16384
KINDS = ("posix", "sysv", "ftok", "private", "file", "anon", "zero", "memfd", "fd")
# What another handle can open by its address.
NAMED = ("posix", "sysv", "ftok", "file")


@pytest.fixture
def address(name: str, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """address(kind): one that nobody else uses; "fd" is of a new memfd with SIZE bytes."""
    count = itertools.count()
    inherited: list[int] = []

    def new_address(kind: str) -> str:
        number = next(count)
        if kind == "posix":
            return f"posix:{name}-{number}"
        if kind == "sysv":
            return f"sysv:{0x50000000 + os.getpid() * 16 + number:#x}"
        if kind == "ftok":
            path = tmp_path / f"ftok-{number}"
            path.touch()
            return f"sysv:{path}#P"
        if kind == "private":
            return "sysv:private"
        if kind == "file":
            return f"file:{tmp_path}/file-{number}"
        if kind == "fd":
            fd = os.memfd_create("polyshm-test")
            os.ftruncate(fd, SIZE)
            inherited.append(fd)
            return f"fd:{fd}"
        return f"{kind}:" + ("polyshm-test" if kind == "memfd" else "")

    yield new_address
    for fd in inherited:
        os.close(fd)


def remove(addresses: list[str]) -> None:
    for address in addresses:
        try:
            polyshm.unlink(address)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EIDRM, errno.EINVAL):
                raise


@pytest.fixture
def make(address: Callable[[str], str]) -> Iterator[Callable[..., polyshm.Segment]]:
    """make(kind, size=SIZE, **options): a new segment."""
    made: list[polyshm.Segment] = []
    names: list[str] = []

    def make_one(kind: str, size: int | str | None = SIZE, **options) -> polyshm.Segment:
        if kind == "fd":
            size = None
        elif kind in NAMED:
            options.setdefault("create", True)
        segment = polyshm.Segment(address(kind), size=size, **options)
        made.append(segment)
        if segment.kind == "posix":
            names.append(segment.address)
        elif segment.kind == "sysv":
            names.append(f"sysv:id={segment.stat().id}")
        return segment

    yield make_one
    for segment in made:
        segment.close()
    remove(names)
    made.clear()
    gc.collect()


@pytest.fixture
def make_arena(address: Callable[[str], str]) -> Iterator[Callable[..., polyshm.Arena]]:
    """make_arena(kind="posix", size="1M", **options): a new arena."""
    made: list[polyshm.Arena] = []

    def make_one(kind: str = "posix", size: int | str | None = "1M", **options) -> polyshm.Arena:
        where = address(kind)
        if kind == "fd":
            os.ftruncate(int(where.partition(":")[2]), 1 << 20)
        arena = polyshm.Arena(where, size=size, **({"create": True} | options))
        made.append(arena)
        return arena

    yield make_one
    for arena in made:
        if arena.kind in ("posix", "sysv", "file"):
            try:
                if arena.closed:
                    remove([arena.address] if arena.address != "sysv:private" else [])
                else:
                    arena.unlink()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EIDRM, errno.EINVAL):
                    raise
        arena.close()
    made.clear()
    gc.collect()


@pytest.fixture
def arena(make_arena: Callable[..., polyshm.Arena]) -> polyshm.Arena:
    return make_arena()


@pytest.fixture(params=KINDS)
def segment(request: pytest.FixtureRequest, make: Callable[..., polyshm.Segment]) -> polyshm.Segment:
    """One of each kind."""
    return make(request.param)


@pytest.fixture
def anon(make: Callable[..., polyshm.Segment]) -> polyshm.Segment:
    return make("anon")
