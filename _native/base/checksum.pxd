"""CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), initial value and final xor of all ones, chosen at run time."""
from libc.stdint cimport uint32_t

# crc32c(0, data, n) is the checksum of data; crc32c(crc32c(0, a, n), b, m) that of a followed by b.
cdef uint32_t crc32c(uint32_t seed, const void* data, size_t n) noexcept nogil
cdef const char* crc32c_implementation() noexcept nogil      # "sse4.2+pclmul", "armv8", "table"
