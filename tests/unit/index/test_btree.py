"""The B-tree against a sorted dictionary: whatever was put is found, in order, and the tree passes its own check."""
import random
import struct

import pytest
from enginelib._native.index.treedoor import BTreeDoor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from sortedcontainers import SortedDict

from enginelib.errors import CorruptionError

GHOST, BLOB = 0x8000, 0x4000
SMALL = 32 * 4400                      # 32 frames of 4 KiB
ORDERS = ["ascending", "descending", "random"]


def sound(door, model=None):
    report, findings = door.check()
    assert findings == []
    if model is not None:
        assert report["keys"] + report["ghosts"] == len(model)
    return report


def agrees(door, model):
    """Scans, finds and seeks tell what the model tells."""
    report = sound(door, model)
    assert [(k, (f, v)) for k, f, v in door.scan()] == sorted(model.items())
    assert [(k, (f, v)) for k, f, v in door.scan(reverse=True)] == sorted(model.items(), reverse=True)
    return report


def ordered(keys, order, seed=1):
    keys = sorted(keys, reverse=order == "descending")
    if order == "random":
        random.Random(seed).shuffle(keys)
    return keys


def fill_of(report):
    """How full the leaves are."""
    return report["bytes_used"][0] / (report["pages"][0] * (report["page_size"] - 48))


# --- single claims ---------------------------------------------------------------------------------------------------

def test_a_new_tree_is_empty():
    door = BTreeDoor()
    assert door.get(b"") is None
    assert door.scan() == []
    assert not door.remove(b"k")
    for mode in "ge", "gt", "le", "lt":
        assert door.seek(None, mode) is None
        assert door.seek(b"k", mode) is None
    assert sound(door)["pages"] == [1]


def test_the_empty_key_is_a_key():
    door = BTreeDoor()
    assert not door.put(b"", b"nothing")
    assert not door.put(b"\0", b"zero")
    assert door.get(b"") == (0, b"nothing")
    assert door.put(b"", b"")
    assert door.get(b"") == (0, b"")
    assert door.scan() == [(b"", 0, b""), (b"\0", 0, b"zero")]
    assert door.remove(b"")
    assert door.get(b"") is None


@pytest.mark.parametrize("page_size, max_key, max_inline", [(4096, 900, 1002), (8192, 2000, 2026), (32768, 8100, 8170)])
def test_the_longest_records_are_taken_and_longer_ones_refused(page_size, max_key, max_inline):
    door = BTreeDoor(page_size)
    assert (door.tree.max_key, door.tree.max_inline) == (max_key, max_inline)
    door.put(b"k" * max_key, b"v" * (max_inline - max_key))
    door.put(b"k", b"v" * (max_inline - 1))
    with pytest.raises(Exception):  # noqa: B017
        door.put(b"k" * (max_key + 1), b"")
    with pytest.raises(Exception):  # noqa: B017
        door.put(b"k", b"v" * max_inline)
    assert len(door.scan()) == 2
    sound(door)


@pytest.mark.parametrize("page_size", [4096, 8192, 32768])
def test_any_mix_of_longest_and_shortest_records_can_be_divided(page_size):
    rng = random.Random(page_size)
    door = BTreeDoor(page_size, cache_bytes=64 << 20)
    top, inline = door.tree.max_key, door.tree.max_inline
    model = {}
    for _ in range(600):
        stem = rng.choice([b"a", b"b", b"\0", b"\xff"]) * rng.choice([0, 1, top // 2, top - 2])
        key = (stem + rng.randbytes(rng.randrange(0, 3)))[:top]
        value = bytes(rng.choice([0, 1, 16, inline - len(key)])) if len(key) <= inline else b""
        value = value[:inline - len(key)]
        door.put(key, value)
        model[key] = (0, value)
    agrees(door, model)
    for key in ordered(model, "random"):
        assert door.remove(key)
    assert sound(door)["pages"] == [1]


@pytest.mark.parametrize("order", ORDERS)
def test_loads_in_any_order_hold_65536_entries(order):
    door = BTreeDoor(4096, cache_bytes=64 << 20)
    keys = [struct.pack(">I", i * 7) for i in range(65536)]
    for key in ordered(keys, order):
        door.put(key, key[::-1])
    report = sound(door)
    assert report["keys"] == 65536
    assert door.scan() == [(k, 0, k[::-1]) for k in keys]
    assert door.scan(True) == [(k, 0, k[::-1]) for k in reversed(keys)]
    assert all(door.get(k) == (0, k[::-1]) for k in keys[::97])
    assert all(door.get(k + b"\0") is None for k in keys[::97])
    assert fill_of(report) > (0.85 if order != "random" else 0.6)      # the prefix found when a page is full leaves some room


def test_an_ordered_load_in_the_middle_of_a_tree_fills_its_pages():
    door = BTreeDoor(4096, cache_bytes=64 << 20)
    rng = random.Random(3)
    for _ in range(2000):
        door.put(b"a" + rng.randbytes(8), b"v" * 20)
        door.put(b"z" + rng.randbytes(8), b"v" * 20)
    before = sound(door)
    for i in range(20000):
        door.put(b"m%08d" % i, b"v" * 20)
    after = sound(door)
    added = after["bytes_used"][0] - before["bytes_used"][0]
    pages = after["pages"][0] - before["pages"][0]
    assert added / pages / (4096 - 48) > 0.8


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("load", ORDERS)
def test_deleting_all_leaves_one_empty_leaf_and_frees_every_other_page(load, order):
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    keys = [b"%06d" % i for i in range(4000)]
    for key in ordered(keys, load):
        door.put(key, b"v" * 50)
    left = set(keys)
    for i, key in enumerate(ordered(keys, order, 2)):
        assert door.remove(key)
        assert not door.remove(key)
        left.discard(key)
        if i % 500 == 0:
            sound(door, left)
    report = sound(door)
    assert report["pages"] == [1]
    door.checkpoint()
    assert door.check_store(report["pids"]) == []


def test_a_tree_half_emptied_at_random_keeps_its_pages_a_quarter_full():
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    keys = ordered([b"%06d" % i for i in range(8000)], "random")
    for key in keys:
        door.put(key, b"v" * 50)
    for key in keys[:7000]:
        door.remove(key)
    assert fill_of(sound(door)) > 0.3


def test_a_queue_does_not_grow():
    """Put at the end, removed at the front: emptied leaves go, also under fences that share nothing."""
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    for i in range(20000):
        door.put(b"%08d" % i, b"v" * 60)
        if i >= 500:
            assert door.remove(b"%08d" % (i - 500))
    report = sound(door)
    assert report["keys"] == 500
    assert sum(report["pages"]) < 25


def test_keys_with_equal_heads_and_long_common_starts_are_told_apart():
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    model = {}
    stem = b"s" * 500
    for i in range(300):
        for key in (stem + b"%d" % i, stem[:i], b"head" + b"\0" * i, b"head" + b"\0" * i + b"\1"):
            value = b"%d" % len(key)
            door.put(key, value)
            model[key] = (0, value)
    agrees(door, model)
    for key in model:
        assert door.get(key) == model[key]


def test_separators_are_cut_to_the_shortest_that_divide():
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    rng = random.Random(9)
    for _ in range(3000):
        door.put(rng.randbytes(4) + b"a tail that no separator needs, however long it may be" * 3, b"")
    separators = [r[0] for r in door.records(door.tree.root)]
    assert separators
    assert max(map(len, separators)) <= 3


def test_values_shrink_and_grow_in_place():
    door = BTreeDoor(4096)
    model = {}
    rng = random.Random(4)
    for i in range(5000):
        key = b"%02d" % rng.randrange(60)
        model[key] = (0, rng.randbytes(rng.choice([0, 5, 50, 500, 990])))
        door.put(key, model[key][1])
        if i % 500 == 0:
            agrees(door, model)
    agrees(door, model)


def test_a_ghost_is_an_ordinary_cell_that_a_put_replaces():
    door = BTreeDoor(4096)
    door.put(b"k", b"value")
    assert door.put(b"k", b"", GHOST)
    assert door.get(b"k") == (GHOST, b"")
    assert sound(door)["ghosts"] == 1
    assert door.put(b"k", b"back")
    assert door.get(b"k") == (0, b"back")


@pytest.mark.parametrize("mode", ["ge", "gt", "le", "lt"])
def test_seek_finds_the_neighbour_across_leaves(mode):
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    keys = SortedDict((b"%05d" % (2 * i), None) for i in range(3000))
    for key in keys:
        door.put(key, b"v" * 30)
    for i in range(-1, 6003):
        probe = b"%05d" % i if i >= 0 else b""
        at = {"ge": keys.bisect_left(probe), "gt": keys.bisect_right(probe),
              "le": keys.bisect_right(probe) - 1, "lt": keys.bisect_left(probe) - 1}[mode]
        expected = keys.peekitem(at)[0] if 0 <= at < len(keys) else None
        got = door.seek(probe, mode)
        assert (got and got[0]) == expected
    end = door.seek(None, mode)
    assert end[0] == (keys.peekitem(0) if mode[0] == "g" else keys.peekitem(-1))[0]


def test_empty_leaves_are_stepped_over():
    """A leaf whose neighbours have no room for its fences stays, empty; scans and seeks do not stop there."""
    door = BTreeDoor(4096, cache_bytes=SMALL)
    keys = [b"%05d" % i for i in range(6000)]
    for key in keys:
        door.put(key, b"v" * 40)
    door.checkpoint()
    door.fresh_pool()                       # neighbours are not resident: nothing is joined
    for key in keys[1000:5000]:
        assert door.remove(key)
    left = keys[:1000] + keys[5000:]
    assert [r[0] for r in door.scan()] == left
    assert [r[0] for r in door.scan(True)] == left[::-1]
    assert door.seek(b"03000", "ge")[0] == b"05000"
    assert door.seek(b"03000", "le")[0] == b"00999"
    sound(door, left)


@pytest.mark.parametrize("n", [0, 1, 2, 31, 32])
def test_find_many_tells_what_single_finds_tell(n):
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    rng = random.Random(n)
    keys = [rng.randbytes(rng.randrange(0, 5)) for _ in range(20000)]
    for key in keys:
        door.put(key, key * 2)
    for _ in range(50):
        batch = [rng.choice(keys) if rng.random() < 0.7 else rng.randbytes(4) for _ in range(n)]
        assert door.get_many(batch) == [door.get(k) for k in batch]


def test_find_many_works_in_the_smallest_cache():
    door = BTreeDoor(4096, cache_bytes=SMALL)
    keys = [b"%06d" % i for i in range(20000)]
    for key in keys:
        door.put(key, key)
    rng = random.Random(1)
    n = door.tree.max_batch
    assert 1 <= n < 32
    for _ in range(300):
        batch = [rng.choice(keys) for _ in range(n)]
        assert door.get_many(batch) == [(0, k) for k in batch]


@pytest.mark.parametrize("n", [0, 5, 700, 40000])
def test_the_leaves_of_keys_are_told_without_bringing_them_in(n):
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    keys = [b"%06d" % (i * 7) * 20 for i in range(n)]
    for key in keys:
        door.put(key, key)
    door.checkpoint()
    door.fresh_pool()
    wanted = [*random.Random(n).sample(keys, min(n, 20)), b"", b"000003", b"9"]
    leaves = door.leaves(wanted)
    if n <= 5:
        assert leaves is None
        return
    assert not any(door.page(pid) for pid in leaves)
    for key, pid in zip(wanted, leaves, strict=True):
        door.get(key)
        assert door.page(pid)
        assert key not in keys or key in [row[0] for row in door.records(pid)]


def test_a_damaged_page_is_not_looked_for_as_long_as_others_free_pages():
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    keys = [b"%06d" % i for i in range(3000)]
    for key in keys:
        door.put(key, b"value of " + key)
    door.checkpoint()
    door.fresh_pool()
    door.gone_meanwhile = 1
    assert door.get(keys[5]) == (0, b"value of " + keys[5])
    file = door.vfs.py_open("pages.dat", 2)
    content = door.vfs.py_read(file, door.vfs.py_size(file), 0)
    door.vfs.py_write(file, b"V", content.rindex(b"value of " + keys[2500]))
    with pytest.raises(CorruptionError):
        door.get(keys[2500])
    assert door.get(keys[5]) == (0, b"value of " + keys[5])


def test_a_tree_far_larger_than_the_cache_is_read_changed_and_emptied():
    door = BTreeDoor(4096, cache_bytes=SMALL)
    assert door.pool.frame_count == 32
    rng = random.Random(11)
    model = {}
    for _ in range(12000):
        key = b"%05d" % rng.randrange(20000)
        value = rng.randbytes(rng.randrange(120))
        door.put(key, value)
        model[key] = (0, value)
    assert door.pool.evictions > 1000
    agrees(door, model)
    for i, key in enumerate(ordered(model, "random")):
        assert door.get(key) == model[key]
        assert door.remove(key)
        if i % 3000 == 0:
            sound(door)
    report = sound(door)
    assert report["keys"] == 0


# --- marks and checkpoints -------------------------------------------------------------------------------------------

def test_a_change_raises_its_leafs_mark_and_never_lowers_it():
    door = BTreeDoor(4096)
    door.mark = 10
    door.put(b"k", b"v")
    assert door.leaf_mark(b"k") == 10
    door.mark = 5
    door.put(b"j", b"v")
    assert door.leaf_mark(b"k") == 10
    door.mark = 12
    door.remove(b"j")
    assert door.leaf_mark(b"k") == 12


def test_divided_leaves_both_keep_the_mark_and_joined_ones_take_the_greater():
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    door.mark = 50
    keys = [b"%04d" % i for i in range(2000)]
    door.put(keys[0], b"v" * 30)
    door.mark = 1
    for key in keys:
        door.put(key, b"v" * 30)
    assert all(door.leaf_mark(k) == 50 for k in keys)
    door.mark = 99
    door.put(keys[1000], b"w")
    assert door.leaf_mark(keys[0]) == 50
    assert door.leaf_mark(keys[1000]) == 99
    door.mark = 2
    for key in keys[1:]:
        if key != keys[1000]:
            door.remove(key)
    assert sound(door)["pages"] == [1]
    assert door.leaf_mark(keys[1000]) == 99


@pytest.mark.parametrize("cache", [SMALL, 16 << 20])
def test_changes_while_an_image_is_frozen_do_not_reach_it(cache):
    door = BTreeDoor(4096, cache_bytes=cache)
    rng = random.Random(cache)
    model = {}
    for _ in range(6):
        for _ in range(600):
            key = b"%04d" % rng.randrange(3000)
            if rng.random() < 0.6:
                model[key] = (0, rng.randbytes(rng.randrange(60)))
                door.put(key, model[key][1])
            else:
                assert door.remove(key) == (model.pop(key, None) is not None)
        image = dict(model)
        door.freeze()
        for _ in range(400):
            key = b"%04d" % rng.randrange(3000)
            if rng.random() < 0.5:
                model[key] = (0, b"later" * 10)
                door.put(key, model[key][1])
            else:
                assert door.remove(key) == (model.pop(key, None) is not None)
        agrees(door, model)
        door.publish()
        copy = BTreeDoor(4096, vfs=door.vfs, root=door.tree.root)
        agrees(copy, image)
        copy.close()
    agrees(door, model)


# --- destroying ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("cache", [SMALL, 16 << 20])
@pytest.mark.parametrize("budget", [1, 7, 100000])
def test_destroying_frees_every_page_and_blob(cache, budget):
    door = BTreeDoor(4096, cache_bytes=cache)
    for i in range(3000):
        door.put(b"%05d" % i, b"v" * 50)
    for i in range(0, 3000, 100):
        door.put_blob(b"%05d" % i, b"blob" * 1000)
    assert sound(door)["blobs"] == 30
    steps = 1
    while not door.destroy(budget):
        steps += 1
    assert steps >= 50 // budget
    assert door.destroy(1)
    door.checkpoint()
    assert door.check_store(set()) == []


def test_destroying_goes_on_after_any_checkpoint_and_a_crash():
    door = BTreeDoor(4096, cache_bytes=16 << 20)
    for i in range(4000):
        door.put(b"%05d" % i, b"v" * 100)
    door.put_blob(b"00001", b"blob" * 1000)
    root = door.tree.root
    while not door.destroy(3):
        door.checkpoint()
        door.destroy(2)                     # lost in the crash
        again = BTreeDoor(4096, vfs=door.vfs, root=root)
        while not again.destroy(50):
            pass
        report = {n for n in range(1, again.store.next_pid) if again.page(n) is not None}
        assert report == set()
        again.close()
    door.checkpoint()
    assert door.check_store(set()) == []


def test_destroying_leaves_a_root_alone_that_belongs_to_another_tree_now():
    door = BTreeDoor(4096, keyspace=5)
    door.put(b"k", b"v")
    other = BTreeDoor.__new__(BTreeDoor)
    del other
    door.checkpoint()
    stranger = BTreeDoor(4096, vfs=door.vfs, root=door.tree.root, keyspace=6)
    assert stranger.destroy(10)
    assert door.get(b"k") == (0, b"v")


# --- blobs -----------------------------------------------------------------------------------------------------------

def test_the_check_reads_blobs_and_counts_them():
    door = BTreeDoor(4096)
    pid = door.put_blob(b"k", b"data" * 5000)
    flags, ref = door.get(b"k")
    assert (flags, struct.unpack("<QQ", ref)) == (BLOB, (pid, 20000))
    report = sound(door)
    assert (report["blobs"], report["blob_bytes"]) == (1, 20000)
    assert pid in report["pids"]


def test_the_check_finds_references_to_blobs_that_are_not_there_or_shared():
    door = BTreeDoor(4096)
    door.put(b"k", struct.pack("<QQ", 4000, 10), BLOB)
    pid = door.put_blob(b"a", b"data")
    door.put(b"b", struct.pack("<QQ", pid, 4), BLOB)
    _, findings = door.check(False)
    text = " ".join(f["what"] for f in findings)
    assert "does not exist" in text and "used twice" in text


# --- the model -------------------------------------------------------------------------------------------------------

key_strategy = st.one_of(
    st.binary(max_size=3),
    st.lists(st.sampled_from([b"\0", b"a", b"abcd", b"\xff"]), max_size=5).map(b"".join),
    st.tuples(st.sampled_from([b"p" * 60, b"p" * 400, b"q" * 890]), st.binary(max_size=3)).map(b"".join),
    st.integers(0, 400).map(lambda n: b"key%05d" % n),
)


class TreeModel(RuleBasedStateMachine):
    """A tree in a pool of 32 frames (or a comfortable one) and a SortedDict, side by side."""

    keys = Bundle("keys")

    @initialize(cache=st.sampled_from([SMALL, 4 << 20]), page_size=st.sampled_from([4096, 8192]))
    def start(self, cache, page_size):
        self.door = BTreeDoor(page_size, cache_bytes=cache)
        self.model = SortedDict()
        self.frozen = False

    @rule(target=keys, key=key_strategy, n=st.sampled_from([0, 1, 30, 100, 99999]))
    def put(self, key, n):
        value = b"v" * min(n, self.door.tree.max_inline - len(key))
        assert self.door.put(key, value) == (key in self.model)
        self.model[key] = (0, value)
        return key

    @rule(key=keys, n=st.integers(0, 99))
    def replace(self, key, n):
        assert self.door.put(key, b"r" * n) == (key in self.model)
        self.model[key] = (0, b"r" * n)

    @rule(key=keys)
    def ghost(self, key):
        assert self.door.put(key, b"", GHOST) == (key in self.model)
        self.model[key] = (GHOST, b"")

    @rule(key=consumes(keys))
    def remove(self, key):
        assert self.door.remove(key) == (self.model.pop(key, None) is not None)

    @rule(start=st.integers(0, 10000), n=st.integers(50, 400), step=st.sampled_from([1, -1, 17]), size=st.integers(0, 90))
    def put_run(self, start, n, step, size):
        for i in range(n):
            key = b"run%06d" % ((start + i * step) % 10000)
            self.door.put(key, b"x" * size)
            self.model[key] = (0, b"x" * size)

    @rule(start=st.integers(0, 10000), n=st.integers(1, 3000))
    def remove_run(self, start, n):
        doomed = list(self.model.irange(b"run%06d" % start, b"run%06d" % (start + n)))
        for key in doomed:
            assert self.door.remove(key)
            del self.model[key]

    @rule(key=key_strategy, mode=st.sampled_from(["ge", "gt", "le", "lt"]))
    def seek(self, key, mode):
        at = {"ge": self.model.bisect_left(key), "gt": self.model.bisect_right(key),
              "le": self.model.bisect_right(key) - 1, "lt": self.model.bisect_left(key) - 1}[mode]
        expected = self.model.peekitem(at) if 0 <= at < len(self.model) else None
        got = self.door.seek(key, mode)
        assert (got and (got[0], got[1:])) == expected

    @rule(keys=st.lists(key_strategy, max_size=4))
    def find_many(self, keys):
        keys = keys[:self.door.tree.max_batch]
        assert self.door.get_many(keys) == [self.model.get(k) for k in keys]

    @rule(key=key_strategy)
    def get(self, key):
        assert self.door.get(key) == self.model.get(key)

    @precondition(lambda self: not self.frozen)
    @rule()
    def freeze(self):
        self.door.freeze()
        self.image = dict(self.model)
        self.frozen = True

    @precondition(lambda self: self.frozen)
    @rule()
    def publish(self):
        self.door.publish()
        self.frozen = False
        copy = BTreeDoor(self.door.store.page_size, vfs=self.door.vfs, root=self.door.tree.root)
        agrees(copy, self.image)
        copy.close()

    @invariant()
    def agree(self):
        if hasattr(self, "door"):
            agrees(self.door, self.model)


TestTreeModel = TreeModel.TestCase
TestTreeModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None,
                                  suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(key_strategy, st.integers(0, 500)), max_size=200), st.randoms(use_true_random=False))
def test_whatever_the_order_of_puts_and_removes_the_tree_equals_its_model(pairs, rng):
    door = BTreeDoor(4096, cache_bytes=SMALL)
    model = {}
    for key, n in pairs:
        value = b"v" * min(n, 1002 - len(key))
        door.put(key, value)
        model[key] = (0, value)
    agrees(door, model)
    doomed = list(model)
    rng.shuffle(doomed)
    for key in doomed:
        assert door.remove(key)
        del model[key]
    agrees(door, model)
