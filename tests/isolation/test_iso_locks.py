"""Row locks: waiting, its bounds, and who is woken with what."""

import threading
import time

import pytest
from isohelp import blocked, until

import enginelib


def test_a_writer_waits_and_proceeds_when_the_other_aborts(db, ks, spawn):
    ks[b"k"] = b"0"
    first, second = db.transaction(), db.transaction()
    first.put(ks, b"k", b"1")
    worker = spawn(second.put, ks, b"k", b"2")
    blocked(second)
    assert worker.running
    first.abort()
    worker.result()
    second.commit()
    assert ks[b"k"] == b"2"


def test_a_writer_waits_and_gets_a_conflict_when_the_other_commits(db, ks, spawn):
    ks[b"k"] = b"0"
    first, second = db.transaction(), db.transaction()
    first.put(ks, b"k", b"1")
    worker = spawn(second.put, ks, b"k", b"2")
    blocked(second)
    first.commit()
    with pytest.raises(enginelib.WriteConflict):
        worker.result()
    second.abort()
    assert ks[b"k"] == b"1"
    assert db.stats()["transactions"]["conflicts"] == 1


def test_a_writer_that_waited_for_a_lock_alone_proceeds(db, ks, spawn):
    ks[b"k"] = b"0"
    first, second = db.transaction(), db.transaction()
    assert first.get_for_update(ks, b"k") == b"0"
    worker = spawn(second.put, ks, b"k", b"2")
    blocked(second)
    first.commit()
    worker.result()
    second.commit()
    assert ks[b"k"] == b"2"


def test_a_keyspace_operation_waits_and_then_applies_to_the_newest_state(db, ks, spawn):
    ks[b"k"] = b"0"
    first = db.transaction()
    first.put(ks, b"k", b"1")
    worker = spawn(ks.put, b"k", b"2")
    other = spawn(ks.put, b"k", b"3" * 50_000)
    first.commit()
    worker.result()
    other.result()
    assert ks[b"k"] in (b"2", b"3" * 50_000)


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_all_who_wait_for_one_row_get_it_in_turn_or_a_conflict(db, ks, spawn, end):
    ks[b"k"] = b"0"
    first = db.transaction()
    first.put(ks, b"k", b"1")
    others = [db.transaction() for _ in range(5)]

    def attempt(txn):
        txn.put(ks, b"k", b"x")
        txn.commit()

    workers = [spawn(attempt, txn) for txn in others]
    for txn in others:
        blocked(txn)
    getattr(first, end)()
    ended = [type(worker.settled().error) for worker in workers]
    assert ended.count(enginelib.WriteConflict) == (5 if end == "commit" else 4)
    for txn in others:
        txn.abort()


def test_lock_timeout_names_the_limit_and_leaves_the_transaction_usable(db, ks):
    first = db.transaction()
    first.put(ks, b"k", b"1")
    second = db.transaction(lock_timeout=0.05)
    second.put(ks, b"other", b"2")
    began = time.monotonic()
    with pytest.raises(enginelib.LockTimeout, match="50 ms") as caught:
        second.put(ks, b"k", b"2")
    assert 0.04 < time.monotonic() - began < 5
    assert caught.value.retryable and caught.value.code == "lock_timeout"
    first.abort()
    second.put(ks, b"k", b"2")
    second.commit()
    assert ks[b"k"] == b"2" and ks[b"other"] == b"2"


def test_nowait_fails_at_once(db, ks):
    first = db.transaction()
    first.put(ks, b"k", b"1")
    second = db.transaction(lock_timeout=0)
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(enginelib.LockTimeout):
            second.put(ks, b"k", b"2")
    assert time.monotonic() - began < 1
    first.abort()
    second.abort()


def test_the_lock_timeout_of_the_database_holds_where_none_is_given(tmp_path, tree):
    with enginelib.open(":memory:", lock_timeout=0.02) as db:
        ks = db.keyspace("space", **tree)
        first = db.transaction()
        first.put(ks, b"k", b"1")
        with pytest.raises(enginelib.LockTimeout, match="20 ms"):
            ks[b"k"] = b"2"
        with db.transaction() as second, pytest.raises(enginelib.LockTimeout, match="20 ms"):
            second.get_for_update(ks, b"k")
        first.abort()


def test_read_only_transactions_neither_block_nor_are_blocked(db, ks):
    ks[b"k"] = b"0"
    writer = db.transaction()
    writer.put(ks, b"k", b"1")
    writer.put(ks, b"new", b"1")
    reader = db.transaction(read_only=True, lock_timeout=0)
    assert reader.get(ks, b"k") == b"0"
    assert list(reader.scan(ks)) == [(b"k", b"0")]
    assert reader.get_many(ks, [b"k", b"new"]) == [b"0", None]
    other = db.transaction(lock_timeout=0)
    assert other.get(ks, b"k") == b"0"
    writer.put(ks, b"k", b"2")
    writer.commit()
    assert reader.get(ks, b"k") == b"0"
    with pytest.raises(enginelib.ReadOnlyError):
        reader.put(ks, b"k", b"3")
    with pytest.raises(enginelib.ReadOnlyError):
        reader.get_for_update(ks, b"k")
    reader.commit()
    other.abort()


def test_rows_of_different_keys_and_keyspaces_do_not_meet(db, ks, tree):
    other = db.keyspace("other", **tree)
    with db.transaction(lock_timeout=0) as first, db.transaction(lock_timeout=0) as second:
        first.put(ks, b"a", b"1")
        second.put(ks, b"b", b"1")
        second.put(other, b"a", b"1")
        first.put(other, b"b", b"1")
    assert ks[b"a"] == ks[b"b"] == other[b"a"] == other[b"b"] == b"1"


def make_cycle(db, ks, spawn, n, extra):
    """n transactions, each holding a row and waiting for the next one's; the i-th has changed extra[i] rows more."""
    txns = [db.transaction(lock_timeout=60) for _ in range(n)]
    for i, txn in enumerate(txns):
        txn.put(ks, b"row%d" % i, b"mine")
        for j in range(extra[i]):
            txn.put(ks, b"extra%d-%d" % (i, j), b"")
    workers = []
    for i in range(n - 1):
        workers.append(spawn(txns[i].put, ks, b"row%d" % (i + 1), b"theirs"))
        blocked(txns[i])
    began = time.monotonic()
    workers.append(spawn(txns[n - 1].put, ks, b"row0", b"theirs"))
    return txns, workers, began


@pytest.mark.parametrize("extra", [(0, 3), (3, 0), (0, 3, 3), (3, 0, 3), (3, 3, 0)])
def test_a_deadlock_is_found_at_once_and_who_changed_least_pays(db, ks, spawn, extra):
    n = len(extra)
    least = extra.index(0)
    txns, workers, began = make_cycle(db, ks, spawn, n, extra)
    with pytest.raises(enginelib.DeadlockDetected) as caught:
        workers[least].result(5)
    assert time.monotonic() - began < 1
    assert caught.value.retryable
    txns[least].abort()
    until(lambda: not workers[(least - 1) % n].running)
    for step in range(1, n):
        i = (least - step) % n
        worker = workers[i].settled()
        if worker.error is None:
            txns[i].commit()
        else:
            assert type(worker.error) is enginelib.WriteConflict
            txns[i].abort()
    assert db.stats()["transactions"]["deadlocks"] == 1


def test_a_deadlock_victim_that_is_run_again_succeeds(db, ks, spawn):
    barrier = threading.Barrier(2)
    rounds = []

    def swap(txn, one, other):
        txn.put(ks, one, b"1")
        if len(rounds) < 2:
            rounds.append(one)
            barrier.wait(10)
        txn.put(ks, other, b"2")

    workers = [spawn(db.run, swap, b"a", b"b"), spawn(db.run, swap, b"b", b"a")]
    for worker in workers:
        worker.result()
    assert db.stats()["transactions"]["deadlocks"] >= 1
    assert sorted(dict(ks).values()) == [b"1", b"2"]


def test_waiters_without_a_cycle_are_no_deadlock(db, ks, spawn):
    first, second, third = (db.transaction() for _ in range(3))
    first.put(ks, b"a", b"1")
    second.put(ks, b"b", b"2")
    waits = spawn(second.put, ks, b"a", b"2")
    blocked(second)
    also = spawn(third.put, ks, b"b", b"3")
    blocked(third)
    first.abort()
    waits.result()
    second.abort()
    also.result()
    third.commit()
    assert db.stats()["transactions"]["deadlocks"] == 0
    assert dict(ks) == {b"b": b"3"}


def test_dropping_a_handle_releases_its_rows(db, ks):
    txn = db.transaction()
    txn.put(ks, b"k", b"1")
    del txn
    with db.transaction(lock_timeout=10) as other:
        other.put(ks, b"k", b"2")
    assert ks[b"k"] == b"2"


def test_get_for_update_returns_the_value_and_keeps_others_out(db, ks, spawn):
    ks[b"n"] = b"0"
    start = threading.Barrier(4)

    def count():
        start.wait()
        for _ in range(25):
            db.run(lambda txn: txn.put(ks, b"n", b"%d" % (int(txn.get_for_update(ks, b"n")) + 1)), retries=1000)

    for worker in [spawn(count) for _ in range(4)]:
        worker.result(20)
    assert ks[b"n"] == b"100"


def test_get_for_update_of_an_absent_key_locks_its_place(db, ks):
    first = db.transaction()
    assert first.get_for_update(ks, b"k", b"none") == b"none"
    with db.transaction(lock_timeout=0) as second, pytest.raises(enginelib.LockTimeout):
        second.put(ks, b"k", b"2")
    first.put(ks, b"k", b"1")
    first.commit()
    assert ks[b"k"] == b"1"
