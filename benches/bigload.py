"""The processes of the large loads: one store each, so that memory and bytes written are its own.

python -m benches.bigload put enginelib DIRECTORY 10000000 1     # one pair a transaction, each timed
python -m benches.bigload many rocksdict DIRECTORY 10000000 1    # a thousand a transaction, then all overwritten
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benches.data import KEY, VALUE
from benches.peers import Pair
from benches.peers.tables import STORES

ROOT = Path(__file__).resolve().parent.parent
BATCH = 1000
SLOW = 50_000  # nanoseconds from which on a put is looked at by itself
RARE = 10_000  # one put in so many: the 99.99th percentile


def keys_of(chunk: int, seed: int) -> list[bytes]:
    joined = random.Random(f"{seed} {chunk}").randbytes(KEY * BATCH)
    return [joined[i : i + KEY] for i in range(0, len(joined), KEY)]


def chunks(count: int, seed: int, noise: bytes, again: bool = False) -> Iterator[list[Pair]]:
    """All pairs in random order, a thousand at a time; `again`: the same keys in another order, with other values."""
    order = list(range(count // BATCH))
    source = random.Random(f"{seed} order")
    if again:
        source.shuffle(order)
    room = len(noise) - VALUE
    for chunk in order:
        keys = keys_of(chunk, seed)
        if again:
            source.shuffle(keys)
        base = (chunk * BATCH * 101 + 7 * again) % room
        yield [(key, noise[at : at + VALUE]) for key, at in zip(keys, range(base % room, room), strict=False)] or [
            (key, noise[:VALUE]) for key in keys
        ]


def written() -> int:
    """Bytes of pages of files that this process has made dirty, by a call or through a mapping."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


def memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def settle(store: Any) -> None:
    store.settle()


def put(store: Any, count: int, seed: int, noise: bytes) -> dict[str, float]:
    """One pair a transaction, each timed by itself."""
    before, resident = written(), memory("VmRSS")
    slow: list[int] = []
    now = time.perf_counter_ns
    one: Callable[[bytes, bytes], Any] = store.one()
    spent = 0
    for pairs in chunks(count, seed, noise):
        for key, value in pairs:
            began = now()
            one(key, value)
            took = now() - began
            spent += took
            if took > SLOW:
                slow.append(took)
    slow.sort()
    rare = count // RARE
    peak = memory("VmHWM") - resident
    began = now()
    settle(store)
    waited = (now() - began) / 1e9 - getattr(store, "calm", 0.0)
    return {
        "rate": count / (spent / 1e9),
        "rare_us": slow[-rare] / 1e3 if len(slow) >= rare > 0 else SLOW / 1e3,
        "worst_us": slow[-1] / 1e3 if slow else SLOW / 1e3,
        "memory": peak,
        "settling": waited,
        "amplification": (written() - before) / (count * (KEY + VALUE)),
    }


def many(store: Any, count: int, seed: int, noise: bytes) -> dict[str, float]:
    """A thousand a transaction until all compaction has settled; then the same keys again."""
    figures = {}
    for what in ("load", "overwrite"):
        spent = 0.0
        for pairs in chunks(count, seed, noise, what == "overwrite"):
            began = time.perf_counter()
            store.put_many(pairs)
            spent += time.perf_counter() - began
        began = time.perf_counter()
        settle(store)
        spent += time.perf_counter() - began - getattr(store, "calm", 0.0)
        figures[what] = count / spent
    figures["space"] = store.tables() / (count * (KEY + VALUE))
    return figures


def run(*arguments: object) -> dict[str, float]:
    """The same in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benches.bigload", *map(str, arguments)], cwd=ROOT, text=True, capture_output=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str]) -> None:
    work, name, directory, count, seed = arguments
    store = next(store for store in STORES if store.name == name)
    noise = random.Random(seed).randbytes(4 << 20)
    made = store(Path(directory), "os")
    found = {"put": put, "many": many}[work](made, int(count), int(seed), noise)
    made.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
