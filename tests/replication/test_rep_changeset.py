"""Changesets: what was changed is changed elsewhere, and taken back; what differs there is a conflict, decided as told."""

import io
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rephelp import contents
from sortedcontainers import SortedDict

import enginelib
from enginelib.replication import Applied, Changeset, Operation


def changeset(db, **options):
    with db.changes(include_before="full", **options) as stream:
        return Changeset(stream)


def mark(db):
    return max((c.lsn for c in db.changes()), default=0)


@pytest.fixture
def pair(tree):
    """Two databases that hold the same."""
    with enginelib.open(":memory:", cache_size=4 << 20) as one, enginelib.open(":memory:", cache_size=4 << 20) as other:
        for db in (one, other):
            db.keyspace("space", before="full", **tree).update({b"a": b"1", b"b": b"2", b"c": b"3"})
        yield one, other


def change_some(db):
    """Returns the changeset of one transaction of each kind of change."""
    since = mark(db)
    space = db["space"]
    with db.transaction() as txn:
        txn.put(space, b"a", b"one")
        txn.delete(space, b"b")
        txn.put(space, b"d", b"4")
        txn.put(space, b"d", b"four" * 30_000)
    space[b"c"] = b""
    return changeset(db, since=since)


def test_changes_are_applied_and_taken_back(pair):
    one, other = pair
    original = contents(other)
    made = change_some(one)
    assert (len(made), len(made.changes), bool(made), bool(Changeset())) == (5, 2, True, False)
    assert made.apply(other) == Applied(5, 0, 0)
    assert contents(other) == contents(one)
    assert made.invert().apply(other) == Applied(5, 0, 0)
    assert contents(other) == original
    assert made.invert().invert() == made
    with other.transaction() as txn:
        made.apply(txn)
        assert txn.get(other["space"], b"a") == b"one"
        made.invert().apply(txn)
    assert contents(other) == original


def test_files_hold_them(pair, tmp_path):
    made = change_some(pair[0])
    assert made.save(tmp_path / "file") == 2 and Changeset.load(str(tmp_path / "file")) == made
    file = io.BytesIO()
    made.invert().save(file)
    assert Changeset.load(io.BytesIO(file.getvalue())).invert() == made
    with pytest.raises(enginelib.CorruptionError):
        Changeset.load(io.BytesIO(file.getvalue()[:-1]))


CONFLICTS = {
    "another value": lambda space: space.put(b"a", b"mine"),
    "missing": lambda space: space.delete(b"b"),
    "there already": lambda space: space.put(b"d", b"mine"),
}


@pytest.mark.parametrize("kind", CONFLICTS)
def test_a_conflict_aborts_is_skipped_or_overwritten(pair, kind):
    one, other = pair
    made = change_some(one)
    CONFLICTS[kind](other["space"])
    found = contents(other)
    key = {"another value": b"a", "missing": b"b", "there already": b"d"}[kind]
    present = found["space"].get(key)
    with pytest.raises(enginelib.ChangesetConflict, match="the key") as caught:
        made.apply(other)
    assert (caught.value.operation.key, caught.value.present) == (key, present) and not caught.value.retryable
    with other.transaction() as txn:
        txn.put(other["space"], b"kept", b"")
        with pytest.raises(enginelib.ChangesetConflict):
            made.apply(txn)
        assert txn.get(other["space"], b"c") == b"3", "nothing of it was applied"
        txn.delete(other["space"], b"kept")
    assert contents(other) == found
    met = []

    def handler(operation, value):
        met.append((operation.key, value))
        return "skip"

    skipped = made.apply(other, handler)
    assert skipped == Applied(5 - len(met), len(met), 0) and met[0] == (key, present)
    assert other["space"].get(key) == present
    assert contents(other)["space"] == contents(one)["space"] | ({key: present} if present is not None else {})


def test_overwriting_makes_it_as_it_was_made(pair):
    one, other = pair
    made = change_some(one)
    for spoil in CONFLICTS.values():
        spoil(other["space"])
    done = made.apply(other, "overwrite")
    assert done == Applied(2, 0, 3) and contents(other) == contents(one)


def test_a_handler_may_put_something_else(pair):
    one, other = pair
    made = change_some(one)
    other["space"][b"a"] = b"mine"
    assert made.apply(other, lambda o, value: value + b"+" + o.value) == Applied(4, 0, 1)
    assert other["space"][b"a"] == b"mine+one"
    with pytest.raises(TypeError, match="handler returns"):
        made.apply(other, lambda o, value: None)
    with pytest.raises(ValueError, match="conflict must be"):
        made.apply(other, "ignore")
    with pytest.raises(enginelib.ChangesetConflict):
        made.apply(other, lambda o, value: "abort")


def test_keyspaces_are_made_renamed_and_dropped(tree):
    with enginelib.open(":memory:") as one, enginelib.open(":memory:") as other:
        made = one.keyspace("old", before="full", **tree)
        made[b"a"] = b"1"
        one.rename_keyspace("old", "new")
        one["new"][b"b"] = b"2"
        changes = changeset(one)
        assert changes.apply(other) == Applied(4, 0, 0) and contents(other) == contents(one)
        assert (other["new"].backend, other["new"].before) == (made.backend, "full")
        with pytest.raises(enginelib.ChangesetConflict, match="no such keyspace"):
            Changeset(changes.changes[2:3]).apply(other)
        other["new"][b"mine"] = b""
        with pytest.raises(enginelib.ChangesetConflict, match="not empty"):
            changes.invert().apply(other)
        assert changes.invert().apply(other, "skip") == Applied(3, 1, 0) and contents(other) == {"old": {b"mine": b""}}
        assert changes.apply(other, "overwrite") == Applied(3, 0, 1) and contents(other)["new"] == {b"a": b"1", b"b": b"2", b"mine": b""}
        assert changes.invert().apply(other, "overwrite") == Applied(3, 0, 1) and contents(other) == {}
        assert changes.invert().apply(other, "skip").skipped == 4
        with pytest.raises(enginelib.ChangesetConflict, match="make it first, or skip"):
            Changeset(changes.changes[1:2]).apply(other, "overwrite")
        assert changes.invert().invert().apply(other) == Applied(4, 0, 0) and contents(other) == contents(one)
        other.keyspace("old")
        for decision in ("abort", "overwrite"):
            with pytest.raises(enginelib.ChangesetConflict, match="already"):
                Changeset(changes.changes[2:3]).invert().apply(other, decision)
        one.drop_keyspace("new")
        with pytest.raises(enginelib.UsageError, match="was dropped"):
            changeset(one, keyspaces=["new"]).invert()


def test_what_has_no_images_is_applied_but_not_inverted(tree):
    with enginelib.open(":memory:") as one, enginelib.open(":memory:") as other:
        space = one.keyspace("space", **tree)
        space.update({b"a": b"1", b"b": b"2", b"c": b"3"})
        del space[b"b":]
        made = Changeset(one.changes())
        with pytest.raises(enginelib.UsageError, match=r"include_before='full'|range"):
            made.invert()
        other.keyspace("space", **tree)[b"a"] = b"mine"
        assert made.apply(other, "overwrite").overwritten == 1 and contents(other) == contents(one)
        with pytest.raises(enginelib.UsageError, match="no full before-image"):
            Changeset(c for c in made.changes if c.operations[0].op == "put").invert()


def test_transactions_larger_than_memory_are_held_whole(pair):
    one, other = pair
    since = mark(one)
    with one.transaction() as txn:
        for i in range(300):
            txn.put(one["space"], b"%d" % (i % 40), b"%d" % i * 200)
    made = changeset(one, since=since, memory=1000)
    assert made == changeset(one, since=since) and len(made) == 300
    made.apply(other)
    assert contents(other) == contents(one)


def test_keys_alone_find_what_is_missing(tree):
    with enginelib.open(":memory:") as one, enginelib.open(":memory:") as other:
        for db in (one, other):
            db.keyspace("space", before="key", **tree).update({b"a": b"1"})
        since = mark(one)
        one["space"][b"a"] = b"2"
        with one.changes(since=since, include_before="key") as stream:
            made = Changeset(stream)
        other["space"][b"a"] = b"mine"
        assert made.apply(other) == Applied(1, 0, 0), "it is there, whatever it holds"
        del other["space"][b"a"]
        with pytest.raises(enginelib.ChangesetConflict, match="is not there"):
            made.apply(other)
        with pytest.raises(enginelib.UsageError, match="no full before-image"):
            made.invert()


def test_operations_are_values():
    o = Operation("k", "put", b"a", b"1", b"0", True)
    assert o == Operation("k", "put", b"a", b"1", b"0", True) != Operation("k", "put", b"a", b"1", None, True)
    assert o != Operation("k", "put", b"a", b"1", b"0") and "before=b'0'" in repr(o)
    assert repr(Operation("k", "put", b"a", b"1", None, False)).endswith("before=None>")


steps = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "delete", "range", "save", "back", "commit", "abort"]), st.integers(0, 5), st.sampled_from([0, 5, 3000, 5000, 40_000])),
    max_size=40,
)  # fmt: skip


def play(db, model, todo, rng):
    """Does random steps in transactions; the model follows, and returns what the committed operations met."""
    space, met = db["space"], []
    txn, now, ops, saves = None, None, [], []
    for what, key, size in [*todo, ("commit", 0, 0)]:
        if txn is None:
            txn, now, ops, saves = db.transaction(), SortedDict(model), [], []
        key = b"%d" % key
        if what == "put":
            value = bytes([rng.randrange(256)]) * size
            txn.put(space, key, value)
            ops.append(("put", key, value, now.get(key)))
            now[key] = value
        elif what == "delete":
            if txn.delete(space, key):
                ops.append(("delete", key, None, now.pop(key)))
        elif what == "range":
            for each in list(now.irange(key, None)):
                ops.append(("delete", each, None, now.pop(each)))
            txn.delete_range(space, key)
        elif what == "save" and len(saves) < 3:
            saves.append((txn.save(), SortedDict(now), len(ops)))
        elif what == "back" and saves:
            depth, now, count = saves.pop()
            del ops[count:]
            txn.rollback_to(depth)
        elif what == "commit":
            txn.commit()
            txn, model = None, now
            met += ops
        elif what == "abort":
            txn.abort()
            txn = None
    return model, met


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=steps, after=steps, lsm=st.booleans(), clean=st.booleans(), seed=st.integers(0, 99))
def test_what_was_done_is_done_elsewhere_and_taken_back(before, after, lsm, clean, seed, tmp_path_factory):
    """Every operation's before-image is what a model held; the changeset makes a copy the same, its inversion the original; there is a restart in between."""
    tree = {"backend": "lsm", "memtable_size": 64 << 10, "table_size": 64 << 10} if lsm else {}
    path = tmp_path_factory.mktemp("changeset") / "db"
    small = {"cache_size": 1 << 20, "segment_size": 1 << 20, "durability": "os"}
    rng = random.Random(seed)
    with enginelib.open(":memory:") as other:
        db = enginelib.open(path, **small)
        db.keyspace("space", before="full", **tree)
        copy = other.keyspace("space", before="full", **tree)
        model, _ = play(db, SortedDict(), before, rng)
        copy.update(model)
        since = mark(db)
        db.create_slot("keeper")
        middle, met = play(db, model, after[: len(after) // 2], rng)
        if clean:
            db.close()
        else:
            db.sync()
            db.abandon()
        with enginelib.open(path, **small) as db:
            end, more = play(db, middle, after[len(after) // 2 :], rng)
            made = changeset(db, since=since)
            assert [(o.op, o.key, o.value, o.before) for o in made] == met + more
            assert made.apply(other) == Applied(len(made), 0, 0)
            assert dict(copy) == dict(end) == dict(db["space"])
            assert made.invert().apply(other) == Applied(len(made), 0, 0)
            assert dict(copy) == dict(model)
            made.invert().apply(db)
            assert dict(db["space"]) == dict(model)
