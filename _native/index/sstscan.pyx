"""Reading sorted tables from end to end: see sstscan.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy
from ..base.coding cimport compare_bytes, get32, get64
from ..base.status cimport ABSENT, E_NOMEM, OK, fail, fail_corrupt
from ..base.vfs cimport Vfs
from .block cimport (BLOCK_SLACK, TABLE_MAX_KEY, TAG_DELETE, TAG_FAR, BlockBounds, BlockPlace, Item, block_base_wall, block_check, block_enter,
                     block_group_end, block_groups, block_prefix, block_prefix_len, item_read, item_room, item_wall)
from .blockindex cimport Separator, index_check, index_first_of, index_offset, index_separator, index_size, index_spanned, separator_compare
from .compress cimport expand_bytes
from .filter cimport filter_hash
from .sstable cimport ENTRY_DELETE, ENTRY_PUT, Entry, Table, table_may_hold
from .sstfile cimport SEAL, seal_check

cdef uint64_t NO_TS = 0xFFFFFFFFFFFFFFFF


cdef struct TableScan:
    Entry entry
    Table* table
    void* vfs                      # the caller keeps it alive
    uint32_t block                 # the present one
    bint begun
    uint32_t partition             # the one at hand, plus one
    char* index                    # that partition's bytes
    char* data                     # the present block
    char* window                   # read ahead: bytes of the file from window_at on
    size_t window_room
    size_t window_used
    uint64_t window_at
    char* raw                      # for blocks that were compressed
    size_t raw_room
    char* far                      # a large value
    BlockPlace place
    BlockBounds bounds             # of the present block
    char key[TABLE_MAX_KEY + 8]


cdef TableScan* scan_open(Vfs vfs, Table* t, size_t read_ahead) noexcept nogil:
    cdef TableScan* s = <TableScan*>calloc(1, sizeof(TableScan))
    if s == NULL:
        return NULL
    s.table = t
    s.vfs = <void*>vfs
    s.window_room = read_ahead if read_ahead > 2 * t.block_size else 2 * <size_t>t.block_size
    s.window = <char*>malloc(s.window_room + BLOCK_SLACK)
    s.raw_room = t.block_size + 64
    s.raw = <char*>malloc(s.raw_room)
    if s.window == NULL or s.raw == NULL:
        scan_close(s)
        return NULL
    return s


cdef void scan_close(TableScan* s) noexcept nogil:
    free(s.index)
    free(s.window)
    free(s.raw)
    free(s.far)
    free(s)


cdef Entry* scan_entry(TableScan* s) noexcept nogil:
    return &s.entry


cdef int damaged(TableScan* s, uint64_t offset, const char* what, uint64_t expected, uint64_t found) noexcept nogil:
    return fail_corrupt(s.table.path, <int64_t>offset, what, expected, found)


cdef int stretch(TableScan* s, uint64_t offset, size_t size, bint ahead, char** out) noexcept nogil:
    """`size` stored bytes at `offset`, from the window where they are in it."""
    cdef size_t got = 0, wanted
    cdef char* grown
    cdef int status
    if offset >= s.window_at and offset + size <= s.window_at + s.window_used:
        out[0] = s.window + (offset - s.window_at)
        return OK
    if size > s.window_room:
        grown = <char*>realloc(s.window, size + BLOCK_SLACK)
        if grown == NULL:
            return fail(E_NOMEM, "no memory to read a sorted table")
        s.window = grown
        s.window_room = size
    wanted = s.window_room if ahead else size
    if offset + wanted > s.table.info.file_bytes:
        wanted = s.table.info.file_bytes - offset if offset < s.table.info.file_bytes else 0
    if wanted < size:
        wanted = size
    status = (<Vfs>s.vfs).read(s.table.handle, s.window, wanted, <int64_t>offset, &got)
    if status != OK:
        s.window_used = 0
        return status
    s.window_at = offset
    s.window_used = got
    if got < size:
        return damaged(s, offset, "the file ends in a block", size, got)
    out[0] = s.window
    return OK


cdef int sealed(TableScan* s, uint64_t offset, size_t size, uint64_t most, bint ahead, char** out, uint32_t* raw) noexcept nogil:
    """A checked stretch's content: in the window, or expanded into `raw`."""
    cdef char* stored
    cdef char* grown
    cdef uint8_t compression = 0
    cdef uint32_t expected = 0, found = 0
    cdef const char* wrong
    cdef int status = stretch(s, offset, size, ahead, &stored)
    if status != OK:
        return status
    wrong = seal_check(stored, size, s.table.number, offset, most, &compression, raw, &expected, &found)
    if wrong != NULL:
        return damaged(s, offset, wrong, expected, found)
    if compression == 0:
        out[0] = stored
        return OK
    if raw[0] + BLOCK_SLACK > s.raw_room:
        grown = <char*>realloc(s.raw, raw[0] + BLOCK_SLACK)
        if grown == NULL:
            return fail(E_NOMEM, "no memory to read a sorted table")
        s.raw = grown
        s.raw_room = raw[0] + BLOCK_SLACK
    if not expand_bytes(compression, stored, size - SEAL, s.raw, raw[0]):
        return damaged(s, offset, "a block that does not expand to its length", raw[0], size)
    out[0] = s.raw
    return OK


cdef int take_partition(TableScan* s, uint32_t p) noexcept nogil:
    cdef Table* t = s.table
    cdef uint64_t offset = index_offset(t.index, p)
    cdef uint32_t raw = 0, where = 0, spans
    cdef char* data
    cdef char* copy
    cdef const char* wrong
    cdef int status
    if s.partition == p + 1:
        return OK
    status = sealed(s, offset, index_size(t.index, p), t.block_size, False, &data, &raw)
    s.window_used = 0                                # the window is for data
    if status != OK:
        return status
    wrong = index_check(data, raw, 0, 0, t.data_end, t.block_size + SEAL, &where)
    spans = (index_first_of(t.index, p + 1) if p + 1 < t.partitions else t.info.blocks) - index_first_of(t.index, p)
    if wrong == NULL and index_spanned(data) != spans:
        wrong = "a partition of the index that spans other blocks than the top says"
    if wrong != NULL:
        return damaged(s, offset + where, wrong, spans, raw)
    copy = <char*>realloc(s.index, raw)
    if copy == NULL:
        return fail(E_NOMEM, "no memory to read a sorted table")
    memcpy(copy, data, raw)
    s.index = copy
    s.partition = p + 1
    return OK


cdef int take_block(TableScan* s, uint32_t block) noexcept nogil:
    cdef Table* t = s.table
    cdef uint64_t offset
    cdef uint32_t size, raw = 0, where = 0, p
    cdef const char* wrong
    cdef int status
    if t.partitions:
        p = s.partition - 1 if s.partition else 0
        if s.partition == 0 or (p + 1 < t.partitions and block >= index_first_of(t.index, p + 1)):
            p = p + 1 if s.partition else 0
            status = take_partition(s, p)
            if status != OK:
                return status
        offset = index_offset(s.index, block - index_first_of(t.index, p))
        size = index_size(s.index, block - index_first_of(t.index, p))
    else:
        offset = index_offset(t.index, block)
        size = index_size(t.index, block)
    status = sealed(s, offset, size, t.block_size - BLOCK_SLACK, True, &s.data, &raw)
    if status != OK:
        return status
    wrong = block_check(s.data, raw, t.base_ts, &s.bounds, &where)
    if wrong == NULL and s.bounds.far_end > t.data_end:
        wrong = "a value beyond the data of its file"
    if wrong == NULL and (compare_bytes(s.bounds.first, s.bounds.first_len, t.info.smallest, t.info.smallest_len) < 0
                          or (not t.info.unbounded and compare_bytes(s.bounds.last, s.bounds.last_len, t.info.largest, t.info.largest_len) > 0)):
        wrong = "keys beyond those of the table"
    if wrong != NULL:
        return damaged(s, offset + where, wrong, block, raw)
    s.block = block
    block_enter(s.data, 0, &s.place)
    memcpy(s.key, block_prefix(s.data), block_prefix_len(s.data))
    return OK


cdef int take_far(TableScan* s, uint64_t offset, uint32_t size, uint32_t length) noexcept nogil:
    cdef char* stored
    cdef size_t got = 0
    cdef uint8_t compression = 0
    cdef uint32_t raw = 0, expected = 0, found = 0
    cdef const char* wrong
    cdef int status
    free(s.far)
    s.far = NULL
    if size < SEAL or (s.table.info.compression == 0 and size != <uint64_t>length + SEAL):
        return damaged(s, offset, "a value of another length than its entry says", length, size)
    stored = <char*>malloc(size)
    if stored == NULL:
        return fail(E_NOMEM, "no memory for a large value")
    status = (<Vfs>s.vfs).read(s.table.handle, stored, size, <int64_t>offset, &got)
    if status == OK and got != size:
        status = damaged(s, offset, "the file ends in a value", size, got)
    if status == OK:
        wrong = seal_check(stored, size, s.table.number, offset, length, &compression, &raw, &expected, &found)
        if wrong == NULL and raw != length:
            wrong = "a value of another length than its entry says"
        if wrong != NULL:
            status = damaged(s, offset, wrong, expected, found)
    if status != OK or compression == 0:
        if status == OK:
            s.far = stored
        else:
            free(stored)
        return status
    s.far = <char*>malloc(<size_t>length + 1)
    if s.far == NULL:
        free(stored)
        return fail(E_NOMEM, "no memory for a large value")
    if not expand_bytes(compression, stored, size - SEAL, s.far, length):
        status = damaged(s, offset, "a value that does not expand to its length", length, size)
    free(stored)
    return status


cdef int scan_next(TableScan* s) noexcept nogil:
    cdef BlockPlace* p = &s.place
    cdef Item* i = &p.item
    cdef int status
    if not s.begun:
        if s.table.info.blocks == 0:
            return ABSENT
        status = take_block(s, 0)
        if status != OK:
            return status
        s.begun = True
    else:
        p.value += item_room(i)
        if p.following < block_group_end(s.data, p.group):
            p.offset = p.following
            p.following = <uint32_t>(item_read(<const uint8_t*>s.data + p.offset, i) - <const uint8_t*>s.data)
        elif p.group + 1 < block_groups(s.data):
            block_enter(s.data, p.group + 1, p)
        elif s.block + 1 < s.table.info.blocks:
            status = take_block(s, s.block + 1)
            if status != OK:
                return status
        else:
            return ABSENT
    memcpy(s.key + i.shared, i.suffix, i.unshared)
    s.entry.key = s.key
    s.entry.klen = i.shared + i.unshared
    s.entry.kind = ENTRY_DELETE if i.tags & TAG_DELETE else ENTRY_PUT
    s.entry.vlen = i.vlen
    s.entry.ts = s.table.base_ts + i.delta
    s.entry.wall = item_wall(i, block_base_wall(s.data))
    s.entry.value = s.data + p.value
    if i.tags & TAG_FAR:
        status = take_far(s, get64(s.data + p.value), get32(s.data + p.value + 8), i.vlen)
        s.entry.value = s.far
        return status
    return OK


cdef int scan_verify(Vfs vfs, Table* t) noexcept nogil:
    cdef TableScan* s = scan_open(vfs, t, 1 << 20)
    cdef char* last = <char*>malloc(TABLE_MAX_KEY + 8)
    cdef Separator* edge = <Separator*>malloc(sizeof(Separator))
    cdef uint32_t last_len = 0, block = 0, at
    cdef uint64_t last_ts = 0, entries = 0, tombstones = 0, keys = 0, raw = 0
    cdef bint fresh
    cdef int status = OK, c
    if s == NULL or last == NULL or edge == NULL:
        status = fail(E_NOMEM, "no memory to check a sorted table")
    while status == OK:
        status = scan_next(s)
        if status != OK:
            break
        fresh = True
        if entries:
            c = compare_bytes(last, last_len, s.entry.key, s.entry.klen)
            fresh = c != 0
            if c > 0 or (c == 0 and s.entry.ts >= last_ts):
                status = damaged(s, 0, "entries out of order", s.block, entries)
                break
        if (entries == 0 or s.block != block) and s.block:
            at = s.block
            if t.partitions:
                at -= index_first_of(t.index, s.partition - 1)
                if at:
                    index_separator(s.index, at, edge)
                else:
                    index_separator(t.index, s.partition - 1, edge)
            else:
                index_separator(t.index, at, edge)
            if separator_compare(edge, s.entry.key, s.entry.klen, s.entry.ts) < 0 or (entries and separator_compare(edge, last, last_len, last_ts) >= 0):
                status = damaged(s, 0, "the index leads to another block than a key's", s.block, entries)
                break
        block = s.block
        if fresh and not table_may_hold(t, filter_hash(s.entry.key, s.entry.klen)):
            status = damaged(s, 0, "the filter lacks a key", s.block, entries)
            break
        if s.entry.ts < t.info.oldest_ts or s.entry.ts > t.info.newest_ts:
            status = damaged(s, 0, "a timestamp beyond the table's", t.info.newest_ts, s.entry.ts)
            break
        memcpy(last, s.entry.key, s.entry.klen)
        last_len = s.entry.klen
        last_ts = s.entry.ts
        entries += 1
        keys += fresh
        tombstones += s.entry.kind == ENTRY_DELETE
        raw += <uint64_t>s.entry.klen + s.entry.vlen
    if status == ABSENT:
        status = OK
        if entries != t.info.entries or tombstones != t.info.tombstones or keys != t.keys or raw != t.info.raw_bytes:
            status = damaged(s, t.data_end, "counts that differ from the properties", t.info.entries, entries)
    if s != NULL:
        scan_close(s)
    free(last)
    free(edge)
    return status
