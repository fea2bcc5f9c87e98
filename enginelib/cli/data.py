"""Commands on keys: get, put, del, scan."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from enginelib.cli.common import (
    backend_option,
    data,
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
from enginelib.cli.output import json_line, show_json, write_lines
from enginelib.cli.text import to_text

ABSENT = 1


@click.command()
@database_argument
@keyspace_argument
@click.argument("key", metavar="KEY")
@click.option("--raw", is_flag=True, help="Write the value's bytes as they are, and nothing else.")
@hex_option
@json_option
def get(path: str, keyspace: str, key: str, raw: bool, as_hex: bool, as_json: bool) -> None:
    """Print the value of a key; exit code 1 when it is absent.

    Example: enginelib get app.db users ada
    """
    with reading(path) as db:
        value = db[keyspace].get(data(key, as_hex, "KEY"))
    if as_json:
        show_json({"key": key, "value": None if value is None else to_text(value, as_hex)})
    elif value is None:
        click.echo(f"no key {key} in {keyspace}", err=True)
    elif raw:
        sys.stdout.buffer.write(value)
    else:
        click.echo(to_text(value, as_hex))
    if value is None:
        sys.exit(ABSENT)


@click.command()
@database_argument
@keyspace_argument
@click.argument("key", metavar="KEY")
@click.argument("value", metavar="VALUE")
@backend_option
@durability_option
@hex_option
def put(path: str, keyspace: str, key: str, value: str, backend: str, durability: str, as_hex: bool) -> None:
    """Put a key; makes the database and the keyspace if they are absent.

    VALUE - reads the value's bytes from standard input.

    Example: enginelib put app.db users ada 1815
    """
    key_bytes = data(key, as_hex, "KEY")
    value_bytes = sys.stdin.buffer.read() if value == "-" else data(value, as_hex, "VALUE")
    with writing(path, create=True) as db:
        space = made(db, keyspace, backend)
        with db.transaction(durability=durability) as txn:  # type: ignore[arg-type]
            txn.put(space, key_bytes, value_bytes)


@click.command("del")
@database_argument
@keyspace_argument
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@durability_option
@hex_option
def delete(path: str, keyspace: str, keys: tuple[str, ...], durability: str, as_hex: bool) -> None:
    """Delete keys, in one transaction; exit code 1 when one was absent.

    Example: enginelib del app.db users ada bob
    """
    wanted = [data(key, as_hex, "KEY") for key in keys]
    with writing(path) as db:
        space = db[keyspace]
        with db.transaction(durability=durability) as txn:  # type: ignore[arg-type]
            deleted = sum(1 for key in wanted if txn.delete(space, key))
    click.echo(f"deleted {deleted} of {len(wanted)}")
    if deleted < len(wanted):
        sys.exit(ABSENT)


@click.command()
@database_argument
@keyspace_argument
@range_options
@click.option("--keys-only", is_flag=True, help="Print keys without their values.")
@click.option("--count", is_flag=True, help="Print how many there are, instead.")
@hex_option
@json_option
def scan(
    path: str,
    keyspace: str,
    start: str | None,
    stop: str | None,
    prefix: str | None,
    reverse: bool,
    limit: int | None,
    keys_only: bool,
    count: bool,
    as_hex: bool,
    as_json: bool,
) -> None:
    """Print a range of keys in order, with their values after a tab.

    With --json, one object a line.

    Example: enginelib scan app.db users --start a --stop m --limit 10
    """
    bounds: dict[str, Any] = span(start, stop, prefix, as_hex)
    with reading(path) as db:
        rows = db[keyspace].scan(**bounds, reverse=reverse, limit=limit, values=not (keys_only or count))
        if count:
            total = sum(1 for _ in rows)
            click.echo(json_line({"count": total}) if as_json else str(total))
        elif as_json:
            write_lines(json_line(row) for row in _objects(rows, keys_only, as_hex))
        elif keys_only:
            write_lines(to_text(key, as_hex) for key in rows)
        else:
            write_lines(f"{to_text(key, as_hex)}\t{to_text(value, as_hex)}" for key, value in rows)


def _objects(rows: Iterator[Any], keys_only: bool, as_hex: bool) -> Iterator[dict[str, str]]:
    for row in rows:
        if keys_only:
            yield {"key": to_text(row, as_hex)}
        else:
            yield {"key": to_text(row[0], as_hex), "value": to_text(row[1], as_hex)}


commands = (get, put, delete, scan)
