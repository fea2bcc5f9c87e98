"""See store_super.pxd."""
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset
from ..base.checksum cimport crc32c
from ..base.coding cimport get32, get64, put32, put64
from .store cimport MapEntry, Superblock, SUPERBLOCK_SIZE

cdef enum:                           # on disk: never change
    AT_MAGIC = 0
    AT_VERSION = 8
    AT_PAGE_SIZE = 12
    AT_COMPAT = 16
    AT_RO = 24
    AT_INCOMPAT = 32
    AT_GENERATION = 40
    AT_CHECKPOINT = 48
    AT_COMMIT_TS = 56
    AT_TXN = 64
    AT_EPOCH = 72
    AT_KEYSPACE = 80
    AT_INCARNATION = 84
    AT_ID = 88
    AT_ROOT = 104
    AT_MAP_PAGES = 120
    AT_PID = 128
    AT_META = 136
    AT_META_LENGTH = 152
    AT_FILE_BLOCKS = 160
    AT_CRC = 4092

cdef uint64_t KNOWN_INCOMPAT = 0
cdef const char* MAGIC = b"ENGLIBdb"


cdef void put_entry(char* p, const MapEntry* e) noexcept nogil:
    put64(p, e.block)
    put32(p + 8, e.blocks)
    put32(p + 12, e.crc)


cdef void get_entry(const char* p, MapEntry* e) noexcept nogil:
    e.block = get64(p)
    e.blocks = get32(p + 8)
    e.crc = get32(p + 12)


cdef void super_encode(const Superblock* sb, char* out) noexcept nogil:
    memset(out, 0, SUPERBLOCK_SIZE)
    memcpy(out + AT_MAGIC, MAGIC, 8)
    put32(out + AT_VERSION, FORMAT_VERSION)
    put32(out + AT_PAGE_SIZE, sb.page_size)
    put64(out + AT_COMPAT, sb.feature_compat)
    put64(out + AT_RO, sb.feature_ro)
    put64(out + AT_INCOMPAT, sb.feature_incompat)
    put64(out + AT_GENERATION, sb.generation)
    put64(out + AT_CHECKPOINT, sb.checkpoint_lsn)
    put64(out + AT_COMMIT_TS, sb.next_commit_ts)
    put64(out + AT_TXN, sb.next_txn)
    put64(out + AT_EPOCH, sb.epoch)
    put32(out + AT_KEYSPACE, sb.next_keyspace)
    put32(out + AT_INCARNATION, sb.incarnation)
    memcpy(out + AT_ID, sb.database_id, 16)
    put_entry(out + AT_ROOT, &sb.map_root)
    put64(out + AT_MAP_PAGES, sb.map_pages)
    put64(out + AT_PID, sb.next_pid)
    put_entry(out + AT_META, &sb.meta)
    put64(out + AT_META_LENGTH, sb.meta_length)
    put64(out + AT_FILE_BLOCKS, sb.file_blocks)
    put32(out + AT_CRC, crc32c(0, out, AT_CRC))


cdef int super_decode(const char* data, Superblock* sb) noexcept nogil:
    memset(sb, 0, sizeof(Superblock))
    if memcmp(data + AT_MAGIC, MAGIC, 8) != 0:
        return SLOT_FOREIGN
    if get32(data + AT_CRC) != crc32c(0, data, AT_CRC):
        return SLOT_DAMAGED
    sb.generation = get64(data + AT_GENERATION)
    sb.feature_incompat = get64(data + AT_INCOMPAT)
    if get32(data + AT_VERSION) > FORMAT_VERSION or sb.feature_incompat & ~KNOWN_INCOMPAT:
        return SLOT_NEWER
    sb.page_size = get32(data + AT_PAGE_SIZE)
    sb.feature_compat = get64(data + AT_COMPAT)
    sb.feature_ro = get64(data + AT_RO)
    sb.checkpoint_lsn = get64(data + AT_CHECKPOINT)
    sb.next_commit_ts = get64(data + AT_COMMIT_TS)
    sb.next_txn = get64(data + AT_TXN)
    sb.epoch = get64(data + AT_EPOCH)
    sb.next_keyspace = get32(data + AT_KEYSPACE)
    sb.incarnation = get32(data + AT_INCARNATION)
    memcpy(sb.database_id, data + AT_ID, 16)
    get_entry(data + AT_ROOT, &sb.map_root)
    sb.map_pages = get64(data + AT_MAP_PAGES)
    sb.next_pid = get64(data + AT_PID)
    get_entry(data + AT_META, &sb.meta)
    sb.meta_length = get64(data + AT_META_LENGTH)
    sb.file_blocks = get64(data + AT_FILE_BLOCKS)
    return SLOT_VALID
