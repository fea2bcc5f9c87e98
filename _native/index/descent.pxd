"""From parent to child: what every descent does and tests, inline.

Level, keyspace and prefix length of a page are tested each time it is entered; its fences are held against its parent's keys when it is entered
for the first time since it was loaded (OFF_VOUCHED), and stay true to them by what the tree does.
"""
from libc.stdint cimport uint32_t, uint64_t

from ..base.status cimport OK, AGAIN
from ..page.pool cimport PoolCore, Frame, pool_find
from .place cimport Need, Path, Cell, LACK_PAGE
from .node cimport *

# -> E_CORRUPT, naming the page
cdef int contradiction(uint64_t pid, const char* what, uint64_t expected, uint64_t found) noexcept nogil
# NULL when the child's fences are the parent's bounds for its slot; else what is wrong.
cdef const char* edge_fault(const char* parent, int at, const char* child) noexcept nogil
# -> E_CORRUPT, naming what kept `enter` from going on.
cdef int misplaced(const char* parent, int at, const char* child, uint32_t keyspace) noexcept nogil

cdef inline int lack(Need* need, int what, int count) noexcept nogil:
    need.lack = what
    need.count = count
    return AGAIN


cdef inline int lack_page(PoolCore* core, Need* need, uint64_t pid) noexcept nogil:
    need.pid = pid
    need.gone = core.pages_gone
    return lack(need, LACK_PAGE, 1)


cdef inline void prefetch_page(PoolCore* core, uint64_t pid) noexcept nogil:
    """Asks for the page before its frame is read: an arena of one piece has its pages in the order of the frames. A wrong guess costs nothing."""
    cdef uint32_t n
    if likely(pid < core.pids):
        n = core.frame_of[pid]
        if likely(n != 0):
            prefetch_slots(core.frames[0].page + <size_t>(n - 1) * core.page_size)


cdef inline int enter(PoolCore* core, uint32_t keyspace, const char* parent, int at, size_t klen, Need* need,
                      Frame** out) noexcept nogil:
    """The child at slot `at`."""
    cdef uint64_t pid = node_child(parent, at)
    cdef Frame* f
    cdef const char* page
    prefetch_page(core, pid)
    f = pool_find(core, pid)
    if unlikely(f == NULL):
        return lack_page(core, need, pid)
    page = f.page
    if unlikely(node_level(page) + 1 != node_level(parent) or node_keyspace(page) != keyspace
                or klen < node_prefix_len(page)):
        return misplaced(parent, at, page, keyspace)
    if unlikely(get16(page + OFF_VOUCHED) == 0):
        if edge_fault(parent, at, page) != NULL:
            return misplaced(parent, at, page, keyspace)
        put16(f.page + OFF_VOUCHED, 1)           # just loaded, so clean: no one is writing it to disk
    out[0] = f
    return OK


cdef inline int enter_root(PoolCore* core, uint32_t keyspace, uint64_t root, Need* need, Frame** out) noexcept nogil:
    cdef Frame* f = pool_find(core, root)
    if unlikely(f == NULL):
        return lack_page(core, need, root)
    if unlikely(node_keyspace(f.page) != keyspace):
        return contradiction(root, b"it belongs to another keyspace", keyspace, node_keyspace(f.page))
    if unlikely((get16(f.page + OFF_LOWER_OFF) | get16(f.page + OFF_UPPER_OFF)) != 0):
        return contradiction(root, b"a root has fences", 0, 1)
    out[0] = f
    return OK


cdef inline int walk(PoolCore* core, uint32_t keyspace, uint64_t root, const char* key, size_t klen, Path* path,
                     Need* need) noexcept nogil:
    """From the root to the leaf of the key, noting the way."""
    cdef Frame* f
    cdef const char* page
    cdef size_t p = 0
    cdef int depth = 0
    cdef int at
    cdef int status = enter_root(core, keyspace, root, need, &f)
    if unlikely(status != OK):
        return status
    page = f.page
    path.admitted = False
    path.partial = False
    while node_level(page) > 0:
        at = inner_search(page, key + p, klen - p)
        path.frames[depth] = f
        path.slots[depth] = at
        depth += 1
        status = enter(core, keyspace, page, at, klen, need, &f)
        if unlikely(status != OK):
            return status
        page = f.page
        p = node_prefix_len(page)
    path.frames[depth] = f
    path.slots[depth] = leaf_search(page, key + p, klen - p, &path.found)
    path.depth = depth + 1
    return OK


cdef inline void fill_cell(Cell* cell, Frame* f, int at) noexcept nogil:
    cell.frame = f
    cell.value = node_value(f.page, at, &cell.flags, &cell.vlen)
