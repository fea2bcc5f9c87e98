"""The table of locks and remembered reads against a list of all of them."""

import pytest
from enginelib._native.txn.holdsdoor import HoldsDoor
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

READ, SHARED, UPDATE, EXCLUSIVE = 1, 2, 3, 4
keys = st.binary(max_size=3)
ends = st.one_of(st.none(), keys)
owners = st.integers(0, 3)
spaces = st.integers(0, 2)
modes = st.sampled_from([READ, SHARED, UPDATE, EXCLUSIVE])


def holds(low, high, closed, key):
    return low <= key and (high is None or key < high or (closed and key == high))


def share(one, other):
    (low, high, closed), (low2, high2, closed2) = one, other
    begins = high is None or low2 < high or (closed and low2 == high)
    begins2 = high2 is None or low < high2 or (closed2 and low == high2)
    return begins and begins2


class Holds(RuleBasedStateMachine):
    handles = Bundle("handles")

    def __init__(self):
        super().__init__()
        self.door = HoldsDoor()
        self.model = {}  # handle -> (owner, keyspace, mode, low, high, closed, whether a key)

    @rule(target=handles, owner=owners, space=spaces, mode=modes, key=keys)
    def add_key(self, owner, space, mode, key):
        handle = self.door.add_key(owner, space, mode, key)
        self.model[handle] = (owner, space, mode, key, key, True, True)
        return handle

    @rule(target=handles, owner=owners, space=spaces, mode=modes, low=keys, high=ends, closed=st.booleans())
    def add_range(self, owner, space, mode, low, high, closed):
        handle = self.door.add_range(owner, space, mode, low, high, closed)
        self.model[handle] = (owner, space, mode, low, high, closed, False)
        return handle

    @rule(handle=handles, low=keys, high=ends, closed=st.booleans())
    def reshape(self, handle, low, high, closed):
        if handle in self.model and not self.model[handle][6]:
            owner, space, mode, *_ = self.model[handle]
            assert self.door.reshape(handle, low, high, closed), "a range has room for more than these keys"
            self.model[handle] = (owner, space, mode, low, high, closed, False)

    @rule(handle=consumes(handles))
    def drop(self, handle):
        if self.model.pop(handle, None):
            self.door.drop(handle)

    @rule(owner=owners)
    def drop_all(self, owner):
        self.door.drop_all(owner)
        self.model = {handle: hold for handle, hold in self.model.items() if hold[0] != owner}

    @rule(owner=owners, space=spaces, mode=modes)
    def merge(self, owner, space, mode):
        before = {handle for handle, hold in self.model.items() if hold[:3] == (owner, space, mode)}
        self.door.merge(owner, space, mode)
        if len(before) < 2:
            return
        lows = min(self.model[handle][3] for handle in before)
        old = [self.model.pop(handle) for handle in before]
        (made,) = [row for row in self.door.held(owner) if row[1:3] == (space, mode)]
        handle, _, _, low, high, closed, key = made
        assert low == lows and not key
        for hold in old:
            assert high is None or hold[4] is not None
            assert high is None or hold[4] < high or (hold[4] == high and closed >= hold[5])
        self.model[handle] = (owner, space, mode, low, high, closed, False)

    @rule(space=spaces, key=keys)
    def meet_key(self, space, key):
        expected = sorted(h for h, (_, s, _, low, high, closed, _) in self.model.items() if s == space and holds(low, high, closed, key))
        assert self.door.meet_key(space, key) == expected

    @rule(space=spaces, low=keys, high=ends, closed=st.booleans(), points=st.booleans())
    def meet(self, space, low, high, closed, points):
        expected = sorted(
            h for h, (_, s, _, a, b, c, key) in self.model.items() if s == space and (points or not key)
            and (holds(low, high, closed, a) if key else share((low, high, closed), (a, b, c)))
        )  # fmt: skip
        assert self.door.meet(space, low, high, closed, points) == expected

    @rule(owner=owners, space=spaces, mode=modes, key=keys)
    def find(self, owner, space, mode, key):
        found = self.door.find(owner, space, mode, key)
        fitting = {h for h, hold in self.model.items() if hold[0] == owner and hold[1] == space and hold[2] >= mode and hold[6] and hold[3] == key}
        assert found in fitting if fitting else found == 0

    @invariant()
    def sound(self):
        assert self.door.check() is None
        count, locks, _ = self.door.counts
        assert count == len(self.model)
        assert locks == sum(hold[2] != READ for hold in self.model.values())


Holds.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestHolds = Holds.TestCase


@pytest.mark.parametrize("order", ["ascending", "descending", "nested"])
def test_many_ranges_stay_a_shallow_tree(order):
    door = HoldsDoor()
    numbers = range(5000) if order != "descending" else range(4999, -1, -1)
    for i in numbers:
        low, high = (b"%06d" % i, b"%06d" % (20000 - i)) if order == "nested" else (b"%06d" % i, b"%06d" % (i + 2))
        door.add_range(i % 16, 0, SHARED, low, high, False)
    assert door.check() is None
    assert len(door.meet_key(0, b"002500")) == (2501 if order == "nested" else 2)
    for owner in range(16):
        door.drop_all(owner)
    assert door.counts == (0, 0, 0)
