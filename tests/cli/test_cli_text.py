"""Bytes as text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginelib.cli.text import to_bytes, to_text


@given(st.binary(max_size=40), st.booleans())
def test_both_ways_are_lossless(data, as_hex):
    assert to_bytes(to_text(data, as_hex), as_hex) == data


@given(st.text(max_size=20))
def test_text_from_outside_is_bytes_or_an_error_never_a_crash(text):
    for as_hex in (False, True):
        try:
            to_bytes(text, as_hex)
        except (ValueError, UnicodeEncodeError) as error:
            assert str(error)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain text", "plain text"),
        (b"a\\b", r"a\\b"),
        (b"\x00\n\r\t\x7f", r"\x00\n\r\t\x7f"),
        ("Zoë ☃".encode(), "Zoë ☃"),
        (b"\xff\xc3", r"\xff\xc3"),
        ("\u200b".encode(), r"\xe2\x80\x8b"),
        (b"", ""),
    ],
)
def test_what_can_be_printed_stays_and_the_rest_is_escaped(data, text):
    assert to_text(data) == text
    assert to_bytes(text) == data


def test_escapes_may_be_written_in_several_ways():
    assert to_bytes(r"\0\x41\X".replace("X", "x42")) == b"\0AB"
    assert to_bytes("00 ff", as_hex=True) == b"\x00\xff"


@pytest.mark.parametrize("text", ["\\", "a\\", r"\q", r"\x1", r"\xzz"])
def test_a_stray_backslash_is_refused_with_the_remedy(text):
    with pytest.raises(ValueError, match="write"):
        to_bytes(text)


@pytest.mark.parametrize("text", ["0", "zz", "0x00"])
def test_what_is_not_hexadecimal_is_refused(text):
    with pytest.raises(ValueError, match="hexadecimal"):
        to_bytes(text, as_hex=True)
