"""What a stream of changes is made of: committed transactions, and the operations in them."""
from libc.stdint cimport uint32_t, uint64_t

cdef class Operation:
    cdef readonly str keyspace
    cdef readonly str op
    cdef readonly bytes key
    cdef readonly bytes value
    cdef readonly bytes before
    cdef readonly object existed
    cdef uint64_t lsn                 # of its record
    cdef uint32_t id                  # of its keyspace

cdef class Change:
    cdef readonly bytes database_id
    cdef readonly uint64_t epoch
    cdef readonly uint64_t sequence
    cdef readonly uint64_t lsn
    cdef readonly uint64_t commit_ts
    cdef readonly double time
    cdef readonly bytes origin
    cdef readonly object operations
    cdef readonly tuple calls
    cdef readonly str xid
    cdef readonly str event

cdef Operation made(str keyspace, str op, bytes key, bytes value, uint64_t lsn, uint32_t id)
