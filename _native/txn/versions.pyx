"""The version table: see versions.pxd.  Everything here is under the engine latch."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, malloc, free
from libc.string cimport memcpy, memset
from ..base.status cimport OK, E_NOMEM, fail

cdef enum:
    FIRST_ARENA = 1024
    LARGEST_ARENA = 256 * 1024
    SPARE_BYTES = 1 << 20       # arenas kept for the next transactions
    FIRST_BUCKETS = 1024


cdef int table_init(VersionTable* t) noexcept nogil:
    t.buckets = <Version**>calloc(FIRST_BUCKETS, sizeof(Version*))
    if t.buckets == NULL:
        return fail(E_NOMEM, "no memory for the version table")
    t.mask = FIRST_BUCKETS - 1
    t.chains = t.live = t.locks = t.bytes = t.spare_bytes = 0
    memset(t.spares, 0, sizeof(t.spares))
    return OK


cdef void table_destroy(VersionTable* t) noexcept nogil:
    cdef Arena* a
    cdef int i
    for i in range(SPARE_SIZES):
        while t.spares[i] != NULL:
            a = t.spares[i]
            t.spares[i] = a.next
            free(a)
    t.spare_bytes = 0
    free(t.buckets)
    t.buckets = NULL


cdef int grow(VersionTable* t) noexcept nogil:
    cdef uint64_t n = (t.mask + 1) * 4, i, slot
    cdef Version** buckets = <Version**>calloc(n, sizeof(Version*))
    cdef Version* v
    cdef Version* following
    if buckets == NULL:
        return OK               # longer buckets for now; never a reason to fail
    for i in range(t.mask + 1):
        v = t.buckets[i]
        while v != NULL:
            following = v.bucket
            slot = v.hash & (n - 1)
            v.bucket = buckets[slot]
            buckets[slot] = v
            v = following
    free(t.buckets)
    t.buckets = buckets
    t.mask = n - 1
    return OK


cdef inline size_t footprint(size_t klen, size_t vlen) noexcept nogil:
    return (sizeof(Version) + klen + vlen + 7) & ~<size_t>7


cdef inline int spare_list(size_t size) noexcept nogil:
    """Which list of spare arenas one of that size belongs in: a power of two from 2 * FIRST_ARENA to LARGEST_ARENA; else -1."""
    cdef int i
    for i in range(SPARE_SIZES):
        if size == <size_t>(2 * FIRST_ARENA) << i:
            return i
    return -1


cdef Arena* take_arena(VersionTable* t, size_t size) noexcept nogil:
    cdef int i = spare_list(size)
    cdef Arena* a
    if i >= 0 and t.spares[i] != NULL:
        a = t.spares[i]
        t.spares[i] = a.next
        t.spare_bytes -= size
    else:
        a = <Arena*>malloc(sizeof(Arena) + size)
        if a == NULL:
            return NULL
        a.size = size
    a.used = 0
    return a


cdef void drop_arena(VersionTable* t, Arena* a) noexcept nogil:
    """Keeps it for the next transaction while there are few: given back to the allocator, its pages would go back to the system at the
    end of each large transaction, and be cleared and mapped again in the next."""
    cdef int i = spare_list(a.size)
    t.bytes -= a.size
    if i >= 0 and t.spare_bytes + a.size <= SPARE_BYTES:
        a.next = t.spares[i]
        t.spares[i] = a
        t.spare_bytes += a.size
    else:
        free(a)


cdef int table_reserve(VersionTable* t, Txn* txn, size_t klen, size_t vlen) noexcept nogil:
    cdef size_t need = footprint(klen, vlen), size
    cdef Arena* a = txn.arena
    if t.chains > t.mask:
        grow(t)
    if a != NULL and a.size - a.used >= need:
        return OK
    size = FIRST_ARENA if a == NULL else a.size * 2
    if size > LARGEST_ARENA:
        size = LARGEST_ARENA
    if size < need:
        size = need
    a = take_arena(t, size)
    if a == NULL:
        return fail(E_NOMEM, "no memory for the before-image of a change")
    a.next = txn.arena
    txn.arena = a
    txn.bytes += size
    t.bytes += size
    return OK


cdef Version* table_push(VersionTable* t, Txn* txn, Version* head, uint64_t hash, uint32_t keyspace, const char* key, size_t klen,
                         uint16_t flags, const char* value, size_t vlen, uint64_t lsn) noexcept nogil:
    cdef Arena* a = txn.arena
    cdef Version* v = <Version*>(<char*>a + sizeof(Arena) + a.used)
    cdef Version** p
    a.used += footprint(klen, vlen)
    v.owner = txn
    v.lsn = lsn
    v.hash = hash
    v.keyspace = keyspace
    v.klen = <uint32_t>klen
    v.vlen = <uint32_t>vlen
    v.flags = flags
    v.linked = 1
    memcpy(version_key(v), key, klen)
    if vlen:
        memcpy(version_value(v), value, vlen)
    v.previous = txn.newest
    txn.newest = v
    txn.live += 1
    v.older = head
    p = &t.buckets[hash & t.mask]
    if head == NULL:
        v.bucket = p[0]
        t.chains += 1
    else:                        # takes the head's place in the bucket
        while p[0] != head:
            p = &p[0].bucket
        v.bucket = head.bucket
        head.bucket = NULL
    p[0] = v
    t.live += 1
    t.locks += (flags & LOCK_ONLY) != 0
    return v


cdef void table_unlink(VersionTable* t, Version* v) noexcept nogil:
    cdef Version** p = &t.buckets[v.hash & t.mask]
    cdef Version* c
    while p[0] != NULL:
        c = p[0]
        if c == v:
            if v.older != NULL:
                v.older.bucket = v.bucket
                p[0] = v.older
            else:
                p[0] = v.bucket
                t.chains -= 1
            break
        if c.hash == v.hash:
            while c.older != NULL and c.older != v:
                c = c.older
            if c.older == v:
                c.older = v.older
                break
        p = &p[0].bucket
    v.linked = 0
    v.older = NULL
    v.bucket = NULL
    t.live -= 1
    t.locks -= (v.flags & LOCK_ONLY) != 0
    v.owner.live -= 1


cdef void arena_release(VersionTable* t, Txn* txn) noexcept nogil:
    cdef Arena* a = txn.arena
    cdef Arena* following
    if a == NULL:
        return
    # The smallest arena stays with the transaction's structure, which is used again: a small transaction then allocates nothing.
    while a.next != NULL:
        following = a.next
        drop_arena(t, a)
        a = following
    if a.size > FIRST_ARENA:
        drop_arena(t, a)
        a = NULL
    else:
        a.used = 0
    txn.arena = a
    txn.bytes = a.size if a != NULL else 0
    txn.newest = NULL
