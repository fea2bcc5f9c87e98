"""The laws of the architecture that crashes and failing media can break, each as a claim."""

import errno
import itertools
import random
import threading

import pytest
from _history import LAZY, OS, SYNC, content
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreDatabase, CoreKeyspace, CoreTransaction

from enginelib import errors

SMALL = {
    "page_size": 4096,
    "cache_size": 65536,
    "segment_size": 16384,
    "log_buffer": 512,
    "checkpoint_bytes": 1 << 40,
    "version_budget": 1 << 24,
    "transaction_budget": 1 << 24,
    "durability": SYNC,
    "lazy_interval": 0.1,
    "background": False,
}


def opened(vfs, **options):
    return CoreDatabase("/db", vfs=vfs, **{**SMALL, "lock_timeout": 0.0, **options})


def shown(vfs, **options):
    """What a database shows that is opened on these files, which are then as they are."""
    db = opened(vfs, **options)
    try:
        findings, _ = db.verify()
        assert not findings
        return content(db)
    finally:
        db.abandon()


def after(vfs, mode, seed=0, cut=None):
    return vfs.crash_image(vfs.mutations if cut is None else cut, seed, mode)


@pytest.fixture
def vfs():
    return FaultVfs()


@pytest.fixture
def db(vfs):
    database = opened(vfs)
    yield database
    database.abandon()


@pytest.fixture(params=["btree", "lsm"])
def table(db, request):
    if request.param == "btree":
        return db.core_keyspace(CoreKeyspace, "table")
    return db.core_keyspace(CoreKeyspace, "table", True, "lsm", {"memtable_size": 64 << 10, "table_size": 64 << 10})


def begin(db, durability=SYNC):
    return db.core_transaction(CoreTransaction, False, durability)


def put(db, table, key, value, durability=SYNC):
    with begin(db, durability) as txn:
        txn.put(table, key, value)


def fill_disk(db, vfs, table):
    """Puts in one transaction until the disk is full; the transaction, and what it has put."""
    vfs.set_room(0)
    txn = begin(db)
    done = {}
    with pytest.raises(errors.DiskFull):
        for i in itertools.count():
            key, value = b"full %05d" % i, bytes([i & 255]) * 700
            txn.put(table, key, value)
            done[key] = value
    return txn, done


# ---- 2. Admission, then no failure


def test_law_2_an_operation_that_finds_the_disk_full_leaves_its_transaction_as_it_was(db, vfs, table):
    txn, done = fill_disk(db, vfs, table)
    assert done
    assert dict(txn.scan(table)) == done
    vfs.set_room(-1)
    txn.commit()
    assert content(db)["table"] == done
    assert shown(after(vfs, "lost"))["table"] == done


def test_law_2_a_transaction_can_be_rolled_back_on_a_full_disk_and_work_goes_on(db, vfs, table):
    before = {b"old %d" % i: b"before" * 100 for i in range(40)}
    with begin(db) as txn:
        txn.put_many(table, before.items())
    txn, _ = fill_disk(db, vfs, table)
    txn.abort()
    assert content(db)["table"] == before
    vfs.set_room(-1)
    put(db, table, b"new", b"work")
    assert shown(after(vfs, "lost"))["table"] == {**before, b"new": b"work"}


@pytest.mark.parametrize("table", ["btree"], indirect=True)  # an LSM-tree's goes to the log alone, like everything
def test_law_2_a_large_value_that_finds_the_disk_full_leaves_nothing_behind(db, vfs, table):
    put(db, table, b"large", b"1" * 5000)
    vfs.set_room(1000)
    txn = begin(db)
    with pytest.raises(errors.DiskFull):
        txn.put(table, b"large", b"2" * 9000)
    assert txn.get(table, b"large") == b"1" * 5000
    txn.abort()
    vfs.set_room(-1)
    db.checkpoint()
    assert shown(after(vfs, "lost"))["table"] == {b"large": b"1" * 5000}


# ---- 5. Torn tails and corruption


def test_law_5_a_torn_tail_is_dropped_whole(db, vfs, table):
    for i in range(3):
        put(db, table, b"%d" % i, b"kept")
    with begin(db) as txn:
        txn.put_many(table, [(b"torn %d" % i, bytes([i]) * 300) for i in range(8)])
    cut = vfs.mutations - 1  # all is written, the sync has not been done
    seen = set()
    for seed in range(60):
        found = shown(after(vfs, "power", seed, cut))["table"]
        assert [found[b"%d" % i] for i in range(3)] == [b"kept"] * 3
        assert len(found) in (3, 11)
        seen.add(len(found))
    assert seen == {3, 11}


def test_law_5_damage_below_what_was_known_synced_is_corruption(db, vfs, table):
    start = db.stats()["log"]["end_lsn"]
    for i in range(4):
        put(db, table, b"%d" % i, b"value")
    image = after(vfs, "lost")
    path = max(p for p in image.files() if p.endswith(".wal") and int(p[-20:-4], 16) <= start)
    image.corrupt(path, start - int(path[-20:-4], 16) + 40, 1)
    with pytest.raises(errors.CorruptionError) as caught:
        opened(image)
    assert "log" in caught.value.file


def test_law_5_a_dead_record_never_comes_back(db, vfs, table):
    put(db, table, b"a", b"1")
    with begin(db) as txn:
        txn.put_many(table, [(b"dead %d" % i, b"dead" * 40) for i in range(12)])
    cut = vfs.mutations - 1
    for seed in range(25):
        image = after(vfs, "power", seed, cut)
        second = opened(image)
        state = content(second)["table"]
        put(second, second.core_keyspace(CoreKeyspace, "table"), b"b", b"2")
        second.abandon()
        again = shown(after(image, "lost"))["table"]
        assert again == {**state, b"b": b"2"}


def test_law_5_every_recovery_raises_the_incarnation_and_no_lsn_is_used_twice(vfs):
    incarnation, end = 0, 0
    for _ in range(4):
        db = opened(vfs)
        log = db.stats()["log"]
        assert log["incarnation"] > incarnation
        assert log["end_lsn"] > end
        put(db, db.core_keyspace(CoreKeyspace, "table"), b"k", b"v")
        incarnation, end = log["incarnation"], db.stats()["log"]["end_lsn"]
        db.abandon()


# ---- 6. Order of syncs


def changes(vfs, start=0):
    """The calls that change something or sync: [(name, path, offset)]"""
    names = ("write", "write_tail", "sync", "rename", "unlink", "sync_dir", "mkdir", "truncate", "reserve")
    return [(c[0], c[1], c[2]) for c in vfs.trace() if c[0] in names and c[4] == 0 and c[5] >= start]


def is_superblock(call):
    return call[0] == "write" and "/pages." in call[1] and call[2] in (0, 4096)


def test_law_6_pages_and_log_are_synced_before_a_superblock_names_them_and_it_before_anything_is_let_go(db, vfs, table):
    start = vfs.mutations
    for i in range(60):
        put(db, table, b"%d" % i, b"x" * 700, (LAZY, OS, SYNC)[i % 3])
        if i % 20 == 19:
            db.checkpoint()
    calls = changes(vfs, start)
    dirty = set()
    switched = False
    superblocks = 0
    for name, path, offset in calls:
        if is_superblock((name, path, offset)):
            assert not dirty, f"unsynced when the superblock was written: {dirty}"
            superblocks += 1
            switched = True
            dirty.add(path)
        elif name in ("write", "write_tail"):
            dirty.add(path)
        elif name == "sync":
            dirty.discard(path)
            if "/pages." in path:
                switched = False
        elif name in ("rename", "unlink"):
            assert not switched, "a log segment was let go before the superblock was durable"
    assert superblocks >= 3


def test_law_6_a_segment_is_synced_before_the_next_one_is(db, vfs, table):
    """An os load may begin the next segment with nothing synced; a sync never reaches it before what lies behind."""
    for i in range(240):
        put(db, table, b"%d" % (i % 9), b"y" * 800, SYNC if i % 50 == 49 else OS)
    dirty, synced = set(), set()
    for name, path, _offset in changes(vfs):
        if not path.endswith(".wal") or "spare" in path:
            continue
        if name in ("write", "write_tail"):
            dirty.add(path)
        elif name == "sync":
            dirty.discard(path)
            behind = {other for other in dirty if other < path}
            assert not behind, f"{path} was synced before {behind}"
            synced.add(path)
    assert len(synced) >= 4


def test_law_6_a_directory_is_synced_before_what_was_renamed_or_made_in_it_is_used(db, vfs, table):
    for i in range(120):
        put(db, table, b"%d" % (i % 9), b"z" * 800)
        if i % 40 == 39:
            db.checkpoint()
    calls = changes(vfs)
    renames = 0
    for call, following in itertools.pairwise(calls):
        if call[0] == "rename":
            renames += 1
            assert following[:2] == ("sync_dir", call[1].rsplit("/", 1)[0]), f"{call} is followed by {following}"
    assert renames >= 4
    assert ("sync_dir", "/", -1) in calls[: calls.index(("mkdir", "/db/log", -1)) + 4]


def test_law_6_after_a_kill_the_tail_is_made_durable_before_anything_is_answered(db, vfs, table):
    for i in range(5):
        put(db, table, b"%d" % i, b"os only", OS)
    image = after(vfs, "kill")
    assert "table" not in shown(after(image, "lost")) or len(shown(after(image, "lost"))["table"]) < 5
    second = opened(image)
    answered = content(second)
    assert len(answered["table"]) == 5
    second.abandon()
    assert shown(after(image, "lost")) == answered


# ---- 7. A failed sync is final


@pytest.mark.parametrize("call", ["write", "sync"])
def test_law_7_after_a_failed_write_or_sync_of_the_log_writes_are_refused_until_reopened(db, vfs, table, call):
    put(db, table, b"a", b"before")
    txn = begin(db)
    txn.put(table, b"a", b"in doubt")
    vfs.inject(0 if call == "write" else 1, errno.EIO)
    with pytest.raises(errors.OutcomeUnknown):
        txn.commit()
    assert txn.state == "unknown"
    with pytest.raises(errors.LogWriteError):
        put(db, table, b"b", b"refused")
    assert content(db)["table"] == {b"a": b"before"}
    db.abandon()
    for mode in ("kill", "lost", "power"):
        assert shown(after(vfs, mode))["table"][b"a"] in (b"before", b"in doubt")
    again = opened(vfs)
    put(again, again.core_keyspace(CoreKeyspace, "table"), b"b", b"taken")
    again.close()


def test_law_7_a_failed_sync_of_the_page_file_is_final_too(db, vfs, table):
    put(db, table, b"a", b"1")
    calls = [c[0] + " " + c[1] for c in trace_of_checkpoint(vfs, db)]
    number = next(i for i, c in enumerate(calls) if c.startswith("sync /db/pages."))
    put(db, table, b"a", b"2")
    vfs.inject(number, errno.EIO)
    with pytest.raises(errors.StorageError):
        db.step("checkpoint")
    with pytest.raises(errors.LogWriteError):
        put(db, table, b"a", b"3")
    assert shown(after(vfs, "lost"))["table"] == {b"a": b"2"}


def trace_of_checkpoint(vfs, db):
    start = len(vfs.trace())
    db.step("checkpoint")
    return vfs.trace()[start:]


def test_law_7_a_full_disk_is_not_final(db, vfs, table):
    txn, _ = fill_disk(db, vfs, table)
    txn.abort()
    with pytest.raises(errors.DiskFull):
        for _ in range(40):
            put(db, table, b"k", b"v" * 900)
    vfs.set_room(-1)
    put(db, table, b"k", b"room again")
    assert db.stats()["log"]["failed"] is False
    assert shown(after(vfs, "lost"))["table"] == {b"k": b"room again"}


# ---- 8. Commit, in log order


def test_law_8_a_commit_survives_what_its_durability_promises_from_the_moment_it_returns(db, vfs, table):
    rng = random.Random(8)
    model, cases = {}, []
    for i in range(40):
        durability = rng.choice((LAZY, OS, SYNC))
        put(db, table, b"%d" % (i % 7), b"%d" % i, durability)
        model[b"%d" % (i % 7)] = b"%d" % i
        cases.append((vfs.mutations, durability, dict(model)))
    for cut, durability, state in cases:
        if durability == SYNC:
            assert shown(after(vfs, "lost", 0, cut))["table"] == state
        if durability >= OS:
            assert shown(after(vfs, "kill", 0, cut))["table"] == state


def test_law_8_a_sync_commit_makes_every_commit_before_it_durable(db, vfs, table):
    for i in range(6):
        put(db, table, b"lazy %d" % i, b"", LAZY)
    put(db, table, b"sync", b"")
    assert len(shown(after(vfs, "lost"))["table"]) == 7


def test_law_8_what_a_sync_database_shows_can_no_longer_be_lost(vfs):
    db = opened(vfs, lock_timeout=5.0)
    table = db.core_keyspace(CoreKeyspace, "table")
    for i in range(3):
        put(db, table, b"%d" % i, b"0")
    seen = []
    stop = threading.Event()

    def writer(number):
        for i in range(1, 60):
            put(db, table, b"%d" % number, b"%d" % i)

    def reader():
        while not stop.is_set():
            state = content(db)["table"]
            seen.append((vfs.mutations, state))

    threads = [threading.Thread(target=writer, args=(i,)) for i in range(3)]
    watcher = threading.Thread(target=reader)
    for thread in (*threads, watcher):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    db.abandon()
    for cut, state in seen[:: max(1, len(seen) // 60)]:
        durable = shown(after(vfs, "lost", 0, cut))["table"]
        assert all(int(durable[key]) >= int(value) for key, value in state.items())


def test_law_8_commits_survive_in_commit_order(db, vfs, table):
    for i in range(30):
        put(db, table, b"counter", b"%d" % i, (LAZY, LAZY, OS)[i % 3])
        put(db, table, b"row %02d" % i, b"", LAZY)
    for cut in range(0, vfs.mutations, 3):
        for seed in range(3):
            found = shown(after(vfs, "power", seed, cut)).get("table", {})
            rows = sum(key.startswith(b"row") for key in found)
            assert rows in (int(found.get(b"counter", b"-1")), int(found.get(b"counter", b"-1")) + 1)


def test_law_8_a_commit_that_is_done_says_so_though_the_catalogue_cannot_be_read_again(vfs):
    """The names that log segments open with were renewed after the commit: an error in that looked like a refused commit."""
    db = opened(vfs)
    table = db.core_keyspace(CoreKeyspace, "table")
    for start in range(0, 300, 30):
        with begin(db) as txn:
            txn.put_many(table, [(b"%05d" % i, b"v" * 500) for i in range(start, start + 30)])
    db.checkpoint()
    txn = begin(db, LAZY)
    txn.create_keyspace(CoreKeyspace, "made")
    db.checkpoint()
    for reverse in (False, True):
        assert len(list(txn.scan(table, reverse=reverse))) == 300  # the catalogue leaves the cache
    vfs.inject(0, errno.EIO, sticky=True)
    calls = vfs.calls
    txn.commit()
    assert txn.state == "committed"
    assert any(c[0] == "read" and c[4] for c in vfs.trace()[calls:])  # else the failure did not strike
    vfs.clear_injections()
    put(db, table, b"k", b"v")
    assert "made" in content(db)
    db.abandon()
    assert "made" in shown(after(vfs, "lost"))


# ---- 9. Ends are logged before locks go


def records(db):
    return [(r["type"], r.get("txn"), r.get("key")) for r in db.log_records()]


@pytest.mark.parametrize("end", ["commit", "abort", "rollback"])
def test_law_9_the_end_of_a_change_is_logged_before_another_may_change_the_key(db, table, end):
    first, second = begin(db), begin(db)
    first.put(table, b"other", b"")
    depth = first.save()
    first.put(table, b"key", b"1")
    with pytest.raises(errors.LockTimeout):
        second.put(table, b"key", b"2")
    if end == "rollback":
        first.rollback_to(depth)
    else:
        getattr(first, end)()
    if end == "commit":
        second.abort()
        second = begin(db)
    second.put(table, b"key", b"2")
    second.commit()
    db.sync()
    found = records(db)
    mine = [i for i, r in enumerate(found) if r[0] == end and r[1] == first.id]
    theirs = [i for i, r in enumerate(found) if r[1] == second.id and r[2] == b"key"]
    assert mine and theirs and mine[0] < theirs[0]


def test_law_9_the_losers_of_a_crash_are_aborted_in_the_log_before_new_work(db, vfs, table):
    loser = begin(db)
    loser.put(table, b"key", b"lost")
    db.sync()
    second = opened(after(vfs, "kill"))
    put(second, second.core_keyspace(CoreKeyspace, "table"), b"key", b"new")
    found = records(second)
    aborts = [i for i, r in enumerate(found) if r[:2] == ("abort", loser.id)]
    work = [i for i, r in enumerate(found) if r[0] == "put" and r[2] == b"key" and r[1] != loser.id]
    assert aborts and work and aborts[0] < work[0]
    second.abandon()


def test_law_9_a_transaction_in_flight_at_a_checkpoint_is_undone_after_a_crash(db, vfs, table):
    before = {b"%d" % i: b"before" * 30 for i in range(20)}
    with begin(db) as txn:
        txn.put_many(table, before.items())
    loser = begin(db)
    loser.delete_range(table, b"0", b"5")
    depth = loser.save()
    loser.put_many(table, [(b"%d" % i, b"during" * 40) for i in range(10, 30)])
    loser.rollback_to(depth)
    loser.put(table, b"19", b"once more")
    db.checkpoint()
    loser.put(table, b"1", b"after the checkpoint")
    db.sync()
    for mode in ("kill", "lost", "power"):
        assert shown(after(vfs, mode))["table"] == before


def test_law_9_a_rename_that_was_undone_leaves_the_keyspace_alone(db, vfs, table):
    """The tree stayed marked as dropped by the transaction that had ended; the next checkpoint then dropped it."""
    put(db, table, b"k", b"v")
    txn = begin(db)
    txn.rename_keyspace("table", "other")
    txn.abort()
    db.checkpoint()
    put(db, table, b"l", b"w")
    assert shown(after(vfs, "lost")) == {"table": {b"k": b"v", b"l": b"w"}}


# ---- 10. Recovery is the normal path


def test_law_10_recovery_can_crash_anywhere_and_be_run_again(db, vfs, table):
    for i in range(30):
        put(db, table, b"%d" % (i % 11), bytes([i]) * (40 * i))
    loser = begin(db)
    loser.put(table, b"3", b"never" * 500)
    db.checkpoint()
    loser.put(table, b"4", b"never")
    put(db, table, b"5", b"last")
    image = after(vfs, "lost")
    first = opened(image)
    expected = content(first)
    first.abandon()
    for cut in range(image.mutations + 1):
        for mode, seed in (("kill", 0), ("lost", 0), ("power", 1), ("power", 2)):
            assert shown(after(image, mode, seed, cut)) == expected


def test_law_10_a_read_only_opening_recovers_in_memory_and_changes_nothing(db, vfs, table):
    for i in range(30):
        put(db, table, b"%d" % i, bytes([i]) * (100 * i))
    loser = begin(db)
    loser.put(table, b"3", b"never")
    db.sync()
    image = after(vfs, "kill")
    reader = opened(image, read_only=True)
    state = content(reader)
    with pytest.raises(errors.ReadOnlyError):
        put(reader, reader.core_keyspace(CoreKeyspace, "table", False), b"a", b"b")
    reader.abandon()
    assert image.mutations == 0
    assert state == {"table": {b"%d" % i: bytes([i]) * (100 * i) for i in range(30)}}


# ---- what campaigns have found


def test_a_large_value_whose_record_never_came_does_not_stop_recovery(db, vfs, table):
    """Giving the value up took the latch that its caller held."""
    cut = vfs.mutations
    with begin(db) as txn:
        txn.put(table, b"large", b"x" * 12000)
        txn.put(table, b"larger", b"y" * 15000)
    for at in range(cut, vfs.mutations + 1):
        for seed in range(4):
            assert shown(after(vfs, "power", seed, at)).get("table", {}).keys() in ({}, {b"large", b"larger"}, set())


def test_a_scan_gets_across_more_pages_without_a_visible_record_than_the_cache_holds(db, vfs, table):
    """It began anew at the start of its range whenever a page had to be fetched."""
    old = db.core_transaction(CoreTransaction, True)
    for start in range(0, 600, 60):
        with begin(db) as txn:
            txn.put_many(table, [(b"%05d" % i, b"v" * 500) for i in range(start, start + 60)])
    assert db.stats()["cache"]["frames"] < 60
    assert list(old.scan(table)) == []
    assert list(old.scan(table, reverse=True)) == []
    assert len(list(db.core_transaction(CoreTransaction, True).scan(table))) == 600


def test_a_renaming_that_fails_half_way_does_not_drop_the_keyspace(db, vfs, table):
    """Its old row was gone and its new one not there: a commit after the error dropped the keyspace."""
    put(db, table, b"k", b"v")
    txn = begin(db)
    txn.put_many(table, [(b"%d" % i, b"x" * 300) for i in range(47)])
    vfs.set_room(0)
    for i in range(200):
        try:
            txn.rename_keyspace("table", str(i) * 60)
            txn.rename_keyspace(str(i) * 60, "table")
        except errors.DiskFull:
            break
    else:
        pytest.fail("the disk never got full")
    vfs.set_room(-1)
    try:
        txn.commit()
    except errors.Error:
        txn.abort()
    names = [name for name, _, _ in db.keyspace_rows()]
    assert len(names) == 1
    assert content(db)[names[0]][b"k"] == b"v"


def test_a_delete_range_that_meets_a_lock_deletes_nothing(db, table):
    put(db, table, b"1", b"")
    put(db, table, b"2", b"")
    other = begin(db)
    other.put(table, b"2", b"locked")
    txn = begin(db)
    with pytest.raises(errors.LockTimeout):
        txn.delete_range(table, None, None)
    assert [key for key, _ in txn.scan(table)] == [b"1", b"2"]


def test_a_row_lock_survives_the_rollback_to_a_later_savepoint(db, table):
    put(db, table, b"k", b"v")
    txn = begin(db)
    txn.get_for_update(table, b"k")
    depth = txn.save()
    txn.put(table, b"other", b"")
    txn.rollback_to(depth)
    with pytest.raises(errors.LockTimeout):
        put(db, table, b"k", b"w")
    txn.abort()


def test_verify_knows_of_large_values_that_recovery_gave_up(db, vfs, table):
    """They were reported as pages without a reference until their part of the page map was next changed."""
    put(db, table, b"large", b"1" * 9000)
    old = db.core_transaction(CoreTransaction, True)
    put(db, table, b"large", b"2" * 9000)
    db.checkpoint()
    put(db, table, b"small", b"after the checkpoint")
    assert old.get(table, b"large") == b"1" * 9000
    for mode in ("kill", "lost"):
        assert shown(after(vfs, mode))["table"] == {b"large": b"2" * 9000, b"small": b"after the checkpoint"}
