"""Before-images: what a key held, logged just behind the record of its change, in the same latch hold, where the keyspace asks for that (`Tree.images`).

A value longer than IMAGE_MOST goes first, in pieces, outside the latch hold: `write` answers AGAIN with Lack.image, the caller locks the row, reads the value, and has it
logged by `log_image`; then it calls `write` again, which finds that the transaction has logged nothing since.  Recovery passes over all of it.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from ..index.btree cimport Cell
from ..log.record cimport Record
from .transaction cimport Lack, TxnManager
from .versions cimport Txn

cdef enum:
    IMAGE_MOST = 4096           # bytes of a value that stand in the record itself
    IMAGE_BITE = 16384          # of one piece of a longer one

# The log's part of a change, with its before-image: OK and the change's LSN; AGAIN, E_LOG ...: nothing is logged. Of a B-tree, whose cell (if present) holds the old value;
cdef int log_with_image(TxnManager m, Txn* t, int level, int op, uint32_t keyspace, const char* key, size_t klen, const char* value, size_t vlen,
                        uint16_t flags, uint64_t blob_number, bint present, const Cell* cell, uint64_t* lsn, Lack* lack) noexcept nogil
# of any tree: all of the change's record but its transaction is given; apart: the old value cannot be had as a whole in this latch hold.
cdef int log_record_with_image(TxnManager m, Txn* t, int level, Record* r, bint present, const char* old, uint64_t length, bint apart, uint64_t* lsn,
                               Lack* lack) noexcept nogil
# (releases the latch) Logs the pieces of what a key holds that t has locked.
cdef int log_image(TxnManager m, Txn* t, uint32_t keyspace, const char* data, size_t n, Lack* lack) noexcept nogil
