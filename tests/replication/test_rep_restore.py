"""Restore: exactly what had committed by the moment, on a new timeline, or a clear error and nothing."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rephelp import contents

import enginelib
from enginelib.replication import Follower

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import restore as campaign

SMALL = {"segment_size": 1 << 20, "cache_size": 4 << 20, "durability": "os"}


class Past:
    """A database with a history: what it held after each commit, and where and when that was."""

    def __init__(self, directory, tree):
        self.directory = directory
        self.archive = directory / "archive"
        self.base = directory / "base"
        self.states = {}
        self.marks = {}
        self.db = enginelib.open(directory / "db", archive=self.archive, **SMALL)
        self.one = self.db.keyspace("one", **tree)
        self.tree = tree

    def note(self):
        self.states[self.db.stats()["transactions"]["visible_ts"]] = contents(self.db)

    def finish(self):
        self.marks = {c.sequence: c for c in self.db.changes()}
        self.db.close()

    def restore(self, **target):
        made = self.directory / "made"
        return enginelib.restore(self.base, self.archive, made, **target)

    def shown(self, **target):
        self.restore(**target)
        with enginelib.open(self.directory / "made", **SMALL) as db:
            assert db.verify().ok
            found = contents(db)
        campaign.shutil.rmtree(self.directory / "made")
        return found


@pytest.fixture
def past(tmp_path, tree):
    """Ten commits behind a backup; whoever uses it closes it by finish()."""
    past = Past(tmp_path, tree)
    past.one[b"a"] = b"0"
    past.db.backup(past.base)
    past.note()
    for n in range(1, 11):
        past.one[b"a"] = b"%d" % n
        past.one.put(b"k%d" % n, b"v" * 10)
        past.note()
        time.sleep(0.002)  # so that times differ: nothing waits for it
    yield past
    past.db.close()


def test_each_target_names_the_same_moment(past):
    past.finish()
    for sequence, state in past.states.items():
        mark = past.marks[sequence]
        assert past.shown(to_commit=sequence) == state
        assert past.shown(to_lsn=mark.lsn) == state
        assert past.shown(to_time=mark.time) == state
    assert past.shown() == past.states[max(past.states)]


def test_between_two_commits_the_earlier_one_counts(past):
    past.finish()
    first, second = sorted(past.states)[3:5]
    lsn, later = past.marks[first].lsn, past.marks[second].lsn
    middle = past.marks[first + 1] if first + 1 != second else past.marks[second]
    assert past.shown(to_lsn=middle.lsn - 1) == past.states[first]
    assert past.shown(to_time=middle.time - 1e-6) == past.states[first]
    moment = datetime.fromtimestamp(past.marks[second].time, UTC)
    assert past.shown(to_time=moment) == past.states[second]
    assert lsn < later


def test_what_it_tells_is_what_it_made(past):
    past.finish()
    sequence = sorted(past.states)[5]
    made = past.restore(to_commit=sequence)
    mark = past.marks[sequence]
    assert (made.lsn, made.sequence, made.time) == (mark.lsn, sequence, mark.time)
    assert made.path == str(past.directory / "made") and made.database_id == mark.database_id.hex()
    assert made.epoch == mark.epoch + 1


def test_what_had_not_committed_by_then_is_rolled_back(past, tree):
    txn = past.db.transaction()
    txn.put(past.one, b"open", b"x" * 200_000)
    with txn.savepoint() as savepoint:
        txn.put(past.one, b"never", b"")
        savepoint.rollback()
    past.one[b"mark"] = b"1"
    past.note()
    before = max(past.states)
    txn.put(past.one, b"open too", b"")
    txn.commit()
    past.note()
    past.finish()
    assert b"open" not in past.states[before]["one"]
    assert past.shown(to_commit=before) == past.states[before]
    assert past.shown(to_commit=txn.commit_ts) == past.states[txn.commit_ts]
    assert past.states[txn.commit_ts]["one"][b"open"] == b"x" * 200_000


def test_large_values_ranges_and_the_catalogue(past, tree):
    db = past.db
    past.one[b"large"] = os.urandom(700_000)
    past.note()
    with db.transaction() as txn:
        txn.delete_range(past.one, b"k2", b"k6")
    past.note()
    two = db.keyspace("two", **tree)
    past.note()
    two[b"x"] = os.urandom(300_000)
    past.note()
    db.rename_keyspace("one", "uno")
    past.note()
    with db.transaction() as txn:
        txn.drop_keyspace("two")
        txn.put(txn.create_keyspace("two", **tree), b"other", b"1")
    past.note()
    db.drop_keyspace("uno")
    past.note()
    db.keyspace("uno", **tree)[b"again"] = b""
    past.note()
    past.finish()
    for sequence in sorted(past.states)[-9:]:
        assert past.shown(to_commit=sequence) == past.states[sequence]


def test_bulk_loads_are_replayed_or_refused(past, tree):
    if tree["backend"] != "lsm":
        past.finish()
        pytest.skip("bulk loads are of LSM keyspaces")
    before = max(past.states)
    past.one.ingest([(b"%05d" % n, b"v%d" % n) for n in range(5000)])
    past.note()
    loaded = max(past.states)
    past.db.checkpoint()
    past.one[b"after"] = b""
    past.note()
    quiet = max(past.states)
    past.one.ingest([(b"unlogged", b"1")], logged=False)
    past.one[b"too late"] = b""
    past.db.close()
    for sequence in (before, loaded, quiet):
        assert past.shown(to_commit=sequence) == past.states[sequence]
    with pytest.raises(enginelib.UsageError, match="logged=False"):
        past.restore()
    assert sorted(os.listdir(past.directory)) == ["archive", "base", "db"], "nothing is left"


def test_a_restored_database_is_a_timeline_of_its_own(past, tmp_path):
    with Follower(tmp_path / "follower", past.db) as follower:
        assert follower.wait_for(sequence=max(past.states), timeout=20)
    past.db.create_slot("of the original")
    past.finish()
    archived = max(p.stat().st_size + int(p.name[:16], 16) for p in past.archive.glob("*.wal"))
    sequence = sorted(past.states)[4]
    made = past.restore(to_commit=sequence)
    with enginelib.open(made.path) as db:
        assert db.epoch == made.epoch and db.slots() == []
        assert db.stats()["log"]["kept_from_lsn"] > archived, "the log goes on above all that was ever logged"
        db["one"][b"new"] = b""
        (change,) = [c for c in db.changes() if c.operations[0].key == b"new"]
        assert change.epoch == made.epoch and change.sequence == sequence + 1
    with pytest.raises(enginelib.UsageError, match="another history"):
        enginelib.open(made.path, archive=past.archive)
    names = os.listdir(Path(made.path) / "log")
    assert names and all(int(name[:16], 16) > archived for name in names if not name.startswith("spare"))


def test_the_epoch_is_above_one_that_was_raised_since_the_backup(past):
    past.db.raise_epoch(6)
    past.one[b"promoted"] = b""
    past.finish()
    assert past.restore().epoch == 8
    (past.archive / "epoch").write_bytes(b"nonsense")
    campaign.shutil.rmtree(past.directory / "made")
    with pytest.raises(enginelib.CorruptionError):
        past.restore()


def test_a_restored_database_can_be_backed_up_archived_and_restored(past, tmp_path):
    past.finish()
    made = past.restore(to_commit=sorted(past.states)[4])
    with enginelib.open(made.path, archive=tmp_path / "second archive", **SMALL) as db:
        db["one"][b"second life"] = b"1"
        db.backup(tmp_path / "second base")
        db["one"][b"second life"] = b"2"
        expected = contents(db)
    again = enginelib.restore(tmp_path / "second base", tmp_path / "second archive", tmp_path / "again")
    assert again.epoch == made.epoch + 1
    with enginelib.open(again.path) as db:
        assert contents(db) == expected


def test_targets_out_of_reach_are_refused(past):
    past.finish()
    first, last = min(past.states), max(past.states)
    for target in ({"to_commit": first - 1}, {"to_lsn": 0}, {"to_time": past.marks[first].time - 1}):
        with pytest.raises(ValueError, match="before the backup"):
            past.restore(**target)
    newest = past.marks[max(past.marks)]
    for target in ({"to_commit": max(past.marks) + 1}, {"to_lsn": newest.lsn + (1 << 20)}, {"to_time": newest.time + 1}):
        with pytest.raises(ValueError, match="beyond the archive"):
            past.restore(**target)
    for wrong, error in (
        ({"to_commit": 1, "to_lsn": 1}, TypeError), ({"to_commit": "1"}, TypeError), ({"to_lsn": True}, TypeError), ({"to_lsn": -1}, ValueError),
        ({"to_time": "now"}, TypeError), ({"to_time": datetime(2026, 1, 1)}, ValueError), ({"to_time": float("nan")}, ValueError),
    ):  # fmt: skip
        with pytest.raises(error):
            past.restore(**wrong)
    with pytest.raises(FileNotFoundError):
        enginelib.restore(past.directory / "nowhere", past.archive, past.directory / "made")
    with pytest.raises(FileExistsError):
        enginelib.restore(past.base, past.archive, past.archive)
    with pytest.raises(ValueError, match="inside"):
        enginelib.restore(past.base, past.archive, past.base / "within")
    assert last > first and sorted(os.listdir(past.directory)) == ["archive", "base", "db"]


def test_the_time_of_a_backup_is_found_in_older_archived_log(tmp_path, tree):
    """Its own log begins behind a checkpoint, and tells no commit."""
    past = Past(tmp_path, tree)
    for n in range(30):
        past.one[b"%d" % n] = os.urandom(100_000)
    past.note()
    last = [c for c in past.db.changes()][-1]
    for _ in range(3):
        past.db.checkpoint()
        past.db.archive_now()
    past.db.close()
    past.db = enginelib.open(tmp_path / "db", archive=past.archive, **SMALL)
    past.db.checkpoint()
    past.db.backup(past.base)
    past.db["one"][b"more"] = b""
    later = [c for c in past.db.changes()][-1]
    past.db.close()
    assert past.shown(to_time=last.time) == past.states[last.sequence]
    with pytest.raises(ValueError, match="before the backup"):
        past.restore(to_time=last.time - 1)
    assert past.shown(to_time=later.time)["one"][b"more"] == b""
    for each in names_of(past.archive)[:-1]:
        each.unlink()
    with pytest.raises(ValueError, match="by to_commit or to_lsn"):
        past.restore(to_time=last.time)
    assert past.shown(to_commit=last.sequence) == past.states[last.sequence]


@pytest.fixture
def long(tmp_path, tree):
    """A past of several segments."""
    past = Past(tmp_path, tree)
    past.db.backup(past.base)
    for n in range(40):
        past.one[b"%d" % n] = os.urandom(100_000)
        past.note()
    past.finish()
    return past


def names_of(archive):
    return sorted(archive.glob("*.wal"))


def test_a_gap_is_an_error_beyond_it_only(long):
    before = next(s for s in sorted(long.states) if long.marks[s].lsn > 500_000)
    after = max(long.states)
    names_of(long.archive)[2].unlink()
    assert long.shown(to_commit=before) == long.states[before]
    for target in ({"to_commit": after}, {"to_lsn": long.marks[after].lsn}, {"to_time": long.marks[after].time}, {}):
        with pytest.raises(enginelib.ChangesGone, match="gap"):
            long.restore(**target)
    names_of(long.archive)[0].unlink()
    with pytest.raises(enginelib.ChangesGone, match="does not hold"):
        long.restore(to_commit=before)


def test_a_torn_or_flipped_archived_file_is_found_by_its_sums(long):
    middle = names_of(long.archive)[2]
    data = middle.read_bytes()
    after = max(long.states)
    for damage in (
        data[:-1000], data[:40], b"", data[:300_000] + bytes([data[300_000] ^ 1]) + data[300_001:], bytes([data[0] ^ 1]) + data[1:], data + b"\0" * 512,
    ):  # fmt: skip
        middle.write_bytes(damage)
        with pytest.raises((enginelib.CorruptionError, enginelib.ChangesGone)):
            long.restore(to_commit=after)
        assert sorted(os.listdir(long.directory)) == ["archive", "base", "db"]
    middle.write_bytes(data)
    last = names_of(long.archive)[-1]
    whole = last.read_bytes()
    for damage in (whole[:-5], whole[:-5] + b"\xff" * 5):
        last.write_bytes(damage)
        with pytest.raises(enginelib.CorruptionError):
            long.restore()
    last.write_bytes(whole)
    assert long.shown() == long.states[after]


def test_a_backup_that_was_opened_since_or_is_another_databases_is_refused(long, tmp_path):
    with enginelib.open(tmp_path / "other") as other:
        other.backup(tmp_path / "other base")
    with pytest.raises(enginelib.UsageError, match="different databases"):
        enginelib.restore(tmp_path / "other base", long.archive, tmp_path / "made")
    with enginelib.open(long.base) as db:
        db["one"][b"a branch"] = b""
    with pytest.raises(enginelib.UsageError, match="two histories"):
        long.restore()


def test_a_backup_beyond_the_archive_is_restored_as_it_is(tmp_path, tree):
    past = Past(tmp_path, tree)
    past.one[b"a"] = b"1"
    past.db.backup(past.base)
    past.note()
    past.db.abandon()
    for each in past.archive.iterdir():
        each.unlink()
    assert past.shown() == past.states[max(past.states)]
    with pytest.raises(ValueError, match="beyond the archive"):
        past.restore(to_commit=max(past.states) + 1)


def test_killed_at_any_time_there_is_all_or_nothing(long, tmp_path):
    program = textwrap.dedent(f"""
        import enginelib
        print("ready", flush=True)
        enginelib.restore({str(long.base)!r}, {str(long.archive)!r}, {str(tmp_path / "made")!r})
    """)
    last = max(long.states)
    rng = random.Random(3)
    for _ in range(8):
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        child.stdout.readline()
        try:
            child.wait(rng.random() * 0.25)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
        child.stdout.close()
        if (tmp_path / "made").exists():
            with enginelib.open(tmp_path / "made") as db:
                assert contents(db) == long.states[last]
            campaign.shutil.rmtree(tmp_path / "made")
    assert long.shown() == long.states[last]
    assert not list(tmp_path.glob(".*")), "what a killed one has left is gone"


def test_two_restores_of_one_destination_do_not_meet(long, tmp_path):
    import fcntl

    place = tmp_path / ".made.restoring"
    place.mkdir()
    held = os.open(place, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(enginelib.UsageError, match="being restored"):
        long.restore()
    os.close(held)
    assert long.shown() == long.states[max(long.states)]


@pytest.mark.parametrize("seed", [11, 12])
def test_random_moments_of_a_busy_database(seed):
    right, findings = campaign.campaign(12, seed, threads=3, phases=4, transactions=200)
    assert not findings and right == 12
