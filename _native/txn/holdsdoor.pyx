"""The table of holds, for its tests: owners by number."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.string cimport memset
from .holds cimport (Hold, HoldTable, Holder, Span, hold_add, hold_check, hold_drop, hold_find, hold_reshape, holds_destroy, holds_drop_all, holds_init,
                     holds_meet, holds_meet_key, holds_merge, span_between, span_of_key)
from .versions cimport hash_key

cdef enum:
    OWNERS = 16

cdef struct Met:
    uint64_t holds[4096]
    int count


cdef int note(void* context, Hold* hold) noexcept nogil:
    cdef Met* met = <Met*>context
    if met.count < 4096:
        met.holds[met.count] = <uint64_t>hold
        met.count += 1
    return 0


cdef class HoldsDoor:
    """Sixteen owners, whose holds are told by handles."""
    cdef HoldTable table
    cdef Holder owners[OWNERS]

    def __cinit__(self):
        if holds_init(&self.table) != 0:
            raise MemoryError
        memset(self.owners, 0, sizeof(self.owners))

    def __dealloc__(self):
        holds_destroy(&self.table)

    cdef int span(self, Span* span, bytes low, high, bint closed) except -1:
        span_between(span, PyBytes_AS_STRING(low), PyBytes_GET_SIZE(low), PyBytes_AS_STRING(high) if high is not None else NULL,
                     PyBytes_GET_SIZE(high) if high is not None else 0, high is None)
        span.closed = closed
        return 0

    def add_key(self, int owner, unsigned int keyspace, int mode, bytes key):
        """Adds a hold on a key; its handle."""
        cdef Span span = span_of_key(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        return <uint64_t>hold_add(&self.table, &self.owners[owner], keyspace, mode, &span, True, hash_key(keyspace, span.low, span.low_len))

    def add_range(self, int owner, unsigned int keyspace, int mode, bytes low, high, bint closed):
        """Adds a hold on a range; its handle."""
        cdef Span span
        self.span(&span, low, high, closed)
        return <uint64_t>hold_add(&self.table, &self.owners[owner], keyspace, mode, &span, False, 0)

    def reshape(self, uint64_t handle, bytes low, high, bint closed):
        """Makes a range another; whether there was room."""
        cdef Span span
        self.span(&span, low, high, closed)
        return bool(hold_reshape(&self.table, <Hold*>handle, &span))

    def drop(self, uint64_t handle):
        """Drops a hold."""
        hold_drop(&self.table, <Hold*>handle)

    def drop_all(self, int owner):
        """Drops all of an owner's holds."""
        holds_drop_all(&self.table, &self.owners[owner])

    def merge(self, int owner, unsigned int keyspace, int mode):
        """Makes an owner's holds of a mode one."""
        holds_merge(&self.table, &self.owners[owner], keyspace, mode)

    def find(self, int owner, unsigned int keyspace, int mode, bytes key):
        """The handle of an owner's hold on exactly a key, of that mode or more; 0 for none."""
        cdef uint64_t hash = hash_key(keyspace, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        return <uint64_t>hold_find(&self.table, &self.owners[owner], keyspace, hash, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), mode)

    def meet_key(self, unsigned int keyspace, bytes key):
        """Handles of all holds on a key."""
        cdef Met met
        cdef int i
        met.count = 0
        holds_meet_key(&self.table, keyspace, hash_key(keyspace, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)), PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), note, &met)
        return sorted([met.holds[i] for i in range(met.count)])

    def meet(self, unsigned int keyspace, bytes low, high, bint closed, bint points):
        """Handles of all holds that share a key with a range."""
        cdef Met met
        cdef Span span
        cdef int i
        met.count = 0
        self.span(&span, low, high, closed)
        holds_meet(&self.table, keyspace, &span, points, note, &met)
        return sorted([met.holds[i] for i in range(met.count)])

    def held(self, int owner):
        """(handle, keyspace, mode, low, high or None, closed, whether a key) of an owner's holds."""
        cdef Hold* h = self.owners[owner].first
        result = []
        while h != NULL:
            result.append((<uint64_t>h, h.keyspace, h.mode, h.span.low[:h.span.low_len], None if h.span.unbounded else h.span.high[:h.span.high_len],
                           bool(h.span.closed), bool(h.point)))
            h = h.mine
        return result

    def check(self):
        """What is wrong with the table; None when nothing is."""
        cdef const char* fault = hold_check(&self.table)
        return None if fault == NULL else (<bytes>fault).decode()

    @property
    def counts(self):
        """(holds, locks among them, bytes)."""
        return self.table.count, self.table.locks, self.table.bytes
