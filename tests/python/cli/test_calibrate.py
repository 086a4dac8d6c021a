"""Compressing with calibration inputs from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Fails, Run
from safetensors.torch import load_file, save_file
from torch import nn

import tersor

NETWORK = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 8)
    def forward(self, x, scale=None):
        x = x if scale is None else x * scale
        return self.second(self.first(x).relu())

def build():
    return Network()

number = int
"""


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.first(x).relu())
        return y


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights, in the current folder, where a module of the network is too."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small_network.py").write_text(NETWORK)
    save_file(Network().state_dict(), tmp_path / "dense.safetensors")
    return tmp_path / "dense.safetensors"


def inputs() -> np.ndarray:
    g = torch.Generator().manual_seed(1)
    mixed: np.ndarray = (
        torch.randn(128, 16, generator=g) @ torch.randn(16, 64, generator=g)
    ).numpy()
    return mixed


@pytest.mark.parametrize("names", [("x",), ("x", "scale")])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_errors_are_less_than_without_inputs(
    network: Path, suffix: str, names: tuple[str, ...], works: Run
) -> None:
    arrays = {name: inputs() if name == "x" else np.ones((128, 1), np.float32) for name in names}
    path = network.with_name(f"inputs{suffix}")
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.from_numpy(a) for name, a in arrays.items()}, path)
    x = torch.from_numpy(inputs())
    dense = Network()
    dense.load_state_dict(load_file(network))
    errors = []
    for options in ((), ("--calibration", path, "--model", "small_network:build")):
        out = network.with_name(f"out{len(options)}.safetensors")
        works("compress", network, "-o", out, "--target-ratio", "8", *options)
        made = tersor.load_model(out, Network())
        with torch.no_grad():
            errors.append(float((made(x) - dense(x)).square().mean()))
    assert errors[1] < 0.7 * errors[0]


def test_what_is_wrong_is_told_in_a_line(network: Path, fails: Fails) -> None:
    np.savez(network.with_name("inputs.npz"), x=inputs())
    np.savez(network.with_name("odd.npz"), x=inputs(), y=inputs()[:3])
    given = ("compress", network, "-o", network.with_name("out.safetensors"))
    own = (*given, "--calibration", network.with_name("inputs.npz"))
    assert "--model module:function" in fails(*own)
    assert "not of the form" in fails(*own, "--model", "small_network")
    assert "nowhere" in fails(*own, "--model", "nowhere:build")
    assert "no attribute 'missing'" in fails(*own, "--model", "small_network:missing")
    assert "returns int" in fails(*own, "--model", "small_network:number")
    assert "as many samples" in fails(
        *given, "--calibration", network.with_name("odd.npz"), "--model", "small_network:build"
    )
    assert "for --calibration" in fails(*given, "--model", "small_network:build")


def test_options_are_followed_or_refused(network: Path, works: Run, fails: Fails) -> None:
    np.savez(network.with_name("inputs.npz"), x=inputs())
    arguments = ["compress", network, "-o", network.with_name("small.safetensors")]
    arguments += ["--calibration", "inputs.npz", "--model", "small_network:build"]
    for option in (["--only", "first"], ["--min-size", 9], ["--threads", 1], ["--plain"]):
        assert "are not for --calibration" in fails(*arguments, *option)
    works(*arguments, "--target-bpw", 4)
    size = network.with_name("small.safetensors").stat().st_size
    weights = sum(p.numel() for p in Network().parameters())
    assert 0.8 * 4 / 8 < size / weights <= 4 / 8
