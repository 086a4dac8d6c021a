"""What docs/quickstart.md shows is run, block by block in one folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import tersor
from tersor.cli.main import main
from tersor.io import container
from tersor.io.container import Tensor

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "quickstart.md").read_text("utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^tersor .*$", PAGE, re.MULTILINE)


class MyNetwork(nn.Module):
    """Stands for the reader's network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 256)
        self.head = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.body(x)))
        return out


def test_python_runs_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = transformers.BertConfig(**shape, num_hidden_layers=2, vocab_size=300)
    transformers.BertModel(config).save_pretrained("dense")
    names: dict[str, Any] = {"MyNetwork": MyNetwork, "folder": "dense", "x": torch.randn(1, 64)}
    names["loader"] = list(torch.randn(4, 32, 64))  # four batches

    def run(block: int) -> None:
        exec(compile(PYTHON[block], f"quickstart block {block}", "exec"), names)

    names["model"] = MyNetwork().eval()
    dense = names["model"](names["x"])
    run(0)
    assert isinstance(names["model"].body, tersor.nn.CompressedLinear)
    run(1)
    assert torch.allclose(names["y"], dense, atol=0.05)
    names["model"] = MyNetwork().eval()
    run(2)
    assert tersor.report(names["model"]).ratio > 8
    run(3)
    assert len(PYTHON) == 4
    back = transformers.AutoModel.from_pretrained("small")
    assert tersor.report(back).ratio > 4


def test_commands_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    weight = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    container.write_file("model.safetensors", {"fc.weight": Tensor("F32", (64, 64), weight)})
    assert len(COMMANDS) == 4
    for command in COMMANDS:
        arguments = shlex.split(command)[1:]
        assert main(arguments) == int(arguments[0] == "diff"), capsys.readouterr().err
    assert Path("report.html").stat().st_size > 5000
