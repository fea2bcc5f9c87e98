"""Opening for reading beside a process that writes."""

import subprocess
import sys
import textwrap

WRITER = """
    import random, sys
    import enginelib

    rng = random.Random(1)
    with enginelib.open(sys.argv[1], segment_size=1 << 20, cache_size=4 << 20, durability="os", checkpoint_bytes=1 << 18) as db:
        print("open", flush=True)
        n = 0
        while True:
            n += 1
            name = "k%d" % (n % 7)
            space = db.keyspace(name, "lsm", memtable_size=64 << 10, table_size=64 << 10)
            for _ in range(20):
                space[b"%d" % rng.randrange(1000)] = rng.randbytes(rng.choice([5, 50, 9000]))
            if n % 9 == 0:
                db.drop_keyspace(name)
"""


def test_what_is_logged_while_it_opens_is_not_replayed(tmp_path):
    """The second pass over the log went on into transactions that the first had not seen: in a process of its own, since it ended that."""
    reader = textwrap.dedent("""
        import sys
        import enginelib

        opened = 0
        while opened < 300:
            try:
                with enginelib.open(sys.argv[1], read_only=True, create=False) as db:
                    opened += db.read_only
            except (enginelib.CorruptionError, enginelib.StorageError):
                pass  # files that change under the reader can look damaged
        print(opened)
    """)
    path = str(tmp_path / "db")
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), path], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout.readline() == "open\n"
            done = subprocess.run([sys.executable, "-c", reader, path], capture_output=True, text=True, timeout=120)
        finally:
            writer.kill()
    assert (done.returncode, done.stdout) == (0, "300\n"), done.stderr[-2000:]
