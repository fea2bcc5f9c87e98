"""The tree of an in-memory file system; see the declarations for the invariants."""
from libc.errno cimport EINVAL, EISDIR, ENAMETOOLONG, ENOENT, ENOMEM, ENOTDIR, ENOTEMPTY
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from enginelib._native.base.memdata cimport data_free, data_init, data_share
from enginelib._native.base.vfs cimport KIND_DIRECTORY, KIND_NONE


cdef int fs_init(MemFs* fs, bint no_reuse) noexcept nogil:
    memset(fs, 0, sizeof(MemFs))
    fs.no_reuse = no_reuse
    if fs_reserve(fs, 0):
        return ENOMEM
    fs.inodes[0].kind = KIND_DIRECTORY
    fs.inodes[0].links = 1
    return 0


cdef void fs_free(MemFs* fs) noexcept nogil:
    cdef uint32_t i
    for i in range(fs.n_inodes):
        data_free(&fs.inodes[i].data)
    free(fs.inodes)
    free(fs.entries)
    memset(fs, 0, sizeof(MemFs))


cdef int fs_clone(MemFs* to, const MemFs* fs) noexcept nogil:
    cdef uint32_t i
    cdef Inode* n
    to[0] = fs[0]
    to.room_inodes = fs.n_inodes
    to.room_entries = fs.n_entries
    to.free_inode = 0
    to.inodes = <Inode*>malloc((fs.n_inodes + 1) * sizeof(Inode))
    to.entries = <Entry*>malloc((fs.n_entries + 1) * sizeof(Entry))
    if to.inodes == NULL or to.entries == NULL:
        free(to.inodes)
        free(to.entries)
        memset(to, 0, sizeof(MemFs))
        return ENOMEM
    memcpy(to.inodes, fs.inodes, fs.n_inodes * sizeof(Inode))
    memcpy(to.entries, fs.entries, fs.n_entries * sizeof(Entry))
    for i in range(fs.n_inodes):
        n = &to.inodes[i]
        n.opens = n.exclusive = n.shared = 0
        n.next_free = 0
        if n.links > 0:
            data_share(&n.data, &fs.inodes[i].data)
        else:
            data_init(&n.data)
            n.kind = KIND_NONE
    return 0


cdef uint32_t hash_name(uint32_t parent, const char* name, uint32_t length) noexcept nogil:
    cdef uint32_t h = parent * <uint32_t>2654435761u + 2166136261u
    cdef uint32_t i
    for i in range(length):
        h = (h ^ <unsigned char>name[i]) * <uint32_t>16777619u
    return h


cdef int fs_find(MemFs* fs, uint32_t parent, const char* name, uint32_t length) noexcept nogil:
    cdef uint32_t h = hash_name(parent, name, length)
    cdef uint32_t i
    cdef Entry* e
    for i in range(fs.n_entries):
        e = &fs.entries[i]
        if e.hash == h and e.parent == parent and e.length == length and memcmp(e.name, name, length) == 0:
            return <int>i
    return -1


cdef int fs_walk(MemFs* fs, const char* path, Place* place) noexcept nogil:
    cdef const char* p = path
    cdef const char* end
    cdef uint32_t ino = 0
    cdef int found
    place.parent = 0
    place.name = path
    place.length = 0
    while True:
        while p[0] == b'/' or (p[0] == b'.' and (p[1] == b'/' or p[1] == 0)):
            p += 1
        if p[0] == 0:
            return 0
        if place.length > 0:                    # the name before this one has to be a directory
            found = fs_find(fs, place.parent, place.name, place.length)
            if found < 0:
                return ENOENT
            ino = fs.entries[found].ino
            if fs.inodes[ino].kind != KIND_DIRECTORY:
                return ENOTDIR
        end = p
        while end[0] != 0 and end[0] != b'/':
            end += 1
        if end - p >= NAME_ROOM:
            return ENAMETOOLONG
        if end - p == 2 and p[0] == b'.' and p[1] == b'.':
            return EINVAL
        place.parent = ino
        place.name = p
        place.length = <uint32_t>(end - p)
        p = end


cdef int fs_lookup(MemFs* fs, const char* path, uint32_t* ino) noexcept nogil:
    cdef Place place
    cdef int found
    cdef int e = fs_walk(fs, path, &place)
    ino[0] = 0
    if e or place.length == 0:
        return e
    found = fs_find(fs, place.parent, place.name, place.length)
    if found < 0:
        return ENOENT
    ino[0] = fs.entries[found].ino
    return 0


cdef int fs_reserve(MemFs* fs, uint32_t ino) noexcept nogil:
    cdef uint32_t room
    cdef Inode* grown
    if ino >= fs.room_inodes:
        room = 2 * ino if ino > 8 else 16
        grown = <Inode*>realloc(fs.inodes, room * sizeof(Inode))
        if grown == NULL:
            return ENOMEM
        fs.inodes = grown
        fs.room_inodes = room
    if ino >= fs.n_inodes:
        memset(fs.inodes + fs.n_inodes, 0, (ino + 1 - fs.n_inodes) * sizeof(Inode))
        fs.n_inodes = ino + 1
    return 0


cdef int fs_new(MemFs* fs, int kind, uint32_t* ino) noexcept nogil:
    if fs.free_inode:
        ino[0] = fs.free_inode
        fs.free_inode = fs.inodes[ino[0]].next_free
        memset(&fs.inodes[ino[0]], 0, sizeof(Inode))
    else:
        ino[0] = fs.n_inodes
        if fs_reserve(fs, ino[0]):
            return ENOMEM
    fs.inodes[ino[0]].kind = kind
    return 0


cdef int fs_link(MemFs* fs, uint32_t parent, const char* name, uint32_t length, uint32_t ino) noexcept nogil:
    cdef int found = fs_find(fs, parent, name, length)
    cdef uint32_t room, old
    cdef Entry* e
    cdef Entry* grown
    if found >= 0:
        old = fs.entries[found].ino
        if old == ino:
            return 0
        fs.entries[found].ino = ino
        fs.inodes[ino].links += 1
        fs.inodes[old].links -= 1
        fs_release(fs, old)
        return 0
    if fs.n_entries == fs.room_entries:
        room = 2 * fs.room_entries if fs.room_entries > 4 else 8
        grown = <Entry*>realloc(fs.entries, room * sizeof(Entry))
        if grown == NULL:
            return ENOMEM
        fs.entries = grown
        fs.room_entries = room
    e = &fs.entries[fs.n_entries]
    fs.n_entries += 1
    e.hash = hash_name(parent, name, length)
    e.parent = parent
    e.ino = ino
    e.length = length
    memcpy(e.name, name, length)
    e.name[length] = 0
    fs.inodes[ino].links += 1
    return 0


cdef void fs_unlink_entry(MemFs* fs, int entry) noexcept nogil:
    cdef uint32_t ino = fs.entries[entry].ino
    fs.n_entries -= 1
    fs.entries[entry] = fs.entries[fs.n_entries]
    fs.inodes[ino].links -= 1
    fs_release(fs, ino)


cdef void fs_release(MemFs* fs, uint32_t ino) noexcept nogil:
    cdef Inode* n = &fs.inodes[ino]
    if n.links > 0 or n.opens > 0 or n.kind == KIND_NONE:
        return
    data_free(&n.data)
    if fs.no_reuse:
        return
    n.kind = KIND_NONE
    n.next_free = fs.free_inode
    fs.free_inode = ino


cdef bint is_empty(MemFs* fs, uint32_t ino) noexcept nogil:
    cdef uint32_t i
    for i in range(fs.n_entries):
        if fs.entries[i].parent == ino:
            return False
    return True


cdef bint lies_below(MemFs* fs, uint32_t ino, uint32_t above) noexcept nogil:
    cdef uint32_t i
    while ino != above:
        if ino == 0:
            return False
        for i in range(fs.n_entries):
            if fs.entries[i].ino == ino:
                ino = fs.entries[i].parent
                break
        else:
            return False
    return True


cdef int fs_check_rename(MemFs* fs, const char* old, const char* new, Place* a, Place* b, uint32_t* ino) noexcept nogil:
    cdef int e, from_, to
    cdef uint32_t target
    cdef bint directory
    e = fs_walk(fs, old, a)
    if e == 0:
        e = fs_walk(fs, new, b)
    if e:
        return e
    if a.length == 0 or b.length == 0:
        return EINVAL
    from_ = fs_find(fs, a.parent, a.name, a.length)
    if from_ < 0:
        return ENOENT
    ino[0] = fs.entries[from_].ino
    directory = fs.inodes[ino[0]].kind == KIND_DIRECTORY
    if directory and lies_below(fs, b.parent, ino[0]):
        return EINVAL
    to = fs_find(fs, b.parent, b.name, b.length)
    if to >= 0 and fs.entries[to].ino != ino[0]:
        target = fs.entries[to].ino
        if fs.inodes[target].kind == KIND_DIRECTORY:
            if not directory:
                return EISDIR
            if not is_empty(fs, target):
                return ENOTEMPTY
        elif directory:
            return ENOTDIR
    return 0
