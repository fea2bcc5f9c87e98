"""Making the end of the log final, after a crash and before anything depends on it."""
from libc.stdint cimport uint64_t
from ..base.vfs cimport Vfs

# No latch. After a LogReader has answered ABSENT: everything below end_lsn becomes durable, what lies behind it is cut off.
# Arguments are the reader's end_lsn and known_synced. Can crash anywhere and be run again. OK, E_IO, E_FULL, E_CORRUPT.
cdef int settle_tail(Vfs vfs, const char* dir, uint64_t end_lsn, uint64_t known_synced) noexcept nogil
