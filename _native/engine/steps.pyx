"""The steps every handle's operation is made of: see steps.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from ..base.coding cimport get64
from ..base.latch cimport latch_enter, latch_lock, latch_unlock
from ..base.status cimport OK, AGAIN, E_CLOSED, E_INTERRUPT, fail, fail_corrupt, raise_status
from ..log.writer cimport OS
from ..txn.holds cimport Span, span_between
from ..txn.transaction cimport TxnManager, Lack, Found, lack_init
from ..txn.versions cimport Txn
from .engine cimport Engine

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) noexcept
    void drop "Py_XDECREF"(PyObject*)

cdef bytes to_bytes(object o, str what):
    """The bytes of any object with the buffer protocol."""
    if PyBytes_CheckExact(o):
        return <bytes>o
    if isinstance(o, str):
        raise TypeError(f"{what} is a str: enginelib stores bytes; encode it first, as in {what}.encode()")
    try:
        view = memoryview(o)
    except TypeError:
        raise TypeError(f"{what} must be bytes or another object with the buffer protocol, not {type(o).__name__}") from None
    if view.nbytes > MAX_VALUE:           # before it is copied
        raise ValueError(f"the {what} has {view.nbytes} bytes; the longest possible is {MAX_VALUE} bytes (1 GiB): split it over several keys")
    return bytes(view)


cdef int too_long(uint32_t max_key, bytes key) except -1:
    raise ValueError(f"the key has {len(key)} bytes; the longest possible is {max_key} bytes at this page size: shorten or hash it")


cdef object raise_lacking(TxnManager m, int status, Lack* lack):
    if lack.held:
        with nogil:
            latch_lock(m.latch)
            m.settle(lack)
            latch_unlock(m.latch)
    raise_status(status)


cdef int obtain_for(Engine e, Txn* t, Lack* lack) except -1:
    """Gets what an operation lacks, without GIL or latch; lets signal handlers run now and then."""
    cdef int status
    with nogil:
        latch_lock(&e.latch)
        if e.closing:
            status = fail(E_CLOSED, b"the database is closed")
        else:
            e.enter()
            if e.txns.orphans != NULL:         # who is waited for may be one whose handle is gone
                e.abort_orphans()
            status = e.txns.secure(t, lack)
            e.leave()
        latch_unlock(&e.latch)
    if status == E_INTERRUPT:
        try:
            PyErr_CheckSignals()
        except BaseException:
            latch_enter(&e.latch)
            e.txns.settle(lack)
            latch_unlock(&e.latch)
            raise
        return 0
    if status != OK:
        raise_lacking(e.txns, status, lack)
    return 0


cdef void span_of(Span* span, bytes low, bytes high, bint unbounded) noexcept:
    """The half-open range between two keys, whose bytes it borrows."""
    span_between(span, PyBytes_AS_STRING(low), PyBytes_GET_SIZE(low), PyBytes_AS_STRING(high), PyBytes_GET_SIZE(high), unbounded)


cdef PyObject* shelter_value(TxnManager m, Found* f, uint64_t* pid, uint64_t* length) noexcept:
    """Under the latch: a new bytes object, or (for a large value) NULL and where it lies."""
    if f.blob:
        pid[0] = get64(f.value)
        length[0] = get64(f.value + 8)
        return NULL
    pid[0] = 0
    return new_bytes(f.value, f.vlen)


cdef bytes fetch_blob(Engine e, uint64_t pid, uint64_t length):
    """Reads a large value; the caller's snapshot keeps it in being."""
    cdef PyObject* raw
    cdef char* p
    cdef int status
    if length > MAX_VALUE:
        raise_status(fail_corrupt(e.pages_path, -1, b"a large value longer than any may be", MAX_VALUE, length))
    raw = new_bytes(NULL, <Py_ssize_t>length)
    if raw == NULL:
        raise MemoryError(f"no memory for a value of {length} bytes")
    result = <bytes><object>raw
    drop(raw)
    p = PyBytes_AS_STRING(result)
    with nogil:
        latch_lock(&e.latch)
        status = e.admit()
        if status == OK:
            e.store.reader_enter()
            latch_unlock(&e.latch)
            status = e.store.read_blob(pid, length, p)
            latch_lock(&e.latch)
            e.store.reader_leave()
            e.leave()
        latch_unlock(&e.latch)
    if status != OK:
        raise_status(status)
    return result


cdef void after_writes(Engine e) noexcept nogil:
    """Latch held: lets the background thread know when there is enough to do."""
    if e.work_waits():
        e.poke()


cdef int commit_txn(Engine e, Txn* t) except -100:
    """GIL held, latch held; returns the status with the latch let go."""
    cdef TxnManager m = e.txns
    cdef int status = m.commit_begin(t)
    if status == AGAIN:
        if t.durability == OS and not (e.log.writing or e.log.syncing or e.log.switching):
            status = m.commit_end(t, e.log.flush(t.commit_lsn, OS))
        else:
            e.enter()
            latch_unlock(&e.latch)
            with nogil:
                latch_lock(&e.latch)
                status = m.commit_end(t, e.log.flush(t.commit_lsn, t.durability))
                e.leave()
                after_writes(e)
                latch_unlock(&e.latch)
            return status
    after_writes(e)
    latch_unlock(&e.latch)
    return status


cdef int end_quietly(Engine e, Txn* t) except -1:
    """Rolls back a transaction whose operation failed, and lets go of it; the failure that led here is the one to report."""
    cdef Lack lack
    cdef int status
    lack_init(&lack)
    with nogil:
        latch_lock(&e.latch)
        while True:
            status = e.txns.abort(t, &lack)
            if status != AGAIN:
                break
            if e.txns.secure(t, &lack) != OK:
                break
        e.txns.settle(&lack)
        if status == OK:
            e.txns.finish(t)
        else:
            e.txns.queue_abort(t)
        latch_unlock(&e.latch)
    return 0
