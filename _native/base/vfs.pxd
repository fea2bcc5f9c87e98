"""The file system as the core sees it: one interface, three implementations (real, memory, fault-injecting).

All methods are nogil, return a ``Status`` and fill the thread's ``ErrorInfo`` on failure.  Handles are small integers.
A Vfs has its own synchronisation; any thread may call it; none of its methods is called with the engine latch held,
``write_tail`` excepted.
"""
from libc.stdint cimport int64_t, uint64_t, uint32_t

cdef enum OpenFlag:
    VFS_READ = 1
    VFS_WRITE = 2            # implies reading
    VFS_CREATE = 4           # make it if absent
    VFS_EXCLUSIVE = 8        # with VFS_CREATE: E_USAGE if it exists
    VFS_TAIL = 16            # write_tail will be used on this handle

cdef enum FileKind:
    KIND_NONE = 0
    KIND_FILE = 1
    KIND_DIRECTORY = 2
    KIND_OTHER = 3

cdef class Vfs:
    cdef readonly bint in_memory         # its files take memory, and end with it: nothing is gained by keeping one to write over
    cdef int open(self, const char* path, int flags, int* handle) noexcept nogil     # ABSENT when there is no such file
    cdef int close(self, int handle) noexcept nogil
    # Reads up to n bytes, looping over short reads; *got < n only at the end of the file.
    cdef int read(self, int handle, void* buf, size_t n, int64_t offset, size_t* got) noexcept nogil
    # Writes all n bytes, looping over short writes.
    cdef int write(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil
    # As write, for a range that has been written or reserved before in this file: it may go through a mapping, without a system call.
    # When it returns the bytes survive the death of this process. Cheap enough to be called with the GIL held.
    cdef int write_tail(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil
    cdef int sync(self, int handle) noexcept nogil                                   # fdatasync (F_FULLFSYNC on macOS)
    cdef int size(self, int handle, int64_t* out) noexcept nogil
    cdef int truncate(self, int handle, int64_t size) noexcept nogil
    # Makes an empty file `size` bytes long, all zeros, with room for them on the medium: writing there later cannot fail with ENOSPC.
    cdef int reserve(self, int handle, int64_t size) noexcept nogil
    cdef int kind(self, const char* path, int* out) noexcept nogil                   # a FileKind
    cdef int mkdir(self, const char* path) noexcept nogil                            # OK also when it is there
    cdef int rename(self, const char* old, const char* new) noexcept nogil
    cdef int unlink(self, const char* path) noexcept nogil                           # ABSENT when there is none
    cdef int sync_dir(self, const char* path) noexcept nogil
    # Names in a directory, each ended by a zero byte, in one malloc'd block the caller frees; *count of them.
    cdef int list_dir(self, const char* path, char** names, size_t* count) noexcept nogil
    # Advisory whole-file lock for a process (flock); E_LOCKED at once if another holder. Released by close.
    cdef int lock(self, int handle, bint exclusive) noexcept nogil
    # Shared lock on one byte (open-file-description lock), and whether anyone else holds one in [offset, offset + n).
    cdef int lock_byte(self, int handle, int64_t offset, bint on) noexcept nogil
    cdef int test_bytes(self, int handle, int64_t offset, int64_t n, bint* held) noexcept nogil

# Failures every implementation words alike; each returns its code.
cdef int stale_handle(int handle) noexcept nogil
cdef int exists_already(const char* path) noexcept nogil
cdef int locked_already(const char* path) noexcept nogil
cdef int at_offset(int code, int64_t offset) noexcept nogil
