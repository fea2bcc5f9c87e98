"""Bloom filters: see filter.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from ..base.coding cimport put32

cdef enum:
    LINE_BITS = 512


cdef uint32_t lines_for(uint64_t keys, uint32_t bits_per_key) noexcept nogil:
    cdef uint64_t n = (keys * bits_per_key + LINE_BITS - 1) // LINE_BITS
    if n == 0:
        n = 1
    return <uint32_t>n if n < 0x3FFFFFF else 0x3FFFFFF


cdef size_t filter_size(uint64_t keys, uint32_t bits_per_key) noexcept nogil:
    return FILTER_HEADER + <size_t>FILTER_LINE * lines_for(keys, bits_per_key)


cdef void filter_build(const uint64_t* hashes, uint64_t keys, uint32_t bits_per_key, uint8_t* out) noexcept nogil:
    cdef uint32_t lines = lines_for(keys, bits_per_key)
    cdef uint32_t probes = bits_per_key * 69 // 100          # ln 2 bits of each key's are best
    cdef uint32_t h, bit, _k
    cdef uint64_t i
    cdef uint8_t* line
    if probes < 1:
        probes = 1
    if probes > FILTER_MOST_PROBES:
        probes = FILTER_MOST_PROBES
    memset(out, 0, FILTER_HEADER + <size_t>FILTER_LINE * lines)
    put32(out, lines)
    put32(out + 4, probes)
    for i in range(keys):
        line = <uint8_t*>filter_line(out, lines, hashes[i])
        h = <uint32_t>hashes[i]
        for _k in range(probes):
            bit = h >> 23
            line[bit >> 3] |= <uint8_t>(1 << (bit & 7))
            h *= <uint32_t>0x9E3779B9
