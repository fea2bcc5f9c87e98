"""Runs the campaigns of ``tools/`` in their quick form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))


@pytest.fixture
def campaign():
    """Runs a tool with ``--json``; its results, after a failure with its whole report."""

    def run(tool, *arguments):
        command = [sys.executable, str(TOOLS / tool), *map(str, arguments), "--json"]
        process = subprocess.run(command, capture_output=True, text=True, timeout=170)
        assert process.returncode == 0, f"{' '.join(command)}\n{process.stdout[-6000:]}\n{process.stderr[-3000:]}"
        return [json.loads(line) for line in process.stdout.splitlines()]

    return run
