"""Commands that keep a database well: verify, checkpoint, compact, backup, restore."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime

import click

import enginelib
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


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """A time, ISO 8601, of the local zone unless it names one, or seconds since 1970; as seconds since 1970."""
    if value is None:
        return None
    with suppress(ValueError):
        return float(value)
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is neither a time such as 2026-11-27T20:15:00Z nor seconds since 1970."
        ) from None


@click.command()
@click.argument("backup_", metavar="BACKUP", type=click.Path(path_type=str))
@click.argument("archive", metavar="ARCHIVE", type=click.Path(path_type=str))
@click.argument("destination", metavar="DEST", type=click.Path(path_type=str))
@click.option(
    "--to-time", callback=_seconds, metavar="TIME", help="As of this moment: ISO 8601, or seconds since 1970."
)
@click.option("--to-lsn", type=click.IntRange(min=0), metavar="LSN", help="All commits that end at or below this LSN.")
@click.option("--to-commit", type=click.IntRange(min=0), metavar="N", help="All commits up to this commit timestamp.")
@json_option
def restore(
    backup_: str,
    archive: str,
    destination: str,
    to_time: float | None,
    to_lsn: int | None,
    to_commit: int | None,
    as_json: bool,
) -> None:
    """Make DEST the database as it was at a moment, from a BACKUP made before it and the ARCHIVE of its log.

    Without a target: all that the archive holds. DEST must be absent or empty.

    Example: enginelib restore /backups/app-monday.db /backups/log app.db --to-time 2026-11-27T20:15:00Z
    """
    if sum(each is not None for each in (to_time, to_lsn, to_commit)) > 1:
        raise click.UsageError("One target at most: --to-time, --to-lsn or --to-commit.")
    made = asdict(enginelib.restore(backup_, archive, destination, to_time=to_time, to_lsn=to_lsn, to_commit=to_commit))
    if as_json:
        show_json(made)
    else:
        show_table(("what", "value"), flat(made))


commands = (verify, checkpoint, compact, backup, restore)
