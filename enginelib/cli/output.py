"""How answers are printed: tables for people, tab-separated lines for pipes, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click


class Step(Protocol):
    """Called with an amount of progress."""

    def __call__(self, amount: int, /) -> None: ...


def show_json(value: Any) -> None:
    """Prints a value as JSON, indented; bytes as hexadecimal digits."""
    click.echo(json.dumps(value, indent=2, default=plain, ensure_ascii=False))


def json_line(value: Any) -> str:
    """Returns a value as one line of JSON; bytes as hexadecimal digits."""
    return json.dumps(value, default=plain, ensure_ascii=False)


def plain(value: Any) -> Any:
    """Turns what JSON does not know into what it knows."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return str(value)


def show_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table: drawn on a terminal, tab-separated lines without headers elsewhere."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(cell(value) for value in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    Console().print(table)


def cell(value: Any) -> str:
    """Writes one cell: numbers with separators on a terminal only, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, int) and not isinstance(value, bool) and sys.stdout.isatty():
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def flat(values: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Turns nested dicts, and lists of them, into (dotted name, plain value) rows."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            yield from flat(dict(enumerate(value)), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def write_lines(lines: Iterable[str]) -> None:
    """Prints many lines quickly."""
    out = sys.stdout
    for line in lines:
        out.write(line)
        out.write("\n")
    out.flush()


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Step]:
    """Shows a progress bar on standard error when that is a terminal.

    Args:
        title: what is going on.
        total: how much there is to do; None when that is not known.

    Yields:
        A function to call with each amount done.
    """
    if not sys.stderr.isatty():
        yield lambda amount, /: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda amount, /: bar.advance(task, amount)
