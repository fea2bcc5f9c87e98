"""The copy-on-write page file: page map, free space, superblocks.

Blocks are BLOCK bytes.  A page (or large value) lies in a run of blocks; the map tells for each pid (block, blocks, CRC).  Nothing that a durable
superblock names is ever overwritten (law 3).  Generations: the store's `generation` counts checkpoints; blocks written in generation g are part of
image g and later until replaced.  A block replaced in generation g that an image g-1 or older may name is free once superblock g is durable and no
reader pins an older one; a block both written and replaced within one generation is free at once (unless an unlatched read is under way).

Order of use: construct, `init`, then `create` or `open`.  See README.md for the rules of generations, deferral and locking.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from ..base.idmap cimport IdMap
from ..base.latch cimport Latch, Condition
from ..base.vfs cimport Vfs
from .space cimport Space

cdef enum:
    BLOCK = 512
    MEMORY_HEAD = 8             # before a large value in `memory`: its length
    SUPERBLOCK_SIZE = 4096           # two of them, at 0 and 4096; data from block 16 on

cdef struct MapEntry:                # on disk: 16 bytes, little-endian
    uint64_t block                   # 0 = no such page
    uint32_t blocks
    uint32_t crc                     # CRC-32C of blocks * BLOCK bytes

cdef struct Superblock:
    uint32_t page_size
    uint64_t generation
    uint64_t checkpoint_lsn          # replay starts here
    uint64_t next_commit_ts
    uint64_t next_txn
    uint32_t next_keyspace
    uint32_t incarnation
    uint64_t epoch
    uint8_t database_id[16]
    uint64_t feature_compat
    uint64_t feature_ro
    uint64_t feature_incompat
    MapEntry map_root                # the map directory
    uint64_t map_pages
    uint64_t next_pid
    MapEntry meta                    # the checkpoint's own record: tree roots, undo of transactions in flight, orphan blobs
    uint64_t meta_length
    uint64_t file_blocks

cdef enum:
    MAP_FANOUT = 256                 # entries of a map page
    MAP_BLOCKS = 8                   # its blocks
    MAX_IMAGE_PINS = 64
    MAX_RESERVE = 4096               # pids that one reserve_pids may ask for

cdef enum:                           # flags of a map page
    CHANGED = 1                      # differs from what the image (or, without one, the durable file) has
    IMAGED = 2                       # the image's differs from the durable one

cdef enum:
    BORN_FREE = 0x80000000           # in `born`: the pid is free

cdef enum SpaceState:
    SPACE_UNKNOWN = 0                # the bitmap is built by the first allocation
    SPACE_BUILDING = 1
    SPACE_READY = 2

cdef struct Deferred:                # a run that images in [born, tag) may name
    uint64_t block
    uint32_t blocks
    uint32_t born
    uint32_t tag

cdef struct Retired:                 # waits for unlatched reads and writes that were under way
    uint64_t pid                     # 0: the run only; else the pid, which may then be given out again, and where it last lay
    MapEntry run

cdef struct Pending:                 # a freed pid whose map page is not in memory
    uint64_t pid
    uint32_t generation

cdef struct List:                    # of any of these
    char* items
    size_t count
    size_t capacity

cdef struct ImagePin:
    uint32_t count
    Superblock sb

cdef bint push(List* list, const void* item, size_t size) noexcept nogil

cdef inline bint same_run(const MapEntry* a, const MapEntry* b) noexcept nogil:
    return a.block == b.block and a.blocks == b.blocks and a.crc == b.crc

cdef inline uint64_t blocks_for(uint64_t n) noexcept nogil:
    """Blocks that n bytes take."""
    return n // BLOCK + (n % BLOCK != 0)

cdef class PageStore:
    # constant after opening
    cdef Vfs vfs
    cdef Latch* latch                # the engine latch
    cdef readonly uint32_t page_size
    cdef readonly bint read_only
    cdef int handle
    cdef char path[512]
    cdef uint64_t file_limit         # blocks of the file when it was opened: nothing read from it may lie beyond
    cdef uint64_t opened_next_pid
    # under the latch
    cdef Superblock sb               # the durable one (constant between checkpoints)
    cdef readonly uint32_t generation   # current (not yet durable) generation, starts at sb.generation + 1
    cdef readonly uint64_t next_pid
    cdef readonly int failed         # a sync or superblock write has failed: final (law 7)
    cdef int slot                    # where the durable superblock stands
    cdef MapEntry** pages            # map pages, NULL until read
    cdef uint32_t** born             # per pid: generation of its newest run, or BORN_FREE | generation in which it was freed
    cdef MapEntry** copies           # the image's map pages where the current ones have changed since the freeze
    cdef MapEntry* dir               # where the durable map pages lie
    cdef uint32_t* dir_born
    cdef uint8_t* flags              # per map page: changed in the current generation, in the image
    cdef uint64_t map_count          # map pages known
    cdef uint64_t map_capacity
    cdef uint32_t root_born
    cdef uint32_t meta_born
    cdef readonly uint32_t image     # the frozen image under way, 0 = none
    cdef uint64_t image_next_pid
    cdef int space_state
    cdef Space space
    cdef uint64_t inflight           # blocks allocated, not yet named
    cdef MapEntry spare              # a run with room on the medium that nothing names: the last resort of rollbacks on a full disk; no blocks: none
    cdef bint sparing                # a thread is getting it
    cdef uint64_t moves              # times that a run was taken, named or let go of
    cdef uint64_t turnover           # pids given out and taken back, ever
    cdef bint trimming
    cdef Condition changed           # space_state, trimming
    cdef List free_pids              # uint64_t
    cdef List later_pids             # uint64_t: reusable when the image under way has ended
    cdef List pending                # Pending
    cdef List deferred               # Deferred
    cdef List retired[3]             # Retired, by epoch
    cdef uint64_t epoch
    cdef uint64_t readers[3]
    cdef uint64_t outside_readers
    cdef uint64_t outside_epoch
    cdef ImagePin pins[MAX_IMAGE_PINS]
    cdef uint64_t foreign
    cdef IdMap* memory                # large values that a read-only opening replayed: pid -> length and bytes; NULL when it may write

    cdef void init(self, Vfs vfs, Latch* latch) noexcept                 # GIL held; before anything else

    # --- opening; no latch needed
    cdef int create(self, const char* path, uint32_t page_size, const uint8_t* database_id) noexcept nogil
    cdef int open(self, const char* path, bint read_only) noexcept nogil
    cdef int read_meta(self, char** data, size_t* n) noexcept nogil      # malloc'd copy of the checkpoint's meta, checked
    cdef void close(self) noexcept nogil

    # --- pids; latch. A freed pid is given out again only when nothing unlatched and no image under way can still concern it.
    cdef int reserve_pids(self, int n) noexcept nogil                    # OK or E_NOMEM: room in the map for n <= MAX_RESERVE more
    cdef uint64_t alloc_pid(self) noexcept nogil                         # after reserve_pids; entry empty
    cdef void free_pid(self, uint64_t pid) noexcept nogil                # frees its blocks by the rule above
    cdef bint pid_exists(self, uint64_t pid) noexcept nogil              # has a run; assumed while its map page is not in memory
    cdef uint32_t pid_history(self, uint64_t pid) noexcept nogil         # changes whenever pid is freed, given out or written
    cdef bint pid_is_free(self, uint64_t pid) noexcept nogil             # known to be free (or never given out)

    # --- page input and output: latch NOT held; the caller has made sure that nobody else reads or writes this pid meanwhile
    # Reads the whole run of pid into buf (at least blocks*BLOCK <= cap), checks the CRC; *n = bytes. E_CORRUPT names file and offset.
    cdef int read_page(self, uint64_t pid, char* buf, size_t cap, size_t* n) noexcept nogil
    # Writes data (n rounded up to BLOCK; the caller zero-pads) to newly allocated blocks as part of image `generation`; E_FULL leaves all as before.
    cdef int write_page(self, uint64_t pid, const char* data, size_t n, uint32_t generation) noexcept nogil
    # Many pages in file order with few calls: `pids[i]` has image[i] of lengths[i] bytes (each a multiple of BLOCK).
    cdef int write_pages(self, const uint64_t* pids, char** images, const size_t* lengths, int count, uint32_t generation) noexcept nogil
    # No latch. Before dirty pages are evicted: makes sure of the spare run, of about so many bytes. E_FULL: there is no room for it, so none for pages either.
    cdef int keep_spare(self, size_t bytes) noexcept nogil
    # latch. Its blocks become free space: pages that a rollback displaces are written there, and those written before in this generation free as much again.
    cdef void use_spare(self) noexcept nogil
    # Large values: allocate a run for pid, write it in pieces, finish with the CRC of the whole (zero-padded to BLOCK). No latch.
    cdef int blob_begin(self, uint64_t pid, uint64_t length, uint64_t* block) noexcept nogil
    cdef int blob_write(self, uint64_t block, uint64_t offset, const char* data, size_t n) noexcept nogil
    cdef int blob_finish(self, uint64_t pid, uint64_t block, uint64_t length, uint32_t crc) noexcept nogil
    cdef int blob_abandon(self, uint64_t block, uint64_t length) noexcept nogil
    # Unlatched reads of blobs are bracketed by these (latch held): blocks freed meanwhile are reused only after the last reader has left.
    cdef void reader_enter(self) noexcept nogil
    cdef void reader_leave(self) noexcept nogil
    cdef int read_blob(self, uint64_t pid, uint64_t length, char* out) noexcept nogil     # no latch; pid pinned by reader_enter
    # The same with a token: many short brackets that overlap for ever hold up nothing.
    cdef uint64_t reader_begin(self) noexcept nogil
    cdef void reader_end(self, uint64_t token) noexcept nogil

    # --- checkpoints
    # latch. Ends the generation: image `generation` is now fixed but for the frozen pages still to be written (with write_pages(..., that generation)).
    cdef int freeze(self, uint32_t* image) noexcept nogil
    # no latch. Writes meta, changed map pages and directory of the image, syncs, writes the superblock, syncs; then frees (under the latch) what no one needs.
    cdef int publish(self, uint32_t image, const Superblock* fields, const char* meta, size_t n) noexcept nogil
    # latch. The image will not be published: what was written for it becomes part of the current generation. After a failed write_frozen or publish.
    cdef void abandon(self, uint32_t image) noexcept nogil
    # no latch, between checkpoints (does nothing during one). Copies up to `budget` bytes of pages from the tail of the file to free low blocks (as part of the current generation). *moved = bytes.
    cdef int compact(self, uint64_t budget, uint64_t* moved) noexcept nogil
    # no latch. Cuts free blocks off the end of the file.
    cdef int trim(self) noexcept nogil
    # latch. Pins the durable image (online backup): its blocks are not reused until unpinned. Returns its generation; 0 = too many pins.
    cdef uint64_t pin_image(self) noexcept nogil
    cdef void unpin_image(self, uint64_t generation) noexcept nogil
    # For readers in other processes: `oldest` generation that any of them reads (set by the engine after testing LOCK bytes); 0 = none
    cdef void set_foreign_pin(self, uint64_t oldest) noexcept nogil
    # no latch. Copies the image that pin_image pinned as `generation` to a new file, superblocks and all, and syncs it.
    cdef int copy_image(self, uint64_t generation, Vfs other, const char* path) noexcept nogil
    # latch. used = file size while the free space is not yet known.
    cdef void renamed(self, const char* path) noexcept nogil                                # the file has another name from now on
    cdef void usage(self, uint64_t* file_blocks, uint64_t* used_blocks, uint64_t* free_blocks, uint64_t* pids) noexcept nogil

    # --- for this module
    cdef bint within(self, const MapEntry* e) noexcept nogil
    cdef int read_run(self, const MapEntry* e, char* buf, const char* what) noexcept nogil
    cdef int grow_map(self, uint64_t count) noexcept nogil
    cdef int load_map_page(self, uint64_t mp) noexcept nogil
    cdef int load_map(self) noexcept nogil
    cdef int ensure_space(self) noexcept nogil
    cdef int take(self, uint64_t n, uint64_t* block) noexcept nogil
    cdef void give_back(self, uint64_t block, uint64_t n) noexcept nogil
    cdef int own_copy(self, uint64_t mp) noexcept nogil
    cdef int prepare_landing(self, uint64_t pid, uint32_t generation) noexcept nogil
    cdef void land(self, uint64_t pid, const MapEntry* e, uint32_t generation) noexcept nogil
    cdef uint32_t effective(self, uint32_t generation) noexcept nogil
    cdef void free_entry(self, uint64_t pid, uint32_t generation) noexcept nogil
    cdef int drain(self) noexcept nogil
    cdef void release_run(self, const MapEntry* e, uint32_t born, uint32_t tag) noexcept nogil
    cdef void retire(self, uint64_t pid, const MapEntry* run) noexcept nogil
    cdef void apply_retired(self, const Retired* r) noexcept nogil
    cdef void advance(self) noexcept nogil
    cdef void release_deferred(self) noexcept nogil
    cdef void reuse_later_pids(self) noexcept nogil
    cdef int locate(self, uint64_t pid, MapEntry* e, uint64_t* token) noexcept nogil

# GIL held, latch not held: every live pid has a run with a good CRC (one never written yet is skipped), every pid in the map is live, no runs overlap, the
# counts agree. Appends {"file", "offset", "what"} to findings; to doubts what is one only if no pid was given out, taken back or linked since live_pids
# was gathered (`turnover` tells of the first two). Overlaps and counts are left out when runs moved meanwhile.
cdef object store_check(PageStore store, set live_pids, list findings, list doubts)
