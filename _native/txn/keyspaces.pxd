"""The table of trees by keyspace id, and what changes of the catalogue do to it. Everything is under the engine latch."""
from libc.stdint cimport uint32_t, uint64_t
from .transaction cimport TxnManager
from .versions cimport Txn

# Room in the table for that id: OK; E_NOMEM; E_CORRUPT.
cdef int tree_admit(TxnManager m, uint32_t keyspace) noexcept nogil
# A row of the catalogue was written; before: the row that was there, of n bytes as the page says; n = 0: none. t NULL: in redo, of a transaction known to commit.
cdef void catalog_changed(TxnManager m, Txn* t, int op, const char* before, size_t n, const char* after, uint64_t lsn) noexcept nogil
# Its creations and drops stand.
cdef void commit_catalog(TxnManager m, Txn* t) noexcept nogil
