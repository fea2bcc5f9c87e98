"""Handles: see handles.pxd."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, PyBytes_CheckExact
from cpython.object cimport PyObject
from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memset
from ..base.coding cimport get32, put32
from ..base.latch cimport latch_enter, latch_lock, latch_try, latch_unlock
from ..base.status cimport OK, ABSENT, AGAIN, E_CLOSED, E_FORK, E_NOMEM, E_READONLY, E_THREAD, E_TXN_CLOSED, E_USAGE, fail, raise_status
from itertools import islice
from ..base.status import registered_errors
from ..index.btree cimport BTree, Cell, Need, MAX_BATCH, need_init
from ..log.writer cimport SYNC
from ..page.layout cimport VALUE_BLOB, BLOB_REF
from ..txn.blob cimport blob_put
from ..txn.transaction cimport TxnManager, Lack, Found, lack_init, OP_PUT, OP_DELETE, OP_LOCK, CATALOG, CATALOG_ROW, TREE_DROPPING
from ..txn.versions cimport Txn, TXN_ACTIVE, TXN_COMMITTED, TXN_ABORTING, TXN_ABORTED
from .cursor cimport CoreCursor
from .engine cimport Engine
from .recovery cimport make_tree
from .steps cimport (MAX_VALUE, to_bytes, raise_lacking, obtain_for, shelter_value, fetch_blob, after_writes, commit_txn, end_quietly)

cdef extern from "Python.h":
    void drop "Py_XDECREF"(PyObject*)
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
    #define EL_KEY(o) PyBytes_AS_STRING(PyTuple_GET_ITEM((PyObject*)(o), 0))
    #define EL_KLEN(o) ((size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM((PyObject*)(o), 0)))
    #define EL_VALUE(o) PyBytes_AS_STRING(PyTuple_GET_ITEM((PyObject*)(o), 1))
    #define EL_VLEN(o) ((size_t)PyBytes_GET_SIZE(PyTuple_GET_ITEM((PyObject*)(o), 1)))
    """
    bint is_plain "el_is_plain"(PyObject* o, uint32_t max_key, uint32_t max_inline) noexcept nogil
    const char* plain_key "EL_KEY"(PyObject* o) noexcept nogil
    size_t plain_klen "EL_KLEN"(PyObject* o) noexcept nogil
    const char* plain_value "EL_VALUE"(PyObject* o) noexcept nogil
    size_t plain_vlen "EL_VLEN"(PyObject* o) noexcept nogil

cdef enum:
    BTREE_BACKEND = 0


cdef int too_long(CoreKeyspace k, bytes key) except -1:
    raise ValueError(f"the key has {len(key)} bytes; the longest possible is {k.max_key} bytes at this page size: shorten or hash it")


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
    if keyspace.id >= m.next_keyspace or m.trees[keyspace.id].tree == NULL or (<BTree>m.trees[keyspace.id].tree).streak:
        return
    while count < keyspace.max_batch and i + count < n:
        item = list_item(work, i + count)
        if not is_plain(item, keyspace.max_key, keyspace.max_inline):
            break
        p[count] = plain_key(item)
        k[count] = plain_klen(item)
        count += 1
    if count > 1:
        need_init(&unused)
        (<BTree>m.trees[keyspace.id].tree).find_many(p, k, count, cells, statuses, &unused)


cdef class CoreDatabase:

    def __init__(self, str path, **options):
        self.path = path
        self.closed = True
        self.engine = Engine()
        self.engine.open(path, **options)
        self.closed = False

    cdef int alive(self) except -1:
        if self.engine.foreign_process():
            raise_status(fail(E_FORK, b"this database handle belongs to the parent process: open the database again in this one"))
        if self.closed or self.engine.closing:
            raise_status(fail(E_CLOSED, b"the database is closed"))
        return 0

    @property
    def read_only(self):
        """Whether it was opened read-only."""
        return self.engine.read_only

    @property
    def database_id(self):
        """16 bytes that name the database."""
        return (<char*>self.engine.store.sb.database_id)[:16]

    @property
    def recovery(self):
        """What opening had to replay: records, transactions, rolled_back, log_bytes, created."""
        return self.engine.recovery

    def close(self):
        """Rolls back what is open, checkpoints, closes. Idempotent."""
        if self.closed or self.engine.foreign_process():
            return
        self.closed = True
        self.engine.close()

    def abandon(self):
        """Closes without a checkpoint and without flushing, as the death of the process would."""
        if self.closed or self.engine.foreign_process():
            return
        self.closed = True
        self.engine.close(checkpoint=False)

    def core_transaction(self, type cls, bint read_only=False, int durability=-1, double lock_timeout=-1.0, int isolation=1):
        """Begins a transaction at the newest snapshot; `cls` is CoreTransaction or a subclass of it."""
        cdef CoreTransaction x
        cdef Engine e = self.engine
        if self.closed or e.closing or e.foreign_process():
            self.alive()
        if e.txns.orphans != NULL:
            e.poke()
            if not e.has_thread:
                with nogil:
                    latch_lock(&e.latch)
                    e.enter()
                    e.abort_orphans()
                    e.leave()
                    latch_unlock(&e.latch)
        x = cls.__new__(cls)
        x.database = self
        x.engine = e
        x.m = e.txns
        latch_enter(&e.latch)
        x.t = e.txns.begin(read_only or e.read_only, durability if durability >= 0 else e.durability,
                           <int64_t>(lock_timeout * 1e6) if lock_timeout >= 0 else e.lock_timeout, True)
        latch_unlock(&e.latch)
        if x.t == NULL:
            raise_status(E_NOMEM)
        return x

    def core_transaction_plain(self):
        """A read-only transaction of the core's own class."""
        return self.core_transaction(CoreTransaction, read_only=True)

    def core_keyspace(self, type cls, str name, bint create=True, str backend="btree"):
        """The keyspace of that name as committed; made, in a transaction of its own, when absent."""
        cdef CoreTransaction txn
        self.alive()
        with self.core_transaction(CoreTransaction, read_only=not create or self.engine.read_only) as txn:
            row = txn.catalog_row(name)
            if row is None:
                if not create or self.engine.read_only:
                    raise KeyError(f"no keyspace named {name!r}")
            else:
                return keyspace_handle(self, cls, name, row)
            return txn.create_keyspace(cls, name, backend)

    def keyspace_rows(self):
        """(name, id, backend) of every committed keyspace, by name."""
        cdef CoreTransaction txn
        self.alive()
        with self.core_transaction(CoreTransaction, read_only=True) as txn:
            return txn.catalog_rows()

    def drop_keyspace(self, str name):
        """Drops a keyspace in a transaction of its own. Raises KeyError when there is none."""
        with self.core_transaction(CoreTransaction) as txn:
            txn.drop_keyspace(name)

    def rename_keyspace(self, str old, str new):
        """Renames a keyspace in a transaction of its own. Raises KeyError when there is no `old`, ValueError when `new` is taken."""
        with self.core_transaction(CoreTransaction) as txn:
            txn.rename_keyspace(old, new)

    def checkpoint(self):
        """Makes the page file the image of everything committed and undone so far, shrinks it, and lets go of log segments."""
        cdef Engine e = self.engine
        cdef int status
        self.alive()
        if e.read_only:
            raise_status(fail(E_READONLY, b"the database was opened read-only"))
        with nogil:
            latch_lock(&e.latch)
            status = e.admit()
            if status == OK:
                status = e.txns.collect_slowly()
                if status == OK:
                    status = e.drop_trees()
                if status == OK:
                    status = e.checkpoint_now(True)
                e.leave()
            latch_unlock(&e.latch)
        if status != OK:
            raise_status(status)

    def sync(self):
        """Makes everything committed so far durable."""
        cdef Engine e = self.engine
        cdef int status
        self.alive()
        if e.read_only:
            return
        with nogil:
            latch_lock(&e.latch)
            status = e.admit()
            if status == OK:
                status = e.log.flush(e.log.end_lsn, SYNC)
                e.txns.publish()
                e.leave()
            latch_unlock(&e.latch)
        if status != OK:
            raise_status(status)

    def step(self, str what):
        """One piece of background work, for tests with background=False: "checkpoint", "lazy", "prepare", "gc"."""
        cdef Engine e = self.engine
        cdef int status = OK
        cdef int kind = ("checkpoint", "lazy", "prepare", "gc").index(what)
        self.alive()
        with nogil:
            latch_lock(&e.latch)
            status = e.admit()
            if status != OK:
                e.enter()                 # matched by leave below; nothing is done
            elif kind == 0:
                status = e.checkpoint_now(False)
            elif kind == 1:
                status = e.log.flush(e.log.end_lsn, SYNC)
                e.txns.publish()
            elif kind == 2:
                status = e.log.prepare_ahead()
            else:
                status = e.abort_orphans()
                if status == OK:
                    status = e.txns.collect_slowly()
                if status == OK:
                    status = e.drop_trees()
            e.leave()
            latch_unlock(&e.latch)
        if status != OK:
            raise_status(status)

    def backup(self, str path):
        """Copies the database, as of now, to a new directory, while it is in use."""
        from .upkeep import backup
        self.alive()
        return backup(self, path)

    def verify(self, progress=None):
        """Checks every page, key order, reference and checksum; returns (findings, counts)."""
        from .upkeep import verify
        self.alive()
        return verify(self, progress)

    def stats(self):
        """A nested dict of plain values."""
        from .upkeep import stats
        self.alive()
        return stats(self)

    def log_records(self, uint64_t start_lsn=0):
        """The records of the log that is still there, as dicts, oldest first."""
        from .upkeep import log_records
        self.alive()
        return log_records(self, start_lsn)


cdef object keyspace_handle(CoreDatabase db, type cls, str name, bytes row):
    cdef CoreKeyspace k = cls.__new__(cls)
    cdef uint32_t id = get32(PyBytes_AS_STRING(row))
    cdef BTree tree
    cdef TxnManager m = db.engine.txns
    if id >= m.next_keyspace or m.trees[id].tree == NULL:
        raise_status(fail(E_USAGE, b"the keyspace is gone"))
    tree = <BTree>m.trees[id].tree
    k.database = db
    k.engine = db.engine
    k.m = m
    k.name = name
    k.id = id
    k.backend = "btree"
    k.max_key = tree.max_key
    k.max_inline = tree.max_inline
    k.max_batch = tree.max_batch
    return k


cdef class CoreKeyspace:
    """A named, ordered map from bytes to bytes. Each operation here is a transaction of its own."""

    def get(self, key, default=None):
        """The newest committed value, or `default`."""
        cdef bytes k = to_bytes(key, "key")
        cdef Engine e = self.engine
        cdef Found f
        cdef Lack lack
        cdef PyObject* raw = NULL
        cdef uint64_t pid = 0, length = 0
        cdef int status
        if e.closing or e.foreign_process():
            self.database.alive()
        lack_init(&lack)
        while True:
            latch_enter(&e.latch)
            status = self.m.read(NULL, self.id, PyBytes_AS_STRING(k), PyBytes_GET_SIZE(k), &f, &lack)
            if status == OK:
                raw = shelter_value(self.m, &f, &pid, &length)
            if status != AGAIN and lack.need.pinned:
                self.m.settle(&lack)
            latch_unlock(&e.latch)
            if status == OK:
                if raw != NULL:
                    result = <object>raw
                    drop(raw)
                    return result
                if pid == 0:
                    raise MemoryError("no memory for a value")
                with self.database.core_transaction(CoreTransaction, read_only=True) as txn:   # its snapshot keeps the large value in being
                    return txn.get(self, k, default)
            if status == ABSENT:
                return default
            if status != AGAIN:
                raise_lacking(self.m, status, &lack)
            obtain_for(e, NULL, &lack)

    def __getitem__(self, key):
        cdef object value = CoreKeyspace.get(self, key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __contains__(self, key):
        return CoreKeyspace.get(self, key, MISSING) is not MISSING

    cdef object put_one(self, int op, bytes key, bytes value):
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        cdef Txn* t
        cdef Lack lack
        cdef int status, answer
        cdef const char* p = PyBytes_AS_STRING(value) if value is not None else NULL
        cdef size_t n = PyBytes_GET_SIZE(value) if value is not None else 0
        if e.closing or e.foreign_process():
            self.database.alive()
        if PyBytes_GET_SIZE(key) > <Py_ssize_t>self.max_key:
            too_long(self, key)
        if n + PyBytes_GET_SIZE(key) > self.max_inline:
            with self.database.core_transaction(CoreTransaction) as txn:
                # The newest state, like every operation of a keyspace; as no snapshot at all, or garbage would be judged by its timestamp.
                t = (<CoreTransaction>txn).t
                latch_enter(&e.latch)
                m.close_snapshot(t)
                t.snapshot = <uint64_t>-1
                t.safe_lsn = 0
                latch_unlock(&e.latch)
                txn.put(self, key, value)
            return True
        lack_init(&lack)
        latch_enter(&e.latch)
        t = m.begin(False, e.durability, e.lock_timeout, False)
        if t == NULL:
            latch_unlock(&e.latch)
            raise_status(E_NOMEM)
        while True:
            answer = m.write(t, op, self.id, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), p, n, 0, 0, 0, &lack)
            if answer != AGAIN:
                break
            latch_unlock(&e.latch)
            try:
                obtain_for(e, t, &lack)
            except BaseException:
                end_quietly(e, t)
                raise
            latch_enter(&e.latch)
        m.settle(&lack)
        if answer != OK and answer != ABSENT:
            latch_unlock(&e.latch)
            end_quietly(e, t)
            raise_status(answer)
        status = commit_txn(e, t)
        latch_enter(&e.latch)
        m.finish(t)
        latch_unlock(&e.latch)
        if status != OK:
            raise_status(status)
        return answer == OK

    def put(self, key, value):
        """Sets the value of a key, in a transaction of its own."""
        self.put_one(OP_PUT, to_bytes(key, "key"), to_bytes(value, "value"))

    def delete(self, key):
        """Deletes a key, in a transaction of its own; whether it was there."""
        return self.put_one(OP_DELETE, to_bytes(key, "key"), None)

    def __setitem__(self, key, value):
        self.put_one(OP_PUT, to_bytes(key, "key"), to_bytes(value, "value"))

    def __delitem__(self, key):
        if not self.put_one(OP_DELETE, to_bytes(key, "key"), None):
            raise KeyError(key)

    def get_many(self, keys):
        """The values of many keys at one snapshot; None for those absent."""
        with self.database.core_transaction(CoreTransaction, read_only=True) as txn:
            return txn.get_many(self, keys)

    def put_many(self, pairs):
        """Sets many keys in one transaction; returns how many."""
        with self.database.core_transaction(CoreTransaction) as txn:
            return txn.put_many(self, pairs)

    def core_stats(self):
        """Plain values about the tree."""
        return {"id": self.id, "backend": self.backend, "max_key": self.max_key, "max_inline": self.max_inline}


cdef object MISSING = object()


@cython.no_gc_clear
cdef class CoreTransaction:
    """A transaction, used by one thread at a time; commits at the end of its `with` block, aborts on an exception."""

    def __dealloc__(self):
        if self.t != NULL and self.engine is not None and not self.engine.foreign_process():
            self.m.queue_abort(self.t)
            self.t = NULL
            if latch_try(&self.engine.latch):      # never waited for: this may run anywhere
                self.engine.poke()
                latch_unlock(&self.engine.latch)

    cdef int idle(self) except -1:
        if self.in_use:
            raise_status(fail(E_THREAD, b"another thread is inside an operation of this transaction: give each thread a transaction of its own"))
        if self.engine.foreign_process():
            raise_status(fail(E_FORK, b"this transaction belongs to the parent process: open the database again in this one"))
        return 0

    cdef int still(self) noexcept:
        """GIL and latch held: whether, while the latch was waited for without the GIL, no other thread has taken or ended the transaction."""
        if self.t == NULL:
            return fail(E_TXN_CLOSED, b"the transaction has ended")
        if self.in_use:
            return fail(E_THREAD, b"another thread is inside an operation of this transaction: give each thread a transaction of its own")
        return OK

    cdef bytes large(self, uint64_t pid, uint64_t length):
        """A large value that the snapshot sees."""
        self.in_use = True
        try:
            value = fetch_blob(self.engine, pid, length)
        except BaseException:
            if self.t != NULL and self.t.snapshot_lost:
                raise_status(self.m.check(self.t, False))
            raise
        finally:
            self.in_use = False
        # The snapshot is marked lost before what it needs is let go of: asked after reading, the answer covers the reading.
        if self.t != NULL and self.t.snapshot_lost:
            raise_status(self.m.check(self.t, False))
        return value

    cdef int ready(self, CoreKeyspace keyspace) except -1:
        if self.in_use or self.engine.foreign_process():
            self.idle()
        if keyspace.engine is not self.engine:
            raise_status(fail(E_USAGE, b"the keyspace belongs to another database (or another opening of this one)"))
        if self.t == NULL:
            raise_status(fail(E_CLOSED if self.engine.closing else E_TXN_CLOSED, b"the transaction has ended"))
        return 0

    cdef int obtain(self, Lack* lack) except -1:
        self.in_use = True
        try:
            obtain_for(self.engine, self.t, lack)
        finally:
            self.in_use = False
        return 0

    @property
    def read_only(self):
        """Whether it refuses writes."""
        return self.t != NULL and bool(self.t.read_only)

    @property
    def state(self):
        """"active", "committed", "aborted" or "unknown"."""
        if self.t == NULL:
            return "committed" if self.ended_ts or self.ended_id == 0 else "aborted"
        return ("active", "committing", "committed", "active", "aborted", "unknown")[self.t.state]

    @property
    def snapshot(self):
        """The commit timestamp it reads at."""
        return self.t.snapshot if self.t != NULL else 0

    @property
    def id(self):
        """Its number in the log; 0 until it has written."""
        return self.t.id if self.t != NULL else self.ended_id

    @property
    def commit_ts(self):
        """Its commit timestamp; 0 before, and for one that wrote nothing."""
        return self.t.commit_ts if self.t != NULL else self.ended_ts

    # --- reading

    def get(self, CoreKeyspace keyspace not None, key, default=None):
        """The value of a key, or `default`."""
        cdef bytes k = <bytes>key if PyBytes_CheckExact(key) else to_bytes(key, "key")
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        cdef Found f
        cdef Lack lack
        cdef PyObject* raw = NULL
        cdef uint64_t pid = 0, length = 0
        cdef int status
        self.ready(keyspace)
        lack_init(&lack)
        while True:
            latch_enter(&e.latch)
            status = self.still()
            if status == OK:
                status = m.check(self.t, False)
            if status == OK:
                status = m.read(self.t, keyspace.id, PyBytes_AS_STRING(k), PyBytes_GET_SIZE(k), &f, &lack)
            if status == OK:
                raw = shelter_value(m, &f, &pid, &length)
            if status != AGAIN and lack.need.pinned:
                m.settle(&lack)
            latch_unlock(&e.latch)
            if status == OK:
                if raw != NULL:
                    result = <object>raw
                    drop(raw)
                    return result
                if pid == 0:
                    raise MemoryError("no memory for a value")
                return self.large(pid, length)
            if status == ABSENT:
                return default
            if status != AGAIN:
                raise_lacking(m, status, &lack)
            self.obtain(&lack)

    def contains(self, CoreKeyspace keyspace not None, key):
        """Whether the key is there."""
        return self.get(keyspace, key, MISSING) is not MISSING

    def get_many(self, CoreKeyspace keyspace not None, keys):
        """The values of many keys, in their order; None for those absent."""
        cdef list wanted = [to_bytes(each, "key") for each in keys]
        cdef list result = []
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        cdef Lack lack
        cdef Found f
        cdef const char* p[MAX_BATCH]
        cdef size_t n[MAX_BATCH]
        cdef Cell cells[MAX_BATCH]
        cdef int statuses[MAX_BATCH]
        cdef PyObject* raw[MAX_BATCH]
        cdef uint64_t pids[MAX_BATCH]
        cdef uint64_t lengths[MAX_BATCH]
        cdef Py_ssize_t i, first = 0, count, total = len(wanted)
        cdef int status
        cdef bytes k
        self.ready(keyspace)
        lack_init(&lack)
        while first < total:
            count = total - first if total - first < keyspace.max_batch else keyspace.max_batch
            for i in range(count):
                k = <bytes>wanted[first + i]
                p[i] = PyBytes_AS_STRING(k)
                n[i] = PyBytes_GET_SIZE(k)
            latch_enter(&e.latch)
            status = self.still()
            if status == OK:
                status = m.check(self.t, False)
            if status == OK:
                status = m.readable(self.t, keyspace.id)
            if status == OK:
                status = (<BTree>m.trees[keyspace.id].tree).find_many(p, n, <int>count, cells, statuses, &lack.need)
            if status == OK:
                for i in range(count):
                    raw[i] = NULL
                    pids[i] = 0
                    if statuses[i] == OK and m.visible(self.t, keyspace.id, p[i], n[i], &cells[i], &f) == OK:
                        raw[i] = shelter_value(m, &f, &pids[i], &lengths[i])
                        if raw[i] == NULL and pids[i] == 0:
                            status = E_NOMEM
            if status != AGAIN and lack.need.pinned:
                m.settle(&lack)
            latch_unlock(&e.latch)
            if status == AGAIN:
                self.obtain(&lack)
                continue
            if status != OK:
                raise_lacking(m, status, &lack)
            for i in range(count):
                if raw[i] != NULL:
                    result.append(<object>raw[i])
                    drop(raw[i])
                else:
                    result.append(self.large(pids[i], lengths[i]) if pids[i] else None)
            first += count
        return result

    def scan(self, CoreKeyspace keyspace not None, start=None, stop=None, *, prefix=None, bint reverse=False, limit=None, bint keys=True,
             bint values=True):
        """An iterator over a half-open range of keys: (key, value) tuples, or keys or values alone."""
        self.ready(keyspace)
        return CoreCursor(self, keyspace, start, stop, prefix, reverse, limit, keys, values)

    # --- writing

    cdef int change(self, int op, CoreKeyspace keyspace, bytes key, bytes value, Lack* lack) except -2:
        """One write, in as many steps as it takes; OK or ABSENT."""
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        cdef const char* p = PyBytes_AS_STRING(value) if value is not None else NULL
        cdef size_t n = PyBytes_GET_SIZE(value) if value is not None else 0
        cdef char reference[BLOB_REF]
        cdef uint16_t flags = 0
        cdef uint64_t number = 0
        cdef int status
        if PyBytes_GET_SIZE(key) > <Py_ssize_t>keyspace.max_key:
            too_long(keyspace, key)
        if self.t == NULL:
            raise_status(fail(E_TXN_CLOSED, b"the transaction has ended"))
        self.t.deadline = 0
        if n + PyBytes_GET_SIZE(key) > keyspace.max_inline and op == OP_PUT:
            if n > MAX_VALUE:
                raise ValueError(f"the value has {n} bytes; the longest possible is {MAX_VALUE} bytes (1 GiB): split it over several keys")
            # The row lock first: who waits or loses does so before the value is written anywhere.
            self.change(OP_LOCK, keyspace, key, None, lack)
            self.in_use = True
            with nogil:
                latch_lock(&e.latch)
                status = e.admit()
                if status == OK:
                    status = blob_put(m, self.t, p, n, &number, reference, lack)
                    e.leave()
                latch_unlock(&e.latch)
            self.in_use = False
            if status != OK:
                raise_lacking(m, status, lack)
            p = reference
            n = BLOB_REF
            flags = VALUE_BLOB
        self.t.deadline = 0              # each operation has lock_timeout to itself
        while True:
            latch_enter(&e.latch)
            status = self.still()
            if status == OK:
                status = m.write(self.t, op, keyspace.id, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), p, n, flags, number, 0, lack)
            if status == OK:
                after_writes(e)
            if status != AGAIN and lack.need.pinned:
                m.settle(lack)
            latch_unlock(&e.latch)
            if status == OK or status == ABSENT:
                self.t.deadline = 0
                return status
            if status != AGAIN:
                self.give_up_blob()
                raise_lacking(m, status, lack)
            try:
                self.obtain(lack)
            except BaseException:
                self.give_up_blob()
                raise

    cdef void give_up_blob(self) noexcept:
        """Frees a large value that was written and could not be linked."""
        latch_enter(&self.engine.latch)
        if self.t != NULL and self.t.blob_pid and not self.engine.closing:
            self.m.pool.forget(self.t.blob_pid)
            self.t.blob_pid = self.t.blob_lsn = 0
        latch_unlock(&self.engine.latch)

    def put(self, CoreKeyspace keyspace not None, key, value):
        """Sets the value of a key."""
        cdef Lack lack
        self.ready(keyspace)
        lack_init(&lack)
        self.change(OP_PUT, keyspace, to_bytes(key, "key"), to_bytes(value, "value"), &lack)

    def delete(self, CoreKeyspace keyspace not None, key, bint blind=False):
        """Deletes a key; whether it was there (blind: None, without saying)."""
        cdef Lack lack
        cdef int status
        self.ready(keyspace)
        lack_init(&lack)
        status = self.change(OP_DELETE, keyspace, to_bytes(key, "key"), None, &lack)
        return None if blind else status == OK

    def put_many(self, CoreKeyspace keyspace not None, pairs):
        """Sets many keys, or after an error none of them; returns how many."""
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        cdef Lack lack
        cdef int status = OK
        cdef Py_ssize_t i, n
        cdef list work
        cdef PyObject* item
        cdef int stretch, depth
        cdef uint32_t max_key = keyspace.max_key, max_inline = keyspace.max_inline
        self.ready(keyspace)
        lack_init(&lack)
        if hasattr(pairs, "items"):
            pairs = pairs.items()
        work = list(pairs)
        n = len(work)
        i = 0
        self.ready(keyspace)              # the iterable may have ended the transaction
        self.t.deadline = 0
        depth = self.save()
        try:
            while i < n:
                # A stretch of plain pairs under one latch hold; whatever is special about one is left to `change`.
                latch_enter(&e.latch)
                warm(m, keyspace, work, i, n)
                status = self.still()
                stretch = 0
                while status == OK and i < n and stretch < keyspace.max_batch:
                    item = list_item(work, i)
                    if not is_plain(item, max_key, max_inline):
                        break
                    status = m.write(self.t, OP_PUT, keyspace.id, plain_key(item), plain_klen(item), plain_value(item), plain_vlen(item), 0, 0, 0, &lack)
                    if status != OK:
                        break
                    i += 1
                    stretch += 1
                after_writes(e)
                if status != AGAIN and lack.need.pinned:
                    m.settle(&lack)
                latch_unlock(&e.latch)
                if status == AGAIN:
                    self.obtain(&lack)
                elif status != OK:
                    raise_lacking(m, status, &lack)
                elif i < n and not is_plain(list_item(work, i), max_key, max_inline):
                    key, value = work[i]
                    self.change(OP_PUT, keyspace, to_bytes(key, "key"), to_bytes(value, "value"), &lack)
                    i += 1
        except BaseException:
            self.take_back(depth)
            raise
        self.release(depth)
        return n

    def delete_range(self, CoreKeyspace keyspace not None, start=None, stop=None):
        """Deletes every key of a half-open range that this transaction sees; returns how many."""
        cdef Lack lack
        cdef Py_ssize_t count = 0
        cdef int depth
        lack_init(&lack)
        scan = self.scan(keyspace, start, stop, values=False)
        depth = self.save()
        try:
            while True:                   # by the batch: a change sends the scan back to the tree
                keys = list(islice(scan, MAX_BATCH))
                if not keys:
                    break
                for key in keys:
                    count += self.change(OP_DELETE, keyspace, key, None, &lack) == OK
        except BaseException:
            self.take_back(depth)
            raise
        self.release(depth)
        return count

    cdef int take_back(self, int depth) except -1:
        """Undoes the half of an operation that was done (law 14); where that fails too, only the abort is left."""
        if self.t == NULL or self.t.state != TXN_ACTIVE:
            return 0
        try:
            self.rollback_to(depth)
        except BaseException:
            latch_enter(&self.engine.latch)
            if self.t != NULL and not self.t.undoing:
                self.t.undo_to = self.t.savepoints[depth - 1].lsn
                self.t.undoing = True
            latch_unlock(&self.engine.latch)
            raise
        return 0

    def get_for_update(self, CoreKeyspace keyspace not None, key, default=None):
        """The value of a key, whose row stays locked until the end of the transaction."""
        cdef Lack lack
        cdef bytes k = to_bytes(key, "key")
        self.ready(keyspace)
        lack_init(&lack)
        self.change(OP_LOCK, keyspace, k, None, &lack)
        return self.get(keyspace, k, default)

    # --- ending

    cdef object finish_now(self):
        """Lets go of the ended transaction."""
        latch_enter(&self.engine.latch)
        if self.t != NULL:                 # another thread may have come first while the latch was waited for
            self.ended_id = self.t.id
            self.ended_ts = self.t.commit_ts if self.t.state == TXN_COMMITTED else 0
            if self.t.state == TXN_ABORTED and self.ended_id == 0:
                self.ended_id = <uint64_t>-1
            self.m.finish(self.t)
            self.t = NULL
        latch_unlock(&self.engine.latch)

    def commit(self):
        """Ends the transaction; its changes are visible, and as durable as asked, when this returns."""
        cdef int status
        cdef bint catalog
        self.idle()
        if self.t == NULL:
            raise_status(fail(E_TXN_CLOSED, b"the transaction has ended"))
        latch_enter(&self.engine.latch)
        status = self.still()
        if status == OK:
            status = self.m.check(self.t, False)
        if status != OK:
            latch_unlock(&self.engine.latch)
            raise_status(status)
        catalog = self.t.catalog
        self.in_use = True
        try:
            status = commit_txn(self.engine, self.t)
        finally:
            self.in_use = False
        if status != OK:
            raise_status(status)
        self.finish_now()
        if catalog:
            self.engine.refresh_names()

    def abort(self):
        """Undoes everything; does nothing once the transaction has ended."""
        cdef Lack lack
        cdef int status
        cdef Engine e = self.engine
        cdef Txn* t = self.t
        cdef TxnManager m = self.m
        if t == NULL or e.foreign_process():
            return
        self.idle()
        if t.state != TXN_ACTIVE and t.state != TXN_ABORTING:
            return
        if e.closing:
            return
        lack_init(&lack)
        latch_enter(&e.latch)
        status = self.still()
        if status == OK:
            status = m.abort(t, &lack)
            m.settle(&lack)
        latch_unlock(&e.latch)
        if status == AGAIN:
            self.in_use = True
            with nogil:
                latch_lock(&e.latch)
                status = e.admit()
                if status == OK:
                    while True:
                        status = m.abort(t, &lack)
                        if status != AGAIN:
                            break
                        status = m.secure(t, &lack)
                        if status != OK:
                            break
                    e.leave()
                m.settle(&lack)
                latch_unlock(&e.latch)
            self.in_use = False
            if status == E_CLOSED:
                return                     # close() rolls back what is open
        if status != OK:
            raise_lacking(m, status, &lack)
        self.finish_now()

    def save(self):
        """Opens a savepoint inside those open; returns its depth."""
        cdef int status
        self.idle()
        if self.t == NULL:
            raise_status(fail(E_TXN_CLOSED, b"the transaction has ended"))
        latch_enter(&self.engine.latch)
        status = self.still()
        if status == OK:
            status = self.m.check(self.t, False)
        if status == OK:
            status = self.m.save(self.t)
        latch_unlock(&self.engine.latch)
        if status != OK:
            raise_status(status)
        return self.t.depth

    def rollback_to(self, int depth):
        """Undoes what was done since savepoint `depth` was opened; closes it and those inside it."""
        cdef Lack lack
        cdef int status
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        self.idle()
        if self.t == NULL:
            raise_status(fail(E_TXN_CLOSED, b"the transaction has ended"))
        if depth < 1 or depth > self.t.depth:
            raise_status(fail(E_TXN_CLOSED, b"the savepoint has been closed"))
        lack_init(&lack)
        self.in_use = True
        with nogil:
            latch_lock(&e.latch)
            status = e.admit()
            if status == OK:
                while True:
                    status = m.rollback_to(self.t, depth, &lack)
                    if status != AGAIN:
                        break
                    status = m.secure(self.t, &lack)
                    if status != OK:
                        break
                e.leave()
            m.settle(&lack)
            latch_unlock(&e.latch)
        self.in_use = False
        if status != OK:
            raise_status(status)

    def release(self, int depth):
        """Closes savepoint `depth` and those inside it; the changes stay."""
        cdef int status
        self.idle()
        if self.t == NULL:
            raise_status(fail(E_TXN_CLOSED, b"the transaction has ended"))
        if depth < 1 or depth > self.t.depth:
            raise_status(fail(E_TXN_CLOSED, b"the savepoint has been closed"))
        latch_enter(&self.engine.latch)
        status = self.still()
        if status == OK and depth <= self.t.depth:
            self.t.depth = depth - 1
        latch_unlock(&self.engine.latch)
        if status != OK:
            raise_status(status)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self.t == NULL:
            return
        if kind is None:
            try:
                self.commit()
            except BaseException:
                if self.t != NULL and self.t.state == TXN_ACTIVE:
                    self.abort()
                raise
        else:
            self.abort()

    # --- the catalogue

    def catalog_row(self, str name):
        """The catalogue's row for a keyspace name, or None."""
        return self.get(catalog_of(self.database), encode_name(name), None)

    def catalog_rows(self):
        """(name, id, backend) of every keyspace this transaction sees."""
        return [((<bytes>k).decode(), get32(PyBytes_AS_STRING(<bytes>v)), "btree") for k, v in self.scan(catalog_of(self.database))]

    def create_keyspace(self, type cls, str name, str backend="btree"):
        """Makes a keyspace; it exists for others once this transaction commits."""
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        cdef uint32_t id
        cdef char row[CATALOG_ROW]
        cdef CoreKeyspace catalog = catalog_of(self.database)
        cdef Lack lack
        if backend != "btree":
            raise registered_errors()["NotSupported"](f"backend {backend!r} does not exist; backends are: 'btree'")
        encoded = encode_name(name)
        lack_init(&lack)
        self.ready(catalog)
        self.change(OP_LOCK, catalog, encoded, None, &lack)
        if self.get(catalog, encoded) is not None:
            raise ValueError(f"a keyspace named {name!r} exists already")
        latch_enter(&e.latch)
        id = m.next_keyspace
        status = m.tree_admit(id)
        if status == OK:
            m.next_keyspace += 1
        latch_unlock(&e.latch)
        if status != OK:
            raise_status(status)
        make_tree(m, id, self.t)
        memset(row, 0, CATALOG_ROW)
        put32(row, id)
        row[4] = BTREE_BACKEND
        try:
            self.change(OP_PUT, catalog, encoded, row[:CATALOG_ROW], &lack)
        except BaseException:
            latch_enter(&e.latch)
            m.trees[id].created_by = NULL
            m.trees[id].state = TREE_DROPPING
            m.dropping += 1
            latch_unlock(&e.latch)
            raise
        return keyspace_handle(self.database, cls, name, row[:CATALOG_ROW])

    def drop_keyspace(self, str name):
        """Drops a keyspace and all that is in it, when this transaction commits."""
        cdef bytes row = self.catalog_row(name)
        cdef Lack lack
        cdef uint32_t id
        cdef int status
        if row is None:
            raise KeyError(f"no keyspace named {name!r}")
        id = get32(PyBytes_AS_STRING(row))
        lack_init(&lack)
        self.t.deadline = 0
        while True:                   # nobody else may have changes under way in it, and the drop shuts it in the same latch hold
            latch_enter(&self.engine.latch)
            status = self.still()
            if status == OK:
                status = self.m.check(self.t, True)
            if status == OK:
                status = self.m.writers_in(self.t, id, &lack)
            if status == OK:
                key = encode_name(name)
                status = self.m.write(self.t, OP_DELETE, CATALOG, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), NULL, 0, 0, 0, 0, &lack)
            if status != AGAIN:
                self.m.settle(&lack)
            latch_unlock(&self.engine.latch)
            if status == OK:
                return
            if status != AGAIN:
                raise_lacking(self.m, status, &lack)
            self.obtain(&lack)

    def rename_keyspace(self, str old, str new):
        """Renames a keyspace, when this transaction commits."""
        cdef CoreKeyspace catalog = catalog_of(self.database)
        cdef Lack lack
        cdef bytes row = self.catalog_row(old)
        cdef int depth
        if row is None:
            raise KeyError(f"no keyspace named {old!r}")
        lack_init(&lack)
        self.change(OP_LOCK, catalog, encode_name(new), None, &lack)
        if self.catalog_row(new) is not None:
            raise ValueError(f"a keyspace named {new!r} exists already")
        depth = self.save()
        try:
            self.change(OP_DELETE, catalog, encode_name(old), None, &lack)
            self.change(OP_PUT, catalog, encode_name(new), row, &lack)
        except BaseException:
            self.take_back(depth)
            raise
        self.release(depth)


cdef bytes encode_name(str name):
    cdef bytes encoded = name.encode()
    if not 1 <= len(encoded) <= 255:
        raise ValueError(f"a keyspace's name takes 1 to 255 bytes in UTF-8; {name[:40]!r} takes {len(encoded)}")
    return encoded


cdef CoreKeyspace catalog_of(CoreDatabase db):
    """A handle of the catalogue, which is a keyspace like any other."""
    cdef CoreKeyspace k = CoreKeyspace.__new__(CoreKeyspace)
    k.database = db
    k.engine = db.engine
    k.m = db.engine.txns
    k.name = ""
    k.id = CATALOG
    k.backend = "btree"
    k.max_key = (<BTree>k.m.trees[CATALOG].tree).max_key
    k.max_inline = (<BTree>k.m.trees[CATALOG].tree).max_inline
    k.max_batch = (<BTree>k.m.trees[CATALOG].tree).max_batch
    return k
