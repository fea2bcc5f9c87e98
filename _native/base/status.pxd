"""Status codes of the core, and the detail that goes with the newest failure of each thread.

Below the Cython line nothing raises: a function returns a ``Status``; ``OK``, ``ABSENT`` and ``AGAIN`` are answers, every
code from ``E_FIRST`` up is a failure whose particulars wait in this thread's ``ErrorInfo`` until the door turns them into an
exception (``raise_status``).
"""
from libc.stdint cimport int64_t, uint64_t

cdef enum Status:
    OK = 0
    ABSENT = 1              # no such key, file, page: an answer, not a failure
    AGAIN = 2               # nothing was changed; secure what is lacking without the latch, then start over
    E_FIRST = 16
    E_NOMEM = 16
    E_IO = 17               # the operating system refused; errno in the detail
    E_FULL = 18             # no space left on the device
    E_LOG = 19              # the log has failed for good (law 7)
    E_CORRUPT = 20          # what was read back is not what was written
    E_CLOSED = 21           # the database is closed
    E_TXN_CLOSED = 22       # the transaction, cursor or savepoint has ended
    E_THREAD = 23           # a transaction is in use by another thread
    E_FORK = 24             # the handle belongs to the parent process
    E_READONLY = 25
    E_CONFLICT = 26         # first committer wins, and it was not this one
    E_DEADLOCK = 27
    E_TIMEOUT = 28          # lock_timeout has passed
    E_SNAPSHOT = 29         # the snapshot is too old
    E_TOO_LARGE = 30        # the transaction's undo exceeds its bound
    E_UNKNOWN = 31          # the commit may or may not be durable
    E_LOCKED = 32           # another process (or handle) has the database open
    E_NOT_SUPPORTED = 33
    E_INVALID = 34          # an argument out of bounds -> ValueError
    E_NOT_DATABASE = 35     # the directory or file is something else
    E_NEWER = 36            # made by a newer version of the format
    E_INTERRUPT = 37        # a signal is pending: the door lets Python handle it
    E_USAGE = 38            # another misuse, said in the text
    E_SERIALIZATION = 39    # committing would give what no serial order gives

cdef struct ErrorInfo:
    int code
    int sys_errno           # 0 when the operating system had no part in it
    int64_t offset          # byte position in `file`, or -1
    uint64_t expected       # checksum, LSN, page number ... for corruption
    uint64_t found
    char file[512]          # path, or empty
    char text[512]          # one sentence, no trailing period

cdef ErrorInfo* error_info() noexcept nogil
cdef int fail(int code, const char* text) noexcept nogil
cdef int fail_n(int code, const char* fmt, int64_t a, int64_t b) noexcept nogil        # fmt holds at most two %lld
cdef int fail_os(const char* call, const char* path, int sys_errno) noexcept nogil     # -> E_FULL, E_NOMEM or E_IO
cdef int fail_corrupt(const char* file, int64_t offset, const char* what,
                      uint64_t expected, uint64_t found) noexcept nogil                # -> E_CORRUPT
cdef object raise_status(int code)      # raises the exception registered for `code`; never returns
