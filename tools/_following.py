"""The processes that `follow.py` kills: a leader that is written to, a relay between sockets, and a follower that is read.

    python _following.py lead DIRECTORY SOCKET SEED
    python _following.py relay SOCKET TO
    python _following.py follow DIRECTORY SOCKET

Transaction N of a writer puts N under every key of the writer's group, in a B-tree and in an LSM-tree, adds 1 to a counter of all writers in each, and keeps the newest
50 numbers as keys: one that is torn, left out or applied twice shows in any snapshot. The leader says ``up``, and then ``a WRITER N SEQUENCE`` once a transaction is
committed that a kill cannot undo, and ``l SEQUENCE LSN`` of some of them; told to ``pause`` it says ``paused SEQUENCE``. The follower says ``r SEQUENCE N...`` of what it
reads, and answers ``w LSN SEQUENCE`` with ``w SEQUENCE SEEN N...``, when it has waited for that LSN.
"""

from __future__ import annotations

import os
import random
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

import enginelib
from enginelib.combine import from_counter
from enginelib.replication import Follower, Position
from enginelib.replication.follower import KEY, POSITION
from enginelib.replication.unix import Leader, Server

WRITERS = 2
GROUP = 5
KEPT = 50
OPTIONS: dict[str, Any] = {"page_size": 4096, "cache_size": 1 << 20, "segment_size": 1 << 20, "checkpoint_bytes": 1 << 18}
SPACES: dict[str, dict[str, Any]] = {
    "pages": {"backend": "btree"},
    "tables": {"backend": "lsm", "memtable_size": 64 << 10, "table_size": 64 << 10},
}
LARGE = 40_000
OFTEN = 0.05
EXTRA = "extra"
TIMEOUT = 60.0


def say(*words: object) -> None:
    """One line, whole."""
    os.write(1, " ".join(map(str, words)).encode() + b"\n")


def write(db: enginelib.Database, writer: int, rng: random.Random, number: int) -> tuple[int, bool]:
    """Transaction `number` of a writer; its sequence, and whether a kill leaves it."""
    level = rng.choice(("sync", "os", "os", "lazy"))
    big = b"" if number % 7 else rng.randbytes(LARGE)
    txn = db.transaction(durability=level)
    for name in SPACES:
        table = db[name]
        for i in range(GROUP):
            txn.put(table, b"w%d/%d" % (writer, i), b"%d:" % number + big * (i == 0))
        txn.add(table, b"count", 1)
        txn.put(table, b"h%d/%08d" % (writer, number), b"")
        if number % 10 == 0:
            txn.delete_range(table, b"h%d/" % writer, b"h%d/%08d" % (writer, number - KEPT + 1))
        elif number > KEPT:
            txn.delete(table, b"h%d/%08d" % (writer, number - KEPT))
        if rng.random() < 0.1:  # what is taken back is not to be seen
            with txn.savepoint() as mark:
                txn.put(table, b"w%d/0" % writer, b"-1:")
                mark.rollback()
    txn.commit()
    return txn.commit_ts, level != "lazy"


def numbers(txn: enginelib.Transaction, spaces: dict[str, enginelib.Keyspace]) -> list[int]:
    """The number of each writer in a snapshot, once it has been looked whether it is one of whole transactions.

    Raises:
        AssertionError: it is not.
    """
    found: list[list[int]] = []
    for name, table in spaces.items():
        rows = dict(txn.scan(table))
        each = []
        for writer in range(WRITERS):
            group = {rows.get(b"w%d/%d" % (writer, i), b"0:").split(b":")[0] for i in range(GROUP)}
            assert len(group) == 1, f"{name}: writer {writer}'s keys are of transactions {sorted(group)}"
            number = int(group.pop())
            kept = [int(key.split(b"/")[1]) for key in rows if key.startswith(b"h%d/" % writer)]
            low = number - KEPT + 1
            assert [k for k in kept if k >= low] == list(range(max(1, low), number + 1)), f"{name}: {kept} does not lead up to {number}"
            assert not kept or kept[0] >= low - 10, f"{name}: {kept[0]} should have been deleted by {number}"
            each.append(number)
        count = from_counter(rows.get(b"count"))
        assert count == sum(each), f"{name}: {count} additions by transactions {each}"
        found.append(each)
    assert found[0] == found[1], f"the trees differ: {found}"
    return found[0]


def lead(directory: str, path: str, seed: int) -> None:
    """Writes and serves until it is killed."""
    with enginelib.open(directory, **OPTIONS) as db, Server(db, path):
        spaces = {name: db.keyspace(name, **options) for name, options in SPACES.items()}
        with db.transaction(read_only=True) as txn:
            last = numbers(txn, spaces)
        since = db.stats()["log"]["end_lsn"]
        running = threading.Event()
        running.set()
        at_rest = threading.Barrier(WRITERS + 1)
        threading.Thread(target=guarded, args=(lambda: tell(db, since),), daemon=True).start()
        for writer in range(WRITERS):
            rng = random.Random(seed * 10 + writer)
            threading.Thread(target=guarded, args=(_writing(db, writer, rng, last[writer], running, at_rest),), daemon=True).start()
        say("up")
        for line in sys.stdin:
            assert line == "pause\n"
            running.clear()
            at_rest.wait()
            db.sync()
            say("paused", db.stats()["transactions"]["visible_ts"])


def _writing(db: enginelib.Database, writer: int, rng: random.Random, number: int, running: threading.Event, at_rest: threading.Barrier) -> Callable[[], None]:
    def writing() -> None:
        nonlocal number
        while running.is_set():
            number += 1
            sequence, lasting = write(db, writer, rng, number)
            if lasting:
                say("a", writer, number, sequence)
            if writer == 0 and rng.random() < 0.02:
                if EXTRA in db.keyspaces():
                    db.drop_keyspace(EXTRA)
                else:
                    db.keyspace(EXTRA, "lsm" if rng.random() < 0.5 else "btree")[b"of"] = b"%d" % number
            if rng.random() < 0.02:
                db.checkpoint()
        at_rest.wait()

    return writing


def tell(db: enginelib.Database, since: int) -> None:
    """Says the LSNs of some commits."""
    with db.changes(since=since, follow=True) as stream:
        for change in stream:
            if change.sequence % 20 == 0:
                say("l", change.sequence, change.lsn)


def follow(directory: str, path: str) -> None:
    """Follows and reads until it is killed."""
    with Follower(directory, Leader(path), **OPTIONS) as follower:
        say("up")
        threading.Thread(target=guarded, args=(lambda: answer(follower),), daemon=True).start()
        before = (0, [0] * WRITERS)
        while follower.error is None:
            time.sleep(OFTEN / 2)
            seen = look(follower)
            if seen is None:
                continue
            assert seen[0] >= before[0] and all(map(int.__ge__, seen[1], before[1])), f"after {before} comes {seen}"
            if seen[0] > before[0]:
                say("r", seen[0], *seen[1])
            before = seen
        raise follower.error


def look(follower: Follower) -> tuple[int, list[int]] | None:
    """A snapshot of the follower: its sequence, and each writer's number; None where it is still being copied."""
    db = follower.database
    with follower.transaction() as txn:
        held = txn.get(txn.keyspace(POSITION), KEY) if POSITION in [name for name, _, _ in txn.catalog_rows()] else None
        position = None if held is None else msgspec.msgpack.decode(held, type=Position)
        if position is None or not position.copied:
            return None
        if not set(SPACES) <= {name for name, _, _ in txn.catalog_rows()}:
            return position.sequence, [0] * WRITERS
        return position.sequence, numbers(txn, {name: db[name] for name in SPACES})


def answer(follower: Follower) -> None:
    """Reads what was written elsewhere."""
    for line in sys.stdin:
        _, lsn, sequence = line.split()
        assert follower.wait_for(int(lsn), timeout=TIMEOUT), f"LSN {lsn} has not come for {TIMEOUT} seconds: {follower.position}"
        seen = look(follower)
        assert seen is not None
        say("w", sequence, seen[0], *seen[1])


def relay(path: str, to: str) -> None:
    """Passes on what comes, both ways, one connection after another."""
    if os.path.exists(path):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        say("up")
        while True:
            near, _ = listening.accept()
            far = socket.socket(socket.AF_UNIX)
            with near, far:
                try:
                    far.connect(to)
                    pump(near, far)
                except OSError:
                    continue


def pump(near: socket.socket, far: socket.socket) -> None:
    """Until one side ends."""
    while True:
        for one in select.select([near, far], [], [])[0]:
            data = one.recv(1 << 14)
            if not data:
                return
            (far if one is near else near).sendall(data)


def guarded(work: Callable[[], None]) -> None:
    """A thread's failure is the process's."""
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(3)


def main() -> None:
    """See above."""
    role, *words = sys.argv[1:]
    if role == "lead":
        guarded(lambda: lead(words[0], words[1], int(words[2])))
    elif role == "follow":
        guarded(lambda: follow(*words))
    else:
        guarded(lambda: relay(*words))


if __name__ == "__main__":
    main()
