"""Securing what an operation lacks, and letting go of it."""
from ..base.status cimport OK

cdef enum:
    MOST_LOOKS = 16          # others free pages all the time; a page that is damaged must not be looked for as long as they do


cdef void need_init(Need* n) noexcept nogil:
    n.lack = LACK_NOTHING
    n.pid = n.gone = n.last = 0
    n.looks = 0
    n.count = 0
    n.pinned = 0


cdef int need_secure(Pool pool, Need* n) noexcept nogil:
    cdef Frame* f = NULL
    cdef int status = OK
    cdef int i
    cdef int most = MAX_PINS
    if pool.frame_count < 4 * MAX_PINS:          # several threads must find room in a small pool
        most = <int>(pool.frame_count // 4)
        if most < 8:
            most = 8
    if n.lack == LACK_PAGE:
        n.looks = n.looks + 1 if n.pid == n.last else 0
        n.last = n.pid
        status = pool.load(n.pid, n.gone if n.looks < MOST_LOOKS else <uint64_t>-1, &f)
        if status == OK:
            if n.pinned >= most:                 # pages are met from the root down: the first was pinned the longest ago
                pool.unpin(n.pins[0])
                for i in range(1, n.pinned):
                    n.pins[i - 1] = n.pins[i]
                n.pinned -= 1
            n.pins[n.pinned] = f
            n.pinned += 1
    elif n.lack == LACK_FRAMES:
        status = pool.make_free(n.count)
    elif n.lack == LACK_PIDS:
        status = pool.store.reserve_pids(n.count)
    n.lack = LACK_NOTHING
    return status


cdef void need_release(Pool pool, Need* n) noexcept nogil:
    cdef int i
    for i in range(n.pinned):
        pool.unpin(n.pins[i])
    n.pinned = 0
    n.lack = LACK_NOTHING
