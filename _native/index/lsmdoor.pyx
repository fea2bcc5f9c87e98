"""A door for tests: the parts of an LSM-tree, each by itself, driven from Python: memtables, sorted tables, filters, edits, the choice of compactions.

Versions are tuples (key, timestamp, value, wall clock); the value of a deletion is None.  A timestamp of -n is that of transaction n, in flight.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from ..base.latch cimport Latch, latch_destroy, latch_enter, latch_init, latch_unlock
from ..base.memvfs cimport MemoryVfs
from ..base.status cimport ABSENT, AGAIN, OK, error_info, raise_status
from ..base.vfs cimport Vfs
from ..page.pool cimport Pool
from ..page.store cimport PageStore
from .filter cimport FILTER_HEADER, filter_build, filter_hash, filter_line, filter_size, filter_test
from .lsm cimport LsmTree
from .memtable cimport *
from .pick cimport Pick, compaction_pick, compaction_pick_range, level_targets
from .place cimport SEEK_GE, SEEK_GT, SEEK_LE, SEEK_LT
from .sstable cimport *
from .sstscan cimport TableScan, scan_close, scan_entry, scan_next, scan_open, scan_verify
from .sstwrite cimport TableOptions, TableWriter, table_info_free, writer_add, writer_add_range, writer_bytes, writer_close, writer_finish, writer_open
from .tableset cimport LSM_LEVELS, Edit, TableFile, edit_add, edit_decode, edit_encode, edit_free, edit_init, edit_remove, edit_size, file_new

cdef enum:
    KEY_ROOM = 8192

cdef dict MODES = {"ge": SEEK_GE, "gt": SEEK_GT, "le": SEEK_LE, "lt": SEEK_LT}
cdef dict COMPRESSIONS = {"none": COMPRESS_NONE, "lz4": COMPRESS_LZ4, "zstd": COMPRESS_ZSTD}
FILE_FIELDS = ("file_bytes", "entries", "tombstones", "range_tombstones", "oldest_ts", "newest_ts", "oldest_wall", "newest_wall", "raw_bytes", "blocks")


cdef int check(int status) except -1:
    if status != OK:
        raise_status(status)
    return 0


cdef inline uint64_t stamp_of(int64_t ts) noexcept:
    return <uint64_t>ts if ts >= 0 else IN_FLIGHT | <uint64_t>-ts


cdef inline int64_t shown(uint64_t ts) noexcept:
    return -<int64_t>(ts & ~IN_FLIGHT) if ts & IN_FLIGHT else <int64_t>ts


cdef tuple version_of(bytes key, MemEntry* e):
    return key, shown(e.ts), None if e.kind == ENTRY_DELETE else mem_value(e)[:e.vlen], e.wall


cdef class MemTableDoor:
    cdef MemTable* m

    def __cinit__(self, uint64_t size=1 << 16):
        self.m = memtable_new(size, NULL)
        if self.m == NULL:
            raise MemoryError

    def __dealloc__(self):
        memtable_free(self.m)

    @property
    def figures(self):
        return {"entries": self.m.entries, "in_flight": self.m.in_flight, "used": self.m.used, "bytes": self.m.bytes, "ranges": self.m.range_count}

    def put(self, bytes key, int64_t ts, value, uint64_t wall=0, replace=False):
        cdef bytes data = b"" if value is None else value
        check(memtable_reserve(self.m, len(key), len(data)))
        memtable_put(self.m, key, len(key), stamp_of(ts), wall, ENTRY_DELETE if value is None else ENTRY_PUT, data, len(data), replace)

    def pop(self, bytes key, int64_t ts):
        memtable_pop(self.m, key, len(key), stamp_of(ts))

    def stamp(self, bytes key, int64_t ts, int64_t commit_ts, uint64_t wall=0):
        """All versions of the key that bear one timestamp get another."""
        cdef MemNode* n = memtable_find(self.m, key, len(key))
        cdef MemEntry* e = n.newest
        while e != NULL and e.ts == stamp_of(ts):
            memtable_stamp(self.m, e, len(key), stamp_of(commit_ts), wall)
            e = e.older

    def get(self, bytes key, int64_t snapshot, int64_t own=0):
        """The version that a reader sees, or None."""
        cdef MemNode* n = memtable_find(self.m, key, len(key))
        cdef MemEntry* e = mem_visible(n.newest, snapshot, stamp_of(own) if own else 0) if n != NULL else NULL
        return version_of(key, e) if e != NULL else None

    def versions(self):
        """Of all keys, in order, the newest of each first."""
        cdef MemNode* n = memtable_seek(self.m, NULL, 0, SEEK_GE)
        cdef MemEntry* e
        found = []
        while n != NULL:
            e = n.newest
            while e != NULL:
                found.append(version_of(mem_key(n)[:n.klen], e))
                e = e.older
            n = memtable_next(n)
        return found

    def keys(self, bytes key=None, str mode="ge"):
        """All keys from there on, in the direction of the mode."""
        cdef MemNode* n = memtable_seek(self.m, PyBytes_AS_STRING(key) if key is not None else NULL, len(key or b""), MODES[mode])
        found = []
        while n != NULL:
            found.append(mem_key(n)[:n.klen])
            n = memtable_next(n) if mode[0] == "g" else memtable_prev(self.m, n)
        return found

    def warm(self, list keys):
        cdef const char* p[64]
        cdef size_t lengths[64]
        cdef int i
        for i in range(min(len(keys), 64)):
            p[i] = PyBytes_AS_STRING(keys[i])
            lengths[i] = len(keys[i])
        memtable_warm(self.m, p, lengths, min(len(keys), 64))

    def may_hold(self, bytes key):
        return bool(memtable_may_hold(self.m, filter_hash(key, len(key))))

    def put_range(self, bytes start, stop, int64_t ts):
        """A handle for drop_range."""
        cdef bytes end = b"" if stop is None else stop
        check(memtable_reserve(self.m, len(start), len(end)))
        return <size_t>memtable_put_range(self.m, start, len(start), end, len(end), stop is None, stamp_of(ts))

    def drop_range(self, size_t handle):
        memtable_drop_range(self.m, <MemRange*>handle)

    def covering(self, bytes key, int64_t snapshot, int64_t own=0):
        return shown(memtable_covering(self.m, key, len(key), snapshot, stamp_of(own) if own else 0))

    def check(self):
        cdef const char* wrong = memtable_check(self.m)
        return None if wrong == NULL else wrong.decode()

# --- sorted tables -----------------------------------------------------------------------------------------------------

cdef dict info_dict(const TableInfo* i):
    return {"file_bytes": i.file_bytes, "entries": i.entries, "tombstones": i.tombstones, "range_tombstones": i.range_tombstones,
            "oldest_ts": i.oldest_ts, "newest_ts": i.newest_ts, "oldest_wall": i.oldest_wall, "newest_wall": i.newest_wall,
            "raw_bytes": i.raw_bytes, "blocks": i.blocks, "compression": i.compression, "unbounded": bool(i.unbounded),
            "smallest": i.smallest[:i.smallest_len] if i.smallest != NULL else None, "largest": i.largest[:i.largest_len] if i.largest != NULL else None}


@cython.no_gc_clear            # what it closes with is still there when it goes
cdef class WriterDoor:
    cdef TableWriter* w
    cdef Vfs vfs

    def __init__(self, Vfs vfs, bytes path, uint64_t number=1, *, uint32_t page_size=4096, uint32_t interval=16, uint32_t bits=10, str compression="none",
                 uint64_t base_ts=1, uint32_t partition=0):
        cdef TableOptions o
        memset(&o, 0, sizeof(TableOptions))
        o.block_size = page_size
        o.restart_interval = interval
        o.bits_per_key = bits
        o.compression = COMPRESSIONS[compression]
        o.base_ts = base_ts
        o.index_partition = partition
        self.vfs = vfs
        self.w = writer_open(vfs, path, number, &o)
        if self.w == NULL:
            raise_status(error_info().code)

    def __dealloc__(self):
        self.close()

    def close(self):
        if self.w != NULL:
            writer_close(self.w, False)
            self.w = NULL

    def add(self, bytes key, uint64_t ts, value, uint64_t wall=0):
        cdef Entry e
        cdef bytes data = b"" if value is None else value
        memset(&e, 0, sizeof(Entry))
        e.key = key
        e.klen = len(key)
        e.value = data
        e.vlen = len(data)
        e.ts = ts
        e.wall = wall
        e.kind = ENTRY_DELETE if value is None else ENTRY_PUT
        check(writer_add(self.w, &e))

    def add_range(self, bytes start, stop, uint64_t ts):
        cdef bytes end = b"" if stop is None else stop
        check(writer_add_range(self.w, start, len(start), end, len(end), stop is None, ts))

    def size(self):
        return writer_bytes(self.w)

    def finish(self):
        cdef TableInfo info
        memset(&info, 0, sizeof(TableInfo))
        check(writer_finish(self.w, &info))
        try:
            return info_dict(&info)
        finally:
            table_info_free(&info)
            self.close()


cdef tuple entry_tuple(const Entry* e):
    return e.key[:e.klen], e.ts, None if e.kind == ENTRY_DELETE else e.value[:e.vlen], e.wall


@cython.no_gc_clear            # what it closes with is still there when it goes
cdef class PoolHolder:
    """A buffer pool over an empty page store, for frames."""
    cdef Latch latch
    cdef PageStore store
    cdef Pool pool
    cdef uint64_t log_end
    cdef uint64_t live_versions

    def __cinit__(self, *args, **kwargs):
        latch_init(&self.latch)

    def __dealloc__(self):
        self.pool = None
        latch_destroy(&self.latch)

    cdef int hold(self, uint32_t page_size, uint64_t cache_bytes) except -1:
        cdef uint8_t ident[16]
        memset(ident, 7, 16)
        self.store = PageStore()
        self.store.init(MemoryVfs(), &self.latch)
        check(self.store.create(b"pages.dat", page_size, ident))
        self.pool = Pool()
        check(self.pool.init(self.store, &self.latch, cache_bytes, &self.log_end, &self.live_versions, False))
        return 0


@cython.no_gc_clear            # what it closes with is still there when it goes
cdef class TableDoor(PoolHolder):
    """A table, open for reading with a pool of its own."""
    cdef Vfs vfs
    cdef Table* t
    cdef readonly uint64_t waits

    def __init__(self, Vfs vfs, bytes path, uint64_t number=1, *, uint32_t page_size=4096, uint64_t cache_bytes=1 << 20):
        cdef const char* p = path
        cdef int status
        self.vfs = vfs
        self.hold(page_size, cache_bytes)
        with nogil:
            status = table_open(vfs, p, number, &self.t)
        check(status)

    def __dealloc__(self):
        self.close()

    def close(self):
        if self.t != NULL:
            latch_enter(&self.latch)
            table_forget(self.pool, self.t)
            latch_unlock(&self.latch)
            table_close(self.vfs, self.t)
            self.t = NULL

    @property
    def info(self):
        return info_dict(&self.t.info) | {"partitions": self.t.partitions, "keys": self.t.keys, "memory": self.t.memory, "filter": self.t.filter != NULL}

    def may_hold(self, bytes key):
        return bool(table_may_hold(self.t, table_hash(key, len(key))))

    def covering(self, bytes key, uint64_t snapshot):
        return table_covering(self.t, key, len(key), snapshot)

    def find(self, bytes key, uint64_t snapshot):
        """The version that a snapshot sees, or None."""
        cdef BlockNeed need
        cdef Entry e
        cdef int status
        block_need_init(&need)
        latch_enter(&self.latch)
        try:
            table_prefetch(self.t, &self.pool.core, key, len(key))
            while True:
                status = table_find(self.t, &self.pool.core, key, len(key), snapshot, &e, &need)
                if status == OK:
                    status = table_value(self.t, &self.pool.core, &e, &need)
                if status != AGAIN:
                    break
                self.waits += 1
                status = block_need_secure(self.pool, self.vfs, &need)
                if status != OK:
                    break
            found = (key, e.ts, None if e.kind == ENTRY_DELETE else e.value[:e.vlen], e.wall) if status == OK else None
        finally:
            block_need_release(self.pool, &need)
            latch_unlock(&self.latch)
        if status != ABSENT:
            check(status)
        return found

    def outlived(self, bytes key):
        """Notes that the key's block is lacking, closes the table as if it had died meanwhile, and only then fetches: the number of blocks that came."""
        cdef BlockNeed need
        cdef Entry e
        cdef int status
        block_need_init(&need)
        latch_enter(&self.latch)
        try:
            status = table_find(self.t, &self.pool.core, key, len(key), ~<uint64_t>0, &e, &need)
            assert status == AGAIN
            table_forget(self.pool, self.t)
            table_close(self.vfs, self.t)
            self.t = NULL
            status = block_need_secure(self.pool, self.vfs, &need)
            fetched = need.pinned
        finally:
            block_need_release(self.pool, &need)
            latch_unlock(&self.latch)
        check(status)
        return fetched

    def walk(self, bytes key=None, str mode="ge", limit=-1):
        """Versions from there on, in the direction of the mode, as a cursor that starts again whenever a block is lacking."""
        cdef BlockNeed need
        cdef TableCursor c
        cdef char* keybuf = <char*>malloc(KEY_ROOM)
        cdef bint forward = mode[0] == "g"
        cdef int how = MODES[mode], status
        cdef bytes at = key
        last = None
        found = []
        c.keybuf = keybuf
        block_need_init(&need)
        latch_enter(&self.latch)
        try:
            while True:
                status = table_seek(&c, self.t, &self.pool.core, PyBytes_AS_STRING(at) if at is not None else NULL, len(at or b""), how, &need)
                while status == OK:
                    one = c.entry.key[:c.entry.klen]
                    if last is None or one != last[0] or (c.entry.ts < last[1]) == forward and c.entry.ts != last[1]:
                        status = table_value(self.t, &self.pool.core, &c.entry, &need)
                        if status != OK:
                            break
                        last = entry_tuple(&c.entry)
                        found.append(last)
                        if len(found) == limit:
                            return found
                    status = table_next(&c, &self.pool.core, &need) if forward else table_prev(&c, &self.pool.core, &need)
                if status != AGAIN:
                    break
                self.waits += 1
                status = block_need_secure(self.pool, self.vfs, &need)
                if status != OK:
                    break
                if need.pinned > 32:
                    block_need_release(self.pool, &need)
                if last is not None:
                    at = last[0]
                    how = SEEK_GE if forward else SEEK_LE
        finally:
            block_need_release(self.pool, &need)
            latch_unlock(&self.latch)
            free(keybuf)
        if status != ABSENT:
            check(status)
        return found

    def scan(self, size_t read_ahead=1 << 16):
        """All versions, as compaction reads them."""
        cdef TableScan* s = scan_open(self.vfs, self.t, read_ahead)
        cdef int status
        if s == NULL:
            raise MemoryError
        found = []
        try:
            status = scan_next(s)
            while status == OK:
                found.append(entry_tuple(scan_entry(s)))
                status = scan_next(s)
        finally:
            scan_close(s)
        if status != ABSENT:
            check(status)
        return found

    def verify(self):
        cdef int status
        with nogil:
            status = scan_verify(self.vfs, self.t)
        check(status)


# --- filters -----------------------------------------------------------------------------------------------------------

def make_filter(list keys, uint32_t bits_per_key):
    cdef uint64_t* hashes = <uint64_t*>malloc((len(keys) + 1) * sizeof(uint64_t))
    cdef bytes out = PyBytes_FromStringAndSize(NULL, filter_size(len(keys), bits_per_key))
    cdef uint64_t i
    if hashes == NULL:
        raise MemoryError
    for i in range(<uint64_t>len(keys)):
        hashes[i] = filter_hash(keys[i], len(keys[i]))
    filter_build(hashes, len(keys), bits_per_key, <uint8_t*>PyBytes_AS_STRING(out))
    free(hashes)
    return out


def filter_holds(bytes filter, bytes key):
    cdef const uint8_t* f = <const uint8_t*>PyBytes_AS_STRING(filter)
    cdef uint64_t hash = filter_hash(key, len(key))
    lines, probes = int.from_bytes(filter[:4], "little"), int.from_bytes(filter[4:FILTER_HEADER], "little")
    return bool(filter_test(filter_line(f, lines, hash), probes, hash))


# --- edits and the choice of compactions -------------------------------------------------------------------------------

cdef int fill_edit(Edit* e, list removed, list added) except -1:
    """removed: (level, number); added: (level, number, figures as FILE_FIELDS, smallest, largest, compression, unbounded in a dict)."""
    cdef TableFile* f
    cdef bytes low, high
    for level, number in removed:
        edit_remove(e, level, number)
    for level, number, given in added:
        f = file_new(number)
        if f == NULL:
            raise MemoryError
        low, high = given.get("smallest", b""), given.get("largest", b"\xff")
        f.info.smallest = <char*>malloc(len(low) + 1)
        f.info.largest = <char*>malloc(len(high) + 1)
        memcpy(f.info.smallest, PyBytes_AS_STRING(low), len(low))
        memcpy(f.info.largest, PyBytes_AS_STRING(high), len(high))
        f.info.smallest_len = len(low)
        f.info.largest_len = len(high)
        f.info.file_bytes = given.get("file_bytes", 1)
        f.info.entries = given.get("entries", 1)
        f.info.tombstones = given.get("tombstones", 0)
        f.info.range_tombstones = given.get("range_tombstones", 0)
        f.info.oldest_ts = given.get("oldest_ts", 1)
        f.info.newest_ts = given.get("newest_ts", 1)
        f.info.oldest_wall = given.get("oldest_wall", 0)
        f.info.newest_wall = given.get("newest_wall", 0)
        f.info.raw_bytes = given.get("raw_bytes", 0)
        f.info.blocks = given.get("blocks", 1)
        f.info.compression = given.get("compression", 0)
        f.info.unbounded = given.get("unbounded", False)
        edit_add(e, level, f)
    return 0


def encode_edit(uint64_t persisted_lsn, uint64_t next_number, list removed, list added):
    cdef Edit e
    cdef bytes out
    edit_init(&e)
    try:
        fill_edit(&e, removed, added)
        e.persisted_lsn = persisted_lsn
        e.next_number = next_number
        out = PyBytes_FromStringAndSize(NULL, edit_size(&e))
        return out[:edit_encode(&e, <uint8_t*>PyBytes_AS_STRING(out))]
    finally:
        edit_free(&e, True)


def decode_edit(bytes data):
    """(persisted LSN, next number, removed, added), as encode_edit takes them."""
    cdef Edit e
    cdef int i
    cdef uint8_t* copy = <uint8_t*>malloc(len(data) + 1)         # its own, so that a sanitizer sees what is read beyond it
    cdef int status
    memcpy(copy, PyBytes_AS_STRING(data), len(data))
    status = edit_decode(&e, copy, len(data))
    free(copy)
    check(status)
    try:
        removed = [(e.items[i].level, e.items[i].number) for i in range(e.count) if e.items[i].file == NULL]
        added = [(e.items[i].level, e.items[i].number, info_dict(&e.items[i].file.info)) for i in range(e.count) if e.items[i].file != NULL]
        return e.persisted_lsn, e.next_number, removed, added
    finally:
        edit_free(&e, True)


@cython.no_gc_clear            # what it closes with is still there when it goes
cdef class TreeDoor(PoolHolder):
    """A tree of tables that exist by their figures alone."""
    cdef LsmTree tree

    def __init__(self, *, style="leveled", uint64_t table_size=1 << 20):
        self.hold(4096, 1 << 20)
        self.tree = LsmTree(self.pool, MemoryVfs(), b"/lsm/1", 1)
        self.tree.options.style = 1 if style == "size_tiered" else 0
        self.tree.options.table_size = table_size
        check(self.tree.start())

    def edit(self, list removed, list added):
        cdef Edit e
        cdef int status
        edit_init(&e)
        fill_edit(&e, removed, added)
        status = self.tree.restore(&e)
        edit_free(&e, True)
        check(status)

    def levels(self):
        """The numbers of the files of each level that has any."""
        cdef int level, i
        return {level: [self.tree.set.files[level][i].number for i in range(self.tree.set.counts[level])]
                for level in range(LSM_LEVELS) if self.tree.set.counts[level]}

    def busy(self, int level, int at, bint on=True):
        self.tree.set.files[level][at].busy = on

    def targets(self):
        """The level that level 0 is merged into, and the target size of each level."""
        cdef uint64_t sizes[LSM_LEVELS]
        cdef int level
        base = level_targets(self.tree.set, self.tree.options.table_size, sizes)
        return base, [sizes[level] for level in range(LSM_LEVELS)]

    cdef dict pick_dict(self, Pick* p):
        cdef int i
        return {"inputs": [(p.levels[i], p.inputs[i].number) for i in range(p.count)], "to": p.to_level, "bottom": bool(p.bottom),
                "trivial": bool(p.trivial), "score": p.score}

    def pick(self, bint idle=False, uint64_t oldest=0, uint64_t now=0):
        """What would be compacted next, or None."""
        cdef Pick p
        return self.pick_dict(&p) if compaction_pick(self.tree, idle, oldest, now, &p) else None

    def pick_range(self, bytes low=None, bytes high=None):
        cdef Pick p
        cdef bint large
        cdef bint found = compaction_pick_range(self.tree, PyBytes_AS_STRING(low) if low is not None else NULL, len(low or b""),
                                                PyBytes_AS_STRING(high) if high is not None else NULL, len(high or b""), 0, &p, &large)
        return self.pick_dict(&p) if found else None
