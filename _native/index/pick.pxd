"""Which tables a compaction takes: decided under the latch from the set of tables alone.

Policies: leveled with dynamic level sizes (Dong et al., Optimizing Space Amplification in RocksDB, CIDR 2017): the last level is as large as it is, each one
above a tenth of the next, and levels whose share would be small stay empty; size-tiered (as in Cassandra and RocksDB's universal style): neighbouring runs of similar size become one.
"""
from libc.stdint cimport uint64_t
from .lsm cimport LsmTree
from .tableset cimport TableFile, TableSet

cdef enum:
    MOST_INPUTS = 512

cdef struct Pick:
    int count
    TableFile* inputs[MOST_INPUTS]
    int levels[MOST_INPUTS]
    int to_level
    bint bottom                    # no older version of any of these keys lies anywhere else
    bint trivial                   # no need to rewrite: the one input moves
    double score

# latch. The most useful compaction of the tree; False: there is none. idle: nobody writes, so that small gains count too.
cdef bint compaction_pick(LsmTree tree, bint idle, Pick* p) noexcept nogil
# latch. Every table that holds keys in the range, with what must go with it, down to the last level; False: nothing to do.
cdef bint compaction_pick_range(LsmTree tree, const char* low, size_t low_len, const char* high, size_t high_len, Pick* p) noexcept nogil
# latch: the target size of each level, 0 for those that stay empty; returns the level that level 0 is merged into.
cdef int level_targets(const TableSet* s, uint64_t table_size, uint64_t* targets) noexcept nogil
