"""Fork in every state: the child gets ForkError and leaves the parent's files alone; the parent goes on."""

import sys

import pytest
from limhelp import python

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

PARENT = """
    import enginelib, gc, os, sys, threading
    path, state = sys.argv[1:]
    db = enginelib.open(path, durability="os", segment_size=1 << 20, cache_size=4 << 20)
    ks = db.keyspace("space")
    ks.put_many([(b"%05d" % n, b"v" * 50) for n in range(3000)])
    txn = db.transaction()
    scan = txn.scan(ks)
    stop = threading.Event()
    threads = []
    if state != "idle":
        txn.put(ks, b"open", b"1")
        next(scan)
    if state == "waiting":
        holder = db.transaction()
        holder.put(ks, b"row", b"1")
        def wait():
            with db.transaction(lock_timeout=30) as other:
                other.put(ks, b"row", b"2")
        threads.append(threading.Thread(target=lambda: ks.put(b"row", b"2")))
    if state == "busy":
        def work(n):
            while not stop.is_set():
                with db.transaction() as t:
                    t.put_many(ks, [(b"%d-%d" % (n, i), b"x" * 3000) for i in range(20)])
                    list(t.scan(ks, limit=100))
        threads += [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for t in threads: t.start()
    pid = os.fork()
    if pid == 0:
        code = 0
        attempts = [lambda: ks.get(b"00001"), lambda: ks.put(b"x", b""), lambda: ks.put(b"x", b"y" * 99999), lambda: ks.get_many([b"x"]),
            lambda: list(ks.scan()), lambda: db.transaction(), lambda: db.keyspace("space"), lambda: db.keyspaces(),
            lambda: db.checkpoint(), lambda: db.stats(), lambda: db.verify(), lambda: db.sync(), lambda: db.backup(path + "-b"),
            lambda: txn.get(ks, b"00001"), lambda: txn.put(ks, b"x", b""), lambda: txn.commit(), lambda: txn.save(),
            lambda: txn.get_many(ks, [b"x"]), lambda: txn.put_many(ks, [(b"x", b"")]), lambda: list(txn.scan(ks)), lambda: list(scan)]
        for number, attempt in enumerate(attempts):
            try:
                attempt()
            except enginelib.ForkError:
                continue
            except BaseException as error:
                print(number, repr(error), flush=True)
            code = number + 1
        txn.abort()
        db.close()
        del txn, scan, attempts
        gc.collect()
        try:
            enginelib.open(path, lock_timeout=0)
        except enginelib.DatabaseLocked as error:
            if error.pid != os.getppid():
                code = 101
        else:
            code = 102
        with enginelib.open(path + "-child") as own:
            own.keyspace("space")[b"k"] = b"v"
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    stop.set()
    if state == "waiting":
        holder.abort()
    for t in threads: t.join(20)
    ks.put(b"after", b"1")
    assert len(list(scan)) >= 2999
    txn.commit()
    assert db.verify().ok
    db.close()
    with enginelib.open(path, read_only=True) as db:
        assert db["space"][b"after"] == b"1" and ((b"open" in db["space"]) == (state != "idle"))
        if state == "waiting":
            assert db["space"][b"row"] == b"2"
    print("fine")
"""


@pytest.mark.parametrize("state", ["idle", "open", "waiting", "busy"])
def test_a_forked_child_gets_fork_error_and_the_parent_goes_on(path, state):
    assert python(PARENT, path, state).strip().endswith("fine")


def test_a_child_that_ends_normally_touches_nothing(path):
    """The interpreter's end in the child runs finalisers and atexit hooks on inherited handles."""
    text = """
        import enginelib, os, sys
        db = enginelib.open(sys.argv[1], durability="lazy")
        ks = db.keyspace("space")
        txn = db.transaction()
        txn.put(ks, b"k", b"v")
        if os.fork() == 0:
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        txn.commit()
        assert db.verify().ok
        db.close()
        with enginelib.open(sys.argv[1]) as db:
            print(dict(db["space"]))
    """
    assert python(text, path).strip() == "{b'k': b'v'}"


def test_a_database_opened_after_the_fork_works_in_the_child(path):
    text = """
        import enginelib, os, sys
        with enginelib.open(sys.argv[1]) as db:
            db.keyspace("space")[b"parent"] = b"1"
        if os.fork() == 0:
            with enginelib.open(sys.argv[1]) as db:
                db["space"][b"child"] = b"1"
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
        with enginelib.open(sys.argv[1]) as db:
            print(sorted(db["space"]))
    """
    assert python(text, path).strip() == "[b'child', b'parent']"
