"""The report of verify, as people and programs read it."""

import json

from enginelib import VerifyReport


def test_a_clean_report_says_ok_and_what_was_looked_at():
    report = VerifyReport([], {"pages": 1234, "log_records": 5})
    assert report.ok
    assert str(report) == "ok: nothing wrong in 1,234 pages, 5 log records"


def test_an_empty_report_is_ok():
    assert str(VerifyReport()) == "ok: nothing wrong in an empty database"


def test_findings_are_listed_a_line_each():
    report = VerifyReport([{"text": "bad sum", "file": "pages.dat", "offset": 8192, "page": None}, {"kind": "order"}], {"pages": 2})
    assert not report.ok
    assert str(report).splitlines() == [
        "2 findings in 2 pages:",
        "  bad sum (file=pages.dat, offset=8192)",
        "  kind=order",
    ]


def test_a_report_becomes_plain_values():
    assert json.loads(json.dumps(VerifyReport([], {"pages": 1}, 0.5).as_dict())) == {
        "ok": True,
        "findings": [],
        "counts": {"pages": 1},
        "seconds": 0.5,
    }
