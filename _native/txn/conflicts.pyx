"""Read-write conflicts: see conflicts.pxd."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from ..base.latch cimport condition_signal, condition_wait
from ..base.status cimport OK, E_CLOSED, E_INTERRUPT, E_NOMEM, E_SERIALIZATION, fail, fail_n
from .clock cimport snapshot_open
from .deadlock cimport WAIT_SLICE
from .holds cimport (HOLD_READ, Hold, Span, hold_add, hold_drop, hold_find, hold_reshape, holds_drop_all, holds_meet_key, holds_merge, span_of_key)
from .predset cimport predicates_drop
from .transaction cimport TxnManager
from .versions cimport LOCK_ONLY, TXN_ABORTED, TXN_ABORTING, Conflict, RangeLock, Sxact, Txn, Version, sees

cdef uint64_t NEVER = <uint64_t>-1

cdef enum:
    MOST_KEYS = 4096             # of one transaction remembered one by one; beyond that the range that covers them is
    MOST_RANGES = 256
    MOST_BYTES = 32 << 20        # of all remembered reads; beyond that those of committed transactions are made coarse


# --- the graph

cdef void unlink_conflict(Conflict* c) noexcept nogil:
    cdef Conflict** p = &c.reader.outs
    while p[0] != c:
        p = &p[0].next_out
    p[0] = c.next_out
    p = &c.writer.ins
    while p[0] != c:
        p = &p[0].next_in
    p[0] = c.next_in
    free(c)


cdef void forget(TxnManager m, Sxact* sx) noexcept nogil:
    """It matters to nobody any more."""
    cdef RangeLock* r = m.range_locks
    # Conflicts of readers with it have left their mark in `earliest_out`; those of its own are with transactions that it was not concurrent with any more.
    while sx.outs != NULL:
        unlink_conflict(sx.outs)
    while sx.ins != NULL:
        unlink_conflict(sx.ins)
    holds_drop_all(&m.holds, &sx.reads)
    if sx.predicates:
        predicates_drop(m, NULL, sx)
    while r != NULL:
        if r.sx == sx:
            r.sx = NULL
        r = r.next
    if sx.txn != NULL:
        sx.txn.sx = NULL
    free(sx)


cdef inline void leave(Sxact* sx, Sxact** first, Sxact** last) noexcept nogil:
    if sx.back != NULL:
        sx.back.next = sx.next
    else:
        first[0] = sx.next
    if sx.next != NULL:
        sx.next.back = sx.back
    else:
        last[0] = sx.back


cdef inline void enter(Sxact* sx, Sxact** first, Sxact** last) noexcept nogil:
    sx.next = NULL
    sx.back = last[0]
    if last[0] != NULL:
        last[0].next = sx
    else:
        first[0] = sx
    last[0] = sx


cdef void doom(TxnManager m, Sxact* sx) noexcept nogil:
    sx.doomed = True
    if sx.txn != NULL and not sx.txn.doomed:
        sx.txn.doomed = E_SERIALIZATION
        condition_signal(&sx.txn.cond)


cdef int failure(TxnManager m, Sxact* victim, Sxact* other) noexcept nogil:
    victim.doomed = True
    if victim.txn != NULL:
        victim.txn.doomed = E_SERIALIZATION
    return fail_n(E_SERIALIZATION, "its reads and those of concurrent transactions allow no serial order: it conflicts with transaction %lld", <int64_t>other.number, 0)


cdef bint is_active(const Sxact* sx) noexcept nogil:
    return not sx.over and not sx.doomed


cdef bint dangerous_in(const Sxact* pivot, uint64_t third) noexcept nogil:
    """Whether a reader conflicts with the pivot in such a way that it is dangerous once a transaction that committed at `third` follows the pivot."""
    cdef Conflict* c = pivot.ins
    cdef Sxact* first
    if third <= pivot.in_commit or third <= pivot.in_snapshot:
        return True
    while c != NULL:
        first = c.reader
        if (not first.doomed and not (first.over and first.commit_ts == 0) and (first.commit_ts == 0 or third <= first.commit_ts)
                and (not first.read_only or third <= first.snapshot)):
            return True
        c = c.next_in
    return False


cdef int ssi_conflict(TxnManager m, Sxact* reader, Sxact* writer, Txn* self) noexcept nogil:
    cdef Conflict* c
    if reader == writer or reader.doomed or writer.doomed or reader.safe:
        return OK
    if (reader.over and (reader.commit_ts == 0 or reader.commit_ts <= writer.snapshot)) or (writer.over and (writer.commit_ts == 0 or writer.commit_ts <= reader.snapshot)):
        return OK                        # aborted, or not concurrent
    if reader.over:
        # It can be the first of the three only, as the writer has not committed.
        m.ssi_conflicts += 1
        if reader.read_only:
            writer.in_snapshot = max(writer.in_snapshot, reader.snapshot)
        else:
            writer.in_commit = max(writer.in_commit, reader.commit_ts)
        if writer.earliest_out > (reader.snapshot if reader.read_only else reader.commit_ts):
            return OK
        m.ssi_pivots += 1
        return failure(m, writer, reader)
    c = writer.ins                       # the shorter of the two: one that reads for long meets all who change what it has read meanwhile
    while c != NULL:
        if c.reader == reader:
            return OK
        c = c.next_in
    c = <Conflict*>malloc(sizeof(Conflict))
    if c == NULL:
        return fail(E_NOMEM, "no memory for a conflict between transactions")
    c.reader = reader
    c.writer = writer
    c.next_out = reader.outs
    reader.outs = c
    c.next_in = writer.ins
    writer.ins = c
    m.ssi_conflicts += 1
    if writer.commit_ts and writer.commit_ts < reader.earliest_out:
        reader.earliest_out = writer.commit_ts
    # The writer as the pivot: somebody it conflicts with has committed, first of the three.
    if (writer.earliest_out != NEVER and (writer.commit_ts == 0 or writer.earliest_out < writer.commit_ts)
            and (not reader.read_only or writer.earliest_out <= reader.snapshot)):
        m.ssi_pivots += 1
        if writer.commit_ts == 0 and not writer.prepared:
            if writer.txn == self:
                return failure(m, writer, reader)
            doom(m, writer)
            return OK
        if reader.txn == self:
            return failure(m, reader, writer)
        doom(m, reader)
        return OK
    # The reader as the pivot, the writer having committed first.
    if writer.commit_ts and dangerous_in(reader, writer.commit_ts):
        m.ssi_pivots += 1
        if reader.txn == self:
            return failure(m, reader, writer)
        doom(m, reader)
    return OK


# --- reading and writing

cdef int ssi_missed(TxnManager m, Txn* t, Version* head) noexcept nogil:
    cdef Version* v = head
    cdef Txn* first = NULL
    while v != NULL and not sees(t, t.snapshot, v.owner):
        if not v.flags & LOCK_ONLY and v.owner.state != TXN_ABORTING and v.owner.state != TXN_ABORTED:
            first = v.owner
        v = v.older
    if first == NULL or first.sx == NULL:
        return OK
    return ssi_conflict(m, t.sx, first.sx, t)


cdef int is_covered(void* context, Hold* h) noexcept nogil:
    return h.owner == context and not h.point


cdef int ssi_read_key(TxnManager m, Txn* t, uint32_t keyspace, uint64_t hash, const char* key, size_t n, Version* head) noexcept nogil:
    cdef Sxact* sx = t.sx
    cdef Span span
    cdef int status = OK
    if head != NULL:
        if head.owner == t and not head.flags & LOCK_ONLY:
            return OK                    # its own
        status = ssi_missed(m, t, head)
        if status != OK:
            return status
    if hold_find(&m.holds, &sx.reads, keyspace, hash, key, n, HOLD_READ) != NULL:
        return OK
    if sx.reads.ranges and holds_meet_key(&m.holds, keyspace, hash, key, n, is_covered, &sx.reads):
        return OK
    if sx.reads.count - sx.reads.ranges >= MOST_KEYS:
        m.ssi_summaries += 1
        status = holds_merge(&m.holds, &sx.reads, keyspace, HOLD_READ)
        if status != OK:
            return fail(E_NOMEM, "no memory for what a serializable transaction has read")
    span = span_of_key(key, n)
    return OK if hold_add(&m.holds, &sx.reads, keyspace, HOLD_READ, &span, True, hash) != NULL else E_NOMEM


cdef void ssi_wrote(TxnManager m, Txn* t, uint32_t keyspace, uint64_t hash, const char* key, size_t n) noexcept nogil:
    cdef Hold* h = hold_find(&m.holds, &t.sx.reads, keyspace, hash, key, n, HOLD_READ)
    if h != NULL:
        hold_drop(&m.holds, h)


cdef int ssi_read_span(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Hold** hold) noexcept nogil:
    cdef Sxact* sx = t.sx
    cdef Hold* made
    if hold[0] != NULL and hold_reshape(&m.holds, hold[0], span):
        return OK
    if hold[0] == NULL and sx.reads.ranges >= MOST_RANGES:
        m.ssi_summaries += 1
        if holds_merge(&m.holds, &sx.reads, keyspace, HOLD_READ) != OK:
            return fail(E_NOMEM, "no memory for what a serializable transaction has read")
    made = hold_add(&m.holds, &sx.reads, keyspace, HOLD_READ, span, False, 0)
    if made == NULL:
        return E_NOMEM
    made.kept = True
    if hold[0] != NULL:
        hold_drop(&m.holds, hold[0])
    hold[0] = made
    return OK


cdef int ssi_overwrites(TxnManager m, Sxact* reader, Txn* t, bint coarse) noexcept nogil:
    cdef uint64_t before = m.ssi_pivots
    cdef int status
    if t.sx == NULL or reader == t.sx:
        return OK
    status = ssi_conflict(m, reader, t.sx, t)
    if coarse:
        m.ssi_false += m.ssi_pivots - before
    return status


cdef int ssi_follows(TxnManager m, Txn* t, Version* head) noexcept nogil:
    cdef int status = OK
    while head != NULL and status == OK and not sees(t, t.snapshot, head.owner):
        if head.owner.sx != NULL and not head.flags & LOCK_ONLY:
            status = ssi_conflict(m, head.owner.sx, t.sx, t)
        head = head.older
    return status


# --- life

cdef inline bint harmless(const Sxact* writer, const Sxact* reader) noexcept nogil:
    """Whether the writer, which is in doubt, cannot make the reader's snapshot unsafe: it reads no more, and conflicts with nobody who had committed by then."""
    return writer.prepared and writer.earliest_out > reader.snapshot


cdef void judge_snapshot(TxnManager m, Sxact* sx) noexcept nogil:
    """Before it enters the list: what is to be known of the snapshot of a transaction declared read-only."""
    cdef Sxact* other
    if not sx.declared:
        return
    other = m.ssi_active
    while other != NULL:
        sx.pending += not other.declared and not harmless(other, sx)
        other = other.next
    other = m.ssi_done_last          # committed, and not yet visible to this snapshot
    while other != NULL and other.commit_ts > sx.snapshot:
        if not other.read_only and other.earliest_out <= sx.snapshot:
            sx.unsafe = True
        other = other.back
    sx.safe = sx.pending == 0 and not sx.unsafe
    if sx.safe:
        m.ssi_safe += 1
        sx.txn.watched = sx.txn.commutes         # nothing is asked of its reads any more


cdef int ssi_begin(TxnManager m, Txn* t) noexcept nogil:
    cdef Sxact* sx = <Sxact*>calloc(1, sizeof(Sxact))
    if sx == NULL:
        return fail(E_NOMEM, "no memory for a serializable transaction")
    sx.txn = t
    sx.number = t.number
    sx.snapshot = t.snapshot
    sx.earliest_out = NEVER
    sx.read_only = sx.declared = t.read_only
    sx.reads.of = sx
    t.sx = sx
    judge_snapshot(m, sx)
    enter(sx, &m.ssi_active, &m.ssi_active_last)
    return OK


cdef int ssi_wait(TxnManager m, Txn* t) noexcept nogil:
    cdef Sxact* sx = t.sx
    while not sx.safe:
        if m.closing:
            return fail(E_CLOSED, "the database was closed during the wait for a safe snapshot")
        if sx.unsafe:
            leave(sx, &m.ssi_active, &m.ssi_active_last)
            sx.pending = 0
            sx.unsafe = False
            m.close_snapshot(t)
            snapshot_open(&m.clock, t, m.log.end_lsn)
            sx.snapshot = t.snapshot
            judge_snapshot(m, sx)
            enter(sx, &m.ssi_active, &m.ssi_active_last)
            if not sx.unsafe:
                continue
            # Commits that are on their way to visibility make it unsafe at once: the next try comes when they are there.
        elif sx.pending == 0:
            return OK
        condition_wait(&t.cond, m.latch, WAIT_SLICE)
        if not sx.safe:
            return E_INTERRUPT
    return OK


cdef int ssi_precommit(TxnManager m, Txn* t) noexcept nogil:
    cdef Sxact* sx = t.sx
    cdef Sxact* pivot
    cdef Conflict* c = sx.ins
    cdef Conflict* d
    if sx.doomed:
        return fail(E_SERIALIZATION, "it was chosen so that concurrent transactions keep a serial order")
    if t.id == 0:
        return OK                        # wrote nothing: nobody conflicts with it
    while c != NULL:
        pivot = c.reader
        if pivot.recovered and not pivot.over and not sx.prepared:
            m.ssi_pivots += 1
            return failure(m, sx, pivot)
        if is_active(pivot):
            d = pivot.ins
            while d != NULL:
                if d.reader == sx or (is_active(d.reader) and not d.reader.read_only):
                    if not pivot.prepared:
                        m.ssi_pivots += 1
                        doom(m, pivot)
                        break
                    if not sx.prepared:
                        m.ssi_pivots += 1
                        return failure(m, sx, pivot)
                    if d.reader != sx and not d.reader.prepared:
                        m.ssi_pivots += 1
                        doom(m, d.reader)
                d = d.next_in
        c = c.next_in
    return OK


cdef bint doubtful_out(const Sxact* sx) noexcept nogil:
    """Whether it has a conflict out to one in doubt, which may commit before it."""
    cdef Conflict* c = sx.outs
    while c != NULL:
        if c.writer.prepared and not c.writer.over:
            return True
        c = c.next_out
    return False


cdef int ssi_prepare(TxnManager m, Txn* t) noexcept nogil:
    # No two transactions of a dangerous structure may be in doubt with none left to abort: what may become one through another in doubt is refused here.
    cdef Sxact* sx = t.sx
    cdef Conflict* c = sx.outs
    cdef Sxact* r = sx.next
    cdef int status = ssi_precommit(m, t)
    if status != OK:
        return status
    if doubtful_out(sx) and dangerous_in(sx, NEVER):
        m.ssi_pivots += 1
        return failure(m, sx, sx)
    while c != NULL:
        if c.writer.prepared and not c.writer.over and doubtful_out(c.writer):
            m.ssi_pivots += 1
            return failure(m, sx, c.writer)
        c = c.next_out
    sx.prepared = True
    while r != NULL:
        if r.declared and not r.safe and not r.unsafe and harmless(sx, r):
            one_less(m, r)
        r = r.next
    return OK


cdef int ssi_recover(TxnManager m, Txn* t) noexcept nogil:
    cdef int status
    t.snapshot = m.clock.visible_ts
    status = ssi_begin(m, t)
    if status == OK:
        t.sx.prepared = t.sx.recovered = True
        t.sx.earliest_out = 1
        t.sx.in_commit = NEVER
    return status


cdef void one_less(TxnManager m, Sxact* r) noexcept nogil:
    """Of the writers whose ends decide about the snapshot of a read-only transaction."""
    r.pending -= 1
    if r.pending:
        return
    r.safe = True
    m.ssi_safe += 1
    if r.txn != NULL:
        r.txn.watched = r.txn.commutes
        condition_signal(&r.txn.cond)
    holds_drop_all(&m.holds, &r.reads)
    if r.predicates:
        predicates_drop(m, NULL, r)
        r.predicates = False


cdef void tell_readers(TxnManager m, Sxact* sx, bint committed) noexcept nogil:
    """A writer has ended: snapshots of read-only transactions that began beside it may be known to be safe now."""
    cdef Sxact* r = sx.next
    while r != NULL:
        if r.declared and not r.safe and not r.unsafe:
            if committed and sx.earliest_out <= r.snapshot:
                r.unsafe = True
                if r.txn != NULL:
                    condition_signal(&r.txn.cond)
            elif not harmless(sx, r):            # that was told when it was prepared, or when the reader began
                one_less(m, r)
        r = r.next


cdef void make_coarse(TxnManager m, Sxact* sx) noexcept nogil:
    """The reads of a committed transaction become one range a keyspace."""
    cdef uint32_t k
    cdef Hold* h = sx.reads.first
    while h != NULL:
        h.kept = False
        h = h.mine
    for k in range(m.next_keyspace):
        holds_merge(&m.holds, &sx.reads, k, HOLD_READ)
    m.ssi_summaries += 1


cdef void clean(TxnManager m) noexcept nogil:
    cdef Sxact* sx
    while m.ssi_done != NULL and (m.ssi_active == NULL or m.ssi_done.commit_ts <= m.ssi_active.snapshot):
        sx = m.ssi_done
        leave(sx, &m.ssi_done, &m.ssi_done_last)
        if m.ssi_coarse == sx:
            m.ssi_coarse = m.ssi_done
        forget(m, sx)
    if m.ssi_done == NULL:
        m.ssi_coarse = NULL
    while m.holds.bytes > MOST_BYTES and m.ssi_done != NULL:
        sx = m.ssi_coarse if m.ssi_coarse != NULL else m.ssi_done
        if sx.reads.count > 1:
            make_coarse(m, sx)
        if sx.next == NULL:
            break
        m.ssi_coarse = sx.next


cdef void ssi_committed(TxnManager m, Txn* t) noexcept nogil:
    cdef Sxact* sx = t.sx
    cdef Conflict* c
    sx.over = True
    if t.id == 0:
        sx.read_only = True
        sx.commit_ts = m.clock.last_ts
    else:
        sx.commit_ts = t.commit_ts
        c = sx.ins
        while c != NULL:
            if sx.commit_ts < c.reader.earliest_out:
                c.reader.earliest_out = sx.commit_ts
            c = c.next_in
    if not sx.declared:
        tell_readers(m, sx, t.id != 0)
    leave(sx, &m.ssi_active, &m.ssi_active_last)
    if sx.commit_ts == 0 or sx.safe:
        forget(m, sx)
    else:
        enter(sx, &m.ssi_done, &m.ssi_done_last)
    clean(m)


cdef void ssi_ended(TxnManager m, Txn* t) noexcept nogil:
    cdef Sxact* sx = t.sx
    if sx.over:
        return
    sx.over = True
    if not sx.declared:
        tell_readers(m, sx, False)
    leave(sx, &m.ssi_active, &m.ssi_active_last)
    forget(m, sx)
    clean(m)


cdef uint64_t ssi_kept(TxnManager m) noexcept nogil:
    cdef Sxact* sx = m.ssi_done
    cdef uint64_t n = 0
    while sx != NULL:
        n += 1
        sx = sx.next
    return n


cdef void ssi_free(TxnManager m) noexcept nogil:
    cdef Sxact* sx
    while m.ssi_active != NULL:
        sx = m.ssi_active
        leave(sx, &m.ssi_active, &m.ssi_active_last)
        forget(m, sx)
    while m.ssi_done != NULL:
        sx = m.ssi_done
        leave(sx, &m.ssi_done, &m.ssi_done_last)
        forget(m, sx)
