"""Files of the operating system. Two opens of one path are two holders of locks, also in one process."""
from libc.stdint cimport int64_t

from enginelib._native.base.latch cimport Latch
from enginelib._native.base.vfs cimport Vfs

cdef enum:
    FILES_PER_BLOCK = 64
    MAX_BLOCKS = 1024

cdef struct RealFile:
    int fd                   # -1: free slot; next_free links those
    int next_free
    int flags
    char* path               # for error messages
    Latch latch              # guards the window
    char* window             # mapped part of a VFS_TAIL file, or NULL
    int64_t window_start
    int64_t window_end       # the mapping may be longer; past here lies beyond the file's end
    int64_t window_length
    int64_t ready_start      # part of the window whose pages are in, locked and writable
    int64_t ready_end
    size_t piece             # the most one system call writes
    bint no_window           # mapping is impossible or unsafe here: system calls for ever

cdef class RealVfs(Vfs):
    # Blocks never move once made, so a look-up needs no lock: a handle reaches another thread by some synchronisation.
    cdef RealFile* blocks[MAX_BLOCKS]
    cdef int used            # slots ever used      | under the latch
    cdef int free_slot       # first free, or -1    | under the latch
    cdef Latch latch
    cdef RealFile* file(self, int handle) noexcept nogil
    cdef int make_ready(self, RealFile* f, int64_t offset, size_t n) noexcept nogil
    cdef int give_up(self, RealFile* f) noexcept nogil
