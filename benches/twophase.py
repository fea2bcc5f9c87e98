"""What two phases cost: prepare and commit_prepared against a plain durable commit, turn by turn in one run.

    python -m benches.twophase [--seconds 10] [--directory DIR] [--changes 1]

Transactions of the same changes are ended in both ways alternately, so that what the disk does meanwhile hits both
alike. The bound is on the ratio of the medians of the ends alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import enginelib

BOUND = 2.2  # two syncs instead of one, and a tenth for the rest


def measure(directory: str, seconds: float, changes: int, backend: str) -> dict[str, float]:
    """Medians in microseconds, their ratio, and that of the first deciles, which other work moves less."""
    plain, both, first = [], [], []
    with enginelib.open(Path(directory) / backend, max_prepared=1000) as db:
        ks = db.keyspace("k", backend=backend)
        ks.put_many([(b"%08d" % i, b"v" * 100) for i in range(10_000)])
        deadline = time.perf_counter() + seconds
        n = 0
        while time.perf_counter() < deadline or n < 20:
            n += 1
            txn = db.transaction()
            change(txn, ks, n, changes)
            began = time.perf_counter()
            txn.commit()
            plain.append(time.perf_counter() - began)
            txn = db.transaction()
            change(txn, ks, n, changes)
            began = time.perf_counter()
            txn.prepare(f"{n}")
            between = time.perf_counter()
            db.commit_prepared(f"{n}")
            both.append(time.perf_counter() - began)
            first.append(between - began)
            if n % 500 == 0:
                for xid, _, _ in db.outcomes():
                    db.forget(xid, durability="lazy")
    times = {"commit": plain, "prepare": first, "both": both}
    medians = {name: statistics.median(each) * 1e6 for name, each in times.items()}
    quiet = statistics.quantiles(both, n=10)[0] / statistics.quantiles(plain, n=10)[0]
    return {**medians, "ratio": medians["both"] / medians["commit"], "quiet": quiet, "turns": n}


def change(txn: enginelib.Transaction, ks: enginelib.Keyspace, n: int, changes: int) -> None:
    for i in range(changes):
        txn.put(ks, b"%08d" % ((n * 7919 + i) % 10_000), b"%0100d" % n)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each back end")
    parser.add_argument("--directory", help="where the databases are made; a temporary one otherwise")
    parser.add_argument("--changes", type=int, default=1, help="keys changed by each transaction")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="enginelib-2pc-", dir=args.directory)
    try:
        results = {backend: measure(directory, args.seconds, args.changes, backend) for backend in ("btree", "lsm")}
    finally:
        shutil.rmtree(directory)
    if args.json:
        print(json.dumps(results))
    else:
        for backend, r in results.items():
            print(
                f"{backend}: commit {r['commit']:.0f} µs, prepare {r['prepare']:.0f} µs, with commit_prepared "
                f"{r['both']:.0f} µs: {r['ratio']:.2f} times, at most {BOUND} asked; first deciles {r['quiet']:.2f} "
                f"({r['turns']} turns)"
            )
    return int(any(r["ratio"] > BOUND for r in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
