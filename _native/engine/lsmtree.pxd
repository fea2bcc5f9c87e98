"""Making the objects of LSM-trees, and the options that a row of the catalogue holds for each."""
from libc.stdint cimport uint32_t
from ..index.lsm cimport LsmOptions, LsmTree
from ..txn.transaction cimport TxnManager

# Writes a whole row but for its first four bytes, the id.
cdef void options_encode(const LsmOptions* o, char* row) noexcept nogil
# A tree of the options that follow the first eight bytes of its row (given from there on); E_CORRUPT raised when they cannot be.
cdef LsmTree new_lsm(TxnManager m, uint32_t id, const char* options)
# The options as Python gives them, checked (ValueError, NotSupported), as the bytes of a row whose id is still zero.
cdef bytes options_row(dict given)
# What `stats` and handles tell of them.
cdef dict options_dict(const LsmOptions* o)
