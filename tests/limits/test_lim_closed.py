"""Use after the end: of databases, transactions, scans and savepoints; closing beside others."""

import gc
import threading

import pytest
from limhelp import Thread, blocked

import enginelib


def test_every_method_of_a_closed_database_says_so(path):
    db = enginelib.open(path)
    ks = db.keyspace("space")
    ks[b"k"] = b"v"
    txn = db.transaction()
    txn.put(ks, b"l", b"v")
    scan = txn.scan(ks)
    next(scan)
    free_scan = ks.scan()
    db.close()
    assert db.closed
    db.close()
    for attempt in (
        lambda: db.keyspace("space"),
        lambda: db["space"],
        lambda: db.keyspaces(),
        lambda: "space" in db,
        lambda: list(db),
        lambda: db.drop_keyspace("space"),
        lambda: db.rename_keyspace("space", "x"),
        lambda: db.transaction(),
        lambda: db.run(lambda t: None),
        lambda: db.checkpoint(),
        lambda: db.sync(),
        lambda: db.backup(str(path) + "2"),
        lambda: db.verify(),
        lambda: db.stats(),
        lambda: list(db.log_records()),
        lambda: db.step("gc"),
        lambda: ks[b"k"],
        lambda: ks.get(b"k"),
        lambda: ks.put(b"k", b""),
        lambda: ks.put(b"k", b"x" * 100_000),
        lambda: ks.delete(b"k"),
        lambda: ks.get_many([b"k"]),
        lambda: ks.put_many([(b"k", b"")]),
        lambda: b"k" in ks,
        lambda: len(ks),
        lambda: list(ks),
        lambda: ks.clear(),
        lambda: ks.pop(b"k"),
        lambda: ks.compact(),
        lambda: txn.get(ks, b"k"),
        lambda: txn.get_many(ks, [b"k"]),
        lambda: txn.put(ks, b"k", b""),
        lambda: txn.put(ks, b"k", b"x" * 100_000),
        lambda: txn.put_many(ks, [(b"k", b"")]),
        lambda: txn.delete(ks, b"k"),
        lambda: txn.delete_range(ks),
        lambda: txn.get_for_update(ks, b"k"),
        lambda: list(txn.scan(ks)),
        lambda: txn.save(),
        lambda: txn.create_keyspace("x"),
        lambda: txn.drop_keyspace("space"),
        lambda: txn.rename_keyspace("space", "x"),
        lambda: txn.commit(),
        lambda: next(scan),
        lambda: next(free_scan),
    ):
        with pytest.raises((enginelib.DatabaseClosed, enginelib.TransactionClosed)):
            attempt()
    txn.abort()
    assert "closed" in repr(db) and isinstance(repr(txn), str) and isinstance(repr(ks), str)
    assert ks.stats() is not None
    txn = scan = free_scan = None
    gc.collect()
    with enginelib.open(path) as db:
        assert dict(db["space"]) == {b"k": b"v"}
        assert db.verify().ok


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_every_method_of_an_ended_transaction_says_so(db, ks, end):
    ks[b"k"] = b"v"
    txn = db.transaction()
    view = txn[ks]
    depth = txn.save()
    scan = txn.scan(ks)
    next(scan)
    late = txn.scan(ks)
    txn.put(ks, b"l", b"")
    getattr(txn, end)()
    for attempt in (
        lambda: txn.get(ks, b"k"),
        lambda: txn.contains(ks, b"k"),
        lambda: txn.get_many(ks, [b"k"]),
        lambda: txn.put(ks, b"k", b""),
        lambda: txn.put_many(ks, [(b"k", b"")]),
        lambda: txn.delete(ks, b"k"),
        lambda: txn.delete_range(ks),
        lambda: txn.get_for_update(ks, b"k"),
        lambda: txn.scan(ks),
        lambda: txn.save(),
        lambda: txn.rollback_to(depth),
        lambda: txn.release(depth),
        lambda: txn.create_keyspace("x"),
        lambda: txn.drop_keyspace("space"),
        lambda: txn.rename_keyspace("space", "x"),
        lambda: txn.commit(),
        lambda: view[b"k"],
        lambda: view.update({b"k": b""}),
        lambda: next(scan),
        lambda: next(late),
    ):
        with pytest.raises(enginelib.TransactionClosed):
            attempt()
    txn.abort()
    assert txn.state == {"commit": "committed", "abort": "aborted"}[end]
    assert isinstance(repr(txn), str) and txn.id


def test_an_iterator_outlives_its_transaction_and_says_so(db, ks):
    ks.put_many([(b"%04d" % n, b"v") for n in range(2000)])
    with db.transaction() as txn:
        scans = [txn.scan(ks), txn.scan(ks, reverse=True), txn.scan(ks, keys=False), iter(txn[ks].items())]
        for scan in scans:
            next(scan)
    del txn
    for scan in scans:
        with pytest.raises(enginelib.TransactionClosed, match="ended"):
            next(scan)


def test_an_iterator_keeps_its_keyspace_and_transaction_in_being(db):
    scan = db.keyspace("space").scan()
    db.keyspace("space").put_many([(b"%04d" % n, b"v") for n in range(2000)])
    gc.collect()
    assert list(scan) == []
    scan = db.keyspace("space").scan()
    gc.collect()
    assert len(list(scan)) == 2000


def test_closing_aborts_transactions_and_wakes_who_waits_for_a_row(path):
    db = enginelib.open(path, lock_timeout=60)
    ks = db.keyspace("space")
    ks[b"k"] = b"old"
    holder = db.transaction()
    holder.put(ks, b"k", b"never")
    scan = db.transaction(read_only=True).scan(ks)
    next(scan)
    fresh, writer = db.transaction(), db.transaction()
    writer.put(ks, b"other", b"never")
    waiters = [Thread(fresh.put, ks, b"k", b"never"), Thread(writer.put, ks, b"k", b"never")]
    plain = Thread(ks.put, b"k", b"never")
    blocked(fresh)
    blocked(writer)
    closer = Thread(db.close)
    closer.settled()
    assert closer.error is None
    for waiter in [*waiters, plain]:
        assert isinstance(waiter.settled().error, enginelib.DatabaseClosed), waiter.error
    for attempt in (lambda: next(scan), holder.commit, fresh.commit, lambda: holder.put(ks, b"k", b"")):
        with pytest.raises(enginelib.DatabaseClosed):
            attempt()
    with enginelib.open(path) as db:
        assert db.recovery["rolled_back"] == 0
        assert dict(db["space"]) == {b"k": b"old"}
        assert db.verify().ok


def test_closing_beside_threads_at_work_ends_them_with_an_error_and_keeps_every_commit(path):
    db = enginelib.open(path, durability="os", cache_size=1 << 20, segment_size=1 << 20)
    ks = db.keyspace("space")
    start = threading.Barrier(5)
    done = {}

    def work(number):
        start.wait(10)
        for n in range(10**9):
            with db.transaction() as txn:
                txn.put(ks, b"%d-%08d" % (number, n), b"v" * (n % 50) * 100)
                list(txn.scan(ks, limit=20))
            done[number] = n

    threads = [Thread(work, n) for n in range(4)]
    start.wait(10)
    while len(done) < 4:
        ks.get(b"k")
    db.close()
    for thread in threads:
        assert isinstance(thread.settled().error, enginelib.DatabaseClosed), thread.error
    with enginelib.open(path) as db:
        keys = set(db["space"])
        for number, last in done.items():
            assert all(b"%d-%08d" % (number, n) in keys for n in range(last + 1))
        assert db.verify().ok


def test_many_threads_may_close_at_once(path):
    db = enginelib.open(path)
    db.keyspace("space")[b"k"] = b"v"
    start = threading.Barrier(6)

    def close():
        start.wait(10)
        db.close()

    for thread in [Thread(close) for _ in range(6)]:
        assert thread.settled().error is None
    with enginelib.open(path, lock_timeout=5) as db:
        assert db["space"][b"k"] == b"v"


def test_a_transaction_in_a_with_block_of_a_database_closed_inside_it(path):
    db = enginelib.open(path)
    ks = db.keyspace("space")
    with pytest.raises(enginelib.DatabaseClosed):
        with db.transaction() as txn:
            txn.put(ks, b"k", b"v")
            db.close()
    with pytest.raises(RuntimeError, match="mine"):
        with enginelib.open(path) as db, db.transaction() as txn:
            db.close()
            raise RuntimeError("mine")


def test_a_transaction_of_two_threads_is_a_thread_error_while_the_first_waits_in_it(db, ks):
    holder = db.transaction()
    holder.put(ks, b"k", b"1")
    shared = db.transaction(lock_timeout=30)
    scan = shared.scan(ks)
    depth = shared.save()
    waiter = Thread(shared.put, ks, b"k", b"2")
    blocked(shared)
    for attempt in (
        lambda: shared.get(ks, b"k"),
        lambda: shared.get_many(ks, [b"k"]),
        lambda: shared.put(ks, b"x", b"2"),
        lambda: shared.put_many(ks, [(b"x", b"2")]),
        lambda: shared.delete(ks, b"x"),
        lambda: shared.delete_range(ks),
        lambda: shared.get_for_update(ks, b"x"),
        lambda: shared.scan(ks),
        lambda: next(scan),
        lambda: shared.save(),
        lambda: shared.rollback_to(depth),
        lambda: shared.release(depth),
        lambda: shared.commit(),
        lambda: shared.abort(),
        lambda: shared.create_keyspace("x"),
    ):
        with pytest.raises(enginelib.ThreadError, match="transaction of its own"):
            attempt()
    holder.abort()
    assert waiter.settled().error is None
    shared.commit()
    assert ks[b"k"] == b"2"


def test_a_transaction_may_go_from_thread_to_thread(db, ks):
    txn = db.transaction()
    for n in range(5):
        assert Thread(txn.put, ks, b"%d" % n, b"").settled().error is None
    assert Thread(txn.commit).settled().error is None
    assert len(ks) == 5
