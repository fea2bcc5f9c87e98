"""restore on the command line."""

from datetime import UTC, datetime

import pytest

import enginelib


@pytest.fixture
def past(tmp_path):
    """Three commits behind a backup, as the stream has them."""
    with enginelib.open(tmp_path / "db", archive=tmp_path / "archive") as db:
        space = db.keyspace("space")
        space[b"n"] = b"0"
        db.backup(tmp_path / "base")
        for n in (b"1", b"2", b"3"):
            space[b"n"] = n
        return list(db.changes())[-3:]


def test_restore_takes_one_target_of_each_kind(run, tmp_path, past):
    second = past[1]
    targets = (
        ("--to-commit", second.sequence), ("--to-lsn", second.lsn), ("--to-time", repr(second.time)),
        ("--to-time", datetime.fromtimestamp(second.time, UTC).isoformat()),
    )  # fmt: skip
    for n, target in enumerate(targets):
        made = run.json("restore", tmp_path / "base", tmp_path / "archive", tmp_path / f"made-{n}", *target)
        assert made["sequence"] == second.sequence and made["lsn"] == second.lsn and made["epoch"] == 1
        assert run("get", tmp_path / f"made-{n}", "space", "n").stdout == "2\n"
    assert "sequence" in run("restore", tmp_path / "base", tmp_path / "archive", tmp_path / "all").stdout
    assert run("get", tmp_path / "all", "space", "n").stdout == "3\n"


def test_restore_tells_what_is_wrong(run, tmp_path, past):
    where = (tmp_path / "base", tmp_path / "archive", tmp_path / "made")
    assert "beyond the archive" in run("restore", *where, "--to-commit", past[-1].sequence + 1, code=3).output
    assert "One target" in run("restore", *where, "--to-commit", 1, "--to-lsn", 1, code=2).output
    assert "neither a time" in run("restore", *where, "--to-time", "yesterday", code=2).output
    assert not (tmp_path / "made").exists()
