"""import and export."""

import csv
import json

import pytest

import enginelib


def read(path, name="users"):
    with enginelib.open(path, read_only=True) as db:
        return dict(db[name])


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("as_hex", [False, True])
def test_what_was_exported_is_imported_the_same(run, path, tmp_path, content, ending, as_hex):
    file = tmp_path / f"users.{ending}"
    result = run("export", path, "users", file, *(["--hex"] if as_hex else []))
    assert result.stderr == "exported 4 rows\n"
    result = run("import", tmp_path / "copy.db", "users", file, "--encoding", "hex" if as_hex else "escapes")
    assert result.stdout.startswith("imported 4 rows in ")
    assert read(tmp_path / "copy.db") == content()


def test_export_writes_to_standard_output_and_import_reads_standard_input(run, path, tmp_path, content):
    exported = run("export", path, "users")
    assert json.loads(exported.stdout.splitlines()[0]) == {"key": "ada", "value": "1815"}
    run("import", tmp_path / "copy.db", "users", "-", "--format", "jsonl", input=exported.stdout)
    assert read(tmp_path / "copy.db") == content()
    assert run("export", path, "users", "--format", "csv").stdout.splitlines()[:2] == [
        "key,value",
        "ada,1815",
    ]


def test_export_takes_a_range(run, path, tmp_path):
    run("export", path, "users", tmp_path / "b.jsonl", "--prefix", "b", "--reverse", "--limit", "1")
    assert json.loads((tmp_path / "b.jsonl").read_text())["key"] == "bob"


def test_csv_of_any_shape_becomes_keys_and_json(run, tmp_path):
    with open(tmp_path / "cities.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["name", "people", "note"], ["Ulm", "126949", "a, b"], ["Bonn", "331885", "two\nlines"]]
        )
    run("import", tmp_path / "app.db", "cities", tmp_path / "cities.csv", "--key-column", "name")
    values = {key: json.loads(value) for key, value in read(tmp_path / "app.db", "cities").items()}
    assert values == {
        b"Ulm": {"people": "126949", "note": "a, b"},
        b"Bonn": {"people": "331885", "note": "two\nlines"},
    }
    run(
        "import",
        tmp_path / "app.db",
        "people",
        tmp_path / "cities.csv",
        "--key-column",
        "name",
        "--value-column",
        "people",
    )
    assert read(tmp_path / "app.db", "people") == {b"Ulm": b"126949", b"Bonn": b"331885"}


def test_json_values_that_are_no_text_are_kept_as_json(run, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"key": 7, "value": {"a": [1]}}\n\n{"key": "b\\\\n", "value": "x"}\n')
    run("import", tmp_path / "app.db", "rows", tmp_path / "rows.jsonl", "--encoding", "plain")
    assert read(tmp_path / "app.db", "rows") == {b"7": b'{"a": [1]}', b"b\\n": b"x"}


def test_batches_are_transactions_and_an_error_says_what_is_in(run, tmp_path):
    rows = [json.dumps({"key": str(number), "value": "x"}) for number in range(25)]
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows, "broken"]) + "\n")
    result = run("import", tmp_path / "app.db", "rows", tmp_path / "rows.jsonl", "--batch", "10", code=3)
    assert "rows.jsonl: line 26: no JSON" in result.stderr and "(20 rows before it are in)" in result.stderr
    assert len(read(tmp_path / "app.db", "rows")) == 20


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('["key"]', "expected a JSON object, found list"),
        ('{"name": 1}', "no column 'key'; there are name; choose by --key-column"),
        ('{"key": "\\\\q", "value": ""}', "backslash"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(run, tmp_path, text, says):
    (tmp_path / "rows.jsonl").write_text(text)
    result = run("import", tmp_path / "app.db", "rows", tmp_path / "rows.jsonl", code=3)
    assert "line 1: " in result.stderr and says in result.stderr


def test_a_csv_row_with_too_many_fields_is_named(run, tmp_path):
    (tmp_path / "rows.csv").write_text("key,value\na,b,c\n")
    assert "line 2: more fields" in run("import", tmp_path / "app.db", "rows", tmp_path / "rows.csv", code=3).stderr


def test_a_key_too_long_is_named_with_its_limit(run, tmp_path):
    (tmp_path / "rows.csv").write_text(f"key,value\n{'k' * 5000},b\n")
    assert "5000 bytes" in run("import", tmp_path / "app.db", "rows", tmp_path / "rows.csv", code=3).stderr


def test_a_format_that_cannot_be_told_is_asked_for(run, path, tmp_path):
    assert "--format csv" in run("export", path, "users", tmp_path / "users.txt", code=2).stderr
    assert "--format csv" in run("import", path, "users", "-", code=2).stderr


def test_a_file_that_is_absent_is_an_error_in_one_sentence(run, path, tmp_path):
    result = run("import", path, "users", tmp_path / "absent.csv", code=3)
    assert result.stderr.startswith("error: ") and "absent.csv" in result.stderr and "Traceback" not in result.stderr


def test_import_prints_json(run, path, tmp_path):
    run("export", path, "users", tmp_path / "users.csv")
    assert run.json("import", tmp_path / "copy.db", "users", tmp_path / "users.csv")["rows"] == 4


def test_import_into_an_lsm_keyspace(run, path, tmp_path):
    source = tmp_path / "rows.csv"
    source.write_text("key,value\n" + "".join(f"{n:04},v{n}\n" for n in range(3000)))
    assert run.json("import", path, "events", source, "--backend", "lsm")["rows"] == 3000
    with enginelib.open(path, read_only=True) as db:
        assert db["events"].backend == "lsm" and len(db["events"]) == 3000
