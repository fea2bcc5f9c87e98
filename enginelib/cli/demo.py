"""The command demo."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from enginelib.cli.output import show_json
from enginelib.demo import BATCH, THREADS, demonstrate

FAILED = 1


@click.command()
@click.option("--path", type=click.Path(path_type=Path), help="Where to make the database; else it is temporary.")
@click.option("--threads", type=click.IntRange(1, 64), default=THREADS, show_default=True, help="Writing threads.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=BATCH, show_default=True, help="Characters a commit.")
@click.option("--seed", type=int, help="Chooses the moment of the kill.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, at the end.")
def demo(path: Path | None, threads: int, batch: int, seed: int | None, as_json: bool) -> None:
    """Load Unicode, kill the writer in mid-load, recover, and prove that nothing acknowledged was lost.

    Exit code 1 when anything was.

    Example: enginelib demo
    """
    if path is not None and path.exists():
        raise click.BadParameter(f"{path} exists already; give a path that does not.", param_hint="--path")
    with tempfile.TemporaryDirectory(prefix="enginelib-demo-") as folder:
        place = str(path if path is not None else Path(folder) / "unicode.db")
        if not as_json:
            click.echo(f"enginelib demo, in {place}\n")
        result = demonstrate(
            place, (lambda title, text: None) if as_json else _say, threads=threads, size=batch, seed=seed
        )
    if as_json:
        show_json(result)
    else:
        verdict = "nothing acknowledged was lost" if result["ok"] else "FAILED: see above"
        click.echo(f"\n{verdict}")
    if not result["ok"]:
        sys.exit(FAILED)


def _say(title: str, text: str) -> None:
    click.echo(f"{title:>8}  {text}")


commands = (demo,)
