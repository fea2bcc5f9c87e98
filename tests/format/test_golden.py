"""Databases made by released versions stay readable."""

import shutil
import sys
from pathlib import Path

import pytest

import enginelib

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from make_golden import SMALL, expected

VERSIONS = sorted(p.stem for p in HERE.glob("v*.zip"))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_of_every_released_format_is_read_and_goes_on(version, tmp_path):
    path = tmp_path / "db"
    shutil.unpack_archive(HERE / f"{version}.zip", path)
    for _ in range(2):
        with enginelib.open(path, create=False, **SMALL) as db:
            assert {name: dict(db.keyspace(name, create=False).items()) for name in db.keyspaces()} == expected()
            assert db.verify().ok


def test_there_is_a_golden_database_of_the_present_version():
    assert "v1" in VERSIONS
