"""The background work of all LSM-trees of a database: which tree is served next, the threads that do it, and what a test or a manual compaction asks for.

Two native threads, which never touch Python: one writes sealed memtables, so that writers have room; the other compacts.
"""
from libc.stdint cimport uint32_t, uint64_t
from ..index.compaction cimport Work
from ..index.lsm cimport LsmTree
from .engine cimport Engine

# All: latch (released meanwhile).
# One sealed memtable of any tree, the fullest tree first. OK; ABSENT: nothing to do; errors.
cdef int flush_some(Engine e, Work* work) noexcept nogil
# The most urgent compaction of any tree. OK; ABSENT: nothing to do; errors.
cdef int compact_some(Engine e, Work* work, bint idle) noexcept nogil
# Seals the tree's active memtable, if anything is in it, and writes all that is sealed to tables.
cdef int flush_tree(Engine e, LsmTree tree, Work* work) noexcept nogil
cdef int flush_all(Engine e, Work* work) noexcept nogil
# Manual: compacts all tables that hold keys in the range down to the last level.
cdef int compact_tree(Engine e, LsmTree tree, const char* low, size_t low_len, const char* high, size_t high_len, Work* work) noexcept nogil
# Lets go of files that no one needs, unless a reader is just opening or a backup is under way.
cdef int reap_some(Engine e) noexcept nogil
# Seals memtables on whose behalf the log is held further back than `lsn`.
cdef int seal_laggards(Engine e, uint64_t lsn) noexcept nogil
# Frees a dropped tree: AGAIN while work on it is under way.
cdef int release_tree(Engine e, uint32_t keyspace) noexcept nogil
# At the end of opening: files that nothing names go.
cdef int remove_orphans(Engine e) except -1
cdef object start_workers(Engine e)
cdef object stop_workers(Engine e)
