"""Databases put together from pieces (tools/_pieces.py), so that a test can change one thing and leave every checksum right."""

import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreDatabase, CoreKeyspace, CoreTransaction
from enginelib._native.log.record import decode, encode

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import _pieces as p

OPTIONS = {
    "page_size": 4096, "cache_size": 65536, "segment_size": 8192, "log_buffer": 512, "checkpoint_bytes": 1 << 40,
    "version_budget": 1 << 24, "transaction_budget": 1 << 24, "durability": 1, "lazy_interval": 0.1, "lock_timeout": 0.0, "background": False,
}  # fmt: skip
GHOST, ABSENT_BEFORE = 2, 1
ROW, LSM_ROW = 8, 32


def create(vfs=None):
    return CoreDatabase("/db", vfs=vfs or FaultVfs(), **OPTIONS)


def taken(vfs):
    return p.take_apart(vfs.files(durable=False), decode, encode)


def files_of(pieces):
    vfs = FaultVfs()
    for path, content in p.assemble(pieces).items():
        vfs.put_file(path, content)
    vfs.put_file("/db/LOCK", b"")
    return vfs


def opened(pieces, **more):
    return CoreDatabase("/db", vfs=files_of(pieces), **{**OPTIONS, **more})


def database(work=None, then=None, backend="btree", checkpoint=True):
    """The pieces of a database with the keyspace "words"; `work` before the checkpoint, `then` behind it, left as by a kill."""
    vfs = FaultVfs()
    db = create(vfs)
    words = db.core_keyspace(CoreKeyspace, "words", True, backend, {})
    kept = [work(db, words) if work else None]
    if checkpoint:
        db.checkpoint()
    kept.append(then(db, words) if then else None)
    db.sync()
    pieces = taken(vfs)
    db.abandon()
    return pieces


def records(pieces):
    """Where the log's records are among the pieces, and what they say."""
    return [(i, decode(body)[0][1:]) for i, (tag, body) in enumerate(pieces) if tag == ord("R")]


def record(kind, txn=0, keyspace=0, a=0, b=0, key=b"", value=b""):
    return ord("R"), encode(kind, txn=txn, keyspace=keyspace, a=a, b=b, key=key, value=value)


def told(pieces, *added):
    """With these records at the log's end, as one group; `added` are the arguments of `record`."""
    return [*pieces, (ord("G"), bytes(28)), *(record(*one[:1], **one[1]) for one in added)]


def put(key, value, **more):
    return "put", {"txn": 900, "keyspace": 1, "key": key, "value": value, **more}


COMMIT = "commit", {"txn": 900, "a": 900, "b": 1}


def with_bytes(pieces, old, new):
    """The pages with other bytes of the same length somewhere; their heads are put right again."""
    assert len(old) == len(new)
    out, done = [], 0
    for tag, body in pieces:
        page = body[20:] + bytes(len(old))  # zeros at a page's end are not in its piece
        if tag in b"PQ" and old in page:
            done += page.count(old)
            tag, body = ord("Q"), body[:20] + page.replace(old, new)
        out.append((tag, body))
    assert done == 1
    return out


def with_superblock(pieces, at, width, value):
    return [(tag, body[:at] + value.to_bytes(width, "little") + body[at + width :] if tag == ord("S") else body) for tag, body in pieces]


@dataclass
class InFlight:
    """A transaction in the checkpoint record, with its before-images: (lsn, keyspace, flags, key, value), newest first."""

    id: int = 901
    first_lsn: int = 1
    last_lsn: int = 1
    state: int = 0
    undo_to: int = 0
    keyspaces: int = 3
    catalog: int = 0
    images: list = field(default_factory=list)


class Checkpoint:
    """The checkpoint record of a database without LSM-trees, field by field."""

    def __init__(self, pieces):
        self.pieces = pieces
        self.data, self.at = next(body for tag, body in pieces if tag == ord("M")), 0
        self.version, self.read_from = self.take(), self.take()
        self.trees = [[self.take() for _ in range(6)] for _ in range(self.take())]  # id, root, state, creator, dropper, creation LSN
        self.blobs = [self.take() for _ in range(self.take())]
        self.ghosts = [(self.take(), self.bytes(self.take())) for _ in range(self.take())]
        self.flights = [self.flight() for _ in range(self.take())]
        assert self.at == len(self.data)

    def take(self):
        value, self.at = p.get_varint(self.data, self.at)
        return value

    def bytes(self, n):
        self.at += n
        return self.data[self.at - n : self.at]

    def flight(self):
        out = InFlight(*(self.take() for _ in range(7)))
        for _ in range(self.take()):
            lsn, keyspace, flags, klen, vlen = (self.take() for _ in range(5))
            out.images.append((lsn, keyspace, flags, self.bytes(klen), self.bytes(vlen)))
        return out

    def put_back(self):
        """The database's pieces, with the record as it is now."""
        out = bytearray()

        def add(*values):
            for value in values:
                out.extend(value if isinstance(value, bytes) else p.put_varint(value))

        add(self.version, self.read_from, len(self.trees))
        for tree in self.trees:
            add(*tree)
        add(len(self.blobs), *self.blobs, len(self.ghosts))
        for keyspace, key in self.ghosts:
            add(keyspace, len(key), key)
        add(len(self.flights))
        for t in self.flights:
            add(t.id, t.first_lsn, t.last_lsn, t.state, t.undo_to, t.keyspaces, t.catalog, len(t.images))
            for lsn, keyspace, flags, key, value in t.images:
                add(lsn, keyspace, flags, len(key), len(value), key, value)
        return [(tag, bytes(out) if tag == ord("M") else body) for tag, body in self.pieces]


def row(id, backend=0, options=b""):
    return struct.pack("<IB3x", id, backend) + options


def named(name, id, backend=0):
    """As a row of the catalogue lies on its page."""
    return name + row(id, backend)


def read_all(db):
    with db.core_transaction(CoreTransaction, True) as txn:
        return {name: dict(txn.scan(db.core_keyspace(CoreKeyspace, name, False))) for name, _, _ in txn.catalog_rows()}
