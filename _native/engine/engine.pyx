"""The engine: see engine.pxd.

Opening: lock, files (made under another name and renamed when whole), superblock, recovery, the log's new segment, the losers' aborts, background thread.
Closing: no new operations, those under way end, transactions left open are rolled back, a checkpoint, files, lock.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from libc.string cimport memset
import os
from threading import RLock
from ..base.coding cimport get32
from ..base.latch cimport (latch_init, latch_destroy, latch_enter, latch_lock, latch_unlock, condition_init, condition_destroy, condition_wait,
                           condition_broadcast, condition_signal, monotonic_micros)
from ..base.status cimport OK, ABSENT, AGAIN, E_CLOSED, E_LOCKED, E_LOG, E_NOT_DATABASE, fail, fail_corrupt, raise_status
from ..base.status import registered_errors
from ..base.vfs cimport Vfs, VFS_READ, VFS_WRITE, VFS_CREATE, KIND_NONE, KIND_DIRECTORY
from ..base.memvfs cimport MemoryVfs
from ..base.realvfs cimport RealVfs
from ..index.btree cimport BTree
from ..log.record cimport Record, R_NAME, record_encode
from ..log.settle cimport settle_tail
from ..log.writer cimport LogWriter, SYNC
from ..page.pool cimport Pool
from ..page.store cimport PageStore
from ..txn.clock cimport clock_horizon
from ..txn.garbage cimport collect_slowly
from ..txn.transaction cimport TxnManager, Lack, lack_init, TREE_NONE, TREE_LIVE, TREE_DROPPING
from ..txn.versions cimport Txn, TXN_ACTIVE, TXN_ABORTING, TXN_PREPARED
from .files cimport names_in
from .checkpoint cimport MOST_SLOTS, SlotPin, take_checkpoint, shrink
from ..index.lsm cimport LsmTree
from .lsmredo cimport lsmredo_free
from .lsmwork cimport flush_all, reap_some, release_tree, remove_orphans, seal_laggards, start_workers, stop_workers
from .recovery cimport Recovered, replay, roll_back_losers

cdef extern from "<pthread.h>" nogil:
    int pthread_create(pthread_t*, void*, void* (*)(void*) noexcept nogil, void*)
    int pthread_join(pthread_t, void**)

cdef extern from "<unistd.h>" nogil:
    int usleep(unsigned int)

cdef enum:
    READER_BYTE = 1 << 20        # LOCK: a reader of image g holds a shared lock on byte READER_BYTE + g,
    OPENING_BYTE = 1 << 19       # and on this one while it opens
    DESTROY_STEP = 64            # pages of a dropped tree freed in one latch hold
    LOG_SPARE = 0

cdef uint64_t forks = 0


def _forked():
    global forks
    forks += 1


os.register_at_fork(after_in_child=_forked)


cdef uint64_t fork_counter() noexcept nogil:
    return forks


cdef int spare_processors() except -1:
    """Processors that this process may use, less one."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) - 1


cdef void* background_entry(void* engine) noexcept nogil:
    (<Engine>engine).background_loop()
    return NULL


cdef class Engine:

    def __cinit__(self):
        latch_init(&self.latch)
        condition_init(&self.changed)
        condition_init(&self.wake)
        self.lock_handle = -1
        self.fork_count = forks
        self.checkpoint_state.log_pin = <uint64_t>-1
        self.flush_work.latch = self.compact_work.latch = &self.latch
        self.flush_work.stop = &self.never
        self.compact_work.stop = &self.stopping
        self.log_pins = {}
        self.pin_lock = RLock()              # a finaliser may come in between, and gives a pin back
        self.predicates = {}
        self.slots, self.saved_slots, self.slot_names = {}, {}, []
        self.covers = {}

    def __dealloc__(self):
        condition_destroy(&self.wake)
        condition_destroy(&self.changed)
        latch_destroy(&self.latch)

    # --- opening

    def open(self, str path, *, uint32_t page_size, uint64_t cache_size, uint64_t segment_size, uint64_t log_buffer, uint64_t checkpoint_bytes,
             uint64_t version_budget, uint64_t transaction_budget, int durability, double lazy_interval, double lock_timeout, bint read_only=False,
             bint create=True, bint background=True, bint allow_damaged=False,
             uint64_t compaction_rate=0, Vfs vfs=None, bint hold_log=False, tuple restored=None):
        """Opens the database directory `path` (or ":memory:"); see CoreDatabase for the options. hold_log: the log stays (`held`), for an archive; restored: what a
        restore has found (see restore.pyx): LSN from which on tables are not this copy's, LSN above all those ever seen, highest incarnation."""
        cdef int kind = 0, status
        cdef Recovered r
        cdef bint fresh = False
        memset(&r, 0, sizeof(Recovered))
        self.in_memory = path == ":memory:"
        if vfs is None:
            vfs = MemoryVfs() if self.in_memory else RealVfs()
        self.vfs = vfs
        self.directory = b"/db" if self.in_memory else os.fsencode(path)
        self.log_dir = self.directory + b"/log"
        self.pages_path = self.directory + b"/pages.dat"
        self.lock_path = self.directory + b"/LOCK"
        self.read_only = read_only
        self.durability = durability
        self.lock_timeout = <int64_t>(lock_timeout * 1e6) if lock_timeout >= 0 else -1
        self.lazy_interval = <int64_t>(lazy_interval * 1e6)
        self.checkpoint_bytes = checkpoint_bytes
        self.segment_size = segment_size
        self.log_buffer = log_buffer
        self.allow_damaged = allow_damaged
        self.compact_work.rate = compaction_rate
        status = vfs.kind(self.directory, &kind)
        if status == OK and kind == KIND_NONE and not (create and not read_only):
            raise FileNotFoundError(2, "no such database; open it with create=True to make one", path)
        if status == OK and kind != KIND_NONE and kind != KIND_DIRECTORY:
            status = fail(E_NOT_DATABASE, b"a database is a directory; this path is something else")
        if status == OK and kind == KIND_NONE:
            status = vfs.mkdir(self.directory)
        if status != OK:
            raise_status(status)
        try:
            self.store = PageStore()
            self.store.init(vfs, &self.latch)
            self.lock_directory(lock_timeout)
            status = vfs.kind(self.pages_path, &kind)
            if status != OK:
                raise_status(status)
            if kind == KIND_NONE:
                if read_only or not create:
                    raise FileNotFoundError(2, "no database in this directory; open it with create=True to make one", path)
                self.create_files(page_size)
                fresh = True
            else:
                status = self.store.open(self.pages_path, read_only)
                if status != OK:
                    raise_status(status)
                if read_only:
                    self.pin_as_reader()
            self.log = LogWriter()
            self.txns = TxnManager()
            self.pool = Pool()
            self.txns.latch = &self.latch
            self.txns.log = self.log
            self.txns.store = self.store
            self.txns.pool = self.pool
            self.txns.vfs = vfs
            self.txns.lsm_directory = self.directory + b"/lsm"
            self.txns.lsm_helpless = True
            self.txns.lsm_own = self.flush_work
            self.txns.version_budget = version_budget
            self.txns.transaction_budget = transaction_budget
            self.txns.read_only = read_only
            if read_only:
                self.store.memory = &self.txns.memory_blobs
            status = self.pool.init(self.store, &self.latch, cache_size, &self.log.end_lsn, &self.txns.table.live, read_only)
            if status != OK:
                raise_status(status)
            self.fields = self.store.sb
            from .catalog import load_images
            from .slots import load_slots
            load_slots(self)                  # before any of the log can go
            if hold_log:
                self.held = self.pin_log(0)
            replay(self.txns, vfs, self.log_dir, segment_size, spare_processors() if background else 0, <uint64_t>-1 if restored is None else restored[0], &r)
            if restored is not None:
                r.next_lsn = max(<uint64_t>r.next_lsn, <uint64_t>restored[1])
                r.incarnation = max(<uint32_t>r.incarnation, <uint32_t>restored[2])
            self.open_tables()
            r.settle_micros = -monotonic_micros()
            if not read_only:
                self.start_log(&r)
            elif not self.in_memory:
                vfs.lock_byte(self.lock_handle, OPENING_BYTE, False)
            r.settle_micros += monotonic_micros()
            roll_back_losers(self.txns, &r)
            if not read_only:
                load_images(self)
                self.finish_open(<size_t>&r, fresh)
                remove_orphans(self)
            self.recovery = {"records": r.records, "transactions": r.transactions, "rolled_back": r.losers, "prepared": r.prepared, "log_bytes": r.bytes,
                             "created": bool(fresh), "end_lsn": r.end_lsn,
                             "seconds": {"analysis": r.analysis_micros / 1e6, "redo": r.redo_micros / 1e6, "log": r.settle_micros / 1e6,
                                         "undo": r.undo_micros / 1e6}}
            self.opened = True
            if background and not read_only:
                self.start_thread()
        except BaseException:
            lsmredo_free(&r.lsm)
            self.release_files()
            raise

    def open_tables(self):
        """Opens the sorted tables of every LSM-tree; one that is missing or damaged is an error, or with allow_damaged its keyspace's alone."""
        cdef uint32_t i
        cdef int status
        for i in range(1, self.txns.next_keyspace):
            # Of one whose drop is committed some files may be gone already.
            if self.txns.trees[i].tree != NULL and self.txns.trees[i].lsm and self.txns.trees[i].state == TREE_LIVE:
                status = (<LsmTree>self.txns.trees[i].tree).open_tables(self.allow_damaged)
                if status != OK:
                    raise_status(status)

    cdef object lock_directory(self, double timeout):
        """One writing process: an flock on LOCK, whose text names the holder. Readers take byte locks of their own instead."""
        cdef int64_t deadline = monotonic_micros() + <int64_t>(timeout * 1e6)
        cdef int status
        cdef size_t got = 0
        cdef char text[300]
        status = self.vfs.open(self.lock_path, VFS_READ if self.read_only else VFS_WRITE | VFS_CREATE, &self.lock_handle)
        if status == ABSENT:
            raise FileNotFoundError(2, "no database in this directory", os.fsdecode(self.directory))
        if status != OK:
            raise_status(status)
        if self.read_only:
            return
        while True:
            status = self.vfs.lock(self.lock_handle, True)
            if status != E_LOCKED:
                break
            if timeout >= 0 and monotonic_micros() >= deadline:
                self.vfs.read(self.lock_handle, text, 256, 0, &got)
                holder = text[:got].decode("utf-8", "replace").split()
                pid = int(holder[0]) if holder and holder[0].isdigit() else None
                host = holder[1] if len(holder) > 1 else None
                whose = "this process" if pid == os.getpid() and host == os.uname().nodename else f"process {pid} on {host}"
                raise registered_errors()["DatabaseLocked"](
                    f"{os.fsdecode(self.directory)} is open for writing in {whose}; gave up after lock_timeout = {timeout} s. "
                    "Close it there, share that handle, or open with read_only=True", pid=pid, host=host)
            with nogil:
                usleep(10000)
            PyErr_CheckSignals()
        if status != OK:
            raise_status(status)
        line = f"{os.getpid()} {os.uname().nodename}\n".encode()
        status = self.vfs.truncate(self.lock_handle, 0)
        if status == OK:
            status = self.vfs.write(self.lock_handle, <char*>line, len(line), 0)
        if status != OK:
            raise_status(status)

    cdef object create_files(self, uint32_t page_size):
        """pages.dat under another name; it gets its own in finish_open, when the log stands too. A creation cut short is begun again."""
        cdef bytes temporary = self.directory + b"/pages.new"
        cdef bytes unique = os.urandom(16)
        cdef bytes parent
        cdef list found = names_in(self.vfs, self.directory)
        cdef int status
        strangers = [n for n in found if n not in (b"LOCK", b"log", b"lsm", b"pages.new", b"slots", b"slots.new")]
        if strangers:
            raise_status(fail(E_NOT_DATABASE, b"the directory holds other files and no database: name an empty or a new directory"))
        if b"log" in found and b"pages.new" not in found and self.segments():
            raise_status(fail_corrupt(self.pages_path, -1, b"the page file is missing though the log is there", 1, 0))
        if b"pages.new" in found:
            for segment in self.segments():
                status = self.vfs.unlink(self.log_dir + b"/" + segment)
                if status != OK:
                    raise_status(status)
            # pages.new is the mark of a creation cut short: it goes last, once no segment can come back (law 6).
            status = self.vfs.sync_dir(self.log_dir) if b"log" in found else OK
            if status == OK:
                status = self.vfs.unlink(temporary)
            if status != OK and status != ABSENT:
                raise_status(status)
        status = self.store.create(temporary, page_size, <const uint8_t*><char*>unique)
        if status == OK:
            status = self.vfs.mkdir(self.log_dir)
        if status == OK:
            status = self.vfs.sync_dir(self.directory)
        if status == OK and not self.in_memory:
            # Also when the directory was there: the run that made it may have been killed.
            parent = os.path.dirname(self.directory) or b"."
            status = self.vfs.sync_dir(parent)
        if status != OK:
            raise_status(status)

    def segments(self):
        """Names of the files in the log directory."""
        cdef int kind = 0
        if self.vfs.kind(self.log_dir, &kind) != OK or kind != KIND_DIRECTORY:
            return []
        return sorted(names_in(self.vfs, self.log_dir))

    cdef object start_log(self, Recovered* r):
        """Ends the log durably where recovery stopped, and goes on in a new segment above every LSN ever seen (law 5)."""
        cdef int status = OK
        cdef uint64_t first = r.next_lsn
        cdef uint64_t end = r.end_lsn
        cdef uint32_t incarnation = r.incarnation + 1
        cdef const uint8_t* database_id = self.store.sb.database_id
        cdef const char* log_dir = self.log_dir
        cdef uint64_t synced = r.known_synced
        if end:
            with nogil:
                status = settle_tail(self.vfs, log_dir, end, synced)
        if status == OK:
            if end:
                self.log.follow(end, r.last_crc)
            self.log.next_txn = self.txns.next_txn
            with nogil:
                status = self.log.start(self.vfs, &self.latch, log_dir, self.segment_size, first, incarnation, database_id, self.log_buffer)
        if status != OK:
            raise_status(status)
        self.fields.incarnation = incarnation
        self.refresh_names()

    def finish_open(self, size_t recovered, bint fresh):
        """What recovery did becomes durable before anything is answered; a new database gets its name."""
        cdef Recovered* r = <Recovered*>recovered
        cdef int status
        with nogil:
            latch_lock(&self.latch)
            status = self.log.flush(self.log.end_lsn, SYNC)
            latch_unlock(&self.latch)
        if status != OK:
            raise_status(status)
        self.checkpoint_state.lsn = self.store.sb.checkpoint_lsn
        self.checkpoint_state.keep = r.read_from
        if fresh:
            status = self.vfs.rename(self.directory + b"/pages.new", self.pages_path)
            if status == OK:
                self.store.renamed(self.pages_path)
                status = self.vfs.sync_dir(self.directory)
            if status != OK:
                raise_status(status)

    def pin_as_reader(self):
        """Holds the image this reader stands on: the writer tests these bytes before it reuses blocks or lets go of the log."""
        cdef int status
        cdef uint64_t generation
        if self.in_memory:
            return
        status = self.vfs.lock_byte(self.lock_handle, OPENING_BYTE, True)
        while status == OK:
            generation = self.store.sb.generation
            status = self.vfs.lock_byte(self.lock_handle, <int64_t>(READER_BYTE + generation), True)
            if status != OK:
                break
            self.store.close()
            status = self.store.open(self.pages_path, True)
            if status != OK or self.store.sb.generation == generation:
                break
            self.vfs.lock_byte(self.lock_handle, <int64_t>(READER_BYTE + generation), False)
        if status != OK:
            raise_status(status)

    cdef void foreign_readers(self) noexcept nogil:
        """Tells the store the oldest image that readers in other processes stand on, and whether one is opening."""
        cdef int64_t low = READER_BYTE, high, middle
        cdef bint held = False, opening = False
        cdef int status
        if self.in_memory:
            return
        high = READER_BYTE + <int64_t>self.store.sb.generation + 1
        latch_unlock(&self.latch)
        status = self.vfs.test_bytes(self.lock_handle, OPENING_BYTE, 1, &opening)
        if status == OK:
            status = self.vfs.test_bytes(self.lock_handle, low, high - low, &held)
        if status == OK and held:
            while high - low > 1:            # the lowest byte held
                middle = low + (high - low) // 2
                if self.vfs.test_bytes(self.lock_handle, low, middle - low, &held) != OK:
                    break
                if held:
                    high = middle
                else:
                    low = middle
            held = True
        latch_lock(&self.latch)
        self.store.set_foreign_pin(<uint64_t>(low - READER_BYTE) if held else 0)
        self.checkpoint_state.keep_log = opening or status != OK

    # --- closing

    def close(self, bint checkpoint=True):
        """Waits for operations under way, rolls back what is open, checkpoints, and lets go of the files.  Raises what the checkpoint met, after closing."""
        cdef int status = OK
        cdef Lack lack
        cdef Txn* t
        cdef Txn* following
        if not self.opened or self.foreign_process():
            return
        with nogil:
            latch_lock(&self.latch)
            if self.closing:
                latch_unlock(&self.latch)
                with gil:
                    return
            self.closing = True
            self.txns.closing = True
            t = self.txns.clock.first_writer
            while t != NULL:                 # who waits for a row lock wakes up
                if t.waiting_for != NULL:
                    condition_signal(&t.cond)
                t = t.writer_next
            condition_broadcast(&self.txns.published)
            if self.log.switched != NULL:
                condition_broadcast(self.log.switched)
            while self.busy:
                condition_wait(&self.changed, &self.latch, 100000)
            latch_unlock(&self.latch)
        self.stop_thread()
        self.stopping = False                # what is left to do is done here
        if not self.read_only and checkpoint:
            with nogil:
                latch_lock(&self.latch)
                lack_init(&lack)
                self.abort_orphans()
                following = self.txns.clock.first_writer
                while following != NULL and status == OK and not self.log.failed:
                    t = following
                    following = t.writer_next
                    if t.state == TXN_PREPARED:        # it stays so, for the next opening
                        continue
                    if t.state != TXN_ACTIVE and t.state != TXN_ABORTING:
                        break
                    while True:
                        status = self.txns.abort(t, &lack)
                        if status != AGAIN:
                            break
                        status = self.txns.secure(t, &lack)
                        if status != OK:
                            break
                    self.txns.settle(&lack)
                if status == OK and not self.log.failed:
                    while self.txns.clock.oldest_snapshot != NULL:
                        self.txns.close_snapshot(self.txns.clock.oldest_snapshot)
                    status = collect_slowly(self.txns)
                    if status == OK:
                        status = self.drop_trees()
                    if status == OK:
                        status = flush_all(self, &self.flush_work)
                    if status == OK:
                        status = self.checkpoint_now(True)
                    if status == OK:
                        status = reap_some(self)
                latch_unlock(&self.latch)
                if status == OK and not self.log.failed:
                    self.log.trim()
        try:
            if checkpoint and self.at_close is not None and not self.log.failed:
                self.at_close()
        finally:
            self.release_files()
        if status != OK:
            raise_status(status)

    def release_files(self):
        """Closes files and lets go of the lock; nothing is written."""
        cdef bint mine = not self.foreign_process()
        self.stop_thread()
        if self.log is not None and mine:
            self.log.close()
        if self.store is not None and mine:
            self.store.close()
        if self.lock_handle >= 0 and mine:
            self.vfs.close(self.lock_handle)
        self.lock_handle = -1
        self.opened = False

    def start_thread(self):
        """Starts the background thread, which never touches Python."""
        if pthread_create(&self.thread, NULL, background_entry, <void*>self):
            raise RuntimeError("the background thread could not be started")
        self.has_thread = True
        self.background = True
        start_workers(self)

    def stop_thread(self):
        """Stops and joins the background thread, if there is one in this process."""
        if not self.has_thread or self.foreign_process():
            return
        with nogil:
            latch_lock(&self.latch)
            self.stopping = True
            condition_broadcast(&self.wake)
            latch_unlock(&self.latch)
            pthread_join(self.thread, NULL)
        stop_workers(self)
        self.has_thread = False
        self.background = False

    cdef bint foreign_process(self) noexcept nogil:
        """Whether this is a forked child of the process that opened the database."""
        return self.fork_count != forks

    # --- under the latch

    cdef int admit(self) noexcept nogil:
        if self.closing:
            return fail(E_CLOSED, b"the database is closed")
        self.busy += 1
        return OK

    cdef void enter(self) noexcept nogil:
        self.busy += 1

    cdef void leave(self) noexcept nogil:
        self.busy -= 1
        if self.closing and self.busy == 0:
            condition_broadcast(&self.changed)

    cdef int checkpoint_now(self, bint thorough) noexcept nogil:
        """Takes a checkpoint, after the one under way if there is one; thorough: also shrinks the page file."""
        cdef int status
        while self.checkpointing:
            self.wait_checkpoint()
        self.checkpointing = True
        self.foreign_readers()
        status = take_checkpoint(self.txns, &self.fields, &self.checkpoint_state)
        if status == OK and thorough:
            status = shrink(self.txns, &self.fields, &self.checkpoint_state)
        if self.store.failed:            # a failed sync of the page file is as final as one of the log (law 7)
            self.txns.failed = E_LOG
        self.checkpointing = False
        condition_broadcast(&self.changed)
        return status

    cdef int wait_checkpoint(self) noexcept nogil:
        """Waits a little for the checkpoint under way."""
        condition_wait(&self.changed, &self.latch, 100000)
        return OK

    cdef int drop_trees(self) noexcept nogil:
        """Frees the pages of trees that nobody can see any more."""
        cdef uint32_t i
        cdef int status = OK
        cdef Lack lack
        if self.txns.dropping == 0 or self.reaping:
            return OK
        self.reaping = True              # one thread at a time: the other would find the tree gone under it
        lack_init(&lack)
        for i in range(1, self.txns.next_keyspace):
            if self.txns.trees[i].state != TREE_DROPPING or self.txns.trees[i].drop_ts > clock_horizon(&self.txns.clock):
                continue
            if self.txns.trees[i].lsm:
                status = release_tree(self, i)
                if status == OK:
                    self.txns.trees[i].state = TREE_NONE
                    self.txns.trees[i].tree = NULL
                    self.txns.trees[i].lsm = False
                    self.txns.dropping -= 1
                elif status == AGAIN:
                    status = OK
                continue
            while status == OK:
                status = (<BTree>self.txns.trees[i].tree).destroy_some(DESTROY_STEP, &lack.need)
                if status == OK:
                    self.txns.trees[i].state = TREE_NONE
                    self.txns.trees[i].tree = NULL
                    self.txns.dropping -= 1
                    break
                if status == AGAIN:
                    latch_unlock(&self.latch)      # others have their turn between the steps
                    latch_lock(&self.latch)
                    status = self.txns.secure(NULL, &lack)
            self.txns.settle(&lack)
        self.reaping = False
        return status

    cdef int abort_orphans(self) noexcept nogil:
        """Rolls back transactions whose handles were dropped."""
        cdef Txn* t = self.txns.take_orphans()
        cdef Txn* following
        cdef Lack lack
        cdef int status, failed = OK
        while t != NULL:
            following = t.orphan_next
            status = OK
            if t.state == TXN_ACTIVE or t.state == TXN_ABORTING:
                lack_init(&lack)
                while True:
                    status = self.txns.abort(t, &lack)
                    if status != AGAIN:
                        break
                    status = self.txns.secure(t, &lack)
                    if status != OK:
                        break
                self.txns.settle(&lack)
            if status == OK:
                self.txns.finish(t)
            else:
                self.txns.queue_abort(t)      # another time
                failed = status
            t = following
        return failed

    def refresh_names(self):
        """Hands the log the table of keyspace ids and names that each new segment opens with (law 1)."""
        cdef bytearray encoded = bytearray()
        cdef Record r
        cdef uint8_t buffer[512]
        cdef size_t n
        cdef bytes name, row
        for name, row in self.catalog():
            memset(&r, 0, sizeof(Record))
            r.type = R_NAME
            r.keyspace = get32(<char*>row)
            r.key = <char*>name
            r.klen = len(name)
            r.value = <char*>row
            r.vlen = len(row)
            n = record_encode(buffer, &r)
            encoded += (<char*>buffer)[:n]
        n = len(encoded)
        latch_enter(&self.latch)
        self.log.set_names(<const uint8_t*><char*>encoded, n)
        latch_unlock(&self.latch)

    def renew_names(self):
        """As refresh_names, for a commit that is done and cannot fail any more."""
        try:
            self.refresh_names()
            self.names_stale = False
        except Exception:
            self.names_stale = True

    def pin_log(self, uint64_t lsn):
        """Keeps the log from `lsn` on until unpin_log(the token returned); waits for what is being let go of."""
        cdef bint under_way
        token = object()
        self.log_pins[token] = lsn
        self.refresh_pin()
        while True:
            latch_enter(&self.latch)
            under_way = self.checkpointing or self.log.releasing
            latch_unlock(&self.latch)
            if not under_way:
                return token
            with nogil:
                latch_lock(&self.latch)
                self.wait_checkpoint()
                latch_unlock(&self.latch)

    def unpin_log(self, token):
        """Gives the pin back."""
        del self.log_pins[token]
        self.refresh_pin()

    cdef object refresh_pin(self):
        """One thread at a time: what it has summed up must not come after what another has since."""
        with self.pin_lock:
            self.hand_over_pins()

    cdef object hand_over_pins(self):
        cdef uint64_t lowest = min(self.log_pins.values(), default=<uint64_t>-1)
        cdef list names = list(self.saved_slots)[:MOST_SLOTS]
        cdef SlotPin pins[64]
        cdef int i, j
        for i, name in enumerate(names):
            row = self.saved_slots[name]
            pins[i].restart, pins[i].max_lag, pins[i].lost = row.restart, row.max_lag, row.lost
        latch_enter(&self.latch)
        self.checkpoint_state.log_pin = lowest
        for i in range(len(names)):
            for j in range(self.checkpoint_state.slot_count):
                if names[i] == self.slot_names[j]:
                    pins[i].lost |= self.checkpoint_state.slots[j].lost
        for i in range(len(names)):
            self.checkpoint_state.slots[i] = pins[i]
        self.checkpoint_state.slot_count = len(names)
        latch_unlock(&self.latch)
        self.slot_names = names

    def move_pin(self, token, uint64_t lsn):
        """Lets go of the log below `lsn`, as far as this pin goes."""
        if lsn > self.log_pins[token]:
            self.log_pins[token] = lsn
            self.refresh_pin()

    def catalog(self, size_t reader=0):
        """Names and rows of the catalogue, as committed; reader: address of the transaction whose view it is instead."""
        from .catalog import rows_seen_by
        return rows_seen_by(self, reader)

    # --- background

    cdef void poke(self) noexcept nogil:
        if self.has_thread and not self.poked:
            self.poked = True
            condition_signal(&self.wake)

    cdef bint work_waits(self) noexcept nogil:
        if self.log.failed:
            return False
        return (self.log.end_lsn - self.checkpoint_state.lsn > self.checkpoint_bytes
                or self.txns.lazy_lsn > self.log.synced_lsn
                or self.log.end_lsn - self.poked_lsn > self.segment_size // 4
                or self.txns.orphans != NULL
                or (self.txns.garbage != NULL and self.txns.garbage.commit_ts <= clock_horizon(&self.txns.clock))
                or self.txns.dropping)

    cdef int work_once(self) noexcept nogil:
        cdef int status = OK, s
        self.poked_lsn = self.log.end_lsn
        self.abort_orphans()
        if not self.log.failed:
            status = collect_slowly(self.txns)
            s = self.drop_trees()
            if status == OK:
                status = s
            s = self.log.prepare_ahead()
            if status == OK:
                status = s
            if self.log.end_lsn - self.checkpoint_state.lsn > self.checkpoint_bytes and not self.checkpointing:
                s = seal_laggards(self, self.checkpoint_state.lsn)
                if status == OK:
                    status = s
                s = self.checkpoint_now(False)
                if status == OK:
                    status = s
        return status

    cdef void background_loop(self) noexcept nogil:
        cdef int64_t now, wait
        cdef int status
        latch_lock(&self.latch)
        self.last_lazy_flush = monotonic_micros()
        while not self.stopping:
            now = monotonic_micros()
            wait = self.lazy_interval - (now - self.last_lazy_flush)
            if wait <= 0:
                if self.log.synced_lsn < self.txns.lazy_lsn and not self.log.failed:
                    self.log.flush(self.txns.lazy_lsn, SYNC)
                    self.txns.publish()
                self.last_lazy_flush = monotonic_micros()
                wait = self.lazy_interval
            if not self.poked and not self.stopping:       # either may have come while the flush had let the latch go
                # With nothing lazy outstanding there is nothing to wake up for.
                condition_wait(&self.wake, &self.latch, wait if self.log.synced_lsn < self.txns.lazy_lsn else -1)
            if self.stopping:
                break
            self.poked = False
            status = self.work_once()
            self.background_status = status
            if status != OK:
                # A full disk or a failing one: try again at leisure, not in a circle.
                self.background_failures += 1
                if not self.stopping:
                    condition_wait(&self.wake, &self.latch, 200000)
        latch_unlock(&self.latch)
