"""What `Database.locks` and `Database.waits_for` tell: who holds what, and who waits for whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Lock(NamedTuple):
    """A lock, or a read that a serializable transaction is remembered to have made.

    Attributes:
        transaction: number of its holder, or of who waits for it; see `Transaction.number`.
        isolation: the level of that transaction.
        keyspace: name of the keyspace; None for one that is being made, and for the place of serial execution.
        mode: ``"IS"`` and ``"IX"`` (of a keyspace: some of its keys are locked), ``"S"`` (nobody may change it),
            ``"U"`` (nor lock it for update), ``"X"`` (nor read it by a lock); ``""`` for the place.
        kind: ``"key"``, ``"range"``, ``"keyspace"``, or ``"place"`` of serial execution.
        start: the key, or the first of the range.
        stop: the range ends before it, or with it where a scan has come to; None for no end, and for a key.
        granted: whether it is held; else it is waited for.
    """

    transaction: int
    isolation: str
    keyspace: str | None
    mode: str
    kind: str
    start: bytes
    stop: bytes | None
    granted: bool


class Wait(NamedTuple):
    """A transaction that waits for another.

    Attributes:
        waiter: number of the transaction that waits.
        holder: number of the one in its way.
        keyspace: name of the keyspace; None as for `Lock`.
        mode: the lock that is wanted, as for `Lock`.
        kind: ``"key"``, ``"range"``, or ``"place"`` of serial execution.
        start: the key, or the first of the range; of a `DeadlockDetected.cycle` its first 64 bytes.
        stop: end of the range; None for no end, for a key, and in a cycle.
        seconds: for how long; 0 in a cycle.
    """

    waiter: int
    holder: int
    keyspace: str | None
    mode: str
    kind: str
    start: bytes
    stop: bytes | None = None
    seconds: float = 0.0


def locks_of(rows: Iterable[tuple[Any, ...]], names: dict[int | None, str]) -> list[Lock]:
    """Makes locks of the core's rows, with the intention locks on keyspaces that they amount to first."""
    locks = []
    intents: dict[tuple[int, str, str | None], str] = {}
    for transaction, isolation, keyspace, mode, kind, start, stop, granted in rows:
        lock = Lock(transaction, isolation, names.get(keyspace), mode, kind, start, stop, granted)
        if mode and mode != "read":
            place = (transaction, isolation, lock.keyspace)
            strongest = "IS" if mode == "S" else "IX"
            intents[place] = max(intents.get(place, ""), strongest)
        locks.append(lock)
    return [
        Lock(number, isolation, keyspace, mode, "keyspace", b"", None, True)
        for (number, isolation, keyspace), mode in intents.items()
    ] + locks
