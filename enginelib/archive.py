"""Archiving: a thread that copies the log's segments to another directory as they end.

Data flow: the writer of the log signals a condition when it ends a segment; the thread wakes up, and `CoreArchive`
copies what has ended, synced and renamed whole, oldest first, and lets the log go behind it. `Database.archive_now` and
closing copy the newest segment as well, as far as it is synced; a longer copy replaces that one later.

Invariants: the log is held from the first segment that is not archived whole, so a failing archive costs room, never
history. What is archived is synced, and is never taken back.
"""

from __future__ import annotations

import logging
import threading
import warnings
from typing import TYPE_CHECKING, Any

from enginelib._native.engine.door import CoreArchive

if TYPE_CHECKING:
    from enginelib._native.engine.door import CoreDatabase

logger = logging.getLogger("enginelib")

FIRST_RETRY = 0.1
LONGEST_RETRY = 30.0
FOR_EVER = -1.0


class Archiver:
    """The archiving of one open database. It knows the core of that database only, so that one which is dropped
    without being closed can be collected."""

    def __init__(self, database: CoreDatabase, directory: str) -> None:
        """Finds where archiving goes on, and begins; see ``archive`` of `Options`.

        Raises:
            UsageError: the directory archives another database, or another history of this one.
            StorageError: it cannot be used.
        """
        self.directory = directory
        self._core = CoreArchive(database, directory)
        self._lock = threading.Lock()  # one at a time in `_core.run`
        self._stopping = False
        self._failures = 0
        self._error: str | None = None
        if self._core.gap is not None:
            warnings.warn(
                f"The archive {directory} ends at LSN {self._core.gap[0]}, and the log begins at LSN "
                f"{self._core.gap[1]}: what lay between went while {database.path} was open without archive=. "
                "Nothing behind this gap can be restored from a backup made before it: make a new backup.",
                RuntimeWarning,
                stacklevel=4,
            )
        self._core.at_close(self._last)
        self._thread = threading.Thread(target=self._work, name="enginelib-archive", daemon=True)
        self._thread.start()

    def now(self) -> int:
        """Archives everything that is synced; returns the LSN up to which all is archived."""
        with self._lock:
            self._try(True)
            return self._core.end

    def stats(self, synced: int) -> dict[str, Any]:
        """Returns figures as plain values.

        Args:
            synced: the LSN up to which the log is synced.
        """
        core = self._core
        return {
            "directory": self.directory,
            "end_lsn": core.end,
            "behind_bytes": max(0, synced - core.end),
            "segments": core.segments,
            "bytes": core.copied,
            "failures": self._failures,
            "error": self._error,
            "gap": core.gap,
        }

    def stop(self) -> None:
        """Ends the thread, before the database is closed; what remains is archived by that."""
        self._stopping = True
        self._core.nudge()
        self._thread.join()

    def _try(self, partial: bool) -> None:
        """Archives; notes how that ended. The lock is held."""
        try:
            self._core.run(partial)
        except Exception as error:
            self._failures += 1
            self._error = str(error)
            raise
        self._failures = 0
        self._error = None

    def _work(self) -> None:
        """Runs until it is told to stop, or the database is abandoned."""
        while not (self._stopping or self._core.closing):
            pause = FOR_EVER
            try:
                with self._lock:
                    self._try(False)
            except Exception as error:
                pause = min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(self._failures - 1, 16))
                if self._failures == 1:
                    logger.warning("archiving to %s failed, and is tried again: %s", self.directory, error)
            if not self._stopping:
                self._core.wait(pause)  # comes back at once where the database is closing

    def _last(self) -> None:
        """The database closes: everything is written and synced. What cannot be archived now stays in the log, and is
        archived when the database is opened with its archive again."""
        try:
            with self._lock:
                self._try(True)
        except Exception as error:
            logger.error("the end of the log is not archived in %s: %s", self.directory, error)
        finally:
            self._core.at_close(None)
