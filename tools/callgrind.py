"""How many instructions one operation takes, counted by ``valgrind --tool=callgrind``.

    python tools/callgrind.py [--operations get,put] [--count 20000] [--json]

Each operation is run N and 2N times in two processes that are otherwise alike; the difference, divided by
N, leaves out start-up, loading and closing. The count hardly varies from run to run or with the machine's
load, so that a change of a few instructions shows where a clock would not tell. ``floor`` is the
interpreter's share: the same loop round ``dict.get``. What the kernel does is not counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEYS = 10_000
CACHE = 64 << 20


def floor(db: Any, ks: Any, keys: list[bytes], value: bytes) -> None:
    """The interpreter's share: a loop round a call that finds nothing in nothing."""
    empty: dict[bytes, bytes] = {}
    read = empty.get
    for key in keys:
        read(key)


def get(db: Any, ks: Any, keys: list[bytes], value: bytes) -> None:
    """In one read transaction."""
    with db.transaction(read_only=True) as txn:
        read = txn.get
        for key in keys:
            read(ks, key)


def get_each(db: Any, ks: Any, keys: list[bytes], value: bytes) -> None:
    """A read transaction for each."""
    read = ks.get
    for key in keys:
        read(key)


def put(db: Any, ks: Any, keys: list[bytes], value: bytes) -> None:
    """A new value for a present key, a transaction for each, durability ``os``."""
    write = ks.put
    for key in keys:
        write(key, value)


def put_in_one(db: Any, ks: Any, keys: list[bytes], value: bytes) -> None:
    """The same, in one transaction."""
    with db.transaction() as txn:
        write = txn.put
        for key in keys:
            write(ks, key, value)


OPERATIONS: dict[str, Callable[[Any, Any, list[bytes], bytes], None]] = {
    "floor": floor,
    "get": get,
    "get_each": get_each,
    "put": put,
    "put_in_one": put_in_one,
}


def child(operation: str, count: int, most: int, path: str) -> None:
    """What runs under callgrind: loads a database, then does the operation ``count`` times of ``most``."""
    import enginelib

    gc.disable()
    source = random.Random(1)
    keys = [source.randbytes(16) for _ in range(KEYS)]
    asked = source.choices(keys, k=most)[:count]
    db = enginelib.open(path, durability="os", cache_size=CACHE)
    ks = db.keyspace("k")
    with db.transaction() as txn:
        txn.put_many(ks, [(key, source.randbytes(100)) for key in keys])
    OPERATIONS[operation](db, ks, asked, source.randbytes(100))
    db.close()


def total(operation: str, count: int, most: int) -> int:
    """Instructions of a whole process that does the operation ``count`` times, and is ready for ``most``."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind.out"
        command = [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={out}",
            sys.executable,
            __file__,
            "--child",
            operation,
            str(count),
            str(most),
            str(Path(directory) / "db"),
        ]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        if process.returncode:
            raise SystemExit(f"{operation} failed under callgrind:\n{process.stderr[-2000:]}")
        found = re.findall(r"^totals: (\d+)", out.read_text(), re.MULTILINE)
    return sum(map(int, found))


def instructions(operation: str, count: int) -> float:
    """Instructions of one operation, the interpreter's loop included."""
    return (total(operation, 2 * count, 2 * count) - total(operation, count, 2 * count)) / count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", default=",".join(OPERATIONS), help="default: %(default)s")
    parser.add_argument("--count", type=int, default=20_000, help="N (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="prints an object instead of lines")
    chosen = parser.parse_args()
    operations = chosen.operations.split(",")
    if unknown := set(operations) - set(OPERATIONS):
        parser.error(f"no such operation: {', '.join(sorted(unknown))}")
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed")
    counts = {}
    for operation in operations:
        counts[operation] = instructions(operation, chosen.count)
        if not chosen.json:
            print(f"{operation:<12} {counts[operation]:10,.1f} instructions", flush=True)
    if chosen.json:
        print(json.dumps(counts))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        main()
