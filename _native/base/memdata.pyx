"""Copy-on-write contents of in-memory files; see the declarations for the invariants."""
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

cdef extern from *:
    """
    #define el_ref(p) __atomic_add_fetch(p, 1, __ATOMIC_RELAXED)
    #define el_unref(p) __atomic_sub_fetch(p, 1, __ATOMIC_ACQ_REL)
    #define el_refs(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
    """
    int el_ref(int* p) noexcept nogil
    int el_unref(int* p) noexcept nogil
    int el_refs(int* p) noexcept nogil


cdef void drop_table(Table* t) noexcept nogil:
    cdef int64_t i
    if t == NULL or el_unref(&t.refs) > 0:
        return
    for i in range(t.room):
        if t.chunks[i] != NULL and el_unref(&t.chunks[i].refs) == 0:
            free(t.chunks[i])
    free(t)


cdef int own_table(Data* d, int64_t need) noexcept nogil:
    """Makes the table ours alone, with room for `need` chunks."""
    cdef Table* old = d.table
    cdef Table* new
    cdef int64_t i, room
    if old != NULL and old.room >= need and el_refs(&old.refs) == 1:
        return 0
    room = old.room if old != NULL else 0
    if room < need:
        room = need if need > 2 * room else 2 * room
    new = <Table*>calloc(1, sizeof(Table) + <size_t>room * sizeof(Chunk*))
    if new == NULL:
        return -1
    new.refs = 1
    new.room = room
    if old != NULL:
        for i in range(old.room):
            new.chunks[i] = old.chunks[i]
            if new.chunks[i] != NULL:
                el_ref(&new.chunks[i].refs)
        drop_table(old)
    d.table = new
    return 0


cdef Chunk* own_chunk(Table* t, int64_t i) noexcept nogil:
    cdef Chunk* old = t.chunks[i]
    cdef Chunk* new
    if old != NULL and el_refs(&old.refs) == 1:
        return old
    new = <Chunk*>malloc(sizeof(Chunk))
    if new == NULL:
        return NULL
    new.refs = 1
    if old == NULL:
        memset(new.bytes, 0, CHUNK)
    else:
        memcpy(new.bytes, old.bytes, CHUNK)
        if el_unref(&old.refs) == 0:
            free(old)
    t.chunks[i] = new
    return new


cdef void data_init(Data* d) noexcept nogil:
    d.table = NULL
    d.size = 0


cdef void data_free(Data* d) noexcept nogil:
    drop_table(d.table)
    data_init(d)


cdef void data_share(Data* to, const Data* d) noexcept nogil:
    to.table = d.table
    to.size = d.size
    if to.table != NULL:
        el_ref(&to.table.refs)


cdef size_t data_read(const Data* d, char* buf, size_t n, int64_t offset) noexcept nogil:
    cdef size_t done = 0, part, at
    cdef int64_t i
    if offset >= d.size:
        return 0
    if <int64_t>n > d.size - offset:
        n = <size_t>(d.size - offset)
    while done < n:
        i = (offset + <int64_t>done) // CHUNK
        at = <size_t>((offset + <int64_t>done) % CHUNK)
        part = CHUNK - at
        if part > n - done:
            part = n - done
        if d.table == NULL or i >= d.table.room or d.table.chunks[i] == NULL:
            memset(buf + done, 0, part)
        else:
            memcpy(buf + done, d.table.chunks[i].bytes + at, part)
        done += part
    return n


cdef int data_write(Data* d, const char* buf, size_t n, int64_t offset) noexcept nogil:
    cdef size_t done = 0, part, at
    cdef int64_t i
    cdef Chunk* c
    if n == 0:
        return 0
    if own_table(d, (offset + <int64_t>n + CHUNK - 1) // CHUNK):
        return -1
    while done < n:
        i = (offset + <int64_t>done) // CHUNK
        at = <size_t>((offset + <int64_t>done) % CHUNK)
        part = CHUNK - at
        if part > n - done:
            part = n - done
        if d.table.chunks[i] != NULL or buf[done] != 0 or memcmp(buf + done, buf + done + 1, part - 1) != 0:
            c = own_chunk(d.table, i)
            if c == NULL:
                return -1
            memcpy(c.bytes + at, buf + done, part)
        done += part
        if offset + <int64_t>done > d.size:
            d.size = offset + <int64_t>done
    return 0


cdef int data_resize(Data* d, int64_t size) noexcept nogil:
    cdef int64_t i
    cdef Chunk* c
    if size < d.size and d.table != NULL:
        if own_table(d, 0):
            return -1
        i = size // CHUNK
        if size % CHUNK and i < d.table.room and d.table.chunks[i] != NULL:
            c = own_chunk(d.table, i)
            if c == NULL:
                return -1
            memset(c.bytes + size % CHUNK, 0, <size_t>(CHUNK - size % CHUNK))
        for i in range((size + CHUNK - 1) // CHUNK, d.table.room):
            if d.table.chunks[i] != NULL and el_unref(&d.table.chunks[i].refs) == 0:
                free(d.table.chunks[i])
            d.table.chunks[i] = NULL
    d.size = size
    return 0
