"""Bugs of LSM keyspaces that were found and mended; each docstring names one."""

import contextlib
import random
import threading

import pytest
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.engine.door import CoreDatabase, CoreKeyspace, CoreTransaction
from enginelib._native.index.lsmdoor import TableDoor, WriterDoor

import enginelib

SMALL = {
    "page_size": 4096, "cache_size": 262144, "segment_size": 65536, "log_buffer": 4096, "checkpoint_bytes": 1 << 40, "version_budget": 1 << 24,
    "transaction_budget": 1 << 24, "durability": 2, "lazy_interval": 0.1, "lock_timeout": 0.0, "background": False,
}  # fmt: skip


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


def test_a_table_that_goes_while_its_block_is_being_fetched(tmp_path):
    """The block that a read lacked was fetched from a table that a compaction had closed meanwhile: from freed memory, and from
    whatever file had its handle by then."""
    with enginelib.open(tmp_path / "db", durability="os", cache_size=1 << 20) as db:
        events = db.keyspace("events", backend="lsm", memtable_size=64 << 10, table_size=64 << 10)
        keys = [b"%05d" % n for n in range(4000)]
        events.put_many([(key, key * 40) for key in keys])
        events.put_many([(b"large %d" % n, b"%d" % n * 100_000) for n in range(4)])
        ended = threading.Event()
        failures = []

        def read(seed):
            source = random.Random(seed)
            try:
                while not ended.is_set():
                    some = source.sample(keys, 20)
                    assert all(value == key * 40 for key, value in zip(some, events.get_many(some), strict=True))
                    n = source.randrange(4)
                    assert events[b"large %d" % n] == b"%d" % n * 100_000
                    start = source.choice(keys)
                    assert all(v == k * 40 for k, v in events.scan(start, b"a", limit=50))
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=read, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(60):
                events.put_many([(key, key * 40) for key in keys])
                events.put_many([(b"large %d" % n, b"%d" % n * 100_000) for n in range(4)])
                events.compact()
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert not failures, failures


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


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("ranged", [False, True])
def test_a_seal_asks_for_no_log_that_a_checkpoint_has_let_go_of(large, ranged):
    """A transaction older than a checkpoint whose changes to an LSM-tree are younger: a seal moved them on as if they were as old as it is, and the next checkpoint
    named a part of the log that was gone; after a crash the database did not open."""
    vfs = FaultVfs()
    db = CoreDatabase("/db", vfs=vfs, **SMALL)
    pages = db.core_keyspace(CoreKeyspace, "pages")
    space = db.core_keyspace(CoreKeyspace, "space", True, "lsm", {"memtable_size": 64 << 10, "table_size": 64 << 10})
    old = db.core_transaction(CoreTransaction)
    old.put(pages, b"old", b"1")
    for i in range(200):
        pages.put(b"%d" % i, bytes(1000))
    db.checkpoint()
    kept = db.stats()["log"]["kept_from_lsn"]
    value = bytes(30_000) if large else b"young"
    if ranged:
        old.delete_range(space, b"a", b"b")
    else:
        old.put(space, b"young", value)
    db.step("seal")
    db.step("flush")
    db.checkpoint()
    assert db.stats()["log"]["kept_from_lsn"] >= kept
    old.commit()
    db.sync()
    again = CoreDatabase("/db", vfs=vfs.crash_image(vfs.mutations, 1, "power"), **SMALL)
    if not ranged:
        assert again.core_keyspace(CoreKeyspace, "space").get(b"young") == value
    assert again.core_keyspace(CoreKeyspace, "pages").get(b"old") == b"1"
    again.abandon()
    db.abandon()
