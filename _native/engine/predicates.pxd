"""Predicates: locking and remembering them, testing changes against them.  GIL held on entry; latch not, unless said.

A predicate is an object with `matches(key, value) -> bool`, and perhaps `bounds() -> (start, stop)` and `disjoint(other) -> bool`.  The rules are those of txn/predset.
"""
from libc.stdint cimport uint64_t
from ..txn.transaction cimport TxnManager
from .handles cimport CoreKeyspace
from .txnhandle cimport CoreTransaction

# Whether changes of the keyspace are to be tested.
cdef inline bint predicates_on(TxnManager m, CoreKeyspace keyspace) noexcept nogil:
    return (m.predicate_keyspaces >> (keyspace.id & 63)) & 1

# Tests a change against the predicates that others have locked, waiting for them, or are remembered to have read: what it matches of those is noted in x. The row is locked then.
# Returns the edition of the set that it was tested against.
cdef uint64_t test_change(CoreTransaction x, CoreKeyspace keyspace, bytes key, bytes after) except? 0
# Latch held, the edition the same, the change about to be made: conflicts with those who remember to have read it. OK or E_SERIALIZATION.
cdef int note_matches(CoreTransaction x) noexcept
# An iterator over the records that match.
cdef object scan_where(CoreTransaction x, CoreKeyspace keyspace, start, stop, prefix, bint reverse, limit, bint keys, bint values, bint for_update, bint nowait,
                       bint skip_locked, bint apart, where, str granularity)
# Counts a conflict with a range that stands for a predicate (granularity="index_range"), and whether neither image of the record matches it.
cdef int judge_met(CoreTransaction x, CoreKeyspace keyspace, bytes key, bytes after) except -1
