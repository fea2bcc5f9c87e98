"""The LSM-tree: see lsm.pxd."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from ..base.status cimport OK, ABSENT, AGAIN, E_CORRUPT, E_NOMEM, error_info, fail, fail_corrupt
from ..log.record cimport Record, R_EDIT, RECORD_OVERHEAD
from ..log.writer cimport LogWriter, MAX_RESERVE
from ..page.layout cimport layout_max_key
from ..page.pool cimport Pool
from .memtable cimport (chunks_free, MemEntry, MemNode, MemRange, MemTable, mem_value, mem_visible, memtable_covering, memtable_drop_range, memtable_find, memtable_free, memtable_may_hold, memtable_new,
                        memtable_put, memtable_put_range, memtable_reserve)
from .sstable cimport (ENTRY_DELETE, BlockNeed, Entry, table_close, table_covering, table_find, table_hash, table_may_hold, table_prefetch,
                       table_value, table_open)
from .tableset cimport (LSM_LEVELS, Edit, TableFile, TableSet, edit_encode, edit_size, file_free, file_may_hold, file_stamp, level_search, set_apply,
                        set_describe, set_empty, set_unref)


@cython.no_gc_clear                  # its tables are closed at the very end, and that needs the file system
cdef class LsmTree:

    def __cinit__(self, Pool pool, Vfs vfs, bytes directory, uint32_t id):
        self.pool = pool
        self.core = &pool.core
        self.vfs = vfs
        self.directory_bytes = directory
        self.directory = directory
        self.id = id
        self.max_key = layout_max_key(pool.core.page_size)
        self.max_inline = LSM_RECORD_MOST
        self.options.memtable_size = 64 << 20
        self.options.table_size = 64 << 20
        self.options.bits_per_key = 10
        self.next_number = 1

    def __dealloc__(self):
        cdef MemTable* m
        cdef TableFile* f
        memtable_free(self.active)
        while self.oldest_sealed != NULL:
            m = self.oldest_sealed
            self.oldest_sealed = m.newer
            memtable_free(m)
        chunks_free(self.spares.first)
        if self.set != NULL:
            set_unref(self.set, &self.dead)
        while self.dead != NULL:
            f = self.dead
            self.dead = f.next_dead
            if f.table != NULL:
                table_close(self.vfs, f.table)
            file_free(f)

    cdef int start(self) noexcept nogil:
        self.spares.most = self.options.memtable_size
        self.active = memtable_new(self.options.memtable_size, &self.spares)
        self.set = set_empty()
        if self.active == NULL or self.set == NULL:
            return fail(E_NOMEM, "no memory for an LSM-tree")
        return OK

    cdef void release(self) noexcept nogil:
        cdef TableSet* none = set_empty()
        cdef MemTable* fresh = memtable_new(0, NULL)
        cdef MemTable* m
        if none == NULL or fresh == NULL:            # its memory stays with it then
            if none != NULL:
                set_unref(none, &self.dead)
            memtable_free(fresh)
            return
        set_unref(self.set, &self.dead)
        self.set = none
        while self.oldest_sealed != NULL:
            m = self.oldest_sealed
            self.oldest_sealed = m.newer
            memtable_free(m)
        self.newest_sealed = NULL
        self.sealed_count = 0
        memtable_free(self.active)
        self.active = fresh
        self.mem_ranges = 0
        chunks_free(self.spares.first)
        self.spares.first = NULL
        self.spares.bytes = 0

    cdef int damage_status(self) noexcept nogil:
        return fail_corrupt(self.damage, -1, "a table of this keyspace is missing or damaged, so none of it can be read", 0, 0)

    # --- reading

    cdef bint dead_end(self, const Entry* e, const char* key, size_t klen, uint64_t snapshot, uint64_t own, uint64_t now) noexcept nogil:
        """Whether the version found is none for the reader: a tombstone, expired, or deleted by a range."""
        cdef MemTable* m
        cdef TableFile* f
        cdef uint64_t cover, best
        cdef int level, i
        if e.kind == ENTRY_DELETE:
            return True
        if self.options.ttl and e.wall and e.wall + self.options.ttl <= now:
            return True
        if self.mem_ranges == 0 and self.set.ranges == 0:
            return False
        best = 0
        if self.mem_ranges:
            best = memtable_covering(self.active, key, klen, snapshot, own)
            m = self.oldest_sealed
            while m != NULL:
                cover = memtable_covering(m, key, klen, snapshot, own)
                if cover > best:
                    best = cover
                m = m.newer
        if self.set.ranges:
            for level in range(LSM_LEVELS):
                for i in range(self.set.counts[level]):
                    f = self.set.files[level][i]
                    if f.info.range_tombstones and f.table != NULL and file_may_hold(f, key, klen):
                        cover = table_covering(f.table, key, klen, snapshot)
                        if cover > best:
                            best = cover
        return best > e.ts

    cdef int find(self, const char* key, size_t klen, uint64_t snapshot, uint64_t own, uint64_t now, Entry* out, BlockNeed* need) noexcept nogil:
        cdef MemTable* m = self.active
        cdef MemTable* s
        cdef MemTable* stop = NULL
        cdef MemNode* n
        cdef MemEntry* v
        cdef TableFile* f
        cdef TableSet* set = self.set
        cdef uint64_t hash = table_hash(key, klen)
        cdef int level, i, last, status
        if self.damaged:
            return self.damage_status()
        while True:
            n = memtable_find(m, key, klen) if m.entries and memtable_may_hold(m, hash) else NULL
            if n != NULL:
                v = mem_visible(n.newest, snapshot, own)
                if v != NULL:
                    out.key = key
                    out.klen = <uint32_t>klen
                    out.value = mem_value(v)
                    out.vlen = v.vlen
                    out.ts = v.ts
                    out.wall = v.wall
                    out.kind = v.kind
                    out.far_bytes = 0
                    return ABSENT if self.dead_end(out, key, klen, snapshot, own, now) else OK
            # From the active one through the sealed ones, newest first; the list runs the other way and is short.
            s = self.oldest_sealed
            if s == NULL or s == stop:
                break
            while s.newer != NULL and s.newer != stop:
                s = s.newer
            m = stop = s
        for level in range(LSM_LEVELS):
            if set.counts[level] == 0:
                continue
            if level == 0:
                i = 0
                last = set.counts[0]
            else:
                i = level_search(set, level, key, klen)
                last = i + 2 if i + 2 < set.counts[level] else set.counts[level]     # a range's end may be the next table's first key
            while i < last:
                f = set.files[level][i]
                i += 1
                if f.info.entries == 0 or not file_may_hold(f, key, klen):
                    continue
                if not table_may_hold(f.table, hash):
                    self.tally.filter_skips += 1
                    continue
                self.tally.table_reads += 1
                status = table_find(f.table, self.core, key, klen, snapshot, out, need)
                if status == ABSENT:
                    continue
                if status == OK and self.dead_end(out, key, klen, snapshot, own, now):
                    return ABSENT
                return table_value(f.table, self.core, out, need) if status == OK else status
        return ABSENT

    cdef void prefetch(self, const char** keys, const size_t* klens, int n) noexcept nogil:
        cdef int level = LSM_LEVELS - 1, i, at
        cdef TableSet* set = self.set
        while level > 0 and set.counts[level] == 0:
            level -= 1
        if level == 0:
            return
        for i in range(n):                   # most keys are found in the last level
            at = level_search(set, level, keys[i], klens[i])
            if at < set.counts[level] and set.files[level][at].table != NULL:
                table_prefetch(set.files[level][at].table, self.core, keys[i], klens[i])

    # --- writing

    cdef int admit(self, size_t klen, size_t vlen) noexcept nogil:
        return memtable_reserve(self.active, klen, vlen)

    cdef MemEntry* put(self, const char* key, size_t klen, uint64_t ts, uint64_t wall, uint8_t kind, const char* value, size_t vlen, bint replace,
                       uint64_t lsn) noexcept nogil:
        if self.active.entries == 0 and self.active.range_count == 0 or lsn < self.active.first_lsn:
            self.active.first_lsn = lsn
        return memtable_put(self.active, key, klen, ts, wall, kind, value, vlen, replace)

    cdef MemRange* put_range(self, const char* start, size_t start_len, const char* stop, size_t stop_len, bint unbounded, uint64_t ts,
                             uint64_t lsn) noexcept nogil:
        if self.active.entries == 0 and self.active.range_count == 0 or lsn < self.active.first_lsn:
            self.active.first_lsn = lsn
        self.mem_ranges += 1
        return memtable_put_range(self.active, start, start_len, stop, stop_len, unbounded, ts)

    cdef void drop_range(self, MemRange* r) noexcept nogil:
        memtable_drop_range(self.active, r)
        self.mem_ranges -= 1

    cdef void range_committed(self) noexcept nogil:
        self.active.ranges_in_flight -= 1

    cdef bint full(self) noexcept nogil:
        cdef MemTable* m = self.active
        # Every read looks through the ranges: many of them are better off in tables, where compaction does away with them.
        return (m.used >= self.options.memtable_size or m.range_count - m.ranges_in_flight >= RANGES_MOST) and m.in_flight < m.used // 2

    cdef void seal(self, MemTable* next, uint64_t lsn) noexcept nogil:
        cdef MemTable* m = self.active
        m.seal_lsn = lsn
        m.newer = NULL
        if self.newest_sealed != NULL:
            self.newest_sealed.newer = m
        else:
            self.oldest_sealed = m
        self.newest_sealed = m
        self.sealed_count += 1
        self.tally.seals += 1
        self.active = next

    cdef uint64_t log_needed(self) noexcept nogil:
        cdef uint64_t lsn = <uint64_t>-1
        cdef MemTable* m = self.oldest_sealed
        if self.active.entries or self.active.range_count:
            lsn = self.active.first_lsn
        while m != NULL:
            if m.first_lsn < lsn:
                lsn = m.first_lsn
            m = m.newer
        return lsn

    cdef uint64_t memory(self) noexcept nogil:
        cdef uint64_t n = self.active.bytes + self.spares.bytes
        cdef MemTable* m = self.oldest_sealed
        while m != NULL:
            n += m.bytes
            m = m.newer
        return n

    # --- tables

    cdef void path_of(self, uint64_t number, char* out) noexcept nogil:
        snprintf(out, 512, "%s/%llu.sst", self.directory, <unsigned long long>number)

    cdef int install(self, LogWriter log, Edit* e, uint64_t txn) noexcept nogil:
        cdef size_t n
        cdef uint8_t* buffer
        cdef TableSet* s
        cdef Record r
        cdef int status
        if e.next_number < self.next_number:
            e.next_number = self.next_number
        n = edit_size(e)
        if e.failed or n > MAX_RESERVE - RECORD_OVERHEAD:
            return fail(E_NOMEM, "an edit of an LSM-tree's tables is too large")
        while True:
            status = log.reserve(n + RECORD_OVERHEAD)
            if status != AGAIN:
                break
            status = log.make_room(n + RECORD_OVERHEAD)
            if status != OK:
                break
        if status != OK:
            return status
        s = set_apply(self.set, e, &status)
        if s == NULL:
            return status
        buffer = <uint8_t*>malloc(n)
        if buffer == NULL:
            set_unref(s, &self.dead)
            return fail(E_NOMEM, "no memory for an edit of an LSM-tree's tables")
        memset(&r, 0, sizeof(Record))
        r.type = R_EDIT
        r.txn = txn
        r.keyspace = self.id
        r.value = <char*>buffer
        r.vlen = edit_encode(e, buffer)
        log.append(&r)
        free(buffer)
        self.dead_lsn = log.end_lsn
        set_unref(self.set, &self.dead)
        self.set = s
        if e.persisted_lsn:
            self.persisted_lsn = e.persisted_lsn
        return OK

    cdef int restore(self, Edit* e) noexcept nogil:
        cdef int status
        cdef TableFile* gone = NULL
        cdef TableFile* f
        cdef TableSet* s = set_apply(self.set, e, &status)
        if s == NULL:
            return status
        # What leaves the set here is only forgotten: it may have come back under the same number (a trivial move); orphans go once recovery is through.
        set_unref(self.set, &gone)
        while gone != NULL:
            f = gone
            gone = f.next_dead
            file_free(f)
        self.set = s
        if e.persisted_lsn:
            self.persisted_lsn = e.persisted_lsn
        if e.next_number > self.next_number:
            self.next_number = e.next_number
        return OK

    cdef void describe(self, Edit* e) noexcept nogil:
        e.persisted_lsn = self.persisted_lsn
        e.next_number = self.next_number
        set_describe(self.set, e)

    cdef int open_tables(self, bint allow_damaged) noexcept nogil:
        """Opens every table of the set and holds what the file says against what the log says of it."""
        cdef char path[512]
        cdef TableFile* f
        cdef int level, i, status
        for level in range(LSM_LEVELS):
            for i in range(self.set.counts[level]):
                f = self.set.files[level][i]
                if f.table != NULL:
                    continue
                self.path_of(f.number, path)
                status = table_open(self.vfs, path, f.number, &f.table)
                if status == OK and f.loaded:
                    file_stamp(f, f.info.newest_ts)
                if status == OK and (f.table.info.entries != f.info.entries or f.table.info.file_bytes != f.info.file_bytes
                                     or f.table.info.newest_ts != f.info.newest_ts):
                    status = fail_corrupt(path, -1, "the table is another than the one that the log names: its size in bytes", f.info.file_bytes,
                                          f.table.info.file_bytes)
                if status == ABSENT:
                    status = fail_corrupt(path, -1, "the table is missing", f.number, 0)
                if status == E_CORRUPT and allow_damaged:
                    self.damaged = E_CORRUPT
                    memcpy(self.damage, error_info().file, 512)
                    continue
                if status != OK:
                    return status
        return OK
