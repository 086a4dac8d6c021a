"""What a user does first with a wheel: run by an interpreter that has the wheel and its extras.

    python tests/install/wheel_smoke.py

It needs no checkout and no compiler: files go into a temporary folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

import tersor


class Net(nn.Module):
    """Two matrices and a filter bank."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.body = nn.Linear(8 * 6 * 6, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.relu(self.body(self.conv(x).flatten(1))))
        return out


def command(*arguments: str) -> str:
    """What the installed command prints; it must succeed."""
    tool = Path(sys.executable).with_name("tersor")
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Compresses, saves, loads and runs a model, from Python and by the command."""
    installed = Path(tersor.__file__)
    assert "site-packages" in str(installed), f"{installed} is not the installed package"
    torch.manual_seed(1)
    x = torch.randn(2, 3, 8, 8)
    model = Net().eval()
    dense = model(x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        tersor.compress_(model, tersor.Config.balanced())
        tersor.save(model, path)
        back = tersor.load_model(path, Net()).eval()
        with torch.inference_mode():
            assert torch.equal(back(x), model(x))
            assert float((back(x) - dense).abs().max()) < 0.1 * float(dense.abs().max())
        assert "body.weight" in command("inspect", str(path), "--verify")
        command("report", str(path), "-o", str(Path(folder) / "page.html"))
        command("decompress", str(path), "-o", str(Path(folder) / "dense.safetensors"))
    print(command("env"))
    print(f"numpy {np.__version__}, torch {torch.__version__}: OK")


if __name__ == "__main__":
    main()
