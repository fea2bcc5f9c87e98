"""Sorted tables, opened: see sstable.pxd; what lies where is in sstfile.pxd, block.pxd, blockindex.pxd and filter.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from ..base.checksum cimport crc32c
from ..base.coding cimport compare_bytes, get32, get64
from ..base.latch cimport latch_lock, latch_unlock
from ..base.status cimport ABSENT, AGAIN, E_NOMEM, OK, fail, fail_corrupt
from ..base.vfs cimport VFS_READ, Vfs
from ..page.pool cimport Frame, Pool, PoolCore
from .block cimport (BLOCK_SLACK, TABLE_MAX_KEY, TAG_DELETE, TAG_FAR, TAG_WALL, BlockBounds, BlockPlace, Item, block_base_wall, block_check,
                     block_enter, block_find, block_group, block_group_end, block_groups, block_prefix, block_prefix_len, item_read, item_room,
                     item_wall)
from .blockindex cimport index_check, index_count, index_first_of, index_offset, index_partition_of, index_search, index_size, index_spanned
from .compress cimport expand_bytes
from .filter cimport FILTER_HEADER, FILTER_LINE, FILTER_MOST_PROBES, filter_hash, filter_line, filter_test
from .node cimport prefetch
from .place cimport SEEK_GE, SEEK_GT, SEEK_LE, SEEK_LT
from .sstfile cimport *

cdef enum:
    MOST_BLOCKS = 0x7FFFFFF0
    LEAST_BLOCK_SIZE = 4096
    MOST_BLOCK_SIZE = 32768

cdef uint64_t NO_TS = 0xFFFFFFFFFFFFFFFF


cdef void block_need_init(BlockNeed* n) noexcept nogil:
    n.table = NULL
    n.pinned = 0
    n.far_bytes = 0
    n.big = NULL


cdef void block_need_unpin(Pool pool, BlockNeed* n) noexcept nogil:
    while n.pinned:
        n.pinned -= 1
        pool.unpin(n.pins[n.pinned])


cdef void block_need_release(Pool pool, BlockNeed* n) noexcept nogil:
    block_need_unpin(pool, n)
    free(n.big)
    block_need_init(n)


cdef int damaged(const Table* t, uint64_t offset, const char* what, uint64_t expected, uint64_t found) noexcept nogil:
    return fail_corrupt(t.path, <int64_t>offset, what, expected, found)


cdef int read_sealed(Vfs vfs, const Table* t, uint64_t offset, uint64_t size, uint64_t most, char* stored, char* out, size_t room, uint32_t* raw) noexcept nogil:
    """Reads a sealed stretch into `stored` (size bytes), checks it, and leaves its content in `out` (which may be `stored`, for what is plain)."""
    cdef size_t got = 0
    cdef uint8_t compression = 0
    cdef uint32_t expected = 0, found = 0
    cdef const char* wrong
    cdef int status = vfs.read(t.handle, stored, size, <int64_t>offset, &got)
    if status != OK:
        return status
    if got != size:
        return damaged(t, offset, "the file ends in a block", size, got)
    wrong = seal_check(stored, size, t.number, offset, most, &compression, raw, &expected, &found)
    if wrong != NULL:
        return damaged(t, offset, wrong, expected, found)
    if compression == 0:
        if out != stored:
            memcpy(out, stored, raw[0])
        return OK
    if raw[0] > room or not expand_bytes(compression, stored, size - SEAL, out, raw[0]):
        return damaged(t, offset, "a block that does not expand to its length", raw[0], size)
    return OK

# --- lacking blocks ----------------------------------------------------------------------------------------------------

cdef int place_of(const Table* t, uint32_t block, const char* partition, uint64_t* offset, uint64_t* size) noexcept nogil:
    """Where a data block or partition lies in the file; `partition`: that of the data block, when there are any."""
    cdef uint32_t i
    if block >= t.info.blocks:
        offset[0] = index_offset(t.index, block - t.info.blocks)
        size[0] = index_size(t.index, block - t.info.blocks)
    elif t.partitions == 0:
        offset[0] = index_offset(t.index, block)
        size[0] = index_size(t.index, block)
    else:
        i = block - index_first_of(t.index, index_partition_of(t.index, block))
        offset[0] = index_offset(partition, i)
        size[0] = index_size(partition, i)
    return OK


cdef int check_block(const Table* t, uint32_t block, uint64_t offset, const char* page, uint32_t n, BlockBounds* bounds) noexcept nogil:
    cdef uint32_t where = 0, p
    cdef uint64_t low
    cdef const char* wrong
    if block < t.info.blocks:
        wrong = block_check(page, n, t.base_ts, bounds, &where)
        if wrong == NULL and bounds.far_end > t.data_end:
            wrong = "a value beyond the data of its file"
        if wrong == NULL and (compare_bytes(bounds.first, bounds.first_len, t.info.smallest, t.info.smallest_len) < 0
                              or (not t.info.unbounded and compare_bytes(bounds.last, bounds.last_len, t.info.largest, t.info.largest_len) > 0)):
            wrong = "keys beyond those of the table"
    else:
        p = block - t.info.blocks
        low = 0
        wrong = index_check(page, n, 0, low, t.data_end, t.block_size + SEAL, &where)
        if wrong == NULL and index_spanned(page) != (index_first_of(t.index, p + 1) if p + 1 < t.partitions else t.info.blocks) - index_first_of(t.index, p):
            wrong = "a partition of the index that spans other blocks than the top says"
    if wrong != NULL:
        return damaged(t, offset + where, wrong, block, n)
    return OK


cdef int fetch_far(Vfs vfs, Table* t, BlockNeed* n, char** out) noexcept nogil:
    cdef char* stored = <char*>malloc(n.far_bytes)
    cdef char* big = <char*>malloc(<size_t>n.far_length + 1)
    cdef uint32_t raw = 0
    cdef int status
    if stored == NULL or big == NULL:
        free(stored)
        free(big)
        return fail(E_NOMEM, "no memory for a large value")
    status = read_sealed(vfs, t, n.far_offset, n.far_bytes, n.far_length, stored, big, n.far_length, &raw)
    if status == OK and raw != n.far_length:
        status = damaged(t, n.far_offset, "a value of another length than its entry says", n.far_length, raw)
    free(stored)
    if status != OK:
        free(big)
        return status
    out[0] = big
    return OK


cdef int fetch_block(Vfs vfs, Table* t, uint32_t block, uint64_t offset, uint64_t size, uint32_t page_size, char* page) noexcept nogil:
    """Reads a block into a frame."""
    cdef char* stored = page
    cdef BlockBounds* bounds = <BlockBounds*>malloc(sizeof(BlockBounds))
    cdef uint32_t raw = 0
    cdef int status
    if size > page_size:
        stored = <char*>malloc(size)
    elif t.info.compression:
        stored = <char*>malloc(size)
    if stored == NULL or bounds == NULL:
        status = fail(E_NOMEM, "no memory to read a block")
    else:
        status = read_sealed(vfs, t, offset, size, page_size - BLOCK_SLACK, stored, page, page_size, &raw)
    if status == OK:
        status = check_block(t, block, offset, page, raw, bounds)
    if stored != page:
        free(stored)
    free(bounds)
    return status


cdef int block_need_secure(Pool pool, Vfs vfs, BlockNeed* n) noexcept nogil:
    cdef Table* t = n.table
    cdef Frame* f
    cdef char* big = NULL
    cdef uint64_t offset = 0, size = 0
    cdef uint32_t block = n.block
    cdef const char* partition = NULL
    cdef uint32_t number
    cdef int status = OK
    n.table = NULL
    if n.tables_gone != pool.core.tables_gone:       # the latch was let go of since it was noted: the table may be among those closed
        return OK
    t.refs += 1
    if n.far_bytes:
        latch_unlock(pool.latch)
        status = fetch_far(vfs, t, n, &big)
        latch_lock(pool.latch)
        if status == OK:
            free(n.big)
            n.big = big
            n.big_number = t.number
            n.big_offset = n.far_offset
        n.far_bytes = 0
        t.refs -= 1
        return status
    if t.frame_of[block] != 0 and n.pinned < 64:     # another thread has fetched it meanwhile
        f = &pool.core.frames[t.frame_of[block] - 1]
        pool.pin(f)
        n.pins[n.pinned] = f
        n.pinned += 1
        t.refs -= 1
        return OK
    if n.pinned == 64:                               # more than any operation needs at once: the earliest have done their service
        block_need_unpin(pool, n)
    if pool.admit_rollback(1) == AGAIN:
        status = pool.make_free_rollback(1)
        if status != OK:
            t.refs -= 1
            return status
        if pool.admit_rollback(1) == AGAIN:
            t.refs -= 1
            return OK                                # someone was quicker: once more
    if block < t.info.blocks and t.partitions:
        number = t.frame_of[t.info.blocks + index_partition_of(t.index, block)]
        if number == 0:
            t.refs -= 1
            return OK                                # its partition has gone meanwhile: once more
        partition = pool.core.frames[number - 1].page
    place_of(t, block, partition, &offset, &size)
    f = pool.block_frame()
    latch_unlock(pool.latch)
    status = fetch_block(vfs, t, block, offset, size, pool.core.page_size, f.page)
    latch_lock(pool.latch)
    t.refs -= 1
    if status != OK or t.frame_of[block] != 0:
        f.pins = 0
        pool.block_drop(f)
        return status
    pool.block_ready(f, &t.frame_of[block])
    n.pins[n.pinned] = f
    n.pinned += 1
    return OK

# --- opening -----------------------------------------------------------------------------------------------------------

cdef int take_section(Vfs vfs, Table* t, const char* footer, int at, uint64_t file_bytes, char** out, uint32_t* n, uint64_t* offset_out) noexcept nogil:
    """The content of a section that the footer names, malloc'd; NULL when there is none."""
    cdef uint64_t offset = get64(footer + at), size = get64(footer + at + 8)
    cdef char* data
    cdef int status
    out[0] = NULL
    n[0] = 0
    offset_out[0] = offset
    if offset == 0 and size == 0:
        return OK
    if size < SEAL or size > file_bytes or offset > file_bytes - size:
        return damaged(t, file_bytes - FOOTER + at, "a section beyond the end of its file", file_bytes, size)
    data = <char*>malloc(size + BLOCK_SLACK)
    if data == NULL:
        return fail(E_NOMEM, "no memory to open a sorted table")
    status = read_sealed(vfs, t, offset, size, size, data, data, size, n)
    if status != OK:
        free(data)
        return status
    out[0] = data
    return OK


cdef int take_properties(Table* t, const char* p, uint32_t n, uint64_t at) noexcept nogil:
    cdef TableInfo* i = &t.info
    if n < PROPERTIES or get32(p + PROP_SMALLEST) > TABLE_MAX_KEY or get32(p + PROP_LARGEST) > TABLE_MAX_KEY:
        return damaged(t, at, "properties of impossible length", PROPERTIES, n)
    i.entries = get64(p + PROP_ENTRIES)
    i.tombstones = get64(p + PROP_TOMBSTONES)
    i.range_tombstones = get64(p + PROP_RANGES)
    i.oldest_ts = get64(p + PROP_OLDEST)
    i.newest_ts = get64(p + PROP_NEWEST)
    i.oldest_wall = get64(p + PROP_OLDEST_WALL)
    i.newest_wall = get64(p + PROP_NEWEST_WALL)
    i.raw_bytes = get64(p + PROP_RAW)
    t.base_ts = get64(p + PROP_BASE)
    i.blocks = get32(p + PROP_BLOCKS)
    t.partitions = get32(p + PROP_PARTITIONS)
    t.block_size = get32(p + PROP_BLOCK_SIZE)
    i.compression = <uint8_t>p[PROP_COMPRESSION]
    i.unbounded = <uint8_t>p[PROP_UNBOUNDED]
    t.keys = get64(p + PROP_KEYS)
    i.smallest_len = get32(p + PROP_SMALLEST)
    i.largest_len = get32(p + PROP_LARGEST)
    if n != PROPERTIES + i.smallest_len + i.largest_len:
        return damaged(t, at, "properties of impossible length", PROPERTIES + i.smallest_len + i.largest_len, n)
    if (i.blocks > MOST_BLOCKS or t.partitions > i.blocks or not LEAST_BLOCK_SIZE <= t.block_size <= MOST_BLOCK_SIZE or i.unbounded > 1
            or i.compression > COMPRESS_ZSTD or i.tombstones > i.entries or t.keys > i.entries or (i.entries == 0) != (i.blocks == 0)
            or i.entries < i.blocks or i.oldest_ts > i.newest_ts or i.oldest_ts == 0):
        return damaged(t, at, "properties that contradict each other", i.entries, i.blocks)
    i.smallest = <char*>malloc(i.smallest_len + 1)
    i.largest = <char*>malloc(i.largest_len + 1)
    if i.smallest == NULL or i.largest == NULL:
        return fail(E_NOMEM, "no memory to open a sorted table")
    memcpy(i.smallest, p + PROPERTIES, i.smallest_len)
    memcpy(i.largest, p + PROPERTIES + i.smallest_len, i.largest_len)
    if not i.unbounded and compare_bytes(i.smallest, i.smallest_len, i.largest, i.largest_len) > 0:
        return damaged(t, at, "a table whose least key is above its greatest", i.smallest_len, i.largest_len)
    return OK


cdef int take_ranges(Table* t, const char* data, uint32_t n, uint64_t offset) noexcept nogil:
    cdef uint64_t count, i, at = 4, start_len, stop_len
    cdef RangeTombstone* r
    cdef bint unbounded
    if data == NULL:
        return OK if t.info.range_tombstones == 0 else damaged(t, offset, "range tombstones are missing", t.info.range_tombstones, 0)
    count = get32(data) if n >= 4 else 0
    if count == 0 or count != t.info.range_tombstones or count > n // RANGE_ROW:
        return damaged(t, offset, "a wrong count of range tombstones", t.info.range_tombstones, count)
    t.ranges = <RangeTombstone*>calloc(count, sizeof(RangeTombstone))
    if t.ranges == NULL:
        return fail(E_NOMEM, "no memory to open a sorted table")
    t.memory += count * sizeof(RangeTombstone) + n
    for i in range(count):
        if at + RANGE_ROW > n:
            return damaged(t, offset + at, "a range tombstone beyond its block", n, at)
        r = &t.ranges[i]
        start_len = get32(data + at)
        unbounded = get32(data + at + 4) == <uint32_t>0xFFFFFFFF
        stop_len = 0 if unbounded else get32(data + at + 4)
        r.ts = get64(data + at + 8)
        at += RANGE_ROW
        if start_len > TABLE_MAX_KEY or stop_len > TABLE_MAX_KEY or start_len + stop_len > n - at or r.ts < t.info.oldest_ts or r.ts > t.info.newest_ts:
            return damaged(t, offset + at, "a range tombstone that cannot be", start_len, stop_len)
        r.start = <char*>data + at                   # the section stays in memory
        r.start_len = <uint32_t>start_len
        if not unbounded:
            r.stop = <char*>data + at + start_len
            r.stop_len = <uint32_t>stop_len
        at += start_len + stop_len
        if not unbounded and compare_bytes(r.start, r.start_len, r.stop, r.stop_len) >= 0:
            return damaged(t, offset + at, "a range tombstone that covers nothing", start_len, stop_len)
        if unbounded and not t.info.unbounded:
            return damaged(t, offset + at, "a range tombstone beyond the table's keys", start_len, stop_len)
        if i and compare_bytes(t.ranges[i - 1].start, t.ranges[i - 1].start_len, r.start, r.start_len) > 0:
            return damaged(t, offset + at, "range tombstones out of order", start_len, stop_len)
    if at != n:
        return damaged(t, offset + at, "bytes behind the range tombstones", n, at)
    return OK


cdef int take_filter(Table* t, const char* data, uint32_t n, uint64_t offset) noexcept nogil:
    if data == NULL:
        return OK
    if n < FILTER_HEADER or get32(data) == 0 or n != FILTER_HEADER + FILTER_LINE * <uint64_t>get32(data) or not 0 < get32(data + 4) <= FILTER_MOST_PROBES:
        return damaged(t, offset, "a filter of impossible length", FILTER_HEADER, n)
    t.filter_lines = get32(data)
    t.filter_probes = get32(data + 4)
    t.memory += n
    return OK


cdef int take_index(Table* t, uint32_t n, uint64_t offset) noexcept nogil:
    cdef uint32_t where = 0
    cdef const char* wrong
    if t.index == NULL:
        return OK if t.info.blocks == 0 else damaged(t, offset, "the index is missing", t.info.blocks, 0)
    if n < 16:
        return damaged(t, offset, "an index without a header", 16, n)
    wrong = index_check(t.index, n, 1 if t.partitions else 0, 0, offset, t.block_size + SEAL, &where)
    if wrong == NULL and (index_spanned(t.index) != t.info.blocks or (t.partitions and index_count(t.index) != t.partitions)):
        wrong = "an index that leads to a wrong count of blocks"
    if wrong != NULL:
        return damaged(t, offset + where, wrong, t.info.blocks, index_count(t.index))
    t.memory += n
    return OK


cdef int read_table(Vfs vfs, Table* t, int64_t file_bytes) noexcept nogil:
    cdef char footer[FOOTER]
    cdef char* data = NULL
    cdef uint32_t n = 0
    cdef uint64_t at = 0
    cdef size_t got = 0
    cdef int status
    if file_bytes < FOOTER:
        return damaged(t, 0, "a file too short for a sorted table", FOOTER, <uint64_t>file_bytes)
    at = <uint64_t>file_bytes - FOOTER
    status = vfs.read(t.handle, footer, FOOTER, <int64_t>at, &got)
    if status != OK:
        return status
    if got != FOOTER or get64(footer) != TABLE_MAGIC:
        return damaged(t, at, "no sorted table ends here", TABLE_MAGIC, get64(footer) if got == FOOTER else 0)
    if get32(footer + FOOT_SUM) != crc32c(0, footer, FOOT_SUM):
        return damaged(t, at, "checksum", get32(footer + FOOT_SUM), crc32c(0, footer, FOOT_SUM))
    if get32(footer + 8) != TABLE_VERSION or get32(footer + 12) != 0 or get32(footer + 88) != 0:
        return damaged(t, at + 8, "a sorted table of an unknown version", TABLE_VERSION, get32(footer + 8))
    if get64(footer + FOOT_NUMBER) != t.number:
        return damaged(t, at + FOOT_NUMBER, "another sorted table than its name says", t.number, get64(footer + FOOT_NUMBER))
    t.info.file_bytes = <uint64_t>file_bytes
    status = take_section(vfs, t, footer, FOOT_PROPERTIES, <uint64_t>file_bytes, &data, &n, &at)
    if status == OK and data == NULL:
        status = damaged(t, <uint64_t>file_bytes - FOOTER, "the properties are missing", PROPERTIES, 0)
    if status == OK:
        status = take_properties(t, data, n, at)
    free(data)
    if status != OK:
        return status
    status = take_section(vfs, t, footer, FOOT_INDEX, <uint64_t>file_bytes, &t.index, &n, &at)
    if status == OK:
        t.data_end = at
        status = take_index(t, n, at)
    if status == OK:
        status = take_section(vfs, t, footer, FOOT_FILTER, <uint64_t>file_bytes, <char**>&t.filter, &n, &at)
    if status == OK:
        status = take_filter(t, <char*>t.filter, n, at)
    if status == OK:
        status = take_section(vfs, t, footer, FOOT_RANGES, <uint64_t>file_bytes, &t.range_bytes, &n, &at)
    if status == OK:
        status = take_ranges(t, t.range_bytes, n, at)
    if status == OK:
        t.block_count = t.info.blocks + t.partitions
        t.frame_of = <uint32_t*>calloc(t.block_count + 1, sizeof(uint32_t))
        t.memory += sizeof(Table) + <uint64_t>t.block_count * 4
        if t.frame_of == NULL:
            status = fail(E_NOMEM, "no memory to open a sorted table")
    return status


cdef int table_open(Vfs vfs, const char* path, uint64_t number, Table** out) noexcept nogil:
    cdef Table* t = <Table*>calloc(1, sizeof(Table))
    cdef int64_t file_bytes = 0
    cdef size_t n = 0
    cdef int status
    while path[n]:
        n += 1
    out[0] = NULL
    if t != NULL:
        t.path = <char*>malloc(n + 1)
    if t == NULL or t.path == NULL:
        free(t)
        return fail(E_NOMEM, "no memory to open a sorted table")
    memcpy(t.path, path, n + 1)
    t.number = number
    t.refs = 1
    t.handle = -1
    status = vfs.open(path, VFS_READ, &t.handle)
    if status != OK:
        t.handle = -1
    if status == OK:
        status = vfs.size(t.handle, &file_bytes)
    if status == OK:
        status = read_table(vfs, t, file_bytes)
    if status != OK:
        table_close(vfs, t)
        return status
    out[0] = t
    return OK


cdef void table_close(Vfs vfs, Table* t) noexcept nogil:
    if t.handle >= 0:
        vfs.close(t.handle)
    free(t.path)
    free(t.info.smallest)
    free(t.info.largest)
    free(t.frame_of)
    free(t.ranges)
    free(t.range_bytes)
    free(t.filter)
    free(t.index)
    free(t)


cdef void table_forget(Pool pool, Table* t) noexcept nogil:
    cdef uint32_t i
    pool.core.tables_gone += 1
    for i in range(t.block_count):
        if t.frame_of[i]:
            pool.block_drop(&pool.core.frames[t.frame_of[i] - 1])

# --- look-ups ----------------------------------------------------------------------------------------------------------

cdef uint64_t table_hash(const char* key, size_t klen) noexcept nogil:
    return filter_hash(key, klen)


cdef bint table_may_hold(const Table* t, uint64_t hash) noexcept nogil:
    return t.filter == NULL or filter_test(filter_line(t.filter, t.filter_lines, hash), t.filter_probes, hash)


cdef inline int lacking(BlockNeed* need, Table* t, const PoolCore* core, uint32_t block) noexcept nogil:
    need.table = t
    need.tables_gone = core.tables_gone
    need.block = block
    need.far_bytes = 0
    return AGAIN


cdef inline const char* block_at(const Table* t, PoolCore* core, uint32_t block) noexcept nogil:
    """The block's bytes, if a frame holds it."""
    cdef uint32_t n = t.frame_of[block]
    cdef Frame* f
    if n == 0:
        return NULL
    f = &core.frames[n - 1]
    f.ref = 1
    return f.page


cdef inline int data_block(Table* t, PoolCore* core, const char* key, size_t klen, uint64_t ts, uint32_t* block, BlockNeed* need) noexcept nogil:
    """The number of the block where (key, ts) would be. With two levels also sees to it that the partition is at hand."""
    cdef uint32_t p = index_search(t.index, key, klen, ts)
    cdef const char* partition
    if t.partitions == 0:
        block[0] = p
        return OK
    partition = block_at(t, core, t.info.blocks + p)
    if partition == NULL:
        return lacking(need, t, core, t.info.blocks + p)
    block[0] = index_first_of(t.index, p) + index_search(partition, key, klen, ts)
    return OK


cdef inline int open_block(Table* t, PoolCore* core, uint32_t block, const char** data, BlockNeed* need) noexcept nogil:
    cdef uint32_t p
    data[0] = block_at(t, core, block)
    if data[0] != NULL:
        return OK
    if t.partitions:                                 # where the block lies is told by its partition
        p = index_partition_of(t.index, block)
        if block_at(t, core, t.info.blocks + p) == NULL:
            return lacking(need, t, core, t.info.blocks + p)
    return lacking(need, t, core, block)


cdef inline void fill(Table* t, const char* data, const BlockPlace* at, Entry* out) noexcept nogil:
    """What the entry says, but for its key."""
    cdef const Item* i = &at.item
    out.kind = ENTRY_DELETE if i.tags & TAG_DELETE else ENTRY_PUT
    out.vlen = i.vlen
    out.ts = t.base_ts + i.delta
    out.wall = item_wall(i, block_base_wall(data)) if i.tags & TAG_WALL else 0
    out.value = data + at.value
    out.far_bytes = 0
    if i.tags & TAG_FAR:
        out.value = NULL
        out.far_offset = get64(data + at.value)
        out.far_bytes = get32(data + at.value + 8)


cdef int table_value(Table* t, PoolCore* core, Entry* e, BlockNeed* need) noexcept nogil:
    if e.far_bytes == 0:
        return OK
    if need.big != NULL and need.big_number == t.number and need.big_offset == e.far_offset:
        e.value = need.big
        return OK
    if e.far_bytes < SEAL or (t.info.compression == 0 and e.far_bytes != <uint64_t>e.vlen + SEAL):
        return damaged(t, e.far_offset, "a value of another length than its entry says", e.vlen, e.far_bytes)
    need.table = t
    need.tables_gone = core.tables_gone
    need.far_offset = e.far_offset
    need.far_bytes = e.far_bytes
    need.far_length = e.vlen
    return AGAIN


cdef int table_find(Table* t, PoolCore* core, const char* key, size_t klen, uint64_t snapshot, Entry* out, BlockNeed* need) noexcept nogil:
    cdef uint32_t block = 0
    cdef const char* data
    cdef BlockPlace at
    cdef int status = data_block(t, core, key, klen, snapshot, &block, need)
    if status != OK:
        return status
    status = open_block(t, core, block, &data, need)
    if status != OK:
        return status
    if not block_find(data, key, klen, snapshot, t.base_ts, &at):
        # Versions of the key may go on in the next block: then some separator is between the newest and the oldest one can be.
        block += 1
        if block >= t.info.blocks:
            return ABSENT
        status = continues(t, core, key, klen, block, need)
        if status != OK:
            return status
        status = open_block(t, core, block, &data, need)
        if status != OK:
            return status
        if not block_find(data, key, klen, snapshot, t.base_ts, &at):
            return ABSENT
    if not at.equal:
        return ABSENT
    out.key = key
    out.klen = <uint32_t>klen
    fill(t, data, &at, out)
    return OK


cdef int continues(Table* t, PoolCore* core, const char* key, size_t klen, uint32_t block, BlockNeed* need) noexcept nogil:
    """Whether versions of the key may stand in that block, the one before having ended without: OK or ABSENT; AGAIN."""
    cdef uint32_t last = 0
    cdef int status = data_block(t, core, key, klen, 0, &last, need)
    if status != OK:
        return status
    return OK if last >= block else ABSENT


cdef void table_prefetch(const Table* t, PoolCore* core, const char* key, size_t klen) noexcept nogil:
    cdef uint32_t block
    cdef const char* page
    cdef uint32_t n
    if t.index == NULL or t.partitions:
        return
    block = index_search(t.index, key, klen, NO_TS)
    n = t.frame_of[block]
    if n:
        page = core.frames[n - 1].page
        prefetch(page)
        prefetch(page + 64)
        prefetch(page + 128)


cdef uint64_t table_covering(const Table* t, const char* key, size_t klen, uint64_t snapshot) noexcept nogil:
    cdef uint64_t i, best = 0
    cdef RangeTombstone* r
    for i in range(t.info.range_tombstones):
        r = &t.ranges[i]
        if compare_bytes(r.start, r.start_len, key, klen) > 0:
            break
        if r.ts <= snapshot and r.ts > best and (r.stop == NULL or compare_bytes(key, klen, r.stop, r.stop_len) < 0):
            best = r.ts
    return best

# --- cursors -----------------------------------------------------------------------------------------------------------

cdef inline int show(TableCursor* c) noexcept nogil:
    """The entry at c.place, its key made whole from what keybuf holds of the one before in the group."""
    cdef Item* i = &c.place.item
    memcpy(c.keybuf + i.shared, i.suffix, i.unshared)
    c.entry.key = c.keybuf
    c.entry.klen = i.shared + i.unshared
    fill(c.table, c.data, &c.place, &c.entry)
    return OK


cdef inline void begin_group(TableCursor* c, uint32_t g) noexcept nogil:
    block_enter(c.data, g, &c.place)
    memcpy(c.keybuf, block_prefix(c.data), block_prefix_len(c.data))


cdef inline bint step(TableCursor* c) noexcept nogil:
    """The next entry of the same block; False at its end. Keeps keybuf true."""
    cdef BlockPlace* p = &c.place
    cdef uint32_t following
    p.value += item_room(&p.item)
    if p.following >= block_group_end(c.data, p.group):
        if p.group + 1 >= block_groups(c.data):
            p.value -= item_room(&p.item)
            return False
        begin_group(c, p.group + 1)
        return True
    p.offset = p.following
    following = <uint32_t>(item_read(<const uint8_t*>c.data + p.offset, &p.item) - <const uint8_t*>c.data)
    p.following = following
    return True


cdef inline void walk_to(TableCursor* c, uint32_t group, uint32_t offset) noexcept nogil:
    """To the entry at `offset` in the group, from the group's first on, so that keybuf has its whole key."""
    begin_group(c, group)
    while c.place.offset != offset:
        memcpy(c.keybuf + c.place.item.shared, c.place.item.suffix, c.place.item.unshared)
        step(c)


cdef inline void walk_to_last(TableCursor* c, uint32_t group, uint32_t end) noexcept nogil:
    """To the last entry of the group that begins before `end`."""
    begin_group(c, group)
    while c.place.following < end:
        memcpy(c.keybuf + c.place.item.shared, c.place.item.suffix, c.place.item.unshared)
        step(c)


cdef int last_of_block(TableCursor* c, PoolCore* core, uint32_t block, BlockNeed* need) noexcept nogil:
    cdef const char* data
    cdef int status = open_block(c.table, core, block, &data, need)
    if status != OK:
        return status
    c.block = block
    c.data = data
    walk_to_last(c, block_groups(data) - 1, block_group_end(data, block_groups(data) - 1))
    return show(c)


cdef int first_of_block(TableCursor* c, PoolCore* core, uint32_t block, BlockNeed* need) noexcept nogil:
    cdef const char* data
    cdef int status = open_block(c.table, core, block, &data, need)
    if status != OK:
        return status
    c.block = block
    c.data = data
    begin_group(c, 0)
    return show(c)


cdef int table_seek(TableCursor* c, Table* t, PoolCore* core, const char* key, size_t klen, int mode, BlockNeed* need) noexcept nogil:
    cdef uint32_t block = 0
    cdef const char* data
    cdef BlockPlace at
    cdef uint64_t ts
    cdef int status
    c.table = t
    if t.info.blocks == 0:
        return ABSENT
    if key == NULL:
        if mode == SEEK_GE or mode == SEEK_GT:
            return first_of_block(c, core, 0, need)
        return last_of_block(c, core, t.info.blocks - 1, need)
    # GE and LT: before the newest version of the key; GT and LE: behind its oldest. Timestamps are at least 1.
    ts = NO_TS if mode == SEEK_GE or mode == SEEK_LT else 0
    status = data_block(t, core, key, klen, ts, &block, need)
    if status != OK:
        return status
    status = open_block(t, core, block, &data, need)
    if status != OK:
        return status
    c.block = block
    c.data = data
    if not block_find(data, key, klen, ts, t.base_ts, &at):
        if mode == SEEK_LT or mode == SEEK_LE:
            return last_of_block(c, core, block, need)
        if block + 1 >= t.info.blocks:
            return ABSENT
        return first_of_block(c, core, block + 1, need)
    walk_to(c, at.group, at.offset)
    if mode == SEEK_GE or mode == SEEK_GT:
        return show(c)
    return table_prev(c, core, need)


cdef int table_next(TableCursor* c, PoolCore* core, BlockNeed* need) noexcept nogil:
    if step(c):
        return show(c)
    if c.block + 1 >= c.table.info.blocks:
        return ABSENT
    return first_of_block(c, core, c.block + 1, need)


cdef int table_prev(TableCursor* c, PoolCore* core, BlockNeed* need) noexcept nogil:
    cdef uint32_t offset = c.place.offset
    cdef uint32_t group = c.place.group
    if offset > block_group(c.data, group) + 4:
        walk_to_last(c, group, offset)
        return show(c)
    if group > 0:
        walk_to_last(c, group - 1, block_group_end(c.data, group - 1))
        return show(c)
    if c.block == 0:
        return ABSENT
    return last_of_block(c, core, c.block - 1, need)
