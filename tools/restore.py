"""Restores random moments of a busy database, and compares them with a model.

    python tools/restore.py --count 100 --seed 1 [--threads 4]

Threads write to keyspaces of both kinds, with savepoints, rollbacks, aborts, large values and range deletions; keyspaces are made, renamed and dropped beside them;
backups, checkpoints, bulk loads, closings and deaths of the process come between. Each commit's changes are noted by those who make them. Then as many moments as
asked for, named by commit, by LSN or by time, are restored from a random backup before them, and must hold what the notes amount to. Exit status 1 when one does not.
"""

from __future__ import annotations

import argparse
import bisect
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import enginelib

OPTIONS: dict[str, Any] = {"cache_size": 4 << 20, "segment_size": 1 << 20, "checkpoint_bytes": 2 << 20, "lock_timeout": 20.0}
TREES: dict[str, dict[str, Any]] = {
    "pages": {"backend": "btree"},
    "tables": {"backend": "lsm", "memtable_size": 64 << 10, "table_size": 64 << 10},
}
LARGE = 300_000
State = dict[str, dict[bytes, bytes]]
Note = tuple[Any, ...]          # ("put", keyspace, key, value), ("delete", keyspace, key), ("range", keyspace, low, high), ("make" | "drop", keyspace), ("rename", old, new)


def apply(state: State, note: Note) -> None:
    """Does what a note says."""
    kind, name = note[0], note[1]
    if kind == "put":
        state[name][note[2]] = note[3]
    elif kind == "delete":
        state[name].pop(note[2], None)
    elif kind == "range":
        for key in [key for key in state[name] if note[2] <= key < note[3]]:
            del state[name][key]
    elif kind == "make":
        state[name] = {}
    elif kind == "drop":
        del state[name]
    else:
        state[note[2]] = state.pop(name)


class Busy:
    """The database, what was committed in it, and its backups."""

    def __init__(self, directory: Path, seed: int, threads: int) -> None:
        self.directory, self.threads = directory, threads
        self.rng = random.Random(seed)
        self.notes: dict[int, list[Note]] = {}              # by commit timestamp
        self.marks: list[tuple[int, int, int]] = []         # (commit timestamp, LSN behind it, microseconds), ascending
        self.bases: list[tuple[int, Path]] = []             # (newest commit that may be in it, directory)
        self.failures: list[BaseException] = []
        self.made = 0
        self.open()

    def open(self) -> None:
        """Opens the database, and a stream beside it that says where commits end."""
        self.db = enginelib.open(
            self.directory / "db", archive=self.directory / "archive", durability=self.rng.choice(("sync", "os", "lazy")), **OPTIONS
        )
        self.stream = self.db.changes(since=self.marks[-1][1] if self.marks else None)
        if not self.notes:
            for name, tree in TREES.items():
                with self.db.transaction() as txn:
                    txn.create_keyspace(name, **tree)
                self.notes[txn.commit_ts] = [("make", name)]

    def listen(self) -> None:
        """Takes the marks of what has been committed."""
        for change in self.stream:
            self.marks.append((change.sequence, change.lsn, round(change.time * 1e6)))

    def reopen(self) -> None:
        """Closes the database, or lets it die, and opens it again."""
        self.db.sync()
        self.listen()
        self.stream.close()
        self.db.close() if self.rng.random() < 0.5 else self.db.abandon()
        self.open()

    def one(self, rng: random.Random) -> None:
        """One transaction."""
        notes: list[Note] = []
        try:
            with self.db.transaction() as txn:
                for _ in range(rng.randrange(1, 8)):
                    self.change(rng, txn, notes)
                    if rng.random() < 0.2:
                        kept = len(notes)
                        with txn.savepoint() as savepoint:
                            for _ in range(rng.randrange(1, 4)):
                                self.change(rng, txn, notes)
                            if rng.random() < 0.5:
                                savepoint.rollback()
                                del notes[kept:]
                if rng.random() < 0.1:
                    raise KeyError
            if txn.commit_ts:
                self.notes[txn.commit_ts] = notes
        except (KeyError, enginelib.TransactionAborted):
            pass

    def change(self, rng: random.Random, txn: enginelib.Transaction, notes: list[Note]) -> None:
        """One change."""
        name = rng.choice(list(TREES))
        ks = txn.keyspace(name)
        key = b"%04d" % rng.randrange(2000)
        chance = rng.random()
        if chance < 0.7:
            value = rng.randbytes(LARGE if chance < 0.01 else rng.randrange(400))
            txn.put(ks, key, value)
            notes.append(("put", name, key, value))
        elif chance < 0.95:
            if txn.delete(ks, key, blind=name == "tables") is not False:        # of what is not there nothing is written, nor locked
                notes.append(("delete", name, key))
        else:
            high = b"%04d" % (int(key) + 20)
            if name == "pages":         # what others put there meanwhile stays: the deletions are of keys that it sees
                notes += [("delete", name, each) for each in txn.scan(ks, key, high, values=False)]
            else:
                notes.append(("range", name, key, high))
            txn.delete_range(ks, key, high)

    def work(self, seed: int, count: int) -> None:
        """What a thread does."""
        rng = random.Random(seed)
        try:
            for _ in range(count):
                self.one(rng)
        except BaseException as error:
            self.failures.append(error)

    def catalogue(self) -> None:
        """A keyspace comes, is written to, gets another name, goes."""
        self.made += 1
        name, later = f"made-{self.made}", f"renamed-{self.made}"
        steps: list[list[Note]] = [
            [("make", name), ("put", name, b"k", b"1")], [("put", name, b"l", b"2")], [("rename", name, later), ("put", later, b"k", b"3")], [("drop", later)],
        ]  # fmt: skip
        tree = self.rng.choice(list(TREES.values()))
        for notes in steps[: self.rng.randrange(1, 5)]:
            with self.db.transaction() as txn:
                for note in notes:
                    if note[0] == "make":
                        txn.create_keyspace(note[1], **tree)
                    elif note[0] == "put":
                        txn.put(txn.keyspace(note[1]), note[2], note[3])
                    elif note[0] == "rename":
                        txn.rename_keyspace(note[1], note[2])
                    else:
                        txn.drop_keyspace(note[1])
            self.notes[txn.commit_ts] = notes

    def load(self) -> None:
        """A bulk load, while nobody else writes."""
        pairs = [(b"%04d" % key, self.rng.randbytes(50)) for key in range(0, 2000, self.rng.randrange(3, 40))]
        self.db["tables"].ingest(pairs)
        self.notes[self.newest()] = [("put", "tables", key, value) for key, value in pairs]

    def newest(self) -> int:
        """The newest commit's timestamp."""
        last: int = self.db.stats()["transactions"]["visible_ts"]
        return last

    def backup(self) -> None:
        """A backup, and the newest commit that may be in it."""
        path = self.directory / f"base-{len(self.bases)}"
        self.db.backup(path)
        self.bases.append((self.newest(), path))

    def phase(self, transactions: int) -> None:
        """Threads write; the catalogue changes beside them, and a backup may be made."""
        crew = [threading.Thread(target=self.work, args=(self.rng.getrandbits(64), transactions // self.threads)) for _ in range(self.threads)]
        for thread in crew:
            thread.start()
        for _ in range(self.rng.randrange(3)):
            self.catalogue()
        if not self.bases or self.rng.random() < 0.6:
            self.backup()
        for thread in crew:
            thread.join()
        if self.failures:
            raise self.failures[0]
        if self.rng.random() < 0.3:
            self.load()
        if self.rng.random() < 0.3:
            self.db.checkpoint()
        if self.rng.random() < 0.3:
            self.db.archive_now()
        self.db.sync()
        self.listen()

    def finish(self) -> None:
        """Everything is archived by closing."""
        self.stream.close()
        self.db.close()

    def states(self, moments: list[int]) -> Iterator[tuple[int, State]]:
        """The state after each of these commits, in ascending order."""
        state: State = {}
        done = iter(sorted(self.notes))
        following = next(done, None)
        for moment in sorted(moments):
            while following is not None and following <= moment:
                for note in self.notes[following]:
                    apply(state, note)
                following = next(done, None)
            yield moment, state


def content(db: enginelib.Database) -> State:
    """All that a database holds."""
    return {name: dict(db[name].scan()) for name in db.keyspaces()}


def check(busy: Busy, moment: int, state: State, rng: random.Random) -> str | None:
    """Restores the state after a commit; returns what is wrong with it."""
    sequences = [mark[0] for mark in busy.marks]
    at = bisect.bisect_left(sequences, moment)
    _, lsn, micros = busy.marks[at]
    following = busy.marks[at + 1] if at + 1 < len(busy.marks) else None
    target: dict[str, Any] = rng.choice((
        {"to_commit": moment},
        {"to_lsn": lsn if following is None else rng.randrange(lsn, following[1])},
        {"to_time": (micros if following is None else rng.randrange(micros, max(micros + 1, following[2]))) / 1e6},
    ))  # fmt: skip
    if "to_time" in target and following is not None and following[2] <= micros:
        target = {"to_commit": moment}                      # two commits of one microsecond
    base = rng.choice([path for newest, path in busy.bases if newest <= moment])
    made = busy.directory / "restored"
    try:
        enginelib.restore(base, busy.directory / "archive", made, **target)
        with enginelib.open(made, **OPTIONS) as db:
            found = content(db)
            if found != state:
                names = {name for name in found.keys() | state.keys() if found.get(name) != state.get(name)}
                return f"commit {moment} by {target} from {base.name}: {sorted(names)} differ"
            report = db.verify()
            if not report.ok:
                return f"commit {moment} by {target} from {base.name}: {report}"
            db["pages"][b"and it goes on"] = b""
        return None
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def busy_database(directory: Path, seed: int, threads: int, phases: int, transactions: int) -> Iterator[Busy]:
    """A database that has been worked on and closed."""
    busy = Busy(directory, seed, threads)
    try:
        for number in range(phases):
            busy.phase(transactions)
            if number + 1 < phases and busy.rng.random() < 0.6:
                busy.reopen()
        busy.finish()
        yield busy
    finally:
        busy.db.close()


def campaign(count: int, seed: int, threads: int, phases: int = 8, transactions: int = 600) -> tuple[int, list[str]]:
    """Restores `count` moments; returns how many were right, and what was wrong."""
    findings: list[str] = []
    directory = Path(tempfile.mkdtemp(prefix="restore-"))
    try:
        with busy_database(directory, seed, threads, phases, transactions) as busy:
            rng = random.Random(seed)
            later = [mark[0] for mark in busy.marks if mark[0] >= busy.bases[0][0]]
            moments = [rng.choice(later) for _ in range(count)]
            for moment, state in busy.states(moments):
                wrong = check(busy, moment, state, rng)
                if wrong:
                    findings.append(f"seed {seed}: {wrong}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return count - len(findings), findings


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="moments to restore")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=4)
    args = parser.parse_args()
    began = time.monotonic()
    right, findings = campaign(args.count, args.seed, args.threads)
    for finding in findings:
        print(finding)
    print(f"{right} of {args.count} moments restored as they were, in {time.monotonic() - began:.0f} s")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
