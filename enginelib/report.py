"""What ``Database.verify()`` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class VerifyReport:
    """The verdict of a check of the whole database.

    Attributes:
        findings: what is wrong, each a dict of plain values that says where; empty when all is well.
        counts: what was looked at: how many pages, keys, log records and so on.
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
        looked_at = ", ".join(
            f"{number(count)} {name.replace('_', ' ')}" for name, count in self.counts.items()
        )
        if self.ok:
            return f"ok: nothing wrong in {looked_at or 'an empty database'}"
        lines = [f"{len(self.findings)} finding{'s' * (len(self.findings) > 1)} in {looked_at}:"]
        lines += [f"  {describe(finding)}" for finding in self.findings]
        return "\n".join(lines)


def describe(finding: dict[str, Any]) -> str:
    """Writes a finding on one line: its text first, then the rest as ``name=value``."""
    rest = [f"{name}={value}" for name, value in finding.items() if name != "text" and value is not None]
    text = str(finding.get("text", ""))
    return f"{text} ({', '.join(rest)})" if text and rest else text or ", ".join(rest)


def number(value: object) -> str:
    """Writes a number with separators; anything else as it is."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
