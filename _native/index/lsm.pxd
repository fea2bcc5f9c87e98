"""The LSM-tree: memtables in memory, sorted tables on disk (O'Neil, Cheng, Gawlick, O'Neil, The log-structured merge-tree, Acta Informatica 1996).

Data flow: a write goes into the active memtable, in flight at first and stamped with its commit timestamp in the latch hold that logs the commit.  A full memtable is
sealed: what is in flight moves on to the next one, so a sealed one holds committed versions only and never changes again.  `compaction` writes sealed memtables
to tables, and tables to fewer tables, without the latch; what came of it is an edit, logged and applied in one latch hold.

A read looks in the active memtable, the sealed ones, level 0 and the levels below, and stops at the first version that its snapshot sees: for one key, whatever
lies further up is newer.  Operations follow the contract of the B-tree: one latch hold, AGAIN with the lack noted (a block) and nothing changed.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from ..base.latch cimport Latch
from ..base.vfs cimport Vfs
from ..log.writer cimport LogWriter
from ..page.pool cimport Pool, PoolCore
from .memtable cimport MemTable, MemEntry, MemRange, MemSpares
from .sstable cimport BlockNeed, Entry
from .tableset cimport Edit, TableFile, TableSet

cdef enum CompactionStyle:          # on disk: never change
    LEVELED = 0
    SIZE_TIERED = 1

cdef struct LsmOptions:             # of one keyspace, kept in its row of the catalogue
    uint64_t memtable_size          # bytes of committed versions after which a memtable is sealed
    uint64_t ttl                    # microseconds after its commit at which a record expires; 0: never
    uint64_t table_size             # bytes of a table in levels 1 and below
    uint32_t bits_per_key           # of Bloom filters
    uint8_t style                   # CompactionStyle
    uint8_t compression             # Compression of sstable

cdef struct Tally:                  # what was done since the tree was opened
    uint64_t seals
    uint64_t flushes
    uint64_t compactions
    uint64_t trivial_moves
    uint64_t bytes_put
    uint64_t bytes_flushed
    uint64_t bytes_compacted_in
    uint64_t bytes_compacted_out
    uint64_t stalls                 # waits of writers that were stopped
    uint64_t slowdowns
    uint64_t stall_micros
    uint64_t slowdown_micros
    uint64_t filter_skips           # tables that a look-up was spared
    uint64_t table_reads

cdef enum:
    LSM_RECORD_MOST = 256 * 1024    # bytes of a value that goes into the log in one record; longer ones go in chunks
    SEALED_MOST = 4                 # memtables waiting to be written, beyond which writers wait
    RUNS_SLOW = 20                  # runs in level 0 from which on writers are slowed,
    RUNS_STOP = 36                  # and at which they wait
    RANGES_MOST = 256               # deleted ranges in a memtable
    RUNS_COMPACT = 4                # runs in level 0 that are worth a compaction

cdef class LsmTree:
    # constant after construction
    cdef readonly uint32_t id
    cdef readonly uint32_t max_key
    cdef readonly uint32_t max_inline
    cdef LsmOptions options
    cdef Pool pool
    cdef PoolCore* core
    cdef Vfs vfs
    cdef bytes directory_bytes
    cdef const char* directory      # .../lsm/<id>
    # under the latch
    cdef MemSpares spares
    cdef MemTable* active
    cdef MemTable* oldest_sealed
    cdef MemTable* newest_sealed
    cdef int sealed_count
    cdef TableSet* set
    cdef TableFile* dead            # files to be closed and unlinked once the log is durable up to dead_lsn
    cdef uint64_t dead_lsn
    cdef uint64_t persisted_lsn     # transactions that ended below are in tables, whole
    cdef uint64_t next_number
    cdef uint64_t mem_ranges        # range tombstones in memtables
    cdef bint made                  # its directory exists, durably
    cdef int damaged                # E_CORRUPT: a table is missing or damaged (allow_damaged)
    cdef char damage[512]
    cdef int last_failure           # of the newest flush: 0, or why it failed
    cdef bint flushing              # a thread is writing the oldest sealed memtable
    cdef int compacting             # compactions under way
    cdef int loading                # bulk loads about to add their tables: no new compaction meanwhile
    cdef bint doomed                # it was dropped: no more work
    cdef int64_t next_put           # while writers are slowed: when the next may go on (monotonic microseconds)
    cdef Tally tally

    cdef int start(self) noexcept nogil                      # an empty tree; E_NOMEM
    # latch. The newest version at `snapshot` (own: IN_FLIGHT | transaction or 0): OK, ABSENT (deleted and expired ones too), AGAIN, E_CORRUPT.
    cdef int find(self, const char* key, size_t klen, uint64_t snapshot, uint64_t own, uint64_t now, Entry* out, BlockNeed* need) noexcept nogil
    # latch. Asks memory for what look-ups of these keys will touch in the tables.
    cdef void prefetch(self, const char** keys, const size_t* klens, int n) noexcept nogil
    # latch. Whether memory for one more version is there; OK, E_NOMEM.
    cdef int admit(self, size_t klen, size_t vlen) noexcept nogil
    # latch, after admit. Cannot fail.
    cdef MemEntry* put(self, const char* key, size_t klen, uint64_t ts, uint64_t wall, uint8_t kind, const char* value, size_t vlen, bint replace,
                       uint64_t lsn) noexcept nogil
    # latch, after admit for both keys. Deletes the older versions of all keys in [start, stop). Cannot fail.
    cdef MemRange* put_range(self, const char* start, size_t start_len, const char* stop, size_t stop_len, bint unbounded, uint64_t ts,
                             uint64_t lsn) noexcept nogil
    cdef void drop_range(self, MemRange* r) noexcept nogil   # latch: one in the active memtable is taken back
    cdef void range_committed(self) noexcept nogil           # latch: one in the active memtable is in flight no more
    cdef bint full(self) noexcept nogil                      # latch: the active memtable is worth sealing
    # latch. The active memtable joins the sealed ones, `next` becomes the active one; the caller moves what is in flight.
    cdef void seal(self, MemTable* next, uint64_t lsn) noexcept nogil
    cdef uint64_t log_needed(self) noexcept nogil            # latch: from which LSN on recovery needs the log for it
    cdef uint64_t memory(self) noexcept nogil                # latch: bytes in memtables
    # latch. Logs the edit (txn not 0: it holds if that transaction commits) and applies it: OK; E_LOG, E_NOMEM, E_FULL: nothing has changed. (Releases the latch before, to find room in the log.)
    cdef int install(self, LogWriter log, Edit* e, uint64_t txn) noexcept nogil
    # latch; in recovery: applies an edit that was logged.
    cdef int restore(self, Edit* e) noexcept nogil
    cdef void describe(self, Edit* e) noexcept nogil         # latch: all of it as one edit
    cdef void path_of(self, uint64_t number, char* out) noexcept nogil       # 512 bytes
    cdef int open_tables(self, bint allow_damaged) noexcept nogil            # no latch, no other thread
    cdef void release(self) noexcept nogil                   # latch: it was dropped; its files become dead, its memory is freed
    cdef int damage_status(self) noexcept nogil
    cdef bint dead_end(self, const Entry* e, const char* key, size_t klen, uint64_t snapshot, uint64_t own, uint64_t now) noexcept nogil
