"""Procedures: see procedures.pxd."""
from libc.stdint cimport uint64_t
from libc.string cimport memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from ..base.latch cimport latch_enter, latch_unlock
from ..base.status cimport OK, AGAIN, E_TXN_CLOSED, E_USAGE, fail, raise_status
from ..log.record cimport R_CALL, R_TAG, RECORD_OVERHEAD, Record
from ..txn.lsmops cimport wall_now
from ..txn.transaction cimport Lack, TxnManager, lack_init
from ..txn.versions cimport SERIAL, TXN_ACTIVE
from .handles cimport CoreDatabase
from .steps cimport raise_lacking
from .txnhandle cimport CoreTransaction

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil

cdef object BUSY = object()

cdef enum:
    MOST_BYTES = 256 << 10       # of a logged call's arguments: a record lies in one segment


cdef object run_serially(CoreDatabase database, type cls, function, tuple args, bint wait, list logged):
    cdef unsigned long me = PyThread_get_thread_ident()
    cdef CoreTransaction x
    if database.procedure_thread != 0:
        if database.procedure_thread == me:
            raise_status(fail(E_USAGE, b"a procedure was called from within a procedure: call the function itself, with the procedure's transaction"))
        if not wait:
            return BUSY
    x = database.begin_transaction(cls, False, -1, -1.0, SERIAL, False, logged is not None and len(logged) > 0)
    try:
        database.procedure_thread = me
        try:
            value = function(x, *args)
        finally:
            database.procedure_thread = 0
        if x.t == NULL or x.t.state != TXN_ACTIVE:
            raise_status(fail(E_USAGE, b"a procedure leaves its transaction open: it is committed when the function returns"))
        if logged is None:
            x.commit()
        elif x.commit_later():
            logged.append(x)
    except BaseException:
        x.abort()
        raise
    return value


cdef int log_call(CoreTransaction x, uint64_t now, uint64_t seed, bytes name, bytes args) except -1:
    cdef Record r
    if len(name) + len(args) > MOST_BYTES:
        raise ValueError(f"the arguments take {PyBytes_GET_SIZE(args)} bytes, more than the {MOST_BYTES} bytes of a logged call: put them into a keyspace, "
                         "and pass the key")
    memset(&r, 0, sizeof(Record))
    r.type = R_CALL
    r.a = now
    r.b = seed
    r.key = PyBytes_AS_STRING(name)
    r.klen = PyBytes_GET_SIZE(name)
    r.value = PyBytes_AS_STRING(args)
    r.vlen = PyBytes_GET_SIZE(args)
    return log_beside(x, &r)


cdef int log_tag(CoreTransaction x, int tag, bytes value) except -1:
    cdef Record r
    memset(&r, 0, sizeof(Record))
    r.type = R_TAG
    r.a = tag
    r.value = PyBytes_AS_STRING(value)
    r.vlen = PyBytes_GET_SIZE(value)
    return log_beside(x, &r)


cdef int log_beside(CoreTransaction x, Record* r) except -1:
    """A record beside the changes of the transaction; nothing where there are none."""
    cdef TxnManager m = x.m
    cdef Lack lack
    cdef size_t room = RECORD_OVERHEAD + r.klen + r.vlen
    cdef int status
    x.idle()
    lack_init(&lack)
    while True:
        latch_enter(&x.engine.latch)
        status = x.still()
        if status == OK:
            status = m.check(x.t, True)
        if status == OK and x.t.id != 0:
            status = m.log.reserve(room)
            if status == OK:
                r.txn = x.t.id
                x.t.last_lsn = m.log.append(r)
            else:
                lack.log_bytes = room
        latch_unlock(&x.engine.latch)
        if status == OK:
            return 0
        if status != AGAIN:
            raise_lacking(m, status, &lack)
        x.obtain(&lack)


cdef uint64_t wall_clock(CoreTransaction x) except? 0:
    cdef uint64_t now = 0
    latch_enter(&x.engine.latch)
    if x.t != NULL:
        now = wall_now(x.m)
    latch_unlock(&x.engine.latch)
    if now == 0:
        raise_status(fail(E_TXN_CLOSED, b"the transaction has ended"))
    return now


def busy():
    """What `run_procedure` returns where another thread is inside a procedure."""
    return BUSY
