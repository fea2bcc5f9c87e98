"""Explores what a crash may leave of a database, on the fault-injecting file system.

    python tools/crash.py --states 1000000 --seed 1 [--minutes 60] [--jobs 2] [--json]
    python tools/crash.py --seed 1 --only 12:0:345:power:2        # one state again, as a failure names it

A workload is drawn from the seed and recorded once. Then it is cut at every change of the file system: the process
killed, the power lost (with three drawings of what had reached the medium), and everything unsynced lost. Each
image is opened and must hold exactly a prefix of the commits, in commit order, with all that was acknowledged at
its durability; ``verify`` must be clean. Some are crashed again while they recover, some are worked with, and each
workload goes on from some of its own crashes. Exit status 1 when anything is found.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _explore import Explorer, Failure, Place
from _faults import Fault, Faults

STUCK = 30.0  # seconds without a new state, after which a process is taken to hang


def work(job: int, jobs: int, args: argparse.Namespace, where: Any, counts: Any, results: Any) -> None:
    """One process: every ``jobs``-th workload."""
    faulthandler.enable()
    share = (args.states + jobs - 1) // jobs

    def tell(place: str) -> None:
        where[job].value = place.encode()
        counts[job] = explorer.states

    deadline = time.monotonic() + args.minutes * 60 if args.minutes else None

    def enough() -> bool:
        return explorer.states >= share or (deadline is not None and time.monotonic() > deadline)

    explorer = Faults(args.seed, tell) if args.faults else Explorer(args.seed, tell)
    workload = args.first + job
    workloads = 0
    while not enough() and len(explorer.failures) < args.failures:
        where[job].value = f"{workload}:full:-1".encode() if args.faults else f"{workload}:0:-1:run:0".encode()
        explorer.explore(workload, enough)
        workload += jobs
        workloads += 1
    twice, cuts = (0, explorer.runs) if args.faults else (explorer.twice, explorer.cuts)
    results.put((job, explorer.states, twice, cuts, workloads, [asdict(f) for f in explorer.failures]))


def campaign(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the jobs, and notices the one that dies or hangs."""
    context = multiprocessing.get_context("fork")
    where = [context.Array("c", 120) for _ in range(args.jobs)]
    counts = context.Array("q", args.jobs)
    results = context.Queue()
    started = time.monotonic()
    jobs = [context.Process(target=work, args=(j, args.jobs, args, where, counts, results)) for j in range(args.jobs)]
    for job in jobs:
        job.start()
    total = {"states": 0, "twice": 0, "cuts": 0, "workloads": 0, "failures": []}
    waiting = set(range(args.jobs))
    progress = [(0, started)] * args.jobs
    while waiting:
        while not results.empty():
            job, states, twice, cuts, workloads, failures = results.get()
            waiting.discard(job)
            for name, n in (("states", states), ("twice", twice), ("cuts", cuts), ("workloads", workloads)):
                total[name] += n
            total["failures"] += failures
        now = time.monotonic()
        for j in list(waiting):
            if counts[j] != progress[j][0]:
                progress[j] = (counts[j], now)
            code = jobs[j].exitcode
            if (code is not None and results.empty()) or now - progress[j][1] > STUCK:
                time.sleep(0.2)
                if not results.empty():
                    continue
                what = "hangs" if code is None else f"died with status {code}"
                if code is None:
                    jobs[j].kill()
                total["failures"].append(asdict(Failure(where[j].value.decode(), f"the process {what}", [])))
                total["states"] += counts[j]
                waiting.discard(j)
        time.sleep(0.05)
    for job in jobs:
        job.join()
    total["seconds"] = round(time.monotonic() - started, 1)
    return total


def report(total: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints what came of it."""
    if args.json:
        print(json.dumps(total))
        return
    rate = total["states"] / total["seconds"] if total["seconds"] else 0
    if args.faults:
        print(
            f"{total['cuts']:,} failures in {total['workloads']:,} workloads, {total['states']:,} crash states after them, "
            f"in {total['seconds']} s; {len(total['failures'])} findings"
        )
    else:
        print(
            f"{total['states']:,} crash states ({total['twice']:,} of them a second crash, in recovery) at {total['cuts']:,} "
            f"cuts of {total['workloads']:,} workloads in {total['seconds']} s: {rate:,.0f} a second; "
            f"{len(total['failures'])} findings"
        )
    for failure in total["failures"]:
        print(f"\nFOUND at {failure['place']}\n{failure['what']}")
        faults = " --faults" if args.faults else ""
        print(f"again: python tools/crash.py{faults} --seed {args.seed} --only {failure['place']}")
        for line in failure["trace"]:
            print("   ", line)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--states", type=int, default=5000, help="crash states to explore, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--first", type=int, default=0, help="number of the first workload")
    parser.add_argument("--failures", type=int, default=3, help="findings after which a process stops")
    parser.add_argument("--only", help="one state again: workload:life:cut:mode:seed[:cut2:mode2:seed2]")
    parser.add_argument("--faults", action="store_true", help="failing calls and full disks in place of crashes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.only:
        faulthandler.enable()
        explorer = Faults(args.seed) if args.faults else Explorer(args.seed)
        started = time.monotonic()
        explorer.again(Fault.parse(args.only) if args.faults else Place.parse(args.only))
        total = {
            "states": explorer.states,
            "twice": 0 if args.faults else explorer.twice,
            "cuts": 1,
            "workloads": 1,
            "failures": [asdict(f) for f in explorer.failures],
            "seconds": round(time.monotonic() - started, 1),
        }
    else:
        total = campaign(args)
    report(total, args)
    return 1 if total["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
