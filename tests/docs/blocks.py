"""The code blocks of the documents, for the tests that run them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
)
PICTURE = "text"  # the kind of what nobody can run
_FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: its document, from the root of the checkout.
        line: where it stands there, from 1.
        kind: the language that its fence names.
        text: what is in it.
    """

    page: str
    line: int
    kind: str
    text: str

    def run(self, names: dict[str, object]) -> None:
        """Executes a block of Python with these global names, which it may add to."""
        place = "\n" * self.line + self.text  # so that errors name the line of the page
        exec(compile(place, self.page, "exec"), names)


def every_block(page: str) -> list[Block]:
    """All blocks of a page."""
    text = (ROOT / page).read_text("utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[2], found[3])
        for found in _FENCE.finditer(text)
    ]


def blocks(page: str, kind: str) -> list[Block]:
    """The blocks of a page in a language. A test that calls this runs all of them.

    ``test_every_block.py`` looks for the calls: both arguments stand there as literals.
    """
    return [block for block in every_block(page) if block.kind == kind]


def commands(found: list[Block]) -> Iterator[list[str]]:
    """The words of each command of blocks of shell, without comments."""
    for block in found:
        for line in block.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words
