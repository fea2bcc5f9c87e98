"""The file of a sorted table: see sstfile.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ..base.checksum cimport crc32c
from ..base.coding cimport get32, put32, put64
from .compress cimport compression_built
from .sstable cimport COMPRESS_NONE, COMPRESS_ZSTD


cdef uint32_t seal_sum(const char* stored, size_t n, const char* seal, uint64_t number, uint64_t offset) noexcept nogil:
    cdef char place[16]
    cdef uint32_t sum = crc32c(0, stored, n)
    put64(place, number)
    put64(place + 8, offset)
    sum = crc32c(sum, seal, 5)
    return crc32c(sum, place, 16)


cdef void seal_put(char* stored, size_t n, uint8_t compression, uint32_t raw, uint64_t number, uint64_t offset) noexcept nogil:
    cdef char* seal = stored + n
    seal[0] = <char>compression
    put32(seal + 1, raw)
    put32(seal + 5, seal_sum(stored, n, seal, number, offset))


cdef const char* seal_check(const char* stored, size_t n, uint64_t number, uint64_t offset, uint64_t most, uint8_t* compression, uint32_t* raw,
                            uint32_t* expected, uint32_t* found) noexcept nogil:
    cdef const char* seal
    expected[0] = found[0] = 0
    if n < SEAL:
        return "a block shorter than its seal"
    n -= SEAL
    seal = stored + n
    expected[0] = get32(seal + 5)
    found[0] = seal_sum(stored, n, seal, number, offset)
    if expected[0] != found[0]:
        return "checksum"
    compression[0] = <uint8_t>seal[0]
    raw[0] = get32(seal + 1)
    if compression[0] > COMPRESS_ZSTD or raw[0] > most or (compression[0] == COMPRESS_NONE and raw[0] != n):
        return "a seal that contradicts its block"
    if not compression_built(compression[0]):
        return "a block compressed by a library that this build lacks (enginelib info --build)"
    return NULL
