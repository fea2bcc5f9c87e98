"""docs/format-log.md says what the code does: its table of records and its worked example are read from the page."""
import re
from pathlib import Path

from enginelib._native.base.faultvfs import FaultVfs
from enginelib._native.log.logdoor import Log, read_log
from enginelib._native.log.record import encode, table

PAGE = (Path(__file__).parents[3] / "docs" / "format-log.md").read_text()


def test_the_table_of_records_is_the_codes():
    section = PAGE.split("## Record")[1].split("##")[0]
    rows = re.findall(r"^\| (\d+) \| (\w+) \| ([\w ]+) \|$", section, re.M)
    assert [(name, int(code), fields.split()) for code, name, fields in rows] == table()


def test_the_example_is_what_is_written_and_what_is_read():
    example = b"".join(bytes.fromhex(m) for m in re.findall(r"^    00[0-9a-f]0  ((?:[0-9a-f]{2} ?){16})$", PAGE, re.M))
    assert len(example) == 144
    vfs = FaultVfs()
    log = Log(vfs, "/log", segment_size=4096, first_lsn=0x1000, names=encode("name", keyspace=1, key=b"users", value=b"{}"))
    log.put(7, 1, b"ada", b"1815")
    log.append("commit", txn=7, a=3, b=1700000000000000, flush=2)
    path = "/log/0000000000001000.wal"
    assert vfs.files()[path][:144] == example

    golden = FaultVfs()
    golden.put_file(path, example.ljust(4096, b"\0"))
    found = read_log(golden, "/log", segment_size=4096)
    assert found["records"] == [
        (0x1060, "name", None, 1, None, None, b"users", b"{}"),
        (0x106B, "put", 7, 1, None, None, b"ada", b"1815"),
        (0x1077, "commit", 7, None, 3, 1700000000000000, None, None),
    ]
    assert found["end_lsn"] == 0x1082 and found["highest_lsn"] == 0x2000
