"""See ahead.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from ..base.latch cimport latch_lock, latch_unlock
from ..base.status cimport OK, ABSENT, AGAIN, E_NOMEM, fail
from ..index.btree cimport BTree, Cell, Need, MAX_BATCH, MAX_LEVELS, need_init
from ..log.record cimport R_PUT, R_DELETE, R_PUT_BLOB
from ..page.fetch cimport fetch_close, fetch_finish, fetch_free, fetch_open, fetch_release, fetch_start, fetch_stop, fetch_want
from ..page.pool cimport Fetch
from ..txn.transaction cimport Lack, TxnManager, TREE_LIVE, lack_init

cdef enum:
    WINDOWS_MOST = 24 << 20      # bytes of both windows at most,
    WINDOWS_SHARE = 16           # and this part of the cache, which is without them meanwhile
    SMALL = 64                   # frames of a cache which are all left to the operations themselves
    RECORD_SHARE = 128           # of a window's keys and values there may be a record for each so many bytes


cdef int ahead_open(Ahead* a, TxnManager m, int helpers) noexcept nogil:
    cdef uint64_t page_size = m.pool.core.page_size
    cdef size_t size
    cdef int i
    memset(a, 0, sizeof(Ahead))
    a.current = -1
    if m.pool.frame_count >= SMALL:
        a.most_pages = m.pool.frame_count // 8
    a.batch = <int>min(a.most_pages, <uint64_t>MAX_BATCH)
    a.from_lsn = m.store.sb.checkpoint_lsn
    a.lent_count = min(m.pool.frame_count // WINDOWS_SHARE, WINDOWS_MOST // page_size)
    latch_lock(m.latch)
    a.lent = m.pool.lend(a.lent_count)
    latch_unlock(m.latch)
    if a.lent == NULL:
        return fail(E_NOMEM, "no memory to read the log ahead")
    size = a.lent_count * page_size // 2
    a.most_records = size // (sizeof(Record) + RECORD_SHARE)
    for i in range(2):
        a.windows[i].records = <Record*>(a.lent.page + i * size)
        a.windows[i].bytes = <char*>(a.windows[i].records + a.most_records)
        a.windows[i].capacity = size - a.most_records * sizeof(Record)
    return fetch_open(m.pool, helpers)


cdef void ahead_close(Ahead* a, TxnManager m) noexcept nogil:
    cdef int i
    fetch_stop(m.pool)                                        # after an error there may be much that nobody wants any more
    latch_lock(m.latch)
    for i in range(2):
        fetch_release(m.pool, &a.windows[i].fetch)
        fetch_free(&a.windows[i].fetch)
        free(a.windows[i].large)
    if a.lent != NULL:
        m.pool.take_back(a.lent, a.lent_count)
    latch_unlock(m.latch)
    fetch_close(m.pool)
    memset(a, 0, sizeof(Ahead))


cdef inline bint in_btree(Ahead* a, TxnManager m, const Record* r) noexcept nogil:
    """Whether the record, replayed, changes a leaf of a B-tree. All that is looked up ahead has passed this."""
    return ((r.type == R_PUT or r.type == R_DELETE or r.type == R_PUT_BLOB) and r.lsn >= a.from_lsn and r.keyspace < m.next_keyspace
            and m.trees[r.keyspace].tree != NULL and not m.trees[r.keyspace].lsm and m.trees[r.keyspace].state == TREE_LIVE)


cdef struct Batch:               # keys of one keyspace that are looked up together
    int n
    uint32_t keyspace
    const char* keys[MAX_BATCH]
    size_t klens[MAX_BATCH]


cdef inline bint takes(Batch* b, Ahead* a, const Record* r) noexcept nogil:
    """Adds the record's key; False when the batch has to be looked up before that."""
    if b.n and (b.n == a.batch or b.keyspace != r.keyspace):
        return False
    b.keyspace = r.keyspace
    b.keys[b.n] = r.key
    b.klens[b.n] = r.klen
    b.n += 1
    return True


cdef bint foresee(Ahead* a, TxnManager m, Fetch* fetch, Batch* b) noexcept nogil:
    """Adds the leaves of these keys to the fetch, and empties the batch; False when the fetch is full. What is wrong with the tree is for
    those to tell who need it."""
    cdef uint64_t pids[MAX_BATCH]
    cdef Lack lack
    cdef int i, _again, n = b.n, done = 0
    b.n = 0
    lack_init(&lack)
    for _again in range(n * MAX_LEVELS):                           # what is not needed must not be tried for ever
        if ((<BTree>m.trees[b.keyspace].tree).leaves(b.keys, b.klens, n, pids, &done, &lack.need) != AGAIN
                or m.secure(NULL, &lack) != OK):
            break
    m.settle(&lack)
    for i in range(done):
        if not fetch_want(m.pool, fetch, pids[i], a.most_pages):
            return False
    return True


cdef int keep(Window* w, const Record* from_, size_t* used) noexcept nogil:
    """Copies a record into the window. ABSENT: there is no room; E_NOMEM. An empty window has room for any record."""
    cdef size_t size = from_.klen + from_.vlen
    cdef Record* r = &w.records[w.count]
    cdef char* to = w.bytes + used[0]
    if size > w.capacity - used[0]:
        if w.count:
            return ABSENT
        to = w.large = <char*>malloc(size)
        if to == NULL:
            return fail(E_NOMEM, "no memory to read the log ahead")
        size = w.capacity - used[0]                           # nothing else fits
    used[0] += size
    r[0] = from_[0]
    r.key = to
    r.value = to + r.klen
    memcpy(to, from_.key, r.klen)
    memcpy(to + r.klen, from_.value, r.vlen)
    w.count += 1
    return OK


cdef int fill(Ahead* a, TxnManager m, LogReader log, Window* w) noexcept nogil:
    """Copies what follows in the log into the window, until that is full or its fetch is, and begins the fetch."""
    cdef Batch batch
    cdef size_t used = 0
    cdef bint looking = a.most_pages > 0
    cdef bint more = True
    cdef int status = OK
    batch.n = 0
    w.count = w.warmed = 0
    free(w.large)
    w.large = NULL
    if m.pool.free_count < a.most_pages and not m.pool.volatile_only:
        m.pool.make_free_rollback(<int>a.most_pages)          # what it cannot free, no page will be read into
    while more and w.count < a.most_records:
        if not a.holding:
            status = log.next(&a.held)
            if status != OK:
                break
            a.holding = True
        status = keep(w, &a.held, &used)
        if status != OK:
            break
        a.holding = False
        if not looking or not in_btree(a, m, &a.held) or takes(&batch, a, &w.records[w.count - 1]):
            continue
        more = foresee(a, m, &w.fetch, &batch)
        if w.fetch.count == 0 and not more:                   # for want of frames
            looking = False
            more = True
        takes(&batch, a, &w.records[w.count - 1])
    if status != OK and status != ABSENT:
        return status
    if batch.n and looking:
        foresee(a, m, &w.fetch, &batch)
    fetch_start(m.pool, &w.fetch)
    return OK


cdef int ahead_next(Ahead* a, TxnManager m, LogReader log, Window** out) noexcept nogil:
    cdef Window* w
    cdef int status
    out[0] = NULL
    if a.current < 0:
        a.current = 0
        status = fill(a, m, log, &a.windows[0])
        if status != OK:
            return status
    else:
        fetch_release(m.pool, &a.windows[a.current].fetch)
        a.current = 1 - a.current
    w = &a.windows[a.current]
    status = fill(a, m, log, &a.windows[1 - a.current])
    if status != OK:
        return status
    fetch_finish(m.pool, &w.fetch)
    if w.count:
        out[0] = w
    return OK


cdef void ahead_warm(Ahead* a, Window* w, TxnManager m, uint64_t i) noexcept nogil:
    cdef Batch batch
    cdef Cell cells[MAX_BATCH]
    cdef int statuses[MAX_BATCH]
    cdef Need unused
    if i < w.warmed or a.most_pages == 0:
        return
    batch.n = 0
    while i < w.count and (not in_btree(a, m, &w.records[i]) or takes(&batch, a, &w.records[i])):
        i += 1
    w.warmed = i
    if batch.n > 1 and not (<BTree>m.trees[batch.keyspace].tree).streak:
        need_init(&unused)
        (<BTree>m.trees[batch.keyspace].tree).find_many(batch.keys, batch.klens, batch.n, cells, statuses, &unused)
