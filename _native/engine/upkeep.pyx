"""What people ask of a database besides data: verify, backup, stats, the records of the log.  GIL held on entry; latch not."""
from libc.stdint cimport uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, malloc
import os

from ..base.latch cimport latch_enter, latch_lock, latch_unlock
from ..base.realvfs cimport RealVfs
from ..base.status cimport OK, ABSENT, E_INVALID, fail, raise_status
from ..base.status import registered_errors
from ..base.vfs cimport Vfs, VFS_READ, VFS_WRITE, VFS_CREATE, KIND_NONE, KIND_DIRECTORY
from ..index.btree cimport BTree, check_tree
from ..log.reader cimport LogReader
from ..log.record cimport Record, record_tuple
from ..log.writer cimport SYNC
from ..page.store cimport store_check
from ..txn.clock cimport clock_horizon
from ..txn.conflicts cimport ssi_kept
from ..txn.transaction cimport TxnManager, TREE_LIVE, TREE_NONE, CATALOG
from ..txn.versions cimport Txn, Version, BEFORE_BLOB
from ..base.coding cimport get64
from ..txn.versions cimport version_value
from .engine cimport Engine
from .handles cimport CoreDatabase
from .lsmface cimport copy_tables, lsm_totals, lsm_verify, tables_named

cdef enum:
    COPY_PIECE = 1 << 20


def stats(CoreDatabase db):
    """See CoreDatabase.stats."""
    cdef Engine e = db.engine
    cdef TxnManager m = e.txns
    cdef uint64_t file_blocks = 0, used = 0, unused = 0, pids = 0, horizon, visible, last, end, written, synced, keep, snapshots, writers
    cdef uint64_t table_live, table_bytes, oldest = 0, checkpoint_lsn
    cdef uint32_t i, keyspaces = 0
    latch_enter(&e.latch)
    e.store.usage(&file_blocks, &used, &unused, &pids)
    horizon = clock_horizon(&m.clock)
    visible = m.clock.visible_ts
    last = m.clock.last_ts
    snapshots = m.clock.snapshots
    writers = m.clock.writers
    if m.clock.oldest_snapshot != NULL:
        oldest = m.clock.oldest_snapshot.snapshot
    end = e.log.end_lsn
    written = e.log.written_lsn
    synced = e.log.synced_lsn
    keep = e.checkpoint_state.keep
    checkpoint_lsn = e.checkpoint_state.lsn
    for i in range(1, m.next_keyspace):
        keyspaces += m.trees[i].state == TREE_LIVE
    table_live = m.table.live
    table_bytes = m.table.bytes
    latch_unlock(&e.latch)
    return {
        "database": {"path": db.path, "id": db.database_id.hex(), "page_size": e.store.page_size, "read_only": e.read_only,
                     "keyspaces": keyspaces},
        "log": {"end_lsn": end, "written_lsn": written, "synced_lsn": synced, "kept_from_lsn": keep, "incarnation": e.fields.incarnation,
                "groups": e.log.groups, "syncs": e.log.syncs, "failed": bool(e.log.failed)},
        "checkpoint": {"lsn": checkpoint_lsn, "count": e.checkpoint_state.count, "frozen_seconds": e.checkpoint_state.frozen_micros / 1e6,
                       "seconds": e.checkpoint_state.total_micros / 1e6, "generation": e.store.sb.generation,
                       "background_failures": e.background_failures},
        "pages": {"file_bytes": file_blocks * 512, "used_bytes": used * 512, "free_bytes": unused * 512, "pages": pids},
        "cache": {"frames": e.pool.frame_count, "bytes": e.pool.frame_count * e.store.page_size, "dirty": e.pool.dirty_count, "loads": e.pool.loads,
                  "evictions": e.pool.evictions},
        "lsm": lsm_totals(e),
        "versions": {"live": table_live, "bytes": table_bytes, "horizon": horizon, "reads": m.reads_of_versions, "snapshots_lost": m.snapshots_lost},
        "transactions": {"visible_ts": visible, "last_ts": last, "snapshots": snapshots, "oldest_snapshot": oldest, "writers": writers,
                         "commits": m.commits, "aborts": m.aborts, "conflicts": m.conflicts, "deadlocks": m.deadlocks, "timeouts": m.timeouts,
                         "prepared": m.prepared},
        "isolation": {"locks": m.holds.locks, "remembered_reads": m.holds.count - m.holds.locks, "bytes": m.holds.bytes, "escalations": m.lock_escalations,
                      "rw_conflicts": m.ssi_conflicts, "dangerous_structures": m.ssi_pivots, "summaries": m.ssi_summaries, "false_by_summary": m.ssi_false,
                      "safe_snapshots": m.ssi_safe, "predicate_tests": m.predicate_tests, "predicate_matches": m.predicate_matches,
                      "range_conflicts": m.range_conflicts, "range_false": m.range_false, "serializable_committed": ssi_kept(m)},
        "recovery": dict(e.recovery),
    }


cdef object held_blobs(Engine e, set pids):
    """Large values that only versions and writers in flight keep in being."""
    cdef TxnManager m = e.txns
    cdef Txn* t
    cdef Version* v
    cdef uint64_t* found
    cdef size_t n = 0, room = m.table.live + m.clock.writers + 1, i
    found = <uint64_t*>malloc(room * sizeof(uint64_t))
    if found == NULL:
        raise MemoryError("no memory to list large values")
    latch_enter(&e.latch)
    for i in range(2):
        t = m.garbage if i == 0 else m.clock.first_writer
        while t != NULL:
            v = t.newest
            if t.blob_pid and n < room:
                found[n] = t.blob_pid
                n += 1
            while v != NULL:
                if v.linked and v.flags & BEFORE_BLOB and n < room:
                    found[n] = get64(version_value(v))
                    n += 1
                v = v.previous
            t = t.writer_next
    latch_unlock(&e.latch)
    for i in range(n):
        pids.add(found[i])
    free(found)


def verify(CoreDatabase db, progress):
    """See CoreDatabase.verify: a walk of every tree, then of the page file; then of the log as far as it is synced."""
    cdef Engine e = db.engine
    cdef TxnManager m = e.txns
    cdef uint32_t i, n
    cdef bint lsm
    cdef void* tree
    cdef uint64_t end_lsn, turnover
    cdef list findings = []
    cdef list doubts = []           # findings only if nothing changed under the walk
    cdef set pids = set()
    names = {}
    with db.core_transaction_plain() as txn:
        for name, id, _backend in txn.catalog_rows(hidden=True):
            names[id] = name
    counts = {"keyspaces": {}, "log_records": 0}
    with nogil:
        latch_lock(&e.latch)
        while e.reaping:
            e.wait_checkpoint()
        e.reaping = True              # trees being dropped stay whole while they are looked at
        n = m.next_keyspace
        end_lsn = e.log.end_lsn
        turnover = e.store.turnover
        latch_unlock(&e.latch)
    try:
        for i in range(n):
            latch_enter(&e.latch)
            tree = NULL if m.trees[i].state == TREE_NONE else <void*>m.trees[i].tree
            lsm = m.trees[i].lsm
            latch_unlock(&e.latch)
            if tree == NULL:
                continue
            name = "(catalogue)" if i == CATALOG else names.get(i, f"(dropping {i})")
            if progress is not None:
                progress(f"keyspace {name}")
            if lsm:
                result = lsm_verify(e, i, findings)
            else:
                result = check_tree(<BTree>tree, pids, findings, doubts, True)
            counts["keyspaces"][name] = result
        held_blobs(e, pids)
        if progress is not None:
            progress("page file")
        if not e.read_only:
            store_check(e.store, pids, findings, doubts)
    finally:
        latch_enter(&e.latch)
        e.reaping = False
        if e.work_waits():
            e.poke()
        quiet = e.log.end_lsn == end_lsn and e.store.turnover == turnover
        latch_unlock(&e.latch)
    if quiet:
        findings.extend(doubts)
    if progress is not None:
        progress("log")
    try:
        for _ in log_records(db, 0):
            counts["log_records"] += 1
    except OSError as error:
        findings.append({"file": "log", "what": str(error)})
    except Exception as error:
        findings.append({"file": "log", "offset": getattr(error, "offset", None), "what": str(error)})
    return findings, counts


def log_records(CoreDatabase db, uint64_t start_lsn):
    """See CoreDatabase.log_records."""
    cdef Engine e = db.engine
    cdef LogReader reader = LogReader()
    cdef Record r
    cdef int status
    cdef uint64_t limit
    cdef bytes log_dir = e.log_dir
    cdef const char* path = log_dir
    pin = e.pin_log(0)                    # segments must not be let go of, or used again, under the reader
    latch_enter(&e.latch)
    limit = e.log.written_lsn
    latch_unlock(&e.latch)
    status = reader.open(e.vfs, path, start_lsn, e.segment_size, e.store.sb.database_id)
    if status != OK:
        e.unpin_log(pin)
    if status == ABSENT:
        return
    if status != OK:
        raise_status(status)
    if not e.read_only:
        reader.limit_lsn = limit
    names = ("lsn", "type", "txn", "keyspace", "a", "b", "key", "value")
    try:
        while True:
            status = reader.next(&r)
            if status == ABSENT:
                return
            if status != OK:
                raise_status(status)
            if r.lsn >= start_lsn:
                yield {k: v for k, v in zip(names, record_tuple(&r)) if v is not None}
    finally:
        reader.close()
        e.unpin_log(pin)


cdef object copy_log(Engine e, Vfs target, bytes target_dir, uint64_t first, uint64_t end):
    """Copies segments that hold log bytes in [first, end); what lies at or above `end` is zeros in the copy, so that it ends there."""
    cdef int source_handle = -1, target_handle = -1, status
    cdef int64_t size = 0, at
    cdef size_t got = 0, i
    cdef uint64_t lsn
    cdef char* buffer = <char*>malloc(COPY_PIECE)
    cdef bytes source_path, target_path
    copied = 0
    if buffer == NULL:
        raise MemoryError("no memory to copy the log")
    names = [s for s in e.segments() if s.endswith(b".wal") and not s.startswith(b"spare")]
    starts = [int(s[:16], 16) for s in names]
    try:
        for k, name in enumerate(names):
            lsn = starts[k]
            if lsn >= end or (k + 1 < len(starts) and starts[k + 1] <= first):
                continue
            source_path = e.log_dir + b"/" + name
            target_path = target_dir + b"/" + name
            status = e.vfs.open(source_path, VFS_READ, &source_handle)
            if status == OK:
                status = e.vfs.size(source_handle, &size)
            if status == OK:
                status = target.open(target_path, VFS_WRITE | VFS_CREATE, &target_handle)
            at = 0
            while status == OK and at < size:
                with nogil:
                    status = e.vfs.read(source_handle, buffer, COPY_PIECE, at, &got)
                    if status == OK and got == 0:
                        break
                    for i in range(got):
                        if lsn + <uint64_t>at + i >= end:
                            buffer[i] = 0
                    if status == OK:
                        status = target.write(target_handle, buffer, got, at)
                at += got
                copied += got
            if status == OK:
                status = target.sync(target_handle)
            if source_handle >= 0:
                e.vfs.close(source_handle)
            if target_handle >= 0:
                target.close(target_handle)
            source_handle = target_handle = -1
            if status != OK:
                raise_status(status)
        status = target.sync_dir(target_dir)
        if status != OK:
            raise_status(status)
    finally:
        free(buffer)
    return copied


def backup(CoreDatabase db, str path):
    """See CoreDatabase.backup: the pinned image and the log from there on; opening the copy recovers it like any database."""
    cdef Engine e = db.engine
    cdef Vfs target = e.vfs
    cdef bytes directory = os.fsencode(path)
    cdef bytes pages = directory + b"/pages.dat", partial = directory + b"/pages.new", log_dir = directory + b"/log"
    cdef const char* partial_path = partial
    cdef uint64_t generation, end = 0, first = 0
    cdef bytes lock_path
    cdef int lock_handle = -1
    cdef int status, kind = 0
    if e.read_only:
        raise registered_errors()["ReadOnlyError"]("a database opened read-only cannot pin an image to copy: back up from the writing process, or copy the closed files")
    if e.in_memory:
        target = RealVfs()
    status = target.kind(directory, &kind)
    if status == OK and kind != KIND_NONE:
        if kind != KIND_DIRECTORY or os.listdir(path) if isinstance(target, RealVfs) else True:
            raise FileExistsError(17, "the target of a backup must be a new or an empty directory", path)
    if status == OK:
        status = target.mkdir(directory)
    if status == OK:
        status = target.mkdir(log_dir)
    if status != OK:
        raise_status(status)
    pin = e.pin_log(0)
    with nogil:
        latch_lock(&e.latch)
        status = e.admit()
        if status != OK:
            latch_unlock(&e.latch)
            with gil:
                e.unpin_log(pin)
                raise_status(status)
        while e.checkpointing:
            status = e.wait_checkpoint()
        e.hold_files += 1
        generation = e.store.pin_image()
        first = e.checkpoint_state.keep
        status = e.log.flush(e.log.end_lsn, SYNC)
        latch_unlock(&e.latch)
    try:
        if status != OK:
            raise_status(status)
        tables = tables_named(e, &end)
        if generation == 0:
            raise_status(fail(E_INVALID, b"too many backups at once"))
        with nogil:
            status = e.store.copy_image(generation, target, partial_path)
        if status != OK:
            raise_status(status)
        log_bytes = copy_log(e, target, log_dir, first, end)
        table_bytes = copy_tables(e, tables, target, directory)
        lock_path = directory + b"/LOCK"
        status = target.open(lock_path, VFS_WRITE | VFS_CREATE, &lock_handle)
        if status == OK:
            target.close(lock_handle)
            status = target.rename(partial, pages)
        if status == OK:
            status = target.sync_dir(directory)
        if status == OK and isinstance(target, RealVfs):
            parent = os.path.dirname(os.path.abspath(directory))
            status = target.sync_dir(parent)
        if status != OK:
            raise_status(status)
        return {"path": path, "generation": generation, "end_lsn": end, "log_bytes": log_bytes, "table_bytes": table_bytes}
    finally:
        latch_enter(&e.latch)
        if generation:
            e.store.unpin_image(generation)
        e.hold_files -= 1
        e.leave()
        latch_unlock(&e.latch)
        e.unpin_log(pin)
