"""The thin latch: start-up, shut-down, timed waits and the way in for a thread that holds the GIL.

Invariant: nobody waits for the GIL while holding a latch.  ``latch_enter`` therefore never re-takes the GIL with the
latch held; it waits for the latch to become free without the GIL, gives it back at once, takes the GIL and *tries*.
"""
cdef extern from *:
    """
    #include <pthread.h>
    #include <sched.h>
    #include <stdint.h>
    #include <time.h>
    #include <errno.h>

    static void el_cond_init(pthread_cond_t* c) {
    #if defined(__APPLE__)
        pthread_cond_init(c, NULL);          /* no setclock; waits there use the relative form */
    #else
        pthread_condattr_t a;
        pthread_condattr_init(&a);
        pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
        pthread_cond_init(c, &a);
        pthread_condattr_destroy(&a);
    #endif
    }

    /* 1 when woken, 0 when the time is over */
    static int el_cond_wait(pthread_cond_t* c, pthread_mutex_t* m, int64_t micros) {
        struct timespec t;
        if (micros < 0) { pthread_cond_wait(c, m); return 1; }
    #if defined(__APPLE__)
        t.tv_sec = micros / 1000000;
        t.tv_nsec = (micros % 1000000) * 1000;
        return pthread_cond_timedwait_relative_np(c, m, &t) != ETIMEDOUT;
    #else
        clock_gettime(CLOCK_MONOTONIC, &t);
        /* a century: keeps the sum in range whatever the caller asks for */
        if (micros > 3155760000000000LL) micros = 3155760000000000LL;
        t.tv_sec += micros / 1000000;
        t.tv_nsec += (micros % 1000000) * 1000;
        if (t.tv_nsec >= 1000000000) { t.tv_sec += 1; t.tv_nsec -= 1000000000; }
        return pthread_cond_timedwait(c, m, &t) != ETIMEDOUT;
    #endif
    }

    static int64_t el_micros(int monotonic) {
        struct timespec t;
        clock_gettime(monotonic ? CLOCK_MONOTONIC : CLOCK_REALTIME, &t);
        return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
    }

    static void el_latch_enter(pthread_mutex_t* m) {
        int i;
        /* Latch holds are shorter than a release of the GIL, and the holder does not need it: worth a few tries. */
        for (i = 0; i < 16; i++) {
            if (pthread_mutex_trylock(m) == 0) return;
    #if defined(__x86_64__) || defined(__i386__)
            __builtin_ia32_pause();
    #elif defined(__aarch64__)
            __asm__ __volatile__("yield");
    #endif
        }
        for (i = 0;; i++) {
            PyThreadState* s = PyEval_SaveThread();
            pthread_mutex_lock(m);
            pthread_mutex_unlock(m);
            if (i > 8) sched_yield();
            PyEval_RestoreThread(s);
            if (pthread_mutex_trylock(m) == 0) return;
        }
    }
    """
    void el_cond_init(pthread_cond_t* c) noexcept nogil
    int el_cond_wait(pthread_cond_t* c, pthread_mutex_t* m, int64_t micros) noexcept nogil
    int64_t el_micros(int monotonic) noexcept nogil
    void el_latch_enter(pthread_mutex_t* m) noexcept

cdef extern from "<pthread.h>" nogil:
    int pthread_mutex_init(pthread_mutex_t*, void*)
    int pthread_mutex_destroy(pthread_mutex_t*)
    int pthread_cond_destroy(pthread_cond_t*)


cdef extern from "<unistd.h>" nogil:
    int getpid()

cdef int owner = getpid()        # the process that imported this module; spawned ones import it anew, forked ones do not


cdef void latch_init(Latch* l) noexcept nogil:
    pthread_mutex_init(&l.mutex, NULL)


cdef void latch_destroy(Latch* l) noexcept nogil:
    pthread_mutex_destroy(&l.mutex)


cdef void condition_init(Condition* c) noexcept nogil:
    el_cond_init(&c.cond)


cdef void condition_destroy(Condition* c) noexcept nogil:
    """Lets go of the condition, unless this is a forked child: there the memory may say that threads wait which only the parent has, and
    pthread_cond_destroy would wait for them for ever."""
    if getpid() == owner:
        pthread_cond_destroy(&c.cond)


cdef bint condition_wait(Condition* c, Latch* l, int64_t micros) noexcept nogil:
    return el_cond_wait(&c.cond, &l.mutex, micros)


cdef int64_t monotonic_micros() noexcept nogil:
    return el_micros(1)


cdef int64_t wall_micros() noexcept nogil:
    return el_micros(0)


cdef void latch_enter(Latch* l) noexcept:
    el_latch_enter(&l.mutex)


cdef class LatchDoor:
    """A latch and a condition for tests from Python."""
    cdef Latch latch
    cdef Condition condition
    cdef public long long counter

    def __cinit__(self):
        latch_init(&self.latch)
        condition_init(&self.condition)

    def __dealloc__(self):
        latch_destroy(&self.latch)
        condition_destroy(&self.condition)

    def add_under_latch(self, int rounds):
        """Each round enters with the GIL and adds one, so a lost exclusion would show as a lost addition."""
        cdef int _i
        for _i in range(rounds):
            latch_enter(&self.latch)
            self.counter += 1
            latch_unlock(&self.latch)

    def add_without_gil(self, int rounds):
        cdef int _i
        with nogil:
            for _i in range(rounds):
                latch_lock(&self.latch)
                self.counter += 1
                latch_unlock(&self.latch)

    def hold_without_gil(self, long long micros):
        """Holds the latch for so long without the GIL."""
        cdef int64_t end
        with nogil:
            latch_lock(&self.latch)
            end = el_micros(1) + micros
            while el_micros(1) < end:
                pass
            latch_unlock(&self.latch)

    def enter_and_leave(self):
        latch_enter(&self.latch)
        latch_unlock(&self.latch)

    def try_latch(self) -> bool:
        if latch_try(&self.latch):
            latch_unlock(&self.latch)
            return True
        return False

    def wait(self, long long micros) -> bool:
        cdef bint woken
        with nogil:
            latch_lock(&self.latch)
            woken = condition_wait(&self.condition, &self.latch, micros)
            latch_unlock(&self.latch)
        return woken

    def wake(self):
        with nogil:
            latch_lock(&self.latch)
            condition_broadcast(&self.condition)
            latch_unlock(&self.latch)


def clocks() -> tuple:
    """(monotonic, wall) in microseconds."""
    return monotonic_micros(), wall_micros()
