"""The keys and values every store is given, and the random orders they are asked in; all from one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TypeVar

from benches.peers import Operation, Pair

KEY = 16
VALUE = 100

T = TypeVar("T")


def fresh(keys: Sequence[bytes]) -> list[bytes]:
    """Equal keys as new objects, laid out in memory in this order.

    A program has just made the key it asks for: its hash is not known yet, its bytes are near the last key's.
    """
    joined = b"".join(keys)
    return [joined[i : i + KEY] for i in range(0, len(joined), KEY)]


def pieces(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


class Data:
    """``count`` random keys; ``pairs`` in the order of arrival, ``in_order`` the same in the order of keys."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        source = random.Random(seed)
        joined = source.randbytes(KEY * count)
        self.keys = [joined[i : i + KEY] for i in range(0, len(joined), KEY)]
        self.noise = source.randbytes(1 << 20)

    @cached_property
    def pairs(self) -> list[Pair]:
        return list(zip(self.keys, self.values(self.count), strict=True))

    @cached_property
    def known(self) -> dict[bytes, bytes]:
        return dict(self.pairs)

    @cached_property
    def in_order(self) -> list[Pair]:
        return sorted(self.pairs)

    @property
    def live(self) -> int:
        """Bytes of keys and values."""
        return self.count * (KEY + VALUE)

    def values(self, count: int, start: int = 0) -> Iterator[bytes]:
        noise, room = self.noise, len(self.noise) - VALUE
        return (noise[at : at + VALUE] for at in ((start + i) * 101 % room for i in range(count)))

    @cached_property
    def ascending(self) -> list[Pair]:
        """In the order of keys and laid out so in memory; not the values of ``pairs``."""
        return list(zip(fresh(sorted(self.keys)), self.values(self.count), strict=True))

    def order(self, round_: int, what: str) -> random.Random:
        """The source of one row's random order in one round: the same for every store."""
        return random.Random(f"{self.seed} {round_} {what}")

    def some(self, count: int, round_: int, what: str = "keys", below: int | None = None) -> list[bytes]:
        """``count`` present keys at random, of the first ``below`` that arrived."""
        known = self.keys if below is None else self.keys[:below]
        return fresh(self.order(round_, what).choices(known, k=count))

    def absent(self, count: int, round_: int) -> list[bytes]:
        joined = self.order(round_, "absent").randbytes(KEY * count)
        return [joined[i : i + KEY] for i in range(0, len(joined), KEY)]

    def changes(self, count: int, round_: int, what: str = "changes", below: int | None = None) -> list[Pair]:
        """New values for present keys at random."""
        return list(zip(self.some(count, round_, what, below), self.values(count, round_ + 1), strict=True))

    def rewrite(self, round_: int) -> list[Pair]:
        """A new value for every key, in another random order."""
        keys = fresh(self.order(round_, "rewrite").sample(self.keys, self.count))
        return list(zip(keys, self.values(self.count, round_ + 1), strict=True))

    def operations(self, count: int, round_: int, gets: int = 4, puts: int = 4) -> list[Operation]:
        asked = pieces(self.some(count * gets, round_, "asked"), gets)
        changed = pieces(self.changes(count * puts, round_, "changed"), puts)
        return list(zip(asked, changed, strict=True))
