"""A small database in memory for the tests of the Python face."""

import pytest

import enginelib


@pytest.fixture
def db():
    with enginelib.open(":memory:", cache_size=4 << 20, segment_size=1 << 20) as db:
        yield db


@pytest.fixture
def space(db):
    return db.keyspace("space")
