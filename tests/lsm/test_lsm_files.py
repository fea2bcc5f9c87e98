"""The files of LSM keyspaces: made, named, lost, damaged, left behind, copied."""

import shutil
import threading

import pytest

import enginelib
from enginelib.database import Database


def tables(path):
    return sorted(path.glob("lsm/*/*.sst"))


@pytest.fixture
def made(path):
    """A closed database with two LSM keyspaces, one table each, and a B-tree."""
    with Database(path, background=False) as db:
        for name in ("one", "two"):
            ks = db.keyspace(name, backend="lsm")
            ks.put_many([(b"%04d" % n, name.encode() * 20) for n in range(2000)])
            ks.compact()
        db.keyspace("tree")[b"k"] = b"v"
    assert len(tables(path)) == 2
    return path


def damage_missing(file):
    file.unlink()
    return file.name


def damage_short(file):
    with file.open("r+b") as f:
        f.truncate(1000)
    return file.name


def damage_empty(file):
    file.write_bytes(b"")
    return file.name


def damage_footer(file):
    data = bytearray(file.read_bytes())
    data[-9] ^= 0x10
    file.write_bytes(data)
    return file.name


@pytest.mark.parametrize("damage", [damage_missing, damage_short, damage_empty, damage_footer])
def test_a_table_that_is_missing_or_damaged_is_named(made, damage):
    name = damage(tables(made)[0])
    with pytest.raises(enginelib.CorruptionError, match=name):
        enginelib.open(made)
    with enginelib.open(made, allow_damaged=True) as db:
        one, two = db.keyspace("one"), db.keyspace("two")
        assert one.stats()["damaged"]
        for use in (
            lambda: one[b"0000"],
            lambda: one.put(b"k", b"v"),
            lambda: list(one),
            lambda: db.run(lambda txn: txn.delete_range(one, b"0", b"1")),
            lambda: one.get_many([b"0000"]),
            lambda: one.compact(),
        ):
            with pytest.raises(enginelib.CorruptionError, match=name):
                use()
        assert len(two) == 2000 and db.keyspace("tree")[b"k"] == b"v"
        two[b"new"] = b"v"
        report = db.verify()
        assert not report.ok and name in str(report)
    with enginelib.open(made, allow_damaged=True) as db:
        assert db.keyspace("two")[b"new"] == b"v"
        db.drop_keyspace("one")
    with enginelib.open(made) as db:
        assert sorted(name for name in db.keyspaces()) == ["tree", "two"]


def test_a_bit_flipped_in_a_block_is_found_when_it_is_read_and_by_verify(made):
    file = tables(made)[0]
    data = bytearray(file.read_bytes())
    data[5000] ^= 1
    file.write_bytes(data)
    with enginelib.open(made) as db:
        ks = db.keyspace("one")
        with pytest.raises(enginelib.CorruptionError, match=file.name):
            list(ks)
        assert not db.verify().ok
        assert ks[b"1999"] == b"one" * 20


def test_files_that_nothing_names_go_at_opening(made):
    stray = tables(made)[0].with_name("999.sst")
    stray.write_bytes(b"left by a crash")
    gone = made / "lsm" / "77"
    gone.mkdir()
    (gone / "3.sst").write_bytes(b"of a keyspace that never was")
    with enginelib.open(made, read_only=True) as db:
        assert len(db.keyspace("one")) == 2000
    assert stray.exists()
    with enginelib.open(made) as db:
        assert not stray.exists() and not (gone / "3.sst").exists()
        ks = db.keyspace("one")
        ks.put_many([(b"%04d" % n, b"new") for n in range(2000)])
        ks.compact()
        assert int(tables(made)[0].stem) > 999


def test_dropping_takes_the_files(made):
    with Database(made, background=False) as db:
        db.drop_keyspace("one")
        for _ in range(5):
            db.step("gc")
        db.checkpoint()
    with enginelib.open(made) as db:
        assert db.verify().ok
    assert len(tables(made)) == 1


def test_a_file_of_another_keyspace_is_not_taken_for_its_own(made):
    one, two = tables(made)
    shutil.copy(two, one)
    with pytest.raises(enginelib.CorruptionError, match=one.name):
        enginelib.open(made)


def test_a_backup_beside_a_load_is_a_database_of_one_moment(tmp_path, path):
    with enginelib.open(path, durability="os", segment_size=1 << 20, checkpoint_bytes=1 << 20) as db:
        ks = db.keyspace("events", backend="lsm", memtable_size=64 << 10, table_size=64 << 10)
        count = db.keyspace("count")
        done = threading.Event()
        failures = []

        def load():
            n = 0
            try:
                while not done.is_set():
                    with db.transaction() as txn:
                        for i in range(20):
                            txn.put(ks, b"%06d" % ((n * 20 + i) * 7919 % 100_000), b"%06d" % n * 10)
                        txn.put(count, b"n", b"%d" % n)
                    n += 1
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            copies = [tmp_path / f"copy{n}" for n in range(4)]
            for copy in copies:
                db.backup(copy)
        finally:
            done.set()
            thread.join()
        assert not failures
    last = -1
    for copy in copies:
        with enginelib.open(copy) as db:
            assert db.verify().ok
            n = int(db.keyspace("count").get(b"n", b"-1"))
            assert n >= last
            last = n
            found = dict(db.keyspace("events").items())
            expected = {}
            for k in range(n + 1):
                for i in range(20):
                    expected[b"%06d" % ((k * 20 + i) * 7919 % 100_000)] = b"%06d" % k * 10
            assert found == expected
