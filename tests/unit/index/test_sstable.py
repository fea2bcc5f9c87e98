"""Sorted tables: what was written is what is read, in every way of reading; what was damaged is noticed."""
import random
import sys
from pathlib import Path

import pytest
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.index.compress import libraries
from enginelib._native.index.lsmdoor import TableDoor, WriterDoor
from hypothesis import given, settings
from hypothesis import strategies as st

from enginelib import errors

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "format"))
from tablereader import Range, Table, resealed

PATH = b"/7.sst"
NUMBER = 7
NOW = 1_700_000_000_000_000
COMPRESSIONS = ["none", *(name for name, version in libraries().items() if version)]
MODES = ("ge", "gt", "le", "lt")


def in_order(entries):
    return sorted(entries, key=lambda e: (e[0], -e[1]))


def write(entries, ranges=(), vfs=None, **options):
    """A table of these (key, timestamp, value or None, wall clock); its file system and what the writer said of it."""
    vfs = vfs or MemoryVfs()
    writer = WriterDoor(vfs, PATH, NUMBER, **options)
    for entry in in_order(entries):
        writer.add(*entry)
    for r in ranges:
        writer.add_range(*r)
    return vfs, writer.finish()


def opened(vfs, **options):
    return TableDoor(vfs, PATH, NUMBER, **options)


def stored(vfs):
    handle = vfs.py_open(PATH, 1)
    data = vfs.py_read(handle, vfs.py_size(handle), 0)
    vfs.py_close(handle)
    return data


def holding(data):
    """A file system with the file of a table."""
    vfs = MemoryVfs()
    handle = vfs.py_open(PATH, 2 | 4)
    if data:
        vfs.py_write(handle, data, 0)
    vfs.py_close(handle)
    return vfs


def visible(entries, key, snapshot):
    """The newest version of the key that the snapshot sees."""
    return max((e for e in entries if e[0] == key and e[1] <= snapshot), key=lambda e: e[1], default=None)


def from_there(entries, key, mode):
    """What a walk in the direction of the mode shows."""
    order = in_order(entries)
    if mode == "ge":
        return [e for e in order if key is None or e[0] >= key]
    if mode == "gt":
        return [e for e in order if key is None or e[0] > key]
    if mode == "le":
        return [e for e in reversed(order) if key is None or e[0] <= key]
    return [e for e in reversed(order) if key is None or e[0] < key]


def agrees(vfs, info, entries, ranges=(), probes=(), **options):
    """Every way of reading tells what was put."""
    order = in_order(entries)
    table = opened(vfs, **options)
    table.verify()
    assert table.scan() == order
    assert table.walk() == order
    assert table.walk(mode="le") == order[::-1]
    keys = sorted({e[0] for e in entries})
    stamps = sorted({e[1] for e in entries} | {e[1] - 1 for e in entries})
    rng = random.Random(1)
    for key in [*rng.sample(keys, min(len(keys), 12)), *probes]:
        for snapshot in [*rng.sample(stamps, min(len(stamps), 6)), 1 << 62]:
            assert table.find(key, snapshot) == visible(entries, key, snapshot)
        for mode in MODES:
            assert table.walk(key, mode, 40) == from_there(entries, key, mode)[:40]
        assert table.may_hold(key) or key not in keys
    for key in [*keys[:6], *probes]:
        for snapshot in (0, 1, *stamps[-3:], 1 << 62):
            covering = [ts for start, stop, ts in ranges if start <= key and (stop is None or key < stop) and ts <= snapshot]
            assert table.covering(key, snapshot) == max(covering, default=0)
    said = table.info
    assert {name: said[name] for name in info} == info
    independent = Table(stored(vfs), NUMBER)
    assert independent.entries == order
    assert sorted(independent.ranges, key=repr) == sorted(map(Range._make, ranges), key=repr)


keys = st.one_of(
    st.integers(0, 400).map(lambda n: b"key-%04d" % n),
    st.binary(max_size=20),
    st.tuples(st.binary(min_size=1, max_size=2), st.integers(0, 900)).map(lambda p: p[0] * (p[1] // len(p[0]))),
    st.sampled_from([b"", b"\x00", b"\x00" * 8, b"\x00" * 9, b"\xff" * 8, b"\xff" * 300]),
)
values = st.one_of(
    st.none(),
    st.binary(max_size=40),
    st.tuples(st.integers(0, 6000), st.integers(0, 255)).map(lambda p: bytes([p[1]]) * p[0]),
    st.integers(0, 1 << 30).map(lambda seed: random.Random(seed).randbytes(seed % 9000)),
)
walls = st.one_of(st.just(0), st.integers(NOW, NOW + (1 << 40)), st.sampled_from([1, 1 << 63, (1 << 64) - 1]))
versions = st.dictionaries(st.integers(5, 1 << 40), st.tuples(values, walls), min_size=1, max_size=5)
contents = st.dictionaries(keys, versions, min_size=1, max_size=60)
bounds = st.tuples(keys, st.one_of(st.none(), keys), st.integers(5, 1 << 40)).filter(lambda r: r[1] is None or r[0] < r[1])


@settings(deadline=None, max_examples=60)
@given(
    contents=contents,
    ranges=st.lists(bounds, max_size=4),
    probes=st.lists(keys, max_size=4),
    compression=st.sampled_from(COMPRESSIONS),
    page_size=st.sampled_from([4096, 8192]),
    interval=st.sampled_from([1, 2, 16, 64]),
    bits=st.sampled_from([0, 1, 10, 30]),
    partition=st.sampled_from([0, 2]),
)
def test_what_was_written_is_read(contents, ranges, probes, compression, page_size, interval, bits, partition):
    entries = [(key, ts, value, wall) for key, all in contents.items() for ts, (value, wall) in all.items()]
    vfs, info = write(entries, ranges, compression=compression, page_size=page_size, interval=interval, bits=bits,
                      partition=partition, base_ts=5)  # fmt: skip
    assert info["entries"] == len(entries)
    agrees(vfs, info, entries, ranges, probes, page_size=page_size)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_large_table_with_two_levels_of_index(compression):
    rng = random.Random(5)
    entries = [(b"user/%08d" % (i // 2 * 3), 10 + (i + 1) % 2, rng.randbytes(30) + b"x" * 60, NOW + i) for i in range(40_000)]
    vfs, info = write(entries, compression=compression, partition=100)
    table = opened(vfs)
    assert table.info["partitions"] > 1 and info["blocks"] > 200
    table.verify()
    assert table.scan() == in_order(entries)
    assert table.walk() == in_order(entries)
    assert table.walk(mode="le") == in_order(entries)[::-1]
    assert table.waits > info["blocks"]  # the cache is smaller than the table
    for i in rng.sample(range(20_000), 300):
        key = b"user/%08d" % (i * 3)
        assert table.find(key, 1 << 60) == entries[2 * i]
        assert table.find(key, 10) == entries[2 * i + 1]
        assert table.find(key, 9) is None
        assert table.find(key + b"x", 1 << 60) is None
        assert [e[0] for e in table.walk(key, "lt", 1)] == ([b"user/%08d" % (i * 3 - 3)] if i else [])


@pytest.mark.parametrize("partition", [0, 3])
def test_versions_of_one_key_over_many_blocks(partition):
    entries = [(b"hot", ts, b"%05d" % ts * 20, 0) for ts in range(1, 2000)] + [(b"a", 3, b"x", 0), (b"z", 3, b"y", 0)]
    vfs, info = write(entries, partition=partition)
    assert info["blocks"] > 20
    table = opened(vfs)
    for snapshot in (0, 1, 2, 100, 777, 1999, 5000):
        assert table.find(b"hot", snapshot) == visible(entries, b"hot", snapshot)
    for mode in MODES:
        assert table.walk(b"hot", mode, 30) == from_there(entries, b"hot", mode)[:30]
    agrees(vfs, info, entries)


def test_keys_as_long_as_they_may_be():
    entries = [(b"k" * 8000 + b"%03d" % i, 9, b"v" * (i * 50), 0) for i in range(80)]
    vfs, info = write(entries, page_size=32768)
    agrees(vfs, info, entries, page_size=32768)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_values_that_stand_by_themselves(compression):
    rng = random.Random(2)
    entries = [(b"%03d" % i, 4 + i, rng.randbytes(i * 977 % 70_000) + b"tail" * (i * 31 % 9000), 0) for i in range(60)]
    entries.append((b"huge", 99, b"0123456789abcdef" * (1 << 18), 0))
    vfs, info = write(entries, compression=compression)
    agrees(vfs, info, entries)


def test_a_table_of_range_tombstones_alone():
    ranges = [(b"a", b"c", 7), (b"b", None, 9), (b"", b"b", 8)]
    vfs, info = write([], ranges)
    assert info["entries"] == 0 and info["unbounded"] and info["range_tombstones"] == 3
    table = opened(vfs)
    table.verify()
    assert table.scan() == table.walk() == []
    assert [table.covering(k, 100) for k in (b"", b"a", b"b", b"c", b"\xff")] == [8, 8, 9, 9, 9]
    assert [table.covering(k, 8) for k in (b"", b"a", b"b", b"c", b"\xff")] == [8, 8, 7, 0, 0]


def test_the_writer_takes_nothing_out_of_order():
    writer = WriterDoor(MemoryVfs(), PATH, NUMBER, base_ts=5)
    writer.add(b"b", 9, b"")
    for entry in ((b"a", 9, b""), (b"b", 9, b""), (b"b", 10, b""), (b"c", 4, b"")):
        with pytest.raises(errors.UsageError):
            writer.add(*entry)
    with pytest.raises(errors.UsageError):
        writer.add_range(b"b", b"b", 9)
    writer.add(b"b", 8, b"")


def test_a_table_that_was_not_finished_leaves_no_file():
    vfs = MemoryVfs()
    writer = WriterDoor(vfs, PATH, NUMBER)
    writer.add(b"k", 1, b"v")
    writer.close()
    assert vfs.py_list_dir("/") == []


# --- damage ------------------------------------------------------------------------------------------------------------

SMALL = [(b"k%02d" % i, 3 + i % 4, None if i % 5 == 4 else b"v%d" % i * 9, NOW + i) for i in range(50)]
SMALL += [(b"k07", 1, b"older", 0), (b"large", 8, b"0123456789" * 450, 0)]
RANGES = [(b"k10", b"k20", 5), (b"x", None, 6)]


WAYS = {
    "walk": lambda table: table.walk(),
    "back": lambda table: table.walk(mode="le"),
    "scan": lambda table: table.scan(),
    "find": lambda table: {e[0]: table.find(e[0], 1 << 60) for e in SMALL[::7]},
    "covering": lambda table: [table.covering(k, s) for k in (b"k10", b"k15", b"k20", b"y") for s in (4, 5, 6)],
    "filter": lambda table: [table.may_hold(e[0]) for e in SMALL],
    "info": lambda table: table.info,
    "verify": lambda table: table.verify(),
}


def all_of(table):
    """What each way of reading shows."""
    return {name: way(table) for name, way in WAYS.items()}


def outcome(data, expected):
    """Of a damaged file: "found" when it cannot be opened or is not sound; each way of reading notices it by itself or is right."""
    try:
        table = opened(holding(data))
    except errors.CorruptionError as error:
        assert "7.sst" in error.file
        return "found"
    result = "harmless"
    for name, way in WAYS.items():
        try:
            assert way(table) == expected[name], "a wrong answer"
        except errors.CorruptionError as error:
            assert "7.sst" in error.file
            result = "found" if name == "verify" else "unsound"
    return result


@pytest.fixture(scope="module", params=COMPRESSIONS)
def small(request):
    """The bytes of a small table of everything, and what it shows."""
    vfs, _ = write(SMALL, RANGES, compression=request.param, partition=0, bits=8)
    return stored(vfs), all_of(opened(vfs))


@pytest.fixture(scope="module")
def layered():
    """Likewise, with two levels of index."""
    entries = [(b"%05d" % i, 9, b"x" * 90, 0) for i in range(260)]
    vfs, _ = write(SMALL + entries, RANGES, partition=2)
    table = opened(vfs)
    assert table.info["partitions"] >= 1
    return stored(vfs), all_of(table)


def test_every_flipped_bit_is_found_or_harmless(small):
    data, expected = small
    outcomes = set()
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            outcomes.add(outcome(bytes(changed), expected))
    assert outcomes == {"found"}  # there is not one byte in a table that no sum covers


def test_every_flipped_byte_of_a_layered_table_is_found(layered):
    data, expected = layered
    rng = random.Random(3)
    for at in rng.sample(range(len(data)), 2500):
        changed = bytearray(data)
        changed[at] ^= rng.randrange(1, 256)
        assert outcome(bytes(changed), expected) == "found"


def test_every_truncated_file_is_refused(small):
    data, expected = small
    for n in range(len(data)):
        assert outcome(data[:n], expected) == "found"


def test_a_longer_file_is_refused(small):
    data, expected = small
    for tail in (b"\0", b"\0" * 4096, data[:-1]):
        assert outcome(data + tail, expected) == "found"


def test_a_file_of_another_name_is_refused(small):
    data, _ = small
    vfs = holding(data)
    vfs.py_rename(PATH, b"/8.sst")
    with pytest.raises(errors.CorruptionError, match="another sorted table"):
        TableDoor(vfs, b"/8.sst", 8)


@pytest.mark.parametrize("kind", ["small", "layered"])
def test_a_malicious_table_crashes_nothing(kind, request):
    """Bytes are changed and the seals made right again: what is read may be wrong then, but nothing dies of it."""
    if kind == "small":
        vfs, _ = write(SMALL, RANGES)
        data = stored(vfs)
    else:
        data, _ = request.getfixturevalue("layered")
    stretches = Table(data, NUMBER).stretches
    rng = random.Random(11)
    refused = 0

    def change(content):
        content = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(content))
            how = rng.random()
            if how < 0.5:
                content[at] ^= 1 << rng.randrange(8)
            elif how < 0.8:
                content[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", rng.randbytes(4)))[: len(content) - at]
            else:
                n = rng.randrange(1, 24)
                source = rng.randrange(len(content))
                piece = content[source : source + n]
                content[at : at + len(piece)] = piece[: len(content) - at]
        return bytes(content)

    for _ in range(3000):
        try:
            table = opened(holding(resealed(data, NUMBER, rng.choice(stretches), change)))
        except (errors.CorruptionError, MemoryError):
            refused += 1
            continue
        for way in WAYS.values():
            try:
                way(table)
            except (errors.CorruptionError, MemoryError):
                refused += 1
    assert refused > 2000
