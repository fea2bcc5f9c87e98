"""What Python holds: handles of a database and its keyspaces (of its transactions: txnhandle.pxd).  GIL held on entry to every method; latch not.

Rules: under the latch only `bytes` are made and nothing is decref'd; whatever takes time happens in `obtain`, without GIL or latch; a handle that is
dropped only queues its transaction's abort.
"""
from libc.stdint cimport uint32_t
from ..txn.transaction cimport TxnManager
from .engine cimport Engine

cdef class CoreDatabase:
    cdef readonly Engine engine
    cdef readonly str path
    cdef readonly bint closed
    cdef unsigned long procedure_thread     # see procedures.pxd
    # What enginelib.hooks hangs in, None where nobody does: called with a transaction that is about to commit (or to be prepared) and has changed something;
    # called with the LSN behind a commit record, once the commit is done.
    cdef public object before_commit_hook
    cdef public object after_commit_hook
    cdef public type transaction_class      # of what hooks are called with
    cdef object __weakref__
    cdef object begin_transaction(self, type cls, bint read_only, int durability, double lock_timeout, int isolation, bint deferrable, bint batch)
    cpdef int alive(self) except -1

cdef class CoreKeyspace:
    cdef readonly CoreDatabase database
    cdef Engine engine
    cdef TxnManager m
    cdef readonly str name
    cdef readonly uint32_t id
    cdef readonly str backend
    cdef bint lsm
    cdef uint32_t max_key
    cdef uint32_t max_inline
    cdef int max_batch
    cdef object __weakref__
    cdef object put_one(self, int op, bytes key, bytes value)
    cdef object put_stepwise(self, int op, bytes key, bytes value)
