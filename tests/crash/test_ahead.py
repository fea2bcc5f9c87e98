"""Recovery that looks ahead in its log ends where recovery without does: with helpers, with tiny caches, with media that fail."""

import errno
import os
import random

import pytest
from _history import LAZY, content
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreDatabase, CoreKeyspace, CoreTransaction

from enginelib import errors

TINY = {
    "page_size": 4096,
    "cache_size": 65536,
    "segment_size": 65536,
    "log_buffer": 4096,
    "checkpoint_bytes": 1 << 40,
    "version_budget": 1 << 24,
    "transaction_budget": 1 << 24,
    "durability": LAZY,
    "lazy_interval": 1000.0,
    "background": False,
    "lock_timeout": 0.0,
}
ROOMY = {"cache_size": 16 << 20}
FIRST_PAGES = 8192  # where the page file's pages begin


@pytest.fixture(params=[0, 1, 3], ids=["alone", "one helper", "three helpers"])
def options(request, monkeypatch):
    """Options under which recovery has so many helpers; nobody has any without the background thread."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(1 + request.param)))
    return {"background": request.param > 0}


def opened(vfs, **options):
    return CoreDatabase("/db", vfs=vfs, **{**TINY, **options})


def killed(db, vfs):
    db.sync()
    return vfs.crash_image(vfs.mutations, 0, "kill")


def recovered(image, **options):
    """What a database shows that is opened on these files; they stay as they are."""
    db = opened(image.crash_image(image.mutations, 0, "kill"), **options)
    try:
        findings, _ = db.verify()
        assert not findings
        return content(db)
    finally:
        db.abandon()


@pytest.fixture(scope="module")
def scattered():
    """A checkpoint of 12,000 records, and 4,000 changes all over them in the log; the files, and what they hold."""
    vfs = FaultVfs()
    db = opened(vfs, **ROOMY)
    table = db.core_keyspace(CoreKeyspace, "table")
    rng = random.Random(3)
    keys = [rng.randbytes(16) for _ in range(12000)]
    table.put_many([(key, b"old" * 20) for key in sorted(keys)])
    db.checkpoint()
    for start in range(0, 4000, 100):
        table.put_many([(key, b"new%d" % start * 10) for key in keys[start : start + 100]])
    image, state = killed(db, vfs), content(db)
    db.abandon()
    return image, state


def entangled(db, rng):
    """Transactions of every kind, some of them at once: keyspaces come and go, large values, savepoints, rollbacks."""
    names = [f"k{i}" for i in range(5)]
    keys = [b"%04d" % i * rng.choice((1, 4, 25)) for i in range(1500)]
    for name in names:
        db.core_keyspace(CoreKeyspace, name).put_many([(key, b"first" * rng.randrange(30)) for key in sorted(keys)])
    db.checkpoint()
    for turn in range(150):
        if turn in (40, 90):
            db.drop_keyspace(names[turn % 3])
        if turn in (60, 100):
            db.core_keyspace(CoreKeyspace, names[turn % 3 + 1])
        txn = db.core_transaction(CoreTransaction, False)
        depth = None
        for _ in range(rng.randrange(60)):
            rows = txn.catalog_rows()
            table = db.core_keyspace(CoreKeyspace, rng.choice(rows)[0], False)
            key = rng.choice(keys)
            if rng.random() < 0.1:
                depth = txn.save() if depth is None else txn.rollback_to(depth)
            elif rng.random() < 0.3:
                txn.delete(table, key)
            else:
                txn.put(table, key, rng.randbytes(rng.choice((3, 60, 400, 400, 9000))))
        if rng.random() < 0.2:
            txn.abort()
        else:
            txn.commit()
    loser = db.core_transaction(CoreTransaction, False)
    for row in loser.catalog_rows():
        loser.put_many(db.core_keyspace(CoreKeyspace, row[0], False), [(key, b"never") for key in keys[::7]])
    return loser


@pytest.mark.parametrize("cache_size", [65536, 1 << 20, 16 << 20])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_was_done_is_there_after_the_kill(options, cache_size, seed):
    vfs = FaultVfs()
    db = opened(vfs, **ROOMY)
    loser = entangled(db, random.Random(seed))
    image = killed(db, vfs)
    loser.abort()
    expected = content(db)
    db.abandon()
    assert recovered(image, cache_size=cache_size, **options) == expected
    assert recovered(image, cache_size=cache_size, read_only=True, **options) == expected


def test_scattered_changes_are_replayed_in_a_cache_of_any_size(options, scattered):
    image, expected = scattered
    for cache_size in (65536, 1 << 18, 1 << 20, 4 << 20):
        assert recovered(image, cache_size=cache_size, **options) == expected


def test_recovery_may_be_killed_at_any_moment_while_it_makes_room(scattered):
    image, expected = scattered
    first = image.crash_image(image.mutations, 0, "kill")
    opened(first).abandon()
    cuts = random.Random(5).sample(range(first.mutations + 1), 12)
    for cut in cuts:
        for mode in ("kill", "power"):
            assert recovered(first.crash_image(cut, cut, mode), **ROOMY) == expected


def test_without_helpers_the_calls_are_always_the_same(scattered):
    image, _ = scattered
    traces = []
    for _ in range(2):
        vfs = image.crash_image(image.mutations, 0, "kill")
        opened(vfs, **ROOMY).abandon()
        traces.append([call[:5] for call in vfs.trace() if call[1] == "/db/pages.dat"])
    assert traces[0] == traces[1]


def test_leaves_are_read_together(scattered):
    image, _ = scattered
    vfs = image.crash_image(image.mutations, 0, "kill")
    db = opened(vfs, **ROOMY)
    loads = db.stats()["cache"]["loads"]
    db.abandon()
    assert loads > 200
    assert sum(call[:2] == ("read", "/db/pages.dat") for call in vfs.trace()) < loads / 4


def damaged(image, seed):
    """The files with a flipped bit in some page that the checkpoint's image has."""
    vfs = image.crash_image(image.mutations, 0, "kill")
    size = len(vfs.files()["/db/pages.dat"])
    vfs.corrupt("/db/pages.dat", random.Random(seed).randrange(FIRST_PAGES, size), 0x10)
    return vfs


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_page_is_the_same_error_whoever_meets_it(options, scattered, seed):
    image, expected = scattered
    told = []
    for also in ({"background": False, "cache_size": 65536}, {**ROOMY, **options}):
        try:
            assert recovered(damaged(image, seed), **also) == expected
        except errors.CorruptionError as error:
            told.append((str(error), error.file, error.offset, error.expected, error.found))
        except AssertionError:
            told.append("verify")
        else:
            told.append("harmless")
    if told[0] != told[1]:  # the page damaged is not needed by redo, which then may or may not have had a look at it
        assert "verify" in told


def test_a_read_that_fails_once_is_an_error_or_nothing(options, scattered):
    image, expected = scattered
    vfs = image.crash_image(image.mutations, 0, "kill")
    opened(vfs, **ROOMY).abandon()
    total = vfs.calls
    outcomes = set()
    for call in random.Random(7).sample(range(total), 60):
        vfs = image.crash_image(image.mutations, 0, "kill")
        vfs.inject(call, errno.EIO)
        try:
            db = opened(vfs, **ROOMY, **options)
        except errors.StorageError:
            outcomes.add("error")
            vfs.clear_injections()
            db = opened(vfs, **ROOMY, **options)
        else:
            outcomes.add("opened")
            vfs.clear_injections()
        assert content(db) == expected
        db.abandon()
    assert outcomes == {"error", "opened"}


def test_reads_that_all_fail_are_an_error(options, scattered):
    image, _ = scattered
    vfs = image.crash_image(image.mutations, 0, "kill")
    opened(vfs, **ROOMY).abandon()
    reads = [i for i, call in enumerate(vfs.trace()) if call[:2] == ("read", "/db/pages.dat")]
    vfs = image.crash_image(image.mutations, 0, "kill")
    vfs.inject(reads[len(reads) // 2], errno.EIO, sticky=True)
    with pytest.raises(errors.StorageError):
        opened(vfs, **ROOMY, **options)
