"""The B-tree: newest state in place, pages by pid, nothing but C below.

Every operation runs under the engine latch and never waits.  One that finds a page missing, or too few free frames or pids for the worst it may have to
do, returns AGAIN *before changing anything*, with the lack noted in Need; the caller calls `secure` (which releases the latch, gets it, and pins loaded
pages) and starts the operation again from the root.  When it is over the caller calls `release`.  Visibility is not the tree's business: a cell is what the
newest writer left, a ghost included; `frame.mark` tells the caller whether older versions may matter.

The root's pid never changes: a root that splits moves its content to two new children.
"""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from ..page.pool cimport Pool, PoolCore, Frame

# What callers hold: Need (what is lacking, and the pins), Cell, Path, the modes of seek, and the limits.
from .place cimport (
    Need, Cell, Path, Lack, SeekMode, MAX_LEVELS, MAX_PINS, MAX_BATCH, LACK_NOTHING, LACK_PAGE, LACK_FRAMES, LACK_PIDS,
    SEEK_GE, SEEK_GT, SEEK_LE, SEEK_LT, need_init, need_secure, need_release)


@cython.final
cdef class BTree:                          # BTree(pool, id, root); root 0: call create
    # constant after construction
    cdef readonly uint32_t id
    cdef readonly uint32_t max_key         # bytes
    cdef readonly uint32_t max_inline      # key + value bytes; more makes the value a blob
    cdef readonly int max_batch            # keys that find_many can have at once in this pool: MAX_BATCH, fewer in a tiny one
    cdef uint32_t page_size
    cdef Pool pool
    cdef PoolCore* core
    # under the latch
    cdef readonly uint64_t root
    cdef uint64_t hint                     # the leaf that took the last put
    cdef int hint_slot                     # where in it
    cdef bint streak                       # the put before went there too: try it without a descent

    # --- reading
    # OK (also for a ghost: see cell.flags), ABSENT, AGAIN, E_CORRUPT (a page that contradicts its parent; cycles end at MAX_LEVELS)
    cdef int find(self, const char* key, size_t klen, Cell* cell, Need* need) noexcept nogil
    # For n <= MAX_BATCH keys at once, descending in step and prefetching: statuses[i] as of find; a lack is reported once, as the return value AGAIN.
    cdef int find_many(self, const char** keys, const size_t* klens, int n, Cell* cells, int* statuses, Need* need) noexcept nogil
    # The pids of the leaves of keys[done] to keys[n - 1], which need not be here. OK; ABSENT (the root is the only leaf); AGAIN (a node above them is not:
    # the pids below `done` are known and hold meanwhile, so that it is not all begun again).
    cdef int leaves(self, const char** keys, const size_t* klens, int n, uint64_t* pids, int* done, Need* need) noexcept nogil
    # Position at the first key >=, > (or last <=, <) the key. OK, ABSENT (none), AGAIN. key NULL with SEEK_GE / SEEK_LE: the very first / last.
    cdef int seek(self, const char* key, size_t klen, int mode, Path* path, Need* need) noexcept nogil
    # From any leaf position to slot 0 of the next non-empty leaf / the last slot of the previous one. OK, ABSENT, AGAIN (position unchanged).
    cdef int next_leaf(self, Path* path, Need* need) noexcept nogil
    cdef int prev_leaf(self, Path* path, Need* need) noexcept nogil

    # --- writing: prepare, then (same latch hold) at most one apply
    # Finds the key's place and secures what put, ghost or remove of a record of klen + vlen bytes (vlen = 16 for a blob) may need. OK or ABSENT
    # (path.found accordingly; cell filled when found), AGAIN, errors.
    cdef int prepare(self, const char* key, size_t klen, size_t vlen, Path* path, Cell* cell, Need* need) noexcept nogil
    # Inserts or replaces; flags VALUE_BLOB when value is a blob reference, VALUE_GHOST with vlen 0. Sets the frames' marks to at least `mark`. Cannot fail.
    cdef void apply_put(self, Path* path, const char* key, size_t klen, uint16_t flags, const char* value, size_t vlen, uint64_t mark) noexcept nogil
    # Removes the cell; merges an underfull node with a neighbour when that is resident and admitted, else leaves it underfull.
    cdef void apply_remove(self, Path* path, uint64_t mark) noexcept nogil

    # --- whole trees
    cdef int create(self, Need* need) noexcept nogil                     # latch; makes an empty root: AGAIN until admitted; sets self.root
    # latch (releases it between steps, through need_secure): frees up to `budget` pages of the tree, blobs included. OK = all gone, AGAIN = call again.
    cdef int destroy_some(self, int budget, Need* need) noexcept nogil

    # --- internal
    cdef int far(self, bint last, Path* path, Need* need) noexcept nogil
    cdef int turn(self, Path* path, int direction, Need* need) noexcept nogil
    cdef bint near(self, const char* key, size_t klen, size_t vlen, Path* path) noexcept nogil
    cdef int admit(self, size_t klen, Path* path, bint fits, Need* need) noexcept nogil
    cdef int destroy_last(self, int* freed, Need* need) noexcept nogil

# (latch not held, GIL held) Walks the tree, checking every node (layout, fences against the parent, levels, sibling links, order, blob references);
# returns findings; adds each pid met to `pids` (a set); counts keys, ghosts, pages by level, bytes used. `doubts` gets what is a finding only if no pid was
# given out or taken back meanwhile. whole: False of a tree that is being destroyed.
cdef object check_tree(BTree tree, set pids, list findings, list doubts, bint read_blobs, bint whole)
