"""The documents: every block runs, every public name and command is there, every link leads somewhere."""

import re
from pathlib import Path

import pytest

import enginelib

ROOT = Path(__file__).resolve().parents[3]
PAGES = ["README.md", "docs/guide.md", "docs/guarantees.md", "docs/twophase.md"]


def blocks(page):
    """Yields (line number, code) of each block of Python on a page."""
    text = (ROOT / page).read_text()
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text[: match.start(1)].count("\n"), match[1]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_runs_in_order(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    try:
        for line, code in blocks(page):
            exec(compile("\n" * line + code, str(ROOT / page), "exec"), names)
    finally:
        for value in names.values():
            if isinstance(value, enginelib.Database):
                value.close()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_project_leads_to_a_file(page):
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        if "://" not in target:
            assert (here / target).exists(), target


def test_every_public_name_is_in_the_guide():
    guide = (ROOT / "docs/guide.md").read_text()
    missing = [name for name in enginelib.__all__ if not re.search(rf"\b{name}\b", guide)]
    assert missing == []


def test_every_public_method_is_in_the_guide():
    guide = (ROOT / "docs/guide.md").read_text()
    inherited = {"get", "keys", "values", "items", "popitem", "clear"}
    missing = [
        f"{cls.__name__}.{name}"
        for cls in (enginelib.Database, enginelib.Keyspace, enginelib.Transaction, enginelib.Savepoint)
        for name in vars(cls)
        if not name.startswith("_") and name not in inherited and not re.search(rf"\b{name}\b", guide)
    ]
    assert missing == []


def test_every_option_is_in_the_guide():
    guide = (ROOT / "docs/guide.md").read_text()
    assert [name for name in enginelib.Options().as_dict() if f"| `{name}` |" not in guide] == []


def test_every_command_is_in_the_guide():
    cli = pytest.importorskip("enginelib.cli.app").cli
    guide = (ROOT / "docs/guide.md").read_text()
    assert [name for name in cli.commands if f"| `enginelib {name}" not in guide] == []


def test_the_tables_of_errors_agree():
    guide = (ROOT / "docs/guide.md").read_text()
    for name in enginelib.errors.__all__:
        (row,) = re.findall(rf"^\| `{name}` \| (\w*) ?\|", guide, re.MULTILINE)
        if name != "Error":
            assert row == ("yes" if getattr(enginelib, name).retryable else "no"), name
