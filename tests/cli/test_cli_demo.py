"""demo: the proof, and that the proof would fail if it should."""

import json

import pytest

import enginelib
from enginelib import demo


@pytest.fixture
def work(monkeypatch):
    """The first 600 characters, in batches of 16."""
    first = demo.characters()
    characters = [next(first) for _ in range(600)]
    monkeypatch.setattr(demo, "characters", lambda: iter(characters))
    return demo.batches()


@pytest.fixture
def db():
    with enginelib.open(":memory:", cache_size=8 << 20, segment_size=1 << 20) as db:
        yield db


def test_the_demo_loses_nothing(run, tmp_path):
    result = run.json("demo", "--path", tmp_path / "unicode.db", "--seed", "7", "--batch", "64")
    assert result["ok"] and result["complete"] and result["verify"]["ok"]
    assert result["proof"]["acknowledged"] > 0.3 * result["transactions"]
    assert result["proof"]["acknowledged_and_whole"] == result["proof"]["acknowledged"]
    assert result["proof"]["lost"] == result["proof"]["partial"] == []
    assert result["characters"] > 138_000
    assert result["answers"][0] == {"question": "the character named SNOWMAN", "answer": "☃"}
    with enginelib.open(tmp_path / "unicode.db", read_only=True) as db:
        assert db[demo.BY_NAME][b"SNOWMAN"] == "☃".encode()


def test_the_demo_does_not_touch_what_exists(run, tmp_path):
    assert "exists already" in run("demo", "--path", tmp_path, code=2).stderr


def test_the_demo_tells_each_step(run, tmp_path, monkeypatch):
    def demonstrate(path, say, **options):
        say("data", "as it goes")
        return {"ok": options["size"] == 16, "path": path}

    monkeypatch.setattr("enginelib.cli.demo.demonstrate", demonstrate)
    assert "data  as it goes" in run("demo").stdout
    assert "nothing acknowledged was lost" in run("demo").stdout
    assert "FAILED" in run("demo", "--batch", "8", code=1).stdout
    assert json.loads(run("demo", "--json").stdout)["ok"]


def test_a_whole_load_is_judged_whole(db, work):
    acknowledged = set()
    demo.load(db, work, 3, acknowledged.add)
    assert acknowledged == {batch.number for batch in work}
    verdict = demo.judge(db, work, acknowledged)
    assert verdict.ok and verdict.whole == acknowledged


def test_an_unacknowledged_batch_may_be_absent_or_whole(db, work):
    demo.load(db, work[:5])
    assert demo.judge(db, work, {0, 1, 2}).ok


@pytest.mark.parametrize("name", [demo.BY_CODE, demo.BY_NAME, demo.BATCHES])
def test_a_lost_entry_is_found_in_each_keyspace(db, work, name):
    demo.load(db, work)
    db[name].popitem()
    verdict = demo.judge(db, work, {batch.number for batch in work})
    assert not verdict.ok and verdict.partial == verdict.lost and len(verdict.lost) == 1


def test_a_lost_batch_is_found(db, work):
    demo.load(db, work[1:])
    verdict = demo.judge(db, work, {0, 1})
    assert (verdict.lost, verdict.partial) == ({0}, set()) and not verdict.ok


def test_a_wrong_value_and_a_stray_entry_are_found(db, work):
    demo.load(db, work)
    db[demo.BY_NAME][b"SPACE"] = b"?"
    db[demo.BY_NAME][b"NO SUCH CHARACTER"] = b"?"
    verdict = demo.judge(db, work, set())
    assert len(verdict.partial) == 1 and verdict.strangers == 1 and not verdict.ok


def test_a_writer_that_ends_by_itself_is_an_error(tmp_path, capfd):
    (tmp_path / "file").write_text("no database")
    with pytest.raises(RuntimeError, match="ended by itself after 0 batches"):
        demo.load_and_kill(str(tmp_path / "file"), 1, 16, 10)
    assert "StorageError" in capfd.readouterr().err


def test_a_failing_thread_fails_the_load(db, work):
    def acknowledge(number):
        raise OSError("the pipe is closed")

    with pytest.raises(OSError, match="pipe"):
        demo.load(db, work, 2, acknowledge)
