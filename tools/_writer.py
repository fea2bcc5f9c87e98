"""The process that `kill.py` kills: writer threads that tell of each commit over standard output.

    python _writer.py DIRECTORY SEED ROUND THREADS [recover]

A line ``b THREAD N LEVEL`` goes out before a commit, ``a THREAD N`` once it has returned. Transaction N of a thread
sets every key of the thread's row group to N, so that a torn one shows; it also moves a counter.
"""

from __future__ import annotations

import os
import random
import sys
import threading

import enginelib
from enginelib import errors

GROUP = 8
OPTIONS = {"page_size": 4096, "cache_size": 1 << 20, "segment_size": 1 << 20, "checkpoint_bytes": 1 << 18}


def rows(thread: int, number: int) -> list[tuple[bytes, bytes]]:
    """What transaction ``number`` of a thread writes: a group that changes as a whole, now and then a large value."""
    size = 20 if number % 9 else 6000
    value = b"%d:" % number + bytes([number & 255]) * size
    return [(b"t%d/%d" % (thread, i), value) for i in range(GROUP)]


def writer(db: enginelib.Database, thread: int, seed: int, last: int, say: int) -> None:
    """Commits until it is killed."""
    rng = random.Random(seed * 1000 + thread)
    table = db.keyspace("groups")
    history = db.keyspace("history")
    number = last
    while True:
        number += 1
        level = rng.choice(("sync", "os"))
        txn = db.transaction(durability=level)
        if rng.random() < 0.1:
            txn.put_many(table, rows(thread, number + 1_000_000))
            txn.abort()
            number -= 1
            continue
        txn.put_many(table, rows(thread, number))
        txn.put(history, b"t%d/%08d" % (thread, number), b"%d" % number)
        if number > 50:
            txn.delete(history, b"t%d/%08d" % (thread, number - 50))
        os.write(say, b"b %d %d %s\n" % (thread, number, level.encode()))
        txn.commit()
        os.write(say, b"a %d %d\n" % (thread, number))
        if rng.random() < 0.01:
            try:
                db.checkpoint()
            except errors.DatabaseClosed:
                return


def main() -> None:
    """Opens the database, says so, and writes."""
    directory, seed, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    say = sys.stdout.fileno()
    os.write(say, b"opening\n")
    db = enginelib.open(directory, **OPTIONS)
    table = db.keyspace("groups")
    db.keyspace("history")
    last = [int((table.get(b"t%d/0" % t) or b"0:").split(b":")[0]) for t in range(threads)]
    os.write(say, b"open\n")
    for thread in range(threads):
        threading.Thread(target=writer, args=(db, thread, seed, last[thread], say), daemon=True).start()
    if seed % 3 == 0:
        while True:
            db.checkpoint()
            os.write(say, b"checkpoint\n")
    threading.Event().wait()


if __name__ == "__main__":
    main()
