"""What ``enginelib.open()`` can be told, with defaults and bounds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypedDict

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

PAGE_SIZES = (4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB)
SMALLEST_CACHE = MIB
SMALLEST_CACHE_PAGES = 64
LONGEST_WAIT = 86_400.0
MOST_PREPARED = 10_000
ABOVE_THE_CORE = ("max_prepared", "prepared_warning")


class Durability(StrEnum):
    """When a commit returns.

    ``SYNC``: once it is on stable storage; survives loss of power. The default.
    ``OS``: once the operating system has it; survives the death of the process, not loss of power.
    ``LAZY``: at once; synced in the background at least every ``lazy_interval`` seconds. A crash loses at
    most that, and never consistency.
    """

    SYNC = "sync"
    OS = "os"
    LAZY = "lazy"

    @property
    def level(self) -> int:
        """The number by which the core knows it: 0 lazy, 1 os, 2 sync."""
        return _LEVELS[self]

    @classmethod
    def of(cls, value: str) -> Durability:
        """Takes a member or its name.

        Args:
            value: ``"sync"``, ``"os"`` or ``"lazy"``, or a ``Durability``.

        Raises:
            ValueError: it is none of them.
        """
        try:
            return cls(value)
        except ValueError:
            raise ValueError(f"durability={value!r} is not one of {_choices(cls)}.") from None


_LEVELS = {Durability.LAZY: 0, Durability.OS: 1, Durability.SYNC: 2}


class Isolation(StrEnum):
    """What a transaction may see of the others; docs/guarantees.md says what each level prevents.

    ``READ_COMMITTED``: the newest committed state, statement by statement.
    ``SNAPSHOT``: one snapshot, first committer wins. The default.
    ``SERIALIZABLE``: a snapshot, whose reads are remembered; what no serial order allows is aborted.
    ``LOCKING``: reads lock what they read until the end (strict two-phase locking); deadlocks are broken.
    ``SERIAL``: alone among those that write.
    """

    READ_COMMITTED = "read_committed"
    SNAPSHOT = "snapshot"
    SERIALIZABLE = "serializable"
    LOCKING = "locking"
    SERIAL = "serial"

    @property
    def level(self) -> int:
        """The number by which the core knows it."""
        return _ISOLATION_LEVELS[self]

    @classmethod
    def of(cls, value: str) -> Isolation:
        """Takes a member or its name.

        Args:
            value: such as ``"snapshot"``, or an ``Isolation``.

        Raises:
            ValueError: it is no isolation level.
        """
        try:
            return cls(value)
        except ValueError:
            raise ValueError(f"isolation={value!r} is not one of {_choices(cls)}.") from None


_ISOLATION_LEVELS = {level: number for number, level in enumerate(Isolation)}


def _choices(cls: type[StrEnum]) -> str:
    return ", ".join(repr(member.value) for member in cls)


if TYPE_CHECKING:
    DurabilityName = Durability | Literal["sync", "os", "lazy"]
    IsolationName = Isolation | Literal["read_committed", "snapshot", "serializable", "locking", "serial"]

    class OptionValues(TypedDict, total=False):
        """The keyword arguments of `enginelib.open`; see `Options`."""

        create: bool
        read_only: bool
        durability: DurabilityName
        cache_size: int
        page_size: int
        segment_size: int
        log_buffer: int
        checkpoint_bytes: int
        version_budget: int
        transaction_budget: int
        lazy_interval: float
        lock_timeout: float
        allow_damaged: bool
        compaction_rate: int
        max_prepared: int
        prepared_warning: float
        archive: str | os.PathLike[str] | None

    class BeginValues(TypedDict, total=False):
        """The keyword arguments of `Database.transaction`."""

        isolation: IsolationName
        read_only: bool
        durability: DurabilityName | None
        lock_timeout: float | None
        deferrable: bool

    class KeyspaceOptions(TypedDict, total=False):
        """The keyword arguments of `Database.keyspace`, all but `before` for ``backend="lsm"``; kept with the keyspace.

        before: what is logged beside each change of what the key held before: ``"none"`` (the default), ``"key"``
            (whether it was there) or ``"full"`` (its value too).
        compaction: ``"leveled"`` (the default: least space, quickest reads) or ``"size_tiered"`` (least writing).
        compression: of tables: ``"none"`` (the default), ``"lz4"`` or ``"zstd"``, where this build has them.
        bits_per_key: of the Bloom filters; 10 by default, 0 for none.
        memtable_size: bytes in memory after which a table is written; 64 MiB by default.
        table_size: bytes of a table below level 0; 64 MiB by default.
        ttl: seconds after its commit at which a record expires; None, the default, for never.
        """

        before: Literal["none", "key", "full"]
        compaction: Literal["leveled", "size_tiered"]
        compression: Literal["none", "lz4", "zstd"]
        bits_per_key: int
        memtable_size: int
        table_size: int
        ttl: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The options of an open database. Immutable and picklable: ``enginelib.open(path, **options.as_dict())``
    reopens alike.

    Args:
        create: make the database when the directory is absent or empty.
        read_only: open for reading; other processes may do so at the same time.
        durability: when commits return, unless a transaction says otherwise. See `Durability`.
        cache_size: memory for pages, in bytes; at least 1 MiB and 64 pages.
        page_size: size of a B-tree page in bytes: 4096, 8192, 16384 or 32768. Fixed when the database is
            made.
        segment_size: size of a log file in bytes; 1 MiB to 1 GiB, a multiple of 4096.
        log_buffer: memory for records on their way to the log, in bytes; twice this is taken.
        checkpoint_bytes: volume of log after which a checkpoint is begun, in bytes; bounds the time of
            recovery.
        version_budget: memory for versions that snapshots may still need, in bytes; past it the oldest
            snapshot gets `SnapshotTooOld`.
        transaction_budget: undo that one transaction may hold, in bytes; past it it gets
            `TransactionTooLarge`.
        lazy_interval: longest time that a ``lazy`` commit stays unsynced, in seconds.
        lock_timeout: longest wait for a row lock, or at opening for another process, in seconds; 0 never
            waits.
        allow_damaged: open although a table of an LSM keyspace is missing or damaged; that keyspace raises
            `CorruptionError`, the others work.
        compaction_rate: bytes a second that compactions of LSM keyspaces write at most; 0 for no bound.
        max_prepared: how many transactions may be prepared at a time; see `Transaction.prepare`.
        prepared_warning: seconds after which a transaction that is still prepared is warned of in the log of
            the program.
        archive: directory to which every log segment is copied before it goes, for `enginelib.restore`; None for no
            archive.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of bounds.
    """

    create: bool = True
    read_only: bool = False
    durability: Durability = Durability.SYNC
    cache_size: int = 256 * MIB
    page_size: int = 8 * KIB
    segment_size: int = 16 * MIB
    log_buffer: int = MIB
    checkpoint_bytes: int = 256 * MIB
    version_budget: int = GIB
    transaction_budget: int = 256 * MIB
    lazy_interval: float = 0.1
    lock_timeout: float = 5.0
    allow_damaged: bool = False
    compaction_rate: int = 0
    max_prepared: int = 100
    prepared_warning: float = 3600.0
    archive: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "durability", Durability.of(self.durability))
        _boolean("create", self.create)
        _boolean("read_only", self.read_only)
        _boolean("allow_damaged", self.allow_damaged)
        _bounded("compaction_rate", self.compaction_rate, 0, 1 << 46)
        _counted("max_prepared", self.max_prepared, 0, MOST_PREPARED)
        object.__setattr__(self, "prepared_warning", seconds("prepared_warning", self.prepared_warning))
        _whole("page_size", self.page_size)
        if self.page_size not in PAGE_SIZES:
            sizes = ", ".join(str(size) for size in PAGE_SIZES)
            raise ValueError(f"page_size={self.page_size} is not one of {sizes}.")
        smallest_cache = max(SMALLEST_CACHE, SMALLEST_CACHE_PAGES * self.page_size)
        _bounded("cache_size", self.cache_size, smallest_cache, 1 << 46)
        _bounded("segment_size", self.segment_size, MIB, GIB)
        if self.segment_size % 4096:
            raise ValueError(
                f"segment_size={self.segment_size} is not a multiple of 4096; "
                f"use {self.segment_size // 4096 * 4096 + 4096}."
            )
        _bounded("log_buffer", self.log_buffer, 64 * KIB, 64 * MIB)
        _bounded("checkpoint_bytes", self.checkpoint_bytes, 64 * KIB, 1 << 46)
        _bounded("version_budget", self.version_budget, MIB, 1 << 46)
        _bounded("transaction_budget", self.transaction_budget, 64 * KIB, 1 << 46)
        object.__setattr__(self, "lazy_interval", seconds("lazy_interval", self.lazy_interval, smallest=0.001))
        object.__setattr__(self, "lock_timeout", seconds("lock_timeout", self.lock_timeout))
        if self.archive is not None:
            object.__setattr__(self, "archive", _directory("archive", self.archive))
            if self.read_only:
                raise ValueError("archive= belongs to a database that writes; leave it out with read_only=True.")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Makes options from keyword arguments.

        Args:
            options: names and values; what is absent takes its default.

        Raises:
            TypeError: a name is unknown (its nearest relative is suggested), or a value of the wrong type.
            ValueError: a value is out of bounds.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise TypeError(f"open() has no option {name!r}{_suggestion(name, known)}.")
        return cls(**options)

    def as_dict(self) -> dict[str, Any]:
        """Returns the options as keyword arguments of plain values for ``enginelib.open()``."""
        return {**asdict(self), "durability": self.durability.value}

    def for_core(self) -> dict[str, Any]:
        """Returns the options that the core takes: durability as a number, of the archive whether there is one."""
        values = {**asdict(self), "durability": self.durability.level}
        for name in ABOVE_THE_CORE:
            del values[name]
        values["hold_log"] = values.pop("archive") is not None
        return values


def seconds(name: str, value: object, smallest: float = 0.0) -> float:
    """Checks a duration.

    Args:
        name: the option's name, for the message.
        value: the duration in seconds.
        smallest: the least that is allowed, in seconds.

    Returns:
        The duration as a float.

    Raises:
        TypeError: it is no number.
        ValueError: it is below `smallest`, above a day, or no finite number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}.")
    if not math.isfinite(value) or not smallest <= value <= LONGEST_WAIT:
        raise ValueError(f"{name}={value} is outside {smallest:g} to {LONGEST_WAIT:g} seconds; give one within them.")
    return float(value)


def _directory(name: str, value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be the path of a directory, not {type(value).__name__}.")
    place = os.fspath(value)
    if not isinstance(place, str):
        raise TypeError(f"{name} must be a path as str, not {type(place).__name__}; decode it by os.fsdecode().")
    if not place:
        raise ValueError(f"{name} is an empty path; name a directory.")
    return os.path.abspath(place)


def _boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {type(value).__name__}.")


def _whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of bytes, not {type(value).__name__}.")


def _counted(name: str, value: int, smallest: int, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}.")
    if not smallest <= value <= largest:
        raise ValueError(f"{name}={value} is outside {smallest} to {largest}; give one within them.")


def _bounded(name: str, value: int, smallest: int, largest: int) -> None:
    _whole(name, value)
    if value < smallest:
        raise ValueError(f"{name}={value} is below its least, {smallest} bytes; give at least that.")
    if value > largest:
        raise ValueError(f"{name}={value} is above its most, {largest} bytes; give at most that.")


def _suggestion(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}"
