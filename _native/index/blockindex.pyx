"""Index blocks: building, checking, searching. blockindex.pxd says what lies where."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from ..base.coding cimport compare_bytes, get16, get32, get64, put16, put32, put64
from .block cimport TABLE_MAX_KEY, key_head

cdef enum:
    HEAD = 8

cdef uint64_t NO_TS = 0xFFFFFFFFFFFFFFFF


cdef inline uint64_t head_of(const char* x, uint32_t i) noexcept nogil:
    return get64(x + INDEX_HEADER + 8 * <uint64_t>i)


cdef inline uint32_t tail_at(const char* x, uint32_t i) noexcept nogil:
    return get32(x + INDEX_HEADER + 20 * <uint64_t>index_count(x) + 4 * <uint64_t>i)


cdef inline const char* prefix_of(const char* x) noexcept nogil:
    return x + INDEX_HEADER + <uint64_t>(INDEX_ENTRY + 4 * index_level(x)) * index_count(x)


cdef bint at_or_before(const char* x, uint32_t i, const char* rest, size_t n, uint64_t ts) noexcept nogil:
    """Whether separator i, whose head is that of `rest`, is at or before (prefix + rest, ts)."""
    cdef const char* tail = x + tail_at(x, i)
    cdef size_t m = get16(tail) & ~INDEX_TIMED
    cdef size_t least = m if m < n else n
    cdef int c = 0
    if least > HEAD:
        c = memcmp(tail + 2, rest + HEAD, least - HEAD)
    if c == 0:
        c = -1 if m < n else (1 if m > n else 0)
    if c != 0:
        return c < 0
    return (get64(tail + 2 + (m - HEAD if m > HEAD else 0)) if get16(tail) & INDEX_TIMED else NO_TS) >= ts


cdef uint32_t index_search(const char* x, const char* key, size_t klen, uint64_t ts) noexcept nogil:
    cdef uint32_t count = index_count(x), n = index_count(x), low = 0, high, half, first
    cdef size_t prefix = get16(x + 12)
    cdef const char* heads = x + INDEX_HEADER
    cdef uint64_t head
    cdef int c
    if count < 2:
        return 0
    if prefix:
        c = memcmp(key, prefix_of(x), prefix if prefix < klen else klen)
        if c > 0:
            return count - 1
        if c < 0 or klen < prefix:
            return 0
        key += prefix
        klen -= prefix
    head = key_head(key, klen)
    while n > 1:                                        # the last whose head is not above; the first entry counts as below all
        half = n >> 1
        low = low + half if get64(heads + 8 * <uint64_t>(low + half)) <= head else low
        n -= half
    if low == 0 or get64(heads + 8 * <uint64_t>low) != head:
        return low
    high = low                                          # the last of those with this head; now their first
    first = 1
    n = low
    while first < n:
        half = (first + n) >> 1
        if head_of(x, half) < head:
            first = half + 1
        else:
            n = half
    low = first
    while low <= high:
        half = (low + high) >> 1
        if at_or_before(x, half, key, klen, ts):
            low = half + 1
        else:
            high = half - 1
    return low - 1


cdef uint32_t index_partition_of(const char* x, uint32_t block) noexcept nogil:
    cdef uint32_t low = 0, n = index_count(x), half
    while n > 1:
        half = n >> 1
        if index_first_of(x, low + half) <= block:
            low += half
        n -= half
    return low


cdef void index_separator(const char* x, uint32_t i, Separator* out) noexcept nogil:
    cdef const char* tail = x + tail_at(x, i)
    cdef uint32_t n = get16(tail) & ~INDEX_TIMED
    cdef uint32_t prefix = get16(x + 12)
    cdef uint64_t head = head_of(x, i)
    cdef uint32_t k
    memcpy(out.key, prefix_of(x), prefix)
    for k in range(n if n < HEAD else HEAD):
        out.key[prefix + k] = <char>(head >> (56 - 8 * k))
    tail += 2
    if n > HEAD:
        memcpy(out.key + prefix + HEAD, tail, n - HEAD)
        tail += n - HEAD
    out.klen = prefix + n
    out.ts = get64(tail) if get16(x + tail_at(x, i)) & INDEX_TIMED else NO_TS


cdef int separator_compare(const Separator* s, const char* key, size_t klen, uint64_t ts) noexcept nogil:
    cdef int c = compare_bytes(key, klen, s.key, s.klen)
    if c == 0:
        return -1 if ts > s.ts else (1 if ts < s.ts else 0)
    return c


cdef const char* index_check(const char* x, size_t n, uint32_t level, uint64_t low, uint64_t high, uint32_t most, uint32_t* where) noexcept nogil:
    cdef uint32_t count, prefix, i, m, k, before = 0
    cdef uint64_t at, offset, head
    cdef uint16_t length
    cdef Separator a
    cdef Separator b
    cdef Separator* last = &a
    cdef Separator* this = &b
    where[0] = 0
    if n < INDEX_HEADER or n > <size_t>0xFFFFFFF0:
        return b"an index block without a header"
    count = get32(x)
    prefix = get16(x + 12)
    at = INDEX_HEADER + <uint64_t>(INDEX_ENTRY + 4 * level) * count
    if index_level(x) != level or count == 0 or prefix > TABLE_MAX_KEY or at + prefix > n:
        return b"an index block whose header contradicts its length or place"
    if level == 0 and index_spanned(x) != count:
        return b"an index block of a wrong count of data blocks"
    at += prefix
    for i in range(count):
        where[0] = <uint32_t>at
        if tail_at(x, i) != at or at + 2 > n:
            return b"a separator where none can be"
        length = get16(x + at)
        m = length & ~INDEX_TIMED
        if i == 0 and length:
            return b"an index block whose first separator is not empty"
        at += 2 + (m - HEAD if m > HEAD else 0) + (8 if length & INDEX_TIMED else 0)
        if at > n or (i and prefix + m > TABLE_MAX_KEY):
            return b"a separator that exceeds its block"
        head = head_of(x, i)
        if m < HEAD and (head << (8 * m) if m else head) != 0:
            return b"a separator whose head contradicts its length"
        if i:
            index_separator(x, i, this)
            if i > 1 and separator_compare(last, this.key, this.klen, this.ts) <= 0:
                return b"separators that are not in order"
            last, this = this, last
        where[0] = <uint32_t>(INDEX_HEADER + 8 * (<uint64_t>count + i))
        offset = index_offset(x, i)
        m = index_size(x, i)
        if offset < low or offset > high or m > high - offset or m > most or m == 0:
            return b"a block where none can be"
        low = offset + m
        if level:
            where[0] = <uint32_t>(INDEX_HEADER + 24 * <uint64_t>count + 4 * <uint64_t>i)
            k = index_first_of(x, i)
            if k != 0 if i == 0 else k <= before:
                return b"partitions that are not in order"
            before = k
    where[0] = 8
    if at != n:
        return b"bytes behind the separators"
    if level and (index_first(x) != 0 or index_spanned(x) <= before):
        return b"an index that leads to a wrong count of data blocks"
    return NULL


cdef uint32_t index_item_most(const IndexItem* i, bint leads) noexcept nogil:
    if leads:
        return INDEX_ENTRY + 2
    return INDEX_ENTRY + 2 + (i.klen - HEAD if i.klen > HEAD else 0) + (8 if i.ts != NO_TS else 0)


cdef uint64_t index_build(const IndexItem* items, uint32_t count, const char* arena, uint32_t level, uint32_t first, uint32_t spanned, char* out) noexcept nogil:
    cdef uint32_t prefix = 0, i, k, n
    cdef const char* key
    cdef const char* rest
    cdef uint64_t at = INDEX_HEADER + <uint64_t>(INDEX_ENTRY + 4 * level) * count
    cdef uint64_t slot
    if count > 1:
        key = arena + items[1].key_at
        prefix = items[1].klen
        for i in range(2, count):
            rest = arena + items[i].key_at
            k = 0
            while k < prefix and k < items[i].klen and key[k] == rest[k]:
                k += 1
            prefix = k
    if out is not NULL:
        put32(out, count)
        put32(out + 4, first)
        put32(out + 8, spanned)
        put16(out + 12, <uint16_t>prefix)
        put16(out + 14, <uint16_t>level)
        if count > 1:
            memcpy(out + at, arena + items[1].key_at, prefix)
    at += prefix
    for i in range(count):
        rest = arena + items[i].key_at + prefix
        n = items[i].klen - prefix if i else 0
        if out is not NULL:
            slot = INDEX_HEADER + 8 * <uint64_t>i
            put64(out + slot, key_head(rest, n))
            put64(out + slot + 8 * <uint64_t>count, items[i].offset)
            slot = INDEX_HEADER + 16 * <uint64_t>count + 4 * <uint64_t>i
            put32(out + slot, items[i].size)
            put32(out + slot + 4 * <uint64_t>count, <uint32_t>at)
            if level:
                put32(out + slot + 8 * <uint64_t>count, items[i].first)
            put16(out + at, <uint16_t>(n | (INDEX_TIMED if i and items[i].ts != NO_TS else 0)))
            if n > HEAD:
                memcpy(out + at + 2, rest + HEAD, n - HEAD)
        at += 2 + (n - HEAD if n > HEAD else 0)
        if i and items[i].ts != NO_TS:
            if out is not NULL:
                put64(out + at, items[i].ts)
            at += 8
    return at
