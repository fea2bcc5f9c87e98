"""See fetch.pxd. Locks: a fetch's frames and its place in the pool are under the engine latch; what has been claimed and read under the crew's
own, a leaf that is held over no reading."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from ..base.checksum cimport crc32c
from ..base.latch cimport (
    condition_broadcast, condition_destroy, condition_init, condition_wait, latch_destroy, latch_init, latch_lock, latch_unlock,
)
from ..base.status cimport E_CORRUPT, E_NOMEM, OK, fail
from .layout cimport layout_check, layout_unpack
from .pool cimport (
    FETCH_DONE, FETCH_EMPTY, FETCH_GATHERING, FETCH_UNDER_WAY, FRAME_LOADING, FRAME_READY, MAX_HELPERS, Crew, Frame, Want, pthread_t,
)
from .store cimport BLOCK, MAP_FANOUT

cdef extern from "<pthread.h>" nogil:
    int pthread_create(pthread_t*, void*, void* (*)(void*) noexcept nogil, void*)
    int pthread_join(pthread_t, void**)

cdef enum:
    PIECE = 32                         # pages claimed at once
    SPAN = 1 << 18                     # bytes read with one call at most,
    SPAN_SHARE = 128                   # and this part of the cache
    GAP = 1 << 12                      # bytes between two pages that are read rather than skipped
    WORTH_HELP = 64                    # pages for which threads are started


cdef int by_block(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const Want*>a).run.block, y = (<const Want*>b).run.block
    return -1 if x < y else (1 if x > y else 0)


cdef int fetch_open(Pool pool, int helpers) noexcept nogil:
    cdef Crew* crew = <Crew*>calloc(1, sizeof(Crew))
    if crew is not NULL:
        crew.span = max(min(pool.frame_count * pool.core.page_size // SPAN_SHARE, <uint64_t>SPAN), <uint64_t>pool.core.page_size)
        crew.scratch = <char*>malloc(crew.span)
    if crew is NULL or crew.scratch is NULL:
        free(crew)
        return fail(E_NOMEM, b"No memory to read pages ahead")
    latch_init(&crew.latch)
    condition_init(&crew.more)
    condition_init(&crew.read)
    crew.most = min(helpers, <int>MAX_HELPERS)
    pool.crew = crew
    return OK


cdef void fetch_stop(Pool pool) noexcept nogil:
    cdef Crew* crew = pool.crew
    if crew is NULL:
        return
    latch_lock(&crew.latch)
    crew.stop = True
    condition_broadcast(&crew.more)
    latch_unlock(&crew.latch)


cdef void fetch_close(Pool pool) noexcept nogil:
    cdef Crew* crew = pool.crew
    cdef int i
    fetch_stop(pool)
    if crew is NULL:
        return
    for i in range(crew.helpers):
        pthread_join(crew.threads[i], NULL)
    condition_destroy(&crew.read)
    condition_destroy(&crew.more)
    latch_destroy(&crew.latch)
    free(crew.scratch)
    free(crew)
    pool.crew = NULL


cdef void fetch_free(Fetch* fetch) noexcept nogil:
    free(fetch.wants)
    fetch.wants = NULL
    fetch.room = 0


cdef bint fetch_want(Pool pool, Fetch* fetch, uint64_t pid, uint64_t most) noexcept nogil:
    cdef Want* w
    cdef Frame* f
    cdef uint64_t mp = pid // MAP_FANOUT
    cdef uint64_t room
    if pid == 0 or pid >= pool.store.next_pid or (pid < pool.core.pids and pool.core.frame_of[pid]):
        return True
    if pool.store.pages[mp] is NULL:
        latch_unlock(pool.latch)
        pool.store.load_map_page(mp)                  # if it fails, so will the load that needs it
        latch_lock(pool.latch)
        if pool.store.pages[mp] is NULL:
            return True
    if fetch.state > FETCH_GATHERING or fetch.count >= most or pool.free_count == 0 or pool.grow_index(pool.store.next_pid) != OK:
        return False
    if fetch.count == fetch.room:
        room = fetch.room * 2 if fetch.room else 256
        w = <Want*>realloc(fetch.wants, room * sizeof(Want))
        if w is NULL:
            return False
        fetch.wants = w
        fetch.room = room
    w = &fetch.wants[fetch.count]
    w.run = pool.store.pages[mp][pid % MAP_FANOUT]
    if w.run.block == 0 or <uint64_t>w.run.blocks * BLOCK > pool.core.page_size:
        return True
    if fetch.state == FETCH_EMPTY:
        fetch.state = FETCH_GATHERING
        fetch.token = pool.store.reader_begin()       # the runs stay what they are until all have been read
        pool.crew.gathering = fetch
    f = pool.pop_free()
    f.pid = pid
    f.state = FRAME_LOADING
    f.pins = 1
    f.busy = 1
    pool.core.frame_of[pid] = <uint32_t>(f - pool.core.frames) + 1
    w.frame = f
    w.status = E_CORRUPT
    fetch.count += 1
    return True


cdef void fetch_start(Pool pool, Fetch* fetch) noexcept nogil:
    cdef Crew* crew = pool.crew
    if fetch.state != FETCH_GATHERING:
        return
    fetch.state = FETCH_UNDER_WAY
    fetch.claimed = 0
    fetch.read = 0
    crew.gathering = NULL
    qsort(fetch.wants, fetch.count, sizeof(Want), by_block)
    pool.loads += fetch.count
    latch_lock(&crew.latch)
    fetch.next = crew.first
    crew.first = fetch
    if fetch.count >= WORTH_HELP and not crew.stop:
        while crew.helpers < crew.most:
            if pthread_create(&crew.threads[crew.helpers], NULL, helper, <void*>pool):
                crew.most = crew.helpers              # fewer do it too
                break
            crew.helpers += 1
    condition_broadcast(&crew.more)
    latch_unlock(&crew.latch)


cdef void read_piece(Pool pool, Want* wants, uint64_t count, char* scratch) noexcept nogil:
    """(no latch) Reads pages that lie in ascending order, checks them and unpacks them into their frames."""
    cdef uint32_t page_size = pool.core.page_size
    cdef uint64_t i = 0, j, begin, end, n
    cdef const char* packed
    cdef size_t got
    cdef bint good
    while i < count:
        begin = wants[i].run.block * BLOCK
        end = begin + <uint64_t>wants[i].run.blocks * BLOCK
        j = i + 1
        while j < count:
            n = wants[j].run.block * BLOCK
            if n < end or n - end > GAP or n + <uint64_t>wants[j].run.blocks * BLOCK - begin > pool.crew.span:
                break
            end = n + <uint64_t>wants[j].run.blocks * BLOCK
            j += 1
        got = 0
        good = pool.store.vfs.read(pool.store.handle, scratch, end - begin, begin, &got) == OK
        while i < j:
            packed = scratch + (wants[i].run.block * BLOCK - begin)
            n = <uint64_t>wants[i].run.blocks * BLOCK
            if (good and <uint64_t>(packed - scratch) + n <= got and crc32c(0, packed, n) == wants[i].run.crc
                    and layout_unpack(packed, n, wants[i].frame.page, page_size)
                    and layout_check(wants[i].frame.page, page_size, wants[i].frame.pid) is NULL):
                wants[i].status = OK
            i += 1


cdef bint take_part(Pool pool, Fetch* fetch, char* scratch) noexcept nogil:
    """(crew's latch; released) Reads one piece of the fetch, or gives up what is left of it; False when all of it is claimed."""
    cdef Crew* crew = pool.crew
    cdef uint64_t at = fetch.claimed
    cdef uint64_t n = fetch.count - at if crew.stop else min(fetch.count - at, <uint64_t>PIECE)
    if n == 0:
        return False
    fetch.claimed += n
    if not crew.stop:
        latch_unlock(&crew.latch)
        read_piece(pool, fetch.wants + at, n, scratch)
        latch_lock(&crew.latch)
    fetch.read += n
    if fetch.read == fetch.count:
        condition_broadcast(&crew.read)
    return True


cdef void* helper(void* argument) noexcept nogil:
    cdef Crew* crew = (<Pool>argument).crew
    cdef Fetch* fetch
    cdef Fetch* oldest
    cdef char* scratch = <char*>malloc(crew.span)
    latch_lock(&crew.latch)
    while scratch is not NULL and not crew.stop:
        oldest = NULL
        fetch = crew.first
        while fetch is not NULL:                      # the newest is first: what is wanted soonest is the last with work left
            if fetch.claimed < fetch.count:
                oldest = fetch
            fetch = fetch.next
        if oldest is NULL:
            condition_wait(&crew.more, &crew.latch, -1)
        else:
            take_part(<Pool>argument, oldest, scratch)
    latch_unlock(&crew.latch)
    free(scratch)
    return NULL


cdef void fetch_finish(Pool pool, Fetch* fetch) noexcept nogil:
    cdef Crew* crew = pool.crew
    cdef Fetch** link
    cdef Want* w
    cdef Frame* f
    cdef uint64_t i
    fetch_start(pool, fetch)
    if fetch.state != FETCH_UNDER_WAY:
        return
    latch_unlock(pool.latch)
    latch_lock(&crew.latch)
    while take_part(pool, fetch, crew.scratch):
        pass
    while fetch.read < fetch.count:
        condition_wait(&crew.read, &crew.latch, -1)
    link = &crew.first
    while link[0] != fetch:
        link = &link[0].next
    link[0] = fetch.next
    latch_unlock(&crew.latch)
    latch_lock(pool.latch)
    fetch.state = FETCH_DONE
    for i in range(fetch.count):
        w = &fetch.wants[i]
        f = w.frame
        f.busy = 0
        if w.status == OK and pool.core.frame_of[f.pid] == <uint32_t>(f - pool.core.frames) + 1:
            f.mark = pool.log_end[0] if pool.live_versions is not NULL and pool.live_versions[0] else 0
            f.ref = 1
            f.state = FRAME_READY
            continue
        if pool.core.frame_of[f.pid] == <uint32_t>(f - pool.core.frames) + 1:
            pool.unindex(f)                           # else it was freed meanwhile, and its number perhaps given out again
        f.pins = 0
        pool.push_free(f)
        w.frame = NULL
    pool.store.reader_end(fetch.token)
    pool.moved_on()


cdef bint fetch_finish_all(Pool pool) noexcept nogil:
    if pool.crew is NULL or (pool.crew.first is NULL and pool.crew.gathering is NULL):
        return False
    if pool.crew.gathering is not NULL:
        fetch_finish(pool, pool.crew.gathering)
    while pool.crew.first is not NULL:                # only this thread makes and ends fetches
        fetch_finish(pool, pool.crew.first)
    return True


cdef void fetch_release(Pool pool, Fetch* fetch) noexcept nogil:
    cdef uint64_t i
    fetch_finish(pool, fetch)
    for i in range(fetch.count):
        if fetch.wants[i].frame is not NULL:
            pool.unpin(fetch.wants[i].frame)
    fetch.count = 0
    fetch.state = FETCH_EMPTY
