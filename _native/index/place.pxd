"""Where an operation is in a tree, what it found, and what it lacks: the structures that callers of the B-tree hold. Cimport them from btree."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from ..page.pool cimport Pool, Frame

cdef enum:
    MAX_LEVELS = 24
    MAX_PINS = 64
    MAX_BATCH = 32

cdef enum Lack:
    LACK_NOTHING = 0
    LACK_PAGE = 1
    LACK_FRAMES = 2
    LACK_PIDS = 3

cdef struct Need:
    int lack
    uint64_t pid
    uint64_t gone          # pages freed when it was found missing
    uint64_t last          # the page secured before it
    int looks              # times in a row that this page was looked for again
    int count
    int pinned
    Frame* pins[MAX_PINS]

cdef void need_init(Need* n) noexcept nogil
# latch (released meanwhile). OK: start the operation again. Errors: E_CORRUPT, E_IO, E_FULL, E_NOMEM.
cdef int need_secure(Pool pool, Need* n) noexcept nogil
# latch. Unpins.
cdef void need_release(Pool pool, Need* n) noexcept nogil

cdef struct Cell:
    Frame* frame
    const char* value          # inline bytes, or the 16 bytes of a blob reference (VALUE_BLOB), or nothing (VALUE_GHOST)
    uint32_t vlen
    uint16_t flags             # VALUE_GHOST, VALUE_BLOB

cdef struct Path:              # from the root (0) to the leaf (depth - 1)
    int depth
    Frame* frames[MAX_LEVELS]
    int slots[MAX_LEVELS]      # inner: child slot taken, -1 = leftmost child; leaf: slot of the key, or where it would go
    bint found
    bint admitted              # by prepare: apply_* may be called in this latch hold
    bint partial               # by prepare: frames[0] is the leaf itself, found without a descent; good for apply_*, not for next_leaf

cdef enum SeekMode:
    SEEK_GE = 0
    SEEK_GT = 1
    SEEK_LE = 2
    SEEK_LT = 3
