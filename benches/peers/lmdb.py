"""LMDB, by py-lmdb."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from benches.peers.store import Consumer, Operation, Pair, Store


class Lmdb(Store):
    """Both engines of py-lmdb 3: ``lib_version`` 0 is LMDB 0.9, 1 is LMDB 1.0."""

    module = "lmdb"
    engine: ClassVar[int]

    @classmethod
    def version(cls) -> str:
        import lmdb

        return f"py-lmdb {lmdb.__version__}, LMDB {'.'.join(map(str, lmdb.version(lib_version=cls.engine)))}"

    def __init__(self, path: Path, durability: str) -> None:
        import lmdb

        self.env = lmdb.open(
            str(path),
            map_size=1 << 34,
            writemap=durability == "os",  # synced commits through the map take twice as long
            sync=durability == "sync",
            max_spare_txns=1,
            lib_version=self.engine,
        )

    def settle(self) -> None:
        self.env.sync(True)

    def close(self) -> None:
        self.env.close()

    def get_in_one(self, keys: Sequence[bytes]) -> None:
        with self.env.begin() as txn:
            get = txn.get
            for key in keys:
                get(key)

    def get_each(self, keys: Sequence[bytes]) -> None:
        begin = self.env.begin
        for key in keys:
            txn = begin()
            txn.get(key)
            txn.abort()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self.env.begin() as txn:  # faster than Cursor.getmulti, in either order of keys
            return list(map(txn.get, keys))

    def scan(self, consume: Consumer) -> Any:
        with self.env.begin() as txn:
            return consume(iter(txn.cursor()))

    def seek(self, starts: Sequence[bytes], count: int) -> list[Pair]:
        found: list[Pair] = []
        with self.env.begin() as txn:
            cursor = txn.cursor()
            for start in starts:
                cursor.set_range(start)
                found = list(islice(cursor, count))
        return found

    def put_many(self, pairs: Sequence[Pair]) -> None:
        with self.env.begin(write=True) as txn:
            txn.cursor().putmulti(pairs)

    def append(self, pairs: Sequence[Pair]) -> None:
        with self.env.begin(write=True) as txn:
            txn.cursor().putmulti(pairs, append=True)

    def put_each(self, pairs: Sequence[Pair]) -> None:
        begin = self.env.begin
        for key, value in pairs:
            with begin(write=True) as txn:
                txn.put(key, value)

    def transact(self, operations: Sequence[Operation]) -> None:
        begin = self.env.begin
        for keys, pairs in operations:
            with begin(write=True) as txn:
                get = txn.get
                for key in keys:
                    get(key)
                put = txn.put
                for key, value in pairs:
                    put(key, value)

    def size(self) -> int:
        """Pages in use up to the last: under ``writemap`` the file itself is as long as the map."""
        return (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]


class Lmdb0(Lmdb):
    name = "lmdb0"
    engine = 0


class Lmdb1(Lmdb):
    name = "lmdb1"
    engine = 1
