"""The promise where things fail: a full disk, a log that cannot be synced, an interrupt; and waits for who is in doubt."""

import errno
import signal
import threading
import time

import pytest
from enginelib._native.base.faultvfs import FaultVfs

import enginelib
from enginelib import DiskFull, LockTimeout, LogWriteError, OutcomeUnknown, SerializationFailure

OPTIONS = {"page_size": 4096, "cache_size": 1 << 20, "segment_size": 1 << 20, "log_buffer": 64 << 10, "lock_timeout": 0.0}


class Disk:
    """A database on a file system that fails when it is told to."""

    def __init__(self, tree):
        self.vfs = FaultVfs()
        self.open()
        self.db.keyspace("k", **tree).put(b"a", b"0")
        self.db.transaction().prepare("first")  # the keyspace of outcomes is there
        self.db.rollback_prepared("first")

    def open(self):
        self.db = enginelib.Database("/db", vfs=self.vfs, background=False, **OPTIONS)

    def prepared(self, value=b"1", xid="x"):
        txn = self.db.transaction()
        txn.put(self.db["k"], b"a", value)
        txn.prepare(xid)
        return txn

    def again(self, mode="lost"):
        """What a crash leaves: of what was not synced nothing, or (mode "kill") all of it."""
        self.vfs.clear_injections()
        left = self.vfs.crash_image(self.vfs.mutations, 1, mode)
        self.db.abandon()
        self.vfs = left
        self.open()
        return self.db


@pytest.fixture
def disk(tree):
    disk = Disk(tree)
    yield disk
    disk.db.abandon()


def content(db):
    return dict(db["k"].scan())


def test_a_log_that_fails_at_prepare_leaves_the_outcome_open(disk):
    txn = disk.db.transaction()
    txn.put(disk.db["k"], b"a", b"1")
    disk.vfs.inject(1, errno.EIO)  # the write, then the sync
    with pytest.raises(OutcomeUnknown):
        txn.prepare("x")
    assert txn.state == "prepared" and content(disk.db) == {b"a": b"0"}
    for act in (disk.db.commit_prepared, disk.db.rollback_prepared):
        with pytest.raises(LogWriteError):
            act("x")
    txn.abort()
    db = disk.again()
    assert db.prepared() == [] and content(db) == {b"a": b"0"}
    db["k"].put(b"a", b"2")


@pytest.mark.parametrize("commits", [True, False])
def test_a_log_that_fails_at_the_end_leaves_it_in_doubt(disk, commits):
    disk.prepared()
    disk.vfs.inject(1, errno.EIO)
    with pytest.raises(OutcomeUnknown):
        disk.db.commit_prepared("x") if commits else disk.db.rollback_prepared("x")
    db = disk.again()
    assert [each.xid for each in db.prepared()] == ["x"] and content(db) == {b"a": b"0"}
    db.commit_prepared("x")
    assert content(db) == {b"a": b"1"}


def test_a_log_that_has_failed_ends_nothing(disk):
    """A rollback used to be acknowledged then: in memory alone, so that the transaction was back after the next opening."""
    disk.prepared()
    other = disk.db.transaction()
    other.put(disk.db["k"], b"b", b"1")
    disk.vfs.inject(1, errno.EIO)
    with pytest.raises(OutcomeUnknown):
        other.commit()
    for act in (disk.db.commit_prepared, disk.db.rollback_prepared):
        with pytest.raises(LogWriteError):
            act("x")
    assert [each.xid for each in disk.db.prepared()] == ["x"]
    with pytest.raises((LockTimeout, LogWriteError)), disk.db.transaction() as txn:
        txn.put(disk.db["k"], b"a", b"2")
    db = disk.again()
    assert [each.xid for each in db.prepared()] == ["x"]
    db.rollback_prepared("x")
    assert content(db) == {b"a": b"0"}


def fill(disk):
    """A transaction that has used up the room that the log had, and then the disk."""
    disk.vfs.set_room(0)
    txn = disk.db.transaction()
    with pytest.raises(DiskFull):
        for i in range(100_000):
            txn.put(disk.db["k"], b"full %05d" % i, b"v" * 700)
    return txn


def test_a_full_disk_at_prepare_leaves_the_transaction_as_it_was(disk):
    ks = disk.db["k"]
    txn = disk.db.transaction()
    txn.put(ks, b"a", b"1")
    for i in range(6000):  # 1.2 MB of locks, which the log has to hold with the promise: more than a segment
        txn.get_for_update(ks, b"%0200d" % i)
    full = fill(disk)
    with pytest.raises(DiskFull):
        txn.prepare("x")
    assert txn.state == "active" and txn.get(ks, b"a") == b"1" and disk.db.prepared() == []
    full.abort()
    disk.vfs.set_room(-1)
    txn.prepare("y")
    assert disk.again().prepared()[0].locks == 6000
    disk.db.commit_prepared("y")
    assert content(disk.db) == {b"a": b"1"} and [row[0] for row in disk.db.outcomes()] == ["y"]


@pytest.mark.parametrize("reopen", ["no", "close", "lost"])
@pytest.mark.parametrize("commits", [True, False])
def test_what_is_prepared_ends_on_a_full_disk(disk, commits, reopen):
    """The room for its end was kept when it was prepared, and is kept again by each opening."""
    disk.prepared()
    if reopen == "close":
        disk.db.close()
        disk.open()
    elif reopen == "lost":
        disk.again()
    full = fill(disk)
    disk.db.commit_prepared("x") if commits else disk.db.rollback_prepared("x")
    assert disk.db.prepared() == []
    full.abort()
    assert disk.db["k"].get(b"a") == (b"1" if commits else b"0")
    db = disk.again()
    assert db.prepared() == [] and db["k"].get(b"a") == (b"1" if commits else b"0")


@pytest.mark.parametrize("mode", ["stay", "lost"])
def test_a_rollback_that_finds_the_disk_full_is_finished_later(mode):
    """What is larger than the cache has pages to be written before all of it is undone."""
    disk = Disk({"backend": "btree"})
    old = {b"%05d" % i: b"o" * 600 for i in range(4000)}
    disk.db["k"].update(old)
    txn = disk.db.transaction()
    txn.put_many(disk.db["k"], [(key, b"n" * 600) for key in old])
    txn.prepare("x")
    full = fill(disk)
    with pytest.raises(DiskFull):
        disk.db.rollback_prepared("x")
    assert [each.xid for each in disk.db.prepared()] == ["x"]
    with pytest.raises(enginelib.UsageError, match="rolled back"):
        disk.db.commit_prepared("x")
    if mode == "stay":
        disk.vfs.set_room(-1)
        full.abort()
        disk.db.rollback_prepared("x")
    else:
        disk.again()
        disk.db.rollback_prepared("x")
    assert disk.db.prepared() == [] and content(disk.db) == {b"a": b"0", **old}
    disk.db.abandon()


def test_waits_for_who_is_in_doubt_end_by_lock_timeout(db, tree):
    """No deadlock is found through it, for it waits for nobody; those who wait for each other beside it are told."""
    ks = db.keyspace("k", **tree)
    ks.put_many([(b"a", b"0"), (b"b", b"0")])
    txn = db.transaction(isolation="locking")
    txn.put(ks, b"a", b"1")
    txn.prepare("x")
    ends = []

    def work(first, second):
        try:
            with db.transaction(isolation="locking", lock_timeout=0.3) as mine:
                mine.put(ks, first, b"2")
                mine.put(ks, second, b"2")
        except enginelib.TransactionAborted as error:
            ends.append(type(error))

    threads = [threading.Thread(target=work, args=keys) for keys in ((b"b", b"a"), (b"a", b"b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ends) == 2 and set(ends) <= {LockTimeout, enginelib.DeadlockDetected}
    db.commit_prepared("x")
    assert ks.get(b"a") == b"1" and ks.get(b"b") == b"0"


def test_a_wait_for_who_is_in_doubt_can_be_interrupted(db, tree):
    ks = db.keyspace("k", **tree)
    txn = db.transaction()
    txn.put(ks, b"a", b"1")
    txn.prepare("x")

    def interrupt():
        deadline = time.monotonic() + 30
        while not db.prepared()[0].waiters and time.monotonic() < deadline:
            time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), db.transaction(lock_timeout=60) as other:
        other.put(ks, b"a", b"2")
    thread.join()
    db.rollback_prepared("x")
    ks.put(b"a", b"3")


def test_an_interrupted_prepare_leaves_no_trace(db, tree):
    """The same xid is in doubt in its keyspace of outcomes: prepare waits for its row, and is interrupted."""
    ks = db.keyspace("k", **tree)
    db.transaction().prepare("before")
    db.rollback_prepared("before")
    holder = db.transaction()
    holder.get_for_update(db.outcomes_keyspace, b"x")
    txn = db.transaction(lock_timeout=60)
    txn.put(ks, b"a", b"1")

    def interrupt():
        deadline = time.monotonic() + 30
        while not db.waits_for() and time.monotonic() < deadline:
            time.sleep(0.001)
        signal.raise_signal(signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        txn.prepare("x")
    thread.join()
    holder.abort()
    assert txn.state == "active" and db.prepared() == []
    txn.commit()
    assert ks.get(b"a") == b"1" and db.outcomes() == []


def test_many_threads_prepare_for_the_first_time(tmp_path):
    """They used to meet a conflict over the keyspace of outcomes, which the first of them makes."""
    for turn in range(10):
        with enginelib.open(tmp_path / str(turn), durability="os") as db:
            ks = db.keyspace("k")
            barrier, failures = threading.Barrier(6), []

            def work(i, db=db, ks=ks, barrier=barrier, failures=failures):
                try:
                    txn = db.transaction()
                    txn.put(ks, b"%d" % i, b"1")
                    barrier.wait()
                    txn.prepare(f"{i}")
                    db.commit_prepared(f"{i}")
                except BaseException as error:
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not failures and len(ks) == 6


def test_deferrable_readers_wait_only_for_who_may_make_them_unsafe(place, tree):
    db = place.db
    ks = db.keyspace("k", **tree)
    ks.put_many([(b"a", b"0"), (b"b", b"0")])
    harmless = db.transaction(isolation="serializable")
    harmless.get(ks, b"a")
    harmless.put(ks, b"c", b"1")
    harmless.prepare("harmless")
    with db.transaction(isolation="serializable", read_only=True, deferrable=True) as reader:
        assert reader.safe and reader.get(ks, b"c") is None
    # It has read what a committed transaction has replaced since: who reads after that and before its commit sees an impossible state.
    pivot = db.transaction(isolation="serializable")
    pivot.get(ks, b"b")
    pivot.put(ks, b"d", b"1")
    with db.transaction(isolation="serializable") as other:
        other.put(ks, b"b", b"1")
    pivot.prepare("pivot")
    began = threading.Event()
    seen = []

    def read():
        began.set()
        with db.transaction(isolation="serializable", read_only=True, deferrable=True) as reader:
            seen.append((reader.get(ks, b"b"), reader.get(ks, b"d")))

    thread = threading.Thread(target=read)
    thread.start()
    began.wait()
    thread.join(0.2)
    assert thread.is_alive() and not seen
    db.commit_prepared("pivot")
    thread.join(30)
    assert seen == [(b"1", b"1")]
    db.rollback_prepared("harmless")


@pytest.mark.parametrize("first", ["reader", "pivot"])
def test_no_dangerous_structure_is_in_doubt_whole(db, tree, first):
    """reader -> pivot -> last, by what they read: prepared one after another they could all commit; one is refused."""
    ks = db.keyspace("k", **tree)
    ks.put_many([(b"a", b"0"), (b"b", b"0"), (b"c", b"0")])
    reader, pivot, last = (db.transaction(isolation="serializable") for _ in range(3))
    reader.get(ks, b"a")
    pivot.put(ks, b"a", b"1")
    pivot.get(ks, b"b")
    last.put(ks, b"b", b"1")
    last.get(ks, b"c")
    reader.put(ks, b"c", b"1")
    order = [reader, pivot, last] if first == "reader" else [pivot, last, reader]
    refused = []
    for i, txn in enumerate(order):
        try:
            txn.prepare(f"{i}")
        except SerializationFailure:
            refused.append(i)
            txn.abort()
    assert refused
    for i in range(3):
        if i not in refused:
            db.commit_prepared(f"{i}")
