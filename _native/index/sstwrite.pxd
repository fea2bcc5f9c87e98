"""Writing a sorted table: entries in order, then everything that finds them. One thread, no latch, no Python; memory bounded by a few blocks, the hashes for the
filter and the index."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ..base.vfs cimport Vfs
from .sstable cimport Entry, TableInfo

cdef struct TableOptions:
    uint32_t block_size            # the page size of the pool: a block before compression fits a frame
    uint32_t restart_interval      # entries whose keys are cut by the one before; 16
    uint32_t bits_per_key          # Bloom filter; 0: none
    uint8_t compression            # Compression; one that was not built in is E_NOT_SUPPORTED
    uint64_t base_ts               # a lower bound of every timestamp to come
    uint32_t index_partition       # entries of the index from which on it has two levels; 0: default

cdef struct TableWriter            # private to sstwrite

# Makes the file (E_USAGE if it exists). NULL: failed, see error_info.
cdef TableWriter* writer_open(Vfs vfs, const char* path, uint64_t number, const TableOptions* options) noexcept nogil
# In order; contradicting it is E_USAGE. The bytes are copied. Writes in pieces of 256 KiB or more. E_FULL, E_IO, E_NOMEM.
cdef int writer_add(TableWriter* w, const Entry* e) noexcept nogil
# In any order.
cdef int writer_add_range(TableWriter* w, const char* start, size_t start_len, const char* stop, size_t stop_len, bint unbounded, uint64_t ts) noexcept nogil
cdef uint64_t writer_bytes(const TableWriter* w) noexcept nogil          # of the file so far, what is buffered included
cdef uint64_t writer_entries(const TableWriter* w) noexcept nogil
# Writes the rest and syncs the file (not the directory). info is filled, its strings owned by the caller (table_info_free). After OK only writer_close remains.
cdef int writer_finish(TableWriter* w, TableInfo* info) noexcept nogil
# Frees; a table that was not finished is unlinked, unless `keep`: for who does not own the directory any more.
cdef void writer_close(TableWriter* w, bint keep) noexcept nogil

cdef void table_info_free(TableInfo* info) noexcept nogil
