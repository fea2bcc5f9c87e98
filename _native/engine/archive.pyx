"""The archive: copies of the log's segments in another directory, made before the log lets go of them.

An archived segment has the name of its file in the log and its bytes up to the end of its last group, nothing behind them. So its length says how far it goes, the
next one's header says whether it is whole (`prev_end`), and the copy of a segment that is still being written is a copy that a longer one replaces. Each is written
under another name, synced, renamed, and its name synced, oldest first: no crash leaves a half copy or a gap. What has been archived is known from the directory
alone. Only synced bytes are copied (law 5), so nothing archived is ever taken back. The file `epoch` says whose log it is, and of which epoch: a restored database, whose
epoch is higher, is told from one that was open without its archive for a while.

GIL held, one thread at a time (the caller sees to that); files are read and written without the GIL, the latch is held for questions only. The log is held by the
engine's pin `held` from the first segment that is not archived whole.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp
import os
from ..base.checksum cimport crc32c
from ..base.latch cimport (Condition, condition_broadcast, condition_destroy, condition_init, condition_wait, latch_enter, latch_lock, latch_unlock)
from ..base.realvfs cimport RealVfs
from ..base.status cimport ABSENT, E_USAGE, OK, fail, fail_corrupt, raise_status
from ..base.vfs cimport KIND_DIRECTORY, KIND_NONE, VFS_CREATE, VFS_READ, VFS_WRITE, Vfs
from ..log.segment cimport HEADER_FOREIGN, HEADER_NEWER, HEADER_OK, SEGMENT_HEADER, Listing, SegmentHeader, free_listing, get_segment_header, list_segments
from ..log.writer cimport SYNC
from .engine cimport Engine
from .files cimport names_in, replace_file
from .handles cimport CoreDatabase

cdef enum:
    PIECE = 1 << 20
    EPOCH_FILE = 4096             # bytes of it that are looked at

HEADER = "enginelib archive 1"


cdef bytes segment_file(bytes directory, uint64_t first):
    return directory + b"/%016x.wal" % first


cdef list first_lsns(Vfs vfs, bytes directory):
    """First LSNs of the segments in a directory, ascending."""
    cdef Listing l
    cdef const char* place = directory
    cdef size_t i
    cdef int status
    with nogil:
        status = list_segments(vfs, place, &l)
    if status == ABSENT:
        return []
    if status != OK:
        raise_status(status)
    found = [l.segments[i] for i in range(l.count)]
    free_listing(&l)
    return found


cdef int header_of(Vfs vfs, bytes directory, uint64_t first, const uint8_t* database_id, SegmentHeader* h, int64_t* size) except -1:
    """Reads a segment's header; its HeaderState. size: of the file."""
    cdef bytes path = segment_file(directory, first)
    cdef uint8_t head[SEGMENT_HEADER]
    cdef size_t got = 0
    cdef int handle = -1, state = 0
    cdef int status = vfs.open(path, VFS_READ, &handle)
    if status == OK:
        status = vfs.size(handle, size)
        if status == OK:
            status = vfs.read(handle, head, SEGMENT_HEADER, 0, &got)
        vfs.close(handle)
    if status == ABSENT:
        status = fail_corrupt(path, -1, b"log segment", first, 0)
    if status != OK:
        raise_status(status)
    if got == SEGMENT_HEADER:
        state = get_segment_header(head, first, database_id, h)
        return state
    return 1                                  # HEADER_UNUSED


cdef bytes epoch_line(bytes database_id, uint64_t epoch):
    text = f"{HEADER}\n{database_id.hex()} {epoch}\n".encode()
    return text + b"crc32c %08x\n" % crc32c(0, <const uint8_t*><const char*>text, len(text))


cdef object epoch_in(Vfs vfs, bytes directory):
    """What the file `epoch` of an archive says, (database id, epoch); None where there is none."""
    cdef bytes path = directory + b"/epoch"
    cdef bytearray room = bytearray(EPOCH_FILE)
    cdef char* buffer = room
    cdef size_t got = 0
    cdef int handle = -1
    cdef int status = vfs.open(path, VFS_READ, &handle)
    if status == ABSENT:
        return None
    if status == OK:
        status = vfs.read(handle, buffer, EPOCH_FILE, 0, &got)
        vfs.close(handle)
    if status != OK:
        raise_status(status)
    try:
        _, line, _, _ = bytes(room[:got]).decode("ascii").split("\n")
        id, epoch = line.split()
        found = bytes.fromhex(id), int(epoch)
        if epoch_line(found[0], found[1]) != bytes(room[:got]):
            raise ValueError
    except (ValueError, OverflowError):
        raise_status(fail_corrupt(path, 0, b"the archive's file `epoch`", 0, 0))
    return found


cdef class CoreArchive:
    """The archiving of one open database, which was opened with hold_log=True."""
    cdef Engine e
    cdef Vfs target
    cdef bytes directory
    cdef Condition wake
    cdef uint64_t seen            # the log's newest segment when archiving was last looked at
    cdef bint nudged
    cdef object epoch             # as the file says; None where there is none
    cdef readonly uint64_t last         # first LSN of the newest archived segment
    cdef readonly uint64_t end          # all below is archived, as far as it is there
    cdef readonly tuple gap             # (from, to): what was let go of while nobody archived; None
    cdef readonly uint64_t segments     # copied since the database was opened
    cdef readonly uint64_t copied       # bytes

    def __cinit__(self):
        condition_init(&self.wake)

    def __init__(self, CoreDatabase db not None, str directory not None):
        """Looks at what is archived. Raises where that is another database's, or another history of this one."""
        self.e = db.engine
        self.target = RealVfs() if self.e.in_memory else self.e.vfs
        self.directory = os.fsencode(directory)
        self.make_directory()
        self.find_place()
        latch_enter(&self.e.latch)
        self.e.log.switched = &self.wake
        latch_unlock(&self.e.latch)

    def __dealloc__(self):
        if self.e is not None and self.e.log is not None and not self.e.foreign_process():
            self.unhook()
        condition_destroy(&self.wake)

    cdef void unhook(self) noexcept:
        latch_enter(&self.e.latch)
        if self.e.log.switched == &self.wake:
            self.e.log.switched = NULL
        latch_unlock(&self.e.latch)

    cdef int make_directory(self) except -1:
        cdef int kind = 0
        cdef bytes parent = os.path.dirname(self.directory) or b"."
        cdef bytes path
        cdef int status = self.target.kind(self.directory, &kind)
        if status == OK and kind != KIND_NONE and kind != KIND_DIRECTORY:
            status = fail(E_USAGE, b"an archive is a directory; this path is something else")
        if status == OK and kind == KIND_NONE:
            status = self.target.mkdir(self.directory)
        if status == OK:
            status = self.target.sync_dir(parent)       # also when it was there: the run that made it may have been killed
        if status != OK:
            raise_status(status)
        for each in names_in(self.target, self.directory):
            if each.endswith(b".part"):                 # a copy that was cut short
                path = self.directory + b"/" + each
                self.target.unlink(path)
        return 0

    cdef int find_place(self) except -1:
        """Where archiving goes on."""
        cdef SegmentHeader h, own
        cdef const uint8_t* database_id = self.e.store.sb.database_id
        cdef int64_t size = 0, own_size = 0
        cdef int state
        cdef list archived = first_lsns(self.target, self.directory)
        cdef list segments = self.begun()
        known = epoch_in(self.target, self.directory)
        if known is not None:
            if known[0] != <bytes>(<const char*>database_id)[:16]:
                another_database()
            self.epoch = known[1]
        if not archived:
            return 0
        self.last = archived[len(archived) - 1]
        state = header_of(self.target, self.directory, self.last, database_id, &h, &size)
        if state == HEADER_FOREIGN:
            another_database()
        if state == HEADER_NEWER:
            raise_status(fail(E_USAGE, b"the directory was written by a newer version of the format"))
        if state != HEADER_OK:
            raise_status(fail_corrupt(segment_file(self.directory, self.last), 0, b"header of an archived segment", self.last, 0))
        self.end = self.last + <uint64_t>size
        if self.last in segments:
            if not self.same_bytes():
                another_history()
            return 0
        later = [first for first in segments if first > self.last]
        if not later:
            another_history()
        if header_of(self.e.vfs, self.e.log_dir, later[0], database_id, &own, &own_size) != HEADER_OK:
            raise_status(fail_corrupt(segment_file(self.e.log_dir, later[0]), 0, b"log segment header", later[0], 0))
        if own.prev_end < self.end or (own.prev_end == self.end and own.prev_crc != self.last_crc()) or len(later) < len(segments):
            another_history()
        if own.prev_end > self.end and self.epoch is not None and self.epoch != self.e.fields.epoch:
            another_history()
        if own.prev_end > self.end:
            self.gap = (self.end, later[0])
        return 0

    cdef bint same_bytes(self) except -1:
        """Whether what is archived of segment `last` is in the log's own one, and synced there."""
        cdef bytes ours = segment_file(self.e.log_dir, self.last), theirs = segment_file(self.directory, self.last)
        cdef uint64_t end = self.end_of(self.last)
        cdef char* buffer = <char*>malloc(2 * PIECE)
        cdef size_t a = 0, b = 0
        cdef int64_t at = 0
        cdef int one = -1, other = -1, status
        cdef bint same = end >= self.end
        if buffer == NULL:
            raise MemoryError("no memory to look at the archive")
        status = self.e.vfs.open(ours, VFS_READ, &one)
        if status == OK:
            status = self.target.open(theirs, VFS_READ, &other)
        with nogil:
            while status == OK and same:
                status = self.target.read(other, buffer, PIECE, at, &a)
                if status != OK or a == 0:
                    break
                status = self.e.vfs.read(one, buffer + PIECE, a, at, &b)
                same = status == OK and a == b and memcmp(buffer, buffer + PIECE, a) == 0
                at += a
        if one >= 0:
            self.e.vfs.close(one)
        if other >= 0:
            self.target.close(other)
        free(buffer)
        if status != OK:
            raise_status(status)
        return same

    cdef uint64_t last_crc(self) except? 0:
        from .restore import chain_end
        return chain_end(self.target, self.directory, self.last, self.end)[1]

    cdef list begun(self):
        """First LSNs of the log's segments that hold something, ascending."""
        cdef uint64_t written
        latch_enter(&self.e.latch)
        written = self.e.log.seg_first
        latch_unlock(&self.e.latch)
        return [first for first in first_lsns(self.e.vfs, self.e.log_dir) if first <= written]

    cdef uint64_t end_of(self, uint64_t first) except? 0:
        """Where what is synced of a segment ends."""
        cdef SegmentHeader h
        cdef int64_t size = 0
        cdef uint64_t synced, following = 0
        latch_enter(&self.e.latch)
        synced = self.e.log.synced_lsn
        latch_unlock(&self.e.latch)
        for each in self.begun():
            if each > first:
                following = each
                break
        if following == 0 or following + SEGMENT_HEADER > synced:
            return synced
        if header_of(self.e.vfs, self.e.log_dir, following, self.e.store.sb.database_id, &h, &size) != HEADER_OK:
            raise_status(fail_corrupt(segment_file(self.e.log_dir, following), 0, b"log segment header", following, 0))
        return h.prev_end

    def run(self, bint partial=False):
        """Copies every segment that has ended and is not archived; partial: also what is synced of the newest one. Moves the pin."""
        cdef list segments
        cdef uint64_t first, synced, end
        cdef int i, n
        self.sync_ended()
        if self.epoch is None or self.e.fields.epoch != self.epoch:
            self.write_epoch()
        segments = self.begun()
        n = len(segments)
        latch_enter(&self.e.latch)
        synced = self.e.log.synced_lsn
        latch_unlock(&self.e.latch)
        for i in range(n):
            first = segments[i]
            if first < self.last:
                continue
            if i + 1 == n or <uint64_t>segments[i + 1] + SEGMENT_HEADER > synced:         # the last that anything of is synced
                if partial and synced > first + SEGMENT_HEADER and (first != self.last or synced > self.end):
                    self.copy(first, synced)
                self.e.move_pin(self.e.held, first)
                return
            end = self.end_of(first)
            if first != self.last or end > self.end:
                self.copy(first, end)
            self.e.move_pin(self.e.held, segments[i + 1])

    cdef int sync_ended(self) except -1:
        """A load that asks for no syncs ends segments without: they are synced here."""
        cdef Engine e = self.e
        cdef int status = OK
        with nogil:
            latch_lock(&e.latch)
            self.seen = e.log.seg_first
            self.nudged = False
            if e.log.synced_lsn < e.log.seg_first and not e.log.failed:
                status = e.admit()
                if status == OK:
                    status = e.log.flush(e.log.seg_first + SEGMENT_HEADER, SYNC)
                    e.txns.publish()
                    e.leave()
                elif e.closing:
                    status = OK
            latch_unlock(&e.latch)
        if status != OK:
            raise_status(status)
        return 0

    cdef int write_epoch(self) except -1:
        """The file `epoch`, durably."""
        cdef uint64_t epoch = self.e.fields.epoch
        replace_file(self.target, self.directory, b"epoch", b"epoch.part", epoch_line(<bytes>(<const char*>self.e.store.sb.database_id)[:16], epoch))
        self.epoch = epoch
        return 0

    cdef int copy(self, uint64_t first, uint64_t end) except -1:
        """The bytes of segment `first` up to `end`, durably, under its name."""
        cdef Engine e = self.e
        cdef bytes source = segment_file(e.log_dir, first), made = segment_file(self.directory, first), part = self.directory + b"/%016x.part" % first
        cdef const char* place = self.directory
        cdef const char* origin = source
        cdef char* buffer = <char*>malloc(PIECE)
        cdef uint64_t size = end - first
        cdef int64_t at = 0
        cdef size_t n, got = 0
        cdef int from_ = -1, to = -1, status
        if buffer == NULL:
            raise MemoryError("no memory to archive the log")
        status = e.vfs.open(source, VFS_READ, &from_)
        if status == ABSENT:
            status = fail_corrupt(source, -1, b"log segment", first, 0)
        if status == OK:
            status = self.target.open(part, VFS_WRITE | VFS_CREATE, &to)
        with nogil:
            if status == OK:
                status = self.target.truncate(to, 0)
            while status == OK and <uint64_t>at < size:
                n = PIECE if size - <uint64_t>at > PIECE else <size_t>(size - <uint64_t>at)
                status = e.vfs.read(from_, buffer, n, at, &got)
                if status == OK and got != n:
                    status = fail_corrupt(origin, at + <int64_t>got, b"log bytes", n, got)
                if status == OK:
                    status = self.target.write(to, buffer, n, at)
                at += n
            if status == OK:
                status = self.target.sync(to)
        free(buffer)
        if from_ >= 0:
            e.vfs.close(from_)
        if to >= 0:
            self.target.close(to)
        if status == OK:
            status = self.target.rename(part, made)
        elif to >= 0:
            error = status
            self.target.unlink(part)           # its room may be what is lacking
            status = error
        if status == OK:
            with nogil:
                status = self.target.sync_dir(place)
        if status != OK:
            raise_status(status)
        self.last, self.end = first, end
        self.segments += 1
        self.copied += size
        return 0

    # --- waiting

    def wait(self, double seconds):
        """Waits until a segment has been ended since `run` looked, or `nudge`; at most so long, negative: for ever."""
        cdef Engine e = self.e
        cdef int64_t micros = <int64_t>(seconds * 1e6) if seconds >= 0 else -1
        with nogil:
            latch_lock(&e.latch)
            if not self.nudged and not e.closing and (micros >= 0 or e.log.seg_first == self.seen):
                condition_wait(&self.wake, &e.latch, micros)
            latch_unlock(&e.latch)

    @property
    def closing(self):
        """Whether the database closes, or has been closed."""
        return self.e.closing

    def nudge(self):
        """Who waits comes back."""
        latch_enter(&self.e.latch)
        self.nudged = True
        condition_broadcast(&self.wake)
        latch_unlock(&self.e.latch)

    def at_close(self, function):
        """`function()` is called when the database closes, once all is written and synced; None for nothing."""
        self.e.at_close = function
        if function is None:
            self.unhook()


cdef int another_database() except -1:
    raise_status(fail(E_USAGE, b"the directory archives another database: give each one of its own"))


cdef int another_history() except -1:
    raise_status(fail(E_USAGE, b"the archive holds log that this database has not: it goes on in another history, that of a restored or an older copy. "
                               b"Give it a directory of its own"))
