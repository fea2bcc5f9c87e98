"""Edits of an LSM-tree's set of tables, as bytes: what was said is what is understood, and nothing else is."""
import random

import pytest
from enginelib._native.index.lsmdoor import TreeDoor, decode_edit, encode_edit
from hypothesis import given, settings
from hypothesis import strategies as st

from enginelib import errors

u64 = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
levels = st.integers(0, 7)
figures = st.fixed_dictionaries(
    {
        **dict.fromkeys(
            ("file_bytes", "entries", "tombstones", "range_tombstones", "oldest_ts", "newest_ts", "oldest_wall", "newest_wall",
             "raw_bytes"), u64),
        "blocks": st.integers(0, (1 << 32) - 1),
        "compression": st.integers(0, 2),
        "unbounded": st.booleans(),
        "smallest": st.binary(max_size=300),
        "largest": st.binary(max_size=300),
    }
)  # fmt: skip
edits = st.tuples(
    u64,
    u64,
    st.lists(st.tuples(levels, u64), max_size=5),
    st.lists(st.tuples(levels, u64, figures), max_size=5),
)


@given(edit=edits)
def test_what_was_encoded_is_decoded(edit):
    assert decode_edit(encode_edit(*edit)) == edit


@settings(deadline=None)
@given(edit=edits)
def test_every_truncation_is_refused(edit):
    data = encode_edit(*edit)
    for n in range(len(data)):
        with pytest.raises(errors.CorruptionError):
            decode_edit(data[:n])


@given(edit=edits, tail=st.binary(min_size=1, max_size=9))
def test_bytes_behind_it_are_refused(edit, tail):
    with pytest.raises(errors.CorruptionError):
        decode_edit(encode_edit(*edit) + tail)


def test_mutations_are_refused_or_understood():
    rng = random.Random(1)
    figures = {"file_bytes": 1 << 40, "entries": 10**6, "newest_ts": 1 << 50, "smallest": b"least" * 9, "largest": b"most" * 9}
    refused = 0
    for _ in range(20_000):
        added = [(rng.randrange(8), rng.randrange(1 << 20), figures) for _ in range(rng.randrange(4))]
        data = bytearray(encode_edit(5, 6, [(1, 2), (3, 1 << 33)][: rng.randrange(3)], added))
        for _ in range(rng.choice((1, 1, 2, 10))):
            at = rng.randrange(len(data))
            data[at : at + rng.choice((0, 1, 1, 4))] = rng.choice((b"", b"\xff", b"\x80", b"\xff" * 9, rng.randbytes(3)))
            data = data or bytearray(b"\0")
        try:
            _, _, gone, there = decode_edit(bytes(data))
        except errors.CorruptionError:
            refused += 1
        else:
            assert all(level < 8 for level, _ in gone) and all(level < 8 for level, *_ in there)
    assert 5000 < refused < 20_000


@pytest.mark.parametrize("version", [0, 2, 127, 128])
def test_another_version_is_refused(version):
    data = encode_edit(1, 2, [], [])
    assert data[0] == 1
    head = bytes([version]) if version < 128 else b"\x80\x01"
    with pytest.raises(errors.CorruptionError):
        decode_edit(head + data[1:])


def test_an_edit_that_does_not_fit_the_tables_changes_nothing():
    tree = TreeDoor()
    one = {"smallest": b"b", "largest": b"d"}
    tree.edit([], [(3, 1, one), (3, 2, {"smallest": b"e", "largest": b"f"})])
    before = tree.levels()
    misfits = [
        ([(3, 9)], []),  # is not there
        ([(2, 1)], []),  # is in another level
        ([], [(3, 4, {"smallest": b"d", "largest": b"dd"})]),  # overlaps
        ([], [(3, 4, {"smallest": b"c", "largest": b"c"})]),
        ([], [(3, 4, {"smallest": b"x", "largest": b"w"})]),  # ends before it begins
        ([(3, 1)], [(3, 5, {"smallest": b"b", "largest": b"e"})]),
    ]
    for removed, added in misfits:
        with pytest.raises(errors.CorruptionError):
            tree.edit(removed, added)
        assert tree.levels() == before == {3: [1, 2]}
    tree.edit([(3, 1)], [(3, 5, {"smallest": b"a", "largest": b"e", "range_tombstones": 1})])  # a range that ends at e, exclusive
    assert tree.levels() == {3: [5, 2]}
    tree.edit([(3, 5), (3, 2)], [])
    assert tree.levels() == {}


def varints(data):
    """The numbers of a stretch of varints, and how long each prefix of them is."""
    value = shift = 0
    for at, byte in enumerate(data, 1):
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value, at
            value = shift = 0


def test_an_edit_is_what_the_document_says():
    figures = {"file_bytes": 300, "entries": 9, "tombstones": 2, "range_tombstones": 1, "oldest_ts": 4, "newest_ts": 400, "oldest_wall": 5,
               "newest_wall": 6, "raw_bytes": 77, "blocks": 3, "compression": 2, "unbounded": True, "smallest": b"low", "largest": b"higher"}  # fmt: skip
    data = encode_edit(1000, 12, [(0, 8), (5, 300)], [(6, 11, figures)])
    said = [1, 1000, 12, 2, 1, 0, 8, 5, 300, 6, 11, 300, 9, 2, 1, 4, 400, 5, 6, 77, 3, 2 + 128, 3, 6]
    read = list(varints(data))[: len(said)]
    assert [number for number, _ in read] == said
    assert data[read[-1][1] :] == b"lowhigher"
