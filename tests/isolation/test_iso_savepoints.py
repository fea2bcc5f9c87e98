"""Savepoints: what a rollback to one undoes, releases and keeps."""

import pytest
from isohelp import blocked

import enginelib


class Undo(Exception):
    pass


def test_nested_savepoints_undo_from_the_inside_out(db, ks):
    with db.transaction() as txn:
        txn.put(ks, b"a", b"0")
        with pytest.raises(Undo), txn.savepoint():
            txn.put(ks, b"a", b"1")
            txn.put(ks, b"b", b"1")
            with txn.savepoint():
                txn.delete(ks, b"a")
                with pytest.raises(Undo), txn.savepoint():
                    txn.put(ks, b"a", b"3")
                    txn.put(ks, b"c", b"3")
                    raise Undo
                assert txn.get(ks, b"a") is None and txn.get(ks, b"c") is None
                txn.put(ks, b"d", b"2")
            assert dict(txn.scan(ks)) == {b"b": b"1", b"d": b"2"}
            raise Undo
        assert dict(txn.scan(ks)) == {b"a": b"0"}
    assert dict(ks) == {b"a": b"0"}


def test_a_rollback_releases_the_rows_first_written_after_the_savepoint(db, ks, spawn):
    ks.update({b"a": b"0", b"b": b"0"})
    first = db.transaction()
    first.put(ks, b"a", b"1")
    second = db.transaction()
    with first.savepoint() as mark:
        first.put(ks, b"b", b"1")
        worker = spawn(second.put, ks, b"b", b"2")
        blocked(second)
        mark.rollback()
        worker.result()
    with db.transaction(lock_timeout=0) as third, pytest.raises(enginelib.LockTimeout):
        third.put(ks, b"a", b"3")
    second.commit()
    first.commit()
    assert dict(ks) == {b"a": b"1", b"b": b"2"}


def test_changes_after_a_rollback_are_kept(db, ks):
    with db.transaction() as txn:
        with txn.savepoint() as mark:
            for n in range(3):
                txn.put(ks, b"k", b"%d" % n)
                txn.put(ks, b"k%d" % n, b"")
                mark.rollback()
            txn.put(ks, b"k", b"last")
        txn.put(ks, b"z", b"")
    assert dict(ks) == {b"k": b"last", b"z": b""}


def test_a_released_savepoint_is_part_of_the_one_around_it(db, ks):
    ks[b"k"] = b"old"
    with db.transaction() as txn:
        outer = txn.save()
        inner = txn.save()
        txn.put(ks, b"k", b"new")
        txn.release(inner)
        with pytest.raises(enginelib.TransactionClosed):
            txn.rollback_to(inner)
        txn.rollback_to(outer)
        assert txn.get(ks, b"k") == b"old"
    assert ks[b"k"] == b"old"


def test_rolling_back_to_the_outer_closes_those_inside(db, ks):
    with db.transaction() as txn:
        outer, inner = txn.save(), txn.save()
        txn.put(ks, b"k", b"1")
        txn.rollback_to(outer)
        for depth in (outer, inner):
            with pytest.raises(enginelib.TransactionClosed):
                txn.release(depth)


def test_the_same_key_changed_at_every_depth_comes_back_step_by_step(db, ks):
    ks[b"k"] = b"start"
    with db.transaction() as txn:
        values = [b"1", b"2" * 20_000, None, b"4", b"5" * 90_000, b""]
        depths = []
        seen = []
        for value in values:
            seen.append(txn.get(ks, b"k"))
            depths.append(txn.save())
            if value is None:
                txn.delete(ks, b"k")
            else:
                txn.put(ks, b"k", value)
        for depth, before in zip(reversed(depths), reversed(seen), strict=True):
            txn.rollback_to(depth)
            assert txn.get(ks, b"k") == before
    assert ks[b"k"] == b"start"


def test_an_abort_after_partial_rollbacks_leaves_nothing(db, ks):
    ks.put_many([(b"%03d" % n, b"old") for n in range(200)])
    txn = db.transaction()
    for n in range(0, 200, 2):
        txn.put(ks, b"%03d" % n, b"new")
        with txn.savepoint() as mark:
            txn.delete(ks, b"%03d" % (n + 1))
            if n % 4:
                mark.rollback()
    txn.abort()
    assert list(ks.items()) == [(b"%03d" % n, b"old") for n in range(200)]
    assert db.stats()["versions"]["live"] == 0
    assert db.verify().ok


def test_partial_rollbacks_are_recovered_as_they_were(tmp_path, tree):
    with enginelib.open(tmp_path / "db", durability="os") as db:
        ks = db.keyspace("space", **tree)
        ks.put_many([(b"%03d" % n, b"old") for n in range(100)])
        with db.transaction() as txn:
            for n in range(100):
                with txn.savepoint() as mark:
                    txn.put(ks, b"%03d" % n, b"x" * (n * 700))
                    if n == 50:
                        db.checkpoint()
                    if n % 3:
                        mark.rollback()
        expected = dict(ks)
        db.abandon()
    with enginelib.open(tmp_path / "db") as db:
        assert dict(db["space"]) == expected
        assert db.verify().ok


def test_many_savepoints_nest(db, ks):
    with db.transaction() as txn:
        for n in range(1000):
            assert txn.save() == n + 1
            txn.put(ks, b"k", b"%d" % n)
        txn.rollback_to(501)
        assert txn.get(ks, b"k") == b"499"
    assert ks[b"k"] == b"499"


def test_rows_locked_before_the_savepoint_stay_locked(db, ks):
    ks[b"k"] = b"0"
    with db.transaction() as txn:
        txn.get_for_update(ks, b"k")
        with txn.savepoint() as mark:
            txn.put(ks, b"k", b"1")
            txn.put(ks, b"other", b"1")
            mark.rollback()
        with db.transaction(lock_timeout=0) as other, pytest.raises(enginelib.LockTimeout):
            other.put(ks, b"k", b"2")
    assert ks[b"k"] == b"0"
