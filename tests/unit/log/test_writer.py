import errno
import threading

import pytest
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.base.realvfs import RealVfs
from enginelib._native.log.logdoor import Log
from enginelib._native.log.record import encode
from loghelp import SEGMENT, new_log, put, read, reopen, segments, values

OS, SYNC = 1, 2


def fill(log, start, stop, **options):
    for i in range(start, stop):
        put(log, i, **options)


def test_fast_paths_write_what_append_writes():
    vfs, log = new_log()
    log.put(300, 70000, b"k" * 130, b"")
    log.put(1, 2, b"", b"v" * 200)
    log.delete(2**63, 1, b"gone")
    log.flush(SYNC)
    rows = [r[1:] for r in read(vfs)["records"] if r[1] != "name"]
    assert rows == [("put", 300, 70000, None, None, b"k" * 130, b""), ("put", 1, 2, None, None, b"", b"v" * 200),
                    ("delete", 2**63, 1, None, None, b"gone", None)]


def test_positions_never_run_backwards_and_flush_means_what_it_says():
    vfs, log = new_log()
    last = log.state()
    for i in range(300):
        put(log, i, flush=i % 3)
        now = log.state()
        assert now["synced"] <= now["written"] <= now["end"]
        assert all(now[k] >= last[k] for k in ("end", "written", "synced"))
        if i % 3 == 2:
            assert now["synced"] == now["end"]
        if i % 3 == 1:
            assert now["written"] == now["end"]
        last = now


def test_one_synced_commit_is_one_write_and_one_sync():
    vfs, log = new_log()
    put(log, 0, flush=SYNC)
    before = len(vfs.trace())
    put(log, 1, flush=SYNC)
    assert [c[0] for c in vfs.trace()[before:]] == ["write", "sync"]
    before = len(vfs.trace())
    put(log, 2, flush=OS)
    assert [c[0] for c in vfs.trace()[before:]] == ["write_tail"]
    before = len(vfs.trace())
    log.flush(SYNC)                    # written already: a sync and nothing else
    log.flush(SYNC)
    log.flush(OS)
    assert [c[0] for c in vfs.trace()[before:]] == ["sync"]


def check_law_6(vfs):
    """Reads the trace: segments are synced oldest first, names before the newest; a segment whose header has no flag is not
    written into, header included, before all before it is synced and its name durable."""
    dirty, named, first_groups = {}, set(), 0
    renamed = set()
    files = vfs.files()
    for name, path, offset, _n, status, _ in vfs.trace():
        if status != 0:
            continue
        segment = path.endswith(".wal") and "spare" not in path
        earlier = [p for p in dirty if p < path and dirty[p]]
        if name in ("write", "write_tail") and segment:
            if files[path][56] == 0:
                assert not earlier, (path, earlier)
            if offset == 64:
                if files[path][56] == 0:
                    assert path in named, path
                    assert not dirty.get(path), path       # the header is durable
                first_groups += 1
            dirty[path] = True
        elif name == "sync":
            if segment and path in dirty:                  # else it has no header yet
                assert not earlier, (path, earlier)
                assert path < max(dirty) or not set(dirty) - named, path
            if path in dirty or not segment:
                dirty[path] = False
        elif name == "sync_dir":
            named |= renamed
        elif name == "rename":
            renamed |= set(segments(vfs))
    return first_groups


def test_segments_are_synced_in_order():
    vfs, log = new_log()
    for i in range(600):
        put(log, i, flush=OS if i % 5 else 0)
        if i % 50 == 0:
            log.prepare_ahead()
    log.flush(SYNC)
    assert check_law_6(vfs) > 5


def test_preparing_ahead_happens_once_past_half():
    vfs, log = new_log()
    log.prepare_ahead()
    assert log.state()["next"] == 0
    while log.state()["end"] < SEGMENT // 2:
        put(log, 1)
    log.prepare_ahead()
    assert log.state()["next"] == SEGMENT
    n = len(vfs.trace())
    log.prepare_ahead()
    assert len(vfs.trace()) == n
    log.flush(SYNC)
    found = read(vfs)
    assert found["end_lsn"] == log.state()["end"] and found["highest_lsn"] == 2 * SEGMENT     # prepared is not begun


def test_a_failed_write_or_sync_is_final():
    probe, log = new_log()
    fill(log, 0, 20, flush=SYNC)
    start = probe.calls
    put(log, 20, flush=SYNC)
    for nth in range(probe.calls - start):
        vfs, log = new_log()
        fill(log, 0, 20, flush=SYNC)
        vfs.inject(nth, errno.EIO)
        with pytest.raises(Exception, match="failed for good"):
            put(log, 20, flush=SYNC)
        calls = vfs.calls
        for action in (lambda: put(log, 21, flush=SYNC), lambda: put(log, 21), lambda: log.reserve_ends(64),
                       log.prepare_ahead):
            with pytest.raises(Exception, match="failed for good"):
                action()
        log.flush(SYNC, 100)           # what was synced before stays so
        assert vfs.calls == calls      # nothing was tried again
        assert values(read(vfs))[:20] == list(range(20))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_failure_at_every_call_loses_nothing_acknowledged(code):
    """Over a run with switches, recycling and syncs, each call fails once (ENOSPC, EIO)."""
    def run(vfs, acked):
        log = None
        for i in range(260):
            level = SYNC if i % 4 == 0 else 0
            for attempt in (1, 2):               # a full disk has room again the second time
                try:
                    if log is None:
                        vfs, log = new_log(vfs)
                    put(log, i, size=60, flush=level)
                    break
                except Exception as e:
                    if log is None or log.state()["failed"] or attempt == 2:
                        return log, e
            if level:
                acked.append(i)
            if i % 60 == 59:
                try:
                    log.prepare_ahead()
                    log.release_below(log.state()["synced"] if i == 239 else 0)
                except Exception as e:
                    if log.state()["failed"]:
                        return log, e
        try:
            log.flush(SYNC)
        except Exception as e:
            return log, e
        acked.append(259)
        return log, None

    probe = FaultVfs()
    run(probe, [])
    outcomes = set()
    for nth in range(probe.calls):
        vfs, acked = FaultVfs(), []
        vfs.inject(nth, code)
        log, error = run(vfs, acked)
        outcomes.add((log is not None, type(error).__name__))
        if log is None:
            continue
        got = values(read(vfs.crash_image(vfs.mutations, nth, "power")))
        assert got == list(range(got[0] if got else 0, (got[-1] + 1) if got else 0))
        assert not acked or got[-1] >= acked[-1], nth
        assert not got or got[0] == 0 or acked[-1] >= 236
    assert (True, "NoneType") in outcomes


@pytest.mark.parametrize("ends", [0, 20])
def test_a_full_disk_leaves_the_log_usable_and_the_reserved_ends_fit(ends):
    for pad in range(130):             # whatever is left at the segment's end
        full_disk(ends, pad)


def full_disk(ends, pad):
    vfs, log = new_log()
    put(log, 2**40, size=pad, flush=OS)
    log.reserve_ends(64 * ends)
    i = 0
    while True:
        before = log.state()
        if before["end"] > SEGMENT // 2:
            vfs.inject(2, errno.ENOSPC)          # open, truncate, then the reservation of a new segment, or its first write
        try:
            put(log, i, size=100)
        except Exception as e:
            assert type(e).__name__ == "DiskFull" or e.errno == errno.ENOSPC, e
            break
        finally:
            vfs.clear_injections()
        i += 1
    assert log.state()["failed"] == 0
    assert log.state()["end"] == before["end"] and log.state()["ends"] == 64 * ends
    while True:                        # the last bytes of room are still good for ends
        vfs.inject(2, errno.ENOSPC)
        try:
            log.reserve_ends(64)
        except Exception:
            break
        finally:
            vfs.clear_injections()
        ends += 1
    for n in range(ends):              # each in a group of its own: the worst case
        log.append("commit", txn=2**64 - 1 - n, a=2**64 - 1, b=2**64 - 1, reserved=True, flush=OS + n % 2)
        log.reserve_ends(-64)
    log.flush(SYNC)
    found = read(vfs)
    assert values(found)[1:] == list(range(i))
    assert sum(r[1] == "commit" for r in found["records"]) == ends
    put(log, i, flush=SYNC)            # and there is room again
    assert values(read(vfs))[1:] == list(range(i + 1))
    assert {len(vfs.files()[p]) for p in segments(vfs)} == {SEGMENT}
    assert not any(p.endswith(".tmp") for p in vfs.files())


def test_sizes_beyond_a_segment_are_refused_and_change_nothing():
    vfs, log = new_log()
    before = log.state()
    with pytest.raises(Exception, match="do not fit a segment"):
        put(log, 0, size=SEGMENT)
    with pytest.raises(Exception, match="do not fit a segment"):
        log.reserve_ends(SEGMENT)
    with pytest.raises(Exception, match="names take|names"):
        log.set_names(encode("name", key=b"x" * SEGMENT))
    assert log.state() == before
    put(log, 0, flush=SYNC)
    assert values(read(vfs)) == [0]


@pytest.mark.parametrize("change", [{"first_lsn": 100}, {"segment_size": 1000}, {"segment_size": 512}])
def test_bad_sizes_are_refused(change):
    with pytest.raises(ValueError):
        new_log(**change)


def test_a_new_log_above_nothing_but_below_existing_segments_is_refused():
    vfs, log = new_log(first_lsn=SEGMENT * 10)
    with pytest.raises(ValueError):
        Log(vfs, "/log", segment_size=SEGMENT)


def test_where_files_are_memory_few_spares_are_kept():
    _, log = new_log(MemoryVfs())
    fill(log, 0, 1000, flush=OS)
    log.flush(SYNC)
    log.release_below(2**63)
    assert log.spares == 2


def test_large_segments_are_not_kept_by_the_gigabyte():
    _, log = new_log(segment_size=64 << 20)
    assert log.spares_most == 4
    _, log = new_log(segment_size=1 << 30)
    assert log.spares_most == 2


def test_release_keeps_the_current_segment_and_spares_are_few():
    vfs, log = new_log()
    fill(log, 0, 1000, flush=OS)
    log.flush(SYNC)
    log.release_below(2**63)
    files = [p.rsplit("/")[-1] for p in vfs.files()]
    state = log.state()
    assert f"{state['segment']:016x}.wal" in files
    assert 2 < sum("spare" in f for f in files) <= 16
    assert len(segments(vfs)) == (2 if state["next"] else 1)
    log.trim()
    assert sorted(p for p in vfs.files() if "spare" in p) == ["/log/spare-0.wal", "/log/spare-1.wal"]
    fill(log, 1000, 2000)
    log.flush(SYNC)
    got = values(read(vfs))
    assert got == list(range(got[0], 2000))
    put(log, 2000, flush=SYNC)
    log.release_below(0)


def test_release_does_not_go_beyond_what_is_synced():
    vfs, log = new_log()
    fill(log, 0, 100)
    n = len(segments(vfs))
    for _ in range(3):
        log.release_below(2**63)
    assert int(segments(vfs)[0][-20:-4], 16) <= log.state()["synced"] and n >= 1


@pytest.mark.parametrize("threads", [2, 8, 24])
def test_concurrent_committers_share_syncs(threads):
    vfs, log = new_log(segment_size=1 << 20, buffer_size=1 << 16)
    rounds, order, guard = 60, [], threading.Lock()

    def work(me):
        for i in range(rounds):
            number = me * 1000 + i
            lsn = put(log, number, flush=SYNC)
            assert log.state()["synced"] > lsn
            with guard:
                order.append(number)

    pool = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    [t.start() for t in pool]
    [t.join(60) for t in pool]
    assert not any(t.is_alive() for t in pool)
    got = values(read(vfs))
    assert sorted(got) == sorted(order) and len(got) == threads * rounds
    for n in range(threads):
        mine = [v for v in got if v // 1000 == n]
        assert mine == sorted(mine)
    state = log.state()
    assert state["syncs"] <= threads * rounds
    assert sum(c[0] == "sync" for c in vfs.trace()) == state["syncs"] + 1     # one more made the segment


def test_threads_of_all_levels_over_many_segments():
    vfs, log = new_log(segment_size=16384, buffer_size=1024)
    errors = []

    def work(me):
        try:
            for i in range(400):
                put(log, me * 1000 + i, flush=(me + i) % 3)
                if i % 40 == 0:
                    log.prepare_ahead()
                if me == 0 and i % 100 == 50:
                    log.reserve_ends(640)
                    log.reserve_ends(-640)
        except Exception as e:
            errors.append(e)

    pool = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    [t.start() for t in pool]
    [t.join(60) for t in pool]
    assert not any(t.is_alive() for t in pool) and not errors
    log.flush(SYNC)
    got = values(read(vfs, segment=16384))
    assert sorted(got) == [n * 1000 + i for n in range(6) for i in range(400)]
    check_law_6(vfs)


def test_a_failed_sync_reaches_every_waiter():
    vfs, log = new_log(segment_size=1 << 20, buffer_size=1 << 16)
    put(log, 0, flush=SYNC)
    done, failed = [], []

    def work(me):
        for i in range(200):
            try:
                put(log, me * 1000 + i, flush=SYNC)
                done.append(me * 1000 + i)
            except Exception:
                failed.append(me)
                return

    vfs.inject(150, errno.EIO)
    pool = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    [t.start() for t in pool]
    [t.join(60) for t in pool]
    assert not any(t.is_alive() for t in pool)
    assert sorted(failed) == list(range(1, 9))
    image = vfs.crash_image(vfs.mutations, 1, "kill")
    assert set(done) <= set(values(read(image)))


def test_reopening_on_a_full_disk_uses_the_prepared_segment():
    vfs, log = new_log()
    while log.state()["end"] < SEGMENT // 2:
        put(log, 1, flush=SYNC)
    log.prepare_ahead()
    image = vfs.crash_image(vfs.mutations, 0, "kill")
    found, log = reopen(image)
    assert log.state()["segment"] == 2 * SEGMENT
    assert not any("next.tmp" in call[1] and call[0] == "open" for call in image.trace())
    assert [int(p[-20:-4], 16) for p in segments(image)] == [0, 2 * SEGMENT]


def test_leftovers_of_crashes_are_cleared():
    vfs, log = new_log()
    put(log, 1, flush=SYNC)
    vfs.put_file("/log/next.tmp", b"half")
    vfs.put_file(f"/log/{SEGMENT:016x}.wal", bytes(SEGMENT))
    vfs.put_file(f"/log/{2 * SEGMENT:016x}.wal", bytes(100))
    found, log = reopen(vfs)
    assert values(found) == [1]
    assert sorted(p.rsplit("/")[-1] for p in vfs.files()) == [f"{0:016x}.wal", f"{3 * SEGMENT:016x}.wal"]
    put(log, 2, flush=SYNC)
    assert values(read(vfs)) == [1, 2]


def test_segments_are_never_overrun_whatever_is_left_at_the_end():
    for pad in range(150):
        vfs, log = new_log(segment_size=4096, buffer_size=8192, names=b"")
        for i in range(60):
            put(log, i, size=pad if i == 0 else 100, flush=OS if i % 3 == 0 else 0)
        log.flush(SYNC)
        assert values(read(vfs, segment=4096)) == list(range(60))
        assert {len(vfs.files()[p]) for p in segments(vfs)} == {4096}


def test_no_committer_returns_before_its_own_sync():
    """Bug class 1: a follower released by someone else's older sync."""
    vfs, log = new_log(segment_size=1 << 20, buffer_size=1 << 16)

    def work(me):
        for i in range(150):
            put(log, me * 1000 + i, flush=SYNC)
            vfs.set_marker(me * 1000 + i)

    pool = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    [t.start() for t in pool]
    [t.join(60) for t in pool]
    marks = vfs.markers()
    for k in range(0, len(marks), 7):
        there = set(values(read(vfs.crash_image(marks[k][0], 0, "lost"))))
        assert {n for _, n in marks[:k + 1]} <= there


def together(*calls):
    """Runs each call in a thread of its own, all let go at once; fails when one does not come back."""
    gate = threading.Barrier(len(calls))
    errors = []

    def one(call):
        try:
            gate.wait()
            call()
        except Exception as e:
            errors.append(e)

    pool = [threading.Thread(target=one, args=(c,), daemon=True) for c in calls]
    [t.start() for t in pool]
    [t.join(30) for t in pool]
    assert not any(t.is_alive() for t in pool), "a waiter was never woken"
    assert not errors


def test_no_wake_up_is_lost_between_levels(tmp_path):
    vfs = RealVfs()
    log = Log(vfs, tmp_path / "log", segment_size=1 << 20, buffer_size=1 << 16)
    for n in range(100):
        together(*(lambda level=level: log.time_commit(1 + n % 7, level, 6000) for level in (OS, SYNC, OS, OS)))
        together(*(lambda: log.time_commit(1 + n % 7, SYNC, 6000) for _ in range(4)))
        state = log.state()
        assert state["synced"] == state["written"] == state["end"]


def test_synced_is_never_ahead_of_written():
    for vfs in (FaultVfs(), MemoryVfs()):
        log = Log(vfs, "/log", segment_size=1 << 20, buffer_size=1 << 16)
        stop = threading.Event()
        seen = []

        def watch():
            while not stop.is_set():
                state = log.state()
                seen.append(state["synced"] <= state["written"] <= state["end"])

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            together(*(lambda: log.time_commit(3000, SYNC) for _ in range(4)))
        finally:
            stop.set()
            watcher.join()
        assert seen and all(seen)
