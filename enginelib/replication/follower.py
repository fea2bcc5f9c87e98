"""Followers: copies of a database that apply its changes as they come, exactly once.

Data flow: a slot is made at the leader, then a snapshot of it is copied, keyspace by keyspace; the changes that the
slot's stream gives from then on, except those that the snapshot held already, are applied in batches. The position (the
sequence of the newest change that was applied) stands in a keyspace of the follower, `POSITION`, and is committed in
the same transaction as the changes, so that a change is applied once however often it comes. What is acknowledged to
the slot is synced first.

Invariants: readers of the follower see the state of the leader after some commit, always (a prefix of its history).
A copy that was cut short is begun again. Changes of a lower epoch than one that was applied are refused.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar, Unpack, runtime_checkable

import msgspec

from enginelib._native.engine.door import Change, Operation, keyspace_options, puts_of
from enginelib.database import Database
from enginelib.errors import ChangesGone, DatabaseClosed, FencedError, UsageError
from enginelib.replication.archive import Archive, ArchiveStream
from enginelib.replication.codec import decode

if TYPE_CHECKING:
    from enginelib.keyspace import Keyspace
    from enginelib.options import OptionValues
    from enginelib.transaction import Transaction

T = TypeVar("T")

POSITION = "enginelib.follower"
KEY = b"position"
BATCH = 1024
WAIT = 0.05
COPY = 2000
COPY_BYTES = 1 << 20
ACKNOWLEDGE = 0.2
GRACE = 5.0
PAUSES = (0.02, 2.0)  # before a connection is tried again: the first, and the longest

Part = tuple[str, bytes, list[tuple[bytes, bytes]]]


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """Where a follower stands; kept with the data.

    Attributes:
        leader: the leader's database id.
        sequence: of the newest change applied, or that the copy held.
        lsn: behind it, in the leader's log.
        epoch: of the newest change applied.
        copied: whether the copy is whole.
        slot: the leader's slot, where there is one.
    """

    leader: bytes
    sequence: int
    lsn: int = 0
    epoch: int = 0
    copied: bool = True
    slot: str | None = None


class ConnectionLost(ConnectionError):
    """A connection to a leader broke, or there was none to be had; it is worth another try."""


class Connection(AbstractContextManager["Connection"], Protocol):
    """A connection to a leader elsewhere. One thread at a time, `cancel` excepted. Where it breaks, any of its methods
    raises `ConnectionLost`.

    Attributes:
        database_id, epoch: the leader's, once it has answered.
        copying: whether a copy comes before the changes: `parts`.
        sequence: of the copy, once its parts have all come.
        lsn: up to which all that there is has come.
        asked: whether the leader waits to be told that it is applied; set back when it is.
    """

    database_id: bytes
    epoch: int
    copying: bool
    sequence: int
    lsn: int
    asked: bool

    def greet(self) -> None:
        """Waits for the leader's answer.

        Raises:
            FencedError, ChangesGone, UsageError: the leader refuses.
        """
        ...

    def parts(self) -> Iterator[Part]:
        """Yields the copy: see `parts_of`."""
        ...

    def next_many(self, most: int, timeout: float) -> list[Change]:
        """Returns the next changes that there are; none when none comes within `timeout` seconds."""
        ...

    def acknowledge(self, lsn: int) -> None:
        """Tells the leader that all up to `lsn` is applied and synced."""
        ...

    def cancel(self) -> None:
        """From any thread: ends the connection; who waits in it comes back."""
        ...


@runtime_checkable
class Elsewhere(Protocol):
    """A leader in another process: something that connections are made to."""

    def connect(self, name: str, position: Position | None, epoch: int) -> Connection:
        """Makes a connection, without waiting for an answer.

        Args:
            name: of the follower's slot at the leader.
            position: where the follower stands.
            epoch: the highest that it knows.

        Raises:
            ConnectionLost: there is nobody.
        """
        ...


Source = Database | Archive | Elsewhere | Iterable["Change | bytes"] | Callable[[int], Iterable["Change | bytes"]]


class Lag(NamedTuple):
    """How far a follower is behind.

    Attributes:
        bytes: of the leader's log; None where the leader is not in this process.
        transactions: likewise.
        seconds: since the commit of the newest change that was applied, while there are newer ones; 0.0 when there are
            none, as far as is known.
    """

    bytes: int | None
    transactions: int | None
    seconds: float


class Follower:
    """A database that follows another. It is made and brought up to date by a thread of its own.

    Readers use `transaction`, or `database` with care: what is written there beside the changes of the leader is the
    writer's own affair.

    Attributes:
        database: the follower's database.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        source: Source,
        *,
        slot: str | None = None,
        **options: Unpack[OptionValues],
    ) -> None:
        """Opens the follower's database, making it when absent, and begins to follow.

        Args:
            path: its directory, or ``":memory:"``.
            source: an open `Database` of this process; a `unix.Leader` of another; an `Archive` of another's log; or
                an iterable of changes, encoded or not, in commit order, from the beginning of the leader's log or from
                where the follower stands; or a function that returns such an iterable, given the LSN behind the newest
                change that was applied, 0 for none. An iterable that blocks should have a method ``close()`` that may
                be called from another thread and ends the iteration: `stop` calls it.
            slot: name of the slot at a `Database`; None for one of the follower's own. It is made when absent.
            options: as for `enginelib.open`; changes are committed with its durability, ``"os"`` unless it is given.

        Raises:
            UsageError: the database at `path` follows another one, or was never a follower and is not empty.
        """
        options.setdefault("durability", "os")
        self.database = Database(path, **options)
        self._source = source
        self._slot_name = slot
        self._moved = threading.Condition()
        self._stopping = False
        self._error: BaseException | None = None
        self._ended = False
        self._asking = False  # the thread is in the source; what it brings is dropped once it is told to stop
        self._shipped: ArchiveStream | None = None
        self._connection: Connection | None = None
        self._closing: list[Any] = []  # what `stop` closes, so that a thread that waits in it comes back
        self._commit_time = time.time()
        self._idle = False
        self._applier = Applier()
        try:
            self._space = self.database.keyspace(POSITION)
            found = self._space.get(KEY)
            self._position = None if found is None else msgspec.msgpack.decode(found, type=Position)
            if self._position is None and self.database.keyspaces() != [POSITION]:
                raise UsageError(
                    f"{self.database.path} holds data and was never a follower: begin with a new directory."
                )
            if self._position is not None and isinstance(source, Database):
                self._check_leader(source.database_id)
        except BaseException:
            self.database.close()
            raise
        reference = weakref.ref(self)
        self._thread = threading.Thread(target=_run, args=(reference,), name="enginelib-follower", daemon=True)
        self._thread.start()

    # ---- reading

    def transaction(self) -> Transaction:
        """Begins a read-only transaction on the follower."""
        return self.database.transaction(read_only=True)

    @property
    def position(self) -> Position | None:
        """Where it stands; None before it has begun."""
        return self._position

    def lag(self) -> Lag:
        """Returns how far it is behind."""
        position = self._position
        if not isinstance(self._source, Database) or self._source.closed:
            return Lag(None, None, 0.0 if self._idle else max(0.0, time.time() - self._commit_time))
        stats = self._source.stats()
        if position is None:
            return Lag(stats["log"]["end_lsn"], stats["transactions"]["visible_ts"], time.time() - self._commit_time)
        behind = max(0, stats["transactions"]["visible_ts"] - position.sequence)
        if behind == 0:
            return Lag(0, 0, 0.0)
        return Lag(max(0, stats["log"]["end_lsn"] - position.lsn), behind, max(0.0, time.time() - self._commit_time))

    def wait_for(self, lsn: int | None = None, *, sequence: int | None = None, timeout: float | None = None) -> bool:
        """Waits until the follower has applied all up to a place in the leader's history, so that what was written
        there is read here.

        Args:
            lsn: a `Change.lsn`; or
            sequence: a commit timestamp, such as ``txn.commit_ts`` of a transaction at the leader.
            timeout: longest wait, in seconds; None for as long as it takes.

        Returns:
            Whether it has.

        Raises:
            Error: following has ended by an error.
        """
        if (lsn is None) == (sequence is None):
            raise ValueError("wait_for takes an LSN or a sequence, one of them.")

        def there() -> bool:
            p = self._position
            return p is not None and p.copied and (p.lsn >= lsn if lsn is not None else p.sequence >= (sequence or 0))

        with self._moved:
            self._moved.wait_for(lambda: there() or self._stopping or self._error is not None, timeout)
            if there():
                return True
            if self._error is not None:
                raise self._error
            return False

    @property
    def error(self) -> BaseException | None:
        """What following has ended by; None while it goes on."""
        return self._error

    # ---- ending

    def stop(self) -> None:
        """Ends following; the database stays open.

        A source that is an iterable, or what a function returned, has its ``close()`` called, where it has one. A
        thread that waits in a source that cannot be ended is left behind: nothing that it still brings is applied.
        """
        with self._moved:
            self._stopping = True
            closing, self._closing = self._closing, []
            self._moved.notify_all()
        if self._shipped is not None:
            self._shipped.stop()
        if self._connection is not None:
            self._connection.cancel()
        if threading.current_thread() is self._thread:
            return
        try:
            _close(closing)
            if closing and not isinstance(closing[0], Generator):
                self._thread.join(GRACE)
        finally:
            with self._moved:
                self._moved.wait_for(lambda: self._ended or self._asking)

    def close(self) -> None:
        """Ends following and closes the database; it goes on where it was when it is opened as a follower again."""
        try:
            self.stop()
        finally:
            self.database.close()

    def promote(self) -> Database:
        """Makes the follower a leader: ends following and raises the epoch, so that changes of the old leader are
        refused by whoever follows this one.

        Returns:
            The database, which takes writes now.
        """
        self.stop()
        epoch = 0 if self._position is None else self._position.epoch
        self.database.raise_epoch(epoch)
        return self.database

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- following: the thread

    def _check_leader(self, leader: bytes) -> None:
        position = self._position
        if position is not None and position.leader != leader:
            raise UsageError(
                f"{self.database.path} follows database {position.leader.hex()}, not {leader.hex()}: give it a "
                "directory of its own."
            )

    def _follow(self) -> None:
        """Runs until it is told to stop, or the source ends."""
        if isinstance(self._source, Database):
            self._follow_database(self._source)
            return
        if isinstance(self._source, Archive):
            self._follow_archive(self._source)
            return
        if isinstance(self._source, Elsewhere):
            self._follow_elsewhere(self._source)
            return
        incoming = self._ask(self._begin)
        while incoming is not None:
            change = self._ask(lambda: next(incoming, None))
            if change is None:
                return
            self._apply([change if isinstance(change, Change) else decode(change)])

    def _begin(self) -> Iterator[Change | bytes]:
        """An iterator over a source that is an iterable, or makes one."""
        position = self._position
        changes = self._source(position.lsn if position else 0) if callable(self._source) else self._source
        incoming: Iterator[Change | bytes] = iter(changes)  # type: ignore[arg-type]
        found = [each for each in (incoming, changes if changes is not incoming else None) if hasattr(each, "close")]
        with self._moved:
            late = self._stopping
            if not late:
                self._closing = found
        if late:
            _close(found)
        return incoming

    def _ask(self, asked: Callable[[], T]) -> T | None:
        """Calls something that may block for ever; None when it was told to stop meanwhile, even by an error."""
        with self._moved:
            if self._stopping:
                return None
            self._asking = True
            self._moved.notify_all()
        try:
            found = asked()
        except BaseException:
            if self._stopping:
                return None
            raise
        finally:
            with self._moved:
                stopped = self._stopping
                self._asking = False
        return None if stopped else found

    def _follow_elsewhere(self, leader: Elsewhere) -> None:
        """Connects again and again, with a pause between that grows while nobody answers."""
        pause, longest = PAUSES
        while not self._stopping:
            try:
                epoch = max(self.database.epoch, self._position.epoch if self._position is not None else 0)
                with leader.connect(self._own_slot, self._position, epoch) as connection:
                    self._connection = connection
                    if self._stopping:
                        return
                    connection.greet()
                    pause = PAUSES[0]
                    if connection.epoch < epoch:
                        raise FencedError(
                            f"The leader is of epoch {connection.epoch}; here epoch {epoch} is known, so it has been "
                            "replaced."
                        )
                    self._follow_connection(connection)
            except ConnectionLost:
                pass
            finally:
                self._connection = None
                self._idle = False
            with self._moved:
                self._moved.wait_for(lambda: self._stopping, pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, longest)

    def _follow_connection(self, connection: Connection) -> None:
        if connection.copying:
            self._begin_copy(connection.database_id, connection.epoch, self._own_slot)
            if not self._take_copy(connection.parts()):
                return
            self._store(
                Position(
                    leader=connection.database_id,
                    sequence=connection.sequence,
                    lsn=connection.lsn,
                    slot=self._own_slot,
                    epoch=connection.epoch,
                )
            )
        self._check_leader(connection.database_id)
        told = time.monotonic()
        while not self._stopping:
            batch = connection.next_many(BATCH, WAIT)
            self._idle = not batch
            if batch:
                self._apply(batch)
            position = self._position
            assert position is not None
            if connection.lsn > position.lsn:  # nothing else was committed up to there
                position = msgspec.structs.replace(position, lsn=connection.lsn)
                self._move(position)
            now = time.monotonic()
            if connection.asked or now - told >= ACKNOWLEDGE:
                told = now
                connection.asked = False
                self.database.sync()
                connection.acknowledge(position.lsn)

    def _follow_database(self, leader: Database) -> None:
        if self._position is None or not self._position.copied:
            self._copy(leader)
        position = self._position
        assert position is not None and position.slot is not None
        told, acknowledged = time.monotonic(), 0
        with leader.changes(slot=position.slot) as stream:
            while not self._stopping and not leader.closed:
                batch = stream.next_many(BATCH, WAIT)
                self._idle = not batch
                if batch:
                    self._apply(batch)
                now = time.monotonic()
                asked = leader.required is not None and stream.position > acknowledged
                if asked or now - told >= ACKNOWLEDGE or self._stopping:
                    told, acknowledged = now, stream.position  # commits with nothing to apply among them
                    self.database.sync()  # what is acknowledged is not lost with the leader
                    stream.acknowledge()
                    leader.acknowledge(position.slot, applied=acknowledged)

    def _follow_archive(self, archive: Archive) -> None:
        with archive.open() as stream:
            self._shipped = stream  # `stop` ends it
            base = stream.database
            if self._position is None or not self._position.copied:
                self._begin_copy(base.database_id, base.epoch, None)
                sequence = self._copy_snapshot(base)
                if sequence is None:
                    return
                self._store(Position(leader=base.database_id, sequence=sequence, lsn=stream.end, epoch=base.epoch))
            self._check_leader(base.database_id)
            held = base.stats()["transactions"]["visible_ts"]
            if held > self._position.sequence:  # type: ignore[union-attr]
                raise ChangesGone(
                    f"The backup {archive.base} holds commit {held}, and the follower has only been brought up to "
                    f"{self._position.sequence}: give it an older backup."  # type: ignore[union-attr]
                )
            while not self._stopping:
                batch = stream.next_many(BATCH, WAIT)
                self._idle = not batch
                if batch:
                    self._apply(batch)

    @property
    def _own_slot(self) -> str:
        # The name follows from the database's id: a copy that was cut short finds the slot of the attempt before.
        return f"follower-{self.database.database_id.hex()}"

    def _begin_copy(self, leader: bytes, epoch: int, slot: str | None) -> None:
        """What an earlier attempt at a copy has left is dropped; that there is none yet is noted."""
        for name in self.database.keyspaces():
            if name != POSITION:
                self.database.drop_keyspace(name)
        self._store(Position(leader=leader, sequence=0, copied=False, slot=slot, epoch=epoch))

    def _copy(self, leader: Database) -> None:
        """A slot at the leader, and a snapshot of it."""
        slot = self._slot_name or self._own_slot
        names = {each.name for each in leader.slots()}
        if slot in names and self._slot_name is None:
            leader.drop_slot(slot)
            names.discard(slot)
        if slot not in names:
            leader.create_slot(slot)
        self._begin_copy(leader.database_id, leader.epoch, slot)
        sequence = self._copy_snapshot(leader)
        if sequence is None:
            return
        confirmed = next(each.confirmed for each in leader.slots() if each.name == slot)
        self._store(
            Position(leader=leader.database_id, sequence=sequence, lsn=confirmed, slot=slot, epoch=leader.epoch)
        )

    def _copy_snapshot(self, leader: Database) -> int | None:
        """Copies what the leader holds at one moment; that moment's sequence, or None when it was told to stop."""
        with leader.transaction(read_only=True) as snapshot:
            return snapshot.snapshot if self._take_copy(parts_of(snapshot)) else None

    def _take_copy(self, parts: Iterable[Part]) -> bool:
        """Puts the parts of a copy where they belong; False when it was told to stop."""
        for name, row, pairs in parts:
            if self._stopping:
                return False
            backend, options = keyspace_options(row)
            self.database.keyspace(name, backend, **options).put_many(pairs)
        return True

    def _store(self, position: Position) -> None:
        self._space.put(KEY, msgspec.msgpack.encode(position))
        self._move(position)

    def _move(self, position: Position) -> None:
        with self._moved:
            self._position = position
            self._moved.notify_all()

    def _apply(self, batch: list[Change]) -> None:
        """Applies changes, and notes that they are, in one transaction."""
        last = batch[-1]
        position = self._position
        if position is None:
            position = Position(leader=last.database_id, sequence=0)
        done, epoch = position.sequence, position.epoch
        self._applier.forget()
        with self.database.transaction() as txn:
            origin: bytes | None = None
            at = 0
            while at < len(batch):
                change = batch[at]
                at += 1
                if change.database_id != position.leader:
                    self._check_leader(change.database_id)
                if change.epoch < epoch or change.epoch < self.database.epoch:
                    raise FencedError(
                        f"Change {change.sequence} is of epoch {change.epoch}; here epoch "
                        f"{max(epoch, self.database.epoch)} is known, so its leader has been replaced."
                    )
                epoch = change.epoch
                if change.sequence <= done:
                    continue
                done = change.sequence
                if change.origin == self.database.database_id:
                    continue  # it was made here
                origin = change.origin or change.database_id
                self._applier.apply(txn, change.operations)
                at = self._applier.apply_alike(batch, at)
                done = batch[at - 1].sequence
            self._applier.flush(txn)
            lsn = max(position.lsn, last.lsn)  # all of it may have come before
            position = Position(
                leader=position.leader, sequence=done, lsn=lsn, epoch=epoch, slot=position.slot, copied=True
            )
            txn.put(self._space, KEY, msgspec.msgpack.encode(position))
            if origin is not None:
                txn.tag_origin(origin)
        self._commit_time = last.time
        self._move(position)

    def _end(self, error: BaseException | None) -> None:
        with self._moved:
            self._ended = True
            if not (isinstance(error, DatabaseClosed) and (self._stopping or self.database.closed)):
                self._error = error
            self._moved.notify_all()


def _close(sources: list[Any]) -> None:
    for each in sources:
        try:
            each.close()
        except ValueError:
            if not isinstance(each, Generator):  # one that is running cannot be closed
                raise


def parts_of(snapshot: Transaction) -> Iterator[Part]:
    """Yields what a snapshot holds, in parts: a keyspace's name, its catalogue row, and pairs of it, first none."""
    for name, _, _ in snapshot.catalog_rows():
        if name == POSITION:
            continue
        row = snapshot.catalog_row(name)
        assert row is not None
        yield name, row, []
        pairs: list[tuple[bytes, bytes]] = []
        size = 0
        for key, value in snapshot.scan(snapshot.keyspace(name)):  # it may have been dropped or renamed since
            pairs.append((key, value))
            size += len(key) + len(value)
            if size >= COPY_BYTES or len(pairs) >= COPY:
                yield name, row, pairs
                pairs, size = [], 0
        if pairs:
            yield name, row, pairs


class Applier:
    """Does the operations of changes in transactions; knows keyspaces by their leader's names."""

    def __init__(self) -> None:
        self._spaces: dict[str, Keyspace] = {}
        self._name = POSITION  # of the keyspace of the puts that are gathered,
        self._pairs: list[tuple[bytes, bytes]] = []  # which go together

    def forget(self) -> None:
        """Before another transaction: the one before may not have been committed."""
        self._spaces.clear()
        self._pairs = []
        self._name = POSITION

    def apply(self, txn: Transaction, operations: Iterable[Operation]) -> None:
        """Does operations, in order; `flush` does the last of them."""
        name = self._name
        pairs = self._pairs
        for o in operations:
            if o.op == "put" and o.keyspace == name:
                pairs.append((o.key, o.value))  # type: ignore[arg-type]
            elif o.keyspace != POSITION:
                self.flush(txn)
                pairs = self._pairs
                if o.op == "put":
                    name = self._name = o.keyspace
                    pairs.append((o.key, o.value))  # type: ignore[arg-type]
                else:
                    self.operate(txn, o)

    def apply_alike(self, batch: list[Change], at: int) -> int:
        """Does those changes from `at` on that are as the one before and put into the same keyspace; where they end."""
        return puts_of(batch, at, batch[at - 1], self._name, self._pairs) if self._pairs else at

    def flush(self, txn: Transaction) -> None:
        """Makes the puts that are gathered."""
        if self._pairs:
            pairs, self._pairs = self._pairs, []
            txn.put_many(self._find(txn, self._name), pairs)

    def operate(self, txn: Transaction, o: Operation) -> None:
        """Does one operation that is no put."""
        op = o.op
        if op == "delete":
            txn.delete(self._find(txn, o.keyspace), o.key, True)  # type: ignore[arg-type]
        elif op == "delete_range":
            txn.delete_range(self._find(txn, o.keyspace), o.key, o.value)
        elif op == "create_keyspace":
            assert o.value is not None
            backend, options = keyspace_options(o.value)
            self._spaces[o.keyspace] = txn.create_keyspace(o.keyspace, backend, **options)
        elif op == "drop_keyspace":
            self._spaces.pop(o.keyspace, None)
            txn.drop_keyspace(o.keyspace)
        else:
            assert op == "rename_keyspace" and o.value is not None
            self._spaces.clear()
            txn.rename_keyspace(o.keyspace, o.value.decode())

    def _find(self, txn: Transaction, name: str) -> Keyspace:
        found = self._spaces.get(name)
        if found is None:
            found = self._spaces[name] = txn.keyspace(name)
        return found


def _run(reference: weakref.ref[Follower]) -> None:
    follower = reference()
    if follower is None:
        return
    error: BaseException | None = None
    try:
        follower._follow()
    except BaseException as caught:  # `Follower.error` tells of it
        error = caught
    finally:
        follower._end(error)
