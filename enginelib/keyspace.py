"""Keyspaces in the Mapping style: every operation is a transaction of its own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

from enginelib._native.engine.door import CoreKeyspace
from enginelib.errors import NotSupported
from enginelib.mapping import Bound, Pairs, RangeMapping, bounds, pairs_of

if TYPE_CHECKING:
    from enginelib._native.engine.door import Buffer
    from enginelib.database import Database

MISSING: Any = object()


class Keyspace(CoreKeyspace, RangeMapping):
    """A named, ordered map from ``bytes`` to ``bytes``; a ``MutableMapping`` with slices.

    Made by `Database.keyspace`; may be used from any thread. Each operation is a transaction of its own, at
    the database's durability: ``pop``, ``setdefault``, ``update``, ``clear`` and ``del keyspace[a:b]`` happen
    whole or not at all, and are retried when they meet a conflict. To make several operations one
    transaction, use `Database.transaction` and ``txn[keyspace]``. Two keyspaces are equal only if they are
    the same object.

    ``get``, ``put``, ``delete``, ``get_many``, ``put_many`` are the core's.
    """

    if TYPE_CHECKING:
        database: Database

    def __getitem__(self, key: Any) -> Any:
        """Returns the value of a key (``KeyError`` when absent), or for a slice an iterator of (key, value)
        tuples."""
        if isinstance(key, slice):
            start, stop, reverse = bounds(key)
            return self.scan(start, stop, reverse=reverse)
        return super().__getitem__(key)

    def __delitem__(self, key: Any) -> None:
        """Deletes a key (``KeyError`` when absent), or all keys of a slice."""
        if isinstance(key, slice):
            start, stop, _ = bounds(key)
            self.database.run(lambda txn: txn.delete_range(self, start, stop))
        else:
            super().__delitem__(key)

    def scan(
        self,
        start: Bound = None,
        stop: Bound = None,
        *,
        prefix: Bound = None,
        reverse: bool = False,
        limit: int | None = None,
        keys: bool = True,
        values: bool = True,
    ) -> Iterator[Any]:
        """Reads a range in order of keys, from a snapshot taken by this call.

        The snapshot is given up when the iterator ends or is dropped; keep none for long, because it holds
        old versions in memory.

        Args:
            start: first key; None for the very first.
            stop: the range ends before it, also in reverse; None for no end.
            prefix: read only keys that begin with it.
            reverse: descending order.
            limit: most entries read; None for all.
            keys: yield keys.
            values: yield values; with keys, tuples of both.

        Returns:
            An iterator of (key, value), or of what is asked for alone.
        """
        return self.database.transaction(read_only=True).scan(
            self, start, stop, prefix=prefix, reverse=reverse, limit=limit, keys=keys, values=values
        )

    def pop(self, key: Buffer, default: Any = MISSING) -> Any:
        """Removes a key and returns its value; when absent the default, or ``KeyError`` without one."""
        value = self.database.run(lambda txn: txn[self].pop(key, MISSING))
        if value is not MISSING:
            return value
        if default is MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[bytes, bytes]:
        """Removes the first key and returns it with its value; ``KeyError`` when there is none."""
        first: tuple[bytes, bytes] = self.database.run(lambda txn: txn[self].popitem())
        return first

    def setdefault(self, key: Buffer, default: Buffer) -> bytes:
        """Returns the value of a key, after putting the default when it is absent."""
        value: bytes = self.database.run(lambda txn: txn[self].setdefault(key, default))
        return value

    def update(self, items: Pairs = (), /, **more: Any) -> None:
        """Puts all pairs of a mapping, or of an iterable of (key, value), in one transaction."""
        pairs = list(pairs_of(items, more))
        self.database.run(lambda txn: txn.put_many(self, pairs))

    def clear(self) -> None:
        """Deletes every key, in one transaction."""
        self.database.run(lambda txn: txn.delete_range(self, None, None))

    def ingest(self, pairs: Any, *, logged: bool = True) -> int:
        """Loads pairs that come in the order of their keys, all in one transaction; for an LSM-tree the fastest way in.

        There the pairs are written to tables at once, past memory and compaction, in constant memory however many
        they are. When the last one is written the range of their keys is locked for a moment, as by
        ``delete_range``, and the tables join the tree. A time to live counts from the beginning of the load. A
        B-tree puts them as ``put_many`` does.

        Args:
            pairs: (key, value) tuples or a mapping; keys strictly ascending.
            logged: write the pairs to the log too, for who reads it. Without, the load is as safe, once this
                returns, and writes half as much. LSM keyspaces only.

        Returns:
            How many there were.

        Raises:
            ValueError: the keys do not ascend.
            NotSupported: a B-tree keyspace, and not logged.
            LockTimeout: a transaction with changes in the range did not end in time.
        """
        if self.backend == "lsm":
            return self.core_ingest(pairs, logged)
        if not logged:
            raise NotSupported("Only an LSM keyspace can be loaded past the log.")
        work = list(pairs.items() if hasattr(pairs, "items") else pairs)
        if any(bytes(a[0]) >= bytes(b[0]) for a, b in pairwise(work)):
            raise ValueError("the keys do not ascend: sort the pairs, and give each key once")
        return int(self.database.run(lambda txn: txn.put_many(self, work)))

    def compact(self, start: Bound = None, stop: Bound = None) -> None:
        """Gives free space back to the file system, as far as it can now.

        For a B-tree this is a checkpoint of the database, which moves the tail of its file down and cuts it.
        For an LSM-tree what is in memory is written to tables, and the tables that hold keys of the range are
        merged down to the last level, so that deleted, expired and overwritten records go.

        Args:
            start: first key of the range; None for the very first. A B-tree has no use for a range.
            stop: the last key (tables are compacted whole); None for no end.
        """
        if self.backend == "lsm":
            self.core_compact(None if start is None else bytes(start), None if stop is None else bytes(stop))
        else:
            self.database.checkpoint()

    def stats(self) -> dict[str, Any]:
        """Returns figures of this keyspace: a nested dict of plain values."""
        return self.core_stats()

    def __reduce__(self) -> NoReturn:
        raise TypeError("A Keyspace cannot be pickled: send its name, and open the database where it is needed.")

    def __repr__(self) -> str:
        return f"<enginelib.Keyspace {self.name!r} ({self.backend}) of {self.database.path!r}>"
