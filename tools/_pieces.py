"""A database taken apart into pieces that a fuzzer can change one at a time, and put together again with right checksums.

A *piece* is a tag of one byte and its bytes. What the rest of the database determines (checksums, addresses, lengths,
links between groups) is not in the pieces: ``assemble`` computes it. Where a piece has a place for such a value, it
holds what that differs by (exclusive or), zero in pieces that come from ``take_apart``: so a fuzzer reaches
contradictions as well, one at a time, without having to guess a checksum.

    S superblock   M checkpoint record   P page or large value   Q a page whose heads and garbage are put right
    H segment header   G group header   R bytes of records
    F table, its footer   B data block   Z bytes between blocks   J partition   I top of the index
    Y range tombstones   L filter   O properties   X a patch of the finished files
"""

from __future__ import annotations

import struct

from enginelib._native.base.checksum import crc32c_of

Piece = tuple[int, bytes]
TAGS = b"SMPQHGRFBZJIYLOX"
ROOT = "/db/"
BLOCK, SUPERBLOCK, MAP_FANOUT, FIRST_BLOCK = 512, 4096, 256, 16
MOST_MAP_PAGES, MOST_SEGMENT = 8, 1 << 18
SEAL, FOOTER, INDEX_HEADER = 9, 96, 16
PAGE_HEADER = 48


def parse(data: bytes) -> list[Piece]:
    """The pieces of a fuzzer's input; what is none is left out."""
    at, out = 0, []
    while at + 3 <= len(data):
        n = int.from_bytes(data[at + 1 : at + 3], "little")
        if data[at] in TAGS:
            out.append((data[at], data[at + 3 : at + 3 + n]))
        at += 3 + n
    return out


def join(pieces: list[Piece]) -> bytes:
    return b"".join(bytes((tag,)) + len(body).to_bytes(2, "little") + body for tag, body in pieces)


def field(data: bytes, at: int, width: int) -> int:
    return int.from_bytes(data[at : at + width], "little")


def blend(out: bytearray, at: int, width: int, value: int) -> None:
    """Exclusive or of what is there and a computed value."""
    mixed = (field(out, at, width) ^ value) & ((1 << 8 * width) - 1)
    out[at : at + width] = mixed.to_bytes(width, "little")


def padded(data: bytes, n: int) -> bytearray:
    return bytearray(data[:n].ljust(n, b"\0"))


def blocks_of(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)

# --- varints, and the checkpoint record's edits ------------------------------------------------------------------------


def get_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def put_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes((value,))


def resized_edit(edit: bytes, sizes: dict[int, int]) -> bytes:
    """The edit with the sizes of files as they are."""
    at, numbers = 0, []
    for _ in range(5):
        value, at = get_varint(edit, at)
        numbers.append(value)
    for _ in range(2 * numbers[3]):
        value, at = get_varint(edit, at)
    out = bytearray(edit[:at])
    for _ in range(numbers[4]):
        values = []
        for _ in range(14):
            value, at = get_varint(edit, at)
            values.append(value)
        values[2] = sizes.get(values[1], values[2])
        last, at = get_varint(edit, at)
        keys = values[13] + last
        for value in (*values, last):
            out += put_varint(value)
        out += edit[at : at + keys]
        at += keys
    return bytes(out) + edit[at:]


def resized(meta: bytes, sizes: dict[int, dict[int, int]]) -> bytes:
    """The checkpoint record with the sizes that the tables have; unchanged when it cannot be read."""
    try:
        at, version, count = 0, 0, 0
        version, at = get_varint(meta, at)
        _, at = get_varint(meta, at)
        count, at = get_varint(meta, at)
        if version != 2 or count > 1000:
            return meta
        out = bytearray(meta[:at])
        for _ in range(count):
            start = at
            keyspace, at = get_varint(meta, at)
            _, at = get_varint(meta, at)
            lsm, at = get_varint(meta, at)
            if lsm:
                at += 24
                out += meta[start:at]
                n, at = get_varint(meta, at)
                edit = resized_edit(meta[at : at + n], sizes.get(keyspace, {}))
                out += put_varint(len(edit)) + edit
                start = at = at + n
            for _ in range(4):
                _, at = get_varint(meta, at)
            out += meta[start:at]
        return bytes(out) + meta[at:]
    except IndexError:
        return meta

# --- pages.dat ---------------------------------------------------------------------------------------------------------


def page_put_right(page: bytes) -> bytes:
    """A packed page whose heads are those of its keys and whose garbage adds up."""
    if len(page) < PAGE_HEADER:
        return page
    out = bytearray(page)
    count, low = struct.unpack_from("<HH", out, 2)
    front = PAGE_HEADER + 8 * count
    size = next((n for n in (4096, 8192, 16384, 32768) if low <= n), 4096)
    if front > low or front > len(out) or front + size - low > len(out) + BLOCK:
        return page
    used = field(out, 12, 2) + field(out, 16, 2)
    for i in range(count):
        slot = PAGE_HEADER + 8 * i
        offset, length = struct.unpack_from("<HH", out, slot + 4)
        at = front + offset - low
        if at < front or at + 8 > len(out):
            return page
        record = 2 + (field(out, at, 2) & 0x3FFF) if out[0] == 1 else 8
        key = at + (2 if out[0] == 1 else 8)
        out[slot : slot + 4] = bytes(out[key : key + min(4, length)]).ljust(4, b"\0")[::-1]
        used += record + length
    out[6:8] = max(0, size - low - used).to_bytes(4, "little")[:2]
    return bytes(out)


def build_pages(pieces: list[Piece], meta: bytes) -> bytes:
    supers = [padded(body, 168) for tag, body in pieces if tag == ord("S")][:2]
    next_pid = field(supers[0], 128, 8) if supers else 1
    maps = min(-(-next_pid // MAP_FANOUT), MOST_MAP_PAGES) if next_pid > 1 else 0
    tables = [bytearray(4096) for _ in range(maps)]
    out = bytearray(SUPERBLOCK * 2)

    def place(data: bytes) -> tuple[int, int, int]:
        run = blocks_of(data)
        if not run:
            return 0, 0, 0
        at = len(out) // BLOCK
        out.extend(run)
        return at, len(run) // BLOCK, crc32c_of(run)

    for tag, body in pieces:
        if tag not in b"PQ" or len(body) <= 20:
            continue
        pid = field(body, 0, 8)
        content = body[20:]
        if pid < maps * MAP_FANOUT:
            block, blocks, crc = place(page_put_right(content) if tag == ord("Q") else content)
            entry = (block ^ field(body, 8, 8)) & (1 << 64) - 1, blocks ^ field(body, 16, 4), crc
            struct.pack_into("<QII", tables[pid // MAP_FANOUT], 16 * (pid % MAP_FANOUT), *entry)
    directory = b"".join(struct.pack("<QII", *(place(bytes(t)) if any(t) else (0, 0, 0))) for t in tables)
    root, record = place(directory), place(meta)
    for slot, sb in enumerate(supers):
        for at, (block, blocks, crc) in ((104, root), (136, record)):
            blend(sb, at, 8, block)
            blend(sb, at + 8, 4, blocks)
            blend(sb, at + 12, 4, crc)
        blend(sb, 120, 8, maps)
        blend(sb, 152, 8, len(meta))
        blend(sb, 160, 8, len(out) // BLOCK)
        whole = bytes(sb).ljust(SUPERBLOCK - 4, b"\0")
        out[slot * SUPERBLOCK : (slot + 1) * SUPERBLOCK] = whole + crc32c_of(whole).to_bytes(4, "little")
    return bytes(out)


def take_pages(data: bytes) -> list[Piece]:
    slots = [data[i * SUPERBLOCK : (i + 1) * SUPERBLOCK] for i in range(2)]
    sb = bytearray(max((s for s in slots if s[:8] == b"ENGLIBdb"), key=lambda s: field(s, 40, 8))[:168])
    out: list[Piece] = []

    def run(at: int) -> bytes:
        start = field(sb, at, 8) * BLOCK
        return data[start : start + field(sb, at + 8, 4) * BLOCK]

    directory = run(104)
    for i in range(field(sb, 120, 8)):
        at = field(directory, 16 * i, 8) * BLOCK
        for j in range(MAP_FANOUT):
            block, blocks, _ = struct.unpack_from("<QII", data, at + 16 * j) if at else (0, 0, 0)
            if block:
                content = data[block * BLOCK : (block + blocks) * BLOCK].rstrip(b"\0")
                out.append((ord("P"), struct.pack("<QQI", i * MAP_FANOUT + j, 0, 0) + content))
    meta = run(136)[: field(sb, 152, 8)]
    for at, n in ((104, 24), (136, 32)):
        sb[at : at + n] = bytes(n)
    return [(ord("S"), bytes(sb)), (ord("M"), meta), *out]

# --- the log -----------------------------------------------------------------------------------------------------------


def build_log(pieces: list[Piece]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    header, body, first, end, last_crc = None, bytearray(), 0, 0, 0
    groups = [i for i, (tag, _) in enumerate(pieces) if tag in b"HG"]
    for k, i in enumerate(groups):
        stop = groups[k + 1] if k + 1 < len(groups) else len(pieces)
        payload = b"".join(part for tag, part in pieces[i:stop] if tag == ord("R"))
        tag, raw = pieces[i]
        if tag == ord("H"):
            finish(files, header, body)
            header = padded(raw, 60)
            first = field(header, 32, 8)
            blend(header, 40, 8, end)
            blend(header, 48, 4, last_crc)
            body = bytearray(64)
            last_crc = field(header, 48, 4)
            end = first + 64
        elif header is not None and payload:
            head = padded(raw, 28)
            blend(head, 0, 4, len(payload))
            blend(head, 4, 8, first + len(body))
            synced = first + len(body) - field(head, 12, 8)
            head[12:20] = (synced & (1 << 64) - 1).to_bytes(8, "little")
            blend(head, 20, 4, field(header, 12, 4))
            blend(head, 24, 4, last_crc)
            last_crc = crc32c_of(bytes(head) + payload)
            body += last_crc.to_bytes(4, "little") + head + payload
            end = first + len(body)
    finish(files, header, body)
    return files


def finish(files: dict[str, bytes], header: bytearray | None, body: bytearray) -> None:
    """One segment."""
    if header is None or len(files) > 16:
        return
    units = max(field(header, 52, 4), -(-len(body) // BLOCK))
    header[52:56] = units.to_bytes(4, "little")
    body[:64] = bytes(header) + crc32c_of(bytes(header)).to_bytes(4, "little")
    size = min(units * BLOCK, max(MOST_SEGMENT, len(body)))
    files[f"log/{field(header, 32, 8):016x}.wal"] = bytes(body).ljust(size, b"\0")


def take_log(files: dict[str, bytes], decode, encode) -> list[Piece]:
    """``decode`` and ``encode`` are those of log/record."""
    out: list[Piece] = []
    end = crc = 0
    for name in sorted(n for n in files if n.startswith("log/0")):
        data = files[name]
        header = bytearray(data[:60])
        first, at = field(header, 32, 8), 64
        blend(header, 40, 8, end)
        blend(header, 48, 4, crc)
        out.append((ord("H"), bytes(header)))
        crc = field(data, 48, 4)
        while at + 32 < len(data):
            got, n, lsn, synced, inc, prev = struct.unpack_from("<IIQQII", data, at)
            if n == 0 or lsn != first + at or at + 32 + n > len(data) or crc32c_of(data[at + 4 : at + 32 + n]) != got:
                break
            delta = (lsn - synced) & (1 << 64) - 1
            out.append((ord("G"), struct.pack("<IQQII", 0, 0, delta, inc ^ field(header, 12, 4), prev ^ crc)))
            for _, kind, txn, keyspace, a, b, key, value in decode(data[at + 32 : at + 32 + n]):
                parts = encode(kind, txn=txn or 0, keyspace=keyspace or 0, a=a or 0, b=b or 0, key=key or b"", value=value or b"")
                out.append((ord("R"), parts))
            crc, at = got, at + 32 + n
        end = first + at
    return out

# --- sorted tables -----------------------------------------------------------------------------------------------------


def build_tables(pieces: list[Piece]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    starts = [i for i, (tag, _) in enumerate(pieces) if tag == ord("F")]
    for k, i in enumerate(starts[:8]):
        stop = starts[k + 1] if k + 1 < len(starts) else len(pieces)
        head = padded(pieces[i][1], 12 + FOOTER)
        keyspace, number = field(head, 0, 4), field(head, 4, 8)
        files[f"lsm/{keyspace}/{number}.sst"] = build_table(pieces[i + 1 : stop], number, head[12:])
    return files


def build_table(pieces: list[Piece], number: int, footer: bytearray) -> bytes:
    out = bytearray()
    blocks: list[tuple[int, int]] = []
    partitions: list[tuple[int, int]] = []
    sections = {16: (0, 0), 32: (0, 0), 48: (0, 0), 64: (0, 0)}

    def seal(body: bytes) -> tuple[int, int]:
        head, content = padded(body, 5), body[5:]
        at = len(out)
        blend(head, 1, 4, len(content))
        seal_crc = crc32c_of(bytes(content) + bytes(head) + struct.pack("<QQ", number, at))
        out.extend(content + head + seal_crc.to_bytes(4, "little"))
        return at, len(out) - at

    def led(body: bytes, places: list[tuple[int, int]]) -> bytes:
        """An index block with the places of what it leads to."""
        out = bytearray(body)
        count = field(out, 5, 4)
        for i, (at, n) in enumerate(places[:count]):
            if 5 + INDEX_HEADER + 20 * count > len(out):
                break
            blend(out, 5 + INDEX_HEADER + 8 * (count + i), 8, at)
            blend(out, 5 + INDEX_HEADER + 16 * count + 4 * i, 4, n)
        return bytes(out)

    used = 0
    for tag, body in pieces:
        if tag == ord("B"):
            blocks.append(seal(body))
        elif tag == ord("Z"):
            out += body
        elif tag == ord("J"):
            partitions.append(seal(led(body, blocks[used:])))
            used += field(body, 5, 4)
        elif tag == ord("I"):
            sections[48] = seal(led(body, partitions or blocks))
        elif tag in b"YLO":
            sections[{"Y": 16, "L": 32, "O": 64}[chr(tag)]] = seal(body)
    blend(footer, 0, 8, 0x014C4254534C4E45)
    blend(footer, 8, 4, 1)
    for at, (offset, n) in sections.items():
        blend(footer, at, 8, offset)
        blend(footer, at + 8, 8, n)
    blend(footer, 80, 8, number)
    footer[92:96] = crc32c_of(bytes(footer[:92])).to_bytes(4, "little")
    return bytes(out + footer)


def take_table(keyspace: int, number: int, data: bytes) -> list[Piece]:
    footer = data[-FOOTER:]
    out: list[Piece] = [(ord("F"), struct.pack("<IQ", keyspace, number))]

    def stretch(at: int, n: int) -> bytes:
        content = data[at : at + n - SEAL]
        head = bytearray(data[at + n - SEAL : at + n - 4])
        blend(head, 1, 4, len(content))
        return bytes(head) + content

    def places(index: bytes) -> list[tuple[int, int]]:
        count = field(index, 5, 4)
        return [(field(index, 5 + INDEX_HEADER + 8 * (count + i), 8), field(index, 5 + INDEX_HEADER + 16 * count + 4 * i, 4)) for i in range(count)]

    def bare(index: bytes) -> bytes:
        count = field(index, 5, 4)
        start = 5 + INDEX_HEADER + 8 * count
        return index[:start] + bytes(12 * count) + index[start + 12 * count :]

    sections = {tag: (field(footer, at, 8), field(footer, at + 8, 8)) for tag, at in (("Y", 16), ("L", 32), ("I", 48), ("O", 64))}
    top = stretch(*sections["I"]) if sections["I"][1] else b""
    partitions = [stretch(*p) for p in places(top)] if top and field(top, 19, 2) == 1 else []
    at = 0
    for start, n in [p for index in partitions or [top] if index for p in places(index)]:
        if start > at:
            out.append((ord("Z"), data[at:start]))
        out.append((ord("B"), stretch(start, n)))
        at = start + n
    first = min([s for s, n in sections.values() if n] + [p[0] for p in (places(top) if partitions else [])])
    if first > at:
        out.append((ord("Z"), data[at:first]))
    for tag in "YL":
        if sections[tag][1]:
            out.append((ord(tag), stretch(*sections[tag])))
    out += [(ord("J"), bare(p)) for p in partitions]
    if top:
        out.append((ord("I"), bare(top)))
    out.append((ord("O"), stretch(*sections["O"])))
    return out

# --- the whole ---------------------------------------------------------------------------------------------------------


def assemble(pieces: list[Piece]) -> dict[str, bytes]:
    """The files of a database, by path."""
    tables = build_tables(pieces)
    sizes: dict[int, dict[int, int]] = {}
    for path, content in tables.items():
        _, keyspace, name = path.split("/")
        sizes.setdefault(int(keyspace), {})[int(name[:-4])] = len(content)
    meta = b"".join(body for tag, body in pieces if tag == ord("M"))
    files = {"pages.dat": build_pages(pieces, resized(meta, sizes) if sizes else meta), **build_log(pieces), **tables}
    names = sorted(files)
    for tag, body in pieces:
        if tag == ord("X") and len(body) > 5:
            name = names[body[0] % len(names)]
            patched = bytearray(files[name])
            at = field(body, 1, 4) % (len(patched) + 1)
            for i, byte in enumerate(body[5 : 5 + len(patched) - at]):
                patched[at + i] ^= byte
            files[name] = bytes(patched)
    return {ROOT + name: content for name, content in files.items()}


def take_apart(files: dict[str, bytes], decode, encode) -> list[Piece]:
    """The pieces of a database's files (paths below ``ROOT``)."""
    short = {path.removeprefix(ROOT): content for path, content in files.items()}
    out = take_pages(short["pages.dat"]) + take_log(short, decode, encode)
    for name in sorted(n for n in short if n.startswith("lsm/") and n.endswith(".sst")):
        _, keyspace, number = name.split("/")
        out += take_table(int(keyspace), int(number[:-4]), short[name])
    return out
