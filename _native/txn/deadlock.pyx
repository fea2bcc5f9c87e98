"""Row-lock waits: see deadlock.pxd."""
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy
from ..base.latch cimport Latch, condition_wait, condition_signal, monotonic_micros
from ..base.status cimport OK, E_CONFLICT, E_DEADLOCK, E_SERIALIZATION, E_TIMEOUT, E_INTERRUPT, fail, fail_n
from .versions cimport LINK_KEY, LONGEST_CYCLE, SERIAL, Link, Txn


cdef void leave_queue(Txn* t) noexcept nogil:
    cdef Txn** p
    if t.waiting_for == NULL:
        return
    p = &t.waiting_for.waiters
    while p[0] != NULL and p[0] != t:
        p = &p[0].wait_next
    if p[0] == t:
        p[0] = t.wait_next
    t.waiting_for = NULL
    t.wait_next = NULL


cdef void wake_waiters(Txn* t) noexcept nogil:
    cdef Txn* w = t.waiters
    cdef Txn* following
    t.wakes += 1
    t.waiters = NULL
    while w != NULL:
        following = w.wait_next
        w.waiting_for = NULL
        w.wait_next = NULL
        condition_signal(&w.cond)
        w = following


cdef void doom(Txn* t, int status) noexcept nogil:
    t.doomed = status
    if t.waiting_for != NULL:
        condition_signal(&t.cond)


cdef bint leads_to(Txn* from_, Txn* t) noexcept nogil:
    while from_ != NULL and from_ != t and not from_.doomed:
        from_ = from_.waiting_for
    return from_ == t


cdef int doomed_status(const Txn* t) noexcept nogil:
    if t.doomed == E_DEADLOCK:
        return fail(E_DEADLOCK, "chosen as the victim of a cycle of waits: it had done least")
    if t.doomed == E_SERIALIZATION:
        return fail(E_SERIALIZATION, "chosen to be aborted, so that it and concurrent transactions keep a serial order")
    if t.doomed == E_CONFLICT:
        return fail(E_CONFLICT, "it has read a key that its own commutative operation had changed upon a value newer than its snapshot")
    return fail(t.doomed, "a predicate that it has locked raised an exception")


cdef void note_cycle(Txn* victim, Txn* t, Txn* owner) noexcept nogil:
    """The cycle t -> owner -> ... -> t, for the victim's error."""
    cdef Txn* p = t
    cdef Txn* holder = owner
    cdef Link* link
    if victim.cycle == NULL:
        victim.cycle = <Link*>malloc(LONGEST_CYCLE * sizeof(Link))
    victim.cycle_length = 0
    while victim.cycle != NULL and victim.cycle_length < LONGEST_CYCLE:
        link = &victim.cycle[victim.cycle_length]
        link.waiter = p.number
        link.holder = holder.number
        link.keyspace = p.request.keyspace
        link.mode = p.request.mode
        link.point = p.request.point
        link.klen = 0
        if p.request.mode:
            link.klen = p.request.low_len if p.request.low_len < LINK_KEY else LINK_KEY
            memcpy(link.key, p.request.bytes, link.klen)
        victim.cycle_length += 1
        p = holder
        if p == t:
            return
        holder = p.waiting_for


cdef inline uint64_t worth(const Txn* t) noexcept nogil:
    """What would be lost with it. One that is alone in its place is worth more than any other: all who come to write wait for it."""
    return <uint64_t>-1 if t.level == SERIAL else t.live + t.holds.count


cdef Txn* cheapest_of_cycle(Txn* t, Txn* owner) noexcept nogil:
    """The transaction to break the cycle t -> owner -> ... -> t with, or NULL when there is none."""
    cdef Txn* p = owner
    cdef Txn* victim = t
    while p != NULL and p != t:
        if p.waiting_for == NULL or p.doomed:
            return NULL
        if worth(p) < worth(victim):
            victim = p
        p = p.waiting_for
    return victim if p == t else NULL


cdef int wait_for(Latch* latch, Txn* t, Txn* owner) noexcept nogil:
    cdef int64_t now = monotonic_micros(), slice_end = now + WAIT_SLICE, left
    cdef Txn* victim
    cdef Txn** p
    cdef int status = OK
    if t.doomed:
        return doomed_status(t)
    if t.deadline == 0:
        t.deadline = now + t.lock_timeout if t.lock_timeout >= 0 else -1
    if t.no_wait:
        return fail_n(E_TIMEOUT, "transaction %lld holds the lock, and no wait is wanted", <int64_t>owner.number, 0)
    victim = cheapest_of_cycle(t, owner)
    if victim != NULL:
        note_cycle(victim, t, owner)
    if victim == t:
        t.doomed = E_DEADLOCK            # as for a victim that was waiting already: only the abort is left
        return fail_n(E_DEADLOCK, "transaction %lld closes a cycle of waits through transaction %lld", <int64_t>t.number, <int64_t>owner.number)
    if victim != NULL:
        doom(victim, E_DEADLOCK)
    t.waiting_for = owner
    t.waits_since = now
    t.wait_next = NULL
    p = &owner.waiters
    while p[0] != NULL:
        p = &p[0].wait_next
    p[0] = t
    while t.waiting_for != NULL and not t.doomed:
        now = monotonic_micros()
        if t.deadline > 0 and now >= t.deadline:
            status = fail_n(E_TIMEOUT, "transaction %lld holds the lock; gave up after lock_timeout = %lld ms",
                            <int64_t>owner.number, t.lock_timeout // 1000)
            break
        if now >= slice_end:
            status = E_INTERRUPT
            break
        left = slice_end - now
        if t.deadline > 0 and t.deadline - now < left:
            left = t.deadline - now
        condition_wait(&t.cond, latch, left)
    leave_queue(t)
    return doomed_status(t) if t.doomed else status
