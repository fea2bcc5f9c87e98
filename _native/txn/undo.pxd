"""Undo: before-images go back into the trees, newest first.  Latch held; the record that says so is in the log already (law 9)."""
from libc.stdint cimport uint64_t
from .transaction cimport TxnManager, Lack
from .versions cimport Txn

# Undoes t's changes above lsn. AGAIN leaves it under way: call again.
cdef int undo(TxnManager m, Txn* t, uint64_t lsn, Lack* lack) noexcept nogil
