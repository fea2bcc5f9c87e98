"""What guided fuzzing stands on: databases taken apart and put together, its seeds, and changed inputs without libFuzzer."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.mark.parametrize("target", ["layout", "log", "pages", "tables", "edits"])
def test_changed_inputs_are_answered_or_refused(tmp_path, target):
    command = [sys.executable, str(TOOLS / "_guided.py"), target, str(tmp_path), "blind", "1500", "11"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert process.returncode == 0, process.stderr[-6000:]


def test_a_database_put_together_from_its_pieces_is_the_same():
    import _history as h
    import _pieces as p
    from _seeds import OPTIONS, files_of, seeds, taken

    for data in seeds("log") + seeds("tables"):
        vfs = files_of(data)
        db = h.open_database(vfs, OPTIONS, read_only=True)
        content = h.content(db)
        db.abandon()
        again = files_of(p.join(taken(vfs)))
        assert again.files(durable=False) == vfs.files(durable=False)
        db = h.open_database(again, OPTIONS)
        assert h.content(db) == content
        h.check_verify(db)
        db.close()
