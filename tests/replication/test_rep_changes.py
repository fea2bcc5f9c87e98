"""Change streams: whole committed transactions in commit order, nothing else, from any LSN that is there."""

import random
import subprocess
import sys
import threading

import pytest
from enginelib._native.base.faultvfs import FaultVfs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rephelp import Model, contents, follow_all

import enginelib
from enginelib.database import Database
from enginelib.replication import Change, Operation


def operations(db, **options):
    return [[(o.op, o.keyspace, o.key, o.value) for o in c.operations] for c in db.changes(**options)]


def test_a_change_says_what_was_committed(db, tree):
    ks = db.keyspace("space", **tree)
    with db.transaction() as txn:
        txn.put(ks, b"a", b"1")
        txn.put(ks, b"b", b"2")
        txn.delete(ks, b"a")
    made, change = db.changes()
    assert [o.op for o in made.operations] == ["create_keyspace"]
    assert isinstance(change, Change) and change.database_id == db.database_id and change.epoch == 0
    assert change.sequence == change.commit_ts == txn.commit_ts and change.origin is None and change.calls == ()
    assert change.operations == [
        Operation("space", "put", b"a", b"1"),
        Operation("space", "put", b"b", b"2"),
        Operation("space", "delete", b"a"),
    ]
    assert abs(change.time - made.time) < 60
    with db.transaction() as txn:
        now = txn.now()
    assert change.time <= now


def test_what_was_taken_back_is_not_there(db, tree):
    ks = db.keyspace("space", **tree)
    with db.transaction() as txn:
        txn.put(ks, b"a", b"1")
        with txn.savepoint() as outer:
            txn.put(ks, b"b", b"1")
            with pytest.raises(ZeroDivisionError), txn.savepoint():
                txn.put(ks, b"c", b"1")
                raise ZeroDivisionError
            outer.rollback()
            txn.put(ks, b"d", b"1")
        txn.put(ks, b"e", b"1")
    txn = db.transaction()
    txn.put(ks, b"x", b"1")
    txn.abort()
    left = db.transaction()
    left.put(ks, b"y", b"1")
    for memory in (1 << 20, 1):
        *_, last = operations(db, memory=memory)
        assert [key for _, _, key, _ in last] == [b"a", b"d", b"e"]
    left.abort()


def test_commit_order_is_the_order(db, tree):
    ks = db.keyspace("space", **tree)
    txns = [db.transaction() for _ in range(5)]
    for i, txn in enumerate(txns):
        txn.put(ks, b"%d" % i, b"")
    for i in (3, 0, 4, 1, 2):
        txns[i].commit()
    keys = [c.operations[0].key for c in db.changes()][1:]
    assert keys == [b"3", b"0", b"4", b"1", b"2"]


def test_since_and_keyspaces_choose(db, tree):
    one, other = db.keyspace("one", **tree), db.keyspace("other", **tree)
    for i in range(10):
        (one if i % 2 else other).put(b"%d" % i, b"")
    every = list(db.changes())
    for i, change in enumerate(every):
        assert [c.lsn for c in db.changes(since=change.lsn)] == [c.lsn for c in every[i + 1 :]]
    assert [c.operations[-1].keyspace for c in db.changes(keyspaces=["one"])] == ["one"] * 6
    assert list(db.changes(keyspaces=[])) == []
    with pytest.raises(TypeError, match="not one name"):
        db.changes(keyspaces="one")
    with pytest.raises(ValueError, match="beyond the end"):
        db.changes(since=1 << 40)


def test_large_values_and_transactions_are_whole(db, tree):
    ks = db.keyspace("space", **tree)
    big = random.Random(1).randbytes(3 << 20)
    with db.transaction() as txn:
        txn.put(ks, b"big", big)
        txn.put_many(ks, ((b"%06d" % i, b"v" * 50) for i in range(20_000)))
        with pytest.raises(ZeroDivisionError), txn.savepoint():
            txn.put(ks, b"no", big)
            raise ZeroDivisionError
        txn.put(ks, b"big2", big[::-1])
    for memory in (1 << 30, 100_000):
        with db.changes(memory=memory) as stream:
            for change in stream:
                found = list(change.operations)
                if memory == 100_000 and len(found) > 1:
                    assert not isinstance(change.operations, list)
                    assert list(change.operations) == found, "as often as wanted"
        assert [o.key for o in found] == [b"big", *(b"%06d" % i for i in range(20_000)), b"big2"]
        assert found[0].value == big and found[-1].value == big[::-1]


def test_following_waits_and_ends_with_the_database(path, tree):
    db = enginelib.open(path, durability="sync")
    ks = db.keyspace("space", **tree)
    got, started = [], threading.Event()

    def follow():
        for change in db.changes(follow=True):
            got.append(change)
            started.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert started.wait(10)
    writers = [threading.Thread(target=lambda n=n: [ks.put(b"%d-%d" % (n, i), b"") for i in range(100)]) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with db.changes(follow=True) as other:
        for _, change in zip(range(401), other, strict=False):
            pass
        assert other.next(0.01) is None
    last = change.lsn
    while got[-1].lsn < last:
        assert thread.is_alive()
    db.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(got) == 401


def test_a_stream_is_closed_and_refuses(db, tree):
    ks = db.keyspace("space", **tree)
    with db.transaction() as txn:
        txn.put_many(ks, ((b"%d" % i, b"v" * 100) for i in range(1000)))
    stream = db.changes(memory=1000)
    *_, far = stream
    stream.close()
    stream.close()
    assert stream.next() is None and list(stream) == []
    with pytest.raises(enginelib.DatabaseClosed):
        list(far.operations)


def test_the_log_stays_under_a_stream_and_goes_after_it(db, tree):
    ks = db.keyspace("space", **tree)

    def fill():
        for i in range(40):
            ks.put(b"%d" % i, b"v" * 100_000)
            if i % 10 == 9:
                db.checkpoint()

    ks[b"first"] = b""
    db.checkpoint()
    with db.changes() as stream:
        begin = stream.next().lsn
        fill()
        assert len(list(stream)) >= 40
    fill()
    db.checkpoint()
    with pytest.raises(enginelib.ChangesGone, match="the log begins at LSN") as caught:
        db.changes(since=begin)
    assert caught.value.code == "changes_gone"


def test_a_transaction_that_began_before_the_log_is_refused(db, tree):
    """Its first changes went with the log; half of it must not be given out."""
    ks, other = db.keyspace("space", **tree), db.keyspace("other")
    with db.transaction() as txn:
        txn.put(other, b"early", b"")
        for i in range(40):
            ks.put(b"%d" % i, b"v" * 100_000)
        db.checkpoint()
        oldest = db.stats()["log"]["kept_from_lsn"]
        txn.put(other, b"late", b"")
    with pytest.raises(enginelib.ChangesGone, match="began before") if oldest > 1 << 20 else pytest.raises(StopIteration):
        stream = db.changes()
        while True:
            next(stream)


def test_a_load_without_the_log_is_told(db):
    ks = db.keyspace("space", backend="lsm")
    ks.ingest([(b"%05d" % i, b"v") for i in range(1000)])
    assert len(operations(db)[1]) == 1000
    ks.ingest([(b"x%05d" % i, b"v") for i in range(1000)], logged=False)
    with pytest.raises(enginelib.ChangesGone, match="'space' was loaded without the log"):
        operations(db)
    assert operations(db, keyspaces=["elsewhere"]) == [], "it is of no interest there"


@pytest.mark.parametrize("backend", ["btree", "lsm"])
def test_who_dies_in_the_middle_of_a_large_value_is_not_waited_for(backend):
    """Recovery logs the abort of a transaction that has logged nothing but pieces of a value; else a slot would hold the log for it for ever."""
    options = {"cache_size": 1 << 20, "segment_size": 1 << 20, "log_buffer": 1 << 16, "background": False}
    vfs = FaultVfs()
    db = Database("/db", vfs=vfs, **options)
    ks = db.keyspace("space", backend)
    start = vfs.mutations
    ks[b"k"] = b"x" * 900_000
    end = vfs.mutations
    db.abandon()
    for cut in range(start, end + 1):
        with Database("/db", vfs=vfs.crash_image(cut, 0, "kill"), **options) as found, found.changes() as stream:
            assert len(list(stream)) in (1, 2)
            assert stream._reader.floor == found.stats()["log"]["end_lsn"]


def test_calls_of_logged_procedures_come_with_their_effects(db, tree):
    ks = db.keyspace("space", **tree)

    @db.procedure(logged=True)
    def draw(txn, n):
        txn.put(ks, b"%d" % n, b"%d" % txn.random().getrandbits(32))

    db.call(draw, 7)
    *_, change = db.changes()
    (call,) = change.calls
    assert (call.name, call.args) == ("draw", [7])
    assert [o.key for o in change.operations] == [b"7"]


def test_memory_and_read_only_databases_have_changes_too(path, tree):
    with enginelib.open(":memory:") as db:
        db.keyspace("space", **tree)[b"a"] = b"1"
        assert len(operations(db)) == 2
    with enginelib.open(path) as db:
        db.keyspace("space", **tree)[b"a"] = b"1"
    with enginelib.open(path, read_only=True) as db:
        assert len(operations(db)) == 2
        with pytest.raises(enginelib.ReadOnlyError):
            db.changes(follow=True)


class Streams(RuleBasedStateMachine):
    """Random transactions; streams from random places, with little memory and much, agree with the database."""

    @initialize(backend=st.sampled_from(["btree", "lsm"]), segment=st.sampled_from([1 << 20]))
    def begin(self, backend, segment):
        self.db = enginelib.open(":memory:", cache_size=2 << 20, segment_size=segment)
        self.backend = backend
        self.names = 0
        self.open = []
        self.model = Model()
        self.stream = self.db.changes()
        self.small = Model()
        self.small_stream = self.db.changes(memory=200)

    def spaces(self, data):
        return self.db[data.draw(st.sampled_from(self.db.keyspaces()))]

    @rule()
    def create(self):
        self.names += 1
        self.db.keyspace(f"k{self.names}", **({"backend": "lsm", "memtable_size": 65536} if self.backend == "lsm" else {}))

    @precondition(lambda self: self.db.keyspaces() and not self.open)
    @rule(data=st.data(), drop=st.booleans())
    def drop_or_rename(self, data, drop):
        name = data.draw(st.sampled_from(self.db.keyspaces()))
        if drop:
            self.db.drop_keyspace(name)
        else:
            self.names += 1
            self.db.rename_keyspace(name, f"k{self.names}")

    @precondition(lambda self: self.db.keyspaces() and len(self.open) < 3)
    @rule()
    def open_transaction(self):
        self.open.append(self.db.transaction())

    @precondition(lambda self: self.open)
    @rule(data=st.data(), key=st.binary(max_size=2), size=st.sampled_from([0, 10, 5000, 70_000]), what=st.sampled_from("ppdrs"))
    def work(self, data, key, size, what):
        txn = data.draw(st.sampled_from(self.open))
        try:
            ks = self.spaces(data)
            if what == "d":
                txn.delete(ks, key)
            elif what == "r":
                txn.delete_range(ks, key, key + b"\xff")
            elif what == "s":
                with txn.savepoint() as savepoint:
                    txn.put(ks, key, b"s" * size)
                    savepoint.rollback()
                    txn.put(ks, key + b"s", b"t" * size)
            else:
                txn.put(ks, key, key * (size // 2))
        except enginelib.TransactionAborted:
            self.open.remove(txn)
            txn.abort()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), commit=st.booleans())
    def end(self, data, commit):
        txn = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        try:
            txn.commit() if commit else txn.abort()
        except enginelib.TransactionAborted:
            txn.abort()

    @rule()
    def checkpoint(self):
        self.db.checkpoint()

    @invariant()
    def agree(self):
        if hasattr(self, "stream"):
            for stream, model in ((self.stream, self.model), (self.small_stream, self.small)):
                while (change := stream.next()) is not None:
                    model.apply(change)
                assert model.spaces == contents(self.db)

    def teardown(self):
        if hasattr(self, "db"):
            for txn in self.open:
                txn.abort()
            self.db.close()


Streams.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
TestStreams = Streams.TestCase


def test_a_stream_goes_through_segments_that_come_and_go(db, tree):
    ks = db.keyspace("space", **tree)
    rng = random.Random(5)
    model = Model()
    with db.changes() as stream:
        for round in range(30):
            with db.transaction() as txn:
                for _ in range(rng.randrange(1, 60)):
                    txn.put(ks, b"%04d" % rng.randrange(1000), rng.randbytes(rng.choice([10, 1000, 40_000])))
            if round % 7 == 6:
                db.checkpoint()
            if round % 3 == 0:
                while (change := stream.next()) is not None:
                    model.apply(change)
        follow_all(iter(lambda: stream.next(), None), model)
    model.agrees_with(db)


def test_streams_and_slots_need_no_other_package():
    program = (
        "import sys; sys.modules['msgspec'] = None\n"
        "import enginelib\n"
        "with enginelib.open(':memory:') as db:\n"
        "    db.keyspace('k')[b'a'] = b'1'\n"
        "    db.create_slot('s')\n"
        "    assert len(list(db.changes())) == 2\n"
        "try:\n"
        "    from enginelib.replication import Follower\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "enginelib[replication]" in done.stdout
