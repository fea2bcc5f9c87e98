"""RealVfs: the operating system's files.

Invariants: every descriptor is close-on-exec; every system call that may be interrupted is retried; a short read means
the end of the file and a short write is continued.  The handle table is our own, so that a handle can carry its path
(for error messages) and its mapped window, and so that a stale handle is an error instead of somebody else's
descriptor.

The window of ``write_tail`` is a mapped part of the file, used only where a store can neither fail nor need new space:
 - its pages are brought in by MADV_POPULATE_WRITE, which returns an error where a store would raise SIGBUS, and are
   locked (mlock), so they stay resident and no later read error can raise it either;
 - the range lies inside the file, whose blocks exist because they were written or reserved before;
 - the file system is one that changes a block in place (ext2/3/4, tmpfs).  A copy-on-write one (btrfs, zfs, APFS, XFS
   with shared extents) has to find room when a clean page is first stored to, and answers a full disk with SIGBUS.
In every other case, and for ever after the first refusal, the handle uses pwrite.

A store through a mapping dirties the whole folio (the page cache's unit), and a sync then writes all of it: measured,
1 MiB for each commit when the file had been preallocated by 1 MiB writes.  A folio is as large as the write or the
read-ahead that made it, so on VFS_TAIL handles writes go in pieces of FOLIO and read-ahead is off.
"""
from libc.errno cimport EEXIST, EINTR, ENOENT, errno
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, strdup, strlen

from enginelib._native.base.latch cimport latch_destroy, latch_init, latch_lock, latch_unlock
from enginelib._native.base.status cimport (
    ABSENT, E_NOMEM, OK, fail, fail_os,
)
from enginelib._native.base.vfs cimport (
    VFS_CREATE, VFS_EXCLUSIVE, VFS_TAIL, VFS_WRITE, at_offset, exists_already, locked_already, stale_handle,
)

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <dirent.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/file.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/types.h>
    #include <unistd.h>
    #if defined(__linux__)
    #include <sys/vfs.h>
    #endif

    #define EL_CHUNK ((size_t)1 << 30)

    /* Each returns 0 or an errno. */
    static int el_open(const char* path, int create, int exclusive, int writable, int* fd) {
        int how = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | (create ? O_CREAT : 0);
        if (create && exclusive) how |= O_EXCL;
        struct stat st;
        do { *fd = open(path, how, 0666); } while (*fd < 0 && errno == EINTR);
        if (*fd < 0) return errno;
        if (!writable && fstat(*fd, &st) == 0 && S_ISDIR(st.st_mode)) { close(*fd); *fd = -1; return EISDIR; }
        return 0;
    }
    static int el_pread(int fd, void* buf, size_t n, int64_t off, size_t* got) {
        *got = 0;
        while (*got < n) {
            size_t part = n - *got < EL_CHUNK ? n - *got : EL_CHUNK;
            ssize_t r = pread(fd, (char*)buf + *got, part, (off_t)(off + (int64_t)*got));
            if (r < 0) { if (errno == EINTR) continue; return errno; }
            if (r == 0) break;
            *got += (size_t)r;
        }
        return 0;
    }
    static int el_pwrite(int fd, const void* buf, size_t n, int64_t off, size_t chunk) {
        size_t done = 0;
        while (done < n) {
            size_t part = n - done < chunk ? n - done : chunk;
            ssize_t r = pwrite(fd, (const char*)buf + done, part, (off_t)(off + (int64_t)done));
            if (r < 0) { if (errno == EINTR) continue; return errno; }
            if (r == 0) return EIO;
            done += (size_t)r;
        }
        return 0;
    }
    static int el_sync(int fd) {
        int r;
        do {
    #if defined(F_FULLFSYNC)
            r = fcntl(fd, F_FULLFSYNC);
            if (r < 0 && (errno == ENOTSUP || errno == EINVAL || errno == ENOTTY)) r = fsync(fd);
    #else
            r = fdatasync(fd);
    #endif
        } while (r < 0 && errno == EINTR);
        return r < 0 ? errno : 0;
    }
    static int el_sync_dir(const char* path) {
        int fd, r;
        do { fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); } while (fd < 0 && errno == EINTR);
        if (fd < 0) return errno;
        do { r = fsync(fd); } while (r < 0 && errno == EINTR);
        r = r < 0 ? errno : 0;
        close(fd);
        return r;
    }
    static int el_size(int fd, int64_t* out) {
        struct stat st;
        if (fstat(fd, &st) < 0) return errno;
        *out = (int64_t)st.st_size;
        return 0;
    }
    static int el_truncate(int fd, int64_t size) {
        int r;
        do { r = ftruncate(fd, (off_t)size); } while (r < 0 && errno == EINTR);
        return r < 0 ? errno : 0;
    }
    static int el_reserve(int fd, int64_t size) {
        static const char zeros[1 << 16];
        int64_t at = 0;
        int r = 0;
    #if defined(__linux__)
        do { r = fallocate(fd, 0, 0, (off_t)size); } while (r < 0 && errno == EINTR);
        if (r == 0) return 0;
        if (errno != EOPNOTSUPP && errno != ENOSYS) return errno;
    #endif
        for (r = 0; r == 0 && at < size; at += (int64_t)sizeof(zeros))      /* no such call: every byte is written */
            r = el_pwrite(fd, zeros, size - at < (int64_t)sizeof(zeros) ? (size_t)(size - at) : sizeof(zeros), at, sizeof(zeros));
        return r;
    }
    static int el_kind(const char* path, int* out) {                 /* 0 none, 1 file, 2 directory, 3 other */
        struct stat st;
        if (stat(path, &st) < 0) {
            if (errno != ENOENT && errno != ENOTDIR) return errno;
            *out = 0;
        } else *out = S_ISREG(st.st_mode) ? 1 : S_ISDIR(st.st_mode) ? 2 : 3;
        return 0;
    }
    static int el_mkdir(const char* path) {
        int kind;
        if (mkdir(path, 0777) == 0) return 0;
        if (errno != EEXIST) return errno;
        return el_kind(path, &kind) == 0 && kind == 2 ? 0 : EEXIST;
    }
    static int el_flock(int fd, int exclusive) {
        int r;
        do { r = flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB); } while (r < 0 && errno == EINTR);
        return r < 0 ? errno : 0;
    }
    #if defined(F_OFD_SETLK)
    #define EL_SETLK F_OFD_SETLK
    #define EL_GETLK F_OFD_GETLK
    #else                                    /* per process: enough for readers in other processes */
    #define EL_SETLK F_SETLK
    #define EL_GETLK F_GETLK
    #endif
    static int el_lock_byte(int fd, int64_t off, int on) {
        struct flock l;
        int r;
        memset(&l, 0, sizeof l);
        l.l_type = on ? F_RDLCK : F_UNLCK;
        l.l_whence = SEEK_SET; l.l_start = (off_t)off; l.l_len = 1;
        do { r = fcntl(fd, EL_SETLK, &l); } while (r < 0 && errno == EINTR);
        return r < 0 ? errno : 0;
    }
    static int el_test_bytes(int fd, int64_t off, int64_t n, int* held) {
        struct flock l;
        memset(&l, 0, sizeof l);
        l.l_type = F_WRLCK; l.l_whence = SEEK_SET; l.l_start = (off_t)off; l.l_len = (off_t)n;
        if (fcntl(fd, EL_GETLK, &l) < 0) return errno;
        *held = l.l_type != F_UNLCK;
        return 0;
    }
    static void el_clear_errno(void) { errno = 0; }
    static int el_in_place(int fd) {
    #if defined(__linux__)
        struct statfs s;
        if (fstatfs(fd, &s) < 0) return 0;
        return (unsigned long)s.f_type == 0xEF53ul || (unsigned long)s.f_type == 0x01021994ul;
    #else
        (void)fd;
        return 0;
    #endif
    }
    static char* el_map(int fd, int64_t start, size_t n) {
        void* p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)start);
        if (p == MAP_FAILED) return NULL;
    #if defined(__linux__)
        /* Locked as they come in: mlock would map them all read-only, and each page's first store be a fault. */
        if (mlock2(p, n, MLOCK_ONFAULT) < 0) { munmap(p, n); return NULL; }
        /* Read-around would bring in megabytes that are not there yet, at once and in the middle of somebody's commit. */
        madvise(p, n, MADV_RANDOM);
    #endif
        return (char*)p;
    }
    static int el_populate(char* p, size_t n) {
    #if defined(__linux__)
    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23
    #endif
        return madvise(p, n, MADV_POPULATE_WRITE) < 0;               /* EINVAL before Linux 5.14 */
    #else
        (void)p; (void)n;
        return 1;
    #endif
    }
    static void el_no_readahead(int fd) {
    #if defined(POSIX_FADV_RANDOM)
        posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    #else
        (void)fd;
    #endif
    }
    """
    int el_open(const char* path, int create, int exclusive, int writable, int* fd) noexcept nogil
    int el_pread(int fd, void* buf, size_t n, int64_t off, size_t* got) noexcept nogil
    int el_pwrite(int fd, const void* buf, size_t n, int64_t off, size_t chunk) noexcept nogil
    int el_sync(int fd) noexcept nogil
    int el_sync_dir(const char* path) noexcept nogil
    int el_size(int fd, int64_t* out) noexcept nogil
    int el_truncate(int fd, int64_t size) noexcept nogil
    int el_reserve(int fd, int64_t size) noexcept nogil
    int el_kind(const char* path, int* out) noexcept nogil
    int el_mkdir(const char* path) noexcept nogil
    int el_flock(int fd, int exclusive) noexcept nogil
    int el_lock_byte(int fd, int64_t off, int on) noexcept nogil
    int el_test_bytes(int fd, int64_t off, int64_t n, int* held) noexcept nogil
    int el_in_place(int fd) noexcept nogil
    void el_clear_errno() noexcept nogil
    char* el_map(int fd, int64_t start, size_t n) noexcept nogil
    int el_populate(char* p, size_t n) noexcept nogil
    void el_no_readahead(int fd) noexcept nogil
    size_t EL_CHUNK
    int EWOULDBLOCK
    ctypedef struct DIR:
        pass
    cdef struct dirent:
        char* d_name
    DIR* opendir(const char*) noexcept nogil
    dirent* readdir(DIR*) noexcept nogil
    int closedir(DIR*) noexcept nogil
    int munmap(void*, size_t) noexcept nogil
    int posix_close "close"(int) noexcept nogil
    int posix_rename "rename"(const char*, const char*) noexcept nogil
    int posix_unlink "unlink"(const char*) noexcept nogil

cdef enum:
    WINDOW = 1 << 22         # exchanging one stops the other processors, whatever its size
    SMALL_WINDOW = 1 << 20   # where no more memory may be locked
    STEP = 1 << 12           # what is brought in ahead of the tail at once: a page whose memory was never used takes 10 to 15 us
    FOLIO = 1 << 14          # the largest folio that is written to by a call, and so the most that a commit's sync writes for nothing
    SMALL = 2048             # bringing in the pages of more than this costs more than a system call


cdef void drop_window(RealFile* f) noexcept nogil:
    if f.window != NULL:
        munmap(f.window, <size_t>f.window_length)
        f.window = NULL
    f.window_start = f.window_end = f.window_length = 0
    f.ready_start = f.ready_end = 0


cdef class RealVfs(Vfs):
    def __cinit__(self):
        self.free_slot = -1
        latch_init(&self.latch)

    def __dealloc__(self):
        cdef int h
        cdef RealFile* f
        for h in range(self.used):
            f = &self.blocks[h // FILES_PER_BLOCK][h % FILES_PER_BLOCK]
            if f.fd >= 0:
                drop_window(f)
                posix_close(f.fd)
                free(f.path)
            latch_destroy(&f.latch)
        for h in range((self.used + FILES_PER_BLOCK - 1) // FILES_PER_BLOCK):
            free(self.blocks[h])
        latch_destroy(&self.latch)

    cdef RealFile* file(self, int handle) noexcept nogil:
        cdef RealFile* block
        if <unsigned int>handle >= FILES_PER_BLOCK * MAX_BLOCKS:
            return NULL
        block = self.blocks[handle // FILES_PER_BLOCK]
        if block == NULL or block[handle % FILES_PER_BLOCK].fd < 0:
            return NULL
        return &block[handle % FILES_PER_BLOCK]

    cdef int open(self, const char* path, int flags, int* handle) noexcept nogil:
        cdef int fd = -1, h, i
        cdef RealFile* f
        cdef RealFile* block
        cdef char* name
        cdef int e = el_open(path, flags & VFS_CREATE, flags & VFS_EXCLUSIVE,
                             flags & (VFS_WRITE | VFS_CREATE | VFS_TAIL), &fd)
        handle[0] = -1
        if e == ENOENT and not (flags & VFS_CREATE):
            return ABSENT
        if e == EEXIST and flags & VFS_EXCLUSIVE:
            return exists_already(path)
        if e:
            return fail_os("open", path, e)
        name = strdup(path)
        latch_lock(&self.latch)
        h = self.free_slot
        if h >= 0:
            f = &self.blocks[h // FILES_PER_BLOCK][h % FILES_PER_BLOCK]
            self.free_slot = f.next_free
        else:
            h = self.used
            f = NULL
            if h < FILES_PER_BLOCK * MAX_BLOCKS:
                block = self.blocks[h // FILES_PER_BLOCK]
                if block == NULL:
                    block = <RealFile*>calloc(FILES_PER_BLOCK, sizeof(RealFile))
                    if block != NULL:
                        for i in range(FILES_PER_BLOCK):
                            block[i].fd = -1
                        self.blocks[h // FILES_PER_BLOCK] = block
                if block != NULL:
                    f = &block[h % FILES_PER_BLOCK]
                    latch_init(&f.latch)
                    self.used += 1
        if f == NULL or name == NULL:
            if f != NULL:
                f.next_free = self.free_slot
                self.free_slot = h
            latch_unlock(&self.latch)
            posix_close(fd)
            free(name)
            return fail(E_NOMEM, "Memory for a file handle could not be allocated")
        f.flags = flags
        f.path = name
        f.window = NULL
        f.window_start = f.window_end = f.window_length = 0
        f.ready_start = f.ready_end = 0
        f.no_window = not (flags & VFS_TAIL) or not el_in_place(fd)
        f.piece = EL_CHUNK if f.no_window else FOLIO
        if not f.no_window:
            el_no_readahead(fd)
        f.fd = fd
        latch_unlock(&self.latch)
        handle[0] = h
        return OK

    cdef int close(self, int handle) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef int e = 0, fd
        cdef int rc = OK
        if f == NULL:
            return stale_handle(handle)
        latch_lock(&f.latch)
        drop_window(f)
        fd = f.fd
        f.fd = -1
        latch_unlock(&f.latch)
        # Never retried: on Linux the descriptor is gone even when close reports EINTR.
        if posix_close(fd) < 0 and errno != EINTR:
            e = errno
        if e:
            rc = fail_os("close", f.path, e)
        latch_lock(&self.latch)
        free(f.path)
        f.path = NULL
        f.next_free = self.free_slot
        self.free_slot = handle
        latch_unlock(&self.latch)
        return rc

    cdef int read(self, int handle, void* buf, size_t n, int64_t offset, size_t* got) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef int e
        got[0] = 0
        if f == NULL:
            return stale_handle(handle)
        e = el_pread(f.fd, buf, n, offset, got)
        return at_offset(fail_os("pread", f.path, e), offset) if e else OK

    cdef int write(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef int e
        if f == NULL:
            return stale_handle(handle)
        e = el_pwrite(f.fd, buf, n, offset, f.piece)
        return at_offset(fail_os("pwrite", f.path, e), offset) if e else OK

    cdef int write_tail(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef const char* from_ = <const char*>buf
        cdef size_t part
        cdef int e = 0
        if f == NULL:
            return stale_handle(handle)
        if f.no_window or n > SMALL:
            return self.write(handle, buf, n, offset)
        latch_lock(&f.latch)
        while n > 0:
            if offset < f.ready_start or offset >= f.ready_end:
                if self.make_ready(f, offset, n):
                    e = el_pwrite(f.fd, from_, n, offset, f.piece)
                    break
            part = <size_t>(f.ready_end - offset)
            if part > n:
                part = n
            memcpy(f.window + (offset - f.window_start), from_, part)
            from_ += part
            offset += part
            n -= part
        latch_unlock(&f.latch)
        return at_offset(fail_os("pwrite", f.path, e), offset) if e else OK

    cdef int make_ready(self, RealFile* f, int64_t offset, size_t n) noexcept nogil:
        """Makes the step at `offset` safe to store to. 0, or 1 when the bytes must go by a system call."""
        cdef int64_t size = 0, start, most
        if f.no_window or offset < 0:
            return 1
        if offset < f.window_start or offset >= f.window_end:
            if el_size(f.fd, &size) or offset + <int64_t>n > size:
                return 1
            drop_window(f)
            most = WINDOW
            while f.window == NULL:
                f.window_start = offset - offset % most
                f.window_end = min(f.window_start + most, size)
                f.window_length = f.window_end - f.window_start
                f.window = el_map(f.fd, f.window_start, <size_t>f.window_length)
                if f.window == NULL:
                    if most == SMALL_WINDOW:
                        return self.give_up(f)
                    most = SMALL_WINDOW
        start = offset - offset % STEP
        if start != f.ready_end:
            f.ready_start = start
        f.ready_end = start + STEP
        if f.ready_end > f.window_end:
            f.ready_end = f.window_end
        if el_populate(f.window + (start - f.window_start), <size_t>(f.ready_end - start)):
            return self.give_up(f)
        return 0

    cdef int give_up(self, RealFile* f) noexcept nogil:
        drop_window(f)
        f.no_window = True
        return 1

    cdef int sync(self, int handle) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef int e
        if f == NULL:
            return stale_handle(handle)
        e = el_sync(f.fd)
        return fail_os("fdatasync", f.path, e) if e else OK

    cdef int size(self, int handle, int64_t* out) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef int e
        if f == NULL:
            return stale_handle(handle)
        e = el_size(f.fd, out)
        return fail_os("fstat", f.path, e) if e else OK

    cdef int truncate(self, int handle, int64_t size) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef int e
        if f == NULL:
            return stale_handle(handle)
        # Storing to a mapped page beyond the end would be a SIGBUS.
        latch_lock(&f.latch)
        drop_window(f)
        e = el_truncate(f.fd, size)
        latch_unlock(&f.latch)
        return fail_os("ftruncate", f.path, e) if e else OK

    cdef int reserve(self, int handle, int64_t size) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef int e
        if f == NULL:
            return stale_handle(handle)
        e = el_reserve(f.fd, size)
        return fail_os("fallocate", f.path, e) if e else OK

    cdef int kind(self, const char* path, int* out) noexcept nogil:
        cdef int e = el_kind(path, out)
        return fail_os("stat", path, e) if e else OK

    cdef int mkdir(self, const char* path) noexcept nogil:
        cdef int e = el_mkdir(path)
        return fail_os("mkdir", path, e) if e else OK

    cdef int rename(self, const char* old, const char* new) noexcept nogil:
        if posix_rename(old, new) < 0:
            return fail_os("rename", old, errno)
        return OK

    cdef int unlink(self, const char* path) noexcept nogil:
        if posix_unlink(path) < 0:
            if errno == ENOENT:
                return ABSENT
            return fail_os("unlink", path, errno)
        return OK

    cdef int sync_dir(self, const char* path) noexcept nogil:
        cdef int e = el_sync_dir(path)
        return fail_os("fsync of the directory", path, e) if e else OK

    cdef int list_dir(self, const char* path, char** names, size_t* count) noexcept nogil:
        cdef DIR* d = opendir(path)
        cdef dirent* entry
        cdef size_t room = 1024, used = 0, n
        cdef char* block
        cdef char* grown
        names[0] = NULL
        count[0] = 0
        if d == NULL:
            return ABSENT if errno == ENOENT else fail_os("opendir", path, errno)
        block = <char*>malloc(room)
        while block != NULL:
            el_clear_errno()
            entry = readdir(d)
            if entry == NULL:
                if errno:
                    free(block)
                    closedir(d)
                    return fail_os("readdir", path, errno)
                break
            n = strlen(entry.d_name) + 1
            if (n == 2 and entry.d_name[0] == b'.') or (n == 3 and entry.d_name[0] == b'.' and entry.d_name[1] == b'.'):
                continue
            if used + n > room:
                room = 2 * (used + n)
                grown = <char*>realloc(block, room)
                if grown == NULL:
                    free(block)
                    block = NULL
                    break
                block = grown
            memcpy(block + used, entry.d_name, n)
            used += n
            count[0] += 1
        closedir(d)
        if block == NULL:
            count[0] = 0
            return fail(E_NOMEM, "Memory for a directory listing could not be allocated")
        names[0] = block
        return OK

    cdef int lock(self, int handle, bint exclusive) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef int e
        if f == NULL:
            return stale_handle(handle)
        e = el_flock(f.fd, exclusive)
        if e == EWOULDBLOCK:
            return locked_already(f.path)
        return fail_os("flock", f.path, e) if e else OK

    cdef int lock_byte(self, int handle, int64_t offset, bint on) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef int e
        if f == NULL:
            return stale_handle(handle)
        e = el_lock_byte(f.fd, offset, on)
        return at_offset(fail_os("lock of one byte", f.path, e), offset) if e else OK

    cdef int test_bytes(self, int handle, int64_t offset, int64_t n, bint* held) noexcept nogil:
        cdef RealFile* f = self.file(handle)
        cdef int e, taken = 0
        held[0] = False
        if f == NULL:
            return stale_handle(handle)
        e = el_test_bytes(f.fd, offset, n, &taken)
        held[0] = taken != 0
        return at_offset(fail_os("test of locked bytes", f.path, e), offset) if e else OK

    def windowed(self, int handle) -> bool:
        """Whether write_tail may go through a mapping on this handle, for tests and benches."""
        cdef RealFile* f = self.file(handle)
        return f != NULL and not f.no_window
