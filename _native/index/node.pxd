"""A B-tree node: reading and searching one page (inline, for the tree and the scan loop of the transaction layer), and changing it.

The page has passed layout_check, or was made here: nothing below tests an offset again.  A key is compared with a node's
keys after the node's prefix is cut off; the caller has made sure that the key lies within the fences (so it bears the prefix).
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memcmp

from ..base.coding cimport get16, get32, get64, put16, put32, put64, be32, compare_bytes
from ..page.layout cimport (
    PAGE_HEADER, SLOT_SIZE, LEAF_RECORD, INNER_RECORD, VALUE_LENGTH, VALUE_GHOST, VALUE_BLOB,
    OFF_TYPE, OFF_LEVEL, OFF_COUNT, OFF_HEAP_LOW, OFF_GARBAGE, OFF_PREFIX_LEN, OFF_LOWER_OFF, OFF_LOWER_LEN,
    OFF_UPPER_OFF, OFF_UPPER_LEN, OFF_VOUCHED, OFF_KEYSPACE, OFF_PID, OFF_NEXT, OFF_LEFTMOST, MAX_PAGE_SIZE)

cdef extern from *:
    """
    #define el_prefetch(p) __builtin_prefetch(p)
    #define el_likely(x) __builtin_expect(!!(x), 1)
    #define el_unlikely(x) __builtin_expect(!!(x), 0)
    """
    void prefetch "el_prefetch"(const void* p) noexcept nogil
    bint likely "el_likely"(bint x) noexcept nogil
    bint unlikely "el_unlikely"(bint x) noexcept nogil

# --- header -------------------------------------------------------------------------------------------------------

cdef inline bint node_is_leaf(const char* page) noexcept nogil:
    return page[OFF_LEVEL] == 0

cdef inline int node_level(const char* page) noexcept nogil:
    return <uint8_t>page[OFF_LEVEL]

cdef inline int node_count(const char* page) noexcept nogil:
    return get16(page + OFF_COUNT)

cdef inline uint32_t node_keyspace(const char* page) noexcept nogil:
    return get32(page + OFF_KEYSPACE)

cdef inline uint64_t node_pid(const char* page) noexcept nogil:
    return get64(page + OFF_PID)

cdef inline uint64_t node_next(const char* page) noexcept nogil:
    return get64(page + OFF_NEXT)

cdef inline size_t node_prefix_len(const char* page) noexcept nogil:
    return get16(page + OFF_PREFIX_LEN)

cdef inline const char* node_prefix(const char* page, size_t* length) noexcept nogil:
    """The bytes that every key of the node starts with."""
    length[0] = get16(page + OFF_PREFIX_LEN)
    return page + get16(page + OFF_LOWER_OFF)

cdef inline const char* node_lower(const char* page, size_t* length) noexcept nogil:
    """The lower fence, or NULL when there is none."""
    cdef size_t offset = get16(page + OFF_LOWER_OFF)
    length[0] = get16(page + OFF_LOWER_LEN)
    return page + offset if offset != 0 else NULL

cdef inline const char* node_upper(const char* page, size_t* length) noexcept nogil:
    """The upper fence, or NULL when there is none."""
    cdef size_t offset = get16(page + OFF_UPPER_OFF)
    length[0] = get16(page + OFF_UPPER_LEN)
    return page + offset if offset != 0 else NULL

# --- slots and records --------------------------------------------------------------------------------------------

cdef inline const char* node_slot(const char* page, int i) noexcept nogil:
    return page + PAGE_HEADER + <size_t>i * SLOT_SIZE

cdef inline const char* node_record(const char* page, int i) noexcept nogil:
    return page + get16(node_slot(page, i) + 4)

cdef inline size_t node_suffix_len(const char* page, int i) noexcept nogil:
    return get16(node_slot(page, i) + 6)

cdef inline const char* node_suffix(const char* page, int i, size_t* length) noexcept nogil:
    """The key of slot i after the prefix, in a leaf."""
    length[0] = get16(node_slot(page, i) + 6)
    return node_record(page, i) + LEAF_RECORD

cdef inline const char* node_separator(const char* page, int i, size_t* length) noexcept nogil:
    """The key of slot i after the prefix, in an inner node."""
    length[0] = get16(node_slot(page, i) + 6)
    return node_record(page, i) + INNER_RECORD

cdef inline const char* node_value(const char* page, int i, uint16_t* flags, uint32_t* vlen) noexcept nogil:
    """The value of slot i of a leaf: bytes, a blob's reference (VALUE_BLOB), or nothing (VALUE_GHOST)."""
    cdef const char* record = node_record(page, i)
    cdef uint16_t word = get16(record)
    flags[0] = word & (VALUE_GHOST | VALUE_BLOB)
    vlen[0] = word & VALUE_LENGTH
    return record + LEAF_RECORD + node_suffix_len(page, i)

cdef inline bint node_is_ghost(const char* page, int i) noexcept nogil:
    return (get16(node_record(page, i)) & VALUE_GHOST) != 0

cdef inline uint64_t node_child(const char* page, int i) noexcept nogil:
    """The child of slot i of an inner node; of slot -1 the leftmost."""
    if i < 0:
        return get64(page + OFF_LEFTMOST)
    return get64(node_record(page, i))

cdef inline size_t node_key_copy(const char* page, int i, char* out) noexcept nogil:
    """Writes the whole key of slot i to out; returns its length."""
    cdef size_t n, p
    cdef const char* prefix = node_prefix(page, &p)
    cdef const char* s
    if node_is_leaf(page):
        s = node_suffix(page, i, &n)
    else:
        s = node_separator(page, i, &n)
    memcpy(out, prefix, p)
    memcpy(out + p, s, n)
    return p + n

# --- search -------------------------------------------------------------------------------------------------------

cdef inline uint32_t key_head(const char* s, size_t n) noexcept nogil:
    """The first four bytes of a suffix, big-endian, zero-padded."""
    cdef uint32_t h
    if likely(n >= 4):
        return be32(s)
    h = 0
    if n > 0:
        h = <uint32_t>(<uint8_t>s[0]) << 24
    if n > 1:
        h |= <uint32_t>(<uint8_t>s[1]) << 16
    if n > 2:
        h |= <uint32_t>(<uint8_t>s[2]) << 8
    return h

cdef extern from *:
    """
    static inline uint64_t el_be64(const void* p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(EL_LE64(v)); }
    static inline int el_order(uint64_t a, uint64_t b) { return (a > b) - (a < b); }
    """
    uint64_t be64 "el_be64"(const void* p) noexcept nogil
    int order "el_order"(uint64_t a, uint64_t b) noexcept nogil

cdef inline int suffix_compare(const char* s, size_t n, const char* t, size_t m) noexcept nogil:
    """Compares two suffixes whose heads are equal: as far as both reach, their first four bytes are equal."""
    cdef size_t k = n if n < m else m
    cdef int c
    if k > 4:
        if k >= 12:
            c = order(be64(s + 4), be64(t + 4))
            if c != 0:
                return c
            if k > 12:
                c = memcmp(s + 12, t + 12, k - 12)
                if c != 0:
                    return c
        else:
            c = memcmp(s + 4, t + 4, k - 4)
            if c != 0:
                return c
    return <int>n - <int>m

cdef inline void prefetch_slots(const char* page) noexcept nogil:
    """Asks for the header and the first slots of a page about to be searched: all lines at once instead of one after another."""
    prefetch(page)
    prefetch(page + 64)
    prefetch(page + 128)
    prefetch(page + 192)
    prefetch(page + 256)
    prefetch(page + 320)
    prefetch(page + 384)
    prefetch(page + 448)

cdef inline void prefetch_record(const char* record) noexcept nogil:
    """The record, and as much of a value of ordinary size as a caller is about to copy."""
    prefetch(record)
    prefetch(record + 64)
    prefetch(record + 128)

cdef inline int head_lower_bound(const char* page, int count, uint32_t head) noexcept nogil:
    """The number of slots whose head is below `head`. No branch depends on a key."""
    cdef const char* base = page + PAGE_HEADER
    cdef size_t n = <size_t>count
    cdef size_t half
    if n == 0:
        return 0
    while n > 1:
        half = n >> 1
        base += (<size_t>0 - <size_t>(get32(base + (half - 1) * SLOT_SIZE) < head)) & (half * SLOT_SIZE)
        n -= half
    base += (<size_t>0 - <size_t>(get32(base) < head)) & SLOT_SIZE
    return <int>(<size_t>(base - page - PAGE_HEADER) >> 3)

cdef inline int node_resolve(const char* page, int count, size_t before, const char* s, size_t n, uint32_t head,
                             int at, bint* found) noexcept nogil:
    """From the first slot whose head is not below the key's to the first whose key is not below it."""
    cdef int c, low, high, mid, step
    cdef const char* slot
    found[0] = False
    if at >= count:
        return at
    slot = node_slot(page, at)
    if get32(slot) != head:
        return at
    c = suffix_compare(s, n, page + get16(slot + 4) + before, get16(slot + 6))
    if c <= 0:
        found[0] = c == 0
        return at
    at += 1
    if at >= count or get32(node_slot(page, at)) != head:
        return at
    # Many equal heads: gallop to their end, then halve.
    low = at
    step = 1
    high = at + 1
    while high < count and get32(node_slot(page, high)) == head:
        low = high
        step <<= 1
        high += step
    if high > count:
        high = count
    low = at                                  # keys below `low` are below the key; keys from `high` on may have greater heads
    while low < high:
        mid = (low + high) >> 1
        slot = node_slot(page, mid)
        if get32(slot) != head:
            high = mid
            continue
        c = suffix_compare(s, n, page + get16(slot + 4) + before, get16(slot + 6))
        if c > 0:
            low = mid + 1
        else:
            high = mid
            if c == 0:
                found[0] = True
                return mid
    return low

cdef inline int leaf_search(const char* page, const char* s, size_t n, bint* found) noexcept nogil:
    """The slot of the suffix, or where it would go."""
    cdef int count = node_count(page)
    cdef uint32_t head = key_head(s, n)
    return node_resolve(page, count, LEAF_RECORD, s, n, head, head_lower_bound(page, count, head), found)

cdef inline int inner_search(const char* page, const char* s, size_t n) noexcept nogil:
    """The slot of the child that holds the suffix; -1 the leftmost."""
    cdef int count = node_count(page)
    cdef uint32_t head = key_head(s, n)
    cdef bint found
    cdef int at = head_lower_bound(page, count, head)
    at = node_resolve(page, count, INNER_RECORD, s, n, head, at, &found)
    return at if found else at - 1

# --- room ---------------------------------------------------------------------------------------------------------

cdef inline size_t node_gap(const char* page) noexcept nogil:
    """Bytes between the slots and the heap."""
    return <size_t>get16(page + OFF_HEAP_LOW) - PAGE_HEADER - <size_t>get16(page + OFF_COUNT) * SLOT_SIZE

cdef inline size_t node_room(const char* page) noexcept nogil:
    """Bytes free once compacted."""
    return node_gap(page) + get16(page + OFF_GARBAGE)

cdef inline size_t node_used(const char* page, uint32_t page_size) noexcept nogil:
    """Bytes of slots, records and fences."""
    return page_size - PAGE_HEADER - node_room(page)

cdef inline size_t node_content(const char* page, uint32_t page_size) noexcept nogil:
    """Bytes of slots and records, fences left out."""
    return node_used(page, page_size) - get16(page + OFF_LOWER_LEN) - get16(page + OFF_UPPER_LEN)

cdef inline size_t leaf_record_size(const char* page, int i) noexcept nogil:
    return LEAF_RECORD + node_suffix_len(page, i) + (get16(node_record(page, i)) & VALUE_LENGTH)

cdef inline size_t record_size(const char* page, int i) noexcept nogil:
    if node_is_leaf(page):
        return leaf_record_size(page, i)
    return INNER_RECORD + node_suffix_len(page, i)

cdef inline bint key_in_fences(const char* page, const char* key, size_t klen) noexcept nogil:
    """lower <= key < upper."""
    cdef size_t n
    cdef const char* fence = node_upper(page, &n)
    if fence != NULL and compare_bytes(key, klen, fence, n) >= 0:
        return False
    fence = node_lower(page, &n)
    return fence == NULL or compare_bytes(key, klen, fence, n) >= 0

# --- change (node.pyx) --------------------------------------------------------------------------------------------

cdef enum:
    MAX_RECORDS = 4096            # more than a page can hold: slot and record take 10 bytes at least
    MAX_KEY_BYTES = 8192          # no key is longer, at any page size

# Makes an empty node; fences NULL = infinite. Everything else about the page is forgotten.
cdef void node_init(char* page, uint32_t page_size, int level, uint32_t keyspace, uint64_t pid, uint64_t next,
                    uint64_t leftmost, const char* lower, size_t lower_len, const char* upper, size_t upper_len) noexcept nogil
# Moves the records together, so that no garbage remains.
cdef void node_compact(char* page, uint32_t page_size) noexcept nogil
# Inserts at slot `at`; the caller knows that node_room suffices. `word` = flags | vlen.
cdef void leaf_insert(char* page, uint32_t page_size, int at, const char* s, size_t n, uint16_t word,
                      const char* value, size_t vlen) noexcept nogil
# Replaces the value at slot `at`; the caller knows that leaf_replace_fits.
cdef void leaf_replace(char* page, uint32_t page_size, int at, uint16_t word, const char* value, size_t vlen) noexcept nogil
cdef void inner_insert(char* page, uint32_t page_size, int at, const char* s, size_t n, uint64_t child) noexcept nogil
cdef void node_remove(char* page, int at) noexcept nogil
# The longest whole key in the node.
cdef size_t node_longest_key(const char* page) noexcept nogil

cdef inline bint leaf_replace_fits(const char* page, int at, size_t vlen) noexcept nogil:
    cdef size_t old = get16(node_record(page, at)) & VALUE_LENGTH
    return vlen <= old or LEAF_RECORD + node_suffix_len(page, at) + vlen <= node_room(page) + leaf_record_size(page, at)

# One record of a node that is being divided or merged: a key in two pieces (after the old prefix), and what follows it.
cdef struct Item:
    const char* s             # the suffix in its old node
    const char* body          # leaf: value; inner: NULL
    uint64_t child            # inner
    uint16_t n                # length of the suffix
    uint16_t word             # leaf: flags | vlen

# Appends items[from:to] to an empty node at `dst`, whose prefix is drop bytes longer than theirs, or for whom `pre`
# (npre bytes of their old prefix) comes before each suffix.
cdef void node_fill(char* dst, const Item* items, int count, const char* pre, size_t npre, size_t drop) noexcept nogil
# The bytes that node_fill will take, slots included.
cdef size_t items_size(const Item* items, int count, bint leaf, size_t npre, size_t drop) noexcept nogil
# Lists the records of a node.
cdef int node_items(const char* page, Item* items) noexcept nogil
