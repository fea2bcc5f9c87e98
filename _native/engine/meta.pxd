"""The checkpoint's own record: what the image needs besides pages (docs/format.md, "Checkpoint record").

Tree roots; transactions in flight with their undo; blobs and ghosts that only in-memory versions still wanted, which recovery removes.
"""
from libc.stdint cimport uint8_t, uint64_t
from ..txn.transaction cimport TxnManager

cdef struct Buffer:
    uint8_t* data
    size_t used
    size_t room
    bint failed                 # no memory
    uint64_t keep               # the log is needed from here on

# latch. Encodes the state at this moment; the caller frees data. OK, E_NOMEM.
cdef int meta_encode(TxnManager m, uint64_t checkpoint_lsn, Buffer* out) noexcept nogil
# No latch, GIL held. Rebuilds trees (roots), transactions in flight, and removes orphans; returns the LSN reading must start from. Raises.
cdef object meta_decode(TxnManager m, const uint8_t* data, size_t n, uint64_t checkpoint_lsn, uint64_t* read_from)
