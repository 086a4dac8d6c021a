"""Training under torchrun: masks and codebooks are the same on every rank."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch


def test_two_ranks_end_with_the_same_masks_and_codebooks(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("ddp_worker.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, worker, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert not torch.equal(first["data"], second["data"])
    for kind in ("weights", "masks", "codes", "codebooks"):
        assert list(first[kind]) == ["0.weight", "2.weight"]
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), f"{kind} of {name}"
    kept = sum(int(m.sum()) for m in first["masks"].values())
    assert kept == round(0.2 * 720)
    assert all(len(w.unique()) <= 8 for w in first["weights"].values())
