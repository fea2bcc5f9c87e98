"""Predicates: what they match, lock and remember, and that nobody else pays."""

import itertools
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isohelp import until

import enginelib
from enginelib.predicates import Comparison, Key, Value

OPEN = Value[0:4] == b"open"


@pytest.fixture
def rooms(db, ks):
    ks.update({b"a": b"open1", b"b": b"shut1", b"c": b"open2", b"d": b"shut2"})
    return ks


def waits(txn):
    until(lambda: txn.waiting)


# --- what they say

fields = st.sampled_from([Key, Key[0:1], Key[0:2], Key[1:3], Value, Value[0:2], Value.number(0, 1), Value.number(0, 2, "big")])
texts = st.binary(max_size=4)


@st.composite
def comparisons(draw):
    field = draw(fields)
    constant = draw(st.integers(-200, 200)) if field.order else draw(texts)
    return Comparison(field, draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="])), constant)


predicates = st.recursive(comparisons(), lambda inner: st.one_of(
    st.builds(lambda a, b: a & b, inner, inner), st.builds(lambda a, b: a | b, inner, inner), st.builds(lambda a: ~a, inner)), max_leaves=5)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(predicates, predicates, texts, texts)
def test_bounds_hold_all_that_match_and_disjoint_ones_share_nothing(one, other, key, value):
    if one.matches(key, value):
        low, high = one.bounds()
        assert low is None or low <= key
        assert high is None or key < high
        if other.matches(key, value):
            assert not one.disjoint(other) and not other.disjoint(one)


def test_comparisons_read_the_fields_they_name():
    record = (b"2026-11", b"open" + (40).to_bytes(4, "little"))
    assert (Key.startswith(b"2026-") & OPEN & (Value.number(4, 8) > 30)).matches(*record)
    assert not (Value.number(4, 8) < 40).matches(*record)
    assert (Value.number(4, 8) <= 40).matches(*record)
    assert not (Value.number(8, 16) == 0).matches(*record), "a record without the field does not match"
    assert not (Value.number(8, 16) != 0).matches(*record)
    assert (~(Value.number(8, 16) == 0)).matches(*record)
    assert Key.startswith(b"2026-").bounds() == (b"2026-", b"2026.")
    assert (Key == b"k").bounds() == (b"k", b"k\0")
    assert (Value[0:1] == b"a").disjoint(Value[0:1] == b"b")
    assert repr(OPEN & (Key > b"a")) == "((Value[0:4] == b'open') & (Key > b'a'))"


@pytest.mark.parametrize("wrong", [lambda: Key > "a", lambda: Value.number(0, 4) == b"a", lambda: Key[0:4:2], lambda: Key[3:1]])
def test_wrong_comparisons_say_so(wrong):
    with pytest.raises((TypeError, ValueError)):
        wrong()


# --- scans

@pytest.mark.parametrize("granularity", ["predicate", "index_range"])
@pytest.mark.parametrize("level", enginelib.Isolation)
def test_a_scan_gives_what_matches_at_every_level(db, rooms, level, granularity):
    with db.transaction(isolation=level) as txn:
        def scan(*args, **how):
            return list(txn.scan(rooms, *args, where=OPEN, granularity=granularity, **how))

        assert scan() == [(b"a", b"open1"), (b"c", b"open2")]
        assert scan(values=False, reverse=True) == [b"c", b"a"]
        assert scan(keys=False, limit=1) == [b"open1"]
        assert scan(b"b", b"c") == []
        assert scan(prefix=b"c") == [(b"c", b"open2")]
        assert scan(limit=0) == []
        txn.put(rooms, b"b", b"open3")
        assert scan(values=False) == [b"a", b"b", b"c"]


def test_bounds_narrow_the_scan(db, rooms):
    seen = []

    class Watched:
        def matches(self, key, value):
            seen.append(key)
            return True

        def bounds(self):
            return b"b", b"d"

    with db.transaction() as txn:
        assert [key for key, _ in txn.scan(rooms, where=Watched())] == [b"b", b"c"]
    assert seen == [b"b", b"c"]


@pytest.mark.parametrize("how", [{"where": 7}, {"where": OPEN, "granularity": "row"}, {"where": OPEN, "limit": -1}, {"where": OPEN, "nowait": True},
                                 {"where": OPEN, "keys": False, "values": False}])  # fmt: skip
def test_wrong_arguments_of_a_scan_say_so(db, rooms, how):
    with db.transaction() as txn, pytest.raises((TypeError, ValueError)):
        txn.scan(rooms, **how)


# --- locks

CHANGES = {
    "insert that matches": (lambda t, ks: t.put(ks, b"e", b"open9"), True),
    "insert that does not": (lambda t, ks: t.put(ks, b"e", b"shut9"), False),
    "update into it": (lambda t, ks: t.put(ks, b"b", b"open9"), True),
    "update out of it": (lambda t, ks: t.put(ks, b"a", b"shut9"), True),
    "update within it": (lambda t, ks: t.put(ks, b"a", b"open9"), True),
    "update outside": (lambda t, ks: t.put(ks, b"b", b"shut9"), False),
    "deletion of a match": (lambda t, ks: t.delete(ks, b"c"), True),
    "deletion of another": (lambda t, ks: t.delete(ks, b"d"), False),
    "blind deletion of a match": (lambda t, ks: t.delete(ks, b"c", blind=True), True),
    "deletion of nothing": (lambda t, ks: t.delete(ks, b"z"), False),
    "many, one of them matching": (lambda t, ks: t.put_many(ks, [(b"x", b"shut"), (b"y", b"open"), (b"z", b"shut")]), True),
    "many, none of them matching": (lambda t, ks: t.put_many(ks, [(b"x", b"shut"), (b"z", b"shut")]), False),
    "large value that matches": (lambda t, ks: t.put(ks, b"e", b"open" + bytes(100_000)), True),
    "large value that does not": (lambda t, ks: t.put(ks, b"e", b"shut" + bytes(100_000)), False),
    "commutative": (lambda t, ks: t.append_if_fits(ks, b"a", b"+"), True),
    "lock alone": (lambda t, ks: t.get_for_update(ks, b"a"), False),
}


def unknown_yet(ks, change):
    """Large values of a B-tree that are not committed are not looked at: they count as matching."""
    return ks.backend == "btree" and change.startswith("large")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("level", ["read_committed", "snapshot", "locking"])
def test_a_locked_predicate_keeps_out_what_matches_and_nothing_else(db, rooms, spawn, level, change):
    make, conflicts = CHANGES[change]
    reader = db.transaction(isolation="locking")
    assert len(list(reader.scan(rooms, where=OPEN))) == 2
    writer = db.transaction(isolation=level)
    worker = spawn(make, writer, rooms)
    if conflicts:
        waits(writer)
        assert [key for key, _ in reader.scan(rooms, where=OPEN)] == [b"a", b"c"]
        reader.commit()
        worker.result()
    else:
        worker.result()
        if not unknown_yet(rooms, change):
            assert [key for key, _ in reader.scan(rooms, where=OPEN)] == [b"a", b"c"]
        reader.commit()
    writer.commit()


@pytest.mark.parametrize("change", CHANGES)
def test_a_predicate_waits_for_a_change_that_matches_and_no_other(db, rooms, spawn, change):
    make, conflicts = CHANGES[change]
    writer = db.transaction()
    make(writer, rooms)
    reader = db.transaction(isolation="locking")
    worker = spawn(lambda: [key for key, _ in reader.scan(rooms, where=OPEN)])
    if conflicts or unknown_yet(rooms, change):
        waits(reader)
        writer.commit()
        assert worker.result() == sorted(key for key, value in rooms.items() if value.startswith(b"open"))
    else:
        assert worker.result() == [b"a", b"c"]
        writer.commit()
    reader.commit()


def test_one_operation_changes_wait_too(db, rooms, spawn):
    reader = db.transaction(isolation="locking")
    list(reader.scan(rooms, where=OPEN))
    rooms[b"b"] = b"shut9"
    worker = spawn(rooms.put, b"b", b"open9")
    until(lambda: db.waits_for())
    assert rooms[b"b"] == b"shut9"
    reader.commit()
    worker.result()
    assert rooms[b"b"] == b"open9"


def test_a_deleted_range_waits_whatever_is_in_it(db, tree, spawn):
    ks = db.keyspace("r", **tree)
    ks.update({b"a": b"open1", b"b": b"shut1"})
    reader = db.transaction(isolation="locking")
    list(reader.scan(ks, where=OPEN))
    writer = db.transaction()
    worker = spawn(writer.delete_range, ks, b"a", b"c")
    waits(writer)
    reader.commit()
    worker.result()
    writer.commit()
    assert dict(ks) == {}


def test_predicates_for_update_exclude_each_other_unless_disjoint(db, rooms, spawn):
    one = db.transaction(isolation="locking")
    assert len(list(one.scan(rooms, where=OPEN, for_update=True))) == 2
    with db.transaction(isolation="locking") as other:
        assert len(list(other.scan(rooms, where=Value[0:4] == b"shut", for_update=True))) == 2
    third = db.transaction(isolation="locking")
    worker = spawn(lambda: list(third.scan(rooms, where=Value[4:5] == b"1", for_update=True)))
    waits(third)
    one.put(rooms, b"a", b"open7")
    one.commit()
    assert worker.result() == [(b"b", b"shut1")]
    third.commit()


def test_two_that_read_and_then_change_what_matches_cannot_both(db, rooms, spawn):
    one, other = (db.transaction(isolation="locking") for _ in range(2))
    for txn in (one, other):
        assert len(list(txn.scan(rooms, where=OPEN))) == 2
    worker = spawn(one.put, rooms, b"x", b"open")
    waits(one)
    with pytest.raises(enginelib.DeadlockDetected) as caught:
        other.put(rooms, b"y", b"open")
    assert len(caught.value.cycle) == 2
    other.abort()
    worker.result()
    one.commit()


def test_a_predicate_that_raises_ends_its_own_transaction_only(db, rooms, caplog):
    class Fragile:
        broken = False

        def matches(self, key, value):
            if self.broken:
                raise ZeroDivisionError("broken")
            return False

    fragile = Fragile()
    reader = db.transaction(isolation="locking")
    assert list(reader.scan(rooms, where=fragile)) == []
    fragile.broken = True
    writer = db.transaction(lock_timeout=0.05)
    with caplog.at_level(logging.CRITICAL, "enginelib"), pytest.raises(enginelib.LockTimeout):
        writer.put(rooms, b"e", b"1")            # until the reader has ended nobody knows
    with pytest.raises(enginelib.UsageError, match="predicate"):
        reader.get(rooms, b"a")
    reader.abort()
    writer.put(rooms, b"e", b"1")
    writer.commit()
    with db.transaction(isolation="locking") as own, pytest.raises(ZeroDivisionError):
        list(own.scan(rooms, where=fragile))


# --- serializable

@pytest.mark.parametrize("change", [name for name in CHANGES if name != "lock alone"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_serializable_conflicts_are_with_what_matches(db, rooms, change, order):
    """Write skew between a predicate and a change: each is told of the other only if the change matches."""
    make, conflicts = CHANGES[change]
    rooms.update({b"k": b"none", b"l": b"none"})
    one, other = (db.transaction(isolation="serializable") for _ in range(2))
    if order == "before":
        list(one.scan(rooms, where=OPEN))
    other.get(rooms, b"l")
    make(other, rooms)
    if order == "after":
        list(one.scan(rooms, where=OPEN))
    one.put(rooms, b"l", b"some")
    failures = 0
    for txn in (one, other):
        try:
            txn.commit()
        except enginelib.SerializationFailure:
            failures += 1
            txn.abort()
    assert failures == (conflicts or (order == "after" and unknown_yet(rooms, change)))


def test_what_is_remembered_goes_with_the_transactions(db, rooms):
    for _ in range(600):
        with db.transaction(isolation="serializable") as txn:
            list(txn.scan(rooms, where=OPEN))
            txn.put(rooms, b"b", b"shut")
        with db.transaction(isolation="locking") as txn:
            list(txn.scan(rooms, where=OPEN))
    tests = db.stats()["isolation"]["predicate_tests"]
    rooms[b"a"] = b"open5"
    assert db.stats()["isolation"]["predicate_tests"] == tests, "nobody is left to be tested against"
    assert db.remembered_predicates() < 600


def test_changes_elsewhere_are_not_tested(db, rooms, tree):
    other = db.keyspace("other", **tree)
    reader = db.transaction(isolation="locking")
    list(reader.scan(rooms, where=OPEN))
    before = db.stats()["isolation"]["predicate_tests"]
    other.put_many([(b"%d" % i, b"open") for i in range(100)])
    assert db.stats()["isolation"]["predicate_tests"] == before
    rooms.put_many([(b"s%d" % i, b"shut") for i in range(100)])
    assert db.stats()["isolation"]["predicate_tests"] == before + 100
    reader.commit()


def test_levels_that_lock_nothing_only_filter(db, rooms):
    for level in ("read_committed", "snapshot", "serial"):
        with db.transaction(isolation=level) as txn:
            list(txn.scan(rooms, where=OPEN))
            assert not [lock for lock in db.locks() if lock.mode in ("S", "read")]


def test_snapshot_reads_leave_no_predicate(db, rooms):
    with db.transaction(isolation="locking") as txn:
        list(txn.scan(rooms, where=OPEN, snapshot=True))
        rooms[b"e"] = b"open"


def test_every_pair_of_granularities_is_serializable(db, rooms):
    for one_way, other_way in itertools.product(["predicate", "index_range"], repeat=2):
        rooms.update({b"a": b"open1", b"c": b"open2"})
        one, other = (db.transaction(isolation="serializable") for _ in range(2))
        assert len(list(one.scan(rooms, where=OPEN, granularity=one_way))) == 2
        assert len(list(other.scan(rooms, where=OPEN, granularity=other_way))) == 2
        one.put(rooms, b"a", b"shut")
        one.commit()
        with pytest.raises(enginelib.SerializationFailure):
            other.put(rooms, b"c", b"shut")
            other.commit()
        other.abort()


# --- what the range that stands for a predicate costs others


def ranges_met(db):
    figures = db.stats()["isolation"]
    return figures["range_conflicts"], figures["range_false"]


@pytest.mark.parametrize("granularity, met", [("predicate", [(0, 0)] * 3), ("index_range", [(1, 1), (2, 1), (3, 1)])])
def test_false_conflicts_of_ranges_are_counted_under_serializable(db, rooms, granularity, met):
    """Written beside a read of the open ones: a shut one that stays shut, one that opens, one that shuts."""
    for (key, value), expected in zip([(b"b", b"shut9"), (b"d", b"open9"), (b"a", b"shut9")], met, strict=True):
        reader = db.transaction(isolation="serializable")
        list(reader.scan(rooms, where=OPEN, granularity=granularity))
        writer = db.transaction(isolation="serializable")
        writer.put(rooms, key, value)
        assert ranges_met(db) == expected
        writer.commit()
        reader.abort()


@pytest.mark.parametrize("granularity", ["predicate", "index_range"])
@pytest.mark.parametrize("write", ["put", "put_many", "delete"])
def test_false_waits_for_ranges_are_counted_under_locking(db, rooms, spawn, granularity, write):
    reader = db.transaction(isolation="locking")
    list(reader.scan(rooms, where=OPEN, granularity=granularity))
    writers = []

    def change(key, value):
        with db.transaction() as txn:
            writers.append(txn)
            if write == "put_many":
                txn.put_many(rooms, [(key, value)])
            elif write == "put":
                txn.put(rooms, key, value)
            else:
                txn.delete(rooms, key)

    first = spawn(change, b"b", b"shut9")
    until(lambda: writers and (writers[0].waiting or granularity == "predicate"))
    until(lambda: ranges_met(db) == ((1, 1) if granularity == "index_range" else (0, 0)))
    second = spawn(change, b"c", b"shut9")
    until(lambda: len(writers) == 2 and writers[1].waiting)
    assert ranges_met(db) == ((2, 1) if granularity == "index_range" else (0, 0))
    reader.commit()
    first.settled()
    second.settled()
    assert ranges_met(db) == ((2, 1) if granularity == "index_range" else (0, 0)), "one that waits on is counted once"


def test_a_range_that_was_read_for_itself_is_no_stand_in(db, rooms):
    reader = db.transaction(isolation="serializable")
    list(reader.scan(rooms, b"c", where=OPEN, granularity="index_range"))
    list(reader.scan(rooms, None, b"c"))
    with db.transaction(isolation="serializable") as writer:
        writer.put(rooms, b"b", b"shut9")
    assert ranges_met(db) == (0, 0)
    reader.abort()


def test_stand_ins_of_those_that_have_ended_are_forgotten(db, rooms):
    for _ in range(500):
        with db.transaction(isolation="locking") as txn:
            list(txn.scan(rooms, where=OPEN, granularity="index_range"))
    assert db.remembered_covers() < 130
