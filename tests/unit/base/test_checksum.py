"""CRC-32C against two independent implementations, at every length, alignment and seed."""

import os

import crcmod.predefined
import google_crc32c
import pytest
from enginelib._native.base import checksum
from hypothesis import given
from hypothesis import strategies as st

crcmod_crc = crcmod.predefined.mkPredefinedCrcFun("crc-32c")
IMPLEMENTATIONS = [checksum.crc32c_of, checksum.crc32c_middle, checksum.crc32c_table]


@pytest.mark.parametrize("crc", IMPLEMENTATIONS)
def test_known_answers(crc):
    assert crc(b"123456789") == 0xE3069283
    assert crc(b"") == 0
    assert crc(bytes(32)) == 0x8A9136AA
    assert crc(b"\xff" * 32) == 0x62A8AB43
    assert crc(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("crc", IMPLEMENTATIONS)
def test_every_length_up_to_5000(crc):
    data = os.urandom(5000)
    for n in range(5001):
        assert crc(data[:n]) == google_crc32c.value(data[:n]), n


@pytest.mark.parametrize("n", [0, 1, 7, 63, 64, 127, 128, 255, 511, 512, 1000, 4096, 8192])
def test_every_alignment(n):
    data = os.urandom(n + 64)
    for start in range(64):
        assert checksum.crc32c_of(data[: start + n], 0, start) == google_crc32c.value(data[start : start + n])


@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_a_seed_continues_a_sum(a, b):
    for crc in IMPLEMENTATIONS:
        assert crc(b, crc(a)) == crcmod_crc(a + b)


@given(st.binary(max_size=2000), st.integers(0, 2**32 - 1))
def test_any_seed_agrees_with_the_oracle(data, seed):
    for crc in IMPLEMENTATIONS:
        assert crc(data, seed) == google_crc32c.extend(seed, data)


def test_long_inputs():
    data = os.urandom(3 << 20)
    for crc in IMPLEMENTATIONS:
        assert crc(data) == google_crc32c.value(data)


def test_the_choice_has_a_name():
    assert checksum.implementation() in ("avx512+vpclmulqdq", "sse4.2+pclmul", "armv8", "table")
