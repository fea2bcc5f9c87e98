"""Threads that prepare, and others that end what those have prepared, while the database is checkpointed."""

import queue
import random
import threading

import pytest

import enginelib

ACCOUNTS = 12
TURNS = 60
THREADS = 5


@pytest.mark.parametrize("isolation", ["snapshot", "serializable", "locking"])
def test_money_is_neither_made_nor_lost(tmp_path, tree, isolation):
    db = enginelib.open(tmp_path / "db", durability="os", lock_timeout=5, segment_size=1 << 20, cache_size=4 << 20)
    ks = db.keyspace("accounts", **tree)
    ks.put_many([(b"%02d" % i, b"100") for i in range(ACCOUNTS)])
    waiting: queue.Queue[str | None] = queue.Queue()
    counts = {"committed": 0, "rolled back": 0, "aborted": 0}
    problems = []

    def move(number):
        rng = random.Random(number)
        try:
            for turn in range(TURNS):
                txn = db.transaction(isolation=isolation)
                try:
                    source, target = (b"%02d" % i for i in rng.sample(range(ACCOUNTS), 2))
                    amount = rng.randrange(1, 20)
                    left, there = int(txn.get(ks, source)), int(txn.get(ks, target))
                    txn.put(ks, source, b"%d" % (left - amount))
                    txn.put(ks, target, b"%d" % (there + amount))
                    txn.prepare(f"{number}/{turn}")
                    waiting.put(f"{number}/{turn}")
                except enginelib.TransactionAborted:
                    txn.abort()
                    counts["aborted"] += 1
        except BaseException as error:
            problems.append(error)
        waiting.put(None)

    def end():
        rng = random.Random(0)
        running = THREADS
        try:
            while running:
                xid = waiting.get()
                if xid is None:
                    running -= 1
                elif rng.random() < 0.7:
                    db.commit_prepared(xid)
                    assert db.outcome(xid) == "committed"
                    db.forget(xid, durability="lazy")
                    counts["committed"] += 1
                else:
                    db.rollback_prepared(xid)
                    counts["rolled back"] += 1
                if rng.random() < 0.05:
                    db.checkpoint()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=move, args=(n,)) for n in range(THREADS)] + [threading.Thread(target=end)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert not problems
        assert counts["committed"] > 20 and counts["rolled back"] > 5
        assert sum(int(value) for value in ks.values()) == ACCOUNTS * 100
        assert db.prepared() == [] and db.outcomes() == [] and db.locks() == [] and db.waits_for() == []
        db.abandon()
        db = enginelib.open(tmp_path / "db")
        assert sum(int(value) for value in db["accounts"].values()) == ACCOUNTS * 100 and db.verify().ok
    finally:
        db.close()
