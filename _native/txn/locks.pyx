"""Two-phase locking: see locks.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from ..base.coding cimport compare_bytes
from ..base.status cimport OK, AGAIN, E_LOG, E_NOMEM, fail
from .conflicts cimport ssi_overwrites
from .deadlock cimport leads_to, wake_waiters
from .holds cimport (HOLD_EXCLUSIVE, HOLD_READ, HOLD_SHARED, HOLD_UPDATE, Hold, Holder, Span, ends_after, hold_add, hold_drop, hold_find, hold_reshape, holds_drop_all, holds_meet,
                     holds_meet_key, span_holds, span_of_key, spans_meet)
from .lsmops cimport ranges_block
from .predset cimport predicates_drop, predicates_meet
from .transaction cimport Lack, TxnManager, must_queue, must_wait
from .versions cimport LOCK_ONLY, TXN_ABORTED, TXN_COMMITTED, TXN_COMMITTING, TXN_PREPARED, TXN_UNKNOWN, Request, Sxact, Txn, Version, version_key

cdef enum:
    MOST_KEYS = 4096             # locks of one transaction on single keys; beyond that the range that covers them is locked
    MOST_RANGES = 256            # and on ranges


cdef inline bint compatible(int held, int wanted) noexcept nogil:
    return (held == HOLD_SHARED and wanted <= HOLD_UPDATE) or (held == HOLD_UPDATE and wanted == HOLD_SHARED)


cdef struct Meeting:
    void* manager
    Txn* t
    int mode
    Txn* blocker
    bint own                    # it has a lock there already,
    bint covered                # of the mode that is wanted or more


cdef int meets(void* context, Hold* h) noexcept nogil:
    cdef Meeting* meeting = <Meeting*>context
    cdef Txn* t = meeting.t
    cdef Txn* other
    if h.mode == HOLD_READ:
        if meeting.mode == HOLD_EXCLUSIVE and t.sx != NULL:
            if not h.point and (<Sxact*>(<Holder*>h.owner).of).covers and (<Holder*>h.owner).of != t.sx:
                t.met = (<Sxact*>(<Holder*>h.owner).of).number
            return ssi_overwrites(<TxnManager>meeting.manager, <Sxact*>(<Holder*>h.owner).of, t, h.coarse)
        return OK
    other = <Txn*>(<Holder*>h.owner).of
    if other == t:
        meeting.own = True
        meeting.covered |= h.mode >= meeting.mode
    # Of several in the way, one that waits for this transaction is waited for first: the cycle is then found at once.
    if other != t and not compatible(h.mode, meeting.mode) and (meeting.blocker == NULL or leads_to(other, t)):
        meeting.blocker = other
        if other.covers and not h.point:
            t.met = other.number
    return OK


cdef inline Span span_of_request(Request* r) noexcept nogil:
    cdef Span s
    s.low = r.bytes
    s.low_len = r.low_len
    s.high = r.bytes if r.point else r.bytes + r.low_len
    s.high_len = r.low_len if r.point else r.high_len
    s.closed = r.point
    s.unbounded = r.unbounded
    return s


cdef Txn* ahead_of(TxnManager m, Txn* t, int mode, uint32_t keyspace, const Span* span, const Hold* held) noexcept nogil:
    """Who came earlier, waits, and would be kept waiting longer by this lock: not one that t keeps waiting anyway, by what it has of the span."""
    cdef Txn* w = m.first_request
    cdef Span wanted
    while w != NULL and w != t and (t.request.ticket == 0 or w.request.ticket < t.request.ticket):
        if w.request.keyspace == keyspace and not compatible(mode, w.request.mode):
            wanted = span_of_request(&w.request)
            if spans_meet(&wanted, span) and not (held != NULL and spans_meet(&wanted, &held.span)) and not leads_to(w, t):
                return w
        w = w.request.next
    return NULL


cdef inline void begin_meeting(Meeting* meeting, TxnManager m, Txn* t, int mode) noexcept nogil:
    meeting.manager = <void*>m
    meeting.t = t
    meeting.mode = mode
    meeting.blocker = NULL
    meeting.own = meeting.covered = False


cdef int lock_for_write(TxnManager m, Txn* t, int mode, bint own, uint32_t keyspace, uint64_t hash, const char* key, size_t n, Lack* lack) noexcept nogil:
    cdef Meeting meeting
    cdef Span span = span_of_key(key, n)
    cdef int status
    begin_meeting(&meeting, m, t, mode)
    if m.holds.count:
        status = holds_meet_key(&m.holds, keyspace, hash, key, n, meets, &meeting)
        if status != OK:
            return status
    if meeting.blocker == NULL and m.first_request != NULL and not own and not meeting.own:      # who has a lock goes before those that wait for it
        meeting.blocker = ahead_of(m, t, mode, keyspace, &span, NULL)
    if meeting.blocker != NULL:
        return must_queue(lack, meeting.blocker, mode, keyspace, &span)
    return OK


cdef int lock_span_for_write(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Lack* lack) noexcept nogil:
    cdef Meeting meeting
    cdef int status
    begin_meeting(&meeting, m, t, HOLD_EXCLUSIVE)
    status = holds_meet(&m.holds, keyspace, span, True, meets, &meeting)
    if status == OK and meeting.blocker == NULL and m.first_request != NULL:
        meeting.blocker = ahead_of(m, t, HOLD_EXCLUSIVE, keyspace, span, NULL)
    if status == OK and meeting.blocker != NULL:
        return must_queue(lack, meeting.blocker, HOLD_EXCLUSIVE, keyspace, span)
    if status == OK and m.predicate_keyspaces & <uint64_t>1 << (keyspace & 63):
        return predicates_meet(m, t, keyspace, span, lack)
    return status


cdef bint in_flight(const Txn* t, const Version* head) noexcept nogil:
    return (head != NULL and head.owner != t and not head.flags & LOCK_ONLY and head.owner.state != TXN_COMMITTED and head.owner.state != TXN_ABORTED)


cdef int wait_for_row(Txn* t, Version* head, Lack* lack) noexcept nogil:
    cdef Span span
    if head.owner.state == TXN_UNKNOWN:
        return fail(E_LOG, "the key's newest change is of unknown outcome: open the database again")
    span = span_of_key(version_key(head), head.klen)
    return must_queue(lack, head.owner, HOLD_SHARED, head.keyspace, &span)


cdef int lock_to_read(TxnManager m, Txn* t, uint32_t keyspace, uint64_t hash, const char* key, size_t n, Version* head, Lack* lack) noexcept nogil:
    cdef Meeting meeting
    cdef Span span
    if in_flight(t, head):
        return wait_for_row(t, head, lack)
    if head != NULL and head.owner == t and not head.flags & LOCK_ONLY:
        return OK
    if t.holds.first != NULL and hold_find(&m.holds, &t.holds, keyspace, hash, key, n, HOLD_SHARED) != NULL:
        return OK
    span = span_of_key(key, n)
    if m.range_locks != NULL and ranges_block(m, t, keyspace, &span, lack):
        return AGAIN
    begin_meeting(&meeting, m, t, HOLD_SHARED)
    if m.holds.locks:
        holds_meet_key(&m.holds, keyspace, hash, key, n, meets, &meeting)
        if meeting.covered:
            return OK
    if meeting.blocker == NULL and m.first_request != NULL and (head == NULL or head.owner != t):
        meeting.blocker = ahead_of(m, t, HOLD_SHARED, keyspace, &span, NULL)
    if meeting.blocker != NULL:
        return must_queue(lack, meeting.blocker, HOLD_SHARED, keyspace, &span)
    if t.holds.count - t.holds.ranges >= MOST_KEYS and escalate(m, t, keyspace) != OK:
        return fail(E_NOMEM, "no memory for a lock")
    return OK if hold_add(&m.holds, &t.holds, keyspace, HOLD_SHARED, &span, True, hash) != NULL else E_NOMEM


cdef int escalate(TxnManager m, Txn* t, uint32_t keyspace) noexcept nogil:
    """The shared locks of a keyspace become one on the range that covers them, unless somebody has changed or locked something in between: then they stay as they are."""
    cdef Hold* h = t.holds.first
    cdef Hold* low = NULL
    cdef Hold* high = NULL
    cdef Hold* made = NULL
    cdef Span span
    cdef Lack unused
    while h != NULL:
        if h.keyspace == keyspace and h.mode == HOLD_SHARED and not h.kept:
            if low == NULL or compare_bytes(h.span.low, h.span.low_len, low.span.low, low.span.low_len) < 0:
                low = h
            if high == NULL or ends_after(&h.span, &high.span):
                high = h
        h = h.mine
    if low == NULL:
        return OK
    if low == high:
        made = low                           # covers the others
    else:
        span = high.span
        span.low = low.span.low
        span.low_len = low.span.low_len
        if lock_span(m, t, HOLD_SHARED, keyspace, &span, False, &made, &unused) != OK:
            return OK
        made.coarse = True
    m.lock_escalations += 1
    h = t.holds.first
    while h != NULL:
        low = h.mine
        if h != made and h.keyspace == keyspace and h.mode == HOLD_SHARED and not h.kept:
            hold_drop(&m.holds, h)
        h = low
    made.kept = False
    return OK


cdef int changes_block(Txn* t, Txn* other, int mode, uint32_t keyspace, const Span* span, Lack* lack) noexcept nogil:
    cdef Version* v = other.newest
    while v != NULL:
        if (v.linked and v.keyspace == keyspace and not (v.flags & LOCK_ONLY and mode == HOLD_SHARED) and span_holds(span, version_key(v), v.klen)):
            return wait_for_row(t, v, lack)
        v = v.previous
    return OK


cdef int rows_block(TxnManager m, Txn* t, int mode, uint32_t keyspace, const Span* span, Lack* lack) noexcept nogil:
    """Whether a row of the span is another's."""
    cdef Txn* other = m.clock.first_writer
    cdef int status = OK
    while other != NULL and status == OK:
        if other != t and other.keyspaces & (<uint64_t>1 << (keyspace & 63)) and other.state != TXN_COMMITTED:
            status = changes_block(t, other, mode, keyspace, span, lack)
        other = other.writer_next
    if mode == HOLD_SHARED:
        return status
    other = m.clock.oldest_snapshot
    while other != NULL and status == OK:
        if other != t and other.locks and not other.in_writers:          # it has only locked rows so far
            status = changes_block(t, other, mode, keyspace, span, lack)
        other = other.snap_next
    return status


cdef int lock_span(TxnManager m, Txn* t, int mode, uint32_t keyspace, const Span* span, bint rows_seen, Hold** hold, Lack* lack) noexcept nogil:
    cdef Meeting meeting
    cdef Hold* made
    cdef int status
    if not rows_seen:
        status = rows_block(m, t, mode, keyspace, span, lack)
        if status != OK:
            return status
    if m.range_locks != NULL and ranges_block(m, t, keyspace, span, lack):
        return AGAIN
    begin_meeting(&meeting, m, t, mode)
    if m.holds.locks:
        holds_meet(&m.holds, keyspace, span, mode != HOLD_SHARED, meets, &meeting)
    if meeting.blocker == NULL and m.first_request != NULL:
        meeting.blocker = ahead_of(m, t, mode, keyspace, span, hold[0])
    if meeting.blocker != NULL:
        return must_queue(lack, meeting.blocker, mode, keyspace, span)
    if hold[0] != NULL and hold_reshape(&m.holds, hold[0], span):
        return OK
    if hold[0] == NULL and mode == HOLD_SHARED and t.holds.ranges >= MOST_RANGES and rows_seen and escalate(m, t, keyspace) != OK:
        return fail(E_NOMEM, "no memory for a lock")
    made = hold_add(&m.holds, &t.holds, keyspace, mode, span, False, 0)
    if made == NULL:
        return E_NOMEM
    made.kept = True
    if hold[0] != NULL:
        hold_drop(&m.holds, hold[0])
    hold[0] = made
    return OK


cdef void release_locks(TxnManager m, Txn* t) noexcept nogil:
    dequeue(m, t)
    if t.holds.first != NULL:
        holds_drop_all(&m.holds, &t.holds)
    if t.predicates:
        predicates_drop(m, t, NULL)
        t.predicates = False
    if t.serial_place:
        serial_leave(m, t)


# --- the queue

cdef int enqueue(TxnManager m, Txn* t, Lack* lack) noexcept nogil:
    cdef Request* r = &t.request
    cdef size_t n = lack.low_len + (0 if lack.point or lack.unbounded else lack.high_len)
    cdef Txn** p
    if lack.mode == 0:
        if r.ticket == 0:
            r.mode = 0
        return OK
    if n > r.room or r.bytes == NULL:
        free(r.bytes)
        r.room = n + 32
        r.bytes = <char*>malloc(r.room)
        if r.bytes == NULL:
            r.room = 0
            return fail(E_NOMEM, "no memory for a lock's queue")
    r.keyspace = lack.keyspace
    r.mode = lack.mode
    r.low_len = <uint32_t>lack.low_len
    r.high_len = <uint32_t>lack.high_len
    r.point = lack.point
    r.unbounded = lack.unbounded
    if lack.low_len:
        memcpy(r.bytes, lack.low, lack.low_len)
    if not lack.point and not lack.unbounded and lack.high_len:
        memcpy(r.bytes + lack.low_len, lack.high, lack.high_len)
    if r.ticket == 0 and not lack.unqueued:
        m.tickets += 1
        r.ticket = m.tickets
        r.next = NULL
        p = &m.first_request
        while p[0] != NULL:
            p = &p[0].request.next
        p[0] = t
    return OK


cdef void dequeue(TxnManager m, Txn* t) noexcept nogil:
    cdef Txn** p = &m.first_request
    t.deadline = 0
    if t.request.ticket == 0:
        return
    while p[0] != t:
        p = &p[0].request.next
    p[0] = t.request.next
    t.request.ticket = 0
    wake_waiters(t)              # also when there are none yet: who is about to wait looks again


# --- serial execution

cdef int serial_enter(TxnManager m, Txn* t, bint batch, Lack* lack) noexcept nogil:
    cdef Txn* w = m.clock.first_writer
    if m.serial_txn != NULL and m.serial_txn != t:
        return must_wait(lack, m.serial_txn)
    m.serial_txn = t
    t.serial_place = True
    while w != NULL:
        if w != t and w.state != TXN_UNKNOWN and w.state != TXN_PREPARED and not (batch and w.state == TXN_COMMITTING):
            return must_wait(lack, w)
        w = w.writer_next
    return OK


cdef void serial_leave(TxnManager m, Txn* t) noexcept nogil:
    t.serial_place = False
    if m.serial_txn == t:
        m.serial_txn = NULL
        wake_waiters(t)
