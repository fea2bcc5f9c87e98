"""The memtable against a sorted dictionary: every version where it belongs, in flight or committed; what is searched is found."""
import random

import pytest
from enginelib._native.index.lsmdoor import MemTableDoor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sortedcontainers import SortedDict

MODES = ("ge", "gt", "le", "lt")

keys = st.one_of(
    st.integers(0, 40).map(lambda n: b"k%02d" % n),
    st.binary(max_size=3),
    st.tuples(st.binary(max_size=2), st.integers(6, 11)).map(lambda p: b"common.."[: p[1]] + p[0]),
    st.sampled_from([b"", b"\x00", b"\x00" * 7, b"\x00" * 8, b"\x00" * 9, b"\xff" * 8, b"\xff" * 9, b"long" * 500]),
)
values = st.one_of(st.none(), st.binary(max_size=20), st.integers(0, 40_000).map(lambda n: b"x" * n))
walls = st.integers(0, 1 << 60)
writers = st.integers(1, 3)


def there(model, key, mode):
    """All keys from there on, in the direction of the mode."""
    known = list(model)
    if mode[0] == "l":
        known.reverse()
    if key is None:
        return known
    return [k for k in known if {"ge": k >= key, "gt": k > key, "le": k <= key, "lt": k < key}[mode]]


class Machine(RuleBasedStateMachine):
    """As a transaction manager uses it: one writer in flight per key, its versions on top of all others."""

    def __init__(self):
        super().__init__()
        self.door = MemTableDoor(1 << 12)
        self.model = SortedDict()  # key -> versions, newest first: (timestamp, value, wall clock); of writer n in flight: -n
        self.ranges = {}  # handle -> (start, stop, timestamp)
        self.clock = 0

    def owner(self, key):
        """The writer that has the key, or 0."""
        found = self.model.get(key)
        return -found[0][0] if found and found[0][0] < 0 else 0

    @rule(key=keys, value=values, wall=walls)
    def put_committed(self, key, value, wall):
        if not self.owner(key):
            self.clock += 1
            self.door.put(key, self.clock, value, wall)
            self.model.setdefault(key, []).insert(0, (self.clock, value, wall))

    @rule(key=keys, value=values, writer=writers, replace=st.booleans())
    def put_in_flight(self, key, value, writer, replace):
        if self.owner(key) not in (0, writer):
            return
        self.door.put(key, -writer, value, 0, replace)
        found = self.model.setdefault(key, [])
        if replace and found and found[0][0] == -writer:
            found.pop(0)
        found.insert(0, (-writer, value, 0))

    @rule(key=keys, writer=writers)
    def pop(self, key, writer):
        """Of another's version, and where there is none, nothing goes."""
        self.door.pop(key, -writer)
        if self.owner(key) == writer:
            self.model[key].pop(0)

    @rule(writer=writers, wall=walls)
    def commit(self, writer, wall):
        self.clock += 1
        for key, found in self.model.items():
            if self.owner(key) == writer:
                self.door.stamp(key, -writer, self.clock, wall)
                self.model[key] = [(self.clock, v, wall) if ts == -writer else (ts, v, w) for ts, v, w in found]

    @rule(start=keys, stop=st.one_of(st.none(), keys), writer=st.integers(0, 3))
    def put_range(self, start, stop, writer):
        if stop is not None and start >= stop:
            return
        self.clock += 1
        ts = -writer if writer else self.clock
        self.ranges[self.door.put_range(start, stop, ts)] = (start, stop, ts)

    @precondition(lambda self: self.ranges)
    @rule(number=st.integers(0, 100))
    def drop_range(self, number):
        handle = sorted(self.ranges)[number % len(self.ranges)]
        self.door.drop_range(handle)
        del self.ranges[handle]

    @rule(key=keys, back=st.integers(0, 10), own=st.integers(0, 3))
    def get(self, key, back, own):
        snapshot = max(0, self.clock - back)
        seen = [v for v in self.model.get(key, ()) if 0 <= v[0] <= snapshot or (own and v[0] == -own)]
        expected = (key, *seen[0][:2], seen[0][2]) if seen else None
        assert self.door.get(key, snapshot, -own) == expected
        covers = [ts for start, stop, ts in self.ranges.values() if start <= key and (stop is None or key < stop)]
        if own and -own in covers:
            assert self.door.covering(key, snapshot, -own) == -own
        else:
            assert self.door.covering(key, snapshot, -own) == max([ts for ts in covers if 0 <= ts <= snapshot], default=0)

    @rule(key=st.one_of(st.none(), keys), mode=st.sampled_from(MODES))
    def seek(self, key, mode):
        assert self.door.keys(key, mode) == there(self.model, key, mode)

    @rule(some=st.lists(keys, max_size=40))
    def warm(self, some):
        self.door.warm(some)

    @invariant()
    def as_the_model(self):
        assert self.door.check() is None
        assert self.door.versions() == [(k, *v) for k, found in self.model.items() for v in found]
        assert all(self.door.may_hold(key) for key in self.model)
        figures = self.door.figures
        assert figures["entries"] == sum(map(len, self.model.values()))
        assert figures["ranges"] == len(self.ranges)
        flying = [len(k) + len(v[1] or b"") for k, found in self.model.items() for v in found if v[0] < 0]
        assert (figures["in_flight"] - sum(flying)) % max(1, len(flying)) == 0 and (figures["in_flight"] > 0) == bool(flying)
        assert figures["used"] <= figures["bytes"]


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("order", ["ascending", "descending", "random"])
def test_loads_in_every_order_are_sound(order):
    numbers = list(range(20_000))
    if order == "descending":
        numbers.reverse()
    elif order == "random":
        random.Random(1).shuffle(numbers)
    door = MemTableDoor(1 << 20)
    for ts, n in enumerate(numbers, 1):
        door.put(b"%08d" % n, ts, b"v%d" % n)
    assert door.check() is None
    assert door.keys() == [b"%08d" % n for n in range(20_000)]
    assert door.keys(mode="le") == [b"%08d" % n for n in reversed(range(20_000))]
    for n in random.Random(2).sample(range(20_000), 500):
        assert door.keys(b"%08d" % n, "gt")[:1] == ([b"%08d" % (n + 1)] if n < 19_999 else [])
        assert door.get(b"%08d" % n, 1 << 40)[2] == b"v%d" % n
        assert door.get(b"%08d" % n + b"\0", 1 << 40) is None


def test_absent_keys_are_mostly_known_to_be_absent_without_a_search():
    door = MemTableDoor(4 << 20)
    for n in range(20_000):
        door.put(b"key %d" % n, n + 1, b"v" * 100)
    wrong = sum(door.may_hold(b"other %d" % n) for n in range(20_000))
    assert wrong < 6000


def test_a_memtable_without_anything():
    door = MemTableDoor()
    assert door.check() is None and door.versions() == []
    for mode in MODES:
        assert door.keys(None, mode) == door.keys(b"k", mode) == []
    assert door.get(b"k", 1 << 40) is None and door.covering(b"k", 1 << 40) == 0
    door.pop(b"k", -1)
    door.warm([b"k"])
    assert not door.may_hold(b"k")


@given(key=keys, count=st.integers(2, 400))
@settings(max_examples=20, deadline=None)
def test_many_versions_of_one_key(key, count):
    door = MemTableDoor()
    for ts in range(1, count + 1):
        door.put(key, ts * 2, b"%d" % ts)
    for snapshot in (0, 1, 2, 3, count, 2 * count, 2 * count + 1):
        seen = min(snapshot // 2, count)
        assert door.get(key, snapshot) == ((key, seen * 2, b"%d" % seen, 0) if seen else None)
    assert door.keys() == [key]
