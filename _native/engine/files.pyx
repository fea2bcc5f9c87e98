"""Small jobs on files: see files.pxd."""
from libc.stdlib cimport free
from ..base.status cimport OK, raise_status
from ..base.vfs cimport VFS_CREATE, VFS_WRITE, Vfs


cdef list names_in(Vfs vfs, bytes directory):
    cdef char* names = NULL
    cdef char* name
    cdef size_t count = 0, i
    cdef int status = vfs.list_dir(directory, &names, &count)
    cdef list found = []
    if status != OK:
        raise_status(status)
    try:
        name = names
        for i in range(count):
            found.append(<bytes>name)
            name += len(<bytes>found[i]) + 1
    finally:
        free(names)
    return found


cdef int replace_file(Vfs vfs, bytes directory, bytes name, bytes temporary, bytes data) except -1:
    cdef bytes path = directory + b"/" + name, made = directory + b"/" + temporary
    cdef const char* place = directory
    cdef const char* text = data
    cdef int handle = -1
    cdef int status = vfs.open(made, VFS_WRITE | VFS_CREATE, &handle)
    if status == OK:
        status = vfs.truncate(handle, 0)
        if status == OK:
            status = vfs.write(handle, text, len(data), 0)
        if status == OK:
            with nogil:
                status = vfs.sync(handle)
        vfs.close(handle)
    if status == OK:
        status = vfs.rename(made, path)
    if status == OK:
        with nogil:
            status = vfs.sync_dir(place)
    if status != OK:
        raise_status(status)
    return 0
