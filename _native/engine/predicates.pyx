"""Predicates: see predicates.pxd."""
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from ..base.latch cimport latch_enter, latch_unlock
from ..base.status cimport OK, AGAIN, E_USAGE
from ..txn.conflicts cimport ssi_conflict, ssi_overwrites, ssi_tracks
from ..txn.deadlock cimport doom
from ..txn.holds cimport HOLD_EXCLUSIVE, HOLD_SHARED, HOLD_UPDATE, Span, span_of_key
from ..txn.isolation cimport statement
from ..txn.lsmops cimport ranges_block, ranges_missed
from ..txn.predset cimport (Image, Images, Predicate, images_of_others, predicate_add, predicate_find, predicate_grant, predicate_keeps_out, predicates_for, covers_of,
                            sxact_numbered, writer_numbered)
from ..txn.transaction cimport OP_LOCK, Lack, TxnManager, lack_init, must_queue
from ..txn.versions cimport LOCKING, READ_COMMITTED, TXN_COMMITTED, Sxact, Txn
from .cursor cimport CoreCursor, successor
from .engine cimport Engine
from .handles cimport CoreKeyspace
from .rowlocks cimport lock_row
from .steps cimport raise_lacking, span_of, to_bytes
from .txnhandle cimport LOOK_APART, LOOK_NEWEST, CoreTransaction
import logging

cdef enum:
    AT_ONCE = 64                 # predicates tested in one round without another look at the set
    MOST_COVERS = 256            # ranges of one transaction that are known to stand for predicates

cdef object logger = logging.getLogger("enginelib")
cdef object MISSING = object()


cdef bint fits(Engine e, uint64_t number, bytes key, bytes before, bytes after) except -1:
    """Whether one of the images matches; a predicate that raises ends its owner's transaction, not the one whose change is tested."""
    cdef TxnManager m = e.txns
    cdef Predicate* p
    predicate = e.predicates.get(number)
    if predicate is None:
        return False
    try:
        return (before is not None and predicate.matches(key, before)) or (after is not None and predicate.matches(key, after))
    except Exception:
        logger.exception("a predicate raised in the test of another transaction's change: its own transaction is aborted")
    latch_enter(&e.latch)
    p = predicate_find(m, number)
    if p != NULL and p.txn != NULL:
        doom(p.txn, E_USAGE)
    elif p != NULL and p.sx.txn != NULL and not p.sx.over:
        doom(p.sx.txn, E_USAGE)
    latch_unlock(&e.latch)
    return True


cdef uint64_t test_change(CoreTransaction x, CoreKeyspace keyspace, bytes key, bytes after) except? 0:
    cdef Engine e = x.engine
    cdef TxnManager m = x.m
    cdef Span span = span_of_key(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    cdef Lack lack
    cdef Predicate* p
    cdef uint64_t some[AT_ONCE]
    cdef uint64_t* numbers = some
    cdef uint64_t edition
    cdef size_t room = AT_ONCE, n, i, matched
    cdef int status
    lack_init(&lack)
    x.change(OP_LOCK, keyspace, key, None, &lack)            # what is there stays there
    before = x.look(keyspace, key, None, LOOK_NEWEST)
    try:
        while True:
            latch_enter(&e.latch)
            edition = m.predicate_edition
            n = predicates_for(m, x.t, keyspace.id, &span, numbers, room)
            latch_unlock(&e.latch)
            if n > room:
                if numbers != some:
                    free(numbers)
                numbers = <uint64_t*>malloc(2 * n * sizeof(uint64_t))
                if numbers == NULL:
                    raise MemoryError("no memory to test a change against predicates")
                room = 2 * n
                continue
            matched = 0
            for i in range(n):
                m.predicate_tests += 1
                if fits(e, numbers[i], key, before, after):
                    numbers[matched] = numbers[i]
                    matched += 1
            m.predicate_matches += matched
            status = OK
            latch_enter(&e.latch)
            for i in range(matched):
                p = predicate_find(m, numbers[i])
                if p != NULL and status == OK and predicate_keeps_out(p, x.t, keyspace.id):
                    status = must_queue(&lack, p.txn, HOLD_EXCLUSIVE, keyspace.id, &span)
                    lack.unqueued = True
            if status == OK and lack.held:
                m.settle(&lack)
            latch_unlock(&e.latch)
            if status == AGAIN:
                x.obtain(&lack)
                continue
            free(x.matches)
            x.match_count = 0
            x.matches = <uint64_t*>malloc((matched + 1) * sizeof(uint64_t))
            if x.matches == NULL:
                raise MemoryError("no memory to test a change against predicates")
            memcpy(x.matches, numbers, matched * sizeof(uint64_t))
            x.match_count = matched
            return edition
    finally:
        if numbers != some:
            free(numbers)


cdef int note_matches(CoreTransaction x) noexcept:
    cdef Predicate* p
    cdef size_t i
    cdef int status = OK
    for i in range(x.match_count):
        p = predicate_find(x.m, x.matches[i])
        if p != NULL and p.sx != NULL and status == OK:
            status = ssi_overwrites(x.m, p.sx, x.t, False)
    return status


cdef uint64_t add_predicate(CoreTransaction x, CoreKeyspace keyspace, predicate, Span* span, bint update) except? 0:
    """It is tested against from now on. Returns its number."""
    cdef Engine e = x.engine
    cdef TxnManager m = x.m
    cdef Lack lack
    cdef uint64_t number
    cdef int status
    lack_init(&lack)
    e.predicate_numbers += 1
    number = e.predicate_numbers
    e.predicates[number] = predicate
    latch_enter(&e.latch)
    status = x.still()
    if status == OK:
        statement(m, x.t)
        status = m.check(x.t, False)
    if status == OK:
        status = m.readable(x.t, keyspace.id)
    if status == OK:
        status = predicate_add(m, x.t, number, keyspace.id, span, update)
    latch_unlock(&e.latch)
    if status != OK:
        del e.predicates[number]
        raise_lacking(m, status, &lack)
    if number % 256 == 0:
        prune(e)
    return number


cdef int prune(Engine e) except -1:
    """Lets go of the objects of predicates that are no more."""
    cdef TxnManager m = e.txns
    cdef bint gone
    for number in list(e.predicates):
        latch_enter(&e.latch)
        gone = predicate_find(m, number) == NULL
        latch_unlock(&e.latch)
        if gone and number < e.predicate_numbers:
            e.predicates.pop(number, None)
    return 0


cdef int add_cover(CoreTransaction x, CoreKeyspace keyspace, predicate, bytes low, bytes high) except -1:
    cdef Engine e = x.engine
    cdef bint gone
    cdef list mine = e.covers.setdefault(x.t.number, [])
    if len(mine) < MOST_COVERS:
        mine.append((keyspace.id, low, high, predicate))
    if len(e.covers) % 64 == 0:
        for number in list(e.covers):
            latch_enter(&e.latch)
            gone = x.t == NULL or number != x.t.number and not covers_of(x.m, number)
            latch_unlock(&e.latch)
            if gone:
                e.covers.pop(number, None)
    latch_enter(&e.latch)
    if x.t != NULL and x.t.sx != NULL:
        x.t.sx.covers = True
    elif x.t != NULL:
        x.t.covers = True
    latch_unlock(&e.latch)
    return 0


cdef int judge_met(CoreTransaction x, CoreKeyspace keyspace, bytes key, bytes after) except -1:
    cdef TxnManager m = x.m
    cdef uint64_t number = x.t.met
    cdef bint stands = False, fitting = False
    x.t.met = 0
    for where, low, high, predicate in x.engine.covers.get(number, ()):
        if where != keyspace.id or key < low or (high is not None and key >= high):
            continue
        stands = True
        try:
            before = keyspace.get(key)
            if (after is not None and predicate.matches(key, after)) or (before is not None and predicate.matches(key, before)):
                fitting = True
                break
        except Exception:
            logger.exception("a predicate raised where a conflict with the range that stands for it was counted")
            fitting = True
    m.range_conflicts += stands
    m.range_false += stands and not fitting
    return 0


cdef list rows_of(Images* images):
    """(owner, key, value), value True where it is not at hand."""
    cdef Image image
    cdef size_t at = 0
    cdef char* p
    result = []
    while at < images.used:
        memcpy(&image, images.bytes + at, sizeof(Image))
        p = images.bytes + at + sizeof(Image)
        key = PyBytes_FromStringAndSize(p, image.klen)
        result.append((image.owner, key, True if image.unknown else PyBytes_FromStringAndSize(p + image.klen, image.vlen)))
        at += sizeof(Image) + image.klen + image.vlen
    return result


cdef list others_in(CoreTransaction x, CoreKeyspace keyspace, Span* span, Lack* lack):
    """What others have done in the span that this transaction does not see."""
    cdef Engine e = x.engine
    cdef TxnManager m = x.m
    cdef Images images
    cdef int status
    images.bytes = NULL
    images.used = images.room = 0
    try:
        while True:
            latch_enter(&e.latch)
            status = x.still()
            if status == OK:
                statement(m, x.t)
                status = m.check(x.t, False)
            if status == OK and m.range_locks != NULL:
                if x.t.level == LOCKING:
                    if ranges_block(m, x.t, keyspace.id, span, lack):
                        status = AGAIN
                elif ssi_tracks(x.t):
                    status = ranges_missed(m, x.t, keyspace.id, span)
            if status == OK:
                status = images_of_others(m, x.t, keyspace.id, span, &images, lack)
            if status != AGAIN and lack.held:
                m.settle(lack)
            latch_unlock(&e.latch)
            if status == OK:
                return rows_of(&images)
            if status != AGAIN:
                raise_lacking(m, status, lack)
            x.obtain(lack)
    finally:
        free(images.bytes)


cdef int settle_others(CoreTransaction x, CoreKeyspace keyspace, predicate, Span* span, uint64_t number, bint update) except -1:
    """Changes that were made before the predicate was there: under `locking` those that match are waited for; under `serializable` they are conflicts."""
    cdef Engine e = x.engine
    cdef TxnManager m = x.m
    cdef Lack lack
    cdef Txn* owner
    cdef Sxact* sx
    cdef int status
    cdef set hits
    cdef bint granted = False
    lack_init(&lack)
    x.t.deadline = 0
    while True:
        hits = set()
        for writer, key, value in others_in(x, keyspace, span, &lack):
            if writer in hits:
                continue
            if value is True or predicate.matches(key, value):
                hits.add(writer)
            elif keyspace.lsm:                               # its images are of after the change only
                value = x.look(keyspace, key, None, LOOK_APART)
                if value is not None and predicate.matches(key, value):
                    hits.add(writer)
        status = OK
        latch_enter(&e.latch)
        for writer in hits:
            if status != OK:
                break
            if x.t.level == LOCKING:
                owner = writer_numbered(m, writer)
                if owner != NULL and owner.state != TXN_COMMITTED:
                    if granted:
                        predicate_grant(m, number, False)
                        granted = False
                    status = must_queue(&lack, owner, HOLD_UPDATE if update else HOLD_SHARED, keyspace.id, span)
                    lack.unqueued = True
            else:
                sx = sxact_numbered(m, writer)
                if sx != NULL and x.t.sx != NULL:
                    status = ssi_conflict(m, x.t.sx, sx, x.t)
        if status != AGAIN and lack.held:
            m.settle(&lack)
        latch_unlock(&e.latch)
        if status == AGAIN:
            x.obtain(&lack)
            continue
        if status != OK:
            raise_lacking(m, status, &lack)
        if update and meets_locked(x, keyspace, predicate, span, number, &lack):
            x.obtain(&lack)
        elif granted or x.t.level != LOCKING:
            return 0
        else:
            # What was changed between the look and this is found by another.
            granted = True
            latch_enter(&e.latch)
            predicate_grant(m, number, True)
            latch_unlock(&e.latch)


cdef bint meets_locked(CoreTransaction x, CoreKeyspace keyspace, predicate, Span* span, uint64_t number, Lack* lack) except -1:
    """Whether another has locked a predicate for update, earlier, that may match the same records; the lack says who."""
    cdef Engine e = x.engine
    cdef TxnManager m = x.m
    cdef uint64_t numbers[AT_ONCE]
    cdef Predicate* p
    cdef size_t n, i
    cdef bint met = False
    latch_enter(&e.latch)
    n = predicates_for(m, x.t, keyspace.id, span, numbers, AT_ONCE)
    latch_unlock(&e.latch)
    for i in range(min(n, <size_t>AT_ONCE)):
        other = e.predicates.get(numbers[i])
        if numbers[i] > number or other is None or (hasattr(predicate, "disjoint") and predicate.disjoint(other)):
            continue
        latch_enter(&e.latch)
        p = predicate_find(m, numbers[i])
        if p != NULL and p.txn != NULL and p.update:
            must_queue(lack, p.txn, HOLD_UPDATE, keyspace.id, span)
            lack.unqueued = True
            met = True
        latch_unlock(&e.latch)
        if met:
            return True
    return False


cdef class Matching:
    """Iterates over the records of a scan that match."""
    cdef CoreCursor cursor
    cdef object matches
    cdef Py_ssize_t left
    cdef bint keys
    cdef bint values
    cdef bint lock
    cdef bint no_wait
    cdef bint skip

    def __iter__(self):
        return self

    def __next__(self):
        cdef CoreTransaction x = self.cursor.txn
        cdef bytes key
        if self.left == 0:
            raise StopIteration
        while True:
            key, value = next(self.cursor)
            if not self.matches(key, value):
                continue
            if self.lock:
                if not lock_row(x, self.cursor.keyspace, key, self.no_wait or self.skip, self.skip):
                    continue
                if x.t.level == READ_COMMITTED or x.t.level == LOCKING:
                    value = x.get(self.cursor.keyspace, key, MISSING)
                    if value is MISSING or not self.matches(key, value):
                        continue
            if self.left > 0:
                self.left -= 1
            return (key, value) if self.keys and self.values else key if self.keys else value


cdef object scan_where(CoreTransaction x, CoreKeyspace keyspace, start, stop, prefix, bint reverse, limit, bint keys, bint values, bint for_update, bint nowait,
                       bint skip_locked, bint apart, where, str granularity):
    cdef Matching matching = Matching()
    cdef Span span
    cdef bytes low = b"" if start is None else to_bytes(start, "start")
    cdef bytes high = None if stop is None else to_bytes(stop, "stop")
    cdef uint64_t number
    cdef bint locked
    if granularity not in ("predicate", "index_range"):
        raise ValueError(f"granularity={granularity!r} is not one of 'predicate', 'index_range'.")
    if not callable(getattr(where, "matches", None)):
        raise TypeError(f"where takes a predicate: an object with matches(key, value) -> bool, not {type(where).__name__}; enginelib.predicates has some.")
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be 0 or more, not {limit}")
    if not keys and not values:
        raise ValueError("a scan without keys and without values gives nothing: ask for one of them")
    if (nowait or skip_locked) and not for_update:
        raise ValueError("nowait and skip_locked belong to for_update=True: no other scan locks records")
    if prefix is not None:
        first = to_bytes(prefix, "prefix")
        after = successor(first)
        low = max(low, first)
        if after is not None:
            high = after if high is None else min(high, after)
    if hasattr(where, "bounds"):
        first, after = where.bounds()
        if first is not None:
            low = max(low, to_bytes(first, "bounds"))
        if after is not None:
            high = to_bytes(after, "bounds") if high is None else min(high, to_bytes(after, "bounds"))
    x.ready(keyspace)
    matching.matches = where.matches
    matching.left = -1 if limit is None else limit
    matching.keys = keys
    matching.values = values
    matching.no_wait = nowait
    matching.skip = skip_locked
    locked = False
    if not apart and not skip_locked and granularity == "predicate" and (x.t.level == LOCKING or ssi_tracks(x.t)) and (high is None or low < high):
        span_of(&span, low, high if high is not None else b"", high is None)
        number = add_predicate(x, keyspace, where, &span, for_update)
        settle_others(x, keyspace, where, &span, number, for_update)
        locked = True
    elif not apart and not skip_locked and granularity == "index_range" and (x.t.level == LOCKING or ssi_tracks(x.t)):
        add_cover(x, keyspace, where, low, high)
    matching.lock = for_update and not (locked and x.t.level == LOCKING)
    matching.cursor = CoreCursor(x, keyspace, low, high, None, reverse, None, True, True, False, False, False, apart or locked or skip_locked)
    return matching
