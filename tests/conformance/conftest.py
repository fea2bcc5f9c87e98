"""One keyspace on every back end, in memory and on disk, with a tiny and a large cache."""

import pytest

import enginelib

BACKENDS = ["btree", "lsm"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(params=["memory", "disk"])
def place(request, tmp_path):
    return ":memory:" if request.param == "memory" else tmp_path / "db"


@pytest.fixture(params=["tiny", "large"])
def db(request, place):
    cache = 1 << 20 if request.param == "tiny" else 32 << 20
    with enginelib.open(place, cache_size=cache, segment_size=1 << 20, durability="os") as db:
        yield db
        assert db.verify().ok


@pytest.fixture
def ks(db, backend):
    ks = db.keyspace("space", backend=backend)
    assert ks.backend == backend
    return ks
