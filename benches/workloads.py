"""Every row of the table: what is done, to which store, for how long, and what is asked of the result."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from benches import reopen as processes
from benches.data import pieces
from benches.peers import PEERS, Store
from benches.stand import BATCH, DURABLE_KEYS, Stand, check, race, timed

Figures: TypeAlias = dict[str, float]  # "rate" is what the row is judged by
Measure: TypeAlias = Callable[[Stand, type[Store], int], Figures]

POINTS = 200_000
THREADS = 8
LMDB = ("lmdb0", "lmdb1")


@dataclass(frozen=True)
class Bound:
    """At least ``ratio`` times the best of ``of`` (at most, where less is better), or at least ``figure``."""

    ratio: float = 1.0
    of: tuple[str, ...] = PEERS
    figure: float | None = None


@dataclass(frozen=True)
class Row:
    key: str
    title: str
    needs: str  # the adapter's method without which a store is left out
    measure: Measure
    bounds: tuple[Bound, ...]
    unit: str = "/s"
    once: bool = False  # nothing varies from round to round
    less: bool = False  # less is better


def points(method: str, absent: bool = False) -> Measure:
    """Gets of random keys in the loaded store."""

    def measure(stand: Stand, store: type[Store], round_: int) -> Figures:
        keys = stand.data.absent(POINTS, round_) if absent else stand.data.some(POINTS, round_)
        work = getattr(stand.loaded(store), method)
        return {"rate": timed(work, pieces(keys, POINTS // 20), stand.seconds(0.6), warm=True)}

    return measure


def get_many(stand: Stand, store: type[Store], round_: int) -> Figures:
    batches = pieces(stand.data.some(POINTS, round_), BATCH)
    return {"rate": timed(stand.loaded(store).get_many, batches, stand.seconds(0.6), warm=True)}


def scan(stand: Stand, store: type[Store], round_: int) -> Figures:
    made = stand.loaded(store)
    whole = range(stand.data.count)
    return {"rate": timed(lambda _: made.scan(deque(maxlen=0).extend), [whole], math.inf, warm=round_ == 0)}


def seek(stand: Stand, store: type[Store], round_: int) -> Figures:
    made = stand.loaded(store)
    starts = pieces(stand.data.some(20_000, round_), 500)
    return {"rate": timed(lambda part: made.seek(part, 100), starts, stand.seconds(0.5), warm=True)}


def fill(method: str, ascending: bool = False) -> Measure:
    """All pairs into an empty store, a thousand a transaction."""

    def measure(stand: Stand, store: type[Store], round_: int) -> Figures:
        batches = pieces(stand.data.ascending if ascending else stand.data.pairs, BATCH)
        with stand.empty(store) as made:
            return {"rate": timed(getattr(made, method), batches, stand.seconds(2.0))}

    return measure


def put(stand: Stand, store: type[Store], round_: int) -> Figures:
    """Random pairs into an empty store, one a transaction."""
    parts = pieces(stand.data.pairs[: stand.data.count * 3 // 10], 5 * BATCH)
    with stand.empty(store) as made:
        return {"rate": timed(made.put_each, parts, stand.seconds(1.0))}


def commit(stand: Stand, store: type[Store], round_: int) -> Figures:
    """Durable: one new value for a random key a transaction."""
    made = stand.durable(store)
    changes = stand.data.changes(200_000, round_, below=DURABLE_KEYS)
    return {"rate": timed(made.put_each, pieces(changes, 20), stand.seconds(1.0))}


def commit_threads(stand: Stand, store: type[Store], round_: int) -> Figures:
    """The same from eight threads, each with keys of its own."""
    made = stand.durable(store)
    by_thread: list[dict[bytes, bytes]] = [{} for _ in range(THREADS)]
    for key, value in stand.data.changes(DURABLE_KEYS, round_, "threads", DURABLE_KEYS):
        by_thread[key[0] % THREADS][key] = value
    rates = race(stand.seconds(1.2), *((made.put_each, pieces(list(own.items()), 10)) for own in by_thread))
    return {"rate": sum(rates)}


def transact(stand: Stand, store: type[Store], round_: int) -> Figures:
    """Four gets and four puts of random keys a transaction in the loaded store."""
    made = stand.loaded(store)
    return {
        "rate": timed(made.transact, pieces(stand.data.operations(50_000, round_), 100), stand.seconds(0.7))
    }


def beside(stand: Stand, store: type[Store], round_: int) -> Figures:
    """Those transactions beside gets in fresh snapshots, a thread each; judged by the geometric mean."""
    made = stand.loaded(store)
    writes = pieces(stand.data.operations(50_000, round_), 20)
    reads = pieces(stand.data.some(POINTS, round_, "beside"), 100)
    transactions, gets = race(stand.seconds(1.2), (made.transact, writes), (made.get_each, reads))
    return {"rate": math.sqrt(transactions * gets), "transactions": transactions, "gets": gets}


def reopen(stand: Stand, store: type[Store], round_: int) -> Figures:
    """Operations replayed a second by the opening that follows SIGKILL."""
    count, operations, seed = 5 * stand.data.count, stand.data.count // 2, stand.data.seed
    path = stand.directory / "killed"
    if not path.exists():
        succeed(processes.run("load", path, count, seed))
    killed = processes.run("work", path, count, operations, seed, round_)
    if killed.returncode != -9:
        raise RuntimeError(f"the worker did not live until it killed itself: {killed.stderr[-500:]}")
    outcome = json.loads(succeed(processes.run("reopen", path, count, operations, seed, round_)))
    if not outcome["whole"]:
        raise RuntimeError("committed changes were lost")
    return {"rate": operations / outcome["seconds"], "seconds": outcome["seconds"]}


def succeed(process: Any) -> str:
    if process.returncode:
        raise RuntimeError(f"{' '.join(process.args)}: {process.stderr[-500:]}")
    return str(process.stdout)


def size(rewrites: int) -> Measure:
    """The data file after all pairs in random order, ``rewrites`` new values for each, and a checkpoint."""

    def measure(stand: Stand, store: type[Store], round_: int) -> Figures:
        with stand.empty(store) as made:
            for pairs in [stand.data.pairs, *(stand.data.rewrite(i) for i in range(rewrites))]:
                for batch in pieces(pairs, BATCH):
                    made.put_many(batch)
            made.settle()
            found = made.size()
            if not rewrites:
                check(made, stand.data)
        return {"rate": found, "of live data": found / stand.data.live}

    return measure


ROWS: tuple[Row, ...] = (
    Row("get", "get, random, in one read transaction", "get_in_one", points("get_in_one"), (Bound(1.25),)),
    Row("get_many", "`get_many` of 1,000 random keys", "get_many", get_many, (Bound(1.8),)),
    Row("get_each", "one read transaction per get", "get_each", points("get_each"), (Bound(1.2),)),
    Row("absent", "get of absent keys", "get_in_one", points("get_in_one", absent=True), (Bound(1.2, LMDB),)),
    Row("scan", "full ordered scan to (key, value) tuples", "scan", scan, (Bound(1.6),)),
    Row("seek", "seek + next 100", "seek", seek, (Bound(1.5),)),
    Row(
        "put_many", "`put_many`, random, 1,000 a transaction, `os`", "append", fill("put_many"), (Bound(1.3),)
    ),
    Row("put", "put, random, one a transaction, `os`", "append", put, (Bound(1.0),)),
    Row(
        "append",
        "`put_many`, ascending, 1,000 a transaction, `os`",
        "append",
        fill("append", ascending=True),
        (Bound(0.5, ("lmdb1",)), Bound(1.0, tuple(name for name in PEERS if name != "lmdb1"))),
    ),
    Row("commit", "durable commit, one thread", "put_each", commit, (Bound(1.0), Bound(0.9, ("bare",)))),
    Row("commit8", "durable commits, 8 threads", "transact", commit_threads, (Bound(1.2),)),
    Row("transact", "transaction of 4 gets and 4 puts, `os`", "transact", transact, (Bound(1.5),)),
    Row(
        "beside",
        "one thread of those beside one thread of reads in fresh snapshots",
        "transact",
        beside,
        (Bound(1.2),),
    ),
    Row(
        "reopen",
        "reopen after kill -9: operations replayed, half as many as keys, over five times as many records",
        "reopens",
        reopen,
        (Bound(figure=400_000.0),),
    ),
    Row(
        "size",
        "file size after random puts and a checkpoint",
        "size",
        size(0),
        (Bound(1.0, LMDB),),
        " B",
        True,
        True,
    ),
    Row(
        "size3",
        "file size after overwriting all twice",
        "size",
        size(2),
        (Bound(1.0, LMDB),),
        " B",
        True,
        True,
    ),
)
