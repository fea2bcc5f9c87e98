"""Where stores are opened, checked, kept for the rows that share them, and timed."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from benches.data import Data, pieces
from benches.peers import Store

BATCH = 1000
DURABLE_KEYS = 100_000


class WrongAnswer(Exception):
    """A store answered what was not put into it: its rates mean nothing."""


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection while the clock runs."""
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed(
    work: Callable[[Any], Any], parts: Sequence[Sequence[Any]], seconds: float, warm: bool = False
) -> float:
    """Operations a second of ``work(part)`` over ``parts``, until ``seconds`` are spent."""
    if warm:
        work(parts[0])
    spent = 0.0
    done = 0
    with quiet():
        for part in parts:
            begin = time.perf_counter()
            work(part)
            spent += time.perf_counter() - begin
            done += len(part)
            if spent >= seconds:
                break
    return done / spent


def race(seconds: float, *runners: tuple[Callable[[Any], Any], Sequence[Sequence[Any]]]) -> list[float]:
    """Operations a second of each runner: ``work(part)`` over and over, all at once in threads."""
    rates = [0.0] * len(runners)
    failures: list[BaseException] = []
    start = threading.Barrier(len(runners))

    def run(index: int) -> None:
        work, parts = runners[index]
        done = 0
        try:
            start.wait()
            begin = now = time.perf_counter()
            for part in cycle(parts):
                work(part)
                done += len(part)
                now = time.perf_counter()
                if now - begin >= seconds:
                    break
            rates[index] = done / (now - begin)
        except BaseException as failure:
            failures.append(failure)
            start.abort()

    with quiet():
        threads = [threading.Thread(target=run, args=(index,)) for index in range(len(runners))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return rates


def rest(seconds: float = 10.0) -> None:
    """Writes back what earlier turns have left in the page cache, and waits until no thread of any store works in the
    background, so that nobody pays for another's compaction or dirty pages."""
    end = time.monotonic() + seconds
    os.sync()
    while time.monotonic() < end:
        used = time.process_time()
        time.sleep(0.05)
        if time.process_time() - used < 0.005:
            return


def real_directory() -> Path:
    """A place for temporary files that is on a disk, not in memory."""
    candidates = [Path(tempfile.gettempdir()), Path.cwd(), Path.home()]
    for candidate in candidates:
        if file_system(candidate) not in ("tmpfs", "ramfs"):
            return candidate
    raise SystemExit(f"none of {', '.join(map(str, candidates))} is on a disk: name one with --directory")


def file_system(path: Path) -> str:
    """The type of the file system that ``path`` is on; empty where there is no ``/proc``."""
    best, found = -1, ""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    resolved = path.resolve()
    for line in mounts:
        _, point, kind, *_ = line.split()
        if resolved.is_relative_to(point) and len(point) > best:
            best, found = len(point), kind
    return found


class Stand:
    """The stores of one run; ``loaded`` and ``durable`` ones are kept until ``close``."""

    def __init__(self, data: Data, directory: Path, scale: float = 1.0) -> None:
        self.data = data
        self.directory = directory
        self.scale = scale
        self.kept: dict[tuple[str, str], Store] = {}
        self.count = 0
        self.once: dict[tuple[str, str], dict[str, float]] = {}  # large loads that have been run

    def seconds(self, seconds: float) -> float:
        return seconds * self.scale

    def path(self, store: type[Store]) -> Path:
        self.count += 1
        return self.directory / f"{store.name}-{self.count}"

    def loaded(self, store: type[Store]) -> Any:
        """All pairs, put in random order a thousand a transaction, at rest; durability ``os``."""
        if (store.name, "os") not in self.kept:
            made: Any = store(self.path(store), "os")
            self.kept[store.name, "os"] = made
            for batch in pieces(self.data.pairs, BATCH):
                made.put_many(batch)
            made.settle()
            check(made, self.data)
        return self.kept[store.name, "os"]

    def durable(self, store: type[Store]) -> Any:
        """The first pairs; durability ``sync``."""
        if (store.name, "sync") not in self.kept:
            made: Any = store(self.path(store), "sync")
            self.kept[store.name, "sync"] = made
            if hasattr(made, "put_many"):
                for batch in pieces(self.data.pairs[:DURABLE_KEYS], 10 * BATCH):
                    made.put_many(batch)
                made.settle()
        os.sync()
        return self.kept[store.name, "sync"]

    @contextmanager
    def empty(self, store: type[Store]) -> Iterator[Any]:
        """A new store, durability ``os``, gone afterwards."""
        path = self.path(store)
        made = store(path, "os")
        try:
            yield made
        finally:
            made.close()
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        for store in self.kept.values():
            store.close()
        self.kept.clear()


def check(store: Any, data: Data) -> None:
    """Asks a loaded store for what was put into it, in every way that is going to be timed."""
    if hasattr(store, "get_many"):
        asked = [*data.some(BATCH, 0, "check"), *data.absent(10, 0)]
        if store.get_many(asked) != list(map(data.known.get, asked)):
            raise WrongAnswer(f"{store.name}: get_many")
    if hasattr(store, "scan") and store.scan(list) != data.in_order:
        raise WrongAnswer(f"{store.name}: scan")
    if hasattr(store, "seek"):
        expected = data.in_order[data.count // 2 :][:100]
        if store.seek([expected[0][0]], 100) != expected:
            raise WrongAnswer(f"{store.name}: seek")
