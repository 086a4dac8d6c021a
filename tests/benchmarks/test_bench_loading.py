"""The loading benchmark runs, on layers of a few thousand weights, and checks what it loads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import tersor
from benchmarks import bench_loading

TINY = [("conv1", (32, 3, 3, 3), 0.8, 31), ("fc6", (64, 96), 0.1, 15), ("fc7", (10, 64), 0.3, 15)]


def test_every_way_of_loading_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "bench" / "loading.json"
    monkeypatch.setattr(bench_loading, "ALEXNET", TINY)
    monkeypatch.setattr(sys, "argv", ["bench_loading", "--rounds", "2", "--json", str(target)])
    bench_loading.main()
    found = json.loads(target.read_text())
    assert found["rounds"] == 2
    assert 0 < found["file_bytes"]["tersor"] < found["file_bytes"]["torch"]
    assert len(found["ms"]) == 4
    printed = capsys.readouterr().out
    for name, ms in found["ms"].items():
        assert ms.keys() == {"min", "median"}
        assert name in printed


def test_what_is_loaded_wrongly_is_not_measured(tmp_path: Path) -> None:
    small, dense = tmp_path / "m.safetensors", tmp_path / "m.pt"
    bench_loading.write_files(TINY, small, dense)
    state = bench_loading.read_state(dense)
    loaded = tersor.load_model(small, bench_loading.on_meta(TINY))
    bench_loading.verify(loaded, state)
    with pytest.raises(AssertionError, match="fc6: outputs are"):
        bench_loading.verify(loaded, {**state, "fc6.weight": 1.01 * state["fc6.weight"]})
    with pytest.raises(AssertionError, match="conv1 runs dense"):
        bench_loading.verify(bench_loading.make_model(TINY), state)
    assert torch.equal(loaded["fc7"].bias, state["fc7.bias"])
