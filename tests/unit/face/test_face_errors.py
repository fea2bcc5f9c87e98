"""The exception tree: what programs rely on when they catch, retry, log and send errors."""

import errno
import pickle

import pytest

import enginelib
from enginelib import errors

TREE = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("cls", TREE)
def test_every_error_is_an_error_with_a_code_of_its_own(cls):
    assert issubclass(cls, enginelib.Error)
    assert cls.code and cls.code == cls.code.lower()
    assert [other for other in TREE if other.code == cls.code] == [cls]


@pytest.mark.parametrize("cls", TREE)
def test_every_error_is_explained_in_the_tree_of_the_docstring(cls):
    (row,) = [line for line in errors.__doc__.splitlines() if line.split()[:1] == [cls.__name__]]
    if cls is not enginelib.Error:
        assert row.split()[1] == ("yes" if cls.retryable else "no")


@pytest.mark.parametrize("cls", TREE)
def test_every_error_can_be_raised_with_a_message_alone(cls):
    error = cls("what happened.")
    assert str(error) == "what happened."
    assert isinstance(error.hint, str)


@pytest.mark.parametrize("cls", TREE)
def test_a_pickled_error_comes_back_the_same(cls):
    error = cls("what happened.", hint="do this")
    error.add_note("tried twice")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is cls
    assert (str(back), back.hint, back.__notes__) == ("what happened.", "do this", ["tried twice"])


def test_exactly_the_aborted_transactions_are_retryable():
    retryable = {cls for cls in TREE if cls.retryable}
    assert retryable == {cls for cls in TREE if issubclass(cls, enginelib.TransactionAborted)}
    assert not enginelib.OutcomeUnknown.retryable


def test_fields_survive_pickling():
    full = errors.DiskFull("no room", errno=errno.ENOSPC, filename="/db/pages.dat")
    back = pickle.loads(pickle.dumps(full))
    assert (back.errno, back.filename) == (errno.ENOSPC, "/db/pages.dat")

    bad = errors.CorruptionError("bad sum", file="pages.dat", offset=8192, expected=1, found=2)
    back = pickle.loads(pickle.dumps(bad))
    assert (back.file, back.offset, back.expected, back.found) == ("pages.dat", 8192, 1, 2)

    locked = pickle.loads(pickle.dumps(errors.DatabaseLocked("locked", pid=7, host="ada")))
    assert (locked.pid, locked.host) == (7, "ada")
    cycle = ((1, 2, "a", "X", "key", b"k"), (2, 1, "a", "X", "key", b"j"))
    waits = pickle.loads(pickle.dumps(errors.DeadlockDetected("cycle", cycle=cycle))).cycle
    assert [(wait.waiter, wait.holder, wait.start) for wait in waits] == [(1, 2, b"k"), (2, 1, b"j")]


def test_a_storage_error_is_an_oserror_with_errno_and_filename():
    with pytest.raises(OSError) as caught:
        raise errors.StorageError("read failed", errno=errno.EIO, filename="/db/LOCK")
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == "/db/LOCK"
    assert str(caught.value) == "read failed"


def test_a_hint_given_replaces_that_of_the_class():
    assert errors.NotSupported("no", hint="use another").hint == "use another"
    assert errors.WriteConflict("no").hint == errors.TransactionAborted.hint
