"""enginelib alone, under pytest-benchmark: small enough to be run after every change.

pytest benches/test_self.py --benchmark-autosave
pytest benches/test_self.py --benchmark-compare
"""

from __future__ import annotations

import random
from collections import deque

import pytest

import enginelib

pytest.importorskip("pytest_benchmark")

KEYS = 100_000
BATCH = 1000
SOURCE = random.Random(1)
PAIRS = [(SOURCE.randbytes(16), SOURCE.randbytes(100)) for _ in range(KEYS)]
SOME = [key for key, _ in SOURCE.choices(PAIRS, k=BATCH)]
ABSENT = [SOURCE.randbytes(16) for _ in range(BATCH)]
CHANGES = [(key, SOURCE.randbytes(100)) for key in SOME]


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    with enginelib.open(str(tmp_path_factory.mktemp("self") / "db"), durability="os") as db:
        ks = db.keyspace("k")
        for start in range(0, KEYS, BATCH):
            with db.transaction() as txn:
                txn.put_many(ks, PAIRS[start : start + BATCH])
        db.checkpoint()
        yield db


@pytest.fixture(scope="module")
def ks(db):
    return db.keyspace("k")


@pytest.fixture
def reader(db):
    with db.transaction(read_only=True) as txn:
        yield txn


@pytest.mark.parametrize("keys", [SOME, ABSENT], ids=["present", "absent"])
def test_1000_gets_in_one_transaction(benchmark, reader, ks, keys):
    @benchmark
    def _():
        get = reader.get
        for key in keys:
            get(ks, key)


def test_1000_gets_in_transactions_of_their_own(benchmark, ks):
    @benchmark
    def _():
        get = ks.get
        for key in SOME:
            get(key)


def test_get_many_of_1000(benchmark, reader, ks):
    benchmark(reader.get_many, ks, SOME)


def test_scan_of_100000(benchmark, reader, ks):
    benchmark(lambda: deque(reader.scan(ks), maxlen=0))


def test_seek_and_next_100(benchmark, reader, ks):
    benchmark(lambda: list(reader.scan(ks, start=SOME[0], limit=100)))


def test_1000_puts_in_transactions_of_their_own(benchmark, ks):
    @benchmark
    def _():
        put = ks.put
        for key, value in CHANGES:
            put(key, value)


def test_put_many_of_1000(benchmark, db, ks):
    @benchmark
    def _():
        with db.transaction() as txn:
            txn.put_many(ks, CHANGES)


def test_4_gets_and_4_puts(benchmark, db, ks):
    @benchmark
    def _():
        with db.transaction() as txn:
            for key in SOME[:4]:
                txn.get(ks, key)
            for key, value in CHANGES[4:8]:
                txn.put(ks, key, value)


def test_durable_commit(benchmark, db, ks):
    @benchmark
    def _():
        with db.transaction(durability="sync") as txn:
            txn.put(ks, *CHANGES[0])


def test_100000_puts_into_an_empty_database(benchmark, tmp_path):
    made = iter(range(1000))

    def fill():
        with enginelib.open(str(tmp_path / str(next(made))), durability="os") as db:
            ks = db.keyspace("k")
            for start in range(0, KEYS, BATCH):
                with db.transaction() as txn:
                    txn.put_many(ks, PAIRS[start : start + BATCH])

    benchmark.pedantic(fill, rounds=3)
