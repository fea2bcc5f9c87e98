"""LSM keyspaces whose background work happens when the test says so."""

import pytest
from lsmhelp import SMALL

import enginelib
from enginelib.database import Database


@pytest.fixture
def path(tmp_path):
    return tmp_path / "db"


@pytest.fixture
def db(path):
    with Database(path, background=False, durability="os", segment_size=1 << 20, lock_timeout=0.0) as db:
        yield db
        assert db.verify().ok


@pytest.fixture(params=["leveled", "size_tiered"])
def style(request):
    return request.param


@pytest.fixture
def ks(db, style):
    return db.keyspace("space", backend="lsm", compaction=style, **SMALL)


@pytest.fixture
def built():
    """The compressions that this build has."""
    with enginelib.open(":memory:") as db:
        found = ["none"]
        for name in ("lz4", "zstd"):
            try:
                db.keyspace(name, backend="lsm", compression=name)
            except enginelib.NotSupported:
                continue
            found.append(name)
        return found
