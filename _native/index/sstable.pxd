"""Sorted tables: immutable files of entries in the order (key ascending, commit timestamp descending), as an LSM-tree keeps them.

A table is written once by a TableWriter (`sstwrite`), from one thread without the engine latch; opened once; read in two ways: point look-ups and cursors under the
engine latch through frames of the buffer pool (here), and from end to end without the latch, with buffers of its own, by compaction (`sstscan`).

Data blocks are numbered in file order, the partitions of a large index after them.  `frame_of[number]` leads to the frame that holds a block, as the pool's own index
does for pages; so the cache of blocks and that of pages are one, under one budget and one clock.  A value too large for a block is never cached: it is read
into memory that the operation's BlockNeed owns.

Guards: everything but `refs` and `frame_of` is constant after table_open; these are under the latch.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from ..base.vfs cimport Vfs
from ..page.pool cimport Pool, PoolCore, Frame
from .block cimport BlockPlace

cdef enum EntryKind:               # on disk: never change
    ENTRY_PUT = 0
    ENTRY_DELETE = 1               # a tombstone: no value

cdef enum Compression:             # on disk: never change
    COMPRESS_NONE = 0
    COMPRESS_LZ4 = 1
    COMPRESS_ZSTD = 2

cdef struct Entry:
    const char* key
    const char* value
    uint32_t klen
    uint32_t vlen
    uint64_t ts                    # commit timestamp, at least 1
    uint64_t wall                  # the commit's wall clock in microseconds; 0: not kept (keyspaces without expiry)
    uint8_t kind
    uint32_t far_bytes             # not 0: the value lies by itself in the table's file, of so many stored bytes, and `value` is NULL: see table_value
    uint64_t far_offset

cdef struct RangeTombstone:        # deletes every older version of every key in [start, stop)
    char* start
    char* stop                     # NULL: no upper end
    uint32_t start_len
    uint32_t stop_len
    uint64_t ts

cdef struct TableInfo:             # properties, as stored in the file and given back by the writer
    uint64_t entries               # versions, tombstones included
    uint64_t tombstones
    uint64_t range_tombstones
    uint64_t oldest_ts             # of entries and range tombstones; 0 in a table of none
    uint64_t newest_ts
    uint64_t oldest_wall           # of entries that have one; 0: none has
    uint64_t newest_wall
    uint64_t raw_bytes             # of keys and values
    uint64_t file_bytes
    uint32_t blocks                # data blocks
    uint8_t compression
    char* smallest                 # least key of entries and starts of range tombstones; owned
    char* largest                  # greatest key of entries and (inclusive, treated as a key) stops of range tombstones; owned
    uint32_t smallest_len
    uint32_t largest_len
    uint8_t unbounded              # a range tombstone without upper end: `largest` is no bound

cdef struct Table:
    uint64_t number                # of its file
    int handle
    char* path
    TableInfo info
    uint32_t block_count           # all kinds of blocks that frame_of may hold
    uint32_t* frame_of             # block -> frame number + 1, 0 = not here
    RangeTombstone* ranges         # in order of start
    uint8_t* filter                # Bloom filter, or NULL
    uint32_t filter_lines
    uint32_t filter_probes
    char* range_bytes              # what `ranges` points into
    char* index                    # top of the index
    uint32_t partitions            # of the index: blocks number info.blocks and up; 0: the top leads to data blocks itself
    uint64_t base_ts
    uint64_t data_end              # where data blocks and values end in the file
    uint64_t keys
    uint32_t block_size            # of its writer's pool
    uint64_t memory                # bytes that the open table takes outside the pool
    int64_t refs                   # its file's, and of loads under way: with more than the one it is not closed
    Table* next_dead               # for the owner: list of those to close and unlink

cdef struct BlockNeed:             # a block that is lacking, and what was fetched for the operation under way
    Table* table                   # in this latch hold; in a later one, only while core.tables_gone is still:
    uint64_t tables_gone
    uint32_t block
    int pinned
    Frame* pins[64]
    uint64_t far_offset            # a value by itself: where it is in the file; 0 bytes: a block is lacking
    uint32_t far_bytes             # as stored
    uint32_t far_length            # as it was put
    char* big                      # such a value, fetched and checked; malloc'd
    uint64_t big_number            # of the file it is from: an operation looks in one tree, which gives no number twice
    uint64_t big_offset

cdef void block_need_init(BlockNeed* n) noexcept nogil
# latch (released meanwhile). Fetches what is lacking, with a reference to its table while it reads; nothing, if that table may be gone. OK: start again.
# E_CORRUPT, E_IO, E_NOMEM.
cdef int block_need_secure(Pool pool, Vfs vfs, BlockNeed* n) noexcept nogil
# latch. Unpins: what was fetched has done its service. What was noted as lacking stays noted.
cdef void block_need_unpin(Pool pool, BlockNeed* n) noexcept nogil
# latch. Unpins, frees `big`.
cdef void block_need_release(Pool pool, BlockNeed* n) noexcept nogil

# --- opening and closing; no latch
# Reads footer, properties, index, filter and range tombstones; everything checked (sums, bounds, order). *out has refs = 1. E_CORRUPT names path, offset, expected, found.
cdef int table_open(Vfs vfs, const char* path, uint64_t number, Table** out) noexcept nogil
# After table_forget: closes the file, frees everything.
cdef void table_close(Vfs vfs, Table* t) noexcept nogil
# latch, refs 1. Gives all its frames back to the pool, and lets those know who have noted that they lack a block of it.
cdef void table_forget(Pool pool, Table* t) noexcept nogil

# --- reading; latch
cdef uint64_t table_hash(const char* key, size_t klen) noexcept nogil            # for the filter; compute it once for all tables
cdef bint table_may_hold(const Table* t, uint64_t hash) noexcept nogil           # the Bloom filter; True when the table has none
# The newest version with ts <= snapshot: OK (entry points into a frame or need.big: good in this latch hold), ABSENT, AGAIN (noted in need), E_CORRUPT.
# Range tombstones are not applied. The filter is not asked.
cdef int table_find(Table* t, PoolCore* core, const char* key, size_t klen, uint64_t snapshot, Entry* out, BlockNeed* need) noexcept nogil
# The value of an entry of the table that was found or is shown, if it lies by itself: OK, AGAIN (noted in need), E_CORRUPT.
cdef int table_value(Table* t, PoolCore* core, Entry* e, BlockNeed* need) noexcept nogil
# Asks memory for what table_find will touch first (index, then frame).
cdef void table_prefetch(const Table* t, PoolCore* core, const char* key, size_t klen) noexcept nogil
# The newest range tombstone that covers the key with ts <= snapshot: its ts, or 0.
cdef uint64_t table_covering(const Table* t, const char* key, size_t klen, uint64_t snapshot) noexcept nogil

cdef struct TableCursor:           # every version in order, both directions; good in one latch hold, found again by key in the next
    Table* table
    uint32_t block                 # data block, in order of keys
    const char* data               # its frame's page
    BlockPlace place               # of the present entry
    Entry entry                    # key points to `keybuf`
    char* keybuf                   # given by the owner: room for the longest key

# Positions at the first version of the first key >= / > the key, or at the LAST version (in table order) of the last key <= / < it (modes: SEEK_* of `place`; key NULL with
# SEEK_GE / SEEK_LE: the very first / very last). OK, ABSENT (none), AGAIN, E_CORRUPT.
cdef int table_seek(TableCursor* c, Table* t, PoolCore* core, const char* key, size_t klen, int mode, BlockNeed* need) noexcept nogil
# The next / previous version in table order. OK, ABSENT, AGAIN (position unchanged, call again in a later hold after a seek), E_CORRUPT.
cdef int table_next(TableCursor* c, PoolCore* core, BlockNeed* need) noexcept nogil
cdef int table_prev(TableCursor* c, PoolCore* core, BlockNeed* need) noexcept nogil
