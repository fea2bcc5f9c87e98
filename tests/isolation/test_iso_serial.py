"""Serial execution: order, batches that share a sync, failures, and the others who wait."""

import threading
from concurrent.futures import Future

import pytest
from isohelp import until

import enginelib
from enginelib import from_counter, to_counter


@pytest.fixture
def count(db, ks):
    @db.procedure
    def count(txn, key, n=1):
        value = from_counter(txn.get(ks, key)) + n
        txn.put(ks, key, to_counter(value))
        return value

    return count


def test_calls_return_and_raise_what_the_procedure_does(db, ks, count):
    assert db.call("count", b"n") == 1
    assert db.call(count, b"n", 5) == 6
    future = db.submit(count, b"n")
    assert isinstance(future, Future) and future.result(10) == 7

    @db.procedure(name="broken")
    def fails(txn):
        txn.put(ks, b"n", to_counter(0))
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError):
        db.call("broken")
    with pytest.raises(ZeroDivisionError):
        db.submit("broken").result(10)
    assert from_counter(ks[b"n"]) == 7
    with pytest.raises(KeyError, match="'broken', 'count'|'count', 'broken'"):
        db.call("nothing")
    with pytest.raises(KeyError):
        db.submit(print)


def test_registering_is_checked(db, count):
    with pytest.raises(ValueError, match="already"):
        db.procedure(name="count")(lambda txn: None)
    assert db.procedure(count) is count, "the same again is no harm"
    with pytest.raises(TypeError):

        @db.procedure
        def generator(txn):
            yield


def test_submitted_calls_run_in_order_and_see_each_other(db, ks, count):
    futures = [db.submit(count, b"n") for _ in range(1000)]
    assert [future.result(10) for future in futures] == list(range(1, 1001))
    assert from_counter(ks[b"n"]) == 1000


def test_a_batch_shares_a_sync_and_its_futures_wait_for_it(tmp_path):
    with enginelib.open(tmp_path / "db") as db:
        ks = db.keyspace("space")
        gate = threading.Event()

        @db.procedure
        def hold(txn):
            gate.wait(10)

        @db.procedure
        def put(txn, key):
            txn.put(ks, key, b"")

        held = db.submit(hold)
        futures = [db.submit(put, b"%d" % i) for i in range(200)]
        before = db.stats()["log"]["syncs"]
        gate.set()
        for future in futures:
            future.result(10)
        held.result(10)
        assert db.stats()["log"]["syncs"] - before < 20
        assert len(list(ks)) == 200


def test_threads_that_call_and_submit_lose_nothing(db, ks, count, spawn):
    start = threading.Barrier(6)

    def work(call):
        start.wait()
        for _ in range(100):
            if call:
                db.call(count, b"n")
            else:
                db.submit(count, b"n").result(20)

    for worker in [spawn(work, i % 2 == 0) for i in range(6)]:
        worker.result(40)
    assert from_counter(ks[b"n"]) == 600


@pytest.mark.parametrize("level", ["snapshot", "locking", "serializable", "read_committed"])
def test_other_levels_write_between_batches(db, ks, count, spawn, level):
    start = threading.Barrier(3)

    def procedures():
        start.wait()
        for future in [db.submit(count, b"n") for _ in range(300)]:
            future.result(30)

    def others():
        start.wait()
        for _ in range(50):
            db.run(lambda txn: txn.put(ks, b"n", to_counter(from_counter(txn.get_for_update(ks, b"n")) + 1)), isolation=level, retries=1000)

    for worker in [spawn(procedures), spawn(others), spawn(others)]:
        worker.result(60)
    assert from_counter(ks[b"n"]) == 400


def test_a_procedure_waits_for_writers_and_locks(db, ks, count):
    for hold in (lambda txn: txn.put(ks, b"n", to_counter(5)), lambda txn: txn.get_for_update(ks, b"n"), lambda txn: txn.lock_range(ks, b"a", b"z")):
        holder = db.transaction()
        hold(holder)
        futures = [db.submit(count, b"n") for _ in range(3)]
        until(lambda: db.waits_for())
        assert not any(future.done() for future in futures)
        holder.commit()
        values = [future.result(10) for future in futures]
        assert values == list(range(values[0], values[0] + 3))


def test_a_call_within_a_procedure_is_refused_and_a_function_is_not(db, ks, count):
    @db.procedure
    def outer(txn):
        assert count(txn, b"n") == 1
        db.call(count, b"n")

    with pytest.raises(enginelib.UsageError, match="from within"):
        db.call(outer)
    with pytest.raises(enginelib.UsageError, match="from within"):
        db.submit(outer).result(10)
    assert b"n" not in ks


def test_a_procedure_that_ends_its_transaction_is_told(db, ks):
    @db.procedure
    def ends(txn):
        txn.put(ks, b"k", b"1")
        txn.abort()

    with pytest.raises(enginelib.UsageError, match="open"):
        db.call(ends)
    assert b"k" not in ks


def test_a_future_that_was_cancelled_does_not_run(db, ks, count):
    gate = threading.Event()

    @db.procedure
    def hold(txn):
        gate.wait(10)

    held = db.submit(hold)
    until(lambda: held.running())
    future = db.submit(count, b"n")
    assert future.cancel()
    gate.set()
    held.result(10)
    assert db.call(count, b"n") == 1


def test_closing_ends_what_runs_and_fails_what_is_queued(tmp_path):
    db = enginelib.open(tmp_path / "db")
    ks = db.keyspace("space")
    gate = threading.Event()
    begun = threading.Event()

    @db.procedure
    def hold(txn):
        begun.set()
        gate.wait(10)
        txn.put(ks, b"held", b"1")

    held = db.submit(hold)
    begun.wait(10)
    closer = threading.Thread(target=db.close)
    closer.start()
    gate.set()
    closer.join(10)
    held.result(10)
    with pytest.raises(enginelib.DatabaseClosed):
        db.submit(hold)
    with enginelib.open(tmp_path / "db") as again:
        assert again["space"][b"held"] == b"1"


def test_snapshots_see_none_of_a_batch_under_way(db, ks, count):
    seen = []

    @db.procedure
    def look(txn):
        txn.put(ks, b"n", to_counter(9))
        with db.transaction(read_only=True) as other:
            seen.append((ks.get(b"n"), other.get(ks, b"n"), from_counter(txn.get(ks, b"n"))))

    for future in [db.submit(count, b"n"), db.submit(look), db.submit(count, b"n")]:
        future.result(10)
    before, snapshot, own = seen[0]
    assert own == 9 and before == snapshot and from_counter(before) in (0, 1)
    assert from_counter(ks[b"n"]) == 10
