"""Locks that a transaction asks for: see rowlocks.pxd."""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint64_t
from ..base.latch cimport latch_enter, latch_lock, latch_unlock
from ..base.status cimport OK, AGAIN, E_INTERRUPT, raise_status
from ..txn.conflicts cimport ssi_wait
from ..txn.holds cimport HOLD_EXCLUSIVE, HOLD_SHARED, HOLD_UPDATE, Hold, Span
from ..txn.isolation cimport read_conflict, statement
from ..txn.locks cimport lock_span, serial_enter
from ..txn.lsmops cimport range_write
from ..txn.transaction cimport OP_LOCK, OP_PUT, Lack, TxnManager, lack_init
from .engine cimport Engine
from .handles cimport CoreKeyspace
from .steps cimport raise_lacking, span_of, to_bytes
from .txnhandle cimport LOOK_NEWEST, LOOK_NEWEST_READING, CoreTransaction

cdef enum RangeTask:
    TAKE_LOCK
    NOTE_READ
    NOTE_WRITE


cdef bint lock_row(CoreTransaction x, CoreKeyspace keyspace, bytes key, bint no_wait, bint skip) except -1:
    cdef Lack lack
    cdef bint before = x.t.no_wait
    lack_init(&lack)
    x.t.no_wait = no_wait or before
    try:
        x.change(OP_LOCK, keyspace, key, None, &lack)
    except Exception as error:
        if skip and getattr(error, "code", "") == "lock_timeout":
            return False
        raise
    finally:
        if x.t != NULL:
            x.t.no_wait = before
    return True


cdef int range_task(CoreTransaction x, CoreKeyspace keyspace, start, stop, int task, int mode) except -1:
    cdef Engine e = x.engine
    cdef TxnManager m = x.m
    cdef Lack lack
    cdef Hold* hold = NULL
    cdef Span span
    cdef bytes low = b"" if start is None else to_bytes(start, "start")
    cdef bytes high = b"" if stop is None else to_bytes(stop, "stop")
    cdef int status
    x.ready(keyspace)
    if stop is not None and low >= high:
        return 0
    span_of(&span, low, high, stop is None)
    lack_init(&lack)
    x.t.deadline = 0
    while True:
        latch_enter(&e.latch)
        status = x.still()
        if status == OK:
            if x.t.watched:
                statement(m, x.t)
            status = m.check(x.t, task == NOTE_WRITE or task == TAKE_LOCK and mode != HOLD_SHARED)
        if status == OK:
            status = m.readable(x.t, keyspace.id)
        if status == OK:
            if task == TAKE_LOCK:
                status = lock_span(m, x.t, mode, keyspace.id, &span, False, &hold, &lack)
                if status == OK:
                    hold.kept = False
            elif task == NOTE_READ:
                status = read_conflict(m, x.t, keyspace.id, &span, &lack)
            else:
                status = range_write(m, x.t, keyspace.id, span.low, span.low_len, span.high, span.high_len, span.unbounded, &lack)
        if status != AGAIN and lack.held:
            m.settle(&lack)
        latch_unlock(&e.latch)
        if status == OK:
            return 0
        if status != AGAIN:
            raise_lacking(m, status, &lack)
        x.obtain(&lack)


cdef int range_lock(CoreTransaction x, CoreKeyspace keyspace, start, stop, str mode, bint no_wait) except -1:
    cdef dict modes = {"shared": HOLD_SHARED, "update": HOLD_UPDATE, "exclusive": HOLD_EXCLUSIVE}
    if mode not in modes:
        raise ValueError(f"mode={mode!r} is not one of 'shared', 'update', 'exclusive'.")
    cdef bint before
    x.ready(keyspace)
    before = x.t.no_wait
    x.t.no_wait = no_wait or before
    try:
        range_task(x, keyspace, start, stop, TAKE_LOCK, modes[mode])
    finally:
        if x.t != NULL:
            x.t.no_wait = before
    return 0


cdef int range_conflict(CoreTransaction x, CoreKeyspace keyspace, start, stop, bint writing) except -1:
    return range_task(x, keyspace, start, stop, NOTE_WRITE if writing else NOTE_READ, 0)


cdef int combine_row(CoreTransaction x, CoreKeyspace keyspace, bytes key, function, bint reads) except -1:
    cdef Lack lack
    x.ready(keyspace)
    lack_init(&lack)
    x.t.commuting = True
    try:
        x.change(OP_LOCK, keyspace, key, None, &lack)
        value = function(x.look(keyspace, key, None, LOOK_NEWEST_READING if reads else LOOK_NEWEST))
        if value is not None:
            x.change(OP_PUT, keyspace, key, to_bytes(value, "value"), &lack)
    finally:
        if x.t != NULL:
            x.t.commuting = False
    return 0


cdef int take_place(CoreTransaction x, bint batch) except -1:
    cdef Engine e = x.engine
    cdef TxnManager m = x.m
    cdef Lack lack
    cdef int status
    lack_init(&lack)
    x.t.no_wait = batch          # those on their way are this thread's own: who waits for them would wait for a thread that waits
    try:
        while True:
            latch_enter(&e.latch)
            status = m.check(x.t, False)
            if status == OK:
                status = serial_enter(m, x.t, batch, &lack)
            if status == OK:                      # it reads what the trees hold
                m.close_snapshot(x.t)
                x.t.snapshot = m.clock.last_ts
                x.t.safe_lsn = <uint64_t>-1
            if status != AGAIN and lack.held:
                m.settle(&lack)
            latch_unlock(&e.latch)
            if status == OK:
                return 0
            if status != AGAIN:
                raise_lacking(m, status, &lack)
            x.obtain(&lack)
    except BaseException:
        x.abort()
        raise


cdef int wait_until_safe(CoreTransaction x) except -1:
    cdef Engine e = x.engine
    cdef int status
    try:
        while True:
            x.in_use = True
            with nogil:
                latch_lock(&e.latch)
                status = e.admit()
                if status == OK:
                    status = ssi_wait(x.m, x.t)
                    e.leave()
                latch_unlock(&e.latch)
            x.in_use = False
            if status == OK:
                return 0
            if status != E_INTERRUPT:
                raise_status(status)
            PyErr_CheckSignals()
    except BaseException:
        x.in_use = False
        x.abort()
        raise
