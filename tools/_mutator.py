"""How guided fuzzing changes an input: most often one piece of the sort that the target is about, so that the rest stays sound."""

from __future__ import annotations

import ctypes
import random

import _pieces as p
from enginelib._native.log.record import decode, encode
from enginelib._native.log.record import table as record_table

FAVOURED = {"log": b"RRRRGH", "pages": b"PPQQQMS", "tables": b"BBBBIJYLOZ", "edits": b"MMR"}
RECORDS = [name for name, _, _ in record_table()]


class Unguided:
    """In libFuzzer's place where there is none: changes that nothing guides."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def el_mutate(self, buffer: ctypes.Array[ctypes.c_char], n: int, room: int) -> int:
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            if n and self.rng.random() < 0.8:
                buffer[self.rng.randrange(n)] = self.rng.randrange(256)
            elif n < room:
                buffer[n] = self.rng.randrange(256)
                n += 1
        return n


class Mutator:
    """Changes pieces: most often one of those that the group is about; the rest stays sound."""

    NUMBERS = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 1 << 20, 1 << 24, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
               (1 << 63) - 1, 1 << 63, (1 << 64) - 1)

    def __init__(self, group: str, guide: ctypes.CDLL | Unguided) -> None:
        self.group, self.guide = group, guide
        self.favoured = FAVOURED.get(group, b"")
        self.pool: dict[int, list[bytes]] = {}
        self.buffer = ctypes.create_string_buffer(1 << 17)

    def guided(self, data: bytes, room: int) -> bytes:
        """By libFuzzer, which knows what bytes were compared with."""
        room = max(1, min(room, len(self.buffer)))
        data = data[:room]
        ctypes.memmove(self.buffer, data, len(data))
        n = self.guide.el_mutate(self.buffer, len(data), room)
        return self.buffer.raw[:n]

    def number(self, rng: random.Random, old: int) -> int:
        if rng.random() < 0.5:
            return max(0, old + rng.choice((-2, -1, 1, 2, 8, 16, 64, 512)))
        return rng.choice(self.NUMBERS)

    def record(self, rng: random.Random, body: bytes) -> bytes:
        """Another field, type, key or value of a record."""
        try:
            rows = decode(body)
        except ValueError:
            rows = []
        if not rows:
            return self.guided(body, len(body) + 8)
        _, kind, *rest = rows[0]
        txn, keyspace, a, b, key, value = rest
        fields = {"txn": txn or 0, "keyspace": keyspace or 0, "a": a or 0, "b": b or 0, "key": key or b"", "value": value or b""}
        which = rng.choice(("type", *fields))
        if which == "type":
            kind = rng.choice(RECORDS)
        elif which in ("key", "value"):
            old = fields[which]
            if rng.random() < 0.2:
                fields[which] = old * rng.choice((2, 30, 300))
            else:
                fields[which] = self.guided(old, len(old) + 16)
            fields[which] = fields[which][:9000]
        else:
            fields[which] = self.number(rng, fields[which]) & ((1 << 32) - 1 if which == "keyspace" else (1 << 64) - 1)
        return encode(kind, **fields)

    def varints(self, rng: random.Random, body: bytes) -> bytes:
        """Another value of what may be a varint somewhere in the bytes."""
        if not body:
            return body
        at = rng.randrange(len(body))
        while at > 0 and body[at - 1] & 0x80:
            at -= 1
        try:
            value, end = p.get_varint(body, at)
        except IndexError:
            return body
        return body[:at] + p.put_varint(self.number(rng, value) & (1 << 64) - 1) + body[end:]

    def fixed(self, rng: random.Random, body: bytes) -> bytes:
        """Another value of a number of two, four or eight bytes."""
        width = rng.choice((1, 2, 2, 4, 4, 8))
        if len(body) < width:
            return body
        at = rng.randrange(0, len(body) - width + 1)
        if rng.random() < 0.7:
            at = at // width * width
        value = self.number(rng, p.field(body, at, width)) & (1 << 8 * width) - 1
        return body[:at] + value.to_bytes(width, "little") + body[at + width :]

    def piece(self, rng: random.Random, tag: int, body: bytes) -> p.Piece:
        kind = rng.random()
        if tag in b"PQ" and rng.random() < 0.2:
            tag = rng.choice(b"PQ")
        if tag == ord("R") and kind < 0.7:
            return tag, self.record(rng, body)
        if tag in b"MRBYO" and kind < 0.4:
            return tag, self.varints(rng, body) if tag in b"MRB" else self.fixed(rng, body)
        if kind < 0.6:
            return tag, self.fixed(rng, body)
        if tag in b"PQ" and kind < 0.7:
            head = body[: 20 + 48]
            return tag, self.guided(head, len(head)).ljust(len(head), b"\0") + body[len(head) :]
        same = rng.random() < 0.6
        out = self.guided(body, len(body) + (0 if same else 32))
        return tag, out.ljust(len(body), b"\0") if same else out

    def one(self, rng: random.Random, pieces: list[p.Piece]) -> None:
        if not pieces:
            return
        tags = {tag for tag, _ in pieces}
        wanted = [tag for tag in self.favoured if tag in tags]
        tag = rng.choice(wanted) if wanted and rng.random() < 0.93 else rng.choice(sorted(tags))
        i = rng.choice([i for i, (t, _) in enumerate(pieces) if t == tag])
        kind = rng.random()
        if kind < 0.8:
            pieces[i] = self.piece(rng, *pieces[i])
        elif kind < 0.86:
            del pieces[i]
        elif kind < 0.9:
            pieces.insert(i, pieces[i])
        elif kind < 0.94:
            j = rng.randrange(len(pieces))
            pieces[i], pieces[j] = pieces[j], pieces[i]
        elif kind < 0.99 and self.pool.get(tag):
            pieces[i] = tag, rng.choice(self.pool[tag])
        else:
            pieces.append((ord("X"), rng.randbytes(5) + bytes((1 << rng.randrange(8),))))

    def mutate(self, data: bytes, room: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if self.group == "layout":
            body = self.fixed(rng, data) if rng.random() < 0.4 else self.guided(data, len(data) if rng.random() < 0.8 else min(room, len(data) + 64))
            return body.ljust(2, b"\1")[:room]
        pieces = p.parse(data)
        for tag, body in pieces[:40]:
            kept = self.pool.setdefault(tag, [])
            if len(kept) < 200:
                kept.append(body)
            elif rng.random() < 0.05:
                kept[rng.randrange(200)] = body
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
            self.one(rng, pieces)
        out = p.join([(tag, body[:0xFFFF]) for tag, body in pieces])
        return out if len(out) <= room else data[:room]
