"""Large values: see blob.pxd."""
from libc.stdint cimport uint64_t
from libc.stdlib cimport malloc, realloc, free
from libc.string cimport memcpy
from ..base.checksum cimport crc32c
from ..base.coding cimport put64
from ..base.latch cimport latch_lock, latch_unlock
from ..base.idmap cimport idmap_get, idmap_put, idmap_remove
from ..base.status cimport OK, AGAIN, E_NOMEM, fail
from ..page.store cimport BLOCK, MEMORY_HEAD
from .transaction cimport TxnManager, Lack
from .versions cimport Txn


cdef int blob_start(TxnManager m, uint64_t length, BlobWrite* b, Lack* lack) noexcept nogil:
    cdef int status = m.store.reserve_pids(1)
    b.length = length
    b.written = 0
    b.crc = 0
    b.pid = 0
    if status != OK:
        return status
    b.pid = m.store.alloc_pid()
    if m.read_only:
        # Recovery of a database opened read-only writes no file: the value stays in memory.
        b.room = 0
        b.block = <uint64_t>malloc(MEMORY_HEAD)
        if b.block != 0 and idmap_put(&m.memory_blobs, b.pid, b.block) == 0:
            put64(<char*>b.block, length)
            return OK
        free(<void*>b.block)
        m.pool.forget(b.pid)
        b.pid = 0
        return fail(E_NOMEM, "no memory to replay a large value")
    latch_unlock(m.latch)
    status = m.store.blob_begin(b.pid, length, &b.block)
    latch_lock(m.latch)
    if status != OK:
        m.pool.forget(b.pid)
        b.pid = 0
    return status


cdef int memory_grow(TxnManager m, BlobWrite* b, uint64_t n) noexcept nogil:
    """Room for n bytes: memory goes by what the log holds, not by the length that it announces."""
    cdef uint64_t room = min(max(n, 2 * b.room), b.length)
    cdef void* grown
    if n <= b.room:
        return OK
    grown = realloc(<void*>b.block, MEMORY_HEAD + room)
    if grown == NULL:
        return E_NOMEM
    b.block = <uint64_t>grown
    b.room = room
    idmap_get(&m.memory_blobs, b.pid)[0] = b.block
    return OK


cdef int blob_append(TxnManager m, BlobWrite* b, const char* data, size_t n) noexcept nogil:
    cdef size_t padded = (n + BLOCK - 1) // BLOCK * BLOCK, whole = n // BLOCK * BLOCK
    cdef int status = OK
    cdef char tail[BLOCK]
    if m.read_only:
        if memory_grow(m, b, b.written + n) != OK:
            return fail(E_NOMEM, "no memory to replay a large value")
        memcpy(<char*>b.block + MEMORY_HEAD + b.written, data, n)
        b.written += n
        return OK
    if whole:
        status = m.store.blob_write(b.block, b.written, data, whole)
        b.crc = crc32c(b.crc, data, whole)
    if status == OK and padded != whole:
        for i in range(BLOCK):
            tail[i] = 0
        memcpy(tail, data + whole, n - whole)
        status = m.store.blob_write(b.block, b.written + whole, tail, BLOCK)
        b.crc = crc32c(b.crc, tail, BLOCK)
    b.written += n
    return status


cdef int blob_complete(TxnManager m, BlobWrite* b, char* reference) noexcept nogil:
    put64(reference, b.pid)
    put64(reference + 8, b.length)
    if m.read_only:
        return OK
    return m.store.blob_finish(b.pid, b.block, b.length, b.crc)


cdef void blob_cancel(TxnManager m, BlobWrite* b) noexcept nogil:
    if b.pid == 0:
        return
    if m.read_only:
        idmap_remove(&m.memory_blobs, b.pid)
        free(<void*>b.block)
        m.pool.forget(b.pid)
        b.pid = 0
        return
    latch_unlock(m.latch)
    m.store.blob_abandon(b.block, b.length)          # takes the latch itself
    latch_lock(m.latch)
    m.pool.forget(b.pid)
    b.pid = 0


cdef int blob_put(TxnManager m, Txn* t, const char* data, size_t n, uint64_t* number, char* reference, Lack* lack) noexcept nogil:
    cdef BlobWrite b
    cdef size_t done = 0, piece
    cdef int status
    cdef bint finished = False
    status = blob_start(m, n, &b, lack)
    if status != OK:
        return status
    t.blobs += 1
    number[0] = t.blobs
    t.blob_pid = b.pid
    while done < n and status == OK:
        piece = n - done if n - done < BLOB_CHUNK else BLOB_CHUNK
        while True:
            status = m.log_chunk(t, number[0], n, data + done, piece, lack)
            if status != AGAIN:
                break
            status = m.secure(t, lack)
            if status != OK:
                break
        if status != OK:
            break
        latch_unlock(m.latch)
        status = blob_append(m, &b, data + done, piece)
        latch_lock(m.latch)
        done += piece
    if status == OK:
        latch_unlock(m.latch)
        status = blob_complete(m, &b, reference)
        latch_lock(m.latch)
        finished = True
    if status != OK:
        if finished:
            m.pool.forget(b.pid)
        else:
            blob_cancel(m, &b)
        t.blob_pid = 0
        t.blob_lsn = 0
    return status
