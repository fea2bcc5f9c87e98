"""The page store's housekeeping: moving the tail down, cutting it off, copying an image, checking everything. Reached through PageStore."""
from libc.stdint cimport uint64_t
from ..base.vfs cimport Vfs
from .store cimport PageStore

cdef int upkeep_compact(PageStore s, uint64_t budget, uint64_t* moved) noexcept nogil
cdef int upkeep_trim(PageStore s) noexcept nogil
cdef int upkeep_copy(PageStore s, uint64_t generation, Vfs other, const char* path) noexcept nogil
cdef object upkeep_check(PageStore s, set live_pids, list findings, list doubts)
