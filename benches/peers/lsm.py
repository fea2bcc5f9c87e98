"""LevelDB and RocksDB, which have batches for transactions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benches.peers.store import CACHE, Consumer, Operation, Pair, Store


class Plyvel(Store):
    """LevelDB has no transactions: a batch is its unit of commit, and gets read the newest state."""

    name = "plyvel"
    module = "plyvel"

    @classmethod
    def version(cls) -> str:
        import plyvel

        return f"plyvel {plyvel.__version__}, LevelDB {plyvel.__leveldb_version__}"

    def __init__(self, path: Path, durability: str) -> None:
        import plyvel

        self.db = plyvel.DB(
            str(path),
            create_if_missing=True,
            lru_cache_size=CACHE,
            write_buffer_size=64 << 20,
            max_file_size=64 << 20,
            bloom_filter_bits=10,
            compression=None,
        )
        self.sync = durability == "sync"

    def settle(self) -> None:
        self.db.compact_range()

    def close(self) -> None:
        self.db.close()

    def get_in_one(self, keys: Sequence[bytes]) -> None:
        get = self.db.get
        for key in keys:
            get(key)

    get_each = get_in_one

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return list(map(self.db.get, keys))

    def scan(self, consume: Consumer) -> Any:
        with self.db.iterator() as iterator:
            return consume(iterator)

    def seek(self, starts: Sequence[bytes], count: int) -> list[Pair]:
        found: list[Pair] = []
        with self.db.iterator() as iterator:
            seek = iterator.seek
            for start in starts:
                seek(start)
                found = list(islice(iterator, count))
        return found

    def put_many(self, pairs: Sequence[Pair]) -> None:
        with self.db.write_batch(sync=self.sync) as batch:
            put = batch.put
            for key, value in pairs:
                put(key, value)

    append = put_many

    def put_each(self, pairs: Sequence[Pair]) -> None:
        put = self.db.put
        sync = self.sync
        for key, value in pairs:
            put(key, value, sync=sync)

    def transact(self, operations: Sequence[Operation]) -> None:
        get = self.db.get
        begin = self.db.write_batch
        sync = self.sync
        for keys, pairs in operations:
            with begin(sync=sync) as batch:
                for key in keys:
                    get(key)
                put = batch.put
                for key, value in pairs:
                    put(key, value)


class Rocksdict(Store):
    """RocksDB in raw mode; as with LevelDB, a batch is the unit of commit."""

    name = "rocksdict"
    module = "rocksdict"

    @classmethod
    def version(cls) -> str:
        from importlib.metadata import version

        return f"rocksdict {version('rocksdict')}"

    def __init__(self, path: Path, durability: str) -> None:
        from rocksdict import (
            BlockBasedOptions,
            Cache,
            DBCompressionType,
            Options,
            Rdict,
            WriteBatch,
            WriteOptions,
        )

        table = BlockBasedOptions()
        table.set_block_cache(Cache(CACHE))
        table.set_bloom_filter(10, False)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(DBCompressionType.none())
        options.set_block_based_table_factory(table)
        options.set_write_buffer_size(64 << 20)
        options.increase_parallelism(2)
        self.db: Any = Rdict(str(path), options)
        write = WriteOptions()
        write.sync = durability == "sync"
        self.db.set_write_options(write)
        self.batch = WriteBatch

    def settle(self) -> None:
        self.db.flush()
        self.db.compact_range(None, None)

    def close(self) -> None:
        self.db.close()

    def get_in_one(self, keys: Sequence[bytes]) -> None:
        get = self.db.get
        for key in keys:
            get(key)

    get_each = get_in_one

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = self.db.get(keys)
        return found

    def scan(self, consume: Consumer) -> Any:
        return consume(iter(self.db.items()))

    def seek(self, starts: Sequence[bytes], count: int) -> list[Pair]:
        items = self.db.items
        found: list[Pair] = []
        for start in starts:
            found = list(islice(items(from_key=start), count))
        return found

    def put_many(self, pairs: Sequence[Pair]) -> None:
        batch = self.batch(raw_mode=True)
        put = batch.put
        for key, value in pairs:
            put(key, value)
        self.db.write(batch)

    append = put_many

    def put_each(self, pairs: Sequence[Pair]) -> None:
        put = self.db.put
        for key, value in pairs:
            put(key, value)

    def transact(self, operations: Sequence[Operation]) -> None:
        get, write, begin = self.db.get, self.db.write, self.batch
        for keys, pairs in operations:
            batch = begin(raw_mode=True)
            for key in keys:
                get(key)
            put = batch.put
            for key, value in pairs:
                put(key, value)
            write(batch)
