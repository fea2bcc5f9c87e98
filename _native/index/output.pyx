"""Tables being written: see output.pxd."""
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset
from ..base.latch cimport Latch, latch_lock, latch_unlock
from ..base.status cimport OK, E_NOMEM, error_info, fail
from .lsm cimport LsmTree
from .sstable cimport table_close, table_open
from .sstwrite cimport writer_close, writer_finish, writer_open
from .tableset cimport Edit, TableFile, edit_add, file_free, file_new


cdef int make_directory(LsmTree tree) noexcept nogil:
    """The tree's directory and the one above, durable before anything in them is (law 6)."""
    cdef char path[512]
    cdef size_t n
    cdef int status, _i
    if tree.made:
        return OK
    n = len_of(tree.directory)
    if n >= 512:
        return fail(E_NOMEM, "the path of the database is too long")
    memcpy(path, tree.directory, n + 1)
    while n and path[n] != 47:
        n -= 1
    path[n] = 0
    status = tree.vfs.mkdir(path)                    # .../lsm
    if status == OK:
        status = tree.vfs.mkdir(tree.directory)
    if status == OK:
        status = tree.vfs.sync_dir(path)
    while n and path[n] != 47:
        n -= 1
    path[n] = 0
    if status == OK:
        status = tree.vfs.sync_dir(path)
    if status == OK:
        tree.made = True
    return status


cdef size_t len_of(const char* s) noexcept nogil:
    cdef size_t n = 0
    while s[n]:
        n += 1
    return n


cdef int output_open(LsmTree tree, Output* out, Latch* latch) noexcept nogil:
    cdef char path[512]
    cdef uint64_t number
    cdef int status = make_directory(tree)
    if status != OK:
        return status
    latch_lock(latch)
    number = tree.next_number
    tree.next_number += 1
    latch_unlock(latch)
    out.file = file_new(number)
    if out.file == NULL:
        return fail(E_NOMEM, "no memory for a table")
    tree.path_of(number, path)
    out.writer = writer_open(tree.vfs, path, number, &out.options)
    if out.writer == NULL:
        file_free(out.file)
        out.file = NULL
        return error_info().code
    return OK


cdef int output_finish(LsmTree tree, Output* out) noexcept nogil:
    cdef char path[512]
    cdef int status
    if out.writer == NULL:
        return OK
    status = writer_finish(out.writer, &out.file.info)
    if status == OK:
        out.bytes += out.file.info.file_bytes
        tree.path_of(out.file.number, path)
        status = table_open(tree.vfs, path, out.file.number, &out.file.table)
        if status == OK:
            edit_add(out.edit, out.level, out.file)
            if out.edit.failed:
                status = fail(E_NOMEM, "no memory for a table")
        if status != OK:
            # Finished, so closing the writer would leave it.
            if out.file.table != NULL:
                table_close(tree.vfs, out.file.table)
            tree.vfs.unlink(path)
    writer_close(out.writer, False)
    out.writer = NULL
    if status != OK:
        file_free(out.file)
    out.file = NULL
    return status


cdef void output_discard(LsmTree tree, Output* out, bint keep) noexcept nogil:
    cdef char path[512]
    cdef TableFile* f
    cdef int i
    if out.writer != NULL:
        writer_close(out.writer, keep)
        file_free(out.file)
        out.writer = NULL
    for i in range(out.edit.count):
        f = out.edit.items[i].file
        if f != NULL and f.refs == 0:
            if f.table != NULL:
                table_close(tree.vfs, f.table)
            if not keep:
                tree.path_of(f.number, path)
                tree.vfs.unlink(path)


cdef void output_start(LsmTree tree, Output* out, Edit* edit, int level, uint64_t base_ts) noexcept nogil:
    memset(out, 0, sizeof(Output))
    out.edit = edit
    out.level = level
    out.options.block_size = tree.core.page_size
    out.options.restart_interval = 16
    out.options.bits_per_key = tree.options.bits_per_key
    out.options.compression = tree.options.compression
    out.options.base_ts = base_ts
