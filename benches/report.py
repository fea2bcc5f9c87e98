"""Medians, verdicts, and how they are shown."""

from __future__ import annotations

import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benches.peers import PEERS, Enginelib
from benches.workloads import Bound, Figures, Row

OURS = Enginelib.name


@dataclass
class Outcome:
    """What one row's rounds gave, store by store."""

    row: Row
    figures: dict[str, list[Figures]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, store: str, figure: str = "rate") -> float | None:
        found = [figures[figure] for figures in self.figures.get(store, [])]
        return statistics.median(found) if found else None

    def best(self, names: tuple[str, ...]) -> str | None:
        """The store to beat: the fastest (or smallest) of ``names`` that was measured."""
        rates = {name: rate for name in names if (rate := self.median(name)) is not None}
        if not rates:
            return None
        return min(rates, key=rates.__getitem__) if self.row.less else max(rates, key=rates.__getitem__)

    def verdict(self, bound: Bound) -> Verdict | None:
        ours = self.median(OURS)
        against = None if bound.figure is not None else self.best(bound.of)
        theirs = bound.figure if against is None else self.median(against)
        return (
            None if ours is None or theirs is None else Verdict(bound, against, ours / theirs, self.row)
        )

    def verdicts(self) -> list[Verdict]:
        return [verdict for bound in self.row.bounds if (verdict := self.verdict(bound)) is not None]


@dataclass(frozen=True)
class Verdict:
    bound: Bound
    against: str | None  # None: the bound's own figure
    ratio: float
    row: Row

    @property
    def less(self) -> bool:
        return self.row.less

    @property
    def met(self) -> bool:
        return self.ratio <= self.bound.ratio if self.less else self.ratio >= self.bound.ratio

    @property
    def reference(self) -> str:
        return self.against or number(self.bound.figure or 0.0, self.row.unit)

    @property
    def needed(self) -> str:
        return f"{'at most' if self.less else 'at least'} {self.bound.ratio:.2f} x {self.reference}"

    @property
    def outcome(self) -> str:
        return "met" if self.met else f"missed by {abs(self.ratio / self.bound.ratio - 1):.1%}"

    def __str__(self) -> str:
        return f"{self.ratio:.2f} x {self.reference} ({self.needed}): {self.outcome}"


def number(value: float, unit: str = "/s") -> str:
    for factor, letter in ((1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {letter}{unit.strip()}".strip()
    return f"{value:.3g} {unit.strip()}".strip()


def details(outcome: Outcome, store: str) -> str:
    """The figures beside the rate, and how far the rounds were apart."""
    rounds = outcome.figures[store]
    parts = [
        f"{name} {number(outcome.median(store, name) or 0.0, '')}" for name in rounds[0] if name != "rate"
    ]
    rates = [figures["rate"] for figures in rounds]
    if len(rates) > 1:
        parts.append(f"{number(min(rates), '')} to {number(max(rates), '')}")
    return ", ".join(parts)


def text(outcome: Outcome) -> str:
    row = outcome.row
    lines = [f"{row.title}  [{row.key}]"]
    order = sorted(outcome.figures, key=lambda name: outcome.median(name) or 0.0, reverse=not row.less)
    for name in order:
        lines.append(
            f"    {name:<11} {number(outcome.median(name) or 0.0, row.unit):>11}   {details(outcome, name)}"
        )
    lines += [f"    {name:<11} failed: {reason}" for name, reason in outcome.failures.items()]
    lines += [f"  {verdict}" for verdict in outcome.verdicts()]
    return "\n".join(lines)


def markdown(outcomes: list[Outcome], about: dict[str, Any]) -> str:
    lines = [
        f"{about['keys']:,} keys, medians of {about['rounds']}; {about['machine']}.",
        "",
        "| work | enginelib | the best of the others | ratio | asked | |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    for outcome in outcomes:
        row = outcome.row
        ours = outcome.median(OURS)
        shown = "" if ours is None else number(ours, row.unit)
        best = outcome.best(PEERS)
        theirs = "" if best is None else f"{best} {number(outcome.median(best) or 0.0, row.unit)}"
        verdicts = outcome.verdicts()
        if not verdicts:
            lines.append(f"| {row.title} | {shown} | {theirs} | | | |")
        for index, verdict in enumerate(verdicts):
            first = f"{row.title} | {shown} | {theirs}" if index == 0 else " | | "
            lines.append(f"| {first} | {verdict.ratio:.2f} | {verdict.needed} | {verdict.outcome} |")
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.figures))
    lines += ["", f"| | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for outcome in outcomes:
        cells = [
            "" if (rate := outcome.median(name)) is None else number(rate, outcome.row.unit) for name in names
        ]
        lines.append(f"| {outcome.row.key} | {' | '.join(cells)} |")
    lines += ["", *(f"* {name}: {version}" for name, version in about["versions"].items())]
    lines += [f"* {name} is missing: {reason}" for name, reason in about["missing"].items()]
    return "\n".join(lines) + "\n"


def as_json(outcomes: list[Outcome], about: dict[str, Any]) -> dict[str, Any]:
    rows = {
        outcome.row.key: {
            "title": outcome.row.title,
            "medians": {name: outcome.median(name) for name in outcome.figures},
            "rounds": outcome.figures,
            "failures": outcome.failures,
            "bounds": [
                {"ratio": v.ratio, "needed": v.bound.ratio, "against": v.reference, "met": v.met}
                for v in outcome.verdicts()
            ],
        }
        for outcome in outcomes
    }
    return {**about, "rows": rows}


def machine() -> str:
    """Processor, cores, memory, kernel and interpreter."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return (
        f"{model}, {os.cpu_count()} cores, {memory} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )
