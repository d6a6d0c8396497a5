# SPDX-License-Identifier: MIT
"""A file cut short under its mapping: errors from every method, zeros in views, and no signal that kills."""

from __future__ import annotations

import errno
import os
import subprocess

import polyshm
import pytest

SIZE = 1 << 16


@pytest.fixture
def parts(tmp_path):
    path = tmp_path / "cut"
    path.write_bytes(b"x" * SIZE)
    segment = polyshm.Segment(f"file:{path}")
    segment.fill(ord("x"))
    lock, word = segment.mutex(4096, create=True), segment.atomic("u32", 0)
    view = segment.view("u8")
    yield segment, lock, word, view, lambda: subprocess.run(["truncate", "-s", "0", str(path)], check=True)
    view.release()
    segment.close()


USES = {
    "read": lambda s, m, w: s.read(),
    "read one": lambda s, m, w: s.read(9000, 1),
    "large read": lambda s, m, w: s.read(0, SIZE),
    "read_into": lambda s, m, w: s.read_into(bytearray(100), 8192),
    "write": lambda s, m, w: s.write(0, b"y"),
    "fill": lambda s, m, w: s.fill(),
    "copy": lambda s, m, w: s.copy(0, 100, 100),
    "find": lambda s, m, w: s.find(b"zz"),
    "index": lambda s, m, w: s[10_000],
    "index assigned": lambda s, m, w: s.__setitem__(10_000, 1),
    "slice": lambda s, m, w: s[10_000:10_010],
    "slice with steps": lambda s, m, w: s[::100],
    "slice assigned": lambda s, m, w: s.__setitem__(slice(0, 3), b"abc"),
    "slice with steps assigned": lambda s, m, w: s.__setitem__(slice(0, 6, 2), b"abc"),
    "iteration": lambda s, m, w: list(s),
    "load": lambda s, m, w: w.load(),
    "store": lambda s, m, w: w.store(1),
    "add": lambda s, m, w: w.add(1),
    "compare_exchange": lambda s, m, w: w.compare_exchange(1, 2),
    "wait": lambda s, m, w: w.wait(0, 5),
    "acquire": lambda s, m, w: m.acquire(),
    "with": lambda s, m, w: m.__enter__(),
    "locked": lambda s, m, w: m.locked(),
    "owner": lambda s, m, w: m.owner(),
    "recover": lambda s, m, w: m.recover(1).__enter__(),
    "mutex": lambda s, m, w: s.mutex(8192, create=True),
}


@pytest.mark.parametrize("what", USES)
def test_every_access_raises(parts, what):
    segment, lock, word, _, cut = parts
    cut()
    with pytest.raises(polyshm.Lost, match="memory under the mapping is gone") as caught:
        USES[what](segment, lock, word)
    assert isinstance(caught.value, polyshm.Error)
    assert caught.value.errno == errno.EFAULT
    assert caught.value.filename == segment.address
    assert segment.lost is True
    assert " lost" in repr(segment)
    for again in USES.values():
        with pytest.raises(polyshm.Lost):
            again(segment, lock, word)


def test_views_read_zeros(parts):
    segment, _, _, view, cut = parts
    assert view[0] == ord("x")
    cut()
    assert segment.lost is False
    assert view[20_000] == 0
    assert segment.lost is True
    assert bytes(view[20_000:20_010]) == bytes(10)
    view[20_001] = 1


def test_numpy_reads_zeros(parts):
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    segment, _, _, view, cut = parts
    array = numpy.frombuffer(view, "u1")
    assert (array[8192:] == ord("x")).all()
    cut()
    assert array.sum() == 0
    assert segment.lost
    del array


def test_held_lock_is_released_into_nothing(python, tmp_path):
    path = tmp_path / "cut"
    code = """
import polyshm, os, sys
segment = polyshm.Segment("file:" + sys.argv[1], size=8192, create=True)
lock = segment.mutex(0, create=True)
try:
    with lock:
        os.truncate(sys.argv[1], 0)
except polyshm.Lost as error:
    print("lost", segment.lost)
try:
    with polyshm.Segment("file:" + sys.argv[1] + "2", size=8192, create=True).mutex(0, create=True) as held:
        os.truncate(sys.argv[1] + "2", 0)
        1 / 0
except ZeroDivisionError:
    print("the body's own exception")
"""
    assert python(code, path).stdout == "lost True\nthe body's own exception\n"


def test_rights_do_not_help(tmp_path):
    path = tmp_path / "cut"
    path.write_bytes(b"x" * SIZE)
    for access in ("r", "copy"):
        with polyshm.Segment(f"file:{path}", access=access) as segment:
            os.truncate(path, 0)
            with pytest.raises(polyshm.Lost):
                segment.read()
        os.truncate(path, SIZE)


def test_what_is_left_is_still_read(tmp_path):
    path = tmp_path / "cut"
    path.write_bytes(b"x" * SIZE)
    with polyshm.Segment(f"file:{path}") as segment:
        os.truncate(path, 4096)
        assert segment.read(0, 4096) == b"x" * 4096
        assert segment.lost is False
        with pytest.raises(polyshm.Lost):
            segment.read(4096, 1)


def test_posix_and_memfd(make):
    for kind in ("posix", "fd"):
        segment = make(kind)
        os.ftruncate(segment.fd, 0)
        with pytest.raises(polyshm.Lost):
            segment.write(0, b"1")


def test_a_fault_elsewhere_still_kills(python, tmp_path):
    """The handler looks after our mappings alone."""
    code = """
import mmap, os, sys, polyshm
segment = polyshm.Segment("anon:", size=4096)
with open(sys.argv[1], "w+b") as file:
    file.truncate(8192)
    foreign = mmap.mmap(file.fileno(), 8192)
    file.truncate(0)
    foreign[4096]
"""
    done = python(code, tmp_path / "foreign", check=False)
    assert done.returncode == -7


def test_switched_off(python, tmp_path):
    code = """
import os, sys, polyshm
segment = polyshm.Segment("file:" + sys.argv[1], size=8192, create=True)
os.truncate(sys.argv[1], 0)
segment.read()
"""
    environment = {**os.environ, "POLYSHM_SIGBUS": "off"}
    assert python(code, tmp_path / "off", check=False, env=environment).returncode == -7


def test_faulthandler_stays(python, tmp_path):
    """Python's own handler, installed before or after, and ours."""
    for order in ("import faulthandler; faulthandler.enable(); import polyshm", "import polyshm"):
        code = f"""
import os, sys
{order}
segment = polyshm.Segment("file:" + sys.argv[1], size=8192, create=True)
os.truncate(sys.argv[1], 0)
try:
    segment.read()
except polyshm.Lost:
    print("lost")
"""
        assert python(code, tmp_path / f"handler{len(order)}").stdout == "lost\n"
