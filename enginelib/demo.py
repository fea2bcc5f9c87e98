"""The demonstration behind ``enginelib demo``: real data, a real kill, and a proof of what survived.

It loads the Unicode character database that ships with Python into two keyspaces, by code point and by name,
in ``sync`` transactions from several threads of a process of its own; kills that process in mid-load; opens
what it left; and compares it with the data. Each transaction, a *batch*, puts some characters into both
keyspaces and its own number into a third, so it can be told whether a batch is there whole, not at all, or in
part. The writer acknowledges each committed batch on a pipe.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from enginelib.database import Database
from enginelib.database import open as open_database
from enginelib.keyspace import Keyspace
from enginelib.transaction import Transaction

Character = tuple[bytes, bytes, bytes, bytes]

BATCH = 16
THREADS = 4
BY_CODE = "characters by code point"
BY_NAME = "characters by name"
BATCHES = "batches"


def characters() -> Iterator[Character]:
    """Yields every named character: its code point as three bytes, its record, its name, and itself as
    UTF-8."""
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        name = unicodedata.name(char, None)
        if name is not None:
            record = (
                f"{name};{unicodedata.category(char)};{unicodedata.bidirectional(char)};"
                f"{unicodedata.east_asian_width(char)};{unicodedata.decomposition(char)};"
                f"{unicodedata.numeric(char, '')}"
            )
            yield code.to_bytes(3, "big"), record.encode(), name.encode(), char.encode("utf-8")


@dataclass(frozen=True)
class Batch:
    """One transaction of the load.

    Attributes:
        number: which one it is.
        by_code: its entries in the keyspace by code point.
        by_name: its entries in the keyspace by name.
    """

    number: int
    by_code: list[tuple[bytes, bytes]]
    by_name: list[tuple[bytes, bytes]]

    @property
    def marker(self) -> tuple[bytes, bytes]:
        """Its entry in the keyspace of batches: its number, and a sum of what it holds."""
        content = b"".join(part for pair in self.by_code for part in pair)
        return self.number.to_bytes(4, "big"), b"%d characters, %08x" % (
            len(self.by_code),
            zlib.crc32(content),
        )


def batches(size: int = BATCH) -> list[Batch]:
    """Returns the whole load, cut into batches of neighbouring characters.

    Args:
        size: how many characters one batch holds.
    """
    source = characters()
    made: list[Batch] = []
    while part := list(islice(source, size)):
        by_code = [(code, record) for code, record, _, _ in part]
        made.append(Batch(len(made), by_code, [(name, char) for _, _, name, char in part]))
    return made


def load(
    db: Database, work: list[Batch], threads: int = THREADS, acknowledge: Callable[[int], None] | None = None
) -> None:
    """Puts batches from several threads, each batch in one transaction.

    Args:
        db: the database.
        work: the batches.
        threads: how many threads share them.
        acknowledge: called with the number of each batch once it is committed.

    Raises:
        Error: whatever stopped a thread.
    """
    by_code, by_name, marks = spaces(db)
    queue = iter(work)
    failures: list[BaseException] = []

    def put(txn: Transaction, batch: Batch) -> None:
        txn.put_many(by_code, batch.by_code)
        txn.put_many(by_name, batch.by_name)
        txn.put(marks, *batch.marker)

    def worker() -> None:
        try:
            for batch in queue:
                db.run(put, batch)
                if acknowledge is not None:
                    acknowledge(batch.number)
        except BaseException as failure:
            failures.append(failure)

    running = [threading.Thread(target=worker, name=f"loader {number}") for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if failures:
        raise failures[0]


def spaces(db: Database) -> tuple[Keyspace, Keyspace, Keyspace]:
    """Returns the keyspaces by code point, by name, and of batches."""
    return db.keyspace(BY_CODE), db.keyspace(BY_NAME), db.keyspace(BATCHES)


@dataclass
class Verdict:
    """What a database holds of the load.

    Attributes:
        whole: numbers of the batches that are there in full.
        partial: numbers of those of which a part is there.
        lost: numbers of those that were acknowledged and are not there in full.
        strangers: how many entries belong to no batch.
    """

    whole: set[int] = field(default_factory=set)
    partial: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    strangers: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything acknowledged is there whole, and nothing else in part."""
        return not (self.partial or self.lost or self.strangers)


def judge(db: Database, work: list[Batch], acknowledged: set[int]) -> Verdict:
    """Compares the database with the data, entry by entry, in one snapshot.

    Args:
        db: the database.
        work: the whole load.
        acknowledged: numbers of the batches whose commit was reported.
    """
    by_code, by_name, marks = spaces(db)
    with db.transaction(read_only=True) as txn:
        found = [dict(txn.scan(space)) for space in (by_code, by_name, marks)]
    verdict = Verdict()
    for batch in work:
        expected = (batch.by_code, batch.by_name, [batch.marker])
        there = right = 0
        for entries, pairs in zip(found, expected, strict=True):
            for key, value in pairs:
                present = entries.pop(key, None)
                there += present is not None
                right += present == value
        if right == sum(map(len, expected)):
            verdict.whole.add(batch.number)
        elif there:
            verdict.partial.add(batch.number)
    verdict.lost = acknowledged - verdict.whole
    verdict.strangers = sum(map(len, found))
    return verdict


def load_and_kill(path: str, threads: int, size: int, stop_at: int) -> dict[str, Any]:
    """Starts a writing process and kills it with SIGKILL once it has acknowledged enough.

    Args:
        path: the database, made by the writer.
        threads: how many threads it writes from.
        size: how many characters one batch holds.
        stop_at: how many acknowledgements to wait for.

    Returns:
        ``acknowledged`` (a set of batch numbers), ``seconds`` from the first batch to the kill, ``pid``, and
        ``signal``, which ended the process.

    Raises:
        RuntimeError: the writer ended by itself.
    """
    command = [sys.executable, "-P", "-m", "enginelib.demo_writer", path, str(threads), str(size)]
    acknowledged: set[int] = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        began = time.monotonic()
        took = 0.0
        for line in writer.stdout:
            if not line.endswith(b"\n"):
                break
            acknowledged.add(int(line))
            if len(acknowledged) == stop_at:
                took = time.monotonic() - began
                writer.send_signal(signal.SIGKILL)
        ended_by = -writer.wait()
    if ended_by != signal.SIGKILL:
        raise RuntimeError(f"The writing process ended by itself after {len(acknowledged)} batches.")
    return {"acknowledged": acknowledged, "seconds": took, "pid": writer.pid, "signal": ended_by}


def ask(db: Database) -> list[dict[str, str]]:
    """Answers a few questions by ranges of keys; returns them with their answers."""
    by_code, by_name, _ = spaces(db)

    def char(code: bytes) -> str:
        return chr(int.from_bytes(code, "big"))

    def code(value: int) -> bytes:
        return value.to_bytes(3, "big")

    snowman = by_name[b"SNOWMAN"].decode()
    greek = "".join(char(key) for key in by_code.scan(code(0x3B1), code(0x3CA), values=False))
    arrows = by_code.count_range(code(0x2190), code(0x2200))
    cats = "".join(value.decode() for value in by_name.scan(prefix=b"CAT FACE", keys=False))
    last = [name.decode() for name in by_name.scan(reverse=True, limit=2, values=False)]
    return [
        {"question": "the character named SNOWMAN", "answer": snowman},
        {"question": "the code points from U+03B1 to U+03C9", "answer": greek},
        {"question": "how many there are from U+2190 to U+21FF", "answer": str(arrows)},
        {"question": "names that begin with CAT FACE", "answer": cats},
        {"question": "the last two names, backwards", "answer": ", ".join(last)},
    ]


def demonstrate(
    path: str,
    say: Callable[[str, str], None],
    *,
    threads: int = THREADS,
    size: int = BATCH,
    seed: int | None = None,
) -> dict[str, Any]:
    """Runs the whole demonstration.

    Args:
        path: the database to make; it must not exist.
        say: called with a title and a text as each step is done.
        threads: how many threads write.
        size: how many characters one transaction holds.
        seed: chooses the moment of the kill; None for a new one each time.

    Returns:
        All that was measured and found, as plain values; ``ok`` is the verdict.
    """
    work = batches(size)
    total = sum(len(batch.by_code) for batch in work)
    stop_at = int(len(work) * random.Random(seed).uniform(0.35, 0.65))
    result: dict[str, Any] = {
        "path": path,
        "unicode": unicodedata.unidata_version,
        "characters": total,
        "transactions": len(work),
        "threads": threads,
    }
    say(
        "data",
        f"Unicode {unicodedata.unidata_version}: {total:,} characters, {len(work):,} transactions of {size}",
    )

    killed = load_and_kill(path, threads, size, stop_at)
    acknowledged: set[int] = killed["acknowledged"]
    result["load"] = _rates(len(acknowledged), size, killed["seconds"])
    say("load", f"{threads} threads, each commit on stable storage: {_speed(result['load'])}")
    say("kill", f"SIGKILL to the writer (pid {killed['pid']}) with {stop_at / len(work):.0%} acknowledged")

    began = time.monotonic()
    with open_database(path, create=False) as db:
        result["recovery"] = {**db.recovery, "opened_in": time.monotonic() - began}
        say(
            "recover",
            "opened in {opened_in:.3f} s: {records:,} log records replayed".format(**result["recovery"]),
        )

        verdict = judge(db, work, acknowledged)
        result["proof"] = _proof(verdict, acknowledged)
        say("prove", _proof_text(verdict, acknowledged))

        rest = [batch for batch in work if batch.number not in verdict.whole]
        began = time.monotonic()
        load(db, rest, threads)
        result["finish"] = _rates(len(rest), size, time.monotonic() - began)
        complete = judge(db, work, {batch.number for batch in work})
        result["complete"] = complete.ok
        state = "all characters there" if complete.ok else "NOT all characters there"
        say("finish", f"{_speed(result['finish'])}; {state}")

        result["answers"] = ask(db)
        for item in result["answers"]:
            say("ask", f"{item['question']}: {item['answer']}")

        result["log"] = _log(db)
        say("log", _log_text(result["log"]))
        report = db.verify()
        result["verify"] = report.as_dict()
        say("verify", str(report))
    result["ok"] = verdict.ok and complete.ok and report.ok
    return result


def _rates(transactions: int, size: int, seconds: float) -> dict[str, float]:
    took = max(seconds, 1e-9)
    return {
        "transactions": transactions,
        "seconds": seconds,
        "transactions_per_second": transactions / took,
        "characters_per_second": transactions * size / took,
    }


def _speed(rates: dict[str, float]) -> str:
    return (
        f"{rates['transactions']:,.0f} transactions in {rates['seconds']:.2f} s, "
        f"{rates['transactions_per_second']:,.0f} a second ({rates['characters_per_second']:,.0f} characters)"
    )


def _log(db: Database) -> dict[str, int]:
    stats = db.stats()
    return {
        "bytes": stats["log"]["end_lsn"],
        "commits_since_recovery": stats["transactions"]["commits"],
        "syncs_since_recovery": stats["log"]["syncs"],
    }


def _log_text(log: dict[str, int]) -> str:
    return (
        f"{log['bytes'] / 1e6:,.1f} MB in all; {log['commits_since_recovery']:,} commits since the recovery "
        f"shared {log['syncs_since_recovery']:,} syncs"
    )


def _proof(verdict: Verdict, acknowledged: set[int]) -> dict[str, Any]:
    return {
        "acknowledged": len(acknowledged),
        "acknowledged_and_whole": len(acknowledged & verdict.whole),
        "unacknowledged_and_whole": len(verdict.whole - acknowledged),
        "lost": sorted(verdict.lost),
        "partial": sorted(verdict.partial),
        "strangers": verdict.strangers,
        "ok": verdict.ok,
    }


def _proof_text(verdict: Verdict, acknowledged: set[int]) -> str:
    return (
        f"{len(acknowledged & verdict.whole):,} of {len(acknowledged):,} acknowledged transactions are there "
        f"whole; {len(verdict.whole - acknowledged)} committed but not acknowledged, whole too; "
        f"{len(verdict.partial)} in part, {verdict.strangers} stray entries"
    )
