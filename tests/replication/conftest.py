"""Databases of either back end, and a model that follows a stream of changes."""

import pytest

import enginelib

TREES = {"btree": {"backend": "btree"}, "lsm": {"backend": "lsm", "memtable_size": 64 << 10, "table_size": 64 << 10}}


@pytest.fixture(params=TREES)
def tree(request):
    return TREES[request.param]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "db"


@pytest.fixture
def db(path):
    with enginelib.open(path, cache_size=4 << 20, segment_size=1 << 20, durability="os") as db:
        yield db
