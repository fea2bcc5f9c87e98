"""Versions: kept while a snapshot needs them, freed when none does, and their bounds."""

import contextlib

import pytest

import enginelib


def live(db):
    return db.stats()["versions"]["live"]


def test_versions_between_two_snapshots_are_freed(db, ks):
    """A hot key updated 100,000 times under an old snapshot keeps a handful of versions."""
    ks[b"hot"] = b"first"
    old = db.transaction(read_only=True)
    for n in range(100_000):
        ks.put(b"hot", b"%d" % n)
        if n % 20_000 == 0:
            assert live(db) < 100
    assert live(db) < 100 and db.stats()["versions"]["bytes"] < 1 << 20
    assert old.get(ks, b"hot") == b"first"
    old.abort()
    ks.put(b"hot", b"last")
    assert live(db) <= 1


def test_without_snapshots_no_versions_stay(db, ks):
    ks.put_many([(b"%04d" % n, b"v") for n in range(3000)])
    ks.clear()
    db.step("gc")
    assert live(db) == 0 and list(ks) == []
    assert db.verify().ok


def test_each_of_many_snapshots_keeps_its_state(db, ks):
    snapshots = []
    for n in range(60):
        ks[b"k"] = b"%d" % n
        ks[b"k%02d" % n] = b""
        snapshots.append(db.transaction(read_only=True))
    for n in [*range(0, 60, 2), *range(59, 0, -2)]:
        txn = snapshots[n]
        assert txn.get(ks, b"k") == b"%d" % n
        assert len(list(txn.scan(ks, values=False))) == n + 2
        txn.abort()
        ks[b"k"] = b"later"
    assert live(db) <= 2


def test_version_budget_takes_the_oldest_snapshot_alone(tree):
    with enginelib.open(":memory:", version_budget=1 << 20, cache_size=4 << 20) as db:
        ks = db.keyspace("space", **tree)
        ks.put_many([(b"%05d" % n, b"v" * 100) for n in range(20_000)])
        oldest = db.transaction(read_only=True)
        younger = []
        for round in range(40):
            with db.transaction() as txn:
                txn.put_many(ks, [(b"%05d" % (round * 500 + n), b"new") for n in range(500)])
            if db.stats()["versions"]["snapshots_lost"]:
                break
            if not younger:
                younger.append(db.transaction(read_only=True))
                seen = list(younger[0].scan(ks))
        else:
            pytest.fail("no snapshot was given up")
        assert db.stats()["versions"]["snapshots_lost"] == 1
        for attempt in (
            lambda: oldest.get(ks, b"00000"),
            lambda: oldest.get_many(ks, [b"00000"]),
            lambda: list(oldest.scan(ks)),
        ):
            with pytest.raises(enginelib.SnapshotTooOld) as caught:
                attempt()
            assert caught.value.retryable
        assert list(younger[0].scan(ks)) == seen
        oldest.abort()
        younger[0].commit()
        assert ks[b"19999"] == b"v" * 100


def test_a_transaction_past_its_budget_can_be_rolled_back(tree):
    with enginelib.open(":memory:", transaction_budget=1 << 16, cache_size=4 << 20) as db:
        ks = db.keyspace("space", **tree)
        ks.put_many([(b"%05d" % n, b"v" * 100) for n in range(500)])
        txn = db.transaction()
        with pytest.raises(enginelib.TransactionTooLarge, match="transaction_budget = 65536") as caught:
            for n in range(5000):
                txn.put(ks, b"%05d" % n, b"w" * 100)
        assert not caught.value.retryable
        assert txn.get(ks, b"00000") == b"w" * 100
        txn.abort()
        assert list(ks.items()) == [(b"%05d" % n, b"v" * 100) for n in range(500)]
        with db.transaction() as txn:
            txn.put(ks, b"00000", b"x")
        assert ks[b"00000"] == b"x" and live(db) <= 1


def test_a_large_transaction_can_also_be_rolled_back_to_a_savepoint_and_go_on(tree):
    with enginelib.open(":memory:", transaction_budget=1 << 20, cache_size=4 << 20) as db:
        ks = db.keyspace("space", **tree)
        with db.transaction() as txn:
            txn.put(ks, b"kept", b"1")
            with pytest.raises(enginelib.TransactionTooLarge), txn.savepoint():
                txn.put_many(ks, [(b"%06d" % n, b"w") for n in range(50_000)])
        assert dict(ks) == {b"kept": b"1"}


def test_large_values_replaced_under_a_snapshot_stay_readable(db, ks):
    ks[b"k"] = b"a" * 200_000
    old = db.transaction(read_only=True)
    for n in range(20):
        ks[b"k"] = bytes([n]) * 150_000
    db.checkpoint()
    assert old.get(ks, b"k") == b"a" * 200_000
    assert [v for _, v in old.scan(ks)] == [b"a" * 200_000]
    old.abort()
    assert ks[b"k"] == bytes([19]) * 150_000
    db.checkpoint()
    assert db.stats()["pages"]["used_bytes"] < 1 << 20


def test_versions_outlive_the_eviction_of_their_pages(tree):
    with contextlib.closing(enginelib.Database(":memory:", cache_size=1 << 20, background=False)) as db:
        ks = db.keyspace("space", **tree)
        rows = [(b"%05d" % n, b"old" * 60) for n in range(10_000)]
        ks.put_many(rows)
        old = db.transaction(read_only=True)
        ks.put_many([(key, b"new") for key, _ in rows[::3]])
        for key, _ in rows[1::3]:
            ks.delete(key)
        for step in ("seal", "flush", "compact"):
            db.step(step)  # of an LSM-tree the versions are in tables now
        assert list(old.scan(ks)) == rows
        assert db.stats()["cache"]["evictions"] > 0
        assert list(old.scan(ks, reverse=True)) == rows[::-1]
        assert old.get_many(ks, [key for key, _ in rows[:500]]) == [value for _, value in rows[:500]]
        old.abort()
        assert len(ks) == 10_000 - len(rows[1::3])
