"""A hash map from non-zero 64-bit ids to 64-bit values (or pointers), linear probing; for tables that C code alone looks into."""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

cdef struct IdMap:
    uint64_t* keys
    uint64_t* values
    uint64_t mask
    uint64_t count

cdef inline int idmap_init(IdMap* m) noexcept nogil:
    m.mask = 1023
    m.count = 0
    m.keys = <uint64_t*>calloc(1024, 8)
    m.values = <uint64_t*>calloc(1024, 8)
    return 0 if m.keys != NULL and m.values != NULL else -1

cdef inline void idmap_destroy(IdMap* m) noexcept nogil:
    free(m.keys)
    free(m.values)
    m.keys = m.values = NULL

cdef inline uint64_t idmap_home(IdMap* m, uint64_t key) noexcept nogil:
    return ((key * <uint64_t>0x9E3779B97F4A7C15) >> 20) & m.mask

cdef inline uint64_t* idmap_get(IdMap* m, uint64_t key) noexcept nogil:
    """The value's place, or NULL."""
    cdef uint64_t i = idmap_home(m, key)
    while m.keys[i]:
        if m.keys[i] == key:
            return &m.values[i]
        i = (i + 1) & m.mask
    return NULL

cdef inline int idmap_put(IdMap* m, uint64_t key, uint64_t value) noexcept nogil:
    """Sets it; -1 when there is no memory."""
    cdef IdMap grown
    cdef uint64_t i
    if m.count * 2 > m.mask:
        grown.mask = m.mask * 2 + 1
        grown.count = 0
        grown.keys = <uint64_t*>calloc(grown.mask + 1, 8)
        grown.values = <uint64_t*>calloc(grown.mask + 1, 8)
        if grown.keys == NULL or grown.values == NULL:
            idmap_destroy(&grown)
            return -1
        for i in range(m.mask + 1):
            if m.keys[i]:
                idmap_put(&grown, m.keys[i], m.values[i])
        idmap_destroy(m)
        m[0] = grown
    i = idmap_home(m, key)
    while m.keys[i] and m.keys[i] != key:
        i = (i + 1) & m.mask
    if m.keys[i] == 0:
        m.count += 1
    m.keys[i] = key
    m.values[i] = value
    return 0

cdef inline void idmap_remove(IdMap* m, uint64_t key) noexcept nogil:
    cdef uint64_t i = idmap_home(m, key), j, home
    while m.keys[i] != key:
        if m.keys[i] == 0:
            return
        i = (i + 1) & m.mask
    m.count -= 1
    j = i
    while True:                  # close the gap, so that probing needs no tombstones
        j = (j + 1) & m.mask
        if m.keys[j] == 0:
            break
        home = idmap_home(m, m.keys[j])
        if ((j - home) & m.mask) >= ((j - i) & m.mask):
            m.keys[i] = m.keys[j]
            m.values[i] = m.values[j]
            i = j
    m.keys[i] = 0
