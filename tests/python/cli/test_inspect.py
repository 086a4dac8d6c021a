"""The table of a file."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from command_line import Run

from tersor.cli.main import main


def test_inspect_counts_the_file(small: Path, works: Run) -> None:
    data = json.loads(works("inspect", small, "--json", "--verify").stdout)
    assert data["totals"]["file_bytes"] == small.stat().st_size
    names = {row["name"] for row in data["layers"]}
    assert names == {"fc.weight", "conv.weight", "embedding.weight"}
    density = {row["name"]: row["density"] for row in data["layers"]}
    assert density["fc.weight"] == pytest.approx(0.5, abs=0.01)
    text = works("inspect", small, "--verify").stdout
    assert "fc.weight" in text
    assert text.endswith("all checksums OK\n")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("width", "paper"), [(80, False), (160, True)])
def test_a_terminal_gets_the_columns_that_fit(
    width: int, paper: bool, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    screen = _Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["inspect", str(small)]) == 0
    shown = screen.getvalue()
    assert ("wbits" in shown) is paper
    assert "dense bytes" in shown
    assert "…" not in shown


def test_inspect_opens_any_safetensors_file_and_a_folder_with_one(dense: Path, works: Run) -> None:
    assert "total" in works("inspect", dense).stdout
    assert works("inspect", dense.parent).stdout == works("inspect", dense).stdout
