"""Recovery, the normal path of opening: analysis, the checkpoint's image, redo through the code that wrote it, undo (law 10)."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t
from ..base.vfs cimport Vfs
from ..txn.transaction cimport TxnManager
from ..txn.versions cimport Txn
from .lsmredo cimport LsmRedo

cdef struct Recovered:
    uint64_t records            # replayed
    uint64_t transactions       # ended in the replayed log
    uint64_t losers             # rolled back because they never ended
    uint64_t prepared           # left as they are, for somebody to say how they end
    uint64_t bytes              # of log read
    uint64_t end_lsn
    uint64_t next_lsn           # where a new segment may start
    uint32_t incarnation        # highest ever seen
    uint64_t known_synced
    uint32_t last_crc           # of the last group
    int64_t analysis_micros     # how long each phase took
    int64_t redo_micros
    int64_t settle_micros
    int64_t undo_micros
    uint64_t read_from          # the log is needed from here on
    LsmRedo lsm                 # what is known of transactions over LSM-trees, until roll_back_losers

# GIL held, latch not. Brings `m` (attached to an open store and pool) to the state the log tells; `helpers`: threads it may start meanwhile. Raises.
# Tables that the log names at or above `edits_end` are not this copy's: an archive's log goes beyond the backup it is put on.
cdef object replay(TxnManager m, Vfs vfs, const char* log_dir, uint64_t segment_size, int helpers, uint64_t edits_end, Recovered* out)
# GIL held, latch not. Makes the losers' aborts part of the log (m.log has been started, unless read-only) and undoes them.
cdef object roll_back_losers(TxnManager m, Recovered* out)
# GIL held, latch not. Makes an empty tree for keyspace `id`, as its row of the catalogue says; `creator`: the transaction it belongs to until that commits, or NULL. Raises.
cdef object make_tree(TxnManager m, uint32_t id, Txn* creator, bytes row)
