"""The memtable: see memtable.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memcmp
from ..base.coding cimport compare_bytes
from ..base.status cimport OK, E_NOMEM, fail
from .node cimport be64, prefetch
from .place cimport SEEK_GE, SEEK_GT, SEEK_LE

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void* addr, size_t length, int advice)

cdef extern from "<stdlib.h>" nogil:
    void* aligned_alloc(size_t alignment, size_t size)

cdef extern from *:
    """
    #ifndef MADV_HUGEPAGE
    #define MADV_HUGEPAGE 14
    #endif
    """
    enum: MADV_HUGEPAGE

cdef enum:
    FIRST_CHUNK = 16 * 1024
    HUGE_CHUNK = 2 * 1024 * 1024
    WARM_MOST = 32
    FILTER_SHARE = 64              # bytes of versions for one byte of the filter
    FILTER_LEAST = 1024
    FILTER_MOST = 16 * 1024 * 1024


cdef inline uint64_t key_head8(const char* key, size_t klen) noexcept nogil:
    """The first eight bytes, big-endian, zero-padded."""
    cdef uint64_t h = 0
    cdef size_t i
    if klen >= 8:
        return be64(key)
    for i in range(klen):
        h |= <uint64_t>(<uint8_t>key[i]) << (56 - 8 * i)
    return h


cdef inline bint leads_below(MemLink* link, uint64_t head, const char* key, size_t klen) noexcept nogil:
    """Whether the link leads to a key below the one given."""
    if link.node == NULL:
        return False
    if link.head != head:
        return link.head < head
    return compare_bytes(mem_key(link.node), link.node.klen, key, klen) < 0


cdef inline size_t entry_size(size_t vlen) noexcept nogil:
    return (sizeof(MemEntry) + vlen + 7) & ~<size_t>7


cdef inline size_t node_size(size_t klen, int height) noexcept nogil:
    return (sizeof(MemNode) + height * sizeof(MemLink) + klen + 7) & ~<size_t>7


cdef MemTable* memtable_new(uint64_t size, MemSpares* spares) noexcept nogil:
    cdef MemTable* m = <MemTable*>calloc(1, sizeof(MemTable))
    cdef uint64_t filter = FILTER_LEAST
    cdef int i
    if m == NULL:
        return NULL
    while filter * FILTER_SHARE < size and filter < FILTER_MOST:
        filter *= 2
    m.filter_mask = filter // 64 - 1
    m.filter = <uint64_t*>calloc(1, filter)          # a large one is touched only as keys come
    m.head = <MemNode*>calloc(1, node_size(0, MEM_HEIGHT))
    if m.head == NULL or m.filter == NULL:
        free(m.filter)
        free(m.head)
        free(m)
        return NULL
    m.head.height = MEM_HEIGHT
    m.spares = spares
    m.height = 1
    m.seed = 0x9E3779B97F4A7C15
    m.seal_lsn = m.first_lsn = <uint64_t>-1
    for i in range(MEM_HEIGHT):
        m.tail[i] = m.head
    return m


cdef void memtable_free(MemTable* m) noexcept nogil:
    cdef MemChunk* c
    if m == NULL:
        return
    while m.arena != NULL:
        c = m.arena
        m.arena = c.next
        if m.spares != NULL and c.size + sizeof(MemChunk) == HUGE_CHUNK and m.spares.bytes + HUGE_CHUNK <= m.spares.most:
            c.next = m.spares.first
            m.spares.first = c
            m.spares.bytes += HUGE_CHUNK
        else:
            free(c)
    free(m.filter)
    free(m.head)
    free(m)


cdef void chunks_free(MemChunk* first) noexcept nogil:
    cdef MemChunk* c
    while first != NULL:
        c = first
        first = c.next
        free(c)


cdef int memtable_reserve(MemTable* m, size_t klen, size_t vlen) noexcept nogil:
    cdef size_t need = node_size(klen, MEM_HEIGHT) + entry_size(vlen) + sizeof(MemRange), size
    cdef MemChunk* c = m.arena
    if c != NULL and c.size - c.used >= need:
        return OK
    size = FIRST_CHUNK if c == NULL else (c.size + sizeof(MemChunk)) * 4
    if size > HUGE_CHUNK:
        size = HUGE_CHUNK
    if size < need + sizeof(MemChunk):
        size = need + sizeof(MemChunk)
    if size == HUGE_CHUNK and m.spares != NULL and m.spares.first != NULL:
        c = m.spares.first
        m.spares.first = c.next
        m.spares.bytes -= HUGE_CHUNK
    elif size == HUGE_CHUNK:
        c = <MemChunk*>aligned_alloc(HUGE_CHUNK, HUGE_CHUNK)
        if c != NULL:
            madvise(c, HUGE_CHUNK, MADV_HUGEPAGE)
    else:
        c = <MemChunk*>malloc(size)
    if c == NULL:
        return fail(E_NOMEM, "no memory for the memtable")
    c.size = size - sizeof(MemChunk)
    c.used = 0
    c.next = m.arena
    m.arena = c
    m.bytes += size
    return OK


cdef inline char* take(MemTable* m, size_t n) noexcept nogil:
    cdef MemChunk* c = m.arena
    cdef char* p = <char*>c + sizeof(MemChunk) + c.used
    c.used += n
    m.used += n
    return p


cdef inline MemNode* last_below(MemTable* m, uint64_t head, const char* key, size_t klen, MemNode** before) noexcept nogil:
    """The last node with a key below the one given (the list's head if there is none); at each level, if `before` is given."""
    cdef MemNode* n = m.head
    cdef MemLink* link
    cdef int level = m.height - 1
    while True:
        link = &node_links(n)[level]
        if leads_below(link, head, key, klen):
            n = link.node
            prefetch(<char*>n + 64)
            continue
        if before != NULL:
            before[level] = n
        if level == 0:
            return n
        level -= 1


cdef MemNode* memtable_find(MemTable* m, const char* key, size_t klen) noexcept nogil:
    cdef uint64_t head = key_head8(key, klen)
    cdef MemLink* link = &node_links(last_below(m, head, key, klen, NULL))[0]
    if link.node != NULL and link.head == head and link.node.klen == klen and memcmp(mem_key(link.node), key, klen) == 0:
        return link.node
    return NULL


cdef MemNode* memtable_prev(MemTable* m, MemNode* n) noexcept nogil:
    return n.prev if n.prev != m.head else NULL


cdef MemNode* memtable_seek(MemTable* m, const char* key, size_t klen, int mode) noexcept nogil:
    cdef MemNode* n
    cdef MemNode* at
    cdef bint equal
    if key == NULL:
        if mode == SEEK_GE or mode == SEEK_GT:
            return node_links(m.head)[0].node
        return m.tail[0] if m.tail[0] != m.head else NULL
    n = last_below(m, key_head8(key, klen), key, klen, NULL)
    at = node_links(n)[0].node
    equal = at != NULL and at.klen == klen and memcmp(mem_key(at), key, klen) == 0
    if mode == SEEK_GE:
        return at
    if mode == SEEK_GT:
        return node_links(at)[0].node if equal else at
    if mode == SEEK_LE and equal:
        return at
    return n if n != m.head else NULL


cdef inline int random_height(MemTable* m) noexcept nogil:
    cdef int height = 1
    cdef uint64_t bits
    m.seed ^= m.seed << 13
    m.seed ^= m.seed >> 7
    m.seed ^= m.seed << 17
    bits = m.seed >> 20
    while height < MEM_HEIGHT and bits & 3 == 0:
        height += 1
        bits >>= 2
    return height


cdef MemEntry* memtable_put(MemTable* m, const char* key, size_t klen, uint64_t ts, uint64_t wall, uint8_t kind, const char* value, size_t vlen,
                            bint replace) noexcept nogil:
    cdef MemNode* before[MEM_HEIGHT]
    cdef MemNode* n
    cdef MemEntry* e
    cdef MemLink* link
    cdef MemLink* links
    cdef uint64_t head = key_head8(key, klen), hash
    cdef uint64_t* line
    cdef int i, height
    n = m.tail[0]
    if n != m.head and compare_bytes(mem_key(n), n.klen, key, klen) < 0:
        for i in range(m.height):                    # beyond all others: an ascending load searches nothing
            before[i] = m.tail[i]
        n = NULL
    else:
        link = &node_links(last_below(m, head, key, klen, before))[0]
        n = link.node
        if n != NULL and not (link.head == head and n.klen == klen and memcmp(mem_key(n), key, klen) == 0):
            n = NULL
    if n == NULL:
        height = random_height(m)
        while m.height < height:
            before[m.height] = m.head
            m.height += 1
        n = <MemNode*>take(m, node_size(klen, height))
        n.newest = NULL
        n.klen = <uint32_t>klen
        n.height = height
        memcpy(mem_key(n), key, klen)
        n.prev = before[0]
        links = node_links(n)
        for i in range(height):
            link = &node_links(before[i])[i]
            links[i] = link[0]
            link.node = n
            link.head = head
            if links[i].node == NULL:
                m.tail[i] = n
        if links[0].node != NULL:
            links[0].node.prev = n
        hash = filter_hash(key, klen)
        line = m.filter + ((hash >> 32 & m.filter_mask) << 3)
        line[hash & 7] |= <uint64_t>1 << (hash >> 3 & 63)
        line[hash >> 9 & 7] |= <uint64_t>1 << (hash >> 12 & 63)
    e = <MemEntry*>take(m, entry_size(vlen))
    e.ts = ts
    e.wall = wall
    e.kind = kind
    e.vlen = <uint32_t>vlen
    if vlen:
        memcpy(mem_value(e), value, vlen)
    if ts & IN_FLIGHT:
        m.in_flight += version_bytes(klen, vlen)
    if replace and n.newest != NULL and n.newest.ts == ts:
        if ts & IN_FLIGHT:
            m.in_flight -= version_bytes(klen, n.newest.vlen)
        e.older = n.newest.older
    else:
        e.older = n.newest
        m.entries += 1
    n.newest = e
    return e


cdef void memtable_pop(MemTable* m, const char* key, size_t klen, uint64_t ts) noexcept nogil:
    cdef MemNode* n = memtable_find(m, key, klen)
    if n == NULL or n.newest == NULL or n.newest.ts != ts:
        return
    if ts & IN_FLIGHT:
        m.in_flight -= version_bytes(klen, n.newest.vlen)
    n.newest = n.newest.older
    m.entries -= 1


cdef MemRange* memtable_put_range(MemTable* m, const char* start, size_t start_len, const char* stop, size_t stop_len, bint unbounded,
                                  uint64_t ts) noexcept nogil:
    cdef MemRange* r = <MemRange*>take(m, (sizeof(MemRange) + start_len + stop_len + 7) & ~<size_t>7)
    r.ts = ts
    r.start_len = <uint32_t>start_len
    r.stop_len = <uint32_t>stop_len
    r.unbounded = unbounded
    memcpy(range_start(r), start, start_len)
    if stop_len:
        memcpy(range_stop(r), stop, stop_len)
    r.next = m.ranges
    m.ranges = r
    m.range_count += 1
    m.ranges_in_flight += (ts & IN_FLIGHT) != 0
    return r


cdef void memtable_drop_range(MemTable* m, MemRange* r) noexcept nogil:
    cdef MemRange** p = &m.ranges
    while p[0] != NULL and p[0] != r:
        p = &p[0].next
    if p[0] != NULL:
        p[0] = r.next
        m.range_count -= 1
        m.ranges_in_flight -= (r.ts & IN_FLIGHT) != 0


cdef uint64_t memtable_covering(MemTable* m, const char* key, size_t klen, uint64_t snapshot, uint64_t own) noexcept nogil:
    cdef MemRange* r = m.ranges
    cdef uint64_t best = 0
    while r != NULL:
        if (r.ts <= snapshot or (own != 0 and r.ts == own)) and r.ts > best and range_covers(r, key, klen):
            best = r.ts
        r = r.next
    return best


cdef void memtable_warm(MemTable* m, const char** keys, const size_t* klens, int n) noexcept nogil:
    cdef MemNode* at[WARM_MOST]
    cdef int level[WARM_MOST]
    cdef uint64_t heads[WARM_MOST]
    cdef MemLink* link
    cdef uint64_t hashes[WARM_MOST]
    cdef int i, busy
    if n > WARM_MOST:
        n = WARM_MOST
    for i in range(n):
        hashes[i] = filter_hash(keys[i], klens[i])
        prefetch(m.filter + ((hashes[i] >> 32 & m.filter_mask) << 3))
    for i in range(n):
        heads[i] = key_head8(keys[i], klens[i])
        at[i] = m.head
        level[i] = m.height - 1 if memtable_may_hold(m, hashes[i]) else -1
    busy = n
    while busy:
        busy = 0
        for i in range(n):
            if level[i] < 0:
                continue
            busy += 1
            link = &node_links(at[i])[level[i]]
            if link.node != NULL and link.head < heads[i]:
                at[i] = link.node
                prefetch(<char*>link.node + sizeof(MemNode) + level[i] * sizeof(MemLink))
            else:
                level[i] -= 1
                if level[i] < 0 and link.node != NULL:
                    prefetch(link.node)


cdef const char* memtable_check(MemTable* m) noexcept nogil:
    cdef MemNode* n
    cdef MemNode* last
    cdef MemEntry* e
    cdef int level
    cdef uint64_t entries = 0
    for level in range(m.height):
        last = m.head
        n = node_links(m.head)[level].node
        while n != NULL:
            if node_links(last)[level].head != key_head8(mem_key(n), n.klen):
                return "a link of the memtable bears another key's head"
            if last != m.head and compare_bytes(mem_key(last), last.klen, mem_key(n), n.klen) >= 0:
                return "the memtable's keys are out of order"
            if level == 0:
                if n.prev != last:
                    return "the memtable's way back differs from the way there"
                e = n.newest
                while e != NULL:
                    entries += 1
                    if e.older != NULL and not e.ts & IN_FLIGHT and e.older.ts > e.ts:
                        return "the versions of a key in the memtable are out of order"
                    e = e.older
            last = n
            n = node_links(n)[level].node
        if m.tail[level] != last:
            return "the memtable's tail is not its last node"
    if entries != m.entries:
        return "the memtable's count of versions is wrong"
    return NULL
