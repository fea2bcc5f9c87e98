"""The engine: opens, wires and closes the layers of one database, and does its background work on one native thread."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from ..base.latch cimport Latch, Condition
from ..base.vfs cimport Vfs
from ..index.compaction cimport Work
from ..log.writer cimport LogWriter
from ..page.pool cimport Pool
from ..page.store cimport PageStore, Superblock
from ..txn.transaction cimport TxnManager
from .checkpoint cimport Checkpoint
from .recovery cimport Recovered

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t

cdef class Engine:
    # constant after open()
    cdef readonly Vfs vfs
    cdef readonly bytes directory
    cdef bytes log_dir
    cdef bytes pages_path
    cdef bytes lock_path
    cdef readonly LogWriter log
    cdef readonly PageStore store
    cdef readonly Pool pool
    cdef readonly TxnManager txns
    cdef readonly bint read_only
    cdef readonly bint in_memory
    cdef int durability                 # default of transactions
    cdef int64_t lock_timeout           # microseconds
    cdef int64_t lazy_interval          # microseconds
    cdef uint64_t checkpoint_bytes
    cdef uint64_t segment_size
    cdef uint64_t log_buffer
    cdef uint64_t fork_count            # of the process that opened it
    cdef int lock_handle
    cdef readonly object recovery       # what recovery did, a dict
    cdef dict covers                    # number of a transaction -> (keyspace id, start, stop, predicate) of its ranges that stand for predicates
    cdef dict predicates                # number -> object, of those locked or remembered, and for a while of others
    cdef uint64_t predicate_numbers
    cdef public dict slots              # name -> SlotRow: see slots.pyx
    cdef public dict saved_slots        # as the file has them
    cdef public list slot_names         # of checkpoint_state.slots
    cdef dict log_pins                  # token -> LSN from which the log must stay
    cdef object pin_lock
    cdef object held                    # the token of an archive's pin, or None
    cdef object at_close                # called, if any, when nothing can be written any more, and the files are still open: the archive's last step
    # own synchronisation
    cdef Latch latch
    # under the latch
    cdef bint opened
    cdef bint closing
    cdef int busy                       # threads inside an operation that lets the latch go
    cdef Condition changed              # busy, checkpointing, background state
    cdef bint checkpointing
    cdef Superblock fields
    cdef Checkpoint checkpoint_state
    cdef bint background
    cdef bint stopping
    cdef bint has_thread
    cdef bint poked
    cdef bint reaping
    cdef bint names_stale               # the log's table of names could not be renewed: the next commit tries again
    cdef uint64_t poked_lsn
    cdef Condition wake
    cdef pthread_t thread
    cdef int64_t last_lazy_flush
    cdef pthread_t flush_thread         # LSM-trees' threads
    cdef pthread_t compact_thread
    cdef bint flusher
    cdef bint compacter
    cdef Work flush_work
    cdef Work compact_work
    cdef bint never                     # what a flush's `stop` points to: it is always worth finishing
    cdef int hold_files                 # backups under way: no table may go
    cdef readonly bint allow_damaged
    cdef int background_status          # of the newest background checkpoint
    cdef uint64_t background_failures

    cdef object lock_directory(self, double timeout)
    cdef object create_files(self, uint32_t page_size)
    cdef object start_log(self, Recovered* r)
    cdef object refresh_pin(self)
    cdef object hand_over_pins(self)
    cdef int admit(self) noexcept nogil                      # latch: as enter, or E_CLOSED once the database is closing
    cdef void enter(self) noexcept nogil                     # latch: an operation that may let it go begins
    cdef void leave(self) noexcept nogil                     # latch
    cdef int checkpoint_now(self, bint thorough) noexcept nogil            # latch (released meanwhile)
    cdef int wait_checkpoint(self) noexcept nogil            # latch (released meanwhile)
    cdef int drop_trees(self) noexcept nogil                 # latch (released meanwhile)
    cdef int abort_orphans(self) noexcept nogil              # latch (released meanwhile)
    cdef void foreign_readers(self) noexcept nogil           # latch (released meanwhile)
    cdef void background_loop(self) noexcept nogil
    cdef bint work_waits(self) noexcept nogil                # latch
    cdef int work_once(self) noexcept nogil                  # latch (released meanwhile)

    cdef void poke(self) noexcept nogil                      # latch: the background thread has something to do
    cdef bint foreign_process(self) noexcept nogil

cdef uint64_t fork_counter() noexcept nogil
