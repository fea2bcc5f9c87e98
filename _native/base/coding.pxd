"""Fixed-width little-endian fields and variable-length integers (LEB128), inline. Reading checks bounds; writing does not."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define EL_LE16(x) __builtin_bswap16(x)
    #define EL_LE32(x) __builtin_bswap32(x)
    #define EL_LE64(x) __builtin_bswap64(x)
    #define EL_BE32(x) (x)
    #else
    #define EL_LE16(x) (x)
    #define EL_LE32(x) (x)
    #define EL_LE64(x) (x)
    #define EL_BE32(x) __builtin_bswap32(x)
    #endif
    static inline uint16_t el_get16(const void* p) { uint16_t v; memcpy(&v, p, 2); return EL_LE16(v); }
    static inline uint32_t el_get32(const void* p) { uint32_t v; memcpy(&v, p, 4); return EL_LE32(v); }
    static inline uint64_t el_get64(const void* p) { uint64_t v; memcpy(&v, p, 8); return EL_LE64(v); }
    static inline void el_put16(void* p, uint16_t v) { v = EL_LE16(v); memcpy(p, &v, 2); }
    static inline void el_put32(void* p, uint32_t v) { v = EL_LE32(v); memcpy(p, &v, 4); }
    static inline void el_put64(void* p, uint64_t v) { v = EL_LE64(v); memcpy(p, &v, 8); }
    static inline uint32_t el_be32(const void* p) { uint32_t v; memcpy(&v, p, 4); return EL_BE32(v); }
    """
    uint16_t get16 "el_get16"(const void* p) noexcept nogil
    uint32_t get32 "el_get32"(const void* p) noexcept nogil
    uint64_t get64 "el_get64"(const void* p) noexcept nogil
    void put16 "el_put16"(void* p, uint16_t v) noexcept nogil
    void put32 "el_put32"(void* p, uint32_t v) noexcept nogil
    void put64 "el_put64"(void* p, uint64_t v) noexcept nogil
    uint32_t be32 "el_be32"(const void* p) noexcept nogil

cdef enum:
    MAX_VARINT = 10

cdef inline uint8_t* put_varint(uint8_t* p, uint64_t v) noexcept nogil:
    """Writes v at p; returns the byte after it."""
    while v >= 0x80:
        p[0] = <uint8_t>(v | 0x80)
        p += 1
        v >>= 7
    p[0] = <uint8_t>v
    return p + 1

cdef inline const uint8_t* get_varint(const uint8_t* p, const uint8_t* end, uint64_t* v) noexcept nogil:
    """Reads a varint in [p, end); returns the byte after it, or NULL when it is cut short, overlong or over 64 bits."""
    cdef uint64_t r = 0
    cdef int shift = 0
    while p < end and shift < 64:
        if shift == 63 and p[0] > 1:
            return NULL
        r |= (<uint64_t>(p[0] & 0x7F)) << shift
        if p[0] < 0x80:
            if p[0] == 0 and shift > 0:
                return NULL
            v[0] = r
            return p + 1
        p += 1
        shift += 7
    return NULL

cdef inline int varint_size(uint64_t v) noexcept nogil:
    cdef int n = 1
    while v >= 0x80:
        v >>= 7
        n += 1
    return n

cdef inline int compare_bytes(const char* a, size_t n, const char* b, size_t m) noexcept nogil:
    """memcmp order, the shorter first among equals."""
    cdef int c = memcmp(a, b, n if n < m else m)
    if c != 0:
        return c
    return -1 if n < m else (1 if n > m else 0)
