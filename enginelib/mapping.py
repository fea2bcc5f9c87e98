"""The Mapping style, shared by keyspaces and by a transaction's views of them.

`RangeMapping` writes every mixin of ``MutableMapping`` in terms of a few primitives, so that iterating costs
one scan and not one look-up per key, and so that slices work: half-open ranges of keys, of which a step of -1
reverses the order.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from typing import Any

Bound = bytes | bytearray | memoryview | None
Pairs = Mapping[Any, Any] | Iterable[tuple[Any, Any]]


def bounds(span: slice) -> tuple[Bound, Bound, bool]:
    """Takes a slice of keys apart.

    Args:
        span: ``start:stop`` or ``start:stop:-1``; start is included and stop is not, whatever the order.

    Returns:
        Start, stop (None where open), and whether the order is descending.

    Raises:
        ValueError: the step is neither 1 nor -1.
    """
    if span.step not in (None, 1, -1):
        raise ValueError(f"A slice of keys has step 1 or -1, not {span.step!r}; use scan(limit=...) to read a part.")
    return span.start, span.stop, span.step == -1


def pairs_of(items: Pairs, more: Mapping[str, Any]) -> Iterable[tuple[Any, Any]]:
    """Returns the pairs of what ``update()`` was given.

    Args:
        items: a mapping, or an iterable of (key, value).
        more: keyword arguments, which have no meaning here.

    Raises:
        TypeError: keyword arguments were given; their names are strings, and keys are bytes.
    """
    if more:
        raise TypeError("update() takes no keyword arguments: keys are bytes; give a mapping or pairs.")
    if isinstance(items, (Mapping, RangeMapping)):
        return items.items()
    return items


class Keys(KeysView[bytes]):
    """The keys of a keyspace in ascending order, read by one scan."""

    __slots__ = ()
    _mapping: RangeMapping

    def __iter__(self) -> Iterator[bytes]:
        return self._mapping.scan(values=False)

    def __reversed__(self) -> Iterator[bytes]:
        return self._mapping.scan(values=False, reverse=True)


class Values(ValuesView[bytes]):
    """The values of a keyspace in the order of their keys, read by one scan."""

    __slots__ = ()
    _mapping: RangeMapping

    def __iter__(self) -> Iterator[bytes]:
        return self._mapping.scan(keys=False)

    def __reversed__(self) -> Iterator[bytes]:
        return self._mapping.scan(keys=False, reverse=True)

    def __contains__(self, value: object) -> bool:
        return any(each == value for each in self)


class Items(ItemsView[bytes, bytes]):
    """The (key, value) tuples of a keyspace in the order of their keys, read by one scan."""

    __slots__ = ()
    _mapping: RangeMapping

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._mapping.scan()

    def __reversed__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._mapping.scan(reverse=True)


class RangeMapping:
    """What `Keyspace` and `View` have in common; registered as a ``MutableMapping``, compared by identity."""

    __slots__ = ()

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
        """Reads a range in order of keys; what it is read in depends on the class."""
        raise TypeError(f"{type(self).__name__} defines no scan().")

    def __getitem__(self, key: Any) -> Any:
        """Returns the value of a key, or for a slice an iterator of (key, value) tuples."""
        raise TypeError(f"{type(self).__name__} defines no __getitem__().")

    def __iter__(self) -> Iterator[bytes]:
        """Iterates over the keys in ascending order."""
        return self.scan(values=False)

    def __reversed__(self) -> Iterator[bytes]:
        """Iterates over the keys in descending order."""
        return self.scan(values=False, reverse=True)

    def __len__(self) -> int:
        """Counts the keys by reading them all: the time is proportional to their number."""
        return self.count_range()

    def __bool__(self) -> bool:
        """Whether there is at least one key; reads no more than one."""
        return next(self.scan(values=False, limit=1), None) is not None

    def count_range(self, start: Bound = None, stop: Bound = None, *, prefix: Bound = None) -> int:
        """Counts the keys of a range by reading them.

        Args:
            start: first key counted; None for the very first.
            stop: first key no longer counted; None for none.
            prefix: count only keys that begin with it.

        Returns:
            The number of keys, in time proportional to it.
        """
        return sum(1 for _ in self.scan(start, stop, prefix=prefix, values=False))

    def keys(self) -> Keys:
        """Returns a view of the keys; each iteration over it is one scan."""
        return Keys(self)

    def values(self) -> Values:
        """Returns a view of the values, in the order of their keys; each iteration over it is one scan."""
        return Values(self)

    def items(self) -> Items:
        """Returns a view of the (key, value) tuples; each iteration over it is one scan."""
        return Items(self)


MutableMapping.register(RangeMapping)
