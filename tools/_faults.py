"""Failing calls and full disks: what a database must answer, and what it must keep.

A workload is run once to count its calls, then once for each call and kind of failure. Whatever fails, the error is
one of enginelib's own, the operation leaves its transaction as it was or the transaction can be rolled back, all that
was acknowledged stays, and with the medium healed work goes on; unless the log itself has failed, which is final.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import _history as h
from _explore import Failure
from _history import SYNC, Epoch, Finding, Window
from _workload import REFUSED, Driver, Open, Shape, window_of
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreKeyspace, CoreTransaction

from enginelib import errors

KINDS = (
    ("eio", errno.EIO, False, False),
    ("eio-sticky", errno.EIO, False, True),
    ("eio-short", errno.EIO, True, False),
    ("enospc", errno.ENOSPC, False, False),
    ("enospc-sticky", errno.ENOSPC, False, True),
    ("enospc-short", errno.ENOSPC, True, False),
)
MEDIUM = (errors.StorageError, errors.OutcomeUnknown)
AFTER = 12  # steps once the medium is well again


@dataclass(frozen=True)
class Fault:
    """One failure: the call it strikes, or for "full" the bytes by which files may still grow."""

    workload: int
    kind: str
    at: int

    def __str__(self) -> str:
        return f"{self.workload}:{self.kind}:{self.at}"

    @classmethod
    def parse(cls, text: str) -> Fault:
        """The inverse of ``str``."""
        workload, kind, at = text.split(":")
        return cls(int(workload), kind, int(at))


class Struck(Driver):
    """A driver whose medium fails."""

    def __init__(self, rng: random.Random, shape: Shape, vfs: FaultVfs, full: bool) -> None:
        super().__init__(rng, shape, vfs, Window([{}], 0, 0))
        self.full = full
        self.dead = False
        self.hits = 0

    def trouble(self, error: BaseException) -> None:
        """Notes a failure of the medium."""
        self.hits += 1
        self.note(f"  {type(error).__name__}: {error}")
        if isinstance(error, errors.OutcomeUnknown | errors.LogWriteError):
            self.dead = True
            if self.full:
                raise Finding(f"a full disk is not final, but: {type(error).__name__}: {error}")

    def step(self) -> None:
        """As ever, but failures are part of it."""
        try:
            super().step()
        except MEDIUM as error:
            self.trouble(error)

    def upkeep(self) -> None:
        """Checkpoints fail and are tried again later."""
        super().upkeep()

    def give_up(self, one: Open) -> None:
        """Rolls back: on a full disk that cannot fail."""
        if one in self.open:
            self.open.remove(one)
        for _ in range(2):
            try:
                one.txn.abort()
                return
            except errors.StorageError as error:
                if self.full:
                    raise Finding(f"a rollback failed on a full disk: {error}") from error
                self.trouble(error)

    def end(self, one: Open) -> None:
        """An end that fails leaves the transaction to be rolled back, or its outcome unknown."""
        self.open.remove(one)
        roll = self.rng.random()
        if roll < 0.72:
            self.commit(one)
        elif roll < 0.94:
            self.note(f"abort {one.txn.id}")
            self.give_up(one)

    def commit(self, one: Open) -> None:
        """Commits; a refusal before the record is none."""
        epoch = self.epochs[-1]
        count = len(epoch.commits)
        try:
            super().commit(one)
        except errors.OutcomeUnknown:
            raise
        except errors.StorageError as error:
            del epoch.commits[count:]
            del epoch.states[count + 1 :]
            if one.txn.state != "active":
                raise Finding(f"a refused commit leaves the transaction {one.txn.state}") from error
            self.give_up(one)
            raise

    def change(self, one: Open) -> None:
        """A failed change has changed nothing."""
        try:
            super().change(one)
        except errors.StorageError as error:
            self.after_failure(one, error)

    def catalogue(self, one: Open) -> None:
        """Likewise; a half-done renaming is given up."""
        try:
            super().catalogue(one)
        except errors.StorageError as error:
            self.trouble(error)
            self.give_up(one)

    def savepoint(self, one: Open) -> None:
        """A rollback to a savepoint that failed half-way leaves only the abort."""
        try:
            super().savepoint(one)
        except errors.StorageError as error:
            self.trouble(error)
            self.give_up(one)

    def after_failure(self, one: Open, error: errors.StorageError) -> None:
        """Some go on, some give up."""
        self.trouble(error)
        if self.rng.random() < 0.4:
            self.give_up(one)

    def restart(self, clean: bool) -> None:
        """Not with a failing medium."""

    def reach_end(self) -> None:
        """The log has failed: the database reads on, and refuses writes."""
        assert self.db is not None
        if h.content(self.db) != self.state():
            raise Finding(f"reads after the log failed: {h.difference(self.state(), h.content(self.db))}")
        txn = self.db.core_transaction(CoreTransaction)
        try:
            if self.names:
                name = sorted(self.names)[0]
                txn.put(self.db.core_keyspace(CoreKeyspace, name, False), b"probe", b"")
            else:
                txn.create_keyspace(CoreKeyspace, "probe")
            txn.commit()
        except errors.LogWriteError:
            return
        except REFUSED:
            return
        finally:
            if txn.state == "active":
                txn.abort()
        raise Finding("the log has failed, and a write was taken")


class Faults:
    """Every failure of one workload after the other."""

    def __init__(self, seed: int, tell: Callable[[str], None] = lambda place: None) -> None:
        self.seed = seed
        self.tell = tell
        self.runs = 0
        self.states = 0
        self.failures: list[Failure] = []
        self.sorts: set[str] = set()

    def shape(self, workload: int) -> Shape:
        """Small and short: it runs thousands of times."""
        rng = random.Random(f"{self.seed}/faults/{workload}/shape")
        shape = Shape.draw(rng)
        options = dict(shape.options, segment_size=rng.choice((16384, 32768)), log_buffer=512)
        options.pop("hold_log", None)
        fat = rng.random() < 0.25
        return Shape(options, rng.randrange(25, 70), 60 if fat else 12, 5000, 150 if fat else 6, shape.lsm, False, before=shape.before)

    def driver(self, workload: int, full: bool) -> Struck:
        """A driver on an empty medium."""
        return Struck(random.Random(f"{self.seed}/faults/{workload}"), self.shape(workload), FaultVfs(), full)

    def faults(self, workload: int) -> Iterator[Fault]:
        """All there are in one workload."""
        driver = self.driver(workload, False)
        driver.start()
        for _ in range(driver.shape.steps):
            driver.step()
        assert driver.db is not None
        driver.open.clear()
        driver.readers.clear()
        driver.db.abandon()
        growth, sizes = 0, {}
        points = []
        for name, path, offset, n, status, _ in driver.vfs.trace():
            if name in ("write", "write_tail") and status == 0 and offset + n > sizes.get(path, 0):
                growth += offset + n - sizes.get(path, 0)
                sizes[path] = offset + n
                points.append(growth - 1)
            elif name == "reserve" and status == 0:
                growth += n - sizes.get(path, 0)
                sizes[path] = n
                points.append(growth - 1)
            elif name == "truncate" and status == 0:
                sizes[path] = n
        for at in points:
            yield Fault(workload, "full", at)
        for kind, _errno, _short, _sticky in KINDS:
            for at in range(driver.vfs.calls):
                yield Fault(workload, kind, at)

    def explore(self, workload: int, enough: Callable[[], bool]) -> None:
        """All of them."""
        for fault in self.faults(workload):
            if enough() or len(self.failures) >= 5:
                return
            self.again(fault)

    def again(self, fault: Fault) -> None:
        """One failure."""
        self.tell(str(fault))
        self.runs += 1
        driver = self.driver(fault.workload, fault.kind == "full")
        vfs = driver.vfs
        if fault.kind == "full":
            vfs.set_room(fault.at)
        else:
            number, short, sticky = next(k[1:] for k in KINDS if k[0] == fault.kind)
            vfs.inject(fault.at, number, short, sticky)
        try:
            self.run(driver, fault)
        except Exception as error:
            sort = "".join(c for c in str(error) if not c.isdigit())[:60]
            if sort not in self.sorts:
                self.sorts.add(sort)
                calls = [f"  {c[5]}: {c[0]} {c[1]} at {c[2]} n {c[3]} -> {c[4]}" for c in vfs.trace() if c[4] > 2][:6]
                what = f"{type(error).__name__}: {error}"
                self.failures.append(Failure(str(fault), what, [*driver.log[-14:], *calls]))
        finally:
            if driver.db is not None:
                driver.open.clear()
                driver.readers.clear()
                driver.db.abandon()

    def run(self, driver: Struck, fault: Fault) -> None:
        """The workload, the failure in it, and what must hold then."""
        vfs = driver.vfs
        try:
            driver.start()
        except MEDIUM:
            driver.epochs.clear()
            vfs.clear_injections()
            driver.start()  # a failed opening leaves something that can be opened
        for _ in range(driver.shape.steps):
            driver.step()
            if driver.dead:
                break
        self.law_seven(driver, fault)
        if fault.kind == "full" and driver.hits and not driver.dead:
            for one in list(driver.open):
                if driver.rng.random() < 0.5:
                    driver.give_up(one)
        vfs.clear_injections()
        if driver.dead:
            driver.reach_end()
        else:
            hits = driver.hits
            for _ in range(AFTER):
                driver.step()
            if driver.hits != hits and not driver.dead:
                raise Finding("the medium is well again, and operations still fail")
            if driver.dead:
                driver.reach_end()
            else:
                driver.check_live()
        self.crash(driver)

    def law_seven(self, driver: Struck, fault: Fault) -> None:
        """A failed write or sync of the log is final."""
        assert driver.db is not None
        trace = driver.vfs.trace()
        opened = driver.epochs[-1].opened
        if not fault.kind.startswith("eio") or fault.at >= len(trace) or driver.dead:
            return
        name, path, _offset, _n, _status, position = trace[fault.at]
        if position > opened and path.endswith(".wal") and name in ("write", "write_tail", "sync"):
            if not driver.db.stats()["log"]["failed"]:
                raise Finding(f"{name} of {path} failed, and the log goes on")
            driver.dead = True

    def crash(self, driver: Struck) -> None:
        """After all that, a crash: nothing acknowledged is lost."""
        vfs = driver.vfs
        end = vfs.mutations
        cuts = [(end, "kill", 0), (end, "lost", 0), (end, "power", 1), (end, "power", 2)]
        for _ in range(3):
            cuts.append(
                (
                    driver.rng.randrange(driver.epochs[-1].start, end + 1),
                    driver.rng.choice(("lost", "power")),
                    3,
                )
            )
        for cut, mode, seed in cuts:
            self.states += 1
            window = window_of(driver.epochs, cut, mode)
            db = h.open_database(vfs.crash_image(cut, seed, mode), driver.shape.options)
            try:
                h.match(h.content(db), window)
                h.check_verify(db)
            except Finding as error:
                raise Finding(f"after a crash at {cut} ({mode} {seed}): {error}") from error
            finally:
                db.abandon()


__all__ = ["SYNC", "Epoch", "Fault", "Faults"]
