"""Pages fetched together: what comes is what single loads bring, what does not come is as if never wanted."""
import errno
import random

import pytest
from enginelib._native.base import status
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.page.pool_door import PoolDoor
from enginelib._native.page.store_hook import HookVfs

PATH = "/pages.dat"
PAGES = 500


@pytest.fixture(params=[0, 1, 3], ids=["alone", "one helper", "three helpers"])
def helpers(request):
    return request.param


@pytest.fixture
def vfs():
    return FaultVfs()


@pytest.fixture
def pages(vfs):
    """{pid: value} of a store on ``vfs``."""
    pool = PoolDoor(vfs, PATH, create=True)
    made = {pool.new(b"value %d" % i): b"value %d" % i for i in range(PAGES)}
    pool.checkpoint()
    pool.close()
    return made


def opened(vfs, helpers, cache_bytes=8 << 20, **options):
    pool = PoolDoor(vfs, PATH, cache_bytes=cache_bytes, **options)
    pool.fetch_open(helpers)
    return pool


def closed(pool):
    pool.fetch_close()
    assert pool.pool_check() == []
    pool.close()


def shuffled(pages):
    return random.Random(1).sample(list(pages), len(pages))


def fetch(pool, pids):
    taken = pool.fetch_want(0, pids)
    pool.fetch_start(0)
    pool.fetch_finish(0)
    return taken


def error_of(pool, pid):
    with pytest.raises(Exception):  # noqa: B017
        pool.get(pid)
    return status.last_error()


def first_byte(pool, pid):
    return pool.entry(pid)[0] * 512


def test_pages_come_as_single_loads_bring_them(vfs, pages, helpers):
    pool = opened(vfs, helpers)
    pool.log_end, pool.live_versions = 77, 1
    assert fetch(pool, shuffled(pages)) == PAGES
    loads = pool.stats()["loads"]
    assert loads == PAGES and all(pool.resident(pid) for pid in pages)
    assert {pid: pool.get(pid) for pid in pages} == pages
    assert pool.stats()["loads"] == loads and {pool.mark(pid) for pid in pages} == {77}
    pool.fetch_release(0)
    assert fetch(pool, pages) == PAGES and pool.stats()["loads"] == loads
    closed(pool)


def test_neighbours_are_read_with_one_call(pages, vfs):
    hook = HookVfs(vfs)
    pool = opened(hook, 0)
    reads = []

    def note(name, offset, n):
        reads.append((offset, n))
        return True

    pool.get(1)
    pool.get(PAGES)
    hook.arm(note)
    fetch(pool, shuffled(pages))
    hook.arm(None)
    assert hook.errors == [] and len(reads) < PAGES / 20
    assert sorted(reads) == reads
    closed(pool)


def test_a_fetch_takes_no_more_than_there_is_room_for_and_pins_it(vfs, pages, helpers):
    pool = opened(vfs, helpers, cache_bytes=0)
    frames = pool.stats()["frames"]
    assert fetch(pool, pages) == frames == 32
    with pytest.raises(MemoryError):
        pool.get(PAGES)
    pool.fetch_release(0)
    assert pool.get(PAGES) == pages[PAGES]
    pool.make_free(8)
    assert pool.fetch_want(0, range(100, 200), most=4) == 4
    assert {pid: pool.get(pid) for pid in pages} == pages
    closed(pool)


def test_two_are_under_way_at_once(vfs, pages, helpers):
    pool = opened(vfs, helpers)
    pids = shuffled(pages)
    for which in range(2):
        assert pool.fetch_want(which, pids[which::2]) == PAGES // 2
        pool.fetch_start(which)
    pool.fetch_finish(1)
    assert all(pool.resident(pid) for pid in pids[1::2])
    assert {pid: pool.get(pid) for pid in pages} == pages
    closed(pool)


@pytest.mark.parametrize("started", [False, True])
def test_a_page_that_is_needed_at_once_ends_the_fetch(vfs, pages, helpers, started):
    """A load that met a page of a fetch not yet started would have waited for ever."""
    pool = opened(vfs, helpers)
    pids = shuffled(pages)
    pool.fetch_want(0, pids[:100])
    if started:
        pool.fetch_start(0)
    assert pool.get(pids[7]) == pages[pids[7]]
    assert all(pool.resident(pid) for pid in pids[:100])
    assert pool.fetch_want(0, pids[100:]) == 0
    pool.fetch_start(0)
    pool.fetch_finish(0)
    assert not any(pool.resident(pid) for pid in pids[100:])
    closed(pool)


@pytest.mark.parametrize("started", [False, True])
def test_a_fetch_that_is_given_up_leaves_nothing(vfs, pages, helpers, started):
    pool = opened(vfs, helpers)
    pool.fetch_want(0, pages)
    if started:
        pool.fetch_start(0)
    closed(pool)


def test_a_damaged_page_is_the_same_corruption_with_and_without_a_fetch(vfs, pages, helpers):
    pids = shuffled(pages)
    pool = PoolDoor(vfs, PATH)
    for pid in pids[:5]:
        pool.get(pid)
        vfs.corrupt(PATH, first_byte(pool, pid) + 100, 0x40)
    pool.close()
    pool = PoolDoor(vfs, PATH, cache_bytes=8 << 20)
    expected = [error_of(pool, pid) for pid in pids[:5]]
    pool.close()
    pool = opened(vfs, helpers)
    assert fetch(pool, pids) == PAGES
    assert [pid for pid in pids if not pool.resident(pid)] == pids[:5]
    assert [error_of(pool, pid) for pid in pids[:5]] == expected
    assert expected[0]["file"] == PATH and expected[0]["offset"] >= 8192
    assert {pid: pool.get(pid) for pid in pids[5:]} == {pid: pages[pid] for pid in pids[5:]}
    closed(pool)


def test_pages_behind_the_end_of_a_file_that_was_cut_are_corrupt(vfs, pages, helpers):
    pool = opened(vfs, helpers)
    for pid in range(1, PAGES, 100):
        pool.get(pid)
    ends = sorted(first_byte(pool, pid) for pid in pages)
    content = vfs.files()[PATH]
    vfs.put_file(PATH, content[: ends[PAGES // 2]])
    assert fetch(pool, pages) == PAGES
    there = [pid for pid in pages if first_byte(pool, pid) < ends[PAGES // 2]]
    assert {pid for pid in pages if pool.resident(pid)} >= set(there)
    gone = next(pid for pid in pages if not pool.resident(pid))
    assert "Page" in error_of(pool, gone)["text"]
    closed(pool)


def test_what_a_failing_read_did_not_bring_is_loaded_when_it_is_needed(vfs, pages, helpers):
    pool = opened(vfs, helpers)
    pool.get(1)
    pool.get(PAGES)
    vfs.inject(0, errno.EIO, sticky=True)
    assert fetch(pool, shuffled(pages)) == PAGES
    assert [pid for pid in pages if pool.resident(pid)] == [1, PAGES]
    assert error_of(pool, 2)["errno"] == errno.EIO
    vfs.clear_injections()
    assert {pid: pool.get(pid) for pid in pages} == pages
    closed(pool)


@pytest.mark.parametrize("started", [False, True])
def test_a_page_that_is_freed_meanwhile_stays_free(vfs, pages, helpers, started):
    pool = opened(vfs, helpers)
    pids = shuffled(pages)
    pool.fetch_want(0, pids)
    if started:
        pool.fetch_start(0)
    for pid in pids[:50]:
        pool.forget(pid)
    made = {pool.new(b"new %d" % i): b"new %d" % i for i in range(100)}
    pool.fetch_start(0)
    pool.fetch_finish(0)
    assert not any(pool.resident(pid) for pid in pids[:50] if pid not in made)
    expected = {**{pid: pages[pid] for pid in pids[50:]}, **made}
    assert {pid: pool.get(pid) for pid in expected} == expected
    pool.fetch_release(0)
    pool.checkpoint()
    assert pool.check(list(expected)) == []
    closed(pool)


def test_pids_that_lead_nowhere_are_passed_over(vfs, pages, helpers):
    pool = opened(vfs, helpers)
    assert pool.fetch_want(0, [0, PAGES + 1, 1 << 40, 3, 3]) == 5
    pool.fetch_finish(0)
    assert pool.stats()["loads"] == 1 and pool.resident(3)
    closed(pool)


def test_a_pool_for_reading_only_fetches_too(vfs, pages, helpers):
    pool = opened(vfs, helpers, cache_bytes=0, read_only=True, volatile_only=True)
    assert fetch(pool, pages) == 32
    pool.fetch_release(0)
    for pid in pages:
        pool.put(pid, b"changed")
    assert {pool.get(pid) for pid in pages} == {b"changed"}
    closed(pool)


def test_a_fetch_in_memory(helpers):
    vfs = MemoryVfs()
    pool = PoolDoor(vfs, PATH, create=True)
    made = {pool.new(b"%d" % i): b"%d" % i for i in range(PAGES)}
    pool.checkpoint()
    pool.close()
    for _ in range(20):
        pool = opened(vfs, helpers)
        fetch(pool, shuffled(made))
        assert {pid: pool.get(pid) for pid in made} == made
        closed(pool)
