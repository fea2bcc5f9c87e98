"""The handle of a transaction: see txnhandle.pxd."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, PyBytes_CheckExact
from cpython.object cimport PyObject
from libc.stdint cimport uint16_t, uint64_t
from libc.stdlib cimport free
from itertools import islice
from ..base.latch cimport latch_enter, latch_lock, latch_try, latch_unlock
from ..base.status cimport OK, ABSENT, AGAIN, E_CLOSED, E_FORK, E_NOMEM, E_THREAD, E_TXN_CLOSED, E_USAGE, fail, raise_status
from ..index.btree cimport BTree, Cell, MAX_BATCH
from ..page.layout cimport VALUE_BLOB, BLOB_REF
from ..txn.blob cimport blob_put
from ..txn.images cimport log_image
from ..txn.isolation cimport isolate_read, read_newest, statement
from ..txn.lsmops cimport lsm_log_value, lsm_read_many
from ..index.lsm cimport LsmTree
from ..log.record cimport TAG_ORIGIN
from ..txn.transaction cimport TxnManager, Lack, Found, lack_init, OP_PUT, OP_DELETE, OP_DELETE_BLIND, OP_DELETE_RANGE, OP_LOCK, RANGE_UNBOUNDED
from ..txn.versions cimport LOCKING, Txn, TXN_ACTIVE, TXN_COMMITTED, TXN_COMMITTING, TXN_ABORTING, TXN_ABORTED
from .bulk cimport put_pairs
from .catalog cimport catalog_row, catalog_rows, check_name, create_keyspace, drop_keyspace, keyspace_handle, rename_keyspace
from .cursor cimport CoreCursor
from .engine cimport Engine
from .handles cimport CoreKeyspace
from .lockview cimport name_cycle
from .procedures cimport log_call, log_tag, wall_clock
from .prepared cimport prepare_txn
from .predicates cimport judge_met, note_matches, predicates_on, scan_where, test_change
from .rowlocks cimport combine_row, lock_row, range_conflict, range_lock
from .steps cimport MAX_VALUE, to_bytes, too_long, raise_lacking, obtain_for, shelter_value, fetch_blob, after_writes, commit_txn

cdef extern from "Python.h":
    void drop "Py_XDECREF"(PyObject*)


cdef object MISSING = object()


@cython.no_gc_clear
cdef class CoreTransaction:
    """A transaction, used by one thread at a time; commits at the end of its `with` block, aborts on an exception."""

    def __dealloc__(self):
        free(self.matches)
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
        except Exception as error:
            if self.t.cycle_length and getattr(error, "code", "") == "deadlock_detected":
                name_cycle(self, error)
            raise
        finally:
            self.in_use = False
        return 0

    @property
    def read_only(self):
        """Whether it refuses writes."""
        return self.t != NULL and bool(self.t.read_only)

    @property
    def state(self):
        """"active", "committed", "aborted", "unknown" or "prepared" (whatever became of it since)."""
        if self.was_prepared:
            return "prepared"
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
    def number(self):
        """Counts the transactions of this opening; what deadlocks and locks are told by."""
        return self.t.number if self.t != NULL else self.number_

    @property
    def waiting(self):
        """Whether it waits for another transaction at this moment, in an operation of its thread."""
        return self.t != NULL and self.t.waiting_for != NULL and not self.t.doomed

    @property
    def isolation(self):
        """"read_committed", "snapshot", "serializable", "locking" or "serial"; "" once it has ended."""
        return ("read_committed", "snapshot", "serializable", "locking", "serial")[self.t.level] if self.t != NULL else ""

    @property
    def safe(self):
        """Whether nothing can go wrong with its snapshot, so that a serializable transaction that only reads remembers nothing."""
        return self.t != NULL and (self.t.sx != NULL and bool(self.t.sx.safe))

    @property
    def commit_ts(self):
        """Its commit timestamp; 0 before, and for one that wrote nothing."""
        return self.t.commit_ts if self.t != NULL else self.ended_ts

    @property
    def commit_lsn(self):
        """Where the log goes on behind its commit, the `Change.lsn` of it; 0 before, and for one that wrote nothing."""
        return self.ended_lsn if self.ended_ts else 0

    # --- reading

    def get(self, CoreKeyspace keyspace not None, key, default=None, *, bint snapshot=False):
        """The value of a key, or `default`.  snapshot: the read is not remembered, nor the key locked, whatever the isolation level."""
        return self.look(keyspace, <bytes>key if PyBytes_CheckExact(key) else to_bytes(key, "key"), default, LOOK_APART if snapshot else LOOK_PLAINLY)

    cdef object look(self, CoreKeyspace keyspace, bytes k, default, int how):
        """The value of a key as the transaction sees it, or as said in `how`."""
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
                if self.t.watched:
                    statement(m, self.t)
                status = m.check(self.t, False)
            if status == OK:
                if how == LOOK_PLAINLY:
                    status = m.read(self.t, keyspace.id, PyBytes_AS_STRING(k), PyBytes_GET_SIZE(k), &f, &lack)
                elif how == LOOK_APART:
                    self.t.apart = True
                    status = m.read(self.t, keyspace.id, PyBytes_AS_STRING(k), PyBytes_GET_SIZE(k), &f, &lack)
                    self.t.apart = False
                else:
                    status = read_newest(m, self.t, keyspace.id, PyBytes_AS_STRING(k), PyBytes_GET_SIZE(k), how == LOOK_NEWEST_READING, &f, &lack)
            if status == OK:
                raw = shelter_value(m, &f, &pid, &length)
            if status != AGAIN and lack.held:
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

    def get_many(self, CoreKeyspace keyspace not None, keys, *, bint snapshot=False):
        """The values of many keys, in their order; None for those absent.  snapshot: as for `get`."""
        cdef list wanted = [to_bytes(each, "key") for each in keys]
        cdef list result = []
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        cdef Lack lack
        cdef Found f
        cdef const char* p[MAX_BATCH]
        cdef size_t n[MAX_BATCH]
        cdef Cell cells[MAX_BATCH]
        cdef Found found[MAX_BATCH]
        cdef int statuses[MAX_BATCH]
        cdef PyObject* raw[MAX_BATCH]
        cdef uint64_t pids[MAX_BATCH]
        cdef uint64_t lengths[MAX_BATCH]
        cdef Py_ssize_t i, first = 0, count, total = len(wanted)
        cdef int status, got
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
                if self.t.watched and (first == 0 or self.t.level == LOCKING):      # of read committed all of it is one statement
                    statement(m, self.t)
                status = m.check(self.t, False)
            if status == OK:
                status = m.readable(self.t, keyspace.id)
            if status == OK and self.t.watched:
                self.t.apart = snapshot
                for i in range(count):
                    status = isolate_read(m, self.t, keyspace.id, p[i], n[i], &lack)
                    if status != OK:
                        break
                self.t.apart = False
            if status == OK:
                if keyspace.lsm:
                    got = <int>count
                    status = lsm_read_many(m, self.t, <LsmTree>m.trees[keyspace.id].tree, p, n, &got, found, statuses, &lack)
                    count = got
                else:
                    status = (<BTree>m.trees[keyspace.id].tree).find_many(p, n, <int>count, cells, statuses, &lack.need)
            if status == OK:
                for i in range(count):
                    raw[i] = NULL
                    pids[i] = 0
                    if keyspace.lsm:
                        if statuses[i] != OK:
                            continue
                        f = found[i]
                    elif statuses[i] != OK or m.visible(self.t, keyspace.id, p[i], n[i], &cells[i], &f) != OK:
                        continue
                    raw[i] = shelter_value(m, &f, &pids[i], &lengths[i])
                    if raw[i] == NULL and pids[i] == 0:
                        status = E_NOMEM
            if status != AGAIN and lack.held:
                m.settle(&lack)
            latch_unlock(&e.latch)
            if status == AGAIN:
                self.obtain(&lack)
                continue
            if status != OK:
                raise_lacking(m, status, &lack)
            try:
                for i in range(count):
                    if raw[i] != NULL:
                        result.append(<object>raw[i])
                    else:
                        result.append(self.large(pids[i], lengths[i]) if pids[i] else None)
            finally:
                for i in range(count):
                    drop(raw[i])
            first += count
        return result

    def scan(self, CoreKeyspace keyspace not None, start=None, stop=None, *, prefix=None, bint reverse=False, limit=None, bint keys=True,
             bint values=True, bint for_update=False, bint nowait=False, bint skip_locked=False,
             bint snapshot=False, where=None, str granularity="predicate"):
        """An iterator over a half-open range of keys: (key, value) tuples, or keys or values alone.  for_update: each record is locked before it is given
        out; nowait: LockTimeout where that means a wait; skip_locked: such records are passed over; snapshot: as for `get`; where: a
        predicate that they have to match; granularity: whether the predicate is what is locked or remembered, or the "index_range" that it is looked for in."""
        self.ready(keyspace)
        if where is not None:
            return scan_where(self, keyspace, start, stop, prefix, reverse, limit, keys, values, for_update, nowait, skip_locked, snapshot, where, granularity)
        return CoreCursor(self, keyspace, start, stop, prefix, reverse, limit, keys, values, for_update, nowait, skip_locked, snapshot)

    # --- writing

    cdef int change(self, int op, CoreKeyspace keyspace, bytes key, bytes value, Lack* lack, uint16_t flags=0) except -2:
        """One write, in as many steps as it takes; OK or ABSENT."""
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        cdef const char* p = PyBytes_AS_STRING(value) if value is not None else NULL
        cdef size_t n = PyBytes_GET_SIZE(value) if value is not None else 0
        cdef char reference[BLOB_REF]
        cdef uint64_t number = 0, edition = 0
        cdef bint judged = False
        cdef int status
        if PyBytes_GET_SIZE(key) > <Py_ssize_t>keyspace.max_key:
            too_long(keyspace.max_key, key)
        if self.t == NULL:
            raise_status(fail(E_TXN_CLOSED, b"the transaction has ended"))
        self.t.deadline = 0
        self.t.image_lsn = 0             # of a change that failed
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
                    if keyspace.lsm:
                        status = lsm_log_value(m, self.t, p, n, &number, lack)
                    else:
                        status = blob_put(m, self.t, p, n, &number, reference, lack)
                    e.leave()
                latch_unlock(&e.latch)
            self.in_use = False
            if status != OK:
                raise_lacking(m, status, lack)
            if not keyspace.lsm:
                p = reference
                n = BLOB_REF
            flags = VALUE_BLOB
        self.t.deadline = 0              # each operation has lock_timeout to itself
        while True:
            if op != OP_LOCK and op != OP_DELETE_RANGE and predicates_on(m, keyspace):
                edition = test_change(self, keyspace, key, value)
            latch_enter(&e.latch)
            status = self.still()
            if status == OK and op != OP_LOCK and op != OP_DELETE_RANGE and predicates_on(m, keyspace):
                if m.predicate_edition != edition:
                    latch_unlock(&e.latch)
                    continue
                status = note_matches(self)
            if status == OK:
                status = m.write(self.t, op, keyspace.id, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), p, n, flags, number, 0, lack)
            if status == OK:
                after_writes(e)
            if (status != AGAIN or lack.image) and lack.held:
                m.settle(lack)
            latch_unlock(&e.latch)
            if self.t != NULL and self.t.met:
                if not judged:
                    judge_met(self, keyspace, key, value)
                judged = True
                self.t.met = 0
            if status == OK or status == ABSENT:
                self.t.deadline = 0
                return status
            if status != AGAIN:
                self.give_up_blob()
                raise_lacking(m, status, lack)
            try:
                if lack.image:
                    lack.image = False
                    self.log_before(keyspace, key)
                else:
                    self.obtain(lack)
            except BaseException:
                self.give_up_blob()
                raise

    cdef int log_before(self, CoreKeyspace keyspace, bytes key) except -1:
        """Locks a row and logs the large value it has, which the change to come replaces."""
        cdef Engine e = self.engine
        cdef TxnManager m = self.m
        cdef Lack lack
        cdef const char* p
        cdef size_t n
        cdef int status
        lack_init(&lack)
        self.change(OP_LOCK, keyspace, key, None, &lack)
        value = self.look(keyspace, key, None, LOOK_NEWEST)
        if value is None:                # expired meanwhile
            return 0
        p = PyBytes_AS_STRING(value)
        n = PyBytes_GET_SIZE(value)
        self.in_use = True
        with nogil:
            latch_lock(&e.latch)
            status = e.admit()
            if status == OK:
                status = log_image(m, self.t, keyspace.id, p, n, &lack)
                e.leave()
            latch_unlock(&e.latch)
        self.in_use = False
        if status != OK:
            raise_lacking(m, status, &lack)
        return 0

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
        status = self.change(OP_DELETE_BLIND if blind else OP_DELETE, keyspace, to_bytes(key, "key"), None, &lack)
        return None if blind else status == OK

    def put_many(self, CoreKeyspace keyspace not None, pairs):
        """Sets many keys, or after an error none of them; returns how many."""
        return put_pairs(self, keyspace, pairs)

    def delete_range(self, CoreKeyspace keyspace not None, start=None, stop=None):
        """Deletes every key of a half-open range that this transaction sees; returns how many, or None for an LSM keyspace, which does not look (but for before-images)."""
        cdef Lack lack
        cdef Py_ssize_t count = 0
        cdef int depth
        lack_init(&lack)
        if keyspace.lsm and not self.m.trees[keyspace.id].images:
            return self.delete_range_blindly(keyspace, start, stop, &lack)
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

    cdef object delete_range_blindly(self, CoreKeyspace keyspace, start, stop, Lack* lack):
        cdef bytes first = b"" if start is None else to_bytes(start, "key")
        cdef bytes end = b"" if stop is None else to_bytes(stop, "key")
        cdef int depth
        self.ready(keyspace)
        if PyBytes_GET_SIZE(end) > <Py_ssize_t>keyspace.max_key:
            too_long(keyspace.max_key, end)
        depth = self.save()
        try:
            self.change(OP_DELETE_RANGE, keyspace, first, end, lack, RANGE_UNBOUNDED if stop is None else 0)
        except BaseException:
            self.take_back(depth)
            raise
        self.release(depth)

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

    def get_for_update(self, CoreKeyspace keyspace not None, key, default=None, *, bint nowait=False, bint skip_locked=False):
        """The value of a key, whose row stays locked until the end of the transaction.  nowait: LockTimeout at once where it would have to wait;
        skip_locked: `default` then."""
        cdef bytes k = to_bytes(key, "key")
        self.ready(keyspace)
        if not lock_row(self, keyspace, k, nowait or skip_locked, skip_locked):
            return default
        return self.get(keyspace, k, default)

    def lock_range(self, CoreKeyspace keyspace not None, start=None, stop=None, *, str mode="exclusive", bint nowait=False):
        """Locks a half-open range of keys, there or not, until the end of the transaction: "exclusive", "update" or "shared"."""
        range_lock(self, keyspace, start, stop, mode, nowait)

    def read_conflict(self, CoreKeyspace keyspace not None, start=None, stop=None):
        """As if every key of a half-open range had been read."""
        range_conflict(self, keyspace, start, stop, False)

    def write_conflict(self, CoreKeyspace keyspace not None, start=None, stop=None):
        """As if every key of a half-open range had been changed."""
        range_conflict(self, keyspace, start, stop, True)

    def combine(self, CoreKeyspace keyspace not None, key, function, bint reads=False):
        """Puts function(value or None) of the newest value of a key, whatever the snapshot, or leaves it where that is None.  reads: the outcome tells something."""
        combine_row(self, keyspace, to_bytes(key, "key"), function, reads)

    def log_call(self, now, seed, bytes name not None, bytes args not None):
        """Logs the call of a procedure beside the changes of the transaction, if there are any.  now: microseconds; seed: 64 bits."""
        log_call(self, now, seed, name, args)

    def tag_origin(self, bytes origin not None):
        """Logs where the changes of the transaction were made first, if there are any."""
        log_tag(self, TAG_ORIGIN, origin)

    def prepare_as(self, bytes xid not None):
        """Promises, durably, to commit or to roll back as `CoreDatabase.end_prepared` is told for that xid; this handle has ended then."""
        prepare_txn(self, xid)

    def wall_micros(self):
        """The wall clock as commits have it, which never goes back, in microseconds."""
        return wall_clock(self)

    # --- ending

    cdef object finish_now(self):
        """Lets go of the ended transaction."""
        latch_enter(&self.engine.latch)
        if self.t != NULL:                 # another thread may have come first while the latch was waited for
            self.ended_id = self.t.id
            self.number_ = self.t.number
            self.ended_ts = self.t.commit_ts if self.t.state == TXN_COMMITTED else 0
            self.ended_lsn = self.t.commit_lsn
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
        if self.database.before_commit_hook is not None and self.t.id != 0 and not self.unhooked:
            latch_unlock(&self.engine.latch)
            self.ask_before()
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
        if catalog or self.engine.names_stale:
            self.engine.renew_names()
        if self.database.after_commit_hook is not None and self.ended_lsn and not self.unhooked:
            self.database.after_commit_hook(self.ended_lsn)

    def ask_before(self):
        """Calls what looks at transactions before they commit; what that raises aborts this one."""
        if self.asking:
            raise_status(fail(E_USAGE, b"a before_commit hook neither commits nor prepares the transaction that it is called with"))
        self.asking = True
        try:
            self.database.before_commit_hook(self)
        except BaseException:
            self.asking = False
            self.abort()
            raise
        self.asking = False

    def commit_later(self):
        """Logs the commit, and leaves it to `complete` to make it visible and as durable as asked; whether that is still to be done."""
        cdef int status
        self.idle()
        if self.t == NULL:
            raise_status(fail(E_TXN_CLOSED, b"the transaction has ended"))
        if self.database.before_commit_hook is not None and self.t.id != 0 and not self.unhooked:
            self.ask_before()
            if self.t == NULL:
                raise_status(fail(E_TXN_CLOSED, b"the transaction has ended"))
        latch_enter(&self.engine.latch)
        status = self.still()
        if status == OK:
            status = self.m.check(self.t, False)
        if status == OK:
            status = self.m.commit_begin(self.t)
        latch_unlock(&self.engine.latch)
        if status != OK and status != AGAIN:
            raise_status(status)
        if status == OK:
            self.finish_now()
        return status == AGAIN

    def complete(self):
        """Ends what `commit_later` began. `after_commit_hook` is the caller's to call."""
        cdef Engine e = self.engine
        cdef int status
        cdef bint catalog = self.t.catalog
        self.in_use = True
        with nogil:
            latch_lock(&e.latch)
            e.enter()
            status = self.m.commit_end(self.t, e.log.flush(self.t.commit_lsn, self.t.durability) if self.t.state == TXN_COMMITTING else OK)
            e.leave()
            after_writes(e)
            latch_unlock(&e.latch)
        self.in_use = False
        if status != OK:
            raise_status(status)
        self.finish_now()
        if catalog or e.names_stale:
            e.renew_names()

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
        return catalog_row(self, name)

    def catalog_rows(self, bint hidden=False):
        """(name, id, backend) of every keyspace this transaction sees; hidden: also of those that are the engine's own."""
        return catalog_rows(self, hidden)

    def open_keyspace(self, type cls, str name not None):
        """A keyspace as this transaction knows it; None where it knows none of that name."""
        row = catalog_row(self, name)
        return None if row is None else keyspace_handle(self.database, cls, name, row)

    def create_keyspace(self, type cls, str name, str backend="btree", dict options=None):
        """Makes a keyspace; it exists for others once this transaction commits."""
        check_name(name, False)
        return create_keyspace(self, cls, name, backend, options)

    def drop_keyspace(self, str name):
        """Drops a keyspace and all that is in it, when this transaction commits."""
        drop_keyspace(self, name)

    def rename_keyspace(self, str old, str new):
        """Renames a keyspace, when this transaction commits."""
        rename_keyspace(self, old, new)
