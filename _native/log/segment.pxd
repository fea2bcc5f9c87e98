"""Segment files and groups: their headers, their names, and the list of those in a directory.

Everything about the layout of a segment that writer, reader and `settle_tail` share stands here, once.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from ..base.vfs cimport Vfs

cdef enum:                       # on disk: never change
    SEGMENT_HEADER = 64
    GROUP_HEADER = 32
    LSN_UNIT = 512               # a segment's first LSN and its size are multiples of this
    FORMAT_VERSION = 1

cdef enum HeaderFlag:            # on disk: never change
    PREV_UNSYNCED = 1            # written before its predecessor was synced: proves nothing about it

cdef enum:
    PATH_ROOM = 4200
    DIR_MAX = 4096
    MIN_SEGMENT = 4096
    TAIL_ROOM = 64               # kept free at a segment's end: group header and R_END record

cdef struct SegmentHeader:
    uint32_t version
    uint32_t incarnation
    uint8_t database_id[16]
    uint64_t first_lsn
    uint64_t prev_end            # where the predecessor ends (0: there is none)
    uint32_t prev_crc            # checksum of the last group before prev_end
    uint64_t segment_size
    uint32_t flags

cdef struct GroupHeader:
    uint32_t crc
    uint32_t length              # of the payload
    uint64_t lsn
    uint64_t synced_lsn
    uint32_t incarnation
    uint32_t prev_crc

cdef enum HeaderState:
    HEADER_OK = 0
    HEADER_UNUSED = 1            # no header of the segment this file is named for: prepared ahead, or damaged
    HEADER_FOREIGN = 2           # whole, but of another database
    HEADER_NEWER = 3

cdef void put_segment_header(uint8_t* out, const SegmentHeader* h) noexcept nogil
cdef int get_segment_header(const uint8_t* p, uint64_t named, const uint8_t* database_id, SegmentHeader* h) noexcept nogil

cdef void get_group_header(const uint8_t* p, GroupHeader* h) noexcept nogil
cdef void put_group_header(uint8_t* p, const GroupHeader* h) noexcept nogil      # all but crc
cdef uint32_t seal_group(uint8_t* group, uint32_t prev_crc) noexcept nogil       # fills prev_crc and crc; returns crc

cdef int segment_path(char* out, const char* dir, uint64_t first_lsn) noexcept nogil
cdef int spare_path(char* out, const char* dir, int n) noexcept nogil
cdef void parent_path(char* out, const char* dir) noexcept nogil
cdef int name_path(char* out, const char* dir, const char* name) noexcept nogil

# No latch. Makes the file of the segment at `first`, out of `donor` (NULL: none) if it fits; durable: written whole, with header (NULL: zeros) and directory
# entry on the medium. final: the failure is of the kind that ends the log. donor_gone: the donor is used up.
cdef int segment_make(Vfs vfs, const char* dir, uint64_t segment_size, uint64_t first, const SegmentHeader* header, const char* donor, bint durable,
                      int* handle, bint* final, bint* donor_gone) noexcept nogil

cdef struct Listing:
    uint64_t* segments           # first LSNs, ascending
    size_t count
    uint64_t spares              # bit n: spare-<n>.wal exists (n < 64)
    bint leftovers               # *.tmp exist

cdef int list_segments(Vfs vfs, const char* dir, Listing* out) noexcept nogil
cdef void free_listing(Listing* l) noexcept nogil
