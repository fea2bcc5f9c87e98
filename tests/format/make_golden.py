"""Makes the golden database of the present format version: run once per released version, and commit what it makes.

    python tests/format/make_golden.py tests/format/v1.zip
"""

import shutil
import sys
import tempfile
from pathlib import Path

import enginelib

SMALL = {"page_size": 4096, "cache_size": 1 << 20, "segment_size": 1 << 20, "log_buffer": 1 << 16}


def expected() -> dict[str, dict[bytes, bytes]]:
    """What the golden database holds."""
    plain = {b"key-%04d" % i: b"value %d" % (i * i) for i in range(300)}
    plain.update({b"": b"empty key", b"empty value": b"", b"\x00\xff" * 20: b"binary", b"large": bytes(range(256)) * 40})
    for i in range(0, 300, 7):
        del plain[b"key-%04d" % i]
    return {"plain": plain, "renamed": {b"k": b"v"}, "after the checkpoint": {b"a": b"1", b"big": b"z" * 3000}}


def make(path: Path) -> None:
    """Writes it: part of it stands in the page file, the rest only in the log, with one transaction that never ends."""
    want = expected()
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


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "db")
        shutil.make_archive(str(target.with_suffix("")), "zip", Path(folder) / "db")
