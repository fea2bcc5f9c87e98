"""The exceptions of enginelib.

Each tells what happened, which limit was met, the actual value and the remedy. Whether a retry of the whole
transaction can succeed is in ``retryable``; retryable and fatal errors never share a class.

=========================  =====  ============================================================================
exception                  retry  raised when
=========================  =====  ============================================================================
Error                             (base of all below)
  TransactionAborted       yes    (base of these five) the operation was not done: give the transaction up
    WriteConflict          yes    another transaction changed the same key and committed first
    SerializationFailure   yes    committing would make the outcome differ from every serial order
    DeadlockDetected       yes    a cycle of waits was found, and this transaction was chosen to break it
    LockTimeout            yes    a lock was not granted within ``lock_timeout``
    SnapshotTooOld         yes    the versions that this snapshot needs had to be given up for memory
  OutcomeUnknown           no     the log failed during commit: it may or may not be durable
  TransactionTooLarge      no     it holds more undo than ``transaction_budget``; it can be rolled back
  UsageError               no     (base of these eight) the program asks for what it must not
    TransactionClosed      no     a transaction, cursor or savepoint is used after its end
    DatabaseClosed         no     a database, or something that belongs to it, is used after ``close()``
    ThreadError            no     a transaction is used by two threads at the same time
    ForkError              no     a handle is used in a forked child; open the database again there
    ReadOnlyError          no     a change is asked of a read-only database or transaction
    NotDeterministic       no     a logged procedure does something else when it is repeated
    NotPrepared            no     no transaction is prepared under that xid, and none has ended as is asked
    NotSupported           no     this version cannot do it, or the files are of a newer format
  ChangesGone              no     the log does not hold what a stream of changes asks for any more
  ChangesetConflict        no     a changeset meets something else than what it was made on
  AcknowledgementTimeout   no     a commit stands here, and too few followers have told of it in time
  FencedError              no     changes come from a leader that was replaced by a follower of it
  HeuristicOutcome         no     a prepared transaction was ended by hand, in another way than is asked
  DatabaseLocked           no     the database is open elsewhere; names the holder's ``pid`` and ``host``
  StorageError             no     the system refused a file operation, or this is no database; an ``OSError``
    DiskFull               no     no space is left; nothing of the operation remains, the database goes on
    LogWriteError          no     the log could not be written or synced: no more writes until reopened
  CorruptionError          no     what was read back is not what was written; says where
=========================  =====  ============================================================================

Beside these, wrong arguments raise ``TypeError`` or ``ValueError``, a missing key or unknown name
``KeyError``, and an allocation that fails ``MemoryError``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

from enginelib._native.base.status import register_errors  # type: ignore[import-not-found,unused-ignore]
from enginelib.locks import Wait

__all__ = [
    "AcknowledgementTimeout",
    "ChangesGone",
    "ChangesetConflict",
    "CorruptionError",
    "DatabaseClosed",
    "DatabaseLocked",
    "DeadlockDetected",
    "DiskFull",
    "Error",
    "FencedError",
    "ForkError",
    "HeuristicOutcome",
    "LockTimeout",
    "LogWriteError",
    "NotDeterministic",
    "NotPrepared",
    "NotSupported",
    "OutcomeUnknown",
    "ReadOnlyError",
    "SerializationFailure",
    "SnapshotTooOld",
    "StorageError",
    "ThreadError",
    "TransactionAborted",
    "TransactionClosed",
    "TransactionTooLarge",
    "UsageError",
    "WriteConflict",
]


class Error(Exception):
    """Base of every exception that enginelib defines.

    Attributes:
        code: a stable, machine-readable name such as ``"write_conflict"``; it never changes between versions.
        retryable: whether running the whole transaction again can succeed.
        hint: what to do about it, in one sentence; may be empty.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    hint: str = ""
    _fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: getattr(self, name) for name in self._fields}
        return partial(type(self), **fields), (str(self),), dict(self.__dict__)


class TransactionAborted(Error):
    """The operation was not done, because of another transaction; running the whole transaction again can help.

    The transaction that met it has changed nothing by this operation and holds its locks until it ends: leave its
    ``with`` block, or call ``abort()``, before trying again.
    """

    code = "transaction_aborted"
    retryable = True
    hint = "Run the whole transaction again; Database.run() does so with back-off."


class WriteConflict(TransactionAborted):
    """Another transaction changed the same key after this one's snapshot and committed first."""

    code = "write_conflict"


class SerializationFailure(TransactionAborted):
    """Committing would give an outcome that no serial order of the transactions gives."""

    code = "serialization_failure"


class DeadlockDetected(TransactionAborted):
    """Transactions wait for each other in a cycle, and this one was chosen to break it.

    Attributes:
        cycle: who waits for whom and for what, in waiting order, as `enginelib.locks.Wait`; the last waits for the
            first. Empty when unknown.
    """

    code = "deadlock_detected"
    _fields = ("cycle",)
    _cycle: tuple[Wait, ...] = ()

    def __init__(self, message: str = "", *, cycle: Iterable[tuple[Any, ...]] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.cycle = tuple(cycle)

    @property  # the core hands over plain tuples
    def cycle(self) -> tuple[Wait, ...]:
        """Who waits for whom and for what, in waiting order."""
        return self._cycle

    @cycle.setter
    def cycle(self, waits: Iterable[tuple[Any, ...]]) -> None:
        self._cycle = tuple(Wait(*wait) for wait in waits)


class LockTimeout(TransactionAborted):
    """A lock was not granted within ``lock_timeout``: its holder is slow, idle or stuck."""

    code = "lock_timeout"
    hint = "Keep transactions short, or give more lock_timeout to open() or transaction()."


class SnapshotTooOld(TransactionAborted):
    """The snapshot needs versions that were given up to stay within ``version_budget``."""

    code = "snapshot_too_old"
    hint = "Read in shorter transactions, or give more version_budget to open()."


class OutcomeUnknown(Error):
    """The log failed while this transaction committed: it may or may not be durable.

    Never retried by the library, because a retry could apply the changes twice.
    """

    code = "outcome_unknown"
    hint = "Reopen the database and read what the transaction would have written before you decide."


class TransactionTooLarge(Error):
    """The transaction holds more undo than ``transaction_budget``. It can still be rolled back."""

    code = "transaction_too_large"
    hint = "Commit in smaller parts, or give more transaction_budget to open()."


class UsageError(Error):
    """The program asks for something that is not valid here; a retry gives the same answer."""

    code = "usage_error"


class TransactionClosed(UsageError):
    """A transaction, cursor or savepoint is used after it has ended."""

    code = "transaction_closed"
    hint = "Begin another with Database.transaction()."


class DatabaseClosed(UsageError):
    """The database, or something that belongs to it, is used after ``close()``."""

    code = "database_closed"
    hint = "Open it again with enginelib.open()."


class ThreadError(UsageError):
    """A transaction is used by two threads at the same time."""

    code = "thread_error"
    hint = "Give each thread a transaction of its own; a Database may be shared freely."


class ForkError(UsageError):
    """A handle that belongs to the parent process is used in a forked child."""

    code = "fork_error"
    hint = "Open the database after the fork, or start workers with the 'spawn' method."


class NotDeterministic(UsageError):
    """A logged procedure does other things at a repetition: it depends on more than its arguments and the database."""

    code = "not_deterministic"
    hint = "Take the time from txn.now() and random numbers from txn.random(), and order sets before writing them."


class NotPrepared(UsageError):
    """No transaction is prepared under that xid, and none of that name has ended as is asked.

    Attributes:
        xid: what was asked for.
        outcome: how it ended, where that is known; None otherwise.
    """

    code = "not_prepared"
    hint = "Database.prepared() lists what is in doubt, Database.outcome() tells what became of the rest."
    _fields = ("xid", "outcome")

    def __init__(
        self, message: str = "", *, xid: str | None = None, outcome: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.xid = xid
        self.outcome = outcome


class ReadOnlyError(UsageError):
    """A change is asked of a read-only database or transaction."""

    code = "read_only"
    hint = "Open the database, or begin the transaction, without read_only=True."


class NotSupported(UsageError):
    """This version, backend or file format cannot do what is asked."""

    code = "not_supported"


class ChangesGone(Error):
    """The log does not hold what a stream of changes asks for any more, or never did."""

    code = "changes_gone"
    hint = "Begin with a new copy of the data, and a slot made before it: a slot keeps the log for its reader."


class ChangesetConflict(Error):
    """An operation of a changeset meets something else than what it was made on. Nothing of the changeset was applied.

    Attributes:
        operation: the `replication.Operation`.
        present: the value that is there; None when there is none, or the conflict is about a keyspace.
    """

    code = "changeset_conflict"
    hint = 'Decide by conflict="skip", "overwrite" or a function.'
    _fields = ("operation", "present")

    def __init__(
        self, message: str = "", *, operation: Any = None, present: bytes | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.operation = operation
        self.present = present


class AcknowledgementTimeout(Error):
    """A commit is done here, and too few followers have acknowledged it in time.

    Never retried by the library: the changes are there, and a retry would make them twice.

    Attributes:
        lsn: behind the commit's record.
        acknowledged: how many followers had acknowledged it.
    """

    code = "acknowledgement_timeout"
    hint = "The commit stands. Database.stats() tells how far the followers are; wait before you rely on them."
    _fields = ("lsn", "acknowledged")

    def __init__(self, message: str = "", *, lsn: int = 0, acknowledged: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.lsn = lsn
        self.acknowledged = acknowledged


class FencedError(Error):
    """Changes come from a leader that was replaced: a follower of it was promoted since, and goes on in its place."""

    code = "fenced"
    hint = "Take the data of the old leader as lost or for comparison only, and make it a follower of the new one."


class HeuristicOutcome(Error):
    """A prepared transaction was ended by hand (heuristically), in another way than its coordinator asks.

    Attributes:
        xid: of the transaction.
        outcome: ``"heuristically_committed"`` or ``"heuristically_rolled_back"``.
    """

    code = "heuristic_outcome"
    hint = "The parts of the transaction have ended differently: mend the data by hand, then forget() the xid."
    _fields = ("xid", "outcome")

    def __init__(
        self, message: str = "", *, xid: str | None = None, outcome: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.xid = xid
        self.outcome = outcome


class DatabaseLocked(Error):
    """The database is open in another process, or by another handle of this one.

    Attributes:
        pid: process id of the holder, or None when it is not known.
        host: name of the holder's machine, or None when it is not known.
    """

    code = "database_locked"
    hint = "Close it there, or open it here with read_only=True."
    _fields = ("pid", "host")

    def __init__(
        self, message: str = "", *, pid: int | None = None, host: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid
        self.host = host


class StorageError(Error, OSError):
    """The operating system refused a file operation, or the path holds something else than a database.

    Attributes:
        errno: the system's error number, or None when the refusal is enginelib's own.
        filename: the file concerned, or None.
    """

    code = "storage_error"
    _fields = ("errno", "filename")

    def __init__(
        self,
        message: str = "",
        *,
        errno: int | None = None,
        filename: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno
        self.strerror = message
        self.filename = filename


class DiskFull(StorageError):
    """No space is left on the device (or in the quota). Nothing of the failed operation remains."""

    code = "disk_full"
    hint = "Make room and try again; the database stays usable."


class LogWriteError(StorageError):
    """The log could not be written or synced. The database refuses writes until it is reopened."""

    code = "log_write_error"
    hint = "Close the database, mend the device, and open it again: recovery keeps all that was acknowledged."


class CorruptionError(Error):
    """What was read back is not what was written.

    Attributes:
        file: path of the file, or None.
        offset: byte position of what failed its check, or None.
        expected: the checksum, LSN or page number that should be there, or None.
        found: what is there instead, or None.
    """

    code = "corruption"
    hint = "Run Database.verify() to see how much is affected, then restore from a backup."
    _fields = ("file", "offset", "expected", "found")

    def __init__(
        self,
        message: str = "",
        *,
        file: str | None = None,
        offset: int | None = None,
        expected: int | None = None,
        found: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.file = file
        self.offset = offset
        self.expected = expected
        self.found = found


register_errors({name: globals()[name] for name in __all__})
