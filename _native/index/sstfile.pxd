"""What lies where in the file of a sorted table, for its writer and its readers.

    data blocks in order, each followed by its seal; between them the values too large for a block, sealed likewise
    range tombstones (if any) | filter (if any) | index partitions (if two levels) | top of the index | properties: each sealed
    footer: FOOTER bytes

A seal: u8 compression | u32 bytes before compression | u32 CRC-32C of the stored bytes, the seal's first five bytes, the number of the file and the offset of the block.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:                         # on disk: never change
    TABLE_VERSION = 1
    SEAL = 9
    FOOTER = 96
    FOOT_RANGES = 16               # each: u64 offset, u64 bytes with the seal; 0, 0: none
    FOOT_FILTER = 32
    FOOT_INDEX = 48
    FOOT_PROPERTIES = 64
    FOOT_NUMBER = 80
    FOOT_SUM = 92
    PROPERTIES = 104               # before the two keys
    PROP_ENTRIES = 0
    PROP_TOMBSTONES = 8
    PROP_RANGES = 16
    PROP_OLDEST = 24
    PROP_NEWEST = 32
    PROP_OLDEST_WALL = 40
    PROP_NEWEST_WALL = 48
    PROP_RAW = 56
    PROP_BASE = 64                 # what timestamps in blocks are counted from
    PROP_BLOCKS = 72               # u32: data blocks
    PROP_PARTITIONS = 76           # u32: of the index; 0: it has one level
    PROP_BLOCK_SIZE = 80           # u32: most bytes of a block before compression
    PROP_COMPRESSION = 84          # u8
    PROP_UNBOUNDED = 85            # u8
    PROP_KEYS = 88                 # u64: keys, each counted once
    PROP_SMALLEST = 96             # u32 length; its bytes after PROPERTIES
    PROP_LARGEST = 100             # u32 length
    RANGE_ROW = 16                 # u32 start length, u32 stop length (all ones: no upper end), u64 ts; then the bytes

cdef extern from *:
    """
    #define EL_TABLE_MAGIC 0x014C4254534C4E45ull     /* "ENLSTBL" and 1 */
    """
    const uint64_t TABLE_MAGIC "EL_TABLE_MAGIC"

# The sum that a seal at `offset` of file `number` has over n stored bytes and its own first five.
cdef uint32_t seal_sum(const char* stored, size_t n, const char* seal, uint64_t number, uint64_t offset) noexcept nogil
# Writes the seal behind n stored bytes.
cdef void seal_put(char* stored, size_t n, uint8_t compression, uint32_t raw, uint64_t number, uint64_t offset) noexcept nogil
# NULL, or what is wrong with n bytes, seal included, of which at most `most` may come out; raw: how many; *expected and *found: the sums.
cdef const char* seal_check(const char* stored, size_t n, uint64_t number, uint64_t offset, uint64_t most, uint8_t* compression, uint32_t* raw,
                            uint32_t* expected, uint32_t* found) noexcept nogil
