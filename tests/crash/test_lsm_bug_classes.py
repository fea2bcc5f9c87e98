"""The classes of bugs that storage engines have had, as far as they concern LSM-trees: for each a test that bears its number.

Classes 13 and 14 (isolation, locks) are tested for both kinds of tree in tests/isolation, 17 is the B-tree's, and 20 (the edges of
the interface) in tests/conformance and tests/limits.
"""

import errno
import itertools
import threading

import pytest
from _history import SYNC, content
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreDatabase, CoreKeyspace, CoreTransaction

import enginelib
from enginelib import errors

SMALL = {
    "page_size": 4096,
    "cache_size": 262144,
    "segment_size": 65536,
    "log_buffer": 4096,
    "checkpoint_bytes": 1 << 40,
    "version_budget": 1 << 24,
    "transaction_budget": 1 << 24,
    "durability": SYNC,
    "lazy_interval": 0.1,
    "lock_timeout": 0.0,
    "background": False,
}
TREE = {"memtable_size": 64 << 10, "table_size": 64 << 10}


def opened(vfs, **options):
    return CoreDatabase("/db", vfs=vfs, **{**SMALL, **options})


def tables_of(vfs):
    return {path for path in vfs.files() if path.endswith(".sst")}


def named(db):
    """How many tables the database names."""
    count = 0
    for name, _, backend in db.keyspace_rows():
        if backend == "lsm":
            count += sum(level["tables"] for level in db.core_keyspace(CoreKeyspace, name, False).core_stats()["levels"])
    return count


class Story:
    """A database, and what it may show after a crash at any moment of its life."""

    def __init__(self, **tree):
        self.vfs = FaultVfs()
        self.db = opened(self.vfs)
        self.space = self.db.core_keyspace(CoreKeyspace, "space", True, "lsm", {**TREE, **tree})
        self.pages = self.db.core_keyspace(CoreKeyspace, "pages")
        self.rows, self.beside = {}, {}
        self.start = self.vfs.mutations
        self.states = [(self.start, self.start, self.state())]  # when it was begun, when it was acknowledged

    def state(self):
        return {"space": dict(self.rows), "pages": dict(self.beside)}

    def begin(self):
        return self.db.core_transaction(CoreTransaction, False, SYNC)

    def change(self, put=(), gone=(), span=None, beside=()):
        """One transaction, of both trees."""
        txn = self.begin()
        txn.put_many(self.space, list(dict(put).items()))
        for key in gone:
            txn.delete(self.space, key)
        if span:
            txn.delete_range(self.space, *span)
        txn.put_many(self.pages, list(dict(beside).items()))
        self.commit(txn, put, gone, span, beside)

    def commit(self, txn, put=(), gone=(), span=None, beside=()):
        self.rows.update(put)
        for key in gone:
            self.rows.pop(key, None)
        if span:
            self.rows = {k: v for k, v in self.rows.items() if not span[0] <= k < span[1]}
        self.beside.update(beside)
        begun = self.vfs.mutations
        txn.commit()
        self.states.append((begun, self.vfs.mutations, self.state()))

    def flush(self):
        self.db.step("seal")
        while self.db.step("flush"):
            pass

    def compact(self):
        self.space.core_compact(None, None)

    def allowed(self, cut):
        """The states that may be found after a crash there."""
        low = max(i for i, (_, acknowledged, _) in enumerate(self.states) if acknowledged <= cut)
        return [state for begun, _, state in self.states[low:] if begun <= cut]

    def crash_everywhere(self, seeds=(1, 2), step=1):
        """At every moment, in every way; what is found must be allowed, sound, and without a file that nothing names."""
        places = 0
        for cut in range(self.start, self.vfs.mutations + 1, step):
            for mode, seed in (("kill", 0), ("lost", 0), *(("power", seed) for seed in seeds)):
                image = self.vfs.crash_image(cut, seed, mode)
                db = opened(image)
                try:
                    assert content(db) in self.allowed(cut), f"after a crash at {cut} ({mode} {seed})"
                    assert db.verify()[0] == []
                    assert len(tables_of(image)) == named(db), f"files that nothing names, after a crash at {cut} ({mode} {seed})"
                finally:
                    db.abandon()
                places += 1
        return places


@pytest.fixture
def story():
    one = Story()
    yield one
    one.db.abandon()


def rows(first, last, text=b"value", size=60):
    return {b"%05d" % i: b"%s %d." % (text, i) + b"x" * size for i in range(first, last)}


def test_bug_class_1_and_5_a_flush_or_a_merge_cut_short_anywhere_loses_nothing(story):
    """Acknowledged before durable; torn tables: what is half written, or not synced, is not part of the database."""
    for turn in range(3):
        story.change(rows(turn, 60, b"turn %d" % turn), beside={b"turn": b"%d" % turn})
        story.flush()
    story.compact()
    story.change(rows(10, 20, b"after"), gone=[b"00030"], span=(b"00040", b"00050"))
    story.flush()
    story.compact()
    assert story.crash_everywhere() > 150


def test_bug_class_2_and_3_tables_are_durable_under_their_names_before_an_edit_names_them(story):
    """Directory entries not synced; metadata ahead of the data it names; inputs dropped before the edit is durable."""
    for turn in range(4):
        story.change(rows(turn, 200, b"turn %d" % turn))
        story.flush()
        if turn % 2:
            story.compact()
            story.db.checkpoint()
    dirty, unnamed, log = set(), set(), set()
    written = removed = 0
    for name, path, _offset, _n, status, _ in story.vfs.trace():
        if status:
            continue
        if path.endswith(".sst"):
            if name == "write":
                if path not in dirty:
                    written += 1
                dirty.add(path)
                unnamed.add(path)
            elif name == "sync":
                dirty.discard(path)
            elif name == "unlink":
                assert not log, "a table went before the edit that lets go of it was durable"
                removed += 1
        elif name == "sync_dir":
            unnamed -= {p for p in unnamed if p.rsplit("/", 1)[0] == path and p not in dirty}
        elif path.endswith(".wal"):
            if name in ("write", "write_tail"):
                assert not dirty and not unnamed, f"an edit may be in the log that names {dirty | unnamed}"
                log.add(path)
            elif name == "sync":
                log.discard(path)
    assert written >= 6 and removed >= 5
    # And the directories themselves.
    calls = [(c[0], c[1]) for c in story.vfs.trace() if c[4] == 0]
    made = [path for name, path in calls if name == "mkdir" and "/lsm" in path]
    assert len(made) >= 2
    for path in made:
        first = next(i for i, c in enumerate(calls) if c[0] == "write" and c[1].endswith(".sst") and c[1].startswith(path))
        synced = ("sync_dir", path.rsplit("/", 1)[0])
        assert synced in calls[calls.index(("mkdir", path)) : first]


def test_bug_class_3_and_11_the_log_is_kept_for_what_only_a_memtable_holds(story):
    """A log dropped too early; a position recorded for something that was then lost: what was committed after a seal, or is sealed
    and not written, is replayed however many checkpoints come by."""
    story.change(rows(0, 20))
    story.db.step("seal")
    story.change(rows(10, 30, b"after the seal"))
    for _ in range(3):
        story.change(beside={b"%d" % i: b"y" * 900 for i in range(60)})
        story.db.checkpoint()
    story.db.step("flush")
    story.change({b"last": b"of all"})
    story.db.checkpoint()
    assert story.crash_everywhere(step=3) > 100


def test_bug_class_6_an_edit_in_a_torn_tail_is_not_believed_and_its_number_not_used_again(story):
    """Records behind a torn tail come back: a table whose edit is lost goes, and no other takes the number it had."""
    story.change(rows(0, 60))
    story.flush()
    story.change(rows(0, 60, b"newer"))
    before = tables_of(story.vfs)
    story.flush()  # the edit is in the log, and not synced
    (lost,) = tables_of(story.vfs) - before
    image = story.vfs.crash_image(story.vfs.mutations, 0, "lost")
    assert lost in tables_of(image)
    db = opened(image)
    assert content(db) == story.state()
    assert lost not in tables_of(image)
    db.step("seal")
    db.step("flush")
    assert len(tables_of(image) - before) == 1 and lost not in tables_of(image)
    db.abandon()
    for mode in ("kill", "lost", "power"):
        again = opened(image.crash_image(image.mutations, 1, mode))
        assert content(again) == story.state() and again.verify()[0] == []
        again.abandon()


def test_bug_class_7_recovery_may_be_cut_short_anywhere_and_done_again(story):
    """Recovery that is not idempotent, with everything of an LSM-tree that it has to deal with."""
    story.change(rows(0, 60))
    story.flush()
    story.db.checkpoint()
    story.change(rows(30, 90, b"newer"), gone=[b"00001"], span=(b"00010", b"00020"))
    story.flush()
    story.compact()
    story.change(rows(80, 100, b"newest"))
    loser = story.begin()
    loser.put(story.space, b"loser", b"never committed")
    loser.delete_range(story.space, b"00050", b"00060")
    loser.put(story.pages, b"loser", b"never committed")
    story.db.step("seal")
    story.db.sync()
    for first, cut in (("kill", story.vfs.mutations), ("lost", story.vfs.mutations), ("power", story.vfs.mutations)):
        image = story.vfs.crash_image(cut, 5, first)
        start = image.mutations
        opened(image).abandon()
        assert image.mutations > start
        for again, (mode, seed) in itertools.product(range(start, image.mutations + 1), (("kill", 0), ("lost", 0), ("power", 3))):
            db = opened(image.crash_image(again, seed, mode))
            assert content(db) == story.state(), f"{first}, then {mode} at {again}"
            assert db.verify()[0] == []
            db.abandon()


@pytest.mark.parametrize("end", ["commit", "abort", "crash"])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_bug_class_8_and_9_a_transaction_across_the_switch_of_a_memtable_is_whole(story, end, checkpoint):
    """Uncommitted changes on disk without their undo; a checkpoint or the switch of a memtable amid a transaction."""
    story.change(rows(0, 40))
    txn = story.begin()
    txn.put_many(story.space, list(rows(20, 30, b"first half").items()))
    txn.delete(story.space, b"00001")
    txn.delete_range(story.space, b"00005", b"00010")
    story.change(beside={b"other": b"commit"})  # in the same memtable, committed
    story.flush()
    if checkpoint:
        story.db.checkpoint()
    txn.put_many(story.space, list(rows(25, 50, b"second half").items()))
    txn.save()
    txn.put_many(story.space, list(rows(0, 50, b"rolled back").items()))
    txn.delete_range(story.space, b"00000", b"00050")
    story.flush()
    txn.rollback_to(1)
    txn.put(story.pages, b"both", b"trees")
    story.flush()
    if checkpoint:
        story.db.checkpoint()
    if end == "commit":
        put = {**rows(20, 30, b"first half"), **rows(25, 50, b"second half")}
        story.commit(txn, put, [b"00001"], (b"00005", b"00010"), {b"both": b"trees"})
        story.flush()
    elif end == "abort":
        txn.abort()
        story.flush()
    else:
        story.db.sync()
    if end != "crash":
        assert content(story.db) == story.state()
    assert story.crash_everywhere(seeds=(4,)) > 40


KINDS = {"eio": (errno.EIO, False), "short": (errno.EIO, True), "full": (errno.ENOSPC, True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("work", ["flush", "compact"])
def test_bug_class_10_and_16_every_call_of_a_flush_or_a_merge_may_fail(work, kind):
    """A failed fsync retried or ignored; short writes; a read error in compaction taken for the end. Nothing is lost, nothing half
    done is named, no file is left behind, and with the medium well again (the log did not fail) the work is done."""

    def prepared():
        story = Story()
        for turn in range(3):
            story.change(rows(0, 300, b"turn %d" % turn), gone=[b"%05d" % turn], span=(b"00100", b"%05d" % (110 + turn)))
            if work == "compact" or turn < 2:
                story.flush()
        if work == "flush":
            story.db.step("seal")
        return story

    def do(story):
        if work == "flush":
            story.db.step("flush")
        else:
            story.compact()

    story = prepared()
    calls = story.vfs.calls
    do(story)
    calls = story.vfs.calls - calls
    story.db.abandon()
    assert calls > 5
    failures = finals = 0
    for at in range(calls):
        story = prepared()
        number, short = KINDS[kind]
        story.vfs.inject(at, number, short)
        try:
            do(story)
        except errors.StorageError:
            failures += 1
        story.vfs.clear_injections()
        assert content(story.db) == story.state(), f"call {at}"
        if story.db.stats()["log"]["failed"]:
            finals += 1
        else:
            do(story)
            do(story)
            assert content(story.db) == story.state()
            story.compact()  # what is obsolete goes with the next piece of work, if not before
            assert story.db.verify()[0] == []
            if work == "compact":
                assert len(tables_of(story.vfs)) == named(story.db), f"call {at}"
        for mode in ("kill", "lost", "power"):
            image = story.vfs.crash_image(story.vfs.mutations, at, mode)
            again = opened(image)
            assert content(again) == story.state(), f"call {at}, {mode}"
            assert len(tables_of(image)) == named(again)
            again.abandon()
        story.db.abandon()
    assert failures > calls // 3 and finals < calls


@pytest.mark.parametrize("style", ["leveled", "size_tiered"])
def test_bug_class_15_no_merge_drops_what_a_snapshot_still_sees(style):
    """Versions freed under an old snapshot; a key deleted and put again; readers between two flushes."""
    story = Story(compaction=style)
    seen = []
    for turn in range(12):
        story.change(rows(turn, 40, b"turn %d" % turn), gone=[b"%05d" % (turn * 3), b"00039"], span=(b"00020", b"%05d" % (21 + turn)))
        if turn % 3 != 2:
            seen.append((story.db.core_transaction(CoreTransaction, True), dict(story.rows)))
        story.flush()
        if turn % 4 == 3:
            story.compact()
        for txn, expected in seen:
            assert dict(txn.scan(story.space)) == expected
            assert dict(txn.scan(story.space, reverse=True)) == expected
            keys = [b"%05d" % i for i in range(40)]
            assert txn.get_many(story.space, keys) == [expected.get(key) for key in keys]
        if len(seen) > 4:
            seen.pop(turn % 3)[0].abort()
    for txn, _ in seen:
        txn.abort()
    story.compact()
    stats = story.space.core_stats()
    assert sum(level["entries"] for level in stats["levels"]) == len(story.rows)  # and now nothing is left of all that
    assert sum(level["tombstones"] for level in stats["levels"]) == 0 and stats["range_tombstones"] == 0
    assert content(story.db) == story.state()
    story.db.abandon()


@pytest.mark.parametrize("kind", ["tombstone", "range"])
@pytest.mark.parametrize("style", ["leveled", "size_tiered"])
def test_bug_class_16_a_tombstone_stays_while_anything_older_lies_below(style, kind):
    """Tombstones dropped too early: what was deleted comes back from a lower level."""
    story = Story(compaction=style)
    story.change(rows(0, 400, size=400))
    story.flush()
    story.compact()  # all of it lies in the last level, or in one run
    for turn in range(14):
        low = 10 + turn * 20
        if kind == "range":
            story.change(rows(400, 405, b"turn %d" % turn), span=(b"%05d" % low, b"%05d" % (low + 10)))
        else:
            story.change(rows(400, 405, b"turn %d" % turn), gone=[b"%05d" % i for i in range(low, low + 10)])
        story.flush()
        story.db.step("compact")
        if turn % 5 == 4:
            story.db.step("settle")
        assert content(story.db) == story.state(), f"turn {turn}"
    story.db.close()
    db = opened(story.vfs)
    assert content(db) == story.state()
    db.abandon()


def test_bug_class_16_what_comes_after_a_reopening_is_newer_than_all_before(story):
    """Sequence numbers that begin too low after a reopening: the new value hides behind the old one."""
    vfs = story.vfs
    story.db.abandon()
    for life in range(8):
        db = opened(vfs)
        space = db.core_keyspace(CoreKeyspace, "space")
        for key in (b"k", b"%d" % life):
            with db.core_transaction(CoreTransaction) as txn:
                txn.put(space, key, b"life %d" % life)
        assert db.core_transaction(CoreTransaction, True).get(space, b"k") == b"life %d" % life
        if life % 2:
            db.step("seal")
            db.step("flush")
        if life % 3 == 2:
            db.step("settle")
        if life % 4 == 3:
            db.close()
        else:
            db.abandon()
            vfs = vfs.crash_image(vfs.mutations, life, ("kill", "lost", "power")[life % 3])
    db = opened(vfs)
    assert content(db)["space"] == {b"k": b"life 7", **{b"%d" % life: b"life %d" % life for life in range(8)}}
    db.abandon()


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "another", "swapped"])
def test_bug_class_18_a_table_that_is_not_the_one_is_noticed(story, damage):
    """Lost and misdirected writes: never a wrong answer, and the error names the file."""
    for turn in range(2):
        story.change(rows(0, 30, b"turn %d" % turn))
        story.flush()
    story.db.checkpoint()
    one, two = sorted(tables_of(story.vfs))
    files = story.vfs.files()
    story.db.close()
    image = FaultVfs()
    for path, data in story.vfs.files().items():
        if path == two:
            if damage == "missing":
                continue
            data = {"truncated": data[:-1], "empty": b"", "another": b"nothing of ours" * 99, "swapped": files[one]}[damage]
        image.put_file(path, data)
    with pytest.raises(errors.CorruptionError) as caught:
        opened(image)
    assert caught.value.file == two
    db = opened(image, allow_damaged=True)  # the rest can be read
    with db.core_transaction(CoreTransaction, True) as txn:
        assert dict(txn.scan(db.core_keyspace(CoreKeyspace, "pages"))) == story.beside
        with pytest.raises(errors.CorruptionError):
            txn.get(db.core_keyspace(CoreKeyspace, "space"), b"00001")
    db.abandon()


def test_bug_class_19_closing_amid_flushes_and_merges_loses_nothing(tmp_path):
    """Close racing background work: what was acknowledged is there, and nothing is left over."""
    expected = {}
    for life in range(8):
        db = enginelib.open(tmp_path / "db", cache_size=1 << 20, segment_size=1 << 20)
        space = db.keyspace("space", backend="lsm", memtable_size=64 << 10, table_size=64 << 10)
        assert dict(space.items()) == expected
        names = {p.name for p in (tmp_path / "db" / "lsm").glob("*/*.sst")}
        assert len(names) >= sum(level["tables"] for level in space.stats()["levels"])
        for part in range(4):
            some = {b"%05d" % (i * 7 % 3000): b"%d.%d" % (life, part) * 20 for i in range(part, 1200, 2 + life % 3)}
            with db.transaction(durability="lazy") as txn:
                txn.put_many(space, some.items())
            expected |= some
        gate = threading.Barrier(2)

        def read(db=db, space=space, gate=gate):
            gate.wait(20)
            with pytest.raises(errors.UsageError):  # DatabaseClosed, or TransactionClosed
                while True:
                    assert len(dict(space.items())) == len(expected)

        reader = threading.Thread(target=read)
        reader.start()
        gate.wait(20)
        db.close()
        reader.join(20)
        assert not reader.is_alive()
    with enginelib.open(tmp_path / "db") as db:
        assert dict(db.keyspace("space").items()) == expected
        assert db.verify().ok


def test_bug_class_19_a_keyspace_dropped_amid_flushes_and_merges_leaves_nothing(tmp_path):
    """A drop racing background work: its files go, its neighbour's stay."""
    with enginelib.open(tmp_path / "db", cache_size=1 << 20, segment_size=1 << 20) as db:
        kept = db.keyspace("kept", backend="lsm", memtable_size=64 << 10, table_size=64 << 10)
        kept.update({b"%05d" % i: b"kept" * 9 for i in range(3000)})
        for _ in range(12):
            space = db.keyspace("space", backend="lsm", memtable_size=64 << 10, table_size=64 << 10)
            for part in range(3):
                space.put_many([(b"%05d" % i, b"%d" % part * 50) for i in range(1500)])
            db.drop_keyspace("space")
        assert dict(kept.items()) == {b"%05d" % i: b"kept" * 9 for i in range(3000)}
    with enginelib.open(tmp_path / "db") as db:
        assert list(db.keyspaces()) == ["kept"] and len(db.keyspace("kept")) == 3000
        left = [p for p in (tmp_path / "db" / "lsm").glob("*/*.sst") if p.parent.name != str(db.keyspace("kept").id)]
        assert left == []
        assert db.verify().ok
