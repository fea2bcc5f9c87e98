"""Kills a leader, its follower, and what carries changes between them, again and again, and looks what the follower shows.

    python tools/follow.py --count 300 --seed 1 [--minutes 10] [--keep DIRECTORY]

The leader is written to all the while, the follower is read. In each round some of the three processes are killed with SIGKILL and begun again. At all times the
follower must show whole transactions, in the leader's commit order, none left out and none applied twice; never an older state than before; and what was
committed before an LSN once it has waited for that. Every few rounds writing pauses, and the follower must come to hold just what the leader holds; the copy is begun anew,
and killed while it is being made; and the follower is promoted, after which it must refuse all that the old leader still sends. Exit status 1 when anything is found.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from _following import OPTIONS

import enginelib
from enginelib.replication import Follower, codec
from enginelib.replication.follower import POSITION
from enginelib.replication.unix import Leader

PATIENCE = 90.0


class Finding(Exception):
    """A promise was broken."""


class Process:
    """One of the three, and the lines that it says."""

    def __init__(self, *words: object) -> None:
        self.role = str(words[0])
        self.popen = subprocess.Popen(
            [sys.executable, str(HERE / "_following.py"), *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.popen.stdout is not None
        os.set_blocking(self.popen.stdout.fileno(), False)
        self.data = b""
        self.asked = False

    def lines(self) -> list[list[str]]:
        """The whole lines that have come since."""
        assert self.popen.stdout is not None
        while piece := self.popen.stdout.read(1 << 16):
            self.data += piece
        *whole, self.data = self.data.split(b"\n")
        return [line.decode().split() for line in whole]

    def tell(self, *words: object) -> None:
        """Says a line to it."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(" ".join(map(str, words)).encode() + b"\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            self.check()

    def check(self) -> None:
        """It is to live until it is killed."""
        if self.popen.poll() is not None:
            assert self.popen.stderr is not None
            raise Finding(f"{self.role} ended by itself ({self.popen.returncode}): {self.popen.stderr.read().decode()[-2000:]}")

    def kill(self) -> list[list[str]]:
        """Kills it; the lines that were still to be read."""
        self.check()
        return self.end()

    def end(self) -> list[list[str]]:
        """Kills it, whether it lives or not."""
        self.popen.kill()
        self.popen.wait()
        rest = self.lines()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return rest


class Campaign:
    """The three processes, and what is known of them."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.rng = random.Random(seed)
        self.words: dict[str, Any] = {
            "lead": lambda: ("lead", directory / "leader", directory / "l", self.rng.randrange(1 << 30)),
            "relay": lambda: ("relay", directory / "r", directory / "l"),
            "follow": lambda: ("follow", directory / "follower", directory / "r"),
        }
        self.processes: dict[str, Process] = {}
        self.up: set[str] = set()
        self.made: list[tuple[int, int, int]] = []  # (sequence, writer, number), of what was acknowledged
        self.waited = self.floor = 0  # the newest sequence that the follower has waited for: no kill takes that back
        self.paused: int | None = None
        self.kills = self.reads = self.waits = self.settled = self.copies = self.drills = 0
        self.newest = 0
        for role in self.words:
            self.start(role)

    def start(self, role: str) -> None:
        """Begins a process that is not there."""
        self.processes[role] = Process(*self.words[role]())
        self.up.discard(role)

    def kill(self, role: str) -> None:
        """Ends one; what it has said counts."""
        self.take(role, self.processes.pop(role).kill())
        self.kills += 1
        if role == "follow":
            self.floor = self.waited

    def take(self, role: str, lines: list[list[str]]) -> None:
        """Takes in what a process said."""
        for kind, *words in lines:
            values = list(map(int, words))
            if kind == "up":
                self.up.add(role)
            elif kind == "a":
                self.made.append((values[2], values[0], values[1]))
            elif kind == "l":
                self.ask(values[1], values[0])
            elif kind == "paused":
                self.paused = values[0]
            elif kind == "r":
                self.reads += 1
                self.seen(values[0], values[1:])
            else:
                asked, shown, *numbers = values
                if role in self.processes:
                    self.processes[role].asked = False
                if role in self.processes:
                    self.processes[role].asked = False
                self.waits += 1
                if shown < asked:
                    raise Finding(f"the follower has waited for sequence {asked} and shows {shown}")
                self.seen(shown, numbers)
                self.waited = max(self.waited, asked)

    def ask(self, lsn: int, sequence: int) -> None:
        """Lets the follower wait for a commit, when it does not wait already."""
        follower = self.processes.get("follow")
        if follower is not None and "follow" in self.up and not follower.asked:
            follower.asked = True
            follower.tell("w", lsn, sequence)

    def seen(self, sequence: int, numbers: list[int]) -> None:
        """A snapshot of the follower holds what was committed up to its sequence, and nothing that came later."""
        self.newest = max(self.newest, sequence)
        if sequence < self.floor:
            raise Finding(f"the follower shows sequence {sequence}; it has shown {self.floor} before, and waited for it")
        for made, writer, number in self.made:
            if (made <= sequence) != (number <= numbers[writer]):
                raise Finding(f"a snapshot of sequence {sequence} shows {numbers}; transaction {number} of writer {writer} has sequence {made}")

    def wait(self, seconds: float) -> None:
        """Takes in what is said for so long; a look at everyone's health."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            pipes = {process.popen.stdout: role for role, process in self.processes.items()}
            for pipe in select.select(list(pipes), [], [], max(0.0, left))[0]:
                role = pipes[pipe]
                lines = self.processes[role].lines()
                self.take(role, lines)
                if not lines:
                    self.processes[role].check()
            if left <= 0:
                break
        low = min((each[0] for each in self.made[-400:]), default=0)
        self.made = [each for each in self.made if each[0] >= low]

    def until(self, what: str, condition: Any) -> None:
        """Takes in what is said until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise Finding(f"{what}: not within {PATIENCE} seconds")
            self.wait(0.02)

    def round(self, number: int) -> None:
        """Some are killed and begun again."""
        roles = list(self.words)
        if self.rng.random() < 0.7:
            self.until("all are up", lambda: self.up == set(roles))
        self.wait(self.rng.uniform(0.0, 0.4))
        victims = [role for role in roles if self.rng.random() < 0.4] or [self.rng.choice(roles)]
        self.rng.shuffle(victims)
        for role in victims:
            self.kill(role)
        if self.rng.random() < 0.3:
            self.wait(self.rng.uniform(0.0, 0.2))
        if number % 10 == 5 and "follow" in victims:
            shutil.rmtree(self.directory / "follower", ignore_errors=True)
            self.copies += 1
            self.waited = self.floor = 0
        for role in sorted(victims, key=lambda _: self.rng.random()):
            self.start(role)
        if number % 10 == 9:
            self.settle()

    def settle(self) -> None:
        """Writing pauses: the follower comes to hold what the leader holds. Then it is promoted, in a copy, while the leader goes on."""
        self.until("all are up", lambda: self.up == set(self.words))
        self.paused = None
        self.processes["lead"].tell("pause")
        self.until("the leader is at rest", lambda: self.paused is not None)
        wanted = self.paused
        assert wanted is not None
        self.until(f"the follower shows sequence {wanted}", lambda: self.newest >= wanted)
        for role in ("follow", "lead", "relay"):
            self.kill(role)
        with enginelib.open(self.directory / "leader", **OPTIONS) as leader, enginelib.open(self.directory / "follower", **OPTIONS) as follower:
            held = {name: rows for name, rows in contents(follower).items() if name != POSITION}
            if held != contents(leader):
                raise Finding("at rest the follower does not hold what the leader holds")
            for db in (leader, follower):
                if not (report := db.verify()).ok:
                    raise Finding(f"verify: {report.findings[:3]}")
            mine = f"follower-{follower.database_id.hex()}"
            if mine not in (names := [slot.name for slot in leader.slots()]):
                raise Finding(f"the leader has slots {names}, not {mine}")
            for name in names:
                if name != mine:
                    leader.drop_slot(name)  # of followers that were thrown away
        self.settled += 1
        for role in self.words:
            self.start(role)
        self.until("all are up", lambda: self.up == set(self.words))
        self.kill("follow")
        self.promote(held)
        self.start("follow")

    def promote(self, held: dict[str, dict[bytes, bytes]]) -> None:
        """A copy of the follower becomes a leader; of the old one, which does not know, nothing is accepted."""
        path = self.directory / "promoted"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.directory / "follower", path)
        with Follower(path, (), **OPTIONS) as follower:
            follower.promote()["pages"][b"of the new leader"] = b"1"
            held = contents(follower.database)
        changes: list[enginelib.replication.Change] = []
        deadline = time.monotonic() + PATIENCE
        with Leader(self.directory / "l").connect("probe", None, 0) as connection:
            connection.greet()
            for _ in connection.parts():
                pass
            while not changes:
                if time.monotonic() > deadline:
                    raise Finding("the old leader commits nothing")
                changes = connection.next_many(10, 0.1)
        frames = [codec.encode(change) for change in changes]
        for source in (Leader(self.directory / "l"), frames):
            with Follower(path, source, **OPTIONS) as follower:
                try:
                    follower.wait_for(sequence=1 << 60, timeout=PATIENCE)
                    raise Finding(f"nothing keeps the promoted follower from following {source!r:.60}")
                except enginelib.FencedError:
                    pass
                if contents(follower.database) != held:
                    raise Finding("something of the old leader was accepted")
        self.drills += 1

    def end(self) -> None:
        """Kills what is left."""
        for process in self.processes.values():
            process.end()


def contents(db: enginelib.Database) -> dict[str, dict[bytes, bytes]]:
    """Everything."""
    return {name: dict(db[name].scan()) for name in db.keyspaces()}


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10, help="rounds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0, help="end after so long; 0: when the rounds are done")
    parser.add_argument("--keep", help="directory to use, and to leave behind; its path must be short, for the sockets")
    args = parser.parse_args(argv)
    directory = Path(args.keep or tempfile.mkdtemp(prefix="enginelib-follow-"))
    started = time.monotonic()
    campaign = Campaign(directory, args.seed)
    found, done = "", 0
    try:
        for number in range(args.count):
            campaign.round(number)
            done += 1
            if args.minutes and time.monotonic() - started > 60 * args.minutes:
                break
        campaign.settle()
    except (Finding, enginelib.Error) as error:
        found = f"round {done}: {type(error).__name__}: {error}"
    finally:
        campaign.end()
    print(
        f"{done} rounds, {campaign.kills} kills, {campaign.copies} copies begun anew, {campaign.reads:,} snapshots and {campaign.waits:,} waits looked at, {campaign.settled} times "
        f"compared, {campaign.drills} promotions, up to sequence {campaign.newest:,}, in {time.monotonic() - started:.0f} s: {found or 'nothing lost, nothing partial, nothing twice'}"
    )
    if found:
        print(f"kept: {directory}\nagain: python tools/follow.py --count {args.count} --seed {args.seed}")
    elif not args.keep:
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
