"""Runs random transactions at an isolation level and looks for anomalies that it forbids.

    python tools/histories.py --count 200000 --seed 1 [--level serializable] [--backend lsm] [--threads 8] [--prepares 0.4]

For each level and back end, histories of some hundred transactions are run, half of them woven in one thread (repeatable from the seed), half in 2 to 16 threads;
in one of ten (of those that prepare, three of ten) the database dies in the middle and is recovered. A checker builds the graph of dependencies and looks for cycles. Exit status 1 when one is found.
"""

from __future__ import annotations

import argparse
import collections
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from _histories import Run

import enginelib

LEVELS = ("read_committed", "snapshot", "serializable", "locking", "serial")
TREES: dict[str, dict[str, Any]] = {
    "btree": {"backend": "btree"},
    "lsm": {"backend": "lsm", "memtable_size": 64 << 10, "table_size": 64 << 10},
}
OPTIONS: dict[str, Any] = {"cache_size": 4 << 20, "segment_size": 1 << 20, "durability": "os", "lock_timeout": 20.0}
SIZE = 400


def one(level: str, backend: str, seed: int, size: int, threads: int | None, prepares: float = 0.0) -> tuple[list[str], collections.Counter[str]]:
    """Runs and checks one history; returns what is wrong with it, and how its transactions ended."""
    rng = random.Random(seed)
    crash = rng.random() < (0.3 if prepares else 0.1)
    directory = tempfile.mkdtemp(prefix="histories-") if crash else None
    opened = [enginelib.open(directory or ":memory:", **OPTIONS)]

    def reopen() -> tuple[Any, Any]:
        opened[-1].abandon()
        opened.append(enginelib.open(directory or "", **OPTIONS))
        return opened[-1], opened[-1].keyspace("history")

    try:
        run = Run(opened[0], opened[0].keyspace("history", **TREES[backend]), level, seed, size, reopen if crash else None, prepares)
        woven = threads == 1 or prepares > 0 or (threads is None and level != "serial" and rng.random() < 0.5)  # serial ones do not weave
        history = run.woven(rng.choice((2, 3, 6, 12))) if woven else run.threaded(threads or rng.choice((2, 4, 8, 16)))
        findings = history.check(level)
        ends = collections.Counter(entry.reason if entry.status == "aborted" else entry.status for entry in run.entries)
        findings += [str(finding) for finding in run.db.verify().findings] if crash else []
        return findings, ends
    finally:
        for db in opened:
            db.close()
        if directory:
            shutil.rmtree(directory)


def campaign(level: str, backend: str, seed: int, count: int, threads: int | None = None, prepares: float = 0.0) -> tuple[list[str], collections.Counter[str]]:
    """Runs histories until `count` transactions are done, or until one is wrong."""
    ends: collections.Counter[str] = collections.Counter()
    while ends.total() < count:
        findings, more = one(level, backend, seed, min(SIZE, count - ends.total()), threads, prepares)
        ends += more
        if findings:
            return [f"seed {seed}: {finding}" for finding in findings], ends
        seed += 1
    return [], ends


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="transactions for each level and back end")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--level", choices=LEVELS, action="append")
    parser.add_argument("--backend", choices=TREES, action="append")
    parser.add_argument("--threads", type=int, help="always so many; 1: woven in one thread")
    parser.add_argument("--prepares", type=float, default=0.0, help="share of transactions that are prepared first; all are woven then")
    args = parser.parse_args()
    bad = 0
    for backend in args.backend or TREES:
        for level in args.level or LEVELS:
            began = time.monotonic()
            findings, ends = campaign(level, backend, args.seed, args.count, args.threads, args.prepares)
            bad += bool(findings)
            rest = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
            print(f"{backend} {level}: {ends.total()} transactions in {time.monotonic() - began:.0f} s: {rest}", flush=True)
            for finding in findings[:5]:
                print("  " + finding, flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
