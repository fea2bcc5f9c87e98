"""Keys and values that are too long or of the wrong type."""

import array
import mmap
import os
import random
from pathlib import Path

import pytest

import enginelib


@pytest.mark.parametrize("page_size", [4096, 8192, 16384, 32768])
def test_the_longest_key_fits_and_one_byte_more_does_not(page_size):
    with enginelib.open(":memory:", page_size=page_size, cache_size=4 << 20) as db:
        ks = db.keyspace("space")
        most = ks.stats()["max_key"]
        if page_size == 8192:
            assert most >= 2000
        for n in range(20):
            ks[bytes([n]) * most] = b"v"
        assert len(ks) == 20
        with db.transaction() as txn:
            long = b"x" * (most + 1)
            for attempt in (
                lambda: ks.put(long, b""),
                lambda: ks.put_many([(long, b"")]),
                lambda: txn.put(ks, long, b""),
                lambda: txn.put(ks, long, b"v" * 100_000),
                lambda: txn.put_many(ks, [(b"ok", b""), (long, b"")]),
                lambda: txn.get_for_update(ks, long),
            ):
                with pytest.raises(ValueError, match=f"{most + 1} bytes.*{most} bytes"):
                    attempt()
            for gone in (lambda: txn.get(ks, long), lambda: ks.get(long), lambda: ks.get_many([long])[0]):
                try:
                    assert gone() is None
                except ValueError:
                    pass


@pytest.mark.parametrize("wrong", ["text", 7, None, 1.5, ["k"], object()])
def test_what_is_no_buffer_is_refused_with_the_remedy(ks, db, wrong):
    remedy = "encode" if isinstance(wrong, str) else "buffer protocol"
    with db.transaction() as txn:
        for attempt in (
            lambda: ks.put(wrong, b"v"),
            lambda: ks.put(b"k", wrong),
            lambda: ks.get(wrong),
            lambda: ks.delete(wrong),
            lambda: ks.get_many([b"k", wrong]),
            lambda: ks.put_many([(b"k", wrong)]),
            lambda: txn.put(ks, wrong, b"v"),
            lambda: txn.put(ks, b"k", wrong),
            lambda: txn.get(ks, wrong),
            lambda: txn.delete(ks, wrong),
            lambda: txn.contains(ks, wrong),
            lambda: txn.get_for_update(ks, wrong),
            lambda: txn.get_many(ks, [wrong]),
            lambda: txn.put_many(ks, [(wrong, b"v")]),
            lambda: txn[ks].get(wrong),
        ):
            with pytest.raises(TypeError, match=remedy):
                attempt()
        if wrong is not None:
            for attempt in (lambda: ks.scan(start=wrong), lambda: ks.scan(stop=wrong), lambda: ks.scan(prefix=wrong)):
                with pytest.raises(TypeError, match=remedy):
                    attempt()
        assert list(txn.scan(ks)) == []


def test_anything_with_the_buffer_protocol_is_taken(ks):
    for number, value in enumerate((bytearray(b"ab"), memoryview(b"xaby")[1:3], array.array("B", b"ab"))):
        ks[bytearray(b"k%d" % number)] = value
        assert ks[memoryview(b"k%d" % number)] == b"ab"
    ks[b"strided"] = memoryview(b"a-b-")[::2]
    assert ks[b"strided"] == b"ab"
    assert all(type(value) is bytes for value in ks.values())


def test_a_buffer_that_changes_afterwards_does_not_change_the_database(ks):
    key, value = bytearray(b"key"), bytearray(b"v" * 100_000)
    ks[key] = value
    key[:] = b"xxx"
    value[:] = b"x" * 100_000
    assert ks[b"key"] == b"v" * 100_000


def test_bad_pairs_are_refused(db, ks):
    with db.transaction() as txn:
        for pairs in ([b"k"], [(b"k",)], [(b"k", b"v", b"x")], 7, [7]):
            with pytest.raises((TypeError, ValueError)):
                txn.put_many(ks, pairs)
        txn.abort()
    assert list(ks) == []


def test_scans_with_bad_arguments_are_refused(ks):
    with pytest.raises(ValueError, match="limit"):
        ks.scan(limit=-1)
    with pytest.raises(ValueError, match="keys"):
        ks.scan(keys=False, values=False)
    with pytest.raises((TypeError, ValueError)):
        ks.scan(limit="x")
    with pytest.raises((OverflowError, ValueError)):
        ks.scan(limit=1 << 70)


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128])
def test_names_of_keyspaces_have_bounds(db, name):
    with pytest.raises(ValueError, match="255"):
        db.keyspace(name)
    with pytest.raises(ValueError, match="255"), db.transaction() as txn:
        txn.create_keyspace(name)
    assert db.keyspaces() == []


def test_a_keyspace_of_another_database_is_refused(db, ks):
    with enginelib.open(":memory:") as other, db.transaction() as txn:
        strange = other.keyspace("space")
        for attempt in (lambda: txn.get(strange, b"k"), lambda: txn.put(strange, b"k", b""), lambda: txn.scan(strange)):
            with pytest.raises(enginelib.UsageError, match="another database"):
                attempt()
        with pytest.raises(TypeError):
            txn.get(None, b"k")
        with pytest.raises(TypeError):
            txn.get("space", b"k")


def test_a_value_of_64_mib(db, ks):
    value = random.Random(1).randbytes(1 << 20) * 64
    ks[b"k"] = value
    assert ks[b"k"] == value
    del ks[b"k"]
    db.checkpoint()
    assert db.stats()["pages"]["used_bytes"] < 1 << 20


def memory_free():
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10


@pytest.mark.skipif(
    not os.environ.get("ENGINELIB_SLOW") or memory_free() < 4 << 30,
    reason="a value of 1 GiB takes 4 GiB of memory and ENGINELIB_SLOW",
)
def test_a_value_of_1_gib(db, ks):
    piece = random.Random(1).randbytes((1 << 20) - 4)
    value = b"".join(n.to_bytes(4, "little") + piece for n in range(1 << 10))      # no two pieces alike
    ks[b"k"] = value
    assert ks[b"k"] == value
    del ks[b"k"]
    db.checkpoint()
    assert db.stats()["pages"]["used_bytes"] < 1 << 20


def test_a_value_of_a_byte_more_than_1_gib_is_refused_before_it_is_copied(db, ks):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with mmap.mmap(-1, (1 << 30) + 1) as zeros, memoryview(zeros) as view, db.transaction() as txn:
        for attempt in (
            lambda: ks.put(b"k", view),
            lambda: txn.put(ks, b"k", view),
            lambda: txn.put_many(ks, [(b"k", view)]),
        ):
            with pytest.raises(ValueError, match=r"1 GiB"):
                attempt()
    assert b"k" not in ks
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10, "the value was copied"
