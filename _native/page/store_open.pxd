"""Making and opening a page file. Reached through PageStore."""
from libc.stdint cimport uint8_t, uint32_t
from .store cimport PageStore

cdef int opening_create(PageStore s, const char* path, uint32_t page_size, const uint8_t* database_id) noexcept nogil
cdef int opening_open(PageStore s, const char* path, bint read_only) noexcept nogil
cdef int opening_read_meta(PageStore s, char** data, size_t* n) noexcept nogil
# (no latch) The bitmap of free blocks and the list of free pids, from the whole map.
cdef int opening_build_space(PageStore s) noexcept nogil
