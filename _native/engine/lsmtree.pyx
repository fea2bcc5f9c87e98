"""LSM-trees' objects and options: see lsmtree.pxd."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from ..base.coding cimport get32, get64, put32, put64
from ..base.status cimport OK, fail_corrupt, raise_status
from ..base.status import registered_errors
from ..index.lsm cimport LEVELED, SIZE_TIERED, LsmOptions, LsmTree
from ..index.sstable cimport COMPRESS_LZ4, COMPRESS_NONE, COMPRESS_ZSTD
from ..index.compress cimport compression_built
from ..txn.transaction cimport LSM_BACKEND, LSM_ROW, ROW_IMAGES, TxnManager, row_valid

COMPRESSIONS = {"none": COMPRESS_NONE, "lz4": COMPRESS_LZ4, "zstd": COMPRESS_ZSTD}
STYLES = {"leveled": LEVELED, "size_tiered": SIZE_TIERED}
IMAGES_NAMES = ("none", "key", "full")          # by their codes in a row
LEAST_MEMTABLE = 64 << 10
LEAST_TABLE = 64 << 10
MOST_BITS = 64
DEFAULTS = {"compaction": "leveled", "compression": "none", "bits_per_key": 10, "table_size": 64 << 20, "memtable_size": 64 << 20, "ttl": None}


cdef void options_encode(const LsmOptions* o, char* row) noexcept nogil:
    memset(row, 0, LSM_ROW)
    row[4] = LSM_BACKEND
    row[8] = <char>o.style
    row[9] = <char>o.compression
    row[10] = <char>o.bits_per_key
    put32(row + 12, <uint32_t>(o.table_size >> 10))
    put64(row + 16, o.memtable_size)
    put64(row + 24, o.ttl)


cdef LsmTree new_lsm(TxnManager m, uint32_t id, const char* options):
    cdef LsmTree tree = LsmTree(m.pool, m.vfs, m.lsm_directory + b"/%d" % id, id)
    cdef LsmOptions* o = &tree.options
    cdef int status
    o.style = <uint8_t>options[0]
    o.compression = <uint8_t>options[1]
    o.bits_per_key = <uint8_t>options[2]
    o.table_size = <uint64_t>get32(options + 4) << 10
    o.memtable_size = get64(options + 8)
    o.ttl = get64(options + 16)
    if (o.style > SIZE_TIERED or o.compression > COMPRESS_ZSTD or o.bits_per_key > MOST_BITS or o.memtable_size < LEAST_MEMTABLE
            or o.table_size < LEAST_TABLE or options[3] != 0):
        raise_status(fail_corrupt("pages.dat", -1, "the options of an LSM-tree", LSM_BACKEND, o.style))
    if not compression_built(o.compression):
        name = next(n for n, code in COMPRESSIONS.items() if code == o.compression)
        raise registered_errors()["NotSupported"](
            f"the keyspace is compressed with {name}, which this build of enginelib lacks (`enginelib info --build`): build it where the library is found")
    status = tree.start()
    if status != OK:
        raise_status(status)
    return tree


cdef bytes options_row(dict given):
    cdef LsmOptions o
    cdef char row[LSM_ROW]
    chosen = DEFAULTS | {k: v for k, v in given.items() if v is not None}
    unknown = sorted(chosen.keys() - DEFAULTS.keys())
    if unknown:
        raise TypeError(f"unknown option of an LSM keyspace: {unknown[0]!r}; there are {', '.join(sorted(DEFAULTS))}")
    if chosen["compaction"] not in STYLES:
        raise ValueError(f"compaction must be one of {sorted(STYLES)}, not {chosen['compaction']!r}")
    if chosen["compression"] not in COMPRESSIONS:
        raise ValueError(f"compression must be one of {sorted(COMPRESSIONS)}, not {chosen['compression']!r}")
    if not compression_built(COMPRESSIONS[chosen["compression"]]):
        raise registered_errors()["NotSupported"](
            f"this build of enginelib lacks {chosen['compression']} (`enginelib info --build`): install its development files and build again, "
            "or choose another compression")
    if not 0 <= chosen["bits_per_key"] <= MOST_BITS:
        raise ValueError(f"bits_per_key must be 0 (no filter) to {MOST_BITS}, not {chosen['bits_per_key']}")
    for name, least in (("table_size", LEAST_TABLE), ("memtable_size", LEAST_MEMTABLE)):
        if not least <= chosen[name] <= 1 << 40:
            raise ValueError(f"{name} must be {least} bytes to 1 TiB, not {chosen[name]}")
    if chosen["ttl"] is not None and not 0 < chosen["ttl"] < 1e11:
        raise ValueError(f"ttl must be a positive number of seconds, not {chosen['ttl']}")
    o.style = STYLES[chosen["compaction"]]
    o.compression = COMPRESSIONS[chosen["compression"]]
    o.bits_per_key = chosen["bits_per_key"]
    o.table_size = chosen["table_size"]
    o.memtable_size = chosen["memtable_size"]
    o.ttl = max(1, round(chosen["ttl"] * 1e6)) if chosen["ttl"] is not None else 0
    options_encode(&o, row)
    return row[:LSM_ROW]


cdef dict options_dict(const LsmOptions* o):
    return {"compaction": next(n for n, code in STYLES.items() if code == o.style),
            "compression": next(n for n, code in COMPRESSIONS.items() if code == o.compression),
            "bits_per_key": o.bits_per_key, "table_size": o.table_size, "memtable_size": o.memtable_size,
            "ttl": o.ttl / 1e6 if o.ttl else None}


def keyspace_options(bytes row not None):
    """(backend, options) of a keyspace, of what the catalogue says of it; ValueError when it says no such thing."""
    cdef const char* p = row
    cdef LsmOptions o
    if not row_valid(p, len(row)):
        raise ValueError("this is no row of the catalogue")
    before = {"before": IMAGES_NAMES[p[ROW_IMAGES]]} if p[ROW_IMAGES] else {}
    if p[4] != LSM_BACKEND:
        return "btree", before
    o.style, o.compression, o.bits_per_key = <uint8_t>p[8], <uint8_t>p[9], <uint8_t>p[10]
    o.table_size, o.memtable_size, o.ttl = <uint64_t>get32(p + 12) << 10, get64(p + 16), get64(p + 24)
    try:
        return "lsm", options_dict(&o) | before
    except StopIteration:
        raise ValueError("this row of the catalogue names what is not known here") from None
