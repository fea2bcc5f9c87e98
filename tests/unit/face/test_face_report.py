"""The report of verify, as people and programs read it."""

import json

from enginelib import VerifyReport

COUNTS = {
    "keyspaces": {"a": {"keys": 1200, "pages": [30, 2]}, "b": {"keys": 34, "pages": [1]}},
    "log_records": 5,
}


def test_a_clean_report_says_ok_and_what_was_looked_at():
    report = VerifyReport([], COUNTS)
    assert report.ok
    assert str(report) == "ok: nothing wrong in 2 trees, 1,234 keys, 33 pages, 5 log records"


def test_an_empty_report_is_ok():
    assert str(VerifyReport()) == "ok: nothing wrong in 0 trees, 0 keys, 0 pages, 0 log records"


def test_findings_are_listed_a_line_each():
    report = VerifyReport([{"what": "bad sum", "file": "pages.dat", "offset": 8192, "page": None}, {"what": "order"}])
    assert not report.ok
    assert str(report).splitlines() == [
        "2 findings in 0 trees, 0 keys, 0 pages, 0 log records:",
        "  bad sum (file=pages.dat, offset=8192)",
        "  order",
    ]


def test_a_report_becomes_plain_values():
    assert json.loads(json.dumps(VerifyReport([], {"pages": 1}, 0.5).as_dict())) == {
        "ok": True,
        "findings": [],
        "counts": {"pages": 1},
        "seconds": 0.5,
    }
