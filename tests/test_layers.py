"""Every import points downwards: base < log < page < index < txn < engine < the front door < the command line."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ["base", "log", "page", "index", "txn", "engine"]
FRONT, CLI = len(LAYERS), len(LAYERS) + 1
LINE = re.compile(r"^\s*(?:from\s+(\S+)\s+c?import\s+(.*)|c?import\s+(.+))$")


def rank_of_module(name):
    """The layer's number of a dotted module of enginelib; None for what is not the project's."""
    parts = name.split(".")
    if parts[0] != "enginelib":
        return None
    if parts[1:2] == ["_native"]:
        return LAYERS.index(parts[2]) if len(parts) > 2 else None
    return CLI if parts[1:2] == ["cli"] else FRONT


def rank_of_file(path):
    parts = path.relative_to(ROOT).parts
    if parts[0] == "_native":
        return LAYERS.index(parts[1])
    return CLI if parts[1] in ("cli", "__main__.py", "demo.py", "demo_writer.py") else FRONT


def absolute(path, module):
    """A module name as written in a core file, without leading dots."""
    dots = len(module) - len(module.lstrip("."))
    if not dots:
        return module
    package = ["enginelib", *path.relative_to(ROOT).parts[:-1]]
    return ".".join([*package[: len(package) - dots + 1], module[dots:]]).rstrip(".")


def core_imports(text, path):
    text = re.sub(r"\"\"\".*?\"\"\"", lambda match: "\n" * match.group().count("\n"), text, flags=re.DOTALL)
    for number, line in enumerate(text.splitlines(), 1):
        found = LINE.match(line)
        if not found:
            continue
        if found[1]:
            yield number, absolute(path, found[1])
        else:
            for name in found[3].split(","):
                yield number, name.split(" as ")[0].strip()


def python_imports(text, path):
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module if not node.level else f"{package}.{node.module or ''}".rstrip(".")


def upward(path, imports):
    own = rank_of_file(path)
    where = path.relative_to(ROOT)
    return [
        f"{where}:{number} imports {module}"
        for number, module in imports
        if (rank := rank_of_module(module)) is not None and rank > own
    ]


def test_the_core_imports_downwards_only():
    files = sorted([*ROOT.glob("_native/*/*.pyx"), *ROOT.glob("_native/*/*.pxd"), *ROOT.glob("_native/*/*.py")])
    assert len(files) > 50
    wrong = [line for path in files for line in upward(path, core_imports(path.read_text(), path))]
    assert not wrong, "\n".join(wrong)


def test_the_front_door_does_not_import_the_command_line():
    files = sorted(ROOT.glob("enginelib/**/*.py"))
    assert len(files) > 10
    wrong = [line for path in files for line in upward(path, python_imports(path.read_text(), path))]
    assert not wrong, "\n".join(wrong)


def test_python_reaches_the_core_by_its_door_alone():
    """`engine/door.py` is the one way in; `errors.py` hands its classes to the layer that raises them."""
    allowed = {"enginelib._native.engine.door"}
    wrong = [
        f"{path.relative_to(ROOT)}:{number} imports {module}"
        for path in sorted(ROOT.glob("enginelib/**/*.py"))
        for number, module in python_imports(path.read_text(), path)
        if module.startswith("enginelib._native") and module not in allowed
        and (path.name, module) != ("errors.py", "enginelib._native.base.status")
        and rank_of_file(path) != CLI
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("place", "line", "found"),
    [
        ("_native/page/pool.pyx", "from ..index.btree cimport BTree", True),
        ("_native/page/pool.pyx", "    from ..engine import x", True),
        ("_native/page/pool.pyx", "from ..base.latch cimport Latch", False),
        ("_native/page/pool.pyx", "cimport enginelib._native.txn.clock", True),
        ("_native/page/pool.pyx", "from enginelib.errors import Error", True),
        ("_native/page/pool.pyx", "from .layout cimport PAGE", False),
        ("_native/page/pool.pyx", "from libc.stdint cimport uint64_t", False),
    ],
)
def test_the_check_itself_sees_an_upward_import(place, line, found):
    path = ROOT / place
    assert bool(upward(path, core_imports(line, path))) is found
