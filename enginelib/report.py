"""What ``Database.verify()`` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class VerifyReport:
    """The verdict of a check of the whole database.

    Attributes:
        findings: what is wrong, each a dict of plain values with ``what`` and where; empty when all is well.
        counts: what was looked at: ``keyspaces`` with figures of each tree, and ``log_records``.
        seconds: how long it took.
    """

    findings: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as plain values, ready for JSON."""
        return {"ok": self.ok, "findings": self.findings, "counts": self.counts, "seconds": self.seconds}

    def __str__(self) -> str:
        if self.ok:
            return f"ok: nothing wrong in {looked_at(self.counts)}"
        lines = [f"{len(self.findings)} finding{'s' * (len(self.findings) > 1)} in {looked_at(self.counts)}:"]
        lines += [f"  {describe(finding)}" for finding in self.findings]
        return "\n".join(lines)


def looked_at(counts: dict[str, Any]) -> str:
    """Writes on one line what was looked at: trees, their keys and pages, log records."""
    trees = counts.get("keyspaces", {}).values()
    keys = sum(tree.get("keys", 0) for tree in trees)
    pages = sum(sum(tree.get("pages", ())) for tree in trees)
    return f"{len(trees)} trees, {keys:,} keys, {pages:,} pages, {counts.get('log_records', 0):,} log records"


def describe(finding: dict[str, Any]) -> str:
    """Writes a finding on one line: what it is first, then the rest as ``name=value``."""
    rest = [f"{name}={value}" for name, value in finding.items() if name != "what" and value is not None]
    what = str(finding.get("what", "something is wrong"))
    return f"{what} ({', '.join(rest)})" if rest else what
