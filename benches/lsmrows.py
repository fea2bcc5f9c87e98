"""The rows of the LSM-tree's table: enginelib's LSM keyspaces beside RocksDB and LevelDB, all set alike."""

from __future__ import annotations

import math
import shutil
import threading
import time
from typing import Any

from benches import bigload
from benches.data import pieces
from benches.peers import Store
from benches.peers.tables import CACHE, MEMTABLE
from benches.stand import BATCH, Stand, quiet, timed
from benches.workloads import Bound, Figures, Measure, Row, commit, commit_threads, points, put, scan, seek

OTHERS = ("rocksdict", "plyvel")
MEMORY = CACHE + 4 * MEMTABLE + (64 << 20)  # bytes: what the cache, the memtables and the rest may take
REST = 4.0  # seconds in which a store may do what it does when nobody writes
BIG = 10  # times as many keys in the large loads


def until_settled(spent: float, store: Any) -> float:
    began = time.perf_counter()
    store.settle()
    return spent + time.perf_counter() - began - getattr(store, "calm", 0.0)


def load(stand: Stand, store: type[Store], round_: int) -> Figures:
    """All pairs in random order, a thousand a transaction, until all compaction has settled."""
    batches = pieces(stand.data.pairs, BATCH)
    with stand.empty(store) as made:
        spent = stand.data.count / timed(made.put_many, batches, math.inf)
        return {"rate": stand.data.count / until_settled(spent, made), "before settling": stand.data.count / spent}


def overwrite(stand: Stand, store: type[Store], round_: int) -> Figures:
    """A new value for every key of a settled store, in random order, until all compaction has settled."""
    with stand.empty(store) as made:
        for batch in pieces(stand.data.pairs, BATCH):
            made.put_many(batch)
        made.settle()
        spent = stand.data.count / timed(made.put_many, pieces(stand.data.rewrite(round_), BATCH), math.inf)
        return {"rate": stand.data.count / until_settled(spent, made)}


def ingest(stand: Stand, store: type[Store], round_: int) -> Figures:
    """All pairs in the order of their keys, by the store's bulk path; nothing is logged."""
    pairs = stand.data.ascending
    with stand.empty(store) as made, quiet():
        began = time.perf_counter()
        made.ingest(pairs)
        return {"rate": len(pairs) / (time.perf_counter() - began)}


def busy(stand: Stand, store: type[Store], round_: int) -> Figures:
    """Gets of random keys while everything is compacted, over gets at rest."""
    with stand.empty(store) as made:
        for pairs in (stand.data.pairs, stand.data.rewrite(round_)):
            for batch in pieces(pairs, BATCH):
                made.put_many(batch)
        made.settle()
        keys = pieces(stand.data.some(stand.data.count, round_), 1000)
        idle = timed(made.get_in_one, keys[: len(keys) // 4], stand.seconds(0.7), warm=True)
        done = threading.Event()
        compaction = threading.Thread(target=lambda: (made.compact(), done.set()))
        count, began = 0, time.perf_counter()
        compaction.start()
        while not done.is_set():
            made.get_in_one(keys[count % len(keys)])
            count += 1
        rate = count * 1000 / (time.perf_counter() - began)
        compaction.join()
        return {"rate": rate / idle, "idle": idle, "compacting": rate}


def space(stand: Stand, store: type[Store], round_: int) -> Figures:
    """Bytes of tables over live data, after everything was overwritten twice, settled, and left alone for a while."""
    with stand.empty(store) as made:
        for pairs in (stand.data.pairs, stand.data.rewrite(0), stand.data.rewrite(1)):
            for batch in pieces(pairs, BATCH):
                made.put_many(batch)
        made.settle()
        settled = made.tables()
        time.sleep(REST)
        rested = made.tables()
        made.compact()
        live = stand.data.live
        return {"rate": rested / live, "settled": settled / live, "compacted": made.tables() / live}


def big(work: str, figure: str) -> Measure:
    """One figure of a large load, which is run once for each store."""

    def measure(stand: Stand, store: type[Store], round_: int) -> Figures:
        found = stand.once.get((work, store.name))
        if found is None:
            path = stand.path(store)
            found = bigload.run(work, store.name, path, BIG * stand.data.count, stand.data.seed)
            shutil.rmtree(path, ignore_errors=True)
            stand.once[work, store.name] = found
        return {"rate": found[figure]}

    return measure


ROWS: tuple[Row, ...] = (
    Row("load", "`put_many`, random, until settled", "ingest", load, (Bound(1.2, OTHERS),)),
    Row("put", "put, random, one a transaction, `os`", "ingest", put, (Bound(1.3, OTHERS),)),
    Row("overwrite", "overwrite, random, until settled", "ingest", overwrite, (Bound(1.3, OTHERS),)),
    Row("commit", "durable commit, one thread", "ingest", commit, (Bound(1.15, OTHERS),)),
    Row("commit8", "durable commits, 8 threads", "ingest", commit_threads, (Bound(1.2, OTHERS),)),
    Row("get", "get, random, present", "ingest", points("get_in_one"), (Bound(1.25, OTHERS),)),
    Row("absent", "get, random, absent", "ingest", points("get_in_one", absent=True), (Bound(1.0, OTHERS),)),
    Row("scan", "full scan", "ingest", scan, (Bound(1.2, OTHERS),)),
    Row("seek", "seek + next 100", "ingest", seek, (Bound(1.2, OTHERS),)),
    Row("ingest", "bulk load of sorted pairs", "ingest", ingest, (Bound(1.5, OTHERS),)),
    Row("busy", "gets while everything is compacted ÷ gets at rest", "ingest", busy, (Bound(0.7, (), 1.0),), ""),
    Row(
        "space",
        "bytes of tables ÷ live data, all overwritten twice and settled",
        "ingest",
        space,
        (Bound(1.15, (), 1.0),),
        "",
        True,
        True,
    ),
    Row(
        "load10",
        "`put_many`, random, until settled, ten times the keys",
        "ingest",
        big("many", "load"),
        (Bound(1.2, OTHERS),),
        "/s",
        True,
    ),
    Row(
        "over10", "overwrite, ten times the keys", "ingest", big("many", "overwrite"), (Bound(1.3, OTHERS),), "/s", True
    ),
    Row("space10", "bytes of tables ÷ live data after that", "ingest", big("many", "space"), (), "", True, True),
    Row(
        "put10",
        "put, one a transaction, ten times the keys",
        "ingest",
        big("put", "rate"),
        (Bound(1.3, OTHERS),),
        "/s",
        True,
    ),
    Row(
        "rare10",
        "99.99th percentile of those puts",
        "ingest",
        big("put", "rare_us"),
        (Bound(1.0, ("rocksdict",)),),
        " µs",
        True,
        True,
    ),
    Row(
        "worst10",
        "slowest of those puts",
        "ingest",
        big("put", "worst_us"),
        (Bound(1.0, ("rocksdict",)),),
        " µs",
        True,
        True,
    ),
    Row(
        "written10",
        "bytes written ÷ bytes put, log included",
        "ingest",
        big("put", "amplification"),
        (Bound(1.0, ("rocksdict",)),),
        "",
        True,
        True,
    ),
    Row(
        "memory10",
        "growth of memory during those puts",
        "ingest",
        big("put", "memory"),
        (Bound(1.0, (), MEMORY),),
        " B",
        True,
        True,
    ),
)
