"""The command as a whole: help, errors, exit codes, and how it starts."""

import os
import subprocess
import sys

import click
import pytest

import enginelib
from enginelib.cli import output
from enginelib.cli.app import cli

COMMANDS = ["info", "keyspaces", "log", "get", "put", "del", "scan", "import", "export"]
COMMANDS += ["verify", "checkpoint", "compact", "backup", "restore", "changes", "slots", "2pc", "demo"]
READING = ["info", "keyspaces", "log", "get", "scan", "verify", "changes"]


def test_the_commands_are_those_documented():
    assert list(cli.commands) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_help_for_each_option(run, name):
    shown = run(name, "--help").stdout
    assert f"Example: enginelib {name}" in " ".join(shown.split())
    for parameter in cli.commands[name].params:
        assert isinstance(parameter, click.Argument) or parameter.help


@pytest.mark.parametrize("name", READING)
def test_every_reading_command_takes_json(name):
    assert any("--json" in parameter.opts for parameter in cli.commands[name].params)


def test_help_tells_escapes_and_exit_codes(run):
    shown = run("--help").stdout
    assert "--hex" in shown and "Exit codes" in shown


def test_version(run):
    assert enginelib.__version__ in run("--version").stdout


@pytest.mark.parametrize("name", ["info", "keyspaces", "log", "verify", "checkpoint"])
def test_a_database_that_is_absent_is_an_error_and_is_not_made(run, tmp_path, name):
    result = run(name, tmp_path / "absent", code=3)
    assert result.stderr.startswith("error: ") and "absent" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "absent").exists()


def test_an_unknown_keyspace_names_those_there_are(run, path):
    stderr = run("get", path, "user", "ada", code=3).stderr
    assert stderr == "error: no keyspace named 'user'; there are 'empty', 'users'\n"


def test_a_locked_database_names_its_holder_and_gives_a_hint(run, path, monkeypatch):
    def locked(*args, **kwargs):
        raise enginelib.DatabaseLocked(f"{path} is open in process 7 on ada.", pid=7, host="ada")

    monkeypatch.setattr(enginelib, "open", locked)
    stderr = run("checkpoint", path, code=3).stderr
    assert "process 7 on ada" in stderr and "hint: Close it there" in stderr


def test_traceback_shows_where_an_error_arose(run, tmp_path):
    with pytest.raises(FileNotFoundError):
        run("--traceback", "info", tmp_path / "absent")


def test_wrong_usage_exits_with_2(run, path):
    run("nonsense", code=2)
    run("get", path, code=2)


def test_tables_are_drawn_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    output.show_table(("name", "keys"), [("users", 12345), ("[bold]", None)])
    shown = capsys.readouterr().out
    assert "name" in shown and "12,345" in shown and "[bold]" in shown


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    with output.progress("quiet", 10) as step:
        step(5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with output.progress("loud", 10) as step:
        step(10)
    assert "loud" in capsys.readouterr().err


def test_python_dash_m_runs_the_command(path):
    result = subprocess.run(
        [sys.executable, "-P", "-m", "enginelib", "get", str(path), "users", "ada"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "1815\n", "")


def test_a_closed_pipe_ends_quietly(path, tmp_path):
    with enginelib.open(path) as db:
        db["users"].update({b"%06d" % number: b"x" * 100 for number in range(20_000)})
    command = [sys.executable, "-P", "-m", "enginelib", "scan", str(path), "users"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as scan:
        assert scan.stdout.readline()
        scan.stdout.close()
        assert scan.stderr.read() == b""
        scan.wait(60)


@pytest.mark.parametrize("name", ["click", "rich"])
def test_without_the_extra_the_command_says_how_to_install_it(name, path, tmp_path):
    (tmp_path / "hide.py").write_text(f"import sys; sys.modules[{name!r}] = None")
    code = (
        "import hide, sys, enginelib.cli; sys.stdout.isatty = lambda: True; "
        f"sys.argv = ['enginelib', 'keyspaces', {str(path)!r}]; enginelib.cli.main()"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode != 0
    assert f"needs {name}" in result.stderr and "pip install 'enginelib[cli]'" in result.stderr
    assert "Traceback" not in result.stderr
