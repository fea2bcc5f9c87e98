"""Prints the instruction counts of one get and one put, so that a later change can be compared exactly."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "callgrind.py"


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_one_get_and_one_put_are_counted(capsys):
    process = subprocess.run(
        [sys.executable, TOOL, "--operations", "get,put", "--count", "10000", "--json"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    counts = json.loads(process.stdout)
    with capsys.disabled():
        print()
        for operation, count in counts.items():
            print(f"callgrind: one {operation}: {count:,.0f} instructions")
    assert counts.keys() == {"get", "put"}
    assert all(count > 0 for count in counts.values())
