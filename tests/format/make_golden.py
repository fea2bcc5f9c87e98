"""Makes the golden databases of the present format version: run once per released version, and commit what it makes.

    python tests/format/make_golden.py tests/format/v1.zip
    python tests/format/make_golden.py tests/format/v1-lsm.zip            # LSM keyspaces; also v1-lsm-lz4.zip, v1-lsm-zstd.zip
"""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import enginelib

SMALL = {"page_size": 4096, "cache_size": 1 << 20, "segment_size": 1 << 20, "log_buffer": 1 << 16}
TREE = {"backend": "lsm", "memtable_size": 64 << 10, "table_size": 64 << 10}
CENTURIES = 20_000_000_000.0


def expected_btree() -> dict[str, dict[bytes, bytes]]:
    """What the golden database of B-tree keyspaces holds."""
    plain = {b"key-%04d" % i: b"value %d" % (i * i) for i in range(300)}
    plain.update({b"": b"empty key", b"empty value": b"", b"\x00\xff" * 20: b"binary", b"large": bytes(range(256)) * 40})
    for i in range(0, 300, 7):
        del plain[b"key-%04d" % i]
    return {"plain": plain, "renamed": {b"k": b"v"}, "after the checkpoint": {b"a": b"1", b"big": b"z" * 3000}}


def make_btree(path: Path) -> None:
    """Writes it: part of it stands in the page file, the rest only in the log, with one transaction that never ends."""
    want = expected_btree()
    db = enginelib.open(path, durability="sync", **SMALL)
    plain = db.keyspace("plain")
    plain.put_many([(b"key-%04d" % i, b"value %d" % (i * i)) for i in range(300)])
    for key, value in want["plain"].items():
        plain[key] = value
    db.keyspace("old")[b"k"] = b"v"
    db.rename_keyspace("old", "renamed")
    db.keyspace("dropped")[b"x"] = b"y"
    db.drop_keyspace("dropped")
    db.checkpoint()
    for i in range(0, 300, 7):
        del plain[b"key-%04d" % i]
    db.keyspace("after the checkpoint").update(want["after the checkpoint"])
    loser = db.transaction()
    loser.put(plain, b"key-0001", b"never committed")
    db.sync()
    db.abandon()


def levels_rows(round: int) -> list[tuple[bytes, bytes]]:
    """What is put into "levels" in one of several rounds."""
    return [(b"key-%05d" % i, b"round %d " % round * (4 + i % 5)) for i in range(round * 37, 9000, 1 + round)]


def expected_lsm() -> dict[str, dict[bytes, bytes]]:
    """What the golden database of LSM keyspaces holds."""
    levels: dict[bytes, bytes] = {}
    for round in range(8):
        levels.update(levels_rows(round))
    for i in range(0, 9000, 9):
        levels.pop(b"key-%05d" % i, None)
    levels = {k: v for k, v in levels.items() if not b"key-03000" <= k < b"key-03500" and k < b"key-08990"}
    levels.update({b"": b"empty key", b"empty value": b"", b"\x00\xff" * 20: b"binary", b"long" * 220: b"long key",
                   b"far": bytes(range(256)) * 40, b"key-03100": b"put after its range was deleted"})  # fmt: skip
    tiered = {b"%04d" % i: b"tier %d" % (i % 3) for i in range(600)}
    tiered[b"in the log"] = b"only"
    del tiered[b"0007"]
    return {
        "levels": levels,
        "tiered": {k: v for k, v in tiered.items() if not b"0100" <= k < b"0200"},
        "expiring": {b"e%03d" % i: b"for centuries" for i in range(100)},
        "loaded": {b"%06d" % i: b"loaded %d" % i for i in range(2000)} | {b"000001": b"over the load"},
        "tree": {b"with": b"both"},
        "born in the log": {b"k": b"v", b"chunks": bytes(range(251)) * 2000},
    }


def written(db: enginelib.Database) -> None:
    """All memtables to tables."""
    db.step("seal")
    while db.step("flush"):
        pass


def make_lsm(path: Path, compression: str = "none") -> None:
    """Several levels, versions, deletions of keys and ranges, expiry, a bulk load; edits and changes after the checkpoint."""
    tree = {**TREE, "compression": compression}
    with contextlib.ExitStack() as last:
        db = enginelib.Database(path, durability="sync", background=False, **SMALL)
        last.callback(db.abandon)
        levels = db.keyspace("levels", **tree)
        for round in range(8):
            levels.put_many(levels_rows(round))
            written(db)
            db.step("compact")
        while db.step("compact"):
            pass
        tiered = db.keyspace("tiered", compaction="size_tiered", bits_per_key=0, **tree)
        for tier in range(3):
            rows = [(b"%04d" % i, b"tier %d" % tier) for i in range(600) if i % 3 >= tier]
            tiered.put_many(rows)
            if tier == 1:
                old = db.transaction(read_only=True)  # so that older versions stay
                old.get(tiered, b"0001")
                tiered.put_many(rows[::4])
            written(db)
        expiring = db.keyspace("expiring", ttl=CENTURIES, **tree)
        expiring.put_many([(b"e%03d" % i, b"for centuries") for i in range(100)])
        written(db)
        loaded = db.keyspace("loaded", **tree)
        loaded.ingest([(b"%06d" % i, b"loaded %d" % i) for i in range(2000)])
        dropped = db.keyspace("dropped", **tree)
        dropped[b"x"] = b"y"
        written(db)
        db.drop_keyspace("dropped")
        with db.transaction() as txn:
            for i in range(0, 9000, 9):
                txn.delete(levels, b"key-%05d" % i)
            txn.delete_range(levels, b"key-03000", b"key-03500")
            txn.delete_range(levels, b"key-08990", b"l")
        special = {k: v for k, v in expected_lsm()["levels"].items() if k[:4] != b"key-" or v[:3] == b"put"}
        levels.put_many(special.items())
        written(db)
        for _ in range(3):
            db.step("compact")
        db.checkpoint()
        with db.transaction() as txn:
            txn.delete_range(tiered, b"0100", b"0200")
            txn.delete(tiered, b"0007")
        written(db)  # an edit in the log
        with db.transaction() as txn:
            txn.put(tiered, b"in the log", b"only")
            txn.put(db.keyspace("tree"), b"with", b"both")
            txn.put(loaded, b"000001", b"over the load")
        born = db.keyspace("born in the log", **tree)
        born.update(expected_lsm()["born in the log"])
        loser = db.transaction()
        loser.put(levels, b"key-00001", b"never committed")
        loser.delete_range(tiered, b"0300", b"0400")
        old.abort()
        db.sync()


IMAGES: list[tuple[bytes, bytes | None, bytes | None]] = [  # of each keyspace: key, value, what was there before; None: absent
    (b"a", b"1", None),
    (b"a", b"2", b"1"),
    (b"large", b"x" * 20_000, None),
    (b"large", b"y" * 5_000, b"x" * 20_000),
    (b"large", None, b"y" * 5_000),
    (b"", b"", None),
    (b"", b"empty", b""),
]


def expected_before() -> dict[str, dict[bytes, bytes]]:
    """What the golden database of keyspaces that log before-images holds."""
    rows = {b"a": b"2", b"": b"empty"}
    return {"tree": rows, "tables": rows, "keys": rows}


def make_before(path: Path) -> None:
    """`IMAGES`, in each kind of tree, full ones and those of keys; with one transaction that never ends, in the middle of a large one."""
    db = enginelib.open(path, durability="sync", **SMALL)
    spaces = [db.keyspace("tree", before="full"), db.keyspace("tables", before="full", **TREE), db.keyspace("keys")]
    db.set_before("keys", "key")
    for space in spaces:
        for key, value, _ in IMAGES:
            if value is None:
                space.delete(key)
            else:
                space[key] = value
    loser = db.transaction()
    loser.put(spaces[0], b"large", b"z" * 9_000)
    loser.put(spaces[0], b"large", b"")
    db.sync()
    db.abandon()


KINDS = {
    "": (make_btree, expected_btree),
    "before": (make_before, expected_before),
    "lsm": (make_lsm, expected_lsm),
    "lsm-lz4": (lambda path: make_lsm(path, "lz4"), expected_lsm),
    "lsm-zstd": (lambda path: make_lsm(path, "zstd"), expected_lsm),
}


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        KINDS[target.stem.partition("-")[2]][0](Path(folder) / "db")
        shutil.make_archive(str(target.with_suffix("")), "zip", Path(folder) / "db")
