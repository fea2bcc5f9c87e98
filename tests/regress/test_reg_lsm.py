"""Bugs of LSM keyspaces that were found and mended; each docstring names one."""

import contextlib
import threading

import pytest
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.index.lsmdoor import TableDoor, WriterDoor

import enginelib


def killed(db, path):
    """The database as after kill -9, opened again."""
    db.abandon()
    return enginelib.open(path)


@pytest.mark.parametrize("first", [False, True])
def test_a_range_deletion_rolled_back_to_a_savepoint_stays_away_after_a_crash(tmp_path, first):
    """Only changes of keys had their rollback logged: a range tombstone that went alone came back in recovery."""
    db = enginelib.open(tmp_path / "db")
    events = db.keyspace("events", backend="lsm")
    events.put_many([(b"%03d" % i, b"v") for i in range(100)])
    with db.transaction() as txn:
        if first:
            txn.put(events, b"zzz", b"first")
        with txn.savepoint() as mark:
            txn.delete_range(events, b"010", b"090")
            mark.rollback()
        txn.put(events, b"000", b"new")
    with killed(db, tmp_path / "db") as db:
        assert len(list(db.keyspace("events").items())) == 100 + first


def test_a_large_value_that_was_replayed_keeps_its_part_of_the_log(tmp_path):
    """A checkpoint after recovery let the log go up to the record that links a large value, with the chunks before it: the next
    recovery could not replay it."""
    db = enginelib.open(tmp_path / "db", segment_size=1 << 20)
    events = db.keyspace("events", backend="lsm")
    value = bytes(range(256)) * 8000
    events[b"large"] = value
    for _ in range(2):
        db = killed(db, tmp_path / "db")
        db.checkpoint()
    with killed(db, tmp_path / "db") as db:
        assert db.keyspace("events")[b"large"] == value


@pytest.mark.parametrize("klen", [1, 16, 100])
def test_an_entry_as_large_as_a_block_is_flushed(tmp_path, klen):
    """Whether a value has to stand outside its block was judged by a bound eight bytes too generous: one that hit the gap
    could not be written to a table."""
    with enginelib.open(tmp_path / "db", page_size=4096) as db:
        events = db.keyspace("events", backend="lsm")
        for n in range(3700, 4200):
            events[b"%04d".rjust(klen + 3, b"k") % n] = b"v" * n
        db.step("flush")
        assert [len(v) for v in events.values()] == list(range(3700, 4200))


def test_a_lacking_block_of_a_table_that_has_gone_is_not_read():
    """An operation that lacked a block lets go of the latch before it fetches it; the table may be compacted away, closed and
    freed meanwhile. What it had noted was followed all the same."""
    vfs = MemoryVfs()
    writer = WriterDoor(vfs, b"/1.sst")
    writer.add(b"key", 5, b"value")
    writer.finish()
    assert TableDoor(vfs, b"/1.sst").outlived(b"key") == 0


def test_tables_go_while_they_are_read(tmp_path):
    """As above, with real threads: scans and look-ups died, or read another file, when compaction was quick; and a table
    was closed while a block of it was being read."""
    with enginelib.open(tmp_path / "db", cache_size=1 << 20, segment_size=1 << 20) as db:
        space = db.keyspace("space", backend="lsm", memtable_size=64 << 10, table_size=64 << 10)
        keys = [b"k%03d" % i for i in range(64)]
        found, stop = [], threading.Event()

        def read():
            try:
                while not stop.is_set():
                    with db.transaction(read_only=True) as txn:
                        rows = dict(txn.scan(space))
                        assert len({value[:4] for value in rows.values()}) <= 1
                        assert txn.get_many(space, keys[::5]) == [rows.get(key) for key in keys[::5]]
            except Exception as error:
                found.append(error)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for thread in readers:
            thread.start()
        for n in range(60):
            with db.transaction(durability="os") as txn:
                txn.put_many(space, [(key, b"%04d" % n + b"v" * 4000) for key in keys])
                txn.put(space, b"large", b"%04d" % n * 40_000)
        stop.set()
        for thread in readers:
            thread.join(60)
        assert not found
        assert space.stats()["compactions"] > 5


def flushed(db):
    """All memtables in tables."""
    db.step("seal")
    while db.step("flush"):
        pass


@pytest.fixture
def still(tmp_path):
    """A database without background work, and an LSM keyspace with tables as small as they may be."""
    with contextlib.closing(enginelib.Database(tmp_path / "db", page_size=4096, cache_size=1 << 20, background=False)) as db:
        yield db, db.keyspace("space", backend="lsm", memtable_size=64 << 10, table_size=64 << 10)


def test_several_values_that_stand_by_themselves_are_read_at_once(still):
    """get_many had room for one such value: it fetched the first, then the second in its place, then the first again, for ever."""
    db, space = still
    rows = {b"%03d" % i: b"%03d" % i * (3000 + i) for i in range(40)}
    rows |= {b"small %d" % i: b"v" for i in range(40)}
    space.update(rows)
    flushed(db)
    wanted = [*rows, b"absent", *reversed(rows)]
    assert space.get_many(wanted) == [rows.get(key) for key in wanted]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_gets_across_more_blocks_without_a_visible_record_than_the_cache_holds(still, reverse):
    """It began anew at the start of its range whenever a block had to be fetched, and kept all of them."""
    db, space = still
    old = db.transaction(read_only=True)
    assert old.get(space, b"k") is None
    space.put_many([(b"%06d" % i, b"v" * 400) for i in range(8000)])
    flushed(db)
    assert space.stats()["table_bytes"] > 2 * db.stats()["cache"]["bytes"]
    assert list(old.scan(space, reverse=reverse)) == []
    assert len(list(space.scan(reverse=reverse))) == 8000
