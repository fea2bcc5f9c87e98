"""Kills whoever takes part in a distributed transaction, at every step, twice in a row, and looks whether all agree.

    python tools/drill.py [--count N] [--minutes M] [--seed S] [--directory /dev/shm] [--table]

Two enginelib databases (A, a B-tree; B, an LSM-tree), a PostgreSQL server (P) and a coordinator (C) are processes of their own. A case is: a transaction over A, B and P; one of the four is
killed with SIGKILL at a named step of it; what is dead is started again, and the coordinator resolves; in that, one of the four is killed at a named step, again; what is dead is started, and
the coordinator resolves once more. Then A, B and P must hold the transaction all or none, as the table of first kills says, and nothing may be left prepared, decided or remembered anywhere.

Without --count and --minutes the whole table is run: each first kill, alone and with each kill at each step that the resolution after it comes to. --table prints the table of docs/twophase.md.
Exit status 1 when anything is found.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from _drill import ACTS, TABLE, Remote, coordinate, serve
from _postgres import Postgres, missing

import enginelib
from enginelib.twophase import Coordinator

PARTIES = "CABP"
PREPARING = ["prepare A", "prepare B", "prepare P"]
TELLING = ["decided", "commit A", "commit B", "commit P", "forget", "forgotten"]
ROLLING_BACK = ["roll back A", "roll back B", "roll back P"]
WORDS = {"C": "the coordinator", "A": "database A", "B": "database B", "P": "PostgreSQL"}


class Finding(Exception):
    """The parties disagree, or something is left."""


class Kill(NamedTuple):
    """Whom, and at which step: one of the coordinator's, or of the victim's own, ``before`` or ``after`` an act."""

    victim: str
    step: str

    @property
    def inside(self) -> bool:
        return self.step.startswith(("before", "after"))

    def __str__(self) -> str:
        return f"{self.victim} at {self.step!r}"


NOBODY = Kill("", "")


class First(NamedTuple):
    """A first kill, in a transaction that would commit, or that P refuses to prepare."""

    kill: Kill
    refused: bool

    @property
    def committed(self) -> bool:
        """What the outcome has to be."""
        victim, step = self.kill
        if self.refused:
            return False
        if not victim or step in TELLING or step in ("before commit", "after commit"):
            return True
        if self.kill.inside or victim == "C":
            return False
        return [*PREPARING, "decide"].index(step) > PREPARING.index(f"prepare {victim}")  # its promise outlives it

    def __str__(self) -> str:
        return f"{self.kill if self.kill.victim else 'nobody'}{', refused' if self.refused else ''}"


def firsts() -> list[First]:
    """Every first kill."""
    found = [First(NOBODY, False), First(NOBODY, True)]
    found += [First(Kill(who, step), False) for step in (*PREPARING, "decide", *TELLING) for who in PARTIES]
    found += [First(Kill(who, step), True) for step in (*PREPARING, *ROLLING_BACK) for who in PARTIES]
    for who in "AB":
        found += [First(Kill(who, f"{when} {act}"), False) for act in ("prepare", "commit") for when in ("before", "after")]
        found += [First(Kill(who, f"{when} rollback"), True) for when in ("before", "after")]
    return found


def seconds(steps: list[str]) -> list[Kill]:
    """Every kill in a resolution that comes to those steps."""
    found = [Kill(who, step) for step in dict.fromkeys(steps) for who in PARTIES]
    for step in dict.fromkeys(steps):
        act, _, who = step.rpartition(" ")
        if who in ("A", "B") and (act := act.replace(" ", "")) in ACTS:
            found += [Kill(who, f"before {act}"), Kill(who, f"after {act}")]
    return found


def table() -> str:
    """The rows of docs/twophase.md."""
    rows = ["| killed | when | outcome |", "| --- | --- | --- |"]
    for first in firsts():
        victim, step = first.kill
        when = f"`{step}`" if step else "never"
        who = WORDS.get(victim, "nobody")
        rows.append(f"| {who} | {when}{', PostgreSQL refusing' if first.refused else ''} | {'committed' if first.committed else 'rolled back'} |")
    return "\n".join(rows) + "\n"


class Drill:
    """The four parties. Use it in a ``with`` block."""

    def __init__(self, directory: str = "/tmp") -> None:  # a socket's path takes 107 bytes at most
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["psycopg", "enginelib.twophase"])
        self.folder = Path(tempfile.mkdtemp(prefix="2pc-", dir=directory))
        self.postgres = Postgres(directory)
        self.nodes: dict[str, Any] = {}
        self.number = 0

    def __enter__(self) -> Drill:
        import psycopg

        try:
            self.postgres.start()
            with psycopg.connect(self.postgres.conninfo) as connection:
                connection.execute(TABLE)
                connection.execute("INSERT INTO t VALUES (0, 0, 0)")
            self.revive()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name, process in self.nodes.items():
            with contextlib.suppress(EOFError, OSError):
                self.ask(name, "finish")
            process.join(20)
            process.kill()
            process.join()
        self.postgres.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)

    def address(self, name: str) -> str:
        return str(self.folder / f"{name}.socket")

    def revive(self) -> None:
        """Starts what does not run."""
        self.postgres.start()
        for name in "AB":
            if name in self.nodes:
                if self.answers(name):
                    continue
                self.nodes[name].kill()
                self.nodes[name].join()
            ready, told = self.processes.Pipe(duplex=False)
            self.nodes[name] = self.processes.Process(target=serve, args=(name, str(self.folder / name), self.address(name), told), daemon=True)
            self.nodes[name].start()
            told.close()
            with contextlib.closing(ready):
                if not ready.poll(60) or ready.recv() != "ready":
                    raise Finding(f"{name} does not come back")

    def answers(self, name: str) -> bool:
        try:
            self.ask(name, "state")
        except (EOFError, OSError):
            return False
        return True

    def ask(self, name: str, method: str, *arguments: object) -> Any:
        with contextlib.closing(Remote(name, self.address(name))) as remote:
            return remote.ask(method, *arguments)

    def run(self, kill: Kill, number: int | None, refused: bool = False) -> tuple[Any, list[str]]:
        """A coordinator's process: a transaction, or a resolution. What it told, or None, and the steps it came to."""
        pids = {"A": self.nodes["A"].pid, "B": self.nodes["B"].pid, "P": self.postgres.pid}
        plan = {"path": str(self.folder / "C"), "A": self.address("A"), "B": self.address("B"), "P": self.postgres.conninfo, "pids": pids, "number": number,
                "refused": refused, "victim": kill.victim, "step": "" if kill.inside else kill.step}  # fmt: skip
        if kill.inside:
            self.ask(kill.victim, "arm", kill.step)
        results, told = self.processes.Pipe(duplex=False)
        process = self.processes.Process(target=coordinate, args=(plan, told), daemon=True)
        process.start()
        told.close()
        with contextlib.closing(results):
            try:
                if not results.poll(90):
                    process.kill()
                    raise Finding("the coordinator hangs")
                result: tuple[Any, list[str]] = results.recv()
            except EOFError:
                result = None, []
        process.join()
        if kill.inside and self.answers(kill.victim):
            self.ask(kill.victim, "disarm")
        if result[0] is None and kill.victim != "C":
            raise Finding(f"the coordinator ended by itself ({process.exitcode})")
        if kill.victim == "C" and result[0] is not None and kill.step in result[1]:
            raise Finding("the coordinator outlived its kill")
        return result

    def case(self, first: First, second: Kill) -> list[str]:
        """Runs one case; returns the steps that the resolution after the first kill came to."""
        self.number += 1
        told, _ = self.run(first.kill, self.number, first.refused)
        if told is not None and told.startswith("committed") != first.committed:
            raise Finding(f"the application was told {told!r}")
        self.revive()
        _, steps = self.run(second, None)
        self.revive()
        told, _ = self.run(NOBODY, None)
        if told != (True, True, 0):
            raise Finding(f"the last resolution: done, nothing by hand, decisions left: {told}")
        self.look(first)
        return steps

    def look(self, first: First) -> None:
        import psycopg

        with psycopg.connect(self.postgres.conninfo) as connection:
            row = connection.execute("SELECT v FROM t WHERE k = %s", [self.number]).fetchone()
            left = connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall()
        held = {"P": row is not None} | {name: self.ask(name, "get", b"%d" % self.number) == b"done" for name in "AB"}
        if set(held.values()) != {first.committed}:
            raise Finding(f"it should be {'committed' if first.committed else 'rolled back'} everywhere: {held}")
        for name in "AB":
            prepared, outcomes = self.ask(name, "state")
            if prepared or outcomes:
                raise Finding(f"left at {name}: prepared {prepared}, outcomes {outcomes}")
        if left:
            raise Finding(f"left at P: {left}")
        with enginelib.open(self.folder / "C") as db:
            if Coordinator(db, "drill").decisions():
                raise Finding("decisions are left")

    def cases(self, rng: random.Random, whole: bool) -> Iterator[tuple[First, Kill]]:
        """Runs the table; yields each case that went well. whole: else a few second kills for each first, for ever."""
        while True:
            for first in rng.sample(firsts(), len(firsts())):
                steps = self.checked(first, NOBODY)
                yield first, NOBODY
                more = seconds(steps)
                for second in more if whole else rng.sample(more, min(3, len(more))):
                    self.checked(first, second)
                    yield first, second
            if whole:
                return

    def checked(self, first: First, second: Kill) -> list[str]:
        try:
            return self.case(first, second)
        except Finding as finding:
            raise Finding(f"first {first}; then {second if second.victim else 'nobody'}: {finding}") from None


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, help="so many cases, drawn at random")
    parser.add_argument("--minutes", type=float, help="no longer than this")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", default="/tmp", help="of the databases; memory will do, for only processes are killed")
    parser.add_argument("--table", action="store_true", help="print the first kills and their outcomes, and run nothing")
    args = parser.parse_args(argv)
    if args.table:
        print(table(), end="")
        return 0
    lacking = missing()
    if lacking:
        print(f"cannot run: {lacking}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    began = time.monotonic()
    ran: collections.Counter[First] = collections.Counter()
    found = ""
    try:
        with Drill(args.directory) as drill:
            for first, _ in drill.cases(random.Random(args.seed), whole=args.count is None):
                ran[first] += 1
                if sys.stderr.isatty():
                    print(f"\r{ran.total():,} cases", end="", file=sys.stderr, flush=True)
                if args.count is not None and ran.total() >= args.count:
                    break
                if args.minutes is not None and time.monotonic() - began > args.minutes * 60:
                    break
    except Finding as finding:
        found = str(finding)
    print(f"{'first kill':32} {'outcome':12} cases")
    for first in firsts():
        if ran[first]:
            print(f"{first!s:32} {'committed' if first.committed else 'rolled back':12} {ran[first]:5}")
    print(f"{ran.total():,} cases of {len(ran)} first kills in {time.monotonic() - began:.0f} s: {found or 'one outcome everywhere, nothing left'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
