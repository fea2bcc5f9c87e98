"""Slots: they outlast the process, hold the log, and are lost rather than fill the disk."""

import pytest
from rephelp import Model, follow_all

import enginelib
from enginelib.replication import changes


def fill(db, ks, megabytes=4):
    for i in range(megabytes * 10):
        ks.put(b"%d" % i, b"v" * 100_000)
    db.checkpoint()


def test_what_is_acknowledged_is_not_given_again(path, tree):
    with enginelib.open(path) as db:
        ks = db.keyspace("space", **tree)
        ks[b"before"] = b""
        slot = db.create_slot("s")
        assert slot.valid and not slot.active and slot.confirmed <= slot.restart + slot.lag
        for i in range(10):
            ks[b"%d" % i] = b""
        with db.changes(slot="s") as stream:
            assert db.slots()[0].active
            first = [next(stream).operations[0].key for _ in range(4)]
            stream.acknowledge()
            assert [c.operations[0].key for c in stream][-1] == b"9"
        assert first == [b"0", b"1", b"2", b"3"]
        assert not db.slots()[0].active
    with enginelib.open(path) as db:
        ks = db["space"]
        ks[b"later"] = b""
        with db.changes(slot="s") as stream:
            keys = [(c.lsn, c.operations[0].key) for c in stream]
            assert [key for _, key in keys] == [b"4", b"5", b"6", b"7", b"8", b"9", b"later"]
            stream.acknowledge(keys[2][0])
        with db.changes(slot="s") as stream:
            assert next(stream).operations[0].key == b"7"
        db.drop_slot("s")
        assert db.slots() == []
        with pytest.raises(KeyError):
            db.changes(slot="s")
        with pytest.raises(KeyError):
            db.drop_slot("s")


def test_a_slot_holds_the_log_through_checkpoints_and_restarts(path, tree):
    db = enginelib.open(path, segment_size=1 << 20, durability="os")
    ks = db.keyspace("space", **tree)
    before = Model()
    follow_all(db.changes(), before)
    db.create_slot("s")
    for _ in range(3):
        fill(db, ks)
        db.abandon()
        db = enginelib.open(path, segment_size=1 << 20, durability="os")
        ks = db["space"]
    with db.changes(slot="s") as stream:
        follow_all(stream, before)
        stream.acknowledge()
    before.agrees_with(db)
    kept = len(list((path / "log").glob("*.wal")))
    for _ in range(3):
        ks[b"x"] = b""
        db.checkpoint()
    with db.changes(slot="s") as stream:
        list(stream)
        stream.acknowledge()
    db.close()
    with enginelib.open(path) as db:
        db.checkpoint()
        db.checkpoint()
        names = [p for p in (path / "log").glob("*.wal") if not p.name.startswith("spare")]
        assert len(names) < kept, "what was acknowledged is let go of"


def test_a_slot_that_falls_behind_is_lost_and_says_so(path, tree):
    with enginelib.open(path, segment_size=1 << 20, durability="os") as db:
        ks = db.keyspace("space", **tree)
        db.create_slot("forgotten", max_lag_bytes=2 << 20)
        db.create_slot("kept")
        fill(db, ks)
        fill(db, ks)
        states = {slot.name: slot.valid for slot in db.slots()}
        assert states == {"forgotten": False, "kept": True}
        with pytest.raises(enginelib.ChangesGone, match="'forgotten' fell behind by more than its 2097152 bytes"):
            db.changes(slot="forgotten")
        with db.changes(slot="kept") as stream:
            assert len(list(stream)) == 80
    with enginelib.open(path) as db:
        assert [slot.valid for slot in db.slots()] == [False, True], "and stays so"
        db.drop_slot("forgotten")


def test_a_slot_begins_before_transactions_in_flight(db, tree):
    ks = db.keyspace("space", **tree)
    txn = db.transaction()
    txn.put(ks, b"early", b"")
    db.create_slot("s")
    txn.put(ks, b"late", b"")
    txn.commit()
    with db.changes(slot="s") as stream:
        (change,) = stream
        assert [o.key for o in change.operations] == [b"early", b"late"]


def test_a_slot_may_begin_in_the_past(db, tree):
    ks = db.keyspace("space", **tree)
    for i in range(10):
        ks[b"%d" % i] = b""
    changes = list(db.changes())
    db.create_slot("s", since=changes[5].lsn)
    with db.changes(slot="s") as stream:
        assert [c.lsn for c in stream] == [c.lsn for c in changes[6:]]


def test_misuse_of_slots_is_refused(path, tree):
    with enginelib.open(path) as db:
        db.keyspace("space", **tree)
        db.create_slot("s")
        with pytest.raises(ValueError, match="already"):
            db.create_slot("s")
        with pytest.raises(ValueError, match="1 to 255 bytes"):
            db.create_slot("")
        with pytest.raises(ValueError, match="positive"):
            db.create_slot("t", max_lag_bytes=0)
        with pytest.raises(ValueError, match="leave since out"):
            db.changes(slot="s", since=5)
        with db.changes(slot="s"):
            with pytest.raises(enginelib.UsageError, match="one reader"):
                db.changes(slot="s")
            with pytest.raises(enginelib.UsageError, match="close that stream"):
                db.drop_slot("s")
        with pytest.raises(enginelib.UsageError, match="with a slot"):
            db.changes().acknowledge()
        for i in range(63):
            db.create_slot(f"slot {i}")
        with pytest.raises(ValueError, match="64 slots"):
            db.create_slot("one more")
        assert len(db.slots()) == 64
    with enginelib.open(path, read_only=True) as db:
        assert len(db.slots()) == 64
        with pytest.raises(enginelib.ReadOnlyError):
            db.create_slot("t")


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_file_of_slots_is_told(path, damage):
    with enginelib.open(path) as db:
        db.create_slot("s")
    file = path / "slots"
    data = bytearray(file.read_bytes())
    if damage is None:
        data[30] ^= 1
    else:
        data = damage
    file.write_bytes(bytes(data))
    with pytest.raises(enginelib.CorruptionError, match="slots"):
        enginelib.open(path)
    file.unlink()
    with enginelib.open(path) as db:
        assert db.slots() == []


def test_what_shares_a_write_with_an_acknowledged_change_is_not_lost(path, tree):
    """Several commits go to the log in one piece; one acknowledged in its middle leaves the rest."""
    with enginelib.open(path, durability="lazy", lazy_interval=60.0) as db:
        ks = db.keyspace("space", **tree)
        db.create_slot("s")
        db.sync()
        for i in range(5):
            with db.transaction() as txn:
                txn.put(ks, b"%d" % i, b"")
                txn.put(ks, b"%d again" % i, b"")
        with db.changes(slot="s") as stream:
            next(stream)
            next(stream)
            stream.acknowledge()
    with enginelib.open(path) as db, db.changes(slot="s") as stream:
        assert [[o.key for o in c.operations] for c in stream] == [[b"%d" % i, b"%d again" % i] for i in (2, 3, 4)]


def test_a_commit_that_is_logged_and_not_visible_yet_is_in_the_snapshot_or_in_the_stream(db, tree, monkeypatch):
    ks = db.keyspace("space", **tree)
    txn = db.transaction(durability="sync")
    txn.put(ks, b"k", b"v")

    def meanwhile(database, look=changes.oldest_running):
        assert txn.commit_later()
        monkeypatch.undo()
        return look(database)

    monkeypatch.setattr(changes, "oldest_running", meanwhile)
    db.create_slot("s")
    with db.transaction(read_only=True) as snapshot:
        seen = snapshot.get(ks, b"k") == b"v"
    with db.changes(slot="s") as stream:
        assert seen or len(list(stream)) == 1
    txn.complete()


def test_a_slot_whose_log_is_gone_says_so(path, tree):
    """As a file of slots that comes from elsewhere would be."""
    with enginelib.open(path, segment_size=1 << 20) as db:
        ks = db.keyspace("space", **tree)
        db.create_slot("s")
        file = (path / "slots").read_bytes()
        db.drop_slot("s")
        fill(db, ks)
        fill(db, ks)
    (path / "slots").write_bytes(file)
    with enginelib.open(path) as db, pytest.raises(enginelib.ChangesGone, match="the slot needs it|begins at LSN"):
        db.changes(slot="s")


def test_a_slot_whose_last_commit_is_not_in_the_log_any_more_goes_on(db, tree):
    """What it has acknowledged may go, although nothing else has been committed since: it needs the log from `restart` on."""
    ks = db.keyspace("space", **tree)
    db.create_slot("reader")
    ks[b"a"] = b"1"
    for n in range(40):
        with pytest.raises(ZeroDivisionError), db.transaction() as txn:
            txn.put(ks, b"b", bytes([n]) * 90_000)
            raise ZeroDivisionError
    with db.changes(slot="reader") as stream:
        (change,) = stream.next_many(100, 1.0)
        stream.acknowledge()
    ks[b"c"] = b"2"
    db.checkpoint()
    db.checkpoint()
    (slot,) = db.slots()
    assert slot.confirmed == change.lsn and next(db.log_records())["lsn"] > change.lsn, "the case that is meant"
    with db.changes(slot="reader") as stream:
        (change,) = stream
        assert [o.key for o in change.operations] == [b"c"]
