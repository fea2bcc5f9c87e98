"""Records a workload, cuts it everywhere, opens what a crash would leave, and checks it."""

from __future__ import annotations

import random
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import _doubts
import _history as h
from _archive import ArchiveAudit
from _history import Finding, Window
from _workload import Driver, Shape, window_of
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreKeyspace, CoreTransaction

VARIANTS = (("kill", 0), ("power", 1), ("power", 2), ("power", 3), ("lost", 0))
LIVES = 3  # crash images that one workload goes on from, at most
AGAIN = 0.35  # share of states that crash again while they recover
USED = 0.15  # share of states that are worked with afterwards
READ_ONLY = 0.03


@dataclass(frozen=True)
class Place:
    """One crash, to be found again: in which life of which workload, where, and how."""

    workload: int
    life: int
    cut: int
    mode: str
    seed: int
    cut2: int = -1
    mode2: str = ""
    seed2: int = 0

    def __str__(self) -> str:
        text = f"{self.workload}:{self.life}:{self.cut}:{self.mode}:{self.seed}"
        return text if self.cut2 < 0 else f"{text}:{self.cut2}:{self.mode2}:{self.seed2}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """The inverse of ``str``."""
        p = text.split(":")
        first = cls(int(p[0]), int(p[1]), int(p[2]), p[3], int(p[4]))
        if len(p) == 5:
            return first
        return cls(*first.first(), int(p[5]), p[6], int(p[7]))

    def first(self) -> tuple[int, int, int, str, int]:
        """The crash without the one during its recovery."""
        return self.workload, self.life, self.cut, self.mode, self.seed


@dataclass
class Failure:
    """What was found, and where."""

    place: str
    what: str
    trace: list[str]


class Life:
    """A recorded run: one journal, its driver, the states it went through."""

    def __init__(
        self,
        seed: int,
        workload: int,
        life: int,
        vfs: FaultVfs,
        base: Window,
        shape: Shape,
        known: dict[int, h.State],
        doubts: list[_doubts.Doubt | _doubts.Frozen],
        unlogged: bool,
        archive: ArchiveAudit | None,
    ) -> None:
        self.number = life
        self.vfs = vfs
        self.rng = random.Random(f"{seed}/{workload}/{life}")
        self.driver = Driver(self.rng, shape, vfs, base, dict(known), doubts, archive)
        self.driver.audit.unlogged = unlogged
        self.error: BaseException | None = None

    def run(self) -> None:
        """Does the work; an error is kept."""
        driver = self.driver
        try:
            driver.start()
            steps = driver.shape.steps if self.number == 0 else driver.shape.steps // 2
            for _ in range(steps):
                driver.step()
                if self.rng.random() < 0.004:
                    driver.restart(self.rng.random() < 0.5)
            driver.check_live()
            if self.rng.random() < 0.4:
                driver.restart(True)
                driver.check_live()
        except Exception as error:
            self.error = error
        finally:
            if driver.db is not None:
                driver.open.clear()
                driver.readers.clear()
                driver.db.abandon()


class Explorer:
    """All crashes of one workload after the other."""

    def __init__(self, seed: int, tell: Callable[[str], None] = lambda place: None) -> None:
        self.seed = seed
        self.tell = tell
        self.states = 0
        self.twice = 0
        self.cuts = 0
        self.failures: list[Failure] = []
        self.sorts: set[str] = set()

    def lives(self, workload: int) -> Iterator[Life]:
        """The first run from nothing, then runs that go on from a crash of the one before."""
        shape = Shape.draw(random.Random(f"{self.seed}/{workload}/shape"))
        vfs = FaultVfs()
        base = Window([{}], 0, 0)
        known: dict[int, h.State] = {}
        doubts: list[_doubts.Doubt | _doubts.Frozen] = []
        archive: ArchiveAudit | None = None
        unlogged = False
        for number in range(LIVES):
            life = Life(self.seed, workload, number, vfs, base, shape, known, doubts, unlogged, archive)
            life.run()
            yield life
            if life.error is not None:
                return
            rng = random.Random(f"{self.seed}/{workload}/{number}/next")
            if rng.random() < 0.25:
                return
            cut = rng.randrange(vfs.mutations // 2, vfs.mutations + 1)
            mode, seed = rng.choice((("kill", 0), ("power", 77), ("lost", 0)))
            window = window_of(life.driver.epochs, cut, mode)
            try:
                found = self.found(vfs.crash_image(cut, seed, mode), window, shape)
            except Exception:
                return  # the exploration of this life reports it
            low = window.low_power if mode == "kill" else found
            base = Window(window.states, found, found, min(low, found))
            vfs = vfs.crash_image(cut, seed, mode)
            known = life.driver.audit.known
            unlogged = life.driver.audit.unlogged
            doubts = _doubts.frozen(life.driver.ledgers, cut)
            archive = life.driver.archive

    def found(self, image: FaultVfs, window: Window, shape: Shape) -> int:
        """Which of the states the image holds."""
        db = h.open_database(image, shape.options)
        try:
            return h.match(h.content(db), window)
        finally:
            db.abandon()

    def explore(self, workload: int, enough: Callable[[], bool]) -> None:
        """Every cut of every life of one workload."""
        for life in self.lives(workload):
            if life.error is not None:
                self.failed(Place(workload, life.number, -1, "run", 0), life.error, life)
                return
            for cut in range(life.vfs.mutations + 1):
                if enough():
                    return
                self.cuts += 1
                for mode, seed in VARIANTS:
                    place = Place(workload, life.number, cut, mode, seed)
                    try:
                        self.one(life, place)
                    except Exception as error:
                        self.failed(place, error, life)
                        if len(self.failures) >= 5:
                            return

    def one(self, life: Life, place: Place) -> None:
        """One crash, and perhaps another in its recovery."""
        rng = random.Random(f"{self.seed}/{place}")
        shape = life.driver.shape
        window = window_of(life.driver.epochs, place.cut, place.mode)
        image = life.vfs.crash_image(place.cut, place.seed, place.mode)
        self.tell(str(place))
        if rng.random() < READ_ONLY and "/db/pages.dat" in image.files():
            self.read_only(life, place, window)
        self.check(image, window, shape, life, place.cut, lambda db, found: self.onward(db, found, image, life, place, window, rng))

    def onward(
        self,
        db: Any,
        found: int,
        image: FaultVfs,
        life: Life,
        place: Place,
        window: Window,
        rng: random.Random,
    ) -> None:
        """Some are crashed again in the recovery that has just run, some are worked with."""
        if rng.random() < AGAIN:
            cut2 = rng.randrange(image.mutations + 1)
            mode2 = rng.choice(("kill", "power", "power", "lost"))
            again = Place(*place.first(), cut2, mode2, rng.randrange(1, 1000))
            try:
                self.second(image, again, window, found, life)
            except Exception as error:
                self.failed(again, error, life)
        if rng.random() < USED:
            self.use(db, image, window.states[found], life.driver.shape, _doubts.ledger_at(life.driver.ledgers, place.cut).at(place.cut), rng)

    def second(self, image: FaultVfs, place: Place, window: Window, found: int, life: Life) -> None:
        """A crash inside recovery, which itself came after a crash."""
        self.tell(str(place))
        self.twice += 1
        low = found
        if place.mode == "kill" and place.mode2 != "kill" and place.cut2 < image.mutations:
            low = min(window.low_power, found)
        image2 = image.crash_image(place.cut2, place.seed2, place.mode2)
        self.check(image2, Window(window.states, low, found), life.driver.shape, life, place.cut)

    def check(
        self,
        image: FaultVfs,
        window: Window,
        shape: Shape,
        life: Life,
        cut: int,
        then: Callable[[Any, int], None] = lambda db, found: None,
    ) -> int:
        """Opens an image; which of the allowed states it shows."""
        self.states += 1
        db = h.open_database(image, shape.options)
        try:
            content = h.content(db)
            found = h.match(content, window)
            h.check_verify(db)
            life.driver.audit.check(db, content)
            doubts = _doubts.ledger_at(life.driver.ledgers, cut).at(cut)
            _doubts.check(db, doubts, cut, window.states, found)
            then(db, found)
            if life.driver.archive is not None:
                life.driver.archive.check(db, image, Window(window.states, 0, found), life.driver.audit.unlogged)
        finally:
            db.abandon()
        return found

    def use(self, db: Any, image: FaultVfs, state: h.State, shape: Shape, doubts: list[Any], rng: random.Random) -> None:
        """It can be worked with, what is in doubt can be ended, and the work is kept."""
        state = _doubts.settle(db, doubts, state, rng)
        expected = {name: dict(rows) for name, rows in state.items()}
        name = rng.choice([*sorted(state), "new"])
        keyspace = db.core_keyspace(CoreKeyspace, name)
        value = b"after the crash" * rng.choice((1, 200))
        with db.core_transaction(CoreTransaction) as txn:
            txn.put(keyspace, b"after", value)
        expected.setdefault(name, {})[b"after"] = value
        if rng.random() < 0.3:
            db.checkpoint()
        last = image.crash_image(image.mutations, rng.randrange(1, 100), rng.choice(("lost", "power", "kill")))
        self.states += 1
        after = h.open_database(last, shape.options)
        try:
            h.match(h.content(after), Window([expected], 0, 0))
            h.check_verify(after)
            _doubts.check(after, [], 0, [], 0)
        finally:
            after.abandon()

    def read_only(self, life: Life, place: Place, window: Window) -> None:
        """Opened for reading it shows the same and changes nothing."""
        self.states += 1
        image = life.vfs.crash_image(place.cut, place.seed, place.mode)
        db = h.open_database(image, life.driver.shape.options, read_only=True)
        try:
            h.match(h.content(db), window)
        finally:
            db.abandon()
        if image.mutations:
            raise Finding(f"opening read-only changed the files: {image.trace()}")

    def again(self, place: Place) -> None:
        """One place alone, as a failure's command asks for it."""
        for life in self.lives(place.workload):
            if life.error is not None:
                self.failed(Place(place.workload, life.number, -1, "run", 0), life.error, life)
                return
            if life.number != place.life or place.cut < 0:
                continue
            first = Place(*place.first())
            if place.cut2 < 0:
                try:
                    self.one(life, first)
                except Exception as error:
                    self.failed(first, error, life)
                return
            window = window_of(life.driver.epochs, place.cut, place.mode)
            image = life.vfs.crash_image(place.cut, place.seed, place.mode)
            try:
                found = self.found(image, window, life.driver.shape)
                self.second(image, place, window, found, life)
            except Exception as error:
                self.failed(place, error, life)
            return

    def failed(self, place: Place, error: BaseException, life: Life) -> None:
        """Keeps a failure with what led to it; one of each sort."""
        sort = re.sub(r"\d+", "#", str(error))[:60]
        if sort in self.sorts:
            return
        self.sorts.add(sort)
        lines = traceback.format_exception_only(error)
        if not isinstance(error, Finding):
            lines += traceback.format_tb(error.__traceback__)[-3:]
        steps = life.driver.log
        if place.cut >= 0:
            steps = [line for line in steps if int(line.split(":", 1)[0]) <= place.cut]
        calls = [call for call in life.vfs.trace() if place.cut < 0 or call[5] <= place.cut + 1]
        changing = [
            c
            for c in calls
            if c[0] in ("write", "write_tail", "sync", "truncate", "reserve", "rename", "unlink", "sync_dir", "mkdir")
        ]
        trace = [
            *steps[-14:],
            *(f"  {c[5]}: {c[0]} {c[1]} at {c[2]} n {c[3]} -> {c[4]}" for c in changing[-12:]),
        ]
        self.failures.append(Failure(str(place), "".join(lines).strip(), trace))
