"""Commutative operations of a transaction: they take the newest value of a key whatever its snapshot, and so wait for
each other but never abort each other.

The idea is that of escrow and commutativity locking (O'Neil, *The Escrow Transactional Method*, TODS 1986; Weihl,
*Commutativity-Based Concurrency Control*, 1988), with the row's lock in place of a lock of their own: who comes
second waits until the first has ended, and applies its operation to what is there then. A transaction that reads
such a key afterwards would see more than its snapshot: it gets `WriteConflict` instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enginelib._native.engine.door import CoreTransaction

if TYPE_CHECKING:
    from enginelib._native.engine.door import Buffer
    from enginelib.keyspace import Keyspace

WIDTH = 8
LARGEST = 1 << 63
MOST = 1 << 30


def to_counter(number: int) -> bytes:
    """Returns a number as `Transaction.add` keeps it: 8 bytes, little-endian, two's complement."""
    return number.to_bytes(WIDTH, "little", signed=True)


def from_counter(value: bytes | None) -> int:
    """Returns the number that a counter's value stands for; 0 for an absent one.

    Raises:
        ValueError: the value is no counter: it is not of 8 bytes.
    """
    if value is None:
        return 0
    if len(value) != WIDTH:
        raise ValueError(f"the value has {len(value)} bytes; a counter has {WIDTH}: make it by to_counter()")
    return int.from_bytes(value, "little", signed=True)


class Commuting(CoreTransaction):
    """The commutative operations of a transaction."""

    __slots__ = ()

    def add(self, keyspace: Keyspace, key: Buffer, n: int) -> None:
        """Adds to a counter; an absent one counts as 0.

        Args:
            keyspace: where.
            key: the counter's key; its value is as `to_counter` makes it.
            n: what is added; may be negative.

        Raises:
            ValueError: the key's value is no counter.
            OverflowError: the sum does not fit into 64 bits.
            LockTimeout, DeadlockDetected: the row was not to be had.
        """

        def plus(value: bytes | None) -> bytes:
            total = from_counter(value) + n
            if not -LARGEST <= total < LARGEST:
                raise OverflowError(f"the counter would be {total}, which does not fit into 64 bits")
            return to_counter(total)

        self.combine(keyspace, key, plus)

    def max(self, keyspace: Keyspace, key: Buffer, n: int) -> None:
        """Raises a counter to `n` where it is less; an absent one becomes `n`. As `add` otherwise."""
        self.combine(keyspace, key, lambda value: to_counter(n) if value is None or from_counter(value) < n else None)

    def min(self, keyspace: Keyspace, key: Buffer, n: int) -> None:
        """Lowers a counter to `n` where it is more; an absent one becomes `n`. As `add` otherwise."""
        self.combine(keyspace, key, lambda value: to_counter(n) if value is None or from_counter(value) > n else None)

    def bit_and(self, keyspace: Keyspace, key: Buffer, mask: Buffer) -> None:
        """Keeps the bits of a value that `mask` has too; the shorter of both is filled up with zeros.

        Args:
            keyspace: where.
            key: the key.
            mask: bytes. Of an absent key nothing becomes of it.
        """
        bits = bytes(mask)
        self.combine(keyspace, key, lambda value: None if value is None else _bitwise(value, bits, int.__and__))

    def bit_or(self, keyspace: Keyspace, key: Buffer, mask: Buffer) -> None:
        """Sets the bits of a value that `mask` has; the shorter of both, or an absent value, is filled up with
        zeros. As `bit_and` otherwise."""
        bits = bytes(mask)
        self.combine(keyspace, key, lambda value: _bitwise(value or b"", bits, int.__or__))

    def append_if_fits(self, keyspace: Keyspace, key: Buffer, suffix: Buffer, limit: int = MOST) -> None:
        """Adds bytes to the end of a value, unless it would be longer than `limit` bytes: then nothing is changed.

        Args:
            keyspace: where.
            key: the key; an absent value counts as empty.
            suffix: what is added.
            limit: most bytes that the value may have, up to 1 GiB.
        """
        if not 0 <= limit <= MOST:
            raise ValueError(f"limit={limit} is outside 0 to {MOST} bytes; give one within them.")
        more = bytes(suffix)

        def extended(value: bytes | None) -> bytes | None:
            old = value or b""
            return old + more if len(old) + len(more) <= limit else None

        self.combine(keyspace, key, extended)

    def compare_and_set(self, keyspace: Keyspace, key: Buffer, expected: Buffer | None, new: Buffer | None) -> bool:
        """Puts a value if the newest one is what is expected.

        Args:
            keyspace: where.
            key: the key.
            expected: the value that has to be there; None: none may be there.
            new: the value put; None deletes.

        Returns:
            Whether it was as expected. The row stays locked in either case, so the answer holds until the
            transaction ends.
        """
        wanted = None if expected is None else bytes(expected)
        same: list[bool] = []

        def compared(value: bytes | None) -> Any:
            same.append(value == wanted)
            return new if same[-1] else None

        self.combine(keyspace, key, compared, reads=True)
        if same[-1] and new is None and wanted is not None:
            self.delete(keyspace, key, blind=True)
        return same[-1]


def _bitwise(value: bytes, mask: bytes, operation: Any) -> bytes:
    width = max(len(value), len(mask))
    result: int = operation(int.from_bytes(value, "little"), int.from_bytes(mask, "little"))
    return result.to_bytes(width, "little")
