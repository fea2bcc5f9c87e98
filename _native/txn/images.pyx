"""Before-images: see images.pxd."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset
from ..base.coding cimport get64
from ..base.status cimport OK, AGAIN
from ..index.btree cimport Cell
from ..log.record cimport IMAGE_ABSENT, IMAGE_LARGE, IMAGE_PIECE, IMAGE_THERE, IMAGE_VALUE, R_BEFORE, R_DELETE, R_PUT, R_PUT_BLOB, RECORD_OVERHEAD, Record
from ..page.layout cimport VALUE_BLOB
from .transaction cimport IMAGES_KEY, OP_PUT, Lack, TxnManager
from .versions cimport Txn


cdef int log_with_image(TxnManager m, Txn* t, int level, int op, uint32_t keyspace, const char* key, size_t klen, const char* value, size_t vlen,
                        uint16_t flags, uint64_t blob_number, bint present, const Cell* cell, uint64_t* lsn, Lack* lack) noexcept nogil:
    cdef Record r
    cdef bint large = present and cell.flags & VALUE_BLOB != 0
    memset(&r, 0, sizeof(Record))
    r.type = R_DELETE
    r.keyspace = keyspace
    r.key = key
    r.klen = klen
    if op == OP_PUT and flags & VALUE_BLOB:
        r.type = R_PUT_BLOB
        r.a = blob_number
        r.b = get64(value + 8)
    elif op == OP_PUT:
        r.type = R_PUT
        r.value = value
        r.vlen = vlen
    if not present:
        return log_record_with_image(m, t, level, &r, False, NULL, 0, False, lsn, lack)
    return log_record_with_image(m, t, level, &r, True, cell.value, get64(cell.value + 8) if large else cell.vlen, large, lsn, lack)


cdef int log_record_with_image(TxnManager m, Txn* t, int level, Record* r, bint present, const char* old, uint64_t length, bint apart, uint64_t* lsn,
                               Lack* lack) noexcept nogil:
    cdef Record image
    cdef size_t need
    cdef int status
    memset(&image, 0, sizeof(Record))
    image.type = R_BEFORE
    image.keyspace = r.keyspace
    if not present:
        image.a = IMAGE_ABSENT
    elif level == IMAGES_KEY:
        image.a = IMAGE_THERE
    elif length <= IMAGE_MOST and not apart:
        image.a = IMAGE_VALUE
        image.value = old
        image.vlen = length
    elif t.image_lsn != 0 and t.image_lsn == t.last_lsn and t.image_length == length:
        image.a = IMAGE_LARGE
        image.b = length
    else:
        lack.image = True
        return AGAIN
    need = r.klen + r.vlen + image.vlen + 2 * RECORD_OVERHEAD
    status = m.log.reserve(need)
    if status != OK:
        lack.log_bytes = need
        return status
    if t.id == 0:
        status = m.start_writing(t, lack)
        if status != OK:
            return status
    r.txn = image.txn = t.id
    lsn[0] = m.log.append(r)
    m.log.append(&image)
    t.image_lsn = 0
    return OK


cdef int log_piece(TxnManager m, Txn* t, uint32_t keyspace, uint64_t at, const char* data, size_t n, Lack* lack) noexcept nogil:
    cdef Record r
    cdef int status = m.check(t, True)
    if status != OK:
        return status
    status = m.log.reserve(n + RECORD_OVERHEAD)
    if status != OK:
        lack.log_bytes = n + RECORD_OVERHEAD
        return status
    if t.id == 0:
        status = m.start_writing(t, lack)
        if status != OK:
            return status
    memset(&r, 0, sizeof(Record))
    r.type = R_BEFORE
    r.txn = t.id
    r.keyspace = keyspace
    r.a = IMAGE_PIECE
    r.b = at
    r.value = data
    r.vlen = n
    t.last_lsn = m.log.append(&r)
    return OK


cdef int log_image(TxnManager m, Txn* t, uint32_t keyspace, const char* data, size_t n, Lack* lack) noexcept nogil:
    cdef size_t done = 0, piece
    cdef int status
    t.image_lsn = 0
    while done < n:
        piece = n - done if n - done < IMAGE_BITE else IMAGE_BITE
        status = log_piece(m, t, keyspace, done, data + done, piece, lack)
        if status == OK:
            done += piece
            continue
        if status == AGAIN:
            status = m.secure(t, lack)
        if status != OK:
            return status
    t.image_lsn = t.last_lsn
    t.image_length = n
    return OK
