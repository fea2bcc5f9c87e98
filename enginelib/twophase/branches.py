"""What a `Coordinator` commits over: the protocol of a branch, and those of enginelib databases and PostgreSQL.

A branch stands for one participant and, at a time, for the work done there as a part of one distributed transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, Unpack, runtime_checkable

from enginelib.errors import UsageError

if TYPE_CHECKING:
    from enginelib.database import Database
    from enginelib.options import BeginValues
    from enginelib.transaction import Transaction


@runtime_checkable
class Branch(Protocol):
    """What a `Coordinator` asks of a participant.

    Any failure but `HeuristicOutcome` and `NotPrepared` from ``commit`` and ``rollback`` means: ask again later.
    Two methods more are used where a branch has them: ``commit_alone()`` commits the work under way in one phase, for a
    transaction of this branch alone; ``forget(xid)`` says that nobody will ask for that xid again.

    Attributes:
        name: the participant's, 1 to 40 ASCII letters, digits, ``-`` and ``_``; the same in every run, and no other's.
    """

    name: str

    def prepare(self, xid: str) -> None:
        """Promises durably that the work under way will commit or roll back, as it is told by the xid."""

    def commit(self, xid: str) -> None:
        """Commits what is prepared under the xid, durably; does nothing where that was done before."""

    def rollback(self, xid: str) -> None:
        """Undoes what is prepared under the xid, and the work under way; does nothing where there is neither."""

    def recover(self) -> Iterable[str]:
        """The xids of all that is prepared at the participant, whoever's they are."""


class DatabaseBranch:
    """Work in an enginelib database that is open in this process. For one thread at a time."""

    def __init__(self, name: str, database: Database, **begin: Unpack[BeginValues]) -> None:
        """Makes one.

        Args:
            name: see `Branch`.
            database: open for writing.
            begin: arguments of `Database.transaction`.
        """
        self.name = name
        self.database = database
        self._begin: dict[str, Any] = {**begin, "durability": "sync"}
        self._transaction: Transaction | None = None
        self._nothing: str | None = None  # the xid of work that had changed nothing

    @property
    def transaction(self) -> Transaction:
        """The transaction under way; begun when it is asked for first."""
        if self._transaction is None:
            self._transaction = self.database.transaction(**self._begin)
        return self._transaction

    def prepare(self, xid: str) -> None:
        """See `Branch`; what has changed nothing has nothing to promise, and is committed at once."""
        txn = self.transaction
        if txn.id:
            txn.prepare(xid)
        else:
            txn.commit()
            self._nothing = xid
        self._transaction = None

    def commit(self, xid: str) -> None:
        """See `Branch`."""
        if xid != self._nothing:
            self.database.commit_prepared(xid)

    def rollback(self, xid: str) -> None:
        """See `Branch`."""
        txn, self._transaction = self._transaction, None
        if txn is not None:
            txn.abort()
        self.database.rollback_prepared(xid)

    def recover(self) -> list[str]:
        """See `Branch`."""
        return [each.xid for each in self.database.prepared()]

    def commit_alone(self) -> None:
        """See `Branch`."""
        txn = self.transaction
        try:
            txn.commit()
        finally:
            if txn.state != "active":  # an interrupt may come after the commit
                self._transaction = None

    def forget(self, xid: str) -> None:
        """See `Branch`; not synced: what a crash brings back, `kept` lists."""
        self.database.forget(xid, durability="lazy")

    def kept(self) -> list[tuple[str, str]]:
        """Returns (xid, outcome) of all that have ended and are not forgotten."""
        return [(xid, outcome) for xid, outcome, _ in self.database.outcomes()]


class PostgresBranch:
    """Work in a PostgreSQL database, through the package psycopg. For one thread at a time.

    The server has to allow prepared transactions: its ``max_prepared_transactions`` is 0 unless it is set. A connection
    that is lost takes the work under way with it, and is replaced when that is rolled back.
    """

    def __init__(self, name: str, connect: str | Callable[[], Any]) -> None:
        """Makes one; connects when it is used first.

        Args:
            name: see `Branch`.
            connect: what ``psycopg.connect`` takes; or a function that returns a psycopg connection of this branch's
                own, which is not in autocommit.

        Raises:
            ImportError: psycopg is not installed.
        """
        try:
            import psycopg  # type: ignore[import-not-found,unused-ignore]
        except ModuleNotFoundError:
            raise ImportError("PostgresBranch needs the package psycopg: pip install 'enginelib[postgres]'.") from None
        self.name = name
        self._connect: Callable[[], Any] = connect if callable(connect) else lambda: psycopg.connect(connect)
        self._connection: Any = None
        self._undefined = psycopg.errors.UndefinedObject
        self._lost = psycopg.OperationalError

    @property
    def connection(self) -> Any:
        """The psycopg connection, in the transaction under way or outside any; leave its end to the coordinator."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _status(self) -> str:
        name: str = self.connection.info.transaction_status.name
        return name

    def _idle(self) -> Any:
        """A connection that is in no transaction: what is under way is given up, a lost connection replaced."""
        if self._status() in ("INTRANS", "INERROR"):
            with suppress(Exception):
                self.connection.rollback()
        if self._status() != "IDLE":
            self.close()
        return self.connection

    def _outside(self, work: Callable[[Any], Any]) -> Any:
        """Does what belongs to no transaction of ours; again, where the connection from before turns out to be lost."""
        again = self._connection is not None
        while True:
            try:
                return work(self._idle())
            except BaseException as error:
                self.close()
                if not again or not isinstance(error, self._lost):
                    raise
            again = False

    def _end(self, command: str, xid: str) -> None:
        """COMMIT PREPARED or ROLLBACK PREPARED; nothing where the xid is not known."""

        def work(connection: Any) -> None:
            connection.autocommit = True
            with suppress(self._undefined):
                connection.execute(self._command(command, xid))
            connection.autocommit = False

        self._outside(work)

    def _command(self, command: str, xid: str) -> Any:
        from psycopg.sql import SQL, Composed, Literal  # type: ignore[import-not-found,unused-ignore]

        return Composed([SQL(command), SQL(" "), Literal(xid)])  # type: ignore[arg-type,unused-ignore]

    def prepare(self, xid: str) -> None:
        """See `Branch`."""
        if self._status() == "IDLE":
            self.connection.execute("SELECT")  # nothing was done: an empty transaction makes the promise
        if self._status() != "INTRANS":
            raise UsageError(f"The transaction at {self.name!r} has failed, or its connection is lost.")
        if self.connection.execute(self._command("PREPARE TRANSACTION", xid)).statusmessage != "PREPARE TRANSACTION":
            raise UsageError(f"PostgreSQL rolled the transaction at {self.name!r} back instead of preparing it.")

    def commit(self, xid: str) -> None:
        """See `Branch`. PostgreSQL keeps no outcomes: an xid that it does not know counts as committed before."""
        self._end("COMMIT PREPARED", xid)

    def rollback(self, xid: str) -> None:
        """See `Branch`."""
        self._end("ROLLBACK PREPARED", xid)

    def recover(self) -> list[str]:
        """See `Branch`; of this database, not of others of the same server."""

        def work(connection: Any) -> list[str]:
            rows = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
            found = [row[0] for row in rows.fetchall()]
            connection.rollback()
            return found

        found: list[str] = self._outside(work)
        return found

    def commit_alone(self) -> None:
        """See `Branch`."""
        self.connection.commit()

    def close(self) -> None:
        """Ends the connection; work that is not prepared is lost."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()
