"""The buffer pool: eviction, clones of frozen pages, failing input and output, threads."""
import errno
import os
import random
import threading

import pytest
from enginelib._native.base import status
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.base.realvfs import RealVfs
from enginelib._native.page.pool_door import PoolDoor
from test_store import E_CORRUPT, E_FULL, E_IO, E_NOMEM, code_of

PATH = "/pages.dat"


@pytest.fixture
def pool():
    p = PoolDoor(MemoryVfs(), PATH, create=True)
    yield p
    assert p.pool_check() == []


def fill(pool, n):
    return {pid: v for v in (b"value %d" % i for i in range(n)) for pid in [pool.new(v)]}


def contents(pool, pages):
    return {pid: pool.get(pid) for pid in pages}


def test_a_cache_of_32_frames_holds_any_number_of_pages(pool):
    pages = fill(pool, 1000)
    assert pool.stats()["frames"] == 32
    assert contents(pool, pages) == pages
    for pid in list(pages)[::3]:
        pages[pid] = b"changed"
        pool.put(pid, b"changed")
    assert contents(pool, pages) == pages
    pool.checkpoint()
    assert pool.stats()["dirty"] == 0 and pool.check(pages) == []


def test_the_whole_budget_is_used_and_not_exceeded():
    budget = 64 << 20
    before = resident()
    pool = PoolDoor(MemoryVfs(), PATH, page_size=8192, create=True, cache_bytes=budget)
    frames = pool.stats()["frames"]
    assert 0.94 * budget < frames * 8192 <= budget
    pages = [pool.new(b"x" * 8000) for _ in range(int(frames * 0.7))]
    assert resident() - before < budget * 1.1
    assert len(pages) < frames
    pool.close()
    assert resident() - before < budget // 4


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_a_page_changed_after_the_freeze_is_in_the_image_as_it_was():
    vfs = MemoryVfs()
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 12)
    image = pool.freeze()
    for pid in list(pages)[:6]:
        pool.put(pid, b"after the freeze")
        assert pool.get(pid) == b"after the freeze"
    dropped = max(pages)
    pool.drop(dropped)
    pool.write_frozen(image)
    pool.publish(image)
    assert pool.pool_check() == [] and pool.stats()["dirty"] == 6
    pool.close()
    pool = PoolDoor(vfs, PATH)
    assert contents(pool, pages) == pages and pool.check(pages) == []


def test_frozen_pages_are_written_by_whoever_needs_their_frames(pool):
    pages = fill(pool, 20)
    image = pool.freeze()
    for pid in list(pages)[:10]:
        pages[pid] = b"newer"
        pool.put(pid, b"newer")
    pages.update(fill(pool, 60))
    assert contents(pool, pages) == pages
    pool.write_frozen(image)
    pool.publish(image)
    assert contents(pool, pages) == pages
    pool.checkpoint()
    assert pool.check(pages) == []


def test_a_failed_checkpoint_leaves_its_pages_to_the_next():
    vfs = FaultVfs()
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 20)
    pool.checkpoint()
    for pid in list(pages)[:15]:
        pages[pid] = b"second"
        pool.put(pid, b"second")
    image = pool.freeze()
    for pid in list(pages)[:5]:
        pages[pid] = b"third"
        pool.put(pid, b"third")
    pool.drop(16)
    del pages[16]
    vfs.inject(1, errno.EIO)
    assert code_of(pool.write_frozen, image) == E_IO
    pool.abandon(image)
    vfs.clear_injections()
    assert pool.pool_check() == [] and pool.stats()["frozen"] == 0
    assert contents(pool, pages) == pages
    pool.checkpoint()
    pool.close()
    pool = PoolDoor(vfs, PATH)
    assert contents(pool, pages) == pages and pool.check(pages) == []


def test_pinned_pages_stay_and_too_many_pins_are_an_error_not_a_hang(pool):
    pages = fill(pool, 100)
    pool.checkpoint()
    frames = [pool.pin_page(pid) for pid in list(pages)[:32]]
    assert code_of(pool.get, max(pages)) == E_NOMEM
    assert "too small" in status.last_error()["text"]
    for pid in list(pages)[:32]:
        assert pool.resident(pid) and pool.get(pid) == pages[pid]
    for frame in frames:
        pool.unpin_frame(frame)
    assert contents(pool, pages) == pages


def test_a_pinned_frame_that_was_cloned_or_dropped_is_freed_by_its_last_pin(pool):
    pages = fill(pool, 10)
    image = pool.freeze()
    a, b, *_ = pages
    held = [pool.pin_page(a), pool.pin_page(b), pool.pin_page(b)]
    pool.put(a, b"new")
    pool.drop(b)
    pool.write_frozen(image)
    pool.publish(image)
    used = pool.stats()["free"]
    assert pool.pool_check() == []
    for frame in held:
        pool.unpin_frame(frame)
    assert pool.stats()["free"] == used + 2


def test_on_a_full_disk_reading_goes_on_and_rollback_may_dirty_what_others_may_not():
    vfs = FaultVfs()
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 100)
    pool.checkpoint()
    vfs_full(vfs, pool)
    code = None
    for pid in pages:
        try:
            pool.put(pid, b"more")
        except Exception:
            code = status.last_error()["code"]
            break
        pages[pid] = b"more"
    assert code == E_FULL
    assert pool.stats()["dirty"] <= pool.stats()["dirty_cap"]
    assert contents(pool, pages) == pages
    for pid in list(pages)[40:45]:
        pool.put(pid, b"rollback", rollback=True)
        pages[pid] = b"rollback"
    pool.pool.rolling_back += 1
    pool.put(50, b"rollback")
    pool.pool.rolling_back -= 1
    pages[50] = b"rollback"
    assert contents(pool, pages) == pages
    vfs.clear_injections()
    assert contents(pool, pages) == pages
    pool.checkpoint()
    assert pool.check(pages) == []


def vfs_full(vfs, pool):
    """From the next write on the disk is full."""
    block = pool.alloc()
    vfs.inject(0, errno.ENOSPC, sticky=True)
    assert code_of(pool.write, {block: b"x"}) == E_FULL
    pool.free(block)


def test_a_page_that_cannot_be_read_leaves_no_trace(pool):
    vfs = FaultVfs()
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 50)
    pool.checkpoint()
    pool.make_free(30)
    vfs.inject(0, errno.EIO)
    victim = next(pid for pid in pages if not pool.resident(pid))
    assert code_of(pool.get, victim) == E_IO
    assert pool.pool_check() == []
    block = pool.entry(victim)[0]
    vfs.corrupt(PATH, block * 512 + 60, 0x40)
    assert code_of(pool.get, victim) == E_CORRUPT
    assert f"Page {victim}" in status.last_error()["text"]
    vfs.corrupt(PATH, block * 512 + 60, 0x40)
    assert contents(pool, pages) == pages
    assert code_of(pool.get, 10_000) == E_CORRUPT and code_of(pool.get, 1 << 60) == E_CORRUPT
    pool.write({victim: b"\x07 no page, but with the right checksum"})
    pool.forget(max(pages))
    assert pool.pool_check() == []


def test_a_whole_run_that_is_no_page_is_corruption(pool):
    pid = pool.new(b"x")
    pool.checkpoint()
    pool.make_free(32)
    for nonsense in (b"\xff" * 512, b"\0" * 512, b"\1\0" + b"\xff" * 4000, b"x" * 4096, b"x" * 8192):
        pool.write({pid: nonsense})
        assert code_of(pool.get, pid) == E_CORRUPT
    assert pool.pool_check() == []


def test_loaded_pages_are_marked_as_just_changed_while_versions_live(pool):
    pages = fill(pool, 40)
    pool.checkpoint()
    pool.log_end = 1234
    pool.make_free(32)
    pool.get(min(pages))
    assert pool.mark(min(pages)) == 0
    pool.make_free(32)
    pool.live_versions = 1
    pool.get(min(pages))
    assert pool.mark(min(pages)) == 1234


def test_a_pool_for_reading_only_grows_when_recovery_dirties_it():
    vfs = MemoryVfs()
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 200)
    pool.checkpoint()
    pool.close()
    pool = PoolDoor(vfs, PATH, read_only=True, volatile_only=True)
    for pid in pages:
        pool.put(pid, b"replayed")
        pages[pid] = b"replayed"
    pages.update(fill(pool, 50))
    pool.drop(1)
    del pages[1]
    assert contents(pool, pages) == pages and pool.pool_check() == []
    assert pool.stats()["frames"] >= 249


def test_threads_that_read_change_and_checkpoint_agree(tmp_path):
    pool = PoolDoor(RealVfs(), str(tmp_path / "pages.dat"), create=True, cache_bytes=64 * 4096)
    pages = fill(pool, 400)
    errors, stop = [], threading.Event()

    def work(n):
        rng = random.Random(n)
        mine = [pid for pid in pages if pid % 4 == n]
        try:
            for i in range(1500):
                pid = rng.choice(mine)
                if rng.random() < 0.4:
                    pages[pid] = b"%d %d" % (n, i)
                    pool.put(pid, pages[pid])
                elif pool.get(pid) != pages[pid]:
                    errors.append((n, i, pid))
                other = rng.randrange(1, 401)
                pool.get(other)
        except BaseException as e:
            errors.append(e)

    def checkpoints():
        try:
            while not stop.is_set():
                pool.checkpoint(b"m")
                pool.compact(100_000)
                pool.trim()
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    keeper = threading.Thread(target=checkpoints)
    for t in [*threads, keeper]:
        t.start()
    for t in threads:
        t.join()
    stop.set()
    keeper.join()
    assert errors == []
    assert pool.pool_check() == []
    pool.checkpoint()
    assert pool.check(pages) == [] and contents(pool, pages) == pages
    assert pool.usage()["file_blocks"] < 5000
    pool.close()
    pool = PoolDoor(RealVfs(), str(tmp_path / "pages.dat"))
    assert contents(pool, pages) == pages


def test_threads_that_drop_pages_while_others_write_them_out(tmp_path):
    pool = PoolDoor(RealVfs(), str(tmp_path / "pages.dat"), create=True)
    errors, left, stop = [], {}, threading.Event()

    def work(n):
        rng = random.Random(n)
        mine = {}
        try:
            for i in range(1200):
                if len(mine) < 30 or rng.random() < 0.4:
                    value = b"%d %d" % (n, i)
                    mine[pool.new(value)] = value
                else:
                    pid = rng.choice(list(mine))
                    if pool.get(pid) != mine[pid]:
                        errors.append((n, i, pid))
                    (pool.drop if rng.random() < 0.5 else pool.forget)(pid)
                    del mine[pid]
            left.update(mine)
        except BaseException as e:
            errors.append(e)

    def checkpoints():
        try:
            while not stop.is_set():
                pool.checkpoint(b"m")
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    keeper = threading.Thread(target=checkpoints)
    for t in [*threads, keeper]:
        t.start()
    for t in threads:
        t.join()
    stop.set()
    keeper.join()
    assert errors == []
    assert pool.pool_check() == []
    pool.checkpoint()
    assert pool.check(left) == [] and contents(pool, left) == left
    pool.close()
    pool = PoolDoor(RealVfs(), str(tmp_path / "pages.dat"))
    assert contents(pool, left) == left and pool.check(left) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failure_at_any_call_loses_nothing(number):
    calls = 0
    while one_failure(calls, number):
        calls += 1
    assert calls > 50


def one_failure(call, number):
    """False when there were fewer calls than that."""
    vfs = FaultVfs()
    pool = PoolDoor(vfs, PATH, create=True)
    pages = fill(pool, 60)
    pool.checkpoint()
    vfs.inject(call, number)
    start = vfs.calls

    def attempt(action):
        try:
            action()
            return True
        except Exception:
            assert status.last_error()["code"] in (E_IO, E_FULL, 19), call
            return False

    for pid in list(pages)[::2]:
        if attempt(lambda pid=pid: pool.put(pid, b"changed")):
            pages[pid] = b"changed"
    if attempt(lambda: pool.drop(11)):
        del pages[11]
    attempt(pool.checkpoint)
    for pid in list(pages)[::5]:
        if attempt(lambda pid=pid: pool.put(pid, b"again")):
            pages[pid] = b"again"
    over = vfs.calls - start <= call
    vfs.clear_injections()
    assert pool.pool_check() == []
    assert contents(pool, pages) == pages
    if attempt(pool.checkpoint):
        assert pool.check(pages) == []
        pool.close()
        pool = PoolDoor(vfs, PATH)
        assert contents(pool, pages) == pages and pool.check(pages) == []
    else:
        assert pool.store.failed
    return not over


def test_a_page_freed_since_it_was_found_missing_is_looked_for_again_and_any_other_that_is_gone_is_damage(pool):
    pages = fill(pool, 100)
    here, gone, *_ = pages
    pool.checkpoint()
    noted = pool.pages_gone
    pool.drop(gone)
    pool.checkpoint()
    assert pool.get(gone, noted) is None
    assert code_of(lambda: pool.get(gone)) == E_CORRUPT
    assert pool.get(here, noted) == pages[here]
