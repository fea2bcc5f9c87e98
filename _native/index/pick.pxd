"""Which tables a compaction takes: decided under the latch from the set of tables alone, the oldest snapshot and the time.

Policies: leveled with dynamic level sizes (Dong et al., Optimizing Space Amplification in RocksDB, CIDR 2017): the last level is as large as it is, each one
above a tenth of the next, and levels whose share would be small stay empty; size-tiered (as in Cassandra and RocksDB's universal style): neighbouring runs of similar size become one.
"""
from libc.stdint cimport uint64_t
from .lsm cimport LsmTree
from .tableset cimport TableFile, TableSet

cdef enum:
    MOST_INPUTS = 512
    LARGEST = 64                   # times a table's size: more than so much is not compacted at once because somebody asks

cdef struct Pick:
    int count
    TableFile* inputs[MOST_INPUTS]
    int levels[MOST_INPUTS]
    int to_level
    bint bottom                    # no older version of any of these keys lies anywhere else
    bint trivial                   # no need to rewrite: the one input moves
    double score

# latch. The most useful compaction of the tree; False: there is none. idle: nobody writes, so that small gains count too. oldest: no snapshot is older;
# now: what expired before, nobody sees (microseconds).
cdef bint compaction_pick(LsmTree tree, bint idle, uint64_t oldest, uint64_t now, Pick* p) noexcept nogil
# latch. Every table that holds keys in the range (from low to high, inclusive; NULL: no bound), with what must go with it, down to the last level; False: nothing
# to do, or `large`, too much for once.
cdef bint compaction_pick_range(LsmTree tree, const char* low, size_t low_len, const char* high, size_t high_len, uint64_t now, Pick* p, bint* large) noexcept nogil
# latch. The next of the steps that do the same, each of a few tables; those of the last level one by one, beginning behind the key `after` (NULL: with the first).
cdef bint compaction_pick_step(LsmTree tree, const char* low, size_t low_len, const char* high, size_t high_len, const char* after, size_t after_len,
                               uint64_t now, Pick* p) noexcept nogil
# latch: the target size of each level, 0 for those that stay empty; returns the level that level 0 is merged into.
cdef int level_targets(const TableSet* s, uint64_t table_size, uint64_t* targets) noexcept nogil
