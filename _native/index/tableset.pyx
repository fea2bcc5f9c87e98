"""Sets of sorted tables: see tableset.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from ..base.coding cimport MAX_VARINT, compare_bytes, get_varint, put_varint
from ..base.status cimport OK, E_NOMEM, fail, fail_corrupt

cdef enum:
    FILE_NUMBERS = 14              # varints of an added file, its key lengths included
    MOST_FILES = 1 << 24           # in one edit


cdef void edit_init(Edit* e) noexcept nogil:
    memset(e, 0, sizeof(Edit))


cdef EditFile* append(Edit* e) noexcept nogil:
    cdef EditFile* grown
    if e.count == e.room:
        grown = <EditFile*>realloc(e.items, <size_t>(e.room * 2 + 8) * sizeof(EditFile))
        if grown == NULL:
            e.failed = True
            return NULL
        e.items = grown
        e.room = e.room * 2 + 8
    e.count += 1
    return &e.items[e.count - 1]


cdef void edit_add(Edit* e, int level, TableFile* f) noexcept nogil:
    cdef EditFile* item = append(e)
    if item != NULL:
        item.level = level
        item.number = f.number
        item.file = f


cdef void edit_remove(Edit* e, int level, uint64_t number) noexcept nogil:
    cdef EditFile* item = append(e)
    if item != NULL:
        item.level = level
        item.number = number
        item.file = NULL


cdef void edit_free(Edit* e, bint files) noexcept nogil:
    cdef int i
    if files:
        for i in range(e.count):
            if e.items[i].file != NULL and e.items[i].file.refs == 0:
                file_free(e.items[i].file)
    free(e.items)
    e.items = NULL
    e.count = e.room = 0


cdef size_t edit_size(const Edit* e) noexcept nogil:
    cdef size_t n = 8 * MAX_VARINT
    cdef int i
    for i in range(e.count):
        n += 2 * MAX_VARINT
        if e.items[i].file != NULL:
            n += FILE_NUMBERS * MAX_VARINT + e.items[i].file.info.smallest_len + e.items[i].file.info.largest_len
    return n


cdef size_t edit_encode(const Edit* e, uint8_t* out) noexcept nogil:
    cdef uint8_t* p = out
    cdef const TableInfo* f
    cdef int i, added = 0
    for i in range(e.count):
        added += e.items[i].file != NULL
    p = put_varint(p, EDIT_VERSION)
    p = put_varint(p, e.persisted_lsn)
    p = put_varint(p, e.next_number)
    p = put_varint(p, e.count - added)
    p = put_varint(p, added)
    for i in range(e.count):
        if e.items[i].file == NULL:
            p = put_varint(p, e.items[i].level)
            p = put_varint(p, e.items[i].number)
    for i in range(e.count):
        if e.items[i].file == NULL:
            continue
        f = &e.items[i].file.info
        p = put_varint(p, e.items[i].level)
        p = put_varint(p, e.items[i].number)
        p = put_varint(p, f.file_bytes)
        p = put_varint(p, f.entries)
        p = put_varint(p, f.tombstones)
        p = put_varint(p, f.range_tombstones)
        p = put_varint(p, f.oldest_ts)
        p = put_varint(p, f.newest_ts)
        p = put_varint(p, f.oldest_wall)
        p = put_varint(p, f.newest_wall)
        p = put_varint(p, f.raw_bytes)
        p = put_varint(p, f.blocks)
        p = put_varint(p, f.compression | (0x80 if f.unbounded else 0) | (0x100 if e.items[i].file.loaded else 0))
        p = put_varint(p, f.smallest_len)
        p = put_varint(p, f.largest_len)
        memcpy(p, f.smallest, f.smallest_len)
        p += f.smallest_len
        memcpy(p, f.largest, f.largest_len)
        p += f.largest_len
    return p - out


cdef struct Input:
    const uint8_t* p
    const uint8_t* end
    bint bad


cdef uint64_t take(Input* r) noexcept nogil:
    cdef uint64_t v = 0
    cdef const uint8_t* q
    if r.bad:
        return 0
    q = get_varint(r.p, r.end, &v)
    if q == NULL:
        r.bad = True
        return 0
    r.p = q
    return v


cdef char* take_key(Input* r, uint64_t n) noexcept nogil:
    """A copy of the next n bytes; NULL when they are not there, or no memory (bad is set in either case)."""
    cdef char* copy
    if r.bad or n > <uint64_t>(r.end - r.p):
        r.bad = True
        return NULL
    copy = <char*>malloc(n + 1)
    if copy == NULL:
        r.bad = True
        return NULL
    memcpy(copy, r.p, n)
    r.p += n
    return copy


cdef int malformed(uint64_t found) noexcept nogil:
    return fail_corrupt("log", -1, "an edit of an LSM-tree's tables is malformed", EDIT_VERSION, found)


cdef int edit_decode(Edit* e, const uint8_t* data, size_t n) noexcept nogil:
    cdef Input r
    cdef uint64_t removed, added, level, number, flags, klen, largest, version
    cdef TableFile* f
    edit_init(e)
    r.p = data
    r.end = data + n
    r.bad = False
    version = take(&r)
    if r.bad or version != EDIT_VERSION:
        return malformed(version)
    e.persisted_lsn = take(&r)
    e.next_number = take(&r)
    removed = take(&r)
    added = take(&r)
    if r.bad or removed > MOST_FILES or added > MOST_FILES:
        return malformed(added)
    while removed and not r.bad:
        removed -= 1
        level = take(&r)
        number = take(&r)
        if level >= LSM_LEVELS:
            r.bad = True
            break
        edit_remove(e, <int>level, number)
    while added and not r.bad:
        added -= 1
        level = take(&r)
        number = take(&r)
        if level >= LSM_LEVELS or r.bad:
            r.bad = True
            break
        f = file_new(number)
        if f == NULL:
            e.failed = True
            break
        f.info.file_bytes = take(&r)
        f.info.entries = take(&r)
        f.info.tombstones = take(&r)
        f.info.range_tombstones = take(&r)
        f.info.oldest_ts = take(&r)
        f.info.newest_ts = take(&r)
        f.info.oldest_wall = take(&r)
        f.info.newest_wall = take(&r)
        f.info.raw_bytes = take(&r)
        f.info.blocks = <uint32_t>take(&r)
        flags = take(&r)
        f.info.compression = flags & 0x7F
        f.info.unbounded = (flags & 0x80) != 0
        f.loaded = (flags & 0x100) != 0
        klen = take(&r)
        largest = take(&r)
        f.info.smallest = take_key(&r, klen)
        f.info.largest = take_key(&r, largest)
        if r.bad:
            file_free(f)
            break
        f.info.smallest_len = <uint32_t>klen
        f.info.largest_len = <uint32_t>largest
        edit_add(e, <int>level, f)
        if e.failed:
            file_free(f)
    if e.failed:
        edit_free(e, True)
        return fail(E_NOMEM, "no memory for the table of an LSM-tree's files")
    if r.bad or r.p != r.end:
        edit_free(e, True)
        return malformed(version)
    return OK


cdef TableFile* file_new(uint64_t number) noexcept nogil:
    cdef TableFile* f = <TableFile*>calloc(1, sizeof(TableFile))
    if f != NULL:
        f.number = number
    return f


cdef void file_free(TableFile* f) noexcept nogil:
    free(f.info.smallest)
    free(f.info.largest)
    free(f)


cdef void file_stamp(TableFile* f, uint64_t ts) noexcept nogil:
    f.loaded = True
    f.info.oldest_ts = f.info.newest_ts = ts
    if f.table != NULL:
        f.table.base_ts = f.table.info.oldest_ts = f.table.info.newest_ts = ts


cdef TableSet* set_empty() noexcept nogil:
    cdef TableSet* s = <TableSet*>calloc(1, sizeof(TableSet))
    if s != NULL:
        s.refs = 1
    return s


cdef bint before(const TableFile* a, const TableFile* b, int level) noexcept nogil:
    """Whether a stands before b in the level."""
    if level == 0:
        return a.info.newest_ts > b.info.newest_ts or (a.info.newest_ts == b.info.newest_ts and a.number > b.number)
    return compare_bytes(a.info.smallest, a.info.smallest_len, b.info.smallest, b.info.smallest_len) < 0


cdef void set_discard(TableSet* s) noexcept nogil:
    cdef int level
    for level in range(LSM_LEVELS):
        free(s.files[level])
    free(s)


cdef TableSet* set_apply(TableSet* old, const Edit* e, int* status) noexcept nogil:
    cdef TableSet* s = set_empty()
    cdef int level, i, j, n, removed
    cdef TableFile* f
    cdef bint gone
    status[0] = OK
    if s == NULL:
        status[0] = fail(E_NOMEM, "no memory for the table of an LSM-tree's files")
        return NULL
    removed = 0
    for level in range(LSM_LEVELS):
        n = old.counts[level]
        for i in range(e.count):
            n += e.items[i].file != NULL and e.items[i].level == level
        s.files[level] = <TableFile**>malloc(<size_t>(n + 1) * sizeof(TableFile*))
        if s.files[level] == NULL:
            set_discard(s)
            status[0] = fail(E_NOMEM, "no memory for the table of an LSM-tree's files")
            return NULL
        n = 0
        for i in range(old.counts[level]):
            f = old.files[level][i]
            gone = False
            for j in range(e.count):
                if e.items[j].file == NULL and e.items[j].level == level and e.items[j].number == f.number:
                    gone = True
                    removed += 1
                    break
            if not gone:
                s.files[level][n] = f
                n += 1
        for i in range(e.count):
            if e.items[i].file == NULL or e.items[i].level != level:
                continue
            f = e.items[i].file
            j = n
            while j > 0 and before(f, s.files[level][j - 1], level):
                s.files[level][j] = s.files[level][j - 1]
                j -= 1
            s.files[level][j] = f
            n += 1
        s.counts[level] = n
        for i in range(n):
            s.bytes[level] += s.files[level][i].info.file_bytes
            s.ranges += s.files[level][i].info.range_tombstones
            if level == 0 and (i == 0 or s.files[0][i].info.newest_ts != s.files[0][i - 1].info.newest_ts):
                s.runs += 1
    for i in range(e.count):
        removed -= e.items[i].file == NULL
    if removed != 0 or set_check(s) != NULL:
        set_discard(s)
        status[0] = fail_corrupt("log", -1, "an edit of an LSM-tree's tables does not fit the tables it has", 0, <uint64_t>removed)
        return NULL
    for level in range(LSM_LEVELS):
        for i in range(s.counts[level]):
            s.files[level][i].refs += 1
    return s


cdef void set_ref(TableSet* s) noexcept nogil:
    s.refs += 1


cdef void file_unref(TableFile* f, TableFile** dead) noexcept nogil:
    f.refs -= 1
    if f.refs == 0:
        f.next_dead = dead[0]
        dead[0] = f


cdef void set_unref(TableSet* s, TableFile** dead) noexcept nogil:
    cdef int level, i
    s.refs -= 1
    if s.refs:
        return
    for level in range(LSM_LEVELS):
        for i in range(s.counts[level]):
            file_unref(s.files[level][i], dead)
    set_discard(s)


cdef void set_describe(TableSet* s, Edit* e) noexcept nogil:
    cdef int level, i
    for level in range(LSM_LEVELS):
        for i in range(s.counts[level]):
            edit_add(e, level, s.files[level][i])


cdef int set_tables(const TableSet* s) noexcept nogil:
    cdef int level, n = 0
    for level in range(LSM_LEVELS):
        n += s.counts[level]
    return n


cdef int level_search(const TableSet* s, int level, const char* key, size_t klen) noexcept nogil:
    cdef int low = 0, high = s.counts[level], middle
    cdef TableFile* f
    while low < high:
        middle = (low + high) >> 1
        f = s.files[level][middle]
        if not f.info.unbounded and compare_bytes(f.info.largest, f.info.largest_len, key, klen) < 0:
            low = middle + 1
        else:
            high = middle
    return low


cdef bint file_may_hold(const TableFile* f, const char* key, size_t klen) noexcept nogil:
    return (compare_bytes(f.info.smallest, f.info.smallest_len, key, klen) <= 0
            and (f.info.unbounded or compare_bytes(f.info.largest, f.info.largest_len, key, klen) >= 0))


cdef bint file_overlaps(const TableFile* f, const char* low, size_t low_len, const char* high, size_t high_len) noexcept nogil:
    if high != NULL and compare_bytes(f.info.smallest, f.info.smallest_len, high, high_len) > 0:
        return False
    return low == NULL or f.info.unbounded or compare_bytes(f.info.largest, f.info.largest_len, low, low_len) >= 0


cdef const char* set_check(const TableSet* s) noexcept nogil:
    cdef int level, i, order
    cdef TableFile* a
    cdef TableFile* b
    for level in range(LSM_LEVELS):
        for i in range(s.counts[level]):
            a = s.files[level][i]
            if compare_bytes(a.info.smallest, a.info.smallest_len, a.info.largest, a.info.largest_len) > 0 and not a.info.unbounded:
                return "a table's least key is above its greatest"
            if i == 0:
                continue
            b = s.files[level][i - 1]
            if not before(b, a, level):
                return "tables are out of order in their level"
            if level == 0:
                continue
            order = compare_bytes(b.info.largest, b.info.largest_len, a.info.smallest, a.info.smallest_len)
            # The end of a range of deleted keys, which is not in the table, may be the next table's first key.
            if b.info.unbounded or order > 0 or (order == 0 and b.info.range_tombstones == 0):
                return "tables of one level overlap"
    return NULL
