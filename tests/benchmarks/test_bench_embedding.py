"""The embedding benchmark runs on a small table, and checks what it looks up."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import bench_embedding


def test_every_width_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "bench" / "embedding.json"
    arguments = ["bench_embedding", "--rounds", "1", "--rows", "50", "--json", str(target)]
    monkeypatch.setattr(sys, "argv", arguments)
    bench_embedding.main()
    found = json.loads(target.read_text())
    assert [each["looked_up"] for each in found] == [16, 64] * 4
    assert all(each["us"]["tersor"] > 0 for each in found)
    assert len(capsys.readouterr().out.splitlines()) == 9
