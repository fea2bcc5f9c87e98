"""Procedures: functions that are run in the place of serial execution, and the record of their calls.

`CoreDatabase.procedure_thread` is the thread that is inside a procedure's function, 0 while none is: it is set with the place taken and the GIL held, so two threads never set it.
"""
from libc.stdint cimport uint64_t
from .handles cimport CoreDatabase
from .txnhandle cimport CoreTransaction

cdef object BUSY                # what run_serially returns where another thread is inside a procedure and nobody is to wait for it

# function(transaction, *args) in a serial transaction of class cls, and its commit; an error aborts it.
# logged NULL-like (None): the commit is complete on return. A list: one that is logged only is added to it, and the next one sees it (a batch).
cdef object run_serially(CoreDatabase database, type cls, function, tuple args, bint wait, list logged)
# Logs a call beside the changes of its transaction; nothing where there are none.
cdef int log_call(CoreTransaction x, uint64_t now, uint64_t seed, bytes name, bytes args) except -1
# Likewise something told about the transaction, a Tag of record.pxd.
cdef int log_tag(CoreTransaction x, int tag, bytes value) except -1
# The wall clock as commits have it, in microseconds: it never goes back while the database is open.
cdef uint64_t wall_clock(CoreTransaction x) except? 0
