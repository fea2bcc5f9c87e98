"""2pc on the command line."""

import pytest

import enginelib
from enginelib.twophase import Participant

XID = str(Participant.xid(7, "order/17", "stock"))


@pytest.fixture
def prepared(path):
    """The path of a database with two prepared transactions."""
    with enginelib.open(path) as db:
        for xid, key in (("by-hand", b"x"), (XID, b"y")):
            with db.transaction(isolation="locking") as txn:
                txn.put(db["users"], key, b"1")
                txn.prepare(xid)
    return path


def test_what_is_in_doubt_is_listed(run, path, prepared):
    plain, encoded = run.json("2pc", "list", prepared)
    assert plain["xid"] == "by-hand" and plain["changes"] == 1 and plain["outcome"] == "prepared" and plain["isolation"] == "locking"
    assert "gtrid" not in plain and plain["age"] >= 0
    assert (encoded["xid"], encoded["format_id"], encoded["gtrid"], encoded["bqual"]) == (XID, 7, "order/17", "stock")
    output = run("2pc", "list", prepared).output
    assert "by-hand" in output and "locking" in output


def test_nothing_in_doubt(run, path):
    assert run.json("2pc", "list", path) == []
    assert run("2pc", "list", path).exit_code == 0


@pytest.mark.parametrize(("verb", "outcome"), [("commit", "heuristically_committed"), ("rollback", "heuristically_rolled_back")])
def test_decisions_by_hand_are_recorded(run, prepared, content, verb, outcome):
    assert run.json("2pc", verb, prepared, XID) == {"xid": XID, "outcome": outcome}
    assert content().get(b"y") == (b"1" if verb == "commit" else None)
    assert [row["xid"] for row in run.json("2pc", "list", prepared)] == ["by-hand"]
    listed = run.json("2pc", "list", prepared, "--outcomes")
    assert [(row["xid"], row["outcome"]) for row in listed] == [("by-hand", "prepared"), (XID, outcome)]
    assert outcome in run("2pc", "list", prepared, "--outcomes").output
    with enginelib.open(prepared) as db, pytest.raises(enginelib.HeuristicOutcome):
        (db.rollback_prepared if verb == "commit" else db.commit_prepared)(XID)
    assert run.json("2pc", "forget", prepared, XID)["outcome"] is None
    assert len(run.json("2pc", "list", prepared, "--outcomes")) == 1


def test_the_coordinators_own_decisions_are_not_by_hand(run, prepared, content):
    assert run.json("2pc", "commit", prepared, "by-hand", "--coordinator")["outcome"] == "committed"
    assert run.json("2pc", "rollback", prepared, XID, "--coordinator")["outcome"] == "rolled_back"
    assert content().get(b"x") == b"1" and content().get(b"y") is None
    assert "committed" in run("2pc", "commit", prepared, "by-hand", "--coordinator").output


def test_what_is_not_prepared(run, prepared):
    assert "never prepared" in run("2pc", "commit", prepared, "unknown", code=3).output
    assert run.json("2pc", "rollback", prepared, "unknown")["outcome"] == "rolled_back"
    assert "commit it or roll it back first" in run("2pc", "forget", prepared, XID, code=3).output
    run("2pc", "list", str(prepared) + "-absent", code=3)
