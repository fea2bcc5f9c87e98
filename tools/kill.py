"""Kills a writing process with SIGKILL, again and again, and looks what it leaves.

    python tools/kill.py --rounds 200 --seed 1 [--threads 4] [--keep DIRECTORY]

Each round starts a process whose threads commit with durability ``sync`` and ``os`` and tell of it over a pipe; it is
killed at a random moment: while it writes, loads in bulk or merges tables, while it takes checkpoints, while it
recovers from the last kill. Every transaction changes a B-tree and an LSM-tree. Then the database is opened: every
acknowledged transaction must be there whole, in both trees, none in part, and ``verify`` clean. All rounds use one
directory, so that log segments are recycled. Exit status 1 when anything is found.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from _writer import GROUP, LOAD, OPTIONS, rows, spaces

import enginelib


class Finding(Exception):
    """The database broke a promise."""


class Campaign:
    """One directory, killed many times."""

    def __init__(self, directory: str, seed: int, threads: int) -> None:
        self.directory = directory
        self.rng = random.Random(seed)
        self.threads = threads
        self.acknowledged = [0] * threads
        self.begun = [0] * threads
        self.loaded = [0, 0]  # the newest bulk load acknowledged, and begun
        self.commits = 0
        self.in_recovery = 0

    def round(self, number: int) -> None:
        """Start, kill, look."""
        seed = self.rng.randrange(1 << 30)
        while self.rng.random() < 0.35 and number:  # a few deaths during recovery first
            self.run(seed, self.rng.uniform(0.0, 0.02), from_start=True)
            self.in_recovery += 1
        self.run(seed, self.rng.uniform(0.02, 0.4), from_start=False)
        self.look()

    def run(self, seed: int, seconds: float, from_start: bool) -> None:
        """A process that lives for so long after it has begun to open, or has opened, the database."""
        command = [sys.executable, str(HERE / "_writer.py"), self.directory, str(seed), str(self.threads)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None and process.stderr is not None
        out = process.stdout.fileno()
        data = b""
        mark = b"opening\n" if from_start else b"open\n"
        patience = time.monotonic() + 60
        deadline: float | None = None
        while deadline is None or time.monotonic() < deadline:
            wait = max(0.0, (deadline or patience) - time.monotonic())
            if select.select([out], [], [], wait)[0]:
                piece = os.read(out, 1 << 16)
                if not piece:
                    break
                data += piece
            if deadline is None and mark in data:
                deadline = time.monotonic() + seconds
            if deadline is None and time.monotonic() > patience:
                break
        hung = deadline is None
        process.send_signal(signal.SIGKILL)
        rest, errors = process.communicate()
        self.read(data + rest)
        if process.returncode != -signal.SIGKILL or hung:
            raise Finding(f"the writer ended by itself or hangs ({process.returncode}): {errors.decode()[-2000:]}")

    def read(self, data: bytes) -> None:
        """Takes in what the writer said; the last line may be cut short."""
        for line in data.split(b"\n")[:-1]:
            words = line.split()
            if words[:1] == [b"b"]:
                self.begun[int(words[1])] = int(words[2])
            elif words[:1] == [b"a"]:
                self.acknowledged[int(words[1])] = int(words[2])
                self.commits += 1
            elif words[:1] == [b"lb"]:
                self.loaded[1] = int(words[1])
            elif words[:1] == [b"la"]:
                self.loaded[0] = int(words[1])

    def look(self) -> None:
        """Opens the database and compares; a copy of what the kill left is kept until the next time."""
        shutil.rmtree(self.directory + ".left", ignore_errors=True)
        shutil.copytree(self.directory, self.directory + ".left")
        with contextlib.closing(enginelib.Database(self.directory, background=False, **OPTIONS)) as db:
            tables = spaces(db)
            with db.transaction(read_only=True) as txn:
                groups, history, lsm_groups, lsm_history, loaded = (dict(txn.scan(table)) for table in tables.values())
            if groups != lsm_groups or history != lsm_history:
                raise Finding(f"the trees differ: {sorted(set(groups.items()) ^ set(lsm_groups.items()))[:3]}, "
                              f"{sorted(set(history.items()) ^ set(lsm_history.items()))[:3]}")  # fmt: skip
            for thread in range(self.threads):
                self.check(thread, groups, history)
            self.check_load(loaded)
            extra = set(groups) - {key for t in range(self.threads) for key, _ in rows(t, 0)}
            if extra:
                raise Finding(f"keys from nowhere: {sorted(extra)[:5]}")
            report = db.verify()
            if not report.ok:
                raise Finding(f"verify: {report.findings[:3]}")
            if self.rng.random() < 0.5:  # else the next process meets a clean database
                db.abandon()

    def check(self, thread: int, groups: dict[bytes, bytes], history: dict[bytes, bytes]) -> None:
        """One thread's rows: of one transaction, between the last acknowledged and the last begun."""
        found = [groups.get(b"t%d/%d" % (thread, i)) for i in range(GROUP)]
        low, high = self.acknowledged[thread], max(self.begun[thread], self.acknowledged[thread])
        if found[0] is None:
            if low or any(found):
                raise Finding(f"thread {thread}: transaction {low} was acknowledged and its rows are gone")
            return
        number = int(found[0].split(b":")[0])
        if not low <= number <= high:
            raise Finding(f"thread {thread}: acknowledged {low}, begun {high}, found {number}")
        for i, (key, value) in enumerate(rows(thread, number)):
            if found[i] != value:
                raise Finding(f"thread {thread}: {key!r} is not of transaction {number} like its neighbours")
        prefix = b"t%d/" % thread
        kept = sorted(int(key.split(b"/")[1]) for key in history if key.startswith(prefix))
        if kept != list(range(max(1, number - 49), number + 1)):
            raise Finding(f"thread {thread}: history {kept} does not lead up to {number}")
        self.acknowledged[thread] = self.begun[thread] = number

    def check_load(self, loaded: dict[bytes, bytes]) -> None:
        """The bulk-loaded rows: all of one load, between the last acknowledged and the last begun."""
        numbers = {int(value) for value in loaded.values()} or {0}
        low, high = self.loaded[0], max(self.loaded)
        if len(numbers) > 1 or len(loaded) not in (0, LOAD) or not low <= min(numbers) <= high:
            raise Finding(f"bulk load {low} was acknowledged, {high} begun; found {len(loaded)} rows of {sorted(numbers)}")
        self.loaded = [min(numbers)] * 2


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--keep", help="directory to use, and to leave behind")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    directory = args.keep or tempfile.mkdtemp(prefix="enginelib-kill-")
    campaign = Campaign(str(Path(directory) / "killed.db"), args.seed, args.threads)
    started = time.monotonic()
    found = ""
    done = 0
    for number in range(args.rounds):
        try:
            campaign.round(number)
        except (Finding, enginelib.Error) as error:
            found = f"round {number}: {type(error).__name__}: {error}"
            break
        done += 1
    result = {
        "rounds": done,
        "killed_in_recovery": campaign.in_recovery,
        "acknowledged": campaign.commits,
        "seconds": round(time.monotonic() - started, 1),
        "found": found,
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(
            f"{done} rounds ({campaign.in_recovery} more kills during opening), {campaign.commits:,} commits "
            f"acknowledged, in {result['seconds']} s: {found if found else 'nothing lost, nothing partial'}"
        )
        if found:
            print(f"kept, as it is and as the last kill left it: {directory}")
            print(f"again: python tools/kill.py --rounds {args.rounds} --seed {args.seed}")
    if not args.keep and not found:
        with contextlib.suppress(OSError):
            shutil.rmtree(directory)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
