"""Bugs of transactions and scans that were found and mended; each docstring names one."""

import subprocess
import sys
import textwrap
import threading
import time

import pytest

import enginelib


def blocked(txn):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            txn.save()
        except enginelib.ThreadError:
            return
        time.sleep(0.0005)
    raise AssertionError("nobody waits in the transaction")


def start(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def test_a_rollback_to_a_savepoint_keeps_a_row_locked_before_it(db, ks):
    """A row locked by get_for_update, with nothing logged between, counted as locked after the savepoint: its rollback
    let the row go."""
    ks[b"k"] = b"0"
    for change in (False, True):
        with db.transaction() as txn:
            txn.get_for_update(ks, b"k")
            with txn.savepoint() as mark:
                txn.put(ks, b"z", b"1")
                if change:
                    txn.put(ks, b"k", b"changed")
                mark.rollback()
            with db.transaction(lock_timeout=0) as other, pytest.raises(enginelib.LockTimeout):
                other.put(ks, b"k", b"stolen")
            assert txn.get(ks, b"k") == b"0"


def test_a_waiting_put_of_a_large_value_leaves_the_versions_of_others_alone(db, ks):
    """`Keyspace.put` of a large value took an infinite timestamp for its snapshot while it stood in the list of
    snapshots: once it was the oldest, versions that younger snapshots needed were freed."""
    ks.update({b"k": b"0", b"x": b"old"})
    holder = db.transaction()
    holder.put(ks, b"k", b"1")
    thread = start(ks.put, b"k", b"B" * 3_000_000)
    deadline = time.monotonic() + 10
    while db.stats()["transactions"]["snapshots"] < 1 and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(0.02)
    reader = db.transaction(read_only=True)
    ks[b"x"] = b"new"
    holder.commit()
    for n in range(50):
        ks[b"y"] = b"%d" % n
        assert reader.get(ks, b"x") == b"old"
    thread.join(10)
    assert reader.get(ks, b"x") == b"old" and ks[b"k"] == b"B" * 3_000_000
    reader.abort()


def test_each_wait_has_the_whole_lock_timeout(db, ks):
    """The deadline of a wait inside put_many, or of one that ended in LockTimeout, stayed set and cut the next wait
    of the transaction short."""
    holders = [db.transaction() for _ in range(2)]
    for number, holder in enumerate(holders):
        holder.put(ks, b"%d" % number, b"held")
    txn = db.transaction(lock_timeout=0.4)
    thread = start(txn.put_many, ks, [(b"0", b"mine")])
    blocked(txn)
    holders[0].abort()
    thread.join(10)
    time.sleep(0.4)
    thread = start(txn.put, ks, b"1", b"mine")
    blocked(txn)
    holders[1].abort()
    thread.join(10)
    assert txn.get_many(ks, [b"0", b"1"]) == [b"mine", b"mine"]
    txn.abort()
    holder = db.transaction()
    holder.put(ks, b"2", b"held")
    txn = db.transaction(lock_timeout=0.1)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(enginelib.LockTimeout):
            txn.put(ks, b"2", b"mine")
        assert time.monotonic() - began > 0.09
    txn.abort()
    holder.abort()


def test_a_scan_whose_last_row_was_given_sees_own_inserts_behind_it(db, ks):
    """Once the last row fetched had been given out, a scan took the range for finished although its own transaction had
    inserted ahead."""
    with db.transaction() as txn:
        txn.put(ks, b"1", b"")
        seen = []
        for key in txn.scan(ks, values=False):
            seen.append(key)
            if len(seen) < 5:
                txn.put(ks, b"%d" % (len(seen) + 1), b"")
        assert seen == [b"1", b"2", b"3", b"4", b"5"]


def test_a_row_released_just_before_it_is_waited_for_is_had_at_once(db, ks):
    """Between meeting a row lock and waiting for it the latch is let go; a holder that ended in between woke nobody, and
    the waiter slept out its slice of 50 ms (or waited for whoever had got the holder's structure)."""
    waits = []
    for _ in range(30):
        holder, waiter = db.transaction(), db.transaction()
        holder.put(ks, b"k", b"1")
        ended = []

        def write(waiter=waiter, ended=ended):
            waiter.put(ks, b"k", b"2")
            ended.append(time.monotonic())

        thread = start(write)
        blocked(waiter)
        released = time.monotonic()
        holder.abort()
        thread.join(10)
        waits.append(ended[0] - released)
        waiter.abort()
    assert sorted(waits)[20] < 0.04, waits


def run(text):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


def test_an_iterable_that_ends_the_transaction_it_is_put_by():
    """put_many looked at its transaction before it took its argument apart: code run by that could end the transaction,
    and the process with it."""
    run("""
        import enginelib
        with enginelib.open(":memory:") as db:
            ks = db.keyspace("space")
            class Pair:
                def __iter__(self):
                    txn.commit()
                    return iter((b"a", b"b"))
            def pairs():
                txn.commit()
                yield b"a", b"b"
            for wrong in ([(b"x", b"y"), Pair()], pairs()):
                txn = db.transaction()
                try:
                    txn.put_many(ks, wrong)
                except enginelib.TransactionClosed:
                    continue
                raise SystemExit("no error")
    """)


def test_threads_that_share_a_transaction_and_a_scan_get_errors_and_no_crash():
    """An operation waits for a contended latch without the GIL; another thread could end the transaction in that moment,
    or fill the same scan's batch: the first then went on with freed structures."""
    run("""
        import enginelib, sys, threading, time
        sys.setswitchinterval(1e-5)
        db = enginelib.open(":memory:", durability="lazy", lock_timeout=0.01)
        ks, noise = db.keyspace("space"), db.keyspace("noise")
        noise.put_many([(b"%06d" % n, b"x" * 300) for n in range(2000)])
        stop = threading.Event()
        box = [db.transaction()]
        scans = [noise.scan()]
        def use(function):
            while not stop.is_set():
                try:
                    function(box[0])
                except enginelib.Error:
                    pass
        def end(txn):
            txn.put(ks, b"q", b"")
            (txn.commit if time.monotonic_ns() // 100 % 2 else txn.abort)()
            box[0] = db.transaction()
        def read(txn):
            for row in scans[0]:
                assert len(row) == 2
            scans[0] = noise.scan()
        uses = [end, read, read, lambda t: t.put(ks, b"k", b"v"), lambda t: t.get_many(ks, [b"k"] * 9), lambda t: list(t.scan(noise)),
                lambda t: t.rollback_to(t.save()), lambda t: t.put_many(ks, [(b"k", b"1")] * 9), lambda t: t.delete(ks, b"k"),
                lambda t: noise.put_many([(b"%06d" % n, b"y" * 300) for n in range(300)])]
        threads = [threading.Thread(target=use, args=(each,)) for each in uses]
        for thread in threads: thread.start()
        time.sleep(0.7)
        stop.set()
        for thread in threads: thread.join()
        box[0].abort()
        assert db.verify().ok
        db.close()
    """)


def test_get_many_takes_any_buffer_and_refuses_others_with_the_remedy(db, ks):
    """The variable of a comprehension had the type of a declaration elsewhere in the function: bytes, and no other buffer."""
    ks[b"k"] = b"v"
    with db.transaction() as txn:
        for keys in ([bytearray(b"k")], [memoryview(b"k")], (b"k",)):
            assert txn.get_many(ks, keys) == ks.get_many(keys) == [b"v"]
        with pytest.raises(TypeError, match="encode"):
            txn.get_many(ks, ["k"])


def test_verify_beside_a_keyspace_being_dropped_finds_nothing(tmp_path):
    """verify walked a dropped keyspace while the background freed its pages, or looked them up when it had freed them,
    and reported them as missing."""
    with enginelib.open(tmp_path / "db", durability="os", cache_size=4 << 20) as db:
        for n in range(12):
            ks = db.keyspace(f"space{n}")
            ks.put_many([(b"%06d" % i, b"v" * 100) for i in range(3000)])
            db.drop_keyspace(f"space{n}")
            report = db.verify()
            assert report.ok, report


def test_garbage_that_nobody_holds_costs_no_snapshot():
    """Versions of a large transaction that merely waited to be freed counted against version_budget, and the oldest
    snapshot, which held none of them, was given up for it."""
    with enginelib.open(":memory:", version_budget=1 << 20, cache_size=8 << 20, background=False) as db:
        ks = db.keyspace("space")
        ks.put_many([(b"%05d" % n, b"v" * 100) for n in range(20_000)])
        assert db.stats()["versions"]["bytes"] > 1 << 20
        reader = db.transaction(read_only=True)
        ks[b"00000"] = b"new"
        assert reader.get(ks, b"00000") == b"v" * 100
        assert db.stats()["versions"]["snapshots_lost"] == 0
        reader.abort()


def test_clearing_a_keyspace_takes_no_longer_than_filling_it(db, ks):
    """delete_range fetched a batch of records for every key that it deleted."""
    began = time.perf_counter()
    ks.put_many([(b"%06d" % n, b"v" * 50) for n in range(20_000)])
    filled = time.perf_counter() - began
    began = time.perf_counter()
    ks.clear()
    assert len(ks) == 0 and time.perf_counter() - began < 0.2 + 8 * filled


def test_closing_does_not_miss_a_background_thread_that_is_inside_a_lazy_sync():
    """close() told the background thread to stop while that was syncing lazy commits, without the latch; it then went
    to sleep without looking, and close() waited for it for ever."""
    run("""
        import enginelib, time
        for n in range(150):
            db = enginelib.open(":memory:", durability="lazy", lazy_interval=0.001)
            ks = db.keyspace("space")
            began = time.perf_counter()
            while time.perf_counter() - began < 0.001 + n % 20 * 0.0001:
                ks[b"k"] = b"v" * 1000
            db.close()
    """)


def test_verify_beside_writers_and_checkpoints_finds_nothing(tmp_path):
    """verify compared the trees, as it had walked them, with a page file that had gone on: a page freed and given out
    again counted as used twice, one moved by a checkpoint as overlapping."""
    with enginelib.open(tmp_path / "db", durability="lazy", cache_size=1 << 20) as db:
        ks = db.keyspace("space")
        ks.put_many([(b"%06d" % n, b"v" * 200) for n in range(20_000)])
        ended = threading.Event()

        def churn():
            n = 0
            while not ended.is_set():
                n += 1
                with db.transaction() as txn:
                    txn.delete_range(ks, b"%06d" % (n * 500 % 20_000), b"%06d" % (n * 500 % 20_000 + 500))
                ks.put_many([(b"%06d" % (n * 500 % 20_000 + i), b"w" * 200) for i in range(500)])
                ks[b"large"] = b"x" * 50_000
                if n % 8 == 0:
                    db.checkpoint()

        threads = [start(churn)]
        try:
            for _ in range(12):
                report = db.verify()
                assert report.ok, report
        finally:
            ended.set()
            threads[0].join(10)
        assert db.verify().ok


def test_a_keyspace_with_a_row_that_is_only_locked_is_not_dropped(db, ks):
    """Who had locked rows but changed none was not seen by the drop of their keyspace."""
    ks[b"k"] = b"v"
    holder = db.transaction()
    holder.get_for_update(ks, b"k")
    with db.transaction(lock_timeout=0) as txn, pytest.raises(enginelib.LockTimeout):
        txn.drop_keyspace("space")
    holder.put(ks, b"k", b"w")
    holder.commit()
    db.drop_keyspace("space")
    assert db.keyspaces() == []
