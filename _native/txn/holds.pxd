"""Holds: what transactions hold on keys and ranges of keys without having changed them - locks, and reads that are remembered.

A hold on one key lies in a hash table, one on a range in a treap per keyspace, ordered by lower bound, in which every node knows the furthest upper bound below
it (an interval tree: Cormen et al., Introduction to Algorithms, 14.3), so that all holds that meet a key or a range are found without looking at the others.
Those of one owner form a list.  Ranges are intervals of keys, never attached to records (law 13).  Everything is under the engine latch.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum HoldMode:
    HOLD_READ = 1               # remembered by a serializable transaction; in nobody's way
    HOLD_SHARED = 2
    HOLD_UPDATE = 3             # compatible with shared ones only
    HOLD_EXCLUSIVE = 4

cdef struct Span:               # keys from `low` on, to below `high`; closed: `high` belongs to it; unbounded: there is no end
    const char* low
    const char* high
    uint32_t low_len
    uint32_t high_len
    bint closed
    bint unbounded

cdef struct Hold:
    Hold* next                  # of the same bucket (single keys)
    Hold* mine                  # of the same owner
    Hold* mine_back
    Hold* left                  # in the treap (ranges)
    Hold* right
    Hold* furthest              # of it and those below, the one with the greatest upper bound
    void* owner                 # a Holder
    uint64_t hash
    uint32_t keyspace
    uint32_t priority
    uint8_t mode
    bint point
    bint kept                   # somebody still widens it: it is not merged with others
    bint coarse                 # it covers more than what was read or locked
    Span span                   # its keys lie behind this structure
    uint32_t room               # bytes there

cdef struct Holder:             # the owner's side: in a Txn for locks, in an Sxact for remembered reads
    void* of                    # that Txn or Sxact
    Hold* first
    uint64_t count
    uint64_t ranges
    uint64_t bytes

cdef struct HoldTable:
    Hold** buckets
    uint64_t mask
    Hold** roots                # by keyspace id
    uint32_t root_room
    uint64_t count              # of all holds
    uint64_t locks              # of those that are locks
    uint64_t bytes
    uint64_t seed

ctypedef int (*HoldVisit)(void* context, Hold* hold) noexcept nogil      # not 0: stop, and return that

cdef int holds_init(HoldTable* t) noexcept nogil
cdef void holds_destroy(HoldTable* t) noexcept nogil                     # frees all that are left
cdef Span span_of_key(const char* key, size_t n) noexcept nogil
cdef void span_between(Span* s, const char* low, size_t low_len, const char* high, size_t high_len, bint unbounded) noexcept nogil    # half-open
# The owner's hold of that mode or more on exactly this key, or NULL.
cdef Hold* hold_find(HoldTable* t, Holder* owner, uint32_t keyspace, uint64_t hash, const char* key, size_t n, int mode) noexcept nogil
# NULL: no memory; nothing has changed. hash: of a single key, by hash_key.
cdef Hold* hold_add(HoldTable* t, Holder* owner, uint32_t keyspace, int mode, const Span* span, bint point, uint64_t hash) noexcept nogil
cdef void hold_drop(HoldTable* t, Hold* h) noexcept nogil
cdef void holds_drop_all(HoldTable* t, Holder* owner) noexcept nogil
# A range becomes another, if that fits the room it has; whether it did.
cdef bint hold_reshape(HoldTable* t, Hold* h, const Span* span) noexcept nogil
# Calls visit for every hold that shares a key with the span; points: those on single keys too, which are shared locks and reads.
cdef int holds_meet(HoldTable* t, uint32_t keyspace, const Span* span, bint points, HoldVisit visit, void* context) noexcept nogil
# The same for a single key, whose hash is known.
cdef int holds_meet_key(HoldTable* t, uint32_t keyspace, uint64_t hash, const char* key, size_t n, HoldVisit visit, void* context) noexcept nogil
cdef bint ends_after(const Span* a, const Span* b) noexcept nogil
cdef bint spans_meet(const Span* a, const Span* b) noexcept nogil
cdef bint span_holds(const Span* s, const char* key, size_t n) noexcept nogil
# The owner's holds of a mode on a keyspace become one that covers them all. OK (also when there is nothing to do) or E_NOMEM.
cdef int holds_merge(HoldTable* t, Holder* owner, uint32_t keyspace, int mode) noexcept nogil
cdef const char* hold_check(HoldTable* t) noexcept nogil                 # what is wrong with it, or NULL
