"""Changing a node: inserts, replacements, removals, compaction, and filling a fresh node from another's records."""
from libc.string cimport memcpy, memmove, memset

from ..page.layout cimport PAGE_LEAF, PAGE_INNER
from .node cimport *


cdef inline void set16(char* page, int field, size_t v) noexcept nogil:
    put16(page + field, <uint16_t>v)


cdef inline void place(char* slot, const char* s, size_t n, size_t offset) noexcept nogil:
    put32(slot, key_head(s, n))
    put16(slot + 4, <uint16_t>offset)
    put16(slot + 6, <uint16_t>n)


cdef inline size_t common(const char* a, size_t n, const char* b, size_t m) noexcept nogil:
    cdef size_t i = 0
    if m < n:
        n = m
    while i < n and a[i] == b[i]:
        i += 1
    return i


cdef void node_init(char* page, uint32_t page_size, int level, uint32_t keyspace, uint64_t pid, uint64_t next,
                    uint64_t leftmost, const char* lower, size_t lower_len, const char* upper, size_t upper_len) noexcept nogil:
    cdef size_t low = page_size
    memset(page, 0, PAGE_HEADER)
    page[OFF_TYPE] = PAGE_LEAF if level == 0 else PAGE_INNER
    page[OFF_LEVEL] = <char>level
    put16(page + OFF_VOUCHED, 1)                 # made here, to fit its parent
    put32(page + OFF_KEYSPACE, keyspace)
    put64(page + OFF_PID, pid)
    put64(page + OFF_NEXT, next)
    put64(page + OFF_LEFTMOST, leftmost)
    if lower != NULL:
        low -= lower_len
        memcpy(page + low, lower, lower_len)
        set16(page, OFF_LOWER_OFF, low)
        set16(page, OFF_LOWER_LEN, lower_len)
    if upper != NULL:
        low -= upper_len
        memcpy(page + low, upper, upper_len)
        set16(page, OFF_UPPER_OFF, low)
        set16(page, OFF_UPPER_LEN, upper_len)
        if lower != NULL:
            set16(page, OFF_PREFIX_LEN, common(lower, lower_len, upper, upper_len))
    set16(page, OFF_HEAP_LOW, low)


cdef void node_compact(char* page, uint32_t page_size) noexcept nogil:
    cdef char old[MAX_PAGE_SIZE]
    cdef size_t from_low = get16(page + OFF_HEAP_LOW)
    cdef size_t low = page_size
    cdef size_t n, offset
    cdef int _i
    cdef int count = node_count(page)
    cdef char* slot
    memcpy(old + from_low, page + from_low, page_size - from_low)
    offset = get16(page + OFF_LOWER_OFF)
    if offset != 0:
        n = get16(page + OFF_LOWER_LEN)
        low -= n
        memcpy(page + low, old + offset, n)
        set16(page, OFF_LOWER_OFF, low)
    offset = get16(page + OFF_UPPER_OFF)
    if offset != 0:
        n = get16(page + OFF_UPPER_LEN)
        low -= n
        memcpy(page + low, old + offset, n)
        set16(page, OFF_UPPER_OFF, low)
    slot = page + PAGE_HEADER
    for _i in range(count):
        offset = get16(slot + 4)
        if page[OFF_LEVEL] == 0:
            n = LEAF_RECORD + get16(slot + 6) + (get16(old + offset) & VALUE_LENGTH)
        else:
            n = INNER_RECORD + get16(slot + 6)
        low -= n
        memcpy(page + low, old + offset, n)
        put16(slot + 4, <uint16_t>low)
        slot += SLOT_SIZE
    set16(page, OFF_HEAP_LOW, low)
    set16(page, OFF_GARBAGE, 0)


cdef inline char* open_slot(char* page, uint32_t page_size, int at, size_t size) noexcept nogil:
    """Makes room for a record of `size` bytes, lowers the heap by it and moves the slots from `at` on; returns slot `at`."""
    cdef char* slot
    cdef int count = node_count(page)
    if node_gap(page) < size + SLOT_SIZE:
        node_compact(page, page_size)
    set16(page, OFF_HEAP_LOW, get16(page + OFF_HEAP_LOW) - size)
    set16(page, OFF_COUNT, count + 1)
    slot = page + PAGE_HEADER + <size_t>at * SLOT_SIZE
    if at < count:
        memmove(slot + SLOT_SIZE, slot, <size_t>(count - at) * SLOT_SIZE)
    return slot


cdef void leaf_insert(char* page, uint32_t page_size, int at, const char* s, size_t n, uint16_t word,
                      const char* value, size_t vlen) noexcept nogil:
    cdef char* slot = open_slot(page, page_size, at, LEAF_RECORD + n + vlen)
    cdef size_t low = get16(page + OFF_HEAP_LOW)
    cdef char* record = page + low
    put16(record, word)
    memcpy(record + LEAF_RECORD, s, n)
    if vlen != 0:
        memcpy(record + LEAF_RECORD + n, value, vlen)
    place(slot, s, n, low)


cdef void inner_insert(char* page, uint32_t page_size, int at, const char* s, size_t n, uint64_t child) noexcept nogil:
    cdef char* slot = open_slot(page, page_size, at, INNER_RECORD + n)
    cdef size_t low = get16(page + OFF_HEAP_LOW)
    put64(page + low, child)
    memcpy(page + low + INNER_RECORD, s, n)
    place(slot, s, n, low)


cdef inline void discard(char* page, size_t offset, size_t size) noexcept nogil:
    """Gives the bytes of a record back: to the gap when they lie at its edge, else as garbage."""
    if offset == get16(page + OFF_HEAP_LOW):
        set16(page, OFF_HEAP_LOW, offset + size)
    else:
        set16(page, OFF_GARBAGE, get16(page + OFF_GARBAGE) + size)


cdef void node_remove(char* page, int at) noexcept nogil:
    cdef int count = node_count(page)
    cdef char* slot = page + PAGE_HEADER + <size_t>at * SLOT_SIZE
    discard(page, get16(slot + 4), record_size(page, at))
    memmove(slot, slot + SLOT_SIZE, <size_t>(count - at - 1) * SLOT_SIZE)
    set16(page, OFF_COUNT, count - 1)


cdef void leaf_replace(char* page, uint32_t page_size, int at, uint16_t word, const char* value, size_t vlen) noexcept nogil:
    cdef char suffix[MAX_KEY_BYTES]
    cdef char* slot = page + PAGE_HEADER + <size_t>at * SLOT_SIZE
    cdef size_t offset = get16(slot + 4)
    cdef size_t n = get16(slot + 6)
    cdef char* record = page + offset
    cdef size_t old = get16(record) & VALUE_LENGTH
    cdef size_t low
    if vlen <= old:
        put16(record, word)
        if vlen != 0:
            memcpy(record + LEAF_RECORD + n, value, vlen)
        set16(page, OFF_GARBAGE, get16(page + OFF_GARBAGE) + old - vlen)
    elif node_gap(page) >= LEAF_RECORD + n + vlen:
        low = get16(page + OFF_HEAP_LOW) - LEAF_RECORD - n - vlen
        put16(page + low, word)
        memcpy(page + low + LEAF_RECORD, record + LEAF_RECORD, n)
        memcpy(page + low + LEAF_RECORD + n, value, vlen)
        set16(page, OFF_HEAP_LOW, low)
        set16(page, OFF_GARBAGE, get16(page + OFF_GARBAGE) + LEAF_RECORD + n + old)
        put16(slot + 4, <uint16_t>low)
    else:
        memcpy(suffix, record + LEAF_RECORD, n)
        node_remove(page, at)
        leaf_insert(page, page_size, at, suffix, n, word, value, vlen)


cdef size_t node_longest_key(const char* page) noexcept nogil:
    cdef size_t longest = 0
    cdef size_t n
    cdef int i
    for i in range(node_count(page)):
        n = node_suffix_len(page, i)
        if n > longest:
            longest = n
    return longest + node_prefix_len(page)


cdef int node_items(const char* page, Item* items) noexcept nogil:
    cdef int i
    cdef int count = node_count(page)
    cdef bint leaf = node_is_leaf(page)
    cdef const char* record
    cdef const char* slot = page + PAGE_HEADER
    for i in range(count):
        record = page + get16(slot + 4)
        items[i].n = get16(slot + 6)
        if leaf:
            items[i].s = record + LEAF_RECORD
            items[i].word = get16(record)
            items[i].body = record + LEAF_RECORD + items[i].n
            items[i].child = 0
        else:
            items[i].s = record + INNER_RECORD
            items[i].word = 0
            items[i].body = NULL
            items[i].child = get64(record)
        slot += SLOT_SIZE
    return count


cdef size_t items_size(const Item* items, int count, bint leaf, size_t npre, size_t drop) noexcept nogil:
    cdef size_t total = <size_t>count * (SLOT_SIZE + (LEAF_RECORD if leaf else INNER_RECORD) + npre)
    cdef int i
    for i in range(count):
        total += items[i].n - drop + (items[i].word & VALUE_LENGTH)
    return total


cdef void node_fill(char* dst, const Item* items, int count, const char* pre, size_t npre, size_t drop) noexcept nogil:
    cdef int i
    cdef int have = node_count(dst)
    cdef bint leaf = node_is_leaf(dst)
    cdef size_t low = get16(dst + OFF_HEAP_LOW)
    cdef size_t n, vlen
    cdef char* slot = dst + PAGE_HEADER + <size_t>have * SLOT_SIZE
    cdef char* s
    for i in range(count):
        n = items[i].n - drop
        if leaf:
            vlen = items[i].word & VALUE_LENGTH
            low -= LEAF_RECORD + npre + n + vlen
            put16(dst + low, items[i].word)
            s = dst + low + LEAF_RECORD
            memcpy(s + npre + n, items[i].body, vlen)
        else:
            low -= INNER_RECORD + npre + n
            put64(dst + low, items[i].child)
            s = dst + low + INNER_RECORD
        memcpy(s, pre, npre)
        memcpy(s + npre, items[i].s + drop, n)
        place(slot, s, npre + n, low)
        slot += SLOT_SIZE
    set16(dst, OFF_HEAP_LOW, low)
    set16(dst, OFF_COUNT, have + count)
