"""A file system in memory that keeps a journal of its changes, fails on demand, and can be crashed at any point."""
from libc.stdint cimport int64_t, uint64_t

from enginelib._native.base.faultstate cimport Op, OpList, State
from enginelib._native.base.memvfs cimport Change, MemoryVfs

cdef struct Injection:
    int64_t call             # number of the call that fails
    int sys_errno
    bint short_write
    bint sticky
    int kind                 # once it has struck: what kind of call; -1 before

cdef struct Call:
    int kind
    int status
    const char* path
    int64_t offset
    int64_t n
    int64_t mutation         # journal position after the call

cdef class FaultVfs(MemoryVfs):
    # All under the latch of MemoryVfs.
    cdef State base          # before the journal's first entry
    cdef OpList journal
    cdef State cursor        # after `cursor_at` entries; crash images of ascending cuts are cheap
    cdef int64_t cursor_at   # -1: there is none
    cdef int64_t call_count
    cdef int64_t stop        # -1: never
    cdef int64_t failed_at   # journal entry that could not be kept for lack of memory, or -1
    cdef Injection* injections
    cdef int n_injections, room_injections
    cdef Call* trace_log
    cdef int64_t n_trace, room_trace
    cdef char** paths        # path names the trace speaks of
    cdef int n_paths, room_paths
    cdef list marks
    cdef uint64_t random
    cdef int64_t room        # bytes by which files may still grow; -1: any number

    cdef int enter(self, int kind, bint* short_write) noexcept nogil
    cdef int leave(self, int kind, int status, const char* path, int64_t offset, int64_t n) noexcept nogil
    cdef int note(self, int kind, Change* change, int64_t ino, int64_t offset,
                  const char* data, size_t n) noexcept nogil
    cdef const char* intern(self, const char* path) noexcept nogil
    cdef const char* path_of(self, int handle) noexcept nogil
    cdef int write_as(self, int kind, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil
    cdef int resize_as(self, int kind, int handle, int64_t size) noexcept nogil
    cdef int seek(self, int64_t cut) noexcept nogil
    cdef int record(self, int kind, Change* change, int64_t offset, const char* data, size_t n) noexcept nogil
