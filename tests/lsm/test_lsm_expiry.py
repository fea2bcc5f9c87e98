"""Records that expire: judged by the time of their commit, at every read and in compaction."""

import time

import pytest

import enginelib
from enginelib.database import Database


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


@pytest.fixture
def ks(db):
    return db.keyspace("space", backend="lsm", ttl=0.25)


def test_records_expire_in_memory_and_in_tables(db, ks):
    ks.put_many([(b"%03d" % n, b"v") for n in range(100)])
    assert len(ks) == 100
    until(lambda: b"000" not in ks)
    assert len(ks) == 0 and list(ks) == [] and ks.get_many([b"001", b"002"]) == [None, None]
    ks[b"again"] = b"v"
    db.step("seal")
    db.step("flush")
    assert ks[b"again"] == b"v"
    until(lambda: b"again" not in ks)
    assert list(ks) == []


def test_compaction_removes_what_has_expired(db, ks):
    ks.put_many([(b"%03d" % n, b"v") for n in range(100)])
    db.step("seal")
    db.step("flush")
    assert sum(level["entries"] for level in ks.stats()["levels"]) == 100
    until(lambda: b"000" not in ks)
    ks.compact()
    assert ks.stats()["levels"] == []


def test_a_put_renews(db, ks):
    ks[b"k"] = b"1"
    until(lambda: b"k" not in ks)
    ks[b"k"] = b"2"
    assert ks[b"k"] == b"2"


def test_an_expired_record_does_not_let_an_older_one_through(db, ks):
    ks[b"k"] = b"older"
    db.step("seal")
    db.step("flush")
    ks[b"k"] = b"newer"
    until(lambda: b"k" not in ks)
    db.step("seal")
    db.step("flush")
    assert b"k" not in ks and list(ks.items()) == []
    ks.compact()
    assert b"k" not in ks


def test_a_transaction_sees_one_moment(db, ks):
    """What has not expired at its first look does not go while it is looked at."""
    ks[b"k"] = b"v"
    with db.transaction(read_only=True) as txn:
        assert txn.get(ks, b"k") == b"v"
        until(lambda: b"k" not in ks)
        assert txn.get(ks, b"k") == b"v"
        assert list(txn.scan(ks)) == [(b"k", b"v")]


def test_expiry_outlives_a_crash(path):
    db = Database(path, background=False)
    ks = db.keyspace("space", backend="lsm", ttl=0.25)
    ks[b"k"] = b"v"
    db.abandon()
    with enginelib.open(path) as db:
        ks = db.keyspace("space")
        assert ks.stats()["options"]["ttl"] == 0.25
        until(lambda: b"k" not in ks)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
def test_a_ttl_that_cannot_be(db, ttl):
    with pytest.raises(ValueError, match="ttl"):
        db.keyspace("bad", backend="lsm", ttl=ttl)
