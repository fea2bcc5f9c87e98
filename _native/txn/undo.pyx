"""Undo: see undo.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from ..base.coding cimport get32, get64
from ..base.status cimport OK, ABSENT
from ..index.btree cimport BTree, Path, Cell
from ..page.layout cimport VALUE_BLOB, VALUE_GHOST
from .lsmops cimport lsm_undo, ranges_undo
from .transaction cimport TxnManager, Tree, Lack, CATALOG, ROW_IMAGES, TREE_DROPPING, TREE_LIVE, row_valid
from .versions cimport Txn, Version, BEFORE_ABSENT, BEFORE_BLOB, LOCK_ONLY, table_unlink, version_key, version_value


cdef int undo_changes(TxnManager m, Txn* t, uint64_t lsn, Lack* lack) noexcept nogil:
    cdef Version* v
    cdef Tree* e
    cdef Path path
    cdef Cell cell
    cdef int status
    cdef uint32_t row
    cdef uint64_t blob
    # Redo has put the changes of LSM-trees behind those of B-trees that the checkpoint's record held, whatever their order was; what was taken back of them it left out.
    cdef Version** at = &t.newest
    while at[0] != NULL:
        v = at[0]
        if v.lsn <= lsn:
            if not (m.redoing and m.trees[v.keyspace].lsm):
                break
            at = &v.previous
            continue
        if v.linked and not v.flags & LOCK_ONLY and m.trees[v.keyspace].state == TREE_LIVE:
            e = &m.trees[v.keyspace]
            if e.lsm:
                lsm_undo(m, v)
                at[0] = v.previous
                table_unlink(&m.table, v)
                continue
            status = (<BTree>e.tree).prepare(version_key(v), v.klen, v.vlen, &path, &cell, &lack.need)
            if status != OK and status != ABSENT:
                return status
            if status == OK and cell.flags & VALUE_BLOB:
                blob = get64(cell.value)
                if not v.flags & BEFORE_BLOB or get64(version_value(v)) != blob:
                    m.pool.forget(blob)
            if v.keyspace == CATALOG and row_valid(version_value(v), v.vlen):
                # A row that goes needs no mark: its tree gets its older row back (a renaming; the two changes may be undone in
                # either order, a lock being older than the change it became), or was made by t (`undo_catalog`).
                row = get32(version_value(v))
                if row < m.next_keyspace:
                    m.trees[row].dropped_by = NULL
                    m.trees[row].images = <uint8_t>version_value(v)[ROW_IMAGES]
            if not v.flags & BEFORE_ABSENT:
                (<BTree>e.tree).apply_put(&path, version_key(v), v.klen, VALUE_BLOB if v.flags & BEFORE_BLOB else 0,
                                          version_value(v), v.vlen, v.lsn)
            elif v.older != NULL:
                (<BTree>e.tree).apply_put(&path, version_key(v), v.klen, VALUE_GHOST, NULL, 0, v.lsn)
            elif status == OK:
                (<BTree>e.tree).apply_remove(&path, v.lsn)
        at[0] = v.previous
        if v.linked:
            table_unlink(&m.table, v)
    return OK


cdef void undo_catalog(TxnManager m, Txn* t, uint64_t lsn) noexcept nogil:
    cdef uint32_t i
    for i in range(1, m.next_keyspace):
        if m.trees[i].created_by == t and (m.trees[i].creation_lsn > lsn or m.trees[i].creation_lsn == 0):
            m.trees[i].created_by = m.trees[i].dropped_by = NULL
            if m.trees[i].state != TREE_LIVE:
                continue
            m.trees[i].state = TREE_DROPPING
            m.trees[i].drop_ts = 0
            m.dropping += 1


cdef int undo(TxnManager m, Txn* t, uint64_t lsn, Lack* lack) noexcept nogil:
    """Puts back the before-images of t's changes above lsn, newest first. AGAIN leaves it under way: call again."""
    cdef int status
    t.undoing = True
    t.undo_to = lsn
    if t.ranges:
        ranges_undo(m, t, lsn)
    m.pool.rolling_back += 1
    status = undo_changes(m, t, lsn, lack)
    m.pool.rolling_back -= 1
    if status != OK:
        return status
    t.undoing = False
    if t.catalog:
        undo_catalog(m, t, lsn)
    return OK
