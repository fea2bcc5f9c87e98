"""The drill, in short: `tools/drill.py` runs the whole table of kills."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import _postgres
import drill

needs_postgres = pytest.mark.skipif(bool(_postgres.missing()), reason=_postgres.missing() or "nothing is missing")


@pytest.fixture(scope="module")
def parties():
    with drill.Drill() as parties:
        yield parties


QUICK = [  # (first kill, whether PostgreSQL refuses, second kill)
    (drill.NOBODY, False, drill.NOBODY),
    (drill.NOBODY, True, drill.NOBODY),
    (drill.Kill("C", "decide"), False, drill.Kill("C", "roll back B")),
    (drill.Kill("C", "decided"), False, drill.Kill("P", "commit P")),
    (drill.Kill("C", "commit B"), False, drill.Kill("A", "recover A")),
    (drill.Kill("C", "forget"), False, drill.Kill("C", "forget")),
    (drill.Kill("A", "after prepare"), False, drill.Kill("A", "before rollback")),
    (drill.Kill("B", "after commit"), False, drill.Kill("B", "recover B")),
    (drill.Kill("A", "before commit"), False, drill.Kill("A", "after commit")),
    (drill.Kill("P", "prepare B"), False, drill.Kill("C", "recover P")),
    (drill.Kill("P", "decide"), False, drill.Kill("P", "recover P")),
    (drill.Kill("P", "commit P"), False, drill.Kill("C", "commit P")),
    (drill.Kill("B", "roll back B"), True, drill.Kill("P", "roll back B")),
]


@needs_postgres
@pytest.mark.parametrize(("kill", "refused", "second"), QUICK, ids=lambda value: str(value).replace(" ", "-"))
def test_one_outcome_everywhere(parties, kill, refused, second):
    parties.case(drill.First(kill, refused), second)


@needs_postgres
def test_a_party_that_ends_otherwise_is_found_out(parties):
    """What makes the test above worth something."""
    first = drill.First(drill.Kill("C", "decided"), False)
    parties.number += 1
    parties.run(first.kill, parties.number)
    prepared, _ = parties.ask("B", "state")
    assert len(prepared) == 1
    parties.ask("B", "rollback", prepared[0])
    with pytest.raises(drill.Finding, match="committed everywhere"):
        parties.run(drill.NOBODY, None)
        parties.look(first)


@needs_postgres
def test_a_kill_at_each_named_step_takes_place():
    """Every step that the table names exists: a coordinator that is killed at it does not come to its end."""
    with drill.Drill() as parties:
        for first in drill.firsts():
            if first.kill.victim == "C":
                parties.number += 1
                told, _ = parties.run(first.kill, parties.number, first.refused)
                assert told is None, first
                parties.revive()
                assert parties.run(drill.NOBODY, None)[0] == (True, True, 0), first
                parties.look(first)


def test_the_table_of_the_document_is_the_drills():
    text = (ROOT / "docs" / "twophase.md").read_text()
    assert drill.table() in text
    cases = drill.firsts()
    assert len(cases) == len(set(cases)) and f"{len(cases)} first kills" in text


def test_the_second_kills_are_those_of_the_steps_that_come():
    kills = drill.seconds(["recover A", "commit A", "roll back B", "forget", "forget"])
    assert len(kills) == 4 * 4 + 4 == len(set(kills))
    assert drill.Kill("A", "after commit") in kills and drill.Kill("B", "before rollback") in kills


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(_postgres, "programs", lambda: None)
    assert re.search(r"the package postgresql\b", _postgres.missing())
    assert drill.main(["--count", "1"]) == 2
