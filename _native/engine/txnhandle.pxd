"""What Python holds of a transaction.  The rules of handles.pxd are this one's too."""
from libc.stdint cimport uint16_t, uint64_t
from ..txn.transaction cimport TxnManager, Lack
from ..txn.versions cimport Txn
from .engine cimport Engine
from .handles cimport CoreDatabase, CoreKeyspace

cdef enum:
    LOOK_PLAINLY = 0
    LOOK_APART = 1               # as a read that nothing follows from
    LOOK_NEWEST = 2              # the newest value, of a row that is locked
    LOOK_NEWEST_READING = 3      # and that is a read

cdef class CoreTransaction:
    cdef readonly CoreDatabase database
    cdef Engine engine
    cdef TxnManager m
    cdef Txn* t
    cdef bint was_prepared
    cdef bint in_use                # a thread is inside an operation that let the GIL go
    cdef uint64_t ended_id
    cdef uint64_t ended_ts
    cdef uint64_t ended_lsn
    cdef public bint unhooked       # the engine's own: hooks are not asked
    cdef bint asking                # a before_commit hook is inside
    cdef uint64_t* matches          # predicates that the change about to be made matches, that others have read
    cdef size_t match_count
    cdef uint64_t number_           # kept when the core's structure has gone
    cdef public object supplied     # its time and random numbers: see enginelib.commands
    cdef object __weakref__
    cdef int ready(self, CoreKeyspace keyspace) except -1
    cdef int idle(self) except -1
    cdef int still(self) noexcept
    cdef object look(self, CoreKeyspace keyspace, bytes k, default, int how)
    cdef bytes large(self, uint64_t pid, uint64_t length)
    cdef int obtain(self, Lack* lack) except -1
    cdef int take_back(self, int depth) except -1
    cdef int log_before(self, CoreKeyspace keyspace, bytes key) except -1
    cdef void give_up_blob(self) noexcept
    cdef int change(self, int op, CoreKeyspace keyspace, bytes key, bytes value, Lack* lack, uint16_t flags=*) except -2
    cdef object delete_range_blindly(self, CoreKeyspace keyspace, start, stop, Lack* lack)
    cdef object finish_now(self)
