"""Random transactions, run in two ways, and noted as histories.

`woven` runs many transactions in one thread, an operation of one at a time: repeatable from a seed, and every operation can fall between any two others of another
transaction; nobody can wait, so a lock that is held is an abort. `threaded` runs them in threads that wait for each other.
"""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from _checker import Entry, History, is_list

import enginelib

LISTS = [b"l%02d" % i for i in range(8)]
PLAIN = [b"p%02d" % i for i in range(12)]
KEYS = sorted(LISTS + PLAIN)


class Session:
    """One transaction under way: its operations, drawn as they come, and what is noted of them."""

    def __init__(self, run: Run, number: int, rng: random.Random) -> None:
        self.run = run
        self.rng = rng
        self.entry = Entry(number, run.level)
        self.own: dict[bytes, bytes | None] = {}
        self.count = 0
        self.left = rng.choice((1, 2, 2, 3, 4, 6))
        self.reading = rng.random() < 0.15
        self.prepared = ""  # the xid, once it is
        self.grows: tuple[bytes, bytes] | None = None  # a list that was read, to be added to by the next operation
        self.txn: Any = None

    def begin(self) -> None:
        self.txn = self.run.db.transaction(
            isolation=self.run.level, read_only=self.reading, lock_timeout=0.0 if self.run.nobody_waits else None
        )

    def note(self, key: bytes, value: bytes | None) -> None:
        if key not in self.own:
            self.entry.reads.append((key, value))
        elif value != self.own[key]:
            raise AssertionError(f"{self.entry.number} wrote {self.own[key]!r} to {key!r} and read {value!r}")

    def fresh(self) -> bytes:
        self.count += 1
        return struct.pack(">IHH", self.entry.number, self.count, 0xFFFF)

    def write(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            there = self.txn.delete(self.run.keyspace, key)
            if key in self.own:
                assert there == (self.own[key] is not None)
            elif not there:
                self.note(key, None)
                return
        else:
            self.txn.put(self.run.keyspace, key, value)
        if self.own.get(key) is not None:
            self.entry.steps.add((key, self.own[key]))  # type: ignore[arg-type]
        self.own[key] = value

    def step(self) -> bool:
        """One operation; whether the transaction goes on."""
        rng, ks, txn = self.rng, self.run.keyspace, self.txn
        if self.prepared:
            return rng.random() < 0.8
        if self.grows:
            key, value = self.grows
            self.grows = None
            # Read committed lets another add to the list in between, unless it was locked; it is what the transaction itself has made of it that is added to.
            self.write(key, (self.own.get(key) or value) + self.fresh())
            return True
        if self.left == 0:
            return False
        self.left -= 1
        what = rng.random()
        if what < 0.25:
            key = rng.choice(KEYS)
            self.note(key, txn.get(ks, key))
        elif what < 0.33:
            keys = rng.sample(KEYS, 3)
            for key, value in zip(keys, txn.get_many(ks, keys), strict=True):
                self.note(key, value)
        elif what < 0.5:
            self.scan()
        elif self.reading:
            key = rng.choice(KEYS)
            self.note(key, txn.get(ks, key))
        elif what < 0.72:
            key = rng.choice(LISTS)
            look = txn.get_for_update if self.run.level == "read_committed" or rng.random() < 0.3 else txn.get
            value = look(ks, key)
            self.note(key, value)
            self.grows = (key, value or b"")
        elif what < 0.92:
            self.write(rng.choice(PLAIN), self.fresh())
        elif what < 0.95:
            self.write(rng.choice(PLAIN), None)
        else:
            self.undone()
        return True

    def scan(self) -> None:
        rng = self.rng
        low, high = sorted(rng.sample(range(len(KEYS) + 1), 2))
        start = KEYS[low] if rng.random() < 0.9 else None
        stop = KEYS[high] if high < len(KEYS) else None
        limit = rng.choice((None, None, 1, 2, 4))
        reverse = rng.random() < 0.3
        got = list(self.txn.scan(self.run.keyspace, start, stop, limit=limit, reverse=reverse))
        span = [key for key in KEYS if (start is None or key >= start) and (stop is None or key < stop)]
        if limit is not None and len(got) == limit:
            last = got[-1][0]
            span = [key for key in span if (key >= last if reverse else key <= last)]
        found = dict(got)
        for key in span:
            self.note(key, found.get(key))

    def undone(self) -> None:
        """A change in a savepoint that is rolled back; what was read in it was read."""
        key = self.rng.choice(PLAIN)
        try:
            with self.txn.savepoint():
                self.note(key, self.txn.get(self.run.keyspace, key))
                self.txn.put(self.run.keyspace, key, self.fresh())
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass

    def finish(self) -> None:
        """Ends it; or prepares it, and ends it when this is called again."""
        if self.prepared:
            self.end_prepared()
        elif self.rng.random() < 0.05:
            self.txn.abort()
            self.entry.status = "aborted"
            self.entry.reason = "by itself"
        elif self.run.prepares and not self.reading and self.rng.random() < self.run.prepares:
            self.txn.prepare(f"{self.entry.number}")
            self.prepared = f"{self.entry.number}"
        else:
            self.entry.status = "unknown"
            self.txn.commit()
            self.entry.commit_ts = self.txn.commit_ts
            self.entry.status = "committed"
        self.entry.writes = self.own

    def end_prepared(self) -> None:
        db = self.run.db
        if self.rng.random() < 0.2:
            db.rollback_prepared(self.prepared)
            self.entry.status = "aborted"
            self.entry.reason = "rolled back"
            return
        db.commit_prepared(self.prepared)
        with db.transaction(read_only=True) as after:  # nobody else has committed since
            self.entry.commit_ts = after.snapshot
        self.entry.status = "committed"

    def failed(self, error: enginelib.Error) -> None:
        self.entry.writes = self.own
        if isinstance(error, (enginelib.DatabaseClosed, enginelib.OutcomeUnknown)):
            self.entry.status = "unknown" if self.entry.status == "unknown" else "aborted"
            self.entry.reason = "crash"
            return
        self.entry.status = "aborted"
        self.entry.reason = error.code
        if self.txn is not None:
            self.txn.abort()


class Run:
    """One history over one keyspace.

    reopen: what ends the database as a crash does and opens it again, returning both; None: no crash.
    prepares: the share of transactions that are prepared, and ended some time later; woven ones alone.
    """

    def __init__(
        self, db: Any, keyspace: Any, level: str, seed: int, size: int, reopen: Callable[[], tuple[Any, Any]] | None = None, prepares: float = 0.0
    ) -> None:
        self.db, self.keyspace, self.level = db, keyspace, level
        self.seed, self.size, self.reopen = seed, size, reopen
        self.prepares = prepares
        self.nobody_waits = False
        self.open = threading.Event()
        self.open.set()
        self.entries: list[Entry] = []

    def history(self) -> History:
        return History(self.entries, dict(self.keyspace.items()))

    def crash(self) -> None:
        assert self.reopen is not None
        self.open.clear()
        self.db, self.keyspace = self.reopen()
        self.open.set()

    def woven(self, width: int = 6) -> History:
        """Runs `size` transactions, `width` at a time, in one thread."""
        self.nobody_waits = True
        rng = random.Random(self.seed)
        numbers = iter(range(1, self.size + 1))
        going: list[Session] = []
        crash_at = rng.randrange(self.size) if self.reopen else -1
        while True:
            while len(going) < width and (number := next(numbers, None)) is not None:
                if number == crash_at:
                    self.crash()
                    for session in going:
                        if not session.prepared:
                            session.failed(enginelib.DatabaseClosed())
                    going = [session for session in going if session.prepared]
                session = Session(self, number, random.Random(rng.random()))
                self.entries.append(session.entry)
                if self.advance(session, session.begin):
                    going.append(session)
            if not going:
                return self.history()
            session = rng.choice(going)
            if not self.advance(session, session.step) and not (session.prepared and session.entry.status == "active"):
                going.remove(session)

    def advance(self, session: Session, step: Callable[[], Any]) -> bool:
        """Whether the transaction goes on after the step."""
        try:
            if step() is False:
                session.finish()
                return False
        except enginelib.TransactionAborted as error:
            session.failed(error)
            return False
        return True

    def threaded(self, threads: int) -> History:
        """Runs `size` transactions in so many threads."""
        problems: list[BaseException] = []
        shared = self.numbers(threads)
        workers = [threading.Thread(target=self.work, args=(i, next(shared), problems)) for i in range(threads)]
        for worker in workers:
            worker.start()
        if self.reopen:
            time.sleep(random.Random(self.seed).uniform(0.0, 0.02))
            self.crash()
        for worker in workers:
            worker.join()
        if problems:
            raise problems[0]
        return self.history()

    def numbers(self, threads: int) -> Iterator[list[int]]:
        for i in range(threads):
            yield list(range(1 + i, self.size + 1, threads))

    def work(self, index: int, numbers: list[int], problems: list[BaseException]) -> None:
        rng = random.Random(self.seed * 1000 + index)
        try:
            for number in numbers:
                session = Session(self, number, random.Random(rng.random()))
                try:
                    session.begin()
                    while session.step():
                        if rng.random() < 0.5:
                            time.sleep(0)  # lets the others run
                    session.finish()
                except (enginelib.TransactionAborted, enginelib.DatabaseClosed, enginelib.OutcomeUnknown) as error:
                    session.failed(error)
                except enginelib.UsageError as error:
                    if not self.reopen:
                        raise
                    session.failed(enginelib.DatabaseClosed(str(error)))
                self.entries.append(session.entry)
                if session.entry.reason == "crash" and not self.open.wait(60):
                    raise AssertionError("the database was not opened again")
        except BaseException as error:
            problems.append(error)


def lists_in(history: History) -> int:
    """How many elements its lists hold at the end: a figure that shows that something happened."""
    return sum(len(value) // 8 for key, value in history.final.items() if is_list(key))
