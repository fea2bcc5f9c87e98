"""One adapter per store, each in the fastest idiom its binding offers.

An adapter does whole loops, not single operations, so that no call of ours stands between clock and store.
A store that cannot do a piece of work lacks the method, and the work's row leaves it out.

``durability`` is ``"os"`` (what was committed survives the death of the process) or ``"sync"`` (a power cut).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

Pair: TypeAlias = tuple[bytes, bytes]
Operation: TypeAlias = tuple[Sequence[bytes], Sequence[Pair]]  # keys to get, pairs to put
Consumer: TypeAlias = Callable[[Iterator[Pair]], Any]

CACHE = 1 << 30


class Store:
    """What the rows of the table ask of a store; ``dict`` and the bare file implement less of it."""

    name: ClassVar[str]
    module: ClassVar[str | None] = None  # what must be importable
    ceiling: ClassVar[bool] = False  # shown beside the stores, never one of "the best of them"

    @classmethod
    def missing(cls) -> str | None:
        """Why the store cannot be measured here, or None."""
        if cls.module is None:
            return None
        try:
            importlib.import_module(cls.module)
        except ImportError as error:
            return str(error)
        return None

    @classmethod
    def version(cls) -> str:
        return ""

    def __init__(self, path: Path, durability: str) -> None:
        """Opens an empty store in a directory; durability: "os" or "sync"."""

    def settle(self) -> None:
        """Brings the store to rest after a load: checkpoint, compaction, whatever it has."""

    def close(self) -> None:
        """Closes the store; its directory is removed by the caller."""

    # get_in_one(keys): one read transaction                get_each(keys): one read transaction for each key
    # get_many(keys) -> list of values, absent -> None      scan(consume): consume(iterator of pairs in order)
    # seek(starts, count) -> the last slice, as a list      transact(operations): one transaction for each
    # put_many(pairs): one transaction                      put_each(pairs): one transaction for each pair
    # append(pairs): one transaction, keys ascending        size() -> bytes of its data file
