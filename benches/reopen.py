"""The processes of the reopening row: one loads, one works and kills itself, one opens and is timed."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches.data import Data, pieces
from benches.peers import CACHE
from benches.stand import BATCH

ROOT = Path(__file__).resolve().parent.parent
NEVER = 1 << 40  # bytes of log between checkpoints: all operations have to be replayed


def open_database(path: str) -> Any:
    enginelib: Any = importlib.import_module("enginelib")
    return enginelib.open(path, durability="os", cache_size=2 * CACHE, checkpoint_bytes=NEVER)


def load(path: str, count: int, seed: int) -> None:
    """Puts ``count`` pairs in ascending order, checkpoints and closes."""
    with open_database(path) as db:
        ks = db.keyspace("k")
        for batch in pieces(Data(count, seed).ascending, 10 * BATCH):
            with db.transaction() as txn:
                txn.put_many(ks, batch)


def work(path: str, count: int, operations: int, seed: int, round_: int) -> None:
    """Puts ``operations`` new values at random, a hundred a transaction, and dies of SIGKILL."""
    changes = Data(count, seed).changes(operations, round_)
    db = open_database(path)
    ks = db.keyspace("k")
    for batch in pieces(changes, 100):
        with db.transaction() as txn:
            txn.put_many(ks, batch)
    os.kill(os.getpid(), signal.SIGKILL)


def reopen(path: str, count: int, operations: int, seed: int, round_: int) -> None:
    """Opens, prints the seconds it took as JSON, and compares the keys changed last."""
    expected = dict(Data(count, seed).changes(operations, round_))
    begin = time.perf_counter()
    db = open_database(path)
    seconds = time.perf_counter() - begin
    values = db.keyspace("k").get_many(list(expected))
    db.close()
    print(json.dumps({"seconds": seconds, "whole": values == list(expected.values())}))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benches.reopen", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )


PARTS: dict[str, Callable[..., None]] = {"load": load, "work": work, "reopen": reopen}

if __name__ == "__main__":
    PARTS[sys.argv[1]](sys.argv[2], *map(int, sys.argv[3:]))
