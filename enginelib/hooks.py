"""Hooks: what is called with commits, before them and after.

Data flow: a `CommitHook` has a thread of its own that reads the change stream from where the log stood when the hook
was made, and calls back for each change: after durability, in commit order, off the writers' path. A `Watcher` is one
such thread for all futures of `Database.watch`. `Gate` is what every commit passes once it is done, where there is a
reason to: it keeps a writer waiting while a hook is too far behind (back-pressure), and until enough followers have
acknowledged (`enginelib.replication.acknowledge`). Without hooks a commit pays for a comparison with None.

Invariants: a hook that raises harms nobody: it is logged, counted, and goes on with the next change. A hook's own
commits never wait for hooks. What `before_commit` calls raises into the committing thread, whose transaction is then
aborted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from enginelib._native.engine.door import Change, oldest_running
from enginelib.errors import ChangesGone, DatabaseClosed, Error

if TYPE_CHECKING:
    from enginelib._native.engine.door import Operation
    from enginelib.database import Database
    from enginelib.keyspace import Keyspace
    from enginelib.transaction import Transaction

logger = logging.getLogger("enginelib")

MAX_LAG = 64 << 20
SLICE = 0.05
WAIT = 3600.0


class Holder(Protocol):
    """Something that may keep a committing thread waiting, or call `Gate.moved` when it may go on."""

    def must_wait(self, lsn: int, waited: float) -> bool:
        """Whether a commit whose record ends at that LSN has to wait, which has done so for so many seconds."""

    def given_up(self, lsn: int) -> None:
        """The database closes before it need not wait any more: raises where the committing thread is to know."""


class Gate:
    """What a commit passes when it is done: called with the LSN behind its record."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._moved = threading.Condition()
        self._holders: list[Holder] = []
        self.hook_threads: set[int] = set()  # their identifiers
        self.closing = False
        self.waits = 0
        self.seconds = 0.0

    def add(self, holder: Holder) -> None:
        """From now on commits ask it."""
        with self._moved:
            self._holders = [*self._holders, holder]
            self._database.after_commit_hook = self

    def remove(self, holder: Holder) -> None:
        """It is asked no more; who waits for it goes on."""
        with self._moved:
            self._holders = [each for each in self._holders if each is not holder]
            if not self._holders:
                self._database.after_commit_hook = None
            self._moved.notify_all()

    def moved(self) -> None:
        """Something has happened that a waiting commit may have waited for."""
        with self._moved:
            self._moved.notify_all()

    def __call__(self, lsn: int) -> None:
        """Keeps the caller as long as one of the holders says so; what a holder raises is the caller's."""
        self._hold(lsn, lambda: self._holders)

    def executed(self, lsn: int) -> None:
        """As a call, of the executor of procedures: it does not wait for hooks, which may be waiting for it."""
        self._hold(lsn, lambda: [each for each in self._holders if not isinstance(each, CommitHook)])

    def admit(self, lsn: int) -> None:
        """Who has the executor do something waits for hooks in its place."""
        self._hold(lsn, lambda: [each for each in self._holders if isinstance(each, CommitHook)])

    def close(self) -> None:
        """The database is about to be closed: nobody waits any more."""
        with self._moved:
            self.closing = True
            self._moved.notify_all()

    def _hold(self, lsn: int, holders: Callable[[], list[Holder]]) -> None:
        if not [each for each in holders() if each.must_wait(lsn, 0.0)]:
            return
        began = time.monotonic()
        self.waits += 1
        try:
            with self._moved:
                while left := [each for each in holders() if each.must_wait(lsn, time.monotonic() - began)]:
                    if self.closing or self._database.closed:
                        for each in left:
                            each.given_up(lsn)
                        break
                    self._moved.wait(SLICE)
        finally:
            self.seconds += time.monotonic() - began


def gate_of(database: Database) -> Gate:
    """Returns the database's gate, making it at first."""
    if database.commit_gate is None:
        database.commit_gate = Gate(database)
    return database.commit_gate


class Reader:
    """A thread that reads the changes from where the log stands now."""

    name = "enginelib-hook"

    def __init__(self, database: Database) -> None:
        from enginelib.replication.changes import from_now

        self.database = database
        self.stream = from_now(database)
        self.done = self.stream.position
        self.closing = False
        self._last: int | None = None  # it ends once all up to here is done
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def begin(self) -> None:
        """Starts the thread."""
        self.thread.start()

    def _run(self) -> None:
        gate = gate_of(self.database)
        ident = threading.get_ident()
        gate.hook_threads.add(ident)
        missed = -1
        try:
            while not self.closing and not self.database.closed and (self._last is None or self.done < self._last):
                try:
                    change = self.stream.next(WAIT)
                except ChangesGone as error:  # of one commit: what follows can be read
                    if self.done == missed:
                        raise
                    missed = self.done
                    logger.error("%s: a hook misses a commit: %s", self.database.path, error)
                    continue
                if change is not None and not self.closing:
                    self.take(change)
                self.done = self.stream.position
                gate.moved()
                if change is None and self._last is not None:
                    break
        except DatabaseClosed:
            pass
        except Error as error:
            logger.error("%s: a hook has ended: %s", self.database.path, error)
        finally:
            gate.hook_threads.discard(ident)
            self.stream.close()
            self.ended()

    def take(self, change: Change) -> None:
        """Does what is to be done with a change."""
        raise AssertionError(f"{type(self).__name__} takes no changes")

    def ended(self) -> None:
        """The thread is about to end."""

    def finish(self) -> None:
        """Ends the thread once it has done all that has been committed so far; at once where it is called from it."""
        if threading.current_thread() is self.thread:
            self.cancel()
            return
        self._last = oldest_running(self.database)[1]
        self.stream.wake()
        if threading.get_ident() not in gate_of(self.database).hook_threads:
            self.thread.join()

    def cancel(self) -> None:
        """Tells the thread to end."""
        self.closing = True
        self.stream.close()

    def close(self) -> None:
        """Ends the thread, and waits until it has."""
        self.cancel()
        # A hook's thread waits for no other: that one may be waiting for it.
        if threading.get_ident() not in gate_of(self.database).hook_threads and self.thread.is_alive():
            self.thread.join()


class CommitHook(Reader):
    """A hook of `Database.on_commit`; close it, or use it in a ``with`` block.

    Attributes:
        calls: how often it has called back.
        failures: how often that raised.
    """

    def __init__(self, database: Database, callback: Callable[[Change], Any], max_lag_bytes: int) -> None:
        """See `Database.on_commit`."""
        if max_lag_bytes < 1:
            raise ValueError(f"max_lag_bytes={max_lag_bytes} must be positive.")
        super().__init__(database)
        self._callback = callback
        self._max_lag = max_lag_bytes
        self.calls = 0
        self.failures = 0
        database.commit_hooks.append(self)
        gate_of(database).add(self)
        self.begin()

    @property
    def position(self) -> int:
        """The LSN up to which it has been called."""
        return self.done

    def must_wait(self, lsn: int, waited: float) -> bool:
        """Whether it is too far behind."""
        behind = lsn - self.done > self._max_lag and not self.closing
        return behind and threading.get_ident() not in gate_of(self.database).hook_threads

    def given_up(self, lsn: int) -> None:
        """It is told before the database is closed: nobody needs to know."""

    def take(self, change: Change) -> None:
        """Calls back."""
        self.calls += 1
        try:
            self._callback(change)
        except BaseException:  # SystemExit too: it is the hook's own affair
            self.failures += 1
            logger.exception("%s: a commit hook failed at LSN %d", self.database.path, change.lsn)

    def ended(self) -> None:
        """Nobody waits for it any more."""
        gate_of(self.database).remove(self)
        with suppress(ValueError):
            self.database.commit_hooks.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Watch:
    """A future, and what it waits for."""

    __slots__ = ("future", "keyspace", "since", "start", "stop")

    def __init__(self, keyspace: str, start: bytes, stop: bytes | None, since: int) -> None:
        self.keyspace = keyspace
        self.start = start
        self.stop = stop  # None: to the end
        self.since = since
        self.future: Future[Change] = Future()

    def touched_by(self, o: Operation) -> bool:
        """Whether the operation changes a key of the range, or what becomes of the keyspace."""
        if o.keyspace != self.keyspace:
            return False
        if o.key is None or o.op == "create_keyspace":
            return True
        if o.op == "delete_range":
            return (o.value is None or self.start < o.value) and (self.stop is None or o.key < self.stop)
        return self.start <= o.key and (self.stop is None or o.key < self.stop)


class Watcher(Reader):
    """The thread behind `Database.watch`; it ends with the last of the futures."""

    name = "enginelib-watch"

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._lock = threading.Lock()
        self._watches: list[Watch] = []
        self._over = False

    def add(self, watch: Watch) -> bool:
        """Takes one on; False where the thread is about to end."""
        with self._lock:
            if self._over:
                return False
            self._watches.append(watch)
            return True

    def take(self, change: Change) -> None:
        """Resolves what the change touches."""
        with self._lock:
            waiting = [w for w in self._watches if not w.future.done()]
        hit = [
            w
            for w in waiting
            if change.lsn > w.since and any(w.touched_by(operation) for operation in change.operations)
        ]
        for watch in hit:
            if watch.future.set_running_or_notify_cancel():
                watch.future.set_result(_lasting(change, watch))
        with self._lock:
            self._watches = [w for w in self._watches if not w.future.done()]
            self._over = self.closing = not self._watches

    def ended(self) -> None:
        """What is left will never be told."""
        with self._lock:
            self._over = True
            left, self._watches = self._watches, []
        for watch in left:
            watch.future.cancel()


class BeforeHook:
    """A hook of `Database.before_commit`; close it, or use it in a ``with`` block."""

    def __init__(self, database: Database, callback: Callable[[Transaction], Any]) -> None:
        """See `Database.before_commit`."""
        self._database = database
        self.callback = callback
        with database.hook_lock:
            database.before_hooks = (*database.before_hooks, self)
            database.before_commit_hook = ask_before_hooks

    def close(self) -> None:
        """It is called no more."""
        database = self._database
        with database.hook_lock:
            database.before_hooks = tuple(each for each in database.before_hooks if each is not self)
            if not database.before_hooks:
                database.before_commit_hook = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_inside = threading.local()


def ask_before_hooks(txn: Transaction) -> None:
    """Calls the hooks of `Database.before_commit`, in the order they were made; none for what one of them commits
    elsewhere, which would go round and round."""
    if getattr(_inside, "hook", False):
        return
    _inside.hook = True
    try:
        for hook in txn.database.before_hooks:
            hook.callback(txn)
    finally:
        _inside.hook = False


def _lasting(change: Change, watch: Watch) -> Change:
    """The change; of a very large one, whose operations are there while the stream stands at it, with those alone that
    touch what is watched."""
    if isinstance(change.operations, list):
        return change
    touching = [o for o in change.operations if watch.touched_by(o)]
    fields = list(change.__reduce__()[1])
    fields[7] = touching
    return Change(*fields)


def watch(database: Database, keyspace: Keyspace, key: Any, prefix: Any) -> Future[Change]:
    """See `Database.watch`."""
    from enginelib.predicates import after_prefix

    if key is not None and prefix is not None:
        raise ValueError("watch takes a key or a prefix, not both.")
    if key is not None:
        start = bytes(memoryview(key))
        stop: bytes | None = start + b"\0"
    else:
        start = b"" if prefix is None else bytes(memoryview(prefix))
        stop = after_prefix(start)
    made = Watch(keyspace.name, start, stop, 0)
    with database.hook_lock:
        while True:
            watcher = database.watcher
            fresh = watcher is None or not watcher.thread.is_alive()
            if fresh or watcher is None:
                watcher = database.watcher = Watcher(database)
            made.since = oldest_running(database)[1]
            if watcher.add(made):
                if fresh:
                    watcher.begin()
                return made.future
            watcher.cancel()
