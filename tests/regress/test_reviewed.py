"""Defects found by reading the core as an adversary would."""

import gc
import random
import threading

import pytest
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreDatabase, CoreKeyspace, CoreTransaction

import enginelib

OPTIONS = {
    "page_size": 4096, "cache_size": 1 << 20, "segment_size": 1 << 16, "log_buffer": 1 << 14, "checkpoint_bytes": 1 << 40,
    "version_budget": 1 << 24, "transaction_budget": 1 << 24, "durability": 2, "lazy_interval": 0.1, "lock_timeout": 0.0, "background": False,
}  # fmt: skip


def test_operations_that_come_while_the_database_closes_find_it_closed(tmp_path):
    """checkpoint() and sync() that had passed their first check worked on freed memory once close() had let go of it."""
    for round_ in range(5):
        db = enginelib.open(tmp_path / f"db{round_}", cache_size=4 << 20)
        rows = db.keyspace("rows")
        rows[b"large"] = b"x" * 100_000
        go = threading.Barrier(4)
        strange = []

        def act(operation, strange=strange, go=go):
            go.wait()
            try:
                for _ in range(20):
                    operation()
            except enginelib.DatabaseClosed:
                pass
            except BaseException as error:
                strange.append(error)

        threads = [threading.Thread(target=act, args=(op,)) for op in (db.checkpoint, db.sync, lambda rows=rows: rows.get(b"large"))]
        for thread in threads:
            thread.start()
        go.wait()
        db.close()
        for thread in threads:
            thread.join()
        assert strange == []


def test_a_lazy_commit_after_the_log_has_failed_is_refused():
    """Its record went into a buffer that nothing would ever write, and readers saw it."""
    vfs = FaultVfs()
    db = CoreDatabase("/db", vfs=vfs, **OPTIONS)
    rows = db.core_keyspace(CoreKeyspace, "rows")
    txn = db.core_transaction(CoreTransaction, durability=0)
    txn.put(rows, b"k", b"v")
    vfs.inject(0, 5, sticky=True)
    with pytest.raises(enginelib.StorageError):
        db.step("lazy")
    with pytest.raises(enginelib.LogWriteError):
        txn.commit()
    assert rows.get(b"k") is None
    db.abandon()


def test_a_transaction_dropped_in_a_reference_cycle_is_rolled_back(tmp_path):
    """The garbage collector had cleared its references before the finaliser looked at them: the row stayed locked for ever."""
    class Own(CoreTransaction):
        me: object

    with enginelib.open(tmp_path / "db", lock_timeout=5.0) as db:
        rows = db.keyspace("rows")
        txn = db.core_transaction(Own)
        txn.put(rows, b"k", b"v")
        txn.me = txn
        del txn
        gc.collect()
        rows[b"k"] = b"mine"
        assert rows[b"k"] == b"mine"


def test_a_large_value_that_could_not_be_linked_is_freed():
    """Its extent stayed in the page map for ever, named by nothing."""
    db = CoreDatabase("/db", vfs=FaultVfs(), **{**OPTIONS, "transaction_budget": 4096})
    rows = db.core_keyspace(CoreKeyspace, "rows")
    db.core_keyspace(CoreKeyspace, "other").put(b"k", b"v")
    txn = db.core_transaction(CoreTransaction)
    for i in range(200):
        try:
            txn.put(rows, b"%d" % i, b"z" * 20_000)
        except enginelib.TransactionTooLarge:
            break
    else:
        pytest.fail("the budget was never met")
    txn.commit()
    db.checkpoint()
    findings, _ = db.verify()
    assert findings == []
    db.close()


def small(vfs, **options):
    return CoreDatabase("/db", vfs=vfs, **{**OPTIONS, "cache_size": 1 << 16, **options})


def test_a_tree_whose_destruction_was_cut_short_is_no_corruption():
    """`verify` measured what is left of it by the fences and links of the tree that it was."""
    vfs = FaultVfs()
    db = small(vfs)
    table = db.core_keyspace(CoreKeyspace, "table")
    for start in range(0, 3000, 30):
        with db.core_transaction(CoreTransaction) as txn:
            txn.put_many(table, [(b"%05d" % i, b"v" * 300) for i in range(start, start + 30)])
    db.checkpoint()
    db.drop_keyspace("table")
    reads = 0
    while True:  # the read that strikes is one later each time
        reads += 7
        vfs.inject(reads, 5, sticky=True)
        try:
            db.step("gc")
        except enginelib.StorageError:
            vfs.clear_injections()
            assert db.verify()[0] == []
        else:
            vfs.clear_injections()
            break
    assert reads > 21
    assert db.verify()[0] == []
    db.close()


@pytest.mark.parametrize("rows", [200, 600])
def test_a_rollback_that_displaces_more_pages_than_the_cache_keeps_clean_works_on_a_full_disk(rows):
    """It had to write pages, and there was nowhere to write them to."""
    vfs = FaultVfs()
    db = small(vfs)
    table = db.core_keyspace(CoreKeyspace, "table")
    txn = db.core_transaction(CoreTransaction)
    rng = random.Random(1)
    order = list(range(rows))
    rng.shuffle(order)
    for i in order:
        txn.put(table, b"%05d" % i, b"a" * 300)
    txn.commit()
    txn = db.core_transaction(CoreTransaction)
    rng.shuffle(order)
    for i in order:
        txn.put(table, b"%05d" % i, b"b" * 300)
    vfs.set_room(0)
    for i in order:
        try:
            txn.put(table, b"%05d more" % i, b"c" * 300)
        except enginelib.DiskFull:
            break
    else:
        pytest.fail("the disk was not full")
    txn.abort()
    vfs.set_room(1 << 30)
    with db.core_transaction(CoreTransaction) as txn:
        assert list(txn.scan(table)) == [(b"%05d" % i, b"a" * 300) for i in range(rows)]
    assert db.verify()[0] == []
    db.close()
