"""Locks that a transaction asks for: of rows, of ranges, of the place of serial execution; and what takes a row's newest value.  GIL held on entry; latch not."""
from .handles cimport CoreKeyspace
from .txnhandle cimport CoreTransaction

# Locks a row for update; whether it did: with `skip`, not where that would mean a wait.
cdef bint lock_row(CoreTransaction x, CoreKeyspace keyspace, bytes key, bint no_wait, bint skip) except -1
cdef int range_lock(CoreTransaction x, CoreKeyspace keyspace, start, stop, str mode, bint no_wait) except -1
cdef int range_conflict(CoreTransaction x, CoreKeyspace keyspace, start, stop, bint writing) except -1
cdef int combine_row(CoreTransaction x, CoreKeyspace keyspace, bytes key, function, bint reads) except -1
# The place of serial execution; where it cannot be had the transaction is at an end. batch: commits that are not visible yet may be seen, and no lock is
# waited for, now and later.
cdef int take_place(CoreTransaction x, bint batch) except -1
# Of a read-only serializable transaction: newer and newer snapshots, until nothing can go wrong with one.
cdef int wait_until_safe(CoreTransaction x) except -1
