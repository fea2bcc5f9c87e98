"""Many changes in one call."""
from .handles cimport CoreKeyspace
from .txnhandle cimport CoreTransaction

# GIL held; latch not. Sets many keys, or after an error none of them; returns how many.
cdef Py_ssize_t put_pairs(CoreTransaction x, CoreKeyspace keyspace, pairs) except -1
