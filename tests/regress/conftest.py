"""A small database in memory."""

import pytest

import enginelib


@pytest.fixture
def db():
    with enginelib.open(":memory:", cache_size=4 << 20, segment_size=1 << 20, lock_timeout=20.0) as db:
        yield db


@pytest.fixture
def ks(db):
    return db.keyspace("space")
