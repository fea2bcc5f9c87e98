"""From journal entries to states, and from a state to what a crash leaves of it.

Invariants: applying the same entries to the same state gives the same state; the same seed gives the same crash.

The model of a power loss, and why it is fair:
 - A file's dirty 512-byte sectors reach the medium independently and whole.  A sector written several times may hold
   what it held after any of these writes, always all earlier ones included: the page cache writes what it has at that
   moment.
 - The file's size is what it was after some prefix of the unsynced changes of the size; what lies beyond it is gone,
   and what was not written below it reads as zeros.
 - Each unsynced change of a directory is kept or lost on its own, except that a name can only be taken again once the
   rename that vacated it is kept: otherwise a file would be under neither its old nor its new name.
 - A sync of a directory makes its changes durable, a rename's when it is either of the two directories.
"""
from libc.errno cimport ENOMEM
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from enginelib._native.base.memdata cimport Data, data_free, data_read, data_resize, data_share, data_write
from enginelib._native.base.memfs cimport (
    Inode, fs_clone, fs_find, fs_free, fs_init, fs_link, fs_release, fs_reserve, fs_unlink_entry,
)
from enginelib._native.base.vfs cimport KIND_DIRECTORY, KIND_FILE

cdef extern from *:
    """
    #define el_op_ref(p) __atomic_add_fetch(p, 1, __ATOMIC_RELAXED)
    #define el_op_unref(p) __atomic_sub_fetch(p, 1, __ATOMIC_ACQ_REL)
    """
    int el_op_ref(int* p) noexcept nogil
    int el_op_unref(int* p) noexcept nogil

cdef enum:
    SECTOR = 512


# ---- Entries

cdef Op* op_new(int kind, uint32_t ino, uint32_t parent, const char* name, uint32_t length,
                uint32_t parent2, const char* name2, uint32_t length2,
                int64_t offset, const char* data, size_t n) noexcept nogil:
    cdef size_t extra = length + 1 + length2 + 1 + (n if data != NULL else 0)
    cdef Op* op = <Op*>malloc(sizeof(Op) + extra)
    if op == NULL:
        return NULL
    op.refs = 1
    op.kind = kind
    op.ino = ino
    op.parent = parent
    op.parent2 = parent2
    op.length = length
    op.length2 = length2
    op.offset = offset
    op.n = n
    op.name = <char*>op + sizeof(Op)
    op.name2 = op.name + length + 1
    op.data = op.name2 + length2 + 1
    if length:
        memcpy(op.name, name, length)
    op.name[length] = 0
    if length2:
        memcpy(op.name2, name2, length2)
    op.name2[length2] = 0
    if data != NULL and n:
        memcpy(op.data, data, n)
    return op


cdef void op_drop(Op* op) noexcept nogil:
    if op != NULL and el_op_unref(&op.refs) == 0:
        free(op)


cdef int list_add(OpList* l, Op* op) noexcept nogil:
    cdef uint32_t room
    cdef Op** grown
    if l.n == l.room:
        room = 2 * l.room if l.room else 8
        grown = <Op**>realloc(l.ops, room * sizeof(Op*))
        if grown == NULL:
            return ENOMEM
        l.ops = grown
        l.room = room
    el_op_ref(&op.refs)
    l.ops[l.n] = op
    l.n += 1
    return 0


cdef void list_clear(OpList* l) noexcept nogil:
    cdef uint32_t i
    for i in range(l.n):
        op_drop(l.ops[i])
    l.n = 0


cdef void list_free(OpList* l) noexcept nogil:
    list_clear(l)
    free(l.ops)
    memset(l, 0, sizeof(OpList))


cdef int list_copy(OpList* to, const OpList* l) noexcept nogil:
    cdef uint32_t i
    memset(to, 0, sizeof(OpList))
    if l.n == 0:
        return 0
    to.ops = <Op**>malloc(l.n * sizeof(Op*))
    if to.ops == NULL:
        return ENOMEM
    to.n = to.room = l.n
    for i in range(l.n):
        to.ops[i] = l.ops[i]
        el_op_ref(&to.ops[i].refs)
    return 0


# ---- States

cdef int state_init(State* s) noexcept nogil:
    memset(s, 0, sizeof(State))
    if fs_init(&s.live, True) or fs_init(&s.disk, True):
        state_free(s)
        return ENOMEM
    return 0


cdef void state_free(State* s) noexcept nogil:
    cdef uint32_t i
    fs_free(&s.live)
    fs_free(&s.disk)
    for i in range(s.n_files):
        list_free(&s.files[i].list)
    free(s.files)
    list_free(&s.tree)
    memset(s, 0, sizeof(State))


cdef int clone_disk(MemFs* to, const MemFs* disk) noexcept nogil:
    """As fs_clone, but files without a durable name keep their durable content: the name may become durable yet."""
    cdef uint32_t i
    cdef Inode* n
    if fs_clone(to, disk):
        return ENOMEM
    for i in range(disk.n_inodes):
        if disk.inodes[i].links == 0:
            n = &to.inodes[i]
            n.kind = disk.inodes[i].kind
            data_share(&n.data, &disk.inodes[i].data)
    return 0


cdef int state_clone(State* to, const State* s) noexcept nogil:
    cdef uint32_t i
    memset(to, 0, sizeof(State))
    if fs_clone(&to.live, &s.live):
        return ENOMEM
    # An unlinked file may be open still, be synced, and come back when the unlink is lost: nothing in `live` is
    # released.
    for i in range(to.live.n_inodes):
        to.live.inodes[i].opens = 1
    if clone_disk(&to.disk, &s.disk) or list_copy(&to.tree, &s.tree):
        state_free(to)
        return ENOMEM
    if s.n_files:
        to.files = <Pending*>calloc(s.n_files, sizeof(Pending))
        if to.files == NULL:
            state_free(to)
            return ENOMEM
        to.n_files = s.n_files
        for i in range(s.n_files):
            to.files[i].lost = s.files[i].lost
            if list_copy(&to.files[i].list, &s.files[i].list):
                state_free(to)
                return ENOMEM
    return 0


cdef Pending* pending_of(State* s, uint32_t ino) noexcept nogil:
    cdef uint32_t room
    cdef Pending* grown
    if ino >= s.n_files:
        room = ino + 8
        grown = <Pending*>realloc(s.files, room * sizeof(Pending))
        if grown == NULL:
            return NULL
        memset(grown + s.n_files, 0, (room - s.n_files) * sizeof(Pending))
        s.files = grown
        s.n_files = room
    return &s.files[ino]


cdef int change_tree(MemFs* fs, Op* op) noexcept nogil:
    """Does one change of a directory, as far as the state it meets allows."""
    cdef int found
    cdef uint32_t i
    if op.kind == OP_UNLINK:
        found = fs_find(fs, op.parent, op.name, op.length)
        if found >= 0 and fs.entries[found].ino == op.ino:
            fs_unlink_entry(fs, found)
        return 0
    if op.kind == OP_RENAME:
        # Takes every name the file has: an earlier rename of it may have been lost. Its inode must live through that.
        fs.inodes[op.ino].opens += 1
        i = 0
        while i < fs.n_entries:
            if fs.entries[i].ino == op.ino:
                fs_unlink_entry(fs, <int>i)
            else:
                i += 1
        found = fs_link(fs, op.parent2, op.name2, op.length2, op.ino)
        fs.inodes[op.ino].opens -= 1
        return found
    return fs_link(fs, op.parent, op.name, op.length, op.ino)


cdef int apply_data(Data* d, Op* op) noexcept nogil:
    if op.kind == OP_TRUNCATE:
        return data_resize(d, op.offset)
    return data_write(d, op.data, op.n, op.offset)


cdef void replace_data(Data* d, const Data* by) noexcept nogil:
    cdef Data new
    data_share(&new, by)
    data_free(d)
    d[0] = new


cdef int sync_file(State* s, Op* op) noexcept nogil:
    cdef Pending* p = pending_of(s, op.ino)
    cdef Data* disk = &s.disk.inodes[op.ino].data
    cdef Data* live = &s.live.inodes[op.ino].data
    cdef uint32_t i
    if p == NULL:
        return ENOMEM
    if not p.lost:
        if p.list.n:
            replace_data(disk, live)
    else:
        for i in range(p.list.n):
            if apply_data(disk, p.list.ops[i]):
                return ENOMEM
        if disk.size != live.size and data_resize(disk, live.size):
            return ENOMEM
    list_clear(&p.list)
    return 0


cdef int flip(Data* d, Op* op) noexcept nogil:
    cdef char c
    if data_read(d, &c, 1, op.offset) == 0:
        return 0
    c = c ^ op.data[0]
    return data_write(d, &c, 1, op.offset)


cdef int state_apply(State* s, Op* op) noexcept nogil:
    cdef Pending* p
    cdef Inode* n
    cdef uint32_t i, kept
    cdef int e
    if op.kind in (OP_CREATE, OP_MKDIR, OP_PUT):
        if fs_reserve(&s.live, op.ino) or fs_reserve(&s.disk, op.ino):
            return ENOMEM
        s.live.inodes[op.ino].kind = KIND_DIRECTORY if op.kind == OP_MKDIR else KIND_FILE
        s.disk.inodes[op.ino].kind = s.live.inodes[op.ino].kind
        s.live.inodes[op.ino].opens = 1         # see state_clone
    if op.kind == OP_WRITE or op.kind == OP_TRUNCATE:
        p = pending_of(s, op.ino)
        if p == NULL or apply_data(&s.live.inodes[op.ino].data, op):
            return ENOMEM
        return list_add(&p.list, op)
    if op.kind == OP_SYNC:
        return sync_file(s, op)
    if op.kind == OP_SYNC_FAILED:
        p = pending_of(s, op.ino)
        if p == NULL:
            return ENOMEM
        if p.list.n:
            p.lost = True
        list_clear(&p.list)
        return 0
    if op.kind == OP_SYNC_DIR:
        kept = 0
        for i in range(s.tree.n):
            if s.tree.ops[i].parent == op.ino or (s.tree.ops[i].kind == OP_RENAME and s.tree.ops[i].parent2 == op.ino):
                e = change_tree(&s.disk, s.tree.ops[i])
                if e:
                    return e
                op_drop(s.tree.ops[i])
            else:
                s.tree.ops[kept] = s.tree.ops[i]
                kept += 1
        s.tree.n = kept
        return 0
    if op.kind == OP_PUT:
        if (fs_link(&s.live, op.parent, op.name, op.length, op.ino)
                or fs_link(&s.disk, op.parent, op.name, op.length, op.ino)):
            return ENOMEM
        p = pending_of(s, op.ino)
        if p == NULL:
            return ENOMEM
        list_clear(&p.list)
        p.lost = False
        n = &s.live.inodes[op.ino]
        if data_resize(&n.data, 0) or data_write(&n.data, op.data, op.n, 0):
            return ENOMEM
        replace_data(&s.disk.inodes[op.ino].data, &n.data)
        return 0
    if op.kind == OP_CORRUPT:
        if flip(&s.live.inodes[op.ino].data, op) or flip(&s.disk.inodes[op.ino].data, op):
            return ENOMEM
        return 0
    e = change_tree(&s.live, op)
    if e:
        return e
    return list_add(&s.tree, op)


# ---- Crashes

cdef inline uint64_t draw(uint64_t* seed) noexcept nogil:
    """splitmix64"""
    cdef uint64_t z
    seed[0] += 0x9E3779B97F4A7C15u
    z = seed[0]
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9u
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EBu
    return z ^ (z >> 31)


cdef int forget_cut(Data* d, int64_t size, int64_t first, int64_t last,
                    const uint32_t* counts, const uint32_t* seen) noexcept nogil:
    """A truncation whose size is lost: a sector of which a later moment got through has zeros where it was cut off."""
    cdef char zeros[SECTOR]
    cdef int64_t s, lo, hi
    memset(zeros, 0, sizeof(zeros))
    for s in range(first if first > size // SECTOR else size // SECTOR, last + 1):
        if counts[s - first] <= seen[s - first]:
            continue
        lo = s * SECTOR if s * SECTOR > size else size
        hi = (s + 1) * SECTOR if (s + 1) * SECTOR < d.size else d.size
        if lo < hi and data_write(d, zeros, <size_t>(hi - lo), lo):
            return ENOMEM
    return 0


cdef int tear(Data* d, Op** ops, uint32_t n, uint64_t* seed) noexcept nogil:
    """Applies to d, a copy of the durable content, what a power loss lets through of the unsynced ops."""
    cdef int64_t first = -1, last = -1, size = d.size, final, s, run, lo, end, hi
    cdef uint32_t changes = 0, prefix, i, count
    cdef uint32_t* counts
    cdef uint32_t* seen = NULL
    cdef uint64_t r, newest, none
    cdef Op* op
    cdef int rc = 0
    for i in range(n):
        op = ops[i]
        if op.kind == OP_TRUNCATE:
            changes += 1
            size = op.offset
            continue
        if op.offset + <int64_t>op.n > size:
            changes += 1
            size = op.offset + <int64_t>op.n
        if first < 0 or op.offset // SECTOR < first:
            first = op.offset // SECTOR
        if (op.offset + <int64_t>op.n - 1) // SECTOR > last:
            last = (op.offset + <int64_t>op.n - 1) // SECTOR
    r = draw(seed)
    prefix = <uint32_t>(r % (changes + 1))
    # How likely a sector is to be quite lost or quite new differs from file to file: some crashes are nearly clean.
    newest = (r >> 32) & 15
    none = (r >> 40) & 15
    if newest + none > 16:
        newest = 16 - newest
        none = 16 - none
    counts = NULL
    if first >= 0:
        counts = <uint32_t*>calloc(<size_t>(last - first + 1), 2 * sizeof(uint32_t))
        if counts == NULL:
            return ENOMEM
        seen = counts + (last - first + 1)
        for i in range(n):
            op = ops[i]
            if op.kind == OP_WRITE:
                for s in range(op.offset // SECTOR, (op.offset + <int64_t>op.n - 1) // SECTOR + 1):
                    counts[s - first] += 1
        for s in range(last - first + 1):
            count = counts[s]
            if count == 0:
                continue
            r = draw(seed)
            if (r & 15) < newest:
                pass
            elif (r & 15) < newest + none:
                counts[s] = 0
            else:
                counts[s] = <uint32_t>((r >> 8) % (count + 1))
    size = final = d.size
    changes = 0
    for i in range(n):
        op = ops[i]
        if op.kind == OP_TRUNCATE:
            size = op.offset
            changes += 1
            if changes <= prefix:
                final = size
                if size < d.size and data_resize(d, size):
                    rc = ENOMEM
                    break
            elif first >= 0 and forget_cut(d, size, first, last, counts, seen):
                rc = ENOMEM
                break
            continue
        if op.offset + <int64_t>op.n > size:
            size = op.offset + <int64_t>op.n
            changes += 1
            if changes <= prefix:
                final = size
        run = -1                                # first sector of a run that got through
        hi = (op.offset + <int64_t>op.n - 1) // SECTOR
        for s in range(op.offset // SECTOR, hi + 2):
            if s <= hi:
                seen[s - first] += 1
                if seen[s - first] <= counts[s - first]:
                    if run < 0:
                        run = s
                    continue
            if run >= 0:
                lo = run * SECTOR - op.offset
                if lo < 0:
                    lo = 0
                end = s * SECTOR - op.offset
                if end > <int64_t>op.n:
                    end = <int64_t>op.n
                if data_write(d, op.data + lo, <size_t>(end - lo), op.offset + lo):
                    rc = ENOMEM
                run = -1
        if rc:
            break
    free(counts)
    if rc == 0 and data_resize(d, final):
        rc = ENOMEM
    return rc


cdef int keep_some(MemFs* fs, Op** ops, uint32_t n, uint64_t* seed) noexcept nogil:
    """Makes a random part of the unsynced changes of directories."""
    cdef uint8_t* keep
    cdef uint32_t i, j, parent, length
    cdef char* name
    cdef uint64_t r, bias
    cdef int rc = 0
    if n == 0:
        return 0
    keep = <uint8_t*>malloc(n)
    if keep == NULL:
        return ENOMEM
    bias = 2 + draw(seed) % 13
    for i in range(n):
        r = draw(seed)
        keep[i] = (r & 15) < bias
    i = n
    while i > 0:
        i -= 1
        if not keep[i] or ops[i].kind == OP_UNLINK:
            continue
        if ops[i].kind == OP_RENAME:
            parent, name, length = ops[i].parent2, ops[i].name2, ops[i].length2
        else:
            parent, name, length = ops[i].parent, ops[i].name, ops[i].length
        j = i
        while j > 0:
            j -= 1
            if ops[j].kind == OP_RENAME:
                if same_name(ops[j].parent, ops[j].name, ops[j].length, parent, name, length):
                    keep[j] = True
                    break
                if same_name(ops[j].parent2, ops[j].name2, ops[j].length2, parent, name, length):
                    break
            elif same_name(ops[j].parent, ops[j].name, ops[j].length, parent, name, length):
                break
    for i in range(n):
        if keep[i] and rc == 0:
            rc = change_tree(fs, ops[i])
    free(keep)
    return rc


cdef bint same_name(uint32_t p, const char* a, uint32_t n, uint32_t q, const char* b, uint32_t m) noexcept nogil:
    cdef uint32_t i
    if p != q or n != m:
        return False
    for i in range(n):
        if a[i] != b[i]:
            return False
    return True


cdef int prune(MemFs* fs) noexcept nogil:
    """Drops what hangs below a directory that is not there, then the content of every file without a name."""
    cdef uint32_t i
    cdef bint again = True
    cdef uint8_t* reached = <uint8_t*>calloc(fs.n_inodes, 1)
    if reached == NULL:
        return ENOMEM
    reached[0] = 1
    while again:
        again = False
        for i in range(fs.n_entries):
            if reached[fs.entries[i].parent] and not reached[fs.entries[i].ino]:
                reached[fs.entries[i].ino] = 1
                again = True
    i = 0
    while i < fs.n_entries:
        if not reached[fs.entries[i].parent]:
            fs_unlink_entry(fs, <int>i)
        else:
            i += 1
    free(reached)
    for i in range(1, fs.n_inodes):
        fs_release(fs, i)
    return 0


cdef int state_crash(State* to, const State* s, Op* flight, int mode, uint64_t seed) noexcept nogil:
    cdef uint32_t i, n
    cdef OpList tree
    cdef OpList* waiting
    cdef OpList torn
    cdef int rc = 0
    if mode == CRASH_KILL:
        return state_clone(to, s)
    memset(to, 0, sizeof(State))
    if mode == CRASH_ALL:
        if fs_clone(&to.live, &s.live):
            return ENOMEM
    else:
        if clone_disk(&to.live, &s.disk):
            return ENOMEM
    if mode == CRASH_POWER:
        if flight != NULL and flight.kind in (OP_CREATE, OP_MKDIR):
            rc = fs_reserve(&to.live, flight.ino)
            if rc == 0:
                to.live.inodes[flight.ino].kind = KIND_FILE if flight.kind == OP_CREATE else KIND_DIRECTORY
        n = to.live.n_inodes
        for i in range(n):
            if rc:
                break
            waiting = &s.files[i].list if i < s.n_files else NULL
            if flight != NULL and flight.ino == i and flight.kind in (OP_WRITE, OP_TRUNCATE):
                memset(&torn, 0, sizeof(OpList))
                if waiting != NULL:
                    rc = list_copy(&torn, waiting)
                if rc == 0:
                    rc = list_add(&torn, flight)
                if rc == 0:
                    rc = tear(&to.live.inodes[i].data, torn.ops, torn.n, &seed)
                list_free(&torn)
            elif waiting != NULL and waiting.n:
                rc = tear(&to.live.inodes[i].data, waiting.ops, waiting.n, &seed)
        if rc == 0:
            rc = list_copy(&tree, &s.tree)
            if rc == 0 and flight != NULL and flight.kind in (OP_CREATE, OP_MKDIR, OP_UNLINK, OP_RENAME):
                rc = list_add(&tree, flight)
            if rc == 0:
                # Names come and go here without their files: the content is needed until the last change is made.
                for i in range(to.live.n_inodes):
                    to.live.inodes[i].opens += 1
                rc = keep_some(&to.live, tree.ops, tree.n, &seed)
                for i in range(to.live.n_inodes):
                    to.live.inodes[i].opens -= 1
            list_free(&tree)
    if rc == 0 and mode != CRASH_ALL:
        rc = prune(&to.live)
    if rc == 0:
        rc = fs_clone(&to.disk, &to.live)
    if rc:
        state_free(to)
    return rc
