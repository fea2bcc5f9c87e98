"""Random histories in which many transactions are prepared, and ended some time later, by their xid and past crashes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import histories


@pytest.mark.parametrize("backend", histories.TREES)
@pytest.mark.parametrize("level", ["read_committed", "snapshot", "serializable", "locking"])
def test_histories_hold_nothing_that_the_level_forbids(level, backend):
    findings, ends = histories.campaign(level, backend, seed=1, count=5000, prepares=0.5)
    assert findings == []
    assert ends["committed"] > 2000 and ends["rolled back"] > 100 and ends["crash"] > 0
    assert set(ends) <= {"committed", "by itself", "rolled back", "crash", "write_conflict", "serialization_failure", "lock_timeout"}


@pytest.mark.parametrize(("level", "asked"), [("read_committed", "snapshot"), ("snapshot", "serializable")])
def test_a_level_that_is_too_weak_is_caught(level, asked):
    """What makes the test above worth something."""
    run = histories.Run
    with histories.enginelib.open(":memory:") as db:
        assert run(db, db.keyspace("h"), level, 1, 600, prepares=0.5).woven().check(asked)
