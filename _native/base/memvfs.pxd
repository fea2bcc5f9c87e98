"""A file system in memory. Two opens of one path are two holders to ``lock`` and ``lock_byte``, as with real files."""
from libc.stdint cimport int64_t, uint32_t

from enginelib._native.base.latch cimport Latch
from enginelib._native.base.memfs cimport MemFs, Place
from enginelib._native.base.vfs cimport Vfs

cdef struct MemHandle:
    uint32_t ino
    int next_free            # -2: in use, else the next free handle or -1
    bint writable
    int lock                 # 0 none, 1 shared, 2 exclusive
    char* path               # for error messages

cdef struct ByteLock:
    uint32_t ino
    int handle
    int64_t offset

# What a change of the tree did, for whoever keeps a journal of them.
cdef struct Change:
    bint made                # open: the file was made;  others: anything changed at all
    uint32_t ino
    Place place
    Place target             # of a rename

cdef class MemoryVfs(Vfs):
    # All under the latch.
    cdef MemFs fs
    cdef MemHandle* handles
    cdef int n_handles, room_handles, free_handle
    cdef ByteLock* bytes_held
    cdef int n_bytes, room_bytes
    cdef Latch latch

    cdef MemHandle* handle_of(self, int handle) noexcept nogil
    cdef bint is_missing_leaf(self, const char* path, Place* place) noexcept nogil
    cdef void unlock(self, MemHandle* h) noexcept nogil
    # The operations, with the latch held.
    cdef int do_open(self, const char* path, int flags, int* handle, Change* change) noexcept nogil
    cdef int do_close(self, int handle) noexcept nogil
    cdef int do_read(self, int handle, void* buf, size_t n, int64_t offset, size_t* got) noexcept nogil
    cdef int do_write(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil
    cdef int do_truncate(self, int handle, int64_t size) noexcept nogil
    cdef int do_size(self, int handle, int64_t* out) noexcept nogil
    cdef int do_kind(self, const char* path, int* out) noexcept nogil
    cdef int do_mkdir(self, const char* path, Change* change) noexcept nogil
    cdef int do_rename(self, const char* old, const char* new, Change* change) noexcept nogil
    cdef int do_unlink(self, const char* path, Change* change) noexcept nogil
    cdef int do_find_dir(self, const char* path, uint32_t* ino) noexcept nogil
    cdef int do_list_dir(self, const char* path, char** names, size_t* count) noexcept nogil
    cdef int do_lock(self, int handle, bint exclusive) noexcept nogil
    cdef int do_lock_byte(self, int handle, int64_t offset, bint on) noexcept nogil
    cdef int do_test_bytes(self, int handle, int64_t offset, int64_t n, bint* held) noexcept nogil
