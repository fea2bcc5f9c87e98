"""Commutative operations: what they do, that they wait for each other and never abort each other, and where the exemption ends."""

import threading

import pytest
from isohelp import until

import enginelib
from enginelib import from_counter, to_counter

LEVELS = list(enginelib.Isolation)


@pytest.mark.parametrize("level", LEVELS)
def test_operations_do_what_they_say(db, ks, level):
    with db.transaction(isolation=level) as txn:
        txn.add(ks, b"n", 5)
        txn.add(ks, b"n", -7)
        txn.max(ks, b"high", 3)
        txn.max(ks, b"high", 1)
        txn.min(ks, b"low", 3)
        txn.min(ks, b"low", -1)
        txn.bit_or(ks, b"or", b"\x01")
        txn.bit_or(ks, b"or", b"\x02\x04")
        txn.bit_and(ks, b"or", b"\x02\xff")
        txn.bit_and(ks, b"absent", b"\x02")
        txn.append_if_fits(ks, b"text", b"abc", 5)
        txn.append_if_fits(ks, b"text", b"def", 5)
        txn.append_if_fits(ks, b"text", b"de", 5)
        assert txn.compare_and_set(ks, b"cas", None, b"1") is True
        assert txn.compare_and_set(ks, b"cas", None, b"2") is False
        assert txn.compare_and_set(ks, b"cas", b"1", b"2") is True
        assert txn.compare_and_set(ks, b"gone", b"x", None) is False
        txn.put(ks, b"gone", b"x")
        assert txn.compare_and_set(ks, b"gone", b"x", None) is True
    assert dict(ks) == {b"n": to_counter(-2), b"high": to_counter(3), b"low": to_counter(-1), b"or": b"\x02\x04", b"text": b"abcde", b"cas": b"2"}


def test_wrong_operands_change_nothing(db, ks):
    ks.update({b"short": b"1", b"full": to_counter((1 << 63) - 1)})
    with db.transaction() as txn:
        with pytest.raises(ValueError, match="8"):
            txn.add(ks, b"short", 1)
        with pytest.raises(OverflowError):
            txn.add(ks, b"full", 1)
        with pytest.raises(ValueError, match="limit"):
            txn.append_if_fits(ks, b"short", b"x", -1)
        with pytest.raises(TypeError):
            txn.bit_or(ks, b"short", "text")
    assert dict(ks) == {b"short": b"1", b"full": to_counter((1 << 63) - 1)}


@pytest.mark.parametrize("level", LEVELS)
def test_counters_of_many_threads_lose_nothing_and_abort_nobody(db, ks, spawn, level):
    start = threading.Barrier(4)

    def count():
        start.wait()
        for i in range(60):
            with db.transaction(isolation=level) as txn:
                txn.add(ks, b"n", 1)
                txn.max(ks, b"n max", i)        # always in this order: a cycle of waits would be nobody's fault but the caller's

    for worker in [spawn(count) for _ in range(4)]:
        worker.result(30)
    assert from_counter(ks[b"n"]) == 240
    assert from_counter(ks[b"n max"]) == 59


def test_they_wait_for_each_other_and_take_what_is_newest(db, ks, spawn):
    one, other = (db.transaction() for _ in range(2))
    one.add(ks, b"n", 1)
    worker = spawn(other.add, ks, b"n", 10)
    until(lambda: other.waiting)
    one.commit()
    worker.result()
    other.commit()
    assert from_counter(ks[b"n"]) == 11


READS = {
    "get": lambda txn, ks: txn.get(ks, b"n"),
    "get_many": lambda txn, ks: txn.get_many(ks, [b"m", b"n"]),
    "scan": lambda txn, ks: list(txn.scan(ks)),
    "get_for_update": lambda txn, ks: txn.get_for_update(ks, b"n"),
    "delete": lambda txn, ks: txn.delete(ks, b"n"),
    "snapshot read": lambda txn, ks: txn.get(ks, b"n", snapshot=True),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("level", ["snapshot", "serializable"])
def test_reading_the_key_ends_the_exemption(db, ks, level, read):
    ks[b"n"] = to_counter(1)
    txn = db.transaction(isolation=level)
    txn.get(ks, b"m")
    with db.transaction() as other:
        other.add(ks, b"n", 1)
    txn.add(ks, b"n", 1)
    with txn.savepoint():
        txn.add(ks, b"n", 1)                # still marked
    with pytest.raises(enginelib.WriteConflict):
        READS[read](txn, ks)
    with pytest.raises(enginelib.WriteConflict):
        txn.commit()
    txn.abort()
    assert from_counter(ks[b"n"]) == 2


@pytest.mark.parametrize("read", READS)
def test_reading_is_free_where_nobody_else_has_changed_it(db, ks, read):
    ks[b"n"] = to_counter(1)
    with db.transaction() as txn:
        txn.add(ks, b"n", 1)
        READS[read](txn, ks)


def test_serializable_ones_come_after_whoever_wrote_what_they_take(db, ks):
    """Not to be told apart by the sum, but by an append: who was not seen reading comes first in the list and second in the reads."""
    ks[b"x"] = b"0"
    late = db.transaction(isolation="serializable")
    assert late.get(ks, b"x") == b"0"
    with db.transaction(isolation="serializable") as first:
        first.put(ks, b"x", b"1")
        first.append_if_fits(ks, b"list", b"first ")
    with pytest.raises(enginelib.SerializationFailure):
        late.append_if_fits(ks, b"list", b"late")
        late.commit()
    late.abort()


def test_a_comparison_is_a_read_to_serializable_transactions(db, ks):
    one, other = (db.transaction(isolation="serializable") for _ in range(2))
    assert one.compare_and_set(ks, b"a", b"?", b"1") is False
    assert other.compare_and_set(ks, b"b", b"?", b"1") is False
    one.abort()
    other.abort()
    one, other = (db.transaction(isolation="serializable") for _ in range(2))
    other.get(ks, b"b")
    one.compare_and_set(ks, b"a", b"?", b"1")
    one.put(ks, b"b", b"1")
    one.commit()
    with pytest.raises(enginelib.SerializationFailure):
        other.put(ks, b"a", b"1")
        other.commit()
    other.abort()
