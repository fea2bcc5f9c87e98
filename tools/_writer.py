"""The process that `kill.py` kills: writer threads that tell of each commit over standard output.

    python _writer.py DIRECTORY SEED ROUND THREADS [recover]

A line ``b THREAD N LEVEL`` goes out before a commit, ``a THREAD N`` once it has returned. Transaction N of a thread
sets every key of the thread's row group to N, in a B-tree and in an LSM-tree, so that a torn one shows; it also moves
a counter. ``lb N`` and ``la N`` frame the bulk loads that thread 0 makes now and then, of rows that all say N.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import traceback

import enginelib
from enginelib import errors

GROUP = 8
LOAD = 300
OPTIONS = {"page_size": 4096, "cache_size": 1 << 20, "segment_size": 1 << 20, "checkpoint_bytes": 1 << 18}
TREE = {"backend": "lsm", "memtable_size": 64 << 10, "table_size": 64 << 10}
SPACES = {"groups": {}, "history": {}, "lsm groups": TREE, "lsm history": {**TREE, "compaction": "size_tiered"}, "loaded": TREE}


def rows(thread: int, number: int) -> list[tuple[bytes, bytes]]:
    """What transaction ``number`` of a thread writes: a group that changes as a whole, now and then a large value."""
    size = 20 if number % 9 else 6000
    value = b"%d:" % number + bytes([number & 255]) * size
    return [(b"t%d/%d" % (thread, i), value) for i in range(GROUP)]


def spaces(db: enginelib.Database) -> dict[str, enginelib.Keyspace]:
    """The keyspaces, made where they are absent."""
    return {name: db.keyspace(name, **options) for name, options in SPACES.items()}


def load(db: enginelib.Database, number: int, say: int) -> None:
    """A bulk load of rows that all bear its number."""
    os.write(say, b"lb %d\n" % number)
    db.keyspace("loaded").ingest([(b"%05d" % i, b"%d" % number) for i in range(LOAD)])
    os.write(say, b"la %d\n" % number)


def writer(db: enginelib.Database, thread: int, seed: int, last: int, loads: int, say: int) -> None:
    """Commits until it is killed."""
    rng = random.Random(seed * 1000 + thread)
    table, history, lsm_table, lsm_history, _ = spaces(db).values()
    number = last
    while True:
        if thread == 0 and rng.random() < 0.03:
            loads += 1
            load(db, loads, say)
        number += 1
        level = rng.choice(("sync", "os"))
        txn = db.transaction(durability=level)
        if rng.random() < 0.1:
            txn.put_many(table, rows(thread, number + 1_000_000))
            txn.put_many(lsm_table, rows(thread, number + 1_000_000))
            txn.delete_range(lsm_history, b"t%d/" % thread, b"t%d0" % thread)
            txn.abort()
            number -= 1
            continue
        txn.put_many(table, rows(thread, number))
        txn.put_many(lsm_table, rows(thread, number))
        if rng.random() < 0.1:
            mark = txn.save()
            txn.put_many(lsm_table, rows(thread, number + 2_000_000))
            txn.delete_range(lsm_history, b"t%d/" % thread, b"t%d0" % thread)
            txn.rollback_to(mark)
        txn.put(history, b"t%d/%08d" % (thread, number), b"%d" % number)
        txn.put(lsm_history, b"t%d/%08d" % (thread, number), b"%d" % number)
        if number > 50:
            txn.delete(history, b"t%d/%08d" % (thread, number - 50))
            if number % 3:
                txn.delete(lsm_history, b"t%d/%08d" % (thread, number - 50))
            else:
                txn.delete_range(lsm_history, b"t%d/%08d" % (thread, 0), b"t%d/%08d" % (thread, number - 49))
        os.write(say, b"b %d %d %s\n" % (thread, number, level.encode()))
        txn.commit()
        os.write(say, b"a %d %d\n" % (thread, number))
        if rng.random() < 0.01:
            try:
                db.checkpoint()
            except errors.DatabaseClosed:
                return


def die(args: threading.ExceptHookArgs) -> None:
    """A writer that fails takes the process with it, so that it is seen."""
    traceback.print_exception(args.exc_type, args.exc_value, args.exc_traceback)
    sys.stderr.flush()
    os._exit(3)


def main() -> None:
    """Opens the database, says so, and writes."""
    directory, seed, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    say = sys.stdout.fileno()
    os.write(say, b"opening\n")
    db = enginelib.open(directory, **OPTIONS)
    table, *_, loaded = spaces(db).values()
    last = [int((table.get(b"t%d/0" % t) or b"0:").split(b":")[0]) for t in range(threads)]
    loads = int(loaded.get(b"00000") or b"0")
    os.write(say, b"open\n")
    threading.excepthook = die
    for thread in range(threads):
        threading.Thread(target=writer, args=(db, thread, seed, last[thread], loads, say), daemon=True).start()
    if seed % 3 == 0:
        while True:
            db.checkpoint()
            os.write(say, b"checkpoint\n")
    threading.Event().wait()


if __name__ == "__main__":
    main()
