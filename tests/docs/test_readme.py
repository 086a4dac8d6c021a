"""What the README shows is run: its Python as it stands, its commands through the command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
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

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].strip()
    for kind, text in BLOCKS
    if not kind
    for line in text.splitlines()
    if line.startswith("tersor ")
]


class MyNetwork(nn.Module):
    """Stands for the reader's network."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
        self.body = nn.Linear(4 * 14 * 14, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.body(self.encoder(x))))
        return out


def accuracy_in_percent(model: nn.Module) -> float:
    """Stands for the reader's measure: how often the first class is not chosen."""
    torch.manual_seed(2)
    with torch.inference_mode():
        chosen = model(torch.randn(64, 1, 16, 16)).argmax(1)
    return 100.0 * float((chosen != 0).float().mean())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Stands for the reader's loop."""
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 1, 16, 16)
        nn.functional.mse_loss(model(x), x.mean((1, 2, 3))[:, None].expand(8, 10)).backward()
        optimizer.step()


@pytest.fixture(name="names")
def _names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the text around the blocks speaks of, anew for each of them."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    model = MyNetwork().eval()
    return {
        "MyNetwork": MyNetwork,
        "accuracy_in_percent": accuracy_in_percent,
        "inputs": torch.randn(128, 1, 16, 16),
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "train": train,
        "tersor": tersor,
        "Config": tersor.Config,
        "x": torch.randn(1, 1, 16, 16),
    }


def _after_saving(names: dict[str, Any]) -> None:
    assert isinstance(names["model"].body, tersor.nn.CompressedLinear)
    assert names["y"].shape == (1, 10)


def _after_estimating(names: dict[str, Any]) -> None:
    assert isinstance(names["model"].body, nn.Linear)  # nothing was done yet
    assert "head" not in tersor.estimate(names["model"], names["config"]).layers


def _after_targets(names: dict[str, Any]) -> None:
    assert tersor.report(names["model"]).ratio > 12


def _after_calibrating(names: dict[str, Any]) -> None:
    assert tersor.report(names["model"]).ratio > 15


def _after_loading_again(names: dict[str, Any]) -> None:
    assert Path("small/config.json").exists()
    assert tersor.report(names["model"]).ratio > 7


def _after_training(names: dict[str, Any]) -> None:
    layers = tersor.load("small.safetensors").layers
    kept = sum(int(layer.csr.codes.astype(bool).sum()) for layer in layers.values())
    weights = 4 * 9 + 64 * 4 * 14 * 14 + 10 * 64
    assert kept == round(0.1 * weights)
    assert all(layer.values.size <= 15 for layer in layers.values())


CHECKS: list[Callable[[dict[str, Any]], None]] = [
    _after_saving,
    _after_estimating,
    _after_targets,
    _after_calibrating,
    _after_loading_again,
    _after_training,
]


@pytest.mark.parametrize("block", range(len(PYTHON)))
def test_python_runs_as_it_stands(block: int, names: dict[str, Any]) -> None:
    assert len(PYTHON) == len(CHECKS), "a block was added: say what must hold after it"
    if "AutoModel" in PYTHON[block]:
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        config = transformers.BertConfig(**shape, num_hidden_layers=2, vocab_size=300)
        transformers.BertModel(config).save_pretrained("dense")
        names["folder"] = "dense"
    exec(compile(PYTHON[block], f"README block {block}", "exec"), names)
    CHECKS[block](names)


def _write_models(folder: Path) -> None:
    """The files that the commands name."""
    generator = np.random.default_rng(1)

    def tensors(rows: int) -> Iterator[tuple[str, Tensor]]:
        for name in ("body", "head"):
            weight = generator.normal(size=(rows, 64)).astype(np.float32)
            yield f"{name}.weight", Tensor("F32", weight.shape, weight)

    container.write_file(folder / "model.safetensors", dict(tensors(256)), plain=True)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    container.write_file(checkpoint / "model.safetensors", dict(tensors(64)), plain=True)


def test_commands_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_models(tmp_path)
    assert len(COMMANDS) >= 9
    seen = set()
    for command in COMMANDS:
        name, *arguments = shlex.split(command)
        assert name == "tersor"
        if "-o" in arguments and arguments[arguments.index("-o") + 1] in seen:
            arguments.append("--force")  # the same file once more
        seen.update(arguments[arguments.index("-o") + 1 :][:1] if "-o" in arguments else ())
        status = main(arguments)
        captured = capsys.readouterr()
        # diff: as of its namesake, 1 says that there is a difference.
        assert status == int(arguments[0] == "diff"), (command, captured.err)
        assert captured.err == "" or arguments[0] == "compress", (command, captured.err)


def test_every_command_has_a_help_that_fits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in {shlex.split(line)[1] for line in COMMANDS}:
        assert f" {command} " in shown
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
