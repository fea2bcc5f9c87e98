"""A database on disk and a way to run commands on it."""

import json

import pytest
from click.testing import CliRunner

import enginelib
from enginelib.cli.app import cli

CONTENT = {b"ada": b"1815", b"bob": b"\x00\xff", b"b\\n": "ü\n".encode(), b"zoe": b""}


class Commands:
    """Runs ``enginelib`` commands in this process."""

    def __call__(self, *arguments, code=0, **kwargs):
        """Runs a command and checks its exit code; returns the result."""
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments], **kwargs)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments, **kwargs):
        """Runs a command with ``--json``; returns what it printed as a value."""
        return json.loads(self(*arguments, "--json", **kwargs).stdout)

    def json_lines(self, *arguments, **kwargs):
        """Runs a command with ``--json``; returns what it printed as a list of values, one a line."""
        return [json.loads(line) for line in self(*arguments, "--json", **kwargs).stdout.splitlines()]


@pytest.fixture
def run():
    return Commands()


@pytest.fixture
def path(tmp_path):
    """The path of a database with the keyspaces ``users`` and ``empty``."""
    path = tmp_path / "app.db"
    with enginelib.open(path, segment_size=1 << 20) as db:
        db.keyspace("users").update(CONTENT)
        db.keyspace("empty")
    return path


@pytest.fixture
def content(path):
    """A function that reads a keyspace of the database."""

    def read(name="users"):
        with enginelib.open(path, read_only=True) as db:
            return dict(db[name])

    return read
