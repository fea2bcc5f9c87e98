"""Databases in the transactions of zope's package ``transaction``, which is not imported here.

``join(database, manager)`` gives the enginelib transaction that is part of the manager's transaction under way::

    import transaction
    from enginelib.twophase.zope import join

    with transaction.manager:
        join(db, transaction.manager).put(stock, b"pear", b"4")

The package asks its data managers in the order of their sort keys and keeps no record of its own, so whoever is asked
first to finish decides: once it has, the rest must follow; before, nobody has. Ours sort first, and the commit record
of the first of them is the decision, which `Database.outcome` tells to whoever has to end what a crash left prepared
elsewhere, under the name that `gtrid` gives; `resolve` does so. It is forgotten when all have finished.
"""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Unpack

from enginelib.errors import Error, TransactionClosed, UsageError
from enginelib.twophase.branches import Branch, DatabaseBranch
from enginelib.twophase.xid import Xid

if TYPE_CHECKING:
    from enginelib.database import Database
    from enginelib.options import BeginValues
    from enginelib.transaction import Transaction

RUN = os.urandom(6).hex()
os.register_at_fork(after_in_child=lambda: globals().update(RUN=os.urandom(6).hex()))
_numbers = count(1)


def join(database: Database, manager: Any, **begin: Unpack[BeginValues]) -> Transaction:
    """Returns the transaction of a database that is part of the manager's transaction under way.

    It is begun, and joins, when it is asked for first.

    Args:
        database: open for writing.
        manager: a ``transaction.TransactionManager``, or what behaves like one, such as ``transaction.manager``.
        begin: arguments of `Database.transaction`, where it begins.
    """
    whole = manager.get()
    try:
        name: str = whole.data(_numbers)
    except KeyError:
        name = f"{_prefix(database)}{RUN}-{next(_numbers)}"
        whole.set_data(_numbers, name)
    try:
        found: DataManager | None = whole.data(database)
    except KeyError:
        found = None
    if found is None or found.transaction.state == "aborted":  # by a rollback to a savepoint from before it had joined
        found = DataManager(database, manager, name, **begin)
        try:
            whole.join(found)
        except BaseException:  # it has failed, and takes nobody in
            found.abort(whole)
            raise
        whole.set_data(database, found)
        manager.registerSynch(found)  # weakly: it goes with the transaction
    return found.transaction


def gtrid(manager: Any) -> str:
    """Returns the name of the manager's transaction under way: what ours are prepared as, and others should be.

    Args:
        manager: as for `join`.

    Returns:
        32 to 60 ASCII characters, never used again.

    Raises:
        UsageError: no database has joined it yet.
    """
    try:
        name: str = manager.get().data(_numbers)
    except KeyError:
        raise UsageError("No database has joined this transaction yet: call join() first.") from None
    return name


def _prefix(database: Database) -> str:
    return f"zope-{database.database_id[:6].hex()}-"


def resolve(decider: Database, *others: Branch) -> dict[str, bool]:
    """Ends what a crash has left prepared. Call it before any transaction begins.

    It touches only what these databases had joined first; other programs may use the same servers.

    Args:
        decider: of the databases that were joined, the one whose path sorts first.
        others: all that may have taken part beside it, where xids are the `gtrid`, or made of it by PEP 249's ``xid``.

    Returns:
        Whether it was committed, by xid, of each that was prepared.
    """
    ended: dict[str, bool] = {}
    ours = [decider, *(branch.database for branch in others if isinstance(branch, DatabaseBranch))]
    prefixes = tuple(_prefix(database) for database in ours)
    for each in decider.prepared():
        if each.xid.startswith(prefixes):
            decider.rollback_prepared(each.xid)
            ended[each.xid] = False
    for branch in others:
        for xid in branch.recover():
            name = Xid.parse(xid).gtrid
            if not name.startswith(prefixes):
                continue
            ended[xid] = decider.outcome(name) in ("committed", "heuristically_committed")
            if ended[xid]:
                branch.commit(xid)
            else:
                branch.rollback(xid)
    for database in ours:
        for xid, _, _ in database.outcomes():
            if xid.startswith(prefixes):
                database.forget(xid)
    return ended


class DataManager:
    """A data manager (``IDataManager``, ``ISavepointDataManager``, ``IRetryDataManager``) for one transaction of a
    database; `join` makes it.

    ``tpc_vote`` prepares and ``tpc_finish`` commits; ``abort`` and ``tpc_abort`` roll back, in whatever order and
    however often they are called.

    Attributes:
        database: the database.
        transaction_manager: the manager whose transaction it is a part of.
        transaction: the enginelib transaction.
        gtrid: the name under which the transaction is prepared, and its outcome found.
    """

    def __init__(self, database: Database, manager: Any, gtrid: str, **begin: Unpack[BeginValues]) -> None:
        """Begins a transaction; the caller has the manager's transaction join it.

        Args:
            database: open for writing.
            manager: the transaction manager.
            gtrid: see there.
            begin: arguments of `Database.transaction`.
        """
        self.database = database
        self.transaction_manager = manager
        self.gtrid = gtrid
        self.transaction = database.transaction(**begin)
        self._forgotten = False

    def sortKey(self) -> str:
        """Before letters, digits and ``~``: this data manager votes and finishes first."""
        return f"!enginelib:{self.database.path}:{self.gtrid}"

    def tpc_begin(self, transaction: Any) -> None:
        """Nothing is to be done yet."""

    def commit(self, transaction: Any) -> None:
        """Nothing is to be done: changes are where they belong already."""
        if self.transaction.state != "active":
            raise TransactionClosed(
                f"The transaction of {self.database.path} is {self.transaction.state} already: "
                "leave its end to the transaction manager."
            )

    def tpc_vote(self, transaction: Any) -> None:
        """Prepares; what has changed nothing is committed, for it has nothing to promise.

        Raises:
            Error: it cannot be committed.
        """
        if self.transaction.id:
            self.transaction.prepare(self.gtrid)
        else:
            self.transaction.commit()

    def tpc_finish(self, transaction: Any) -> None:
        """Commits what was prepared.

        Raises:
            HeuristicOutcome: it was rolled back by hand.
            OutcomeUnknown: the log failed. The others are told to abort, and that is the outcome only if the commit is
                not found after the next opening.
        """
        if self.transaction.state == "prepared":
            self.database.commit_prepared(self.gtrid)

    def abort(self, transaction: Any) -> None:
        """Rolls back, prepared or not; does nothing once that was done."""
        if self.transaction.state == "prepared":
            if self.database.outcome(self.gtrid) != "committed":
                self.database.rollback_prepared(self.gtrid)
        else:
            self.transaction.abort()

    def tpc_abort(self, transaction: Any) -> None:
        """As `abort`."""
        self.abort(transaction)

    def savepoint(self) -> Savepoint:
        """Marks this point, for ``rollback``."""
        return Savepoint(self.transaction)

    def should_retry(self, error: BaseException) -> bool:
        """Whether the whole transaction may succeed if it is tried again."""
        return isinstance(error, Error) and error.retryable

    def newTransaction(self, transaction: Any) -> None:
        """Of a synchronizer (``ISynchronizer``): nothing is to be done."""

    def beforeCompletion(self, transaction: Any) -> None:
        """Of a synchronizer: nothing is to be done."""

    def afterCompletion(self, transaction: Any) -> None:
        """Of a synchronizer: where all have finished, nobody will ask for the outcome again."""
        if transaction.status == "Committed" and self.transaction.state == "prepared" and not self._forgotten:
            self._forgotten = True
            with suppress(Error):
                self.database.forget(self.gtrid, durability="lazy")

    def __repr__(self) -> str:
        return f"<enginelib.twophase.zope.DataManager {self.gtrid} of {self.database.path!r}>"


class Savepoint:
    """A mark that the transaction can be rolled back to, again and again."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._depth = transaction.save()

    def rollback(self) -> None:
        """Undoes everything since; marks made since are void."""
        self._transaction.rollback_to(self._depth)
        self._depth = self._transaction.save()
