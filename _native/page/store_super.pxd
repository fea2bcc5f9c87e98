"""The superblock's bytes (docs/format.md): fields little-endian at fixed places, CRC-32C in the last four bytes."""
from .store cimport Superblock

cdef enum:                           # on disk: never change
    FORMAT_VERSION = 1

cdef enum SlotState:
    SLOT_VALID = 0
    SLOT_FOREIGN = 1                 # another magic: not ours, or never written
    SLOT_DAMAGED = 2                 # ours, and the checksum is wrong
    FEATURE_IMAGES = 1               # read-only compatible; on disk: never change. A keyspace logs before-images: a writer that does not would leave them out
    KNOWN_RO = FEATURE_IMAGES
    SLOT_NEWER = 3                   # whole, and of a version or with incompatible features that this program does not know

cdef void super_encode(const Superblock* sb, char* out) noexcept nogil            # SUPERBLOCK_SIZE bytes
cdef int super_decode(const char* data, Superblock* sb) noexcept nogil            # a SlotState
