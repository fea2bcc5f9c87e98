"""A tree of directories and files in memory: inodes by number, and one flat table of (directory, name) -> inode.

It has no latch: its owner has.  Functions return 0 or an errno.  Inode 0 is the root, which both "/" and "" name, so
"a/b" and "/a/b" are the same file.  A file has one name at most; it lives while it has a name or is open.
"""
from libc.stdint cimport int64_t, uint32_t

from enginelib._native.base.memdata cimport Data

cdef enum:
    NAME_ROOM = 112          # the longest name has one byte less

cdef struct Inode:
    Data data
    int kind                 # KIND_NONE: free slot
    int links
    int opens
    int exclusive            # 1 when a handle holds the whole-file lock alone
    int shared               # handles that share it
    uint32_t next_free

cdef struct Entry:
    uint32_t hash
    uint32_t parent
    uint32_t ino
    uint32_t length
    char name[112]

cdef struct MemFs:
    Inode* inodes
    uint32_t n_inodes
    uint32_t room_inodes
    Entry* entries
    uint32_t n_entries
    uint32_t room_entries
    uint32_t free_inode      # list of free slots; 0 is none
    bint no_reuse            # inode numbers are never given twice

# Where a path leads: the directory that holds its last name, and that name, which points into the path.
cdef struct Place:
    uint32_t parent
    const char* name
    uint32_t length          # 0: the root itself

cdef int fs_init(MemFs* fs, bint no_reuse) noexcept nogil
cdef void fs_free(MemFs* fs) noexcept nogil
# An independent copy without open handles and locks; of files without a name only the number remains. `to` is
# uninitialised.
cdef int fs_clone(MemFs* to, const MemFs* fs) noexcept nogil
cdef int fs_walk(MemFs* fs, const char* path, Place* place) noexcept nogil
cdef int fs_find(MemFs* fs, uint32_t parent, const char* name, uint32_t length) noexcept nogil     # entry index or -1
cdef int fs_lookup(MemFs* fs, const char* path, uint32_t* ino) noexcept nogil
cdef int fs_reserve(MemFs* fs, uint32_t ino) noexcept nogil             # makes the slot exist
cdef int fs_new(MemFs* fs, int kind, uint32_t* ino) noexcept nogil
# Gives the inode that name, taking the name from whatever had it.
cdef int fs_link(MemFs* fs, uint32_t parent, const char* name, uint32_t length, uint32_t ino) noexcept nogil
cdef void fs_unlink_entry(MemFs* fs, int entry) noexcept nogil
cdef void fs_release(MemFs* fs, uint32_t ino) noexcept nogil            # frees it if nothing holds it
# Checks a rename the way POSIX does and says what it will move.
cdef int fs_check_rename(MemFs* fs, const char* old, const char* new, Place* a, Place* b, uint32_t* ino) noexcept nogil
