"""Creating, renaming and dropping keyspaces are changes like any other: transactional."""

import pytest
from isohelp import blocked

import enginelib


def test_a_keyspace_exists_for_others_after_the_commit(db, tree):
    with db.transaction() as txn:
        made = txn.create_keyspace("made", **tree)
        txn.put(made, b"k", b"1")
        assert txn.get(made, b"k") == b"1"
        assert db.keyspaces() == []
        with pytest.raises(KeyError):
            db["made"]
        with pytest.raises(enginelib.UsageError):
            made.get(b"k")
    assert db.keyspaces() == ["made"]
    assert db["made"][b"k"] == b"1" and made[b"k"] == b"1"


@pytest.mark.parametrize("way", ["abort", "savepoint"])
def test_a_creation_undone_leaves_nothing(db, way, tree):
    txn = db.transaction()
    depth = txn.save()
    made = txn.create_keyspace("made", **tree)
    txn.put_many(made, [(b"%05d" % n, b"v" * 100) for n in range(2000)])
    if way == "abort":
        txn.abort()
    else:
        txn.rollback_to(depth)
        with pytest.raises(enginelib.UsageError):
            txn.get(made, b"00000")
        txn.commit()
    assert db.keyspaces() == []
    for attempt in (lambda: made.get(b"k"), lambda: made.put(b"k", b""), lambda: list(made)):
        with pytest.raises(enginelib.UsageError):
            attempt()
    again = db.keyspace("made", **tree)
    assert list(again) == []
    db.checkpoint()
    assert db.verify().ok


def test_a_drop_is_visible_after_the_commit_alone(db, ks):
    ks[b"k"] = b"1"
    with db.transaction() as txn:
        txn.drop_keyspace("space")
        with pytest.raises(enginelib.UsageError):
            txn.get(ks, b"k")
        assert ks[b"k"] == b"1" and db.keyspaces() == ["space"]
        with db.transaction(read_only=True) as other:
            assert other.get(ks, b"k") == b"1"
    assert db.keyspaces() == []


def test_a_drop_undone_leaves_everything(db, ks):
    ks.put_many([(b"%04d" % n, b"v") for n in range(1000)])
    with db.transaction() as txn:
        txn.drop_keyspace("space")
        txn.abort()
    with db.transaction() as txn:
        with txn.savepoint() as mark:
            txn.drop_keyspace("space")
            mark.rollback()
        txn.put(ks, b"after", b"1")
    assert len(ks) == 1001 and db["space"][b"after"] == b"1"
    assert db.verify().ok


def test_handles_of_a_dropped_keyspace_raise(db, ks):
    ks[b"k"] = b"1"
    db.drop_keyspace("space")
    with db.transaction() as txn:
        for attempt in (
            lambda: ks[b"k"],
            lambda: ks.get(b"k"),
            lambda: ks.put(b"k", b"2"),
            lambda: ks.put(b"k", b"2" * 100_000),
            lambda: ks.delete(b"k"),
            lambda: ks.get_many([b"k"]),
            lambda: ks.put_many([(b"k", b"2")]),
            lambda: list(ks.scan()),
            lambda: ks.clear(),
            lambda: txn.get(ks, b"k"),
            lambda: txn.get_many(ks, [b"k"]),
            lambda: txn.put(ks, b"k", b"2"),
            lambda: txn.put_many(ks, [(b"k", b"2")]),
            lambda: txn.delete(ks, b"k"),
            lambda: txn.get_for_update(ks, b"k"),
            lambda: list(txn.scan(ks)),
            lambda: txn.delete_range(ks),
        ):
            with pytest.raises(enginelib.UsageError, match="drop|gone"):
                attempt()
    db.checkpoint()
    with pytest.raises(enginelib.UsageError, match="drop|gone"):
        ks.get(b"k")
    with pytest.raises(KeyError):
        db.drop_keyspace("space")


def test_an_old_snapshot_still_reads_a_dropped_keyspace(db, ks):
    ks.put_many([(b"%05d" % n, b"v" * 50) for n in range(3000)])
    old = db.transaction(read_only=True)
    scan = old.scan(ks)
    first = next(scan)
    db.drop_keyspace("space")
    db.step("gc")
    db.checkpoint()
    assert old.get(ks, b"00042") == b"v" * 50
    assert len([first, *scan]) == 3000
    assert len(list(old.scan(ks, reverse=True))) == 3000
    used = db.stats()["pages"]["used_bytes"]
    old.abort()
    db.checkpoint()
    if ks.backend == "btree":
        assert db.stats()["pages"]["used_bytes"] < used
    assert db.verify().ok


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_a_drop_waits_for_writers_in_the_keyspace(db, ks, spawn, end):
    writer = db.transaction()
    writer.put(ks, b"k", b"1")
    dropper = db.transaction()
    worker = spawn(dropper.drop_keyspace, "space")
    blocked(dropper)
    writer.put(ks, b"k2", b"1")
    getattr(writer, end)()
    worker.result()
    dropper.commit()
    assert db.keyspaces() == []


def test_a_writer_waits_for_a_drop_and_goes_on_if_it_is_undone(db, ks, spawn):
    dropper = db.transaction()
    dropper.drop_keyspace("space")
    writer = db.transaction()
    worker = spawn(writer.put, ks, b"k", b"1")
    blocked(writer)
    dropper.abort()
    worker.result()
    writer.commit()
    assert ks[b"k"] == b"1"


def test_a_writer_waits_for_a_drop_and_fails_if_it_commits(db, ks, spawn):
    dropper = db.transaction()
    dropper.drop_keyspace("space")
    writer = db.transaction()
    worker = spawn(writer.put, ks, b"k", b"1")
    blocked(writer)
    dropper.commit()
    with pytest.raises(enginelib.UsageError, match="drop"):
        worker.result()
    writer.abort()


def test_a_name_is_dropped_and_made_again_in_one_transaction(db, ks, tree):
    ks[b"k"] = b"old"
    with db.transaction() as txn:
        txn.drop_keyspace("space")
        new = txn.create_keyspace("space", **tree)
        txn.put(new, b"k", b"new")
        assert ks[b"k"] == b"old"
    assert db["space"][b"k"] == b"new" and new[b"k"] == b"new"
    with pytest.raises(enginelib.UsageError):
        ks.get(b"k")
    with db.transaction() as txn:
        txn.drop_keyspace("space")
        txn.create_keyspace("space", **tree)
        txn.drop_keyspace("space")
        txn.abort()
    assert db["space"][b"k"] == b"new"
    db.checkpoint()
    assert db.verify().ok


def test_a_renaming_is_transactional(db, ks, tree):
    ks[b"k"] = b"1"
    with db.transaction() as txn:
        txn.rename_keyspace("space", "room")
        assert db.keyspaces() == ["space"]
        txn.put(ks, b"k", b"2")
        txn.abort()
    assert db.keyspaces() == ["space"] and ks[b"k"] == b"1"
    with db.transaction() as txn:
        txn.rename_keyspace("space", "room")
    assert db.keyspaces() == ["room"]
    assert db["room"][b"k"] == b"1" and ks[b"k"] == b"1"
    ks[b"k"] = b"3"
    with pytest.raises(KeyError):
        db.rename_keyspace("space", "other")
    db.keyspace("other", **tree)
    with pytest.raises(ValueError, match="exists already"):
        db.rename_keyspace("room", "other")
    assert db.keyspaces() == ["other", "room"]


def test_names_can_be_exchanged(db, tree):
    a, b = db.keyspace("a", **tree), db.keyspace("b", **tree)
    a[b"k"], b[b"k"] = b"a", b"b"
    with db.transaction() as txn:
        txn.rename_keyspace("a", "c")
        txn.rename_keyspace("b", "a")
        txn.rename_keyspace("c", "b")
    assert db["a"][b"k"] == b"b" and db["b"][b"k"] == b"a"
    assert db.keyspaces() == ["a", "b"]


def test_two_cannot_make_one_name(db, spawn, tree):
    first, second = db.transaction(), db.transaction()
    first.create_keyspace("name", **tree)
    worker = spawn(lambda: second.create_keyspace("name", **tree))
    blocked(second)
    first.commit()
    with pytest.raises((enginelib.WriteConflict, ValueError)):
        worker.result()
    second.abort()
    assert db.keyspaces() == ["name"]


def test_threads_that_open_one_new_keyspace_all_get_it(db, spawn, tree):
    workers = [spawn(lambda: db.keyspace("shared", **tree)) for _ in range(4)]
    spaces = [worker.result() for worker in workers]
    assert len({ks.id for ks in spaces}) == 1
    spaces[0][b"k"] = b"1"
    assert all(ks[b"k"] == b"1" for ks in spaces)


def test_the_catalogue_survives_a_crash(tmp_path, tree):
    with enginelib.open(tmp_path / "db", durability="os", background=False) as db:
        for name in ("kept", "renamed", "dropped"):
            db.keyspace(name, **tree)[b"k"] = name.encode()
        db.rename_keyspace("renamed", "new name")
        db.drop_keyspace("dropped")
        open_txn = db.transaction()
        open_txn.put(open_txn.create_keyspace("unfinished", **tree), b"k", b"")
        open_txn.drop_keyspace("kept")
        db.transaction(durability="os").commit()
        db.abandon()
    with enginelib.open(tmp_path / "db") as db:
        assert db.keyspaces() == ["kept", "new name"]
        assert db["kept"][b"k"] == b"kept" and db["new name"][b"k"] == b"renamed"
        assert db.verify().ok


def test_an_older_snapshot_sees_a_newer_keyspace_empty_or_not_at_all(db, tree):
    old = db.transaction(read_only=True)
    ks = db.keyspace("new", **tree)
    ks[b"k"] = b"1"
    try:
        assert old.get(ks, b"k") is None and list(old.scan(ks)) == []
    except enginelib.UsageError:
        pass
    old.abort()
