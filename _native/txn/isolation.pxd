"""What an isolation level asks of reads: a newer snapshot, a lock, a note of what was read. Everything is under the engine latch.

| level | before a statement | with each key or range read |
| --- | --- | --- |
| read committed | the newest visible state becomes its snapshot | |
| snapshot | | |
| serializable | | it is remembered, and conflicts with whoever has changed it unseen are noted |
| locking | the newest visible state becomes its snapshot | it is locked, then the newest visible state becomes its snapshot |
| serial | | |

A transaction for which none of this is to be done is not `watched`: that flag is all it pays.
"""
from libc.stdint cimport uint32_t
from .holds cimport Hold, Span
from .transaction cimport Found, Lack, TxnManager
from .versions cimport Txn

# A statement of t begins.
cdef void statement(TxnManager m, Txn* t) noexcept nogil
# t reads the newest visible state from now on.
cdef void renew_snapshot(TxnManager m, Txn* t) noexcept nogil
# t, which is watched, is about to read the key, there or not, in this latch hold (versions and ghosts may go in this: nothing found before is good any more): OK; AGAIN with who is in the way; E_SERIALIZATION, E_CONFLICT, E_NOMEM.
cdef int isolate_read(TxnManager m, Txn* t, uint32_t keyspace, const char* key, size_t n, Lack* lack) noexcept nogil
# t, which is watched, has met this key of a B-tree in a scan, on a page with changes it may not see. The same.
cdef int isolate_row(TxnManager m, Txn* t, uint32_t keyspace, const char* key, size_t n, Lack* lack) noexcept nogil
# t has read all of the span in this latch hold. mode: of the lock, under `locking`; hold: of the same scan so far, or NULL; whole: the span the scan may come to read, whose bytes outlast a wait.
cdef int isolate_span(TxnManager m, Txn* t, uint32_t keyspace, int mode, const Span* span, const Span* whole, Hold** hold, Lack* lack) noexcept nogil
# The newest value of a key whose row t has locked, whatever its snapshot: as TxnManager.read. remember: it is a read, to serializable transactions.
cdef int read_newest(TxnManager m, Txn* t, uint32_t keyspace, const char* key, size_t n, bint remember, Found* out, Lack* lack) noexcept nogil
# As if t had read all of the span. hold: of mode shared, under `locking`.
cdef int read_conflict(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Lack* lack) noexcept nogil
# The scan has ended, and has gone no further than the span.
cdef void trim_span(TxnManager m, Txn* t, Hold* hold, const Span* span) noexcept nogil
