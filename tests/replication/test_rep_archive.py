"""The archive: what ends in the log is copied before it goes, whole, once, in order; a follower may live on it."""

import errno
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import warnings

import pytest
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import scan
from rephelp import contents

import enginelib
from enginelib.replication import Archive, Follower
from enginelib.replication.follower import POSITION

NO_BOUND = (1 << 64) - 1
SMALL = {"segment_size": 1 << 20, "cache_size": 4 << 20, "durability": "os"}


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "archive"


def fill(ks, megabytes, tag=b""):
    for i in range(megabytes * 10):
        ks.put(b"%s%04d" % (tag, i), os.urandom(100_000))


def names_in(archive):
    return sorted(name for name in os.listdir(archive) if name.endswith(".wal"))


def archived(archive):
    return {p.name: p.read_bytes() for p in archive.glob("*.wal")}


def whole(archive):
    """The archive has no gap and no damage; where it ends."""
    names = names_in(archive)
    assert sorted(os.listdir(archive)) == [*names, "epoch"]
    last = archive / names[-1]
    end = int(names[-1][:16], 16) + last.stat().st_size
    found = scan(os.fsencode(archive), int(names[0][:16], 16), end, None, 0, NO_BOUND, NO_BOUND, NO_BOUND)
    assert found.end == end
    return found


def test_every_segment_is_there_before_the_log_lets_go_of_it(path, archive, tree):
    with enginelib.open(path, archive=archive, **SMALL) as db:
        ks = db.keyspace("space", **tree)
        for n in range(4):
            fill(ks, 2, b"%d" % n)
            db.checkpoint()
        db.archive_now()
        figures = db.stats()["archive"]
        assert figures["behind_bytes"] == 0 and figures["failures"] == 0 and figures["error"] is None and figures["gap"] is None
        assert figures["segments"] >= 8 and figures["directory"] == str(archive)
        db.checkpoint()
        assert "0000000000000000.wal" not in os.listdir(path / "log"), "the log goes"
        last = db.stats()["transactions"]["last_ts"]
    found = whole(archive)
    assert found.commit_ts == last
    assert names_in(archive)[0] == "0000000000000000.wal"


def test_archiving_goes_on_without_being_asked_and_asks_for_the_syncs_it_needs(path, archive):
    with enginelib.open(path, archive=archive, **SMALL) as db:
        ks = db.keyspace("space")
        fill(ks, 3)
        ended = threading.Event()
        for _ in range(2000):
            if db.stats()["archive"]["end_lsn"] >= 1 << 20:
                break
            ended.wait(0.01)
        assert db.stats()["archive"]["end_lsn"] >= 1 << 20
        assert "0000000000000000.wal" in os.listdir(archive)


def test_closing_archives_everything_and_opening_goes_on_where_it_ended(path, archive, tree):
    kept = {}
    for n in range(4):
        with enginelib.open(path, archive=archive, **SMALL) as db:
            db.keyspace("space", **tree)[b"%d" % n] = b"v"
            last = db.stats()["transactions"]["last_ts"]
        assert whole(archive).commit_ts == last
        now = archived(archive)
        assert all(now[name].startswith(data) for name, data in kept.items()), "nothing archived is changed"
        kept = now


def test_a_database_in_memory_may_have_an_archive(archive):
    with enginelib.open(":memory:", archive=archive) as db:
        db.keyspace("space")[b"a"] = b"1"
        db.archive_now()
        assert whole(archive).commit_ts == db.stats()["transactions"]["last_ts"]


def test_archiving_again_changes_nothing(path, archive):
    with enginelib.open(path, archive=archive, **SMALL) as db:
        fill(db.keyspace("space"), 2)
        end = db.archive_now()
        before = db.stats()["archive"]["segments"]
        assert db.archive_now() == end
        assert db.stats()["archive"]["segments"] == before
        assert end == db.stats()["log"]["synced_lsn"]


def test_a_copy_cut_short_is_made_again(path, archive):
    with enginelib.open(path, archive=archive, **SMALL) as db:
        fill(db.keyspace("space"), 2)
    names = names_in(archive)
    (archive / names[-1]).rename(archive / (names[-1][:16] + ".part"))
    with open(archive / (names[-1][:16] + ".part"), "r+b") as half:
        half.truncate(1000)
    with enginelib.open(path, archive=archive, **SMALL) as db:
        assert db.stats()["archive"]["gap"] is None
        last = db.stats()["transactions"]["last_ts"]
    assert whole(archive).commit_ts == last


def test_killed_at_any_time_the_archive_stays_a_prefix_of_the_log(path, archive, tree, tmp_path):
    program = textwrap.dedent(f"""
        import os, enginelib
        db = enginelib.open({str(path)!r}, archive={str(archive)!r}, segment_size=1 << 20, cache_size=4 << 20, durability="os", checkpoint_bytes=2 << 20)
        ks = db.keyspace("space", **{tree!r})
        print("ready", flush=True)
        n = ks.get(b"n", b"0")
        while True:
            for i in range(50):
                ks.put(b"%d" % i, os.urandom(20_000))
            n = b"%d" % (int(n) + 1)
            ks.put(b"n", n)
            db.archive_now()
            print(n.decode(), flush=True)
    """)
    told = 0
    for round_ in range(5):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "ready\n"
        for _ in range(1 + round_):
            told = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        child.stdout.close()
        child.wait()
        end = whole_but_parts(archive)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with enginelib.open(path, archive=archive, **SMALL) as db:
                assert int(db["space"][b"n"]) >= told
                assert db.stats()["log"]["end_lsn"] >= end.end
        assert whole(archive).commit_ts >= end.commit_ts


def whole_but_parts(archive):
    for part in archive.glob("*.part"):
        part.unlink()
    return whole(archive)


def test_a_full_or_failing_disk_is_told_holds_the_log_and_is_overcome():
    vfs = FaultVfs()
    db = enginelib.Database("/db", vfs=vfs, background=False, archive="/archive", **SMALL)
    try:
        ks = db.keyspace("space")
        fill(ks, 3)
        db.sync()
        vfs.set_room(0)
        with pytest.raises(enginelib.DiskFull):
            db.archive_now()
        figures = db.stats()["archive"]
        assert figures["failures"] >= 1 and "space" in figures["error"].lower()
        vfs.set_room(-1)
        fill(ks, 1, b"more")
        db.sync()
        ended = threading.Event()
        for _ in range(3000):  # by its own retries
            if db.stats()["archive"]["failures"] == 0 and db.stats()["archive"]["end_lsn"] > 1 << 20:
                break
            ended.wait(0.01)
        assert db.stats()["archive"]["error"] is None
        end = db.archive_now()
        files = {name: data for name, data in vfs.files().items() if name.endswith(".wal") and name.startswith("/archive/")}
        assert sum(len(data) for data in files.values()) == end - sum(
            b - a for a, b in holes(files)
        ), "everything, and each byte once"
    finally:
        db.close()


def holes(files):
    """Where no log lies between the segments."""
    ends = sorted((int(os.path.basename(name)[:16], 16), len(data)) for name, data in files.items())
    return [(first + size, following) for (first, size), (following, _) in zip(ends, ends[1:])]


def test_an_error_while_copying_leaves_no_half_copy():
    vfs = FaultVfs()
    db = enginelib.Database("/db", vfs=vfs, background=False, archive="/archive", **SMALL)
    try:
        ks = db.keyspace("space")
        ks[b"a"] = b"1"
        db.archive_now()
        ks[b"b"] = b"2"
        db.sync()
        for call in range(40):
            before = {n: d for n, d in vfs.files().items() if n.startswith("/archive/")}
            vfs.inject(call, errno.EIO)
            try:
                db._archiver.now()
                break
            except enginelib.StorageError:
                after = {n: d for n, d in vfs.files().items() if n.startswith("/archive/")}
                whole_ones = {n: d for n, d in after.items() if n.endswith(".wal")}
                assert all(whole_ones[n].startswith(d) for n, d in before.items() if n.endswith(".wal"))
            vfs.clear_injections()
        else:
            pytest.fail("it never went through")
        vfs.clear_injections()
        assert call > 3
    finally:
        vfs.clear_injections()
        db.close()


def test_log_that_went_while_nobody_archived_is_told(path, archive):
    with enginelib.open(path, archive=archive, **SMALL) as db:
        fill(db.keyspace("space"), 1)
    with enginelib.open(path, **SMALL) as db:
        for n in range(3):
            fill(db["space"], 2, b"%d" % n)
            db.checkpoint()
    with pytest.warns(RuntimeWarning, match="make a new backup"):
        db = enginelib.open(path, archive=archive, **SMALL)
    with db:
        low, high = db.stats()["archive"]["gap"]
        assert low < high
        db["space"][b"later"] = b""
    with enginelib.open(path, archive=archive, **SMALL) as db:
        assert db.stats()["archive"]["gap"] is None


def test_a_directory_serves_one_history_of_one_database(path, archive, tmp_path):
    with enginelib.open(path, archive=archive, **SMALL) as db:
        db.keyspace("space")[b"a"] = b"1"
        db.backup(tmp_path / "copy")
        db["space"][b"b"] = b"2"
    with pytest.raises(enginelib.UsageError, match="another database"):
        enginelib.open(tmp_path / "other", archive=archive)
    with pytest.raises(enginelib.UsageError, match="another history"):
        enginelib.open(tmp_path / "copy", archive=archive)
    with pytest.raises(enginelib.UsageError, match="something else"):
        enginelib.open(tmp_path / "other", archive=path / "pages.dat")
    with enginelib.open(tmp_path / "copy", archive=tmp_path / "own archive") as db:
        db.archive_now()


def test_the_option(path, archive, tmp_path):
    assert enginelib.Options(archive="here").archive == os.path.abspath("here")
    assert enginelib.Options(archive=archive).as_dict()["archive"] == str(archive)
    assert enginelib.Options().archive is None
    for wrong, error in ((7, TypeError), (b"bytes", TypeError), ("", ValueError)):
        with pytest.raises(error):
            enginelib.Options(archive=wrong)
    with pytest.raises(ValueError, match="read_only"):
        enginelib.Options(archive=archive, read_only=True)
    with enginelib.open(path) as db:
        assert "archive" not in db.stats()
        with pytest.raises(enginelib.UsageError, match="no archive"):
            db.archive_now()
    with pytest.raises(OSError):
        enginelib.open(path, archive=tmp_path / "no" / "such" / "place")
    with enginelib.open(path, archive=archive) as db:
        db.archive_now()
    with pytest.raises(enginelib.DatabaseClosed):
        db.archive_now()
    with pytest.raises(ValueError, match="inside the database"):
        enginelib.open(path, archive=path / "archive")


def test_a_database_that_is_dropped_without_closing_is_collected_and_archived(path, archive):
    db = enginelib.open(path, archive=archive, **SMALL)
    db.keyspace("space")[b"a"] = b"1"
    last = db.stats()["transactions"]["last_ts"]
    with pytest.warns(ResourceWarning):
        del db
        gc.collect()
    assert whole(archive).commit_ts == last
    assert not [t for t in threading.enumerate() if t.name == "enginelib-archive"]


def test_an_abandoned_database_leaves_no_thread(path, archive):
    db = enginelib.open(path, archive=archive, **SMALL)
    thread = db._archiver._thread
    db.abandon()
    thread.join(20)
    assert not thread.is_alive()


# ---- followers


def shown(follower):
    return {name: rows for name, rows in contents(follower.database).items() if name != POSITION}


def test_a_follower_lives_on_a_backup_and_the_archive(path, archive, tree, tmp_path):
    with enginelib.open(path, archive=archive, **SMALL) as db:
        one = db.keyspace("one", **tree)
        one[b"before"] = b"x" * 300_000
        gone = db.keyspace("gone", **tree)
        gone[b"a"] = b"1"
        under_way = db.transaction()
        under_way.put(one, b"under way", b"y" * 200_000)
        with db.transaction() as txn, pytest.raises(KeyError):
            txn.put(one, b"never", b"")
            raise KeyError
        fill(one, 2, b"in between")
        db.backup(tmp_path / "base")
        under_way.put(one, b"under way too", b"")
        under_way.commit()
        source = Archive(archive, tmp_path / "base")
        db.archive_now()
        with Follower(tmp_path / "follower", source) as follower:
            assert follower.wait_for(sequence=under_way.commit_ts, timeout=30)
            assert shown(follower) == contents(db)
            db.drop_keyspace("gone")
            db.rename_keyspace("one", "uno")
            two = db.keyspace("two", **tree)
            fill(two, 3)
            two[b"large"] = os.urandom(400_000)
            with db.transaction() as txn:
                txn.delete_range(two, b"0003", b"0010")
            db.archive_now()
            assert follower.wait_for(sequence=txn.commit_ts, timeout=30)
            assert shown(follower) == contents(db)
            assert follower.lag().bytes is None and follower.error is None
        two[b"while it was closed"] = b""
        with db.transaction() as txn:
            txn.put(db["uno"], b"and", b"more")
        db.archive_now()
        with Follower(tmp_path / "follower", source) as follower:
            assert follower.wait_for(sequence=txn.commit_ts, timeout=30)
            assert shown(follower) == contents(db)
    db = enginelib.open(path, archive=archive, **SMALL)  # another incarnation: the log goes on in another segment
    with db:
        with db.transaction() as txn:
            txn.put(db["uno"], b"again", b"")
        db.archive_now()
        with Follower(tmp_path / "follower", source) as follower:
            assert follower.wait_for(sequence=txn.commit_ts, timeout=30)
            assert shown(follower) == contents(db)


def test_a_follower_of_a_gap_says_so(path, archive, tmp_path):
    with enginelib.open(path, archive=archive, **SMALL) as db:
        ks = db.keyspace("space")
        db.backup(tmp_path / "base")
        fill(ks, 4)
        db.archive_now()
    names = names_in(archive)
    (archive / names[2]).unlink()
    with Follower(tmp_path / "follower", Archive(archive, tmp_path / "base")) as follower:
        with pytest.raises(enginelib.ChangesGone, match="gap"):
            follower.wait_for(sequence=1 << 60, timeout=30)


def test_an_archive_and_a_backup_that_do_not_belong_together_are_refused(path, archive, tmp_path):
    with enginelib.open(path, archive=archive, **SMALL) as db:
        db.keyspace("space")[b"a"] = b"1"
    with enginelib.open(tmp_path / "other") as other:
        other.backup(tmp_path / "base")
    with pytest.raises(enginelib.UsageError, match="different databases"):
        Archive(archive, tmp_path / "base").open()
    assert "archive" in repr(Archive(archive, tmp_path / "base"))


def test_a_follower_takes_no_backup_that_is_ahead_of_it(path, archive, tmp_path):
    with enginelib.open(path, archive=archive, **SMALL) as db:
        ks = db.keyspace("space")
        db.backup(tmp_path / "base")
        ks[b"a"] = b"1"
        db.archive_now()
        with Follower(tmp_path / "follower", Archive(archive, tmp_path / "base")) as follower:
            assert follower.wait_for(sequence=db.stats()["transactions"]["last_ts"], timeout=30)
        ks[b"b"] = b"2"
        db.backup(tmp_path / "newer")
        db.archive_now()
        with Follower(tmp_path / "follower", Archive(archive, tmp_path / "newer")) as follower:
            with pytest.raises(enginelib.ChangesGone, match="older backup"):
                follower.wait_for(sequence=1 << 60, timeout=30)
