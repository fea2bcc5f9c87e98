"""A thin latch (pthread mutex) and the condition that goes with it.

Order: GIL, then latch.  Who holds the latch never asks for the GIL, never calls Python, never waits for a file (law 11).
"""
from libc.stdint cimport int64_t

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_lock(pthread_mutex_t*)
    int pthread_mutex_trylock(pthread_mutex_t*)
    int pthread_mutex_unlock(pthread_mutex_t*)
    int pthread_cond_signal(pthread_cond_t*)
    int pthread_cond_broadcast(pthread_cond_t*)
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*)

cdef struct Latch:
    pthread_mutex_t mutex

cdef struct Condition:
    pthread_cond_t cond

cdef void latch_init(Latch* l) noexcept nogil
cdef void latch_destroy(Latch* l) noexcept nogil
cdef void condition_init(Condition* c) noexcept nogil          # on CLOCK_MONOTONIC
cdef void condition_destroy(Condition* c) noexcept nogil
# Waits at most `micros` (negative: for ever). True when signalled (or spuriously woken), False when time ran out.
cdef bint condition_wait(Condition* c, Latch* l, int64_t micros) noexcept nogil
cdef int64_t monotonic_micros() noexcept nogil
cdef int64_t wall_micros() noexcept nogil

cdef inline void latch_lock(Latch* l) noexcept nogil:
    pthread_mutex_lock(&l.mutex)

cdef inline bint latch_try(Latch* l) noexcept nogil:
    return pthread_mutex_trylock(&l.mutex) == 0

cdef inline void latch_unlock(Latch* l) noexcept nogil:
    pthread_mutex_unlock(&l.mutex)

cdef inline void condition_broadcast(Condition* c) noexcept nogil:
    pthread_cond_broadcast(&c.cond)

cdef inline void condition_signal(Condition* c) noexcept nogil:
    pthread_cond_signal(&c.cond)

# With the GIL held: takes the latch, waiting (if it must) without the GIL; returns holding both.
cdef void latch_enter(Latch* l) noexcept
