"""Nothing in the checkout changes where Python looks for modules: paths are settings of tools."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "examples", "python", "tests")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
CHANGES = {"append", "extend", "insert"}


def path_changes(tree: ast.Module) -> Iterator[int]:
    """Lines that change ``sys.path``, by themselves or through pytest."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            by_method = node.attr in CHANGES and ast.unparse(node.value) == "sys.path"
            if by_method or node.attr == "syspath_prepend":
                yield node.lineno
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(ast.unparse(target).startswith("sys.path") for target in targets):
                yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_changes_the_import_path(path: Path) -> None:
    assert list(path_changes(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "line",
    [
        "sys.path.insert(0, 'x')",
        "sys.path += ['x']",
        "sys.path[:0] = ['x']",
        "monkeypatch.syspath_prepend('x')",
    ],
)
def test_changes_are_found(line: str) -> None:
    assert list(path_changes(ast.parse(line))) == [1]
