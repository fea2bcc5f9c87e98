"""Reading a sorted table from end to end, as compaction, verification and ingestion do: without the latch, with buffers of its own, large reads, every block checked."""
from libc.stdint cimport uint32_t, uint64_t
from ..base.vfs cimport Vfs
from .sstable cimport Entry, Table

cdef struct TableScan              # private to sstscan

# From the first version on. NULL: no memory. The caller holds a reference to the table.
cdef TableScan* scan_open(Vfs vfs, Table* t, size_t read_ahead) noexcept nogil
# The present entry: pointers good until the next call.
cdef Entry* scan_entry(TableScan* s) noexcept nogil
# OK: entry is filled; ABSENT: the end; E_CORRUPT, E_IO, E_NOMEM: never taken for the end.
cdef int scan_next(TableScan* s) noexcept nogil
cdef void scan_close(TableScan* s) noexcept nogil
# Checks all of a table: every block's sum, order of keys and timestamps, within the index's and the table's bounds, counts and properties as told, the filter holds every key.
cdef int scan_verify(Vfs vfs, Table* t) noexcept nogil
