"""Prepare, either end, reopening, kill and checkpoint in any order, over both kinds of tree, against sorted dictionaries.

Everything is done with durability ``sync``, so a crash that loses all that was not synced loses nothing. The model
predicts of each write whether it is done, meets a row lock (``LockTimeout``) or comes too late (``WriteConflict``).
"""

import os

import pytest
from enginelib._native.base.faultvfs import FaultVfs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sortedcontainers import SortedDict

import enginelib
from enginelib import HeuristicOutcome, LockTimeout, NotPrepared, WriteConflict

EXAMPLES = int(os.environ.get("ENGINELIB_EXAMPLES", "0"))
OPTIONS = {"page_size": 4096, "cache_size": 1 << 20, "segment_size": 1 << 20, "log_buffer": 64 << 10, "lock_timeout": 0.0}
LSM = {"backend": "lsm", "memtable_size": 64 << 10, "table_size": 64 << 10}
keys = st.tuples(st.sampled_from(["tree", "lsm"]), st.integers(0, 15).map(lambda n: b"%02d" % n))
values = st.one_of(st.none(), st.binary(max_size=12), st.integers(1000, 9000).map(lambda n: b"v" * n))
which = st.integers(0, 1000)


class Open:
    """A transaction, as the model sees it."""

    def __init__(self, txn, commits):
        self.txn, self.began = txn, commits
        self.changes, self.locked = {}, set()

    def holds(self, key):
        return key in self.changes or key in self.locked


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.vfs = FaultVfs()
        self.rows = SortedDict()  # (keyspace, key) -> value, committed
        self.changed = {}  # key -> number of the commit that changed it last
        self.commits = 0
        self.open, self.prepared, self.outcomes = [], {}, {}
        self.xids = 0
        self.start()

    def start(self):
        self.db = enginelib.Database("/db", vfs=self.vfs, background=False, **OPTIONS)
        self.spaces = {"tree": self.db.keyspace("tree"), "lsm": self.db.keyspace("lsm", **LSM)}

    def teardown(self):
        self.open.clear()
        self.db.abandon()

    def holders(self, one, key):
        return [o for o in [*self.open, *self.prepared.values()] if o is not one and o.holds(key)]

    def fate(self, one, key):
        if self.holders(one, key):
            return LockTimeout
        return WriteConflict if self.changed.get(key, 0) > one.began else None

    def done(self, one):
        self.commits += 1
        for key, value in one.changes.items():
            self.changed[key] = self.commits
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    # ---- transactions

    @precondition(lambda self: len(self.open) < 3)
    @rule()
    def begin(self):
        self.open.append(Open(self.db.transaction(), self.commits))

    @precondition(lambda self: self.open)
    @rule(number=which, key=keys, value=values, locks=st.booleans())
    def change(self, number, key, value, locks):
        one = self.open[number % len(self.open)]
        space, name = self.spaces[key[0]], key[1]
        fate = self.fate(one, key)
        there = one.changes[key] is not None if key in one.changes else key in self.rows
        try:
            if locks:
                one.txn.get_for_update(space, name)
                one.locked.add(key)
            elif value is None:
                one.txn.delete(space, name, blind=True)
                if key[0] == "lsm" or there:  # what a B-tree does not have it has nothing to delete of, nor to lock
                    one.changes[key] = None
            else:
                one.txn.put(space, name, value)
                one.changes[key] = value
        except (LockTimeout, WriteConflict) as error:
            assert fate is type(error), (fate, error)
            if fate is WriteConflict:
                one.txn.abort()
                self.open.remove(one)
        else:
            assert fate is None, fate

    @precondition(lambda self: self.open)
    @rule(number=which, commits=st.booleans())
    def end(self, number, commits):
        one = self.open.pop(number % len(self.open))
        if commits:
            one.txn.commit()
            self.done(one)
        else:
            one.txn.abort()

    @precondition(lambda self: self.open and len(self.prepared) < 4)
    @rule(number=which)
    def prepare(self, number):
        one = self.open.pop(number % len(self.open))
        self.xids += 1
        one.txn.prepare(f"x{self.xids}")
        self.prepared[f"x{self.xids}"] = one

    @precondition(lambda self: self.open and (self.prepared or self.outcomes))
    @rule(number=which)
    def prepare_by_a_name_that_is_taken(self, number):
        one = self.open[number % len(self.open)]
        taken = [*self.prepared, *(xid for xid, outcome in self.outcomes.items() if outcome.endswith("committed"))]
        if taken:
            xid = taken[number % len(taken)]
            with pytest.raises((ValueError, WriteConflict, LockTimeout)) as caught:
                one.txn.prepare(xid)
            assert caught.type is not LockTimeout or self.holders(one, ("outcomes", xid))
            if caught.type is ValueError and xid not in self.prepared:
                one.locked.add(("outcomes", xid))  # until it ends, as any row that was looked at for update

    @precondition(lambda self: self.prepared)
    @rule(number=which, commits=st.booleans(), by_hand=st.booleans())
    def end_prepared(self, number, commits, by_hand):
        xid = sorted(self.prepared)[number % len(self.prepared)]
        one = self.prepared.pop(xid)
        if commits:
            self.db.commit_prepared(xid, heuristic=by_hand)
            self.done(one)
            self.outcomes[xid] = "heuristically_committed" if by_hand else "committed"
        else:
            self.db.rollback_prepared(xid, heuristic=by_hand)
            if by_hand:
                self.outcomes[xid] = "heuristically_rolled_back"

    @precondition(lambda self: self.xids)
    @rule(number=which, commits=st.booleans())
    def end_again(self, number, commits):
        xid = f"x{number % self.xids + 1}"
        if xid in self.prepared:
            return
        outcome = self.outcomes.get(xid)
        act = self.db.commit_prepared if commits else self.db.rollback_prepared
        if commits:
            wrong = {None: NotPrepared, "heuristically_rolled_back": HeuristicOutcome}.get(outcome)
        else:
            wrong = {"committed": NotPrepared, "heuristically_committed": HeuristicOutcome}.get(outcome)
        if wrong:
            with pytest.raises(wrong):
                act(xid)
        else:
            act(xid)

    @precondition(lambda self: self.outcomes)
    @rule(number=which)
    def forget(self, number):
        xid = sorted(self.outcomes)[number % len(self.outcomes)]
        if self.holders(None, ("outcomes", xid)):
            with pytest.raises(LockTimeout):
                self.db.forget(xid)
            return
        self.db.forget(xid)
        del self.outcomes[xid]

    # ---- the database

    @rule()
    def checkpoint(self):
        self.db.checkpoint()

    @rule()
    def reopen(self):
        self.open.clear()
        self.db.close()
        self.start()

    @rule(how=st.sampled_from(["lost", "kill", "power"]), seed=which)
    def crash(self, how, seed):
        left = self.vfs.crash_image(self.vfs.mutations, seed, how)
        self.open.clear()
        self.db.abandon()
        self.vfs = left
        self.start()

    @invariant()
    def all_is_as_the_model_says(self):
        found = {(name, key): value for name, space in self.spaces.items() for key, value in space.scan()}
        assert found == dict(self.rows)
        assert {each.xid for each in self.db.prepared()} == set(self.prepared)
        assert {xid: outcome for xid, outcome, _ in self.db.outcomes()} == self.outcomes


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=EXAMPLES or 100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
