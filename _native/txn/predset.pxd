"""The set of predicates that are locked or remembered, and the changes that one who adds to it has to look at.

A predicate is a Python object, and tested with no latch held (law 13); here it is a number, an owner and the range of keys it can match.  A change is tested against the set
as of one `edition` of it, and is made only in a latch hold in which that is still the edition: a set that has grown sends it back to the test.  Who adds a predicate
then looks at the changes that were made before: everything later is tested against it.
"""
from libc.stdint cimport uint32_t, uint64_t
from .holds cimport Span
from .transaction cimport Lack, TxnManager
from .versions cimport Sxact, Txn

cdef struct Predicate:
    Predicate* next             # newest first
    uint64_t number             # what its object is found by
    Txn* txn                    # whose lock it is; NULL: a remembered read,
    Sxact* sx                   # of this one
    bint update                 # a lock for update
    bint granted                # all that was in its way has ended; until then who is in its way goes on
    uint32_t keyspace
    Span span                   # its keys lie behind this structure

cdef struct Image:              # a value that a key has had in another's hands; key, then value follow
    uint64_t owner              # number of the transaction
    uint32_t klen
    uint32_t vlen
    bint unknown                # it is not at hand

cdef struct Images:
    char* bytes
    size_t used
    size_t room

# The number is the caller's, under which the object can be found already. OK or E_NOMEM.
cdef int predicate_add(TxnManager m, Txn* t, uint64_t number, uint32_t keyspace, const Span* span, bint update) noexcept nogil
# Those of t (its locks), or of sx (its remembered reads), go.
cdef void predicates_drop(TxnManager m, Txn* t, Sxact* sx) noexcept nogil
cdef void predicates_free(TxnManager m) noexcept nogil
# A change of the whole span by t, whatever its values: OK; AGAIN with who is in the way; E_SERIALIZATION.
cdef int predicates_meet(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Lack* lack) noexcept nogil
cdef Predicate* predicate_find(TxnManager m, uint64_t number) noexcept nogil
# Writes to `numbers` (most: its room) those of others on the keyspace that can match the key; their count, which may be more than the room.
cdef size_t predicates_for(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, uint64_t* numbers, size_t most) noexcept nogil
# What others have made of keys in the span that t does not see. OK; AGAIN with what is lacking; E_NOMEM.
cdef int images_of_others(TxnManager m, Txn* t, uint32_t keyspace, const Span* span, Images* images, Lack* lack) noexcept nogil
# Whether a change of t that matches the lock has to wait for it.
cdef bint predicate_keeps_out(Predicate* p, Txn* t, uint32_t keyspace) noexcept nogil
# It is granted, or not any more: who has looked at the set looks again.
cdef void predicate_grant(TxnManager m, uint64_t number, bint granted) noexcept nogil
cdef bint covers_of(TxnManager m, uint64_t number) noexcept nogil              # whether ranges of that transaction still stand for predicates
cdef Txn* writer_numbered(TxnManager m, uint64_t number) noexcept nogil        # NULL: it has ended
cdef Sxact* sxact_numbered(TxnManager m, uint64_t number) noexcept nogil       # NULL: it matters no more
