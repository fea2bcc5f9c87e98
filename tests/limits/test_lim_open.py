"""Directories that are no database, newer, locked, read-only; links."""

import os
import shutil
import struct
import threading
import time

import pytest
from enginelib._native.base.checksum import crc32c_of as crc32c
from limhelp import Thread, python

import enginelib

HOLD = """
    import enginelib, sys
    db = enginelib.open(sys.argv[1], durability="os")
    print(db.keyspaces(), flush=True)
    sys.stdin.read()
"""


def test_a_file_is_no_database(tmp_path):
    place = tmp_path / "file"
    place.write_bytes(b"not a database")
    for options in ({}, {"read_only": True}, {"create": False}):
        with pytest.raises(enginelib.StorageError, match="a database is a directory") as caught:
            enginelib.open(place, **options)
        assert isinstance(caught.value, OSError)
    assert place.read_bytes() == b"not a database"


def test_a_directory_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(enginelib.StorageError, match="other files"):
        enginelib.open(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "pages.dat").exists() and not (tmp_path / "log").exists()


def test_an_empty_directory_becomes_a_database(tmp_path):
    with enginelib.open(tmp_path) as db:
        assert db.recovery["created"]


def test_a_page_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "pages.dat").write_bytes(b"SQLite format 3\0" * 1000)
    with pytest.raises((enginelib.StorageError, enginelib.CorruptionError)):
        enginelib.open(tmp_path)
    assert (tmp_path / "pages.dat").read_bytes() == b"SQLite format 3\0" * 1000


def test_a_parent_that_is_absent_is_a_storage_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        enginelib.open(tmp_path / "no" / "such" / "place")


def patch_superblocks(path, change):
    """Changes both superblocks, and gives them right sums."""
    data = bytearray((path / "pages.dat").read_bytes())
    found = 0
    at = data.find(b"ENGLIBdb")
    while at >= 0 and found < 2:
        block = data[at : at + 4096]
        change(block)
        block[4092:4096] = struct.pack("<I", crc32c(bytes(block[:4092])))
        data[at : at + 4096] = block
        found += 1
        at = data.find(b"ENGLIBdb", at + 4096)
    (path / "pages.dat").write_bytes(data)
    return found


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("what", ["incompatible feature", "version"])
def test_a_newer_format_is_not_supported(path, what, read_only):
    with enginelib.open(path) as db:
        db.keyspace("space")[b"k"] = b"v"

    def newer(block):
        if what == "version":
            block[8:12] = struct.pack("<I", 1000)
        else:
            block[32:40] = struct.pack("<Q", 1 << 40)

    assert patch_superblocks(path, newer) == 2
    before = (path / "pages.dat").read_bytes()
    with pytest.raises(enginelib.NotSupported, match="newer"):
        enginelib.open(path, read_only=read_only)
    assert (path / "pages.dat").read_bytes() == before


def test_a_feature_that_only_writers_must_know_allows_reading(path):
    with enginelib.open(path) as db:
        db.keyspace("space")[b"k"] = b"v"
    assert patch_superblocks(path, lambda block: block.__setitem__(slice(24, 32), struct.pack("<Q", 1 << 40))) == 2
    with pytest.raises(enginelib.NotSupported):
        enginelib.open(path)
    with enginelib.open(path, read_only=True) as db:
        assert db["space"][b"k"] == b"v"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open what has no permission")
def test_a_directory_without_permission_is_a_storage_error(path):
    with enginelib.open(path):
        pass
    path.chmod(0)
    try:
        with pytest.raises(enginelib.StorageError) as caught:
            enginelib.open(path)
        assert caught.value.errno == 13
    finally:
        path.chmod(0o755)


def test_a_second_opening_in_this_process_names_it(path):
    with enginelib.open(path) as db:
        db.keyspace("space")[b"k"] = b"v"
        began = time.monotonic()
        with pytest.raises(enginelib.DatabaseLocked, match="this process") as caught:
            enginelib.open(path, lock_timeout=0.1)
        assert 0.09 < time.monotonic() - began < 5
        assert caught.value.pid == os.getpid() and caught.value.host == os.uname().nodename
        assert db["space"][b"k"] == b"v"
        db["space"][b"k"] = b"w"
    with enginelib.open(path, lock_timeout=0) as db:
        assert db["space"][b"k"] == b"w"


def test_another_process_is_named_and_waited_for(path):
    import subprocess
    import sys
    import textwrap

    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline().strip() == "[]"
        with pytest.raises(enginelib.DatabaseLocked, match=f"process {holder.pid}") as caught:
            enginelib.open(path, lock_timeout=0.05)
        assert caught.value.pid == holder.pid and not caught.value.retryable
        opener = Thread(lambda: enginelib.open(path, lock_timeout=20).close())
        holder.stdin.close()
        assert opener.settled(20).error is None


def test_the_lock_is_free_again_after_kill(path):
    import signal
    import subprocess
    import sys
    import textwrap

    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        holder.stdout.readline()
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        with enginelib.open(path, lock_timeout=0) as db:
            assert not db.recovery["created"]


def refuses_changes(db):
    ks = db["space"]
    txn = db.transaction()
    for attempt in (
        lambda: ks.put(b"k", b"x"),
        lambda: ks.put(b"k", b"x" * 100_000),
        lambda: ks.delete(b"k"),
        lambda: ks.put_many([(b"k", b"x")]),
        lambda: ks.clear(),
        lambda: txn.put(ks, b"k", b"x"),
        lambda: txn.delete(ks, b"k"),
        lambda: txn.get_for_update(ks, b"k"),
        lambda: txn.create_keyspace("x"),
        lambda: db.drop_keyspace("space"),
        lambda: db.rename_keyspace("space", "x"),
        lambda: db.checkpoint(),
    ):
        with pytest.raises(enginelib.ReadOnlyError):
            attempt()
    txn.abort()
    with pytest.raises(KeyError):
        db.keyspace("absent")


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_reading_alone_sees_the_committed_state_and_changes_nothing(path):
    with enginelib.open(path, durability="os") as db:
        db.keyspace("space").put_many([(b"k", b"v"), (b"big", b"B" * 100_000)])
        open_txn = db.transaction()
        open_txn.put(db["space"], b"uncommitted", b"")
        db.abandon()
    before = contents(path)
    with enginelib.open(path, read_only=True) as db:
        assert db.read_only and "read-only" in repr(db)
        assert dict(db["space"]) == {b"k": b"v", b"big": b"B" * 100_000}
        refuses_changes(db)
        with enginelib.open(path, read_only=True) as second:
            assert second["space"][b"k"] == b"v"
    assert contents(path) == before


def test_reading_beside_a_live_writer_sees_the_state_at_opening(path):
    with enginelib.open(path, durability="os", cache_size=1 << 20, segment_size=1 << 20) as db:
        ks = db.keyspace("space")
        ks.put_many([(b"%05d" % n, b"old") for n in range(3000)])
        uncommitted = db.transaction()
        uncommitted.put(ks, b"00000", b"uncommitted")
        with enginelib.open(path, read_only=True) as reader:
            for n in range(5):
                ks.put_many([(b"%05d" % i, b"new%d" % n * 30) for i in range(1, 3000)])
                db.checkpoint()
            assert set(reader["space"].values()) == {b"old"} and len(reader["space"]) == 3000
            refuses_changes(reader)
            assert reader["space"][b"00000"] == b"old"
        uncommitted.commit()
        with enginelib.open(path, read_only=True) as reader:
            assert dict(reader["space"]) == dict(ks)


def test_another_process_reads_beside_the_writer(path):
    with enginelib.open(path, durability="os") as db:
        db.keyspace("space")[b"k"] = b"v"
        text = """
            import enginelib, sys
            with enginelib.open(sys.argv[1], read_only=True) as db:
                print(db["space"][b"k"])
        """
        assert python(text, path).strip() == "b'v'"


def test_a_symbolic_link_to_the_directory_is_the_same_database(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    with enginelib.open(path) as db:
        db.keyspace("space")[b"k"] = b"v"
        with pytest.raises(enginelib.DatabaseLocked):
            enginelib.open(link, lock_timeout=0)
    with enginelib.open(link) as db:
        assert db["space"][b"k"] == b"v"
        with pytest.raises(enginelib.DatabaseLocked):
            enginelib.open(path, lock_timeout=0)


def test_a_link_to_nothing_is_no_database(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError):
        enginelib.open(link)


def test_a_backup_does_not_overwrite(path, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with enginelib.open(path) as db:
        db.keyspace("space")[b"k"] = b"v"
        for place in (target, target / "notes.txt", path):
            with pytest.raises((OSError, ValueError)):
                db.backup(place)
        assert (target / "notes.txt").read_text() == "mine"
        assert db["space"][b"k"] == b"v"
    with enginelib.open(path) as db:
        assert db["space"][b"k"] == b"v"


def test_a_missing_page_file_beside_a_log_is_corruption(path):
    with enginelib.open(path) as db:
        db.keyspace("space")[b"k"] = b"v"
    shutil.move(path / "pages.dat", path.parent / "kept")
    with pytest.raises(enginelib.CorruptionError, match="page file is missing"):
        enginelib.open(path)
    shutil.move(path.parent / "kept", path / "pages.dat")
    with enginelib.open(path) as db:
        assert db["space"][b"k"] == b"v"


def test_threads_opening_one_place_at_once_get_it_in_turn(path):
    start = threading.Barrier(4)

    def visit(number):
        start.wait(10)
        with enginelib.open(path, lock_timeout=20, durability="os") as db:
            db.keyspace("space")[b"%d" % number] = b"v"

    for thread in [Thread(visit, n) for n in range(4)]:
        assert thread.settled(20).error is None
    with enginelib.open(path) as db:
        assert len(db["space"]) == 4
