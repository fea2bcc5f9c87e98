"""Compression of blocks with LZ4 or Zstandard, where the build found their libraries."""
from libc.stdint cimport uint8_t

cdef bint compression_built(int compression) noexcept nogil
# Most bytes that compressing n may take.
cdef size_t compressed_most(int compression, size_t n) noexcept nogil
# The bytes of `out` used; 0 when they would be more than `room`, or something failed: the block then stays plain.
cdef size_t compress_bytes(int compression, const char* data, size_t n, char* out, size_t room) noexcept nogil
# True when exactly `raw` bytes came out of it.
cdef bint expand_bytes(int compression, const char* data, size_t n, char* out, size_t raw) noexcept nogil
