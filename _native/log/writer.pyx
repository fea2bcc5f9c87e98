"""Appending, group commit and segment switching. The rules and their argument stand in README.md.

Preparing and releasing segments is in the second half of the class; their files are made in `segment`.
"""
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, strdup, strlen
from ..base.status cimport (
    OK, ABSENT, AGAIN, E_INVALID, E_LOG, E_NOMEM, E_TOO_LARGE, ErrorInfo, error_info, fail, fail_n,
)
from ..base.coding cimport put_varint
from ..base.latch cimport condition_broadcast, condition_destroy, condition_init, condition_signal, condition_wait, latch_lock, latch_unlock
from ..base.vfs cimport VFS_WRITE
from .record cimport R_DELETE, R_END, R_PUT, R_RUNNING, record_encode
from .segment cimport (
    DIR_MAX, FORMAT_VERSION, GROUP_HEADER, LSN_UNIT, MIN_SEGMENT, PATH_ROOM, PREV_UNSYNCED, SEGMENT_HEADER, TAIL_ROOM,
    GroupHeader, Listing, free_listing, list_segments, name_path, put_group_header, put_segment_header, seal_group,
    parent_path, segment_make, segment_path, spare_path,
)

cdef enum:
    INLINE_MAX = 4096            # groups up to this size are written at level OS without giving the latch back
    MAX_SPARES = 16              # released segments kept while the log is open, as far as they are
    SPARE_BYTES = 256 << 20      # not larger than this, about what one checkpoint releases,
    CLOSED_SPARES = 2            # and afterwards, or where the files are memory
    END_ROOM = 16                # an R_END record, in the buffer


cdef class LogWriter:
    def __cinit__(self):
        self.handle = self.next_handle = -1
        self.waiters_end = &self.waiters

    def __dealloc__(self):
        self.close()

    # --- appending -------------------------------------------------------------------------------------------------

    cdef int reserve(self, size_t n) noexcept nogil:
        if self.used + self.ends + n <= self.room and n <= MAX_RESERVE:
            return OK
        if self.failed:
            return self.log_failed()
        if n > MAX_RESERVE:
            return fail_n(E_INVALID, b"Log records of %lld bytes at once; at most %lld", <int64_t>n, MAX_RESERVE)
        return AGAIN

    cdef int reserve_ends(self, int64_t n) noexcept nogil:
        cdef int rc
        if n <= 0:
            self.ends -= <size_t>(-n)
            return OK
        rc = self.reserve(<size_t>n)
        if rc == OK:
            self.ends += <size_t>n
        return rc

    cdef uint64_t append(self, const Record* r) noexcept nogil:
        cdef uint64_t lsn = self.group_lsn + self.used
        self.used += record_encode(self.bufs[self.active] + self.used, r)
        self.end_lsn = self.group_lsn + self.used
        return lsn

    cdef uint64_t append_put(self, uint64_t txn, uint32_t ks, const char* key, size_t klen, const char* value, size_t vlen) noexcept nogil:
        cdef uint64_t lsn = self.group_lsn + self.used
        cdef uint8_t* start = self.bufs[self.active] + self.used
        cdef uint8_t* p = start
        p[0] = R_PUT
        p = put_varint(p + 1, txn)
        p = put_varint(p, ks)
        p = put_varint(p, klen)
        p = put_varint(p, vlen)
        memcpy(p, key, klen)
        p += klen
        memcpy(p, value, vlen)
        p += vlen
        self.used += p - start
        self.end_lsn = lsn + <uint64_t>(p - start)
        return lsn

    cdef uint64_t append_delete(self, uint64_t txn, uint32_t ks, const char* key, size_t klen) noexcept nogil:
        cdef uint64_t lsn = self.group_lsn + self.used
        cdef uint8_t* start = self.bufs[self.active] + self.used
        cdef uint8_t* p = start
        p[0] = R_DELETE
        p = put_varint(p + 1, txn)
        p = put_varint(p, ks)
        p = put_varint(p, klen)
        memcpy(p, key, klen)
        p += klen
        self.used += p - start
        self.end_lsn = lsn + <uint64_t>(p - start)
        return lsn

    cdef int set_names(self, const uint8_t* encoded_records, size_t n) noexcept nogil:
        cdef uint8_t* copy
        cdef int rc
        if SEGMENT_HEADER + GROUP_HEADER + n + RUNNING_ROOM + self.ends + 2 * TAIL_ROOM > self.segment_size:
            return fail_n(E_TOO_LARGE, b"The table of keyspace names takes %lld bytes of a log segment of %lld",
                          <int64_t>n, <int64_t>self.segment_size)
        copy = <uint8_t*>malloc(n + 1)
        if copy == NULL:
            return fail(E_NOMEM, b"No memory for the log's table of names")
        if not self.writing and self.cap < GROUP_HEADER + n + RUNNING_ROOM + self.ends + END_ROOM:
            rc = self.grow(GROUP_HEADER + n + RUNNING_ROOM + self.ends + END_ROOM)
            if rc != OK:
                free(copy)
                return rc
        memcpy(copy, encoded_records, n)
        free(self.names)
        self.names = copy
        self.names_len = n
        if self.group_lsn == self.seg_first + SEGMENT_HEADER and self.used == GROUP_HEADER and not self.switching:
            self.begin_group(self.group_lsn)
        return OK

    cdef void begin_group(self, uint64_t lsn) noexcept nogil:
        """The active buffer is empty and its group will lie at `lsn` of the segment [seg_first, seg_end)."""
        self.group_lsn = lsn
        self.used = GROUP_HEADER
        if lsn == self.seg_first + SEGMENT_HEADER and self.names_len > 0:
            memcpy(self.bufs[self.active] + GROUP_HEADER, self.names, self.names_len)
            self.used += self.names_len
            if self.next_txn:
                self.bufs[self.active][self.used] = R_RUNNING
                self.used = put_varint(self.bufs[self.active] + self.used + 1, self.next_txn) - self.bufs[self.active]
        self.end_lsn = lsn if self.used == GROUP_HEADER else lsn + self.used
        self.bound_room()

    cdef void bound_room(self) noexcept nogil:
        cdef size_t room = self.cap - END_ROOM
        cdef uint64_t left = self.seg_end - self.group_lsn
        left = left - TAIL_ROOM if left > TAIL_ROOM else 0
        self.room = 0 if self.failed else (room if room < left else <size_t>left)

    cdef int make_room(self, size_t n) noexcept nogil:
        cdef size_t need, cap
        cdef int rc
        if n > MAX_RESERVE:
            return fail_n(E_INVALID, b"Log records of %lld bytes at once; at most %lld", <int64_t>n, MAX_RESERVE)
        while True:
            if self.failed:
                return self.log_failed()
            need = n + self.ends
            if self.used + need <= self.room:
                return OK
            cap = GROUP_HEADER + self.names_len + RUNNING_ROOM + need + END_ROOM
            if SEGMENT_HEADER + cap + TAIL_ROOM > self.segment_size:
                return fail_n(E_TOO_LARGE, b"%lld bytes of log records do not fit a segment of %lld bytes",
                              <int64_t>(self.names_len + need), <int64_t>self.segment_size)
            if self.cap < cap:
                self.claim()
                rc = self.grow(cap)
                self.unclaim()
                if rc != OK:
                    return rc
            elif self.group_lsn + self.used + GROUP_HEADER + need + TAIL_ROOM <= self.seg_end:
                rc = self.flush_to(self.end_lsn, OS)
                if rc != OK:
                    return rc
            elif self.next_first == 0:
                rc = self.prepare()
                if rc != OK:
                    return rc
            else:
                self.claim()
                # Others were here meanwhile: is it still so?
                rc = OK
                if (not self.failed and self.next_first != 0
                        and self.cap >= GROUP_HEADER + self.names_len + RUNNING_ROOM + n + self.ends + END_ROOM
                        and self.group_lsn + self.used + GROUP_HEADER + n + self.ends + TAIL_ROOM > self.seg_end):
                    rc = self.switch_segment()
                self.unclaim()
                if rc != OK:
                    return rc

    cdef int grow(self, size_t cap) noexcept nogil:
        """Makes both buffers at least `cap` long. Nothing is being written."""
        cdef size_t bigger = self.cap
        cdef uint8_t* p
        cdef int i
        while bigger < cap:
            bigger *= 2
        if bigger == self.cap:
            return OK
        for i in range(2):
            p = <uint8_t*>realloc(self.bufs[i], bigger)
            if p == NULL:
                return fail(E_NOMEM, b"No memory for a log buffer")
            self.bufs[i] = p
        self.cap = bigger
        self.bound_room()
        return OK

    # --- waiting ---------------------------------------------------------------------------------------------------

    cdef int log_failed(self) noexcept nogil:
        cdef ErrorInfo* info
        fail(E_LOG, self.failed_text)
        info = error_info()
        info.sys_errno = self.failed_errno
        return E_LOG

    cdef int set_failed(self) noexcept nogil:
        """A write or sync has failed, as this thread's ErrorInfo tells: final."""
        cdef ErrorInfo* info = error_info()
        if not self.failed:
            self.failed_errno = info.sys_errno
            snprintf(self.failed_text, sizeof(self.failed_text), b"The log has failed for good: %.180s", info.text)
            self.failed = E_LOG
            self.room = 0
        return self.log_failed()

    cdef void wait(self, int kind, uint64_t lsn) noexcept nogil:
        """Sleeps until woken: because what is waited for has come, or because this thread may now do it itself."""
        cdef Waiter w
        w.next = NULL
        w.lsn = lsn
        w.kind = kind
        w.woken = False
        condition_init(&w.cond)
        self.waiters_end[0] = &w
        self.waiters_end = &w.next
        while not w.woken:
            condition_wait(&w.cond, self.latch, -1)
        condition_destroy(&w.cond)

    cdef void wake(self) noexcept nogil:
        """Called after every change that a waiter may wait for. Wakes those satisfied, and one new leader of each kind."""
        cdef Waiter** at = &self.waiters
        cdef Waiter* w
        cdef bint may_write = not self.writing and not self.switching
        cdef bint may_sync = not self.syncing and not self.switching
        cdef bint may_claim = not self.switching
        cdef bint up
        while at[0] != NULL:
            w = at[0]
            up = self.failed != 0
            if w.kind == W_OS:
                if self.written_lsn >= w.lsn:
                    up = True
                elif may_write:
                    up = True
                    may_write = False
            elif w.kind == W_SYNC:
                if self.synced_lsn >= w.lsn:
                    up = True
                elif may_sync and (not self.writing or self.written_lsn >= w.lsn):
                    up = True
                    may_sync = False
            elif w.kind == W_CLAIM:
                if may_claim:
                    up = True
                    may_claim = False
            elif w.kind == W_IDLE:
                up = not self.writing and not self.syncing
            elif not self.preparing:
                up = True
            if up:
                at[0] = w.next
                if self.waiters_end == &w.next:
                    self.waiters_end = at
                w.woken = True
                condition_signal(&w.cond)
            else:
                at = &w.next

    cdef void claim(self) noexcept nogil:
        """Waits until this thread alone may write, sync and switch."""
        while self.switching:
            self.wait(W_CLAIM, 0)
        self.switching = True
        while self.writing or self.syncing:
            self.wait(W_IDLE, 0)

    cdef void unclaim(self) noexcept nogil:
        self.switching = False
        self.wake()

    # --- group commit ----------------------------------------------------------------------------------------------

    cdef int flush(self, uint64_t lsn, int level) noexcept nogil:
        self.lax = level < SYNC
        return self.flush_to(lsn, level)

    cdef int flush_to(self, uint64_t lsn, int level) noexcept nogil:
        if lsn > self.end_lsn:
            lsn = self.end_lsn
        while True:
            if level == SYNC:
                if self.synced_lsn >= lsn:
                    return OK
            elif level == LAZY or self.written_lsn >= lsn:
                return OK
            if self.failed:
                return self.log_failed()
            if not self.switching:
                if level == OS:
                    if not self.writing:
                        self.write_group(False)
                        continue
                elif not self.syncing and (not self.writing or self.written_lsn >= lsn):
                    self.write_and_sync()
                    continue
            self.wait(W_SYNC if level == SYNC else W_OS, lsn)

    cdef void write_header(self, uint8_t* buf) noexcept nogil:
        cdef GroupHeader h
        h.length = <uint32_t>(self.used - GROUP_HEADER)
        h.lsn = self.group_lsn
        h.synced_lsn = self.synced_lsn
        h.incarnation = self.incarnation
        put_group_header(buf, &h)

    cdef int write_group(self, bint before_sync) noexcept nogil:
        """Writes what has been appended, as one group. No one is writing or switching."""
        cdef uint8_t* buf = self.bufs[self.active]
        cdef size_t n = self.used
        cdef uint64_t lsn = self.group_lsn
        cdef int64_t offset = <int64_t>(lsn - self.seg_first)
        cdef int rc
        if n == GROUP_HEADER:
            return OK
        self.write_header(buf)
        self.groups += 1
        if n <= INLINE_MAX and not before_sync:
            self.last_crc = seal_group(buf, self.last_crc)
            rc = self.vfs.write_tail(self.handle, buf, n, offset)
            self.begin_group(lsn + n)
        else:
            self.writing = True
            self.active ^= 1
            self.begin_group(lsn + n)
            latch_unlock(self.latch)
            self.last_crc = seal_group(buf, self.last_crc)
            if before_sync:
                rc = self.vfs.write(self.handle, buf, n, offset)
            else:
                rc = self.vfs.write_tail(self.handle, buf, n, offset)
            latch_lock(self.latch)
            self.writing = False
        if rc != OK:
            self.set_failed()
        else:
            self.written_lsn = lsn + n
        if self.waiters != NULL:
            self.wake()
        return rc

    cdef int write_and_sync(self) noexcept nogil:
        """Writes what there is and syncs it. No one is syncing or switching; who writes has what the caller needs behind him."""
        cdef uint64_t target
        cdef bint names
        cdef int rc = OK
        self.syncing = True
        if not self.writing:
            rc = self.write_group(True)
        if rc == OK:
            target = self.written_lsn
            names = self.dir_pending
            self.syncs += 1 + self.pending_count
            latch_unlock(self.latch)
            if self.pending_count or names:
                rc = self.sync_older(names)
            if rc == OK:
                rc = self.vfs.sync(self.handle)
            latch_lock(self.latch)
            self.pending_count = 0       # nobody switches while this thread syncs
            self.dir_pending = False
            if rc != OK:
                self.set_failed()
            elif target > self.synced_lsn:
                self.synced_lsn = target
        self.syncing = False
        if self.waiters != NULL:
            self.wake()
        return rc

    cdef int sync_older(self, bint names) noexcept nogil:
        """Syncs the segments ended without a sync, oldest first, and lets go of them; with `names` then the directory. No latch;
        syncing or switching is set. The caller forgets them (pending_count, dir_pending), whatever is returned."""
        cdef int i
        cdef int rc = OK
        for i in range(self.pending_count):
            if rc == OK:
                rc = self.vfs.sync(self.pending[i])
        for i in range(self.pending_count):
            self.vfs.close(self.pending[i])
        if rc == OK and names:
            rc = self.vfs.sync_dir(self.dir)
        return rc

    cdef int switch_segment(self) noexcept nogil:
        """Ends the current segment and begins the next, which is ready. Claimed. Strictly (law 6: the old one is durable, then the
        new one's header, which names the old one's end, before any group can go into the new one), or, while nobody wants
        syncs, without any: the header says so, and the next SYNC flush syncs in that order."""
        cdef uint8_t* buf = self.bufs[self.active]
        cdef char path[PATH_ROOM]
        cdef SegmentHeader h
        cdef size_t n
        cdef uint64_t lsn = self.group_lsn
        cdef uint64_t old_first = self.seg_first
        cdef int old = self.handle
        cdef int new = self.next_handle
        cdef int slow = -1
        cdef bint relaxed = self.lax and self.synced_lsn < self.written_lsn and self.pending_count < MAX_PENDING
        cdef bint new_unsynced = self.next_unsynced
        cdef bint names = new_unsynced or self.dir_pending
        cdef int rc
        if not relaxed:
            buf[self.used] = R_END
            self.used = put_varint(buf + self.used + 1, self.next_first) - buf
            self.syncs += 2 + self.pending_count + new_unsynced
        n = self.used
        h.prev_end = lsn
        if n > GROUP_HEADER:
            h.prev_end += n
            self.write_header(buf)
            self.groups += 1
            self.active ^= 1
        self.seg_first = self.next_first
        self.seg_end = self.next_first + self.segment_size
        self.next_first = 0
        self.next_handle = -1
        self.next_unsynced = False
        self.dir_pending = names and relaxed
        self.begin_group(self.seg_first + SEGMENT_HEADER)
        h.version = FORMAT_VERSION
        h.incarnation = self.incarnation
        memcpy(h.database_id, self.database_id, 16)
        h.first_lsn = self.seg_first
        h.segment_size = self.segment_size
        latch_unlock(self.latch)
        if relaxed:
            # Waiting for its sync takes a handle, not the mapping that write_tail may keep. Opened before the other is closed,
            # so that no failure of writing back can go unheard between them.
            segment_path(path, self.dir, old_first)
            if self.vfs.open(path, VFS_WRITE, &slow) == OK:
                rc = self.switch_relaxed(&h, buf, n, old, new)
                self.vfs.close(old)
                old = slow
            else:
                rc = self.switch_relaxed(&h, buf, n, old, new)
        else:
            rc = self.switch_strictly(&h, buf, n, old, new, new_unsynced, names)
            self.vfs.close(old)
        latch_lock(self.latch)
        self.handle = new
        if self.switched != NULL:
            condition_broadcast(self.switched)
        if relaxed:
            self.pending[self.pending_count] = old
            self.pending_count += 1
        else:
            self.pending_count = 0
        if rc != OK:
            self.set_failed()
        else:
            self.written_lsn = h.first_lsn + SEGMENT_HEADER
            if not relaxed:
                self.synced_lsn = self.written_lsn
        return E_LOG if self.failed else OK

    cdef int switch_relaxed(self, SegmentHeader* h, uint8_t* group, size_t n, int old, int new) noexcept nogil:
        """No latch; switching. Two writes."""
        cdef uint8_t head[SEGMENT_HEADER]
        cdef int rc = OK
        if n > GROUP_HEADER:
            self.last_crc = seal_group(group, self.last_crc)
            rc = self.vfs.write_tail(old, group, n, <int64_t>(h.prev_end - n - (h.first_lsn - self.segment_size)))
        if rc == OK:
            h.prev_crc = self.last_crc
            h.flags = PREV_UNSYNCED
            put_segment_header(head, h)
            rc = self.vfs.write(new, head, SEGMENT_HEADER, 0)
        return rc

    cdef int switch_strictly(self, SegmentHeader* h, uint8_t* group, size_t n, int old, int new, bint new_unsynced,
                             bint names) noexcept nogil:
        """No latch; switching. What the switches before put off comes first: older segments, names, the new file's bytes
        (its size above all, which a header without the flag vouches for)."""
        cdef uint8_t head[SEGMENT_HEADER]
        cdef int rc = self.sync_older(False)
        if rc == OK and new_unsynced:
            rc = self.vfs.sync(new)
        if rc == OK and names:
            rc = self.vfs.sync_dir(self.dir)
        if rc == OK:
            self.last_crc = seal_group(group, self.last_crc)
            rc = self.vfs.write(old, group, n, <int64_t>(h.prev_end - n - (h.first_lsn - self.segment_size)))
        if rc == OK:
            rc = self.vfs.sync(old)
        if rc == OK:
            h.prev_crc = self.last_crc
            h.flags = 0
            put_segment_header(head, h)
            rc = self.vfs.write(new, head, SEGMENT_HEADER, 0)
        if rc == OK:
            rc = self.vfs.sync(new)
        return rc

    # --- segment files ---------------------------------------------------------------------------------------------

    cdef void follow(self, uint64_t end_lsn, uint32_t last_crc) noexcept nogil:
        self.prev_end = end_lsn
        self.last_crc = last_crc

    cdef int start(self, Vfs vfs, Latch* latch, const char* dir, uint64_t segment_size, uint64_t first_lsn, uint32_t incarnation,
                   const uint8_t* database_id, size_t buffer_size) noexcept nogil:
        cdef SegmentHeader h
        cdef char donor[PATH_ROOM]
        cdef Listing l
        cdef size_t i
        cdef bint final = False
        cdef bint gone = False
        cdef int rc
        if strlen(dir) > DIR_MAX:
            return fail(E_INVALID, b"The log directory's path is too long")
        if (segment_size < MIN_SEGMENT or segment_size % LSN_UNIT != 0 or segment_size // LSN_UNIT > <uint64_t>0xFFFFFFFF
                or first_lsn % LSN_UNIT != 0 or first_lsn < self.prev_end):
            return fail_n(E_INVALID, b"A log segment of %lld bytes at LSN %lld: both must be multiples of 512, above the log's end",
                          <int64_t>segment_size, <int64_t>first_lsn)
        with gil:
            self.vfs = vfs
        self.latch = latch
        self.segment_size = segment_size
        self.spares_most = CLOSED_SPARES
        if not vfs.in_memory:
            self.spares_most = max(CLOSED_SPARES, min(<int>MAX_SPARES, <int>(SPARE_BYTES // segment_size)))
        self.incarnation = incarnation
        memcpy(self.database_id, database_id, 16)
        self.cap = 512
        while self.cap < buffer_size:
            self.cap *= 2
        self.dir = strdup(dir)
        self.bufs[0] = <uint8_t*>malloc(self.cap)
        self.bufs[1] = <uint8_t*>malloc(self.cap)
        self.pending = <int*>malloc(MAX_PENDING * sizeof(int))
        if self.dir == NULL or self.bufs[0] == NULL or self.bufs[1] == NULL or self.pending == NULL:
            return fail(E_NOMEM, b"No memory for the log's buffers")
        rc = vfs.mkdir(dir)
        if rc == OK:
            parent_path(donor, dir)
            rc = vfs.sync_dir(donor)         # also when the directory was there: the run that made it may have been killed
        if rc == OK:
            rc = list_segments(vfs, dir, &l)
        if rc != OK:
            return rc
        self.spares = l.spares
        # A segment above the log's end was prepared and never begun: the first to be made into the new one, so that a
        # database that filled its disk can be opened.
        donor[0] = 0
        for i in range(l.count):
            if self.prev_end != 0 and l.segments[i] >= self.prev_end:
                if donor[0] == 0:
                    segment_path(donor, dir, l.segments[i])
                continue
            rc = self.add_segment(l.segments[i])
            if rc != OK:
                free_listing(&l)
                return rc
            if l.segments[i] >= first_lsn:
                fail_n(E_INVALID, b"A new log segment at LSN %lld, not above the existing one at %lld", <int64_t>first_lsn,
                       <int64_t>l.segments[i])
                free_listing(&l)
                return E_INVALID
        free_listing(&l)
        if donor[0] == 0 and self.spares != 0:
            i = 0
            while not (self.spares >> i) & 1:
                i += 1
            self.spares &= self.spares - 1
            spare_path(donor, dir, <int>i)
        h.version = FORMAT_VERSION
        h.incarnation = incarnation
        memcpy(h.database_id, database_id, 16)
        h.first_lsn = first_lsn
        h.prev_end = self.prev_end
        h.prev_crc = self.last_crc
        h.segment_size = segment_size
        h.flags = 0
        rc = segment_make(vfs, dir, segment_size, first_lsn, &h, donor if donor[0] != 0 else NULL, True, &self.handle, &final, &gone)
        if rc == OK:
            rc = self.add_segment(first_lsn)
        if rc == OK:
            rc = self.clear_leftovers(vfs, first_lsn)
        if rc != OK:
            return rc
        self.seg_first = first_lsn
        self.seg_end = first_lsn + segment_size
        self.written_lsn = self.synced_lsn = first_lsn + SEGMENT_HEADER
        self.begin_group(first_lsn + SEGMENT_HEADER)
        return OK

    cdef int clear_leftovers(self, Vfs vfs, uint64_t first_lsn) noexcept nogil:
        """Removes temporary files, and the segments above the old end that were never begun."""
        cdef char path[PATH_ROOM]
        cdef Listing l
        cdef size_t i
        cdef bint changed
        cdef int rc = list_segments(vfs, self.dir, &l)
        if rc != OK:
            return rc
        changed = l.leftovers
        if l.leftovers:
            name_path(path, self.dir, b"next.tmp")
            rc = vfs.unlink(path)
            if rc == ABSENT:
                rc = OK
        for i in range(l.count):
            if rc == OK and self.prev_end != 0 and self.prev_end <= l.segments[i] < first_lsn:
                segment_path(path, self.dir, l.segments[i])
                rc = vfs.unlink(path)
                if rc == ABSENT:
                    rc = OK
                changed = True
        free_listing(&l)
        return vfs.sync_dir(self.dir) if rc == OK and changed else rc

    cdef int add_segment(self, uint64_t first) noexcept nogil:
        cdef uint64_t* p
        if self.seg_count == self.seg_cap:
            p = <uint64_t*>realloc(self.segs, (self.seg_cap * 2 + 8) * sizeof(uint64_t))
            if p == NULL:
                return fail(E_NOMEM, b"No memory for the list of log segments")
            self.segs = p
            self.seg_cap = self.seg_cap * 2 + 8
        self.segs[self.seg_count] = first
        self.seg_count += 1
        return OK

    cdef int prepare(self) noexcept nogil:
        """Makes the next segment ready. OK also when another thread just tried: look again."""
        cdef char donor[PATH_ROOM]
        cdef uint64_t first = self.seg_first + self.segment_size
        cdef bint final = False
        cdef bint gone = False
        cdef bint durable = not self.lax
        cdef int spare = 0
        cdef int h = -1
        cdef int rc
        if self.preparing:
            self.wait(W_PREPARED, 0)
            return OK
        rc = self.add_segment(first)
        if rc != OK:
            return rc
        self.seg_count -= 1              # room in the list is what was wanted
        self.preparing = True
        donor[0] = 0
        if self.spares != 0:
            while not (self.spares >> spare) & 1:
                spare += 1
            self.spares &= self.spares - 1
            spare_path(donor, self.dir, spare)
        latch_unlock(self.latch)
        rc = segment_make(self.vfs, self.dir, self.segment_size, first, NULL, donor if donor[0] != 0 else NULL, durable, &h, &final, &gone)
        latch_lock(self.latch)
        self.preparing = False
        if donor[0] != 0 and not gone:
            self.spares |= <uint64_t>1 << spare
        if rc == OK:
            self.add_segment(first)
            self.next_first = first
            self.next_handle = h
            self.next_unsynced = not durable
        elif final:
            rc = self.set_failed()
        self.wake()
        return rc

    cdef int prepare_ahead(self) noexcept nogil:
        if self.failed:
            return self.log_failed()
        if (self.next_first != 0 or self.preparing
                or self.end_lsn - self.seg_first < (self.segment_size // 4 if self.lax else self.segment_size // 2)):
            return OK
        return self.prepare()

    cdef int release_below(self, uint64_t lsn) noexcept nogil:
        cdef char path[PATH_ROOM]
        cdef char spare[PATH_ROOM]
        cdef bint final
        cdef int n
        cdef int rc = OK
        if self.releasing:
            return OK
        self.releasing = True
        # One by one, oldest first, the directory synced between: no crash can leave a gap.
        while rc == OK and not self.failed:
            if lsn > self.synced_lsn:
                lsn = self.synced_lsn
            if self.seg_count < 2 or self.segs[1] > lsn or self.segs[1] > self.seg_first:
                break
            segment_path(path, self.dir, self.segs[0])
            n = 0
            while n < self.spares_most and (self.spares >> n) & 1:
                n += 1
            latch_unlock(self.latch)
            final = False
            if n < self.spares_most:
                spare_path(spare, self.dir, n)
                rc = self.vfs.rename(path, spare)
            else:
                rc = self.vfs.unlink(path)
                if rc == ABSENT:
                    rc = OK
            if rc == OK:
                rc = self.vfs.sync_dir(self.dir)
                final = rc != OK
            latch_lock(self.latch)
            if final:
                rc = self.set_failed()
            if rc == OK:
                self.seg_count -= 1
                memmove(self.segs, self.segs + 1, self.seg_count * sizeof(uint64_t))
                if n < self.spares_most:
                    self.spares |= <uint64_t>1 << n
        self.releasing = False
        if self.failed:
            self.wake()
        return rc

    cdef void trim(self) noexcept nogil:
        cdef char path[PATH_ROOM]
        cdef int n
        for n in range(CLOSED_SPARES, MAX_SPARES):
            if (self.spares >> n) & 1:
                spare_path(path, self.dir, n)
                if self.vfs.unlink(path) != OK:
                    return                       # it is used again another time
                self.spares &= ~(<uint64_t>1 << n)

    cdef void close(self) noexcept nogil:
        cdef int i
        if self.handle >= 0:
            self.vfs.close(self.handle)
        if self.next_handle >= 0:
            self.vfs.close(self.next_handle)
        for i in range(self.pending_count):
            self.vfs.close(self.pending[i])
        self.pending_count = 0
        self.handle = self.next_handle = -1
        free(self.dir)
        free(self.bufs[0])
        free(self.bufs[1])
        free(self.names)
        free(self.segs)
        free(self.pending)
        self.pending = NULL
        self.dir = NULL
        self.bufs[0] = self.bufs[1] = self.names = NULL
        self.segs = NULL
        self.seg_count = self.seg_cap = self.used = self.room = self.names_len = 0
        self.failed = E_LOG
