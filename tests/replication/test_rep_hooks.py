"""Hooks: after commits, before them, and futures of the next change of a key."""

import logging
import threading
from concurrent.futures import CancelledError

import pytest

import enginelib


@pytest.fixture
def ks(db, tree):
    return db.keyspace("k", **tree)


def wait_until(condition, seconds=20.0):
    done = threading.Event()
    for _ in range(int(seconds * 1000)):
        if condition():
            return
        done.wait(0.001)
    pytest.fail("it never came to that")


# ---- after


def test_a_hook_is_called_for_every_commit_in_order(db, ks):
    seen = []
    ks.put(b"before", b"")
    with db.on_commit(lambda change: seen.append((change.sequence, [o.key for o in change.operations]))) as hook:
        for i in range(50):
            ks.put(b"%02d" % i, b"")
        with db.transaction() as txn:
            txn.put(ks, b"x", b"")
            txn.put(ks, b"y", b"")
        with pytest.raises(ZeroDivisionError), db.transaction() as txn:
            txn.put(ks, b"never", b"")
            raise ZeroDivisionError
        wait_until(lambda: len(seen) == 51)
    assert [keys for _, keys in seen] == [[b"%02d" % i] for i in range(50)] + [[b"x", b"y"]]
    assert [n for n, _ in seen] == sorted({n for n, _ in seen})
    assert hook.calls == 51 and hook.failures == 0
    ks.put(b"after", b"")
    assert hook.calls == 51 and db.commit_hooks == [] and db.after_commit_hook is None


def test_one_that_raises_harms_nobody(db, ks, caplog):
    with caplog.at_level(logging.ERROR, "enginelib"), db.on_commit(lambda change: 1 / 0) as hook:
        ks.put(b"a", b"1")
        ks.put(b"b", b"1")
        wait_until(lambda: hook.failures == 2)
        assert db.stats()["hooks"] == {"on_commit": 1, "calls": 2, "failures": 2, "commits_that_waited": 0, "seconds_waited": 0.0}
    assert "a commit hook failed" in caplog.text and ks.get(b"b") == b"1"


def test_a_slow_one_slows_the_writers(db, ks):
    go = threading.Event()
    with db.on_commit(lambda change: go.wait(20), max_lag_bytes=20_000) as hook:
        written = []

        def write():
            for i in range(100):
                ks.put(b"%03d" % i, b"x" * 1000)
                written.append(i)

        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: db.commit_gate.waits and hook.calls)
        assert 10 < len(written) < 40 and hook.calls == 1
        go.set()
        writer.join()
        wait_until(lambda: hook.calls == 100)
    assert len(written) == 100


def test_one_may_write_and_does_not_wait_for_itself(db, ks):
    log = db.keyspace("log")

    def note(change):
        if change.operations[0].keyspace == "k":
            log.put(b"%09d" % change.sequence, b"x" * 1000)

    with db.on_commit(note, max_lag_bytes=2000):
        for i in range(30):
            ks.put(b"%d" % i, b"x" * 500)
        wait_until(lambda: len(list(log.scan())) == 30)


def test_closing_ends_them(db, ks, path):
    go = threading.Event()
    hook = db.on_commit(lambda change: go.wait(20), max_lag_bytes=1)
    ks.put(b"a", b"")
    wait_until(lambda: hook.calls)
    stuck = threading.Thread(target=ks.put, args=(b"b", b"x" * 5000))
    stuck.start()
    wait_until(lambda: db.commit_gate.waits)
    closing = threading.Thread(target=db.close)
    closing.start()
    go.set()
    closing.join(20)
    stuck.join(20)
    assert not closing.is_alive() and not stuck.is_alive() and not hook.thread.is_alive()
    with enginelib.open(path) as again:
        assert again["k"].get(b"b") is not None
    with pytest.raises(enginelib.DatabaseClosed):
        db.on_commit(print)


def test_one_closed_by_itself(db, ks):
    seen = []

    def once(change):
        seen.append(change)
        hook.close()

    hook = db.on_commit(once)
    ks.put(b"a", b"")
    hook.thread.join(20)
    ks.put(b"b", b"")
    assert len(seen) == 1 and db.commit_hooks == []


# ---- watching


@pytest.mark.parametrize("touch", ["put", "delete", "range", "drop", "rename"])
def test_a_future_of_the_next_change(db, tree, touch):
    ks = db.keyspace("k", **tree)
    ks.put(b"b", b"1")
    future = db.watch(ks, b"b")
    ks.put(b"a", b"1")
    ks.put(b"bb", b"1")
    db.keyspace("other").put(b"b", b"1")
    assert not future.done()
    if touch == "put":
        ks.put(b"b", b"2")
    elif touch == "delete":
        ks.delete(b"b")
    elif touch == "range":
        with db.transaction() as txn:
            txn.delete_range(ks, b"a", b"c")
    elif touch == "drop":
        db.drop_keyspace("k")
    else:
        db.rename_keyspace("k", "l")
    change = future.result(20)
    assert any(o.keyspace == "k" for o in change.operations)
    wait_until(lambda: not db.watcher.thread.is_alive())


def test_it_misses_nothing_and_tells_of_nothing_before(db, ks):
    for i in range(50):
        ks.put(b"w", b"before")
        future = db.watch(ks, b"w")
        ks.put(b"w", b"%d" % i)
        assert future.result(20).operations[0].value == b"%d" % i


def test_prefixes_and_whole_keyspaces(db, ks):
    prefix, whole, other = db.watch(ks, prefix=b"a\xff"), db.watch(ks), db.watch(ks, prefix=b"b")
    ks.put(b"a", b"")
    assert whole.result(20).operations[0].key == b"a"
    ks.put(b"a\xff\xff", b"")
    assert prefix.result(20).operations[0].key == b"a\xff\xff" and not other.done()
    with pytest.raises(ValueError, match="not both"):
        db.watch(ks, b"a", prefix=b"b")
    other.cancel()


def test_closing_cancels(db, ks):
    future = db.watch(ks, b"a")
    db.close()
    with pytest.raises(CancelledError):
        future.result(20)


# ---- before


def test_one_may_add_and_veto(db, ks):
    audit = db.keyspace("audit")

    def check(txn):
        if txn.get(ks, b"balance", b"0").startswith(b"-"):
            raise ValueError("no debts")
        txn.put(audit, b"%d" % txn.number, b"")

    with db.before_commit(check):
        ks.put(b"balance", b"5")
        with pytest.raises(ValueError, match="no debts"):
            ks.put(b"balance", b"-5")
        with pytest.raises(ValueError, match="no debts"), db.transaction() as txn:
            txn.put(ks, b"other", b"1")
            txn.put(ks, b"balance", b"-1")
        assert txn.state == "aborted"
        txn = db.transaction()
        txn.put(ks, b"balance", b"-1")
        with pytest.raises(ValueError, match="no debts"):
            txn.commit()
        assert txn.state == "aborted"
        with pytest.raises(ValueError, match="no debts"):
            db.run(lambda txn: txn.put(ks, b"balance", b"-2"))
        with db.transaction() as txn:
            txn.get(ks, b"balance")
        assert ks.get(b"balance") == b"5" and ks.get(b"other") is None
        assert len(list(audit.scan())) == 1
        ks.put_many([(b"x", b"1"), (b"y", b"1")])
        ks[b"z"] = b"1"
        del ks[b"z"]
        assert len(list(audit.scan())) == 4
    ks.put(b"balance", b"-5")
    assert db.before_commit_hook is None


def test_it_looks_at_procedures_and_prepares(db, ks):
    calls = []

    @db.procedure
    def act(txn, value):
        txn.put(ks, b"p", value)

    def check(txn):
        calls.append(txn.isolation)
        if txn.get(ks, b"p") == b"bad":
            raise ValueError("bad")

    with db.before_commit(check):
        db.call(act, b"good")
        with pytest.raises(ValueError, match="bad"):
            db.call(act, b"bad")
        with pytest.raises(ValueError, match="bad"):
            db.submit(act, b"bad").result()
        txn = db.transaction()
        txn.put(ks, b"p", b"bad")
        with pytest.raises(ValueError, match="bad"):
            txn.prepare("x")
        assert txn.state == "aborted" and db.prepared() == []
        txn = db.transaction()
        txn.put(ks, b"p", b"fine")
        txn.prepare("x")
        asked = len(calls)
        db.commit_prepared("x")
        assert len(calls) == asked
    assert ks.get(b"p") == b"fine" and "serial" in calls


def test_it_cannot_end_the_transaction(db, ks):
    with db.before_commit(lambda txn: txn.commit()), pytest.raises(enginelib.UsageError, match="neither commits"):
        ks.put(b"a", b"1")
    with db.before_commit(lambda txn: txn.abort()), pytest.raises(enginelib.TransactionClosed):
        ks.put(b"a", b"1")
    assert ks.get(b"a") is None


def test_several_are_asked_in_order(db, ks):
    order = []
    with db.before_commit(lambda txn: order.append(1)), db.before_commit(lambda txn: order.append(2)):
        ks.put(b"a", b"1")
    assert order == [1, 2]


# ---- what a hostile reader found


def test_hooks_made_and_closed_by_many_threads_are_all_there_or_gone(db, ks):
    def make():
        for _ in range(300):
            db.before_commit(lambda txn: None).close()

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.before_hooks == () and db.before_commit_hook is None


def test_hooks_that_close_each_other_end(db, ks):
    hooks = []
    both = threading.Barrier(2, timeout=20)

    def close_the_other(i):
        both.wait()
        hooks[1 - i].close()

    hooks.append(db.on_commit(lambda change: close_the_other(0)))
    hooks.append(db.on_commit(lambda change: close_the_other(1)))
    ks.put(b"a", b"")
    for hook in hooks:
        hook.thread.join(20)
        assert not hook.thread.is_alive()


def test_one_that_wants_to_end_the_program_is_a_failure(db, ks, caplog):
    def leave(change):
        raise SystemExit

    with db.on_commit(leave) as hook:
        ks.put(b"a", b"")
        ks.put(b"b", b"")
        wait_until(lambda: hook.failures == 2)


def test_what_the_engine_writes_for_itself_is_nobodys_affair(db, ks):
    db.require_acknowledgements(1, timeout=0.05)
    calls = []
    with db.before_commit(lambda txn: calls.append(txn)):
        db.transaction().prepare("x")
        db.rollback_prepared("x")
        db.transaction().prepare("y")
        with pytest.raises(enginelib.AcknowledgementTimeout):
            db.commit_prepared("y")
        db.forget("y")
    assert calls == []


def test_hooks_of_the_catalogue_are_given_transactions(db):
    kinds = set()
    with db.before_commit(lambda txn: kinds.add(type(txn))):
        db.keyspace("made")
        db.rename_keyspace("made", "renamed")
        db.drop_keyspace("renamed")
        db.keyspace("more").put(b"a", b"1")
    assert kinds == {enginelib.Transaction}


def test_bulk_loads_are_held_by_hooks_too(db):
    loaded = db.keyspace("l", "lsm")
    with db.before_commit(lambda txn: None), pytest.raises(enginelib.UsageError, match="bulk load"):
        loaded.ingest([(b"a", b"1")])
    db.require_acknowledgements(1, timeout=0.05)
    with pytest.raises(enginelib.AcknowledgementTimeout):
        loaded.ingest([(b"a", b"1")])
    assert loaded.get(b"a") == b"1"


def test_one_may_wait_for_a_procedure(db, ks):
    """The executor waited for the hook, which waited for the executor."""
    db.procedure(lambda txn, key: txn.put(ks, key, b""), name="note")

    def note(change):
        key = change.operations[0].key
        if key.startswith(b"x"):
            db.submit("note", b"submitted" + key).result(20)
            db.call("note", b"called" + key)

    with db.on_commit(note, max_lag_bytes=1) as hook:
        for i in range(20):
            ks.put(b"x%02d" % i, b"")
        wait_until(lambda: hook.calls == 60)
        assert hook.failures == 0
    assert len(list(ks)) == 60


def test_a_slow_one_slows_who_submits(db, ks):
    go = threading.Event()
    db.procedure(lambda txn, n: txn.put(ks, b"%03d" % n, b"x" * 1000), name="p")
    with db.on_commit(lambda change: go.wait(20), max_lag_bytes=20_000):
        submitted = []

        def submit():
            for n in range(100):
                db.submit("p", n).result(20)
                submitted.append(n)

        writer = threading.Thread(target=submit)
        writer.start()
        wait_until(lambda: db.commit_gate is not None and db.commit_gate.waits)
        assert 10 < len(submitted) < 40
        go.set()
        writer.join(20)
    assert len(submitted) == 100


def test_what_one_commits_elsewhere_before_a_commit_asks_nobody(db, ks):
    """It went round and round."""
    calls = []

    def audit(txn):
        calls.append(txn.number)
        db.keyspace("audit").put(b"%d" % txn.number, b"")

    with db.before_commit(audit):
        ks.put(b"a", b"1")
    assert len(calls) == len(list(db["audit"])) == 1


def test_closing_the_database_tells_what_has_been_committed(db, ks):
    """What a slow hook had not been told yet was dropped."""
    go, seen = threading.Event(), []
    hook = db.on_commit(lambda change: (go.wait(20), seen.append(change.operations[0].key)))
    for i in range(10):
        ks.put(b"%d" % i, b"")
    wait_until(lambda: hook.calls == 1)
    closing = threading.Thread(target=db.close)
    closing.start()
    go.set()
    closing.join(20)
    assert not closing.is_alive() and seen == [b"%d" % i for i in range(10)]


def test_one_that_closes_the_database_ends_with_it(db, ks):
    closed = threading.Event()
    hook = db.on_commit(lambda change: (db.close(), closed.set()))
    ks.put(b"a", b"")
    assert closed.wait(20) and db.closed
    hook.thread.join(20)
    assert not hook.thread.is_alive()


def test_a_load_past_the_log_is_missed_and_said_so_and_hooks_go_on(db, caplog):
    """The hook ended."""
    loaded = db.keyspace("l", "lsm")
    seen = []
    with caplog.at_level(logging.ERROR, "enginelib"), db.on_commit(lambda change: seen.append(change.operations[0].key)):
        loaded.ingest([(b"a", b"1")], logged=False)
        future = db.watch(loaded, b"b")
        loaded.put(b"b", b"2")
        assert future.result(20)
        wait_until(lambda: seen)
    assert seen == [b"b"] and "a hook misses a commit" in caplog.text


def test_what_a_watch_gives_of_a_very_large_transaction_can_be_read_later(db, ks, monkeypatch):
    """Its operations were read from the stream, which was closed by then."""
    from enginelib.replication import changes

    monkeypatch.setattr(changes, "GATHERED", 10_000)
    future = db.watch(ks, b"0500")
    db.run(lambda txn: [txn.put(ks, b"%04d" % i, bytes(100)) for i in range(1000)])
    change = future.result(20)
    wait_until(lambda: not db.watcher.thread.is_alive())
    assert [o.key for o in change.operations] == [b"0500"] and change.sequence > 0
