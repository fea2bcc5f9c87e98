"""Commands that move data in and out: import, export."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import click

import enginelib
from enginelib.cli.common import (
    backend_option,
    database_argument,
    durability_option,
    hex_option,
    json_option,
    keyspace_argument,
    made,
    range_options,
    reading,
    span,
    writing,
)
from enginelib.cli.formats import ENCODINGS, FORMATS, BadRow, encoder, read_pairs, write_pairs
from enginelib.cli.output import json_line, progress

STDIO = "-"

format_option = click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Instead of the format that FILE's ending names."
)


def format_of(file: str, form: str | None) -> str:
    """Returns the format of a file: the one given, or else the one its ending names."""
    if form is not None:
        return form
    ending = Path(file).suffix.lower()
    if ending == ".csv":
        return "csv"
    if ending in (".jsonl", ".ndjson", ".json"):
        return "jsonl"
    raise click.UsageError(f"{file} ends neither in .csv nor in .jsonl; say --format csv or --format jsonl.")


@click.command("import")
@database_argument
@keyspace_argument
@click.argument("file", metavar="FILE")
@format_option
@click.option("--key-column", default="key", show_default=True, metavar="NAME", help="Column that holds the key.")
@click.option(
    "--value-column",
    metavar="NAME",
    help="Column that holds the value; otherwise 'value', or the rest of the row as a JSON object.",
)
@click.option(
    "--encoding",
    type=click.Choice(ENCODINGS),
    default="escapes",
    show_default=True,
    help="How text stands for bytes: with escapes, as hexadecimal digits, or as it is.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="Rows in one transaction.",
)
@backend_option
@durability_option
@json_option
def import_(
    path: str,
    keyspace: str,
    file: str,
    form: str | None,
    key_column: str,
    value_column: str | None,
    encoding: str,
    batch: int,
    backend: str,
    durability: str,
    as_json: bool,
) -> None:
    """Put the rows of a CSV or JSON Lines FILE (- for standard input) into a keyspace.

    Makes the database and the keyspace if they are absent. Each batch of rows is one transaction.

    Example: enginelib import app.db cities cities.csv --key-column name
    """
    chosen = format_of(file, form)
    began = time.monotonic()
    rows = 0
    with ExitStack() as stack:
        raw: BinaryIO = sys.stdin.buffer if file == STDIO else stack.enter_context(open(file, "rb"))
        total = None if file == STDIO else os.fstat(raw.fileno()).st_size
        source = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
        stack.callback(source.detach)
        db = stack.enter_context(writing(path, create=True))
        space = made(db, keyspace, backend)
        step = stack.enter_context(progress(f"import {file}", total))
        pairs = read_pairs(source, chosen, encoder(encoding), key_column, value_column)
        seen = 0
        try:
            for part in _batches(pairs, batch):
                rows += _put(db, space, part, durability)
                if total is not None:
                    at = raw.tell()
                    step(at - seen)
                    seen = at
        except (BadRow, ValueError) as error:
            raise ValueError(f"{file}: {error} ({rows} rows before it are in).") from error
    took = time.monotonic() - began
    if as_json:
        click.echo(json_line({"rows": rows, "seconds": took}))
    else:
        click.echo(f"imported {rows:,} rows in {took:.2f} s ({rows / max(took, 1e-9):,.0f} a second)")


@click.command()
@database_argument
@keyspace_argument
@click.argument("file", metavar="[FILE]", default=STDIO)
@format_option
@range_options
@hex_option
def export(
    path: str,
    keyspace: str,
    file: str,
    form: str | None,
    start: str | None,
    stop: str | None,
    prefix: str | None,
    reverse: bool,
    limit: int | None,
    as_hex: bool,
) -> None:
    """Write a keyspace, or a range of it, as CSV or JSON Lines to FILE (- or none for standard output).

    All of it is of one moment. Import reads it back, with --encoding hex what was written with --hex.

    Example: enginelib export app.db users users.jsonl
    """
    chosen = (form or "jsonl") if file == STDIO else format_of(file, form)
    bounds: dict[str, Any] = span(start, stop, prefix, as_hex)
    with reading(path) as db:
        rows = db[keyspace].scan(**bounds, reverse=reverse, limit=limit)
        if file == STDIO:
            count = sum(write_pairs(rows, sys.stdout, chosen, as_hex))
        else:
            with (
                open(file, "w", encoding="utf-8", newline="") as target,
                progress(f"export {keyspace}", None) as step,
            ):
                count = 0
                for one in write_pairs(rows, target, chosen, as_hex):
                    count += one
                    step(one)
    click.echo(f"exported {count:,} rows", err=True)


def _batches(pairs: Iterator[tuple[bytes, bytes]], size: int) -> Iterator[list[tuple[bytes, bytes]]]:
    while part := list(islice(pairs, size)):
        yield part


def _put(db: enginelib.Database, space: enginelib.Keyspace, part: list[tuple[bytes, bytes]], durability: str) -> int:
    with db.transaction(durability=durability) as txn:  # type: ignore[arg-type]
        return txn.put_many(space, part)


commands = (import_, export)
