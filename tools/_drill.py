"""The processes that `drill.py` kills: databases that serve one coordinator at a time, and the coordinator.

Points at which a process may end are named. Those of the coordinator are the steps that it tells of; of a database,
``before`` and ``after`` each durable act that it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from _postgres import kill_tree

import enginelib
from enginelib.twophase import Coordinator, DatabaseBranch, PostgresBranch

OPTIONS: dict[str, Any] = {"cache_size": 4 << 20, "segment_size": 1 << 20, "lock_timeout": 10.0}
ACTS = ("prepare", "commit", "rollback")
LOST = (EOFError, OSError)
TABLE = """CREATE TABLE IF NOT EXISTS t (k int PRIMARY KEY, v int NOT NULL,
           twin int REFERENCES t (k) DEFERRABLE INITIALLY DEFERRED)"""


def serve(name: str, path: str, address: str, ready: Connection) -> None:
    """A process that holds a database: answers (method, *arguments), until it is killed."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address)
    db = enginelib.open(path, **OPTIONS)
    ks = db.keyspace("k", **({"backend": "lsm", "memtable_size": 64 << 10} if name == "B" else {}))
    branch = DatabaseBranch(name, db)
    armed: list[str] = []
    methods: dict[str, Callable[..., Any]] = {
        "arm": armed.append,
        "disarm": armed.clear,
        "put": lambda key, value: branch.transaction.put(ks, key, value),
        "get": ks.get,
        "state": lambda: ([each.xid for each in db.prepared()], db.outcomes()),
        "finish": db.close,
        **{method: getattr(branch, method) for method in (*ACTS, "recover", "forget", "kept")},
    }
    with Listener(address, "AF_UNIX") as listener:
        ready.send("ready")
        while not db.closed:
            with contextlib.suppress(*LOST), listener.accept() as connection:
                answer(connection, methods, armed)
            if not db.closed:
                branch.rollback("nothing that is prepared")  # what was under way goes with the connection


def answer(connection: Connection, methods: dict[str, Callable[..., Any]], armed: list[str]) -> None:
    while True:
        method, *arguments = connection.recv()
        if f"before {method}" in armed:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            result = methods[method](*arguments), None
        except enginelib.Error as error:
            result = None, error
        if f"after {method}" in armed:
            os.kill(os.getpid(), signal.SIGKILL)
        connection.send(result)


class Remote:
    """A branch in another process, as the coordinator sees it."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.connection: Connection | None = None

    def ask(self, method: str, *arguments: object) -> Any:
        try:
            if self.connection is None:
                self.connection = Client(self.address, "AF_UNIX")
            self.connection.send((method, *arguments))
            result, error = self.connection.recv()
        except LOST:
            self.close()
            raise
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def prepare(self, xid: str) -> None:
        self.ask("prepare", xid)

    def commit(self, xid: str) -> None:
        self.ask("commit", xid)

    def rollback(self, xid: str) -> None:
        self.ask("rollback", xid)

    def recover(self) -> list[str]:
        found: list[str] = self.ask("recover")
        return found

    def forget(self, xid: str) -> None:
        self.ask("forget", xid)

    def kept(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = self.ask("kept")
        return found


def coordinate(plan: dict[str, Any], result: Connection) -> None:
    """A process that runs one transaction, or resolves what others have left; kills whom the plan says, when it says."""
    seen: list[str] = []
    armed = [(plan["victim"], plan["step"])] if plan["step"] else []

    def step(name: str) -> None:
        seen.append(name)
        if armed and armed[0][1] == name:
            victim, _ = armed.pop()
            if victim == "C":
                os.kill(os.getpid(), signal.SIGKILL)
            kill_tree(plan["pids"][victim])

    db = enginelib.open(plan["path"], **OPTIONS)
    coordinator = Coordinator(db, "drill", step=step, pause=lambda _: coordinator.stop())
    a, b, p = Remote("A", plan["A"]), Remote("B", plan["B"]), PostgresBranch("P", plan["P"])
    if plan["number"] is None:
        found = coordinator.resolve(a, b, p)
        told: Any = found.done, not found.by_hand, len(coordinator.decisions())
    else:
        try:
            work(a, b, p, plan["number"], plan["refused"])
            coordinator.commit(a, b, p)
            told = "committed"
        except Exception as error:
            told = f"rolled back: {type(error).__name__}: {error}"
    result.send((told, seen))
    for branch in a, b, p:
        branch.close()
    db.close()


def work(a: Remote, b: Remote, p: PostgresBranch, number: int, refused: bool) -> None:
    """Changes a row that every transaction changes, and one of its own, in each. A refused one cannot be prepared in
    PostgreSQL: it breaks a constraint that is looked at then."""
    for remote in a, b:
        remote.ask("put", b"all", b"%d" % number)
        remote.ask("put", b"%d" % number, b"done")
    p.connection.execute("SET LOCAL lock_timeout = '10s'")
    p.connection.execute("UPDATE t SET v = %s WHERE k = 0", [number])
    p.connection.execute("INSERT INTO t VALUES (%s, %s, %s)", [number, number, -1 if refused else 0])
