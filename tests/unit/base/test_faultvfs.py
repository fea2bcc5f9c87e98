"""The promises of the fault-injecting file system: what a crash may and must leave, what fails on demand."""

import errno
import random
import threading

import pytest
from enginelib._native.base import status
from enginelib._native.base.faultvfs import FaultVfs
from hypothesis import given, settings
from hypothesis import strategies as st

READ, WRITE, CREATE, TAIL = 1, 2, 4, 16
SECTOR = 512
SEEDS = range(300)


@pytest.fixture(autouse=True)
def builtin_errors():
    before = status.registered_errors()
    status.register_errors({})
    yield
    status.register_errors(before)


def with_file(content=bytes(4096), path="/db/a"):
    vfs = FaultVfs()
    vfs.put_file(path, content)
    return vfs, vfs.py_open(path, WRITE)


def images(vfs, cut=None, mode="power", seeds=SEEDS):
    return [vfs.crash_image(vfs.mutations if cut is None else cut, seed, mode).files() for seed in seeds]


# ---- The journal


def test_every_call_counts_and_only_changes_and_syncs_are_mutations():
    vfs, h = with_file()
    assert (vfs.calls, vfs.mutations) == (1, 0)
    vfs.py_read(h, 10, 0)
    vfs.py_size(h)
    vfs.py_list_dir("/db")
    vfs.py_kind("/db/none")
    vfs.py_open("/db/none", READ)
    assert (vfs.calls, vfs.mutations) == (6, 0)
    vfs.py_write(h, b"x", 0)
    vfs.py_write_tail(h, b"x", 0)
    vfs.py_sync(h)
    vfs.py_truncate(h, 10)
    vfs.py_mkdir("/db/d")
    vfs.py_mkdir("/db/d")
    vfs.py_open("/db/b", WRITE | CREATE)
    vfs.py_rename("/db/b", "/db/c")
    vfs.py_unlink("/db/c")
    vfs.py_unlink("/db/c")
    vfs.py_sync_dir("/db")
    assert (vfs.calls, vfs.mutations) == (17, 9)


def test_trace_tells_each_call():
    vfs, h = with_file()
    vfs.py_write(h, b"abc", 7)
    vfs.py_unlink("/db/none")
    assert vfs.trace() == [
        ("open", "/db/a", -1, WRITE, 0, 0),
        ("write", "/db/a", 7, 3, 0, 1),
        ("unlink", "/db/none", -1, -1, 1, 1),
    ]


def test_markers_keep_their_journal_position():
    vfs, h = with_file()
    vfs.set_marker(1)
    vfs.py_write(h, b"abc", 7)
    vfs.set_marker(2)
    assert vfs.markers() == [(0, 1), (1, 2)]


def test_calls_from_many_threads_are_all_counted():
    vfs, h = with_file()
    threads = [
        threading.Thread(target=lambda: [vfs.py_write(h, b"x", i) for i in range(500)]) for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (vfs.calls, vfs.mutations) == (2001, 2000)


# ---- Modes


def test_kill_leaves_exactly_what_the_calls_before_the_cut_did():
    vfs, h = with_file(b"")
    for i in range(10):
        vfs.py_write(h, bytes([i]) * 700, i * 700)
    for cut in range(11):
        expected = b"".join(bytes([i]) * 700 for i in range(cut))
        for mode in ("kill", "all"):
            assert vfs.crash_image(cut, 3, mode).files() == {"/db/a": expected}


def test_what_survived_a_kill_is_not_durable_until_synced():
    vfs, h = with_file(b"old!")
    vfs.py_write(h, b"new!", 0)
    image = vfs.crash_image(1, 0, "kill")
    assert image.files() == {"/db/a": b"new!"} and image.files(durable=True) == {"/db/a": b"old!"}
    assert {f["/db/a"] for f in images(image)} == {b"old!", b"new!"}
    image.py_sync(image.py_open("/db/a", WRITE))
    assert {f["/db/a"] for f in images(image)} == {b"new!"}


def test_all_is_durable():
    vfs, h = with_file(b"old!")
    vfs.py_write(h, b"new!", 0)
    vfs.py_open("/db/b", WRITE | CREATE)
    image = vfs.crash_image(2, 0, "all")
    assert image.files(durable=True) == {"/db/a": b"new!", "/db/b": b""}


def test_lost_keeps_nothing_that_was_not_synced():
    vfs, h = with_file(b"old!")
    vfs.py_write(h, b"new!new", 0)
    vfs.py_open("/db/b", WRITE | CREATE)
    assert vfs.crash_image(2, 0, "lost").files() == {"/db/a": b"old!"}
    vfs.py_sync(h)
    assert vfs.crash_image(3, 0, "lost").files() == {"/db/a": b"new!new"}


def test_images_are_independent_empty_of_journal_and_unlocked():
    vfs, h = with_file(b"old!")
    vfs.py_lock(h)
    vfs.py_lock_byte(h, 5)
    image = vfs.crash_image(0, 0, "kill")
    assert (image.calls, image.mutations, image.trace()) == (0, 0, [])
    g = image.py_open("/db/a", WRITE)
    image.py_lock(g)
    assert not image.py_test_bytes(g, 0, 10)
    image.py_write(g, b"image", 0)
    vfs.py_write(h, b"origin", 0)
    assert (vfs.files(), image.files()) == ({"/db/a": b"origin"}, {"/db/a": b"image"})


def test_an_image_can_crash_again():
    vfs, h = with_file(bytes(2048))
    vfs.py_write(h, b"1" * 2048, 0)
    image = vfs.crash_image(1, 5, "power")
    before = image.files()["/db/a"]
    g = image.py_open("/db/a", WRITE)
    image.py_write(g, b"2" * 512, 0)
    assert {f["/db/a"] for f in images(image)} == {before, b"2" * 512 + before[512:]}


def test_the_same_seed_gives_the_same_image_in_any_order_of_asking():
    vfs, h = with_file(bytes(20_000))
    rng = random.Random(5)
    for _ in range(60):
        vfs.py_write(h, bytes([rng.randrange(1, 256)]) * rng.randrange(1, 5000), rng.randrange(20_000))
        if rng.random() < 0.2:
            vfs.py_sync(h)
    cuts = range(vfs.mutations + 1)
    first = {cut: vfs.crash_image(cut, 9, "power").files() for cut in cuts}
    for cut in reversed(cuts):
        assert vfs.crash_image(cut, 9, "power").files() == first[cut]


def test_bad_cuts_and_modes_are_refused():
    vfs, _ = with_file()
    for cut, mode in ((1, "kill"), (-1, "kill"), (0, "fire")):
        with pytest.raises(ValueError):
            vfs.crash_image(cut, 0, mode)


# ---- Power loss: contents


def test_unsynced_sectors_are_lost_independently():
    vfs, h = with_file(bytes(4 * SECTOR))
    vfs.py_write(h, b"x" * 4 * SECTOR, 0)
    seen = set()
    for files in images(vfs, seeds=range(2000)):
        data = files["/db/a"]
        sectors = [data[i : i + SECTOR] for i in range(0, 4 * SECTOR, SECTOR)]
        assert all(s in (bytes(SECTOR), b"x" * SECTOR) for s in sectors)
        seen.add(tuple(s[0] for s in sectors))
    assert len(seen) == 16


def test_synced_content_survives_whole():
    vfs, h = with_file(bytes(10_000))
    vfs.py_write(h, b"x" * 9000, 100)
    vfs.py_sync(h)
    vfs.py_write(h, b"y", 9999)
    for files in images(vfs):
        assert files["/db/a"][:9728] == bytes(100) + b"x" * 9000 + bytes(628)


def test_a_sector_holds_a_moment_of_its_history_never_a_mixture():
    vfs, h = with_file(bytes(SECTOR))
    moments = [bytearray(SECTOR)]
    for i in range(1, 6):
        vfs.py_write(h, bytes([i]) * 60, i * 50)
        moments.append(bytearray(moments[-1]))
        moments[-1][i * 50 : i * 50 + 60] = bytes([i]) * 60
    seen = {f["/db/a"] for f in images(vfs)}
    assert seen == {bytes(m) for m in moments}


def test_writes_may_reach_the_medium_in_any_order():
    vfs, h = with_file(bytes(2 * SECTOR))
    vfs.py_write(h, b"first", 0)
    vfs.py_write(h, b"second", SECTOR)
    seen = {(f["/db/a"][0] != 0, f["/db/a"][SECTOR] != 0) for f in images(vfs)}
    assert seen == {(False, False), (True, False), (False, True), (True, True)}


def test_the_write_in_flight_may_be_there_in_part():
    vfs, h = with_file(bytes(2 * SECTOR))
    vfs.py_write(h, b"x" * 2 * SECTOR, 0)
    seen = {(f["/db/a"][0], f["/db/a"][SECTOR]) for f in images(vfs, cut=0)}
    assert seen == {(0, 0), (0, 120), (120, 0), (120, 120)}
    assert vfs.crash_image(0, 0, "kill").files() == {"/db/a": bytes(2 * SECTOR)}


def test_an_unsynced_size_may_be_old_or_new():
    vfs, h = with_file(b"a" * 100)
    vfs.py_write(h, b"b" * 100, 100)
    vfs.py_write(h, b"c" * 1000, 5000)
    seen = {len(f["/db/a"]) for f in images(vfs)}
    assert seen == {100, 200, 6000}
    vfs.py_sync(h)
    assert {len(f["/db/a"]) for f in images(vfs)} == {6000}


def test_an_unsynced_truncation_may_be_lost():
    vfs, h = with_file(b"a" * 3000)
    vfs.py_truncate(h, 1000)
    assert {f["/db/a"] for f in images(vfs)} == {b"a" * 3000, b"a" * 1000}
    vfs.py_truncate(h, 2000)
    assert {f["/db/a"] for f in images(vfs)} == {b"a" * 3000, b"a" * 1000, b"a" * 1000 + bytes(1000)}
    vfs.py_sync(h)
    assert {f["/db/a"] for f in images(vfs)} == {b"a" * 1000 + bytes(1000)}


def test_a_sector_never_mixes_moments_from_both_sides_of_a_lost_truncation():
    """A later write that got through was put over bytes which the truncation had cut off long before."""
    vfs, h = with_file(b"oooo")
    vfs.py_truncate(h, 0)
    vfs.py_write(h, b"n", 0)
    assert {f["/db/a"] for f in images(vfs)} == {b"oooo", b"n" + bytes(3), b"", b"n", bytes(1)}


def test_a_sync_of_one_file_does_nothing_for_another():
    vfs, a = with_file(b"old")
    vfs.put_file("/db/b", b"old")
    b = vfs.py_open("/db/b", WRITE)
    vfs.py_write(a, b"new", 0)
    vfs.py_write(b, b"new", 0)
    vfs.py_sync(a)
    assert {(f["/db/a"], f["/db/b"]) for f in images(vfs)} == {(b"new", b"old"), (b"new", b"new")}


# ---- Power loss: directories


def test_a_synced_file_vanishes_if_its_name_was_never_synced():
    vfs, _ = with_file(b"")
    h = vfs.py_open("/db/new", WRITE | CREATE)
    vfs.py_write(h, b"data", 0)
    vfs.py_sync(h)
    assert {f.get("/db/new") for f in images(vfs)} == {None, b"data"}
    vfs.py_sync_dir("/db")
    assert {f.get("/db/new") for f in images(vfs)} == {b"data"}


def test_a_name_survives_without_its_content():
    vfs, _ = with_file(b"")
    h = vfs.py_open("/db/new", WRITE | CREATE)
    vfs.py_sync_dir("/db")
    vfs.py_write(h, b"data", 0)
    assert {f.get("/db/new") for f in images(vfs)} == {b"", b"data", bytes(4)}


def test_changes_of_a_directory_are_lost_independently():
    vfs, _ = with_file(b"")
    for name in "xyz":
        vfs.py_open(f"/db/{name}", WRITE | CREATE)
    seen = {tuple(f"/db/{n}" in f for n in "xyz") for f in images(vfs)}
    assert len(seen) == 8


def test_a_rename_is_atomic():
    vfs, _ = with_file(b"new", "/db/tmp")
    vfs.put_file("/db/cur", b"old")
    vfs.py_rename("/db/tmp", "/db/cur")
    before, after = {"/db/tmp": b"new", "/db/cur": b"old"}, {"/db/cur": b"new"}
    seen = images(vfs)
    assert all(f in (before, after) for f in seen) and before in seen and after in seen
    vfs.py_sync_dir("/db")
    assert all(f == after for f in images(vfs))


def test_a_renamed_durable_file_is_never_under_neither_or_both_names():
    vfs, _ = with_file(b"data", "/db/a")
    vfs.py_rename("/db/a", "/db/b")
    vfs.py_open("/db/a", WRITE | CREATE)
    vfs.py_rename("/db/b", "/db/c")
    for files in images(vfs, seeds=range(1000)):
        assert list(files.values()).count(b"data") == 1


def test_a_rename_across_directories_is_made_durable_by_either():
    for synced in ("/db/d", "/db/e"):
        vfs, _ = with_file(b"data", "/db/d/a")
        vfs.put_file("/db/e/x", b"")
        vfs.py_rename("/db/d/a", "/db/e/a")
        assert {("/db/d/a" in f, "/db/e/a" in f) for f in images(vfs)} == {(True, False), (False, True)}
        vfs.py_sync_dir(synced)
        assert all("/db/e/a" in f and "/db/d/a" not in f for f in images(vfs))


def test_an_unsynced_unlink_may_come_back_with_its_content():
    vfs, h = with_file(b"data")
    vfs.py_unlink("/db/a")
    vfs.py_write(h, b"DATA", 0)
    vfs.py_sync(h)
    assert {f.get("/db/a") for f in images(vfs)} == {None, b"DATA"}
    vfs.py_sync_dir("/db")
    assert {f.get("/db/a") for f in images(vfs)} == {None}


def test_what_lies_in_a_lost_directory_is_lost():
    vfs, _ = with_file(b"")
    vfs.py_mkdir("/db/d")
    h = vfs.py_open("/db/d/a", WRITE | CREATE)
    vfs.py_write(h, b"data", 0)
    vfs.py_sync(h)
    vfs.py_sync_dir("/db/d")
    seen = images(vfs)
    assert {f.get("/db/d/a") for f in seen} == {None, b"data"}
    assert vfs.crash_image(vfs.mutations, 0, "lost").directories() == ["/db"]
    vfs.py_sync_dir("/db")
    assert {f.get("/db/d/a") for f in images(vfs)} == {b"data"}


def test_a_creation_in_flight_may_have_happened():
    vfs, _ = with_file(b"")
    vfs.py_open("/db/b", WRITE | CREATE)
    assert {"/db/b" in f for f in images(vfs, cut=0)} == {False, True}
    assert "/db/b" not in vfs.crash_image(0, 0, "kill").files()


# ---- Failures on demand


def fails(number, op, *args):
    with pytest.raises(OSError) as caught:
        op(*args)
    assert caught.value.errno == number


def test_exactly_the_chosen_call_fails():
    vfs, h = with_file(b"abc")
    vfs.inject(2, errno.EIO)
    vfs.py_read(h, 1, 0)
    vfs.py_size(h)
    fails(errno.EIO, vfs.py_read, h, 1, 0)
    assert vfs.py_read(h, 3, 0) == b"abc"


@pytest.mark.parametrize(
    "name,args",
    [
        ("py_open", ("/db/a", WRITE)),
        ("py_open", ("/db/new", WRITE | CREATE)),
        ("py_read", (0, 1, 0)),
        ("py_write", (0, b"x", 0)),
        ("py_write_tail", (0, b"x", 0)),
        ("py_sync", (0,)),
        ("py_size", (0,)),
        ("py_truncate", (0, 0)),
        ("py_kind", ("/db",)),
        ("py_mkdir", ("/db/d",)),
        ("py_rename", ("/db/a", "/db/b")),
        ("py_unlink", ("/db/a",)),
        ("py_sync_dir", ("/db",)),
        ("py_list_dir", ("/db",)),
        ("py_lock", (0,)),
        ("py_lock_byte", (0, 1)),
        ("py_test_bytes", (0, 1, 1)),
        ("py_close", (0,)),
    ],
)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_every_kind_of_call_can_fail_and_then_changes_nothing(name, args, number):
    vfs, h = with_file(b"abc")
    assert h == 0
    vfs.inject(0, number)
    fails(number, getattr(vfs, name), *args)
    assert vfs.files() == {"/db/a": b"abc"} and vfs.directories() == ["/db"]
    assert vfs.mutations == (name == "py_sync")
    assert status.last_error()["code"] == (18 if number == errno.ENOSPC else 17)


def test_a_short_write_leaves_a_part():
    vfs, h = with_file(bytes(1000))
    vfs.inject(0, errno.ENOSPC, short=True)
    fails(errno.ENOSPC, vfs.py_write, h, b"x" * 1000, 0)
    data = vfs.files()["/db/a"]
    n = data.count(b"x")
    assert 0 < n < 1000 and data == b"x" * n + bytes(1000 - n)
    assert vfs.crash_image(1, 0, "kill").files() == {"/db/a": data}


def test_a_sticky_failure_strikes_every_later_call_of_its_kind_until_healed():
    vfs, h = with_file(bytes(10))
    vfs.inject(1, errno.ENOSPC, sticky=True)
    vfs.py_read(h, 1, 0)
    for _ in range(3):
        fails(errno.ENOSPC, vfs.py_write, h, b"x", 0)
        fails(errno.ENOSPC, vfs.py_write_tail, h, b"x", 0)
    vfs.py_read(h, 1, 0)
    vfs.py_truncate(h, 5)
    vfs.clear_injections()
    vfs.py_write(h, b"x", 0)


def test_a_failed_sync_loses_what_it_was_to_save_and_a_later_one_does_not_bring_it_back():
    """fsyncgate: the kernel marks the pages clean; reading still shows them, the medium never has them."""
    vfs, h = with_file(b"o" * 2 * SECTOR)
    vfs.py_write(h, b"lost", 0)
    vfs.inject(0, errno.EIO)
    fails(errno.EIO, vfs.py_sync, h)
    vfs.py_write(h, b"kept", SECTOR)
    vfs.py_sync(h)
    assert vfs.py_read(h, 4, 0) == b"lost"
    for mode in ("power", "lost"):
        for files in images(vfs, mode=mode):
            assert files["/db/a"][:4] == b"oooo" and files["/db/a"][SECTOR : SECTOR + 4] == b"kept"
    vfs.py_write(h, b"again", 0)
    vfs.py_sync(h)
    assert vfs.crash_image(vfs.mutations, 0, "lost").files()["/db/a"][:5] == b"again"


def test_a_stopped_process_changes_nothing_more():
    vfs, h = with_file(bytes(10))
    vfs.stop_at(2)
    vfs.py_write(h, b"a", 0)
    vfs.py_write(h, b"b", 1)
    before = vfs.files()
    for op in (
        lambda: vfs.py_write(h, b"c", 2),
        lambda: vfs.py_read(h, 1, 0),
        lambda: vfs.py_sync(h),
        lambda: vfs.py_open("/db/x", WRITE | CREATE),
        lambda: vfs.py_kind("/db"),
    ):
        fails(errno.EIO, op)
    assert vfs.files() == before and vfs.mutations == 2


# ---- A test's own changes


def test_put_file_is_durable_at_once_also_in_a_running_journal():
    vfs, h = with_file(b"abc")
    vfs.py_write(h, b"x", 0)
    vfs.put_file("/db/sub/new", b"put")
    vfs.put_file("/db/a", b"replaced")
    assert vfs.files() == {"/db/a": b"replaced", "/db/sub/new": b"put"}
    for mode in ("kill", "power", "lost", "all"):
        assert vfs.crash_image(vfs.mutations, 1, mode).files() == vfs.files()
    assert vfs.crash_image(1, 1, "kill").files() == {"/db/a": b"xbc"}


def test_corrupt_flips_bits_live_and_durable():
    for begun in (False, True):
        vfs, h = with_file(b"abc")
        if begun:
            vfs.py_write(h, b"a", 0)
            vfs.py_sync(h)
        vfs.corrupt("/db/a", 1, 0x01)
        assert vfs.files() == vfs.files(durable=True) == {"/db/a": b"acc"}
    with pytest.raises(ValueError):
        vfs.corrupt("/db/a", 3, 1)
    with pytest.raises(ValueError):
        vfs.corrupt("/db/none", 0, 1)


# ---- Everything at once, against a model

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from("abc"), st.integers(0, 3000), st.integers(1, 1500)),
        st.tuples(st.just("truncate"), st.sampled_from("abc"), st.integers(0, 4000), st.just(0)),
        st.tuples(
            st.sampled_from(["sync", "unlink", "sync_dir"]), st.sampled_from("abc"), st.just(0), st.just(0)
        ),
        st.tuples(st.just("rename"), st.sampled_from("abc"), st.integers(0, 2), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(0, 2**63))
def test_every_image_is_one_that_the_promises_allow(steps, seed):
    """A sector is some moment of it since its file's last sync, and durable names are there."""
    vfs = FaultVfs()
    vfs.put_file("/db/keep", b"k")
    handles, contents, moments, certain = {}, {}, {}, {}
    history = [({}, {}, {})]  # per journal position: live contents, moments by file id, certain names
    ids = {}

    def snap():
        while len(history) <= vfs.mutations:
            history.append(
                (
                    {n: bytes(contents[i]) for n, i in ids.items()},
                    {i: [set(s) for s in m] for i, m in moments.items()},
                    dict(certain),
                )
            )

    def sectors(data):
        return [bytes(data[o : o + SECTOR]).ljust(SECTOR, b"\0") for o in range(0, 6144, SECTOR)]

    fresh = 0
    for number, (what, name, x, n) in enumerate(steps):
        path = f"/db/{name}"
        if what in ("write", "truncate", "sync"):
            if name not in ids:
                fresh += 1
                ids[name] = fresh
                handles[fresh] = vfs.py_open(path, WRITE | CREATE)
                contents[fresh] = bytearray()
                moments[fresh] = [{bytes(SECTOR)} for _ in range(12)]
                certain.pop(name, None)
                snap()
            i = ids[name]
            data = contents[i]
            if what == "write":
                vfs.py_write(handles[i], bytes([number + 1]) * n, x)
                data.extend(bytes(max(0, x + n - len(data))))
                data[x : x + n] = bytes([number + 1]) * n
            elif what == "truncate":
                vfs.py_truncate(handles[i], x)
                del data[x:]
                data.extend(bytes(x - len(data)))
            else:
                vfs.py_sync(handles[i])
                moments[i] = [set() for _ in range(12)]
            for possible, s in zip(moments[i], sectors(data), strict=True):
                possible.add(s)
        elif what == "sync_dir":
            vfs.py_sync_dir("/db")
            certain.clear()
            certain.update(ids)
        elif name in ids:
            if what == "unlink":
                vfs.py_unlink(path)
                del ids[name]
                certain.pop(name, None)
            else:
                target = "abc"[x]
                if target != name:
                    vfs.py_rename(path, f"/db/{target}")
                    ids[target] = ids.pop(name)
                    certain.pop(name, None)
                    certain.pop(target, None)
        snap()
    snap()
    for cut in range(vfs.mutations + 1):
        live, _, _ = history[cut]
        killed = vfs.crash_image(cut, seed, "kill").files()
        assert killed == {"/db/keep": b"k"} | {f"/db/{n}": d for n, d in live.items()}
        after = history[min(cut + 1, vfs.mutations)]
        for mode in ("power", "lost"):
            files = vfs.crash_image(cut, seed, mode).files()
            assert files.pop("/db/keep") == b"k"
            # Names that are certain both before and after the call in flight are there, as that file.
            sure = {n: i for n, i in history[cut][2].items() if after[2].get(n) == i}
            assert {f"/db/{n}" for n in sure} <= set(files)
            for path, data in files.items():
                candidates = (
                    [sure[path[-1]]] if path[-1] in sure else list(set(history[cut][1]) | set(after[1]))
                )
                assert any(
                    all(
                        s in history[cut][1].get(i, blank)[k] | after[1].get(i, blank)[k]
                        or is_cut(data, k)
                        or zeroed(s, history[cut][1].get(i, blank)[k] | after[1].get(i, blank)[k])
                        for k, s in enumerate(sectors(data))
                    )
                    for i in candidates
                ), (cut, mode, path)


blank = [{bytes(SECTOR)}] * 12


def is_cut(data, k):
    """The sector holds the file's end, or lies beyond it: what is there is partly or wholly gone."""
    return len(data) < (k + 1) * SECTOR


def zeroed(s, possible):
    """A moment of the sector, or zeros in part: cut off by a truncation that a later change outgrew."""
    return any(all(a in (0, b) for a, b in zip(s, p, strict=True)) for p in possible)
