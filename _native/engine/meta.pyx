"""The checkpoint record: see meta.pxd."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc, free
from libc.string cimport memcpy, memmove
from ..base.coding cimport put_varint, get_varint, get64, varint_size, MAX_VARINT
from ..base.latch cimport latch_lock, latch_unlock
from ..base.status cimport OK, ABSENT, AGAIN, E_NOMEM, fail, fail_corrupt, raise_status
from ..index.btree cimport BTree, Path, Cell
from ..index.lsm cimport LsmTree
from ..index.tableset cimport Edit, edit_decode, edit_encode, edit_free, edit_init, edit_size
from ..page.layout cimport VALUE_GHOST
from ..txn.clock cimport writer_enter
from ..txn.prepared cimport LONGEST_XID, locks_valid, prepared_find, promise_locks, promise_restore, promise_xid
from .lsmtree cimport new_lsm, options_encode
from ..txn.transaction cimport (TxnManager, Tree, Lack, lack_init, row_valid, CATALOG_ROW, LSM_ROW, TREE_NONE, TREE_LIVE, TREE_DROPPING)
from ..txn.versions cimport (SERIAL, SNAPSHOT, Txn, Version, TXN_ACTIVE, TXN_ABORTING, TXN_PREPARED, BEFORE_ABSENT, BEFORE_BLOB, LEFT_GHOST, LOCK_ONLY, table_find, table_push, table_reserve,
                             hash_key, version_key, version_value)

cdef enum:
    META_VERSION = 1            # on disk: never change. Without LSM-trees;
    META_LSM = 2                # with them: each tree's backend and, of an LSM-tree, its row's options and its tables follow
    META_PREPARED = 3           # as META_LSM; there are prepared transactions, each with its promise behind its undo
    STATE_ABORTING = 1
    STATE_UNDOING = 2
    STATE_PREPARED = 4


cdef bint room(Buffer* b, size_t n) noexcept nogil:
    cdef size_t size = b.room if b.room else 256
    cdef uint8_t* grown
    if b.failed:
        return False
    if b.used + n <= b.room:
        return True
    while size < b.used + n:
        size *= 2
    grown = <uint8_t*>realloc(b.data, size)
    if grown == NULL:
        b.failed = True
        return False
    b.data = grown
    b.room = size
    return True


cdef void add(Buffer* b, uint64_t v) noexcept nogil:
    if room(b, MAX_VARINT):
        b.used = put_varint(b.data + b.used, v) - b.data


cdef void add_bytes(Buffer* b, const char* p, size_t n) noexcept nogil:
    if n and room(b, n):
        memcpy(b.data + b.used, p, n)
        b.used += n


cdef bint in_flight(Txn* t) noexcept nogil:
    return t != NULL and (t.state == TXN_ACTIVE or t.state == TXN_PREPARED or t.state == TXN_ABORTING)


cdef bint any_lsm(TxnManager m) noexcept nogil:
    cdef uint32_t i
    for i in range(m.next_keyspace):
        if m.trees[i].state != TREE_NONE and m.trees[i].lsm:
            return True
    return False


cdef void add_tables(LsmTree tree, Buffer* out) noexcept nogil:
    cdef Edit e
    cdef size_t n
    cdef char row[LSM_ROW]
    edit_init(&e)
    tree.describe(&e)
    n = edit_size(&e)
    options_encode(&tree.options, row)
    add_bytes(out, row + CATALOG_ROW, LSM_ROW - CATALOG_ROW)
    if e.failed or not room(out, MAX_VARINT + 2 * n + MAX_VARINT):
        out.failed = True
    else:
        n = edit_encode(&e, out.data + out.used + MAX_VARINT)      # its length comes before it, and is known after
        out.used = put_varint(out.data + out.used, n) - out.data
        if n:
            memmove(out.data + out.used, out.data + out.used + MAX_VARINT - varint_size(n), n)
        out.used += n
    edit_free(&e, False)


cdef void add_trees(TxnManager m, Buffer* out, bint lsm) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t n = 0
    cdef Tree* e
    for i in range(m.next_keyspace):
        n += m.trees[i].state != TREE_NONE
    add(out, n)
    for i in range(m.next_keyspace):
        e = &m.trees[i]
        if e.state == TREE_NONE:
            continue
        add(out, i)
        add(out, 0 if e.lsm else (<BTree>e.tree).root)
        if lsm:
            add(out, e.lsm)
            if e.lsm:
                add_tables(<LsmTree>e.tree, out)
        if in_flight(e.created_by) and e.created_by.id == 0:
            # Nothing in the log speaks of it yet: should no record follow, recovery frees it; a record that follows brings it to life.
            add(out, TREE_DROPPING)
            add(out, 0)
            add(out, 0)
            add(out, 0)
            continue
        # A drop whose commit record is in the log already is done; a creation likewise.
        add(out, TREE_DROPPING if e.state == TREE_LIVE and e.dropped_by != NULL and not in_flight(e.dropped_by) else e.state)
        add(out, e.created_by.id if in_flight(e.created_by) else 0)
        add(out, e.dropped_by.id if in_flight(e.dropped_by) else 0)
        add(out, e.creation_lsn)


cdef void add_orphans(TxnManager m, Txn* t, Buffer* blobs, Buffer* ghosts, uint64_t* nblobs, uint64_t* nghosts) noexcept nogil:
    cdef Version* v = t.newest
    while v != NULL:
        if v.linked and not v.flags & LOCK_ONLY:
            if v.flags & BEFORE_BLOB:
                add(blobs, get64(version_value(v)))
                nblobs[0] += 1
            if v.flags & LEFT_GHOST and table_find(&m.table, v.hash, v.keyspace, version_key(v), v.klen) == v:
                add(ghosts, v.keyspace)
                add(ghosts, v.klen)
                add_bytes(ghosts, version_key(v), v.klen)
                nghosts[0] += 1
        v = v.previous


cdef inline bint has_image(TxnManager m, Version* v) noexcept nogil:
    """Whether the checkpoint must know it: LSM-trees need no undo."""
    return v.linked and not v.flags & LOCK_ONLY and not m.trees[v.keyspace].lsm


cdef void add_transaction(TxnManager m, Txn* t, Buffer* out) noexcept nogil:
    cdef Version* v
    cdef uint64_t n = 0
    add(out, t.id)
    add(out, t.first_lsn)
    add(out, t.last_lsn)
    add(out, STATE_ABORTING if t.state == TXN_ABORTING else STATE_PREPARED if t.state == TXN_PREPARED else STATE_UNDOING if t.undoing else 0)
    add(out, t.undo_to)
    add(out, t.keyspaces)
    add(out, t.catalog)
    v = t.newest
    while v != NULL:
        if has_image(m, v):
            n += 1
        v = v.previous
    add(out, n)
    v = t.newest
    while v != NULL:             # newest first, as the list goes; decoding reverses it
        if has_image(m, v):
            add(out, v.lsn)
            add(out, v.keyspace)
            add(out, v.flags)
            add(out, v.klen)
            add(out, v.vlen)
            add_bytes(out, version_key(v), v.klen)
            add_bytes(out, version_value(v), v.vlen)
        v = v.previous
    if t.state == TXN_PREPARED:
        add(out, t.level)
        add(out, t.promise.wall)
        add(out, t.promise.lsn)
        add(out, t.promise.xid_len)
        add_bytes(out, promise_xid(t.promise), t.promise.xid_len)
        add(out, t.promise.locks_len)
        add_bytes(out, <const char*>promise_locks(t.promise), t.promise.locks_len)


cdef int meta_encode(TxnManager m, uint64_t checkpoint_lsn, Buffer* out) noexcept nogil:
    cdef Buffer blobs, ghosts
    cdef uint64_t nblobs = 0, nghosts = 0, n = 0, chunks = checkpoint_lsn
    cdef bint lsm = any_lsm(m)
    cdef uint32_t i
    cdef Txn* t
    blobs.data = ghosts.data = out.data = NULL
    blobs.used = ghosts.used = out.used = blobs.room = ghosts.room = out.room = 0
    blobs.failed = ghosts.failed = out.failed = False
    t = m.garbage
    while t != NULL:
        add_orphans(m, t, &blobs, &ghosts, &nblobs, &nghosts)
        t = t.writer_next
    t = m.clock.first_writer
    while t != NULL:
        if in_flight(t):
            n += 1
            if t.blob_lsn and t.blob_lsn < chunks:
                chunks = t.blob_lsn
            if t.blob_pid:
                add(&blobs, t.blob_pid)
                nblobs += 1
        else:
            add_orphans(m, t, &blobs, &ghosts, &nblobs, &nghosts)
        t = t.writer_next
    for i in range(m.next_keyspace):
        if m.trees[i].state != TREE_NONE and m.trees[i].lsm and (<LsmTree>m.trees[i].tree).log_needed() < chunks:
            chunks = (<LsmTree>m.trees[i].tree).log_needed()
    add(out, META_PREPARED if m.first_prepared != NULL else META_LSM if lsm else META_VERSION)
    add(out, chunks)
    out.keep = chunks
    add_trees(m, out, lsm or m.first_prepared != NULL)
    add(out, nblobs)
    add_bytes(out, <char*>blobs.data, blobs.used)
    add(out, nghosts)
    add_bytes(out, <char*>ghosts.data, ghosts.used)
    add(out, n)
    t = m.clock.first_writer
    while t != NULL:
        if in_flight(t):
            add_transaction(m, t, out)
        t = t.writer_next
    free(blobs.data)
    free(ghosts.data)
    if out.failed or blobs.failed or ghosts.failed:
        return fail(E_NOMEM, "no memory for the checkpoint's record")
    return OK


cdef struct Reader:
    const uint8_t* p
    const uint8_t* end
    bint bad


cdef uint64_t take(Reader* r) noexcept nogil:
    cdef uint64_t v = 0
    cdef const uint8_t* q
    if r.bad:
        return 0
    q = get_varint(r.p, r.end, &v)
    if q == NULL:
        r.bad = True
        return 0
    r.p = q
    return v


cdef const char* take_bytes(Reader* r, uint64_t n) noexcept nogil:
    cdef const uint8_t* p = r.p
    if r.bad or n > <uint64_t>(r.end - r.p):
        r.bad = True
        return NULL
    r.p += n
    return <const char*>p


cdef object bad_meta(const char* what):
    raise_status(fail_corrupt("pages.dat", -1, what, META_VERSION, 0))


cdef object drop_ghost(TxnManager m, uint32_t keyspace, const char* key, size_t klen):
    cdef Lack lack
    cdef Path path
    cdef Cell cell
    cdef int status
    if keyspace >= m.next_keyspace or m.trees[keyspace].state != TREE_LIVE or m.trees[keyspace].lsm:
        return
    if klen > (<BTree>m.trees[keyspace].tree).max_key:
        bad_meta(b"the checkpoint's record names a key longer than any may be")
    lack_init(&lack)
    with nogil:
        latch_lock(m.latch)
        while True:
            status = (<BTree>m.trees[keyspace].tree).prepare(key, klen, 0, &path, &cell, &lack.need)
            if status != AGAIN:
                break
            status = m.secure(NULL, &lack)
            if status != OK:
                break
        if status == OK and cell.flags & VALUE_GHOST:
            (<BTree>m.trees[keyspace].tree).apply_remove(&path, 0)
        m.settle(&lack)
        latch_unlock(m.latch)
    if status != OK and status != ABSENT:
        raise_status(status)


cdef int push_undo(TxnManager m, Txn* t, Reader* r, uint64_t n, bint chain) noexcept nogil:
    """Reads n before-images (newest first) and pushes them oldest first."""
    cdef const uint8_t** starts
    cdef uint64_t i, lsn, keyspace, flags, klen, vlen, hash
    cdef const char* key
    cdef const char* value
    cdef Reader s
    if n > <uint64_t>(r.end - r.p):
        r.bad = True
        return OK
    starts = <const uint8_t**>realloc(NULL, (n + 1) * sizeof(void*))
    if starts == NULL:
        return fail(E_NOMEM, "no memory for the undo of a transaction in flight")
    for i in range(n):
        starts[i] = r.p
        take(r)
        take(r)
        take(r)
        klen = take(r)
        vlen = take(r)
        take_bytes(r, klen)
        take_bytes(r, vlen)
    s.end = r.end
    s.bad = r.bad
    i = n
    while i > 0 and not s.bad:
        i -= 1
        s.p = starts[i]
        lsn = take(&s)
        keyspace = take(&s)
        flags = take(&s)
        klen = take(&s)
        vlen = take(&s)
        key = take_bytes(&s, klen)
        value = take_bytes(&s, vlen)
        if (s.bad or lsn == 0 or keyspace >= m.next_keyspace or flags & LOCK_ONLY or (flags & BEFORE_BLOB and vlen != 16)
                or m.trees[keyspace].lsm or m.trees[keyspace].tree == NULL
                or klen > (<BTree>m.trees[keyspace].tree).max_key or klen + vlen > (<BTree>m.trees[keyspace].tree).max_inline
                or (keyspace == 0 and not flags & BEFORE_ABSENT and not row_valid(value, vlen))):
            r.bad = True
            break
        hash = hash_key(<uint32_t>keyspace, key, klen)
        if table_reserve(&m.table, t, klen, vlen) != OK:
            free(<void*>starts)
            return E_NOMEM
        table_push(&m.table, t, table_find(&m.table, hash, <uint32_t>keyspace, key, klen), hash, <uint32_t>keyspace, key, klen,
                   <uint16_t>flags, value, vlen, lsn)
    free(<void*>starts)
    return OK


cdef int take_promise(TxnManager m, Txn* t, Reader* r) noexcept nogil:
    cdef uint64_t level = take(r), wall = take(r), lsn = take(r), n = take(r), locks_len
    cdef const char* xid = take_bytes(r, n)
    cdef const char* locks
    locks_len = take(r)
    locks = take_bytes(r, locks_len)
    if r.bad or level > SERIAL or n > LONGEST_XID or not locks_valid(<const uint8_t*>locks, locks_len) or prepared_find(m, xid, n) != NULL:
        r.bad = True
        return OK
    return promise_restore(m, t, xid, n, <int>level, wall, lsn, <const uint8_t*>locks, locks_len)


cdef object meta_decode(TxnManager m, const uint8_t* data, size_t n, uint64_t checkpoint_lsn, uint64_t* read_from):
    cdef Reader r, ghosts
    cdef uint64_t _i, count, id, root, state, created, dropped, creation, nghosts, version, lsm, size
    cdef const char* options
    cdef const char* tables
    cdef Edit edit
    cdef LsmTree store
    cdef object tree_object
    cdef Txn* t
    cdef dict owners = {}
    cdef int status
    r.p = data
    r.end = data + n
    r.bad = False
    version = take(&r)
    if version < META_VERSION or version > META_PREPARED:
        bad_meta(b"the checkpoint's record has an unknown version")
    read_from[0] = take(&r)
    if read_from[0] > checkpoint_lsn:
        bad_meta(b"the checkpoint's record contradicts the superblock")
    count = take(&r)
    for _i in range(count):
        id = take(&r)
        root = take(&r)
        lsm = take(&r) if version != META_VERSION else 0
        options = tables = NULL
        size = 0
        if lsm:
            options = take_bytes(&r, LSM_ROW - CATALOG_ROW)
            size = take(&r)
            tables = take_bytes(&r, size)
        state = take(&r)
        created = take(&r)
        dropped = take(&r)
        creation = take(&r)
        if r.bad or id >= m.next_keyspace or state not in (TREE_LIVE, TREE_DROPPING) or m.trees[id].tree != NULL:
            bad_meta(b"the checkpoint's table of trees is malformed")
        if lsm:
            if lsm != 1:
                bad_meta(b"the checkpoint's table of trees names an unknown kind of tree")
            store = new_lsm(m, <uint32_t>id, options)
            status = edit_decode(&edit, <const uint8_t*>tables, size)
            if status == OK:
                status = store.restore(&edit)
                edit_free(&edit, True)
            if status != OK:
                raise_status(status)
            tree_object = store
            m.trees[id].lsm = True
        else:
            tree_object = BTree(m.pool, <uint32_t>id, root)
        m.tree_objects.append(tree_object)
        m.trees[id].tree = <void*>tree_object
        m.trees[id].state = <int>state
        m.trees[id].creation_lsn = creation
        m.dropping += state == TREE_DROPPING
        if created or dropped:
            owners[id] = (created, dropped)
    if m.trees[0].tree == NULL or m.trees[0].lsm or m.trees[0].state != TREE_LIVE:
        bad_meta(b"the checkpoint has no catalogue")
    count = take(&r)
    for _i in range(count):
        if r.bad:
            break
        m.pool.forget(take(&r))
    nghosts = take(&r)
    ghosts = r
    for _i in range(nghosts):
        if r.bad:
            break
        take(&r)
        take_bytes(&r, take(&r))
    count = take(&r)
    by_id = {}
    for _i in range(count):
        if r.bad:
            break
        t = m.begin(False, 0, -1, False, SNAPSHOT)
        if t == NULL:
            raise MemoryError("no memory for a transaction in flight")
        t.handle = False
        t.id = take(&r)
        t.first_lsn = take(&r)
        t.last_lsn = take(&r)
        state = take(&r)
        t.undo_to = take(&r)
        t.keyspaces = take(&r)
        t.catalog = take(&r) != 0
        t.undoing = state == STATE_ABORTING or state == STATE_UNDOING
        writer_enter(&m.clock, t)
        if t.id == 0 or t.id >> 62 or (state == STATE_ABORTING and t.undo_to != 0):
            r.bad = True
        if state == STATE_ABORTING:
            t.state = TXN_ABORTING
        status = push_undo(m, t, &r, take(&r), True)
        if status == OK and state == STATE_PREPARED:
            status = take_promise(m, t, &r)
        if status != OK:
            raise_status(status)
        by_id[t.id] = <size_t>t
    if r.bad or r.p != r.end:
        bad_meta(b"the checkpoint's record is cut short or malformed")
    for id, (created, dropped) in owners.items():
        if (created and created not in by_id) or (dropped and dropped not in by_id):
            bad_meta(b"the checkpoint's record names a transaction it does not hold")
        m.trees[id].created_by = <Txn*><size_t>by_id[created] if created else NULL
        m.trees[id].dropped_by = <Txn*><size_t>by_id[dropped] if dropped else NULL
        for end in (created, dropped):
            if end:
                (<Txn*><size_t>by_id[end]).catalog = True
    for _i in range(nghosts):
        id = take(&ghosts)
        count = take(&ghosts)
        drop_ghost(m, <uint32_t>id, take_bytes(&ghosts, count), count)
