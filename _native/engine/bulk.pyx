"""Many changes in one call: see bulk.pxd.

A stretch of plain pairs is written under one latch hold, without a touch of a Python object but for the bytes it holds (law 11).
"""
from cpython.list cimport PyList_CheckExact
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t
from ..base.latch cimport latch_enter, latch_unlock
from ..base.status cimport OK, AGAIN
from ..index.btree cimport BTree, Cell, Need, MAX_BATCH, need_init
from ..index.lsm cimport LsmTree
from ..index.memtable cimport memtable_warm
from ..txn.transaction cimport OP_PUT, Lack, TxnManager, lack_init
from .engine cimport Engine
from .handles cimport CoreKeyspace
from .predicates cimport predicates_on
from .steps cimport after_writes, raise_lacking, to_bytes
from .txnhandle cimport CoreTransaction

cdef extern from "Python.h":
    PyObject* list_item "PyList_GET_ITEM"(object, Py_ssize_t) noexcept      # borrowed

cdef extern from *:
    """
    /* A (bytes, bytes) tuple within the limits: what put_many writes without touching another Python object. */
    static inline int el_is_plain(PyObject* o, uint32_t max_key, uint32_t max_inline) {
        PyObject *k, *v;
        if (!PyTuple_CheckExact(o) || PyTuple_GET_SIZE(o) != 2) return 0;
        k = PyTuple_GET_ITEM(o, 0); v = PyTuple_GET_ITEM(o, 1);
        return PyBytes_CheckExact(k) && PyBytes_CheckExact(v) && (size_t)PyBytes_GET_SIZE(k) <= max_key
            && (size_t)PyBytes_GET_SIZE(k) + (size_t)PyBytes_GET_SIZE(v) <= max_inline;
    }
    /* Asks the processor for item i of the list, and for the objects of an item nearer by, whose tuple has come by now. */
    static inline void el_prefetch_pairs(PyObject* list, Py_ssize_t i, Py_ssize_t n) {
        if (i + 8 < n) __builtin_prefetch((char*)PyList_GET_ITEM(list, i + 8) + 16);
        if (i + 4 < n) {
            PyObject* o = PyList_GET_ITEM(list, i + 4);
            if (PyTuple_CheckExact(o) && PyTuple_GET_SIZE(o) == 2) {
                char *k = (char*)PyTuple_GET_ITEM(o, 0), *v = (char*)PyTuple_GET_ITEM(o, 1);
                __builtin_prefetch(k + 16);
                __builtin_prefetch(v + 16);
                __builtin_prefetch(v + 80);
                __builtin_prefetch(v + 144);
            }
        }
    }
    #define EL_KEY(o) PyBytes_AS_STRING(PyTuple_GET_ITEM((PyObject*)(o), 0))
    #define EL_KLEN(o) ((size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM((PyObject*)(o), 0)))
    #define EL_VALUE(o) PyBytes_AS_STRING(PyTuple_GET_ITEM((PyObject*)(o), 1))
    #define EL_VLEN(o) ((size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM((PyObject*)(o), 1)))
    """
    bint is_plain "el_is_plain"(PyObject* o, uint32_t max_key, uint32_t max_inline) noexcept nogil
    void prefetch_pairs "el_prefetch_pairs"(object items, Py_ssize_t i, Py_ssize_t n) noexcept
    const char* plain_key "EL_KEY"(PyObject* o) noexcept nogil
    size_t plain_klen "EL_KLEN"(PyObject* o) noexcept nogil
    const char* plain_value "EL_VALUE"(PyObject* o) noexcept nogil
    size_t plain_vlen "EL_VLEN"(PyObject* o) noexcept nogil


cdef void warm(TxnManager m, CoreKeyspace keyspace, list work, Py_ssize_t i, Py_ssize_t n) noexcept:
    """Latch held: looks the next keys of a batch up together, so that their cache misses overlap; what is found is not used.  An ascending load
    has its leaf at hand already."""
    cdef const char* p[MAX_BATCH]
    cdef size_t k[MAX_BATCH]
    cdef Cell cells[MAX_BATCH]
    cdef int statuses[MAX_BATCH]
    cdef Need unused
    cdef PyObject* item
    cdef int count = 0
    if keyspace.id >= m.next_keyspace or m.trees[keyspace.id].tree == NULL:
        return
    if not keyspace.lsm and (<BTree>m.trees[keyspace.id].tree).streak:
        return
    while count < keyspace.max_batch and i + count < n:
        item = list_item(work, i + count)
        if not is_plain(item, keyspace.max_key, keyspace.max_inline):
            break
        p[count] = plain_key(item)
        k[count] = plain_klen(item)
        count += 1
    if count > 1 and keyspace.lsm:
        memtable_warm((<LsmTree>m.trees[keyspace.id].tree).active, p, k, count)
    elif count > 1:
        need_init(&unused)
        (<BTree>m.trees[keyspace.id].tree).find_many(p, k, count, cells, statuses, &unused)


cdef Py_ssize_t put_pairs(CoreTransaction x, CoreKeyspace keyspace, pairs) except -1:
    cdef Engine e = x.engine
    cdef TxnManager m = x.m
    cdef Lack lack
    cdef int status = OK
    cdef Py_ssize_t i, n
    cdef list work
    cdef PyObject* item
    cdef int stretch, depth
    cdef bint tested
    cdef uint32_t max_key = keyspace.max_key, max_inline = keyspace.max_inline
    x.ready(keyspace)
    lack_init(&lack)
    if hasattr(pairs, "items"):
        pairs = pairs.items()
    work = <list>pairs if PyList_CheckExact(pairs) else list(pairs)
    i = n = 0
    x.ready(keyspace)              # the iterable may have ended the transaction
    x.t.deadline = x.t.image_lsn = 0
    depth = x.save()
    try:
        while i < len(work):
            # A stretch of plain pairs under one latch hold; whatever is special about one is left to `change`.
            latch_enter(&e.latch)
            n = len(work)             # the caller's own list, which another thread may change while the latch is waited for
            warm(m, keyspace, work, i, n)
            status = x.still()
            stretch = 0
            tested = predicates_on(m, keyspace) or len(e.covers) > 0        # then each is, by `change`
            while status == OK and not tested and i < n and stretch < keyspace.max_batch:
                item = list_item(work, i)
                prefetch_pairs(work, i, n)
                if not is_plain(item, max_key, max_inline):
                    break
                status = m.write(x.t, OP_PUT, keyspace.id, plain_key(item), plain_klen(item), plain_value(item), plain_vlen(item), 0, 0, 0, &lack)
                if status != OK:
                    break
                i += 1
                stretch += 1
            after_writes(e)
            if (status != AGAIN or lack.image) and lack.held:
                m.settle(&lack)
            latch_unlock(&e.latch)
            if status == AGAIN and not lack.image:
                x.obtain(&lack)
            elif status != OK and status != AGAIN:
                raise_lacking(m, status, &lack)
            elif i < n and (tested or lack.image or not is_plain(list_item(work, i), max_key, max_inline)):
                lack.image = False
                key, value = work[i]
                x.change(OP_PUT, keyspace, to_bytes(key, "key"), to_bytes(value, "value"), &lack)
                i += 1
    except BaseException:
        x.take_back(depth)
        raise
    x.release(depth)
    return i
