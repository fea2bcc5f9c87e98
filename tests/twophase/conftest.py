"""Databases of either back end, closed or cut off and opened again."""

import pytest

import enginelib

TREES = {"btree": {"backend": "btree"}, "lsm": {"backend": "lsm", "memtable_size": 64 << 10, "table_size": 64 << 10}}
SMALL = {"cache_size": 4 << 20, "segment_size": 1 << 20, "lock_timeout": 0.2}


class Place:
    """A database that is opened again and again."""

    def __init__(self, path):
        self.path = path
        self.db = enginelib.open(path, **SMALL)

    def again(self, how):
        """how: "stay" (nothing), "close" (a clean end, with a checkpoint), "crash" (as a kill would leave it)."""
        if how == "stay":
            return self.db
        if how == "close":
            self.db.close()
        else:
            self.db.abandon()
        self.db = enginelib.open(self.path, **SMALL)
        return self.db


@pytest.fixture(params=TREES)
def tree(request):
    return TREES[request.param]


@pytest.fixture(params=["stay", "close", "crash"])
def how(request):
    return request.param


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path / "db")
    yield place
    place.db.close()


@pytest.fixture
def db(place):
    return place.db
