"""The page store on a failing medium: crashes anywhere, full disks, errors, damage, files made to hurt."""
import errno
import struct

import pytest
from enginelib._native.base import status
from enginelib._native.base.checksum import crc32c_of
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.page.store_door import StoreDoor
from test_store import (
    E_CORRUPT,
    E_FULL,
    E_IO,
    E_LOG,
    E_NEWER,
    E_NOMEM,
    E_NOT_DATABASE,
    code_of,
    contents,
    fill,
)

PATH = "/pages.dat"


def reseal(block):
    """A superblock with its checksum made right."""
    return block[:4092] + struct.pack("<I", crc32c_of(block[:4092]))


def put(block, offset, fmt, *values):
    data = struct.pack(fmt, *values)
    return block[:offset] + data + block[offset + len(data):]


def with_file(data):
    vfs = FaultVfs()
    vfs.put_file(PATH, data)
    return vfs


def small_file():
    """(vfs, file content, {pid: content}) of a database with two images."""
    vfs = FaultVfs()
    store = StoreDoor(vfs, PATH, create=True)
    pages = fill(store, 5)
    store.checkpoint(b"one")
    pages[2] = b"two" * 100
    store.write({2: pages[2]})
    store.checkpoint(b"two")
    store.close()
    return vfs, vfs.files()[PATH], pages


def workload(vfs, history):
    """Notes in history each ([journal position before and after publishing], state, meta)."""
    store = StoreDoor(vfs, PATH, create=True)
    vfs.py_sync_dir("/")
    history.append((0, vfs.mutations, {}, b""))
    pages = {}
    for i in range(6):
        pages.update(fill(store, 40 if i == 0 else 3, 700))
        for pid in list(pages)[i::5]:
            pages[pid] = b"%d:%d " % (i, pid) * 80
            store.write({pid: pages[pid]})
        if i > 2:
            gone = min(pages)
            store.free(gone)
            del pages[gone]
        image = store.freeze()
        late = dict.fromkeys(list(pages)[:2], b"late %d" % i)
        store.write(late, image)
        pages.update(late)
        start = vfs.mutations
        meta = b"m%d" % i * 300
        store.publish(image, meta)
        history.append((start, vfs.mutations, dict(pages), meta))
        if i == 4:
            store.compact()
            store.trim()
    store.close()


@pytest.mark.parametrize("mode", ["power", "lost", "kill", "all"])
def test_after_a_crash_anywhere_the_last_published_image_is_there(mode):
    vfs, history = FaultVfs(), []
    workload(vfs, history)
    assert vfs.mutations > 60
    for cut in range(history[0][1], vfs.mutations + 1):
        done = [h for h in history if h[1] <= cut][-1]
        begun = [h for h in history if h[0] <= cut and h[1] > cut]
        for seed in range(4 if mode == "power" else 1):
            image = vfs.crash_image(cut, seed, mode)
            store = StoreDoor(image, PATH)
            found = None
            meta = store.meta()
            for _, _, pages, expected_meta in [done, *begun]:
                if meta == expected_meta:
                    found = pages
            assert found is not None, (cut, seed, meta)
            assert contents(store, found) == found, (cut, seed)
            assert store.check(found) == [], (cut, seed)
            store.write(dict.fromkeys(found, b"x" * 600) or {store.alloc(): b"y"})
            store.checkpoint(b"after")
            store.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("short", [False, True])
def test_a_failure_at_any_call_leaves_all_as_before(number, short):
    calls = 0
    while one_failure(calls, number, short):
        calls += 1
    assert calls > 10


def one_failure(call, number, short):
    """False when there were fewer calls than that."""
    vfs = FaultVfs()
    store = StoreDoor(vfs, PATH, create=True)
    pages = fill(store, 30)
    store.checkpoint(b"one")
    durable = dict(pages)
    store.close()
    store = StoreDoor(vfs, PATH)
    vfs.inject(call, number, short)
    before = vfs.calls
    failed = None
    meta = b"one"

    def attempt(action):
        nonlocal failed
        try:
            action()
        except Exception:
            failed = status.last_error()["code"]
            return False
        return True

    if attempt(lambda: store.write({3: b"three" * 200, 7: b"seven" * 200})):
        pages[3], pages[7] = b"three" * 200, b"seven" * 200
    blob = store.alloc()
    if attempt(lambda: store.write_blob(blob, b"blob" * 400)):
        pages[blob] = b"blob" * 400
    if attempt(lambda: store.checkpoint(b"two")):
        durable, meta = dict(pages), b"two"
    attempt(lambda: store.compact())
    attempt(lambda: store.trim())
    over = vfs.calls - before <= call
    vfs.clear_injections()
    assert failed in (None, E_FULL if number == errno.ENOSPC else E_IO, E_LOG), failed
    assert contents(store, pages) == pages
    assert store.check(pages) == []
    if attempt(lambda: store.checkpoint(b"three")):
        durable, meta = dict(pages), b"three"
        allowed = [(durable, meta)]
    else:                                        # a sync or the superblock failed: final
        assert failed == E_LOG
        allowed = [(durable, meta), (dict(pages), b"two")]
    store.close()
    store = StoreDoor(vfs, PATH)
    assert (contents(store, allowed[0][0]), store.meta()) == allowed[0] or (
        contents(store, pages), store.meta()) in allowed
    store.close()
    return not over


def test_a_full_disk_is_not_final_but_a_failed_sync_is():
    vfs = FaultVfs()
    store = StoreDoor(vfs, PATH, create=True)
    pages = fill(store, 10)
    vfs.inject(0, errno.ENOSPC, sticky=True)
    assert code_of(store.write, {1: b"x"}) == E_FULL
    assert code_of(store.checkpoint) == E_FULL
    vfs.clear_injections()
    store.checkpoint(b"now")
    assert contents(store, pages) == pages
    writes = 0
    while True:                                      # find the sync
        vfs.inject(writes, errno.EIO)
        try:
            store.checkpoint(b"again")
        except Exception:
            if store.store.failed:
                break
        vfs.clear_injections()
        writes += 1
        assert writes < 50
    vfs.clear_injections()
    assert code_of(store.checkpoint) == E_LOG
    assert code_of(store.compact) == E_LOG


def test_a_torn_superblock_is_the_image_before():
    _vfs, data, _pages = small_file()
    newest = 0 if struct.unpack_from("<Q", data, 40)[0] > struct.unpack_from("<Q", data, 4096 + 40)[0] else 1
    torn = bytearray(data)
    torn[newest * 4096 + 200] ^= 1
    store = StoreDoor(with_file(bytes(torn)), PATH)
    assert store.meta() == b"one"


def test_two_damaged_superblocks_are_corruption_and_another_file_is_no_database():
    _, data, _ = small_file()
    both = bytearray(data)
    both[200] ^= 1
    both[4096 + 200] ^= 1
    assert code_of(StoreDoor, with_file(bytes(both)), PATH) == E_CORRUPT
    for other in (b"", b"x", b"SQLite format 3\0" * 1000, bytes(10000), data[:7]):
        assert code_of(StoreDoor, with_file(other), PATH) == E_NOT_DATABASE


def test_a_newer_format_is_refused_and_read_only_features_may_be_read():
    _, data, pages = small_file()
    newest = 0 if struct.unpack_from("<Q", data, 40)[0] > struct.unpack_from("<Q", data, 4096 + 40)[0] else 1
    at = newest * 4096

    def changed(offset, fmt, value):
        return with_file(data[:at] + reseal(put(data[at:at + 4096], offset, fmt, value)) + data[at + 4096:])

    assert code_of(StoreDoor, changed(8, "<I", 2), PATH) == E_NEWER
    assert code_of(StoreDoor, changed(32, "<Q", 1 << 40), PATH) == E_NEWER
    assert code_of(StoreDoor, changed(24, "<Q", 1 << 40), PATH) == E_NEWER
    assert contents(StoreDoor(changed(24, "<Q", 1 << 40), PATH, read_only=True), pages) == pages
    assert contents(StoreDoor(changed(16, "<Q", 1), PATH), pages) == pages
    assert contents(StoreDoor(changed(24, "<Q", 1), PATH), pages) == pages


def test_every_flipped_byte_is_noticed_or_makes_no_difference():
    _vfs, data, pages = small_file()
    noticed = 0
    for at in range(len(data)):
        if at % 4096 > 600 and at < 8192 and at % 50:
            continue
        bad = with_file(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:])
        try:
            store = StoreDoor(bad, PATH)
            found = contents(store, pages)
            meta = store.meta()
        except Exception:
            assert status.last_error()["code"] == E_CORRUPT, at
            noticed += 1
            continue
        if meta == b"one":
            continue                                 # the newest superblock was hit
        assert found == pages, at
    assert noticed > 3000


def test_every_truncation_is_noticed_or_makes_no_difference():
    _, data, pages = small_file()
    for n in range(0, len(data), 111):
        try:
            store = StoreDoor(with_file(data[:n]), PATH)
            assert (contents(store, pages), store.meta()) == (pages, b"two")
        except AssertionError:
            raise
        except Exception:
            assert status.last_error()["code"] in (E_CORRUPT, E_NOT_DATABASE), n


def test_the_error_names_file_offset_and_checksums():
    vfs, _data, _ = small_file()
    store = StoreDoor(vfs, PATH)
    store.read(3)
    block, _, crc = store.entry(3)
    vfs.corrupt(PATH, block * 512 + 5, 1)
    assert code_of(store.read, 3) == E_CORRUPT
    error = status.last_error()
    assert (error["file"], error["offset"], error["expected"]) == (PATH, block * 512, crc)
    assert error["found"] != crc and "Page 3" in error["text"]
    assert [f["offset"] for f in store.check(range(1, 6))] == [block * 512]


def test_a_misdirected_write_is_seen():
    vfs, data, _ = small_file()
    store = StoreDoor(vfs, PATH)
    store.read(3), store.read(4)
    a, b = store.entry(3)[0] * 512, store.entry(4)[0] * 512
    swapped = with_file(data[:a] + data[b:b + 1024] + data[a + 1024:])
    assert code_of(StoreDoor(swapped, PATH).read, 3) == E_CORRUPT


HOSTILE = [0, 1, 2, 15, 16, 17, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 52, 1 << 53, 1 << 62, (1 << 64) - 1]


@pytest.mark.parametrize("offset", range(8, 168, 4))
def test_hostile_superblocks_are_refused_or_harmless(offset):
    _, data, _pages = small_file()
    for value in HOSTILE:
        fmt = "<I" if offset % 8 or (value < 1 << 32 and offset in (8, 80, 112, 144)) else "<Q"
        value = value & 0xFFFFFFFF if fmt == "<I" else value
        newer = struct.unpack_from("<Q", data, 40)[0] > struct.unpack_from("<Q", data, 4136)[0]
        block = data[:4096] if newer else data[4096:8192]
        bad = reseal(put(block, offset, fmt, value))
        use_everything(with_file(bad + bad + data[8192:]))


def hostile_map(change):
    """A file whose first map page `change(list of [block, blocks, crc])` has changed, all checksums made right."""
    _vfs, data, _pages = small_file()
    at = 0 if struct.unpack_from("<Q", data, 40)[0] > struct.unpack_from("<Q", data, 4136)[0] else 4096
    block = data[at:at + 4096]
    root = struct.unpack_from("<QII", block, 104)
    directory = data[root[0] * 512:(root[0] + root[1]) * 512]
    where = struct.unpack_from("<QII", directory, 0)
    entries = [list(e) for e in struct.iter_unpack("<QII", data[where[0] * 512:(where[0] + 8) * 512])]
    change(entries)
    page = b"".join(struct.pack("<QII", e[0], e[1] & 0xFFFFFFFF, e[2]) for e in entries)
    directory = put(directory, 0, "<QII", where[0], 8, crc32c_of(page))
    block = reseal(put(block, 104, "<QII", root[0], root[1], crc32c_of(directory)))
    out = bytearray(data)
    out[where[0] * 512:(where[0] + 8) * 512] = page
    out[root[0] * 512:(root[0] + root[1]) * 512] = directory
    out[at:at + 4096] = block
    return with_file(bytes(out))


def use_everything(vfs):
    """Opens, reads, writes, checks: whatever fails has to fail politely. The codes that it failed with."""
    codes = set()

    def attempt(call, *args):
        try:
            return call(*args)
        except Exception:
            codes.add(status.last_error()["code"])
            return None

    store = attempt(StoreDoor, vfs, PATH)
    if store is None:
        assert codes <= {E_CORRUPT, E_NOT_DATABASE, E_NEWER, E_NOMEM}, codes
        return codes
    for pid in (0, 1, 3, 5, 6, 255, 256, 1 << 40):
        attempt(store.read, pid)
        attempt(store.read_blob, pid, 600)
        store.exists(pid)
    attempt(store.meta)
    attempt(store.check, range(1, 6))
    attempt(lambda: store.write({store.alloc(): b"new"}))
    store.free(4)
    store.free(1 << 40)
    attempt(store.checkpoint, b"x")
    attempt(store.compact)
    attempt(store.trim)
    assert codes <= {E_CORRUPT, E_NOMEM}, codes
    return codes


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("field", [0, 1])
def test_hostile_map_entries_are_refused_or_harmless(field, value):
    def change(entries):
        entries[3][field] = value
    assert use_everything(hostile_map(change)) <= {E_CORRUPT}


def test_overlapping_pages_are_corruption_before_anything_is_written():
    def change(entries):
        entries[3] = list(entries[4])
    vfs = hostile_map(change)
    before = vfs.files()[PATH]
    store = StoreDoor(vfs, PATH)
    assert code_of(store.write, {1: b"x"}) == E_CORRUPT
    assert "claim the same blocks" in status.last_error()["text"]
    assert any("overlaps" in f["what"] for f in store.check(range(1, 6)))
    store.close()
    assert vfs.files()[PATH] == before


def test_entries_of_pids_never_given_out_are_corruption():
    def change(entries):
        entries[200] = list(entries[3])
        entries[3] = [0, 0, 0]
    assert code_of(StoreDoor, hostile_map(change), PATH) == E_CORRUPT


def test_syncs_stand_between_the_image_and_its_superblock():
    vfs = FaultVfs()
    store = StoreDoor(vfs, PATH, create=True)
    fill(store, 5)
    start = len(vfs.trace())
    store.checkpoint(b"meta")
    kinds = [(c[0], c[2] < 8192) for c in vfs.trace()[start:] if c[0] in ("write", "sync")]
    names = ["super" if k == ("write", True) else k[0] for k in kinds]
    assert names[-3:] == ["sync", "super", "sync"]
    assert set(names[:-3]) == {"write"}


def test_a_crash_while_creating_leaves_something_that_opens_or_can_be_created_again():
    vfs = FaultVfs()
    StoreDoor(vfs, PATH, create=True).close()
    for cut in range(vfs.mutations + 1):
        for seed in range(10):
            image = vfs.crash_image(cut, seed)
            try:
                store = StoreDoor(image, PATH)
            except Exception:
                store = StoreDoor(image, PATH, create=True)
            assert store.meta() == b"" and store.check([]) == []


def test_memory_and_fault_file_systems_give_the_same_file():
    a, b = MemoryVfs(), FaultVfs()
    for vfs in (a, b):
        store = StoreDoor(vfs, PATH, create=True)
        fill(store, 20)
        store.checkpoint(b"same")
        store.close()
    handle = a.py_open(PATH, 1)
    assert a.py_read(handle, 1 << 20, 0) == b.files()[PATH]
