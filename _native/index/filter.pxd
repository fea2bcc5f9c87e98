"""Bloom filters whose bits for one key lie in one line of the cache (Putze, Sanders, Singler, Cache-, hash- and space-efficient Bloom filters, WEA 2007).

On disk:  u32 lines | u32 probes | lines * 64 bytes.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ..base.coding cimport get64                    # EL_LE64 comes with it

cdef enum:                         # on disk: never change
    FILTER_HEADER = 8
    FILTER_LINE = 64
    FILTER_MOST_PROBES = 16

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* On disk: never change. Multiply and fold, eight bytes at a time, little-endian. */
    static inline uint64_t el_table_mix(uint64_t a, uint64_t b) {
        unsigned __int128 r = (unsigned __int128)a * b;
        return (uint64_t)r ^ (uint64_t)(r >> 64);
    }
    static inline uint64_t el_table_hash(const char* p, size_t n) {
        uint64_t h = 0x51ED270B9F65A2C1ull ^ (n * 0xD6E8FEB86659FD93ull), v = 0;
        while (n > 8) { memcpy(&v, p, 8); h = el_table_mix(h ^ EL_LE64(v), 0xA0761D6478BD642Full); p += 8; n -= 8; }
        v = 0; memcpy(&v, p, n);
        return el_table_mix(h ^ EL_LE64(v), 0xE7037ED1A0B428DBull);
    }
    """
    uint64_t filter_hash "el_table_hash"(const char* p, size_t n) noexcept nogil

cdef inline const uint8_t* filter_line(const uint8_t* filter, uint32_t lines, uint64_t hash) noexcept nogil:
    return filter + FILTER_HEADER + FILTER_LINE * (((hash >> 32) * lines) >> 32)

cdef inline bint filter_test(const uint8_t* line, uint32_t probes, uint64_t hash) noexcept nogil:
    cdef uint32_t h = <uint32_t>hash
    cdef uint32_t bit
    while probes:
        bit = h >> 23
        if not line[bit >> 3] & (1 << (bit & 7)):
            return False
        h *= <uint32_t>0x9E3779B9
        probes -= 1
    return True

# Bytes of a filter for so many keys.
cdef size_t filter_size(uint64_t keys, uint32_t bits_per_key) noexcept nogil
# Writes it to `out`, which has filter_size bytes.
cdef void filter_build(const uint64_t* hashes, uint64_t keys, uint32_t bits_per_key, uint8_t* out) noexcept nogil
