"""Encodings of changes: what is decoded is what was encoded, by readers older and younger; files tell damage."""

import io
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import enginelib
from enginelib.commands import Call
from enginelib.replication import Change, Operation, codec

texts = st.text(min_size=1, max_size=5)
small = st.binary(max_size=20)
operations = st.builds(Operation, texts, st.sampled_from(sorted(codec.CODES)), st.none() | small, st.none() | small)
calls = st.builds(Call, texts, st.lists(st.none() | st.integers(-5, 5) | small, max_size=3), st.integers(0, 2**53), st.integers(0, 2**64 - 1))
changes = st.builds(
    Change, st.binary(min_size=16, max_size=16), st.integers(0, 9), st.integers(1, 2**60), st.integers(1, 2**60), st.integers(1, 2**60),
    st.floats(0, 2e9), st.none() | small, st.lists(operations, max_size=5), st.lists(calls, max_size=2).map(tuple))  # fmt: skip



@settings(max_examples=300, deadline=None)
@given(changes)
def test_decoding_is_the_inverse(change):
    assert codec.decode(codec.encode(change)) == change


@given(changes)
def test_unknown_tags_are_passed_over_and_missing_ones_are_none(change):
    fields = msgspec.msgpack.decode(codec.encode(change), type=dict[int, object])
    fields[99] = "from the future"
    fields[codec.OPERATIONS] = [{**o, 77: b"too"} for o in fields[codec.OPERATIONS]]
    assert codec.decode(msgspec.msgpack.encode(fields)) == change


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xc0", b"nonsense", b"\x81\x01\xc0", bytes(100)])
def test_what_is_no_change_is_refused(data):
    with pytest.raises(ValueError, match="no encoded change"):
        codec.decode(data)


def example():
    return Change(
        bytes(range(16)), 1, 2, 300, 2, 1.5, b"origin", [Operation("k", "put", b"a", b"1"), Operation("k", "delete_range", b"a")],
        (Call("p", [1, b"x"], 4, 5),))  # fmt: skip


def test_the_bytes_are_those_of_the_first_version():
    golden = (
        "8901c410000102030405060708090a0b0c0d0e0f0201030204cd012c050206cb3ff800000000000008"
        "928401010 2a16b03c4016104c401318301030 2a16b03c4016107c4066f726967696e09918401a1700292 01c4017803040405"
    )
    fields = msgspec.msgpack.decode(codec.encode(example()), type=dict[int, object])
    assert list(fields) == [1, 2, 3, 4, 5, 6, 8, 7, 9]
    assert codec.encode(example()).hex() == golden.replace(" ", "")


def test_files_are_read_back_and_tell_damage(tmp_path):
    with enginelib.open(tmp_path / "db") as db:
        ks = db.keyspace("space")
        for i in range(20):
            ks[b"%d" % i] = b"v"
        every = list(db.changes())
    file = io.BytesIO()
    assert codec.save(every, file) == 21
    data = file.getvalue()
    assert list(codec.load(io.BytesIO(data))) == every
    for at in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(enginelib.CorruptionError):
            list(codec.load(io.BytesIO(bytes(damaged))))
    for end in range(1, len(data)):
        try:
            found = list(codec.load(io.BytesIO(data[:end])))
        except enginelib.CorruptionError:
            continue
        assert found == every[: len(found)], "cut between two changes"


def test_events_have_the_shape_of_debezium():
    begin, put, cut, end = [json.loads(json.dumps(e)) for e in codec.to_events(example(), bytes.decode)]
    assert begin["status"] == "BEGIN" and end == {
        "status": "END", "id": begin["id"], "ts_ms": 1500, "event_count": 2, "data_collections": [{"data_collection": "k", "event_count": 2}]}  # fmt: skip
    assert put["op"] == "u" and put["after"] == {"key": "a", "value": "1"} and put["before"] is None
    assert put["source"]["sequence"] == 2 and put["source"]["keyspace"] == "k" and put["transaction"]["total_order"] == 1
    assert cut["op"] == "t" and cut["range"] == {"start": "a", "stop": None}
