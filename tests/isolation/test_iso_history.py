"""Random concurrent histories, checked afterwards against snapshot isolation, and the order of commits of mixed durability."""

import random
import threading

import pytest

import enginelib

KEYS = [b"k%d" % n for n in range(5)]


def client(db, ks, seed, start, history, count):
    dice = random.Random(seed)
    start.wait(10)
    for number in range(count):
        txn = db.transaction(durability=dice.choice(["sync", "os", "lazy"]), lock_timeout=10)
        reads, writes = [], {}
        state = "aborted"
        try:
            for step in range(dice.randint(1, 5)):
                key = dice.choice(KEYS)
                if dice.random() < 0.5:
                    if key not in writes:
                        way = dice.randrange(3)
                        if way == 0:
                            reads.append((key, txn.get(ks, key)))
                        elif way == 1:
                            found = dict(txn.scan(ks))
                            reads += [(k, found.get(k)) for k in KEYS if k not in writes]
                        else:
                            reads.append((key, txn.get_for_update(ks, key)))
                elif dice.random() < 0.85:
                    value = b"%d-%d-%d" % (seed, number, step)
                    txn.put(ks, key, value)
                    writes[key] = value
                elif txn.delete(ks, key):
                    writes[key] = None
                if dice.random() < 0.1:
                    with txn.savepoint() as mark:
                        txn.put(ks, dice.choice(KEYS), b"rolled back")
                        mark.rollback()
            snapshot = txn.snapshot
            if dice.random() < 0.85:
                txn.commit()
                state = "committed"
            else:
                txn.abort()
        except enginelib.TransactionAborted:
            snapshot = txn.snapshot
            txn.abort()
        history.append((state, snapshot, txn.commit_ts, reads, writes))


def check(history):
    """Reads come from the committed state at the snapshot; no committed write overwrites one its snapshot did not see."""
    commits = sorted((ts, snapshot, writes) for state, snapshot, ts, _, writes in history if state == "committed" and ts)
    assert len({ts for ts, _, _ in commits}) == len(commits), "two commits share a timestamp"
    states, newest = {0: {}}, {}
    now = {}
    order = [0]
    for ts, snapshot, writes in commits:
        for key in writes:
            assert newest.get(key, 0) <= snapshot, f"lost update of {key!r}: {newest[key]} came after {snapshot}"
            newest[key] = ts
        now = {**now, **writes}
        states[ts] = now
        order.append(ts)
    for state, snapshot, ts, reads, writes in history:
        if state == "committed" and writes:
            assert ts > snapshot
        seen = max(t for t in order if t <= snapshot)
        for key, value in reads:
            assert value == states[seen].get(key), f"{key!r} at {snapshot}: {value!r} is not {states[seen].get(key)!r}"
    return now


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cache", [1 << 20, 16 << 20])
def test_a_random_concurrent_history_is_snapshot_isolated(spawn, seed, cache, tree):
    with enginelib.open(":memory:", cache_size=cache, segment_size=1 << 20) as db:
        ks = db.keyspace("space", **tree)
        base = db.transaction(read_only=True).snapshot
        start = threading.Barrier(4)
        history = []
        workers = [spawn(client, db, ks, seed * 10 + n, start, history, 60) for n in range(4)]
        for worker in workers:
            worker.result(30)
        assert any(state == "committed" for state, *_ in history)
        final = check([(state, s - base, ts - base if ts else 0, r, w) for state, s, ts, r, w in history])
        assert dict(ks) == {k: v for k, v in final.items() if v is not None}
        assert db.verify().ok


def test_the_checker_itself_finds_a_lost_update():
    with pytest.raises(AssertionError, match="lost update"):
        check([("committed", 0, 1, [], {b"k": b"a"}), ("committed", 0, 2, [], {b"k": b"b"})])


def test_the_checker_itself_finds_a_fractured_read():
    with pytest.raises(AssertionError, match="is not"):
        check([("committed", 0, 1, [], {b"k": b"a"}), ("committed", 1, 0, [(b"k", None)], {})])


@pytest.mark.parametrize("second", ["os", "lazy"])
def test_what_is_visible_never_overtakes_what_is_durable(tmp_path, spawn, second, tree):
    """A lazy commit behind a sync commit becomes visible after it; a crash keeps a prefix of the order of commits."""
    with enginelib.open(tmp_path / "db", durability="sync", background=False) as db:
        ks = db.keyspace("space", **tree)
        start = threading.Barrier(3)

        def write(name, durability):
            start.wait(10)
            for n in range(40):
                with db.transaction(durability=durability) as txn:
                    txn.put(ks, name, b"%d" % n)

        def watch():
            start.wait(10)
            synced = []
            for _ in range(200):
                with db.transaction(read_only=True) as txn:
                    value = txn.get(ks, b"sync")
                    stats = db.stats()
                    synced.append((value, stats["log"]["synced_lsn"]))
            return synced

        workers = [spawn(write, b"sync", "sync"), spawn(write, b"other", second), spawn(watch)]
        for worker in workers:
            worker.result(20)
        db.abandon()
    with enginelib.open(tmp_path / "db") as db:
        assert db["space"][b"sync"] == b"39"
        assert db.verify().ok


def test_a_sync_commit_makes_lazy_ones_before_it_durable(tmp_path, tree):
    with enginelib.open(tmp_path / "db", durability="lazy", background=False) as db:
        ks = db.keyspace("space", **tree)
        for n in range(20):
            ks[b"lazy%d" % n] = b"1"
        with db.transaction(durability="sync") as txn:
            txn.put(ks, b"sync", b"1")
        log = db.stats()["log"]
        assert log["synced_lsn"] == log["end_lsn"]
        ks[b"late"] = b"1"
        assert db.stats()["log"]["synced_lsn"] < db.stats()["log"]["end_lsn"]
        db.sync()
        assert db.stats()["log"]["synced_lsn"] == db.stats()["log"]["end_lsn"]
        db.abandon()
    with enginelib.open(tmp_path / "db") as db:
        assert len(db["space"]) == 22
