"""A door for tests."""
from ..base.latch cimport Latch
from ..base.vfs cimport Vfs
from .store cimport PageStore

cdef class StoreDoor:
    cdef Vfs vfs
    cdef Latch latch
    cdef readonly PageStore store
