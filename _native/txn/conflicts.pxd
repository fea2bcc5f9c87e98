"""Serializable snapshot isolation: read-write conflicts between serializable transactions, and which of them has to go.

After Cahill, Roehm and Fekete, *Serializable Isolation for Snapshot Databases* (SIGMOD 2008), and Ports and Grittner, *Serializable Snapshot Isolation in
PostgreSQL* (VLDB 2012).  A transaction R that reads what a concurrent W replaces (or will) has a conflict out to W, and W one in from R: in any equal serial order R
comes first.  A history of snapshot isolation that is not serializable holds a *dangerous structure*: T1 has a conflict out to T2 and T2 (the pivot) one out to T3, all
concurrent in pairs, T3 = T1 possible, and T3 commits first of the three (commit-order refinement); if T1 is read-only, T3 committed before T1's snapshot (read-only
refinement).  Breaking every dangerous structure keeps the rest serializable.

Data flow: a read remembers what it has read as a Hold of mode HOLD_READ, in the latch hold that fetched it (law 13), and takes note of the owners of the newer versions that it
was not shown; a write takes note of whoever remembers its key.  Each new conflict is looked at from both ends, and each commit once more.  The pivot is the victim where it can
still be aborted: what it conflicts with has committed, so trying again at once can succeed; else the transaction at hand is.

An Sxact outlives its transaction: remembered reads of a committed transaction matter until every serializable transaction that was concurrent with it has ended.
Everything is under the engine latch.
"""
from libc.stdint cimport uint32_t, uint64_t
from .holds cimport Hold, Span
from .transaction cimport TxnManager
from .versions cimport Sxact, Txn, Version

# A serializable transaction begins, after its snapshot was opened. OK or E_NOMEM.
cdef int ssi_begin(TxnManager m, Txn* t) noexcept nogil
# Whether the transaction has to remember its reads: serializable, and not on a snapshot known to be safe.
cdef inline bint ssi_tracks(const Txn* t) noexcept nogil:
    return t != NULL and t.sx != NULL and not t.sx.safe
# (releases the latch) Waits until t's snapshot is known to be safe, taking newer ones. OK; E_INTERRUPT: a slice has passed; E_CLOSED.
cdef int ssi_wait(TxnManager m, Txn* t) noexcept nogil
# t has read that key (there or not), whose newest version is `head` or NULL. OK; E_SERIALIZATION; E_NOMEM.
cdef int ssi_read_key(TxnManager m, Txn* t, uint32_t keyspace, uint64_t hash, const char* key, size_t n, Version* head) noexcept nogil
# t, in no savepoint, has changed the key: that it has read it need not be remembered, for who changes it beside t conflicts by that.
cdef void ssi_wrote(TxnManager m, Txn* t, uint32_t keyspace, uint64_t hash, const char* key, size_t n) noexcept nogil
# t was not shown that version's change, and all above it.
cdef int ssi_missed(TxnManager m, Txn* t, Version* head) noexcept nogil
# t has read the span (and not more); `hold` is what the same cursor remembered before, or NULL, and becomes what it remembers now.
cdef int ssi_read_span(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Hold** hold) noexcept nogil
# t writes what `reader` remembers; coarse: or may not remember, but for a summary.
cdef int ssi_overwrites(TxnManager m, Sxact* reader, Txn* t, bint coarse) noexcept nogil
# t changes a row upon that version, which it does not see, by an operation that takes the newest value: in any serial order it comes after whoever wrote it.
cdef int ssi_follows(TxnManager m, Txn* t, Version* head) noexcept nogil
cdef int ssi_conflict(TxnManager m, Sxact* reader, Sxact* writer, Txn* self) noexcept nogil
# Before the commit record: OK, with what stands in the way doomed; E_SERIALIZATION.
cdef int ssi_precommit(TxnManager m, Txn* t) noexcept nogil
# Before the prepare record, after which t cannot be aborted any more: OK, with what stands in the way doomed; E_SERIALIZATION.
cdef int ssi_prepare(TxnManager m, Txn* t) noexcept nogil
# After recovery: t, prepared, counts as having conflicts in and out. OK; E_NOMEM.
cdef int ssi_recover(TxnManager m, Txn* t) noexcept nogil
# Its commit record has been written, or it has ended without.
cdef void ssi_committed(TxnManager m, Txn* t) noexcept nogil
cdef void ssi_ended(TxnManager m, Txn* t) noexcept nogil
# Committed ones that still matter.
cdef uint64_t ssi_kept(TxnManager m) noexcept nogil
cdef void ssi_free(TxnManager m) noexcept nogil
