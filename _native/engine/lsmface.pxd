"""What people ask of LSM-trees besides data: compaction by hand, figures, checks, copies of their tables.  GIL held on entry; latch not."""
from libc.stdint cimport uint32_t
from ..base.vfs cimport Vfs
from ..index.lsm cimport LsmTree
from .engine cimport Engine

# The live tree of a keyspace; UsageError when it is gone.
cdef LsmTree tree_of(Engine e, uint32_t keyspace)
# Figures of one tree, as a nested dict.
cdef dict lsm_stats(Engine e, uint32_t keyspace)
# Writes what is in memory to tables; merges all tables that hold keys from low to high (None: no bound) down to the last level.
cdef object lsm_compact(Engine e, uint32_t keyspace, bytes low, bytes high)
# One step of background work for a test: "flush" or "compact"; whether there was something to do.
cdef bint lsm_step(Engine e, str what) except -1
# Checks every table of the tree; adds to findings; returns counts.
cdef dict lsm_verify(Engine e, uint32_t keyspace, list findings)
# In the latch hold that fixes where a backup ends (GIL held): the tables that it needs, as (keyspace, number).
cdef list tables_named(Engine e)
cdef object copy_tables(Engine e, list tables, Vfs target, bytes directory)
