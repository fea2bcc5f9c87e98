"""A door for tests: the page store, driven from Python. Each method takes and gives back the latch as the interface asks."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from ..base.checksum cimport crc32c
from ..base.latch cimport latch_destroy, latch_init, latch_lock, latch_unlock
from ..base.status cimport OK, raise_status
from ..base.vfs cimport Vfs
from .store cimport BLOCK, PageStore, Superblock, store_check


cdef inline size_t padding(size_t n) noexcept:
    return (BLOCK - n % BLOCK) % BLOCK


cdef class StoreDoor:
    def __cinit__(self, *args, **kwargs):
        latch_init(&self.latch)

    def __dealloc__(self):
        latch_destroy(&self.latch)

    def __init__(self, Vfs vfs, path, page_size=4096, create=False, read_only=False):
        cdef bytes name = path.encode() if isinstance(path, str) else path
        cdef const char* p = name
        cdef uint32_t size = page_size
        cdef bint make = create, ro = read_only
        cdef int rc
        cdef uint8_t ident[16]
        memset(ident, 7, 16)
        self.vfs = vfs
        self.store = PageStore()
        self.store.init(vfs, &self.latch)
        with nogil:
            rc = self.store.create(p, size, ident) if make else self.store.open(p, ro)
        if rc != OK:
            raise_status(rc)

    def close(self):
        with nogil:
            self.store.close()

    def sb(self):
        cdef Superblock* s = &self.store.sb
        return {"generation": s.generation, "checkpoint_lsn": s.checkpoint_lsn, "next_commit_ts": s.next_commit_ts, "next_txn": s.next_txn,
                "next_keyspace": s.next_keyspace, "incarnation": s.incarnation, "epoch": s.epoch, "database_id": bytes(s.database_id[:16]),
                "map_pages": s.map_pages, "next_pid": s.next_pid, "meta_length": s.meta_length, "file_blocks": s.file_blocks,
                "page_size": s.page_size, "slot": self.store.slot, "map_root": (s.map_root.block, s.map_root.blocks, s.map_root.crc)}

    def meta(self):
        cdef char* data = NULL
        cdef size_t n = 0
        cdef int rc
        with nogil:
            rc = self.store.read_meta(&data, &n)
        if rc != OK:
            raise_status(rc)
        result = PyBytes_FromStringAndSize(data, n)
        free(data)
        return result

    def alloc(self):
        cdef uint64_t pid = 0
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = self.store.reserve_pids(1)
            if rc == OK:
                pid = self.store.alloc_pid()
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)
        return pid

    def free(self, uint64_t pid):
        with nogil:
            latch_lock(&self.latch)
            self.store.free_pid(pid)
            latch_unlock(&self.latch)

    def exists(self, uint64_t pid):
        cdef bint yes
        with nogil:
            latch_lock(&self.latch)
            yes = self.store.pid_exists(pid)
            latch_unlock(&self.latch)
        return yes

    def entry(self, uint64_t pid):
        """(block, blocks, crc) of a page whose map page is in memory."""
        e = self.store.pages[pid // 256][pid % 256]
        return e.block, e.blocks, e.crc

    def read(self, uint64_t pid, size_t cap=1 << 20):
        cdef char* buf = <char*>malloc(cap)
        cdef size_t n = 0
        cdef int rc
        with nogil:
            rc = self.store.read_page(pid, buf, cap, &n)
        data = buf[:n] if rc == OK else None
        free(buf)
        if rc != OK:
            raise_status(rc)
        return data

    def write(self, pages, generation=None):
        """Writes {pid: content}, each padded with zeros to whole blocks."""
        cdef int count = len(pages), rc, i
        cdef uint32_t g = self.store.generation if generation is None else generation
        cdef uint64_t* pids = <uint64_t*>malloc(8 * max(count, 1))
        cdef char** images = <char**>malloc(8 * max(count, 1))
        cdef size_t* lengths = <size_t*>malloc(8 * max(count, 1))
        padded = b"".join(v + b"\0" * padding(len(v)) for v in pages.values())
        cdef char* p = PyBytes_AS_STRING(padded)
        for i, (pid, v) in enumerate(pages.items()):
            pids[i] = pid
            images[i] = p
            lengths[i] = len(v) + padding(len(v))
            p += lengths[i]
        with nogil:
            rc = self.store.write_pages(pids, images, lengths, count, g)
        free(pids)
        free(images)
        free(lengths)
        if rc != OK:
            raise_status(rc)

    def write_blob(self, uint64_t pid, bytes data, piece=700, finish=True):
        cdef uint64_t block = 0, length = len(data), at = 0, n = 0, step = piece
        cdef const char* p = data
        cdef uint32_t crc
        cdef int rc
        cdef bint end = finish
        padded = data + b"\0" * padding(len(data))
        cdef const char* whole = padded
        cdef size_t total = len(padded)
        with nogil:
            crc = crc32c(0, whole, total)
            rc = self.store.blob_begin(pid, length, &block)
            if rc == OK:
                while at < length and rc == OK:
                    n = min(step, length - at)
                    rc = self.store.blob_write(block, at, p + at, n)
                    at += n
                if rc == OK and end:
                    rc = self.store.blob_finish(pid, block, length, crc)
                if rc != OK or not end:
                    self.store.blob_abandon(block, length)
        if rc != OK:
            raise_status(rc)

    def read_blob(self, uint64_t pid, uint64_t length):
        cdef char* buf = <char*>malloc(max(length, <uint64_t>1))
        cdef int rc
        with nogil:
            rc = self.store.read_blob(pid, length, buf)
        data = buf[:length] if rc == OK else None
        free(buf)
        if rc != OK:
            raise_status(rc)
        return data

    def reader_enter(self):
        latch_lock(&self.latch)
        self.store.reader_enter()
        latch_unlock(&self.latch)

    def reader_leave(self):
        latch_lock(&self.latch)
        self.store.reader_leave()
        latch_unlock(&self.latch)

    def reader_begin(self):
        latch_lock(&self.latch)
        token = self.store.reader_begin()
        latch_unlock(&self.latch)
        return token

    def reader_end(self, uint64_t token):
        latch_lock(&self.latch)
        self.store.reader_end(token)
        latch_unlock(&self.latch)

    def freeze(self):
        cdef uint32_t image = 0
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = self.store.freeze(&image)
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)
        return image

    def publish(self, uint32_t image, bytes meta=b"", **fields):
        cdef Superblock sb = self.store.sb
        cdef const char* p = meta
        cdef size_t n = len(meta)
        cdef int rc
        sb.checkpoint_lsn = fields.get("checkpoint_lsn", sb.checkpoint_lsn)
        sb.next_commit_ts = fields.get("next_commit_ts", sb.next_commit_ts)
        sb.next_txn = fields.get("next_txn", sb.next_txn)
        sb.next_keyspace = fields.get("next_keyspace", sb.next_keyspace)
        sb.incarnation = fields.get("incarnation", sb.incarnation)
        sb.epoch = fields.get("epoch", sb.epoch)
        with nogil:
            rc = self.store.publish(image, &sb, p, n)
        if rc != OK:
            raise_status(rc)

    def abandon(self, uint32_t image):
        with nogil:
            latch_lock(&self.latch)
            self.store.abandon(image)
            latch_unlock(&self.latch)

    def checkpoint(self, meta=b"", **fields):
        image = self.freeze()
        try:
            self.publish(image, meta, **fields)
        except BaseException:
            self.abandon(image)
            raise

    def compact(self, budget=1 << 30):
        cdef uint64_t b = budget, moved = 0
        cdef int rc
        with nogil:
            rc = self.store.compact(b, &moved)
        if rc != OK:
            raise_status(rc)
        return moved

    def trim(self):
        cdef int rc
        with nogil:
            rc = self.store.trim()
        if rc != OK:
            raise_status(rc)

    def pin(self):
        latch_lock(&self.latch)
        g = self.store.pin_image()
        latch_unlock(&self.latch)
        return g

    def unpin(self, generation):
        latch_lock(&self.latch)
        self.store.unpin_image(generation)
        latch_unlock(&self.latch)

    def set_foreign_pin(self, oldest):
        latch_lock(&self.latch)
        self.store.set_foreign_pin(oldest)
        latch_unlock(&self.latch)

    def copy_image(self, generation, Vfs other, path):
        cdef bytes name = path.encode()
        cdef const char* p = name
        cdef uint64_t g = generation
        cdef int rc
        with nogil:
            rc = self.store.copy_image(g, other, p)
        if rc != OK:
            raise_status(rc)

    def usage(self):
        cdef uint64_t a = 0, b = 0, c = 0, d = 0
        latch_lock(&self.latch)
        self.store.usage(&a, &b, &c, &d)
        latch_unlock(&self.latch)
        return {"file_blocks": a, "used_blocks": b, "free_blocks": c, "pids": d}

    def waiting(self):
        """Runs that are deferred, and retired."""
        return self.store.deferred.count, sum(self.store.retired[i].count for i in range(3))

    def generation(self):
        return self.store.generation

    def check(self, live):
        findings = []
        store_check(self.store, set(live), findings, findings)
        return findings
