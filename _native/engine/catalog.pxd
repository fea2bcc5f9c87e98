"""Keyspaces by name: the rows of the catalogue, which is a keyspace like any other, and what making, dropping and renaming one takes.

GIL held, latch not.  All of it is one transaction's reads and writes; nothing here commits.
"""
from .handles cimport CoreDatabase, CoreKeyspace
from .txnhandle cimport CoreTransaction

# A handle of the catalogue itself.
cdef CoreKeyspace catalog_of(CoreDatabase db)
# A handle, of class `cls`, of the keyspace that a row of the catalogue names.
cdef object keyspace_handle(CoreDatabase db, type cls, str name, bytes row)
# The row of a name that the transaction sees, or None; (name, id, backend) of all.
cdef bytes catalog_row(CoreTransaction txn, str name)
cdef list catalog_rows(CoreTransaction txn, bint hidden)      # hidden: also the engine's own
# ValueError for a name that begins as those of the engine's own keyspaces do, unless it is one; and the other way round.
cdef int check_name(str name, bint hidden) except -1
# ValueError for a name that is taken, KeyError for one that is not there.
cdef object create_keyspace(CoreTransaction txn, type cls, str name, str backend, dict options)
cdef int drop_keyspace(CoreTransaction txn, str name) except -1
cdef int rename_keyspace(CoreTransaction txn, str old, str new) except -1
# Which before-images are logged from now on: a name among IMAGES_NAMES.
cdef int set_images(CoreTransaction txn, str name, str images) except -1
