"""Walks the chain; tells a torn tail from corruption. The rules and their argument stand in README.md."""
from libc.stdlib cimport malloc, realloc, free
from libc.string cimport memcmp, memmove, strdup, strlen
from ..base.status cimport OK, ABSENT, E_NOMEM, E_CORRUPT, E_INVALID, E_NEWER, fail, fail_corrupt
from ..base.vfs cimport VFS_READ
from ..base.coding cimport get64
from ..base.checksum cimport crc32c
from .record cimport record_decode, R_END
from .segment cimport (
    DIR_MAX, GROUP_HEADER, HEADER_FOREIGN, HEADER_NEWER, HEADER_OK, HEADER_UNUSED, LSN_UNIT, PATH_ROOM, PREV_UNSYNCED, SEGMENT_HEADER,
    GroupHeader, Listing, free_listing, get_group_header, get_segment_header, list_segments, segment_path,
)

cdef enum:
    PIECE = 1 << 20              # bytes asked of the file at a time
    ZEROS = 4096                 # stretch of zeros that the scan for later groups skips at once


cdef class LogReader:
    def __cinit__(self):
        self.handle = -1
        self.limit_lsn = <uint64_t>-1
        self.ended = ABSENT

    def __dealloc__(self):
        self.close()

    cdef int open(self, Vfs vfs, const char* dir, uint64_t start_lsn, uint64_t segment_size, const uint8_t* database_id) noexcept nogil:
        cdef Listing l
        cdef int rc
        if strlen(dir) > DIR_MAX:
            return fail(E_INVALID, b"The log directory's path is too long")
        self.close()
        with gil:
            self.vfs = vfs
        self.dir = strdup(dir)
        self.cap = PIECE
        self.buf = <uint8_t*>malloc(self.cap)
        if self.dir == NULL or self.buf == NULL:
            return fail(E_NOMEM, b"No memory for a log reader")
        self.start_lsn = start_lsn
        self.end_lsn = self.known_synced = start_lsn
        self.highest_lsn = start_lsn
        self.incarnation = self.max_incarnation = self.last_crc = 0
        self.group_lsn = self.promised = 0
        self.rec = self.rec_end = NULL
        rc = list_segments(vfs, self.dir, &l)
        if rc != OK and rc != ABSENT:
            return rc
        if rc == ABSENT or l.count == 0:
            free_listing(&l)
            return OK if start_lsn == 0 else fail_corrupt(self.dir, -1, b"log segment", start_lsn, 0)
        rc = self.load_entries(&l, database_id, segment_size)
        free_listing(&l)
        if rc != OK:
            return rc
        self.last_crc = self.entries[0].header.prev_crc
        self.ended = OK
        return self.enter(0)

    cdef int load_entries(self, const Listing* l, const uint8_t* database_id, uint64_t fallback) noexcept nogil:
        """Reads the headers from the segment of start_lsn on."""
        cdef size_t i, from_ = 0
        cdef uint64_t above
        cdef int rc
        while from_ + 1 < l.count and l.segments[from_ + 1] <= self.start_lsn:
            from_ += 1
        self.count = l.count - from_
        self.entries = <SegmentEntry*>malloc(self.count * sizeof(SegmentEntry))
        if self.entries == NULL:
            return fail(E_NOMEM, b"No memory for the list of log segments")
        for i in range(self.count):
            self.entries[i].first_lsn = l.segments[from_ + i]
        for i in range(self.count):
            rc = self.load_header(i, database_id)
            if rc != OK:
                return rc
            above = <uint64_t>self.entries[i].size
            if above < fallback:
                above = fallback
            if self.entries[i].state == HEADER_OK and above < self.entries[i].header.segment_size:
                above = self.entries[i].header.segment_size
            above += self.entries[i].first_lsn
            if above > self.highest_lsn:
                self.highest_lsn = above
            if self.entries[i].state == HEADER_OK and self.entries[i].header.incarnation > self.max_incarnation:
                self.max_incarnation = self.entries[i].header.incarnation
        self.highest_lsn = (self.highest_lsn + LSN_UNIT - 1) // LSN_UNIT * LSN_UNIT
        self.current = 0
        if self.start_lsn != 0 and self.entries[0].first_lsn > self.start_lsn:
            return fail_corrupt(self.dir, -1, b"log segment (the oldest there is begins later)", self.start_lsn,
                                self.entries[0].first_lsn)
        if self.entries[0].state != HEADER_OK:
            return self.corrupt(self.entries[0].first_lsn, b"log segment header", self.entries[0].first_lsn, 0)
        return OK

    cdef int load_header(self, size_t i, const uint8_t* database_id) noexcept nogil:
        cdef SegmentEntry* e = &self.entries[i]
        cdef char path[PATH_ROOM]
        cdef uint8_t head[SEGMENT_HEADER]
        cdef size_t got = 0
        cdef int handle = -1
        cdef int rc
        segment_path(path, self.dir, e.first_lsn)
        rc = self.vfs.open(path, VFS_READ, &handle)
        if rc != OK:
            return rc if rc != ABSENT else fail_corrupt(path, -1, b"log segment", e.first_lsn, 0)
        rc = self.vfs.size(handle, &e.size)
        if rc == OK:
            rc = self.vfs.read(handle, head, SEGMENT_HEADER, 0, &got)
        self.vfs.close(handle)
        if rc != OK:
            return rc
        e.state = HEADER_UNUSED
        if got == SEGMENT_HEADER:
            e.state = get_segment_header(head, e.first_lsn, database_id, &e.header)
        if e.state == HEADER_FOREIGN:
            return fail_corrupt(path, 16, b"database id of a log segment", 0, 0)
        if e.state == HEADER_NEWER:
            return fail(E_NEWER, b"The log was written by a newer version of the format")
        # Where the predecessor was not synced, this file's size need not have been: what is missing then is a torn tail or not,
        # as the groups tell.
        if e.state == HEADER_OK and <uint64_t>e.size != e.header.segment_size and (
                not (self.trimmed or e.header.flags & PREV_UNSYNCED) or <uint64_t>e.size > e.header.segment_size):
            return fail_corrupt(path, e.size, b"size of a log segment", e.header.segment_size, <uint64_t>e.size)
        return OK

    cdef int corrupt(self, uint64_t lsn, const char* what, uint64_t expected, uint64_t found) noexcept nogil:
        cdef char path[PATH_ROOM]
        segment_path(path, self.dir, self.entries[self.current].first_lsn)
        self.ended = E_CORRUPT
        return fail_corrupt(path, <int64_t>(lsn - self.entries[self.current].first_lsn), what, expected, found)

    cdef int open_segment(self, size_t i) noexcept nogil:
        """From here on fill, group_at and scan look at segment i."""
        cdef char path[PATH_ROOM]
        cdef int rc
        if self.handle >= 0:
            self.vfs.close(self.handle)
            self.handle = -1
        segment_path(path, self.dir, self.entries[i].first_lsn)
        rc = self.vfs.open(path, VFS_READ, &self.handle)
        if rc != OK:
            self.ended = rc if rc != ABSENT else fail_corrupt(path, -1, b"log segment", self.entries[i].first_lsn, 0)
            return self.ended
        self.current = i
        self.buf_at = 0
        self.buf_len = 0
        return OK

    cdef int enter(self, size_t i) noexcept nogil:
        """Goes to the start of segment i, whose header is valid; finds the segment that surely names it as predecessor."""
        cdef SegmentEntry* e = &self.entries[i]
        cdef int rc = self.open_segment(i)
        if rc != OK:
            return rc
        self.end_lsn = e.first_lsn + SEGMENT_HEADER
        self.incarnation = e.header.incarnation
        self.promised = 0
        if not e.header.flags & PREV_UNSYNCED and e.header.prev_end > self.known_synced:
            self.known_synced = e.header.prev_end
        self.find_successor(i)
        return OK

    cdef void find_successor(self, size_t i) noexcept nogil:
        cdef SegmentEntry* e = &self.entries[i]
        cdef SegmentEntry* later
        cdef size_t j
        self.successor = 0
        for j in range(i + 1, self.count):
            later = &self.entries[j]
            if (later.state == HEADER_OK and not later.header.flags & PREV_UNSYNCED and later.header.prev_end >= self.end_lsn
                    and later.header.prev_end <= e.first_lsn + e.header.segment_size
                    and later.header.incarnation >= e.header.incarnation):
                self.successor = j
                break

    cdef uint64_t current_first(self) noexcept nogil:
        return self.entries[self.current].first_lsn if self.count else 0

    cdef int resume(self, uint64_t limit_lsn, const uint8_t* database_id) noexcept nogil:
        cdef SegmentEntry* e
        cdef SegmentEntry* known = self.entries
        cdef Listing l
        cdef uint64_t offset
        cdef size_t count = self.count, current = self.current
        cdef int rc = OK
        if self.ended != ABSENT or self.count == 0:
            return self.ended
        e = &self.entries[self.current]
        offset = self.end_lsn - e.first_lsn
        if self.trimmed or limit_lsn > e.first_lsn + e.header.segment_size:
            rc = list_segments(self.vfs, self.dir, &l)
            if rc != OK:
                return rc
            self.start_lsn = e.first_lsn
            self.entries = NULL
            rc = self.load_entries(&l, database_id, e.header.segment_size)
            free_listing(&l)
            if rc != OK or self.entries[0].first_lsn != self.start_lsn:
                free(self.entries)
                self.entries = known
                self.count = count
                self.current = current
                return rc if rc != OK else fail_corrupt(self.dir, -1, b"log segment (it went while it was read)", self.start_lsn, 0)
            free(known)
            self.find_successor(0)
            if self.trimmed:
                rc = self.open_segment(0)            # it may be another file by now
                if rc != OK:
                    return rc
        # What was read ahead may have been written since.
        if self.buf_at + self.buf_len > offset:
            self.buf_len = <size_t>(offset - self.buf_at) if offset > self.buf_at else 0
        self.limit_lsn = limit_lsn
        self.ended = OK
        return OK

    cdef size_t relaxed_successor(self) noexcept nogil:
        """The segment with a flagged header that names exactly where the chain has come to; 0: there is none."""
        cdef SegmentHeader* h
        cdef size_t j
        for j in range(self.current + 1, self.count):
            h = &self.entries[j].header
            if (self.entries[j].state == HEADER_OK and h.flags & PREV_UNSYNCED and h.prev_end == self.end_lsn
                    and h.prev_crc == self.last_crc and h.incarnation == self.incarnation):
                return j
        return 0

    cdef int fill(self, uint64_t offset, size_t n, bint* there) noexcept nogil:
        """Brings file bytes [offset, offset + n) into the buffer. there: False when the file ends before."""
        cdef size_t have, want, got = 0
        cdef uint8_t* bigger
        cdef int rc
        there[0] = True
        if offset >= self.buf_at and offset + n <= self.buf_at + self.buf_len:
            return OK
        if n > self.cap:
            bigger = <uint8_t*>realloc(self.buf, n + PIECE)
            if bigger == NULL:
                return fail(E_NOMEM, b"No memory for a log group")
            self.buf = bigger
            self.cap = n + PIECE
        have = 0
        if self.buf_at <= offset < self.buf_at + self.buf_len:
            have = self.buf_at + self.buf_len - offset
            memmove(self.buf, self.buf + (offset - self.buf_at), have)
        want = self.cap - have
        self.buf_at = offset
        self.buf_len = have
        rc = self.vfs.read(self.handle, self.buf + have, want, <int64_t>(offset + have), &got)
        if rc != OK:
            return rc
        self.buf_len = have + got
        there[0] = self.buf_len >= n
        return OK

    cdef int group_at(self, uint64_t offset, GroupHeader* h, bint* whole) noexcept nogil:
        """whole: a group that bears its own place and its segment's incarnation, checksum right, lies at `offset`."""
        cdef SegmentEntry* e = &self.entries[self.current]
        cdef const uint8_t* p
        cdef bint there = False
        cdef int rc
        whole[0] = False
        if offset + GROUP_HEADER >= <uint64_t>e.size:
            return OK
        rc = self.fill(offset, GROUP_HEADER, &there)
        if rc != OK or not there:
            return rc
        get_group_header(self.buf + (offset - self.buf_at), h)
        if h.lsn != e.first_lsn + offset or h.length == 0 or h.length > <uint64_t>e.size - offset - GROUP_HEADER:
            return OK
        rc = self.fill(offset, GROUP_HEADER + <size_t>h.length, &there)
        if rc != OK or not there:
            return rc
        p = self.buf + (offset - self.buf_at)
        if crc32c(0, p + 4, GROUP_HEADER - 4 + <size_t>h.length) != h.crc:
            return OK
        if e.state == HEADER_OK and h.incarnation != e.header.incarnation:
            return OK
        whole[0] = True
        return OK

    cdef int next_group(self) noexcept nogil:
        cdef SegmentEntry* e = &self.entries[self.current]
        cdef uint64_t bound
        cdef uint64_t offset
        cdef size_t following
        cdef GroupHeader h
        cdef bint whole = False
        cdef int rc
        if self.end_lsn >= self.limit_lsn:
            return ABSENT
        while True:
            following = self.successor
            if following != 0:
                bound = self.entries[following].header.prev_end
                if self.end_lsn > bound or (self.end_lsn == bound and self.entries[following].header.prev_crc != self.last_crc):
                    return self.corrupt(bound, b"end of a log segment", self.entries[following].header.prev_crc, self.last_crc)
                if self.end_lsn < bound:
                    following = 0
            if following == 0:
                following = self.relaxed_successor()
            if following == 0:
                break
            rc = self.enter(following)
            if rc != OK:
                return rc
            e = &self.entries[self.current]
            if self.end_lsn >= self.limit_lsn:
                return ABSENT
        offset = self.end_lsn - e.first_lsn
        rc = self.group_at(offset, &h, &whole)
        if rc != OK:
            return rc
        if not whole or h.prev_crc != self.last_crc:
            return self.stop()
        if h.synced_lsn > self.known_synced:
            self.known_synced = h.synced_lsn
        self.last_crc = h.crc
        self.group_lsn = h.lsn
        self.promised = 0
        self.end_lsn += GROUP_HEADER + h.length
        self.rec = self.buf + (offset - self.buf_at) + GROUP_HEADER
        self.rec_end = self.rec + h.length
        self.rec_lsn = h.lsn + GROUP_HEADER
        return OK

    cdef int next(self, Record* r) noexcept nogil:
        cdef const uint8_t* after
        if self.ended != OK:
            return self.ended
        while True:
            while self.rec < self.rec_end:
                after = record_decode(self.rec, self.rec_end, r)
                if after == NULL:
                    return self.corrupt(self.rec_lsn, b"log record", 0, self.rec[0])
                r.lsn = self.rec_lsn
                self.rec_lsn += <uint64_t>(after - self.rec)
                self.rec = after
                self.promised = r.a if r.type == R_END else 0
                if r.lsn >= self.start_lsn:
                    return OK
            self.ended = self.next_group()
            if self.ended != OK:
                return self.ended

    cdef int stop(self) noexcept nogil:
        """Nothing follows at end_lsn. ABSENT when that is the log's end; E_CORRUPT when there is proof that it went on."""
        cdef SegmentEntry* e = &self.entries[self.current]
        cdef bint proof = False
        cdef bint promise_kept = self.promised == 0
        cdef size_t here = self.current
        cdef size_t j
        cdef uint64_t at = self.end_lsn
        cdef int rc
        if self.successor != 0:
            return self.corrupt(at, b"log group (the next segment proves that there was one)",
                                self.entries[self.successor].header.prev_end, at)
        if at < self.start_lsn or at < self.known_synced:
            return self.corrupt(at, b"log group (the log was synced beyond)",
                                self.start_lsn if self.start_lsn > self.known_synced else self.known_synced, at)
        for j in range(here + 1, self.count):
            if self.entries[j].state == HEADER_OK and not self.entries[j].header.flags & PREV_UNSYNCED:
                return self.corrupt(at, b"log segment that ends where a later one begins",
                                    self.entries[j].header.prev_end, at)
        rc = self.scan(at - e.first_lsn + 1, &proof)
        if rc != OK:
            return rc
        for j in range(here + 1, self.count):
            if proof:
                break
            if self.entries[j].first_lsn == self.promised:
                promise_kept = True
            # Never begun, not durable, dead, or damaged? Only what knew of syncs beyond the stop can tell.
            rc = self.open_segment(j)
            if rc == OK:
                rc = self.scan(SEGMENT_HEADER, &proof)
            if rc != OK:
                return rc
            if proof and self.entries[j].state != HEADER_OK and self.known_synced > self.entries[j].first_lsn:
                return self.corrupt(self.entries[j].first_lsn, b"log segment header (a group behind it proves that it was synced)",
                                    self.entries[j].first_lsn, 0)
        self.current = here
        if proof:
            return self.corrupt(at, b"log group (a later group proves that it was synced)", self.known_synced, at)
        if not promise_kept:
            return self.corrupt(at, b"log segment (it is missing)", self.promised, 0)
        self.rec = self.rec_end = NULL
        return ABSENT

    cdef int scan(self, uint64_t offset, bint* proof) noexcept nogil:
        """Looks at every byte behind the stop for a whole group that knew of syncs beyond it. Raises what the tail teaches."""
        cdef SegmentEntry* e = &self.entries[self.current]
        cdef uint64_t size = <uint64_t>e.size
        cdef GroupHeader h
        cdef const uint8_t* p
        cdef uint64_t edge
        cdef bint there = False
        cdef bint whole = False
        cdef int rc
        proof[0] = False
        while offset + GROUP_HEADER < size:
            if offset + ZEROS <= size:
                rc = self.fill(offset, ZEROS, &there)
                edge = offset + ZEROS - 16
            else:
                rc = self.fill(offset, <size_t>(size - offset), &there)
                edge = size - GROUP_HEADER
            if rc != OK or not there:
                return rc
            p = self.buf + (offset - self.buf_at)
            if edge == offset + ZEROS - 16 and p[0] == 0 and memcmp(p, p + 1, ZEROS - 1) == 0:
                offset = edge
                continue
            while offset < edge:
                if get64(p + 8) == e.first_lsn + offset:
                    rc = self.group_at(offset, &h, &whole)
                    if rc != OK:
                        return rc
                    if whole:
                        if h.incarnation > self.max_incarnation:
                            self.max_incarnation = h.incarnation
                        if h.synced_lsn > self.known_synced:
                            self.known_synced = h.synced_lsn
                        if h.synced_lsn > self.end_lsn:
                            proof[0] = True
                            return OK
                    offset += 1
                    break            # the buffer may have moved
                offset += 1
                p += 1
        return OK

    cdef void close(self) noexcept nogil:
        if self.handle >= 0:
            self.vfs.close(self.handle)
        self.handle = -1
        free(self.buf)
        free(self.dir)
        free(self.entries)
        self.buf = NULL
        self.dir = NULL
        self.entries = NULL
        self.count = 0
        self.ended = ABSENT
