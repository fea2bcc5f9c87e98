"""Segment files: their headers, names and listings, and how one is made. No state."""
from libc.stdio cimport snprintf
from libc.stdint cimport int64_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc, qsort
from libc.string cimport memcpy, memcmp, memset, strlen
from ..base.status cimport OK, ABSENT, E_FULL, E_NOMEM, fail
from ..base.checksum cimport crc32c
from ..base.coding cimport get32, get64, put32, put64
from ..base.vfs cimport VFS_CREATE, VFS_TAIL, VFS_WRITE

cdef enum:
    ZERO_PIECE = 1 << 20

cdef const char* MAGIC = b"ENGLIBwl"      # on disk: never change


cdef void put_segment_header(uint8_t* out, const SegmentHeader* h) noexcept nogil:
    memset(out, 0, SEGMENT_HEADER)
    memcpy(out, MAGIC, 8)
    put32(out + 8, h.version)
    put32(out + 12, h.incarnation)
    memcpy(out + 16, h.database_id, 16)
    put64(out + 32, h.first_lsn)
    put64(out + 40, h.prev_end)
    put32(out + 48, h.prev_crc)
    put32(out + 52, <uint32_t>(h.segment_size // LSN_UNIT))
    put32(out + 56, h.flags)
    put32(out + 60, crc32c(0, out, 60))


cdef int get_segment_header(const uint8_t* p, uint64_t named, const uint8_t* database_id, SegmentHeader* h) noexcept nogil:
    if memcmp(p, MAGIC, 8) != 0 or get32(p + 60) != crc32c(0, p, 60):
        return HEADER_UNUSED
    h.version = get32(p + 8)
    h.incarnation = get32(p + 12)
    memcpy(h.database_id, p + 16, 16)
    h.first_lsn = get64(p + 32)
    h.prev_end = get64(p + 40)
    h.prev_crc = get32(p + 48)
    h.segment_size = <uint64_t>get32(p + 52) * LSN_UNIT
    if h.first_lsn != named:
        return HEADER_UNUSED
    h.flags = get32(p + 56)
    if h.version > FORMAT_VERSION or h.flags & ~<uint32_t>PREV_UNSYNCED:
        return HEADER_NEWER
    if h.segment_size < MIN_SEGMENT or h.prev_end > h.first_lsn:
        return HEADER_UNUSED
    if database_id != NULL and memcmp(h.database_id, database_id, 16) != 0:
        return HEADER_FOREIGN
    return HEADER_OK


cdef void get_group_header(const uint8_t* p, GroupHeader* h) noexcept nogil:
    h.crc = get32(p)
    h.length = get32(p + 4)
    h.lsn = get64(p + 8)
    h.synced_lsn = get64(p + 16)
    h.incarnation = get32(p + 24)
    h.prev_crc = get32(p + 28)


cdef void put_group_header(uint8_t* p, const GroupHeader* h) noexcept nogil:
    put32(p + 4, h.length)
    put64(p + 8, h.lsn)
    put64(p + 16, h.synced_lsn)
    put32(p + 24, h.incarnation)


cdef uint32_t seal_group(uint8_t* group, uint32_t prev_crc) noexcept nogil:
    cdef uint32_t crc
    put32(group + 28, prev_crc)
    crc = crc32c(0, group + 4, <size_t>get32(group + 4) + GROUP_HEADER - 4)
    put32(group, crc)
    return crc


cdef int segment_path(char* out, const char* dir, uint64_t first_lsn) noexcept nogil:
    return snprintf(out, PATH_ROOM, b"%s/%016llx.wal", dir, <unsigned long long>first_lsn)


cdef int spare_path(char* out, const char* dir, int n) noexcept nogil:
    return snprintf(out, PATH_ROOM, b"%s/spare-%d.wal", dir, n)


cdef int name_path(char* out, const char* dir, const char* name) noexcept nogil:
    return snprintf(out, PATH_ROOM, b"%s/%s", dir, name)


cdef void parent_path(char* out, const char* dir) noexcept nogil:
    """The directory that holds `dir`, at most DIR_MAX long."""
    cdef size_t n = strlen(dir)
    while n > 1 and dir[n - 1] == c'/':
        n -= 1
    while n > 0 and dir[n - 1] != c'/':
        n -= 1
    while n > 1 and dir[n - 1] == c'/':
        n -= 1
    if n == 0:
        memcpy(out, b".", 2)
        return
    memcpy(out, dir, n)
    out[n] = 0


cdef bint parse_segment(const char* name, uint64_t* first_lsn) noexcept nogil:
    cdef int i
    cdef uint64_t v = 0
    cdef char c
    if strlen(name) != 20 or memcmp(name + 16, b".wal", 4) != 0:
        return False
    for i in range(16):
        c = name[i]
        if c'0' <= c <= c'9':
            v = v * 16 + <uint64_t>(c - c'0')
        elif c'a' <= c <= c'f':
            v = v * 16 + <uint64_t>(c - c'a' + 10)
        else:
            return False
    first_lsn[0] = v
    return v % LSN_UNIT == 0


cdef bint parse_spare(const char* name, int* n) noexcept nogil:
    cdef size_t length = strlen(name)
    if length < 11 or length > 12 or memcmp(name, b"spare-", 6) != 0 or memcmp(name + length - 4, b".wal", 4) != 0:
        return False
    if not c'0' <= name[6] <= c'9':
        return False
    n[0] = name[6] - c'0'
    if length == 12:
        if not c'0' <= name[7] <= c'9' or n[0] == 0:
            return False
        n[0] = n[0] * 10 + (name[7] - c'0')
    return n[0] < 64


cdef int compare_lsn(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t*>a)[0]
    cdef uint64_t y = (<const uint64_t*>b)[0]
    return -1 if x < y else (1 if x > y else 0)


cdef int list_segments(Vfs vfs, const char* dir, Listing* out) noexcept nogil:
    cdef char* names = NULL
    cdef char* p
    cdef size_t count = 0, _i, length
    cdef uint64_t first = 0
    cdef int n = 0, rc
    memset(out, 0, sizeof(Listing))
    rc = vfs.list_dir(dir, &names, &count)
    if rc != OK:
        return rc
    out.segments = <uint64_t*>malloc((count + 1) * sizeof(uint64_t))
    if out.segments == NULL:
        free(names)
        return fail(E_NOMEM, b"No memory to list the log's segments")
    p = names
    for _i in range(count):
        length = strlen(p)
        if parse_segment(p, &first):
            out.segments[out.count] = first
            out.count += 1
        elif parse_spare(p, &n):
            out.spares |= <uint64_t>1 << n
        elif length > 4 and memcmp(p + length - 4, b".tmp", 4) == 0:
            out.leftovers = True
        p += length + 1
    free(names)
    qsort(out.segments, out.count, sizeof(uint64_t), &compare_lsn)
    return OK


cdef void free_listing(Listing* l) noexcept nogil:
    free(l.segments)
    memset(l, 0, sizeof(Listing))


cdef int fill_file(Vfs vfs, const char* path, uint64_t size, bint written, int* handle, bint* final) noexcept nogil:
    """Makes a file of zeros at `path`; written: every block of it, so that the syncs of commits will change no metadata. Who does not
    sync at each commit is served better by blocks that are only reserved, and writes each byte once."""
    cdef uint64_t at = 0
    cdef size_t n
    cdef uint8_t* zeros
    cdef int rc = vfs.open(path, VFS_WRITE | VFS_CREATE | VFS_TAIL, handle)     # in folios as write_tail wants them
    if rc != OK:
        return rc
    rc = vfs.truncate(handle[0], 0)
    if rc == OK and not written:
        rc = vfs.reserve(handle[0], <int64_t>size)
        final[0] = rc != OK and rc != E_FULL
        return rc
    zeros = <uint8_t*>calloc(1, ZERO_PIECE)
    if zeros == NULL:
        return fail(E_NOMEM, b"No memory to make a log segment")
    while rc == OK and at < size:
        n = ZERO_PIECE if size - at > ZERO_PIECE else <size_t>(size - at)
        rc = vfs.write(handle[0], zeros, n, <int64_t>at)
        final[0] = rc != OK and rc != E_FULL
        at += n
    free(zeros)
    return rc


cdef int segment_make(Vfs vfs, const char* dir, uint64_t segment_size, uint64_t first, const SegmentHeader* header, const char* donor, bint durable,
                      int* handle, bint* final, bint* donor_gone) noexcept nogil:
    cdef char path[PATH_ROOM]
    cdef char made[PATH_ROOM]
    cdef uint8_t head[SEGMENT_HEADER + GROUP_HEADER]
    cdef uint8_t old[SEGMENT_HEADER]
    cdef int64_t size = 0
    cdef size_t got = 0
    cdef int h = -1
    cdef int rc = ABSENT
    cdef bint synced = durable
    memset(head, 0, sizeof(head))
    if header != NULL:
        put_segment_header(head, header)
    segment_path(path, dir, first)
    if donor != NULL:
        rc = vfs.open(donor, VFS_WRITE, &h)
        if rc == OK:
            memcpy(made, donor, strlen(donor) + 1)
            rc = vfs.size(h, &size)
            if rc == OK and <uint64_t>size != segment_size:
                vfs.close(h)
                vfs.unlink(donor)
                rc = ABSENT
            elif rc == OK and not durable:
                # A header that names another LSN than the file's name is none (get_segment_header), wiped or not. One that
                # names this very LSN (its life ended with the file under that name not yet durable) must be gone first.
                rc = vfs.read(h, old, SEGMENT_HEADER, 0, &got)
                synced = got == SEGMENT_HEADER and get64(old + 32) == first
        if rc == ABSENT:
            donor_gone[0] = True
    if rc == ABSENT:
        name_path(made, dir, b"next.tmp")
        rc = fill_file(vfs, made, segment_size, durable, &h, final)
    # The header of what the file was before must not be taken for this segment's: it is overwritten before the renaming.
    if rc == OK:
        rc = vfs.write(h, head, sizeof(head), 0)
        if rc == OK and synced:
            rc = vfs.sync(h)
        if rc != OK and rc != E_FULL:
            final[0] = True
    if h >= 0:
        vfs.close(h)
    if rc == OK:
        rc = vfs.rename(made, path)
    if rc != OK:
        if donor == NULL or donor_gone[0]:
            vfs.unlink(made)
        return rc
    donor_gone[0] = True
    if durable:
        rc = vfs.sync_dir(dir)
        if rc != OK:
            final[0] = rc != E_FULL
            return rc
    return vfs.open(path, VFS_WRITE | VFS_TAIL, handle)
