"""The archive: see archive.pyx. These concern the files of segments alone."""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from ..base.vfs cimport Vfs
from ..log.segment cimport SegmentHeader

cdef bytes segment_file(bytes directory, uint64_t first)
# First LSNs of the segments in a directory, ascending; none when it is not there. Raises.
cdef list first_lsns(Vfs vfs, bytes directory)
# (database id, epoch) of an archive, None where it does not say. Raises.
cdef object epoch_in(Vfs vfs, bytes directory)
# A segment's HeaderState; size: of its file. Raises what the file system says.
cdef int header_of(Vfs vfs, bytes directory, uint64_t first, const uint8_t* database_id, SegmentHeader* h, int64_t* size) except -1
