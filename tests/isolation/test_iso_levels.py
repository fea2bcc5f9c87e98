"""What each level does beside the anomalies it prevents: statements, lock modes, queues, ends of waits, safe snapshots, hints."""

import os
import signal
import threading
import time

import pytest
from isohelp import until

import enginelib


def waits(txn):
    until(lambda: txn.waiting)


# --- read committed

def test_each_statement_reads_the_newest_committed_state(db, ks):
    ks.put_many([(b"%03d" % i, b"old") for i in range(500)])
    with db.transaction(isolation="read_committed") as txn:
        assert txn.get(ks, b"000") == b"old"
        ks.put_many([(b"%03d" % i, b"new") for i in range(500)])
        assert txn.get(ks, b"000") == b"new"
        assert set(txn.get_many(ks, [b"%03d" % i for i in range(500)])) == {b"new"}
        assert {value for _, value in txn.scan(ks)} == {b"new"}


def test_one_scan_and_one_get_many_read_one_state(db, ks):
    ks.put_many([(b"%03d" % i, b"old") for i in range(900)])
    with db.transaction(isolation="read_committed") as txn:
        rows = txn.scan(ks)
        first = next(rows)
        ks.put_many([(b"%03d" % i, b"new") for i in range(900)])
        assert {value for _, value in [first, *rows]} == {b"old"}
        txn.put(ks, b"899", b"own")
        mine = txn.scan(ks, b"8")
        assert dict(mine)[b"899"] == b"own"


def test_a_large_value_of_a_scan_stays_readable_while_it_is_replaced(db, ks):
    ks.update({b"a": b"1" * 50_000, b"b": b"2" * 50_000})
    with db.transaction(isolation="read_committed") as txn:
        rows = txn.scan(ks)
        assert next(rows)[1] == b"1" * 50_000
        ks[b"b"] = b"3" * 60_000
        assert next(rows)[1] == b"2" * 50_000
        assert txn.get(ks, b"b") == b"3" * 60_000


def test_a_blocked_writer_goes_on_with_what_the_other_left(db, ks, spawn):
    ks[b"n"] = b"1"
    one, other = (db.transaction(isolation="read_committed") for _ in range(2))
    one.put(ks, b"n", b"2")
    worker = spawn(other.get_for_update, ks, b"n")
    waits(other)
    one.commit()
    assert worker.result() == b"2"
    other.put(ks, b"n", b"3")
    other.commit()
    assert ks[b"n"] == b"3"


# --- two-phase locking

MODES = {
    "S": lambda txn, ks: txn.get(ks, b"k"),
    "U": lambda txn, ks: txn.get_for_update(ks, b"k"),
    "X": lambda txn, ks: txn.put(ks, b"k", b"1"),
    "range S": lambda txn, ks: list(txn.scan(ks, b"a", b"z")),
    "range U": lambda txn, ks: txn.lock_range(ks, b"a", b"z", mode="update"),
    "range X": lambda txn, ks: txn.lock_range(ks, b"a", b"z"),
}


@pytest.mark.parametrize("held", MODES)
@pytest.mark.parametrize("wanted", MODES)
def test_modes_are_compatible_as_in_the_table(db, ks, held, wanted):
    ks[b"k"] = b"0"
    one, other = (db.transaction(isolation="locking", lock_timeout=0.02) for _ in range(2))
    MODES[held](one, ks)
    first, second = held[-1], wanted[-1]
    if (first, second) in {("S", "S"), ("S", "U"), ("U", "S")}:
        MODES[wanted](other, ks)
    else:
        with pytest.raises(enginelib.LockTimeout):
            MODES[wanted](other, ks)
    other.abort()
    one.abort()
    assert db.locks() == []


@pytest.mark.parametrize("edge", [None, b"b", b"c", b"d", b"e"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_locks_its_gaps_and_ends_and_nothing_else(db, ks, edge, reverse):
    ks.update({b"c": b"1", b"g": b"1"})
    reader = db.transaction(isolation="locking")
    assert len(list(reader.scan(ks, b"b", edge, reverse=reverse))) == (2 if edge is None else edge > b"c")
    for key in (b"", b"a", b"b", b"bb", b"c", b"cc", b"d", b"dd", b"g", b"z"):
        inside = key >= b"b" and (edge is None or key < edge)
        with db.transaction(lock_timeout=0) as writer:
            if inside:
                with pytest.raises(enginelib.LockTimeout):
                    writer.put(ks, key, b"")
            else:
                writer.put(ks, key, b"")
            writer.abort()
    reader.commit()


@pytest.mark.parametrize("level", ["locking", "serializable"])
def test_a_cursor_cut_short_is_remembered_as_far_as_it_went(db, ks, level):
    ks.put_many([(b"%03d" % i, b"0") for i in range(300)])
    reader = db.transaction(isolation=level)
    rows = reader.scan(ks)
    for _ in range(10):
        next(rows)
    del rows
    spans = [lock for lock in db.locks() if lock.kind == "range"]
    assert [(lock.start, lock.stop) for lock in spans] == [(b"", b"009")]
    rows = reader.scan(ks, reverse=True)
    for _ in range(10):
        next(rows)
    del rows
    assert (b"290", None) in [(lock.start, lock.stop) for lock in db.locks() if lock.kind == "range"]
    with db.transaction(isolation=level, lock_timeout=0) as writer:
        writer.put(ks, b"010", b"1")
        writer.put(ks, b"289", b"1")
        writer.put(ks, b"0095", b"1")
    reader.commit()


def test_upgrades_through_update_locks_do_not_deadlock(db, ks, spawn):
    ks[b"n"] = b"0"
    start = threading.Barrier(4)

    def count():
        start.wait()
        for _ in range(50):
            with db.transaction(isolation="locking") as txn:
                txn.put(ks, b"n", b"%d" % (int(txn.get_for_update(ks, b"n")) + 1))

    for worker in [spawn(count) for _ in range(4)]:
        worker.result(30)
    assert ks[b"n"] == b"200"
    assert db.stats()["transactions"]["deadlocks"] == 0


def test_who_waits_to_write_is_not_passed_by_later_readers(db, ks, spawn):
    """A convoy: readers that come while a writer waits queue behind it, so it gets its turn, in order of arrival."""
    ks[b"k"] = b"0"
    order = []
    first = db.transaction(isolation="locking")
    first.get(ks, b"k")
    writer = db.transaction(isolation="locking")

    def write():
        writer.put(ks, b"k", b"1")
        order.append("writer")
        writer.commit()

    writing = spawn(write)
    waits(writer)
    later = [db.transaction(isolation="locking") for _ in range(3)]
    reading = []
    for number, txn in enumerate(later):

        def read(txn=txn, number=number):
            value = txn.get(ks, b"k")
            order.append((number, value))
            txn.commit()

        reading.append(spawn(read))
        waits(txn)
    first.commit()
    for worker in [writing, *reading]:
        worker.result()
    assert order[0] == "writer"
    assert {value for _, value in order[1:]} == {b"1"}


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["rows", "upgrades", "ranges", "mixed levels"])
def test_deadlocks_of_two_to_five_tell_the_victim_the_cycle(db, ks, spawn, n, kind):
    levels = ["locking"] * n if kind != "mixed levels" else ["snapshot", "locking", "serializable", "read_committed", "locking"][:n]
    txns = [db.transaction(isolation=level) for level in levels]
    keys = [b"k%d" % i for i in range(n)]
    for i, txn in enumerate(txns):
        if kind == "upgrades":
            txn.get(ks, b"shared")
        elif kind == "ranges":
            txn.lock_range(ks, keys[i], keys[i] + b"z")
        else:
            txn.put(ks, keys[i], b"1")
    target = [b"shared" if kind == "upgrades" else keys[(i + 1) % n] for i in range(n)]
    workers = []
    for i in range(n):
        workers.append(spawn(txns[i].put, ks, target[i], b"2"))
        if i < n - 1:
            until(lambda i=i: txns[i].waiting or not workers[i].running)
    victims = []
    for _ in range(n):
        until(lambda: any(not worker.running for worker in workers))
        i = next(i for i in range(n) if not workers[i].running)
        error = workers[i].error
        if isinstance(error, enginelib.DeadlockDetected):
            victims.append(error)
            txns[i].abort()
        else:
            if error is not None:
                assert isinstance(error, (enginelib.WriteConflict, enginelib.SerializationFailure))
                txns[i].abort()
            else:
                txns[i].commit()
        del workers[i], txns[i]
        n -= 1
    assert victims
    cycle = victims[0].cycle
    assert 2 <= len(cycle) <= 5
    assert [wait.holder for wait in cycle] == [wait.waiter for wait in [*cycle[1:], cycle[0]]]
    assert {wait.keyspace for wait in cycle} == {"space"}
    assert {wait.start for wait in cycle} <= set(target)


def test_nowait_and_skip_locked_do_not_wait(db, ks):
    ks.update({b"a": b"1", b"b": b"2", b"c": b"3"})
    holder = db.transaction()
    holder.get_for_update(ks, b"a")
    for level in ("read_committed", "snapshot", "serializable", "locking"):
        with db.transaction(isolation=level) as txn:
            began = time.monotonic()
            with pytest.raises(enginelib.LockTimeout):
                txn.get_for_update(ks, b"a", nowait=True)
            assert txn.get_for_update(ks, b"a", b"busy", skip_locked=True) == b"busy"
            assert [key for key, _ in txn.scan(ks, for_update=True, skip_locked=True)] == [b"b", b"c"]
            with pytest.raises(enginelib.LockTimeout):
                list(txn.scan(ks, for_update=True, nowait=True))
            with pytest.raises(enginelib.LockTimeout):
                txn.lock_range(ks, b"a", b"b", nowait=True)
            assert time.monotonic() - began < 5
            assert txn.get_for_update(ks, b"c") == b"3", "the transaction goes on"
            txn.abort()
    holder.abort()


def test_a_queue_of_jobs_worked_by_many_threads_does_each_once(db, ks, spawn):
    ks.put_many([(b"%04d" % i, b"job") for i in range(400)])
    done = []

    def take(txn):
        for key, _ in txn.scan(ks, limit=1, for_update=True, skip_locked=True):
            txn.delete(ks, key)
            return key
        return None

    def work():
        while (key := db.run(take, isolation="read_committed")) is not None:
            done.append(key)

    for worker in [spawn(work) for _ in range(8)]:
        worker.result(60)
    while (key := db.run(take, isolation="read_committed")) is not None:      # what was locked when the others looked
        done.append(key)
    assert sorted(done) == [b"%04d" % i for i in range(400)]


def test_many_locks_become_one_range(db, ks):
    ks.put_many([(b"%06d" % i, b"") for i in range(20_000)])
    with db.transaction(isolation="locking") as txn:
        for i in range(0, 20_000, 2):
            txn.get(ks, b"%06d" % i)
        stats = db.stats()["isolation"]
        assert stats["escalations"] >= 2 and stats["locks"] < 4200
        with db.transaction(lock_timeout=0) as writer:
            with pytest.raises(enginelib.LockTimeout):
                writer.put(ks, b"000004", b"")
            writer.put(ks, b"1", b"")


def test_many_remembered_reads_become_one_range_and_false_conflicts_are_counted(db, ks):
    ks.put_many([(b"%06d" % i, b"") for i in range(20_000)])
    one = db.transaction(isolation="serializable")
    for i in range(0, 20_000, 2):
        one.get(ks, b"%06d" % i)
    assert db.stats()["isolation"]["summaries"] >= 2
    assert db.stats()["isolation"]["remembered_reads"] < 4200
    other = db.transaction(isolation="serializable")
    other.get(ks, b"zz")
    other.put(ks, b"000001", b"1")          # never read by the first; its summary says it may have been
    one.put(ks, b"zz", b"1")
    failures = 0
    for txn in (one, other):
        try:
            txn.commit()
        except enginelib.SerializationFailure:
            failures += 1
            txn.abort()
    assert failures == 1


def test_locks_outlast_a_rollback_to_a_savepoint(db, ks):
    ks[b"k"] = b"1"
    for level in ("locking", "serializable"):
        reader = db.transaction(isolation=level)
        with reader.savepoint() as mark:
            assert reader.get(ks, b"k") == b"1"
            assert reader.delete(ks, b"absent") is False
            assert reader.delete(ks, b"k") is True
            mark.rollback()
        held = {lock.start for lock in db.locks() if lock.kind == "key"}
        assert held == {b"k", b"absent"}
        reader.abort()


def test_the_view_of_locks_says_who_holds_and_waits_for_what(db, ks, spawn):
    one = db.transaction(isolation="locking")
    one.put(ks, b"k", b"1")
    one.get(ks, b"j")
    other = db.transaction(isolation="locking")
    worker = spawn(other.get, ks, b"k")
    waits(other)
    (wait,) = db.waits_for()
    assert (wait.waiter, wait.holder, wait.keyspace, wait.mode, wait.kind, wait.start) == (other.number, one.number, "space", "S", "key", b"k")
    assert wait.seconds >= 0
    rows = {(lock.transaction, lock.mode, lock.kind, lock.start, lock.granted) for lock in db.locks()}
    assert rows == {
        (one.number, "IX", "keyspace", b"", True), (one.number, "X", "key", b"k", True), (one.number, "S", "key", b"j", True),
        (other.number, "S", "key", b"k", False), (other.number, "IS", "keyspace", b"", True),
    }  # fmt: skip
    assert len(db.locks(limit=1)) == 2
    one.commit()
    assert worker.result() == b"1"
    other.commit()
    assert db.locks() == [] == db.waits_for()


@pytest.mark.parametrize("level", ["locking", "serial"])
def test_a_wait_ends_with_the_database(tmp_path, spawn, level):
    db = enginelib.open(tmp_path / "db")
    ks = db.keyspace("space")
    ks[b"k"] = b"0"
    holder = db.transaction()
    holder.put(ks, b"k", b"1")

    def wait():
        with db.transaction(isolation=level) as txn:
            txn.get(ks, b"k")

    worker = spawn(wait)
    until(lambda: db.waits_for())
    db.close()
    with pytest.raises(enginelib.DatabaseClosed):
        worker.result()


@pytest.mark.parametrize("level", ["locking", "serial"])
def test_a_wait_ends_with_ctrl_c(db, ks, level):
    holder = db.transaction()
    holder.put(ks, b"k", b"1")
    timer = threading.Thread(target=lambda: (until(lambda: db.waits_for()), os.kill(os.getpid(), signal.SIGINT)))
    timer.start()
    with pytest.raises(KeyboardInterrupt), db.transaction(isolation=level) as txn:
        txn.get(ks, b"k")
    timer.join()
    holder.commit()
    assert db.waits_for() == [] and db.locks() == []
    with db.transaction(isolation=level) as txn:
        assert txn.get(ks, b"k") == b"1"


# --- serializable

def test_a_safe_snapshot_remembers_nothing_and_never_fails(db, ks):
    ks[b"k"] = b"1"
    with db.transaction(isolation="serializable", read_only=True) as txn:
        assert txn.safe, "nobody else is there to make it unsafe"
        list(txn.scan(ks))
        assert db.stats()["isolation"]["remembered_reads"] == 0
    writer = db.transaction(isolation="serializable")
    writer.put(ks, b"k", b"2")
    with db.transaction(isolation="serializable", read_only=True) as txn:
        assert not txn.safe
        list(txn.scan(ks))
        assert db.stats()["isolation"]["remembered_reads"] == 1
        writer.commit()
        assert txn.safe, "the writer ended without a conflict out"
        assert db.stats()["isolation"]["remembered_reads"] == 0


def test_deferrable_waits_for_a_safe_snapshot(db, ks, spawn):
    """The read-only anomaly's report waits until the receipt that it must not miss is written."""
    ks[b"batch"] = b"1"
    receipt = db.transaction(isolation="serializable")
    receipt.get(ks, b"batch")
    with db.transaction(isolation="serializable") as closing:
        closing.put(ks, b"batch", b"2")
    begun = threading.Event()

    def report():
        begun.set()
        with db.transaction(isolation="serializable", read_only=True, deferrable=True) as txn:
            assert txn.safe
            return txn.get(ks, b"batch"), dict(txn.scan(ks, prefix=b"receipt"))

    worker = spawn(report)
    begun.wait(10)
    receipt.put(ks, b"receipt", b"old")
    assert worker.running
    receipt.commit()
    assert worker.result() == (b"2", {b"receipt": b"old"})


def test_a_victim_that_tries_again_at_once_succeeds(db, ks):
    ks.update({b"x": b"on", b"y": b"on"})
    one, other = (db.transaction(isolation="serializable") for _ in range(2))
    for txn in (one, other):
        assert txn.get_many(ks, [b"x", b"y"]) == [b"on", b"on"]
    one.put(ks, b"x", b"off")
    other.put(ks, b"y", b"off")
    one.commit()
    with pytest.raises(enginelib.SerializationFailure):
        other.commit()
    other.abort()
    with db.transaction(isolation="serializable") as again:
        assert again.get_many(ks, [b"x", b"y"]) == [b"off", b"on"]
        again.put(ks, b"x", b"on")


def test_what_is_remembered_of_committed_transactions_goes_when_nobody_can_need_it(db, ks):
    old = db.transaction(isolation="serializable")
    old.get(ks, b"a")
    for i in range(50):
        with db.transaction(isolation="serializable") as txn:
            txn.get(ks, b"%d" % i)
            txn.put(ks, b"w%d" % i, b"")
    assert db.stats()["isolation"]["serializable_committed"] == 50
    old.commit()
    assert db.stats()["isolation"]["serializable_committed"] == 0
    assert db.stats()["isolation"]["remembered_reads"] == 0


@pytest.mark.parametrize("level", ["serializable", "locking"])
def test_snapshot_reads_leave_no_trace(db, ks, level):
    ks.update({b"a": b"1", b"b": b"2"})
    with db.transaction(isolation=level) as txn:
        assert txn.get(ks, b"a", snapshot=True) == b"1"
        assert txn.get_many(ks, [b"a", b"b"], snapshot=True) == [b"1", b"2"]
        assert len(list(txn.scan(ks, snapshot=True))) == 2
        assert db.locks() == []


def skew(db, ks, level, hint):
    """Two transactions that would not see each other but for the hint; how many of them fail."""
    one, other = (db.transaction(isolation=level, lock_timeout=0.05) for _ in range(2))
    failures = 0
    try:
        for txn, key in ((one, b"1"), (other, b"2")):
            hint(txn, key)
            txn.put(ks, key, b"")
    except enginelib.TransactionAborted:
        other.abort()
        failures += 1
    for txn in (one, other):
        try:
            if txn.state == "active":
                txn.commit()
        except enginelib.TransactionAborted:
            txn.abort()
            failures += 1
    return failures


def test_hints_make_conflicts_that_the_records_do_not_show(db, ks):
    def nothing(txn, key):
        pass

    def rule(txn, key):
        txn.write_conflict(ks, b"rule", b"rule\0")

    def read(txn, key):
        txn.read_conflict(ks, b"0", b"9")

    for level in ("snapshot", "serializable", "locking"):
        assert skew(db, ks, level, nothing) == 0
        assert skew(db, ks, level, rule) == 1, level
    assert skew(db, ks, "serializable", read) == 1
    assert skew(db, ks, "snapshot", read) == 0


def test_a_write_conflict_is_a_change_to_those_who_read(db, ks):
    reader, writer = (db.transaction(isolation="serializable") for _ in range(2))
    list(reader.scan(ks, b"r", b"s"))
    writer.get(ks, b"x")
    writer.write_conflict(ks, b"ra", b"rb")
    reader.put(ks, b"x", b"1")
    reader.commit()
    with pytest.raises(enginelib.SerializationFailure):
        writer.commit()
    writer.abort()


# --- levels beside each other

@pytest.mark.parametrize("writer_level", ["read_committed", "snapshot", "serializable", "serial", "locking"])
def test_what_a_locking_transaction_has_read_stays(db, ks, spawn, writer_level):
    ks[b"k"] = b"1"
    reader = db.transaction(isolation="locking")
    assert reader.get(ks, b"k") == b"1"

    def write():
        db.run(lambda txn: txn.put(ks, b"k", b"2"), isolation=writer_level)

    worker = spawn(write)
    until(lambda: db.waits_for())
    assert reader.get(ks, b"k") == b"1"
    assert ks[b"k"] == b"1"
    reader.commit()
    worker.result()
    assert ks[b"k"] == b"2"


@pytest.mark.parametrize("level", ["read_committed", "snapshot", "serializable", "locking"])
def test_while_a_serial_transaction_is_there_nobody_else_begins_to_write(db, ks, spawn, level):
    with db.transaction(isolation="serial") as alone:
        alone.put(ks, b"a", b"1")
        other = db.transaction(isolation=level)
        worker = spawn(other.put, ks, b"b", b"1")
        waits(other)
        assert db.waits_for()[0].kind == "place"
        assert dict(alone.scan(ks)) == {b"a": b"1"}
        assert ks.get(b"a") is None, "not committed yet"
    worker.result()
    other.commit()
    assert dict(ks) == {b"a": b"1", b"b": b"1"}


def test_read_only_transactions_wait_for_nobody(db, ks):
    ks[b"k"] = b"1"
    holder = db.transaction(isolation="locking")
    holder.put(ks, b"k", b"2")
    holder.lock_range(ks)
    for level in ("read_committed", "snapshot", "serializable"):
        with db.transaction(isolation=level, read_only=True, lock_timeout=0) as txn:
            assert txn.get(ks, b"k") == b"1" and list(txn.scan(ks)) == [(b"k", b"1")]
    holder.abort()
