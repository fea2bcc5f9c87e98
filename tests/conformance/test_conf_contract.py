"""The contract that every back end keeps: reading, writing, scanning, the sizes of things."""

import random

import pytest

SIZES = [0, 1, 100, 1000, 1500, 1999, 2000, 2001, 4000, 8000, 8192, 20_000, 65_535, 65_536, 1 << 20]


def longest(db):
    return db.keyspace("probe").stats()["max_key"]


def test_a_key_is_absent_then_there_then_replaced_then_gone(ks):
    assert ks.get(b"k") is None and ks.get(b"k", b"?") == b"?" and b"k" not in ks
    assert ks.delete(b"k") is False
    ks.put(b"k", b"1")
    assert ks.get(b"k") == b"1" and b"k" in ks
    ks.put(b"k", b"2")
    assert ks[b"k"] == b"2" and len(ks) == 1
    assert ks.delete(b"k") is True
    assert ks.get(b"k") is None
    with pytest.raises(KeyError):
        ks[b"k"]
    with pytest.raises(KeyError):
        del ks[b"k"]


def test_the_empty_key_is_the_first_of_all(ks):
    ks[b""] = b"empty"
    ks[b"\x00"] = b""
    assert ks[b""] == b"empty" and ks[b"\x00"] == b""
    assert list(ks.items()) == [(b"", b"empty"), (b"\x00", b"")]
    assert list(ks.scan(b"", b"\x00")) == [(b"", b"empty")]
    assert list(ks.scan(prefix=b"")) == [(b"", b"empty"), (b"\x00", b"")]
    assert list(ks.scan(b"\x00", reverse=True)) == [(b"\x00", b"")]
    assert ks.delete(b"") is True and b"" not in ks


def test_an_empty_value_is_not_an_absent_one(ks):
    ks[b"k"] = b""
    assert ks.get(b"k") == b"" and b"k" in ks
    assert ks.get_many([b"k", b"l"]) == [b"", None]
    assert list(ks.scan()) == [(b"k", b"")]


def test_the_longest_keys(db, ks):
    n = longest(db)
    keys = sorted({b"x" * n, b"x" * (n - 1) + b"y", b"x" * (n - 1), b"\xff" * n, b"\x00" * n, b""})
    for key in keys:
        ks[key] = key[-5:]
    for filler in range(300):
        ks[b"x" * (n - 10) + b"%010d" % filler] = b"filler"
    assert [ks[key] for key in keys] == [key[-5:] for key in keys]
    assert len(ks) == len(keys) + 300
    assert list(ks) == sorted(ks)
    for key in keys:
        assert ks.delete(key)
    assert len(ks) == 300


@pytest.mark.parametrize("size", SIZES)
def test_values_of_every_size_come_back(db, ks, size):
    value = random.Random(size).randbytes(size)
    ks[b"k"] = value
    assert ks[b"k"] == value
    with db.transaction() as txn:
        txn.put(ks, b"l", memoryview(value))
        assert txn.get(ks, b"l") == value
        assert list(txn.scan(ks)) == [(b"k", value), (b"l", value)]
        assert list(txn.scan(ks, keys=False)) == [value, value]
        assert txn.get_many(ks, [b"l", b"m", b"k"]) == [value, None, value]
    db.checkpoint()
    assert ks[b"k"] == value


def test_a_value_is_replaced_by_values_of_every_other_size(db, ks):
    sizes = random.Random(1).sample(SIZES * 2, len(SIZES) * 2)
    ks[b"neighbour"] = b"n"
    for step, size in enumerate(sizes):
        value = bytes([step]) * size
        ks[b"k"] = value
        assert ks[b"k"] == value
        if step % 7 == 3:
            assert ks.delete(b"k")
            assert ks.get(b"k") is None
    assert ks[b"neighbour"] == b"n"
    db.checkpoint()
    ks.clear()
    db.checkpoint()
    assert db.stats()["pages"]["used_bytes"] < 100_000


def test_replacements_within_a_transaction_leave_the_last(db, ks):
    with db.transaction() as txn:
        for size in SIZES:
            txn.put(ks, b"k", b"a" * size)
        assert txn.get(ks, b"k") == b"a" * SIZES[-1]
        for size in reversed(SIZES):
            txn.put(ks, b"k", b"b" * size)
        assert txn.get(ks, b"k") == b""
        txn.delete(ks, b"k")
        txn.put(ks, b"k", b"end" * 10_000)
    assert ks[b"k"] == b"end" * 10_000
    with db.transaction() as txn:
        for size in SIZES:
            txn.put(ks, b"k", b"c" * size)
        txn.abort()
    assert ks[b"k"] == b"end" * 10_000


def test_many_keys_in_random_order_against_a_model(db, ks):
    dice = random.Random(5)
    model = {}
    for _ in range(30):
        pairs = [(b"%06d" % dice.randrange(20_000), dice.randbytes(dice.choice([0, 10, 200]))) for _ in range(300)]
        assert ks.put_many(pairs) == 300
        model.update(pairs)
        gone = dice.sample(sorted(model), 100)
        for key in gone:
            assert ks.delete(key) is True
            del model[key]
    assert list(ks.items()) == sorted(model.items())
    assert list(ks.scan(reverse=True)) == sorted(model.items(), reverse=True)
    wanted = [b"%06d" % dice.randrange(20_000) for _ in range(2000)]
    assert ks.get_many(wanted) == [model.get(key) for key in wanted]
    low, high = b"004000", b"011111"
    assert list(ks.scan(low, high)) == sorted((k, v) for k, v in model.items() if low <= k < high)


def test_put_many_takes_mappings_and_iterables_and_the_last_of_equals_wins(db, ks):
    assert ks.put_many({b"a": b"1", b"b": b"2"}) == 2
    assert ks.put_many((b"%d" % n, b"") for n in range(5)) == 5
    assert ks.put_many([(b"a", b"x"), (bytearray(b"a"), memoryview(b"y")), [b"c", b"z" * 30_000]]) == 3
    assert ks.put_many([]) == 0 and ks.get_many([]) == []
    assert ks[b"a"] == b"y" and ks[b"c"] == b"z" * 30_000 and len(ks) == 8


@pytest.mark.parametrize("reverse", [False, True])
def test_scans_have_half_open_bounds_limits_and_prefixes(ks, reverse):
    keys = [b"%03d" % n for n in range(0, 1000, 5)]
    ks.put_many([(key, b"v" + key) for key in keys])

    def expect(start=None, stop=None, prefix=b"", limit=None):
        found = [k for k in keys if (start or b"") <= k and (stop is None or k < stop) and k.startswith(prefix)]
        return (found[::-1] if reverse else found)[:limit]

    for span in (
        {},
        {"start": b"100"},
        {"start": b"101"},
        {"stop": b"100"},
        {"stop": b"101"},
        {"start": b"100", "stop": b"200"},
        {"start": b"104", "stop": b"106"},
        {"start": b"200", "stop": b"200"},
        {"start": b"300", "stop": b"200"},
        {"start": b"999"},
        {"stop": b""},
        {"prefix": b"1"},
        {"prefix": b"12"},
        {"prefix": b"123"},
        {"prefix": b"1", "start": b"150", "stop": b"160"},
        {"prefix": b"x"},
        {"limit": 0},
        {"limit": 1},
        {"limit": 49},
        {"limit": 1000},
        {"start": b"100", "limit": 7},
    ):
        assert list(ks.scan(**span, reverse=reverse, values=False)) == expect(**span), span
        assert list(ks.scan(**span, reverse=reverse, keys=False)) == [b"v" + k for k in expect(**span)]
        assert list(ks.scan(**span, reverse=reverse)) == [(k, b"v" + k) for k in expect(**span)]


def test_prefixes_of_the_highest_bytes(ks):
    keys = [b"\xfe", b"\xfe\xff", b"\xff", b"\xff\x00", b"\xff\xff", b"\xff\xff\xff", b"\xff\xff\xff\x01"]
    ks.put_many([(key, b"") for key in keys])
    for prefix in (b"", b"\xfe", b"\xfe\xff", b"\xff", b"\xff\xff", b"\xff\xff\xff", b"\xff\xff\xff\xff"):
        expected = [key for key in keys if key.startswith(prefix)]
        assert list(ks.scan(prefix=prefix, values=False)) == expected
        assert list(ks.scan(prefix=prefix, values=False, reverse=True)) == expected[::-1]


@pytest.mark.parametrize("span", [(None, None), (b"0200", b"0800"), (b"0200", None), (None, b"0800"), (b"5", b"4")])
def test_delete_range_deletes_the_range_alone(db, ks, span):
    keys = [b"%04d" % n for n in range(1500)]
    ks.put_many([(key, b"v" * 20) for key in keys] + [(b"0500", b"b" * 100_000)])
    inside = [k for k in keys if (span[0] or b"") <= k and (span[1] is None or k < span[1])]
    lsm = ks.backend == "lsm"  # which does not look at what it deletes
    with db.transaction() as txn:
        assert txn.delete_range(ks, *span) == (None if lsm else len(inside))
        assert list(txn.scan(ks, *span)) == []
        assert txn.delete_range(ks, *span) == (None if lsm else 0)
    assert list(ks) == [key for key in keys if key not in set(inside)]


def test_two_keyspaces_hold_the_same_keys_apart(db, ks, backend):
    other = db.keyspace("other", backend=backend)
    for n in range(500):
        ks[b"%d" % n] = b"one"
        other[b"%d" % n] = b"other"
    ks.clear()
    assert list(ks) == [] and len(other) == 500 and set(other.values()) == {b"other"}


def test_what_was_written_is_there_after_reopening(place, backend):
    import enginelib

    if place == ":memory:":
        pytest.skip("memory is not reopened")
    rows = {b"%05d" % n: bytes([n % 256]) * (n % 300) for n in range(5000)} | {b"big": b"B" * (1 << 20)}
    for _ in range(2):
        with enginelib.open(place, cache_size=1 << 20) as db:
            db.keyspace("space", backend=backend).put_many(rows)
        with enginelib.open(place, read_only=True) as db:
            assert dict(db["space"]) == rows
            assert db.verify().ok
