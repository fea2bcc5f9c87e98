"""The two-phase commit of PEP 249, the Python database API, over a database.

Whoever drives such connections, of PostgreSQL or Oracle for example, can drive a database beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from enginelib import errors
from enginelib.errors import NotPrepared, UsageError
from enginelib.twophase.xid import Xid

if TYPE_CHECKING:
    from enginelib.database import Database
    from enginelib.options import BeginValues
    from enginelib.transaction import Transaction

XidLike = Xid | str | tuple[int | None, str, str | None]


class Participant:
    """A connection in the sense of PEP 249, as far as that is about distributed transactions.

    One thread at a time uses it, for one transaction after another; make another for another thread. The xids of
    `tpc_commit` and `tpc_rollback` may be of transactions that were prepared anywhere: by another participant, or
    before the last restart.

    The outcome of each commit is kept by the database, so that the same may be asked twice. PEP 249 knows no word for
    the end of that: `tpc_forget`, or ``keep_outcomes=False`` for coordinators that find what is left by `tpc_recover`
    alone, as they must with most databases.

    Attributes:
        database: the database.
        Error, DatabaseError, InterfaceError, OperationalError, ProgrammingError, NotSupportedError: what the methods
            raise, under the names that PEP 249 gives them.
    """

    Error: ClassVar = errors.Error
    DatabaseError: ClassVar = errors.Error
    InterfaceError: ClassVar = errors.Error
    OperationalError: ClassVar = errors.Error
    ProgrammingError: ClassVar = errors.UsageError
    NotSupportedError: ClassVar = errors.NotSupported

    def __init__(self, database: Database, *, keep_outcomes: bool = True, **begin: Unpack[BeginValues]) -> None:
        """Makes one.

        Args:
            database: open for writing.
            keep_outcomes: whether the outcome of a commit is kept until `tpc_forget`.
            begin: arguments of `Database.transaction`, for each transaction.
        """
        self.database = database
        self._keep = keep_outcomes
        self._begin = begin
        self._xid: Xid | None = None
        self._transaction: Transaction | None = None

    @property
    def _prepared(self) -> bool:
        return self._transaction is not None and self._transaction.state == "prepared"

    @staticmethod
    def xid(format_id: int, gtrid: str, bqual: str) -> Xid:
        """Makes a name for a branch of a distributed transaction.

        Args:
            format_id: 0 to 2**31 - 1; tells coordinators apart.
            gtrid: of the whole transaction, 1 to 64 bytes in UTF-8.
            bqual: of the branch, 0 to 64 bytes.

        Raises:
            TypeError, ValueError: they are not so.
        """
        return Xid.of(format_id, gtrid, bqual)

    @property
    def transaction(self) -> Transaction:
        """The transaction under way, between `tpc_begin` and `tpc_prepare`.

        Raises:
            UsageError: there is none.
        """
        if self._transaction is None:
            raise UsageError("No distributed transaction is under way: call tpc_begin() first.")
        if self._prepared:
            raise UsageError("The transaction is prepared; it waits for tpc_commit() or tpc_rollback().")
        return self._transaction

    def tpc_begin(self, xid: XidLike) -> None:
        """Begins a transaction that is a branch of a distributed one.

        Args:
            xid: from `xid`; or the string of one.

        Raises:
            UsageError: one is under way.
        """
        if self._transaction is not None:
            raise UsageError(f"A distributed transaction is under way already: {self._xid}.")
        name = Xid.among(xid)
        self._transaction = self.database.transaction(**self._begin)
        self._xid = name

    def tpc_prepare(self) -> None:
        """The first phase: promises to commit or to roll back, as `Transaction.prepare` does.

        Where it fails the transaction is still under way: call `tpc_rollback`.

        Raises:
            UsageError: none is under way, or it is prepared already.
            Error: as `Transaction.prepare`.
        """
        self.transaction.prepare(str(self._xid))

    def tpc_commit(self, xid: XidLike | None = None) -> None:
        """The second phase; without `tpc_prepare` before it, commits in one phase.

        Args:
            xid: None for the transaction under way. Otherwise a prepared one, as `tpc_recover` lists them; then none
                may be under way.

        Raises:
            UsageError: none is under way, or one is and an xid was given.
            NotPrepared: nothing of that xid is prepared, nor has committed.
            HeuristicOutcome: it was rolled back by hand.
            Error: as `Transaction.commit`.
        """
        if xid is not None:
            self._idle()
            self._commit(str(Xid.among(xid)))
        elif self._prepared:
            self._commit(str(self._xid))
            self._end()
        else:
            self.transaction.commit()
            self._end()

    def _commit(self, name: str) -> None:
        self.database.commit_prepared(name)
        if not self._keep:
            self.database.forget(name, durability="lazy")

    def tpc_rollback(self, xid: XidLike | None = None) -> None:
        """Rolls back: the transaction under way, prepared or not; or with an xid a prepared one.

        Args:
            xid: as for `tpc_commit`.

        Raises:
            UsageError: none is under way, or one is and an xid was given.
            NotPrepared: with an xid, and nothing is prepared under it, or it has committed.
            HeuristicOutcome: it was committed by hand.
        """
        if xid is not None:
            self._idle()
            name = str(Xid.among(xid))
            if self.database.outcome(name) is None:
                raise NotPrepared(f"No transaction of xid {name!r} is prepared.", xid=name)
            self.database.rollback_prepared(name)
        elif self._prepared:
            self.database.rollback_prepared(str(self._xid))
            self._end()
        elif self._transaction is not None:
            self._transaction.abort()
            self._end()
        else:
            raise UsageError("No distributed transaction is under way: call tpc_begin() first.")

    def tpc_recover(self) -> list[Xid]:
        """Returns the xids of all transactions of the database that are prepared and wait to be ended; those
        with ``format_id`` None were prepared under other names."""
        return [Xid.parse(each.xid) for each in self.database.prepared()]

    def tpc_forget(self, xid: XidLike) -> None:
        """Drops the outcome of a transaction that nobody will ask for any more; beyond PEP 249.

        Raises:
            UsageError: it is still prepared.
        """
        self.database.forget(str(Xid.among(xid)))

    def commit(self) -> None:
        """PEP 249's end of a transaction that is not distributed; there never is one, so it does nothing.

        Raises:
            UsageError: a distributed one is under way.
        """
        self._idle()

    def rollback(self) -> None:
        """As `commit`."""
        self._idle()

    def _idle(self) -> None:
        if self._transaction is not None:
            raise UsageError(
                f"A distributed transaction is under way: {self._xid}. End it by tpc_commit() or tpc_rollback()."
            )

    def _end(self) -> None:
        self._transaction = self._xid = None

    def close(self) -> None:
        """Rolls back what is under way and not prepared; what is prepared stays so."""
        if self._transaction is not None and not self._prepared:
            self._transaction.abort()
        self._end()

    def __enter__(self) -> Participant:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
