"""The writing side of the log: appending, group commit, segments.

Data flow: a caller under the engine latch appends encoded records to the active buffer (LSNs are final at that moment);
a leader seals the buffer into a *group* (header: checksum, length, LSN, known-synced LSN, incarnation, previous group's checksum)
and writes it with one call, outside the latch; followers wait for it.  Segments are pre-written files of one size; a background thread
(or admission itself) prepares the next one ahead, recycling old ones by renaming.

Guards: "latch" = the engine latch is held on entry and on return; methods marked (may wait) release it meanwhile.
No method is called with the GIL needed; none touches Python.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from ..base.latch cimport Latch, Condition
from ..base.vfs cimport Vfs
from .record cimport Record
from .segment cimport SegmentHeader

cdef enum Durability:
    LAZY = 0
    OS = 1
    SYNC = 2

cdef enum:
    MAX_RESERVE = 4 << 20        # most that one reserve() may ask for
    DEFAULT_SEGMENT = 16 << 20
    DEFAULT_BUFFER = 1 << 20
    RUNNING_ROOM = 11            # bytes of the record that says which transactions began before a segment
    MAX_PENDING = 64             # segments ended and not yet synced

cdef enum WaitKind:
    W_OS = 0                     # written_lsn to reach lsn, or the right to write
    W_SYNC = 1                   # synced_lsn to reach lsn, or the right to sync
    W_CLAIM = 2                  # no one to be switching
    W_IDLE = 3                   # (the switcher) no write and no sync under way
    W_PREPARED = 4               # the preparation of the next segment to end

cdef struct Waiter:              # on its thread's stack
    Condition cond
    Waiter* next
    uint64_t lsn
    int kind
    bint woken

cdef class LogWriter:
    # constant after construction
    cdef Vfs vfs
    cdef Latch* latch
    cdef uint64_t segment_size
    # under the latch
    cdef readonly uint64_t end_lsn          # LSN the next record gets is >= this; all below is appended
    cdef readonly uint64_t written_lsn      # all below has been handed to the kernel
    cdef readonly uint64_t synced_lsn       # all below is on stable storage
    cdef readonly uint32_t incarnation
    cdef uint64_t next_txn                  # number of the next transaction that logs anything; 0: nobody says
    cdef readonly int failed                # 0, or E_LOG once a write or sync has failed: final
    cdef Condition* switched                # NULL, or what is signalled when a segment has been ended
    cdef readonly uint64_t groups           # counters since start
    cdef readonly uint64_t syncs

    # No latch; before start, after a recovery: the end of the log so far (the reader's end_lsn and last_crc), which the first
    # new segment names as its predecessor. Not called: the log begins here.
    cdef void follow(self, uint64_t end_lsn, uint32_t last_crc) noexcept nogil
    # No latch. Begins a new segment at first_lsn (a multiple of 512, at or above the reader's highest_lsn), durable on return;
    # then clears away what crashes left: temporary files, segments prepared but never begun.
    cdef int start(self, Vfs vfs, Latch* latch, const char* dir, uint64_t segment_size, uint64_t first_lsn, uint32_t incarnation,
                   const uint8_t* database_id, size_t buffer_size) noexcept nogil
    # latch. Copies encoded R_NAME records, which every segment from now on opens with (this one too if nothing is in it yet).
    cdef int set_names(self, const uint8_t* encoded_records, size_t n) noexcept nogil

    # latch. Makes sure that records of `n` bytes in all (encoded, headers included), plus what was reserved for the ends of
    # transactions (reserve_ends), can be appended without failing. OK, AGAIN (call make_room), E_LOG.
    # A single call's n is at most 4 MiB or it is E_INVALID; callers split larger work.
    cdef int reserve(self, size_t n) noexcept nogil
    # latch (may wait). After AGAIN: flushes buffers and/or prepares the next segment. E_FULL leaves the log as it was.
    # E_TOO_LARGE: n, the ends and the names do not fit one segment.
    cdef int make_room(self, size_t n) noexcept nogil
    # latch. Keeps `n` bytes for later end records (abort, commit) so that they never meet a full disk; negative gives back.
    # Positive: OK or AGAIN (make_room). RECORD_OVERHEAD (64) per end record: it covers a group header of its own.
    cdef int reserve_ends(self, int64_t n) noexcept nogil
    # latch, after reserve. Returns the record's LSN. Cannot fail.
    cdef uint64_t append(self, const Record* r) noexcept nogil
    # latch, after reserve. As append, for R_PUT and R_DELETE, without a Record.
    cdef uint64_t append_put(self, uint64_t txn, uint32_t ks, const char* key, size_t klen, const char* value, size_t vlen) noexcept nogil
    cdef uint64_t append_delete(self, uint64_t txn, uint32_t ks, const char* key, size_t klen) noexcept nogil
    # latch (may wait). Returns OK once all below `lsn` is written (OS) or synced (SYNC). Concurrent callers share one write and
    # one sync. The level last wanted, LAZY included, decides how segments are switched and prepared: below SYNC without syncs. E_LOG when the log has failed (the caller's commit is then of unknown outcome).
    cdef int flush(self, uint64_t lsn, int level) noexcept nogil
    # latch (may wait). Drops or recycles segments wholly below `lsn`, which nobody needs any more.
    cdef int release_below(self, uint64_t lsn) noexcept nogil
    # latch (may wait). For the background thread: prepares the next segment when the current one is past half; past a quarter
    # while nobody wants syncs, for such a load fills it faster than a disk writes.
    cdef int prepare_ahead(self) noexcept nogil
    # No latch, no other thread inside. Removes most of the segments that are kept to be used again: little more will be written.
    cdef void trim(self) noexcept nogil
    # No latch, no other thread inside. Writes nothing: flush first.
    cdef void close(self) noexcept nogil

    # private, constant after start
    cdef char* dir
    cdef uint8_t database_id[16]
    # private, under the latch
    cdef uint8_t* bufs[2]                   # one takes appends; the other is free or being written
    cdef int active
    cdef size_t cap                         # of each
    cdef size_t used                        # of the active one, group header included
    cdef size_t room                        # bound for used + ends + what is reserved: by buffer and by segment
    cdef size_t ends                        # bytes kept for ends of transactions
    cdef uint64_t group_lsn                 # of the active group
    cdef uint64_t seg_first                 # segment that the active group belongs to
    cdef uint64_t seg_end
    cdef uint8_t* names
    cdef size_t names_len
    cdef uint64_t* segs                     # first LSNs of the files there are, ascending, the next one included
    cdef size_t seg_count, seg_cap
    cdef int spares_most                    # to be kept while the log is open
    cdef uint64_t spares                    # bit n: spare-<n>.wal may be taken
    cdef uint64_t next_first                # 0: no segment is ready
    cdef int next_handle
    cdef bint writing, syncing, switching, preparing, releasing
    cdef Waiter* waiters                    # first come first
    cdef Waiter** waiters_end
    cdef int failed_errno
    cdef char failed_text[232]
    # private, by who writes (writing or switching is set, or the latch is held and neither is)
    cdef int handle
    cdef uint32_t last_crc
    cdef uint64_t prev_end                  # before start: what follow() was told
    # private methods; * (may wait)
    cdef int log_failed(self) noexcept nogil
    cdef int set_failed(self) noexcept nogil
    cdef void wait(self, int kind, uint64_t lsn) noexcept nogil
    cdef void wake(self) noexcept nogil
    cdef void claim(self) noexcept nogil
    cdef void unclaim(self) noexcept nogil
    cdef void begin_group(self, uint64_t lsn) noexcept nogil
    cdef void bound_room(self) noexcept nogil
    cdef void write_header(self, uint8_t* buf) noexcept nogil
    cdef int write_group(self, bint before_sync) noexcept nogil
    cdef int write_and_sync(self) noexcept nogil
    cdef int grow(self, size_t cap) noexcept nogil
    cdef int switch_segment(self) noexcept nogil
    cdef int prepare(self) noexcept nogil
    cdef int add_segment(self, uint64_t first) noexcept nogil
    cdef int clear_leftovers(self, Vfs vfs, uint64_t first_lsn) noexcept nogil
    cdef bint lax                           # latch: the last flush() wanted less than SYNC
    cdef bint next_unsynced                 # latch: the next segment's bytes and name were made without a sync
    cdef bint dir_pending                   # latch: so was the name of a segment in use
    cdef int pending_count                  # ended segments not yet synced, oldest first; changed by who syncs or switches
    cdef int* pending                       # MAX_PENDING of them
    cdef int flush_to(self, uint64_t lsn, int level) noexcept nogil
    cdef int sync_older(self, bint names) noexcept nogil
    cdef int switch_strictly(self, SegmentHeader* h, uint8_t* group, size_t n, int old, int new, bint new_unsynced, bint names) noexcept nogil
    cdef int switch_relaxed(self, SegmentHeader* h, uint8_t* group, size_t n, int old, int new) noexcept nogil
