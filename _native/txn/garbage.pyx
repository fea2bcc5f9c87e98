"""Garbage: see garbage.pxd."""
from libc.stdint cimport uint64_t
from ..base.coding cimport get64
from ..base.status cimport OK, AGAIN
from ..index.btree cimport BTree, Path, Cell, need_secure, LACK_NOTHING
from ..page.layout cimport VALUE_GHOST
from .clock cimport clock_horizon, snapshot_between, snapshot_close
from .transaction cimport TxnManager, Lack, lack_init, TREE_LIVE
from .versions cimport Txn, Version, BEFORE_BLOB, LEFT_GHOST, arena_release, table_find, table_unlink, version_key, version_value


cdef void leave_garbage(TxnManager m, Txn* t) noexcept nogil:
    if t.writer_prev != NULL:
        t.writer_prev.writer_next = t.writer_next
    else:
        m.garbage = t.writer_next
    if t.writer_next != NULL:
        t.writer_next.writer_prev = t.writer_prev
    else:
        m.garbage_tail = t.writer_prev
    t.in_garbage = False
    if t.handle:
        arena_release(&m.table, t)
    else:
        m.recycle(t)


cdef void prune(TxnManager m, Version* v) noexcept nogil:
    """Frees a version that has just got a newer one above it, when no live snapshot selects it."""
    cdef Txn* owner = v.owner
    cdef uint64_t low = v.older.owner.commit_ts if v.older != NULL else 0
    if snapshot_between(&m.clock, low, owner.commit_ts):
        return
    if v.flags & BEFORE_BLOB:
        m.pool.forget(get64(version_value(v)))
    table_unlink(&m.table, v)
    if owner.live == 0 and owner.in_garbage:
        leave_garbage(m, owner)


cdef bint discard(TxnManager m, Txn* t, int* budget, Lack* lack) noexcept nogil:
    """Frees versions of a committed transaction that no one can need; False when it stopped before the last."""
    cdef Version* v
    cdef Path path
    cdef Cell cell
    cdef int status
    while t.newest != NULL:
        v = t.newest
        if v.linked:
            if budget[0] <= 0:
                return False
            budget[0] -= 1
            if v.flags & LEFT_GHOST and m.trees[v.keyspace].state == TREE_LIVE \
                    and table_find(&m.table, v.hash, v.keyspace, version_key(v), v.klen) == v:
                status = (<BTree>m.trees[v.keyspace].tree).prepare(version_key(v), v.klen, 0, &path, &cell, &lack.need)
                if status == AGAIN:
                    return False
                if status == OK and cell.flags & VALUE_GHOST:
                    (<BTree>m.trees[v.keyspace].tree).apply_remove(&path, v.lsn)
            if v.flags & BEFORE_BLOB:
                m.pool.forget(get64(version_value(v)))
            table_unlink(&m.table, v)
        t.newest = v.previous
    return True


cdef void collect(TxnManager m, int budget) noexcept nogil:
    """Frees what no snapshot can select; stops where a page would have to be fetched."""
    cdef Lack lack
    cdef uint64_t horizon = clock_horizon(&m.clock)
    cdef Txn* t
    lack_init(&lack)
    while m.garbage != NULL and m.garbage.commit_ts <= horizon:
        t = m.garbage
        if not discard(m, t, &budget, &lack):
            break
        leave_garbage(m, t)
    m.settle(&lack)
    # Only what snapshots hold is held against them: garbage that merely waits for its turn ends without that.
    if m.table.bytes > m.version_budget and m.garbage != NULL and m.garbage.commit_ts > horizon and m.clock.oldest_snapshot != NULL \
            and m.clock.oldest_snapshot.snapshot < m.garbage_tail.commit_ts:
        m.clock.oldest_snapshot.snapshot_lost = True
        m.snapshots_lost += 1
        snapshot_close(&m.clock, m.clock.oldest_snapshot)


cdef int collect_slowly(TxnManager m) noexcept nogil:
    """As collect, to the end, fetching pages. (Releases the latch now and then.)"""
    cdef Lack lack
    cdef int budget, status = OK
    cdef Txn* t
    lack_init(&lack)
    while m.garbage != NULL and m.garbage.commit_ts <= clock_horizon(&m.clock):
        t = m.garbage
        budget = COLLECT_BUDGET
        if discard(m, t, &budget, &lack):
            leave_garbage(m, t)
        elif lack.need.lack != LACK_NOTHING:
            # What has been fetched stays pinned until the next try, or in a small cache one page would push out the other for ever.
            status = need_secure(m.pool, &lack.need)
            if status != OK:
                break
            continue
        m.settle(&lack)
    m.settle(&lack)
    return status
