"""Packing, unpacking and checking slotted pages. The page format itself stands in layout.pxd.

Bytes read from a file pass layout_unpack and layout_check before anything else looks at them: from then on every offset
and length in the page may be followed without a test, and every node operation may count on the bounds proved here.
"""
from libc.string cimport memcpy, memset, memchr

from ..base.coding cimport get16, get32, get64, put16, be32, compare_bytes


cdef size_t layout_pack(const char* page, uint32_t page_size, char* out, size_t unit) noexcept nogil:
    cdef size_t front = PAGE_HEADER + <size_t>get16(page + OFF_COUNT) * SLOT_SIZE
    cdef size_t low = get16(page + OFF_HEAP_LOW)
    cdef size_t n = front + page_size - low
    cdef size_t size = (n + unit - 1) // unit * unit
    memcpy(out, page, front)
    put16(out + OFF_VOUCHED, 0)
    memcpy(out + front, page + low, page_size - low)
    memset(out + n, 0, size - n)
    return size


cdef bint layout_unpack(const char* packed, size_t n, char* page, uint32_t page_size) noexcept nogil:
    cdef size_t front, low
    if n < PAGE_HEADER:
        return False
    front = PAGE_HEADER + <size_t>get16(packed + OFF_COUNT) * SLOT_SIZE
    low = get16(packed + OFF_HEAP_LOW)
    if front > low or low > page_size or front + page_size - low > n or get16(packed + OFF_VOUCHED) != 0:
        return False
    memcpy(page, packed, front)
    memset(page + front, 0, low - front)
    memcpy(page + low, packed + front, page_size - low)
    return True


cdef inline bint claim(uint8_t* taken, size_t offset, size_t n) noexcept nogil:
    """Takes n bytes of the heap for one owner; False when some of them have one."""
    if memchr(taken + offset, 1, n) != NULL:
        return False
    memset(taken + offset, 1, n)
    return True


cdef inline uint32_t true_head(const char* suffix, size_t n) noexcept nogil:
    cdef char four[4]
    if n >= 4:
        return be32(suffix)
    memset(four, 0, 4)
    memcpy(four, suffix, n)
    return be32(four)


cdef const char* layout_check(const char* page, uint32_t page_size, uint64_t pid) noexcept nogil:
    cdef uint8_t taken[MAX_PAGE_SIZE]
    cdef uint8_t kind = <uint8_t>page[OFF_TYPE]
    cdef uint8_t level = <uint8_t>page[OFF_LEVEL]
    cdef size_t count = get16(page + OFF_COUNT)
    cdef size_t low = get16(page + OFF_HEAP_LOW)
    cdef size_t garbage = get16(page + OFF_GARBAGE)
    cdef size_t prefix = get16(page + OFF_PREFIX_LEN)
    cdef size_t lower_off = get16(page + OFF_LOWER_OFF)
    cdef size_t lower_len = get16(page + OFF_LOWER_LEN)
    cdef size_t upper_off = get16(page + OFF_UPPER_OFF)
    cdef size_t upper_len = get16(page + OFF_UPPER_LEN)
    cdef size_t max_key, max_inline, used, i, offset, length, size, last_length, vlen, before
    cdef uint16_t word
    cdef uint64_t child
    cdef const char* slot
    cdef const char* suffix
    cdef const char* last
    cdef int c

    if not layout_page_size_valid(page_size):
        return "the page size is not a power of two from 4096 to 32768"
    max_key = layout_max_key(page_size)
    max_inline = layout_max_inline(page_size)
    if kind != PAGE_LEAF and kind != PAGE_INNER:
        return "the page type is neither leaf nor inner"
    if (kind == PAGE_LEAF) != (level == 0) or level > MAX_LEVEL:
        return "the level does not go with the page type"
    if PAGE_HEADER + count * SLOT_SIZE > low or low > page_size:
        return "slots and heap overlap or the heap starts outside the page"
    if get64(page + OFF_PID) != pid:
        return "the page bears another page's number"
    if pid != 0 and get64(page + OFF_NEXT) == pid:
        return "the page is its own sibling"
    child = get64(page + OFF_LEFTMOST)
    if (kind == PAGE_INNER) != (child != 0):
        return "the leftmost child does not go with the page type"
    if kind == PAGE_INNER and child == pid:
        return "the page is its own child"

    # Fences
    if (lower_off == 0) != (lower_len == 0) or (upper_off == 0) != (upper_len == 0):
        return "a fence has a place but no length, or a length but no place"
    if lower_len > max_key or upper_len > max_key:
        return "a fence is longer than any key"
    if lower_off != 0 and (lower_off < low or lower_off + lower_len > page_size):
        return "the lower fence lies outside the heap"
    if upper_off != 0 and (upper_off < low or upper_off + upper_len > page_size):
        return "the upper fence lies outside the heap"
    if lower_off == 0 or upper_off == 0:
        if prefix != 0:
            return "a prefix without two fences"
    else:
        if compare_bytes(page + lower_off, lower_len, page + upper_off, upper_len) >= 0:
            return "the fences are out of order"
        i = 0
        while i < lower_len and i < upper_len and page[lower_off + i] == page[upper_off + i]:
            i += 1
        if prefix != i:
            return "the prefix is not the common prefix of the fences"
    memset(taken, 0, page_size)
    if lower_off != 0:
        claim(taken, lower_off, lower_len)
    if upper_off != 0 and not claim(taken, upper_off, upper_len):
        return "the fences overlap"
    used = lower_len + upper_len

    # Records
    before = LEAF_RECORD if kind == PAGE_LEAF else INNER_RECORD
    last = NULL
    last_length = 0
    slot = page + PAGE_HEADER
    for i in range(count):
        offset = get16(slot + 4)
        length = get16(slot + 6)
        if offset < low or offset + before + length > page_size:
            return "a record lies outside the heap"
        if prefix + length > max_key:
            return "a key is longer than allowed"
        size = before + length
        if kind == PAGE_LEAF:
            word = get16(page + offset)
            vlen = word & VALUE_LENGTH
            size += vlen
            if offset + size > page_size:
                return "a value lies outside the heap"
            if prefix + length + vlen > max_inline:
                return "a record is longer than allowed"
            if word & VALUE_GHOST:
                if word != VALUE_GHOST:
                    return "a ghost has a value"
            elif word & VALUE_BLOB:
                if vlen != BLOB_REF:
                    return "a blob reference is not 16 bytes long"
                if get64(page + offset + before + length) == 0:
                    return "a blob reference names no page"
        else:
            child = get64(page + offset)
            if child == 0 or child == pid:
                return "a child is no page, or the page itself"
        if not claim(taken, offset, size):
            return "records overlap"
        used += size
        suffix = page + offset + before
        if get32(slot) != true_head(suffix, length):
            return "a slot's head is not that of its key"
        if i != 0:
            c = compare_bytes(last, last_length, suffix, length)
            if c >= 0:
                return "keys are not in strictly ascending order"
        elif lower_off != 0:
            c = compare_bytes(page + lower_off + prefix, lower_len - prefix, suffix, length)
            if c > 0 or (c == 0 and kind == PAGE_INNER):
                return "a key lies below the lower fence"
        elif kind == PAGE_INNER and length == 0:
            return "a key lies below the lower fence"
        last = suffix
        last_length = length
        slot += SLOT_SIZE
    if count != 0 and upper_off != 0 and compare_bytes(last, last_length, page + upper_off + prefix, upper_len - prefix) >= 0:
        return "a key lies above the upper fence"
    if used + garbage != page_size - low:
        return "the bytes in use and the garbage do not add up to the heap"
    return NULL
