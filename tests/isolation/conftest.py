"""A small database, and threads that are joined, for the tests of isolation."""

import pytest
from isohelp import Worker

import enginelib


@pytest.fixture
def db():
    with enginelib.open(":memory:", cache_size=4 << 20, segment_size=1 << 20, lock_timeout=20.0) as db:
        yield db


@pytest.fixture(params=["btree", "lsm"])
def ks(db, request):
    return db.keyspace("space", backend=request.param)


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
