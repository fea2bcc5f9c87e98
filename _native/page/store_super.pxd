"""The superblock's bytes (docs/format.md): fields little-endian at fixed places, CRC-32C in the last four bytes."""
from .store cimport Superblock

cdef enum:                           # on disk: never change
    FORMAT_VERSION = 1

cdef enum SlotState:
    SLOT_VALID = 0
    SLOT_FOREIGN = 1                 # another magic: not ours, or never written
    SLOT_DAMAGED = 2                 # ours, and the checksum is wrong
    SLOT_NEWER = 3                   # whole, and of a version or with incompatible features that this program does not know

cdef void super_encode(const Superblock* sb, char* out) noexcept nogil            # SUPERBLOCK_SIZE bytes
cdef int super_decode(const char* data, Superblock* sb) noexcept nogil            # a SlotState
