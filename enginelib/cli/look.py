"""Commands that look: info, keyspaces, log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import click

import enginelib
from enginelib.cli.common import beside, database_argument, hex_option, json_option, reading, size_on_disk
from enginelib.cli.output import flat, json_line, show_json, show_table, write_lines
from enginelib.cli.text import to_text

OFTEN = 0.2
PIECE = 1000


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
@click.option("--txn", type=click.IntRange(min=0), metavar="ID", help="Only the records of this transaction.")
@click.option("--follow", is_flag=True, help="Go on with new records, as another process writes them, until Ctrl-C.")
@click.option("--stats", is_flag=True, help="Print how many records of each type there are, instead.")
@click.option(
    "--by",
    type=click.Choice(["type", "keyspace", "transaction"]),
    default="type",
    help="With --stats: figures of each of these, records and bytes of keys and values.",
)
@hex_option
@json_option
def log(
    path: str,
    start: int,
    limit: int | None,
    txn: int | None,
    follow: bool,
    stats: bool,
    by: str,
    as_hex: bool,
    as_json: bool,
) -> None:
    """Print the records of the log, oldest first.

    With --json, one object a line.

    What is shown is what the files of the log hold. The newest records need not be synced yet: until the process that
    writes has answered a commit with durability "sync", a power failure may take them back, and other records may
    come to stand at their positions. Transactions without a commit record have not ended, or were ended by a crash.
    Where the log goes before --follow has read it, a line on standard error says from where to where.

    Example: enginelib log app.db --limit 20

    Example: enginelib log app.db --follow --json
    """
    if follow and stats:
        raise click.UsageError("--follow has no end to print the figures at: leave out --stats.")
    if by != "type" and not stats:
        raise click.UsageError("--by says what --stats counts: give both.")
    with beside(lambda: reading(path)) as db:
        records = _following(db, start) if follow else db.log_records(start)
        if txn is not None:
            records = (record for record in records if record is None or record.get("txn") == txn)
        if stats:
            found: Iterator[dict[str, Any]] = islice((each for each in records if each is not None), limit)
            if by == "type":
                _show_figures(dict(Counter(record["type"] for record in found).most_common()), "type", as_json)
            else:
                _show_figures(_figures(db, found, by), by, as_json)
            return
        shown = _limited(records, limit)
        for some in _batches(shown) if follow else [shown]:
            write_lines((json_line(_shown(each, as_hex)) for each in some) if as_json else _lines(iter(some), as_hex))


def _following(db: enginelib.Database, start: int) -> Iterator[dict[str, Any] | None]:
    """Yields the records from an LSN on, without end; None each time that there is no more at the moment."""
    last: int | None = None

    def more() -> list[dict[str, Any]]:
        try:
            return list(islice(db.log_records(start if last is None else last), PIECE))
        except enginelib.CorruptionError:
            oldest = next(db.log_records(), None)
            if last is None or oldest is None or oldest["lsn"] <= last:
                raise
            return list(islice(db.log_records(), PIECE))  # what comes next has gone

    while True:
        found = beside(more)
        if last is not None:
            if found and found[0]["lsn"] == last:
                del found[0]
            elif found:
                click.echo(f"the log from LSN {last} to {found[0]['lsn']} is gone", err=True)
        yield from found
        if found:
            last = found[-1]["lsn"]
        if len(found) < PIECE - 1:
            yield None
            time.sleep(OFTEN)


def _limited(records: Iterator[dict[str, Any] | None], limit: int | None) -> Iterator[Any]:
    """At most so many records, pauses not counted."""
    left = -1 if limit is None else limit
    while left != 0:
        try:
            record = next(records)
        except StopIteration:
            return
        left -= record is not None
        yield record


def _batches(records: Iterator[dict[str, Any] | None]) -> Iterator[list[dict[str, Any]]]:
    """What comes between two pauses, in a list, so that it is printed at once."""
    batch: list[dict[str, Any]] = []
    for record in records:
        if record is not None:
            batch.append(record)
        if batch and (record is None or len(batch) >= PIECE):
            yield batch
            batch = []
    if batch:
        yield batch


def _figures(db: enginelib.Database, records: Iterator[dict[str, Any]], by: str) -> dict[str, dict[str, int]]:
    """Records, and bytes of keys and values, of each keyspace or transaction; and how many were of which type."""
    names = {number: name for name, number, _ in db.keyspace_rows()} | {0: "(catalogue)"}
    figures: dict[str, dict[str, int]] = {}
    for record in records:
        number = record.get("keyspace" if by == "keyspace" else "txn")
        if number is None:
            continue
        name = names.get(number, f"(number {number})") if by == "keyspace" else str(number)
        row = figures.setdefault(name, {"records": 0, "bytes": 0})
        row["records"] += 1
        row["bytes"] += len(record.get("key", b"")) + len(record.get("value", b""))
        row[record["type"]] = row.get(record["type"], 0) + 1
    return figures


def _show_figures(figures: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        show_json(figures)
    elif what == "type":
        show_table(("type", "records"), figures.items())
    else:
        show_table((what, "records", "bytes"), [(name, row["records"], row["bytes"]) for name, row in figures.items()])


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
