"""Transactions, the views through which they read like mappings, and savepoints."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

from enginelib.combine import Commuting
from enginelib.keyspace import Keyspace
from enginelib.mapping import Bound, Pairs, RangeMapping, bounds, pairs_of

if TYPE_CHECKING:
    from random import Random

    from enginelib._native.engine.door import Buffer
    from enginelib.database import Database
    from enginelib.options import KeyspaceOptions

MISSING: Any = object()
MICRO = 1e-6


class Supplied:
    """What a transaction is told by `Transaction.now` and `Transaction.random`."""

    __slots__ = ("changes", "now", "numbers", "seed")

    def __init__(self, now: int, seed: int) -> None:
        self.now = now
        self.seed = seed
        self.numbers: Random | None = None
        self.changes: list[tuple[Any, ...]] = []


class Transaction(Commuting):
    """A unit of work: all of its changes become visible and durable together, or none does.

    Made by `Database.transaction`. Used in a ``with`` block it commits at the block's end and aborts when an
    exception leaves the block; without one, end it by `commit` or `abort`. One thread at a time may use it.

    ``get``, ``put``, ``delete``, ``get_many``, ``put_many``, ``delete_range``, ``scan``, ``get_for_update``,
    ``lock_range``, ``read_conflict``, ``write_conflict`` and the commutative operations ``add``, ``max``, ``min``,
    ``bit_and``, ``bit_or``, ``append_if_fits`` and ``compare_and_set`` take a keyspace first; ``txn[keyspace]`` is the
    same as a mapping.

    Attributes:
        isolation: its level; see `Isolation`. Empty once it has ended.
        commit_lsn: where the log goes on behind its commit, for `Follower.wait_for`; 0 before, and for one that wrote
            nothing.
        number: its place among the transactions begun since the database was opened; locks are told by it.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        database: Database

    def __getitem__(self, keyspace: Keyspace) -> View:
        """Returns a keyspace as this transaction sees and changes it.

        Args:
            keyspace: the keyspace, from `Database.keyspace`.

        Raises:
            TypeError: it is no keyspace; a name is looked up by ``db[name]``.
        """
        if not isinstance(keyspace, Keyspace):
            raise TypeError(f"txn[...] takes a Keyspace, not {type(keyspace).__name__}; look a name up by db[name].")
        return View(self, keyspace)

    def savepoint(self) -> Savepoint:
        """Returns a context manager that marks this point: an exception leaving its block undoes what the
        block did.

        Savepoints nest. `Savepoint.rollback` undoes on demand.
        """
        return Savepoint(self)

    def keyspace(self, name: str) -> Keyspace:
        """Returns a keyspace as this transaction knows it, which may have made or renamed it.

        Raises:
            KeyError: it knows none of that name.
        """
        found: Keyspace | None = self.open_keyspace(Keyspace, name)
        if found is None:
            raise KeyError(f"no keyspace named {name!r} in this transaction")
        return found

    def create_keyspace(  # type: ignore[override]
        self, name: str, backend: str = "btree", **options: Unpack[KeyspaceOptions]
    ) -> Keyspace:
        """Makes a keyspace within this transaction; it exists for others once this commits.

        Args:
            name: its name, which no keyspace may bear yet.
            backend: the kind of tree: ``"btree"`` or ``"lsm"``.
            options: of an LSM keyspace, see `KeyspaceOptions`.

        Returns:
            The keyspace.

        Raises:
            ValueError: the name is taken, or not fit.
            NotSupported: the backend is not available.
        """
        made: Keyspace = super().create_keyspace(Keyspace, name, backend, dict(options))
        return made

    def now(self) -> float:
        """Returns the time, in seconds since 1970; the same throughout the transaction.

        Successive transactions never see it go back while the database is open. In a logged procedure it is part of
        the logged call, so that a repetition sees the same.
        """
        return self._told().now * MICRO

    def random(self) -> Random:
        """Returns a generator of random numbers, the transaction's own.

        In a logged procedure its seed is part of the logged call, so that a repetition draws the same numbers. It is
        no source of secrets.
        """
        told = self._told()
        if told.numbers is None:
            from random import Random  # not before it is wanted: it takes a while

            told.numbers = Random(told.seed)
        return told.numbers

    def _told(self) -> Supplied:
        told: Supplied | None = self.supplied
        if told is None:
            told = self.supplied = Supplied(self.wall_micros(), int.from_bytes(os.urandom(8), "little"))
        return told

    def prepare(self, xid: str) -> None:
        """Promises, durably, that the transaction will commit or roll back, whichever `Database.commit_prepared` or
        `Database.rollback_prepared` says: the first phase of two-phase commit.

        This handle has ended then, and nothing but the xid leads to the transaction: from any thread of this process,
        or after a crash or a restart from any later one. Until then its changes are seen by nobody, and its locks and
        remembered reads keep blocking as they did. Prepare is durable always, whatever the database's ``durability``.

        Args:
            xid: the name by which it is ended, 1 to 200 bytes in UTF-8, no NUL; unique among those prepared and those
                whose outcome is kept.

        Raises:
            ValueError: the xid is not fit, or taken.
            UsageError: it is read-only or ``"serial"``, or as many are prepared as ``max_prepared`` allows.
            SerializationFailure: committing it would give what no serial order gives; it is to be aborted.
            OutcomeUnknown: the log failed; after the next opening it may be prepared or gone.
        """
        from enginelib.prepared import prepare

        prepare(self, xid)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A Transaction cannot be pickled: it belongs to one open database. Begin one where it is needed."
        )

    def __repr__(self) -> str:
        mode = "read-only " if self.read_only else ""
        return f"<enginelib.Transaction {mode}{self.state}, snapshot {self.snapshot}>"


class View(RangeMapping):
    """A keyspace as one transaction sees it: a ``MutableMapping`` with slices.

    Slices are half-open ranges of keys; ``view[a:b:-1]`` reads them in descending order, ``del view[a:b]``
    deletes them.
    """

    __slots__ = ("keyspace", "transaction")

    def __init__(self, transaction: Transaction, keyspace: Keyspace) -> None:
        self.transaction = transaction
        self.keyspace = keyspace

    def __getitem__(self, key: Any) -> Any:
        """Returns the value of a key, or for a slice an iterator of (key, value) tuples; ``KeyError`` when
        absent."""
        if isinstance(key, slice):
            start, stop, reverse = bounds(key)
            return self.transaction.scan(self.keyspace, start, stop, reverse=reverse)
        value = self.transaction.get(self.keyspace, key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: Buffer, value: Buffer) -> None:
        self.transaction.put(self.keyspace, key, value)

    def __delitem__(self, key: Any) -> None:
        """Deletes a key (``KeyError`` when absent), or all keys of a slice."""
        if isinstance(key, slice):
            start, stop, _ = bounds(key)
            self.transaction.delete_range(self.keyspace, start, stop)
        elif not self.transaction.delete(self.keyspace, key):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return self.transaction.contains(self.keyspace, key)  # type: ignore[arg-type]

    def get(self, key: Buffer, default: Any = None) -> Any:
        """Returns the value of a key, or the default when it is absent."""
        return self.transaction.get(self.keyspace, key, default)

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
        """Reads a range in order of keys, as the transaction sees it.

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
        return self.transaction.scan(
            self.keyspace, start, stop, prefix=prefix, reverse=reverse, limit=limit, keys=keys, values=values
        )

    def get_many(self, keys: Iterable[Buffer]) -> list[bytes | None]:
        """Returns the values of many keys in their order, None where absent; faster than one look-up each."""
        return self.transaction.get_many(self.keyspace, keys)

    def put_many(self, pairs: Iterable[tuple[Buffer, Buffer]]) -> int:
        """Puts many (key, value) tuples; returns how many."""
        return self.transaction.put_many(self.keyspace, pairs)

    def pop(self, key: Buffer, default: Any = MISSING) -> Any:
        """Removes a key and returns its value; when absent the default, or ``KeyError`` without one."""
        value = self.get(key, MISSING)
        if value is not MISSING:
            self.transaction.delete(self.keyspace, key)
            return value
        if default is MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[bytes, bytes]:
        """Removes the first key and returns it with its value; ``KeyError`` when there is none."""
        first: tuple[bytes, bytes] | None = next(self.scan(limit=1), None)
        if first is None:
            raise KeyError("popitem(): the keyspace is empty")
        self.transaction.delete(self.keyspace, first[0])
        return first

    def setdefault(self, key: Buffer, default: Buffer) -> bytes:
        """Returns the value of a key, after putting the default when it is absent."""
        value = self.get(key, MISSING)
        if value is MISSING:
            self.transaction.put(self.keyspace, key, default)
            return bytes(default)
        return bytes(value)

    def update(self, items: Pairs = (), /, **more: Any) -> None:
        """Puts all pairs of a mapping, or of an iterable of (key, value)."""
        self.put_many(pairs_of(items, more))

    def clear(self) -> None:
        """Deletes every key."""
        self.transaction.delete_range(self.keyspace, None, None)

    def __repr__(self) -> str:
        return f"<enginelib.View of {self.keyspace.name!r} in {self.transaction!r}>"


class Savepoint:
    """A mark in a transaction, from `Transaction.savepoint`; used in a ``with`` block.

    Leaving the block by its end keeps its changes as part of the transaction; leaving it by an exception
    undoes them, and the exception goes on. A block in which the transaction was ended does neither.
    """

    __slots__ = ("_depth", "_transaction")

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._depth: int | None = None

    def __enter__(self) -> Savepoint:
        if self._depth is not None:
            raise RuntimeError("This savepoint is in use already; take another by savepoint().")
        self._depth = self._transaction.save()
        return self

    def rollback(self) -> None:
        """Undoes everything since the block began (or since the last rollback in it); the block goes on."""
        if self._depth is None:
            raise RuntimeError("This savepoint is not open; use it in a with block.")
        self._transaction.rollback_to(self._depth)
        self._depth = self._transaction.save()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        depth, self._depth = self._depth, None
        if depth is None or self._transaction.state != "active":
            return
        if kind is None:
            self._transaction.release(depth)
        else:
            self._transaction.rollback_to(depth)
