"""What a database may hold after a crash: the model's side of the crash campaigns.

A *state* is ``{keyspace name: {key: value}}``. An *epoch* is one life of the database on one journal: from the
start of ``open`` to the next one. It holds the states after 0, 1, 2, ... commits in commit order, and for each
commit where in the journal it began and where it was acknowledged.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreDatabase, CoreKeyspace, CoreTransaction

State = dict[str, dict[bytes, bytes]]
LAZY, OS, SYNC = 0, 1, 2
DATABASE = "/db"


class Finding(Exception):
    """The database broke a promise."""


@dataclass
class Window:
    """What may be found: ``states[low]`` to ``states[high]``."""

    states: list[State]
    low: int
    high: int
    low_power: int = 0  # what stays sure if the power fails before recovery is through


@dataclass
class Commit:
    begun: int  # journal position
    durability: int
    acknowledged: int = -1  # journal position; -1: never returned well
    written: int = -1  # as of when it is known to survive a kill
    synced: int = -1  # and a loss of power


@dataclass
class Epoch:
    """One life of the database."""

    start: int
    base: Window
    opened: int = -1  # journal position at which open returned
    states: list[State] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)

    def came_up(self, position: int, found: int) -> None:
        """``open`` returned, showing ``base.states[found]``."""
        self.opened = position
        self.states = [self.base.states[found]]

    def began(self, position: int, durability: int, state: State) -> Commit:
        """A commit record may be in the log from here on."""
        commit = Commit(position, durability)
        self.commits.append(commit)
        self.states.append(state)
        return commit

    def ended(self, position: int, commit: Commit) -> None:
        """It returned: with its durability, and that of all before it in commit order."""
        commit.acknowledged = position
        if commit.durability >= OS:
            self.survives(position, commit, commit.durability)

    def survives(self, position: int, commit: Commit | None, durability: int) -> None:
        """From here on all up to ``commit`` (None: all there are) is as durable as that."""
        for one in self.commits:
            if one.written < 0:
                one.written = position
            if one.synced < 0 and durability == SYNC:
                one.synced = position
            if one is commit:
                break

    def window(self, cut: int, mode: str) -> Window:
        """What may be found after a crash at journal position ``cut``."""
        if self.opened < 0 or cut < self.opened:
            base = self.base
            low = base.low if mode in ("kill", "all") else base.low_power
            return Window(base.states, low, base.high, base.low_power)
        written = synced = high = 0
        for i, one in enumerate(self.commits, 1):
            if one.begun <= cut:
                high = i
            if 0 <= one.written <= cut:
                written = i
            if 0 <= one.synced <= cut:
                synced = i
        return Window(self.states, written if mode in ("kill", "all") else synced, high, synced)


def content(db: CoreDatabase) -> State:
    """Everything the database shows, read in one transaction."""
    state: State = {}
    txn = db.core_transaction(CoreTransaction, True)
    for name, _id, _backend in txn.catalog_rows():
        rows = list(txn.scan(db.core_keyspace(CoreKeyspace, name, False)))
        state[name] = dict(rows)
        if len(state[name]) != len(rows) or any(a[0] >= b[0] for a, b in itertools.pairwise(rows)):
            raise Finding(f"keyspace {name!r}: keys out of order or twice")
    txn.abort()
    return state


def match(found: State, window: Window) -> int:
    """The index of the state that was found; a ``Finding`` when it is none of those allowed."""
    for i in range(window.high, window.low - 1, -1):
        if window.states[i] == found:
            return i
    text = f"expected a state of {window.low}..{window.high} of {len(window.states) - 1} commits; "
    for i, state in enumerate(window.states):
        if state == found:
            lost = "an acknowledged transaction is lost" if i < window.low else "shows more than was begun"
            raise Finding(f"{text}found that of {i} commits: {lost}")
    raise Finding(f"{text}found no prefix at all: {difference(window.states[window.high], found)}")


def difference(expected: State, found: State) -> str:
    """The first few places in which two states differ."""
    out = []
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            out.append(f"keyspace {name!r} is missing")
        elif name not in expected:
            out.append(f"keyspace {name!r} is too many")
        else:
            a, b = expected[name], found[name]
            for key in sorted(a.keys() | b.keys()):
                if a.get(key) != b.get(key):
                    out.append(f"{name}[{key!r}]: expected {brief(a.get(key))}, found {brief(b.get(key))}")
    more = f" and {len(out) - 6} more" if len(out) > 6 else ""
    return "; ".join(out[:6]) + more


def brief(value: bytes | None) -> str:
    """A value, shortened."""
    if value is None:
        return "nothing"
    return f"{value[:12]!r} ({len(value)} bytes)"


def open_database(vfs: FaultVfs, options: dict[str, int], **more: object) -> CoreDatabase:
    """Opens the database in its own, deterministic way: no background thread, no waiting."""
    return CoreDatabase(DATABASE, vfs=vfs, background=False, lock_timeout=0.0, lazy_interval=0.1, **options, **more)


def check_verify(db: CoreDatabase) -> None:
    """``verify`` must be clean."""
    findings, _counts = db.verify()
    if findings:
        raise Finding(f"verify: {findings[:3]}")
