"""Two-phase locking: locks on keys and ranges, who may have them beside whom, and the queue of those that wait.

Modes are those of Gray and Reuter, *Transaction Processing* (1992), chapters 7 and 8; ranges are locked as intervals of keys, gaps, ends and empty ranges included, so
that what is locked for a scan does not depend on which records are there.

| held by another \\ wanted | S | U | X |
| --- | --- | --- | --- |
| S | yes | yes | no |
| U | yes | no | no |
| X | no | no | no |

An exclusive lock on a key is the key's uncommitted version, an update lock on a key a version that changed nothing (LOCK_ONLY); they are made by TxnManager.write and cost nothing
more than the change.  All else is a Hold.  A lock on the whole keyspace is the range of all keys; intention locks are what the keyspace bits of a transaction and its
holds amount to, and are shown, not stored.

A transaction that has to wait publishes what it waits for (a Request); whoever comes later and would be in its way waits for it, unless it would thereby wait
for itself.  So nobody starves.  Everything is under the engine latch.
"""
from libc.stdint cimport uint32_t, uint64_t
from .holds cimport Hold, Span
from .transaction cimport Lack, TxnManager
from .versions cimport Txn, Version

# Before a change of, or an update lock on, one key: OK; AGAIN with who is in the way; E_SERIALIZATION. mode: HOLD_UPDATE or HOLD_EXCLUSIVE; own: the row is locked by t.
cdef int lock_for_write(TxnManager m, Txn* t, int mode, bint own, uint32_t keyspace, uint64_t hash, const char* key, size_t n, Lack* lack) noexcept nogil
# The same before a change of a whole range.
cdef int lock_span_for_write(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Lack* lack) noexcept nogil
# A shared lock on a key, whose newest version is `head` or NULL: OK, AGAIN, E_NOMEM.
cdef int lock_to_read(TxnManager m, Txn* t, uint32_t keyspace, uint64_t hash, const char* key, size_t n, Version* head, Lack* lack) noexcept nogil
# A lock on a range; hold: what it widens, or NULL, and becomes. rows_seen: that no row in it is exclusively another's has been looked at.
cdef int lock_span(TxnManager m, Txn* t, int mode, uint32_t keyspace, const Span* span, bint rows_seen, Hold** hold, Lack* lack) noexcept nogil
cdef bint in_flight(const Txn* t, const Version* head) noexcept nogil       # the row is exclusively another's
cdef int wait_for_row(Txn* t, Version* head, Lack* lack) noexcept nogil     # AGAIN, E_LOG
# All locks go, with the request.
cdef void release_locks(TxnManager m, Txn* t) noexcept nogil
# What the operation at hand waits for, noted before the wait; and that it waits no more.
cdef int enqueue(TxnManager m, Txn* t, Lack* lack) noexcept nogil
cdef void dequeue(TxnManager m, Txn* t) noexcept nogil
# The place of serial execution: OK, AGAIN with whom to wait for. It is given back by serial_leave. batch: without a wait for commits that are on their way.
cdef int serial_enter(TxnManager m, Txn* t, bint batch, Lack* lack) noexcept nogil
cdef void serial_leave(TxnManager m, Txn* t) noexcept nogil
