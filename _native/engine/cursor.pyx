"""Scans: see cursor.pxd.

A batch is made under one latch hold: bytes objects only (law 11), records resolved for the transaction's snapshot; tuples are made as they are asked for.
A change made by the transaction itself sends the cursor back to the tree, so that it sees what its own transaction has written ahead of it.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy
from ..base.coding cimport get64, compare_bytes
from ..base.latch cimport latch_enter, latch_try, latch_unlock
from ..base.status cimport OK, ABSENT, AGAIN, E_CLOSED, E_NOMEM, E_THREAD, E_TXN_CLOSED, fail, raise_status
from ..index.btree cimport BTree, Path, Cell, SEEK_GE, SEEK_GT, SEEK_LE, SEEK_LT
from ..index.lsm cimport LsmTree
from ..index.merge cimport merge_free, merge_new, merge_next, merge_start
from ..index.node cimport node_count, node_prefix, node_suffix, node_value, node_key_copy
from ..index.sstable cimport block_need_unpin
from ..page.pool cimport Frame
from ..page.layout cimport VALUE_GHOST, VALUE_BLOB
from ..txn.holds cimport HOLD_SHARED, HOLD_UPDATE, Span
from ..txn.isolation cimport isolate_row, isolate_span, statement, trim_span
from ..txn.transaction cimport TxnManager, Lack, Found, lack_init
from ..txn.lsmops cimport lsm_mark, wall_of
from ..txn.versions cimport LOCKING, READ_COMMITTED, SERIAL, SERIALIZABLE, TXN_ACTIVE, Txn
from .handles cimport CoreKeyspace
from .txnhandle cimport CoreTransaction
from .rowlocks cimport lock_row
from .steps cimport raise_lacking, span_of, to_bytes

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) noexcept
    char* bytes_of "PyBytes_AS_STRING"(PyObject*) noexcept
    Py_ssize_t size_of "PyBytes_GET_SIZE"(PyObject*) noexcept
    void drop "Py_XDECREF"(PyObject*)
    object steal_tuple "PyTuple_New"(Py_ssize_t)
    void set_item "PyTuple_SET_ITEM"(object, Py_ssize_t, PyObject*)

cdef enum:
    KEY_ROOM = 16384             # longer than any key
    BATCH_BYTES = 256 * 1024     # values copied in one latch hold


cdef object MISSING = object()


cdef bytes successor(bytes prefix):
    """The least key above all that start with the prefix; None when there is none."""
    cdef bytes cut = prefix.rstrip(b"\xff")
    if not cut:
        return None
    return cut[:len(cut) - 1] + bytes([cut[len(cut) - 1] + 1])


cdef class CoreCursor:
    """Iterates over the records of a range as the transaction sees them."""

    def __init__(self, CoreTransaction txn, CoreKeyspace keyspace, start, stop, prefix, bint reverse, limit, bint keys, bint values, bint for_update,
                 bint no_wait, bint skip_locked, bint apart):
        self.txn = txn
        self.keyspace = keyspace
        self.lower = to_bytes(start, "start") if start is not None else None
        self.upper = to_bytes(stop, "stop") if stop is not None else None
        if prefix is not None:
            low = to_bytes(prefix, "prefix")
            high = successor(low)
            if self.lower is None or self.lower < low:
                self.lower = low
            if high is not None and (self.upper is None or self.upper > high):
                self.upper = high
        if not keys and not values:
            raise ValueError("a scan without keys and without values gives nothing: ask for one of them")
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be 0 or more, not {limit}")
        if (no_wait or skip_locked) and not for_update:
            raise ValueError("nowait and skip_locked belong to for_update=True: no other scan locks records")
        self.for_update = for_update
        self.no_wait = no_wait
        self.skip_locked = skip_locked
        self.apart = apart or skip_locked
        self.reverse = reverse
        self.keys_wanted = keys
        self.values_wanted = values
        self.left = -1 if limit is None else limit
        self.batch = FIRST_BATCH
        if self.left >= 0 and self.left < LARGEST_BATCH:
            self.batch = <int>self.left
        self.exhausted = self.left == 0 or (self.lower is not None and self.upper is not None and self.lower >= self.upper)

    def __dealloc__(self):
        cdef Span span
        if self.hold != NULL and self.at < self.count and self.txn.t != NULL and not self.txn.engine.foreign_process():
            self.consumed(&span)
            if latch_try(&self.txn.engine.latch):       # never waited for: then what was fetched in vain stays locked, or remembered
                trim_span(self.txn.m, self.txn.t, self.hold, &span)
                latch_unlock(&self.txn.engine.latch)
        self.discard()
        free(self.place)
        merge_free(self.merge)

    def __iter__(self):
        return self

    cdef void discard(self):
        """Lets go of what has been fetched and not yet given out."""
        while self.at < self.count:
            drop(self.keys[self.at])
            drop(self.values[self.at])
            self.at += 1
        self.at = self.count = 0

    def __next__(self):
        cdef bytes key
        cdef object got
        if not self.for_update:
            if not self.reading():
                raise StopIteration
            return self.take()
        while self.reading():
            got = self.take()
            key = self.given
            if self.txn.t.level == LOCKING and not self.skip_locked:
                return got                      # the range is locked so that nobody else reads it for update
            if not lock_row(self.txn, self.keyspace, key, self.no_wait or self.skip_locked, self.skip_locked):
                self.left += self.left >= 0
                continue
            if self.txn.t.level == READ_COMMITTED or self.txn.t.level == LOCKING:
                value = self.txn.get(self.keyspace, key, MISSING)      # it may have been changed since the scan's snapshot
                if value is MISSING:
                    self.left += self.left >= 0
                    continue
                got = (key, value) if self.keys_wanted and self.values_wanted else key if self.keys_wanted else value
            return got
        raise StopIteration

    cdef bint reading(self) except -1:
        """Whether there is a next record; it is in the batch then."""
        if self.txn.t == NULL or self.txn.t.state != TXN_ACTIVE or self.txn.engine.closing:
            self.discard()
            raise_status(fail(E_CLOSED if self.txn.engine.closing else E_TXN_CLOSED, b"the transaction of this scan has ended"))
        if (self.at < self.count or self.exhausted and self.count) and self.left != 0 and self.txn.t.writes != self.writes:
            if self.given is not None:
                self.last = self.given
            elif self.first_batch:
                self.last = None
            self.discard()
            self.exhausted = False
        if self.at == self.count:
            if self.exhausted or self.left == 0 or self.refill() == 0:
                self.left = 0
                if self.fixed is not None:
                    self.fixed.abort()
                return False
        return True

    cdef object take(self):
        """The next record, out of the batch."""
        cdef PyObject* key
        cdef PyObject* value
        cdef uint64_t pid, length
        cdef object pair, one
        key = self.keys[self.at]
        value = self.values[self.at]
        pid = self.blob_pids[self.at]
        length = self.blob_lengths[self.at]
        self.at += 1
        if self.left > 0:
            self.left -= 1
        if not self.txn.t.read_only or self.hold != NULL:
            self.given = <bytes><object>key
        if not self.values_wanted:
            one = <object>key
            drop(key)
            return one
        if pid:
            try:
                one = (self.fixed if self.fixed is not None else self.txn).large(pid, length)
                return (<object>key, one) if self.keys_wanted else one
            finally:
                drop(key)
        if not self.keys_wanted:
            one = <object>value
            drop(value)
            drop(key)
            return one
        pair = steal_tuple(2)
        set_item(pair, 0, key)
        set_item(pair, 1, value)
        return pair

    cdef int refill(self) except -1:
        """Fetches the next batch; the number of records in it."""
        cdef Lack lack
        cdef int wanted = self.batch
        cdef bint no_wait
        if self.left >= 0 and self.left < wanted:
            wanted = <int>self.left
        self.txn.ready(self.keyspace)
        if self.txn.t.level == READ_COMMITTED and (self.fixed is None or self.fixed.t == NULL):
            self.fixed = self.txn.database.core_transaction(CoreTransaction, True)
        lack_init(&lack)
        self.txn.t.deadline = 0
        no_wait = self.txn.t.no_wait
        self.txn.t.no_wait = no_wait or self.no_wait
        try:
            return self.fill(wanted, &lack)
        finally:
            if self.txn.t != NULL:
                self.txn.t.no_wait = no_wait

    cdef int fill(self, int wanted, Lack* lack) except -1:
        """The steps of refill."""
        cdef TxnManager m = self.txn.m
        cdef int status
        self.at = self.count = 0
        self.passed = -1
        self.halted = False
        while True:
            latch_enter(m.latch)
            status = self.txn.still()
            if status == OK and self.count:
                status = fail(E_THREAD, b"another thread reads from this scan: give each thread a scan of its own")
            if status != OK:
                latch_unlock(m.latch)
                raise_lacking(m, status, lack)
            if self.txn.t.watched:
                statement(m, self.txn.t)
            status = m.check(self.txn.t, False)
            if status == OK and self.fixed is not None:
                status = m.check(self.fixed.t, False)
            if status == OK:
                status = m.readable(self.txn.t, self.keyspace.id)
            if status == OK:
                status = self.read_batch(wanted, lack)
            self.writes = self.txn.t.writes
            if status != AGAIN and lack.held:
                m.settle(lack)
            latch_unlock(m.latch)
            if status != AGAIN:
                break
            self.discard()                       # rows that turned out to be in a range that another has locked
            self.txn.obtain(lack)
        if status == ABSENT:
            self.exhausted = True
        elif status != OK:
            self.discard()
            raise_lacking(m, status, lack)
        if self.count:
            self.first_batch = self.last is None
            self.last = <bytes><object>self.keys[self.count - 1]
            if self.batch < LARGEST_BATCH:
                self.batch = self.batch * 4 if self.batch * 4 < LARGEST_BATCH else LARGEST_BATCH
        return self.count

    cdef int read_batch(self, int wanted, Lack* lack) noexcept:
        """Latch held: fetch, with what the isolation level asks for."""
        cdef Txn* t = self.txn.t
        cdef uint64_t snapshot = t.snapshot, safe = t.safe_lsn, wall = t.wall
        cdef int status
        if self.fixed is not None:
            t.snapshot = self.fixed.t.snapshot
            t.safe_lsn = self.fixed.t.safe_lsn
            t.wall = self.fixed.t.wall
        t.apart = self.apart
        status = self.fetch_lsm(wanted, lack) if self.keyspace.lsm else self.fetch(wanted, lack)
        t.apart = False
        if self.fixed is not None:
            self.fixed.t.wall = t.wall
            t.snapshot = snapshot
            t.safe_lsn = safe
            t.wall = wall
        if t.watched and not self.apart and (t.level == SERIALIZABLE or t.level == LOCKING or (t.level == SERIAL and self.txn.m.first_prepared != NULL)):
            status = self.isolate(status, lack)
        return status

    cdef int isolate(self, int status, Lack* lack) noexcept:
        """Latch held: locks or remembers what has been read in this latch hold and before; status: what fetch answered."""
        cdef TxnManager m = self.txn.m
        cdef Span span, whole
        cdef int answer
        if status != OK and status != ABSENT and (status != AGAIN or self.passed < 0 or lack.blocker != NULL):
            return status
        span_of(&whole, self.lower if self.lower is not None else b"", self.upper if self.upper is not None else b"", self.upper is None)
        span = whole
        if status != ABSENT:                     # up to the last record found, or where the fetch came to without one
            if self.reverse:
                span.low = bytes_of(self.keys[self.count - 1]) if status == OK else self.place
                span.low_len = <unsigned int>(size_of(self.keys[self.count - 1]) if status == OK else self.passed)
            else:
                span.high = bytes_of(self.keys[self.count - 1]) if status == OK else self.place
                span.high_len = <unsigned int>(size_of(self.keys[self.count - 1]) if status == OK else self.passed)
                span.closed = True
                span.unbounded = False
        answer = isolate_span(m, self.txn.t, self.keyspace.id, HOLD_UPDATE if self.for_update else HOLD_SHARED, &span, &whole, &self.hold, lack)
        if answer == OK:
            if status == ABSENT and self.hold != NULL:
                self.hold.kept = False
                self.hold = NULL
            return status
        self.passed = -1
        self.halted = False
        return answer

    cdef void consumed(self, Span* span) noexcept:
        """What of the range has been given out; nothing: an empty span."""
        span_of(span, self.lower if self.lower is not None else b"", self.upper if self.upper is not None else b"", self.upper is None)
        if self.given is None:
            span.high = span.low
            span.high_len = span.low_len
            span.unbounded = False
        elif self.reverse:
            span.low = PyBytes_AS_STRING(self.given)
            span.low_len = <unsigned int>PyBytes_GET_SIZE(self.given)
        else:
            span.high = PyBytes_AS_STRING(self.given)
            span.high_len = <unsigned int>PyBytes_GET_SIZE(self.given)
            span.closed = True
            span.unbounded = False

    cdef int bearing(self, const char** key, size_t* klen) noexcept:
        """Where the next fetch begins: the key (NULL: the very end), and how it is sought."""
        if self.passed >= 0:
            key[0] = self.place
            klen[0] = self.passed
            if self.halted:
                return SEEK_LE if self.reverse else SEEK_GE
            return SEEK_LT if self.reverse else SEEK_GT
        if self.last is not None:
            key[0] = PyBytes_AS_STRING(self.last)
            klen[0] = PyBytes_GET_SIZE(self.last)
            return SEEK_LT if self.reverse else SEEK_GT
        key[0] = NULL
        klen[0] = 0
        if self.reverse:
            if self.upper is None:
                return SEEK_LE
            key[0] = PyBytes_AS_STRING(self.upper)
            klen[0] = PyBytes_GET_SIZE(self.upper)
            return SEEK_LT
        if self.lower is not None:
            key[0] = PyBytes_AS_STRING(self.lower)
            klen[0] = PyBytes_GET_SIZE(self.lower)
        return SEEK_GE

    cdef int seek(self, BTree tree, Path* path, Lack* lack) noexcept:
        cdef const char* key
        cdef size_t klen
        cdef int mode = self.bearing(&key, &klen)
        return tree.seek(key, klen, mode, path, &lack.need)

    cdef int keep(self, const char* key, size_t klen, const char* value, size_t vlen) noexcept:
        """Latch held: the record joins the batch."""
        cdef PyObject* k = new_bytes(key, <Py_ssize_t>klen)
        if k == NULL:
            return fail(E_NOMEM, b"no memory for a batch of records")
        self.keys[self.count] = k
        self.values[self.count] = NULL
        self.blob_pids[self.count] = 0
        if self.values_wanted:
            self.values[self.count] = new_bytes(value, <Py_ssize_t>vlen)
            if self.values[self.count] == NULL:
                drop(k)
                return fail(E_NOMEM, b"no memory for a batch of records")
        self.count += 1
        return OK

    cdef int fetch_lsm(self, int wanted, Lack* lack) noexcept:
        """As fetch, over an LSM-tree."""
        cdef TxnManager m = self.txn.m
        cdef LsmTree tree = <LsmTree>m.trees[self.keyspace.id].tree
        cdef const char* key
        cdef const char* edge = NULL
        cdef size_t klen, edge_len = 0
        cdef int64_t bytes_left = BATCH_BYTES
        cdef int status, order, mode = self.bearing(&key, &klen)
        if self.merge == NULL:
            self.merge = merge_new()
            if self.merge == NULL:
                return E_NOMEM
        if self.reverse:
            if self.lower is not None:
                edge = PyBytes_AS_STRING(self.lower)
                edge_len = PyBytes_GET_SIZE(self.lower)
        elif self.upper is not None:
            edge = PyBytes_AS_STRING(self.upper)
            edge_len = PyBytes_GET_SIZE(self.upper)
        status = merge_start(self.merge, tree, key, klen, mode, self.reverse, self.values_wanted, self.txn.t.snapshot, lsm_mark(self.txn.t),
                             wall_of(m, self.txn.t) if tree.options.ttl else 0, &lack.blocks)
        while status == OK:
            status = merge_next(self.merge, tree, &lack.blocks)
            if status != OK:
                break
            if edge != NULL:
                order = compare_bytes(self.merge.entry.key, self.merge.entry.klen, edge, edge_len)
                if (order < 0) if self.reverse else (order >= 0):
                    return ABSENT
            if self.txn.t.commutes:
                status = isolate_row(m, self.txn.t, self.keyspace.id, self.merge.entry.key, self.merge.entry.klen, lack)
                if status != OK:
                    return OK if status == AGAIN and self.count else status
            status = self.keep(self.merge.entry.key, self.merge.entry.klen, self.merge.entry.value, self.merge.entry.vlen)
            bytes_left -= <int64_t>self.merge.entry.klen + self.merge.entry.vlen
            if self.count == wanted or bytes_left <= 0:
                return status
        if status == AGAIN and self.count:
            return OK
        if status == AGAIN and self.merge.begun:
            self.halt(lack)
        return status

    cdef void halt(self, Lack* lack) noexcept:
        """Nothing visible was found before a block was lacking: the next attempt begins where this one halted, and needs no other blocks than those there."""
        cdef size_t klen = self.merge.entry.klen
        if self.place == NULL:
            self.place = <char*>malloc(KEY_ROOM)
        if self.place == NULL or self.passed == <Py_ssize_t>klen and memcmp(self.place, self.merge.keybuf, klen) == 0:
            return
        memcpy(self.place, self.merge.keybuf, klen)
        self.passed = klen
        self.halted = True
        block_need_unpin(self.txn.m.pool, &lack.blocks)

    cdef int fetch(self, int wanted, Lack* lack) noexcept:
        """Latch held. OK: a batch, perhaps cut short; ABSENT: a batch, perhaps empty, and the range's end; AGAIN with an empty batch."""
        cdef TxnManager m = self.txn.m
        cdef BTree tree = <BTree>m.trees[self.keyspace.id].tree
        cdef Path path
        cdef Frame* frame
        cdef Cell cell
        cdef Found found
        cdef const char* page
        cdef const char* prefix
        cdef const char* suffix
        cdef const char* edge = NULL
        cdef PyObject* key
        cdef char full[KEY_ROOM]
        cdef size_t np, ns, edge_len = 0, bytes_left = BATCH_BYTES
        cdef int i, n, step = -1 if self.reverse else 1, status, bound
        cdef uint16_t flags
        cdef uint32_t vlen
        cdef bint direct, watched = self.txn.t.watched
        status = self.seek(tree, &path, lack)
        if status != OK:
            return status
        if self.reverse:
            if self.lower is not None:
                edge = PyBytes_AS_STRING(self.lower)
                edge_len = PyBytes_GET_SIZE(self.lower)
        elif self.upper is not None:
            edge = PyBytes_AS_STRING(self.upper)
            edge_len = PyBytes_GET_SIZE(self.upper)
        while True:
            frame = path.frames[path.depth - 1]
            page = frame.page
            n = node_count(page)
            i = path.slots[path.depth - 1]
            prefix = node_prefix(page, &np)
            direct = m.table.live == 0 or frame.mark < self.txn.t.safe_lsn
            # Which end of the range lies in this leaf is found once, by its outermost key, not per record.
            bound = 0
            if edge != NULL:
                ns = node_key_copy(page, 0 if self.reverse else n - 1, full)
                bound = compare_bytes(full, ns, edge, edge_len)
                bound = bound < 0 if self.reverse else bound >= 0
            while 0 <= i < n:
                suffix = node_suffix(page, i, &ns)
                cell.value = node_value(page, i, &flags, &vlen)
                if bound:
                    memcpy(full, prefix, np)
                    memcpy(full + np, suffix, ns)
                    status = compare_bytes(full, np + ns, edge, edge_len)
                    if (status < 0) if self.reverse else (status >= 0):
                        return ABSENT
                i += step
                if direct:
                    if flags & VALUE_GHOST:
                        continue
                    found.value = cell.value
                    found.vlen = vlen
                    found.blob = flags & VALUE_BLOB
                else:
                    cell.frame = frame
                    cell.vlen = vlen
                    cell.flags = flags
                    memcpy(full, prefix, np)
                    memcpy(full + np, suffix, ns)
                    if watched:
                        status = isolate_row(m, self.txn.t, self.keyspace.id, full, np + ns, lack)
                        if status != OK:
                            return OK if status == AGAIN and self.count else status
                    if m.visible(self.txn.t, self.keyspace.id, full, np + ns, &cell, &found) != OK:
                        continue
                key = new_bytes(NULL, <Py_ssize_t>(np + ns))
                if key == NULL:
                    return fail(E_NOMEM, b"no memory for a batch of records")
                if np:
                    memcpy(bytes_of(key), prefix, np)
                memcpy(bytes_of(key) + np, suffix, ns)
                self.keys[self.count] = key
                self.values[self.count] = NULL
                self.blob_pids[self.count] = 0
                if self.values_wanted:
                    if found.blob:
                        self.blob_pids[self.count] = get64(found.value)
                        self.blob_lengths[self.count] = get64(found.value + 8)
                    else:
                        self.values[self.count] = new_bytes(found.value, found.vlen)
                        if self.values[self.count] == NULL:
                            drop(key)
                            return fail(E_NOMEM, b"no memory for a batch of records")
                self.count += 1
                if self.count == wanted:
                    return OK
                bytes_left -= np + ns + found.vlen
                if <int64_t>bytes_left <= 0:
                    return OK
            status = tree.prev_leaf(&path, &lack.need) if self.reverse else tree.next_leaf(&path, &lack.need)
            if status != OK:
                # What has been found already is given out before anything is fetched from the disk. Where nothing was, this leaf is not
                # gone through again: of a long stretch without a visible record not all pages need to be in memory at once.
                if status == AGAIN and self.count == 0 and self.place == NULL:
                    self.place = <char*>malloc(KEY_ROOM)
                if status == AGAIN and self.count == 0 and n and self.place != NULL:
                    self.passed = <Py_ssize_t>node_key_copy(page, 0 if self.reverse else n - 1, self.place)
                return OK if status == AGAIN and self.count else status
