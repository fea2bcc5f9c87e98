"""Commands for prepared transactions: who is in doubt, and ending it by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from enginelib.cli.common import database_argument, json_option, reading, writing
from enginelib.cli.output import show_json, show_table
from enginelib.twophase.xid import Xid

xid_argument = click.argument("xid", metavar="XID")
coordinator_option = click.option(
    "--coordinator",
    is_flag=True,
    help="This is the coordinator's own decision, looked up: do not record it as one by hand.",
)


@click.group("2pc")
def two_phase() -> None:
    """List prepared transactions, and end those whose coordinator is gone.

    Example: enginelib 2pc list app.db
    """


@two_phase.command("list")
@database_argument
@click.option("--outcomes", is_flag=True, help="List the outcomes that are kept, too.")
@json_option
def list_prepared(path: str, outcomes: bool, as_json: bool) -> None:
    """List the transactions in doubt, oldest first: for how long, how much they have changed and locked.

    Example: enginelib 2pc list app.db --outcomes
    """
    with reading(path) as db:
        found: list[dict[str, Any]] = [{**asdict(each), "outcome": "prepared"} for each in db.prepared()]
        ended = db.outcomes() if outcomes else []
    if as_json:
        show_json([
            *({**row, **_parts(row["xid"])} for row in found),
            *({"xid": xid, "since": since, "outcome": outcome, **_parts(xid)} for xid, outcome, since in ended),
        ])  # fmt: skip
        return
    columns = ("xid", "outcome", "age", "isolation", "changes", "locks")
    rows = [(r["xid"], r["outcome"], f"{r['age']:.0f} s", r["isolation"], r["changes"], r["locks"]) for r in found]
    show_table(columns, rows + [(xid, outcome, "", "", "", "") for xid, outcome, _ in ended])


def _parts(name: str) -> dict[str, Any]:
    xid = Xid.parse(name)
    return {} if xid.format_id is None else xid._asdict()


@two_phase.command("commit")
@database_argument
@xid_argument
@coordinator_option
@json_option
def commit(path: str, xid: str, coordinator: bool, as_json: bool) -> None:
    """Commit a prepared transaction, without its coordinator: a decision that is recorded and reported to it.

    The other branches of the transaction may end otherwise; look its decision up before, and give --coordinator then.

    Example: enginelib 2pc commit app.db order-17
    """
    with writing(path) as db:
        db.commit_prepared(xid, heuristic=not coordinator)
        _show(xid, db.outcome(xid), as_json)


@two_phase.command("rollback")
@database_argument
@xid_argument
@coordinator_option
@json_option
def roll_back(path: str, xid: str, coordinator: bool, as_json: bool) -> None:
    """Roll a prepared transaction back, without its coordinator: a decision that is recorded and reported to it.

    The other branches of the transaction may end otherwise; look its decision up before, and give --coordinator then.

    Example: enginelib 2pc rollback app.db order-17
    """
    with writing(path) as db:
        db.rollback_prepared(xid, heuristic=not coordinator)
        _show(xid, db.outcome(xid) or "rolled_back", as_json)


@two_phase.command("forget")
@database_argument
@xid_argument
@json_option
def forget(path: str, xid: str, as_json: bool) -> None:
    """Drop the outcome that is kept of a transaction which has ended; its xid may be used again.

    Example: enginelib 2pc forget app.db order-17
    """
    with writing(path) as db:
        db.forget(xid)
        _show(xid, db.outcome(xid), as_json)


def _show(xid: str, outcome: str | None, as_json: bool) -> None:
    if as_json:
        show_json({"xid": xid, "outcome": outcome})
    else:
        show_table(("xid", "outcome"), [(xid, outcome or "")])


commands = (two_phase,)
