"""Walks a tree from leaf to leaf by key: each step descends from the root, and tests under one latch hold whatever it meets
for the first time. So a tree that changes meanwhile is judged as it is, and no page is held for longer than its step.
"""
from libc.stdio cimport snprintf
from libc.stdlib cimport malloc, free
from libc.string cimport memcpy

from ..base.latch cimport latch_lock, latch_unlock
from ..base.status cimport OK, AGAIN, E_CORRUPT, E_NOMEM, error_info, fail_corrupt, raise_status
from ..page.layout cimport layout_check
from ..page.pool cimport PoolCore, Frame, pool_find
from .place cimport Need, Path, MAX_LEVELS, need_init, need_secure, need_release
from .descent cimport edge_fault, lack_page
from .node cimport *

cdef enum:
    LARGEST_BLOB = 1 << 30

cdef struct Blob:
    uint64_t pid
    uint64_t length

cdef struct Walk:
    uint64_t bad                       # a page that could not be loaded: stepped over
    bint done
    bint started
    bint whole
    size_t cursor_len
    int depth                          # pages met in this step
    uint64_t pids[MAX_LEVELS]
    bint fresh[MAX_LEVELS]             # met for the first time
    int levels[MAX_LEVELS]
    size_t used[MAX_LEVELS]
    uint64_t last[MAX_LEVELS]          # the pages of the step before
    uint64_t fault_pid
    uint64_t keys
    uint64_t ghosts
    int blobs
    int faults
    uint64_t fault_pids[4]
    char fault_text[4][200]
    char cursor[MAX_KEY_BYTES]
    Blob blob[MAX_RECORDS]


cdef void note(Walk* w, uint64_t pid, const char* what) noexcept nogil:
    if w.faults < 4:
        w.fault_pids[w.faults] = pid
        snprintf(w.fault_text[w.faults], 200, b"%s", what)
        w.faults += 1


cdef int sibling(PoolCore* core, Path* path, int level, Need* need, uint64_t* pid) noexcept nogil:
    """The pid that follows path.frames[level] in its level, by way of its ancestors; 0 = none."""
    cdef int i = level - 1
    cdef Frame* f
    while i >= 0 and path.slots[i] + 1 >= node_count(path.frames[i].page):
        i -= 1
    pid[0] = 0
    if i < 0:
        return OK
    pid[0] = node_child(path.frames[i].page, path.slots[i] + 1)
    while i + 1 < level:
        f = pool_find(core, pid[0])
        if f == NULL:
            return lack_page(core, need, pid[0])
        if node_level(f.page) == 0:
            return OK
        pid[0] = node_child(f.page, -1)
        i += 1
    return OK


cdef void advance(Walk* w, const Path* path, int level) noexcept nogil:
    """The next step looks for the upper bound of the child taken from path.frames[level] (of the root when level < 0)."""
    cdef size_t n
    cdef const char* fence
    w.started = True
    w.done = True
    while level >= 0:
        if path.slots[level] + 1 < node_count(path.frames[level].page):
            w.cursor_len = node_key_copy(path.frames[level].page, path.slots[level] + 1, w.cursor)
            w.done = False
            return
        fence = node_upper(path.frames[level].page, &n) if w.whole else NULL       # else what its ancestors say is what counts
        if fence != NULL:
            memcpy(w.cursor, fence, n)
            w.cursor_len = n
            w.done = False
            return
        level -= 1


cdef int step(Pool pool, uint32_t keyspace, uint64_t root, Walk* w, Path* path, Need* need) noexcept nogil:
    """One leaf and what lies above it. AGAIN: nothing noted."""
    cdef PoolCore* core = &pool.core
    cdef Frame* f
    cdef uint64_t pid = root
    cdef uint64_t follows = 0
    cdef const char* page
    cdef const char* fault
    cdef const char* value
    cdef size_t p = 0
    cdef int i, status
    cdef uint16_t flags
    cdef uint32_t vlen
    cdef char text[160]
    path.depth = 0
    w.faults = 0
    w.depth = 0
    w.blobs = 0
    w.keys = 0
    w.ghosts = 0
    while True:
        if pid == w.bad:
            advance(w, path, path.depth - 1)
            return OK
        f = pool_find(core, pid)
        if f == NULL:
            return lack_page(core, need, pid)
        page = f.page
        i = path.depth
        fault = NULL
        if node_keyspace(page) != keyspace:
            fault = b"it belongs to another keyspace"
        elif i > 0 and node_level(page) + 1 != node_level(path.frames[i - 1].page):
            fault = b"its level does not follow its parent's"
        elif i > 0 and w.whole:
            fault = edge_fault(path.frames[i - 1].page, path.slots[i - 1], page)
        elif i == 0 and (get16(page + OFF_LOWER_OFF) | get16(page + OFF_UPPER_OFF)) != 0:
            fault = b"a root has fences"
        if fault == NULL and w.last[i] != pid:
            fault = layout_check(page, core.page_size, pid)
        if fault != NULL:
            note(w, pid, fault)
            advance(w, path, i - 1)
            return OK
        path.frames[i] = f
        path.depth += 1
        w.pids[i] = pid
        w.levels[i] = node_level(page)
        w.fresh[i] = w.last[i] != pid
        w.used[i] = node_used(page, core.page_size)
        p = node_prefix_len(page)
        if w.fresh[i] and i > 0 and w.whole:
            status = sibling(core, path, i, need, &follows)
            if status == AGAIN and need.pid != w.bad:
                return status
            if status == OK and node_next(page) != follows:
                snprintf(text, 160, b"its sibling link names page %llu, its parent's next child is page %llu",
                         <unsigned long long>node_next(page), <unsigned long long>follows)
                note(w, pid, text)
        if node_is_leaf(page):
            break
        if w.started:
            path.slots[i] = inner_search(page, w.cursor + p, w.cursor_len - p)
        else:
            path.slots[i] = -1
        pid = node_child(page, path.slots[i])
    w.depth = path.depth
    for i in range(node_count(page)):
        value = node_value(page, i, &flags, &vlen)
        if flags & VALUE_GHOST:
            w.ghosts += 1
        else:
            w.keys += 1
        if flags & VALUE_BLOB:
            w.blob[w.blobs].pid = get64(value)
            w.blob[w.blobs].length = get64(value + 8)
            w.blobs += 1
            if not pool.store.pid_exists(get64(value)):
                note(w, get64(value), b"a blob reference names a page that does not exist")
    for i in range(w.depth):
        w.last[i] = w.pids[i]
    advance(w, path, path.depth - 2)
    return OK


cdef int whole_step(Pool pool, uint32_t keyspace, uint64_t root, Walk* w, bint read_blobs) noexcept nogil:
    """Until a step could be made. Leaves a blob bracket open when there are blobs to read."""
    cdef Need need
    cdef Path path
    cdef int status
    cdef uint64_t pid
    need_init(&need)
    latch_lock(pool.latch)
    while True:
        status = step(pool, keyspace, root, w, &path, &need)
        if status != AGAIN:
            break
        pid = need.pid
        status = need_secure(pool, &need)
        if status == E_CORRUPT:
            w.bad = pid
            w.faults = 0
            note(w, pid, error_info().text)
            break
        if status != OK:
            break
    need_release(pool, &need)
    if status == OK and read_blobs and w.blobs != 0:
        pool.store.reader_enter()
    latch_unlock(pool.latch)
    return status


cdef int read_one(Pool pool, const Blob* blob) noexcept nogil:
    cdef char* buf
    cdef int status
    if blob.length > LARGEST_BLOB:
        return fail_corrupt("pages.dat", -1, "a large value longer than any may be", LARGEST_BLOB, blob.length)
    buf = <char*>malloc(blob.length + 1)
    if buf == NULL:
        return E_NOMEM
    status = pool.store.read_blob(blob.pid, blob.length, buf)
    free(buf)
    return status


cdef void add(list findings, uint32_t keyspace, uint64_t pid, what):
    findings.append({"file": "pages.dat", "keyspace": keyspace, "page": pid, "what": what})


cdef object verify_tree(Pool pool, uint32_t keyspace, uint64_t root, set pids, list findings, list doubts, bint read_blobs, bint whole):
    cdef Walk* w = <Walk*>malloc(sizeof(Walk))
    cdef int status, i
    cdef dict pages = {}
    cdef dict used = {}
    keys = ghosts = blobs = blob_bytes = 0
    depth = 0
    if w == NULL:
        raise MemoryError()
    w.bad = 0
    w.whole = whole
    w.done = False
    w.started = False
    w.cursor_len = 0
    for i in range(MAX_LEVELS):
        w.last[i] = 0
    try:
        while not w.done:
            with nogil:
                status = whole_step(pool, keyspace, root, w, read_blobs)
            for i in range(w.faults):
                add(findings, keyspace, w.fault_pids[i], w.fault_text[i].decode("utf-8", "replace"))
            if status == E_CORRUPT:
                w.faults = 0
                continue
            if status != OK:
                raise_status(status)
            depth = max(depth, w.depth)
            keys += w.keys
            ghosts += w.ghosts
            for i in range(w.depth):
                if not w.fresh[i]:
                    continue
                pages[w.levels[i]] = pages.get(w.levels[i], 0) + 1
                used[w.levels[i]] = used.get(w.levels[i], 0) + w.used[i]
                if w.pids[i] in pids:
                    add(doubts, keyspace, w.pids[i], "the page is used twice")
                pids.add(w.pids[i])
            for i in range(w.blobs):
                blobs += 1
                blob_bytes += w.blob[i].length
                if w.blob[i].pid in pids:
                    add(doubts, keyspace, w.blob[i].pid, "the page of a blob is used twice")
                pids.add(w.blob[i].pid)
                if read_blobs:
                    with nogil:
                        status = read_one(pool, &w.blob[i])
                    if status == E_CORRUPT:
                        add(findings, keyspace, w.blob[i].pid, error_info().text.decode("utf-8", "replace"))
                    elif status != OK:
                        raise_status(status)
            if read_blobs and w.blobs != 0:
                with nogil:
                    leave(pool)
                w.blobs = 0
    finally:
        if read_blobs and w.blobs != 0:
            with nogil:
                leave(pool)
        free(w)
    return {
        "depth": depth,
        "keys": keys,
        "ghosts": ghosts,
        "blobs": blobs,
        "blob_bytes": blob_bytes,
        "pages": [pages[level] for level in sorted(pages)],
        "bytes_used": [used[level] for level in sorted(used)],
        "page_size": pool.core.page_size,
    }


cdef void leave(Pool pool) noexcept nogil:
    latch_lock(pool.latch)
    pool.store.reader_leave()
    latch_unlock(pool.latch)
