"""A door for tests: store and pool together, pages being leaves with one record."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from ..base.coding cimport get16, put16, put32, put64
from ..base.latch cimport latch_enter, latch_lock, latch_unlock
from ..base.status cimport AGAIN, OK, raise_status
from .fetch cimport fetch_close, fetch_finish, fetch_free, fetch_open, fetch_release, fetch_start, fetch_stop, fetch_want
from .layout cimport PAGE_HEADER, PAGE_LEAF
from .pool cimport FRAME_DETACHED, Fetch, Frame, Pool, pool_check, pool_find
from .store_door cimport StoreDoor


cdef void fill(char* page, uint32_t page_size, uint64_t pid, const char* value, size_t n) noexcept nogil:
    """A leaf with the one record b"k" -> value."""
    cdef size_t at = page_size - n - 3
    memset(page, 0, page_size)
    page[0] = PAGE_LEAF
    put16(page + 2, 1)
    put16(page + 4, <uint16_t>at)
    put32(page + 20, 1)
    put64(page + 24, pid)
    put32(page + PAGE_HEADER, 0x6B000000)
    put16(page + PAGE_HEADER + 4, <uint16_t>at)
    put16(page + PAGE_HEADER + 6, 1)
    put16(page + at, <uint16_t>n)
    page[at + 2] = c"k"
    memcpy(page + at + 3, value, n)


cdef class PoolDoor(StoreDoor):
    cdef readonly Pool pool
    cdef public uint64_t log_end
    cdef public uint64_t live_versions
    cdef Fetch fetches[2]

    def __init__(self, vfs, path, page_size=4096, create=False, read_only=False, cache_bytes=0, volatile_only=False):
        StoreDoor.__init__(self, vfs, path, page_size, create, read_only)
        self.pool = Pool()
        rc = self.pool.init(self.store, &self.latch, cache_bytes, &self.log_end, &self.live_versions, volatile_only)
        if rc != OK:
            raise_status(rc)

    def close(self):
        self.pool.close()
        StoreDoor.close(self)

    cdef int bring(self, uint64_t pid, uint64_t gone, Frame** out) noexcept nogil:
        """(latch) A pinned frame of pid."""
        out[0] = pool_find(&self.pool.core, pid)
        if out[0] is not NULL:
            self.pool.pin(out[0])
            return OK
        return self.pool.load(pid, gone, out)

    def new(self, bytes value, rollback=False):
        cdef const char* p = value
        cdef size_t n = len(value)
        cdef int rc
        cdef Frame* f
        cdef uint64_t pid = 0
        cdef bint r = rollback
        with nogil:
            latch_lock(&self.latch)
            while True:
                rc = self.pool.admit_rollback(1) if r else self.pool.admit(1)
                if rc == AGAIN:
                    rc = self.pool.make_free_rollback(1) if r else self.pool.make_free(1)
                    if rc == OK:
                        continue
                if rc == OK:
                    rc = self.store.reserve_pids(1)
                break
            if rc == OK:
                f = self.pool.new_page()
                pid = f.pid
                fill(f.page, self.pool.core.page_size, pid, p, n)
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)
        return pid

    def put(self, uint64_t pid, bytes value, rollback=False):
        cdef const char* p = value
        cdef size_t n = len(value)
        cdef int rc
        cdef Frame* f = NULL
        cdef Frame* g
        cdef bint r = rollback
        with nogil:
            latch_lock(&self.latch)
            while True:
                rc = self.bring(pid, self.pool.core.pages_gone, &f)
                if rc != OK:
                    break
                rc = self.pool.admit_rollback(1) if r else self.pool.admit(1)
                if rc == OK and f.state != FRAME_DETACHED:
                    g = self.pool.writable(f)
                    fill(g.page, self.pool.core.page_size, pid, p, n)
                if rc == AGAIN:
                    rc = self.pool.make_free_rollback(1) if r else self.pool.make_free(1)
                    self.pool.unpin(f)
                    if rc == OK:
                        continue
                    break
                if rc == OK and f.state == FRAME_DETACHED and self.pool.core.frame_of[pid] == 0:
                    self.pool.unpin(f)
                    continue
                self.pool.unpin(f)
                break
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)

    @property
    def pages_gone(self):
        return self.pool.core.pages_gone

    def get(self, uint64_t pid, since=None):
        """The page's value, None for a page that was freed after `since` (a number of `pages_gone`; None: now)."""
        cdef Frame* f = NULL
        cdef int rc
        cdef uint64_t gone = self.pool.core.pages_gone if since is None else since
        cdef size_t at, n
        value = None
        with nogil:
            latch_lock(&self.latch)
            rc = self.bring(pid, gone, &f)
            latch_unlock(&self.latch)
        if rc == OK:
            if f.state != FRAME_DETACHED:
                at = get16(f.page + PAGE_HEADER + 4)
                n = get16(f.page + at)
                value = f.page[at + 3:at + 3 + n]
            with nogil:
                latch_lock(&self.latch)
                self.pool.unpin(f)
                latch_unlock(&self.latch)
        else:
            raise_status(rc)
        return value

    def try_put(self, uint64_t pid, bytes value):
        """put without waiting for anything: False when the page is not in memory or there is no free frame."""
        cdef const char* p = value
        cdef size_t n = len(value)
        cdef Frame* f
        cdef bint done = False
        with nogil:
            latch_lock(&self.latch)
            f = pool_find(&self.pool.core, pid)
            if f is not NULL and self.pool.admit(1) == OK:
                f = self.pool.writable(f)
                fill(f.page, self.pool.core.page_size, pid, p, n)
                done = True
            latch_unlock(&self.latch)
        return done

    def try_new(self, bytes value):
        """new without waiting: None when there is no free frame."""
        cdef const char* p = value
        cdef size_t n = len(value)
        cdef Frame* f
        cdef uint64_t pid = 0
        with nogil:
            latch_lock(&self.latch)
            if self.pool.admit(1) == OK and self.store.reserve_pids(1) == OK:
                f = self.pool.new_page()
                pid = f.pid
                fill(f.page, self.pool.core.page_size, pid, p, n)
            latch_unlock(&self.latch)
        return pid or None

    def fetch_open(self, int helpers):
        cdef int rc = fetch_open(self.pool, helpers)
        if rc != OK:
            raise_status(rc)

    def fetch_want(self, int which, pids, uint64_t most=1 << 30):
        """How many it took before it was full."""
        cdef uint64_t pid
        cdef bint more = True
        taken = 0
        for pid in pids:
            with nogil:
                latch_lock(&self.latch)
                more = fetch_want(self.pool, &self.fetches[which], pid, most)
                latch_unlock(&self.latch)
            if not more:
                break
            taken += 1
        return taken

    def fetch_start(self, int which):
        with nogil:
            latch_lock(&self.latch)
            fetch_start(self.pool, &self.fetches[which])
            latch_unlock(&self.latch)

    def fetch_finish(self, int which):
        with nogil:
            latch_lock(&self.latch)
            fetch_finish(self.pool, &self.fetches[which])
            latch_unlock(&self.latch)

    def fetch_release(self, int which):
        with nogil:
            latch_lock(&self.latch)
            fetch_release(self.pool, &self.fetches[which])
            latch_unlock(&self.latch)

    def fetch_stop(self):
        fetch_stop(self.pool)

    def fetch_close(self):
        """Releases both fetches first."""
        cdef int which
        for which in range(2):
            self.fetch_release(which)
            fetch_free(&self.fetches[which])
        with nogil:
            fetch_close(self.pool)

    def mark(self, uint64_t pid):
        cdef Frame* f = pool_find(&self.pool.core, pid)
        return None if f is NULL else f.mark

    def pin_page(self, uint64_t pid):
        cdef Frame* f = NULL
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = self.bring(pid, self.pool.core.pages_gone, &f)
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)
        return <uint64_t>(f - self.pool.core.frames)

    def unpin_frame(self, uint64_t frame):
        with nogil:
            latch_lock(&self.latch)
            self.pool.unpin(&self.pool.core.frames[frame])
            latch_unlock(&self.latch)

    def resident(self, uint64_t pid):
        return pool_find(&self.pool.core, pid) is not NULL

    def drop(self, uint64_t pid):
        cdef Frame* f = NULL
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = self.bring(pid, self.pool.core.pages_gone, &f)
            if rc == OK:
                self.pool.drop_page(f)
                self.pool.unpin(f)
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)

    def forget(self, uint64_t pid):
        with nogil:
            latch_lock(&self.latch)
            self.pool.forget(pid)
            latch_unlock(&self.latch)

    def make_free(self, int n, rollback=False):
        cdef int rc
        cdef bint r = rollback
        with nogil:
            latch_lock(&self.latch)
            rc = self.pool.make_free_rollback(n) if r else self.pool.make_free(n)
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)

    def freeze(self):
        cdef uint32_t image = 0
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = self.store.freeze(&image)
            if rc == OK:
                rc = self.pool.freeze(image)
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)
        return image

    def write_frozen(self, uint32_t image):
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = self.pool.write_frozen(image)
            latch_unlock(&self.latch)
        if rc != OK:
            raise_status(rc)

    def checkpoint(self, meta=b"", **fields):
        image = self.freeze()
        try:
            self.write_frozen(image)
            self.publish(image, meta, **fields)
        except BaseException:
            self.abandon(image)
            raise

    def stats(self):
        p = self.pool
        return {"frames": p.frame_count, "free": p.free_count, "dirty": p.dirty_count, "frozen": p.frozen_count, "loads": p.loads,
                "evictions": p.evictions, "dirty_cap": p.dirty_cap}

    def pool_check(self):
        latch_enter(&self.latch)
        try:
            return pool_check(self.pool)
        finally:
            latch_unlock(&self.latch)
