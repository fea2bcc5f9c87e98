"""Checks histories of transactions for what an isolation level forbids.

Every write carries a value that no other write carries, so that a read tells whose version it saw. The order of the versions of a key is taken from lists that
only grow (each value holds those before it), and for plain values from the commit timestamps. From both a graph of dependencies is built (Adya, *Weak Consistency*,
1999): ww from the writer of a version to the writer of the next, wr from the writer to who read it, rw from who read a version to the writer of the next.

| level | forbidden |
| --- | --- |
| read_committed | reads of what was not committed (G1a) or not final (G1b); a cycle of ww and wr (G1c) |
| snapshot | a cycle in which no two rw edges follow each other (Cerone and Gotsman, *Analysing Snapshot Isolation*, 2018) |
| serializable, locking, serial | any cycle |

A key that is absent may never have been, or may have been deleted: where both can be, the read says nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

ID = 8  # bytes of what a write adds to a list, and of a plain value


@dataclass(slots=True)
class Entry:
    """A transaction of a history.

    reads: (key, value or None) in order, before its own writes to the key.
    writes: key -> value or None, the last of each; `steps`: the values before the last.
    status: "committed", "aborted", or "unknown" (a crash came between).
    """

    number: int
    level: str
    status: str = "active"
    commit_ts: int = 0
    reason: str = ""
    reads: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    writes: dict[bytes, bytes | None] = field(default_factory=dict)
    steps: set[tuple[bytes, bytes]] = field(default_factory=set)


@dataclass(slots=True)
class Graph:
    """Dependencies between committed transactions, as sets of successors by number."""

    ww: dict[int, set[int]]
    wr: dict[int, set[int]]
    rw: dict[int, set[int]]


def is_list(key: bytes) -> bool:
    return key.startswith(b"l")


def mark_of(key: bytes, value: bytes) -> bytes:
    """What is a write's own in a value."""
    return value[-ID:]


class History:
    """The entries of one run over keys that were absent at its start.

    final: the records at its end.
    """

    def __init__(self, entries: Iterable[Entry], final: dict[bytes, bytes]) -> None:
        self.entries = {entry.number: entry for entry in entries}
        self.final = final
        self.findings: list[str] = []
        self.writers: dict[tuple[bytes, bytes], int] = {}
        self.orders: dict[bytes, list[tuple[bytes | None, int]]] = {}

    def check(self, level: str) -> list[str]:
        """Returns what is wrong with it, a line each."""
        self._settle_unknown()
        self._find_writers()
        self._order_versions()
        graph = self.graph()
        if level == "read_committed":
            cycle = find_cycle(union(graph.ww, graph.wr))
        elif level == "snapshot":
            cycle = find_cycle(without_two_rw(graph))
        else:
            cycle = find_cycle(union(graph.ww, graph.wr, graph.rw))
        if cycle:
            self.findings.append(f"a cycle that {level} forbids: " + self.explain(cycle, graph))
        return self.findings

    def committed(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.status == "committed"]

    def _settle_unknown(self) -> None:
        """A transaction that a crash met in its commit did commit if anything of it is to be seen."""
        seen = {(key, mark_of(key, value)) for key, value in self.final.items()}
        for entry in self.entries.values():
            if entry.status == "committed":
                seen |= {(key, mark_of(key, value)) for key, value in entry.reads if value}
        for key, value in self.final.items():
            if is_list(key):
                seen |= {(key, value[i : i + ID]) for i in range(0, len(value), ID)}
        for entry in self.entries.values():
            if entry.status == "unknown":
                there = any(value and (key, mark_of(key, value)) in seen for key, value in entry.writes.items())
                entry.status = "committed" if there else "aborted"

    def _find_writers(self) -> None:
        for entry in self.entries.values():
            for key, value in entry.writes.items():
                if value is not None:
                    self.writers[key, mark_of(key, value)] = entry.number
            for key, value in entry.steps:
                self.writers[key, mark_of(key, value)] = entry.number
        for entry in self.committed():
            for key, value in entry.reads:
                if value is None:
                    continue
                number = self.writers.get((key, mark_of(key, value)))
                if number is None:
                    self.findings.append(f"{entry.number} read {key!r} = {value.hex()}, which nobody wrote")
                    continue
                writer = self.entries[number]
                if writer.status != "committed":
                    self.findings.append(f"G1a: {entry.number} read what {number} wrote to {key!r}, which did not commit")
                elif writer.writes.get(key) != value and number != entry.number:
                    self.findings.append(f"G1b: {entry.number} read what {number} wrote to {key!r} and replaced")

    def _order_versions(self) -> None:
        by_key: dict[bytes, list[Entry]] = defaultdict(list)
        for entry in self.committed():
            for key in entry.writes:
                by_key[key].append(entry)
        for key, writers in by_key.items():
            if is_list(key):
                self.orders[key] = self._list_order(key, writers)
            else:
                order = [(entry.writes[key], entry.number) for entry in sorted(writers, key=lambda each: each.commit_ts)]
                self.orders[key] = order
                if self.final.get(key) != order[-1][0]:
                    self.findings.append(f"the last value of {key!r} is not what the last to commit wrote, {order[-1][1]}")

    def _list_order(self, key: bytes, writers: list[Entry]) -> list[tuple[bytes | None, int]]:
        final = self.final.get(key, b"")
        marks = [final[i : i + ID] for i in range(0, len(final), ID)]
        if len(set(marks)) != len(marks):
            self.findings.append(f"an element is twice in {key!r}")
        places = {mark: i for i, mark in enumerate(marks)}
        order = []
        for entry in writers:
            value = entry.writes[key] or b""
            if mark_of(key, value) not in places:
                self.findings.append(f"lost: what {entry.number} added to {key!r} is not in its last value")
            elif not final.startswith(value):
                self.findings.append(f"what {entry.number} wrote to {key!r} is not how its last value begins")
            else:
                order.append((value, entry.number))
        for entry in self.committed():
            for read, value in entry.reads:
                if read == key and value is not None and not final.startswith(value):
                    self.findings.append(f"{entry.number} read a list {key!r} that its last value does not begin with")
        return sorted(order, key=lambda each: len(each[0] or b""))

    def graph(self) -> Graph:
        """The dependencies between its committed transactions."""
        graph = Graph(defaultdict(set), defaultdict(set), defaultdict(set))
        following: dict[tuple[bytes, int], int] = {}  # (key, writer) -> who wrote the next version
        for key, order in self.orders.items():
            for (_, one), (_, next_one) in pairwise(order):
                graph.ww[one].add(next_one)
                following[key, one] = next_one
        for entry in self.committed():
            for key, value in entry.reads:
                order = self.orders.get(key, [])
                writer: int | None
                if value is not None:
                    writer = self.writers.get((key, mark_of(key, value)))
                    if writer is None or self.entries[writer].status != "committed":
                        continue
                    if writer != entry.number:
                        graph.wr[writer].add(entry.number)
                    after = following.get((key, writer))
                elif any(version is None for version, _ in order):
                    continue  # never there, or deleted: which is not known
                else:
                    after = order[0][1] if order else None
                if after is not None and after != entry.number:
                    graph.rw[entry.number].add(after)
        return graph

    def explain(self, cycle: list[int], graph: Graph) -> str:
        parts = []
        for one, other in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            kinds = [name for name in ("ww", "wr", "rw") if other in getattr(graph, name).get(one, ())]
            parts.append(f"{one} -{'/'.join(kinds) or 'rw after another'}-> {other}")
        return ", ".join(parts)


def union(*relations: dict[int, set[int]]) -> dict[int, set[int]]:
    result: dict[int, set[int]] = defaultdict(set)
    for relation in relations:
        for one, others in relation.items():
            result[one] |= others
    return result


def without_two_rw(graph: Graph) -> dict[int, set[int]]:
    """Edges for (ww or wr), then perhaps one rw: a cycle of these is a cycle in which no two rw edges follow each other."""
    plain = union(graph.ww, graph.wr)
    result: dict[int, set[int]] = defaultdict(set)
    for one, others in plain.items():
        result[one] |= others
        for other in others:
            result[one] |= graph.rw.get(other, set())
    return result


def find_cycle(edges: dict[int, set[int]]) -> list[int] | None:
    """Returns the nodes of a cycle, in order, or None: by depth-first search without recursion."""
    state: dict[int, int] = {}
    for root in list(edges):
        if root in state:
            continue
        path: list[int] = []
        stack: list[tuple[int, Any]] = [(root, iter(edges.get(root, ())))]
        state[root] = 1
        path.append(root)
        while stack:
            node, rest = stack[-1]
            for other in rest:
                if state.get(other) == 1:
                    return path[path.index(other) :]
                if other not in state:
                    state[other] = 1
                    path.append(other)
                    stack.append((other, iter(edges.get(other, ()))))
                    break
            else:
                state[node] = 2
                path.pop()
                stack.pop()
    return None
