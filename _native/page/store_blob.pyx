"""See store_blob.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset
from ..base.checksum cimport crc32c
from ..base.latch cimport latch_lock, latch_unlock
from ..base.status cimport E_INVALID, OK, fail, fail_corrupt
from .store cimport BLOCK, MapEntry, PageStore, blocks_for


cdef int large_begin(PageStore s, uint64_t pid, uint64_t length, uint64_t* block) noexcept nogil:
    cdef int rc
    if length == 0 or blocks_for(length) > 0xFFFFFFFFu:
        return fail(E_INVALID, b"Impossible length of a large value")
    rc = s.ensure_space()
    if rc != OK:
        return rc
    latch_lock(s.latch)
    rc = s.take(blocks_for(length), block)
    latch_unlock(s.latch)
    return rc


cdef int large_write(PageStore s, uint64_t block, uint64_t offset, const char* data, size_t n) noexcept nogil:
    return s.vfs.write(s.handle, data, n, block * BLOCK + offset)


cdef int large_finish(PageStore s, uint64_t pid, uint64_t block, uint64_t length, uint32_t crc) noexcept nogil:
    cdef char zeros[BLOCK]
    cdef MapEntry e
    cdef int rc = OK
    if length % BLOCK:
        memset(zeros, 0, BLOCK)
        rc = s.vfs.write(s.handle, zeros, BLOCK - length % BLOCK, block * BLOCK + length)
        if rc != OK:
            return rc
    e.block = block
    e.blocks = <uint32_t>blocks_for(length)
    e.crc = crc
    latch_lock(s.latch)
    rc = s.prepare_landing(pid, s.generation)
    if rc == OK:
        s.land(pid, &e, s.generation)
    latch_unlock(s.latch)
    return rc


cdef int large_abandon(PageStore s, uint64_t block, uint64_t length) noexcept nogil:
    latch_lock(s.latch)
    s.give_back(block, blocks_for(length))
    latch_unlock(s.latch)
    return OK


cdef int large_read(PageStore s, uint64_t pid, uint64_t length, char* out) noexcept nogil:
    cdef char pad[BLOCK]
    cdef char text[96]
    cdef MapEntry e
    cdef uint64_t token = 0
    cdef size_t got = 0, n = 0, rest
    cdef uint32_t crc
    cdef int rc = s.locate(pid, &e, &token)
    if rc != OK:
        return rc
    if e.blocks != blocks_for(length):
        snprintf(text, sizeof(text), "Large value %llu: its length contradicts the page map", <unsigned long long>pid)
        rc = fail_corrupt(s.path, e.block * BLOCK, text, e.blocks, blocks_for(length))
    else:
        rest = <size_t>e.blocks * BLOCK - length
        rc = s.vfs.read(s.handle, out, length, e.block * BLOCK, &got)
        if rc == OK and rest:
            rc = s.vfs.read(s.handle, pad, rest, e.block * BLOCK + length, &n)
        if rc == OK and (got < length or n < rest):
            snprintf(text, sizeof(text), "Large value %llu: the file ends too early", <unsigned long long>pid)
            rc = fail_corrupt(s.path, e.block * BLOCK + got + n, text, <uint64_t>e.blocks * BLOCK, got + n)
        if rc == OK:
            crc = crc32c(crc32c(0, out, length), pad, rest)
            if crc != e.crc:
                snprintf(text, sizeof(text), "Large value %llu: wrong checksum", <unsigned long long>pid)
                rc = fail_corrupt(s.path, e.block * BLOCK, text, e.crc, crc)
    latch_lock(s.latch)
    s.reader_end(token)
    latch_unlock(s.latch)
    return rc
