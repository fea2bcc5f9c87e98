"""Before-images: each change of a keyspace that logs them tells what its key held just before, through whatever happened to the transaction."""

import json
import random

import pytest
from enginelib._native.base.faultvfs import FaultVfs
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rephelp import contents, follow_before

import enginelib
from enginelib.database import Database
from enginelib.replication import Change, Operation, codec

SIZES = (0, 1, 30, 4096, 4097, 16384, 16385, 100_000, 300_000)


def images(db, **options):
    return [(o.op, o.key, o.existed, o.before) for c in db.changes(**{"include_before": "full", **options}) for o in c.operations if o.key is not None]


@pytest.mark.parametrize("memory", [1 << 24, 1])
def test_each_change_tells_what_was_there(db, tree, memory):
    ks = db.keyspace("space", before="full", **tree)
    assert ks.before == "full"
    ks[b"a"] = b"1"
    ks[b"a"] = b""
    del ks[b"a"]
    ks[b"a"] = b"2"
    with db.transaction() as txn:
        txn.put(ks, b"a", b"3")
        txn.put(ks, b"a", b"4")
        txn.delete(ks, b"a")
        txn.delete(ks, b"a")
        txn.add(ks, b"n", 1)
        txn.add(ks, b"n", 1)
        txn.put_many(ks, [(b"n", b"x"), (b"m", b"y")])
        txn.delete(ks, b"m", blind=True)
    one, two = enginelib_int(1), enginelib_int(2)
    assert images(db, memory=memory) == [
        ("put", b"a", False, None), ("put", b"a", True, b"1"), ("delete", b"a", True, b""), ("put", b"a", False, None),
        ("put", b"a", True, b"2"), ("put", b"a", True, b"3"), ("delete", b"a", True, b"4"),
        ("put", b"n", False, None), ("put", b"n", True, one), ("put", b"n", True, two), ("put", b"m", False, None), ("delete", b"m", True, b"y"),
    ]  # fmt: skip
    assert {o.before for c in db.changes(memory=memory) for o in c.operations} == {None}, "they are told to who asks"
    assert {o.existed for c in db.changes() for o in c.operations} == {None}


def enginelib_int(n):
    with enginelib.open(":memory:") as db, db.transaction() as txn:
        txn.add(db.keyspace("x"), b"", n)
        return txn.get(db["x"], b"")


@pytest.mark.parametrize("memory", [1 << 24, 1])
def test_values_of_any_size_are_told_whole(db, tree, memory):
    ks = db.keyspace("space", before="full", **tree)
    values = [bytes([i]) * n for i, n in enumerate(SIZES)] + [bytes([99 - i]) * n for i, n in enumerate(reversed(SIZES))]
    for value in values:
        ks[b"key"] = value
    with db.transaction() as txn:
        for value in values:
            txn.put(ks, b"key", value)
        txn.put_many(ks, [(b"key", value) for value in values])
        txn.delete_range(ks)
    expected = [None, *values, *values, *values]
    assert [before for _, _, _, before in images(db, memory=memory)] == expected
    for backwards in (True, False):
        ks.update({b"%d" % i: value for i, value in enumerate(values)})
        for i in sorted(range(len(values)), reverse=backwards):
            assert ks.pop(b"%d" % i) == values[i]
    follow_before(db.changes(include_before="full", memory=memory)).agrees_with(db)


def test_whether_a_key_was_there_costs_no_value(db, tree):
    ks = db.keyspace("space", before="key", **tree)
    ks[b"a"] = b"v" * 50_000
    end = db.stats()["log"]["end_lsn"]
    ks[b"a"] = b"w"
    assert db.stats()["log"]["end_lsn"] - end < 200
    del ks[b"a"]
    found = [("put", b"a", False, None), ("put", b"a", True, None), ("delete", b"a", True, None)]
    assert images(db, include_before="key") == found
    with pytest.raises(enginelib.UsageError, match=r"'space' did not log before-images \('full'\)"):
        images(db)
    db.set_before("space", "full")
    end = db.stats()["log"]["end_lsn"]
    db.sync()
    ks[b"a"] = b"x"
    ks[b"a"] = b"y"
    assert images(db, since=end) == [("put", b"a", False, None), ("put", b"a", True, b"x")]
    assert images(db, since=end, include_before="key") == [("put", b"a", False, None), ("put", b"a", True, None)]


def test_a_stream_that_lacks_them_says_so_and_skips_nothing(db, tree):
    ks, bare = db.keyspace("space", before="full", **tree), db.keyspace("bare", **tree)
    ks[b"a"] = b"1"
    bare[b"b"] = b"2"
    ks[b"c"] = b"3"
    for most in (1, 100):
        with db.changes(include_before="full") as stream:
            seen = []
            for _ in range(2):
                with pytest.raises(enginelib.UsageError, match=r"'bare' .*set_before\('bare', 'full'\)"):
                    while found := stream.next_many(most):
                        seen += found
            assert [c.operations[0].key for c in seen] == [None, None, b"a"]
    assert len(images(db, keyspaces=["space"])) == 2
    with pytest.raises(enginelib.UsageError, match="'bare'"):
        images(db, memory=1)
    with pytest.raises(ValueError, match="include_before"):
        db.changes(include_before="all")
    *_, change = db.changes()
    bare.clear()
    with pytest.raises(enginelib.UsageError, match="its delete"):
        images(db, keyspaces=["bare"], since=change.lsn)


def test_what_is_logged_is_said_at_creation_and_later_and_lasts(path, tree):
    with enginelib.open(path) as db:
        with pytest.raises(ValueError, match="before must be one of"):
            db.keyspace("space", before="all", **tree)
        with pytest.raises(KeyError):
            db.set_before("space", "full")
        ks = db.keyspace("space", before="key", **tree)
        with db.transaction() as txn:
            inner = txn.create_keyspace("inner", before="full", **tree)
            txn.put(inner, b"a", b"1")
            with pytest.raises(ZeroDivisionError), txn.savepoint():
                assert txn.create_keyspace("gone", before="full", **tree).before == "full"
                raise ZeroDivisionError
            txn.put(inner, b"a", b"2")
        assert images(db, keyspaces=["inner"]) == [("put", b"a", False, None), ("put", b"a", True, b"1")]
        db.keyspace("plain", **tree)
        with pytest.raises(ValueError, match="before must be one of"):
            db.set_before("space", "half")
        db.checkpoint()
        assert db.keyspace("space", before="none", **tree).before == "key", "a keyspace that exists keeps its own"
    for after in ("full", "none", "key"):
        with enginelib.open(path) as db:
            ks = db["space"]
            assert (db["inner"].before, db["plain"].before) == ("full", "none")
            before, end = ks.before, db.stats()["log"]["end_lsn"]
            ks[b"k"] = b"v"
            assert images(db, include_before="none" if before == "none" else before, since=end)
            db.set_before("space", after)
            assert ks.before == after
            db.rename_keyspace("space", "elsewhere")
            assert db["elsewhere"].before == after
            db.rename_keyspace("elsewhere", "space")
            ops = [o.op for c in db.changes(since=end) for o in c.operations]
            assert ops == ["put", "rename_keyspace", "rename_keyspace"], "it is no change of a name"
            if after == "none":
                db.checkpoint()
                db.abandon()        # a crash
        with enginelib.open(path, read_only=True) as db:
            assert db["space"].before == after and sorted(db.keyspaces()) == ["inner", "plain", "space"]


def test_files_with_them_are_written_by_none_who_would_leave_them_out(path, tree):
    """The superblock says so, as long as there is such a keyspace."""

    def features():
        data = (path / "pages.dat").read_bytes()
        blocks = [data[at : at + 4096] for at in (0, 4096)]
        return int.from_bytes(max(blocks, key=lambda b: b[40:48][::-1])[24:32], "little")

    with enginelib.open(path) as db:
        db.keyspace("space", **tree)
    assert features() == 0
    with enginelib.open(path) as db:
        db.set_before("space", "key")
    assert features() == 1
    with enginelib.open(path) as db:
        db.set_before("space", "none")
    assert features() == 0


def test_what_was_taken_back_takes_its_images_along(db, tree):
    ks = db.keyspace("space", before="full", **tree)
    big, bigger = b"B" * 70_000, b"C" * 90_000
    ks.update({b"a": b"0", b"b": big})
    txn = db.transaction()
    txn.put(ks, b"b", b"never")
    txn.abort()
    with db.transaction() as txn:
        txn.put(ks, b"a", b"1")
        with txn.savepoint() as outer:
            txn.put(ks, b"a", b"2")
            txn.put(ks, b"b", bigger)
            with pytest.raises(ZeroDivisionError), txn.savepoint():
                txn.delete_range(ks)
                txn.put(ks, b"b", b"small")
                raise ZeroDivisionError
            txn.put(ks, b"b", b"3")
            outer.rollback()
        txn.put(ks, b"a", b"4")
        txn.delete(ks, b"b")
    for memory in (1 << 20, 1):
        *_, last = [[(o.key, o.value, o.before) for o in c.operations] for c in db.changes(include_before="full", memory=memory)]
        assert last == [(b"a", b"1", b"0"), (b"a", b"4", b"1"), (b"b", None, big)]


def test_deleted_ranges_go_key_by_key(db, tree):
    ks = db.keyspace("space", before="full", **tree)
    ks.update({b"%d" % i: b"v%d" % i for i in range(8)})
    with db.transaction() as txn:
        txn.put(ks, b"4", b"new")
        assert txn.delete_range(ks, b"2", b"6") == 4
    *_, last = db.changes(include_before="full")
    assert [(o.op, o.key, o.before) for o in last.operations[1:]] == [
        ("delete", b"%d" % i, b"new" if i == 4 else b"v%d" % i) for i in range(2, 6)]  # fmt: skip
    follow_before(db.changes(include_before="full")).agrees_with(db)


def test_a_bulk_load_does_not_look_and_is_refused(db):
    ks = db.keyspace("space", backend="lsm", before="key")
    with pytest.raises(enginelib.UsageError, match="before-images"):
        ks.ingest([(b"a", b"1")])
    assert list(ks) == []
    db.set_before("space", "none")
    assert ks.ingest([(b"a", b"1")]) == 1


def test_what_was_flushed_to_tables_is_told_too(db):
    ks = db.keyspace("space", backend="lsm", before="full", memtable_size=64 << 10, table_size=64 << 10)
    rows = {b"%04d" % i: b"%d" % i * 300 for i in range(1500)}
    ks.update(rows)
    ks.compact()
    for i in range(0, 1500, 100):
        ks[b"%04d" % i] = b"new"
    with db.transaction() as txn:
        txn.delete(ks, b"0001", blind=True)
        txn.delete(ks, b"absent", blind=True)
    found = images(db)[1500:]
    assert [before for _, _, _, before in found] == [rows[b"%04d" % i] for i in range(0, 1500, 100)] + [rows[b"0001"], None]


def test_a_refused_change_leaves_pieces_that_mislead_nobody(db, tree):
    """The large before-image is in the log when the change fails; the next change of the key tells the whole value, once."""
    ks = db.keyspace("space", before="full", **tree)
    big = bytes(range(256)) * 400
    ks[b"k"] = big
    with db.transaction() as txn:
        original = txn.get(ks, b"k")
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), txn.savepoint():
                txn.put(ks, b"k", b"x")
                raise ZeroDivisionError
        txn.put(ks, b"other", b"1")
        txn.delete(ks, b"k")
    assert original == big
    for memory in (1 << 20, 1):
        assert images(db, memory=memory)[-2:] == [("put", b"other", False, None), ("delete", b"k", True, big)]


def test_the_levels_of_isolation_log_what_they_replace(db, tree):
    ks = db.keyspace("space", before="full", **tree)
    ks[b"k"] = b"0" * 20_000
    for i, level in enumerate(("read_committed", "snapshot", "serializable", "locking", "serial")):
        with db.transaction(isolation=level) as txn:
            txn.put(ks, b"k", b"%d" % i * 20_000)
            txn.put(ks, b"k", b"%d" % i * 9)
            txn.put(ks, b"k", b"%d" % i * 20_000)
    assert len(images(db)) == 16
    follow_before(db.changes(include_before="full")).agrees_with(db)


def test_a_follower_makes_keyspaces_as_they_are(db, tree, tmp_path):
    from enginelib.replication import Follower

    first = db.keyspace("first", before="full", **tree)
    first[b"a"] = b"1"
    with Follower(tmp_path / "copy", db) as follower:
        assert follower.wait_for(sequence=0, timeout=30), "it has copied what there is"
        db.keyspace("second", before="key", **tree)
        with db.transaction() as txn:
            txn.put(first, b"a", b"2")
        assert follower.wait_for(sequence=txn.commit_ts, timeout=30)
        assert (follower.database["first"].before, follower.database["second"].before) == ("full", "key")
        assert images(follower.database, keyspaces=["first"]) == [("put", b"a", False, None), ("put", b"a", True, b"1")]


def example():
    ops = [
        Operation("k", "put", b"a", b"1", None, False),
        Operation("k", "put", b"a", b"2", b"1", True),
        Operation("k", "put", b"a", b"3", None, True),
        Operation("k", "delete", b"a", None, b"3", True),
        Operation("k", "put", b"b", b"4"),
    ]
    return Change(bytes(16), 0, 1, 2, 1, 1.0, None, ops)


def test_the_bytes_of_before_images_are_those_of_the_first_version():
    golden = (
        "8701c4100000000000000000000000000000000002000301040205 0106cb3ff0000000000000"
        "0895 850101 02a16b 03c40161 04c40131 06c2 860101 02a16b 03c40161 04c40132 05c40131 06c3 850101 02a16b 03c40161 04c40133 06c3"
        "850102 02a16b 03c40161 05c40133 06c3 840101 02a16b 03c40162 04c40134"
    )
    assert codec.encode(example()).hex() == golden.replace(" ", "").replace("01040205", "010402 05".replace(" ", ""))
    assert codec.decode(bytes.fromhex(codec.encode(example()).hex())) == example()


def test_events_tell_insertion_from_update():
    _, made, changed, known, gone, blind, _ = [json.loads(json.dumps(e)) for e in codec.to_events(example(), bytes.decode)]
    assert (made["op"], made["before"], made["after"]) == ("c", None, {"key": "a", "value": "1"})
    assert (changed["op"], changed["before"], changed["after"]) == ("u", {"key": "a", "value": "1"}, {"key": "a", "value": "2"})
    assert (known["op"], known["before"]) == ("u", {"key": "a"})
    assert (gone["op"], gone["before"], gone["after"]) == ("d", {"key": "a", "value": "3"}, None)
    assert (blind["op"], blind["before"]) == ("u", None)


# ---- crashes


def work(db, backend, rng):
    """A few transactions over a few keys, large values among them; some are left open."""
    ks = db.keyspace("space", backend, before="full", **({"memtable_size": 64 << 10, "table_size": 64 << 10} if backend == "lsm" else {}))
    left = []
    for i in range(14):
        txn = db.transaction(lock_timeout=0)
        try:
            for _ in range(rng.randrange(1, 5)):
                key = b"%d" % rng.randrange(6)
                if rng.random() < 0.25:
                    txn.delete(ks, key)
                elif rng.random() < 0.1:
                    txn.delete_range(ks, b"2", b"4")
                else:
                    txn.put(ks, key, bytes([65 + i]) * rng.choice((3, 500, 5000, 20_000)))
                if rng.random() < 0.2:
                    depth = txn.save()
                    txn.put(ks, key, b"taken back")
                    txn.rollback_to(depth)
        except enginelib.TransactionAborted:
            txn.abort()
            continue
        if rng.random() < 0.15:
            left.append(txn)
        elif rng.random() < 0.2:
            txn.abort()
        else:
            txn.commit()
        if rng.random() < 0.1:
            db.step("prepare")
    return left


OPTIONS = {"cache_size": 1 << 20, "segment_size": 1 << 20, "log_buffer": 1 << 16, "background": False}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("backend", ["btree", "lsm"])
def test_a_kill_at_any_write_leaves_images_that_are_right(backend, seed):
    """What a transaction has logged when the process dies, images and their pieces too, misleads neither recovery nor readers, and holds back no log."""
    rng = random.Random(seed)
    vfs = FaultVfs()
    db = Database("/db", vfs=vfs, **OPTIONS)
    start = vfs.mutations
    left = work(db, backend, rng)
    db.sync()
    end = vfs.mutations
    assert left is not None
    pieces = sum(r["type"] == "before" and r["a"] == 4 for r in db.log_records()) if seed == 0 else 1
    db.abandon()
    assert pieces
    step = max(1, (end - start) // 25)
    for cut in range(start, end + 1, step):
        for mode in ("kill", "power"):
            image = vfs.crash_image(cut, cut if mode == "power" else 0, mode)
            with Database("/db", vfs=image, **OPTIONS) as found:
                with found.changes(include_before="full") as stream:
                    follow_before(stream).agrees_with(found)
                    assert stream._reader.floor == found.stats()["log"]["end_lsn"], "nobody is waited for"
                if "space" in found.keyspaces():
                    found["space"][b"0"] = b"after"
                    follow_before(found.changes(include_before="full")).agrees_with(found)


class Images(RuleBasedStateMachine):
    """Random transactions of one keyspace of each kind, against what the stream says of them; the database is opened again in between."""

    @initialize(segment=st.sampled_from([1 << 20, 4 << 20]))
    def begin(self, segment):
        self.options = {**OPTIONS, "segment_size": segment}
        self.vfs = FaultVfs()
        self.db = Database("/db", vfs=self.vfs, **self.options)
        self.db.keyspace("b", before="full")
        self.db.keyspace("l", "lsm", before="full", memtable_size=64 << 10, table_size=64 << 10)
        self.db.create_slot("keeper")
        self.txn = None
        self.depths = []
        self.at = self.db.stats()["log"]["end_lsn"]
        self.spaces = {"b": {}, "l": {}}

    def open(self):
        if self.txn is None:
            self.txn = self.db.transaction()
            self.depths = []
        return self.txn

    @rule(name=st.sampled_from("bl"), key=st.integers(0, 4), size=st.sampled_from(SIZES), fill=st.integers(0, 255))
    def put(self, name, key, size, fill):
        self.open().put(self.db[name], b"%d" % key, bytes([fill]) * size)

    @rule(name=st.sampled_from("bl"), key=st.integers(0, 4), blind=st.booleans())
    def delete(self, name, key, blind):
        self.open().delete(self.db[name], b"%d" % key, blind=blind)

    @rule(name=st.sampled_from("bl"), low=st.integers(0, 4), n=st.integers(0, 4))
    def delete_range(self, name, low, n):
        self.open().delete_range(self.db[name], b"%d" % low, b"%d" % (low + n))

    @rule(name=st.sampled_from("bl"), size=st.sampled_from(SIZES[:6]), count=st.integers(1, 8))
    def put_many(self, name, size, count):
        self.open().put_many(self.db[name], [(b"%d" % (i % 5), b"%d" % i * size) for i in range(count)])

    @rule()
    def save(self):
        self.open()
        if len(self.depths) < 3:
            self.depths.append(self.txn.save())

    @precondition(lambda self: self.txn is not None and self.depths)
    @rule(data=st.data(), release=st.booleans())
    def end_savepoint(self, data, release):
        at = data.draw(st.integers(0, len(self.depths) - 1))
        (self.txn.release if release else self.txn.rollback_to)(self.depths[at])
        del self.depths[at:]

    @precondition(lambda self: self.txn is not None)
    @rule(commit=st.booleans())
    def end(self, commit):
        self.txn.commit() if commit else self.txn.abort()
        self.txn = None

    @rule(what=st.sampled_from(["seal", "flush", "compact", "checkpoint"]))
    def upkeep(self, what):
        self.db.step(what)

    @rule(clean=st.booleans())
    def reopen(self, clean):
        self.read()
        self.db.sync()
        self.txn = None
        if clean:
            self.db.close()
        else:
            self.db.abandon()
            self.vfs = self.vfs.crash_image(self.vfs.mutations, 0, "kill")
        self.db = Database("/db", vfs=self.vfs, **self.options)

    @invariant()
    def read(self):
        if not hasattr(self, "db"):
            return
        for memory in (1 << 24, 100):
            spaces = {name: dict(rows) for name, rows in self.spaces.items()}
            with self.db.changes(since=self.at, include_before="full", memory=memory) as stream:
                follow_before(stream, spaces)
                at = stream.position
        self.at, self.spaces = at, spaces
        assert spaces == contents(self.db)

    def teardown(self):
        if hasattr(self, "db"):
            self.txn = None
            self.db.close()


Images.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
test_random_transactions_tell_what_they_replace = Images.TestCase
