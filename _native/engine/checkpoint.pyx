"""Checkpoints: see checkpoint.pxd.

Order (law 6): the frozen pages and the log up to the image's LSN, in either order; then meta, map and directory; sync; superblock; sync; only then blocks and log
segments are let go of.  A failure before the superblock leaves the older image in force: what was frozen is dirty again.
"""
from libc.stdint cimport uint32_t, uint64_t, int64_t
from libc.stdlib cimport free
from ..base.latch cimport latch_lock, latch_unlock, monotonic_micros
from ..base.status cimport OK, E_USAGE, fail
from ..log.writer cimport SYNC
from ..page.store cimport Superblock
from ..page.store_super cimport FEATURE_IMAGES
from ..txn.transaction cimport TREE_LIVE, TxnManager
from .meta cimport Buffer, meta_encode

cdef enum:
    SHRINK_ROUNDS = 4
    SHRINK_FLOOR = 2048         # blocks: a file this much above what it needs is left alone


cdef uint64_t slots_keep(Checkpoint* c, uint64_t end, uint64_t keep) noexcept nogil:
    """The LSN from which the log stays, for slots too: except those that have fallen behind further than they may, which are lost by that."""
    cdef uint64_t least = keep
    cdef int i
    for i in range(c.slot_count):
        if not c.slots[i].lost and c.slots[i].restart < keep:
            if end - c.slots[i].restart > c.slots[i].max_lag:
                c.slots[i].lost = True
            elif c.slots[i].restart < least:
                least = c.slots[i].restart
    return least


cdef bint any_images(TxnManager m) noexcept nogil:
    cdef uint32_t i
    for i in range(m.next_keyspace):
        if m.trees[i].state == TREE_LIVE and m.trees[i].images:
            return True
    return False


cdef int take_checkpoint(TxnManager m, Superblock* fields, Checkpoint* c) noexcept nogil:
    cdef int64_t began = monotonic_micros()
    cdef uint64_t lsn = m.log.end_lsn, keep
    cdef uint32_t image = 0
    cdef Buffer meta
    cdef int status
    status = meta_encode(m, lsn, &meta)
    if status == OK and meta.keep < c.keep:
        # Never so; a superblock that names what is gone would be a database that does not open.
        status = fail(E_USAGE, "a checkpoint would need log that an earlier one has let go of: please report this")
    if status == OK:
        status = m.store.freeze(&image)
        if status == OK:
            status = m.pool.freeze(image)
    if status != OK:
        free(meta.data)
        return status
    fields.checkpoint_lsn = lsn
    fields.next_commit_ts = m.clock.last_ts + 1
    fields.next_txn = m.next_txn
    fields.next_keyspace = m.next_keyspace
    fields.feature_ro = FEATURE_IMAGES if any_images(m) else 0
    c.frozen_micros = monotonic_micros() - began
    status = m.log.flush(lsn, SYNC)
    if status == OK:
        status = m.pool.write_frozen(image)
    if status == OK:
        latch_unlock(m.latch)
        status = m.store.publish(image, fields, <char*>meta.data, meta.used)
        latch_lock(m.latch)
    if status == OK:
        c.lsn = lsn
        c.keep = meta.keep
        c.count += 1
        keep = slots_keep(c, m.log.end_lsn, c.log_pin if c.log_pin < c.keep else c.keep)
        if not c.keep_log:
            status = m.log.release_below(keep)
    else:
        m.pool.thaw()
        m.store.abandon(image)
    free(meta.data)
    c.total_micros = monotonic_micros() - began
    return status


cdef int shrink(TxnManager m, Superblock* fields, Checkpoint* c) noexcept nogil:
    cdef uint64_t file_blocks = 0, used = 0, unused = 0, pids = 0, moved = 0
    cdef int status = OK, _i
    for _i in range(SHRINK_ROUNDS):
        m.store.usage(&file_blocks, &used, &unused, &pids)
        if file_blocks < used + used // 20 + SHRINK_FLOOR:
            break
        latch_unlock(m.latch)
        status = m.store.compact(<uint64_t>-1, &moved)
        latch_lock(m.latch)
        if status != OK:
            break
        status = take_checkpoint(m, fields, c)
        if status != OK:
            break
        latch_unlock(m.latch)
        status = m.store.trim()
        latch_lock(m.latch)
        if status != OK or moved == 0:
            break
    return status
