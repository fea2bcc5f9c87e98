"""Transactions: see transaction.pxd.

Data flow of a write: admission (place in the tree, row lock, memory for the version, room in the log; lacking any, AGAIN), then in the same latch hold
the log record, the version, the tree: nothing of that can fail (laws 1 and 2).  Of a commit: its record with the next timestamp, the commit queue, a
flush shared with others, then publication in log order (law 8), then garbage.  Of a rollback: its record first, then undo, newest change first (law 9).
"""
from libc.stdint cimport uint16_t, uint32_t, uint64_t, int64_t
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort as c_abort, calloc, realloc, free
from libc.string cimport memset
from ..base.coding cimport get64
from ..base.idmap cimport idmap_init, idmap_destroy
from ..base.latch cimport condition_broadcast, condition_init, condition_destroy
from ..base.status cimport (OK, ABSENT, AGAIN, E_CLOSED, E_CONFLICT, E_DEADLOCK, E_LOG, E_NOMEM, E_READONLY, E_SNAPSHOT, E_TIMEOUT, E_TOO_LARGE,
                            E_TXN_CLOSED, E_UNKNOWN, E_USAGE, fail, fail_n)
from ..log.record cimport Record, R_DELETE, R_COMMIT, R_ABORT, R_ROLLBACK, R_CHUNK, R_PUT_BLOB, RECORD_OVERHEAD
from ..log.writer cimport LAZY, OS, SYNC
from ..page.layout cimport VALUE_GHOST, VALUE_BLOB, BLOB_REF
from ..index.btree cimport BTree, Path, Cell, need_init, need_secure, need_release, LACK_NOTHING
from ..index.shape cimport DEBUG
from ..index.sstable cimport block_need_init, block_need_release, block_need_secure
from .versions cimport (COMMUTES, SERIAL, SERIALIZABLE, SNAPSHOT, Txn, Version, VersionTable, Savepoint, TXN_ACTIVE, TXN_COMMITTING, TXN_COMMITTED, TXN_ABORTING, TXN_ABORTED, TXN_PREPARED, TXN_UNKNOWN, BEFORE_ABSENT,
                        BEFORE_BLOB, LEFT_GHOST, LOCK_ONLY, table_init, table_destroy, table_reserve, table_push, table_unlink, table_find,
                        arena_release, hash_key, loses_to, not_lock_only, version_key, version_value, select_version)
from .clock cimport clock_safe_lsn, snapshot_open, snapshot_close, writer_enter, writer_leave, queue_push, queue_pop
from .conflicts cimport ssi_begin, ssi_committed, ssi_ended, ssi_follows, ssi_free, ssi_precommit, ssi_wrote
from .deadlock cimport doomed_status, wait_for, wake_waiters
from .garbage cimport COLLECT_BUDGET, COLLECT_OWN, collect, prune
from .holds cimport HOLD_EXCLUSIVE, HOLD_UPDATE, Span, holds_destroy, holds_init, span_of_key
from .images cimport log_with_image
from .isolation cimport isolate_read
from .keyspaces cimport catalog_changed, commit_catalog
from .locks cimport dequeue, enqueue, lock_for_write, release_locks, serial_leave
from .lsmops cimport catch_up, lsm_commit, lsm_delete_range, lsm_read, lsm_write, ranges_above, ranges_free, ranges_in, ranges_meet, ranges_release, wall_now
from .predset cimport predicates_free
from .prepared cimport in_doubt
from .undo cimport undo

cdef extern from *:
    """
    #include <stdint.h>
    /* A stack that handles dropped by the garbage collector push themselves on without any latch. */
    static inline void* el_load(void** p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline int el_swap(void** p, void* old, void* neu) {
        return __atomic_compare_exchange_n(p, &old, neu, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    static inline void* el_take(void** p) { return __atomic_exchange_n(p, (void*)0, __ATOMIC_ACQ_REL); }
    """
    void* el_load(void** p) noexcept nogil
    int el_swap(void** p, void* old, void* new) noexcept nogil
    void* el_take(void** p) noexcept nogil

cdef uint64_t NEWEST = <uint64_t>-1


cdef void lack_init(Lack* l) noexcept nogil:
    need_init(&l.need)
    block_need_init(&l.blocks)
    l.log_bytes = 0
    l.log_ends = False
    l.blocker = l.queued = NULL
    l.mode = 0
    l.stall = NULL
    l.delay = 0
    l.held = False
    l.image = False


cdef inline bint holds_in(const Txn* t, uint32_t keyspace) noexcept nogil:
    """Whether the transaction has changed or locked a row of the keyspace."""
    cdef Version* v = t.newest
    if t.keyspaces & (<uint64_t>1 << (keyspace & 63)):
        while v != NULL:
            if v.keyspace == keyspace and v.linked:
                return True
            v = v.previous
    return False


cdef void assert_unversioned(VersionTable* table, uint64_t hash, uint32_t keyspace, const char* key, size_t klen) noexcept nogil:
    if table_find(table, hash, keyspace, key, klen) != NULL:
        fprintf(stderr, b"enginelib: a key has a version and no place in its tree\n")
        c_abort()


cdef class TxnManager:

    def __cinit__(self):
        self.tree_objects = []
        if table_init(&self.table) != OK or holds_init(&self.holds) != OK or idmap_init(&self.memory_blobs) != 0:
            raise MemoryError("no memory for the version table")
        condition_init(&self.lsm_moved)
        condition_init(&self.published)
        condition_init(&self.lsm_delays)
        self.next_txn = 1
        self.next_keyspace = 1

    def __dealloc__(self):
        cdef Txn* lists[2]
        cdef Txn* t
        cdef Txn* following
        cdef uint64_t i
        ssi_free(self)
        lists[0] = self.clock.first_writer       # those of an opening that failed, or that a closing without checkpoint left,
        lists[1] = self.garbage
        for i in range(2):
            t = lists[i]
            while t != NULL:
                following = t.writer_next
                if not t.handle:                 # a handle that has gone has left its own among the orphans
                    t.queue_next = self.free_txns
                    self.free_txns = t
                t = following
        t = self.take_orphans()
        while t != NULL:
            following = t.orphan_next
            t.queue_next = self.free_txns
            self.free_txns = t
            t = following
        while self.free_txns != NULL:
            t = self.free_txns
            self.free_txns = t.queue_next
            t.live = 0
            arena_release(&self.table, t)
            free(t.arena)
            condition_destroy(&t.cond)
            free(t.savepoints)
            free(t.request.bytes)
            free(t.cycle)
            free(t.promise)
            free(t)
        if self.memory_blobs.keys != NULL and self.memory_blobs.values != NULL:
            for i in range(self.memory_blobs.mask + 1):
                if self.memory_blobs.keys[i]:
                    free(<void*>self.memory_blobs.values[i])
        idmap_destroy(&self.memory_blobs)
        table_destroy(&self.table)
        holds_destroy(&self.holds)
        predicates_free(self)
        ranges_free(self)
        condition_destroy(&self.lsm_moved)
        condition_destroy(&self.published)
        condition_destroy(&self.lsm_delays)
        free(self.trees)

    # --- life of a transaction

    cdef Txn* begin(self, bint read_only, int durability, int64_t lock_timeout, bint snapshot, int level) noexcept nogil:
        cdef Txn* t = self.free_txns
        if t != NULL:
            self.free_txns = t.queue_next
            t.id = t.first_lsn = t.last_lsn = t.commit_ts = t.commit_lsn = t.undo_to = t.blob_lsn = t.blobs = t.blob_pid = t.image_lsn = t.keyspaces = 0
            t.state = TXN_ACTIVE
            t.doomed = 0
            t.snapshot_lost = t.catalog = t.undoing = t.locks = t.lsm = t.ranges = t.no_wait = t.commuting = t.commutes = t.apart = t.predicates = t.covers = False
            t.met = 0
            t.wall = 0
            t.cycle_length = 0
            t.depth = 0
            t.deadline = 0
            t.queue_next = NULL
        else:
            t = <Txn*>calloc(1, sizeof(Txn))
            if t == NULL:
                fail(E_NOMEM, "no memory for a transaction")
                return NULL
            condition_init(&t.cond)
            t.holds.of = t
        t.handle = True
        t.level = level
        t.watched = level != SNAPSHOT
        self.numbers += 1
        t.number = self.numbers
        t.wakes += 1
        t.read_only = read_only
        t.durability = durability
        t.lock_timeout = lock_timeout
        if snapshot:
            snapshot_open(&self.clock, t, self.log.end_lsn)
        else:
            t.snapshot = NEWEST
            t.safe_lsn = 0
        if level == SERIALIZABLE and ssi_begin(self, t) != OK:
            self.close_snapshot(t)
            t.state = TXN_ABORTED
            self.finish(t)
            return NULL
        return t

    cdef void recycle(self, Txn* t) noexcept nogil:
        arena_release(&self.table, t)
        if t.sx != NULL:
            t.sx.txn = NULL
            t.sx = NULL
        t.queue_next = self.free_txns
        self.free_txns = t

    cdef void finish(self, Txn* t) noexcept nogil:
        t.handle = False
        if t.live == 0 and not t.in_garbage and t.state in (TXN_COMMITTED, TXN_ABORTED):
            self.recycle(t)

    cdef void close_snapshot(self, Txn* t) noexcept nogil:
        cdef bint oldest
        if not t.in_snapshots:
            return
        oldest = self.clock.oldest_snapshot == t
        snapshot_close(&self.clock, t)
        if oldest and self.garbage != NULL:
            collect(self, COLLECT_BUDGET)

    cdef int commit_begin(self, Txn* t) noexcept nogil:
        cdef Record r
        cdef Txn* p
        cdef int level
        if t.state != TXN_ACTIVE and t.state != TXN_PREPARED:
            return fail(E_TXN_CLOSED, "the transaction has ended")
        if t.sx != NULL:
            level = ssi_precommit(self, t)       # of one that is prepared it does not fail
            if level != OK:
                return level
        if t.id == 0:
            if t.locks:
                self.drop_locks(t)
            if t.sx != NULL:
                ssi_committed(self, t)
            t.state = TXN_COMMITTED
            release_locks(self, t)
            wake_waiters(t)
            self.close_snapshot(t)
            return OK
        if self.failed or self.log.failed:
            self.failed = E_LOG
            return fail(E_LOG, "the log has failed: nothing can be committed until the database is opened again")
        memset(&r, 0, sizeof(Record))
        r.type = R_COMMIT
        r.txn = t.id
        self.clock.last_ts += 1
        t.commit_ts = self.clock.last_ts
        r.a = t.commit_ts
        r.b = wall_now(self)
        if t.lsm or t.ranges:
            lsm_commit(self, t, t.commit_ts, r.b)
        self.log.reserve_ends(-END_BYTES)
        t.last_lsn = self.log.append(&r)
        t.commit_lsn = self.log.end_lsn
        t.state = TXN_COMMITTING
        if t.sx != NULL:
            ssi_committed(self, t)
        if t.serial_place:
            serial_leave(self, t)
        level = t.durability
        if level == LAZY:
            self.lazy_lsn = t.commit_lsn
        p = self.clock.queue
        while p != NULL and level < SYNC:
            if p.durability > level:
                level = p.durability
            p = p.queue_next
        t.durability = level
        queue_push(&self.clock, t)
        if level == LAZY:
            self.publish()
            return OK
        return AGAIN

    cdef int commit_end(self, Txn* t, int flushed) noexcept nogil:
        self.publish()
        if t.state == TXN_COMMITTED:
            return OK
        self.failed = E_LOG
        t.state = TXN_UNKNOWN
        return fail(E_UNKNOWN, "the log failed while the commit was being made durable: it may or may not be there after the next open")

    cdef int commit(self, Txn* t) noexcept nogil:
        cdef int status = self.commit_begin(t)
        if status != AGAIN:
            return status
        return self.commit_end(t, self.log.flush(t.commit_lsn, t.durability))

    cdef void drop_locks(self, Txn* t) noexcept nogil:
        """Takes row locks that changed nothing out of the table."""
        cdef Version* v = t.newest
        while v != NULL:
            if v.linked and v.flags & LOCK_ONLY:
                table_unlink(&self.table, v)
            v = v.previous

    cdef int abort(self, Txn* t, Lack* lack) noexcept nogil:
        cdef Record r
        cdef int status
        if t.state == TXN_ACTIVE or t.state == TXN_PREPARED:
            if t.id != 0:
                self.log.reserve_ends(-END_BYTES)
                if not self.log.failed:
                    memset(&r, 0, sizeof(Record))
                    r.type = R_ABORT
                    r.txn = t.id
                    t.last_lsn = self.log.append(&r)
            t.state = TXN_ABORTING
            self.aborts += 1
        elif t.state != TXN_ABORTING:
            return OK
        status = undo(self, t, 0, lack)
        if status != OK:
            return status
        self.end_aborted(t)
        return OK

    cdef void end_aborted(self, Txn* t) noexcept nogil:
        if t.blob_pid:
            self.pool.forget(t.blob_pid)
            t.blob_pid = 0
        t.blob_lsn = 0
        t.state = TXN_ABORTED
        if t.sx != NULL:
            ssi_ended(self, t)
        writer_leave(&self.clock, t)
        release_locks(self, t)
        wake_waiters(t)
        self.close_snapshot(t)
        if not t.handle:
            self.recycle(t)

    cdef int save(self, Txn* t) noexcept nogil:
        cdef Savepoint* grown
        if t.depth == t.savepoint_room:
            grown = <Savepoint*>realloc(t.savepoints, <size_t>(t.savepoint_room * 2 + 4) * sizeof(Savepoint))
            if grown == NULL:
                return fail(E_NOMEM, "no memory for a savepoint")
            t.savepoints = grown
            t.savepoint_room = t.savepoint_room * 2 + 4
        t.savepoints[t.depth].lsn = self.log.end_lsn - 1
        t.depth += 1
        return OK

    cdef int rollback_to(self, Txn* t, int depth, Lack* lack) noexcept nogil:
        """Undoes what was done since savepoint number `depth` (1 = the outermost) was set; closes it and those inside it."""
        cdef Record r
        cdef int status
        cdef uint64_t lsn = t.savepoints[depth - 1].lsn
        if not t.undoing:
            status = self.check(t, False)
            if status != OK:
                return status
            if (t.newest != NULL and t.newest.lsn > lsn) or (t.ranges and ranges_above(self, t, lsn)):
                if t.id != 0:
                    status = self.log.reserve(RECORD_OVERHEAD)
                    if status != OK:
                        lack.log_bytes = RECORD_OVERHEAD
                        return status
                    memset(&r, 0, sizeof(Record))
                    r.type = R_ROLLBACK
                    r.txn = t.id
                    r.a = lsn
                    t.last_lsn = self.log.append(&r)
            t.writes += 1
        status = undo(self, t, lsn, lack)
        if status != OK:
            return status
        t.depth = depth - 1
        wake_waiters(t)
        return OK

    cdef void queue_abort(self, Txn* t) noexcept nogil:
        cdef void* old
        while True:
            old = el_load(<void**>&self.orphans)
            t.orphan_next = <Txn*>old
            if el_swap(<void**>&self.orphans, old, t):
                return

    cdef bint has_orphans(self) noexcept nogil:
        return el_load(<void**>&self.orphans) != NULL

    cdef Txn* take_orphans(self) noexcept nogil:
        return <Txn*>el_take(<void**>&self.orphans)

    # --- operations

    cdef int check(self, Txn* t, bint writing) noexcept nogil:
        if self.closing:
            return fail(E_CLOSED, "the database is closed")
        if t != NULL:
            if t.state != TXN_ACTIVE:
                return fail(E_TXN_CLOSED, "the transaction has ended")
            if t.snapshot_lost:
                return fail(E_SNAPSHOT, "old versions needed by this transaction's snapshot were dropped to keep within version_budget")
            if t.doomed:
                return doomed_status(t)
            if t.undoing:
                return fail(E_USAGE, "a rollback to a savepoint failed half-way: the transaction can only be aborted")
            if writing and t.read_only:
                return fail(E_READONLY, "the transaction is read-only")
        if writing:
            if self.read_only:
                return fail(E_READONLY, "the database was opened read-only")
            if self.failed or self.log.failed:
                self.failed = E_LOG
                return fail(E_LOG, "the log has failed: the database refuses writes until it is opened again")
        return OK

    cdef int writers_in(self, Txn* t, uint32_t keyspace, Lack* lack) noexcept nogil:
        """AGAIN, with one of them, while transactions other than t have uncommitted changes or locked rows in the keyspace."""
        cdef Txn* w = self.clock.first_writer
        while w != NULL:
            if w != t and holds_in(w, keyspace):
                return must_wait(lack, w)
            w = w.writer_next
        w = self.clock.oldest_snapshot
        while w != NULL:
            if w != t and w.locks and not w.in_writers and holds_in(w, keyspace):      # it has only locked rows so far
                return must_wait(lack, w)
            w = w.snap_next
        return ranges_in(self, t, keyspace, lack)

    cdef int readable(self, Txn* t, uint32_t keyspace) noexcept nogil:
        """Whether the reader may look into the keyspace."""
        cdef Tree* e
        if keyspace >= self.next_keyspace or self.trees[keyspace].tree == NULL:
            return fail(E_USAGE, "the keyspace is gone")
        e = &self.trees[keyspace]
        if e.state != TREE_LIVE and (t == NULL or e.drop_ts <= t.snapshot):
            return fail(E_USAGE, "the keyspace has been dropped")
        if (e.dropped_by != NULL and e.dropped_by == t) or (e.created_by != NULL and e.created_by != t):
            return fail(E_USAGE, "no such keyspace for this transaction")
        return OK

    cdef int read(self, Txn* t, uint32_t keyspace, const char* key, size_t klen, Found* out, Lack* lack) noexcept nogil:
        cdef Cell cell
        cdef int status
        status = self.readable(t, keyspace)
        if status != OK:
            return status
        if t != NULL and t.watched:
            status = isolate_read(self, t, keyspace, key, klen, lack)
            if status != OK:
                return status
        if self.trees[keyspace].lsm:
            return lsm_read(self, t, <LsmTree>self.trees[keyspace].tree, key, klen, out, lack)
        status = (<BTree>self.trees[keyspace].tree).find(key, klen, &cell, &lack.need)
        if status != OK:
            return status
        return self.visible(t, keyspace, key, klen, &cell, out)

    cdef int visible(self, Txn* t, uint32_t keyspace, const char* key, size_t klen, Cell* cell, Found* out) noexcept nogil:
        """What the reader sees of a cell: OK and the value, or ABSENT."""
        cdef Version* v
        cdef uint64_t snapshot, safe
        if self.table.live:
            if t != NULL:
                snapshot = t.snapshot
                safe = t.safe_lsn
            else:
                snapshot = self.clock.visible_ts
                safe = clock_safe_lsn(&self.clock, self.log.end_lsn)
            if cell.frame.mark >= safe:
                v = table_find(&self.table, hash_key(keyspace, key, klen), keyspace, key, klen)
                v = select_version(t, snapshot, v)
                if v != NULL:
                    self.reads_of_versions += 1
                    if v.flags & BEFORE_ABSENT:
                        return ABSENT
                    out.value = version_value(v)
                    out.vlen = v.vlen
                    out.blob = v.flags & BEFORE_BLOB
                    return OK
        if cell.flags & VALUE_GHOST:
            return ABSENT
        out.value = cell.value
        out.vlen = cell.vlen
        out.blob = cell.flags & VALUE_BLOB
        return OK

    cdef int write(self, Txn* t, int op, uint32_t keyspace, const char* key, size_t klen, const char* value, size_t vlen, uint16_t flags,
                   uint64_t blob_number, uint64_t lsn, Lack* lack) noexcept nogil:
        """Puts, deletes or locks a key.  In redo `lsn` is the record's and nothing is logged; t is NULL there for a transaction known to commit whole."""
        cdef Tree* e
        cdef Version* head = NULL
        cdef Version* pruned = NULL
        cdef Path path
        cdef Cell cell
        cdef uint64_t hash = 0
        cdef uint16_t before = 0
        cdef size_t image
        cdef int status
        cdef bint present, fresh
        if not self.redoing:
            status = self.check(t, True)
            if status != OK:
                return status
        if keyspace >= self.next_keyspace or self.trees[keyspace].tree == NULL:
            return fail(E_USAGE, "the keyspace is gone")
        e = &self.trees[keyspace]
        if e.state != TREE_LIVE:
            return fail(E_USAGE, "the keyspace has been dropped")
        if e.dropped_by != NULL and e.dropped_by != t:
            return must_wait(lack, e.dropped_by)
        if e.created_by != NULL and e.created_by != t:
            return must_wait(lack, e.created_by)
        if op == OP_DELETE_RANGE:
            if e.images and not self.redoing:
                return fail(E_CONFLICT, "the keyspace logs before-images as of just now: the range goes key by key")
            return lsm_delete_range(self, t, <LsmTree>e.tree, keyspace, key, klen, value, vlen, flags & RANGE_UNBOUNDED, lsn, lack)
        if e.lsm:
            return lsm_write(self, t, <LsmTree>e.tree, op, keyspace, key, klen, value, vlen, flags, blob_number, lsn, lack)
        if op == OP_DELETE and t != NULL and t.watched and not self.redoing:
            status = isolate_read(self, t, keyspace, key, klen, lack)      # it says whether the key was there
            if status != OK:
                return status
        if self.range_locks != NULL and not self.redoing:
            status = ranges_meet(self, t, keyspace, key, klen, key, klen, True, False, lack)
            if status != OK:
                return status
        if op == OP_DELETE_BLIND:
            op = OP_DELETE
        status = (<BTree>e.tree).prepare(key, klen, vlen, &path, &cell, &lack.need)
        if status != OK and status != ABSENT:
            return status
        present = status == OK and not cell.flags & VALUE_GHOST
        fresh = t != NULL
        if t != NULL:
            hash = hash_key(keyspace, key, klen)
            if status == OK or self.table.locks:             # rule 4: what the tree does not hold has no version, or a mere lock
                head = table_find(&self.table, hash, keyspace, key, klen)
            elif DEBUG:
                assert_unversioned(&self.table, hash, keyspace, key, klen)
            if head != NULL:
                status = self.claim(t, head, &fresh, lack)
                if status != OK:
                    return status
            if t.commuting and t.sx != NULL and head != NULL and op == OP_LOCK:
                status = ssi_follows(self, t, head)
                if status != OK:
                    return status
        if op == OP_DELETE and not present:
            return ABSENT
        if op == OP_LOCK and not fresh:
            return OK
        if (self.holds.count or self.first_request != NULL) and not self.redoing:
            status = lock_for_write(self, t, HOLD_UPDATE if op == OP_LOCK else HOLD_EXCLUSIVE, head != NULL and head.owner == t, keyspace, hash, key, klen,
                                    lack)
            if status != OK:
                return status
        if fresh:
            image = 0 if not present else (BLOB_REF if cell.flags & VALUE_BLOB else cell.vlen)
            if t.bytes > self.transaction_budget:
                return fail_n(E_TOO_LARGE, "the transaction keeps %lld bytes of before-images, over transaction_budget = %lld",
                              <int64_t>t.bytes, <int64_t>self.transaction_budget)
            status = table_reserve(&self.table, t, klen, image)
            if status != OK:
                return status
        if not self.redoing:
            if op != OP_LOCK:
                if e.images:
                    status = log_with_image(self, t, e.images, op, keyspace, key, klen, value, vlen, flags, blob_number, present, &cell, &lsn, lack)
                    if status != OK:
                        return status
                else:
                    status = self.log.reserve(klen + vlen + RECORD_OVERHEAD)
                    if status != OK:
                        lack.log_bytes = klen + vlen + RECORD_OVERHEAD
                        return status
                    if t.id == 0:
                        status = self.start_writing(t, lack)
                        if status != OK:
                            return status
                    lsn = self.append(t, op, keyspace, key, klen, value, vlen, flags, blob_number)
            else:
                lsn = self.log.end_lsn - 1          # below a savepoint set from now on, whose rollback then leaves the lock alone
        # From here on nothing fails.
        if t != NULL:
            if op != OP_LOCK:
                t.writes += 1
                if t.sx != NULL and t.depth == 0 and t.sx.reads.first != NULL:
                    ssi_wrote(self, t, keyspace, hash, key, klen)
            t.deadline = 0
            t.keyspaces |= <uint64_t>1 << (keyspace & 63)
            if t.last_lsn < lsn:
                t.last_lsn = lsn
        if fresh:
            if not present:
                before = BEFORE_ABSENT
            elif cell.flags & VALUE_BLOB:
                before = BEFORE_BLOB
            if head != NULL and head.owner == t:
                before |= head.flags & COMMUTES
            if op == OP_LOCK:
                before |= LOCK_ONLY
                t.locks = True
                if head != NULL and t.commuting and head.owner.commit_ts > t.snapshot:
                    before |= COMMUTES
                    t.commutes = t.watched = True
            pruned = head
            head = table_push(&self.table, t, head, hash, keyspace, key, klen, before, cell.value if present else NULL, image, lsn)
            if pruned != NULL and pruned.owner.state == TXN_COMMITTED:
                prune(self, pruned)
            if op == OP_LOCK:
                return OK
        elif present and cell.flags & VALUE_BLOB and (head == NULL or not head.flags & LOCK_ONLY):
            self.pool.forget(get64(cell.value))
        if head != NULL:
            head.flags &= ~LEFT_GHOST
            not_lock_only(&self.table, head)
            if op == OP_DELETE:
                head.flags |= LEFT_GHOST
        if flags & VALUE_BLOB and t != NULL:
            t.blob_pid = t.blob_lsn = 0          # linked: it is the tree's from now on
        if keyspace == CATALOG:
            catalog_changed(self, t, op, cell.value, cell.vlen if present else 0, value, lsn)
        if op == OP_PUT:
            (<BTree>e.tree).apply_put(&path, key, klen, flags, value, vlen, lsn)
        elif head != NULL:
            (<BTree>e.tree).apply_put(&path, key, klen, VALUE_GHOST, NULL, 0, lsn)
        else:
            (<BTree>e.tree).apply_remove(&path, lsn)
        return OK

    cdef int claim(self, Txn* t, Version* head, bint* fresh, Lack* lack) noexcept nogil:
        """The row, whose newest version is `head`, for a change by t: OK, with whether it needs a version of its own; AGAIN; E_CONFLICT."""
        cdef Txn* owner = head.owner
        cdef Span span
        fresh[0] = True
        if owner == t:
            # Redo knows no savepoints: there every change keeps its own before-image.
            fresh[0] = head.lsn <= (t.savepoints[t.depth - 1].lsn if t.depth else 0) or self.redoing
        elif owner.state == TXN_COMMITTED:
            if loses_to(t, owner.commit_ts):
                self.conflicts += 1
                return fail_n(E_CONFLICT, "the key was changed by a transaction that committed at %lld, after this one's snapshot at %lld",
                              <int64_t>owner.commit_ts, <int64_t>t.snapshot)
        elif owner.state == TXN_UNKNOWN:
            return fail(E_LOG, "the key's newest change is of unknown outcome: open the database again")
        elif owner.state != TXN_COMMITTING or t.level != SERIAL:         # of serial execution the next sees what the last has logged
            span = span_of_key(version_key(head), head.klen)
            must_queue(lack, owner, HOLD_EXCLUSIVE, head.keyspace, &span)
            lack.unqueued = loses_to(t, NEWEST)                          # it loses to whoever comes first: no use in queueing
            return AGAIN
        return OK

    cdef int start_writing(self, Txn* t, Lack* lack) noexcept nogil:
        cdef int status
        if self.serial_txn != NULL and self.serial_txn != t:
            return must_wait(lack, self.serial_txn)
        status = self.log.reserve_ends(END_BYTES)
        if status != OK:
            lack.log_ends = True
            return status
        t.id = self.next_txn
        self.next_txn += 1
        self.log.next_txn = self.next_txn
        t.first_lsn = self.log.end_lsn
        writer_enter(&self.clock, t)
        return OK

    cdef uint64_t append(self, Txn* t, int op, uint32_t keyspace, const char* key, size_t klen, const char* value, size_t vlen,
                         uint16_t flags, uint64_t blob_number) noexcept nogil:
        cdef Record r
        if op == OP_PUT and not flags & VALUE_BLOB:
            return self.log.append_put(t.id, keyspace, key, klen, value, vlen)
        memset(&r, 0, sizeof(Record))
        r.type = R_DELETE if op == OP_DELETE else R_PUT_BLOB
        r.txn = t.id
        r.keyspace = keyspace
        r.key = key
        r.klen = klen
        if op == OP_PUT:
            r.a = blob_number
            r.b = get64(value + 8)
        return self.log.append(&r)

    cdef int log_chunk(self, Txn* t, uint64_t number, uint64_t total, const char* data, size_t n, Lack* lack) noexcept nogil:
        """Logs the next bytes of large value `number` of the transaction."""
        cdef Record r
        cdef int status = self.check(t, True)
        if status != OK:
            return status
        status = self.log.reserve(n + RECORD_OVERHEAD)
        if status != OK:
            lack.log_bytes = n + RECORD_OVERHEAD
            return status
        if t.id == 0:
            status = self.start_writing(t, lack)
            if status != OK:
                return status
        memset(&r, 0, sizeof(Record))
        r.type = R_CHUNK
        r.txn = t.id
        r.a = number
        r.b = total
        r.value = data
        r.vlen = n
        t.last_lsn = self.log.append(&r)
        if t.blob_lsn == 0:
            t.blob_lsn = t.last_lsn
        return OK

    cdef int secure(self, Txn* t, Lack* lack) noexcept nogil:
        """Gets what an operation that answered AGAIN was lacking. (Releases the latch.)"""
        cdef Txn* blocker = lack.blocker
        cdef void* blamed = lack.stall
        cdef size_t n = lack.log_bytes
        cdef int status
        if blocker != NULL:
            lack.blocker = NULL
            # The latch was let go since the blocker was met: it may have ended, and its structure may serve another transaction by now.
            if blocker.wakes != lack.blocker_wakes or blocker.state in (TXN_COMMITTED, TXN_ABORTED, TXN_UNKNOWN):
                return OK
            if blocker.state == TXN_PREPARED and t != NULL and t.level == SERIAL:       # who is alone in its place waits for nobody's word
                return in_doubt(blocker)
            status = enqueue(self, t, lack)
            if status != OK:
                return status
            lack.queued = t
            lack.held = True
            status = wait_for(self.latch, t, blocker)
            if status == E_DEADLOCK:
                self.deadlocks += 1
            elif status == E_TIMEOUT:
                self.timeouts += 1
            if status == OK and self.closing:
                return fail(E_CLOSED, "the database was closed during the wait for a lock")
            return status
        if n or lack.log_ends:
            lack.log_bytes = 0
            lack.log_ends = False
            return self.log.make_room(n + END_BYTES)
        if lack.stall != NULL:
            lack.stall = NULL
            return catch_up(self, t, <LsmTree>blamed, lack.delay)
        if lack.blocks.table != NULL:
            lack.held = True
            return block_need_secure(self.pool, self.vfs, &lack.blocks)
        if lack.need.lack != LACK_NOTHING:
            lack.held = True
            # Undo must get on with a full disk too: it may pass the cap on dirty frames.
            self.pool.rolling_back += t != NULL and t.undoing
            status = need_secure(self.pool, &lack.need)
            self.pool.rolling_back -= t != NULL and t.undoing
            return status
        return OK

    cdef void settle(self, Lack* lack) noexcept nogil:
        if lack.held or lack.need.pinned:
            lack.held = False
            if lack.queued != NULL:
                dequeue(self, lack.queued)
                lack.queued = NULL
            need_release(self.pool, &lack.need)
            block_need_release(self.pool, &lack.blocks)

    # --- visibility

    cdef void publish(self) noexcept nogil:
        """Makes the commits at the head of the queue visible whose durability is met."""
        cdef Txn* t
        cdef uint64_t own = 0
        cdef bint any = False
        while self.clock.queue != NULL:
            t = self.clock.queue
            if t.durability == SYNC:
                if self.log.synced_lsn < t.commit_lsn:
                    break
            elif t.durability == OS and self.log.written_lsn < t.commit_lsn:
                break
            queue_pop(&self.clock)
            t.state = TXN_COMMITTED
            self.clock.visible_ts = t.commit_ts
            self.last_end = t.commit_lsn
            self.commits += 1
            any = True
            writer_leave(&self.clock, t)
            if t.locks:
                self.drop_locks(t)
            if t.ranges:
                ranges_release(self, t)
            if t.holds.first != NULL or t.predicates:
                release_locks(self, t)
            if t.waiters != NULL:
                wake_waiters(t)
            snapshot_close(&self.clock, t)
            if t.catalog:
                commit_catalog(self, t)
            if t.live == 0:
                arena_release(&self.table, t)
                if not t.handle:
                    self.recycle(t)
                continue
            own += t.live
            t.in_garbage = True
            t.writer_next = NULL
            t.writer_prev = self.garbage_tail
            if self.garbage_tail != NULL:
                self.garbage_tail.writer_next = t
            else:
                self.garbage = t
            self.garbage_tail = t
        if any and self.listeners:
            condition_broadcast(&self.published)
        if any and self.garbage != NULL:
            collect(self, COLLECT_BUDGET + <int>min(own, <uint64_t>COLLECT_OWN))
