"""Changesets: changes taken out of one database, kept, turned round, and put into another.

Data flow: the changes of a stream, with their operations, are held in memory -> `Changeset.save` writes them as
`codec` does; `Changeset.invert` makes the changeset that undoes them; `Changeset.apply` does the operations, in order,
in one transaction, and compares what each meets with what it met when it was made (its before-image).

What differs is a conflict. After SQLite's session extension ("Changesets and patchsets"), which has no savepoints and
no renaming, so that there a changeset holds one change for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os import PathLike
from typing import IO, TYPE_CHECKING, Literal, Self

from enginelib._native.engine.door import Change, Operation, keyspace_options
from enginelib.database import Database
from enginelib.errors import ChangesetConflict, UsageError
from enginelib.keyspace import Keyspace

if TYPE_CHECKING:
    from enginelib.transaction import Transaction

Decision = Literal["abort", "skip", "overwrite"]
Handler = Callable[[Operation, "bytes | None"], "Decision | bytes"]
DECISIONS = ("abort", "skip", "overwrite")


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying a changeset came to, in operations.

    Attributes:
        applied: done, and what they met was what they had met before, as far as that is known.
        skipped: left out at a conflict.
        overwritten: done in spite of a conflict, or with another value.
    """

    applied: int = 0
    skipped: int = 0
    overwritten: int = 0


class Changeset:
    """An immutable sequence of changes with all of their operations, in memory.

    With full before-images (``db.changes(include_before="full")``) it can be inverted, and conflicts are found by
    value; with ``"key"``, by whether a key is there; without, only missing keyspaces are.
    """

    __slots__ = ("_changes",)

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        """Takes changes, in commit order.

        Args:
            changes: such as a stream of `Database.changes` that comes to an end.
        """
        self._changes = tuple(
            change if isinstance(change.operations, list) else _with(change, change.operations)
            for change in changes
            if change.event == "commit"
        )

    @property
    def changes(self) -> tuple[Change, ...]:
        """Its changes, in order. An inverted one has the heads of those that it undoes."""
        return self._changes

    def __iter__(self) -> Iterator[Operation]:
        """Iterates over the operations of all changes, in order."""
        for change in self._changes:
            yield from change.operations

    def __len__(self) -> int:
        """The number of operations."""
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(True for _ in self)

    def __eq__(self, other: object) -> bool:
        return self._changes == other._changes if isinstance(other, Changeset) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._changes)

    def __repr__(self) -> str:
        return f"<enginelib.replication.Changeset of {len(self._changes)} changes, {len(self)} operations>"

    # ---- files

    def save(self, file: str | PathLike[str] | IO[bytes]) -> int:
        """Writes it to a file, as `codec.save` does; needs ``enginelib[replication]``.

        Args:
            file: a path, whose file is replaced; or a file that is open for writing bytes.

        Returns:
            The number of changes.
        """
        from enginelib.replication import codec

        if isinstance(file, (str, PathLike)):
            with open(file, "wb") as opened:
                return codec.save(self._changes, opened)
        return codec.save(self._changes, file)

    @classmethod
    def load(cls, file: str | PathLike[str] | IO[bytes]) -> Self:
        """Reads one from a file of changes; needs ``enginelib[replication]``.

        Raises:
            CorruptionError: it is no such file, was cut short, or damaged.
        """
        from enginelib.replication import codec

        if isinstance(file, (str, PathLike)):
            with open(file, "rb") as opened:
                return cls(codec.load(opened))
        return cls(codec.load(file))

    # ---- turned round

    def invert(self) -> Changeset:
        """Returns the changeset that undoes this one: the inverse of each operation, the last one first.

        Raises:
            UsageError: an operation has no full before-image; or cannot be undone: what a dropped keyspace held, or a
                range that was deleted as such, is not in the log.
        """
        return Changeset(
            _with(change, [back for o in reversed(list(change.operations)) for back in _inverse(o)])
            for change in reversed(self._changes)
        )

    # ---- put into a database

    def apply(self, target: Database | Transaction, conflict: Decision | Handler = "abort") -> Applied:
        """Does the operations, in order, in one transaction; all of them or, after an error, none.

        A conflict is where an operation meets something else than when it was made: the key is missing, or there
        already, or holds another value; its keyspace is missing, or there already, or (where its making is undone) not
        empty.

        Args:
            target: a database, for a transaction of its own, retried while that can help; or a transaction to join.
            conflict: what to do: ``"abort"`` raises; ``"skip"`` leaves the operation out; ``"overwrite"`` does it all
                the same (a keyspace that is there already, or to be dropped and not there, is left as it is). Or a
                function of the operation and the value that is there (None: none, or it is about a keyspace), which
                returns one of these, or bytes to put instead. It may be called more than once.

        Returns:
            How many operations were done, and how.

        Raises:
            ChangesetConflict: what is there does not match, and that was to abort; or a keyspace is missing in which
                something is to be overwritten.
        """
        if not callable(conflict) and conflict not in DECISIONS:
            raise ValueError(f"conflict must be one of {DECISIONS} or a function, not {conflict!r}.")
        if isinstance(target, Database):
            return target.run(self._apply, conflict)
        return self._apply(target, conflict)

    def _apply(self, txn: Transaction, conflict: Decision | Handler) -> Applied:
        with txn.savepoint():
            work = _Application(txn, conflict)
            for o in self:
                work.operate(o)
        return Applied(**work.counts)


def _with(change: Change, operations: Iterable[Operation]) -> Change:
    return Change(
        change.database_id,
        change.epoch,
        change.sequence,
        change.lsn,
        change.commit_ts,
        change.time,
        change.origin,
        list(operations),
        change.calls,
        change.xid,
    )


def _inverse(o: Operation) -> list[Operation]:
    if o.op in ("put", "delete"):
        if o.existed is None or (o.existed and o.before is None):
            raise UsageError(
                f"The {o.op} of {o.key!r} in {o.keyspace!r} has no full before-image: take the changes with "
                f"include_before='full', of keyspaces with before='full'."
            )
        if o.existed:
            return [Operation(o.keyspace, "put", o.key, o.before, o.value, o.op == "put")]
        return [Operation(o.keyspace, "delete", o.key, None, o.value, True)] if o.op == "put" else []
    if o.op == "create_keyspace":
        return [Operation(o.keyspace, "drop_keyspace", None, None, o.value)]
    if o.op == "rename_keyspace":
        assert o.value is not None
        return [Operation(o.value.decode(), "rename_keyspace", None, o.keyspace.encode())]
    if o.op == "drop_keyspace" and o.before is not None:  # of the inverse of its making: it was empty
        return [Operation(o.keyspace, "create_keyspace", None, o.before)]
    what = (
        "was dropped, and what it held" if o.op == "drop_keyspace" else "had a range of keys deleted, and what it held"
    )
    raise UsageError(f"Keyspace {o.keyspace!r} {what} is not in the log: this changeset cannot be inverted.")


class _Application:
    """One pass over a changeset within a transaction."""

    def __init__(self, txn: Transaction, conflict: Decision | Handler) -> None:
        self.txn = txn
        self.conflict = conflict
        self.counts = {"applied": 0, "skipped": 0, "overwritten": 0}
        self.spaces: dict[str, Keyspace | None] = {}

    def operate(self, o: Operation) -> None:
        """Does one operation, and counts it."""
        if o.op in ("put", "delete", "delete_range"):
            self.counts[self.change(o)] += 1
        else:
            self.counts[self.keyspace(o)] += 1
            self.spaces.clear()

    def find(self, name: str) -> Keyspace | None:
        """A keyspace as the transaction knows it."""
        if name not in self.spaces:
            self.spaces[name] = self.txn.open_keyspace(Keyspace, name)
        return self.spaces[name]

    def decide(self, o: Operation, present: bytes | None, what: str) -> Decision | bytes:
        """What to do about a conflict; aborts."""
        decision = self.conflict(o, present) if callable(self.conflict) else self.conflict
        if decision == "abort":
            raise ChangesetConflict(
                f"The {o.op} of {o.key!r} in keyspace {o.keyspace!r} meets a conflict: {what}."
                if o.key is not None
                else f"The {o.op} of {o.keyspace!r} meets a conflict: {what}.",
                operation=o,
                present=present,
            )
        if decision not in DECISIONS and not isinstance(decision, (bytes, bytearray, memoryview)):
            raise TypeError(f"A conflict handler returns one of {DECISIONS} or bytes, not {decision!r}.")
        return decision

    def change(self, o: Operation) -> str:
        """A put or a deletion; what it counts as."""
        space = self.find(o.keyspace)
        if space is None:
            if self.decide(o, None, "there is no such keyspace") == "skip":
                return "skipped"
            raise ChangesetConflict(
                f"There is no keyspace {o.keyspace!r} to {o.op} in: make it first, or skip.", operation=o, present=None
            )
        if o.op == "delete_range":
            self.txn.delete_range(space, o.key, o.value)
            return "applied"
        assert o.key is not None
        present = self.txn.get_for_update(space, o.key)
        decision: Decision | bytes | None = None
        if o.existed is not None and (
            (present is not None) != o.existed or (o.before is not None and present != o.before)
        ):
            found = (
                "is not there" if present is None else "is there already" if not o.existed else "holds another value"
            )
            decision = self.decide(o, present, f"the key {found}")
            if decision == "skip":
                return "skipped"
        if isinstance(decision, (bytes, bytearray, memoryview)):
            self.txn.put(space, o.key, decision)
        elif o.op == "put":
            assert o.value is not None
            self.txn.put(space, o.key, o.value)
        else:
            self.txn.delete(space, o.key)
        return "applied" if decision is None else "overwritten"

    def keyspace(self, o: Operation) -> str:
        """Makes, drops or renames a keyspace; what it counts as."""
        txn, there = self.txn, self.find(o.keyspace)
        if o.op == "create_keyspace":
            if there is not None:
                return self.left(o, "there is such a keyspace already")
            assert o.value is not None
            backend, options = keyspace_options(o.value)
            txn.create_keyspace(o.keyspace, backend, **options)
        elif o.op == "drop_keyspace":
            if there is None:
                return self.left(o, "there is no such keyspace")
            filled = o.before is not None and next(iter(txn.scan(there, limit=1, values=False)), None) is not None
            if filled and self.left(o, "the keyspace is not empty") == "skipped":
                return "skipped"
            txn.drop_keyspace(o.keyspace)
            return "overwritten" if filled else "applied"
        else:
            assert o.op == "rename_keyspace" and o.value is not None
            new = o.value.decode()
            if there is None or self.find(new) is not None:
                what = "there is no such keyspace" if there is None else f"there is a keyspace {new!r} already"
                if self.left(o, what) == "skipped":
                    return "skipped"
                raise ChangesetConflict(
                    f"Keyspace {o.keyspace!r} cannot be renamed to {new!r}: {what}.", operation=o, present=None
                )
            txn.rename_keyspace(o.keyspace, new)
        return "applied"

    def left(self, o: Operation, what: str) -> str:
        """A conflict about a keyspace: what it counts as."""
        return "skipped" if self.decide(o, None, what) == "skip" else "overwritten"
