"""info, keyspaces, log."""

import json
import signal
import subprocess
import sys

import enginelib
from enginelib.cli import look


def test_info_shows_identity_and_figures(run, path):
    shown = run.json("info", path)
    assert shown["path"] == str(path)
    assert shown["keyspaces"] == 2
    assert len(shown["database_id"]) == 32
    assert shown["bytes_on_disk"] > 0
    assert "log" in shown and "build" not in shown
    text = run("info", path).stdout
    assert f"path\t{path}\n" in text and "log.end_lsn\t" in text


def test_info_shows_the_build_with_or_without_a_database(run, path):
    assert run.json("info", "--build")["build"]["enginelib"] == enginelib.__version__
    assert {"path", "build"} <= set(run.json("info", path, "--build"))
    assert "build.compiler" in run("info", "--build").stdout
    assert "PATH" in run("info", code=2).stderr


def test_keyspaces_are_listed_and_counted(run, path):
    rows = run.json("keyspaces", path)
    assert [(row["name"], row["backend"]) for row in rows] == [("empty", "btree"), ("users", "btree")]
    assert [row["keys"] for row in run.json("keyspaces", path, "--count")] == [0, 4]
    lines = run("keyspaces", path, "--count").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["empty", "users"]
    assert [line.split("\t")[-1] for line in lines] == ["0", "4"]


def test_log_prints_records_oldest_first(run, path):
    with enginelib.open(path) as db:
        db["users"][b"new\x00"] = b"value"
        db.sync()
    records = run.json_lines("log", path)
    positions = [record["lsn"] for record in records]
    assert positions == sorted(positions)
    (put,) = [record for record in records if record.get("key") == "new\\x00"]
    assert put["value"] == "value" and put["type"].lower().endswith("put")
    assert any("key=new\\x00 value=value" in line for line in run("log", path).stdout.splitlines())
    assert run.json_lines("log", path, "--from", put["lsn"], "--limit", 1) == [put]
    assert run.json_lines("log", path, "--from", put["lsn"], "--limit", 1, "--hex")[0]["value"] == "76616c7565"


def test_log_counts_records_by_type(run, path):
    counts = run.json("log", path, "--stats")
    assert sum(counts.values()) == len(run.json_lines("log", path))
    assert f"{next(iter(counts))}\t" in run("log", path, "--stats").stdout


def test_log_shows_one_transaction(run, path):
    with enginelib.open(path) as db:
        with db.transaction() as first, db.transaction() as second:
            for txn, key in ((first, b"one"), (second, b"two"), (first, b"three")):
                txn.put(db["users"], key, b"")
        db.sync()
    records = run.json_lines("log", path)
    (number,) = [record["txn"] for record in records if record.get("key") == "one"]
    shown = run.json_lines("log", path, "--txn", number)
    assert [record.get("key", record["type"]) for record in shown] == ["one", "three", "commit"]
    assert shown == [record for record in records if record.get("txn") == number]
    assert run.json_lines("log", path, "--txn", number, "--limit", 1) == shown[:1]
    assert run.json("log", path, "--txn", number, "--stats") == {"put": 2, "commit": 1}


def test_log_counts_by_keyspace_and_transaction(run, path):
    with enginelib.open(path) as db:
        with db.transaction() as txn:
            txn.put(db["users"], b"12", b"345")
            txn.delete(db["users"], b"zoe")
        db.keyspace("gone")[b"k"] = b""
        gone = {name: number for name, number, _ in db.keyspace_rows()}["gone"]
        db.drop_keyspace("gone")
        since = txn.commit_ts
        db.sync()
    records = run.json_lines("log", path)
    spaces = run.json("log", path, "--stats", "--by", "keyspace")
    assert spaces[f"(number {gone})"]["records"] == 1
    assert sum(row["records"] for row in spaces.values()) == sum("keyspace" in record for record in records)
    transactions = run.json("log", path, "--stats", "--by", "transaction")
    (number,) = [str(record["txn"]) for record in records if record["type"] == "commit" and record["a"] == since]
    assert transactions[number] == {"records": 3, "bytes": 8, "put": 1, "delete": 1, "commit": 1}
    assert f"{number}\t3\t8" in run("log", path, "--stats", "--by", "transaction").stdout.splitlines()
    assert "--stats" in run("log", path, "--by", "keyspace", code=2).output
    assert "--stats" in run("log", path, "--follow", "--stats", code=2).output


def test_log_follows_another_process(path):
    """Each record once, in order, while the log is written, synced or not."""
    words = [sys.executable, "-m", "enginelib", "log", str(path), "--follow", "--json"]
    with enginelib.open(path, segment_size=1 << 20) as db:
        users = db["users"]
        users[b"first"] = b""
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                shown = []

                def until(key):
                    for line in process.stdout:
                        shown.append(json.loads(line))
                        if shown[-1].get("key") == key:
                            return
                    raise AssertionError(process.stderr.read())

                until("first")
                for n in range(30):
                    for i in range(30):
                        with db.transaction(durability="os") as txn:
                            txn.put(users, b"%d/%d" % (n, i), b"x" * 500)
                    if n % 10 == 0:
                        until(f"{n}/29")
                until("29/29")
                process.send_signal(signal.SIGINT)
                assert process.wait(60) in (1, 130, -signal.SIGINT)
            finally:
                process.kill()
        records = list(db.log_records(shown[0]["lsn"]))
    positions = [record["lsn"] for record in shown]
    assert positions == [record["lsn"] for record in records if record["lsn"] <= positions[-1]]
    keys = [record["key"] for record in shown if record["type"] == "put" and "/" in record.get("key", "")]
    assert keys == [f"{n}/{i}" for n in range(30) for i in range(30)]


def test_log_follows_up_to_a_limit(run, path):
    records = run.json_lines("log", path)
    assert run.json_lines("log", path, "--follow", "--limit", len(records)) == records
    assert run("log", path, "--follow", "--limit", 2).stdout.splitlines() == run("log", path, "--limit", 2).stdout.splitlines()


def test_log_tells_what_it_has_not_seen(path, capsys):
    """Segments that went before they were read leave a gap, and it says so."""
    with enginelib.open(path, segment_size=1 << 20) as db, enginelib.open(path, read_only=True) as beside:
        following = look._following(beside, 0)
        for record in following:
            if record is None:
                break
            last = record["lsn"]
        for _ in range(4):
            for _ in range(8):
                db["users"][b"large"] = b"x" * 300_000
            db.checkpoint()
        shown = []
        for record in following:
            if record is None:
                break
            shown.append(record["lsn"])
        assert f"the log from LSN {last} to " in capsys.readouterr().err
        assert shown and shown[0] > last and shown == [record["lsn"] for record in db.log_records(shown[0])]
