"""No block of the documents is left out: each kind on each page is run by some test."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.docs.blocks import PAGES, PICTURE, ROOT, every_block

TESTS = [path for folder in ("docs", "install") for path in (ROOT / "tests" / folder).glob("*.py")]
KINDS = {"c", "cmake", "console", "cpp", "python", "sh", PICTURE}
COMMANDS = ("$ ", "cmake ", "import ", "from ", "make ", "pip ", "python ", "tersor ", "#include")


def run_by_tests() -> Iterator[tuple[str, str]]:
    """Page and kind of each call of ``blocks`` in the tests."""
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "blocks":
                page, kind = (ast.literal_eval(argument) for argument in node.args)
                yield page, kind


@pytest.mark.parametrize("page", PAGES)
def test_a_fence_says_what_is_in_it(page: str) -> None:
    found = every_block(page)
    fences = (ROOT / page).read_text("utf-8").count("```")
    assert fences == 2 * len(found), "a fence is not closed, or not seen"
    assert {block.kind for block in found} <= KINDS


@pytest.mark.parametrize("page", PAGES)
def test_no_command_is_passed_off_as_a_picture(page: str) -> None:
    for block in every_block(page):
        if block.kind == PICTURE:
            lines = block.text.splitlines()
            assert not [line for line in lines if line.strip().startswith(COMMANDS)], block


def test_every_kind_on_every_page_is_run() -> None:
    there = {(b.page, b.kind) for page in PAGES for b in every_block(page) if b.kind != PICTURE}
    assert there == set(run_by_tests())
