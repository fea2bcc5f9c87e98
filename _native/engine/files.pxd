"""Small jobs on files that several modules of the engine have: GIL held, latch not. They raise."""
from ..base.vfs cimport Vfs

# The names in a directory, in no order.
cdef list names_in(Vfs vfs, bytes directory)
# Makes `name` in the directory hold the data, durably: written under the name `temporary`, synced, renamed. A crash leaves the old or the new.
cdef int replace_file(Vfs vfs, bytes directory, bytes name, bytes temporary, bytes data) except -1
