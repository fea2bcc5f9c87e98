"""Commands that keep a database well: verify, checkpoint, compact, backup."""

from __future__ import annotations

import sys
import time

import click

from enginelib.cli.common import database_argument, json_option, reading, size_on_disk, writing
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
@click.argument("keyspaces", metavar="[KEYSPACE]...", nargs=-1)
@json_option
def compact(path: str, keyspaces: tuple[str, ...], as_json: bool) -> None:
    """Give free space back to the file system, of the keyspaces named or of all.

    LSM keyspaces are merged down to their last level; then a checkpoint cuts the page file of all B-trees.

    Example: enginelib compact app.db events
    """
    with writing(path) as db:
        began, before = time.monotonic(), size_on_disk(db.path)
        for name in keyspaces or sorted(db.keyspaces()):
            if db[name].backend == "lsm":
                db[name].compact()
        db.checkpoint()
        figures = {"seconds": time.monotonic() - began, "bytes_before": before, "bytes_after": size_on_disk(db.path)}
    if as_json:
        show_json(figures)
    else:
        click.echo(
            f"compaction took {figures['seconds']:.3f} s; bytes on disk: {before:,}, now {figures['bytes_after']:,}"
        )


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


commands = (verify, checkpoint, compact, backup)
