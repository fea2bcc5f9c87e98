"""enginelib: an embeddable, single-node, transactional storage engine.

>>> import enginelib
>>> with enginelib.open("app.db") as db:
...     users = db.keyspace("users")
...     users[b"ada"] = b"1815"
...     with db.transaction() as txn:
...         txn.put(users, b"bob", b"1")
"""

from __future__ import annotations

import typing

try:
    from enginelib._native.engine.door import build_info
except ModuleNotFoundError as missing:
    if not (missing.name or "").startswith("enginelib._native"):
        raise
    raise ImportError(
        "enginelib's compiled core is not here: this is its source folder. Build it by `pip install -e .`, "
        "or start Python elsewhere to use an installed enginelib."
    ) from missing

from enginelib.combine import from_counter, to_counter
from enginelib.database import Database, open
from enginelib.errors import (
    AcknowledgementTimeout,
    ChangesetConflict,
    ChangesGone,
    CorruptionError,
    DatabaseClosed,
    DatabaseLocked,
    DeadlockDetected,
    DiskFull,
    Error,
    FencedError,
    ForkError,
    HeuristicOutcome,
    LockTimeout,
    LogWriteError,
    NotDeterministic,
    NotPrepared,
    NotSupported,
    OutcomeUnknown,
    ReadOnlyError,
    SerializationFailure,
    SnapshotTooOld,
    StorageError,
    ThreadError,
    TransactionAborted,
    TransactionClosed,
    TransactionTooLarge,
    UsageError,
    WriteConflict,
)
from enginelib.keyspace import Keyspace
from enginelib.locks import Lock, Wait
from enginelib.options import Durability, Isolation, Options
from enginelib.prepared import Prepared
from enginelib.report import VerifyReport
from enginelib.retry import transactional
from enginelib.transaction import Savepoint, Transaction, View

if typing.TYPE_CHECKING:
    from enginelib.rebuild import Restored, restore

__version__ = "0.1.0"

__all__ = [
    "AcknowledgementTimeout",
    "ChangesGone",
    "ChangesetConflict",
    "CorruptionError",
    "Database",
    "DatabaseClosed",
    "DatabaseLocked",
    "DeadlockDetected",
    "DiskFull",
    "Durability",
    "Error",
    "FencedError",
    "ForkError",
    "HeuristicOutcome",
    "Isolation",
    "Keyspace",
    "Lock",
    "LockTimeout",
    "LogWriteError",
    "NotDeterministic",
    "NotPrepared",
    "NotSupported",
    "Options",
    "OutcomeUnknown",
    "Prepared",
    "ReadOnlyError",
    "Restored",
    "Savepoint",
    "SerializationFailure",
    "SnapshotTooOld",
    "StorageError",
    "ThreadError",
    "Transaction",
    "TransactionAborted",
    "TransactionClosed",
    "TransactionTooLarge",
    "UsageError",
    "VerifyReport",
    "View",
    "Wait",
    "WriteConflict",
    "build_info",
    "from_counter",
    "open",
    "restore",
    "to_counter",
    "transactional",
]


def __getattr__(name: str) -> typing.Any:
    if name not in ("Restored", "restore"):  # seldom wanted, and not quick to import
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from enginelib import rebuild

    globals()[name] = getattr(rebuild, name)
    return globals()[name]
