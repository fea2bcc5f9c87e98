"""PEP 249's two-phase commit over a database, and xids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import enginelib
from enginelib import HeuristicOutcome, NotPrepared, UsageError
from enginelib.twophase import Participant, Xid

PARTS = st.text(min_size=1, max_size=64).filter(lambda text: len(text.encode("utf-8", "replace")) <= 64 and not any("\ud800" <= c <= "\udfff" for c in text))


@pytest.fixture
def part(db):
    with Participant(db) as part:
        yield part


@pytest.fixture
def ks(db):
    return db.keyspace("k")


@given(st.integers(0, 2**31 - 1), PARTS, st.one_of(st.just(""), PARTS))
def test_xids_are_names_and_back(format_id, gtrid, bqual):
    xid = Participant.xid(format_id, gtrid, bqual)
    assert tuple(xid) == (format_id, gtrid, bqual) and xid[1] == gtrid
    assert Xid.parse(str(xid)) == xid
    assert len(str(xid)) <= 200


@given(st.text(max_size=40))
def test_any_name_is_an_xid(name):
    assert str(Xid.parse(name)) == name


def test_xids_are_those_of_psycopg():
    psycopg = pytest.importorskip("psycopg")
    theirs = psycopg.Xid.from_parts(7, "order/1", "stock")
    assert str(Participant.xid(7, "order/1", "stock")) == str(theirs)


@pytest.mark.parametrize("parts", [(-1, "a", "b"), (2**31, "a", "b"), (0, "", "b"), (0, "a" * 65, "b"), (0, "a", "é" * 33)])
def test_xids_out_of_bounds_are_refused(parts):
    with pytest.raises(ValueError):
        Participant.xid(*parts)


@pytest.mark.parametrize("parts", [("1", "a", "b"), (True, "a", "b"), (1, b"a", "b"), (1, "a", None)])
def test_xids_of_other_types_are_refused(parts):
    with pytest.raises(TypeError):
        Participant.xid(*parts)


def test_both_phases(part, db, ks):
    xid = part.xid(1, "g", "b")
    part.tpc_begin(xid)
    part.transaction.put(ks, b"a", b"1")
    part.tpc_prepare()
    assert ks.get(b"a") is None and part.tpc_recover() == [xid]
    with pytest.raises(UsageError, match="prepared"):
        part.transaction  # noqa: B018
    with pytest.raises(UsageError, match="prepared"):
        part.tpc_prepare()
    part.tpc_commit()
    assert ks.get(b"a") == b"1" and part.tpc_recover() == [] and db.outcome(str(xid)) == "committed"
    part.tpc_forget(xid)
    part.tpc_begin(xid)
    part.tpc_rollback()


def test_without_prepare_it_is_one_phase(part, db, ks):
    part.tpc_begin(part.xid(1, "g", "b"))
    part.transaction.put(ks, b"a", b"1")
    part.tpc_commit()
    assert ks.get(b"a") == b"1" and db.outcomes() == []


@pytest.mark.parametrize("prepares", [False, True])
def test_rolled_back(part, ks, prepares):
    part.tpc_begin(part.xid(1, "g", "b"))
    part.transaction.put(ks, b"a", b"1")
    if prepares:
        part.tpc_prepare()
    part.tpc_rollback()
    assert ks.get(b"a") is None and part.tpc_recover() == []
    ks.put(b"a", b"2")  # no lock was left


@pytest.mark.parametrize("commits", [False, True])
def test_recovered_by_another_in_a_later_run(place, how, commits):
    part = Participant(place.db)
    xid = part.xid(1, "g", "b")
    part.tpc_begin(xid)
    part.transaction.put(place.db.keyspace("k"), b"a", b"1")
    part.tpc_prepare()
    part.close()
    db = place.again(how)
    other = Participant(db)
    assert other.tpc_recover() == [xid]
    (other.tpc_commit if commits else other.tpc_rollback)(tuple(xid))
    assert db["k"].get(b"a") == (b"1" if commits else None) and other.tpc_recover() == []


def test_names_that_are_no_encoded_xids_are_recovered_too(part, db, ks):
    with db.transaction() as txn:
        txn.put(ks, b"a", b"1")
        txn.prepare("by hand")
    (found,) = part.tpc_recover()
    assert tuple(found) == (None, "by hand", None)
    part.tpc_commit(found)
    assert ks.get(b"a") == b"1"


def test_programming_errors(part, db):
    xid = part.xid(1, "g", "b")
    for act in (part.tpc_prepare, part.tpc_commit, part.tpc_rollback, lambda: part.transaction):
        with pytest.raises(part.ProgrammingError, match=r"tpc_begin"):
            act()
    part.commit()
    part.rollback()
    for act in (part.tpc_commit, part.tpc_rollback):
        with pytest.raises(part.ProgrammingError):
            act(part.xid(1, "unknown", ""))
    part.tpc_begin(xid)
    for act in (part.commit, part.rollback, lambda: part.tpc_begin(xid), lambda: part.tpc_commit(xid), lambda: part.tpc_rollback(xid)):
        with pytest.raises(part.ProgrammingError, match="under way"):
            act()
    part.tpc_rollback()
    assert issubclass(part.ProgrammingError, part.Error) and issubclass(part.NotSupportedError, part.DatabaseError)


def test_what_cannot_be_prepared_can_be_rolled_back(part, db, ks):
    part.tpc_begin(part.xid(1, "g", "b"))
    part.transaction.put(ks, b"a", b"1")
    with db.transaction() as txn:
        txn.put(ks, b"b", b"1")
        txn.prepare(str(part.xid(1, "g", "b")))
    with pytest.raises(ValueError, match="prepared already"):
        part.tpc_prepare()
    part.tpc_rollback()
    assert [str(xid) for xid in part.tpc_recover()] == [str(part.xid(1, "g", "b"))]
    db.rollback_prepared(str(part.xid(1, "g", "b")))


def test_outcomes_are_not_kept_where_nobody_asks(db, ks):
    part = Participant(db, keep_outcomes=False, isolation="serializable")
    xid = part.xid(1, "g", "b")
    part.tpc_begin(xid)
    assert part.transaction.isolation == "serializable"
    part.transaction.put(ks, b"a", b"1")
    part.tpc_prepare()
    part.tpc_commit()
    assert db.outcomes() == []
    with pytest.raises(NotPrepared):
        part.tpc_commit(xid)


def test_decisions_by_hand_reach_the_coordinator(part, db, ks):
    xid = part.xid(1, "g", "b")
    part.tpc_begin(xid)
    part.transaction.put(ks, b"a", b"1")
    part.tpc_prepare()
    db.rollback_prepared(str(xid), heuristic=True)
    with pytest.raises(HeuristicOutcome):
        part.tpc_commit()
    part.tpc_rollback()
    assert enginelib.twophase.Participant is Participant
