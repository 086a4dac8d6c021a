"""The page that the command writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Fails, Run

pytest.importorskip("jinja2")


def test_the_page_has_errors_and_times_when_asked(
    dense: Path, small: Path, tmp_path: Path, works: Run, fails: Fails
) -> None:
    page = tmp_path / "page.html"
    works("report", small, "-o", page)
    plain = page.read_text()
    assert f"<b>{small.stat().st_size:,}</b>" in plain
    assert "error %" not in plain
    assert "dense ms" not in plain
    assert "exists already" in fails("report", small, "-o", page)
    pytest.importorskip("torch")
    works("report", small, "-o", page, "--force", "--against", dense, "--profile")
    full = page.read_text()
    assert "error %" in full
    assert "dense ms" in full
