"""Python's way into the log, for tests, measurements and tools. The engine does not use it."""
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset
from ..base.status cimport ABSENT, AGAIN, E_FIRST, OK, raise_status
from ..base.latch cimport Latch, latch_destroy, latch_enter, latch_init, latch_lock, latch_unlock
from ..base.vfs cimport Vfs
from .reader cimport LogReader
from .record cimport Record, R_COMMIT, record_tuple
from .record import BY_NAME
from .settle cimport settle_tail
from .writer cimport DEFAULT_BUFFER, DEFAULT_SEGMENT, LogWriter, SYNC, OS

cdef extern from *:
    """
    #include <time.h>
    static inline long long el_log_nanos(void) {
        struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000LL + t.tv_nsec;
    }
    """
    long long nanos "el_log_nanos"() noexcept nogil

DATABASE_ID = bytes(range(16))


cdef int ready(LogWriter w, size_t n) noexcept nogil:
    """latch (may wait): reserve, making room as often as it takes."""
    cdef int rc
    while True:
        rc = w.reserve(n)
        if rc != AGAIN:
            return rc
        rc = w.make_room(n)
        if rc != OK:
            return rc


cdef class Log:
    """A LogWriter with its latch. Any thread may call."""
    cdef LogWriter writer
    cdef Latch latch
    cdef bint open

    def __cinit__(self, Vfs vfs not None, directory="log", *, unsigned long long segment_size=DEFAULT_SEGMENT,
                  unsigned long long first_lsn=0, unsigned int incarnation=1, bytes database_id not None=DATABASE_ID,
                  size_t buffer_size=DEFAULT_BUFFER, unsigned long long prev_end=0, unsigned int prev_crc=0,
                  bytes names not None=b""):
        cdef bytes path = directory if isinstance(directory, bytes) else str(directory).encode()
        latch_init(&self.latch)
        self.writer = LogWriter()
        if prev_end:
            self.writer.follow(prev_end, prev_crc)
        self.check(self.writer.start(vfs, &self.latch, path, segment_size, first_lsn, incarnation,
                                     <const uint8_t*><const char*>database_id, buffer_size))
        self.open = True
        if names:
            self.set_names(names)

    def __dealloc__(self):
        self.writer = None
        latch_destroy(&self.latch)

    cdef check(self, int rc):
        if rc >= E_FIRST:
            raise_status(rc)
        return rc

    def set_names(self, bytes names not None):
        cdef int rc
        cdef const uint8_t* p = <const uint8_t*><const char*>names
        cdef size_t n = len(names)
        with nogil:
            latch_lock(&self.latch)
            rc = self.writer.set_names(p, n)
            latch_unlock(&self.latch)
        self.check(rc)

    def append(self, str name not None, *, unsigned long long txn=0, unsigned int keyspace=0, unsigned long long a=0,
               unsigned long long b=0, bytes key not None=b"", bytes value not None=b"", int flush=0, bint reserved=False,
               bint room=True):
        """Appends one record and, with flush=1 (os) or 2 (sync), makes it so durable. -> LSN.
        reserved: its room was kept by reserve_ends. room=False: MemoryError-free trial, None when reserve answers AGAIN."""
        cdef Record r
        cdef uint64_t lsn = 0
        cdef int rc = OK
        memset(&r, 0, sizeof(r))
        r.type = BY_NAME[name]
        r.txn, r.keyspace, r.a, r.b = txn, keyspace, a, b
        r.key, r.klen = key, len(key)
        r.value, r.vlen = value, len(value)
        cdef size_t n = 64 + r.klen + r.vlen
        with nogil:
            latch_lock(&self.latch)
            if not reserved:
                rc = ready(self.writer, n) if room else self.writer.reserve(n)
            if rc == OK:
                lsn = self.writer.append(&r)
                if flush:
                    rc = self.writer.flush(self.writer.end_lsn, flush)
            latch_unlock(&self.latch)
        if rc == AGAIN:
            return None
        self.check(rc)
        return lsn

    def put(self, unsigned long long txn, unsigned int keyspace, bytes key not None, bytes value not None) -> int:
        """As append("put", ...), by the fast path."""
        cdef const char* k = key
        cdef const char* v = value
        cdef size_t klen = len(key), vlen = len(value)
        cdef uint64_t lsn = 0
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = ready(self.writer, 64 + klen + vlen)
            if rc == OK:
                lsn = self.writer.append_put(txn, keyspace, k, klen, v, vlen)
            latch_unlock(&self.latch)
        self.check(rc)
        return lsn

    def delete(self, unsigned long long txn, unsigned int keyspace, bytes key not None) -> int:
        cdef const char* k = key
        cdef size_t klen = len(key)
        cdef uint64_t lsn = 0
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = ready(self.writer, 64 + klen)
            if rc == OK:
                lsn = self.writer.append_delete(txn, keyspace, k, klen)
            latch_unlock(&self.latch)
        self.check(rc)
        return lsn

    def flush(self, int level=SYNC, lsn=None):
        cdef uint64_t to = <uint64_t>-1 if lsn is None else lsn
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = self.writer.flush(to, level)
            latch_unlock(&self.latch)
        self.check(rc)

    def reserve_ends(self, long long n):
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            while True:
                rc = self.writer.reserve_ends(n)
                if rc != AGAIN:
                    break
                rc = self.writer.make_room(n)
                if rc != OK:
                    break
            latch_unlock(&self.latch)
        self.check(rc)

    def release_below(self, unsigned long long lsn):
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = self.writer.release_below(lsn)
            latch_unlock(&self.latch)
        self.check(rc)

    def prepare_ahead(self):
        cdef int rc
        with nogil:
            latch_lock(&self.latch)
            rc = self.writer.prepare_ahead()
            latch_unlock(&self.latch)
        self.check(rc)

    def state(self) -> dict:
        w = self.writer
        latch_enter(&self.latch)
        got = (w.end_lsn, w.written_lsn, w.synced_lsn, w.failed, w.groups, w.syncs, w.seg_first, w.next_first, w.cap,
               w.incarnation, w.ends)
        latch_unlock(&self.latch)
        return dict(zip(("end", "written", "synced", "failed", "groups", "syncs", "segment", "next", "cap", "incarnation",
                         "ends"), got))

    @property
    def spares(self):
        return bin(self.writer.spares).count("1")

    @property
    def spares_most(self):
        return self.writer.spares_most

    def trim(self):
        self.writer.trim()

    def close(self):
        if self.open:
            self.open = False
            self.writer.close()

    # --- measurements: nanoseconds per round, the latch held as the engine holds it ---------------------------------

    def time_append(self, long rounds, int klen=16, int vlen=100) -> float:
        """append_put with its reserve; what make_room and flushes take is left out."""
        cdef bytes k = b"k" * klen
        cdef bytes v = b"v" * vlen
        cdef const char* kp = k
        cdef const char* vp = v
        cdef long long t, total = 0
        cdef long i = 0, _j, done
        cdef int rc = OK
        with nogil:
            latch_lock(&self.latch)
            while i < rounds and rc == OK:
                rc = ready(self.writer, 1 << 16)
                t = nanos()
                done = 0
                for _j in range(200):
                    if self.writer.reserve(64 + klen + vlen) != OK:
                        break
                    self.writer.append_put(7, 3, kp, klen, vp, vlen)
                    done += 1
                total += nanos() - t
                i += done
                if rc == OK:
                    rc = self.writer.flush(self.writer.end_lsn, OS)
            latch_unlock(&self.latch)
        self.check(rc)
        return total / <double>i

    def time_commit(self, long rounds, int level, int vlen=100) -> float:
        """put + commit + flush(level), everything included."""
        cdef bytes v = b"v" * vlen
        cdef const char* vp = v
        cdef Record r
        cdef long long t
        cdef long i
        cdef int rc = OK
        memset(&r, 0, sizeof(r))
        r.type = R_COMMIT
        with nogil:
            t = nanos()
            for i in range(rounds):
                latch_lock(&self.latch)
                rc = ready(self.writer, 192 + vlen)
                if rc == OK:
                    self.writer.append_put(i, 3, vp, 16, vp, vlen)
                    r.txn = r.a = i
                    r.b = 1700000000000000
                    self.writer.append(&r)
                    if level:
                        rc = self.writer.flush(self.writer.end_lsn, level)
                latch_unlock(&self.latch)
                if rc != OK:
                    break
            t = nanos() - t
        self.check(rc)
        return t / <double>rounds


def time_bare(Vfs vfs not None, path, size_t n, long long size, long rounds, str how not None) -> float:
    """What the file system alone takes per write: how = "tail" (write_tail) or "sync" (write, sync)."""
    cdef bytes data = b"x" * n
    cdef const char* p = data
    cdef bytes name = str(path).encode()
    cdef bint tail = how == "tail"
    cdef long long t, at = 0
    cdef long _i
    cdef int h = -1
    cdef int rc = vfs.open(name, 2 | 16, &h)
    if rc != OK:
        raise_status(rc)
    with nogil:
        t = nanos()
        for _i in range(rounds):
            if at + <long long>n > size:
                at = 0
            if tail:
                vfs.write_tail(h, p, n, at)
            else:
                vfs.write(h, p, n, at)
                vfs.sync(h)
            at += n
        t = nanos() - t
    vfs.close(h)
    return t / <double>rounds


def read_log(Vfs vfs not None, directory="log", *, unsigned long long start_lsn=0,
             unsigned long long segment_size=DEFAULT_SEGMENT, database_id=DATABASE_ID, limit_lsn=None) -> dict:
    """Every record from start_lsn on, and what the reader knows at the end. Raises for corruption."""
    cdef bytes path = directory if isinstance(directory, bytes) else str(directory).encode()
    cdef LogReader reader = LogReader()
    cdef Record r
    cdef bytes ident = database_id
    cdef const uint8_t* ident_bytes = NULL
    cdef int rc
    if limit_lsn is not None:
        reader.limit_lsn = limit_lsn
    if ident is not None:
        ident_bytes = <const uint8_t*><const char*>ident
    rc = reader.open(vfs, path, start_lsn, segment_size, ident_bytes)
    records = []
    while rc == OK:
        rc = reader.next(&r)
        if rc == OK:
            records.append(record_tuple(&r))
    if rc != ABSENT:
        raise_status(rc)
    return {"records": records, "end_lsn": reader.end_lsn, "highest_lsn": reader.highest_lsn,
            "known_synced": reader.known_synced, "incarnation": reader.incarnation,
            "max_incarnation": reader.max_incarnation, "last_crc": reader.last_crc}


def time_read(Vfs vfs not None, directory="log", *, unsigned long long segment_size=DEFAULT_SEGMENT) -> tuple:
    """(seconds, bytes, records) of one pass over the whole log."""
    cdef bytes path = str(directory).encode()
    cdef LogReader reader = LogReader()
    cdef Record r
    cdef long records = 0
    cdef uint64_t first = 0
    cdef long long t = nanos()
    cdef int rc = reader.open(vfs, path, 0, segment_size, NULL)
    with nogil:
        while rc == OK:
            rc = reader.next(&r)
            if records == 0:
                first = r.lsn
            if rc == OK:
                records += 1
    if rc != ABSENT:
        raise_status(rc)
    return (nanos() - t) / 1e9, reader.end_lsn - first, records


def settle(Vfs vfs not None, directory, unsigned long long end_lsn, unsigned long long known_synced):
    cdef bytes path = str(directory).encode()
    cdef int rc = settle_tail(vfs, path, end_lsn, known_synced)
    if rc != OK:
        raise_status(rc)


def recover(Vfs vfs not None, directory="log", *, unsigned long long start_lsn=0,
            unsigned long long segment_size=DEFAULT_SEGMENT, **options) -> tuple:
    """(what read_log gives, a Log that goes on): the order of calls that the engine keeps."""
    found = read_log(vfs, directory, start_lsn=start_lsn, segment_size=segment_size)
    settle(vfs, directory, found["end_lsn"], found["known_synced"])
    log = Log(vfs, directory, segment_size=segment_size, first_lsn=found["highest_lsn"],
              incarnation=found["max_incarnation"] + 1, prev_end=found["end_lsn"], prev_crc=found["last_crc"], **options)
    return found, log
