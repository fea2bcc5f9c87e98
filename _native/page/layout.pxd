"""The slotted page: what lies where in a B-tree node, and the operations on it that need nothing but the page itself.

    0   u8  type (LEAF 1, INNER 2)      1  u8 level (0 = leaf)      2  u16 number of slots
    4   u16 heap_low: lowest offset in use by the heap, which grows down from the page's end (page size 32 KiB at most)
    6   u16 garbage: bytes in the heap that no slot, fence or prefix refers to
    8   u16 prefix_len (common prefix of the two fences: every key in the node starts with it; it is the first bytes of the lower fence)
    10  u16 lower_off, 12 u16 lower_len, 14 u16 upper_off, 16 u16 upper_len  (fences: lower <= keys < upper; off 0 = none, infinite)
    18  u16 reserved: 0 on disk (in memory: whether the page has been held against its parent; packing clears it, unpacking insists on 0)
    20  u32 keyspace id
    24  u64 pid    32 u64 next: right sibling's pid or 0    40  u64 leftmost child (inner)
    48  slots: {u32 head, u16 offset, u16 suffix_len}: head = first four bytes of the key after the prefix, big-endian, zero-padded

Leaf record at its offset:  u16 flags|vlen (VALUE_GHOST 0x8000, VALUE_BLOB 0x4000, length in the low 14 bits), suffix bytes, value bytes.
Inner record: u64 child pid, suffix bytes.  Child of slot i holds keys >= key i (and < key i+1); leftmost child those below key 0.
In memory integers are little-endian as on disk.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:                        # on disk: never change
    PAGE_LEAF = 1
    PAGE_INNER = 2
    PAGE_HEADER = 48
    SLOT_SIZE = 8
    VALUE_GHOST = 0x8000
    VALUE_BLOB = 0x4000
    VALUE_LENGTH = 0x3FFF
    BLOB_REF = 16                 # u64 pid, u64 length
    LEAF_RECORD = 2               # bytes before the suffix in a leaf record
    INNER_RECORD = 8              # the same in an inner record
    OFF_TYPE = 0
    OFF_LEVEL = 1
    OFF_COUNT = 2
    OFF_HEAP_LOW = 4
    OFF_GARBAGE = 6
    OFF_PREFIX_LEN = 8
    OFF_LOWER_OFF = 10
    OFF_LOWER_LEN = 12
    OFF_UPPER_OFF = 14
    OFF_UPPER_LEN = 16
    OFF_VOUCHED = 18              # 0 on disk
    OFF_KEYSPACE = 20
    OFF_PID = 24
    OFF_NEXT = 32
    OFF_LEFTMOST = 40

cdef enum:
    MIN_PAGE_SIZE = 4096
    MAX_PAGE_SIZE = 32768
    DEFAULT_PAGE_SIZE = 8192
    MAX_LEVEL = 23                # of a root: MAX_LEVELS of the B-tree less one

cdef inline bint layout_page_size_valid(uint32_t page_size) noexcept nogil:
    """A power of two from 4 KiB to 32 KiB."""
    return MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE and (page_size & (page_size - 1)) == 0

cdef inline uint32_t layout_max_key(uint32_t page_size) noexcept nogil:
    """(page_size - 192) / 4, rounded down to hundreds: 900, 2000, 4000, 8100 bytes for 4, 8, 16, 32 KiB."""
    return (page_size - 192) // 400 * 100

cdef inline uint32_t layout_max_inline(uint32_t page_size) noexcept nogil:
    """Most key and value bytes of one record: (page_size - 48) / 4 - 10, so that four fit a leaf: 1002, 2026, 4074, 8170.

    With layout_max_key this makes every overfull node divisible: two of the largest records fit a node beside two of
    the longest fences, since 2 * (max_inline + 10 + max_key) <= page_size - 48; and max_key + BLOB_REF <= max_inline.
    """
    return (page_size - PAGE_HEADER) // 4 - (LEAF_RECORD + SLOT_SIZE)

# Writes the page without its unused middle to out (header and slots, then the heap), zero-padded to a multiple of `unit`; returns the size.
# At most page_size rounded up to `unit`.
cdef size_t layout_pack(const char* page, uint32_t page_size, char* out, size_t unit) noexcept nogil
# The reverse; False when the lengths in the header cannot be, or reserved bytes are not zero (a malicious or damaged page).
cdef bint layout_unpack(const char* packed, size_t n, char* page, uint32_t page_size) noexcept nogil
# Every offset and length within bounds, heads true, keys within the fences in strictly ascending order, pid as expected. NULL or what is wrong.
# Looks at everything that one page alone can tell: not at offset 18, which unpacking has seen to be zero.
cdef const char* layout_check(const char* page, uint32_t page_size, uint64_t pid) noexcept nogil
