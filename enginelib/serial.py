"""Serial execution: procedures that run one after another, each as a transaction of its own.

After Stonebraker and others, *The End of an Architectural Era* (VLDB 2007): where transactions are short functions
that need nobody's answer, running them one at a time needs no locks and no retries, and many can share one sync of
the log. An executor thread takes what is queued, runs it, logs its commit, goes on with the next, and when the
batch is full or the queue empty makes them all durable and visible at once; their futures are resolved after that
(law 8).

`call` runs a procedure in the caller's own thread while nobody else is inside one, and by way of the executor
otherwise.

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

from enginelib._native.engine.door import BUSY
from enginelib.errors import DatabaseClosed, TransactionAborted
from enginelib.retry import refuse_deferred
from enginelib.transaction import Transaction

if TYPE_CHECKING:
    from enginelib.commands import Call, Logged
    from enginelib.database import Database
    from enginelib.hooks import Gate

BATCH = 256
ATTEMPTS = 20


class Procedure:
    """What is known of a procedure.

    Attributes:
        function: as it was registered.
        body: what to run: the function, or what logs its calls.
        transaction_class: what to run it with.
    """

    __slots__ = ("body", "function", "transaction_class")

    def __init__(
        self, function: Callable[..., Any], body: Callable[..., Any], transaction_class: type[Transaction]
    ) -> None:
        self.function = function
        self.body = body
        self.transaction_class = transaction_class


class Executor:
    """Runs the procedures of one database."""

    def __init__(self, database: Database) -> None:
        self._database = weakref.ref(database)
        self._by_name: dict[str, Procedure] = {}
        self._by_id: dict[int, Procedure] = {}
        self._queue: deque[tuple[Procedure, tuple[Any, ...], Future[Any]]] = deque()
        self._wanted = threading.Condition()
        self._thread: threading.Thread | None = None
        self._idle = True
        self.closed = False
        self.newest = 0  # LSN behind the newest commit of a batch

    def register(self, name: str, function: Callable[..., Any], logged: Logged | None) -> None:
        """Makes a function known by a name."""
        refuse_deferred(function)
        made = Procedure(function, logged or function, logged.transaction_class if logged else Transaction)
        if self._by_name.setdefault(name, made).function is not function:
            raise ValueError(
                f"There is a procedure {name!r} already; give this one another name: @db.procedure(name=...)."
            )
        self._by_id[id(function)] = made

    def find(self, name: str | Callable[..., Any]) -> Procedure:
        """Returns a procedure by its name or its function."""
        found = self._by_name.get(name) if isinstance(name, str) else self._by_id.get(id(name))
        if found is not None:
            return found
        if callable(name):
            raise KeyError(f"{name!r} is no procedure of this database; register it by @db.procedure")
        there = ", ".join(repr(other) for other in self._by_name) or "none"
        raise KeyError(f"no procedure named {name!r}; there are {there}")

    def submit(self, procedure: Procedure, args: tuple[Any, ...], gate: Gate | None) -> Future[Any]:
        """Queues a call, once hooks are not too far behind."""
        if gate is not None:
            gate.admit(self.newest)
        future: Future[Any] = Future()
        self._queue.append((procedure, args, future))
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
            procedure, args, future = self._queue.popleft()
            if future.set_running_or_notify_cancel():
                batch.run(procedure, args, future)
        batch.settle()
        self.newest = max(self.newest, batch.newest)

    def call(self, database: Database, procedure: Procedure, args: tuple[Any, ...]) -> Any:
        """Runs a procedure in the caller's thread where nobody else is inside one; else as one of a batch."""
        if not self._queue:
            try:
                value = database.run_procedure(procedure.transaction_class, procedure.body, args)
            except TransactionAborted:
                return run_alone(database, procedure, args)
            if value is not BUSY:
                return value
        return self.submit(procedure, args, database.commit_gate).result()

    def repeat(self, database: Database, call: Call) -> Any:
        """Makes a logged call again, in the caller's thread."""
        procedure = self.find(call.name)
        repeated = getattr(procedure.body, "repeated", None)
        if repeated is None:
            raise ValueError(f"Procedure {call.name!r} is not registered as logged here: @db.procedure(logged=True).")
        return run_alone(database, Procedure(procedure.function, repeated(call), procedure.transaction_class), ())


class Batch:
    """Procedures that share one sync."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.done: list[tuple[Future[Any], Any, BaseException | None]] = []
        self.logged: list[Transaction] = []
        self.failure: BaseException | None = None
        self.newest = self.passed = 0  # LSN behind its newest commit, and behind those that have passed the gate

    def run(self, procedure: Procedure, args: tuple[Any, ...], future: Future[Any]) -> None:
        """Runs one; its future is told in `settle`."""
        try:
            try:
                value = self.database.run_procedure(
                    procedure.transaction_class, procedure.body, args, True, self.logged
                )
            except TransactionAborted:
                # It would have had to wait for somebody, who may be waiting for a commit of this batch.
                self.complete()
                value = run_alone(self.database, procedure, args, self.logged)
            self.done.append((future, value, None))
        except BaseException as error:  # it is the caller's to see
            self.done.append((future, None, error))

    def complete(self) -> None:
        """Makes visible what is logged. The newest first: its sync covers the others, and so does its
        acknowledgement."""
        while self.logged:
            try:
                txn = self.logged.pop()
                txn.complete()
                self.newest = max(self.newest, txn.commit_lsn)
            except BaseException as error:
                self.failure = error
        gate = self.database.commit_gate
        if gate is not None and self.newest > self.passed:
            self.passed = self.newest
            try:
                gate.executed(self.newest)
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


def run_alone(
    database: Database, procedure: Procedure, args: tuple[Any, ...], logged: list[Transaction] | None = None
) -> Any:
    """Runs a procedure with all the waiting it takes; again where a cycle of waits had to be broken."""
    attempt = 1
    while True:
        try:
            return database.run_procedure(procedure.transaction_class, procedure.body, args, True, logged)
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
