# SPDX-License-Identifier: MIT
"""numpy arrays on the same memory."""

from __future__ import annotations

import polyshm
import pytest

numpy = pytest.importorskip("numpy", reason="numpy is not installed")

TOKENS = {
    "i8": "i1",
    "u8": "u1",
    "i16": "i2",
    "u16": "u2",
    "i32": "i4",
    "u32": "u4",
    "i64": "i8",
    "u64": "u8",
    "f32": "f4",
    "f64": "f8",
}


@pytest.mark.parametrize("order", ["", "=", "<", ">"])
@pytest.mark.parametrize("token", TOKENS)
def test_types(anon, token, order):
    view = anon.view(order + token, 64, 5)
    array = numpy.asarray(view)
    expected = numpy.dtype((order or "=") + TOKENS[token])
    assert array.dtype == expected
    assert array.shape == (5,)
    array[:] = [1, 2, 3, 4, 5]
    assert anon.read(64, array.nbytes) == numpy.arange(1, 6, dtype=expected).tobytes()


def test_no_copy_in_either_direction(anon):
    array = numpy.frombuffer(anon, "f8")
    array[3] = 2.5
    assert anon.view("f64")[3] == 2.5
    anon.write(24, bytes(8))
    assert array[3] == 0


def test_at_an_odd_offset(anon):
    array = numpy.asarray(anon.view("f64", 3, 4))
    array += 1.5
    assert anon.view("f64", 3, 4).tolist() == [1.5] * 4
    assert not array.flags.aligned


def test_shapes(anon):
    array = numpy.asarray(anon.view("f32", 0, 12)).reshape(3, 4)
    array[1, 2] = 7
    assert anon.view("f32")[6] == 7


def test_outlives_close(anon):
    array = numpy.asarray(anon.view("u32", 0, 4))
    part = array[1:3]
    anon.close()
    del array
    part[0] = 9
    assert part.tolist() == [9, 0]


def test_read_only(make):
    segment = make("posix")
    with polyshm.Segment(segment.address, access="r") as other:
        array = numpy.asarray(other.view("u8"))
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        segment[0] = 1
        assert array[0] == 1
        del array


def test_blocks_what_would_pull_the_memory_away(make):
    segment = make("posix")
    array = numpy.frombuffer(segment, "u1")
    for change in (
        lambda: segment.resize(4096),
        lambda: segment.protect("r"),
        lambda: segment.protect("none"),
        lambda: segment.advise("remove"),
    ):
        with pytest.raises(BufferError, match="release them first"):
            change()
    del array
    segment.resize(4096)


def test_written_from_an_array(anon):
    array = numpy.arange(10, dtype="i4")
    anon.write(0, array)
    anon[100:140] = array
    assert anon.read(0, 40) == anon[100:140] == array.tobytes()
    into = numpy.zeros(10, "i4")
    anon.read_into(into)
    assert (into == array).all()
    assert anon.find(array[3:5]) == 12
    with pytest.raises((BufferError, ValueError)):
        anon.write(0, array[::2])


def test_numpy_integers_as_arguments(anon):
    anon.write(numpy.int64(4), b"abcd")
    assert anon[numpy.uint8(4)] == ord("a")
    assert anon.read(numpy.int32(4), numpy.uint16(2)) == b"ab"
    word = anon.atomic("u64", numpy.int64(64))
    word.store(numpy.uint64(2**64 - 1))
    assert word.add(numpy.int8(1)) == 2**64 - 1
    assert word.load() == 0
    with pytest.raises(TypeError):
        anon.read(numpy.float64(1))
