"""Restore: a database as of any moment, from a backup and the log that was archived since.

1. The backup's own log says where it ends: at LSN `end`, behind its last commit.
2. The archived log is read from the segment in which the backup ends, every checksum verified, until the first commit
   outside the target; the stop is behind the last one within it.
3. Backup and log are copied into a directory beside the destination, the log made to end at the stop. Opening that is
   an ordinary recovery: what had not committed by then is rolled back.
4. The log goes on above every LSN that the archive has ever seen, the epoch is raised above those of backup and
   archive, and a checkpoint lets go of the old log. Then the directory gets its name. A crash before that leaves a
   directory that the next restore removes.

LSM keyspaces: the backup brings tables along, those that its own log names. What the archived log says of tables from
LSN `end` on concerns tables of the original database, which are not here, so it is passed over, and the changes
themselves are replayed; of a bulk load its pairs. Until they are written to tables at the end they take memory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from enginelib._native.engine.door import CoreDatabase, Scan, archived_epoch, cut, image_of, scan, segments_in
from enginelib.errors import ChangesGone, CorruptionError, UsageError
from enginelib.options import MIB, Options

NO_BOUND = (1 << 64) - 1
DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore has made.

    Attributes:
        path: the directory.
        database_id: of the database, in hexadecimal digits: the original's.
        epoch: of its new timeline, above the backup's.
        lsn: behind the newest commit that it holds, in the original's log.
        sequence: commit timestamp of that.
        time: of that, in seconds since 1970; None where there is none, or neither backup nor archive tells.
    """

    path: str
    database_id: str
    epoch: int
    lsn: int
    sequence: int
    time: float | None


class Segment(NamedTuple):
    """A segment's file: how long it is, and what its header says; `segment_size` 0 where that is damaged."""

    first: int
    size: int
    prev_end: int
    segment_size: int
    incarnation: int

    @property
    def end(self) -> int:
        """Behind what is in an archived one."""
        return self.first + self.size


class Target(NamedTuple):
    """The moment, as a bound of each kind."""

    commit: int = NO_BOUND
    micros: int = NO_BOUND
    lsn: int = NO_BOUND
    text: str = "everything"


class Base(NamedTuple):
    """A backup: where it ends.

    `lsn` is behind its newest commit, as far as its log tells; `micros` None where it does not.
    """

    path: str
    database_id: bytes
    segments: list[Segment]
    end: int
    crc: int
    commit: int
    micros: int | None
    lsn: int


class Stop(NamedTuple):
    """Where the log of the copy ends: in segment `segment` of the archive, in the group at `group`; 0: at a group's
    end. `segment` None: the backup as it is."""

    segment: int | None
    group: int
    lsn: int
    commit: int
    micros: int | None
    shown: int


def restore(
    backup: str | os.PathLike[str],
    archive: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    to_time: float | datetime | None = None,
    to_lsn: int | None = None,
    to_commit: int | None = None,
) -> Restored:
    """Makes a database as it was at a moment, from a backup made before it and the archived log.

    It holds exactly what had committed by then. It is a new timeline of the original: of the same id and a higher
    epoch, so that whoever follows it takes nothing of the original any more. It has no slots, and needs an archive
    directory of its own.

    Args:
        backup: directory that `Database.backup` made, not opened for writing since.
        archive: directory of archived log, as `archive` of `Options` names it.
        destination: the directory to make; it must be absent or empty.
        to_time: all commits before the first one that was made after this moment, in seconds since 1970, or a
            datetime with its time zone.
        to_lsn: all commits that end at or below this LSN, such as a `Change.lsn`.
        to_commit: all commits up to this commit timestamp, such as a `Change.sequence`. None of the three: all that the
            archive holds.

    Returns:
        What was made.

    Raises:
        TypeError, ValueError: more than one target; one before the backup or beyond the archive.
        ChangesGone: the archive has a gap where the target lies, or before it.
        CorruptionError: something archived is damaged.
        UsageError: backup and archive do not belong together; or a bulk load without the log stands in the way.
        FileExistsError: the destination is there.
    """
    target = _target(to_time, to_lsn, to_commit)
    destination = os.path.abspath(os.fspath(destination))
    backup, archive = os.path.abspath(os.fspath(backup)), os.path.abspath(os.fspath(archive))
    if os.path.lexists(destination) and (not os.path.isdir(destination) or os.listdir(destination)):
        raise FileExistsError(17, "the destination of a restore must be a new or an empty directory", destination)
    for source in (backup, archive):
        if not os.path.isdir(source):
            raise FileNotFoundError(2, "no such directory", source)
        if os.path.commonpath((os.path.realpath(source), os.path.realpath(destination))) == os.path.realpath(source):
            raise ValueError(f"The destination {destination} would lie inside {source}; choose another place.")
    base = _base(backup)
    archived = [Segment(*each) for each in segments_in(os.fsencode(archive), base.database_id)]
    stop = _find_stop(base, archive, archived, target)
    with _temporary(destination) as made:
        _copy(base, archive, archived, stop, made)
        epoch = _recover(base, archived, made, archived_epoch(os.fsencode(archive)))
        os.rename(made, destination)
        _sync(os.path.dirname(destination))
    shown = stop.micros / 1e6 if stop.micros else None
    return Restored(destination, base.database_id.hex(), epoch, stop.shown, stop.commit, shown)


def _target(to_time: float | datetime | None, to_lsn: int | None, to_commit: int | None) -> Target:
    if sum(each is not None for each in (to_time, to_lsn, to_commit)) > 1:
        raise TypeError("A restore has one target: to_time, to_lsn or to_commit.")
    for name, value in (("to_lsn", to_lsn), ("to_commit", to_commit)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name} must be an int, not {type(value).__name__}.")
        if value is not None and not 0 <= value < NO_BOUND:
            raise ValueError(f"{name}={value} is outside 0 to {NO_BOUND - 1}.")
    if to_lsn is not None:
        return Target(lsn=to_lsn, text=f"LSN {to_lsn}")
    if to_commit is not None:
        return Target(commit=to_commit, text=f"commit {to_commit}")
    if to_time is None:
        return Target()
    if isinstance(to_time, datetime):
        if to_time.tzinfo is None:
            raise ValueError(f"to_time={to_time} has no time zone; give it one, such as UTC.")
        to_time = to_time.timestamp()
    if isinstance(to_time, bool) or not isinstance(to_time, (int, float)):
        raise TypeError(f"to_time must be seconds since 1970 or a datetime, not {type(to_time).__name__}.")
    if not 0 <= to_time < 1e13:
        raise ValueError(f"to_time={to_time} is no time in seconds since 1970.")
    micros = round(to_time * 1e6)
    return Target(micros=micros, text=_moment(micros))


def _moment(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat()


def _base(path: str) -> Base:
    """What a backup holds, by its superblock and its log."""
    database_id, commit, _ = image_of(path)
    log = os.fsencode(os.path.join(path, "log"))
    segments = [Segment(*each) for each in segments_in(log, database_id) if each[3]]
    if not segments:
        raise CorruptionError("the backup has no log", file=os.path.join(path, "log"))
    found = scan(log, segments[0].first, NO_BOUND, database_id, 0, NO_BOUND, NO_BOUND, NO_BOUND)
    segments = [each for each in segments if each.first < found.end]
    if found.commit_ts:
        return Base(path, database_id, segments, found.end, found.crc, found.commit_ts, found.micros, found.lsn)
    return Base(path, database_id, segments, found.end, found.crc, commit, None if commit else 0, found.end)


def _find_stop(base: Base, archive: str, archived: list[Segment], target: Target) -> Stop:
    """Reads the archived log up to the target."""
    last = base.segments[-1].first
    place = os.fsencode(archive)
    start = next((i for i, each in enumerate(archived) if each.first == last), None)
    micros = base.micros
    if micros is None:
        micros = _time_of(base, place, archived)
    _check_not_before(base, micros, target)
    if start is None:
        if archived and archived[-1].first > last:
            raise ChangesGone(
                f"The backup ends at LSN {base.end}, in segment {last:016x}, which the archive does not hold; it goes "
                f"on at LSN {next(each.first for each in archived if each.first > last)}."
            )
        _check_behind(base, archived)
        _check_not_beyond(target, base.commit, micros, base.end)
        return Stop(None, 0, base.end, base.commit, micros, base.lsn)
    whole = start + 1
    if not archived[start].segment_size:
        raise _damaged(archive, last, "its header")
    while whole < len(archived) and archived[whole].prev_end == archived[whole - 1].end:
        whole += 1
    limit = archived[whole - 1].end
    found = scan(place, last, limit, base.database_id, base.end, target.commit, target.micros, target.lsn)
    if not found.beyond and found.end < limit:
        raise _damaged(archive, _holder(archived, found.end), f"the group at LSN {found.end}")
    _check_joint(base, found, archived[start])
    newer = found.commit_ts > base.commit
    commit, lsn = (found.commit_ts, found.lsn) if newer else (base.commit, base.end)
    newest = found.micros if newer else micros
    reached = found.beyond or commit == target.commit or target.lsn <= limit
    if not reached and whole < len(archived) and not archived[whole].segment_size:
        raise _damaged(archive, archived[whole].first, "its header")
    if not reached and whole < len(archived):
        raise ChangesGone(
            f"The archive has a gap: segment {archived[whole - 1].first:016x} ends at LSN {limit}, the one behind it "
            f"goes on from LSN {archived[whole].prev_end}. Up to the gap, commit {commit} is the last."
        )
    if not found.beyond:
        _check_not_beyond(target, commit, newest, limit)
    if not newer:
        return Stop(last, 0, base.end, base.commit, micros, base.lsn)
    return Stop(_holder(archived, lsn), found.group, lsn, commit, newest, lsn)


def _damaged(archive: str, first: int, what: str) -> CorruptionError:
    file = os.path.join(archive, f"{first:016x}.wal")
    return CorruptionError(f"archived log is damaged: {what} in {file}", file=file)


def _holder(archived: list[Segment], lsn: int) -> int:
    """First LSN of the segment that what ends at `lsn` is in."""
    return max(each.first for each in archived if each.first < lsn)


def _time_of(base: Base, place: bytes, archived: list[Segment]) -> int | None:
    """When the backup's newest commit was made, which its own log does not tell: the archived log before it may."""
    for each in reversed([each for each in archived if each.first < base.end and each.segment_size]):
        found = scan(place, each.first, min(each.end, base.end), base.database_id, 0, base.commit, NO_BOUND, NO_BOUND)
        if found.commit_ts:
            return found.micros if found.commit_ts == base.commit else None
    return None


def _check_joint(base: Base, found: Scan, segment: Segment) -> None:
    """The archived log goes on where the backup ends, and not another way."""
    if found.found and found.through_crc == base.crc:
        return
    if segment.end < base.end:
        raise ChangesGone(f"The archive ends at LSN {segment.end}, before the backup does, at LSN {base.end}.")
    raise _two_histories(base, base.end)


def _check_behind(base: Base, archived: list[Segment]) -> None:
    """An archive that ends before the segment in which the backup does holds nothing that the backup has not."""
    if not archived:
        return
    newest = archived[-1]
    following = next(each for each in base.segments if each.first > newest.first)
    if newest.end > following.prev_end:
        raise _two_histories(base, following.prev_end)


def _two_histories(base: Base, lsn: int) -> UsageError:
    return UsageError(
        f"The archived log is not what the backup {base.path} goes on with at LSN {lsn}: it was opened for writing "
        "since, or they belong to two histories of the database."
    )


def check_joint(backup: str, archive: str) -> None:
    """Checks that archived log goes on where a backup ends.

    Raises:
        ChangesGone: it does not hold the log there.
        CorruptionError: it is damaged there.
        UsageError: it goes on from something else.
    """
    base = _base(backup)
    place, last = os.fsencode(archive), base.segments[-1].first
    found = [Segment(*each) for each in segments_in(place, base.database_id) if each[0] == last]
    if not found:
        raise ChangesGone(
            f"The backup ends at LSN {base.end}, in segment {last:016x}, which the archive does not hold."
        )
    if not found[0].segment_size:
        raise _damaged(archive, last, "its header")
    _check_joint(base, scan(place, last, base.end, base.database_id, base.end, 0, 0, 0), found[0])


def _check_not_before(base: Base, micros: int | None, target: Target) -> None:
    """Raises where the target is before the backup, whose last commit was made at `micros`."""
    if target.commit < base.commit or target.lsn < base.lsn:
        raise ValueError(
            f"The target, {target.text}, is before the backup, which ends with commit {base.commit} at LSN {base.lsn}: "
            "take an older backup."
        )
    if target.micros == NO_BOUND:
        return
    if micros is None:
        raise ValueError(
            "Neither backup nor archive tells when the backup ends: name the target by to_commit or to_lsn."
        )
    if target.micros < micros:
        raise ValueError(
            f"The target, {target.text}, is before the backup, whose last commit was at {_moment(micros)}: take an "
            "older backup."
        )


def _check_not_beyond(target: Target, commit: int, newest: int | None, limit: int) -> None:
    """Raises where no commit outside the target was met up to the archive's end at `limit`, and it may not hold all
    that is within; `newest`: when its last commit was made."""
    if target == Target() or commit == target.commit or target.lsn <= limit:
        return
    if newest is not None and target.micros <= newest:
        return
    at = "" if newest is None else f", made at {_moment(newest)}"
    raise ValueError(
        f"The target, {target.text}, is beyond the archive, which ends at LSN {limit} with commit {commit}{at}: leave "
        "the target out to restore all that there is."
    )


# ---- making the copy


@contextmanager
def _temporary(destination: str) -> Iterator[str]:
    """A directory beside the destination, held by a lock; what an earlier restore left in it goes, and on errors it."""
    place = os.path.join(os.path.dirname(destination), f".{os.path.basename(destination)}.restoring")
    os.makedirs(place, exist_ok=True)
    held = os.open(place, DIRECTORY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{destination} is being restored by another process.") from None
        try:
            for name in os.listdir(place):
                inside = os.path.join(place, name)
                shutil.rmtree(inside) if os.path.isdir(inside) else os.unlink(inside)
            yield place
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
    finally:
        os.close(held)


def _copy(base: Base, archive: str, archived: list[Segment], stop: Stop, made: str) -> None:
    """Backup and log, durably; the log ends at the stop."""
    _copy_file(os.path.join(base.path, "pages.dat"), os.path.join(made, "pages.dat"))
    lsm = os.path.join(base.path, "lsm")
    for directory, _, names in os.walk(lsm):
        target = os.path.join(made, "lsm", os.path.relpath(directory, lsm))
        os.makedirs(target, exist_ok=True)
        for name in names:
            _copy_file(os.path.join(directory, name), os.path.join(target, name))
        _sync(target)
    log = os.path.join(made, "log")
    os.mkdir(log)
    last = base.segments[-1].first
    for each in base.segments:
        if each.first < last or stop.segment is None:
            name = f"{each.first:016x}.wal"
            _copy_file(os.path.join(base.path, "log", name), os.path.join(log, name))
    for each in archived:
        if stop.segment is not None and last <= each.first <= stop.segment:
            name = f"{each.first:016x}.wal"
            _copy_file(os.path.join(archive, name), os.path.join(log, name))
            group, end = (stop.group, stop.lsn) if each.first == stop.segment else (0, each.end)
            cut(os.fsencode(log), each.first, group, end, each.segment_size)
    _sync(log)
    _sync(made)


def _recover(base: Base, archived: list[Segment], made: str, epoch: int) -> int:
    """Opens the copy, which rolls back what had not committed, and begins the new timeline, of an epoch above `epoch`;
    that epoch."""
    every = [*base.segments, *archived]
    longest = max(each.segment_size for each in every)
    above = max(each.first + longest for each in every)
    size = min(max(MIB, base.segments[-1].segment_size // 4096 * 4096), 1 << 30)
    options = Options(create=False, segment_size=size).for_core()
    restored = (base.end, above, max(each.incarnation for each in every))
    database = CoreDatabase(made, vfs=None, background=True, restored=restored, **options)
    try:
        epoch = database.raise_epoch(epoch)  # and takes a checkpoint, which lets go of the original's log
    except BaseException:
        database.abandon()
        raise
    in_doubt = database.prepared_count
    database.close()
    log = os.path.join(made, "log")
    for name in os.listdir(log):
        if name.startswith("spare-"):  # holds the original's log, to be written over
            os.unlink(os.path.join(log, name))
        elif int(name[:16], 16) < above and not in_doubt:  # what is prepared needs the changes of its LSM keyspaces
            raise UsageError(f"the original's log is needed still, in {name}: please report this")
    for directory, _, _ in os.walk(made):
        _sync(directory)
    return epoch


def _copy_file(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    descriptor = os.open(target, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(directory: str) -> None:
    descriptor = os.open(directory, DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
