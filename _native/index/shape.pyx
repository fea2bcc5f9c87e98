"""Dividing and joining nodes.

A node in parts is first listed as items that point into a copy of it; the parts are then filled from the list.  The
largest records and fences are bounded (layout_max_key, layout_max_inline) so that a place to divide always exists.
"""
from libc.stdio cimport fprintf, stderr
from libc.stdlib cimport abort
from libc.string cimport memcpy, memmove

from ..base.status cimport OK
from ..base.coding cimport put64
from ..page.layout cimport layout_check
from ..page.pool cimport pool_find
from .node cimport *
from .descent cimport edge_fault


cdef struct Half:                 # a division: items [0, left) stay, [right, n) go, the separator between them
    int left
    int right
    size_t sep_len
    size_t left_prefix
    size_t right_prefix


cdef void node_assert(const char* page, uint32_t page_size, uint64_t pid) noexcept nogil:
    cdef const char* fault = layout_check(page, page_size, pid)
    if fault != NULL:
        fprintf(stderr, b"enginelib: page %llu: %s\n", <unsigned long long>pid, fault)
        abort()


cdef inline size_t common(const char* a, size_t n, const char* b, size_t m) noexcept nogil:
    cdef size_t i = 0
    if m < n:
        n = m
    while i < n and a[i] == b[i]:
        i += 1
    return i


cdef inline Frame* touch(Pool pool, Frame* f) noexcept nogil:
    return f if plain(f) else pool.writable(f)


cdef inline size_t weight(const Item* item, bint leaf) noexcept nogil:
    return SLOT_SIZE + (LEAF_RECORD if leaf else INNER_RECORD) + item.n + (item.word & VALUE_LENGTH)


cdef bint divide_at(const char* old, uint32_t page_size, const Item* items, int n, int k, char* sep, Half* half) noexcept nogil:
    """Whether the items may be divided before item k (a leaf) or at it (an inner node); fills sep and half."""
    cdef bint leaf = node_is_leaf(old)
    cdef size_t p, lower_len, upper_len, cut
    cdef const char* prefix = node_prefix(old, &p)
    cdef const char* lower = node_lower(old, &lower_len)
    cdef const char* upper = node_upper(old, &upper_len)
    half.left = k
    half.right = k if leaf else k + 1
    cut = items[k].n
    if leaf:
        cut = common(items[k - 1].s, items[k - 1].n, items[k].s, items[k].n) + 1
    memcpy(sep, prefix, p)
    memcpy(sep + p, items[k].s, cut)
    half.sep_len = p + cut
    half.left_prefix = common(lower, lower_len, sep, half.sep_len) if lower != NULL else 0
    half.right_prefix = common(sep, half.sep_len, upper, upper_len) if upper != NULL else 0
    if (lower_len + half.sep_len + items_size(items, half.left, leaf, 0, half.left_prefix - p)
            > page_size - PAGE_HEADER):
        return False
    return (half.sep_len + upper_len + items_size(items + half.right, n - half.right, leaf, 0, half.right_prefix - p)
            <= page_size - PAGE_HEADER)


cdef int middle(const Item* items, int n, bint leaf) noexcept nogil:
    """Where to divide by bytes: near the middle, and within a window about it at the shortest separator."""
    cdef size_t total = 0
    cdef size_t left = 0
    cdef size_t length, off, best_length, best_off
    cdef int i
    cdef int best = -1
    cdef int nearest = 1
    cdef size_t nearest_off = <size_t>-1
    for i in range(n):
        total += weight(&items[i], leaf)
    best_length = <size_t>-1
    best_off = 0
    for i in range(1, n if leaf else n - 1):
        left += weight(&items[i - 1], leaf)
        off = (left * 2 - total) if left * 2 > total else (total - left * 2)
        if off < nearest_off:
            nearest = i
            nearest_off = off
        if off * 5 <= total:                      # the left part has 40 to 60 of 100
            length = items[i].n
            if leaf:
                length = common(items[i - 1].s, items[i - 1].n, items[i].s, items[i].n) + 1
            if length < best_length or (length == best_length and off < best_off):
                best = i
                best_length = length
                best_off = off
    return best if best > 0 else nearest


cdef void divide(const char* old, uint32_t page_size, const Item* items, int n, int k, char* sep, Half* half) noexcept nogil:
    """The division nearest to k that fits."""
    cdef int first = 1
    cdef int last = n - 1 if node_is_leaf(old) else n - 2
    cdef int step
    if k < first:
        k = first
    if k > last:
        k = last
    for step in range(n):
        if k - step >= first and divide_at(old, page_size, items, n, k - step, sep, half):
            return
        if step != 0 and k + step <= last and divide_at(old, page_size, items, n, k + step, sep, half):
            return
    fprintf(stderr, b"enginelib: a node cannot be divided\n")        # refuted by layout_max_key and layout_max_inline
    abort()


cdef void part(Pool pool, const char* old, Frame* left, Frame* right, uint32_t keyspace, const Item* items, int n,
               const char* sep, const Half* half) noexcept nogil:
    """Writes both parts of `old` (a copy) to their pages."""
    cdef uint32_t page_size = pool.core.page_size
    cdef int level = node_level(old)
    cdef size_t p = node_prefix_len(old)
    cdef size_t lower_len, upper_len
    cdef const char* lower = node_lower(old, &lower_len)
    cdef const char* upper = node_upper(old, &upper_len)
    cdef uint64_t leftmost = get64(old + OFF_LEFTMOST)
    node_init(left.page, page_size, level, keyspace, left.pid, right.pid, leftmost, lower, lower_len, sep, half.sep_len)
    node_fill(left.page, items, half.left, b"", 0, half.left_prefix - p)
    leftmost = items[half.left].child if level != 0 else 0
    node_init(right.page, page_size, level, keyspace, right.pid, node_next(old), leftmost, sep, half.sep_len, upper, upper_len)
    node_fill(right.page, items + half.right, n - half.right, b"", 0, half.right_prefix - p)


cdef Frame* divide_node(Pool pool, Path* path, int level, uint32_t keyspace, const char* old, const Item* items, int n,
                        const char* sep, const Half* half, Frame** left_out) noexcept nogil:
    """Parts the node at path.frames[level]; a root keeps its pid and becomes the parent of both parts. Returns the right part."""
    cdef Frame* f = path.frames[level]
    cdef Frame* left = f
    cdef Frame* right
    cdef uint64_t mark = f.mark
    if level == 0:
        left = pool.new_page()
        left.mark = mark
    right = pool.new_page()
    right.mark = mark
    part(pool, old, left, right, keyspace, items, n, sep, half)
    if level == 0:
        node_init(f.page, pool.core.page_size, node_level(old) + 1, keyspace, f.pid, 0, left.pid, NULL, 0, NULL, 0)
        inner_insert(f.page, pool.core.page_size, 0, sep, half.sep_len, right.pid)
    if DEBUG:
        node_assert(left.page, pool.core.page_size, left.pid)
        node_assert(right.page, pool.core.page_size, right.pid)
    left_out[0] = left
    return right


cdef void add_child(Pool pool, Path* path, int level, uint32_t keyspace, char* sep, size_t sep_len, uint64_t child) noexcept nogil:
    """Enters a new right neighbour of the child taken into the node at path.frames[level]; divides upward. Overwrites sep."""
    cdef char old[MAX_PAGE_SIZE]
    cdef Item items[MAX_RECORDS]
    cdef char up[MAX_KEY_BYTES]
    cdef Half half
    cdef Frame* f
    cdef Frame* left
    cdef Frame* right
    cdef size_t p
    cdef int at, n, k
    cdef uint32_t page_size = pool.core.page_size
    cdef bint rightmost
    while True:
        f = touch(pool, path.frames[level])
        path.frames[level] = f
        p = node_prefix_len(f.page)
        at = path.slots[level] + 1
        if node_room(f.page) >= INNER_RECORD + sep_len - p + SLOT_SIZE:
            inner_insert(f.page, page_size, at, sep + p, sep_len - p, child)
            if DEBUG:
                node_assert(f.page, page_size, f.pid)
            return
        memcpy(old, f.page, page_size)
        n = node_items(old, items)
        memmove(&items[at + 1], &items[at], <size_t>(n - at) * sizeof(Item))
        items[at].s = sep + p
        items[at].n = <uint16_t>(sep_len - p)
        items[at].body = NULL
        items[at].word = 0
        items[at].child = child
        n += 1
        rightmost = at == n - 1 and get16(old + OFF_UPPER_OFF) == 0
        k = n - 2 if rightmost else middle(items, n, False)
        divide(old, page_size, items, n, k, up, &half)
        right = divide_node(pool, path, level, keyspace, old, items, n, up, &half, &left)
        if level == 0:
            return
        memcpy(sep, up, half.sep_len)
        sep_len = half.sep_len
        child = right.pid
        level -= 1


cdef Frame* split_leaf(Pool pool, Path* path, uint32_t keyspace, const char* key, size_t klen, bint replace, uint16_t word,
                       const char* value, size_t vlen, int edge, int* slot) noexcept nogil:
    cdef char old[MAX_PAGE_SIZE]
    cdef Item items[MAX_RECORDS]
    cdef char sep[MAX_KEY_BYTES]
    cdef Half half
    cdef int level = path.depth - 1
    cdef int at = path.slots[level]
    cdef Frame* f = path.frames[level]
    cdef Frame* left
    cdef Frame* right
    cdef size_t p = node_prefix_len(f.page)
    cdef int n, k
    cdef uint32_t page_size = pool.core.page_size
    memcpy(old, f.page, page_size)
    n = node_items(old, items)
    if not replace:
        memmove(&items[at + 1], &items[at], <size_t>(n - at) * sizeof(Item))
        n += 1
    items[at].s = key + p
    items[at].n = <uint16_t>(klen - p)
    items[at].body = value
    items[at].word = word
    items[at].child = 0
    if edge == EDGE_RIGHT:
        k = n - 1
    elif edge == EDGE_LEFT:
        k = 1
    else:
        k = middle(items, n, True)
    divide(old, page_size, items, n, k, sep, &half)
    right = divide_node(pool, path, level, keyspace, old, items, n, sep, &half, &left)
    if level > 0:
        add_child(pool, path, level - 1, keyspace, sep, half.sep_len, right.pid)
    if at < half.left:
        slot[0] = at
        return left
    slot[0] = at - half.left
    return right


# --- joining ------------------------------------------------------------------------------------------------------

cdef bint join_pair(Pool pool, Frame** left_at, Frame* right, Frame** parent_at, int j) noexcept nogil:
    """Moves all of right into left, when it fits and can be had; j is right's slot in the parent."""
    cdef char old[MAX_PAGE_SIZE]
    cdef Item items[MAX_RECORDS]
    cdef char sep[MAX_KEY_BYTES]
    cdef Item middle_item
    cdef Frame* left = left_at[0]
    cdef Frame* parent = parent_at[0]
    cdef uint32_t page_size = pool.core.page_size
    cdef bint leaf = node_is_leaf(left.page)
    cdef size_t lower_len, upper_len, p, lp, rp, sep_len, size, limit
    cdef const char* lower = node_lower(left.page, &lower_len)
    cdef const char* upper = node_upper(right.page, &upper_len)
    cdef const char* left_prefix
    cdef const char* right_prefix
    cdef int n, lacking
    if (node_child(parent.page, j) != right.pid or edge_fault(parent.page, j - 1, left.page) != NULL
            or edge_fault(parent.page, j, right.page) != NULL):
        return False                             # a damaged neighbour: left as it is
    limit = page_size - PAGE_HEADER
    if node_count(left.page) != 0 and node_count(right.page) != 0:
        limit -= limit >> 3                      # or the next insertion would divide it again
    size = lower_len + upper_len + node_content(left.page, page_size) + node_content(right.page, page_size)
    if size > limit:                             # even if the prefix were to stay
        return False
    p = common(lower, lower_len, upper, upper_len) if lower != NULL and upper != NULL else 0
    left_prefix = node_prefix(left.page, &lp)
    right_prefix = node_prefix(right.page, &rp)
    sep_len = node_prefix_len(parent.page) + node_suffix_len(parent.page, j)
    size += (lp - p) * node_count(left.page) + (rp - p) * node_count(right.page)
    if not leaf:
        size += SLOT_SIZE + INNER_RECORD + sep_len - p
    if size > limit:
        return False
    lacking = (0 if plain(left) else 1) + (0 if plain(parent) else 1)
    if lacking != 0 and pool.admit(lacking) != OK:
        return False

    parent = touch(pool, parent)
    parent_at[0] = parent
    left = touch(pool, left)
    left_at[0] = left
    memcpy(old, left.page, page_size)
    lower = node_lower(old, &lower_len)
    left_prefix = node_prefix(old, &lp)
    n = node_items(old, items)
    node_init(left.page, page_size, node_level(old), node_keyspace(old), left.pid, node_next(right.page),
              get64(old + OFF_LEFTMOST), lower, lower_len, upper, upper_len)
    node_fill(left.page, items, n, left_prefix + p, lp - p, 0)
    if not leaf:
        node_key_copy(parent.page, j, sep)
        middle_item.s = sep + p
        middle_item.n = <uint16_t>(sep_len - p)
        middle_item.body = NULL
        middle_item.word = 0
        middle_item.child = get64(right.page + OFF_LEFTMOST)
        node_fill(left.page, &middle_item, 1, b"", 0, 0)
    n = node_items(right.page, items)
    node_fill(left.page, items, n, right_prefix + p, rp - p, 0)
    if right.mark > left.mark:
        left.mark = right.mark
    node_remove(parent.page, j)
    pool.drop_page(right)
    if DEBUG:
        node_assert(left.page, page_size, left.pid)
        node_assert(parent.page, page_size, parent.pid)
    return True


cdef bint sink(Pool pool, Path* path) noexcept nogil:
    """A root with one child takes its content."""
    cdef Frame* root = path.frames[0]
    cdef Frame* child
    cdef int i
    if path.depth < 2 or node_count(root.page) != 0:
        return False
    child = path.frames[1]
    if not plain(root):
        if pool.admit(1) != OK:
            return False
        root = touch(pool, root)
        path.frames[0] = root
    memcpy(root.page, child.page, pool.core.page_size)
    put64(root.page + OFF_PID, root.pid)
    if child.mark > root.mark:
        root.mark = child.mark
    pool.drop_page(child)
    path.depth -= 1
    path.slots[0] = path.slots[1]
    for i in range(1, path.depth):
        path.frames[i] = path.frames[i + 1]
        path.slots[i] = path.slots[i + 1]
    if DEBUG:
        node_assert(root.page, pool.core.page_size, root.pid)
    return True


cdef inline Frame* neighbour(Pool pool, const Frame* f, const char* parent, int slot) noexcept nogil:
    """The child at the slot, when it is in memory and a node of f's level of the same tree."""
    cdef Frame* other
    if slot < -1 or slot >= node_count(parent):
        return NULL
    other = pool_find(&pool.core, node_child(parent, slot))
    if other == NULL or other == f or node_level(other.page) != node_level(f.page):
        return NULL
    return other if node_keyspace(other.page) == node_keyspace(f.page) else NULL


cdef bint join_one(Pool pool, Path* path, int level) noexcept nogil:
    """Joins the node at path.frames[level] with its left or right neighbour."""
    cdef Frame* f = path.frames[level]
    cdef Frame* parent = path.frames[level - 1]
    cdef int slot = path.slots[level - 1]
    cdef int shift
    cdef Frame* other = neighbour(pool, f, parent.page, slot - 1)
    if other != NULL:
        shift = node_count(other.page) + 1
        if join_pair(pool, &other, f, &parent, slot):
            path.frames[level] = other
            path.frames[level - 1] = parent
            path.slots[level - 1] = slot - 1
            path.slots[level] += shift
            return True
    other = neighbour(pool, f, parent.page, slot + 1)
    if other != NULL and join_pair(pool, &f, other, &parent, slot + 1):
        path.frames[level] = f
        path.frames[level - 1] = parent
        return True
    return False


cdef void join(Pool pool, Path* path) noexcept nogil:
    cdef uint32_t page_size = pool.core.page_size
    cdef int level
    cdef bint helped = True
    while helped:
        helped = False
        level = path.depth - 1
        while level > 0 and node_content(path.frames[level].page, page_size) < underfull(page_size):
            if join_one(pool, path, level):
                helped = True
            level -= 1
        while sink(pool, path):
            helped = True
