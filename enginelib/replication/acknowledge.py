"""Acknowledgements: how far each follower is, and commits that wait until enough of them are far enough.

A follower, or whatever carries changes to it, tells the leader up to which LSN it has received and applied them. Where
a database requires acknowledgements, a commit, once it is durable here, waits in `enginelib.hooks.Gate` until as many
followers as are required have told of its record. What a commit cannot do is take back: one that runs out of time
stands here, and says how many had acknowledged it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from enginelib._native.engine.door import oldest_running
from enginelib.errors import AcknowledgementTimeout
from enginelib.hooks import gate_of

if TYPE_CHECKING:
    from enginelib.database import Database

logger = logging.getLogger("enginelib")


@dataclass(slots=True)
class Acknowledged:
    """How far a follower is, in LSNs of its leader."""

    received: int = 0
    applied: int = 0
    when: float = 0.0


class Required:
    """What commits wait for; see `Database.require_acknowledgements`."""

    def __init__(
        self,
        database: Database,
        followers: int,
        mode: Literal["received", "applied"],
        timeout: float | None,
        on_timeout: Literal["raise", "continue"],
    ) -> None:
        if followers < 1:
            raise ValueError(f"followers={followers} must be positive; 0 for none is asked of the database.")
        if mode not in ("received", "applied"):
            raise ValueError(f"mode={mode!r} is not one of 'received', 'applied'.")
        if on_timeout not in ("raise", "continue"):
            raise ValueError(f"on_timeout={on_timeout!r} is not one of 'raise', 'continue'.")
        if timeout is not None and timeout < 0:
            raise ValueError(f"timeout={timeout} must not be negative.")
        self.database = database
        self.followers = followers
        self.mode = mode
        self.timeout = timeout
        self.on_timeout = on_timeout
        self.timeouts = 0
        self.behind = 0  # not 0: commits do not wait until this LSN is acknowledged

    def count(self, lsn: int) -> int:
        """How many followers have acknowledged that LSN."""
        applied = self.mode == "applied"
        return sum((f.applied if applied else f.received) >= lsn for f in list(self.database.followers.values()))

    def must_wait(self, lsn: int, waited: float) -> bool:
        """Whether a commit has to wait; gives it up when it has waited for long enough."""
        if self.behind:
            if self.count(self.behind) < self.followers:
                return False
            self.behind = 0
            logger.info("%s: followers have caught up: commits wait for them again", self.database.path)
        found = self.count(lsn)
        if found >= self.followers:
            return False
        if self.timeout is None or waited < self.timeout:
            return True
        self.timeouts += 1
        if self.on_timeout == "continue":
            self.behind = lsn
            logger.warning(
                "%s: %d of %d followers acknowledged a commit within %g s: commits do not wait until they catch up",
                self.database.path,
                found,
                self.followers,
                self.timeout,
            )
            return False
        raise self._too_few(lsn, found, f"within {self.timeout:g} s")

    def _too_few(self, lsn: int, found: int, when: str) -> AcknowledgementTimeout:
        return AcknowledgementTimeout(
            f"The commit stands here, and {found} of {self.followers} followers have {self.mode} it {when}.",
            lsn=lsn,
            acknowledged=found,
        )

    def given_up(self, lsn: int) -> None:
        """Raises where a commit is not to return as if it had been acknowledged."""
        if self.on_timeout == "raise":
            raise self._too_few(lsn, self.count(lsn), "before the database was closed")


def require(
    database: Database,
    followers: int,
    mode: Literal["received", "applied"],
    timeout: float | None,
    on_timeout: Literal["raise", "continue"],
) -> None:
    """See `Database.require_acknowledgements`."""
    made = Required(database, followers, mode, timeout, on_timeout) if followers else None
    before, database.required = database.required, made
    if made is not None:
        gate_of(database).add(made)  # first: no commit comes between
    if before is not None:
        gate_of(database).remove(before)


def acknowledge(database: Database, name: str, received: int | None, applied: int | None) -> None:
    """See `Database.acknowledge`."""
    highest = max(received or 0, applied or 0)
    if highest > database.known_end:
        database.known_end = oldest_running(database)[1]
        if highest > database.known_end:
            raise ValueError(
                f"LSN {highest} lies beyond the end of the log, LSN {database.known_end}: it is of another database, "
                "or of another history of this one."
            )
    follower = database.followers.setdefault(name, Acknowledged())
    if applied is not None:
        follower.applied = max(follower.applied, applied)
    follower.received = max(follower.received, follower.applied, received or 0)
    follower.when = time.time()
    if database.required is not None:
        gate_of(database).moved()
