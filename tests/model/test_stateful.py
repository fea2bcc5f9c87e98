"""The public interface, over both kinds of tree, against a model of sorted dictionaries, on a file system that crashes.

The model predicts of each write whether it is done, meets a row lock (``LockTimeout`` at once, since nothing may be
waited for in one thread) or comes too late (``WriteConflict``). ``ENGINELIB_EXAMPLES`` sets the number of runs.
"""

import os
from copy import copy
from functools import partial
from itertools import islice
from unittest import mock

import pytest
from enginelib._native.base.faultvfs import FaultVfs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from sortedcontainers import SortedDict

import enginelib
from enginelib import errors, options

EXAMPLES = int(os.environ.get("ENGINELIB_EXAMPLES", "0"))
OPTIONS = {
    "page_size": 4096,
    "cache_size": 128 << 10,  # 31 pages
    "segment_size": 1 << 20,
    "log_buffer": 64 << 10,
    "lock_timeout": 0.0,
}
NAMES = ("a", "b", "c", "d")
CATALOGUE = 0
LEVELS = ("lazy", "os", "sync")

keys = st.one_of(
    st.integers(0, 200).map(lambda n: b"%03d" % n),
    st.sampled_from([b"", b"\x00", b"\xff" * 9, b"long" * 200, b"100\x00", b"0"]),
)
values = st.one_of(
    st.binary(max_size=30),
    st.tuples(st.integers(100, 900), st.integers(0, 255)).map(lambda p: bytes([p[1]]) * p[0]),
    st.tuples(st.integers(1000, 20000), st.integers(0, 255)).map(lambda p: bytes([p[1]]) * p[0]),
)
bounds = st.one_of(st.none(), keys)
choice = st.integers(0, 1 << 16)
trees = st.one_of(
    st.just({"backend": "btree"}),
    st.fixed_dictionaries(
        {
            "backend": st.just("lsm"),
            "memtable_size": st.just(64 << 10),
            "table_size": st.just(64 << 10),
            "compaction": st.sampled_from(["leveled", "size_tiered"]),
            "bits_per_key": st.sampled_from([0, 10]),
        }
    ),
)
LSM_STEPS = ("seal", "flush", "compact", "settle")


class Model:
    """A transaction, as the model sees it."""

    def __init__(self, txn, at, names, rows, level):
        self.txn = txn
        self.at = at  # commits before its snapshot
        self.level = level
        self.names = dict(names)  # name -> id, as it sees them
        self.rows = {id: SortedDict(d) for id, d in rows.items()}  # id -> its rows, as it sees them
        self.written = {}  # (id, key) -> value or None
        self.locked = set()
        self.perhaps = set()  # row locks that a rollback to a savepoint may have let go of
        self.ranges = []  # (id, start, stop) deleted from LSM-trees: locked like rows, none of them looked at
        self.saves = []

    def state(self):
        rows = {id: copy(d) for id, d in self.rows.items()}
        return dict(self.names), rows, dict(self.written), set(self.locked), list(self.ranges)

    def holds(self, id):
        return any(i == id for i, *_ in [*self.written, *self.locked, *self.ranges])


def covers(span, id, key):
    """Whether a deleted range has the key."""
    return span[0] == id and (span[1] is None or span[1] <= key) and (span[2] is None or key < span[2])


def meet(a, b):
    """Whether two deleted ranges share a key."""
    low = max(a[1] or b"", b[1] or b"")
    return a[0] == b[0] and all(stop is None or low < stop for stop in (a[2], b[2]))


class Machine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.patch = mock.patch.multiple(options, SMALLEST_CACHE=65536, SMALLEST_CACHE_PAGES=16)
        self.patch.start()
        self.vfs = FaultVfs()
        self.names, self.rows = {}, {CATALOGUE: {}}
        self.changed = {}  # (id, key) -> number of the commit that changed it last
        self.deleted = []  # (id, start, stop), number of the commit that deleted the range
        self.commits = 0
        self.open = []
        self.history = [self.state()]  # states that a loss of power may leave, oldest first
        self.written = 0  # first of them that a kill may leave
        self.start()

    def start(self):
        self.db = enginelib.Database("/db", vfs=self.vfs, background=False, **OPTIONS)
        self.handles = {self.db[name].id: self.db[name] for name in self.db}

    def teardown(self):
        self.open.clear()
        self.db.abandon()
        self.patch.stop()

    def state(self):
        return dict(self.names), {id: dict(self.rows[id]) for id in self.names.values()}

    def pick(self, number):
        return self.open[number % len(self.open)]

    def keyspace(self, one, number):
        """Name and id of one of the keyspaces it sees, or None."""
        usable = [(n, i) for n, i in sorted(one.names.items()) if i in self.handles]
        return usable[number % len(usable)] if usable else (None, None)

    # ---- what a write meets

    def others(self, one):
        return [other for other in self.open if other is not one]

    def fate_of_keyspace(self, one, id):
        """The errors that any change of the keyspace meets."""
        if id != CATALOGUE:
            for other in self.others(one):
                if id in self.rows and id not in other.names.values() and id in other.rows:
                    return {errors.LockTimeout}  # dropped by a transaction under way
            if id in self.rows and id not in self.names.values():
                return {errors.UsageError}
        return set()

    def fate(self, one, id, key):
        """The errors that a change of that key may meet; None among them: it may be done."""
        met = self.fate_of_keyspace(one, id)
        if met:
            return met
        for other in self.others(one):
            if (id, key) in other.written or (id, key) in other.locked:
                return {errors.LockTimeout}
            if any(covers(span, id, key) for span in other.ranges):
                return {errors.LockTimeout, errors.WriteConflict}  # of another deleted range
        met = {errors.WriteConflict} if self.changed.get((id, key), 0) > one.at else {None}
        if any(commit > one.at and covers(span, id, key) for span, commit in self.deleted):
            met = {errors.WriteConflict}
        if any((id, key) in other.perhaps for other in self.others(one)):
            met.add(errors.LockTimeout)
        return met

    def fate_of_range(self, one, span):
        """The errors that the deletion of a range of an LSM-tree may meet."""
        if self.fate_of_keyspace(one, span[0]):
            return self.fate_of_keyspace(one, span[0])
        locked, late, perhaps = False, False, False
        for other in self.others(one):
            locked |= any(covers(span, *row) for row in {*other.written, *other.locked})
            locked |= any(meet(span, another) for another in other.ranges)
            perhaps |= any(covers(span, *row) for row in other.perhaps)
        late |= any(commit > one.at and covers(span, *row) for row, commit in self.changed.items())
        late |= any(commit > one.at and meet(span, another) for another, commit in self.deleted)
        met = {errors.LockTimeout} if locked or perhaps else set()
        if late:
            met.add(errors.WriteConflict)
        return met if locked or late else {*met, None}

    def attempt(self, fates, function, *args):
        """Calls it, and compares what it met; whether it was done, and its result."""
        try:
            result = function(*args)
        except errors.Error as error:
            assert any(f is not None and isinstance(error, f) for f in fates), f"{fates} expected, {error!r} met"
            return False, None
        assert None in fates, f"{fates} expected, it was done"
        return True, result

    def put_in_model(self, one, id, key, value):
        one.rows[id][key] = value
        one.written[id, key] = value

    def delete_in_model(self, one, id, key):
        del one.rows[id][key]
        one.written[id, key] = None

    # ---- rules

    @initialize()
    def first(self):
        for name, backend in zip(NAMES, ("btree", "lsm"), strict=False):
            self.begin("sync", False)
            self.create(0, name, {"backend": backend})
            self.commit(0)

    @precondition(lambda self: len(self.open) < 4)
    @rule(level=st.sampled_from(LEVELS), read_only=st.booleans())
    def begin(self, level, read_only):
        txn = self.db.transaction(read_only=read_only and len(self.open) > 0, durability=level)
        self.open.append(Model(txn, self.commits, self.names, self.rows, level))

    @precondition(lambda self: self.open)
    @rule(number=choice, space=choice, key=keys, value=values)
    def put(self, number, space, key, value):
        one = self.pick(number)
        _, id = self.keyspace(one, space)
        if id is None:
            return
        fates = {errors.ReadOnlyError} if one.txn.read_only else self.fate(one, id, key)
        if self.attempt(fates, one.txn.put, self.handles[id], key, value)[0]:
            self.put_in_model(one, id, key, value)

    @precondition(lambda self: self.open)
    @rule(number=choice, space=choice, start=st.integers(0, 150), count=st.integers(1, 60), size=st.integers(1, 900))
    def put_many(self, number, space, start, count, size):
        one = self.pick(number)
        _, id = self.keyspace(one, space)
        if id is None or one.txn.read_only:
            return
        pairs = [(b"%03d" % n, bytes([n & 255]) * size) for n in range(start, start + count)]
        for key, _ in pairs:
            if self.fate(one, id, key) != {None}:
                return
        assert one.txn.put_many(self.handles[id], pairs) == count
        for key, value in pairs:
            self.put_in_model(one, id, key, value)

    @precondition(lambda self: self.open)
    @rule(number=choice, space=choice, key=keys)
    def delete(self, number, space, key):
        one = self.pick(number)
        _, id = self.keyspace(one, space)
        if id is None or one.txn.read_only:
            return
        done, there = self.attempt(self.fate(one, id, key), one.txn.delete, self.handles[id], key)
        if done:
            assert there == (key in one.rows[id])
            if there:
                self.delete_in_model(one, id, key)

    @precondition(lambda self: self.open)
    @rule(number=choice, space=choice, start=keys, stop=keys)
    def delete_range(self, number, space, start, stop):
        one = self.pick(number)
        _, id = self.keyspace(one, space)
        if id is None or one.txn.read_only:
            return
        gone = list(one.rows[id].irange(start, stop, inclusive=(True, False))) if start < stop else []
        if self.handles[id].backend == "lsm":
            span = (id, start, stop)
            fates = self.fate_of_range(one, span) if start < stop else {None, errors.UsageError, errors.LockTimeout}
            if self.attempt(fates, one.txn.delete_range, self.handles[id], start, stop)[0] and start < stop:
                one.ranges.append(span)
                for key in gone:
                    self.delete_in_model(one, id, key)
            return
        if any(self.fate(one, id, key) != {None} for key in gone):
            return
        assert one.txn.delete_range(self.handles[id], start, stop) == len(gone)
        for key in gone:
            self.delete_in_model(one, id, key)

    @precondition(lambda self: self.open)
    @rule(number=choice, space=choice, some=st.lists(keys, max_size=20))
    def get(self, number, space, some):
        one = self.pick(number)
        _, id = self.keyspace(one, space)
        if id is None:
            return
        expected = [one.rows[id].get(key) for key in some]
        assert [one.txn.get(self.handles[id], key) for key in some] == expected
        assert one.txn.get_many(self.handles[id], some) == expected

    @precondition(lambda self: self.open)
    @rule(number=choice, space=choice, key=keys)
    def get_for_update(self, number, space, key):
        one = self.pick(number)
        _, id = self.keyspace(one, space)
        if id is None or one.txn.read_only:
            return
        done, value = self.attempt(self.fate(one, id, key), one.txn.get_for_update, self.handles[id], key)
        if done:
            assert value == one.rows[id].get(key)
            one.locked.add((id, key))

    @precondition(lambda self: self.open)
    @rule(
        number=choice,
        space=choice,
        start=bounds,
        stop=bounds,
        reverse=st.booleans(),
        limit=st.none() | st.integers(0, 70),
    )
    def scan(self, number, space, start, stop, reverse, limit):
        one = self.pick(number)
        _, id = self.keyspace(one, space)
        if id is None:
            return
        rows = one.rows[id]
        expected = [(key, rows[key]) for key in rows.irange(start, stop, inclusive=(True, False), reverse=reverse)]
        if start is not None and stop is not None and start >= stop:
            expected = []
        found = list(one.txn.scan(self.handles[id], start, stop, reverse=reverse, limit=limit))
        assert found == (expected if limit is None else expected[:limit])

    @precondition(lambda self: self.open)
    @rule(
        number=choice,
        space=choice,
        prefix=st.sampled_from([b"", b"0", b"01", b"1", b"\xff", b"long"]),
        reverse=st.booleans(),
    )
    def scan_prefix(self, number, space, prefix, reverse):
        one = self.pick(number)
        _, id = self.keyspace(one, space)
        if id is None:
            return
        expected = [key for key in one.rows[id] if key.startswith(prefix)]
        found = list(one.txn.scan(self.handles[id], prefix=prefix, reverse=reverse, values=False))
        assert found == (expected[::-1] if reverse else expected)

    @precondition(lambda self: self.open)
    @rule(number=choice, space=choice, key=keys, value=values)
    def write_during_a_scan(self, number, space, key, value):
        """A scan sees what its own transaction writes ahead of it."""
        one = self.pick(number)
        _, id = self.keyspace(one, space)
        if id is None or one.txn.read_only or self.fate(one, id, key) != {None}:
            return
        it = one.txn.scan(self.handles[id])
        first = list(islice(it, 10))
        one.txn.put(self.handles[id], key, value)
        self.put_in_model(one, id, key, value)
        if len(first) == 10:
            rest = [(k, one.rows[id][k]) for k in one.rows[id].irange(first[-1][0], inclusive=(False, True))]
            assert list(it) == rest

    @precondition(lambda self: self.open)
    @rule(number=choice, space=choice, reverse=st.booleans(), whats=st.lists(st.sampled_from(LSM_STEPS), max_size=4))
    def work_during_a_scan(self, number, space, reverse, whats):
        """A scan goes on where it was when memtables become tables and tables others."""
        one = self.pick(number)
        _, id = self.keyspace(one, space)
        if id is None:
            return
        it = one.txn.scan(self.handles[id], reverse=reverse)
        found = list(islice(it, 3))
        for what in whats:
            self.db.step(what)
        expected = sorted(one.rows[id].items(), reverse=reverse)
        assert found + list(it) == expected

    @precondition(lambda self: self.open)
    @rule(number=choice)
    def savepoint(self, number):
        one = self.pick(number)
        if len(one.saves) < 4:
            one.saves.append(one.state())
            assert one.txn.save() == len(one.saves)

    @precondition(lambda self: any(one.saves for one in self.open))
    @rule(number=choice, depth=choice, keep=st.booleans())
    def leave_savepoint(self, number, depth, keep):
        saved = [one for one in self.open if one.saves]
        one = saved[number % len(saved)]
        depth = 1 + depth % len(one.saves)
        if keep:
            one.txn.release(depth)
        else:
            one.txn.rollback_to(depth)
            before = {*one.written, *one.locked}
            one.names, one.rows, one.written, one.locked, one.ranges = one.saves[depth - 1]
            one.perhaps |= before - {*one.written, *one.locked}
        del one.saves[depth - 1 :]

    @precondition(lambda self: self.open)
    @rule(number=choice)
    def commit(self, number):
        one = self.open.pop(number % len(self.open))
        writer = one.txn.id != 0
        one.txn.commit()
        assert one.txn.state == "committed"
        if not one.written and not one.ranges:
            if writer and one.level != "lazy":
                self.settled(one.level)
            return
        self.commits += 1
        self.deleted += [(span, self.commits) for span in one.ranges]
        for (id, key), value in one.written.items():
            self.changed[id, key] = self.commits
            if id != CATALOGUE:
                rows = self.rows.setdefault(id, {})
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
        for (id, key), value in one.written.items():
            if id == CATALOGUE:
                self.names.pop(key.decode(), None)
                if value is not None:
                    self.names[key.decode()] = value
                    self.rows.setdefault(value, {})
        self.history.append(self.state())
        self.settled(one.level)

    def settled(self, level):
        """All that is committed is as durable as that."""
        if level == "sync":
            del self.history[:-1]
        if level != "lazy":
            self.written = len(self.history) - 1

    @precondition(lambda self: self.open)
    @rule(number=choice)
    def abort(self, number):
        one = self.open.pop(number % len(self.open))
        one.txn.abort()
        assert one.txn.state == "aborted"

    @precondition(lambda self: len(self.open) > 1)
    @rule(number=choice)
    def forget(self, number):
        """A handle dropped without an end is rolled back."""
        self.open.pop(number % len(self.open))
        self.db.step("gc")

    # ---- keyspaces

    @precondition(lambda self: self.open)
    @rule(number=choice, name=st.sampled_from(NAMES), tree=trees)
    def create(self, number, name, tree):
        one = self.pick(number)
        if one.txn.read_only:
            return
        fates = {ValueError} if name in one.names else self.fate(one, CATALOGUE, name.encode())
        if ValueError in fates:
            # The row lock comes first, and may be refused.
            with pytest.raises((ValueError, errors.LockTimeout, errors.WriteConflict)):
                one.txn.create_keyspace(name)
            one.perhaps.add((CATALOGUE, name.encode()))
            return
        done, keyspace = self.attempt(fates, partial(one.txn.create_keyspace, name, **tree))
        if done:
            self.handles[keyspace.id] = keyspace
            one.names[name] = keyspace.id
            one.rows[keyspace.id] = SortedDict()
            one.written[CATALOGUE, name.encode()] = keyspace.id

    @precondition(lambda self: self.open)
    @rule(number=choice, space=choice)
    def drop(self, number, space):
        one = self.pick(number)
        name, id = self.keyspace(one, space)
        if id is None or one.txn.read_only:
            return
        fates = self.fate(one, CATALOGUE, name.encode())
        if any(other.holds(id) for other in self.others(one)):
            fates = {errors.LockTimeout, errors.WriteConflict}
        elif any(i == id for other in self.others(one) for i, _ in other.perhaps):
            fates |= {errors.LockTimeout}
        if self.attempt(fates, one.txn.drop_keyspace, name)[0]:
            del one.names[name]
            one.written[CATALOGUE, name.encode()] = None

    @precondition(lambda self: self.open)
    @rule(number=choice, space=choice, new=st.sampled_from(NAMES))
    def rename(self, number, space, new):
        one = self.pick(number)
        name, id = self.keyspace(one, space)
        if id is None or one.txn.read_only or new in one.names:
            return
        fates = self.fate(one, CATALOGUE, new.encode()) | self.fate(one, CATALOGUE, name.encode())
        if fates != {None}:
            fates.discard(None)
        if fates != {None}:
            return  # half of it might be done
        one.txn.rename_keyspace(name, new)
        one.names[new] = one.names.pop(name)
        one.written[CATALOGUE, name.encode()] = None
        one.written[CATALOGUE, new.encode()] = id

    # ---- without a transaction

    @rule(space=choice, key=keys, value=values, remove=st.booleans())
    def at_once(self, space, key, value, remove):
        """One operation, a transaction of its own."""
        usable = sorted(self.names.items())
        if not usable:
            return
        name, id = usable[space % len(usable)]
        alone = Model(None, self.commits, self.names, {}, "sync")
        fates = self.fate(alone, id, key)
        keyspace = self.db[name]
        assert keyspace.get(key) == self.rows[id].get(key)
        if remove and key not in self.rows[id]:
            return
        if self.attempt(fates, *((keyspace.delete, key) if remove else (keyspace.put, key, value)))[0]:
            self.commits += 1
            self.changed[id, key] = self.commits
            self.rows[id] = dict(self.rows[id])
            if remove:
                del self.rows[id][key]
            else:
                self.rows[id][key] = value
            self.history.append(self.state())
            self.settled("sync")

    # ---- upkeep, restarts, crashes

    @rule(what=st.sampled_from(["checkpoint", "step", "gc", "prepare", "lazy", "sync"]))
    def upkeep(self, what):
        if what == "checkpoint":
            self.db.checkpoint()
        elif what == "sync":
            self.db.sync()
        else:
            self.db.step("checkpoint" if what == "step" else what)
        if what in ("checkpoint", "step", "lazy", "sync"):
            self.settled("sync")

    @rule(whats=st.lists(st.sampled_from(LSM_STEPS), min_size=1, max_size=6))
    def lsm_work(self, whats):
        """Memtables are sealed and written, tables merged: nothing of that is seen."""
        for what in whats:
            self.db.step(what)

    @precondition(lambda self: self.names)
    @rule(space=choice, low=bounds, high=bounds)
    def compact(self, space, low, high):
        name = sorted(self.names)[space % len(self.names)]
        if self.db[name].backend == "lsm":
            self.db[name].compact(low, high)

    @rule()
    def look(self):
        """What is committed is shown, and the structure is sound."""
        report = self.db.verify()
        assert report.ok, str(report)
        self.compare()

    def compare(self):
        assert sorted(self.names) == self.db.keyspaces()
        with self.db.transaction(read_only=True) as txn:
            for name, id in self.names.items():
                assert self.db[name].id == id
                assert dict(txn.scan(self.db[name])) == self.rows[id]

    def fresh(self):
        self.open.clear()
        self.changed.clear()
        self.deleted.clear()
        self.start()

    @rule()
    def reopen(self):
        self.db.close()
        self.settled("sync")
        self.fresh()
        self.compare()

    @rule(mode=st.sampled_from(["kill", "power", "lost"]), seed=st.integers(0, 99), back=st.integers(0, 0))
    def crash(self, mode, seed, back):
        self.db.abandon()
        self.vfs = self.vfs.crash_image(self.vfs.mutations, seed, mode)
        self.fresh()
        with self.db.transaction(read_only=True) as txn:
            names = {name: self.db[name].id for name in self.db}
            found = names, {id: dict(txn.scan(self.db[name])) for name, id in names.items()}
        allowed = self.history[self.written if mode == "kill" else 0 :]
        assert found in allowed, f"{len(allowed)} states allowed, found another"
        self.names = names
        self.rows = {CATALOGUE: {}, **found[1]}
        self.history = [self.state()]
        self.written = 0
        assert self.db.verify().ok


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=EXAMPLES or 120,
    stateful_step_count=50,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=list(HealthCheck),
)
