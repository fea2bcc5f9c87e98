"""Checking a whole tree, page by page, in the order of its keys."""
from libc.stdint cimport uint32_t, uint64_t

from ..page.pool cimport Pool

# As check_tree of btree.pxd; not whole: it is being destroyed from its end, and the last nodes' fences and sibling links say what was. GIL held, latch not held. Each page is looked at in a latch hold that has its whole path.
cdef object verify_tree(Pool pool, uint32_t keyspace, uint64_t root, set pids, list findings, list doubts, bint read_blobs, bint whole)
