"""A small database on disk for the tests of limits."""

import pytest

import enginelib

SMALL = {"cache_size": 4 << 20, "segment_size": 1 << 20}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.db"


@pytest.fixture
def db(path):
    with enginelib.open(path, durability="os", **SMALL) as db:
        yield db


@pytest.fixture
def ks(db):
    return db.keyspace("space")
