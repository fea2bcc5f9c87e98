"""Commands that keep a database well: verify, checkpoint, backup."""

from __future__ import annotations

import sys
import time

import click

from enginelib.cli.common import database_argument, json_option, reading, writing
from enginelib.cli.output import flat, show_json, show_table

FINDINGS = 1


@click.command()
@database_argument
@json_option
def verify(path: str, as_json: bool) -> None:
    """Check every page, sum, order and log record; exit code 1 when something is wrong.

    Example: enginelib verify app.db
    """
    with reading(path) as db:
        report = db.verify(None if as_json or not sys.stderr.isatty() else lambda line: click.echo(line, err=True))
    if as_json:
        show_json(report.as_dict())
    else:
        click.echo(str(report))
    if not report.ok:
        sys.exit(FINDINGS)


@click.command()
@database_argument
@json_option
def checkpoint(path: str, as_json: bool) -> None:
    """Write a durable image of the present state, so that opening is quick and old log can go.

    Example: enginelib checkpoint app.db
    """
    with writing(path) as db:
        began = time.monotonic()
        db.checkpoint()
        took = time.monotonic() - began
    if as_json:
        show_json({"seconds": took})
    else:
        click.echo(f"checkpoint took {took:.3f} s")


@click.command()
@database_argument
@click.argument("target", metavar="TARGET", type=click.Path(path_type=str))
@json_option
def backup(path: str, target: str, as_json: bool) -> None:
    """Copy the database, as of one moment, to the directory TARGET, which must be absent or empty.

    Example: enginelib backup app.db /backups/app-monday.db
    """
    with writing(path) as db:
        copied = db.backup(target)
    if as_json:
        show_json(copied)
    else:
        show_table(("what", "value"), flat(copied))


commands = (verify, checkpoint, backup)
