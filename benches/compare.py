"""enginelib beside the stores one would otherwise take: the whole table, in one interleaved run.

    python -m benches.compare
    python -m benches.compare --trees lsm
    python -m benches.compare --rows get,scan --rounds 3 --only enginelib,lmdb --json run.json

Within a row the stores take turns, round by round (A B C, A B C, ...), so that whatever else the machine does
meets all of them alike. Exits with 1 if a bound was missed, so that it can guard a change.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benches import report
from benches.data import Data
from benches.lsmrows import ROWS as LSM_ROWS
from benches.peers import STORES, Store
from benches.peers.tables import STORES as LSM_STORES
from benches.stand import Stand, real_directory, rest
from benches.workloads import ROWS, Row

BUSY = 0.7  # load average above which a run says so


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benches.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trees", choices=("btree", "lsm"), default="btree", help="which table (default: %(default)s)")
    keys = ", ".join(row.key for row in ROWS)
    more = ", ".join(row.key for row in LSM_ROWS)
    names = ", ".join(store.name for store in STORES)
    parser.add_argument("--rows", help=f"comma-separated, of: {keys}; of lsm: {more}")
    parser.add_argument("--only", help=f"stores, or how their names begin, of: {names}")
    parser.add_argument("--keys", type=int, default=1_000_000, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds a row (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of keys and orders (default: %(default)s)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="stretches every time limit (default: %(default)s)"
    )
    parser.add_argument("--directory", type=Path, help="where data is put, in a folder removed afterwards")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes every figure of every round")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="writes the tables of docs/benchmarks.md"
    )
    chosen = parser.parse_args(argv)
    chosen.table = LSM_ROWS if chosen.trees == "lsm" else ROWS
    there = [row.key for row in chosen.table]
    chosen.rows = chosen.rows.split(",") if chosen.rows else there
    if unknown := set(chosen.rows) - set(there):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    if chosen.keys < 1000 or chosen.rounds < 1:
        parser.error("at least 1,000 keys and one round")
    return chosen


def stores(only: str | None, every: tuple[type[Store], ...]) -> tuple[list[type[Store]], dict[str, str]]:
    """Those asked for that are here, and why the others are not."""
    asked = [
        store
        for store in every
        if only is None or any(store.name.startswith(beginning) for beginning in only.split(","))
    ]
    missing = {store.name: reason for store in asked if (reason := store.missing()) is not None}
    return [store for store in asked if store.name not in missing], missing


def measure(row: Row, present: list[type[Store]], rounds: int, stand: Stand) -> report.Outcome:
    outcome = report.Outcome(row)
    for round_ in range(1 if row.once else rounds):
        for store in present:
            if not hasattr(store, row.needs) or store.name in outcome.failures:
                continue
            rest()
            try:
                outcome.figures.setdefault(store.name, []).append(row.measure(stand, store, round_))
            except Exception as failure:
                outcome.figures.pop(store.name, None)
                outcome.failures[store.name] = f"{type(failure).__name__}: {failure}"
    return outcome


def main(argv: list[str] | None = None) -> int:
    chosen = arguments(argv)
    present, missing = stores(chosen.only, LSM_STORES if chosen.trees == "lsm" else STORES)
    for name, reason in missing.items():
        print(f"{name} is missing: {reason}")
    if not present:
        raise SystemExit("none of the stores asked for is installed")
    begin = time.perf_counter()
    data = Data(chosen.keys, chosen.seed)
    directory = Path(tempfile.mkdtemp(prefix="enginelib-bench-", dir=chosen.directory or real_directory()))
    stand = Stand(data, directory, chosen.scale)
    about: dict[str, Any] = {
        "keys": chosen.keys,
        "rounds": chosen.rounds,
        "seed": chosen.seed,
        "machine": report.machine(),
        "versions": {store.name: version for store in present if (version := store.version())},
        "missing": missing,
        "load": os.getloadavg()[0],
    }
    if about["load"] > BUSY:
        print(f"the machine is busy (load {about['load']:.1f}): the rates will be low and far apart")
    gc.freeze()
    outcomes: list[report.Outcome] = []
    try:
        for row in chosen.table:
            if row.key in chosen.rows:
                outcomes.append(measure(row, present, chosen.rounds, stand))
                print(report.text(outcomes[-1]), flush=True)
    finally:
        stand.close()
        shutil.rmtree(directory, ignore_errors=True)
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts()]
    failed = [name for outcome in outcomes for name in outcome.failures]
    about["seconds"] = round(time.perf_counter() - begin)
    met = sum(verdict.met for verdict in verdicts)
    print(f"{met} of {len(verdicts)} bounds met, {len(failed)} failures; {about['seconds']} s")
    if chosen.json:
        chosen.json.write_text(json.dumps(report.as_json(outcomes, about), indent=1) + "\n")
    if chosen.markdown:
        chosen.markdown.write_text(report.markdown(outcomes, about))
    return 0 if not failed and all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
