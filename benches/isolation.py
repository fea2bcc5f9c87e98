"""The isolation levels beside each other, and beside other stores under contention, in one interleaved run.

    python -m benches.isolation
    python -m benches.isolation --rows contention,false --keys 1000000 --rounds 5

Rates are compared with those of `snapshot` in the same run, unless the bound says otherwise. Exits with 1 if a bound
was missed.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import gc
import itertools
import random
import shutil
import sqlite3
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import enginelib

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from _checker import Entry, History

LEVELS = ("read_committed", "snapshot", "serializable", "locking", "serial")
LONG = 100  # operations in one uncontended transaction
THREADS = 8
ZIPF = 0.99
VALUE = 100
FLIGHT = 64


@dataclass
class Bench:
    """A loaded database, and the keys to ask for."""

    directory: Path
    count: int
    seconds: float
    seed: int
    db: enginelib.Database = field(init=False)
    ks: enginelib.Keyspace = field(init=False)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        self.keys = [b"%016d" % i for i in range(self.count)]
        self.random = [self.keys[rng.randrange(self.count)] for _ in range(200_000)]
        weights = itertools.accumulate(1 / (rank + 1) ** ZIPF for rank in range(self.count))
        self.cumulative = list(weights)
        self.shuffled = list(self.keys)
        rng.shuffle(self.shuffled)
        self.groups = [[sorted({self.popular(rng) for _ in range(4)}) for _ in range(20_000)] for _ in range(THREADS)]
        self.db = enginelib.open(self.directory / "main", durability="os", cache_size=512 << 20)
        self.ks = self.db.keyspace("bench")
        for i in range(0, self.count, 1000):
            self.ks.put_many([(key, b"x" * VALUE) for key in self.keys[i : i + 1000]])
        self.db.checkpoint()

    def popular(self, rng: random.Random) -> bytes:
        """A key, by the law of Zipf."""
        return self.shuffled[bisect.bisect_left(self.cumulative, rng.random() * self.cumulative[-1])]

    def loop(self, work: Callable[[int], int]) -> float:
        """Operations a second of work(i), which returns how many it has done."""
        done = i = 0
        gc.collect()
        gc.disable()
        began = time.perf_counter()
        while True:
            for _ in range(10):
                done += work(i)
                i += 1
            took = time.perf_counter() - began
            if took > self.seconds:
                gc.enable()
                return done / took


Measure = Callable[[Bench], float]
Table = dict[str, list[float]]


def gets(bench: Bench, **begin: Any) -> float:
    def work(i: int) -> int:
        at = i * LONG % len(bench.random)
        with bench.db.transaction(**begin) as txn:
            get, ks = txn.get, bench.ks
            for key in bench.random[at : at + LONG]:
                get(ks, key)
        return LONG

    return bench.loop(work)


def puts(bench: Bench, **begin: Any) -> float:
    value = b"y" * VALUE

    def work(i: int) -> int:
        at = i * LONG % len(bench.random)
        with bench.db.transaction(**begin) as txn:
            put, ks = txn.put, bench.ks
            for key in bench.random[at : at + LONG]:
                put(ks, key, value)
        return LONG

    return bench.loop(work)


def scan(bench: Bench, **begin: Any) -> float:
    began = time.perf_counter()
    with bench.db.transaction(**begin) as txn:
        deque(txn.scan(bench.ks), maxlen=0)
    return bench.count / (time.perf_counter() - began)


def four_and_four(bench: Bench, i: int) -> Callable[[Any], None]:
    at = i * 8 % (len(bench.random) - 8)
    some, value, ks = bench.random[at : at + 8], b"z" * VALUE, bench.ks

    def body(txn: Any) -> None:
        for key in some[:4]:
            txn.get(ks, key)
        for key in some[4:]:
            txn.put(ks, key, value)

    return body


def transact(bench: Bench, **begin: Any) -> float:
    def work(i: int) -> int:
        with bench.db.transaction(**begin) as txn:
            body(bench, txn, i)
        return 1

    return bench.loop(work)


def body(bench: Bench, txn: Any, i: int) -> None:
    """Four gets and four puts."""
    at = i * 8 % (len(bench.random) - 8)
    ks, some = bench.ks, bench.random
    get, put = txn.get, txn.put
    for key in some[at : at + 4]:
        get(ks, key)
    for key in some[at + 4 : at + 8]:
        put(ks, key, ZS)


ZS = b"z" * VALUE


def procedures(bench: Bench) -> tuple[Any, Any]:
    """Four gets and four puts; one of each."""

    def eight(txn: Any, i: int) -> None:
        body(bench, txn, i)

    def two(txn: Any, i: int) -> None:
        ks = bench.ks
        txn.get(ks, bench.random[2 * i % 199_000])
        txn.put(ks, bench.random[(2 * i + 1) % 199_000], ZS)

    return eight, two


def called(bench: Bench) -> float:
    eight = bench.db.procedure(name=f"eight{next(numbers)}")(procedures(bench)[0])

    def work(i: int) -> int:
        bench.db.call(eight, i)
        return 1

    return bench.loop(work)


def submitted(bench: Bench, flight: int = 1024) -> float:
    eight = bench.db.procedure(name=f"eight{next(numbers)}")(procedures(bench)[0])
    pending: deque[Any] = deque()
    rate = bench.loop(in_flight(bench.db, eight, flight, pending))
    drain(pending)
    return rate


def in_flight(db: enginelib.Database, procedure: Any, flight: int, pending: deque[Any]) -> Callable[[int], int]:
    def work(i: int) -> int:
        pending.append(db.submit(procedure, i))
        if len(pending) < flight:
            return 0
        pending.popleft().result()
        return 1

    return work


def drain(pending: deque[Any]) -> None:
    """What is still in flight must not disturb what is measured next."""
    while pending:
        pending.popleft().result()


numbers = itertools.count()


@contextlib.contextmanager
def durable(bench: Bench, durability: str) -> Iterator[Bench]:
    """A smaller database of its own, on the disk."""
    directory = Path(tempfile.mkdtemp(dir=bench.directory))
    other = object.__new__(Bench)
    other.__dict__.update(bench.__dict__)
    try:
        with enginelib.open(directory, durability=durability) as db:
            other.db, other.ks = db, db.keyspace("bench")
            other.ks.put_many([(key, b"x" * VALUE) for key in bench.random[:50_000]])
            db.checkpoint()
            yield other
    finally:
        shutil.rmtree(directory)


def flown(durability: str) -> Measure:
    def measure(bench: Bench) -> float:
        with durable(bench, durability) as other:
            two = other.db.procedure(name="two")(procedures(other)[1])
            pending: deque[Any] = deque()
            rate = other.loop(in_flight(other.db, two, FLIGHT, pending))
            drain(pending)
            return rate

    return measure


def one_thread(bench: Bench) -> float:
    with durable(bench, "sync") as other:

        def work(i: int) -> int:
            other.ks.put(other.random[i % 50_000], ZS)
            return 1

        return other.loop(work)


# --- contention

One = Callable[[list[list[bytes]], Callable[[], bool]], int]


def race(bench: Bench, one: One) -> float:
    """Committed transactions a second of eight threads; one(groups of keys, going) works until it is told to stop."""
    stop = threading.Event()
    start = threading.Barrier(THREADS + 1)
    done = [0] * THREADS
    problems: list[BaseException] = []

    def work(number: int) -> None:
        start.wait()
        try:
            done[number] = one(bench.groups[number], lambda: not stop.is_set())
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    gc.collect()
    gc.disable()
    start.wait()
    began = time.perf_counter()
    time.sleep(bench.seconds * 2)
    stop.set()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    gc.enable()
    if problems:
        raise problems[0]
    return sum(done) / took


def contended(bench: Bench, **begin: Any) -> float:
    """Each transaction reads four popular keys and writes them; again until it commits."""
    db, ks = bench.db, bench.ks
    lock = begin["isolation"] in ("locking", "read_committed")

    def one(groups: list[list[bytes]], going: Callable[[], bool]) -> int:
        count = 0
        for keys in itertools.cycle(groups):
            while True:
                try:
                    with db.transaction(**begin) as txn:
                        get, put = txn.get_for_update if lock else txn.get, txn.put
                        for key in keys:
                            get(ks, key)
                            put(ks, key, ZS)
                    break
                except enginelib.TransactionAborted:
                    pass
            count += 1
            if not going():
                return count
        return count

    return race(bench, one)


def contended_procedures(bench: Bench) -> float:
    """The same as procedures, each thread with sixteen in flight."""
    db, ks = bench.db, bench.ks

    @db.procedure(name=f"four{next(numbers)}")
    def four(txn: Any, keys: list[bytes]) -> None:
        get, put = txn.get, txn.put
        for key in keys:
            get(ks, key)
            put(ks, key, ZS)

    def one(groups: list[list[bytes]], going: Callable[[], bool]) -> int:
        count = 0
        for keys in itertools.cycle(groups):
            db.call(four, keys)
            count += 1
            if not going():
                return count
        return count

    return race(bench, one)


@dataclass(slots=True)
class Doomed:
    """A transaction that was aborted by a serialization failure.

    last_ts: the newest commit at that moment, after which it would have committed.
    """

    snapshot: int
    last_ts: int
    keys: list[bytes]


def noted(bench: Bench, entries: list[Entry], doomed: list[Doomed]) -> None:
    """The contended load at `serializable`, written down."""
    ids = itertools.count(1)
    db, ks = bench.db, bench.ks

    def one(groups: list[list[bytes]], going: Callable[[], bool]) -> int:
        count = 0
        for keys in itertools.cycle(groups):
            while True:
                number = next(ids)
                entry = Entry(number, "serializable")
                tail = struct.pack(">Q", number)
                txn = db.transaction(isolation="serializable")
                snapshot = txn.snapshot
                try:
                    for key in keys:
                        entry.reads.append((key, txn.get(ks, key)))
                        txn.put(ks, key, tail)
                        entry.writes[key] = tail
                    txn.commit()
                    entry.status, entry.commit_ts = "committed", txn.commit_ts
                except enginelib.TransactionAborted as error:
                    txn.abort()
                    entry.status, entry.reason = "aborted", error.code
                    if isinstance(error, enginelib.SerializationFailure):
                        # It would have gone on to all of its keys.
                        doomed.append(Doomed(snapshot, db.stats()["transactions"]["last_ts"], keys))
                entries.append(entry)
                if entry.status == "committed":
                    break
            count += 1
            if not going():
                return count
        return count

    race(bench, one)


def contended_sqlite(bench: Bench) -> float:
    path = Path(tempfile.mkdtemp(dir=bench.directory)) / "db"
    with contextlib.closing(sqlite3.connect(path)) as made:
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("CREATE TABLE t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")
        made.executemany("INSERT INTO t VALUES (?, ?)", ((key, b"x" * VALUE) for key in bench.keys))
        made.commit()

    def one(groups: list[list[bytes]], going: Callable[[], bool]) -> int:
        count = 0
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as own:
            own.execute("PRAGMA synchronous=OFF")
            for keys in itertools.cycle(groups):
                own.execute("BEGIN IMMEDIATE")
                for key in keys:
                    own.execute("SELECT v FROM t WHERE k=?", (key,)).fetchone()
                    own.execute("UPDATE t SET v=? WHERE k=?", (ZS, key))
                own.execute("COMMIT")
                count += 1
                if not going():
                    break
        return count

    rate = race(bench, one)
    shutil.rmtree(path.parent)
    return rate


def contended_lmdb(bench: Bench) -> float:
    import lmdb

    path = tempfile.mkdtemp(dir=bench.directory)
    with contextlib.closing(lmdb.open(path, map_size=4 << 30, writemap=True, sync=False)) as env:
        with env.begin(write=True) as txn:
            txn.cursor().putmulti([(key, b"x" * VALUE) for key in bench.keys])

        def one(groups: list[list[bytes]], going: Callable[[], bool]) -> int:
            count = 0
            for keys in itertools.cycle(groups):
                with env.begin(write=True) as txn:
                    get, put = txn.get, txn.put
                    for key in keys:
                        get(key)
                        put(key, ZS)
                count += 1
                if not going():
                    break
            return count

        rate = race(bench, one)
    shutil.rmtree(path)
    return rate


# --- rows


def compare(bench: Bench, rounds: int, runs: dict[str, Measure]) -> dict[str, float]:
    """Medians of rates taken in turns, printed with their spread."""
    table: Table = {name: [] for name in runs}
    for _ in range(rounds):
        for name, measure in runs.items():
            table[name].append(measure(bench))
    medians = {name: statistics.median(rates) for name, rates in table.items()}
    for name, rates in table.items():
        print(f"    {name:<34}{medians[name]:>14,.0f} /s   {min(rates):,.0f} to {max(rates):,.0f}", flush=True)
    return medians


def bound(name: str, rate: float, of: float, least: float) -> int:
    met = rate >= least * of
    verdict = "met" if met else f"missed by {(1 - rate / of / least) * 100:.1f}%"
    print(f"  {name}: {rate / of:.2f} (at least {least:.2f}): {verdict}", flush=True)
    return not met


def row_uncontended(bench: Bench, rounds: int) -> int:
    missed = 0
    for what, measure in (("get", gets), ("put", puts), ("scan", scan)):
        print(f"{what}, uncontended")
        rates = compare(
            bench,
            rounds,
            {level: lambda b, level=level, measure=measure: measure(b, isolation=level) for level in LEVELS},
        )
        least = {"get": (0.6, 0.7), "put": (0.6, 0.7), "scan": (0.9, 0.9)}[what]
        for level, ratio in zip(("locking", "serializable"), least, strict=True):
            missed += bound(f"{what} in {level} / snapshot", rates[level], rates["snapshot"], ratio)
    return missed


def row_safe(bench: Bench, rounds: int) -> int:
    print("get in read-only transactions")
    rates = compare(
        bench,
        rounds,
        {
            "snapshot": lambda b: gets(b, read_only=True),
            "serializable, safe snapshot": lambda b: gets(b, read_only=True, isolation="serializable", deferrable=True),
        },
    )
    return bound("safe / snapshot", rates["serializable, safe snapshot"], rates["snapshot"], 0.98)


def row_serial(bench: Bench, rounds: int) -> int:
    print("procedures of 4 gets and 4 puts, os")
    rates = compare(
        bench, rounds, {"snapshot transactions": transact, "db.call": called, "db.submit, 1024 in flight": submitted}
    )
    missed = bound(
        "best of serial / snapshot",
        max(rates["db.call"], rates["db.submit, 1024 in flight"]),
        rates["snapshot transactions"],
        1.5,
    )
    print(f"procedures of 1 get and 1 put, {FLIGHT} in flight")
    rates = compare(
        bench, rounds, {"sync": flown("sync"), "os": flown("os"), "durable commits, one thread": one_thread}
    )
    least = min(20 * rates["durable commits, one thread"], 0.7 * rates["os"])
    return missed + bound("sync / the smaller of 20 x durable and 0.7 x os", rates["sync"], least, 1.0)


def row_contention(bench: Bench, rounds: int) -> int:
    print(f"{THREADS} threads, read and write of 4 keys, zipf {ZIPF}, with retries")
    runs: dict[str, Measure] = {level: lambda b, level=level: contended(b, isolation=level) for level in LEVELS}
    runs |= {"serial procedures": contended_procedures, "sqlite3": contended_sqlite, "lmdb": contended_lmdb}
    rates = compare(bench, rounds, runs)
    best = max(rates[name] for name in (*LEVELS, "serial procedures"))
    return (
        bound("serializable / snapshot", rates["serializable"], rates["snapshot"], 0.7)
        + bound("best level / sqlite3", best, rates["sqlite3"], 2.0)
        + bound("best level / lmdb", best, rates["lmdb"], 2.0)
    )


def row_false(bench: Bench, rounds: int) -> int:
    """Serializable transactions of that load that were aborted, and whether committing them would have closed a
    cycle."""
    entries: list[Entry] = []
    doomed: list[Doomed] = []
    with enginelib.open(":memory:") as db:
        other = object.__new__(Bench)
        other.__dict__.update(bench.__dict__)
        other.db, other.ks = db, db.keyspace("bench")
        noted(other, entries, doomed)
        final = dict(other.ks.items())
    reasons = Counter(entry.reason for entry in entries if entry.status == "aborted")
    committed = [entry for entry in entries if entry.status == "committed"]
    history = History(committed, final)
    findings = history.check("serializable")
    graph = history.graph()
    edges: dict[int, set[int]] = {}
    for relation in (graph.ww, graph.wr, graph.rw):
        for one, others in relation.items():
            edges.setdefault(one, set()).update(others)
    orders: dict[bytes, list[tuple[int, int]]] = {}
    for entry in sorted(committed, key=lambda each: each.commit_ts):
        for key in entry.writes:
            orders.setdefault(key, []).append((entry.commit_ts, entry.number))
    lost = false = 0
    for each in doomed:
        before: set[int] = set()
        after: set[int] = set()
        for key in each.keys:
            order = orders.get(key, [])
            read = bisect.bisect_right(order, (each.snapshot, 1 << 62))  # the versions its snapshot has
            written = bisect.bisect_right(order, (each.last_ts, 1 << 62))
            before |= {order[i][1] for i in (read - 1, written - 1) if i >= 0}
            after |= {order[i][1] for i in (read, written) if i < len(order)}
        if before & after:
            lost += 1  # another has committed to one of its keys: snapshot isolation would have refused it too
        elif not reaches(edges, after, before):
            false += 1
    other = len(doomed) - lost - false
    print(f"of {len(entries):,} serializable transactions {len(committed):,} committed, anomalies: {findings}")
    print(f"  aborted: {dict(reasons)}; of the serialization failures")
    print(f"  {lost:,} would have lost another's update, {other:,} have closed another cycle,")
    print(f"  {false:,} no cycle: {false / max(len(entries), 1):.2%} of all transactions")
    return int(bool(findings))


def reaches(edges: dict[int, set[int]], start: set[int], goal: set[int]) -> bool:
    seen, todo = set(start), list(start)
    while todo:
        node = todo.pop()
        if node in goal:
            return True
        for other in edges.get(node, ()):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return False


def row_deadlock(bench: Bench, rounds: int) -> int:
    times = []
    db, ks = bench.db, bench.ks
    for _ in range(200):
        one, other = db.transaction(isolation="locking"), db.transaction(isolation="locking")
        one.put(ks, b"1", b"")
        one.put(ks, b"3", b"")
        other.put(ks, b"2", b"")
        told: list[float] = []

        def victim(other: Any = other, told: list[float] = told) -> None:
            try:
                other.put(ks, b"1", b"")
            except enginelib.DeadlockDetected:
                told.append(time.perf_counter())
                other.abort()

        thread = threading.Thread(target=victim)
        thread.start()
        while not other.waiting:
            time.sleep(0.0001)
        began = time.perf_counter()
        one.put(ks, b"2", b"")
        thread.join()
        one.abort()
        times.append(told[0] - began)
    median = statistics.median(times) * 1e3
    verdict = "met" if median < 2 else "missed"
    print("a deadlock of two, from the closing wait to the victim's error")
    print(f"  median {median:.3f} ms, longest {max(times) * 1e3:.3f} ms (under 2 ms): {verdict}")
    return median >= 2


ROWS: dict[str, Callable[[Bench, int], int]] = {
    "uncontended": row_uncontended,
    "safe": row_safe,
    "serial": row_serial,
    "contention": row_contention,
    "false": row_false,
    "deadlock": row_deadlock,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", default=",".join(ROWS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6, help="of each measurement (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="isolation-"))
    missed = 0
    try:
        bench = Bench(directory, args.keys, args.seconds, args.seed)
        for row in args.rows.split(","):
            missed += ROWS[row](bench, args.rounds)
        bench.db.close()
    finally:
        shutil.rmtree(directory)
    print(f"{missed} bounds missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
