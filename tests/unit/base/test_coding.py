"""Fixed-width fields, varints and the order of keys, against what Python says."""

import struct

import pytest
from enginelib._native.base import codingdoor as coding
from hypothesis import given
from hypothesis import strategies as st


def leb128(value):
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


@given(st.integers(0, 2**64 - 1))
def test_fixed_fields_are_little_endian(value):
    for width, form in ((2, "<H"), (4, "<I"), (8, "<Q")):
        part = value & (1 << 8 * width) - 1
        assert coding.fixed(width, part) == (struct.pack(form, part), part)


@given(st.binary(min_size=4, max_size=8))
def test_heads_are_big_endian(data):
    assert coding.big32(data) == int.from_bytes(data[:4], "big")


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_varints_are_leb128_and_read_back(value, rest):
    encoded, size = coding.varint(value)
    assert encoded == leb128(value) and size == len(encoded)
    assert coding.read_varint(encoded + rest) == (value, size)


@given(st.integers(0, 2**64 - 1))
def test_a_varint_cut_short_is_refused(value):
    encoded, size = coding.varint(value)
    for n in range(size):
        assert coding.read_varint(encoded[:n]) is None


@pytest.mark.parametrize(
    "data", [b"\x80\x00", b"\xff\x80\x00", b"\xff" * 9 + b"\x02", b"\xff" * 11, b"\x80" * 10 + b"\x01"]
)
def test_overlong_and_oversized_varints_are_refused(data):
    assert coding.read_varint(data) is None


@given(st.binary(max_size=20))
def test_every_accepted_varint_is_the_canonical_one(data):
    got = coding.read_varint(data)
    if got is not None:
        assert coding.varint(got[0])[0] == data[: got[1]]


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_order_is_that_of_python_bytes(a, b):
    assert coding.compare(a, b) == (a > b) - (a < b)
