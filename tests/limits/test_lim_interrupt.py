"""Ctrl-C: while waiting for a row, for the directory, and during a commit."""

import pytest
from limhelp import python

COMMON = """
    import enginelib, os, signal, sys, threading, time
    path, what = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)     # a shell's background job begins with it ignored
    db = enginelib.open(path, durability="sync", lock_timeout=60)
    ks = db.keyspace("space")
    ks[b"k"] = b"old"
    def interrupt_when(ready):
        def watch():
            while not ready():
                time.sleep(0.002)
            global sent
            sent = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=watch, daemon=True).start()
"""

WAIT = COMMON + """
    holder = db.transaction()
    holder.put(ks, b"k", b"1")
    txn = db.transaction()
    txn.put(ks, b"mine", b"1")
    def inside():
        try:
            txn.save()
        except enginelib.ThreadError:
            return True
    began = time.monotonic()
    interrupt_when(inside if what != "keyspace" else lambda: time.monotonic() > began + 0.1)
    try:
        {"put": lambda: txn.put(ks, b"k", b"2"), "put_many": lambda: txn.put_many(ks, [(b"a", b""), (b"k", b"2")]),
         "delete": lambda: txn.delete(ks, b"k"), "get_for_update": lambda: txn.get_for_update(ks, b"k"),
         "big": lambda: txn.put(ks, b"k", b"2" * 100_000), "keyspace": lambda: ks.put(b"k", b"2"),
         "drop": lambda: txn.drop_keyspace("space")}[what]()
    except KeyboardInterrupt:
        took = time.monotonic() - sent
        assert took < 1, took
    else:
        raise SystemExit("not interrupted")
    txn.put(ks, b"also", b"1")
    holder.abort()
    txn.put(ks, b"k", b"2")
    txn.commit()
    assert ks[b"k"] == b"2" and ks[b"also"] == b"1" and ks[b"mine"] == b"1"
    assert db.stats()["transactions"]["writers"] == 0 and db.stats()["transactions"]["snapshots"] == 0
    assert db.verify().ok
    db.close()
    print("fine")
"""

COMMIT = COMMON + """
    sent = 0
    started = threading.Event()
    interrupt_when(started.is_set)
    last = -1
    try:
        started.set()
        for n in range(10**6):
            with db.transaction() as txn:
                txn.put(ks, b"k", b"%d" % n)
                txn.put(ks, b"l", b"%d" % n)
            last = n
    except KeyboardInterrupt:
        pass
    assert txn.state in ("committed", "aborted"), txn.state
    assert ks[b"k"] == ks[b"l"] == b"%d" % (last + (txn.state == "committed" and last + 1 == n and ks[b"k"] == b"%d" % n))
    ks[b"after"] = b"1"
    db.close()
    with enginelib.open(path) as db:
        assert db["space"][b"after"] == b"1" and db["space"][b"k"] == db["space"][b"l"]
        assert db.verify().ok
    print("fine")
"""

OPEN = COMMON + """
    began = time.monotonic()
    interrupt_when(lambda: time.monotonic() > began + 0.1)
    try:
        enginelib.open(path, lock_timeout=60)
    except KeyboardInterrupt:
        assert time.monotonic() - sent < 1
        ks[b"k"] = b"new"
        db.close()
        print("fine")
"""


@pytest.mark.parametrize("what", ["put", "put_many", "delete", "get_for_update", "big", "keyspace", "drop"])
def test_an_interrupt_wakes_who_waits_for_a_row_and_the_transaction_goes_on(path, what):
    assert python(WAIT, path, what).strip() == "fine"


@pytest.mark.parametrize("round", range(3))
def test_an_interrupt_during_commits_leaves_each_whole_or_absent(path, round):
    assert python(COMMIT, path, str(round)).strip() == "fine"


def test_an_interrupt_wakes_who_waits_for_the_directory(path):
    assert python(OPEN, path, "open").strip() == "fine"

COMPACT = """
    import enginelib, os, signal, sys, threading, time
    path, = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    db = enginelib.open(path, durability="os", compaction_rate=100_000)
    ks = db.keyspace("events", backend="lsm")
    for n in range(20):
        ks.put_many([(b"%06d" % i, b"%d" % n * 100) for i in range(5000)])
    def watch():
        while not ks.stats()["compaction"]["running"]:
            pass
        global sent
        sent = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)
    before = ks.stats()["compactions"]
    threading.Thread(target=watch, daemon=True).start()
    try:
        ks.compact()
    except KeyboardInterrupt:
        took = time.monotonic() - sent
        assert took < 1, took
    else:
        raise SystemExit("not interrupted")
    assert ks.stats()["compactions"] == before and not ks.stats()["compaction"]["running"]
    assert len(ks) == 5000 and db.verify().ok
    db.close()
    print("fine")
"""


def test_a_compaction_asked_for_is_given_up_on_ctrl_c(path):
    """At once; nothing is lost, and it can be asked for again."""
    assert python(COMPACT, path).strip() == "fine"
