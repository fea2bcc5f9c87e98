"""Change streams over prepared transactions: whole at their commit, and on request where they stand in between."""

import pytest

from enginelib.replication import Change, Changeset, Follower, codec


def prepare(db, ks, xid, key):
    txn = db.transaction()
    txn.put(ks, key, b"1")
    txn.prepare(xid)


def told(stream):
    return [(c.event, c.xid, [o.key for o in c.operations]) for c in stream]


@pytest.fixture
def ks(db, tree):
    return db.keyspace("k", **tree)


def test_a_commit_is_whole_and_bears_its_xid(db, ks):
    with db.changes(since=db.stats()["log"]["end_lsn"]) as stream:
        prepare(db, ks, "a", b"a")
        prepare(db, ks, "b", b"b")
        ks.put(b"plain", b"1")
        assert told(stream) == [("commit", None, [b"plain"])]
        db.commit_prepared("b")
        db.rollback_prepared("a")
        assert told(stream) == [("commit", "b", [b"b"])]


def test_prepares_and_their_ends_are_events_where_asked_for(db, ks):
    with db.changes(since=db.stats()["log"]["end_lsn"], prepared=True) as stream:
        prepare(db, ks, "a", b"a")
        prepare(db, ks, "b", b"b")
        ks.put(b"plain", b"1")
        db.commit_prepared("b")
        db.rollback_prepared("a")
        with db.transaction() as txn:
            txn.put(ks, b"gone", b"1")
            txn.abort()
        found = list(stream)
        assert told(found) == [
            ("prepare", "a", [b"a"]),
            ("prepare", "b", [b"b"]),
            ("commit", None, [b"plain"]),
            ("commit", "b", [b"b"]),
            ("rollback", "a", []),
        ]
        lsns = [c.lsn for c in found]
        assert lsns == sorted(set(lsns)) and [c.sequence > 0 for c in found] == [False, False, True, True, False]
    for i, change in enumerate(found):  # it goes on behind any of them
        with db.changes(since=change.lsn, prepared=True) as stream:
            assert told(stream) == told(found[i + 1 :])


def test_a_slot_yields_again_what_was_not_acknowledged(place, tree, how):
    db = place.db
    ks = db.keyspace("k", **tree)
    db.create_slot("s")
    prepare(db, ks, "a", b"a")
    with db.changes(slot="s", prepared=True) as stream:
        assert told(stream) == [("prepare", "a", [b"a"])]
        stream.acknowledge()
    db = place.again(how)
    db.commit_prepared("a")
    for _ in range(2):
        with db.changes(slot="s", prepared=True) as stream:
            found = told(stream)
            # A crash may forget the newest acknowledgements.
            assert found[-1] == ("commit", "a", [b"a"]) and len(found) <= (2 if how == "crash" else 1)


def test_a_transaction_larger_than_memory(db, ks):
    with db.changes(since=db.stats()["log"]["end_lsn"], prepared=True, memory=1000) as stream:
        txn = db.transaction()
        txn.put_many(ks, [(b"%03d" % i, b"x" * 100) for i in range(100)])
        txn.prepare("a")
        (event,) = [stream.next()]
        assert event.event == "prepare" and len(list(event.operations)) == 100
        db.commit_prepared("a")
        change = stream.next()
        assert change.xid == "a" and len(list(change.operations)) == 100


def test_the_codec_and_others_that_take_changes(db, ks, tmp_path):
    with db.changes(since=db.stats()["log"]["end_lsn"], prepared=True) as stream:
        prepare(db, ks, "a", b"a")
        db.commit_prepared("a")
        found = list(stream)
    for change in found:
        assert codec.decode(codec.encode(change)) == change and isinstance(change, Change)
    assert list(codec.to_events(found[0])) == []
    assert [c.event for c in Changeset(found).changes] == ["commit"]


def test_a_follower_sees_what_committed(db, ks, tmp_path):
    prepare(db, ks, "before the copy", b"a")
    with Follower(tmp_path / "copy", db) as follower:
        follower.wait_for(db.stats()["log"]["synced_lsn"], timeout=10)
        assert dict(follower.database["k"].scan()) == {}
        prepare(db, ks, "after", b"b")
        db.commit_prepared("before the copy")
        db.commit_prepared("after")
        ks.put(b"z", b"1")
        follower.wait_for(db.stats()["log"]["end_lsn"], timeout=10)
        assert sorted(dict(follower.database["k"].scan())) == [b"a", b"b", b"z"]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_keyspace_made_by_a_prepared_transaction_logs_its_before_images_after_a_crash(place, tree, how, checkpoint):
    db = place.db
    old = db.keyspace("old", before="full")
    old.put(b"a", b"1")
    txn = db.transaction()
    made = txn.create_keyspace("made", before="full", **tree)
    txn.put(made, b"a", b"1")
    txn.prepare("x")
    if checkpoint:
        db.checkpoint()
    db = place.again(how)
    db.commit_prepared("x")
    start = db.stats()["log"]["end_lsn"]
    db["made"].put(b"a", b"2")
    db["old"].put(b"a", b"2")
    with db.changes(since=start, include_before="full") as stream:
        assert [[o.before for o in c.operations] for c in stream] == [[b"1"], [b"1"]]
