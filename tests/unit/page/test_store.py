"""The page store without faults: what is written is read, images are fixed, blocks are reused when nobody needs them,
and not before."""
import struct
import threading

import pytest
from enginelib._native.base import status
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.base.realvfs import RealVfs
from enginelib._native.page.store_door import StoreDoor
from hypothesis import given, settings
from hypothesis import strategies as st

E_NOMEM, E_IO, E_FULL, E_LOG, E_CORRUPT = range(16, 21)
E_READONLY, E_INVALID, E_NOT_DATABASE, E_NEWER, E_USAGE = 25, 34, 35, 36, 38


def code_of(call, *args, **kwargs):
    """The status code a failing call left."""
    with pytest.raises(Exception):  # noqa: B017
        call(*args, **kwargs)
    return status.last_error()["code"]


@pytest.fixture(params=["memory", "real"])
def place(request, tmp_path):
    if request.param == "memory":
        return MemoryVfs(), "/pages.dat"
    return RealVfs(), str(tmp_path / "pages.dat")


def padded(data):
    return data + b"\0" * (-len(data) % 512)


def fill(store, n, size=600):
    pids = [store.alloc() for _ in range(n)]
    pages = {pid: bytes([pid % 251 + 1]) * size for pid in pids}
    store.write(pages)
    return pages


def contents(store, pages):
    return {pid: store.read(pid).rstrip(b"\0") for pid in pages}


def test_a_new_store_is_empty_and_opens_again(place):
    store = StoreDoor(*place, create=True)
    assert store.meta() == b"" and store.sb()["next_pid"] == 1
    store.close()
    store = StoreDoor(*place)
    assert store.meta() == b"" and store.check([]) == []
    assert store.sb()["database_id"] == b"\x07" * 16


def test_pages_survive_a_checkpoint_and_nothing_survives_without(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 600)
    store.checkpoint(b"roots", checkpoint_lsn=77, next_commit_ts=5, next_txn=6, next_keyspace=7, incarnation=8, epoch=9)
    later = fill(store, 10)
    store.write({next(iter(pages)): b"changed"})
    store.free(max(pages))
    store.close()
    store = StoreDoor(*place)
    assert contents(store, pages) == pages
    assert store.meta() == b"roots"
    sb = store.sb()
    fields = ("checkpoint_lsn", "next_commit_ts", "next_txn", "next_keyspace", "incarnation", "epoch")
    assert [sb[k] for k in fields] == [77, 5, 6, 7, 8, 9]
    assert not any(store.exists(pid) for pid in later)
    assert store.check(pages) == []


def test_a_frozen_image_is_what_was_current_at_the_freeze(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 300)
    a, b, c, d, *_ = pages
    store.checkpoint()
    store.write({a: b"a2"})
    late = store.alloc()
    image = store.freeze()
    store.write({late: b"late, for the image"}, image)
    store.write({b: b"b2, after the freeze"})
    store.free(c)
    store.write({d: b"d2, frozen, written late"}, image)
    store.write({d: b"d3"})
    new = store.alloc()
    store.write({new: b"new"})
    store.publish(image, b"")
    assert store.read(b).startswith(b"b2") and store.read(d).startswith(b"d3") and not store.exists(c)
    store.close()
    store = StoreDoor(*place)
    expected = {**pages, a: b"a2", late: b"late, for the image", d: b"d2, frozen, written late"}
    assert contents(store, expected) == expected
    assert store.check(expected) == []


def test_a_frozen_write_of_a_page_freed_meanwhile_is_in_the_image_only(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 3)
    store.checkpoint()
    image = store.freeze()
    store.free(2)
    store.write({2: b"frozen content"}, image)
    assert not store.exists(2)
    store.publish(image)
    assert not store.exists(2) and store.check([1, 3]) == []
    store.close()
    store = StoreDoor(*place)
    assert store.read(2).startswith(b"frozen content")
    assert store.check(pages) == []


def test_a_pid_freed_during_a_checkpoint_is_not_given_out_before_its_end(place):
    store = StoreDoor(*place, create=True)
    fill(store, 3)
    image = store.freeze()
    store.free(2)
    assert store.alloc() == 4
    store.publish(image)
    assert store.alloc() == 2


def test_pids_freed_long_ago_are_found_again_after_opening(place):
    store = StoreDoor(*place, create=True)
    fill(store, 700)
    for pid in range(5, 600):
        store.free(pid)
    store.checkpoint()
    store.close()
    store = StoreDoor(*place)
    store.write({1: b"one"})                     # the first allocation reads the whole map
    again = [store.alloc() for _ in range(595)]
    assert sorted(again) == list(range(5, 600))
    assert store.alloc() == 701


def test_a_page_freed_before_its_map_page_was_read_is_free(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 1000)
    store.checkpoint()
    store.close()
    store = StoreDoor(*place)
    store.free(17)
    image = store.freeze()
    store.free(300)
    store.publish(image)
    left = set(pages) - {17, 300}
    assert store.check(left) == []
    store.close()
    store = StoreDoor(*place)
    assert store.check(set(pages) - {17}) == []


def test_blocks_of_a_durable_image_are_not_reused(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 50)
    store.checkpoint()
    before = {pid: store.entry(pid) for pid in pages}
    taken = {b for block, n, _ in before.values() for b in range(block, block + n)}
    for round_ in range(5):
        store.write(dict.fromkeys(pages, b"%d" % round_ * 600))
        for pid in pages:
            block, n, _ = store.entry(pid)
            assert not taken & set(range(block, block + n))
    store.close()
    store = StoreDoor(*place)
    assert contents(store, pages) == pages


def test_what_is_rewritten_within_a_generation_takes_no_more_room(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 100)
    store.checkpoint()
    for i in range(30):
        store.write({pid: bytes([i + 1]) * 600 for pid in pages})
    assert store.usage()["file_blocks"] < 16 + 4 * 200 + 30


def test_checkpoints_reuse_the_blocks_of_the_image_before_the_last(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 100)
    for i in range(30):
        store.write({pid: bytes([i + 1]) * 600 for pid in pages})
        store.checkpoint(b"m" * 700)
        assert store.check(pages) == []
    assert store.usage()["file_blocks"] < 16 + 3 * 200 + 100


def test_overwriting_compacting_and_trimming_shrink_the_file(place):
    vfs, path = place
    store = StoreDoor(vfs, path, create=True)
    pages = fill(store, 2000)
    store.checkpoint()
    keep = {pid: v for pid, v in pages.items() if pid % 10 == 0}
    for pid in set(pages) - set(keep):
        store.free(pid)
    for _ in range(2):
        store.write({pid: v for pid, v in keep.items() if pid % 100 == 0})
        store.checkpoint()
    full = store.usage()["file_blocks"]
    for _ in range(4):
        store.compact()
        store.checkpoint()
        store.trim()
    assert store.usage()["file_blocks"] * 4 < full
    handle = vfs.py_open(path, 1)
    assert vfs.py_size(handle) == store.usage()["file_blocks"] * 512
    vfs.py_close(handle)
    assert store.check(keep) == []
    store.close()
    store = StoreDoor(vfs, path)
    assert contents(store, keep) == keep and store.check(keep) == []


def test_compaction_keeps_to_its_budget_and_to_lower_blocks(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 500)
    for pid in range(1, 251):
        store.free(pid)
    store.checkpoint()
    store.checkpoint()
    before = {pid: store.entry(pid)[0] for pid in range(251, 501)}
    assert 0 < store.compact(10_000) <= 10_000 + 1024
    after = {pid: store.entry(pid)[0] for pid in range(251, 501)}
    assert all(after[pid] <= before[pid] for pid in after) and after != before
    assert store.check(range(251, 501)) == []
    assert contents(store, range(251, 501)) == {pid: pages[pid] for pid in range(251, 501)}


def test_compaction_does_nothing_during_a_checkpoint(place):
    store = StoreDoor(*place, create=True)
    fill(store, 100)
    for pid in range(1, 90):
        store.free(pid)
    store.checkpoint()
    image = store.freeze()
    assert store.compact() == 0
    store.publish(image)


def test_a_pinned_image_is_copied_whole_after_ten_more_checkpoints(place, tmp_path):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 300)
    store.checkpoint(b"first")
    pinned = store.pin()
    for i in range(10):
        store.write({pid: bytes([i + 1]) * 700 for pid in pages})
        store.checkpoint(b"later")
    other = MemoryVfs()
    store.copy_image(pinned, other, "/backup")
    copy = StoreDoor(other, "/backup")
    assert contents(copy, pages) == pages and copy.meta() == b"first" and copy.check(pages) == []
    waiting = store.waiting()[0]
    assert waiting >= 300
    store.unpin(pinned)
    assert store.waiting()[0] < waiting
    assert code_of(store.copy_image, pinned, other, "/backup2") == E_USAGE


def test_a_foreign_reader_of_an_old_image_keeps_reading_it(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 300)
    store.checkpoint()
    reader = StoreDoor(*place, read_only=True)
    store.set_foreign_pin(reader.sb()["generation"])
    for i in range(6):
        store.write({pid: bytes([i + 1]) * 700 for pid in pages})
        store.checkpoint()
    assert contents(reader, pages) == pages
    store.set_foreign_pin(0)
    for i in range(3):
        store.write({pid: bytes([i + 1]) * 700 for pid in pages})
        store.checkpoint()
    fresh = StoreDoor(*place, read_only=True)
    assert contents(fresh, pages) == dict.fromkeys(pages, b"\x03" * 700)


def test_a_reader_still_reads_a_large_value_that_was_freed_and_its_blocks_wait(place):
    store = StoreDoor(*place, create=True)
    old, new = store.alloc(), store.alloc()
    data = bytes(range(256)) * 40
    store.write_blob(old, data)
    store.reader_enter()
    store.free(old)
    for _ in range(3):
        store.write_blob(new, b"n" * len(data))
    assert store.read_blob(old, len(data)) == data
    store.reader_leave()
    assert store.waiting()[1] == 0
    assert store.check([new]) == []
    assert code_of(store.read_blob, old, len(data)) == E_CORRUPT


def test_readers_that_overlap_for_ever_do_not_hold_up_blocks_for_ever(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 100)
    reader = store.reader_begin()
    for i in range(60):
        store.write({pid: bytes([i + 1]) * 600 for pid in pages})
        following = store.reader_begin()         # there is a reader at every moment
        store.reader_end(reader)
        reader = following
    assert store.usage()["file_blocks"] < 16 + 200 * 5
    assert store.waiting()[1] <= 300
    store.reader_end(reader)
    store.write({1: b"x"})
    assert store.waiting()[1] == 0 and store.check(pages) == []


def test_blocks_wait_for_the_oldest_reader_however_many_come_and_go(place):
    store = StoreDoor(*place, create=True)
    fill(store, 3)
    oldest = store.reader_begin()
    block, blocks, _ = store.entry(1)
    old = set(range(block, block + blocks))
    for i in range(20):
        store.write({1: bytes([i + 1]) * 600})
        store.reader_end(store.reader_begin())
        block, blocks, _ = store.entry(1)
        assert not old & set(range(block, block + blocks))
    store.reader_end(oldest)
    assert store.check([1, 2, 3]) == []


def test_threads_that_read_and_threads_that_write_agree(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 50)
    stop, errors = threading.Event(), []

    def read():
        try:
            while not stop.is_set():
                for pid in pages:
                    data = store.read(pid)
                    if len(set(data[:600])) != 1:
                        errors.append(pid)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for t in threads:
        t.start()
    try:
        for i in range(100):
            store.write({pid: bytes([i + 1]) * 600 for pid in pages})
            if i % 9 == 0:
                store.checkpoint()
                store.compact()
                store.trim()
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert errors == []
    assert store.check(pages) == []


@given(st.integers(1, 5000), st.integers(1, 2000))
@settings(max_examples=30, deadline=None)
def test_large_values_of_any_length_in_any_pieces(length, piece):
    store = StoreDoor(MemoryVfs(), "/p", create=True)
    data = bytes(i * 7 % 256 for i in range(length))
    pid = store.alloc()
    fill(store, 3)
    store.write_blob(pid, data, piece)
    assert store.read_blob(pid, length) == data
    store.checkpoint()
    store.write_blob(store.alloc(), data, piece, finish=False)      # abandoned
    assert store.check(range(1, 5)) == []
    if length > 512:
        assert code_of(store.read_blob, pid, length - 512) == E_CORRUPT


def test_an_abandoned_image_becomes_part_of_the_next(place):
    store = StoreDoor(*place, create=True)
    pages = fill(store, 300)
    store.checkpoint(b"one")
    image = store.freeze()
    store.write({1: b"frozen"}, image)
    store.write({2: b"current"})
    store.abandon(image)
    store.write({3: b"after"}, image)            # a write that was under way
    expected = {**pages, 1: b"frozen", 2: b"current", 3: b"after"}
    assert contents(store, expected) == expected and store.check(expected) == []
    store.close()
    store = StoreDoor(*place)
    assert contents(store, pages) == pages and store.meta() == b"one"
    image = store.freeze()
    store.abandon(image)
    store.write({1: b"frozen"})
    before = store.sb()["generation"]
    store.checkpoint(b"three")
    store.close()
    handle = place[0].py_open(place[1], 1)       # whatever the generation's parity, the image before is still there
    slots = [struct.unpack_from("<Q", place[0].py_read(handle, 4096, at), 40)[0] for at in (0, 4096)]
    place[0].py_close(handle)
    assert sorted(slots) == [before, before + 2]
    store = StoreDoor(*place)
    assert store.read(1).startswith(b"frozen") and store.meta() == b"three"


def test_reading_only_writes_nothing(place):
    vfs, path = place
    store = StoreDoor(vfs, path, create=True)
    pages = fill(store, 10)
    store.checkpoint()
    store.close()
    store = StoreDoor(vfs, path, read_only=True)
    assert contents(store, pages) == pages
    store.free(3)
    assert store.alloc() > 0
    assert code_of(store.write, {1: b"x"}) == E_READONLY
    assert code_of(store.freeze) == E_READONLY
    assert code_of(store.write_blob, 1, b"x") == E_READONLY
    assert code_of(store.trim) == E_READONLY


def test_two_checkpoints_at_once_are_refused(place):
    store = StoreDoor(*place, create=True)
    image = store.freeze()
    assert code_of(store.freeze) == E_USAGE
    assert code_of(store.publish, image + 1) == E_USAGE
    store.publish(image)
    assert code_of(store.publish, image) == E_USAGE


def test_a_database_is_not_created_over_another(place):
    StoreDoor(*place, create=True).close()
    assert code_of(StoreDoor, *place, create=True) == E_USAGE


@pytest.mark.parametrize("page_size", [0, 512, 2048, 4095, 5000, 65536])
def test_page_sizes_must_be_powers_of_two_within_bounds(page_size):
    assert code_of(StoreDoor, MemoryVfs(), "/p", page_size=page_size, create=True) == E_INVALID


def test_the_check_finds_leaked_and_missing_pages():
    store = StoreDoor(MemoryVfs(), "/p", create=True)
    fill(store, 5)
    store.checkpoint()
    assert ["nothing refers to it" in f["what"] for f in store.check([1, 2, 3, 4])] == [True]
    store.free(2)
    assert ["the page map does not have it" in f["what"] for f in store.check([1, 2, 3, 4, 5])] == [True]
    assert ["never given out" in f["what"] for f in store.check([1, 3, 4, 5, 99])] == [True]
