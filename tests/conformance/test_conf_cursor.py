"""Scans that go on while what they read changes: by their own transaction, by others, by splits, merges and eviction."""

import random

import pytest


def fill(ks, n=1000, size=40):
    rows = [(b"%05d" % k, b"v" * size) for k in range(0, n * 10, 10)]
    ks.put_many(rows)
    return rows


@pytest.mark.parametrize("reverse", [False, True])
def test_own_inserts_ahead_are_seen_and_those_behind_are_not(db, ks, reverse):
    rows = fill(ks)
    with db.transaction() as txn:
        scan = txn.scan(ks, values=False, reverse=reverse)
        seen = [next(scan) for _ in range(300)]
        ahead, behind = (b"00005", b"09005") if reverse else (b"09005", b"00005")
        txn.put(ks, ahead, b"ahead")
        txn.put(ks, behind, b"behind")
        seen += list(scan)
    expected = sorted([key for key, _ in rows] + [ahead], reverse=reverse)
    assert seen == expected


@pytest.mark.parametrize("reverse", [False, True])
def test_own_deletions_ahead_are_not_seen(db, ks, reverse):
    rows = fill(ks)
    with db.transaction() as txn:
        scan = txn.scan(ks, values=False, reverse=reverse)
        seen = [next(scan) for _ in range(100)]
        txn.delete_range(ks, b"05000", b"06000")
        txn.delete(ks, seen[-1])
        txn.delete(ks, seen[0])
        seen += list(scan)
    assert seen == sorted([k for k, _ in rows if not b"05000" <= k < b"06000"], reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_own_changes_of_values_ahead_are_seen(db, ks, reverse):
    fill(ks, 200)
    with db.transaction() as txn:
        seen = []
        for _key, value in txn.scan(ks, reverse=reverse):
            seen.append(value)
            if len(seen) == 10:
                txn.put_many(ks, [(b"%05d" % k, b"new" * 5000) for k in range(0, 2000, 10)])
        assert seen == [b"v" * 40] * 10 + [b"new" * 5000] * 190


@pytest.mark.parametrize("reverse", [False, True])
def test_every_row_may_be_deleted_as_it_is_read(db, ks, reverse):
    rows = fill(ks, 700)
    with db.transaction() as txn:
        seen = []
        for key, value in txn.scan(ks, reverse=reverse):
            seen.append((key, value))
            assert txn.delete(ks, key)
        assert seen == sorted(rows, reverse=reverse)
        assert list(txn.scan(ks)) == []
    assert len(ks) == 0


def test_every_row_may_be_rewritten_as_it_is_read(db, ks):
    rows = fill(ks, 500)
    with db.transaction() as txn:
        seen = []
        for key, value in txn.scan(ks):
            seen.append((key, value))
            txn.put(ks, key, value * 3)
        assert seen == rows
    assert set(ks.values()) == {b"v" * 120}


def test_a_row_inserted_just_ahead_of_each_read_is_seen_in_turn(db, ks):
    ks[b"0000"] = b""
    with db.transaction() as txn:
        seen = []
        for key in txn.scan(ks, values=False):
            seen.append(key)
            if len(seen) < 200:
                txn.put(ks, b"%04d" % len(seen), b"")
    assert seen == [b"%04d" % n for n in range(200)]


def test_a_rollback_to_a_savepoint_under_a_scan_is_seen(db, ks):
    fill(ks, 300)
    with db.transaction() as txn:
        depth = txn.save()
        txn.delete_range(ks, b"01000", None)
        scan = txn.scan(ks, values=False)
        seen = [next(scan) for _ in range(20)]
        txn.rollback_to(depth)
        seen += list(scan)
    assert seen == [b"%05d" % n for n in range(0, 3000, 10)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("read_only", [False, True])
def test_commits_of_others_splits_merges_and_eviction_do_not_show(db, ks, reverse, read_only):
    rows = fill(ks, 3000, 60)
    dice = random.Random(3)
    with db.transaction(read_only=read_only) as txn:
        scan = txn.scan(ks, reverse=reverse)
        seen = []
        for step, row in enumerate(scan):
            seen.append(row)
            if step % 400 == 0:
                base = dice.randrange(30_000)
                ks.put_many([(b"%05d+%03d" % (base, n), b"split" * 30) for n in range(300)])
                del ks[b"%05d" % base : b"%05d" % (base + 2000)]
                if step % 800 == 0:
                    db.checkpoint()
        assert seen == sorted(rows, reverse=reverse)


def test_two_scans_of_one_transaction_go_on_side_by_side(db, ks):
    rows = fill(ks)
    with db.transaction() as txn:
        assert [(a, b) for a, b in zip(txn.scan(ks), txn.scan(ks, reverse=True), strict=True)] == list(
            zip(rows, rows[::-1], strict=True)
        )


def test_a_limit_counts_what_was_given_whatever_changes(db, ks):
    fill(ks, 300)
    with db.transaction() as txn:
        seen = []
        for key in txn.scan(ks, values=False, limit=50):
            seen.append(key)
            txn.delete(ks, key)
            txn.put(ks, key + b"+", b"")
        assert len(seen) == 50
        assert seen == sorted(seen)


def test_a_finished_scan_stays_finished(db, ks):
    fill(ks, 10)
    with db.transaction() as txn:
        scan = txn.scan(ks)
        assert len(list(scan)) == 10
        txn.put(ks, b"99999", b"")
        assert list(scan) == [] and next(scan, None) is None


def test_large_values_are_read_by_scans_under_replacement(db, ks):
    ks.put_many([(b"%02d" % n, bytes([n]) * 50_000) for n in range(30)])
    with db.transaction(read_only=True) as txn:
        for n, (key, value) in enumerate(txn.scan(ks)):
            assert (key, value) == (b"%02d" % n, bytes([n]) * 50_000)
            ks[b"%02d" % (29 - n)] = b"replaced" * (n * 2000)
            if n == 15:
                db.checkpoint()
