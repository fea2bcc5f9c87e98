"""Seeded random work on one database, in one thread, beside a model: what the crash campaigns record.

Several transactions are open at a time; who meets another's row lock is refused at once. The model keeps, for
each transaction, the list of its changes; a commit applies them to the newest state. So it needs to know nothing
of snapshots and locks, only which operations succeeded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import _history as h
from _archive import ArchiveAudit
from _audit import Audit
from _doubts import Doubt, Frozen, Ledger, apply
from _doubts import check as check_doubts
from _history import LAZY, OS, SYNC, Epoch, Finding, State, Window
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreDatabase, CoreKeyspace, CoreTransaction

from enginelib import errors

REFUSED = (errors.TransactionAborted, errors.UsageError, errors.TransactionTooLarge)


@dataclass(frozen=True)
class Shape:
    """What a workload is like; drawn from its seed."""

    options: dict[str, int]
    steps: int
    keys: int
    largest: int
    bulk: int
    lsm: float
    audit: bool
    doubts: bool = False
    before: bool = False
    archive: bool = False

    @classmethod
    def draw(cls, rng: random.Random) -> Shape:
        """Small databases mostly, for that is how many states are seen; now and then one larger than its cache."""
        kind = rng.choices(("small", "fat", "huge"), (80, 17, 3))[0]
        segment = {"small": rng.choice((16384, 32768, 65536)), "fat": 65536, "huge": 1 << 20}[kind]
        options = {
            "page_size": 4096 if rng.random() < 0.8 else 8192,
            "cache_size": 65536,
            "segment_size": segment,
            "log_buffer": rng.choice((512, 4096, 16384)),
            "checkpoint_bytes": 1 << 40,
            "version_budget": 1 << 24,
            "transaction_budget": 1 << 24,
            "durability": SYNC,
        }
        largest = {"small": 5000 if segment == 16384 else 20000, "fat": 6000, "huge": 700_000}[kind]
        steps = {"small": rng.randrange(30, 220), "fat": rng.randrange(60, 160), "huge": 25}[kind]
        keys, lsm, audit = rng.choice((6, 30, 200)), rng.choice((0, 0.5, 0.5, 1)), rng.random() < 0.6
        before, archive = rng.random() < 0.35, rng.random() < 0.4
        if archive:
            options["hold_log"] = True
        return cls(options, steps, keys, largest, 120 if kind == "fat" else 6, lsm, audit, steps % 3 > 0, before, archive)


@dataclass
class Open:
    """A transaction under way."""

    txn: CoreTransaction
    durability: int
    names: dict[str, int]
    ops: list[tuple[Any, ...]] = field(default_factory=list)
    saves: list[int] = field(default_factory=list)
    handles: dict[int, CoreKeyspace] = field(default_factory=dict)


class Driver:
    """Does the work, and keeps the epochs."""

    def __init__(
        self,
        rng: random.Random,
        shape: Shape,
        vfs: FaultVfs,
        base: Window,
        known: dict[int, State] | None = None,
        doubts: list[Doubt | Frozen] | None = None,
        archive: ArchiveAudit | None = None,
    ) -> None:
        self.rng = rng
        self.archive = ArchiveAudit(archive) if shape.archive else None
        self.audit = Audit(known, shape.before)
        self.ledgers: list[Ledger] = []
        self.doubts = doubts or []
        self.shape = shape
        self.vfs = vfs
        self.epochs: list[Epoch] = []
        self.open: list[Open] = []
        self.readers: list[tuple[CoreTransaction, State]] = []
        self.names: dict[str, int] = {}
        self.data: dict[int, dict[bytes, bytes]] = {}
        self.serial = 0
        self.db: CoreDatabase | None = None
        self.base = base
        self.log: list[str] = []

    # ---- lives

    def start(self) -> None:
        """Opens the database; what it shows must be one of what may be there."""
        epoch = Epoch(self.vfs.mutations, self.base)
        self.epochs.append(epoch)
        ledger = Ledger(self.vfs.mutations, self.doubts)
        self.ledgers.append(ledger)
        self.db = h.open_database(self.vfs, self.shape.options)
        found = h.content(self.db)
        index = h.match(found, self.base)
        check_doubts(self.db, ledger.before, self.vfs.mutations, self.base.states, index)
        epoch.came_up(self.vfs.mutations, index)
        ledger.came_up(self.db, self.vfs.mutations)
        self.names = {name: id for name, id, _ in self.db.keyspace_rows()}
        self.data = {id: found[name] for name, id in self.names.items()}
        self.open = []
        self.readers = []
        if self.archive is not None:
            self.archive.begin(self.db, self.vfs, self.base)
        if self.shape.audit:
            self.audit.check(self.db, self.state())
            self.audit.begin(self.db, self.state())

    def state(self) -> State:
        """The newest committed state."""
        return {name: self.data[id] for name, id in self.names.items()}

    def restart(self, clean: bool) -> None:
        """Closes, or dies as a killed process does, and opens again."""
        epoch = self.epochs[-1]
        assert self.db is not None
        if clean:
            self.db.close()
            epoch.survives(self.vfs.mutations, None, SYNC)
        else:
            self.db.abandon()
        window = epoch.window(self.vfs.mutations, "kill")
        self.db = None
        # Until recovery is through, a loss of power may still take what a kill does not.
        self.base = Window(window.states, window.low, window.high, window.low_power)
        image = self.vfs.crash_image(self.vfs.mutations, 0, "kill")
        probe = h.open_database(image, self.shape.options)
        seen = h.match(h.content(probe), window)
        probe.abandon()
        self.base.low = self.base.high = seen
        self.base.low_power = min(window.low_power, seen)
        self.doubts = list(self.ledgers[-1].doubts)
        self.start()

    # ---- one step

    def step(self) -> None:
        """One random thing."""
        rng = self.rng
        roll = rng.random()
        if not self.open or (len(self.open) < 4 and roll < 0.12):
            self.begin()
        elif roll < 0.16:
            self.upkeep()
        elif roll < 0.30:
            self.end(rng.choice(self.open))
        elif roll < 0.36:
            self.savepoint(rng.choice(self.open))
        elif roll < 0.43:
            self.catalogue(rng.choice(self.open))
        elif roll < 0.45:
            self.read_along()
        elif roll < 0.50 and self.ledgers[-1].standing():
            self.settle(rng.choice(self.ledgers[-1].standing()))
        elif roll < 0.48 and self.shape.audit:
            assert self.db is not None
            self.note("read for the slot")
            self.audit.follow(self.db, rng)
        else:
            self.change(rng.choice(self.open))

    def note(self, text: str) -> None:
        """A line of the trace."""
        self.log.append(f"{self.vfs.mutations}: {text}")

    def begin(self) -> None:
        """Begins a transaction."""
        assert self.db is not None
        durability = self.rng.choices((LAZY, OS, SYNC), (25, 25, 50))[0]
        txn = self.db.core_transaction(CoreTransaction, False, durability)
        self.open.append(Open(txn, durability, dict(self.names)))
        self.note(f"begin durability={durability}")

    def upkeep(self) -> None:
        """Checkpoints and the like."""
        assert self.db is not None
        kinds = ("checkpoint", "step checkpoint", "lazy", "prepare", "gc", "sync", "seal", "flush", "compact", "settle")
        lsm, archive = 3 if self.shape.lsm else 0, 5 if self.archive is not None else 0
        (what,) = self.rng.choices((*kinds, "ingest", "archive"), (3, 4, 2, 2, 3, 1, lsm, lsm, lsm, lsm, lsm, archive))
        self.note(what)
        if what == "archive" and self.archive is not None:
            self.archive.step(self.rng)
            return
        if what == "ingest":
            self.ingest()
            return
        if what == "checkpoint":
            self.db.checkpoint()
        elif what == "sync":
            self.db.sync()
        else:
            self.db.step(what.split()[-1])
        if what in ("checkpoint", "step checkpoint", "sync", "lazy"):
            self.epochs[-1].survives(self.vfs.mutations, None, SYNC)

    def ingest(self) -> None:
        """Loads a few pairs into a committed LSM keyspace: a transaction of its own."""
        assert self.db is not None
        lsm = [name for name, _, backend in self.db.keyspace_rows() if backend == "lsm"]
        if not lsm:
            return
        name = self.rng.choice(lsm)
        keys = sorted({self.key() for _ in range(self.rng.randrange(1, 40))})
        pairs = [(key, self.value()[:5000]) for key in keys]
        data = dict(self.data)
        data[self.names[name]] = {**data[self.names[name]], **dict(pairs)}
        epoch = self.epochs[-1]
        state = {other: data[id] for other, id in self.names.items()}
        commit = epoch.began(self.vfs.mutations, SYNC, state)
        self.note(f"ingest {len(pairs)} pairs into {name}")
        try:
            logged = self.rng.random() < 0.5
            self.audit.unlogged |= not logged
            self.db.core_keyspace(CoreKeyspace, name, False).core_ingest(pairs, logged)
        except errors.OutcomeUnknown:
            raise
        except errors.Error as error:
            epoch.commits.pop()
            epoch.states.pop()
            if not isinstance(error, REFUSED):
                raise
            self.note(f"  refused: {type(error).__name__}")
            return
        epoch.ended(self.vfs.mutations, commit)
        self.data = data

    def read_along(self) -> None:
        """A snapshot is held for a while, then must still show what it showed."""
        assert self.db is not None
        if len(self.readers) < 2:
            txn = self.db.core_transaction(CoreTransaction, True)
            self.readers.append((txn, {name: dict(rows) for name, rows in self.state().items()}))
            return
        txn, state = self.readers.pop(0)
        for name, id, _ in txn.catalog_rows():
            rows = (
                dict(txn.scan(self.db.core_keyspace(CoreKeyspace, name, False))) if self.names.get(name) == id else None
            )
            if rows is not None and rows != state.get(name):
                raise Finding(f"a snapshot changed: {h.difference({name: state.get(name, {})}, {name: rows})}")
        txn.abort()

    def end(self, one: Open) -> None:
        """Commits, aborts, or forgets the handle."""
        self.open.remove(one)
        if self.shape.doubts and one.txn.id and len(self.ledgers[-1].standing()) < 3 and self.rng.random() < 0.3:
            self.prepare(one)
            return
        roll = self.rng.random()
        if roll < 0.72:
            self.commit(one)
        elif roll < 0.94:
            self.note(f"abort {one.txn.id}")
            one.txn.abort()
        else:
            self.note(f"drop the handle of {one.txn.id}")

    def commit(self, one: Open) -> None:
        """Commits; the model follows."""
        epoch = self.epochs[-1]
        self.note(f"commit {one.txn.id} ({len(one.ops)} changes, durability {one.durability})")
        if one.txn.id == 0:  # it has changed nothing, and commits without a record
            one.txn.commit()
            return
        names, data = self.applied(one)
        commit = epoch.began(self.vfs.mutations, one.durability, {name: data[id] for name, id in names.items()})
        one.txn.commit()
        epoch.ended(self.vfs.mutations, commit)
        self.names, self.data = names, data

    def prepare(self, one: Open) -> None:
        """Promises; from here on it ends by its name."""
        assert self.db is not None
        epoch = self.epochs[-1]
        doubt = Doubt(b"%d.%d" % (len(self.log), one.txn.id), one.ops, self.vfs.mutations, None)
        self.note(f"prepare {one.txn.id} ({len(one.ops)} changes)")
        self.ledgers[-1].doubts.append(doubt)
        one.txn.prepare_as(doubt.xid)
        doubt.returned = self.vfs.mutations
        epoch.survives(self.vfs.mutations, None, SYNC)

    def settle(self, doubt: Doubt) -> None:
        """Ends one in doubt."""
        assert self.db is not None
        epoch = self.epochs[-1]
        doubt.end_began = self.vfs.mutations
        if self.rng.random() < 0.6:
            doubt.ends = "commit"
            names, data = dict(self.names), dict(self.data)
            apply(doubt.ops, names, data)
            self.note(f"commit of {doubt.xid!r}")
            commit = epoch.began(self.vfs.mutations, SYNC, {name: data[id] for name, id in names.items()})
            doubt.states, doubt.index = epoch.states, len(epoch.states) - 1
            self.db.end_prepared(doubt.xid, True)
            epoch.ended(self.vfs.mutations, commit)
            self.names, self.data = names, data
        else:
            doubt.ends = "rollback"
            self.note(f"rollback of {doubt.xid!r}")
            self.db.end_prepared(doubt.xid, False)
        doubt.end_returned = self.vfs.mutations

    def applied(self, one: Open) -> tuple[dict[str, int], dict[int, dict[bytes, bytes]]]:
        """The newest state with a transaction's changes on top; what is shared is never changed in place."""
        names, data = dict(self.names), dict(self.data)
        apply(one.ops, names, data)
        return names, data

    def savepoint(self, one: Open) -> None:
        """Opens one, goes back to one, or closes one."""
        roll = self.rng.random()
        if roll < 0.5 or not one.saves:
            if len(one.saves) < 4:
                one.txn.save()
                one.saves.append(len(one.ops))
                self.note(f"savepoint {len(one.saves)} in {one.txn.id}")
            return
        depth = self.rng.randrange(1, len(one.saves) + 1)
        if roll < 0.85:
            self.note(f"rollback of {one.txn.id} to {depth}")
            one.txn.rollback_to(depth)
            undone = one.ops[one.saves[depth - 1] :]
            for op in reversed(undone):
                if op[0] == "create":
                    del one.names[op[2]]
                elif op[0] == "drop":
                    one.names[op[2]] = op[1]
                elif op[0] == "rename":
                    del one.names[op[3]]
                    one.names[op[2]] = op[1]
            del one.ops[one.saves[depth - 1] :]
        else:
            self.note(f"release of {depth} in {one.txn.id}")
            one.txn.release(depth)
        del one.saves[depth - 1 :]

    def refused(self, one: Open, error: Exception) -> None:
        """The engine said no: the operation has changed nothing. Some then give up."""
        self.note(f"  refused: {type(error).__name__}")
        if one in self.open and self.rng.random() < 0.5:
            self.open.remove(one)
            one.txn.abort()

    def catalogue(self, one: Open) -> None:
        """Makes, drops or renames a keyspace inside a transaction."""
        roll = self.rng.random()
        self.serial += 1
        try:
            if roll < 0.5 or not one.names:
                if len(one.names) > 6:
                    return
                name = self.rng.choice("abcdefgh")
                self.note(f"create {name!r} in {one.txn.id}")
                if name in one.names:
                    return
                before = {"before": "full"} if self.shape.before else {}
                if self.rng.random() < self.shape.lsm:
                    handle = one.txn.create_keyspace(CoreKeyspace, name, "lsm", self.lsm_options() | before)
                else:
                    handle = one.txn.create_keyspace(CoreKeyspace, name, "btree", before)
                one.names[name] = handle.id
                one.handles[handle.id] = handle
                one.ops.append(("create", handle.id, name))
            elif roll < 0.75:
                name = self.rng.choice(sorted(one.names))
                self.note(f"drop {name!r} in {one.txn.id}")
                one.txn.drop_keyspace(name)
                one.ops.append(("drop", one.names.pop(name), name))
            else:
                old = self.rng.choice(sorted(one.names))
                new = self.rng.choice("abcdefgh")
                if new in one.names:
                    return
                self.note(f"rename {old!r} to {new!r} in {one.txn.id}")
                one.txn.rename_keyspace(old, new)
                one.names[new] = one.names.pop(old)
                one.ops.append(("rename", one.names[new], old, new))
        except REFUSED as error:
            self.refused(one, error)
        except (KeyError, ValueError) as error:
            raise Finding(f"the catalogue as a transaction sees it is wrong: {error}") from error

    def lsm_options(self) -> dict[str, Any]:
        """Of an LSM keyspace: tables as small as they may be."""
        return {
            "compaction": self.rng.choice(("leveled", "size_tiered")),
            "memtable_size": 64 << 10,
            "table_size": 64 << 10,
            "bits_per_key": self.rng.choice((0, 10)),
        }

    def handle(self, one: Open, name: str) -> CoreKeyspace | None:
        """A handle of a keyspace the transaction sees."""
        id = one.names[name]
        if id not in one.handles:
            assert self.db is not None
            if self.names.get(name) != id:
                return None  # renamed or dropped by another meanwhile
            one.handles[id] = self.db.core_keyspace(CoreKeyspace, name, False)
        return one.handles[id]

    def key(self) -> bytes:
        """One of a few keys, so that they meet."""
        n = self.rng.randrange(self.shape.keys)
        return b"" if n == 0 else b"key-%04d" % n + b"/long" * (n % 7 == 3) * 20

    def value(self) -> bytes:
        """Short mostly; some too large for a page."""
        self.serial += 1
        roll = self.rng.random()
        if roll < 0.03:
            return b""
        if roll < 0.6:
            n = self.rng.randrange(8, 60)
        elif roll < 0.85:
            n = self.rng.randrange(60, 900)
        else:
            n = self.rng.randrange(900, self.shape.largest)
        head = b"%d." % self.serial
        return (head + bytes([self.serial & 255]) * n)[:n]

    def change(self, one: Open) -> None:
        """Puts or deletes."""
        if not one.names:
            self.catalogue(one)
            return
        name = self.rng.choice(sorted(one.names))
        keyspace = self.handle(one, name)
        if keyspace is None:
            return
        roll = self.rng.random()
        id = one.names[name]
        try:
            if roll < 0.62:
                key, value = self.key(), self.value()
                self.note(f"put {name}[{key!r}] {len(value)} bytes in {one.txn.id}")
                one.txn.put(keyspace, key, value)
                one.ops.append(("put", id, key, value))
            elif roll < 0.82:
                key = self.key()
                self.note(f"delete {name}[{key!r}] in {one.txn.id}")
                # Where there is nothing it takes no lock: another may put the key and commit first.
                if one.txn.delete(keyspace, key):
                    one.ops.append(("delete", id, key))
            elif roll < 0.95:
                self.bulk(one, keyspace, name)
            else:
                self.delete_range(one, keyspace, name)
        except REFUSED as error:
            self.refused(one, error)

    def bulk(self, one: Open, keyspace: CoreKeyspace, name: str) -> None:
        """``put_many``; an error leaves an unknown part of it, so that the transaction is given up."""
        count = self.rng.randrange(1, self.shape.bulk + 1)
        pairs = [(self.key() + b"%d" % (self.rng.randrange(count)), self.value()[:900]) for _ in range(count)]
        self.note(f"put_many of {count} in {name} in {one.txn.id}")
        try:
            one.txn.put_many(keyspace, pairs)
        except BaseException:
            self.open.remove(one)
            one.txn.abort()
            raise
        one.ops.extend(("put", one.names[name], key, value) for key, value in pairs)

    def delete_range(self, one: Open, keyspace: CoreKeyspace, name: str) -> None:
        """Deletes a few neighbours; an error leaves an unknown part of it."""
        start, stop = sorted((self.key(), self.key()))
        self.note(f"delete_range {start!r}..{stop!r} in {name} in {one.txn.id}")
        gone = list(one.txn.scan(keyspace, start, stop, values=False))
        try:
            count = one.txn.delete_range(keyspace, start, stop)
        except BaseException:
            self.open.remove(one)
            one.txn.abort()
            raise
        if count is not None and count != len(gone):
            raise Finding(f"delete_range deleted {count} of the {len(gone)} keys it saw")
        one.ops.extend(("delete", one.names[name], key) for key in gone)

    def check_live(self) -> None:
        """The running database shows what the model says."""
        assert self.db is not None
        found = h.content(self.db)
        if found != self.state():
            raise Finding(f"the running database is wrong: {h.difference(self.state(), found)}")
        h.check_verify(self.db)


def window_of(epochs: list[Epoch], cut: int, mode: str) -> Window:
    """What may be found after a crash at that journal position."""
    for epoch in reversed(epochs):
        if epoch.start <= cut:
            return epoch.window(cut, mode)
    raise AssertionError("no epoch covers this cut")


__all__ = ["OS", "Driver", "Open", "Shape", "window_of"]
