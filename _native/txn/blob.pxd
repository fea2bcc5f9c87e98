"""Large values: written to the page file and logged in chunks outside the latch, then linked by an ordinary put of their reference (law 2)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from .transaction cimport TxnManager, Lack
from .versions cimport Txn

cdef enum:
    BLOB_CHUNK = 256 * 1024

cdef struct BlobWrite:
    uint64_t pid
    uint64_t block
    uint64_t length
    uint64_t written
    uint64_t room               # in memory, of a read-only opening
    uint32_t crc

# latch (released meanwhile).
cdef int blob_start(TxnManager m, uint64_t length, BlobWrite* b, Lack* lack) noexcept nogil
# No latch. Pieces of BLOB_CHUNK bytes, but for the last.
cdef int blob_append(TxnManager m, BlobWrite* b, const char* data, size_t n) noexcept nogil
# No latch. The value is complete: `reference` gets its 16 bytes.
cdef int blob_complete(TxnManager m, BlobWrite* b, char* reference) noexcept nogil
# latch (released meanwhile). Gives everything back.
cdef void blob_cancel(TxnManager m, BlobWrite* b) noexcept nogil
# latch (released meanwhile). Writes and logs a whole value for the transaction; number and reference as the R_PUT_BLOB record and the tree want them.
cdef int blob_put(TxnManager m, Txn* t, const char* data, size_t n, uint64_t* number, char* reference, Lack* lack) noexcept nogil
