"""Databases made by released versions stay readable; docs/format-tables.md is enough to read their tables."""

import shutil
import sys
from pathlib import Path

import pytest
from enginelib._native.base.memvfs import MemoryVfs
from enginelib._native.index.compress import libraries
from enginelib._native.index.lsmdoor import WriterDoor

import enginelib

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from make_golden import IMAGES, KINDS, SMALL, expected_lsm
from tablereader import Entry, Range, Table

GOLDEN = sorted(p.stem for p in HERE.glob("v*.zip"))
DOC = (HERE.parents[1] / "docs" / "format-tables.md").read_text()


def unpacked(name, path):
    """The golden database, unless this build cannot read it."""
    library = name.rpartition("lsm-")[2] if "lsm-" in name else None
    if library and not libraries()[library]:
        pytest.skip(f"this build lacks the library {library}, which the tables of {name} need")
    shutil.unpack_archive(HERE / f"{name}.zip", path)
    return path


@pytest.mark.parametrize("name", GOLDEN)
def test_a_database_of_every_released_format_is_read_and_goes_on(name, tmp_path):
    path = unpacked(name, tmp_path / "db")
    expected = KINDS[name.partition("-")[2]][1]()
    for _ in range(2):
        with enginelib.open(path, create=False, **SMALL) as db:
            assert {name: dict(db.keyspace(name, create=False).items()) for name in db.keyspaces()} == expected
            assert db.verify().ok
    with enginelib.open(path, create=False, **SMALL) as db:  # what is old and what is new become one
        for name in db.keyspaces():
            keyspace = db.keyspace(name, create=False)
            keyspace[b"zzz"] = b"new"
            if keyspace.backend == "lsm":
                keyspace.compact()
            assert dict(keyspace.items()) == expected[name] | {b"zzz": b"new"}
        assert db.verify().ok


@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_before_images_of_every_released_format_are_read(tmp_path, memory):
    for name in (each for each in GOLDEN if each.endswith("-before")):
        path = unpacked(name, tmp_path / name)
        with enginelib.open(path, create=False, **SMALL) as db:
            for space, level in (("tree", "full"), ("tables", "full"), ("keys", "key")):
                found = [
                    (o.key, o.value, o.before, o.existed)
                    for change in db.changes(keyspaces=[space], include_before=level, memory=memory)
                    for o in change.operations
                    if o.op in ("put", "delete")
                ]
                assert found == [(key, value, before if level == "full" else None, before is not None) for key, value, before in IMAGES]
                assert db[space].before == level


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_golden_databases_of_the_present_version(kind):
    assert "-".join(filter(None, ("v1", kind))) in GOLDEN


def merged(tables):
    """What the tables of one keyspace show together: of each key the newest version, unless it or its range was deleted later."""
    newest = {}
    for entry in (e for table in tables for e in table.entries):
        if entry.key not in newest or newest[entry.key].ts < entry.ts:
            newest[entry.key] = entry
    ranges = [r for table in tables for r in table.ranges]

    def deleted(entry):
        return any(r.ts > entry.ts and r.start <= entry.key and (r.stop is None or entry.key < r.stop) for r in ranges)

    return {e.key: e.value for e in newest.values() if e.value is not None and not deleted(e)}


@pytest.mark.parametrize("name", [name for name in GOLDEN if "lsm" in name])
def test_its_tables_are_read_by_what_the_document_says(name, tmp_path):
    path = unpacked(name, tmp_path / "db")
    tables = {id: [Table(p.read_bytes(), int(p.stem)) for p in sorted((path / "lsm" / str(id)).iterdir())] for id in range(1, 5)}
    levels, tiered, expiring, loaded = tables.values()
    expected = expected_lsm()
    assert merged(levels) == expected["levels"]
    assert merged(tiered) == {k: v for k, v in expected["tiered"].items() if k != b"in the log"}
    assert merged(expiring) == expected["expiring"]
    assert merged(loaded) == expected["loaded"] | {b"000001": b"loaded 1"}
    # And there is everything in them that the format has.
    every = [table for some in tables.values() for table in some]
    assert len(levels) > (8 if name == "v1-lsm" else 0)
    assert any(table.properties["tombstones"] for table in levels) and any(table.ranges for table in levels)
    assert all(entry.wall for table in expiring for entry in table.entries)
    assert any(len(table.entries) > table.properties["keys"] for table in tiered)  # versions that a snapshot kept
    assert all(table.filter is None for table in tiered) and all(table.filter for table in loaded)
    assert any(stretch.what == "value" for table in every for stretch in table.stretches)
    asked = {"v1-lsm": 0, "v1-lsm-lz4": 1, "v1-lsm-zstd": 2}[name]
    assert {table.properties["compression"] for table in every} == {asked}
    used = {table.data[s.offset + s.size - 9] for table in every for s in table.stretches if s.what == "block"}
    assert asked in used


def test_the_documents_example_is_what_is_written_and_what_the_reader_understands():
    dump = DOC.partition("## Example")[2].partition("```\n")[2].partition("```")[0]
    data = bytes.fromhex("".join(line[4:] for line in dump.splitlines()))
    vfs = MemoryVfs()
    writer = WriterDoor(vfs, b"/7.sst", 7, base_ts=20)
    writer.add(b"user:ada", 25, b"1815", 1_700_000_000_000_000)
    writer.add(b"user:ada", 21, b"born", 1_600_000_000_000_000)
    writer.add(b"user:bob", 23, None)
    writer.add_range(b"user:c", b"user:e", 24)
    writer.finish()
    handle = vfs.py_open(b"/7.sst", 1)
    assert vfs.py_read(handle, vfs.py_size(handle), 0) == data
    table = Table(data, 7)
    assert table.entries == [
        Entry(b"user:ada", 25, b"1815", 1_700_000_000_000_000),
        Entry(b"user:ada", 21, b"born", 1_600_000_000_000_000),
        Entry(b"user:bob", 23, None, 0),
    ]
    assert table.ranges == [Range(b"user:c", b"user:e", 24)]
