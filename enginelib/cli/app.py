"""The group of commands, and how errors are told."""

from __future__ import annotations

from typing import Any

import click

import enginelib
from enginelib.cli import MISSING, data, demo, look, outward, transfer, twophase, upkeep

FAILED = 3


class Cli(click.Group):
    """A group that tells errors in a sentence, with what to do about them, instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; turns what the library raises into a message and exit code 3."""
        try:
            return super().invoke(ctx)
        except (enginelib.Error, OSError, KeyError, ValueError, ModuleNotFoundError) as error:
            if ctx.params.get("traceback") or isinstance(error, BrokenPipeError):
                raise
            raise Failure(error) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the commands in the order in which they were added, which groups them."""
        return list(self.commands)


class Failure(click.ClickException):
    """An error of the library, as the command line tells it."""

    exit_code = FAILED

    def __init__(self, error: Exception) -> None:
        super().__init__(_sentence(error))
        self.hint = getattr(error, "hint", "")

    def show(self, file: Any = None) -> None:
        """Prints the error and its hint on standard error."""
        click.echo(f"error: {self.message}", err=True, file=file)
        if self.hint:
            click.echo(f"hint: {self.hint}", err=True, file=file)


def _sentence(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return MISSING.format(name=error.name)
    if isinstance(error, KeyError):
        return str(error.args[0]) if error.args else "no such key"
    if isinstance(error, OSError) and not isinstance(error, enginelib.Error) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@click.group(
    cls=Cli,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done; 1 the answer is no (absent, findings); 2 wrong usage; 3 impossible.",
)
@click.version_option(enginelib.__version__, prog_name="enginelib")
@click.option("--traceback", is_flag=True, help="Show where in the program an error arose.")
def cli(traceback: bool) -> None:
    r"""Look into enginelib databases, change them, and keep them well.

    Keys and values are text with escapes (\x00, \n, \\) or, with --hex, hexadecimal digits.
    """


for module in (look, data, transfer, upkeep, outward, twophase, demo):
    for command in module.commands:
        cli.add_command(command)
