"""Background work driven step by step: what each step does to tables, versions and tombstones."""

import random
import time

import pytest
from lsmhelp import SMALL

import enginelib
from enginelib.database import Database


def fill(ks, numbers, value=b"v" * 100):
    ks.put_many([(b"%06d" % n, value) for n in numbers])


def run(db, *steps):
    return [db.step(step) for step in steps]


def levels(ks):
    return {level["level"]: level["tables"] for level in ks.stats()["levels"]}


def entries(ks):
    return sum(level["entries"] for level in ks.stats()["levels"])


def settle(db):
    while db.step("flush"):
        pass
    while db.step("settle"):
        pass


def test_nothing_is_written_before_there_is_something(db, ks):
    assert run(db, "seal", "flush", "compact", "settle") == [True, False, False, False] or levels(ks) == {}
    assert levels(ks) == {}


def test_sealed_memtables_become_runs_of_level_0_newest_first(db, ks):
    for n in range(3):
        ks[b"k"] = b"%d" % n
        run(db, "seal")
    assert ks.stats()["memtables"]["sealed"] == 3
    for n in range(1, 4):
        assert db.step("flush")
        assert levels(ks) == {0: n}
        assert ks[b"k"] == b"2"
    assert not db.step("flush")


def test_the_memory_of_a_flushed_memtable_serves_the_next_within_the_size_of_one(db):
    ks = db.keyspace("wide", backend="lsm", memtable_size=4 << 20)
    held = []
    for _ in range(4):
        fill(ks, range(3000), b"v" * 2000)
        before = ks.stats()["memtables"]["memory_bytes"]
        run(db, "seal", "flush")
        held.append((before, ks.stats()["memtables"]["memory_bytes"]))
    assert all(after <= 4 << 20 for _, after in held)
    assert all(after >= 2 << 20 for _, after in held)
    assert held[1:] == [held[1]] * 3


def test_memory_that_memtables_left_goes_when_nobody_writes(db):
    ks = db.keyspace("wide", backend="lsm", memtable_size=4 << 20)
    fill(ks, range(3000), b"v" * 2000)
    run(db, "seal", "flush")
    assert ks.stats()["memtables"]["memory_bytes"] == 4 << 20
    db.step("compact")
    assert ks.stats()["memtables"]["memory_bytes"] == 4 << 20
    settle(db)
    assert ks.stats()["memtables"]["memory_bytes"] == 0


def test_overwritten_versions_go_and_the_newest_stays(db, ks):
    for n in range(5):
        fill(ks, range(50), b"%d" % n)
        run(db, "seal", "flush")
    assert entries(ks) == 250
    ks.compact()
    assert entries(ks) == 50
    assert set(ks.values()) == {b"4"}


def test_versions_that_a_snapshot_sees_are_kept_as_long_as_it_lives(db, ks):
    fill(ks, range(50), b"old")
    with db.transaction(read_only=True) as reader:
        fill(ks, range(50), b"mid")
        fill(ks, range(50), b"new")
        ks.compact()
        assert entries(ks) == 100
        assert set(reader.get_many(ks, [b"%06d" % n for n in range(50)])) == {b"old"}
        assert {value for _, value in reader.scan(ks)} == {b"old"}
        assert set(ks.values()) == {b"new"}
    ks.compact()
    assert entries(ks) == 50
    assert set(ks.values()) == {b"new"}


def test_tombstones_go_once_nothing_lies_below(db, ks):
    fill(ks, range(100))
    settle(db)
    ks.compact()
    with db.transaction() as txn:
        for n in range(0, 100, 2):
            txn.delete(ks, b"%06d" % n)
    run(db, "seal", "flush")
    assert sum(level["tombstones"] for level in ks.stats()["levels"]) == 50
    assert len(ks) == 50
    ks.compact()
    assert sum(level["tombstones"] for level in ks.stats()["levels"]) == 0
    assert entries(ks) == 50


def test_a_tombstone_above_an_older_version_is_kept_by_a_compaction_that_does_not_reach_it(path):
    """Dropped too early, it would bring the deleted record back."""
    with Database(path, background=False, durability="os") as db:
        ks = db.keyspace("space", backend="lsm", **SMALL)
        fill(ks, range(2000))
        ks.compact()
        del ks[b"000007"]
        run(db, "seal", "flush")
        for n in range(4):
            fill(ks, range(3000 + n, 3002 + n))
            run(db, "seal", "flush")
        while db.step("compact"):
            assert b"000007" not in ks
        ks.compact()
        assert b"000007" not in ks and len(ks) == 1999 + 5


def test_everything_deleted_leaves_no_tables(db, ks):
    fill(ks, range(500))
    settle(db)
    with db.transaction() as txn:
        assert txn.delete_range(ks, None, None) is None
    ks.compact()
    assert levels(ks) == {} and len(ks) == 0
    assert ks.stats()["range_tombstones"] == 0


def test_tables_that_overlap_nothing_move_without_being_written_again(path):
    with Database(path, background=False, durability="os") as db:
        ks = db.keyspace("space", backend="lsm", **SMALL)
        for n in range(12):
            fill(ks, range(n * 1000, n * 1000 + 500))
            run(db, "seal", "flush")
            while db.step("compact"):
                pass
        stats = ks.stats()
        assert stats["trivial_moves"] > 0
        assert stats["bytes_compacted_out"] < stats["bytes_flushed"]
        assert len(ks) == 12 * 500


def test_levels_keep_to_their_sizes(path):
    """Dynamic level sizes: the last level has most; each one above about a tenth of the one below it."""
    random.seed(7)
    with Database(path, background=False, durability="os") as db:
        ks = db.keyspace("space", backend="lsm", **SMALL)
        for _ in range(60):
            fill(ks, random.sample(range(1_000_000), 500))
            run(db, "seal", "flush")
            while db.step("compact"):
                pass
        found = {level["level"]: level["bytes"] for level in ks.stats()["levels"] if level["level"]}
        last = max(found)
        assert found[last] > 0.8 * sum(found.values())
        for level, size in found.items():
            if level != last:
                assert size < 0.25 * found[last]


def test_size_tiered_keeps_few_runs(path):
    random.seed(8)
    with Database(path, background=False, durability="os") as db:
        ks = db.keyspace("space", backend="lsm", compaction="size_tiered", **SMALL)
        for _ in range(60):
            fill(ks, random.sample(range(1_000_000), 500))
            run(db, "seal", "flush")
            while db.step("compact"):
                pass
        stats = ks.stats()
        runs = sum(level["tables"] if level["level"] == 0 else 1 for level in stats["levels"])
        assert runs <= 16
        assert stats["bytes_compacted_out"] < 4 * stats["bytes_flushed"]


def test_a_range_is_compacted_and_the_rest_left_alone(path):
    with Database(path, background=False, durability="os") as db:
        ks = db.keyspace("space", backend="lsm", **SMALL)
        fill(ks, range(10_000))
        ks.compact()
        fill(ks, range(5000, 5010))
        before = ks.stats()["bytes_compacted_out"]
        ks.compact(b"005000", b"005010")
        assert 0 < ks.stats()["bytes_compacted_out"] - before < 500_000
        assert entries(ks) == 10_000


def test_a_bound_on_the_rate_of_compaction(path, tmp_path):
    """A little more than half a megabyte, at half a megabyte a second; without a bound it takes no time."""
    took = []
    for rate, where in ((0, path), (500_000, tmp_path / "slow")):
        with Database(where, background=False, durability="os", compaction_rate=rate) as db:
            ks = db.keyspace("space", backend="lsm", **SMALL)
            fill(ks, range(5000))
            began = time.monotonic()
            ks.compact()
            took.append(time.monotonic() - began)
    assert took[1] > 0.5
    assert took[1] > took[0]


def test_what_the_writer_waits_for_is_told(path):
    """Writers are stopped for memtables that nobody writes; statistics say so while they wait, and afterwards."""
    with Database(path, background=False, durability="os") as db:
        ks = db.keyspace("space", backend="lsm", **SMALL)
        for n in range(40):
            fill(ks, range(n, 2000, 40))
            run(db, "seal", "flush")
        now = ks.stats()["stall"]["now"]
        assert now is None or "level 0" in now
        assert db.stats()["lsm"]["stall"]["now"] == ({ks.id: now} if now else {})
        for n in range(20):
            fill(ks, range(n, 2000, 20))
        stall = ks.stats()["stall"]
        assert stall["stops"] + stall["slowdowns"] > 0
        assert stall["stopped_seconds"] + stall["slowed_seconds"] > 0
        total = db.stats()["lsm"]
        assert total["keyspaces"] == 1 and total["stall"]["stops"] == stall["stops"]


def test_the_log_goes_once_memtables_are_tables(path):
    with Database(path, background=False, durability="os", segment_size=1 << 20) as db:
        ks = db.keyspace("space", backend="lsm", memtable_size=64 << 20)
        for n in range(0, 40_000, 1000):
            fill(ks, range(n, n + 1000))
        db.checkpoint()
        kept = len(list((path / "log").glob("0*.wal")))
        assert kept >= 4
        run(db, "seal", "flush")
        db.checkpoint()
        assert len(list((path / "log").glob("0*.wal"))) < kept
    with enginelib.open(path) as db:
        assert len(db.keyspace("space")) == 40_000


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("bits", [0, 10, 20])
def test_compression_and_filters(path, built, compression, bits):
    if compression not in built:
        pytest.skip(f"this build has no {compression}: its development library was not found")
    with Database(path, background=False, durability="os") as db:
        ks = db.keyspace("space", backend="lsm", compression=compression, bits_per_key=bits)
        fill(ks, range(5000), b"compressible " * 10)
        noise = random.Random(1)
        ks.put_many([(b"noise %04d" % n, noise.randbytes(100)) for n in range(2000)])
        ks.compact()
        stats = ks.stats()
        live = 5000 * 136 + 2000 * 110
        assert (stats["table_bytes"] < 0.55 * live) == (compression != "none")
        assert ks[b"004999"] == b"compressible " * 10
        assert len(ks) == 7000
        before = ks.stats()["reads"]
        assert ks.get_many([b"%06d-" % n for n in range(1000)]) == [None] * 1000
        skipped = ks.stats()["reads"]["filter_skips"] - before["filter_skips"]
        assert skipped == 0 if bits == 0 else skipped > 950
    with enginelib.open(path) as db:
        ks = db.keyspace("space")
        assert ks.stats()["options"]["compression"] == compression
        assert len(ks) == 7000


def test_a_large_range_is_compacted_in_steps(path):
    """More than fits one compaction: by levels and tables, so that neither space nor time is needed for all of it at once."""
    random.seed(9)
    with Database(path, background=False, durability="os") as db:
        ks = db.keyspace("space", backend="lsm", **SMALL)
        numbers = list(range(60_000))
        for value in (b"1" * 100, b"2" * 100):
            random.shuffle(numbers)
            for at in range(0, len(numbers), 2000):
                fill(ks, numbers[at : at + 2000], value)
        with db.transaction() as txn:
            for n in range(0, 60_000, 3):
                txn.delete(ks, b"%06d" % n)
        before = ks.stats()["compactions"]
        ks.compact()
        stats = ks.stats()
        assert stats["compactions"] - before > 3
        assert [level["level"] for level in stats["levels"]] == [7]
        assert sum(level["entries"] for level in stats["levels"]) == 40_000
        assert sum(level["tombstones"] for level in stats["levels"]) == 0
        assert len(ks) == 40_000 and set(ks.values()) == {b"2" * 100}
        ks.compact()
        assert ks.stats()["compactions"] == stats["compactions"]


def test_idle_time_rids_tables_of_what_a_snapshot_had_held(path):
    with Database(path, background=False, durability="os") as db:
        ks = db.keyspace("space", backend="lsm", **SMALL)
        fill(ks, range(50), b"old")
        with db.transaction(read_only=True) as reader:
            fill(ks, range(50), b"new")
            ks.compact()
            assert not db.step("settle")
            assert entries(ks) == 100 and reader.get(ks, b"000000") == b"old"
        assert not db.step("compact")
        assert db.step("settle")
        assert entries(ks) == 50
        assert not db.step("settle")


def test_tables_of_expired_records_go_by_themselves(path, style):
    with Database(path, background=False, durability="os") as db:
        ks = db.keyspace("space", backend="lsm", compaction=style, ttl=0.05, **SMALL)
        fill(ks, range(50))
        run(db, "seal", "flush")
        ks.compact()
        deadline = time.monotonic() + 10
        while b"000000" in ks:
            assert time.monotonic() < deadline
        db.step("compact")
        assert levels(ks) == {} or not db.step("compact")
        while db.step("settle"):
            pass
        assert levels(ks) == {}
