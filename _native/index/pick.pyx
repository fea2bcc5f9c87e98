"""Which tables to compact: see pick.pxd."""
from libc.stdint cimport uint64_t

from ..base.coding cimport compare_bytes
from .lsm cimport SIZE_TIERED, RUNS_COMPACT, LsmTree
from .tableset cimport LSM_LEVELS, TableFile, TableSet, file_overlaps

cdef enum:
    LAST_LEVEL = LSM_LEVELS - 1
    GROWTH = 10                    # each level's size over that of the one above
    BASE = 4                       # tables that a level is worth having for,
    DEEPER = 6                     # and how many times that the level below it is larger: merged from level 0 directly, a smaller one costs fewer bytes
    RUNS_BYTES = 6                 # tables' worth of bytes in level 0 that are worth a compaction,
    RUNS_FULL = 2 * RUNS_COMPACT   # or so many runs, however small


cdef int level_targets(const TableSet* s, uint64_t table_size, uint64_t* targets) noexcept nogil:
    cdef uint64_t base = table_size * BASE, size = s.bytes[LAST_LEVEL]
    cdef int level = LAST_LEVEL, i
    for i in range(LSM_LEVELS):
        targets[i] = 0
    for i in range(1, LAST_LEVEL):                   # a tree that is being rearranged may have its bulk higher up
        if s.bytes[i] > size:
            size = s.bytes[i]
    targets[LAST_LEVEL] = <uint64_t>-1
    while size > DEEPER * base and level > 1:
        size //= GROWTH
        level -= 1
        targets[level] = size if size > base else base
    return level


cdef double runs_score(const TableSet* s, uint64_t table_size) noexcept nogil:
    """How much level 0 wants to be merged. What it is merged into is written again, whatever comes from above: so that is worth a good deal of bytes."""
    cdef double runs = <double>s.counts[0] / RUNS_FULL, size = <double>s.bytes[0] / <double>(RUNS_BYTES * table_size)
    return size if size > runs and s.counts[0] >= RUNS_COMPACT else runs


cdef bint add_input(Pick* p, TableFile* f, int level) noexcept nogil:
    """False: it cannot be had (another compaction works on it, or there are too many)."""
    if f.busy or p.count == MOST_INPUTS:
        return False
    p.inputs[p.count] = f
    p.levels[p.count] = level
    p.count += 1
    return True


cdef void bounds_of(const Pick* p, int first, TableFile** low, TableFile** high, bint* unbounded) noexcept nogil:
    """The files with the least and the greatest key among the inputs from `first` on."""
    cdef int i
    cdef TableFile* f
    low[0] = high[0] = NULL
    unbounded[0] = False
    for i in range(first, p.count):
        f = p.inputs[i]
        if low[0] == NULL or compare_bytes(f.info.smallest, f.info.smallest_len, low[0].info.smallest, low[0].info.smallest_len) < 0:
            low[0] = f
        if high[0] == NULL or compare_bytes(f.info.largest, f.info.largest_len, high[0].info.largest, high[0].info.largest_len) > 0:
            high[0] = f
        unbounded[0] = unbounded[0] or f.info.unbounded


cdef bint add_overlapping(LsmTree tree, Pick* p, int level) noexcept nogil:
    """All files of the level that share keys with the inputs so far, and their neighbours that touch them (a range that ends at the next table's first key)."""
    cdef TableFile* low
    cdef TableFile* high
    cdef TableFile* f
    cdef bint unbounded
    cdef int i
    bounds_of(p, 0, &low, &high, &unbounded)
    for i in range(tree.set.counts[level]):
        f = tree.set.files[level][i]
        if file_overlaps(f, low.info.smallest, low.info.smallest_len, NULL if unbounded else high.info.largest, high.info.largest_len):
            if not add_input(p, f, level):
                return False
    return True


cdef bint nothing_below(LsmTree tree, const Pick* p) noexcept nogil:
    cdef TableFile* low
    cdef TableFile* high
    cdef bint unbounded
    cdef int level, i
    bounds_of(p, 0, &low, &high, &unbounded)
    for level in range(p.to_level + 1, LSM_LEVELS):
        for i in range(tree.set.counts[level]):
            if file_overlaps(tree.set.files[level][i], low.info.smallest, low.info.smallest_len, NULL if unbounded else high.info.largest,
                             high.info.largest_len):
                return False
    return True


cdef bint touches(LsmTree tree, const Pick* p, int level) noexcept nogil:
    """Whether files of the level share keys with the inputs."""
    cdef TableFile* low
    cdef TableFile* high
    cdef bint unbounded
    cdef int i
    bounds_of(p, 0, &low, &high, &unbounded)
    for i in range(tree.set.counts[level]):
        if file_overlaps(tree.set.files[level][i], low.info.smallest, low.info.smallest_len, NULL if unbounded else high.info.largest,
                         high.info.largest_len):
            return True
    return False


cdef bint pick_runs(LsmTree tree, int base, Pick* p) noexcept nogil:
    """Level 0 into the base level: all of its runs that are free, from the oldest on."""
    cdef TableSet* s = tree.set
    cdef int i, n = s.counts[0]
    p.count = 0
    p.to_level = base
    for i in range(1, base):
        if s.counts[i]:
            return False                             # older than these runs, and must not end up above them
    # The newest stands first: inputs keep that order, for equal keys.
    i = n - 1
    while i >= 0 and not s.files[0][i].busy and n - i <= MOST_INPUTS // 2:
        i -= 1
    i += 1
    if i == n:
        return False
    # A run that shares no key with the rest and with the levels below moves as it is.
    add_input(p, s.files[0][n - 1], 0)
    if not touches(tree, p, base):
        p.trivial = True
        return True
    p.count = 0
    while i < n:
        add_input(p, s.files[0][i], 0)
        i += 1
    if not add_overlapping(tree, p, base):
        return False
    p.bottom = nothing_below(tree, p)
    return True


cdef uint64_t overlap_bytes(LsmTree tree, TableFile* f, int level) noexcept nogil:
    cdef uint64_t n = 0
    cdef int i
    cdef TableFile* g
    for i in range(tree.set.counts[level]):
        g = tree.set.files[level][i]
        if file_overlaps(g, f.info.smallest, f.info.smallest_len, NULL if f.info.unbounded else f.info.largest, f.info.largest_len):
            if g.busy:
                return <uint64_t>-1
            n += g.info.file_bytes
    return n


cdef bint pick_level(LsmTree tree, int level, int to, const char* low, size_t low_len, const char* high, size_t high_len, Pick* p) noexcept nogil:
    """Of the files of the level that hold keys of the range, the one that is merged into the next most cheaply."""
    cdef TableSet* s = tree.set
    cdef TableFile* best = NULL
    cdef uint64_t n
    cdef double cost, least = 0
    cdef int i
    for i in range(s.counts[level]):
        if s.files[level][i].busy or not file_overlaps(s.files[level][i], low, low_len, high, high_len):
            continue
        n = overlap_bytes(tree, s.files[level][i], to)
        if n == <uint64_t>-1:
            continue
        cost = <double>n / <double>(s.files[level][i].info.file_bytes + 1)
        if best == NULL or cost < least:
            best = s.files[level][i]
            least = cost
    if best == NULL:
        return False
    p.count = 0
    p.to_level = to
    add_input(p, best, level)
    # A table whose range tombstone ends where the next one begins takes that one with it.
    for i in range(s.counts[level]):
        if s.files[level][i] != best and file_overlaps(s.files[level][i], best.info.smallest, best.info.smallest_len,
                                                       NULL if best.info.unbounded else best.info.largest, best.info.largest_len):
            if not add_input(p, s.files[level][i], level):
                return False
    if p.count == 1 and not touches(tree, p, to):
        p.trivial = True
        return True
    if not add_overlapping(tree, p, to):
        return False
    p.bottom = nothing_below(tree, p)
    return True


cdef bint pick_tiers(LsmTree tree, bint idle, Pick* p) noexcept nogil:
    """Neighbouring runs of similar size, the newest first; all of them when the older are a small part."""
    cdef TableSet* s = tree.set
    cdef int n = s.counts[0], first, count, i, best = 0, best_count = 0
    cdef uint64_t sum, newer = 0
    p.to_level = 0
    if n < RUNS_COMPACT:
        return False
    for i in range(n - 1):
        newer += s.files[0][i].info.file_bytes
    if newer >= 2 * s.files[0][n - 1].info.file_bytes:
        best_count = n                               # space amplification
    else:
        for first in range(n):
            sum = s.files[0][first].info.file_bytes
            count = 1
            while first + count < n and s.files[0][first + count].info.file_bytes <= sum + sum // 4:
                sum += s.files[0][first + count].info.file_bytes
                count += 1
            if count > best_count and count >= 2:
                best = first
                best_count = count
                break
    if best_count < 2:
        if n < 2 * RUNS_COMPACT:
            return False
        best_count = n - RUNS_COMPACT + 1            # too many runs, of whatever size
    if best_count > MOST_INPUTS:
        best_count = MOST_INPUTS
    for i in range(best, best + best_count):
        if not add_input(p, s.files[0][i], 0):
            return False
    p.bottom = best + best_count == n
    return True


cdef inline uint64_t waste(const TableFile* f) noexcept nogil:
    """Entries that say nothing any more once no snapshot sees them and nothing lies below: deletions, and older versions of a key."""
    return f.info.tombstones + (f.info.entries - f.table.keys if f.table != NULL and f.table.keys < f.info.entries else 0)


cdef inline bint expired(LsmTree tree, uint64_t wall, uint64_t now) noexcept nogil:
    return tree.options.ttl != 0 and wall != 0 and wall + tree.options.ttl <= now


cdef bint pick_waste(LsmTree tree, bint idle, uint64_t oldest, uint64_t now, Pick* p) noexcept nogil:
    """A table that nothing lies below, and that holds nothing but what has expired (or, if there is time for it, a tenth of waste): written again by itself."""
    cdef TableSet* s = tree.set
    cdef int level = 0 if tree.options.style == SIZE_TIERED else LAST_LEVEL, n = s.counts[level], i
    cdef TableFile* f
    for i in range(n - 1 if level == 0 and n else 0, n):
        f = s.files[level][i]
        if f.info.entries == 0 or f.info.range_tombstones:
            continue
        if expired(tree, f.info.newest_wall, now) or (idle and f.info.newest_ts <= oldest and waste(f) * GROWTH > f.info.entries):
            p.count = 0
            p.to_level = level
            p.bottom = True
            p.score = 1
            return add_input(p, f, level)
    return False


cdef inline int next_level(const TableSet* s, int level, int base) noexcept nogil:
    """The level that a file of this one is merged into."""
    level += 1
    while level < base and s.counts[level] == 0:
        level += 1
    return level


cdef bint compaction_pick(LsmTree tree, bint idle, uint64_t oldest, uint64_t now, Pick* p) noexcept nogil:
    cdef TableSet* s = tree.set
    cdef uint64_t targets[LSM_LEVELS]
    cdef uint64_t above
    cdef double score
    cdef int base, level, best = -1
    p.count = 0
    p.trivial = p.bottom = False
    p.score = 0
    if tree.damaged or tree.doomed or tree.compacting or tree.loading:
        return False
    if tree.options.style == SIZE_TIERED:
        p.score = <double>s.counts[0] / RUNS_COMPACT
        return pick_tiers(tree, idle, p) or pick_waste(tree, idle, oldest, now, p)
    base = level_targets(s, tree.options.table_size, targets)
    score = runs_score(s, tree.options.table_size)
    if score >= 1.0:
        p.score = score
        best = 0
    for level in range(1, LAST_LEVEL):
        if s.counts[level] == 0:
            continue
        score = <double>s.bytes[level] / <double>targets[level] if targets[level] else 1e6      # such a level should be empty
        if score > 1.0 and score > p.score:
            p.score = score
            best = level
    if best < 0 and idle and s.counts[0]:
        # Nobody writes: what lies above the last level is worth merging once it is more than a tenth of it.
        above = 0
        for level in range(LAST_LEVEL):
            above += s.bytes[level]
        if s.counts[0] > 1 or above * GROWTH > s.bytes[LAST_LEVEL]:
            p.score = 1
            best = 0
    if best < 0:
        return pick_waste(tree, idle, oldest, now, p)
    if best == 0:
        return pick_runs(tree, base, p)
    return pick_level(tree, best, next_level(s, best, base), NULL, 0, NULL, 0, p)


cdef inline bint worth(LsmTree tree, const TableFile* f, uint64_t now) noexcept nogil:
    """Whether a table by itself, with nothing below it, gets smaller by being written again."""
    return waste(f) + f.info.range_tombstones > 0 or expired(tree, f.info.oldest_wall, now)


cdef bint compaction_pick_range(LsmTree tree, const char* low, size_t low_len, const char* high, size_t high_len, uint64_t now, Pick* p, bint* large) noexcept nogil:
    cdef TableSet* s = tree.set
    cdef TableFile* f
    cdef uint64_t bytes = 0
    cdef int level, i, top = -1
    cdef bint grown = True
    large[0] = False
    p.count = 0
    p.trivial = False
    p.bottom = True
    p.to_level = 0 if tree.options.style == SIZE_TIERED else LAST_LEVEL
    if tree.damaged or tree.doomed or tree.compacting:
        return False
    if tree.options.style == SIZE_TIERED:
        for i in range(s.counts[0]):
            if not add_input(p, s.files[0][i], 0):
                return False
        return p.count > 1 or (p.count == 1 and worth(tree, p.inputs[0], now))
    for level in range(LSM_LEVELS):
        for i in range(s.counts[level]):
            f = s.files[level][i]
            if file_overlaps(f, low, low_len, high, high_len) and (top >= 0 or level < LAST_LEVEL or worth(tree, f, now)):
                top = level
    if top < 0:
        return False
    # Everything that shares keys with an input, transitively, goes along: nothing older may stay above what has moved down.
    for level in range(LSM_LEVELS):
        for i in range(s.counts[level]):
            if level == 0 and s.counts[0] or file_overlaps(s.files[level][i], low, low_len, high, high_len):
                if not add_input(p, s.files[level][i], level):
                    large[0] = p.count == MOST_INPUTS
                    return False
    while grown:
        grown = False
        for level in range(LSM_LEVELS):
            for i in range(s.counts[level]):
                if not taken(p, s.files[level][i]) and shares(p, s.files[level][i]):
                    if not add_input(p, s.files[level][i], level):
                        large[0] = p.count == MOST_INPUTS
                        return False
                    grown = True
    for i in range(p.count):
        bytes += p.inputs[i].info.file_bytes
    if bytes > LARGEST * tree.options.table_size:
        large[0] = True
        return False
    order_inputs(p)
    return p.count > 0


cdef bint compaction_pick_step(LsmTree tree, const char* low, size_t low_len, const char* high, size_t high_len, const char* after, size_t after_len,
                               uint64_t now, Pick* p) noexcept nogil:
    cdef TableSet* s = tree.set
    cdef TableFile* f
    cdef uint64_t targets[LSM_LEVELS]
    cdef int base = level_targets(s, tree.options.table_size, targets), level, i
    p.count = 0
    p.trivial = p.bottom = False
    if tree.damaged or tree.doomed or tree.compacting or tree.options.style == SIZE_TIERED:
        return False
    for level in range(LAST_LEVEL):
        for i in range(s.counts[level]):
            if file_overlaps(s.files[level][i], low, low_len, high, high_len):
                if pick_runs(tree, base, p) if level == 0 else pick_level(tree, level, next_level(s, level, base), low, low_len, high, high_len, p):
                    return True
                break
    for i in range(s.counts[LAST_LEVEL]):
        f = s.files[LAST_LEVEL][i]
        if (file_overlaps(f, low, low_len, high, high_len) and worth(tree, f, now)
                and (after == NULL or compare_bytes(f.info.smallest, f.info.smallest_len, after, after_len) > 0)):
            p.to_level = LAST_LEVEL
            p.bottom = True
            return add_input(p, f, LAST_LEVEL)
    return False


cdef bint taken(const Pick* p, const TableFile* f) noexcept nogil:
    cdef int i
    for i in range(p.count):
        if p.inputs[i] == f:
            return True
    return False


cdef bint shares(const Pick* p, const TableFile* f) noexcept nogil:
    cdef TableFile* low
    cdef TableFile* high
    cdef bint unbounded
    bounds_of(p, 0, &low, &high, &unbounded)
    return file_overlaps(f, low.info.smallest, low.info.smallest_len, NULL if unbounded else high.info.largest, high.info.largest_len)


cdef void order_inputs(Pick* p) noexcept nogil:
    """By level, so that of equal keys and timestamps the newer stands first."""
    cdef int i, j, level
    cdef TableFile* f
    for i in range(1, p.count):
        f = p.inputs[i]
        level = p.levels[i]
        j = i
        while j > 0 and p.levels[j - 1] > level:
            p.inputs[j] = p.inputs[j - 1]
            p.levels[j] = p.levels[j - 1]
            j -= 1
        p.inputs[j] = f
        p.levels[j] = level
