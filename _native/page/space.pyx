"""See space.pxd."""
from libc.stdint cimport uint16_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from ..base.status cimport E_NOMEM, OK, ABSENT, fail

cdef extern from *:
    int ctz64 "__builtin_ctzll"(uint64_t) noexcept nogil
    int clz64 "__builtin_clzll"(uint64_t) noexcept nogil
    int popcount64 "__builtin_popcountll"(uint64_t) noexcept nogil

cdef uint64_t FULL = 0xFFFFFFFFFFFFFFFFu


cdef int space_init(Space* s) noexcept nogil:
    memset(s, 0, sizeof(Space))
    s.high = SPACE_FIRST
    s.rover = SPACE_FIRST
    if grow(s, SPACE_FIRST) != OK:
        return E_NOMEM
    s.bits[0] = (<uint64_t>1 << SPACE_FIRST) - 1
    s.chunk_used[0] = SPACE_FIRST
    return OK


cdef void space_clear(Space* s) noexcept nogil:
    free(s.bits)
    free(s.chunk_used)
    memset(s, 0, sizeof(Space))


cdef int grow(Space* s, uint64_t blocks) noexcept nogil:
    cdef uint64_t n = s.capacity
    cdef uint64_t* bits
    cdef uint16_t* chunks
    if blocks <= n:
        return OK
    n = max(n + n // 2, blocks)
    n = (n + SPACE_CHUNK - 1) // SPACE_CHUNK * SPACE_CHUNK
    bits = <uint64_t*>realloc(s.bits, n // 8)
    if bits is NULL:
        return fail(E_NOMEM, b"No memory for the free-space map")
    s.bits = bits
    chunks = <uint16_t*>realloc(s.chunk_used, n // SPACE_CHUNK * sizeof(uint16_t))
    if chunks is NULL:
        return fail(E_NOMEM, b"No memory for the free-space map")
    s.chunk_used = chunks
    memset(<char*>bits + s.capacity // 8, 0, (n - s.capacity) // 8)
    memset(chunks + s.capacity // SPACE_CHUNK, 0, (n - s.capacity) // SPACE_CHUNK * sizeof(uint16_t))
    s.capacity = n
    return OK


cdef inline uint64_t mask_of(uint64_t b, uint64_t end) noexcept nogil:
    """The bits of b's word that lie in [b, end)."""
    cdef uint64_t mask = FULL << (b & 63)
    cdef uint64_t left = end - (b & ~<uint64_t>63)
    if left < 64:
        mask &= (<uint64_t>1 << left) - 1
    return mask


cdef void set_run(Space* s, uint64_t block, uint64_t n) noexcept nogil:
    cdef uint64_t b = block, end = block + n, mask
    while b < end:
        mask = mask_of(b, end)
        s.bits[b >> 6] |= mask
        s.chunk_used[b // SPACE_CHUNK] += popcount64(mask)
        b = (b | 63) + 1
    s.used += n
    if end > s.high:
        s.high = end


cdef int space_mark(Space* s, uint64_t block, uint64_t n) noexcept nogil:
    cdef uint64_t b = block, end = block + n
    if grow(s, end) != OK:
        return E_NOMEM
    while b < end:
        if s.bits[b >> 6] & mask_of(b, end):
            return ABSENT
        b = (b | 63) + 1
    set_run(s, block, n)
    return OK


cdef uint64_t find(Space* s, uint64_t start, uint64_t end, uint64_t n) noexcept nogil:
    """The first block of a free run of n within [start, end), or `end`."""
    cdef uint64_t b = start, e, w
    while b + n <= end:
        if (b & (SPACE_CHUNK - 1)) == 0 and s.chunk_used[b // SPACE_CHUNK] == SPACE_CHUNK:
            b += SPACE_CHUNK
            continue
        w = ~s.bits[b >> 6] >> (b & 63)
        if w == 0:
            b = (b | 63) + 1
            continue
        b += ctz64(w)
        e = b
        while e < b + n:
            if e >= end:
                return end
            w = s.bits[e >> 6] >> (e & 63)
            if w == 0:
                e = (e | 63) + 1
            else:
                e += ctz64(w)
                break
        if e >= b + n:
            return b if b + n <= end else end
        b = e
    return end


cdef uint64_t search(Space* s, uint64_t n) noexcept nogil:
    """Where n blocks go: a hole at or after the rover, or (when enough was freed meanwhile) before it, or the end."""
    cdef uint64_t b
    if s.rover > s.high:
        s.rover = s.high
    b = find(s, s.rover, s.high, n)
    if b == s.high and s.freed >= n and s.freed >= s.high >> 10:
        space_reset_rover(s)
        b = find(s, s.rover, s.high, n)
    return b


cdef bint space_fits(Space* s, uint64_t n) noexcept nogil:
    return search(s, n) != s.high


cdef int space_alloc(Space* s, uint64_t n, uint64_t* block) noexcept nogil:
    cdef uint64_t b = search(s, n)
    if b == s.high and grow(s, b + n) != OK:
        return E_NOMEM
    set_run(s, b, n)
    s.rover = b + n
    block[0] = b
    return OK


cdef int space_alloc_below(Space* s, uint64_t n, uint64_t limit, uint64_t* block) noexcept nogil:
    cdef uint64_t end = min(limit, s.high)
    cdef uint64_t b = find(s, min(s.rover, end), end, n)
    if b == end:
        b = find(s, SPACE_FIRST, end, n)
    if b == end:
        return ABSENT
    set_run(s, b, n)
    s.rover = b + n
    block[0] = b
    return OK


cdef void space_release(Space* s, uint64_t block, uint64_t n) noexcept nogil:
    cdef uint64_t b = block, end = block + n, mask, w
    while b < end:
        mask = mask_of(b, end)
        s.bits[b >> 6] &= ~mask
        s.chunk_used[b // SPACE_CHUNK] -= popcount64(mask)
        b = (b | 63) + 1
    s.used -= n
    s.freed += n
    if end == s.high:
        b = (block - 1) >> 6            # the superblocks are always marked, so this ends
        w = s.bits[b] & mask_of(b << 6, block)
        while w == 0:
            b -= 1
            w = s.bits[b]
        s.high = (b << 6) + 64 - clz64(w)


cdef void space_reset_rover(Space* s) noexcept nogil:
    s.rover = SPACE_FIRST
    s.freed = 0


cdef const char* space_check(Space* s) noexcept nogil:
    cdef uint64_t i, total = 0, high = 0
    cdef uint64_t in_chunk = 0
    for i in range(s.capacity >> 6):
        in_chunk += popcount64(s.bits[i])
        if s.bits[i]:
            high = (i << 6) + 64 - clz64(s.bits[i])
        if (i & (SPACE_CHUNK // 64 - 1)) == SPACE_CHUNK // 64 - 1:
            if s.chunk_used[i // (SPACE_CHUNK // 64)] != in_chunk:
                return b"the count of a chunk of the free-space map is wrong"
            total += in_chunk
            in_chunk = 0
    if total != s.used + SPACE_FIRST:
        return b"the count of used blocks is wrong"
    if high != s.high:
        return b"the end of the used blocks is wrong"
    return NULL
