"""Keyspaces by name: see catalog.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcpy
from ..base.coding cimport get32, put32
from ..base.latch cimport latch_enter, latch_lock, latch_unlock
from ..base.status cimport OK, ABSENT, AGAIN, E_USAGE, fail, fail_corrupt, raise_status
from ..base.status import registered_errors
from ..index.btree cimport MAX_BATCH, SEEK_GE, SEEK_GT, BTree, Path
from ..index.lsm cimport LsmTree
from ..index.node cimport node_key_copy, node_prefix_len, node_suffix_len, node_value
from ..log.record cimport TAG_NAMED
from ..page.layout cimport VALUE_BLOB, VALUE_GHOST
from ..txn.keyspaces cimport tree_admit
from ..txn.transaction cimport TxnManager, Found, Lack, lack_init, OP_PUT, OP_DELETE, OP_LOCK, CATALOG, CATALOG_ROW, LSM_BACKEND, ROW_IMAGES, TREE_DROPPING, row_valid
from ..txn.versions cimport Txn
from .engine cimport Engine
from .handles cimport CoreDatabase, CoreKeyspace
from .lsmtree cimport options_row
from .lsmtree import IMAGES_NAMES
from .procedures cimport log_tag
from .recovery cimport make_tree
from .steps cimport raise_lacking
from .txnhandle cimport CoreTransaction

cdef enum:
    LONGEST_NAME = 255          # bytes in UTF-8


cdef bytes encode_name(str name):
    cdef bytes encoded = name.encode()
    if not 1 <= len(encoded) <= LONGEST_NAME:
        raise ValueError(f"a keyspace's name takes 1 to {LONGEST_NAME} bytes in UTF-8; {name[:40]!r} takes {len(encoded)}")
    return encoded


cdef CoreKeyspace bind(CoreKeyspace k, CoreDatabase db, str name, uint32_t id):
    """Makes a bare handle one of the live keyspace `id`."""
    cdef BTree tree
    cdef LsmTree store
    k.database = db
    k.engine = db.engine
    k.m = db.engine.txns
    k.name = name
    k.id = id
    k.lsm = db.engine.txns.trees[id].lsm
    if k.lsm:
        store = <LsmTree>db.engine.txns.trees[id].tree
        k.backend = "lsm"
        k.max_key = store.max_key
        k.max_inline = store.max_inline
        k.max_batch = MAX_BATCH
        return k
    tree = <BTree>db.engine.txns.trees[id].tree
    k.backend = "btree"
    k.max_key = tree.max_key
    k.max_inline = tree.max_inline
    k.max_batch = tree.max_batch
    return k


cdef CoreKeyspace catalog_of(CoreDatabase db):
    return bind(CoreKeyspace.__new__(CoreKeyspace), db, "", CATALOG)


cdef object keyspace_handle(CoreDatabase db, type cls, str name, bytes row):
    cdef TxnManager m = db.engine.txns
    cdef uint32_t id = get32(PyBytes_AS_STRING(row))
    if id >= m.next_keyspace or m.trees[id].tree == NULL:
        raise_status(fail(E_USAGE, b"the keyspace is gone"))
    if m.read_only:
        m.trees[id].images = row[ROW_IMAGES]         # who writes has read all rows at once (load_images)
    return bind(cls.__new__(cls), db, name, id)


cdef bytes checked_row(bytes row):
    """A row as it was read, which may be anything; None stays None."""
    if row is not None and not row_valid(PyBytes_AS_STRING(row), PyBytes_GET_SIZE(row)):
        raise_status(fail_corrupt("pages.dat", -1, "a row of the catalogue", CATALOG_ROW, PyBytes_GET_SIZE(row)))
    return row


cdef str decode_name(bytes encoded):
    try:
        if 1 <= len(encoded) <= LONGEST_NAME:
            return encoded.decode()
    except UnicodeDecodeError:
        pass
    raise_status(fail_corrupt("pages.dat", -1, "the name of a keyspace", LONGEST_NAME, PyBytes_GET_SIZE(encoded)))


cdef bytes catalog_row(CoreTransaction txn, str name):
    return checked_row(txn.get(catalog_of(txn.database), encode_name(name), None))


cdef int check_name(str name, bint hidden) except -1:
    if name.startswith("\0") != hidden:
        raise ValueError("a keyspace's name does not begin with a NUL: such names are the engine's own")
    return 0


cdef list catalog_rows(CoreTransaction txn, bint hidden):
    rows = []
    for key, value in txn.scan(catalog_of(txn.database)):
        if key[:1] == b"\0" and not hidden:
            continue
        row = checked_row(value)
        rows.append((decode_name(key), get32(PyBytes_AS_STRING(row)), "lsm" if row[4] == LSM_BACKEND else "btree"))
    return rows


def rows_seen_by(Engine e not None, size_t reader):
    """Names and rows of the catalogue, as committed; reader: address of the transaction whose view it is instead, or 0."""
    cdef TxnManager m = e.txns
    cdef BTree tree = <BTree>m.trees[CATALOG].tree
    cdef Lack lack
    cdef Path path
    cdef const char* page
    cdef Found found
    cdef uint16_t flags
    cdef uint32_t vlen
    cdef const char* value
    cdef char key[512]
    cdef bint there
    cdef size_t n
    cdef int status, i
    cdef bytes after = None
    rows = []
    lack_init(&lack)
    while True:
        latch_enter(&e.latch)
        n = 0
        status = tree.seek(NULL if after is None else <char*>after, 0 if after is None else len(after),
                           SEEK_GE if after is None else SEEK_GT, &path, &lack.need)
        if status == OK:
            page = path.frames[path.depth - 1].page
            i = path.slots[path.depth - 1]
            value = node_value(page, i, &flags, &vlen)
            n = node_prefix_len(page) + node_suffix_len(page, i)
            if n == 0 or n > LONGEST_NAME or flags & VALUE_BLOB or not (vlen == 0 if flags & VALUE_GHOST else row_valid(value, vlen)):
                status = fail_corrupt(e.pages_path, -1, b"a row of the catalogue", CATALOG_ROW, vlen)
            else:
                node_key_copy(page, i, key)
                status = m.read(<Txn*>reader, CATALOG, key, n, &found, &lack)
        there = status == OK
        if status == AGAIN:
            latch_unlock(&e.latch)
            with nogil:
                latch_lock(&e.latch)
                status = m.secure(NULL, &lack)
                latch_unlock(&e.latch)
            if status != OK:
                raise_status(status)
            continue
        if there and (found.blob or not row_valid(found.value, found.vlen)):
            status = fail_corrupt(e.pages_path, -1, b"a row of the catalogue", CATALOG_ROW, found.vlen)
        elif there:
            vlen = found.vlen
            memcpy(key + n, found.value, vlen)
        elif status == ABSENT and n:
            status = OK                       # it is in the tree, and not committed, or not any more
        m.settle(&lack)
        latch_unlock(&e.latch)
        if status == ABSENT:
            return rows
        if status != OK:
            raise_status(status)
        after = key[:n]
        if there:
            rows.append((after, key[n:n + vlen]))


def load_images(Engine e not None):
    """After recovery: what the catalogue says of each keyspace's before-images, and what prepared transactions have made of it."""
    cdef uint32_t id
    cdef Txn* t = e.txns.first_prepared
    readers = [0]
    while t != NULL:
        readers.append(<size_t>t)
        t = t.promise.next
    seen = {}
    for reader in readers:
        for name, row in e.catalog(reader):
            id = get32(PyBytes_AS_STRING(row))
            if id < e.txns.next_keyspace and (reader == 0 or seen.get(name) != row):
                e.txns.trees[id].images = row[ROW_IMAGES]
            if reader == 0:
                seen[name] = row


cdef int images_code(str name) except -1:
    if name not in IMAGES_NAMES:
        raise ValueError(f"before must be one of {', '.join(map(repr, IMAGES_NAMES))}, not {name!r}")
    return IMAGES_NAMES.index(name)


cdef object create_keyspace(CoreTransaction txn, type cls, str name, str backend, dict options):
    cdef Engine e = txn.engine
    cdef TxnManager m = txn.m
    cdef object id
    cdef bytes row
    cdef CoreKeyspace catalog = catalog_of(txn.database)
    cdef Lack lack
    cdef int images
    options = dict(options or {})
    images = images_code(options.pop("before", None) or "none")
    if backend == "btree":
        if options:
            raise TypeError(f"a B-tree keyspace has no option {next(iter(options))!r}")
        row = bytes(CATALOG_ROW)
    elif backend == "lsm":
        row = options_row(options)
    else:
        raise registered_errors()["NotSupported"](f"backend {backend!r} does not exist; backends are: 'btree' and 'lsm'")
    encoded = encode_name(name)
    lack_init(&lack)
    txn.ready(catalog)
    txn.change(OP_LOCK, catalog, encoded, None, &lack)
    if txn.get(catalog, encoded) is not None:
        raise ValueError(f"a keyspace named {name!r} exists already")
    latch_enter(&e.latch)
    id = m.next_keyspace
    status = tree_admit(m, id)
    if status == OK:
        m.next_keyspace += 1
    latch_unlock(&e.latch)
    if status != OK:
        raise_status(status)
    row = id.to_bytes(4, "little") + row[4:ROW_IMAGES] + bytes((images,)) + row[ROW_IMAGES + 1:]
    make_tree(m, id, txn.t, row)
    try:
        txn.change(OP_PUT, catalog, encoded, row, &lack)
    except BaseException:
        latch_enter(&e.latch)
        m.trees[id].created_by = NULL
        m.trees[id].state = TREE_DROPPING
        m.dropping += 1
        latch_unlock(&e.latch)
        raise
    return keyspace_handle(txn.database, cls, name, row)


cdef int tag_named(CoreTransaction txn, uint32_t id, bytes name) except -1:
    """Tells readers of the log which keyspace it was whose row has just been deleted."""
    cdef char encoded[4]
    put32(encoded, id)
    log_tag(txn, TAG_NAMED, encoded[:4] + name)
    return 0


cdef int drop_keyspace(CoreTransaction txn, str name) except -1:
    cdef bytes row
    cdef Lack lack
    cdef uint32_t id
    cdef int status, depth
    check_name(name, False)
    row = catalog_row(txn, name)
    if row is None:
        raise KeyError(f"no keyspace named {name!r}")
    id = get32(PyBytes_AS_STRING(row))
    lack_init(&lack)
    txn.t.deadline = 0
    depth = txn.save()
    while True:                   # nobody else may have changes under way in it, and the drop shuts it in the same latch hold
        latch_enter(&txn.engine.latch)
        status = txn.still()
        if status == OK:
            status = txn.m.check(txn.t, True)
        if status == OK:
            status = txn.m.writers_in(txn.t, id, &lack)
        if status == OK:
            key = encode_name(name)
            status = txn.m.write(txn.t, OP_DELETE, CATALOG, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), NULL, 0, 0, 0, 0, &lack)
        if status != AGAIN:
            txn.m.settle(&lack)
        latch_unlock(&txn.engine.latch)
        if status == OK:
            break
        if status != AGAIN:
            txn.release(depth)
            raise_lacking(txn.m, status, &lack)
        txn.obtain(&lack)
    try:
        tag_named(txn, id, key)
    except BaseException:
        txn.take_back(depth)
        raise
    txn.release(depth)
    return 0


cdef int rename_keyspace(CoreTransaction txn, str old, str new) except -1:
    cdef CoreKeyspace catalog = catalog_of(txn.database)
    cdef Lack lack
    cdef bytes row
    cdef int depth
    check_name(old, False)
    check_name(new, False)
    row = catalog_row(txn, old)
    if row is None:
        raise KeyError(f"no keyspace named {old!r}")
    lack_init(&lack)
    txn.change(OP_LOCK, catalog, encode_name(new), None, &lack)
    if catalog_row(txn, new) is not None:
        raise ValueError(f"a keyspace named {new!r} exists already")
    depth = txn.save()
    try:
        txn.change(OP_DELETE, catalog, encode_name(old), None, &lack)
        tag_named(txn, get32(PyBytes_AS_STRING(row)), encode_name(old))
        txn.change(OP_PUT, catalog, encode_name(new), row, &lack)
    except BaseException:
        txn.take_back(depth)
        raise
    txn.release(depth)
    return 0


cdef int set_images(CoreTransaction txn, str name, str images) except -1:
    cdef CoreKeyspace catalog = catalog_of(txn.database)
    cdef Lack lack
    cdef int code = images_code(images), depth
    cdef bytes row = catalog_row(txn, name)
    if row is None:
        raise KeyError(f"no keyspace named {name!r}")
    if row[ROW_IMAGES] == code:
        return 0
    lack_init(&lack)
    depth = txn.save()
    try:                          # a renaming to the same name, for the readers of the log
        txn.change(OP_DELETE, catalog, encode_name(name), None, &lack)
        tag_named(txn, get32(PyBytes_AS_STRING(row)), encode_name(name))
        txn.change(OP_PUT, catalog, encode_name(name), row[:ROW_IMAGES] + bytes((code,)) + row[ROW_IMAGES + 1:], &lack)
    except BaseException:
        txn.take_back(depth)
        raise
    txn.release(depth)
    return 0
