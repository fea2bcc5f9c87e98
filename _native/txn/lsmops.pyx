"""Transactions over LSM-trees: see lsmops.pxd."""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from ..base.coding cimport compare_bytes
from ..base.latch cimport condition_broadcast, condition_wait, monotonic_micros, wall_micros
from ..base.status cimport OK, ABSENT, AGAIN, E_CLOSED, E_CONFLICT, E_FULL, E_INTERRUPT, E_LOG, E_NOMEM, E_TOO_LARGE, fail, fail_n
from ..index.compaction cimport MOST_SNAPSHOTS, Horizon, compaction_run, flush_oldest
from ..index.lsm cimport RUNS_SLOW, RUNS_STOP, SEALED_MOST, LsmTree
from ..index.memtable cimport (IN_FLIGHT, MemEntry, MemTable, mem_value, memtable_drop_range, memtable_free, memtable_new, memtable_pop, memtable_put,
                               memtable_put_range, memtable_reserve, memtable_stamp, memtable_warm)
from ..index.pick cimport Pick, compaction_pick
from ..index.sstable cimport ENTRY_DELETE, ENTRY_PUT, Entry
from ..log.record cimport R_DELETE, R_DELETE_RANGE, R_PUT, R_PUT_BLOB, RECORD_OVERHEAD, Record
from ..page.layout cimport VALUE_BLOB
from .blob cimport BLOB_CHUNK
from .clock cimport clock_horizon
from .conflicts cimport ssi_conflict, ssi_follows, ssi_wrote
from .deadlock cimport WAIT_SLICE
from .garbage cimport prune
from .holds cimport HOLD_EXCLUSIVE, HOLD_UPDATE, Span, span_between
from .images cimport log_record_with_image
from .isolation cimport isolate_read
from .locks cimport lock_for_write, lock_span_for_write
from .transaction cimport OP_DELETE, OP_LOCK, OP_PUT, Found, Lack, TxnManager, must_wait
from .versions cimport (COMMUTES, LOCK_ONLY, SERIAL, TXN_ABORTING, TXN_ACTIVE, TXN_COMMITTED, TXN_PREPARED, TXN_UNKNOWN, RangeLock, Txn, Version, hash_key, loses_to, not_lock_only, table_find, table_push, table_reserve,
                        version_key, version_value)

cdef enum:
    SLOW_RATE = 48 << 20           # bytes a second that writers may put when slowing begins
    SLOWEST_RATE = 1 << 20         # and just before they stop
    DELAY_WORTH = 1000             # microseconds of delay that are worth waiting for at once


cdef uint64_t wall_now(TxnManager m) noexcept nogil:
    cdef uint64_t now = <uint64_t>wall_micros()
    if now > m.last_wall:
        m.last_wall = now
    return m.last_wall


cdef uint64_t wall_of(TxnManager m, Txn* t) noexcept nogil:
    if t == NULL or not t.in_snapshots:
        return wall_now(m)
    if t.wall == 0:
        t.wall = wall_now(m)
    return t.wall


cdef uint64_t lsm_mark(const Txn* t) noexcept nogil:
    return IN_FLIGHT | t.id if t != NULL and t.id != 0 else 0


cdef inline uint64_t newest_for(TxnManager m, const Txn* t) noexcept nogil:
    """The timestamp to read at: of the snapshot, or of the newest visible commit for one without."""
    return t.snapshot if t != NULL and t.snapshot != <uint64_t>-1 else m.clock.visible_ts


cdef inline InFlight in_flight_of(Version* v) noexcept nogil:
    cdef InFlight f
    memcpy(&f, version_value(v), sizeof(InFlight))
    return f


cdef inline MemEntry* entry_of(Version* v) noexcept nogil:
    return in_flight_of(v).entry


cdef inline void set_in_flight(Version* v, MemEntry* e, uint64_t needed) noexcept nogil:
    cdef InFlight f
    f.entry = e
    f.needed = needed
    memcpy(version_value(v), &f, sizeof(InFlight))


cdef int lsm_read(TxnManager m, Txn* t, LsmTree tree, const char* key, size_t klen, Found* out, Lack* lack) noexcept nogil:
    cdef Entry e
    cdef uint64_t now = wall_of(m, t) if tree.options.ttl else 0
    cdef int status = tree.find(key, klen, newest_for(m, t), lsm_mark(t), now, &e, &lack.blocks)
    if status == OK:
        out.value = e.value
        out.vlen = e.vlen
        out.blob = False
    return status


cdef int lsm_read_many(TxnManager m, Txn* t, LsmTree tree, const char** keys, const size_t* klens, int* n, Found* out, int* statuses,
                       Lack* lack) noexcept nogil:
    cdef int i
    memtable_warm(tree.active, keys, klens, n[0])
    tree.prefetch(keys, klens, n[0])
    for i in range(n[0]):
        statuses[i] = lsm_read(m, t, tree, keys[i], klens[i], &out[i], lack)
        if statuses[i] == AGAIN and i > 0:
            n[0] = i
            return OK
        if statuses[i] != OK and statuses[i] != ABSENT:
            return statuses[i]
    return OK


cdef int lsm_log_value(TxnManager m, Txn* t, const char* data, size_t n, uint64_t* number, Lack* lack) noexcept nogil:
    cdef size_t done = 0, piece
    cdef int status = OK
    t.blobs += 1
    number[0] = t.blobs
    while done < n and status == OK:
        piece = n - done if n - done < BLOB_CHUNK else BLOB_CHUNK
        while True:
            status = m.log_chunk(t, number[0], n, data + done, piece, lack)
            if status != AGAIN:
                break
            status = m.secure(t, lack)
            if status != OK:
                break
        done += piece
    if status != OK:
        t.blob_lsn = 0
    return status


cdef int under_pressure(LsmTree tree, size_t bytes, Lack* lack) noexcept nogil:
    """Level 0 grows faster than it is merged: writers are slowed, the more the nearer it is to where they have to stop."""
    cdef int64_t now
    cdef uint64_t rate
    cdef int runs = tree.set.runs
    if runs >= RUNS_STOP:
        lack.stall = <void*>tree
        lack.delay = 0
        return AGAIN
    rate = SLOW_RATE - <uint64_t>(SLOW_RATE - SLOWEST_RATE) * <uint64_t>(runs - RUNS_SLOW) // <uint64_t>(RUNS_STOP - RUNS_SLOW)
    now = monotonic_micros()
    if tree.next_put < now:
        tree.next_put = now
    if tree.next_put - now >= DELAY_WORTH:
        lack.stall = <void*>tree
        lack.delay = tree.next_put - now
        return AGAIN
    tree.next_put += <int64_t>(bytes * 1000000 // rate)
    return OK


cdef int catch_up(TxnManager m, Txn* t, LsmTree tree, int64_t delay) noexcept nogil:
    """Waits for an LSM-tree's background work, a little at a time so that signals are met; where no thread does that work, does a piece of it."""
    cdef int64_t began = monotonic_micros()
    cdef Horizon horizon
    cdef Pick pick
    cdef int status = OK
    if m.failed or m.log.failed:
        return fail(E_LOG, "the log has failed: the database refuses writes until it is opened again")
    if m.lsm_helpless and delay == 0:
        lsm_horizon(m, &horizon)
        status = flush_oldest(tree, m.log, &horizon, &m.lsm_own)
        if status == ABSENT:
            status = OK
            if compaction_pick(tree, False, horizon.stamps[0], horizon.now, &pick):
                status = compaction_run(tree, m.log, &pick, &horizon, &m.lsm_own)
        return OK if status == ABSENT else status
    condition_broadcast(&m.lsm_moved)
    if delay:
        tree.tally.slowdowns += 1
        condition_wait(&m.lsm_delays, m.latch, delay if delay < WAIT_SLICE else WAIT_SLICE)
        tree.tally.slowdown_micros += monotonic_micros() - began
        return OK
    tree.tally.stalls += 1
    condition_wait(&m.lsm_moved, m.latch, WAIT_SLICE)
    tree.tally.stall_micros += monotonic_micros() - began
    if m.closing:
        return fail(E_CLOSED, "the database was closed while a write waited for background work")
    return tree.last_failure if tree.last_failure == E_FULL else E_INTERRUPT


cdef int make_way(TxnManager m, LsmTree tree, size_t bytes, Lack* lack) noexcept nogil:
    """Before a change of so many bytes: a full memtable is sealed; AGAIN while background work is behind."""
    cdef int status
    if tree.full():
        if tree.sealed_count >= SEALED_MOST:
            lack.stall = <void*>tree
            lack.delay = 0
            return AGAIN
        status = lsm_seal(m, tree)
        if status != OK:
            return status
    return under_pressure(tree, bytes, lack) if tree.set.runs >= RUNS_SLOW else OK


cdef int lsm_write(TxnManager m, Txn* t, LsmTree tree, int op, uint32_t keyspace, const char* key, size_t klen, const char* value, size_t vlen,
                   uint16_t flags, uint64_t blob_number, uint64_t lsn, Lack* lack) noexcept nogil:
    # In redo, which comes here for prepared transactions only, everything it may do has been found out before, and `lsn` is the record's.
    cdef Version* head
    cdef Version* pruned
    cdef InFlight change
    cdef Entry seen
    cdef Record r
    cdef size_t logged
    cdef uint64_t hash = hash_key(keyspace, key, klen)
    cdef bint fresh = True, present = False, redoing = m.redoing
    cdef int status, images = 0 if redoing else m.trees[keyspace].images
    if tree.damaged:
        return tree.damage_status()
    if op == OP_DELETE and t.watched:                # it says whether the key was there
        status = isolate_read(m, t, keyspace, key, klen, lack)
        if status != OK:
            return status
    if m.range_locks != NULL and not redoing:
        status = ranges_meet(m, t, keyspace, key, klen, key, klen, True, False, lack)
        if status != OK:
            return status
    head = table_find(&m.table, hash, keyspace, key, klen)
    if head != NULL:
        status = m.claim(t, head, &fresh, lack)
        if status == OK and t.commuting and t.sx != NULL and op == OP_LOCK:
            status = ssi_follows(m, t, head)
        if status != OK:
            return status
    if (op == OP_DELETE and not redoing) or (images and op != OP_LOCK):
        # The row is ours or free, so the newest state is what this transaction would see.
        status = tree.find(key, klen, m.clock.visible_ts if t.level != SERIAL else t.snapshot, lsm_mark(t), wall_of(m, t) if tree.options.ttl else 0, &seen, &lack.blocks)
        present = status == OK
        if status != OK and (status != ABSENT or op == OP_DELETE):
            return status
    if op == OP_LOCK and not fresh:
        return OK
    if (m.holds.count or m.first_request != NULL) and not redoing:
        status = lock_for_write(m, t, HOLD_UPDATE if op == OP_LOCK else HOLD_EXCLUSIVE, head != NULL and head.owner == t, keyspace, hash, key, klen, lack)
        if status != OK:
            return status
    if fresh:
        if t.bytes > m.transaction_budget and not redoing:
            return fail_n(E_TOO_LARGE, "the transaction keeps %lld bytes to be undone, over transaction_budget = %lld",
                          <int64_t>t.bytes, <int64_t>m.transaction_budget)
        status = table_reserve(&m.table, t, klen, sizeof(InFlight))
        if status != OK:
            return status
    if redoing:
        status = tree.admit(klen, vlen)
        if status != OK:
            return status
    elif op != OP_LOCK:
        status = make_way(m, tree, klen + vlen, lack)
        if status != OK:
            return status
        status = tree.admit(klen, vlen)
        if status != OK:
            return status
        if images or flags & VALUE_BLOB:
            memset(&r, 0, sizeof(Record))
            r.type = R_DELETE if op != OP_PUT else R_PUT_BLOB if flags & VALUE_BLOB else R_PUT
            r.keyspace = keyspace
            r.key = key
            r.klen = klen
            if r.type == R_PUT_BLOB:
                r.a = blob_number
                r.b = vlen
            elif op == OP_PUT:
                r.value = value
                r.vlen = vlen
        if images:
            status = log_record_with_image(m, t, images, &r, present, seen.value, seen.vlen, False, &lsn, lack)
            if status != OK:
                return status
        else:
            logged = klen + RECORD_OVERHEAD + (0 if flags & VALUE_BLOB else vlen)
            status = m.log.reserve(logged)
            if status != OK:
                lack.log_bytes = logged
                return status
            if t.id == 0:
                status = m.start_writing(t, lack)
                if status != OK:
                    return status
            if flags & VALUE_BLOB:
                r.txn = t.id
                lsn = m.log.append(&r)
            else:
                lsn = m.append(t, OP_PUT if op == OP_PUT else OP_DELETE, keyspace, key, klen, value, vlen, 0, 0)
    else:
        lsn = m.log.end_lsn - 1              # below a savepoint set from now on, whose rollback then leaves the lock alone
    # From here on nothing fails.
    if op != OP_LOCK:
        t.writes += 1
        if t.sx != NULL and t.depth == 0 and t.sx.reads.first != NULL:
            ssi_wrote(m, t, keyspace, hash, key, klen)
    t.deadline = 0
    t.keyspaces |= <uint64_t>1 << (keyspace & 63)
    if t.last_lsn < lsn:
        t.last_lsn = lsn
    change.entry = NULL
    change.needed = t.blob_lsn if flags & VALUE_BLOB else lsn
    if op != OP_LOCK:
        t.lsm = True
        # A change on top of one of its own in the same savepoint takes its place; the version's entry says whether there is one.
        change.entry = tree.put(key, klen, IN_FLIGHT | t.id, 0, ENTRY_PUT if op == OP_PUT else ENTRY_DELETE, value, vlen,
                                not fresh and not head.flags & LOCK_ONLY, change.needed)
        if flags & VALUE_BLOB:
            t.blob_lsn = 0                   # linked
        tree.tally.bytes_put += klen + vlen
    if fresh:
        pruned = head
        head = table_push(&m.table, t, head, hash, keyspace, key, klen, LOCK_ONLY if op == OP_LOCK else 0, <char*>&change, sizeof(InFlight), lsn)
        if pruned != NULL and pruned.owner == t:
            head.flags |= pruned.flags & COMMUTES
        if op == OP_LOCK:
            t.locks = True
            if pruned != NULL and t.commuting and pruned.owner.commit_ts > t.snapshot:
                head.flags |= COMMUTES
                t.commutes = t.watched = True
        if pruned != NULL and pruned.owner.state == TXN_COMMITTED:
            prune(m, pruned)
    else:
        not_lock_only(&m.table, head)
        set_in_flight(head, change.entry, change.needed)
    return OK


# --- deleted ranges ----------------------------------------------------------------------------------------------------

cdef inline char* lock_start(RangeLock* r) noexcept nogil:
    return <char*>r + sizeof(RangeLock)


cdef inline char* lock_stop(RangeLock* r) noexcept nogil:
    return <char*>r + sizeof(RangeLock) + r.start_len


cdef inline bint lies_in(const char* key, size_t klen, const char* start, size_t start_len, const char* stop, size_t stop_len, bint unbounded) noexcept nogil:
    return compare_bytes(start, start_len, key, klen) <= 0 and (unbounded or compare_bytes(key, klen, stop, stop_len) < 0)


cdef inline bint overlaps(RangeLock* r, const char* start, size_t start_len, const char* stop, size_t stop_len, bint closed, bint unbounded) noexcept nogil:
    """Whether the lock and the range share a key. closed: `stop` belongs to the range."""
    cdef int c
    if not r.unbounded and compare_bytes(start, start_len, lock_stop(r), r.stop_len) >= 0:
        return False
    if unbounded:
        return True
    c = compare_bytes(lock_start(r), r.start_len, stop, stop_len)
    return c < 0 or (closed and c == 0)


cdef int ranges_meet(TxnManager m, Txn* t, uint32_t keyspace, const char* start, size_t start_len, const char* stop, size_t stop_len, bint closed,
                     bint unbounded, Lack* lack) noexcept nogil:
    # Drops, on the way, the locks that nobody can meet any more.
    cdef RangeLock** p = &m.range_locks
    cdef RangeLock* r
    while p[0] != NULL:
        r = p[0]
        if r.owner == NULL and r.commit_ts <= clock_horizon(&m.clock):
            p[0] = r.next
            free(r)
            continue
        p = &r.next
        if r.keyspace != keyspace or r.owner == t or not overlaps(r, start, start_len, stop, stop_len, closed, unbounded):
            continue
        if r.owner == NULL:
            if loses_to(t, r.commit_ts):
                m.conflicts += 1
                return fail_n(E_CONFLICT, "the key's range was deleted by a transaction that committed at %lld, after this one's snapshot at %lld",
                              <int64_t>r.commit_ts, <int64_t>t.snapshot)
        elif r.owner.state == TXN_UNKNOWN:
            return fail(E_LOG, "the deletion of the key's range is of unknown outcome: open the database again")
        else:
            return must_wait(lack, r.owner)
    return OK


cdef int changes_in(TxnManager m, Txn* t, Txn* other, uint32_t keyspace, const char* start, size_t start_len, const char* stop, size_t stop_len,
                    bint unbounded, Lack* lack) noexcept nogil:
    """Whether one of another's changes or row locks is in the way of a deletion of the range by t."""
    cdef Version* v = other.newest
    cdef bint fresh = True
    cdef int status
    while v != NULL:
        if v.linked and v.keyspace == keyspace and lies_in(version_key(v), v.klen, start, start_len, stop, stop_len, unbounded):
            status = m.claim(t, v, &fresh, lack)
            if status != OK:
                return status
        v = v.previous
    return OK


cdef int delete_own(TxnManager m, Txn* t, LsmTree tree, uint32_t keyspace, const char* start, size_t start_len, const char* stop, size_t stop_len,
                    bint unbounded, Lack* lack) noexcept nogil:
    """What t itself has put in the range goes key by key: the range tombstone, which will bear the same timestamp, leaves it alone."""
    cdef Version* v = t.newest
    cdef int status
    while v != NULL:
        if (v.linked and v.keyspace == keyspace and not v.flags & LOCK_ONLY and entry_of(v).kind != ENTRY_DELETE
                and lies_in(version_key(v), v.klen, start, start_len, stop, stop_len, unbounded)):
            status = lsm_write(m, t, tree, OP_DELETE, keyspace, version_key(v), v.klen, NULL, 0, 0, 0, 0, lack)
            if status != OK and status != ABSENT:
                return status
        v = v.previous
    return OK


cdef int range_claim(TxnManager m, Txn* t, uint32_t keyspace, const char* start, size_t start_len, const char* stop, size_t stop_len,
                     bint unbounded, Lack* lack) noexcept nogil:
    """Whether t may change every key of the range: OK; AGAIN, with who is in the way; E_CONFLICT."""
    cdef Txn* other
    cdef int status = ranges_meet(m, t, keyspace, start, start_len, stop, stop_len, False, unbounded, lack)
    other = m.clock.first_writer
    while other != NULL and status == OK:
        if other != t and other.keyspaces & (<uint64_t>1 << (keyspace & 63)):
            status = changes_in(m, t, other, keyspace, start, start_len, stop, stop_len, unbounded, lack)
        other = other.writer_next
    other = m.clock.oldest_snapshot
    while other != NULL and status == OK:
        if other != t and other.locks and not other.in_writers:          # it has only locked rows so far
            status = changes_in(m, t, other, keyspace, start, start_len, stop, stop_len, unbounded, lack)
        other = other.snap_next
    other = m.garbage
    while other != NULL and status == OK:
        if loses_to(t, other.commit_ts):
            status = changes_in(m, t, other, keyspace, start, start_len, stop, stop_len, unbounded, lack)
        other = other.writer_next
    return status


cdef RangeLock* range_lock(Txn* t, uint32_t keyspace, const char* start, size_t start_len, const char* stop, size_t stop_len, bint unbounded) noexcept nogil:
    """A lock that is not in the list yet; NULL: no memory."""
    cdef RangeLock* lock = <RangeLock*>calloc(1, sizeof(RangeLock) + start_len + stop_len)
    if lock == NULL:
        fail(E_NOMEM, "no memory for the lock of a range")
        return NULL
    lock.owner = t
    lock.sx = t.sx
    lock.keyspace = keyspace
    lock.start_len = <uint32_t>start_len
    lock.stop_len = <uint32_t>stop_len
    lock.unbounded = unbounded
    memcpy(lock_start(lock), start, start_len)
    if stop_len:
        memcpy(lock_stop(lock), stop, stop_len)
    return lock


cdef int range_write(TxnManager m, Txn* t, uint32_t keyspace, const char* start, size_t start_len, const char* stop, size_t stop_len,
                     bint unbounded, Lack* lack) noexcept nogil:
    cdef RangeLock* lock
    cdef Span span
    cdef int status = range_claim(m, t, keyspace, start, start_len, stop, stop_len, unbounded, lack)
    if status == OK and (m.holds.count or m.first_request != NULL or m.predicates != NULL):
        span_between(&span, start, start_len, stop, stop_len, unbounded)
        status = lock_span_for_write(m, t, keyspace, &span, lack)
    if status == OK and t.id == 0:
        status = m.start_writing(t, lack)
    if status != OK:
        return status
    lock = range_lock(t, keyspace, start, start_len, stop, stop_len, unbounded)
    if lock == NULL:
        return E_NOMEM
    lock.lsn = m.log.end_lsn
    lock.next = m.range_locks
    m.range_locks = lock
    t.ranges = True
    t.deadline = 0
    return OK


cdef int lsm_delete_range(TxnManager m, Txn* t, LsmTree tree, uint32_t keyspace, const char* start, size_t start_len, const char* stop, size_t stop_len,
                          bint unbounded, uint64_t lsn, Lack* lack) noexcept nogil:
    cdef RangeLock* lock
    cdef Record r
    cdef Span span
    cdef size_t logged = start_len + stop_len + RECORD_OVERHEAD
    cdef int status = OK
    if tree.damaged:
        return tree.damage_status()
    if not unbounded and compare_bytes(start, start_len, stop, stop_len) >= 0:
        return OK
    if not m.redoing:
        status = range_claim(m, t, keyspace, start, start_len, stop, stop_len, unbounded, lack)
    if status == OK and not m.redoing and (m.holds.count or m.first_request != NULL or m.predicates != NULL):
        span_between(&span, start, start_len, stop, stop_len, unbounded)
        status = lock_span_for_write(m, t, keyspace, &span, lack)
    if status == OK and not m.redoing:                 # each of them is logged
        status = delete_own(m, t, tree, keyspace, start, start_len, stop, stop_len, unbounded, lack)
    if status == OK and not m.redoing:
        status = make_way(m, tree, start_len + stop_len, lack)
    if status == OK:
        status = tree.admit(start_len, stop_len)
    if status != OK:
        return status
    if not m.redoing:
        status = m.log.reserve(logged)
        if status != OK:
            lack.log_bytes = logged
            return status
    lock = range_lock(t, keyspace, start, start_len, stop, stop_len, unbounded)
    if lock == NULL:
        return E_NOMEM
    if t.id == 0:
        status = m.start_writing(t, lack)
        if status != OK:
            free(lock)
            return status
    memset(&r, 0, sizeof(Record))
    r.type = R_DELETE_RANGE
    r.txn = t.id
    r.keyspace = keyspace
    r.key = start
    r.klen = start_len
    r.value = stop
    r.vlen = stop_len
    r.a = unbounded
    lock.lsn = m.log.append(&r) if not m.redoing else lsn
    lock.range = tree.put_range(start, start_len, stop, stop_len, unbounded, IN_FLIGHT | t.id, lock.lsn)
    lock.next = m.range_locks
    m.range_locks = lock
    t.ranges = t.lsm = True
    t.writes += 1
    t.deadline = 0
    t.keyspaces |= <uint64_t>1 << (keyspace & 63)
    if t.last_lsn < lock.lsn:
        t.last_lsn = lock.lsn
    return OK


cdef bint ranges_above(TxnManager m, Txn* t, uint64_t lsn) noexcept nogil:
    cdef RangeLock* r = m.range_locks
    while r != NULL and (r.owner != t or r.lsn <= lsn):
        r = r.next
    return r != NULL


cdef void ranges_undo(TxnManager m, Txn* t, uint64_t lsn) noexcept nogil:
    cdef RangeLock** p = &m.range_locks
    cdef RangeLock* r
    while p[0] != NULL:
        r = p[0]
        if r.owner != t or r.lsn <= lsn:
            p = &r.next
            continue
        if r.range != NULL:
            (<LsmTree>m.trees[r.keyspace].tree).drop_range(r.range)
        t.writes += 1
        p[0] = r.next
        free(r)


cdef void ranges_release(TxnManager m, Txn* t) noexcept nogil:
    cdef RangeLock* r = m.range_locks
    while r != NULL:
        if r.owner == t:
            r.owner = NULL
            r.range = NULL
        r = r.next


cdef int ranges_in(TxnManager m, Txn* t, uint32_t keyspace, Lack* lack) noexcept nogil:
    cdef RangeLock* r = m.range_locks
    while r != NULL:
        if r.keyspace == keyspace and r.owner != NULL and r.owner != t:
            return must_wait(lack, r.owner)
        r = r.next
    return OK


cdef bint ranges_block(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Lack* lack) noexcept nogil:
    cdef RangeLock* r = m.range_locks
    while r != NULL:
        if (r.keyspace == keyspace and r.owner != NULL and r.owner != t
                and overlaps(r, span.low, span.low_len, span.high, span.high_len, span.closed, span.unbounded)):
            must_wait(lack, r.owner)
            return True
        r = r.next
    return False


cdef Txn* ranges_prepared(TxnManager m, uint32_t keyspace, const Span* span) noexcept nogil:
    cdef RangeLock* r = m.range_locks
    while r != NULL:
        if (r.keyspace == keyspace and r.owner != NULL and r.owner.state == TXN_PREPARED
                and overlaps(r, span.low, span.low_len, span.high, span.high_len, span.closed, span.unbounded)):
            return r.owner
        r = r.next
    return NULL


cdef int ranges_missed(TxnManager m, Txn* t, uint32_t keyspace, const Span* span) noexcept nogil:
    cdef RangeLock* r = m.range_locks
    cdef int status = OK
    while r != NULL and status == OK:
        if (r.sx != NULL and r.keyspace == keyspace and r.owner != t and (r.owner != NULL or r.commit_ts > t.snapshot)
                and overlaps(r, span.low, span.low_len, span.high, span.high_len, span.closed, span.unbounded)):
            status = ssi_conflict(m, t.sx, r.sx, t)
        r = r.next
    return status


cdef void ranges_free(TxnManager m) noexcept nogil:
    cdef RangeLock* r
    while m.range_locks != NULL:
        r = m.range_locks
        m.range_locks = r.next
        free(r)


cdef int ranges_move(TxnManager m, LsmTree tree, MemTable* next) noexcept nogil:
    """The range tombstones in flight move on to the next memtable, oldest first. OK; E_NOMEM: nothing has changed."""
    cdef RangeLock* r = m.range_locks
    cdef int status = OK
    while r != NULL and status == OK:
        r.moved = NULL
        if r.range != NULL and r.keyspace == tree.id and r.range.ts & IN_FLIGHT:
            status = memtable_reserve(next, r.start_len, r.stop_len)
            if status == OK:
                r.moved = memtable_put_range(next, lock_start(r), r.start_len, lock_stop(r), r.stop_len, r.unbounded, r.range.ts)
                if r.lsn < next.first_lsn:
                    next.first_lsn = r.lsn
        r = r.next
    if status != OK:
        return status
    r = m.range_locks
    while r != NULL:
        if r.moved != NULL:
            memtable_drop_range(tree.active, r.range)
            r.range = r.moved
            r.moved = NULL
        r = r.next
    return OK


cdef inline void stamp(LsmTree tree, Version* v, uint64_t ts, uint64_t wall) noexcept nogil:
    memtable_stamp(tree.active, entry_of(v), v.klen, ts, wall if tree.options.ttl else 0)


cdef void lsm_commit(TxnManager m, Txn* t, uint64_t ts, uint64_t wall) noexcept nogil:
    cdef Version* v = t.newest
    cdef RangeLock* r = m.range_locks
    while v != NULL:
        if v.linked and not v.flags & LOCK_ONLY and m.trees[v.keyspace].lsm and m.trees[v.keyspace].tree != NULL:
            stamp(<LsmTree>m.trees[v.keyspace].tree, v, ts, wall)
        v = v.previous
    if t.ranges:
        while r != NULL:
            if r.owner == t:
                r.commit_ts = ts
                if r.range != NULL:
                    r.range.ts = ts
                    (<LsmTree>m.trees[r.keyspace].tree).range_committed()
            r = r.next


cdef void lsm_undo(TxnManager m, Version* v) noexcept nogil:
    memtable_pop((<LsmTree>m.trees[v.keyspace].tree).active, version_key(v), v.klen, IN_FLIGHT | v.owner.id)


cdef bint moves(Version* v, uint32_t keyspace) noexcept nogil:
    return v.linked and v.keyspace == keyspace and not v.flags & LOCK_ONLY


cdef int lsm_seal(TxnManager m, LsmTree tree) noexcept nogil:
    cdef MemTable* next = memtable_new(tree.options.memtable_size, &tree.spares)
    cdef MemTable* old = tree.active
    cdef Version** moved = NULL
    cdef MemEntry** entries
    cdef MemEntry* e
    cdef Version* v
    cdef Txn* t
    cdef size_t n = 0, i = 0
    cdef int status = OK, round
    if next == NULL:
        return fail(E_NOMEM, "no memory for another memtable")
    # Who is in flight, each one's changes oldest first.
    for round in range(2):
        t = m.clock.first_writer
        while t != NULL:
            if t.lsm and (t.state == TXN_ACTIVE or t.state == TXN_PREPARED or t.state == TXN_ABORTING) and t.keyspaces & (<uint64_t>1 << (tree.id & 63)):
                v = t.newest
                while v != NULL:
                    if moves(v, tree.id):
                        if round == 0:
                            n += 1
                        else:
                            i -= 1
                            moved[i] = v
                    v = v.previous
            t = t.writer_next
        if round == 0:
            i = n
            moved = <Version**>malloc((n + 1) * (sizeof(Version*) + sizeof(MemEntry*)))
            if moved == NULL:
                memtable_free(next)
                return fail(E_NOMEM, "no memory for another memtable")
    entries = <MemEntry**>(moved + n + 1)
    for i in range(n):
        v = moved[i]
        e = entry_of(v)
        status = memtable_reserve(next, v.klen, e.vlen)
        if status != OK:
            memtable_free(next)
            free(moved)
            return status
        entries[i] = memtable_put(next, version_key(v), v.klen, e.ts, e.wall, e.kind, mem_value(e), e.vlen, False)
        # Not the owner's first record: the log may have gone up to a checkpoint after that.
        if in_flight_of(v).needed < next.first_lsn:
            next.first_lsn = in_flight_of(v).needed
    status = ranges_move(m, tree, next)
    if status != OK:
        memtable_free(next)
        free(moved)
        return status
    i = n
    while i > 0:
        i -= 1
        memtable_pop(old, version_key(moved[i]), moved[i].klen, IN_FLIGHT | moved[i].owner.id)
        set_in_flight(moved[i], entries[i], in_flight_of(moved[i]).needed)
    free(moved)
    tree.seal(next, m.log.end_lsn)
    condition_broadcast(&m.lsm_moved)            # who writes it to a table
    return OK


cdef void lsm_horizon(TxnManager m, Horizon* h) noexcept nogil:
    cdef Txn* t = m.clock.oldest_snapshot
    h.count = 0
    h.everything = False
    h.now = t.wall if t != NULL and t.wall else wall_now(m)
    while t != NULL:
        if h.count == 0 or h.stamps[h.count - 1] != t.snapshot:
            if h.count == MOST_SNAPSHOTS - 1:
                h.everything = True
                break
            h.stamps[h.count] = t.snapshot
            h.count += 1
        t = t.snap_next
    if h.count == 0 or h.stamps[h.count - 1] != m.clock.visible_ts:
        h.stamps[h.count] = m.clock.visible_ts
        h.count += 1
