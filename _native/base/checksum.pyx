"""CRC-32C, the fastest way this processor knows.

Four implementations give the same sums: a table (slicing by eight), the ARMv8 instruction, SSE4.2 with carry-less
multiplication of 16-byte lanes, and the same with 64-byte lanes (AVX-512).  The choice is made once, when the module is
loaded.  The folding constants are computed from the polynomial at that time instead of being written down: for a
128-bit accumulator carried D bits forward the low half is multiplied by x^(D+31), the high half by x^(D-33), modulo P,
reflected.
"""
cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    #include <string.h>
    #include <time.h>
    #if defined(__x86_64__)
    #include <immintrin.h>
    #elif defined(__aarch64__)
    #include <arm_acle.h>
    #if defined(__linux__)
    #include <sys/auxv.h>
    #endif
    #endif

    #define EL_POLY 0x82F63B78u
    static uint32_t el_crc_tables[8][256];

    static void el_crc_make_tables(void) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++) c = (c >> 1) ^ ((c & 1) ? EL_POLY : 0);
            el_crc_tables[0][i] = c;
        }
        for (int t = 1; t < 8; t++)
            for (int i = 0; i < 256; i++) {
                uint32_t c = el_crc_tables[t - 1][i];
                el_crc_tables[t][i] = (c >> 8) ^ el_crc_tables[0][c & 255];
            }
    }

    static uint32_t el_crc_table(uint32_t crc, const unsigned char* p, size_t n) {
        uint32_t (*t)[256] = el_crc_tables;
        crc = ~crc;
        while (n >= 8) {
            uint32_t lo, hi;
            lo = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
            hi = (uint32_t)p[4] | (uint32_t)p[5] << 8 | (uint32_t)p[6] << 16 | (uint32_t)p[7] << 24;
            lo ^= crc;
            crc = t[7][lo & 255] ^ t[6][(lo >> 8) & 255] ^ t[5][(lo >> 16) & 255] ^ t[4][lo >> 24]
                ^ t[3][hi & 255] ^ t[2][(hi >> 8) & 255] ^ t[1][(hi >> 16) & 255] ^ t[0][hi >> 24];
            p += 8; n -= 8;
        }
        while (n--) crc = (crc >> 8) ^ t[0][(crc ^ *p++) & 255];
        return ~crc;
    }

    typedef uint32_t (*el_crc_fn)(uint32_t, const unsigned char*, size_t);
    static el_crc_fn el_crc_chosen = el_crc_table;
    static const char* el_crc_name = "table";

    #if defined(__x86_64__)

    static uint64_t el_k16[2], el_k32[2], el_k48[2], el_k64[2], el_k128[2], el_k256[2];

    static uint32_t el_xn(int n) {                      /* x^n mod P, reflected */
        uint32_t a = 0x80000000u;
        while (n--) a = (a >> 1) ^ ((a & 1) ? EL_POLY : 0);
        return a;
    }
    static void el_fold_constants(uint64_t* k, int bytes) {
        k[0] = el_xn(bytes * 8 + 31);
        k[1] = el_xn(bytes * 8 - 33);
    }
    static void el_crc_make_constants(void) {
        el_fold_constants(el_k16, 16);  el_fold_constants(el_k32, 32);   el_fold_constants(el_k48, 48);
        el_fold_constants(el_k64, 64);  el_fold_constants(el_k128, 128); el_fold_constants(el_k256, 256);
    }

    #define EL_SSE __attribute__((target("sse4.2,pclmul")))
    #define EL_AVX __attribute__((target("sse4.2,pclmul,avx512f,avx512vl,avx512dq,vpclmulqdq")))

    /* crc here is the raw register (already inverted) */
    static EL_SSE inline uint32_t el_crc_words(uint32_t crc, const unsigned char* p, size_t n) {
        uint64_t c = crc, v;
        while (n >= 8) { memcpy(&v, p, 8); c = _mm_crc32_u64(c, v); p += 8; n -= 8; }
        crc = (uint32_t)c;
        if (n & 4) { uint32_t w; memcpy(&w, p, 4); crc = _mm_crc32_u32(crc, w); p += 4; }
        if (n & 2) { uint16_t w; memcpy(&w, p, 2); crc = _mm_crc32_u16(crc, w); p += 2; }
        if (n & 1) crc = _mm_crc32_u8(crc, *p);
        return crc;
    }
    static EL_SSE inline __m128i el_fold(__m128i x, __m128i k, __m128i y) {
        return _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)), y);
    }
    #define EL_AT(p) _mm_loadu_si128((const __m128i*)(p))

    static EL_SSE uint32_t el_crc_sse(uint32_t crc, const unsigned char* p, size_t n) {
        crc = ~crc;
        if (n >= 128) {
            __m128i k = EL_AT(el_k64), a, b, c, d;
            a = _mm_xor_si128(EL_AT(p), _mm_cvtsi32_si128((int)crc));
            b = EL_AT(p + 16); c = EL_AT(p + 32); d = EL_AT(p + 48);
            p += 64; n -= 64;
            if (n >= 192) {                              /* eight lanes hide the multiplier's latency */
                __m128i e = EL_AT(p), f = EL_AT(p + 16), g = EL_AT(p + 32), h = EL_AT(p + 48), k2 = EL_AT(el_k128);
                p += 64; n -= 64;
                do {
                    a = el_fold(a, k2, EL_AT(p));      b = el_fold(b, k2, EL_AT(p + 16));
                    c = el_fold(c, k2, EL_AT(p + 32)); d = el_fold(d, k2, EL_AT(p + 48));
                    e = el_fold(e, k2, EL_AT(p + 64)); f = el_fold(f, k2, EL_AT(p + 80));
                    g = el_fold(g, k2, EL_AT(p + 96)); h = el_fold(h, k2, EL_AT(p + 112));
                    p += 128; n -= 128;
                } while (n >= 128);
                a = el_fold(a, k, e); b = el_fold(b, k, f); c = el_fold(c, k, g); d = el_fold(d, k, h);
            }
            while (n >= 64) {
                a = el_fold(a, k, EL_AT(p));      b = el_fold(b, k, EL_AT(p + 16));
                c = el_fold(c, k, EL_AT(p + 32)); d = el_fold(d, k, EL_AT(p + 48));
                p += 64; n -= 64;
            }
            d = el_fold(c, EL_AT(el_k16), d);
            d = el_fold(b, EL_AT(el_k32), d);
            d = el_fold(a, EL_AT(el_k48), d);
            uint64_t s = _mm_crc32_u64(0, (uint64_t)_mm_extract_epi64(d, 0));
            crc = (uint32_t)_mm_crc32_u64(s, (uint64_t)_mm_extract_epi64(d, 1));
        }
        return ~el_crc_words(crc, p, n);
    }

    static EL_AVX inline __m512i el_fold4(__m512i x, __m512i k, __m512i y) {
        __m512i low = _mm512_clmulepi64_epi128(x, k, 0x00), high = _mm512_clmulepi64_epi128(x, k, 0x11);
        return _mm512_ternarylogic_epi64(low, high, y, 0x96);
    }
    #define EL_AT4(p) _mm512_loadu_si512((const void*)(p))

    static EL_AVX uint32_t el_crc_avx512(uint32_t crc, const unsigned char* p, size_t n) {
        if (n < 512) return el_crc_sse(crc, p, n);
        crc = ~crc;
        __m512i k = _mm512_broadcast_i32x4(EL_AT(el_k256)), a, b, c, d;
        a = _mm512_xor_si512(EL_AT4(p), _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
        b = EL_AT4(p + 64); c = EL_AT4(p + 128); d = EL_AT4(p + 192);
        p += 256; n -= 256;
        do {
            a = el_fold4(a, k, EL_AT4(p));       b = el_fold4(b, k, EL_AT4(p + 64));
            c = el_fold4(c, k, EL_AT4(p + 128)); d = el_fold4(d, k, EL_AT4(p + 192));
            p += 256; n -= 256;
        } while (n >= 256);
        k = _mm512_broadcast_i32x4(EL_AT(el_k128));
        c = el_fold4(a, k, c); d = el_fold4(b, k, d);
        k = _mm512_broadcast_i32x4(EL_AT(el_k64));
        d = el_fold4(c, k, d);
        while (n >= 64) { d = el_fold4(d, k, EL_AT4(p)); p += 64; n -= 64; }
        __m128i x = _mm512_extracti32x4_epi32(d, 3);
        x = el_fold(_mm512_extracti32x4_epi32(d, 2), EL_AT(el_k16), x);
        x = el_fold(_mm512_extracti32x4_epi32(d, 1), EL_AT(el_k32), x);
        x = el_fold(_mm512_castsi512_si128(d), EL_AT(el_k48), x);
        uint64_t s = _mm_crc32_u64(0, (uint64_t)_mm_extract_epi64(x, 0));
        crc = (uint32_t)_mm_crc32_u64(s, (uint64_t)_mm_extract_epi64(x, 1));
        _mm256_zeroupper();
        return ~el_crc_words(crc, p, n);
    }

    #elif defined(__aarch64__)

    #if defined(__clang__)
    __attribute__((target("crc")))
    #else
    __attribute__((target("+crc")))
    #endif
    static uint32_t el_crc_arm(uint32_t crc, const unsigned char* p, size_t n) {
        crc = ~crc;
        while (n >= 8) { uint64_t v; memcpy(&v, p, 8); crc = __crc32cd(crc, v); p += 8; n -= 8; }
        while (n--) crc = __crc32cb(crc, *p++);
        return ~crc;
    }
    #endif

    static void el_crc_choose(void) {
        el_crc_make_tables();
    #if defined(__x86_64__)
        el_crc_make_constants();
        __builtin_cpu_init();
        if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul")) {
            el_crc_chosen = el_crc_sse;
            el_crc_name = "sse4.2+pclmul";
            if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
                && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("vpclmulqdq")) {
                el_crc_chosen = el_crc_avx512;
                el_crc_name = "avx512+vpclmulqdq";
            }
        }
    #elif defined(__aarch64__)
    #if defined(__linux__)
        if (getauxval(AT_HWCAP) & (1 << 7))              /* HWCAP_CRC32 */
    #endif
        { el_crc_chosen = el_crc_arm; el_crc_name = "armv8"; }
    #endif
    }

    static uint32_t el_crc_middle(uint32_t crc, const unsigned char* p, size_t n) {
    #if defined(__x86_64__)
        if (el_crc_chosen != el_crc_table) return el_crc_sse(crc, p, n);
    #endif
        return el_crc_chosen(crc, p, n);
    }

    static double el_crc_time(const unsigned char* p, size_t n, long rounds) {
        struct timespec a, b;
        volatile uint32_t sink = 0;
        clock_gettime(CLOCK_MONOTONIC, &a);
        /* each sum seeds the next, as a chain of log groups does: this is latency, not throughput */
        for (long i = 0; i < rounds; i++) sink = el_crc_chosen(sink, p, n);
        clock_gettime(CLOCK_MONOTONIC, &b);
        return ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / (double)rounds;
    }
    """
    uint32_t el_crc_chosen(uint32_t crc, const unsigned char* p, size_t n) noexcept nogil
    uint32_t el_crc_middle(uint32_t crc, const unsigned char* p, size_t n) noexcept nogil
    uint32_t el_crc_table(uint32_t crc, const unsigned char* p, size_t n) noexcept nogil
    const char* el_crc_name
    void el_crc_choose() noexcept
    double el_crc_time(const unsigned char* p, size_t n, long rounds) noexcept nogil


cdef uint32_t crc32c(uint32_t seed, const void* data, size_t n) noexcept nogil:
    return el_crc_chosen(seed, <const unsigned char*>data, n)


cdef const char* crc32c_implementation() noexcept nogil:
    return el_crc_name


def crc32c_of(bytes data not None, unsigned int seed=0, Py_ssize_t start=0) -> int:
    """The sum of data[start:], by the chosen implementation; `start` lets tests vary the alignment."""
    if not 0 <= start <= len(data):
        raise ValueError(f"start is {start}: expected 0 to {len(data)}.")
    return crc32c(seed, <const char*>data + start, len(data) - start)


def crc32c_middle(bytes data not None, unsigned int seed=0) -> int:
    """The same by the 16-byte-lane implementation, where the processor has it."""
    return el_crc_middle(seed, <const unsigned char*>data, len(data))


def crc32c_table(bytes data not None, unsigned int seed=0) -> int:
    """The same by the table, which every processor has."""
    return el_crc_table(seed, <const unsigned char*>data, len(data))


def implementation() -> str:
    return crc32c_implementation().decode()


def time_crc(Py_ssize_t n, long rounds) -> float:
    """Nanoseconds for n bytes that are in the cache."""
    cdef bytes data = bytes(range(256)) * (n // 256 + 1)
    return el_crc_time(<const unsigned char*>data, n, rounds)


el_crc_choose()
