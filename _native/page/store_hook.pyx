"""A door for tests: a file system that calls Python before each read, write, truncation and sync of another, where no latch is held.
What other threads may do in that moment a test can so do at exactly that moment."""
cimport cython
from libc.stdint cimport int64_t
from ..base.vfs cimport Vfs


@cython.no_gc_clear                  # files are closed through it at the very end
cdef class HookVfs(Vfs):
    cdef readonly Vfs inner
    cdef object hook                 # called with (name, offset, n)
    cdef bint armed
    cdef public list errors          # what the hook raised

    def __init__(self, Vfs inner):
        self.inner = inner
        self.errors = []

    def arm(self, hook):
        """None disarms. While the hook runs the file system is disarmed for everybody, unless it arms it anew."""
        self.hook = hook
        self.armed = hook is not None

    cdef void call(self, const char* name, int64_t offset, size_t n) noexcept nogil:
        if self.armed:
            with gil:
                hook = self.hook
                self.armed = False
                try:
                    again = hook(name.decode(), offset, n)
                except BaseException as e:
                    self.errors.append(e)
                    again = False
                if again and self.hook is hook:
                    self.armed = True

    cdef int open(self, const char* path, int flags, int* handle) noexcept nogil:
        return self.inner.open(path, flags, handle)

    cdef int close(self, int handle) noexcept nogil:
        return self.inner.close(handle)

    cdef int read(self, int handle, void* buf, size_t n, int64_t offset, size_t* got) noexcept nogil:
        self.call(b"read", offset, n)
        return self.inner.read(handle, buf, n, offset, got)

    cdef int write(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        self.call(b"write", offset, n)
        return self.inner.write(handle, buf, n, offset)

    cdef int sync(self, int handle) noexcept nogil:
        self.call(b"sync", 0, 0)
        return self.inner.sync(handle)

    cdef int size(self, int handle, int64_t* out) noexcept nogil:
        return self.inner.size(handle, out)

    cdef int truncate(self, int handle, int64_t size) noexcept nogil:
        self.call(b"truncate", size, 0)
        return self.inner.truncate(handle, size)

    cdef int reserve(self, int handle, int64_t size) noexcept nogil:
        self.call(b"reserve", size, 0)
        return self.inner.reserve(handle, size)
