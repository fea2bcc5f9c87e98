"""A cursor over a whole LSM-tree: the records that one snapshot sees, in order of their keys, either way.

It merges the memtables, the runs of level 0 and the levels below.  Good in one latch hold; the next one starts it again behind the last key it gave.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from .lsm cimport LsmTree
from .memtable cimport MemNode, MemTable
from .sstable cimport BlockNeed, Entry, Table, TableCursor
from .tableset cimport TableFile

cdef enum:
    MERGE_KEY = 8192               # longer than any key

cdef struct MergeChild:
    const char* key                # of its present record
    uint64_t head                  # the key's first eight bytes
    uint32_t klen
    bint live                      # it has a present record
    MemTable* mem                  # a memtable, or
    MemNode* node
    int level                      # one run of level 0, or a whole level:
    int at                         # which of its files
    bint single                    # it has that file only
    TableCursor cursor

cdef struct MergeCursor:
    Entry entry                    # the present record; key in `keybuf`, value good in this latch hold
    MergeChild* children           # the newer before the older
    int count
    int room
    char* keys                     # MERGE_KEY for each child
    char* keybuf
    bint reverse
    bint begun                     # a key was looked at since the start: it is in `keybuf`, and all before it are done with
    bint values                    # they are wanted
    Table* source                  # of the present record, for a value that lies by itself
    uint64_t snapshot
    uint64_t own
    uint64_t now

cdef MergeCursor* merge_new() noexcept nogil                 # NULL: no memory
cdef void merge_free(MergeCursor* c) noexcept nogil
# latch. At the first record >= / > (reverse: the last <= / <) the key, as `mode` (SEEK_*) says; key NULL: the very first / last. Then merge_next gives it.
# OK, AGAIN (a block is lacking), E_CORRUPT, E_NOMEM.
cdef int merge_start(MergeCursor* c, LsmTree tree, const char* key, size_t klen, int mode, bint reverse, bint values, uint64_t snapshot, uint64_t own, uint64_t now,
                     BlockNeed* need) noexcept nogil
# latch, same hold. OK: entry; ABSENT: no more; AGAIN: cut short by a block that is lacking; errors.
cdef int merge_next(MergeCursor* c, LsmTree tree, BlockNeed* need) noexcept nogil
