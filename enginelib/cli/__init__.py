"""The command ``enginelib``. It only parses and prints; what it does is the library's."""

from __future__ import annotations

import sys

__all__ = ["main"]

MISSING = "enginelib's command line needs {name}. Install it by: pip install 'enginelib[cli]'"


def main() -> None:
    """Runs the command line, or says how to install what it needs."""
    try:
        from enginelib.cli.app import cli
    except ModuleNotFoundError as missing:
        if missing.name not in ("click", "rich"):
            raise
        sys.exit(MISSING.format(name=missing.name))
    cli(prog_name="enginelib")
