"""The set of predicates: see predset.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from ..base.status cimport OK, ABSENT, E_NOMEM, fail
from ..index.btree cimport BTree, Cell
from ..index.memtable cimport MemEntry, mem_value
from ..index.sstable cimport ENTRY_PUT
from ..page.layout cimport VALUE_BLOB, VALUE_GHOST
from .conflicts cimport ssi_overwrites
from .deadlock cimport leads_to
from .holds cimport HOLD_EXCLUSIVE, Span, span_holds, spans_meet
from .lsmops cimport InFlight
from .transaction cimport Lack, TxnManager, must_queue
from .versions cimport (BEFORE_ABSENT, BEFORE_BLOB, LOCKING, LOCK_ONLY, TXN_ABORTED, TXN_ABORTING, TXN_COMMITTED, Sxact, Txn, Version, table_find, version_key,
                        version_value)


cdef void count_bits(TxnManager m) noexcept nogil:
    cdef Predicate* p = <Predicate*>m.predicates
    m.predicate_keyspaces = 0
    while p != NULL:
        m.predicate_keyspaces |= <uint64_t>1 << (p.keyspace & 63)
        p = p.next


cdef int predicate_add(TxnManager m, Txn* t, uint64_t number, uint32_t keyspace, const Span* span, bint update) noexcept nogil:
    cdef size_t high_len = 0 if span.unbounded else span.high_len
    cdef Predicate* p = <Predicate*>malloc(sizeof(Predicate) + span.low_len + high_len)
    if p == NULL:
        return fail(E_NOMEM, "no memory for a predicate")
    m.predicate_edition += 1
    p.number = number
    p.txn = t if t.level == LOCKING else NULL
    p.sx = NULL if t.level == LOCKING else t.sx
    p.update = update
    p.granted = p.sx != NULL
    p.keyspace = keyspace
    p.span = span[0]
    p.span.low = <char*>p + sizeof(Predicate)
    p.span.high = p.span.low + span.low_len
    memcpy(<char*>p.span.low, span.low, span.low_len)
    if high_len:
        memcpy(<char*>p.span.high, span.high, high_len)
    p.next = <Predicate*>m.predicates
    m.predicates = p
    m.predicate_keyspaces |= <uint64_t>1 << (keyspace & 63)
    if t.level == LOCKING:
        t.predicates = True
    else:
        t.sx.predicates = True
    return OK


cdef void predicates_drop(TxnManager m, Txn* t, Sxact* sx) noexcept nogil:
    cdef Predicate** at = <Predicate**>&m.predicates
    cdef Predicate* p
    while at[0] != NULL:
        p = at[0]
        if (t != NULL and p.txn == t) or (sx != NULL and p.sx == sx):
            at[0] = p.next
            free(p)
        else:
            at = &p.next
    count_bits(m)


cdef void predicates_free(TxnManager m) noexcept nogil:
    cdef Predicate* p
    while m.predicates != NULL:
        p = <Predicate*>m.predicates
        m.predicates = p.next
        free(p)


cdef int predicates_meet(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Lack* lack) noexcept nogil:
    cdef Predicate* p = <Predicate*>m.predicates
    cdef int status = OK
    while p != NULL and status == OK:
        if p.keyspace == keyspace and p.txn != t and spans_meet(&p.span, span):
            if predicate_keeps_out(p, t, keyspace):
                return must_queue(lack, p.txn, HOLD_EXCLUSIVE, keyspace, span)
            if p.sx != NULL:
                status = ssi_overwrites(m, p.sx, t, True)
        p = p.next
    return status


cdef Predicate* predicate_find(TxnManager m, uint64_t number) noexcept nogil:
    cdef Predicate* p = <Predicate*>m.predicates
    while p != NULL and p.number != number:
        p = p.next
    return p


cdef size_t predicates_for(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, uint64_t* numbers, size_t most) noexcept nogil:
    cdef Predicate* p = <Predicate*>m.predicates
    cdef size_t n = 0
    while p != NULL:
        if (p.keyspace == keyspace and p.txn != t and (p.txn != NULL or (t.sx != NULL and p.sx != t.sx)) and spans_meet(&p.span, span)):
            if n < most:
                numbers[n] = p.number
            n += 1
        p = p.next
    return n


cdef int add_image(Images* images, uint64_t owner, const char* key, uint32_t klen, const char* value, uint32_t vlen, bint unknown) noexcept nogil:
    cdef size_t n = sizeof(Image) + klen + vlen
    cdef char* grown
    cdef Image image
    if images.used + n > images.room:
        grown = <char*>realloc(images.bytes, (images.room + n) * 2)
        if grown == NULL:
            return fail(E_NOMEM, "no memory to test a predicate")
        images.bytes = grown
        images.room = (images.room + n) * 2
    image.owner = owner
    image.klen = klen
    image.vlen = vlen
    image.unknown = unknown
    memcpy(images.bytes + images.used, &image, sizeof(Image))
    memcpy(images.bytes + images.used + sizeof(Image), key, klen)
    if vlen:
        memcpy(images.bytes + images.used + sizeof(Image) + klen, value, vlen)
    images.used += n
    return OK


cdef int before_image(Images* images, uint64_t owner, Version* v) noexcept nogil:
    if v.flags & BEFORE_ABSENT:
        return OK
    if v.flags & BEFORE_BLOB:
        return add_image(images, owner, version_key(v), v.klen, NULL, 0, True)
    return add_image(images, owner, version_key(v), v.klen, version_value(v), v.vlen, False)


cdef int images_of_version(TxnManager m, Version* v, Images* images, Lack* lack) noexcept nogil:
    """What the key held before that change of a B-tree, and after it."""
    cdef uint64_t owner = v.owner.number
    cdef Version* newer = table_find(&m.table, v.hash, v.keyspace, version_key(v), v.klen)
    cdef Cell cell
    cdef int status = before_image(images, owner, v)
    if status != OK:
        return status
    if newer != v:
        while newer.older != v:
            newer = newer.older
        return before_image(images, owner, newer)
    status = (<BTree>m.trees[v.keyspace].tree).find(version_key(v), v.klen, &cell, &lack.need)
    if status == ABSENT or (status == OK and cell.flags & VALUE_GHOST):
        return OK
    if status != OK:
        return status
    if cell.flags & VALUE_BLOB:
        return add_image(images, owner, version_key(v), v.klen, NULL, 0, True)
    return add_image(images, owner, version_key(v), v.klen, cell.value, cell.vlen, False)


cdef int images_of_entry(Version* v, Images* images) noexcept nogil:
    """What an LSM-tree's key holds after a change in flight; what it held before is read by the caller. Of a committed change neither is at hand."""
    cdef InFlight f
    cdef MemEntry* e
    if v.owner.state == TXN_COMMITTED:
        return add_image(images, v.owner.number, version_key(v), v.klen, NULL, 0, True)
    memcpy(&f, version_value(v), sizeof(InFlight))
    e = f.entry
    if e.kind != ENTRY_PUT:
        return add_image(images, v.owner.number, version_key(v), v.klen, NULL, 0, False)
    return add_image(images, v.owner.number, version_key(v), v.klen, mem_value(e), e.vlen, False)


cdef int images_of(TxnManager m, Txn* other, uint32_t keyspace, const Span* span, Images* images, Lack* lack) noexcept nogil:
    cdef Version* v = other.newest
    cdef int status = OK
    while v != NULL and status == OK:
        if v.linked and v.keyspace == keyspace and not v.flags & LOCK_ONLY and span_holds(span, version_key(v), v.klen):
            status = images_of_entry(v, images) if m.trees[keyspace].lsm else images_of_version(m, v, images, lack)
        v = v.previous
    return status


cdef int images_of_others(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Images* images, Lack* lack) noexcept nogil:
    cdef Txn* other = m.clock.first_writer
    cdef int status = OK
    images.used = 0
    while other != NULL and status == OK:
        if (other != t and other.keyspaces & (<uint64_t>1 << (keyspace & 63)) and other.state != TXN_COMMITTED
                and (t.level == LOCKING or (other.sx != NULL and other.state != TXN_ABORTING and other.state != TXN_ABORTED))):
            status = images_of(m, other, keyspace, span, images, lack)
        other = other.writer_next
    if t.level == LOCKING:
        return status
    other = m.garbage_tail
    while other != NULL and status == OK and other.commit_ts > t.snapshot:
        if other.sx != NULL:
            status = images_of(m, other, keyspace, span, images, lack)
        other = other.writer_prev
    return status


cdef bint predicate_keeps_out(Predicate* p, Txn* t, uint32_t keyspace) noexcept nogil:
    # One that waits is in the way of newcomers only: it may be waiting for t, and looks at what t has done when that is over.
    return p.txn != NULL and (p.granted or not (t.keyspaces & (<uint64_t>1 << (keyspace & 63)) or leads_to(p.txn, t)))


cdef void predicate_grant(TxnManager m, uint64_t number, bint granted) noexcept nogil:
    cdef Predicate* p = predicate_find(m, number)
    if p != NULL:
        p.granted = granted
        m.predicate_edition += 1


cdef bint covers_of(TxnManager m, uint64_t number) noexcept nogil:
    cdef Sxact* sx = sxact_numbered(m, number)
    cdef Txn* t = m.clock.oldest_snapshot
    if sx != NULL:
        return sx.covers
    while t != NULL and t.number != number:
        t = t.snap_next
    return t != NULL and t.covers


cdef Txn* writer_numbered(TxnManager m, uint64_t number) noexcept nogil:
    cdef Txn* t = m.clock.first_writer
    while t != NULL and t.number != number:
        t = t.writer_next
    return t


cdef Sxact* sxact_numbered(TxnManager m, uint64_t number) noexcept nogil:
    cdef Sxact* sx = m.ssi_active
    while sx != NULL and sx.number != number:
        sx = sx.next
    if sx == NULL:
        sx = m.ssi_done_last
        while sx != NULL and sx.number != number:
            sx = sx.back
    return sx
