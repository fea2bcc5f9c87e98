"""Commits that wait for followers: how many, for how long, and what becomes of those that run out of time."""

import threading
import time

import pytest

import enginelib
from enginelib import AcknowledgementTimeout
from enginelib.replication import Follower


@pytest.fixture
def ks(db, tree):
    return db.keyspace("k", **tree)


def end(db):
    return db.stats()["log"]["end_lsn"]


@pytest.mark.parametrize("mode", ["received", "applied"])
def test_a_commit_waits_for_as_many_as_are_required(db, ks, mode):
    db.require_acknowledgements(2, mode=mode)
    done = threading.Event()
    writer = threading.Thread(target=lambda: (ks.put(b"a", b"1"), done.set()))
    writer.start()
    deadline = time.monotonic() + 20
    while not db.commit_gate.waits and time.monotonic() < deadline:
        time.sleep(0.001)
    assert db.commit_gate.waits == 1 and not done.is_set() and ks.get(b"a") == b"1"  # it stands, and is seen
    db.acknowledge("one", **{mode: end(db)})
    db.acknowledge("two", received=end(db) if mode == "applied" else 1)
    assert not done.wait(0.1)
    db.acknowledge("two", **{mode: end(db)})
    assert done.wait(20)
    writer.join()
    assert set(db.stats()["followers"]) == {"one", "two"}


def test_out_of_time_the_commit_stands(db, ks):
    db.require_acknowledgements(1, timeout=0.05)
    for act in (
        lambda: ks.put(b"a", b"1"),
        lambda: db.run(lambda txn: txn.put(ks, b"b", b"1")),
    ):
        with pytest.raises(AcknowledgementTimeout) as caught:
            act()
        assert caught.value.acknowledged == 0 and 0 < caught.value.lsn <= end(db) and not caught.value.retryable
    with pytest.raises(AcknowledgementTimeout), db.transaction() as txn:
        txn.put(ks, b"c", b"1")
    assert txn.state == "committed"
    with db.transaction() as txn:  # has nothing to be acknowledged
        assert [txn.get(ks, key) for key in (b"a", b"b", b"c")] == [b"1"] * 3
    assert db.stats()["acknowledgement_timeouts"] == 3
    db.require_acknowledgements(0)
    ks.put(b"d", b"1")


def test_or_commits_go_on_until_followers_catch_up(db, ks):
    db.require_acknowledgements(1, timeout=0.05, on_timeout="continue")
    ks.put(b"a", b"1")
    behind = end(db)
    began = time.monotonic()
    for i in range(20):
        ks.put(b"%d" % i, b"1")
    assert time.monotonic() - began < 1 and db.stats()["acknowledgement_timeouts"] == 1
    db.acknowledge("one", applied=behind)
    ks.put(b"b", b"1")
    assert db.stats()["acknowledgement_timeouts"] == 2


def test_followers_of_this_process_acknowledge_by_themselves(db, ks, tmp_path):
    with Follower(tmp_path / "one", db) as one, Follower(tmp_path / "two", db) as two:
        for follower in one, two:
            assert follower.wait_for(sequence=db.stats()["transactions"]["visible_ts"], timeout=20)
        db.require_acknowledgements(2, timeout=20)
        for i in range(50):
            ks.put(b"%02d" % i, b"1")
            for follower in one, two:  # synchronous: what has returned is there
                assert follower.database["k"].get(b"%02d" % i) == b"1"
        db.transaction().prepare("x")
        db.commit_prepared("x")
    db.require_acknowledgements(2, timeout=0.05)
    with pytest.raises(AcknowledgementTimeout):
        ks.put(b"alone", b"1")


def test_closing_lets_go(db, ks):
    db.require_acknowledgements(1)
    writer = threading.Thread(target=ks.put, args=(b"a", b"1"))
    writer.start()
    while not db.commit_gate.waits:
        time.sleep(0.001)
    db.close()
    writer.join(20)
    assert not writer.is_alive()


@pytest.mark.parametrize("wrong", [{"followers": -1}, {"followers": 1, "mode": "soon"}, {"followers": 1, "timeout": -1}, {"followers": 1, "on_timeout": "hope"}])
def test_wrong_arguments(db, wrong):
    with pytest.raises(ValueError):
        db.require_acknowledgements(**wrong)
    assert enginelib.AcknowledgementTimeout.retryable is False and db.required is None
