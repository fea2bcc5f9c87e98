"""Flips bits of a small database, one at a time, and looks whether each is found or harmless.

    python tools/bitflip.py [--which clean|crashed|both] [--sample N] [--seed S] [--jobs 2] [--json]
    python tools/bitflip.py --which crashed --only log/0000000000001000.wal:77:3

Every bit of every file, of a database that was closed and of one left by a crash, each with keyspaces of both back
ends and transactions that touch both. After each flip the database is opened, read whole in both directions, and
verified. What may come of it: an error of enginelib's own, or a finding of
``verify``, or exactly what the database held. One exception (law 5): of the very last log group before a crash it
cannot be told whether it is torn, so that its transaction may be missing. Never a wrong answer, never the death of
the process: chunks run in processes of their own. Exit status 1 when anything is found.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import _history as h
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreKeyspace, CoreTransaction

from enginelib import errors

OPTIONS = {
    "page_size": 4096,
    "cache_size": 65536,
    "segment_size": 8192,
    "log_buffer": 512,
    "checkpoint_bytes": 1 << 40,
    "version_budget": 1 << 24,
    "transaction_budget": 1 << 24,
    "durability": h.SYNC,
}
TREE = {"memtable_size": 64 << 10, "table_size": 64 << 10}
CHUNK = 4000
Changes = dict[str, list[tuple[bytes, bytes]]]
Gone = dict[str, list[bytes]]
STUCK = 60.0


def build(crashed: bool) -> tuple[dict[str, bytes], list[h.State]]:
    """A small database: its files, and the states it may show, the newest last."""
    vfs = FaultVfs()
    db = h.open_database(vfs, OPTIONS)
    names = ["", "events", "numbers", "words"]
    tables = {
        "events": db.core_keyspace(CoreKeyspace, "events", True, "lsm", TREE),
        **{name: db.core_keyspace(CoreKeyspace, name) for name in names[2:]},
    }
    state: h.State = {name: {} for name in names[1:]}
    states = []

    def commit(changes: Changes, gone: Gone | None = None) -> None:
        """One transaction, of one keyspace or of several."""
        with db.core_transaction(CoreTransaction) as txn:
            for name, pairs in changes.items():
                txn.put_many(tables[name], pairs)
                state[name].update(pairs)
            for name, keys in (gone or {}).items():
                for key in keys:
                    txn.delete(tables[name], key)
                    del state[name][key]
        states.append({n: dict(rows) for n, rows in state.items()})

    def delete_range(start: bytes, stop: bytes) -> None:
        with db.core_transaction(CoreTransaction) as txn:
            txn.delete_range(tables["events"], start, stop)
        state["events"] = {k: v for k, v in state["events"].items() if not start <= k < stop}
        states.append({n: dict(rows) for n, rows in state.items()})

    def flush() -> None:
        db.step("seal")
        db.step("flush")

    commit({"numbers": [(b"%03d" % i, b"number %d, " % i * (1 + i % 5)) for i in range(60)]})
    commit({"words": [(b"large", bytes(range(256)) * 9), (b"", b"empty key"), (b"empty value", b"")]})
    for turn in range(4):  # a level below the first, and a run above it
        commit({"events": [(b"%03d" % i, b"event %d " % i * (1 + turn)) for i in range(turn, 40, 3)]})
        flush()
    db.step("compact")
    db.step("settle")
    commit({"events": [(b"large", bytes(range(256)) * 20), (b"", b"empty key"), (b"empty value", b"")]}, {"events": [b"004"]})
    delete_range(b"010", b"013")
    flush()
    db.checkpoint()
    commit({"numbers": [(b"%03d" % i, b"again %d" % i) for i in range(0, 60, 7)]}, {"numbers": [b"001", b"002"]})
    if crashed:
        db.checkpoint()
        for i in range(4):
            new = (b"%03d" % (100 + i), b"after the checkpoint" * 3)
            commit({"numbers": [new], "events": [new]}, {"numbers": [b"%03d" % (10 + i)], "events": [b"%03d" % (20 + i)]})
            if i == 1:
                flush()
        delete_range(b"030", b"034")
        commit({"words": [(b"larger", b"0123456789" * 130)], "events": [(b"larger", b"0123456789" * 130)]})
        commit({"words": [(b"last", b"of all")], "events": [(b"last", b"of all")]})
        open_txn = db.core_transaction(CoreTransaction)
        open_txn.put(tables["words"], b"never", b"committed")
        open_txn.put(tables["events"], b"never", b"committed")
        files = vfs.files(durable=True)
        db.abandon()
        return files, states[-2:]
    db.close()
    return vfs.files(), states[-1:]


class Flipper:
    """One database, any of its bits."""

    def __init__(self, which: str) -> None:
        self.files, self.states = build(which == "crashed")
        if self.files[f"{h.DATABASE}/LOCK"]:
            self.files[f"{h.DATABASE}/LOCK"] = b"12345 localhost\n"  # not of this process, which is one of several
        self.base = FaultVfs()
        for path, content in self.files.items():
            self.base.put_file(path, content)
        self.bits = [(path, i) for path in sorted(self.files) for i in range(8 * len(self.files[path]))]

    def flip(self, path: str, bit: int) -> str:
        """What comes of it: "found", "verify", "harmless" or "last group"; raises a Finding otherwise."""
        image = self.base.crash_image(0, 0, "all")
        image.corrupt(path, bit // 8, 1 << bit % 8)
        try:
            db = h.open_database(image, OPTIONS)
        except errors.Error as error:
            return self.clear(error)
        try:
            found = h.content(db)
            backward = self.backward(db)
            findings, _ = db.verify()
        except errors.Error as error:
            return self.clear(error)
        finally:
            db.abandon()
        if found != backward:
            raise h.Finding(f"reads differ with their direction: {h.difference(found, backward)}")
        if found == self.states[-1]:
            return "verify" if findings else "harmless"
        if len(self.states) > 1 and found == self.states[-2] and path.endswith(".wal") and not findings:
            return "last group"
        raise h.Finding(f"a wrong answer: {h.difference(self.states[-1], found)}")

    def clear(self, error: errors.Error) -> str:
        """The error says something, and is of the right sort."""
        misleading = isinstance(error, errors.UsageError | errors.TransactionAborted)
        if misleading and not isinstance(error, errors.NotSupported):
            raise h.Finding(f"misleading error: {type(error).__name__}: {error}")
        if isinstance(error, errors.CorruptionError) and not error.file:
            raise h.Finding(f"a CorruptionError that names no file: {error}")
        return "found"

    def backward(self, db: Any) -> h.State:
        """Everything again, by point reads and backward scans."""
        state: h.State = {}
        txn = db.core_transaction(CoreTransaction, True)
        for name, _, _ in txn.catalog_rows():
            keyspace = db.core_keyspace(CoreKeyspace, name, False)
            keys = list(txn.scan(keyspace, reverse=True, values=False))
            state[name] = {key: txn.get(keyspace, key) for key in keys}
        txn.abort()
        return state


def work(which: str, todo: list[tuple[str, int]], at: Any, results: Any) -> None:
    """One chunk in a process of its own."""
    flipper = Flipper(which)
    counts: collections.Counter[str] = collections.Counter()
    failures = []
    for i, (path, bit) in enumerate(todo):
        at.value = i
        try:
            counts[f"{path.rsplit('/', 1)[-1].split('.')[-1]} {flipper.flip(path, bit)}"] += 1
        except Exception as error:
            failures.append((f"{path}:{bit // 8}:{bit % 8}", f"{type(error).__name__}: {error}"))
            if len(failures) >= 20:
                break
    results.put((dict(counts), failures))


def campaign(which: str, sample: int, seed: int, jobs: int) -> dict[str, Any]:
    """All chunks, a few at a time; a death or a hang is a finding, and what follows it is done too."""
    bits = Flipper(which).bits
    if sample and sample < len(bits):
        bits = sorted(random.Random(seed).sample(bits, sample))
    chunks = [bits[i : i + CHUNK] for i in range(0, len(bits), CHUNK)]
    context = multiprocessing.get_context("fork")
    counts: collections.Counter[str] = collections.Counter()
    failures: list[tuple[str, str]] = []
    running: list[list[Any]] = []
    while chunks or running:
        while chunks and len(running) < jobs and len(failures) < 100:
            todo = chunks.pop()
            at, results = context.Value("q", -1), context.SimpleQueue()
            process = context.Process(target=work, args=(which, todo, at, results))
            process.start()
            running.append([process, todo, at, results, -1, time.monotonic()])
        if len(failures) >= 100:
            chunks.clear()
        for job in list(running):
            process, todo, at, results, seen, since = job
            if not results.empty():
                found, bad = results.get()
                counts.update(found)
                failures += bad
                process.join()
                running.remove(job)
                continue
            if at.value != seen:
                job[4:] = [at.value, time.monotonic()]
            code = process.exitcode
            if code is not None or time.monotonic() - since > STUCK:
                if code is None:
                    process.kill()
                elif not results.empty():
                    continue
                path, bit = todo[max(0, at.value)]
                what = "the process hangs" if code is None else f"the process died with status {code}"
                failures.append((f"{path}:{bit // 8}:{bit % 8}", what))
                running.remove(job)
                if todo[at.value + 1 :]:
                    chunks.append(todo[at.value + 1 :])
                if at.value > 0:
                    chunks.append(todo[: at.value])
        time.sleep(0.01)
    return {"database": which, "bits": len(bits), "outcomes": dict(sorted(counts.items())), "failures": failures}


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--which", choices=("clean", "crashed", "both"), default="both")
    parser.add_argument("--sample", type=int, default=0, help="so many bits only, drawn from the seed; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", help="one bit, in this process: path:offset:bit")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    which = ("clean", "crashed") if args.which == "both" else (args.which,)
    if args.only:
        path, offset, bit = args.only.rsplit(":", 2)
        full = path if path.startswith("/") else f"{h.DATABASE}/{path}"
        print(Flipper(which[0]).flip(full, 8 * int(offset) + int(bit)))
        return 0
    bad = 0
    for one in which:
        started = time.monotonic()
        result = campaign(one, args.sample, args.seed, args.jobs)
        result["seconds"] = round(time.monotonic() - started, 1)
        bad += len(result["failures"])
        if args.json:
            print(json.dumps(result))
            continue
        print(f"{one}: {result['bits']:,} bits flipped in {result['seconds']} s: {result['outcomes']}")
        for place, what in result["failures"][:12]:
            print(f"  FOUND at {place}: {what}\n    again: python tools/bitflip.py --which {one} --only {place}")
        if len(result["failures"]) > 12:
            print(f"  and {len(result['failures']) - 12} more")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
