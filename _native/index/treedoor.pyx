"""A door for tests and microbenchmarks: one B-tree over a page store and pool of its own, driven from Python.

Each method takes the latch, repeats its operation until it has all it needs, and gives the latch back.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport malloc, realloc, free
from libc.string cimport memcpy, memset

from ..base.checksum cimport crc32c
from ..base.coding cimport put64
from ..base.latch cimport Latch, latch_init, latch_destroy, latch_enter, latch_lock, latch_unlock
from ..base.status cimport OK, ABSENT, AGAIN, raise_status
from ..base.vfs cimport Vfs
from ..base.memvfs cimport MemoryVfs
from ..page.layout cimport MAX_PAGE_SIZE
from ..page.pool cimport Pool, Frame, pool_find, pool_check
from ..page.store cimport PageStore, Superblock, BLOCK, store_check
from .btree cimport (
    BTree, Need, Cell, Path, MAX_BATCH, SEEK_GE, SEEK_GT, SEEK_LE, SEEK_LT, need_init, need_secure, need_release, check_tree)
from .node cimport *

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* t)

MODES = {"ge": SEEK_GE, "gt": SEEK_GT, "le": SEEK_LE, "lt": SEEK_LT}


cdef int64_t now() noexcept nogil:
    cdef timespec t
    clock_gettime(3, &t)               # CLOCK_THREAD_CPUTIME_ID: other processes do not count
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline void spell(char* out, uint64_t x) noexcept nogil:
    """16 bytes, ordered as x is."""
    cdef int i
    for i in range(8):
        out[i] = <char>(x >> (56 - 8 * i))
    memcpy(out + 8, b"-key-end", 8)


cdef class NodeDoor:
    """One node, without a tree."""
    cdef char page[MAX_PAGE_SIZE]
    cdef readonly uint32_t page_size

    def __init__(self, page_size=8192, level=0, lower=None, upper=None, pid=7, next=0, keyspace=1, leftmost=0):
        cdef const char* low = NULL
        cdef const char* high = NULL
        if lower is not None:
            low = lower
        if upper is not None:
            high = upper
        self.page_size = page_size
        memset(self.page, 0, MAX_PAGE_SIZE)
        node_init(self.page, page_size, level, keyspace, pid, next, leftmost,
                  low, len(lower or b""), high, len(upper or b""))

    def load(self, bytes page):
        memcpy(self.page, PyBytes_AS_STRING(page), self.page_size)

    def bytes(self):
        return PyBytes_FromStringAndSize(self.page, self.page_size)

    def prefix(self):
        cdef size_t n
        cdef const char* p = node_prefix(self.page, &n)
        return p[:n]

    def room(self):
        return node_room(self.page), node_gap(self.page)

    def used(self):
        return node_used(self.page, self.page_size)

    def search(self, bytes key):
        cdef bint found
        cdef size_t p = node_prefix_len(self.page)
        cdef const char* k = key
        if node_level(self.page) > 0:
            return inner_search(self.page, k + p, len(key) - p)
        at = leaf_search(self.page, k + p, len(key) - p, &found)
        return at, bool(found)

    def within(self, bytes key):
        return bool(key_in_fences(self.page, key, len(key)))

    def put(self, bytes key, bytes value, flags=0):
        """False when there is no room."""
        cdef bint found
        cdef size_t p = node_prefix_len(self.page)
        cdef const char* k = key
        cdef const char* v = value
        cdef int at = leaf_search(self.page, k + p, len(key) - p, &found)
        if found:
            if not leaf_replace_fits(self.page, at, len(value)):
                return False
            leaf_replace(self.page, self.page_size, at, flags | len(value), v, len(value))
            return True
        if LEAF_RECORD + SLOT_SIZE + len(key) - p + len(value) > node_room(self.page):
            return False
        leaf_insert(self.page, self.page_size, at, k + p, len(key) - p, flags | len(value), v, len(value))
        return True

    def put_child(self, bytes key, uint64_t child):
        cdef size_t p = node_prefix_len(self.page)
        cdef const char* k = key
        inner_insert(self.page, self.page_size, inner_search(self.page, k + p, len(key) - p) + 1, k + p, len(key) - p, child)

    def remove(self, int at):
        node_remove(self.page, at)

    def compact(self):
        node_compact(self.page, self.page_size)

    def records(self):
        return page_records(self.page)


cdef list page_records(const char* page):
    cdef char key[MAX_KEY_BYTES]
    cdef uint16_t flags
    cdef uint32_t vlen
    cdef const char* v
    cdef size_t n
    out = []
    for i in range(node_count(page)):
        n = node_key_copy(page, i, key)
        if node_is_leaf(page):
            v = node_value(page, i, &flags, &vlen)
            out.append((key[:n], flags, v[:vlen]))
        else:
            out.append((key[:n], node_child(page, i)))
    return out


cdef class BTreeDoor:
    cdef Latch latch
    cdef readonly Vfs vfs
    cdef readonly PageStore store
    cdef readonly Pool pool
    cdef readonly BTree tree
    cdef uint64_t cache_bytes
    cdef public uint64_t mark
    cdef public uint64_t log_end
    cdef public uint64_t live_versions
    cdef uint32_t image
    cdef readonly uint64_t waits
    cdef public uint64_t gone_meanwhile       # pages that somebody else frees, in each wait of get()

    def __cinit__(self, *args, **kwargs):
        latch_init(&self.latch)

    def __dealloc__(self):
        self.pool = None
        latch_destroy(&self.latch)

    def __init__(self, page_size=8192, cache_bytes=1 << 24, Vfs vfs=None, path=b"pages.dat", keyspace=5, root=0):
        cdef uint8_t ident[16]
        cdef const char* p = path
        cdef uint32_t size = page_size
        cdef bint existing = root != 0
        cdef int rc
        memset(ident, 7, 16)
        self.vfs = MemoryVfs() if vfs is None else vfs
        self.cache_bytes = cache_bytes
        self.store = PageStore()
        self.store.init(self.vfs, &self.latch)
        with nogil:
            rc = self.store.open(p, False) if existing else self.store.create(p, size, ident)
        if rc != OK:
            raise_status(rc)
        self.fresh_pool()
        self.tree = BTree(self.pool, keyspace, root)
        if root == 0:
            self.create()

    def fresh_pool(self):
        """Forgets all that is in memory: what was not written is lost."""
        self.pool = Pool()
        rc = self.pool.init(self.store, &self.latch, self.cache_bytes, &self.log_end, &self.live_versions, False)
        if rc != OK:
            raise_status(rc)
        if self.tree is not None:
            self.tree = BTree(self.pool, self.tree.id, self.tree.root)

    cdef int retry(self, int rc, Need* need) noexcept nogil:
        """OK: again."""
        if rc != AGAIN:
            return rc
        self.waits += 1
        return need_secure(self.pool, need)

    def create(self):
        cdef Need need
        cdef int rc
        need_init(&need)
        with nogil:
            latch_lock(&self.latch)
            rc = self.tree.create(&need)
            while rc == AGAIN:
                rc = need_secure(self.pool, &need)
                if rc == OK:
                    rc = self.tree.create(&need)
            need_release(self.pool, &need)
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)

    cdef int do_prepare(self, const char* k, size_t klen, size_t vlen, Path* path, Cell* cell, Need* need) noexcept nogil:
        cdef int rc = self.tree.prepare(k, klen, vlen, path, cell, need)
        while rc == AGAIN:
            self.waits += 1
            rc = need_secure(self.pool, need)
            if rc == OK:
                rc = self.tree.prepare(k, klen, vlen, path, cell, need)
        return rc

    cdef int do_put(self, const char* k, size_t klen, uint16_t flags, const char* v, size_t vlen) noexcept nogil:
        cdef Need need
        cdef Path path
        cdef Cell cell
        cdef int rc
        need_init(&need)
        latch_lock(&self.latch)
        rc = self.do_prepare(k, klen, vlen, &path, &cell, &need)
        if rc <= ABSENT:
            self.tree.apply_put(&path, k, klen, flags, v, vlen, self.mark)
        need_release(self.pool, &need)
        latch_unlock(&self.latch)
        return rc

    def put(self, bytes key, bytes value, flags=0):
        """Whether the key was there."""
        cdef const char* k = key
        cdef const char* v = value
        cdef size_t n = len(key)
        cdef size_t m = len(value)
        cdef uint16_t f = flags
        cdef int rc
        with nogil:
            rc = self.do_put(k, n, f, v, m)
        if rc > ABSENT:
            raise_status(rc)
        return rc == OK

    def put_blob(self, bytes key, bytes data):
        cdef uint64_t pid, block = 0, n = len(data)
        cdef int rc
        cdef char ref[16]
        cdef const char* p
        padded = data + bytes((BLOCK - len(data) % BLOCK) % BLOCK)
        p = padded
        with nogil:
            latch_lock(&self.latch)
            rc = self.store.reserve_pids(1)
            pid = self.store.alloc_pid()
            latch_unlock(&self.latch)
            rc = self.store.blob_begin(pid, n, &block)
            if rc == OK:
                rc = self.store.blob_write(block, 0, p, n)
            if rc == OK:
                rc = self.store.blob_finish(pid, block, n, crc32c(0, p, (n + BLOCK - 1) // BLOCK * BLOCK))
        if rc != OK:
            raise_status(rc)
        put64(ref, pid)
        put64(ref + 8, n)
        self.put(key, ref[:16], VALUE_BLOB)
        return pid

    def remove(self, bytes key):
        """Whether the key was there."""
        cdef const char* k = key
        cdef size_t n = len(key)
        cdef Need need
        cdef Path path
        cdef Cell cell
        cdef int rc
        need_init(&need)
        with nogil:
            latch_lock(&self.latch)
            rc = self.do_prepare(k, n, 0, &path, &cell, &need)
            if rc == OK:
                self.tree.apply_remove(&path, self.mark)
            need_release(self.pool, &need)
            latch_unlock(&self.latch)
        if rc > ABSENT:
            raise_status(rc)
        return rc == OK

    def get(self, bytes key):
        """(flags, value) or None."""
        cdef const char* k = key
        cdef size_t n = len(key)
        cdef Need need
        cdef Cell cell
        cdef char copy[MAX_PAGE_SIZE]
        cdef int rc
        need_init(&need)
        with nogil:
            latch_lock(&self.latch)
            rc = self.tree.find(k, n, &cell, &need)
            while rc == AGAIN:
                self.waits += 1
                self.pool.core.pages_gone += self.gone_meanwhile
                rc = need_secure(self.pool, &need)
                if rc == OK:
                    rc = self.tree.find(k, n, &cell, &need)
            if rc == OK:
                memcpy(copy, cell.value, cell.vlen)
            need_release(self.pool, &need)
            latch_unlock(&self.latch)
        if rc > ABSENT:
            raise_status(rc)
        return (cell.flags, copy[:cell.vlen]) if rc == OK else None

    def leaf_mark(self, bytes key):
        cdef Need need
        cdef Path path
        cdef Cell cell
        cdef const char* k = key
        cdef size_t n = len(key)
        need_init(&need)
        with nogil:
            latch_lock(&self.latch)
            rc = self.do_prepare(k, n, 0, &path, &cell, &need)
            need_release(self.pool, &need)
            latch_unlock(&self.latch)
        if rc > ABSENT:
            raise_status(rc)
        return path.frames[path.depth - 1].mark

    def get_many(self, list keys):
        cdef const char* ks[MAX_BATCH]
        cdef size_t ns[MAX_BATCH]
        cdef Cell cells[MAX_BATCH]
        cdef int statuses[MAX_BATCH]
        cdef int n = len(keys)
        cdef int i
        cdef Need need
        cdef int rc
        cdef char* copy
        if n > self.tree.max_batch:
            raise ValueError(f"at most {self.tree.max_batch} keys")
        for i in range(n):
            ks[i] = PyBytes_AS_STRING(keys[i])
            ns[i] = PyBytes_GET_SIZE(keys[i])
        copy = <char*>malloc(MAX_BATCH * MAX_PAGE_SIZE)
        need_init(&need)
        with nogil:
            latch_lock(&self.latch)
            rc = self.tree.find_many(ks, ns, n, cells, statuses, &need)
            while rc == AGAIN:
                self.waits += 1
                rc = need_secure(self.pool, &need)
                if rc == OK:
                    rc = self.tree.find_many(ks, ns, n, cells, statuses, &need)
            for i in range(n if rc == OK else 0):
                if statuses[i] == OK:
                    memcpy(copy + i * MAX_PAGE_SIZE, cells[i].value, cells[i].vlen)
            need_release(self.pool, &need)
            latch_unlock(&self.latch)
        result = []
        for i in range(n if rc == OK else 0):
            result.append((cells[i].flags, (copy + i * MAX_PAGE_SIZE)[:cells[i].vlen]) if statuses[i] == OK else None)
        free(copy)
        if rc != OK:
            raise_status(rc)
        return result

    def leaves(self, list keys):
        """The pids of the keys' leaves, of which none is brought in; None when the root is the only one."""
        cdef const char* ks[MAX_BATCH]
        cdef size_t ns[MAX_BATCH]
        cdef uint64_t pids[MAX_BATCH]
        cdef int n = len(keys)
        cdef int done = 0
        cdef int i
        cdef Need need
        cdef int rc
        if n > MAX_BATCH:
            raise ValueError(f"at most {MAX_BATCH} keys")
        for i in range(n):
            ks[i] = PyBytes_AS_STRING(keys[i])
            ns[i] = PyBytes_GET_SIZE(keys[i])
        need_init(&need)
        with nogil:
            latch_lock(&self.latch)
            rc = self.tree.leaves(ks, ns, n, pids, &done, &need)
            while rc == AGAIN:
                rc = need_secure(self.pool, &need)
                if rc == OK:
                    rc = self.tree.leaves(ks, ns, n, pids, &done, &need)
            need_release(self.pool, &need)
            latch_unlock(&self.latch)
        if rc > ABSENT:
            raise_status(rc)
        return None if rc == ABSENT else [pids[i] for i in range(n)]

    cdef int do_seek(self, const char* k, size_t n, int mode, Path* path, Need* need) noexcept nogil:
        cdef int rc = self.tree.seek(k, n, mode, path, need)
        while rc == AGAIN:
            self.waits += 1
            rc = need_secure(self.pool, need)
            if rc == OK:
                rc = self.tree.seek(k, n, mode, path, need)
        return rc

    def seek(self, key, str mode):
        """(key, flags, value) at the place, or None."""
        cdef const char* k = NULL
        cdef size_t n = 0
        cdef Need need
        cdef Path path
        cdef char copy[MAX_PAGE_SIZE]
        cdef int m = MODES[mode]
        cdef int rc
        if key is not None:
            k = key
            n = len(key)
        need_init(&need)
        with nogil:
            latch_lock(&self.latch)
            rc = self.do_seek(k, n, m, &path, &need)
            if rc == OK:
                memcpy(copy, path.frames[path.depth - 1].page, self.tree.page_size)
            need_release(self.pool, &need)
            latch_unlock(&self.latch)
        if rc > ABSENT:
            raise_status(rc)
        return page_records(copy)[path.slots[path.depth - 1]] if rc == OK else None

    def scan(self, reverse=False, burst=1000000):
        """All records: leaf by leaf along the path for `burst` leaves of a latch hold, after a wait or a burst by the last key."""
        cdef Need need
        cdef Path path
        cdef int rc
        cdef const char* k = NULL
        cdef size_t n = 0
        cdef bint back = reverse
        cdef int mode = SEEK_LE if back else SEEK_GE
        cdef size_t size = self.tree.page_size
        cdef size_t room = 256
        cdef size_t many = burst
        cdef size_t count, i
        cdef char* copies = <char*>malloc(room * (size + 8))
        out = []
        need_init(&need)
        while True:
            count = 0
            with nogil:
                latch_lock(&self.latch)
                rc = self.do_seek(k, n, mode, &path, &need)
                while rc == OK and count < many:
                    if count == room:
                        room *= 2
                        copies = <char*>realloc(copies, room * (size + 8))
                    memcpy(copies + count * (size + 8), path.frames[path.depth - 1].page, size)
                    memcpy(copies + count * (size + 8) + size, &path.slots[path.depth - 1], sizeof(int))
                    count += 1
                    rc = self.tree.prev_leaf(&path, &need) if back else self.tree.next_leaf(&path, &need)
                if rc == AGAIN:
                    rc = need_secure(self.pool, &need)
                need_release(self.pool, &need)
                latch_unlock(&self.latch)
            for i in range(count):
                records = page_records(copies + i * (size + 8))
                at = (<int*>(copies + i * (size + 8) + size))[0]
                out.extend(reversed(records[:at + 1]) if back else records[at:])
            if rc != OK:
                break
            if count:
                last = out[len(out) - 1][0]
                k = last
                n = len(last)
                mode = SEEK_LT if back else SEEK_GT
        free(copies)
        if rc > ABSENT:
            raise_status(rc)
        return out

    def check(self, read_blobs=True):
        """(report, findings)"""
        findings = []
        pids = set()
        report = check_tree(self.tree, pids, findings, findings, read_blobs, True)
        latch_enter(&self.latch)
        findings.extend({"what": what} for what in pool_check(self.pool))
        latch_unlock(&self.latch)
        report["pids"] = pids
        return report, findings

    def check_store(self, set pids):
        findings = []
        store_check(self.store, pids, findings, findings)
        return findings

    def destroy(self, int budget):
        """Whether all is gone."""
        cdef Need need
        cdef int rc
        need_init(&need)
        with nogil:
            latch_lock(&self.latch)
            rc = self.tree.destroy_some(budget, &need)
            need_release(self.pool, &need)
            latch_unlock(&self.latch)
        if rc > AGAIN:
            raise_status(rc)
        return rc == OK

    # --- checkpoints

    def freeze(self):
        cdef int rc
        cdef uint32_t image = 0
        with nogil:
            latch_lock(&self.latch)
            rc = self.store.freeze(&image)
            if rc == OK:
                rc = self.pool.freeze(image)
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)
        self.image = image

    def publish(self):
        cdef int rc
        cdef Superblock fields
        memset(&fields, 0, sizeof(fields))
        with nogil:
            latch_lock(&self.latch)
            rc = self.pool.write_frozen(self.image)
            latch_unlock(&self.latch)
            if rc == OK:
                rc = self.store.publish(self.image, &fields, b"", 0)
        if rc != OK:
            raise_status(rc)

    def checkpoint(self):
        self.freeze()
        self.publish()

    def close(self):
        with nogil:
            self.pool.close()
            self.store.close()

    # --- pages as they lie

    def page(self, uint64_t pid):
        """The bytes of a page in memory, or None."""
        cdef Frame* f = pool_find(&self.pool.core, pid)
        return None if f == NULL else PyBytes_FromStringAndSize(f.page, self.pool.core.page_size)

    def overwrite(self, uint64_t pid, bytes page):
        """Puts bytes into a page in memory, and marks it dirty."""
        cdef Frame* f = pool_find(&self.pool.core, pid)
        f = self.pool.writable(f)
        memcpy(f.page, PyBytes_AS_STRING(page), self.pool.core.page_size)

    def records(self, uint64_t pid):
        cdef Frame* f = pool_find(&self.pool.core, pid)
        return None if f == NULL else page_records(f.page)

    # --- microbenchmarks: nanoseconds

    def load(self, uint64_t n, uint64_t seed, size_t vlen, order="random"):
        """Puts n records of 16-byte keys; ns for each."""
        cdef char key[16]
        cdef char value[2000]
        cdef uint64_t i
        cdef int rc = OK
        cdef bint shuffled = order == "random"
        cdef bint falling = order == "descending"
        cdef int64_t t
        memset(value, 118, 2000)
        with nogil:
            t = now()
            for i in range(n):
                spell(key, mix(i + seed) if shuffled else (n - i if falling else i))
                rc = self.do_put(key, 16, 0, value, vlen)
                if rc > ABSENT:
                    break
            t = now() - t
        if rc > ABSENT:
            raise_status(rc)
        return t / n

    def time_finds(self, uint64_t n, uint64_t seed, uint64_t loops, int batch=1, bint ordered=False, int touch=100):
        """ns for each find of a random key that `load` has put; copies `touch` bytes of the value."""
        cdef char* spelt = <char*>malloc(loops * 16)
        cdef const char* ks[MAX_BATCH]
        cdef size_t ns[MAX_BATCH]
        cdef Cell cells[MAX_BATCH]
        cdef int statuses[MAX_BATCH]
        cdef Cell cell
        cdef Need need
        cdef uint64_t i, missing = 0, total = 0
        cdef int64_t t
        cdef int rc = OK
        cdef int j
        cdef char sink[256]
        if spelt == NULL:
            raise MemoryError()
        need_init(&need)
        with nogil:
            for i in range(loops):
                spell(spelt + i * 16, mix(mix(i + 77) % n + seed) if not ordered else mix(i * 31 + 5) % n)
            latch_lock(&self.latch)
            t = now()
            if batch == 1:
                for i in range(loops):
                    rc = self.tree.find(spelt + i * 16, 16, &cell, &need)
                    if rc != OK:
                        missing += 1
                    elif touch:
                        memcpy(sink, cell.value, touch)
                        total += sink[5]
            else:
                i = 0
                while i + batch <= loops:
                    for j in range(batch):
                        ks[j] = spelt + (i + j) * 16
                        ns[j] = 16
                    rc = self.tree.find_many(ks, ns, batch, cells, statuses, &need)
                    i += batch
                    if rc != OK:
                        missing += 1
                        continue
                    for j in range(batch):
                        if statuses[j] != OK:
                            missing += 1
                        elif touch:
                            memcpy(sink, cells[j].value, touch)
                            total += sink[5]
            t = now() - t
            latch_unlock(&self.latch)
        free(spelt)
        if missing:
            raise KeyError(f"{missing} keys missing")
        return t / loops

    def time_scan(self, bint back=False):
        """(records, ns for each) of one walk over all slots, all in memory."""
        cdef Need need
        cdef Path path
        cdef int rc, i, step
        cdef uint64_t seen = 0, total = 0
        cdef int64_t t
        cdef const char* page
        cdef const char* v
        cdef uint16_t flags
        cdef uint32_t vlen
        cdef size_t n
        need_init(&need)
        with nogil:
            latch_lock(&self.latch)
            t = now()
            rc = self.tree.seek(NULL, 0, SEEK_LE if back else SEEK_GE, &path, &need)
            step = -1 if back else 1
            while rc == OK:
                page = path.frames[path.depth - 1].page
                i = path.slots[path.depth - 1]
                while 0 <= i < node_count(page):
                    v = node_value(page, i, &flags, &vlen)
                    node_suffix(page, i, &n)
                    total += n + vlen + <uint8_t>v[0]
                    seen += 1
                    i += step
                rc = self.tree.prev_leaf(&path, &need) if back else self.tree.next_leaf(&path, &need)
            t = now() - t
            latch_unlock(&self.latch)
        return seen, t / (seen or 1)
