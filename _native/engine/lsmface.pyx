"""LSM-trees, for people: see lsmface.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from ..base.latch cimport latch_enter, latch_lock, latch_unlock
from ..base.status cimport OK, ABSENT, E_CORRUPT, E_READONLY, E_USAGE, fail, raise_status
from ..base.vfs cimport VFS_CREATE, VFS_READ, VFS_WRITE, Vfs
from ..index.compaction cimport Horizon, Work
from ..index.pick cimport Pick, compaction_pick, level_targets
from ..index.lsm cimport RUNS_SLOW, RUNS_STOP, SEALED_MOST, LsmTree, Tally
from ..index.memtable cimport memtable_check
from ..index.sstscan cimport scan_verify
from ..index.tableset cimport LSM_LEVELS, TableFile, file_unref, set_check
from ..txn.lsmops cimport lsm_horizon, lsm_seal
from .engine cimport Engine
from .lsmtree cimport options_dict
from .lsmwork cimport compact_some, compact_tree, flush_some, reap_some

cdef enum:
    COPY_PIECE = 1 << 20


cdef LsmTree tree_of(Engine e, uint32_t keyspace):
    # Read once: it may be set to NULL meanwhile, its object outlives it. The array is replaced by nobody who does not hold the GIL.
    cdef void* tree = e.txns.trees[keyspace].tree if keyspace < e.txns.next_keyspace and e.txns.trees[keyspace].lsm else NULL
    if tree == NULL:
        raise_status(fail(E_USAGE, b"the keyspace is gone"))
    return <LsmTree>tree


cdef dict lsm_stats(Engine e, uint32_t keyspace):
    cdef LsmTree t = tree_of(e, keyspace)
    cdef uint64_t sizes[LSM_LEVELS]
    cdef uint64_t entries[LSM_LEVELS]
    cdef uint64_t tombstones[LSM_LEVELS]
    cdef uint64_t targets[LSM_LEVELS]
    cdef int counts[LSM_LEVELS]
    cdef int level, i, sealed, base, running
    cdef bint pending
    cdef Pick pick
    cdef Horizon horizon
    cdef uint64_t open_memory = 0, active, memory, ranges
    cdef TableFile* f
    cdef Tally tally
    cdef bint full
    cdef int runs
    latch_enter(&e.latch)
    base = level_targets(t.set, t.options.table_size, targets)
    for level in range(LSM_LEVELS):
        sizes[level] = t.set.bytes[level]
        counts[level] = t.set.counts[level]
        entries[level] = tombstones[level] = 0
        for i in range(t.set.counts[level]):
            f = t.set.files[level][i]
            entries[level] += f.info.entries
            tombstones[level] += f.info.tombstones
            if f.table != NULL:
                open_memory += f.table.memory
    sealed = t.sealed_count
    running = t.compacting
    lsm_horizon(e.txns, &horizon)
    pending = compaction_pick(t, False, horizon.stamps[0], horizon.now, &pick)
    active = t.active.used
    memory = t.memory()
    ranges = t.mem_ranges + t.set.ranges
    tally = t.tally
    full = t.full()
    runs = t.set.runs
    latch_unlock(&e.latch)
    return {
        "options": options_dict(&t.options),
        "memtables": {"active_bytes": active, "sealed": sealed, "memory_bytes": memory, "seals": tally.seals},
        "levels": [{"level": n, "tables": counts[n], "bytes": sizes[n], "entries": entries[n], "tombstones": tombstones[n]}
                   for n in range(LSM_LEVELS) if counts[n]],
        "base_level": base,
        "table_bytes": sum(sizes[n] for n in range(LSM_LEVELS)),
        "table_memory_bytes": open_memory,
        "range_tombstones": ranges,
        "flushes": tally.flushes, "compactions": tally.compactions, "trivial_moves": tally.trivial_moves,
        "compaction": {"running": running, "pending": bool(pending)},
        "bytes_put": tally.bytes_put, "bytes_flushed": tally.bytes_flushed, "bytes_compacted_in": tally.bytes_compacted_in,
        "bytes_compacted_out": tally.bytes_compacted_out,
        "stall": {"now": stall_reason(sealed, full, runs), "stops": tally.stalls, "slowdowns": tally.slowdowns, "stopped_seconds": tally.stall_micros / 1e6,
                  "slowed_seconds": tally.slowdown_micros / 1e6},
        "reads": {"filter_skips": tally.filter_skips, "table_reads": tally.table_reads},
        "damaged": bool(t.damaged),
    }


cdef object stall_reason(int sealed, bint full, int runs):
    """Why writers are slowed or stopped at this moment, or None."""
    if sealed >= SEALED_MOST and full:
        return f"{sealed} memtables wait to be written to tables"
    if runs >= RUNS_STOP:
        return f"{runs} runs in level 0 wait to be merged: writers are stopped"
    if runs >= RUNS_SLOW:
        return f"{runs} runs in level 0 wait to be merged: writers are slowed"
    return None


cdef dict lsm_totals(Engine e):
    cdef LsmTree t
    cdef Tally tally
    cdef uint32_t i
    cdef int level, keyspaces = 0, sealed, runs, waiting = 0, running = 0
    cdef bint full
    cdef uint64_t memtables = 0, tables = 0, stops = 0, slowdowns = 0, stopped = 0, slowed = 0
    cdef dict now = {}
    cdef void* tree
    for i in range(1, e.txns.next_keyspace):
        tree = e.txns.trees[i].tree if e.txns.trees[i].lsm else NULL        # read once, as in tree_of
        if tree == NULL:
            continue
        t = <LsmTree>tree
        latch_enter(&e.latch)
        memtables += t.memory()
        for level in range(LSM_LEVELS):
            tables += t.set.bytes[level]
        sealed = t.sealed_count
        full = t.full()
        runs = t.set.runs
        running += t.compacting
        tally = t.tally
        latch_unlock(&e.latch)
        keyspaces += 1
        waiting += sealed
        stops += tally.stalls
        slowdowns += tally.slowdowns
        stopped += tally.stall_micros
        slowed += tally.slowdown_micros
        reason = stall_reason(sealed, full, runs)
        if reason is not None:
            now[i] = reason
    return {"keyspaces": keyspaces, "memtable_bytes": memtables, "sealed_memtables": waiting, "table_bytes": tables, "compactions_running": running,
            "stall": {"now": now, "stops": stops, "slowdowns": slowdowns, "stopped_seconds": stopped / 1e6, "slowed_seconds": slowed / 1e6}}


cdef extern from "Python.h":
    """
    static PyObject* el_pending(void) { return NULL; }
    """
    int check_signals "PyErr_CheckSignals"() noexcept
    void* error_set "PyErr_Occurred"() noexcept
    object raise_pending "el_pending"()


cdef bint interrupted() noexcept nogil:
    """Whether a signal's handler has raised; its exception stays set."""
    with gil:
        return check_signals() != 0


cdef object lsm_compact(Engine e, uint32_t keyspace, bytes low, bytes high):
    cdef LsmTree tree = tree_of(e, keyspace)
    cdef const char* first = PyBytes_AS_STRING(low) if low is not None else NULL
    cdef const char* last = PyBytes_AS_STRING(high) if high is not None else NULL
    cdef size_t first_len = PyBytes_GET_SIZE(low) if low is not None else 0
    cdef size_t last_len = PyBytes_GET_SIZE(high) if high is not None else 0
    cdef Work work = e.compact_work
    cdef int status
    if e.read_only:
        raise_status(fail(E_READONLY, b"the database was opened read-only"))
    work.stop = &e.closing
    work.look = interrupted
    work.since = 0
    with nogil:
        latch_lock(&e.latch)
        status = e.admit()
        if status == OK:
            status = compact_tree(e, tree, first, first_len, last, last_len, &work)
            if status == OK:
                status = reap_some(e)
            e.leave()
        latch_unlock(&e.latch)
    if error_set() != NULL:
        raise_pending()
    if status != OK:
        raise_status(status)


cdef bint lsm_step(Engine e, str what) except -1:
    cdef int kind = ("seal", "flush", "compact", "settle").index(what)
    cdef int status
    cdef uint32_t i
    with nogil:
        latch_lock(&e.latch)
        status = e.admit()
        if status == OK:
            if kind == 0:
                for i in range(1, e.txns.next_keyspace):
                    if e.txns.trees[i].lsm and e.txns.trees[i].tree != NULL and status == OK and (
                            (<LsmTree>e.txns.trees[i].tree).active.entries or (<LsmTree>e.txns.trees[i].tree).active.range_count):
                        status = lsm_seal(e.txns, <LsmTree>e.txns.trees[i].tree)
            elif kind == 1:
                status = flush_some(e, &e.flush_work)
            else:
                status = compact_some(e, &e.flush_work, kind == 3)
                if status == OK:
                    status = reap_some(e)
            e.leave()
        latch_unlock(&e.latch)
    if status != OK and status != ABSENT:
        raise_status(status)
    return status == OK


cdef dict lsm_verify(Engine e, uint32_t keyspace, list findings):
    cdef LsmTree t = tree_of(e, keyspace)
    cdef TableFile** files
    cdef TableFile* f
    cdef int level, i, n = 0, room = 0, status
    cdef const char* wrong
    cdef uint64_t entries = 0, size = 0, in_memory
    latch_enter(&e.latch)
    in_memory = t.active.entries
    for level in range(LSM_LEVELS):
        room += t.set.counts[level]
    files = <TableFile**>malloc((room + 1) * sizeof(TableFile*))
    wrong = memtable_check(t.active)
    if wrong == NULL:
        wrong = set_check(t.set)
    if files != NULL:
        for level in range(LSM_LEVELS):
            for i in range(t.set.counts[level]):
                files[n] = t.set.files[level][i]
                files[n].refs += 1
                n += 1
    latch_unlock(&e.latch)
    if files == NULL:
        raise MemoryError("no memory to list the tables")
    if wrong != NULL:
        findings.append({"file": t.directory_bytes.decode("utf-8", "replace"), "what": wrong.decode()})
    try:
        if t.damaged:
            findings.append({"file": t.damage.decode("utf-8", "replace"), "what": "the table is missing or damaged"})
        for i in range(n):
            f = files[i]
            entries += f.info.entries
            size += f.info.file_bytes
            if f.table == NULL:
                continue
            with nogil:
                status = scan_verify(e.vfs, f.table)
            if status != OK:
                try:
                    raise_status(status)
                except Exception as error:
                    if status != E_CORRUPT:
                        raise
                    findings.append({"file": getattr(error, "file", None), "offset": getattr(error, "offset", None), "what": str(error)})
    finally:
        latch_enter(&e.latch)
        for i in range(n):
            file_unref(files[i], &t.dead)
        latch_unlock(&e.latch)
        free(files)
    return {"tables": n, "entries": entries, "table_bytes": size, "memtable_entries": in_memory}


cdef size_t name_tables(Engine e, uint64_t* out, size_t room) noexcept nogil:
    """Keyspace and number of each table, one after the other, as far as there is room; how many tables there are."""
    cdef TableFile* f
    cdef size_t n = 0
    cdef uint32_t i
    cdef int level, k
    for i in range(1, e.txns.next_keyspace):
        if e.txns.trees[i].tree == NULL or not e.txns.trees[i].lsm:
            continue
        for level in range(LSM_LEVELS):
            for k in range((<LsmTree>e.txns.trees[i].tree).set.counts[level]):
                if n < room:
                    out[2 * n] = i
                    out[2 * n + 1] = (<LsmTree>e.txns.trees[i].tree).set.files[level][k].number
                n += 1
        f = (<LsmTree>e.txns.trees[i].tree).dead
        while f != NULL:
            if n < room:
                out[2 * n] = i
                out[2 * n + 1] = f.number
            n += 1
            f = f.next_dead
    return n


cdef list tables_named(Engine e, uint64_t* end_lsn):
    cdef uint64_t* names = NULL
    cdef void* grown
    cdef size_t room = 0, n = 0, i
    while True:                          # under the latch no Python object is made
        latch_enter(&e.latch)
        n = name_tables(e, names, room)
        end_lsn[0] = e.log.synced_lsn
        latch_unlock(&e.latch)
        if n <= room:
            break
        room = 2 * n
        grown = realloc(names, room * 2 * sizeof(uint64_t))
        if grown == NULL:
            free(names)
            raise MemoryError("no memory to list the tables")
        names = <uint64_t*>grown
    found = [(names[2 * i], names[2 * i + 1]) for i in range(n)]
    free(names)
    return found


cdef object copy_tables(Engine e, list tables, Vfs target, bytes directory):
    cdef char* buffer = <char*>malloc(COPY_PIECE)
    cdef int source = -1, copy = -1, status = OK
    cdef int64_t at
    cdef size_t got = 0
    cdef bytes name, made, root = directory + b"/lsm"
    if buffer == NULL:
        raise MemoryError("no memory to copy tables")
    copied = 0
    folders = set()
    try:
        if tables:
            status = target.mkdir(root)
            if status == OK:
                status = target.sync_dir(directory)
        for keyspace, number in tables:
            if status != OK:
                break
            made = root + b"/%d" % keyspace
            if keyspace not in folders:
                folders.add(keyspace)
                status = target.mkdir(made)
                if status != OK:
                    break
            name = b"/%d.sst" % number
            source_path = (<bytes>e.txns.lsm_directory) + b"/%d" % keyspace + name
            status = e.vfs.open(source_path, VFS_READ, &source)
            if status == OK:
                copy_path = made + name
                status = target.open(copy_path, VFS_WRITE | VFS_CREATE, &copy)
            at = 0
            while status == OK:
                with nogil:
                    status = e.vfs.read(source, buffer, COPY_PIECE, at, &got)
                    if status == OK and got:
                        status = target.write(copy, buffer, got, at)
                at += got
                copied += got
                if got == 0:
                    break
            if status == OK:
                status = target.sync(copy)
            if source >= 0:
                e.vfs.close(source)
            if copy >= 0:
                target.close(copy)
            source = copy = -1
        for keyspace in folders:
            if status == OK:
                made = root + b"/%d" % keyspace
                status = target.sync_dir(made)
        if status == OK and folders:
            status = target.sync_dir(root)
        if status != OK:
            raise_status(status)
    finally:
        free(buffer)
    return copied
