r"""Bytes as text and back: escapes (``\x00``, ``\n``, ``\\``; the rest as UTF-8) or hexadecimal digits.

Both ways are lossless: ``to_bytes(to_text(data)) == data`` for all data.
"""

from __future__ import annotations

import re

SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
LONG = {"\\": b"\\", "n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0"}
ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[\\nrt0])|(\\)|([^\\]+)")


def to_text(data: bytes, as_hex: bool = False) -> str:
    r"""Writes bytes as text.

    Args:
        data: any bytes.
        as_hex: as hexadecimal digits; otherwise printable UTF-8 stays as it is and the rest becomes ``\xNN``.
    """
    if as_hex:
        return data.hex()
    text = data.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(char if char.isprintable() and char != "\\" else _escaped(char) for char in text)


def to_bytes(text: str, as_hex: bool = False) -> bytes:
    r"""Reads bytes from text, as `to_text` writes them.

    Args:
        text: with escapes ``\xNN``, ``\0``, ``\n``, ``\r``, ``\t``, ``\\``; or hexadecimal digits, in which
            spaces are allowed.
        as_hex: which of the two it is.

    Raises:
        ValueError: it is neither.
    """
    if as_hex:
        try:
            return bytes.fromhex(text)
        except ValueError:
            raise ValueError(f"{text!r} is not pairs of hexadecimal digits.") from None
    if "\\" not in text:
        return text.encode("utf-8", "surrogateescape")
    parts = []
    for match in ESCAPE.finditer(text):
        escape, stray, plain = match.groups()
        if stray:
            raise ValueError(
                f"{text!r} has a backslash that begins no escape; write \\\\ for one, or \\xNN for a byte."
            )
        if plain:
            parts.append(plain.encode("utf-8", "surrogateescape"))
        else:
            parts.append(LONG[escape] if escape in LONG else bytes.fromhex(escape[1:]))
    return b"".join(parts)


def _escaped(char: str) -> str:
    short = SHORT.get(char)
    if short is not None:
        return short
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
