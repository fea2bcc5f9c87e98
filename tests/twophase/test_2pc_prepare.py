"""The promise: what is prepared ends as it is told, in this process or a later one, and blocks until then."""

import threading
import time

import pytest

import enginelib
from enginelib import HeuristicOutcome, LockTimeout, NotPrepared, SerializationFailure, UsageError, WriteConflict

BIG = b"B" * 50_000


class Odd:
    """A predicate."""

    def matches(self, key, value):
        return int(value) % 2 == 1


def prepared_one(db, tree, xid="x", isolation="snapshot"):
    ks = db.keyspace("k", **tree)
    ks.put(b"old", b"1")
    ks.put(b"gone", b"1")
    ks.put_many([(b"r%02d" % i, b"v") for i in range(20)])
    txn = db.transaction(isolation=isolation)
    txn.put(ks, b"old", b"2")
    txn.put(ks, b"new", BIG)
    assert txn.delete(ks, b"gone")
    with pytest.raises(ZeroDivisionError), txn.savepoint():
        txn.put(ks, b"never", b"1")
        raise ZeroDivisionError
    txn.put(ks, b"old", b"3")
    txn.delete_range(ks, b"r05", b"r10")
    txn.put(ks, b"r07", b"again")
    txn.prepare(xid)
    return txn


BEFORE = {b"old": b"1", b"gone": b"1", **{b"r%02d" % i: b"v" for i in range(20)}}
AFTER = {b"old": b"3", b"new": BIG, b"r07": b"again", **{b"r%02d" % i: b"v" for i in range(20) if not 5 <= i < 10}}


def test_its_changes_are_seen_by_nobody(db, tree):
    txn = prepared_one(db, tree)
    assert txn.state == "prepared"
    assert dict(db["k"].scan()) == BEFORE
    with pytest.raises(enginelib.TransactionClosed):
        txn.get(db["k"], b"old")
    with pytest.raises(enginelib.TransactionClosed):
        txn.commit()
    txn.abort()
    assert [p.xid for p in db.prepared()] == ["x"]
    db.rollback_prepared("x")


@pytest.mark.parametrize("commits", [True, False])
def test_it_ends_as_it_is_told(place, tree, how, commits):
    prepared_one(place.db, tree)
    db = place.again(how)
    assert dict(db["k"].scan()) == BEFORE
    (found,) = db.prepared()
    assert found.xid == "x" and found.isolation == "snapshot" and found.changes >= 4 and found.age >= 0
    assert db.outcome("x") == "prepared"
    if commits:
        db.commit_prepared("x")
    else:
        db.rollback_prepared("x")
    for again in "stay", "crash", "close":
        db = place.again(again)
        assert dict(db["k"].scan()) == (AFTER if commits else BEFORE)
        assert db.prepared() == []
        assert db.outcome("x") == ("committed" if commits else None)
    assert db.verify().ok


@pytest.mark.parametrize("commits", [True, False])
def test_many_openings_and_checkpoints_later(place, tree, commits):
    prepared_one(place.db, tree)
    for turn in range(6):
        db = place.db
        with db.transaction() as txn:
            txn.put_many(db.keyspace("other", **tree), [(b"%d %d" % (turn, i), b"x" * 200) for i in range(2000)])
        if turn % 2:
            db.checkpoint()
        db = place.again("crash" if turn % 3 else "close")
        assert dict(db["k"].scan()) == BEFORE
        with pytest.raises(LockTimeout), db.transaction() as txn:
            txn.put(db["k"], b"old", b"mine")
    db.commit_prepared("x") if commits else db.rollback_prepared("x")
    assert dict(db["k"].scan()) == (AFTER if commits else BEFORE)
    db = place.again("crash")
    assert dict(db["k"].scan()) == (AFTER if commits else BEFORE)
    db["k"].put(b"old", b"4")


@pytest.mark.parametrize("act", ["put", "delete", "range", "lock", "read"])
def test_its_rows_stay_locked(place, tree, how, act):
    prepared_one(place.db, tree)
    db = place.again(how)
    ks = db["k"]
    txn = db.transaction(isolation="locking")
    with pytest.raises(LockTimeout):
        if act == "put":
            txn.put(ks, b"new", b"")
        elif act == "delete":
            txn.delete(ks, b"gone")
        elif act == "range":
            txn.delete_range(ks, None, None)
        elif act == "lock":
            txn.get_for_update(ks, b"r06")
        else:
            txn.get(ks, b"old")
    txn.abort()
    db.commit_prepared("x")
    with db.transaction(isolation="locking") as txn:
        assert txn.get(ks, b"old") == b"3"
        txn.put(ks, b"old", b"4")


def test_who_waits_goes_on_when_it_ends(place, tree, how):
    prepared_one(place.db, tree)
    db = place.again(how)
    done = []

    def write():
        with db.transaction(isolation="read_committed", lock_timeout=30) as txn:
            txn.put(db["k"], b"old", b"later")
            done.append(txn.get(db["k"], b"new"))

    thread = threading.Thread(target=write)
    thread.start()
    deadline = time.monotonic() + 30
    while not db.prepared()[0].waiters and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(db.prepared()[0].waiters) == 1 and not done
    db.commit_prepared("x")
    thread.join()
    assert done == [BIG] and db["k"].get(b"old") == b"later"


def test_first_committer_wins_over_snapshots_older_than_its_commit(db, tree):
    ks = db.keyspace("k", **tree)
    txn = db.transaction()
    txn.put(ks, b"a", b"1")
    older = db.transaction()
    assert older.get(ks, b"a") is None
    txn.prepare("x")
    db.commit_prepared("x")
    assert older.get(ks, b"a") is None
    with pytest.raises(WriteConflict):
        older.put(ks, b"a", b"2")
    older.abort()


@pytest.mark.parametrize("isolation", ["locking", "serializable"])
def test_shared_locks_and_remembered_reads_survive(place, tree, how, isolation):
    db = place.db
    ks = db.keyspace("k", **tree)
    ks.put_many([(b"%02d" % i, b"v") for i in range(40)])
    txn = db.transaction(isolation=isolation)
    assert txn.get(ks, b"05") == b"v"
    assert txn.get(ks, b"absent") is None
    assert len(list(txn.scan(ks, b"10", b"20"))) == 10
    txn.put(ks, b"99", b"mine")
    txn.prepare("x")
    ks.put(b"30", b"free")  # it has not read that
    db = place.again(how)
    ks = db["k"]
    ks.put(b"31", b"free")
    if isolation == "locking":
        for key in b"05", b"absent", b"15", b"155":
            with pytest.raises(LockTimeout):
                ks.put(key, b"no")
    else:
        # Who writes what it has read, and has read what it wrote, would close a cycle; that one is aborted.
        other = db.transaction(isolation="serializable")
        with pytest.raises(SerializationFailure):
            assert other.get(ks, b"99") is None
            other.put(ks, b"155", b"no")
            other.commit()
        other.abort()
    db.commit_prepared("x")
    ks.put(b"15", b"now")
    assert ks.get(b"99") == b"mine"


def test_locked_rows_that_were_not_changed_stay_locked(place, tree, how):
    db = place.db
    ks = db.keyspace("k", **tree)
    ks.put_many([(b"%04d" % i, b"v") for i in range(3000)])
    txn = db.transaction()
    for i in range(0, 3000, 2):
        txn.get_for_update(ks, b"%04d" % i)
    txn.get_for_update(ks, b"absent")
    txn.put(ks, b"changed", b"1")
    txn.prepare("x")
    db = place.again(how)
    ks = db["k"]
    assert db.prepared()[0].locks == 1501
    for key in b"0000", b"2998", b"absent":
        with pytest.raises(LockTimeout):
            ks.put(key, b"no")
    ks.put(b"0001", b"free")
    db.rollback_prepared("x")
    ks.put(b"0000", b"now")


def test_predicates_stay_as_the_ranges_they_can_match_in(place, how):
    db = place.db
    ks = db.keyspace("k")
    ks.put_many([(b"a%d" % i, b"%d" % i) for i in range(10)])
    txn = db.transaction(isolation="locking")
    list(txn.scan(ks, b"a", b"b", where=Odd()))
    txn.put(ks, b"c", b"1")
    txn.prepare("x")
    db = place.again(how)
    with pytest.raises(LockTimeout):
        db["k"].put(b"a77", b"7")
    db["k"].put(b"b", b"7")
    db.commit_prepared("x")
    db["k"].put(b"a77", b"7")


def test_keyspaces_made_and_dropped_and_renamed(place, tree, how):
    db = place.db
    db.keyspace("drop me", **tree).put(b"a", b"1")
    db.keyspace("rename me", **tree).put(b"a", b"1")
    txn = db.transaction()
    made = txn.create_keyspace("made", **tree)
    txn.put(made, b"a", b"2")
    txn.drop_keyspace("drop me")
    txn.rename_keyspace("rename me", "renamed")
    txn.prepare("x")
    db = place.again(how)
    assert db.keyspaces() == ["drop me", "rename me"]
    assert db["drop me"].get(b"a") == b"1"
    with pytest.raises(LockTimeout):
        db["drop me"].put(b"a", b"2")
    db.commit_prepared("x")
    db = place.again("crash")
    assert db.keyspaces() == ["made", "renamed"]
    assert db["made"].get(b"a") == b"2" and db["renamed"].get(b"a") == b"1"
    assert db.verify().ok


def test_serial_execution_passes_it_by(db, tree):
    prepared_one(db, tree)
    ks = db["k"]
    for act in (lambda t: t.put(ks, b"old", b"9"), lambda t: t.get(ks, b"old"), lambda t: t.get(ks, b"r06"), lambda t: list(t.scan(ks)), lambda t: t.add(ks, b"old", 1)):
        with pytest.raises(WriteConflict, match="in doubt"), db.transaction(isolation="serial") as txn:
            act(txn)
    with db.transaction(isolation="serial") as txn:
        txn.put(ks, b"elsewhere", b"1")
        assert txn.get(ks, b"gone else") is None
        assert len(list(txn.scan(ks, b"r10"))) == 10
    db.commit_prepared("x")
    with db.transaction(isolation="serial") as txn:
        assert txn.get(ks, b"old") == b"3"


def test_what_cannot_be_prepared(db):
    ks = db.keyspace("k")
    with db.transaction(read_only=True) as txn, pytest.raises(UsageError, match="nothing to promise"):
        txn.prepare("x")
    with db.transaction(isolation="serial") as txn:
        with pytest.raises(UsageError, match="serial"):
            txn.prepare("x")
        txn.put(ks, b"a", b"1")
    assert db.outcome("x") is None
    for xid in "", "x" * 201, "a\0b", "\0":
        with db.transaction() as txn, pytest.raises(ValueError, match="1 to 200 bytes"):
            txn.prepare(xid)
    with db.transaction() as txn, pytest.raises(TypeError):
        txn.prepare(b"x")
    db.transaction().prepare("nothing changed")
    assert db.prepared()[0].changes == 0
    db.commit_prepared("nothing changed")


def test_xids_are_unique(place, tree, how):
    prepared_one(place.db, tree)
    db = place.again(how)
    with pytest.raises(ValueError, match="prepared already"), db.transaction() as txn:
        txn.put(db["k"], b"free", b"1")
        txn.prepare("x")
    db.commit_prepared("x")
    db = place.again(how)
    with pytest.raises(ValueError, match="was committed"), db.transaction() as txn:
        txn.prepare("x")
    assert db.outcomes()[0][:2] == ("x", "committed")
    db.forget("x")
    assert db.outcomes() == [] and db.outcome("x") is None
    db.forget("x")
    db.transaction().prepare("x")
    with pytest.raises(UsageError, match="prepared"):
        db.forget("x")
    db.rollback_prepared("x")


def test_ends_are_idempotent(place, tree, how):
    prepared_one(place.db, tree)
    db = place.again(how)
    for _ in range(2):
        db.commit_prepared("x")
        db = place.again(how)
    with pytest.raises(NotPrepared) as caught:
        db.rollback_prepared("x")
    assert caught.value.outcome == "committed" and caught.value.xid == "x"
    for _ in range(2):
        db.rollback_prepared("never was")
    with pytest.raises(NotPrepared) as caught:
        db.commit_prepared("never was")
    assert caught.value.outcome is None


def test_decisions_by_hand_are_kept(place, tree, how):
    prepared_one(place.db, tree, "a")
    place.db.rollback_prepared("a", heuristic=True)
    prepared_one(place.db, tree, "b")
    place.db.commit_prepared("b", heuristic=True)
    db = place.again(how)
    assert db.outcome("a") == "heuristically_rolled_back" and db.outcome("b") == "heuristically_committed"
    assert [row[:2] for row in db.outcomes()] == [("a", "heuristically_rolled_back"), ("b", "heuristically_committed")]
    with pytest.raises(HeuristicOutcome) as caught:
        db.commit_prepared("a")
    assert caught.value.outcome == "heuristically_rolled_back"
    with pytest.raises(HeuristicOutcome):
        db.rollback_prepared("b")
    db.rollback_prepared("a")
    db.commit_prepared("b")
    db.forget("a")
    db.forget("b")
    assert db.outcomes() == []


def test_limits(tmp_path, caplog):
    with enginelib.open(tmp_path / "db", max_prepared=2, prepared_warning=0.0) as db:
        db.transaction().prepare("1")
        db.transaction().prepare("2")
        assert "prepared for" in caplog.text
        with pytest.raises(UsageError, match="max_prepared=2"), db.transaction() as txn:
            txn.prepare("3")
        assert db.stats()["transactions"]["prepared"] == 2
        db.rollback_prepared("1")
        db.transaction().prepare("3")
    caplog.clear()
    with enginelib.open(tmp_path / "db", prepared_warning=0.0) as db:
        assert db.recovery["prepared"] == 2 and {p.xid for p in db.prepared()} == {"2", "3"}
        assert caplog.text.count("prepared for") == 2


def test_the_engines_own_keyspace_is_hidden(db, tmp_path):
    stream = db.changes(follow=False)
    db.transaction().prepare("x")
    db.commit_prepared("x")
    assert db.keyspaces() == [] and list(stream) == []
    stream.close()
    with pytest.raises(ValueError, match="NUL"):
        db.keyspace("\0outcomes")
    with pytest.raises(ValueError, match="NUL"):
        db.drop_keyspace("\0outcomes")
    with pytest.raises(ValueError, match="NUL"), db.transaction() as txn:
        txn.create_keyspace("\0mine")
    assert all(lock.keyspace is None or "\0" not in lock.keyspace for lock in db.locks())


def test_a_backup_holds_it(place, tree, tmp_path):
    prepared_one(place.db, tree)
    place.db.backup(tmp_path / "backup")
    place.db.rollback_prepared("x")
    with enginelib.open(tmp_path / "backup") as copy:
        assert [p.xid for p in copy.prepared()] == ["x"]
        copy.commit_prepared("x")
        assert dict(copy["k"].scan()) == AFTER


def test_a_reader_of_the_files_sees_it_in_doubt(place, tree):
    prepared_one(place.db, tree)
    place.db.close()
    with enginelib.open(place.path, read_only=True) as reader:
        assert [p.xid for p in reader.prepared()] == ["x"] and dict(reader["k"].scan()) == BEFORE
        with pytest.raises(enginelib.ReadOnlyError):
            reader.commit_prepared("x")
    place.db = enginelib.open(place.path)
    place.db.rollback_prepared("x")


def test_two_threads_end_the_same(db, tree):
    for turn in range(20):
        prepared_one(db, tree, f"x{turn}")
        failures = []

        def end(turn=turn, failures=failures):
            try:
                db.commit_prepared(f"x{turn}")
            except enginelib.Error as error:
                failures.append(error)

        threads = [threading.Thread(target=end) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures and db.outcome(f"x{turn}") == "committed"


def test_closing_leaves_it(place):
    db = place.db
    ks = db.keyspace("k")
    left = db.transaction()
    left.put(ks, b"left open", b"1")
    txn = db.transaction()
    txn.put(ks, b"a", b"1")
    txn.prepare("x")
    db.close()
    db.close()
    for act in (lambda: db.commit_prepared("x"), db.prepared, lambda: db.outcome("x")):
        with pytest.raises(enginelib.DatabaseClosed):
            act()
    db = place.db = enginelib.open(place.path)
    assert dict(db["k"].scan()) == {}
    db.commit_prepared("x")
    assert dict(db["k"].scan()) == {b"a": b"1"}


def test_what_was_taken_back_behind_a_checkpoint_stays_so(place):
    """After a crash the changes of its LSM keyspaces hid from the redo of a rollback those that the checkpoint's record held."""
    db = place.db
    events, rows = db.keyspace("events", "lsm"), db.keyspace("rows")
    txn = db.transaction()
    txn.put(events, b"a", b"1")
    txn.put(rows, b"a", b"1")
    txn.save()
    txn.create_keyspace("never", "lsm")
    txn.put(rows, b"never", b"1")
    txn.put(events, b"never", b"1")
    db.checkpoint()
    txn.rollback_to(1)
    txn.put(events, b"b", b"1")
    txn.prepare("x")
    db = place.again("crash")
    db.commit_prepared("x")
    assert db.keyspaces() == ["events", "rows"]
    assert dict(db["rows"].scan()) == {b"a": b"1"} and dict(db["events"].scan()) == {b"a": b"1", b"b": b"1"}
    assert db.verify().ok
