"""Which sorted tables an LSM-tree consists of: sets of files by level, and the edits that lead from one set to the next.

A set is immutable and counted by its users; a change makes a new one.  Level 0 holds whole sorted runs, newest first, whose keys may overlap; each further level holds
one run, cut into tables that do not overlap, in the order of their keys.  For any key, whatever stands in a lower-numbered level (or before, in level 0) is newer.

An edit is a *local* record of the log (R_EDIT): what it says is true of this copy of the database only.  The checkpoint's record holds, for each LSM-tree, one
edit that adds all of its tables: the same bytes, one encoder, one decoder.

Everything is under the engine latch but for encoding and decoding.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from .sstable cimport Table, TableInfo

cdef enum:
    LSM_LEVELS = 8
    EDIT_VERSION = 1               # on disk: never change

cdef struct TableFile:
    uint64_t number
    TableInfo info                 # owns its strings
    Table* table                   # NULL: not opened, or damaged
    int64_t refs                   # sets that name it, jobs that read it
    bint loaded                    # by a bulk load: its entries bear the timestamp that the edit says, whatever the file says
    bint busy                      # a compaction under way has it among its inputs
    TableFile* next_dead

cdef struct TableSet:
    int64_t refs
    int counts[LSM_LEVELS]
    TableFile** files[LSM_LEVELS]
    uint64_t bytes[LSM_LEVELS]
    int runs                       # in level 0: what one bulk load left there counts once
    uint64_t ranges                # range tombstones in all its tables

cdef struct EditFile:
    int level
    uint64_t number
    TableFile* file                # added: with its metadata; removed: NULL

cdef struct Edit:
    uint64_t persisted_lsn         # 0: as before
    uint64_t next_number
    EditFile* items
    int count
    int room
    bint failed                    # no memory for an item

cdef void edit_init(Edit* e) noexcept nogil
cdef void edit_add(Edit* e, int level, TableFile* f) noexcept nogil
cdef void edit_remove(Edit* e, int level, uint64_t number) noexcept nogil
# Frees the list; `files`: and the files it added, which no set has taken.
cdef void edit_free(Edit* e, bint files) noexcept nogil
# Bytes that edit_encode takes at most.
cdef size_t edit_size(const Edit* e) noexcept nogil
cdef size_t edit_encode(const Edit* e, uint8_t* out) noexcept nogil
# E_CORRUPT, E_NOMEM.
cdef int edit_decode(Edit* e, const uint8_t* data, size_t n) noexcept nogil

cdef TableFile* file_new(uint64_t number) noexcept nogil
cdef void file_free(TableFile* f) noexcept nogil
# The timestamp of all entries of a file that was bulk loaded.
cdef void file_stamp(TableFile* f, uint64_t ts) noexcept nogil
cdef TableSet* set_empty() noexcept nogil
# The set after the edit, with refs 1 and its files referenced; NULL and a status: E_NOMEM, E_CORRUPT (removes what is not there, adds what overlaps).
cdef TableSet* set_apply(TableSet* old, const Edit* e, int* status) noexcept nogil
cdef void set_ref(TableSet* s) noexcept nogil
# Files that no one needs any more are put on the list `dead`.
cdef void set_unref(TableSet* s, TableFile** dead) noexcept nogil
cdef void file_unref(TableFile* f, TableFile** dead) noexcept nogil
# The whole set as one edit.
cdef void set_describe(TableSet* s, Edit* e) noexcept nogil
cdef int set_tables(const TableSet* s) noexcept nogil
# In a level of 1 or more: the first file whose largest key is not below the key; counts[level] when there is none.
cdef int level_search(const TableSet* s, int level, const char* key, size_t klen) noexcept nogil
cdef bint file_may_hold(const TableFile* f, const char* key, size_t klen) noexcept nogil
# Whether the file holds anything between the two keys, both inclusive (NULL: no bound).
cdef bint file_overlaps(const TableFile* f, const char* low, size_t low_len, const char* high, size_t high_len) noexcept nogil
# NULL or what is wrong.
cdef const char* set_check(const TableSet* s) noexcept nogil
