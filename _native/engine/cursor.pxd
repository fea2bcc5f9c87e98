"""Scans: an iterator that fetches a batch of records per latch hold and finds its place again by key."""
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t
from ..index.btree cimport BTree, Path
from ..index.merge cimport MergeCursor
from ..txn.holds cimport Hold, Span
from ..txn.transaction cimport Lack
from .handles cimport CoreKeyspace
from .txnhandle cimport CoreTransaction

cdef enum:
    LARGEST_BATCH = 512
    FIRST_BATCH = 48

# The least key above all that start with the prefix; None when there is none.
cdef bytes successor(bytes prefix)

cdef class CoreCursor:
    cdef CoreTransaction txn
    cdef CoreKeyspace keyspace
    cdef bytes lower                # inclusive, or None
    cdef bytes upper                # exclusive, or None
    cdef bytes last                 # key fetched last, or None at the start
    cdef bytes given                # key given out last (transactions that write), or None
    cdef bint first_batch
    cdef bint for_update            # every record given out is locked
    cdef bint no_wait               # and a wait for that raises,
    cdef bint skip_locked           # or passes the record over
    cdef bint apart                 # what is read is neither locked nor remembered
    cdef Hold* hold                 # of this scan: what it has locked, or is remembered to have read
    cdef CoreTransaction fixed      # under `read_committed`: has the one snapshot that the scan reads at
    cdef bint reverse
    cdef bint keys_wanted
    cdef bint values_wanted
    cdef bint exhausted
    cdef Py_ssize_t left            # records still wanted, -1 = all
    cdef int batch
    cdef uint64_t writes            # of the transaction, when the batch was fetched
    cdef int at
    cdef int count
    cdef MergeCursor* merge         # over an LSM-tree: made by the first fetch
    cdef char* place                # last key gone through by a fetch that has found nothing yet,
    cdef Py_ssize_t passed          # and its length; -1: none
    cdef bint halted                # it has not been gone through, but is the next to be looked at
    cdef PyObject* keys[LARGEST_BATCH]
    cdef PyObject* values[LARGEST_BATCH]
    cdef uint64_t blob_pids[LARGEST_BATCH]       # 0, or a large value to be fetched: values[i] is NULL, its length in blob_lengths
    cdef uint64_t blob_lengths[LARGEST_BATCH]

    cdef void discard(self)
    cdef bint reading(self) except -1
    cdef object take(self)
    cdef int isolate(self, int status, Lack* lack) noexcept
    cdef int read_batch(self, int wanted, Lack* lack) noexcept
    cdef void consumed(self, Span* span) noexcept
    cdef int refill(self) except -1
    cdef int fill(self, int wanted, Lack* lack) except -1
    cdef int bearing(self, const char** key, size_t* klen) noexcept
    cdef int seek(self, BTree tree, Path* path, Lack* lack) noexcept
    cdef int fetch_lsm(self, int wanted, Lack* lack) noexcept
    cdef void halt(self, Lack* lack) noexcept
    cdef int keep(self, const char* key, size_t klen, const char* value, size_t vlen) noexcept
    cdef int fetch(self, int wanted, Lack* lack) noexcept
