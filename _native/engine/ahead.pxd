"""Looking ahead in the log during redo: its records in windows, whose leaves are read together and before their turn.

A window holds copies of the records that follow, and the fetch of those of their leaves that are not in memory.  While one is replayed the next is
already being read (`fetch.pxd`), in the order of the file and, where there is a processor to spare, by other threads.  Nothing depends on it: a leaf
that was not foreseen, or could not be had, is loaded when it is needed.
"""
from libc.stdint cimport uint64_t
from ..log.reader cimport LogReader
from ..log.record cimport Record
from ..page.pool cimport Fetch, Frame
from ..txn.transaction cimport TxnManager

cdef struct Window:
    Record* records             # their keys and values lie in `bytes`
    uint64_t count
    uint64_t warmed             # records whose places in the tree have been looked up
    char* bytes
    size_t capacity
    char* large                 # the bytes of its only record, if they have no room there
    Fetch fetch

cdef struct Ahead:
    Window windows[2]
    int current
    uint64_t from_lsn           # records below are not replayed
    int batch                   # keys looked up together
    Frame* lent                 # the frames in which the windows lie
    uint64_t lent_count
    uint64_t most_records
    uint64_t most_pages         # of one fetch
    Record held                 # read from the log, for the next window
    bint holding

# latch not held. While the pool is still empty: the windows lie in its last frames. E_NOMEM.
cdef int ahead_open(Ahead* a, TxnManager m, int helpers) noexcept nogil
# latch (released). The next window, its pages here and the one after it begun, or NULL at the end of the log. What the one before held is gone.
cdef int ahead_next(Ahead* a, TxnManager m, LogReader log, Window** out) noexcept nogil
# latch. Before record `i` is replayed: looks the next ones up together, so that their cache misses overlap.
cdef void ahead_warm(Ahead* a, Window* w, TxnManager m, uint64_t i) noexcept nogil
# latch not held. Also after an error.
cdef void ahead_close(Ahead* a, TxnManager m) noexcept nogil
