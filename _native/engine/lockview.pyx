"""Locks and waits as rows: see lockview.pxd.

They are copied out in one latch hold, into memory of C, so that what is told is the state of one moment; objects are made afterwards (law 11).
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from ..base.latch cimport latch_lock, latch_unlock, monotonic_micros
from ..txn.holds cimport HOLD_EXCLUSIVE, HOLD_UPDATE, Hold
from ..txn.transaction cimport TxnManager
from ..txn.versions cimport LOCK_ONLY, Link, Request, Txn, Version, version_key
from .engine cimport Engine
from .txnhandle cimport CoreTransaction

cdef struct Row:
    uint64_t transaction
    uint64_t holder
    int64_t micros
    int level
    int mode
    uint32_t keyspace
    uint32_t low_len            # the two keys' bytes follow
    uint32_t high_len
    bint point
    bint unbounded
    bint granted

cdef struct Rows:
    char* bytes
    size_t used
    size_t room
    size_t count
    size_t limit
    bint short_of_memory

cdef tuple MODES = ("", "read", "S", "U", "X")
cdef tuple LEVELS = ("read_committed", "snapshot", "serializable", "locking", "serial")


cdef void add(Rows* rows, Row* row, const char* low, const char* high) noexcept nogil:
    cdef size_t n = sizeof(Row) + row.low_len + row.high_len
    cdef char* grown
    if rows.count == rows.limit or rows.short_of_memory:
        return
    if rows.used + n > rows.room:
        grown = <char*>realloc(rows.bytes, (rows.room + n) * 2)
        if grown == NULL:
            rows.short_of_memory = True
            return
        rows.bytes = grown
        rows.room = (rows.room + n) * 2
    memcpy(rows.bytes + rows.used, row, sizeof(Row))
    memcpy(rows.bytes + rows.used + sizeof(Row), low, row.low_len)
    if row.high_len:
        memcpy(rows.bytes + rows.used + sizeof(Row) + row.low_len, high, row.high_len)
    rows.used += n
    rows.count += 1


cdef void add_request(Rows* rows, Txn* t) noexcept nogil:
    cdef Request* r = &t.request
    cdef Row row
    row.transaction = t.number
    row.holder = t.waiting_for.number
    row.micros = monotonic_micros() - t.waits_since
    row.level = t.level
    row.mode = r.mode
    row.granted = False
    row.keyspace = r.keyspace
    row.point = r.point
    row.unbounded = r.unbounded
    row.low_len = r.low_len if r.mode else 0
    row.high_len = 0 if r.point or r.unbounded or r.mode == 0 else r.high_len
    add(rows, &row, r.bytes, r.bytes + r.low_len)


cdef void add_held(TxnManager m, Rows* rows, Txn* t) noexcept nogil:
    cdef Version* v = t.newest
    cdef Hold* h
    cdef Row row
    cdef int round
    row.transaction = t.number
    row.holder = 0
    row.micros = 0
    row.level = t.level
    row.granted = True
    while v != NULL and rows.count < rows.limit:
        if v.linked:
            row.mode = HOLD_UPDATE if v.flags & LOCK_ONLY else HOLD_EXCLUSIVE
            row.keyspace = v.keyspace
            row.low_len = v.klen
            row.high_len = 0
            row.point = True
            row.unbounded = False
            add(rows, &row, version_key(v), NULL)
        v = v.previous
    for round in range(2):
        h = t.holds.first if round == 0 else t.sx.reads.first if t.sx != NULL else NULL
        while h != NULL and rows.count < rows.limit:
            row.mode = h.mode
            row.keyspace = h.keyspace
            row.low_len = h.span.low_len
            row.high_len = 0 if h.point or h.span.unbounded else h.span.high_len
            row.point = h.point
            row.unbounded = h.span.unbounded
            add(rows, &row, h.span.low, h.span.high)
            h = h.mine


cdef void gather(TxnManager m, Rows* rows, bint waits_only) noexcept nogil:
    cdef Txn* t = m.clock.first_writer
    cdef int round
    for round in range(3):
        t = m.clock.first_writer if round == 0 else m.clock.oldest_snapshot if round == 1 else m.serial_txn
        while t != NULL:
            if round == 0 or not t.in_writers and (round == 1 or not t.in_snapshots):
                if t.waiting_for != NULL:
                    add_request(rows, t)
                if not waits_only:
                    add_held(m, rows, t)
            t = t.writer_next if round == 0 else t.snap_next if round == 1 else NULL
    t = m.first_request
    while t != NULL:
        if not t.in_writers and not t.in_snapshots and t != m.serial_txn and t.waiting_for != NULL:
            add_request(rows, t)
        t = t.request.next


cdef list rows_of(Engine e, size_t limit, bint waits_only):
    cdef Rows rows
    cdef Row row
    cdef size_t at = 0
    cdef char* p
    rows.bytes = NULL
    rows.used = rows.room = rows.count = 0
    rows.limit = limit
    rows.short_of_memory = False
    with nogil:
        latch_lock(&e.latch)
        gather(e.txns, &rows, waits_only)
        latch_unlock(&e.latch)
    result = []
    try:
        if rows.short_of_memory:
            raise MemoryError("no memory for a view of the locks")
        while at < rows.used:
            memcpy(&row, rows.bytes + at, sizeof(Row))
            p = rows.bytes + at + sizeof(Row)
            low = PyBytes_FromStringAndSize(p, row.low_len)
            high = None if row.point or row.unbounded or row.mode == 0 else PyBytes_FromStringAndSize(p + row.low_len, row.high_len)
            at += sizeof(Row) + row.low_len + row.high_len
            kind = "place" if row.mode == 0 else "key" if row.point else "range"
            keyspace = row.keyspace if row.mode else None
            if waits_only:
                result.append((row.transaction, row.holder, keyspace, MODES[row.mode], kind, low, high, row.micros / 1e6))
            else:
                result.append((row.transaction, LEVELS[row.level], keyspace, MODES[row.mode], kind, low, high, bool(row.granted)))
    finally:
        free(rows.bytes)
    return result


cdef list lock_rows(Engine e, size_t limit):
    return rows_of(e, limit, False)


cdef list wait_rows(Engine e):
    return rows_of(e, <size_t>-1, True)


cdef list cycle_rows(Txn* t):
    cdef Link* link
    cdef int i
    result = []
    for i in range(t.cycle_length):
        link = &t.cycle[i]
        result.append((link.waiter, link.holder, link.keyspace if link.mode else None, MODES[link.mode],
                       "place" if link.mode == 0 else "key" if link.point else "range", PyBytes_FromStringAndSize(link.key, link.klen)))
    return result


cdef int name_cycle(CoreTransaction x, error) except -1:
    names = {number: name for name, number, _ in x.database.keyspace_rows()}
    error.cycle = [(waiter, holder, names.get(keyspace), mode, kind, start) for waiter, holder, keyspace, mode, kind, start in cycle_rows(x.t)]
    return 0
