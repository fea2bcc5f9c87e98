"""The log, outward: change streams, slots, encodings of changes, and followers.

A `Change` is a committed transaction; `Database.changes` yields them in commit order, decoded from the log alone. A
`Slot` is a named reader that outlasts the process, for which the log is kept. A `Changeset` holds changes, to undo them
or to apply them elsewhere. `unix` carries changes from one process to another, over a socket; for anything else, any
iterable of encoded changes will do. `codec`, `Follower` and the files of changesets need the package msgspec
(``enginelib[replication]``); streams, slots and changesets in memory do not.
"""

from typing import TYPE_CHECKING, Any

from enginelib._native.engine.door import Change, Operation
from enginelib.replication.changes import Changes, Slot
from enginelib.replication.changeset import Applied, Changeset

if TYPE_CHECKING:
    from enginelib.replication.archive import Archive
    from enginelib.replication.follower import Follower, Lag, Position

__all__ = [
    "Applied",
    "Archive",
    "Change",
    "Changes",
    "Changeset",
    "Follower",
    "Lag",
    "Operation",
    "Position",
    "Slot",
]


def __getattr__(name: str) -> Any:
    if name == "Archive":
        from enginelib.replication import archive

        return archive.Archive
    if name not in ("Follower", "Lag", "Position"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from enginelib.replication import follower
    except ModuleNotFoundError as missing:
        if missing.name != "msgspec":
            raise
        raise ImportError("Followers need the package msgspec: pip install 'enginelib[replication]'.") from None
    return getattr(follower, name)
