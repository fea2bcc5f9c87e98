"""MemoryVfs: files that live as long as the object, for ``":memory:"`` databases and as the ground FaultVfs stands on.

Invariants: one latch guards everything; ``do_*`` run under it, the public methods take it.  The semantics are those of
RealVfs: the conformance suite runs the same tests over both.  A sync has nothing to do, and write_tail is write.
"""
from libc.errno cimport EBADF, EEXIST, EFBIG, EINVAL, EISDIR, ENOENT, ENOMEM, ENOTDIR
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, strdup

from enginelib._native.base.latch cimport latch_destroy, latch_init, latch_lock, latch_unlock
from enginelib._native.base.memdata cimport data_read, data_resize, data_write
from enginelib._native.base.memfs cimport (
    Place, fs_check_rename, fs_find, fs_free, fs_init, fs_link, fs_lookup, fs_new, fs_release, fs_unlink_entry, fs_walk,
)
from enginelib._native.base.status cimport ABSENT, E_NOMEM, OK, fail, fail_os
from enginelib._native.base.vfs cimport (
    KIND_DIRECTORY, KIND_FILE, KIND_NONE, VFS_CREATE, VFS_EXCLUSIVE, VFS_TAIL, VFS_WRITE,
    at_offset, exists_already, locked_already, stale_handle,
)

cdef enum:
    IN_USE = -2


cdef class MemoryVfs(Vfs):
    def __cinit__(self):
        latch_init(&self.latch)
        self.in_memory = True
        self.free_handle = -1
        if fs_init(&self.fs, False):
            raise MemoryError

    def __dealloc__(self):
        cdef int h
        for h in range(self.n_handles):
            if self.handles[h].next_free == IN_USE:
                free(self.handles[h].path)
        free(self.handles)
        free(self.bytes_held)
        fs_free(&self.fs)
        latch_destroy(&self.latch)

    cdef MemHandle* handle_of(self, int handle) noexcept nogil:
        if handle < 0 or handle >= self.n_handles or self.handles[handle].next_free != IN_USE:
            return NULL
        return &self.handles[handle]

    cdef int do_open(self, const char* path, int flags, int* handle, Change* change) noexcept nogil:
        cdef Place place
        cdef int found = -1, h, room
        cdef uint32_t ino = 0
        cdef MemHandle* grown
        cdef char* name
        cdef int e = fs_walk(&self.fs, path, &place)
        change.made = False
        handle[0] = -1
        if e == 0 and place.length > 0:
            found = fs_find(&self.fs, place.parent, place.name, place.length)
            if found < 0:
                e = ENOENT
            else:
                ino = self.fs.entries[found].ino
        if e == ENOENT and not flags & VFS_CREATE:
            return ABSENT
        if e == 0 and flags & VFS_CREATE and flags & VFS_EXCLUSIVE:
            return exists_already(path)
        if e == 0 and self.fs.inodes[ino].kind == KIND_DIRECTORY:
            e = EISDIR
        # ENOENT with a name means: all but the last component is there.
        if e == ENOENT and not self.is_missing_leaf(path, &place):
            return fail_os("open", path, ENOENT)
        if e and e != ENOENT:
            return fail_os("open", path, e)
        if self.free_handle < 0 and self.n_handles == self.room_handles:
            room = 2 * self.room_handles if self.room_handles else 8
            grown = <MemHandle*>realloc(self.handles, room * sizeof(MemHandle))
            if grown == NULL:
                return fail_os("open", path, ENOMEM)
            self.handles = grown
            self.room_handles = room
        name = strdup(path)
        if name == NULL:
            return fail_os("open", path, ENOMEM)
        if e == ENOENT:
            e = fs_new(&self.fs, KIND_FILE, &ino)
            if e == 0:
                e = fs_link(&self.fs, place.parent, place.name, place.length, ino)
                if e:
                    fs_release(&self.fs, ino)
            if e:
                free(name)
                return fail_os("open", path, e)
            change.made = True
            change.place = place
        change.ino = ino
        if self.free_handle >= 0:
            h = self.free_handle
            self.free_handle = self.handles[h].next_free
        else:
            h = self.n_handles
            self.n_handles += 1
        self.fs.inodes[ino].opens += 1
        self.handles[h].ino = ino
        self.handles[h].next_free = IN_USE
        self.handles[h].writable = flags & (VFS_WRITE | VFS_CREATE | VFS_TAIL) != 0
        self.handles[h].lock = 0
        self.handles[h].path = name
        handle[0] = h
        return OK

    cdef bint is_missing_leaf(self, const char* path, Place* place) noexcept nogil:
        return fs_walk(&self.fs, path, place) == 0

    cdef int do_close(self, int handle) noexcept nogil:
        cdef MemHandle* h = self.handle_of(handle)
        cdef int i = 0
        if h == NULL:
            return stale_handle(handle)
        while i < self.n_bytes:
            if self.bytes_held[i].handle == handle:
                self.n_bytes -= 1
                self.bytes_held[i] = self.bytes_held[self.n_bytes]
            else:
                i += 1
        self.unlock(h)
        self.fs.inodes[h.ino].opens -= 1
        fs_release(&self.fs, h.ino)
        free(h.path)
        h.next_free = self.free_handle
        self.free_handle = handle
        return OK

    cdef void unlock(self, MemHandle* h) noexcept nogil:
        if h.lock == 2:
            self.fs.inodes[h.ino].exclusive = 0
        elif h.lock == 1:
            self.fs.inodes[h.ino].shared -= 1
        h.lock = 0

    cdef int do_read(self, int handle, void* buf, size_t n, int64_t offset, size_t* got) noexcept nogil:
        cdef MemHandle* h = self.handle_of(handle)
        got[0] = 0
        if h == NULL:
            return stale_handle(handle)
        if offset < 0:
            return at_offset(fail_os("pread", h.path, EINVAL), offset)
        got[0] = data_read(&self.fs.inodes[h.ino].data, <char*>buf, n, offset)
        return OK

    cdef int do_write(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        cdef MemHandle* h = self.handle_of(handle)
        if h == NULL:
            return stale_handle(handle)
        if offset < 0 or not h.writable:
            return at_offset(fail_os("pwrite", h.path, EINVAL if offset < 0 else EBADF), offset)
        if offset > (<int64_t>1 << 46) or n > (<size_t>1 << 46):
            return at_offset(fail_os("pwrite", h.path, EFBIG), offset)
        if data_write(&self.fs.inodes[h.ino].data, <const char*>buf, n, offset):
            return at_offset(fail_os("pwrite", h.path, ENOMEM), offset)
        return OK

    cdef int do_truncate(self, int handle, int64_t size) noexcept nogil:
        cdef MemHandle* h = self.handle_of(handle)
        if h == NULL:
            return stale_handle(handle)
        if size < 0 or not h.writable:
            return fail_os("ftruncate", h.path, EINVAL)
        if data_resize(&self.fs.inodes[h.ino].data, size):
            return fail_os("ftruncate", h.path, ENOMEM)
        return OK

    cdef int do_size(self, int handle, int64_t* out) noexcept nogil:
        cdef MemHandle* h = self.handle_of(handle)
        if h == NULL:
            return stale_handle(handle)
        out[0] = self.fs.inodes[h.ino].data.size
        return OK

    cdef int do_kind(self, const char* path, int* out) noexcept nogil:
        cdef uint32_t ino
        cdef int e = fs_lookup(&self.fs, path, &ino)
        out[0] = KIND_NONE
        if e == ENOENT or e == ENOTDIR:
            return OK
        if e:
            return fail_os("stat", path, e)
        out[0] = self.fs.inodes[ino].kind
        return OK

    cdef int do_mkdir(self, const char* path, Change* change) noexcept nogil:
        cdef Place place
        cdef int found
        cdef uint32_t ino
        cdef int e = fs_walk(&self.fs, path, &place)
        change.made = False
        if e == 0:
            if place.length == 0:
                return OK
            found = fs_find(&self.fs, place.parent, place.name, place.length)
            if found >= 0:
                if self.fs.inodes[self.fs.entries[found].ino].kind == KIND_DIRECTORY:
                    return OK
                e = EEXIST
        if e == 0:
            e = fs_new(&self.fs, KIND_DIRECTORY, &ino)
        if e == 0:
            e = fs_link(&self.fs, place.parent, place.name, place.length, ino)
            if e:
                fs_release(&self.fs, ino)
        if e:
            return fail_os("mkdir", path, e)
        change.made = True
        change.ino = ino
        change.place = place
        return OK

    cdef int do_rename(self, const char* old, const char* new, Change* change) noexcept nogil:
        cdef int e = fs_check_rename(&self.fs, old, new, &change.place, &change.target, &change.ino)
        cdef Place* a = &change.place
        cdef Place* b = &change.target
        change.made = False
        if e:
            return fail_os("rename", old, e)
        if fs_find(&self.fs, a.parent, a.name, a.length) == fs_find(&self.fs, b.parent, b.name, b.length):
            return OK
        e = fs_link(&self.fs, b.parent, b.name, b.length, change.ino)
        if e:
            return fail_os("rename", old, e)
        fs_unlink_entry(&self.fs, fs_find(&self.fs, a.parent, a.name, a.length))
        change.made = True
        return OK

    cdef int do_unlink(self, const char* path, Change* change) noexcept nogil:
        cdef int found = -1
        cdef int e = fs_walk(&self.fs, path, &change.place)
        change.made = False
        if e == 0:
            if change.place.length == 0:
                return fail_os("unlink", path, EISDIR)
            found = fs_find(&self.fs, change.place.parent, change.place.name, change.place.length)
        if e == ENOENT or (e == 0 and found < 0):
            return ABSENT
        if e == 0 and self.fs.inodes[self.fs.entries[found].ino].kind == KIND_DIRECTORY:
            e = EISDIR
        if e:
            return fail_os("unlink", path, e)
        change.ino = self.fs.entries[found].ino
        fs_unlink_entry(&self.fs, found)
        change.made = True
        return OK

    cdef int do_find_dir(self, const char* path, uint32_t* ino) noexcept nogil:
        cdef int e = fs_lookup(&self.fs, path, ino)
        if e == 0 and self.fs.inodes[ino[0]].kind != KIND_DIRECTORY:
            e = ENOTDIR
        if e:
            return fail_os("fsync of the directory", path, e)
        return OK

    cdef int do_list_dir(self, const char* path, char** names, size_t* count) noexcept nogil:
        cdef uint32_t ino, i
        cdef size_t room = 1
        cdef char* p
        cdef int e = fs_lookup(&self.fs, path, &ino)
        names[0] = NULL
        count[0] = 0
        if e == ENOENT:
            return ABSENT
        if e == 0 and self.fs.inodes[ino].kind != KIND_DIRECTORY:
            e = ENOTDIR
        if e:
            return fail_os("opendir", path, e)
        for i in range(self.fs.n_entries):
            if self.fs.entries[i].parent == ino:
                room += self.fs.entries[i].length + 1
        p = <char*>malloc(room)
        if p == NULL:
            return fail(E_NOMEM, "Memory for a directory listing could not be allocated")
        names[0] = p
        for i in range(self.fs.n_entries):
            if self.fs.entries[i].parent == ino:
                memcpy(p, self.fs.entries[i].name, self.fs.entries[i].length + 1)
                p += self.fs.entries[i].length + 1
                count[0] += 1
        return OK

    cdef int do_lock(self, int handle, bint exclusive) noexcept nogil:
        cdef MemHandle* h = self.handle_of(handle)
        cdef int others, alone
        if h == NULL:
            return stale_handle(handle)
        others = self.fs.inodes[h.ino].shared - (1 if h.lock == 1 else 0)
        alone = self.fs.inodes[h.ino].exclusive and h.lock != 2
        if alone or (exclusive and others > 0):
            return locked_already(h.path)
        self.unlock(h)
        if exclusive:
            self.fs.inodes[h.ino].exclusive = 1
            h.lock = 2
        else:
            self.fs.inodes[h.ino].shared += 1
            h.lock = 1
        return OK

    cdef int do_lock_byte(self, int handle, int64_t offset, bint on) noexcept nogil:
        cdef MemHandle* h = self.handle_of(handle)
        cdef ByteLock* grown
        cdef int i
        if h == NULL:
            return stale_handle(handle)
        for i in range(self.n_bytes):
            if self.bytes_held[i].handle == handle and self.bytes_held[i].offset == offset:
                if not on:
                    self.n_bytes -= 1
                    self.bytes_held[i] = self.bytes_held[self.n_bytes]
                return OK
        if not on:
            return OK
        if self.n_bytes == self.room_bytes:
            i = 2 * self.room_bytes if self.room_bytes else 4
            grown = <ByteLock*>realloc(self.bytes_held, i * sizeof(ByteLock))
            if grown == NULL:
                return fail_os("lock of one byte", h.path, ENOMEM)
            self.bytes_held = grown
            self.room_bytes = i
        self.bytes_held[self.n_bytes].ino = h.ino
        self.bytes_held[self.n_bytes].handle = handle
        self.bytes_held[self.n_bytes].offset = offset
        self.n_bytes += 1
        return OK

    cdef int do_test_bytes(self, int handle, int64_t offset, int64_t n, bint* held) noexcept nogil:
        cdef MemHandle* h = self.handle_of(handle)
        cdef int i
        held[0] = False
        if h == NULL:
            return stale_handle(handle)
        for i in range(self.n_bytes):
            if (self.bytes_held[i].ino == h.ino and self.bytes_held[i].handle != handle
                    and offset <= self.bytes_held[i].offset < offset + n):
                held[0] = True
                break
        return OK

    # ---- The public face: the latch around each.

    cdef int open(self, const char* path, int flags, int* handle) noexcept nogil:
        cdef Change change
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_open(path, flags, handle, &change)
        latch_unlock(&self.latch)
        return rc

    cdef int close(self, int handle) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_close(handle)
        latch_unlock(&self.latch)
        return rc

    cdef int read(self, int handle, void* buf, size_t n, int64_t offset, size_t* got) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_read(handle, buf, n, offset, got)
        latch_unlock(&self.latch)
        return rc

    cdef int write(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_write(handle, buf, n, offset)
        latch_unlock(&self.latch)
        return rc

    cdef int write_tail(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_write(handle, buf, n, offset)
        latch_unlock(&self.latch)
        return rc

    cdef int sync(self, int handle) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = OK if self.handle_of(handle) != NULL else stale_handle(handle)
        latch_unlock(&self.latch)
        return rc

    cdef int size(self, int handle, int64_t* out) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_size(handle, out)
        latch_unlock(&self.latch)
        return rc

    cdef int truncate(self, int handle, int64_t size) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_truncate(handle, size)
        latch_unlock(&self.latch)
        return rc

    cdef int reserve(self, int handle, int64_t size) noexcept nogil:
        return self.truncate(handle, size)

    cdef int kind(self, const char* path, int* out) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_kind(path, out)
        latch_unlock(&self.latch)
        return rc

    cdef int mkdir(self, const char* path) noexcept nogil:
        cdef Change change
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_mkdir(path, &change)
        latch_unlock(&self.latch)
        return rc

    cdef int rename(self, const char* old, const char* new) noexcept nogil:
        cdef Change change
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_rename(old, new, &change)
        latch_unlock(&self.latch)
        return rc

    cdef int unlink(self, const char* path) noexcept nogil:
        cdef Change change
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_unlink(path, &change)
        latch_unlock(&self.latch)
        return rc

    cdef int sync_dir(self, const char* path) noexcept nogil:
        cdef uint32_t ino
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_find_dir(path, &ino)
        latch_unlock(&self.latch)
        return rc

    cdef int list_dir(self, const char* path, char** names, size_t* count) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_list_dir(path, names, count)
        latch_unlock(&self.latch)
        return rc

    cdef int lock(self, int handle, bint exclusive) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_lock(handle, exclusive)
        latch_unlock(&self.latch)
        return rc

    cdef int lock_byte(self, int handle, int64_t offset, bint on) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_lock_byte(handle, offset, on)
        latch_unlock(&self.latch)
        return rc

    cdef int test_bytes(self, int handle, int64_t offset, int64_t n, bint* held) noexcept nogil:
        cdef int rc
        latch_lock(&self.latch)
        rc = self.do_test_bytes(handle, offset, n, held)
        latch_unlock(&self.latch)
        return rc
