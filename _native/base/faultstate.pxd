"""What a crash can leave of a file system: the journal's entries, and the state they lead to.

A ``State`` holds the tree as programs see it (`live`), the part of it that a power loss cannot take (`disk`), and, in
order, what lies between the two: writes not synced, per file, and changes of directories not synced.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from enginelib._native.base.memfs cimport MemFs

cdef enum OpKind:
    OP_WRITE = 0
    OP_TRUNCATE = 1
    OP_SYNC = 2
    OP_SYNC_FAILED = 3       # the kernel marks the pages clean: what was not synced never will be
    OP_CREATE = 4
    OP_MKDIR = 5
    OP_UNLINK = 6
    OP_RENAME = 7
    OP_SYNC_DIR = 8
    OP_PUT = 9               # a test sets a file's content, live and durable
    OP_CORRUPT = 10          # a test flips bits of one byte, live and durable

cdef enum CrashMode:
    CRASH_KILL = 0           # the process dies: live stays as it is, and what was not synced stays so
    CRASH_POWER = 1          # of what was not synced, a random part is there
    CRASH_LOST = 2           # nothing that was not synced is there
    CRASH_ALL = 3            # all of it is, and is durable

# Immutable and counted: images made from a journal keep the entries they still need.
cdef struct Op:
    int refs
    int kind
    uint32_t ino             # file, or the directory that was synced
    uint32_t parent          # directory and name (a rename: the old ones)
    uint32_t parent2         # a rename: the new ones
    uint32_t length
    uint32_t length2
    int64_t offset           # a truncate: the new size
    size_t n
    char* name               # these three lie behind the structure
    char* name2
    char* data

cdef struct OpList:
    Op** ops
    uint32_t n
    uint32_t room

cdef struct Pending:
    OpList list              # writes and truncates since the last sync, in order
    bint lost                # a sync failed: disk no longer follows live

cdef struct State:
    MemFs live
    MemFs disk
    Pending* files           # by inode
    uint32_t n_files
    OpList tree              # changes of directories not synced, in order

cdef Op* op_new(int kind, uint32_t ino, uint32_t parent, const char* name, uint32_t length,
                uint32_t parent2, const char* name2, uint32_t length2,
                int64_t offset, const char* data, size_t n) noexcept nogil
cdef void op_drop(Op* op) noexcept nogil
cdef int list_add(OpList* l, Op* op) noexcept nogil                  # takes a reference of its own
cdef void list_clear(OpList* l) noexcept nogil

cdef int state_init(State* s) noexcept nogil
cdef void state_free(State* s) noexcept nogil
cdef int state_clone(State* to, const State* s) noexcept nogil
cdef int state_apply(State* s, Op* op) noexcept nogil
# The state after a crash at s; `flight`: the call that was under way, or NULL. `to` is uninitialised.
cdef int state_crash(State* to, const State* s, Op* flight, int mode, uint64_t seed) noexcept nogil
