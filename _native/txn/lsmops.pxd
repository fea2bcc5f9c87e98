"""What transactions do to LSM-trees: reading and writing, stamping at commit, undo, sealing.

A change pushes a Version as for the B-tree, but without a before-image: older versions stay in the memtable.  The Version is the row's lock and the undo; its value is the
address of the memtable's entry (nothing for a lock alone).  Everything is under the engine latch.

A deleted range is one range tombstone in the memtable and a RangeLock, which does for its keys what Versions do for single ones: others wait for it, and lose to it if
it commits after their snapshot.  It meets the locks of single keys by looking through the changes that are not older than its snapshot, never through the tree.
"""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from ..index.lsm cimport LsmTree
from ..index.compaction cimport Horizon
from ..index.memtable cimport MemEntry
from .holds cimport Span
from .transaction cimport Found, Lack, TxnManager
from .versions cimport Txn, Version

cdef struct InFlight:           # what the Version of a change has for a value
    MemEntry* entry             # in the active memtable; NULL of a mere lock
    uint64_t needed             # recovery needs the log from there for it: its record, or the first chunk of its large value

# As TxnManager.read and write, for a keyspace that is an LSM-tree.
cdef int lsm_read(TxnManager m, Txn* t, LsmTree tree, const char* key, size_t klen, Found* out, Lack* lack) noexcept nogil
# As lsm_read for n keys of one reader at once: statuses[i], out[i]; the waits for memory overlap. Where something is lacking for one of them *n becomes the
# number of those before it; AGAIN when it is the first: what is fetched for one operation is not more than one key needs, whatever its values.
cdef int lsm_read_many(TxnManager m, Txn* t, LsmTree tree, const char** keys, const size_t* klens, int* n, Found* out, int* statuses,
                       Lack* lack) noexcept nogil
# (releases the latch) Logs a large value in chunks, before lsm_write links it with VALUE_BLOB and the number that comes back.
cdef int lsm_log_value(TxnManager m, Txn* t, const char* data, size_t n, uint64_t* number, Lack* lack) noexcept nogil
cdef int lsm_write(TxnManager m, Txn* t, LsmTree tree, int op, uint32_t keyspace, const char* key, size_t klen, const char* value, size_t vlen,
                   uint16_t flags, uint64_t blob_number, uint64_t lsn, Lack* lack) noexcept nogil
# In the latch hold that logs the commit: the transaction's versions get its timestamp.
cdef void lsm_commit(TxnManager m, Txn* t, uint64_t ts, uint64_t wall) noexcept nogil
# Deletes all keys in [start, stop), however many, with one record and one range tombstone: as lsm_write.
cdef int lsm_delete_range(TxnManager m, Txn* t, LsmTree tree, uint32_t keyspace, const char* start, size_t start_len, const char* stop, size_t stop_len,
                          bint unbounded, uint64_t lsn, Lack* lack) noexcept nogil
# As if t had changed every key in [start, stop), of either kind of tree: OK; AGAIN; E_CONFLICT; E_SERIALIZATION; E_NOMEM.
cdef int range_write(TxnManager m, Txn* t, uint32_t keyspace, const char* start, size_t start_len, const char* stop, size_t stop_len,
                     bint unbounded, Lack* lack) noexcept nogil
# Locks of ranges: whether the owner took any above an LSN; they are undone above it; it has committed; AGAIN with who has one in the keyspace; all are freed.
cdef bint ranges_above(TxnManager m, Txn* t, uint64_t lsn) noexcept nogil
cdef void ranges_undo(TxnManager m, Txn* t, uint64_t lsn) noexcept nogil
cdef void ranges_release(TxnManager m, Txn* t) noexcept nogil
cdef int ranges_in(TxnManager m, Txn* t, uint32_t keyspace, Lack* lack) noexcept nogil
# Whether another's deleted range is in the way of a change by t to these keys: OK; AGAIN; E_CONFLICT; closed: `stop` is one of them.
cdef int ranges_meet(TxnManager m, Txn* t, uint32_t keyspace, const char* start, size_t start_len, const char* stop, size_t stop_len, bint closed,
                     bint unbounded, Lack* lack) noexcept nogil
# Whether another's uncommitted deletion (or load) meets the span: the lack says whose. And what a serializable reader of the span was not shown of them.
cdef bint ranges_block(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Lack* lack) noexcept nogil
# A prepared transaction that has deleted some of it, or NULL.
cdef Txn* ranges_prepared(TxnManager m, uint32_t keyspace, const Span* span) noexcept nogil
cdef int ranges_missed(TxnManager m, Txn* t, uint32_t keyspace, const Span* span) noexcept nogil
cdef void ranges_free(TxnManager m) noexcept nogil
# (releases the latch) Waits for an LSM-tree's background work, for so many microseconds or (0) until it got on; where no thread does it, does a piece of it.
cdef int catch_up(TxnManager m, Txn* t, LsmTree tree, int64_t delay) noexcept nogil
# Takes back the change that the version stands for.
cdef void lsm_undo(TxnManager m, Version* v) noexcept nogil
# Seals the active memtable; what is in flight moves on. OK; E_NOMEM: nothing has changed.
cdef int lsm_seal(TxnManager m, LsmTree tree) noexcept nogil
# What live and future snapshots may still ask for.
cdef void lsm_horizon(TxnManager m, Horizon* h) noexcept nogil
# How the transaction's versions in flight are marked; 0 for none.
cdef uint64_t lsm_mark(const Txn* t) noexcept nogil
# The wall clock, which never goes back here.
cdef uint64_t wall_now(TxnManager m) noexcept nogil
# What a reader holds against expiry: fixed when it first asks.
cdef uint64_t wall_of(TxnManager m, Txn* t) noexcept nogil
