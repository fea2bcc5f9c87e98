"""See store_open.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from ..base.coding cimport get32, get64
from ..base.latch cimport latch_lock, latch_unlock
from ..base.status cimport ABSENT, E_INVALID, E_NEWER, E_NOMEM, E_NOT_DATABASE, E_USAGE, OK, fail, fail_corrupt
from ..base.vfs cimport VFS_CREATE, VFS_READ, VFS_WRITE
from .space cimport SPACE_FIRST, space_init, space_mark
from .store cimport (
    BLOCK, BORN_FREE, MAP_BLOCKS, MAP_FANOUT, SPACE_READY, SUPERBLOCK_SIZE, Deferred, MapEntry, PageStore, Superblock, blocks_for, push,
)
from .store_super cimport KNOWN_RO, SLOT_FOREIGN, SLOT_NEWER, SLOT_VALID, super_decode, super_encode


cdef int open_file(PageStore s, const char* path, bint read_only) noexcept nogil:
    cdef int64_t size = 0
    cdef int rc
    s.read_only = read_only
    snprintf(s.path, sizeof(s.path), "%s", path)
    rc = s.vfs.open(path, VFS_READ if read_only else VFS_READ | VFS_WRITE, &s.handle)
    if rc != OK:
        s.handle = -1
        return rc
    rc = s.vfs.size(s.handle, &size)
    s.file_limit = size // BLOCK
    return rc


cdef int read_superblocks(PageStore s) noexcept nogil:
    cdef char block[SUPERBLOCK_SIZE]
    cdef Superblock sbs[2]
    cdef int states[2]
    cdef int i, best = -1, rc
    cdef size_t got
    for i in range(2):
        got = 0
        rc = s.vfs.read(s.handle, block, SUPERBLOCK_SIZE, i * SUPERBLOCK_SIZE, &got)
        if rc != OK:
            return rc
        memset(block + got, 0, SUPERBLOCK_SIZE - got)
        states[i] = super_decode(block, &sbs[i])
        if states[i] == SLOT_VALID or states[i] == SLOT_NEWER:
            if best < 0 or sbs[i].generation > sbs[best].generation:
                best = i
    if best < 0:
        if states[0] == SLOT_FOREIGN and states[1] == SLOT_FOREIGN:
            return fail(E_NOT_DATABASE, b"The file is not an enginelib page file")
        return fail_corrupt(s.path, 0, b"Neither superblock has the right checksum", 0, 0)
    if states[best] == SLOT_NEWER:
        return fail(E_NEWER, b"The database was made by a newer version: open it with that")
    s.sb = sbs[best]
    s.slot = best
    if s.sb.feature_ro & ~<uint64_t>KNOWN_RO and not s.read_only:
        return fail(E_NEWER, b"The database was made by a newer version: this one may only read it (read_only=True)")
    if s.sb.page_size < 4096 or s.sb.page_size > 32768 or s.sb.page_size & (s.sb.page_size - 1):
        return fail_corrupt(s.path, best * SUPERBLOCK_SIZE, b"Superblock: impossible page size", 0, s.sb.page_size)
    if s.sb.generation >= BORN_FREE - 1 or s.sb.generation == 0:
        return fail_corrupt(s.path, best * SUPERBLOCK_SIZE, b"Superblock: impossible generation", 0, s.sb.generation)
    if s.sb.next_commit_ts >> 62 or s.sb.next_txn >> 62:
        return fail_corrupt(s.path, best * SUPERBLOCK_SIZE, b"Superblock: impossible commit timestamp or transaction", 0,
                            s.sb.next_commit_ts if s.sb.next_commit_ts >> 62 else s.sb.next_txn)
    s.page_size = s.sb.page_size
    s.generation = <uint32_t>s.sb.generation + 1
    return OK


cdef int secure_superblock(PageStore s) noexcept nogil:
    """A process that died may have left the superblock in the page cache only, or its sync may have failed: were it lost
    later, the older image would come back, whose blocks are taken for free from here on. Writing the same bytes cannot tear."""
    cdef char block[SUPERBLOCK_SIZE]
    cdef size_t got = 0
    cdef int rc = s.vfs.read(s.handle, block, SUPERBLOCK_SIZE, s.slot * SUPERBLOCK_SIZE, &got)
    if rc == OK:
        rc = s.vfs.write(s.handle, block, got, s.slot * SUPERBLOCK_SIZE)
    if rc == OK:
        rc = s.vfs.sync(s.handle)
    return rc


cdef int read_directory(PageStore s) noexcept nogil:
    cdef uint64_t i, n = s.sb.map_pages
    cdef int64_t at = s.slot * SUPERBLOCK_SIZE
    cdef char* data
    cdef int rc
    if n > s.file_limit * BLOCK // sizeof(MapEntry) or s.sb.map_root.blocks != blocks_for(n * sizeof(MapEntry)):
        return fail_corrupt(s.path, at, b"Superblock: the page map's size contradicts the file's", s.file_limit, n)
    if s.sb.next_pid < 1 or s.sb.next_pid > max(n * MAP_FANOUT, <uint64_t>1) or n and s.sb.next_pid <= (n - 1) * MAP_FANOUT:
        return fail_corrupt(s.path, at, b"Superblock: the page map's size contradicts the next page number", n,
                            s.sb.next_pid)
    if s.sb.meta.blocks != blocks_for(s.sb.meta_length) or s.sb.meta_length > s.file_limit * BLOCK:
        return fail_corrupt(s.path, at, b"Superblock: impossible length of the checkpoint record", 0, s.sb.meta_length)
    if not s.within(&s.sb.map_root) or not s.within(&s.sb.meta):
        return fail_corrupt(s.path, at, b"Superblock: an address outside the file", s.file_limit,
                            s.sb.meta.block if s.within(&s.sb.map_root) else s.sb.map_root.block)
    s.next_pid = s.sb.next_pid
    s.opened_next_pid = s.next_pid
    rc = s.grow_map(n)
    if rc != OK:
        return rc
    if n:
        data = <char*>malloc(<size_t>s.sb.map_root.blocks * BLOCK)
        if data is NULL:
            return fail(E_NOMEM, b"No memory for the page map")
        rc = s.read_run(&s.sb.map_root, data, b"Page map directory")
        if rc == OK:
            for i in range(n):
                s.dir[i].block = get64(data + i * 16)
                s.dir[i].blocks = get32(data + i * 16 + 8)
                s.dir[i].crc = get32(data + i * 16 + 12)
        free(data)
        if rc != OK:
            return rc
        for i in range(n):
            if not s.within(&s.dir[i]) or s.dir[i].block != 0 and s.dir[i].blocks != MAP_BLOCKS:
                return fail_corrupt(s.path, s.sb.map_root.block * BLOCK + i * 16,
                                    b"Page map directory: impossible address of a map page", MAP_BLOCKS, s.dir[i].blocks)
    s.map_count = n
    if n and s.next_pid % MAP_FANOUT:
        return s.load_map_page(n - 1)       # pids are given out without input
    return OK


cdef int opening_create(PageStore s, const char* path, uint32_t page_size, const uint8_t* database_id) noexcept nogil:
    cdef char block[SUPERBLOCK_SIZE]
    cdef int rc, i
    cdef size_t got = 0
    cdef Superblock old
    if s.handle >= 0:
        return fail(E_USAGE, b"The page store is open already")
    if page_size < 4096 or page_size > 32768 or page_size & (page_size - 1):
        return fail(E_INVALID, b"The page size must be a power of two from 4096 to 32768")
    snprintf(s.path, sizeof(s.path), "%s", path)
    rc = s.vfs.open(path, VFS_READ | VFS_WRITE | VFS_CREATE, &s.handle)
    if rc != OK:
        s.handle = -1
        return rc
    for i in range(2):           # a half-made file may be made again; a database is not written over
        rc = s.vfs.read(s.handle, block, SUPERBLOCK_SIZE, i * SUPERBLOCK_SIZE, &got)
        if rc == OK and got == SUPERBLOCK_SIZE and super_decode(block, &old) in (SLOT_VALID, SLOT_NEWER):
            rc = fail(E_USAGE, b"There is a database already")
        if rc != OK:
            s.close()
            return rc
    rc = s.vfs.truncate(s.handle, 0)
    memset(&s.sb, 0, sizeof(Superblock))
    s.sb.page_size = page_size
    s.sb.next_pid = 1
    s.sb.next_commit_ts = 1
    s.sb.next_txn = 1
    s.sb.next_keyspace = 1
    s.sb.file_blocks = SPACE_FIRST
    memcpy(s.sb.database_id, database_id, 16)
    for i in range(1, 3):
        if rc == OK:
            s.sb.generation = i
            super_encode(&s.sb, block)
            rc = s.vfs.write(s.handle, block, SUPERBLOCK_SIZE, (i & 1) * SUPERBLOCK_SIZE)
    if rc == OK:
        rc = s.vfs.sync(s.handle)
    if rc == OK:
        rc = space_init(&s.space)
    if rc != OK:
        s.close()
        return rc
    s.file_limit = SPACE_FIRST
    s.slot = 0
    s.page_size = page_size
    s.generation = 3
    s.next_pid = 1
    s.opened_next_pid = 1
    s.space_state = SPACE_READY
    return OK


cdef int opening_open(PageStore s, const char* path, bint read_only) noexcept nogil:
    cdef int rc
    if s.handle >= 0:
        return fail(E_USAGE, b"The page store is open already")
    rc = open_file(s, path, read_only)
    if rc == OK:
        rc = read_superblocks(s)
    if rc == OK and not read_only:
        rc = secure_superblock(s)
    if rc == OK:
        rc = read_directory(s)
    if rc != OK:
        s.close()
    return rc


cdef int opening_read_meta(PageStore s, char** data, size_t* n) noexcept nogil:
    cdef char* p
    cdef int rc
    data[0] = NULL
    n[0] = 0
    p = <char*>malloc(max(<size_t>s.sb.meta.blocks * BLOCK, <size_t>1))
    if p is NULL:
        return fail(E_NOMEM, b"No memory for the checkpoint record")
    if s.sb.meta_length:
        rc = s.read_run(&s.sb.meta, p, b"Checkpoint record")
        if rc != OK:
            free(p)
            return rc
    data[0] = p
    n[0] = s.sb.meta_length
    return OK


cdef int opening_build_space(PageStore s) noexcept nogil:
    """While building no entry changes: nothing lands before there is space, and frees are put off."""
    cdef uint64_t mp, pid
    cdef int i, rc
    rc = s.load_map()
    if rc == OK:
        rc = space_init(&s.space)
    if rc == OK:
        rc = mark_all(s)
    if rc == ABSENT:
        rc = fail_corrupt(s.path, -1, b"Page map: two pages claim the same blocks", 0, 0)
    if rc != OK:
        return rc
    for mp in range(s.sb.map_pages):
        latch_lock(s.latch)
        for i in range(MAP_FANOUT):
            pid = mp * MAP_FANOUT + i
            if pid and pid < s.opened_next_pid and s.pages[mp][i].block == 0 and s.born[mp][i] == 0:
                s.born[mp][i] = BORN_FREE
                push(&s.free_pids, &pid, sizeof(uint64_t))
        latch_unlock(s.latch)
    return OK


cdef int mark_all(PageStore s) noexcept nogil:
    cdef uint64_t mp
    cdef size_t k
    cdef int i, rc = OK
    cdef Deferred* d
    latch_lock(s.latch)
    for k in range(s.deferred.count):
        d = &(<Deferred*>s.deferred.items)[k]
        if rc == OK:
            rc = space_mark(&s.space, d.block, d.blocks)
    for mp in range(s.sb.map_pages):
        if rc == OK and s.dir[mp].block:
            rc = space_mark(&s.space, s.dir[mp].block, s.dir[mp].blocks)
    if rc == OK and s.sb.map_root.block:
        rc = space_mark(&s.space, s.sb.map_root.block, s.sb.map_root.blocks)
    if rc == OK and s.sb.meta.block:
        rc = space_mark(&s.space, s.sb.meta.block, s.sb.meta.blocks)
    latch_unlock(s.latch)
    for mp in range(s.sb.map_pages):
        latch_lock(s.latch)
        for i in range(MAP_FANOUT):
            if rc == OK and s.pages[mp][i].block:
                rc = space_mark(&s.space, s.pages[mp][i].block, s.pages[mp][i].blocks)
        latch_unlock(s.latch)
    return rc
