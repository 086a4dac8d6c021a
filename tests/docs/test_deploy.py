"""What docs/deploy.md shows in Python is run; its C++ and C are built in tests/install."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tersor
from tests.docs import stand_ins
from tests.docs.blocks import blocks

PYTHON = blocks("docs/deploy.md", "python")


def test_python_runs_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = stand_ins.names()
    dense = names["model"](names["x"])
    tersor.compress_(names["model"], tersor.Config.balanced())
    tersor.save(names["model"], "small.safetensors")
    assert len(PYTHON) == 2
    PYTHON[0].run(names)
    assert torch.allclose(names["y"], dense, atol=0.05)
    PYTHON[1].run(names)
    assert isinstance(names["fast"].body, tersor.nn.CompressedLinear)
