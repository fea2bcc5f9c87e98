"""Where a failure waits, and the one place where a status code becomes an exception.

Invariants: each thread has one ``ErrorInfo``, kept in thread-local storage of *this* module, so every module of the
core sees the same one; writing it needs neither GIL nor latch and cannot fail.  Its text describes the newest
``fail*`` call of the thread and is consumed by ``raise_status``: a code returned without a ``fail*`` call gets its
default sentence, never a stale one.  Exception classes are registered by ``enginelib.errors``; until then built-in
ones stand in.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EDQUOT, ENOMEM, ENOSPC
from libc.stdio cimport snprintf
from libc.string cimport memset

cdef extern from *:
    """
    #include <string.h>
    /* The structure is only declared further down: raw storage, large enough (checked at import). */
    #define EL_ERROR_ROOM 1280
    static __thread union { char raw[EL_ERROR_ROOM]; long long align; } el_error;
    static __thread int el_error_fresh;
    static void* el_error_place(void) { return el_error.raw; }
    static int el_error_is_fresh(void) { return el_error_fresh; }
    static void el_error_set_fresh(int v) { el_error_fresh = v; }
    static const char* el_strerror(int e, char* room, size_t n) {
    #if defined(__GLIBC__) && defined(_GNU_SOURCE)
        return strerror_r(e, room, n);
    #else
        if (strerror_r(e, room, n) != 0) snprintf(room, n, "unknown error");
        return room;
    #endif
    }
    """
    enum: EL_ERROR_ROOM
    void* el_error_place() noexcept nogil
    int el_error_is_fresh() noexcept nogil
    void el_error_set_fresh(int v) noexcept nogil
    const char* el_strerror(int e, char* room, size_t n) noexcept nogil


cdef ErrorInfo* error_info() noexcept nogil:
    return <ErrorInfo*>el_error_place()


cdef inline ErrorInfo* start(int code) noexcept nogil:
    cdef ErrorInfo* info = <ErrorInfo*>el_error_place()
    info.code = code
    info.sys_errno = 0
    info.offset = -1
    info.expected = 0
    info.found = 0
    info.file[0] = 0
    info.text[0] = 0
    el_error_set_fresh(1)
    return info


cdef int fail(int code, const char* text) noexcept nogil:
    cdef ErrorInfo* info = start(code)
    snprintf(info.text, sizeof(info.text), "%s", text)
    return code


cdef int fail_n(int code, const char* fmt, int64_t a, int64_t b) noexcept nogil:
    cdef ErrorInfo* info = start(code)
    snprintf(info.text, sizeof(info.text), fmt, <long long>a, <long long>b)
    return code


cdef int fail_os(const char* call, const char* path, int sys_errno) noexcept nogil:
    cdef int code = E_IO
    cdef char room[128]
    if sys_errno == ENOSPC or sys_errno == EDQUOT:
        code = E_FULL
    elif sys_errno == ENOMEM:
        code = E_NOMEM
    cdef ErrorInfo* info = start(code)
    info.sys_errno = sys_errno
    if path != NULL:
        snprintf(info.file, sizeof(info.file), "%s", path)
    snprintf(info.text, sizeof(info.text), "%s failed: %s (errno %d)", call,
             el_strerror(sys_errno, room, sizeof(room)), sys_errno)
    return code


cdef int fail_corrupt(const char* file, int64_t offset, const char* what,
                      uint64_t expected, uint64_t found) noexcept nogil:
    cdef ErrorInfo* info = start(E_CORRUPT)
    info.offset = offset
    info.expected = expected
    info.found = found
    if file != NULL:
        snprintf(info.file, sizeof(info.file), "%s", file)
    snprintf(info.text, sizeof(info.text), "%s", what)
    return E_CORRUPT


# ---- The door

cdef dict NAMES = {
    E_NOMEM: "MemoryError",
    E_IO: "StorageError",
    E_FULL: "DiskFull",
    E_LOG: "LogWriteError",
    E_CORRUPT: "CorruptionError",
    E_CLOSED: "DatabaseClosed",
    E_TXN_CLOSED: "TransactionClosed",
    E_THREAD: "ThreadError",
    E_FORK: "ForkError",
    E_READONLY: "ReadOnlyError",
    E_CONFLICT: "WriteConflict",
    E_DEADLOCK: "DeadlockDetected",
    E_TIMEOUT: "LockTimeout",
    E_SNAPSHOT: "SnapshotTooOld",
    E_TOO_LARGE: "TransactionTooLarge",
    E_UNKNOWN: "OutcomeUnknown",
    E_LOCKED: "DatabaseLocked",
    E_NOT_SUPPORTED: "NotSupported",
    E_INVALID: "ValueError",
    E_NOT_DATABASE: "StorageError",
    E_NEWER: "NotSupported",
    E_USAGE: "UsageError",
    E_SERIALIZATION: "SerializationFailure",
}

cdef dict DEFAULTS = {
    E_NOMEM: "Memory could not be allocated",
    E_IO: "The operating system refused a file operation",
    E_FULL: "No space is left on the device",
    E_LOG: "The log could not be written and has failed for good; reopen the database",
    E_CORRUPT: "What was read back is not what was written",
    E_CLOSED: "The database is closed",
    E_TXN_CLOSED: "The transaction, cursor or savepoint has ended",
    E_THREAD: "The transaction is in use by another thread",
    E_FORK: "This handle belongs to the parent process; open the database again after the fork",
    E_READONLY: "The database or transaction is read-only",
    E_CONFLICT: "Another transaction changed the same key and committed first",
    E_DEADLOCK: "This transaction was chosen to break a deadlock",
    E_TIMEOUT: "A lock was not granted within the lock timeout",
    E_SNAPSHOT: "The snapshot is too old: versions it needs are gone",
    E_TOO_LARGE: "The transaction's undo exceeds its bound; commit in smaller parts",
    E_UNKNOWN: "The commit may or may not be durable",
    E_LOCKED: "Another process or handle has the database open",
    E_NOT_SUPPORTED: "This operation is not supported here",
    E_INVALID: "An argument is out of bounds",
    E_NOT_DATABASE: "The directory or file is not an enginelib database",
    E_NEWER: "The file was made by a newer version of the format",
    E_USAGE: "The operation is not valid here",
    E_SERIALIZATION: "No serial order of the transactions allows what this one has read and written",
}

cdef dict BUILTIN = {
    E_NOMEM: MemoryError, E_INVALID: ValueError,
    E_IO: OSError, E_FULL: OSError, E_LOG: OSError, E_NOT_DATABASE: OSError,
}

cdef dict registered = {}


def register_errors(mapping):
    """Takes the exception classes by name; each is made as ``cls(message, **fields)``. An empty mapping forgets all."""
    registered.clear()
    registered.update(mapping)


def registered_errors() -> dict:
    """What register_errors was given last."""
    return dict(registered)


cdef object raise_status(int code):
    cdef ErrorInfo* info = error_info()
    cdef bint fresh = el_error_is_fresh() and info.code == code
    el_error_set_fresh(0)
    if code == E_INTERRUPT:
        PyErr_CheckSignals()
        raise InterruptedError("The operation was interrupted by a signal.")
    if code not in NAMES:
        raise RuntimeError(f"The core returned status {code}, which is no failure.")
    text = (<bytes>info.text).decode("utf-8", "replace") if fresh else DEFAULTS[code]
    if not text:
        text = DEFAULTS[code]
    file = (<bytes>info.file).decode("utf-8", "surrogateescape") if fresh and info.file[0] else None
    errno = info.sys_errno if fresh else 0
    offset = info.offset if fresh else -1
    expected, found = (info.expected, info.found) if fresh else (None, None)
    if file is not None:
        text += f" in {file}" if code == E_CORRUPT else f" on {file}"
    if offset >= 0:
        text += f" at offset {offset}"
    if code == E_CORRUPT and fresh:
        text += f": expected {expected:#x}, found {found:#x}"
    if not text.endswith((".", "!", "?")):
        text += "."
    cls = registered.get(NAMES[code])
    if cls is None:
        cls = BUILTIN.get(code, RuntimeError)
        if cls is OSError and errno:
            raise OSError(errno, text, file)
        raise cls(text)
    if code in (E_IO, E_FULL, E_LOG, E_NOT_DATABASE):
        raise cls(text, errno=errno or None, filename=file)
    if code == E_CORRUPT:
        raise cls(text, file=file, offset=offset if offset >= 0 else None, expected=expected, found=found)
    raise cls(text)


def last_error() -> dict:
    """The detail of this thread's newest failure, for tests and diagnosis."""
    cdef ErrorInfo* info = error_info()
    return {
        "code": info.code,
        "errno": info.sys_errno,
        "offset": info.offset,
        "expected": info.expected,
        "found": info.found,
        "file": (<bytes>info.file).decode("utf-8", "surrogateescape"),
        "text": (<bytes>info.text).decode("utf-8", "replace"),
    }


# ---- Doors for the tests of this module: what a caller below the line does, from Python.

def fail_with(int code, str text) -> int:
    raw = text.encode()
    return fail(code, raw)


def fail_n_with(int code, str fmt, long long a, long long b) -> int:
    raw = fmt.encode()
    return fail_n(code, raw, a, b)


def fail_os_with(str call, str path, int sys_errno) -> int:
    raw_call = call.encode()
    raw_path = path.encode("utf-8", "surrogateescape")
    return fail_os(raw_call, raw_path, sys_errno)


def fail_corrupt_with(str file, long long offset, str what, expected, found) -> int:
    raw_file = file.encode()
    raw_what = what.encode()
    return fail_corrupt(raw_file, offset, raw_what, expected, found)


def raise_with(int code):
    raise_status(code)


if sizeof(ErrorInfo) > EL_ERROR_ROOM:
    raise SystemError("EL_ERROR_ROOM is smaller than ErrorInfo")
memset(el_error_place(), 0, sizeof(ErrorInfo))
