"""One version, wherever it is written."""

from __future__ import annotations

import re
from pathlib import Path

import tersor

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_the_same_everywhere() -> None:
    python = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    native = re.search(
        r"^project\(tersor VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE
    )
    assert python is not None
    assert native is not None
    assert python[1] == native[1] == tersor.__version__
