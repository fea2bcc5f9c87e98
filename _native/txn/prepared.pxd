"""Prepared transactions: two-phase commit's promise, kept through anything but the word of whoever knows its xid.

Data flow: `locks_encode` writes down what the transaction holds beside its changes -> that goes into the log in pieces (R_TAG, TAG_LOCKS) -> `prepare` logs R_PREPARE and in the same latch hold
makes the state TXN_PREPARED: from there only commit and abort by xid end it, with the records that end any transaction. A checkpoint's record holds the promise beside the transaction's undo; recovery
finds it there or in the log, leaves such a transaction alone where it rolls back the losers, and takes its locks again (`locks_restore`).

Invariants: a prepared transaction cannot be doomed, reads nothing and has no snapshot. Its changes lie in the trees as those of any transaction in flight, and block as those do. Who would have to abort
it to keep a serial order is aborted instead; serial execution, which waits for writers, passes it by and fails where it meets what it has changed. The log is kept from its first change of an LSM-tree on.

A lock in the table: varints mode (a HoldMode) | kind << 3, keyspace, length of the low key, length of the high key (of ranges with an end), then those keys.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from .holds cimport Span
from .transaction cimport Lack, TxnManager
from .versions cimport Promise, Txn

cdef enum:
    LONGEST_XID = 200           # bytes
    LOCKS_PIECE = 16 << 10      # bytes of the table in one record

cdef struct LockTable:
    uint8_t* data
    size_t used
    size_t room
    size_t logged               # how much of it is in the log
    bint failed                 # no memory

cdef inline const char* promise_xid(const Promise* p) noexcept nogil:
    return <const char*>p + sizeof(Promise)

cdef inline const uint8_t* promise_locks(const Promise* p) noexcept nogil:
    return <const uint8_t*>p + sizeof(Promise) + p.xid_len

# What t holds beside its changes; predicates become the ranges in which they can match. OK; E_NOMEM.
cdef int locks_encode(TxnManager m, Txn* t, LockTable* table) noexcept nogil
# Whether the bytes are such a table.
cdef bint locks_valid(const uint8_t* p, size_t n) noexcept nogil
# After recovery (releases the latch): takes the locks of t's promise again. OK or a failure.
cdef int locks_restore(TxnManager m, Txn* t) noexcept nogil
# Logs the table and the promise. OK: t is prepared, to be synced up to t.promise.lsn; AGAIN with what is lacking; a failure: t is as before.
cdef int prepare(TxnManager m, Txn* t, const char* xid, size_t n, LockTable* table, Lack* lack) noexcept nogil
# Recovery: t has promised. OK; E_NOMEM.
cdef int promise_restore(TxnManager m, Txn* t, const char* xid, size_t n, int level, uint64_t wall, uint64_t lsn, const uint8_t* locks, size_t locks_len) noexcept nogil
cdef void promise_drop(TxnManager m, Txn* t) noexcept nogil
cdef Txn* prepared_find(TxnManager m, const char* xid, size_t n) noexcept nogil
# Serial execution meets what is in doubt: OK; E_CONFLICT.
cdef int in_doubt(const Txn* t) noexcept nogil
cdef int prepared_in(TxnManager m, uint32_t keyspace, const Span* span) noexcept nogil
