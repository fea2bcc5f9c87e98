"""The inputs that guided fuzzing begins with: small databases that hold one of everything, taken apart."""

from __future__ import annotations

import struct
from typing import Any

import _history as h
import _pieces as p
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreKeyspace, CoreTransaction
from enginelib._native.index.compress import libraries
from enginelib._native.log.record import decode, encode

OPTIONS: dict[str, Any] = {
    "page_size": 4096,
    "cache_size": 65536,
    "segment_size": 8192,
    "log_buffer": 512,
    "checkpoint_bytes": 1 << 40,
    "version_budget": 1 << 24,
    "transaction_budget": 1 << 24,
    "durability": h.OS,
}


def files_of(data: bytes) -> FaultVfs:
    vfs = FaultVfs()
    for path, content in p.assemble(p.parse(data)).items():
        vfs.put_file(path, content)
    vfs.put_file(p.ROOT + "LOCK", b"")
    return vfs


def taken(vfs: FaultVfs, durable: bool = False) -> list[p.Piece]:
    return p.take_apart(vfs.files(durable=durable), decode, encode)


def opened(pieces: list[p.Piece]) -> tuple[FaultVfs, Any]:
    vfs = files_of(p.join(pieces))
    return vfs, h.open_database(vfs, OPTIONS)


def tree_seeds() -> list[list[p.Piece]]:
    """B-trees: one deep, with ghosts and large values; one with transactions in flight; one whose log says most."""
    vfs = FaultVfs()
    db = h.open_database(vfs, OPTIONS)
    numbers, words = (db.core_keyspace(CoreKeyspace, name) for name in ("numbers", "words"))
    with db.core_transaction(CoreTransaction) as txn:
        txn.put_many(numbers, [(b"%03d" % i + b"long" * 150, b"%d" % i) for i in range(13)])
        txn.put_many(words, [(b"", b"empty"), (b"none", b""), (b"large", b"large" * 450)])
    db.checkpoint()
    deep = taken(vfs)
    open_txn = db.core_transaction(CoreTransaction)
    depth = open_txn.save()
    open_txn.put(words, b"taken back", b"1")
    open_txn.rollback_to(depth)
    open_txn.put(words, b"none", b"changed")
    open_txn.delete(words, b"")
    open_txn.put(words, b"larger", b"larger" * 200)
    reader = db.core_transaction(CoreTransaction, True)
    with db.core_transaction(CoreTransaction) as txn:
        txn.delete(numbers, b"001" + b"long" * 150)
    db.checkpoint()
    with db.core_transaction(CoreTransaction) as txn:
        txn.put(words, b"after", b"the checkpoint")
    db.sync()
    flight = taken(vfs)
    reader.abort()
    db.abandon()
    vfs = FaultVfs()
    db = h.open_database(vfs, OPTIONS)
    table = db.core_keyspace(CoreKeyspace, "table")
    for i in range(4):
        with db.core_transaction(CoreTransaction) as txn:
            txn.put_many(table, [(b"%02d" % (i + j), b"value %d" % j) for j in range(4)])
            txn.delete(table, b"%02d" % (i + 1))
    db.core_keyspace(CoreKeyspace, "old")
    db.rename_keyspace("old", "new")
    db.drop_keyspace("new")
    txn = db.core_transaction(CoreTransaction)
    depth = txn.save()
    txn.put(table, b"x", b"1")
    txn.rollback_to(depth)
    txn.put(table, b"y", b"large" * 500)
    txn.abort()
    loser = db.core_transaction(CoreTransaction)
    loser.put(table, b"never", b"committed")
    db.sync()
    told = taken(vfs)
    db.abandon()
    return [deep, flight, told]


def two_levels(pieces: list[p.Piece]) -> list[p.Piece]:
    """The same tables with partitioned indexes, which the writer makes of thousands of blocks only."""
    out: list[p.Piece] = []
    for tag, body in pieces:
        count = p.field(body, 5, 4) if tag == ord("I") else 0
        if count > 1:
            prefix = p.field(body, 17, 2)
            base = 5 + p.INDEX_HEADER
            heads = [body[base + 8 * i : base + 8 * i + 8] for i in range(count)]
            starts = [p.field(body, base + 20 * count + 4 * i, 4) + 5 for i in range(count)]
            tails = [body[a:b] for a, b in zip(starts, [*starts[1:], len(body)], strict=True)]
            common = body[base + 24 * count :][:prefix]
            half = count // 2

            def block(at: list[int], level: int, first: int, spanned: int) -> bytes:
                n = len(at)
                place = p.INDEX_HEADER + (24 + 4 * level) * n + prefix
                parts = [b"\0\0" if k == 0 else tails[i] for k, i in enumerate(at)]
                where = [place + sum(map(len, parts[:k])) for k in range(n)]
                head = struct.pack("<IIIHH", n, first, spanned, prefix, level)
                index = head + b"".join(bytes(8) if k == 0 else heads[i] for k, i in enumerate(at)) + bytes(12 * n)
                index += struct.pack(f"<{n}I", *where) + (struct.pack(f"<{n}I", *at) if level else b"") + common + b"".join(parts)
                return bytes(5) + index

            out.append((ord("J"), block(list(range(half)), 0, 0, half)))
            out.append((ord("J"), block(list(range(half, count)), 0, half, count - half)))
            out.append((ord("I"), block([0, half], 1, 0, count)))
            partitioned = True
        elif tag == ord("O") and locals().get("partitioned"):
            out.append((tag, body[: 5 + 76] + (2).to_bytes(4, "little") + body[5 + 80 :]))
        else:
            out.append((tag, body))
    return out


def lsm_seeds() -> list[list[p.Piece]]:
    """Sorted tables of every sort, and what the log and the checkpoint say of them."""
    vfs = FaultVfs()
    db = h.open_database(vfs, OPTIONS)
    built = libraries()
    compressed = "lz4" if built["lz4"] else "zstd" if built["zstd"] else "none"
    plain = db.core_keyspace(CoreKeyspace, "plain", True, "lsm", {})
    small = db.core_keyspace(CoreKeyspace, "small", True, "lsm", {"compression": compressed, "compaction": "size_tiered", "ttl": 1e9})
    for turn in range(3):
        with db.core_transaction(CoreTransaction) as txn:
            txn.put_many(plain, [(b"key%03d" % (i * 7 % 90), b"v%d" % turn * (10 + i % 30)) for i in range(60)])
            txn.put_many(small, [(b"k%02d" % (i * (turn + 2)), b"w" * 40) for i in range(12)])
            txn.delete(plain, b"key001", blind=True)
        if turn == 0:
            with db.core_transaction(CoreTransaction) as txn:
                txn.put(plain, b"far", b"far away, " * 500)
        db.step("seal")
        db.step("flush")
        if turn == 1:
            edited = taken(vfs)
            db.step("settle")
            db.checkpoint()
    with db.core_transaction(CoreTransaction) as txn:
        txn.put(plain, b"later", b"in the log")
        txn.put(plain, b"large", b"in chunks" * 300)
    db.sync()
    told = taken(vfs)
    db.abandon()
    # Deletions of ranges: recovery knows them, and writes them to tables.
    ranged = [*told]
    last = max(i for i, (tag, body) in enumerate(ranged) if tag == ord("R") and body[:1] == b"\x03")
    txn_id = decode(ranged[last][1])[0][2]
    for piece in (encode("delete_range", txn=txn_id, keyspace=1, a=0, key=b"key01", value=b"key03"),
                  encode("delete_range", txn=txn_id, keyspace=1, a=1, key=b"key08")):
        ranged.insert(last, (ord("R"), piece))
    vfs, db = opened(ranged)
    db.step("seal")
    db.step("flush")
    db.close()
    covered = taken(vfs)
    vfs = FaultVfs()
    db = h.open_database(vfs, OPTIONS)
    many = db.core_keyspace(CoreKeyspace, "many", True, "lsm", {"bits_per_key": 4})
    with db.core_transaction(CoreTransaction) as txn:
        txn.put_many(many, [(b"%05d" % i, bytes([i & 255]) * 250) for i in range(60)])
    db.step("seal")
    db.step("flush")
    db.close()
    many_blocks = taken(vfs)
    return [edited, told, ranged, covered, many_blocks, two_levels(many_blocks)]


def seeds(group: str) -> list[bytes]:
    trees, tables = tree_seeds(), lsm_seeds()
    if group == "layout":
        pages = {body[20:] for pieces in trees + tables for tag, body in pieces if tag == ord("P")}
        return [b"\1" + page.ljust(512, b"\0") for page in sorted(pages) if page[:1] in (b"\1", b"\2")]
    return [p.join(x) for x in {"log": trees + tables[:3], "pages": trees, "tables": tables, "edits": tables + trees[:1]}[group]]
