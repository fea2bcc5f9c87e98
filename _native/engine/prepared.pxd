"""Two-phase commit at the door: prepare, the two ways to end what is prepared, and who is in doubt."""
from .engine cimport Engine
from .handles cimport CoreDatabase
from .txnhandle cimport CoreTransaction

# The transaction is prepared, durably, under that xid; the handle has ended. Raises; then the transaction is as before, or (LogWriteError, OutcomeUnknown) the log has failed.
cdef int prepare_txn(CoreTransaction x, bytes xid) except -1
# False: nothing is prepared under that xid.
cdef bint end_prepared(CoreDatabase db, bytes xid, bint commit) except -1
cdef list prepared_rows(Engine e)
