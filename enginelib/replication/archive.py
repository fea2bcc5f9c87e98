"""Archived log as a source of changes: physical log shipping.

A backup gives the beginning, the log that was archived since the changes, decoded as `Database.changes` decodes them.
The directory is all that leader and follower share: it may be a copy that some other program brings along, file by
file, as long as a file appears under its name when it is whole.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Self

from enginelib._native.engine.door import Change, ChangeReader
from enginelib.database import Database
from enginelib.errors import DatabaseClosed
from enginelib.rebuild import check_joint

GATHERED = 64 * 1024 * 1024
LOOK = 0.2


class Archive:
    """A directory of archived log, and a backup that it goes on from: a source for `Follower`.

    A follower that is opened again needs the same backup or an older one, behind which the archive is read again; what
    has been applied is passed over.

    Attributes:
        directory, base: absolute paths.
    """

    def __init__(self, directory: str | os.PathLike[str], base: str | os.PathLike[str]) -> None:
        """Notes where they are.

        Args:
            directory: as `archive` of `Options` names it.
            base: directory that `Database.backup` made, not opened for writing since.
        """
        self.directory = os.path.abspath(os.fspath(directory))
        self.base = os.path.abspath(os.fspath(base))

    def open(self) -> ArchiveStream:
        """Opens the backup, and a stream of what has been archived behind it.

        Raises:
            ChangesGone: the archive does not go on from the backup.
            UsageError: they do not belong together.
        """
        return ArchiveStream(self)

    def __repr__(self) -> str:
        return f"<enginelib.replication.Archive {self.directory!r} behind {self.base!r}>"


class ArchiveStream:
    """A backup that is open for reading, and the changes behind it. One thread at a time, `stop` excepted.

    Attributes:
        database: the backup.
    """

    def __init__(self, archive: Archive) -> None:
        """See `Archive.open`."""
        check_joint(archive.base, archive.directory)
        self.database = Database(archive.base, read_only=True)
        self._ended = threading.Event()
        try:
            self._reader = ChangeReader(
                self.database, None, None, None, GATHERED, False, archive=os.fsencode(archive.directory)
            )
        except BaseException:
            self.database.close()
            raise

    @property
    def end(self) -> int:
        """The LSN at which the backup ends."""
        lsn: int = self.database.recovery["end_lsn"]
        return lsn

    def next_many(self, most: int = 256, timeout: float = 0.0, *, operations: int = 4096) -> list[Change]:
        """Returns the next changes that there are, in a list.

        Args:
            most: of them.
            timeout: how long to wait, looking into the directory again and again, when there is none, in seconds.
            operations: no more changes are added once there are so many operations in them.

        Raises:
            ChangesGone: the archive has a gap.
            CorruptionError: something in it is damaged.
        """
        left = timeout
        while not self._ended.is_set():
            try:
                found = self._reader.next_changes(most, operations)
            except DatabaseClosed:
                break
            if found or left <= 0:
                return found
            self._ended.wait(min(left, LOOK))
            left -= LOOK
        return []

    def stop(self) -> None:
        """From any thread: who waits in `next_many` comes back, with nothing."""
        self._ended.set()

    def close(self) -> None:
        """Closes the backup."""
        self.stop()
        self._reader.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
