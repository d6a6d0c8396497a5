# SPDX-License-Identifier: MIT
"""A segment of every kind, closed and unlinked after the test."""

from __future__ import annotations

import errno
import gc
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
def make(name: str, tmp_path: Path) -> Iterator[Callable[..., polyshm.Segment]]:
    """make(kind, size=SIZE, **options): a new segment."""
    made: list[polyshm.Segment] = []
    names: list[str] = []
    inherited: list[int] = []

    def address(kind: str) -> str:
        if kind == "posix":
            return f"posix:{name}-{len(made)}"
        if kind == "sysv":
            return f"sysv:{0x50000000 + os.getpid() * 16 + len(made):#x}"
        if kind == "ftok":
            path = tmp_path / f"ftok-{len(made)}"
            path.touch()
            return f"sysv:{path}#P"
        if kind == "private":
            return "sysv:private"
        if kind == "file":
            return f"file:{tmp_path}/file-{len(made)}"
        if kind == "fd":
            fd = os.memfd_create("polyshm-test")
            os.ftruncate(fd, SIZE)
            inherited.append(fd)
            return f"fd:{fd}"
        return f"{kind}:" + ("polyshm-test" if kind == "memfd" else "")

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
    for left in names:
        try:
            polyshm.unlink(left)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EIDRM, errno.EINVAL):
                raise
    made.clear()
    for fd in inherited:
        os.close(fd)
    gc.collect()


@pytest.fixture(params=KINDS)
def segment(request: pytest.FixtureRequest, make: Callable[..., polyshm.Segment]) -> polyshm.Segment:
    """One of each kind."""
    return make(request.param)


@pytest.fixture
def anon(make: Callable[..., polyshm.Segment]) -> polyshm.Segment:
    return make("anon")
