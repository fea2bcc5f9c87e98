"""Log records: one row of one table each (name, code, fields), from which encoder, decoder and printer follow.

A record is logical: what a transaction did to which key of which keyspace; no page, no offset.  On disk a record is
    u8 type | varint fields in the order of the type's row | key bytes | value bytes
and its LSN is the position of its first byte in the log.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

cdef enum RecordType:          # on disk: never change
    R_PUT = 1                  # txn, keyspace, klen, vlen, key, value
    R_DELETE = 2               # txn, keyspace, klen, key
    R_COMMIT = 3               # txn, commit_ts (a), wall clock microseconds (b)
    R_ABORT = 4                # txn: every change of it is undone at this point
    R_ROLLBACK = 5             # txn, lsn (a): its changes above that LSN are undone at this point
    R_CHUNK = 6                # txn, blob number within the transaction (a), total length (b), vlen, value: next bytes of a large value
    R_PUT_BLOB = 7             # txn, keyspace, blob number (a), total length (b), klen, key: links the chunks as the value
    R_NAME = 8                 # keyspace, klen, vlen, key (name), value (options): row of the table a segment opens with
    R_END = 9                  # a = first LSN of the next segment: the last record of a full segment
    R_CHECKPOINT = 10          # a = generation, b = checkpoint LSN: a note for readers, no effect
    R_EDIT = 11                # txn (a bulk load's, else 0), keyspace, value: a change of the tables an LSM-tree consists of; local to this copy of the database
    R_DELETE_RANGE = 12        # txn, keyspace, a = 1 when there is no upper end, klen, vlen, key (the start), value (the stop)
    R_CALL = 13                # txn, wall clock microseconds (a), seed (b), klen, vlen, key (name of the procedure), value (arguments): the txn's changes are what it did
    R_TAG = 14                 # txn, a = a Tag, vlen, value: something told about the transaction
    R_RUNNING = 15             # a = number that the next transaction gets: those below began before this segment. The record behind a segment's table of names
    R_PREPARE = 16             # txn, wall clock microseconds (a), isolation level (b), klen, key (xid): the txn will end as someone says who knows it by that name
    R_BEFORE = 17              # txn, keyspace, an Image (a), length (b), vlen, value: what the key of the transaction's change just before this record held. No effect at recovery
    R_TYPES = 18               # not a type: one above the highest

cdef enum Tag:                 # on disk: never change
    TAG_ORIGIN = 1             # where its changes were made first: bytes
    TAG_NAMED = 2              # what the row of the catalogue that was deleted last said: u32 id, name
    TAG_LOCKS = 3              # what it holds at its prepare: u8 1 in the first of several such, then a piece of the table of txn/prepared.pxd

cdef enum Image:               # on disk: never change
    IMAGE_ABSENT = 0           # the key was not there
    IMAGE_THERE = 1            # it was there; what it held is not told
    IMAGE_VALUE = 2            # it held the value
    IMAGE_LARGE = 3            # it held a value of `length` bytes: the pieces that the transaction has logged just before the change
    IMAGE_PIECE = 4            # the next bytes of such a value, from its byte `length` on; belongs to no change yet

cdef enum Field:               # a type's row is the set of these that it has; on disk they come in this order
    F_TXN = 1
    F_KEYSPACE = 2             # at most 2**32 - 1
    F_A = 4
    F_B = 8
    F_KEY = 16                 # its length among the varints, its bytes after them
    F_VALUE = 32               # likewise

cdef struct Record:
    uint8_t type
    uint64_t lsn
    uint64_t txn
    uint32_t keyspace
    uint64_t a
    uint64_t b
    const char* key
    size_t klen
    const char* value
    size_t vlen

cdef enum:
    RECORD_OVERHEAD = 64       # bytes that any record takes at most beyond its key and value

cdef size_t record_encode(uint8_t* out, const Record* r) noexcept nogil
# Decodes the record at p; returns the byte after it, or NULL when it is not one. key and value point into the buffer.
cdef const uint8_t* record_decode(const uint8_t* p, const uint8_t* end, Record* r) noexcept nogil
cdef tuple record_tuple(const Record* r)     # (lsn, name, txn, keyspace, a, b, key, value); None for what the type has not
