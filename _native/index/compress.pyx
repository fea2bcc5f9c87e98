"""Compression: see compress.pxd."""
from .sstable cimport COMPRESS_LZ4, COMPRESS_NONE, COMPRESS_ZSTD

cdef extern from *:
    """
    #include <stddef.h>
    #ifdef ENGINELIB_LZ4
    #include <lz4.h>
    static size_t el_lz4_most(size_t n) { return n > LZ4_MAX_INPUT_SIZE ? 0 : (size_t)LZ4_compressBound((int)n); }
    static size_t el_lz4(const char* p, size_t n, char* out, size_t room) {
        int k = n > LZ4_MAX_INPUT_SIZE ? 0 : LZ4_compress_default(p, out, (int)n, room > 0x7FFFFFFF ? 0x7FFFFFFF : (int)room);
        return k > 0 ? (size_t)k : 0;
    }
    static int el_lz4_back(const char* p, size_t n, char* out, size_t raw) {
        return n <= 0x7FFFFFFF && raw <= 0x7FFFFFFF && LZ4_decompress_safe(p, out, (int)n, (int)raw) == (int)raw;
    }
    static const char* el_lz4_version(void) { return LZ4_versionString(); }
    #define EL_LZ4 1
    #else
    #define EL_LZ4 0
    static size_t el_lz4_most(size_t n) { return 0; }
    static size_t el_lz4(const char* p, size_t n, char* out, size_t room) { return 0; }
    static int el_lz4_back(const char* p, size_t n, char* out, size_t raw) { return 0; }
    static const char* el_lz4_version(void) { return ""; }
    #endif
    #ifdef ENGINELIB_ZSTD
    #include <zstd.h>
    static size_t el_zstd_most(size_t n) { return ZSTD_compressBound(n); }
    static size_t el_zstd(const char* p, size_t n, char* out, size_t room) {
        size_t k = ZSTD_compress(out, room, p, n, 3);
        return ZSTD_isError(k) ? 0 : k;
    }
    static int el_zstd_back(const char* p, size_t n, char* out, size_t raw) { return ZSTD_decompress(out, raw, p, n) == raw; }
    static const char* el_zstd_version(void) { return ZSTD_versionString(); }
    #define EL_ZSTD 1
    #else
    #define EL_ZSTD 0
    static size_t el_zstd_most(size_t n) { return 0; }
    static size_t el_zstd(const char* p, size_t n, char* out, size_t room) { return 0; }
    static int el_zstd_back(const char* p, size_t n, char* out, size_t raw) { return 0; }
    static const char* el_zstd_version(void) { return ""; }
    #endif
    """
    enum: EL_LZ4
    enum: EL_ZSTD
    size_t lz4_most "el_lz4_most"(size_t n) noexcept nogil
    size_t lz4 "el_lz4"(const char* p, size_t n, char* out, size_t room) noexcept nogil
    bint lz4_back "el_lz4_back"(const char* p, size_t n, char* out, size_t raw) noexcept nogil
    const char* lz4_version "el_lz4_version"() noexcept nogil
    size_t zstd_most "el_zstd_most"(size_t n) noexcept nogil
    size_t zstd "el_zstd"(const char* p, size_t n, char* out, size_t room) noexcept nogil
    bint zstd_back "el_zstd_back"(const char* p, size_t n, char* out, size_t raw) noexcept nogil
    const char* zstd_version "el_zstd_version"() noexcept nogil


def libraries():
    """Versions of the libraries that this build has, by name; None for those it lacks."""
    return {"lz4": lz4_version().decode() if EL_LZ4 else None, "zstd": zstd_version().decode() if EL_ZSTD else None}


cdef bint compression_built(int compression) noexcept nogil:
    if compression == COMPRESS_LZ4:
        return EL_LZ4
    if compression == COMPRESS_ZSTD:
        return EL_ZSTD
    return compression == COMPRESS_NONE


cdef size_t compressed_most(int compression, size_t n) noexcept nogil:
    return lz4_most(n) if compression == COMPRESS_LZ4 else zstd_most(n)


cdef size_t compress_bytes(int compression, const char* data, size_t n, char* out, size_t room) noexcept nogil:
    if compression == COMPRESS_LZ4:
        return lz4(data, n, out, room)
    if compression == COMPRESS_ZSTD:
        return zstd(data, n, out, room)
    return 0


cdef bint expand_bytes(int compression, const char* data, size_t n, char* out, size_t raw) noexcept nogil:
    if compression == COMPRESS_LZ4:
        return lz4_back(data, n, out, raw)
    if compression == COMPRESS_ZSTD:
        return zstd_back(data, n, out, raw)
    return False
