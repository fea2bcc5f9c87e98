"""Two-phase commit at the door: see prepared.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from ..base.latch cimport condition_broadcast, condition_wait, latch_enter, latch_lock, latch_unlock
from ..base.status cimport OK, AGAIN, E_LOG, E_READONLY, E_TXN_CLOSED, E_UNKNOWN, E_USAGE, fail, raise_status
from ..log.writer cimport SYNC
from ..txn.prepared cimport LONGEST_XID, LockTable, locks_encode, prepare, prepared_find, promise_drop, promise_xid
from ..txn.transaction cimport Lack, TxnManager, lack_init
from ..txn.versions cimport LOCK_ONLY, TXN_ABORTED, TXN_ABORTING, TXN_COMMITTED, TXN_UNKNOWN, Txn, Version
from .engine cimport Engine
from .handles cimport CoreDatabase
from .steps cimport after_writes, raise_lacking
from .txnhandle cimport CoreTransaction

cdef enum:
    MOST_WAITERS = 16            # of one prepared transaction, that are named

cdef struct Row:
    char xid[LONGEST_XID]
    size_t xid_len
    uint64_t wall
    uint64_t number
    uint64_t changes
    uint64_t locks
    int level
    int waiter_count
    uint64_t waiters[MOST_WAITERS]

cdef tuple LEVELS = ("read_committed", "snapshot", "serializable", "locking", "serial")


cdef int prepare_txn(CoreTransaction x, bytes xid) except -1:
    cdef Engine e = x.engine
    cdef TxnManager m = x.m
    cdef const char* name = PyBytes_AS_STRING(xid)
    cdef size_t n = PyBytes_GET_SIZE(xid)
    cdef LockTable table
    cdef Lack lack
    cdef int status
    if n == 0 or n > LONGEST_XID:
        raise ValueError(f"an xid takes 1 to {LONGEST_XID} bytes, not {n}")
    x.idle()
    if x.t == NULL:
        raise_status(fail(E_TXN_CLOSED, b"the transaction has ended"))
    lack_init(&lack)
    memset(&table, 0, sizeof(LockTable))
    try:
        latch_enter(&e.latch)
        status = x.still()
        if status == OK:
            status = m.check(x.t, True)
        if status == OK:
            status = locks_encode(m, x.t, &table)
        latch_unlock(&e.latch)
        if status != OK:
            raise_status(status)
        while True:
            latch_enter(&e.latch)
            status = x.still()
            if status == OK:
                status = prepare(m, x.t, name, n, &table, &lack)
            if status == OK:
                break
            latch_unlock(&e.latch)
            if status != AGAIN:
                raise_lacking(m, status, &lack)
            x.obtain(&lack)
    finally:
        free(table.data)
    # The latch is held. From here on the transaction ends by its xid alone.
    x.ended_id = x.t.id
    x.number_ = x.t.number
    x.was_prepared = True
    cdef uint64_t lsn = x.t.promise.lsn
    x.t = NULL
    x.in_use = True
    e.enter()
    latch_unlock(&e.latch)
    with nogil:
        latch_lock(&e.latch)
        status = e.log.flush(lsn, SYNC)
        m.publish()
        e.leave()
        after_writes(e)
        latch_unlock(&e.latch)
    x.in_use = False
    if status != OK:
        raise_status(fail(E_UNKNOWN, b"the log failed while the prepare was being made durable: after the next open the transaction may be prepared or gone"))
    return 0


cdef bint end_prepared(CoreDatabase db, bytes xid, bint commit) except -1:
    cdef Engine e = db.engine
    cdef TxnManager m = e.txns
    cdef const char* name = PyBytes_AS_STRING(xid)
    cdef size_t n = PyBytes_GET_SIZE(xid)
    cdef Txn* t = NULL
    cdef bint catalog = False
    cdef uint64_t lsn = 0
    cdef int status
    if e.read_only:
        raise_status(fail(E_READONLY, b"the database was opened read-only"))
    with nogil:
        latch_lock(&e.latch)
        status = e.admit()
        if status == OK:
            while True:
                t = prepared_find(m, name, n)
                if t == NULL or not t.promise.ending:
                    break
                condition_wait(&e.changed, &e.latch, 100000)       # another thread is at it
            if t != NULL:
                catalog = t.catalog
                status = end_one(e, m, t, commit, &lsn)
            e.leave()
            after_writes(e)
        latch_unlock(&e.latch)
    if status != OK:
        raise_status(status)
    if catalog:
        e.renew_names()
    if db.after_commit_hook is not None and lsn:
        db.after_commit_hook(lsn)
    return t != NULL


cdef int end_one(Engine e, TxnManager m, Txn* t, bint commit, uint64_t* lsn) noexcept nogil:
    cdef Lack lack
    cdef int status
    if commit and t.state == TXN_ABORTING:
        return fail(E_USAGE, b"it is being rolled back")
    t.promise.ending = True
    t.handle = True
    if commit:
        t.durability = SYNC
        status = m.commit_begin(t)
        lsn[0] = t.commit_lsn
        if status == AGAIN:
            status = m.commit_end(t, e.log.flush(t.commit_lsn, SYNC))
    elif m.failed or e.log.failed:             # an abort that is not in the log would come back, with its locks gone meanwhile
        status = fail(E_LOG, b"the log has failed: what is prepared can be rolled back once the database has been opened again")
    else:
        lack_init(&lack)
        while True:
            status = m.abort(t, &lack)
            if status != AGAIN:
                break
            status = m.secure(t, &lack)
            if status != OK:
                break
        m.settle(&lack)
        if status == OK:
            status = e.log.flush(t.last_lsn + 1, SYNC)
            m.publish()
            if status != OK:
                status = fail(E_UNKNOWN, b"the log failed while the rollback was being made durable: after the next open the transaction may be prepared still")
    t.promise.ending = False
    if t.state == TXN_COMMITTED or t.state == TXN_ABORTED or t.state == TXN_UNKNOWN:
        promise_drop(m, t)
        m.finish(t)
    else:
        t.handle = False
    condition_broadcast(&e.changed)
    return status


cdef list prepared_rows(Engine e):
    cdef TxnManager m = e.txns
    cdef size_t room = 0, count = 0, i
    cdef Row* rows = NULL
    cdef Txn* t
    with nogil:
        latch_lock(&e.latch)
        room = m.prepared
        rows = <Row*>malloc((room + 1) * sizeof(Row))
        t = m.first_prepared if rows != NULL else NULL
        while t != NULL:
            describe(t, &rows[count])
            count += 1
            t = t.promise.next
        latch_unlock(&e.latch)
    if rows == NULL:
        raise MemoryError("no memory for the prepared transactions")
    result = []
    try:
        for i in range(count):
            result.append((PyBytes_FromStringAndSize(rows[i].xid, rows[i].xid_len), rows[i].wall, rows[i].number, LEVELS[rows[i].level], rows[i].changes,
                           rows[i].locks, tuple([rows[i].waiters[j] for j in range(rows[i].waiter_count)])))
    finally:
        free(rows)
    return result


cdef void describe(Txn* t, Row* row) noexcept nogil:
    cdef Version* v = t.newest
    cdef Txn* w = t.waiters
    row.xid_len = t.promise.xid_len
    memcpy(row.xid, promise_xid(t.promise), row.xid_len)
    row.wall = t.promise.wall
    row.number = t.number
    row.level = t.level
    row.changes = row.locks = 0
    row.waiter_count = 0
    while v != NULL:
        if v.linked:
            if v.flags & LOCK_ONLY:
                row.locks += 1
            else:
                row.changes += 1
        v = v.previous
    row.locks += t.holds.count
    while w != NULL and row.waiter_count < MOST_WAITERS:
        row.waiters[row.waiter_count] = w.number
        row.waiter_count += 1
        w = w.wait_next
