"""Handles of a database and its keyspaces: see handles.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t, int64_t
from ..base.latch cimport latch_enter, latch_lock, latch_unlock
from ..base.status cimport OK, ABSENT, AGAIN, E_CLOSED, E_FORK, E_NOMEM, E_READONLY, E_USAGE, fail, raise_status
from ..log.writer cimport SYNC
from ..txn.garbage cimport collect_slowly
from ..txn.transaction cimport TxnManager, Lack, Found, lack_init, OP_PUT, OP_DELETE
from ..txn.versions cimport READ_COMMITTED, SERIAL, SNAPSHOT, Txn
from .catalog cimport check_name, keyspace_handle, catalog_row, catalog_rows, create_keyspace, drop_keyspace, rename_keyspace, set_images
from .lsmtree import IMAGES_NAMES
from .engine cimport Engine
from .lockview cimport lock_rows, wait_rows
from .lsmface cimport lsm_compact, lsm_stats, lsm_step
from .lsmingest cimport ingest
from .predicates cimport predicates_on
from .prepared cimport end_prepared, prepared_rows
from .procedures cimport run_serially
from .rowlocks cimport take_place, wait_until_safe
from .steps cimport to_bytes, too_long, raise_lacking, obtain_for, shelter_value, commit_txn, end_quietly
from .txnhandle cimport CoreTransaction

cdef extern from "Python.h":
    void drop "Py_XDECREF"(PyObject*)


cdef class CoreDatabase:

    def __init__(self, str path, **options):
        self.path = path
        self.closed = True
        self.transaction_class = CoreTransaction
        self.engine = Engine()
        self.engine.open(path, **options)
        self.closed = False

    cpdef int alive(self) except -1:
        """Raises unless it is open, in this process."""
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

    def core_transaction(self, type cls, bint read_only=False, int durability=-1, double lock_timeout=-1.0, int isolation=SNAPSHOT, bint deferrable=False,
                         bint batch=False):
        """Begins a transaction at the newest snapshot; `cls` is CoreTransaction or a subclass of it.  deferrable: a serializable one that only reads waits for a
        snapshot with which nothing can go wrong; batch: a serial one sees commits that are on their way to visibility, and waits for nobody."""
        return self.begin_transaction(cls, read_only, durability, lock_timeout, isolation, deferrable, batch)

    cdef object begin_transaction(self, type cls, bint read_only, int durability, double lock_timeout, int isolation, bint deferrable, bint batch):
        cdef CoreTransaction x
        cdef Engine e = self.engine
        if self.closed or e.closing or e.foreign_process():
            self.alive()
        if e.txns.has_orphans() and not e.has_thread:
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
        if e.txns.has_orphans():
            e.poke()
        x.t = e.txns.begin(read_only or e.read_only, durability if durability >= 0 else e.durability,
                           <int64_t>(lock_timeout * 1e6) if lock_timeout >= 0 else e.lock_timeout, True, isolation)
        latch_unlock(&e.latch)
        if x.t == NULL:
            raise_status(E_NOMEM)
        if isolation == SERIAL:
            take_place(x, batch)
        elif deferrable:
            wait_until_safe(x)
        return x

    def run_procedure(self, type cls, function, tuple args, bint wait=False, list logged=None):
        """function(transaction, *args) in a serial transaction of its own, where no other thread is inside a procedure or `wait` says so: see procedures.pxd."""
        return run_serially(self, cls, function, args, wait, logged)

    def core_transaction_plain(self):
        """A read-only transaction of the core's own class."""
        return self.core_transaction(CoreTransaction, read_only=True)

    def core_keyspace(self, type cls, str name, bint create=True, str backend="btree", dict options=None, bint hidden=False):
        """The keyspace of that name as committed; made, in a transaction of its own, when absent.  hidden: it is the engine's own."""
        cdef CoreTransaction txn
        self.alive()
        with self.core_transaction(self.transaction_class, read_only=not create or self.engine.read_only) as txn:
            txn.unhooked = hidden
            check_name(name, hidden)
            row = catalog_row(txn, name)
            if row is None:
                if not create or self.engine.read_only:
                    raise KeyError(f"no keyspace named {name!r}")
            else:
                return keyspace_handle(self, cls, name, row)
            return create_keyspace(txn, cls, name, backend, options)

    def keyspace_rows(self):
        """(name, id, backend) of every committed keyspace, by name."""
        cdef CoreTransaction txn
        self.alive()
        with self.core_transaction(CoreTransaction, read_only=True) as txn:
            return catalog_rows(txn, False)

    def set_before(self, str name not None, str before not None):
        """What is logged beside each change of a keyspace from now on, its before-image: "none", "key" (whether the key was there) or "full" (what it held too).

        A transaction of its own. Raises KeyError when there is no such keyspace."""
        with self.core_transaction(self.transaction_class) as txn:
            set_images(txn, name, before)

    def drop_keyspace(self, str name):
        """Drops a keyspace in a transaction of its own. Raises KeyError when there is none."""
        with self.core_transaction(self.transaction_class) as txn:
            drop_keyspace(txn, name)

    def rename_keyspace(self, str old, str new):
        """Renames a keyspace in a transaction of its own. Raises KeyError when there is no `old`, ValueError when `new` is taken."""
        with self.core_transaction(self.transaction_class) as txn:
            rename_keyspace(txn, old, new)

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
                status = collect_slowly(e.txns)
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
        """One piece of background work, for tests with background=False: "checkpoint", "lazy", "prepare", "gc"; of LSM-trees "seal", "flush",
        "compact", "settle" (compact what is worth it while nobody writes; nothing is: let go of memory). Whether there was something to do, as far as that is known."""
        cdef Engine e = self.engine
        cdef int status = OK
        cdef int kind
        self.alive()
        if what in ("seal", "flush", "compact", "settle"):
            return lsm_step(e, what)
        kind = ("checkpoint", "lazy", "prepare", "gc").index(what)
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
                    status = collect_slowly(e.txns)
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

    def end_prepared(self, bytes xid not None, bint commit):
        """Commits or rolls back, durably, what is prepared under that xid; False where nothing is."""
        self.alive()
        return end_prepared(self, xid, commit)

    def prepared_rows(self):
        """(xid, wall clock of the prepare in microseconds, transaction number, isolation level, keys changed, locks held, numbers of those that wait for it), oldest first."""
        self.alive()
        return prepared_rows(self.engine)

    @property
    def prepared_count(self):
        """How many transactions are prepared."""
        return self.engine.txns.prepared

    def lock_rows(self, size_t limit):
        """(transaction, level, keyspace id, mode, kind, start, stop, granted) of locks held and waited for."""
        self.alive()
        return lock_rows(self.engine, limit)

    def remembered_predicates(self):
        """How many objects of predicates are held, for tests: those in use, and some that are not let go of yet."""
        return len(self.engine.predicates)

    def remembered_covers(self):
        """Of how many transactions the ranges that stand for predicates are known, for tests."""
        return len(self.engine.covers)

    def wait_rows(self):
        """(waiter, holder, keyspace id, mode, kind, start, stop, seconds) of those that wait."""
        self.alive()
        return wait_rows(self.engine)

    @property
    def epoch(self):
        """Raised by each promotion of a follower."""
        return self.engine.fields.epoch

    def raise_epoch(self, unsigned long long least=0):
        """From now on changes are of a higher epoch, and higher than `least`; durable on return. The new one."""
        cdef Engine e = self.engine
        self.alive()
        if e.read_only:
            raise_status(fail(E_READONLY, b"the database was opened read-only"))
        latch_enter(&e.latch)
        e.fields.epoch = max(e.fields.epoch, least) + 1
        latch_unlock(&e.latch)
        self.checkpoint()
        return e.fields.epoch

    def log_records(self, uint64_t start_lsn=0):
        """The records of the log that is still there, as dicts, oldest first."""
        from .upkeep import log_records
        self.alive()
        return log_records(self, start_lsn)


cdef object MISSING = object()


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
            if status != AGAIN and lack.held:
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

    cdef object put_stepwise(self, int op, bytes key, bytes value):
        """As put_one, of what one latch hold cannot do, or hooks look at."""
        with self.database.core_transaction(self.database.transaction_class, isolation=READ_COMMITTED) as txn:
            if op == OP_DELETE:
                return txn.delete(self, key)
            txn.put(self, key, value)
        return True

    cdef object put_one(self, int op, bytes key, bytes value):
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        cdef Txn* t
        cdef Lack lack
        cdef uint64_t lsn
        cdef int status, answer
        cdef const char* p = PyBytes_AS_STRING(value) if value is not None else NULL
        cdef size_t n = PyBytes_GET_SIZE(value) if value is not None else 0
        if e.closing or e.foreign_process():
            self.database.alive()
        if PyBytes_GET_SIZE(key) > <Py_ssize_t>self.max_key:
            too_long(self.max_key, key)
        if n + PyBytes_GET_SIZE(key) > self.max_inline or self.database.before_commit_hook is not None:
            return self.put_stepwise(op, key, value)
        lack_init(&lack)
        latch_enter(&e.latch)
        if predicates_on(m, self):
            latch_unlock(&e.latch)
            return self.put_stepwise(op, key, value)
        t = m.begin(False, e.durability, e.lock_timeout, False, READ_COMMITTED)
        if t == NULL:
            latch_unlock(&e.latch)
            raise_status(E_NOMEM)
        while True:
            answer = m.write(t, op, self.id, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), p, n, 0, 0, 0, &lack)
            if answer != AGAIN:
                break
            if lack.image:
                m.settle(&lack)
                latch_unlock(&e.latch)
                end_quietly(e, t)
                return self.put_stepwise(op, key, value)
            latch_unlock(&e.latch)
            try:
                obtain_for(e, t, &lack)
            except BaseException:
                end_quietly(e, t)
                raise
            latch_enter(&e.latch)
            if predicates_on(m, self):                   # they came while the latch was let go
                m.settle(&lack)
                latch_unlock(&e.latch)
                end_quietly(e, t)
                return self.put_one(op, key, value)
        m.settle(&lack)
        if answer != OK and answer != ABSENT:
            latch_unlock(&e.latch)
            end_quietly(e, t)
            raise_status(answer)
        status = commit_txn(e, t)
        latch_enter(&e.latch)
        lsn = t.commit_lsn
        m.finish(t)
        latch_unlock(&e.latch)
        if status != OK:
            raise_status(status)
        if self.database.after_commit_hook is not None and lsn:
            self.database.after_commit_hook(lsn)
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
        with self.database.core_transaction(self.database.transaction_class) as txn:
            return txn.put_many(self, pairs)

    @property
    def before(self):
        """The before-images that are logged beside its changes: "none", "key" or "full"."""
        return IMAGES_NAMES[self.m.trees[self.id].images]

    def core_stats(self):
        """Plain values about the tree."""
        plain = {"id": self.id, "backend": self.backend, "max_key": self.max_key, "max_inline": self.max_inline}
        if not self.lsm:
            return plain
        self.database.alive()
        return plain | lsm_stats(self.engine, self.id)

    def core_ingest(self, pairs, bint logged):
        """Loads pairs in the order of their keys into an LSM-tree as tables, in one transaction; returns how many."""
        self.database.alive()
        if self.database.before_commit_hook is not None:
            raise_status(fail(E_USAGE, b"hooks of before_commit cannot look at a bulk load: put the pairs in transactions, or close the hooks"))
        count = ingest(self.engine, self.id, pairs, logged)
        if self.database.after_commit_hook is not None:
            self.database.after_commit_hook(self.engine.txns.last_end)
        return count

    def core_compact(self, bytes low, bytes high):
        """Writes an LSM-tree's memtables and merges its tables that hold keys from low to high (None: no bound), down to the last level."""
        self.database.alive()
        lsm_compact(self.engine, self.id, low, high)
