"""Checkpoints: freeze under the latch, write outside it, switch the superblock, let go of the log (architecture.md, "Checkpoint")."""
from libc.stdint cimport uint32_t, uint64_t, int64_t
from ..page.store cimport Superblock
from ..txn.transaction cimport TxnManager

cdef enum:
    MOST_SLOTS = 64

cdef struct SlotPin:            # a named reader: see slots.pyx
    uint64_t restart
    uint64_t max_lag
    bint lost                   # the log went on without it

cdef struct Checkpoint:
    uint64_t lsn                # replay of the newest durable image starts here
    uint64_t keep               # the log is needed from here on
    uint64_t count
    int64_t frozen_micros       # how long writers stood still at the newest one
    int64_t total_micros
    uint64_t log_pin            # a backup under way needs the log from here on; -1 = none
    SlotPin slots[64]
    int slot_count
    bint keep_log               # a reader in another process is opening: let go of nothing

# latch (released meanwhile). One at a time: the caller sees to that. `fields` holds what the superblock repeats (ids, epoch, incarnation).
cdef int take_checkpoint(TxnManager m, Superblock* fields, Checkpoint* c) noexcept nogil
# latch (released meanwhile). Moves the tail of the page file down until little of it is free, and cuts it off; takes checkpoints on the way.
cdef int shrink(TxnManager m, Superblock* fields, Checkpoint* c) noexcept nogil
