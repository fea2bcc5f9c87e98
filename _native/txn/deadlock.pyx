"""Row-lock waits: see deadlock.pxd."""
from libc.stdint cimport int64_t
from ..base.latch cimport Latch, condition_wait, condition_signal, monotonic_micros
from ..base.status cimport OK, E_DEADLOCK, E_TIMEOUT, E_INTERRUPT, fail, fail_n
from .versions cimport Txn


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


cdef Txn* cheapest_of_cycle(Txn* t, Txn* owner) noexcept nogil:
    """The transaction to break the cycle t -> owner -> ... -> t with, or NULL when there is none."""
    cdef Txn* p = owner
    cdef Txn* victim = t
    while p != NULL and p != t:
        if p.waiting_for == NULL or p.doomed:
            return NULL
        if p.live < victim.live:
            victim = p
        p = p.waiting_for
    return victim if p == t else NULL


cdef int wait_for(Latch* latch, Txn* t, Txn* owner) noexcept nogil:
    cdef int64_t now = monotonic_micros(), slice_end = now + WAIT_SLICE, left
    cdef Txn* victim
    cdef Txn** p
    cdef int status = OK
    if t.doomed:
        return t.doomed
    if t.deadline == 0:
        t.deadline = now + t.lock_timeout if t.lock_timeout >= 0 else -1
    victim = cheapest_of_cycle(t, owner)
    if victim == t:
        t.doomed = E_DEADLOCK            # as for a victim that was waiting already: only the abort is left
        return fail_n(E_DEADLOCK, "transaction %lld closes a cycle of waits through transaction %lld", <int64_t>t.id, <int64_t>owner.id)
    if victim != NULL:
        doom(victim, E_DEADLOCK)
    t.waiting_for = owner
    t.wait_next = NULL
    p = &owner.waiters
    while p[0] != NULL:
        p = &p[0].wait_next
    p[0] = t
    while t.waiting_for != NULL and not t.doomed:
        now = monotonic_micros()
        if t.deadline > 0 and now >= t.deadline:
            status = fail_n(E_TIMEOUT, "transaction %lld holds the row lock; gave up after lock_timeout = %lld ms",
                            <int64_t>owner.id, t.lock_timeout // 1000)
            break
        if now >= slice_end:
            status = E_INTERRUPT
            break
        left = slice_end - now
        if t.deadline > 0 and t.deadline - now < left:
            left = t.deadline - now
        condition_wait(&t.cond, latch, left)
    leave_queue(t)
    if t.doomed:
        if t.doomed == E_DEADLOCK:
            return fail(E_DEADLOCK, "chosen as the victim of a cycle of waits: it had changed least")
        return t.doomed
    return status
