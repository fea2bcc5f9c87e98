"""Isolation of reads: see isolation.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from ..base.status cimport OK, AGAIN, E_CONFLICT, fail
from .clock cimport snapshot_open
from .conflicts cimport ssi_conflict, ssi_missed, ssi_read_key, ssi_read_span, ssi_tracks
from .deadlock cimport wake_waiters
from .holds cimport HOLD_SHARED, Hold, Span, hold_reshape, span_holds, span_of_key
from .locks cimport in_flight, lock_span, lock_to_read, wait_for_row
from .lsmops cimport ranges_missed
from .prepared cimport in_doubt, prepared_in
from .transaction cimport CATALOG, Found, Lack, TxnManager
from .versions cimport (COMMUTES, LOCKING, LOCK_ONLY, READ_COMMITTED, SERIAL, TXN_ABORTED, TXN_ABORTING, TXN_ACTIVE, TXN_PREPARED, Txn, Version, hash_key, table_find,
                        version_key)


cdef void renew_snapshot(TxnManager m, Txn* t) noexcept nogil:
    if t.in_snapshots and t.snapshot == m.clock.visible_ts:
        return
    m.close_snapshot(t)
    snapshot_open(&m.clock, t, m.log.end_lsn)
    t.snapshot_lost = False
    t.wall = 0


cdef void statement(TxnManager m, Txn* t) noexcept nogil:
    if (t.level == READ_COMMITTED or t.level == LOCKING) and t.state == TXN_ACTIVE:
        renew_snapshot(m, t)


cdef int commuted(Txn* t) noexcept nogil:
    t.doomed = E_CONFLICT
    return fail(E_CONFLICT, "the key was changed by a commutative operation upon a value newer than this transaction's snapshot: it can be read no more")


cdef int isolate_read(TxnManager m, Txn* t, uint32_t keyspace, const char* key, size_t n, Lack* lack) noexcept nogil:
    cdef uint64_t hash
    cdef Version* head = NULL
    cdef Span span
    cdef int status = OK
    if keyspace == CATALOG:
        return OK
    hash = hash_key(keyspace, key, n)
    if m.table.live:
        head = table_find(&m.table, hash, keyspace, key, n)
        if head != NULL and head.owner == t and head.flags & COMMUTES:
            return commuted(t)
    if t.apart:
        return OK
    if t.level == SERIAL:
        if m.first_prepared != NULL:
            if head != NULL and head.owner.state == TXN_PREPARED and not head.flags & LOCK_ONLY:
                return in_doubt(head.owner)
            if m.range_locks != NULL:
                span = span_of_key(key, n)
                return prepared_in(m, keyspace, &span)
        return OK
    if t.level == LOCKING:
        status = lock_to_read(m, t, keyspace, hash, key, n, head, lack)
        if status == OK:
            renew_snapshot(m, t)
    elif ssi_tracks(t):
        status = ssi_read_key(m, t, keyspace, hash, key, n, head)
        if status == OK and m.range_locks != NULL:
            span = span_of_key(key, n)
            status = ranges_missed(m, t, keyspace, &span)
    return status


cdef int isolate_row(TxnManager m, Txn* t, uint32_t keyspace, const char* key, size_t n, Lack* lack) noexcept nogil:
    cdef Version* head = table_find(&m.table, hash_key(keyspace, key, n), keyspace, key, n)
    if head == NULL:
        return OK
    if head.owner == t and head.flags & COMMUTES:
        return commuted(t)
    if t.apart:
        return OK
    if t.level == LOCKING:
        return wait_for_row(t, head, lack) if in_flight(t, head) else OK
    return ssi_missed(m, t, head) if ssi_tracks(t) else OK


cdef int read_newest(TxnManager m, Txn* t, uint32_t keyspace, const char* key, size_t n, bint remember, Found* out, Lack* lack) noexcept nogil:
    cdef uint64_t snapshot = t.snapshot, safe = t.safe_lsn, hash
    cdef bint watched = t.watched
    cdef int status = OK
    if remember and ssi_tracks(t):
        hash = hash_key(keyspace, key, n)
        status = ssi_read_key(m, t, keyspace, hash, key, n, table_find(&m.table, hash, keyspace, key, n))
        if status != OK:
            return status
    if t.level != SERIAL:
        t.snapshot = m.clock.visible_ts
        t.safe_lsn = 0
    t.watched = False
    status = m.read(t, keyspace, key, n, out, lack)
    t.snapshot = snapshot
    t.safe_lsn = safe
    t.watched = watched
    return status


cdef int read_conflict(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Lack* lack) noexcept nogil:
    cdef Hold* hold = NULL
    cdef int status = OK
    if t.level == LOCKING:
        status = lock_span(m, t, HOLD_SHARED, keyspace, span, False, &hold, lack)
    elif ssi_tracks(t):
        status = missed_in(m, t, keyspace, span)
        if status == OK:
            status = ssi_read_span(m, t, keyspace, span, &hold)
    if status == OK and hold != NULL:
        hold.kept = False
    return status


cdef int unseen(TxnManager m, Txn* t, Txn* other, uint32_t keyspace, const Span* span) noexcept nogil:
    """Of another's changes, where a scan would not meet a mark of them: a conflict, if there is one in the span."""
    cdef Version* v
    if other.sx == NULL or other == t or other.state == TXN_ABORTING or other.state == TXN_ABORTED:
        return OK
    v = other.newest
    while v != NULL:
        if v.linked and v.keyspace == keyspace and not v.flags & LOCK_ONLY and span_holds(span, version_key(v), v.klen):
            return ssi_conflict(m, t.sx, other.sx, t)
        v = v.previous
    return OK


cdef int missed_in(TxnManager m, Txn* t, uint32_t keyspace, const Span* span) noexcept nogil:
    cdef Txn* other = m.clock.first_writer
    cdef int status = OK
    while other != NULL and status == OK:
        if other.keyspaces & (<uint64_t>1 << (keyspace & 63)):
            status = unseen(m, t, other, keyspace, span)
        other = other.writer_next
    other = m.garbage_tail
    while other != NULL and status == OK and other.commit_ts > t.snapshot:
        status = unseen(m, t, other, keyspace, span)
        other = other.writer_prev
    if status == OK and m.range_locks != NULL:
        status = ranges_missed(m, t, keyspace, span)
    return status


cdef int isolate_span(TxnManager m, Txn* t, uint32_t keyspace, int mode, const Span* span, const Span* whole, Hold** hold, Lack* lack) noexcept nogil:
    cdef bint lsm = m.trees[keyspace].lsm
    cdef int status = OK
    if keyspace == CATALOG or t.apart:
        return OK
    if t.level == SERIAL:
        return prepared_in(m, keyspace, span)
    if t.level == LOCKING:
        status = lock_span(m, t, mode, keyspace, span, mode == HOLD_SHARED and not lsm, hold, lack)
        if status == AGAIN and lack.mode:
            lack.low = whole.low
            lack.low_len = whole.low_len
            lack.high = whole.high
            lack.high_len = whole.high_len
            lack.unbounded = whole.unbounded
            lack.point = False
        return status
    if not ssi_tracks(t):
        return OK
    if lsm:
        status = missed_in(m, t, keyspace, span)
    return status if status != OK else ssi_read_span(m, t, keyspace, span, hold)


cdef void trim_span(TxnManager m, Txn* t, Hold* hold, const Span* span) noexcept nogil:
    if t.state == TXN_ACTIVE and (t.level == LOCKING or ssi_tracks(t)):
        hold_reshape(&m.holds, hold, span)
        hold.kept = False
        if t.waiters != NULL:
            wake_waiters(t)
