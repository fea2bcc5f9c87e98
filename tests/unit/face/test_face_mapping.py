"""The Mapping style: a keyspace and a transaction's view of it behave like a sorted dict, and alike."""

from collections.abc import MutableMapping
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sortedcontainers import SortedDict

import enginelib

FULL = {b"": b"empty", b"a": b"1", b"ab": b"2", b"b": b"", b"c\x00": b"4", b"\xff\xff": b"5"}


@contextmanager
def keyspace_style(space):
    yield space


@contextmanager
def view_style(space):
    with space.database.transaction() as txn:
        yield txn[space]


@pytest.fixture(params=[keyspace_style, view_style], ids=["keyspace", "view"])
def style(request):
    return request.param


@pytest.fixture
def full(space):
    space.update(FULL)
    return space


def test_both_are_mutable_mappings(style, space):
    with style(space) as mapping:
        assert isinstance(mapping, MutableMapping)


def test_reading_agrees_with_a_dict(style, full):
    model = SortedDict(FULL)
    with style(full) as mapping:
        assert list(mapping) == list(model)
        assert list(reversed(mapping)) == list(reversed(model))
        assert list(mapping.keys()) == list(model.keys())
        assert list(reversed(mapping.keys())) == list(reversed(model.keys()))
        assert list(mapping.values()) == list(model.values())
        assert list(reversed(mapping.values())) == list(reversed(model.values()))
        assert list(mapping.items()) == list(model.items())
        assert list(reversed(mapping.items())) == list(reversed(model.items()))
        assert len(mapping) == len(mapping.keys()) == len(mapping.values()) == len(mapping.items()) == len(model)
        assert dict(mapping) == FULL
        for key, value in model.items():
            assert mapping[key] == mapping.get(key) == value
            assert key in mapping and key in set(mapping.keys()) and (key, value) in mapping.items()
        assert b"4" in mapping.values() and b"6" not in mapping.values()
        assert b"zz" not in mapping and (b"a", b"2") not in mapping.items()
        assert mapping.get(b"zz") is None and mapping.get(b"zz", 7) == 7
        assert mapping.keys() & {b"a", b"zz"} == {b"a"}


def test_truth_is_whether_there_is_a_key(style, space):
    with style(space) as mapping:
        assert not mapping
    space[b""] = b""
    with style(space) as mapping:
        assert mapping


def test_a_missing_key_is_a_key_error_that_names_it(style, full):
    with style(full) as mapping:
        for act in (mapping.__getitem__, mapping.__delitem__, mapping.pop):
            with pytest.raises(KeyError) as caught:
                act(b"zz")
            assert caught.value.args[0] == b"zz"


def test_changes_agree_with_a_dict(style, full):
    with style(full) as mapping:
        mapping[b"new"] = b"6"
        del mapping[b"a"]
        assert mapping.pop(b"ab") == b"2"
        assert mapping.pop(b"ab", None) is None
        assert mapping.setdefault(b"b", b"x") == b""
        assert mapping.setdefault(b"d", b"7") == b"7"
        assert mapping.popitem() == (b"", b"empty")
        mapping.update([(b"e", b"8"), (b"f", b"9")])
        mapping.update({b"f": b"10"})
        mapping.update()
    expected = {
        b"b": b"",
        b"c\x00": b"4",
        b"d": b"7",
        b"e": b"8",
        b"f": b"10",
        b"new": b"6",
        b"\xff\xff": b"5",
    }
    assert dict(full) == expected


def test_clear_and_popitem_of_what_is_empty(style, full):
    with style(full) as mapping:
        mapping.clear()
        assert list(mapping) == []
        with pytest.raises(KeyError):
            mapping.popitem()
    assert not full


def test_one_mapping_updates_another(style, full, db):
    other = db.keyspace("other")
    with style(other) as mapping:
        mapping.update(full)
    assert dict(other) == FULL


def test_update_refuses_keyword_arguments(style, space):
    with style(space) as mapping:
        with pytest.raises(TypeError, match="keyword"):
            mapping.update({}, ada=b"1")


def test_slices_are_half_open_and_a_step_of_minus_one_reverses_the_order_only(style, full):
    with style(full) as mapping:
        assert [key for key, _ in mapping[b"a":b"b"]] == [b"a", b"ab"]
        assert [key for key, _ in mapping[b"a":b"b":-1]] == [b"ab", b"a"]
        assert [key for key, _ in mapping[b"b":]] == [b"b", b"c\x00", b"\xff\xff"]
        assert [key for key, _ in mapping[:b"ab"]] == [b"", b"a"]
        assert list(mapping[::-1]) == sorted(FULL.items(), reverse=True)
        assert list(mapping[b"b":b"a"]) == []
        assert list(mapping[b"a":b"a"]) == []


def test_a_slice_has_step_one_or_minus_one(style, full):
    with style(full) as mapping:
        for act in (mapping.__getitem__, mapping.__delitem__):
            with pytest.raises(ValueError, match="step 1 or -1, not 2"):
                act(slice(None, None, 2))


def test_a_slice_is_deleted(style, full):
    with style(full) as mapping:
        del mapping[b"a":b"c"]
        assert list(mapping) == [b"", b"c\x00", b"\xff\xff"]
    assert len(full) == 3


def test_scan_chooses_range_order_number_and_parts(style, full):
    with style(full) as mapping:
        assert list(mapping.scan(b"a", b"c", values=False)) == [b"a", b"ab", b"b"]
        assert list(mapping.scan(start=b"a", limit=2, keys=False)) == [b"1", b"2"]
        assert list(mapping.scan(prefix=b"a")) == [(b"a", b"1"), (b"ab", b"2")]
        assert list(mapping.scan(prefix=b"a", reverse=True, limit=1)) == [(b"ab", b"2")]
        assert list(mapping.scan(prefix=b"\xff", values=False)) == [b"\xff\xff"]
        assert list(mapping.scan(limit=0)) == []
        assert mapping.count_range(b"a", b"b") == 2
        assert mapping.count_range(prefix=b"c") == 1
        assert mapping.count_range() == len(FULL)


def test_many_at_once(style, full):
    with style(full) as mapping:
        assert mapping.get_many([b"a", b"zz", b""]) == [b"1", None, b"empty"]
        assert mapping.put_many([(b"x", b"1"), (b"y", b"2")]) == 2
        assert mapping[b"y"] == b"2"


def test_buffers_are_taken_and_bytes_come_back(style, space):
    with style(space) as mapping:
        mapping[bytearray(b"k")] = memoryview(b"value")[1:]
        assert mapping[memoryview(b"k")] == b"alue"
        assert type(mapping[b"k"]) is bytes
        assert mapping.setdefault(b"s", bytearray(b"v")) == b"v"


def test_text_is_refused_with_the_remedy(style, space):
    with style(space) as mapping:
        for act in (
            lambda: mapping["k"],
            lambda: mapping.get("k"),
            lambda: "k" in mapping,
            lambda: mapping.pop("k"),
        ):
            with pytest.raises(TypeError, match="encode"):
                act()
        with pytest.raises(TypeError, match="encode"):
            mapping[b"k"] = "v"
        with pytest.raises(TypeError):
            mapping[b"k"] = 7


def test_a_keyspace_is_compared_by_identity_and_can_be_a_dict_key(space, db):
    other = db.keyspace("other")
    assert space == space and space != other and space != {}
    assert {space: 1}[space] == 1


def test_a_scan_of_a_keyspace_is_of_the_moment_it_was_asked_for(full):
    rows = full.scan()
    full[b"later"] = b"x"
    del full[b"a"]
    assert dict(rows) == FULL


def test_a_view_sees_its_own_changes_and_others_do_not(space, db):
    with db.transaction() as txn:
        txn[space][b"k"] = b"v"
        assert txn[space][b"k"] == b"v"
        assert b"k" not in space
    assert space[b"k"] == b"v"


def test_a_failing_update_leaves_nothing(space):
    with pytest.raises(TypeError):
        space.update([(b"a", b"1"), (b"b", "not bytes")])
    assert not space


def test_reading_by_index_needs_a_keyspace(db):
    with db.transaction(read_only=True) as txn:
        with pytest.raises(TypeError, match=r"db\[name\]"):
            txn["space"]


keys = st.binary(max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(keys, st.binary(max_size=4), max_size=20),
    st.none() | keys,
    st.none() | keys,
    st.booleans(),
)
def test_ranges_agree_with_a_sorted_dict(content, start, stop, reverse):
    model = [
        (key, value)
        for key, value in sorted(content.items())
        if (start is None or key >= start) and (stop is None or key < stop)
    ]
    with enginelib.open(":memory:", cache_size=1 << 20, segment_size=1 << 20) as db:
        space = db.keyspace("space")
        space.update(content)
        assert list(space[start : stop : -1 if reverse else 1]) == (model[::-1] if reverse else model)
        assert space.count_range(start, stop) == len(model)
        del space[start:stop]
        assert list(space.items()) == [pair for pair in sorted(content.items()) if pair not in model]


awkward = st.lists(st.sampled_from([b"\xff", b"\xfe", b"\\", b"x", b"f", b"a", b"\x00"]), max_size=4).map(b"".join)


@settings(max_examples=60, deadline=None)
@given(st.sets(awkward, max_size=12), awkward, st.booleans())
def test_a_prefix_finds_exactly_the_keys_that_begin_with_it(keys, prefix, reverse):
    """The bound above a prefix is easily got wrong where it ends in the greatest byte."""
    with enginelib.open(":memory:", cache_size=1 << 20, segment_size=1 << 20) as db:
        space = db.keyspace("space")
        space.update((key, b"") for key in keys)
        expected = sorted((key for key in keys if key.startswith(prefix)), reverse=reverse)
        assert list(space.scan(prefix=prefix, values=False, reverse=reverse)) == expected
        assert space.count_range(prefix=prefix) == len(expected)
