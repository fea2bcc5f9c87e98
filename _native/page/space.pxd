"""Free space of the page file: a bitmap over blocks, first fit from low blocks.

Plain data without synchronisation of its own; the page store guards it with the engine latch.  Blocks below SPACE_FIRST hold the superblocks.
"""
from libc.stdint cimport uint16_t, uint64_t

cdef enum:
    SPACE_FIRST = 16             # blocks of the two superblocks
    SPACE_CHUNK = 4096           # blocks counted together, so that a search skips what is full

cdef struct Space:
    uint64_t* bits               # 1 = in use
    uint16_t* chunk_used
    uint64_t capacity            # blocks that the arrays cover, a multiple of SPACE_CHUNK
    uint64_t high                # the block after the highest one in use
    uint64_t used                # blocks in use, those of the superblocks not counted
    uint64_t rover               # where the next search starts
    uint64_t freed               # blocks freed since the rover was last reset

cdef int space_init(Space* s) noexcept nogil
cdef void space_clear(Space* s) noexcept nogil
# Marks a run known to be in use. OK, E_NOMEM, or ABSENT when part of it is marked already (nothing is marked then).
cdef int space_mark(Space* s, uint64_t block, uint64_t n) noexcept nogil
# Whether a run of n blocks can be had without raising `high`.
cdef bint space_fits(Space* s, uint64_t n) noexcept nogil
# A run of n blocks. OK or E_NOMEM.
cdef int space_alloc(Space* s, uint64_t n, uint64_t* block) noexcept nogil
# A run of n blocks that ends at or below `limit`, the lowest there is: OK or ABSENT.
cdef int space_alloc_below(Space* s, uint64_t n, uint64_t limit, uint64_t* block) noexcept nogil
cdef void space_release(Space* s, uint64_t block, uint64_t n) noexcept nogil
cdef void space_reset_rover(Space* s) noexcept nogil
# NULL or what is inconsistent.
cdef const char* space_check(Space* s) noexcept nogil
