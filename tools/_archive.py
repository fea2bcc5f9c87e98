"""An archive beside a workload: in every crash state it is a prefix of the log, whole; some are restored.

A backup is made when the workload begins. After a crash the archived files, as they are on the disk, must follow one
another without a gap and with every sum right, and hold nothing that the recovered database has not. Now and then they
are written out, and what `enginelib.restore` makes of backup and archive must be one of the states up to that which was
found.
"""

from __future__ import annotations

import random
import tempfile
import zlib
from pathlib import Path

import _history as h
from _history import Finding, State, Window
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreArchive, CoreDatabase, scan

import enginelib

ARCHIVE, BACKUP = "/archive", "/backup"
NO_BOUND = (1 << 64) - 1
RESTORED = 50  # one in so many states


class ArchiveAudit:
    """The archiving of a workload's database, and its backup."""

    def __init__(self, before: ArchiveAudit | None) -> None:
        self.backup: dict[str, bytes] | None = before.backup if before else None  # files by name, below its directory
        self.past: list[State] = list(before.past) if before else []  # what it was before the life that is under way
        self.core: CoreArchive | None = None

    def begin(self, db: CoreDatabase, vfs: FaultVfs, base: Window) -> None:
        """Goes on archiving; the first time, makes the backup. base: what it may have been."""
        self.past += [state for state in base.states if state not in self.past]
        core = self.core = CoreArchive(db, ARCHIVE)
        if core.gap is not None:
            raise Finding(f"the archive has a gap: {core.gap}")
        core.at_close(lambda: core.run(True))
        if self.backup is None:
            db.backup(BACKUP)
            self.backup = {name[len(BACKUP) + 1 :]: data for name, data in vfs.files().items() if name.startswith(BACKUP + "/")}

    def step(self, rng: random.Random) -> None:
        """Archives what has ended, or all that is synced."""
        assert self.core is not None
        self.core.run(rng.random() < 0.5)

    def check(self, db: CoreDatabase, image: FaultVfs, window: Window, unlogged: bool) -> None:
        """After a crash, and after what was done since: the archive is what the log was."""
        files = {name: data for name, data in image.files().items() if name.startswith(ARCHIVE + "/")}
        segments = sorted((int(name[len(ARCHIVE) + 1 :][:16], 16), len(data)) for name, data in files.items() if name.endswith(".wal"))
        if not segments:
            return
        first, end = segments[0][0], sum(segments[-1])
        if scan(ARCHIVE.encode(), first, end, None, 0, NO_BOUND, NO_BOUND, NO_BOUND, image).end != end:
            raise Finding(f"what is archived up to {end} is not whole")
        if CoreArchive(db, ARCHIVE).gap is not None:
            raise Finding("the archive has a gap")
        chance = zlib.crc32(b"%d" % window.high, zlib.crc32(b"".join(files.values())))
        if self.backup is None or unlogged or chance % RESTORED:
            return
        with tempfile.TemporaryDirectory(prefix="crash-restore-") as place:
            root = Path(place)
            for name, data in [*((f"backup/{n}", d) for n, d in self.backup.items()), *((n[1:], d) for n, d in files.items())]:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data)
            made = enginelib.restore(root / "backup", root / "archive", root / "made")
            with enginelib.Database(made.path, background=False) as restored:
                found = h.content(restored)
                if found not in self.past:
                    h.match(found, window)
                if not restored.verify().ok:
                    raise Finding(f"verify of what was restored: {restored.verify()}")
