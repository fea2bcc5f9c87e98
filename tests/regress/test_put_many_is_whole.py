"""put_many that failed half-way left the first half in the transaction."""

import pytest

import enginelib


def test_put_many_that_fails_sets_nothing(tmp_path):
    with enginelib.open(tmp_path / "db") as db:
        rows = db.keyspace("rows")
        rows[b"b"] = b"old"
        with db.transaction() as txn:
            txn.put(rows, b"a", b"kept")
            with pytest.raises(TypeError):
                txn.put_many(rows, [(b"b", b"new"), (b"c", b"new"), ("d", b"new")])
            assert list(txn.scan(rows)) == [(b"a", b"kept"), (b"b", b"old")]
        assert dict(rows.items()) == {b"a": b"kept", b"b": b"old"}


def test_put_many_that_meets_a_conflict_sets_nothing(tmp_path):
    with enginelib.open(tmp_path / "db") as db:
        rows = db.keyspace("rows")
        txn = db.transaction()
        rows[b"c"] = b"theirs"
        with pytest.raises(enginelib.WriteConflict):
            txn.put_many(rows, [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])
        assert list(txn.scan(rows)) == []
        txn.abort()
        assert dict(rows.items()) == {b"c": b"theirs"}
