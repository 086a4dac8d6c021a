"""The rows of docs/results.json are what the committed files give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "mnist" / "results.py"


def test_every_row_is_what_its_file_gives() -> None:
    rows = json.loads((ROOT / "docs" / "results.json").read_text())
    done = subprocess.run(
        [sys.executable, SCRIPT, "--check"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rows)} rows are what their files give" in done.stdout
    assert len(rows) > 0


def test_every_committed_file_has_its_row() -> None:
    rows = json.loads((ROOT / "docs" / "results.json").read_text())
    files = {str(p.relative_to(ROOT)) for p in SCRIPT.parent.glob("compressed/*.safetensors")}
    assert files == {row["file"] for row in rows}


def test_the_documented_table_is_that_of_the_rows() -> None:
    documented = (ROOT / "docs" / "results.md").read_text().splitlines()
    done = subprocess.run(
        [sys.executable, SCRIPT, "--table"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) >= 12
    assert not [line for line in lines if line not in documented]
