"""The rows of docs/results.json are what the committed files give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LENETS = "examples.mnist.results"
RESNET = "examples.cifar10.resnet_results"


def rows_of(*networks: str) -> list[dict[str, Any]]:
    rows = json.loads((ROOT / "docs" / "results.json").read_text())
    return [row for row in rows if row["network"] in networks]


def run(module: str, option: str) -> str:
    command = [sys.executable, "-m", module, option]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_row_is_what_its_file_gives() -> None:
    rows = rows_of("lenet-300-100", "lenet-5")
    assert rows
    assert f"{len(rows)} rows are what their files give" in run(LENETS, "--check")


@pytest.mark.slow
@pytest.mark.skipif("TERSOR_DATA" not in os.environ, reason="TERSOR_DATA: no CIFAR-10 at hand")
def test_every_row_of_resnet_is_what_its_file_gives() -> None:
    rows = rows_of("resnet-32")
    assert rows
    assert f"{len(rows)} rows are what their files give" in run(RESNET, "--check")


def test_every_committed_file_has_its_row() -> None:
    rows = json.loads((ROOT / "docs" / "results.json").read_text())
    files = {str(p.relative_to(ROOT)) for p in ROOT.glob("examples/*/compressed/*.safetensors")}
    assert files == {row["file"] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize(("module", "least"), [(LENETS, 12), (RESNET, 5)])
def test_the_documented_table_is_that_of_the_rows(module: str, least: int) -> None:
    documented = (ROOT / "docs" / "results.md").read_text().splitlines()
    lines = run(module, "--table").splitlines()
    assert len(lines) >= least
    assert not [line for line in lines if line not in documented]
