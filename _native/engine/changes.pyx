"""Logical decoding: committed transactions, in commit order, from the log alone.

Data flow: `LogReader` walks the synced log (law 5) -> the changes of each transaction are gathered as they come, and taken back where it rolled back to a
savepoint -> at its commit record they are handed out as one change; at its abort they go.  Commit records stand in commit order, so that is the order of delivery.

Invariants: `floor` is the LSN below which this reader needs no log any more: the first record of the oldest transaction that has not ended, or where the reader
stands. The engine keeps the log from there (a pin). A transaction whose changes take more memory than all are given is gathered no further ("far"): at its commit
they are read from the log again, one after another, while they are asked for. Nothing here is under the latch, except questions to the engine.
"""
cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t
from ..base.coding cimport get32
from ..base.latch cimport condition_wait, latch_enter, latch_lock, latch_unlock
from ..base.status cimport ABSENT, E_CLOSED, OK, fail, fail_corrupt, raise_status
from ..log.reader cimport LogReader
from ..log.record cimport (IMAGE_ABSENT, IMAGE_LARGE, IMAGE_PIECE, IMAGE_VALUE, R_ABORT, R_BEFORE, R_CALL, R_CHUNK, R_COMMIT, R_DELETE, R_DELETE_RANGE, R_EDIT, R_PREPARE, R_PUT, R_PUT_BLOB, R_ROLLBACK, R_RUNNING, R_TAG,
                           TAG_NAMED, TAG_ORIGIN, Record)
from ..log.segment cimport HEADER_OK, SegmentHeader
from ..log.writer cimport SYNC
from ..txn.transaction cimport CATALOG, IMAGES_FULL, IMAGES_KEY, IMAGES_NONE, row_valid
from ..txn.versions cimport Txn
from .archive cimport first_lsns, header_of, segment_file
from .engine cimport Engine
from .handles cimport CoreDatabase
from .operation cimport Change, Operation, made
from .lsmtree import IMAGES_NAMES

cdef enum:
    WAIT_SLICE = 50000            # microseconds between looks at signals
    OVERHEAD = 160                # memory that a change takes beside its key and value


@cython.no_gc
@cython.freelist(16)
cdef class Gathered:
    """What is known of a transaction that has not ended."""
    cdef uint64_t txn
    cdef uint64_t first_lsn
    cdef uint64_t bytes
    cdef bint early               # it began before the log that is read: some of it is not known
    cdef bint far                 # its changes are not gathered
    cdef bint broken              # a large value of it is not whole
    cdef bint catalog
    cdef list operations
    cdef list undone              # (to, at): what lies above `to` and was logged before `at` is taken back
    cdef list calls               # (name, arguments, wall clock, seed)
    cdef bytearray image          # the pieces of a large before-image whose change has not come yet
    cdef dict blobs               # number -> bytearray of a large value
    cdef set loads                # ids of keyspaces that a bulk load of it has put tables into
    cdef set puts                 # ids of those among them that it has logged changes of, while there are loads
    cdef bytes origin
    cdef str xid                  # once it is prepared

    def __cinit__(self):
        self.operations = []


cdef class ChangeReader:
    """Decodes the log of an open database; or what is archived of its log, behind the end of a copy that is open for reading."""
    cdef CoreDatabase db
    cdef Engine e
    cdef LogReader log
    cdef object token             # of the pin
    cdef dict names               # keyspace id -> name
    cdef dict open                # transaction -> Gathered
    cdef object wanted            # a frozenset of names, or None
    cdef uint64_t since           # commits that end at or below it are passed over
    cdef uint64_t running         # transactions with a number below this began before the log that is read
    cdef bint complete            # of every transaction that is delivered all has been retained: nothing is checked
    cdef uint64_t memory
    cdef uint64_t budget
    cdef uint64_t oldest
    cdef bint limited
    cdef bytes place              # the directory of the segments
    cdef bint archived
    cdef bint prepared
    cdef bytes database_id
    cdef int images               # an Images: the before-images that are wanted
    cdef object failure           # what the stream has ended by
    cdef public bint cancelled    # who waits for more stops at that
    cdef readonly uint64_t position    # all that commits below it has been delivered

    def __init__(self, CoreDatabase db not None, since, restart, wanted, unsigned long long budget, bint complete, str images not None="none", bytes archive=None,
                 bint prepared=False):
        """since: an LSN, None for what the log has from its beginning; restart: where to begin to read, None where that is not known; complete: see there;
        images: the before-images that operations must have; archive: the directory of archived log: what commits there behind the end of this database, which was
        opened read-only, as a copy; prepared: prepares, and rollbacks of what was prepared, are delivered too."""
        cdef Engine e = db.engine
        cdef uint64_t begin
        db.alive()
        self.db = db
        self.e = e
        self.database_id = db.database_id
        self.open = {}
        self.wanted = wanted
        self.budget = budget
        self.prepared = prepared
        self.complete = complete
        self.images = IMAGES_NAMES.index(images)
        self.names = {}
        self.log = LogReader()
        self.token = e.pin_log(0)
        self.place = e.log_dir
        try:
            if archive is not None:
                self.place = archive
                self.archived = True
                self.begin_behind()
                return
            segments = [int(name[:16], 16) for name in e.segments() if name.endswith(b".wal") and not name.startswith(b"spare")]
            self.oldest = min(segments, default=0)
            begin = e.log.synced_lsn
            if since is not None and since > begin:
                begin = self.sync()
            self.since = 0 if since is None else since
            self.position = self.since
            if since is not None and since < self.oldest and restart is None:  # up to `restart` nothing has committed since
                gone(f"the log begins at LSN {self.oldest}; what was committed from LSN {since} on is not there any more")
            if since is not None and since > begin and not e.read_only:
                raise ValueError(f"since={since} lies beyond the end of the log, LSN {begin}")
            if restart is not None and restart < self.oldest:
                gone(f"the log begins at LSN {self.oldest}, and the slot needs it from LSN {restart} on")
            begin = self.oldest if restart is None else restart
            self.begin(self.log, begin)
            self.names = names_as_of(self, begin)
        except BaseException:
            self.close()
            raise

    cdef int begin(self, LogReader log, uint64_t lsn) except -1:
        """Opens the log at the segment that holds `lsn`, so that what it opens with is read too."""
        cdef Engine e = self.e
        cdef uint64_t first = 0
        cdef int status
        for each in first_lsns(e.vfs, self.place):
            if each <= lsn:
                first = each
        log.trimmed = self.archived
        status = log.open(e.vfs, self.place, first, e.segment_size, e.store.sb.database_id)
        if status != OK and status != ABSENT:
            raise_status(status)
        self.limited = not e.read_only
        if self.archived:
            log.limit_lsn = self.archive_end(first)
        if self.limited:
            latch_enter(&e.latch)
            log.limit_lsn = e.log.synced_lsn
            latch_unlock(&e.latch)
        return 0

    cdef int begin_behind(self) except -1:
        """Begins in the archive, so far back that all transactions which were in flight at the end of the copy are seen whole, if it goes back so far."""
        cdef Record r
        cdef LogReader log
        cdef uint64_t running
        cdef int i, status = OK
        cdef list firsts = [each for each in first_lsns(self.e.vfs, self.place) if each < self.e.recovery["end_lsn"]]
        self.since = self.position = self.e.recovery["end_lsn"]
        if not firsts:
            gone(f"the copy ends at LSN {self.since}, and the archive begins behind it, or not at all")
        with self.db.core_transaction_plain() as txn:
            for name, id, _ in txn.catalog_rows():
                self.names[id] = name
        for i in range(len(firsts) - 1, -1, -1):
            self.oldest = firsts[i]
            if self.e.recovery["rolled_back"] == 0:
                break
            log = LogReader()
            self.begin(log, self.oldest)
            running, inside = 0, set()
            try:
                while True:
                    status = log.next(&r)
                    if status != OK or r.lsn >= self.since:
                        break
                    if r.type == R_RUNNING and running == 0:
                        running = r.a
                    elif r.type == R_COMMIT or r.type == R_ABORT:
                        inside.discard(r.txn)
                    elif r.txn:
                        inside.add(r.txn)
            finally:
                log.close()
            if status != OK and status != ABSENT:
                raise_status(status)
            if len(inside) >= self.e.recovery["rolled_back"] and min(inside) >= running:
                break
        self.begin(self.log, self.oldest)
        if self.log.limit_lsn < self.since:
            gone(f"the copy ends at LSN {self.since}, and the archive before that, at LSN {self.log.limit_lsn}")
        return 0

    cdef uint64_t archive_end(self, uint64_t first) except? 0:
        """Where the archive ends, without a gap, from segment `first` on."""
        cdef Engine e = self.e
        cdef SegmentHeader h
        cdef int64_t size = 0
        cdef uint64_t end = 0
        for each in first_lsns(e.vfs, self.place):
            if each < first:
                continue
            if header_of(e.vfs, self.place, each, e.store.sb.database_id, &h, &size) != HEADER_OK:
                raise_status(fail_corrupt(segment_file(self.place, each), 0, b"header of an archived segment", each, 0))
            if end and h.prev_end != end:
                # A longer copy may have taken the place of the one before meanwhile: then the next look finds it so.
                header_of(e.vfs, self.place, first, e.store.sb.database_id, &h, &size)
                if first + <uint64_t>size == end:
                    gone(f"the archive has a gap behind LSN {end}")
                return end
            first = each
            end = first + <uint64_t>size
        return end

    cdef uint64_t sync(self) except? 0:
        """What is committed becomes part of what can be read; where that ends."""
        cdef Engine e = self.e
        cdef uint64_t end
        cdef int status = OK
        with nogil:
            latch_lock(&e.latch)
            if not e.read_only:
                status = e.admit()
                if status == OK:
                    status = e.log.flush(e.log.end_lsn, SYNC)
                    e.txns.publish()
                    e.leave()
            end = e.log.synced_lsn
            latch_unlock(&e.latch)
        if status != OK:
            raise_status(status)
        return end

    def close(self):
        """Lets go of the log."""
        self.log.close()
        self.open.clear()
        if self.token is not None:
            token, self.token = self.token, None
            if not self.e.foreign_process():
                self.e.unpin_log(token)

    def __dealloc__(self):
        if self.token is not None and self.e is not None and not self.e.foreign_process():
            self.e.unpin_log(self.token)

    @property
    def floor(self):
        """The LSN below which this reader needs no log."""
        cdef Gathered g
        cdef uint64_t least = self.log.rec_lsn if self.log.rec < self.log.rec_end else self.log.end_lsn
        for g in self.open.values():
            if g.first_lsn < least:
                least = g.first_lsn
        return least

    def let_go(self, lsn=None):
        """Moves the pin up to `lsn`, or as far as possible."""
        if self.token is not None:
            self.e.move_pin(self.token, self.floor if lsn is None else min(lsn, self.floor))

    # --- waiting

    def wait(self, double seconds):
        """Waits until there may be more to read, at most so long; whether there may be. What is committed and not synced yet is synced. Ctrl-C ends it."""
        cdef Engine e = self.e
        cdef int64_t left = <int64_t>(seconds * 1e6), piece
        cdef uint64_t end
        cdef int status = OK
        cdef bint more = False
        self.db.alive()
        if not self.limited:
            return False
        while True:
            with nogil:
                latch_lock(&e.latch)
                status = e.admit()
                if status == OK:
                    end = self.log.end_lsn
                    if e.log.synced_lsn <= end and e.txns.last_end > end:
                        status = e.log.flush(e.log.end_lsn, SYNC)
                        e.txns.publish()
                    more = e.log.synced_lsn > end and e.txns.last_end > end
                    if status == OK and not more and left > 0:
                        piece = left if left < WAIT_SLICE else WAIT_SLICE
                        e.txns.listeners += 1
                        condition_wait(&e.txns.published, &e.latch, piece)
                        e.txns.listeners -= 1
                        left -= piece
                    e.leave()
                latch_unlock(&e.latch)
            if status != OK:
                raise_status(status)
            if more:
                return True
            PyErr_CheckSignals()
            if left <= 0 or self.cancelled:
                return False

    # --- decoding

    def next_change(self):
        """The next commit; None where the synced log ends. Its operations: a list, or where they are too many a `Far`; its calls: as the log has them."""
        cdef Record r
        cdef Engine e = self.e
        cdef uint64_t limit = 0
        cdef int status
        if self.token is None:
            raise_status(fail(E_CLOSED, b"the stream of changes is closed"))
        if e.closing or e.foreign_process():
            self.db.alive()
        if self.failure is not None:
            raise self.failure
        while True:
            if self.log.rec < self.log.rec_end:
                status = self.log.next(&r)
            else:
                with nogil:
                    status = self.log.next(&r)
            if status == OK:
                change = self.take(&r)
                if change is not None:
                    return change
                continue
            if status != ABSENT:
                raise_status(status)
            if self.archived:
                limit = self.archive_end(self.log.current_first())
                if limit <= self.log.end_lsn:
                    return None
            elif not self.limited:
                return None
            else:
                latch_enter(&e.latch)
                limit = e.log.synced_lsn
                latch_unlock(&e.latch)
            if limit <= self.log.end_lsn:
                return None
            with nogil:
                status = self.log.resume(limit, e.store.sb.database_id)
            if status != OK:
                raise_status(status)
            if limit <= self.log.end_lsn:
                return None

    def next_changes(self, Py_ssize_t most, Py_ssize_t operations):
        """A list of the next commits: at most so many, until there are so many operations in them; one whose operations are read from the log ends it."""
        cdef Change change
        cdef list found = []
        try:
            while len(found) < most and operations > 0:
                change = self.next_change()
                if change is None:
                    break
                found.append(change)
                if type(change.operations) is not list:
                    break
                operations -= len(<list>change.operations)
        except Exception:
            if not found or self.failure is None:      # else it is raised at the next call
                raise
        return found

    cdef object take(self, Record* r):
        cdef Gathered g
        if r.type == R_RUNNING:
            if self.running == 0:
                self.running = r.a
            return None
        if r.txn == 0:
            return None
        g = <Gathered>self.open.get(r.txn)
        if g is None:
            if r.type == R_ABORT or r.type == R_ROLLBACK:
                return None
            g = Gathered()
            g.txn = r.txn
            g.first_lsn = r.lsn
            g.early = r.txn < self.running
            self.open[r.txn] = g
        if r.type == R_COMMIT:
            del self.open[r.txn]
            self.memory -= g.bytes
            return self.committed(g, r)
        if r.type == R_ABORT:
            del self.open[r.txn]
            self.memory -= g.bytes
            return self.told(g, "rollback", [], 0) if self.prepared and g.xid is not None else None
        if r.type == R_PREPARE:
            g.xid = r.key[:r.klen].decode("utf-8", "replace")
            return self.promised(g, r) if self.prepared else None
        gather(self, g, r)
        if self.memory > self.budget:
            self.shed()
        return None

    cdef str name_of(self, uint32_t id):
        """Its name, or None where nobody wants to know of it."""
        name = self.names.get(id)
        if name is None:
            return None
        return name if self.wanted is None or name in self.wanted else None

    cdef object shed(self):
        """Gathers no more of the largest transaction."""
        cdef Gathered g, largest = None
        for g in self.open.values():
            if largest is None or g.bytes > largest.bytes:
                largest = g
        if largest is not None and not largest.far:
            largest.far = True
            largest.operations = [o for o in largest.operations if (<Operation>o).id == CATALOG]
            largest.blobs = largest.image = None
            self.memory -= largest.bytes
            largest.bytes = 0

    cdef object promised(self, Gathered g, Record* r):
        """It is prepared: what it would do, as far as that is in keyspaces that there are."""
        cdef Operation o
        if g.early and not self.complete:
            return None                               # its end, if it commits, says that it is not whole
        return self.told(g, "prepare", Far(self, g, r.lsn) if g.far else [o for o in g.operations if o.id != CATALOG and o.keyspace], r.a)

    cdef object told(self, Gathered g, str event, operations, uint64_t wall):
        """Something about a transaction in doubt that is no commit."""
        cdef uint64_t lsn = self.log.rec_lsn
        if lsn <= self.since:
            return None
        self.position = lsn
        return Change(self.database_id, self.e.fields.epoch, 0, lsn, 0, <double>wall / 1e6, g.origin, operations, (), g.xid, event)

    cdef object committed(self, Gathered g, Record* r):
        cdef uint64_t lsn = self.log.rec_lsn          # behind the record
        cdef object operations
        cdef Change change
        if lsn <= self.since:
            return None                               # the names are those that it left
        if g.early and not self.complete:
            gone(f"transaction {g.txn} began before LSN {self.oldest}, where the log begins now")
        if g.loads and (g.puts is None or g.loads - g.puts):
            names = ", ".join(repr(self.names.get(id, id)) for id in g.loads - (g.puts or set()))
            gone(f"{names} was loaded without the log, by ingest(logged=False), in the transaction that ends at LSN {lsn}")
        if g.broken:
            gone(f"a large value of transaction {g.txn} is not whole in the log that is there")
        if g.catalog:
            self.catalogued(g)
        if g.far:
            operations = Far(self, g, r.lsn)
        else:
            operations = g.operations
            if self.images != IMAGES_NONE:
                check_images(self, g.operations)
        self.position = lsn
        if not g.far and not operations and not g.calls and not (self.prepared and g.xid is not None):
            return None
        change = Change.__new__(Change)
        change.database_id = self.database_id
        change.epoch = self.e.fields.epoch
        change.sequence = change.commit_ts = r.a
        change.lsn = lsn
        change.time = <double>r.b / 1e6
        change.origin = g.origin
        change.operations = operations
        change.calls = () if g.calls is None else tuple(g.calls)
        change.xid = g.xid
        change.event = "commit"
        return change

    cdef object catalogued(self, Gathered g):
        """The catalogue has changed: so have the names, of what others have gathered too. Renaming is a deletion, what was deleted, and a put of the same row, in a row."""
        cdef Operation o, following
        cdef Gathered other
        cdef list shown = [], rows = [o for o in g.operations if (<Operation>o).id == CATALOG]
        cdef Py_ssize_t at = 0
        cdef str name, old
        for o in g.operations:
            if o.id != CATALOG:
                o.keyspace = self.name_of(o.id)         # it may have been made or renamed in this very transaction
                if o.keyspace is not None:
                    shown.append(o)
                continue
            at += 1
            name = o.key.decode()
            if name.startswith("\0"):                 # the engine's own
                continue
            id = get32(<char*>o.value)
            if o.op == "was":
                following = <Operation>rows[at] if at < len(rows) else None
                if following is not None and following.op == "put" and get32(<char*>following.value) == id:
                    continue
                self.names.pop(id, None)
                if self.wanted is None or name in self.wanted:
                    shown.append(made(name, "drop_keyspace", None, None, o.lsn, CATALOG))
                continue
            old = self.names.get(id)
            self.names[id] = name
            if old is None:
                if self.wanted is None or name in self.wanted:
                    shown.append(made(name, "create_keyspace", None, o.value, o.lsn, CATALOG))
                continue
            if old == name:
                continue                                # what is said of it has changed, which is this database's own affair
            if self.wanted is None or name in self.wanted or old in self.wanted:
                shown.append(made(old, "rename_keyspace", None, o.key, o.lsn, CATALOG))
            for other in self.open.values():
                rename_all(other.operations, id, self.name_of(id))
        g.operations = shown


cdef dict names_as_of(ChangeReader reader, uint64_t begin):
    """The names of keyspaces where the reader's first delivery comes: those of now, with the changes of the catalogue that commit in between taken back."""
    cdef LogReader log = LogReader()
    cdef Record r
    cdef int status
    cdef bint open_ones = False
    cdef dict names = {}, changed = {}
    cdef list commits = []
    with reader.db.core_transaction_plain() as txn:
        newest = txn.snapshot
        for name, id, _ in txn.catalog_rows():
            names[id] = name
    reader.sync()
    reader.begin(log, begin)
    try:
        while True:
            with nogil:
                while True:
                    status = log.next(&r)
                    if status != OK or (r.type == R_PUT and r.keyspace == CATALOG) or (r.type == R_TAG and r.a == TAG_NAMED):
                        break
                    if open_ones and (r.type == R_COMMIT or r.type == R_ABORT or r.type == R_ROLLBACK):
                        break
            if status == ABSENT:
                break
            if status != OK:
                raise_status(status)
            if r.type == R_PUT:
                if row_valid(r.value, r.vlen):
                    changed.setdefault(r.txn, []).append((r.lsn, get32(r.value), None))
            elif r.type == R_TAG:
                if r.vlen > 4:
                    changed.setdefault(r.txn, []).append((r.lsn, get32(r.value), r.value[4:r.vlen].decode("utf-8", "replace")))
            elif r.txn in changed and r.type == R_ROLLBACK:
                changed[r.txn] = [each for each in changed[r.txn] if each[0] <= r.a]
            elif r.txn in changed:
                rows = changed.pop(r.txn)
                if r.type == R_COMMIT and log.rec_lsn > reader.since and r.a <= newest:
                    commits.append(rows)
            open_ones = len(changed) > 0
    finally:
        log.close()
    for rows in reversed(commits):
        for _, id, was in reversed(rows):
            if was is None:
                names.pop(id, None)
            else:
                names[id] = was
    return names


cdef object rename_all(list operations, uint32_t id, str name):
    cdef Operation o
    for o in operations:
        if o.id == id and o.id != CATALOG:
            o.keyspace = name


cdef int gather(ChangeReader reader, Gathered g, Record* r) except -1:
    """One more record of a transaction that has not ended."""
    cdef Operation o
    cdef str name
    if r.type == R_ROLLBACK:
        while g.operations:
            o = <Operation>g.operations[len(g.operations) - 1]
            if o.lsn <= r.a:
                break
            g.operations.pop()
        if g.undone is None:
            g.undone = []
        g.undone.append((r.a, r.lsn))
    elif r.type == R_TAG:
        if r.a == TAG_ORIGIN:
            g.origin = r.value[:r.vlen]
        elif r.a == TAG_NAMED and r.vlen > 4:
            g.catalog = True
            g.operations.append(made("", "was", r.value[4:r.vlen], r.value[:4], r.lsn, CATALOG))
    elif r.type == R_CALL:
        if g.calls is None:
            g.calls = []
        g.calls.append((r.key[:r.klen], r.value[:r.vlen], r.a, r.b))
    elif r.type == R_EDIT:
        if reader.wanted is not None and reader.name_of(r.keyspace) is None:
            return 0
        if g.loads is None:
            g.loads = set()
        g.loads.add(r.keyspace)
        for o in g.operations:
            if o.id == r.keyspace:
                if g.puts is None:
                    g.puts = set()
                g.puts.add(r.keyspace)
                break
        if g.far:                      # it has logged more than one changes; of what is not known
            g.puts = g.puts or set()
            g.puts.add(r.keyspace)
    elif r.type == R_CHUNK:
        if g.far:
            return 0
        if g.blobs is None:
            g.blobs = {}
        g.blobs.setdefault(r.a, bytearray()).extend(r.value[:r.vlen])
        g.bytes += r.vlen
        reader.memory += r.vlen
    elif r.type == R_BEFORE:
        if reader.images == IMAGES_NONE or g.far or (reader.wanted is not None and reader.name_of(r.keyspace) is None and not g.catalog):
            return 0
        g.bytes += r.vlen
        reader.memory += r.vlen
        o = <Operation>g.operations[len(g.operations) - 1] if g.operations else None
        take_image(reader, g, r, o)
    elif r.type == R_PUT or r.type == R_DELETE or r.type == R_PUT_BLOB or r.type == R_DELETE_RANGE:
        if r.keyspace == CATALOG:
            if r.type != R_PUT or not row_valid(r.value, r.vlen):
                return 0                          # of a deletion the tag says more
            g.catalog = True
            if g.far:
                g.operations.append(read_operation(reader, g, r, ""))
                return 0
            name = ""
        elif g.far:
            return 0
        else:
            name = reader.name_of(r.keyspace)
            if name is None and not (g.catalog and r.keyspace not in reader.names):
                if r.type == R_PUT_BLOB and g.blobs is not None:
                    g.blobs.pop(r.a, None)
                return 0
        o = read_operation(reader, g, r, name)
        g.operations.append(o)
        g.bytes += r.klen + r.vlen + OVERHEAD
        reader.memory += r.klen + r.vlen + OVERHEAD
    return 0


cdef Operation read_operation(ChangeReader reader, Gathered g, Record* r, str name):
    cdef bytes key = PyBytes_FromStringAndSize(r.key, r.klen)
    if r.type == R_PUT:
        return made(name, "put", key, PyBytes_FromStringAndSize(r.value, r.vlen), r.lsn, r.keyspace)
    if r.type == R_DELETE:
        return made(name, "delete", key, None, r.lsn, r.keyspace)
    if r.type == R_DELETE_RANGE:
        return made(name, "delete_range", key, None if r.a else PyBytes_FromStringAndSize(r.value, r.vlen), r.lsn, r.keyspace)
    value = g.blobs.pop(r.a, None) if g.blobs is not None else None
    if g.early and (value is None or len(value) != r.b):
        g.broken = True                               # of no account where the transaction is passed over
        return made(name, "put", key, b"", r.lsn, r.keyspace)
    if value is None or len(value) != r.b:
        gone(f"a large value of transaction {g.txn} is not whole in the log that is there")
    return made(name, "put", key, bytes(value), r.lsn, r.keyspace)


cdef int take_image(ChangeReader reader, Gathered g, Record* r, Operation o) except -1:
    """A before-image, or a piece of one. o: the transaction's newest operation, whose it is if it is of the same keyspace; None: of what is not shown."""
    if r.a == IMAGE_PIECE:
        if r.b == 0:
            g.image = bytearray()
        if g.image is not None and reader.images == IMAGES_FULL:
            g.image.extend(r.value[:r.vlen])
        return 0
    if o is not None and o.id == r.keyspace and o.existed is None:
        o.existed = r.a != IMAGE_ABSENT
        if reader.images == IMAGES_FULL and r.a == IMAGE_VALUE:
            o.before = PyBytes_FromStringAndSize(r.value, r.vlen)
        elif reader.images == IMAGES_FULL and r.a == IMAGE_LARGE:
            if g.image is not None and <uint64_t>len(g.image) == r.b:
                o.before = bytes(g.image)
            elif g.early:
                g.broken = True                       # as of a large value that is not whole
            else:
                gone(f"a large before-image of transaction {g.txn} is not whole in the log that is there")
    if r.a == IMAGE_LARGE:
        g.image = None
    return 0


cdef int check_images(ChangeReader reader, list operations) except -1:
    """Whether operations have the before-images that are asked for."""
    cdef Operation o
    for o in operations:
        if o.id == CATALOG or (o.existed is not None and (reader.images == IMAGES_KEY or o.before is not None or not o.existed)):
            continue
        from ..base.status import registered_errors
        asked = IMAGES_NAMES[reader.images]
        reader.failure = registered_errors()["UsageError"](
            f"keyspace {o.keyspace!r} did not log before-images ({asked!r}) with its {o.op} at LSN {o.lsn}: db.set_before({o.keyspace!r}, {asked!r}) for what is "
            f"changed from then on, and read on behind; or choose other keyspaces, or include_before='none'")
        raise reader.failure
    return 0


cdef class Far:
    """The operations of a transaction that takes more memory than there is for all: read from the log again, at each iteration, as long as the stream stands at it."""
    cdef ChangeReader reader
    cdef uint64_t txn
    cdef uint64_t first_lsn
    cdef uint64_t commit_lsn
    cdef list undone
    cdef list catalog             # its changes of the catalogue
    cdef dict names

    def __init__(self, ChangeReader reader, Gathered g, commit_lsn):
        self.reader = reader
        self.txn, self.first_lsn, self.commit_lsn = g.txn, g.first_lsn, commit_lsn
        self.undone = g.undone or []
        self.catalog = g.operations
        self.names = dict(reader.names)

    def __iter__(self):
        cdef Engine e = self.reader.e
        cdef LogReader log = LogReader()
        cdef Gathered g = Gathered()
        cdef Record r
        cdef Operation held = None           # until it is known what it had before
        cdef str name
        cdef int status
        g.txn = self.txn
        if self.reader.token is None:
            raise_status(fail(E_CLOSED, b"the stream of changes is closed"))
        self.reader.db.alive()
        yield from self.catalog
        token = e.pin_log(self.first_lsn)
        try:
            log.trimmed = self.reader.archived
            status = log.open(e.vfs, self.reader.place, self.first_lsn, e.segment_size, e.store.sb.database_id)
            if status != OK:
                raise_status(status)
            log.limit_lsn = self.reader.log.end_lsn
            while True:
                status = log.next(&r)
                if status != OK and status != ABSENT:
                    raise_status(status)
                if status == ABSENT or r.lsn >= self.commit_lsn:
                    if held is not None:
                        yield self.checked(held)
                    return
                if r.txn != self.txn:
                    continue
                if r.type == R_BEFORE:
                    if self.reader.images != IMAGES_NONE:
                        take_image(self.reader, g, &r, held)
                elif r.type == R_CHUNK:
                    if g.blobs is None:
                        g.blobs = {}
                    g.blobs.setdefault(r.a, bytearray()).extend(r.value[:r.vlen])
                elif r.keyspace != CATALOG and (r.type == R_PUT or r.type == R_DELETE or r.type == R_PUT_BLOB or r.type == R_DELETE_RANGE):
                    if held is not None:
                        yield self.checked(held)
                        held = None
                    name = self.names.get(r.keyspace)
                    if name is None or (self.reader.wanted is not None and name not in self.reader.wanted) or taken_back(self.undone, r.lsn):
                        if r.type == R_PUT_BLOB and g.blobs is not None:
                            g.blobs.pop(r.a, None)
                        continue
                    held = read_operation(self.reader, g, &r, name)
        finally:
            log.close()
            e.unpin_log(token)

    cdef Operation checked(self, Operation o):
        if self.reader.images != IMAGES_NONE:
            check_images(self.reader, [o])
        return o


cdef bint taken_back(list undone, uint64_t lsn) except -1:
    for to, at in undone:
        if to < lsn < at:
            return True
    return False


cdef int gone(str text) except -1:
    from ..base.status import registered_errors
    raise registered_errors()["ChangesGone"](text)


def oldest_running(CoreDatabase db not None):
    """(LSN of the first record of the oldest transaction in flight, or the log's end; the log's end)."""
    cdef Engine e = db.engine
    cdef Txn* t
    cdef uint64_t least, end
    latch_enter(&e.latch)
    least = end = e.log.end_lsn
    t = e.txns.clock.first_writer
    while t != NULL:
        if t.id and t.first_lsn < least:
            least = t.first_lsn
        t = t.writer_next
    latch_unlock(&e.latch)
    return least, end
