# SPDX-License-Identifier: MIT
"""Two partners of each language that serve all tests of the run, and new ones for tests that kill them.

`writer` and `reader` are two processes also where their language is the same. A test that takes both
runs for every pair.
"""

from __future__ import annotations

import contextlib
import gc
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import leftovers
import polyshm
import pytest
from partners import LANGUAGES, PAIRS, Peer
from places import SYSV, Hall, Place, free_key

_crew: dict[tuple[str, int], Peer] = {}
_used: set[Peer] = set()


def _member(language: str, number: int) -> Peer:
    peer = _crew[language, number]
    _used.add(peer)
    return peer


def pytest_collection_finish() -> None:
    # What pytest itself keeps need not be searched after each of a thousand short tests.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    # Before any fixture, so that no test finds a new process that is not its own.
    for language in LANGUAGES:
        for number in (0, 1):
            if (language, number) not in _crew:
                _crew[language, number] = Peer.start(language)


def pytest_sessionfinish() -> None:
    while _crew:
        _crew.popitem()[1].stop()


@pytest.fixture(autouse=True)
def _fresh_crew() -> Iterator[None]:
    """Each test finds partners without objects; one that hangs, or ended, is replaced before the next test."""
    _used.clear()
    yield
    for place, peer in list(_crew.items()):
        if peer not in _used:
            continue
        try:
            if peer.waiting:
                raise TimeoutError
            peer("reset")
        except (OSError, EOFError, TimeoutError):
            del _crew[place]
            peer.waiting += 1
            peer.stop()


@pytest.fixture
def writer(request: pytest.FixtureRequest) -> Peer:
    return _member(request.param, 0)


@pytest.fixture
def reader(request: pytest.FixtureRequest) -> Peer:
    return _member(request.param, 1)


@pytest.fixture
def crew() -> dict[str, Peer]:
    """One partner of each language."""
    return {language: _member(language, 0) for language in LANGUAGES}


@pytest.fixture
def hire() -> Iterator[Callable[..., Peer]]:
    """hire("lua"): a partner of this test alone, which may be killed."""
    hired: list[Peer] = []

    def start(language: str, **options) -> Peer:
        hired.append(Peer.start(language, **options))
        return hired[-1]

    yield start
    for peer in hired:
        peer.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that a segment can be made of: 20000 bytes that are not zero."""
    file = tmp_path / "segment"
    file.write_bytes(bytes(range(1, 251)) * 80)
    return file


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"writer", "reader"} <= set(metafunc.fixturenames):
        ids = [f"{writer}-{reader}" for writer, reader in PAIRS]
        metafunc.parametrize(("writer", "reader"), PAIRS, indirect=True, ids=ids)
    elif "writer" in metafunc.fixturenames:
        metafunc.parametrize("writer", LANGUAGES, indirect=True)


@pytest.fixture
def share(name: str, path: Path, tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """share(kind, writer, reader, size=8192): `writer` makes a segment of that kind and both open it as "s". A memfd
    is inherited: its reader is a new process that the writer starts."""
    undo: list[Callable[[], object]] = []

    def start(kind: str, writer: Peer, reader: Peer, size: int = 8192, *options: str) -> Place:
        addresses = {
            "posix": f"posix:{name}",
            "sysv": f"sysv:{free_key():#x}",
            "ftok": f"sysv:{path}#A",
            "id": "sysv:private",
            "file": f"file:{path}",
            "memfd": "memfd:polyshm-test",
        }
        place = Place(kind, addresses[kind], [])
        if kind == "file":
            # Neither the offset nor the end is at a page.
            place.options = ["offset=1237", f"size={size}"]
            place.made = writer("open", "s", place.address, *place.options, *options)
        else:
            inherit = ["inherit=1"] if kind == "memfd" else []
            place.made = writer("open", "s", place.address, f"size={size}", "create=1", *inherit, *options)
        if kind in SYSV:
            number = writer.stat("segstat", "s")["id"]
            undo.append(lambda: subprocess.run(["ipcrm", "-m", number], check=False, capture_output=True))
            if kind == "id":
                place.address = f"sysv:id={number}"
        elif kind == "posix":
            undo.append(lambda: Path(f"/dev/shm{name}").unlink(missing_ok=True))
        elif kind == "memfd":
            place.address = f"fd:{place.made[4]}"
            reader = writer.launch(tmp_path, reader.language)
            undo.append(lambda: writer.reap(reader))
        place.reader = reader
        place.joined = place.join(reader)
        return place

    yield start
    for step in undo:
        step()


@pytest.fixture
def hall(name: str, tmp_path: Path) -> Iterator[Callable[..., Hall]]:
    """hall(kind, writer, reader, *options): `writer` makes an arena of that kind and both open it as "a". A memfd is
    inherited: its reader is a new process that the writer starts."""
    undo: list[Callable[[], object]] = []

    def start(kind: str, writer: Peer, reader: Peer, *options: str) -> Hall:
        (tmp_path / "ftok").touch()
        addresses = {
            "posix": f"posix:{name}",
            "sysv": f"sysv:{free_key():#x}",
            "ftok": f"sysv:{tmp_path}/ftok#A",
            "id": "sysv:private",
            "file": f"file:{tmp_path}/arena",
        }
        if not any(option.startswith("size=") for option in options):
            options = ("size=1048576", *options)
        if kind == "memfd":
            fd = writer("open", "memory", "memfd:polyshm-test", options[0], "create=1", "inherit=1")[4]
            place = Hall(kind, f"fd:{fd}")
        else:
            place = Hall(kind, addresses[kind])
        before = {row[1] for row in leftovers.sysv_rows()}
        place.made = writer("arena", "a", place.address, "create=1", *options)
        if kind == "id":
            (number,) = {row[1] for row in leftovers.sysv_rows() if int(row[4]) == writer.pid} - before
            place.address = f"sysv:id={number}"
        if kind in SYSV:
            undo.append(lambda: remove_quietly(place.address))
        elif kind == "posix":
            undo.append(lambda: Path(f"/dev/shm{name}").unlink(missing_ok=True))
        elif kind == "memfd":
            reader = writer.launch(tmp_path, reader.language)
            undo.append(lambda: writer.reap(reader))
        place.reader = reader
        place.joined = place.join(reader)
        return place

    yield start
    for step in undo:
        step()


def remove_quietly(address: str) -> None:
    with contextlib.suppress(OSError):
        polyshm.unlink(address)
