"""Recovery: see recovery.pxd.

1. Analysis reads the log once and learns which transactions ended, and how.  Those that commit whole need no before-images in redo.
2. The checkpoint's record gives trees, transactions in flight with their undo; undo that was under way is finished first (law 9).
3. Redo replays every record through TxnManager.write and undo, as it was logged: history is repeated. What is prepared at the end of the log stays so.
4. The log is ended durably and goes on in a new segment (the engine does that), the losers' aborts are logged, and they are undone.

Nothing here changes the log's past, and page writes go to free space only, so recovery may be cut off anywhere and run again.
"""
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, calloc, realloc
from libc.string cimport memcpy, memset
from ..base.coding cimport get32
from ..base.latch cimport latch_lock, latch_unlock, monotonic_micros
from ..base.status cimport OK, ABSENT, AGAIN, E_INVALID, E_NOMEM, E_USAGE, fail, fail_corrupt, raise_status
from ..base.vfs cimport Vfs
from ..index.btree cimport BTree
from ..log.reader cimport LogReader
from ..log.record cimport (Record, R_PUT, R_DELETE, R_COMMIT, R_ABORT, R_ROLLBACK, R_CHUNK, R_PUT_BLOB, R_DELETE_RANGE, R_PREPARE, R_BEFORE, R_TAG, TAG_LOCKS)
from ..log.writer cimport LAZY
from ..page.layout cimport VALUE_BLOB, BLOB_REF
from ..page.store cimport BLOCK
from ..txn.blob cimport BlobWrite, blob_start, blob_append, blob_complete, blob_cancel
from ..txn.clock cimport writer_enter, queue_push
from ..txn.garbage cimport collect_slowly
from ..txn.keyspaces cimport tree_admit
from ..txn.prepared cimport LONGEST_XID, locks_restore, locks_valid, prepared_find, promise_drop, promise_restore
from ..txn.transaction cimport END_BYTES, TxnManager, Lack, lack_init, OP_PUT, OP_DELETE, CATALOG, CATALOG_ROW, LSM_BACKEND, row_valid, TREE_LIVE, TREE_DROPPING
from ..txn.undo cimport undo
from ..txn.versions cimport SERIAL, SNAPSHOT, Txn, TXN_ABORTING, TXN_ACTIVE, TXN_COMMITTING, TXN_PREPARED
from ..base.idmap cimport IdMap, idmap_init, idmap_destroy, idmap_get, idmap_put, idmap_remove
from ..index.lsm cimport LsmTree
from .lsmredo cimport (LsmRedo, lsmredo_chunk, lsmredo_edits, lsmredo_free, lsmredo_init, lsmredo_is, lsmredo_losers, lsmredo_note, lsmredo_replay)
from .lsmtree cimport new_lsm
from .ahead cimport Ahead, Window, ahead_open, ahead_next, ahead_warm, ahead_close
from .meta cimport meta_decode

cdef enum:
    SEEN = 1                    # has records, its end is not known
    UNDOES = 2                  # aborts or rolls back to a savepoint: keeps before-images in redo

cdef struct Pending:            # large values whose chunks are being replayed, by transaction and number
    uint64_t txn
    uint64_t number
    uint64_t lsn                # of the first chunk met
    BlobWrite write
    Pending* next

cdef struct Doubt:              # a transaction that prepares, and has not ended as far as analysis has come
    uint64_t txn
    bint prepared
    bint known                  # its promise came with the checkpoint's record
    int level
    uint64_t wall
    uint64_t lsn
    char xid[LONGEST_XID]
    size_t xid_len
    uint8_t* locks
    size_t locks_len
    Doubt* next

cdef struct Redo:
    IdMap doubts                # id -> Doubt*
    Doubt* first_doubt
    IdMap fates                 # transactions that need before-images
    IdMap active                # those of them that are in flight: id -> Txn*
    Pending* blobs
    uint64_t from_lsn
    LsmRedo* lsm                # the LSM-trees' share
    PyObject* raised            # what the making of a tree raised, or NULL: owned
    Ahead ahead


cdef object make_tree(TxnManager m, uint32_t id, Txn* creator, bytes row):
    cdef BTree tree
    cdef LsmTree store = new_lsm(m, id, PyBytes_AS_STRING(row) + CATALOG_ROW) if row[4] == LSM_BACKEND else None
    cdef object made
    cdef bint lsm = store is not None
    cdef Lack lack
    cdef int status
    tree = BTree(m.pool, id, 0)
    made = store if lsm else tree
    lack_init(&lack)
    with nogil:
        latch_lock(m.latch)
        status = tree_admit(m, id)
        while status == OK and not lsm:
            status = tree.create(&lack.need)
            if status != AGAIN:
                break
            status = m.secure(NULL, &lack)
        m.settle(&lack)
        if status == OK:
            m.trees[id].tree = <void*>made
            m.trees[id].lsm = lsm
            m.trees[id].state = TREE_LIVE
            m.trees[id].created_by = creator
            m.trees[id].dropped_by = NULL
            m.trees[id].creation_lsn = m.trees[id].drop_ts = 0
            if m.next_keyspace <= id:
                m.next_keyspace = id + 1
        latch_unlock(m.latch)
    if status != OK:
        raise_status(status)
    m.tree_objects.append(made)


cdef int not_replayable(const Record* r, const char* what) noexcept nogil:
    return fail_corrupt("log", <long long>r.lsn, what, r.type, r.txn)


cdef void forget_doubt(Redo* redo, uint64_t txn) noexcept nogil:
    cdef Doubt** p = &redo.first_doubt
    cdef Doubt* d
    if idmap_get(&redo.doubts, txn) == NULL:
        return
    while p[0].txn != txn:
        p = &p[0].next
    d = p[0]
    p[0] = d.next
    idmap_remove(&redo.doubts, txn)
    free(d.locks)
    free(d)


cdef Doubt* doubt_of(Redo* redo, uint64_t txn) noexcept nogil:
    """Found or made; NULL: no memory."""
    cdef uint64_t* found = idmap_get(&redo.doubts, txn)
    cdef Doubt* d
    if found != NULL:
        return <Doubt*>found[0]
    d = <Doubt*>calloc(1, sizeof(Doubt))
    if d == NULL or idmap_put(&redo.doubts, txn, <uint64_t>d):
        free(d)
        fail(E_NOMEM, "no memory for a prepared transaction")
        return NULL
    d.txn = txn
    d.next = redo.first_doubt
    redo.first_doubt = d
    return d


cdef int note_doubt(Redo* redo, const Record* r, uint64_t behind) noexcept nogil:
    cdef Doubt* d
    cdef uint8_t* grown
    if r.txn == 0:
        return not_replayable(r, "a prepare of no transaction")
    d = doubt_of(redo, r.txn)
    if d == NULL:
        return E_NOMEM
    if d.known:
        return OK
    if r.type == R_PREPARE:
        if r.klen > LONGEST_XID or r.b > SERIAL or not locks_valid(d.locks, d.locks_len):
            return not_replayable(r, "the prepare record of a transaction that cannot be")
        memcpy(d.xid, r.key, r.klen)
        d.xid_len = r.klen
        d.level = <int>r.b
        d.wall = r.a
        d.lsn = behind
        d.prepared = True
        return OK
    if r.vlen == 0:
        return not_replayable(r, "a piece of the locks of a transaction that is none")
    if r.value[0]:
        d.locks_len = 0
    grown = <uint8_t*>realloc(d.locks, d.locks_len + r.vlen)
    if grown == NULL:
        return fail(E_NOMEM, "no memory for the locks of a prepared transaction")
    d.locks = grown
    memcpy(d.locks + d.locks_len, r.value + 1, r.vlen - 1)
    d.locks_len += r.vlen - 1
    return OK


cdef int analyse(LogReader log, Redo* redo, Recovered* out) noexcept nogil:
    """One pass over the log: leaves in `fates` the transactions that may have to be undone, wholly or in part."""
    cdef Record r
    cdef uint64_t* fate
    cdef int status
    while True:
        status = log.next(&r)
        if status != OK:
            return OK if status == ABSENT else status
        if r.txn >> 62 or (r.type == R_COMMIT and (r.a == 0 or r.a >> 62)):
            return not_replayable(&r, "a transaction or a commit timestamp with a number that none can have")
        status = lsmredo_note(redo.lsm, &r)
        if status != OK:
            return status
        if r.type == R_PUT or r.type == R_DELETE or r.type == R_PUT_BLOB or r.type == R_CHUNK or r.type == R_BEFORE:
            # Who has logged nothing but pieces of large values is met as well: its abort lets readers of the log forget it.
            if r.lsn >= redo.from_lsn and (r.type == R_CHUNK or r.type == R_BEFORE or not lsmredo_is(redo.lsm, r.keyspace)) and idmap_get(&redo.fates, r.txn) == NULL and idmap_put(&redo.fates, r.txn, SEEN):
                return fail(E_NOMEM, "no memory for the table of transactions")
        elif r.type == R_ABORT or r.type == R_ROLLBACK:
            if idmap_put(&redo.fates, r.txn, UNDOES):
                return fail(E_NOMEM, "no memory for the table of transactions")
            if r.type == R_ABORT and redo.first_doubt != NULL:
                forget_doubt(redo, r.txn)
        elif r.type == R_PREPARE or (r.type == R_TAG and r.a == TAG_LOCKS):
            status = note_doubt(redo, &r, log.rec_lsn)
            if status != OK:
                return status
        elif r.type == R_COMMIT:
            if redo.first_doubt != NULL:
                forget_doubt(redo, r.txn)
            out.transactions += 1
            fate = idmap_get(&redo.fates, r.txn)
            if fate != NULL and fate[0] == SEEN:
                idmap_remove(&redo.fates, r.txn)


cdef Pending** find_blob(Redo* redo, uint64_t txn, uint64_t number) noexcept nogil:
    cdef Pending** p = &redo.blobs
    while p[0] != NULL and (p[0].txn != txn or p[0].number != number):
        p = &p[0].next
    return p


cdef int redo_chunk(TxnManager m, Redo* redo, const Record* r) noexcept nogil:
    cdef Pending** p = find_blob(redo, r.txn, r.a)
    cdef Pending* dead
    cdef Lack lack
    cdef int status
    if p[0] == NULL:
        if r.b == 0 or r.b > (<uint64_t>1 << 30):
            return not_replayable(r, "a large value longer than any may be, or of no length")
        p[0] = <Pending*>calloc(1, sizeof(Pending))
        if p[0] == NULL:
            return fail(E_NOMEM, "no memory to replay a large value")
        p[0].txn = r.txn
        p[0].number = r.a
        p[0].lsn = r.lsn
        lack_init(&lack)
        while True:
            status = blob_start(m, r.b, &p[0].write, &lack)
            if status != AGAIN:
                break
            status = m.secure(NULL, &lack)
            if status != OK:
                break
        if status != OK:
            return status
    if p[0].write.written + r.vlen > p[0].write.length:
        return not_replayable(r, "more chunks than the large value is long")
    if r.vlen % BLOCK and p[0].write.written + r.vlen < p[0].write.length:
        if p[0].lsn < redo.from_lsn:         # an LSM-tree's need is where reading begins: in the middle of a value that the image has, or nobody
            dead = p[0]
            p[0] = dead.next
            blob_cancel(m, &dead.write)
            free(dead)
            return OK
        return not_replayable(r, "a chunk of a large value, not its last, that ends within a block")
    latch_unlock(m.latch)
    status = blob_append(m, &p[0].write, r.value, r.vlen)
    latch_lock(m.latch)
    return status


cdef int redo_change(TxnManager m, Redo* redo, const Record* r, Txn* t) noexcept nogil:
    cdef Lack lack
    cdef Pending** p
    cdef Pending* blob
    cdef char reference[BLOB_REF]
    cdef int status
    lack_init(&lack)
    if r.type == R_PUT_BLOB:
        p = find_blob(redo, r.txn, r.a)
        blob = p[0]
        if blob == NULL or blob.write.written != r.b or blob.write.length != r.b:
            return not_replayable(r, "a large value some of whose chunks are missing")
        latch_unlock(m.latch)
        status = blob_complete(m, &blob.write, reference)
        latch_lock(m.latch)
        if status != OK:
            return status
        p[0] = blob.next
        free(blob)
    while True:
        if r.type == R_PUT:
            status = m.write(t, OP_PUT, r.keyspace, r.key, r.klen, r.value, r.vlen, 0, 0, r.lsn, &lack)
        elif r.type == R_DELETE:
            status = m.write(t, OP_DELETE, r.keyspace, r.key, r.klen, NULL, 0, 0, 0, r.lsn, &lack)
        else:
            status = m.write(t, OP_PUT, r.keyspace, r.key, r.klen, reference, BLOB_REF, VALUE_BLOB, r.a, r.lsn, &lack)
        if status != AGAIN:
            break
        if lack.blocker != NULL:
            status = not_replayable(r, "two transactions in flight changed one key")
            break
        status = m.secure(NULL, &lack)
        if status != OK:
            break
    m.settle(&lack)
    if status == E_USAGE or status == E_INVALID:
        status = not_replayable(r, "a change that its keyspace cannot take")
    return OK if status == ABSENT else status


cdef int finish_undo(TxnManager m, Txn* t, uint64_t lsn, bint ends) noexcept nogil:
    cdef Lack lack
    cdef int status
    lack_init(&lack)
    while True:
        status = undo(m, t, lsn, &lack)
        if status != AGAIN:
            break
        status = m.secure(NULL, &lack)
        if status != OK:
            break
    m.settle(&lack)
    if status == OK and ends:
        m.end_aborted(t)
    return status


cdef int redo_end(TxnManager m, Redo* redo, const Record* r, Txn* t) noexcept nogil:
    cdef Pending** p = &redo.blobs
    cdef Pending* dead
    if r.type == R_ROLLBACK:
        return finish_undo(m, t, r.a, False) if t != NULL else OK
    while p[0] != NULL:           # large values begun and never linked
        if p[0].txn == r.txn:
            dead = p[0]
            p[0] = dead.next
            blob_cancel(m, &dead.write)
            free(dead)
        else:
            p = &p[0].next
    if t != NULL and t.promise != NULL:
        promise_drop(m, t)
    if r.type == R_COMMIT:
        m.clock.last_ts = r.a
        if t == NULL:
            m.clock.visible_ts = r.a
            return OK
        idmap_remove(&redo.active, r.txn)
        t.commit_ts = r.a
        t.durability = LAZY
        t.state = TXN_COMMITTING
        queue_push(&m.clock, t)
        m.publish()
        return collect_slowly(m)
    if t == NULL:
        return OK
    idmap_remove(&redo.active, r.txn)
    t.state = TXN_ABORTING
    return finish_undo(m, t, 0, True)


cdef Txn* transaction_of(TxnManager m, Redo* redo, const Record* r, int* status) noexcept nogil:
    """The record's transaction if it keeps before-images (made at its first change), else NULL."""
    cdef uint64_t* found = idmap_get(&redo.active, r.txn)
    cdef Txn* t
    status[0] = OK
    if found != NULL:
        return <Txn*>found[0]
    if (r.type != R_PUT and r.type != R_DELETE and r.type != R_PUT_BLOB and r.type != R_DELETE_RANGE and r.type != R_CHUNK
            and r.type != R_BEFORE):
        return NULL
    if idmap_get(&redo.fates, r.txn) == NULL and idmap_get(&redo.doubts, r.txn) == NULL:
        return NULL
    t = m.begin(False, LAZY, -1, False, SNAPSHOT)
    if t == NULL or idmap_put(&redo.active, r.txn, <uint64_t>t):
        status[0] = fail(E_NOMEM, "no memory for a transaction in flight")
        return NULL
    t.handle = False
    t.id = r.txn
    t.first_lsn = r.lsn
    writer_enter(&m.clock, t)
    return t


cdef int redo_record(TxnManager m, Redo* redo, const Record* r, Recovered* out) noexcept nogil:
    cdef Txn* t
    cdef uint32_t id
    cdef int status
    if r.txn >= m.next_txn:
        m.next_txn = r.txn + 1
    if r.lsn > m.log.end_lsn:
        m.log.end_lsn = r.lsn            # where redo stands: pages that are loaded now may hold changes in flight up to here
    if r.type == R_CHUNK:
        if r.lsn >= redo.from_lsn and r.txn != 0:
            transaction_of(m, redo, r, &status)
            if status != OK:
                return status
        if lsmredo_chunk(redo.lsm, r, &status):
            return status
        return redo_chunk(m, redo, r)
    if lsmredo_is(redo.lsm, r.keyspace) and (r.type == R_PUT or r.type == R_DELETE or r.type == R_PUT_BLOB or r.type == R_DELETE_RANGE):
        out.records += 1
        t = NULL
        if redo.first_doubt != NULL and idmap_get(&redo.doubts, r.txn) != NULL:
            t = transaction_of(m, redo, r, &status)
            if status != OK:
                return status
        return lsmredo_replay(redo.lsm, m, r, t)
    if r.lsn < redo.from_lsn or r.txn == 0:
        return OK
    t = transaction_of(m, redo, r, &status)
    if status != OK:
        return status
    out.records += 1
    if r.type == R_PUT or r.type == R_DELETE or r.type == R_PUT_BLOB:
        if r.type == R_PUT and r.keyspace == CATALOG:
            if not row_valid(r.value, r.vlen) or r.klen == 0 or r.klen > 255:
                return not_replayable(r, "a row of the catalogue of the wrong length")
            id = get32(r.value)
            if id >= m.next_keyspace or m.trees[id].tree == NULL:
                if id == 0 or id > m.next_keyspace + 1000000:
                    return not_replayable(r, "a row of the catalogue with an impossible keyspace id")
                latch_unlock(m.latch)
                with gil:
                    try:
                        make_tree(m, id, t, r.value[:r.vlen])
                    except BaseException as error:
                        Py_INCREF(error)
                        redo.raised = <PyObject*>error
                latch_lock(m.latch)
                if redo.raised != NULL:
                    return not_replayable(r, "a row of the catalogue whose keyspace cannot be made again")
                status = lsmredo_edits(redo.lsm, m, id)
                if status != OK:
                    return status
            elif m.trees[id].state == TREE_DROPPING and t != NULL and m.trees[id].dropped_by != t:
                # Made before the checkpoint by a transaction that had logged nothing then.
                m.trees[id].state = TREE_LIVE
                m.trees[id].created_by = t
                m.trees[id].creation_lsn = 0
                m.dropping -= 1
        return redo_change(m, redo, r, t)
    if r.type == R_COMMIT or r.type == R_ABORT or r.type == R_ROLLBACK:
        return redo_end(m, redo, r, t)
    return OK


cdef int keep_doubts(TxnManager m, Redo* redo) noexcept nogil:
    """Behind the end of the log: who is prepared stays so."""
    cdef Doubt* d = redo.first_doubt
    cdef Doubt* oldest
    cdef uint64_t* found
    cdef Txn* t
    cdef int status = OK
    while status == OK:
        oldest = NULL                    # in the order of preparing
        d = redo.first_doubt
        while d != NULL:
            if d.prepared and not d.known and (oldest == NULL or d.lsn < oldest.lsn):
                oldest = d
            d = d.next
        if oldest == NULL:
            return OK
        found = idmap_get(&redo.active, oldest.txn)
        if found == NULL:
            return fail_corrupt("log", <long long>oldest.lsn, "a prepared transaction without a change", oldest.txn, 0)
        t = <Txn*>found[0]
        if t.state != TXN_ACTIVE or prepared_find(m, oldest.xid, oldest.xid_len) != NULL:
            return fail_corrupt("log", <long long>oldest.lsn, "a transaction that is prepared twice, or as another", oldest.txn, 0)
        status = promise_restore(m, t, oldest.xid, oldest.xid_len, oldest.level, oldest.wall, oldest.lsn, oldest.locks, oldest.locks_len)
        oldest.known = True
    return status


cdef int redo_pass(TxnManager m, LogReader log, Redo* redo, Recovered* out) noexcept nogil:
    """Replays to the end of the log."""
    cdef Window* w = NULL
    cdef uint64_t i
    cdef int status
    while True:
        status = ahead_next(&redo.ahead, m, log, &w)
        if status != OK or w == NULL:
            return status
        for i in range(w.count):
            ahead_warm(&redo.ahead, w, m, i)
            status = redo_record(m, redo, &w.records[i], out)
            if status != OK:
                return status


cdef object replay(TxnManager m, Vfs vfs, const char* log_dir, uint64_t segment_size, int helpers, uint64_t edits_end, Recovered* out):
    cdef LogReader log = LogReader.__new__(LogReader)
    cdef Redo redo
    cdef char* meta = NULL
    cdef size_t n = 0
    cdef Txn* t
    cdef Txn* following
    cdef Pending* blob
    cdef Doubt* doubt
    cdef uint32_t id
    cdef uint64_t analysed
    cdef int status
    memset(out, 0, sizeof(Recovered))
    memset(&redo, 0, sizeof(Redo))
    redo.from_lsn = m.store.sb.checkpoint_lsn
    if idmap_init(&redo.fates) or idmap_init(&redo.active) or idmap_init(&redo.doubts):
        raise MemoryError("no memory for the table of transactions")
    m.redoing = True
    m.log.end_lsn = redo.from_lsn
    m.next_txn = m.store.sb.next_txn if m.store.sb.next_txn else 1
    m.next_keyspace = m.store.sb.next_keyspace if m.store.sb.next_keyspace else 1
    m.clock.last_ts = m.clock.visible_ts = m.store.sb.next_commit_ts - 1 if m.store.sb.next_commit_ts else 0
    try:
        with nogil:
            status = ahead_open(&redo.ahead, m, helpers)
        if status != OK:
            raise_status(status)
        status = tree_admit(m, m.next_keyspace - 1)
        if status == OK:
            status = m.store.read_meta(&meta, &n)
        if status != OK:
            raise_status(status)
        if n:
            meta_decode(m, <const uint8_t*>meta, n, redo.from_lsn, &out.read_from)
        else:
            out.read_from = redo.from_lsn
            make_tree(m, CATALOG, NULL, bytes(CATALOG_ROW))
        t = m.first_prepared
        while t != NULL:
            doubt = doubt_of(&redo, t.id)
            if doubt == NULL:
                raise_status(E_NOMEM)
            doubt.prepared = doubt.known = True
            t = t.promise.next
        redo.lsm = &out.lsm
        status = lsmredo_init(redo.lsm, m, redo.from_lsn, edits_end)
        if status != OK:
            raise_status(status)
        # 1. analysis
        out.analysis_micros = -monotonic_micros()
        status = log.open(vfs, log_dir, out.read_from, segment_size, m.store.sb.database_id)
        if status == OK:
            with nogil:
                status = analyse(log, &redo, out)
        if status != OK:
            raise_status(status)
        log.close()
        out.analysis_micros += monotonic_micros()
        with nogil:
            latch_lock(m.latch)
            for id in range(m.next_keyspace):
                status = lsmredo_edits(redo.lsm, m, id)
                if status != OK:
                    break
            latch_unlock(m.latch)
        if status != OK:
            raise_status(status)
        # 2. undo that was under way at the checkpoint
        t = m.clock.first_writer
        while t != NULL and status == OK:
            following = t.writer_next
            if idmap_put(&redo.active, t.id, <uint64_t>t):
                raise MemoryError("no memory for the table of transactions")
            if t.undoing:
                if t.state == TXN_ABORTING:
                    idmap_remove(&redo.active, t.id)
                with nogil:
                    latch_lock(m.latch)
                    status = finish_undo(m, t, t.undo_to, t.state == TXN_ABORTING)
                    latch_unlock(m.latch)
            t = following
        if status != OK:
            raise_status(status)
        # 3. redo
        out.redo_micros = -monotonic_micros()
        analysed = log.end_lsn
        log = LogReader.__new__(LogReader)
        status = log.open(vfs, log_dir, out.read_from, segment_size, m.store.sb.database_id)
        if m.read_only:
            log.limit_lsn = analysed         # who writes beside has gone on: of what came since, the fates are not known
        if status == OK:
            with nogil:
                latch_lock(m.latch)
                status = redo_pass(m, log, &redo, out)
                if status == OK:
                    status = keep_doubts(m, &redo)
                latch_unlock(m.latch)
        if redo.raised != NULL:
            raise <object>redo.raised
        if status != OK:
            raise_status(status)
        out.redo_micros += monotonic_micros()
        out.end_lsn = log.end_lsn
        out.next_lsn = log.highest_lsn
        out.incarnation = log.max_incarnation
        out.known_synced = log.known_synced
        out.last_crc = log.last_crc
        out.bytes = log.end_lsn - out.read_from if log.end_lsn > out.read_from else 0
        while redo.blobs != NULL:
            blob = redo.blobs
            redo.blobs = blob.next
            with nogil:
                latch_lock(m.latch)
                blob_cancel(m, &blob.write)
                latch_unlock(m.latch)
            free(blob)
    finally:
        with nogil:
            ahead_close(&redo.ahead, m)
        log.close()
        free(meta)
        idmap_destroy(&redo.fates)
        idmap_destroy(&redo.active)
        while redo.first_doubt != NULL:
            forget_doubt(&redo, redo.first_doubt.txn)
        idmap_destroy(&redo.doubts)
        Py_XDECREF(redo.raised)
        while redo.blobs != NULL:
            blob = redo.blobs
            redo.blobs = blob.next
            free(blob)


cdef int hold_again(TxnManager m) noexcept nogil:
    """The prepared transactions take their locks again, and the room in the log that their ends will need."""
    cdef Txn* t = m.first_prepared
    cdef int status = OK
    while t != NULL and status == OK:
        status = locks_restore(m, t)
        while status == OK and not m.read_only:
            status = m.log.reserve_ends(END_BYTES)
            if status != AGAIN:
                break
            status = m.log.make_room(END_BYTES)
        t = t.promise.next
    return status


cdef object roll_back_losers(TxnManager m, Recovered* out):
    cdef Record r
    cdef Txn* t
    cdef Txn* following
    cdef int status = OK
    out.undo_micros = -monotonic_micros()
    with nogil:
        latch_lock(m.latch)
        # All aborts are logged before anything is undone, and nothing else is logged before them.
        t = m.clock.first_writer
        while t != NULL and status == OK:
            if t.state == TXN_PREPARED:
                out.prepared += 1
                t = t.writer_next
                continue
            out.losers += 1
            if not m.read_only:
                memset(&r, 0, sizeof(Record))
                r.type = R_ABORT
                r.txn = t.id
                status = m.log.reserve(64)
                if status == AGAIN:
                    status = m.log.make_room(64)
                if status == OK:
                    m.log.append(&r)
            t.state = TXN_ABORTING
            t = t.writer_next
        if status == OK:
            status = lsmredo_losers(&out.lsm, m, &out.losers)
        t = m.clock.first_writer
        while t != NULL and status == OK:
            following = t.writer_next
            if t.state != TXN_PREPARED:
                status = finish_undo(m, t, 0, True)
            t = following
        if status == OK:
            status = collect_slowly(m)
        if status == OK:
            status = hold_again(m)
        m.redoing = False
        latch_unlock(m.latch)
    lsmredo_free(&out.lsm)
    out.undo_micros += monotonic_micros()
    if status != OK:
        raise_status(status)
