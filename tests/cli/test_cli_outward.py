"""changes and slots on the command line."""

import enginelib


def test_changes_are_lines_of_json(run, path):
    with enginelib.open(path) as db:
        db.create_slot("keeps what follows, through the close")
        users = db.keyspace("people")
        with db.transaction() as txn:
            txn.put(users, b"eve", b"\x00")
            txn.delete(users, b"ada")
            txn.delete_range(users, b"x", None)
    made, change = run.json_lines("changes", path)[-2:]
    assert made["operations"][0]["op"] == "create_keyspace"
    assert change["sequence"] == made["sequence"] + 1 and change["origin"] is None and change["calls"] == []
    assert change["operations"][0] == {"op": "put", "keyspace": "people", "key": "eve", "value": "\\x00"}
    (hexed,) = run.json_lines("changes", path, "--since", made["lsn"], "--hex")
    assert hexed["operations"][0]["key"] == "657665"
    assert len(run.json_lines("changes", path, "--limit", "1")) == 1
    assert run.json_lines("changes", path, "--keyspace", "none of these") == []
    events = run.json_lines("changes", path, "--since", made["lsn"], "--debezium")
    assert [event.get("status", event.get("op")) for event in events][0] == "BEGIN"
    assert events[-1]["event_count"] == len(events) - 2


def test_before_images_are_shown_when_asked_for(run, path):
    with enginelib.open(path) as db:
        since = db.create_slot("keeper").confirmed
        ledger = db.keyspace("ledger", before="full")
        ledger[b"a"] = b"1"
        ledger[b"a"] = b"2"
    last = run.json_lines("changes", path, "--since", since, "--before", "full")[-1]
    assert last["operations"] == [{"op": "put", "keyspace": "ledger", "existed": True, "key": "a", "value": "2", "before": "1"}]
    assert "before" not in run.json_lines("changes", path, "--since", since)[-1]["operations"][0]
    events = run.json_lines("changes", path, "--since", since, "--before", "key", "--debezium")
    assert [event["op"] for event in events if "op" in event] == ["m", "c", "u"]


def test_slots_are_made_listed_and_dropped(run, path):
    assert run.json("slots", "list", path) == []
    (made,) = run.json("slots", "create", path, "search", "--max-lag", "4096")
    assert made["name"] == "search" and made["valid"] and made["max_lag"] == 4096
    assert "search" in run("slots", "list", path).output
    assert "already" in run("slots", "create", path, "search", code=3).output
    assert run.json("slots", "drop", path, "search") == []
    assert "no slot named" in run("slots", "drop", path, "search", code=3).output
