"""One suite over three file systems; what holds for the operating system's files holds in memory."""

import errno
import os
import subprocess
import sys
import threading

import pytest
from enginelib._native.base import status
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.base.realvfs import RealVfs
from enginelib._native.base.vfs import Vfs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

READ, WRITE, CREATE, EXCLUSIVE, TAIL = 1, 2, 4, 8, 16
NEW = WRITE | CREATE | EXCLUSIVE


@pytest.fixture(autouse=True)
def builtin_errors():
    before = status.registered_errors()
    status.register_errors({})
    yield
    status.register_errors(before)


@pytest.fixture(params=["real", "memory", "fault"])
def fs(request, tmp_path):
    """(file system, an existing directory in it)"""
    if request.param == "real":
        return RealVfs(), str(tmp_path)
    vfs = MemoryVfs() if request.param == "memory" else FaultVfs()
    vfs.py_mkdir("/db")
    return vfs, "/db"


def make(vfs, path, content=b"", flags=0):
    handle = vfs.py_open(path, WRITE | CREATE | flags)
    if content:
        vfs.py_write(handle, content, 0)
    return handle


def content(vfs, path):
    handle = vfs.py_open(path, READ)
    data = vfs.py_read(handle, vfs.py_size(handle) + 10, 0)
    vfs.py_close(handle)
    return data


def test_the_base_class_supports_nothing():
    with pytest.raises(RuntimeError, match="not support"):
        Vfs().py_open("/x", READ)


def test_what_was_written_is_read_back_with_zeros_between(fs):
    vfs, root = fs
    h = make(vfs, f"{root}/a", b"one")
    vfs.py_write(h, b"two", 20_000)
    assert vfs.py_size(h) == 20_003
    assert vfs.py_read(h, 30_000, 0) == b"one" + bytes(19_997) + b"two"
    assert vfs.py_read(h, 2, 20_001) == b"wo"


def test_reading_at_or_past_the_end_gives_nothing(fs):
    vfs, root = fs
    h = make(vfs, f"{root}/a", b"abc")
    assert vfs.py_read(h, 5, 3) == vfs.py_read(h, 5, 1 << 40) == b""


def test_an_absent_file_is_an_answer(fs):
    vfs, root = fs
    assert vfs.py_open(f"{root}/none", READ) is None
    assert vfs.py_open(f"{root}/none", WRITE) is None
    assert vfs.py_open(f"{root}/no/directory", READ) is None
    assert vfs.py_unlink(f"{root}/none") is False
    assert vfs.py_list_dir(f"{root}/none") is None
    assert vfs.py_kind(f"{root}/none") == 0


def test_create_in_a_missing_directory_fails(fs):
    vfs, root = fs
    for flags in (WRITE | CREATE, NEW):
        with pytest.raises(OSError) as caught:
            vfs.py_open(f"{root}/no/file", flags)
        assert caught.value.errno == errno.ENOENT and caught.value.filename == f"{root}/no/file"


def test_exclusive_refuses_what_exists_and_create_does_not_empty_it(fs):
    vfs, root = fs
    vfs.py_close(make(vfs, f"{root}/a", b"abc"))
    with pytest.raises(RuntimeError, match="exists"):
        vfs.py_open(f"{root}/a", NEW)
    vfs.py_close(vfs.py_open(f"{root}/a", WRITE | CREATE))
    assert content(vfs, f"{root}/a") == b"abc"


def test_kinds(fs):
    vfs, root = fs
    make(vfs, f"{root}/a")
    assert vfs.py_kind(f"{root}/a") == 1 and vfs.py_kind(root) == 2 and vfs.py_kind(f"{root}/a/b") == 0


def test_a_directory_cannot_be_opened_or_unlinked_as_a_file(fs):
    vfs, root = fs
    for flags in (READ, WRITE):
        with pytest.raises(OSError):
            vfs.py_open(root, flags)
    vfs.py_mkdir(f"{root}/d")
    with pytest.raises(OSError):
        vfs.py_unlink(f"{root}/d")


def test_mkdir_is_idempotent_but_not_over_a_file(fs):
    vfs, root = fs
    vfs.py_mkdir(f"{root}/d")
    vfs.py_mkdir(f"{root}/d")
    make(vfs, f"{root}/a")
    with pytest.raises(OSError):
        vfs.py_mkdir(f"{root}/a")
    with pytest.raises(OSError):
        vfs.py_mkdir(f"{root}/no/such")


def test_writing_on_a_handle_for_reading_fails(fs):
    vfs, root = fs
    make(vfs, f"{root}/a", b"abc")
    h = vfs.py_open(f"{root}/a", READ)
    for op in (lambda: vfs.py_write(h, b"x", 0), lambda: vfs.py_truncate(h, 1)):
        with pytest.raises(OSError):
            op()
    assert content(vfs, f"{root}/a") == b"abc"


def test_negative_offsets_fail(fs):
    vfs, root = fs
    h = make(vfs, f"{root}/a", b"abc", TAIL)
    for op in (
        lambda: vfs.py_write(h, b"x", -1),
        lambda: vfs.py_read(h, 1, -1),
        lambda: vfs.py_truncate(h, -1),
        lambda: vfs.py_write_tail(h, b"x", -1),
    ):
        with pytest.raises(OSError):
            op()


def test_truncate_cuts_and_grows_with_zeros(fs):
    vfs, root = fs
    h = make(vfs, f"{root}/a", b"x" * 30_000)
    vfs.py_truncate(h, 10_001)
    vfs.py_truncate(h, 40_000)
    assert vfs.py_read(h, 50_000, 0) == b"x" * 10_001 + bytes(29_999)


def test_reserve_makes_zeros_that_can_be_written_to_by_both_ways(fs):
    vfs, root = fs
    h = make(vfs, f"{root}/a", b"", TAIL)
    vfs.py_reserve(h, 3_000_000)
    assert vfs.py_size(h) == 3_000_000
    vfs.py_write_tail(h, b"tail", 1_500_000)
    vfs.py_write(h, b"plain", 2_000_000)
    want = bytearray(3_000_000)
    want[1_500_000:1_500_004] = b"tail"
    want[2_000_000:2_000_005] = b"plain"
    assert vfs.py_read(h, 4_000_000, 0) == want
    reading = vfs.py_open(f"{root}/a", READ)
    with pytest.raises(OSError):
        vfs.py_reserve(reading, 4_000_000)


def test_rename_replaces_and_keeps_handles(fs):
    vfs, root = fs
    h = make(vfs, f"{root}/a", b"new")
    old = make(vfs, f"{root}/b", b"old")
    vfs.py_rename(f"{root}/a", f"{root}/b")
    assert vfs.py_list_dir(root) == ["b"]
    vfs.py_write(h, b"N", 0)
    assert content(vfs, f"{root}/b") == b"New" and vfs.py_read(old, 9, 0) == b"old"


def test_rename_of_nothing_fails_and_onto_itself_does_nothing(fs):
    vfs, root = fs
    with pytest.raises(OSError):
        vfs.py_rename(f"{root}/a", f"{root}/b")
    make(vfs, f"{root}/a", b"abc")
    vfs.py_rename(f"{root}/a", f"{root}/a")
    assert content(vfs, f"{root}/a") == b"abc"


def test_a_renamed_directory_takes_its_content_along(fs):
    vfs, root = fs
    vfs.py_mkdir(f"{root}/d")
    vfs.py_mkdir(f"{root}/d/e")
    make(vfs, f"{root}/d/e/a", b"abc")
    vfs.py_rename(f"{root}/d", f"{root}/f")
    assert content(vfs, f"{root}/f/e/a") == b"abc" and vfs.py_kind(f"{root}/d") == 0


def test_bad_renames_of_directories_fail_alike(fs):
    vfs, root = fs
    for d in ("d", "d/e", "full"):
        vfs.py_mkdir(f"{root}/{d}")
    make(vfs, f"{root}/full/a")
    make(vfs, f"{root}/file")
    for old, new, number in (
        ("d", "d/e/f", errno.EINVAL),
        ("d", "full", errno.ENOTEMPTY),
        ("d", "file", errno.ENOTDIR),
        ("file", "d", errno.EISDIR),
    ):
        with pytest.raises(OSError) as caught:
            vfs.py_rename(f"{root}/{old}", f"{root}/{new}")
        assert caught.value.errno == number


def test_an_unlinked_file_lives_while_it_is_open(fs):
    vfs, root = fs
    h = make(vfs, f"{root}/a", b"abc")
    assert vfs.py_unlink(f"{root}/a") is True
    other = make(vfs, f"{root}/a", b"xyz")
    vfs.py_write(h, b"d", 3)
    assert vfs.py_read(h, 9, 0) == b"abcd" and vfs.py_read(other, 9, 0) == b"xyz"


def test_list_dir_names_everything_in_it(fs):
    vfs, root = fs
    names = [f"file{i:03}" for i in range(200)]
    for name in names:
        vfs.py_close(make(vfs, f"{root}/{name}"))
    vfs.py_mkdir(f"{root}/sub")
    make(vfs, f"{root}/sub/inner")
    assert vfs.py_list_dir(root) == [*names, "sub"] and vfs.py_list_dir(f"{root}/sub") == ["inner"]
    with pytest.raises(OSError):
        vfs.py_list_dir(f"{root}/file000")


def test_syncs_succeed_and_say_what_is_missing(fs):
    vfs, root = fs
    h = make(vfs, f"{root}/a", b"abc")
    vfs.py_sync(h)
    vfs.py_sync_dir(root)
    with pytest.raises(OSError):
        vfs.py_sync_dir(f"{root}/none")


def test_a_closed_or_foreign_handle_is_refused(fs):
    vfs, root = fs
    h = make(vfs, f"{root}/a")
    vfs.py_close(h)
    for bad in (h, -1, 63, 64, 10**6):
        for op in (
            vfs.py_close,
            vfs.py_size,
            vfs.py_sync,
            vfs.py_lock,
            lambda n: vfs.py_read(n, 1, 0),
            lambda n: vfs.py_write(n, b"x", 0),
            lambda n: vfs.py_write_tail(n, b"x", 0),
            lambda n: vfs.py_truncate(n, 0),
            lambda n: vfs.py_lock_byte(n, 0),
            lambda n: vfs.py_test_bytes(n, 0, 1),
        ):
            with pytest.raises(ValueError, match="not open"):
                op(bad)


def test_handles_are_reused_and_hundreds_fit(fs):
    vfs, root = fs
    handles = [make(vfs, f"{root}/{i}", str(i).encode()) for i in range(200)]
    assert len(set(handles)) == 200
    for h in handles[::2]:
        vfs.py_close(h)
    for h, i in zip(handles[1::2], range(1, 200, 2), strict=True):
        assert vfs.py_read(h, 9, 0) == str(i).encode()
    assert vfs.py_open(f"{root}/0", READ) in handles[::2]


def test_one_holder_of_the_whole_file_lock(fs):
    vfs, root = fs
    a = make(vfs, f"{root}/LOCK")
    b = vfs.py_open(f"{root}/LOCK", WRITE)
    vfs.py_lock(a)
    vfs.py_lock(a)
    for exclusive in (True, False):
        with pytest.raises(RuntimeError, match="LOCK"):
            vfs.py_lock(b, exclusive)
    vfs.py_close(a)
    vfs.py_lock(b)


def test_shared_locks_admit_each_other_only(fs):
    vfs, root = fs
    a = make(vfs, f"{root}/LOCK")
    b = vfs.py_open(f"{root}/LOCK", WRITE)
    c = vfs.py_open(f"{root}/LOCK", WRITE)
    vfs.py_lock(a, False)
    vfs.py_lock(b, False)
    with pytest.raises(RuntimeError):
        vfs.py_lock(c, True)
    vfs.py_close(b)
    vfs.py_lock(a, True)
    with pytest.raises(RuntimeError):
        vfs.py_lock(c, False)


def test_byte_locks_are_seen_by_others_and_not_by_the_holder(fs):
    vfs, root = fs
    if isinstance(vfs, RealVfs) and not sys.platform.startswith("linux"):
        pytest.skip("locks of an open file are a Linux matter")
    a = make(vfs, f"{root}/LOCK")
    b = vfs.py_open(f"{root}/LOCK", WRITE)
    vfs.py_lock_byte(a, 107)
    vfs.py_lock_byte(b, 107)
    assert vfs.py_test_bytes(b, 100, 10)
    assert not vfs.py_test_bytes(b, 100, 7) and not vfs.py_test_bytes(b, 108, 10)
    vfs.py_lock_byte(b, 107, False)
    assert not vfs.py_test_bytes(a, 0, 1000) and vfs.py_test_bytes(b, 0, 1000)
    vfs.py_close(a)
    assert not vfs.py_test_bytes(b, 0, 1000)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 30_000), st.binary(min_size=1, max_size=9000)),
            st.tuples(st.just("tail"), st.integers(0, 30_000), st.binary(min_size=1, max_size=9000)),
            st.tuples(st.just("zeros"), st.integers(0, 30_000), st.integers(1, 20_000).map(bytes)),
            st.tuples(st.just("truncate"), st.integers(0, 40_000), st.just(b"")),
        ),
        max_size=25,
    )
)
def test_any_sequence_of_changes_gives_what_a_bytearray_gives(fs, steps):
    vfs, root = fs
    h = vfs.py_open(f"{root}/model", WRITE | CREATE | TAIL)
    vfs.py_truncate(h, 0)
    model = bytearray()
    for what, offset, data in steps:
        if what == "truncate":
            vfs.py_truncate(h, offset)
            model = model[:offset] + bytes(max(0, offset - len(model)))
            continue
        (vfs.py_write_tail if what == "tail" else vfs.py_write)(h, data, offset)
        model += bytes(max(0, offset + len(data) - len(model)))
        model[offset : offset + len(data)] = data
        assert vfs.py_size(h) == len(model)
    assert vfs.py_read(h, 100_000, 0) == bytes(model)
    vfs.py_close(h)


def test_many_threads_may_use_one_file_system(fs):
    vfs, root = fs
    errors = []

    def work(n):
        try:
            for i in range(60):
                h = make(vfs, f"{root}/{n}", bytes([n]) * 5000, TAIL)
                vfs.py_write_tail(h, bytes([n]) * 100, i * 10)
                assert vfs.py_read(h, 6000, 0) == bytes([n]) * 5000
                vfs.py_close(h)
                vfs.py_rename(f"{root}/{n}", f"{root}/r{n}")
                assert vfs.py_unlink(f"{root}/r{n}")
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and vfs.py_list_dir(root) == []


# ---- Real files only


def test_write_tail_is_seen_by_read_by_other_handles_and_by_other_processes(tmp_path):
    vfs, path = RealVfs(), tmp_path / "0.wal"
    h = make(vfs, path, bytes(3 << 20), TAIL)
    reader = vfs.py_open(path, READ)
    # Within a step, across steps, across windows, and back again.
    for offset, n in (
        (0, 170),
        (16_300, 200),
        ((1 << 20) - 5, 10),
        ((2 << 20) - 100, 40_000),
        (100, 5),
        ((3 << 20) - 7, 7),
    ):
        data = os.urandom(n)
        vfs.py_write_tail(h, data, offset)
        assert vfs.py_read(h, n, offset) == vfs.py_read(reader, n, offset) == data
        assert path.read_bytes()[offset : offset + n] == data
    assert vfs.py_size(h) == 3 << 20


def test_write_tail_past_the_end_grows_the_file(tmp_path):
    vfs, path = RealVfs(), tmp_path / "0.wal"
    h = make(vfs, path, b"x" * 5000, TAIL)
    vfs.py_write_tail(h, b"a", 10)
    vfs.py_write_tail(h, b"bcd", 4999)
    vfs.py_write_tail(h, b"e", 9000)
    vfs.py_write_tail(h, b"f", 5001)
    assert path.read_bytes() == b"x" * 10 + b"a" + b"x" * 4988 + b"bcf" + bytes(3998) + b"e"


def test_write_tail_after_truncation_never_touches_a_lost_page(tmp_path):
    vfs, path = RealVfs(), tmp_path / "0.wal"
    h = make(vfs, path, b"x" * 100_000, TAIL)
    vfs.py_write_tail(h, b"a", 50_000)
    vfs.py_truncate(h, 1000)
    vfs.py_write_tail(h, b"b", 50_000)
    assert path.read_bytes() == b"x" * 1000 + bytes(49_000) + b"b"


def test_write_tail_survives_the_death_of_the_process(tmp_path):
    path = tmp_path / "0.wal"
    code = f"""
import os
from enginelib._native.base.realvfs import RealVfs
v = RealVfs()
h = v.py_open({str(path)!r}, 2 | 4 | 16)
v.py_write(h, bytes(100000), 0)
v.py_write_tail(h, b"here", 40000)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert path.read_bytes()[40_000:40_004] == b"here"


def test_locks_hold_across_processes_and_end_with_the_holder(tmp_path):
    path = tmp_path / "LOCK"
    code = f"""
import sys
from enginelib._native.base.realvfs import RealVfs
v = RealVfs()
h = v.py_open({str(path)!r}, 2 | 4)
v.py_lock(h)
v.py_lock_byte(h, 77)
print("held", flush=True)
sys.stdin.readline()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        vfs = RealVfs()
        h = vfs.py_open(path, WRITE)
        with pytest.raises(RuntimeError, match="Another process"):
            vfs.py_lock(h)
        assert vfs.py_test_bytes(h, 70, 10)
    finally:
        child.kill()
        child.communicate()
    vfs.py_lock(h)
    assert not vfs.py_test_bytes(h, 70, 10)


def test_descriptors_are_not_inherited_by_programs_we_start(tmp_path):
    vfs = RealVfs()
    make(vfs, tmp_path / "a")
    code = (
        "import os, sys; names = [os.path.realpath(f'/dev/fd/{n}') for n in os.listdir('/dev/fd')];"
        "sys.exit(any(name.endswith('/a') for name in names))"
    )
    assert subprocess.run([sys.executable, "-c", code], close_fds=False).returncode == 0


def test_dropping_the_file_system_closes_its_files(tmp_path):
    before = len(os.listdir("/dev/fd"))
    vfs = RealVfs()
    for i in range(70):
        h = make(vfs, tmp_path / str(i), bytes(5000), TAIL)
        vfs.py_write_tail(h, b"x", 1)
    assert len(os.listdir("/dev/fd")) == before + 70
    del vfs
    assert len(os.listdir("/dev/fd")) == before


def test_a_full_device_is_its_own_code():
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    vfs = RealVfs()
    h = vfs.py_open("/dev/full", WRITE)
    with pytest.raises(OSError) as caught:
        vfs.py_write(h, b"x", 0)
    assert caught.value.errno == errno.ENOSPC and status.last_error()["code"] == 18
