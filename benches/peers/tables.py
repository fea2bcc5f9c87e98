"""The same stores set alike for LSM-trees: equal memtables, tables, levels, caches and filters, no compression."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benches.peers.lsm import Plyvel, Rocksdict
from benches.peers.ours import Enginelib
from benches.peers.store import Pair

CACHE = 256 << 20
MEMTABLE = 64 << 20
TABLE = 64 << 20
LEVEL = 4 * TABLE  # of the first level below level 0
POLL = 0.005  # seconds
CALM = 0.25  # LevelDB does not say whether it compacts: it is taken to rest when nothing has changed for so long


def directory_size(path: Path) -> int:
    """Bytes of the sorted tables in a directory."""
    names = (Path(folder) / name for folder, _, files in os.walk(path) for name in files)
    return sum(name.stat().st_size for name in names if name.suffix in (".sst", ".ldb"))


def wait_until(rests: Callable[[], bool]) -> None:
    while not rests():
        time.sleep(POLL)


class EnginelibLsm(Enginelib):
    """An LSM keyspace."""

    def __init__(self, path: Path, durability: str) -> None:
        import enginelib

        self.path = path
        self.db: Any = enginelib.open(str(path), durability=durability, cache_size=CACHE)
        self.ks: Any = self.db.keyspace("k", backend="lsm", memtable_size=MEMTABLE, table_size=TABLE)

    def one(self) -> Any:
        return self.ks.put

    def rests(self) -> bool:
        stats = self.ks.stats()
        return not (stats["memtables"]["sealed"] or stats["compaction"]["running"] or stats["compaction"]["pending"])

    def settle(self) -> None:
        wait_until(self.rests)

    def compact(self) -> None:
        self.ks.compact()

    def ingest(self, pairs: Sequence[Pair]) -> None:
        self.ks.ingest(pairs, logged=False)

    def tables(self) -> int:
        return directory_size(self.path)


class RocksdictLsm(Rocksdict):
    """RocksDB with dynamic level sizes, its default."""

    def __init__(self, path: Path, durability: str) -> None:
        from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

        table = BlockBasedOptions()
        table.set_block_cache(Cache(CACHE))
        table.set_bloom_filter(10, False)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(DBCompressionType.none())
        options.set_block_based_table_factory(table)
        options.set_write_buffer_size(MEMTABLE)
        options.set_max_write_buffer_number(4)
        options.set_target_file_size_base(TABLE)
        options.set_max_bytes_for_level_base(LEVEL)
        options.set_level_compaction_dynamic_level_bytes(True)
        options.increase_parallelism(2)
        self.path = path
        self.options = options
        self.db: Any = Rdict(str(path), options)
        write = WriteOptions()
        write.sync = durability == "sync"
        self.db.set_write_options(write)
        self.batch = WriteBatch

    def one(self) -> Any:
        return self.db.put

    def rests(self) -> bool:
        names = ("mem-table-flush-pending", "compaction-pending", "num-running-flushes", "num-running-compactions")
        return not any(self.db.property_int_value(f"rocksdb.{name}") for name in names)

    def settle(self) -> None:
        wait_until(self.rests)

    def compact(self) -> None:
        self.db.flush()
        self.db.compact_range(None, None)
        self.settle()

    def ingest(self, pairs: Sequence[Pair]) -> None:
        from rocksdict import SstFileWriter

        name = str(self.path / "bulk.sst")
        writer = SstFileWriter(options=self.options)
        writer.open(name)
        for key, value in pairs:
            writer[key] = value
        writer.finish()
        self.db.ingest_external_file([name])

    def tables(self) -> int:
        return directory_size(self.path)


class PlyvelLsm(Plyvel):
    """LevelDB, whose first level is always 10 MiB."""

    def __init__(self, path: Path, durability: str) -> None:
        import plyvel

        self.path = path
        self.db: Any = plyvel.DB(
            str(path),
            create_if_missing=True,
            lru_cache_size=CACHE,
            write_buffer_size=MEMTABLE,
            max_file_size=TABLE,
            bloom_filter_bits=10,
            compression=None,
        )
        self.sync = durability == "sync"

    def one(self) -> Any:
        return self.db.put

    def settle(self) -> None:
        seen, since = b"", time.monotonic()
        while time.monotonic() - since < CALM:
            stats = self.db.get_property(b"leveldb.stats") + str(directory_size(self.path)).encode()
            if stats != seen:
                seen, since = stats, time.monotonic()
            time.sleep(POLL)

    calm = CALM  # seconds of `settle` that are no work

    def compact(self) -> None:
        self.db.compact_range()
        self.settle()

    def ingest(self, pairs: Sequence[Pair]) -> None:
        """It has no bulk path: large batches in order."""
        for at in range(0, len(pairs), 10_000):
            self.put_many(pairs[at : at + 10_000])

    def tables(self) -> int:
        return directory_size(self.path)


STORES = (EnginelibLsm, RocksdictLsm, PlyvelLsm)
