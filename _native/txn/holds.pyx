"""Holds on keys and ranges: see holds.pxd."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memmove, memset
from ..base.coding cimport compare_bytes
from ..base.status cimport OK, E_NOMEM, fail

cdef enum:
    FIRST_HOLDS = 256
    DEEPEST = 256                # of a treap: with random priorities a depth of 60 needs more nodes than memory holds


cdef int holds_init(HoldTable* t) noexcept nogil:
    memset(t, 0, sizeof(HoldTable))
    t.buckets = <Hold**>calloc(FIRST_HOLDS, sizeof(Hold*))
    if t.buckets == NULL:
        return fail(E_NOMEM, "no memory for the table of locks")
    t.mask = FIRST_HOLDS - 1
    t.seed = 0x9E3779B97F4A7C15
    return OK


cdef void free_treap(Hold* h) noexcept nogil:
    if h != NULL:
        free_treap(h.left)
        free_treap(h.right)
        free(h)


cdef void holds_destroy(HoldTable* t) noexcept nogil:
    cdef uint64_t i
    cdef uint32_t k
    cdef Hold* h
    if t.buckets != NULL:
        for i in range(t.mask + 1):
            while t.buckets[i] != NULL:
                h = t.buckets[i]
                t.buckets[i] = h.next
                free(h)
    for k in range(t.root_room):
        free_treap(t.roots[k])
    free(t.buckets)
    free(t.roots)
    memset(t, 0, sizeof(HoldTable))


cdef void grow(HoldTable* t) noexcept nogil:
    cdef uint64_t n = (t.mask + 1) * 4, i
    cdef Hold** buckets = <Hold**>calloc(n, sizeof(Hold*))
    cdef Hold* h
    if buckets == NULL:
        return                   # longer buckets for now
    for i in range(t.mask + 1):
        while t.buckets[i] != NULL:
            h = t.buckets[i]
            t.buckets[i] = h.next
            h.next = buckets[h.hash & (n - 1)]
            buckets[h.hash & (n - 1)] = h
    free(t.buckets)
    t.buckets = buckets
    t.mask = n - 1


# --- intervals

cdef Span span_of_key(const char* key, size_t n) noexcept nogil:
    cdef Span s
    s.low = s.high = key
    s.low_len = s.high_len = <uint32_t>n
    s.closed = True
    s.unbounded = False
    return s


cdef void span_between(Span* s, const char* low, size_t low_len, const char* high, size_t high_len, bint unbounded) noexcept nogil:
    s.low = low
    s.low_len = <uint32_t>low_len
    s.high = high
    s.high_len = <uint32_t>high_len
    s.closed = False
    s.unbounded = unbounded


cdef inline bint starts_within(const char* low, size_t n, const Span* s) noexcept nogil:
    """Whether a range that begins at `low` begins before `s` ends."""
    cdef int c
    if s.unbounded:
        return True
    c = compare_bytes(low, n, s.high, s.high_len)
    return c < 0 or (c == 0 and s.closed)


cdef bint spans_meet(const Span* a, const Span* b) noexcept nogil:
    return starts_within(a.low, a.low_len, b) and starts_within(b.low, b.low_len, a)


cdef bint span_holds(const Span* s, const char* key, size_t n) noexcept nogil:
    return compare_bytes(s.low, s.low_len, key, n) <= 0 and starts_within(key, n, s)


cdef bint ends_after(const Span* a, const Span* b) noexcept nogil:
    cdef int c
    if a.unbounded or b.unbounded:
        return a.unbounded and not b.unbounded
    c = compare_bytes(a.high, a.high_len, b.high, b.high_len)
    return c > 0 or (c == 0 and a.closed and not b.closed)


# --- the treap

cdef inline bint before(Hold* a, Hold* b) noexcept nogil:
    cdef int c = compare_bytes(a.span.low, a.span.low_len, b.span.low, b.span.low_len)
    return c < 0 or (c == 0 and <size_t>a < <size_t>b)


cdef inline void refresh(Hold* h) noexcept nogil:
    h.furthest = h
    if h.left != NULL and ends_after(&h.left.furthest.span, &h.furthest.span):
        h.furthest = h.left.furthest
    if h.right != NULL and ends_after(&h.right.furthest.span, &h.furthest.span):
        h.furthest = h.right.furthest


cdef Hold* join(Hold* a, Hold* b) noexcept nogil:
    """All of a lies before all of b."""
    if a == NULL:
        return b
    if b == NULL:
        return a
    if a.priority > b.priority:
        a.right = join(a.right, b)
        refresh(a)
        return a
    b.left = join(a, b.left)
    refresh(b)
    return b


cdef void cut(Hold* root, Hold* at, Hold** low, Hold** high) noexcept nogil:
    """Those before `at`, and the others."""
    if root == NULL:
        low[0] = high[0] = NULL
    elif before(root, at):
        cut(root.right, at, &root.right, high)
        refresh(root)
        low[0] = root
    else:
        cut(root.left, at, low, &root.left)
        refresh(root)
        high[0] = root


cdef Hold* insert(Hold* root, Hold* h) noexcept nogil:
    if root == NULL or h.priority > root.priority:
        cut(root, h, &h.left, &h.right)
        refresh(h)
        return h
    if before(h, root):
        root.left = insert(root.left, h)
    else:
        root.right = insert(root.right, h)
    refresh(root)
    return root


cdef Hold* remove(Hold* root, Hold* h) noexcept nogil:
    if root == NULL:
        return NULL
    if root == h:
        return join(h.left, h.right)
    if before(h, root):
        root.left = remove(root.left, h)
    else:
        root.right = remove(root.right, h)
    refresh(root)
    return root


cdef int meet(Hold* root, const Span* span, HoldVisit visit, void* context) noexcept nogil:
    cdef int status = 0
    if root == NULL or not starts_within(span.low, span.low_len, &root.furthest.span):
        return 0                 # all below end before the span begins
    status = meet(root.left, span, visit, context)
    if status == 0 and starts_within(root.span.low, root.span.low_len, span):
        if starts_within(span.low, span.low_len, &root.span):
            status = visit(context, root)
        if status == 0:
            status = meet(root.right, span, visit, context)
    return status


# --- the table

cdef inline void copy_span(Hold* h, const Span* span) noexcept nogil:
    cdef char* p = <char*>h + sizeof(Hold)
    cdef Span s = span[0]
    # One of the two keys may lie here already: the upper is moved first, the lower never grows into it when it stays.
    if h.point:
        s.high = p
    else:
        if s.unbounded:
            s.high_len = 0
        elif s.high_len:
            memmove(p + s.low_len, s.high, s.high_len)
        s.high = p + s.low_len
    if s.low_len:
        memmove(p, s.low, s.low_len)
    s.low = p
    h.span = s


cdef inline size_t bytes_for(const Span* span, bint point) noexcept nogil:
    return span.low_len + (0 if point or span.unbounded else span.high_len)


cdef Hold* hold_find(HoldTable* t, Holder* owner, uint32_t keyspace, uint64_t hash, const char* key, size_t n, int mode) noexcept nogil:
    cdef Hold* h = t.buckets[hash & t.mask]
    while h != NULL:
        if (h.owner == owner and h.hash == hash and h.keyspace == keyspace and h.mode >= mode and h.span.low_len == n
                and memcmp(h.span.low, key, n) == 0):
            return h
        h = h.next
    return NULL


cdef int root_admit(HoldTable* t, uint32_t keyspace) noexcept nogil:
    cdef uint32_t room = t.root_room if t.root_room else 8
    cdef Hold** grown
    if keyspace < t.root_room:
        return OK
    while room <= keyspace:
        room *= 2
    grown = <Hold**>realloc(t.roots, room * sizeof(Hold*))
    if grown == NULL:
        return E_NOMEM
    memset(grown + t.root_room, 0, (room - t.root_room) * sizeof(Hold*))
    t.roots = grown
    t.root_room = room
    return OK


cdef Hold* hold_add(HoldTable* t, Holder* owner, uint32_t keyspace, int mode, const Span* span, bint point, uint64_t hash) noexcept nogil:
    cdef Hold* h
    cdef Hold** bucket
    # A range has room to grow: a cursor widens it batch by batch.
    cdef size_t room = bytes_for(span, point) + (0 if point else 64)
    if not point and root_admit(t, keyspace) != OK:
        fail(E_NOMEM, "no memory for a lock")
        return NULL
    h = <Hold*>malloc(sizeof(Hold) + room)
    if h == NULL:
        fail(E_NOMEM, "no memory for a lock")
        return NULL
    h.left = h.right = h.next = NULL
    h.furthest = h
    h.owner = owner
    h.keyspace = keyspace
    h.mode = <unsigned char>mode
    h.point = point
    h.kept = h.coarse = False
    h.room = <uint32_t>room
    copy_span(h, span)
    if point:
        if t.count > t.mask:
            grow(t)
        h.hash = hash
        bucket = &t.buckets[h.hash & t.mask]
        h.next = bucket[0]
        bucket[0] = h
    else:
        t.seed ^= t.seed << 13
        t.seed ^= t.seed >> 7
        t.seed ^= t.seed << 17
        h.priority = <uint32_t>(t.seed >> 32)
        h.hash = 0
        t.roots[keyspace] = insert(t.roots[keyspace], h)
        owner.ranges += 1
    h.mine_back = NULL
    h.mine = owner.first
    if owner.first != NULL:
        owner.first.mine_back = h
    owner.first = h
    owner.count += 1
    owner.bytes += sizeof(Hold) + room
    t.count += 1
    t.locks += mode != HOLD_READ
    t.bytes += sizeof(Hold) + room
    return h


cdef void hold_drop(HoldTable* t, Hold* h) noexcept nogil:
    cdef Holder* owner = <Holder*>h.owner
    cdef Hold** p
    if h.point:
        p = &t.buckets[h.hash & t.mask]
        while p[0] != h:
            p = &p[0].next
        p[0] = h.next
    else:
        t.roots[h.keyspace] = remove(t.roots[h.keyspace], h)
        owner.ranges -= 1
    if h.mine_back != NULL:
        h.mine_back.mine = h.mine
    else:
        owner.first = h.mine
    if h.mine != NULL:
        h.mine.mine_back = h.mine_back
    owner.count -= 1
    owner.bytes -= sizeof(Hold) + h.room
    t.count -= 1
    t.locks -= h.mode != HOLD_READ
    t.bytes -= sizeof(Hold) + h.room
    free(h)


cdef void holds_drop_all(HoldTable* t, Holder* owner) noexcept nogil:
    while owner.first != NULL:
        hold_drop(t, owner.first)


cdef bint hold_reshape(HoldTable* t, Hold* h, const Span* span) noexcept nogil:
    if bytes_for(span, False) > h.room:
        return False
    t.roots[h.keyspace] = remove(t.roots[h.keyspace], h)
    h.left = h.right = NULL
    copy_span(h, span)
    t.roots[h.keyspace] = insert(t.roots[h.keyspace], h)
    return True


cdef int holds_meet_key(HoldTable* t, uint32_t keyspace, uint64_t hash, const char* key, size_t n, HoldVisit visit, void* context) noexcept nogil:
    cdef Hold* h = t.buckets[hash & t.mask]
    cdef Span span
    cdef int status
    while h != NULL:
        if h.hash == hash and h.keyspace == keyspace and h.span.low_len == n and memcmp(h.span.low, key, n) == 0:
            status = visit(context, h)
            if status != 0:
                return status
        h = h.next
    if keyspace < t.root_room and t.roots[keyspace] != NULL:
        span = span_of_key(key, n)
        return meet(t.roots[keyspace], &span, visit, context)
    return 0


cdef int holds_meet(HoldTable* t, uint32_t keyspace, const Span* span, bint points, HoldVisit visit, void* context) noexcept nogil:
    cdef Hold* h
    cdef uint64_t i
    cdef int status
    # Single keys lie in no order: who asks for them goes through all. Ranges that are written are rare beside keys.
    for i in range(t.mask + 1 if points else 0):
        h = t.buckets[i]
        while h != NULL:
            if h.keyspace == keyspace and span_holds(span, h.span.low, h.span.low_len):
                status = visit(context, h)
                if status != 0:
                    return status
            h = h.next
    if keyspace < t.root_room:
        return meet(t.roots[keyspace], span, visit, context)
    return 0


cdef int holds_merge(HoldTable* t, Holder* owner, uint32_t keyspace, int mode) noexcept nogil:
    cdef Hold* h = owner.first
    cdef Hold* low = NULL
    cdef Hold* high = NULL
    cdef Hold* following
    cdef Hold* whole
    cdef Span span
    cdef int n = 0
    while h != NULL:
        if h.keyspace == keyspace and h.mode == mode and not h.kept:
            n += 1
            if low == NULL or compare_bytes(h.span.low, h.span.low_len, low.span.low, low.span.low_len) < 0:
                low = h
            if high == NULL or ends_after(&h.span, &high.span):
                high = h
        h = h.mine
    if n < 2:
        return OK
    span = high.span
    span.low = low.span.low
    span.low_len = low.span.low_len
    whole = hold_add(t, owner, keyspace, mode, &span, False, 0)
    if whole == NULL:
        return E_NOMEM
    whole.coarse = True
    h = owner.first
    while h != NULL:
        following = h.mine
        if h != whole and h.keyspace == keyspace and h.mode == mode and not h.kept:
            hold_drop(t, h)
        h = following
    return OK


cdef const char* check_treap(Hold* h, uint64_t* n, int depth) noexcept nogil:
    cdef const char* fault
    cdef Hold* furthest
    if h == NULL:
        return NULL
    n[0] += 1
    if depth > DEEPEST:
        return "too deep"
    if h.left != NULL and (not before(h.left, h) or h.left.priority > h.priority):
        return "a left child is out of order"
    if h.right != NULL and (before(h.right, h) or h.right.priority > h.priority):
        return "a right child is out of order"
    furthest = h.furthest
    refresh(h)
    if ends_after(&h.furthest.span, &furthest.span) or ends_after(&furthest.span, &h.furthest.span):
        return "the furthest end is not known"
    fault = check_treap(h.left, n, depth + 1)
    return fault if fault != NULL else check_treap(h.right, n, depth + 1)


cdef const char* hold_check(HoldTable* t) noexcept nogil:
    cdef uint64_t n = 0, i
    cdef uint32_t k
    cdef const char* fault
    cdef Hold* h
    for i in range(t.mask + 1):
        h = t.buckets[i]
        while h != NULL:
            n += 1
            if h.hash & t.mask != i:
                return "a key is in another's bucket"
            h = h.next
    for k in range(t.root_room):
        fault = check_treap(t.roots[k], &n, 0)
        if fault != NULL:
            return fault
    if n != t.count:
        return "the count is wrong"
    return NULL
