"""The merging cursor: see merge.pxd."""
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy
from ..base.coding cimport compare_bytes
from ..base.status cimport OK, ABSENT, E_NOMEM, fail
from .lsm cimport LsmTree
from .memtable cimport MemEntry, MemTable, mem_key, mem_value, mem_visible, memtable_next, memtable_prev, memtable_seek
from .node cimport be64
from .place cimport SEEK_GE, SEEK_LE
from .sstable cimport BlockNeed, table_next, table_prev, table_seek, table_value
from .tableset cimport LSM_LEVELS, TableFile, TableSet, level_search

cdef enum:
    FIRST_CHILDREN = 8


cdef inline uint64_t head_of(const char* key, size_t klen) noexcept nogil:
    cdef uint64_t h = 0
    cdef size_t i
    if klen >= 8:
        return be64(key)
    for i in range(klen):
        h |= <uint64_t>(<uint8_t>key[i]) << (56 - 8 * i)
    return h


cdef MergeCursor* merge_new() noexcept nogil:
    cdef MergeCursor* c = <MergeCursor*>calloc(1, sizeof(MergeCursor))
    if c == NULL or not widen(c, FIRST_CHILDREN):
        merge_free(c)
        fail(E_NOMEM, "no memory for a cursor")
        return NULL
    return c


cdef bint widen(MergeCursor* c, int room) noexcept nogil:
    """Room for that many children; what they stood at is lost."""
    cdef MergeChild* children = <MergeChild*>realloc(c.children, <size_t>room * sizeof(MergeChild))
    cdef char* keys
    if children == NULL:
        return False
    c.children = children
    keys = <char*>realloc(c.keys, <size_t>(room + 1) * MERGE_KEY)
    if keys == NULL:
        return False
    c.keys = keys
    c.keybuf = keys + <size_t>room * MERGE_KEY
    c.room = room
    return True


cdef void merge_free(MergeCursor* c) noexcept nogil:
    if c == NULL:
        return
    free(c.children)
    free(c.keys)
    free(c)


cdef inline void show_node(MergeChild* h) noexcept nogil:
    h.live = h.node != NULL
    if h.live:
        h.key = mem_key(h.node)
        h.klen = h.node.klen
        h.head = head_of(h.key, h.klen)


cdef inline int show_entry(MergeChild* h, int status) noexcept nogil:
    if status == OK:
        h.live = True
        h.key = h.cursor.entry.key
        h.klen = h.cursor.entry.klen
        h.head = head_of(h.key, h.klen)
    else:
        h.live = False
    return OK if status == ABSENT else status


cdef int go_on(MergeCursor* c, MergeChild* h, LsmTree tree, int status, BlockNeed* need) noexcept nogil:
    """A table of the level has ended: on to its neighbours until one has an entry."""
    cdef TableFile* f
    while status == ABSENT and not h.single:
        h.at += -1 if c.reverse else 1
        if h.at < 0 or h.at >= tree.set.counts[h.level]:
            break
        f = tree.set.files[h.level][h.at]
        if f.info.entries:
            status = table_seek(&h.cursor, f.table, tree.core, NULL, 0, SEEK_LE if c.reverse else SEEK_GE, need)
    return show_entry(h, status)


cdef int start_tables(MergeCursor* c, MergeChild* h, LsmTree tree, const char* key, size_t klen, int mode, BlockNeed* need) noexcept nogil:
    cdef TableFile* f
    cdef int n = tree.set.counts[h.level]
    cdef int status = ABSENT
    if not h.single:
        if key == NULL:
            h.at = n - 1 if c.reverse else 0
        else:
            h.at = level_search(tree.set, h.level, key, klen)
            if c.reverse and h.at == n:
                h.at = n - 1
            # Going down: a table that starts at the key may follow one that ends there.
            if c.reverse and h.at + 1 < n and compare_bytes(tree.set.files[h.level][h.at + 1].info.smallest,
                                                            tree.set.files[h.level][h.at + 1].info.smallest_len, key, klen) <= 0:
                h.at += 1
        if h.at >= n:
            h.live = False                           # all of the level is below
            return OK
    f = tree.set.files[h.level][h.at]
    if f.info.entries:
        status = table_seek(&h.cursor, f.table, tree.core, key, klen, mode, need)
    if status == ABSENT:
        return go_on(c, h, tree, status, need)
    return show_entry(h, status)


cdef int merge_start(MergeCursor* c, LsmTree tree, const char* key, size_t klen, int mode, bint reverse, bint values, uint64_t snapshot, uint64_t own, uint64_t now,
                     BlockNeed* need) noexcept nogil:
    cdef TableSet* set = tree.set
    cdef MemTable* m
    cdef MergeChild* h
    cdef int level, i, status, wanted = 1 + tree.sealed_count + set.counts[0] + LSM_LEVELS
    if tree.damaged:
        return tree.damage_status()
    if wanted > c.room and not widen(c, wanted * 2):
        return fail(E_NOMEM, "no memory for a cursor")
    c.reverse = reverse
    c.begun = False
    c.values = values
    c.snapshot = snapshot
    c.own = own
    c.now = now
    c.count = 0
    # Memtables, newest first: the list of the sealed runs from the oldest on.
    c.children[0].mem = tree.active
    c.count = 1 + tree.sealed_count
    i = tree.sealed_count
    m = tree.oldest_sealed
    while m != NULL:
        c.children[i].mem = m
        i -= 1
        m = m.newer
    for i in range(c.count):
        h = &c.children[i]
        h.node = memtable_seek(h.mem, key, klen, mode)
        show_node(h)
    for level in range(LSM_LEVELS):
        for i in range(set.counts[level] if level == 0 else min(set.counts[level], 1)):
            h = &c.children[c.count]
            h.mem = NULL
            h.level = level
            h.single = level == 0
            h.at = i
            h.cursor.keybuf = c.keys + <size_t>c.count * MERGE_KEY
            status = start_tables(c, h, tree, key, klen, mode, need)
            if status != OK:
                return status
            if h.live:
                c.count += 1
    return OK


cdef inline void choose(MergeCursor* c, MemEntry* v) noexcept nogil:
    c.entry.value = mem_value(v)
    c.entry.vlen = v.vlen
    c.entry.ts = v.ts
    c.entry.wall = v.wall
    c.entry.kind = v.kind
    c.entry.far_bytes = 0


cdef inline bint same_key(MergeCursor* c, MergeChild* h, uint64_t head) noexcept nogil:
    return h.live and h.head == head and h.klen == c.entry.klen and memcmp(h.key, c.keybuf, h.klen) == 0


cdef int pass_key(MergeCursor* c, MergeChild* h, LsmTree tree, uint64_t head, bint* chosen, BlockNeed* need) noexcept nogil:
    """Leads the child beyond all its versions of the present key; the newest visible one is chosen unless one was."""
    cdef MemEntry* v
    cdef bint mine = False
    cdef int status
    if h.mem != NULL:
        v = mem_visible(h.node.newest, c.snapshot, c.own) if not chosen[0] else NULL
        if v != NULL:
            choose(c, v)
            chosen[0] = True
        h.node = memtable_prev(h.mem, h.node) if c.reverse else memtable_next(h.node)
        show_node(h)
        return OK
    while True:
        # Forward the newest version comes first, backward last.
        if h.cursor.entry.ts <= c.snapshot and (not chosen[0] or (mine and c.reverse)):
            c.entry.value = h.cursor.entry.value
            c.entry.vlen = h.cursor.entry.vlen
            c.entry.ts = h.cursor.entry.ts
            c.entry.wall = h.cursor.entry.wall
            c.entry.kind = h.cursor.entry.kind
            c.entry.far_bytes = h.cursor.entry.far_bytes
            c.entry.far_offset = h.cursor.entry.far_offset
            c.source = h.cursor.table
            chosen[0] = mine = True
        status = table_prev(&h.cursor, tree.core, need) if c.reverse else table_next(&h.cursor, tree.core, need)
        if status == ABSENT:
            return go_on(c, h, tree, status, need)
        show_entry(h, status)
        if status != OK:
            return status
        if not same_key(c, h, head):
            return OK


cdef int merge_next(MergeCursor* c, LsmTree tree, BlockNeed* need) noexcept nogil:
    cdef MergeChild* h
    cdef MergeChild* best
    cdef uint64_t head
    cdef int i, order, status
    cdef bint chosen, shared
    while True:
        best = NULL
        shared = False                 # whether another child may stand at the same key
        for i in range(c.count):
            h = &c.children[i]
            if not h.live:
                continue
            if best == NULL:
                best = h
                continue
            if h.head != best.head:
                if (h.head < best.head) != c.reverse:
                    best = h
                    shared = False
                continue
            order = compare_bytes(h.key, h.klen, best.key, best.klen)
            if order == 0:
                shared = True
            elif (order < 0) != c.reverse:
                best = h
                shared = False
        if best == NULL:
            return ABSENT
        memcpy(c.keybuf, best.key, best.klen)
        c.entry.key = c.keybuf
        c.entry.klen = best.klen
        c.begun = True
        head = best.head
        chosen = False
        status = pass_key(c, best, tree, head, &chosen, need)
        if status == OK and shared:
            i = <int>(best - c.children) + 1
            while i < c.count and status == OK:
                h = &c.children[i]
                if same_key(c, h, head):
                    status = pass_key(c, h, tree, head, &chosen, need)
                i += 1
        if status != OK:
            return status
        if chosen and not tree.dead_end(&c.entry, c.keybuf, c.entry.klen, c.snapshot, c.own, c.now):
            return table_value(c.source, tree.core, &c.entry, need) if c.entry.far_bytes and c.values else OK
