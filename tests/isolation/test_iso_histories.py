"""Random histories at each level, over both trees: 5,000 transactions each; `tools/histories.py` runs more."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import histories
from _histories import Run, lists_in

import enginelib


@pytest.mark.parametrize("backend", histories.TREES)
@pytest.mark.parametrize("level", histories.LEVELS)
def test_histories_hold_nothing_that_the_level_forbids(level, backend):
    findings, ends = histories.campaign(level, backend, seed=1, count=5000)
    assert findings == []
    assert ends["committed"] > 2000
    assert set(ends) <= {"committed", "unknown", "by itself", "crash", "write_conflict", "serialization_failure", "deadlock_detected", "lock_timeout"}


@pytest.mark.parametrize(("level", "asked"), [("read_committed", "snapshot"), ("snapshot", "serializable")])
def test_a_level_that_is_too_weak_is_caught(level, asked):
    """What makes the test above worth something: the same transactions, one level lower, are found out."""
    with enginelib.open(":memory:") as db:
        history = Run(db, db.keyspace("h"), level, 1, 400).woven()
    assert lists_in(history) > 50
    assert history.check(asked)


@pytest.mark.parametrize("level", ["snapshot", "serializable", "locking"])
def test_woven_histories_are_repeatable(level):
    def run():
        with enginelib.open(":memory:") as db:
            run = Run(db, db.keyspace("h"), level, 7, 300)
            run.woven()
            return [(entry.number, entry.status, entry.reason, entry.commit_ts) for entry in run.entries]

    assert run() == run()
