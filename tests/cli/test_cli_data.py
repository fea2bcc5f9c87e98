"""get, put, del, scan."""

import pytest

import enginelib


def test_get_prints_a_value_with_escapes_hex_or_raw(run, path):
    assert run("get", path, "users", "ada").stdout == "1815\n"
    assert run("get", path, "users", "bob").stdout == "\\x00\\xff\n"
    assert run("get", path, "users", r"b\\n").stdout == "ü\\n\n"
    assert run("get", path, "users", "626f62", "--hex").stdout == "00ff\n"
    assert run("get", path, "users", "bob", "--raw").stdout_bytes == b"\x00\xff"
    assert run("get", path, "users", "zoe").stdout == "\n"
    assert run.json("get", path, "users", "bob") == {"key": "bob", "value": "\\x00\\xff"}


def test_get_of_an_absent_key_exits_with_1(run, path):
    result = run("get", path, "users", "eve", code=1)
    assert (result.stdout, result.stderr) == ("", "no key eve in users\n")
    assert run.json("get", path, "users", "eve", code=1) == {"key": "eve", "value": None}


def test_put_makes_what_is_absent(run, tmp_path):
    path = tmp_path / "new.db"
    run("put", path, "users", r"a\x00", "1")
    run("put", path, "users", "ff", "00", "--hex", "--durability", "os")
    run("put", path, "users", "stdin", "-", input=b"\x01\x02")
    with enginelib.open(path) as db:
        assert dict(db["users"]) == {b"a\x00": b"1", b"\xff": b"\x00", b"stdin": b"\x01\x02"}


def test_del_says_how_many_there_were(run, path, content):
    assert run("del", path, "users", "ada", "bob").stdout == "deleted 2 of 2\n"
    assert run("del", path, "users", "ada", "zoe", code=1).stdout == "deleted 1 of 2\n"
    assert list(content()) == [b"b\\n"]


def test_scan_prints_keys_in_order_with_values_behind_a_tab(run, path):
    assert run("scan", path, "users").stdout.splitlines() == [
        "ada\t1815",
        r"b\\n" + "\tü\\n",
        "bob\t\\x00\\xff",
        "zoe\t",
    ]


def test_scan_chooses_a_range(run, path):
    def keys(*arguments):
        return run("scan", path, "users", "--keys-only", *arguments).stdout.split()

    assert keys("--start", "b", "--stop", "z") == [r"b\\n", "bob"]
    assert keys("--prefix", "b", "--reverse") == ["bob", r"b\\n"]
    assert keys("--limit", "1") == ["ada"]
    assert keys("--hex", "--start", "7a") == ["7a6f65"]
    assert run("scan", path, "users", "--count", "--prefix", "b").stdout == "2\n"
    assert run("scan", path, "empty").stdout == ""


def test_scan_prints_json_lines(run, path):
    assert run.json_lines("scan", path, "users", "--limit", "1") == [{"key": "ada", "value": "1815"}]
    assert run.json_lines("scan", path, "users", "--keys-only", "--hex", "--limit", "1") == [{"key": "616461"}]
    assert run.json_lines("scan", path, "users", "--count") == [{"count": 4}]


@pytest.mark.parametrize(
    "command", [("get", "PATH", "users", "\\"), ("scan", "PATH", "users", "--start", "zz", "--hex")]
)
def test_a_key_that_cannot_be_read_is_wrong_usage(run, path, command):
    result = run(*(path if part == "PATH" else part for part in command), code=2)
    assert "Invalid value" in result.stderr
