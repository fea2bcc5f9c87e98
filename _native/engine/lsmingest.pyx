"""Bulk loading: see lsmingest.pxd."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from itertools import islice
from ..base.coding cimport compare_bytes
from ..base.latch cimport condition_wait, latch_enter, latch_lock, latch_unlock
from ..base.status cimport OK, AGAIN, E_CLOSED, E_INVALID, E_NOMEM, E_READONLY, E_USAGE, fail, raise_status
from ..index.lsm cimport LSM_RECORD_MOST, SIZE_TIERED, LsmTree
from ..index.memtable cimport MemNode, MemTable, mem_key, memtable_next, memtable_seek
from ..index.output cimport Output, output_discard, output_finish, output_open, output_start
from ..index.pick cimport level_targets
from ..index.place cimport SEEK_GE
from ..index.sstable cimport ENTRY_PUT, Entry
from ..index.sstwrite cimport writer_add, writer_bytes
from ..index.tableset cimport LSM_LEVELS, Edit, edit_free, edit_init, edit_size, file_overlaps, file_stamp
from ..log.record cimport R_PUT_BLOB, RECORD_OVERHEAD, Record
from ..txn.lsmops cimport lsm_log_value, range_write, wall_now
from ..txn.transaction cimport TREE_LIVE, Lack, TxnManager, lack_init, must_wait
from ..txn.versions cimport READ_COMMITTED, TXN_COMMITTED, Txn
from .engine cimport Engine
from .lsmface cimport tree_of
from .lsmwork cimport flush_tree
from .steps cimport MAX_VALUE, after_writes, end_quietly, obtain_for, to_bytes, too_long

cdef extern from "Python.h":
    PyObject* list_item "PyList_GET_ITEM"(object, Py_ssize_t) noexcept                # borrowed
    PyObject* tuple_item "PyTuple_GET_ITEM"(PyObject*, Py_ssize_t) noexcept nogil
    char* bytes_start "PyBytes_AS_STRING"(PyObject*) noexcept nogil
    Py_ssize_t bytes_size "PyBytes_GET_SIZE"(PyObject*) noexcept nogil

cdef enum:
    BATCH = 512                    # pairs taken from the iterable at a time

cdef struct Load:
    Output out
    Edit edit
    Entry batch[BATCH]
    int count
    uint64_t table_size
    uint64_t wall
    char* first                    # key, and room for the last one and a byte more
    char* last
    size_t first_len
    size_t last_len
    bint any
    bint locked                    # the range is
    bint loading                   # counted in the tree


cdef int load_init(Load* l, LsmTree tree) noexcept nogil:
    memset(l, 0, sizeof(Load))
    edit_init(&l.edit)
    output_start(tree, &l.out, &l.edit, 0, 1)
    l.table_size = <uint64_t>-1 if tree.options.style == SIZE_TIERED else tree.options.table_size      # a run is one table there
    l.first = <char*>malloc(2 * (tree.max_key + 1))
    if l.first == NULL:
        return fail(E_NOMEM, "no memory for a bulk load")
    l.last = l.first + tree.max_key + 1
    return OK


cdef int load_batch(Engine e, Load* l, LsmTree tree) noexcept nogil:
    """No latch. Writes the batch's pairs to the tables."""
    cdef Entry* p
    cdef int i, status = OK
    for i in range(l.count):
        p = &l.batch[i]
        if l.any and compare_bytes(l.last, l.last_len, p.key, p.klen) >= 0:
            return fail(E_INVALID, "the keys do not ascend: sort the pairs, and give each key once")
        if l.out.writer != NULL and writer_bytes(l.out.writer) >= l.table_size:
            status = output_finish(tree, &l.out)
        if status == OK and l.out.writer == NULL:
            status = output_open(tree, &l.out, &e.latch)
        if status == OK:
            status = writer_add(l.out.writer, p)
        if status != OK:
            return status
        memcpy(l.last, p.key, p.klen)
        l.last_len = p.klen
        if not l.any:
            l.any = True
            memcpy(l.first, p.key, p.klen)
            l.first_len = p.klen
    return OK


cdef int log_batch(Load* l, TxnManager m, Txn* t, uint32_t keyspace, int* done, Lack* lack) noexcept nogil:
    """Latch. Logs the batch's pairs from done[0] on; AGAIN: call again."""
    cdef Entry* e
    cdef Record r
    cdef uint64_t number = 0
    cdef size_t need
    cdef int status
    while done[0] < l.count:
        e = &l.batch[done[0]]
        if m.log.failed:
            return m.check(t, True)
        need = e.klen + RECORD_OVERHEAD
        if e.vlen > LSM_RECORD_MOST:
            status = lsm_log_value(m, t, e.value, e.vlen, &number, lack)
            if status != OK:
                return status
        else:
            need += e.vlen
        while True:
            status = m.log.reserve(need)
            if status == AGAIN:
                lack.log_bytes = need
            elif status == OK and t.id == 0:
                status = m.start_writing(t, lack)
            if status != AGAIN or e.vlen <= LSM_RECORD_MOST:
                break
            status = m.secure(t, lack)               # the value's chunks are in the log already: not again
            if status != OK:
                break
        if status != OK:
            return status
        if e.vlen <= LSM_RECORD_MOST:
            t.last_lsn = m.log.append_put(t.id, keyspace, e.key, e.klen, e.value, e.vlen)
        else:
            memset(&r, 0, sizeof(Record))
            r.type = R_PUT_BLOB
            r.txn = t.id
            r.keyspace = keyspace
            r.key = e.key
            r.klen = e.klen
            r.a = number
            r.b = e.vlen
            t.last_lsn = m.log.append(&r)
            t.blob_lsn = 0
        done[0] += 1
    return OK


cdef bint memory_holds(MemTable* m, Load* l) noexcept nogil:
    cdef MemNode* n = memtable_seek(m, l.first, l.first_len, SEEK_GE)
    while n != NULL and compare_bytes(mem_key(n), n.klen, l.last, l.last_len) <= 0:
        if n.newest != NULL:
            return True
        n = memtable_next(n)
    return False


cdef int level_for(LsmTree tree, Load* l) noexcept nogil:
    """The deepest level above and in which nothing overlaps the load, among those in use."""
    cdef uint64_t targets[LSM_LEVELS]
    cdef int base = level_targets(tree.set, tree.options.table_size, targets), level, i, best = 0
    if tree.options.style == SIZE_TIERED:
        return 0
    for level in range(LSM_LEVELS):
        for i in range(tree.set.counts[level]):
            if file_overlaps(tree.set.files[level][i], l.first, l.first_len, l.last, l.last_len):
                return best if best >= base else 0
        best = level
    return best


cdef int make_ready(Engine e, TxnManager m, Txn* t, LsmTree tree, uint32_t keyspace, Load* l, Lack* lack) noexcept nogil:
    """Latch (released meanwhile unless it says OK). OK: everything is such, in this hold, that the tables may join the tree."""
    cdef MemTable* s
    cdef bint holds
    cdef int status = m.check(t, True)
    if status != OK:
        return status
    if m.trees[keyspace].state != TREE_LIVE or tree.doomed:
        return fail(E_USAGE, "the keyspace has been dropped")
    if m.trees[keyspace].dropped_by != NULL:
        return must_wait(lack, m.trees[keyspace].dropped_by)
    if tree.damaged:
        return tree.damage_status()
    if not l.locked:
        l.last[l.last_len] = 0                       # the range ends before the least key above the last one
        status = range_write(m, t, keyspace, l.first, l.first_len, l.last, l.last_len + 1, False, lack)
        if status != OK:
            return status
        l.locked = True
        l.loading = True
        tree.loading += 1
    holds = memory_holds(tree.active, l)
    s = tree.oldest_sealed
    while s != NULL and not holds:
        holds = memory_holds(s, l)
        s = s.newer
    if holds:
        status = flush_tree(e, tree, &e.flush_work)
        return AGAIN if status == OK else status
    if tree.compacting:
        condition_wait(&m.lsm_moved, &e.latch, 100000)
        return fail(E_CLOSED, "the database was closed during a bulk load") if e.closing else AGAIN
    lack.log_bytes = edit_size(&l.edit) + RECORD_OVERHEAD
    status = m.log.reserve(lack.log_bytes)
    if status == OK:
        lack.log_bytes = 0
    return status


cdef int join(Engine e, TxnManager m, Txn* t, LsmTree tree, uint32_t keyspace, Load* l, Lack* lack) noexcept nogil:
    """Latch. Locks, waits, and commits; AGAIN with what is lacking."""
    cdef int status = make_ready(e, m, t, tree, keyspace, l, lack), level, i
    if status != OK:
        return status
    level = level_for(tree, l)
    for i in range(l.edit.count):
        l.edit.items[i].level = level
        file_stamp(l.edit.items[i].file, m.clock.last_ts + 1)
    status = tree.install(m.log, &l.edit, t.id)
    if status == OK:
        status = m.commit(t)
    return status


cdef object take_batch(Load* l, LsmTree tree, list work):
    """Points the batch at the pairs, which must stay; other buffers than bytes are copied first."""
    cdef Py_ssize_t i
    cdef PyObject* pair
    cdef PyObject* key
    cdef PyObject* value
    for i in range(len(work)):
        k, v = work[i]
        if type(work[i]) is not tuple or type(k) is not bytes or type(v) is not bytes:
            k, v = to_bytes(k, "key"), to_bytes(v, "value")
            work[i] = (k, v)
        if len(<bytes>k) > tree.max_key:
            too_long(tree.max_key, k)
        if len(<bytes>v) > MAX_VALUE:
            raise ValueError(f"the value has {len(v)} bytes; the longest possible is {MAX_VALUE} bytes (1 GiB): split it over several keys")
        pair = list_item(work, i)
        key = tuple_item(pair, 0)
        value = tuple_item(pair, 1)
        l.batch[i].key = bytes_start(key)
        l.batch[i].klen = <uint32_t>bytes_size(key)
        l.batch[i].value = bytes_start(value)
        l.batch[i].vlen = <uint32_t>bytes_size(value)
        l.batch[i].ts = 1
        l.batch[i].wall = l.wall
        l.batch[i].kind = ENTRY_PUT
        l.batch[i].far_bytes = 0
    l.count = <int>len(work)


cdef object one_batch(Engine e, Txn* t, LsmTree tree, uint32_t keyspace, Load* l, bint logged):
    cdef TxnManager m = e.txns
    cdef Lack lack
    cdef int status, done = 0
    lack_init(&lack)
    with nogil:
        latch_lock(&e.latch)
        status = e.admit()
        if status == OK:
            latch_unlock(&e.latch)
            status = load_batch(e, l, tree)
            latch_lock(&e.latch)
            e.leave()
        latch_unlock(&e.latch)
    while logged and status == OK:
        with nogil:
            latch_lock(&e.latch)
            status = e.admit()
            if status == OK:
                status = log_batch(l, m, t, keyspace, &done, &lack)
                after_writes(e)
                e.leave()
            latch_unlock(&e.latch)
        if status != AGAIN:
            break
        obtain_for(e, t, &lack)
        status = OK
    if status != OK:
        raise_status(status)


cdef object last_steps(Engine e, Txn* t, LsmTree tree, uint32_t keyspace, Load* l):
    cdef TxnManager m = e.txns
    cdef Lack lack
    cdef int status
    lack_init(&lack)
    with nogil:
        latch_lock(&e.latch)
        status = e.admit()
        if status == OK:
            latch_unlock(&e.latch)
            status = output_finish(tree, &l.out)
            if status == OK:
                status = tree.vfs.sync_dir(tree.directory)
            latch_lock(&e.latch)
            e.leave()
        latch_unlock(&e.latch)
    if status != OK:
        raise_status(status)
    while True:
        with nogil:
            latch_lock(&e.latch)
            status = e.admit()
            if status == OK:
                status = join(e, m, t, tree, keyspace, l, &lack)
                after_writes(e)
                e.leave()
            latch_unlock(&e.latch)
        if status == OK:
            return
        if status != AGAIN:
            raise_status(status)
        obtain_for(e, t, &lack)


cdef object clean_up(Engine e, Txn* t, LsmTree tree, Load* l):
    """However it ended."""
    cdef bint done, mine
    with nogil:
        latch_lock(&e.latch)
        tree.loading -= l.loading
        done = t.state == TXN_COMMITTED
        mine = not e.closing              # a database that closes may belong to another process by now
        if mine:
            e.enter()
        if done:
            e.txns.finish(t)
        latch_unlock(&e.latch)
        if not done:
            output_discard(tree, &l.out, not mine)
        latch_lock(&e.latch)
        edit_free(&l.edit, True)          # what the tree has taken is not freed
        if mine:
            e.leave()
        latch_unlock(&e.latch)
        free(l.first)
    if not done:
        end_quietly(e, t)


cdef object ingest(Engine e, uint32_t keyspace, object pairs, bint logged):
    cdef LsmTree tree = tree_of(e, keyspace)
    cdef TxnManager m = e.txns
    cdef Load* load = <Load*>malloc(sizeof(Load))
    cdef Txn* t
    cdef list work
    cdef int status
    if load == NULL:
        raise MemoryError("no memory for a bulk load")
    try:
        if e.read_only:
            raise_status(fail(E_READONLY, b"the database was opened read-only"))
        if m.trees[keyspace].images:
            raise_status(fail(E_USAGE, b"the keyspace logs before-images, and a bulk load does not look what was there: set_before(name, \"none\") first, or use put_many"))
        status = load_init(load, tree)
        if status != OK:
            raise_status(status)
        latch_enter(&e.latch)
        t = m.begin(False, e.durability, e.lock_timeout, False, READ_COMMITTED)
        load.wall = wall_now(m) if tree.options.ttl else 0
        latch_unlock(&e.latch)
        if t == NULL:
            free(load.first)
            raise_status(E_NOMEM)
        count = 0
        try:
            iterator = iter(pairs.items() if hasattr(pairs, "items") else pairs)
            while work := list(islice(iterator, BATCH)):
                take_batch(load, tree, work)
                one_batch(e, t, tree, keyspace, load, logged)
                count += len(work)
            if count:
                last_steps(e, t, tree, keyspace, load)
        finally:
            clean_up(e, t, tree, load)
        return count
    finally:
        free(load)
