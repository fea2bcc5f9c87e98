"""See store_publish.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from ..base.checksum cimport crc32c
from ..base.coding cimport put32, put64
from ..base.latch cimport latch_lock, latch_unlock
from ..base.status cimport E_LOG, E_NOMEM, E_USAGE, OK, fail
from .store cimport (
    BLOCK, IMAGED, MAP_BLOCKS, MAP_FANOUT, SUPERBLOCK_SIZE, MapEntry, PageStore, Superblock, blocks_for, same_run,
)
from .store_super cimport super_encode

cdef enum:
    MAP_BATCH = 64                   # map pages encoded in one hold of the latch


cdef int write_run(PageStore s, const char* data, size_t n, MapEntry* e) noexcept nogil:
    """(no latch) Writes n bytes (a multiple of BLOCK) to a new run that nothing names yet; e.block stays 0 when it fails."""
    cdef uint64_t block = 0
    cdef int rc
    latch_lock(s.latch)
    rc = s.take(n // BLOCK, &block)
    latch_unlock(s.latch)
    if rc != OK:
        return rc
    rc = s.vfs.write(s.handle, data, n, block * BLOCK)
    if rc != OK:
        latch_lock(s.latch)
        s.give_back(block, n // BLOCK)
        latch_unlock(s.latch)
        return rc
    e.block = block
    e.blocks = <uint32_t>(n // BLOCK)
    e.crc = crc32c(0, data, n)
    return OK


cdef int write_image(PageStore s, uint32_t image, Superblock* sb, MapEntry* dir, const char* meta, size_t n) noexcept nogil:
    """(no latch) Writes what of the image is not pages. dir holds the durable directory and becomes the image's."""
    cdef uint64_t mp = 0, first
    cdef int i, k, rc = OK
    cdef MapEntry* page
    cdef size_t size = max(<size_t>MAP_BATCH * MAP_BLOCKS * BLOCK,
                           blocks_for(sb.map_pages * sizeof(MapEntry)) * BLOCK, blocks_for(n) * BLOCK)
    cdef char* data = <char*>malloc(size)
    if data is NULL:
        return fail(E_NOMEM, b"No memory to write the page map")
    while mp < sb.map_pages and rc == OK:
        latch_lock(s.latch)
        while mp < sb.map_pages and not s.flags[mp] & IMAGED:
            mp += 1
        first = mp
        k = 0
        while mp < sb.map_pages and k < MAP_BATCH and s.flags[mp] & IMAGED:
            page = s.copies[mp] if s.copies[mp] is not NULL else s.pages[mp]
            for i in range(MAP_FANOUT):
                put64(data + (k * MAP_FANOUT + i) * 16, page[i].block)
                put32(data + (k * MAP_FANOUT + i) * 16 + 8, page[i].blocks)
                put32(data + (k * MAP_FANOUT + i) * 16 + 12, page[i].crc)
            mp += 1
            k += 1
        latch_unlock(s.latch)
        for i in range(k):
            if rc == OK:
                rc = write_run(s, data + i * MAP_BLOCKS * BLOCK, MAP_BLOCKS * BLOCK, &dir[first + i])
    if rc == OK and sb.map_pages:
        memset(data, 0, blocks_for(sb.map_pages * sizeof(MapEntry)) * BLOCK)
        for mp in range(sb.map_pages):
            put64(data + mp * 16, dir[mp].block)
            put32(data + mp * 16 + 8, dir[mp].blocks)
            put32(data + mp * 16 + 12, dir[mp].crc)
        rc = write_run(s, data, blocks_for(sb.map_pages * sizeof(MapEntry)) * BLOCK, &sb.map_root)
    if rc == OK and n:
        memset(data + n // BLOCK * BLOCK, 0, min(size - n // BLOCK * BLOCK, <size_t>BLOCK))
        memcpy(data, meta, n)
        rc = write_run(s, data, blocks_for(n) * BLOCK, &sb.meta)
    free(data)
    return rc


cdef int switch_superblock(PageStore s, Superblock* sb) noexcept nogil:
    """(no latch) The step that makes the image the database. From here on a failure is final: nobody knows which image is."""
    cdef char block[SUPERBLOCK_SIZE]
    cdef int rc = s.vfs.sync(s.handle)
    if rc == OK:
        super_encode(sb, block)
        rc = s.vfs.write(s.handle, block, SUPERBLOCK_SIZE, (1 - s.slot) * SUPERBLOCK_SIZE)
    if rc == OK:
        rc = s.vfs.sync(s.handle)
    if rc != OK:
        latch_lock(s.latch)
        s.failed = rc
        latch_unlock(s.latch)
    return rc


cdef int publish_image(PageStore s, uint32_t image, const Superblock* fields, const char* meta, size_t n) noexcept nogil:
    cdef Superblock sb
    cdef MapEntry* dir
    cdef MapEntry old
    cdef uint64_t mp
    cdef int rc
    if s.failed:
        return fail(E_LOG, b"The page file has failed: reopen the database")
    if image == 0 or image != s.image:
        return fail(E_USAGE, b"There is no such image to publish")
    rc = s.ensure_space()
    if rc == OK:
        rc = s.drain()
    if rc != OK:
        return rc
    sb = s.sb
    sb.generation = image
    sb.checkpoint_lsn = fields.checkpoint_lsn
    sb.next_commit_ts = fields.next_commit_ts
    sb.next_txn = fields.next_txn
    sb.next_keyspace = fields.next_keyspace
    sb.incarnation = fields.incarnation
    sb.epoch = fields.epoch
    sb.feature_ro = fields.feature_ro
    sb.next_pid = s.image_next_pid
    sb.map_pages = (sb.next_pid + MAP_FANOUT - 1) // MAP_FANOUT if sb.next_pid > 1 else 0
    sb.meta_length = n
    memset(&sb.map_root, 0, sizeof(MapEntry))
    memset(&sb.meta, 0, sizeof(MapEntry))
    dir = <MapEntry*>malloc(max(sb.map_pages, <uint64_t>1) * sizeof(MapEntry))
    if dir is NULL:
        return fail(E_NOMEM, b"No memory to write the page map")
    latch_lock(s.latch)
    memcpy(dir, s.dir, sb.map_pages * sizeof(MapEntry))
    latch_unlock(s.latch)
    rc = write_image(s, image, &sb, dir, meta, n)
    if rc == OK:
        latch_lock(s.latch)
        sb.file_blocks = s.space.high
        latch_unlock(s.latch)
        rc = switch_superblock(s, &sb)
    latch_lock(s.latch)
    if rc == OK:
        s.slot = 1 - s.slot
        for mp in range(sb.map_pages):
            s.flags[mp] &= ~<uint8_t>IMAGED
            free(s.copies[mp])
            s.copies[mp] = NULL
            if not same_run(&dir[mp], &s.dir[mp]):
                old = s.dir[mp]
                if old.block:
                    s.release_run(&old, s.dir_born[mp], image)
                s.dir[mp] = dir[mp]
                s.dir_born[mp] = image
                s.inflight -= dir[mp].blocks
        for mp in range(sb.map_pages, s.map_count):
            free(s.copies[mp])
            s.copies[mp] = NULL
        if s.sb.map_root.block:
            s.release_run(&s.sb.map_root, s.root_born, image)
        if s.sb.meta.block:
            s.release_run(&s.sb.meta, s.meta_born, image)
        s.root_born = image
        s.meta_born = image
        s.inflight -= sb.map_root.blocks + sb.meta.blocks
        s.moves += 1
        s.sb = sb
        s.image = 0
        s.release_deferred()
        s.reuse_later_pids()
    elif not s.failed:
        for mp in range(sb.map_pages):
            if not same_run(&dir[mp], &s.dir[mp]):
                s.give_back(dir[mp].block, dir[mp].blocks)
        if sb.map_root.block:
            s.give_back(sb.map_root.block, sb.map_root.blocks)
        if sb.meta.block:
            s.give_back(sb.meta.block, sb.meta.blocks)
    latch_unlock(s.latch)
    free(dir)
    return rc
