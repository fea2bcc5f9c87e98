"""The inline coders of ``coding.pxd``, callable from Python for tests. It keeps nothing and adds nothing."""
from libc.stdint cimport uint8_t, uint64_t

from enginelib._native.base.coding cimport (
    MAX_VARINT, be32, compare_bytes, get16, get32, get64, get_varint, put16, put32, put64, put_varint, varint_size,
)


def fixed(int width, unsigned long long value) -> tuple:
    """(encoded bytes, value read back)"""
    cdef uint8_t room[8]
    if width == 2:
        put16(room, <unsigned short>value)
        return (<char*>room)[:2], get16(room)
    if width == 4:
        put32(room, <unsigned int>value)
        return (<char*>room)[:4], get32(room)
    put64(room, value)
    return (<char*>room)[:8], get64(room)


def big32(bytes data not None) -> int:
    if len(data) < 4:
        raise ValueError(f"data has {len(data)} bytes: expected at least 4.")
    return be32(<const char*>data)


def varint(unsigned long long value) -> tuple:
    """(encoded bytes, size foretold)"""
    cdef uint8_t room[MAX_VARINT]
    cdef uint8_t* end = put_varint(room, value)
    return (<char*>room)[:end - room], varint_size(value)


def read_varint(bytes data not None):
    """(value, bytes used), or None when the bytes are no varint."""
    cdef const uint8_t* p = <const uint8_t*><const char*>data
    cdef uint64_t value = 0
    cdef const uint8_t* end = get_varint(p, p + len(data), &value)
    return None if end == NULL else (value, end - p)


def compare(bytes a not None, bytes b not None) -> int:
    cdef int c = compare_bytes(a, len(a), b, len(b))
    return -1 if c < 0 else 1 if c > 0 else 0
