"""See store_upkeep.pxd."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memset
from ..base.checksum cimport crc32c
from ..base.latch cimport condition_broadcast, latch_lock, latch_unlock
from ..base.status cimport E_CORRUPT, E_LOG, E_NOMEM, E_USAGE, OK, error_info, fail, fail_corrupt, raise_status
from ..base.vfs cimport VFS_CREATE, VFS_EXCLUSIVE, VFS_READ, VFS_WRITE, Vfs
from .space cimport (
    SPACE_FIRST, Space, space_alloc_below, space_check, space_clear, space_init, space_mark, space_reset_rover,
)
from .store cimport (
    BLOCK, BORN_FREE, CHANGED, MAP_BLOCKS, MAP_FANOUT, MAX_IMAGE_PINS, SPACE_READY, SUPERBLOCK_SIZE, Deferred, MapEntry, PageStore, Retired, Superblock,
    same_run,
)
from .store_super cimport super_encode

cdef enum:
    PIECE = 1 << 20
    MAX_MOVES = 8192                 # runs looked at by one call of compact

cdef struct Move:
    uint64_t pid
    MapEntry run


cdef int highest_first(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const Move*>a).run.block, y = (<const Move*>b).run.block
    return -1 if x > y else (1 if x < y else 0)


cdef int copy_run(PageStore s, const MapEntry* run, uint64_t to, char* buf) noexcept nogil:
    """(no latch) Copies a run to block `to`, checking it on the way."""
    cdef uint64_t done = 0, size = <uint64_t>run.blocks * BLOCK
    cdef size_t n, got = 0
    cdef uint32_t crc = 0
    cdef int rc
    while done < size:
        n = min(<uint64_t>PIECE, size - done)
        rc = s.vfs.read(s.handle, buf, n, run.block * BLOCK + done, &got)
        if rc == OK and got < n:
            rc = fail_corrupt(s.path, run.block * BLOCK + done + got, b"The file ends within a page", size, done + got)
        if rc != OK:
            return rc
        crc = crc32c(crc, buf, n)
        if to:
            rc = s.vfs.write(s.handle, buf, n, to * BLOCK + done)
            if rc != OK:
                return rc
        done += n
    if crc != run.crc:
        return fail_corrupt(s.path, run.block * BLOCK, b"A page or large value has the wrong checksum", run.crc, crc)
    return OK


cdef int move(PageStore s, const Move* m, char* buf, uint64_t* moved) noexcept nogil:
    """(no latch) Moves one run to a lower place, if there is one and nobody changes the page meanwhile."""
    cdef uint64_t token, block = 0, mp = m.pid // MAP_FANOUT
    cdef int i = m.pid % MAP_FANOUT, rc
    cdef MapEntry to
    latch_lock(s.latch)
    if (s.image or not same_run(&s.pages[mp][i], &m.run)
            or space_alloc_below(&s.space, m.run.blocks, m.run.block, &block) != OK):
        latch_unlock(s.latch)
        return OK
    s.inflight += m.run.blocks
    s.moves += 1
    token = s.reader_begin()
    latch_unlock(s.latch)
    rc = copy_run(s, &m.run, block, buf)
    latch_lock(s.latch)
    if rc == OK and s.image == 0 and same_run(&s.pages[mp][i], &m.run):
        to = m.run
        to.block = block
        s.land(m.pid, &to, s.generation)
        moved[0] += <uint64_t>to.blocks * BLOCK
    else:
        s.give_back(block, m.run.blocks)
    s.reader_end(token)
    latch_unlock(s.latch)
    return rc


cdef int upkeep_compact(PageStore s, uint64_t budget, uint64_t* moved) noexcept nogil:
    cdef uint64_t mp, cut, pages
    cdef size_t k, count = 0
    cdef int i
    cdef int rc = OK
    cdef Move* moves
    cdef MapEntry* e
    cdef char* buf
    moved[0] = 0
    if s.failed:
        return fail(E_LOG, b"The page file has failed: reopen the database")
    rc = s.ensure_space()
    if rc != OK:
        return rc
    moves = <Move*>malloc(MAX_MOVES * sizeof(Move))
    buf = <char*>malloc(PIECE)
    if moves is NULL or buf is NULL:
        free(moves)
        free(buf)
        return fail(E_NOMEM, b"No memory to compact the page file")
    latch_lock(s.latch)
    # The tail above what the used blocks would fill, but no more of it than the budget covers.
    cut = SPACE_FIRST + s.space.used + s.space.used // 16
    if s.space.high > budget // BLOCK and s.space.high - budget // BLOCK > cut:
        cut = s.space.high - budget // BLOCK
    pages = s.map_count
    space_reset_rover(&s.space)
    latch_unlock(s.latch)
    for mp in range(pages):
        latch_lock(s.latch)
        if s.image:
            latch_unlock(s.latch)
            break
        if s.dir[mp].block and s.dir[mp].block + MAP_BLOCKS > cut:
            s.flags[mp] |= CHANGED
        for i in range(MAP_FANOUT):
            e = &s.pages[mp][i]
            if e.block and e.block + e.blocks > cut and count < MAX_MOVES:
                moves[count].pid = mp * MAP_FANOUT + i
                moves[count].run = e[0]
                count += 1
        latch_unlock(s.latch)
    qsort(moves, count, sizeof(Move), highest_first)
    for k in range(count):
        if rc == OK and moved[0] < budget:
            rc = move(s, &moves[k], buf, moved)
    free(moves)
    free(buf)
    return rc


cdef int upkeep_trim(PageStore s) noexcept nogil:
    cdef uint64_t end
    cdef int64_t size = 0
    cdef int rc = s.ensure_space()
    if rc != OK:
        return rc
    latch_lock(s.latch)
    if s.trimming:
        latch_unlock(s.latch)
        return OK
    s.trimming = True
    s.use_spare()
    end = s.space.high
    latch_unlock(s.latch)
    rc = s.vfs.size(s.handle, &size)
    if rc == OK and <uint64_t>size > end * BLOCK:
        rc = s.vfs.truncate(s.handle, end * BLOCK)
    latch_lock(s.latch)
    s.trimming = False
    condition_broadcast(&s.changed)
    latch_unlock(s.latch)
    return rc


cdef int copy_to(PageStore s, const Superblock* sb, Vfs other, int handle) noexcept nogil:
    cdef char block[SUPERBLOCK_SIZE]
    cdef uint64_t at = SPACE_FIRST * BLOCK, end = sb.file_blocks * BLOCK
    cdef size_t got = 0
    cdef int rc = OK
    cdef char* buf = <char*>malloc(PIECE)
    if buf is NULL:
        return fail(E_NOMEM, b"No memory to copy the page file")
    while at < end and rc == OK:
        rc = s.vfs.read(s.handle, buf, min(<uint64_t>PIECE, end - at), at, &got)
        if got == 0:
            break                    # allocated last, and never written
        if rc == OK:
            rc = other.write(handle, buf, got, at)
        at += got
    free(buf)
    super_encode(sb, block)
    if rc == OK:
        rc = other.write(handle, block, SUPERBLOCK_SIZE, 0)
    if rc == OK:
        rc = other.write(handle, block, SUPERBLOCK_SIZE, SUPERBLOCK_SIZE)
    if rc == OK:
        rc = other.sync(handle)
    return rc


cdef int upkeep_copy(PageStore s, uint64_t generation, Vfs other, const char* path) noexcept nogil:
    cdef Superblock sb
    cdef int k, rc, handle = -1
    memset(&sb, 0, sizeof(Superblock))
    latch_lock(s.latch)
    for k in range(MAX_IMAGE_PINS):
        if s.pins[k].count and s.pins[k].sb.generation == generation:
            sb = s.pins[k].sb
    latch_unlock(s.latch)
    if sb.generation == 0:
        return fail(E_USAGE, b"The image to be copied is not pinned")
    rc = other.open(path, VFS_READ | VFS_WRITE | VFS_CREATE | VFS_EXCLUSIVE, &handle)
    if rc != OK:
        return rc
    rc = copy_to(s, &sb, other, handle)
    if rc == OK:
        return other.close(handle)
    other.close(handle)
    return rc


# -------------------------------------------------------------------- verification

cdef object finding(PageStore s, offset, what):
    return {"file": (<bytes>s.path).decode("utf-8", "surrogateescape"), "offset": offset, "what": what}


cdef uint64_t list_blocks(PageStore s) noexcept nogil:
    """(latch) Blocks that wait to be freed, or are not yet named."""
    cdef uint64_t total = s.inflight
    cdef size_t i
    cdef int k
    for i in range(s.deferred.count):
        total += (<Deferred*>s.deferred.items)[i].blocks
    for k in range(3):
        for i in range(s.retired[k].count):
            if (<Retired*>s.retired[k].items)[i].pid == 0:
                total += (<Retired*>s.retired[k].items)[i].run.blocks
    return total


cdef object upkeep_check(PageStore s, set live_pids, list findings, list doubts):
    cdef Space space
    cdef MapEntry e
    cdef const char* wrong = NULL
    cdef uint64_t pid, end, used = 0, waiting = 0, token = 0, moves
    cdef bint still = False
    cdef list placed = []           # what is a finding only if no run moves while this goes on
    cdef uint32_t born = 0
    cdef int rc
    cdef char* buf = <char*>malloc(PIECE)
    if buf is NULL:
        raise MemoryError
    with nogil:
        rc = s.load_map()
        if rc == OK:
            rc = space_init(&space)
    if rc != OK:
        free(buf)
        raise_status(rc)
    try:
        with nogil:
            latch_lock(s.latch)
            end = s.next_pid
            moves = s.moves
            for pid in range(s.map_count):
                if s.dir[pid].block and rc == OK:
                    rc = space_mark(&space, s.dir[pid].block, s.dir[pid].blocks)
            if s.sb.map_root.block and rc == OK:
                rc = space_mark(&space, s.sb.map_root.block, s.sb.map_root.blocks)
            if s.sb.meta.block and rc == OK:
                rc = space_mark(&space, s.sb.meta.block, s.sb.meta.blocks)
            latch_unlock(s.latch)
        if rc >= E_NOMEM:
            raise_status(rc)
        if rc != OK:
            findings.append(finding(s, None, "the parts of the page map overlap"))
        for pid in range(1, end):
            with nogil:
                latch_lock(s.latch)
                e = s.pages[pid // MAP_FANOUT][pid % MAP_FANOUT]
                born = s.born[pid // MAP_FANOUT][pid % MAP_FANOUT]
                if e.block:
                    token = s.reader_begin()
                latch_unlock(s.latch)
                rc = OK
                if e.block:
                    rc = copy_run(s, &e, 0, buf)
                    latch_lock(s.latch)
                    s.reader_end(token)
                    latch_unlock(s.latch)
            if e.block == 0:
                if pid in live_pids and (born == 0 or born & BORN_FREE):
                    doubts.append(finding(s, None, f"page {pid} is in use, but the page map does not have it"))
                continue
            if rc == E_CORRUPT:
                findings.append(finding(s, e.block * BLOCK, f"page {pid}: {error_info().text.decode()}, "
                                        f"expected {error_info().expected:#x}, found {error_info().found:#x}"))
            elif rc != OK:
                raise_status(rc)
            # One that recovery gave up before its part of the map was in memory is freed when that is next changed.
            if pid not in live_pids and not s.pid_is_free(pid):
                doubts.append(finding(s, e.block * BLOCK, f"page {pid} is in the page map, but nothing refers to it"))
            rc = space_mark(&space, e.block, e.blocks)
            if rc >= E_NOMEM:
                raise_status(rc)
            if rc != OK:
                placed.append(finding(s, e.block * BLOCK, f"page {pid} overlaps another"))
        for known in live_pids:
            if not 0 < known < end:
                doubts.append(finding(s, None, f"page {known} is in use, but was never given out"))
        if s.space_state == SPACE_READY:
            with nogil:
                latch_lock(s.latch)
                used = s.space.used
                waiting = list_blocks(s)
                wrong = space_check(&s.space)
                latch_unlock(s.latch)
            if wrong is not NULL:
                findings.append(finding(s, None, wrong.decode()))
            if used != space.used + waiting:
                placed.append(finding(s, None, f"{used} blocks are marked as used, but {space.used} are named and "
                                      f"{waiting} wait to be freed"))
        with nogil:
            latch_lock(s.latch)
            still = s.moves == moves
            latch_unlock(s.latch)
        if still:
            findings.extend(placed)
    finally:
        free(buf)
        space_clear(&space)
