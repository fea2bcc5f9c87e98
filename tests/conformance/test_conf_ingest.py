"""Bulk loading: all or nothing, newer than what was there, older than what comes."""

import os
import threading

import pytest

import enginelib

PAIRS = [(b"%05d" % n, b"value %d" % n) for n in range(0, 20_000, 2)]


@pytest.fixture
def small(db):
    return db.keyspace("small", backend="lsm", memtable_size=64 << 10, table_size=64 << 10)


def tables(ks):
    return sum(level["tables"] for level in ks.stats()["levels"])


def test_a_load_is_there_whole(db, ks, backend):
    assert ks.ingest(iter(PAIRS)) == len(PAIRS)
    assert list(ks.scan()) == PAIRS
    assert ks.ingest({b"x": b"1", b"y": b""}) == 2
    assert ks.ingest([]) == 0
    assert len(ks) == len(PAIRS) + 2


def test_keys_must_ascend_and_a_load_that_fails_leaves_nothing(db, ks):
    for wrong in ([(b"b", b""), (b"a", b"")], [(b"a", b""), (b"a", b"")]):
        with pytest.raises(ValueError, match="do not ascend"):
            ks.ingest([(b"0", b""), *wrong])
    with pytest.raises(TypeError):
        ks.ingest([(b"a", b""), ("b", b"")])
    with pytest.raises(ZeroDivisionError):
        ks.ingest((b"%d" % (1 // (3 - n)), b"") for n in range(4))
    assert list(ks.scan()) == []
    if ks.backend == "lsm":
        assert tables(ks) == 0
        assert db.stats()["transactions"]["writers"] == 0


def test_a_btree_cannot_be_loaded_past_the_log(db):
    with pytest.raises(enginelib.NotSupported):
        db.keyspace("tree").ingest([(b"a", b"")], logged=False)


@pytest.mark.parametrize("logged", [True, False])
def test_a_load_covers_what_memory_and_tables_hold_and_no_snapshot_sees_it(db, small, logged):
    small.put_many([(key, b"old") for key, _ in PAIRS])
    small.compact()
    small.put(b"00001", b"odd")
    small.put(PAIRS[0][0], b"newer")
    with db.transaction(read_only=True) as before:
        small.ingest(PAIRS, logged=logged)
        assert before.get(small, PAIRS[0][0]) == b"newer"
        assert before.get(small, PAIRS[9][0]) == b"old"
    assert small[PAIRS[0][0]] == b"value 0"
    small.put(PAIRS[0][0], b"newest")
    del small[PAIRS[1][0] : PAIRS[2][0]]
    expected = {**dict(PAIRS), b"00001": b"odd", PAIRS[0][0]: b"newest"}
    del expected[PAIRS[1][0]]
    assert dict(small.scan()) == expected
    small.compact()
    assert dict(small.scan()) == expected
    assert db.verify().ok


def test_a_load_into_an_empty_part_goes_to_the_last_level(db, small):
    small.ingest(PAIRS)
    small.ingest([(b"z" + key, value) for key, value in PAIRS])
    levels = small.stats()["levels"]
    assert len(levels) == 1
    assert levels[0]["level"] > 0
    assert levels[0]["tables"] > 4
    small.ingest([(b"00001", b"between")])
    assert small.stats()["levels"][0]["level"] < levels[0]["level"]
    assert len(small) == 2 * len(PAIRS) + 1


def test_large_values_and_the_log(db, small):
    pairs = [(b"%03d" % n, os.urandom(400_000 if n % 50 == 7 else 50)) for n in range(120)]
    end = db.stats()["log"]["end_lsn"]
    small.ingest(pairs, logged=False)
    assert db.stats()["log"]["end_lsn"] - end < 2000
    assert list(small.scan()) == pairs
    small.ingest([(b"x" + key, value) for key, value in pairs])
    assert db.stats()["log"]["end_lsn"] - end > sum(len(value) for _, value in pairs)


@pytest.mark.parametrize("logged", [True, False])
def test_a_load_survives_a_reopening(tmp_path, logged):
    with enginelib.open(tmp_path / "db") as db:
        ks = db.keyspace("k", backend="lsm", memtable_size=64 << 10, table_size=64 << 10)
        ks.put(b"00000", b"old")
        ks.ingest(PAIRS, logged=logged)
        ks.put(b"00002", b"newer")
        db.sync()
        db.abandon()
    with enginelib.open(tmp_path / "db") as db:
        ks = db["k"]
        assert dict(ks.scan()) == {**dict(PAIRS), b"00002": b"newer"}
        # What is in tables is not replayed into memory.
        assert ks.stats()["memtables"]["active_bytes"] < 10_000
        assert db.verify().ok
    with enginelib.open(tmp_path / "db", read_only=True) as db:
        assert len(db["k"]) == len(PAIRS)


def test_a_load_waits_for_a_change_in_its_range(tmp_path):
    with enginelib.open(tmp_path / "db", lock_timeout=0.05) as db:
        ks = db.keyspace("k", backend="lsm")
        txn = db.transaction()
        txn.put(ks, b"00500", b"mine")
        with pytest.raises(enginelib.LockTimeout):
            ks.ingest(PAIRS)
        assert ks.ingest([(b"1", b""), (b"2", b"")]) == 2
        txn.commit()
        assert ks.ingest(PAIRS) == len(PAIRS)
        assert ks[b"00500"] == b"value 500"


def test_closing_the_database_ends_a_load(tmp_path):
    db = enginelib.open(tmp_path / "db")
    ks = db.keyspace("k", backend="lsm", table_size=64 << 10)
    half = threading.Event()
    closed = threading.Event()

    def pairs():
        yield from PAIRS[:5000]
        half.set()
        assert closed.wait(20)
        yield from PAIRS[5000:]

    met = []

    def load():
        try:
            ks.ingest(pairs())
        except BaseException as error:
            met.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    assert half.wait(20)
    db.close()
    closed.set()
    thread.join(20)
    assert isinstance(met[0], enginelib.DatabaseClosed)
    with enginelib.open(tmp_path / "db") as db:
        assert len(db["k"]) == 0
        assert db.verify().ok
    assert [path for path in tmp_path.rglob("*.sst")] == []
