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
