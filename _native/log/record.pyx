"""The table of record types, and the encoder, decoder and printer that follow from it."""
from libc.string cimport memcpy, memset
from libc.stdlib cimport malloc, free
from ..base.coding cimport put_varint, get_varint

# (name, code, fields): the one table. On disk: never change a row; new types take new codes.
ROWS = (
    ("put", R_PUT, F_TXN | F_KEYSPACE | F_KEY | F_VALUE),
    ("delete", R_DELETE, F_TXN | F_KEYSPACE | F_KEY),
    ("commit", R_COMMIT, F_TXN | F_A | F_B),
    ("abort", R_ABORT, F_TXN),
    ("rollback", R_ROLLBACK, F_TXN | F_A),
    ("chunk", R_CHUNK, F_TXN | F_A | F_B | F_VALUE),
    ("put_blob", R_PUT_BLOB, F_TXN | F_KEYSPACE | F_A | F_B | F_KEY),
    ("name", R_NAME, F_KEYSPACE | F_KEY | F_VALUE),
    ("end", R_END, F_A),
    ("checkpoint", R_CHECKPOINT, F_A | F_B),
    ("edit", R_EDIT, F_TXN | F_KEYSPACE | F_VALUE),
    ("delete_range", R_DELETE_RANGE, F_TXN | F_KEYSPACE | F_A | F_KEY | F_VALUE),
    ("call", R_CALL, F_TXN | F_A | F_B | F_KEY | F_VALUE),
    ("tag", R_TAG, F_TXN | F_A | F_VALUE),
    ("running", R_RUNNING, F_A),
    ("prepare", R_PREPARE, F_TXN | F_A | F_B | F_KEY),
    ("before", R_BEFORE, F_TXN | F_KEYSPACE | F_A | F_B | F_VALUE),
)
# What `a` and `b` mean to people, per type.
MEANING = {
    "commit": ("commit_ts", "wall_micros"),
    "rollback": ("to_lsn", None),
    "chunk": ("blob", "length"),
    "put_blob": ("blob", "length"),
    "end": ("next_lsn", None),
    "checkpoint": ("generation", "checkpoint_lsn"),
    "delete_range": ("unbounded", None),
    "call": ("wall_micros", "seed"),
    "tag": ("tag", None),
    "running": ("next_txn", None),
    "prepare": ("wall_micros", "isolation"),
    "before": ("image", "length"),
}
FIELD_NAMES = ((F_TXN, "txn"), (F_KEYSPACE, "keyspace"), (F_A, "a"), (F_B, "b"), (F_KEY, "key"), (F_VALUE, "value"))

cdef uint8_t FIELDS[R_TYPES]         # constant after import: code -> set of fields, 0 for no type
memset(FIELDS, 0, sizeof(FIELDS))
for _name, _code, _fields in ROWS:
    FIELDS[<int>_code] = <uint8_t>_fields
BY_NAME = {_name: _code for _name, _code, _ in ROWS}
BY_CODE = {_code: _name for _name, _code, _ in ROWS}


cdef size_t record_encode(uint8_t* out, const Record* r) noexcept nogil:
    cdef uint8_t fields = FIELDS[r.type]
    cdef uint8_t* p = out
    p[0] = r.type
    p += 1
    if fields & F_TXN:
        p = put_varint(p, r.txn)
    if fields & F_KEYSPACE:
        p = put_varint(p, r.keyspace)
    if fields & F_A:
        p = put_varint(p, r.a)
    if fields & F_B:
        p = put_varint(p, r.b)
    if fields & F_KEY:
        p = put_varint(p, r.klen)
    if fields & F_VALUE:
        p = put_varint(p, r.vlen)
    if fields & F_KEY:
        memcpy(p, r.key, r.klen)
        p += r.klen
    if fields & F_VALUE:
        memcpy(p, r.value, r.vlen)
        p += r.vlen
    return p - out


cdef const uint8_t* record_decode(const uint8_t* p, const uint8_t* end, Record* r) noexcept nogil:
    cdef uint8_t fields
    cdef uint64_t v
    if p >= end or p[0] >= R_TYPES or FIELDS[p[0]] == 0:
        return NULL
    fields = FIELDS[p[0]]
    memset(r, 0, sizeof(Record))
    r.type = p[0]
    p += 1
    if fields & F_TXN:
        p = get_varint(p, end, &r.txn)
        if p == NULL:
            return NULL
    if fields & F_KEYSPACE:
        p = get_varint(p, end, &v)
        if p == NULL or v > <uint64_t>0xFFFFFFFF:
            return NULL
        r.keyspace = <uint32_t>v
    if fields & F_A:
        p = get_varint(p, end, &r.a)
        if p == NULL:
            return NULL
    if fields & F_B:
        p = get_varint(p, end, &r.b)
        if p == NULL:
            return NULL
    if fields & F_KEY:
        p = get_varint(p, end, &v)
        if p == NULL:
            return NULL
        r.klen = v
    if fields & F_VALUE:
        p = get_varint(p, end, &v)
        if p == NULL:
            return NULL
        r.vlen = v
    if fields & F_KEY:
        if r.klen > <size_t>(end - p):
            return NULL
        r.key = <const char*>p
        p += r.klen
    if fields & F_VALUE:
        if r.vlen > <size_t>(end - p):
            return NULL
        r.value = <const char*>p
        p += r.vlen
    return p


cdef tuple record_tuple(const Record* r):
    cdef uint8_t f = FIELDS[r.type]
    return (
        r.lsn,
        BY_CODE[r.type],
        r.txn if f & F_TXN else None,
        r.keyspace if f & F_KEYSPACE else None,
        r.a if f & F_A else None,
        r.b if f & F_B else None,
        r.key[:r.klen] if f & F_KEY else None,
        r.value[:r.vlen] if f & F_VALUE else None,
    )


def encode(str name not None, *, unsigned long long txn=0, unsigned int keyspace=0, unsigned long long a=0,
           unsigned long long b=0, bytes key not None=b"", bytes value not None=b"") -> bytes:
    """The bytes of one record; fields that its type does not have are ignored."""
    cdef Record r
    r.type = BY_NAME[name]
    r.lsn = 0
    r.txn, r.keyspace, r.a, r.b = txn, keyspace, a, b
    r.key, r.klen = key, len(key)
    r.value, r.vlen = value, len(value)
    cdef uint8_t* out = <uint8_t*>malloc(RECORD_OVERHEAD + r.klen + r.vlen)
    if out == NULL:
        raise MemoryError
    cdef size_t n = record_encode(out, &r)
    try:
        return (<char*>out)[:n]
    finally:
        free(out)


def decode(bytes data not None, unsigned long long lsn=0) -> list:
    """Every record in `data` as (lsn, name, txn, keyspace, a, b, key, value); ValueError when it is not whole records."""
    cdef Record r
    cdef const uint8_t* first = <const uint8_t*><const char*>data
    cdef const uint8_t* end = first + len(data)
    cdef const uint8_t* p = first
    cdef const uint8_t* after
    records = []
    while p < end:
        after = record_decode(p, end, &r)
        if after == NULL:
            raise ValueError(f"no record at byte {p - first} of {len(data)}")
        r.lsn = lsn + <uint64_t>(p - first)
        records.append(record_tuple(&r))
        p = after
    return records


def _shown(data, limit=40):
    text = repr(data[:limit])
    return text if len(data) <= limit else f"{text}... ({len(data)} bytes)"


def describe(record, lsn=0) -> str:
    """One line per record, for people. Takes the bytes of records, or one tuple as `decode` gives."""
    if isinstance(record, bytes):
        return "\n".join(describe(r) for r in decode(record, lsn))
    at, name, txn, keyspace, a, b, key, value = record
    name_a, name_b = MEANING.get(name, (None, None))
    parts = [f"{at:>14}  {name:<10}"]
    for label, field in (("txn", txn), ("keyspace", keyspace), (name_a, a), (name_b, b)):
        if field is not None:
            parts.append(f"{label}={field}")
    for label, field in (("key", key), ("value", value)):
        if field is not None:
            parts.append(f"{label}={_shown(field)}")
    return " ".join(parts)


def table() -> list:
    """The rows as (name, code, field names), for the format's documentation and its test."""
    return [(name, code, [label for bit, label in FIELD_NAMES if fields & bit]) for name, code, fields in ROWS]
