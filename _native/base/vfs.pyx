"""The base of every file system: each method answers "not supported", and a thin door lets Python tests drive any of
them.

Invariants: a method never raises and never needs the GIL; a failure always fills the thread's ``ErrorInfo``; ABSENT is
an answer of ``open``, ``unlink`` and ``list_dir`` only.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdio cimport snprintf
from libc.stdlib cimport free
from libc.string cimport strlen

from enginelib._native.base.status cimport (
    ABSENT, E_INVALID, E_LOCKED, E_NOT_SUPPORTED, E_USAGE, OK, ErrorInfo, error_info, fail, fail_n, raise_status,
)


cdef int refuse() noexcept nogil:
    return fail(E_NOT_SUPPORTED, "This file system does not support the operation")


cdef int stale_handle(int handle) noexcept nogil:
    return fail_n(E_INVALID, "File handle %lld is not open", handle, 0)


cdef int exists_already(const char* path) noexcept nogil:
    return on_file(fail(E_USAGE, "The file to be made exists already"), path)


cdef int locked_already(const char* path) noexcept nogil:
    return on_file(fail(E_LOCKED, "Another process or handle holds a lock"), path)


cdef int on_file(int code, const char* path) noexcept nogil:
    cdef ErrorInfo* info = error_info()
    snprintf(info.file, sizeof(info.file), "%s", path)
    return code


cdef int at_offset(int code, int64_t offset) noexcept nogil:
    error_info().offset = offset
    return code


cdef class Vfs:
    cdef int open(self, const char* path, int flags, int* handle) noexcept nogil:
        return refuse()

    cdef int close(self, int handle) noexcept nogil:
        return refuse()

    cdef int read(self, int handle, void* buf, size_t n, int64_t offset, size_t* got) noexcept nogil:
        return refuse()

    cdef int write(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        return refuse()

    cdef int write_tail(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        return self.write(handle, buf, n, offset)

    cdef int sync(self, int handle) noexcept nogil:
        return refuse()

    cdef int size(self, int handle, int64_t* out) noexcept nogil:
        return refuse()

    cdef int truncate(self, int handle, int64_t size) noexcept nogil:
        return refuse()

    cdef int reserve(self, int handle, int64_t size) noexcept nogil:
        return refuse()

    cdef int kind(self, const char* path, int* out) noexcept nogil:
        return refuse()

    cdef int mkdir(self, const char* path) noexcept nogil:
        return refuse()

    cdef int rename(self, const char* old, const char* new) noexcept nogil:
        return refuse()

    cdef int unlink(self, const char* path) noexcept nogil:
        return refuse()

    cdef int sync_dir(self, const char* path) noexcept nogil:
        return refuse()

    cdef int list_dir(self, const char* path, char** names, size_t* count) noexcept nogil:
        return refuse()

    cdef int lock(self, int handle, bint exclusive) noexcept nogil:
        return refuse()

    cdef int lock_byte(self, int handle, int64_t offset, bint on) noexcept nogil:
        return refuse()

    cdef int test_bytes(self, int handle, int64_t offset, int64_t n, bint* held) noexcept nogil:
        return refuse()

    # ---- The door for tests. None stands for ABSENT.

    def py_open(self, path, int flags):
        cdef int handle = -1
        raw = fs_path(path)
        cdef const char* p = raw
        cdef int rc
        with nogil:
            rc = self.open(p, flags, &handle)
        return handle if check(rc) else None

    def py_close(self, int handle):
        cdef int rc
        with nogil:
            rc = self.close(handle)
        check(rc)

    def py_read(self, int handle, Py_ssize_t n, long long offset) -> bytes:
        cdef size_t got = 0
        cdef bytes out = PyBytes_FromStringAndSize(NULL, n)
        cdef char* buf = PyBytes_AS_STRING(out)
        cdef int rc
        with nogil:
            rc = self.read(handle, buf, n, offset, &got)
        check(rc)
        return out[:got]

    def py_write(self, int handle, bytes data not None, long long offset):
        cdef const char* buf = data
        cdef size_t n = len(data)
        cdef int rc
        with nogil:
            rc = self.write(handle, buf, n, offset)
        check(rc)

    def py_write_tail(self, int handle, bytes data not None, long long offset):
        cdef const char* buf = data
        cdef size_t n = len(data)
        check(self.write_tail(handle, buf, n, offset))

    def py_sync(self, int handle):
        cdef int rc
        with nogil:
            rc = self.sync(handle)
        check(rc)

    def py_size(self, int handle) -> int:
        cdef int64_t out = 0
        check(self.size(handle, &out))
        return out

    def py_truncate(self, int handle, long long size):
        cdef int rc
        with nogil:
            rc = self.truncate(handle, size)
        check(rc)

    def py_reserve(self, int handle, long long size):
        cdef int rc
        with nogil:
            rc = self.reserve(handle, size)
        check(rc)

    def py_kind(self, path) -> int:
        cdef int out = 0
        raw = fs_path(path)
        check(self.kind(raw, &out))
        return out

    def py_mkdir(self, path):
        raw = fs_path(path)
        check(self.mkdir(raw))

    def py_rename(self, old, new):
        raw_old = fs_path(old)
        raw_new = fs_path(new)
        check(self.rename(raw_old, raw_new))

    def py_unlink(self, path) -> bool:
        raw = fs_path(path)
        return check(self.unlink(raw))

    def py_sync_dir(self, path):
        raw = fs_path(path)
        check(self.sync_dir(raw))

    def py_list_dir(self, path):
        cdef char* names = NULL
        cdef char* p
        cdef size_t count = 0
        raw = fs_path(path)
        if not check(self.list_dir(raw, &names, &count)):
            return None
        out = []
        p = names
        for _ in range(count):
            out.append((<bytes>p).decode("utf-8", "surrogateescape"))
            p += strlen(p) + 1
        free(names)
        return sorted(out)

    def py_lock(self, int handle, bint exclusive=True):
        check(self.lock(handle, exclusive))

    def py_lock_byte(self, int handle, long long offset, bint on=True):
        check(self.lock_byte(handle, offset, on))

    def py_test_bytes(self, int handle, long long offset, long long n) -> bool:
        cdef bint held = False
        check(self.test_bytes(handle, offset, n, &held))
        return held

    def time_write_tail(self, int handle, Py_ssize_t n, long long span, long rounds) -> float:
        """Nanoseconds for each of `rounds` sequential write_tail calls of n bytes, wrapping round within [0, span)."""
        cdef bytes data = bytes(n)
        cdef const char* buf = data
        cdef int64_t offset = 0, start
        cdef long _i
        cdef int rc = OK
        if not 0 < n <= span:
            raise ValueError(f"n is {n}: expected 1 to span, {span}.")
        with nogil:
            start = monotonic_nanos()
            for _i in range(rounds):
                if offset + n > span:
                    offset = 0
                rc = self.write_tail(handle, buf, n, offset)
                if rc != OK:
                    break
                offset += n
            start = monotonic_nanos() - start
        check(rc)
        return <double>start / rounds


cdef extern from *:
    """
    #include <time.h>
    static int64_t el_vfs_nanos(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    """
    int64_t monotonic_nanos "el_vfs_nanos"() noexcept nogil


cdef bytes fs_path(path):
    if isinstance(path, bytes):
        return path
    return str(path).encode("utf-8", "surrogateescape")


cdef bint check(int rc) except -1:
    if rc == OK:
        return True
    if rc == ABSENT:
        return False
    raise_status(rc)
