"""Command logging: calls that are recorded beside their changes, and repeated."""

import datetime
import itertools
import random
import time

import msgspec
import pytest

import enginelib
from enginelib.commands import Call


def calls(db):
    return [
        Call(r["key"].decode(), msgspec.msgpack.decode(r["value"]), r["a"], r["b"])
        for r in db.log_records()
        if r["type"] == "call"
    ]


def draw(txn, ks, names, many):
    """Depends on all that a procedure may depend on."""
    for name in names:
        count = int(txn.get(ks, name, b"0")) + 1
        txn.put(ks, name, b"%d" % count)
    for _ in range(many):
        txn.put(ks, b"r%06d" % txn.random().randrange(10**6), repr(txn.now()).encode())
    return txn.random().random(), txn.now()


def contents(db):
    return {name: list(db[name].scan()) for name in db.keyspaces()}


@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_repeated_call_changes_and_returns_the_same(tmp_path, tree, way):
    results = []
    with enginelib.open(tmp_path / "leader") as leader, enginelib.open(tmp_path / "follower") as follower:
        for db in (leader, follower):
            ks = db.keyspace("k", **tree)

            @db.procedure(name="draw", logged=True)
            def procedure(txn, *args, ks=ks):
                return draw(txn, ks, *args)

        for i in range(20):
            args = [b"a", b"b%d" % (i % 3)], i % 5
            results.append(leader.call("draw", *args) if way == "call" else leader.submit("draw", *args).result(10))
        logged = calls(leader)
        assert [call.args for call in logged] == [[[b"a", b"b%d" % (i % 3)], i % 5] for i in range(20)]
        assert [call.now / 1e6 for call in logged] == pytest.approx([now for _, now in results])
        assert [follower.repeat(call) for call in logged] == results
        assert contents(follower) == contents(leader)
        assert calls(follower) == logged, "a follower's log can be followed in turn"


def test_recovery_uses_the_changes(tmp_path, tree):
    db = enginelib.open(tmp_path / "x", durability="os")
    ks = db.keyspace("k", **tree)

    @db.procedure(logged=True)
    def once(txn, key):
        txn.put(ks, key, b"%d" % txn.random().getrandbits(64))

    for i in range(50):
        db.call(once, b"%d" % i)
    before = contents(db)
    db.abandon()
    with enginelib.open(tmp_path / "x") as db:
        assert contents(db) == before
        assert db.verify().ok


def test_only_a_call_that_changed_anything_is_logged(db, ks):
    @db.procedure(logged=True)
    def look(txn, key):
        return txn.get(ks, key)

    @db.procedure(logged=True)
    def fail(txn, key):
        txn.put(ks, key, b"1")
        raise ZeroDivisionError

    @db.procedure
    def unlogged(txn, key):
        txn.put(ks, key, b"1")

    db.call(look, b"a")
    with pytest.raises(ZeroDivisionError):
        db.call(fail, b"a")
    db.call(unlogged, b"a")
    assert calls(db) == []


def test_arguments_arrive_as_the_log_has_them(db, ks):
    seen = []

    @db.procedure(logged=True)
    def note(txn, *args):
        seen.append(args)
        txn.put(ks, b"k", b"v")

    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    db.call(note, None, True, 7, 1.5, "text", b"bytes", (1, 2), {"a": [b"b"]}, when)
    assert seen == [(None, True, 7, 1.5, "text", b"bytes", [1, 2], {"a": [b"b"]}, when)]
    for wrong in (object(), 2**70, {1, object()}):
        with pytest.raises(TypeError, match="'note' cannot be logged"):
            db.call(note, wrong)
    with pytest.raises(ValueError, match="put them into a keyspace"):
        db.call(note, b"x" * (300 << 10))
    with pytest.raises(TypeError):
        db.submit(note, object()).result(10)


def test_large_calls_fill_segments(tmp_path):
    """Each call is a record of a quarter of a segment."""
    with enginelib.open(tmp_path / "x", segment_size=1 << 20, durability="os") as db:
        ks = db.keyspace("k")

        @db.procedure(logged=True)
        def note(txn, i, text):
            txn.put(ks, b"%d" % i, b"%d" % len(text))

        for i in range(30):
            db.call(note, i, b"x" * 250_000)
        db.abandon()
    with enginelib.open(tmp_path / "x") as db:
        assert len(list(db["k"].scan())) == 30


def test_time_does_not_go_back_and_is_one_per_transaction(db):
    with db.transaction() as txn:
        assert txn.now() == txn.now()
        assert abs(txn.now() - time.time()) < 60
        assert txn.random() is txn.random()
        earlier = txn.now()
    with db.transaction() as txn:
        assert txn.now() >= earlier
    ended = db.transaction()
    ended.abort()
    with pytest.raises(enginelib.TransactionClosed):
        ended.now()


def wild(ks):
    counter = itertools.count()
    yield lambda txn: txn.put(ks, b"k", b"%d" % next(counter)), r"did put\('space', b'k', b'0'\) .* put\('space', b'k', b'1'\)"
    yield lambda txn: txn.add(ks, b"k", next(counter) + 1), "did put"
    yield lambda txn: txn.put_many(ks, [(b"%d" % random.getrandbits(64), b"")]), "did put"
    yield lambda txn: [txn.delete(ks, b"a") for _ in range(next(counter) % 2)], "changes in its first run"
    yield lambda txn: random.getrandbits(64), "returned"
    yield lambda txn: (txn.delete_range(ks, b"%d" % next(counter), b"x"), None)[1], "did delete_range"
    yield lambda txn: txn[ks].__setitem__(b"%d" % next(counter), b""), "did put"


@pytest.mark.parametrize("which", range(7))
def test_checking_finds_what_is_not_deterministic(db, ks, which):
    function, message = list(wild(ks))[which]
    ks[b"a"] = b"before"
    before = list(ks.scan())
    db.procedure(function, name="wild", logged=True, checked=True)
    with pytest.raises(enginelib.NotDeterministic, match=message) as caught:
        db.call("wild")
    assert caught.value.code == "not_deterministic" and not caught.value.retryable
    assert list(ks.scan()) == before and calls(db) == []


def test_checking_lets_the_deterministic_through(db, ks):
    @db.procedure(logged=True, checked=True)
    def good(txn, n):
        with txn.savepoint():
            txn.add(ks, b"n", n)
        txn[ks].update({b"%d" % txn.random().getrandbits(32): repr(txn.now()).encode()})
        txn.delete_range(ks, b"a", b"b")
        return txn.get(ks, b"n")

    for i in range(3):
        db.call(good, 5)
    assert enginelib.from_counter(ks[b"n"]) == 15, "it counts once"
    assert len(list(ks.scan())) == 4
    assert len(calls(db)) == 3


def test_checked_wants_logged_and_repeat_wants_both(db, ks):
    with pytest.raises(ValueError, match="logged=True"):
        db.procedure(checked=True)

    @db.procedure
    def plain(txn):
        pass

    with pytest.raises(ValueError, match="not registered as logged"):
        db.repeat(Call("plain", [], 0, 0))
    with pytest.raises(KeyError):
        db.repeat(Call("nothing", [], 0, 0))


def test_a_procedure_that_ends_its_transaction_is_told(db, ks):
    for checked in (False, True):

        @db.procedure(name=f"ends{checked}", logged=True, checked=checked)
        def ends(txn):
            txn.put(ks, b"k", b"v")
            txn.abort()

        with pytest.raises(enginelib.UsageError, match="leaves its transaction open"):
            db.call(f"ends{checked}")
