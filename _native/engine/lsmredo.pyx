"""Recovery of LSM-trees: see lsmredo.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset
from ..base.idmap cimport idmap_destroy, idmap_get, idmap_init, idmap_put
from ..base.status cimport OK, AGAIN, E_NOMEM, E_USAGE, fail, fail_corrupt
from ..index.lsm cimport LsmTree
from ..index.sstable cimport ENTRY_DELETE, ENTRY_PUT
from ..index.tableset cimport Edit, edit_decode, edit_free
from ..log.record cimport Record, R_ABORT, R_COMMIT, R_DELETE, R_DELETE_RANGE, R_EDIT, R_PUT, R_PUT_BLOB, R_ROLLBACK, RECORD_OVERHEAD
from ..page.layout cimport VALUE_BLOB
from ..txn.transaction cimport (CATALOG, LSM_BACKEND, MAX_KEYSPACES, OP_DELETE_BLIND, OP_DELETE_RANGE, OP_PUT, RANGE_UNBOUNDED, Lack, TxnManager,
                                lack_init)
from ..txn.versions cimport Txn

cdef enum:
    LARGEST_VALUE = 1 << 30


cdef int no_memory() noexcept nogil:
    return fail(E_NOMEM, "no memory for what recovery has to know of LSM-trees")


cdef int mark_kind(LsmRedo* l, uint32_t keyspace) noexcept nogil:
    cdef uint64_t room = l.kinds_room if l.kinds_room else 64
    cdef uint8_t* grown
    if keyspace == CATALOG or keyspace >= MAX_KEYSPACES:
        return fail_corrupt("log", -1, "a keyspace id that cannot be", MAX_KEYSPACES, keyspace)
    if keyspace >= l.kinds_room:
        while room <= keyspace:
            room *= 2
        grown = <uint8_t*>realloc(l.kinds, room)
        if grown == NULL:
            return no_memory()
        memset(grown + l.kinds_room, 0, room - l.kinds_room)
        l.kinds = grown
        l.kinds_room = room
    l.kinds[keyspace] = 1
    l.any = True
    return OK


cdef int lsmredo_init(LsmRedo* l, TxnManager m, uint64_t from_lsn, uint64_t edits_end) noexcept nogil:
    cdef uint32_t i
    cdef int status
    memset(l, 0, sizeof(LsmRedo))
    l.from_lsn = from_lsn
    l.edits_end = edits_end
    if idmap_init(&l.index) or idmap_init(&l.blobs):
        return no_memory()
    for i in range(m.next_keyspace):
        if m.trees[i].lsm:
            status = mark_kind(l, i)
            if status != OK:
                return status
    return OK


cdef void lsmredo_free(LsmRedo* l) noexcept nogil:
    cdef LoggedEdit* e
    cdef Undone* u
    cdef Chunks* c
    cdef uint64_t i
    while l.first != NULL:
        e = l.first
        l.first = e.next
        free(e)
    while l.chunks != NULL:
        c = l.chunks
        l.chunks = c.next
        free(c.data)
        free(c)
    for i in range(l.count):
        while l.fates[i].undone != NULL:
            u = l.fates[i].undone
            l.fates[i].undone = u.next
            free(u)
    free(l.fates)
    free(l.kinds)
    idmap_destroy(&l.index)
    idmap_destroy(&l.blobs)
    memset(l, 0, sizeof(LsmRedo))


cdef Fate* fate_of(LsmRedo* l, uint64_t txn) noexcept nogil:
    cdef uint64_t* place = idmap_get(&l.index, txn)
    return &l.fates[place[0] - 1] if place != NULL else NULL


cdef int meet(LsmRedo* l, uint64_t txn) noexcept nogil:
    """The transaction has changed an LSM-tree."""
    cdef Fate* grown
    cdef uint64_t room
    if txn == 0 or idmap_get(&l.index, txn) != NULL:
        return OK
    if l.count == l.room:
        room = l.room * 2 if l.room else 256
        grown = <Fate*>realloc(l.fates, room * sizeof(Fate))
        if grown == NULL:
            return no_memory()
        l.fates = grown
        l.room = room
    memset(&l.fates[l.count], 0, sizeof(Fate))
    l.fates[l.count].txn = txn
    l.count += 1
    return OK if idmap_put(&l.index, txn, l.count) == 0 else no_memory()


cdef inline uint64_t blob_id(uint64_t txn, uint64_t number) noexcept nogil:
    """Names one large value; a clash costs memory, not truth."""
    return (txn * <uint64_t>0x9E3779B97F4A7C15 ^ number * <uint64_t>0xD6E8FEB86659FD93) | 1


cdef int whole_load(LsmRedo* l, const Record* r) noexcept nogil:
    """Of a bulk load whose tables are not here, all pairs are in the log: nothing else of that kind is in its transaction."""
    cdef Fate* f = fate_of(l, r.txn)
    cdef Edit edit
    cdef uint64_t entries = 0
    cdef int i, status = edit_decode(&edit, <const uint8_t*>r.value, r.vlen)
    if status != OK:
        return status
    for i in range(edit.count):
        if edit.items[i].file != NULL:
            entries += edit.items[i].file.info.entries
    edit_free(&edit, True)
    if entries != (f.puts if f != NULL else 0):
        return fail(E_USAGE, "a bulk load of which not everything is in the log: made by ingest(logged=False), or begun before the backup and ended after it. "
                    "Take a new backup behind it")
    return OK


cdef int lsmredo_note(LsmRedo* l, const Record* r) noexcept nogil:
    cdef Fate* f
    cdef Undone* u
    cdef LoggedEdit* e
    if r.type == R_PUT and r.keyspace == CATALOG and r.vlen > 8 and r.value[4] == LSM_BACKEND:
        return mark_kind(l, <uint32_t>(<const uint8_t*>r.value)[0] | <uint32_t>(<const uint8_t*>r.value)[1] << 8
                         | <uint32_t>(<const uint8_t*>r.value)[2] << 16 | <uint32_t>(<const uint8_t*>r.value)[3] << 24)
    if not l.any:
        return OK
    if r.type == R_PUT or r.type == R_DELETE or r.type == R_PUT_BLOB or r.type == R_DELETE_RANGE:
        if not lsmredo_is(l, r.keyspace):
            return OK
        if r.type == R_PUT_BLOB and idmap_put(&l.blobs, blob_id(r.txn, r.a), 1):
            return no_memory()
        if meet(l, r.txn) != OK:
            return no_memory()
        if l.edits_end != <uint64_t>-1 and r.txn:
            fate_of(l, r.txn).puts += 1
        return OK
    if r.type == R_EDIT and r.lsn >= l.edits_end:
        return OK if r.txn == 0 else whole_load(l, r)
    if r.type == R_EDIT:
        if r.txn:                            # a bulk load: the tables count if it committed, and then its pairs are in them
            if meet(l, r.txn) != OK:
                return no_memory()
            fate_of(l, r.txn).loads = r.keyspace
        if r.lsn < l.from_lsn:
            return OK                        # the checkpoint's record has it
        e = <LoggedEdit*>malloc(sizeof(LoggedEdit) + r.vlen)
        if e == NULL:
            return no_memory()
        e.keyspace = r.keyspace
        e.txn = r.txn
        e.size = r.vlen
        e.next = NULL
        memcpy(<char*>e + sizeof(LoggedEdit), r.value, r.vlen)
        if l.last != NULL:
            l.last.next = e
        else:
            l.first = e
        l.last = e
        return OK
    f = fate_of(l, r.txn)
    if f == NULL:
        return OK
    if r.type == R_COMMIT:
        f.commit_ts = r.a
        f.commit_lsn = r.lsn
        f.wall = r.b
    elif r.type == R_ABORT:
        f.aborted = True
    elif r.type == R_ROLLBACK:
        u = <Undone*>malloc(sizeof(Undone))
        if u == NULL:
            return no_memory()
        u.to = r.a
        u.at = r.lsn
        u.next = f.undone
        f.undone = u
    return OK


cdef int lsmredo_edits(LsmRedo* l, TxnManager m, uint32_t keyspace) noexcept nogil:
    cdef LoggedEdit* e = l.first
    cdef Fate* f
    cdef Edit edit
    cdef int status
    if keyspace >= m.next_keyspace or m.trees[keyspace].tree == NULL or not m.trees[keyspace].lsm:
        return OK
    while e != NULL:
        f = fate_of(l, e.txn) if e.txn else NULL
        if e.keyspace == keyspace and (e.txn == 0 or (f != NULL and f.commit_ts)):
            status = edit_decode(&edit, <const uint8_t*>e + sizeof(LoggedEdit), e.size)
            if status != OK:
                return status
            status = (<LsmTree>m.trees[keyspace].tree).restore(&edit)
            edit_free(&edit, True)
            if status != OK:
                return status
        e = e.next
    return OK


cdef bint taken_back(const Fate* f, uint64_t lsn) noexcept nogil:
    cdef Undone* u = f.undone
    while u != NULL:
        if u.to < lsn < u.at:
            return True
        u = u.next
    return False


cdef int make_room(Chunks* c, uint64_t n) noexcept nogil:
    """For n bytes: memory goes by what the log holds, not by the length that it announces."""
    cdef uint64_t room = min(max(n, 2 * c.room), c.length)
    cdef char* grown
    if n <= c.room:
        return OK
    grown = <char*>realloc(c.data, room)
    if grown == NULL:
        return no_memory()
    c.data = grown
    c.room = room
    return OK


cdef bint lsmredo_chunk(LsmRedo* l, const Record* r, int* status) noexcept nogil:
    cdef Chunks* c = l.chunks
    status[0] = OK
    if not l.any or idmap_get(&l.blobs, blob_id(r.txn, r.a)) == NULL:
        return False
    while c != NULL and (c.txn != r.txn or c.number != r.a):
        c = c.next
    if c == NULL:
        if r.b == 0 or r.b > LARGEST_VALUE:
            status[0] = fail_corrupt("log", <long long>r.lsn, "a large value longer than any may be, or of no length", LARGEST_VALUE, r.b)
            return True
        c = <Chunks*>malloc(sizeof(Chunks))
        if c == NULL:
            status[0] = no_memory()
            return True
        c.txn = r.txn
        c.number = r.a
        c.lsn = r.lsn
        c.length = r.b
        c.filled = c.room = 0
        c.data = NULL
        c.next = l.chunks
        l.chunks = c
    if c.filled + r.vlen > c.length:
        status[0] = fail_corrupt("log", <long long>r.lsn, "more chunks than the large value is long", c.length, c.filled + r.vlen)
        return True
    status[0] = make_room(c, c.filled + r.vlen)
    if status[0] == OK and r.vlen:
        memcpy(c.data + c.filled, r.value, r.vlen)
        c.filled += r.vlen
    return True


cdef int replay_range(LsmTree tree, const Record* r, const Fate* f) noexcept nogil:
    """A range of keys goes; what the same transaction had put there before has records of its own."""
    cdef int status = tree.admit(r.klen, r.vlen)
    if status == OK:
        tree.put_range(r.key, r.klen, r.value, r.vlen, r.a != 0, f.commit_ts, r.lsn)
    return status


cdef int replay_change(LsmTree tree, const Record* r, const Fate* f, const Chunks* c) noexcept nogil:
    cdef const char* value = r.value
    cdef size_t vlen = r.vlen
    cdef uint64_t lsn = r.lsn                # from where the log is needed for it
    cdef int status
    if f.commit_lsn < tree.persisted_lsn:
        return OK                            # it is in a table
    if r.klen > tree.max_key or (r.type == R_DELETE_RANGE and r.vlen > tree.max_key):
        return fail_corrupt("log", <long long>r.lsn, "a key longer than any may be", tree.max_key, r.klen)
    if r.type == R_DELETE_RANGE:
        return replay_range(tree, r, f)
    if r.type == R_PUT_BLOB:
        if c == NULL or c.filled != r.b or c.length != r.b:
            return fail_corrupt("log", <long long>r.lsn, "a large value some of whose chunks are missing", r.b, c.filled if c != NULL else 0)
        value = c.data
        vlen = c.length
        lsn = c.lsn
    elif r.type == R_DELETE:
        vlen = 0
    status = tree.admit(r.klen, vlen)
    if status == OK:
        tree.put(r.key, r.klen, f.commit_ts, f.wall if tree.options.ttl else 0, ENTRY_DELETE if r.type == R_DELETE else ENTRY_PUT,
                 value, vlen, True, lsn)
    return status


cdef int replay_doubt(TxnManager m, LsmTree tree, const Record* r, Txn* t, const Chunks* c) noexcept nogil:
    """A change of a transaction that stays in flight."""
    cdef Lack lack
    cdef int op = OP_DELETE_BLIND if r.type == R_DELETE else OP_DELETE_RANGE if r.type == R_DELETE_RANGE else OP_PUT
    if r.klen > tree.max_key or (r.type == R_DELETE_RANGE and r.vlen > tree.max_key):
        return fail_corrupt("log", <long long>r.lsn, "a key longer than any may be", tree.max_key, r.klen)
    lack_init(&lack)
    if r.type != R_PUT_BLOB:
        return m.write(t, op, r.keyspace, r.key, r.klen, r.value, r.vlen, RANGE_UNBOUNDED if r.type == R_DELETE_RANGE and r.a else 0, 0, r.lsn, &lack)
    if c == NULL or c.filled != r.b or c.length != r.b:
        return fail_corrupt("log", <long long>r.lsn, "a large value some of whose chunks are missing", r.b, c.filled if c != NULL else 0)
    t.blob_lsn = c.lsn
    return m.write(t, OP_PUT, r.keyspace, r.key, r.klen, c.data, c.length, VALUE_BLOB, r.a, r.lsn, &lack)


cdef int lsmredo_replay(LsmRedo* l, TxnManager m, const Record* r, Txn* t) noexcept nogil:
    cdef Fate* f = fate_of(l, r.txn)
    cdef Chunks** p = &l.chunks
    cdef Chunks* c = NULL
    cdef int status = OK
    if r.type == R_PUT_BLOB:
        while p[0] != NULL and (p[0].txn != r.txn or p[0].number != r.a):
            p = &p[0].next
        c = p[0]
        if c != NULL:
            p[0] = c.next
    if t != NULL:
        if r.keyspace < m.next_keyspace and m.trees[r.keyspace].tree != NULL and m.trees[r.keyspace].lsm and f != NULL and not taken_back(f, r.lsn):
            status = replay_doubt(m, <LsmTree>m.trees[r.keyspace].tree, r, t, c)
    elif (r.keyspace < m.next_keyspace and m.trees[r.keyspace].tree != NULL and m.trees[r.keyspace].lsm and f != NULL and f.commit_ts != 0
            and f.loads != r.keyspace and not taken_back(f, r.lsn)):
        if f.wall > m.last_wall:
            m.last_wall = f.wall
        status = replay_change(<LsmTree>m.trees[r.keyspace].tree, r, f, c)
    if c != NULL:
        free(c.data)
        free(c)
    return status


cdef int lsmredo_losers(LsmRedo* l, TxnManager m, uint64_t* losers) noexcept nogil:
    cdef uint64_t i
    cdef Txn* t
    cdef Record r
    cdef int status
    for i in range(l.count):
        if l.fates[i].commit_ts or l.fates[i].aborted:
            continue
        t = m.clock.first_writer
        while t != NULL and t.id != l.fates[i].txn:
            t = t.writer_next
        if t != NULL:
            continue                         # it has its abort from who undoes it
        losers[0] += 1
        if m.read_only:
            continue
        memset(&r, 0, sizeof(Record))
        r.type = R_ABORT
        r.txn = l.fates[i].txn
        status = m.log.reserve(RECORD_OVERHEAD)
        if status == AGAIN:
            status = m.log.make_room(RECORD_OVERHEAD)
        if status != OK:
            return status
        m.log.append(&r)
    return OK
