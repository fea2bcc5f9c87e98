"""What Python holds: handles of a database, its keyspaces, its transactions.  GIL held on entry to every method; latch not.

Rules: under the latch only `bytes` are made and nothing is decref'd; whatever takes time happens in `obtain`, without GIL or latch; a handle that is
dropped only queues its transaction's abort.
"""
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t, int64_t
from ..txn.transaction cimport TxnManager, Lack, Found
from ..txn.versions cimport Txn
from .engine cimport Engine

cdef class CoreDatabase:
    cdef readonly Engine engine
    cdef readonly str path
    cdef readonly bint closed
    cdef object __weakref__
    cdef int alive(self) except -1

cdef class CoreKeyspace:
    cdef readonly CoreDatabase database
    cdef Engine engine
    cdef TxnManager m
    cdef readonly str name
    cdef readonly uint32_t id
    cdef readonly str backend
    cdef uint32_t max_key
    cdef uint32_t max_inline
    cdef int max_batch
    cdef object __weakref__
    cdef object put_one(self, int op, bytes key, bytes value)

cdef class CoreTransaction:
    cdef readonly CoreDatabase database
    cdef Engine engine
    cdef TxnManager m
    cdef Txn* t
    cdef bint in_use                # a thread is inside an operation that let the GIL go
    cdef uint64_t ended_id
    cdef uint64_t ended_ts
    cdef object __weakref__
    cdef int ready(self, CoreKeyspace keyspace) except -1
    cdef int idle(self) except -1
    cdef int still(self) noexcept
    cdef bytes large(self, uint64_t pid, uint64_t length)
    cdef int obtain(self, Lack* lack) except -1
    cdef int take_back(self, int depth) except -1
    cdef void give_up_blob(self) noexcept
    cdef int change(self, int op, CoreKeyspace keyspace, bytes key, bytes value, Lack* lack) except -2
    cdef object finish_now(self)
