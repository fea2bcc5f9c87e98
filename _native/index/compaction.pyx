"""Flush and compaction: see compaction.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from ..base.coding cimport compare_bytes
from ..base.latch cimport Latch, latch_lock, latch_unlock, monotonic_micros
from ..base.status cimport OK, ABSENT, E_NOMEM, fail
from ..log.writer cimport LogWriter, SYNC
from .lsm cimport LsmTree
from .memtable cimport MemEntry, MemNode, MemRange, MemTable, mem_key, mem_value, memtable_free, memtable_seek, memtable_next, range_start, range_stop
from .output cimport Output, output_discard, output_finish, output_open, output_start
from .pick cimport Pick
from .place cimport SEEK_GE
from .sstable cimport ENTRY_DELETE, Entry, RangeTombstone, table_close, table_forget
from .sstscan cimport TableScan, scan_close, scan_entry, scan_next, scan_open
from .sstwrite cimport writer_add, writer_add_range, writer_bytes
from .tableset cimport Edit, TableFile, edit_add, edit_free, edit_init, edit_remove, file_free, file_unref, set_tables

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int)

cdef enum:
    READ_AHEAD = 256 * 1024
    LOOK_EVERY = 1024              # entries between two looks at `stop`,
    LOOK_SELDOM = 65536            # and between two calls of `look`
    KEY_ROOM = 8192

# --- which versions stay -----------------------------------------------------------------------------------------------

cdef struct Sieve:
    const Horizon* horizon
    RangeTombstone* ranges         # of all inputs
    uint64_t range_count
    bint bottom
    uint64_t ttl
    char* last                     # key of the newest version seen of the present key
    uint32_t last_len
    bint any
    int stratum                    # of the version of it that stays, newest so far


cdef inline int stratum_of(const Horizon* h, uint64_t ts) noexcept nogil:
    """Which snapshots a version is for: the first at or after it; all versions between two snapshots are one stratum, of which the newest is seen."""
    cdef int low = 0, high = h.count, middle
    while low < high:
        middle = (low + high) >> 1
        if h.stamps[middle] < ts:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline bint in_range(const RangeTombstone* r, const char* key, size_t klen) noexcept nogil:
    return (compare_bytes(r.start, r.start_len, key, klen) <= 0
            and (r.stop == NULL or compare_bytes(key, klen, r.stop, r.stop_len) < 0))


cdef bint stays(Sieve* s, const Entry* e) noexcept nogil:
    """Versions come in order, newest first for each key."""
    cdef int stratum = stratum_of(s.horizon, e.ts)
    cdef bint newest = not s.any or s.last_len != e.klen or compare_bytes(s.last, s.last_len, e.key, e.klen) != 0
    cdef uint64_t i
    if newest:
        memcpy(s.last, e.key, e.klen)
        s.last_len = e.klen
        s.any = True
    elif not s.horizon.everything and stratum == s.stratum and stratum < s.horizon.count:
        return False                                 # a newer one of the same stratum hides it from everyone
    s.stratum = stratum
    if s.horizon.everything or stratum == s.horizon.count:
        return True                                  # above every snapshot: future ones tell
    for i in range(s.range_count):
        if s.ranges[i].ts > e.ts and stratum_of(s.horizon, s.ranges[i].ts) == stratum and in_range(&s.ranges[i], e.key, e.klen):
            return False
    if stratum == 0 and s.bottom:
        if e.kind == ENTRY_DELETE:
            return False
        if s.ttl and e.wall and e.wall + s.ttl <= s.horizon.now:
            return False
    return True


cdef inline bint range_stays(Sieve* s, const RangeTombstone* r) noexcept nogil:
    return s.horizon.everything or not s.bottom or stratum_of(s.horizon, r.ts) != 0

# --- merged input ------------------------------------------------------------------------------------------------------

cdef struct Source:
    TableScan* scan
    Entry* entry                   # the scan's present one
    uint64_t head
    int age                        # among equal keys and timestamps: the lower is the newer

cdef struct Merge:
    Source** order                 # live sources, by their present entry
    int live
    Source* sources
    int count


cdef inline uint64_t head_of(const char* key, size_t klen) noexcept nogil:
    cdef uint64_t h = 0
    cdef size_t i, n = klen if klen < 8 else 8
    for i in range(n):
        h |= <uint64_t>(<uint8_t>key[i]) << (56 - 8 * i)
    return h


cdef inline bint stands_before(const Source* a, const Source* b) noexcept nogil:
    cdef int c
    if a.head != b.head:
        return a.head < b.head
    c = compare_bytes(a.entry.key, a.entry.klen, b.entry.key, b.entry.klen)
    if c != 0:
        return c < 0
    if a.entry.ts != b.entry.ts:
        return a.entry.ts > b.entry.ts
    return a.age < b.age


cdef void place_first(Merge* m) noexcept nogil:
    """The first source has a new entry: it goes to where that belongs."""
    cdef Source* s = m.order[0]
    cdef int i = 0
    while i + 1 < m.live and stands_before(m.order[i + 1], s):
        m.order[i] = m.order[i + 1]
        i += 1
    m.order[i] = s


cdef int merge_advance(Merge* m) noexcept nogil:
    """The first source goes on to its next entry."""
    cdef Source* s = m.order[0]
    cdef int i, status = scan_next(s.scan)
    if status == OK:
        s.head = head_of(s.entry.key, s.entry.klen)
        place_first(m)
        return OK
    if status == ABSENT:
        m.live -= 1
        for i in range(m.live):
            m.order[i] = m.order[i + 1]
        return OK
    return status


cdef void merge_close(Merge* m) noexcept nogil:
    cdef int i
    if m.sources != NULL:
        for i in range(m.count):
            if m.sources[i].scan != NULL:
                scan_close(m.sources[i].scan)
    free(m.sources)
    free(m.order)


cdef int merge_open(Merge* m, LsmTree tree, Pick* p) noexcept nogil:
    cdef int i, j, status
    cdef Source* s
    memset(m, 0, sizeof(Merge))
    m.sources = <Source*>calloc(p.count + 1, sizeof(Source))
    m.order = <Source**>calloc(p.count + 1, sizeof(Source*))
    if m.sources == NULL or m.order == NULL:
        return fail(E_NOMEM, "no memory for a compaction")
    for i in range(p.count):
        s = &m.sources[m.count]
        s.age = i
        s.scan = scan_open(tree.vfs, p.inputs[i].table, READ_AHEAD)
        if s.scan == NULL:
            return fail(E_NOMEM, "no memory for a compaction")
        s.entry = scan_entry(s.scan)
        m.count += 1
        status = scan_next(s.scan)
        if status == ABSENT:
            continue
        if status != OK:
            return status
        s.head = head_of(s.entry.key, s.entry.klen)
        j = m.live
        while j > 0 and stands_before(s, m.order[j - 1]):
            m.order[j] = m.order[j - 1]
            j -= 1
        m.order[j] = s
        m.live += 1
    return OK

# --- range tombstones, rate --------------------------------------------------------------------------------------------

cdef int add_ranges(Output* out, Sieve* sieve, const char* upper, size_t upper_len) noexcept nogil:
    """The parts of the range tombstones that stay between the present table's first key and `upper` (NULL: all that is left)."""
    cdef RangeTombstone* r
    cdef const char* start
    cdef const char* stop
    cdef size_t start_len, stop_len
    cdef uint64_t i
    cdef int status
    for i in range(sieve.range_count):
        r = &sieve.ranges[i]
        if not range_stays(sieve, r):
            continue
        start = r.start
        start_len = r.start_len
        if out.first != NULL and compare_bytes(start, start_len, out.first, out.first_len) < 0:
            start = out.first
            start_len = out.first_len
        stop = r.stop
        stop_len = r.stop_len
        if upper != NULL and (stop == NULL or compare_bytes(stop, stop_len, upper, upper_len) > 0):
            stop = upper
            stop_len = upper_len
        if stop != NULL and compare_bytes(start, start_len, stop, stop_len) >= 0:
            continue
        status = writer_add_range(out.writer, start, start_len, stop, stop_len, stop == NULL, r.ts)
        if status != OK:
            return status
    return OK


cdef bint keep_pace(Work* work, uint64_t bytes) noexcept nogil:
    """Waits as long as it takes to stay below the rate. True: given up meanwhile."""
    cdef int64_t now, due
    if work.rate == 0:
        return False
    now = monotonic_micros()
    if work.since == 0 or now - work.since > 2000000:
        work.since = now
        work.written = 0
    work.written += bytes
    due = work.since + <int64_t>(work.written * 1000000 // work.rate)
    while due > now:
        if work.stop[0] or work.look != NULL and work.look():
            return True
        usleep(<unsigned int>min(due - now, <int64_t>50000))
        now = monotonic_micros()
    return False

# --- flush -------------------------------------------------------------------------------------------------------------

cdef int collect_mem_ranges(MemTable* m, Sieve* sieve) noexcept nogil:
    cdef MemRange* r = m.ranges
    cdef RangeTombstone* t
    if m.range_count == 0:
        return OK
    sieve.ranges = <RangeTombstone*>calloc(m.range_count, sizeof(RangeTombstone))
    if sieve.ranges == NULL:
        return fail(E_NOMEM, "no memory for range tombstones")
    while r != NULL:
        t = &sieve.ranges[sieve.range_count]
        t.start = range_start(r)
        t.start_len = r.start_len
        t.stop = NULL if r.unbounded else range_stop(r)
        t.stop_len = r.stop_len
        t.ts = r.ts
        sieve.range_count += 1
        r = r.next
    return OK


cdef int write_memtable(LsmTree tree, MemTable* m, Sieve* sieve, Output* out, Latch* latch) noexcept nogil:
    cdef MemNode* n = memtable_seek(m, NULL, 0, SEEK_GE)
    cdef MemEntry* v
    cdef Entry e
    cdef uint64_t last
    cdef int status = OK
    cdef uint64_t i
    cdef bint ranges = False
    for i in range(sieve.range_count):
        ranges = ranges or range_stays(sieve, &sieve.ranges[i])
    while n != NULL and status == OK:
        v = n.newest
        last = 0
        e.key = mem_key(n)
        e.klen = n.klen
        while v != NULL and status == OK:
            e.value = mem_value(v)
            e.vlen = v.vlen
            e.ts = v.ts
            e.wall = v.wall
            e.kind = v.kind
            # One transaction may have left several, for its savepoints: the newest is what it committed.
            if v.ts != last and stays(sieve, &e):
                if out.writer == NULL:
                    status = output_open(tree, out, latch)
                if status == OK:
                    status = writer_add(out.writer, &e)
            last = v.ts
            v = v.older
        n = memtable_next(n)
    if status == OK and out.writer == NULL and ranges:
        status = output_open(tree, out, latch)
    if status == OK and out.writer != NULL:
        status = add_ranges(out, sieve, NULL, 0)
        if status == OK:
            status = output_finish(tree, out)
    return status


cdef int flush_oldest(LsmTree tree, LogWriter log, const Horizon* horizon, Work* work) noexcept nogil:
    cdef MemTable* m = tree.oldest_sealed
    cdef Sieve sieve
    cdef Output out
    cdef Edit edit
    cdef int status
    if m == NULL or tree.flushing or tree.doomed:
        return ABSENT
    tree.flushing = True
    memset(&sieve, 0, sizeof(Sieve))
    edit_init(&edit)
    sieve.horizon = horizon
    sieve.bottom = set_tables(tree.set) == 0
    sieve.ttl = tree.options.ttl
    output_start(tree, &out, &edit, 0, 1)
    latch_unlock(work.latch)
    sieve.last = <char*>malloc(KEY_ROOM)
    status = OK if sieve.last != NULL else fail(E_NOMEM, "no memory for a flush")
    if status == OK:
        status = collect_mem_ranges(m, &sieve)
    if status == OK:
        status = write_memtable(tree, m, &sieve, &out, work.latch)
    if status == OK and edit.count:
        status = tree.vfs.sync_dir(tree.directory)
    free(sieve.last)
    free(sieve.ranges)
    latch_lock(work.latch)
    if status == OK:
        edit.persisted_lsn = m.seal_lsn
        status = tree.install(log, &edit, 0)
    if status == OK:
        tree.oldest_sealed = m.newer
        if m.newer == NULL:
            tree.newest_sealed = NULL
        tree.sealed_count -= 1
        tree.mem_ranges -= m.range_count
        tree.tally.flushes += 1
        tree.tally.bytes_flushed += out.bytes
        memtable_free(m)
        edit_free(&edit, False)
    else:
        latch_unlock(work.latch)
        output_discard(tree, &out, False)
        latch_lock(work.latch)
        edit_free(&edit, True)
    tree.flushing = False
    return status

# --- compaction --------------------------------------------------------------------------------------------------------

cdef int gather_ranges(Pick* p, Sieve* sieve) noexcept nogil:
    cdef uint64_t n = 0, j
    cdef int i
    for i in range(p.count):
        n += p.inputs[i].table.info.range_tombstones
    if n == 0:
        return OK
    sieve.ranges = <RangeTombstone*>malloc(n * sizeof(RangeTombstone))
    if sieve.ranges == NULL:
        return fail(E_NOMEM, "no memory for range tombstones")
    for i in range(p.count):
        for j in range(p.inputs[i].table.info.range_tombstones):
            sieve.ranges[sieve.range_count] = p.inputs[i].table.ranges[j]
            sieve.range_count += 1
    return OK


cdef int merge_tables(LsmTree tree, Pick* p, Sieve* sieve, Output* out, Work* work) noexcept nogil:
    cdef Merge m
    cdef Entry* e
    cdef uint64_t seen = 0, paced = 0, bytes, table_size = tree.options.table_size
    cdef char* cut = <char*>malloc(KEY_ROOM)
    cdef uint32_t cut_len = 0
    cdef bint fresh
    cdef int status = merge_open(&m, tree, p)
    if cut == NULL and status == OK:
        status = fail(E_NOMEM, "no memory for a compaction")
    if out.level == 0:
        table_size = <uint64_t>-1                    # a run is one table
    while m.live and status == OK:
        e = m.order[0].entry
        seen += 1
        if seen % LOOK_EVERY == 0 and (work.stop[0] or tree.doomed or (seen % LOOK_SELDOM == 0 and work.look != NULL and work.look())):
            status = ABSENT
            break
        fresh = not sieve.any or sieve.last_len != e.klen or compare_bytes(sieve.last, sieve.last_len, e.key, e.klen) != 0
        if fresh and out.writer != NULL and writer_bytes(out.writer) >= table_size:
            # Cut between keys only; the range tombstones are cut there too.
            status = ABSENT if keep_pace(work, writer_bytes(out.writer) - paced) else add_ranges(out, sieve, e.key, e.klen)
            if status == OK:
                status = output_finish(tree, out)
            if status != OK:
                break
            memcpy(cut, e.key, e.klen)
            cut_len = e.klen
            out.first = cut
            out.first_len = cut_len
            paced = 0
        if stays(sieve, e):
            if out.writer == NULL:
                status = output_open(tree, out, work.latch)
                if status != OK:
                    break
            status = writer_add(out.writer, e)
            if status != OK:
                break
            bytes = writer_bytes(out.writer)
            if bytes - paced >= READ_AHEAD:
                if keep_pace(work, bytes - paced):
                    status = ABSENT
                    break
                paced = bytes
        status = merge_advance(&m)
    if status == OK:
        if out.writer == NULL and any_range_left(out, sieve):
            status = output_open(tree, out, work.latch)
        if status == OK and out.writer != NULL:
            status = ABSENT if keep_pace(work, writer_bytes(out.writer) - paced) else add_ranges(out, sieve, NULL, 0)
            if status == OK:
                status = output_finish(tree, out)
    merge_close(&m)
    free(cut)
    return status


cdef bint any_range_left(Output* out, Sieve* sieve) noexcept nogil:
    cdef uint64_t i
    cdef RangeTombstone* r
    for i in range(sieve.range_count):
        r = &sieve.ranges[i]
        if range_stays(sieve, r) and (out.first == NULL or r.stop == NULL
                                      or compare_bytes(r.stop, r.stop_len, out.first, out.first_len) > 0):
            return True
    return False


cdef int compaction_run(LsmTree tree, LogWriter log, Pick* p, const Horizon* horizon, Work* work) noexcept nogil:
    cdef Sieve sieve
    cdef Output out
    cdef Edit edit
    cdef uint64_t base = <uint64_t>-1, bytes_in = 0
    cdef int i, status = OK
    memset(&sieve, 0, sizeof(Sieve))
    edit_init(&edit)
    sieve.horizon = horizon
    sieve.bottom = p.bottom
    sieve.ttl = tree.options.ttl
    for i in range(p.count):
        p.inputs[i].busy = True
        p.inputs[i].refs += 1
        bytes_in += p.inputs[i].info.file_bytes
        if p.inputs[i].info.oldest_ts and p.inputs[i].info.oldest_ts < base:
            base = p.inputs[i].info.oldest_ts
        edit_remove(&edit, p.levels[i], p.inputs[i].number)
    output_start(tree, &out, &edit, p.to_level, base)
    tree.compacting += 1
    if p.trivial:
        edit_add(&edit, p.to_level, p.inputs[0])
    else:
        latch_unlock(work.latch)
        sieve.last = <char*>malloc(KEY_ROOM)
        if sieve.last == NULL:
            status = fail(E_NOMEM, "no memory for a compaction")
        if status == OK:
            status = gather_ranges(p, &sieve)
        if status == OK:
            status = merge_tables(tree, p, &sieve, &out, work)
        if status == OK and out.bytes:
            status = tree.vfs.sync_dir(tree.directory)
        free(sieve.last)
        free(sieve.ranges)
        latch_lock(work.latch)
    if status == OK and tree.doomed:
        status = ABSENT
    if status == OK:
        status = tree.install(log, &edit, 0)
    if status == OK:
        if p.trivial:
            tree.tally.trivial_moves += 1
        else:
            tree.tally.compactions += 1
            tree.tally.bytes_compacted_in += bytes_in
            tree.tally.bytes_compacted_out += out.bytes
    elif not p.trivial:
        latch_unlock(work.latch)
        output_discard(tree, &out, False)
        latch_lock(work.latch)
    for i in range(p.count):
        p.inputs[i].busy = False
        file_unref(p.inputs[i], &tree.dead)
    tree.compacting -= 1
    edit_free(&edit, status != OK)
    return status


cdef int reap_files(LsmTree tree, LogWriter log, Latch* latch) noexcept nogil:
    cdef TableFile* dead = tree.dead
    cdef TableFile* f
    cdef TableFile* next
    cdef TableFile** p
    cdef char path[512]
    cdef int status
    if dead == NULL:
        return OK
    status = log.flush(tree.dead_lsn, SYNC)
    if status != OK:
        return status
    # What died while the log was made durable may be of a later edit.
    if log.synced_lsn < tree.dead_lsn:
        return OK
    f = tree.dead
    tree.dead = dead = NULL
    while f != NULL:
        next = f.next_dead
        if f.table != NULL and f.table.refs > 1:     # a block of it is just being read: the next time
            f.next_dead = tree.dead
            tree.dead = f
        else:
            if f.table != NULL:
                table_forget(tree.pool, f.table)
            f.next_dead = dead
            dead = f
        f = next
    latch_unlock(latch)
    p = &dead
    while p[0] != NULL:
        f = p[0]
        tree.path_of(f.number, path)
        if f.table != NULL:
            table_close(tree.vfs, f.table)
            f.table = NULL
        status = tree.vfs.unlink(path)
        if status == OK or status == ABSENT:
            p[0] = f.next_dead
            file_free(f)
        else:                                        # next time, perhaps
            p = &f.next_dead
    latch_lock(latch)
    p[0] = tree.dead
    tree.dead = dead
    return OK
