"""A reader of sorted tables in plain Python, written from docs/format-tables.md alone: what the document says must be enough.

``Table(data, number)`` checks everything that the document promises of a file and holds what is in it.
"""

import ctypes
import ctypes.util
import struct
from typing import NamedTuple

NONE, LZ4, ZSTD = 0, 1, 2
U64 = (1 << 64) - 1


def _table():
    rows = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        rows.append(n)
    return rows


CRC = _table()


def crc32c(data):
    c = 0xFFFFFFFF
    for byte in data:
        c = CRC[(c ^ byte) & 255] ^ c >> 8
    return c ^ 0xFFFFFFFF


def lz4_block(data, size):
    out = bytearray()
    at = 0

    def length(n):
        nonlocal at
        if n == 15:
            while True:
                more = data[at]
                at += 1
                n += more
                if more != 255:
                    break
        return n

    while at < len(data):
        token = data[at]
        at += 1
        n = length(token >> 4)
        out += data[at : at + n]
        at += n
        if at >= len(data):
            break
        back = data[at] | data[at + 1] << 8
        at += 2
        for _ in range(length(token & 15) + 4):
            out.append(out[-back])
    assert len(out) == size
    return bytes(out)


def zstd_frame(data, size):
    library = ctypes.CDLL(ctypes.util.find_library("zstd"))
    library.ZSTD_decompress.restype = ctypes.c_size_t
    out = ctypes.create_string_buffer(size)
    assert library.ZSTD_decompress(out, ctypes.c_size_t(size), data, ctypes.c_size_t(len(data))) == size
    return out.raw


class Entry(NamedTuple):
    key: bytes
    ts: int
    value: bytes | None  # None: a deletion
    wall: int


class Range(NamedTuple):
    start: bytes
    stop: bytes | None  # None: no upper end
    ts: int


class Stretch(NamedTuple):
    """A sealed stretch of the file: what it is, where, and its bytes with the seal."""

    what: str
    offset: int
    size: int


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def head(key):
    return int.from_bytes(key[:8].ljust(8, b"\0"), "big")


def fold(a, b):
    r = a * b
    return (r ^ r >> 64) & U64


def key_hash(key):
    h = 0x51ED270B9F65A2C1 ^ (len(key) * 0xD6E8FEB86659FD93 & U64)
    while len(key) > 8:
        h = fold(h ^ int.from_bytes(key[:8], "little"), 0xA0761D6478BD642F)
        key = key[8:]
    return fold(h ^ int.from_bytes(key, "little"), 0xE7037ED1A0B428DB)


def seal_of(stored, compression, raw, number, offset):
    """The nine bytes behind a stretch."""
    start = struct.pack("<BI", compression, raw)
    return start + struct.pack("<I", crc32c(stored + start + struct.pack("<QQ", number, offset)))


class Table:
    """One file, read whole."""

    def __init__(self, data, number):
        self.data = data
        self.number = number
        self.stretches = []
        foot = data[-96:]
        assert foot[:8] == b"ENLSTBL\x01"
        version, zero = struct.unpack_from("<II", foot, 8)
        assert (version, zero) == (1, 0)
        spans = [struct.unpack_from("<QQ", foot, 16 + 16 * i) for i in range(4)]
        file_number, zero, total = struct.unpack_from("<QII", foot, 80)
        assert file_number == number and zero == 0 and total == crc32c(foot[:92])
        ranges, filter, index, properties = spans
        self.read_properties(self.sealed("properties", *properties))
        self.ranges = self.read_ranges(self.sealed("ranges", *ranges)) if any(ranges) else []
        self.filter = self.sealed("filter", *filter) if any(filter) else None
        self.blocks = self.read_index(self.sealed("index", *index)) if any(index) else []
        self.entries = [entry for i in range(len(self.blocks)) for entry in self.read_block(i)]
        self.check()

    def sealed(self, what, offset, size):
        """The content of a stretch."""
        stored, seal = self.data[offset : offset + size - 9], self.data[offset + size - 9 : offset + size]
        compression, raw = struct.unpack_from("<BI", seal)
        assert seal == seal_of(stored, compression, raw, self.number, offset), f"{what} at {offset}"
        self.stretches.append(Stretch(what, offset, size))
        if compression == LZ4:
            return lz4_block(stored, raw)
        if compression == ZSTD:
            return zstd_frame(stored, raw)
        assert compression == NONE and len(stored) == raw
        return stored

    def read_properties(self, p):
        names = ("entries", "tombstones", "range_tombstones", "oldest_ts", "newest_ts", "oldest_wall", "newest_wall", "raw_bytes", "base_ts")
        self.properties = dict(zip(names, struct.unpack_from("<9Q", p), strict=True))
        blocks, partitions, page_size, compression, unbounded, zero, keys, low, high = struct.unpack_from("<3IBBHQII", p, 72)
        assert zero == 0 and len(p) == 104 + low + high
        self.properties |= {"blocks": blocks, "partitions": partitions, "page_size": page_size, "compression": compression,
                            "unbounded": unbounded, "keys": keys, "smallest": p[104 : 104 + low], "largest": p[104 + low :]}  # fmt: skip
        self.base_ts = self.properties["base_ts"]

    def read_ranges(self, data):
        (count,) = struct.unpack_from("<I", data)
        found, at = [], 4
        for _ in range(count):
            start_len, stop_len, ts = struct.unpack_from("<IIQ", data, at)
            at += 16
            open_end = stop_len == 0xFFFFFFFF
            stop_len = 0 if open_end else stop_len
            start, stop = data[at : at + start_len], data[at + start_len : at + start_len + stop_len]
            found.append(Range(start, None if open_end else stop, ts))
            at += start_len + stop_len
        assert at == len(data)
        assert [r.start for r in found] == sorted(r.start for r in found)
        return found

    def read_index_block(self, x, level):
        """[(separator's key, its timestamp or None, offset, size, first)]"""
        count, first, spanned, prefix_len, found_level = struct.unpack_from("<IIIHH", x)
        assert found_level == level
        heads = struct.unpack_from(f"<{count}Q", x, 16)
        offsets = struct.unpack_from(f"<{count}Q", x, 16 + 8 * count)
        sizes = struct.unpack_from(f"<{count}I", x, 16 + 16 * count)
        tails = struct.unpack_from(f"<{count}I", x, 16 + 20 * count)
        firsts = struct.unpack_from(f"<{count}I", x, 16 + 24 * count) if level else range(first, first + count)
        at = 16 + (28 if level else 24) * count
        prefix = x[at : at + prefix_len]
        at += prefix_len
        rows = []
        for i in range(count):
            assert tails[i] == at
            (n,) = struct.unpack_from("<H", x, at)
            timed, n = n >> 15, n & 0x7FFF
            at += 2
            rest = x[at : at + max(0, n - 8)]
            at += len(rest)
            ts = None
            if timed:
                (ts,) = struct.unpack_from("<Q", x, at)
                at += 8
            key = heads[i].to_bytes(8, "big")[:n] + rest
            assert head(key) == heads[i]
            rows.append((prefix + key if i else b"", ts, offsets[i], sizes[i], firsts[i]))
        assert at == len(x) and rows[0][:2] == (b"", None)
        return rows, spanned

    def read_index(self, x):
        if not self.properties["partitions"]:
            rows, spanned = self.read_index_block(x, 0)
        else:
            top, spanned = self.read_index_block(x, 1)
            assert len(top) == self.properties["partitions"]
            rows = []
            for key, ts, offset, size, first in top:
                assert first == len(rows)
                below, _ = self.read_index_block(self.sealed("partition", offset, size), 0)
                rows += [(key, ts, *below[0][2:]), *below[1:]]
        assert len(rows) == spanned == self.properties["blocks"]
        assert [row[4] for row in rows] == list(range(len(rows)))
        return rows

    def read_block(self, number):
        separator, since, offset, size, _ = self.blocks[number]
        b = self.sealed("block", offset, size)
        groups, entries, values, prefix_len, flags = struct.unpack_from("<IIIHH", b)
        heads = struct.unpack_from(f"<{groups}Q", b, 16)
        starts = struct.unpack_from(f"<{groups}I", b, 16 + 8 * groups)
        at = 16 + 12 * groups
        base_wall = 0
        if flags & 1:
            (base_wall,) = struct.unpack_from("<Q", b, at)
            at += 8
        prefix = b[at : at + prefix_len]
        at += prefix_len
        key, value_at, found = b"", values, []
        for g in range(groups):
            assert starts[g] == at
            assert struct.unpack_from("<I", b, at)[0] == value_at
            at += 4
            end = starts[g + 1] if g + 1 < groups else values
            fresh = True
            while at < end:
                shared, at = varint(b, at)
                unshared, at = varint(b, at)
                tagged, at = varint(b, at)
                delta, at = varint(b, at)
                wall = 0
                if tagged & 2:
                    zigzag, at = varint(b, at)
                    wall = (base_wall + (zigzag >> 1 ^ -(zigzag & 1))) & U64
                suffix = b[at : at + unshared]
                at += unshared
                if fresh:
                    assert shared == prefix_len and heads[g] == head(suffix)
                key = (prefix if fresh else key)[:shared] + suffix
                fresh = False
                length = tagged >> 3
                if tagged & 4:
                    far_at, far_size = struct.unpack_from("<QI", b, value_at)
                    value = self.sealed("value", far_at, far_size)
                    assert len(value) == length
                    value_at += 12
                else:
                    value = b[value_at : value_at + length]
                    value_at += length
                assert not (tagged & 1 and length)
                found.append(Entry(key, self.base_ts + delta, None if tagged & 1 else value, wall))
            assert at == end
        assert value_at == len(b) and len(found) == entries
        if number:
            for entry in found:  # the separator divides: (key ascending, timestamp descending), without a timestamp before all
                assert (separator, 0 if since is None else U64 - since) <= (entry.key, U64 - entry.ts)
        return found

    def may_hold(self, key):
        if self.filter is None:
            return True
        lines, probes = struct.unpack_from("<II", self.filter)
        hash = key_hash(key)
        line = 8 + 64 * ((hash >> 32) * lines >> 32)
        h = hash & 0xFFFFFFFF
        for _ in range(probes):
            bit = h >> 23
            if not self.filter[line + (bit >> 3)] & 1 << (bit & 7):
                return False
            h = h * 0x9E3779B9 & 0xFFFFFFFF
        return True

    def check(self):
        p = self.properties
        order = [(e.key, -e.ts) for e in self.entries]
        assert all(a < b for a, b in zip(order, order[1:], strict=False))
        stamps = [e.ts for e in self.entries] + [r.ts for r in self.ranges]
        walls = [e.wall for e in self.entries if e.wall]
        keys = {e.key for e in self.entries}
        assert p["entries"] == len(self.entries) and p["keys"] == len(keys)
        assert p["tombstones"] == sum(e.value is None for e in self.entries)
        assert p["range_tombstones"] == len(self.ranges)
        assert (p["oldest_ts"], p["newest_ts"]) == (min(stamps), max(stamps))
        assert (p["oldest_wall"], p["newest_wall"]) == ((min(walls), max(walls)) if walls else (0, 0))
        assert p["raw_bytes"] == sum(len(e.key) + len(e.value or b"") for e in self.entries)
        assert p["unbounded"] == any(r.stop is None for r in self.ranges)
        assert p["smallest"] == min([*keys, *(r.start for r in self.ranges)])
        ends = [*keys, *(r.stop for r in self.ranges if r.stop is not None)]
        assert not ends or p["largest"] == max(ends)
        assert all(self.may_hold(key) for key in keys)
        # Every byte but the footer's is in one stretch, and stretches follow one another without a gap.
        at = 0
        for stretch in sorted(self.stretches, key=lambda s: s.offset):
            assert stretch.offset == at
            at += stretch.size
        assert at == len(self.data) - 96


def resealed(data, number, stretch, change):
    """The file with the stored bytes of one stretch as `change` makes them (of the same length), its seal right again."""
    end = stretch.offset + stretch.size - 9
    stored = change(data[stretch.offset : end])
    assert len(stored) == stretch.size - 9
    compression, raw = struct.unpack_from("<BI", data, end)
    seal = seal_of(stored, compression, raw, number, stretch.offset)
    return data[: stretch.offset] + stored + seal + data[stretch.offset + stretch.size :]
