"""Branches in a PostgreSQL server of the test's own: what the drill, which kills it, does not come to."""

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import _postgres

from enginelib import UsageError
from enginelib.twophase import Branch, Coordinator, DatabaseBranch, Participant, PostgresBranch

pytestmark = pytest.mark.skipif(bool(_postgres.missing()), reason=_postgres.missing() or "nothing is missing")


@pytest.fixture(scope="module")
def server():
    with _postgres.Postgres() as server:
        yield server


@pytest.fixture
def bank(server):
    bank = PostgresBranch("bank", server.conninfo)
    bank.connection.execute("DROP TABLE IF EXISTS t")
    bank.connection.execute("CREATE TABLE t (k int PRIMARY KEY, twin int REFERENCES t (k) DEFERRABLE INITIALLY DEFERRED)")
    bank.commit_alone()
    yield bank
    for xid in bank.recover():
        bank.rollback(xid)
    bank.close()


def rows(bank):
    found = [row[0] for row in bank.connection.execute("SELECT k FROM t ORDER BY k").fetchall()]
    bank.connection.rollback()
    return found


def insert(bank, k, twin=None):
    bank.connection.execute("INSERT INTO t VALUES (%s, %s)", [k, twin])


def test_both_phases_and_again(bank):
    assert isinstance(bank, Branch)
    insert(bank, 1)
    bank.prepare("it's one")
    assert bank.recover() == ["it's one"] and rows(bank) == []
    for _ in range(2):
        bank.commit("it's one")
    insert(bank, 2)
    bank.prepare("two")
    for _ in range(2):
        bank.rollback("two")
    insert(bank, 3)
    bank.rollback("not prepared")
    assert bank.recover() == [] and rows(bank) == [1]


def test_work_that_has_failed_is_not_prepared(bank):
    """PostgreSQL would answer PREPARE TRANSACTION with a rollback, and no error."""
    insert(bank, 1)
    with pytest.raises(Exception, match="duplicate key"):
        insert(bank, 1)
    with pytest.raises(UsageError, match="failed"):
        bank.prepare("x")
    bank.rollback("x")
    assert rows(bank) == [] and bank.recover() == []


def test_work_that_breaks_a_deferred_constraint_is_not_prepared(bank, db):
    ks = db.keyspace("k")
    here = DatabaseBranch("here", db)
    with pytest.raises(Exception, match="foreign key"), Coordinator(db, "c").transaction(here, bank, DatabaseBranch("other", db)):
        here.transaction.put(ks, b"a", b"1")
        insert(bank, 1, 99)
    assert rows(bank) == [] and ks.get(b"a") is None and db.prepared() == []


def test_nothing_done_is_prepared_too(bank):
    bank.prepare("empty")
    assert bank.recover() == ["empty"]
    bank.commit("empty")
    assert bank.recover() == []


def test_a_lost_connection_takes_its_work_along_and_is_replaced(bank, server):
    import psycopg

    insert(bank, 1)
    with psycopg.connect(server.conninfo, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 20000)", [bank.connection.info.backend_pid])
    with pytest.raises((UsageError, psycopg.OperationalError)):
        bank.prepare("x")
    bank.rollback("x")
    assert rows(bank) == []


@pytest.mark.parametrize("act", ["recover", "commit", "rollback"])
def test_a_server_that_was_restarted_is_reached_at_once(bank, server, act):
    insert(bank, 1)
    bank.prepare("x")
    server.kill()
    server.start()
    if act == "recover":
        assert bank.recover() == ["x"]
        bank.rollback("x")
    else:
        getattr(bank, act)("x")
    assert bank.recover() == [] and rows(bank) == ([1] if act == "commit" else [])


def test_a_server_that_is_away_is_an_error_of_each_call(bank, server):
    import psycopg

    insert(bank, 1)
    bank.prepare("x")
    server.kill()
    try:
        for _ in range(2):
            for call in (bank.recover, lambda: bank.commit("x"), lambda: bank.rollback("x"), lambda: bank.prepare("y")):
                with pytest.raises(psycopg.OperationalError):
                    call()
    finally:
        server.start()
    bank.commit("x")
    assert rows(bank) == [1]


def test_a_server_that_is_away_is_told_when_it_is_back(bank, server, db, tmp_path):
    """The coordinator goes on trying while the server is dead, and until it has started again."""
    import enginelib

    with enginelib.open(tmp_path / "second") as second:
        ks = second.keyspace("k")
        here = DatabaseBranch("here", second)
        tried = threading.Event()
        waits = []

        def pause(seconds):
            waits.append(seconds)
            if len(waits) == 3:
                server.start()

        def step(name):
            if name == "decided":
                server.kill()
                tried.set()

        here.transaction.put(ks, b"a", b"1")
        insert(bank, 7)
        coordinator = Coordinator(db, "c", pause=pause, step=step)
        coordinator.commit(here, bank)
        assert tried.is_set() and len(waits) >= 3
        assert rows(bank) == [7] and ks.get(b"a") == b"1" and coordinator.decisions() == {} and bank.recover() == []


def test_other_peoples_transactions_are_left_alone(bank, db):
    insert(bank, 1)
    bank.prepare("somebody else's")
    assert Coordinator(db, "c").resolve(bank).rolled_back == []
    assert bank.recover() == ["somebody else's"]


def test_psycopgs_own_methods_beside_a_participant(bank, server, db):
    """One program drives both by PEP 249; the names of the branches are related."""
    import psycopg

    ks = db.keyspace("k")
    with psycopg.connect(server.conninfo) as theirs, Participant(db) as ours:
        both = [(theirs, theirs.xid(7, "order-1", "bank")), (ours, ours.xid(7, "order-1", "stock"))]
        for each, xid in both:
            each.tpc_begin(xid)
        theirs.execute("INSERT INTO t VALUES (5)")
        ours.transaction.put(ks, b"a", b"1")
        for each, _ in both:
            each.tpc_prepare()
        for each, _ in both:
            each.tpc_commit()
    assert rows(bank) == [5] and ks.get(b"a") == b"1"
