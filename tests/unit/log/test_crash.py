"""Crashes: what was acknowledged is there, what is there is a prefix, and recovery may itself crash anywhere."""
import errno
import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from loghelp import new_log, put, read, reopen, values

OS, SYNC = 1, 2


def history(seed, n=120, segment=4096):
    """A run with marks: ("sync" | "os", how many records were acknowledged)."""
    rng = random.Random(seed)
    vfs, log = new_log(segment_size=segment, buffer_size=512)
    vfs.set_marker(("open", 0))
    for i in range(n):
        level = rng.choice((0, 0, OS, SYNC))
        put(log, i, size=rng.randrange(120), flush=level)
        if level:
            vfs.set_marker((level, i + 1))
        if rng.random() < 0.05:
            log.prepare_ahead()
    return vfs


def acknowledged(vfs, cut, level):
    return max([n for at, (mark, n) in vfs.markers() if at <= cut and (mark == SYNC or mark == level)], default=0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode", ["kill", "power", "lost", "all"])
def test_acknowledged_records_survive_a_crash_anywhere(seed, mode):
    vfs = history(seed)
    opened = vfs.markers()[0][0]
    for cut in range(opened, vfs.mutations + 1):
        image = vfs.crash_image(cut, seed * 7919 + cut, mode)
        got = values(read(image, segment=4096))
        assert got == list(range(len(got)))
        assert len(got) >= acknowledged(vfs, cut, OS if mode in ("kill", "all") else SYNC), (cut, mode)


@pytest.mark.parametrize("first", ["kill", "power"])
def test_recovery_may_crash_anywhere_and_be_run_again(first):
    vfs = history(11, n=70)
    opened = vfs.markers()[0][0]
    rng = random.Random(5)
    for cut in rng.sample(range(opened, vfs.mutations + 1), 40):
        image = vfs.crash_image(cut, cut, first)
        bound = acknowledged(vfs, cut, SYNC)
        found, log = reopen(image, segment_size=4096, buffer_size=512)
        whole = values(found)
        settled = image.mutations
        put(log, 1000, flush=SYNC)
        for cut2 in range(image.mutations + 1):
            for mode in ("kill", "power", "lost"):
                second = image.crash_image(cut2, cut2 * 3 + 1, mode)
                found2, log2 = reopen(second, segment_size=4096, buffer_size=512)
                got = values(found2)
                if cut2 == image.mutations:
                    assert got == [*whole, 1000]
                elif cut2 >= settled:
                    assert got in (whole, [*whole, 1000])
                else:
                    assert got == whole[:len(got)] and len(got) >= bound
                put(log2, 2000, flush=SYNC)
                assert values(read(second, segment=4096)) == [*got, 2000]
                if cut2 % 3 == 0:
                    for cut3 in range(second.mutations + 1):
                        third = second.crash_image(cut3, cut3 + cut, "power")
                        again = values(read(third, segment=4096))
                        assert again in ([*got, 2000][:len(again)],) and (len(again) >= bound or cut2 >= settled)


def test_what_a_failed_sync_left_in_the_page_cache_is_durable_once_recovery_has_shown_it():
    """After a failed fdatasync the kernel calls the pages clean; only writing them again makes them durable."""
    vfs, log = new_log()
    put(log, 0, flush=SYNC)
    put(log, 1, flush=OS)
    vfs.inject(0, errno.EIO)
    with pytest.raises(Exception, match="failed for good"):
        log.flush(SYNC)
    image = vfs.crash_image(vfs.mutations, 0, "kill")
    assert values(read(image)) == [0, 1]
    found, log = reopen(image)
    assert values(found) == [0, 1]
    assert values(read(image.crash_image(image.mutations, 0, "lost"))) == [0, 1]


def test_a_tail_is_cut_before_the_next_life_begins():
    """A group that a crash tore, with a whole one behind it: recovery leaves neither."""
    vfs, log = new_log()
    put(log, 0, flush=SYNC)
    lsns = [put(log, n, flush=OS) for n in (1, 2)]
    path = "/log/" + "0" * 16 + ".wal"
    vfs.corrupt(path, lsns[0] + 4, 1)
    found, log = reopen(vfs)
    assert values(found) == [0]
    assert vfs.files(durable=True)[path][lsns[0] - 32:lsns[1] + 60].strip(b"\0") == b""


class Crashes(RuleBasedStateMachine):
    """One log through many lives. `expected` is all that was appended in order; the bounds say how much of it must be there."""

    def __init__(self):
        super().__init__()
        self.vfs, self.log = new_log(segment_size=4096, buffer_size=512)
        self.expected = []
        self.next = 0
        self.inherited = (0, 0)                  # records durable, and handed to the kernel, when this life began
        self.opened = self.vfs.mutations
        self.marks = [(self.opened, 0, 0)]       # (journal position, synced count, written count)
        self.checkpoints = [(0, 0, 0)]           # (journal position, LSN, records before it)

    def note(self, synced=None, written=None):
        _, s, w = self.marks[-1]
        s = s if synced is None else synced
        w = max(s, w if written is None else written)
        self.marks.append((self.vfs.mutations, s, w))

    @rule(size=st.integers(0, 300), level=st.sampled_from([0, 0, OS, SYNC]))
    def append(self, size, level):
        put(self.log, self.next, size=size, flush=level)
        self.expected.append(self.next)
        self.next += 1
        n = len(self.expected)
        if level:
            self.note(synced=n if level == SYNC else None, written=n)

    @rule(n=st.integers(1, 40))
    def append_many(self, n):
        for _ in range(n):
            self.append(100, 0)

    @rule(level=st.sampled_from([OS, SYNC]))
    def flush(self, level):
        self.log.flush(level)
        n = len(self.expected)
        self.note(synced=n if level == SYNC else None, written=n)

    @rule()
    def prepare(self):
        self.log.prepare_ahead()

    @rule(release=st.booleans())
    def checkpoint(self, release):
        lsn = self.log.state()["end"]
        self.flush(SYNC)
        self.checkpoints.append((self.vfs.mutations, lsn, len(self.expected)))
        if release:
            self.log.release_below(lsn)

    @rule(back=st.integers(0, 60), seed=st.integers(0, 2**32), mode=st.sampled_from(["kill", "power", "lost", "all"]),
          again=st.none() | st.integers(0, 30))
    def crash(self, back, seed, mode, again):
        cut = max(self.vfs.mutations - back, self.opened)
        _, synced, written = [m for m in self.marks if m[0] <= cut][-1]
        checkpoint = [c for c in self.checkpoints if c[0] <= cut][-1]
        if mode == "all":
            synced = written
        if mode in ("power", "lost"):
            written = synced
        image = self.vfs.crash_image(cut, seed, mode)
        start, skipped = checkpoint[1], checkpoint[2]
        if again is not None:                    # a first recovery that crashes, then the one that counts
            trial = image.crash_image(image.mutations, 0, "kill") if mode == "kill" else image
            reopen(trial, start, segment_size=4096, buffer_size=512)
            image = trial.crash_image(min(again, trial.mutations), seed + 1, "power")
            written = synced
        found, self.log = reopen(image, start, segment_size=4096, buffer_size=512)
        self.vfs = image
        got = values(found)
        assert self.expected[skipped:skipped + len(got)] == got
        assert skipped + len(got) >= (written if mode in ("kill", "all") else synced)
        self.expected = self.expected[:skipped] + got
        n = len(self.expected)
        self.opened = image.mutations
        self.marks = [(self.opened, n, n)]
        self.checkpoints = [(0, start, skipped)]

    @invariant()
    def reads_back(self):
        state = self.log.state()
        assert state["synced"] <= state["written"] <= state["end"]


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=150, stateful_step_count=40, deadline=None,
                                suppress_health_check=list(HealthCheck))
