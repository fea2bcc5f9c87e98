"""Prepared transactions: promised by `Transaction.prepare`, ended by xid, in this process or any later one.

Data flow: `prepare` puts a row ``xid -> committed`` into the engine's own keyspace of outcomes as the transaction's
last change, and has the core log the promise. So the outcome becomes known with the commit itself, atomically, and is
absent after a rollback (presumed abort): no state is kept beside the database. A decision by hand (heuristic) leaves a
mark of its own, which is written first.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from enginelib._native.engine.door import CoreKeyspace
from enginelib.errors import Error, HeuristicOutcome, NotPrepared, UsageError
from enginelib.retry import persist

if TYPE_CHECKING:
    from enginelib.database import Database
    from enginelib.options import Durability, DurabilityName
    from enginelib.transaction import Transaction

logger = logging.getLogger("enginelib")

OUTCOMES = "\0outcomes"
LONGEST_XID = 200
COMMITTED = b"\x01"
HEURISTIC_COMMIT = b"\x02"
HEURISTIC_ROLLBACK = b"\x03"
BY_HAND = b"\0"  # no xid begins with it: a mark's key is this and the xid
MICROS = 1_000_000
PREPARED = "prepared"
MARKS = {HEURISTIC_COMMIT: "heuristically_committed", HEURISTIC_ROLLBACK: "heuristically_rolled_back"}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A transaction in doubt: it has promised to commit or to roll back, whichever it is told.

    Attributes:
        xid: what it is known by.
        since: when it was prepared, in seconds since 1970.
        age: for how long it has been so, in seconds.
        isolation: its isolation level.
        changes: how many keys it has changed.
        locks: how many locks it holds beside those.
        waiters: numbers of transactions that wait for it (`Transaction.number`), 16 at most.
        number: what `Database.locks` tells its locks by.
    """

    xid: str
    since: float
    age: float
    isolation: str
    changes: int
    locks: int
    waiters: tuple[int, ...]
    number: int


def encoded(xid: str) -> bytes:
    """Checks an xid and encodes it."""
    if not isinstance(xid, str):
        raise TypeError(f"An xid must be str, not {type(xid).__name__}.")
    code = xid.encode()
    if not 1 <= len(code) <= LONGEST_XID or "\0" in xid:
        raise ValueError(f"An xid takes 1 to {LONGEST_XID} bytes in UTF-8 and no NUL; {xid[:40]!r} takes {len(code)}.")
    return code


def _outcomes(database: Database, create: bool) -> Any:
    if database.outcomes_keyspace is None:
        try:
            database.outcomes_keyspace = persist(  # another thread may be making it at this moment
                lambda: database.core_keyspace(CoreKeyspace, OUTCOMES, create, "btree", None, True)
            )
        except KeyError:
            return None
    return database.outcomes_keyspace


def prepare(txn: Transaction, xid: str) -> None:
    """See `Transaction.prepare`."""
    database = txn.database
    code = encoded(xid)
    if txn.state != "active":
        txn.wall_micros()  # says what is the matter
    if txn.read_only:
        raise UsageError("A read-only transaction has nothing to promise: commit it.")
    if txn.isolation == "serial":
        raise UsageError(
            "A serial transaction holds no locks that it could leave behind: prepare a locking or serializable one."
        )
    most = database.options.max_prepared
    if database.prepared_count >= most:
        raise UsageError(
            f"{database.prepared_count} transactions are prepared, as many as max_prepared={most} allows.",
            hint="End those in doubt (Database.prepared() lists them), or give more max_prepared to open().",
        )
    warn_of_age(database)
    outcomes = _outcomes(database, True)
    if any(row[0] == code for row in database.prepared_rows()):
        raise ValueError(f"A transaction of xid {xid!r} is prepared already.")
    if database.before_commit_hook is not None and txn.id:
        txn.ask_before()
    if txn.get_for_update(outcomes, code) is not None:
        raise ValueError(
            f"The outcome of a transaction of xid {xid!r} is kept: it was committed. Choose another, or forget() it."
        )
    try:
        txn.put(outcomes, code, COMMITTED + int(time.time() * MICROS).to_bytes(8, "little"))
        txn.prepare_as(code)
    except BaseException:
        if txn.state == "active":  # it may be prepared again, by another name, or committed plainly
            try:
                txn.delete(outcomes, code)
            except Error:
                txn.abort()  # else it might commit and say that it was prepared
        raise


def commit(database: Database, xid: str, heuristic: bool) -> None:
    """See `Database.commit_prepared`."""
    code = encoded(xid)
    if heuristic:
        _mark(database, code, HEURISTIC_COMMIT)
    if database.end_prepared(code, True):
        return
    found = outcome(database, xid)
    if found in ("committed", "heuristically_committed"):
        return
    if found is None:
        raise NotPrepared(
            f"No transaction of xid {xid!r} is prepared, and none of that name has committed: it was never prepared, "
            "was rolled back, or is forgotten.",
            xid=xid,
        )
    raise _otherwise(xid, found)


def rollback(database: Database, xid: str, heuristic: bool) -> None:
    """See `Database.rollback_prepared`."""
    code = encoded(xid)
    if heuristic:
        _mark(database, code, HEURISTIC_ROLLBACK)
    if database.end_prepared(code, False):
        return
    found = outcome(database, xid)
    if found == "committed":
        raise NotPrepared(f"The transaction of xid {xid!r} has committed.", xid=xid, outcome=found)
    if found == "heuristically_committed":
        raise _otherwise(xid, found)


def _otherwise(xid: str, found: str) -> HeuristicOutcome:
    return HeuristicOutcome(f"The transaction of xid {xid!r} was {found.replace('_', ' ')}.", xid=xid, outcome=found)


def _mark(database: Database, code: bytes, decision: bytes) -> None:
    """Notes, before the end itself, that somebody decides without the coordinator."""
    if not any(row[0] == code for row in database.prepared_rows()):
        return
    with database.transaction(isolation="read_committed", durability="sync") as txn:
        txn.unhooked = True
        txn.put(_outcomes(database, True), BY_HAND + code, decision + int(time.time() * MICROS).to_bytes(8, "little"))


def prepared(database: Database) -> list[Prepared]:
    """See `Database.prepared`."""
    now = time.time()
    return [
        Prepared(
            code.decode("utf-8", "replace"),
            wall / MICROS,
            max(0.0, now - wall / MICROS),
            isolation,
            max(0, changes - 1),  # one of them says what becomes of it
            locks,
            waiters,
            number,
        )
        for code, wall, number, isolation, changes, locks, waiters in database.prepared_rows()
    ]


def outcome(database: Database, xid: str) -> str | None:
    """See `Database.outcome`."""
    code = encoded(xid)
    if any(row[0] == code for row in database.prepared_rows()):
        return PREPARED
    outcomes = _outcomes(database, False)
    if outcomes is None:
        return None
    with database.transaction(read_only=True) as txn:
        row, mark = txn.get_many(outcomes, [code, BY_HAND + code])
    decision = b"" if mark is None else mark[:1]
    if row is not None:
        return "heuristically_committed" if decision == HEURISTIC_COMMIT else "committed"
    return MARKS[HEURISTIC_ROLLBACK] if decision == HEURISTIC_ROLLBACK else None


def forget(database: Database, xid: str, durability: Durability | DurabilityName) -> None:
    """See `Database.forget`."""
    code = encoded(xid)
    if any(row[0] == code for row in database.prepared_rows()):
        raise UsageError(f"The transaction of xid {xid!r} is prepared; commit it or roll it back first.")
    outcomes = _outcomes(database, False)
    if outcomes is not None:
        with database.transaction(isolation="read_committed", durability=durability) as txn:
            txn.unhooked = True
            txn.delete(outcomes, code)
            txn.delete(outcomes, BY_HAND + code)


def outcomes(database: Database) -> list[tuple[str, str, float]]:
    """See `Database.outcomes`."""
    keyspace = _outcomes(database, False)
    if keyspace is None:
        return []
    in_doubt = {row[0] for row in database.prepared_rows()}
    found: dict[str, tuple[str, float]] = {}
    with database.transaction(read_only=True) as txn:
        for key, value in txn.scan(keyspace):  # marks come first
            code = key.removeprefix(BY_HAND)
            name, when = code.decode("utf-8", "replace"), int.from_bytes(value[1:9], "little") / MICROS
            if code in in_doubt:
                continue
            if key != code:
                found[name] = (MARKS.get(value[:1], "unknown"), when)
            elif found.get(name, ("", 0.0))[0] != MARKS[HEURISTIC_COMMIT]:
                found[name] = ("committed", when)
    return [(name, *rest) for name, rest in sorted(found.items())]


def warn_of_age(database: Database) -> None:
    """Logs a warning, once for each, of transactions that have been in doubt for longer than the option says."""
    now = time.monotonic()
    if not database.prepared_count or now < database.warn_again:
        return
    database.warn_again = now + min(1.0, database.options.prepared_warning)
    for each in prepared(database):
        if each.age > database.options.prepared_warning and each.xid not in database.warned_of:
            database.warned_of.add(each.xid)
            logger.warning(
                "%s: transaction %r has been prepared for %.0f s, and keeps its locks and the log from its beginning",
                database.path,
                each.xid,
                each.age,
            )
