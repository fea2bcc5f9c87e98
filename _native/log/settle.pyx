"""`settle_tail`: law 5 ("ends the log there durably") and law 6 ("writes it again in place and syncs it")."""
from libc.stdint cimport uint8_t, int64_t
from libc.stdlib cimport malloc, free
from libc.string cimport memset
from ..base.status cimport OK, ABSENT, E_NOMEM, fail, fail_corrupt
from ..base.vfs cimport VFS_READ, VFS_WRITE
from .segment cimport (
    HEADER_OK, PATH_ROOM, SEGMENT_HEADER, Listing, SegmentHeader, free_listing, get_segment_header, list_segments, segment_path,
)

cdef enum:
    PIECE = 1 << 20
    CUT = 4096                   # bytes of zeros behind the end: more than a group's header, so nothing there can follow


cdef int rewrite(Vfs vfs, int handle, uint8_t* buf, uint64_t from_, uint64_t to) noexcept nogil:
    """Writes file bytes [from_, to) as they are: pages that a failed sync left clean become dirty again."""
    cdef size_t n, got = 0
    cdef int rc
    while from_ < to:
        n = PIECE if to - from_ > PIECE else <size_t>(to - from_)
        rc = vfs.read(handle, buf, n, <int64_t>from_, &got)
        if rc != OK:
            return rc
        if got != n:
            return fail_corrupt(b"", <int64_t>(from_ + got), b"log bytes", n, got)
        rc = vfs.write(handle, buf, n, <int64_t>from_)
        if rc != OK:
            return rc
        from_ += n
    return OK


cdef int settle_file(Vfs vfs, const char* path, uint64_t first_lsn, uint64_t end_lsn, uint64_t known_synced, bint last) noexcept nogil:
    cdef uint8_t* buf
    cdef int handle = -1
    cdef int64_t size = 0
    cdef uint64_t from_ = 0                     # the header too, unless a synced group lies behind it
    cdef uint64_t end = end_lsn - first_lsn
    cdef size_t cut
    cdef int rc
    if known_synced > first_lsn + SEGMENT_HEADER:
        from_ = known_synced - first_lsn
    buf = <uint8_t*>malloc(PIECE)
    if buf == NULL:
        return fail(E_NOMEM, b"No memory to settle the log's tail")
    rc = vfs.open(path, VFS_WRITE, &handle)
    if rc == OK:
        rc = vfs.size(handle, &size)
        if end > <uint64_t>size and not last:
            end = <uint64_t>size                # a dead segment names an end that was never reached
        if rc == OK:
            rc = rewrite(vfs, handle, buf, from_, end)
        if rc == OK and last and end < <uint64_t>size:
            cut = CUT if <uint64_t>size - end > CUT else <size_t>(<uint64_t>size - end)
            memset(buf, 0, cut)
            rc = vfs.write(handle, buf, cut, <int64_t>end)
        if rc == OK:
            rc = vfs.sync(handle)
        vfs.close(handle)
    free(buf)
    return rc


cdef int named_end(Vfs vfs, const char* dir, const Listing* l, size_t i, size_t last, uint64_t* end) noexcept nogil:
    """The highest end that a later header, up to that of segment `last`, names in segment i; 0: none does. Dead headers may
    name too much, which costs a needless rewriting at most."""
    cdef char path[PATH_ROOM]
    cdef uint8_t head[SEGMENT_HEADER]
    cdef SegmentHeader h
    cdef size_t j, got
    cdef int handle = -1
    cdef int rc
    end[0] = 0
    for j in range(i + 1, last + 1):
        segment_path(path, dir, l.segments[j])
        rc = vfs.open(path, VFS_READ, &handle)
        if rc != OK:
            return rc
        got = 0
        rc = vfs.read(handle, head, SEGMENT_HEADER, 0, &got)
        vfs.close(handle)
        if rc != OK:
            return rc
        if (got == SEGMENT_HEADER and get_segment_header(head, l.segments[j], NULL, &h) == HEADER_OK
                and l.segments[i] < h.prev_end <= l.segments[i + 1] and h.prev_end > end[0]):
            end[0] = h.prev_end
    return OK


cdef int settle_tail(Vfs vfs, const char* dir, uint64_t end_lsn, uint64_t known_synced) noexcept nogil:
    cdef Listing l
    cdef char path[PATH_ROOM]
    cdef size_t i, last
    cdef uint64_t end = 0
    cdef int rc = list_segments(vfs, dir, &l)
    if rc != OK:
        return rc
    i = l.count
    while i > 0 and l.segments[i - 1] >= end_lsn:
        i -= 1
    if i == 0:
        free_listing(&l)
        return OK if end_lsn == 0 else fail_corrupt(dir, -1, b"log segment to settle", end_lsn, 0)
    last = i - 1
    # Segments ended by a relaxed switch may not have been synced any more than the last one. Oldest first.
    for i in range(last):
        if rc != OK or l.segments[i + 1] <= known_synced:
            continue
        rc = named_end(vfs, dir, &l, i, last, &end)
        segment_path(path, dir, l.segments[i])
        if rc == OK and end > known_synced:
            rc = settle_file(vfs, path, l.segments[i], end, known_synced, False)
    if rc == OK:
        segment_path(path, dir, l.segments[last])
        rc = settle_file(vfs, path, l.segments[last], end_lsn, known_synced, True)
    free_listing(&l)
    if rc == ABSENT:
        rc = fail_corrupt(path, -1, b"log segment to settle", end_lsn, 0)
    if rc != OK:
        return rc
    return vfs.sync_dir(dir)
