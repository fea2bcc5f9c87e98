"""Commands that look: info, keyspaces, log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import click

import enginelib
from enginelib.cli.common import database_argument, hex_option, json_option, reading, size_on_disk
from enginelib.cli.output import flat, json_line, show_json, show_table, write_lines
from enginelib.cli.text import to_text


@click.command()
@click.argument("path", metavar="[PATH]", required=False, type=click.Path(path_type=str))
@click.option("--build", is_flag=True, help="Show how this enginelib was built, too.")
@json_option
def info(path: str | None, build: bool, as_json: bool) -> None:
    """Show what a database is: its identity, sizes, positions and figures.

    Example: enginelib info app.db
    """
    if path is None and not build:
        raise click.UsageError("Give the PATH of a database, or --build.")
    values: dict[str, Any] = {}
    if path is not None:
        with reading(path) as db:
            values = {
                "path": db.path,
                "database_id": db.database_id.hex(),
                "keyspaces": len(db.keyspaces()),
                "bytes_on_disk": size_on_disk(db.path),
                **db.stats(),
            }
    if build:
        values["build"] = {"enginelib": enginelib.__version__, **enginelib.build_info()}
    if as_json:
        show_json(values)
    else:
        show_table(("what", "value"), flat(values))


@click.command()
@database_argument
@click.option("--count", is_flag=True, help="Count the keys of each, by reading them all.")
@click.option("--figures", is_flag=True, help="Show the figures of each: options, levels, what was written.")
@json_option
def keyspaces(path: str, count: bool, figures: bool, as_json: bool) -> None:
    """List the keyspaces.

    Example: enginelib keyspaces app.db --count
    """
    with reading(path) as db:
        rows: list[dict[str, Any]] = [
            {"name": name, "id": number, "backend": backend, **({"keys": len(db[name])} if count else {})}
            for name, number, backend in sorted(db.keyspace_rows())
        ]
        if figures:
            for row in rows:
                row["figures"] = db[row["name"]].stats()
    if as_json:
        show_json(rows)
    elif figures:
        show_table(("what", "value"), flat({row["name"]: row["figures"] for row in rows}))
    else:
        show_table(("name", "id", "backend", "keys")[: 4 if count else 3], [tuple(row.values()) for row in rows])


@click.command()
@database_argument
@click.option("--from", "start", type=click.IntRange(min=0), default=0, metavar="LSN", help="Begin at this position.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Print at most N records.")
@click.option("--stats", is_flag=True, help="Print how many records of each type there are, instead.")
@hex_option
@json_option
def log(path: str, start: int, limit: int | None, stats: bool, as_hex: bool, as_json: bool) -> None:
    """Print the records of the log, oldest first.

    With --json, one object a line.

    Example: enginelib log app.db --limit 20
    """
    with reading(path) as db:
        records = islice(db.log_records(start), limit)
        if stats:
            counts = dict(Counter(record["type"] for record in records).most_common())
            if as_json:
                show_json(counts)
            else:
                show_table(("type", "records"), counts.items())
        elif as_json:
            write_lines(json_line(_shown(record, as_hex)) for record in records)
        else:
            write_lines(_lines(records, as_hex))


def _shown(record: dict[str, Any], as_hex: bool) -> dict[str, Any]:
    return {
        name: to_text(value, as_hex) if isinstance(value, bytes) else value
        for name, value in record.items()
        if value is not None
    }


def _lines(records: Iterator[dict[str, Any]], as_hex: bool) -> Iterator[str]:
    for record in records:
        shown = _shown(record, as_hex)
        lsn, kind = shown.pop("lsn"), shown.pop("type")
        yield f"{lsn:>14} {kind:<10} " + " ".join(f"{name}={_cut(value)}" for name, value in shown.items())


def _cut(value: Any, most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


commands = (info, keyspaces, log)
