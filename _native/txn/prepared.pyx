"""Prepared transactions: see prepared.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset
from ..base.coding cimport MAX_VARINT, get_varint, put_varint
from ..base.status cimport OK, AGAIN, E_CONFLICT, E_INVALID, E_NOMEM, E_USAGE, fail, fail_corrupt, fail_n
from ..log.record cimport R_PREPARE, R_TAG, RECORD_OVERHEAD, TAG_LOCKS, Record
from .conflicts cimport ssi_prepare, ssi_recover
from .holds cimport HOLD_EXCLUSIVE, HOLD_READ, HOLD_SHARED, HOLD_UPDATE, Hold, Holder, Span, hold_add, span_between, span_holds, span_of_key
from .lsmops cimport ranges_prepared, wall_now
from .predset cimport Predicate, predicates_drop
from .transaction cimport OP_LOCK, TREE_LIVE, Lack, TxnManager, lack_init
from .versions cimport LOCK_ONLY, SERIAL, SERIALIZABLE, TXN_ACTIVE, TXN_PREPARED, Promise, Txn, Version, hash_key, version_key

cdef enum:
    KIND_RANGE = 0              # on disk: never change
    KIND_KEY = 1
    KIND_CLOSED = 2             # a range that its upper end belongs to
    KIND_UNBOUNDED = 3
    KIND_ROW = 4                # a row that is locked and not changed


cdef void add_lock(LockTable* table, int mode, int kind, uint32_t keyspace, const Span* span) noexcept nogil:
    cdef size_t high_len = span.high_len if kind == KIND_RANGE or kind == KIND_CLOSED else 0
    cdef size_t n = 4 * MAX_VARINT + span.low_len + high_len
    cdef uint8_t* grown
    cdef uint8_t* p
    if table.used + n > table.room and not table.failed:
        grown = <uint8_t*>realloc(table.data, (table.room + n) * 2)
        table.failed = grown == NULL
        if not table.failed:
            table.data = grown
            table.room = (table.room + n) * 2
    if table.failed:
        return
    p = put_varint(table.data + table.used, mode | kind << 3)
    p = put_varint(p, keyspace)
    p = put_varint(p, span.low_len)
    if kind == KIND_RANGE or kind == KIND_CLOSED:
        p = put_varint(p, high_len)
    memcpy(p, span.low, span.low_len)
    if high_len:
        memcpy(p + span.low_len, span.high, high_len)
    table.used = p - table.data + span.low_len + high_len


cdef void add_holds(LockTable* table, Holder* holder) noexcept nogil:
    cdef Hold* h = holder.first
    while h != NULL:
        add_lock(table, h.mode, KIND_KEY if h.point else KIND_UNBOUNDED if h.span.unbounded else KIND_CLOSED if h.span.closed else KIND_RANGE, h.keyspace, &h.span)
        h = h.mine


cdef int settle_predicates(TxnManager m, Txn* t) noexcept nogil:
    """Its predicates become the ranges that they can match in: nobody will be able to test them after the next opening."""
    cdef Predicate* p = <Predicate*>m.predicates
    cdef bint own
    while p != NULL:
        own = p.txn == t
        if own or (p.sx != NULL and p.sx == t.sx):
            if hold_add(&m.holds, &t.holds if own else &t.sx.reads, p.keyspace, HOLD_READ if not own else HOLD_UPDATE if p.update else HOLD_SHARED, &p.span, False, 0) == NULL:
                return E_NOMEM
        p = p.next
    if t.predicates:
        predicates_drop(m, t, NULL)
        t.predicates = False
    if t.sx != NULL and t.sx.predicates:
        predicates_drop(m, NULL, t.sx)
        t.sx.predicates = False
    return OK


cdef int locks_encode(TxnManager m, Txn* t, LockTable* table) noexcept nogil:
    cdef Version* v = t.newest
    cdef Span span
    cdef int status = settle_predicates(m, t)
    if status != OK:
        return status
    table.used = table.logged = 0
    add_holds(table, &t.holds)
    if t.sx != NULL:
        add_holds(table, &t.sx.reads)
    while v != NULL and t.locks:
        if v.linked and v.flags & LOCK_ONLY:
            span = span_of_key(version_key(v), v.klen)
            add_lock(table, HOLD_UPDATE, KIND_ROW, v.keyspace, &span)
        v = v.previous
    return fail(E_NOMEM, "no memory for what a prepared transaction holds") if table.failed else OK


cdef const uint8_t* next_lock(const uint8_t* p, const uint8_t* end, int* mode, int* kind, uint64_t* keyspace, Span* span) noexcept nogil:
    """Decodes a lock; the byte after it, or NULL."""
    cdef uint64_t head = 0, low = 0, high = 0
    p = get_varint(p, end, &head)
    if p != NULL:
        p = get_varint(p, end, keyspace)
    if p != NULL:
        p = get_varint(p, end, &low)
    mode[0] = head & 7
    kind[0] = <int>(head >> 3)
    if p == NULL or head >> 6 or kind[0] > KIND_ROW or mode[0] < HOLD_READ or mode[0] > HOLD_EXCLUSIVE:
        return NULL
    if kind[0] == KIND_RANGE or kind[0] == KIND_CLOSED:
        p = get_varint(p, end, &high)
    if p == NULL or low > <uint64_t>(end - p) or high > <uint64_t>(end - p) - low or keyspace[0] >> 32:
        return NULL
    if kind[0] == KIND_KEY or kind[0] == KIND_ROW:
        span[0] = span_of_key(<const char*>p, low)
    else:
        span_between(span, <const char*>p, low, <const char*>p + low, high, kind[0] == KIND_UNBOUNDED)
        span.closed = kind[0] == KIND_CLOSED
    return p + low + high


cdef bint locks_valid(const uint8_t* p, size_t n) noexcept nogil:
    cdef const uint8_t* end = p + n
    cdef int mode, kind
    cdef uint64_t keyspace
    cdef Span span
    while p != NULL and p < end:
        p = next_lock(p, end, &mode, &kind, &keyspace, &span)
    return p == end


cdef int lock_row_again(TxnManager m, Txn* t, uint32_t keyspace, const Span* span) noexcept nogil:
    cdef Lack lack
    cdef int status
    lack_init(&lack)
    while True:
        status = m.write(t, OP_LOCK, keyspace, span.low, span.low_len, NULL, 0, 0, 0, t.last_lsn, &lack)
        if status != AGAIN:
            break
        if lack.blocker != NULL:
            status = fail_corrupt("log", <long long>t.promise.lsn, "two prepared transactions hold one lock", t.id, lack.blocker.id)
            break
        status = m.secure(NULL, &lack)
        if status != OK:
            break
    m.settle(&lack)
    return status


cdef int locks_restore(TxnManager m, Txn* t) noexcept nogil:
    cdef const uint8_t* p = promise_locks(t.promise)
    cdef const uint8_t* end = p + t.promise.locks_len
    cdef int mode, kind, status = OK
    cdef uint64_t keyspace
    cdef Holder* holder
    cdef Span span
    if t.level == SERIALIZABLE:
        status = ssi_recover(m, t)
    while p < end and status == OK:
        p = next_lock(p, end, &mode, &kind, &keyspace, &span)
        if p == NULL:
            return fail_corrupt("log", <long long>t.promise.lsn, "the locks of a prepared transaction", 0, 0)
        if keyspace >= m.next_keyspace or m.trees[keyspace].state != TREE_LIVE:
            continue
        if kind == KIND_ROW:
            status = lock_row_again(m, t, <uint32_t>keyspace, &span)
            continue
        holder = &t.holds
        if mode == HOLD_READ:
            if t.sx == NULL:
                continue
            holder = &t.sx.reads
        if hold_add(&m.holds, holder, <uint32_t>keyspace, mode, &span, kind == KIND_KEY, hash_key(<uint32_t>keyspace, span.low, span.low_len) if kind == KIND_KEY else 0) == NULL:
            status = E_NOMEM
    return status


cdef int promise_restore(TxnManager m, Txn* t, const char* xid, size_t n, int level, uint64_t wall, uint64_t lsn, const uint8_t* locks, size_t locks_len) noexcept nogil:
    cdef Promise* p = <Promise*>calloc(1, sizeof(Promise) + n + locks_len)
    if p == NULL:
        return fail(E_NOMEM, "no memory for a prepared transaction")
    memcpy(<char*>p + sizeof(Promise), xid, n)
    if locks_len:
        memcpy(<char*>p + sizeof(Promise) + n, locks, locks_len)
    p.xid_len = <uint32_t>n
    p.locks_len = locks_len
    p.wall = wall
    p.lsn = lsn
    t.promise = p
    t.level = level
    t.state = TXN_PREPARED
    if m.last_prepared != NULL:
        m.last_prepared.promise.next = t
    else:
        m.first_prepared = t
    m.last_prepared = t
    m.prepared += 1
    return OK


cdef void promise_drop(TxnManager m, Txn* t) noexcept nogil:
    cdef Txn* before = NULL
    cdef Txn* p = m.first_prepared
    while p != t:
        before = p
        p = p.promise.next
    if before != NULL:
        before.promise.next = t.promise.next
    else:
        m.first_prepared = t.promise.next
    if m.last_prepared == t:
        m.last_prepared = before
    m.prepared -= 1
    free(t.promise)
    t.promise = NULL


cdef Txn* prepared_find(TxnManager m, const char* xid, size_t n) noexcept nogil:
    cdef Txn* t = m.first_prepared
    while t != NULL and (t.promise.xid_len != n or memcmp(promise_xid(t.promise), xid, n)):
        t = t.promise.next
    return t


cdef int log_locks(TxnManager m, Txn* t, LockTable* table, Lack* lack) noexcept nogil:
    """The rest of the table, a piece a record; a piece bears whether it is the first."""
    cdef char piece[LOCKS_PIECE + 1]
    cdef Record r
    cdef size_t n
    cdef int status
    while table.logged < table.used:
        n = min(table.used - table.logged, <size_t>LOCKS_PIECE)
        status = m.log.reserve(n + 1 + RECORD_OVERHEAD)
        if status != OK:
            lack.log_bytes = n + 1 + RECORD_OVERHEAD
            return status
        piece[0] = table.logged == 0
        memcpy(piece + 1, table.data + table.logged, n)
        memset(&r, 0, sizeof(Record))
        r.type = R_TAG
        r.txn = t.id
        r.a = TAG_LOCKS
        r.value = piece
        r.vlen = n + 1
        t.last_lsn = m.log.append(&r)
        table.logged += n
    return OK


cdef int prepare(TxnManager m, Txn* t, const char* xid, size_t n, LockTable* table, Lack* lack) noexcept nogil:
    cdef Record r
    cdef uint64_t wall
    cdef int status = m.check(t, True)
    if status != OK:
        return status
    if t.level == SERIAL:
        return fail(E_USAGE, "a serial transaction holds no locks that it could leave behind: prepare one that is locking or serializable")
    if t.id == 0:
        return fail(E_USAGE, "the transaction has changed nothing")
    if prepared_find(m, xid, n) != NULL:
        return fail(E_INVALID, "a transaction of that xid is prepared already")
    status = log_locks(m, t, table, lack)
    if status != OK:
        return status
    status = m.log.reserve(n + RECORD_OVERHEAD)
    if status != OK:
        lack.log_bytes = n + RECORD_OVERHEAD
        return status
    wall = wall_now(m)
    status = promise_restore(m, t, xid, n, t.level, wall, 0, table.data, table.used)
    if status != OK:
        return status
    if t.sx != NULL:                    # last of what can fail: from then on its conflicts are judged as those of one in doubt
        status = ssi_prepare(m, t)
        if status != OK:
            promise_drop(m, t)
            t.state = TXN_ACTIVE
            return status
    # From here on nothing fails.
    memset(&r, 0, sizeof(Record))
    r.type = R_PREPARE
    r.txn = t.id
    r.a = wall
    r.b = t.level
    r.key = xid
    r.klen = n
    m.log.append(&r)
    t.promise.lsn = m.log.end_lsn
    t.last_lsn = m.log.end_lsn - 1
    t.depth = 0
    t.handle = False
    if t.sx != NULL:
        t.sx.prepared = True
    m.close_snapshot(t)
    return OK


cdef int in_doubt(const Txn* t) noexcept nogil:
    return fail_n(E_CONFLICT, "transaction %lld, which is prepared and in doubt, has changed it: that has to be committed or rolled back first", <int64_t>t.number, 0)


cdef int prepared_in(TxnManager m, uint32_t keyspace, const Span* span) noexcept nogil:
    cdef Txn* t = m.first_prepared
    cdef Version* v
    while t != NULL:
        v = t.newest if t.keyspaces & (<uint64_t>1 << (keyspace & 63)) else NULL
        while v != NULL:
            if v.linked and v.keyspace == keyspace and not v.flags & LOCK_ONLY and span_holds(span, version_key(v), v.klen):
                return in_doubt(t)
            v = v.previous
        t = t.promise.next
    t = ranges_prepared(m, keyspace, span)
    return OK if t == NULL else in_doubt(t)
