"""A slot beside a workload: what it delivers, put on top of what was acknowledged, must be what the database shows.

The driver reads for the slot now and then, and remembers the state at each LSN that it acknowledges. After a crash the
slot stands at one of those, and its stream leads from that state to the one that recovery found: nothing lost, nothing
twice, nothing that was taken back.
"""

from __future__ import annotations

import random

from _history import Finding, State
from enginelib._native.engine.door import (
    ChangeReader,
    CoreDatabase,
    Operation,
    add_slot,
    drop_slot,
    move_slot,
    oldest_running,
    slot_rows,
)

from enginelib import errors

NAME = "audit"


def operate(state: State, o: Operation) -> None:
    """Does one operation; what is shared is never changed in place."""
    if o.op == "create_keyspace":
        if o.keyspace in state:
            raise Finding(f"the stream makes {o.keyspace!r} twice")
        state[o.keyspace] = {}
    elif o.op == "drop_keyspace":
        del state[o.keyspace]
    elif o.op == "rename_keyspace":
        assert o.value is not None
        state[o.value.decode()] = state.pop(o.keyspace)
    else:
        assert o.key is not None
        rows = state[o.keyspace]
        if o.existed is not None and (o.existed, o.before) != (o.key in rows, rows.get(o.key)):
            raise Finding(f"the before-image of {o.key!r} in {o.keyspace!r} is not what was there")
        if o.op == "put":
            assert o.value is not None
            rows[o.key] = o.value
        elif o.op == "delete":
            rows.pop(o.key, None)
        else:
            for key in [key for key in rows if key >= o.key and (o.value is None or key < o.value)]:
                del rows[key]


class Audit:
    """The consumer of the slot, and what it remembers."""

    def __init__(self, known: dict[int, State] | None = None, before: bool = False) -> None:
        self.images = "full" if before else "none"  # every keyspace logs them, and every change must have one
        self.known = known if known is not None else {}
        self.unlogged = False  # something was loaded without the log: the stream says so, and ends

    def begin(self, db: CoreDatabase, state: State) -> None:
        """Makes the slot, at this state, if there is none; nothing is in flight."""
        if NAME not in slot_rows(db):
            restart, end = oldest_running(db)
            add_slot(db, NAME, restart, end, 1 << 60, True, 0.0)
            self.known[end] = state

    def read(self, db: CoreDatabase, memory: int, stop: float, rng: random.Random) -> tuple[int, State] | None:
        """Follows the slot's stream; the place where it ends and the state there. stop: chance to end earlier."""
        row = slot_rows(db)[NAME]
        if row.confirmed not in self.known:
            raise Finding(f"the slot stands at {row.confirmed}, where it never was")
        state = {name: dict(rows) for name, rows in self.known[row.confirmed].items()}
        at, last, restart = row.confirmed, 0, None
        reader = ChangeReader(db, row.confirmed, row.restart, None, memory, row.trusted, self.images)
        try:
            while True:
                change = reader.next_change()
                if change is None and reader.wait(0):
                    change = reader.next_change()
                if change is None:
                    break
                lsn, sequence, operations = change.lsn, change.sequence, change.operations
                if sequence <= last or lsn <= at:
                    raise Finding(f"the stream gives commit {sequence} at {lsn} after {last} at {at}")
                at, last = lsn, sequence
                for operation in operations:
                    operate(state, operation)
                restart = reader.floor
                if rng.random() < stop:
                    break
        except errors.ChangesGone:
            if not self.unlogged:
                raise
            return None
        finally:
            reader.close()
        if stop and at > row.confirmed:
            move_slot(db, NAME, at, restart)
            self.known[at] = state
        return at, state

    def follow(self, db: CoreDatabase, rng: random.Random) -> None:
        """Reads some, and acknowledges it."""
        if NAME not in slot_rows(db):
            return
        if self.read(db, rng.choice((200, 1 << 20)), rng.choice((0.01, 0.3)), rng) is None:
            drop_slot(db, NAME)

    def check(self, db: CoreDatabase, content: State) -> None:
        """After a crash: what the slot still has to say leads to what the database shows."""
        row = slot_rows(db).get(NAME)
        if row is None:
            return
        if row.lost:
            raise Finding("the slot was lost")
        end = self.read(db, 1 << 20, 0.0, random.Random(0))
        if end is not None and end[1] != content:
            raise Finding(f"the slot's stream leads to another state: {set(end[1]) ^ set(content)} or in their rows")
