import pytest
from enginelib._native.log import record
from hypothesis import given
from hypothesis import strategies as st

ROWS = record.table()
U64 = st.integers(0, 2**64 - 1)


@st.composite
def records(draw):
    name, _, fields = draw(st.sampled_from(ROWS))
    given_fields = {}
    for field in fields:
        if field == "keyspace":
            given_fields[field] = draw(st.integers(0, 2**32 - 1))
        elif field in ("key", "value"):
            given_fields[field] = draw(st.binary(max_size=300))
        else:
            given_fields[field] = draw(U64)
    return name, given_fields


def as_tuple(lsn, name, fields):
    return (lsn, name, *(fields.get(f) for f in ("txn", "keyspace", "a", "b", "key", "value")))


@given(st.lists(records(), max_size=5))
def test_what_is_encoded_is_decoded(items):
    data, expected = b"", []
    for name, fields in items:
        expected.append(as_tuple(1000 + len(data), name, fields))
        data += record.encode(name, **fields)
    assert record.decode(data, 1000) == expected
    assert record.describe(data, 1000).count("\n") == max(0, len(items) - 1)


@given(records())
def test_overhead_is_bounded(item):
    name, fields = item
    data = record.encode(name, **fields)
    assert len(data) <= len(fields.get("key", b"")) + len(fields.get("value", b"")) + 64
    if name in ("commit", "abort", "rollback"):
        assert len(data) <= 32           # reserve_ends counts on it


@given(records())
def test_every_cut_of_a_record_is_refused(item):
    name, fields = item
    data = record.encode(name, **fields)
    for n in range(1, len(data)):
        with pytest.raises(ValueError):
            record.decode(data[:n])


@given(st.binary(max_size=200))
def test_decoder_survives_anything_and_has_one_reading(data):
    try:
        found = record.decode(data)
    except ValueError:
        return
    names = ("txn", "keyspace", "a", "b", "key", "value")
    again = b"".join(
        record.encode(name, **{k: v for k, v in zip(names, rest) if v is not None}) for _, name, *rest in found)
    assert again == data


@pytest.mark.parametrize("data", [
    b"\x00", b"\x0b", b"\xff",                              # no such type
    b"\x04", b"\x04\x80",                                   # cut varint
    b"\x04\x81\x00",                                        # overlong varint
    b"\x04" + b"\xff" * 9 + b"\x02",                        # over 64 bits
    b"\x02\x01\x80\x80\x80\x80\x10\x00",                    # keyspace over 32 bits
    b"\x02\x01\x01\x05abcd",                                # key over the end
    b"\x01\x01\x01\x00" + b"\xff" * 9 + b"\x01",            # hostile length
    b"\x01\x01\x01" + b"\xff" * 9 + b"\x01" + b"\xff" * 9 + b"\x01",
])
def test_malformed_records_are_refused(data):
    with pytest.raises(ValueError):
        record.decode(data)


def test_table_has_unique_codes_and_names():
    assert len({name for name, _, _ in ROWS}) == len({code for _, code, _ in ROWS}) == 17
