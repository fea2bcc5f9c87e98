"""Change streams and slots: committed transactions, in commit order, as the log has them.

Data flow: `ChangeReader` (core) decodes the synced log into transactions; `Changes` makes `Change` objects of them,
waits for more, and lets the log go as it is read. Where it reads for a slot, it remembers for each change what log is
needed once that is acknowledged, and the slot is moved when it is.

Invariants: what is yielded is synced, so it cannot be taken back by a crash. Every committed transaction is yielded
whole, once, in commit order; after a crash again those that were not acknowledged. A stream never skips silently:
where the log is gone, `ChangesGone` says so.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from enginelib._native.engine.door import (
    Change,
    ChangeReader,
    add_slot,
    drop_slot,
    move_slot,
    oldest_running,
    slot_rows,
)
from enginelib.errors import ChangesGone, DatabaseClosed, LockTimeout, ReadOnlyError, UsageError

if TYPE_CHECKING:
    from enginelib.database import Database

MIB = 1024 * 1024
GATHERED = 64 * MIB
BEFORE = ("none", "key", "full")
WAIT = 3600.0
OFTEN = 1000
MOST_UNACKNOWLEDGED = 100_000


class Changes:
    """A stream of changes; from `Database.changes`. Iterate over it, by one thread at a time, and close it."""

    _slot: str | None

    def __init__(
        self,
        database: Database,
        *,
        since: int | None = None,
        slot: str | None = None,
        keyspaces: Iterable[str] | None = None,
        follow: bool = False,
        memory: int = GATHERED,
        include_before: str = "none",
        prepared: bool = False,
    ) -> None:
        """See `Database.changes`."""
        if include_before not in BEFORE:
            raise ValueError(f"include_before must be one of {BEFORE}, not {include_before!r}.")
        if isinstance(keyspaces, str):
            raise TypeError("keyspaces takes names, not one name: [name].")
        if slot is not None and since is not None:
            raise ValueError("A slot knows where it stands: leave since out.")
        if follow and database.read_only:
            raise ReadOnlyError("A database that was opened read-only stands still: there is nothing to follow.")
        self._begin(database, follow)
        wanted = None if keyspaces is None else frozenset(keyspaces)
        if slot is None:
            self._reader = ChangeReader(database, since, None, wanted, memory, False, include_before, prepared=prepared)
            return
        row = slot_rows(database).get(slot)
        if row is None:
            raise KeyError(f"no slot named {slot!r}; there are {', '.join(map(repr, slot_rows(database))) or 'none'}")
        if row.lost:
            raise ChangesGone(f"Slot {slot!r} fell behind by more than its {row.max_lag} bytes, and the log went on.")
        if slot in database.slots_in_use:
            raise UsageError(f"Slot {slot!r} is being read already; it has one reader at a time.")
        self._reader = ChangeReader(
            database, row.confirmed, row.restart, wanted, memory, row.trusted, include_before, prepared=prepared
        )
        database.slots_in_use.add(slot)
        self._slot = slot

    def _begin(self, database: Database, follow: bool) -> None:
        self._database = database
        self._follow = follow
        self._slot = None
        self._delivered: deque[tuple[int, int]] = deque()  # (lsn, what log is needed once it is acknowledged)
        self._count = 0
        self._closed = False
        self._inside = False

    @property
    def position(self) -> int:
        """The LSN up to which all has been delivered: the ``since`` to read on from."""
        return self._reader.position

    def __iter__(self) -> Iterator[Change]:
        return self

    def __next__(self) -> Change:
        while True:
            change = self.next(WAIT if self._follow else 0.0)
            if change is not None:
                return change
            if self._closed or self._database.closed or not self._follow:
                raise StopIteration

    def next(self, timeout: float = 0.0) -> Change | None:
        """Returns the next change, or None when there is none within `timeout` seconds.

        Raises:
            ChangesGone: the log does not hold what comes next.
            UsageError: a keyspace has not logged the before-images that are asked for; the stream has ended.
        """
        found = self._take(1, timeout)
        return found[0] if found else None

    def next_many(self, most: int = 256, timeout: float = 0.0, *, operations: int = 4096) -> list[Change]:
        """Returns the next changes that there are, in a list; quicker than one by one.

        Args:
            most: of them.
            timeout: longest wait for the first, in seconds.
            operations: no more changes are added once there are so many operations in them.
        """
        return self._take(most, timeout, operations)

    def _take(self, most: int, timeout: float, operations: int = 1) -> list[Change]:
        self._inside = True  # before the look at `_closed`: `close` sees this thread, or this thread that
        try:
            if self._closed or self._database.closed:
                return []
            found = self._reader.next_changes(most, operations)
            if not found and self._reader.wait(timeout):
                found = self._reader.next_changes(most, operations)
            if found:
                self._delivered_some(found)
        except DatabaseClosed:
            return []
        finally:
            self._inside = False
            if self._closed:
                self._let_go()
        return found

    def _delivered_some(self, found: list[Change]) -> None:
        for i, change in enumerate(found):
            if change.calls:
                found[i] = _with_calls(change)
        self._count += len(found)
        if self._slot is not None:
            if len(self._delivered) >= MOST_UNACKNOWLEDGED:
                self._delivered.pop()  # what it would have freed is freed by the acknowledgement of the next
            self._delivered.append((found[-1].lsn, self._reader.floor))
        elif self._count >= OFTEN:
            self._count = 0
            self._reader.let_go()

    def acknowledge(self, lsn: int | None = None) -> None:
        """Tells the slot that all up to `lsn`, the `Change.lsn` of a change, has been dealt with; None for all that was
        yielded. What is acknowledged is not yielded again, except after a crash, in which the newest acknowledgements
        may be lost."""
        if self._slot is None or self._closed:
            raise UsageError("Only an open stream with a slot is acknowledged.")
        if lsn is None:
            lsn = self.position
        restart = None
        while self._delivered and self._delivered[0][0] <= lsn:
            restart = self._delivered.popleft()[1]
        move_slot(self._database, self._slot, lsn, restart)
        if restart is not None:
            self._reader.let_go(restart)

    def wake(self) -> None:
        """From any thread: who waits in the stream comes back, and from now on nobody waits in it."""
        self._reader.cancelled = True

    def close(self) -> None:
        """Lets go of the log; a thread that waits in the stream comes back, with no change. What a slot has not
        acknowledged is yielded again by the next stream."""
        if not self._closed:
            self._closed = True
            self._reader.cancelled = True
            if not self._inside:  # else the thread that is inside does it
                self._let_go()

    def _let_go(self) -> None:
        self._reader.close()
        if self._slot is not None:
            self._database.slots_in_use.discard(self._slot)
            self._slot = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_reader"):
            self.close()


@dataclass(frozen=True, slots=True)
class Slot:
    """A named reader of the log, as it stands.

    Attributes:
        name: its name.
        confirmed: the LSN up to which all has been acknowledged.
        restart: the LSN from which the log is kept for it.
        lag: bytes of log kept for it.
        max_lag: past so many bytes it is lost: the log goes on without it.
        valid: False once it is lost. Drop it then.
        active: whether a stream reads for it now.
        created: when it was made, in seconds since 1970.
    """

    name: str
    confirmed: int
    restart: int
    lag: int
    max_lag: int
    valid: bool
    active: bool
    created: float


def from_now(database: Database) -> Changes:
    """Returns a stream of everything that commits from now on."""
    made = Changes.__new__(Changes)
    made._begin(database, follow=True)
    holding = ChangeReader(database, None, None, None, GATHERED, False)  # holds what log there is
    try:
        restart, end = _whole_from(database, holding)
        database.sync()
        made._reader = ChangeReader(database, end, restart, None, GATHERED, True)
    finally:
        holding.close()
    return made


def create_slot(database: Database, name: str, since: int | None, max_lag: int) -> Slot:
    """See `Database.create_slot`."""
    if database.read_only:
        raise ReadOnlyError("A slot cannot be made in a database that was opened read-only.")
    if not name or len(name.encode()) > 255:
        raise ValueError("A slot's name takes 1 to 255 bytes in UTF-8.")
    if max_lag < 1:
        raise ValueError(f"max_lag_bytes={max_lag} must be positive.")
    if name in slot_rows(database):
        raise ValueError(f"There is a slot {name!r} already; drop it first, or read on by changes(slot={name!r}).")
    reader = ChangeReader(database, since, None, None, GATHERED, False)  # holds what log there is
    try:
        if since is not None:
            add_slot(database, name, reader.floor, since, max_lag, False, time.time())
        else:
            restart, end = _whole_from(database, reader)
            database.sync()  # what is logged below `end` is visible to every snapshot from now on, and cannot be lost
            add_slot(database, name, restart, end, max_lag, True, time.time())
    finally:
        reader.close()
    return slot_of(database, name)


def _whole_from(database: Database, reader: ChangeReader) -> tuple[int, int]:
    """Waits until everything that is in flight has its beginning in the log that is there."""
    patience = database.options.lock_timeout
    deadline = time.monotonic() + patience
    while True:
        restart, end = oldest_running(database)
        if restart >= reader.floor:
            return restart, end
        if patience >= 0 and time.monotonic() >= deadline:
            raise LockTimeout(
                f"A transaction is in flight whose beginning, at LSN {restart}, is not in the log any more; a slot "
                "begins once it has ended."
            )
        reader.wait(0.05)


def remove_slot(database: Database, name: str) -> None:
    """See `Database.drop_slot`."""
    if name not in slot_rows(database):
        raise KeyError(f"no slot named {name!r}")
    if name in database.slots_in_use:
        raise UsageError(f"Slot {name!r} is being read; close that stream first.")
    drop_slot(database, name)


def slot_of(database: Database, name: str) -> Slot:
    """Returns one slot as it stands."""
    (found,) = (slot for slot in all_slots(database) if slot.name == name)
    return found


def all_slots(database: Database) -> list[Slot]:
    """See `Database.slots`."""
    _, end = oldest_running(database)
    return [
        Slot(
            name,
            row.confirmed,
            row.restart,
            max(0, end - row.restart),
            row.max_lag,
            not row.lost,
            name in database.slots_in_use,
            row.created,
        )
        for name, row in sorted(slot_rows(database).items())
    ]


def _with_calls(change: Change) -> Change:
    from enginelib.commands import decode_call

    calls = tuple(decode_call(*each) for each in change.calls)
    return Change(
        change.database_id,
        change.epoch,
        change.sequence,
        change.lsn,
        change.commit_ts,
        change.time,
        change.origin,
        change.operations,
        calls,
        change.xid,
        change.event,
    )
