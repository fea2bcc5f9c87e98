"""CSV and JSON Lines as streams of (key, value).

Written files have a ``key`` and a ``value`` in each row. Files read may have any columns: the key is one of
them, and the value is the column ``value`` or, where there is none, the rest of the row as a JSON object.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from enginelib.cli.text import to_bytes, to_text

Pair = tuple[bytes, bytes]
Encode = Callable[[str], bytes]
Row = dict[str, Any]

FORMATS = ("csv", "jsonl")
ENCODINGS = ("escapes", "hex", "plain")


class BadRow(ValueError):
    """A row that cannot be read; says which."""


def encoder(name: str) -> Encode:
    """Returns how text becomes bytes: ``escapes``, ``hex``, or ``plain`` (UTF-8 as it stands)."""
    if name == "plain":
        return lambda text: text.encode("utf-8", "surrogateescape")
    return lambda text: to_bytes(text, name == "hex")


def read_pairs(source: TextIO, form: str, encode: Encode, key_column: str, value_column: str | None) -> Iterator[Pair]:
    """Reads (key, value) from a file.

    Args:
        source: the file; for CSV opened with ``newline=""``.
        form: ``"csv"`` (with a line of headers) or ``"jsonl"`` (an object a line).
        encode: how text becomes bytes.
        key_column: name of the column that holds the key.
        value_column: name of the column that holds the value; None for ``value``, or where there is none for
            a JSON object of all other columns.

    Raises:
        BadRow: a row is no object, lacks the column, or holds text that cannot be encoded.
    """
    for number, row in _csv_rows(source) if form == "csv" else _json_rows(source):
        try:
            yield _pair(row, encode, key_column, value_column)
        except ValueError as error:
            raise BadRow(f"line {number}: {error}") from None


def write_pairs(rows: Iterable[Pair], target: TextIO, form: str, as_hex: bool) -> Iterator[int]:
    """Writes (key, value) tuples to a file.

    Args:
        rows: the tuples.
        target: the file; for CSV opened with ``newline=""``.
        form: ``"csv"`` or ``"jsonl"``.
        as_hex: write hexadecimal digits instead of text with escapes.

    Yields:
        1 for each row written, so that progress can be shown.
    """
    if form == "csv":
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(("key", "value"))
        for key, value in rows:
            writer.writerow((to_text(key, as_hex), to_text(value, as_hex)))
            yield 1
    else:
        for key, value in rows:
            line = json.dumps({"key": to_text(key, as_hex), "value": to_text(value, as_hex)}, ensure_ascii=False)
            target.write(f"{line}\n")
            yield 1


def _csv_rows(source: TextIO) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(min(sys.maxsize, 1 << 31))
    reader = csv.DictReader(source)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise BadRow(f"line {reader.line_num}: {error}") from None
        if row is None:
            return
        if None in row:
            raise BadRow(f"line {reader.line_num}: more fields than headers")
        yield reader.line_num, row


def _json_rows(source: TextIO) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadRow(f"line {number}: no JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadRow(f"line {number}: expected a JSON object, found {type(row).__name__}")
        yield number, row


def _pair(row: Row, encode: Encode, key_column: str, value_column: str | None) -> Pair:
    key = row.get(key_column)
    if key is None:
        raise ValueError(f"no column {key_column!r}; there are {', '.join(row)}; choose by --key-column")
    if value_column is None and row.get("value") is None:
        rest = {name: value for name, value in row.items() if name != key_column}
        return encode(_text(key)), json.dumps(rest, ensure_ascii=False).encode()
    value = row.get(value_column or "value")
    if value is None:
        raise ValueError(f"no column {value_column!r}; there are {', '.join(row)}; choose by --value-column")
    return encode(_text(key)), encode(_text(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
