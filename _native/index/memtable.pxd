"""The memtable of an LSM-tree: a skip list in an arena, one node per key, its versions newest first (Pugh, Skip Lists, CACM 1990).

A link bears the first eight bytes of the key that it leads to, so that most comparisons of a search touch the node they start from and no other.  Nodes never
go; a node whose versions were all undone stays empty.  A Bloom filter, one cache line for a key, spares the search for keys that are not there.  A version in flight bears IN_FLIGHT and its transaction's number instead of a commit timestamp.

Everything is under the engine latch while the memtable is active; once sealed it is constant (law 12) and read without.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp
from .filter cimport filter_hash

cdef extern from *:
    """
    #define EL_IN_FLIGHT 0x8000000000000000ull
    """
    const uint64_t IN_FLIGHT "EL_IN_FLIGHT"

cdef enum:
    MEM_HEIGHT = 14              # with a quarter of the nodes going on at each level: good for hundreds of millions

cdef struct MemEntry:            # one version; its value's bytes follow
    MemEntry* older
    uint64_t ts                  # commit timestamp, or IN_FLIGHT | transaction
    uint64_t wall                # the commit's wall clock in microseconds where the keyspace keeps it, else 0
    uint32_t vlen
    uint8_t kind                 # EntryKind of sstable

cdef struct MemLink:
    MemNode* node
    uint64_t head                # of node's key; without a node: of no meaning

cdef struct MemNode:             # its links, then its key's bytes follow
    MemEntry* newest
    MemNode* prev
    uint32_t klen
    uint32_t height

cdef struct MemRange:            # a range of keys deleted; its two keys' bytes follow
    MemRange* next               # newest first
    uint64_t ts                  # as MemEntry.ts
    uint32_t start_len
    uint32_t stop_len
    bint unbounded

cdef struct MemChunk:
    MemChunk* next
    size_t size                  # bytes after this header
    size_t used

cdef struct MemSpares:           # of a tree, under the latch: large chunks that memtables have left, for the next ones. The system clears memory before
    MemChunk* first              # its first use, which takes milliseconds for one of these
    uint64_t bytes
    uint64_t most                # more are not kept

cdef struct MemTable:
    MemNode* head
    MemNode* tail[MEM_HEIGHT]    # the last node of each level
    int height
    MemChunk* arena
    uint64_t bytes               # of the arena's chunks
    uint64_t used                # of those, by nodes and versions
    uint64_t in_flight           # bytes, about, of nodes and versions whose transaction has not committed
    uint64_t entries             # versions linked
    uint64_t seed
    uint64_t* filter             # lines of eight words
    uint64_t filter_mask         # lines - 1
    MemRange* ranges
    uint64_t range_count
    uint64_t ranges_in_flight
    uint64_t first_lsn           # of the oldest change in it: recovery needs the log from there
    uint64_t seal_lsn            # once sealed: transactions that ended below are in it or in older ones, whole
    MemSpares* spares            # outlive it; or NULL
    MemTable* newer              # list of the sealed, oldest first

cdef inline MemLink* node_links(MemNode* n) noexcept nogil:
    return <MemLink*>(<char*>n + sizeof(MemNode))

cdef inline char* mem_key(MemNode* n) noexcept nogil:
    return <char*>n + sizeof(MemNode) + n.height * sizeof(MemLink)

cdef inline char* mem_value(MemEntry* e) noexcept nogil:
    return <char*>e + sizeof(MemEntry)

cdef inline char* range_start(MemRange* r) noexcept nogil:
    return <char*>r + sizeof(MemRange)

cdef inline char* range_stop(MemRange* r) noexcept nogil:
    return <char*>r + sizeof(MemRange) + r.start_len

cdef inline size_t version_bytes(size_t klen, size_t vlen) noexcept nogil:
    return sizeof(MemNode) + sizeof(MemLink) + sizeof(MemEntry) + klen + vlen

cdef inline MemEntry* mem_visible(MemEntry* e, uint64_t snapshot, uint64_t own) noexcept nogil:
    """The newest version that a reader at `snapshot` sees; `own` = IN_FLIGHT | its transaction, or 0."""
    while e != NULL and not (e.ts <= snapshot or (own != 0 and e.ts == own)):
        e = e.older
    return e

cdef inline bint range_covers(MemRange* r, const char* key, size_t klen) noexcept nogil:
    cdef int c = memcmp(range_start(r), key, r.start_len if r.start_len < klen else klen)
    if c > 0 or (c == 0 and r.start_len > klen):
        return False
    if r.unbounded:
        return True
    c = memcmp(key, range_stop(r), r.stop_len if r.stop_len < klen else klen)
    return c < 0 or (c == 0 and klen < r.stop_len)

# Whether a key of that filter_hash may be there.
cdef inline bint memtable_may_hold(const MemTable* m, uint64_t hash) noexcept nogil:
    cdef const uint64_t* line = m.filter + ((hash >> 32 & m.filter_mask) << 3)
    return (line[hash & 7] >> (hash >> 3 & 63) & line[hash >> 9 & 7] >> (hash >> 12 & 63) & 1) != 0

# size: bytes of versions it is meant for. NULL: no memory
cdef MemTable* memtable_new(uint64_t size, MemSpares* spares) noexcept nogil
cdef void memtable_free(MemTable* m) noexcept nogil
cdef void chunks_free(MemChunk* first) noexcept nogil
# Admission: makes sure that one more node and version (or range of klen + vlen bytes of keys) finds room. OK or E_NOMEM.
cdef int memtable_reserve(MemTable* m, size_t klen, size_t vlen) noexcept nogil
cdef MemNode* memtable_find(MemTable* m, const char* key, size_t klen) noexcept nogil
# The first node with a key >= / >, or the last <= / < (SEEK_* of place; key NULL with SEEK_GE / SEEK_LE: the first / last); empty nodes count. NULL: none.
cdef MemNode* memtable_seek(MemTable* m, const char* key, size_t klen, int mode) noexcept nogil
cdef inline MemNode* memtable_next(MemNode* n) noexcept nogil:
    return node_links(n)[0].node
cdef MemNode* memtable_prev(MemTable* m, MemNode* n) noexcept nogil
# After memtable_reserve: the version becomes the newest of its key. replace: it takes the place of the newest, which must be of the same ts.
cdef MemEntry* memtable_put(MemTable* m, const char* key, size_t klen, uint64_t ts, uint64_t wall, uint8_t kind, const char* value, size_t vlen,
                            bint replace) noexcept nogil
# The newest version of the key, which is of timestamp ts, goes.
cdef void memtable_pop(MemTable* m, const char* key, size_t klen, uint64_t ts) noexcept nogil
cdef MemRange* memtable_put_range(MemTable* m, const char* start, size_t start_len, const char* stop, size_t stop_len, bint unbounded,
                                  uint64_t ts) noexcept nogil
cdef void memtable_drop_range(MemTable* m, MemRange* r) noexcept nogil
# The newest range that covers the key and that a reader at snapshot sees: its ts, 0 for none; for own ranges `own`.
cdef uint64_t memtable_covering(MemTable* m, const char* key, size_t klen, uint64_t snapshot, uint64_t own) noexcept nogil
# Touches what the searches for these keys will touch, side by side, so that the waits for memory overlap.
cdef void memtable_warm(MemTable* m, const char** keys, const size_t* klens, int n) noexcept nogil
# The transaction of the version has committed.
cdef inline void memtable_stamp(MemTable* m, MemEntry* e, size_t klen, uint64_t ts, uint64_t wall) noexcept nogil:
    e.ts = ts
    e.wall = wall
    m.in_flight -= version_bytes(klen, e.vlen)
# NULL or what is wrong.
cdef const char* memtable_check(MemTable* m) noexcept nogil
