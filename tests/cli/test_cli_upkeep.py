"""verify, checkpoint, backup."""

import enginelib
from enginelib import VerifyReport


def test_verify_says_ok(run, path):
    assert run("verify", path).stdout.startswith("ok: nothing wrong in ")
    shown = run.json("verify", path)
    assert shown["ok"] is True and shown["findings"] == []


def test_verify_with_findings_exits_with_1(run, path, monkeypatch):
    bad = VerifyReport([{"what": "bad sum", "page": 7}])
    monkeypatch.setattr(enginelib.Database, "verify", lambda self, progress=None: bad)
    assert "bad sum (page=7)" in run("verify", path, code=1).stdout
    assert run.json("verify", path, code=1)["findings"] == [{"what": "bad sum", "page": 7}]


def test_verify_finds_a_flipped_bit(run, path):
    """Damage must be found or refused, and told in a sentence, whatever byte it strikes."""
    pages = path / "pages.dat"
    raw = bytearray(pages.read_bytes())
    at = raw.rindex(b"1815")
    raw[at] ^= 1
    pages.write_bytes(raw)
    result = run("verify", path, code=1)
    assert "finding" in result.stdout


def test_checkpoint_says_how_long_it_took(run, path):
    assert run("checkpoint", path).stdout.startswith("checkpoint took ")
    assert run.json("checkpoint", path)["seconds"] >= 0


def test_backup_makes_a_copy(run, path, tmp_path, content):
    assert run.json("backup", path, tmp_path / "copy.db")
    with enginelib.open(tmp_path / "copy.db", read_only=True) as db:
        assert dict(db["users"]) == content()
    assert run("backup", path, tmp_path / "second.db").stdout


def test_backup_does_not_overwrite(run, path, tmp_path):
    (tmp_path / "copy.db").mkdir()
    (tmp_path / "copy.db" / "precious").write_text("x")
    assert run("backup", path, tmp_path / "copy.db", code=3).stderr.startswith("error: ")
    assert (tmp_path / "copy.db" / "precious").read_text() == "x"


def test_compact_merges_the_tables_of_lsm_keyspaces(run, path):
    for n in range(3):
        run("put", path, "events", f"k{n}", "v" * 100, "--backend", "lsm")
        run("put", path, "events", "again", str(n))
    shown = run.json("keyspaces", path, "--figures")
    events = next(row for row in shown if row["name"] == "events")
    assert events["backend"] == "lsm" and events["figures"]["table_bytes"] > 0
    assert run.json("compact", path, "events")["bytes_after"] > 0
    assert run("compact", path).stdout.startswith("compaction took ")
    events = next(row for row in run.json("keyspaces", path, "--figures") if row["name"] == "events")
    assert [level["entries"] for level in events["figures"]["levels"]] == [4]
    assert "events.levels.0.entries" in run("keyspaces", path, "--figures").stdout
    assert "lsm.stall.stops" in run("info", path).stdout
    assert run("get", path, "events", "again").stdout == "2\n"


def test_what_is_not_damaged_can_be_read(run, path):
    run("put", path, "events", "k", "v", "--backend", "lsm")
    run("compact", path)
    table = next(path.glob("lsm/*/*.sst"))
    table.unlink()
    assert table.name in run("verify", path, code=1).stdout
    assert run("get", path, "users", "ada").stdout == "1815\n"
    assert table.name in run("get", path, "events", "k", code=3).stderr
