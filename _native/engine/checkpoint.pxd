"""Checkpoints: freeze under the latch, write outside it, switch the superblock, let go of the log (architecture.md, "Checkpoint")."""
from libc.stdint cimport uint32_t, uint64_t, int64_t
from ..page.store cimport Superblock
from ..txn.transaction cimport TxnManager

cdef struct Checkpoint:
    uint64_t lsn                # replay of the newest durable image starts here
    uint64_t keep               # the log is needed from here on
    uint64_t count
    int64_t frozen_micros       # how long writers stood still at the newest one
    int64_t total_micros
    uint64_t log_pin            # a backup under way needs the log from here on; -1 = none
    bint keep_log               # a reader in another process is opening: let go of nothing

# latch (released meanwhile). One at a time: the caller sees to that. `fields` holds what the superblock repeats (ids, epoch, incarnation).
cdef int take_checkpoint(TxnManager m, Superblock* fields, Checkpoint* c) noexcept nogil
# latch (released meanwhile). Moves the tail of the page file down until little of it is free, and cuts it off; takes checkpoints on the way.
cdef int shrink(TxnManager m, Superblock* fields, Checkpoint* c) noexcept nogil
