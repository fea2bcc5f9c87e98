"""One node against a sorted list: searching, inserting, replacing, removing, compacting."""
import bisect
import random

import pytest
from enginelib._native.index.treedoor import NodeDoor
from enginelib._native.page.layout_door import check
from hypothesis import given, settings
from hypothesis import strategies as st

GHOST = 0x8000
tricky = st.one_of(
    st.binary(max_size=6),
    st.lists(st.sampled_from([b"\0", b"a", b"ab", b"abcd", b"\xff"]), max_size=6).map(b"".join),
    st.integers(0, 40).map(lambda n: b"long common start" + b"\0" * n),
)


def test_an_empty_node_has_all_its_room():
    for size in 4096, 8192, 16384, 32768:
        assert NodeDoor(size).room() == (size - 48, size - 48)
        assert NodeDoor(size, 0, b"ab", b"ac").room() == (size - 52, size - 52)


@pytest.mark.parametrize("lower, upper, prefix", [
    (None, None, b""), (b"abc", None, b""), (None, b"abc", b""), (b"abc", b"abd", b"ab"), (b"ab", b"abc", b"ab"),
    (b"a", b"b", b""), (b"a\0", b"a\0\0", b"a\0"),
])
def test_the_prefix_is_what_the_fences_share(lower, upper, prefix):
    node = NodeDoor(4096, 0, lower, upper)
    assert node.prefix() == prefix
    assert check(node.bytes(), 7) is None


def test_fences_are_half_open():
    node = NodeDoor(4096, 0, b"b", b"d")
    assert [node.within(k) for k in (b"", b"a", b"b", b"b\0", b"c\xff", b"d", b"d\0", b"e")] == [
        False, False, True, True, True, False, False, False]
    assert NodeDoor(4096).within(b"") and NodeDoor(4096).within(b"\xff" * 100)


@settings(max_examples=300)
@given(st.lists(tricky, unique=True, max_size=60), st.lists(tricky, max_size=30))
def test_search_finds_each_key_and_the_place_of_every_other(keys, others):
    node = NodeDoor(8192)
    for key in keys:
        assert node.put(key, b"v")
    order = sorted(keys)
    for key in keys + others:
        at = bisect.bisect_left(order, key)
        assert node.search(key) == (at, at < len(order) and order[at] == key)


@settings(max_examples=300)
@given(st.lists(tricky.filter(bool), unique=True, max_size=60), st.lists(tricky, max_size=30))
def test_an_inner_node_leads_to_the_child_whose_range_holds_the_key(keys, others):
    node = NodeDoor(8192, 1, leftmost=1000)
    for i, key in enumerate(keys):
        node.put_child(key, i + 100)
    order = sorted(keys)
    assert [k for k, _ in node.records()] == order
    for key in keys + others:
        assert node.search(key) == bisect.bisect_right(order, key) - 1
    assert check(node.bytes(), 7) is None


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 100, 300])
def test_runs_of_equal_heads_are_searched_right(n):
    node = NodeDoor(32768)
    keys = [b"head" + b"%03d" % i for i in range(n)] + [b"heaa", b"heaz"]
    for key in keys:
        node.put(key, b"")
    order = sorted(keys)
    for key in keys:
        for probe in (key, key + b"\0", key[:-1], key[:-1] + bytes([key[-1] + 1])):
            at = bisect.bisect_left(order, probe)
            assert node.search(probe) == (at, at < len(order) and order[at] == probe)


@pytest.mark.parametrize("size, fences", [(4096, (None, None)), (8192, (b"key", b"kez"))])
def test_any_sequence_of_changes_leaves_a_sound_node_that_equals_its_model(size, fences):
    rng = random.Random(size)
    node = NodeDoor(size, 0, *fences)
    model = {}
    full = 0
    for _ in range(6000):
        key = b"key" + rng.randbytes(rng.randrange(0, 4))
        if rng.random() < 0.6:
            value = rng.randbytes(rng.choice([0, 1, 10, 100, 400]))
            if node.put(key, value):
                model[key] = (0, value)
            else:
                full += 1
        elif rng.random() < 0.3 and node.put(key, b"", GHOST):
            model[key] = (GHOST, b"")
        elif model:
            at, found = node.search(key)
            if found:
                node.remove(at)
                del model[key]
            elif rng.random() < 0.2:
                key = rng.choice(sorted(model))
                node.remove(node.search(key)[0])
                del model[key]
        assert check(node.bytes(), 7) is None
    assert full > 100
    assert [(k, (f, v)) for k, f, v in node.records()] == sorted(model.items())


def test_a_record_fits_exactly_as_long_as_room_says():
    node = NodeDoor(4096)
    for i in range(36):
        node.put(b"%02d" % i, b"v" * 100)
    for i in range(0, 8, 2):
        node.remove(node.search(b"%02d" % i)[0])
    room, gap = node.room()
    assert gap < room
    need = 2 + 8 + 2
    assert not node.put(b"zz", b"x" * (room - need + 1))
    assert node.put(b"zz", b"x" * (room - need))
    assert node.room()[0] == 0
    assert check(node.bytes(), 7) is None


def test_a_replacement_that_needs_the_old_records_bytes_gets_them():
    node = NodeDoor(4096)
    node.put(b"a", b"1" * 900)
    while node.put(b"k%03d" % len(node.records()), b"v" * 90):
        pass
    room = node.room()[0]
    assert node.put(b"a", b"2" * (900 + room))
    assert {k: v for k, _, v in node.records()}[b"a"] == b"2" * (900 + room)
    assert node.room()[0] == 0
    assert not node.put(b"a", b"3" * (901 + room))
    assert check(node.bytes(), 7) is None


def test_the_newest_record_removed_gives_its_bytes_back_at_once():
    node = NodeDoor(4096)
    before = node.room()
    node.put(b"k", b"v")
    node.remove(0)
    assert node.room() == before


def test_compaction_loses_garbage_only():
    node = NodeDoor(4096, 1, b"b", b"x", leftmost=1000)
    for i in range(100):
        node.put_child(b"k%02d" % i, i + 100)
    for i in range(98, -1, -2):
        node.remove(i)
    records, (room, gap) = node.records(), node.room()
    assert gap < room
    node.compact()
    assert node.records() == records
    assert node.room() == (room, room)
    assert check(node.bytes(), 7) is None
