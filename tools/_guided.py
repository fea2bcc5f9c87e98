"""The process that libFuzzer drives: what it feeds to enginelib, from what seeds, and how inputs are changed.

Started by ``tools/fuzz.py --guided`` with the sanitizers and the guide preloaded; see there. The groups are

    layout   one packed page: the checks, then every operation of a node
    log      segments and their records: the reader, then recovery
    pages    superblock, checkpoint record, map, pages, rows of the catalogue
    tables   sorted tables: blocks, indexes, filters, range tombstones, properties
    edits    which tables there are: edits in the log and in the checkpoint record, the catalogue's rows

All but the first open a whole database, put together by ``_pieces`` so that its checksums are right, and use it: scans
both ways, reads, writes, flushes, compaction, checkpoint, verify, a second open. What may come of it is an answer or an
error of enginelib's own.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import random
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import _history as h
import _pieces as p
from _mutator import Mutator, Unguided
from _seeds import OPTIONS, files_of, seeds
from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.engine.door import CoreKeyspace, CoreTransaction
from enginelib._native.index.treedoor import NodeDoor
from enginelib._native.log.logdoor import read_log
from enginelib._native.page.layout_door import check, pack, unpack

import enginelib

ROWS = 3000  # read in one scan; more there cannot be in inputs of this size
PAGE, LONGEST_KEY, LARGEST_RECORD = 4096, 900, 1002
ALLOWED = (enginelib.Error,)

# --- what is done with an input ----------------------------------------------------------------------------------------


def run_layout(data: bytes) -> None:
    page = unpack(data[1:], PAGE)
    if page is None:
        return
    if data[0] & 1:
        page = unpack(p.page_put_right(data[1:]).ljust(PAGE, b"\0"), PAGE) or page
    pid = int.from_bytes(page[24:32], "little")
    if check(page, pid) is not None:
        return
    again = unpack(pack(page, 512), PAGE)
    if again != page:
        raise AssertionError("a page that does not survive packing")
    node = NodeDoor(PAGE)
    node.load(page)
    records = node.records()
    node.room(), node.used(), node.prefix()
    keys = [r[0] for r in records]
    for key in {*keys[:1], *keys[-1:], *keys[len(keys) // 2 :][:1]} | {k + b"\0" for k in keys[:1]}:
        if node.within(key) and len(key) <= LONGEST_KEY:
            node.search(key)
            if page[0] == 1:
                node.put(key, b"v" * min(len(data) % 700, LARGEST_RECORD - len(key)))
    if keys:
        node.remove(len(keys) // 2 % len(node.records()))
    node.compact()
    wrong = check(node.bytes(), pid)
    if wrong is not None:
        raise AssertionError(f"a sound page, after operations: {wrong}")


def attempt(work: Any, *args: Any) -> Any:
    """What it returns; None after an error that may be."""
    try:
        return work(*args)
    except ALLOWED:
        return None


def scan(txn: CoreTransaction, keyspace: CoreKeyspace, reverse: bool) -> list[bytes]:
    keys = []
    for key, _ in txn.scan(keyspace, reverse=reverse, limit=ROWS):
        keys.append(key)
    return keys


def look(db: Any) -> list[Any]:
    """Reads everything both ways; the keyspaces."""
    keyspaces = []
    with db.core_transaction(CoreTransaction, read_only=True) as txn:
        for name, _, _ in attempt(txn.catalog_rows) or ():
            keyspace = attempt(db.core_keyspace, CoreKeyspace, name, False)
            if keyspace is None:
                continue
            keyspaces.append(keyspace)
            keys = attempt(scan, txn, keyspace, False) or []
            back = attempt(scan, txn, keyspace, True) or []
            for key in keys[:2] + back[:2] + keys[len(keys) // 2 :][:2]:
                attempt(txn.get, keyspace, key)
                attempt(txn.get, keyspace, key[:-1])
            attempt(txn.get_many, keyspace, keys[:40])
            attempt(keyspace.core_stats)
    return keyspaces


def change(db: Any, keyspaces: list[Any]) -> None:
    for keyspace in keyspaces[:6]:
        txn = db.core_transaction(CoreTransaction)
        try:
            depth = txn.save()
            key = next(iter(attempt(scan, txn, keyspace, False) or [b"k"]))
            txn.put(keyspace, key, b"changed" * 20)
            txn.put(keyspace, key[:600] + b"+", b"")
            txn.put(keyspace, b"large", bytes(5000))
            txn.rollback_to(depth)
            txn.put_many(keyspace, [(b"%04d" % i, b"v" * 90) for i in range(40)])
            txn.delete(keyspace, key)
            txn.delete_range(keyspace, b"0003", b"0009")
            txn.commit()
        except ALLOWED:
            attempt(txn.abort)


def use(db: Any) -> None:
    keyspaces = look(db)
    attempt(db.verify)
    if db.read_only:
        return
    change(db, keyspaces)
    for what in ("seal", "flush", "compact", "settle", "gc"):
        attempt(db.step, what)
    for keyspace in keyspaces:
        if keyspace.backend == "lsm":
            attempt(keyspace.core_compact, None, None)
    attempt(db.checkpoint)
    look(db)
    attempt(db.verify)
    attempt(db.stats)
    for keyspace in keyspaces[:1]:
        attempt(db.drop_keyspace, keyspace.name)
    attempt(db.step, "gc")


def run_database(data: bytes) -> None:
    vfs = files_of(data)
    if len(data) % 8 == 7:
        db = attempt(lambda: h.open_database(vfs, OPTIONS, read_only=True))
        if db is not None:
            use(db)
            db.abandon()
    db = attempt(lambda: h.open_database(vfs, OPTIONS, allow_damaged=len(data) % 8 == 6))
    if db is None:
        return
    try:
        use(db)
    finally:
        if attempt(db.close) is None:
            db.abandon()
    db = attempt(lambda: h.open_database(vfs, OPTIONS))
    if db is not None:
        look(db)
        db.abandon()


def run_log(data: bytes) -> None:
    vfs = FaultVfs()
    pieces = p.parse(data)
    for path, content in p.build_log(pieces).items():
        vfs.put_file("/" + path, content)
    attempt(lambda: read_log(vfs, "/log", database_id=None))
    run_database(data)


RUN = {"layout": run_layout, "log": run_log, "pages": run_database, "tables": run_database, "edits": run_database}

# --- the process -------------------------------------------------------------------------------------------------------


class Found:
    """Exceptions that must not be: each sort once, with the input that shows it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, set()
        for known in folder.glob("error-*.json"):
            self.seen.add(json.loads(known.read_text())["signature"])

    def note(self, data: bytes, error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        inner = frames[-1]
        signature = f"{type(error).__name__} at {Path(inner.filename).name}:{inner.lineno}: {str(error)[:60]}"
        if signature in self.seen or len(self.seen) > 50:
            return
        self.seen.add(signature)
        name = f"error-{len(self.seen):03d}-{type(error).__name__}"
        (self.folder / name).write_bytes(data)
        text = "".join(traceback.format_exception(error))
        (self.folder / f"{name}.json").write_text(json.dumps({"signature": signature, "trace": text}))
        print(f"FOUND {signature}\n{text}", file=sys.stderr, flush=True)


def leaks(group: str, inputs: list[Path], seconds: float) -> list[tuple[str, int]]:
    """Inputs whose runs keep memory: the same growth at each of several runs."""
    allocated = ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes
    allocated.restype = ctypes.c_size_t
    deadline, bad = time.monotonic() + seconds, []
    for path in inputs:
        if time.monotonic() > deadline:
            break
        data = path.read_bytes()
        marks = (ctypes.c_size_t * 8)()  # takes no memory as it is filled
        for turn in range(8):
            try:
                RUN[group](data)
            except Exception:
                break
            gc.collect()  # what stands in a circle is not kept
            marks[turn] = allocated()
        growth = min(b - a for a, b in itertools.pairwise(marks[3:]))
        if growth > 0:
            bad.append((path.name, growth))
    return bad


def blind(group: str, noted: Found, count: int, seed: int) -> int:
    """The seeds, and so many changed ones, without libFuzzer: no coverage, no sanitizers needed. 1 when anything is found."""
    rng = random.Random(seed)
    corpus = seeds(group)
    mutator = Mutator(group, Unguided(rng))
    before = len(noted.seen)
    for i in range(len(corpus) + count):
        data = corpus[i] if i < len(corpus) else mutator.mutate(rng.choice(corpus), 1 << 16, rng.getrandbits(32))
        try:
            RUN[group](data)
        except Exception as error:
            noted.note(data, error)
    return int(len(noted.seen) > before)


def main() -> int:
    group, work, mode, *more = sys.argv[1:]
    corpus, found = Path(work) / "corpus" / group, Path(work) / "found" / group
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    run = RUN[group]
    if mode == "replay":
        for path in more:
            run(Path(path).read_bytes())
        return 0
    if mode == "seed":
        for i, data in enumerate(seeds(group)):
            (corpus / f"seed-{i:02d}").write_bytes(data)
        return 0
    if mode == "leaks":
        print(json.dumps(leaks(group, sorted(corpus.iterdir(), key=lambda f: f.stat().st_size), float(more[0]))))
        return 0
    if mode == "blind":
        return blind(group, Found(found), int(more[0]), int(more[1]))
    guide = ctypes.CDLL(os.environ["ENGINELIB_GUIDE"])
    guide.el_mutate.restype = ctypes.c_size_t
    guide.el_mutate.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t)
    noted, mutator = Found(found), Mutator(group, guide)

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    def test(at: int, n: int) -> int:
        data = ctypes.string_at(at, n) if n else b""
        if data:
            try:
                run(data)
            except BaseException as error:
                noted.note(data, error)
        return 0

    @ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint)
    def change_input(at: int, n: int, room: int, seed: int) -> int:
        try:
            out = mutator.mutate(ctypes.string_at(at, n), room, seed)
        except BaseException:
            traceback.print_exc()
            return n
        ctypes.memmove(at, out, len(out))
        return len(out)

    arguments = [b"fuzz", *(a.encode() for a in more), b"-artifact_prefix=" + os.fsencode(found) + b"/", os.fsencode(corpus)]
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)
    sys.stdout.flush()
    return guide.el_guide(len(arguments), argv, test, change_input)


if __name__ == "__main__":
    sys.exit(main())
