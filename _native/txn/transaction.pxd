"""Transactions: begin, get, put, delete, scan, savepoint, commit, abort, over the trees' contract, the log and the version table.

All methods are nogil and under the engine latch.  One that cannot go on without something that takes time returns AGAIN *with nothing changed* and says in
`Lack` what it is; the caller calls `secure` (which releases the latch while it waits) and then the method again.  `settle` ends an operation.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from ..base.coding cimport get32
from ..base.idmap cimport IdMap
from ..base.latch cimport Latch, Condition
from ..base.status cimport AGAIN
from ..log.writer cimport LogWriter
from ..page.pool cimport Pool
from ..page.store cimport PageStore
from ..base.vfs cimport Vfs
from ..index.btree cimport BTree, Need, Path, Cell
from ..index.compaction cimport Work
from ..index.lsm cimport LsmTree
from ..index.sstable cimport BlockNeed
from .holds cimport HoldTable, Span
from .versions cimport RangeLock, Sxact, Txn, Version, VersionTable
from .clock cimport Clock

cdef enum:
    MAX_KEYSPACES = 1 << 24     # ids are never used again: this many creations in a database's life

cdef enum TreeState:
    TREE_NONE = 0
    TREE_LIVE = 1
    TREE_DROPPING = 2           # nobody may see it any more, once no snapshot is older than drop_ts

cdef enum Images:               # before-images. On disk: never change
    IMAGES_NONE = 0
    IMAGES_KEY = 1              # whether the key was there
    IMAGES_FULL = 2             # and what it held

cdef struct Tree:
    void* tree                  # a BTree or an LsmTree, kept alive by TxnManager.tree_objects
    bint lsm                    # which
    uint16_t state              # a TreeState
    uint16_t images             # an Images: what is logged beside each change
    Txn* created_by             # its creation is not committed yet
    Txn* dropped_by             # its drop is not committed yet: an exclusive lock on the keyspace
    uint64_t drop_ts
    uint64_t creation_lsn

cdef struct Found:
    const char* value           # inline bytes: valid in this latch hold only; or the 16 bytes of a blob reference
    uint32_t vlen
    bint blob

cdef struct Lack:
    Need need                   # pages, frames, pids
    BlockNeed blocks            # blocks of sorted tables
    bint held                   # something was fetched for the operation: settle gives it back
    void* stall                 # an LsmTree whose background work has fallen behind,
    int64_t delay               # and microseconds to wait for it; 0: until it has caught up
    bint image                  # a large before-image: the caller logs its pieces (images.pxd), `secure` does nothing about it
    size_t log_bytes            # room in the log
    bint log_ends               # room for the end record of a transaction
    Txn* blocker                # a row lock
    uint64_t blocker_wakes      # its count when it was met
    int mode                    # a HoldMode: the lock that is waited for; 0: none
    bint unqueued               # no place in the queue is taken for it
    uint32_t keyspace
    bint point
    bint unbounded
    const char* low             # the caller's bytes, or a version's of the blocker
    const char* high
    uint32_t low_len
    uint32_t high_len
    Txn* queued                 # who has a request in the queue for this operation: settle takes it out

cdef enum Operation:            # what write() is to do
    OP_PUT = 1
    OP_DELETE = 2
    OP_LOCK = 3
    OP_DELETE_BLIND = 4         # without a look whether it is there, where the tree can spare that
    OP_DELETE_RANGE = 5         # of an LSM-tree: all keys from the key on and below the value; flags RANGE_UNBOUNDED: to the end

cdef enum:
    CATALOG = 0                 # keyspace id of the catalogue: name -> id, backend
    END_BYTES = 96              # log room kept for the end record of each writer
    CATALOG_ROW = 8             # u32 id, u8 backend, u8 Images, 2 bytes zero; for an LSM-tree its options follow:
    LSM_ROW = 32                # u8 style, u8 compression, u8 bits per key, u8 0, u32 table size / 1024, u64 memtable size, u64 time to live
    ROW_IMAGES = 5
    BTREE_BACKEND = 0           # on disk: never change
    LSM_BACKEND = 1
    RANGE_UNBOUNDED = 1

cdef class TxnManager:
    # constant after attach()
    cdef Latch* latch
    cdef LogWriter log
    cdef Pool pool
    cdef PageStore store
    cdef list tree_objects
    cdef Vfs vfs
    cdef bytes lsm_directory    # of all LSM-trees' tables
    cdef uint64_t version_budget
    cdef uint64_t transaction_budget
    # under the latch
    cdef VersionTable table
    cdef Clock clock
    cdef HoldTable holds        # locks without a change, remembered reads
    cdef Txn* first_request     # those that wait to lock something, in the order of their coming
    cdef uint64_t tickets
    cdef uint64_t lock_escalations
    cdef Txn* serial_txn        # who has the place of serial execution, or is next
    cdef Sxact* ssi_active      # serializable transactions, by age
    cdef Sxact* ssi_active_last
    cdef Sxact* ssi_done        # those that committed and still matter, by commit
    cdef Sxact* ssi_done_last
    cdef Sxact* ssi_coarse      # the first of them whose remembered reads are not summarised yet
    cdef uint64_t ssi_conflicts, ssi_pivots, ssi_summaries, ssi_safe, ssi_false
    cdef void* predicates       # see predset.pxd
    cdef uint64_t predicate_edition
    cdef uint64_t predicate_keyspaces   # bit per keyspace id (mod 64) on which there are any
    cdef uint64_t predicate_tests, predicate_matches, range_conflicts, range_false
    cdef Tree* trees            # by keyspace id
    cdef uint32_t tree_room
    cdef uint32_t next_keyspace
    cdef uint64_t next_txn
    cdef uint64_t numbers       # transactions begun
    cdef bint redoing
    cdef bint read_only
    cdef bint closing
    cdef IdMap memory_blobs     # pid -> large value replayed into memory (read-only opening)
    cdef int failed             # E_LOG once the log has failed
    cdef Txn* garbage           # committed, with versions some snapshot may still need; by commit timestamp
    cdef Txn* garbage_tail
    cdef Txn* free_txns
    cdef Txn* first_prepared    # those in doubt, in the order of preparing
    cdef Txn* last_prepared
    cdef uint64_t prepared      # how many
    cdef RangeLock* range_locks  # of all transactions, newest first
    cdef uint64_t commits, aborts, conflicts, deadlocks, timeouts, reads_of_versions, snapshots_lost
    cdef uint64_t dropping      # trees in state TREE_DROPPING
    cdef uint64_t lazy_lsn      # end of the newest commit that nobody waits for
    cdef uint64_t last_wall     # newest reading of the wall clock, in microseconds
    cdef bint lsm_helpless      # no thread does LSM-trees' work: a writer that has to wait does it itself
    cdef Condition published    # commits have become visible, or the database closes
    cdef uint64_t last_end      # LSN behind the newest of them
    cdef int listeners          # threads that wait for that
    cdef Condition lsm_moved    # that work got on, or is wanted
    cdef Condition lsm_delays   # for writers that are slowed; never signalled
    cdef Work lsm_own           # for work done by writers
    # own synchronisation (atomic)
    cdef Txn* orphans

    # --- life of a transaction
    cdef Txn* begin(self, bint read_only, int durability, int64_t lock_timeout, bint snapshot, int level) noexcept nogil     # NULL: no memory
    cdef void finish(self, Txn* t) noexcept nogil              # the handle lets go of it; it must have ended
    cdef int commit(self, Txn* t) noexcept nogil               # may wait (flush); OK, E_UNKNOWN, E_TXN_CLOSED ...
    cdef int commit_begin(self, Txn* t) noexcept nogil         # its part before the flush: OK = already visible, AGAIN = flush, then commit_end
    cdef int commit_end(self, Txn* t, int flushed) noexcept nogil
    cdef int abort(self, Txn* t, Lack* lack) noexcept nogil    # OK, AGAIN
    cdef int save(self, Txn* t) noexcept nogil
    cdef int rollback_to(self, Txn* t, int depth, Lack* lack) noexcept nogil
    cdef void end_aborted(self, Txn* t) noexcept nogil
    cdef void queue_abort(self, Txn* t) noexcept nogil         # no latch: a handle was dropped
    cdef bint has_orphans(self) noexcept nogil
    cdef Txn* take_orphans(self) noexcept nogil                # no latch

    # --- operations. t NULL: the newest visible state
    cdef int check(self, Txn* t, bint writing) noexcept nogil
    cdef int read(self, Txn* t, uint32_t keyspace, const char* key, size_t klen, Found* out, Lack* lack) noexcept nogil
    cdef int visible(self, Txn* t, uint32_t keyspace, const char* key, size_t klen, Cell* cell, Found* out) noexcept nogil
    cdef int write(self, Txn* t, int op, uint32_t keyspace, const char* key, size_t klen, const char* value, size_t vlen, uint16_t flags,
                   uint64_t blob_number, uint64_t lsn, Lack* lack) noexcept nogil
    cdef int log_chunk(self, Txn* t, uint64_t number, uint64_t total, const char* data, size_t n, Lack* lack) noexcept nogil
    cdef int secure(self, Txn* t, Lack* lack) noexcept nogil
    cdef void settle(self, Lack* lack) noexcept nogil

    cdef int start_writing(self, Txn* t, Lack* lack) noexcept nogil
    cdef int claim(self, Txn* t, Version* head, bint* fresh, Lack* lack) noexcept nogil
    cdef uint64_t append(self, Txn* t, int op, uint32_t keyspace, const char* key, size_t klen, const char* value, size_t vlen,
                         uint16_t flags, uint64_t blob_number) noexcept nogil
    cdef void drop_locks(self, Txn* t) noexcept nogil
    cdef void recycle(self, Txn* t) noexcept nogil

    # --- visibility
    cdef void publish(self) noexcept nogil
    cdef void close_snapshot(self, Txn* t) noexcept nogil

    # --- keyspaces
    cdef int readable(self, Txn* t, uint32_t keyspace) noexcept nogil
    cdef int writers_in(self, Txn* t, uint32_t keyspace, Lack* lack) noexcept nogil

cdef inline bint row_valid(const char* row, size_t n) noexcept nogil:
    """Whether these bytes can be a row of the catalogue."""
    return (((n == CATALOG_ROW and row[4] == BTREE_BACKEND) or (n == LSM_ROW and row[4] == LSM_BACKEND)) and get32(row) != CATALOG
            and <uint8_t>row[ROW_IMAGES] <= IMAGES_FULL and row[6] == 0 and row[7] == 0)

cdef inline int must_wait(Lack* l, Txn* owner) noexcept nogil:
    l.blocker = owner
    l.blocker_wakes = owner.wakes
    l.mode = 0
    return AGAIN

cdef inline int must_queue(Lack* l, Txn* owner, int mode, uint32_t keyspace, const Span* span) noexcept nogil:
    l.blocker = owner
    l.blocker_wakes = owner.wakes
    l.mode = mode
    l.unqueued = False
    l.keyspace = keyspace
    l.low = span.low
    l.low_len = span.low_len
    l.high = span.high
    l.high_len = span.high_len
    l.point = span.closed and span.low == span.high
    l.unbounded = span.unbounded
    return AGAIN

cdef void lack_init(Lack* l) noexcept nogil
