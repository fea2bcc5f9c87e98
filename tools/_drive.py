"""Builds the core for guided fuzzing and runs libFuzzer over it, one target at a time: the parent of the process in ``_guided.py``.

The core is compiled by clang with AddressSanitizer, UndefinedBehaviorSanitizer and coverage counters into a folder of its own, and Python runs with their
runtime and the guide (``_guide.c`` with libFuzzer) preloaded; the guide comes first, for the sanitizers' runtime has empty functions of the same names.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TARGETS = ("layout", "log", "pages", "tables", "edits")
HERE = Path(__file__).resolve().parent
MOST_DEATHS = 20
LIMITS = ("-timeout=5", "-rss_limit_mb=3000", "-malloc_limit_mb=1700", "-max_len=65536", "-print_final_stats=1")
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0:allocator_may_return_null=1:quarantine_size_mb=32:handle_abort=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}


def runtime(name: str) -> Path | None:
    """A file of clang's runtime."""
    asked = subprocess.run(["clang", "--print-runtime-dir"], capture_output=True, text=True, check=True).stdout.strip()
    stem, suffix = name.rsplit(".", 1)
    for file in (f"{stem}-{platform.machine()}.{suffix}", name):
        if (Path(asked) / file).exists():
            return Path(asked) / file
    return None


def missing() -> str | None:
    """Why guided fuzzing cannot be done here; None when it can."""
    if not sys.platform.startswith("linux"):
        return "guided fuzzing preloads a library: Linux only"
    if shutil.which("clang") is None:
        return "clang is not installed"
    for name in ("libclang_rt.asan.so", "libclang_rt.fuzzer_no_main.a"):
        if runtime(name) is None:
            return f"clang comes without {name}"
    return None


def build(work: Path, only: str = "") -> None:
    """The core and the guide. ``only``: instrument but these modules (see setup.py); the others are those that this process imports."""
    work.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "CC": "clang", "LDSHARED": "clang -shared", "ENGINELIB_BUILD": "fuzz", "ENGINELIB_ONLY": only}
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(work / "lib"), "--build-temp", str(work / "temp")]
    subprocess.run(command, cwd=HERE.parent, env=environment, check=True, stdout=subprocess.DEVNULL)
    if only:
        import enginelib._native.base.status as one

        native = Path(one.__file__).parent.parent
        for module in native.glob("*/*.so"):
            place = work / "lib" / "enginelib" / "_native" / module.relative_to(native)
            if not place.exists():
                shutil.copy(module, place)
    archive = runtime("libclang_rt.fuzzer_no_main.a")
    command = ["clang", "-O1", "-g", "-shared", "-fPIC", str(HERE / "_guide.c"), "-o", str(work / "guide.so")]
    command += ["-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive", "-lstdc++", "-lm", "-lpthread", "-ldl"]
    subprocess.run(command, check=True)


def worker(work: Path, target: str, mode: str, *arguments: str, log: Path) -> tuple[int, str]:
    """Runs ``_guided.py``; its status and standard output."""
    guide = work / "guide.so"
    environment = {
        **os.environ,
        **SANITIZERS,
        "ENGINELIB_GUIDE": str(guide),
        "LD_PRELOAD": f"{guide} {runtime('libclang_rt.asan.so')}",
        "PYTHONPATH": str(work / "lib"),
        "PYTHONMALLOC": "malloc",
        "PYTHONHASHSEED": "0",
    }
    command = [sys.executable, str(HERE / "_guided.py"), target, str(work), mode, *arguments]
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as out:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=out, check=False, text=True)
    return done.returncode, done.stdout


def fuzz(work: Path, target: str, seconds: float, seed: int, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """One target: its numbers and its findings. After the death of a process the next one goes on with the corpus."""
    deadline = time.monotonic() + seconds
    logs, found = work / "log", work / "found" / target
    before = {p.name for p in found.iterdir()} if found.exists() else set()
    code, _ = worker(work, target, "seed", log=logs / f"{target}-seed.log")
    findings = [f"the seeds cannot be made: see {logs}/{target}-seed.log"] if code else []
    result: dict[str, Any] = {"target": target, "runs": 0, "edges": 0, "features": 0, "corpus": 0}
    turn = 0
    while not findings or (turn and turn < MOST_DEATHS):
        left = int(deadline - time.monotonic())
        if left < 1:
            break
        log = logs / f"{target}-{turn}.log"
        code, _ = worker(work, target, "fuzz", f"-max_total_time={left}", f"-seed={seed + turn}", *LIMITS, *arguments, log=log)
        text = log.read_text(errors="replace")
        status = re.findall(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+) corp: (\d+)/", text, re.M)
        if status:
            result["runs"] += int(status[-1][0])
            for name, value in zip(("edges", "features", "corpus"), status[-1][1:], strict=True):
                result[name] = int(value)
        turn += 1
        if code == 0:
            break
        summary = re.findall(r"^SUMMARY: .*|^.*runtime error: .*|^.*ERROR: .*", text, re.M) or [f"the process ended with status {code}"]
        findings.append(f"{summary[0]} ({log})")
    findings += [f"{json.loads(p.read_text())['signature']} ({p})" for p in sorted(found.glob("error-*.json")) if p.name not in before]
    code, leaks = worker(work, target, "leaks", str(max(5.0, seconds / 20)), log=logs / f"{target}-leaks.log")
    kept = json.loads(leaks) if code == 0 else []
    findings += [f"{len(kept)} inputs keep memory, as {name} does: {n} bytes at each run" for name, n in kept[:1]]
    if code:
        findings.append(f"running the corpus again ended with status {code} ({logs}/{target}-leaks.log)")
    return {**result, "findings": findings}


def campaign(targets: Sequence[str], work: Path, minutes: float, seed: int, only: str = "") -> int:
    """All targets; exit status 1 when anything is found."""
    reason = missing()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    build(work, only)
    bad = 0
    for target in targets:
        result = fuzz(work, target, minutes * 60, seed)
        bad += len(result["findings"])
        print("{target}: {runs:,} runs, {edges:,} edges, {features:,} features, {corpus:,} inputs kept".format(**result), flush=True)
        for finding in result["findings"]:
            print(f"  FOUND {finding}", flush=True)
    return 1 if bad else 0
