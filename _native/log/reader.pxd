"""The reading side of the log: one pass over the chain of segments and groups, every checksum verified.

No latch: a reader belongs to one thread and reads files only.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from ..base.vfs cimport Vfs
from .record cimport Record
from .segment cimport GroupHeader, Listing, SegmentHeader

cdef struct SegmentEntry:
    uint64_t first_lsn
    int state                    # a HeaderState
    int64_t size                 # of the file; short of header.segment_size only when a power loss took it before any sync
    SegmentHeader header         # when state is HEADER_OK

cdef class LogReader:
    # No latch. Opens the segments of directory `dir` through vfs, to read from start_lsn (a record boundary or group boundary
    # at or below which a group starts). 0: from the oldest segment there is. database_id NULL: any.
    cdef int open(self, Vfs vfs, const char* dir, uint64_t start_lsn, uint64_t segment_size, const uint8_t* database_id) noexcept nogil
    # Next record in LSN order. OK; ABSENT at the end of the log (a torn tail or a clean end); E_CORRUPT (law 5: below the highest known-synced LSN), E_IO.
    cdef int next(self, Record* r) noexcept nogil      # pointers valid until the next call
    # after ABSENT:
    cdef readonly uint64_t end_lsn          # first byte after the last valid group
    cdef readonly uint64_t highest_lsn      # above every LSN seen in any segment file, valid or dead (new segments must start above it)
    cdef readonly uint64_t known_synced     # highest known-synced LSN met
    cdef readonly uint32_t incarnation      # of the last valid group
    cdef readonly uint32_t max_incarnation  # highest seen in any segment header or valid group, dead ones too
    cdef readonly uint32_t last_crc
    cdef void close(self) noexcept nogil
    # After ABSENT because of limit_lsn: goes on to a higher one, through segments that have come since too.
    cdef int resume(self, uint64_t limit_lsn, const uint8_t* database_id) noexcept nogil

    # Groups that start at or above this LSN are not looked at: a reader beside a live writer sets it to the writer's synced_lsn.
    cdef public uint64_t limit_lsn
    # Before open: files may end where their groups do, and are replaced by longer ones of the same name: an archive's.
    cdef public bint trimmed
    # LSN of the group that holds the record last delivered: below it nothing of that write is missing.
    cdef readonly uint64_t group_lsn

    # First LSN of the segment that is read; 0 when there is none.
    cdef uint64_t current_first(self) noexcept nogil

    # private
    cdef Vfs vfs
    cdef char* dir
    cdef uint64_t start_lsn
    cdef SegmentEntry* entries              # ascending, from the segment of start_lsn on
    cdef size_t count
    cdef size_t current
    cdef size_t successor                   # index of the segment that surely names this one's end (no flag); 0: none
    cdef int handle
    cdef uint8_t* buf                       # holds file bytes [buf_at, buf_at + buf_len)
    cdef size_t cap
    cdef uint64_t buf_at
    cdef size_t buf_len
    cdef const uint8_t* rec
    cdef const uint8_t* rec_end
    cdef uint64_t rec_lsn                   # of rec
    cdef uint64_t promised                  # what the last record, an R_END, names as the next segment; else 0
    cdef int ended                          # the status `next` gives for ever after, once not OK
    cdef int load_entries(self, const Listing* l, const uint8_t* database_id, uint64_t fallback) noexcept nogil
    cdef int load_header(self, size_t i, const uint8_t* database_id) noexcept nogil
    cdef int enter(self, size_t i) noexcept nogil
    cdef void find_successor(self, size_t i) noexcept nogil
    cdef int fill(self, uint64_t offset, size_t n, bint* there) noexcept nogil
    cdef int group_at(self, uint64_t offset, GroupHeader* h, bint* whole) noexcept nogil
    cdef int scan(self, uint64_t offset, bint* proof) noexcept nogil
    cdef int next_group(self) noexcept nogil
    cdef int stop(self) noexcept nogil
    cdef size_t relaxed_successor(self) noexcept nogil
    cdef int open_segment(self, size_t i) noexcept nogil
    cdef int corrupt(self, uint64_t lsn, const char* what, uint64_t expected, uint64_t found) noexcept nogil
