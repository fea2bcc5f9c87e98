"""SQLite, by the standard library and by apsw."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.peers.store import CACHE, Consumer, Operation, Pair, Store


class Sqlite(Store, ABC):
    """A ``WITHOUT ROWID`` table in WAL mode; one connection a thread, writers queued by a lock of ours."""

    SCHEMA = "CREATE TABLE IF NOT EXISTS t (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"
    GET = "SELECT v FROM t WHERE k = ?"
    PUT = "INSERT OR REPLACE INTO t VALUES (?, ?)"

    def __init__(self, path: Path, durability: str) -> None:
        path.mkdir()
        self.file = str(path / "data.sqlite")
        self.synchronous = "FULL" if durability == "sync" else "OFF"
        self.mine = threading.local()
        self.writing = threading.Lock()
        self.opened: list[Any] = []
        self.connection().execute(self.SCHEMA)

    @abstractmethod
    def connect(self) -> Any:
        """A new connection to the file."""

    def connection(self) -> Any:
        """This thread's own connection."""
        found = getattr(self.mine, "connection", None)
        if found is None:
            found = self.mine.connection = self.connect()
            self.opened.append(found)
            for pragma in (
                "journal_mode = WAL",
                f"synchronous = {self.synchronous}",
                f"cache_size = {-CACHE // 1024}",
                f"mmap_size = {CACHE}",
                "wal_autocheckpoint = 10000",
                "busy_timeout = 10000",
            ):
                found.execute(f"PRAGMA {pragma}").fetchall()
        return found

    def settle(self) -> None:
        self.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        for connection in self.opened:
            connection.close()

    def get_in_one(self, keys: Sequence[bytes]) -> None:
        execute, sql = self.connection().cursor().execute, self.GET
        execute("BEGIN")
        for key in keys:
            execute(sql, (key,)).fetchone()
        execute("COMMIT")

    def get_each(self, keys: Sequence[bytes]) -> None:
        execute, sql = self.connection().cursor().execute, self.GET
        for key in keys:
            execute(sql, (key,)).fetchone()

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        sql = f"SELECT k, v FROM t WHERE k IN ({','.join('?' * len(keys))})"
        return list(map(dict(self.connection().execute(sql, keys)).get, keys))

    def scan(self, consume: Consumer) -> Any:
        return consume(self.connection().execute("SELECT k, v FROM t ORDER BY k"))

    def seek(self, starts: Sequence[bytes], count: int) -> list[Pair]:
        execute = self.connection().cursor().execute
        found: list[Pair] = []
        for start in starts:
            found = execute("SELECT k, v FROM t WHERE k >= ? ORDER BY k LIMIT ?", (start, count)).fetchall()
        return found

    def put_many(self, pairs: Sequence[Pair]) -> None:
        connection = self.connection()
        with self.writing:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(self.PUT, pairs)
            connection.execute("COMMIT")

    append = put_many

    def put_each(self, pairs: Sequence[Pair]) -> None:
        execute, sql, writing = self.connection().cursor().execute, self.PUT, self.writing
        for pair in pairs:
            with writing:
                execute(sql, pair)

    def transact(self, operations: Sequence[Operation]) -> None:
        cursor = self.connection().cursor()
        execute, many, get, put = cursor.execute, cursor.executemany, self.GET, self.PUT
        for keys, pairs in operations:
            with self.writing:
                execute("BEGIN IMMEDIATE")
                for key in keys:
                    execute(get, (key,)).fetchone()
                many(put, pairs)
                execute("COMMIT")


class Sqlite3(Sqlite):
    name = "sqlite3"
    module = "sqlite3"

    @classmethod
    def version(cls) -> str:
        import sqlite3

        return f"sqlite3, SQLite {sqlite3.sqlite_version}"

    def connect(self) -> Any:
        import sqlite3

        return sqlite3.connect(self.file, isolation_level=None, check_same_thread=False)


class Apsw(Sqlite):
    name = "apsw"
    module = "apsw"

    @classmethod
    def version(cls) -> str:
        import apsw

        return f"apsw {apsw.apsw_version()}, SQLite {apsw.sqlite_lib_version()}"

    def connect(self) -> Any:
        import apsw

        return apsw.Connection(self.file)
