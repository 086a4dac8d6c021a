"""Data-parallel training: masks and codebooks are the same on every rank."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pieces", "compressor"])
def test_two_ranks_end_with_the_same_masks_and_codebooks(way: str, tmp_path: Path) -> None:
    worker = Path(__file__).with_name("ddp_worker.py")
    # What torchrun sets; its own agent, stores and threads are not what is tested here.
    ranks = [
        subprocess.Popen(
            [sys.executable, worker, tmp_path, way],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert not torch.equal(first["data"], second["data"])
    for kind in first.keys() - {"data"}:
        assert list(first[kind]) == ["0.weight", "2.weight"]
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), f"{kind} of {name}"
    kept = sum(int(m.sum()) for m in first["masks"].values())
    assert kept == round(0.2 * 720)
    assert all(len(w.unique()) <= 8 for w in first["weights"].values())
