"""How the tree changes shape: nodes that divide, nodes that join, roots that rise and sink.

Everything here was admitted by BTree.prepare (divisions) or asks the pool itself and else leaves things be (joins).
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ..page.pool cimport Pool, PoolCore, Frame, FRAME_READY
from .place cimport Path

cdef extern from *:
    """
    #ifdef ENGINELIB_DEBUG
    #define EL_DEBUG 1
    #else
    #define EL_DEBUG 0
    #endif
    """
    bint DEBUG "EL_DEBUG"

cdef enum Edge:                # where ordered loads add: the new page gets the new record only
    EDGE_NONE = 0
    EDGE_RIGHT = 1
    EDGE_LEFT = 2

cdef inline bint plain(const Frame* f) noexcept nogil:
    """Dirty already and no one else's: to be changed in place without asking the pool."""
    return f.dirty and not f.frozen and f.state == FRAME_READY

cdef inline size_t underfull(uint32_t page_size) noexcept nogil:
    """A node with fewer bytes in slots and records seeks a neighbour to join."""
    return (page_size - 48) // 4

# Divides the leaf at the path's end while a record goes in at its slot (`replace`: instead of the one there), and the nodes
# above as far as need be. Returns the leaf that got the record, and in *slot where.
cdef Frame* split_leaf(Pool pool, Path* path, uint32_t keyspace, const char* key, size_t klen, bint replace, uint16_t word,
                       const char* value, size_t vlen, int edge, int* slot) noexcept nogil
# Joins underfull nodes of the path with neighbours under the same parent, from the leaf up, as long as that helps; lowers the root.
# A neighbour that is not in memory, or frames that are not at hand, leave things as they are. The path stays true but for the leaf's slot.
cdef void join(Pool pool, Path* path) noexcept nogil
# Debug builds: stops the process when a node is not sound.
cdef void node_assert(const char* page, uint32_t page_size, uint64_t pid) noexcept nogil
