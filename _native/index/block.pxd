"""A data block of a sorted table, as it lies in memory (and, when it is not compressed, on disk): entries in order, cut into groups.

    0   u32 groups      4  u32 entries      8  u32 keys_end: where the values begin      12  u16 prefix_len      14  u16 flags (BLOCK_WALL)
    16  groups * u64 head: first eight bytes of a group's first key after the prefix, as a big-endian number, zero-padded
        groups * u32 where the group begins
        u64 base of wall clocks, if flags say so
        the prefix: what all keys of the block begin with
        the groups: u32 where its values begin, then its entries without their values, up to the next group (the last: up to keys_end)
        the values, in the order of the entries, up to the block's end

An entry: varint shared (bytes that its key has in common with that of the entry before, as many as possible; prefix_len for the first of a group), varint unshared, varint (length of the value << 3 | tags), varint (ts - base of the table), [varint zigzag (wall - base)], the unshared bytes.
A value that would not fit is *far*: elsewhere in the file; FAR_BYTES stand for it: u64 offset, u32 stored bytes there.

A search looks at the heads (one cache line in a block of the usual size), then walks one group's keys, which lie together, without making keys.
What came from disk has passed block_check, so it is followed without a test; reading may go 8 bytes past an entry, never past the buffer (BLOCK_SLACK).
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from ..base.coding cimport get16, get32, get64

cdef enum:                         # on disk: never change
    BLOCK_HEADER = 16
    GROUP_SLOT = 12
    GROUP_COST = GROUP_SLOT + 4 + 8    # what a group adds to a block at most, besides its entries
    FAR_BYTES = 12
    MAX_GROUP = 64                 # entries of a group at most
    TABLE_MAX_KEY = 8100
    TABLE_MAX_VALUE = 1 << 30
    BLOCK_WALL = 1                 # flag: the base of wall clocks is there
    TAG_DELETE = 1
    TAG_WALL = 2
    TAG_FAR = 4
    TAG_BITS = 3

cdef enum:
    BLOCK_SLACK = 8                # bytes behind a block that may be read (their content does not matter)

cdef struct Item:                  # an entry as it lies in a block
    uint32_t shared
    uint32_t unshared
    uint32_t vlen
    uint32_t tags
    uint64_t delta                 # ts less the table's base
    uint64_t wall                  # zigzag, less the block's base
    const uint8_t* suffix

cdef struct BlockPlace:
    uint32_t group
    uint32_t offset                # of the entry
    uint32_t following             # where the next would begin
    uint32_t value                 # of its value
    bint equal                     # its key is the one searched for
    Item item

cdef struct BlockBounds:           # what block_check found
    uint32_t first_len
    uint32_t last_len
    uint64_t first_ts
    uint64_t last_ts
    uint32_t entries
    uint64_t far_end               # greatest end of a far value; 0: none
    char first[TABLE_MAX_KEY]
    char last[TABLE_MAX_KEY]

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define EL_BE64(x) (x)
    #else
    #define EL_BE64(x) __builtin_bswap64(x)
    #endif
    /* the first eight bytes as a big-endian number, padded with zeros */
    static inline uint64_t el_head(const char* p, size_t n) {
        uint64_t v = 0;
        if (n >= 8) { memcpy(&v, p, 8); return EL_BE64(v); }
        for (size_t i = 0; i < n; i++) v |= (uint64_t)(uint8_t)p[i] << (56 - 8 * i);
        return v;
    }
    static inline uint64_t el_long_varint(const uint8_t* p, uint64_t r, int* n) {
        int shift = 7, i = 1;
        r &= 0x7F;
        do { r |= (uint64_t)(p[i] & 0x7F) << shift; shift += 7; } while (p[i++] & 0x80);
        *n = i;
        return r;
    }
    /* p must hold a whole varint: no bounds */
    static inline const uint8_t* el_trusted_varint(const uint8_t* p, uint64_t* v) {
        uint64_t r = p[0];
        int n = 1;
        if (__builtin_expect(r & 0x80, 0)) r = el_long_varint(p, r, &n);
        *v = r;
        return p + n;
    }
    /* the same where several bytes are usual */
    static inline const uint8_t* el_wide_varint(const uint8_t* p, uint64_t* v) {
        uint64_t w, stop;
        int n;
        memcpy(&w, p, 8);
        w = EL_LE64(w);
        stop = ~w & 0x8080808080808080ull;
        if (__builtin_expect(stop == 0, 0)) { *v = el_long_varint(p, p[0], &n); return p + n; }
        w &= stop ^ (stop - 1);
        w = (w & 0x007F007F007F007Full) | (w & 0x7F007F007F007F00ull) >> 1;
        w = (w & 0x00003FFF00003FFFull) | (w & 0x3FFF00003FFF0000ull) >> 2;
        *v = (w & 0x000000000FFFFFFFull) | (w & 0x0FFFFFFF00000000ull) >> 4;
        return p + (__builtin_ctzll(stop) >> 3) + 1;
    }
    #define el_prefetch(p) __builtin_prefetch(p)
    """
    uint64_t key_head "el_head"(const char* p, size_t n) noexcept nogil
    const uint8_t* trusted_varint "el_trusted_varint"(const uint8_t* p, uint64_t* v) noexcept nogil
    const uint8_t* wide_varint "el_wide_varint"(const uint8_t* p, uint64_t* v) noexcept nogil
    void prefetch_line "el_prefetch"(const void* p) noexcept nogil

cdef inline uint32_t block_groups(const char* b) noexcept nogil:
    return get32(b)

cdef inline uint32_t block_keys_end(const char* b) noexcept nogil:
    return get32(b + 8)

cdef inline uint32_t block_prefix_len(const char* b) noexcept nogil:
    return get16(b + 12)

cdef inline bint block_has_wall(const char* b) noexcept nogil:
    return get16(b + 14) & BLOCK_WALL

cdef inline uint64_t block_base_wall(const char* b) noexcept nogil:
    return get64(b + BLOCK_HEADER + GROUP_SLOT * block_groups(b)) if block_has_wall(b) else 0

cdef inline const char* block_prefix(const char* b) noexcept nogil:
    return b + BLOCK_HEADER + GROUP_SLOT * block_groups(b) + (8 if block_has_wall(b) else 0)

cdef inline uint64_t block_head(const char* b, uint32_t g) noexcept nogil:
    return get64(b + BLOCK_HEADER + 8 * g)

cdef inline uint32_t block_group(const char* b, uint32_t g) noexcept nogil:
    """Where group g begins; its entries follow 4 bytes later."""
    return get32(b + BLOCK_HEADER + 8 * block_groups(b) + 4 * g)

cdef inline uint32_t block_group_end(const char* b, uint32_t g) noexcept nogil:
    return block_group(b, g + 1) if g + 1 < block_groups(b) else block_keys_end(b)

cdef inline const uint8_t* item_read(const uint8_t* p, Item* i) noexcept nogil:
    """The entry at p, which block_check has seen; returns the byte after it."""
    cdef uint64_t v = 0
    p = trusted_varint(p, &v)
    i.shared = <uint32_t>v
    p = trusted_varint(p, &v)
    i.unshared = <uint32_t>v
    p = wide_varint(p, &v)
    i.tags = <uint32_t>v & ((1 << TAG_BITS) - 1)
    i.vlen = <uint32_t>(v >> TAG_BITS)
    p = wide_varint(p, &i.delta)
    if i.tags & TAG_WALL:
        p = wide_varint(p, &i.wall)
    i.suffix = p
    return p + i.unshared

cdef inline uint32_t item_room(const Item* i) noexcept nogil:
    """Bytes that the entry has among the values."""
    return FAR_BYTES if i.tags & TAG_FAR else i.vlen

cdef inline uint64_t item_wall(const Item* i, uint64_t base) noexcept nogil:
    if not i.tags & TAG_WALL:
        return 0
    return base + ((i.wall >> 1) ^ (0 - (i.wall & 1)))

# The first entry at or after (key, ts), a key's versions being in descending order of ts. False: all of the block's are before it.
cdef bint block_find(const char* b, const char* key, size_t klen, uint64_t ts, uint64_t base_ts, BlockPlace* at) noexcept nogil
cdef void block_first(const char* b, BlockPlace* at) noexcept nogil
cdef void block_enter(const char* b, uint32_t g, BlockPlace* at) noexcept nogil       # the first entry of group g
# NULL, or what is wrong with n bytes, of which it may read BLOCK_SLACK more. *where is the offset within the block.
cdef const char* block_check(const char* b, size_t n, uint64_t base_ts, BlockBounds* bounds, uint32_t* where) noexcept nogil

cdef struct GroupStart:            # in a BlockBuilder
    uint32_t at                    # in `keys`: of the first entry's tags, ts and wall, then its whole key
    uint32_t head                  # bytes of those tags, ts and wall
    uint32_t klen
    uint32_t value                 # in `values`

cdef struct BlockBuilder:
    uint32_t limit                 # bytes that the block may have
    uint32_t interval              # entries of a group
    uint64_t base_ts
    uint64_t base_wall
    bint has_wall
    uint32_t entries
    uint32_t groups
    uint32_t in_group              # entries of the last group
    uint32_t prefix_len            # of all keys so far
    uint32_t last_len
    uint64_t last_ts
    uint8_t* keys
    uint32_t keys_used
    uint8_t* values
    uint32_t values_used
    GroupStart* starts
    uint32_t room_starts
    uint8_t last[TABLE_MAX_KEY + 8]

cdef int builder_init(BlockBuilder* b, uint32_t limit, uint32_t interval, uint64_t base_ts) noexcept nogil     # OK, E_NOMEM
cdef void builder_free(BlockBuilder* b) noexcept nogil
cdef inline uint32_t builder_most(uint32_t klen, uint32_t room) noexcept nogil:
    """Bytes that a block of one entry has at most."""
    return BLOCK_HEADER + 8 + GROUP_COST + 32 + klen + room
# In order, not tested here. `value` are the bytes among the values: FAR_BYTES for a far one. OK; AGAIN: it does not fit; E_NOMEM.
cdef int builder_add(BlockBuilder* b, const char* key, uint32_t klen, uint64_t ts, uint64_t wall, uint32_t tags, uint32_t vlen,
                     const char* value, uint32_t room) noexcept nogil
# Writes the block to `out`, where there is room for `limit` bytes, and begins the next; returns its size.
cdef uint32_t builder_finish(BlockBuilder* b, char* out) noexcept nogil
