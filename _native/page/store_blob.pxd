"""Large values: contiguous runs, written in pieces. Reached through PageStore."""
from libc.stdint cimport uint32_t, uint64_t
from .store cimport PageStore

cdef int large_begin(PageStore s, uint64_t pid, uint64_t length, uint64_t* block) noexcept nogil
cdef int large_write(PageStore s, uint64_t block, uint64_t offset, const char* data, size_t n) noexcept nogil
cdef int large_finish(PageStore s, uint64_t pid, uint64_t block, uint64_t length, uint32_t crc) noexcept nogil
cdef int large_abandon(PageStore s, uint64_t block, uint64_t length) noexcept nogil
cdef int large_read(PageStore s, uint64_t pid, uint64_t length, char* out) noexcept nogil
