"""Versions: before-images of keys, in memory, for as long as some snapshot may need them.

A change puts the new value in the tree and a Version here: what the key held before, who replaced it, and the version before that.  The versions of
one key form a chain, newest first, found through a hash table; those of one transaction form a list, newest first, which rollback walks.
A version's owner decides its visibility: a reader that sees the owner's commit takes what lies above it, one that does not takes the before-image and
looks further down.  Memory comes from the owner's arena and goes when the owner's last version has gone.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcmp
from ..base.latch cimport Condition
from ..index.memtable cimport MemRange
from .holds cimport Holder

cdef enum TxnState:
    TXN_ACTIVE = 0
    TXN_COMMITTING = 1          # its commit record is in the log; locks held until it is visible
    TXN_COMMITTED = 2
    TXN_ABORTING = 3            # its abort record is in the log; undo under way
    TXN_ABORTED = 4
    TXN_UNKNOWN = 5             # the log failed under its commit record
    TXN_PREPARED = 6            # its prepare record is in the log: it ends as somebody says who knows its xid, and cannot be aborted otherwise

cdef enum Level:                # isolation, as begin() takes it
    READ_COMMITTED = 0          # each statement reads the newest committed state; changes never lose
    SNAPSHOT = 1
    SERIALIZABLE = 2            # a snapshot, and reads are remembered
    LOCKING = 3                 # reads lock: the newest state, which stays
    SERIAL = 4                  # alone among those that write

cdef enum VersionFlag:
    BEFORE_ABSENT = 1           # there was no such key
    BEFORE_BLOB = 2             # the before-image is a blob reference; the version keeps the blob alive
    LEFT_GHOST = 4              # the change was a deletion: its ghost goes with this version
    LOCK_ONLY = 8               # nothing was changed: the row is locked by it, that is all
    COMMUTES = 16               # locked for an operation that takes the newest value whatever the snapshot: reading the row ends that

cdef struct Arena:
    Arena* next
    size_t size                 # bytes after this header
    size_t used

cdef struct Version:
    Version* older              # same key
    Version* bucket             # next chain of the same hash bucket; meaningful in a chain's head only
    Version* previous           # same transaction
    Txn* owner
    uint64_t lsn                # of the change whose before-image this is
    uint64_t hash
    uint32_t keyspace
    uint32_t klen
    uint32_t vlen
    uint16_t flags
    uint16_t linked             # 1 while in the table
    # key bytes, then value bytes

cdef struct RangeLock:          # a range of keys of an LSM-tree that a transaction has deleted, or loads; its two keys' bytes follow
    RangeLock* next             # newest first
    Txn* owner                  # while it has not committed; NULL from then on, until no snapshot is older
    Sxact* sx                   # of a serializable owner, for as long as it is known
    uint64_t commit_ts
    uint64_t lsn
    MemRange* range             # while a deletion is in flight: its range tombstone in the active memtable,
    MemRange* moved             # and while that is being sealed the one in the next
    uint32_t keyspace
    uint32_t start_len
    uint32_t stop_len
    bint unbounded

cdef struct Conflict:           # a read-write conflict
    Conflict* next_out          # of the same reader
    Conflict* next_in           # of the same writer
    Sxact* reader
    Sxact* writer

cdef struct Sxact:              # what serializable snapshot isolation knows of a transaction; see conflicts.pxd
    Txn* txn                    # NULL once its structure has gone
    uint64_t number             # of the transaction
    uint64_t snapshot
    uint64_t commit_ts          # 0: it has not committed
    uint64_t earliest_out       # least commit timestamp of those it has a conflict out to; never: the greatest number
    uint64_t in_commit          # of the committed ones that have a conflict out to it: greatest commit timestamp of those that wrote,
    uint64_t in_snapshot        # and greatest snapshot of those that only read. More of them matters to nobody
    uint64_t pending            # of a read-only one: concurrent writers whose end decides whether its snapshot is safe
    bint read_only              # declared, or committed without a change
    bint declared               # read-only by declaration
    bint doomed
    bint prepared               # it cannot be doomed any more
    bint recovered              # prepared, and its conflicts are not known: it counts as having some, in and out
    bint over                   # committed or aborted
    bint safe                   # nothing can go wrong with its snapshot: no reads are remembered
    bint unsafe                 # something can
    bint predicates             # some are remembered of it
    bint covers                 # some of the ranges it has read stand for predicates
    Conflict* outs
    Conflict* ins
    Holder reads
    Sxact* next                 # of those active: by age; of those that committed: by commit
    Sxact* back

cdef struct Request:            # what a waiting transaction waits to lock: later ones queue behind it
    Txn* next                   # in the order of arrival
    uint64_t ticket             # 0: it has no place in the queue; the rest still says what the last wait was for
    uint32_t keyspace
    int mode                    # a HoldMode; 0: the place of serial execution, or a keyspace as a whole
    char* bytes                 # low, then high
    size_t room
    uint32_t low_len
    uint32_t high_len
    bint point
    bint unbounded

cdef enum:
    LONGEST_CYCLE = 16          # of what is told about one
    LINK_KEY = 64

cdef struct Link:               # of a cycle of waits: who waits for whom, and for what
    uint64_t waiter
    uint64_t holder
    uint32_t keyspace
    int mode
    uint32_t klen               # at most LINK_KEY bytes of the key, or of the lower bound of the range
    bint point
    char key[64]

cdef struct Promise:            # of a prepared transaction; its xid's bytes follow, then its locks as prepared.pxd encodes them
    Txn* next                   # of those prepared, in the order of preparing
    uint64_t lsn                # of its prepare record
    uint64_t wall               # when, in microseconds since 1970
    uint32_t xid_len
    size_t locks_len
    bint ending                 # a thread is about to end it

cdef struct Savepoint:
    uint64_t lsn                # changes above it are undone by a rollback to it

cdef struct Txn:
    # constant after begin
    uint64_t snapshot           # commit timestamp read at
    uint64_t safe_lsn           # a page whose mark is below holds nothing this snapshot must not see
    int64_t lock_timeout        # microseconds, negative: for ever
    int durability
    int level                   # a Level
    uint64_t number             # for people: given at begin
    bint read_only
    # under the latch
    uint64_t id                 # 0 until the first write
    uint64_t first_lsn          # of its first record
    uint64_t last_lsn
    uint64_t commit_ts
    uint64_t commit_lsn         # end of its commit record
    uint64_t undo_to            # while undoing: changes above it are to go
    uint64_t blob_lsn           # first chunk of a large value not yet linked, or 0: the log is kept from there
    uint64_t blobs              # large values begun, numbers them
    uint64_t blob_pid           # large value being written, not yet linked
    uint64_t image_lsn          # last piece of a large before-image whose change is not logged yet, or 0
    uint64_t image_length       # of all its pieces
    uint64_t writes             # changes made and undone: cursors compare it
    uint64_t keyspaces          # bit per keyspace id (mod 64) it has changed
    int state
    int doomed                  # a Status to die of at the next step (deadlock victim, closing)
    bint in_snapshots
    bint snapshot_lost          # the version budget took it away
    bint in_writers
    bint catalog                # it has changed the catalogue
    bint locks                  # it has versions that only lock their row
    bint undoing
    bint lsm                    # it has changed an LSM-tree
    bint ranges                 # it has RangeLocks
    uint64_t wall               # wall clock that it judges expiry by, in microseconds; 0 until it first does
    Version* newest
    uint64_t live               # versions still allocated
    uint64_t bytes              # of its arena
    Arena* arena
    Savepoint* savepoints
    int depth
    int savepoint_room
    Txn* snap_prev
    Txn* snap_next
    Txn* writer_prev
    Txn* writer_next
    Txn* queue_next             # commit queue, then garbage queue, then free list
    bint in_garbage
    bint handle                 # a Python handle still points here
    # waiting
    Txn* waiting_for
    Txn* waiters                # those waiting for this one
    Txn* wait_next
    int64_t deadline
    Condition cond
    Txn* orphan_next            # handles dropped without commit or abort, queued without the latch
    Request request             # while it waits
    bint no_wait                # E_TIMEOUT at once instead of a wait
    bint commuting              # the operation at hand takes its row's newest value
    bint commutes               # it has versions marked COMMUTES
    bint apart                  # the read at hand asks for no isolation
    bint watched                # its reads are looked after: any level but SNAPSHOT, or `commutes`
    bint predicates             # it has locked some
    bint covers                 # some of the ranges it has locked stand for predicates
    uint64_t met                # number of the transaction of whose ranges, where they may stand for predicates, the write at hand met one; 0: none
    bint serial_place           # it has, or is about to have, the place of serial execution
    Link* cycle                 # the cycle of waits that it was chosen to break
    int cycle_length
    int64_t waits_since         # monotonic, in microseconds
    Sxact* sx                   # serializable ones
    Holder holds                # locks on keys and ranges that it has not changed
    Promise* promise            # once it is prepared
    uint64_t wakes              # begun anew, or let rows go: who was about to wait for it looks again

cdef enum:
    SPARE_SIZES = 8             # 2 KiB to 256 KiB

cdef struct VersionTable:
    Version** buckets
    uint64_t mask
    uint64_t chains             # keys with versions
    uint64_t live               # versions in the table
    uint64_t locks              # those among them that only lock their row: the tree need not hold such a key
    uint64_t bytes              # of all arenas in use
    Arena* spares[SPARE_SIZES]  # arenas not in use, by size
    uint64_t spare_bytes

cdef int table_init(VersionTable* t) noexcept nogil
cdef void table_destroy(VersionTable* t) noexcept nogil
# Admission: makes sure that one more version of klen + vlen bytes can be pushed for the transaction. OK or E_NOMEM.
cdef int table_reserve(VersionTable* t, Txn* txn, size_t klen, size_t vlen) noexcept nogil
# After table_reserve. `head` is the present chain head of the key (table_find) or NULL.
cdef Version* table_push(VersionTable* t, Txn* txn, Version* head, uint64_t hash, uint32_t keyspace, const char* key, size_t klen,
                         uint16_t flags, const char* value, size_t vlen, uint64_t lsn) noexcept nogil
# Takes a version out of its key's chain. The memory stays with the owner's arena.
cdef void table_unlink(VersionTable* t, Version* v) noexcept nogil
# Gives the owner's arena back once it has no versions left.
cdef void arena_release(VersionTable* t, Txn* txn) noexcept nogil

cdef inline char* version_key(Version* v) noexcept nogil:
    return <char*>v + sizeof(Version)

cdef inline char* version_value(Version* v) noexcept nogil:
    return <char*>v + sizeof(Version) + v.klen

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* Multiply-and-fold over eight bytes at a time; in memory only, so it may differ between machines. */
    static inline uint64_t el_mix(uint64_t a, uint64_t b) {
        unsigned __int128 r = (unsigned __int128)a * b;
        return (uint64_t)r ^ (uint64_t)(r >> 64);
    }
    static inline uint64_t el_hash(uint64_t seed, const char* p, size_t n) {
        uint64_t h = (seed + 0x9E3779B97F4A7C15ull) ^ (n * 0xD6E8FEB86659FD93ull), v = 0;
        while (n > 8) { memcpy(&v, p, 8); h = el_mix(h ^ v, 0xA0761D6478BD642Full); p += 8; n -= 8; }
        v = 0; memcpy(&v, p, n);
        return el_mix(h ^ v, 0xE7037ED1A0B428DBull);
    }
    """
    uint64_t hash_key "el_hash"(uint64_t seed, const char* p, size_t n) noexcept nogil

cdef inline Version* table_find(VersionTable* t, uint64_t hash, uint32_t keyspace, const char* key, size_t klen) noexcept nogil:
    """The newest version of the key, or NULL."""
    cdef Version* v = t.buckets[hash & t.mask]
    while v != NULL:
        if v.hash == hash and v.keyspace == keyspace and v.klen == klen and memcmp(version_key(v), key, klen) == 0:
            return v
        v = v.bucket
    return NULL

cdef inline void not_lock_only(VersionTable* t, Version* v) noexcept nogil:
    """The locked row has been changed."""
    if v.flags & LOCK_ONLY:
        v.flags &= ~LOCK_ONLY
        t.locks -= 1

cdef inline bint loses_to(const Txn* t, uint64_t commit_ts) noexcept nogil:
    """Whether a change committed at that time is in the way of one by t: first committer wins."""
    return commit_ts > t.snapshot and not t.commuting and (t.level == SNAPSHOT or t.level == SERIALIZABLE)

cdef inline bint sees(Txn* reader, uint64_t snapshot, Txn* owner) noexcept nogil:
    """Whether a reader at that snapshot sees the owner's changes (its own always)."""
    if owner == reader:
        return True
    return owner.state == TXN_COMMITTED and owner.commit_ts <= snapshot

cdef inline Version* select_version(Txn* reader, uint64_t snapshot, Version* head) noexcept nogil:
    """The version whose before-image the reader must take, or NULL: what the tree holds is right."""
    cdef Version* chosen = NULL
    while head != NULL and not sees(reader, snapshot, head.owner):
        chosen = head
        head = head.older
    return chosen
