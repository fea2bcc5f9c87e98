"""Serial execution: procedures that run one after another, each as a transaction of its own.

After Stonebraker and others, *The End of an Architectural Era* (VLDB 2007): where transactions are short functions
that need nobody's answer, running them one at a time needs no locks and no retries, and many can share one sync of
the log. An executor thread takes what is queued, runs it, logs its commit, goes on with the next, and when the
batch is full or the queue empty makes them all durable and visible at once; their futures are resolved after that
(law 8).

Invariants: procedures run in the order of `submit`. Each sees all before it, those of its own batch included, whose
commits are not visible to others yet. No future is resolved before its commit is as durable as asked, nor one that
failed before what it may have read is.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from enginelib.errors import DatabaseClosed, TransactionAborted, UsageError
from enginelib.options import Isolation
from enginelib.retry import refuse_deferred
from enginelib.transaction import Transaction

if TYPE_CHECKING:
    from enginelib.database import Database

Procedure = Callable[..., Any]
BATCH = 256
ATTEMPTS = 20
LEVEL = Isolation.SERIAL.level


class Executor:
    """Runs the procedures of one database."""

    def __init__(self, database: Database) -> None:
        self._database = weakref.ref(database)
        self._procedures: dict[str, Procedure] = {}
        self._queue: deque[tuple[Procedure, tuple[Any, ...], Future[Any]]] = deque()
        self._wanted = threading.Condition()
        self._thread: threading.Thread | None = None
        self._idle = True
        self._alone = threading.Lock()
        self.closed = False

    def register(self, name: str, function: Procedure) -> None:
        """Makes a function known by a name."""
        refuse_deferred(function)
        if self._procedures.setdefault(name, function) is not function:
            raise ValueError(
                f"There is a procedure {name!r} already; give this one another name: @db.procedure(name=...)."
            )

    def find(self, name: str | Procedure) -> Procedure:
        """Returns a registered function, by its name or itself."""
        if callable(name):
            for function in self._procedures.values():
                if function is name:
                    return name
            raise KeyError(f"{name!r} is no procedure of this database; register it by @db.procedure")
        try:
            return self._procedures[name]
        except KeyError:
            there = ", ".join(repr(other) for other in self._procedures) or "none"
            raise KeyError(f"no procedure named {name!r}; there are {there}") from None

    def submit(self, name: str | Procedure, args: tuple[Any, ...]) -> Future[Any]:
        """Queues a call."""
        function = self.find(name)
        future: Future[Any] = Future()
        self._queue.append((function, args, future))
        if self._idle:
            with self._wanted:
                if self.closed:
                    self._fail_queue()
                elif self._thread is None:
                    self._start()
                else:
                    self._wanted.notify()
        return future

    def close(self) -> None:
        """Lets what is under way end, and fails what is queued."""
        with self._wanted:
            self.closed = True
            self._wanted.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._fail_queue()

    def _start(self) -> None:
        self._idle = False
        self._thread = threading.Thread(target=_serve, args=(weakref.ref(self),), name="enginelib-serial", daemon=True)
        self._thread.start()

    def _fail_queue(self) -> None:
        while self._queue:
            future = self._queue.popleft()[2]
            if future.set_running_or_notify_cancel():
                future.set_exception(DatabaseClosed("The database was closed before the procedure began."))

    def wait(self) -> bool:
        """Whether there is something to run; waits a while for it."""
        with self._wanted:
            if self._queue or self.closed:
                return not self.closed
            self._idle = True
            if not self._queue:  # a submit that came before `_idle` was set
                self._wanted.wait(0.5)
            self._idle = False
            return bool(self._queue) and not self.closed

    def run_batch(self) -> None:
        """Runs what is queued, up to a batch, and makes it durable."""
        database = self._database()
        if database is None or database.closed:
            self._fail_queue()
            return
        batch = Batch(database)
        while self._queue and len(batch.done) < BATCH:
            function, args, future = self._queue.popleft()
            if future.set_running_or_notify_cancel():
                batch.run(function, args, future)
        batch.settle()

    def call(self, name: str | Procedure, args: tuple[Any, ...]) -> Any:
        """Runs a procedure in the caller's thread where nobody else wants to run one; else as one of a batch."""
        function = self.find(name)
        if getattr(_here, "running", False):
            raise UsageError(
                f"{function.__name__}() was called by db.call() from within a procedure; call the function itself, "
                "with the procedure's transaction."
            )
        database = self._database()
        if self._queue or not self._alone.acquire(blocking=False):
            return self.submit(function, args).result()
        try:
            if database is None:
                raise DatabaseClosed("The database is closed.")
            return run_alone(database, function, args)
        finally:
            self._alone.release()


class Batch:
    """Procedures that share one sync."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.done: list[tuple[Future[Any], Any, BaseException | None]] = []
        self.logged: list[Transaction] = []
        self.failure: BaseException | None = None

    def run(self, function: Procedure, args: tuple[Any, ...], future: Future[Any]) -> None:
        try:
            value = self.attempt(function, args) if self.logged else None
            if value is None:
                # Nothing of this thread is on its way now, so nobody it may have to wait for waits for that.
                value = [run_alone(self.database, function, args, self.logged)]
            self.done.append((future, value[0], None))
        except BaseException as error:  # it is the caller's to see
            self.done.append((future, None, error))

    def attempt(self, function: Procedure, args: tuple[Any, ...]) -> list[Any] | None:
        """Runs it upon commits that are not visible yet; None where it would have to wait for anyone."""
        txn: Transaction | None = None
        try:
            txn = self.database.core_transaction(Transaction, False, -1, -1.0, LEVEL, False, True)
            return [execute(txn, function, args, self.logged)]
        except TransactionAborted:
            self.complete()
            return None

    def complete(self) -> None:
        """Makes visible what is logged. The newest first: its sync covers the others."""
        while self.logged:
            try:
                self.logged.pop().complete()
            except BaseException as error:
                self.failure = error

    def settle(self) -> None:
        """Makes all of it durable, and tells."""
        self.complete()
        for future, value, error in self.done:
            if error is None:
                error = self.failure
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)


def execute(
    txn: Transaction, function: Procedure, args: tuple[Any, ...], logged: list[Transaction] | None = None
) -> Any:
    """Runs a procedure and commits it, or leaves the end of that to the batch; aborts it on an error."""
    _here.running = True
    try:
        value = function(txn, *args)
        if txn.state != "active":
            raise UsageError("A procedure leaves its transaction open: it is committed when the function returns.")
        if logged is None:
            txn.commit()
        elif txn.commit_later():
            logged.append(txn)
        return value
    except BaseException:
        txn.abort()
        raise
    finally:
        _here.running = False


def run_alone(
    database: Database, function: Procedure, args: tuple[Any, ...], logged: list[Transaction] | None = None
) -> Any:
    """Runs a procedure with all the waiting it takes; again where a cycle of waits had to be broken."""
    attempt = 1
    while True:
        try:
            txn: Transaction = database.core_transaction(Transaction, False, -1, -1.0, LEVEL)
            return execute(txn, function, args, logged)
        except TransactionAborted:
            if attempt == ATTEMPTS:
                raise
            attempt += 1


def _serve(reference: weakref.ref[Executor]) -> None:
    """The executor's thread; it ends with its database."""
    while True:
        executor = reference()
        if executor is None or executor.closed:
            return
        if executor.wait():
            executor.run_batch()
        del executor


_here = threading.local()
