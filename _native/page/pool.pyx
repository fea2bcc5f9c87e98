"""See pool.pxd for what each method is for and README.md for the life of a frame."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcpy, memmove, memset
from ..base.latch cimport condition_broadcast, condition_destroy, condition_init, condition_wait, latch_lock, latch_unlock
from ..base.status cimport AGAIN, E_CORRUPT, E_NOMEM, E_USAGE, OK, fail, fail_corrupt, fail_n
from .fetch cimport fetch_finish_all
from .layout cimport layout_check, layout_pack, layout_unpack
from .store cimport MAX_RESERVE

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t length, int prot, int flags, int fd, int64_t offset)
    int munmap(void* addr, size_t length)
    int madvise(void* addr, size_t length, int advice)
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_PRIVATE
    enum: MAP_ANONYMOUS
    enum: MAP_NORESERVE
    void* MAP_FAILED

cdef extern from *:
    """
    #ifndef MADV_HUGEPAGE
    #define MADV_HUGEPAGE 14
    #endif
    """
    enum: MADV_HUGEPAGE

cdef enum:
    MIN_FRAMES = 32
    MAX_CHUNKS = 64
    MAX_PER_BATCH = 128                # frames written with one call
    GROWN_FRAMES = 1 << 22             # most frames of a pool that may only grow
    PATIENCE = 200000                  # microseconds without any progress, after which pins are taken to be a deadlock

cdef struct Slot:                      # what write_frozen sorts
    uint64_t pid
    uint32_t frame


cdef int by_pid(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<Frame**>a)[0].pid, y = (<Frame**>b)[0].pid
    return -1 if x < y else (1 if x > y else 0)


cdef int slots_by_pid(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const Slot*>a).pid, y = (<const Slot*>b).pid
    return -1 if x < y else (1 if x > y else 0)


cdef void* map_memory(size_t n, bint reserve_only) noexcept nogil:
    cdef void* p = mmap(NULL, n, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | (MAP_NORESERVE if reserve_only else 0), -1, 0)
    return NULL if p == MAP_FAILED else p


cdef int per_batch(Pool pool) noexcept nogil:
    """Frames written with one call."""
    if pool.core.page_size == 0:
        return 1                       # closed
    return <int>min(max(pool.batch_bytes // pool.core.page_size, <size_t>1), <size_t>MAX_PER_BATCH)


cdef class Pool:
    def __cinit__(self):
        condition_init(&self.moved)

    def __dealloc__(self):
        self.close()
        condition_destroy(&self.moved)

    cdef int init(self, PageStore store, Latch* latch, uint64_t cache_bytes, uint64_t* log_end, uint64_t* live_versions,
                  bint volatile_only):
        cdef uint64_t n
        if self.core.frames is not NULL:
            return fail(E_USAGE, b"The pool is open already")
        self.store = store
        self.latch = latch
        self.log_end = log_end
        self.live_versions = live_versions
        self.volatile_only = volatile_only
        self.core.page_size = store.page_size
        n = cache_bytes // 100 * 97 // (store.page_size + sizeof(Frame) + 2 * sizeof(uint32_t))
        n = min(max(n, <uint64_t>MIN_FRAMES), <uint64_t>0x7FFFFFFF)
        self.max_frames = max(n, <uint64_t>GROWN_FRAMES) if volatile_only else n
        self.core.frames = <Frame*>map_memory(self.max_frames * sizeof(Frame), volatile_only)
        self.free_frames = <uint32_t*>map_memory(self.max_frames * sizeof(uint32_t), volatile_only)
        if self.core.frames is NULL or self.free_frames is NULL or self.add_chunk(n) != OK or self.grow_index(1) != OK:
            self.close()
            return fail(E_NOMEM, b"No memory for the cache: give a smaller cache_size")
        self.dirty_cap = self.frame_count - self.frame_count // 4
        self.batch_bytes = min(max(n * store.page_size // 16, <uint64_t>store.page_size), <uint64_t>1 << 20)
        return OK

    cdef void close(self) noexcept nogil:
        cdef int i
        for i in range(self.chunk_count):
            munmap(self.chunks[i], self.chunk_sizes[i])
        if self.core.frames is not NULL:
            munmap(self.core.frames, self.max_frames * sizeof(Frame))
        if self.free_frames is not NULL:
            munmap(self.free_frames, self.max_frames * sizeof(uint32_t))
        free(self.core.frame_of)
        memset(&self.core, 0, sizeof(PoolCore))
        self.free_frames = NULL
        self.chunk_count = 0
        self.frame_count = 0
        self.free_count = 0
        self.dirty_count = 0
        self.frozen_count = 0

    cdef int add_chunk(self, uint64_t frames) noexcept nogil:
        cdef size_t size = frames * self.core.page_size
        cdef char* p
        cdef uint64_t i
        if self.chunk_count == MAX_CHUNKS or self.frame_count + frames > self.max_frames:
            return fail(E_NOMEM, b"The cache cannot grow any further")
        p = <char*>map_memory(size, False)
        if p is NULL:
            return fail(E_NOMEM, b"No memory for the cache")
        madvise(p, size, MADV_HUGEPAGE)
        self.chunks[self.chunk_count] = p
        self.chunk_sizes[self.chunk_count] = size
        self.chunk_count += 1
        for i in range(frames):                       # the lowest page of the arena is used first
            self.core.frames[self.frame_count + i].page = p + i * self.core.page_size
            self.free_frames[self.free_count + frames - 1 - i] = <uint32_t>(self.frame_count + i)
        self.free_count += frames
        self.frame_count += frames
        return OK

    cdef int grow_index(self, uint64_t pids) noexcept nogil:
        """Room in frame_of for all pids below `pids`."""
        cdef uint64_t n
        cdef uint32_t* p
        if pids <= self.core.pids:
            return OK
        n = max(pids, self.core.pids * 2, <uint64_t>1024)
        p = <uint32_t*>realloc(self.core.frame_of, n * sizeof(uint32_t))
        if p is NULL:
            return fail(E_NOMEM, b"No memory for the index of the cache")
        memset(p + self.core.pids, 0, (n - self.core.pids) * sizeof(uint32_t))
        self.core.frame_of = p
        self.core.pids = n
        return OK

    # ---------------------------------------------------------------- frames

    cdef Frame* pop_free(self) noexcept nogil:
        self.free_count -= 1
        return &self.core.frames[self.free_frames[self.free_count]]

    cdef void push_free(self, Frame* f) noexcept nogil:
        f.state = FRAME_FREE
        f.pid = 0
        f.mark = 0
        f.ref = 0
        self.free_frames[self.free_count] = <uint32_t>(f - self.core.frames)
        self.free_count += 1
        self.moved_on()

    cdef void moved_on(self) noexcept nogil:
        self.progress += 1
        if self.waiting:
            condition_broadcast(&self.moved)

    cdef int wait_moved(self, int64_t micros) noexcept nogil:
        self.waiting += 1
        cdef bint woken = condition_wait(&self.moved, self.latch, micros)
        self.waiting -= 1
        return woken

    cdef void unindex(self, Frame* f) noexcept nogil:
        self.core.frame_of[f.pid] = 0

    cdef void unlink(self, Frame* f) noexcept nogil:
        """Takes f out of the chain of frames of one page: it is on disk, or need not be."""
        if f.older is not NULL:
            f.older.newer = f.newer
        if f.newer is not NULL:
            f.newer.older = f.older
            f.newer.twin = f.older is not NULL
        f.older = NULL
        f.newer = NULL
        f.twin = 0

    cdef void clean(self, Frame* f) noexcept nogil:
        if f.dirty:
            f.dirty = 0
            self.dirty_count -= 1
        if f.frozen:
            f.frozen = 0
            self.frozen_count -= 1

    cdef void let_go(self, Frame* f) noexcept nogil:
        """A detached frame that need not be written: free when the last pin goes."""
        self.unlink(f)
        if f.pins == 0:
            self.push_free(f)

    cdef void evict(self, Frame* f) noexcept nogil:
        self.unindex(f)
        self.evictions += 1
        self.push_free(f)

    cdef void pin(self, Frame* f) noexcept nogil:
        f.pins += 1

    cdef void unpin(self, Frame* f) noexcept nogil:
        f.pins -= 1
        if f.pins == 0:
            if f.state == FRAME_DETACHED and not f.dirty and not f.busy:
                self.push_free(f)
            elif self.waiting:
                self.moved_on()

    # ---------------------------------------------------------------- blocks of other files

    cdef Frame* block_frame(self) noexcept nogil:
        cdef Frame* f = self.pop_free()
        f.state = FRAME_BLOCK
        f.pins = 1
        f.ref = 1
        f.older = NULL
        return f

    cdef void block_ready(self, Frame* f, uint32_t* slot) noexcept nogil:
        f.older = <Frame*>slot
        slot[0] = <uint32_t>(f - self.core.frames) + 1
        self.loads += 1

    cdef void block_drop(self, Frame* f) noexcept nogil:
        if f.older is not NULL:
            (<uint32_t*>f.older)[0] = 0
            f.older = NULL
        if f.pins == 0:
            self.push_free(f)
        else:                                           # its readers let go of it first
            f.state = FRAME_DETACHED

    cdef Frame* lend(self, uint64_t n) noexcept nogil:
        cdef uint64_t first = self.frame_count - n
        cdef uint64_t i
        if n == 0 or n >= self.free_count:
            return NULL
        for i in range(n):                            # what is used last lies lowest in the stack
            if self.free_frames[i] != self.frame_count - 1 - i:
                return NULL
        self.free_count -= n
        memmove(self.free_frames, self.free_frames + n, self.free_count * sizeof(uint32_t))
        for i in range(first, first + n):
            self.core.frames[i].state = FRAME_BLOCK
            self.core.frames[i].pins = 1
        return &self.core.frames[first]

    cdef void take_back(self, Frame* first, uint64_t n) noexcept nogil:
        cdef uint64_t i
        for i in range(n):
            first[n - 1 - i].pins = 0
            self.block_drop(&first[n - 1 - i])

    # ---------------------------------------------------------------- admission

    cdef bint enough(self, uint64_t n, bint capped) noexcept nogil:
        if self.free_count < n:
            return False
        return (not capped or self.rolling_back or self.volatile_only
                or self.dirty_count + n <= self.dirty_cap or self.dirty_count == 0)

    cdef int admit(self, int frames) noexcept nogil:
        if not self.enough(frames, True):
            return AGAIN
        return self.grow_index(self.store.next_pid + MAX_RESERVE)

    cdef int admit_rollback(self, int frames) noexcept nogil:
        if not self.enough(frames, False):
            return AGAIN
        return self.grow_index(self.store.next_pid + MAX_RESERVE)

    cdef int make_free(self, int n) noexcept nogil:
        return self.find_free(n, True)

    cdef int make_free_rollback(self, int n) noexcept nogil:
        return self.find_free(n, False)

    cdef int find_free(self, uint64_t n, bint capped) noexcept nogil:
        """Frees n frames and, when that costs no writing, a few more."""
        cdef Frame* batch[MAX_PER_BATCH]
        cdef uint64_t target = n + min(self.frame_count // 16, <uint64_t>MAX_PER_BATCH)
        cdef uint64_t seen
        cdef int count, i, rc
        cdef int room = per_batch(self)
        if n > self.max_frames:
            return fail_n(E_NOMEM, b"The cache of %lld pages is too small: %lld are needed at once", self.frame_count, n)
        while not self.enough(n, capped):
            count = self.sweep(target, capped, batch, room)
            if self.enough(n, capped):
                for i in range(count):
                    batch[i].busy = 0
                break
            if count == 0:
                count = self.gather_frozen(batch, room)
            if count:
                if self.store.spare.blocks or self.rolling_back:
                    rc = self.write_batch(batch, count, True)
                else:                                     # first what a rollback may need, then look again
                    for i in range(count):
                        batch[i].busy = 0
                    latch_unlock(self.latch)
                    rc = self.store.keep_spare(self.batch_bytes + <size_t>room * 1024)
                    latch_lock(self.latch)
                if rc != OK:                              # a full disk, perhaps: then clean frames have to do
                    self.sweep(n, capped, batch, 0)
                    if not self.enough(n, capped):
                        return rc
            elif self.volatile_only:
                rc = self.add_chunk(max(self.frame_count // 4, n))
                if rc != OK:
                    return rc
            elif self.in_flight:
                self.wait_moved(-1)
            else:
                # All is pinned, by this thread or by others. They give their pins back soon, unless they wait here as well:
                # then one of them has to give up, and its doing so is progress for the rest.
                seen = self.progress
                if not self.wait_moved(PATIENCE) and self.progress == seen:
                    self.moved_on()
                    return fail_n(E_NOMEM, b"The cache of %lld pages is too small: %lld more are needed and all are in use",
                                  self.frame_count, n)
        return OK

    cdef int sweep(self, uint64_t n, bint capped, Frame** batch, int room) noexcept nogil:
        """The clock. Evicts clean frames until n are free, and on its way gathers up to `room` dirty ones, which it marks busy."""
        cdef uint64_t steps = 2 * self.frame_count
        cdef int count = 0
        cdef Frame* f
        while steps and not (self.free_count >= n and (count == room or self.enough(n, capped))):
            steps -= 1
            f = &self.core.frames[self.hand]
            self.hand += 1
            if self.hand >= self.frame_count:
                self.hand = 0
            if f.state == FRAME_BLOCK and f.pins == 0 and f.older is not NULL:
                if f.ref:
                    f.ref = 0
                elif self.free_count < n:
                    self.evictions += 1
                    self.block_drop(f)
                continue
            if f.state != FRAME_READY or f.pins or f.busy or f.frozen or f.older is not NULL:
                continue
            if f.ref:
                f.ref = 0
            elif not f.dirty:
                if self.free_count < n:
                    self.evict(f)
            elif not self.volatile_only and count < room:
                f.busy = 1
                batch[count] = f
                count += 1
                if count == room and self.free_count == 0:
                    break
        return count

    cdef int gather_frozen(self, Frame** batch, int room) noexcept nogil:
        """Up to `room` frames of the image under way, marked busy: what is lacking for room the checkpoint need not write later."""
        cdef uint64_t i
        cdef int count = 0
        cdef Frame* f
        if self.frozen_count == 0:
            return 0
        for i in range(self.frame_count):
            f = &self.core.frames[i]
            if f.frozen and not f.busy and f.older is NULL:
                f.busy = 1
                batch[count] = f
                count += 1
                if count == room:
                    break
        return count

    cdef int write_batch(self, Frame** batch, int count, bint evicting) noexcept nogil:
        """(releases the latch) Writes dirty frames of one generation, marked busy by the caller, and cleans them. Nobody changes a
        busy frame: writable() makes a clone, which waits for this one (`older`) before it may be written itself."""
        cdef uint64_t pids[MAX_PER_BATCH]
        cdef char* images[MAX_PER_BATCH]
        cdef size_t lengths[MAX_PER_BATCH]
        cdef char* scratch = NULL
        cdef char* p
        cdef uint32_t generation
        cdef int i, rc
        cdef Frame* f
        qsort(batch, count, sizeof(Frame*), by_pid)
        generation = batch[0].gen
        for i in range(count):
            pids[i] = batch[i].pid
            if batch[i].state == FRAME_READY:
                batch[i].state = FRAME_WRITING
        self.in_flight += count
        if evicting and self.rolling_back:
            self.store.use_spare()
        latch_unlock(self.latch)
        scratch = <char*>malloc(<size_t><uint32_t>count * (self.core.page_size + 1024))
        if scratch is NULL:
            rc = fail(E_NOMEM, b"No memory to write pages")
        else:
            p = scratch
            for i in range(count):
                images[i] = p
                lengths[i] = layout_pack(batch[i].page, self.core.page_size, p, 512)
                p += lengths[i]
            rc = self.store.write_pages(pids, images, lengths, count, generation)
        free(scratch)
        latch_lock(self.latch)
        self.in_flight -= count
        for i in range(count):
            f = batch[i]
            f.busy = 0
            if f.state == FRAME_WRITING:
                f.state = FRAME_READY
            if rc == OK:
                self.clean(f)
            if f.state == FRAME_DETACHED:
                if not f.frozen:               # written, or superseded by a clone, or its page is gone
                    self.clean(f)
                    self.let_go(f)
            elif rc == OK and evicting and f.pins == 0 and not f.ref:
                self.evict(f)
        self.moved_on()
        return rc

    # ---------------------------------------------------------------- pages

    cdef int read_into(self, uint64_t pid, char* page) noexcept nogil:
        """(no latch)"""
        cdef size_t n = 0
        cdef char text[192]
        cdef const char* wrong
        cdef int rc
        cdef char* packed = <char*>malloc(self.core.page_size)
        if packed is NULL:
            return fail(E_NOMEM, b"No memory to read a page")
        rc = self.store.read_page(pid, packed, self.core.page_size, &n)
        if rc == OK and not layout_unpack(packed, n, page, self.core.page_size):
            snprintf(text, sizeof(text), "Page %llu: its header contradicts its length", <unsigned long long>pid)
            rc = fail_corrupt(self.store.path, -1, text, 0, n)
        free(packed)
        if rc == OK:
            wrong = layout_check(page, self.core.page_size, pid)
            if wrong is not NULL:
                snprintf(text, sizeof(text), "Page %llu: %s", <unsigned long long>pid, wrong)
                rc = fail_corrupt(self.store.path, -1, text, 0, 0)
        return rc

    cdef int load(self, uint64_t pid, uint64_t gone, Frame** out) noexcept nogil:
        cdef bint forgotten
        cdef Frame* f
        cdef char text[96]
        cdef int rc
        out[0] = NULL
        while True:
            if pid < self.core.pids and self.core.frame_of[pid]:
                f = &self.core.frames[self.core.frame_of[pid] - 1]
                if f.state != FRAME_LOADING:
                    f.pins += 1
                    f.ref = 1
                    out[0] = f
                    return OK
                if not fetch_finish_all(self):
                    self.wait_moved(-1)
            elif self.free_count == 0:
                rc = self.find_free(1, False)
                if rc != OK:
                    return rc
            else:
                break
        if pid == 0 or pid >= self.store.next_pid:
            snprintf(text, sizeof(text), "Page %llu is referred to, but was never given out", <unsigned long long>pid)
            return fail_corrupt(self.store.path, -1, text, self.store.next_pid, pid)
        rc = self.grow_index(self.store.next_pid)
        if rc != OK:
            return rc
        f = self.pop_free()
        f.pid = pid
        f.state = FRAME_LOADING
        f.pins = 1
        f.busy = 1
        self.core.frame_of[pid] = <uint32_t>(f - self.core.frames) + 1
        self.in_flight += 1
        self.loads += 1
        latch_unlock(self.latch)
        rc = self.read_into(pid, f.page)
        latch_lock(self.latch)
        self.in_flight -= 1
        f.busy = 0
        f.ref = 1
        forgotten = self.core.frame_of[pid] != <uint32_t>(f - self.core.frames) + 1
        if rc == OK and not forgotten:
            f.mark = self.log_end[0] if self.live_versions is not NULL and self.live_versions[0] else 0
            f.state = FRAME_READY
        else:
            if not forgotten:
                self.unindex(f)
            f.state = FRAME_DETACHED
            # It may have been freed after it was found missing, before or while it was read: whoever wanted it has to look again where it should be.
            if not forgotten and (rc != E_CORRUPT or gone == self.core.pages_gone or gone == <uint64_t>-1):
                f.pins = 0
                self.push_free(f)
                return rc
            if rc != OK:
                memset(f.page, 0, self.core.page_size)
        self.moved_on()
        out[0] = f
        return OK

    cdef Frame* writable(self, Frame* f) noexcept nogil:
        cdef Frame* c
        if not f.frozen and not f.busy:
            if not f.dirty:
                f.dirty = 1
                self.dirty_count += 1
            f.gen = self.store.generation
            return f
        c = self.pop_free()
        memcpy(c.page, f.page, self.core.page_size)
        c.pid = f.pid
        c.mark = f.mark
        c.gen = self.store.generation
        c.pins = 0
        c.state = FRAME_READY
        c.dirty = 1
        c.ref = 1
        c.older = f
        c.twin = 1
        f.newer = c
        f.state = FRAME_DETACHED
        self.core.frame_of[c.pid] = <uint32_t>(c - self.core.frames) + 1
        self.dirty_count += 1
        return c

    cdef Frame* new_page(self) noexcept nogil:
        cdef Frame* f = self.pop_free()
        f.pid = self.store.alloc_pid()
        f.gen = self.store.generation
        f.pins = 0
        f.state = FRAME_READY
        f.dirty = 1
        f.ref = 1
        memset(f.page, 0, self.core.page_size)
        self.core.frame_of[f.pid] = <uint32_t>(f - self.core.frames) + 1
        self.dirty_count += 1
        return f

    cdef void drop_page(self, Frame* f) noexcept nogil:
        self.unindex(f)
        self.store.free_pid(f.pid)
        self.core.pages_gone += 1
        f.state = FRAME_DETACHED
        if not f.frozen and not f.busy:
            self.clean(f)
            self.let_go(f)

    cdef void forget(self, uint64_t pid) noexcept nogil:
        cdef Frame* f
        if pid < self.core.pids and self.core.frame_of[pid]:
            f = &self.core.frames[self.core.frame_of[pid] - 1]
            if f.state != FRAME_LOADING:
                self.drop_page(f)
                return
            self.unindex(f)
        self.store.free_pid(pid)
        self.core.pages_gone += 1

    # ---------------------------------------------------------------- checkpoints

    cdef int freeze(self, uint32_t generation) noexcept nogil:
        cdef uint64_t i
        cdef Frame* f
        if self.frozen_count:
            return fail(E_USAGE, b"The frames of another image are still to be written")
        if self.volatile_only:
            return fail(E_USAGE, b"A pool that is never written has no checkpoints")
        for i in range(self.frame_count):
            f = &self.core.frames[i]
            if f.dirty and f.state != FRAME_DETACHED:
                f.gen = generation
                f.frozen = 1
                self.frozen_count += 1
        return OK

    cdef void thaw(self) noexcept nogil:
        """The image is given up: its frames are dirty in the current generation, or superseded."""
        cdef uint64_t i
        cdef Frame* f
        for i in range(self.frame_count if self.frozen_count else 0):
            f = &self.core.frames[i]
            if not f.frozen:
                continue
            f.frozen = 0
            self.frozen_count -= 1
            f.gen = self.store.generation
            if f.state == FRAME_DETACHED and not f.busy:
                self.clean(f)
                self.let_go(f)
        self.moved_on()

    cdef int write_frozen(self, uint32_t generation) noexcept nogil:
        cdef Frame* batch[MAX_PER_BATCH]
        cdef Slot* slots
        cdef Frame* f
        cdef uint64_t i, n
        cdef int room = per_batch(self)
        cdef int count, rc = OK
        while self.frozen_count and rc == OK:
            slots = <Slot*>malloc(self.frozen_count * sizeof(Slot))
            if slots is NULL:
                rc = fail(E_NOMEM, b"No memory to write a checkpoint")
                break
            n = 0
            for i in range(self.frame_count):
                f = &self.core.frames[i]
                if f.frozen and not f.busy and f.older is NULL:
                    slots[n].pid = f.pid
                    slots[n].frame = <uint32_t>i
                    n += 1
            qsort(slots, n, sizeof(Slot), slots_by_pid)
            i = 0
            while i < n and rc == OK:
                count = 0
                while i < n and count < room:
                    f = &self.core.frames[slots[i].frame]       # may have been written by an evicting thread meanwhile
                    if f.frozen and not f.busy and f.older is NULL and f.pid == slots[i].pid:
                        f.busy = 1
                        batch[count] = f
                        count += 1
                    i += 1
                if count:
                    rc = self.write_batch(batch, count, False)
            free(slots)
            if n == 0:
                if self.in_flight == 0:
                    rc = fail(E_USAGE, b"Frozen frames wait for nobody")
                else:
                    self.wait_moved(-1)
        if rc != OK:
            self.thaw()
        return rc


cdef object pool_check(Pool pool):
    cdef uint64_t i
    cdef uint64_t dirty = 0, frozen = 0, free_frames = 0
    cdef Frame* f
    cdef list wrong = []
    cdef bint indexed
    on_stack = {pool.free_frames[i] for i in range(pool.free_count)}
    if <uint64_t>len(on_stack) != pool.free_count:
        wrong.append("a frame is twice in the free list")
    for i in range(pool.frame_count):
        f = &pool.core.frames[i]
        dirty += f.dirty
        frozen += f.frozen
        indexed = f.pid != 0 and f.pid < pool.core.pids and pool.core.frame_of[f.pid] == i + 1
        if f.state == FRAME_FREE:
            free_frames += 1
            if i not in on_stack:
                wrong.append(f"frame {i} is free, but not in the free list")
            if f.dirty or f.frozen or f.pins or f.busy or f.older is not NULL or f.newer is not NULL:
                wrong.append(f"frame {i} is free, but not blank")
        elif i in on_stack:
            wrong.append(f"frame {i} is in use, but in the free list")
        if f.state == FRAME_BLOCK:
            if f.dirty or f.frozen or f.busy or f.pid or (f.older is not NULL and (<uint32_t*>f.older)[0] != i + 1):
                wrong.append(f"frame {i} holds a block that does not lead to it")
            continue
        if (f.state == FRAME_READY or f.state == FRAME_WRITING) != indexed and f.state != FRAME_LOADING:
            wrong.append(f"frame {i} of page {f.pid} is in state {f.state}, and {'' if indexed else 'not '}in the index")
        if f.state == FRAME_WRITING and not (f.busy and f.dirty):
            wrong.append(f"frame {i} is being written by nobody")
        if f.state == FRAME_DETACHED and not (f.frozen or f.busy or f.pins):
            wrong.append(f"frame {i} of page {f.pid} is lost")
        if f.frozen and not f.dirty:
            wrong.append(f"frame {i} is frozen, but clean")
        if f.twin != (f.older is not NULL):
            wrong.append(f"frame {i}: its twin mark is wrong")
        if f.older is not NULL and (f.older.newer != f or f.older.pid != f.pid or not f.older.dirty):
            wrong.append(f"frame {i}: its chain is broken")
    for i in range(pool.core.pids):
        if pool.core.frame_of[i] > pool.frame_count or (pool.core.frame_of[i] and pool.core.frames[pool.core.frame_of[i] - 1].pid != i):
            wrong.append(f"page {i}: the index leads to a frame of another page")
    if free_frames != pool.free_count:
        wrong.append("the count of free frames is wrong")
    if dirty != pool.dirty_count:
        wrong.append(f"{dirty} frames are dirty, counted {pool.dirty_count}")
    if frozen != pool.frozen_count:
        wrong.append(f"{frozen} frames are frozen, counted {pool.frozen_count}")
    return wrong
