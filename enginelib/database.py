"""An open database: the front door."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar, Unpack, overload

from enginelib import prepared
from enginelib._native.engine.door import CoreDatabase, save_slots
from enginelib.archive import Archiver
from enginelib.errors import Error, UsageError
from enginelib.hooks import BeforeHook, CommitHook, Gate, Watcher, watch
from enginelib.keyspace import Keyspace
from enginelib.locks import Lock, Wait, locks_of
from enginelib.mounts import network_file_system
from enginelib.options import Durability, Isolation, Options, seconds
from enginelib.report import VerifyReport
from enginelib.retry import RETRIES, Attempts, persist, run
from enginelib.serial import Executor
from enginelib.transaction import Transaction

if TYPE_CHECKING:
    from enginelib._native.engine.door import Change
    from enginelib.commands import Call
    from enginelib.options import BeginValues, DurabilityName, IsolationName, KeyspaceOptions, OptionValues
    from enginelib.prepared import Prepared
    from enginelib.replication.acknowledge import Acknowledged, Required
    from enginelib.replication.changes import Changes, Slot

R = TypeVar("R")
P = TypeVar("P", bound=Callable[..., Any])

logger = logging.getLogger("enginelib")
logger.addHandler(logging.NullHandler())

MEMORY = ":memory:"
SLOW = 1.0


def open(path: str | os.PathLike[str], **options: Unpack[OptionValues]) -> Database:
    """Opens a database, after recovering it if it was not closed.

    Args:
        path: its directory, which is made when absent; or ``":memory:"`` for one that lives in memory alone.
        options: see `Options`; the commonest are ``durability``, ``cache_size``, ``lock_timeout``,
            ``read_only``, ``create``.

    Returns:
        The database; close it, or use it in a ``with`` block.

    Raises:
        TypeError, ValueError: an option is unknown, of the wrong type or out of bounds.
        DatabaseLocked: it is open elsewhere, and stayed so for ``lock_timeout`` seconds.
        FileNotFoundError: there is no database, and ``create`` is false.
        StorageError: the directory cannot be used, or holds something else.
        NotSupported: it was made by a newer version.
        CorruptionError: what recovery needs is damaged.
    """
    return Database(path, **options)


class Database(CoreDatabase):
    """An open database; may be used from any thread. Made by `enginelib.open`.

    ``set_before(name, before)`` says which before-images a keyspace logs beside its changes from then on: ``"none"``,
    ``"key"`` or ``"full"``; see `KeyspaceOptions`.

    ``sync()`` makes all that is committed durable; ``stats()`` returns figures as a nested dict of plain
    values; ``drop_keyspace(name)`` and ``rename_keyspace(old, new)`` are transactions of their own.

    Attributes:
        path: the absolute path of the directory, or ``":memory:"``.
        options: the options it was opened with.
        closed: whether it has been closed.
        recovery: what opening had to do: ``records`` replayed, ``transactions`` among them, ``rolled_back``,
            ``prepared`` left in doubt, ``log_bytes`` read, whether it was ``created``, and ``seconds`` of each phase.
    """

    options: Options
    _owner = 0
    _archiver: Archiver | None = None

    if TYPE_CHECKING:
        recovery: dict[str, Any]

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        vfs: Any = None,
        background: bool = True,
        **options: Unpack[OptionValues],
    ) -> None:
        """Opens a database; see `enginelib.open`.

        Args:
            path: its directory, or ``":memory:"``.
            vfs: the file system of tests; None for the real one.
            background: whether checkpoints and lazy syncs happen by themselves, and whether recovery
                may use several processors.
            options: see `Options`.
        """
        self.options = Options.of(options)
        place = _place(path)
        if place != MEMORY and self.options.archive is not None:
            _outside("archive", str(self.options.archive), place)
        if place != MEMORY and vfs is None:
            _warn_of_network(place)
        with _timed("open", place):
            super().__init__(place, vfs=vfs, background=background, **self.options.for_core())
        self._owner = os.getpid()
        self._executor = Executor(self)
        if self.options.archive is not None:
            try:
                self._archiver = Archiver(self, str(self.options.archive))
            except BaseException:
                super().close()
                raise
        self.slots_in_use: set[str] = set()
        self.transaction_class = Transaction
        self.commit_hooks: list[CommitHook] = []
        self.before_hooks: tuple[BeforeHook, ...] = ()
        self.watcher: Watcher | None = None
        self.hook_lock = threading.RLock()
        self.followers: dict[str, Acknowledged] = {}
        self.required: Required | None = None
        self.commit_gate: Gate | None = None
        self.known_end = 0  # of the log, at least: see acknowledge
        self.outcomes_keyspace: Any = None
        self.warned_of: set[str] = set()
        self.warn_again = 0.0
        _open_databases.add(self)
        replayed = self.recovery
        if replayed["records"] or replayed["rolled_back"]:
            logger.info(
                "%s: recovered: %d log records replayed, %d transactions committed, %d rolled back",
                place,
                replayed["records"],
                replayed["transactions"],
                replayed["rolled_back"],
            )
        prepared.warn_of_age(self)

    # ---- keyspaces

    def keyspace(
        self, name: str, backend: str = "btree", create: bool = True, **options: Unpack[KeyspaceOptions]
    ) -> Keyspace:
        """Returns a keyspace, making it if it is absent.

        Args:
            name: its name.
            backend: the kind of tree to make it as: ``"btree"``, or ``"lsm"`` for write-heavy data and data far
                larger than memory. A keyspace that exists keeps its own.
            create: whether to make it when absent; a read-only database never does.
            options: see `KeyspaceOptions`; fixed when it is made, but for `before`: see `set_before`.

        Raises:
            KeyError: it is absent and not to be made.
            ValueError: the name is not fit: it takes 1 to 255 bytes in UTF-8.
            NotSupported: this version does not have the backend, or this build not the compression.
        """
        if not isinstance(name, str):
            raise TypeError(f"A keyspace's name must be str, not {type(name).__name__}.")
        make = create and not self.read_only
        try:
            found: Keyspace = persist(lambda: self.core_keyspace(Keyspace, name, make, backend, dict(options)))
        except KeyError:
            names = ", ".join(repr(other) for other in self.keyspaces())
            there = f"there are {names}" if names else "there is none"
            raise KeyError(f"no keyspace named {name!r}; {there}") from None
        return found

    def keyspaces(self) -> list[str]:
        """Returns the names of all keyspaces, in order."""
        return sorted(row[0] for row in self.keyspace_rows())

    def __getitem__(self, name: str) -> Keyspace:
        """Returns a keyspace that exists, by its name; ``KeyError`` when it does not."""
        return self.keyspace(name, create=False)

    def __contains__(self, name: object) -> bool:
        return name in self.keyspaces()

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names of the keyspaces, in order."""
        return iter(self.keyspaces())

    # ---- transactions

    def transaction(
        self,
        *,
        isolation: IsolationName = "snapshot",
        read_only: bool = False,
        durability: DurabilityName | None = None,
        lock_timeout: float | None = None,
        deferrable: bool = False,
    ) -> Transaction:
        """Begins a transaction: commits at the end of its ``with`` block, aborts when an exception leaves it.

        Args:
            isolation: what it may see of others, and they of it; see `Isolation`.
            read_only: refuses writes; except under ``"locking"`` and ``"serial"`` it takes no lock, and neither
                blocks nor is blocked.
            durability: when its commit returns; None for the database's.
            lock_timeout: longest wait for a lock, in seconds; None for the database's. A ``"serial"``
                transaction waits here for those that write.
            deferrable: with ``isolation="serializable", read_only=True``: waits until a snapshot is had with
                which nothing can go wrong; such a transaction is never aborted, and remembers nothing.

        Raises:
            ValueError: there is no such isolation level; or `deferrable` is asked of another.
            LockTimeout, DeadlockDetected: a ``"serial"`` transaction did not get its place.
        """
        if isolation == "snapshot" and durability is None and lock_timeout is None and not deferrable:
            plain: Transaction = self.core_transaction(Transaction, read_only)
            return plain
        level = Isolation.of(isolation)
        if deferrable and (level is not Isolation.SERIALIZABLE or not read_only):
            raise ValueError(
                f"deferrable=True belongs to isolation='serializable' with read_only=True, not to {level.value!r} with "
                f"read_only={read_only}; leave it out."
            )
        txn: Transaction = self.core_transaction(
            Transaction,
            read_only,
            -1 if durability is None else Durability.of(durability).level,
            -1.0 if lock_timeout is None else seconds("lock_timeout", lock_timeout),
            level.level,
            deferrable,
        )
        return txn

    def run(self, function: Callable[..., R], /, *args: Any, retries: int = RETRIES, **begin: Unpack[BeginValues]) -> R:
        """Calls ``function(txn, *args)`` in a transaction, and again with back-off while a retry can help.

        Args:
            function: what to do; it may be called more than once, so it should have no other lasting effect.
            args: passed on after the transaction.
            retries: how often to try again after the first attempt.
            begin: arguments of `transaction`.

        Returns:
            What the function returned in the attempt that committed.

        Raises:
            TypeError: the function is a generator or coroutine function.
            Error: the last attempt's error, with a note of how many there were; or at once, one that a retry
                cannot cure.
        """
        return run(self, function, *args, retries=retries, **begin)

    def attempts(self, retries: int = RETRIES, **begin: Unpack[BeginValues]) -> Attempts:
        """Returns a loop over attempts, for blocks that are no function: ``for attempt in db.attempts(): with
        attempt as txn: ...``

        The block is tried until it commits. Let it run to its end: a ``return`` or ``break`` inside it
        commits as well, but leaves nothing to try again with.

        Args:
            retries: how often to try again after the first attempt.
            begin: arguments of `transaction`.
        """
        return Attempts(self, retries, **begin)

    # ---- serial execution

    @overload
    def procedure(self, function: P) -> P: ...
    @overload
    def procedure(
        self, function: None = None, *, name: str | None = None, logged: bool = False, checked: bool = False
    ) -> Callable[[P], P]: ...
    def procedure(
        self, function: Any = None, *, name: str | None = None, logged: bool = False, checked: bool = False
    ) -> Any:
        """Registers a function ``(txn, *args)`` for serial execution; a decorator.

        Args:
            function: what to run; it may run more than once, and should have no other lasting effect. It leaves the
                transaction open: that is committed when it returns, aborted when it raises.
            name: what `submit` and `call` know it by; None for the function's own name.
            logged: its calls are logged beside their changes, so that they can be repeated: see `repeat`. The
                function may then depend on nothing but the database, its arguments, ``txn.now()`` and
                ``txn.random()``. The arguments go through MessagePack first: a tuple arrives as a list. Needs
                ``enginelib[replication]``.
            checked: runs a logged procedure twice, and fails it where the second run does something else.

        Returns:
            The function as it is.

        Raises:
            TypeError: it is a generator or coroutine function.
            ValueError: the name is taken by another; or it is to be checked and not logged.
            ImportError: `logged` needs a package that is not installed.
        """
        if checked and not logged:
            raise ValueError("checked=True belongs to logged=True: only what is logged is repeated.")
        if function is None:
            return lambda function: self._register(function, name or function.__name__, logged, checked)
        return self._register(function, name or function.__name__, logged, checked)

    def _register(self, function: Any, name: str, logged: bool, checked: bool) -> Any:
        if logged:
            from enginelib.commands import Logged

            self._executor.register(name, function, Logged(name, function, checked))
        else:
            self._executor.register(name, function, None)
        return function

    def submit(self, name: str | Callable[..., R], /, *args: Any) -> Future[R]:
        """Queues a call of a procedure; all of them run one after another, in the order of their submission.

        Args:
            name: of the procedure, or its function.
            args: passed on after the transaction.

        Returns:
            A future of what it returns or raises, which is resolved when the commit is as durable as the database's
            commits are; those of one batch share a sync.

        Raises:
            KeyError: there is no such procedure.
        """
        self.alive()
        executor = self._executor
        return executor.submit(executor.find(name), args, self.commit_gate)

    def call(self, name: str | Callable[..., R], /, *args: Any) -> R:
        """Runs a procedure and returns what it returns; as `submit`, and waits."""
        executor = self._executor
        result: R = executor.call(self, executor.find(name), args)
        return result

    def repeat(self, call: Call) -> Any:
        """Makes a logged call again, as it was: the same arguments, time and random numbers.

        On a database that is as the other was before the call, it changes the same and returns the same.

        Args:
            call: from the log.

        Raises:
            KeyError: there is no such procedure.
            ValueError: it is not registered as logged.
        """
        return self._executor.repeat(self, call)

    # ---- the log, outward

    def changes(
        self,
        *,
        since: int | None = None,
        slot: str | None = None,
        keyspaces: Iterable[str] | None = None,
        follow: bool = False,
        memory: int = 64 * 1024 * 1024,
        include_before: Literal["none", "key", "full"] = "none",
        prepared: bool = False,
    ) -> Changes:
        """Returns a stream of committed transactions, in commit order, decoded from the log.

        It yields what is synced; what is committed and not synced yet, it syncs first. While it is open the log is kept
        from where it stands.

        Args:
            since: the `Change.lsn` to read on from; None for all that the log holds.
            slot: the slot to read for, from where it stands; one stream at a time.
            keyspaces: names of the keyspaces that are of interest; None for all.
            follow: wait for more when there is no more, until the stream or the database is closed.
            memory: bytes that the changes of transactions may take which have not ended yet; a transaction past
                that is read from the log again when it has committed.
            include_before: what each operation is to tell of its key before: nothing, ``"key"``: `Operation.existed`,
                or ``"full"``: `Operation.before` too. The keyspace must have logged that: see `set_before`.
            prepared: also yield, where they stand in the log, what was prepared (`Change.event` ``"prepare"``, with
                what it would do in keyspaces that exist) and what of that was rolled back (``"rollback"``). A commit
                is yielded as ever, whole.

        Returns:
            An iterator of `enginelib.replication.Change`; close it, or use it in a ``with`` block.

        Raises:
            ChangesGone: the log does not go back so far, or the slot is lost.
            KeyError: there is no such slot.
            UsageError: the slot is being read; in the stream: a keyspace has not logged the before-images asked for.
        """
        from enginelib.replication.changes import Changes

        return Changes(
            self,
            since=since,
            slot=slot,
            keyspaces=keyspaces,
            follow=follow,
            memory=memory,
            include_before=include_before,
            prepared=prepared,
        )

    def create_slot(self, name: str, *, since: int | None = None, max_lag_bytes: int = 1 << 30) -> Slot:
        """Makes a named reader of the log that outlasts the process: the log is kept from where it stands.

        Args:
            name: 1 to 255 bytes in UTF-8.
            since: the `Change.lsn` it begins behind; None for everything that commits from now on.
            max_lag_bytes: past so much log kept for it the slot is lost, so that a forgotten one never fills the disk.

        Raises:
            ValueError: there is a slot of that name.
            ChangesGone: the log does not go back to `since`.
            LockTimeout: a transaction in flight began before the log that is there, and did not end.
        """
        from enginelib.replication.changes import create_slot

        return create_slot(self, name, since, max_lag_bytes)

    def drop_slot(self, name: str) -> None:
        """Forgets a slot; the log that was kept for it alone goes at the next checkpoint.

        Raises:
            KeyError: there is none.
            UsageError: it is being read.
        """
        from enginelib.replication.changes import remove_slot

        remove_slot(self, name)

    def slots(self) -> list[Slot]:
        """Returns every slot as it stands, by name."""
        from enginelib.replication.changes import all_slots

        return all_slots(self)

    # ---- hooks

    def on_commit(self, callback: Callable[[Change], Any], *, max_lag_bytes: int = 64 << 20) -> CommitHook:
        """Calls back for every transaction that commits from now on, in commit order, once it is durable.

        The callback runs in a thread of the hook's own, off the writers' path. One that falls further behind than the
        bound slows the writers: a commit returns once it has caught up. What it raises is logged and counted, and harms
        no transaction; its own commits do not wait for hooks, nor do procedures, but whoever submits them. Closing the
        database tells it of all that has been committed.

        Args:
            callback: called with an `enginelib.replication.Change`.
            max_lag_bytes: of log that it may be behind.

        Returns:
            The hook: close it, or use it in a ``with`` block.
        """
        self.alive()
        return CommitHook(self, callback, max_lag_bytes)

    def watch(self, keyspace: Keyspace, key: Any = None, *, prefix: Any = None) -> Future[Change]:
        """Returns a future of the first commit after this call that changes a key.

        Args:
            keyspace: where.
            key: the key; or
            prefix: any key that begins with it. Neither: any key of the keyspace.

        Returns:
            A future, resolved with the `enginelib.replication.Change` once that is durable; also by a deletion of a
            range that the key lies in, and when the keyspace is dropped or renamed. Of a transaction larger than memory
            the change has only the operations that touch what is watched. Cancelled when the database closes.
        """
        self.alive()
        return watch(self, keyspace, key, prefix)

    def before_commit(self, callback: Callable[[Transaction], Any]) -> BeforeHook:
        """Calls back before every commit (or prepare) of a transaction that has changed something, in its thread.

        A bulk load (``ingest`` into an LSM keyspace) is refused while there is such a hook. What a hook commits in
        other transactions asks no hooks.

        Args:
            callback: called with the transaction, which it may read and change further. What it raises aborts the
                transaction, and is raised by the commit: a veto.

        Returns:
            The hook: close it, or use it in a ``with`` block.
        """
        self.alive()
        return BeforeHook(self, callback)

    # ---- acknowledgements

    def require_acknowledgements(
        self,
        followers: int,
        *,
        mode: Literal["received", "applied"] = "applied",
        timeout: float | None = None,
        on_timeout: Literal["raise", "continue"] = "raise",
    ) -> None:
        """Makes commits wait, once they are durable here, until followers have told of them.

        Args:
            followers: how many; 0: commits do not wait (asynchronous, as at first).
            mode: ``"received"``: they have the change (semi-synchronous); ``"applied"``: it is committed there
                (synchronous).
            timeout: longest wait, in seconds; None for as long as it takes.
            on_timeout: ``"raise"``: `AcknowledgementTimeout`, though the commit stands here (also where the database is
                closed meanwhile); ``"continue"``: this and later commits do not wait until so many followers have
                caught up with this one.
        """
        from enginelib.replication.acknowledge import require

        self.alive()
        require(self, followers, mode, timeout, on_timeout)

    def acknowledge(self, follower: str, *, received: int | None = None, applied: int | None = None) -> None:
        """Tells how far a follower is; called by whatever carries changes to it. A `Follower` of this process does so
        by itself.

        Args:
            follower: its name.
            received: the `Change.lsn` up to which it has the changes, durably.
            applied: the `Change.lsn` up to which they are committed there, durably.

        Raises:
            ValueError: the LSN lies beyond the end of the log.
        """
        from enginelib.replication.acknowledge import acknowledge

        acknowledge(self, follower, received, applied)

    # ---- two-phase commit

    def commit_prepared(self, xid: str, *, heuristic: bool = False) -> None:
        """Commits a prepared transaction, durably; once it has, does nothing.

        Args:
            xid: what it was prepared as.
            heuristic: whether this is decided by hand, without its coordinator; that is kept, and reported by
                `outcome`.

        Raises:
            NotPrepared: nothing is prepared under that xid, nor was committed.
            HeuristicOutcome: it was rolled back by hand.
            OutcomeUnknown: the log failed; after the next opening it may be committed or prepared.
        """
        prepared.commit(self, xid, heuristic)

    def rollback_prepared(self, xid: str, *, heuristic: bool = False) -> None:
        """Rolls back a prepared transaction, durably; does nothing when nothing is prepared under that xid (presumed
        abort).

        Args:
            xid: what it was prepared as.
            heuristic: as for `commit_prepared`.

        Raises:
            NotPrepared: it has committed.
            HeuristicOutcome: it was committed by hand.
        """
        prepared.rollback(self, xid, heuristic)

    def prepared(self) -> list[Prepared]:
        """Returns the transactions in doubt, oldest first."""
        return prepared.prepared(self)

    def outcome(self, xid: str) -> str | None:
        """Tells what became of a prepared transaction.

        Returns:
            ``"prepared"``: it is in doubt still. ``"committed"``, ``"heuristically_committed"`` or
            ``"heuristically_rolled_back"``: by hand. None: it was rolled back, is forgotten, or was never prepared.
        """
        return prepared.outcome(self, xid)

    def outcomes(self) -> list[tuple[str, str, float]]:
        """Returns (xid, outcome, when it was prepared or decided by hand) of all that are kept; in seconds since
        1970."""
        return prepared.outcomes(self)

    def forget(self, xid: str, *, durability: Durability | DurabilityName = "sync") -> None:
        """Drops the outcome of a transaction that has ended; its xid may be used again.

        A coordinator calls it once it will not ask any more; outcomes are kept until then. Does nothing when none is.

        Args:
            xid: what it was prepared as.
            durability: when this returns: a crash may bring back what was forgotten by less than ``"sync"``.

        Raises:
            UsageError: it is still prepared.
        """
        prepared.forget(self, xid, durability)

    # ---- locks

    def locks(self, limit: int = 100_000) -> list[Lock]:
        """Returns the locks held and waited for at this moment, remembered reads (mode ``"read"``) among them.

        Args:
            limit: how many of them at most, before the intention locks that they amount to.
        """
        return locks_of(self.lock_rows(limit), self._names_by_id())

    def waits_for(self) -> list[Wait]:
        """Returns who waits for whom at this moment: the edges of the waits-for graph."""
        rows = self.wait_rows()
        names = self._names_by_id() if rows else {}
        return [
            Wait(waiter, holder, names.get(keyspace), mode, kind, start, stop, seconds)
            for waiter, holder, keyspace, mode, kind, start, stop, seconds in rows
        ]

    def _names_by_id(self) -> dict[int | None, str]:
        return {number: name for name, number, _ in self.keyspace_rows()}

    # ---- upkeep

    def checkpoint(self) -> None:
        """Writes a durable image of the present state, so that recovery starts from here and older log can
        go."""
        with _timed("checkpoint", self.path):
            super().checkpoint()

    def backup(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Copies the database, as of one moment, to another directory, while others read and write.

        Args:
            path: the directory to make; it must be absent or empty.

        Returns:
            What was copied, as plain values.

        Raises:
            ValueError: the directory is that of the database, or inside it.
            FileExistsError: it is there and not empty, or no directory.
            StorageError: it cannot be written.
            ReadOnlyError: the database was opened read-only.
        """
        target = _place(path)
        _outside("backup", target, self.path)
        with _timed("backup", self.path):
            return super().backup(target)

    def archive_now(self) -> int:
        """Archives everything that has been committed so far, in the directory that `archive` named.

        Returns:
            The LSN up to which the log is archived.

        Raises:
            UsageError: the database was opened without `archive`.
            StorageError: the archive cannot be written; it is tried again by and by.
        """
        self.alive()
        if self._archiver is None:
            raise UsageError("There is no archive: name a directory, enginelib.open(path, archive=directory).")
        self.sync()
        return self._archiver.now()

    def stats(self) -> dict[str, Any]:
        """Returns figures as a nested dict of plain values; ``"archive"`` is among them where there is one."""
        figures = super().stats()
        figures["hooks"] = {
            "on_commit": len(self.commit_hooks),
            "calls": sum(hook.calls for hook in self.commit_hooks),
            "failures": sum(hook.failures for hook in self.commit_hooks),
            "commits_that_waited": 0 if self.commit_gate is None else self.commit_gate.waits,
            "seconds_waited": 0.0 if self.commit_gate is None else self.commit_gate.seconds,
        }
        figures["followers"] = {
            name: {"received": f.received, "applied": f.applied, "when": f.when} for name, f in self.followers.items()
        }
        figures["acknowledgement_timeouts"] = 0 if self.required is None else self.required.timeouts
        if self._archiver is not None:
            figures["archive"] = self._archiver.stats(figures["log"]["synced_lsn"])
        return figures

    def verify(self, progress: Callable[[str], None] | None = None) -> VerifyReport:  # type: ignore[override]
        """Checks everything that can be checked: every page, its sums and order, the log, and how they agree.

        Args:
            progress: called now and then with a line of text.

        Returns:
            The report; ``report.ok`` is the verdict, and ``str(report)`` is readable.
        """
        began = time.monotonic()
        findings, counts = super().verify(progress)
        report = VerifyReport(findings, counts, time.monotonic() - began)
        if not report.ok:
            logger.error("%s: verify: %s", self.path, report)
        return report

    def close(self) -> None:
        """Waits for operations under way, makes a checkpoint, and releases everything. Closing twice does
        nothing.

        Transactions that are still open are aborted, and whatever belongs to the database raises
        `DatabaseClosed` from then on. In a forked child this does nothing: the database is the parent's.
        """
        if self.closed or self._owner != os.getpid():
            return
        if self.commit_gate is not None:
            self.commit_gate.close()
        self._executor.close()
        for hook in list(self.commit_hooks):
            hook.finish()
        if self.watcher is not None:
            self.watcher.close()
        with suppress(Error):
            failures = self.stats()["checkpoint"]["background_failures"]
            if failures:
                logger.warning("%s: %d checkpoints failed in the background", self.path, failures)
        with _timed("close", self.path):
            with suppress(Error):  # then a slot stands further back
                save_slots(self.engine)
            if self._archiver is not None:
                self._archiver.stop()
            super().close()
        _open_databases.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._owner != os.getpid() or self.closed:
            return
        warnings.warn(
            f"{self!r} was never closed; use a with block, or close().",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )
        _close_quietly(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A Database cannot be pickled: it is open in this process. Send db.path and db.options.as_dict() "
            "and open it where it is needed: enginelib.open(path, **options)."
        )

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open read-only" if self.read_only else "open"
        return f"<enginelib.Database {self.path!r} {state}>"


def _place(path: str | os.PathLike[str]) -> str:
    """Returns the absolute path of a database as text; ``":memory:"`` as it is."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(
            f"A path must be str or os.PathLike[str], not {type(text).__name__}; decode it by os.fsdecode()."
        )
    if not text:
        raise ValueError("The path is empty; give the directory of the database, or ':memory:'.")
    return text if text == MEMORY else os.path.abspath(text)


def _outside(what: str, target: str, place: str) -> None:
    """Raises where a directory would lie inside a database's."""
    inside = os.path.realpath(place)
    if os.path.commonpath((os.path.realpath(target), inside)) == inside:
        raise ValueError(f"The {what} {target} would lie inside the database {place}; choose another place.")


def _warn_of_network(place: str) -> None:
    kind = network_file_system(place)
    if kind is not None:
        warnings.warn(
            f"{place} lies on a network file system ({kind}), whose locks and syncs cannot be relied on; "
            "use a local disk.",
            RuntimeWarning,
            stacklevel=4,
        )


@contextmanager
def _timed(what: str, place: str) -> Iterator[None]:
    """Logs how long something took: a warning when slow, an error when it failed."""
    began = time.monotonic()
    try:
        yield
    except Error as error:
        logger.error("%s: %s failed: %s", place, what, error)
        raise
    took = time.monotonic() - began
    logger.log(logging.WARNING if took >= SLOW else logging.DEBUG, "%s: %s took %.3f s", place, what, took)


def _close_quietly(database: Database) -> None:
    """Closes where no caller could be told of a failure; it is logged instead."""
    try:
        database.close()
    except Exception:
        logger.exception("%s: close failed", database.path)


_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()
os.register_at_fork(after_in_child=_open_databases.clear)


@atexit.register
def _close_all() -> None:
    for database in list(_open_databases):
        _close_quietly(database)
