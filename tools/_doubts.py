"""Prepared transactions beside a workload: which of them must be in doubt after a crash, and what they would do.

A *ledger* belongs to one epoch. It holds what was in doubt when the database came up, and where in the journal each
prepare and each end began and returned. Prepare and its ends are synced when they return; in between either answer is
right, except that a commit is there exactly when the state that it leads to is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from _history import Finding, State
from enginelib._native.engine.door import CoreDatabase, CoreTransaction

from enginelib import errors

Changes = list[tuple[Any, ...]]
MUST, MUST_NOT, MAY = "must", "must not", "may"


@dataclass
class Doubt:
    """One transaction that was prepared, or was being."""

    xid: bytes
    ops: Changes
    began: int = -1  # journal positions; -1: before this epoch
    returned: int | None = -1
    ends: str = ""  # "commit" or "rollback", once one of them has begun
    end_began: int = 0
    end_returned: int | None = None
    states: list[State] | None = None  # of the epoch that it commits in,
    index: int = 0  # and the first of them that shows it

    def verdict(self, cut: int, states: list[State], found: int) -> str:
        """Whether it is prepared after a crash at that position which shows ``states[found]``."""
        if self.returned is None or self.returned > cut:
            return MUST_NOT if self.began > cut else MAY
        if not self.ends or self.end_began > cut:
            return MUST
        if self.ends == "commit" and self.states is states:
            alike = [i for i in range(len(states)) if states[i] == states[found]]
            if min(alike, default=found) < self.index <= max(alike, default=found):
                return MAY
            return MUST if found < self.index else MUST_NOT
        return MUST_NOT if self.end_returned is not None and self.end_returned <= cut else MAY


@dataclass
class Frozen:
    """What is known of one after a crash that a new life goes on from."""

    xid: bytes
    ops: Changes
    known: Callable[[list[State], int], str]

    def verdict(self, cut: int, states: list[State], found: int) -> str:
        """As of a `Doubt`, at that crash."""
        return self.known(states, found)


@dataclass
class Ledger:
    """One epoch's."""

    start: int
    before: list[Doubt | Frozen]
    opened: int = -1
    doubts: list[Doubt] = field(default_factory=list)

    def at(self, cut: int) -> list[Doubt | Frozen]:
        """Those to be asked about a crash at that position."""
        return list(self.doubts) if 0 <= self.opened <= cut else self.before

    def came_up(self, db: CoreDatabase, position: int) -> None:
        """``open`` returned."""
        ops = {each.xid: each.ops for each in self.before}
        found = [row[0] for row in db.prepared_rows()]
        unknown = set(found) - set(ops)
        if unknown:
            raise Finding(f"{unknown} are prepared, which never were")
        self.opened = position
        self.doubts = [Doubt(xid, ops[xid]) for xid in found]

    def standing(self) -> list[Doubt]:
        """Those in doubt now."""
        return [each for each in self.doubts if each.returned is not None and not each.ends]


def ledger_at(ledgers: list[Ledger], cut: int) -> Ledger:
    """The ledger of the epoch that covers a position."""
    return next(ledger for ledger in reversed(ledgers) if ledger.start <= cut)


def frozen(ledgers: list[Ledger], cut: int) -> list[Doubt | Frozen]:
    """What a life that goes on from a crash has to know."""

    def fix(one: Doubt | Frozen) -> Frozen:
        return Frozen(one.xid, one.ops, lambda states, found: one.verdict(cut, states, found))

    return [fix(one) for one in ledger_at(ledgers, cut).at(cut)]


def check(db: CoreDatabase, doubts: list[Doubt | Frozen], cut: int, states: list[State], found: int) -> None:
    """Nothing that was promised is forgotten, and nothing is in doubt that has ended."""
    there = {row[0] for row in db.prepared_rows()}
    for one in doubts:
        verdict = one.verdict(cut, states, found)
        if verdict == MUST and one.xid not in there:
            raise Finding(f"the prepared transaction {one.xid!r} is forgotten")
        if verdict == MUST_NOT and one.xid in there:
            raise Finding(f"the transaction {one.xid!r} is prepared, and has ended or never was")
    strangers = there - {one.xid for one in doubts}
    if strangers:
        raise Finding(f"{strangers} are prepared, which never were")


def settle(db: CoreDatabase, doubts: list[Doubt | Frozen], state: State, rng: random.Random) -> State:
    """Ends all that is in doubt; what the database must show then, which it does."""
    from _history import content, difference

    ops = {one.xid: one.ops for one in doubts}
    names = {name: id for name, id, _ in db.keyspace_rows()}
    data = {id: dict(state[name]) for name, id in names.items()}
    for xid, *_ in db.prepared_rows():
        blocked(db, names, ops[xid], rng)
        commits = rng.random() < 0.6
        if not db.end_prepared(xid, commits):
            raise Finding(f"{xid!r} could not be ended")
        if commits:
            apply(ops[xid], names, data)
        expected = {name: data[id] for name, id in names.items()}
        found = content(db)
        if found != expected:
            raise Finding(f"{'commit' if commits else 'rollback'} of {xid!r} shows another state: {difference(expected, found)}")
    return {name: data[id] for name, id in names.items()}


def blocked(db: CoreDatabase, names: dict[str, int], ops: Changes, rng: random.Random) -> None:
    """Others are kept from what it has changed."""
    changed = [op for op in ops if op[0] == "put" and op[1] in names.values()]
    if not changed:
        return
    op = rng.choice(changed)
    name = next(name for name, id in names.items() if id == op[1])
    from enginelib._native.engine.door import CoreKeyspace

    txn = db.core_transaction(CoreTransaction)
    try:
        txn.put(db.core_keyspace(CoreKeyspace, name, False), op[2], b"stolen")
    except errors.TransactionAborted:
        return
    finally:
        txn.abort()
    raise Finding(f"{name}[{op[2]!r}] could be changed, which a prepared transaction holds")


def apply(ops: Changes, names: dict[str, int], data: dict[int, dict[bytes, bytes]]) -> None:
    """Puts a transaction's changes on top; what is shared is never changed in place."""
    copied = set()
    for op in ops:
        what, id = op[0], op[1]
        if what in ("put", "delete"):
            if id not in data:
                continue  # of a keyspace that this transaction has dropped since
            if id not in copied:
                data[id] = dict(data[id])
                copied.add(id)
            if what == "put":
                data[id][op[2]] = op[3]
            else:
                data[id].pop(op[2], None)
        elif what == "create":
            names[op[2]] = id
            data[id] = {}
            copied.add(id)
        elif what == "drop":
            del names[op[2]]
            del data[id]
        else:
            del names[op[2]]
            names[op[3]] = id
