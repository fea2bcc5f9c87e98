"""Data blocks: building, checking and searching one. block.pxd says what lies where."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from ..base.coding cimport compare_bytes, get16, get32, get64, get_varint, put16, put32, put64, put_varint
from ..base.status cimport AGAIN, E_NOMEM, OK, fail

cdef extern from *:
    """
    static inline uint32_t el_shared(const uint8_t* a, const uint8_t* b, uint32_t n) {
        uint32_t i = 0;
        while (i + 8 <= n) {
            uint64_t x, y;
            memcpy(&x, a + i, 8); memcpy(&y, b + i, 8);
            x = EL_LE64(x) ^ EL_LE64(y);
            if (x) return i + (__builtin_ctzll(x) >> 3);
            i += 8;
        }
        while (i < n && a[i] == b[i]) i++;
        return i;
    }
    """
    uint32_t shared_bytes "el_shared"(const uint8_t* a, const uint8_t* b, uint32_t n) noexcept nogil


# ---------------------------------------------------------------- searching

cdef bint group_before(const char* b, uint32_t g, const char* key, size_t klen, uint64_t ts, uint64_t base_ts) noexcept nogil:
    """Whether the first entry of group g is at or before (key, ts)."""
    cdef Item i
    cdef uint32_t p = block_prefix_len(b)
    cdef int c
    item_read(<const uint8_t*>b + block_group(b, g) + 4, &i)
    c = compare_bytes(<const char*>i.suffix, i.unshared, key + p, klen - p)
    return c < 0 or (c == 0 and base_ts + i.delta >= ts)


cdef inline uint32_t group_for(const char* b, const char* key, size_t klen, uint64_t ts, uint64_t base_ts) noexcept nogil:
    """The last group whose first entry is at or before (key, ts); the first group if there is none. The key has the block's prefix."""
    cdef uint32_t n = block_groups(b)
    cdef uint32_t p = block_prefix_len(b)
    cdef uint64_t head = key_head(key + p, klen - p)
    cdef const char* heads = b + BLOCK_HEADER
    cdef uint32_t low = 0, high, half
    while n > 1:                                        # the last group whose head is not above
        half = n >> 1
        low = low + half if get64(heads + 8 * (low + half)) <= head else low
        n -= half
    if get64(heads + 8 * low) != head or low == 0:
        return low
    high = low                                          # among those of equal heads the keys decide
    while low > 0 and get64(heads + 8 * (low - 1)) == head:
        low -= 1
    while low <= high:
        half = (low + high) >> 1
        if group_before(b, half, key, klen, ts, base_ts):
            low = half + 1
        elif half == 0:
            return 0
        else:
            high = half - 1
    return low - 1 if low > 0 else 0


cdef bint block_find(const char* b, const char* key, size_t klen, uint64_t ts, uint64_t base_ts, BlockPlace* at) noexcept nogil:
    cdef uint32_t prefix = block_prefix_len(b)
    cdef uint32_t g, m, k, n, tlen = <uint32_t>klen
    cdef const uint8_t* data = <const uint8_t*>b
    cdef const uint8_t* target = <const uint8_t*>key
    cdef const uint8_t* p
    cdef const uint8_t* end
    cdef const uint8_t* following
    cdef Item* i = &at.item
    cdef int c
    if prefix:
        c = memcmp(key, block_prefix(b), prefix if prefix < klen else klen)
        if c > 0:
            return False
        if c < 0 or klen < prefix:
            block_first(b, at)
            return True
    g = group_for(b, key, klen, ts, base_ts)
    p = data + block_group(b, g)
    prefetch_line(p + 64)
    prefetch_line(p + 128)
    prefetch_line(p + 192)
    end = data + block_group_end(b, g)
    at.value = get32(p)
    p += 4
    m = prefix                                          # bytes that the entry before, which is less, has in common with the target
    while True:
        if p == end:
            g += 1
            if g == block_groups(b):
                return False
            # The next group begins after the target: that is the place.
            end = data + block_group_end(b, g)
            p += 4
            following = item_read(p, i)
            at.equal = i.unshared == tlen - prefix and memcmp(i.suffix, target + prefix, i.unshared) == 0
            break
        following = item_read(p, i)
        if i.shared < m:                                # it parts from the one before where that still agreed with the target
            at.equal = False
            break
        if i.shared == m:
            n = i.unshared if i.unshared < tlen - m else tlen - m
            k = 0
            while k < n and i.suffix[k] == target[m + k]:
                k += 1
            if k == n:
                if tlen - m == n:
                    if i.unshared > n:
                        at.equal = False
                        break
                    if base_ts + i.delta <= ts:
                        at.equal = True
                        break
            elif i.suffix[k] > target[m + k]:
                at.equal = False
                break
            m += k
        at.value += item_room(i)
        p = following
    at.group = g
    at.offset = <uint32_t>(p - data)
    at.following = <uint32_t>(following - data)
    return True


cdef void block_first(const char* b, BlockPlace* at) noexcept nogil:
    block_enter(b, 0, at)
    at.equal = False


cdef void block_enter(const char* b, uint32_t g, BlockPlace* at) noexcept nogil:
    """The first entry of group g."""
    cdef uint32_t start = block_group(b, g)
    at.group = g
    at.value = get32(b + start)
    at.offset = start + 4
    at.following = <uint32_t>(item_read(<const uint8_t*>b + start + 4, &at.item) - <const uint8_t*>b)


# ---------------------------------------------------------------- checking

cdef const uint8_t* item_check(const uint8_t* p, const uint8_t* end, Item* i) noexcept nogil:
    """item_read of what may be anything; NULL when it is no entry."""
    cdef uint64_t shared, unshared, tagged
    p = get_varint(p, end, &shared)
    if p is not NULL:
        p = get_varint(p, end, &unshared)
    if p is not NULL:
        p = get_varint(p, end, &tagged)
    if p is not NULL:
        p = get_varint(p, end, &i.delta)
    if p is NULL or shared > TABLE_MAX_KEY or unshared > TABLE_MAX_KEY or tagged >> TAG_BITS > TABLE_MAX_VALUE:
        return NULL
    i.tags = <uint32_t>tagged & ((1 << TAG_BITS) - 1)
    i.wall = 0
    if i.tags & TAG_WALL:
        p = get_varint(p, end, &i.wall)
        if p is NULL:
            return NULL
    if unshared > <uint64_t>(end - p):
        return NULL
    i.shared = <uint32_t>shared
    i.unshared = <uint32_t>unshared
    i.vlen = <uint32_t>(tagged >> TAG_BITS)
    i.suffix = p
    return p + unshared


cdef const char* block_check(const char* b, size_t n, uint64_t base_ts, BlockBounds* bounds, uint32_t* where) noexcept nogil:
    cdef const uint8_t* data = <const uint8_t*>b
    cdef uint32_t groups, keys_end, prefix_len, flags, g, at, end, in_group
    cdef uint32_t klen = 0, count = 0
    cdef uint64_t start, value, ts = 0, far
    cdef uint8_t* key = <uint8_t*>bounds.last
    cdef const uint8_t* p
    cdef const uint8_t* q
    cdef Item i
    cdef int c
    where[0] = 0
    bounds.far_end = 0
    if n < BLOCK_HEADER or n > <size_t>0xFFFFFFF0:
        return b"a block without a header"
    groups = get32(b)
    keys_end = get32(b + 8)
    prefix_len = get16(b + 12)
    flags = get16(b + 14)
    start = BLOCK_HEADER + <uint64_t>GROUP_SLOT * groups + (8 if flags & BLOCK_WALL else 0) + prefix_len
    if flags & ~BLOCK_WALL:
        return b"a block of unknown flags"
    if groups == 0 or start > keys_end or keys_end > n or prefix_len > TABLE_MAX_KEY:
        return b"a block whose header contradicts its length"
    memcpy(key, block_prefix(b), prefix_len)
    value = keys_end
    for g in range(groups):
        at = block_group(b, g)
        end = block_group_end(b, g)
        where[0] = BLOCK_HEADER + 8 * groups + 4 * g
        if at != start or end > keys_end or end < at or end - at < 5:
            return b"a group of entries where none can be"
        where[0] = at
        if get32(b + at) != value:
            return b"a group whose values do not begin where those before it end"
        p = data + at + 4
        in_group = 0
        while p < data + end:
            where[0] = <uint32_t>(p - data)
            q = item_check(p, data + end, &i)
            if q is NULL or in_group == MAX_GROUP:
                return b"an entry that exceeds its group"
            if i.shared + i.unshared > TABLE_MAX_KEY or (
                    i.shared != prefix_len if in_group == 0 else i.shared > klen or i.shared < prefix_len):
                return b"a key of impossible length"
            if i.tags & TAG_WALL and not flags & BLOCK_WALL:
                return b"a wall clock without a base"
            if i.tags & TAG_DELETE and (i.vlen or i.tags & TAG_FAR):
                return b"a deletion that has a value"
            if in_group == 0 and block_head(b, g) != key_head(<const char*>i.suffix, i.unshared):
                return b"a group whose head is not its first key's"
            if base_ts + i.delta < base_ts or base_ts + i.delta == 0:
                return b"a timestamp out of range"
            if count:
                if in_group == 0:
                    c = compare_bytes(<const char*>key + prefix_len, klen - prefix_len, <const char*>i.suffix, i.unshared)
                elif i.unshared == 0:
                    c = 0 if i.shared == klen else 1
                else:
                    c = -1 if i.shared == klen or key[i.shared] < i.suffix[0] else 1
                if c > 0 or (c == 0 and base_ts + i.delta >= ts):
                    return b"entries that are not in order"
            ts = base_ts + i.delta
            klen = i.shared + i.unshared
            memcpy(key + i.shared, i.suffix, i.unshared)
            if count == 0:
                bounds.first_len = klen
                bounds.first_ts = ts
                memcpy(bounds.first, key, klen)
            if item_room(&i) > n - value:
                return b"a value that exceeds the block"
            if i.tags & TAG_FAR:
                far = get64(b + value)
                if far + get32(b + value + 8) < far:
                    return b"a far value at no place"
                if far + get32(b + value + 8) > bounds.far_end:
                    bounds.far_end = far + get32(b + value + 8)
            value += item_room(&i)
            count += 1
            in_group += 1
            p = q
        start = end
    where[0] = keys_end
    if start != keys_end or value != n:
        return b"bytes that belong to no entry"
    where[0] = 4
    if count != get32(b + 4):
        return b"a wrong count of entries"
    bounds.entries = count
    bounds.last_len = klen
    bounds.last_ts = ts
    return NULL


# ---------------------------------------------------------------- building

cdef int builder_init(BlockBuilder* b, uint32_t limit, uint32_t interval, uint64_t base_ts) noexcept nogil:
    memset(b, 0, sizeof(BlockBuilder))
    b.limit = limit
    b.interval = interval
    b.base_ts = base_ts
    b.room_starts = 64
    b.keys = <uint8_t*>malloc(limit + 64)
    b.values = <uint8_t*>malloc(limit)
    b.starts = <GroupStart*>malloc(b.room_starts * sizeof(GroupStart))
    if b.keys is NULL or b.values is NULL or b.starts is NULL:
        builder_free(b)
        return fail(E_NOMEM, b"No memory to build a block")
    return OK


cdef void builder_free(BlockBuilder* b) noexcept nogil:
    free(b.keys)
    free(b.values)
    free(b.starts)
    b.keys = NULL
    b.values = NULL
    b.starts = NULL


cdef int builder_add(BlockBuilder* b, const char* key, uint32_t klen, uint64_t ts, uint64_t wall, uint32_t tags, uint32_t vlen,
                     const char* value, uint32_t room) noexcept nogil:
    cdef bint restart = b.entries == 0 or b.in_group == b.interval
    cdef uint32_t shared = 0
    cdef uint64_t used
    cdef uint8_t* p
    cdef uint8_t* start
    cdef int64_t past
    cdef GroupStart* s
    cdef void* grown
    if b.entries:
        shared = shared_bytes(b.last, <const uint8_t*>key, b.last_len if b.last_len < klen else klen)
    used = <uint64_t>BLOCK_HEADER + 8 + GROUP_COST * (b.groups + restart) + b.keys_used + b.values_used + 32
    if used + (klen if restart else klen - shared) + room > b.limit:
        return AGAIN
    if restart and b.groups == b.room_starts:
        grown = realloc(b.starts, 2 * b.room_starts * sizeof(GroupStart))
        if grown is NULL:
            return fail(E_NOMEM, b"No memory to build a block")
        b.starts = <GroupStart*>grown
        b.room_starts *= 2
    if b.entries == 0:
        b.prefix_len = klen
    elif shared < b.prefix_len:
        b.prefix_len = shared
    if wall:
        tags |= TAG_WALL
        if not b.has_wall:
            b.has_wall = True
            b.base_wall = wall
    start = p = b.keys + b.keys_used
    if not restart:
        p = put_varint(p, shared)
        p = put_varint(p, klen - shared)
    p = put_varint(p, (<uint64_t>vlen << TAG_BITS) | tags)
    p = put_varint(p, ts - b.base_ts)
    if wall:
        past = <int64_t>(wall - b.base_wall)
        p = put_varint(p, (<uint64_t>past << 1) ^ <uint64_t>(past >> 63))
    if restart:
        s = &b.starts[b.groups]
        s.at = b.keys_used
        s.head = <uint32_t>(p - start)
        s.klen = klen
        s.value = b.values_used
        b.groups += 1
        b.in_group = 0
        memcpy(p, key, klen)
        p += klen
    else:
        memcpy(p, key + shared, klen - shared)
        p += klen - shared
    memcpy(b.last + shared, key + shared, klen - shared)
    b.last_len = klen
    b.last_ts = ts
    b.keys_used = <uint32_t>(p - b.keys)
    memcpy(b.values + b.values_used, value, room)
    b.values_used += room
    b.entries += 1
    b.in_group += 1
    return OK


cdef uint32_t builder_finish(BlockBuilder* b, char* out) noexcept nogil:
    cdef uint32_t g, end
    cdef GroupStart* s
    cdef const uint8_t* key
    cdef char* heads = out + BLOCK_HEADER
    cdef char* offsets = heads + 8 * b.groups
    cdef uint8_t* p = <uint8_t*>offsets + 4 * b.groups
    put32(out, b.groups)
    put32(out + 4, b.entries)
    put16(out + 12, <uint16_t>b.prefix_len)
    put16(out + 14, BLOCK_WALL if b.has_wall else 0)
    if b.has_wall:
        put64(p, b.base_wall)
        p += 8
    memcpy(p, b.last, b.prefix_len)
    p += b.prefix_len
    for g in range(b.groups):
        s = &b.starts[g]
        key = b.keys + s.at + s.head
        put64(heads + 8 * g, key_head(<const char*>key + b.prefix_len, s.klen - b.prefix_len))
        put32(offsets + 4 * g, <uint32_t>(p - <uint8_t*>out))
        p = put_varint(p + 4, b.prefix_len)
        p = put_varint(p, s.klen - b.prefix_len)
        memcpy(p, b.keys + s.at, s.head)
        p += s.head
        end = b.starts[g + 1].at if g + 1 < b.groups else b.keys_used
        memcpy(p, key + b.prefix_len, b.keys + end - (key + b.prefix_len))
        p += b.keys + end - (key + b.prefix_len)
    end = <uint32_t>(p - <uint8_t*>out)
    put32(out + 8, end)
    for g in range(b.groups):
        put32(out + get32(offsets + 4 * g), b.starts[g].value + end)
    memcpy(p, b.values, b.values_used)
    end += b.values_used
    b.entries = 0
    b.groups = 0
    b.in_group = 0
    b.has_wall = False
    b.keys_used = 0
    b.values_used = 0
    return end
