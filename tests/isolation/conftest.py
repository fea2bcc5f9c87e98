"""A small database, a keyspace of either back end, and threads that are joined, for the tests of isolation."""

import pytest
from isohelp import Worker

import enginelib

# Of the LSM-tree as small as it may be, so that memtables are written and tables merged while a test runs.
TREES = {"btree": {"backend": "btree"}, "lsm": {"backend": "lsm", "memtable_size": 64 << 10, "table_size": 64 << 10}}


@pytest.fixture(params=TREES)
def tree(request):
    """How a keyspace is made."""
    return TREES[request.param]


@pytest.fixture
def db():
    with enginelib.open(":memory:", cache_size=4 << 20, segment_size=1 << 20, lock_timeout=20.0) as db:
        yield db


@pytest.fixture
def ks(db, tree):
    return db.keyspace("space", **tree)


@pytest.fixture
def spawn():
    """Starts functions in threads; all are joined at the test's end."""
    workers = []

    def start(function, *args):
        workers.append(Worker(function, *args))
        return workers[-1]

    yield start
    for worker in workers:
        worker.thread.join(20)
        assert not worker.thread.is_alive()
