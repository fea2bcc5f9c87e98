"""Berkeley DB, by the berkeleydb binding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benches.peers.store import CACHE, Consumer, Operation, Pair, Store


class Berkeleydb(Store):
    """A B-tree in a transactional environment; reads outside a transaction, with the fewest locks."""

    name = "berkeleydb"
    module = "berkeleydb"

    @classmethod
    def version(cls) -> str:
        import berkeleydb
        from berkeleydb import db

        return f"berkeleydb {berkeleydb.__version__}, Berkeley DB {'.'.join(map(str, db.version()))}"

    def __init__(self, path: Path, durability: str) -> None:
        from berkeleydb import db

        path.mkdir()
        self.env = db.DBEnv()
        self.env.set_cachesize(CACHE >> 30, CACHE & ((1 << 30) - 1), 1)
        self.env.set_lg_bsize(4 << 20)
        self.env.set_lg_max(256 << 20)
        for limit in (self.env.set_lk_max_locks, self.env.set_lk_max_objects, self.env.set_lk_max_lockers):
            limit(100_000)
        self.env.set_lk_detect(db.DB_LOCK_DEFAULT)
        self.env.log_set_config(db.DB_LOG_AUTO_REMOVE, True)
        if durability == "os":
            self.env.set_flags(db.DB_TXN_WRITE_NOSYNC, 1)
        self.env.open(
            str(path),
            db.DB_CREATE
            | db.DB_PRIVATE
            | db.DB_THREAD
            | db.DB_INIT_MPOOL
            | db.DB_INIT_LOG
            | db.DB_INIT_LOCK
            | db.DB_INIT_TXN,
        )
        self.db = db.DB(self.env)
        self.db.set_get_returns_none(2)
        self.db.open("data.db", dbtype=db.DB_BTREE, flags=db.DB_CREATE | db.DB_THREAD | db.DB_AUTO_COMMIT)
        self.deadlock = db.DBLockDeadlockError

    def settle(self) -> None:
        self.env.txn_checkpoint(0, 0, 0)

    def close(self) -> None:
        self.db.close()
        self.env.close()

    def get_in_one(self, keys: Sequence[bytes]) -> None:
        get = self.db.get
        for key in keys:
            get(key)

    get_each = get_in_one

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return list(map(self.db.get, keys))

    def scan(self, consume: Consumer) -> Any:
        cursor = self.db.cursor()
        try:
            return consume(iter(cursor.next, None))
        finally:
            cursor.close()

    def seek(self, starts: Sequence[bytes], count: int) -> list[Pair]:
        cursor = self.db.cursor()
        found: list[Pair] = []
        for start in starts:
            found = [cursor.set_range(start), *islice(iter(cursor.next, None), count - 1)]
        cursor.close()
        return found

    def put_many(self, pairs: Sequence[Pair]) -> None:
        txn = self.env.txn_begin()
        put = self.db.put
        for key, value in pairs:
            put(key, value, txn)
        txn.commit()

    append = put_many

    def put_each(self, pairs: Sequence[Pair]) -> None:
        put = self.db.put
        for key, value in pairs:
            while True:
                try:
                    put(key, value)
                    break
                except self.deadlock:
                    continue

    def transact(self, operations: Sequence[Operation]) -> None:
        begin, get, put = self.env.txn_begin, self.db.get, self.db.put
        for keys, pairs in operations:
            while True:
                txn = begin()
                try:
                    for key in keys:
                        get(key, txn=txn)
                    for key, value in pairs:
                        put(key, value, txn)
                    txn.commit()
                    break
                except self.deadlock:
                    txn.abort()
