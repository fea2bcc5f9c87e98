"""The tables that a flush, a compaction or a bulk load writes, one after the other; no latch but where it says so."""
from libc.stdint cimport uint32_t, uint64_t
from ..base.latch cimport Latch
from .lsm cimport LsmTree
from .sstwrite cimport TableOptions, TableWriter
from .tableset cimport Edit, TableFile

cdef struct Output:                # the tables that a job has written, and the one it is writing
    TableWriter* writer
    TableFile* file
    Edit* edit
    int level
    TableOptions options
    uint64_t bytes
    char* first                    # where the present table's share of range tombstones begins: NULL for the lowest
    uint32_t first_len

# base_ts: a lower bound of the timestamps to come. The tables are added to the edit, for the level.
cdef void output_start(LsmTree tree, Output* out, Edit* edit, int level, uint64_t base_ts) noexcept nogil
# Begins a table (takes the latch for its number).
cdef int output_open(LsmTree tree, Output* out, Latch* latch) noexcept nogil
# Ends the present table, if there is one, opens it for reading, and adds it to the edit.
cdef int output_finish(LsmTree tree, Output* out) noexcept nogil
# The job has failed: nothing of what it wrote stays (keep: but the files, for who does not own the directory any more). edit_free remains.
cdef void output_discard(LsmTree tree, Output* out, bint keep) noexcept nogil
