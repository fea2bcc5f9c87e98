"""The LSM-trees' share of recovery.

Tables need no redo, and memtables no undo: a change is replayed, with its commit timestamp, when its transaction committed, was not in a table yet (it ended at or
above the tree's persisted LSN), and did not take the change back itself.  So the analysis notes how each transaction that touched an LSM-tree ended, which stretches
of it were rolled back, and the edits of tables, which come first.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ..base.idmap cimport IdMap
from ..log.record cimport Record
from ..txn.transaction cimport TxnManager
from ..txn.versions cimport Txn

cdef struct Undone:                # changes of a transaction above `to`, logged before `at`, were taken back
    uint64_t to
    uint64_t at
    Undone* next

cdef struct Fate:
    uint64_t txn
    uint64_t commit_ts             # 0: it did not commit
    uint64_t commit_lsn
    uint64_t wall
    bint aborted
    uint32_t loads                 # not 0: the keyspace whose bulk load it is
    uint64_t puts                  # that it has logged: counted where tables may be missing
    Undone* undone

cdef struct Chunks:                # a large value whose chunks are being replayed into memory
    uint64_t txn
    uint64_t number
    uint64_t lsn                # of the first
    uint64_t length
    uint64_t filled
    uint64_t room
    char* data
    Chunks* next

cdef struct LoggedEdit:
    uint32_t keyspace
    uint64_t txn                   # not 0: it holds if that transaction committed
    size_t size
    LoggedEdit* next               # the bytes follow

cdef struct LsmRedo:
    IdMap index                    # transaction -> its place among the fates, plus one
    Fate* fates
    uint64_t count
    uint64_t room
    uint8_t* kinds                 # by keyspace id: 1 = an LSM-tree
    uint64_t kinds_room
    LoggedEdit* first              # in the order of the log
    LoggedEdit* last
    IdMap blobs                    # (transaction, number) of large values that belong to LSM-trees, mixed
    Chunks* chunks
    uint64_t from_lsn
    uint64_t edits_end             # edits at or above name tables that are not there: changes stand in their place
    bint any                       # there is an LSM-tree

# After the checkpoint's record has been read.
cdef int lsmredo_init(LsmRedo* l, TxnManager m, uint64_t from_lsn, uint64_t edits_end) noexcept nogil
cdef void lsmredo_free(LsmRedo* l) noexcept nogil
# Analysis: every record, in order.
cdef int lsmredo_note(LsmRedo* l, const Record* r) noexcept nogil
# latch. Applies the edits logged for a tree: those in being after analysis, others when they are made again.
cdef int lsmredo_edits(LsmRedo* l, TxnManager m, uint32_t keyspace) noexcept nogil
cdef inline bint lsmredo_is(const LsmRedo* l, uint32_t keyspace) noexcept nogil:
    """Whether the keyspace is an LSM-tree."""
    return keyspace < l.kinds_room and l.kinds[keyspace] != 0
# latch. Replays a change of an LSM-tree; OK also when it was not to be replayed. t: whose it is, where that is prepared at the end of the log: it is in flight again; else NULL.
cdef int lsmredo_replay(LsmRedo* l, TxnManager m, const Record* r, Txn* t) noexcept nogil
# A chunk of a large value: False when it belongs to no LSM-tree.
cdef bint lsmredo_chunk(LsmRedo* l, const Record* r, int* status) noexcept nogil
# latch. Logs the aborts of those that neither committed nor aborted and have nothing to be undone.
cdef int lsmredo_losers(LsmRedo* l, TxnManager m, uint64_t* losers) noexcept nogil
