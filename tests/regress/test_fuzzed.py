"""Found by guided fuzzing (tools/fuzz.py): what a file made with malice, its checksums right, may not do. Each docstring names the defect."""

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import fuzzhelp as f
import pytest
from enginelib._native.engine.door import CoreKeyspace, CoreTransaction
from enginelib._native.log.record import decode, encode

import enginelib

HERE = Path(__file__).resolve().parent


def refused(pieces, match=None, **more):
    with pytest.raises(enginelib.CorruptionError, match=match):
        f.opened(pieces, **more)


def filled(db, words):
    with db.core_transaction(CoreTransaction) as txn:
        txn.put_many(words, [(b"k%02d" % i, b"v%d" % i) for i in range(20)])


def in_flight(db, words):
    """Leaves a transaction under way."""
    filled(db, words)
    txn = db.core_transaction(CoreTransaction)
    txn.put(words, b"k00", b"changed")
    txn.delete(words, b"k01")
    txn.put(words, b"new", b"1")
    return txn


# --- the log -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, fields", [
    ("put", {"txn": 1 << 62, "keyspace": 1, "key": b"k", "value": b"v"}),
    ("commit", {"txn": (1 << 64) - 1, "a": 5, "b": 1}),
    ("commit", {"txn": 900, "a": 0, "b": 1}),
    ("commit", {"txn": 900, "a": 1 << 62, "b": 1}),
    ("commit", {"txn": 900, "a": (1 << 64) - 1, "b": 1}),
])  # fmt: skip
def test_transactions_and_timestamps_in_the_log_are_bounded(kind, fields):
    """The next transaction's id went round to 0, which means "none"; entries of LSM-trees with such a timestamp counted as uncommitted."""
    refused(f.told(f.database(filled), (kind, fields)), "a number that none can have")


@pytest.mark.parametrize("next_field", [56, 64])
def test_transactions_and_timestamps_in_the_superblock_are_bounded(next_field):
    """As in the log."""
    refused(f.with_superblock(f.database(filled), next_field, 8, 1 << 62), "impossible commit timestamp or transaction")


@pytest.mark.parametrize("change", [f.put(b"k" * 901, b""), f.put(b"k" * 900, b"v" * 103), f.put(b"k", b"v", keyspace=2),
                                    ("delete", {"txn": 900, "keyspace": 77, "key": b"k"})])  # fmt: skip
@pytest.mark.parametrize("ends", [(), (f.COMMIT,)])
def test_a_change_that_its_keyspace_cannot_take_is_corruption(change, ends):
    """It was the ValueError or the UsageError of a caller who had asked for it."""
    refused(f.told(f.database(filled), change, *ends), "a change that its keyspace cannot take")


@pytest.mark.parametrize("change", [
    f.put(b"k" * 901, b"v"),
    ("delete", {"txn": 900, "keyspace": 1, "key": b"k" * 901}),
    ("delete_range", {"txn": 900, "keyspace": 1, "key": b"a" * 901, "value": b"b"}),
    ("delete_range", {"txn": 900, "keyspace": 1, "key": b"a", "value": b"b" * 901}),
])  # fmt: skip
def test_a_key_longer_than_any_may_be_does_not_get_into_a_memtable(change):
    """Sorted tables and scans have room for the longest key there can be."""
    refused(f.told(f.database(filled, backend="lsm"), change, f.COMMIT), "a key longer than any may be")


@pytest.mark.parametrize("backend", ["btree", "lsm"])
@pytest.mark.parametrize("length", [0, (1 << 30) + 1])
def test_the_length_of_a_large_value_is_bounded(length, backend):
    """One of no length was the page store's ValueError."""
    chunk = "chunk", {"txn": 900, "a": 1, "b": length, "value": b""}
    link = "put_blob", {"txn": 900, "keyspace": 1, "a": 1, "b": length, "key": b"k"}
    refused(f.told(f.database(filled, backend=backend), chunk, link), "a large value longer than any may be")


@pytest.mark.parametrize("backend, read_only", [("btree", True), ("lsm", False), ("lsm", True)])
def test_memory_for_large_values_goes_by_what_the_log_holds(backend, read_only):
    """It was taken as the first of the chunks announced it: of many that announced a GiB, a MemoryError came."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(HERE)!r})
import fuzzhelp as f
added = []
for i in range(8):
    added.append(("chunk", {{"txn": 900, "a": i, "b": 1 << 30, "value": b"x" * 512}}))
added += [("put_blob", {{"txn": 900, "keyspace": 1, "a": i, "b": 1 << 30, "key": b"k"}}) for i in range(8) if {backend == "lsm"}]
pieces = f.told(f.database(lambda db, words: words.put(b"k", b"v"), backend={backend!r}), *added)
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
print(f.read_all(f.opened(pieces, read_only={read_only})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "{'words': {b'k': b'v'}}\n", done.stderr


@pytest.mark.parametrize("backend", ["btree", "lsm"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_large_value_is_as_long_as_its_chunks_say(backend, read_only):
    """Where the record that links it gave less than they had announced, what had been in that memory before was read as its end."""
    chunk = "chunk", {"txn": 900, "a": 1, "b": 5000, "value": b"x" * 512}
    link = "put_blob", {"txn": 900, "keyspace": 1, "a": 1, "b": 512, "key": b"k"}
    refused(f.told(f.database(filled, backend=backend), chunk, link, f.COMMIT), "chunks are missing", read_only=read_only)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_chunk_of_a_large_value_stays_within_its_blocks(read_only):
    """Each chunk was padded to whole blocks: those of a value in pieces of one byte ran over its end, into blocks of others."""
    chunks = [("chunk", {"txn": 900, "a": 1, "b": 512, "value": b"x"})] * 512
    link = "put_blob", {"txn": 900, "keyspace": 1, "a": 1, "b": 512, "key": b"k"}
    refused(f.told(f.database(filled), *chunks, link, f.COMMIT), "ends within a block", read_only=read_only)


# --- the catalogue -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [f.row(0), f.row(0, 1, bytes(24)), f.row(0xFFFFFF, 1, bytes(24))])
def test_a_row_of_the_catalogue_in_the_log_names_a_keyspace_that_can_be(row):
    """One that named the catalogue itself made it a keyspace to write to, or diverted its records to a tree that was not there."""
    refused(f.told(f.database(filled), f.put(b"evil", row, keyspace=0), f.COMMIT))


def test_a_keyspace_id_that_cannot_be_takes_no_memory():
    """The table of kinds grew to the id before anything had looked at it: four GiB, set to zero."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(HERE)!r})
import fuzzhelp as f, enginelib
pieces = f.told(f.database(), f.put(b"evil", f.row(0xFFFFFFFF, 1, bytes(24)), keyspace=0))
resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
try:
    f.opened(pieces)
except enginelib.CorruptionError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused\n", done.stderr


@pytest.mark.parametrize("options", [b"\7" + bytes(23), bytes(24)])
def test_the_options_of_an_lsm_tree_in_the_log_that_cannot_be_are_told(options):
    """Whatever kept a keyspace from being made again was a MemoryError."""
    refused(f.told(f.database(), f.put(b"evil", f.row(2, 1, options), keyspace=0), f.COMMIT), "the options of an LSM-tree")


def test_the_largest_number_of_keyspaces_there_can_have_been_is_no_hindrance():
    """A database whose ids were used up could not be opened; the table of keyspaces was set to zero to its end: 1.6 GiB."""
    code = f"""
import resource, sys
sys.path.insert(0, {str(HERE)!r})
import fuzzhelp as f, enginelib
pieces = f.database(lambda db, words: words.put(b"k", b"v"))
resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
db = f.opened(f.with_superblock(pieces, 80, 4, 1 << 24))
# Not ru_maxrss, which a process has from the one that started it.
most = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(f.read_all(db), most < 400000)
try:
    f.opened(f.with_superblock(pieces, 80, 4, (1 << 24) + 1))
except enginelib.CorruptionError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "{'words': {b'k': b'v'}} True\nrefused\n", done.stderr


@pytest.mark.parametrize("old, new", [
    (f.named(b"words", 1), f.named(b"w\xffrds", 1)),
    (f.named(b"words", 1), f.named(b"words", 1, 2)),
    (f.named(b"words", 1), f.named(b"words", 0)),
])  # fmt: skip
@pytest.mark.parametrize("read_only", [False, True])
def test_a_row_of_the_catalogue_on_a_page_is_looked_at(old, new, read_only):
    """Its name was decoded and its bytes were taken for an id whatever they were: UnicodeDecodeError, or a keyspace that is the catalogue."""
    pieces = f.with_bytes(f.database(filled), old, new)
    with pytest.raises(enginelib.CorruptionError):
        db = f.opened(pieces, read_only=read_only)
        with db.core_transaction(CoreTransaction, True) as txn:
            txn.catalog_row("words")
            txn.catalog_rows()


def test_a_name_of_no_length_on_a_page_is_corruption():
    """It was listed, and asking for it was a ValueError."""

    def work(db, words):
        words.put(b"", f.row(1))  # in a tree of its own; below it becomes the catalogue

    pieces = f.database(work)
    checkpoint = f.Checkpoint(pieces)
    by_id = {tree[0]: tree for tree in checkpoint.trees}
    by_id[0][1], by_id[1][1] = by_id[1][1], by_id[0][1]
    pieces = [(tag, owned(body, {by_id[0][1]: 0, by_id[1][1]: 1}) if tag in b"PQ" else body) for tag, body in checkpoint.put_back()]
    db = f.opened(pieces, read_only=True)
    with pytest.raises(enginelib.CorruptionError, match="the name of a keyspace"):
        db.keyspace_rows()


OWNER = 20  # in a page's header: whose it is


def owned(body, owners):
    """A page's piece, belonging to another tree."""
    pid = f.p.field(body, 0, 8)
    return body if pid not in owners else body[: 20 + OWNER] + owners[pid].to_bytes(4, "little") + body[20 + OWNER + 4 :]


def test_a_row_that_is_none_drops_no_keyspace():
    """A row that recovery replaced was taken for an id unseen; a keyspace that the file holds was gone."""

    def work(db, words):
        filled(db, words)
        db.core_keyspace(CoreKeyspace, "other").put(b"k", b"v")

    # The page's row of "words" speaks of "other" and of a back end that does not exist; the log then deletes it.
    pieces = f.with_bytes(f.database(work), f.named(b"words", 1), f.named(b"words", 2, 2))
    for ends in ((f.COMMIT,), (("abort", {"txn": 900}), f.put(b"", b"", txn=901), ("commit", {"txn": 901, "a": 901, "b": 1}))):
        deleted = f.told(pieces, ("delete", {"txn": 900, "keyspace": 0, "key": b"words"}), *ends)
        db = f.opened(deleted, read_only=True)
        with db.core_transaction(CoreTransaction, True) as txn:
            assert dict(txn.scan(db.core_keyspace(CoreKeyspace, "other", False))) == {b"k": b"v"}


def two_names(db, words):
    filled(db, words)
    db.core_keyspace(CoreKeyspace, "twice").put(b"k", b"v")


@pytest.mark.parametrize("collected", [False, True])
def test_a_keyspace_with_two_names_can_be_dropped_by_both(collected):
    """The second drop counted a tree again that was gone, or let go of it again: a null pointer."""
    db = f.opened(f.with_bytes(f.database(two_names), f.named(b"twice", 2), f.named(b"twice", 1)))
    db.drop_keyspace("words")
    if collected:
        db.step("gc")
    db.drop_keyspace("twice")
    db.step("gc")
    assert f.read_all(db) == {}
    db.checkpoint()
    db.close()


@pytest.mark.parametrize("ends", [(), (f.COMMIT,), (("rollback", {"txn": 900, "a": 1 << 40}), f.COMMIT), (("abort", {"txn": 900}),)])
def test_a_drop_in_the_log_of_a_keyspace_that_is_not_there_is_harmless(ends):
    """Its tree was to be let go of: a null pointer."""
    pieces = f.with_bytes(f.database(filled), f.named(b"words", 1), f.named(b"words", 5))
    pieces = f.with_superblock(pieces, 80, 4, 9)
    db = f.opened(f.told(pieces, ("delete", {"txn": 900, "keyspace": 0, "key": b"words"}), *ends))
    db.step("gc")
    db.checkpoint()
    db.close()


# --- the checkpoint record ---------------------------------------------------------------------------------------------


def flight_of(pieces=None):
    checkpoint = f.Checkpoint(pieces or f.database(in_flight))
    assert len(checkpoint.flights) == 1
    return checkpoint, checkpoint.flights[0]


def test_a_transaction_in_flight_put_back_as_it_was_is_undone():
    """That these tests change one thing, not several."""
    checkpoint, _ = flight_of()
    assert checkpoint.put_back() == checkpoint.pieces
    db = f.opened(checkpoint.put_back())
    assert f.read_all(db) == {"words": {b"k%02d" % i: b"v%d" % i for i in range(20)}}


@pytest.mark.parametrize("image", [
    (0, 1, 0, b"k00", b"v0"),
    (1, 2, 0, b"k00", b"v0"),
    (1, 1, 0, b"k" * 901, b""),
    (1, 1, 0, b"k" * 900, b"v" * 103),
    (1, 0, 0, b"words", f.row(0)),
    (1, 0, 0, b"words", b"\1"),
])  # fmt: skip
def test_before_images_of_the_checkpoint_are_bounded(image):
    """A key or value too long for a page was a ValueError; a keyspace that had no tree, and an LSN of 0, below which nothing is undone and
    after which the image's memory went to others while the table still led to it, were taken as they were."""
    checkpoint, flight = flight_of()
    flight.images.append(image)
    pieces = f.with_superblock(checkpoint.put_back(), 80, 4, 3)
    refused(pieces, "cut short or malformed")


def test_an_abort_under_way_goes_to_its_end():
    """One said to stop at an LSN left before-images in the table that were nobody's."""
    checkpoint, flight = flight_of()
    flight.state, flight.undo_to = 1, flight.images[-1][0]
    refused(checkpoint.put_back(), "cut short or malformed")


@pytest.mark.parametrize("id", [0, 1 << 62, (1 << 64) - 1])
def test_transactions_of_the_checkpoint_have_numbers_that_can_be(id):
    """As in the log."""
    checkpoint, flight = flight_of()
    flight.id = id
    refused(checkpoint.put_back(), "cut short or malformed")


def test_a_ghost_of_the_checkpoint_with_a_key_that_cannot_be_is_corruption():
    """It was a ValueError."""
    checkpoint, _ = flight_of()
    checkpoint.ghosts.append((1, b"k" * 901))
    refused(checkpoint.put_back(), "a key longer than any may be")


def test_the_catalogue_is_a_b_tree():
    """One that the checkpoint said was an LSM-tree was used as a B-tree."""
    checkpoint, _ = flight_of()
    out = bytearray(f.p.put_varint(2) + f.p.put_varint(checkpoint.read_from) + f.p.put_varint(1))
    out += bytes((0, 0, 1)) + LSM_OPTIONS + bytes((5, 1, 0, 1, 0, 0)) + bytes((1, 0, 0, 0)) + bytes(3)
    pieces = [(tag, bytes(out) if tag == ord("M") else body) for tag, body in checkpoint.pieces]
    refused(pieces, "no catalogue")


LSM_OPTIONS = bytes((0, 0, 10, 0)) + (1 << 10).to_bytes(4, "little") + (1 << 20).to_bytes(8, "little") + bytes(8)


def creating(db, words):
    """Leaves a transaction under way that has made a keyspace."""
    filled(db, words)
    txn = db.core_transaction(CoreTransaction)
    txn.put(words, b"k00", b"changed")
    txn.create_keyspace(CoreKeyspace, "made")
    return txn


def test_a_keyspace_of_a_transaction_in_flight_goes_with_it():
    """Where only the tree's own entry said who had made it, the rollback left it, with a creator whose structure served others by then."""
    checkpoint, flight = flight_of(f.database(creating))
    flight.images = [image for image in flight.images if image[1] != 0]
    flight.catalog = 0
    tree = next(tree for tree in checkpoint.trees if tree[3])
    assert tree[3] == flight.id
    tree[5] = 0
    vfs = f.files_of(checkpoint.put_back())
    db = f.CoreDatabase("/db", vfs=vfs, **f.OPTIONS)
    db.step("gc")
    db.checkpoint()
    db.close()
    assert [tree[0] for tree in f.Checkpoint(f.taken(vfs)).trees] == [0, 1]


def test_a_tree_that_is_going_already_is_not_counted_again():
    """Its creator's rollback let go of it a second time: a null pointer at the next look."""
    checkpoint, flight = flight_of(f.database(creating))
    next(tree for tree in checkpoint.trees if tree[3])[2] = 2
    db = f.opened(checkpoint.put_back())
    assert db.stats()["transactions"] is not None
    db.step("gc")
    db.checkpoint()
    db.close()


# --- large values ------------------------------------------------------------------------------------------------------


def with_large(db, words):
    with db.core_transaction(CoreTransaction) as txn:
        txn.put_many(words, [(b"a", b"small" * 20), (b"large", b"large" * 500)])


def with_reference(pid=None, length=2500):
    """A database whose leaf leads to that large value."""
    pieces = f.database(with_large)
    reference = next(body for tag, body in pieces if tag == ord("P") and b"large" in body and b"small" in body)
    at = reference.index((2500).to_bytes(8, "little"))
    old = reference[at - 8 : at + 8]
    return f.with_bytes(pieces, old, (pid.to_bytes(8, "little") if pid else old[:8]) + length.to_bytes(8, "little"))


@pytest.mark.parametrize("length", [(1 << 30) + 1, (1 << 63) - 1, (1 << 64) - 1])
def test_the_length_of_a_large_value_on_a_page_is_bounded(length):
    """One beyond the largest was a ValueError in reading and a MemoryError in verify."""
    db = f.opened(with_reference(length=length))
    words = db.core_keyspace(CoreKeyspace, "words", False)
    with pytest.raises(enginelib.CorruptionError, match="a large value longer than any may be"):
        words.get(b"large")
    findings, _ = db.verify()
    assert any("a large value longer than any may be" in finding["what"] for finding in findings)


def test_a_page_may_not_give_a_length_to_a_large_value_in_the_log():
    """A read-only opening keeps in memory what the log holds: a page that named its number in advance read on behind it."""
    pieces = f.database(with_large)
    following = f.p.field(next(body for tag, body in pieces if tag == ord("S")), 128, 8)
    chunk = "chunk", {"txn": 900, "a": 1, "b": 600, "value": b"x" * 600}
    link = "put_blob", {"txn": 900, "keyspace": 1, "a": 1, "b": 600, "key": b"k"}
    db = f.opened(f.told(with_reference(following, 1 << 24), chunk, link, f.COMMIT), read_only=True)
    words = db.core_keyspace(CoreKeyspace, "words", False)
    assert words.get(b"k") == b"x" * 600
    with pytest.raises(enginelib.CorruptionError, match="its length contradicts the page"):
        words.get(b"large")


def blocks(work, times=60):
    """Python's objects that each of so many runs leaves behind, about."""

    def several(n):
        for _ in range(n):
            work()
        gc.collect()
        return sys.getallocatedblocks()

    several(10)
    before = several(10)
    return (several(times) - before) / times


def unreadable_large():
    """A database whose large value has another checksum."""
    pieces = f.database(with_large)
    i = next(i for i, (tag, body) in enumerate(pieces) if tag == ord("P") and body[20:].startswith(b"largelarge"))
    vfs = f.files_of(pieces)
    content = vfs.files(durable=False)["/db/pages.dat"]
    vfs.corrupt("/db/pages.dat", content.index(pieces[i][1][20:500]), 1)
    db = f.CoreDatabase("/db", vfs=vfs, **f.OPTIONS)
    return db, db.core_keyspace(CoreKeyspace, "words", False)


@pytest.mark.parametrize("keys", [True, False])
def test_a_scan_that_fails_at_a_large_value_keeps_nothing(keys):
    """The key that had been fetched stayed in memory."""
    db, words = unreadable_large()

    def work():
        with db.core_transaction(CoreTransaction, True) as txn, pytest.raises(enginelib.CorruptionError):
            list(txn.scan(words, start=b"b", keys=keys))

    assert blocks(work) < 0.5


def test_a_batch_that_fails_at_a_large_value_keeps_nothing():
    """The values that had been fetched stayed in memory."""
    db, words = unreadable_large()

    def work():
        with db.core_transaction(CoreTransaction, True) as txn, pytest.raises(enginelib.CorruptionError):
            txn.get_many(words, [b"large", b"a"])

    assert blocks(work) < 0.5


# --- memory ------------------------------------------------------------------------------------------------------------


class MallInfo(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(7)] + [("uordblks", ctypes.c_size_t)] + [(f"more{i}", ctypes.c_size_t) for i in range(2)]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library does not tell what is allocated")
def test_an_opening_that_fails_gives_back_its_transactions():
    """Those of the checkpoint record, and those that recovery had begun, were kept for ever."""
    asked = ctypes.CDLL(None).mallinfo2
    asked.restype = MallInfo
    pieces = f.told(f.database(in_flight), f.put(b"k05", b"changed"),
                    ("put_blob", {"txn": 900, "keyspace": 1, "a": 1, "b": 5000, "key": b"k"}))

    def several(n):
        for _ in range(n):
            refused(pieces)
        gc.collect()
        return asked().uordblks

    several(20)
    before = several(20)
    assert (several(100) - before) / 100 < 500


def test_records_survive_decoding_and_encoding():
    """What the pieces of these databases rest on."""
    for _, fields in f.records(f.database(filled, in_flight)):
        kind, txn, keyspace, a, b, key, value = fields
        body = encode(kind, txn=txn or 0, keyspace=keyspace or 0, a=a or 0, b=b or 0, key=key or b"", value=value or b"")
        assert decode(body)[0][1:] == fields
