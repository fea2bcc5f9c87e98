"""The one door from Python to the core."""
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeAlias

__all__ = ["BUSY", "CoreArchive", "CoreCursor", "CoreDatabase", "CoreKeyspace", "CoreTransaction", "Change", "ChangeReader", "Operation", "Scan", "SlotRow", "add_slot", "archived_epoch", "build_info", "cut", "drop_slot", "image_of", "keyspace_options",
           "move_slot", "oldest_running", "puts_of", "save_slots", "scan", "segments_in", "slot_rows"]

Buffer: TypeAlias = bytes | bytearray | memoryview     # for annotations: it does not exist at run time

BUSY: object        # what run_procedure returns where another thread is inside a procedure

class CoreDatabase:
    """An open database. Options are keyword arguments, already validated by ``enginelib.options``:

    path: str (absolute) or ":memory:"; page_size, cache_size, segment_size, log_buffer, checkpoint_bytes (log volume between automatic
    checkpoints), version_budget, transaction_budget: int bytes; durability: 0 lazy | 1 os | 2 sync; lazy_interval, lock_timeout: float seconds;
    read_only, create, background: bool; vfs: an ``enginelib._native.base.vfs.Vfs`` or None.
    """
    path: str
    closed: bool
    read_only: bool
    database_id: bytes
    epoch: int                                         # raised by each promotion of a follower
    engine: Any                                        # what tests look into
    recovery: dict[str, Any]                           # what opening had to replay: records, transactions, rolled_back, prepared, log_bytes, created
    def __init__(self, path: str, **options: Any) -> None: ...
    def alive(self) -> int: ...                        # raises unless it is open, in this process
    def close(self) -> None: ...                       # checkpoints (unless it cannot), then releases everything; idempotent
    def abandon(self) -> None: ...                     # closes without checkpoint or log flush, as a crash would (tests)
    def core_keyspace(self, cls: type, name: str, create: bool = True, backend: str = "btree",
                      options: dict[str, Any] | None = None, hidden: bool = False) -> Any: ...   # hidden: the engine's own; KeyError when absent and not create
    # False: nothing is prepared under that xid; (xid, wall clock in microseconds, number, isolation, keys changed, locks, numbers of waiters)
    def end_prepared(self, xid: bytes, commit: bool) -> bool: ...
    def prepared_rows(self) -> list[tuple[bytes, int, int, str, int, int, tuple[int, ...]]]: ...
    prepared_count: int
    before_commit_hook: Callable[[Any], Any] | None    # what enginelib.hooks hangs in: before a commit, with the transaction,
    after_commit_hook: Callable[[int], Any] | None     # and after it, with the LSN behind its record
    transaction_class: type
    def keyspace_rows(self) -> list[tuple[str, int, str]]: ...            # (name, id, backend), newest committed state
    def set_before(self, name: str, before: str) -> None: ...             # what is logged of what keys held before: "none", "key" or "full"; KeyError
    def drop_keyspace(self, name: str) -> None: ...    # in a transaction of its own; the txn-bound forms are on CoreTransaction
    def rename_keyspace(self, old: str, new: str) -> None: ...
    def core_transaction(self, cls: type, read_only: bool = False, durability: int = -1, lock_timeout: float = -1.0, isolation: int = 1,
                         deferrable: bool = False, batch: bool = False) -> Any: ...
    # function(transaction, *args) in a serial transaction, and its commit; with `logged`, one that is logged only is added to that list
    def run_procedure(self, cls: type, function: Callable[..., Any], args: tuple[Any, ...], wait: bool = False,
                      logged: list[Any] | None = None) -> Any: ...
    def core_transaction_plain(self) -> Any: ...       # a read-only transaction of the core's own class
    def checkpoint(self) -> None: ...
    def raise_epoch(self, least: int = 0) -> int: ...                  # durably; the new one
    def sync(self) -> None: ...                        # makes everything committed so far durable
    def backup(self, path: str) -> dict[str, Any]: ...
    def verify(self, progress: Callable[[str], None] | None = None) -> tuple[list[dict[str, Any]], dict[str, Any]]: ...   # findings, counts
    def stats(self) -> dict[str, Any]: ...
    # tests with background=False: "checkpoint", "lazy", "prepare", "gc"; of LSM-trees "seal", "flush", "compact", "settle": whether there was something to do
    def step(self, what: str) -> bool | None: ...
    def lock_rows(self, limit: int) -> list[tuple[int, str, int | None, str, str, bytes, bytes | None, bool]]: ...
    def remembered_covers(self) -> int: ...            # of how many transactions the ranges that stand for predicates are known (tests)
    def remembered_predicates(self) -> int: ...        # how many objects of predicates are held (tests)
    def wait_rows(self) -> list[tuple[int, int, int | None, str, str, bytes, bytes | None, float]]: ...
    def log_records(self, start_lsn: int = 0) -> Iterator[dict[str, Any]]: ...

class CoreKeyspace:
    name: str
    id: int
    backend: str
    before: str                                        # "none", "key" or "full": the before-images that are logged beside its changes
    database: CoreDatabase
    def get(self, key: Buffer, default: Any = None) -> Any: ...           # each of these is a transaction of its own
    def put(self, key: Buffer, value: Buffer) -> None: ...
    def delete(self, key: Buffer) -> bool: ...
    def __getitem__(self, key: Buffer, /) -> bytes: ...                   # KeyError; slices are left to the Python subclass
    def __setitem__(self, key: Buffer, value: Buffer, /) -> None: ...
    def __delitem__(self, key: Buffer, /) -> None: ...
    def __contains__(self, key: object, /) -> bool: ...
    def get_many(self, keys: Iterable[Buffer]) -> list[bytes | None]: ...
    def put_many(self, pairs: Iterable[tuple[Buffer, Buffer]]) -> int: ...
    def core_stats(self) -> dict[str, Any]: ...
    def core_ingest(self, pairs: Any, logged: bool) -> int: ...      # LSM keyspaces only
    def core_compact(self, low: bytes | None, high: bytes | None) -> None: ...   # LSM-trees: bounds inclusive, None for none

class CoreTransaction:
    """Used by one thread at a time. States: active, committed, aborted."""
    database: CoreDatabase
    read_only: bool
    state: str                                          # "active" | "committed" | "aborted" | "unknown"
    snapshot: int                                       # commit timestamp it reads at
    id: int                                             # 0 until it has written
    number: int                                         # among all transactions of this opening
    isolation: str                                      # its level; "" once it has ended
    waiting: bool                                       # for another transaction, at this moment
    safe: bool                                          # serializable and read-only, on a snapshot with which nothing can go wrong
    commit_ts: int                                      # after commit of a writer, else 0
    commit_lsn: int                                     # behind its commit in the log: the lsn of its Change; likewise
    def get(self, keyspace: CoreKeyspace, key: Buffer, default: Any = None, *, snapshot: bool = False) -> Any: ...
    def contains(self, keyspace: CoreKeyspace, key: Buffer) -> bool: ...
    def put(self, keyspace: CoreKeyspace, key: Buffer, value: Buffer) -> None: ...
    def delete(self, keyspace: CoreKeyspace, key: Buffer, blind: bool = False) -> bool | None: ...
    def get_many(self, keyspace: CoreKeyspace, keys: Iterable[Buffer], *, snapshot: bool = False) -> list[bytes | None]: ...
    def put_many(self, keyspace: CoreKeyspace, pairs: Iterable[tuple[Buffer, Buffer]]) -> int: ...
    # how many were deleted; None for an LSM keyspace, which does not look (but for before-images)
    def delete_range(self, keyspace: CoreKeyspace, start: Buffer | None = None, stop: Buffer | None = None) -> int | None: ...
    # iterator of (key, value) tuples, or of keys / values alone: what = 0 both, 1 keys, 2 values; limit -1 = none; start inclusive, stop exclusive, also in reverse
    def scan(self, keyspace: CoreKeyspace, start: Buffer | None = None, stop: Buffer | None = None, *, prefix: Buffer | None = None, reverse: bool = False,
             limit: int | None = None, keys: bool = True, values: bool = True, for_update: bool = False, nowait: bool = False,
             skip_locked: bool = False, snapshot: bool = False, where: Any = None, granularity: str = "predicate") -> Iterator[Any]: ...
    def get_for_update(self, keyspace: CoreKeyspace, key: Buffer, default: Any = None, *, nowait: bool = False,
                       skip_locked: bool = False) -> Any: ...     # takes the row lock
    def lock_range(self, keyspace: CoreKeyspace, start: Buffer | None = None, stop: Buffer | None = None, *, mode: str = "exclusive",
                   nowait: bool = False) -> None: ...
    def read_conflict(self, keyspace: CoreKeyspace, start: Buffer | None = None, stop: Buffer | None = None) -> None: ...
    def write_conflict(self, keyspace: CoreKeyspace, start: Buffer | None = None, stop: Buffer | None = None) -> None: ...
    # puts function(newest value or None) unless that is None; reads: the caller learns something by it
    def combine(self, keyspace: CoreKeyspace, key: Buffer, function: Callable[[bytes | None], Buffer | None], reads: bool = False) -> None: ...
    unhooked: bool                                      # the engine's own: hooks are not asked
    supplied: Any                                       # its time and random numbers
    def log_call(self, now: int, seed: int, name: bytes, args: bytes) -> None: ...     # beside its changes, if there are any
    def tag_origin(self, origin: bytes) -> None: ...    # where its changes were made first: logged beside them, if there are any
    def ask_before(self) -> None: ...                   # calls the hook of before_commit; what it raises aborts
    def prepare_as(self, xid: bytes) -> None: ...       # durably; this handle has ended then
    def wall_micros(self) -> int: ...                   # the wall clock as commits have it: it never goes back
    def commit(self) -> None: ...
    def commit_later(self) -> bool: ...                 # logs the commit; whether complete() has to be called
    def complete(self) -> None: ...
    def abort(self) -> None: ...                        # idempotent once ended
    def save(self) -> int: ...                          # opens a savepoint, returns its depth
    def rollback_to(self, depth: int) -> None: ...      # undoes to the savepoint (and closes it and those inside it)
    def release(self, depth: int) -> None: ...          # closes it, keeping the changes
    def catalog_row(self, name: str) -> bytes | None: ...     # the catalogue's row for a name
    def catalog_rows(self, hidden: bool = False) -> list[tuple[str, int, str]]: ... # (name, id, backend) of every keyspace this transaction sees
    def open_keyspace(self, cls: type, name: str) -> Any: ...  # as this transaction knows it; None where it knows none
    def create_keyspace(self, cls: type, name: str, backend: str = "btree", options: dict[str, Any] | None = None) -> Any: ...      # transactional
    def drop_keyspace(self, name: str) -> None: ...
    def rename_keyspace(self, old: str, new: str) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: object, error: object, trace: object) -> None: ...        # commit, or abort on an exception

class CoreCursor:
    """The iterator that ``CoreTransaction.scan`` returns."""
    def __init__(self, txn: CoreTransaction, keyspace: CoreKeyspace, start: Buffer | None, stop: Buffer | None, prefix: Buffer | None, reverse: bool,
                 limit: int | None, keys: bool, values: bool, for_update: bool, no_wait: bool, skip_locked: bool, apart: bool) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Any: ...

def build_info() -> dict[str, Any]: ...

class Operation:
    """One change within a committed transaction.

    Attributes:
        keyspace: name of the keyspace.
        op: ``"put"``, ``"delete"``, ``"delete_range"`` (from `key` up to `value`; None: to the end), ``"create_keyspace"`` (`value`: what the
            catalogue says of it), ``"drop_keyspace"`` or ``"rename_keyspace"`` (`value`: the new name in UTF-8).
        key, value: bytes, or None.
        before: what the key held just before; None where it was not there, or that is not known or not asked for.
        existed: whether the key was there; None where that is not known or not asked for.
    """
    keyspace: str
    op: str
    key: bytes | None
    value: bytes | None
    before: bytes | None
    existed: bool | None
    def __init__(self, keyspace: str, op: str, key: bytes | None = None, value: bytes | None = None, before: bytes | None = None,
                 existed: bool | None = None) -> None: ...

class Change:
    """A committed transaction.

    Attributes:
        database_id: 16 bytes that name the database.
        epoch: raised by each promotion of a follower.
        sequence: its place in the commit order of the database; grows by every commit.
        lsn: where the log goes on behind it: the ``since`` to read on from.
        commit_ts: its commit timestamp.
        time: of its commit, in seconds since 1970.
        origin: the database in which it was made first, where it came from another by a `Follower`; None for this one.
        operations: its operations in order. Of a transaction larger than the memory of the stream an iterable that
            reads them from the log again, for as long as the stream stands at this change.
        calls: the calls of logged procedures in it.
        xid: what it was prepared as; None for one that was not.
        event: ``"commit"``; of a stream with ``prepared=True`` also ``"prepare"``, with what it would do, and
            ``"rollback"``, of one that was prepared. Those two have no place in the commit order: `sequence` is 0.
    """
    database_id: bytes
    epoch: int
    sequence: int
    lsn: int
    commit_ts: int
    time: float
    origin: bytes | None
    operations: Iterable[Operation]
    calls: tuple[Any, ...]
    xid: str | None
    event: str
    def __init__(self, database_id: bytes, epoch: int, sequence: int, lsn: int, commit_ts: int, time: float, origin: bytes | None,
                 operations: Iterable[Operation], calls: tuple[Any, ...] = (), xid: str | None = None, event: str = "commit") -> None: ...

def puts_of(changes: list[Change], at: int, like: Change, name: str, pairs: list[tuple[bytes, bytes]]) -> int: ...   # see operation.pyx

class ChangeReader:
    """Decodes the log of an open database: see ``changes.pyx``. One thread at a time."""
    position: int                                       # all that commits below it has been delivered
    floor: int                                          # the LSN below which this reader needs no log
    def __init__(self, db: CoreDatabase, since: int | None, restart: int | None, wanted: frozenset[str] | None, budget: int, complete: bool,
                 images: str = "none", archive: bytes | None = None, prepared: bool = False) -> None: ...
    cancelled: bool                                     # who waits for more stops at that
    def next_change(self) -> Change | None: ...         # None where the synced log ends; its calls as the log has them
    def next_changes(self, most: int, operations: int) -> list[Change]: ...
    def wait(self, seconds: float) -> bool: ...         # whether there may be more; what is committed and not synced yet is synced
    def let_go(self, lsn: int | None = None) -> None: ...
    def close(self) -> None: ...

class CoreArchive:
    """The archiving of an open database: see ``archive.pyx``. One thread at a time, `wait` and `nudge` excepted."""
    last: int                                           # first LSN of the newest archived segment
    end: int                                            # all below is archived, as far as it is there
    gap: tuple[int, int] | None                         # (from, to): log that was let go of while nobody archived
    segments: int                                       # copied since the database was opened
    copied: int                                         # bytes
    closing: bool                                       # the database closes, or has been closed
    def __init__(self, db: CoreDatabase, directory: str) -> None: ...
    def run(self, partial: bool = False) -> None: ...   # copies what has ended; partial: and what is synced of the newest segment
    def wait(self, seconds: float) -> None: ...         # for the end of a segment, or nudge(); negative: for ever
    def nudge(self) -> None: ...
    def at_close(self, function: Callable[[], None] | None) -> None: ...

class Scan:
    """What `scan` has met: see ``restore.pyx``."""
    commit_ts: int
    micros: int
    lsn: int
    group: int
    beyond: bool
    end: int
    crc: int
    found: bool
    through_crc: int

def scan(directory: bytes, start: int, limit: int, database_id: bytes | None, through: int, most_ts: int, most_micros: int, most_lsn: int,
         vfs: Any = None) -> Scan: ...
# (first LSN, length of the file, prev_end, segment size, incarnation), ascending; the last three 0 where the header is damaged
def segments_in(directory: bytes, database_id: bytes | None) -> list[tuple[int, int, int, int, int]]: ...
def archived_epoch(directory: bytes) -> int: ...       # 0 where it is not told
def image_of(path: str) -> tuple[bytes, int, int]: ...  # (database id, newest commit timestamp, epoch)
def cut(directory: bytes, first: int, group: int, stop: int, size: int) -> None: ...

class SlotRow:
    """One slot. LSNs and bytes; created: seconds since 1970."""
    restart: int
    confirmed: int
    max_lag: int
    trusted: bool
    lost: bool
    created: float
    def copied(self) -> SlotRow: ...

def keyspace_options(row: bytes) -> tuple[str, dict[str, Any]]: ...      # (backend, options), of what the catalogue says of a keyspace
def oldest_running(db: CoreDatabase) -> tuple[int, int]: ...    # (first LSN of the oldest transaction in flight, the log's end)
def add_slot(db: CoreDatabase, name: str, restart: int, confirmed: int, max_lag: int, trusted: bool, created: float) -> None: ...
def drop_slot(db: CoreDatabase, name: str) -> None: ...
def move_slot(db: CoreDatabase, name: str, confirmed: int, restart: int | None) -> None: ...
def save_slots(e: Any) -> None: ...                # the engine of a database
def slot_rows(db: CoreDatabase) -> dict[str, SlotRow]: ...
