"""The log, outward: change streams, slots, encodings of changes, and followers.

A `Change` is a committed transaction; `Database.changes` yields them in commit order, decoded from the log alone. A
`Slot` is a named reader that outlasts the process, for which the log is kept. What carries changes from one machine to
another is not here: any iterable of encoded changes will do.
"""

from enginelib._native.engine.door import Change, Operation
from enginelib.replication.changes import Changes, Slot
from enginelib.replication.follower import Follower, Lag, Position

__all__ = ["Change", "Changes", "Follower", "Lag", "Operation", "Position", "Slot"]
