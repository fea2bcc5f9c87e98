"""Bugs of LSM keyspaces that were found and mended; each docstring names one."""

import pytest

import enginelib


def killed(db, path):
    """The database as after kill -9, opened again."""
    db.abandon()
    return enginelib.open(path)


@pytest.mark.parametrize("first", [False, True])
def test_a_range_deletion_rolled_back_to_a_savepoint_stays_away_after_a_crash(tmp_path, first):
    """Only changes of keys had their rollback logged: a range tombstone that went alone came back in recovery."""
    db = enginelib.open(tmp_path / "db")
    events = db.keyspace("events", backend="lsm")
    events.put_many([(b"%03d" % i, b"v") for i in range(100)])
    with db.transaction() as txn:
        if first:
            txn.put(events, b"zzz", b"first")
        with txn.savepoint() as mark:
            txn.delete_range(events, b"010", b"090")
            mark.rollback()
        txn.put(events, b"000", b"new")
    with killed(db, tmp_path / "db") as db:
        assert len(list(db.keyspace("events").items())) == 100 + first


def test_a_large_value_that_was_replayed_keeps_its_part_of_the_log(tmp_path):
    """A checkpoint after recovery let the log go up to the record that links a large value, with the chunks before it: the next
    recovery could not replay it."""
    db = enginelib.open(tmp_path / "db", segment_size=1 << 20)
    events = db.keyspace("events", backend="lsm")
    value = bytes(range(256)) * 8000
    events[b"large"] = value
    for _ in range(2):
        db = killed(db, tmp_path / "db")
        db.checkpoint()
    with killed(db, tmp_path / "db") as db:
        assert db.keyspace("events")[b"large"] == value


@pytest.mark.parametrize("klen", [1, 16, 100])
def test_an_entry_as_large_as_a_block_is_flushed(tmp_path, klen):
    """Whether a value has to stand outside its block was judged by a bound eight bytes too generous: one that hit the gap
    could not be written to a table."""
    with enginelib.open(tmp_path / "db", page_size=4096) as db:
        events = db.keyspace("events", backend="lsm")
        for n in range(3700, 4200):
            events[b"%04d".rjust(klen + 3, b"k") % n] = b"v" * n
        db.step("flush")
        assert [len(v) for v in events.values()] == list(range(3700, 4200))
