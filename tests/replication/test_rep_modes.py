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


@pytest.mark.parametrize("way", ["put", "submit"])
def test_closing_lets_go_and_says_that_it_was_not_acknowledged(db, ks, way):
    """Such a commit returned as if it had been; and close() waited for ever for the executor of procedures."""
    db.procedure(lambda txn: txn.put(ks, b"a", b"1"), name="p")
    db.require_acknowledgements(1)
    found = []

    def commit():
        try:
            ks.put(b"a", b"1") if way == "put" else db.submit("p").result(20)
        except AcknowledgementTimeout as error:
            found.append(str(error))

    writer = threading.Thread(target=commit)
    writer.start()
    while db.commit_gate is None or not db.commit_gate.waits:
        time.sleep(0.001)
    closing = threading.Thread(target=db.close)
    closing.start()
    closing.join(20)
    writer.join(20)
    assert not closing.is_alive() and not writer.is_alive()
    assert "before the database was closed" in found[0]
    with enginelib.open(db.path) as again:
        assert again["k"].get(b"a") == b"1"


def test_procedures_of_a_batch_wait_together(db, ks):
    """Each of them waited for as long as there was."""
    db.procedure(lambda txn, n: txn.put(ks, b"%d" % n, b""), name="p")
    db.require_acknowledgements(1, timeout=0.5)
    began = time.monotonic()
    futures = [db.submit("p", n) for n in range(60)]
    assert all(isinstance(future.exception(60), AcknowledgementTimeout) for future in futures)
    assert time.monotonic() - began < 15 and len(list(ks)) == 60


@pytest.mark.parametrize("mode", ["received", "applied"])
def test_what_a_follower_acknowledges_is_durable_there(db, ks, tmp_path, monkeypatch, mode):
    """It told of what it had in memory, and of what it had not synced: lost with the leader, and the follower's machine."""
    wrong = []
    acknowledge = enginelib.Database.acknowledge

    def checked(self, name, **how):
        if self is db and max(how.values()) > 0:
            log = follower.database.stats()["log"]
            if follower.position.lsn < max(how.values()) or log["synced_lsn"] < log["end_lsn"]:
                wrong.append((how, follower.position.lsn, log))
        acknowledge(self, name, **how)

    with Follower(tmp_path / "f", db) as follower:
        assert follower.wait_for(sequence=1, timeout=20)
        monkeypatch.setattr(enginelib.Database, "acknowledge", checked)
        db.require_acknowledgements(1, mode=mode, timeout=20)
        for i in range(30):
            ks.put(b"%02d" % i, b"1")
        db.require_acknowledgements(0)
        for i in range(300):
            ks.put(b"%02d" % i, b"2")
        assert follower.wait_for(sequence=db.stats()["transactions"]["visible_ts"], timeout=20)
    assert wrong == []


def test_nobody_acknowledges_what_has_not_been_logged(db, ks):
    with pytest.raises(ValueError, match="beyond the end of the log"):
        db.acknowledge("one", applied=end(db) + 1)
    assert db.stats()["followers"] == {}
    db.acknowledge("one", applied=end(db))
    ks.put(b"a", b"1")
    db.acknowledge("one", applied=end(db))


def test_commits_tell_their_lsn(db, ks, tmp_path):
    with Follower(tmp_path / "f", db) as follower:
        with db.transaction() as txn:
            txn.put(ks, b"a", b"1")
            assert txn.commit_lsn == 0
        *_, change = db.changes()
        assert txn.commit_lsn == change.lsn
        assert follower.wait_for(txn.commit_lsn, timeout=20) and follower.database["k"].get(b"a") == b"1"
    with db.transaction() as txn:
        txn.get(ks, b"a")
    assert txn.commit_lsn == 0
    with pytest.raises(ZeroDivisionError), db.transaction() as txn:
        txn.put(ks, b"b", b"1")
        raise ZeroDivisionError
    assert txn.commit_lsn == 0


@pytest.mark.parametrize("wrong", [{"followers": -1}, {"followers": 1, "mode": "soon"}, {"followers": 1, "timeout": -1}, {"followers": 1, "on_timeout": "hope"}])
def test_wrong_arguments(db, wrong):
    with pytest.raises(ValueError):
        db.require_acknowledgements(**wrong)
    assert enginelib.AcknowledgementTimeout.retryable is False and db.required is None
