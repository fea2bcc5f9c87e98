"""The checker of histories, on histories that are known to be good or bad."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from _checker import Entry, History, find_cycle

LEVELS = ("read_committed", "snapshot", "serializable")


def mark(n):
    return b"%08d" % n


def history(*rows, final=None):
    """Rows of (number, reads, writes[, status]); commit timestamps in the order of the rows."""
    entries = []
    state = {}
    for at, (number, reads, writes, *status) in enumerate(rows, 1):
        entry = Entry(number, "any", *(status or ["committed"]), commit_ts=at, reads=list(reads), writes=dict(writes))
        entries.append(entry)
        if entry.status == "committed":
            state.update(writes)
    return History(entries, {k: v for k, v in (state if final is None else final).items() if v is not None})


def verdicts(make):
    """The levels that forbid the history."""
    return tuple(level for level in LEVELS if make().check(level))


X0, X1, X2 = mark(10), mark(11), mark(12)
Y0, Y1, Y2 = mark(20), mark(21), mark(22)
BEGIN = (1, [], {b"px": X0, b"py": Y0})
L1, L2, L3 = mark(1), mark(1) + mark(2), mark(1) + mark(2) + mark(3)

KNOWN = {
    "one after the other": ((BEGIN, (2, [(b"px", X0)], {b"px": X1}), (3, [(b"px", X1)], {})), None, ()),
    "G0: writes of two interleaved": ((BEGIN, (2, [], {b"px": X1, b"py": Y1}), (3, [], {b"px": X2, b"py": Y2})), {b"px": X2, b"py": Y1}, LEVELS),
    "G1a: read of an abort": ((BEGIN, (2, [], {b"px": X1}, "aborted"), (3, [(b"px", X1)], {})), None, LEVELS),
    "G1c: each read the other's": ((BEGIN, (2, [(b"py", Y1)], {b"px": X1}), (3, [(b"px", X1)], {b"py": Y1})), None, LEVELS),
    "lost update of a list": (((1, [], {b"l": L1}), (2, [(b"l", L1)], {b"l": L2}), (3, [(b"l", L1)], {b"l": mark(1) + mark(3)})), None, LEVELS),
    "a list that forks for a reader": (((1, [], {b"l": L1}), (2, [(b"l", L1)], {b"l": L2}), (3, [(b"l", mark(1) + mark(9))], {})), None, LEVELS),
    "an element twice": (((1, [], {b"l": L1}), (2, [(b"l", L1)], {b"l": mark(1) + mark(1)})), None, LEVELS),
    "read skew (G-single)": ((BEGIN, (2, [], {b"px": X1, b"py": Y1}), (3, [(b"px", X0), (b"py", Y1)], {})), None, ("snapshot", "serializable")),
    "write skew (G2)": ((BEGIN, (2, [(b"px", X0), (b"py", Y0)], {b"px": X1}), (3, [(b"px", X0), (b"py", Y0)], {b"py": Y1})), None, ("serializable",)),
    "read-only anomaly": ((BEGIN, (2, [(b"px", X0)], {b"py": Y1}), (3, [], {b"px": X1}), (4, [(b"px", X1), (b"py", Y0)], {})), None, ("serializable",)),
    "long fork": ((BEGIN, (2, [], {b"px": X1}), (3, [], {b"py": Y1}), (4, [(b"px", X1), (b"py", Y0)], {}), (5, [(b"px", X0), (b"py", Y1)], {})),
                  None, ("snapshot", "serializable")),
    "read of what nobody wrote": ((BEGIN, (2, [(b"px", mark(99))], {})), None, LEVELS),
    "an acknowledged write is gone": ((BEGIN, (2, [], {b"px": X1})), {b"px": X0, b"py": Y0}, LEVELS),
    "an acknowledged element is gone": (((1, [], {b"l": L1}), (2, [(b"l", L1)], {b"l": L2})), {b"l": L1}, LEVELS),
    "absent keys read and written across": (((1, [(b"px", None)], {b"py": Y1}), (2, [(b"py", None)], {b"px": X1})), None, ("serializable",)),
    "absent after a deletion: nothing follows": (((1, [], {b"px": X0}), (2, [], {b"px": None}), (3, [(b"px", None)], {})), None, ()),
    "unknown, and seen": ((BEGIN, (2, [], {b"px": X1}, "unknown"), (3, [(b"px", X1)], {})), {b"px": X1, b"py": Y0}, ()),
    "unknown, and not seen": ((BEGIN, (2, [], {b"px": X1}, "unknown")), None, ()),
}


@pytest.mark.parametrize("name", KNOWN)
def test_verdict_of_a_known_history(name):
    rows, final, forbidden = KNOWN[name]
    assert verdicts(lambda: history(*rows, final=final)) == forbidden


def test_intermediate_reads_are_found():
    bad = history(BEGIN, (2, [], {b"px": X2}), (3, [(b"px", X1)], {}))
    bad.entries[2].steps.add((b"px", X1))
    assert any(finding.startswith("G1b") for finding in bad.check("read_committed"))


def test_cycles_are_found_wherever_the_search_begins():
    assert find_cycle({1: {2}, 2: {3}, 3: {4}, 4: {2}}) in ([2, 3, 4], [3, 4, 2], [4, 2, 3])
    assert find_cycle({1: {2, 3}, 2: {4}, 3: {4}}) is None
    assert find_cycle({7: {7}}) == [7]
    assert find_cycle({i: {i + 1} for i in range(100_000)}) is None
