"""A small coordinator of distributed transactions, whose decisions are kept in a database.

Presumed abort, after Mohan, Lindsay and Obermarck, *Transaction Management in the R\\* Distributed Database Management
System* (TODS 1986): only decisions to commit are logged, before anybody is told of them; a transaction of which there
is no decision was rolled back. So a prepared branch that was left behind by a crash is ended rightly by who looks it
up, and a decision may go once every branch has acknowledged it.

An xid is ``NAME.DATABASE.RUN.NUMBER.BRANCH``: the coordinator's name, the beginning of its database's id, a random word
of the run of the program, the transaction's number in it, the branch's name. A decision is a row under all but the
last, with the names of the branches.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from enginelib.errors import HeuristicOutcome, NotPrepared, OutcomeUnknown
from enginelib.twophase.branches import Branch, DatabaseBranch

if TYPE_CHECKING:
    from enginelib.database import Database

logger = logging.getLogger("enginelib")

NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
FIRST_WAIT = 0.05
LONGEST_WAIT = 30.0
ENDED_BY_HAND = (HeuristicOutcome, NotPrepared)


@dataclass
class Resolution:
    """What `Coordinator.resolve` has found and done.

    Attributes:
        committed: xids of branches that were committed, for a decision was logged.
        rolled_back: xids of branches that were rolled back, for none was.
        unreachable: what went wrong, by the name of the branch: to be tried again.
        absent: names of branches that decisions speak of and that were not given.
        by_hand: how it ended, by xid, of each branch that was ended by hand otherwise than was decided.
    """

    committed: list[str] = field(default_factory=list)
    rolled_back: list[str] = field(default_factory=list)
    unreachable: dict[str, Exception] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    by_hand: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether nothing is left in doubt that trying again could end."""
        return not self.unreachable and not self.absent


class _Going:
    """The transactions of all coordinators of one name in one database: shared, for one may resolve beside another."""

    def __init__(self) -> None:
        self.run = os.urandom(6).hex()
        self.numbers = count(1)
        self.gtrids: set[str] = set()
        self.unknown: set[str] = set()  # of those, whose decision may be durable or not until the database is reopened


_going: WeakKeyDictionary[Database, dict[str, _Going]] = WeakKeyDictionary()
_going_lock = threading.Lock()


class Coordinator:
    """Commits over several branches: everywhere or nowhere, whatever crashes meanwhile.

    May be used from any thread; each brings branches of its own.

    Attributes:
        database: where decisions are kept, in a keyspace of their own.
        name: the coordinator's.
        stopping: set by `stop`: waits end, and what cannot be reached is left to `resolve`.
    """

    def __init__(
        self,
        database: Database,
        name: str = "coordinator",
        *,
        pause: Callable[[float], object] | None = None,
        step: Callable[[str], object] | None = None,
    ) -> None:
        """Makes one; call `resolve` before anything else, for what the last run may have left.

        Args:
            database: open for writing. As long as it is open no other process coordinates under this name.
            name: 1 to 40 ASCII letters, digits, ``-`` and ``_``.
            pause: waits for so many seconds before another attempt, or less; None for a wait that `stop` ends.
            step: called with the name of each step, before it: for drills.
        """
        _check_name(name)
        self.database = database
        self.name = name
        self._prefix = f"{name}.{database.database_id[:6].hex()}"
        self.stopping = threading.Event()
        self._pause = pause or self.stopping.wait
        self._step: Callable[[str], object] = step or _nothing
        self._log = database.keyspace(f"decisions of {name}")
        with _going_lock:
            self._going = _going.setdefault(database, {}).setdefault(name, _Going())

    @contextmanager
    def transaction(self, *branches: Branch) -> Iterator[str]:
        """A block of work in branches, committed at its end and rolled back when an exception leaves it.

        Args:
            branches: all in which the block works.

        Yields:
            The name that the decision will have.
        """
        gtrid = self._begin(branches)
        try:
            yield gtrid
        except BaseException:
            try:
                self._roll_back(gtrid, branches)
            finally:
                self._going.gtrids.discard(gtrid)
            raise
        self._commit(gtrid, branches)

    def commit(self, *branches: Branch) -> str:
        """Commits the work under way in branches; see `transaction`.

        Once the decision is logged this tries for ever, with back-off, to tell each branch. `stop` and Ctrl-C end
        that: the transaction is committed then, and `resolve` tells who could not be told.

        Args:
            branches: one or more, of different names.

        Returns:
            The name of the transaction, with which its xids begin.

        Raises:
            OutcomeUnknown: the database failed while the decision was made durable: the branches stay prepared, until
                it is opened again and `resolve` finds the decision there or not.
            HeuristicOutcome: somebody rolled a branch back by hand; all others are committed.
            Exception: a branch could not prepare, or the decision not be logged: everything was rolled back.
        """
        gtrid = self._begin(branches)
        self._commit(gtrid, branches)
        return gtrid

    def stop(self) -> None:
        """Ends all waits for branches that cannot be reached, now and later."""
        self.stopping.set()

    # ---- one transaction

    def _begin(self, branches: Sequence[Branch]) -> str:
        names = [branch.name for branch in branches]
        for name in names:
            _check_name(name)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"A transaction takes one or more branches, of different names, not {names}.")
        with _going_lock:
            gtrid = f"{self._prefix}.{self._going.run}.{next(self._going.numbers)}"
            self._going.gtrids.add(gtrid)
        return gtrid

    def _commit(self, gtrid: str, branches: Sequence[Branch]) -> None:
        try:
            alone = getattr(branches[0], "commit_alone", None)
            if len(branches) == 1 and alone is not None:
                self._commit_alone(gtrid, branches, alone)
            else:
                self._commit_all(gtrid, branches)
        finally:
            if gtrid not in self._going.unknown:
                self._going.gtrids.discard(gtrid)

    def _commit_alone(self, gtrid: str, branches: Sequence[Branch], alone: Callable[[], object]) -> None:
        self._step("commit alone")
        try:
            alone()
        except OutcomeUnknown:
            raise
        except BaseException:
            self._roll_back(gtrid, branches)
            raise

    def _commit_all(self, gtrid: str, branches: Sequence[Branch]) -> None:
        last = next((b for b in branches if isinstance(b, DatabaseBranch) and b.database is self.database), None)
        told = [branch for branch in branches if branch is not last]
        try:
            for branch in told:
                self._step(f"prepare {branch.name}")
                branch.prepare(f"{gtrid}.{branch.name}")
            self._step("decide")
        except BaseException:
            self._roll_back(gtrid, branches)
            raise
        try:
            self._decide(gtrid, told, last)
        except OutcomeUnknown:
            self._going.unknown.add(gtrid)  # its absence in what can be read now says nothing
            raise
        except BaseException:
            if self._decided(gtrid):  # an interrupt, once it was durable
                with suppress(Exception):
                    self._tell(gtrid, told, once=True)
            else:
                self._roll_back(gtrid, branches)
            raise
        self._step("decided")
        self._tell(gtrid, told)

    def _decide(self, gtrid: str, told: Sequence[Branch], last: DatabaseBranch | None) -> None:
        """Logs the decision to commit; a branch in the same database commits with it, in one transaction."""
        record = json.dumps([branch.name for branch in told]).encode()
        if last is None:
            with self.database.transaction(isolation="read_committed", durability="sync") as txn:
                txn.put(self._log, gtrid.encode(), record)
        else:
            last.transaction.put(self._log, gtrid.encode(), record)
            last.commit_alone()

    def _decided(self, gtrid: str) -> bool:
        return self._log.get(gtrid.encode()) is not None

    def _tell(self, gtrid: str, branches: Sequence[Branch], once: bool = False) -> None:
        """Has each branch commit, again and again; then forgets the decision."""
        left = list(branches)
        by_hand: Exception | None = None
        waits = _waits()
        while left:
            for branch in list(left):
                self._step(f"commit {branch.name}")
                try:
                    branch.commit(f"{gtrid}.{branch.name}")
                except ENDED_BY_HAND as error:
                    logger.error("%s: %s is committed, but at %s: %s", self.name, gtrid, branch.name, error)
                    by_hand = error
                except Exception as error:
                    logger.warning("%s: %s cannot be told to commit: %s", self.name, branch.name, error)
                    continue
                left.remove(branch)
            if left and (once or self.stopping.is_set()):
                return
            if left:
                self._pause(next(waits))
        if by_hand is not None:
            raise by_hand
        self._step("forget")
        self._forget(gtrid, branches)
        self._step("forgotten")

    def _forget(self, gtrid: str, branches: Sequence[Branch]) -> None:
        """Everybody has acknowledged. What is lost of this in a crash is found by `resolve`."""
        for branch in branches:
            with suppress(Exception):
                _forget_at(branch, f"{gtrid}.{branch.name}")
        with suppress(Exception):
            self.forget(gtrid)

    def _roll_back(self, gtrid: str, branches: Sequence[Branch]) -> None:
        """Once, at each: what cannot be reached is rolled back by `resolve`, as there is no decision."""
        for branch in branches:
            self._step(f"roll back {branch.name}")
            try:
                branch.rollback(f"{gtrid}.{branch.name}")
            except Exception as error:
                logger.warning("%s: %s cannot be told to roll back: %s", self.name, branch.name, error)

    # ---- what was left behind

    def decisions(self) -> dict[str, list[str]]:
        """Returns the transactions that are committed and not acknowledged by all, with the names of their branches."""
        return {key.decode(): json.loads(value) for key, value in self._log.scan()}

    def forget(self, gtrid: str) -> None:
        """Drops a decision; after one by hand, once the damage is mended. Prepared branches of it would be rolled back.

        Args:
            gtrid: the name of the transaction.
        """
        with self.database.transaction(isolation="read_committed", durability="lazy") as txn:
            txn.delete(self._log, gtrid.encode())

    def resolve(self, *branches: Branch) -> Resolution:
        """Ends what crashes have left prepared: commits what was decided, rolls back the rest; forgets what is done.

        It touches xids of this coordinator alone, and none of a transaction that is going on in this process. It may
        be called at any time, and again; call it at the start, and from time to time: a server may prepare what it
        was asked for long after the connection was lost.

        Args:
            branches: all that transactions may have worked in, with no work under way.

        Returns:
            What was found and done.
        """
        found = Resolution()
        by_name = {branch.name: branch for branch in branches}
        left: dict[str, set[str]] = {}  # names of branches that have not acknowledged, by decision
        for name, branch in by_name.items():
            self._step(f"recover {name}")
            try:
                for xid in branch.recover():
                    self._end(found, branch, xid)
            except Exception as error:
                found.unreachable[name] = error
        for gtrid, names in self.decisions().items():
            if gtrid in self._going.gtrids:
                continue
            left[gtrid] = {name for name in names if not self._acknowledged(found, by_name, name, gtrid)}
        for gtrid, missing in left.items():
            if not missing:
                self._step("forget")
                self._forget(gtrid, [by_name[name] for name in self.decisions().get(gtrid, ())])
        for name, branch in by_name.items():
            if name not in found.unreachable:
                try:
                    self._clean(found, branch)
                except Exception as error:
                    found.unreachable[name] = error
        self._step("resolved")
        return found

    def settle(self, *branches: Branch) -> Resolution:
        """Resolves again and again, with back-off, until nothing is left that could be reached, or `stop`.

        Args:
            branches: as for `resolve`.

        Returns:
            The last resolution.
        """
        waits = _waits()
        while True:
            found = self.resolve(*branches)
            if not found.unreachable or self.stopping.is_set():
                return found
            self._pause(next(waits))

    def _gtrid(self, xid: str, branch: Branch) -> str | None:
        """The transaction's name, where the xid is of this coordinator and branch."""
        gtrid, _, name = xid.rpartition(".")
        mine = re.fullmatch(re.escape(self._prefix) + r"\.[0-9a-f]{12}\.[1-9][0-9]*", gtrid)
        return gtrid if mine and name == branch.name else None

    def _end(self, found: Resolution, branch: Branch, xid: str) -> None:
        gtrid = self._gtrid(xid, branch)
        # In this order: what is not going on any more and has no decision now never had one, or all have
        # acknowledged it.
        if gtrid is None or gtrid in self._going.gtrids:
            return
        decided = self._decided(gtrid)
        self._step(f"{'commit' if decided else 'roll back'} {branch.name}")
        try:
            if decided:
                branch.commit(xid)
                found.committed.append(xid)
            else:
                branch.rollback(xid)
                found.rolled_back.append(xid)
        except ENDED_BY_HAND as error:
            _note(found, xid, error)

    def _acknowledged(self, found: Resolution, by_name: dict[str, Branch], name: str, gtrid: str) -> bool:
        """Whether that branch has committed; one that was ended by hand never does."""
        if name not in by_name:
            found.absent.add(name)
            return False
        xid = f"{gtrid}.{name}"
        if name in found.unreachable or xid in found.by_hand:
            return False
        if xid in found.committed:
            return True
        self._step(f"commit {name}")
        try:
            by_name[name].commit(xid)
        except NotPrepared as error:
            if error.outcome is None:  # it had nothing to commit, or has forgotten what everybody had acknowledged
                return True
            _note(found, xid, error)
            return False
        except HeuristicOutcome as error:
            _note(found, xid, error)
            return False
        except Exception as error:
            found.unreachable[name] = error
            return False
        return True

    def _clean(self, found: Resolution, branch: Branch) -> None:
        """Forgets outcomes that no decision needs; reports commits by hand that nobody had decided."""
        kept: Callable[[], list[tuple[str, str]]] | None = getattr(branch, "kept", None)
        for xid, outcome in kept() if kept is not None else ():
            gtrid = self._gtrid(xid, branch)
            if gtrid is None or gtrid in self._going.gtrids or self._decided(gtrid):
                continue
            if outcome == "heuristically_committed":
                found.by_hand[xid] = outcome
            else:
                _forget_at(branch, xid)

    def __repr__(self) -> str:
        return f"<enginelib.twophase.Coordinator {self.name!r} in {self.database!r}>"


def _nothing(step: str) -> None:
    pass


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"A name must be str, not {type(name).__name__}.")
    if not NAME.fullmatch(name):
        raise ValueError(f"A name takes 1 to 40 ASCII letters, digits, '-' and '_'; {name[:50]!r} does not.")


def _forget_at(branch: Branch, xid: str) -> None:
    forget: Callable[[str], object] | None = getattr(branch, "forget", None)
    if forget is not None:
        forget(xid)


def _note(found: Resolution, xid: str, error: HeuristicOutcome | NotPrepared) -> None:
    logger.error("%s was ended by hand, otherwise than was decided: %s", xid, error)
    found.by_hand[xid] = error.outcome or "unknown"


def _waits() -> Iterator[float]:
    """Seconds to wait before each further attempt: a random share of a bound that doubles."""
    bound = FIRST_WAIT
    while True:
        yield bound * random.uniform(0.5, 1.0)
        bound = min(bound * 2, LONGEST_WAIT)
