"""An index block: which block holds what, as it lies on disk and is searched in memory, aligned to 8 bytes.

    0   u32 count      4  u32 first: data block that the first entry leads to      8  u32 spanned: data blocks that all of them lead to
    12  u16 prefix_len: of what all separators begin with      14  u16 level: 0 leads to data blocks, 1 to index blocks of level 0 ("partitions")
    16  count * u64 head: first eight bytes of the separator after the prefix, as a big-endian number, zero-padded
        count * u64 offset in the file
        count * u32 stored bytes there, the trailer included
        count * u32 where the separator's tail is in this block
        level 1: count * u32 first data block of the partition
        the prefix, then the tails in order: u16 length after the prefix (INDEX_TIMED: a timestamp follows), what exceeds eight bytes, [u64 ts]

Block i holds what is at or after separator i and before separator i + 1; the first separator is empty, for the block above tells it.  A separator without
timestamp is before all versions of its key; one with a timestamp divides a key's versions: those of at most that timestamp are behind it.
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from ..base.coding cimport get16, get32, get64
from .block cimport TABLE_MAX_KEY

cdef enum:                         # on disk: never change
    INDEX_HEADER = 16
    INDEX_ENTRY = 24               # bytes of an entry at level 0, without its tail
    INDEX_TIMED = 0x8000

cdef struct Separator:             # one made whole
    uint32_t klen
    uint64_t ts                    # all ones: before all versions
    char key[TABLE_MAX_KEY]

cdef struct IndexItem:             # what an index block is built from
    uint64_t offset
    uint64_t ts                    # of the separator; all ones: none
    uint64_t key_at                # in the arena of separators
    uint32_t klen
    uint32_t size
    uint32_t first

cdef inline uint32_t index_count(const char* x) noexcept nogil:
    return get32(x)

cdef inline uint32_t index_first(const char* x) noexcept nogil:
    return get32(x + 4)

cdef inline uint32_t index_spanned(const char* x) noexcept nogil:
    return get32(x + 8)

cdef inline uint32_t index_level(const char* x) noexcept nogil:
    return get16(x + 14)

cdef inline uint64_t index_offset(const char* x, uint32_t i) noexcept nogil:
    return get64(x + INDEX_HEADER + 8 * <uint64_t>(index_count(x) + i))

cdef inline uint32_t index_size(const char* x, uint32_t i) noexcept nogil:
    return get32(x + INDEX_HEADER + 16 * <uint64_t>index_count(x) + 4 * <uint64_t>i)

cdef inline uint32_t index_first_of(const char* x, uint32_t i) noexcept nogil:
    """The first data block under entry i."""
    if index_level(x) == 0:
        return index_first(x) + i
    return get32(x + INDEX_HEADER + 24 * <uint64_t>index_count(x) + 4 * <uint64_t>i)

# The last entry whose separator is at or before (key, ts); the first entry if there is none.
cdef uint32_t index_search(const char* x, const char* key, size_t klen, uint64_t ts) noexcept nogil
# The entry of a top block under which a data block is.
cdef uint32_t index_partition_of(const char* x, uint32_t block) noexcept nogil
# Makes separator i (not the first) whole.
cdef void index_separator(const char* x, uint32_t i, Separator* out) noexcept nogil
# (a, ts) before, at or behind the separator: -1, 0, 1; of what is at it, it is the first.
cdef int separator_compare(const Separator* s, const char* key, size_t klen, uint64_t ts) noexcept nogil
# NULL, or what is wrong: all but what the file alone can tell. Offsets ascend, blocks do not overlap and lie in [low, high), none has more than `most` bytes.
cdef const char* index_check(const char* x, size_t n, uint32_t level, uint64_t low, uint64_t high, uint32_t most, uint32_t* where) noexcept nogil
# Bytes of an entry at most, the separator's included.
cdef uint32_t index_item_most(const IndexItem* i, bint leads) noexcept nogil
# The size of the block; written to `out` unless that is NULL.
cdef uint64_t index_build(const IndexItem* items, uint32_t count, const char* arena, uint32_t level, uint32_t first, uint32_t spanned, char* out) noexcept nogil
