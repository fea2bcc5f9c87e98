"""What a restore reads and cuts of archived log: see ``enginelib/rebuild.py``.

The stop is behind a commit record. The log of the copy is made to end there before anything opens it: the group that holds the record is sealed anew without what
follows it, and no later segment is there. So recovery needs to know nothing of it, and no crash can bring back what lies beyond. GIL held; files of the operating
system, unless the caller says otherwise.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
import os
from ..base.coding cimport get32, put32
from ..base.latch cimport Latch, latch_destroy, latch_init
from ..base.realvfs cimport RealVfs
from ..base.status cimport ABSENT, E_USAGE, OK, fail, fail_corrupt, raise_status
from ..base.vfs cimport Vfs, VFS_WRITE
from ..log.reader cimport LogReader
from ..log.record cimport R_COMMIT, Record
from ..log.segment cimport GROUP_HEADER, HEADER_FOREIGN, HEADER_OK, SegmentHeader, seal_group
from ..page.store cimport PageStore
from .archive cimport epoch_in, first_lsns, header_of, segment_file


cdef class Scan:
    """Commits met in a stretch of log, up to a bound.

    Attributes: commit_ts, micros, lsn: of the last commit within the bound: its timestamp, the time of it in microseconds since 1970, and where the log goes on
    behind it; 0 where there is none. group: where the group with its record begins. beyond: whether a commit outside the bound was met, at which the scan ended.
    end, crc: where the log that was read ends, and its last group's checksum; found: whether a group ended at `through`, and with which checksum.
    """
    cdef readonly uint64_t commit_ts
    cdef readonly uint64_t micros
    cdef readonly uint64_t lsn
    cdef readonly uint64_t group
    cdef readonly bint beyond
    cdef readonly uint64_t end
    cdef readonly uint32_t crc
    cdef readonly bint found
    cdef readonly uint32_t through_crc


def scan(bytes directory not None, uint64_t start, uint64_t limit, bytes database_id, uint64_t through, uint64_t most_ts, uint64_t most_micros, uint64_t most_lsn,
         Vfs vfs=None):
    """Reads archived or copied log from segment `start` up to `limit`, every checksum verified. through: an LSN at which a group is expected to end;
    commits up to there are within the bound. Raises what is damaged."""
    cdef Scan s = Scan()
    cdef LogReader log = LogReader()
    cdef Record r
    cdef const char* place = directory
    cdef const uint8_t* id = NULL if database_id is None else <const uint8_t*><const char*>database_id
    cdef int status
    if vfs is None:
        vfs = RealVfs()
    log.trimmed = True
    log.limit_lsn = limit
    status = log.open(vfs, place, start, 0, id)
    if status != OK:
        raise_status(status)
    try:
        with nogil:
            while True:
                if log.end_lsn == through and log.rec == log.rec_end:
                    s.found = True
                    s.through_crc = log.last_crc
                status = log.next(&r)
                if status != OK:
                    break
                if r.type == R_COMMIT:
                    if log.rec_lsn > through and (r.a > most_ts or r.b > most_micros or log.rec_lsn > most_lsn):
                        s.beyond = True
                        break
                    s.commit_ts = r.a
                    s.micros = r.b
                    s.lsn = log.rec_lsn
                    s.group = log.group_lsn
        if status != OK and status != ABSENT:
            raise_status(status)
        s.end = log.end_lsn
        s.crc = log.last_crc
    finally:
        log.close()
    return s


def chain_end(Vfs vfs, bytes directory, uint64_t start, uint64_t limit):
    """(end, checksum of the last group) of the log from segment `start` on, up to `limit`."""
    s = scan(directory, start, limit, None, 0, <uint64_t>-1, <uint64_t>-1, <uint64_t>-1, vfs)
    return s.end, s.crc


def segments_in(bytes directory not None, bytes database_id):
    """(first LSN, length of the file, prev_end, segment size, incarnation) of every segment in a directory, ascending; the last three are 0 where the header is
    damaged or was never written. Raises for one of another database."""
    cdef Vfs vfs = RealVfs()
    cdef SegmentHeader h
    cdef int64_t size = 0
    cdef int state
    found = []
    for first in first_lsns(vfs, directory):
        state = header_of(vfs, directory, first, NULL if database_id is None else <const uint8_t*><const char*>database_id, &h, &size)
        if state == HEADER_FOREIGN:
            raise_status(fail(E_USAGE, b"backup and archive are of different databases"))
        found.append((first, size, h.prev_end, h.segment_size, h.incarnation) if state == HEADER_OK else (first, size, 0, 0, 0))
    return found


def archived_epoch(bytes directory not None):
    """The epoch of the database that archives there; 0 where that is not told."""
    found = epoch_in(RealVfs(), directory)
    return 0 if found is None else found[1]


def image_of(str path not None):
    """(database id, commit timestamp of the newest commit in the image, epoch) of a copy that is closed."""
    cdef PageStore store = PageStore()
    cdef Latch latch
    cdef Vfs vfs = RealVfs()
    cdef bytes pages = os.fsencode(path) + b"/pages.dat"
    cdef int status
    latch_init(&latch)
    store.init(vfs, &latch)
    status = store.open(pages, True)
    if status == OK:
        found = (<bytes>(<char*>store.sb.database_id)[:16], store.sb.next_commit_ts - 1 if store.sb.next_commit_ts else 0, store.sb.epoch)
    store.close()
    latch_destroy(&latch)
    if status == ABSENT:
        raise FileNotFoundError(2, "no database in this directory", path)
    if status != OK:
        raise_status(status)
    return found


def cut(bytes directory not None, uint64_t first, uint64_t group, uint64_t stop, uint64_t size):
    """Makes the log in segment `first` end at `stop`, in or at the end of the group at `group` (0: at the end of one), and the file `size` bytes long."""
    cdef Vfs vfs = RealVfs()
    cdef bytes path = segment_file(directory, first)
    cdef uint8_t* bytes_ = NULL
    cdef size_t n = 0, got = 0
    cdef int handle = -1
    cdef int status = vfs.open(path, VFS_WRITE, &handle)
    if group and status == OK:
        n = <size_t>(stop - group)
        bytes_ = <uint8_t*>malloc(n)
        if bytes_ == NULL:
            vfs.close(handle)
            raise MemoryError("no memory for a log group")
        status = vfs.read(handle, bytes_, n, <int64_t>(group - first), &got)
        if status == OK and got != n:
            status = fail_corrupt(path, <int64_t>(group - first), b"log group", n, got)
        if status == OK:
            put32(bytes_ + 4, <uint32_t>(n - GROUP_HEADER))
            seal_group(bytes_, get32(bytes_ + 28))
            status = vfs.write(handle, bytes_, n, <int64_t>(group - first))
        free(bytes_)
    if status == OK:
        status = vfs.truncate(handle, <int64_t>(stop - first))
    if status == OK:
        status = vfs.truncate(handle, <int64_t>size)
    if status == OK:
        status = vfs.sync(handle)
    if handle >= 0:
        vfs.close(handle)
    if status != OK:
        raise_status(status)
