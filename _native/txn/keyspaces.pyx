"""Which trees there are: see keyspaces.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from ..base.coding cimport get32
from ..base.status cimport OK, E_NOMEM, fail, fail_corrupt
from .transaction cimport MAX_KEYSPACES, OP_PUT, ROW_IMAGES, TREE_DROPPING, TREE_LIVE, Tree, TxnManager, row_valid
from .versions cimport Txn


cdef int tree_admit(TxnManager m, uint32_t keyspace) noexcept nogil:
    """Room in the table of trees for that id."""
    cdef uint32_t room = m.tree_room if m.tree_room else 8
    cdef Tree* grown
    if keyspace < m.tree_room:
        return OK
    if keyspace >= MAX_KEYSPACES:
        return fail_corrupt("pages.dat", -1, "a keyspace id that cannot be", MAX_KEYSPACES, keyspace)
    while room <= keyspace:
        room *= 2                            # a power of two, as MAX_KEYSPACES is
    grown = <Tree*>calloc(room, sizeof(Tree))      # a large one is touched only where keyspaces are
    if grown == NULL:
        return fail(E_NOMEM, "no memory for the table of keyspaces")
    if m.tree_room:
        memcpy(grown, m.trees, m.tree_room * sizeof(Tree))
    free(m.trees)
    m.trees = grown
    m.tree_room = room
    return OK


cdef void commit_catalog(TxnManager m, Txn* t) noexcept nogil:
    cdef uint32_t i
    for i in range(1, m.next_keyspace):
        if m.trees[i].dropped_by == t:
            if m.trees[i].state == TREE_LIVE:
                m.trees[i].state = TREE_DROPPING
                m.trees[i].drop_ts = t.commit_ts
                m.dropping += 1
        elif m.trees[i].created_by != t:
            continue
        m.trees[i].created_by = m.trees[i].dropped_by = NULL


cdef void catalog_changed(TxnManager m, Txn* t, int op, const char* before, size_t n, const char* after, uint64_t lsn) noexcept nogil:
    """before: the row that was there, of n bytes as the page says; n = 0: none."""
    cdef uint32_t row
    if t != NULL:
        t.catalog = True
    if row_valid(before, n):
        row = get32(before)
        if row < m.next_keyspace and m.trees[row].tree != NULL:
            m.trees[row].dropped_by = t
            if t == NULL and m.trees[row].state == TREE_LIVE:
                m.trees[row].state = TREE_DROPPING
                m.trees[row].drop_ts = 0
                m.dropping += 1
    if op == OP_PUT:
        row = get32(after)
        if row < m.next_keyspace:
            m.trees[row].dropped_by = NULL
            m.trees[row].images = <uint8_t>after[ROW_IMAGES]
            if t == NULL and m.trees[row].state == TREE_DROPPING:
                m.trees[row].state = TREE_LIVE
                m.dropping -= 1
            if m.trees[row].created_by == t and m.trees[row].creation_lsn == 0:
                m.trees[row].creation_lsn = lsn
