"""FaultVfs: the instrument of the crash and fault tests.

Each call counts as one call (`calls`); each that changes something, and each sync, is one entry of the journal
(`mutations`).  From one run `crash_image(cut, seed, mode)` gives the file system as a crash after `cut` entries would
leave it; `faultstate` says what may be lost.  Journal and counts are kept below the Cython line: a call from C without
the GIL counts like one from Python.

Invariants: the live tree is always what applying the whole journal to `base` gives; an image shares contents with its
origin copy-on-write and is otherwise independent of it.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EIO, ENOSPC
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset, strcmp, strdup

from enginelib._native.base.faultstate cimport (
    CRASH_ALL, CRASH_KILL, CRASH_LOST, CRASH_POWER,
    OP_CORRUPT, OP_CREATE, OP_MKDIR, OP_PUT, OP_RENAME, OP_SYNC, OP_SYNC_DIR, OP_SYNC_FAILED, OP_TRUNCATE, OP_UNLINK,
    OP_WRITE,
    list_add, list_clear, op_drop, op_new, state_apply, state_clone, state_crash, state_free, state_init,
)
from enginelib._native.base.latch cimport latch_enter, latch_unlock, latch_lock
from enginelib._native.base.memdata cimport Data, data_read
from enginelib._native.base.memfs cimport MemFs, Place, fs_clone, fs_find, fs_free, fs_lookup, fs_walk
from enginelib._native.base.status cimport E_NOMEM, OK, fail, fail_os
from enginelib._native.base.vfs cimport KIND_DIRECTORY, KIND_FILE, stale_handle

cdef enum:
    CALL_OPEN, CALL_CLOSE, CALL_READ, CALL_WRITE, CALL_WRITE_TAIL, CALL_SYNC, CALL_SIZE, CALL_TRUNCATE, CALL_RESERVE, CALL_KIND
    CALL_MKDIR, CALL_RENAME, CALL_UNLINK, CALL_SYNC_DIR, CALL_LIST_DIR, CALL_LOCK, CALL_LOCK_BYTE, CALL_TEST_BYTES

cdef tuple CALL_NAMES = (
    "open", "close", "read", "write", "write_tail", "sync", "size", "truncate", "reserve", "kind",
    "mkdir", "rename", "unlink", "sync_dir", "list_dir", "lock", "lock_byte", "test_bytes",
)
cdef dict MODES = {"kill": CRASH_KILL, "power": CRASH_POWER, "lost": CRASH_LOST, "all": CRASH_ALL}


cdef class FaultVfs(MemoryVfs):
    def __cinit__(self):
        self.in_memory = False              # it stands for a disk
        self.cursor_at = -1
        self.stop = -1
        self.failed_at = -1
        self.random = 1
        self.room = -1
        self.marks = []
        self.fs.no_reuse = True
        if state_init(&self.base):
            raise MemoryError

    def __dealloc__(self):
        cdef int i
        state_free(&self.base)
        state_free(&self.cursor)
        list_clear(&self.journal)
        free(self.journal.ops)
        for i in range(self.n_paths):
            free(self.paths[i])
        free(self.paths)
        free(self.trace_log)
        free(self.injections)

    # ---- Counting, failing, tracing

    cdef int enter(self, int kind, bint* short_write) noexcept nogil:
        """Counts the call; 0, or the errno it has to fail with."""
        cdef int64_t number = self.call_count
        cdef Injection* j
        cdef int i
        cdef int same = CALL_WRITE if kind == CALL_WRITE_TAIL else kind
        self.call_count += 1
        short_write[0] = False
        if self.stop >= 0 and self.journal.n >= self.stop:
            return EIO
        for i in range(self.n_injections):
            j = &self.injections[i]
            if j.call == number:
                j.kind = same
            elif j.kind != same or not j.sticky:
                continue
            short_write[0] = j.short_write
            return j.sys_errno
        return 0

    cdef int leave(self, int kind, int status, const char* path, int64_t offset, int64_t n) noexcept nogil:
        cdef Call* grown
        cdef int64_t room
        if self.n_trace == self.room_trace:
            room = 2 * self.room_trace if self.room_trace else 64
            grown = <Call*>realloc(self.trace_log, <size_t>room * sizeof(Call))
            if grown == NULL:
                return status
            self.trace_log = grown
            self.room_trace = room
        grown = &self.trace_log[self.n_trace]
        self.n_trace += 1
        grown.kind = kind
        grown.status = status
        grown.path = self.intern(path)
        grown.offset = offset
        grown.n = n
        grown.mutation = self.journal.n
        return status

    cdef const char* intern(self, const char* path) noexcept nogil:
        cdef int i, room
        cdef char** grown
        # The last used is the likeliest.
        i = self.n_paths
        while i > 0:
            i -= 1
            if strcmp(self.paths[i], path) == 0:
                return self.paths[i]
        if self.n_paths == self.room_paths:
            room = 2 * self.room_paths if self.room_paths else 8
            grown = <char**>realloc(self.paths, room * sizeof(char*))
            if grown == NULL:
                return ""
            self.paths = grown
            self.room_paths = room
        self.paths[self.n_paths] = strdup(path)
        if self.paths[self.n_paths] == NULL:
            return ""
        self.n_paths += 1
        return self.paths[self.n_paths - 1]

    cdef const char* path_of(self, int handle) noexcept nogil:
        if self.handle_of(handle) == NULL:
            return ""
        return self.handles[handle].path

    cdef int note(self, int kind, Change* change, int64_t ino, int64_t offset,
                  const char* data, size_t n) noexcept nogil:
        """Adds what has just been done to the journal."""
        cdef Op* op
        cdef int e
        if change != NULL:
            op = op_new(kind, change.ino, change.place.parent, change.place.name, change.place.length,
                        change.target.parent, change.target.name, change.target.length if kind == OP_RENAME else 0,
                        offset, data, n)
        else:
            op = op_new(kind, <uint32_t>ino, 0, NULL, 0, 0, NULL, 0, offset, data, n)
        e = op == NULL or list_add(&self.journal, op)
        op_drop(op)
        if e:
            # The change is made but cannot be told of: no image past this point would be true.
            self.failed_at = self.journal.n
            return fail(E_NOMEM, "Memory for the fault journal could not be allocated")
        return OK

    # ---- The file system

    cdef int open(self, const char* path, int flags, int* handle) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        cdef Change change
        latch_lock(&self.latch)
        e = self.enter(CALL_OPEN, &cut_short)
        if e:
            handle[0] = -1
            rc = fail_os("open", path, e)
        else:
            rc = self.do_open(path, flags, handle, &change)
            if rc == OK and change.made:
                rc = self.note(OP_CREATE, &change, 0, 0, NULL, 0)
        self.leave(CALL_OPEN, rc, path, -1, flags)
        latch_unlock(&self.latch)
        return rc

    cdef int close(self, int handle) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        cdef const char* path
        latch_lock(&self.latch)
        e = self.enter(CALL_CLOSE, &cut_short)
        path = self.intern(self.path_of(handle))
        rc = self.do_close(handle)
        if e:                                   # as with close(2), the handle is gone also when it fails
            rc = fail_os("close", path, e)
        self.leave(CALL_CLOSE, rc, path, -1, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int read(self, int handle, void* buf, size_t n, int64_t offset, size_t* got) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        latch_lock(&self.latch)
        e = self.enter(CALL_READ, &cut_short)
        if e:
            got[0] = 0
            rc = fail_os("pread", self.path_of(handle), e)
        else:
            rc = self.do_read(handle, buf, n, offset, got)
        self.leave(CALL_READ, rc, self.path_of(handle), offset, <int64_t>n)
        latch_unlock(&self.latch)
        return rc

    cdef int write_as(self, int kind, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc = OK
        cdef size_t done = n
        cdef int64_t size = 0, growth
        latch_lock(&self.latch)
        e = self.enter(kind, &cut_short)
        if e == 0 and self.room >= 0 and self.do_size(handle, &size) == OK:
            growth = offset + <int64_t>n - size
            if growth > self.room:
                e = ENOSPC
            elif growth > 0:
                self.room -= growth
        if e:
            done = 0
            if cut_short and n > 1:
                self.random = self.random * <uint64_t>6364136223846793005u + 1442695040888963407u
                done = <size_t>(1 + (self.random >> 33) % (n - 1))
        if e == 0 or done:
            rc = self.do_write(handle, buf, done, offset)
            if rc == OK and done:
                rc = self.note(OP_WRITE, NULL, self.handles[handle].ino, offset, <const char*>buf, done)
        if e and rc == OK:
            rc = fail_os("pwrite", self.path_of(handle), e)
        self.leave(kind, rc, self.path_of(handle), offset, <int64_t>n)
        latch_unlock(&self.latch)
        return rc

    cdef int write(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        return self.write_as(CALL_WRITE, handle, buf, n, offset)

    cdef int write_tail(self, int handle, const void* buf, size_t n, int64_t offset) noexcept nogil:
        return self.write_as(CALL_WRITE_TAIL, handle, buf, n, offset)

    cdef int sync(self, int handle) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        latch_lock(&self.latch)
        e = self.enter(CALL_SYNC, &cut_short)
        if self.handle_of(handle) == NULL:
            rc = stale_handle(handle)
        elif self.stop >= 0 and self.journal.n >= self.stop:
            rc = fail_os("fdatasync", self.path_of(handle), e)
        else:
            rc = self.note(OP_SYNC_FAILED if e else OP_SYNC, NULL, self.handles[handle].ino, 0, NULL, 0)
            if e and rc == OK:
                rc = fail_os("fdatasync", self.path_of(handle), e)
        self.leave(CALL_SYNC, rc, self.path_of(handle), -1, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int size(self, int handle, int64_t* out) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        latch_lock(&self.latch)
        e = self.enter(CALL_SIZE, &cut_short)
        if e:
            rc = fail_os("fstat", self.path_of(handle), e)
        else:
            rc = self.do_size(handle, out)
        self.leave(CALL_SIZE, rc, self.path_of(handle), -1, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int truncate(self, int handle, int64_t size) noexcept nogil:
        return self.resize_as(CALL_TRUNCATE, handle, size)

    cdef int reserve(self, int handle, int64_t size) noexcept nogil:
        return self.resize_as(CALL_RESERVE, handle, size)

    cdef int resize_as(self, int kind, int handle, int64_t size) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        cdef int64_t before = 0
        latch_lock(&self.latch)
        e = self.enter(kind, &cut_short)
        if e == 0 and kind == CALL_RESERVE and self.room >= 0 and self.do_size(handle, &before) == OK and size > before:
            if size - before > self.room:
                e = ENOSPC
            else:
                self.room -= size - before
        if e:
            rc = fail_os("ftruncate" if kind == CALL_TRUNCATE else "fallocate", self.path_of(handle), e)
        else:
            rc = self.do_truncate(handle, size)
            if rc == OK:
                rc = self.note(OP_TRUNCATE, NULL, self.handles[handle].ino, size, NULL, 0)
        self.leave(kind, rc, self.path_of(handle), -1, size)
        latch_unlock(&self.latch)
        return rc

    cdef int kind(self, const char* path, int* out) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        latch_lock(&self.latch)
        e = self.enter(CALL_KIND, &cut_short)
        if e:
            rc = fail_os("stat", path, e)
        else:
            rc = self.do_kind(path, out)
        self.leave(CALL_KIND, rc, path, -1, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int mkdir(self, const char* path) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        cdef Change change
        latch_lock(&self.latch)
        e = self.enter(CALL_MKDIR, &cut_short)
        if e:
            rc = fail_os("mkdir", path, e)
        else:
            rc = self.do_mkdir(path, &change)
            if rc == OK and change.made:
                rc = self.note(OP_MKDIR, &change, 0, 0, NULL, 0)
        self.leave(CALL_MKDIR, rc, path, -1, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int rename(self, const char* old, const char* new) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        cdef Change change
        latch_lock(&self.latch)
        e = self.enter(CALL_RENAME, &cut_short)
        if e:
            rc = fail_os("rename", old, e)
        else:
            rc = self.do_rename(old, new, &change)
            if rc == OK and change.made:
                rc = self.note(OP_RENAME, &change, 0, 0, NULL, 0)
        self.leave(CALL_RENAME, rc, old, -1, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int unlink(self, const char* path) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        cdef Change change
        latch_lock(&self.latch)
        e = self.enter(CALL_UNLINK, &cut_short)
        if e:
            rc = fail_os("unlink", path, e)
        else:
            rc = self.do_unlink(path, &change)
            if rc == OK and change.made:
                rc = self.note(OP_UNLINK, &change, 0, 0, NULL, 0)
        self.leave(CALL_UNLINK, rc, path, -1, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int sync_dir(self, const char* path) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        cdef uint32_t ino = 0
        latch_lock(&self.latch)
        e = self.enter(CALL_SYNC_DIR, &cut_short)
        if e:
            rc = fail_os("fsync of the directory", path, e)
        else:
            rc = self.do_find_dir(path, &ino)
            if rc == OK:
                rc = self.note(OP_SYNC_DIR, NULL, ino, 0, NULL, 0)
        self.leave(CALL_SYNC_DIR, rc, path, -1, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int list_dir(self, const char* path, char** names, size_t* count) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        latch_lock(&self.latch)
        e = self.enter(CALL_LIST_DIR, &cut_short)
        if e:
            names[0] = NULL
            count[0] = 0
            rc = fail_os("opendir", path, e)
        else:
            rc = self.do_list_dir(path, names, count)
        self.leave(CALL_LIST_DIR, rc, path, -1, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int lock(self, int handle, bint exclusive) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        latch_lock(&self.latch)
        e = self.enter(CALL_LOCK, &cut_short)
        if e:
            rc = fail_os("flock", self.path_of(handle), e)
        else:
            rc = self.do_lock(handle, exclusive)
        self.leave(CALL_LOCK, rc, self.path_of(handle), -1, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int lock_byte(self, int handle, int64_t offset, bint on) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        latch_lock(&self.latch)
        e = self.enter(CALL_LOCK_BYTE, &cut_short)
        if e:
            rc = fail_os("lock of one byte", self.path_of(handle), e)
        else:
            rc = self.do_lock_byte(handle, offset, on)
        self.leave(CALL_LOCK_BYTE, rc, self.path_of(handle), offset, -1)
        latch_unlock(&self.latch)
        return rc

    cdef int test_bytes(self, int handle, int64_t offset, int64_t n, bint* held) noexcept nogil:
        cdef bint cut_short
        cdef int e, rc
        latch_lock(&self.latch)
        e = self.enter(CALL_TEST_BYTES, &cut_short)
        if e:
            held[0] = False
            rc = fail_os("test of locked bytes", self.path_of(handle), e)
        else:
            rc = self.do_test_bytes(handle, offset, n, held)
        self.leave(CALL_TEST_BYTES, rc, self.path_of(handle), offset, n)
        latch_unlock(&self.latch)
        return rc

    # ---- The door for drivers

    @property
    def calls(self) -> int:
        """Calls so far, of every kind."""
        return self.call_count

    @property
    def mutations(self) -> int:
        """Journal entries so far: each is one place to crash before or after."""
        return self.journal.n

    def inject(self, long long call, int errno, bint short=False, bint sticky=False):
        """Fails the call number `call`, counted from now (0 is the next), with `errno`.

        `short`: a write first writes a random part. `sticky`: every later call of that kind fails too.
        """
        cdef Injection* grown
        cdef int room
        if call < 0 or errno <= 0:
            raise ValueError(f"call is {call} and errno {errno}: expected call >= 0 and errno > 0.")
        latch_enter(&self.latch)
        if self.n_injections == self.room_injections:
            room = 2 * self.room_injections if self.room_injections else 4
            grown = <Injection*>realloc(self.injections, room * sizeof(Injection))
            if grown == NULL:
                latch_unlock(&self.latch)
                raise MemoryError
            self.injections = grown
            self.room_injections = room
        grown = &self.injections[self.n_injections]
        self.n_injections += 1
        grown.call = self.call_count + call
        grown.sys_errno = errno
        grown.short_write = short
        grown.sticky = sticky
        grown.kind = -1
        latch_unlock(&self.latch)

    def set_room(self, long long room):
        """A disk that is nearly full: writes may make files longer by `room` bytes in all, then they fail with ENOSPC.

        What overwrites a file's bytes needs no room.  -1: there is as much as anyone wants.
        """
        latch_enter(&self.latch)
        self.room = room
        latch_unlock(&self.latch)

    def clear_injections(self):
        """Heals the medium: no injected failure strikes any more, a stop is lifted, and there is room."""
        latch_enter(&self.latch)
        self.room = -1
        self.n_injections = 0
        self.stop = -1
        latch_unlock(&self.latch)

    def stop_at(self, long long mutation):
        """Once the journal has `mutation` entries every call fails with EIO and changes nothing: a frozen process."""
        latch_enter(&self.latch)
        self.stop = mutation
        latch_unlock(&self.latch)

    def set_marker(self, n):
        """Notes that `n` (anything) was reached at this journal position."""
        self.marks.append((self.mutations, n))

    def markers(self) -> list:
        """[(journal position, what set_marker was given)]"""
        return list(self.marks)

    cdef int seek(self, int64_t cut) noexcept nogil:
        """Brings the cursor to `cut`."""
        if self.cursor_at > cut:
            state_free(&self.cursor)
            self.cursor_at = -1
        if self.cursor_at < 0:
            if state_clone(&self.cursor, &self.base):
                return E_NOMEM
            self.cursor_at = 0
        while self.cursor_at < cut:
            if state_apply(&self.cursor, self.journal.ops[self.cursor_at]):
                state_free(&self.cursor)
                self.cursor_at = -1
                return E_NOMEM
            self.cursor_at += 1
        return OK

    def crash_image(self, long long cut, unsigned long long seed=0, str mode="power") -> FaultVfs:
        """The file system after a crash when `cut` journal entries were done, as a new FaultVfs without open handles.

        kill   the process died: all it did is there, but what was not synced is not durable yet
        power  the medium lost power: synced content is there, of the rest a random part (also of the entry at `cut`)
        lost   nothing that was not synced is there
        all    everything is there, and durable
        """
        cdef FaultVfs image
        cdef int how, rc
        cdef Op* flight = NULL
        cdef uint64_t random = seed * <uint64_t>0x9E3779B97F4A7C15u + <uint64_t>cut * <uint64_t>0xD1B54A32D192ED03u
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}: expected kill, power, lost or all.")
        how = MODES[mode]
        image = FaultVfs()
        latch_enter(&self.latch)
        if not 0 <= cut <= self.journal.n or (self.failed_at >= 0 and cut > self.failed_at):
            rc = -1
        else:
            rc = self.seek(cut)
            if rc == OK:
                if cut < self.journal.n:
                    flight = self.journal.ops[cut]
                state_free(&image.base)
                fs_free(&image.fs)
                rc = state_crash(&image.base, &self.cursor, flight, how, random)
                if rc == OK:
                    rc = fs_clone(&image.fs, &image.base.live)
        latch_unlock(&self.latch)
        if rc == -1:
            raise ValueError(f"cut is {cut}: expected 0 to {self.journal.n}, the journal's length.")
        if rc:
            raise MemoryError
        image.random = random | 1
        return image

    def put_file(self, path, bytes content not None):
        """Sets a file's content, live and durable, making it and its directories as needed.

        In a journal that has begun each part of it is an entry.
        """
        cdef Change change
        cdef Place place
        cdef int e, found, handle = -1
        cdef const char* data = content
        cdef size_t n = len(content)
        cdef uint32_t ino
        raw = path if isinstance(path, bytes) else path.encode()
        parts = [p for p in raw.split(b"/") if p and p != b"."]
        cdef const char* p
        for i in range(1, len(parts)):
            above = b"/".join(parts[:i])
            p = above
            latch_enter(&self.latch)
            e = self.do_mkdir(p, &change)
            if e == OK and change.made:
                e = self.record(OP_MKDIR, &change, 0, NULL, 0)
                fs_lookup(&self.fs, p, &ino)
                if e == OK:
                    change.ino = change.place.parent
                    e = self.record(OP_SYNC_DIR, &change, 0, NULL, 0)
            latch_unlock(&self.latch)
            if e:
                raise OSError(f"The directory {above!r} could not be made.")
        p = raw
        latch_enter(&self.latch)
        e = fs_walk(&self.fs, p, &place)
        found = -1
        if e == 0 and place.length:
            found = fs_find(&self.fs, place.parent, place.name, place.length)
            change.place = place
            if found < 0:
                e = self.do_open(p, 4, &handle, &change)
            else:
                change.ino = self.fs.entries[found].ino
                e = self.do_open(p, 2, &handle, &change)
                change.ino = self.fs.entries[found].ino
                change.place = place
            if e == 0:
                e = self.do_truncate(handle, 0)
                if e == 0:
                    e = self.do_write(handle, data, n, 0)
                self.do_close(handle)
                if e == 0:
                    e = self.record(OP_PUT, &change, 0, data, n)
        latch_unlock(&self.latch)
        if e:
            raise OSError(f"The file {path!r} could not be set.")

    cdef int record(self, int kind, Change* change, int64_t offset, const char* data, size_t n) noexcept nogil:
        """A test's own change: part of the base while nothing has happened yet, else of the journal."""
        cdef Op* op
        cdef int e
        if self.journal.n:
            return self.note(kind, change, 0, offset, data, n)
        if self.cursor_at >= 0:
            state_free(&self.cursor)
            self.cursor_at = -1
        op = op_new(kind, change.ino, change.place.parent, change.place.name, change.place.length,
                    0, NULL, 0, offset, data, n)
        if op == NULL:
            return E_NOMEM
        e = state_apply(&self.base, op)
        op_drop(op)
        return e

    def corrupt(self, path, long long offset, unsigned char xor):
        """Flips the bits of `xor` in one byte, live and durable."""
        cdef Change change
        cdef int e, handle = -1
        cdef size_t got = 0
        cdef char c = 0
        cdef char mask = <char>xor
        raw = path if isinstance(path, bytes) else path.encode()
        cdef const char* p = raw
        memset(&change, 0, sizeof(change))
        latch_enter(&self.latch)
        e = self.do_open(p, 2, &handle, &change)
        if e == OK:
            e = self.do_read(handle, &c, 1, offset, &got)
            if e == OK and got == 1:
                c ^= mask
                e = self.do_write(handle, &c, 1, offset)
            change.place.length = 0
            change.place.parent = 0
            self.do_close(handle)
            if e == OK and got == 1:
                e = self.record(OP_CORRUPT, &change, offset, &mask, 1)
        latch_unlock(&self.latch)
        if e or got != 1:
            raise ValueError(f"{path!r} has no byte at offset {offset}.")

    def trace(self) -> list:
        """Every call: (name, path, offset, n, status, journal position after it); -1 where a number means nothing."""
        out = []
        cdef int64_t i
        cdef Call* c
        for i in range(self.n_trace):
            c = &self.trace_log[i]
            out.append((CALL_NAMES[c.kind], (<bytes>c.path).decode("utf-8", "surrogateescape"),
                        c.offset, c.n, c.status, c.mutation))
        return out

    def files(self, bint durable=False) -> dict:
        """{path: content}, live, or what a power loss cannot take."""
        if not durable:
            return files_of(&self.fs)
        lost = self.crash_image(self.journal.n, 0, "lost")
        return lost.files()

    def directories(self) -> list:
        """Paths of all directories but the root."""
        cdef uint32_t i
        out = []
        for i in range(self.fs.n_entries):
            if self.fs.inodes[self.fs.entries[i].ino].kind == KIND_DIRECTORY:
                out.append(path_in(&self.fs, i))
        return sorted(out)


cdef str path_in(MemFs* fs, uint32_t entry):
    cdef uint32_t i, ino
    out = (<bytes>fs.entries[entry].name).decode("utf-8", "surrogateescape")
    ino = fs.entries[entry].parent
    while ino:
        for i in range(fs.n_entries):
            if fs.entries[i].ino == ino:
                out = (<bytes>fs.entries[i].name).decode("utf-8", "surrogateescape") + "/" + out
                ino = fs.entries[i].parent
                break
        else:
            break
    return "/" + out


cdef dict files_of(MemFs* fs):
    cdef uint32_t i
    cdef Data* d
    cdef bytes content
    cdef char* buf
    out = {}
    for i in range(fs.n_entries):
        if fs.inodes[fs.entries[i].ino].kind == KIND_FILE:
            d = &fs.inodes[fs.entries[i].ino].data
            content = PyBytes_FromStringAndSize(NULL, d.size)
            buf = PyBytes_AS_STRING(content)
            data_read(d, buf, <size_t>d.size, 0)
            out[path_in(fs, i)] = content
    return out
