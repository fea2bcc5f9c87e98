"""The anomalies of the literature as scripts, and at which level each can happen.

Names after Adya, Liskov and O'Neil, *Generalized Isolation Level Definitions* (ICDE 2000), Berenson and others, *A Critique of ANSI SQL Isolation Levels* (SIGMOD 1995),
Bailis and others, *Highly Available Transactions* (VLDB 2013), and Fekete, O'Neil and O'Neil, *A Read-Only Transaction Anomaly under Snapshot Isolation* (SIGMOD Record 2004).
"""

from typing import NamedTuple

from enginelib.predicates import Value

LEVELS = ("read_committed", "snapshot", "serializable", "locking", "serial")
NOWHERE = frozenset()
WEAKEST = frozenset({"read_committed"})
WEAK = frozenset({"read_committed", "snapshot"})


class Anomaly(NamedTuple):
    """script: see interleave; setup: the records before; possible: the levels at which some order of the steps gives what no serial order gives."""

    name: str
    script: tuple
    setup: dict
    possible: frozenset


def get(*keys):
    return lambda a: [a.get(key) for key in keys]


def put(key, value):
    return lambda a: a.put(key, value)


def delete(key):
    return lambda a: a.delete(key)


def scan(start=None, stop=None, **how):
    return lambda a: a.scan(start, stop, **how)


def lock(key):
    return lambda a: a.lock(key)


def abort(a):
    a.abort()


def grow(key):
    """Read and write one step apart: what was read last, and a mark."""
    return lambda a: a.put(key, (a.seen[-1] or b"") + b"+")


def put_if(condition, key, value):
    return lambda a: a.put(key, value) if condition(a.seen) else None


def off_call(key):
    """A doctor goes off call while two are on it."""
    return put_if(lambda seen: seen[-1] == b"on" and seen[-2] == b"on", key, b"off")


def claim(key, value):
    """Inserts where a scan has found nothing."""
    return put_if(lambda seen: not seen[-1], key, value)


def raise_all(a):
    for key, value in a.seen[-1]:
        a.put(key, b"%d" % (int(value) + 10))


def delete_twenty(a):
    for key, value in a.seen[-1]:
        if value == b"20":
            a.delete(key)


def predicate_skew(name, one, other, **how):
    """Two sessions that each look for open rooms, and change what the other's look has rested on."""
    return Anomaly(name, ((scan(where=OPEN, **how), one), (scan(where=OPEN, **how), other)), DOORS, WEAK)


XY = {b"x": b"0", b"y": b"0"}
OPEN = Value[0:4] == b"open"
DOORS = {b"a": b"open", b"b": b"shut", b"c": b"open", b"d": b"shut"}
ROOM = {b"a": b"0", b"c": b"0", b"e": b"0"}


def phantom(name, change, start, stop, setup=ROOM, **how):
    """A range read twice, with one change between; the second session also copies what it found, so that a scan that changes is seen in both."""
    return Anomaly(name, ((scan(start, stop, **how), scan(start, stop, **how)), (change,)), setup, WEAKEST)


def range_skew(name, start, stop, one, other, setup=ROOM):
    """Two sessions that read a range, and each insert into it what the other's read did not show."""
    return Anomaly(name, ((scan(start, stop), claim_in(one)), (scan(start, stop), claim_in(other))), setup, WEAK)


def claim_in(key):
    return lambda a: a.put(key, b"%d" % len(a.seen[-1]))


ANOMALIES = (
    Anomaly("dirty write (G0)", ((put(b"x", b"1"), put(b"y", b"1")), (put(b"x", b"2"), put(b"y", b"2"))), XY, NOWHERE),
    Anomaly("dirty read", ((put(b"x", b"1"), put(b"y", b"1")), (get(b"x", b"y"),)), XY, NOWHERE),
    Anomaly("aborted read (G1a)", ((put(b"x", b"1"), abort), (get(b"x"), get(b"x"))), XY, NOWHERE),
    Anomaly("intermediate read (G1b)", ((put(b"x", b"1"), put(b"x", b"2")), (get(b"x"),)), XY, NOWHERE),
    Anomaly("circular information flow (G1c)", ((put(b"x", b"1"), get(b"y")), (put(b"y", b"2"), get(b"x"))), XY, WEAK),
    Anomaly("observed transaction vanishes (OTV)", ((put(b"x", b"1"), put(b"y", b"1")), (put(b"x", b"2"), put(b"y", b"2")), (get(b"x"), get(b"y"))), XY, WEAKEST),
    Anomaly("predicate-many-preceders, reading (PMP)", ((scan(), scan(b"m")), (put(b"n", b"1"),)), XY, WEAKEST),
    Anomaly("predicate-many-preceders, writing", ((scan(), raise_all), (scan(), delete_twenty)), {b"x": b"10", b"y": b"20"}, WEAKEST),
    Anomaly("lost update (P4)", ((get(b"x"), grow(b"x")), (get(b"x"), grow(b"x"))), XY, WEAKEST),
    Anomaly("lost update of an absent key", ((get(b"z"), grow(b"z")), (get(b"z"), grow(b"z"))), XY, WEAKEST),
    Anomaly("lost deletion", ((delete(b"x"),), (get(b"x"), grow(b"x"))), XY, WEAKEST),
    Anomaly("read skew (G-single)", ((get(b"x"), get(b"y")), (put(b"x", b"1"), put(b"y", b"1"))), XY, WEAKEST),
    Anomaly("read skew of ranges", ((scan(b"a", b"b"), scan(b"c", b"d")), (put(b"ab", b"1"), put(b"cc", b"1"))), ROOM, WEAKEST),
    Anomaly("write skew (G2-item): doctors on call", ((get(b"x", b"y"), off_call(b"x")), (get(b"x", b"y"), off_call(b"y"))), {b"x": b"on", b"y": b"on"}, WEAK),
    Anomaly("write skew of ranges (G2): a room booked twice", ((scan(b"09", b"10"), claim(b"0910", b"ada")), (scan(b"09", b"10"), claim(b"0930", b"bob"))), {}, WEAK),
    Anomaly("write skew of an absent key: a name claimed twice", ((get(b"ada"), claim(b"ada", b"1"), put(b"1", b"ada")), (get(b"ada"), claim(b"ada", b"2"))), {}, WEAKEST),
    Anomaly("write skew of three", ((get(b"x"), put(b"y", b"1")), (get(b"y"), put(b"z", b"1")), (get(b"z"), put(b"x", b"1"))), XY, WEAK),
    Anomaly("read-only anomaly: receipts and batches", (
        (get(b"batch"), put(b"receipt", b"old")),                          # a receipt, for the batch that is current
        (lambda a: a.put(b"batch", b"2"),),                                # closes the batch
        (get(b"batch"), scan(b"receipt", b"receipu")),                     # the report of the batch that is closed
    ), {b"batch": b"1"}, WEAK),
    phantom("phantom insert inside a range", put(b"b", b"1"), b"a", b"d"),
    phantom("phantom insert at its first key", put(b"b", b"1"), b"b", b"d"),
    phantom("phantom insert before its first record", put(b"aa", b"1"), b"aa", b"d"),
    phantom("phantom insert after its last record", put(b"cz", b"1"), b"a", b"d"),
    phantom("phantom insert before the first key of all", put(b"", b"1"), None, b"b"),
    phantom("phantom insert after the last key of all", put(b"z", b"1"), b"e", None),
    phantom("phantom insert into an empty range", put(b"b", b"1"), b"aa", b"bb"),
    phantom("phantom insert into an empty keyspace", put(b"b", b"1"), None, None, {}),
    phantom("phantom deletion", delete(b"c"), b"a", b"d"),
    phantom("phantom deletion of the first", delete(b"a"), b"a", b"d"),
    phantom("phantom deletion of the last", delete(b"e"), b"a", None),
    phantom("phantom update", put(b"c", b"1"), b"a", b"d"),
    phantom("phantom update of the last", put(b"e", b"1"), b"c", b"f"),
    phantom("phantom in a reversed scan", put(b"d", b"1"), b"a", b"f", reverse=True),
    phantom("phantom in a scan cut short", put(b"b", b"1"), b"a", None, limit=2),
    phantom("phantom in a reversed scan cut short", put(b"d", b"1"), b"a", None, reverse=True, limit=2),
    range_skew("range write skew inside", b"a", b"d", b"b", b"bb"),
    range_skew("range write skew at both ends", b"b", b"d", b"b", b"cz"),
    range_skew("range write skew in an empty range", b"f", b"h", b"f", b"g"),
    range_skew("range write skew at the end of all", b"x", None, b"y", b"z"),
    Anomaly("range write skew by deletions", ((scan(b"a", b"d"), delete(b"a")), (scan(b"a", b"d"), delete(b"c"))), ROOM, WEAK),
    Anomaly("write skew over a delete that found nothing", ((delete(b"m"), put(b"n", b"1")), (delete(b"n"), put(b"m", b"1"))), {}, WEAK),
    predicate_skew("predicate write skew by insertions", put(b"e", b"open"), put(b"f", b"open")),
    predicate_skew("predicate write skew by updates into it", put(b"b", b"open"), put(b"d", b"open")),
    predicate_skew("predicate write skew by updates out of it", put(b"a", b"shut"), put(b"c", b"shut")),
    predicate_skew("predicate write skew by deletions", delete(b"a"), delete(b"c")),
    predicate_skew("predicate write skew under range locks", put(b"b", b"open"), put(b"e", b"open"), granularity="index_range"),
    Anomaly("phantom update into a predicate", ((scan(where=OPEN), scan(where=OPEN)), (put(b"b", b"open"),)), DOORS, WEAKEST),
    Anomaly("phantom deletion from a predicate", ((scan(where=OPEN), scan(where=OPEN)), (delete(b"c"),)), DOORS, WEAKEST),
    Anomaly("changes that a predicate does not match", ((scan(where=OPEN), scan(where=OPEN)), (put(b"b", b"barred"), put(b"e", b"shut"))), DOORS, NOWHERE),
    Anomaly("locks instead of reads", ((lock(b"x"), grow(b"x")), (lock(b"x"), grow(b"x"))), XY, NOWHERE),
    Anomaly("locks instead of reads, of an absent key", ((lock(b"z"), grow(b"z")), (lock(b"z"), grow(b"z"))), XY, NOWHERE),
    Anomaly("upgrade from reading to writing", ((get(b"x"), lock(b"x"), grow(b"x")), (get(b"x"), lock(b"x"), grow(b"x"))), XY, WEAKEST),
)
