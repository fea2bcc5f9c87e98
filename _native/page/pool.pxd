"""The buffer pool: frames of one arena, found by pid through an array, evicted by CLOCK.

Everything here is under the engine latch unless said otherwise; `load`, `make_free` and `write_frozen` release it while they do I/O.
A frame that is dirty and belongs to an image being checkpointed is *frozen*: nobody changes it; who wants to, takes a clone (writable()).
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from ..base.latch cimport Latch, Condition
from .store cimport MapEntry, PageStore

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t

cdef enum FrameState:
    FRAME_FREE = 0
    FRAME_LOADING = 1
    FRAME_READY = 2
    FRAME_WRITING = 3        # being evicted: readable, not to be changed in place (clone), becomes clean or free
    FRAME_DETACHED = 4       # a frozen image whose page has been cloned: owned by the checkpoint
    FRAME_BLOCK = 5          # a block of another file (a sorted table's): `older` is the address of the uint32_t that leads to it

cdef struct Frame:
    char* page               # page_size bytes in the arena
    uint64_t pid
    uint64_t mark            # LSN of its newest change; for a page loaded while versions live, the log's end at that moment
    uint32_t gen             # generation whose image the dirty content belongs to
    uint16_t pins
    uint8_t state
    uint8_t dirty
    uint8_t ref              # CLOCK
    uint8_t frozen           # dirty content belongs to an image being written
    uint8_t twin             # an older frame of the same pid is still to be written or being written: not evictable before it
    uint8_t busy             # a thread without the latch is reading or writing this frame's content on disk
    Frame* older             # that older frame
    Frame* newer             # the reverse

cdef struct PoolCore:        # what hot paths touch; one per pool, address constant
    Frame* frames
    uint32_t* frame_of       # pid -> frame number + 1, 0 = not here
    uint64_t pids            # length of frame_of
    uint32_t page_size
    uint64_t pages_gone      # pages that were freed: who found one missing in an earlier latch hold looks whether it may be among them
    uint64_t tables_gone     # sorted tables that were closed: who has noted one in an earlier latch hold looks whether it is the same

cdef inline Frame* pool_find(PoolCore* p, uint64_t pid) noexcept nogil:
    """The frame holding pid, ready to be read, or NULL."""
    cdef Frame* f
    cdef uint32_t n
    if pid >= p.pids:
        return NULL
    n = p.frame_of[pid]
    if n == 0:
        return NULL
    f = &p.frames[n - 1]
    if f.state == FRAME_LOADING:
        return NULL
    f.ref = 1
    return f

cdef enum:
    MAX_HELPERS = 3

cdef struct Want:            # a page of a fetch
    Frame* frame             # LOADING, pinned; NULL when it could not be had
    MapEntry run
    int status

cdef enum FetchState:
    FETCH_EMPTY = 0
    FETCH_GATHERING = 1
    FETCH_UNDER_WAY = 2
    FETCH_DONE = 3

cdef struct Fetch:           # pages on their way in together (fetch.pxd); zeroed before its first use
    Want* wants              # by place in the file, once it is under way
    uint64_t count
    uint64_t room
    uint64_t token           # of the store's readers
    FetchState state
    # under the crew's latch
    Fetch* next
    uint64_t claimed
    uint64_t read

cdef struct Crew:            # who reads for fetches
    size_t span              # bytes read with one call at most: what each thread has room for
    char* scratch            # of the thread that makes them
    Fetch* gathering         # being made
    int most                 # helpers there may be
    int helpers
    pthread_t threads[MAX_HELPERS]
    Latch latch              # guards what follows
    Fetch* first             # under way, the newest first
    bint stop
    Condition more
    Condition read

cdef class Pool:
    cdef PoolCore core
    cdef PageStore store
    cdef Latch* latch
    cdef uint64_t* log_end               # address of the current log end, for the mark of loaded pages
    cdef uint64_t* live_versions         # address of the count of live versions: 0 -> loaded pages get mark 0
    cdef readonly uint64_t frame_count
    cdef readonly uint64_t hits_unused   # reserved
    cdef readonly uint64_t loads
    cdef readonly uint64_t evictions
    cdef readonly uint64_t dirty_count   # frames whose content is not on disk, frozen and detached ones included
    cdef readonly uint64_t dirty_cap     # admit lets no more become dirty than this: rollback on a full disk needs clean frames to evict
    cdef readonly uint64_t frozen_count
    cdef readonly bint volatile_only     # dirty frames are never written nor evicted; the arena grows instead (read-only opening)
    cdef public int rolling_back         # while not 0 (latch), admit and make_free let rollback pass the dirty cap
    # under the latch
    cdef uint32_t* free_frames           # stack of frame numbers
    cdef uint64_t free_count
    cdef uint64_t max_frames             # room in core.frames and free_frames
    cdef uint64_t hand                   # of the clock
    cdef uint64_t in_flight              # frames being loaded or written by threads without the latch
    cdef uint64_t waiting                # threads in make_free or load
    cdef uint64_t progress               # counts whatever may help those who wait
    cdef Condition moved
    cdef Crew* crew                      # NULL but during recovery
    cdef size_t batch_bytes              # packed content written with one call at most
    cdef char* chunks[64]                # the arena
    cdef size_t chunk_sizes[64]
    cdef int chunk_count

    # Before anything else (GIL held). log_end and live_versions may be NULL: loaded pages then get mark 0. E_NOMEM.
    cdef int init(self, PageStore store, Latch* latch, uint64_t cache_bytes, uint64_t* log_end, uint64_t* live_versions, bint volatile_only)
    # No thread is in the pool any more. Frees the arena.
    cdef void close(self) noexcept nogil

    # Admission: OK when `frames` free frames are at hand (they stay so until the latch is released), else AGAIN (then make_free); E_NOMEM.
    # Covers the room in frame_of for as many new pages as one reserve_pids may ask for.
    cdef int admit(self, int frames) noexcept nogil
    # The same for rollback: the dirty cap does not count (then make_free_rollback).
    cdef int admit_rollback(self, int frames) noexcept nogil
    # (releases the latch) Evicts until n frames are free and may become dirty; writes dirty ones out in batches. E_FULL, E_IO, E_NOMEM (too much pinned).
    cdef int make_free(self, int n) noexcept nogil
    cdef int make_free_rollback(self, int n) noexcept nogil
    # (releases the latch) Brings pid in and pins it. Also when another thread is loading it. E_CORRUPT, E_IO. The page has passed layout_check.
    # gone: core.pages_gone when it was found missing, or all ones: then that does not matter. When the pid was freed since: OK and a detached frame (of no meaning: start again from the root, as after any load; then unpin).
    cdef int load(self, uint64_t pid, uint64_t gone, Frame** out) noexcept nogil
    # After admit(1): the frame of f's page to be changed in place: f itself, marked dirty, or a clone when f is frozen or being written.
    cdef Frame* writable(self, Frame* f) noexcept nogil
    # After admit(1) and store.reserve_pids(1): a new dirty zeroed page.
    cdef Frame* new_page(self) noexcept nogil
    # After admit_rollback(1): a frame for a block of another file, pinned; its owner fills it and then sets slot[0] to the frame's number + 1, which eviction clears.
    cdef Frame* block_frame(self) noexcept nogil
    cdef void block_ready(self, Frame* f, uint32_t* slot) noexcept nogil
    # Gives such a frame back: it failed to load, or its file is going.
    cdef void block_drop(self, Frame* f) noexcept nogil
    # For who has the pool to himself: the pages of the arena's last n frames, which lie side by side, from the first on. NULL: some are in use.
    cdef Frame* lend(self, uint64_t n) noexcept nogil
    cdef void take_back(self, Frame* first, uint64_t n) noexcept nogil
    # Forgets the page of f, and frees its pid.
    cdef void drop_page(self, Frame* f) noexcept nogil
    cdef void forget(self, uint64_t pid) noexcept nogil   # frees pid, resident or not
    cdef void pin(self, Frame* f) noexcept nogil
    cdef void unpin(self, Frame* f) noexcept nogil

    # Checkpoint: freeze marks all dirty frames frozen for image `generation` (call store.freeze in the same latch hold);
    cdef int freeze(self, uint32_t generation) noexcept nogil
    # (releases the latch) writes all frozen frames, sorted by pid, in batches through store.write_pages. When it fails the frames are plain dirty
    # again: call store.abandon(generation) and start a new checkpoint later.
    cdef int write_frozen(self, uint32_t generation) noexcept nogil

    # --- for this module
    cdef int add_chunk(self, uint64_t frames) noexcept nogil
    cdef int grow_index(self, uint64_t pids) noexcept nogil
    cdef Frame* pop_free(self) noexcept nogil
    cdef void push_free(self, Frame* f) noexcept nogil
    cdef void unindex(self, Frame* f) noexcept nogil
    cdef void unlink(self, Frame* f) noexcept nogil
    cdef void clean(self, Frame* f) noexcept nogil
    cdef void let_go(self, Frame* f) noexcept nogil
    cdef void evict(self, Frame* f) noexcept nogil
    cdef void moved_on(self) noexcept nogil
    cdef bint enough(self, uint64_t n, bint capped) noexcept nogil
    cdef int find_free(self, uint64_t n, bint capped) noexcept nogil
    cdef int sweep(self, uint64_t n, bint capped, Frame** batch, int room) noexcept nogil
    cdef int gather_frozen(self, Frame** batch, int room) noexcept nogil
    cdef int write_batch(self, Frame** batch, int count, bint evicting) noexcept nogil
    cdef int wait_moved(self, int64_t micros) noexcept nogil
    cdef void thaw(self) noexcept nogil
    cdef int read_into(self, uint64_t pid, char* page) noexcept nogil

# Latch held, or no other thread: the index, the free frames, the chains and the counts agree. A list of what is wrong.
cdef object pool_check(Pool pool)
