"""Command logging: the calls of procedures, recorded beside what they changed so that they can be made again.

After Malviya, Weisberg, Madden and Stonebraker, *Rethinking Main Memory OLTP Recovery* (ICDE 2014), with one
difference: the changes are logged too, and recovery uses those. The call is for readers of the log, who may repeat it
in place of its changes. For that a procedure may depend on nothing but the database, its arguments, ``txn.now()`` and
``txn.random()``.

Data flow: the arguments are encoded (MessagePack) and decoded before the function sees them, so that it sees the same
at every repetition; time and seed are taken from the log's clock and the system's entropy, once; the function runs; its
call is logged just before the commit, if it changed anything.

A checked procedure runs twice, with the same call. The changes of the first run are taken back; if the second makes
others, or returns something else, the procedure is nondeterministic, and fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from enginelib.errors import NotDeterministic
from enginelib.transaction import Supplied, Transaction

if TYPE_CHECKING:
    from enginelib._native.engine.door import Buffer
    from enginelib.keyspace import Keyspace

SEED_BYTES = 8


class Call(NamedTuple):
    """A call of a procedure that was logged.

    Attributes:
        name: of the procedure.
        args: after the transaction; as MessagePack returns them (a tuple comes back as a list).
        now: what ``txn.now()`` returned, in microseconds since 1970.
        seed: of ``txn.random()``, 64 bits.
    """

    name: str
    args: list[Any]
    now: int
    seed: int


def decode_call(name: bytes, args: bytes, now: int, seed: int) -> Call:
    """Returns a call as it is in the log."""
    return Call(name.decode(), _codec().decode(args), now, seed)


class Logged:
    """A procedure whose calls are logged."""

    __slots__ = ("checked", "function", "name", "transaction_class")

    def __init__(self, name: str, function: Callable[..., Any], checked: bool) -> None:
        _codec()
        self.name = name
        self.function = function
        self.checked = checked
        self.transaction_class: type[Transaction] = Noting if checked else Transaction

    def __call__(self, txn: Transaction, *args: Any) -> Any:
        return self.run(self.encode(args), txn.wall_micros(), int.from_bytes(os.urandom(SEED_BYTES), "little"), txn)

    def repeated(self, call: Call) -> Callable[[Transaction], Any]:
        """Returns a function that makes a call again."""
        return partial(self.run, self.encode(call.args), call.now, call.seed)

    def run(self, encoded: bytes, now: int, seed: int, txn: Transaction) -> Any:
        value = (self.run_twice if self.checked else self.run_once)(encoded, now, seed, txn)
        if txn.state == "active":
            txn.log_call(now, seed, self.name.encode(), encoded)
        return value

    def run_once(self, encoded: bytes, now: int, seed: int, txn: Transaction) -> Any:
        txn.supplied = Supplied(now, seed)
        return self.function(txn, *_codec().decode(encoded))

    def run_twice(self, encoded: bytes, now: int, seed: int, txn: Transaction) -> Any:
        assert isinstance(txn, Noting)
        with txn.savepoint() as savepoint:
            first = self.run_once(encoded, now, seed, txn)
            if txn.state != "active":
                return first
            changes = list(txn.changes)
            savepoint.rollback()
            second = self.run_once(encoded, now, seed, txn)
        for one, other in zip(changes, txn.changes, strict=False):
            if one != other:
                raise NotDeterministic(
                    f"Procedure {self.name!r} did {_shown(one)} in its first run and {_shown(other)} in its second."
                )
        if len(changes) != len(txn.changes):
            raise NotDeterministic(
                f"Procedure {self.name!r} made {len(changes)} changes in its first run and {len(txn.changes)} in its "
                "second."
            )
        if type(first) is not type(second) or repr(first) != repr(second):
            raise NotDeterministic(
                f"Procedure {self.name!r} returned {first!r} in its first run and {second!r} in its second."
            )
        return second

    def encode(self, args: Iterable[Any]) -> bytes:
        """Returns the arguments as they are logged."""
        try:
            return _codec().encode(list(args))
        except (TypeError, OverflowError, ValueError) as error:
            raise TypeError(
                f"The arguments of {self.name!r} cannot be logged: {error}. A logged procedure takes None, bool, int, "
                "float, str, bytes, lists and dicts of them, and dates."
            ) from None


class Noting(Transaction):
    """A transaction that notes its changes, for the comparison of two runs."""

    __slots__ = ()

    @property
    def changes(self) -> list[tuple[Any, ...]]:
        """The changes since `supplied` was set."""
        noted: list[tuple[Any, ...]] = self.supplied.changes
        return noted

    def put(self, keyspace: Keyspace, key: Buffer, value: Buffer) -> None:  # type: ignore[override]
        self.changes.append(("put", keyspace.name, bytes(key), bytes(value)))
        super().put(keyspace, key, value)

    def put_many(self, keyspace: Keyspace, pairs: Iterable[tuple[Buffer, Buffer]]) -> int:  # type: ignore[override]
        pairs = [(bytes(key), bytes(value)) for key, value in pairs]
        self.changes.extend(("put", keyspace.name, key, value) for key, value in pairs)
        return super().put_many(keyspace, pairs)

    def delete(self, keyspace: Keyspace, key: Buffer, blind: bool = False) -> bool | None:  # type: ignore[override]
        self.changes.append(("delete", keyspace.name, bytes(key)))
        return super().delete(keyspace, key, blind)

    def delete_range(self, keyspace: Keyspace, start: Any = None, stop: Any = None) -> int | None:  # type: ignore[override]
        self.changes.append(("delete_range", keyspace.name, start, stop))
        return super().delete_range(keyspace, start, stop)

    def combine(  # type: ignore[override]
        self, keyspace: Keyspace, key: Buffer, function: Callable[[bytes | None], Buffer | None], reads: bool = False
    ) -> None:
        def noted(old: bytes | None) -> Buffer | None:
            new = function(old)
            if new is not None:
                self.changes.append(("put", keyspace.name, bytes(key), bytes(new)))
            return new

        super().combine(keyspace, key, noted, reads)

    def create_keyspace(  # type: ignore[override]
        self, name: str, backend: str = "btree", **options: Any
    ) -> Keyspace:
        self.changes.append(("create_keyspace", name, backend, options))
        return super().create_keyspace(name, backend, **options)

    def drop_keyspace(self, name: str) -> None:
        self.changes.append(("drop_keyspace", name))
        super().drop_keyspace(name)

    def rename_keyspace(self, old: str, new: str) -> None:
        self.changes.append(("rename_keyspace", old, new))
        super().rename_keyspace(old, new)

    def rollback_to(self, depth: int) -> None:
        self.changes.append(("rollback_to", depth))
        super().rollback_to(depth)


class _Codec(NamedTuple):
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _codec() -> _Codec:
    """MessagePack; the library is imported when it is wanted first."""
    global _loaded
    if _loaded is None:
        try:
            import msgspec
        except ImportError:
            raise ImportError(
                "Logged procedures need the package msgspec, for their arguments: pip install 'enginelib[replication]'."
            ) from None
        _loaded = _Codec(msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode)
    return _loaded


_loaded: _Codec | None = None


def _shown(change: tuple[Any, ...]) -> str:
    text = f"{change[0]}({', '.join(repr(each) for each in change[1:])})"
    return text if len(text) <= 200 else f"{text[:200]}..."
