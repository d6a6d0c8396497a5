# SPDX-License-Identifier: MIT
"""A segment as a sequence and as a buffer, and properties against a bytearray that does the same."""

from __future__ import annotations

import itertools
import struct

import polyshm
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

LENGTH = 300

INTEGER_TYPES = {f"{order}{sign}{bits}" for order in ("", "=", "<", ">") for sign in "iu" for bits in (8, 16, 32, 64)}
LETTERS = {
    "i8": "b",
    "u8": "B",
    "i16": "h",
    "u16": "H",
    "i32": "i",
    "u32": "I",
    "i64": "q",
    "u64": "Q",
    "f32": "f",
    "f64": "d",
}


@pytest.fixture
def text(anon):
    anon.write(0, bytes(range(256)))
    return anon


class TestIndex:
    def test_read(self, text):
        assert text[0] == 0
        assert text[255] == 255
        assert text[-16384 + 7] == 7
        assert text[-1] == 0

    def test_write(self, text):
        text[3] = 200
        text[-1] = 1
        assert (text[3], text[16383]) == (200, 1)

    @pytest.mark.parametrize("index", [16384, -16385, 1 << 62, -(1 << 62), 1 << 64, -(1 << 64), 1 << 200])
    def test_out_of_range(self, text, index):
        with pytest.raises(IndexError):
            text[index]
        with pytest.raises(IndexError):
            text[index] = 1

    def test_message(self, text):
        with pytest.raises(IndexError, match=r"anon:: index 16384 of size 16384: index out of range"):
            text[16384]
        with pytest.raises(IndexError, match=r"anon:: index -16385 of size 16384: index out of range"):
            text[-16385]

    @pytest.mark.parametrize("value", [-1, 256, 1 << 70])
    def test_not_a_byte(self, text, value):
        with pytest.raises(ValueError, match="byte"):
            text[0] = value

    @pytest.mark.parametrize("key", [1.0, "1", None, (1, 2), b"1"])
    def test_not_an_index(self, text, key):
        with pytest.raises(TypeError, match="integers or slices"):
            text[key]
        with pytest.raises(TypeError, match="integers or slices"):
            text[key] = 1

    def test_value_of_another_type(self, text):
        for value in (1.0, "1", None, b"1"):
            with pytest.raises(TypeError, match="byte must be an integer"):
                text[0] = value

    def test_delete(self, text):
        with pytest.raises(TypeError, match="keeps its size"):
            del text[0]
        with pytest.raises(TypeError, match="keeps its size"):
            del text[0:1]

    def test_iteration(self, text):
        assert list(itertools.islice(text, 256)) == list(range(256))
        iterator = iter(text)
        assert next(iterator) == 0
        text.close()
        with pytest.raises(ValueError, match="closed"):
            next(iterator)

    def test_iteration_ends(self):
        with polyshm.Segment("anon:", size=10) as segment:
            assert list(segment) == [0] * 10
            assert 0 in segment
            assert 1 not in segment
            assert list(reversed(segment)) == [0] * 10


class TestSlices:
    def test_slices_are_bytes(self, text):
        assert text[1:4] == b"\1\2\3"
        assert type(text[1:4]) is bytes
        assert text[4:1] == b""
        assert text[:] == text.read()
        assert text[100_000:] == b""

    def test_assigned(self, text):
        text[10:13] = b"abc"
        text[20:26:2] = bytearray(b"xyz")
        text[3::-1] = memoryview(b"dcba")
        assert text[0:4] == b"abcd"
        assert text[10:13] == b"abc"
        assert text[20:26] == b"x\x15y\x17z\x19"

    def test_of_itself(self, text):
        text[1:100] = memoryview(text)[0:99]
        assert text[0:100] == b"\0" + bytes(range(99))

    def test_wrong_length(self, text):
        before = text.read()
        for key, value in ((slice(0, 3), b"ab"), (slice(0, 3), b"abcd"), (slice(0, 10, 3), b""), (slice(5, 5), b"x")):
            with pytest.raises(ValueError, match="keeps its size"):
                text[key] = value
        assert text.read() == before

    def test_wrong_type(self, text):
        for value in ("abc", 3, None, [1, 2, 3]):
            with pytest.raises(TypeError, match="bytes-like"):
                text[0:3] = value

    def test_step_zero(self, text):
        with pytest.raises(ValueError, match="step"):
            text[::0]

    def test_large_steps(self):
        with polyshm.Segment("anon:", size=300_000) as segment:
            segment[::2] = b"\1" * 150_000
            assert segment[::2] == b"\1" * 150_000
            assert segment[1::2] == bytes(150_000)
            assert segment[::-100_000] == bytes(3)
            assert segment.read() == b"\1\0" * 150_000


class TestBuffer:
    def test_memoryview(self, text):
        with memoryview(text) as view:
            assert (view.format, view.itemsize, view.nbytes, view.readonly) == ("B", 1, 16384, False)
            assert view.obj is text
            view[0:3] = b"xyz"
            assert text[0:3] == b"xyz"

    @pytest.mark.parametrize("token", sorted(LETTERS))
    def test_typed_views(self, text, token):
        letter = LETTERS[token]
        size = struct.calcsize(letter)
        with text.view(token, 8, 3) as view:
            assert (view.format, view.itemsize, view.shape, view.strides) == (letter, size, (3,), (size,))
            view[1] = 42
            assert text.read(8 + size, size) == struct.pack("=" + letter, 42)
            assert view.tolist()[1] == 42
        with text.view("=" + token) as view:
            assert len(view) == 16384 // size
        with text.view(">" + token, 0, 2) as view:
            assert view.format == (">" + letter if size > 1 else letter)
            assert view.nbytes == 2 * size
        with text.view("<" + token, 0, 2) as view:
            assert view.format == letter

    def test_part_that_fits(self, text):
        assert len(text.view("u64", 3)) == (16384 - 3) // 8
        assert len(text.view("u64", 16384)) == 0
        assert len(text.view("u64", 16380)) == 0
        assert text.view("f64", 0, 0).tolist() == []

    @pytest.mark.parametrize(
        ("offset", "count"), [(16385, None), (0, 2049), (16384, 1), (8, 2048), (0, 1 << 61), (0, (1 << 63) - 1)]
    )
    def test_outside(self, text, offset, count):
        with pytest.raises(ValueError, match="outside the segment"):
            text.view("u64", offset, count)

    @pytest.mark.parametrize("token", ["", "x", "i7", "u128", "f16", "I8", "<<i8", "i8 ", "i8\0", "é"])
    def test_unknown_type(self, text, token):
        with pytest.raises(ValueError, match="unknown element type"):
            text.view(token)

    def test_flags_that_a_consumer_may_use(self, text):
        view = text.view("u16", 0, 4)
        assert view.cast("B").nbytes == 8
        assert bytes(view) == bytes(range(8))
        assert struct.unpack("=4H", view) == tuple(view)
        assert text.find(view) == 0
        text.write(100, view)
        assert text[100:108] == bytes(range(8))

    def test_read_into_needs_a_writable_buffer(self, text):
        with pytest.raises(BufferError):
            text.read_into(b"four")
        with pytest.raises(TypeError, match="buffer must be"):
            text.read_into("four")
        with pytest.raises(BufferError):
            text.read_into(memoryview(bytearray(10))[::2])

    def test_large_copies(self):
        size = 3 << 20
        with polyshm.Segment("anon:", size=size) as segment:
            data = bytes(range(256)) * (size // 256)
            segment.write(0, data)
            assert segment.read() == data
            assert segment[:] == data
            into = bytearray(size)
            segment.read_into(into)
            assert into == data
            assert segment.find(data[-200_000:], 1) == data.find(data[-200_000:], 1)
            segment.copy(1 << 20, 0, 1 << 20)
            assert segment.read(1 << 20, 1 << 20) == data[: 1 << 20]
            segment.fill(9, 100, 1 << 20)
            assert segment.read(99, (1 << 20) + 2) == data[99:100] + b"\t" * (1 << 20) + data[100:101]


@pytest.fixture(scope="module")
def model():
    with polyshm.Segment("anon:", size=LENGTH) as segment:
        yield segment


edges = st.none() | st.integers(-2 * LENGTH, 2 * LENGTH)
steps = st.none() | st.integers(-LENGTH, LENGTH).filter(bool)
contents = st.binary(min_size=LENGTH, max_size=LENGTH)
places = st.integers(0, LENGTH + 20)


class TestProperties:
    @given(contents, edges, edges, steps)
    def test_slices_read(self, model, data, start, stop, step):
        model.write(0, data)
        assert model[start:stop:step] == data[start:stop:step]

    @given(contents, edges, edges, steps, st.data())
    def test_slices_assigned(self, model, data, start, stop, step, draw):
        expected = bytearray(data)
        count = len(expected[start:stop:step])
        value = draw.draw(st.binary(min_size=count, max_size=count))
        model.write(0, data)
        if count:
            expected[start:stop:step] = value
        model[start:stop:step] = value
        assert model.read() == expected

    @given(contents, places, places)
    def test_read(self, model, data, offset, size):
        model.write(0, data)
        if offset + size <= LENGTH:
            assert model.read(offset, size) == data[offset : offset + size]
        else:
            with pytest.raises(
                ValueError, match=f"offset {offset} \\+ size {size}: outside the segment \\(size 300\\)"
            ):
                model.read(offset, size)

    @given(contents, places, st.binary(max_size=LENGTH))
    def test_write(self, model, data, offset, value):
        model.write(0, data)
        expected = bytearray(data)
        if offset + len(value) <= LENGTH:
            expected[offset : offset + len(value)] = value
            model.write(offset, value)
        else:
            with pytest.raises(ValueError, match="outside the segment"):
                model.write(offset, value)
        assert model.read() == expected

    @given(contents, st.integers(0, 255), places, places)
    def test_fill(self, model, data, byte, offset, size):
        model.write(0, data)
        expected = bytearray(data)
        if offset + size <= LENGTH:
            expected[offset : offset + size] = bytes([byte]) * size
            model.fill(byte, offset, size)
        else:
            with pytest.raises(ValueError, match="outside the segment"):
                model.fill(byte, offset, size)
        assert model.read() == expected

    @given(contents, places, places, places)
    def test_copy(self, model, data, target, source, size):
        model.write(0, data)
        expected = bytearray(data)
        if max(target, source) + size <= LENGTH:
            expected[target : target + size] = data[source : source + size]
            model.copy(target, source, size)
        else:
            with pytest.raises(ValueError, match="outside the segment"):
                model.copy(target, source, size)
        assert model.read() == expected

    @given(
        st.lists(st.sampled_from(b"ab"), min_size=LENGTH, max_size=LENGTH).map(bytes),
        st.lists(st.sampled_from(b"ab"), max_size=9).map(bytes),
        st.integers(0, LENGTH),
        st.integers(0, LENGTH),
    )
    @settings(max_examples=50)
    def test_find(self, model, data, wanted, start, end):
        model.write(0, data)
        if start <= end:
            assert model.find(wanted, start, end) == data.find(wanted, start, end)
        assert model.find(wanted, start) == data.find(wanted, start)

    @given(st.sampled_from(sorted(INTEGER_TYPES)), st.integers(0, LENGTH - 8), st.data())
    def test_views(self, model, token, offset, draw):
        bits = int(token.lstrip("<>=iu"))
        signed = "i" in token
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        value = draw.draw(st.integers(low, high))
        big = token.startswith(">") and bits > 8
        model.fill()
        with model.view(token, offset, 1) as view:
            if not big:
                view[0] = value
                assert view[0] == value
                assert model.read(offset, bits // 8) == value.to_bytes(bits // 8, "little", signed=signed)
            else:
                model.write(offset, value.to_bytes(bits // 8, "big", signed=signed))
                assert struct.unpack(view.format, view)[0] == value
