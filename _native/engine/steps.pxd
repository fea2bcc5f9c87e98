"""The steps every handle's operation is made of: bytes in, bytes out, getting what is lacking, committing, giving up.

GIL held on entry to each, latch as said.
"""
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from ..txn.holds cimport Span
from ..txn.transaction cimport TxnManager, Lack, Found
from ..txn.versions cimport Txn
from .engine cimport Engine

cdef enum:
    MAX_VALUE = 1 << 30          # 1 GiB

# No latch. The bytes of any object with the buffer protocol; TypeError with the remedy, ValueError for what is over the limit.
cdef bytes to_bytes(object o, str what)
# No latch. Raises for a key over the limit.
cdef int too_long(uint32_t max_key, bytes key) except -1
# No latch. Unpins, then raises what `status` stands for.
cdef object raise_lacking(TxnManager m, int status, Lack* lack)
# No latch. Gets what an operation lacks, without GIL or latch; lets signal handlers run now and then.
cdef int obtain_for(Engine e, Txn* t, Lack* lack) except -1
# No latch. The half-open range between two keys, whose bytes it borrows.
cdef void span_of(Span* span, bytes low, bytes high, bint unbounded) noexcept
# Latch held. A new bytes object, or (for a large value) NULL and where it lies.
cdef PyObject* shelter_value(TxnManager m, Found* f, uint64_t* pid, uint64_t* length) noexcept
# No latch. Reads a large value, which the caller's snapshot keeps in being.
cdef bytes fetch_blob(Engine e, uint64_t pid, uint64_t length)
# Latch held. Lets the background thread know when there is enough to do.
cdef void after_writes(Engine e) noexcept nogil
# Latch held; returns the status with the latch let go.
cdef int commit_txn(Engine e, Txn* t) except -100
# No latch. Rolls back a transaction whose operation failed, and lets go of it.
cdef int end_quietly(Engine e, Txn* t) except -1
