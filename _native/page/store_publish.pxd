"""Making a frozen image durable. Reached through PageStore."""
from libc.stdint cimport uint32_t
from .store cimport PageStore, Superblock

cdef int publish_image(PageStore s, uint32_t image, const Superblock* fields, const char* meta, size_t n) noexcept nogil
