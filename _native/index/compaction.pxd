"""The background work of LSM-trees: writing sealed memtables to tables (flush), tables to fewer tables (compaction), and letting go of files.

Each step is one function, called with the latch, which it releases while it reads and writes; it touches only what no one changes (law 12).  Which step to take is
decided under the latch by `pick`, from the set of tables alone, so that a test can drive it step by step.  Threads are the engine's.
"""
from libc.stdint cimport int64_t, uint64_t
from ..base.latch cimport Latch
from ..log.writer cimport LogWriter
from .lsm cimport LsmTree
from .pick cimport Pick

cdef enum:
    MOST_SNAPSHOTS = 256

cdef struct Horizon:               # what readers may still ask for
    uint64_t stamps[MOST_SNAPSHOTS]          # of live snapshots, ascending; the last: the newest that is visible, from which on future ones read
    int count
    bint everything                # more of them than that: every version stays
    uint64_t now                   # wall clock of the oldest snapshot, in microseconds

cdef struct Work:                  # what a background thread works with; constant but for `stop` and `rate`
    Latch* latch
    const bint* stop               # set when the engine closes: a compaction gives up
    bint (*look)() noexcept nogil  # whether who asked for a compaction wants it no more, or NULL; called without the latch
    uint64_t rate                  # bytes a second that compactions write at most; 0: as fast as they can
    uint64_t written               # bytes written by this thread since `since`, for the rate
    int64_t since

# latch (released meanwhile). Merges the inputs and installs what came of it. OK; ABSENT: given up (stop, look, or the tree was dropped); errors: nothing has changed.
cdef int compaction_run(LsmTree tree, LogWriter log, Pick* p, const Horizon* horizon, Work* work) noexcept nogil
# latch (released meanwhile). Writes the oldest sealed memtable to a table of level 0. ABSENT: there is none, or another thread is at it.
cdef int flush_oldest(LsmTree tree, LogWriter log, const Horizon* horizon, Work* work) noexcept nogil
# latch (released meanwhile). Unlinks the files that no set names any more, once the log is durable up to the edit that let go of them.
cdef int reap_files(LsmTree tree, LogWriter log, Latch* latch) noexcept nogil
