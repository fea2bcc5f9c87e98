"""Deleted ranges of LSM keyspaces: one record each, and as isolated as the deletion of every key would be."""

import pytest
from isohelp import blocked

import enginelib


@pytest.fixture
def ks(db):
    ks = db.keyspace("space", backend="lsm", memtable_size=64 << 10, table_size=64 << 10)
    ks.put_many([(b"%03d" % n, b"old") for n in range(100)])
    return ks


def test_a_writer_of_a_key_in_the_range_waits_and_loses_to_the_commit(db, ks, spawn):
    first, second = db.transaction(), db.transaction()
    first.delete_range(ks, b"010", b"020")
    second.put(ks, b"009", b"free")
    second.put(ks, b"020", b"free")
    worker = spawn(second.put, ks, b"015", b"new")
    blocked(second)
    first.commit()
    with pytest.raises(enginelib.WriteConflict):
        worker.result()
    second.abort()
    assert list(ks.scan(b"009", b"021", values=False)) == [b"009", b"020"]
    ks.put(b"015", b"later")
    assert ks[b"015"] == b"later"


def test_a_writer_of_a_key_in_the_range_goes_on_when_the_other_aborts(db, ks, spawn):
    first, second = db.transaction(), db.transaction()
    first.delete_range(ks, None, None)
    worker = spawn(second.put, ks, b"015", b"new")
    blocked(second)
    first.abort()
    worker.result()
    second.commit()
    assert ks[b"015"] == b"new"
    assert len(ks) == 100


def test_the_lock_of_a_key_that_is_not_there_waits_too(db, ks, spawn):
    first, second = db.transaction(), db.transaction()
    first.delete_range(ks, b"0", b"1")
    worker = spawn(second.get_for_update, ks, b"0-absent")
    blocked(second)
    first.abort()
    assert worker.result() is None
    second.abort()


def test_a_deletion_waits_for_a_change_in_its_range_and_loses_to_its_commit(db, ks, spawn):
    first, second = db.transaction(), db.transaction()
    first.put(ks, b"015", b"new")
    second.delete_range(ks, b"016", b"020")
    worker = spawn(second.delete_range, ks, b"010", b"016")
    blocked(second)
    first.commit()
    with pytest.raises(enginelib.WriteConflict):
        worker.result()
    second.abort()
    assert ks[b"015"] == b"new"
    assert ks[b"016"] == b"old"


def test_a_deletion_loses_to_a_change_since_its_snapshot(db, ks):
    txn = db.transaction()
    ks.put(b"new key", b"")
    with pytest.raises(enginelib.WriteConflict):
        txn.delete_range(ks, None, None)
    txn.abort()
    assert len(ks) == 101


def test_a_deletion_waits_for_a_row_lock_alone(db, ks, spawn):
    first, second = db.transaction(), db.transaction()
    first.get_for_update(ks, b"015")
    worker = spawn(second.delete_range, ks, b"010", b"020")
    blocked(second)
    first.commit()
    worker.result()
    second.commit()
    assert len(ks) == 90


def test_ranges_that_overlap_wait_for_each_other_and_others_do_not(db, ks, spawn):
    first, second, third = db.transaction(), db.transaction(), db.transaction()
    first.delete_range(ks, b"010", b"020")
    third.delete_range(ks, b"020", b"030")
    third.commit()
    worker = spawn(second.delete_range, ks, b"005", b"011")
    blocked(second)
    first.commit()
    with pytest.raises(enginelib.WriteConflict):
        worker.result()
    second.abort()
    assert len(ks) == 80


def test_a_cycle_of_a_range_and_a_key_is_broken(db, ks, spawn):
    first, second = db.transaction(), db.transaction()
    first.delete_range(ks, b"010", b"020")
    first.put_many(ks, [(b"06%d" % n, b"") for n in range(5)])  # who changed least pays
    second.put(ks, b"050", b"new")
    worker = spawn(first.put, ks, b"050", b"mine")
    blocked(first)
    with pytest.raises(enginelib.DeadlockDetected):
        second.put(ks, b"015", b"new")
    second.abort()
    worker.result()
    first.commit()
    assert ks[b"050"] == b"mine"


def test_a_snapshot_taken_before_sees_all_of_it_whatever_is_flushed_and_compacted(db, ks):
    reader = db.transaction(read_only=True)
    db.step("seal")
    with db.transaction() as txn:
        txn.delete_range(ks, b"010", b"090")
        txn.put(ks, b"050", b"after")
        assert txn.get(ks, b"050") == b"after"
        assert txn.get(ks, b"051") is None
        assert len(list(txn.scan(ks))) == 21
    for what in ("flush", "seal", "flush", "compact", "settle"):
        db.step(what)
        assert len(list(reader.scan(ks))) == 100
        assert reader.get(ks, b"050") == b"old"
        assert len(ks) == 21
    reader.abort()
    ks.compact()
    assert ks.stats()["range_tombstones"] == 0
    assert [(key, value) for key, value in ks.scan(b"010", b"090")] == [(b"050", b"after")]


def test_a_savepoint_takes_a_deletion_back_and_what_it_took_of_its_own(db, ks):
    with db.transaction() as txn:
        txn.put(ks, b"015", b"mine")
        depth = txn.save()
        txn.delete_range(ks, b"010", b"020")
        txn.put(ks, b"012", b"again")
        assert list(txn.scan(ks, b"010", b"020")) == [(b"012", b"again")]
        db.step("seal")
        assert list(txn.scan(ks, b"010", b"020")) == [(b"012", b"again")]
        txn.rollback_to(depth)
        assert txn.get(ks, b"015") == b"mine"
        assert len(list(txn.scan(ks))) == 100
    assert ks[b"012"] == b"old"
    assert ks.stats()["range_tombstones"] == 0


def test_it_is_one_record_whatever_it_deletes(db, ks):
    end = db.stats()["log"]["end_lsn"]
    with db.transaction() as txn:
        assert txn.delete_range(ks, b"000", b"090") is None
    assert db.stats()["log"]["end_lsn"] - end < 200
    assert len(ks) == 10


def test_a_keyspace_is_not_dropped_under_a_deletion(db, ks, spawn):
    first, second = db.transaction(), db.transaction()
    first.delete_range(ks, None, None)
    worker = spawn(second.drop_keyspace, "space")
    blocked(second)
    first.abort()
    worker.result()
    second.abort()
    assert len(ks) == 100


def test_many_small_changes_and_ranges_in_one_transaction_do_not_seal_memtables_one_after_the_other(db, ks):
    """What is in flight moves on to the next memtable: sealing on its account alone never ends."""
    seals = ks.stats()["memtables"]["seals"]
    with db.transaction() as txn:
        txn.put_many(ks, [(b"%05d" % n, b"") for n in range(5000)])
        for n in range(600):
            txn.delete_range(ks, b"%05d" % (n * 2), b"%05d" % (n * 2 + 1))
        txn.put(ks, b"x", b"")
    assert ks.stats()["memtables"]["seals"] - seals <= 1
    ks.put(b"y", b"")
    assert ks.stats()["memtables"]["seals"] - seals <= 2
