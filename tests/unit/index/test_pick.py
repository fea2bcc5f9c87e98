"""What is compacted next: never so that something older ends up above something newer, and never for ever."""
import random

import pytest
from enginelib._native.index.lsmdoor import TreeDoor

TABLE = 1 << 20
LAST = 7
RUNS_COMPACT = 4
RUNS_FULL = 8  # runs of any size
RUNS_BYTES = 6  # tables' worth of them


def name(n):
    return b"%06d" % n


class Tree:
    """Tables by their figures, in a tree and beside it."""

    def __init__(self, style="leveled"):
        self.door = TreeDoor(style=style, table_size=TABLE)
        self.files = {}  # number -> (level, low, high, bytes, newest timestamp); high None: no upper end
        self.clock = 0
        self.number = 0

    def added(self, level, low, high, size, ts=None, **more):
        self.clock += 1
        self.number += 1
        ts = ts or self.clock
        self.files[self.number] = (level, low, high, size, ts)
        figures = {"smallest": name(low), "largest": name(high if high is not None else low), "file_bytes": size,
                   "newest_ts": ts, "oldest_ts": 1, "entries": 10, **more}  # fmt: skip
        if high is None:
            figures |= {"unbounded": True, "range_tombstones": 1}
        return level, self.number, figures

    def add(self, *args, **more):
        self.door.edit([], [self.added(*args, **more)])
        return self.number

    def older(self, a, b):
        """Whether file a lies below file b."""
        if self.files[a][0] == self.files[b][0] == 0:
            return (self.files[a][4], a) < (self.files[b][4], b)
        return self.files[a][0] > self.files[b][0]

    def span(self, numbers):
        lows = [self.files[n][1] for n in numbers]
        highs = [self.files[n][2] for n in numbers]
        return min(lows), None if None in highs else max(highs)

    def meets(self, number, span):
        _, low, high, _, _ = self.files[number]
        return (span[1] is None or low <= span[1]) and (high is None or high >= span[0])

    def check(self, pick):
        """No law is broken when these inputs become tables of the level `to`."""
        inputs, to = pick["inputs"], pick["to"]
        numbers = [n for _, n in inputs]
        assert numbers and len(set(numbers)) == len(numbers)
        assert all(self.files[n][0] == level for level, n in inputs)
        runs = self.door.levels().get(0, [])
        order = [(level, runs.index(n) if level == 0 else 0) for level, n in inputs]
        assert order == sorted(order)  # the newer first, for equal keys
        rest = [n for n in self.files if n not in numbers]
        whole = self.span(numbers)
        for g in rest:
            if to and self.files[g][0] == to:
                assert not self.meets(g, whole), "the level would hold tables that overlap"
            for f in numbers:
                if self.meets(g, self.span([f])) and self.older(g, f):
                    # Runs of level 0 are ordered by their newest timestamp: the result stands where the newest input stood.
                    assert self.files[g][0] > to or (to == 0 and all(self.older(g, n) for n in numbers)), "an older table is not below"
            if pick["bottom"] and not pick["trivial"]:
                assert not (self.meets(g, whole) and self.older(g, numbers[-1])), "something older is left"
        if pick["trivial"]:
            assert len(numbers) == 1 and self.files[numbers[0]][0] != to

    def apply(self, pick):
        """As if it had been done: the same bytes, in tables of the level's size."""
        numbers = [n for _, n in pick["inputs"]]
        removed = [(self.files[n][0], n) for n in numbers]
        low, high = self.span(numbers)
        size = sum(self.files[n][3] for n in numbers)
        ts = max(self.files[n][4] for n in numbers)
        for n in numbers:
            del self.files[n]
        added = []
        if pick["to"] == 0 or high is None:
            added.append(self.added(pick["to"], low, high, size, ts))
        else:
            pieces = max(1, min(size // TABLE, (high - low + 1) // 2))
            step = (high - low + 1) / pieces
            for i in range(pieces):
                first, last = low + int(i * step), low + int((i + 1) * step) - 1
                added.append(self.added(pick["to"], first, min(high, last), size // pieces, ts))
        self.door.edit(removed, added)

    def settle(self, idle=False, most=2000):
        done = 0
        while (pick := self.door.pick(idle)) is not None:
            self.check(pick)
            self.apply(pick)
            done += 1
            assert done < most, "compaction does not come to an end"
        return done


def a_tree(rng, style="leveled"):
    """Of any shape that may come about."""
    tree = Tree(style)
    if style == "leveled":
        for level in range(LAST, 0, -1):
            if rng.random() < 0.5:
                at = rng.randrange(100)
                for _ in range(rng.choice((1, 3, 30))):
                    width = rng.randrange(1, 300)
                    tree.add(level, at, at + width, rng.randrange(1, 3 * TABLE))
                    at += width + rng.randrange(1, 400)
                if rng.random() < 0.1:
                    tree.add(level, at, None, rng.randrange(1, TABLE))
    for _ in range(rng.choice((0, 1, 3, 4, 9, 25))):
        low = rng.randrange(5000)
        high = None if rng.random() < 0.05 else low + rng.choice((0, 10, 3000))
        tree.add(0, low, high, rng.randrange(1, rng.choice((100, 4 * TABLE))))
    return tree


def random_trees(style, count):
    for seed in range(count):
        rng = random.Random(seed)
        yield rng, a_tree(rng, style)


@pytest.mark.parametrize("style", ["leveled", "size_tiered"])
def test_whatever_the_tree_what_is_chosen_breaks_no_law(style):
    chosen = trivial = bottom = 0
    for rng, tree in random_trees(style, 1500):
        busy = set()
        for level, numbers in tree.door.levels().items():
            for at, number in enumerate(numbers):
                if rng.random() < 0.04:
                    tree.door.busy(level, at)
                    busy.add(number)
        pick = tree.door.pick(rng.random() < 0.5)
        if pick is not None:
            tree.check(pick)
            assert not busy & {n for _, n in pick["inputs"]}
            chosen += 1
            trivial += pick["trivial"]
            bottom += pick["bottom"]
    assert chosen > 400 and bottom > 50
    assert trivial > 50 or style == "size_tiered"


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("style", ["leveled", "size_tiered"])
def test_compaction_comes_to_an_end_with_every_level_within_its_size(style, idle):
    for _, tree in random_trees(style, 150):
        tree.settle(idle)
        levels = tree.door.levels()
        if style == "size_tiered":
            assert set(levels) <= {0} and len(levels.get(0, [])) < 2 * RUNS_COMPACT
            continue
        runs = [tree.files[n][3] for n in levels.get(0, [])]
        assert len(runs) < (2 if idle else RUNS_FULL)
        assert len(runs) < RUNS_COMPACT or sum(runs) < RUNS_BYTES * TABLE
        _, targets = tree.door.targets()
        for level, numbers in levels.items():
            if 0 < level < LAST:
                assert sum(tree.files[n][3] for n in numbers) <= targets[level]


@pytest.mark.parametrize("style", ["leveled", "size_tiered"])
def test_a_load_flows_down_and_each_level_is_a_tenth_of_the_next(style):
    tree = Tree(style)
    rng = random.Random(3)
    for _ in range(600):
        low = rng.randrange(9000)
        tree.add(0, low, low + rng.randrange(1, 1000), rng.randrange(TABLE // 2, TABLE))
        tree.settle()
    levels = tree.door.levels()
    if style == "size_tiered":
        assert set(levels) == {0} and len(levels[0]) < 2 * RUNS_COMPACT
        return
    sizes = {level: sum(tree.files[n][3] for n in numbers) for level, numbers in levels.items()}
    assert max(sizes, key=sizes.get) == LAST
    assert sum(size for level, size in sizes.items() if level < LAST) < sizes[LAST] * 0.2


def test_tables_that_share_no_keys_move_without_being_rewritten():
    tree = Tree()
    for i in range(40):
        tree.add(0, i * 10, i * 10 + 9, TABLE)
        while (pick := tree.door.pick()) is not None:
            assert pick["trivial"]
            tree.check(pick)
            tree.apply(pick)


def test_a_busy_table_is_left_alone_and_so_is_what_would_need_it():
    tree = Tree()
    for _ in range(RUNS_COMPACT):
        tree.add(0, 0, 100, 2 * TABLE)
    tree.add(LAST, 50, 60, TABLE)
    assert len(tree.door.pick()["inputs"]) == RUNS_COMPACT + 1
    tree.door.busy(LAST, 0)
    assert tree.door.pick() is None
    tree.door.busy(LAST, 0, False)
    tree.door.busy(0, RUNS_COMPACT - 1)  # the oldest run: none above it may pass it
    assert tree.door.pick() is None
    tree.door.busy(0, RUNS_COMPACT - 1, False)
    tree.door.busy(0, 0)
    assert [n for _, n in tree.door.pick()["inputs"]] == [3, 2, 1, 5]


def test_a_range_that_ends_where_the_next_table_begins_takes_that_one_along():
    tree = Tree()
    tree.add(5, 10, 20, 40 * TABLE, range_tombstones=1)
    tree.add(5, 20, 30, 40 * TABLE)
    tree.add(6, 0, 5, TABLE)
    pick = tree.door.pick()
    tree.check(pick)
    assert sorted(n for _, n in pick["inputs"]) == [1, 2]


def test_the_target_sizes_are_dynamic():
    for rng, tree in random_trees("leveled", 200):
        base, targets = tree.door.targets()
        sizes = [0] * 8
        for level, _, _, size, _ in tree.files.values():
            sizes[level] += size
        largest, level = max(sizes[1:]), LAST
        assert targets[LAST] == (1 << 64) - 1
        while largest > 24 * TABLE and level > 1:
            largest //= 10
            level -= 1
            assert targets[level] == max(largest, 4 * TABLE)
        assert base == level
        assert targets[:level] == [0] * level


def test_a_range_of_keys_is_compacted_with_all_that_shares_keys_with_it():
    chosen = 0
    for rng, tree in random_trees("leveled", 800):
        low = rng.randrange(6000)
        high = low + rng.randrange(3000)
        bounds = rng.choice(((None, None), (name(low), None), (None, name(high)), (name(low), name(high))))
        pick = tree.door.pick_range(*bounds)
        if pick is None:
            continue
        chosen += 1
        tree.check(pick)
        assert pick["to"] == LAST and pick["bottom"]
        inputs = {n for _, n in pick["inputs"]}
        span = (low if bounds[0] else 0, high if bounds[1] else None)
        assert all(n in inputs for n in tree.files if tree.meets(n, span))
        tree.apply(pick)
    assert chosen > 300


def test_nothing_is_compacted_in_an_empty_tree():
    for style in ("leveled", "size_tiered"):
        tree = Tree(style)
        assert tree.door.pick() is tree.door.pick(True) is tree.door.pick_range() is None
