"""Who holds and who waits for what, for people."""
from .engine cimport Engine
from .txnhandle cimport CoreTransaction
from ..txn.versions cimport Txn

# No latch. (transaction, level, keyspace id, mode, kind, start, stop, granted); kind: "key", "range"; stop None: no bound. At most so many.
cdef list lock_rows(Engine e, size_t limit)
# No latch. (waiter, holder, keyspace id or None, mode, kind, start, stop, seconds).
cdef list wait_rows(Engine e)
# GIL held, by the transaction's thread. The cycle of waits that it was chosen to break: (waiter, holder, keyspace id or None, mode, kind, start).
cdef list cycle_rows(Txn* t)
# The same, with the names of keyspaces, becomes the `cycle` of the victim's error.
cdef int name_cycle(CoreTransaction x, error) except -1
