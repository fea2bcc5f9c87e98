"""What a snapshot shows and what it does not: the anomalies, by name."""

import threading

import pytest

import enginelib


def test_dirty_read_is_prevented(db, ks):
    ks[b"a"] = b"old"
    with db.transaction() as writer:
        writer.put(ks, b"a", b"dirty")
        writer.put(ks, b"b", b"dirty")
        assert ks[b"a"] == b"old" and b"b" not in ks
        with db.transaction() as reader:
            assert reader.get(ks, b"a") == b"old"
            assert list(reader.scan(ks)) == [(b"a", b"old")]
            assert reader.get_many(ks, [b"a", b"b"]) == [b"old", None]
        writer.abort()
    assert list(ks.items()) == [(b"a", b"old")]


def test_dirty_write_is_prevented(db, ks):
    with db.transaction() as first, db.transaction(lock_timeout=0) as second:
        first.put(ks, b"a", b"1")
        with pytest.raises(enginelib.LockTimeout):
            second.put(ks, b"a", b"2")
        with pytest.raises(enginelib.LockTimeout):
            second.delete(ks, b"a")
    assert ks[b"a"] == b"1"


def test_read_skew_is_prevented(db, ks):
    ks.update({b"x": b"50", b"y": b"50"})
    with db.transaction() as reader:
        assert reader.get(ks, b"x") == b"50"
        ks.update({b"x": b"25", b"y": b"75"})
        assert reader.get(ks, b"y") == b"50"
        assert reader.get_many(ks, [b"x", b"y"]) == [b"50", b"50"]
        assert [v for _, v in reader.scan(ks)] == [b"50", b"50"]
        assert [v for _, v in reader.scan(ks, reverse=True)] == [b"50", b"50"]


def test_non_repeatable_read_of_a_deleted_key_is_prevented(db, ks):
    ks[b"x"] = b"1"
    with db.transaction() as reader:
        assert reader.get(ks, b"x") == b"1"
        del ks[b"x"]
        assert reader.get(ks, b"x") == b"1"
        assert list(reader.scan(ks, values=False)) == [b"x"]
    assert b"x" not in ks


def test_phantoms_do_not_appear_within_a_snapshot(db, ks):
    ks.put_many([(b"%04d" % n, b"v") for n in range(0, 400, 2)])
    with db.transaction() as reader:
        before = list(reader.scan(ks, b"0100", b"0300"))
        ks.put_many([(b"%04d" % n, b"new") for n in range(1, 400, 2)])
        del ks[b"0150":b"0250"]
        assert list(reader.scan(ks, b"0100", b"0300")) == before
        assert list(reader.scan(ks, b"0100", b"0300", reverse=True)) == before[::-1]
        assert reader.get(ks, b"0101") is None and reader.get(ks, b"0200") == b"v"


def test_lost_update_is_a_write_conflict(db, ks):
    ks[b"n"] = b"1"
    with db.transaction() as first:
        second = db.transaction()
        assert first.get(ks, b"n") == second.get(ks, b"n") == b"1"
        first.put(ks, b"n", b"2")
        first.commit()
        with pytest.raises(enginelib.WriteConflict) as caught:
            second.put(ks, b"n", b"2")
        assert caught.value.retryable
        second.abort()
    assert ks[b"n"] == b"2"


@pytest.mark.parametrize("way", ["put", "delete", "get_for_update", "put_many", "big"])
def test_first_committer_wins_whatever_the_second_does(db, ks, way):
    ks[b"n"] = b"1"
    second = db.transaction()
    ks[b"n"] = b"2"
    with pytest.raises(enginelib.WriteConflict):
        {
            "put": lambda: second.put(ks, b"n", b"3"),
            "delete": lambda: second.delete(ks, b"n"),
            "get_for_update": lambda: second.get_for_update(ks, b"n"),
            "put_many": lambda: second.put_many(ks, [(b"n", b"3")]),
            "big": lambda: second.put(ks, b"n", b"3" * 100_000),
        }[way]()
    second.abort()
    assert ks[b"n"] == b"2"


def test_deletion_and_insertion_of_the_same_key_conflict_too(db, ks):
    """ABA: the key is there again with the same value, and still it was changed."""
    ks[b"n"] = b"1"
    second = db.transaction()
    assert second.get(ks, b"n") == b"1"
    del ks[b"n"]
    ks[b"n"] = b"1"
    assert second.get(ks, b"n") == b"1"
    with pytest.raises(enginelib.WriteConflict):
        second.put(ks, b"n", b"2")
    second.abort()


def test_every_snapshot_sees_its_own_state_of_a_key_deleted_and_inserted_again(db, ks):
    ks[b"k"] = b"1"
    old = db.transaction(read_only=True)
    del ks[b"k"]
    gap = db.transaction(read_only=True)
    ks[b"k"] = b"2"
    new = db.transaction(read_only=True)
    del ks[b"k"]
    end = db.transaction(read_only=True)
    for _ in range(2):
        assert [t.get(ks, b"k") for t in (old, gap, new, end)] == [b"1", None, b"2", None]
        assert [list(t.scan(ks)) for t in (old, gap, new, end)] == [[(b"k", b"1")], [], [(b"k", b"2")], []]
        db.checkpoint()
    for txn in (gap, new, end, old):
        txn.abort()


def test_a_deleted_key_conflicts_with_one_who_would_insert_it(db, ks):
    ks[b"k"] = b"1"
    second = db.transaction()
    del ks[b"k"]
    with pytest.raises(enginelib.WriteConflict):
        second.put(ks, b"k", b"2")
    second.abort()


def test_write_skew_is_possible(db, ks):
    """As documented; get_for_update on what is read prevents it."""
    ks.update({b"x": b"1", b"y": b"1"})
    with db.transaction() as first, db.transaction() as second:
        assert first.get(ks, b"y") == b"1" and second.get(ks, b"x") == b"1"
        first.put(ks, b"x", b"0")
        second.put(ks, b"y", b"0")
    assert [ks[b"x"], ks[b"y"]] == [b"0", b"0"]


def test_write_skew_is_prevented_by_locking_what_is_read(db, ks):
    ks.update({b"x": b"1", b"y": b"1"})
    with db.transaction() as first, db.transaction(lock_timeout=0) as second:
        assert first.get_for_update(ks, b"y") == b"1"
        first.put(ks, b"x", b"0")
        with pytest.raises(enginelib.LockTimeout):
            second.get_for_update(ks, b"x")
        with pytest.raises(enginelib.LockTimeout):
            second.put(ks, b"y", b"0")
        second.abort()


def test_a_row_locked_and_not_changed_is_no_conflict_afterwards(db, ks):
    ks[b"k"] = b"1"
    with db.transaction() as first:
        second = db.transaction()
        first.get_for_update(ks, b"k")
        first.get_for_update(ks, b"absent")
    second.put(ks, b"k", b"2")
    second.put(ks, b"absent", b"2")
    second.commit()
    assert ks[b"k"] == b"2" and ks[b"absent"] == b"2"
    assert db.stats()["versions"]["live"] == 0


def test_a_transaction_sees_its_own_changes(db, ks):
    ks.update({b"a": b"1", b"b": b"1", b"c": b"1"})
    with db.transaction() as txn:
        txn.put(ks, b"a", b"2")
        txn.delete(ks, b"b")
        txn.put(ks, b"d", b"2")
        assert list(txn.scan(ks)) == [(b"a", b"2"), (b"c", b"1"), (b"d", b"2")]
        assert list(txn.scan(ks, reverse=True)) == [(b"d", b"2"), (b"c", b"1"), (b"a", b"2")]
        assert txn.get_many(ks, [b"a", b"b", b"c", b"d"]) == [b"2", None, b"1", b"2"]
        txn.abort()
    assert dict(ks) == {b"a": b"1", b"b": b"1", b"c": b"1"}


def test_a_snapshot_is_taken_at_the_beginning_not_at_the_first_read(db, ks):
    ks[b"k"] = b"1"
    txn = db.transaction(read_only=True)
    ks[b"k"] = b"2"
    assert txn.get(ks, b"k") == b"1"
    txn.abort()


def test_a_returned_commit_is_in_the_next_snapshot(db, ks):
    for n in range(50):
        with db.transaction() as txn:
            txn.put(ks, b"k", b"%d" % n)
        with db.transaction(read_only=True) as reader:
            assert reader.get(ks, b"k") == b"%d" % n
            assert reader.snapshot >= txn.commit_ts


def test_two_readers_see_one_order_of_commits(db, ks, spawn):
    """Two writers of a key each; no two snapshots may order their commits differently."""
    ks.update({b"a": b"0", b"b": b"0"})
    stop = threading.Event()
    start = threading.Barrier(4)
    seen = [[], []]

    def write(key):
        start.wait()
        for n in range(1, 400):
            ks[key] = b"%d" % n

    def read(into):
        start.wait()
        while not stop.is_set():
            with db.transaction(read_only=True) as txn:
                values = txn.get_many(ks, [b"a", b"b"]) if into is seen[0] else [txn.get(ks, k) for k in (b"a", b"b")]
                into.append(tuple(int(v) for v in values))

    writers = [spawn(write, key) for key in (b"a", b"b")]
    readers = [spawn(read, into) for into in seen]
    for worker in writers:
        worker.result()
    stop.set()
    for worker in readers:
        worker.result()
    states = sorted(set(seen[0]) | set(seen[1]))
    for (a1, b1), (a2, b2) in zip(states, states[1:], strict=False):
        assert a1 <= a2 and b1 <= b2, "two snapshots that no order of commits allows"


def test_changes_of_a_scan_under_way_do_not_show_from_other_transactions(db, ks):
    ks.put_many([(b"%05d" % n, b"old") for n in range(2000)])
    with db.transaction(read_only=True) as reader:
        scan = reader.scan(ks)
        first = [next(scan) for _ in range(10)]
        ks.put_many([(b"%05d" % n, b"new") for n in range(0, 3000, 3)])
        del ks[b"00500":b"01500"]
        rest = list(scan)
    assert first + rest == [(b"%05d" % n, b"old") for n in range(2000)]
