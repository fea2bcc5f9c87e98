"""info, keyspaces, log."""

import enginelib


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
