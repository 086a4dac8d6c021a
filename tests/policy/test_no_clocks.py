"""No test measures time or waits: what passes on an idle machine has to pass on a busy one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
SOURCES = sorted(TESTS.rglob("*.py"))
LIMITS = {"timeout", "deadline"}  # in seconds
CLOCKS = {"sleep", "perf_counter", "perf_counter_ns", "monotonic", "process_time"}


def clocks(tree: ast.Module) -> Iterator[int]:
    """Lines that read a clock, sleep, or give something a limit in seconds."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name in CLOCKS:
                yield node.lineno
            case ast.ImportFrom(names=names) if CLOCKS & {alias.name for alias in names}:
                yield node.lineno
            case ast.keyword(arg=name, value=value) if name in LIMITS:
                if ast.unparse(value) != "None":
                    yield value.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_depends_on_a_clock(path: Path) -> None:
    assert list(clocks(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "line",
    [
        "time.sleep(1)",
        "from time import perf_counter",
        "subprocess.run(command, timeout=300)",
        "settings(deadline=200)",
    ],
)
def test_clocks_are_found(line: str) -> None:
    assert list(clocks(ast.parse(line))) == [1]
