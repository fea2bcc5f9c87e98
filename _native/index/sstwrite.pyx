"""The writer of sorted tables: see sstwrite.pxd; what lies where is in sstfile.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from ..base.checksum cimport crc32c
from ..base.coding cimport compare_bytes, put32, put64
from ..base.status cimport AGAIN, E_INVALID, E_NOMEM, E_NOT_SUPPORTED, E_TOO_LARGE, E_USAGE, OK, fail
from ..base.vfs cimport VFS_CREATE, VFS_EXCLUSIVE, VFS_WRITE, Vfs
from .block cimport (BLOCK_SLACK, FAR_BYTES, TABLE_MAX_KEY, TABLE_MAX_VALUE, TAG_DELETE, TAG_FAR, BlockBuilder, builder_add, builder_finish, builder_free,
                     builder_init, builder_most)
from .blockindex cimport IndexItem, index_build, index_item_most
from .compress cimport compress_bytes, compressed_most, compression_built
from .filter cimport filter_build, filter_hash, filter_size
from .sstable cimport COMPRESS_NONE, ENTRY_DELETE, Entry, RangeTombstone, TableInfo
from .sstfile cimport *

cdef enum:
    PIECE = 256 * 1024             # written at once
    ONE_LEVEL = 16384              # entries of an index that still has one level
    PATH_ROOM = 512

cdef uint64_t NO_TS = 0xFFFFFFFFFFFFFFFF


cdef struct Ranges:
    RangeTombstone* items
    uint64_t count
    uint64_t room

cdef struct TableWriter:
    int handle
    char path[PATH_ROOM]
    bint finished
    uint64_t number
    TableOptions options
    TableInfo info
    uint64_t keys
    BlockBuilder builder
    char* out                      # PIECE and a block: bytes not written yet
    size_t out_used
    size_t out_room
    uint64_t written               # of the file, without those
    char* raw                      # a block before compression
    char* last                     # key of the newest entry
    uint32_t last_len
    uint64_t last_ts
    char* block_last               # last key of the block before
    uint32_t block_last_len
    IndexItem* items
    uint32_t count
    uint32_t items_room
    char* arena                    # of separators
    uint64_t arena_used
    uint64_t arena_room
    uint64_t* hashes
    uint64_t hashes_room
    Ranges ranges
    void* vfs                      # the caller keeps it alive


cdef int no_memory() noexcept nogil:
    return fail(E_NOMEM, "no memory to write a sorted table")


cdef TableWriter* writer_open(Vfs vfs, const char* path, uint64_t number, const TableOptions* options) noexcept nogil:
    cdef TableWriter* w
    cdef size_t n = 0
    while path[n]:
        n += 1
    if n >= PATH_ROOM:
        fail(E_INVALID, "the path of a sorted table is too long")
        return NULL
    if not compression_built(options.compression):
        fail(E_NOT_SUPPORTED, "this build lacks the compression that was asked for")
        return NULL
    w = <TableWriter*>calloc(1, sizeof(TableWriter))
    if w == NULL:
        no_memory()
        return NULL
    w.handle = -1
    w.vfs = <void*>vfs
    w.options = options[0]
    w.number = number
    memcpy(w.path, path, n + 1)
    w.out_room = PIECE + 2 * <size_t>options.block_size + 1024
    w.out = <char*>malloc(w.out_room)
    w.raw = <char*>malloc(options.block_size + 64)
    w.last = <char*>malloc(TABLE_MAX_KEY + 8)
    w.block_last = <char*>malloc(TABLE_MAX_KEY + 8)
    if w.out == NULL or w.raw == NULL or w.last == NULL or w.block_last == NULL:
        no_memory()
        writer_close(w, False)
        return NULL
    if builder_init(&w.builder, options.block_size - 2 * BLOCK_SLACK, options.restart_interval, options.base_ts) != OK:
        writer_close(w, False)
        return NULL
    if vfs.open(path, VFS_WRITE | VFS_CREATE | VFS_EXCLUSIVE, &w.handle) != OK:
        w.handle = -1
        writer_close(w, False)
        return NULL
    return w


cdef void writer_close(TableWriter* w, bint keep) noexcept nogil:
    cdef uint64_t i
    if w.handle >= 0:
        (<Vfs>w.vfs).close(w.handle)
        if not w.finished and not keep:
            (<Vfs>w.vfs).unlink(w.path)
    builder_free(&w.builder)
    for i in range(w.ranges.count):
        free(w.ranges.items[i].start)
        free(w.ranges.items[i].stop)
    free(w.ranges.items)
    free(w.out)
    free(w.raw)
    free(w.last)
    free(w.block_last)
    free(w.items)
    free(w.arena)
    free(w.hashes)
    if not w.finished:
        table_info_free(&w.info)
    free(w)


cdef void table_info_free(TableInfo* info) noexcept nogil:
    free(info.smallest)
    free(info.largest)
    info.smallest = info.largest = NULL


cdef uint64_t writer_bytes(const TableWriter* w) noexcept nogil:
    return w.written + w.out_used + w.builder.keys_used + w.builder.values_used


cdef uint64_t writer_entries(const TableWriter* w) noexcept nogil:
    return w.info.entries


cdef int drain(TableWriter* w) noexcept nogil:
    """Writes what is buffered."""
    cdef int status = OK
    if w.out_used:
        status = (<Vfs>w.vfs).write(w.handle, w.out, w.out_used, <int64_t>w.written)
        if status == OK:
            w.written += w.out_used
            w.out_used = 0
    return status


cdef int emit(TableWriter* w, const char* data, size_t n, int compression, uint64_t* offset, uint64_t* size) noexcept nogil:
    """Stores n bytes, compressed where that saves an eighth, sealed; tells where."""
    cdef size_t most, used = 0, need = n + SEAL
    cdef char* big
    cdef int status = OK
    if compression != COMPRESS_NONE:
        most = compressed_most(compression, n)
        if most and most + SEAL > need:
            need = most + SEAL
    offset[0] = w.written + w.out_used
    if need > w.out_room - w.out_used:
        status = drain(w)
        if status != OK:
            return status
        if need > w.out_room:
            big = <char*>realloc(w.out, need)
            if big == NULL:
                return no_memory()
            w.out = big
            w.out_room = need
    if compression != COMPRESS_NONE:
        used = compress_bytes(compression, data, n, w.out + w.out_used, w.out_room - w.out_used - SEAL)
        if used > n - n // 8:
            used = 0
    if used == 0:
        compression = COMPRESS_NONE
        memcpy(w.out + w.out_used, data, n)
        used = n
    seal_put(w.out + w.out_used, used, <uint8_t>compression, <uint32_t>n, w.number, offset[0])
    size[0] = used + SEAL
    w.out_used += used + SEAL
    if w.out_used >= PIECE:
        status = drain(w)
    return status


cdef int add_separator(TableWriter* w, const char* key, uint32_t klen, uint64_t ts) noexcept nogil:
    """Before the first entry of a block: what divides it from the block before."""
    cdef IndexItem* item
    cdef void* grown
    cdef uint32_t n = 0
    if w.count == w.items_room:
        grown = realloc(w.items, <size_t>(w.items_room * 2 + 64) * sizeof(IndexItem))
        if grown == NULL:
            return no_memory()
        w.items = <IndexItem*>grown
        w.items_room = w.items_room * 2 + 64
    item = &w.items[w.count]
    memset(item, 0, sizeof(IndexItem))
    item.ts = NO_TS
    if w.count:
        while n < klen and n < w.block_last_len and key[n] == w.block_last[n]:
            n += 1
        if n == klen and n == w.block_last_len:
            item.ts = ts                             # the block before ends with newer versions of the same key
        elif n < klen:
            n += 1
    if w.arena_used + n > w.arena_room:
        grown = realloc(w.arena, (w.arena_used + n) * 2 + 4096)
        if grown == NULL:
            return no_memory()
        w.arena = <char*>grown
        w.arena_room = (w.arena_used + n) * 2 + 4096
    item.key_at = w.arena_used
    item.klen = n
    if n:
        memcpy(w.arena + w.arena_used, key, n)
    w.arena_used += n
    w.count += 1
    return OK


cdef int end_block(TableWriter* w) noexcept nogil:
    cdef uint32_t n
    cdef uint64_t offset = 0, size = 0
    cdef int status
    if w.builder.entries == 0:
        return OK
    n = builder_finish(&w.builder, w.raw)
    status = emit(w, w.raw, n, w.options.compression, &offset, &size)
    if status != OK:
        return status
    w.items[w.count - 1].offset = offset
    w.items[w.count - 1].size = <uint32_t>size
    memcpy(w.block_last, w.last, w.last_len)
    w.block_last_len = w.last_len
    return OK


cdef int put_far(TableWriter* w, const Entry* e, char* place) noexcept nogil:
    """A value too large for a block goes to the file by itself."""
    cdef uint64_t offset = 0, size = 0
    cdef int status = emit(w, e.value, e.vlen, w.options.compression, &offset, &size)
    put64(place, offset)
    put32(place + 8, <uint32_t>size)
    return status


cdef int bounded(char** place, uint32_t* length, const char* key, size_t n) noexcept nogil:
    cdef char* copy = <char*>realloc(place[0], n + 1)
    if copy == NULL:
        return no_memory()
    memcpy(copy, key, n)
    place[0] = copy
    length[0] = <uint32_t>n
    return OK


cdef int writer_add(TableWriter* w, const Entry* e) noexcept nogil:
    cdef char far[FAR_BYTES]
    cdef const char* value = e.value
    cdef uint32_t room = e.vlen, tags = TAG_DELETE if e.kind == ENTRY_DELETE else 0
    cdef void* grown
    cdef int c = -1, status
    if e.klen > TABLE_MAX_KEY or e.vlen > TABLE_MAX_VALUE:
        return fail(E_TOO_LARGE, "a key or value is too long for a sorted table")
    if e.ts < w.options.base_ts or e.ts == 0 or (tags and e.vlen):
        return fail(E_USAGE, "an entry of a sorted table has an impossible timestamp or value")
    if w.info.entries:
        c = compare_bytes(w.last, w.last_len, e.key, e.klen)
        if c > 0 or (c == 0 and e.ts >= w.last_ts):
            return fail(E_USAGE, "entries of a sorted table must come in order")
    else:
        status = bounded(&w.info.smallest, &w.info.smallest_len, e.key, e.klen)
        if status != OK:
            return status
    if c != 0 and w.options.bits_per_key:
        if w.keys == w.hashes_room:
            grown = realloc(w.hashes, (w.hashes_room * 2 + 1024) * sizeof(uint64_t))
            if grown == NULL:
                return no_memory()
            w.hashes = <uint64_t*>grown
            w.hashes_room = w.hashes_room * 2 + 1024
        w.hashes[w.keys] = filter_hash(e.key, e.klen)
    if builder_most(e.klen, e.vlen) > w.builder.limit:
        status = put_far(w, e, far)
        if status != OK:
            return status
        value = far
        room = FAR_BYTES
        tags |= TAG_FAR
    if w.builder.entries == 0:
        status = add_separator(w, e.key, e.klen, e.ts)
        if status != OK:
            return status
    status = builder_add(&w.builder, e.key, e.klen, e.ts, e.wall, tags, e.vlen, value, room)
    if status == AGAIN:
        status = end_block(w)
        if status == OK:
            status = add_separator(w, e.key, e.klen, e.ts)
        if status == OK:
            status = builder_add(&w.builder, e.key, e.klen, e.ts, e.wall, tags, e.vlen, value, room)
        if status == AGAIN:
            status = fail(E_TOO_LARGE, "an entry does not fit a block")
    if status != OK:
        return status
    memcpy(w.last, e.key, e.klen)
    w.last_len = e.klen
    w.last_ts = e.ts
    w.keys += c != 0
    w.info.entries += 1
    w.info.tombstones += e.kind == ENTRY_DELETE
    w.info.raw_bytes += <uint64_t>e.klen + e.vlen
    note_ts(&w.info, e.ts)
    if e.wall:
        if w.info.oldest_wall == 0 or e.wall < w.info.oldest_wall:
            w.info.oldest_wall = e.wall
        if e.wall > w.info.newest_wall:
            w.info.newest_wall = e.wall
    return OK


cdef inline void note_ts(TableInfo* info, uint64_t ts) noexcept nogil:
    if info.oldest_ts == 0 or ts < info.oldest_ts:
        info.oldest_ts = ts
    if ts > info.newest_ts:
        info.newest_ts = ts


cdef int writer_add_range(TableWriter* w, const char* start, size_t start_len, const char* stop, size_t stop_len, bint unbounded, uint64_t ts) noexcept nogil:
    cdef Ranges* r = &w.ranges
    cdef RangeTombstone* grown
    cdef RangeTombstone* t
    cdef uint64_t i
    if start_len > TABLE_MAX_KEY or (not unbounded and stop_len > TABLE_MAX_KEY):
        return fail(E_TOO_LARGE, "a bound of a range is too long for a sorted table")
    if ts == 0 or (not unbounded and compare_bytes(start, start_len, stop, stop_len) >= 0):
        return fail(E_USAGE, "a range tombstone that covers nothing")
    if r.count == r.room:
        grown = <RangeTombstone*>realloc(r.items, (r.room * 2 + 8) * sizeof(RangeTombstone))
        if grown == NULL:
            return no_memory()
        r.items = grown
        r.room = r.room * 2 + 8
    i = r.count
    while i > 0 and compare_bytes(r.items[i - 1].start, r.items[i - 1].start_len, start, start_len) > 0:
        i -= 1
    t = &r.items[r.count]
    memset(t, 0, sizeof(RangeTombstone))
    if bounded(&t.start, &t.start_len, start, start_len) != OK:
        return E_NOMEM
    if not unbounded and bounded(&t.stop, &t.stop_len, stop, stop_len) != OK:
        free(t.start)
        return E_NOMEM
    t.ts = ts
    insert_range(r, i)
    note_ts(&w.info, ts)
    return OK


cdef void insert_range(Ranges* r, uint64_t at) noexcept nogil:
    """The one behind the last goes to `at`."""
    cdef RangeTombstone t = r.items[r.count]
    cdef uint64_t i = r.count
    while i > at:
        r.items[i] = r.items[i - 1]
        i -= 1
    r.items[at] = t
    r.count += 1


cdef int write_ranges(TableWriter* w, char* footer) noexcept nogil:
    cdef uint64_t i, n = 4, offset = 0, size = 0
    cdef char* data
    cdef char* p
    cdef RangeTombstone* t
    cdef int status
    if w.ranges.count == 0:
        return OK
    for i in range(w.ranges.count):
        n += RANGE_ROW + w.ranges.items[i].start_len + w.ranges.items[i].stop_len
    if n > <uint64_t>0x7FFFFFFF:
        return fail(E_TOO_LARGE, "too many range tombstones for one sorted table")
    data = <char*>malloc(n)
    if data == NULL:
        return no_memory()
    put32(data, <uint32_t>w.ranges.count)
    p = data + 4
    for i in range(w.ranges.count):
        t = &w.ranges.items[i]
        put32(p, t.start_len)
        put32(p + 4, <uint32_t>0xFFFFFFFF if t.stop == NULL else t.stop_len)
        put64(p + 8, t.ts)
        memcpy(p + RANGE_ROW, t.start, t.start_len)
        if t.stop_len:
            memcpy(p + RANGE_ROW + t.start_len, t.stop, t.stop_len)
        p += RANGE_ROW + t.start_len + t.stop_len
        if w.info.smallest == NULL or compare_bytes(t.start, t.start_len, w.info.smallest, w.info.smallest_len) < 0:
            if bounded(&w.info.smallest, &w.info.smallest_len, t.start, t.start_len) != OK:
                free(data)
                return E_NOMEM
        if t.stop == NULL:
            w.info.unbounded = 1
        elif w.info.largest == NULL or compare_bytes(t.stop, t.stop_len, w.info.largest, w.info.largest_len) > 0:
            if bounded(&w.info.largest, &w.info.largest_len, t.stop, t.stop_len) != OK:
                free(data)
                return E_NOMEM
    status = emit(w, data, n, COMPRESS_NONE, &offset, &size)
    free(data)
    put64(footer + FOOT_RANGES, offset)
    put64(footer + FOOT_RANGES + 8, size)
    w.info.range_tombstones = w.ranges.count
    return status


cdef int write_filter(TableWriter* w, char* footer) noexcept nogil:
    cdef size_t n
    cdef uint64_t offset = 0, size = 0
    cdef uint8_t* data
    cdef int status
    if w.options.bits_per_key == 0 or w.keys == 0:
        return OK
    n = filter_size(w.keys, w.options.bits_per_key)
    if n > <size_t>0x7FFFFFFF:
        return OK                                    # a table of billions of keys goes without
    data = <uint8_t*>malloc(n)
    if data == NULL:
        return no_memory()
    filter_build(w.hashes, w.keys, w.options.bits_per_key, data)
    status = emit(w, <char*>data, n, COMPRESS_NONE, &offset, &size)
    free(data)
    put64(footer + FOOT_FILTER, offset)
    put64(footer + FOOT_FILTER + 8, size)
    return status


cdef int write_index(TableWriter* w, char* footer, uint32_t* partitions) noexcept nogil:
    """One block with an entry for each data block, or, when there are many, a top over partitions that fit frames."""
    cdef uint32_t most = w.options.index_partition if w.options.index_partition else ONE_LEVEL
    cdef uint32_t i = 0, n, limit = w.options.block_size - 2 * BLOCK_SLACK
    cdef uint64_t offset = 0, size = 0, bytes
    cdef IndexItem* top = NULL
    cdef void* grown
    cdef char* data
    cdef uint32_t tops = 0, room = 0
    cdef int status = OK
    partitions[0] = 0
    if w.count == 0:
        return OK
    if w.count > most:
        while i < w.count and status == OK:
            n = 1
            bytes = index_item_most(&w.items[i], True) + 64
            while i + n < w.count and bytes + index_item_most(&w.items[i + n], False) + TABLE_MAX_KEY // 64 <= limit:
                bytes += index_item_most(&w.items[i + n], False)
                n += 1
            if tops == room:
                grown = realloc(top, <size_t>(room * 2 + 16) * sizeof(IndexItem))
                if grown == NULL:
                    free(top)
                    return no_memory()
                top = <IndexItem*>grown
                room = room * 2 + 16
            top[tops] = w.items[i]
            top[tops].first = i
            data = <char*>malloc(index_build(&w.items[i], n, w.arena, 0, i, n, NULL) + 1)
            if data == NULL:
                free(top)
                return no_memory()
            bytes = index_build(&w.items[i], n, w.arena, 0, i, n, data)
            while bytes > limit and n > 1:           # a long common prefix was not reckoned with
                n = n // 2
                bytes = index_build(&w.items[i], n, w.arena, 0, i, n, data)
            status = emit(w, data, bytes, COMPRESS_NONE, &offset, &size)
            free(data)
            top[tops].offset = offset
            top[tops].size = <uint32_t>size
            tops += 1
            i += n
        partitions[0] = tops
        if status == OK:
            bytes = index_build(top, tops, w.arena, 1, 0, w.count, NULL)
            data = <char*>malloc(bytes)
            if data == NULL:
                status = no_memory()
            else:
                index_build(top, tops, w.arena, 1, 0, w.count, data)
                status = emit(w, data, bytes, COMPRESS_NONE, &offset, &size)
                free(data)
        free(top)
    else:
        bytes = index_build(w.items, w.count, w.arena, 0, 0, w.count, NULL)
        data = <char*>malloc(bytes)
        if data == NULL:
            return no_memory()
        index_build(w.items, w.count, w.arena, 0, 0, w.count, data)
        status = emit(w, data, bytes, COMPRESS_NONE, &offset, &size)
        free(data)
    put64(footer + FOOT_INDEX, offset)
    put64(footer + FOOT_INDEX + 8, size)
    return status


cdef int write_properties(TableWriter* w, char* footer, uint32_t partitions) noexcept nogil:
    cdef size_t n = PROPERTIES + w.info.smallest_len + w.info.largest_len
    cdef uint64_t offset = 0, size = 0
    cdef char* p = <char*>calloc(1, n)
    cdef int status
    if p == NULL:
        return no_memory()
    put64(p + PROP_ENTRIES, w.info.entries)
    put64(p + PROP_TOMBSTONES, w.info.tombstones)
    put64(p + PROP_RANGES, w.info.range_tombstones)
    put64(p + PROP_OLDEST, w.info.oldest_ts)
    put64(p + PROP_NEWEST, w.info.newest_ts)
    put64(p + PROP_OLDEST_WALL, w.info.oldest_wall)
    put64(p + PROP_NEWEST_WALL, w.info.newest_wall)
    put64(p + PROP_RAW, w.info.raw_bytes)
    put64(p + PROP_BASE, w.options.base_ts)
    put32(p + PROP_BLOCKS, w.count)
    put32(p + PROP_PARTITIONS, partitions)
    put32(p + PROP_BLOCK_SIZE, w.options.block_size)
    p[PROP_COMPRESSION] = <char>w.options.compression
    p[PROP_UNBOUNDED] = <char>w.info.unbounded
    put64(p + PROP_KEYS, w.keys)
    put32(p + PROP_SMALLEST, w.info.smallest_len)
    put32(p + PROP_LARGEST, w.info.largest_len)
    memcpy(p + PROPERTIES, w.info.smallest, w.info.smallest_len)
    memcpy(p + PROPERTIES + w.info.smallest_len, w.info.largest, w.info.largest_len)
    status = emit(w, p, n, COMPRESS_NONE, &offset, &size)
    free(p)
    put64(footer + FOOT_PROPERTIES, offset)
    put64(footer + FOOT_PROPERTIES + 8, size)
    return status


cdef int writer_finish(TableWriter* w, TableInfo* info) noexcept nogil:
    cdef char footer[FOOTER]
    cdef uint32_t partitions = 0
    cdef int status
    memset(footer, 0, FOOTER)
    if w.info.entries == 0 and w.ranges.count == 0:
        return fail(E_USAGE, "a sorted table of nothing")
    status = end_block(w)
    if status == OK and w.info.entries:
        status = bounded(&w.info.largest, &w.info.largest_len, w.last, w.last_len)
    if status == OK:
        status = write_ranges(w, footer)
    if status == OK and w.info.largest == NULL:      # nothing but a range without an end
        status = bounded(&w.info.largest, &w.info.largest_len, w.info.smallest, w.info.smallest_len)
    if status == OK:
        status = write_filter(w, footer)
    if status == OK:
        status = write_index(w, footer, &partitions)
    if status == OK:
        status = write_properties(w, footer, partitions)
    if status != OK:
        return status
    put64(footer, TABLE_MAGIC)
    put32(footer + 8, TABLE_VERSION)
    put64(footer + FOOT_NUMBER, w.number)
    put32(footer + FOOT_SUM, crc32c(0, footer, FOOT_SUM))
    if w.out_used + FOOTER > w.out_room:
        status = drain(w)
        if status != OK:
            return status
    memcpy(w.out + w.out_used, footer, FOOTER)
    w.out_used += FOOTER
    status = drain(w)
    if status == OK:
        status = (<Vfs>w.vfs).sync(w.handle)
    if status != OK:
        return status
    w.finished = True
    w.info.file_bytes = w.written
    w.info.blocks = w.count
    w.info.compression = w.options.compression
    info[0] = w.info
    return OK
