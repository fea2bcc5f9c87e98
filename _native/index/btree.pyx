"""The B-tree: descents, positions, preparation and application of changes, whole trees.

Nothing here waits and nothing that has begun to change can fail; see README.md for the rules, shape.pyx for divisions and joins.
"""
from ..base.status cimport OK, ABSENT, AGAIN, E_INVALID, E_NOT_SUPPORTED, fail, fail_n
from ..page.layout cimport layout_max_key, layout_max_inline
from ..page.pool cimport pool_find
from .node cimport *
from .descent cimport contradiction, edge_fault, misplaced, lack, lack_page, enter, enter_root, walk, fill_cell
from .shape cimport plain, underfull, split_leaf, join, node_assert, EDGE_NONE, EDGE_RIGHT, EDGE_LEFT, DEBUG
from .verify cimport verify_tree


cdef inline bint above(const char* leaf, int at, const char* s, size_t n) noexcept nogil:
    """Whether a suffix is greater than that of slot `at`."""
    cdef const char* slot = node_slot(leaf, at)
    cdef uint32_t head = key_head(s, n)
    if get32(slot) != head:
        return get32(slot) < head
    return suffix_compare(s, n, leaf + get16(slot + 4) + LEAF_RECORD, get16(slot + 6)) > 0


cdef class BTree:
    def __cinit__(self, Pool pool not None, uint32_t id, uint64_t root=0):
        self.pool = pool
        self.core = &pool.core
        self.page_size = pool.core.page_size
        self.id = id
        self.root = root
        self.max_key = layout_max_key(self.page_size)
        self.max_inline = layout_max_inline(self.page_size)
        self.max_batch = MAX_BATCH
        if pool.frame_count < 8 * MAX_BATCH:
            self.max_batch = <int>(pool.frame_count // 8) if pool.frame_count >= 8 else 1

    # --- reading ----------------------------------------------------------------------------------------------------

    cdef int find(self, const char* key, size_t klen, Cell* cell, Need* need) noexcept nogil:
        cdef PoolCore* core = self.core
        cdef uint32_t keyspace = self.id
        cdef Frame* f
        cdef const char* page
        cdef const char* record
        cdef const char* slot
        cdef size_t p = 0
        cdef uint32_t head
        cdef int at, count
        cdef bint found
        cdef int status = enter_root(core, keyspace, self.root, need, &f)
        if unlikely(status != OK):
            return status
        page = f.page
        while node_level(page) > 0:
            status = enter(core, keyspace, page, inner_search(page, key + p, klen - p), klen, need, &f)
            if unlikely(status != OK):
                return status
            page = f.page
            p = node_prefix_len(page)
        key += p
        klen -= p
        head = key_head(key, klen)
        count = node_count(page)
        at = head_lower_bound(page, count, head)
        if unlikely(at >= count):
            return ABSENT
        slot = node_slot(page, at)
        record = page + get16(slot + 4)
        prefetch_record(record)
        at = node_resolve(page, count, LEAF_RECORD, key, klen, head, at, &found)
        if not found:
            return ABSENT
        fill_cell(cell, f, at)
        return OK

    cdef int find_many(self, const char** keys, const size_t* klens, int n, Cell* cells, int* statuses, Need* need) noexcept nogil:
        cdef PoolCore* core = self.core
        cdef uint32_t keyspace = self.id
        cdef Frame* frames[MAX_BATCH]
        cdef Frame* f
        cdef uint64_t pids[MAX_BATCH]
        cdef int slots[MAX_BATCH]
        cdef const char* page
        cdef size_t p
        cdef uint32_t number
        cdef int i, level
        cdef bint found
        cdef int status = enter_root(core, keyspace, self.root, need, &f)
        if unlikely(status != OK):
            return status
        for i in range(n):
            frames[i] = f
        level = node_level(f.page)
        while level > 0:
            for i in range(n):
                page = frames[i].page
                p = node_prefix_len(page)
                slots[i] = inner_search(page, keys[i] + p, klens[i] - p)
                pids[i] = node_child(page, slots[i])
                if likely(pids[i] < core.pids):
                    prefetch(&core.frame_of[pids[i]])
            if level == 1:                       # the nodes above are as good as always in the cache
                for i in range(n):
                    if likely(pids[i] < core.pids):
                        number = core.frame_of[pids[i]]
                        if likely(number != 0):
                            prefetch(&core.frames[number - 1])
                for i in range(n):
                    f = pool_find(core, pids[i])
                    if likely(f != NULL):
                        prefetch_slots(f.page)
            for i in range(n):
                status = enter(core, keyspace, frames[i].page, slots[i], klens[i], need, &f)
                if unlikely(status != OK):
                    return status
                frames[i] = f
            level -= 1
        for i in range(n):
            page = frames[i].page
            p = node_prefix_len(page)
            slots[i] = head_lower_bound(page, node_count(page), key_head(keys[i] + p, klens[i] - p))
            if slots[i] < node_count(page):
                prefetch_record(node_record(page, slots[i]))
        for i in range(n):
            page = frames[i].page
            p = node_prefix_len(page)
            slots[i] = node_resolve(page, node_count(page), LEAF_RECORD, keys[i] + p, klens[i] - p,
                                    key_head(keys[i] + p, klens[i] - p), slots[i], &found)
            statuses[i] = ABSENT
            if found:
                statuses[i] = OK
                fill_cell(&cells[i], frames[i], slots[i])
        return OK

    cdef int leaves(self, const char** keys, const size_t* klens, int n, uint64_t* pids, int* done, Need* need) noexcept nogil:
        cdef PoolCore* core = self.core
        cdef Frame* f
        cdef Frame* top
        cdef int i, at
        cdef size_t p
        cdef int status = enter_root(core, self.id, self.root, need, &top)
        if status != OK:
            return status
        if node_is_leaf(top.page):
            return ABSENT
        for i in range(done[0], n):
            f = top
            p = 0
            while True:
                at = inner_search(f.page, keys[i] + p, klens[i] - p)
                if node_level(f.page) == 1:
                    break
                status = enter(core, self.id, f.page, at, klens[i], need, &f)
                if unlikely(status != OK):
                    return status
                p = node_prefix_len(f.page)
            pids[i] = node_child(f.page, at)
            done[0] = i + 1
            if likely(pids[i] < core.pids):
                prefetch(&core.frame_of[pids[i]])
        return OK

    cdef int seek(self, const char* key, size_t klen, int mode, Path* path, Need* need) noexcept nogil:
        cdef int status, last, count
        if key == NULL:
            status = self.far(mode == SEEK_LE or mode == SEEK_LT, path, need)
            if status != OK:
                return status
            last = path.depth - 1
        else:
            status = walk(self.core, self.id, self.root, key, klen, path, need)
            if unlikely(status != OK):
                return status
            last = path.depth - 1
            if mode == SEEK_GT:
                path.slots[last] += path.found
            elif mode == SEEK_LE:
                path.slots[last] -= not path.found
            elif mode == SEEK_LT:
                path.slots[last] -= 1
        count = node_count(path.frames[last].page)
        if path.slots[last] >= count:
            return self.next_leaf(path, need)
        if path.slots[last] < 0:
            return self.prev_leaf(path, need)
        return OK

    cdef int far(self, bint last, Path* path, Need* need) noexcept nogil:
        """The first slot of the first leaf (which may be empty), or the last slot of the last (-1 when empty)."""
        cdef Frame* f
        cdef int at
        cdef int depth = 0
        cdef int status = enter_root(self.core, self.id, self.root, need, &f)
        if status != OK:
            return status
        path.admitted = False
        path.partial = False
        path.found = False
        while node_level(f.page) > 0:
            at = node_count(f.page) - 1 if last else -1
            path.frames[depth] = f
            path.slots[depth] = at
            depth += 1
            status = enter(self.core, self.id, f.page, at, <size_t>-1, need, &f)
            if status != OK:
                return status
        path.frames[depth] = f
        path.slots[depth] = node_count(f.page) - 1 if last else 0
        path.depth = depth + 1
        return OK

    cdef int next_leaf(self, Path* path, Need* need) noexcept nogil:
        return self.turn(path, 1, need)

    cdef int prev_leaf(self, Path* path, Need* need) noexcept nogil:
        return self.turn(path, -1, need)

    cdef int turn(self, Path* path, int direction, Need* need) noexcept nogil:
        """The nearest non-empty leaf to the right or left; the path moves only when there is one and all of it is here."""
        cdef Frame* frames[MAX_LEVELS]
        cdef int slots[MAX_LEVELS]
        cdef Frame* f
        cdef int last = path.depth - 1
        cdef int top = last                      # what lies above is as in the path
        cdef int i, at, count, status
        while True:
            i = last - 1
            while i >= 0:
                f = frames[i] if i >= top else path.frames[i]
                at = slots[i] if i >= top else path.slots[i]
                if (at + 1 < node_count(f.page)) if direction > 0 else at >= 0:
                    break
                i -= 1
            if i < 0:
                return ABSENT
            if i < top:
                top = i
            frames[i] = f
            slots[i] = at + direction
            while i < last:
                status = enter(self.core, self.id, frames[i].page, slots[i], <size_t>-1, need, &f)
                if status != OK:
                    return status
                i += 1
                frames[i] = f
                if i < last:
                    slots[i] = -1 if direction > 0 else node_count(f.page) - 1
            count = node_count(f.page)
            if count > 0:
                slots[last] = 0 if direction > 0 else count - 1
                for i in range(top, last + 1):
                    path.frames[i] = frames[i]
                    path.slots[i] = slots[i]
                path.found = False
                path.admitted = False
                i = last - 1
                at = slots[i] + direction
                if -1 <= at < node_count(frames[i].page):
                    f = pool_find(self.core, node_child(frames[i].page, at))
                    if f != NULL:
                        prefetch_slots(f.page)
                return OK

    # --- writing ----------------------------------------------------------------------------------------------------

    cdef int prepare(self, const char* key, size_t klen, size_t vlen, Path* path, Cell* cell, Need* need) noexcept nogil:
        cdef Frame* f
        cdef const char* page
        cdef size_t p
        cdef int status, at
        cdef bint fits
        if unlikely(klen > self.max_key or klen + vlen > self.max_inline):
            path.admitted = False
            return fail_n(E_INVALID, b"a record of %lld + %lld bytes is too long for a page", <int64_t>klen, <int64_t>vlen)
        if self.streak and self.near(key, klen, vlen, path):
            f = path.frames[0]
            if path.found:
                fill_cell(cell, f, path.slots[0])
            if unlikely(not plain(f)):
                status = self.pool.admit(1)
                if status != OK:
                    return lack(need, LACK_FRAMES, 1) if status == AGAIN else status
            path.admitted = True
            return OK if path.found else ABSENT
        status = walk(self.core, self.id, self.root, key, klen, path, need)
        if unlikely(status != OK):
            return status
        f = path.frames[path.depth - 1]
        at = path.slots[path.depth - 1]
        page = f.page
        if path.found:
            fill_cell(cell, f, at)
            fits = leaf_replace_fits(page, at, vlen)
        else:
            p = node_prefix_len(page)
            fits = LEAF_RECORD + klen - p + vlen + SLOT_SIZE <= node_room(page)
        if unlikely(not (fits and plain(f))):
            status = self.admit(klen, path, fits, need)
            if status != OK:
                return status
        path.admitted = True
        return OK if path.found else ABSENT

    cdef bint near(self, const char* key, size_t klen, size_t vlen, Path* path) noexcept nogil:
        """Whether the leaf of the last put is this key's too and will neither divide nor seek a neighbour: the path is then that leaf."""
        cdef Frame* f = pool_find(self.core, self.hint)
        cdef const char* page
        cdef const char* fence
        cdef size_t p, n
        cdef int at, count
        if f == NULL:
            return False
        page = f.page
        if not node_is_leaf(page) or node_keyspace(page) != self.id:
            return False
        fence = node_prefix(page, &p)
        if p != 0 and (klen < p or memcmp(key, fence, p) != 0):
            return False
        fence = node_upper(page, &n)
        if fence != NULL and compare_bytes(key + p, klen - p, fence + p, n - p) >= 0:
            return False
        count = node_count(page)
        path.found = False
        at = count
        if count == 0 or not above(page, count - 1, key + p, klen - p):       # beyond all, most likely
            fence = node_lower(page, &n)
            if fence != NULL and compare_bytes(key, klen, fence, n) < 0:
                return False
            at = leaf_search(page, key + p, klen - p, &path.found)
        if path.found:
            if (not leaf_replace_fits(page, at, vlen)
                    or node_content(page, self.page_size) < underfull(self.page_size) + leaf_record_size(page, at) + SLOT_SIZE):
                return False
        elif LEAF_RECORD + klen - p + vlen + SLOT_SIZE > node_room(page):
            return False
        path.depth = 1
        path.frames[0] = f
        path.slots[0] = at
        path.partial = True
        return True

    cdef int admit(self, size_t klen, Path* path, bint fits, Need* need) noexcept nogil:
        """Frames and pids for a leaf that is not ours yet or does not hold the record, and for what that entails above."""
        cdef int i = path.depth - 1
        cdef Frame* f = path.frames[i]
        cdef int frames = 0 if plain(f) else 1
        cdef int pids = 0
        cdef int status
        cdef size_t longest = klen
        cdef size_t n
        if not fits:                             # a separator goes up: it must bear its parents' prefixes
            for n in range(1, path.depth):
                if edge_fault(path.frames[n - 1].page, path.slots[n - 1], path.frames[n].page) != NULL:
                    return misplaced(path.frames[n - 1].page, path.slots[n - 1], path.frames[n].page, self.id)
        while not fits:
            n = node_longest_key(f.page)
            if n > longest:
                longest = n                      # no separator from here is longer
            frames += 1
            pids += 1
            if i == 0:
                frames += 1
                pids += 1
                if path.depth >= MAX_LEVELS:
                    return fail(E_NOT_SUPPORTED, b"the tree is too deep")
                break
            i -= 1
            f = path.frames[i]
            if not plain(f):
                frames += 1
            fits = INNER_RECORD + longest - node_prefix_len(f.page) + SLOT_SIZE <= node_room(f.page)
        status = self.pool.admit(frames)
        if status != OK:
            return lack(need, LACK_FRAMES, frames) if status == AGAIN else status
        if pids != 0:
            status = self.pool.store.reserve_pids(pids)
            if status != OK:
                return lack(need, LACK_PIDS, pids) if status == AGAIN else status
        return OK

    cdef void apply_put(self, Path* path, const char* key, size_t klen, uint16_t flags, const char* value, size_t vlen,
                        uint64_t mark) noexcept nogil:
        cdef int last = path.depth - 1
        cdef int at = path.slots[last]
        cdef Frame* f = path.frames[last]
        cdef char* page
        cdef size_t p
        cdef int edge
        path.admitted = False
        if unlikely(not plain(f)):
            f = self.pool.writable(f)
            path.frames[last] = f
        page = f.page
        p = node_prefix_len(page)
        if path.found and leaf_replace_fits(page, at, vlen):
            leaf_replace(page, self.page_size, at, flags | <uint16_t>vlen, value, vlen)
        elif not path.found and LEAF_RECORD + klen - p + vlen + SLOT_SIZE <= node_room(page):
            leaf_insert(page, self.page_size, at, key + p, klen - p, flags | <uint16_t>vlen, value, vlen)
        else:
            edge = EDGE_NONE
            if not path.found:
                if at == node_count(page) and (get16(page + OFF_UPPER_OFF) == 0
                                               or (self.hint == f.pid and self.hint_slot == at - 1 and self.streak)):
                    edge = EDGE_RIGHT
                elif at == 0 and self.hint == f.pid and self.hint_slot == 0 and self.streak:
                    edge = EDGE_LEFT
            f = split_leaf(self.pool, path, self.id, key, klen, path.found, flags | <uint16_t>vlen, value, vlen, edge, &at)
            self.hint = f.pid                    # an ordered load goes on there
        if f.mark < mark:
            f.mark = mark
        self.streak = self.hint == f.pid
        self.hint = f.pid
        self.hint_slot = at
        if DEBUG:
            node_assert(f.page, self.page_size, f.pid)

    cdef void apply_remove(self, Path* path, uint64_t mark) noexcept nogil:
        cdef int last = path.depth - 1
        cdef Frame* f = path.frames[last]
        path.admitted = False
        if not plain(f):
            f = self.pool.writable(f)
            path.frames[last] = f
        node_remove(f.page, path.slots[last])
        if f.mark < mark:
            f.mark = mark
        if DEBUG:
            node_assert(f.page, self.page_size, f.pid)
        if last > 0 and node_content(f.page, self.page_size) < underfull(self.page_size):
            join(self.pool, path)

    # --- whole trees ------------------------------------------------------------------------------------------------

    cdef int create(self, Need* need) noexcept nogil:
        cdef Frame* f
        cdef int status = self.pool.admit(1)
        if status != OK:
            return lack(need, LACK_FRAMES, 1) if status == AGAIN else status
        status = self.pool.store.reserve_pids(1)
        if status != OK:
            return lack(need, LACK_PIDS, 1) if status == AGAIN else status
        f = self.pool.new_page()
        node_init(f.page, self.page_size, 0, self.id, f.pid, 0, 0, NULL, 0, NULL, 0)
        self.root = f.pid
        return OK

    cdef int destroy_some(self, int budget, Need* need) noexcept nogil:
        cdef int freed = 0
        cdef int status
        self.streak = False
        while freed < budget:
            status = self.destroy_last(&freed, need)
            if status == ABSENT:
                return OK
            if status == AGAIN:
                status = need_secure(self.pool, need)
            if status != OK:
                return status
        return AGAIN

    cdef int destroy_last(self, int* freed, Need* need) noexcept nogil:
        """Frees the last leaf, its blobs, and the nodes that had no other child; ABSENT when there is no tree any more.

        After each step the pages that are left form a tree that can be walked (its last nodes' fences may be too narrow),
        so that a checkpoint between two steps is one from which the work can go on.
        """
        cdef Frame* frames[MAX_LEVELS]
        cdef Frame* f
        cdef const char* page
        cdef const char* value
        cdef int depth = 0
        cdef int i, keep, status
        cdef uint64_t pid = self.root
        cdef uint16_t flags
        cdef uint32_t vlen
        if pid == 0 or (pool_find(self.core, pid) == NULL and self.pool.store.pid_is_free(pid)):
            return ABSENT
        while True:
            f = pool_find(self.core, pid)
            if f == NULL:
                return lack_page(self.core, need, pid)
            page = f.page
            if node_keyspace(page) != self.id:
                if depth == 0:
                    return ABSENT                # the root was freed before a crash, its pid is another tree's now
                return contradiction(pid, b"it belongs to another keyspace", self.id, node_keyspace(page))
            if depth > 0 and node_level(page) + 1 != node_level(frames[depth - 1].page):
                return contradiction(pid, b"its level does not follow its parent's",
                                     node_level(frames[depth - 1].page) - 1, node_level(page))
            frames[depth] = f
            depth += 1
            if node_is_leaf(page):
                break
            pid = node_child(page, node_count(page) - 1)
        keep = depth - 2
        while keep >= 0 and node_count(frames[keep].page) == 0:
            keep -= 1
        if keep >= 0 and not plain(frames[keep]):
            status = self.pool.admit(1)
            if status != OK:
                return lack(need, LACK_FRAMES, 1) if status == AGAIN else status
        need_release(self.pool, need)            # in this latch hold the frames stay what they are
        for i in range(node_count(page)):
            value = node_value(page, i, &flags, &vlen)
            if (flags & VALUE_BLOB and pool_find(self.core, get64(value)) == NULL
                    and not self.pool.store.pid_is_free(get64(value))):
                self.pool.forget(get64(value))
                freed[0] += 1
        if keep >= 0:
            f = frames[keep]
            if not plain(f):
                f = self.pool.writable(f)
            node_remove(f.page, node_count(f.page) - 1)
        for i in range(keep + 1, depth):
            self.pool.drop_page(frames[i])
            freed[0] += 1
        return OK


cdef object check_tree(BTree tree, set pids, list findings, list doubts, bint read_blobs, bint whole):
    return verify_tree(tree.pool, tree.id, tree.root, pids, findings, doubts, read_blobs, whole)
