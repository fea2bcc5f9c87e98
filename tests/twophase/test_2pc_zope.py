"""Databases in the transactions of zope's package, beside other data managers: good ones, and ones that fail."""

import threading

import pytest

transaction = pytest.importorskip("transaction")

import enginelib
from enginelib import TransactionClosed, WriteConflict
from enginelib.twophase import DatabaseBranch, zope
from enginelib.twophase.zope import join

STEPS = ["tpc_begin", "commit", "tpc_vote", "tpc_finish"]


class Other:
    """A data manager that notes what it is asked, and fails where it is told to."""

    def __init__(self, manager, fails="", key="~other"):
        self.transaction_manager, self.fails, self.key = manager, fails, key
        self.asked = []

    def sortKey(self):
        return self.key

    def __getattr__(self, name):
        if name not in {*STEPS, "abort", "tpc_abort"}:
            raise AttributeError(name)

        def step(_):
            self.asked.append(name)
            if name == self.fails:
                raise ZeroDivisionError(name)

        return step


@pytest.fixture(params=[True, False], ids=["explicit", "implicit"])
def manager(request):
    return transaction.TransactionManager(explicit=request.param)


@pytest.fixture
def ks(db, tree):
    return db.keyspace("k", **tree)


def begun(manager, *others):
    whole = manager.begin()
    for other in others:
        whole.join(other)
    return whole


def test_it_commits_with_the_whole(db, ks, manager):
    other = Other(manager)
    begun(manager, other)
    join(db, manager).put(ks, b"a", b"1")
    assert join(db, manager) is join(db, manager) and ks.get(b"a") is None
    manager.commit()
    assert ks.get(b"a") == b"1" and other.asked == STEPS
    assert db.prepared() == [] and db.outcomes() == []


def test_it_is_asked_first(db, ks, manager):
    """What others are asked in the second phase finds our commit durable."""
    seen = []

    class Late(Other):
        def tpc_finish(self, _):
            seen.append((ks.get(b"a"), db.outcome(zope.gtrid(manager))))

    begun(manager, Late(manager, key="0first"))
    join(db, manager).put(ks, b"a", b"1")
    manager.commit()
    assert seen == [(b"1", "committed")]


@pytest.mark.parametrize("key", ["~after", " before"])
@pytest.mark.parametrize("step", STEPS[:3])
def test_another_that_fails_before_the_decision_rolls_it_back(db, ks, manager, step, key):
    begun(manager, Other(manager, step, key))
    join(db, manager).put(ks, b"a", b"1")
    with pytest.raises(ZeroDivisionError):
        manager.commit()
    manager.abort()
    assert ks.get(b"a") is None and db.prepared() == [] and db.outcomes() == []
    ks.put(b"a", b"2")


def test_another_that_fails_after_the_decision_does_not(db, ks, manager):
    other = Other(manager, "tpc_finish")
    begun(manager, other)
    join(db, manager).put(ks, b"a", b"1")
    name = zope.gtrid(manager)
    with pytest.raises(ZeroDivisionError):
        manager.commit()
    manager.abort()
    assert other.asked == [*STEPS, "tpc_abort", "abort"]
    assert ks.get(b"a") == b"1" and db.outcome(name) == "committed"  # kept, for whoever mends the other


def test_a_vote_that_fails_here_aborts_the_others(db, ks, manager):
    other = Other(manager)
    begun(manager, other)
    mine = join(db, manager, isolation="serializable")
    mine.get(ks, b"x")
    mine.put(ks, b"y", b"1")
    with db.transaction(isolation="serializable") as theirs:
        theirs.get(ks, b"y")
        theirs.put(ks, b"x", b"1")
    with pytest.raises(enginelib.SerializationFailure):
        manager.commit()
    manager.abort()
    assert other.asked == ["tpc_begin", "commit", "abort", "tpc_abort", "abort"]
    assert ks.get(b"y") is None and db.prepared() == []


@pytest.mark.parametrize("voted", [True, False])
@pytest.mark.parametrize("order", [["abort", "tpc_abort"], ["tpc_abort", "abort"], ["tpc_abort", "tpc_abort", "abort", "abort"]])
def test_aborts_in_any_order(db, ks, manager, voted, order):
    whole = begun(manager)
    mine = zope.DataManager(db, manager, "zope-test-1")
    mine.transaction.put(ks, b"a", b"1")
    mine.tpc_begin(whole)
    mine.commit(whole)
    if voted:
        mine.tpc_vote(whole)
    for name in order:
        getattr(mine, name)(whole)
    assert ks.get(b"a") is None and db.prepared() == []


def test_aborts_after_the_end_change_nothing(db, ks, manager):
    whole = begun(manager)
    mine = zope.DataManager(db, manager, "zope-test-1")
    mine.transaction.put(ks, b"a", b"1")
    mine.tpc_vote(whole)
    mine.tpc_finish(whole)
    mine.tpc_finish(whole)
    mine.tpc_abort(whole)
    mine.abort(whole)
    assert ks.get(b"a") == b"1"


def test_retries(db, ks, manager):
    ks.put(b"n", b"0")
    tries = []
    for attempt in manager.attempts(5):
        with attempt:
            mine = join(db, manager)
            n = int(mine.get(ks, b"n"))
            tries.append(n)
            if len(tries) < 3:
                ks.put(b"n", b"%d" % (n + 10))  # another is faster
            mine.put(ks, b"n", b"%d" % (n + 1))
    assert tries == [0, 10, 20] and ks.get(b"n") == b"21"

    def failing():
        tries.append("once")
        join(db, manager).put(ks, b"n", b"no")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        manager.run(failing, 5)
    assert tries.count("once") == 1 and ks.get(b"n") == b"21"


def test_a_commit_that_fails_is_retried(db, ks, manager):
    runs = []

    def work():
        mine = join(db, manager, isolation="serializable")
        mine.get(ks, b"x")
        mine.put(ks, b"y", b"%d" % len(runs))
        if not runs:
            with db.transaction(isolation="serializable") as theirs:
                theirs.get(ks, b"y")
                theirs.put(ks, b"x", b"1")
        runs.append(1)

    manager.run(work, 3)
    assert len(runs) == 2 and ks.get(b"y") == b"1"


def test_what_a_retry_can_cure(db, manager):
    mine = zope.DataManager(db, manager, "zope-test-1")
    assert mine.should_retry(WriteConflict("")) and not mine.should_retry(enginelib.OutcomeUnknown("")) and not mine.should_retry(KeyError())
    mine.abort(None)


def test_savepoints(db, ks, manager):
    begun(manager)
    mine = join(db, manager)
    mine.put(ks, b"a", b"1")
    first = manager.savepoint()
    mine.put(ks, b"b", b"1")
    second = manager.savepoint()
    mine.put(ks, b"c", b"1")
    second.rollback()
    assert (mine.get(ks, b"b"), mine.get(ks, b"c")) == (b"1", None)
    mine.put(ks, b"c", b"2")
    second.rollback()
    assert mine.get(ks, b"c") is None
    first.rollback()
    mine.put(ks, b"d", b"1")
    first.rollback()
    assert not second.valid
    mine.put(ks, b"e", b"1")
    manager.commit()
    assert dict(ks.scan()) == {b"a": b"1", b"e": b"1"}


def test_a_savepoint_from_before_it_joined(db, ks, manager):
    begun(manager, Other(manager))
    manager.get()._resources.clear()
    mark = manager.savepoint()
    join(db, manager).put(ks, b"a", b"1")
    mark.rollback()
    join(db, manager).put(ks, b"b", b"1")
    manager.commit()
    assert dict(ks.scan()) == {b"b": b"1"}


def test_what_changed_nothing_is_not_prepared(db, ks, manager):
    begun(manager)
    mine = join(db, manager)
    mine.get(ks, b"a")
    manager.commit()
    assert mine.state == "committed" and db.prepared() == [] and db.outcomes() == []


def test_a_transaction_that_has_failed_takes_nobody_in(db, ks, manager):
    begun(manager, Other(manager, "tpc_vote"))
    with pytest.raises(ZeroDivisionError):
        manager.commit()
    with pytest.raises(transaction.interfaces.TransactionFailedError):
        join(db, manager)
    assert db.stats()["transactions"]["snapshots"] == 0
    manager.abort()


def test_names(db, ks, manager):
    begun(manager)
    with pytest.raises(enginelib.UsageError, match="join"):
        zope.gtrid(manager)
    join(db, manager)
    first = zope.gtrid(manager)
    assert zope.gtrid(manager) == first and 32 <= len(first) <= 60 and first.isascii()
    manager.abort()
    begun(manager)
    join(db, manager)
    assert zope.gtrid(manager) != first
    manager.abort()


def test_resolve_leaves_alone_what_is_others(db, ks, tmp_path):
    with enginelib.open(tmp_path / "shared") as shared:
        for xid in "zope-0123456789ab-0123456789ab-1", "somebody else's":
            with shared.transaction() as txn:
                txn.put(shared.keyspace("k"), xid.encode(), b"1")
                txn.prepare(xid)
        mine = zope._prefix(db) + "0123456789ab-1"
        with shared.transaction() as txn:
            txn.put(shared["k"], b"mine", b"1")
            txn.prepare(mine)
        assert zope.resolve(db, DatabaseBranch("shared", shared)) == {mine: False}
        assert len(shared.prepared()) == 2


def test_ended_behind_the_managers_back(db, ks, manager):
    begun(manager)
    mine = join(db, manager)
    mine.put(ks, b"a", b"1")
    mine.commit()
    with pytest.raises(TransactionClosed, match="transaction manager"):
        manager.commit()
    manager.abort()


def test_threads_have_transactions_of_their_own(db, ks):
    manager = transaction.ThreadTransactionManager()
    ks.put(b"n", b"0")
    problems = []

    def work():
        try:
            for _ in range(10):
                for attempt in manager.attempts(100):
                    with attempt:
                        mine = join(db, manager, isolation="read_committed")
                        n = int(mine.get_for_update(ks, b"n"))
                        mine.put(ks, b"n", b"%d" % (n + 1))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems and ks.get(b"n") == b"40" and db.outcomes() == []


@pytest.mark.parametrize("when", ["voted", "decided"])
def test_two_databases_and_a_crash_between(place, tmp_path, when, manager, monkeypatch):
    """The second follows the first: it was asked later, so it has not ended otherwise."""
    second = enginelib.open(tmp_path / "zweite")
    first, other = place.db, second.keyspace("k")
    ks = first.keyspace("k")

    class Crash(Other):
        def tpc_vote(self, _):
            if when == "voted":
                raise SystemExit

        def tpc_finish(self, _):
            raise SystemExit

    begun(manager, Crash(manager, key="!enginelib:" + first.path + "~"))
    join(first, manager).put(ks, b"a", b"1")
    join(second, manager).put(other, b"a", b"1")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        for name in "tpc_abort", "abort":
            patch.setattr(zope.DataManager, name, lambda self, _: None)  # a crash does not abort
        manager.commit()
    first = place.again("crash")
    if when == "decided":
        assert [p.xid for p in second.prepared()] == [xid for xid, *_ in first.outcomes()]
    ended = zope.resolve(first, DatabaseBranch("second", second))
    assert list(ended.values()) == [when == "decided"]
    assert first["k"].get(b"a") == (b"1" if when == "decided" else None)
    if when == "decided":
        assert second["k"].get(b"a") == b"1"
    assert first.prepared() == second.prepared() == [] and first.outcomes() == second.outcomes() == []
    second.abandon()
