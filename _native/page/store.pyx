"""See store.pxd for what each method is for and README.md for the rules."""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from ..base.checksum cimport crc32c
from ..base.coding cimport get32, get64
from ..base.idmap cimport idmap_get
from ..base.latch cimport (
    condition_broadcast, condition_destroy, condition_init, condition_wait, latch_lock, latch_unlock,
)
from ..base.status cimport (
    E_INVALID, E_NOMEM, E_READONLY, E_USAGE, OK, fail, fail_corrupt,
)
from .space cimport (
    SPACE_FIRST, space_alloc, space_clear, space_fits, space_release, space_reset_rover,
)
from .store_blob cimport large_abandon, large_begin, large_finish, large_read, large_write
from .store_open cimport opening_build_space, opening_create, opening_open, opening_read_meta
from .store_publish cimport publish_image
from .store_upkeep cimport upkeep_check, upkeep_compact, upkeep_copy, upkeep_trim

cdef enum:
    PIECE = 1 << 20                  # bytes per call at most


cdef bint push(List* list, const void* item, size_t size) noexcept nogil:
    """False when there is no memory for it: what a list forgets is found again when the database is next opened."""
    cdef size_t n
    cdef char* p
    if list.count == list.capacity:
        n = list.capacity * 2 if list.capacity else 64
        p = <char*>realloc(list.items, n * size)
        if p is NULL:
            return False
        list.items = p
        list.capacity = n
    memcpy(list.items + list.count * size, item, size)
    list.count += 1
    return True


cdef void list_clear(List* list) noexcept nogil:
    free(list.items)
    memset(list, 0, sizeof(List))


@cython.no_gc_clear                  # the file is closed at the very end, and that needs the file system
cdef class PageStore:
    def __cinit__(self):
        self.handle = -1
        self.epoch = 3
        condition_init(&self.changed)

    def __dealloc__(self):
        self.close()
        condition_destroy(&self.changed)

    cdef void init(self, Vfs vfs, Latch* latch) noexcept:
        self.vfs = vfs
        self.latch = latch

    # ---------------------------------------------------------------- opening

    cdef int create(self, const char* path, uint32_t page_size, const uint8_t* database_id) noexcept nogil:
        return opening_create(self, path, page_size, database_id)

    cdef int open(self, const char* path, bint read_only) noexcept nogil:
        return opening_open(self, path, read_only)

    cdef bint within(self, const MapEntry* e) noexcept nogil:
        """Whether a run that was read from the file can be: none at all, or one within the file."""
        if e.block == 0:
            return e.blocks == 0
        return (e.block >= SPACE_FIRST and e.blocks > 0 and e.block <= self.file_limit
                and e.blocks <= self.file_limit - e.block)

    cdef int read_run(self, const MapEntry* e, char* buf, const char* what) noexcept nogil:
        """Reads a whole run into buf (e.blocks * BLOCK bytes) and checks it."""
        cdef size_t got = 0, n = <size_t>e.blocks * BLOCK
        cdef char text[128]
        cdef uint32_t crc
        cdef int rc
        if e.block < SPACE_FIRST or e.block > <uint64_t>1 << 53:
            snprintf(text, sizeof(text), "%s: impossible address", what)
            return fail_corrupt(self.path, -1, text, 0, e.block)
        rc = self.vfs.read(self.handle, buf, n, e.block * BLOCK, &got)
        if rc != OK:
            return rc
        if got < n:
            snprintf(text, sizeof(text), "%s: the file ends too early", what)
            return fail_corrupt(self.path, e.block * BLOCK + got, text, n, got)
        crc = crc32c(0, buf, n)
        if crc != e.crc:
            snprintf(text, sizeof(text), "%s: wrong checksum", what)
            return fail_corrupt(self.path, e.block * BLOCK, text, e.crc, crc)
        return OK

    cdef int read_meta(self, char** data, size_t* n) noexcept nogil:
        return opening_read_meta(self, data, n)

    cdef void close(self) noexcept nogil:
        cdef uint64_t i
        cdef int k
        if self.handle >= 0 and self.vfs is not None:
            self.vfs.close(self.handle)
        self.handle = -1
        for i in range(self.map_count):
            free(self.pages[i])
            free(self.born[i])
            free(self.copies[i])
        free(self.pages)
        free(self.born)
        free(self.copies)
        free(self.dir)
        free(self.dir_born)
        free(self.flags)
        self.pages = NULL
        self.born = NULL
        self.copies = NULL
        self.dir = NULL
        self.dir_born = NULL
        self.flags = NULL
        self.map_count = 0
        self.map_capacity = 0
        self.next_pid = 0
        self.image = 0
        self.failed = 0
        self.foreign = 0
        self.inflight = self.moves = self.turnover = 0
        self.spare.blocks = 0
        self.root_born = 0
        self.meta_born = 0
        memset(self.pins, 0, sizeof(self.pins))
        space_clear(&self.space)
        self.space_state = SPACE_UNKNOWN
        list_clear(&self.free_pids)
        list_clear(&self.later_pids)
        list_clear(&self.pending)
        list_clear(&self.deferred)
        for k in range(3):
            list_clear(&self.retired[k])

    # ---------------------------------------------------------------- the page map in memory

    cdef int grow_map(self, uint64_t count) noexcept nogil:
        """Room in the arrays for `count` map pages."""
        cdef uint64_t n = self.map_capacity, old = self.map_capacity
        cdef void* p
        if count <= n:
            return OK
        n = max(count, n + n // 2, <uint64_t>16)
        p = realloc(self.pages, n * sizeof(void*))
        if p is not NULL:
            self.pages = <MapEntry**>p
            p = realloc(self.born, n * sizeof(void*))
        if p is not NULL:
            self.born = <uint32_t**>p
            p = realloc(self.copies, n * sizeof(void*))
        if p is not NULL:
            self.copies = <MapEntry**>p
            p = realloc(self.dir, n * sizeof(MapEntry))
        if p is not NULL:
            self.dir = <MapEntry*>p
            p = realloc(self.dir_born, n * sizeof(uint32_t))
        if p is not NULL:
            self.dir_born = <uint32_t*>p
            p = realloc(self.flags, n)
        if p is NULL:
            return fail(E_NOMEM, b"No memory for the page map")
        self.flags = <uint8_t*>p
        memset(self.pages + old, 0, (n - old) * sizeof(void*))
        memset(self.born + old, 0, (n - old) * sizeof(void*))
        memset(self.copies + old, 0, (n - old) * sizeof(void*))
        memset(self.dir + old, 0, (n - old) * sizeof(MapEntry))
        memset(self.dir_born + old, 0, (n - old) * sizeof(uint32_t))
        memset(self.flags + old, 0, n - old)
        self.map_capacity = n
        return OK

    cdef int load_map_page(self, uint64_t mp) noexcept nogil:
        """(no latch) Brings in one map page and checks its entries."""
        cdef MapEntry where
        cdef MapEntry* page = <MapEntry*>calloc(MAP_FANOUT, sizeof(MapEntry))
        cdef uint32_t* born = <uint32_t*>calloc(MAP_FANOUT, sizeof(uint32_t))
        cdef char data[MAP_BLOCKS * BLOCK]
        cdef int i, rc = OK
        cdef uint64_t pid
        if page is NULL or born is NULL:
            free(page)
            free(born)
            return fail(E_NOMEM, b"No memory for the page map")
        latch_lock(self.latch)
        where = self.dir[mp]
        latch_unlock(self.latch)
        if where.block:
            rc = self.read_run(&where, data, b"Map page")
            for i in range(MAP_FANOUT if rc == OK else 0):
                pid = mp * MAP_FANOUT + i
                page[i].block = get64(data + i * 16)
                page[i].blocks = get32(data + i * 16 + 8)
                page[i].crc = get32(data + i * 16 + 12)
                if page[i].block == 0 and page[i].blocks == 0:
                    continue
                if not self.within(&page[i]) or pid == 0 or pid >= self.opened_next_pid:
                    rc = fail_corrupt(self.path, where.block * BLOCK + i * 16, b"Map page: an entry leads outside the file",
                                      self.file_limit, page[i].block)
                    break
        if rc == OK:
            latch_lock(self.latch)
            if self.pages[mp] is NULL:
                self.pages[mp] = page
                self.born[mp] = born
                page = NULL
                born = NULL
            latch_unlock(self.latch)
        free(page)
        free(born)
        return rc

    cdef int load_map(self) noexcept nogil:
        """(no latch) Brings in every map page. Map pages made since opening are in memory always."""
        cdef uint64_t mp
        cdef bint there
        cdef int rc
        for mp in range(self.sb.map_pages):
            latch_lock(self.latch)
            there = mp >= self.map_count or self.pages[mp] is not NULL
            latch_unlock(self.latch)
            if not there:
                rc = self.load_map_page(mp)
                if rc != OK:
                    return rc
        return OK

    cdef int reserve_pids(self, int n) noexcept nogil:
        cdef uint64_t count = (self.next_pid + n + MAP_FANOUT - 1) // MAP_FANOUT
        cdef uint64_t mp = self.map_count
        if n < 0 or n > MAX_RESERVE:
            return fail(E_INVALID, b"Too many page numbers reserved at once")
        if count <= mp:
            return OK
        if self.grow_map(count) != OK:
            return E_NOMEM
        while mp < count:
            self.pages[mp] = <MapEntry*>calloc(MAP_FANOUT, sizeof(MapEntry))
            self.born[mp] = <uint32_t*>calloc(MAP_FANOUT, sizeof(uint32_t))
            if self.pages[mp] is NULL or self.born[mp] is NULL:
                free(self.pages[mp])
                free(self.born[mp])
                self.pages[mp] = NULL
                self.born[mp] = NULL
                return fail(E_NOMEM, b"No memory for the page map")
            mp += 1
            self.map_count = mp
        return OK

    cdef uint64_t alloc_pid(self) noexcept nogil:
        cdef uint64_t pid
        self.turnover += 1
        if self.free_pids.count:
            self.free_pids.count -= 1
            pid = (<uint64_t*>self.free_pids.items)[self.free_pids.count]
        else:
            pid = self.next_pid
            self.next_pid += 1
        self.born[pid // MAP_FANOUT][pid % MAP_FANOUT] = self.generation
        return pid

    cdef bint pid_exists(self, uint64_t pid) noexcept nogil:
        if pid == 0 or pid >= self.next_pid:
            return False
        if self.memory is not NULL and idmap_get(self.memory, pid) is not NULL:
            return True
        if self.pages[pid // MAP_FANOUT] is NULL:
            return not self.pid_is_free(pid)
        return self.pages[pid // MAP_FANOUT][pid % MAP_FANOUT].block != 0

    cdef uint32_t pid_history(self, uint64_t pid) noexcept nogil:
        if pid >= self.next_pid or self.born[pid // MAP_FANOUT] is NULL:
            return 0
        return self.born[pid // MAP_FANOUT][pid % MAP_FANOUT]

    cdef bint pid_is_free(self, uint64_t pid) noexcept nogil:
        cdef size_t i
        if pid == 0 or pid >= self.next_pid:
            return True
        for i in range(self.pending.count):
            if (<Pending*>self.pending.items)[i].pid == pid:
                return True
        return (self.born[pid // MAP_FANOUT] is not NULL
                and self.born[pid // MAP_FANOUT][pid % MAP_FANOUT] & BORN_FREE != 0)

    cdef void free_pid(self, uint64_t pid) noexcept nogil:
        cdef uint64_t mp = pid // MAP_FANOUT
        cdef Pending later
        if pid == 0 or pid >= self.next_pid:
            return
        self.turnover += 1
        if self.pages[mp] is NULL or self.space_state == SPACE_BUILDING or self.own_copy(mp) != OK:
            later.pid = pid
            later.generation = self.generation
            push(&self.pending, &later, sizeof(Pending))
            return
        self.free_entry(pid, self.generation)

    cdef void free_entry(self, uint64_t pid, uint32_t generation) noexcept nogil:
        """(latch) Empties the entry as of `generation`: the current one, or the image's."""
        cdef uint64_t mp = pid // MAP_FANOUT
        cdef int i = pid % MAP_FANOUT
        cdef MapEntry old = self.pages[mp][i]
        cdef uint32_t born = self.born[mp][i]
        if born & BORN_FREE:
            return
        if self.image == 0 or generation > self.image:
            generation = self.generation
            self.flags[mp] |= CHANGED
        else:
            generation = self.image
            self.flags[mp] |= IMAGED
            if self.copies[mp] is not NULL:
                memset(&self.copies[mp][i], 0, sizeof(MapEntry))
        memset(&self.pages[mp][i], 0, sizeof(MapEntry))
        self.born[mp][i] = BORN_FREE | generation
        if old.block:
            self.release_run(&old, born, generation)
        self.retire(pid, &old)

    cdef int drain(self) noexcept nogil:
        """(no latch) Frees the pids whose map page was not in memory."""
        cdef Pending item
        cdef uint64_t mp
        cdef int rc = OK
        latch_lock(self.latch)
        while self.pending.count and rc == OK:
            item = (<Pending*>self.pending.items)[self.pending.count - 1]
            mp = item.pid // MAP_FANOUT
            if self.pages[mp] is NULL:
                latch_unlock(self.latch)
                rc = self.load_map_page(mp)
                latch_lock(self.latch)
                continue
            if item.generation == self.generation:
                rc = self.own_copy(mp)
                if rc != OK:
                    break
            self.pending.count -= 1
            self.free_entry(item.pid, item.generation)
        latch_unlock(self.latch)
        return rc

    # ---------------------------------------------------------------- free space

    cdef int ensure_space(self) noexcept nogil:
        """(no latch) Before anything is allocated: the bitmap, built from the whole map. One thread builds, the others wait."""
        cdef int rc = OK
        if self.read_only:
            return fail(E_READONLY, b"The database is open for reading only")
        if self.handle < 0:
            return fail(E_USAGE, b"The page store is closed")
        latch_lock(self.latch)
        while self.space_state == SPACE_BUILDING:
            condition_wait(&self.changed, self.latch, -1)
        if self.space_state == SPACE_READY:
            latch_unlock(self.latch)
            return OK
        self.space_state = SPACE_BUILDING
        latch_unlock(self.latch)
        rc = opening_build_space(self)
        latch_lock(self.latch)
        self.space_state = SPACE_READY if rc == OK else SPACE_UNKNOWN
        if rc != OK:
            space_clear(&self.space)
        condition_broadcast(&self.changed)
        latch_unlock(self.latch)
        return self.drain() if rc == OK else rc

    cdef int take(self, uint64_t n, uint64_t* block) noexcept nogil:
        """(latch; may wait) Allocates a run. The file must not grow while its end is being cut off."""
        cdef int rc
        while self.trimming and not space_fits(&self.space, n):
            condition_wait(&self.changed, self.latch, -1)
        rc = space_alloc(&self.space, n, block)
        if rc == OK:
            self.inflight += n
            self.moves += 1
        return rc

    cdef void give_back(self, uint64_t block, uint64_t n) noexcept nogil:
        """(latch) Undoes `take`: no map names the run yet."""
        space_release(&self.space, block, n)
        self.inflight -= n
        self.moves += 1

    cdef void release_run(self, const MapEntry* e, uint32_t born, uint32_t tag) noexcept nogil:
        """(latch) The run was written in generation `born`, and replaced in `tag`."""
        cdef Deferred d
        self.moves += 1
        born &= ~BORN_FREE
        if born >= tag:
            self.retire(0, e)
            return
        d.block = e.block
        d.blocks = e.blocks
        d.born = born
        d.tag = tag
        push(&self.deferred, &d, sizeof(Deferred))

    cdef void release_deferred(self) noexcept nogil:
        """(latch) Frees the runs that neither the durable image nor a pinned one names."""
        cdef size_t i, kept = 0
        cdef int k
        cdef bint held
        cdef Deferred* all = <Deferred*>self.deferred.items
        cdef Deferred* d
        cdef MapEntry e
        if self.space_state != SPACE_READY:
            return
        for i in range(self.deferred.count):
            d = &all[i]
            held = d.tag > self.sb.generation or (self.foreign != 0 and self.foreign < d.tag)
            for k in range(MAX_IMAGE_PINS):
                if held:
                    break
                held = (self.pins[k].count != 0 and d.born <= self.pins[k].sb.generation
                        and self.pins[k].sb.generation < d.tag)
            if held:
                all[kept] = d[0]
                kept += 1
            else:
                e.block = d.block
                e.blocks = d.blocks
                e.crc = 0
                self.retire(0, &e)
        self.deferred.count = kept

    # ---------------------------------------------------------------- unlatched readers

    cdef uint64_t reader_begin(self) noexcept nogil:
        self.readers[self.epoch % 3] += 1
        return self.epoch

    cdef void reader_end(self, uint64_t token) noexcept nogil:
        self.readers[token % 3] -= 1
        self.advance()

    cdef void reader_enter(self) noexcept nogil:
        if self.outside_readers == 0:
            self.outside_epoch = self.reader_begin()
        self.outside_readers += 1

    cdef void reader_leave(self) noexcept nogil:
        self.outside_readers -= 1
        if self.outside_readers == 0:
            self.reader_end(self.outside_epoch)

    cdef void retire(self, uint64_t pid, const MapEntry* run) noexcept nogil:
        """(latch) Gives a run (pid 0) or a pid back when all who are reading or writing without the latch now have left."""
        cdef Retired r
        r.pid = pid
        r.run = run[0]
        if self.readers[0] == 0 and self.readers[1] == 0 and self.readers[2] == 0:
            self.apply_retired(&r)
            self.advance()
        else:
            push(&self.retired[self.epoch % 3], &r, sizeof(Retired))

    cdef void apply_retired(self, const Retired* r) noexcept nogil:
        self.moves += 1
        if r.pid == 0:
            space_release(&self.space, r.run.block, r.run.blocks)
        elif self.image:
            push(&self.later_pids, &r.pid, sizeof(uint64_t))
        else:
            push(&self.free_pids, &r.pid, sizeof(uint64_t))

    cdef void advance(self) noexcept nogil:
        """(latch) What was retired in epoch e can concern readers who entered in e or before: it is applied at epoch e + 2,
        and the epoch advances when the readers of the one before have left."""
        cdef List* old
        cdef size_t i
        while (self.readers[(self.epoch - 1) % 3] == 0
               and (self.retired[0].count or self.retired[1].count or self.retired[2].count)):
            self.epoch += 1
            old = &self.retired[(self.epoch - 2) % 3]
            for i in range(old.count):
                self.apply_retired(&(<Retired*>old.items)[i])
            old.count = 0

    # ---------------------------------------------------------------- changes of the map

    cdef int own_copy(self, uint64_t mp) noexcept nogil:
        """(latch) Before the current generation changes a map page that the image shares: a copy for the image."""
        if self.image == 0 or self.copies[mp] is not NULL:
            return OK
        self.copies[mp] = <MapEntry*>malloc(MAP_FANOUT * sizeof(MapEntry))
        if self.copies[mp] is NULL:
            return fail(E_NOMEM, b"No memory for the page map")
        memcpy(self.copies[mp], self.pages[mp], MAP_FANOUT * sizeof(MapEntry))
        return OK

    cdef uint32_t effective(self, uint32_t generation) noexcept nogil:
        """(latch) What a write for an image that has been abandoned meanwhile is part of."""
        return generation if self.image and generation == self.image else self.generation

    cdef int prepare_landing(self, uint64_t pid, uint32_t generation) noexcept nogil:
        """(latch) After this `land` cannot fail."""
        cdef uint64_t mp = pid // MAP_FANOUT
        if generation == self.image and self.born[mp][pid % MAP_FANOUT] & ~BORN_FREE <= generation:
            return OK
        return self.own_copy(mp)

    cdef void land(self, uint64_t pid, const MapEntry* e, uint32_t generation) noexcept nogil:
        """(latch) The run e is written: it becomes the content of pid as of `generation` (the current one or the image's)."""
        cdef uint64_t mp = pid // MAP_FANOUT
        cdef int i = pid % MAP_FANOUT
        cdef uint32_t born = self.born[mp][i]
        cdef MapEntry* now = &self.pages[mp][i]
        self.inflight -= e.blocks
        self.moves += 1
        if (born & ~BORN_FREE) > generation:           # freed, or written anew, since the freeze: for the image only
            self.copies[mp][i] = e[0]
            self.flags[mp] |= IMAGED
            self.release_run(e, generation, born & ~BORN_FREE)
            return
        if born & BORN_FREE:                           # freed while it was being written
            self.retire(0, e)
            return
        if now.block:
            self.release_run(now, born, generation)
        now[0] = e[0]
        self.born[mp][i] = generation
        if generation == self.image:
            self.flags[mp] |= IMAGED
            if self.copies[mp] is not NULL:
                self.copies[mp][i] = e[0]
        else:
            self.flags[mp] |= CHANGED

    # ---------------------------------------------------------------- reading and writing pages

    cdef int locate(self, uint64_t pid, MapEntry* e, uint64_t* token) noexcept nogil:
        """(no latch) Where pid lies; registers as a reader (end with reader_end) unless it fails."""
        cdef char text[96]
        cdef uint64_t mp = pid // MAP_FANOUT
        cdef size_t i
        cdef int k, rc
        memset(e, 0, sizeof(MapEntry))
        latch_lock(self.latch)
        if pid and pid < self.next_pid:
            if self.pages[mp] is NULL:
                latch_unlock(self.latch)
                rc = self.load_map_page(mp)
                if rc != OK:
                    return rc
                latch_lock(self.latch)
            e[0] = self.pages[mp][pid % MAP_FANOUT]
            for k in range(3 if e.block == 0 else 0):     # freed while a reader who came before may still read it
                for i in range(self.retired[k].count):
                    if (<Retired*>self.retired[k].items)[i].pid == pid:
                        e[0] = (<Retired*>self.retired[k].items)[i].run
        if e.block == 0:
            latch_unlock(self.latch)
            snprintf(text, sizeof(text), "Page %llu is not in the page map", <unsigned long long>pid)
            return fail_corrupt(self.path, -1, text, pid, 0)
        token[0] = self.reader_begin()
        latch_unlock(self.latch)
        return OK

    cdef int read_page(self, uint64_t pid, char* buf, size_t cap, size_t* n) noexcept nogil:
        cdef MapEntry e
        cdef uint64_t token = 0
        cdef char text[64]
        cdef int rc = self.locate(pid, &e, &token)
        n[0] = 0
        if rc != OK:
            return rc
        snprintf(text, sizeof(text), "Page %llu", <unsigned long long>pid)
        if <uint64_t>e.blocks * BLOCK > cap:
            rc = fail_corrupt(self.path, e.block * BLOCK, b"The run of a page is longer than a page", cap // BLOCK, e.blocks)
        else:
            rc = self.read_run(&e, buf, text)
            n[0] = <size_t>e.blocks * BLOCK
        latch_lock(self.latch)
        self.reader_end(token)
        latch_unlock(self.latch)
        return rc

    cdef int write_page(self, uint64_t pid, const char* data, size_t n, uint32_t generation) noexcept nogil:
        cdef size_t padded = blocks_for(n) * BLOCK
        cdef char* image = <char*>data
        return self.write_pages(&pid, &image, &padded, 1, generation)

    cdef int write_pages(self, const uint64_t* pids, char** images, const size_t* lengths, int count,
                         uint32_t generation) noexcept nogil:
        cdef MapEntry* runs
        cdef int i, j, rc
        cdef int taken = 0
        cdef size_t n
        cdef uint64_t token
        cdef uint64_t block = 0
        rc = self.ensure_space()
        if rc != OK:
            return rc
        runs = <MapEntry*>calloc(max(count, 1), sizeof(MapEntry))
        if runs is NULL:
            return fail(E_NOMEM, b"No memory to write pages")
        for i in range(count):
            runs[i].blocks = <uint32_t>(lengths[i] // BLOCK)
            runs[i].crc = crc32c(0, images[i], lengths[i])
            if lengths[i] == 0 or lengths[i] % BLOCK or pids[i] == 0:
                free(runs)
                return fail(E_INVALID, b"A page's image is not a multiple of a block")
        latch_lock(self.latch)
        token = self.reader_begin()
        while taken < count and rc == OK:
            rc = self.take(runs[taken].blocks, &block)
            if rc == OK:
                runs[taken].block = block
                taken += 1
        latch_unlock(self.latch)
        i = 0
        while i < count and rc == OK:                   # neighbours in memory and in the file go with one call
            n = lengths[i]
            j = i + 1
            while (j < count and images[j] == images[i] + n and runs[j].block * BLOCK == runs[i].block * BLOCK + n
                   and n < PIECE):
                n += lengths[j]
                j += 1
            rc = self.vfs.write(self.handle, images[i], n, runs[i].block * BLOCK)
            i = j
        latch_lock(self.latch)
        generation = self.effective(generation)
        for i in range(count):
            if rc == OK:
                rc = self.prepare_landing(pids[i], generation)
        for i in range(taken):
            if rc == OK:
                self.land(pids[i], &runs[i], generation)
            else:
                self.give_back(runs[i].block, runs[i].blocks)
        self.reader_end(token)
        latch_unlock(self.latch)
        free(runs)
        return rc

    cdef int keep_spare(self, size_t bytes) noexcept nogil:
        cdef uint64_t n = blocks_for(bytes)
        cdef uint64_t block = 0
        cdef char* zeros
        cdef int rc
        latch_lock(self.latch)
        while self.sparing:
            condition_wait(&self.changed, self.latch, -1)
        if self.spare.blocks:
            latch_unlock(self.latch)
            return OK
        self.sparing = True
        latch_unlock(self.latch)
        zeros = <char*>calloc(1, n * BLOCK)
        rc = self.ensure_space() if zeros is not NULL else fail(E_NOMEM, b"No memory to write pages")
        if rc == OK:
            latch_lock(self.latch)
            rc = self.take(n, &block)
            latch_unlock(self.latch)
            if rc == OK:
                rc = self.vfs.write(self.handle, zeros, n * BLOCK, block * BLOCK)
                latch_lock(self.latch)
                if rc == OK:
                    self.spare.block = block
                    self.spare.blocks = <uint32_t>n
                else:
                    self.give_back(block, n)
                latch_unlock(self.latch)
        free(zeros)
        latch_lock(self.latch)
        self.sparing = False
        condition_broadcast(&self.changed)
        latch_unlock(self.latch)
        return rc

    cdef void use_spare(self) noexcept nogil:
        if self.spare.blocks:
            self.give_back(self.spare.block, self.spare.blocks)
            self.spare.blocks = 0

    # ---------------------------------------------------------------- large values

    cdef int blob_begin(self, uint64_t pid, uint64_t length, uint64_t* block) noexcept nogil:
        return large_begin(self, pid, length, block)

    cdef int blob_write(self, uint64_t block, uint64_t offset, const char* data, size_t n) noexcept nogil:
        return large_write(self, block, offset, data, n)

    cdef int blob_finish(self, uint64_t pid, uint64_t block, uint64_t length, uint32_t crc) noexcept nogil:
        return large_finish(self, pid, block, length, crc)

    cdef int blob_abandon(self, uint64_t block, uint64_t length) noexcept nogil:
        return large_abandon(self, block, length)

    cdef int read_blob(self, uint64_t pid, uint64_t length, char* out) noexcept nogil:
        cdef uint64_t* held = idmap_get(self.memory, pid) if self.memory is not NULL else NULL
        if held is not NULL:
            if get64(<const char*>held[0]) != length:
                return fail_corrupt(self.path, -1, b"Large value in the log: its length contradicts the page", get64(<const char*>held[0]), length)
            memcpy(out, <const char*>held[0] + MEMORY_HEAD, length)
            return OK
        return large_read(self, pid, length, out)

    # ---------------------------------------------------------------- checkpoints

    cdef int freeze(self, uint32_t* image) noexcept nogil:
        cdef uint64_t mp
        if self.image:
            return fail(E_USAGE, b"A checkpoint is under way already")
        if self.read_only:
            return fail(E_READONLY, b"The database is open for reading only")
        self.image = self.generation
        self.generation += 1
        self.image_next_pid = self.next_pid
        for mp in range(self.map_count):
            if self.flags[mp] & CHANGED:
                self.flags[mp] = IMAGED
        space_reset_rover(&self.space)
        image[0] = self.image
        return OK

    cdef void abandon(self, uint32_t image) noexcept nogil:
        cdef uint64_t mp
        if image == 0 or image != self.image:
            return
        for mp in range(self.map_count):
            if self.flags[mp] & IMAGED:
                self.flags[mp] = CHANGED
            free(self.copies[mp])
            self.copies[mp] = NULL
        self.image = 0
        self.reuse_later_pids()

    cdef void reuse_later_pids(self) noexcept nogil:
        cdef size_t i
        for i in range(self.later_pids.count):
            push(&self.free_pids, &(<uint64_t*>self.later_pids.items)[i], sizeof(uint64_t))
        self.later_pids.count = 0

    cdef int publish(self, uint32_t image, const Superblock* fields, const char* meta, size_t n) noexcept nogil:
        return publish_image(self, image, fields, meta, n)

    cdef uint64_t pin_image(self) noexcept nogil:
        cdef int k, spare = -1
        for k in range(MAX_IMAGE_PINS):
            if self.pins[k].count and self.pins[k].sb.generation == self.sb.generation:
                self.pins[k].count += 1
                return self.sb.generation
            if self.pins[k].count == 0 and spare < 0:
                spare = k
        if spare < 0:
            return 0
        self.pins[spare].count = 1
        self.pins[spare].sb = self.sb
        return self.sb.generation

    cdef void unpin_image(self, uint64_t generation) noexcept nogil:
        cdef int k
        for k in range(MAX_IMAGE_PINS):
            if self.pins[k].count and self.pins[k].sb.generation == generation:
                self.pins[k].count -= 1
                if self.pins[k].count == 0:
                    self.release_deferred()
                return

    cdef void set_foreign_pin(self, uint64_t oldest) noexcept nogil:
        cdef bint freer = self.foreign != 0 and (oldest == 0 or oldest > self.foreign)
        self.foreign = oldest
        if freer:
            self.release_deferred()

    cdef void renamed(self, const char* path) noexcept nogil:
        snprintf(self.path, sizeof(self.path), "%s", path)

    cdef void usage(self, uint64_t* file_blocks, uint64_t* used_blocks, uint64_t* free_blocks, uint64_t* pids) noexcept nogil:
        if self.space_state == SPACE_READY:
            file_blocks[0] = self.space.high
            used_blocks[0] = self.space.used + SPACE_FIRST
        else:
            file_blocks[0] = self.file_limit
            used_blocks[0] = self.file_limit
        free_blocks[0] = file_blocks[0] - used_blocks[0]
        pids[0] = self.next_pid - 1 - self.free_pids.count - self.later_pids.count - self.pending.count

    # ---------------------------------------------------------------- housekeeping

    cdef int compact(self, uint64_t budget, uint64_t* moved) noexcept nogil:
        return upkeep_compact(self, budget, moved)

    cdef int trim(self) noexcept nogil:
        return upkeep_trim(self)

    cdef int copy_image(self, uint64_t generation, Vfs other, const char* path) noexcept nogil:
        return upkeep_copy(self, generation, other, path)


cdef object store_check(PageStore store, set live_pids, list findings, list doubts):
    return upkeep_check(store, live_pids, findings, doubts)
