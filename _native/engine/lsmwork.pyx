"""Background work of LSM-trees: see lsmwork.pxd."""
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from ..base.latch cimport condition_broadcast, condition_wait, latch_lock, latch_unlock, monotonic_micros
from ..base.status cimport OK, ABSENT, AGAIN, E_NOMEM, fail, raise_status
from ..base.vfs cimport KIND_DIRECTORY
from ..log.writer cimport SYNC
from ..index.compaction cimport Horizon, Work, compaction_run, flush_oldest, reap_files
from ..index.pick cimport Pick, compaction_pick, compaction_pick_range, compaction_pick_step
from ..index.memtable cimport MemChunk, chunks_free
from ..index.lsm cimport LsmTree
from ..index.tableset cimport LSM_LEVELS
from ..txn.lsmops cimport lsm_horizon, lsm_seal
from ..txn.transaction cimport TREE_LIVE, TxnManager
from .engine cimport Engine
from .files cimport names_in

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t*, void*, void* (*)(void*) noexcept nogil, void*)
    int pthread_join(pthread_t, void**)

cdef enum:
    RETRY_MICROS = 200000          # after a failure: a full disk, perhaps
    IDLE_MICROS = 500000           # without a write for so long, small gains count
    REST_MICROS = 1000000          # and so often that is looked at,
    LONG_REST_MICROS = 10000000    # more seldom once there is no gain left: records expire, snapshots end


cdef inline bint is_live(TxnManager m, uint32_t i) noexcept nogil:
    return m.trees[i].lsm and m.trees[i].tree != NULL and m.trees[i].state == TREE_LIVE


cdef bint any_live(TxnManager m) noexcept nogil:
    cdef uint32_t i
    for i in range(1, m.next_keyspace):
        if is_live(m, i):
            return True
    return False


cdef void moved(Engine e) noexcept nogil:
    """Who waits for LSM work looks again."""
    condition_broadcast(&e.txns.lsm_moved)


cdef int flush_some(Engine e, Work* work) noexcept nogil:
    cdef Horizon horizon
    cdef uint32_t i
    cdef int64_t best = -1
    cdef int most = 0, status
    for i in range(1, e.txns.next_keyspace):
        if is_live(e.txns, i) and (<LsmTree>e.txns.trees[i].tree).sealed_count > most and not (<LsmTree>e.txns.trees[i].tree).flushing:
            most = (<LsmTree>e.txns.trees[i].tree).sealed_count
            best = i
    if best < 0:
        return ABSENT
    lsm_horizon(e.txns, &horizon)
    status = flush_oldest(<LsmTree>e.txns.trees[best].tree, e.log, &horizon, work)
    (<LsmTree>e.txns.trees[best].tree).last_failure = status if status != ABSENT else OK
    moved(e)
    return status


cdef void drop_spares(Engine e) noexcept nogil:
    """(latch, released) Gives back the memory that memtables have left: nobody writes."""
    cdef MemChunk* chunks
    cdef uint32_t i
    for i in range(1, e.txns.next_keyspace):
        if is_live(e.txns, i) and (<LsmTree>e.txns.trees[i].tree).spares.first != NULL:
            chunks = (<LsmTree>e.txns.trees[i].tree).spares.first
            (<LsmTree>e.txns.trees[i].tree).spares.first = NULL
            (<LsmTree>e.txns.trees[i].tree).spares.bytes = 0
            latch_unlock(&e.latch)
            chunks_free(chunks)
            latch_lock(&e.latch)


cdef int compact_some(Engine e, Work* work, bint idle) noexcept nogil:
    cdef Horizon horizon
    cdef Pick pick
    cdef uint32_t i
    cdef int64_t best = -1
    cdef double score = 0
    cdef int status
    lsm_horizon(e.txns, &horizon)
    for i in range(1, e.txns.next_keyspace):
        if (is_live(e.txns, i) and compaction_pick(<LsmTree>e.txns.trees[i].tree, idle, horizon.stamps[0], horizon.now, &pick)
                and pick.score > score):
            score = pick.score
            best = i
    if best < 0:
        if idle:
            drop_spares(e)
        return ABSENT
    compaction_pick(<LsmTree>e.txns.trees[best].tree, idle, horizon.stamps[0], horizon.now, &pick)
    status = compaction_run(<LsmTree>e.txns.trees[best].tree, e.log, &pick, &horizon, work)
    moved(e)
    return status


cdef int flush_tree(Engine e, LsmTree tree, Work* work) noexcept nogil:
    cdef Horizon horizon
    cdef uint64_t upto
    cdef int status = OK
    if tree.damaged:
        return OK
    if tree.active.entries or tree.active.range_count:
        status = lsm_seal(e.txns, tree)
        if status != OK:
            return status
    upto = tree.newest_sealed.seal_lsn if tree.newest_sealed != NULL else 0
    while tree.oldest_sealed != NULL and tree.oldest_sealed.seal_lsn <= upto and not tree.doomed:
        if tree.flushing:
            condition_wait(&e.txns.lsm_moved, &e.latch, 100000)
            continue
        lsm_horizon(e.txns, &horizon)
        status = flush_oldest(tree, e.log, &horizon, work)
        moved(e)
        if status != OK:
            break
    return OK if status == ABSENT else status


cdef int flush_all(Engine e, Work* work) noexcept nogil:
    cdef uint32_t i
    cdef int status
    for i in range(1, e.txns.next_keyspace):
        if is_live(e.txns, i):
            status = flush_tree(e, <LsmTree>e.txns.trees[i].tree, work)
            if status != OK:
                return status
    return OK


cdef bint given_up(Engine e, Work* work) noexcept nogil:
    cdef bint answer = e.closing
    if work.look != NULL and not answer:
        latch_unlock(&e.latch)
        answer = work.look()
        latch_lock(&e.latch)
    return answer


cdef int compact_tree(Engine e, LsmTree tree, const char* low, size_t low_len, const char* high, size_t high_len, Work* work) noexcept nogil:
    cdef Horizon horizon
    cdef Pick pick
    cdef char* after = NULL
    cdef void* grown
    cdef size_t after_len = 0
    cdef bint large = False
    cdef int status = tree.damage_status() if tree.damaged else flush_tree(e, tree, work)
    while status == OK and not tree.doomed and not given_up(e, work):
        if tree.compacting:
            condition_wait(&e.txns.lsm_moved, &e.latch, 100000)
            continue
        lsm_horizon(e.txns, &horizon)
        if not large and compaction_pick_range(tree, low, low_len, high, high_len, horizon.now, &pick, &large):
            status = compaction_run(tree, e.log, &pick, &horizon, work)
            moved(e)
            break
        if not large or not compaction_pick_step(tree, low, low_len, high, high_len, after, after_len, horizon.now, &pick):
            break
        if pick.levels[0] == pick.to_level:          # one of the last level: the next time those behind it
            grown = realloc(after, pick.inputs[0].info.smallest_len + 1)
            if grown == NULL:
                status = fail(E_NOMEM, "no memory to compact a range")
                break
            after = <char*>grown
            after_len = pick.inputs[0].info.smallest_len
            memcpy(after, pick.inputs[0].info.smallest, after_len)
        status = compaction_run(tree, e.log, &pick, &horizon, work)
        moved(e)
    free(after)
    return OK if status == ABSENT else status


cdef int reap_some(Engine e) noexcept nogil:
    cdef uint32_t i
    cdef int status = OK, s
    cdef bint any = False
    for i in range(1, e.txns.next_keyspace):
        any = any or (e.txns.trees[i].lsm and e.txns.trees[i].tree != NULL and (<LsmTree>e.txns.trees[i].tree).dead != NULL)
    if not any or e.hold_files or e.log.failed:
        return OK
    e.foreign_readers()
    if e.checkpoint_state.keep_log:
        return OK                        # a reader is just opening: it may be about to open one of these
    for i in range(1, e.txns.next_keyspace):
        if not e.txns.trees[i].lsm or e.txns.trees[i].tree == NULL or (<LsmTree>e.txns.trees[i].tree).dead == NULL:
            continue
        status = e.log.flush((<LsmTree>e.txns.trees[i].tree).dead_lsn, SYNC)
        if status != OK:
            return status
        if e.hold_files == 0 and e.txns.trees[i].lsm and e.txns.trees[i].tree != NULL:
            s = reap_files(<LsmTree>e.txns.trees[i].tree, e.log, &e.latch)
            if status == OK:
                status = s
    return status


cdef int seal_laggards(Engine e, uint64_t lsn) noexcept nogil:
    cdef uint32_t i
    cdef int status
    for i in range(1, e.txns.next_keyspace):
        if not is_live(e.txns, i):
            continue
        if ((<LsmTree>e.txns.trees[i].tree).oldest_sealed == NULL and (<LsmTree>e.txns.trees[i].tree).log_needed() < lsn
                and not (<LsmTree>e.txns.trees[i].tree).damaged):
            status = lsm_seal(e.txns, <LsmTree>e.txns.trees[i].tree)
            if status != OK:
                return status
    return OK


cdef int release_tree(Engine e, uint32_t keyspace) noexcept nogil:
    cdef int status
    (<LsmTree>e.txns.trees[keyspace].tree).doomed = True
    if (<LsmTree>e.txns.trees[keyspace].tree).flushing or (<LsmTree>e.txns.trees[keyspace].tree).compacting or e.hold_files:
        return AGAIN
    # The drop must be durable before the first file goes.
    (<LsmTree>e.txns.trees[keyspace].tree).release()
    (<LsmTree>e.txns.trees[keyspace].tree).dead_lsn = e.log.end_lsn
    if (<LsmTree>e.txns.trees[keyspace].tree).dead == NULL:
        return OK
    e.foreign_readers()
    if e.checkpoint_state.keep_log:
        return AGAIN
    status = reap_files(<LsmTree>e.txns.trees[keyspace].tree, e.log, &e.latch)
    return AGAIN if status == OK and (<LsmTree>e.txns.trees[keyspace].tree).dead != NULL else status


def orphans_in(Engine e, bytes directory, set wanted):
    """Unlinks the files of a directory that are not wanted; returns the greatest number among their names."""
    cdef int status
    cdef bytes one
    highest = 0
    for one in names_in(e.vfs, directory):
        stem = one.partition(b".")[0]
        if stem.isdigit():
            highest = max(highest, int(stem))
        if one not in wanted:
            status = e.vfs.unlink(directory + b"/" + one)
            if status != OK and status != ABSENT:
                raise_status(status)
    return highest


cdef int remove_orphans(Engine e) except -1:
    cdef TxnManager m = e.txns
    cdef LsmTree tree
    cdef uint32_t i
    cdef int level, k, kind = 0, status
    cdef bytes one
    status = e.vfs.kind(m.lsm_directory, &kind)
    if status != OK:
        raise_status(status)
    if kind != KIND_DIRECTORY:
        return 0
    for one in names_in(e.vfs, m.lsm_directory):
        if not one.isdigit():
            continue
        wanted = set()
        tree = None
        i = <uint32_t>min(int(one), 0xFFFFFFFF)
        if i < m.next_keyspace and m.trees[i].lsm and m.trees[i].tree != NULL:
            tree = <LsmTree>m.trees[i].tree
            for level in range(LSM_LEVELS):
                for k in range(tree.set.counts[level]):
                    wanted.add(b"%d.sst" % tree.set.files[level][k].number)
        highest = orphans_in(e, m.lsm_directory + b"/" + one, wanted)
        if tree is not None and tree.next_number <= highest:
            tree.next_number = highest + 1
    return 0

# --- threads -----------------------------------------------------------------------------------------------------------

cdef void* flush_entry(void* engine) noexcept nogil:
    worker_loop(<Engine>engine, &(<Engine>engine).flush_work, False)
    return NULL


cdef void* compact_entry(void* engine) noexcept nogil:
    worker_loop(<Engine>engine, &(<Engine>engine).compact_work, True)
    return NULL


cdef void worker_loop(Engine e, Work* work, bint compacts) noexcept nogil:
    cdef uint64_t seen = 0
    cdef int64_t quiet_since = monotonic_micros()
    cdef bint idle
    cdef int status
    latch_lock(&e.latch)
    while not e.stopping:
        if e.log.end_lsn != seen:
            seen = e.log.end_lsn
            quiet_since = monotonic_micros()
        idle = monotonic_micros() - quiet_since >= IDLE_MICROS
        if e.log.failed:
            status = ABSENT
        elif compacts:
            status = compact_some(e, work, idle)
            if status == OK or status == ABSENT:
                reap_some(e)
        else:
            status = flush_some(e, work)
        if e.stopping:
            break
        if status == ABSENT:
            condition_wait(&e.txns.lsm_moved, &e.latch, -1 if not compacts or not any_live(e.txns) else LONG_REST_MICROS if idle else REST_MICROS)
        elif status != OK:
            e.background_failures += 1
            condition_wait(&e.txns.lsm_delays, &e.latch, RETRY_MICROS)
    latch_unlock(&e.latch)


cdef object start_workers(Engine e):
    if pthread_create(&e.flush_thread, NULL, flush_entry, <void*>e):
        raise RuntimeError("a background thread could not be started")
    e.flusher = True
    if pthread_create(&e.compact_thread, NULL, compact_entry, <void*>e):
        raise RuntimeError("a background thread could not be started")
    e.compacter = True
    e.txns.lsm_helpless = False


cdef object stop_workers(Engine e):
    """After `stopping` is set."""
    with nogil:
        latch_lock(&e.latch)
        condition_broadcast(&e.txns.lsm_moved)
        latch_unlock(&e.latch)
        if e.flusher:
            pthread_join(e.flush_thread, NULL)
        if e.compacter:
            pthread_join(e.compact_thread, NULL)
    e.flusher = e.compacter = False
    e.txns.lsm_helpless = True
