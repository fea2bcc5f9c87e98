"""enginelib itself."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from benches.peers.store import CACHE, Consumer, Operation, Pair, Store


class Enginelib(Store):
    name = "enginelib"
    module = "enginelib"
    reopens: ClassVar[bool] = True  # has a log to replay that the reopening row can measure

    @classmethod
    def version(cls) -> str:
        return f"enginelib {metadata.version('enginelib')}"

    def __init__(self, path: Path, durability: str) -> None:
        enginelib: Any = importlib.import_module("enginelib")
        self.path = path
        self.db: Any = enginelib.open(str(path), durability=durability, cache_size=CACHE)
        self.ks = self.db.keyspace("k")

    def settle(self) -> None:
        self.db.checkpoint()

    def close(self) -> None:
        self.db.close()

    def get_in_one(self, keys: Sequence[bytes]) -> None:
        ks = self.ks
        with self.db.transaction(read_only=True) as txn:
            get = txn.get
            for key in keys:
                get(ks, key)

    def get_each(self, keys: Sequence[bytes]) -> None:
        get = self.ks.get
        for key in keys:
            get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self.db.transaction(read_only=True) as txn:
            found: list[bytes | None] = txn.get_many(self.ks, keys)
        return found

    def scan(self, consume: Consumer) -> Any:
        with self.db.transaction(read_only=True) as txn:
            return consume(txn.scan(self.ks))

    def seek(self, starts: Sequence[bytes], count: int) -> list[Pair]:
        ks = self.ks
        found: list[Pair] = []
        with self.db.transaction(read_only=True) as txn:
            scan = txn.scan
            for start in starts:
                found = list(scan(ks, start=start, limit=count))
        return found

    def put_many(self, pairs: Sequence[Pair]) -> None:
        with self.db.transaction() as txn:
            txn.put_many(self.ks, pairs)

    append = put_many

    def put_each(self, pairs: Sequence[Pair]) -> None:
        put = self.ks.put
        for key, value in pairs:
            put(key, value)

    def transact(self, operations: Sequence[Operation]) -> None:
        ks = self.ks
        begin = self.db.transaction
        for keys, pairs in operations:
            with begin() as txn:
                get = txn.get
                for key in keys:
                    get(ks, key)
                put = txn.put
                for key, value in pairs:
                    put(ks, key, value)

    def size(self) -> int:
        return (self.path / "pages.dat").stat().st_size
