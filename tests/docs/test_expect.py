"""docs/expect.md has no number that is not of the results."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import ROOT

SOURCES = ("README.md", "docs/results.md", "docs/methods.md")
TABLES = [
    line
    for line in (ROOT / "docs" / "expect.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and "---" not in line
]


def numbers(text: str) -> set[str]:
    """The numbers of a text, without commas and noughts that do not change them."""
    found = re.findall(r"(?<![\w.-])(\d[\d,]*\.?\d*|\.\d+)(?![\w-])", text)
    return {f"{float(number.replace(',', '')):g}" for number in found}


KNOWN = set().union(*(numbers((ROOT / path).read_text("utf-8")) for path in SOURCES))


@pytest.mark.parametrize("line", TABLES)
def test_numbers_are_those_of_the_results(line: str) -> None:
    assert numbers(line) <= KNOWN


def test_a_number_of_nowhere_is_found() -> None:
    assert not numbers("| 12,345.678× |") <= KNOWN
