"""Retrying, with a database that only counts: what is tried again, how often, and what never is."""

import functools

import pytest

import enginelib
from enginelib import retry
from enginelib.transaction import Transaction


class Fake(Transaction):
    """A transaction that does nothing but remember how it ended."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.database_.ended.append("abort" if kind else "commit")
        if kind is None and self.database_.commit_errors:
            raise self.database_.commit_errors.pop(0)


class FakeDatabase:
    """Begins transactions, and fails commits as told."""

    def __init__(self, *commit_errors):
        self.commit_errors = list(commit_errors)
        self.ended = []
        self.begun = []

    def transaction(self, **begin):
        self.begun.append(begin)
        txn = Fake()
        txn.database_ = self
        return txn


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Records the waits between attempts instead of waiting."""
    times = []
    monkeypatch.setattr(retry.time, "sleep", times.append)
    return times


def failing(*errors):
    """Returns a function that raises these, one a call, and then returns its argument."""
    left = list(errors)

    def function(txn, value=None):
        if left:
            raise left.pop(0)
        return value

    return function


def test_a_function_that_succeeds_runs_once():
    db = FakeDatabase()
    assert retry.run(db, failing(), 42) == 42
    assert db.ended == ["commit"]


@pytest.mark.parametrize(
    "error",
    [
        enginelib.WriteConflict,
        enginelib.DeadlockDetected,
        enginelib.LockTimeout,
        enginelib.SnapshotTooOld,
        enginelib.SerializationFailure,
    ],
)
def test_what_is_retryable_is_tried_again_from_body_and_commit(error, waits):
    db = FakeDatabase(error("in commit"))
    assert retry.run(db, failing(error("in body")), 42) == 42
    assert db.ended == ["abort", "commit", "commit"]
    assert len(waits) == 2


@pytest.mark.parametrize(
    "error",
    [
        enginelib.OutcomeUnknown("?"),
        enginelib.TransactionTooLarge("big"),
        enginelib.DiskFull("full"),
        RuntimeError("bug"),
    ],
)
def test_what_a_retry_cannot_cure_is_raised_at_once(error):
    db = FakeDatabase()
    with pytest.raises(type(error)) as caught:
        retry.run(db, failing(error))
    assert caught.value is error
    assert db.ended == ["abort"]
    assert not getattr(error, "__notes__", [])


def test_an_unknown_outcome_of_a_commit_is_never_tried_again():
    db = FakeDatabase(enginelib.OutcomeUnknown("?"))
    with pytest.raises(enginelib.OutcomeUnknown):
        retry.run(db, failing())
    assert len(db.begun) == 1


def test_the_last_error_is_raised_with_a_note_of_the_attempts():
    errors = [enginelib.WriteConflict(str(number)) for number in range(9)]
    with pytest.raises(enginelib.WriteConflict) as caught:
        retry.run(FakeDatabase(), failing(*errors), retries=3)
    assert str(caught.value) == "3"
    assert "4 times" in caught.value.__notes__[0]


def test_no_retries_means_one_attempt():
    with pytest.raises(enginelib.WriteConflict) as caught:
        retry.run(FakeDatabase(), failing(enginelib.WriteConflict("x")), retries=0)
    assert "once" in caught.value.__notes__[0]


def test_arguments_of_the_transaction_are_passed_on():
    db = FakeDatabase()
    retry.run(db, failing(), durability="os")
    assert db.begun == [{"durability": "os"}]


def test_waits_are_random_below_a_bound_that_doubles():
    for attempt in range(1, 40):
        bound = min(retry.LONGEST_WAIT, retry.FIRST_WAIT * 2.0**attempt)
        assert all(0 <= retry.backoff(attempt) <= bound for _ in range(50))
    assert len({retry.backoff(5) for _ in range(10)}) > 1


def generator(txn):
    yield 1


async def coroutine(txn):
    return 1


async def async_generator(txn):
    yield 1


@pytest.mark.parametrize("function", [generator, coroutine, async_generator, functools.partial(generator)])
def test_functions_that_run_after_the_transaction_are_refused(function):
    db = FakeDatabase()
    with pytest.raises(TypeError, match="generator or coroutine"):
        retry.run(db, function)
    with pytest.raises(TypeError, match="generator or coroutine"):
        enginelib.transactional(function)
    assert db.begun == []


def test_run_joins_a_transaction_and_leaves_its_end_to_others():
    db = FakeDatabase()
    txn = db.transaction()
    assert retry.run(txn, failing(), 42) == 42
    with pytest.raises(enginelib.WriteConflict):
        retry.run(txn, failing(enginelib.WriteConflict("x")))
    assert db.ended == []


def test_a_transactional_function_begins_or_joins():
    @enginelib.transactional
    def function(txn, value, *, factor=1):
        return value * factor

    db = FakeDatabase()
    assert function(db, 21, factor=2) == 42
    assert db.ended == ["commit"]
    assert function(db.transaction(), 21) == 21
    assert db.ended == ["commit"]
    assert function.__name__ == "function"


def test_a_transactional_function_takes_options():
    calls = failing(enginelib.WriteConflict("1"), enginelib.WriteConflict("2"))

    @enginelib.transactional(retries=1, read_only=True)
    def function(txn):
        return calls(txn)

    db = FakeDatabase()
    with pytest.raises(enginelib.WriteConflict, match="2"):
        function(db)
    assert db.begun == [{"read_only": True}] * 2


def test_a_transactional_function_says_what_it_takes():
    @enginelib.transactional
    def transfer(txn):
        return None

    with pytest.raises(TypeError, match=r"transfer\(\) takes a Database or a Transaction first, not int"):
        transfer(1)


def test_attempts_go_on_until_the_block_commits(waits):
    db = FakeDatabase(enginelib.WriteConflict("in commit"))
    body = failing(enginelib.DeadlockDetected("in body"))
    numbers = []
    for attempt in retry.Attempts(db, 5):
        with attempt as txn:
            numbers.append(attempt.number)
            body(txn)
    assert numbers == [1, 2, 3]
    assert db.ended == ["abort", "commit", "commit"]
    assert len(waits) == 2


def test_attempts_raise_the_last_error_with_a_note():
    seen = 0
    with pytest.raises(enginelib.WriteConflict) as caught:
        for attempt in retry.Attempts(FakeDatabase(), 2):
            with attempt:
                seen += 1
                raise enginelib.WriteConflict("x")
    assert seen == 3
    assert "3 times" in caught.value.__notes__[0]


def test_attempts_do_not_swallow_other_errors():
    with pytest.raises(ZeroDivisionError):
        for attempt in retry.Attempts(FakeDatabase(), 2):
            with attempt:
                raise ZeroDivisionError


def test_an_attempt_that_is_not_entered_is_an_error():
    with pytest.raises(RuntimeError, match="must be entered"):
        for _ in retry.Attempts(FakeDatabase(), 2):
            pass


def test_a_commit_that_fails_behind_a_break_is_warned_of():
    """A block left by break commits too; when that fails there is no loop left to try again with."""
    with pytest.warns(RuntimeWarning, match="left by return or break"):
        for attempt in retry.Attempts(FakeDatabase(enginelib.WriteConflict("x")), 2):
            with attempt:
                break
        del attempt
