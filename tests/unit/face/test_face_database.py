"""A database from opening to closing, through the Python face."""

import gc
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import enginelib

SMALL = {"cache_size": 4 << 20, "segment_size": 1 << 20}


def python(*lines, **kwargs):
    """Runs lines of Python in a process of its own; returns the completed process."""
    return subprocess.run(
        [sys.executable, "-P", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **kwargs,
    )


def test_what_was_committed_is_there_after_reopening(tmp_path):
    with enginelib.open(tmp_path / "app.db", **SMALL) as db:
        assert db.recovery["created"]
        db.keyspace("users")[b"ada"] = b"1815"
    assert db.closed
    with enginelib.open(str(tmp_path / "app.db"), create=False, **SMALL) as db:
        assert not db.recovery["created"]
        assert db["users"][b"ada"] == b"1815"
        assert db.path == str(tmp_path / "app.db")


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with enginelib.open("app.db", **SMALL) as db:
        assert db.path == str(tmp_path / "app.db")


@pytest.mark.parametrize(("path", "error"), [("", ValueError), (b"app.db", TypeError), (7, TypeError)])
def test_a_path_is_text(path, error):
    with pytest.raises(error):
        enginelib.open(path)


def test_a_database_that_is_absent_is_not_made_unless_asked(tmp_path):
    for options in ({"create": False}, {"read_only": True}):
        with pytest.raises(FileNotFoundError):
            enginelib.open(tmp_path / "absent", **options)
    assert not (tmp_path / "absent").exists()


def test_a_file_is_no_database(tmp_path):
    (tmp_path / "file").write_text("hello")
    with pytest.raises(enginelib.StorageError, match="directory"):
        enginelib.open(tmp_path / "file")


def test_a_folder_of_other_files_is_no_database(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(enginelib.StorageError):
        enginelib.open(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "hello"


def test_opening_twice_in_one_process_says_so(tmp_path):
    with enginelib.open(tmp_path / "app.db", **SMALL):
        with pytest.raises(enginelib.DatabaseLocked) as caught:
            enginelib.open(tmp_path / "app.db", lock_timeout=0, **SMALL)
        assert caught.value.pid == os.getpid()


def test_opening_in_another_process_names_the_holder(tmp_path):
    with enginelib.open(tmp_path / "app.db", **SMALL):
        other = python(
            "import enginelib, sys",
            "try:",
            f"    enginelib.open({str(tmp_path / 'app.db')!r}, lock_timeout=0.05)",
            "except enginelib.DatabaseLocked as error: print(error.pid)",
        )
    assert other.stdout.strip() == str(os.getpid()), other.stderr


def test_another_process_may_read_beside_the_writer(tmp_path):
    with enginelib.open(tmp_path / "app.db", **SMALL) as db:
        db.keyspace("users")[b"ada"] = b"1815"
        db.checkpoint()
        other = python(
            "import enginelib",
            f"db = enginelib.open({str(tmp_path / 'app.db')!r}, read_only=True)",
            "print(db['users'][b'ada']); db.close()",
        )
    assert other.stdout.strip() == "b'1815'", other.stderr


def test_a_read_only_database_refuses_changes(tmp_path):
    with enginelib.open(tmp_path / "app.db", **SMALL) as db:
        db.keyspace("users")[b"ada"] = b"1815"
    with enginelib.open(tmp_path / "app.db", read_only=True, **SMALL) as db:
        assert db.read_only and "read-only" in repr(db)
        users = db.keyspace("users")
        with pytest.raises(enginelib.ReadOnlyError):
            users[b"bob"] = b"1"
        with pytest.raises(KeyError):
            db.keyspace("absent")
        assert dict(users) == {b"ada": b"1815"}


def test_keyspaces_are_made_listed_renamed_and_dropped(db):
    assert db.keyspaces() == [] and list(db) == []
    db.keyspace("b")
    db.keyspace("a")
    assert db.keyspaces() == ["a", "b"] and "a" in db and "c" not in db and 7 not in db
    assert db.keyspace("a").id == db["a"].id
    db["a"][b"k"] = b"v"
    db.rename_keyspace("a", "c")
    assert db["c"][b"k"] == b"v"
    db.drop_keyspace("c")
    assert db.keyspaces() == ["b"]
    db.keyspace("c")
    assert not db["c"]


def test_an_unknown_keyspace_is_a_key_error_that_names_those_there_are(db):
    with pytest.raises(KeyError, match="there is none"):
        db["users"]
    db.keyspace("users")
    with pytest.raises(KeyError, match="no keyspace named 'user'; there are 'users'"):
        db.keyspace("user", create=False)


def test_a_keyspace_has_a_name_and_a_backend_that_exists(db):
    for name, error in ((b"users", TypeError), (None, TypeError), ("", ValueError), ("x" * 256, ValueError)):
        with pytest.raises(error):
            db.keyspace(name)
    with pytest.raises(enginelib.NotSupported):
        db.keyspace("events", backend="hash")


def test_threads_that_make_the_same_keyspace_all_get_it(db):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: db.keyspace(f"space {number % 5}"), range(80)))
    assert len({keyspace.id for keyspace in made}) == 5


def test_use_after_close_says_so(db, space):
    txn = db.transaction()
    rows = space.scan()
    db.close()
    db.close()
    for act in (
        lambda: space[b"k"],
        lambda: space.put(b"k", b"v"),
        lambda: list(space),
        lambda: txn.get(space, b"k"),
        lambda: next(rows),
        db.transaction,
        db.keyspaces,
        db.checkpoint,
        db.stats,
        db.verify,
        lambda: db.keyspace("other"),
    ):
        with pytest.raises(enginelib.DatabaseClosed):
            act()
    assert "closed" in repr(db)


def test_an_unclosed_database_warns_when_it_is_collected(tmp_path):
    db = enginelib.open(tmp_path / "app.db", **SMALL)
    db.keyspace("users")[b"ada"] = b"1815"
    with pytest.warns(ResourceWarning, match="never closed"):
        del db
        gc.collect()
    with enginelib.open(tmp_path / "app.db", lock_timeout=0, **SMALL) as db:
        assert b"ada" in db["users"]


def test_what_is_open_when_python_ends_is_closed(tmp_path):
    ended = python(
        "import enginelib",
        f"db = enginelib.open({str(tmp_path / 'app.db')!r}, durability='lazy', lazy_interval=1000)",
        "db.keyspace('users')[b'ada'] = b'1815'",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    with enginelib.open(tmp_path / "app.db", **SMALL) as db:
        assert db.recovery["records"] == 0
        assert b"ada" in db["users"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_fork_error_and_leaves_the_files_alone(tmp_path):
    child = python(
        "import enginelib, os, signal, sys, warnings",
        "warnings.simplefilter('error')",
        f"db = enginelib.open({str(tmp_path / 'app.db')!r})",
        "users = db.keyspace('users'); users[b'ada'] = b'1815'; txn = db.transaction()",
        "pid = os.fork()",
        "if pid == 0:",
        "    signal.alarm(10)",
        "    acts = lambda: users[b'ada'], lambda: users.put(b'a', b'b'), lambda: txn.get(users, b'ada')",
        "    for act in (*acts, db.transaction):",
        "        try: act()",
        "        except enginelib.ForkError: pass",
        "        else: os._exit(7)",
        "    del txn, users, db",
        "    sys.exit(0)",
        "status = os.waitpid(pid, 0)[1]",
        "assert status == 0, status",
        "txn.put(users, b'bob', b'1'); txn.commit(); print(sorted(users)); db.close()",
    )
    assert child.stdout.strip() == "[b'ada', b'bob']", child.stderr
    with enginelib.open(tmp_path / "app.db", **SMALL) as db:
        assert db.verify().ok


def test_backup_is_a_database_of_one_moment(tmp_path):
    with enginelib.open(tmp_path / "app.db", **SMALL) as db:
        users = db.keyspace("users")
        users.update({b"%d" % n: b"x" * 100 for n in range(1000)})
        assert isinstance(db.backup(tmp_path / "copy.db"), dict)
        users.clear()
        with enginelib.open(tmp_path / "copy.db", **SMALL) as copy:
            assert len(copy["users"]) == 1000
            assert copy.verify().ok


def test_a_backup_is_not_made_inside_the_database_or_over_something(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()
    with enginelib.open(tmp_path / "app.db", **SMALL) as db:
        for inside in ("app.db", "app.db/copy"):
            with pytest.raises(ValueError, match="inside the database"):
                db.backup(tmp_path / inside)
        with pytest.raises(FileExistsError):
            db.backup(tmp_path / "other")
        (tmp_path / "empty").mkdir()
        assert db.backup(tmp_path / "empty")


def test_a_database_in_memory_is_backed_up_to_disk(tmp_path, db, space):
    space[b"k"] = b"v"
    db.backup(tmp_path / "copy.db")
    with enginelib.open(tmp_path / "copy.db", **SMALL) as copy:
        assert dict(copy["space"]) == {b"k": b"v"}


def test_verify_returns_a_report(db, space):
    space.update({b"%d" % n: b"x" for n in range(100)})
    lines = []
    report = db.verify(lines.append)
    assert report.ok and report.findings == [] and report.counts and report.seconds >= 0
    assert str(report).startswith("ok")


def test_stats_are_plain_values(db, space):
    import json

    space[b"k"] = b"v"
    for stats in (db.stats(), space.stats()):
        assert json.loads(json.dumps(stats)) == stats


def test_compact_and_checkpoint_and_sync_keep_everything(db, space):
    space[b"k"] = b"v"
    space.compact()
    db.checkpoint()
    db.sync()
    assert space[b"k"] == b"v"


def test_the_logger_reports_recovery(tmp_path, caplog):
    killed = python(
        "import enginelib, os",
        f"db = enginelib.open({str(tmp_path / 'app.db')!r})",
        "db.keyspace('users')[b'ada'] = b'1815'",
        "os._exit(0)",
    )
    assert killed.returncode == 0, killed.stderr
    with caplog.at_level(logging.DEBUG, "enginelib"):
        with enginelib.open(tmp_path / "app.db", **SMALL) as db:
            assert db["users"][b"ada"] == b"1815"
            assert db.recovery["transactions"] > 0
    assert any("recovered" in record.message for record in caplog.records)
    assert any("close took" in record.message for record in caplog.records)


def test_options_of_an_open_database_reopen_it_elsewhere(tmp_path):
    with enginelib.open(tmp_path / "app.db", durability="os", **SMALL) as db:
        path, options = pickle.loads(pickle.dumps((db.path, db.options.as_dict())))
    with enginelib.open(path, **options) as db:
        assert db.options.durability is enginelib.Durability.OS


def test_importing_is_quick_and_brings_no_click_or_rich():
    loaded = python(
        "import sys, enginelib",
        "print([n for n in ('click', 'rich', 'unicodedata', 'random') if n in sys.modules])",
    )
    assert loaded.stdout.strip() == "[]", loaded.stderr


def test_a_source_folder_without_the_core_says_what_to_do(tmp_path):
    """Python started inside the source folder finds that instead of the installed package."""
    folder = Path(enginelib.__file__).parent
    source = tmp_path / "enginelib"
    source.mkdir()
    for file in folder.glob("*.py"):
        (source / file.name).write_text(file.read_text())
    failed = subprocess.run(
        [sys.executable, "-S", "-c", "import enginelib"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "pip install -e ." in failed.stderr


def test_the_public_names_are_those_exported():
    assert sorted(enginelib.__all__) == enginelib.__all__
    for name in enginelib.__all__:
        assert hasattr(enginelib, name), name
    public = {name for name in vars(enginelib) if not name.startswith("_")}
    modules = {name for name in public if type(getattr(enginelib, name)).__name__ == "module"}
    assert public - modules - {"annotations"} == set(enginelib.__all__)
