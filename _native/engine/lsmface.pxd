"""What people ask of LSM-trees besides data: compaction by hand, figures, checks, copies of their tables.  GIL held on entry; latch not."""
from libc.stdint cimport uint32_t, uint64_t
from ..base.vfs cimport Vfs
from ..index.lsm cimport LsmTree
from .engine cimport Engine

# The live tree of a keyspace; UsageError when it is gone.
cdef LsmTree tree_of(Engine e, uint32_t keyspace)
# Figures of one tree, as a nested dict.
cdef dict lsm_stats(Engine e, uint32_t keyspace)
# Those of all trees together, and by keyspace id why writers wait at this moment.
cdef dict lsm_totals(Engine e)
# Writes what is in memory to tables; merges all tables that hold keys from low to high (None: no bound) down to the last level.
cdef object lsm_compact(Engine e, uint32_t keyspace, bytes low, bytes high)
# One step of background work for a test: "flush" or "compact"; whether there was something to do.
cdef bint lsm_step(Engine e, str what) except -1
# Checks every table of the tree; adds to findings; returns counts.
cdef dict lsm_verify(Engine e, uint32_t keyspace, list findings)
# The tables that a backup needs, as (keyspace, number), and up to where it needs the log: as of one moment.
cdef list tables_named(Engine e, uint64_t* end_lsn)
cdef object copy_tables(Engine e, list tables, Vfs target, bytes directory)
