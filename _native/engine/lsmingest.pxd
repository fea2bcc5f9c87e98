"""Bulk loading: pairs in the order of their keys become tables at once, without memtable and compaction, and join the tree in one transaction.

1. The pairs are written to tables, and unless told otherwise logged, batch by batch; no lock is held, nobody sees anything.
2. The range from the first key to the last is locked, as a deletion of it would.  What memtables hold of it goes to tables; compactions under way end.
3. In one latch hold: the tables get the commit's timestamp and go into the deepest level above which nothing overlaps them; their edit is logged with the
   transaction's number, then its commit.  The edit holds if the commit is there, and then recovery leaves the logged pairs alone: they are in the tables.

A crash before that leaves files that nothing names; opening removes them.
"""
from libc.stdint cimport uint32_t
from .engine cimport Engine

# Loads (key, value) pairs, keys strictly ascending; returns how many. GIL held, latch not.
cdef object ingest(Engine e, uint32_t keyspace, object pairs, bint logged)
