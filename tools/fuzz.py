"""Feeds damaged and hostile bytes to the decoders, with the checksums put right so that they get past the first check.

    python tools/fuzz.py [--minutes M] [--count N] [--seed S]
    python tools/fuzz.py --guided [--target layout|log|pages|tables|edits|all] [--minutes M] [--seed S] [--work FOLDER]
    python tools/fuzz.py --replay FILE --target T [--work FOLDER]

Blind, the first form. Targets, in turn: packed pages (layout), log groups and superblocks with a right checksum, and whole databases with any bytes
changed. What may come of it is an answer or an error of enginelib's own; anything else, above all the death of the process, is a finding.
Meant for a build with sanitizers: ENGINELIB_BUILD=asan, run with the compiler's libasan preloaded.

Guided, the second: libFuzzer, with coverage of the core and with sanitizers, which clang is needed for; M minutes for each target (``_guided.py`` says what
they are). The build, the corpus and what was found are kept in FOLDER, ``build/fuzz`` unless told: a later run begins with the corpus. A finding is
the death of the process, a report of a sanitizer, a hang (5 seconds), an allocation beyond 1,700 MB, memory that is kept from run to run, or an exception
that is not enginelib's. The third form runs one input again.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import _drive
import _history as h
import bitflip
from enginelib._native.base.checksum import crc32c_of
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreKeyspace, CoreTransaction
from enginelib._native.log.logdoor import read_log
from enginelib._native.page.layout_door import check, pack, unpack

import enginelib

ALLOWED = (enginelib.Error,)
SUPERBLOCK = 4096
SEGMENT_HEADER, GROUP_HEADER = 64, 32


def mutate(rng: random.Random, data: bytes, start: int = 0, stop: int | None = None) -> bytes:
    """Changes some bytes in [start, stop): single bits, interesting values, copied stretches."""
    out = bytearray(data)
    stop = len(out) if stop is None else min(stop, len(out))
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if stop <= start:
            break
        at = rng.randrange(start, stop)
        kind = rng.randrange(4)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            width = rng.choice((2, 4, 8))
            value = rng.choice((0, 1, 0xFFFF, 0x8000, 0xFFFFFFFF, (1 << 63), (1 << 64) - 1)) & ((1 << 8 * width) - 1)
            out[at : min(at + width, stop)] = value.to_bytes(width, "little")[: max(0, stop - at)]
        else:
            n = min(rng.randrange(1, 64), stop - at)
            source = rng.randrange(start, stop)
            piece = bytes(out[source : source + n])
            out[at : at + len(piece)] = piece[: stop - at]
    return bytes(out[: len(data)])


def fuzz_page(rng: random.Random, pages: list[bytes]) -> str:
    packed = mutate(rng, rng.choice(pages))
    page = unpack(packed[: rng.choice((len(packed), len(packed), rng.randrange(1, len(packed) + 1)))], 4096)
    if page is None:
        return "refused"
    if check(page, int.from_bytes(page[24:32], "little")) is not None:
        return "refused"
    assert unpack(pack(page, 512), 4096) == page
    return "accepted"


def with_right_group(rng: random.Random, segment: bytes) -> bytes:
    """A segment one of whose groups has another payload and a right checksum."""
    at, groups = SEGMENT_HEADER, []
    while at + GROUP_HEADER < len(segment):
        length = int.from_bytes(segment[at + 4 : at + 8], "little")
        if length == 0 or at + GROUP_HEADER + length > len(segment):
            break
        groups.append((at, length))
        at += GROUP_HEADER + length
    if not groups:
        return mutate(rng, segment)
    at, length = rng.choice(groups)
    end = at + GROUP_HEADER + length
    out = bytearray(mutate(rng, segment, at + 4, end))
    out[at : at + 4] = crc32c_of(bytes(out[at + 4 : end])).to_bytes(4, "little")
    return bytes(out)


def with_right_superblock(rng: random.Random, pages: bytes) -> bytes:
    out = bytearray(pages)
    for slot in (0, SUPERBLOCK):
        block = mutate(rng, bytes(out[slot : slot + SUPERBLOCK]), 8, 256)
        body = block[: SUPERBLOCK - 4]
        out[slot : slot + SUPERBLOCK] = body + crc32c_of(body).to_bytes(4, "little")
    return bytes(out)


def open_files(files: dict[str, bytes]) -> str:
    """Opens and reads a whole database."""
    vfs = FaultVfs()
    for path, content in files.items():
        vfs.put_file(path, content)
    try:
        db = h.open_database(vfs, bitflip.OPTIONS)
    except ALLOWED as error:
        return type(error).__name__
    try:
        with db.core_transaction(CoreTransaction, read_only=True) as txn:
            for name, _id, _backend in db.keyspace_rows():
                list(txn.scan(db.core_keyspace(CoreKeyspace, name, create=False)))
        db.verify()
        return "opened"
    except ALLOWED as error:
        return type(error).__name__
    finally:
        db.abandon()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--count", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", action="store_true", help="by coverage, under sanitizers")
    parser.add_argument("--target", choices=(*_drive.TARGETS, "all"), default="all")
    parser.add_argument("--work", type=Path, default=_drive.HERE.parent / "build" / "fuzz")
    parser.add_argument("--only", default="", help="instrument these modules only, as ENGINELIB_ONLY does")
    parser.add_argument("--replay", type=Path, help="an input that guided fuzzing kept")
    args = parser.parse_args()
    work = args.work.resolve()
    if args.replay:
        code, _ = _drive.worker(work, args.target, "replay", str(args.replay.resolve()), log=work / "log" / "replay.log")
        print((work / "log" / "replay.log").read_text(errors="replace"), f"status {code}", sep="")
        return 1 if code else 0
    if args.guided:
        targets = _drive.TARGETS if args.target == "all" else (args.target,)
        return _drive.campaign(targets, work, args.minutes, args.seed, args.only)
    rng = random.Random(args.seed)
    bases = [bitflip.build(False)[0], bitflip.build(True)[0]]
    pages = [
        files[path][at : at + 4096]
        for files in bases
        for path in files
        if path.endswith("pages.dat")
        for at in range(2 * SUPERBLOCK, len(files[path]), 512)
        if files[path][at] in (1, 2) and at + 4096 <= len(files[path])
    ]
    outcomes: collections.Counter[str] = collections.Counter()
    deadline, done = time.monotonic() + args.minutes * 60, 0
    while time.monotonic() < deadline and (args.count is None or done < args.count):
        done += 1
        for _ in range(50):
            outcomes["page " + fuzz_page(rng, pages)] += 1
        files = dict(rng.choice(bases))
        target = rng.choice(("log", "superblock", "any"))
        path = rng.choice([p for p in files if (p.endswith(".wal") if target == "log" else p.endswith("pages.dat") or target == "any")])
        if target == "log":
            files[path] = with_right_group(rng, files[path])
            vfs = FaultVfs()
            vfs.put_file(path, files[path])
            try:
                read_log(vfs, path.rsplit("/", 1)[0], database_id=None)
            except ALLOWED as error:
                outcomes[f"segment {type(error).__name__}"] += 1
        elif target == "superblock":
            files[path] = with_right_superblock(rng, files[path])
        else:
            files[path] = mutate(rng, files[path]) if files[path] else b"x"
        outcomes[f"{target} {open_files(files)}"] += 1
    print(f"{done:,} rounds, seed {args.seed}: no finding")
    for outcome, count in sorted(outcomes.items()):
        print(f"  {count:>9,}  {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
