"""Transactions, savepoints and retries on the real core, through the Python face."""

import pickle
import threading

import pytest

import enginelib


def test_a_block_commits_at_its_end_and_aborts_on_an_exception(db, space):
    with db.transaction() as txn:
        txn.put(space, b"a", b"1")
    assert txn.state == "committed" and txn.commit_ts > 0
    with pytest.raises(ZeroDivisionError):
        with db.transaction() as txn:
            txn.put(space, b"b", b"1")
            raise ZeroDivisionError
    assert txn.state == "aborted"
    assert list(space) == [b"a"]


def test_a_transaction_works_without_a_block(db, space):
    txn = db.transaction()
    txn.put(space, b"a", b"1")
    txn.commit()
    txn = db.transaction()
    txn.delete(space, b"a")
    txn.abort()
    txn.abort()
    assert b"a" in space


def test_an_ended_transaction_says_so(db, space):
    with db.transaction() as txn:
        view = txn[space]
    for act in (
        lambda: txn.get(space, b"a"),
        lambda: view[b"a"],
        lambda: txn.put(space, b"a", b""),
        txn.commit,
    ):
        with pytest.raises(enginelib.TransactionClosed):
            act()


def test_a_read_only_transaction_refuses_changes(db, space):
    with db.transaction(read_only=True) as txn:
        assert txn.read_only
        with pytest.raises(enginelib.ReadOnlyError):
            txn.put(space, b"a", b"1")


@pytest.mark.parametrize("durability", ["sync", "os", "lazy", enginelib.Durability.OS])
def test_durability_is_chosen_by_name_or_member(db, space, durability):
    with db.transaction(durability=durability) as txn:
        txn.put(space, b"a", b"1")
    assert space[b"a"] == b"1"


@pytest.mark.parametrize(
    ("begin", "error"),
    [
        ({"isolation": "none"}, ValueError),
        ({"deferrable": True}, ValueError),
        ({"deferrable": True, "isolation": "serializable"}, ValueError),
        ({"deferrable": True, "isolation": "locking", "read_only": True}, ValueError),
        ({"durability": "full"}, ValueError),
        ({"lock_timeout": -1}, ValueError),
        ({"lock_timeout": "1"}, TypeError),
        ({"unknown": 1}, TypeError),
    ],
)
def test_wrong_arguments_begin_nothing(db, begin, error):
    with pytest.raises(error):
        db.transaction(**begin)


@pytest.mark.parametrize("level", enginelib.Isolation)
def test_isolation_may_be_a_member_or_its_name(db, level):
    for isolation in (level, level.value):
        with db.transaction(isolation=isolation) as txn:
            assert txn.isolation == level.value


def test_a_savepoint_undoes_what_an_exception_leaves_and_nothing_else(db, space):
    with db.transaction() as txn:
        txn.put(space, b"a", b"1")
        with pytest.raises(ZeroDivisionError):
            with txn.savepoint():
                txn.put(space, b"a", b"2")
                txn.put(space, b"b", b"2")
                raise ZeroDivisionError
        assert dict(txn[space]) == {b"a": b"1"}
        with txn.savepoint():
            txn.put(space, b"c", b"3")
    assert dict(space) == {b"a": b"1", b"c": b"3"}


def test_savepoints_nest(db, space):
    with db.transaction() as txn:
        view = txn[space]
        with txn.savepoint() as outer:
            view[b"a"] = b"1"
            with txn.savepoint():
                view[b"b"] = b"1"
            with pytest.raises(ZeroDivisionError):
                with txn.savepoint():
                    view[b"c"] = b"1"
                    raise ZeroDivisionError
            assert list(view) == [b"a", b"b"]
            outer.rollback()
            assert list(view) == []
            view[b"d"] = b"1"
    assert list(space) == [b"d"]


def test_after_a_rollback_the_block_goes_on_under_the_same_savepoint(db, space):
    with db.transaction() as txn:
        view = txn[space]
        with pytest.raises(ZeroDivisionError):
            with txn.savepoint() as sp:
                view[b"a"] = b"1"
                sp.rollback()
                view[b"b"] = b"1"
                sp.rollback()
                view[b"c"] = b"1"
                raise ZeroDivisionError
        assert not view
    assert not space


def test_a_savepoint_lets_its_transaction_end_inside(db, space):
    txn = db.transaction()
    with txn.savepoint():
        txn.put(space, b"a", b"1")
        txn.commit()
    assert b"a" in space


def test_a_savepoint_out_of_its_block_is_of_no_use(db):
    with db.transaction() as txn:
        sp = txn.savepoint()
        with pytest.raises(RuntimeError, match="not open"):
            sp.rollback()
        with sp:
            with pytest.raises(RuntimeError, match="in use"):
                sp.__enter__()
        with pytest.raises(RuntimeError, match="not open"):
            sp.rollback()


def test_a_keyspace_made_in_a_transaction_exists_once_it_commits(db):
    with db.transaction() as txn:
        made = txn.create_keyspace("made")
        assert isinstance(made, enginelib.Keyspace)
        txn[made][b"k"] = b"v"
        assert "made" not in db
    assert db["made"][b"k"] == b"v"
    with pytest.raises(ZeroDivisionError):
        with db.transaction() as txn:
            txn.create_keyspace("never")
            raise ZeroDivisionError
    assert db.keyspaces() == ["made"]


def test_the_first_committer_wins_and_the_other_is_told(db, space):
    first, second = db.transaction(), db.transaction()
    first.put(space, b"k", b"1")
    first.commit()
    with pytest.raises(enginelib.WriteConflict) as caught:
        second.put(space, b"k", b"2")
    assert caught.value.retryable
    assert second.state == "active"
    second.abort()
    assert space[b"k"] == b"1"


def test_waiting_for_a_lock_ends_after_lock_timeout(db, space):
    with db.transaction() as holder:
        holder.put(space, b"k", b"1")
        with pytest.raises(enginelib.LockTimeout):
            with db.transaction(lock_timeout=0.01) as txn:
                txn.put(space, b"k", b"2")


def test_concurrent_counting_loses_nothing(db, space):
    """Lost updates are what WriteConflict and retries are for."""
    rounds = 40

    def add(txn):
        view = txn[space]
        view[b"n"] = b"%d" % (int(view.get(b"n", b"0")) + 1)

    def work():
        for _ in range(rounds):
            db.run(add, retries=1000, durability="lazy")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert space[b"n"] == b"%d" % (4 * rounds)


def test_attempts_and_transactional_work_on_a_database(db, space):
    @enginelib.transactional(retries=2)
    def put(txn, key):
        txn.put(space, key, b"1")

    put(db, b"a")
    for attempt in db.attempts():
        with attempt as txn:
            put(txn, b"b")
    assert list(space) == [b"a", b"b"]


def test_run_of_a_read_only_transaction(db, space):
    space[b"k"] = b"v"
    assert db.run(lambda txn, key: txn.get(space, key), b"k", read_only=True) == b"v"


def test_a_cycle_of_waits_is_broken(db, space):
    space.update({b"a": b"0", b"b": b"0"})
    met = threading.Barrier(2)
    ended = []

    def cross(mine, other):
        txn = db.transaction()
        txn.put(space, mine, b"1")
        met.wait()
        try:
            txn.put(space, other, b"1")
            txn.commit()
            ended.append("commit")
        except enginelib.TransactionAborted as error:
            txn.abort()
            ended.append(type(error))

    threads = [threading.Thread(target=cross, args=pair) for pair in ((b"a", b"b"), (b"b", b"a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, ended)) == sorted(["commit", str(enginelib.DeadlockDetected)])


def test_handles_are_not_pickled_and_say_what_to_do(db, space):
    with db.transaction(read_only=True) as txn:
        for handle in (db, space, txn):
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(handle)


def test_everything_has_a_readable_repr(db, space):
    with db.transaction(read_only=True) as txn:
        assert repr(db) == "<enginelib.Database ':memory:' open>"
        assert repr(space) == "<enginelib.Keyspace 'space' (btree) of ':memory:'>"
        assert repr(txn).startswith("<enginelib.Transaction read-only active, snapshot ")
        assert "View of 'space' in <enginelib.Transaction" in repr(txn[space])
