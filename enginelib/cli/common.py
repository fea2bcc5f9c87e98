"""Arguments, options and openings that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

import enginelib
from enginelib.cli.text import to_bytes

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

TRIES = 100

database_argument = click.argument(
    "path", metavar="PATH", type=click.Path(file_okay=True, dir_okay=True, path_type=str)
)
keyspace_argument = click.argument("keyspace", metavar="KEYSPACE")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
hex_option = click.option(
    "--hex",
    "as_hex",
    is_flag=True,
    help="Keys and values are hexadecimal digits, instead of text with escapes.",
)
durability_option = click.option(
    "--durability",
    type=click.Choice([level.value for level in enginelib.Durability]),
    default="sync",
    show_default=True,
    help="When the commit returns: on stable storage, in the operating system, or at once.",
)
backend_option = click.option(
    "--backend",
    type=click.Choice(["btree", "lsm"]),
    default="btree",
    show_default=True,
    help="Kind of tree of a keyspace that is made; one that exists keeps its own.",
)


def range_options(command: F) -> F:
    """Adds the options that choose a range of keys."""
    for option in (
        click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Read at most N entries."),
        click.option("--reverse", is_flag=True, help="Descending order."),
        click.option("--prefix", metavar="KEY", help="Only keys that begin with KEY."),
        click.option("--stop", metavar="KEY", help="End before KEY."),
        click.option("--start", metavar="KEY", help="Begin at KEY."),
    ):
        command = option(command)
    return command


def span(start: str | None, stop: str | None, prefix: str | None, as_hex: bool) -> dict[str, bytes | None]:
    """Reads the bounds of a range from the command line; returns the arguments of ``scan()``."""
    return {
        "start": None if start is None else data(start, as_hex, "--start"),
        "stop": None if stop is None else data(stop, as_hex, "--stop"),
        "prefix": None if prefix is None else data(prefix, as_hex, "--prefix"),
    }


def data(text: str, as_hex: bool, name: str) -> bytes:
    """Reads bytes from the command line; a wrong escape or digit is a usage error that names the argument."""
    try:
        return to_bytes(text, as_hex)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=name) from None


def reading(path: str) -> enginelib.Database:
    """Opens a database that must exist, for reading; what can be read of a damaged one can be read."""
    return enginelib.open(path, create=False, read_only=True, allow_damaged=True)


def beside(work: Callable[[], T]) -> T:
    """Returns what `work` returns, which reads files that another process may be writing to.

    The end of a log that grows while it is read can look damaged, and a file can go before it is opened. Damage that is
    there is there the next time, in the same place: only that is raised.
    """
    before = ""
    for _ in range(TRIES):
        try:
            return work()
        except (enginelib.CorruptionError, enginelib.StorageError) as error:
            if str(error) == before:
                raise
            before = str(error)
    return work()


def writing(path: str, create: bool = False) -> enginelib.Database:
    """Opens a database for writing.

    Args:
        path: its directory.
        create: whether to make it when absent.
    """
    return enginelib.open(path, create=create)


def made(db: enginelib.Database, name: str, backend: str) -> enginelib.Keyspace:
    """The keyspace of that name, made with the backend if it is absent."""
    return db[name] if name in db.keyspaces() else db.keyspace(name, backend)


def size_on_disk(path: str) -> int:
    """Bytes of all files in a directory."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
