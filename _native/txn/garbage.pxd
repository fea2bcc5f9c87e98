"""Garbage: before-images that no snapshot can select any more, and the ghosts kept for their sake.

Latch held.  Committed transactions wait in `TxnManager.garbage` by commit timestamp; one leaves it with its last version.
"""
from .transaction cimport TxnManager
from .versions cimport Version

cdef enum:
    COLLECT_BUDGET = 512        # versions freed on the way at the end of a transaction, whoever left them,
    COLLECT_OWN = 4096          # and at most so many for those it leaves itself; more waits for the next one, or the background

cdef void prune(TxnManager m, Version* v) noexcept nogil
cdef void collect(TxnManager m, int budget) noexcept nogil
cdef int collect_slowly(TxnManager m) noexcept nogil               # may wait: fetches pages to remove ghosts from
