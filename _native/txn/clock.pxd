"""The clock: commit timestamps, live snapshots, writers in flight, and commits that wait to become visible.

A snapshot is a commit timestamp; it is joined by `safe_lsn`, the LSN below which every change in the log belongs to a transaction that this snapshot
sees.  Writers stand in the order of their first record, snapshots in the order of their birth (so by timestamp), commits in log order.
Everything is under the engine latch.
"""
from libc.stdint cimport uint64_t
from .versions cimport Txn

cdef struct Clock:
    uint64_t last_ts            # newest commit timestamp given
    uint64_t visible_ts         # newest that snapshots may see
    Txn* oldest_snapshot
    Txn* newest_snapshot
    uint64_t snapshots
    Txn* first_writer           # by first record; in the list until visible or undone
    Txn* last_writer
    uint64_t writers
    Txn* queue                  # commits not yet visible
    Txn* queue_tail

cdef inline uint64_t clock_safe_lsn(Clock* c, uint64_t log_end) noexcept nogil:
    return c.first_writer.first_lsn if c.first_writer != NULL else log_end

cdef inline uint64_t clock_horizon(Clock* c) noexcept nogil:
    """The oldest timestamp any reader reads at: versions replaced at or before it are garbage."""
    return c.oldest_snapshot.snapshot if c.oldest_snapshot != NULL else c.visible_ts

cdef inline void snapshot_open(Clock* c, Txn* t, uint64_t log_end) noexcept nogil:
    t.snapshot = c.visible_ts
    t.safe_lsn = clock_safe_lsn(c, log_end)
    t.snap_next = NULL
    t.snap_prev = c.newest_snapshot
    if c.newest_snapshot != NULL:
        c.newest_snapshot.snap_next = t
    else:
        c.oldest_snapshot = t
    c.newest_snapshot = t
    c.snapshots += 1
    t.in_snapshots = True

cdef inline void snapshot_close(Clock* c, Txn* t) noexcept nogil:
    if not t.in_snapshots:
        return
    if t.snap_prev != NULL:
        t.snap_prev.snap_next = t.snap_next
    else:
        c.oldest_snapshot = t.snap_next
    if t.snap_next != NULL:
        t.snap_next.snap_prev = t.snap_prev
    else:
        c.newest_snapshot = t.snap_prev
    c.snapshots -= 1
    t.in_snapshots = False

cdef inline bint snapshot_between(Clock* c, uint64_t low, uint64_t high) noexcept nogil:
    """Whether a live snapshot reads at a timestamp in [low, high). Says yes when a short look cannot tell."""
    cdef Txn* t = c.newest_snapshot
    cdef int steps = 0
    while t != NULL and t.snapshot >= high:
        t = t.snap_prev
        steps += 1
        if steps > 32:
            return True
    return t != NULL and t.snapshot >= low

cdef inline void writer_enter(Clock* c, Txn* t) noexcept nogil:
    t.writer_next = NULL
    t.writer_prev = c.last_writer
    if c.last_writer != NULL:
        c.last_writer.writer_next = t
    else:
        c.first_writer = t
    c.last_writer = t
    c.writers += 1
    t.in_writers = True

cdef inline void writer_leave(Clock* c, Txn* t) noexcept nogil:
    if not t.in_writers:
        return
    if t.writer_prev != NULL:
        t.writer_prev.writer_next = t.writer_next
    else:
        c.first_writer = t.writer_next
    if t.writer_next != NULL:
        t.writer_next.writer_prev = t.writer_prev
    else:
        c.last_writer = t.writer_prev
    c.writers -= 1
    t.in_writers = False

cdef inline void queue_push(Clock* c, Txn* t) noexcept nogil:
    t.queue_next = NULL
    if c.queue_tail != NULL:
        c.queue_tail.queue_next = t
    else:
        c.queue = t
    c.queue_tail = t

cdef inline void queue_pop(Clock* c) noexcept nogil:
    c.queue = c.queue.queue_next
    if c.queue == NULL:
        c.queue_tail = NULL
