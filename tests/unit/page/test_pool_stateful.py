"""Store and pool against dictionaries: any order of changes, evictions, checkpoints (also failing ones), crashes and
compaction, and other threads that do the same while one reads or writes."""
import errno
import random

from enginelib._native.base import status
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.page.pool_door import PoolDoor
from enginelib._native.page.store_door import StoreDoor
from enginelib._native.page.store_hook import HookVfs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

PATH = "/pages.dat"
VALUES = st.builds(lambda n, c: bytes([c]) * n, st.integers(0, 900), st.integers(0, 255))
INDEX = st.integers(0, 10_000)
POLITE = (16, 17, 18, 19)                    # no memory, input/output, full, failed for good


class Pages(RuleBasedStateMachine):
    """`now` is what the pages hold, `image` what a frozen image must, `durable` what a crash must leave (one of several
    during publish)."""

    @initialize(pages=st.integers(0, 80))
    def start(self, pages):
        self.vfs = FaultVfs()
        self.published = 0
        self.hook = HookVfs(self.vfs)
        self.pool = PoolDoor(self.hook, PATH, create=True)
        self.target = None
        self.vfs.py_sync_dir("/")
        self.now, self.blobs = {}, {}
        self.durable = [({}, {}, b"", self.vfs.mutations)]
        self.image = None
        self.busy = False                    # with a checkpoint: nobody else begins one
        self.written = False
        self.pins = {}
        self.held = []
        self.readers = []
        for i in range(pages):
            self.now[self.pool.new(b"first %d" % i)] = b"first %d" % i

    def next_meta(self, size=0):
        """Tells images apart."""
        self.published += 1
        return b"%d " % self.published + b"m" * size

    def pick(self, of, n):
        """One of them, which nobody else changes until the next is picked."""
        self.target = sorted(of)[n % len(of)]
        return self.target

    # ---- what others do while one reads or writes

    @rule(call=st.integers(0, 12), n=INDEX, kinds=st.lists(
        st.sampled_from(["put", "put", "forget", "new", "freeze", "free blob", "leave"]), min_size=1, max_size=6))
    def meanwhile(self, call, n, kinds):
        """At one of the next calls of the file system another thread does this."""
        left = [call]

        def hook(name, offset, size):
            left[0] -= 1
            if left[0] >= 0:
                return True
            for i, kind in enumerate(kinds):
                self.interfere(kind, n + 13 * i)
            return False

        self.hook.arm(hook)

    def interfere(self, kind, n):
        others = sorted(set(self.now) - {self.target})
        pid = others[n % len(others)] if others else None
        if kind == "put" and pid:
            for i in range(6):
                pid = others[(n + i) % len(others)]
                if self.pool.try_put(pid, b"meanwhile %d" % n):
                    self.now[pid] = b"meanwhile %d" % n
        elif kind == "forget" and pid:
            self.pool.forget(pid)
            del self.now[pid]
        elif kind == "new":
            pid = self.pool.try_new(b"meanwhile new %d" % n)
            if pid:
                assert pid not in self.now and pid not in self.blobs
                self.now[pid] = b"meanwhile new %d" % n
        elif kind == "freeze" and self.image is None and not self.busy and not self.pool.store.image:
            self.image = (self.pool.freeze(), dict(self.now), dict(self.blobs))
            self.written = False
        elif kind == "free blob":
            blobs = sorted(set(self.blobs) - {self.target})
            if blobs:
                pid = blobs[n % len(blobs)]
                self.pool.forget(pid)
                del self.blobs[pid]
        elif kind == "leave" and self.held:
            self.pool.unpin_frame(self.held.pop())

    # ---- changes

    @rule(value=VALUES)
    def new(self, value):
        pid = self.pool.new(value)
        assert pid not in self.now and pid not in self.blobs
        self.now[pid] = value

    @precondition(lambda self: self.now)
    @rule(n=INDEX, value=VALUES)
    def put(self, n, value):
        pid = self.pick(self.now, n)
        self.pool.put(pid, value)
        self.now[pid] = value

    @precondition(lambda self: self.now)
    @rule(n=INDEX, count=st.integers(1, 30), value=VALUES)
    def put_many(self, n, count, value):
        for i in range(count):
            self.put(n + i * 7, value + b"%d" % i)

    @precondition(lambda self: self.now)
    @rule(n=INDEX, resident=st.booleans())
    def drop(self, n, resident):
        pid = self.pick(self.now, n)
        (self.pool.drop if resident else self.pool.forget)(pid)
        del self.now[pid]

    @precondition(lambda self: self.now)
    @rule(n=INDEX, count=st.integers(1, 20))
    def read(self, n, count):
        for i in range(count):
            pid = self.pick(self.now, n + i)
            assert self.pool.get(pid) == self.now[pid]

    @rule(n=st.integers(1, 20))
    def evict(self, n):
        self.pool.make_free(min(n, 24 - len(self.held)), rollback=True)

    @precondition(lambda self: self.now and len(self.held) < 8)
    @rule(n=INDEX)
    def pin_page(self, n):
        self.held.append(self.pool.pin_page(self.pick(self.now, n)))

    @precondition(lambda self: self.held)
    @rule(n=INDEX)
    def unpin_page(self, n):
        self.pool.unpin_frame(self.held.pop(n % len(self.held)))

    # ---- large values

    @rule(length=st.integers(1, 6000), keep=st.booleans())
    def new_blob(self, length, keep):
        pid = self.pool.alloc()
        data = bytes([length % 256]) * length
        self.pool.write_blob(pid, data, finish=keep)
        if keep:
            self.blobs[pid] = data
        else:
            self.pool.free(pid)

    @precondition(lambda self: self.blobs)
    @rule(n=INDEX)
    def read_blob(self, n):
        pid = self.pick(self.blobs, n)
        assert self.pool.read_blob(pid, len(self.blobs[pid])) == self.blobs[pid]

    @precondition(lambda self: self.blobs)
    @rule(n=INDEX, reading=st.booleans())
    def free_blob(self, n, reading):
        pid = self.pick(self.blobs, n)
        if reading:
            self.pool.reader_enter()
            self.readers.append((pid, self.blobs[pid]))
        self.pool.forget(pid)
        del self.blobs[pid]

    @precondition(lambda self: self.readers)
    @rule()
    def readers_leave(self):
        for pid, data in self.readers:
            assert self.pool.read_blob(pid, len(data)) == data
        for _ in self.readers:
            self.pool.reader_leave()
        self.readers = []

    # ---- checkpoints

    @precondition(lambda self: self.image is None)
    @rule()
    def freeze(self):
        self.image = (self.pool.freeze(), dict(self.now), dict(self.blobs))
        self.written = False

    @precondition(lambda self: self.image and not self.written)
    @rule()
    def write_frozen(self):
        self.pool.write_frozen(self.image[0])
        self.written = True

    @precondition(lambda self: self.image and self.written)
    @rule(size=st.integers(0, 1200))
    def publish(self, size):
        number, pages, blobs = self.image
        meta = self.next_meta(size)
        before = self.vfs.mutations
        self.durable = [*self.durable[-1:], (pages, blobs, meta, before)]
        self.busy = True
        self.pool.publish(number, meta)
        self.durable = [(pages, blobs, meta, self.vfs.mutations)]
        self.busy = False
        self.image = None

    @precondition(lambda self: self.image and self.written)
    @rule()
    def abandon(self):
        self.pool.abandon(self.image[0])
        self.image = None

    @precondition(lambda self: self.image is None)
    @rule(call=st.integers(0, 40), number=st.sampled_from([errno.ENOSPC, errno.EIO]), sticky=st.booleans())
    def checkpoint_on_a_failing_medium(self, call, number, sticky):
        self.vfs.inject(call, number, sticky=sticky)
        meta = self.next_meta()
        self.busy = True
        then = (dict(self.now), dict(self.blobs), meta, 0)
        try:
            self.pool.checkpoint(meta)
            self.durable = [then]
        except Exception:
            assert status.last_error()["code"] in POLITE
        self.busy = False
        self.vfs.clear_injections()
        if self.pool.store.failed:
            self.durable.append(then)
            self.reopen_as(self.vfs)

    @precondition(lambda self: self.now)
    @rule(call=st.integers(0, 6), number=st.sampled_from([errno.ENOSPC, errno.EIO]), n=INDEX)
    def changes_on_a_failing_medium(self, call, number, n):
        self.vfs.inject(call, number, sticky=True)
        for i in range(30):
            pid = self.pick(self.now, n + 3 * i)
            try:
                self.pool.put(pid, b"failing %d" % i)
                self.now[pid] = b"failing %d" % i
            except Exception:
                assert status.last_error()["code"] in POLITE
        self.vfs.clear_injections()

    @rule(budget=st.integers(1, 1 << 20))
    def compact_and_trim(self, budget):
        self.pool.compact(budget)
        self.pool.trim()

    # ---- backups

    @precondition(lambda self: len(self.pins) < 4)
    @rule()
    def pin_image(self):
        generation = self.pool.pin()
        assert generation not in self.pins or self.pins[generation][:3] == self.durable[-1][:3]
        if generation in self.pins:
            self.pool.unpin(generation)
        self.pins[generation] = self.durable[-1]

    @precondition(lambda self: self.pins)
    @rule(n=INDEX)
    def copy_image(self, n):
        generation = self.pick(self.pins, n)
        pages, blobs, meta, _ = self.pins.pop(generation)
        other = MemoryVfs()
        self.pool.copy_image(generation, other, "/copy")
        self.pool.unpin(generation)
        self.compare(PoolDoor(other, "/copy"), pages, blobs, meta)

    # ---- ends

    def disarm(self):
        self.hook.arm(None)
        assert self.hook.errors == []

    def compare(self, pool, pages, blobs, meta):
        assert pool.meta() == meta
        for pid, value in pages.items():
            assert pool.get(pid) == value
        for pid, data in blobs.items():
            assert pool.read_blob(pid, len(data)) == data
        assert pool.check([*pages, *blobs]) == []
        assert pool.pool_check() == []

    def reopen_as(self, vfs):
        self.disarm()
        self.pool.close()
        self.vfs = vfs
        self.hook = HookVfs(vfs)
        self.pool = PoolDoor(self.hook, PATH)
        meta = self.pool.meta()
        [(pages, blobs, _, _)] = [d for d in self.durable if d[2] == meta]
        self.compare(self.pool, pages, blobs, meta)
        self.now, self.blobs = dict(pages), dict(blobs)
        self.durable = [(pages, blobs, meta, vfs.mutations)]
        self.image, self.pins, self.held, self.readers = None, {}, [], []

    @rule(seed=st.integers(0, 1000), mode=st.sampled_from(["power", "lost", "kill", "all"]))
    def crash(self, seed, mode):
        self.reopen_as(self.vfs.crash_image(self.vfs.mutations, seed, mode))

    @precondition(lambda self: self.image and self.written)
    @rule(seed=st.integers(0, 1000), where=st.floats(0, 1), mode=st.sampled_from(["power", "lost", "kill", "all"]))
    def crash_while_publishing(self, seed, where, mode):
        self.disarm()
        before = self.vfs.mutations
        number, pages, blobs = self.image
        meta = self.next_meta()
        self.pool.publish(number, meta)
        self.durable.append((pages, blobs, meta, 0))
        cut = before + round(where * (self.vfs.mutations - before))
        self.reopen_as(self.vfs.crash_image(cut, seed, mode))

    @precondition(lambda self: self.now and self.image is None)
    @rule(seed=st.integers(0, 1000), where=st.floats(0, 1), n=INDEX)
    def crash_after_the_image_while_others_write(self, seed, where, n):
        """A cut anywhere in later work finds the image untouched."""
        self.disarm()
        before = self.vfs.mutations
        durable = list(self.durable)
        rng = random.Random(n)
        for i in range(40):
            pid = self.pick(self.now, rng.randrange(10_000))
            self.put(pid, b"later %d" % i)
        self.pool.make_free(20, rollback=True)
        self.pool.compact()
        cut = before + round(where * (self.vfs.mutations - before))
        self.durable = durable
        self.reopen_as(self.vfs.crash_image(cut, seed))

    @precondition(lambda self: self.image is None)
    @rule()
    def read_only(self):
        reader = StoreDoor(self.vfs, PATH, read_only=True)
        pages, blobs, meta, _ = self.durable[-1]
        assert reader.meta() == meta and reader.check([*pages, *blobs]) == []
        reader.close()

    @invariant()
    def consistent(self):
        if hasattr(self, "pool"):
            assert self.pool.pool_check() == []
            assert self.hook.errors == []

    def teardown(self):
        if not hasattr(self, "pool"):
            return
        self.disarm()
        if self.image:
            self.pool.write_frozen(self.image[0])
            self.pool.publish(self.image[0], b"last image")
        for _ in self.readers:
            self.pool.reader_leave()
        self.pool.checkpoint(b"end")
        self.compare(self.pool, self.now, self.blobs, b"end")
        self.pool.close()
        self.compare(PoolDoor(self.hook, PATH), self.now, self.blobs, b"end")


TestPages = Pages.TestCase
TestPages.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
