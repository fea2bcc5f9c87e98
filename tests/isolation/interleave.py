"""Runs scripts of several sessions in every order that their steps can come in.

A script is a tuple of sessions, a session a tuple of steps, a step a function of an Actor: `actor.get`, `put`, `delete`, `scan`, `lock` and `abort` act on its transaction
and note what was seen. Each session runs in a thread of its own; a step that has to wait leaves the others to go on, and the steps of its session come when it has
got further. The same steps run against a dictionary, one session after the other, give what the serial orders give.
"""

import itertools
import queue
import threading
import time
from typing import NamedTuple

import enginelib

PATIENCE = 30.0


class Outcome(NamedTuple):
    """What became of a run.

    ends: of each session "committed", "aborted" (by itself), or the code of the error that ended it.
    seen: of each session what it read, in order.
    final: the records afterwards.
    """

    ends: tuple
    seen: tuple
    final: tuple


class Model:
    """A dictionary with the methods of a transaction that steps use."""

    def __init__(self, records):
        self.records = records

    def get(self, _, key):
        return self.records.get(key)

    get_for_update = get

    def put(self, _, key, value):
        self.records[key] = value

    def delete(self, _, key):
        return self.records.pop(key, None) is not None

    def scan(self, _, start=None, stop=None, **how):
        keys = [k for k in sorted(self.records) if (start is None or k >= start) and (stop is None or k < stop)]
        if how.get("reverse"):
            keys.reverse()
        if how.get("where"):
            keys = [key for key in keys if how["where"].matches(key, self.records[key])]
        return [(key, self.records[key]) for key in keys[: how.get("limit")]]


class Actor:
    """What a step acts on."""

    def __init__(self, txn, keyspace):
        self.txn = txn
        self.keyspace = keyspace
        self.seen = []
        self.over = False

    def _note(self, what):
        self.seen.append(what)
        return what

    def get(self, key):
        return self._note(self.txn.get(self.keyspace, key))

    def lock(self, key):
        return self._note(self.txn.get_for_update(self.keyspace, key))

    def put(self, key, value):
        self.txn.put(self.keyspace, key, value)

    def delete(self, key):
        return self._note(self.txn.delete(self.keyspace, key))

    def scan(self, start=None, stop=None, **how):
        return self._note(tuple(self.txn.scan(self.keyspace, start, stop, **how)))

    def abort(self):
        self.over = True


def orders(counts):
    """Every order in which so many steps of each session can come."""
    counts = list(counts)

    def rest(left):
        if not any(left):
            yield ()
            return
        for i, n in enumerate(left):
            if n:
                left[i] -= 1
                for tail in rest(left):
                    yield (i, *tail)
                left[i] += 1

    return rest(counts)


def serial_outcomes(script, setup, committed):
    """(seen, final) of every serial order of those sessions."""
    found = set()
    for order in itertools.permutations(committed):
        records = dict(setup)
        seen = {}
        for i in order:
            actor = Actor(Model(records), None)
            for step in script[i]:
                step(actor)
                if actor.over:
                    break
            seen[i] = tuple(actor.seen)
        found.add((tuple(seen[i] for i in sorted(order)), tuple(sorted(records.items()))))
    return found


class _Session(threading.Thread):
    def __init__(self, runner):
        super().__init__(daemon=True)
        self.inbox = queue.SimpleQueue()
        self.runner = runner
        self.start()

    def run(self):
        while (step := self.inbox.get()) is not None:
            try:
                step(self)
            except enginelib.Error as error:
                self.finish(error.code)
            except BaseException as error:
                self.finish(f"{type(error).__name__}: {error}")
            self.busy = False
            self.runner.completed.put(self)

    def reset(self, level):
        self.level = level
        self.actor = None
        self.end = None
        self.busy = False
        self.deferred = 0
        self.number = 0

    def finish(self, how):
        self.end = how
        if self.actor is not None:
            self.actor.txn.abort()

    def act(self, step, last):
        if self.actor is None:
            begun = self.runner.db.transaction(**self.level)
            self.actor = Actor(begun, self.runner.keyspace)
        if step is not None:
            step(self.actor)
            if self.actor.over:
                self.finish("aborted")
        if last and self.end is None:
            self.actor.txn.commit()
            self.end = "committed"

    @property
    def stuck(self):
        if self.actor is not None:
            return self.actor.txn.waiting
        # It waits for the place of serial execution, as any other that has not begun.
        beginning = sum(s.busy and s.actor is None for s in self.runner.sessions)
        known = {s.actor.txn.number for s in self.runner.sessions if s.actor is not None}
        strangers = [row for row in self.runner.db.wait_rows() if row[0] not in known]
        return self.actor is None and len(strangers) == beginning


class Runner:
    """Runs scripts in one database; its threads are used again."""

    def __init__(self, db, keyspace):
        self.db = db
        self.keyspace = keyspace
        self.completed = queue.SimpleQueue()
        self.threads = []
        self.sessions = []

    def close(self):
        for thread in self.threads:
            thread.inbox.put(None)
            thread.join(PATIENCE)

    def run(self, script, setup, levels, order):
        """One run; levels: keyword arguments of each session's transaction; order: session numbers, once for each step and once for its commit."""
        with self.db.transaction() as txn:
            for key in [key for key in txn.scan(self.keyspace, values=False) if key not in setup]:
                txn.delete(self.keyspace, key)
            txn.put_many(self.keyspace, list(setup.items()))
        while len(self.threads) < len(script):
            self.threads.append(_Session(self))
        self.sessions = self.threads[: len(script)]
        for session, steps, level in zip(self.sessions, script, levels, strict=True):
            session.reset(level)
            session.steps = iter([*[(step, False) for step in steps], (None, True)])
        for number in order:
            self.sessions[number].deferred += 1
            self._advance()
        assert not any(s.busy or (s.deferred and s.end is None) for s in self.sessions), f"stuck: {self.db.waits_for()}"
        return Outcome(
            tuple(s.end for s in self.sessions), tuple(tuple(s.actor.seen) for s in self.sessions), tuple(self.keyspace.items())
        )

    def _advance(self):
        """Takes every step that is due and can be taken, until what is left waits for sessions whose steps are not due."""
        while True:
            self._settle()
            ready = [s for s in self.sessions if s.deferred and not s.busy and s.end is None]
            if not ready:
                return
            session = ready[0]
            session.deferred -= 1
            session.busy = True
            step, last = next(session.steps)
            session.inbox.put(lambda s, step=step, last=last: s.act(step, last))

    def _settle(self):
        deadline = time.monotonic() + PATIENCE
        while True:
            before = [s.busy for s in self.sessions]
            going = any(s.busy and not s.stuck for s in self.sessions)
            if before != [s.busy for s in self.sessions]:
                continue  # who ended meanwhile may have let go whoever was found waiting before
            if not going:
                return
            try:
                self.completed.get(timeout=0.0005)
            except queue.Empty:
                assert time.monotonic() < deadline, "a step neither ended nor waited"
