"""What is wrong between a parent and its child."""
from libc.stdio cimport snprintf

from ..base.status cimport fail_corrupt
from .node cimport *


cdef int contradiction(uint64_t pid, const char* what, uint64_t expected, uint64_t found) noexcept nogil:
    cdef char text[160]
    snprintf(text, 160, b"page %llu: %s", <unsigned long long>pid, what)
    return fail_corrupt(b"pages.dat", -1, text, expected, found)


cdef bint fence_is(const char* fence, size_t n, const char* parent, int at) noexcept nogil:
    """Whether the fence is the parent's key at slot `at`."""
    cdef size_t p, m
    cdef const char* prefix = node_prefix(parent, &p)
    cdef const char* s = node_separator(parent, at, &m)
    return fence != NULL and n == p + m and memcmp(fence, prefix, p) == 0 and memcmp(fence + p, s, m) == 0


cdef const char* edge_fault(const char* parent, int at, const char* child) noexcept nogil:
    """NULL when the child's fences are the parent's bounds for its slot; else what is wrong."""
    cdef size_t n, m
    cdef const char* fence = node_lower(child, &n)
    cdef const char* bound
    if at >= 0:
        if not fence_is(fence, n, parent, at):
            return b"its lower fence is not its parent's key"
    else:
        bound = node_lower(parent, &m)
        if (fence == NULL) != (bound == NULL) or (fence != NULL and compare_bytes(fence, n, bound, m) != 0):
            return b"its lower fence is not its parent's"
    fence = node_upper(child, &n)
    if at + 1 < node_count(parent):
        if not fence_is(fence, n, parent, at + 1):
            return b"its upper fence is not its parent's next key"
    else:
        bound = node_upper(parent, &m)
        if (fence == NULL) != (bound == NULL) or (fence != NULL and compare_bytes(fence, n, bound, m) != 0):
            return b"its upper fence is not its parent's"
    return NULL


cdef int misplaced(const char* parent, int at, const char* child, uint32_t keyspace) noexcept nogil:
    """Names what kept `enter` from going on."""
    cdef uint64_t pid = node_pid(child)
    cdef const char* fault
    if node_keyspace(child) != keyspace:
        return contradiction(pid, b"it belongs to another keyspace", keyspace, node_keyspace(child))
    if node_level(child) + 1 != node_level(parent):
        return contradiction(pid, b"its level does not follow its parent's", node_level(parent) - 1, node_level(child))
    fault = edge_fault(parent, at, child)
    if fault == NULL:
        fault = b"its prefix is longer than the key sought"
    return contradiction(pid, fault, node_pid(parent), at)
