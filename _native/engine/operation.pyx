"""What a stream of changes is made of: see operation.pxd."""
cimport cython
from libc.stdint cimport uint32_t, uint64_t


@cython.no_gc
@cython.freelist(256)
cdef class Operation:
    """One change within a committed transaction.

    Attributes:
        keyspace: name of the keyspace.
        op: ``"put"``, ``"delete"``, ``"delete_range"`` (from `key` up to `value`; None: to the end), ``"create_keyspace"`` (`value`: what the
            catalogue says of it), ``"drop_keyspace"`` or ``"rename_keyspace"`` (`value`: the new name in UTF-8).
        key, value: bytes, or None.
        before: what the key held just before; None where it was not there, or that is not known or not asked for.
        existed: whether the key was there; None where that is not known or not asked for.
    """

    def __init__(self, str keyspace not None, str op not None, bytes key=None, bytes value=None, bytes before=None, existed=None):
        self.keyspace, self.op, self.key, self.value, self.before = keyspace, op, key, value, before
        self.existed = None if existed is None else bool(existed)

    def __eq__(self, other):
        cdef Operation o
        if not isinstance(other, Operation):
            return NotImplemented
        o = <Operation>other
        return (self.keyspace == o.keyspace and self.op == o.op and self.key == o.key and self.value == o.value and self.before == o.before
                and self.existed == o.existed)

    def __hash__(self):
        return hash((self.keyspace, self.op, self.key, self.value))

    def __reduce__(self):
        return Operation, (self.keyspace, self.op, self.key, self.value, self.before, self.existed)

    def __repr__(self):
        rest = ", ".join(repr(each) for each in (self.key, self.value) if each is not None)
        was = "" if self.existed is None else f" before={self.before!r}" if self.before is not None or not self.existed else " existed=True"
        return f"<{self.op} {self.keyspace!r} {rest}{was}>"


cdef Operation made(str keyspace, str op, bytes key, bytes value, uint64_t lsn, uint32_t id):
    cdef Operation o = Operation.__new__(Operation)
    o.keyspace, o.op, o.key, o.value, o.lsn, o.id = keyspace, op, key, value, lsn, id
    return o


@cython.no_gc
@cython.freelist(256)
cdef class Change:
    """A committed transaction.

    Attributes:
        database_id: 16 bytes that name the database.
        epoch: raised by each promotion of a follower.
        sequence: its place in the commit order of the database; grows by every commit.
        lsn: where the log goes on behind it: the ``since`` to read on from.
        commit_ts: its commit timestamp.
        time: of its commit, in seconds since 1970.
        origin: the database in which it was made first, where it came from another by a `Follower`; None for this one.
        operations: its operations in order. Of a transaction larger than the memory of the stream an iterable that
            reads them from the log again, for as long as the stream stands at this change.
        calls: the calls of logged procedures in it.
        xid: what it was prepared as; None for one that was not.
        event: ``"commit"``; of a stream with ``prepared=True`` also ``"prepare"``, with what it would do, and
            ``"rollback"``, of one that was prepared. Those two have no place in the commit order: `sequence` is 0.
    """

    def __init__(self, bytes database_id not None, epoch, sequence, lsn, commit_ts, double time, bytes origin, operations, tuple calls=(), str xid=None,
                 str event not None="commit"):
        self.database_id, self.epoch, self.sequence, self.lsn, self.commit_ts = database_id, epoch, sequence, lsn, commit_ts
        self.time, self.origin, self.operations, self.calls, self.xid, self.event = time, origin, operations, calls, xid, event

    def __reduce__(self):
        return Change, (self.database_id, self.epoch, self.sequence, self.lsn, self.commit_ts, self.time, self.origin, self.operations, self.calls,
                        self.xid, self.event)

    def __eq__(self, other):
        return self.__reduce__() == other.__reduce__() if isinstance(other, Change) else NotImplemented

    def __hash__(self):
        return hash((self.database_id, self.epoch, self.lsn))

    def __repr__(self):
        what = self.sequence if self.event == "commit" else f"{self.event} of {self.xid!r}"
        return f"<enginelib.replication.Change {what} at LSN {self.lsn}, {self.operations!r}>"


def puts_of(list changes not None, Py_ssize_t at, Change like not None, str name not None, list pairs not None):
    """Takes changes that are like one another, for who applies many of them.

    From `at` on, as long as they come after one another and are of the database, epoch and origin of `like`, and hold nothing but puts into the keyspace `name`, their
    (key, value) pairs are added to `pairs`. Returns the index of the first that is not so.
    """
    cdef Change change
    cdef Operation o
    cdef list operations
    cdef uint64_t done = like.sequence
    while at < len(changes):
        change = <Change?>changes[at]
        if (change.sequence <= done or change.epoch != like.epoch or type(change.operations) is not list or change.event != "commit"
                or (change.database_id is not like.database_id and change.database_id != like.database_id)
                or (change.origin is not like.origin and change.origin != like.origin)):
            break
        operations = <list>change.operations
        for o in operations:
            if o.op != "put" or o.keyspace != name:
                return at
        for o in operations:
            pairs.append((o.key, o.value))
        done = change.sequence
        at += 1
    return at
