"""Commands for readers of the log: changes, slots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any, Literal

import click

from enginelib.cli.common import database_argument, hex_option, json_option, reading, writing
from enginelib.cli.output import json_line, show_json, show_table, write_lines
from enginelib.cli.text import to_text
from enginelib.replication import Change, Slot


@click.command()
@database_argument
@click.option("--since", type=click.IntRange(min=0), metavar="LSN", help="Begin behind the change that ends there.")
@click.option("--keyspace", "keyspaces", multiple=True, metavar="NAME", help="Only this keyspace; may be repeated.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Print at most N transactions.")
@click.option(
    "--before",
    type=click.Choice(["none", "key", "full"]),
    default="none",
    help="Also what keys held before, where logged.",
)
@click.option("--prepared", is_flag=True, help="Also what was prepared, and rolled back.")
@click.option("--debezium", is_flag=True, help="Print events in the shape of Debezium's.")
@hex_option
@json_option
def changes(
    path: str,
    since: int | None,
    keyspaces: tuple[str, ...],
    limit: int | None,
    before: Literal["none", "key", "full"],
    prepared: bool,
    debezium: bool,
    as_hex: bool,
    as_json: bool,
) -> None:
    """Print the committed transactions that the log holds, in commit order: JSON Lines.

    One object for each transaction; the same with --json.

    Example: enginelib changes app.db --keyspace users
    """
    with (
        reading(path) as db,
        db.changes(since=since, keyspaces=keyspaces or None, include_before=before, prepared=prepared) as stream,
    ):
        found = islice(stream, limit)
        if debezium:
            from enginelib.replication.codec import to_events

            write_lines(json_line(event) for each in found for event in to_events(each, lambda b: to_text(b, as_hex)))
        else:
            write_lines(json_line(_change(each, as_hex)) for each in found)


def _change(change: Change, as_hex: bool) -> dict[str, Any]:
    return {
        "database_id": change.database_id.hex(),
        "epoch": change.epoch,
        "sequence": change.sequence,
        "lsn": change.lsn,
        "time": change.time,
        "event": change.event,
        "xid": change.xid,
        "origin": None if change.origin is None else change.origin.hex(),
        "operations": list(_operations(change, as_hex)),
        "calls": [{"name": c.name, "args": repr(c.args), "now": c.now, "seed": c.seed} for c in change.calls],
    }


def _operations(change: Change, as_hex: bool) -> Iterator[dict[str, Any]]:
    for o in change.operations:
        shown: dict[str, Any] = {"op": o.op, "keyspace": o.keyspace}
        if o.existed is not None:
            shown["existed"] = o.existed
        for name, data in (("key", o.key), ("value", o.value), ("before", o.before)):
            if data is not None:
                shown[name] = to_text(data, as_hex)
        yield shown


@click.group()
def slots() -> None:
    """List, make and drop slots: named readers for whom the log is kept.

    Example: enginelib slots list app.db
    """


@slots.command("list")
@database_argument
@json_option
def list_slots(path: str, as_json: bool) -> None:
    """List the slots, how far behind they are, and whether they are lost.

    Example: enginelib slots list app.db
    """
    with reading(path) as db:
        found = db.slots()
    _show(found, as_json)


@slots.command("create")
@database_argument
@click.argument("name")
@click.option("--since", type=click.IntRange(min=0), metavar="LSN", help="Begin behind the change that ends there.")
@click.option("--max-lag", type=click.IntRange(min=1), default=1 << 30, show_default=True, metavar="BYTES",
              help="Past so much log the slot is lost.")  # fmt: skip
@json_option
def create_slot(path: str, name: str, since: int | None, max_lag: int, as_json: bool) -> None:
    """Make a slot: from now on the log is kept for it.

    Example: enginelib slots create app.db search-index
    """
    with writing(path) as db:
        made = db.create_slot(name, since=since, max_lag_bytes=max_lag)
    _show([made], as_json)


@slots.command("drop")
@database_argument
@click.argument("name")
@json_option
def drop_slot(path: str, name: str, as_json: bool) -> None:
    """Forget a slot; the log that was kept for it alone goes.

    Example: enginelib slots drop app.db search-index
    """
    with writing(path) as db:
        db.drop_slot(name)
        _show(db.slots(), as_json)


def _show(found: list[Slot], as_json: bool) -> None:
    if as_json:
        show_json([asdict(slot) for slot in found])
    else:
        show_table(
            ("name", "confirmed", "restart", "lag", "max_lag", "valid"),
            [(s.name, s.confirmed, s.restart, s.lag, s.max_lag, s.valid) for s in found],
        )


commands = (changes, slots)
