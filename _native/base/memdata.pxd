"""The contents of one in-memory file: a table of chunks, shared copy-on-write.

A copy costs one reference; the first write after it copies the table, then each chunk it touches.  A chunk never
written, or only with zeros, is NULL, so a preallocated log segment costs nothing.  The counts are atomic because
copies are shared by file systems that have different latches; the contents of what is shared never change.
"""
from libc.stdint cimport int64_t

cdef enum:
    CHUNK = 8192

cdef struct Chunk:
    int refs
    char bytes[8192]

cdef struct Table:
    int refs
    int64_t room             # chunk pointers there is room for
    Chunk* chunks[1]

cdef struct Data:
    Table* table             # NULL: no chunk at all
    int64_t size             # every byte at or after it is zero in the chunks

cdef void data_init(Data* d) noexcept nogil
cdef void data_free(Data* d) noexcept nogil
cdef void data_share(Data* to, const Data* d) noexcept nogil     # `to` is uninitialised
cdef size_t data_read(const Data* d, char* buf, size_t n, int64_t offset) noexcept nogil
# 0, or -1 when memory is lacking; what was written before that stays.
cdef int data_write(Data* d, const char* buf, size_t n, int64_t offset) noexcept nogil
cdef int data_resize(Data* d, int64_t size) noexcept nogil
