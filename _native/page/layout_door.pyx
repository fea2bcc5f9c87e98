"""A door for tests: packing, unpacking and checking pages given as bytes."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t

from .layout cimport layout_check, layout_pack, layout_unpack, layout_max_key, layout_max_inline


def pack(bytes page, size_t unit):
    """A page of page_size bytes, packed."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, (len(page) + unit - 1) // unit * unit)
    cdef size_t n = layout_pack(page, <uint32_t>len(page), PyBytes_AS_STRING(out), unit)
    return out[:n]


def unpack(bytes packed, uint32_t page_size):
    """The page, or None when its header cannot be."""
    cdef bytes out = PyBytes_FromStringAndSize(NULL, page_size)
    if not layout_unpack(packed, len(packed), PyBytes_AS_STRING(out), page_size):
        return None
    return out


def check(bytes page, uint64_t pid):
    """None, or what is wrong with the page."""
    cdef const char* fault = layout_check(page, <uint32_t>len(page), pid)
    return None if fault == NULL else fault.decode()


def limits(uint32_t page_size):
    return layout_max_key(page_size), layout_max_inline(page_size)
